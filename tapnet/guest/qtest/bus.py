"""The machine's bus on QEMU's qtest line protocol, over a socket or standard input and output.

    client ─ bytes ─► Channel ─► Session ─ lines ─► Interpreter (wire) ─► Machine
           ◄─ answers, IRQ messages ────┘                └► time: Stepper (time)

One client at a time; the next one waits in the kernel's backlog and finds the machine as the last one left it, its own
interception off and time real. Lines of one read are answered by one write. After each batch of lines the board
looks at the deadlines again. Frames move between hub and cards by the event loop, between batches.

Devices that have pins: ``ioapic`` (machine pc; the 16 ISA lines as its inputs), ``isa`` (ours: the same on both
machines), and each card by its name (output 0: its interrupt).

Limits: ``READ_SIZE`` bytes a read, ``wire``'s limits per batch; while answers wait for a slow reader nothing
more is read or done. What a client does wrong is answered; only a line beyond ``LINE_MAX`` ends its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterable
from typing import Protocol

from nic_models.bus.machine import IRQS, IsaLocation, Machine, Slot

from ...config import Chardev
from ...system.chardev import Listening, connect, listen, shown
from ...vlan.hub import Hub
from ..board import Board
from ..clock import Clock
from .time import Stepper
from .wire import Device, Interpreter

READ_SIZE = 64 << 10
LAST_READS = 256  # of a socket that takes no more
RETRY_S = 1.0
LINGER_LOOKS = 40  # about 50 us
LINGER_LINES = 64  # then the loop has its turn
LINGER_PAUSE, LINGER_PAUSE_MAX = 16, 4096
PREFIXES = ("/machine/i440fx/", "/machine/peripheral/")  # what QEMU's full paths begin with
FORCED = "qtest"  # source of a line that set_irq_in drives
_AGAIN = (BlockingIOError, InterruptedError)


class Channel(Protocol):
    """Two ends of one byte stream, not blocking."""

    source: int  # descriptor to wait for input on
    sink: int  # descriptor to wait for room on

    def recv(self) -> bytes:
        """Up to ``READ_SIZE`` bytes; empty: the end. Raises OSError."""

    def send(self, data: bytes) -> int:
        """How many bytes were taken. Raises OSError."""

    def close(self) -> None:
        """Idempotent."""


class SocketChannel:
    """A connected, non-blocking socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._recv = connected.recv
        self.send = connected.send
        self.source = self.sink = connected.fileno()
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def recv(self) -> bytes:
        """See ``Channel``."""
        return self._recv(READ_SIZE)

    def close(self) -> None:
        """See ``Channel``. What nobody has read is dropped first, or the peer has a reset for the end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
            for _ in range(LAST_READS):
                if not self.recv():
                    break
        self._socket.close()


class StdioChannel:
    """Standard input and output. Their own mode is not touched, it may be shared with a shell: we read and write
    through descriptors of our own, which do not block.

    Where such a descriptor cannot be had (a terminal of another user), output goes ``CAREFUL`` bytes at a time when
    there is room. A file is never waited for. A socket has one mode only: it does not block from here on.
    """

    CAREFUL = 512

    def __init__(self, source: int = 0, sink: int = 1) -> None:
        self.source, _ = _reopen(source, os.O_RDONLY)
        self.sink, own = _reopen(sink, os.O_WRONLY)
        self._size = READ_SIZE if own else self.CAREFUL

    def recv(self) -> bytes:
        """See ``Channel``."""
        return os.read(self.source, READ_SIZE)

    def send(self, data: bytes) -> int:
        """See ``Channel``."""
        return os.write(self.sink, data[: self._size])

    def close(self) -> None:
        """See ``Channel``."""
        if self.source >= 0:
            os.close(self.source)
            os.close(self.sink)
            self.source = self.sink = -1


def _reopen(fd: int, way: int) -> tuple[int, bool]:
    """A descriptor of the same thing, and whether writing to it never blocks."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return os.dup(fd), True  # with its offset
    if stat.S_ISSOCK(mode):
        os.set_blocking(fd, False)
        return os.dup(fd), True
    try:
        return os.open(f"/proc/self/fd/{fd}", way | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), True
    except OSError:
        return os.dup(fd), False


