"""Names of our own: records, guests, reverse; over UDP and TCP; what stays the world's."""

from __future__ import annotations

from ipaddress import IPv4Network

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.config import Config
from slirp.config6 import Config6
from slirp.rules import Rule
from slirp.services.dns_tcp import DnsStream
from slirp.services.names import reverse
from slirp.wire.ipv4 import ip_bytes, ip_text
from tests.slirp.fakes import GUEST_MAC, FakeTcp, Net, udp
from tests.slirp.fakes6 import Net6
from tests.slirp.services.test_dhcp import OTHER_MAC, lease

A, PTR, MX, AAAA, ANY = 1, 12, 15, 28, 255
RECORDS = (("web.lab.test", "192.0.2.80"), ("web.lab.test", "2001:db8::80"), ("db", "10.0.2.99"))


def query(name: str, kind: int = A, ident: int = 0x1234, edns: bool = False) -> bytes:
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part) + b"\0"
    opt = b"\0\0\x29\x10\0\0\0\0\0\0\0" if edns else b""
    counts = b"\0\1\0\0\0\0\0" + bytes([edns])
    return ident.to_bytes(2, "big") + b"\1\0" + counts + question + kind.to_bytes(2, "big") + b"\0\1" + opt


def net(**keys: object) -> Net:
    return Net(Config(records=RECORDS, domainname="lab.test", **keys))  # type: ignore[arg-type]


def ask(net: Net, name: str, kind: int = A) -> tuple[int, list[str]] | None:
    """Response code and answers; None: it went to the resolvers."""
    before = len(net.host.udps)
    answers = net.ask(udp("10.0.2.3", 53, query(name, kind), sport=5353, to=bytes.fromhex("52550a000203")))
    if not answers:
        assert len(net.host.udps) == before + 1
        return None
    assert answers[0].ports == (53, 5353)
    reply = dpkt.dns.DNS(answers[0].payload)
    assert (reply.id, reply.qr, reply.ra, reply.rd) == (0x1234, 1, 1, 1)
    assert (reply.qd[0].name.lower(), reply.qd[0].type) == (name.rstrip(".").lower(), kind)
    found = []
    for item in reply.an:
        found.append(item.ptrname if item.type == PTR else ip_text(item.ip if item.type == A else item.ip6))
    return reply.rcode, found


CASES = [
    ("web.lab.test", A, (0, ["192.0.2.80"])),
    ("WEB.Lab.Test", A, (0, ["192.0.2.80"])),
    ("web.lab.test", AAAA, (0, ["2001:db8::80"])),
    ("web.lab.test", ANY, (0, ["192.0.2.80", "2001:db8::80"])),
    ("web.lab.test", MX, (0, [])),
    ("db", A, (0, ["10.0.2.99"])),
    ("db.lab.test", A, (0, ["10.0.2.99"])),
    ("db", AAAA, (0, [])),
    ("80.2.0.192.in-addr.arpa", PTR, (0, ["web.lab.test"])),
    ("99.2.0.10.in-addr.arpa", PTR, (0, ["db.lab.test"])),
    ("0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", PTR, (0, ["web.lab.test"])),
    ("77.2.0.10.in-addr.arpa", PTR, (3, [])),
    ("2.0.10.in-addr.arpa", PTR, None),
    ("8.8.8.8.in-addr.arpa", PTR, None),
    ("999.2.0.10.in-addr.arpa", PTR, None),
    ("nothing.lab.test", A, None),
    ("www.example.com", A, None),
    ("web.example.com", A, None),
]


@pytest.mark.parametrize(("name", "kind", "want"), CASES)
def test_records(name: str, kind: int, want: object) -> None:
    assert ask(net(), name, kind) == want


