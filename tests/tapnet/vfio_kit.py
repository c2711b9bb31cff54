"""A vfio-user client for tests, a card that does what it is told, and a server on a loop that the test turns."""

from __future__ import annotations

import array
import asyncio
import fcntl
import json
import os
import select
import socket
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from nic_models.bus.pci import Bar, Identity, PciFunction
from tapnet.guest.vfio_user import wire
from tapnet.guest.vfio_user.server import VfioUserServer
from tests.waiting import BOUND_S

MASTER = 4  # of the PCI command register
COMMAND = 4
CAPABILITIES = {"max_msg_fds": 16, "max_data_xfer_size": 1 << 20, "write_multiple": True}


class FakeCard:
    """256 bytes of registers. A write to ``DOORBELL`` runs ``program``; its results are in ``read_back``."""

    model = "fake"
    mac = b"\x52\x54\0\x12\x34\x56"
    DOORBELL, IRQ = 0x80, 0x84

    def __init__(self, set_irq: Callable[[bool], None]) -> None:
        self.set_irq = set_irq
        self.registers = bytearray(256)
        self.accesses: list[tuple[Any, ...]] = []
        self.program: list[tuple[Any, ...]] = []
        self.read_back: list[bytes | None] = []
        self.frames: list[bytes] = []
        self.dma_pending = False
        self.resets = 0
        self.due: int | None = None
        self.runs = 0

    def read(self, region: int, offset: int, size: int) -> int:
        self.accesses.append(("r", region, offset, size))
        return int.from_bytes(self.registers[offset : offset + size], "little")

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        self.accesses.append(("w", region, offset, size, value))
        self.registers[offset : offset + size] = value.to_bytes(size, "little")
        if offset == self.DOORBELL:
            self.dma_pending = True
        if offset == self.IRQ:
            self.set_irq(bool(value))
        if offset == 0xFC:
            raise RuntimeError("a fault of ours")

    def dma(self) -> Generator[tuple[Any, ...], bytes | None, None]:
        self.dma_pending = False
        for op in self.program:
            self.read_back.append((yield op))

    def receive(self, frame: bytes, vnet: bytes = b"") -> bool:
        self.frames.append(frame)
        return True

    def tx_ready(self) -> None: ...

    def set_link(self, up: bool) -> None: ...

    def reset(self) -> None:
        self.resets += 1
        self.dma_pending = False
        self.registers[:] = bytes(256)
        self.set_irq(False)

    def snapshot(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...

    def next_deadline(self) -> int | None:
        return self.due

    def run(self, now: int) -> None:
        self.runs += 1
        self.due = None


def fake() -> tuple[PciFunction, FakeCard]:
    """A function with an I/O and a memory BAR of 256 bytes."""
    function = PciFunction(Identity(0x1234, 0x5678, 1, 0x020000), (Bar("io", 256), Bar("mem", 256)))
    card = FakeCard(function.set_irq)
    function.card = card  # type: ignore[assignment]
    return function, card


class Rig:
    """A server and its clients on a loop that runs only while a test waits."""

    def __init__(self, folder: Path, function: PciFunction | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.faults: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _loop, context: self.faults.append(context))
        self.card: Any
        if function is None:
            self.function, self.card = fake()
        else:
            self.function, self.card = function, function.card
        self.path = folder / "card.sock"
        self.server = VfioUserServer(self.loop, str(self.path), self.function, time.monotonic_ns)
        self.clients: list[Client] = []

    def turn(self) -> None:
        """One turn of the loop."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def until(self, condition: Callable[[], Any], seconds: float = BOUND_S) -> Any:
        """Turn until it holds."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, "timed out"
            self.turn()
        return value

    def client(self, *, greet: bool = True, session: bool = True) -> Client:
        """A client that has connected (and said VERSION)."""
        before = self.server.sessions
        made = Client(self)
        self.clients.append(made)
        if session:
            self.until(lambda: self.server.sessions > before)
        if greet:
            made.call(wire.VERSION, version())
        return made

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.server.close()
        self.turn()
        self.loop.close()
        assert not self.faults, self.faults


def version(**more: Any) -> bytes:
    """QEMU's VERSION body."""
    return wire.VERSION_HEAD.pack(0, 0) + json.dumps({"capabilities": CAPABILITIES | more}).encode() + b"\0"


class Client:
    """The peer's side of the protocol."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(rig.path))
        self.sock.setblocking(False)
        self.data = b""
        self.next = 0

    def message(self, command: int, body: bytes = b"", flags: int = 0, size: int | None = None) -> bytes:
        """A request's bytes."""
        self.next = (self.next + 1) & 0xFFFF
        length = wire.HEADER.size + len(body) if size is None else size
        return wire.HEADER.pack(self.next, command, length, flags, 0) + body

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self.sock.sendmsg([data], ancillary)
        assert sent == len(data)

    def get(self) -> tuple[int, int, int, int, bytes]:
        """The next message from the server: id, command, flags, errno, body."""
        self.rig.until(self._whole)
        number, command, size, flags, error = wire.HEADER.unpack_from(self.data)
        body, self.data = self.data[wire.HEADER.size : size], self.data[size:]
        return number, command, flags, error, body

    def _whole(self) -> bool:
        whole = len(self.data) >= 16 and len(self.data) >= wire.HEADER.unpack_from(self.data)[2]
        if not whole and select.select([self.sock], [], [], 0)[0]:
            got = self.sock.recv(1 << 20)
            assert got, "closed"
            self.data += got
            return self._whole()
        return whole

    def call(self, command: int, body: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> bytes:
        """Ask; the answer's body, or OSError with its errno."""
        self.send(self.message(command, body, flags), fds)
        number, answered, kind, error, got = self.get()
        assert (number, answered, kind & wire.TYPE_MASK) == (self.next, command, wire.REPLY)
        if kind & wire.ERROR:
            assert got == b""
            raise OSError(error, os.strerror(error))
        return got

    def ended(self) -> bool:
        """Whether the server has closed the connection, in order: a reset makes QEMU abort."""

        def gone() -> bool:
            return bool(select.select([self.sock], [], [], 0)[0]) and not self.sock.recv(1 << 20)

        return bool(self.rig.until(gone))

    def read(self, region: int, offset: int, count: int) -> bytes:
        """REGION_READ."""
        body = self.call(wire.REGION_READ, wire.ACCESS.pack(offset, region, count))
        assert wire.ACCESS.unpack_from(body) == (offset, region, count)
        return body[wire.ACCESS.size :]

    def write(self, region: int, offset: int, data: bytes) -> None:
        """REGION_WRITE, answered."""
        self.call(wire.REGION_WRITE, wire.ACCESS.pack(offset, region, len(data)) + data)

    def master(self) -> None:
        """Allow DMA."""
        self.write(wire.CONFIG_REGION, COMMAND, bytes((MASTER, 0)))

    def map(self, address: int, size: int, fd: int = -1, offset: int = 0, prot: int = 3) -> None:
        """DMA_MAP."""
        body = wire.MAP.pack(wire.MAP.size, prot, offset, address, size)
        self.call(wire.DMA_MAP, body, [fd] if fd >= 0 else [])

    def unmap(self, address: int, size: int, flags: int = 0) -> None:
        """DMA_UNMAP; the payload comes back."""
        body = wire.UNMAP.pack(wire.UNMAP.size, flags, address, size)
        assert self.call(wire.DMA_UNMAP, body) == body

    def trigger(self, fd: int) -> None:
        """INTx by eventfd."""
        self.call(wire.SET_IRQS, irq_set(wire.SET_TRIGGER | wire.SET_EVENTFD), [fd])

    def doorbell(self) -> None:
        """Have the fake card run its program."""
        self.write(0, FakeCard.DOORBELL, b"\1")

    def close(self) -> None:
        self.sock.close()


def irq_set(flags: int, index: int = wire.INTX, start: int = 0, count: int = 1, data: bytes = b"") -> bytes:
    """A SET_IRQS body."""
    return wire.IRQ_SET.pack(wire.IRQ_SET.size + len(data), flags, index, start, count) + data


def memfd(size: int, *, sealed: bool = True) -> int:
    """A file in memory as QEMU's memory-backend-memfd makes it."""
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))