class RegisterBus:
    """The machine as a client sees it: its devices, their pins, its time. Outlives the clients."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        board: Board,
        clock: Clock,
        hubs: Callable[[], Iterable[Hub]],
    ) -> None:
        self.loop = loop
        self.board = board
        self.machine: Machine = board.machine
        self.stepper = Stepper(loop, board, clock, lambda: any(hub.busy for hub in hubs()))
        self.session: Session | None = None
        self._lines = Device("isa", inputs=IRQS, drive=self._drive)
        self._cards: dict[str, tuple[Device, Slot]] = {}
        for slot in self.machine.slots:
            self.plug(slot)
        board.listen(self._line)

    def plug(self, slot: Slot) -> None:
        """A card of the machine, when it is plugged in."""
        device = Device(slot.name, outputs=True)
        self._cards[slot.name] = device, slot
        if slot.function is not None:
            slot.function.on_intx = self._tap(device, slot.function.on_intx)

    def unplug(self, slot: Slot) -> None:
        """The card has been pulled out."""
        self._cards.pop(slot.name, None)

    def find(self, path: str) -> Device | None:
        """The device that a path names."""
        for prefix in PREFIXES:
            path = path.removeprefix(prefix)
        if path == "isa" or (path == "ioapic" and self.machine.pci is not None):
            return self._lines
        return self._cards[path][0] if path in self._cards else None

    def levels(self, device: Device, output: bool) -> list[bool]:
        """Its pins now."""
        if not output:
            return list(self.machine.irq_levels)
        if device.name not in self._cards:
            return [False]
        slot = self._cards[device.name][1]
        if isinstance(slot.location, IsaLocation):
            return [self.machine.irq_levels[slot.location.irq]]
        return [slot.function is not None and slot.function.intx]

    def release(self) -> None:
        """A client has gone: the lines that it drove, and time."""
        self.session = None
        for irq in range(IRQS):
            self.machine.set_line(irq, FORCED, False)
        self.stepper.release()

    def _drive(self, irq: int, level: bool) -> None:
        self.machine.set_line(irq, FORCED, level)

    def _line(self, irq: int, level: bool) -> None:
        session = self.session
        if session is None:
            return
        session.pin(self._lines, False, irq, level)
        for device, slot in self._cards.values():
            if isinstance(slot.location, IsaLocation) and slot.location.irq == irq:
                session.pin(device, True, 0, level)

    def _tap(self, device: Device, before: Callable[[bool], None]) -> Callable[[bool], None]:
        def on_intx(level: bool) -> None:
            before(level)
            if self.session is not None:
                self.session.pin(device, True, 0, level)

        return on_intx


class Session:
    """One client, from its arrival to ``closed()``."""

    def __init__(self, bus: RegisterBus, channel: Channel, closed: Callable[[], None]) -> None:
        self.done = False
        self._bus = bus
        self._loop = bus.loop
        self._channel = channel
        self._recv = channel.recv
        self._send = channel.send
        self._kick = bus.board.kick
        self._closed = closed
        self._wire = Interpreter(bus.machine, bus.find, bus.levels)
        self._unsent = b""
        self._inside = False  # lines are being worked through
        self._scheduled = False  # the next batch is on its way
        self._stepping = False  # the stepper has our request
        self._flushing = False  # a flush is on its way
        self._reading = False
        self._pause = 0  # so many lines more without _linger
        self._waste = LINGER_PAUSE  # the last such number
        self._polled = False  # input that the loop cannot wait for: a file
        self._ended = False  # the client's input has ended
        bus.session = self
        self._listen(True)

    def pin(self, device: Device, output: bool, pin: int, level: bool) -> None:
        """A pin's level has changed."""
        if self._wire.pin(device, output, pin, level) and not self._inside and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """End the connection. Idempotent."""
        if self.done:
            return
        self.done = True
        self._listen(False)
        if self._unsent:
            self._loop.remove_writer(self._channel.sink)
        self._channel.close()
        self._bus.release()
        self._closed()

    # ---- input ---------------------------------------------------------------------------------------------

    def _listen(self, on: bool) -> None:
        if on == self._reading:
            return
        self._reading = on
        if not self._polled:
            try:
                if on:
                    self._loop.add_reader(self._channel.source, self._readable)
                else:
                    self._loop.remove_reader(self._channel.source)
                return
            except OSError:  # a regular file or /dev/null: always readable
                self._polled = True
        if on:
            self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        if self._reading:
            self._readable()
            if self._reading:
                self._loop.call_soon(self._poll)

    def _readable(self) -> None:
        try:
            data = self._recv()
        except _AGAIN:
            return
        except OSError:
            self.close()
            return
        if self._received(data):
            if self._pause:
                self._pause -= 1
            elif not self._polled:
                self._linger()

    def _received(self, data: bytes) -> bool:
        """What a client sent, or its end (empty). Whether it was one plain access, answered whole."""
        if not data:
            self._ended = True
            self._listen(False)
            self._settle()
            return False
        self._inside = True
        try:
            answer = self._wire.only(data)
        except BaseException:  # see _work
            self.close()
            raise
        self._inside = False
        if answer is None:
            self._wire.feed(data)
            self._work()
            return False
        self._put(answer)
        self._kick()
        return self._reading

    def _linger(self) -> None:
        """Look for the next line a little while: to sleep and wake up costs more than an access. A client that
        was not so quick is not waited for again at its next ``LINGER_PAUSE`` lines, twice as many each time: one
        processor for both, or others at work on it.
        """
        recv = self._recv
        for _ in range(LINGER_LINES):
            for _ in range(LINGER_LOOKS):
                try:
                    data = recv()
                    break
                except _AGAIN:
                    pass
                except OSError:
                    self.close()
                    return
            else:
                self._waste = min(2 * self._waste, LINGER_PAUSE_MAX)
                self._pause = self._waste
                return
            self._waste = LINGER_PAUSE
            if not self._received(data):
                return

    # ---- work ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Work through a batch of lines and send the answers."""
        wire = self._wire
        self._inside = True
        try:
            wire.run()
        except BaseException:  # a fault of ours: this client ends, and the loop reports it
            self.close()
            raise
        self._inside = False
        self._put(wire.take())
        self._kick()
        if not self._reading or wire.more or wire.request is not None or wire.overlong:
            self._settle()

    def _settle(self) -> None:
        """What to do next, when it is not just waiting for input."""
        wire = self._wire
        if self.done or self._unsent or self._scheduled or self._stepping:
            return
        self._listen(False)
        if wire.request is not None:
            self._stepping = True
            self._bus.stepper.start(wire.request, self._stepped)
        elif wire.more:
            self._scheduled = True
            self._loop.call_soon(self._next)
        elif wire.overlong or self._ended:
            self.close()
        else:
            self._listen(True)

    def _next(self) -> None:
        self._scheduled = False
        if not self.done and not self._unsent:
            self._work()

    def _stepped(self, answer: bytes) -> None:
        self._stepping = False
        self._wire.resume(answer)
        if not self._unsent:
            self._work()

    # ---- output --------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushing = False
        if not self.done and not self._unsent:
            self._put(self._wire.take())

    def _put(self, data: bytes) -> None:
        if not data:
            return
        try:
            sent = self._send(data)
        except _AGAIN:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._listen(False)
            self._loop.add_writer(self._channel.sink, self._writable)

    def _writable(self) -> None:
        try:
            sent = self._send(self._unsent)
        except _AGAIN:
            return
        except OSError:
            self.close()
            return
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._loop.remove_writer(self._channel.sink)
            self._work()


