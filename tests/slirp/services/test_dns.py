"""The DNS forwarder: passing on, fail-over, what counts as an answer, bounds."""

import errno
import struct

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.config import Config
from slirp.services import dns as dns_module
from slirp.services.dns import GOOD_TIME, PATIENCE, WAIT
from slirp.wire import checksum
from slirp.wire import ipv4 as wire
from tests.slirp.fakes import DNS_MAC, SECOND, FakeError, FakeUdp, Net, ip4, udp

ONE, TWO, THREE = ("192.0.2.53", 53), ("198.51.100.53", 5353), ("2001:db8::53", 53)


def question(name: str = "www.example.com", txid: int = 0x1234, edns: bool = False) -> bytes:
    query = dpkt.dns.DNS(id=txid, op=dpkt.dns.DNS_RD, qd=[dpkt.dns.DNS.Q(name=name)])
    data = bytes(query)
    if edns:
        data = data[:11] + b"\x01" + data[12:] + b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00"
    return data


def answer(query: bytes, rcode: int = 0, extra: bytes = b"\xc0\x0c" + bytes(10)) -> bytes:
    return query[:2] + bytes((0x81, 0x80 | rcode)) + query[4:] + extra


def guest_syn(sport: int = 4000) -> bytes:
    """A guest's connection to the name server."""
    head = struct.pack("!HHIIBBHHH", sport, 53, 1000, 0, 0x50, 2, 65535, 0, 0)
    start = wire.ip_int(wire.ip_bytes("10.0.2.15") + wire.ip_bytes("10.0.2.3")) + 6 + len(head)
    head = head[:16] + checksum.checksum(head, start).to_bytes(2, "big") + head[18:]
    return ip4("10.0.2.15", "10.0.2.3", 6, head, to=DNS_MAC)


def ask(query: bytes, sport: int = 4000, src: str = "10.0.2.15") -> bytes:
    return udp("10.0.2.3", 53, query, sport=sport, src=src, to=DNS_MAC)


@pytest.fixture
def net() -> Net:
    net = Net()
    net.host.servers = [ONE, TWO, THREE]
    return net


def open_sockets(net: Net) -> list[FakeUdp]:
    return [sock for sock in net.host.udps if not sock.closed]


def asked(net: Net) -> list[tuple[str, int]]:
    return [remote for sock in net.host.udps for _, remote, _ in sock.sent]


@pytest.mark.parametrize("edns", [False, True])
def test_there_and_back_unchanged(net: Net, edns: bool) -> None:
    query = question(edns=edns)
    net.put(ask(query))
    (sock,) = net.host.udps
    assert sock.sent == [(query, ONE, 64)]
    net.deliver(sock, answer(query), ONE)
    (reply,) = net.ips()
    assert (reply.src, reply.mac, reply.ports) == ("10.0.2.3", DNS_MAC, (53, 4000))
    assert reply.payload == answer(query)
    assert sock.closed
    assert not len(net.stack.dns)


def test_a_large_answer_comes_in_fragments(net: Net) -> None:
    query = question(edns=True)
    net.put(ask(query))
    big = answer(query, extra=b"\xaa" * 4000)
    net.deliver(net.host.udps[0], big, ONE)
    pieces = net.ips()
    assert len(pieces) == 3
    assert b"".join(p.body for p in pieces)[8:] == big


def test_several_in_flight_answered_in_any_order(net: Net) -> None:
    queries = [question(f"h{n}.example", txid=n) for n in range(20)]
    net.put(*[ask(query, sport=4000 + n % 3) for n, query in enumerate(queries)])
    assert len(net.stack.dns) == 20
    for n in reversed(range(20)):
        net.deliver(net.host.udps[n], answer(queries[n]), ONE)
    assert [(r.ports[1], r.payload) for r in net.ips()] == [
        (4000 + n % 3, answer(queries[n])) for n in reversed(range(20))
    ]


def test_one_id_at_two_guests(net: Net) -> None:
    net.put(ask(question("a.example")), ask(question("b.example"), src="10.0.2.16"))
    net.deliver(net.host.udps[1], answer(question("b.example")), ONE)
    net.deliver(net.host.udps[0], answer(question("a.example")), ONE)
    assert [r.dst for r in net.ips()] == ["10.0.2.16", "10.0.2.15"]


def test_a_silent_resolver_is_passed_over(net: Net) -> None:
    net.put(ask(question()))
    net.run(PATIENCE / SECOND / 3 + 0.01)
    assert asked(net) == [ONE, TWO]
    net.deliver(net.host.udps[0], answer(question()), TWO)
    assert net.ips()[0].payload == answer(question())


