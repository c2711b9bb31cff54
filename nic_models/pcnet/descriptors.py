"""Descriptors of the Am79C970A on the bus: four software styles read into one form, and posted writes.

The engine posts what it writes back to descriptors; ``rings`` writes it out after each step. A write is forgotten
when it has gone out: a run that is cut off before (snapshot) writes it again when the engine is started anew. Status and
count of a descriptor are one write of eight bytes, and come after the data, so that a guest which watches OWN sees a
finished descriptor.

BSWP (CSR3) swaps the bytes of buffer accesses within their 32-bit words, never those of descriptors.

``budget`` is what is left of the descriptors that one run of the engine may look at.

The bus answers all ones where nothing is. A descriptor of ones alone is taken as a master abort (``Fault``).

Ref: Am79C970A data sheet (19436E), "BCR20: Software Style", "Receive Descriptors", "Transmit Descriptors".
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import Any

from ..bus.dma import Op, WriteOp
from . import registers as r

FAULTS = {size: b"\xff" * size for size in (8, 16, 24, 28)}
POSTED_LIMIT = 8
ADDRESS = 0xFFFFFFFF
_U16 = Struct("<H")
_SHORT = Struct("<HHHH")
_LONG = Struct("<IIII")
_PAIR = Struct("<II")

# address of the buffer; status (upper half of xMD1); its lower half with BCNT; the other word (xMD2)
Descriptor = tuple[int, int, int, int]
NONE: Descriptor = (0, 0, 0, 0)
Step = Generator[Op, Any, bool]
Action = Generator[Op, Any, None]


class Fault(Exception):
    """Nothing answered on the bus. Never leaves the engine."""


class Bus:
    """Descriptor access for both rings. ``csr`` and ``bcr`` are the chip's register files."""

    def __init__(self, csr: list[int], bcr: list[int]) -> None:
        self.csr = csr
        self.bcr = bcr
        self.posted: list[WriteOp] = []
        self.event = 0  # CSR0 bits to set when that is written
        self.budget = 0

    def clear(self) -> None:
        """Forget what is posted."""
        self.posted.clear()
        self.event = 0

    def style(self) -> int:
        """SWSTYLE, 0 to 3."""
        return self.bcr[r.SWS] & 0xFF

    def size(self) -> int:
        """Bytes of a descriptor."""
        return 16 if self.bcr[r.SWS] & 0xFF else 8

    def upper(self) -> int:
        """Address bits 31-24 of 16-bit software structures."""
        return 0 if self.bcr[r.SWS] & r.SSIZE32 else (self.csr[2] & 0xFF00) << 16

    def address(self, base: int, index: int) -> int:
        """Address of descriptor ``index`` of the ring whose base is in CSR ``base``."""
        csr = self.csr
        return (csr[base] | csr[base + 1] << 16) + index * (16 if self.bcr[r.SWS] & 0xFF else 8) & ADDRESS

    def decode(self, data: bytes) -> Descriptor:
        """A descriptor that was read. Raises Fault."""
        self.budget -= 1
        if len(data) == 16:
            first, second, third, _ = _LONG.unpack(data)
            if second == ADDRESS and data == FAULTS[16]:
                raise Fault
            if self.bcr[r.SWS] & 0xFF == 3:
                return third, second >> 16, second & 0xFFFF, first
            return first, second >> 16, second & 0xFFFF, third
        if data == FAULTS[8]:
            raise Fault
        low, high, count, other = _SHORT.unpack(data)
        return low | (high & 0xFF) << 16 | self.upper(), high & 0xFF00, count, other

    def read_swapped(self, address: int, length: int) -> Generator[Op, Any, bytes]:
        """Big-endian mode: buffer bytes come from the other end of their 32-bit words."""
        start = address & ~3
        size = address - start + length + 3 & ~3
        data = yield ("read", start, size)
        return _swap(data)[address - start : address - start + length]

    def write_swapped(self, address: int, data: bytes) -> Action:
        """Big-endian mode: whole words in one write, bytes of others one by one."""
        head = min(-address & 3, len(data))
        tail = len(data) - head & 3
        for index in (*range(head), *range(len(data) - tail, len(data))):
            yield ("write", (address + index & ADDRESS) ^ 3, data[index : index + 1])
        whole = data[head : len(data) - tail]
        if whole:
            yield ("write", address + head & ADDRESS, _swap(whole))

    def give_back(self, address: int, status: int) -> None:
        """Post the status half (style 0: byte) of the descriptor at ``address``."""
        if self.bcr[r.SWS] & 0xFF:
            self.posted.append(("write", address + 6 & ADDRESS, _U16.pack(status)))
        else:
            self.posted.append(("write", address + 3 & ADDRESS, bytes((status >> 8,))))

    def finish(self, address: int, status: int, count: int, long: int, short: int) -> None:
        """Post status and xMD2 (``long``; style 0: the fourth word, ``short``) of a frame's last descriptor."""
        style = self.bcr[r.SWS] & 0xFF
        if style == 3:
            self.posted.append(("write", address, _PAIR.pack(long, status << 16 | count)))
        elif style:
            self.posted.append(("write", address + 4 & ADDRESS, _PAIR.pack(status << 16 | count, long)))
        else:
            self.posted.append(("write", address + 6 & ADDRESS, _U16.pack(short)))
            self.posted.append(("write", address + 3 & ADDRESS, bytes((status >> 8,))))


def _swap(data: bytes) -> bytes:
    """The bytes of each 32-bit word the other way round."""
    swapped = bytearray(len(data))
    for index in range(4):
        swapped[index::4] = data[3 - index :: 4]
    return bytes(swapped)
