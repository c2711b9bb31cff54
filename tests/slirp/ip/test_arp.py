"""ARP: answers, learning, asking, ageing, and what is never learnt."""

import pytest

from slirp.ip.arp import DEFEND
from slirp.ip.neighbours import AGE, HOLD, NEIGHBOURS, PENDING, SWEEP
from slirp.wire import ipv4 as wire
from tests.slirp.fakes import BROADCAST, GUEST_MAC, HOST_MAC, SECOND, Net, arp, ip4, udp

OTHER_MAC = bytes.fromhex("525400aaaaaa")


def arp_of(frame: bytes) -> tuple[int, str, str, str, str]:
    """Operation, sender MAC and IP, target MAC and IP."""
    assert frame[12:14] == wire.TYPE_ARP
    assert len(frame) == 60
    _, _, _, _, operation, sha, spa, tha, tpa = wire.ARP.unpack_from(frame, 14)
    return operation, wire.mac_text(sha), wire.ip_text(spa), wire.mac_text(tha), wire.ip_text(tpa)


@pytest.fixture
def net() -> Net:
    return Net(known=False)


@pytest.mark.parametrize("address", ["10.0.2.2", "10.0.2.3"])
def test_answers_for_own_addresses(net: Net, address: str) -> None:
    net.put(arp(1, "10.0.2.15", address))
    (frame,) = net.take()
    mac = wire.own_mac(wire.ip_bytes(address))
    assert frame[:12] == GUEST_MAC + mac
    assert arp_of(frame) == (2, wire.mac_text(mac), address, wire.mac_text(GUEST_MAC), "10.0.2.15")


@pytest.mark.parametrize(
    "address", ["10.0.2.1", "10.0.2.4", "10.0.2.15", "10.0.2.255", "10.0.2.0", "8.8.8.8"]
)
def test_is_silent_about_others(net: Net, address: str) -> None:
    net.put(arp(1, "10.0.2.16", address))
    assert net.take() == []


def test_answers_a_probe_without_learning(net: Net) -> None:
    net.put(arp(1, "0.0.0.0", "10.0.2.2"))
    (frame,) = net.take()
    assert arp_of(frame)[:3] == (2, "52:55:0a:00:02:02", "10.0.2.2")
    assert arp_of(frame)[4] == "0.0.0.0"
    assert not net.stack.arp.table


def test_learns_gratuitous_and_follows_a_move(net: Net) -> None:
    net.put(arp(1, "10.0.2.15", "10.0.2.15"))
    entry = net.stack.arp.table[wire.ip_bytes("10.0.2.15")]
    assert entry.mac == GUEST_MAC
    net.put(arp(2, "10.0.2.15", "10.0.2.15", sha=OTHER_MAC))
    assert entry.mac == OTHER_MAC
    assert net.count("neighbour_moved") == 1


def test_a_moved_guest_takes_its_flows_along() -> None:
    net = Net()
    net.put(udp("192.0.2.1", 9, b"x"))
    net.put(arp(1, "10.0.2.15", "10.0.2.2", sha=OTHER_MAC))
    net.take()
    net.deliver(net.host.udps[0], b"y", ("192.0.2.1", 9))
    assert net.ips()[0].to == OTHER_MAC


@pytest.mark.parametrize(
    ("spa", "sha"),
    [
        ("10.0.2.2", GUEST_MAC),
        ("10.0.2.3", GUEST_MAC),
        ("10.0.2.255", GUEST_MAC),
        ("10.0.2.0", GUEST_MAC),
        ("224.0.0.1", GUEST_MAC),
        ("255.255.255.255", GUEST_MAC),
        ("127.0.0.1", GUEST_MAC),
        ("10.0.2.15", BROADCAST),
        ("10.0.2.15", b"\x01\x00\x5e\x00\x00\x01"),
        ("10.0.2.15", bytes(6)),
        ("192.0.2.1", GUEST_MAC),
    ],
)
def test_never_learns(net: Net, spa: str, sha: bytes) -> None:
    net.put(arp(1, spa, "10.0.2.2", sha=sha), arp(2, spa, spa, sha=sha))
    assert not net.stack.arp.table