def test_a_late_answer_of_the_first_is_as_good(net: Net) -> None:
    net.put(ask(question()))
    net.run(PATIENCE / SECOND / 3 + 0.01)
    net.deliver(net.host.udps[0], answer(question()), ONE)
    assert len(net.ips()) == 1


def test_fail_over_to_the_other_family(net: Net) -> None:
    net.put(ask(question()))
    net.run(PATIENCE / SECOND * 2 / 3 + 0.01)
    assert asked(net) == [ONE, TWO, THREE]
    assert [sock.family for sock in net.host.udps] == [4, 6]
    assert not any(sock.closed for sock in net.host.udps)  # who was asked before may still answer
    net.deliver(net.host.udps[1], answer(question()), ("2001:DB8::53", 53))
    assert len(net.ips()) == 1


def test_all_silent_is_silence(net: Net) -> None:
    net.put(ask(question()))
    net.run(WAIT / SECOND - 1)
    assert len(net.stack.dns) == 1
    net.run(2)
    assert net.take() == []
    assert not open_sockets(net)
    assert net.count("dns_unanswered") == 1
    assert net.stack.dns.next_deadline() is None


@pytest.mark.parametrize("servers", [[ONE], [ONE, TWO, THREE]])
@pytest.mark.parametrize("seconds", [6, 12, 25])
def test_a_slow_answer_reaches_the_guest(net: Net, servers: list, seconds: float) -> None:
    net.host.servers = servers
    net.put(ask(question()))
    net.run(seconds)
    net.deliver(net.host.udps[0], answer(question()), ONE)
    (reply,) = net.ips()
    assert reply.payload == answer(question())
    assert not open_sockets(net)


def test_the_guest_that_asks_again_is_waited_for(net: Net) -> None:
    net.host.servers = [ONE]
    net.put(ask(question()))
    for _ in range(3):
        net.run(20)
        net.put(ask(question()))
    net.run(25)
    net.deliver(net.host.udps[0], answer(question()), ONE)
    assert len(net.ips()) == 1


def test_one_fails_and_another_is_slow(net: Net) -> None:
    net.put(ask(question()))
    net.deliver(net.host.udps[0], answer(question(), 2), ONE)
    net.deliver(net.host.udps[0], answer(question(), 5), ONE)  # a failure counts once
    assert asked(net) == [ONE, TWO]
    net.run(8)
    assert net.take() == []
    net.deliver(net.host.udps[0], answer(question()), TWO)
    assert net.ips()[0].payload == answer(question())


def test_a_failure_of_one_is_told_in_the_end(net: Net) -> None:
    net.put(ask(question()))
    net.deliver(net.host.udps[0], answer(question(), 5), ONE)
    net.run(WAIT / SECOND + 1)
    assert net.ips()[0].payload == answer(question(), 5)


def test_all_failed_is_servfail_at_once(net: Net) -> None:
    net.host.servers = [ONE]
    net.put(ask(question(edns=True)))
    net.complain(net.host.udps[0], FakeError(errno.ECONNREFUSED, 3, 3, 0, ONE[0], ONE, question()))
    (reply,) = net.ips()
    parsed = dpkt.dns.DNS(reply.payload)
    assert (parsed.id, parsed.qr, parsed.rcode, parsed.rd, parsed.ra) == (0x1234, 1, 2, 1, 1)
    assert [q.name for q in parsed.qd] == ["www.example.com"]
    assert not parsed.ar
    assert not open_sockets(net)
    assert net.count("dns_failed") == 1


def test_one_resolver_is_tried_twice(net: Net) -> None:
    net.host.servers = [ONE]
    net.put(ask(question()))
    net.run(4.9)
    assert asked(net) == [ONE, ONE]
    assert net.take() == []


def test_repeated_queries_go_to_the_resolvers_in_turn(net: Net) -> None:
    net.host.servers = [ONE, TWO]
    net.put(ask(question()))
    net.run(10)
    assert asked(net) == [ONE, TWO, ONE, TWO]
    net.put(*[ask(question()) for _ in range(3)])
    assert asked(net)[4:] == [ONE, TWO, ONE]


def test_an_error_moves_on_at_once(net: Net) -> None:
    net.put(ask(question()))
    (sock,) = net.host.udps
    net.complain(sock, FakeError(errno.ECONNREFUSED, 3, 3, 0, ONE[0], ONE, question()))
    assert asked(net) == [ONE, TWO]
    net.complain(sock, FakeError(errno.ECONNREFUSED, 3, 3, 0, TWO[0], TWO, question()))
    net.complain(open_sockets(net)[0], FakeError(errno.ECONNREFUSED, 3, 3, 0, THREE[0], THREE, question()))
    assert net.ips()[0].payload[3] & 15 == 2
    assert not open_sockets(net)


