"""Datagrams in a row: the host sees what it would see one by one, in the same order, in fewer calls."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.contracts.host import NO_FRAGMENT
from slirp.udp import train
from slirp.wire.ipv4 import GSO_UDP_L4
from tests.slirp.fakes import FakeUdp, Net, ping, udp
from tests.slirp.fakes6 import REMOTE, Net6, udp6

OWED = struct.pack("<BBHHHH", 1, 0, 0, 0, 34, 6)
TARGET = ("192.0.2.1", 9)


def gathering() -> Net:
    net = Net()
    net.stack.gather()
    return net


def row(count: int, size: int = 10, **ip: object) -> list[bytes]:
    """Datagrams that differ in identification and content."""
    return [
        udp(
            "192.0.2.1",
            9,
            n.to_bytes(4, "big") * (size // 4) + bytes(size % 4),
            ident=n + 1,
            check=False,
            **ip,
        )  # type: ignore[arg-type]
        for n in range(count)
    ]


def payloads(sock: FakeUdp) -> list[bytes]:
    return [data for data, _, _ in sock.sent]


def test_a_row_is_one_call() -> None:
    net = gathering()
    frames = row(20, ttl=9)
    net.put(*frames, vnet=OWED)
    (sock,) = net.host.udps
    assert not sock.sent
    net.stack.settle()
    assert sock.sent == [(frame[42:], TARGET, 8) for frame in frames]
    assert sock.calls == 1
    net.stack.settle()
    assert len(sock.sent) == 20


def test_a_single_datagram_is_no_train() -> None:
    net = gathering()
    net.put(*row(1), vnet=OWED)
    net.stack.settle()
    assert (len(net.host.udps[0].sent), net.host.udps[0].calls) == (1, 0)


@pytest.mark.parametrize(("size", "calls"), [(4, 2), (1400, 3), (train.BYTES, 0)])
def test_a_train_is_bounded(size: int, calls: int) -> None:
    net = gathering()
    frames = row(train.SEGMENTS * 2 if size < 1000 else 3 * (train.BYTES // size), size)
    net.put(*frames, vnet=OWED)
    sock = net.host.udps[0]
    assert payloads(sock) == [frame[42:] for frame in frames], "all gone before the batch ended"
    assert sock.calls == calls
    net.stack.settle()
    assert len(sock.sent) == len(frames)


def test_another_frame_ends_it_first() -> None:
    net = gathering()
    net.put(*row(3), vnet=OWED)
    net.put(ping("10.0.2.2"))
    assert len(net.host.udps[0].sent) == 3


@pytest.mark.parametrize("at", [22, 24, 26, 30], ids=["ttl", "checksum", "source", "destination"])
def test_a_damaged_header_is_counted_not_sent(at: int) -> None:
    net = gathering()
    first, second, third = row(3)
    bad = bytearray(second)
    bad[at] ^= 4
    net.put(first, bytes(bad), third, vnet=OWED)
    net.stack.settle()
    assert payloads(net.host.udps[0]) == [first[42:], third[42:]]
    assert net.count("ip_checksum") == 1


def test_a_checksum_that_is_there_is_verified() -> None:
    net = gathering()
    net.put(*row(2), vnet=OWED)
    bad = udp("192.0.2.1", 9, bytes(10))[:-1] + b"x"
    net.put(bad)
    net.stack.settle()
    assert len(net.host.udps[0].sent) == 2
    assert net.count("udp_checksum") == 1


def test_a_failure_is_told_about_the_first() -> None:
    net = gathering()
    net.put(*row(1), vnet=OWED)
    net.stack.settle()
    net.host.udps[0].fail = 113
    net.put(*row(5), vnet=OWED)
    net.stack.settle()
    (answer,) = net.ips()
    assert answer.kind == (3, 1)


def test_a_flow_that_ended_takes_its_train_along() -> None:
    net = gathering()
    net.put(*row(3), vnet=OWED)
    net.stack.close(net.now)
    net.stack.settle()
    assert net.host.udps[0].closed
    assert net.count("udp_send_failed") == 1


def test_a_super_datagram_is_one_call() -> None:
    net = Net()
    vnet = struct.pack("<BBHHHH", 1, GSO_UDP_L4, 42, 100, 34, 6)
    net.put(udp("192.0.2.1", 9, bytes(950), check=False), vnet=vnet)
    (sock,) = net.host.udps
    assert [len(data) for data in payloads(sock)] == [100] * 9 + [50]
    assert sock.calls == 1


ITEM = st.tuples(
    st.sampled_from(["192.0.2.1", "192.0.2.2", "10.0.2.2", "127.0.0.1"]),
    st.integers(9, 10),
    st.integers(4000, 4001),
    st.sampled_from([0, 1, 7, 8, 1400]),
    st.sampled_from([1, 2, 64]),
    st.sampled_from([b"", OWED, OWED, OWED]),
    st.booleans(),
    st.sampled_from(["", "", "", "", "settle", "ping", "damage"]),
)


@given(st.lists(ITEM, max_size=40))
def test_the_host_sees_what_it_would_see_one_by_one(items: list[tuple]) -> None:
    nets = (Net(), gathering())
    for net in nets:
        for number, (dst, dport, sport, size, ttl, vnet, padded, extra) in enumerate(items):
            frame = udp(
                dst, dport, bytes([number]) * size, sport=sport, ttl=ttl, ident=number, check=not vnet
            )
            if extra == "settle":
                net.stack.settle()
            elif extra == "ping":
                net.put(ping("10.0.2.2"))
            elif extra == "damage":
                frame = frame[:20] + b"\x01" + frame[21:]
            net.put(frame + bytes(3 if padded else 0), vnet=vnet)
        net.stack.settle()
    one, many = nets
    assert [sock.sent for sock in many.host.udps] == [sock.sent for sock in one.host.udps]
    assert many.stack.counters == one.stack.counters
    assert [(f.sent, f.key) for f in many.stack.udp._flows.values()] == [
        (f.sent, f.key) for f in one.stack.udp._flows.values()
    ]


# ---- IPv6 --------------------------------------------------------------------------------------------------

OWED6 = struct.pack("<BBHHHH", 1, 0, 0, 0, 54, 6)
TARGET6 = (REMOTE, 9)


def gathering6() -> Net6:
    net = Net6()
    net.stack.gather()
    return net


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([8, 8, 8, 9, 100]), st.booleans()), max_size=40),
    st.integers(2, 8),
)
def test_ipv6_the_host_sees_the_same(script: list[tuple[int, int, bool]], limit: int) -> None:
    frames = []
    for number, (flow, size, options) in enumerate(script):
        data = number.to_bytes(2, "big") * (size // 2) + bytes(size % 2)
        more = [(60, b"\0\0\1\4\0\0\0\0")] if options else []
        frames.append(udp6(REMOTE, 9, data, sport=4000 + flow // 2, hops=64 - flow % 2, extensions=more))
    seen = []
    for net in (gathering6(), Net6()):
        net.put(*frames, vnet=OWED6)
        net.stack.settle()
        seen.append([sock.sent for sock in net.host.udps])
    assert seen[0] == seen[1]


def test_ipv6_a_row_is_one_call_and_leaves_as_one_by_one() -> None:
    net = gathering6()
    frames = [udp6(REMOTE, 9, n.to_bytes(2, "big") * 50, hops=9) for n in range(20)]
    net.put(*frames, vnet=OWED6)
    net.stack.settle()
    (sock,) = net.host.udps
    assert sock.calls == 1
    assert sock.sent == [(frame[62:], TARGET6, 8 | NO_FRAGMENT) for frame in frames]


def test_the_families_do_not_mix() -> None:
    net = gathering6()
    four, six = row(3), [udp6(REMOTE, 9, bytes(10)) for _ in range(3)]
    net.put(four[0], six[0], four[1], six[1], six[2], four[2], vnet=OWED)
    net.stack.settle()
    assert [len(sock.sent) for sock in net.host.udps] == [3, 3]
