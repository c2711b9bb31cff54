"""A register file: registers of 1, 2 or 4 bytes that answer accesses of 1, 2 or 4 bytes at any offset.

An access reaches every register that it overlaps: a write as ``writer(value, mask)``, both aligned to the
register, the mask having ones for the byte lanes that the access drives (PCI's byte enables); a read takes
the lanes it wants from ``reader()``. Bytes that belong to no register read 0 and ignore writes. The tables of
callables are made once, so that an access costs two look-ups.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

Reader = Callable[[], int]
Writer = Callable[[int, int], None]
MASKS = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF}
_Entry = tuple[int, int, Reader, Writer]  # first byte, width


def zero() -> int:
    """Reader of what is not there."""
    return 0


def ignore(_value: int, _mask: int) -> None:
    """Writer of what is not there or read-only."""


class RegisterFile:
    """``size`` bytes of registers: ``add`` them, ``build`` once, then use ``readers[width][offset]()`` and
    ``writers[width][offset](value, MASKS[width])``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.registers: dict[int, _Entry] = {}  # by the offset of each byte
        self.readers: dict[int, list[Reader]] = {}
        self.writers: dict[int, list[Writer]] = {}

    def add(self, offset: int, width: int, reader: Reader | None, writer: Writer | None) -> None:
        """A register of ``width`` bytes. Raises ValueError where one is already."""
        entry = (offset, width, reader or zero, writer or ignore)
        for byte in range(offset, offset + width):
            if byte in self.registers or byte >= self.size:
                raise ValueError(f"register {offset:#x}: byte {byte:#x} is taken")
            self.registers[byte] = entry

    def build(self) -> None:
        """Make the tables."""
        for width in (1, 2, 4):
            self.readers[width] = [self._reader(offset, width) for offset in range(self.size)]
            self.writers[width] = [self._writer(offset, width) for offset in range(self.size)]

    def _touched(self, offset: int, width: int) -> list[_Entry]:
        seen: dict[int, _Entry] = {}
        for byte in range(offset, min(offset + width, self.size)):
            entry = self.registers.get(byte)
            if entry is not None:
                seen[entry[0]] = entry
        return list(seen.values())

    def _reader(self, offset: int, width: int) -> Reader:
        touched = self._touched(offset, width)
        if not touched:
            return zero
        if len(touched) == 1 and touched[0][:2] == (offset, width):
            return touched[0][2]
        parts = [(reader, 8 * (first - offset), MASKS[size]) for first, size, reader, _ in touched]
        return partial(_read_parts, parts, MASKS[width])

    def _writer(self, offset: int, width: int) -> Writer:
        touched = self._touched(offset, width)
        if not touched:
            return ignore
        if len(touched) == 1 and touched[0][:2] == (offset, width):
            return touched[0][3]
        parts = [(writer, 8 * (first - offset), MASKS[size]) for first, size, _, writer in touched]
        return partial(_write_parts, parts)


def _read_parts(parts: list[tuple[Reader, int, int]], mask: int) -> int:
    value = 0
    for reader, shift, full in parts:
        part = reader() & full
        value |= part << shift if shift >= 0 else part >> -shift
    return value & mask


def _write_parts(parts: list[tuple[Writer, int, int]], value: int, mask: int) -> None:
    for writer, shift, full in parts:
        if shift >= 0:
            writer(value >> shift & full, mask >> shift & full)
        else:
            writer(value << -shift & full, mask << -shift & full)
