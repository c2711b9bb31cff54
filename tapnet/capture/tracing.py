"""``-d ITEM[,ITEM]... -D FILE``: what happens, one line each, on standard error or in a file.

    13:37:00.123 tcp     user.0 in  10.0.2.15.40000 > 192.0.2.1.80 [S] seq 7 win 64240 len 0
    13:37:00.124 dhcp    user.0 --- dhcp_exhausted
    13:37:00.125 hub     VLAN 0: ne2k_pci.0 sent 60 bytes, lost at user.0: queue

``in`` came from a guest, ``out`` goes to it, ``---`` is what the NAT counted. Items and file can be changed while tapnet runs (the
monitor's ``log`` and ``logfile``). Who does not trace pays nothing: traced objects are given a listener, and lose it again.

A file is appended to. A line that cannot be written is lost, counted.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TextIO

from ..vlan.hub import Hub
from ..vlan.port import Port

NAT_ITEMS = ("arp", "dhcp", "dns", "icmp", "tcp", "udp", "tftp", "forward")
ALL_OF_NAT = "slirp"
HUB = "hub"
ITEMS = (ALL_OF_NAT, *NAT_ITEMS, HUB)

Line = Callable[[str, str], None]
"""``(class, text)``"""


class Traceable(Protocol):
    """A NAT."""

    @property
    def name(self) -> str:
        """The backend's name."""

    def trace(self, line: Line | None, wants: Callable[[str], bool]) -> None:
        """Tell ``line`` what happens; None: no more. ``wants(class)``: whether a class is asked for."""


class Tracer:
    """The traces of one instance. Raises OSError if the file cannot be opened."""

    def __init__(
        self,
        path: str | None = None,
        hubs: Callable[[], Iterable[Hub]] = tuple,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.items: tuple[str, ...] = ()
        self.path: str | None = None
        self.lost = 0
        self._wall = wall
        self._file: TextIO | None = None
        self._nats: list[Traceable] = []
        self._hubs = hubs
        self._looking: list[tuple[Hub, _HubTrace]] = []
        self.open(path)

    # ---- settings ------------------------------------------------------------------------------------------

    def set(self, items: Iterable[str]) -> None:
        """Trace these and nothing else. VLANs: those that there are now."""
        self.items = tuple(dict.fromkeys(items))
        for nat in self._nats:
            self._apply(nat)
        for hub, trace in self._looking:
            if trace in hub.traces:
                hub.traces.remove(trace)
        wanted = list(self._hubs()) if HUB in self.items else []
        self._looking = [(hub, _HubTrace(f"VLAN {hub.number}", self.line)) for hub in wanted]
        for hub, trace in self._looking:
            hub.traces.append(trace)

    def open(self, path: str | None) -> None:
        """Write to a file from now on; None: standard error. Raises OSError; then nothing has changed."""
        file = open(path, "a", encoding="utf-8", buffering=1) if path is not None else None
        self.close()
        self._file, self.path = file, path

    def close(self) -> None:
        """No file is open any more. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # lines that a full disk did not take were counted
                file.close()

    # ---- what is traced ------------------------------------------------------------------------------------

    def add(self, nat: Traceable) -> None:
        """A NAT has come."""
        self._nats.append(nat)
        self._apply(nat)

    def remove(self, nat: Traceable) -> None:
        """It has gone. Idempotent."""
        if nat in self._nats:
            self._nats.remove(nat)

    def _apply(self, nat: Traceable) -> None:
        on = any(item in NAT_ITEMS or item == ALL_OF_NAT for item in self.items)
        name = nat.name
        nat.trace((lambda which, text: self.line(which, f"{name} {text}")) if on else None, self.wants)

    def wants(self, which: str) -> bool:
        """Whether a class is asked for."""
        return which in self.items or (ALL_OF_NAT in self.items and which != HUB)

    def line(self, which: str, text: str) -> None:
        """Write one."""
        wall = self._wall()
        stamp = time.strftime("%H:%M:%S", time.localtime(wall))
        try:
            file = self._file or sys.stderr
            file.write(f"{stamp}.{int(wall * 1000) % 1000:03d} {which:7} {text}\n")
        except (OSError, ValueError):  # a full disk, a reader that left; a file that was closed
            self.lost += 1


class _HubTrace:
    """Looks on at a VLAN (``port.Trace``)."""

    def __init__(self, what: str, line: Line) -> None:
        self._what = what
        self._line = line

    def sent(self, source: Port, frame: bytes, vnet: bytes, lost: Sequence[tuple[Port, str]]) -> None:
        """A port sent."""
        gone = "".join(f", lost at {port.name}: {reason}" for port, reason in lost)
        self._line(HUB, f"{self._what}: {source.name} sent {len(frame)} bytes{gone}")

    def delivered(self, port: Port, frame: bytes, vnet: bytes) -> None:
        """A port received: said by ``sent`` already."""

    def dropped(self, port: Port, frame: bytes, vnet: bytes, reason: str, inbound: bool) -> None:
        """A frame was lost."""
        self._line(HUB, f"{self._what}: {port.name} dropped {len(frame)} bytes: {reason}")
