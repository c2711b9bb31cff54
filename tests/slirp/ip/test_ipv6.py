"""IPv6: what is refused, where the rest goes, headers, errors, fragments both ways."""

from __future__ import annotations

import errno
import random
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.config import Config
from slirp.config6 import Config6
from slirp.contracts.host import NO_FRAGMENT
from slirp.contracts.link import F_CSUM
from slirp.ip.fragments import BYTES, DATAGRAMS, LIFETIME
from slirp.ip.ipv6 import ROUTES
from slirp.ip.limiter import BURST
from slirp.rules import Rule
from slirp.wire import ipv4 as wire
from slirp.wire import ipv6 as wire6
from tests.slirp.fakes import GUEST_MAC, SECOND, FakeError, FakeTcp
from tests.slirp.fakes6 import (
    DNS,
    GUEST,
    LINK,
    LOCAL,
    REMOTE,
    ROUTER,
    ROUTER_MAC,
    Net6,
    icmp6,
    ip6,
    joined,
    na,
    ping6,
    read6,
    summed,
    udp6,
    udp6_body,
)

OTHER_MAC = bytes.fromhex("525400bbbbbb")
GOOD = ping6(ROUTER)
SYN = b"\x0f\xa0\0\x50" + bytes(8) + b"\x50\x02\xff\xff" + bytes(4)
PAYLOAD = random.Random(5).randbytes(65536)
PADN = bytes((0, 0, 1, 4, 0, 0, 0, 0))


@pytest.fixture
def net() -> Net6:
    return Net6()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (GOOD[:53], "ip6_malformed"),
        (GOOD[:14], "ip6_malformed"),
        (GOOD[:14] + b"\x50" + GOOD[15:], "ip6_malformed"),
        (GOOD[:-1], "ip6_malformed"),
        (ping6(ROUTER, to=OTHER_MAC), "eth_not_ours"),
        (ping6(ROUTER, src=ROUTER), "ip6_source"),
        (ping6(ROUTER, src=LINK), "ip6_source"),
        (ping6(ROUTER, src="::1"), "ip6_source"),
        (ping6(ROUTER, src="::ffff:10.0.2.15"), "ip6_source"),
        (ping6(ROUTER, src="::10.0.2.15"), "ip6_source"),
        (ping6(ROUTER, src="ff02::1"), "ip6_source"),
        (ping6(ROUTER, src="::"), "ip6_source"),
        (ping6(ROUTER, mac=b"\x33" + GUEST_MAC[1:], src="fec0::99"), "ip6_source"),
        (ping6("ff02::1", src="::"), "ip6_source"),
        (udp6("ff02::fb", 5353, b"x"), "broadcast_ignored"),
        (ping6("ff02::fb"), "broadcast_ignored"),
        (ping6("ff0e::1"), "broadcast_ignored"),
        (ip6(GUEST, "ff02::16", 99, b"x" * 20), "broadcast_ignored"),
        (ip6("::", "ff02::16", 58, icmp6("::", "ff02::16", 143, 0, 1, b"")[54:]), "mld_ignored"),
        (icmp6(GUEST, "ff02::16", 143, 0, 1, b""), "mld_ignored"),
        (icmp6(GUEST, ROUTER, 200, 0, 1, b""), "icmp_ignored"),
        (GOOD[:56] + b"\xff\xff" + GOOD[58:], "icmp_checksum"),
        (ip6(GUEST, ROUTER, 58, b"\x80\0"), "icmp_malformed"),
        (ip6(GUEST, ROUTER, 59, b""), "ip6_extension"),
    ],
)
def test_dropped_in_silence(net: Net6, frame: bytes, reason: str) -> None:
    net.put(frame)
    assert net.take() == []
    assert not net.host.udps
    assert net.count(reason) == 1


def test_off_means_deaf() -> None:
    net = Net6(Config(), known=False)
    net.put(ping6(ROUTER, to=bytes.fromhex("52550a000202")))
    assert net.take() == []
    assert net.count("ipv6_ignored") == 1


