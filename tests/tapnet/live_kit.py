"""A whole instance on a loop of the test, and socket peers on its VLANs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from tapnet.backends.sockets.framing import head
from tapnet.config import Config
from tapnet.guest.prepare import Prepared, prepare
from tapnet.instance.instance import Instance
from tapnet.monitor.commands.control import Control
from tapnet.monitor.commands.table import settled
from tapnet.monitor.hmp import Hmp, Reply
from tapnet.options import parse as options
from tests.waiting import BOUND_S


@contextlib.asynccontextmanager
async def lab(words: str, **values: object) -> AsyncIterator[Lab]:
    """``tapnet run`` with these options, without its process."""
    config = options.parse(shlex.split(words.format(**values)))
    assert not config.unbuilt, config.unbuilt
    one = Lab(config, prepare(config))
    try:
        one.instance.start()
        yield one
    finally:
        one.close()


class Lab:
    def __init__(self, config: Config, prepared: Prepared) -> None:
        loop = asyncio.get_running_loop()
        self.instance = Instance(
            config, prepared, loop, time.monotonic_ns, lambda: None, wall=lambda: 1_000_000_000.0
        )
        self.control = Control(self.instance)
        self.hmp = Hmp(self.control)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.instance.events.subscribe(lambda event: self.events.append((event["event"], event["data"])))
        self._sockets: list[socket.socket] = []

    async def say(self, line: str) -> str:
        """A command that must succeed: its answer."""
        reply = await settled(self.hmp.start(line))
        assert isinstance(reply, Reply) and reply.ok, reply.text
        return reply.text

    async def fails(self, line: str) -> str:
        """One that must not: its words, without the word Error."""
        reply = await settled(self.hmp.start(line))
        assert not reply.ok, line
        return reply.text.removeprefix("Error: ").rstrip("\n")

    def heard(self, name: str) -> list[dict[str, Any]]:
        return [data for event, data in self.events if event == name]

    async def dial(self, path: str) -> Peer:
        """A peer on a stream socket."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, path)
        self._sockets.append(sock)
        return Peer(sock)

    def close(self) -> None:
        self.instance.close()
        for sock in self._sockets:
            sock.close()


class Peer:
    """Speaks frames on a connected stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._input = b""

    async def send(self, frame: bytes) -> None:
        await self._loop.sock_sendall(self.sock, head(len(frame)) + frame)

    async def receive(self) -> bytes:
        """The next frame; b"" at the end."""
        while len(self._input) < 4 or len(self._input) < 4 + int.from_bytes(self._input[:4], "big"):
            data = await self._loop.sock_recv(self.sock, 1 << 16)
            if not data:
                return b""
            self._input += data
        size = int.from_bytes(self._input[:4], "big")
        frame, self._input = self._input[4 : 4 + size], self._input[4 + size :]
        return frame


def info(instance: Instance, line: str) -> str:
    """What the human monitor answers to one line."""
    return Hmp(Control(instance)).execute(line).text


def play(
    scene: Callable[[], Awaitable[None]], factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> None:
    """Run a scene with a bound."""

    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await scene()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bounded())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
