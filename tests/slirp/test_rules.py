"""allow= and deny=: which rule decides, what a refused guest hears, counters."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.config import Config
from slirp.rules import RULES, Rule, Rules
from slirp.wire.ipv4 import PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, ip_bytes
from tests.slirp.fakes import Net, ping, udp
from tests.slirp.services.test_dhcp import DISCOVER, query
from tests.slirp.test_stack import tcp
from tests.tapnet import rule_lines

TCP, UDP, PING, PING6 = PROTO_TCP, PROTO_UDP, PROTO_ICMP, PROTO_ICMPV6
rule = rule_lines.rule

CASES = [
    # rules, restrict, protocol, destination, port, permitted
    ("", False, TCP, "192.0.2.1", 80, True),
    ("", True, TCP, "192.0.2.1", 80, False),
    ("deny=192.0.2.0/24", False, TCP, "192.0.2.1", 80, False),
    ("deny=192.0.2.0/24", False, PING, "192.0.2.1", 0, False),
    ("deny=192.0.2.0/24", False, UDP, "192.0.3.1", 53, True),
    ("deny=192.0.2.0/24", False, TCP, "2001:db8::1", 80, True),
    ("deny=::/0", False, TCP, "2001:db8::1", 80, False),
    ("deny=::/0", False, TCP, "192.0.2.1", 80, True),
    ("deny=tcp:192.0.2.1:22-25", False, TCP, "192.0.2.1", 22, False),
    ("deny=tcp:192.0.2.1:22-25", False, TCP, "192.0.2.1", 25, False),
    ("deny=tcp:192.0.2.1:22-25", False, TCP, "192.0.2.1", 26, True),
    ("deny=tcp:192.0.2.1:22-25", False, UDP, "192.0.2.1", 22, True),
    ("deny=192.0.2.1:22", False, UDP, "192.0.2.1", 22, False),
    ("deny=192.0.2.1:22", False, PING, "192.0.2.1", 0, True),
    ("deny=icmp:0.0.0.0/0", False, PING, "192.0.2.1", 0, False),
    ("deny=icmp:::/0", False, PING6, "2001:db8::1", 0, False),
    ("deny=icmp:0.0.0.0/0", False, TCP, "192.0.2.1", 80, True),
    ("allow=192.0.2.1 deny=192.0.2.0/24", False, TCP, "192.0.2.1", 1, True),
    ("deny=192.0.2.0/24 allow=192.0.2.1", False, TCP, "192.0.2.1", 1, False),
    ("allow=tcp:192.0.2.0/24:443", True, TCP, "192.0.2.7", 443, True),
    ("allow=tcp:192.0.2.0/24:443", True, TCP, "192.0.2.7", 80, False),
    ("allow=tcp:[2001:db8::/32]:443", True, TCP, "2001:db8::7", 443, True),
]


@pytest.mark.parametrize(("lines", "restrict", "protocol", "dst", "port", "permitted"), CASES)
def test_the_first_match_decides(lines, restrict, protocol, dst, port, permitted) -> None:
    rules = Rules([rule(line) for line in lines.split()], restrict)
    assert rules.permits(protocol, ip_bytes(dst), port) is permitted


@given(
    st.lists(st.tuples(st.booleans(), st.ip_addresses(v=4), st.integers(0, 32)), max_size=8),
    st.ip_addresses(v=4),
    st.booleans(),
)
def test_against_the_library(lines, dst, restrict) -> None:
    nets = [
        (allow, ipaddress.ip_network(f"{address}/{bits}", strict=False)) for allow, address, bits in lines
    ]
    want = next((allow for allow, net in nets if dst in net), not restrict)
    rules = Rules([Rule(allow, None, net) for allow, net in nets], restrict)
    assert rules.permits(TCP, dst.packed, 80) is want
    assert sum(row["hits"] for row in rules.rows()) == (1 if nets else 0)


def test_what_a_refused_guest_hears() -> None:
    net = Net(Config(rules=(rule("deny=192.0.2.0/24"), rule("deny=10.0.2.2:22"))))
    (reset,) = net.ask(tcp("192.0.2.1", 80))
    assert (reset.src, reset.protocol, reset.body[13] & 4) == ("192.0.2.1", 6, 4)
    (prohibited,) = net.ask(udp("192.0.2.1", 123, b"x"))
    assert prohibited.kind == (3, 13)
    (prohibited,) = net.ask(ping("192.0.2.1"))
    assert prohibited.kind == (3, 13)
    assert net.ask(tcp("10.0.2.2", 22))[0].body[13] & 4
    assert not net.host.tcps
    assert not net.host.udps
    net.put(tcp("10.0.2.2", 23))
    assert [sock.remote for sock in net.host.tcps] == [("127.0.0.1", 23)]
    assert net.stack.rules.rows() == [
        {"action": "deny", "text": "192.0.2.0/24", "hits": 3},
        {"action": "deny", "text": "10.0.2.2:22", "hits": 1},
        {"action": "allow", "text": "", "hits": 1},
    ]
    assert net.count("restricted") == 4


def test_a_flow_is_asked_about_once() -> None:
    net = Net(Config(rules=(rule("allow=192.0.2.1"),)))
    net.put(*[udp("192.0.2.1", 123, b"x")] * 5)
    assert len(net.host.udps[0].sent) == 5
    assert net.stack.rules.rows()[0]["hits"] == 1


def test_holes_in_restrict_come_with_a_router() -> None:
    question = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1"
    shut = Net(Config(restrict=True))
    ajar = Net(Config(restrict=True, rules=(rule("allow=tcp:192.0.2.1:443"),)))
    named = Net(Config(restrict=True, rules=(rule("allow=udp:10.0.2.3:53"),)))
    for net, router, asked in ((shut, False, 0), (ajar, True, 0), (named, True, 1)):
        offer = net.ask(query(DISCOVER))[0].payload
        assert (b"\3\4\x0a\0\2\2" in offer) is router
        assert (b"\6\4\x0a\0\2\3" in offer) is bool(asked)
        refused = net.ask(udp("10.0.2.3", 53, question))
        assert [answer.kind for answer in refused] == [(3, 13)] * (1 - asked)
        assert sum(len(sock.sent) for sock in net.host.udps) == asked
    assert not ajar.ask(tcp("192.0.2.1", 443))
    assert ajar.host.tcps[0].remote == ("192.0.2.1", 443)


def test_the_list_is_bounded() -> None:
    with pytest.raises(ValueError, match=f"^deny=192.0.2.1: more than {RULES} rules$"):
        Rules([rule("deny=192.0.2.1")] * (RULES + 1), False)
