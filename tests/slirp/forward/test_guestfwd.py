"""Services at addresses of the net: TCP and UDP flows, whose the address is, ends and refusals."""

from __future__ import annotations

import errno

import pytest

from slirp.config import Config
from slirp.config6 import Config6
from slirp.contracts.host import Service
from slirp.forward import guestfwd
from slirp.forward.guestfwd import EARLY, GuestRule
from slirp.forward.tcp import ForwardError
from slirp.udp.flow import IDLE
from slirp.wire.ipv4 import TYPE_ARP, ip_bytes
from tests.slirp.fakes import SECOND, FakeService, Net, arp, icmp, ip4, ping, udp
from tests.slirp.services.test_dhcp import OTHER_MAC, lease
from tests.slirp.test_stack import tcp

HERE = "10.0.2.100"
CAT = Service("program", ("cat",))
MAC = bytes.fromhex("52550a000264")


def rule(protocol: str = "tcp", address: str = HERE, port: int = 80) -> GuestRule:
    return GuestRule(protocol, ip_bytes(address), port, CAT, f"{protocol}:{address}:{port}-cmd:cat")


def made(*rules: GuestRule, config: Config | None = None) -> Net:
    net = Net(config or Config())
    for one in rules:
        net.stack.guest_forwards.add(one)
    net.take()
    return net


def to_us(frame: bytes) -> bytes:
    return MAC + frame[6:]


def begun(net: Net, sport: int = 4000) -> FakeService:
    """A UDP flow whose service is there."""
    net.put(to_us(udp(HERE, 80, b"first", sport=sport)))
    service = net.host.services[-1]
    service.events.host_connected(net.now)
    return service


# ---- the address -------------------------------------------------------------------------------------------


def test_the_address_is_ours_while_a_rule_needs_it() -> None:
    net = Net()
    forwards = net.stack.guest_forwards
    one, two = forwards.add(rule()), forwards.add(rule("udp"))
    assert [frame[12:14] for frame in net.take()] == [TYPE_ARP], "announced once"
    for number, there in ((one.number, True), (two.number, True), (0, False)):
        net.put(arp(1, "10.0.2.15", HERE))
        answers = [frame for frame in net.take() if frame[12:14] == TYPE_ARP and frame[20:22] == b"\0\2"]
        assert [frame[6:12] for frame in answers] == [MAC] * there
        if there:
            (echo,) = net.ask(to_us(ping(HERE)))
            assert (echo.src, echo.mac, echo.kind) == (HERE, MAC, (0, 0))
        forwards.remove(number)
    assert not forwards.remove(one.number)


def test_an_own_address_stays_ours() -> None:
    net = made(rule(address="10.0.2.2", port=8080))
    net.stack.guest_forwards.close()
    assert net.ask(ping("10.0.2.2"))[0].kind == (0, 0)


def test_no_lease_gives_it_away() -> None:
    net = made(rule(address="10.0.2.16"))
    assert lease(net) == "10.0.2.15"
    assert lease(net, OTHER_MAC) == "10.0.2.17"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (rule(), f"tcp port 80 of {HERE} is taken"),
        (rule(address="10.0.3.1"), "10.0.3.1 is not in the net"),
        (rule(address="fec0::5"), "IPv6 is off"),
        (rule(address="10.0.2.255"), "10.0.2.255 is the broadcast address"),
        (rule(address="10.0.2.0"), "10.0.2.0 is the net's own address"),
        (rule(address="10.0.2.15"), "10.0.2.15 is a guest's"),
        (rule("udp", "10.0.2.3", 53), "udp port 53 of 10.0.2.3 is taken"),
    ],
)
def test_rules_that_cannot_be(bad: GuestRule, message: str) -> None:
    net = made(rule())
    with pytest.raises(ForwardError, match=f"^{message}$"):
        net.stack.guest_forwards.add(bad)
    assert len(net.stack.guest_forwards.rules) == 1


def test_rules_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guestfwd, "RULES", 1)
    with pytest.raises(ForwardError, match=r"^more than 1 of them$"):
        made(rule(), rule("udp"))


# ---- TCP ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [Config(), Config(restrict=True)])
def test_a_connection_has_a_service_of_its_own(config: Config) -> None:
    net = made(rule(), config=config)
    net.put(to_us(tcp(HERE, 80)), to_us(tcp(HERE, 80, sport=4001)))
    one, two = net.host.services
    assert one.service is CAT
    assert not one.packets
    one.events.host_connected(net.now)
    (answer,) = net.ips()
    assert (answer.src, answer.ports, answer.body[13] & 0x12) == (HERE, (80, 4000), 0x12)
    two.events.host_failed(errno.ENOENT, net.now)
    (answer,) = net.ips()
    assert (answer.ports, answer.body[13] & 4) == ((80, 4001), 4)
    assert not net.host.tcps


def test_other_ports_of_it_are_closed() -> None:
    net = made(rule(), rule("udp"))
    assert net.ask(to_us(tcp(HERE, 81)))[0].body[13] & 4
    assert net.ask(to_us(udp(HERE, 81, b"x")))[0].kind == (3, 3)
    assert not net.host.tcps
    assert not net.host.udps


