"""ARP: who on the VLAN has which IPv4 address, and our own answers.

What it does
* answers requests (and probes, RFC 5227) for the addresses that are ours, each with its own MAC 52:55 +
  address;
* learns a guest from any valid IPv4 or ARP frame that it sends; a guest that moves to another MAC is
  followed at once, also by flows that exist: they hold the ``Neighbour`` itself, not a copy of its MAC;
* learns addresses outside the net too, from IPv4 frames only: the way back to networks behind a guest that
  routes;
* asks for an address that a frame has to go to, ``TRIES`` times a second apart, and keeps up to ``HOLD``
  frames for it meanwhile; nobody answers: they are dropped, and whoever handed them over is told
  (``failed``);
* defends an own address that a guest announces as its own (RFC 5227 2.4), at most once per ``DEFEND``.

It never learns own, broadcast, multicast or unspecified addresses, nor a group MAC.

Limits: ``NEIGHBOURS`` entries; when full, the longest unheard of eight in turn goes. An entry unheard for
``AGE`` goes. ``PENDING`` addresses are asked for at once.
Timers: retries and ageing, by ``next_deadline``/``run``.

Ref: RFC 826; RFC 5227; RFC 1122 2.3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from .wire import (
    ARP,
    ARP_LEN,
    ARP_REPLY,
    ARP_REQUEST,
    BROADCAST_MAC,
    ETH_LEN,
    ETH_SRC,
    NO_MAC,
    TYPE_ARP,
    is_multicast_or_broadcast,
    own_mac,
)

SECOND = 1_000_000_000
NEIGHBOURS = 1024
PENDING = 64
HOLD = 4
TRIES = 3
RETRY = SECOND // 3
AGE = 1200 * SECOND
SWEEP = 60 * SECOND
DEFEND = 10 * SECOND
FRAME_MIN = 60

Failed = Callable[[list[bytes], int], None]


class Neighbour:
    """One address on the VLAN. ``mac`` is ``NO_MAC`` until somebody has answered."""

    __slots__ = ("address", "heard", "mac", "waiting")

    def __init__(self, address: bytes, mac: bytes, now: int) -> None:
        self.address = address
        self.mac = mac
        self.heard = now
        self.waiting: Waiting | None = None


class Waiting:
    """Frames for an address that is being asked for."""

    __slots__ = ("deadline", "failed", "frames", "tries")

    def __init__(self, deadline: int, failed: Failed | None) -> None:
        self.frames: list[tuple[bytes, bytes]] = []
        self.deadline = deadline
        self.tries = 1
        self.failed = failed


class Arp:
    """The neighbour table. ``send(frame, vnet)`` puts a frame on the VLAN; ``own`` are our addresses, the
    first asks.

    ``inside(address)`` says whether an address belongs to the net; ``count(reason)`` counts what goes wrong.
    """

    def __init__(
        self,
        own: tuple[bytes, ...],
        inside: Callable[[bytes], bool],
        reserved: frozenset[bytes],
        send: Callable[[bytes, bytes], bool],
        count: Callable[[str], None],
        now: int,
    ) -> None:
        self.own = own
        self.table: dict[bytes, Neighbour] = {}
        self._reserved = reserved | frozenset(own)
        self._inside = inside
        self._send = send
        self._count = count
        self._asked: dict[bytes, Neighbour] = {}
        self._sweep = now + SWEEP
        self._defended = now - DEFEND

    # ---- frames in -----------------------------------------------------------------------------------------

    def input(self, frame: bytes, now: int) -> None:
        """One ARP frame from the VLAN."""
        if len(frame) < ETH_LEN + ARP_LEN:
            self._count("arp_malformed")
            return
        hardware, protocol, hlen, plen, operation, sha, spa, _, tpa = ARP.unpack_from(frame, ETH_LEN)
        if hardware != 1 or protocol != 0x0800 or hlen != 6 or plen != 4:
            self._count("arp_malformed")
            return
        if operation not in (ARP_REQUEST, ARP_REPLY) or sha[0] & 1 or sha == NO_MAC:
            self._count("arp_malformed")
            return
        if spa in self.own:
            self._conflict(spa, now)
            return
        if self._inside(spa):
            if operation == ARP_REQUEST or tpa == spa or tpa in self.own or spa in self.table:
                self.learn(spa, sha, now)
        elif spa != b"\0\0\0\0":
            self._count("arp_foreign")
        if operation == ARP_REQUEST and tpa in self.own and spa != tpa:
            self._emit(ARP_REPLY, tpa, sha, sha, spa)

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
        if (
            mac[0] & 1
            or mac == NO_MAC
            or address in self._reserved
            or is_multicast_or_broadcast(address)
            or address[0] in (0, 127)
        ):
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

    def _conflict(self, address: bytes, now: int) -> None:
        self._count("arp_conflict")
        if now - self._defended >= DEFEND:
            self._defended = now
            self._emit(ARP_REQUEST, address, BROADCAST_MAC, NO_MAC, address)

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
            self._count("arp_hold_full")
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
                self._count("arp_pending_full")
                return None
            waiting = entry.waiting = Waiting(now + RETRY, failed)
            self._asked[entry.address] = entry
            self._emit(ARP_REQUEST, self.own[0], BROADCAST_MAC, NO_MAC, entry.address)
        return waiting

    def _answered(self, entry: Neighbour) -> None:
        waiting = entry.waiting
        entry.waiting = None
        self._asked.pop(entry.address, None)
        if waiting is not None:
            for frame, vnet in waiting.frames:
                self._send(entry.mac + frame[ETH_SRC:], vnet)

    def announce(self) -> None:
        """Gratuitous ARP for each own address: after the link came up, so that guests forget a
        predecessor."""
        for address in self.own:
            self._emit(ARP_REQUEST, address, BROADCAST_MAC, NO_MAC, address)

    def _emit(self, operation: int, spa: bytes, to: bytes, tha: bytes, tpa: bytes) -> None:
        mac = own_mac(spa)
        body = ARP.pack(1, 0x0800, 6, 4, operation, mac, spa, tha, tpa)
        self._send((to + mac + TYPE_ARP + body).ljust(FRAME_MIN, b"\0"), b"")

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
                self._emit(ARP_REQUEST, self.own[0], BROADCAST_MAC, NO_MAC, entry.address)
                continue
            entry.waiting = None
            del self._asked[entry.address]
            self.table.pop(entry.address, None)
            self._count("arp_unanswered")
            if waiting.failed is not None:
                waiting.failed([frame for frame, _ in waiting.frames], now)
        if now >= self._sweep:
            self._sweep = now + SWEEP
            for entry in [e for e in self.table.values() if now - e.heard > AGE]:
                if entry.waiting is None:
                    del self.table[entry.address]
