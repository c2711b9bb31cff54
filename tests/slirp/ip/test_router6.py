"""Router advertisements: what they say, when they go out."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from slirp.config import Config
from slirp.config6 import Config6
from slirp.ip.ndp import nd_options
from slirp.ip.router6 import ANSWERS, INTERVAL_MAX, INTERVAL_MIN
from slirp.rules import Rule
from slirp.wire import ipv4 as wire
from tests.slirp.fakes import GUEST_MAC
from tests.slirp.fakes6 import GUEST, LOCAL, ROUTER_MAC, Ip6, Net6, icmp6, option, rs


def asked(config: Config | None = None) -> tuple[Ip6, dict[int, bytes]]:
    net = Net6(config or Config(v6=Config6()))
    (answer,) = net.ask6(rs())
    return answer, dict(nd_options(answer.body, 16))


def test_what_qemu_says_and_more() -> None:
    answer, options = asked()
    assert (answer.src, answer.dst, answer.to, answer.hops) == ("fe80::2", LOCAL, GUEST_MAC, 255)
    assert answer.body[4:16] == bytes((64, 0x40)) + (1800).to_bytes(2, "big") + bytes(8)
    assert options[1] == option(1, ROUTER_MAC)
    assert options[3] == struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + wire.ip_bytes("fec0::")
    assert options[5] == struct.pack("!BBHI", 5, 1, 0, 1500)
    assert options[25] == struct.pack("!BBHI", 25, 3, 0, 1800) + wire.ip_bytes("fec0::3")
    assert 31 not in options


def test_a_prefix_that_is_no_64_is_managed() -> None:
    answer, options = asked(Config(v6=Config6("fd00:1::/80")))
    assert answer.body[5] == 0xC0
    assert options[3][2:4] == bytes((80, 0x80))
    assert options[25][8:] == wire.ip_bytes("fd00:1::3")


def test_search_list_and_mtu() -> None:
    _, options = asked(Config(v6=Config6(), mtu=1400, dnssearch=("a.example", "b.test")))
    assert options[31][:8] == struct.pack("!BBHI", 31, 4, 0, 1800)
    assert options[31][8:] == b"\1a\7example\0\1b\4test\0".ljust(24, b"\0")
    assert options[5][4:] == (1400).to_bytes(4, "big")


def test_a_long_search_list_fits_one_frame() -> None:
    answer, options = asked(
        Config(v6=Config6(), dnssearch=tuple("x" * 60 + f".d{n}.example" for n in range(32)))
    )
    assert len(answer.body) < 1280
    assert options[31]


def test_restricted_guests_have_no_default_route() -> None:
    answer, options = asked(Config(restrict=True, v6=Config6()))
    assert answer.body[6:8] == bytes(2)
    assert 25 not in options
    assert options[3][3] == 0xC0


def test_an_allowed_destination_brings_the_route_back() -> None:
    from ipaddress import IPv6Network

    rule = Rule(True, None, IPv6Network("2001:db8::/32"))
    answer, options = asked(Config(restrict=True, rules=(rule,), v6=Config6()))
    assert answer.body[6:8] == (1800).to_bytes(2, "big")
    assert 25 not in options


def test_a_host_without_an_address_is_answered_by_all() -> None:
    net = Net6(known=False)
    (answer,) = net.ask6(rs("::"))
    assert (answer.dst, answer.to) == ("ff02::1", b"\x33\x33\0\0\0\1")


@pytest.mark.parametrize(
    "frame",
    [
        rs(hops=64),
        icmp6(LOCAL, "ff02::2", 133, 1, 0, b"", hops=255),
        icmp6(LOCAL, "ff02::2", 133, 0, 0, b"\1\0", hops=255),
        icmp6("::", "ff02::2", 133, 0, 0, option(1, GUEST_MAC), hops=255),
    ],
)
def test_malformed(frame: bytes) -> None:
    net = Net6()
    assert net.ask6(frame) == []
    assert net.count("ndp_malformed") == 1


def test_solicitations_are_limited() -> None:
    net = Net6()
    net.put(*[rs()] * (ANSWERS + 30))
    assert len(net.take()) == ANSWERS
    assert net.count("ra_limited") == 30


def test_another_router_is_ignored() -> None:
    net = Net6()
    assert net.ask6(icmp6(LOCAL, "ff02::1", 134, 0, 0, bytes(8), hops=255)) == []
    assert net.count("ra_foreign") == 1


def test_some_soon_then_now_and_then() -> None:
    net = Net6(known=False)
    net.stack.announce()
    at: list[float] = []
    start = net.now
    for _ in range(4000):
        if any(answer.kind == (134, 0) for answer in net.ask6()):
            at.append((net.now - start) / 1e9)
        net.run(1)
    gaps = [round(later - earlier) for earlier, later in pairwise(at)]
    assert gaps[:3] == [16, 16, 16] or gaps[:2] == [16, 16]
    assert all(INTERVAL_MIN <= gap <= INTERVAL_MAX + 1 for gap in gaps[3:])
    assert len(gaps) > 7


def test_at_the_end_it_says_so() -> None:
    net = Net6()
    net.stack.close(net.now)
    (answer,) = net.ask6()
    options = dict(nd_options(answer.body, 16))
    assert (answer.kind, answer.dst) == ((134, 0), "ff02::1")
    assert answer.body[6:8] == bytes(2)
    assert options[3][8:12] == bytes(4)  # the prefix is deprecated
    assert options[25][4:8] == bytes(4)


def test_announcement_names_all_addresses() -> None:
    net = Net6(known=False)
    net.stack.announce()
    kinds = [answer.kind[0] for answer in net.ask6()]
    assert kinds == [136, 136, 136, 134]
    assert GUEST == "fec0::15"
