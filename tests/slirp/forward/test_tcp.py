"""Redirections on a virtual clock: clients of the host, guests that are there, come late, refuse, or never come."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from slirp.config import Config
from slirp.forward.tcp import PORTS, WAITING, Forward, ForwardError, Rule
from slirp.forward.udp import CLIENTS
from slirp.services.leases import BOUND, Lease
from slirp.tcp.states import OPEN_WAIT
from slirp.udp.flow import IDLE
from slirp.wire import checksum
from slirp.wire import ipv4 as wire
from tests.slirp.fakes import (
    GUEST_MAC,
    SECOND,
    FakeClient,
    FakeError,
    FakeListener,
    FakeUdpListener,
    Ip,
    Net,
    arp,
    icmp,
    ip4,
    udp,
    udp_body,
)

FIN, SYN, RST, ACK = 1, 2, 4, 16
LISTEN = ("0.0.0.0", 5555)
UDP_LISTEN = ("0.0.0.0", 5556)


def tcp(dst: str, sport: int, dport: int, seq: int, ack: int, flags: int, data: bytes = b"", src: str = "10.0.2.15") -> bytes:  # fmt: skip
    """A guest's TCP frame."""
    head = wire.PORTS.pack(sport, dport) + seq.to_bytes(4, "big") + (ack & 0xFFFFFFFF).to_bytes(4, "big")
    body = head + (0x5000 | flags).to_bytes(2, "big") + b"\xff\xff\0\0\0\0" + data
    start = wire.ip_int(wire.ip_bytes(src) + wire.ip_bytes(dst)) + 6 + len(body)
    value = checksum.checksum(body, start)
    return ip4(src, dst, 6, body[:16] + value.to_bytes(2, "big") + body[18:])


class Segment:
    """A TCP frame of the stack."""

    def __init__(self, ip: Ip) -> None:
        self.src, self.dst = ip.src, ip.dst
        self.sport, self.dport = ip.ports
        self.seq, self.ack = (int.from_bytes(ip.body[at : at + 4], "big") for at in (4, 8))
        word = int.from_bytes(ip.body[12:14], "big")
        self.flags = word & 0x3F
        self.data = ip.body[(word >> 10) & 0x3C :]


def segments(net: Net, *frames: bytes) -> list[Segment]:
    return [Segment(ip) for ip in net.ask(*frames) if ip.protocol == 6]


def redirected(net: Net, guest: Any = None, protocol: str = "tcp", **more: Any) -> FakeListener:
    rule = Rule(protocol, LISTEN, guest, 22, **more)
    net.stack.forwards.add(rule)
    return net.host.listeners[LISTEN]


def datagrams(net: Net, guest: Any = None) -> FakeUdpListener:
    net.stack.forwards.add(Rule("udp", UDP_LISTEN, guest, 53))
    return net.host.udp_listeners[UDP_LISTEN]


def established(net: Net, client: FakeClient | None = None) -> tuple[FakeClient, Segment]:
    """A client connected to the guest's port 22; the guest's next sequence number is 1001."""
    listener = net.host.listeners.get(LISTEN) or redirected(net)
    client = client or FakeClient()
    listener.call(net.now, client)
    (syn,) = segments(net)
    (ack,) = segments(net, tcp(syn.src, 22, syn.sport, 1000, syn.seq + 1, SYN | ACK))
    assert (ack.flags & ~8, ack.ack) == (ACK, 1001)
    return client, syn


def lease(net: Net, address: str, mac: bytes = GUEST_MAC, name: str = "") -> None:
    leases = net.stack.dhcp.leases
    found = leases.claim(b"\1" + mac, mac, wire.ip_bytes(address), net.now)
    assert isinstance(found, Lease)
    leases.bind(found, 3600, net.now)
    found.hostname = name
    assert found.state == BOUND


# ---- TCP ---------------------------------------------------------------------------------------------------


def test_a_client_reaches_the_guest_and_data_flow_both_ways() -> None:
    net = Net()
    client, syn = established(net)
    assert (syn.src, syn.dst, syn.sport, syn.dport, syn.flags) == ("10.0.2.2", "10.0.2.15", 40000, 22, SYN)
    client.inbox.append(b"hello")
    client.events.host_readable(net.now)
    (data,) = segments(net)
    assert data.data == b"hello"
    net.put(tcp("10.0.2.2", 22, 40000, 1001, data.seq + 5, ACK, b"world"))
    assert client.sent == b"world"


