"""Real sockets on loopback, on asyncio's own loop and on uvloop: the contract of ``slirp.contracts.host``."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from slirp.host import sockets as hostio
from slirp.host.errors import parse_error
from slirp.host.sockets import AsyncHost, is_local, parse_resolv_conf, parse_search
from slirp.host.tcp import HostTcp
from slirp.host.udp import HostUdp
from tapnet.system.guard import claim
from tests.waiting import BOUND_S, until_async

IP_RECVTTL = 12


def close_sockets(host: AsyncHost) -> None:
    """What the flows of a test have left: a host does not close it."""
    for sock in list(host._sockets.values()):
        sock.close()


class Bench:
    """A host on a loop that is run until a condition holds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.afters = 0
        self.host = AsyncHost(loop, time.monotonic_ns, self._after)

    def _after(self) -> None:
        self.afters += 1

    def until(self, condition: Callable[[], object]) -> None:
        """Run the loop until ``condition()`` is true; bounded."""
        self.loop.run_until_complete(until_async(condition, "condition", pause=0.001))

    def settle(self) -> None:
        """Let everything that is ready happen."""

        async def wait() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())
        self.loop.run_until_complete(asyncio.sleep(0.01))


class Tcp:
    """Records the events of a connection."""

    def __init__(self) -> None:
        self.sock: HostTcp | None = None
        self.log: list[str] = []
        self.error = 0
        self.got = b""
        self.eof = False
        self.read = True

    def host_connected(self, now: int) -> None:
        self.log.append("connected")
        assert self.sock is not None
        if self.read:
            self.sock.watch(True, False)

    def host_failed(self, error: int, now: int) -> None:
        self.log.append("failed")
        self.error = error

    def host_readable(self, now: int) -> None:
        assert self.sock is not None
        try:
            data = self.sock.recv(65536)
        except OSError as error:
            self.error = error.errno or -1
            self.sock.close()
            return
        if data == b"":
            self.eof = True
            self.sock.watch(False, False)
        elif data:
            self.got += data

    def host_writable(self, now: int) -> None:
        self.log.append("writable")


class Udp:
    """Records datagrams and errors."""

    def __init__(self) -> None:
        self.sock: HostUdp | None = None
        self.got: list[tuple[bytes, tuple[str, int]]] = []
        self.errors: list[Any] = []
        self.calls = 0

    def host_readable(self, now: int) -> None:
        assert self.sock is not None
        self.calls += 1
        while (item := self.sock.recv()) is not None:
            self.got.append(item)
        while (error := self.sock.error()) is not None:
            self.errors.append(error)