def test_a_service_that_cannot_begin_is_a_reset() -> None:
    net = made(rule())
    net.host.no_service = True
    assert net.ask(to_us(tcp(HERE, 80)))[0].body[13] & 4


# ---- UDP ---------------------------------------------------------------------------------------------------


def test_datagrams_both_ways() -> None:
    net = made(rule("udp"))
    service = begun(net)
    assert service.packets
    net.put(to_us(udp(HERE, 80, b"second")))
    assert service.got == [b"first", b"second"]
    service.inbox += [b"one", b"two"]
    service.events.host_readable(net.now)
    assert [(a.src, a.ports, a.payload) for a in net.ips()] == [
        (HERE, (80, 4000), b"one"),
        (HERE, (80, 4000), b"two"),
    ]
    other = begun(net, sport=4001)
    assert other is not service
    assert other.got == [b"first"]
    assert [row["src_port"] for row in net.stack.info()] == [4001, 4000]


def test_early_datagrams_wait_bounded() -> None:
    net = made(rule("udp"))
    net.put(*[to_us(udp(HERE, 80, b"%d" % n)) for n in range(EARLY + 2)])
    (service,) = net.host.services
    assert not service.got
    service.events.host_connected(net.now)
    assert service.got == [b"%d" % n for n in range(EARLY)]
    assert net.count("guestfwd_early_dropped") == 2


def test_the_services_end_and_the_next_datagram() -> None:
    net = made(rule("udp"))
    service = begun(net)
    service.inbox.append(b"")
    service.events.host_readable(net.now)
    assert service.closed
    assert not net.ips()
    assert begun(net).got == [b"first"]


@pytest.mark.parametrize("when", ["begin", "start", "read", "write"])
def test_a_refusal_is_told(when: str) -> None:
    net = made(rule("udp"))
    frame = to_us(udp(HERE, 80, b"hello"))
    if when == "begin":
        net.host.no_service = True
        answers = net.ask(frame)
    elif when == "start":
        net.put(frame)
        net.host.services[0].events.host_failed(errno.ENOENT, net.now)
        answers = net.ips()
    else:
        service = begun(net)
        service.broken = errno.ECONNREFUSED
        if when == "read":
            service.events.host_readable(net.now)
        answers = net.ips() if when == "read" else net.ask(frame)
    assert [(answer.kind, answer.src) for answer in answers] == [((3, 3), HERE)]
    assert not net.stack.guest_forwards.flows(net.now)


def test_a_guests_refusal_ends_it() -> None:
    net = made(rule("udp"))
    service = begun(net)
    ours = ip4(HERE, "10.0.2.15", 17, bytes.fromhex("00500fa000080000"))[14:]
    net.put(to_us(ip4("10.0.2.15", HERE, 1, icmp(3, 3, 0, ours))))
    assert service.closed


def test_idle_flows_end_and_flows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guestfwd, "FLOWS", 2)
    net = made(rule("udp"))
    services = [begun(net, sport=4000 + n) for n in range(3)]
    assert [service.closed for service in services] == [True, False, False]
    net.run(IDLE / SECOND / 2)
    net.put(arp(1, "10.0.2.15", "10.0.2.2"), to_us(udp(HERE, 80, b"more", sport=4002)))
    net.run(IDLE / SECOND / 2 + 1)
    assert [service.closed for service in services] == [True, True, False]
    net.run(IDLE / SECOND)
    assert services[2].closed
    assert net.count("guestfwd_expired") == 2


def test_removal_ends_udp_flows() -> None:
    net = Net()
    number = net.stack.guest_forwards.add(rule("udp")).number
    service = begun(net)
    net.stack.guest_forwards.remove(number)
    assert service.closed


# ---- IPv6 --------------------------------------------------------------------------------------------------


def test_an_ipv6_address_is_ours_while_a_rule_needs_it() -> None:
    """The rest is as with IPv4; ``tests/netns/test_guestfwd.py`` talks to it."""
    net = Net(Config(v6=Config6()))
    stack = net.stack
    number = stack.guest_forwards.add(rule(address="fec0::5")).number
    address = ip_bytes("fec0::5")
    assert stack.side6 is not None
    assert address in stack.side6.ndp.own
    assert len(stack.targets(address, 80)) == 1
    assert stack.targets(address, 80) == stack.guest_forwards.tcp(address, 80)
    assert stack.targets(address, 81) == []
    stack.guest_forwards.remove(number)
    assert address not in stack.side6.ndp.own
    with pytest.raises(ForwardError, match=r"^fec1::5 is not in the net$"):
        stack.guest_forwards.add(rule(address="fec1::5"))


def test_a_name_with_two_addresses_is_tried_in_turn() -> None:
    net = Net(Config())
    service = Service("tcp", ("::1", 7), also=(("127.0.0.1", 7),))
    net.stack.guest_forwards.add(GuestRule("tcp", ip_bytes(HERE), 80, service))
    net.take()
    net.put(to_us(tcp(HERE, 80)))
    (first,) = net.host.services
    assert first.service.to == ("::1", 7)
    first.events.host_failed(errno.ECONNREFUSED, net.now)
    assert net.host.services[-1].service.to == ("127.0.0.1", 7)