def test_ipv4_off_means_deaf_to_ipv4() -> None:
    from tests.slirp.fakes import arp, ping

    net = Net6(Config(ipv4=False, v6=Config6()))
    net.put(arp(1, "10.0.2.15", "10.0.2.2"), ping("10.0.2.2", to=b"\xff" * 6))
    assert net.take() == []
    (answer,) = net.ask6(ping6(ROUTER))
    assert answer.kind == (129, 0)


@pytest.mark.parametrize(("dst", "source"), [(ROUTER, ROUTER), (DNS, DNS), (LINK, LINK), ("ff02::1", ROUTER)])
def test_ping_of_our_own(net: Net6, dst: str, source: str) -> None:
    (answer,) = net.ask6(ping6(dst, b"payload", hops=1))
    assert (answer.src, answer.dst, answer.hops, answer.to) == (source, GUEST, 255, GUEST_MAC)
    assert answer.kind == (129, 0)
    assert answer.info == 7 << 16 | 1
    assert answer.payload == b"payload"


def test_ping_of_all_routers_from_a_link_local_address(net: Net6) -> None:
    (answer,) = net.ask6(ping6("ff02::2", src=LOCAL))
    assert (answer.src, answer.dst) == (LINK, LOCAL)


def test_own_stations_have_their_own_macs(net: Net6) -> None:
    assert net.ask6(ping6(ROUTER))[0].mac == ROUTER_MAC
    assert net.ask6(ping6(DNS))[0].mac == bytes.fromhex("525600000003")


@pytest.mark.parametrize(
    ("ip", "how"),
    [
        ({}, 63 | NO_FRAGMENT),
        ({"hops": 2}, 1 | NO_FRAGMENT),
        ({"traffic": 0xBB}, 0xB8 << 16 | NO_FRAGMENT | 63),
        ({"extensions": [(0, PADN)]}, 63 | NO_FRAGMENT),
        ({"extensions": [(0, PADN), (43, bytes(8)), (60, PADN)]}, 63 | NO_FRAGMENT),
        ({"extensions": [(60, PADN), (51, b"\0\x04" + bytes(22)), (60, PADN)]}, 63 | NO_FRAGMENT),
    ],
)
def test_a_datagram_leaves_as_it_was(net: Net6, ip: dict[str, object], how: int) -> None:
    net.put(udp6(REMOTE, 9, b"hello", **ip))
    (sock,) = net.host.udps
    assert sock.family == 6
    assert sock.sent == [(b"hello", (REMOTE, 9), how)]
    assert net.take() == []


@given(st.binary(max_size=1452), st.integers(1, 65535), st.booleans())
def test_there_and_back(payload: bytes, port: int, offload: bool) -> None:
    net = Net6()
    net.stack.set_features(F_CSUM if offload else 0)
    net.put(udp6(REMOTE, port, payload, sport=port))
    (sock,) = net.host.udps
    net.deliver(sock, payload, (REMOTE, port))
    (answer,) = net.ask6()
    assert (answer.src, answer.dst, answer.hops, answer.mac) == (REMOTE, GUEST, 64, ROUTER_MAC)
    assert (answer.ports, answer.payload) == ((port, port), payload)


def test_a_udp_checksum_of_0_is_no_checksum(net: Net6) -> None:
    frame = udp6(REMOTE, 9, b"hello")
    net.put(frame[:60] + b"\0\0" + frame[62:])
    assert not net.host.udps
    assert net.count("udp_checksum") == 1


@pytest.mark.parametrize(
    ("dst", "kind"),
    [
        ("::1", (1, 0)),
        ("::", (1, 0)),
        ("::ffff:127.0.0.1", (1, 0)),
        ("::ffff:192.0.2.1", (1, 0)),
        ("::127.0.0.1", (1, 0)),
        ("fe80::99", (1, 0)),
        ("fec0::", (1, 0)),
    ],
)
@pytest.mark.parametrize("what", ["udp", "tcp"])
def test_martians_never_reach_the_host(net: Net6, dst: str, kind: tuple[int, int], what: str) -> None:
    frame = udp6(dst, 9, b"x") if what == "udp" else ip6(GUEST, dst, 6, SYN)
    (answer,) = net.ask6(frame)
    assert (answer.src, answer.kind) == (ROUTER, kind)
    assert answer.payload == frame[14:]
    assert not net.host.udps and not net.host.tcps


