"""A classic pcap file of everything on a VLAN (``-net dump``): an observer, no member.

Its port takes no super-frames, so that the file shows what a wire would carry: frames of the MTU's size with their
checksums. It neither holds senders back nor limits what members offer each other; when the disk is slower than the
VLAN, its own queue overflows and the drops are counted; when the file has ended (``sink``), as "file".

Limits: ``len=`` bytes of each frame are kept. Times are the host's clock, in microseconds.
The format is ``capture/pcap.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..capture.pcap import header, record
from ..capture.sink import Sink, SinkError
from ..config import DumpNet
from ..vlan.port import Port
from .sockets.address import WireError


class Dump:
    """One capture. ``clock()``: time of day in nanoseconds."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, net: DumpNet, clock: Callable[[], int] = time.time_ns
    ) -> None:
        """Make the file. Raises WireError."""
        self._clock, self._net = clock, net
        self._closed = False
        self.port = Port(net.name, self._receive, member=False)
        try:
            self._sink = Sink(loop, net.file, net.origin, drained=self._room, ended=self._room)
        except SinkError as error:
            raise WireError(f"{net.origin}: file={net.file}: {error}") from None
        self._sink.put(header(net.len))

    def start(self) -> None:
        """Nothing to do: the port begins."""

    def _receive(self, frame: bytes, _vnet: bytes) -> bool:
        if self._closed or self._sink.why:
            self.port.counters.drop("file")
            return True
        if not self._sink.room:
            return False
        self._sink.put(*record(frame, self._net.len, self._clock()))
        return True

    def _room(self) -> None:
        self.port.flush()

    def info_line(self) -> str:
        """The file, and why it has ended."""
        text = f"dump to {self._net.file} (len={self._net.len})"
        return f"{text} ({self._sink.why})" if self._sink.why else text

    def close(self) -> None:
        """Write what is there and close the file. Idempotent."""
        if self._closed:
            return
        self._sink.close()
        self._closed = True
        self.port.flush()