def test_the_guests_end_is_a_half_close() -> None:
    net = Net()
    client, syn = established(net)
    net.ask(tcp("10.0.2.2", 22, 40000, 1001, syn.seq + 1, FIN | ACK))
    assert client.shut and not client.closed
    client.inbox += [b"late", b""]
    client.events.host_readable(net.now)
    client.events.host_readable(net.now)
    out = segments(net)
    assert [seg.data for seg in out if seg.data] == [b"late"]
    assert any(seg.flags & FIN for seg in out)


def test_the_clients_end_is_a_half_close() -> None:
    net = Net()
    client, _syn = established(net)
    client.inbox.append(b"")
    client.events.host_readable(net.now)
    (fin,) = segments(net)
    assert fin.flags & FIN
    net.put(tcp("10.0.2.2", 22, 40000, 1001, fin.seq + 1, ACK, b"answer"))
    assert client.sent == b"answer" and not client.closed


def test_a_guest_that_refuses_resets_the_client_at_once() -> None:
    net = Net()
    listener = redirected(net)
    client = FakeClient()
    listener.call(net.now, client)
    (syn,) = segments(net)
    net.put(tcp("10.0.2.2", 22, syn.sport, 0, syn.seq + 1, RST | ACK))
    assert client.closed and client.was_reset
    assert len(net.stack.tcp) == 0


def test_a_guests_reset_is_the_clients_reset() -> None:
    net = Net()
    client, syn = established(net)
    net.put(tcp("10.0.2.2", 22, 40000, 1001, syn.seq + 1, RST | ACK))
    assert client.was_reset


def test_a_clients_reset_is_the_guests_reset() -> None:
    net = Net()
    client, _ = established(net)

    def broken(size: int) -> bytes:
        raise OSError(errno.ECONNRESET, "reset")

    client.recv = broken  # type: ignore[method-assign]
    client.events.host_readable(net.now)
    (out,) = segments(net)
    assert out.flags & RST


@pytest.mark.parametrize(
    ("peer", "seen"),
    [
        (("127.0.0.1", 40000), "10.0.2.2"),
        (("127.9.9.9", 40000), "10.0.2.2"),
        (("192.0.2.7", 40000), "192.0.2.7"),
        (("::ffff:192.0.2.7", 40000), "192.0.2.7"),
        (("10.0.2.77", 40000), "10.0.2.2"),
        (("2001:db8::1", 40000), "10.0.2.2"),
        (("", 0), "10.0.2.2"),
    ],
)
def test_who_the_guest_sees(peer: tuple[str, int], seen: str) -> None:
    net = Net()
    redirected(net).call(net.now, FakeClient(peer))
    (syn,) = segments(net)
    assert syn.src == seen
    assert syn.sport == peer[1] or (peer[1] == 0 and syn.sport >= 1024)


def test_under_restrict_all_clients_are_the_gateway_and_get_through() -> None:
    net = Net(Config(restrict=True))
    client, syn = established(net, FakeClient(("192.0.2.7", 40000)))
    assert syn.src == "10.0.2.2" and not client.closed


def test_clients_with_one_port_get_different_ones() -> None:
    net = Net()
    listener = redirected(net)
    listener.call(net.now, FakeClient(("127.0.0.1", 40000)), FakeClient(("127.0.0.2", 40000)))
    first, second = segments(net)
    assert first.sport == 40000 != second.sport


# ---- a guest that is not there -----------------------------------------------------------------------------


def test_a_client_waits_for_its_guest() -> None:
    net = Net(known=False)
    client = FakeClient()
    redirected(net).call(net.now, client)
    net.run(20)
    assert not client.closed and not segments(net)
    net.put(arp(1, "10.0.2.15", "10.0.2.2"))
    net.take()
    net.run(0.3)
    (syn,) = segments(net)
    assert syn.flags == SYN and not client.closed


def test_a_client_does_not_wait_for_ever() -> None:
    net = Net(known=False)
    client = FakeClient()
    redirected(net).call(net.now, client)
    net.run(OPEN_WAIT / SECOND - 1)
    assert not client.closed
    net.run(2)
    assert client.closed and client.was_reset
    assert net.count("forward_timed_out") == 1
    assert len(net.stack.tcp) == 0


def test_a_silent_guest_is_asked_every_two_seconds_and_then_given_up() -> None:
    net = Net()
    client = FakeClient()
    redirected(net).call(net.now, client)
    net.run(OPEN_WAIT / SECOND - 0.5)
    syns = segments(net)
    assert 28 <= len(syns) <= 32 and all(seg.flags == SYN for seg in syns)
    net.run(1)
    (rst,) = segments(net)
    assert rst.flags & RST and client.was_reset and len(net.stack.tcp) == 0