@pytest.mark.parametrize(
    "broken",
    [
        arp(1, "10.0.2.15", "10.0.2.2")[:41],
        arp(3, "10.0.2.15", "10.0.2.2"),
        arp(1, "10.0.2.15", "10.0.2.2").replace(b"\x00\x01\x08\x00\x06\x04", b"\x00\x02\x08\x00\x06\x04"),
        arp(1, "10.0.2.15", "10.0.2.2").replace(b"\x00\x01\x08\x00\x06\x04", b"\x00\x01\x08\x00\x06\x10"),
    ],
)
def test_malformed_is_counted(net: Net, broken: bytes) -> None:
    net.put(broken)
    assert net.take() == []
    assert net.count("arp_malformed") == 1


def test_defends_its_address_but_not_in_a_storm(net: Net) -> None:
    net.put(arp(1, "10.0.2.2", "10.0.2.2"), arp(1, "10.0.2.2", "10.0.2.2"))
    (frame,) = net.take()
    assert arp_of(frame) == (1, "52:55:0a:00:02:02", "10.0.2.2", "00:00:00:00:00:00", "10.0.2.2")
    assert net.count("arp_conflict") == 2
    net.run(DEFEND / SECOND)
    net.take()
    net.put(arp(1, "10.0.2.2", "10.0.2.2"))
    assert len(net.take()) == 1


def test_learns_from_ip_outside_the_net_too(net: Net) -> None:
    net.put(udp("192.0.2.1", 9, b"x", src="172.16.0.9"))
    net.deliver(net.host.udps[0], b"y", ("192.0.2.1", 9))
    (answer,) = net.ips()
    assert (answer.to, answer.dst) == (GUEST_MAC, "172.16.0.9")


def test_asks_for_an_unknown_guest_and_delivers_what_waited() -> None:
    net = Net()
    net.put(udp("10.0.2.77", 9, b"one"), udp("10.0.2.77", 9, b"two"))
    (question,) = net.take()
    assert arp_of(question) == (1, "52:55:0a:00:02:02", "10.0.2.2", "00:00:00:00:00:00", "10.0.2.77")
    net.put(arp(2, "10.0.2.77", "10.0.2.2", sha=OTHER_MAC, to=HOST_MAC))
    passed = net.ips()
    assert [(p.to, p.mac, p.ttl, p.payload) for p in passed] == [
        (OTHER_MAC, HOST_MAC, 63, b"one"),
        (OTHER_MAC, HOST_MAC, 63, b"two"),
    ]
    net.run(5)
    assert net.take() == []


def test_an_address_that_nobody_has_is_unreachable_after_a_second() -> None:
    net = Net()
    net.put(*[udp("10.0.2.77", 9, b"x")] * (HOLD + 2))
    assert net.count("arp_hold_full") == 2
    net.run(0.99)
    questions = net.take()
    assert len(questions) == 3
    net.run(0.1)
    answers = net.ips()
    assert [(a.src, a.kind) for a in answers] == [("10.0.2.2", (3, 1))] * HOLD
    assert wire.ip_bytes("10.0.2.77") not in net.stack.arp.table


def test_pending_is_bounded() -> None:
    net = Net()
    for number in range(PENDING + 5):
        net.put(udp(f"10.0.2.{100 + number}", 9, b"x"))
    assert len(net.take()) == PENDING
    assert net.count("arp_pending_full") == 5


def test_the_table_is_bounded_and_keeps_who_speaks() -> None:
    net = Net()
    for number in range(NEIGHBOURS + 200):
        net.now += 1000
        source = f"172.16.{number >> 8}.{number & 255}"
        net.put(ip4(source, "192.0.2.1", 253, b""), udp("10.0.2.2", 9, b"x", check=False))
    assert len(net.stack.arp.table) == NEIGHBOURS
    assert net.count("neighbour_evicted") >= 200
    assert wire.ip_bytes("10.0.2.15") in net.stack.arp.table


def test_silent_guests_age() -> None:
    net = Net()
    net.run((AGE + SWEEP) / SECOND + 1)
    assert not net.stack.arp.table


def test_announces_itself(net: Net) -> None:
    net.stack.announce()
    assert [arp_of(frame)[2] for frame in net.take()] == ["10.0.2.2", "10.0.2.3"]
