"""Redirections with IPv6 at one end or both: which guest, whom it sees, errors across the families."""

from __future__ import annotations

from typing import Any

import pytest

from slirp.config import Config
from slirp.config6 import Config6
from slirp.forward.guests import eui64
from slirp.forward.tcp import Rule
from slirp.services.leases import Leases
from slirp.wire import ipv4 as wire
from tests.slirp.fakes import GUEST_MAC, FakeClient, FakeError, arp, read, udp
from tests.slirp.fakes6 import (
    GUEST,
    LOCAL,
    REMOTE,
    ROUTER,
    Ip6,
    Net6,
    icmp6,
    ip6,
    na,
    ns,
    ping6,
    read6,
    summed,
    udp6,
)

SIX = ("::1", 5555)
FOUR = ("0.0.0.0", 5555)
OWN = "fec0::5054:ff:fe12:3456"  # made from the guest's MAC
OTHER_MAC = bytes.fromhex("525400bbbbbb")


def listen(net: Net6, where: tuple[str, int], guest: Any = None, protocol: str = "tcp") -> Any:
    net.stack.forwards.add(Rule(protocol, where, guest, 22))
    return (net.host.listeners if protocol == "tcp" else net.host.udp_listeners)[where]


def call(net: Net6, listener: Any, peer: str = "::1", local: str = "::1") -> FakeClient:
    client = FakeClient((peer, 40000), (local, 5555))
    listener.call(net.now, client)
    return client


def syn(net: Net6) -> Ip6:
    frames = [frame for frame in net.take() if frame[12:14] == wire.TYPE_IPV6 and frame[20] == 6]
    assert len(frames) == 1
    return read6(frames[0])


def lease6(net: Net6, address: str, mac: bytes = GUEST_MAC, name: str = "") -> None:
    assert net.stack.side6 is not None
    leases: Leases = net.stack.side6.dhcp.leases
    found = leases.claim(b"duid" + mac, mac, wire.ip_bytes(address), net.now)
    assert found is not None
    leases.bind(found, 3600, net.now)
    found.hostname = name


def test_a_guest_by_its_address_sees_the_router() -> None:
    net = Net6()
    call(net, listen(net, SIX, wire.ip_bytes(GUEST)))
    found = syn(net)
    assert (found.src, found.dst, found.to, found.ports) == (ROUTER, GUEST, GUEST_MAC, (40000, 22))


def test_a_client_from_elsewhere_is_seen_as_itself() -> None:
    net = Net6()
    call(net, listen(net, ("::", 5555), wire.ip_bytes(GUEST)), REMOTE)
    assert syn(net).src == REMOTE


@pytest.mark.parametrize("peer", ["fe80::1%eth0", "fec0::99", "192.0.2.7"])
def test_clients_that_a_guest_could_not_answer_are_the_router(peer: str) -> None:
    net = Net6()
    call(net, listen(net, FOUR if "." in peer else SIX, wire.ip_bytes(GUEST)), peer)
    assert syn(net).src == ROUTER


def test_an_ipv6_client_of_an_ipv4_guest() -> None:
    net = Net6()
    call(net, listen(net, SIX, wire.ip_bytes("10.0.2.15")), REMOTE)
    (frame,) = net.take()
    answer = read(frame)
    assert (answer.src, answer.dst, answer.ports) == ("10.0.2.2", "10.0.2.15", (40000, 22))


def test_the_first_guest_by_its_lease() -> None:
    net = Net6()
    lease6(net, "fec0::1000")
    net.put(ping6(ROUTER, src="fec0::1000"))
    net.take()
    call(net, listen(net, SIX))
    assert syn(net).dst == "fec0::1000"


def test_the_first_guest_by_what_it_was_heard_to_use() -> None:
    net = Net6()
    call(net, listen(net, SIX))
    assert syn(net).dst == GUEST


def test_the_address_made_from_the_mac_comes_first() -> None:
    assert wire.ip_bytes(OWN)[8:] == eui64(GUEST_MAC)
    net = Net6()
    net.put(ping6(ROUTER, src=OWN))
    net.take()
    call(net, listen(net, SIX))
    assert syn(net).dst == OWN


