"""TCP on the wire: the hot path of building a segment against its readable twin, and option parsing."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.wire.tcp import (  # fmt: skip
    ACK,
    MASK,
    RST,
    SYN,
    Wire,
    build,
    parse_options,
    sack_option,
    sum16,
    syn_options,
    unwrap,
)
from tests.slirp.netsim import GUEST_IP, PEER_IP, FakeLink, FakePath, Segment, ones

IP6 = bytes.fromhex("20010db8" + "0" * 23 + "7"), bytes.fromhex("fec0" + "0" * 27 + "f")
u16, unwrapped = st.integers(0, 65535), st.integers(0, 1 << 40)


@given(
    st.booleans(),
    st.sampled_from((0, 1, 7)),
    u16,
    u16,
    unwrapped,
    unwrapped,
    st.integers(0, 63),
    u16,
    st.binary(),
)
def test_segment_equals_build(
    six: bool, features: int, sport: int, dport: int, seq: int, ack: int, flags: int, window: int, data: bytes
) -> None:
    def path() -> FakePath:
        return FakePath(*IP6) if six else FakePath(PEER_IP, GUEST_IP)

    link = FakeLink()
    link.features = features
    assert Wire(link, path(), sport, dport).segment(seq, ack, flags, window, memoryview(data))
    assert link.out == [build(path(), features, sport << 16 | dport, seq, ack, flags, window, b"", data)]
    seg = Segment(*link.out[0])  # checks every checksum
    assert (seg.sport, seg.dport, seg.seq, seg.ack) == (sport, dport, seq & MASK, ack & MASK)
    assert (seg.flags, seg.window, seg.data) == (flags, window, data)


@pytest.mark.parametrize("six", [False, True])
def test_super_frame_header(six: bool) -> None:
    path = FakePath(*IP6) if six else FakePath(PEER_IP, GUEST_IP)
    link = FakeLink()
    link.features = 7
    wire = Wire(link, path, 1, 2)
    wire.set_mss(1000)
    wire.segment(1, 2, ACK, 3, bytes(1000))
    wire.segment(1, 2, ACK, 3, bytes(1001))
    start = 54 if six else 34
    assert [struct.unpack("<BBHHHH", vnet) for _, vnet in link.out] == [
        (1, 0, start + 20, 0, start, 16),
        (1, 4 if six else 1, start + 20, 1000, start, 16),
    ]


@given(st.binary(max_size=300))
def test_sum16(data: bytes) -> None:
    assert sum16(data) % 65535 == ones(data) % 65535


@given(st.integers(0, MASK), st.integers(0, 1 << 40))
def test_unwrap(wire: int, near: int) -> None:
    value = unwrap(wire, near)
    assert value & MASK == wire and -(1 << 31) <= value - near < 1 << 31


@given(st.integers(1, 65535), st.integers(-1, 14), st.booleans())
def test_syn_options_round_trip(mss: int, scale: int, sack_ok: bool) -> None:
    raw = syn_options(mss, scale, sack_ok)
    found = parse_options(raw, 0, len(raw))
    assert len(raw) % 4 == 0
    assert (found.mss, found.scale, found.sack_ok, found.sacks) == (mss, scale, sack_ok, [])


@given(st.lists(st.tuples(unwrapped, unwrapped), max_size=8))
def test_sack_round_trip(blocks: list[tuple[int, int]]) -> None:
    raw = sack_option(blocks)
    assert len(raw) % 4 == 0
    if blocks:
        assert parse_options(raw, 0, len(raw)).sacks == [(a & MASK, b & MASK) for a, b in blocks[:4]]


@given(st.binary(max_size=60), st.integers(0, 20))
def test_any_options_are_read_without_error_and_within_bounds(raw: bytes, pos: int) -> None:
    whole = parse_options(raw, pos, len(raw))
    assert all(0 <= a <= MASK and 0 <= b <= MASK for a, b in whole.sacks)
    padded = parse_options(raw + b"\x02\x04\x12\x34", pos, max(pos, len(raw)))
    assert (padded.mss, padded.scale, padded.sacks) == (whole.mss, whole.scale, whole.sacks)


def test_flags_are_those_of_the_rfc() -> None:
    assert (SYN, RST, ACK) == (2, 4, 16)
