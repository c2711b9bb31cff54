"""ARP: who on the VLAN has which IPv4 address, and our own answers.

What it does
* answers requests (and probes, RFC 5227) for the addresses that are ours, each with its own MAC 52:55 +
  address;
* learns a guest from any valid IPv4 or ARP frame that it sends, and addresses outside the net too, from IPv4 frames
  only: the way back to networks behind a guest that routes;
* asks for an address that a frame has to go to (see ``neighbours.py`` for the table, its limits and timers);
* defends an own address that a guest announces as its own (RFC 5227 2.4), at most once per ``DEFEND``.

It never learns own, broadcast, multicast or unspecified addresses, nor a group MAC.

Ref: RFC 826; RFC 5227; RFC 1122 2.3.2.
"""

from __future__ import annotations

from collections.abc import Callable

from ..wire.ipv4 import (
    ARP,
    ARP_LEN,
    ARP_REPLY,
    ARP_REQUEST,
    BROADCAST_MAC,
    ETH_LEN,
    NO_MAC,
    TYPE_ARP,
    is_multicast_or_broadcast,
    own_mac,
)
from .neighbours import Neighbours

SECOND = 1_000_000_000
DEFEND = 10 * SECOND
FRAME_MIN = 60


class Arp(Neighbours):
    """The IPv4 neighbours. ``send(frame, vnet)`` puts a frame on the VLAN; ``own`` are our addresses, the
    first asks.

    ``inside(address)`` says whether an address belongs to the net; ``count(reason)`` counts what goes wrong.
    """

    counter = "arp"

    def __init__(
        self,
        own: tuple[bytes, ...],
        inside: Callable[[bytes], bool],
        reserved: frozenset[bytes],
        send: Callable[[bytes, bytes], bool],
        count: Callable[[str], None],
        now: int,
    ) -> None:
        super().__init__(send, count, now)
        self.own = own
        self._reserved = reserved | frozenset(own)
        self._inside = inside
        self._defended = now - DEFEND

    def adopt(self, address: bytes) -> None:
        """One more is ours."""
        self.own += (address,)
        self._reserved |= {address}
        self.table.pop(address, None)
        self._emit(ARP_REQUEST, address, BROADCAST_MAC, NO_MAC, address)

    def abandon(self, address: bytes) -> None:
        """One less."""
        self.own = tuple(own for own in self.own if own != address)
        self._reserved -= {address}

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

    def learnable(self, address: bytes) -> bool:
        """Neither ours nor anything that no host has."""
        return not (address in self._reserved or is_multicast_or_broadcast(address) or address[0] in (0, 127))

    def _conflict(self, address: bytes, now: int) -> None:
        self._count("arp_conflict")
        if now - self._defended >= DEFEND:
            self._defended = now
            self._emit(ARP_REQUEST, address, BROADCAST_MAC, NO_MAC, address)

    # ---- frames out ----------------------------------------------------------------------------------------

    def query(self, address: bytes) -> None:
        """Ask everybody."""
        self._emit(ARP_REQUEST, self.own[0], BROADCAST_MAC, NO_MAC, address)

    def announce(self) -> None:
        """Gratuitous ARP for each own address: after the link came up, so that guests forget a
        predecessor."""
        for address in self.own:
            self._emit(ARP_REQUEST, address, BROADCAST_MAC, NO_MAC, address)

    def _emit(self, operation: int, spa: bytes, to: bytes, tha: bytes, tpa: bytes) -> None:
        mac = own_mac(spa)
        body = ARP.pack(1, 0x0800, 6, 4, operation, mac, spa, tha, tpa)
        self._send((to + mac + TYPE_ARP + body).ljust(FRAME_MIN, b"\0"), b"")