@pytest.mark.parametrize("rcode", [2, 5])
def test_servfail_and_refused_move_on_and_are_kept(net: Net, rcode: int) -> None:
    net.put(ask(question()))
    net.deliver(net.host.udps[0], answer(question(), rcode), ONE)
    assert asked(net) == [ONE, TWO]
    assert net.take() == []
    net.deliver(net.host.udps[0], answer(question(), rcode), TWO)
    net.complain(open_sockets(net)[1], FakeError(errno.ECONNREFUSED, 1, 4, 0, THREE[0], THREE, b""))
    assert net.ips()[0].payload == answer(question(), rcode)


@pytest.mark.parametrize("rcode", [0, 1, 3, 4])
def test_other_answers_are_final(net: Net, rcode: int) -> None:
    net.put(ask(question()))
    net.deliver(net.host.udps[0], answer(question(), rcode), ONE)
    assert net.ips()[0].payload == answer(question(), rcode)


def test_the_resolver_that_answered_is_asked_first_for_a_while(net: Net) -> None:
    net.put(ask(question()))
    net.run(2)
    net.deliver(net.host.udps[0], answer(question()), TWO)
    net.put(ask(question(txid=2)))
    assert asked(net)[-1] == TWO
    net.run(GOOD_TIME / SECOND + 1)
    net.put(ask(question(txid=3)))
    assert asked(net)[-1] == ONE


def test_changed_resolvers_are_used_at_once(net: Net) -> None:
    net.put(ask(question()))
    net.deliver(net.host.udps[0], answer(question()), ONE)
    net.host.servers = [TWO]
    net.put(ask(question(txid=2)))
    assert asked(net)[-1] == TWO


def test_resolvers_of_the_configuration() -> None:
    net = Net(Config(resolver=(("127.0.0.53", 53),)))
    net.put(ask(question()))
    assert asked(net) == [("127.0.0.53", 53)]
    net.deliver(net.host.udps[0], answer(question()), ("127.0.0.53", 53))
    assert net.ips()[0].src == "10.0.2.3"


def test_no_resolver_at_all(net: Net) -> None:
    net.host.servers = []
    (reply,) = net.ask(ask(question()))
    assert reply.payload[3] & 15 == 2
    assert net.count("dns_no_resolver") == 1


def test_no_descriptor_left(net: Net) -> None:
    net.host.limit = 0
    (reply,) = net.ask(ask(question()))
    assert reply.payload[3] & 15 == 2


@pytest.mark.parametrize(
    ("data", "remote"),
    [
        (answer(question(txid=9)), ONE),
        (question(), ONE),
        (answer(question("evil.example")), ONE),
        (answer(question()), ("203.0.113.1", 53)),
        (answer(question()), (ONE[0], 54)),
        (answer(question()), TWO),
        (b"\x12\x34\x81", ONE),
        (b"\x12\x34\x81\x80" + bytes(8), ONE),
    ],
)
def test_what_is_no_answer(net: Net, data: bytes, remote: tuple) -> None:
    net.put(ask(question()))
    net.deliver(net.host.udps[0], data, remote)
    assert net.take() == []
    assert net.count("dns_bogus") == 1
    net.deliver(net.host.udps[0], answer(question()), ONE)
    assert len(net.take()) == 1


def test_an_answer_in_another_case_is_one(net: Net) -> None:
    net.put(ask(question("wWw.eXample.com")))
    net.deliver(net.host.udps[0], answer(question("www.example.com")), ONE)
    assert len(net.take()) == 1


def test_formerr_without_the_question(net: Net) -> None:
    net.put(ask(question()))
    net.deliver(net.host.udps[0], b"\x12\x34\x81\x81" + bytes(8), ONE)
    assert len(net.take()) == 1


def test_a_repeated_query_is_no_second_one(net: Net) -> None:
    net.put(ask(question()), ask(question()))
    assert len(net.host.udps) == 1
    assert asked(net) == [ONE, ONE]


