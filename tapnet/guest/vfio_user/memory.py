"""Guest memory as a vfio-user client gave it: regions by address, mapped, by descriptor, or by messages.

A descriptor that cannot shrink (F_SEAL_SHRINK) is mapped. Another file is read and written by pread and pwrite, so
that a client that truncates its memory cannot end us by SIGBUS: what is no longer there reads all ones, as a hole does,
and is counted. Without a descriptor the owner asks by DMA_READ and DMA_WRITE messages (``dma``).

Limit: ``REGIONS_MAX`` regions, none overlapping.

Ref: as ``wire``; fcntl(2) on file seals.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from bisect import bisect_right

from . import wire

REGIONS_MAX = 4096


class Region:
    """A piece of the guest's memory. ``map`` or ``fd``, or neither: by messages."""

    __slots__ = ("failed", "fd", "map", "offset", "prot", "size", "start")

    def __init__(self, start: int, size: int, offset: int, prot: int, fd: int) -> None:
        """Takes ``fd`` (-1: none). Raises OSError; the descriptor is closed then."""
        self.start, self.size, self.offset, self.prot = start, size, offset, prot
        self.map: mmap.mmap | None = None
        self.failed = 0  # accesses that the descriptor refused
        self.fd = fd
        if fd < 0:
            return
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a file")
            if offset + size > status.st_size:
                raise OSError(errno.EINVAL, "beyond the end of the descriptor")
            if _sealed(fd) and offset % mmap.ALLOCATIONGRANULARITY == 0:
                access = mmap.PROT_READ | (mmap.PROT_WRITE if prot & wire.MAP_WRITE else 0)
                self.map = mmap.mmap(fd, size, mmap.MAP_SHARED, access, offset=offset)
                os.close(fd)
                self.fd = -1
        except (OSError, ValueError) as error:
            os.close(fd)
            self.fd = -1
            raise OSError(getattr(error, "errno", None) or errno.EINVAL, str(error)) from None

    @property
    def local(self) -> bool:
        """Whether no message is needed."""
        return self.map is not None or self.fd >= 0

    def read(self, at: int, length: int) -> bytes:
        """Bytes at ``at`` within the region; all ones where a truncated descriptor has none."""
        if self.map is not None:
            return self.map[at : at + length]
        try:
            data = os.pread(self.fd, length, self.offset + at)
        except OSError:
            data = b""
        if len(data) < length:
            self.failed += 1
            data = data.ljust(length, b"\xff")
        return data

    def write(self, at: int, data: bytes) -> None:
        """Store at ``at``."""
        if self.map is not None:
            self.map[at : at + len(data)] = data
            return
        try:
            os.pwrite(self.fd, data, self.offset + at)
        except OSError:
            self.failed += 1

    def close(self) -> None:
        """Give the mapping or descriptor back."""
        if self.map is not None:
            self.map.close()
            self.map = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _sealed(fd: int) -> bool:
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False


class GuestMemory:
    """The DMA map: regions by address, none overlapping."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._regions: list[Region] = []
        self.failed = 0  # accesses that went wrong, of regions that are gone

    def find(self, address: int) -> tuple[Region | None, int]:
        """The region at ``address`` and how far it (or the hole) reaches."""
        index = bisect_right(self._starts, address)
        if index:
            region = self._regions[index - 1]
            if address < region.start + region.size:
                return region, region.start + region.size - address
        reach = self._starts[index] - address if index < len(self._starts) else 1 << 64
        return None, reach

    def add(self, start: int, size: int, offset: int, prot: int, fd: int) -> int:
        """Map a region; takes ``fd``. 0 or an errno."""
        index = bisect_right(self._starts, start)
        before = self._regions[index - 1] if index else None
        wrong = 0
        if not size or start + size > 1 << 64 or offset + size > 1 << 63:
            wrong = errno.EINVAL
        elif len(self._regions) >= REGIONS_MAX:
            wrong = errno.ENOSPC
        elif (before is not None and before.start + before.size > start) or (
            index < len(self._starts) and self._starts[index] < start + size
        ):
            wrong = errno.EEXIST
        if wrong:
            if fd >= 0:
                os.close(fd)
            return wrong
        try:
            region = Region(start, size, offset, prot, fd)
        except OSError as error:
            return error.errno or errno.EINVAL
        self._starts.insert(index, start)
        self._regions.insert(index, region)
        return 0

    def remove(self, start: int, size: int) -> int:
        """Unmap exactly that region. 0 or an errno."""
        index = bisect_right(self._starts, start) - 1
        if index < 0 or self._starts[index] != start or self._regions[index].size != size:
            return errno.ENOENT
        region = self._regions.pop(index)
        self._starts.pop(index)
        self.failed += region.failed
        region.close()
        return 0

    def close(self) -> None:
        """Unmap all."""
        for region in self._regions:
            self.failed += region.failed
            region.close()
        self._starts.clear()
        self._regions.clear()
