"""A command that raises what it must not: answered at once, told once, and those behind it are served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tapnet.config import Chardev, Endpoint, UnixPath
from tapnet.monitor.client import main as client
from tapnet.monitor.commands.control import Control
from tapnet.monitor.hmp import Hmp
from tapnet.monitor.sessions import metrics as metrics_session
from tapnet.monitor.sessions import server, stdio
from tapnet.system import runtime as paths
from tests.tapnet.monitor.kit import FakeInstance, seed_instance

PATIENCE = 60.0
SAID = "a mistake in tapnet: ModuleNotFoundError: No module named 'pytun'"
QUIET = 5.0  # far less than a client waits: an answer that is there is there at once


class Unspeakable(Exception):
    """An error that cannot even be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class Failing(FakeInstance):
    """Whose commands raise: ``mode`` after a while, ``host_net_add`` at once, ``x-tapnet-instance`` returns no JSON."""

    error: Exception = ModuleNotFoundError("No module named 'pytun'", name="pytun")

    async def set_mode(self, mode: str, vlan: int | None) -> dict[int, list[Any]]:
        await asyncio.sleep(0)
        raise self.error


class FailingLive:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def host_net_add(self, value: object) -> None:
        raise self.error

    async def netdev_add(self, value: object) -> None:
        raise asyncio.CancelledError  # something inside was given up; nobody gave up the command


