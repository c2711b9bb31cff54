"""Echo requests to the world: what goes out by the host's sockets, what comes back, and what ends."""

from __future__ import annotations

import errno
from ipaddress import IPv4Network

import pytest

from slirp.config import Config
from slirp.contracts.host import NO_FRAGMENT, Echo
from slirp.icmp import echo
from slirp.rules import Rule
from slirp.wire.ipv4 import IPV4_LEN
from tests.slirp.fakes import SECOND, FakeError, Net, icmp, ip4, ping

REMOTE = "192.0.2.1"


@pytest.fixture
def net() -> Net:
    return Net()


def request(number: int, seq: int, data: bytes = b"abc", dst: str = REMOTE, **ip: object) -> bytes:
    src = str(ip.pop("src", "10.0.2.15"))
    return ip4(src, dst, 1, icmp(8, 0, number << 16 | seq, data), **ip)  # type: ignore[arg-type]


def error(
    kind: int, code: int, info: int = 0, seq: int = 1, offender: str | None = "198.51.100.7", ttl: int = 250
) -> FakeError:
    return FakeError(
        errno.EHOSTUNREACH, kind, code, info, offender, (REMOTE, 0), icmp(8, 0, 99 << 16 | seq, b""), ttl
    )


@pytest.mark.parametrize(
    ("ip", "how"),
    [
        ({"ttl": 64}, 63),
        ({"ttl": 2}, 1),
        ({"ttl": 255, "flags": 0x4000}, 254 | NO_FRAGMENT),
        ({"ttl": 64, "tos": 0xB8 | 3}, 0xB8 << 16 | 63),
    ],
)
def test_request_leaves_as_it_was(net: Net, ip: dict[str, int], how: int) -> None:
    net.put(request(7, 3, b"payload", **ip))
    (sock,) = net.host.echoes
    assert (sock.family, sock.ident) == (4, 7)
    assert sock.sent == [(3, b"payload", REMOTE, how)]
    assert net.take() == []


def test_reply_comes_back_under_the_guests_identifier(net: Net) -> None:
    net.put(request(7, 3))
    (sock,) = net.host.echoes
    sock.inbox += [
        Echo(3, b"abc", REMOTE, 50, 0xB8 | 1),
        Echo(4, b"", REMOTE, 0, 0),
        Echo(5, b"x", REMOTE, 1, 0),
    ]
    sock.events.host_readable(net.now)
    first, second, third = net.ips()
    assert (first.src, first.dst, first.ttl, first.tos) == (REMOTE, "10.0.2.15", 49, 0xB8)
    assert first.body == icmp(0, 0, 7 << 16 | 3, b"abc")
    assert (second.ttl, second.body) == (64, icmp(0, 0, 7 << 16 | 4, b""))
    assert third.ttl == 1


def test_a_long_reply_is_cut(net: Net) -> None:
    net.put(request(7, 3))
    sock = net.host.echoes[0]
    sock.inbox.append(Echo(3, bytes(4000), REMOTE, 50, 0))
    sock.events.host_readable(net.now)
    parts = net.ips()
    assert len(parts) == 3 and sum(len(part.body) for part in parts) == 4008


def test_one_socket_for_each_guest_and_identifier(net: Net) -> None:
    net.put(request(7, 1), request(7, 2, dst="192.0.2.9"), request(8, 1), request(7, 1, src="10.0.2.16"))
    assert [sock.ident for sock in net.host.echoes] == [7, 8, 7]
    assert len(net.stack.echoes) == 3


def test_the_hosts_loopback_is_not_pinged(net: Net) -> None:
    (answer,) = net.ask(request(7, 1, dst="127.0.0.1"))
    assert answer.kind == (3, 0) and net.host.echoes == []


@pytest.mark.parametrize(("kind", "code", "info"), [(11, 0, 0), (3, 1, 0), (3, 4, 1400), (3, 13, 0)])
def test_errors_carry_the_guests_own_packet(net: Net, kind: int, code: int, info: int) -> None:
    sent = request(7, 1, b"x" * 60, ttl=5, ident=0x1234, flags=0x4000)
    net.put(sent)
    sock = net.host.echoes[0]
    sock.errors.append(error(kind, code, info))
    sock.events.host_readable(net.now)
    (answer,) = net.ips()
    assert (answer.src, answer.kind, answer.ttl) == ("198.51.100.7", (kind, code), 249)
    assert int.from_bytes(answer.body[4:8], "big") == info
    quote = answer.body[8:]
    if kind == 11:
        aged = ip4("10.0.2.15", REMOTE, 1, b"x" * 68, ttl=1, ident=0x1234, flags=0x4000)[14:34]
        assert quote[:IPV4_LEN] == aged  # as the router saw it
    else:
        assert quote[:IPV4_LEN] == sent[14:34]
    assert quote[IPV4_LEN:] == sent[34:]


