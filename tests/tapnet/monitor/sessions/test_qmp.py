"""``-qmp`` over real sockets, with the public client (qemu.qmp) where it can say what is meant."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from qemu.qmp import ExecuteError, QMPClient

from tapnet.config import Chardev, Endpoint, UnixPath
from tapnet.monitor import qmp
from tapnet.monitor.commands.control import Control
from tapnet.monitor.sessions import server, session
from tapnet.system import guard
from tests.tapnet.monitor.kit import FakeInstance, seed_instance
from tests.waiting import BOUND_S


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def loop_factory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scene is played on both event loops."""
    make = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop
    monkeypatch.setattr(sys.modules[__name__], "make_loop", make)


def make_loop() -> asyncio.AbstractEventLoop:
    raise NotImplementedError


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await scene()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(bounded())


@contextlib.asynccontextmanager
async def served(
    instance: FakeInstance, address: Endpoint | UnixPath, **options: bool
) -> AsyncIterator[server.Served]:
    kind = "unix:" + address.path if isinstance(address, UnixPath) else f"tcp:{address}"
    chardev = Chardev(origin=f"-qmp {kind}", address=address, server=True, **options)
    one = await server.open_qmp(chardev, Control(instance))
    try:
        yield one
    finally:
        one.close()


LOOPBACK = Endpoint("127.0.0.1", 0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_the_public_client(tmp_path: Path) -> None:
    _, instance = seed_instance()
    path = tmp_path / "qmp"

    async def scene() -> None:
        async with served(instance, UnixPath(str(path))):
            assert path.stat().st_mode & 0o777 == 0o600
            client = QMPClient("tapnet")
            await client.connect(str(path))
            assert client.greeting is not None and client.greeting.QMP.version["package"].startswith(
                "tapnet-"
            )
            assert await client.execute("query-status") == {"running": True, "status": "running"}
            names = {row["name"] for row in await client.execute("query-commands")}
            assert {"set_link", "quit", "query-version"} <= names
            with client.listener("X_TAPNET_LINK") as events:
                await client.execute("set_link", {"name": "tap.0", "up": False})
                event = await events.get()
            assert event["data"] == {"name": "tap.0", "up": False}
            with pytest.raises(ExecuteError) as caught:
                await client.execute("set_link", {"name": "nope", "up": False})
            assert caught.value.error_class == "DeviceNotFound"
            assert str(caught.value) == "Device 'nope' not found"
            answers = await asyncio.gather(*(client.execute("query-name") for _ in range(20)))
            assert answers == [{"name": "lab"}] * 20
            assert await client.execute("query-name", oob=True) == {"name": "lab"}
            human = {"command-line": "info status"}
            assert await client.execute("human-monitor-command", human) == "VM status: running\r\n".replace(
                "\r", ""
            )
            with client.listener("SHUTDOWN") as events:
                await client.execute("quit")
                assert (await events.get())["data"] == {"guest": False, "reason": "host-qmp-quit"}
            assert instance.ended == 1
            with contextlib.suppress(EOFError):
                await client.disconnect()

    run(scene)


def test_one_client_after_another_and_no_events_before_the_negotiation() -> None:
    _, instance = seed_instance()

    async def scene() -> None:
        async with served(instance, LOOPBACK) as one:
            assert guard.claimed(one.port)
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            assert json.loads(await reader.readline())["QMP"]["capabilities"] == []
            late, late_writer = await asyncio.open_connection("127.0.0.1", one.port)
            instance.events.emit("X_TAPNET_LINK", name="a", up=True)
            writer.write(b'{"execute":\n "qmp_capabilities"}')
            assert json.loads(await reader.readline()) == {"return": {}}
            instance.events.emit("X_TAPNET_LINK", name="b", up=True)
            assert json.loads(await reader.readline())["data"]["name"] == "b"
            assert not late._buffer
            writer.close()
            assert b"QMP" in await late.readline()
            assert not instance.events.heard
            late_writer.close()

    run(scene)


def test_over_tcp_nobody_is_trusted_unless_told() -> None:
    _, instance = seed_instance()
    rule = {"rule": "unix:/x-:22"}

    async def scene() -> None:
        for trusted in (False, True):
            async with served(instance, LOOPBACK, trusted=trusted) as one:
                client = QMPClient()
                await client.connect(("127.0.0.1", one.port))
                if trusted:
                    assert await client.execute("x-tapnet-hostfwd-add", rule) == {}
                else:
                    with pytest.raises(ExecuteError, match="trusted=on"):
                        await client.execute("x-tapnet-hostfwd-add", rule)
                await client.disconnect()

    run(scene)


def test_a_browser_is_cut_off_before_the_body_of_its_request() -> None:
    _, instance = seed_instance()

    async def scene() -> None:
        for opener in (server.open_qmp, server.open_monitor):
            chardev = Chardev(origin="-x", address=LOOPBACK, server=True)
            one = await opener(chardev, Control(instance))
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            body = b'{"execute": "qmp_capabilities"}{"execute": "quit"}\nquit\n'
            writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n" + body)
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            assert instance.ended == 0
            writer.close()
            one.close()

    run(scene)


def test_a_message_without_end_ends_the_session() -> None:
    _, instance = seed_instance()

    async def scene() -> None:
        async with served(instance, LOOPBACK) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            await reader.readline()
            with contextlib.suppress(ConnectionError):
                writer.write(b'{"execute": "' + b"x" * (qmp.MESSAGE_MAX + (1 << 20)))
                await writer.drain()
            with contextlib.suppress(ConnectionResetError):
                assert b"longer than" in await reader.readline()
            writer.close()
            again, writer = await asyncio.open_connection("127.0.0.1", one.port)
            assert b"QMP" in await again.readline()
            writer.close()

    run(scene)


def test_events_for_a_slow_reader_are_bounded_and_counted() -> None:
    _, instance = seed_instance()

    async def scene() -> None:
        async with served(instance, LOOPBACK) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port, limit=1 << 16)
            writer.write(b'{"execute": "qmp_capabilities"}')
            await reader.readline()
            await reader.readline()
            assert one.listener is not None
            (client,) = one.listener._sessions
            transport = client.transport
            assert transport is not None
            count = 0
            while not client.events_lost:
                instance.events.emit("X_TAPNET_LINK", name="x" * 10_000, up=True)
                count += 1
                assert transport.get_write_buffer_size() < session.BUFFER_MAX + 20_000
                await asyncio.sleep(0)
            for _ in range(100):
                instance.events.emit("X_TAPNET_LINK", name="y", up=True)
            seen = lost = 0
            while seen + lost < count + 100:  # each is told or counted
                event = json.loads(await reader.readline())
                if event["event"] == "X_TAPNET_EVENTS_LOST":
                    lost += event["data"]["count"]
                else:
                    assert event["event"] == "X_TAPNET_LINK"
                    seen += 1
            assert lost >= 1 and seen >= count - 1
            writer.close()

    run(scene)


STDIO = """
import asyncio
from tapnet.config import Chardev
from tapnet.monitor.sessions import server
from tapnet.monitor.commands.control import Control
from tests.tapnet.monitor.kit import seed_instance

async def main():
    done = asyncio.Event()
    _, instance = seed_instance()
    instance.shutdown = done.set
    one = await server.open_qmp(Chardev(origin="-qmp", address=None), Control(instance))
    async with asyncio.timeout(100):
        await done.wait()
    one.close()

asyncio.run(main())
"""


def test_stdio() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    lines = [
        {"execute": "qmp_capabilities"},
        {"execute": "set_link", "arguments": {"name": "tap.0", "up": False}},
        {"execute": "quit", "id": 9},
    ]
    played = subprocess.run(
        [sys.executable, "-c", STDIO],
        input="".join(map(json.dumps, lines)).encode(),
        capture_output=True, timeout=BOUND_S, env=environment,
    )  # fmt: skip
    seen = [json.loads(line) for line in played.stdout.splitlines()]
    assert "QMP" in seen[0], played.stderr
    assert [row.get("event", row.get("return")) for row in seen[1:]] == [
        {},
        "X_TAPNET_LINK",
        {},
        {},
        "SHUTDOWN",
    ]