def test_guests_by_their_dhcp_names() -> None:
    one = net(fixed=((OTHER_MAC, "10.0.2.50", "fixed"),))
    lease(one, GUEST_MAC, {12: b"Box.elsewhere.test"})
    lease(one, OTHER_MAC, {12: b"ignored"})
    for name in ("box", "box.lab.test", "BOX"):
        assert ask(one, name) == (0, ["10.0.2.15"])
    assert ask(one, "box", AAAA) == (0, [])
    assert ask(one, "fixed.lab.test") == (0, ["10.0.2.50"])
    assert ask(one, "15.2.0.10.in-addr.arpa", PTR) == (0, ["box.lab.test"])
    assert ask(one, "50.2.0.10.in-addr.arpa", PTR) == (0, ["fixed.lab.test"])
    assert ask(one, "box.elsewhere.test") is None
    one.run(86401)
    one.take()
    assert ask(one, "box") is None
    assert ask(one, "15.2.0.10.in-addr.arpa", PTR) == (3, [])


@pytest.mark.parametrize("name", [b"www.example.com", b"localhost", b"db", b"a b", b"-x"])
def test_no_guest_takes_a_name_that_is_not_his(name: bytes) -> None:
    one = net()
    lease(one, GUEST_MAC, {12: name})
    text = name.decode("latin-1")
    assert ask(one, text) == ((0, ["10.0.2.99"]) if name == b"db" else None)
    if not name.isalnum():
        assert ask(one, "15.2.0.10.in-addr.arpa", PTR) in ((3, []), (0, ["www.lab.test"]))


@pytest.mark.parametrize(
    "name",
    [
        b"wpad",
        b"WPAD",
        b"isatap",
        b"wpad.lab.test",
        b"localhost",
        b"LocalHost.lab.test",
        b"web",
        b"thehost",
        b"local",
    ],
)
def test_names_that_are_no_guests(name: bytes) -> None:
    """Names that programs trust, ``web.lab.test`` that a record has, the host's own: by A, AAAA, ANY and PTR, in DHCP and DHCPv6."""
    one = Net6(Config(v6=Config6(), records=RECORDS, domainname="lab.test"))
    lease(one, GUEST_MAC, {12: name})
    label = name.decode().lower().partition(".")[0]
    v6 = one.stack.side6.dhcp.leases
    other = v6.offer(b"duid", GUEST_MAC, None, one.now)
    other.hostname = name.decode()
    v6.bind(other, 600, one.now)
    assert one.stack.names.answer(query(label), one.now) is None
    whole = one.stack.names.answer(query(f"{label}.lab.test", ANY), one.now)
    assert (whole is not None) == (label == "web")
    for address in ("15.2.0.10.in-addr.arpa", _nibbles(other.address)):
        reply = dpkt.dns.DNS(one.stack.names.answer(query(address, PTR), one.now))
        assert reply.rcode == 3


def _nibbles(address: bytes) -> str:
    return ".".join(reversed(address.hex())) + ".ip6.arpa"


def test_no_guest_takes_the_name_of_a_station_with_a_fixed_lease() -> None:
    one = net(fixed=((OTHER_MAC, "10.0.2.50", "fixed"),))
    lease(one, GUEST_MAC, {12: b"fixed"})
    assert ask(one, "fixed") == (0, ["10.0.2.50"])
    assert ask(one, "15.2.0.10.in-addr.arpa", PTR) == (3, [])


@pytest.mark.parametrize("domain", ["lab.test", "LAB.test.", "test"])
def test_a_domain_of_the_hosts_answers_for_itself(domain: str) -> None:
    one = net(fixed=((OTHER_MAC, "10.0.2.50", "fixed"),))
    lease(one, GUEST_MAC, {12: b"mail"})
    one.host.domains = ["example.com", domain]
    assert ask(one, "mail.lab.test") is None
    assert ask(one, "mail") == (0, ["10.0.2.15"])
    assert ask(one, "15.2.0.10.in-addr.arpa", PTR) == (0, ["mail"])
    assert ask(one, "fixed.lab.test") == (0, ["10.0.2.50"]), "the administrator's word"
    assert ask(one, "db.lab.test") == (0, ["10.0.2.99"])
    one.host.domains = ["est", "b.test"]
    assert ask(one, "mail.lab.test") == (0, ["10.0.2.15"])