def test_an_error_of_the_host_itself_comes_from_the_gateway(net: Net) -> None:
    net.put(request(7, 1))
    sock = net.host.echoes[0]
    sock.errors.append(error(3, 1, offender="10.0.2.2"))
    sock.events.host_readable(net.now)
    (answer,) = net.ips()
    assert answer.src == "10.0.2.2"


def test_errors_about_what_was_never_sent_are_dropped(net: Net) -> None:
    net.put(request(7, 1))
    sock = net.host.echoes[0]
    sock.errors += [error(11, 0, seq=9), FakeError(1, 11, 0, 0, None, (REMOTE, 0), b"short")]
    sock.events.host_readable(net.now)
    assert net.take() == [] and net.count("icmp_error_dropped") == 2


@pytest.mark.parametrize(
    ("failure", "mtu", "kind"),
    [
        (errno.EMSGSIZE, 1280, (3, 4)),
        (errno.ENETUNREACH, 0, (3, 0)),
        (errno.EHOSTUNREACH, 0, (3, 1)),
        (errno.EACCES, 0, (3, 13)),
        (errno.ENOBUFS, 0, None),
        (errno.EINVAL, 0, None),
    ],
)
def test_a_request_that_cannot_leave(net: Net, failure: int, mtu: int, kind: tuple[int, int] | None) -> None:
    net.put(request(7, 1))
    sock = net.host.echoes[0]
    sock.fail, sock.limit = failure, mtu
    answers = net.ask(request(7, 2, bytes(1400), flags=0x4000))
    assert [answer.kind for answer in answers] == ([kind] if kind else [])
    if kind:
        assert int.from_bytes(answers[0].body[4:8], "big") == mtu


@pytest.mark.parametrize("failure", [errno.EPERM, errno.EACCES])
def test_where_the_host_permits_none_no_reply_is_invented(net: Net, failure: int) -> None:
    told: list[str] = []
    net.stack.notice = told.append
    net.host.no_echo = failure
    for seq in range(3):
        (answer,) = net.ask(request(7, seq))
        assert (answer.src, answer.kind) == ("10.0.2.2", (3, 13))
    assert told == [echo.NO_ECHO] and "ping_group_range" in told[0]
    assert net.count("icmp_echo_not_carried") == 3 and len(net.stack.echoes) == 0


def test_want_of_descriptors_is_silence(net: Net) -> None:
    net.host.no_echo = errno.EMFILE
    assert net.ask(request(7, 1)) == [] and net.count("icmp_no_socket") == 1


def test_restrict() -> None:
    net = Net(Config(restrict=True))
    (answer,) = net.ask(request(7, 1))
    assert answer.kind == (3, 13) and net.host.echoes == []
    (answer,) = net.ask(ping("10.0.2.2"))
    assert answer.kind == (0, 0)


def test_a_rule_is_asked_once_for_each_destination() -> None:
    net = Net(
        Config(
            rules=(
                Rule(True, "icmp", IPv4Network("192.0.2.1/32")),
                Rule(False, None, IPv4Network("0.0.0.0/0")),
            )
        )
    )
    net.put(*(request(7, seq) for seq in range(5)))
    (answer,) = net.ask(request(7, 9, dst="192.0.2.9"))
    assert answer.kind == (3, 13) and len(net.host.echoes[0].sent) == 5
    assert [row["hits"] for row in net.stack.rules.rows()][:2] == [1, 1]


def test_flows_end_and_are_bounded(net: Net) -> None:
    for ident in range(echo.FLOWS + 5):
        net.put(request(ident, 1))
    assert len(net.stack.echoes) == echo.FLOWS
    assert [sock.closed for sock in net.host.echoes[:6]] == [True] * 5 + [False]
    net.run(30)
    net.put(request(200, 2))
    net.run(31)
    assert len(net.stack.echoes) == 1
    rows = [row for row in net.stack.info() if row["protocol"] == "ICMP"]
    assert [(row["src"], row["src_port"], row["dst"]) for row in rows] == [("10.0.2.15", 200, REMOTE)]
    net.run(62)
    assert len(net.stack.echoes) == 0 and all(sock.closed for sock in net.host.echoes)


def test_quotes_are_bounded(net: Net) -> None:
    for seq in range(echo.QUOTES + 10):
        net.put(request(7, seq, bytes(1000)))
    flow = next(iter(net.stack.echoes._flows.values()))
    assert len(flow.quotes) == echo.QUOTES
    assert max(map(len, flow.quotes.values())) == echo.QUOTE


def test_an_end_of_the_stack_is_the_end(net: Net) -> None:
    net.put(request(7, 1))
    net.stack.close(net.now + SECOND)
    assert net.host.echoes[0].closed and len(net.stack.echoes) == 0