class QtestServer:
    """``-qtest``: where the clients come from. ``close()`` ends all of it."""

    def __init__(self, bus: RegisterBus, what: str) -> None:
        self.what = what  # for messages: "unix:/run/bus"
        self._first = asyncio.Event()  # set when the first client has come
        self.listening: Listening | None = None
        self._bus = bus
        self._session: Session | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._closing = False

    def serve(self, listening: Listening) -> None:
        """Take clients one after another."""
        self.listening = listening
        self._bus.loop.add_reader(listening.socket.fileno(), self._accept)

    def attach(self, channel: Channel) -> None:
        """A client."""
        self._session = Session(self._bus, channel, self._gone)
        self._first.set()

    async def first_client(self) -> None:
        """Wait for ``wait=on``'s first client."""
        await self._first.wait()

    def close(self) -> None:
        """Idempotent."""
        self._closing = True
        if self._retry is not None:
            self._retry.cancel()
        if self._session is not None:
            self._session.close()
        if self.listening is not None:
            self._bus.loop.remove_reader(self.listening.socket.fileno())
            self.listening.close()
            self.listening = None

    def _accept(self) -> None:
        assert self.listening is not None
        loop = self._bus.loop
        try:
            client, _ = self.listening.socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # no descriptors: not in a busy loop
            loop.remove_reader(self.listening.socket.fileno())
            self._retry = loop.call_later(RETRY_S, self._gone)
            return
        client.setblocking(False)
        loop.remove_reader(self.listening.socket.fileno())
        self.attach(SocketChannel(client))

    def _gone(self) -> None:
        self._session = None
        if self.listening is not None and not self._closing:
            self._bus.loop.add_reader(self.listening.socket.fileno(), self._accept)


async def open_qtest(chardev: Chardev, bus: RegisterBus) -> QtestServer:
    """Open ``-qtest``. Returns at once when it listens: await ``first_client()`` where ``chardev.wait``.

    Raises ServerError naming the option.
    """
    server = QtestServer(bus, shown(chardev))
    if chardev.address is None:
        server.attach(StdioChannel())
    elif chardev.server:
        server.serve(await listen(chardev))
    else:
        connected = await connect(chardev)
        with contextlib.ExitStack() as undo:
            undo.callback(connected.close)
            server.attach(SocketChannel(connected))
            undo.pop_all()
    return server
