"""Neighbour discovery: answers, defence, learning, unreachability, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.ip.ndp import DEFEND, LOOK, OPTIONS, PROBES, REACHABLE, WANTED, link_address, nd_options
from slirp.ip.neighbours import NEIGHBOURS
from slirp.wire import ipv4 as wire
from slirp.wire import ipv6 as wire6
from tests.slirp.fakes import GUEST_MAC, SECOND
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
    na,
    ns,
    option,
    ping6,
    rs,
    udp6,
)

OTHER_MAC = bytes.fromhex("525400bbbbbb")


@pytest.fixture
def net() -> Net6:
    return Net6()


def mac_of(net: Net6, address: str) -> bytes | None:
    entry = net.stack.side6.ndp.table.get(wire.ip_bytes(address))  # type: ignore[union-attr]
    return entry.mac if entry is not None else None


@pytest.mark.parametrize("target", [ROUTER, DNS, LINK])
def test_solicitations_for_ours_are_answered(target: str) -> None:
    net = Net6(known=False)
    (answer,) = net.ask6(ns(target))
    mac = wire6.own_mac6(wire.ip_bytes(target))
    assert (answer.src, answer.dst, answer.to, answer.mac, answer.hops) == (
        target,
        GUEST,
        GUEST_MAC,
        mac,
        255,
    )
    assert (answer.kind, answer.info) == ((136, 0), 0xE0000000)
    assert answer.payload == wire.ip_bytes(target) + option(2, mac)
    assert mac_of(net, GUEST) == GUEST_MAC


def test_unicast_solicitation_without_option() -> None:
    net = Net6()
    (answer,) = net.ask6(icmp6(GUEST, ROUTER, 135, 0, 0, wire.ip_bytes(ROUTER), hops=255))
    assert answer.kind == (136, 0)


@pytest.mark.parametrize("target", [ROUTER, DNS, LINK])
def test_our_addresses_are_defended_against_duplicates(net: Net6, target: str) -> None:
    (answer,) = net.ask6(ns(target, src="::"))
    assert (answer.dst, answer.to, answer.info) == ("ff02::1", b"\x33\x33\0\0\0\1", 0xA0000000)
    assert answer.payload[:16] == wire.ip_bytes(target)
    assert net.count("ndp_conflict") == 1


def test_somebody_claims_our_address(net: Net6) -> None:
    (answer,) = net.ask6(na(ROUTER, src="fec0::66", mac=OTHER_MAC))
    assert (answer.src, answer.kind, answer.dst) == (ROUTER, (136, 0), "ff02::1")
    assert net.ask6(na(ROUTER, src="fec0::66", mac=OTHER_MAC)) == []
    net.now += DEFEND
    assert len(net.ask6(na(ROUTER, src="fec0::66", mac=OTHER_MAC))) == 1


def test_detection_by_a_guest_is_noted_but_not_learnt(net: Net6) -> None:
    assert net.ask6(ns("fec0::50", src="::")) == []
    assert mac_of(net, "fec0::50") is None
    assert net.stack.side6.ndp.wanted == {wire.ip_bytes("fec0::50"): GUEST_MAC}  # type: ignore[union-attr]
    for number in range(WANTED + 5):
        net.put(ns(f"fec0::1:{number:x}", src="::"))
    assert len(net.stack.side6.ndp.wanted) == WANTED  # type: ignore[union-attr]


SLLA = option(1, GUEST_MAC)
TARGET = wire.ip_bytes(ROUTER)


@pytest.mark.parametrize(
    "frame",
    [
        ns(ROUTER, hops=254),
        icmp6(GUEST, ROUTER, 135, 1, 0, TARGET, hops=255),
        icmp6(GUEST, ROUTER, 135, 0, 0, TARGET[:15], hops=255),
        icmp6(GUEST, ROUTER, 135, 0, 0, wire.ip_bytes("ff02::1"), hops=255),
        icmp6(GUEST, ROUTER, 135, 0, 0, TARGET + b"\1\0" + bytes(6), hops=255),
        icmp6(GUEST, ROUTER, 135, 0, 0, TARGET + b"\1\2" + bytes(6), hops=255),
        icmp6(GUEST, ROUTER, 135, 0, 0, TARGET + b"\1\2" + bytes(14), hops=255),
        icmp6(GUEST, ROUTER, 135, 0, 0, TARGET + b"\x0e", hops=255),
        icmp6(GUEST, ROUTER, 135, 0, 0, TARGET + SLLA * (OPTIONS + 1), hops=255),
        icmp6("::", "ff02::1:ff00:2", 135, 0, 0, TARGET + SLLA, hops=255),
        icmp6("::", ROUTER, 135, 0, 0, TARGET, hops=255, to=b"\x33\x33\0\0\0\1"),
        na(GUEST, hops=64),
        na("fec0::16", dst="ff02::1", flags=0x60000000),
        na("ff02::1", src=GUEST),
    ],
)
def test_malformed(net: Net6, frame: bytes) -> None:
    net.put(frame)
    assert net.take() == []
    assert net.count("ndp_malformed") + net.count("ip6_source") == 1


def test_a_redirect_is_not_obeyed(net: Net6) -> None:
    net.put(icmp6(GUEST, LINK, 137, 0, 0, bytes(32), hops=255))
    assert net.take() == []
    assert net.count("icmp_ignored") == 1


def test_a_guest_that_moves_is_followed(net: Net6) -> None:
    net.put(ping6(ROUTER, mac=OTHER_MAC))
    assert net.take()[0][:6] == OTHER_MAC
    assert net.count("neighbour_moved") == 1


@pytest.mark.parametrize(("flags", "moved"), [(0x40000000, False), (0x60000000, True), (0x20000000, True)])
def test_the_override_flag(net: Net6, flags: int, moved: bool) -> None:
    net.put(ping6(ROUTER, src="fec0::16"))
    net.take()
    net.put(na("fec0::16", src="fec0::17", mac=OTHER_MAC, flags=flags))
    assert mac_of(net, "fec0::16") == (OTHER_MAC if moved else GUEST_MAC)


def test_an_advertisement_teaches_nothing_about_strangers(net: Net6) -> None:
    net.put(na("fec0::88", src=GUEST, flags=0x20000000, dst="ff02::1"))
    assert mac_of(net, "fec0::88") is None
    assert net.count("ndp_ignored") == 1


@pytest.mark.parametrize("src", [ROUTER, DNS, LINK, "ff02::1", "::1"])
def test_some_are_never_learnt(net: Net6, src: str) -> None:
    net.put(ping6(ROUTER, src=src, mac=OTHER_MAC))
    assert mac_of(net, src) is None


def test_the_table_is_bounded(net: Net6) -> None:
    for number in range(NEIGHBOURS + 200):
        net.put(ping6(ROUTER, src=f"fec0::2:{number:x}"))
        net.sent.clear()
    assert len(net.stack.side6.ndp.table) == NEIGHBOURS  # type: ignore[union-attr]


def flow(net: Net6) -> None:
    net.put(udp6(REMOTE, 9, b"x"))
    net.take()


def test_who_is_not_heard_is_asked_directly_then_everybody_is(net: Net6) -> None:
    flow(net)
    net.now += REACHABLE
    net.deliver(net.host.udps[0], b"data", (REMOTE, 9))
    net.take()
    net.run(LOOK / SECOND)
    probes = [answer for answer in net.ask6() if answer.kind == (135, 0)]
    assert probes and all((p.src, p.dst, p.to) == (LINK, GUEST, GUEST_MAC) for p in probes)
    net.run(PROBES + 2)
    assert net.count("ndp_unreachable") == 1
    net.take()
    net.deliver(net.host.udps[0], b"data", (REMOTE, 9))
    (asked,) = net.ask6()
    assert (asked.kind, asked.dst) == ((135, 0), "ff02::1:ff00:15")
    net.put(na(GUEST, mac=OTHER_MAC))
    (frame,) = net.take()
    assert frame[:6] == OTHER_MAC


def test_who_answers_a_probe_stays(net: Net6) -> None:
    flow(net)
    net.now += REACHABLE
    net.deliver(net.host.udps[0], b"data", (REMOTE, 9))
    net.take()
    for _ in range(LOOK // SECOND):
        net.run(1)
        if net.sent:
            break
    assert net.ask6()[0].kind == (135, 0)
    net.put(na(GUEST))
    net.run(PROBES + 2)
    assert not [answer for answer in net.ask6() if answer.kind == (135, 0)]
    assert net.count("ndp_unreachable") == 0


def test_nobody_asks_about_an_idle_guest(net: Net6) -> None:
    net.run(190)
    assert not [answer for answer in net.ask6() if answer.kind == (135, 0)]


def test_unknown_guest_of_a_redirection_is_asked_for(net: Net6) -> None:
    guests = net.stack.guests
    address = wire.ip_bytes("fec0::50")
    assert guests.find(address, net.now) is None
    (asked,) = net.ask6()
    assert asked.payload == address + option(1, ROUTER_MAC)
    net.put(na("fec0::50"))
    assert guests.find(address, net.now) == address


@given(st.binary(max_size=200))
def test_options_never_raise_but_valueerror(data: bytes) -> None:
    try:
        found = list(nd_options(data, 0))
        assert sum(len(whole) for _, whole in found) == len(data)
        link_address(data, 0, 1)
    except ValueError:
        pass


def test_solicitation_of_a_router_is_not_a_neighbours_business(net: Net6) -> None:
    (answer,) = net.ask6(rs(LOCAL))
    assert answer.kind == (134, 0)