def test_a_link_local_source_goes_no_further(net: Net6) -> None:
    (answer,) = net.ask6(udp6(REMOTE, 9, b"x", src=LOCAL))
    assert (answer.src, answer.kind) == (LINK, (1, 2))
    assert not net.host.udps


def test_hop_limit_1(net: Net6) -> None:
    (answer,) = net.ask6(udp6(REMOTE, 9, b"x", hops=1))
    assert (answer.src, answer.kind, answer.hops) == (ROUTER, (3, 0), 255)
    assert not net.host.udps


def test_loopback_is_the_router() -> None:
    net = Net6()
    net.put(udp6(ROUTER, 9, b"x"))
    (sock,) = net.host.udps
    assert sock.sent == [(b"x", ("::1", 9), 63 | NO_FRAGMENT)]
    net.deliver(sock, b"y", ("::1", 9))
    (answer,) = net.ask6()
    assert (answer.src, answer.payload) == (ROUTER, b"y")
    net.deliver(sock, b"z", ("fe80::1%lo", 9))
    net.deliver(sock, b"z", ("fec0::77", 9))
    assert net.ask6() == []
    assert net.count("udp_stranger") == 2


def test_loopback_shut() -> None:
    net = Net6(Config(hostloopback=False, v6=Config6()))
    (answer,) = net.ask6(udp6(ROUTER, 9, b"x"))
    assert (answer.src, answer.kind) == (ROUTER, (1, 4))
    net.put(ip6(GUEST, ROUTER, 6, tcp(GUEST, ROUTER)))
    assert not net.host.tcps and not net.host.udps


def tcp(src: str, dst: str) -> bytes:
    return summed(src, dst, 6, SYN, 16)


@pytest.mark.parametrize("dst", [ROUTER, REMOTE])
def test_tcp_opens_a_socket(net: Net6, dst: str) -> None:
    net.put(ip6(GUEST, dst, 6, tcp(GUEST, dst)))
    (sock,) = net.host.tcps
    assert sock.remote == ("::1" if dst == ROUTER else REMOTE, 80)
    assert sock.how == 63 | NO_FRAGMENT
    sock.events.host_connected(net.now)
    (answer,) = net.ask6()
    assert (answer.src, answer.dst, answer.protocol) == (dst, GUEST, 6)
    assert answer.body[13] == 0x12
    assert answer.body[20:24] == b"\x02\x04" + (1440).to_bytes(2, "big")


def test_control_plane_is_out_of_reach(net: Net6) -> None:
    net.host.control.add(("::1", 80))
    net.put(ip6(GUEST, ROUTER, 6, tcp(GUEST, ROUTER)))
    assert not net.host.tcps
    assert net.count("control_plane_refused") == 1


def test_restrict() -> None:
    net = Net6(Config(restrict=True, v6=Config6()))
    assert net.ask6(udp6(REMOTE, 9, b"x"))[0].kind == (1, 1)
    assert net.ask6(udp6(DNS, 53, b"x"))[0].kind == (1, 1)
    assert net.ask6(ping6(REMOTE))[0].kind == (1, 1)
    (reset,) = net.ask6(ip6(GUEST, REMOTE, 6, tcp(GUEST, REMOTE)))
    assert reset.body[13] & 4
    assert net.ask6(ping6(ROUTER))[0].kind == (129, 0)
    assert not net.host.udps and not net.host.tcps


def test_dns_address_has_nothing_else(net: Net6) -> None:
    assert net.ask6(udp6(DNS, 9, b"x"))[0].kind == (1, 4)
    assert net.ask6(udp6(LINK, 9, b"x"))[0].kind == (1, 4)
    assert not net.host.udps