def test_a_guest_that_only_looked_for_duplicates_is_asked_for() -> None:
    net = Net6(known=False)
    net.put(arp(1, "10.0.2.15", "10.0.2.2"), ns(OWN, src="::"))
    net.take()
    listener = listen(net, SIX)
    call(net, listener)  # the address has not been heard of: IPv4 for now, and it is asked for
    frames = net.take()
    asked = [frame for frame in frames if frame[12:14] == wire.TYPE_IPV6]
    assert read6(asked[0]).kind == (135, 0)
    net.put(na(OWN))
    net.take()
    call(net, listener)
    assert syn(net).dst == OWN


def test_the_first_guest_is_the_same_for_both_families() -> None:
    net = Net6(known=False)
    net.put(ping6(ROUTER, src="fec0::77", mac=OTHER_MAC))
    net.put(arp(1, "10.0.2.15", "10.0.2.2"), ping6(ROUTER, src=OWN))
    net.take()
    call(net, listen(net, SIX))
    assert syn(net).dst == OWN


def test_a_guest_by_mac() -> None:
    net = Net6()
    net.put(ping6(ROUTER, src="fec0::77", mac=OTHER_MAC), ping6(ROUTER, src=LOCAL, mac=OTHER_MAC))
    net.take()
    call(net, listen(net, SIX, OTHER_MAC))
    assert syn(net).dst == "fec0::77"


@pytest.mark.parametrize("four", [False, True])
def test_a_guest_by_name(four: bool) -> None:
    net = Net6()
    if four:
        found = net.stack.dhcp.leases.claim(b"\1c", GUEST_MAC, wire.ip_bytes("10.0.2.15"), net.now)
        assert found is not None
        net.stack.dhcp.leases.bind(found, 3600, net.now)
        found.hostname = "web"
    else:
        lease6(net, GUEST.replace("15", "1015"), name="Web")
        net.put(ping6(ROUTER, src="fec0::1015"))
        net.take()
    call(net, listen(net, SIX, "web"))
    assert syn(net).dst == (GUEST if four else "fec0::1015")


def test_an_ipv4_listener_stays_with_ipv4() -> None:
    net = Net6()
    call(net, listen(net, FOUR), "127.0.0.1", "127.0.0.1")
    assert net.take()[0][12:14] == wire.TYPE_IPV4


def test_without_ipv4_all_lead_to_ipv6() -> None:
    net = Net6(Config(ipv4=False, v6=Config6()))
    call(net, listen(net, FOUR), "127.0.0.1", "127.0.0.1")
    found = syn(net)
    assert (found.src, found.dst) == (ROUTER, GUEST)
    (row,) = [row for row in net.stack.info() if row["state"] == "HOST_FORWARD"]
    assert row["dst"] == "*"
    lease6(net, "fec0::1000")
    (row,) = [row for row in net.stack.info() if row["state"] == "HOST_FORWARD"]
    assert row["dst"] == "fec0::1000"


def test_data_cross() -> None:
    net = Net6()
    client = call(net, listen(net, SIX, wire.ip_bytes(GUEST)))
    seq = int.from_bytes(syn(net).body[4:8], "big") + 1

    def segment(number: int, flags: int, data: bytes = b"") -> bytes:
        head = wire.PORTS.pack(22, 40000) + number.to_bytes(4, "big") + seq.to_bytes(4, "big")
        body = head + bytes((0x50, flags)) + b"\xff\xff\0\0\0\0" + data
        return ip6(GUEST, ROUTER, 6, summed(GUEST, ROUTER, 6, body, 16))

    net.put(segment(1000, 0x12))
    net.put(segment(1001, 0x18, b"hello"))
    assert client.sent == b"hello"
    (row,) = [row for row in net.stack.info() if row["state"] == "ESTABLISHED"]
    assert (row["src"], row["dst"]) == (GUEST, ROUTER)


# ---- UDP ---------------------------------------------------------------------------------------------------