@pytest.fixture(params=["asyncio", "uvloop"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    loop = asyncio.new_event_loop() if request.param == "asyncio" else uvloop.new_event_loop()
    found = Bench(loop)
    yield found
    close_sockets(found.host)
    found.host.close()
    loop.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(64)
        sock.settimeout(BOUND_S)
        yield sock


@pytest.fixture
def echo() -> Iterator[socket.socket]:
    """A bound UDP socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(BOUND_S)
        yield sock


def connect(bench: Bench, server: socket.socket, read: bool = True) -> tuple[Tcp, HostTcp, socket.socket]:
    events = Tcp()
    events.read = read
    events.sock = bench.host.tcp(server.getsockname(), events)
    assert events.log == []  # never from inside the call
    bench.until(lambda: events.log)
    peer, _ = server.accept()
    peer.settimeout(BOUND_S)
    assert events.log == ["connected"]
    return events, events.sock, peer


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# ---- TCP ---------------------------------------------------------------------------------------------------


def test_there_and_back_and_both_ends(bench: Bench, server: socket.socket) -> None:
    events, sock, peer = connect(bench, server)
    assert sock.send(b"hello") == 5
    assert peer.recv(10) == b"hello"
    peer.sendall(b"world")
    bench.until(lambda: events.got)
    assert events.got == b"world"
    sock.shutdown()
    assert peer.recv(10) == b""
    peer.sendall(b"after the half-close")
    bench.until(lambda: len(events.got) > 5)
    peer.close()
    bench.until(lambda: events.eof)
    sock.close()
    sock.close()
    assert len(bench.host) == 0


def test_no_delay(bench: Bench, server: socket.socket) -> None:
    _, sock, peer = connect(bench, server)
    assert sock._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    peer.close()
    sock.close()


def test_refused(bench: Bench) -> None:
    events = Tcp()
    try:
        events.sock = bench.host.tcp(("127.0.0.1", closed_port()), events)
    except OSError as error:
        assert error.errno == errno.ECONNREFUSED
        assert len(bench.host) == 0
        return
    bench.until(lambda: events.log)
    assert events.log == ["failed"]
    assert events.error == errno.ECONNREFUSED
    assert len(bench.host) == 0


def test_an_impossible_address_raises_at_once(bench: Bench) -> None:
    with pytest.raises(OSError) as caught:
        bench.host.tcp(("255.255.255.255", 9), Tcp())
    assert caught.value.errno in (errno.ENETUNREACH, errno.EACCES, errno.EINVAL)
    assert len(bench.host) == 0


def test_reset_by_us(bench: Bench, server: socket.socket) -> None:
    _, sock, peer = connect(bench, server)
    sock.close(reset=True)
    with pytest.raises(ConnectionResetError):
        peer.recv(1)
    peer.close()


def test_close_without_reset_is_fin(bench: Bench, server: socket.socket) -> None:
    _, sock, peer = connect(bench, server)
    sock.close()
    assert peer.recv(1) == b""
    peer.close()


def test_reset_by_the_peer(bench: Bench, server: socket.socket) -> None:
    events, sock, peer = connect(bench, server)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    bench.until(lambda: events.error)
    assert events.error == errno.ECONNRESET
    assert sock.fileno() == -1


def test_unwatched_sockets_cost_nothing_even_when_broken(bench: Bench, server: socket.socket) -> None:
    events, sock, peer = connect(bench, server, read=False)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.sendall(b"last words")
    peer.close()
    before = bench.afters
    bench.settle()
    assert bench.afters - before <= 1
    assert not events.got
    sock.watch(True, False)
    bench.until(lambda: events.error)
    assert events.error == errno.ECONNRESET


def test_a_full_buffer_then_writable(bench: Bench, server: socket.socket) -> None:
    events, sock, peer = connect(bench, server)
    sent = 0
    for _ in range(10_000):
        taken = sock.send(b"x" * 65536)
        sent += taken
        if not taken:
            break
    assert not taken
    sock.watch(False, True)
    bench.settle()
    assert "writable" not in events.log
    got = 0
    while got < sent:
        got += len(peer.recv(1 << 20))
    bench.until(lambda: "writable" in events.log)
    sock.close()
    peer.close()


def test_sending_on_a_broken_connection_raises(bench: Bench, server: socket.socket) -> None:
    events, sock, peer = connect(bench, server, read=False)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    bench.settle()
    with pytest.raises(OSError):
        for _ in range(3):
            sock.send(b"x")
    sock.close()
    assert events.log == ["connected"]


def test_closed_while_connecting(bench: Bench, server: socket.socket) -> None:
    events = Tcp()
    events.sock = bench.host.tcp(server.getsockname(), events)
    events.sock.close()
    bench.settle()
    assert events.log == []


def test_closed_by_anothers_event_in_the_same_batch(bench: Bench, server: socket.socket) -> None:
    one, sock1, peer1 = connect(bench, server)
    two, sock2, peer2 = connect(bench, server)

    def close_both(now: int) -> None:
        one.log.append("closing")
        sock1.close()
        sock2.close()

    one.host_readable = two.host_readable = close_both  # type: ignore[method-assign]
    peer1.sendall(b"x")
    peer2.sendall(b"x")
    bench.until(lambda: "closing" in one.log)
    bench.settle()
    assert one.log.count("closing") == 1
    peer1.close()
    peer2.close()


def test_a_reused_descriptor_does_not_inherit_events(bench: Bench, server: socket.socket) -> None:
    one, sock1, peer1 = connect(bench, server)
    two, sock2, peer2 = connect(bench, server)
    fresh = Tcp()

    def reopen(now: int) -> None:
        if fresh.sock is None:
            sock1.close()
            sock2.close()
            fresh.sock = bench.host.tcp(server.getsockname(), fresh)
            fresh.log.append("made")

    one.host_readable = two.host_readable = reopen  # type: ignore[method-assign]
    peer1.sendall(b"x")
    peer2.sendall(b"x")
    bench.until(lambda: "connected" in fresh.log)
    assert fresh.log == ["made", "connected"]
    assert fresh.sock is not None
    fresh.sock.close()
    peer1.close()
    peer2.close()


# ---- UDP ---------------------------------------------------------------------------------------------------


def udp(bench: Bench, family: int = 4) -> tuple[Udp, HostUdp]:
    events = Udp()
    events.sock = bench.host.udp(family, events)
    return events, events.sock


def test_datagrams(bench: Bench, echo: socket.socket) -> None:
    events, sock = udp(bench)
    assert sock.sendto(b"ping", echo.getsockname()) == 0
    data, address = echo.recvfrom(100)
    assert data == b"ping"
    for n in range(100):
        echo.sendto(b"%d" % n, address)
    bench.until(lambda: len(events.got) == 100)
    assert events.got[7] == (b"7", echo.getsockname())
    assert events.calls < 100
    sock.close()
    sock.close()
    assert len(bench.host) == 0
    assert sock.sendto(b"x", echo.getsockname()) == errno.EBADF
    assert sock.recv() is None


def test_large_and_empty_datagrams(bench: Bench, echo: socket.socket) -> None:
    events, sock = udp(bench)
    for data in (b"", b"x" * 65507):
        assert sock.sendto(data, echo.getsockname()) == 0
        got, address = echo.recvfrom(70_000)
        assert got == data
        echo.sendto(data, address)
    bench.until(lambda: len(events.got) == 2)
    assert [len(data) for data, _ in events.got] == [0, 65507]
    assert sock.sendto(b"x" * 65508, echo.getsockname()) == errno.EMSGSIZE
    sock.close()


def rows(echo: socket.socket, count: int) -> list[bytes]:
    return [echo.recv(70_000) for _ in range(count)]


@pytest.mark.parametrize(("size", "count"), [(1, 200), (100, 65), (1400, 50), (40_000, 3)])
def test_many_in_one_call(bench: Bench, echo: socket.socket, size: int, count: int) -> None:
    _, sock = udp(bench)
    data = bytes(n % 251 for n in range(size * count - size // 2))
    assert sock.sendmany(data, size, echo.getsockname(), 3) == 0
    assert rows(echo, count) == [data[at : at + size] for at in range(0, len(data), size)]
    sock.close()
    assert sock.sendmany(data, size, echo.getsockname()) == errno.EBADF


def test_many_where_the_kernel_does_not_segment(bench: Bench, echo: socket.socket) -> None:
    _, sock = udp(bench)
    sock._sock.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK: UDP_SEGMENT is refused then
    for _ in range(2):
        assert sock.sendmany(bytes(95), 10, echo.getsockname()) == 0
        assert [len(data) for data in rows(echo, 10)] == [10] * 9 + [5]
    assert sock._segment == 9
    sock.close()


def test_many_after_an_error_of_an_earlier_one(bench: Bench, echo: socket.socket) -> None:
    events, sock = udp(bench)
    assert sock.sendto(b"x", ("127.0.0.1", closed_port())) == 0
    assert sock.sendmany(bytes(40), 10, echo.getsockname()) == 0
    assert len(rows(echo, 4)) == 4
    bench.until(lambda: events.errors)
    sock.close()


def test_ttl(bench: Bench, echo: socket.socket) -> None:
    _, sock = udp(bench)
    echo.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    seen = []
    for ttl in (7, 7, 200):
        sock.sendto(b"x", echo.getsockname(), ttl)
        _, control, _, _ = echo.recvmsg(10, 100)
        seen.append(int.from_bytes(control[0][2][:4], "little"))
    assert seen == [7, 7, 200]
    sock.close()


def test_ipv6(bench: Bench) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.bind(("::1", 0))
        peer.settimeout(BOUND_S)
        events, sock = udp(bench, 6)
        assert sock.sendto(b"x", peer.getsockname()[:2], 9) == 0
        _, address = peer.recvfrom(10)
        peer.sendto(b"y", address)
        bench.until(lambda: events.got)
        assert events.got == [(b"y", peer.getsockname()[:2])]
        sock.close()


def test_port_unreachable_comes_by_the_error_queue(bench: Bench) -> None:
    events, sock = udp(bench)
    port = closed_port()
    for n in range(3):
        assert sock.sendto(b"hello %d" % n, ("127.0.0.1", port)) == 0
        bench.until(lambda n=n: len(events.errors) > n)
    error = events.errors[1]
    assert (error.errno, error.type, error.code) == (errno.ECONNREFUSED, 3, 3)
    assert error.remote == ("127.0.0.1", port)
    assert error.offender == "127.0.0.1"
    assert error.payload == b"hello 1"
    sock.close()


def test_errors_do_not_stop_datagrams(bench: Bench, echo: socket.socket) -> None:
    events, sock = udp(bench)
    port = closed_port()
    for n in range(5):
        assert sock.sendto(b"x", ("127.0.0.1", port)) == 0
        assert sock.sendto(b"y", echo.getsockname()) == 0
        _, address = echo.recvfrom(10)
        echo.sendto(b"%d" % n, address)
        bench.until(lambda n=n: len(events.got) > n)
    bench.until(lambda: len(events.errors) == 5)
    calls = events.calls
    bench.settle()
    assert events.calls == calls  # an emptied error queue does not spin
    sock.close()


def test_an_error_on_ipv6(bench: Bench) -> None:
    events, sock = udp(bench, 6)
    port = closed_port()
    assert sock.sendto(b"hello", ("::1", port)) == 0
    bench.until(lambda: events.errors)
    (error,) = events.errors
    assert (error.type, error.code, error.remote, error.offender) == (1, 4, ("::1", port), "::1")
    sock.close()


def test_no_route(bench: Bench) -> None:
    _, sock = udp(bench)
    assert sock.sendto(b"x", ("255.255.255.255", 9)) in (errno.EACCES, errno.ENETUNREACH)
    sock.close()


@given(st.integers(0, 60), st.integers(0, 60), st.binary(max_size=64))
def test_any_control_message(level: int, kind: int, data: bytes) -> None:
    parse_error(level, kind, data, ("192.0.2.1", 9), b"")
    parse_error(0, 11, data, ("192.0.2.1", 9), b"")
    parse_error(41, 25, data, ("192.0.2.1", 9), b"")


def test_parse_error_with_mtu_and_router() -> None:
    head = struct.pack("=IBBBBII", errno.EMSGSIZE, 2, 3, 4, 0, 1400, 0)
    where = struct.pack("=H", socket.AF_INET) + b"\0\0" + socket.inet_aton("198.51.100.1") + bytes(8)
    error = parse_error(0, 11, head + where, ("192.0.2.1", 9), b"p")
    assert error is not None
    assert (error.type, error.code, error.info, error.offender) == (3, 4, 1400, "198.51.100.1")


def test_parse_error_of_the_host_itself() -> None:
    head = struct.pack("=IBBBBII", errno.EHOSTUNREACH, 1, 0, 0, 0, 0, 0)
    error = parse_error(0, 11, head + bytes(16), ("192.0.2.1", 9), b"p")
    assert error is not None
    assert (error.type, error.code, error.offender) == (3, 1, None)


# ---- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [("127.0.0.1", 53)]),
        ("nameserver 192.0.2.1\n", [("192.0.2.1", 53)]),
        ("# nameserver 1.1.1.1\nnameserver\t9.9.9.9 # x\noptions edns0\n", [("9.9.9.9", 53)]),
        ("nameserver fe80::1%eth0\nnameserver ::1", [("fe80::1%eth0", 53), ("::1", 53)]),
        ("nameserver nonsense\nnameserver\n", [("127.0.0.1", 53)]),
        ("nameserver 1.1.1.1\nnameserver 1.1.1.1\n", [("1.1.1.1", 53)]),
        (
            "".join(f"nameserver 192.0.2.{n}\n" for n in range(20)),
            [(f"192.0.2.{n}", 53) for n in range(8)],
        ),
    ],
)
def test_resolv_conf(text: str, found: list) -> None:
    assert parse_resolv_conf(text) == found


@given(st.text(max_size=200))
def test_any_resolv_conf(text: str) -> None:
    assert parse_resolv_conf(text)
    assert parse_resolv_conf("nameserver " + text)


def test_a_changed_resolv_conf_is_noticed_within_a_second(tmp_path: Path) -> None:
    clock = [0]
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    loop = asyncio.new_event_loop()
    host = AsyncHost(loop, lambda: clock[0], resolv_conf=str(file))
    try:
        assert host.resolvers() == [("192.0.2.1", 53)]
        other = tmp_path / "new"
        other.write_text("nameserver 192.0.2.2\n")
        os.replace(other, file)
        clock[0] += hostio.SECOND - 1
        assert host.resolvers() == [("192.0.2.1", 53)]
        clock[0] += 1
        assert host.resolvers() == [("192.0.2.2", 53)]
        file.unlink()
        clock[0] += hostio.SECOND
        assert host.resolvers() == [("192.0.2.2", 53)]
    finally:
        host.close()
        loop.close()


def test_no_resolv_conf(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    host = AsyncHost(loop, time.monotonic_ns, resolv_conf=str(tmp_path / "none"))
    try:
        assert host.resolvers() == [("127.0.0.1", 53)]
    finally:
        host.close()
        loop.close()


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("0.0.0.0", True),
        ("::", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("nonsense", True),
    ],
)
def test_is_local(text: str, local: bool) -> None:
    assert is_local(text) is local


def test_the_hosts_own_addresses_are_local() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return  # no route out: loopback is all there is
        own = probe.getsockname()[0]
    assert is_local(own)
    assert is_local(f"::ffff:{own}")


def test_forbidden_while_the_claim_is_held(bench: Bench) -> None:
    port = closed_port()
    host = bench.host
    assert not host.forbidden(("127.0.0.1", port))
    mark = claim(port)
    second = claim(port)
    try:
        for text in ("127.0.0.1", "127.0.0.9", "::1", "::ffff:127.0.0.1", "0.0.0.0"):
            assert host.forbidden((text, port))
        assert not host.forbidden(("127.0.0.1", port + 1))
        assert not host.forbidden(("192.0.2.1", port))
        mark.close()
        assert host.forbidden(("127.0.0.1", port))
    finally:
        mark.close()
        second.close()
    assert not host.forbidden(("127.0.0.1", port))


def test_descriptors_are_left_for_the_rest_of_the_process(bench: Bench, server: socket.socket) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == min(hostio.DESCRIPTORS, hard) or soft > hostio.DESCRIPTORS
    with open(os.devnull) as probe:
        bench.host._last = probe.fileno() + 2
    events = [Udp() for _ in range(4)]
    with pytest.raises(OSError) as caught:
        for each in events:
            each.sock = bench.host.udp(4, each)
    assert caught.value.errno == errno.EMFILE
    with pytest.raises(OSError):
        bench.host.tcp(server.getsockname(), Tcp())
    made = [each.sock for each in events if each.sock is not None]
    assert 1 <= len(made) == len(bench.host)
    for sock in made:
        sock.close()


def test_close_is_idempotent_and_frees_the_loop(bench: Bench) -> None:
    bench.host.close()
    bench.host.close()


def test_domains_of_resolv_conf() -> None:
    text = "domain a.test\nnameserver 192.0.2.1\nsearch b.test c.test\n# search d.test\nsearch\n"
    assert parse_search(text) == ["b.test", "c.test"]
    assert len(parse_search("search" + " a" * 99)) == 32