def test_ping_to_the_world_leaves_by_the_hosts_socket(net: Net6) -> None:
    from slirp.contracts.host import Echo

    net.put(ping6(REMOTE, b"abc", hops=9, traffic=0xB8))
    (sock,) = net.host.echoes
    assert (sock.family, sock.ident) == (6, 7)
    assert sock.sent == [(1, b"abc", REMOTE, 0xB8 << 16 | NO_FRAGMENT | 8)]
    sock.inbox.append(Echo(1, b"abc", REMOTE, 50, 0xB8))
    sock.events.host_readable(net.now)
    (answer,) = net.ask6()
    assert (answer.src, answer.kind, answer.hops, answer.traffic) == (REMOTE, (129, 0), 49, 0xB8)
    assert (answer.info, answer.payload) == (7 << 16 | 1, b"abc")


def test_an_error_on_the_way_shows_the_guests_packet(net: Net6) -> None:
    frame = ping6(REMOTE, b"abc", hops=2)
    net.put(frame)
    (sock,) = net.host.echoes
    quoted = wire6.ICMP6.pack(128, 0, 0, 99 << 16 | 1)
    sock.errors.append(FakeError(113, 3, 0, 0, "2001:db8::1", (REMOTE, 0), quoted, 60))
    sock.events.host_readable(net.now)
    (answer,) = net.ask6()
    assert (answer.src, answer.kind, answer.hops) == ("2001:db8::1", (3, 0), 59)
    assert answer.payload == frame[14:21] + b"\1" + frame[22:]


@pytest.mark.parametrize(
    ("error", "kind", "info"),
    [((1, 4, 0), (1, 4), 0), ((2, 0, 1280), (2, 0), 1280), ((3, 0, 0), (3, 0), 0), ((1, 1, 0), (1, 1), 0)],
)
def test_errors_about_udp_come_back(
    net: Net6, error: tuple[int, int, int], kind: tuple[int, int], info: int
) -> None:
    frame = udp6(REMOTE, 9, b"hello")
    net.put(frame)
    (sock,) = net.host.udps
    net.complain(sock, FakeError(111, *error, "2001:db8::1", (REMOTE, 9), b"hello"))
    (answer,) = net.ask6()
    assert (answer.src, answer.kind, answer.info) == ("2001:db8::1", kind, info)
    assert answer.payload[:40] == (frame[14:54] if kind != (3, 0) else frame[14:21] + b"\1" + frame[22:54])


def test_an_error_from_a_link_local_router_comes_from_ours(net: Net6) -> None:
    net.put(udp6(REMOTE, 9, b"hello"))
    (sock,) = net.host.udps
    net.complain(sock, FakeError(113, 1, 0, 0, "fe80::1", (REMOTE, 9), b"hello"))
    assert net.ask6()[0].src == ROUTER


def test_too_long_for_the_hosts_way(net: Net6) -> None:
    net.put(udp6(REMOTE, 9, b"hello"))
    (sock,) = net.host.udps
    sock.fail, sock.limit_mtu = 90, 1400
    (answer,) = net.ask6(udp6(REMOTE, 9, b"x" * 1400))
    assert answer.kind == (2, 0)


def test_a_guests_port_unreachable_closes_the_flow(net: Net6) -> None:
    net.put(udp6(REMOTE, 9, b"hello"))
    (sock,) = net.host.udps
    net.deliver(sock, b"answer", (REMOTE, 9))
    inner = net.take()[0][14:]
    net.put(icmp6(GUEST, REMOTE, 1, 4, 0, inner))
    assert sock.closed
    assert net.count("udp_guest_refused") == 1


# ---- what nobody carries -----------------------------------------------------------------------------------


def test_unknown_protocols(net: Net6) -> None:
    (answer,) = net.ask6(ip6(GUEST, ROUTER, 132, b"x" * 20))
    assert (answer.kind, answer.info) == ((4, 1), 6)
    (answer,) = net.ask6(ip6(GUEST, ROUTER, 132, b"x" * 20, extensions=[(0, PADN), (60, PADN)]))
    assert (answer.kind, answer.info) == ((4, 1), 48)
    (answer,) = net.ask6(ip6(GUEST, REMOTE, 47, b"x" * 20))
    assert answer.kind == (1, 1)


