"""Port scans and worse on every monitor: 1,000 connects and drops in a row leave no descriptor and no object behind."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tapnet.config import Chardev, Endpoint, UnixPath
from tapnet.monitor.sessions import server
from tapnet.system import runtime as paths
from tests.tapnet.live_kit import Lab, descriptors, lab, play
from tests.tapnet.wire_kit import until

DROPS, WARM = 1000, 100
GROWTH = 300  # objects; a leak of one for each connection would be 900
LOOPBACK = Endpoint("127.0.0.1", 0)

Opener = Callable[[Lab, Path], Awaitable[server.Served]]
OPENERS: dict[str, Opener] = {}


def opener(function: Opener) -> Opener:
    OPENERS[function.__name__] = function
    return function


@opener
async def control(one: Lab, _place: Path) -> server.Served:
    return server.open_control("storm", one.control)


@opener
async def monitor_unix(one: Lab, place: Path) -> server.Served:
    chardev = Chardev(origin="-monitor", address=UnixPath(str(place / "s")), server=True)
    return await server.open_monitor(chardev, one.control)


@opener
async def monitor_tcp(one: Lab, _place: Path) -> server.Served:
    return await server.open_monitor(Chardev(origin="-monitor", address=LOOPBACK, server=True), one.control)


@opener
async def qmp_unix(one: Lab, place: Path) -> server.Served:
    chardev = Chardev(origin="-qmp", address=UnixPath(str(place / "s")), server=True)
    return await server.open_qmp(chardev, one.control)


@opener
async def qmp_tcp(one: Lab, _place: Path) -> server.Served:
    return await server.open_qmp(Chardev(origin="-qmp", address=LOOPBACK, server=True), one.control)


@opener
async def metrics(one: Lab, _place: Path) -> server.Served:
    return await server.open_metrics(LOOPBACK, one.control)


WORDS = (
    b"",
    b"info network\ninfo usernet\n",
    b"bogus",
    b'{"execute": "qmp_capabilities"}{"execute": "query-commands"}',
    b'{"execute": "qmp_capabilities"}{"execute": "netdev_add", "arguments": {"type": "user"',
    b"GET /metrics HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    bytes(range(256)) * 8,
    b"[" * 3000,
    b"\xff\xff{}",
)


async def dial(served: server.Served) -> socket.socket:
    assert served.listener is not None
    listening = served.listener.listening.socket
    sock = socket.socket(listening.family, socket.SOCK_STREAM)
    sock.setblocking(False)
    if listening.family != socket.AF_UNIX:
        await asyncio.get_running_loop().sock_connect(sock, listening.getsockname())
        return sock
    while True:
        try:
            sock.connect(listening.getsockname())
            return sock
        except BlockingIOError:  # the backlog is full
            await asyncio.sleep(0)


async def storm(served: server.Served, count: int, rng: random.Random) -> None:
    for _ in range(count):
        sock = await dial(served)
        try:
            sock.send(rng.choice(WORDS))
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            pass
        if rng.random() < 0.5:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        if rng.random() < 0.3:
            await asyncio.sleep(0)
        sock.close()
    assert served.listener is not None
    await until(lambda: not served.listener._sessions and not served.listener._tasks)


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.parametrize("name", OPENERS)
def test_connects_and_drops_leave_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "candidates", lambda: [tmp_path / "run"])
    rng = random.Random(name)

    async def scene() -> None:
        async with lab("-net nic -net user") as one:
            served = await OPENERS[name](one, tmp_path)
            shown = await one.say("info network")
            await storm(served, WARM, rng)
            before = descriptors(), objects()
            await storm(served, DROPS - WARM, rng)
            after = descriptors(), objects()
            assert after[0] == before[0]
            assert after[1] - before[1] < GROWTH
            assert len(one.instance.events._listeners) == 1, "the test's own"
            assert await one.say("info network") == shown, "nothing was done"
            sock = await dial(served)  # and somebody is still served
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, b"info name\n" if name == "control" else b"\n")
            if name != "metrics":
                assert await loop.sock_recv(sock, 1000)
            sock.close()
            served.close()

    play(scene)
