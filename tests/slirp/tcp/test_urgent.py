"""Urgent data: the mark goes along, the byte stays in its place."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.slirp.netsim import ACK, MS, SECOND, Segment
from tests.slirp.tcp.test_nat import Rig, tcp_close_wait, tcp_established

URG = 32


def urgent(rig: Rig, data: bytes, pointer: int, **more: int) -> list[Segment]:
    """The guest's segment with an urgent pointer."""
    return rig.give(ACK | URG, data=data, urgent=pointer, **more)


def test_from_the_guest() -> None:
    rig = tcp_established()
    urgent(rig, b"abc!def", 4)
    assert rig.sock.received == b"abc!def" and rig.sock.marked == b"!"
    rig.give(ACK, data=b"more")
    assert rig.sock.received == b"abc!defmore" and rig.sock.marked == b"!"


def test_the_mark_may_lie_in_a_later_segment() -> None:
    rig = tcp_established()
    urgent(rig, b"abc", 6)
    assert rig.sock.marked == b""
    urgent(rig, b"de!f", 3)
    assert rig.sock.received == b"abcde!f" and rig.sock.marked == b"!"


@pytest.mark.parametrize("pointer", [0, 65535])
def test_a_pointer_to_nothing(pointer: int) -> None:
    rig = tcp_established()
    urgent(rig, b"abc", pointer)
    assert rig.sock.received == b"abc" and rig.sock.marked == b""


def test_a_mark_that_is_behind_counts_no_more() -> None:
    rig = tcp_established()
    urgent(rig, b"a!", 2)
    urgent(rig, b"b!", 2, seq=rig.seq - 2)  # the same again
    assert rig.sock.marked == b"!" and rig.sock.received == b"a!"


def test_a_full_socket_keeps_the_mark() -> None:
    rig = tcp_established()
    rig.host.send_buffer, rig.host.drain_rate = 2, 1
    urgent(rig, b"abcde!fgh", 6)
    rig.give(ACK, data=b"xyz")
    rig.settle(20 * SECOND)
    assert rig.sock.received == b"abcde!fghxyz" and rig.sock.marked == b"!"
    assert rig.buffers.used == 0


def test_in_a_batch() -> None:
    rig = tcp_established()
    rig.tcp.batch = 1
    rig.give(ACK, data=b"a")
    rig.give(ACK, data=b"b")
    urgent(rig, b"c!d", 2)
    rig.give(ACK, data=b"e")
    rig.tcp.settle(rig.sim.now)
    rig.settle()
    assert rig.sock.received == b"abc!de" and rig.sock.marked == b"!"


def marks(rig: Rig, segments: list[Segment], first: int) -> set[int]:
    """Offsets in the stream behind the bytes that urgent pointers name."""
    return {(seg.seq + seg.urgent - first) & 0xFFFFFFFF for seg in segments if seg.flags & URG}


@pytest.mark.parametrize("features", [0, 3])
def test_from_the_host(features: int) -> None:
    rig = tcp_established(window=65535)
    rig.link.features = features
    first = rig.ack
    rig.sock.say_urgent(bytes(4000) + b"!")
    rig.sock.say(bytes(3000))
    out = rig.settle()
    data = b"".join(seg.data for seg in out)
    assert data == bytes(4000) + b"!" + bytes(3000)
    assert marks(rig, out, first) == {4001}
    rig.give(ACK)
    rig.sock.say(b"after")
    assert all(not seg.flags & URG for seg in rig.settle())


def test_a_repetition_keeps_the_pointer() -> None:
    rig = tcp_established()
    first = rig.ack
    rig.sock.say_urgent(b"abc!")
    rig.settle()
    (again,) = rig.advance(2 * SECOND)[:1]
    assert again.data == b"abc!" or again.data == b"abc"
    assert marks(rig, [again], first) == {4}


def test_after_the_guests_end() -> None:
    rig = tcp_close_wait()
    first = rig.ack
    rig.sock.say_urgent(b"bye!")
    out = rig.settle()
    assert b"".join(seg.data for seg in out) == b"bye!" and marks(rig, out, first) == {4}


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.booleans()), max_size=12),
    st.sampled_from([1, 7, 1 << 40]),
)
def test_any_stream_stays_whole(pieces: list[tuple[bytes, bool]], room: int) -> None:
    rig = tcp_established()
    rig.host.send_buffer = room
    rig.host.drain_rate = 1 if room < 100 else 0
    for data, mark in pieces:
        if mark:
            urgent(rig, data, len(data))
        else:
            rig.give(ACK, data=data)
    rig.settle(600 * SECOND)
    assert rig.sock.received == b"".join(data for data, _ in pieces)
    assert rig.buffers.used == 0
    if room == 1 << 40:
        assert rig.sock.marked == b"".join(data[-1:] for data, mark in pieces if mark)
    rig.advance(100 * MS)


def test_struct() -> None:
    """The pointer is where the header has it."""
    rig = tcp_established()
    rig.sock.say_urgent(b"!")
    (seg,) = [seg for seg in rig.settle() if seg.flags & URG]
    assert struct.pack("!H", seg.urgent) == b"\0\1"