@pytest.mark.parametrize(
    ("extensions", "kind", "pointer"),
    [
        ([(43, b"\0\0\0\1" + bytes(4))], (4, 0), 42),
        ([(43, b"\0\2\0\1" + bytes(20))], (4, 0), 42),
        ([(60, b"\0\0\x80\4" + bytes(4))], (4, 2), 42),
        ([(60, b"\0\0\xc0\4" + bytes(4))], (4, 2), 42),
        ([(60, PADN), (0, PADN)], (4, 1), 40),
    ],
)
def test_parameter_problems(
    net: Net6, extensions: list[tuple[int, bytes]], kind: tuple[int, int], pointer: int
) -> None:
    (answer,) = net.ask6(udp6(REMOTE, 9, b"x", extensions=extensions))
    assert (answer.kind, answer.info) == (kind, pointer)
    assert not net.host.udps


@pytest.mark.parametrize(
    "extensions",
    [
        [(60, b"\0\0\x40\4" + bytes(4))],
        [(60, b"\0\0\1\x20" + bytes(4))],
        [(60, b"\0\xff" + bytes(6))],
        [(60, PADN)] * 9,
        [(60, b"\0\x0f" + b"\1\0" * 63)],
    ],
)
def test_extensions_that_are_dropped(net: Net6, extensions: list[tuple[int, bytes]]) -> None:
    net.put(udp6(REMOTE, 9, b"x", extensions=extensions))
    assert net.take() == []
    assert not net.host.udps
    assert net.count("ip6_extension") == 1


def test_an_unknown_option_to_a_group(net: Net6) -> None:
    (answer,) = net.ask6(udp6("ff02::1", 9, b"x", extensions=[(60, b"\0\0\x80\4" + bytes(4))]))
    assert answer.kind == (4, 2)
    assert net.ask6(udp6("ff02::1", 9, b"x", extensions=[(60, b"\0\0\xc0\4" + bytes(4))])) == []


def test_no_errors_about_errors_and_groups(net: Net6) -> None:
    inner = udp6(REMOTE, 9, b"x")[14:]
    net.put(
        icmp6(GUEST, "::1", 1, 4, 0, inner),
        icmp6(GUEST, "fe80::99", 137, 0, 0, inner),
        udp6("::1", 9, b"x", to=b"\x33\x33\0\0\0\1"),
    )
    assert net.take() == []


def test_errors_are_limited(net: Net6) -> None:
    net.put(*[udp6(REMOTE, 9, b"x", hops=1)] * (BURST + 50))
    assert len(net.take()) == BURST
    assert net.count("icmp_limited") == 50


def test_an_error_fits_the_least_mtu(net: Net6) -> None:
    (answer,) = net.ask6(udp6(REMOTE, 9, b"x" * 1400, hops=1))
    assert len(answer.body) == 1240


# ---- between guests ----------------------------------------------------------------------------------------


def test_one_guest_to_another_through_us(net: Net6) -> None:
    net.put(ping6(ROUTER, src="fec0::16", mac=OTHER_MAC))
    net.take()
    frame = udp6("fec0::16", 9, b"hello")
    net.put(frame)
    (passed,) = net.take()
    assert passed[:12] == OTHER_MAC + ROUTER_MAC
    assert passed[21] == 63
    assert passed[14:21] + passed[22:] == frame[14:21] + frame[22:]


def test_another_guest_that_is_not_there(net: Net6) -> None:
    frame = udp6("fec0::77", 9, b"hello")
    (asked,) = net.ask6(frame)
    assert (asked.dst, asked.kind, asked.payload[:16]) == (
        "ff02::1:ff00:77",
        (135, 0),
        wire.ip_bytes("fec0::77"),
    )
    net.run(5)
    *_, answer = net.ask6()
    assert (answer.src, answer.dst, answer.kind) == (ROUTER, GUEST, (1, 3))