def test_the_wait_is_one_bound_for_both_parts() -> None:
    net = Net(known=False)
    client = FakeClient()
    redirected(net).call(net.now, client)
    net.run(50)
    net.put(arp(1, "10.0.2.15", "10.0.2.2"))
    net.run(OPEN_WAIT / SECOND - 50 + 1)
    assert client.was_reset


def test_a_client_that_left_does_not_greet_the_guest() -> None:
    net = Net(known=False)
    left, stays = FakeClient(), FakeClient(("127.0.0.1", 40001))
    redirected(net).call(net.now, left, stays)
    left.left = True
    net.run(1)
    assert left.closed and net.count("forward_client_left") == 1
    net.put(arp(1, "10.0.2.15", "10.0.2.2"))
    net.take()
    net.run(0.5)
    assert [seg.sport for seg in segments(net)] == [40001]


def test_a_client_that_leaves_while_the_syn_is_out_ends_the_attempt() -> None:
    net = Net()
    client = FakeClient()
    redirected(net).call(net.now, client)
    segments(net)
    client.left = True
    net.run(0.3)
    (rst,) = segments(net)
    assert rst.flags & RST and len(net.stack.tcp) == 0


def test_waiting_clients_are_bounded() -> None:
    net = Net(known=False)
    listener = redirected(net)
    clients = [FakeClient(("127.0.0.1", 1024 + n)) for n in range(WAITING + 3)]
    for client in clients:
        listener.call(net.now, client)
    assert [client.was_reset for client in clients] == [False] * WAITING + [True] * 3
    assert net.count("forward_waiting_full") == 3


def test_settled_clients_do_not_count_as_waiting() -> None:
    net = Net()
    listener = redirected(net)
    for number in range(WAITING + 3):
        client = FakeClient(("127.0.0.1", 1024 + number))
        listener.call(net.now, client)
        (syn,) = segments(net)
        net.ask(tcp("10.0.2.2", 22, syn.sport, 1000, syn.seq + 1, SYN | ACK))
        assert not client.closed
    assert net.count("forward_waiting_full") == 0


def test_a_part_of_the_flows_is_kept_for_guests() -> None:
    net = Net()
    listener = redirected(net)
    limit = net.stack.tcp.limits.flows * 3 // 4
    net.stack.tcp._flows.update({bytes([n >> 8, n & 255]): None for n in range(limit)})  # type: ignore[misc]
    client = FakeClient()
    listener.call(net.now, client)
    assert client.was_reset and net.count("forward_flows_full") == 1


def test_without_descriptors_a_listener_rests() -> None:
    net = Net()
    listener = redirected(net)
    listener.fail = errno.EMFILE
    listener.call(net.now)
    assert not listener.watched
    listener.fail = 0
    net.run(0.2)
    assert listener.watched


# ---- which guest -------------------------------------------------------------------------------------------


def other(net: Net, address: str = "10.0.2.20", mac: bytes = b"\x52\x54\0\0\0\1") -> None:
    net.put(arp(1, address, "10.0.2.2", sha=mac))
    net.take()


def test_a_guest_by_its_address() -> None:
    net = Net()
    other(net)
    redirected(net, wire.ip_bytes("10.0.2.20")).call(net.now, FakeClient())
    assert segments(net)[0].dst == "10.0.2.20"


def test_a_guest_by_its_mac_with_a_static_address_or_a_lease() -> None:
    mac = b"\x52\x54\0\0\0\1"
    net = Net()
    other(net)
    redirected(net, mac).call(net.now, FakeClient())
    assert segments(net)[0].dst == "10.0.2.20"
    lease(net, "10.0.2.33", mac)
    other(net, "10.0.2.33")
    net.host.listeners[LISTEN].call(net.now, FakeClient())
    assert segments(net)[0].dst == "10.0.2.33"


def test_a_guest_by_its_name_in_any_case() -> None:
    net = Net(known=False)
    listener = redirected(net, "Web")
    listener.call(net.now, FakeClient())
    lease(net, "10.0.2.20", name="wEB")
    other(net)
    net.run(0.3)
    assert segments(net)[0].dst == "10.0.2.20"


def test_the_first_guest_is_the_one_with_a_lease_if_nobody_has_the_first_address() -> None:
    net = Net(known=False)
    lease(net, "10.0.2.20")
    other(net)
    redirected(net).call(net.now, FakeClient())
    assert segments(net)[0].dst == "10.0.2.20"


# ---- rules -------------------------------------------------------------------------------------------------


def test_a_range_of_ports() -> None:
    net = Net()
    redirected(net, count=3)
    net.host.listeners["0.0.0.0", 5557].call(net.now, FakeClient())
    assert segments(net)[0].dport == 24
    assert [row["src_port"] for row in net.stack.info()[-3:]] == [5555, 5556, 5557]


