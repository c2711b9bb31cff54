"""The remote DMA channel of the DP8390, as the NE2000 boards use it: RSAR/RBCR, the data port and RDC.

A driver sets RSAR (start) and RBCR (count), issues remote read or write by CR.RD, and moves the bytes through
the data port; at count zero ISR.RDC is set. The address goes from PSTOP to PSTART by itself, so that a packet
that is wrapped round the end of the ring is read in one run. CRDA shows where the channel is: in a remote
read one byte (word mode: word) ahead of the data port, for that is fetched before the driver asks. In word
mode A0 is low: an odd RSAR means the word that it lies in. Reads beyond the count, or without the command,
give all ones; such writes are lost.

Local memory is the board's: 64 KiB of addresses in which A15 is not decoded; the lower half of the 32 KiB is
the station PROM (read only), the upper half 16 KiB of RAM. The chip's own (local) DMA, of which the board
decodes 14 address lines, sees nothing but the RAM: ``fetch`` and ``store``.

Ref: DP8390D/NS32490D data sheet, sections 6 (DMA) and 9 (remote DMA); NE2000 board (address decoding).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..snapshot import number
from . import registers as r

RAM_BASE = 0x4000  # first address of the packet RAM
SPACE = 0x8000  # decoded part of the 64 KiB: PROM half and RAM half
_FOLD = SPACE - 1
_LOCAL = SPACE - RAM_BASE - 1


class LocalMemory:
    """PROM and packet RAM behind the chip's local and remote DMA."""

    __slots__ = ("cells",)

    def __init__(self) -> None:
        self.cells = bytearray(b"\xff" * RAM_BASE + bytes(SPACE - RAM_BASE))

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes from ``address`` on, folded into what the board decodes."""
        start = address & _FOLD
        if start + length <= SPACE:
            return bytes(self.cells[start : start + length])
        parts = []
        while length > 0:
            start = address & _FOLD
            chunk = min(length, SPACE - start)
            parts.append(self.cells[start : start + chunk])
            address += chunk
            length -= chunk
        return b"".join(parts)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data``; what falls on the PROM half is lost."""
        start = address & _FOLD
        if start >= RAM_BASE and start + len(data) <= SPACE:
            self.cells[start : start + len(data)] = data
            return
        view = memoryview(data)
        while len(view):
            start = address & _FOLD
            chunk = min(len(view), (SPACE if start >= RAM_BASE else RAM_BASE) - start)
            if start >= RAM_BASE:
                self.cells[start : start + chunk] = view[:chunk]
            address += chunk
            view = view[chunk:]

    def fetch(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes of RAM as the local DMA reads them."""
        start = RAM_BASE | address & _LOCAL
        if start + length <= SPACE:
            return bytes(self.cells[start : start + length])
        ram = bytes(self.cells[RAM_BASE:])
        start -= RAM_BASE
        return (ram * (2 + length // len(ram)))[start : start + length]

    def store(self, address: int, data: bytes) -> None:
        """Store ``data`` (at most what the RAM holds) as the local DMA writes it."""
        start = RAM_BASE | address & _LOCAL
        room = SPACE - start
        if len(data) <= room:
            self.cells[start : start + len(data)] = data
        else:
            self.cells[start:] = data[:room]
            self.cells[RAM_BASE : RAM_BASE + len(data) - room] = data[room:]


class RemoteDma:
    """RSAR, RBCR, CRDA and the data port as one channel. ``done`` is called when the count reaches zero."""

    __slots__ = (
        "address",
        "command",
        "count",
        "done",
        "left",
        "memory",
        "start",
        "wide",
        "wrap_from",
        "wrap_to",
    )

    def __init__(self, memory: LocalMemory, done: Callable[[], None]) -> None:
        self.memory = memory
        self.done = done
        self.start = self.count = 0  # RSAR and RBCR as programmed
        self.address = self.left = 0  # where the transfer is: CRDA, and bytes to go
        self.command = r.RD_ABORT
        self.wide = False  # DCR.WTS
        self.wrap_from = self.wrap_to = 0  # PSTOP and PSTART as addresses

    def set_start(self, value: int) -> None:
        """Set the start address, because RSAR was written."""
        self.start = self.address = value

    def set_count(self, value: int) -> None:
        """Set the byte count, because RBCR was written."""
        self.count = self.left = value

    def issue(self, command: int) -> None:
        """Begin, go on with or abort a transfer: CR.RD was written with the chip started."""
        if command in (r.RD_READ, r.RD_WRITE) and (command != self.command or not self.left):
            self.address = self.start
            self.left = self.count
            if not self.left:
                self.done()
        if self.wide:
            self.address &= ~1
        self.command = command

    def abort(self) -> None:
        """End the transfer (CR.RD = 1xx); CRDA stays where it was."""
        if self.left and self.command == r.RD_READ:
            self.address = self.current()
        self.command = r.RD_ABORT

    def current(self) -> int:
        """Return the value of CRDA."""
        if self.command != r.RD_READ or not self.left:
            return self.address
        ahead = self.address + (2 if self.wide else 1)
        return self.wrap_to if ahead == self.wrap_from else ahead & 0xFFFF

    def send_packet(self, start: int, count: int) -> None:
        """Begin the send-packet command: a remote read of one packet of the ring."""
        self.set_start(start)
        self.set_count(count)
        self.command = r.RD_READ
        if not count:
            self.done()

    def read(self, size: int) -> int:
        """Answer one bus read of ``size`` bytes at the data port."""
        if size == 1 and self.wide:  # a byte access still takes a word from the channel
            return self.take(2)[0]
        return int.from_bytes(self.take(size), "little")

    def write(self, size: int, value: int) -> None:
        """Carry out one bus write of ``size`` bytes at the data port."""
        if size == 1 and self.wide:
            size = 2
        self.put((value & ((1 << (size * 8)) - 1)).to_bytes(size, "little"))

    def read_block(self, size: int, count: int) -> bytes:
        """Answer ``count`` bus reads of ``size`` bytes in one go."""
        if size == 1 and self.wide:
            return self.take(2 * count)[::2]
        return self.take(size * count)

    def write_block(self, size: int, data: bytes) -> None:
        """Carry out ``len(data) // size`` bus writes in one go."""
        if size == 1 and self.wide:
            wide = bytearray(2 * len(data))
            wide[::2] = data
            data = bytes(wide)
        self.put(data)

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes of a remote read."""
        left = self.left
        if self.command != r.RD_READ or not left:
            return b"\xff" * length
        address = self.address
        end = address + length
        if length <= left and (end < self.wrap_from or address >= self.wrap_from) and end < 0x10000:
            self.address = end
            self.left = left = left - length
            data = self.memory.read(address, length)
        else:
            usable = min(length, left + 1 if self.wide and left & 1 else left)
            parts = [self.memory.read(start, size) for start, size in self._pieces(usable)]
            parts.append(b"\xff" * (length - usable))
            data = b"".join(parts)
            self.left = left = max(0, left - usable)
        if not left:
            self.done()
        return data

    def put(self, data: bytes) -> None:
        """Store the next bytes of a remote write."""
        left = self.left
        if self.command != r.RD_WRITE or not left:
            return
        length = len(data)
        address = self.address
        end = address + length
        if length <= left and (end < self.wrap_from or address >= self.wrap_from) and end < 0x10000:
            self.address = end
            self.left = left = left - length
            self.memory.write(address, data)
        else:
            usable = min(length, left + 1 if self.wide and left & 1 else left)
            offset = 0
            for start, size in self._pieces(usable):
                self.memory.write(start, data[offset : offset + size])
                offset += size
            self.left = left = max(0, left - usable)
        if not left:
            self.done()

    def _pieces(self, length: int) -> list[tuple[int, int]]:
        """Cut the next ``length`` bytes where the address wraps, and advance it."""
        pieces = []
        address = self.address
        while length > 0:
            border = self.wrap_from if address < self.wrap_from else 0x10000
            size = min(length, border - address)
            pieces.append((address, size))
            address = address + size & 0xFFFF
            length -= size
            if address == self.wrap_from:
                address = self.wrap_to
        self.address = address
        return pieces

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON-able data."""
        return {
            "start": self.start,
            "count": self.count,
            "address": self.address,
            "left": self.left,
            "command": self.command,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the data of ``snapshot()``. Raises ValueError."""
        values = [number(state, name, 0xFFFF) for name in ("start", "count", "address", "left", "command")]
        self.start, self.count, self.address, self.left, self.command = values
