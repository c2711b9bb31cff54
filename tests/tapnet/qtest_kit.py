"""A machine on the register bus, on a loop: cards, a hub, a far end; a client over a socket pair."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvloop

from nic_models.bus.machine import Machine
from nic_models.models import plug
from tapnet.guest.board import Board
from tapnet.guest.clock import Clock
from tapnet.guest.qtest.bus import RegisterBus, Session, SocketChannel
from tapnet.vlan.hub import Hub
from tapnet.vlan.port import Port
from tests.waiting import BOUND_S, until_async

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
MAC = bytes.fromhex("525400123456")
IO = 0xC000


def play(loop, scene):
    """Run the coroutine function ``scene`` on a loop of that kind, with a bound."""

    async def bounded():
        async with asyncio.timeout(BOUND_S):
            return await scene()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(bounded())


class Rig:
    """One card in slot 3 with its I/O window at 0xc000 and line 11; ``heard`` is what came to the far end."""

    def __init__(self, model="ne2k_pci", echo=False):
        self.loop = asyncio.get_running_loop()
        self.real = 0
        self.clock = Clock(lambda: self.real)
        self.machine = Machine("pc", 16 << 20, now=self.clock.now)
        self.hub = Hub(0, self.loop.call_soon)
        self.heard = []
        self.echo = echo
        self.far = Port("far", self.hear)
        port = Port("card", lambda frame, vnet: True)
        slot = plug(self.machine, model, MAC, port.send, port.flush, name="card", addr=3)
        port.receive, port.ready = slot.receive, slot.tx_ready
        self.hub.add(port)
        self.hub.add(self.far)
        self.board = Board(self.loop, self.machine)
        self.bus = RegisterBus(self.loop, self.board, self.clock, lambda: [self.hub])
        self.ended = 0

    def hear(self, frame, vnet):
        self.heard.append(frame)
        if self.echo:
            self.far.send(frame[6:12] + frame[:6] + frame[12:])
        return True

    def connect(self):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        session = Session(self.bus, SocketChannel(ours), self.gone)
        return Client(self.loop, theirs, session)

    def gone(self):
        self.ended += 1

    def close(self):
        if self.bus.session is not None:
            self.bus.session.close()
        self.board.close()


class Client:
    """The other end. ``messages``: interrupt messages so far."""

    def __init__(self, loop, connected, session=None):
        self.loop = loop
        self.socket = connected
        self.session = session
        self.messages = []
        self._text = b""

    async def send(self, data):
        await self.loop.sock_sendall(self.socket, data)

    async def line(self):
        """The next line; None at the end."""
        while b"\n" not in self._text:
            async with asyncio.timeout(BOUND_S):
                data = await self.loop.sock_recv(self.socket, 1 << 16)
            if not data:
                return None
            self._text += data
        line, self._text = self._text.split(b"\n", 1)
        return line.decode()

    async def answer(self):
        while (line := await self.line()) is not None and line.startswith("IRQ "):
            self.messages.append(line)
        return line

    async def ask(self, *lines):
        """Answers to the lines, sent in one write; one answer alone where there is one line."""
        await self.send("".join(line + "\n" for line in lines).encode())
        answers = [await self.answer() for _ in lines]
        return answers if len(lines) > 1 else answers[0]

    async def value(self, line):
        answer = await self.ask(line)
        assert answer.startswith("OK 0x"), answer
        return int(answer[3:], 16)

    async def setup(self):
        """Address, route, bus master; interrupts watched."""
        lines = ["irq_intercept_in ioapic"]
        for slot, offset, value in ((1, 0x60, 0x0B0B0A0A), (3, 0x10, IO), (3, 0x04, 7)):
            lines += [
                f"outl 0xcf8 {0x80000000 | slot << 11 | offset:#x}",
                f"outl 0xcfc {value:#x}",
            ]
        assert await self.ask(*lines) == ["OK"] * len(lines)

    def close(self):
        self.socket.close()


@contextlib.asynccontextmanager
async def rig(model="ne2k_pci", **options):
    """A rig with its first client, set up."""
    made = Rig(model, **options)
    client = made.connect()
    try:
        await client.setup()
        yield made, client
    finally:
        client.close()
        made.close()


async def until(condition):
    """Turn the loop until ``condition()``."""
    await until_async(condition, "a condition", pause=0)
