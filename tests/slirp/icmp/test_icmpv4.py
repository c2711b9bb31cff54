"""Echo, and what guests complain about."""

import pytest

from slirp.wire import ipv4 as wire
from tests.slirp.fakes import Net, icmp, ip4, ping, udp, udp_body


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.mark.parametrize("address", ["10.0.2.2", "10.0.2.3"])
@pytest.mark.parametrize("size", [0, 1, 56, 1472])
def test_echo(net: Net, address: str, size: int) -> None:
    data = bytes(n & 255 for n in range(size))
    (answer,) = net.ask(ping(address, data, tos=0x10))
    assert (answer.src, answer.dst, answer.ttl, answer.tos) == (address, "10.0.2.15", 255, 0x10)
    assert answer.body == icmp(0, 0, 7 << 16 | 1, data)


def test_bad_checksum(net: Net) -> None:
    body = bytearray(icmp(8, 0, 1, b"abc"))
    body[2] ^= 1
    net.put(ip4("10.0.2.15", "10.0.2.2", 1, bytes(body)))
    assert net.take() == []
    assert net.count("icmp_checksum") == 1


def test_a_frame_that_vouches_for_itself_is_not_summed(net: Net) -> None:
    body = bytearray(icmp(8, 0, 1, b"abc"))
    body[2] ^= 1
    net.put(ip4("10.0.2.15", "10.0.2.2", 1, bytes(body)), vnet=wire.VNET.pack(2, 0, 0, 0, 0, 0))
    assert len(net.take()) == 1


@pytest.mark.parametrize("body", [b"", b"\x08\x00", b"\x08\x00\xf7\xff\x00\x00\x00"])
def test_short(net: Net, body: bytes) -> None:
    net.put(ip4("10.0.2.15", "10.0.2.2", 1, body))
    assert net.take() == []
    assert net.count("icmp_malformed") == 1


@pytest.mark.parametrize("kind", [0, 9, 10, 13, 15, 17, 30, 42, 255])
def test_other_types_are_ignored(net: Net, kind: int) -> None:
    net.put(ip4("10.0.2.15", "10.0.2.2", 1, icmp(kind, 0, 0, b"x" * 20)))
    assert net.take() == []
    assert net.count("icmp_ignored") == 1


def complaint(src: str = "192.0.2.1", dport: int = 4000, kind: int = 3, code: int = 3) -> bytes:
    """The guest's port unreachable about a datagram from ``src``:9 to its ``dport``."""
    inner = ip4(src, "10.0.2.15", 17, udp_body(src, "10.0.2.15", 9, dport, b"answer"))[14:]
    return ip4("10.0.2.15", src, 1, icmp(kind, code, 0, inner))


def test_a_guest_that_refuses_closes_the_flow(net: Net) -> None:
    net.put(udp("192.0.2.1", 9, b"x"))
    net.deliver(net.host.udps[0], b"answer", ("192.0.2.1", 9))
    net.take()
    net.put(complaint())
    assert net.take() == []
    assert net.host.udps[0].closed
    assert net.count("udp_guest_refused") == 1
    assert net.host.udps[0].refused == [("192.0.2.1", 9)] and net.count("udp_refusals_passed") == 1


def test_no_error_leaves_to_who_sent_nothing(net: Net) -> None:
    net.put(udp("192.0.2.1", 9, b"x"))
    net.deliver(net.host.udps[0], b"answer", ("192.0.2.1", 9))
    net.put(complaint("192.0.2.66"))
    assert net.host.udps[0].closed and net.host.udps[0].refused == []


@pytest.mark.parametrize(
    "frame",
    [
        complaint(dport=4001),
        complaint(kind=3, code=1),
        complaint(kind=11, code=0),
        complaint(kind=12, code=0),
    ],
)
def test_other_complaints_close_nothing(net: Net, frame: bytes) -> None:
    net.put(udp("192.0.2.1", 9, b"x"))
    net.deliver(net.host.udps[0], b"answer", ("192.0.2.1", 9))
    net.put(frame)
    assert not net.host.udps[0].closed
    assert net.count("icmp_error_ignored") == 1


def test_a_guest_cannot_close_a_flow_that_delivered_nothing(net: Net) -> None:
    net.put(udp("192.0.2.1", 9, b"x"))
    net.put(complaint())
    assert not net.host.udps[0].closed


def test_a_guest_cannot_close_another_guests_flow(net: Net) -> None:
    net.put(udp("192.0.2.1", 9, b"x"))
    net.deliver(net.host.udps[0], b"answer", ("192.0.2.1", 9))
    inner = ip4("192.0.2.1", "10.0.2.15", 17, udp_body("192.0.2.1", "10.0.2.15", 9, 4000, b""))[14:]
    net.put(ip4("10.0.2.99", "192.0.2.1", 1, icmp(3, 3, 0, inner)))
    assert not net.host.udps[0].closed


@pytest.mark.parametrize("inner", [b"", b"\x45" + bytes(10), b"\x41" + bytes(40), b"\x65" + bytes(40)])
def test_malformed_quotes(net: Net, inner: bytes) -> None:
    net.put(ip4("10.0.2.15", "192.0.2.1", 1, icmp(3, 3, 0, inner)))
    assert net.count("icmp_malformed") == 1