def test_a_rule_that_fails_leaves_nothing() -> None:
    net = Net()
    net.host.listen(("0.0.0.0", 5557), None)
    with pytest.raises(ForwardError, match=r"cannot listen on 0\.0\.0\.0:5557: Address already in use"):
        redirected(net, count=3)
    assert net.host.listeners[LISTEN].closed
    assert not net.stack.forwards.rules


def test_ports_are_bounded() -> None:
    net = Net()
    redirected(net, count=PORTS)
    with pytest.raises(ForwardError, match="more than"):
        net.stack.forwards.add(Rule("udp", UDP_LISTEN, None, 53))


def test_removing_a_rule_refuses_who_waits_and_keeps_who_talks() -> None:
    net = Net()
    talks, _ = established(net)
    waits = FakeClient(("127.0.0.1", 40001))
    net.host.listeners[LISTEN].call(net.now, waits)
    assert net.stack.forwards.remove(1) and not net.stack.forwards.remove(1)
    assert net.host.listeners[LISTEN].closed
    assert waits.was_reset and not talks.closed


def test_closing_the_stack_closes_listeners_and_clients() -> None:
    net = Net(known=False)
    client = FakeClient()
    redirected(net).call(net.now, client)
    datagrams(net)
    net.stack.close(net.now)
    assert client.closed and net.host.listeners[LISTEN].closed and net.host.udp_listeners[UDP_LISTEN].closed


def test_unix_and_rows_of_info_usernet() -> None:
    net = Net()
    net.stack.forwards.add(Rule("unix", "\0abstract", "web", 80))
    found = net.stack.forwards.add(Rule("tcp", LISTEN, b"\x52\x54\0\0\0\1", 22))
    assert isinstance(found, Forward) and found.number == 2
    rows = net.stack.info()
    shown = [(r["protocol"], r["state"], r["src"], r["src_port"], r["dst"], r["dst_port"]) for r in rows]
    assert shown == [
        ("TCP", "HOST_FORWARD", "0.0.0.0", 5555, "52:54:00:00:00:01", 22),
        ("TCP", "HOST_FORWARD", "@abstract", 0, "web", 80),
    ]


# ---- UDP ---------------------------------------------------------------------------------------------------


def test_udp_there_and_back_from_the_address_that_was_asked() -> None:
    net = Net()
    listener = datagrams(net)
    listener.call(net.now, b"query", ("127.0.0.1", 7000), "127.0.0.5")
    (asked,) = net.ips()
    assert (asked.src, asked.dst, asked.ports, asked.payload) == (
        "10.0.2.2",
        "10.0.2.15",
        (7000, 53),
        b"query",
    )
    net.put(udp("10.0.2.2", 7000, b"answer", sport=53))
    assert listener.sent == [(b"answer", ("127.0.0.1", 7000), "127.0.0.5")]
    assert not net.host.udps, "no socket but the listener"


def test_udp_clients_with_one_port_are_told_apart() -> None:
    net = Net()
    listener = datagrams(net)
    listener.call(net.now, b"1", ("127.0.0.1", 7000))
    listener.call(net.now, b"2", ("127.0.0.2", 7000))
    first, second = net.ips()
    assert first.ports[0] == 7000 != second.ports[0]
    net.put(udp("10.0.2.2", second.ports[0], b"two", sport=53))
    net.put(udp("10.0.2.2", 7000, b"one", sport=53))
    assert [(data, remote) for data, remote, _ in listener.sent] == [
        (b"two", ("127.0.0.2", 7000)),
        (b"one", ("127.0.0.1", 7000)),
    ]


def test_a_redirected_server_still_speaks_to_the_world() -> None:
    net = Net()
    listener = datagrams(net)
    listener.call(net.now, b"query", ("127.0.0.1", 7000))
    net.ips()
    net.put(udp("192.0.2.53", 53, b"upstream", sport=53))
    (sock,) = net.host.udps
    assert sock.sent == [(b"upstream", ("192.0.2.53", 53), 63)]
    net.deliver(sock, b"reply", ("192.0.2.53", 53))
    (reply,) = net.ips()
    assert (reply.src, reply.ports) == ("192.0.2.53", (53, 53))
    assert not listener.sent


def test_a_guest_that_spoke_first_becomes_redirected() -> None:
    net = Net()
    net.put(udp("192.0.2.53", 53, b"early", sport=53))
    listener = datagrams(net)
    listener.call(net.now, b"query", ("127.0.0.1", 7000))
    assert net.ips()[0].payload == b"query"
    net.put(udp("10.0.2.2", 7000, b"answer", sport=53), udp("192.0.2.53", 53, b"more", sport=53))
    assert [data for data, _, _ in listener.sent] == [b"answer"]
    assert [data for data, _, _ in net.host.udps[0].sent] == [b"early", b"more"]


