"""Captures of a running hub: a VLAN or one member, as pcapng; and ``-object filter-dump``, as QEMU's classic pcap.

    Hub.traces ─► Capture: which frames, which interface ─► dpkt's blocks ─► Sink: a file, a pipe

A VLAN's capture has every frame once, on the interface of the member that sent it; a member's has both directions, as
epb_flags says (inbound: from the member into the VLAN). An interface is described when its first frame comes; its name
is the member's. A frame that was lost somewhere is there with a comment that says where and why ("lost at socket.0.1:
queue"), also what a bad cable lost. At the end each interface's statistics follow.

Super-frames are completed and segmented for the file (``tapnet.vlan.offload``), the members keep theirs. A reader that is too
slow loses frames, never time: they are counted, and the next frame's comment says how many.

Cost: some 20 us a frame while a capture runs, nothing when none does. Times: the host's clock, ns.
Limits: ``CAPTURES_MAX`` at a time; ``INTERFACES_MAX`` members of each have interfaces of their own, clients that come after
them (anybody can connect to a wire, again and again) share one. Ref: QEMU net/dump.c.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..config import Filter
from ..vlan import offload
from ..vlan.hub import Hub
from ..vlan.port import Port
from .pcap import header, record
from .sink import Sink, SinkError

CAPTURES_MAX = 16
INTERFACES_MAX = 4096
LATER = "later members"
INBOUND, OUTBOUND = b"\1\0\0\0", b"\2\0\0\0"


class CaptureError(Exception):
    """It cannot be had; the reason."""


class Row(NamedTuple):
    """One capture, for monitors."""

    target: str
    file: str
    frames: int
    lost: int
    why: str  # it has ended


def member(name: str) -> Callable[[Port], bool]:
    """A test: the port of that name, or those of a listener's clients ("socket.0.1" of "socket.0")."""
    return lambda port: (port.name == name or port.name.startswith(name + ".")) and not _outer(port)


def _outer(port: Port) -> bool:
    """Whether it stands for another on the VLAN (``tapnet.vlan.faults``)."""
    return port.inline is not None and port.inline.port is not port


class Capture:
    """One pcapng file. ``match`` None: the whole VLAN. A ``Trace`` of ``hub``."""

    def __init__(
        self,
        hub: Hub,
        target: str,
        match: Callable[[Port], bool] | None,
        sink: Sink,
        clock: Callable[[], int],
    ) -> None:
        self.target, self.hub, self.sink = target, hub, sink
        self.frames = self.lost = 0
        self._match, self._clock = match, clock
        from .pcapng import (
            Pcapng,  # here: dpkt imports 60 protocols, a third of the time that tapnet takes to start
        )

        self._blocks = Pcapng()
        self._untold = 0  # frames lost since the last comment
        self._seen: dict[str, list[int]] = {}  # interface -> frames, lost at the member, missed here
        sink.put(self._blocks.begin())
        hub.traces.append(self)

    # ---- Trace ---------------------------------------------------------------------------------------------

    def sent(self, port: Port, frame: bytes, vnet: bytes, lost: Sequence[tuple[Port, str]]) -> None:
        """See ``port.Trace``."""
        if self._match is None:
            if port.hub is self.hub:
                comments = [f"lost at {other.name}: {reason}" for other, reason in lost]
                self._write(port, frame, vnet, INBOUND, comments)
            return
        if self._match(port):
            self._write(port, frame, vnet, INBOUND, ())
        for other, reason in lost:
            if self._match(other):
                self._write(other, frame, vnet, OUTBOUND, (f"lost at {other.name}: {reason}",))

    def delivered(self, port: Port, frame: bytes, vnet: bytes) -> None:
        """See ``port.Trace``."""
        if self._match is not None and self._match(port):
            self._write(port, frame, vnet, OUTBOUND, ())

    def dropped(self, port: Port, frame: bytes, vnet: bytes, reason: str, inbound: bool) -> None:
        """See ``port.Trace``."""
        if not _outer(port) and (port.vlan is self.hub if self._match is None else self._match(port)):
            direction = INBOUND if inbound else OUTBOUND
            self._write(port, frame, vnet, direction, (f"lost at {port.name}: {reason}",))

    def _write(
        self, port: Port, frame: bytes, vnet: bytes, direction: bytes, comments: Sequence[str]
    ) -> None:
        name, sink = port.name, self.sink
        seen = self._seen.get(name)
        if seen is None and len(self._seen) >= INTERFACES_MAX:
            name = LATER
            seen = self._seen.get(name)
        if seen is None:
            seen = self._seen[name] = [0, 0, 0]
            sink.put(self._blocks.interface(name, f"member {name} of VLAN {self.hub.number}"))
        now = self._clock()
        for piece, _ in offload.complete(frame, vnet) if vnet else ((frame, b""),):
            seen[0] += 1
            seen[1] += bool(comments)
            if not sink.room or sink.why:
                self.lost += 1
                self._untold += 1
                seen[2] += 1
                continue
            if self._untold:
                comments = (*comments, f"{self._untold} frames before this one were not captured")
                self._untold = 0
            sink.put(self._blocks.packet(name, piece, now, direction, comments))
            self.frames += 1

    def row(self) -> Row:
        """For monitors."""
        return Row(self.target, self.sink.path, self.frames, self.lost, self.sink.why)

    def close(self) -> None:
        """Write the statistics and close the file. Idempotent."""
        if self in self.hub.traces:
            self.hub.traces.remove(self)
            now = self._clock()
            for name, counted in self._seen.items():
                self.sink.put(self._blocks.statistics(name, now, *counted))
            self.sink.close()