@pytest.mark.parametrize("backwards", [False, True])
def test_two_questions_with_one_port_and_identifier(net: Net, backwards: bool) -> None:
    """As old C libraries ask for A and AAAA."""
    queries = [question(), question()[:-3] + b"\x1c\0\x01", question("other.example"), question(edns=True)]
    net.put(*map(ask, queries))
    assert len(net.stack.dns) == 4
    order = list(zip(net.host.udps, queries, strict=True))[:: -1 if backwards else 1]
    for sock, query in order:
        net.deliver(sock, answer(query), ONE)
    assert [reply.payload for reply in net.ips()] == [answer(query) for _, query in order]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 11,
        answer(question()),
        question()[:-3],
        b"\x12\x34\x01\x00\x00\x02" + question()[6:],
        bytes(12),
    ],
)
def test_malformed_queries(net: Net, data: bytes) -> None:
    net.put(ask(data))
    assert not net.host.udps
    assert net.count("dns_malformed") == 1


def test_queries_in_flight_are_bounded(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_module, "QUERIES", 10)
    net.put(*[ask(question(txid=n)) for n in range(15)])
    assert len(net.stack.dns) == len(open_sockets(net)) == 10
    assert net.count("dns_full") == 5
    assert [(r.payload[:2], r.payload[3] & 15) for r in net.ips()] == [
        (bytes((0, n)), 2) for n in range(10, 15)
    ]
    net.deliver(net.host.udps[3], answer(question(txid=3)), ONE)
    assert net.ips()[0].payload == answer(question(txid=3))
    net.put(ask(question(txid=20)))
    assert len(net.stack.dns) == 10


def test_one_guest_does_not_shut_out_another(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_module, "PER_GUEST", 4)
    net.put(*[ask(question(txid=n)) for n in range(6)])
    assert net.count("dns_full") == 2
    net.put(ask(question(txid=9), src="10.0.2.16"))
    assert len(net.stack.dns) == 5
    net.run(WAIT / SECOND + 1)
    net.put(*[ask(question(txid=n)) for n in range(4)])
    assert net.count("dns_full") == 2


def test_bytes_in_flight_are_bounded(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_module, "HELD", 1000)
    net.put(*[ask(question(txid=n) + bytes(300)) for n in range(4)])
    assert (len(net.stack.dns), net.count("dns_full")) == (3, 1)


def test_four_hundred_at_once_have_four_hundred_answers(net: Net) -> None:
    net.put(*[ask(question(txid=n)) for n in range(400)])
    net.run(0.8)
    for n, sock in enumerate(list(net.host.udps)):
        net.deliver(sock, answer(question(txid=n)), ONE)
    assert [r.payload for r in net.ips()] == [answer(question(txid=n)) for n in range(400)]


def test_info_and_close(net: Net) -> None:
    net.put(ask(question()))
    (row,) = net.stack.info()
    assert (row["protocol"], row["state"], row["dst"], row["dst_port"]) == ("UDP", "dns", "10.0.2.3", 53)
    net.stack.close(net.now)
    assert not open_sockets(net)


def test_tcp_goes_to_the_resolvers(net: Net) -> None:
    assert [target.remote for target in net.stack.targets(net.stack.config.dns_ip, 53)] == [ONE, TWO, THREE]
    assert [target.remote for target in net.stack.targets(net.stack.config.dns_ip, 80)] == []


def test_tcp_goes_to_the_server_that_udp_knows_to_be_alive(net: Net) -> None:
    net.put(ask(question()))
    net.run(2)
    net.deliver(net.host.udps[0], answer(question()), TWO)
    net.put(guest_syn())
    assert net.host.tcps[-1].remote == TWO


def test_tcp_goes_to_the_next_within_two_seconds(net: Net) -> None:
    net.put(guest_syn())
    net.run(1.9)
    assert [sock.remote for sock in net.host.tcps] == [ONE]
    net.run(0.2)
    assert [sock.remote for sock in net.host.tcps] == [ONE, TWO]
    assert [sock.closed for sock in net.host.tcps] == [True, False]
    net.host.tcps[1].events.host_connected(net.now)
    assert len(net.take()) == 1  # SYN|ACK
    net.put(guest_syn(4001))
    assert net.host.tcps[-1].remote == TWO  # it took a connection, and is the first for a while


def test_tcp_to_the_last_server_may_take_longer(net: Net) -> None:
    net.put(guest_syn())
    net.run(20)
    assert [sock.remote for sock in net.host.tcps] == [ONE, TWO, THREE]
    assert not net.host.tcps[2].closed
    net.host.tcps[2].events.host_connected(net.now)
    assert len(net.take()) == 1


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_any_bytes(query: bytes, reply: bytes) -> None:
    net = Net()
    net.put(ask(query), ask(question()[:12] + query))
    for sock in open_sockets(net):
        net.deliver(sock, reply, ("192.0.2.53", 53))
        if not sock.closed:
            net.deliver(sock, question()[:2] + reply, ("192.0.2.53", 53))
