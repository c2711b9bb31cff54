"""Listening sockets on loopback, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from slirp.host.tcp import HostAccepted
from tests.slirp.host.test_sockets import Bench, Tcp
from tests.waiting import BOUND_S

LOOPBACK = ("127.0.0.1", 0)


class Listen:
    """Takes in whoever comes."""

    def __init__(self) -> None:
        self.listener: Any = None
        self.clients: list[HostAccepted] = []

    def host_acceptable(self, now: int) -> None:
        while (client := self.listener.accept()) is not None:
            self.clients.append(client)


class UdpListen:
    """Answers in capitals."""

    def __init__(self) -> None:
        self.sock: Any = None
        self.got: list[Any] = []
        self.errors: list[Any] = []

    def host_readable(self, now: int) -> None:
        while (item := self.sock.recv()) is not None:
            self.got.append(item)
        while (error := self.sock.error()) is not None:
            self.errors.append(error)


@pytest.fixture(params=["asyncio", "uvloop"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    loop = asyncio.new_event_loop() if request.param == "asyncio" else uvloop.new_event_loop()
    found = Bench(loop)
    yield found
    found.host.close()
    loop.close()


def listening(bench: Bench, local: Any = LOOPBACK) -> Listen:
    events = Listen()
    events.listener = bench.host.listen(local, events)
    return events


def connected(bench: Bench, events: Listen) -> tuple[socket.socket, HostAccepted]:
    client = socket.create_connection(events.listener.address, BOUND_S)
    bench.until(lambda: events.clients)
    return client, events.clients.pop()


def test_a_client_is_accepted_with_both_addresses(bench: Bench) -> None:
    events = listening(bench)
    client, found = connected(bench, events)
    with client:
        assert (found.peer, found.local) == (client.getsockname(), client.getpeername())
        taken = Tcp()
        taken.sock = found
        found.attach(taken)
        found.watch(True, False)
        client.sendall(b"hello")
        bench.until(lambda: taken.got == b"hello")
        assert found.send(b"world") == 5
        assert client.recv(10) == b"world"
        found.shutdown()
        assert client.recv(10) == b""
        found.close()
    events.listener.close()
    assert len(bench.host) == 0


def test_gone_tells_a_client_that_left_from_one_that_waits_or_has_spoken(bench: Bench) -> None:
    events = listening(bench)
    waits, one = connected(bench, events)
    speaks, two = connected(bench, events)
    leaves, three = connected(bench, events)
    speaks.sendall(b"request")
    speaks.shutdown(socket.SHUT_WR)
    leaves.close()
    bench.until(three.gone)
    assert not one.gone()
    bench.until(lambda: two.recv(0) is not None)
    assert not two.gone()
    for each in (one, two, three):
        each.close()
        assert each.gone()
    events.listener.close()
    waits.close()
    speaks.close()


def test_refusing_a_client_is_a_reset(bench: Bench) -> None:
    events = listening(bench)
    client, found = connected(bench, events)
    found.close(reset=True)
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)
    events.listener.close()


def test_a_paused_listener_reports_nothing(bench: Bench) -> None:
    events = listening(bench)
    events.listener.watch(False)
    with socket.create_connection(events.listener.address, BOUND_S):
        bench.settle()
        assert not events.clients
        events.listener.watch(True)
        bench.until(lambda: events.clients)
    events.clients[0].close()
    events.listener.close()


def test_without_a_descriptor_to_spare_a_client_is_turned_away(bench: Bench) -> None:
    events = listening(bench)
    bench.host._last = 0
    with socket.create_connection(events.listener.address, BOUND_S) as client:
        client.settimeout(BOUND_S)
        bench.settle()
        assert client.recv(1) == b""
    assert not events.clients
    events.listener.close()


def test_a_port_in_use(bench: Bench) -> None:
    events = listening(bench)
    with pytest.raises(OSError, match="in use") as found:
        bench.host.listen(events.listener.address, Listen())
    assert found.value.errno == errno.EADDRINUSE
    events.listener.close()
    listening(bench, events.listener.address).listener.close()


def test_a_unix_path_comes_and_goes(bench: Bench, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    events = listening(bench, path)
    with pytest.raises(OSError, match="in use"):
        bench.host.listen(path, Listen())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        bench.until(lambda: events.clients)
        assert events.clients[0].peer == ("", 0)
        for one in events.clients:  # the second listener's look at the path is one of them
            one.close()
    events.listener.close()
    assert not os.path.exists(path)


def test_an_abandoned_unix_path_is_taken_over_and_a_file_is_not(bench: Bench, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    listening(bench, path).listener.close()
    Path(path).write_text("precious")
    with pytest.raises(OSError, match="in use"):
        bench.host.listen(path, Listen())
    assert Path(path).read_text() == "precious"


def test_a_unix_path_that_somebody_else_took_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    events = listening(bench, path)
    os.unlink(path)
    Path(path).write_text("other")
    events.listener.close()
    assert Path(path).read_text() == "other"


def test_an_abstract_name(bench: Bench) -> None:
    name = f"\0tapnet-test-{os.getpid()}"
    events = listening(bench, name)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(name)
        bench.until(lambda: events.clients)
        events.clients[0].close()
    events.listener.close()


def test_udp_answers_from_the_address_that_was_asked(bench: Bench) -> None:
    events = UdpListen()
    events.sock = bench.host.listen_udp(("0.0.0.0", 0), events)
    port = events.sock.address[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(BOUND_S)
        client.bind(("127.0.0.1", 0))
        client.sendto(b"query", ("127.0.0.7", port))
        bench.until(lambda: events.got)
        ((data, remote, local),) = events.got
        assert (data, remote, local) == (b"query", client.getsockname(), "127.0.0.7")
        assert events.sock.sendto(b"answer", remote, local) == 0
        assert client.recvfrom(100) == (b"answer", ("127.0.0.7", port))
    assert events.sock.sendto(b"lost", remote, local) == 0
    bench.until(lambda: events.errors)
    assert (events.errors[0].errno, events.errors[0].remote) == (errno.ECONNREFUSED, remote)
    events.sock.close()
    assert events.sock.sendto(b"x", remote, local) == errno.EBADF
    assert events.sock.recv() is None
