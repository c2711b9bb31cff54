"""Wires under test: a hub on a real loop with recording endpoints, and plain sockets as the other end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from tapnet.backends.sockets.framing import head
from tapnet.backends.sockets.stream import Options
from tapnet.backends.sockets.wires import Wire, open_wire
from tapnet.config import Endpoint, Net
from tapnet.vlan.hub import Hub
from tapnet.vlan.port import Port
from tests.tapnet.hub_kit import Endpoint as Card
from tests.waiting import BOUND_S, CONDITION_S, until_async

LOOPS = {"asyncio": None, "uvloop": uvloop.new_event_loop}
LOCAL = Endpoint("127.0.0.1", 0)


async def until(condition: Callable[[], Any], what: str = "", seconds: float = CONDITION_S) -> None:
    """Wait for a condition with a bound."""
    await until_async(condition, what, seconds, pause=0.002)


def options(address: Any = LOCAL, **more: Any) -> Options:
    return Options("w", "-net w", address, **more)


def frame(number: int, size: int = 60) -> bytes:
    """A frame that says its number."""
    return (
        number.to_bytes(8, "big")
        + bytes((number * 7 + at) & 255 for at in range(min(size - 8, 64)))
        + bytes(max(0, size - 8 - 64))
    )


def wrap(*frames: bytes) -> bytes:
    """As they go over a stream."""
    return b"".join(head(len(f)) + f for f in frames)


class Room:
    """A hub with one card, and wires that are closed at the end."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.hub = Hub(0, self.loop.call_soon)
        self.card = Card("card", self.hub)
        self.infos: dict[Port, str] = {}
        self.wires: list[Wire] = []
        self.sockets: list[socket.socket] = []

    def joined(self, port: Port, info: str) -> None:
        self.hub.add(port)
        self.infos[port] = info

    def left(self, port: Port) -> None:
        self.hub.remove(port)
        del self.infos[port]

    def add(self, wire: Any, start: bool = True) -> Any:
        self.wires.append(wire)
        if wire.port is not None:
            self.hub.add(wire.port)
        if start:
            wire.start()
        return wire

    def open(self, net: Net) -> Any:
        return self.add(open_wire(net, self.loop, self.joined, self.left))

    def keep(self, sock: socket.socket) -> socket.socket:
        self.sockets.append(sock)
        sock.setblocking(False)
        return sock

    async def dial(self, address: Any) -> socket.socket:
        """A client's socket."""
        family = (
            socket.AF_UNIX
            if isinstance(address, str)
            else socket.AF_INET6
            if len(address) > 2
            else socket.AF_INET
        )
        sock = self.keep(socket.socket(family, socket.SOCK_STREAM))
        await asyncio.wait_for(self.loop.sock_connect(sock, address), BOUND_S)
        return sock

    async def read(self, sock: socket.socket, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        data = b""
        while len(data) < count:
            piece = await asyncio.wait_for(self.loop.sock_recv(sock, count - len(data)), BOUND_S)
            assert piece, f"end of file after {len(data)} bytes of {count}"
            data += piece
        return data

    async def ended(self, sock: socket.socket) -> None:
        """Wait for the other end to close."""

        async def drain() -> None:
            try:
                while await self.loop.sock_recv(sock, 1 << 16):
                    pass
            except ConnectionError:
                pass

        await asyncio.wait_for(drain(), BOUND_S)

    async def got(self, count: int) -> list[bytes]:
        """The card has ``count`` frames."""
        await until(lambda: len(self.card.got) >= count, f"{len(self.card.got)} frames of {count}")
        return self.card.frames

    def close(self) -> None:
        for wire in self.wires:
            wire.close()
        for sock in self.sockets:
            sock.close()


def play(scene: Callable[[Room], Awaitable[Any]], loop: str = "asyncio") -> Any:
    """Run ``scene`` with a room on a fresh loop; descriptors must be what they were."""

    async def main() -> Any:
        room = Room()
        before = open_descriptors()
        try:
            result = await scene(room)
        finally:
            room.close()
        await asyncio.sleep(0)
        assert open_descriptors() == before, "descriptors leak"
        return result

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(main())


def open_descriptors() -> list[str]:
    """Sockets and files that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(("socket:", "/tmp")):
            found.append(name)
    return sorted(found)