class FilterDump:
    """``-object filter-dump``: what one member sends (tx) and receives (rx), as a classic pcap. A ``Trace``."""

    def __init__(self, hub: Hub, name: str, options: Filter, sink: Sink, clock: Callable[[], int]) -> None:
        self.target, self.hub, self.sink = options.id, hub, sink
        self.frames = self.lost = 0
        self._match, self._options, self._clock = member(name), options, clock
        sink.put(header(options.maxlen))
        hub.traces.append(self)

    def sent(self, port: Port, frame: bytes, vnet: bytes, lost: Sequence[tuple[Port, str]]) -> None:
        """See ``port.Trace``."""
        if self._options.queue != "rx" and self._match(port):
            self._write(frame, vnet)

    def delivered(self, port: Port, frame: bytes, vnet: bytes) -> None:
        """See ``port.Trace``."""
        if self._options.queue != "tx" and self._match(port):
            self._write(frame, vnet)

    def dropped(self, port: Port, frame: bytes, vnet: bytes, reason: str, inbound: bool) -> None:
        """See ``port.Trace``: not in the file."""

    def _write(self, frame: bytes, vnet: bytes) -> None:
        now = self._clock()
        for piece, _ in offload.complete(frame, vnet) if vnet else ((frame, b""),):
            if self.sink.room and not self.sink.why:
                self.sink.put(*record(piece, self._options.maxlen, now))
                self.frames += 1
            else:
                self.lost += 1

    def row(self) -> Row:
        """For monitors."""
        return Row(self.target, self.sink.path, self.frames, self.lost, self.sink.why)

    def close(self) -> None:
        """Idempotent."""
        if self in self.hub.traces:
            self.hub.traces.remove(self)
            self.sink.close()


class Captures:
    """All captures of an instance."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], int] = time.time_ns) -> None:
        self._loop, self._clock = loop, clock
        self._all: list[Capture | FilterDump] = []

    def start(self, hub: Hub, target: str, match: Callable[[Port], bool] | None, file: str) -> None:
        """Begin a capture. Raises CaptureError."""
        if len(self._all) >= CAPTURES_MAX:
            raise CaptureError(f"{CAPTURES_MAX} captures are running")
        if any(c.sink.path == file and not c.sink.why for c in self._all):
            raise CaptureError(f"{file}: another capture writes there")
        sink = self._sink(file, f"capture {target}")
        self._all.append(Capture(hub, target, match, sink, self._clock))

    def filter(self, hub: Hub, name: str, options: Filter) -> None:
        """Begin a filter-dump. Raises CaptureError."""
        sink = self._sink(options.file, options.origin)
        self._all.append(FilterDump(hub, name, options, sink, self._clock))

    def _sink(self, file: str, what: str) -> Sink:
        try:
            return Sink(self._loop, file, what, ended=self._sweep)
        except SinkError as error:
            raise CaptureError(f"file={file}: {error}") from None

    def _sweep(self) -> None:
        """Forget captures whose reader has gone. One of a full disk is closed as well, and said in the log."""
        for one in [c for c in self._all if c.sink.why]:
            self._end(one)

    def stop(self, target: str, file: str | None = None) -> int:
        """End the captures of a target (into one file). How many there were."""
        found = [c for c in self._all if c.target == target and file in (None, c.sink.path)]
        for one in found:
            self._end(one)
        return len(found)

    def _end(self, one: Capture | FilterDump) -> None:
        self._all.remove(one)
        one.close()

    def rows(self) -> list[Row]:
        """What runs."""
        return [one.row() for one in self._all]

    def close(self) -> None:
        """End all. Idempotent."""
        while self._all:
            self._end(self._all[-1])