def test_udp_works_under_restrict_for_clients_only() -> None:
    net = Net(Config(restrict=True))
    listener = datagrams(net)
    listener.call(net.now, b"query", ("192.0.2.9", 7000))
    (asked,) = net.ips()
    assert asked.src == "10.0.2.2"
    net.put(udp("10.0.2.2", 7000, b"answer", sport=53))
    assert len(listener.sent) == 1
    (refused,) = net.ask(udp("192.0.2.9", 7000, b"out", sport=53))
    assert refused.kind == (3, 13)


def test_idle_udp_clients_are_forgotten() -> None:
    net = Net()
    listener = datagrams(net)
    listener.call(net.now, b"query", ("127.0.0.1", 7000))
    port = net.stack.forwards.rules[1].ports[0]
    net.run(IDLE / SECOND - 1)
    assert len(port) == 1  # type: ignore[arg-type]
    net.run(3)
    assert len(port) == 0  # type: ignore[arg-type]
    assert len(net.stack.udp) == 0


def test_udp_clients_are_bounded() -> None:
    net = Net()
    listener = datagrams(net)
    for number in range(CLIENTS + 1):
        listener.call(net.now, b"x", ("127.0.0.1", 1024 + number))
    assert len(net.stack.forwards.rules[1].ports[0]) == CLIENTS  # type: ignore[arg-type]
    assert net.count("forward_client_evicted") == 1


def test_a_closed_udp_port_of_the_guest_ends_the_flow_and_a_new_datagram_begins_anew() -> None:
    net = Net()
    listener = datagrams(net)
    listener.call(net.now, b"query", ("127.0.0.1", 7000))
    (_asked,) = net.ips()
    inner = ip4("10.0.2.2", "10.0.2.15", 17, udp_body("10.0.2.2", "10.0.2.15", 7000, 53, b"query"))[14:]
    net.put(ip4("10.0.2.15", "10.0.2.2", 1, icmp(3, 3, 0, inner)))
    assert len(net.stack.udp) == 0
    listener.call(net.now, b"again", ("127.0.0.1", 7000))
    assert net.ips()[0].payload == b"again"


def test_an_error_about_an_answer_reaches_the_guest() -> None:
    net = Net()
    listener = datagrams(net)
    listener.call(net.now, b"query", ("127.0.0.1", 7000))
    net.ips()
    net.put(udp("10.0.2.2", 7000, b"answer", sport=53))
    listener.errors.append(
        FakeError(errno.ECONNREFUSED, 3, 3, 0, "127.0.0.1", ("127.0.0.1", 7000), b"answer")
    )
    listener.events.host_readable(net.now)
    (told,) = net.ips()
    assert (told.src, told.kind) == ("10.0.2.2", (3, 3))


def test_udp_to_an_unknown_name_is_counted() -> None:
    net = Net()
    datagrams(net, "nobody").call(net.now, b"x", ("127.0.0.1", 7000))
    assert net.count("forward_no_guest") == 1 and not net.ips()


def test_udp_follows_a_guest_that_took_another_address() -> None:
    net = Net()
    lease(net, "10.0.2.15", name="web")
    listener = datagrams(net, "web")
    listener.call(net.now, b"1", ("127.0.0.1", 7000))
    assert net.ips()[0].dst == "10.0.2.15"
    net.now += 2 * SECOND
    lease(net, "10.0.2.20", name="web")
    other(net, "10.0.2.20", GUEST_MAC)
    listener.call(net.now, b"2", ("127.0.0.1", 7000))
    assert net.ips()[0].dst == "10.0.2.20"


@pytest.mark.parametrize(
    ("guest", "reason"),
    [
        ("10.0.2.2", "10.0.2.2 is an address of the NAT's own, and no guest's"),
        ("10.0.2.3", "10.0.2.3 is an address of the NAT's own, and no guest's"),
        ("10.0.2.255", "10.0.2.255 is the broadcast address"),
        ("10.0.2.0", "10.0.2.0 is the net's own address"),
    ],
)
def test_an_address_that_no_guest_has(guest: str, reason: str) -> None:
    net = Net()
    with pytest.raises(ForwardError, match=f"^{reason}$"):
        net.stack.forwards.add(Rule("tcp", ("127.0.0.1", 5555), wire.ip_bytes(guest), 22))
    assert not net.stack.forwards.rules
