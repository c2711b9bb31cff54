"""Who on the VLAN has which address: the table that ARP and neighbour discovery share.

* a guest is learnt from any valid frame that it sends; one that moves to another MAC is followed at once, also
  by flows that exist: they hold the ``Neighbour`` itself, not a copy of its MAC;
* an address that a frame has to go to and nobody is known to have is asked for, ``TRIES`` times, and up to ``HOLD``
  frames are kept meanwhile; nobody answers: they are dropped, and whoever handed them over is told (``failed``).

Limits: ``NEIGHBOURS`` entries; when full, the longest unheard of eight in turn goes. An entry unheard for
``AGE`` goes. ``PENDING`` addresses are asked for at once.
Timers: retries and ageing, by ``next_deadline``/``run``.

Ref: RFC 1122 2.3.2; RFC 4861 7.2.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from ..wire.ipv4 import ETH_SRC, NO_MAC

SECOND = 1_000_000_000
NEIGHBOURS = 1024
PENDING = 64
HOLD = 4
TRIES = 3
RETRY = SECOND // 3
AGE = 1200 * SECOND
SWEEP = 60 * SECOND

Failed = Callable[[list[bytes], int], None]


class Neighbour:
    """One address on the VLAN. ``mac`` is ``NO_MAC`` until somebody has answered."""

    __slots__ = ("address", "heard", "mac", "mtu", "used", "waiting")

    def __init__(self, address: bytes, mac: bytes, now: int) -> None:
        self.address = address
        self.mac = mac
        self.heard = now
        self.used = False  # frames went there since it was last looked at (IPv6 only)
        self.mtu = 0  # what it said that its way carries; 0: all that the VLAN does
        self.waiting: Waiting | None = None


class Waiting:
    """Frames for an address that is being asked for."""

    __slots__ = ("deadline", "failed", "frames", "tries")

    def __init__(self, deadline: int, failed: Failed | None) -> None:
        self.frames: list[tuple[bytes, bytes]] = []
        self.deadline = deadline
        self.tries = 1
        self.failed = failed


class Neighbours:
    """The table. ``send(frame, vnet)`` puts a frame on the VLAN; ``count(reason)`` counts what goes wrong.

    A protocol says how to ask (``query``), what may be learnt (``learnable``), and how its counters begin."""

    counter = ""
    own: tuple[bytes, ...] = ()  # addresses of ours

    def __init__(self, send: Callable[[bytes, bytes], bool], count: Callable[[str], None], now: int) -> None:
        self.table: dict[bytes, Neighbour] = {}
        self._send = send
        self._count = count
        self._asked: dict[bytes, Neighbour] = {}
        self._sweep = now + SWEEP

    def query(self, address: bytes) -> None:
        """Ask everybody who has an address."""
        raise NotImplementedError

    def learnable(self, address: bytes) -> bool:
        """Whether a station may have that address."""
        raise NotImplementedError

    # ---- who is there --------------------------------------------------------------------------------------

    def learn(self, address: bytes, mac: bytes, now: int) -> Neighbour | None:
        """``mac`` was seen to use ``address``. None: such an address is not learnt."""
        entry = self.table.get(address)
        if entry is not None:
            entry.heard = now
            if entry.mac != mac:
                if mac[0] & 1 or mac == NO_MAC:
                    return None
                if entry.mac != NO_MAC:
                    self._count("neighbour_moved")
                entry.mac = mac
                if entry.waiting is not None:
                    self._answered(entry)
            return entry
        if mac[0] & 1 or mac == NO_MAC or not self.learnable(address):
            return None
        return self._new(address, mac, now)

    def _new(self, address: bytes, mac: bytes, now: int) -> Neighbour:
        table = self.table
        if len(table) >= NEIGHBOURS:
            sample = list(islice(table.values(), 8))
            victim = min(sample, key=lambda entry: entry.heard)
            for entry in sample:  # round robin: the survivors go to the end
                del table[entry.address]
                if entry is not victim:
                    table[entry.address] = entry
            self._asked.pop(victim.address, None)
            self._count("neighbour_evicted")
        entry = table[address] = Neighbour(address, mac, now)
        return entry

    # ---- frames out ----------------------------------------------------------------------------------------

    def lookup(self, address: bytes, now: int) -> Neighbour:
        """The entry of ``address``; where there is none, one that has no MAC yet (``hold`` asks for it)."""
        return self.table.get(address) or self._new(address, NO_MAC, now)

    def hold(self, address: bytes, frame: bytes, vnet: bytes, now: int, failed: Failed | None = None) -> None:
        """Keep ``frame``, whose destination MAC is a placeholder, until ``address`` has answered.

        ``failed(frames, now)`` is called with the frames that could not be delivered.
        """
        entry = self.lookup(address, now)
        if entry.mac != NO_MAC:
            self._send(entry.mac + frame[ETH_SRC:], vnet)
            return
        waiting = self._ask(entry, now, failed)
        if waiting is None:
            return
        if len(waiting.frames) >= HOLD:
            self._count(f"{self.counter}_hold_full")
            return
        waiting.frames.append((frame, vnet))

    def known(self, address: bytes, now: int) -> bool:
        """Whether somebody has the address; if that is not known, ask, so that a later call knows."""
        entry = self.lookup(address, now)
        if entry.mac != NO_MAC:
            return True
        self._ask(entry, now, None)
        return False

    def _ask(self, entry: Neighbour, now: int, failed: Failed | None) -> Waiting | None:
        """Ask for an address, or go on asking; None: too many are asked for."""
        waiting = entry.waiting
        if waiting is None:
            if len(self._asked) >= PENDING:
                self._count(f"{self.counter}_pending_full")
                return None
            waiting = entry.waiting = Waiting(now + RETRY, failed)
            self._asked[entry.address] = entry
            self.query(entry.address)
        return waiting

    def _answered(self, entry: Neighbour) -> None:
        waiting = entry.waiting
        entry.waiting = None
        self._asked.pop(entry.address, None)
        if waiting is not None:
            for frame, vnet in waiting.frames:
                self._send(entry.mac + frame[ETH_SRC:], vnet)

    # ---- time ----------------------------------------------------------------------------------------------

    def next_deadline(self) -> int:
        """When ``run`` has something to do."""
        deadline = self._sweep
        for entry in self._asked.values():
            waiting = entry.waiting
            if waiting is not None and waiting.deadline < deadline:
                deadline = waiting.deadline
        return deadline

    def run(self, now: int) -> None:
        """Ask again, give up, age."""
        for entry in list(self._asked.values()):
            waiting = entry.waiting
            if waiting is None or waiting.deadline > now:
                continue
            if waiting.tries < TRIES:
                waiting.tries += 1
                waiting.deadline = now + RETRY
                self.query(entry.address)
                continue
            entry.waiting = None
            del self._asked[entry.address]
            self.table.pop(entry.address, None)
            self._count(f"{self.counter}_unanswered")
            if waiting.failed is not None:
                waiting.failed([frame for frame, _ in waiting.frames], now)
        if now >= self._sweep:
            self._sweep = now + SWEEP
            for entry in [e for e in self.table.values() if now - e.heard > AGE]:
                if entry.waiting is None:
                    del self.table[entry.address]