def test_another_guest_that_answers(net: Net6) -> None:
    net.put(udp6("fec0::77", 9, b"hello"))
    net.take()
    net.put(na("fec0::77", mac=OTHER_MAC))
    (passed,) = net.take()
    assert passed[:6] == OTHER_MAC
    assert read6(passed).payload == b"hello"


def test_too_big_between_guests(net: Net6) -> None:
    net.put(ping6(ROUTER, src="fec0::16", mac=OTHER_MAC))
    net.take()
    (answer,) = net.ask6(udp6("fec0::16", 9, b"x" * 2000))
    assert (answer.kind, answer.info) == ((2, 0), 1500)


def test_remembered_routes_are_bounded(net: Net6) -> None:
    for number in range(ROUTES + 10):
        net.put(udp6(f"2001:db8::{number:x}", 9, b"x"))
    assert len(net.stack.families.v6._routes) <= ROUTES  # type: ignore[union-attr]


# ---- fragments ---------------------------------------------------------------------------------------------


def cut(
    body: bytes,
    step: int,
    *,
    ident: int = 77,
    dst: str = REMOTE,
    protocol: int = 17,
    before: object = (),
    **ip: object,
) -> list[bytes]:
    """A datagram in pieces of ``step`` bytes."""
    frames = []
    for offset in range(0, len(body), step):
        more = int(offset + step < len(body))
        head = wire6.FRAGMENT_HEADER.pack(0, 0, offset | more, ident)
        frames.append(
            ip6(GUEST, dst, protocol, body[offset : offset + step], extensions=[*before, (44, head)], **ip)  # type: ignore[misc]
        )
    return frames


def whole(size: int = 4000) -> bytes:
    return udp6_body(GUEST, REMOTE, 4000, 9, PAYLOAD[:size])


def arrived(net: Net6) -> list[bytes]:
    return [data for sock in net.host.udps for data, _, _ in sock.sent]


@pytest.mark.parametrize("order", ["forward", "backward", "last first", "shuffled", "twice"])
def test_any_order(net: Net6, order: str) -> None:
    frames = cut(whole(), 1000)
    if order == "backward":
        frames.reverse()
    elif order == "last first":
        frames = frames[-1:] + frames[:-1]
    elif order == "shuffled":
        random.Random(3).shuffle(frames)
    elif order == "twice":
        frames = [frame for frame in frames[:-1] for _ in range(2)] + frames[-1:]
    net.put(*frames)
    assert arrived(net) == [PAYLOAD[:4000]]
    assert net.host.udps[0].sent[0][2] == 63  # the host may cut it, as the guest did
    fragments = net.stack.families.v6.fragments  # type: ignore[union-attr]
    assert (len(fragments), fragments.bytes) == (0, 0)


def test_the_largest_datagram_there_and_back(net: Net6) -> None:
    net.put(*cut(whole(65527), 1448))
    assert arrived(net) == [PAYLOAD[:65527]]
    net.deliver(net.host.udps[0], PAYLOAD[:65527], (REMOTE, 9))
    frames = net.take()
    assert all(len(frame) <= 1514 for frame in frames)
    assert joined(frames).payload == PAYLOAD[:65527]


def test_headers_before_and_behind_the_fragment_header(net: Net6) -> None:
    body = bytes((17, 0, 1, 4, 0, 0, 0, 0)) + whole(100)
    net.put(*cut(body, 56, protocol=60, before=[(0, PADN)]))
    assert arrived(net) == [PAYLOAD[:100]]


def test_atomic_fragments_wait_for_nobody(net: Net6) -> None:
    net.put(cut(whole(), 1000, ident=5)[0])
    net.put(*cut(whole(10), 1000, ident=5))
    assert arrived(net) == [PAYLOAD[:10]]


def test_overlap_condemns_all(net: Net6) -> None:
    frames = cut(whole(), 1000)
    head = wire6.FRAGMENT_HEADER.pack(0, 0, 504 | 1, 77)
    evil = ip6(GUEST, REMOTE, 17, b"E" * 1000, extensions=[(44, head)])
    net.put(frames[0], evil, *frames[1:])
    assert arrived(net) == []
    assert net.count("fragment_overlap") == 1