def test_edns_is_answered_in_kind() -> None:
    (answer,) = net().ask(udp("10.0.2.3", 53, query("db", edns=True)))
    assert answer.payload.endswith(b"\0\0\x29\x04\xd0\0\0\0\0\0\0")
    assert dpkt.dns.DNS(answer.payload).ar[0].type == 41


def test_under_restrict_only_records_are_known() -> None:
    shut = net(restrict=True)
    assert ask(shut, "db") == (0, ["10.0.2.99"])
    assert ask(shut, "www.example.com") == (5, [])
    assert not shut.host.udps
    bare = Net(Config(restrict=True))
    assert bare.ask(udp("10.0.2.3", 53, query("db")))[0].kind == (3, 13)
    denied = net(rules=(Rule(False, None, IPv4Network("0.0.0.0/0")),))
    assert ask(denied, "www.example.com") == (5, [])


def test_odd_queries_go_on() -> None:
    one = net()
    for message in (query("db")[:-1] + b"\3", b"\x12\x34\x28" + query("db")[3:]):  # class CHAOS; UPDATE
        one.put(udp("10.0.2.3", 53, message))
    assert [sock.sent[0][0][:2] for sock in one.host.udps] == [b"\x12\x34"] * 2


@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    net().stack.names.answer(query("db")[:12] + data, 0)


@given(st.ip_addresses())
def test_reverse(address: object) -> None:
    assert reverse(address.reverse_pointer) == address.packed  # type: ignore[attr-defined]


# ---- TCP ---------------------------------------------------------------------------------------------------


class Stream:
    """A connection of a guest's with its resolver."""

    def __init__(self) -> None:
        self.net = net()
        (found,) = self.net.stack.targets(ip_bytes("10.0.2.3"), 53)
        assert isinstance(found, DnsStream)
        self.stream = found
        self.readable = 0
        found.open(self)  # type: ignore[arg-type]
        self.sock: FakeTcp = self.net.host.tcps[0]
        found.watch(True, False)

    def host_readable(self, now: int) -> None:
        self.readable += 1

    def read(self) -> bytes:
        got = b""
        for _ in range(100):
            piece = self.stream.recv(7)
            if not piece:
                return got
            got += piece
        raise AssertionError


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_own_names_over_tcp_never_reach_the_resolver(step: int) -> None:
    it = Stream()
    said = framed(query("www.example.com", ident=1), query("db", ident=2), query("example.com", ident=3))
    for at in range(0, len(said), step):
        assert it.stream.send(said[at : at + step])
    assert bytes(it.sock.sent) == framed(query("www.example.com", ident=1), query("example.com", ident=3))
    assert it.sock.watched == (True, True)
    it.stream.host_writable(0)
    assert it.readable == 1
    answer = it.read()
    assert (answer[2:4], answer[-4:]) == (b"\0\2", ip_bytes("10.0.2.99"))
    assert int.from_bytes(answer[:2], "big") == len(answer) - 2
    it.stream.host_writable(0)
    assert it.sock.watched == (True, False)


def test_ours_wait_for_the_end_of_the_resolvers_answer() -> None:
    it = Stream()
    theirs = framed(b"resolver's answer, long")
    it.sock.inbox = [theirs[:1], theirs[1:2], theirs[2:9]]
    got = it.read()
    it.stream.send(framed(query("db")))
    it.sock.inbox = [theirs[9:16], theirs[16:23], theirs[23:]]
    got += it.read()
    assert got.startswith(theirs)
    assert got[-4:] == ip_bytes("10.0.2.99")


def test_its_end_crosses_both_ways() -> None:
    it = Stream()
    it.stream.shutdown()
    assert it.sock.shut
    it.sock.inbox = [b""]
    assert it.stream.recv(100) == b""
