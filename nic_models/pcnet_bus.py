"""Descriptors of the Am79C970A on the bus: four software styles read into one form, and posted writes.

A write is noted in ``posted`` before it goes out and forgotten when it has: a run that is cut off in
between (snapshot) writes it again when the engine is started anew. Status comes after data and count in
``posted``, so that a guest which watches OWN sees a finished descriptor.

``budget`` is what is left of the descriptors that one run of the engine may look at.

The bus answers all ones where nothing is. A descriptor of ones alone is taken as a master abort
(``Fault``).

Ref: Am79C970A data sheet (19436E), "BCR20: Software Style", "Receive Descriptors", "Transmit Descriptors".
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import Any

from . import pcnet_regs as r
from .dma import Op

FAULTS = {size: b"\xff" * size for size in (8, 16, 24, 28)}
POSTED_LIMIT = 8
ADDRESS = 0xFFFFFFFF
_U32 = Struct("<I")
_U16 = Struct("<H")
_SHORT = Struct("<HHHH")
_LONG = Struct("<IIII")

# address of the buffer; status (upper half of xMD1); BCNT, two's complement; the other word (xMD2)
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
        self.posted: list[tuple[int, bytes]] = []
        self.event = 0  # CSR0 bits to set when that is written
        self.budget = 0

    def style(self) -> int:
        """SWSTYLE, 0 to 3."""
        return self.bcr[r.SWS] & 0xFF

    def upper(self) -> int:
        """Address bits 31-24 of 16-bit software structures."""
        return 0 if self.bcr[r.SWS] & r.SSIZE32 else (self.csr[2] & 0xFF00) << 16

    def address(self, base: int, index: int) -> int:
        """Address of descriptor ``index`` of the ring whose base is in CSR ``base``."""
        csr = self.csr
        return (csr[base] | csr[base + 1] << 16) + index * (16 if self.bcr[r.SWS] & 0xFF else 8) & ADDRESS

    def fetch(self, address: int) -> Generator[Op, Any, Descriptor]:
        """Read a descriptor. Raises Fault."""
        style = self.bcr[r.SWS] & 0xFF
        size = 16 if style else 8
        data = yield ("read", address, size)
        self.budget -= 1
        if data == FAULTS[size]:
            raise Fault
        if not style:
            low, high, count, other = _SHORT.unpack(data)
            return low | (high & 0xFF) << 16 | self.upper(), high & 0xFF00, count & 0xFFF, other
        first, second, third, _ = _LONG.unpack(data)
        if style == 3:
            first, third = third, first
        return first, second >> 16, second & 0xFFF, third

    def post_status(self, address: int, status: int) -> None:
        """The status half (style 0: byte) of the descriptor at ``address``."""
        if self.bcr[r.SWS] & 0xFF:
            self.posted.append((address + 6 & ADDRESS, _U16.pack(status)))
        else:
            self.posted.append((address + 3 & ADDRESS, bytes((status >> 8,))))

    def post_other(self, address: int, long: int, short: int) -> None:
        """xMD2 of the 32-bit styles, or the fourth word of style 0."""
        style = self.bcr[r.SWS] & 0xFF
        if style == 3:
            self.posted.append((address, _U32.pack(long)))
        elif style:
            self.posted.append((address + 8 & ADDRESS, _U32.pack(long)))
        else:
            self.posted.append((address + 6 & ADDRESS, _U16.pack(short)))

    def clear(self) -> None:
        """Forget what is posted."""
        self.posted.clear()
        self.event = 0

    def flush(self) -> Action:
        """Write what is posted, then raise its event (the caller updates the interrupt)."""
        posted = self.posted
        while posted:
            yield ("write", *posted[0])
            del posted[0]
        self.csr[0] |= self.event
        self.event = 0
