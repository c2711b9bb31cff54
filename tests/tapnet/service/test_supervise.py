"""From READY to the end, against a service manager of our own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tapnet.config import Config
from tapnet.errors import OptionError
from tapnet.guest.prepare import prepare
from tapnet.instance.instance import Instance
from tapnet.options import parse as options
from tapnet.service import supervise
from tapnet.service.supervise import Supervisor
from tests.tapnet.live_kit import info
from tests.tapnet.wire_kit import until
from tests.waiting import BOUND_S


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "notify"))
        one.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield one


def words(manager: socket.socket) -> list[str]:
    """All that has been said so far."""
    said: list[str] = []
    while True:
        try:
            said += manager.recv(4096).decode().split("\n")
        except BlockingIOError:
            return said


def config(*words: str) -> Config:
    return options.parse(["-net", "nic", *words], "run", {})


def play(
    scene: Callable[[Supervisor, Instance, asyncio.Event], Awaitable[Any]],
    again: Callable[[str | None], Config] | None = None,
    *words: str,
) -> Supervisor:
    async def main() -> Supervisor:
        made = config(*(words or ("-net", "user")))
        instance = Instance(made, prepare(made), asyncio.get_running_loop(), time.monotonic_ns, lambda: None)
        stop = asyncio.Event()
        supervisor = Supervisor(instance, again, stop)
        try:
            instance.start()
            await scene(supervisor, instance, stop)
        finally:
            instance.close()
        return supervisor

    return asyncio.run(main())


def test_signs_of_life_with_mode_and_counters(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")

    async def scene(supervisor: Supervisor, _: Instance, stop: asyncio.Event) -> None:
        task = asyncio.ensure_future(supervisor.run())
        said: list[str] = []
        await until(lambda: said.extend(words(manager)) or said.count("WATCHDOG=1") > 2, "signs of life", 60)
        stop.set()
        await task
        status = re.compile(r"STATUS=mode as configured: 1 VLANs, 2 ports, \d+ frames, 0 dropped, 0 flows")
        assert any(status.fullmatch(word) for word in said), said

    play(scene)


def test_hangup_reads_the_configuration_again(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tapnet")
    answers = iter((config("-net", "user", "-net", "user,vlan=1"), OptionError("bad.toml: no")))

    def again(_mode: str | None) -> Config:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def scene(supervisor: Supervisor, instance: Instance, stop: asyncio.Event) -> None:
        task = asyncio.ensure_future(supervisor.run())
        await asyncio.sleep(0)
        said: list[str] = []
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: said.extend(words(manager)) or "READY=1" in said, "the reload", 60)
        assert said[0] == "RELOADING=1" and said[1].startswith("MONOTONIC_USEC=")
        assert sorted(instance.vlans) == [0, 1]
        before = instance.config
        said.clear()
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: said.extend(words(manager)) or "READY=1" in said, "the second reload", 60)
        assert instance.config is before
        stop.set()
        await task

    play(scene, again)
    assert "reload: 1 added, 0 removed, 1 as before" in caplog.text


def test_what_a_callback_raises_is_told_and_memory_ends_it(
    manager: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scene(supervisor: Supervisor, _: Instance, stop: asyncio.Event) -> None:
        def fail(error: Exception) -> None:
            raise error

        task = asyncio.ensure_future(supervisor.run())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(fail, ValueError("odd"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done() and not stop.is_set()
        asyncio.get_running_loop().call_soon(fail, MemoryError())
        await asyncio.wait_for(task, BOUND_S)

    assert play(scene).exit_status == 71
    said = capfd.readouterr().err
    assert "ValueError('odd')" in said and "Traceback" in said and "MemoryError()" in said


def test_the_drain_is_bounded_and_ends_the_nat_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "DRAIN_SECONDS", 0.05)

    async def scene(supervisor: Supervisor, instance: Instance, _: asyncio.Event) -> None:
        await supervisor.drain()
        assert not instance.busy()
        monkeypatch.setattr(instance, "busy", lambda: True)
        await asyncio.wait_for(supervisor.drain(), 60)

    play(scene)


def test_ready_waits_for_names_and_not_for_peers(manager: socket.socket) -> None:
    async def scene(supervisor: Supervisor, instance: Instance, _: asyncio.Event) -> None:
        await supervisor.settled()
        assert "listening" in info(instance, "info network")

    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    name = (
        "-netdev",
        f"stream,id=n,server=on,addr.type=inet,addr.host={socket.gethostname()},addr.port={port}",
    )
    away = ("-net", "socket,connect=127.0.0.1:1")
    try:
        socket.getaddrinfo(socket.gethostname(), port)
    except OSError:
        name = ("-netdev", f"stream,id=n,server=on,addr.type=inet,addr.host=localhost,addr.port={port}")
    play(scene, None, *name, *away)