@pytest.fixture(params=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Run a scene on either loop."""
    make = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def run(scene: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(PATIENCE):
                await scene()

        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(bounded())

    return run


def failing(error: Exception | None = None) -> Failing:
    _, seed = seed_instance()
    instance = Failing(**{name: getattr(seed, name) for name in ("vlans", "wires", "usernets")})
    if error is not None:
        instance.error = error
    instance.live = FailingLive(instance.error)  # type: ignore[assignment]
    return instance


@contextlib.contextmanager
def told(caplog: pytest.LogCaptureFixture, *words: str) -> Any:
    """In the log: one record for each of ``words``, with its traceback."""
    caplog.clear()
    yield
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == len(words), [record.getMessage() for record in errors]
    for record, word in zip(errors, words, strict=True):
        assert record.getMessage().startswith(f"tapnet: {word}: a mistake in tapnet")
        assert record.name.startswith("tapnet") and record.exc_info


HMP = ("mode tap", "host_net_add user")


@pytest.mark.parametrize("line", HMP)
@pytest.mark.parametrize("way", ["control", "monitor"])
def test_a_line_is_answered(
    play: Any, tmp_path: Path, monkeypatch: Any, caplog: Any, line: str, way: str
) -> None:
    monkeypatch.setattr(paths, "candidates", lambda: [tmp_path / "run"])
    word = line.split()[0]

    async def scene() -> None:
        control = Control(failing())
        if way == "control":
            one = server.open_control("lab", control)
            place, ends, begin = (
                one.what,
                b"VM status: running\n",
                f"error {len(word) + len(SAID) + 10}\n".encode(),
            )
        else:
            place = str(tmp_path / "m")
            chardev = Chardev(origin="-monitor", address=UnixPath(place), server=True)
            one = await server.open_monitor(chardev, control)
            ends, begin = b"VM status: running\r\n(tapnet) ", b"(tapnet) "
        try:
            reader, writer = await asyncio.open_unix_connection(place)
            writer.write(f"{line}\ninfo status\n{line}\ninfo name\n".encode())
            async with asyncio.timeout(QUIET):
                text = await reader.readuntil(ends)
                again = await reader.readuntil(b"lab")
            assert begin + f"Error: {word}: {SAID}".encode() in text and SAID.encode() in again
            writer.close()
            reader, writer = await asyncio.open_unix_connection(place)
            writer.write(b"info status\n")
            async with asyncio.timeout(QUIET):
                await reader.readuntil(ends)
            writer.close()
        finally:
            one.close()

    with told(caplog, word, word):
        play(scene)


@pytest.mark.parametrize("line", HMP)
def test_tapnet_monitor_ends_with_status_one(
    play: Any, tmp_path: Path, monkeypatch: Any, capsys: Any, line: str
) -> None:
    monkeypatch.setattr(paths, "candidates", lambda: [tmp_path / "run"])

    async def scene() -> None:
        one = server.open_control("lab", Control(failing()))
        try:
            status = await asyncio.to_thread(client.main, "lab", [line], QUIET)
            assert status == 1
            assert await asyncio.to_thread(client.main, "lab", ["info", "status"], QUIET) == 0
        finally:
            one.close()

    play(scene)
    out, err = capsys.readouterr()
    assert out == "VM status: running\n" and f"Error: {line.split()[0]}: {SAID}\n" in err


QMP = (
    ("x-tapnet-mode", {"mode": "tap"}, SAID),
    ("x-tapnet-net-add", {"type": "user"}, SAID),
    ("netdev_add", {"type": "user", "id": "u"}, "a mistake in tapnet: asyncio.exceptions.CancelledError"),
    (
        "x-tapnet-instance",
        {},
        "a mistake in tapnet: TypeError: Object of type Failing is not JSON serializable",
    ),
)


@pytest.mark.parametrize(("name", "arguments", "said"), QMP, ids=[row[0] for row in QMP])
def test_qmp_is_answered(
    play: Any, tmp_path: Path, caplog: Any, name: str, arguments: dict[str, Any], said: str
) -> None:
    async def scene() -> None:
        instance = failing()
        control = Control(instance)
        control.instance_data = lambda: {"name": instance}  # type: ignore[method-assign]
        place = str(tmp_path / "q")
        one = await server.open_qmp(Chardev(origin="-qmp", address=UnixPath(place), server=True), control)
        try:
            reader, writer = await asyncio.open_unix_connection(place)
            messages = [
                {"execute": "qmp_capabilities"},
                {"execute": name, "arguments": arguments, "id": 7},
                {"execute": "query-status", "id": 8},
            ]
            writer.write(b"".join(json.dumps(message).encode() for message in messages))
            async with asyncio.timeout(QUIET):
                answers = [json.loads(await reader.readline()) for _ in range(4)][1:]
            assert answers[0] == {"return": {}}
            assert answers[1] == {"error": {"class": "GenericError", "desc": f"{name}: {said}"}, "id": 7}
            assert answers[2] == {"return": {"running": True, "status": "running"}, "id": 8}
            writer.close()
        finally:
            one.close()

    with told(caplog, name):
        play(scene)


@pytest.mark.parametrize("line", HMP)
def test_human_monitor_command_is_answered(play: Any, tmp_path: Path, caplog: Any, line: str) -> None:
    """As QEMU: what the human monitor says is the value. It is told once for both monitors."""

    async def scene() -> None:
        place = str(tmp_path / "q")
        one = await server.open_qmp(
            Chardev(origin="-qmp", address=UnixPath(place), server=True), Control(failing())
        )
        try:
            reader, writer = await asyncio.open_unix_connection(place)
            command = {"execute": "human-monitor-command", "arguments": {"command-line": line}}
            writer.write(json.dumps({"execute": "qmp_capabilities"}).encode() + json.dumps(command).encode())
            async with asyncio.timeout(QUIET):
                answers = [json.loads(await reader.readline()) for _ in range(3)]
            assert answers[2] == {"return": f"Error: {line.split()[0]}: {SAID}\n"}
            writer.close()
        finally:
            one.close()

    with told(caplog, line.split()[0]):
        play(scene)


def test_an_error_without_words(play: Any, tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    hmp = Hmp(Control(failing(Unspeakable())))

    async def scene() -> None:
        for line in HMP:
            reply = hmp.start(line)
            done = await reply if isinstance(reply, Awaitable) else reply
            assert not done.ok and "Unspeakable: <exception str() failed>" in done.text

    play(scene)


def test_execute_never_raises(caplog: Any) -> None:
    with told(caplog, "host_net_add"):
        assert Hmp(Control(failing())).execute("host_net_add user").text == f"Error: host_net_add: {SAID}\n"


def test_bytes_that_are_no_text(play: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """A file's name of the command line may have such: it is shown with a mark."""
    monkeypatch.setattr(paths, "candidates", lambda: [tmp_path / "run"])

    async def scene() -> None:
        instance = failing()
        instance.tracer.open(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.log"))
        one = server.open_control("lab", Control(instance))
        try:
            reader, writer = await asyncio.open_unix_connection(one.what)
            writer.write(b"info log\ninfo status\n")
            async with asyncio.timeout(QUIET):
                text = await reader.readuntil(b"VM status: running\n")
            assert b"/?.log" in text
            writer.close()
        finally:
            one.close()
            instance.tracer.close()

    play(scene)


def test_out_of_memory_is_the_end(play: Any) -> None:
    """Not a mistake of the command: the service ends with a status of its own (``supervise``)."""

    async def scene() -> None:
        hmp = Hmp(Control(failing(MemoryError())))
        with pytest.raises(MemoryError):
            hmp.start("host_net_add user")
        with pytest.raises(MemoryError):
            reply = hmp.start("mode tap")
            assert isinstance(reply, Awaitable)
            await reply

    play(scene)


def test_standard_input_goes_on(play: Any, monkeypatch: Any, caplog: Any) -> None:
    lines: list[str | None] = ["mode tap", "host_net_add user", "info status"]
    shown: list[str] = []
    monkeypatch.setattr(stdio, "_piped", lambda: iter(lines))
    monkeypatch.setattr(stdio, "put", shown.append)
    done = threading.Event()

    async def scene() -> None:
        loop = asyncio.get_running_loop()

        def person() -> None:
            stdio._person(Hmp(Control(failing())), loop, False)
            done.set()

        await asyncio.to_thread(person)

    with told(caplog, "mode", "host_net_add"):
        play(scene)
    assert shown[1:4] == [f"Error: mode: {SAID}\n", f"Error: host_net_add: {SAID}\n", "VM status: running\n"]


def test_a_scraper_is_answered(play: Any, monkeypatch: Any, caplog: Any) -> None:
    def exposition(_control: Control) -> str:
        raise ModuleNotFoundError("No module named 'pytun'", name="pytun")

    monkeypatch.setattr(metrics_session, "exposition", exposition)

    async def scene() -> None:
        one = await server.open_metrics(Endpoint("127.0.0.1", 0), Control(failing()))
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            async with asyncio.timeout(QUIET):
                text = (await reader.read()).decode()
            assert text.startswith("HTTP/1.1 500 Internal Server Error\r\n") and text.endswith(f"{SAID}\n")
            writer.close()
        finally:
            one.close()

    with told(caplog, "metrics"):
        play(scene)
