"""Which port a station is behind: the address table of a VLAN that is a switch (``-net hub,vlan=N,switch=on``).

Learned from the source of every frame, for ``AGE_NS`` after the last one. Bounded: when it is full nobody new is learned,
counted as ``refused``; what is not in the table is flooded, so a full table costs bandwidth and never a frame. A
station that moves is learned anew at once. A port that goes, or loses its link, takes its addresses along.

Ref: IEEE 802.1Q 8.7 (the learning process), 8.8 (ageing).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from .port import Port

SECOND = 1_000_000_000
AGE_NS = 300 * SECOND
REFRESH_NS = SECOND  # how stale "last seen" may be
TABLE_MAX = 4096


class Row(NamedTuple):
    """One address, for reports."""

    mac: bytes
    port: Port
    age: float  # seconds since it was seen, to a second


class AddressTable:
    """``now()`` in ns."""

    def __init__(self, now: Callable[[], int], limit: int = TABLE_MAX, age: int = AGE_NS) -> None:
        self.refused = self.moved = self.flooded = self.local = 0
        self._now = now
        self._limit = limit
        self._age = age
        self._swept = 0
        self._entries: dict[bytes, tuple[Port, int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def learn(self, mac: bytes, port: Port) -> None:
        """A frame from ``mac`` has come in by ``port``."""
        now = self._now()
        known = self._entries.get(mac)
        if known is not None:
            if known[0] is port:
                if now - known[1] > REFRESH_NS:
                    self._entries[mac] = (port, now)
                return
            self.moved += 1
        elif mac[0] & 1:  # no station's
            return
        elif len(self._entries) >= self._limit and not self._room(now):
            self.refused += 1
            return
        self._entries[mac] = (port, now)

    def find(self, mac: bytes) -> Port | None:
        """The port that ``mac`` is behind; None: nobody knows."""
        known = self._entries.get(mac)
        if known is None:
            return None
        if self._now() - known[1] > self._age:
            del self._entries[mac]
            return None
        return known[0]

    def _room(self, now: int) -> bool:
        """Look for what is too old, at most once a second."""
        if now - self._swept >= REFRESH_NS:
            self._swept = now
            self._entries = {m: e for m, e in self._entries.items() if now - e[1] <= self._age}
        return len(self._entries) < self._limit

    def keep(self, ports: Collection[Port]) -> None:
        """Forget what is behind other ports."""
        if any(port not in ports for port, _ in self._entries.values()):
            self._entries = {m: e for m, e in self._entries.items() if e[0] in ports}

    def rows(self) -> list[Row]:
        """What is known, the longest first."""
        now = self._now()
        return [
            Row(mac, port, (now - seen) / SECOND)
            for mac, (port, seen) in self._entries.items()
            if now - seen <= self._age
        ]
