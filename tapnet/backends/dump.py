"""A classic pcap file of everything on a VLAN (``-net dump``): an observer, no member.

Its port takes no super-frames, so that the file shows what a wire would carry: frames of the MTU's size with their
checksums. It neither holds senders back nor limits what members offer each other; when the disk is slower than the
VLAN, its own queue overflows and the drops are counted.

Frames of one batch are written by one ``write``. A pipe that is full is waited for by the loop; a file that cannot be
written any more (no space) ends the capture with one log line, and drops are counted as "file".

Limits: ``len=`` bytes of each frame are kept. Times are the host's clock at the batch, in microseconds.
Ref: pcap-savefile(5): magic a1b2c3d4 in the host's byte order, version 2.4, link type 1 (Ethernet).
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import Callable
from struct import Struct

from ..config import DumpNet
from ..port import Port
from .address import WireError, reason

MAGIC, MAJOR, MINOR, ETHERNET = 0xA1B2C3D4, 2, 4, 1
HEADER = Struct("=IHHiIII")
RECORD = Struct("=IIII")
OUT_BYTES = 1 << 20
log = logging.getLogger("tapnet.wires")


class Dump:
    """One capture. ``clock()``: time of day in nanoseconds."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, net: DumpNet, clock: Callable[[], int] = time.time_ns
    ) -> None:
        """Make the file. Raises WireError."""
        self._loop, self._clock, self._net = loop, clock, net
        self.why = ""  # the capture has ended
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        try:
            self._fd = os.open(net.file, flags, 0o600)
        except OSError as error:
            why = "nobody reads this pipe" if _is_pipe(net.file) else reason(error)
            raise WireError(f"{net.origin}: file={net.file}: {why}") from None
        self._out: list[bytes] = [HEADER.pack(MAGIC, MAJOR, MINOR, 0, 0, net.len, ETHERNET)]
        self._pending = HEADER.size
        self._blocked = self._scheduled = self._refused = self._closed = False
        self.port = Port(net.name, self._receive, member=False)

    def start(self) -> None:
        """Write the header."""
        self._write()

    def _receive(self, frame: bytes, _vnet: bytes) -> bool:
        if self._closed or self.why:
            self.port.counters.drop("file")
            return True
        if self._pending >= OUT_BYTES:
            self._refused = True
            return False
        size = len(frame)
        kept = frame if size <= self._net.len else frame[: self._net.len]
        now = self._clock() // 1000
        self._out.append(RECORD.pack(now // 1_000_000 & 0xFFFFFFFF, now % 1_000_000, len(kept), size))
        self._out.append(kept)
        self._pending += RECORD.size + len(kept)
        if not self._blocked and not self._scheduled:
            if not self.port.queue or self._pending >= OUT_BYTES:
                self._write()
            else:
                self._scheduled = True
                self._loop.call_soon(self._later)
        return True

    def _later(self) -> None:
        self._scheduled = False
        self._write()

    def _write(self) -> None:
        if self._closed or self.why:
            return
        data = b"".join(self._out)
        self._out.clear()
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, memoryview(data)[done:])
        except BlockingIOError:
            self._out.append(data[done:])
        except OSError as error:
            self.why = reason(error)
            log.warning("tapnet: %s: file=%s: %s", self._net.origin, self._net.file, self.why)
            self.port.counters.drop("file")
        self._pending = sum(map(len, self._out))
        waiting = bool(self._out) and not self.why
        if waiting != self._blocked:
            self._blocked = waiting
            if waiting:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)

    def _writable(self) -> None:
        self._write()
        if self._refused and self._pending < OUT_BYTES:
            self._refused = False
            self.port.flush()

    def info_line(self) -> str:
        """The file, and why it has ended."""
        text = f"dump to {self._net.file} (len={self._net.len})"
        return f"{text} ({self.why})" if self.why else text

    def close(self) -> None:
        """Write what is there and close the file. Idempotent."""
        if self._closed:
            return
        self._write()
        if self._blocked:
            self._loop.remove_writer(self._fd)
        self._closed = True
        os.close(self._fd)
        if self._refused:
            self._refused = False
            self.port.flush()


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False