def test_odd_length_is_reported(net: Net6) -> None:
    head = wire6.FRAGMENT_HEADER.pack(0, 0, 1, 77)
    (answer,) = net.ask6(ip6(GUEST, REMOTE, 17, whole(20)[:20], extensions=[(44, head)]))
    assert (answer.kind, answer.info) == ((4, 0), 4)


def test_beyond_65535_is_reported(net: Net6) -> None:
    head = wire6.FRAGMENT_HEADER.pack(0, 0, 0xFFF8, 77)
    (answer,) = net.ask6(ip6(GUEST, REMOTE, 17, b"x" * 16, extensions=[(44, head)]))
    assert (answer.kind, answer.info) == ((4, 0), 42)


def test_first_fragment_without_all_headers_is_reported(net: Net6) -> None:
    head = wire6.FRAGMENT_HEADER.pack(0, 0, 1, 77)
    (answer,) = net.ask6(ip6(GUEST, REMOTE, 60, b"\x11\x03" + bytes(6), extensions=[(44, head)]))
    assert answer.kind == (4, 3)
    assert net.count("fragment_malformed") == 1


def test_fragments_in_fragments_are_dropped(net: Net6) -> None:
    inner = wire6.FRAGMENT_HEADER.pack(17, 0, 0, 5) + whole(10)
    net.put(*cut(inner, 1000, protocol=44))
    assert arrived(net) == []
    assert net.count("ip6_extension") == 1


def test_what_never_came_is_told(net: Net6) -> None:
    first, *_ = cut(whole(), 1000)
    net.put(first)
    net.run(LIFETIME / SECOND + 1)
    answer = next(a for a in net.ask6() if a.protocol == 58 and a.kind == (3, 1))
    assert answer.payload == first[14 : 14 + len(answer.payload)]
    net.put(cut(whole(), 1000, ident=78)[1])
    net.run(LIFETIME / SECOND + 1)
    assert not [a for a in net.ask6() if a.kind == (3, 1)]


def test_memory_is_bounded(net: Net6) -> None:
    for ident in range(DATAGRAMS * 2):
        net.put(*cut(whole(40000), 1448, ident=ident)[:-1])
    fragments = net.stack.families.v6.fragments  # type: ignore[union-attr]
    assert len(fragments) <= DATAGRAMS
    assert fragments.bytes <= BYTES


# ---- packet too big from a guest ---------------------------------------------------------------------------


def too_big(net: Net6, mtu: int, **ip: object) -> None:
    sock = net.host.udps[0]
    net.deliver(sock, PAYLOAD[:1400], (REMOTE, 9))
    (sent,) = net.take()
    net.put(icmp6(GUEST, REMOTE, 2, 0, mtu, sent[14:1200], **ip))


@pytest.mark.parametrize(("said", "kept"), [(1400, 1400), (1280, 1280), (68, 1280)])
def test_datagrams_shrink(net: Net6, said: int, kept: int) -> None:
    net.put(udp6(REMOTE, 9, b"x"))
    too_big(net, said)
    net.deliver(net.host.udps[0], PAYLOAD[:1452], (REMOTE, 9))
    frames = net.take()
    assert max(map(len, frames)) <= kept + 14
    assert joined(frames).payload == PAYLOAD[:1452]
    net.run(700)  # then it is tried again
    net.put(udp6(REMOTE, 9, b"x"))
    net.take()
    net.deliver(net.host.udps[-1], PAYLOAD[:1452], (REMOTE, 9))
    assert len(net.take()) == 1


def test_a_stranger_cannot_shrink_others(net: Net6) -> None:
    net.put(udp6(REMOTE, 9, b"x"))
    sock = net.host.udps[0]
    net.deliver(sock, PAYLOAD[:1400], (REMOTE, 9))
    (sent,) = net.take()
    net.put(icmp6("fec0::66", REMOTE, 2, 0, 1280, sent[14:1200], mac=OTHER_MAC))
    net.deliver(sock, PAYLOAD[:1400], (REMOTE, 9))
    assert len(net.take()) == 1
    assert net.count("icmp_error_ignored") == 1


