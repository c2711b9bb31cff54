"""IPv4: what is refused, where the rest goes, headers and ICMP errors that go out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slirp.config import Config
from slirp.ip.ipv4 import ROUTES
from slirp.ip.limiter import BURST as ERRORS_BURST
from slirp.wire import checksum
from slirp.wire import ipv4 as wire
from tests.slirp.fakes import (
    BROADCAST,
    DNS_MAC,
    GUEST_MAC,
    HOST_MAC,
    Net,
    arp,
    icmp,
    ip4,
    ping,
    read,
    udp,
    udp_body,
)

OTHER_MAC = bytes.fromhex("525400bbbbbb")


@pytest.fixture
def net() -> Net:
    return Net()


def patched(frame: bytes, offset: int, value: bytes, fix: bool = True) -> bytes:
    """A frame with a changed IP header, its checksum mended."""
    head = bytearray(frame[14:34])
    head[offset : offset + len(value)] = value
    if fix:
        head[10:12] = b"\0\0"
        head[10:12] = checksum.checksum(bytes(head)).to_bytes(2, "big")
    return frame[:14] + bytes(head) + frame[34:]


GOOD = ping("10.0.2.2")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (GOOD[:33], "ip_malformed"),
        (GOOD[:13], "eth_malformed"),
        (GOOD[:14], "ip_malformed"),
        (patched(GOOD, 0, b"\x65"), "ip_malformed"),
        (patched(GOOD, 0, b"\x44"), "ip_malformed"),
        (patched(GOOD, 0, b"\x4f"), "ip_malformed"),
        (patched(GOOD, 2, b"\x00\x13"), "ip_malformed"),
        (patched(GOOD, 2, b"\x00\x40"), "ip_malformed"),
        (patched(GOOD, 10, b"\x12\x34", fix=False), "ip_checksum"),
        (ping("10.0.2.2", to=OTHER_MAC), "eth_not_ours"),
        (ping("10.0.2.2", src="10.0.2.2"), "ip_source"),
        (ping("10.0.2.2", src="10.0.2.3"), "ip_source"),
        (ping("10.0.2.2", src="127.0.0.1"), "ip_source"),
        (ping("10.0.2.2", src="255.255.255.255"), "ip_source"),
        (ping("10.0.2.2", src="224.0.0.1"), "ip_source"),
        (ping("10.0.2.2", src="10.0.2.255"), "ip_source"),
        (ping("10.0.2.2", src="10.0.2.0"), "ip_source"),
        (ping("10.0.2.2", src="169.254.1.1"), "ip_source"),
        (ping("10.0.2.2", src="0.0.0.0"), "broadcast_ignored"),
        (ping("192.0.2.1", src="0.0.0.0"), "ip_source"),
        (ping("10.0.2.255", to=BROADCAST), "broadcast_ignored"),
        (ping("255.255.255.255", to=BROADCAST), "broadcast_ignored"),
        (ping("224.0.0.1", to=b"\x01\x00\x5e\x00\x00\x01"), "broadcast_ignored"),
        (ip4("10.0.2.15", "224.0.0.22", 2, b"\x22" * 16, to=b"\x01\x00\x5e\x00\x00\x16"), "igmp_ignored"),
        (udp("255.255.255.255", 9, b"x", to=BROADCAST), "broadcast_ignored"),
        (udp("239.1.2.3", 9, b"x", to=b"\x01\x00\x5e\x01\x02\x03"), "broadcast_ignored"),
        (b"\x52\x55\x0a\x00\x02\x02" + GUEST_MAC + b"\x86\xdd" + bytes(40), "ipv6_ignored"),
        (b"\x52\x55\x0a\x00\x02\x02" + GUEST_MAC + b"\x88\xcc" + bytes(40), "eth_ignored"),
    ],
)
def test_dropped_in_silence(net: Net, frame: bytes, reason: str) -> None:
    net.put(frame)
    assert net.take() == []
    assert not net.host.udps
    assert net.count(reason) == 1


def test_padding_behind_the_datagram_is_not_data(net: Net) -> None:
    net.put(udp("192.0.2.1", 9, b"x").ljust(60, b"\xaa"))
    assert net.host.udps[0].sent == [(b"x", ("192.0.2.1", 9), 63)]


@pytest.mark.parametrize("options", [b"\x01\x01\x01\x00", b"\x07\xff\x04\x00", b"\x94\x04\x00\x00" * 10])
def test_options_are_skipped_even_malformed_ones(net: Net, options: bytes) -> None:
    net.put(udp("192.0.2.1", 9, b"x", options=options))
    assert net.host.udps[0].sent[0][0] == b"x"


@pytest.mark.parametrize(
    "dst", ["127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3", "169.254.169.254", "240.0.0.1"]
)
@pytest.mark.parametrize("make", [udp, None])
def test_martians_are_unreachable_and_never_reach_the_host(net: Net, dst: str, make: object) -> None:
    frame = udp(dst, 9, b"x") if make else ip4("10.0.2.15", dst, 6, tcp_syn())
    net.put(frame)
    assert not net.host.udps
    assert not net.host.tcps
    (answer,) = net.ips()
    assert (answer.src, answer.kind) == ("10.0.2.2", (3, 0))
    assert net.count("ip_martian") == 1


def tcp_syn(dport: int = 80) -> bytes:
    return b"\x0f\xa0" + dport.to_bytes(2, "big") + bytes(8) + b"\x50\x02\xff\xff" + bytes(4)


@pytest.mark.parametrize("protocol", [1, 6, 17])
def test_ttl_1_is_time_exceeded_for_forwarding(net: Net, protocol: int) -> None:
    frame = {
        1: ping("192.0.2.1", ttl=1),
        6: ip4("10.0.2.15", "192.0.2.1", 6, tcp_syn(), ttl=1),
        17: udp("192.0.2.1", 9, b"hello", ttl=1),
    }[protocol]
    (answer,) = net.ask(frame)
    assert (answer.src, answer.dst, answer.ttl, answer.tos) == ("10.0.2.2", "10.0.2.15", 255, 0xC0)
    assert answer.kind == (11, 0)
    assert answer.payload == frame[14:]
    assert not net.host.udps


def test_ttl_1_is_enough_for_us(net: Net) -> None:
    assert net.ask(ping("10.0.2.2", ttl=1))[0].kind == (0, 0)


def test_other_protocols(net: Net) -> None:
    (answer,) = net.ask(ip4("10.0.2.15", "10.0.2.2", 132, b"x" * 20))
    assert answer.kind == (3, 2)
    (answer,) = net.ask(ip4("10.0.2.15", "192.0.2.1", 47, b"x" * 20))
    assert answer.kind == (3, 13)


def test_an_error_quotes_at_most_what_fits_576_bytes(net: Net) -> None:
    frame = udp("192.0.2.1", 9, b"z" * 1400, ttl=1)
    (answer,) = net.ask(frame)
    assert len(answer.body) == 576 - 20
    assert answer.payload == frame[14 : 14 + 548]


def test_no_error_about_an_error(net: Net) -> None:
    for kind in (3, 4, 5, 11, 12):
        net.put(ip4("10.0.2.15", "192.0.2.1", 1, icmp(kind, 0, 0, b"x" * 28), ttl=1))
    assert net.take() == []


def test_no_error_about_a_broadcast_frame(net: Net) -> None:
    net.put(udp("192.0.2.1", 9, b"x", ttl=1, to=BROADCAST))
    assert net.take() == []


def test_errors_are_limited(net: Net) -> None:
    net.put(*[udp("192.0.2.1", 9, b"x", ttl=1)] * (ERRORS_BURST + 50))
    assert len(net.take()) == ERRORS_BURST
    assert net.count("icmp_limited") == 50
    net.run(0.1)
    net.put(*[udp("192.0.2.1", 9, b"x", ttl=1)] * 50)
    assert len(net.take()) == 10


def test_hairpin_between_guests() -> None:
    net = Net()
    net.put(arp(1, "10.0.2.16", "10.0.2.2", sha=OTHER_MAC))
    net.take()
    (passed,) = net.ask(udp("10.0.2.16", 9, b"hi", ttl=2))
    assert (passed.to, passed.mac, passed.src, passed.ttl, passed.payload) == (
        OTHER_MAC,
        HOST_MAC,
        "10.0.2.15",
        1,
        b"hi",
    )


def test_hairpin_leaves_padding_behind() -> None:
    net = Net()
    net.put(arp(1, "10.0.2.16", "10.0.2.2", sha=OTHER_MAC))
    net.take()
    (passed,) = net.ask(udp("10.0.2.16", 9, b"hi").ljust(60, b"\xaa"))
    assert passed.payload == b"hi"


@settings(max_examples=300)
@given(st.integers(2, 255), st.integers(0, 65535), st.integers(0, 255))
def test_hairpin_keeps_the_checksum_right(ttl: int, ident: int, tos: int) -> None:
    net = Net()
    net.put(arp(1, "10.0.2.16", "10.0.2.2", sha=OTHER_MAC))
    net.take()
    (passed,) = net.ask(udp("10.0.2.16", 9, b"hi", ttl=ttl, ident=ident, tos=tos))
    assert (passed.ttl, passed.ident, passed.tos) == (ttl - 1, ident, tos)


def test_hairpin_respects_the_mtu() -> None:
    net = Net(Config(mtu=1000))
    net.put(arp(1, "10.0.2.16", "10.0.2.2", sha=OTHER_MAC))
    net.take()
    (answer,) = net.ask(udp("10.0.2.16", 9, b"x" * 1200, flags=0x4000))
    assert answer.kind == (3, 4)
    assert answer.body[6:8] == (1000).to_bytes(2, "big")
    pieces = net.ask(udp("10.0.2.16", 9, b"x" * 1200))
    assert [len(p.body) for p in pieces] == [976, 232]


def test_source_mac_belongs_to_the_source_address(net: Net) -> None:
    assert net.ask(ping("10.0.2.3", to=DNS_MAC))[0].mac == DNS_MAC
    assert net.ask(ping("10.0.2.2"))[0].mac == HOST_MAC
    net.put(udp("192.0.2.1", 9, b"x"))
    net.deliver(net.host.udps[0], b"y", ("192.0.2.1", 9))
    assert net.ips()[0].mac == HOST_MAC


def test_routes_are_bounded(net: Net) -> None:
    for number in range(ROUTES + 10):
        net.put(ip4("10.0.2.15", f"192.{number >> 16}.{number >> 8 & 255}.{number & 255}", 253, b""))
    assert len(net.stack.ipv4._routes) <= ROUTES


def test_path_builds_valid_headers(net: Net) -> None:
    frame = ip4("10.0.2.15", "192.0.2.1", 6, tcp_syn())
    path = net.stack.path(frame, 6)
    assert (path.mtu, path.ip_header, path.family) == (1500, 20, 4)
    body = b"t" * 31
    one, two = (read(path.header(len(body)) + body) for _ in range(2))
    assert (one.to, one.mac, one.src, one.dst, one.protocol) == (
        GUEST_MAC,
        HOST_MAC,
        "192.0.2.1",
        "10.0.2.15",
        6,
    )
    assert two.ident == one.ident + 1 & 0xFFFF
    start = wire.ip_int(wire.ip_bytes("192.0.2.1") + wire.ip_bytes("10.0.2.15"))
    assert path.pseudo(31) == (start + 6 + 31) % 65535
    assert net.stack.pseudo(frame, 34, len(frame), 6) == (start + 6 + 20) % 65535


def test_identification_wraps(net: Net) -> None:
    net.stack.ipv4._ids.value = 0xFFFE
    idents = [net.ask(ping("10.0.2.2"))[0].ident for _ in range(3)]
    assert idents == [0xFFFF, 0, 1]


def test_a_super_frame_passes_with_its_work_owed(net: Net) -> None:
    body = udp_body("10.0.2.15", "192.0.2.1", 4000, 9, b"a" * 3000, check=False)
    vnet = wire.VNET.pack(1, 5, 42, 1000, 34, 6)
    net.put(ip4("10.0.2.15", "192.0.2.1", 17, body), vnet=vnet)
    assert [data for data, _, _ in net.host.udps[0].sent] == [b"a" * 1000] * 3


def test_an_icmp_packet_without_a_type_gets_no_error() -> None:
    net = Net()
    assert net.ask(ip4("10.0.2.15", "127.0.0.1", 1, b"")) == []
    assert net.ask(ip4("10.0.2.15", "192.0.2.1", 1, b"", ttl=1)) == []
