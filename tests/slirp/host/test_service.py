"""Services of the host, real ones: programs, UNIX sockets, datagrams; and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from slirp.contracts.host import Service
from slirp.host import service as hostservice
from slirp.host.sockets import AsyncHost
from tests.slirp.host.test_sockets import close_sockets
from tests.waiting import until_async as until


class Events:
    """Collects what a service says."""

    def __init__(self) -> None:
        self.connected = self.ended = False
        self.failed = 0
        self.data: list[bytes] = []
        self.socket: Any = None

    def host_connected(self, now: int) -> None:
        self.connected = True
        self.socket.watch(True, False)

    def host_failed(self, error: int, now: int) -> None:
        self.failed = error

    def host_readable(self, now: int) -> None:
        try:
            data = self.socket.recv(65536)
        except OSError as error:
            self.failed = error.errno or -1
            self.socket.close()
            return
        if data:
            self.data.append(data)
        elif data is not None:
            self.ended = True
            self.socket.watch(False, False)

    def host_writable(self, now: int) -> None:
        """Not watched."""


def play(scene: Callable[[AsyncHost], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        host = AsyncHost(asyncio.get_running_loop(), time.monotonic_ns)
        try:
            return await scene(host)
        finally:
            host.close()
            assert not len(host.programs)
            close_sockets(host)

    return asyncio.run(main())


def begin(host: AsyncHost, service: Service, packets: bool = False) -> Events:
    events = Events()
    events.socket = host.service(service, events, packets=packets)
    return events


def program(*argv: str, output: str | None = None) -> Service:
    return Service("program", argv, output)


def test_a_program_and_its_ends() -> None:
    async def scene(host: AsyncHost) -> None:
        events = begin(host, program("tr", "a-z", "A-Z"))
        await until(lambda: events.connected, "start")
        assert events.socket.send(b"hello") == 5
        events.socket.shutdown()
        await until(lambda: events.ended, "end")
        assert b"".join(events.data) == b"HELLO"
        events.socket.close()
        await until(lambda: not len(host.programs), "it is reaped")

    play(scene)


def test_packets_stay_apart() -> None:
    async def scene(host: AsyncHost) -> None:
        events = begin(host, program("cat"), packets=True)
        await until(lambda: events.connected, "start")
        for packet in (b"one", b"two", bytes(9000)):
            events.socket.send(packet)
        await until(lambda: len(events.data) == 3, "three packets")
        assert events.data == [b"one", b"two", bytes(9000)]

    play(scene)


def test_a_program_that_leaves_early_is_no_reset() -> None:
    async def scene(host: AsyncHost) -> None:
        events = begin(host, program("sh", "-c", "head -c 1 >/dev/null; echo enough"))
        await until(lambda: events.connected, "start")
        events.socket.send(bytes(50_000))
        await until(lambda: events.ended, "end")
        assert (b"".join(events.data), events.failed) == (b"enough\n", 0)
        with pytest.raises(OSError, match="pipe"):
            events.socket.send(b"more")

    play(scene)


def test_what_cannot_be_started() -> None:
    async def scene(host: AsyncHost) -> None:
        for argv, error in ((("/no/such",), 2), (("/etc/passwd",), 2), (("cat", "a\0b"), 22)):
            events = begin(host, program(*argv))
            await until(lambda e=events: e.failed, "failure")
            assert events.failed == error, argv
        assert not len(host.programs)

    play(scene)


@pytest.mark.packages
def test_a_program_is_clean(tmp_path: Path) -> None:
    """No signal blocked or ignored, no descriptor of ours, its own session, standard error on the socket too."""
    script = (
        "grep -E 'SigBlk|SigIgn' /proc/self/status; ls /proc/self/fd; ps -o sid= -p $$; echo $$; echo err >&2"
    )

    async def scene(host: AsyncHost) -> list[str]:
        events = begin(host, program("sh", "-c", script))
        await until(lambda: events.ended, "end")
        return b"".join(events.data).decode().split()

    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    try:
        words = play(scene)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert words[:3] == ["SigBlk:", "0" * 16, "SigIgn:"]
    assert not int(words[3], 16) & 0x7FFFFFFF  # beyond are glibc's own
    assert words[4:8] == ["0", "1", "2", "3"]  # 3 is ls reading the directory
    assert words[8] == words[9]
    assert words[10] == "err"


def test_a_program_that_does_not_read_its_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(host: AsyncHost) -> None:
        stubborn = "trap '' TERM; echo up; while :; do sleep 1; done"
        for grace, kill, script in ((0.01, 60.0, "echo up; exec sleep 1000"), (0.01, 0.01, stubborn)):
            monkeypatch.setattr(hostservice, "GRACE", grace)
            monkeypatch.setattr(hostservice, "KILL", kill)
            events = begin(host, program("sh", "-c", script))
            await until(lambda e=events: e.data, "it runs")
            events.socket.close()
            await until(lambda: not len(host.programs), "it ended")

    play(scene)


def test_nothing_is_left_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostservice, "LAST", 0.2)

    async def scene(host: AsyncHost) -> list[int]:
        shells = ("echo $$; exec sleep 1000", "trap '' TERM; echo $$; while :; do sleep 1; done")
        found = [begin(host, program("sh", "-c", script)) for script in shells]
        for events in found:
            await until(lambda e=events: e.data, "it runs")
        begin(host, program("sleep", "1000"))  # may not have started yet
        return [int(events.data[0]) for events in found]

    for pid in play(scene):
        assert not os.path.exists(f"/proc/{pid}")


def test_programs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostservice, "PROGRAMS", 1)

    async def scene(host: AsyncHost) -> None:
        begin(host, program("cat"))
        with pytest.raises(BlockingIOError):
            begin(host, program("cat"))

    play(scene)


def test_output_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before\n")

    async def scene(host: AsyncHost) -> None:
        events = begin(host, program("cat", output=str(path)))
        await until(lambda: events.connected, "start")
        events.socket.send(b"said\n")
        events.socket.shutdown()
        await until(lambda: events.ended, "end")

    play(scene)
    assert path.read_text() == "before\nsaid\n"


def test_unix_sockets(tmp_path: Path) -> None:
    stream, packets = str(tmp_path / "s"), f"\0tapnet-test-{os.getpid()}"
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server,
    ):
        listener.bind(stream)
        listener.listen()
        server.bind(packets)

        async def scene(host: AsyncHost) -> None:
            events = begin(host, Service("unix", stream))
            await until(lambda: events.connected, "connect")
            client, _ = listener.accept()
            client.sendall(b"hi")
            client.close()
            await until(lambda: events.ended, "end")
            assert events.data == [b"hi"]
            events = begin(host, Service("unix", packets), packets=True)
            await until(lambda: events.connected, "connect")
            events.socket.send(b"ask")
            data, name = server.recvfrom(100)
            server.sendto(b"", name)
            server.sendto(data.upper(), name)
            await until(lambda: events.data, "answer")
            assert (events.data, events.ended) == ([b"ASK"], False)
            with pytest.raises(FileNotFoundError):
                begin(host, Service("unix", str(tmp_path / "none")))

        play(scene)


def test_udp_and_its_refusal() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        async def scene(host: AsyncHost) -> None:
            events = begin(host, Service("udp", server.getsockname()), packets=True)
            await until(lambda: events.connected, "connect")
            events.socket.send(b"ask")
            data, name = server.recvfrom(100)
            server.sendto(data.upper(), name)
            await until(lambda: events.data, "answer")
            server.close()
            events.socket.send(b"again")
            await until(lambda: events.failed, "refusal")

        play(scene)