def connected(net: Net6) -> tuple[FakeTcp, int]:
    """A guest's connection to REMOTE with an MSS of 1440; the host's socket, and our next sequence number."""
    syn = b"\x0f\xa0\0\x50" + bytes(8) + b"\x60\x02\xff\xff" + bytes(4) + b"\x02\x04\x05\xa0"
    net.put(ip6(GUEST, REMOTE, 6, summed(GUEST, REMOTE, 6, syn, 16)))
    (sock,) = net.host.tcps
    sock.events.host_connected(net.now)
    (answer,) = net.ask6()
    seq = int.from_bytes(answer.body[4:8], "big") + 1
    ack = b"\x0f\xa0\0\x50" + (1).to_bytes(4, "big") + seq.to_bytes(4, "big") + b"\x50\x10\xff\xff" + bytes(4)
    net.put(ip6(GUEST, REMOTE, 6, summed(GUEST, REMOTE, 6, ack, 16)))
    return sock, seq


def test_segments_shrink_and_go_again(net: Net6) -> None:
    sock, seq = connected(net)
    sock.inbox.append(PAYLOAD[:4000])
    sock.events.host_readable(net.now)
    sent = net.take()
    assert [len(frame) - 74 for frame in sent] == [1440, 1440, 1120]
    net.put(icmp6(GUEST, REMOTE, 2, 0, 1300, sent[0][14:1000]))
    again = [read6(frame) for frame in net.take()]
    assert net.stack.tcp.counters["narrowed"] == 1
    assert again and all(len(segment.body) - 20 <= 1240 for segment in again)
    assert int.from_bytes(again[0].body[4:8], "big") == seq
    net.put(icmp6(GUEST, REMOTE, 2, 0, 1300, sent[0][14:1000]))
    assert net.stack.tcp.counters["narrowed"] == 1  # that is nothing new


# ---- where guests may go -----------------------------------------------------------------------------------


def test_allow_and_deny() -> None:
    rules = (
        Rule(True, "udp", IPv6Network("2001:db8::/64"), (9, 9)),
        Rule(False, None, IPv6Network("2001:db8::/32")),
        Rule(False, None, IPv4Network("0.0.0.0/0")),
    )
    net = Net6(Config(v6=Config6(), rules=rules))
    net.put(udp6(REMOTE, 9, b"x"), udp6("2001:db9::1", 9, b"x"))
    assert [remote for _, remote, _ in net.host.udps[0].sent] == [(REMOTE, 9), ("2001:db9::1", 9)]
    for frame in (udp6(REMOTE, 10, b"x"), udp6("2001:db8:1::9", 9, b"x"), ping6(REMOTE)):
        assert net.ask6(frame)[0].kind == (1, 1)
    (reset,) = net.ask6(ip6(GUEST, REMOTE, 6, tcp(GUEST, REMOTE)))
    assert reset.body[13] & 4
    assert [row["hits"] for row in net.stack.rules.rows()] == [1, 4, 0, 1]


# ---- a host without IPv6 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.EADDRNOTAVAIL])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_host_without_ipv6_has_no_route(
    net: Net6, monkeypatch: pytest.MonkeyPatch, error: int, at_once: bool
) -> None:
    def refuse(*_words: object) -> None:
        raise OSError(error, "no")

    if at_once:
        monkeypatch.setattr(net.host, "tcp", refuse)
    net.put(ip6(GUEST, ROUTER, 6, tcp(GUEST, ROUTER)))
    if not at_once:
        net.host.tcps[0].events.host_failed(error, net.now)
    (answer,) = net.ask6()
    assert (answer.src, answer.kind) == (ROUTER, (1, 0))


def test_a_host_without_ipv6_sockets(net: Net6, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_words: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "no")

    monkeypatch.setattr(net.host, "udp", refuse)
    monkeypatch.setattr(net.host, "echo", refuse)
    for frame in (udp6(REMOTE, 9, b"x"), ping6(REMOTE)):
        (answer,) = net.ask6(frame)
        assert (answer.src, answer.kind) == (ROUTER, (1, 0))