def test_udp_there_and_back() -> None:
    net = Net6()
    listener = listen(net, SIX, wire.ip_bytes(GUEST), "udp")
    listener.call(net.now, b"ask", ("::1", 40000), "::1")
    (asked,) = net.ask6()
    assert (asked.src, asked.dst, asked.ports, asked.payload) == (ROUTER, GUEST, (40000, 22), b"ask")
    net.put(udp6(ROUTER, 40000, b"answer", sport=22))
    assert listener.sent == [(b"answer", ("::1", 40000), "::1")]


def test_udp_across_the_families() -> None:
    net = Net6()
    listener = listen(net, SIX, wire.ip_bytes("10.0.2.15"), "udp")
    listener.call(net.now, b"ask", (REMOTE, 40000), "::1")
    (answer,) = net.ask()
    assert (answer.src, answer.payload) == ("10.0.2.2", b"ask")
    net.put(udp("10.0.2.2", 40000, b"answer", sport=22))
    assert listener.sent == [(b"answer", (REMOTE, 40000), "::1")]


@pytest.mark.parametrize(
    ("guest", "kind"), [(GUEST, (1, 4)), ("10.0.2.15", (3, 3))], ids=["the same family", "the other"]
)
def test_an_error_of_a_client_in_the_guests_words(guest: str, kind: tuple[int, int]) -> None:
    net = Net6()
    listener = listen(net, SIX, wire.ip_bytes(guest), "udp")
    listener.call(net.now, b"ask", ("::1", 40000), "::1")
    net.take()
    listener.errors.append(FakeError(111, 1, 4, 0, "::1", ("::1", 40000), b"answer"))
    listener.events.host_readable(net.now)
    (frame,) = net.take()
    answer = read6(frame) if ":" in guest else read(frame)
    assert answer.kind == kind


def test_a_guest_refuses_udp() -> None:
    net = Net6()
    listener = listen(net, SIX, wire.ip_bytes(GUEST), "udp")
    listener.call(net.now, b"ask", ("::1", 40000), "::1")
    (frame,) = net.take()
    net.put(icmp6(GUEST, ROUTER, 1, 4, 0, frame[14:]))
    assert net.count("udp_guest_refused") == 1


# ---- addresses that nobody has been heard to use -----------------------------------------------------------


def quiet(config: Config | None = None) -> Net6:
    """A guest of which only the link-local address has been heard."""
    net = Net6(config or Config(v6=Config6()), known=False)
    if net.config.ipv4:
        net.put(arp(1, "10.0.2.15", "10.0.2.2"))
    net.put(ns("fe80::2", src=LOCAL))
    net.take()
    return net


@pytest.mark.parametrize(
    "config", [Config(v6=Config6()), Config(ipv4=False, v6=Config6())], ids=["both", "IPv6"]
)
def test_a_quiet_guest_is_asked_for_the_address_of_its_mac(config: Config) -> None:
    net = quiet(config)
    call(net, listen(net, SIX))
    (asked,) = [found for found in net.ask6() if found.kind == (135, 0)]
    assert asked.payload[:16] == wire.ip_bytes(OWN)
    net.put(na(OWN))
    net.take()
    net.run(0.3)
    assert syn(net).dst == OWN


def test_a_guest_that_does_not_answer_is_reached_by_ipv4_soon() -> None:
    net = quiet()
    call(net, listen(net, SIX))
    net.run(1.2)
    assert not [frame for frame in net.take() if frame[12:14] == wire.TYPE_IPV4]
    net.run(1)
    (frame,) = [frame for frame in net.take() if frame[12:14] == wire.TYPE_IPV4]
    assert read(frame).dst == "10.0.2.15"
    call(net, net.host.listeners[SIX])  # and then at once
    assert [frame for frame in net.take() if frame[12:14] == wire.TYPE_IPV4]


def test_a_guest_without_ipv6_is_not_waited_for() -> None:
    net = Net6(known=False)
    net.put(arp(1, "10.0.2.15", "10.0.2.2"))
    net.take()
    call(net, listen(net, SIX))
    assert net.take()[0][12:14] == wire.TYPE_IPV4
