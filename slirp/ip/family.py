"""IPv4 and IPv6 as the rest of the NAT sees them: one contract, and the choice between the two.

UDP, DNS, TFTP and redirections never see an IP field: they hold addresses of 4 or 16 bytes, and ask the ``Family``
that has such addresses. ``Families`` picks it by the length.
"""

from __future__ import annotations

from typing import Protocol

from ..contracts.link import Path
from .neighbours import Neighbour, Neighbours


class Family(Protocol):
    """IPv4 or IPv6. Error types and codes are those of ICMPv4 in ``error``, and the family's own in all others."""

    family: int
    gateway: bytes
    mtu: int

    @property
    def neighbours(self) -> Neighbours:
        """Who has which address."""

    def inside(self, address: bytes) -> bool:
        """Whether an address belongs to the net."""

    def pseudo(self, frame: bytes, off: int, end: int, protocol: int) -> int:
        """Pseudo header sum of a guest's frame."""

    def path(self, frame: bytes, protocol: int) -> Path:
        """The way back to the sender of a guest's frame."""

    def path_to(self, guest: bytes, remote: bytes, protocol: int) -> Path:
        """The way to ``guest`` for what seems to come from ``remote``."""

    def neighbour(self, guest: bytes) -> Neighbour:
        """Where frames for a guest address go."""

    def datagram(self, to: Neighbour, src: bytes, sport: int, dport: int, payload: bytes) -> bool:
        """Send a UDP datagram to a guest."""

    def segment_limit(self) -> int:
        """The longest payload of a segment of a super-datagram to a guest; 0: the VLAN takes none."""

    def datagrams(self, to: Neighbour, src: bytes, sport: int, dport: int, payload: bytes, size: int) -> bool:
        """Send several UDP datagrams of ``size`` bytes (the last may be shorter) as one super-datagram."""

    def how(self, frame: bytes, ttl: int) -> int:
        """How what a guest's frame carries is to leave the host (``slirp.contracts.host``), with that TTL."""

    def headers(self, frame: bytes, off: int) -> bytes:
        """IP and UDP header of a guest's frame whose UDP header is at ``off``."""

    def error(self, frame: bytes, kind: int, code: int, info: int = 0) -> None:
        """ICMP error from the gateway about a guest's frame."""

    def error_from(
        self, frame: bytes, source: bytes | None, kind: int, code: int, info: int, ttl: int
    ) -> None:
        """ICMP error from ``source`` (None: the gateway) about a guest's frame."""

    def relayed_error(
        self,
        to: Neighbour,
        source: bytes,
        kind: int,
        code: int,
        info: int,
        dst: bytes,
        sport: int,
        dport: int,
        payload: bytes,
        ttl: int = 64,
        head: bytes = b"",
    ) -> None:
        """ICMP error from ``source`` about a guest's datagram; ``head``: the headers of one like it, b"": unknown."""

    def echo_reply(
        self, to: Neighbour, src: bytes, ident: int, seq: int, data: bytes, ttl: int, tos: int
    ) -> bool:
        """Send an echo reply to a guest."""

    def echo_error(
        self, to: Neighbour, source: bytes, kind: int, code: int, info: int, quote: bytes, ttl: int
    ) -> None:
        """ICMP error from ``source`` about an echo request; ``quote``: how the guest's packet began."""


class Families:
    """The families of one stack. ``v6`` None: it has IPv4 only."""

    def __init__(self, v4: Family, v6: Family | None = None) -> None:
        self.v4 = v4
        self.v6 = v6

    @property
    def mtu(self) -> int:
        """Largest IP packet."""
        return self.v4.mtu

    def of(self, address: bytes) -> Family:
        """The family of an address. Raises LookupError: it is off."""
        if len(address) == 4:
            return self.v4
        if self.v6 is None:
            raise LookupError("IPv6 is off")
        return self.v6

    def gateway(self, guest: bytes) -> bytes:
        """Our own address of the same family."""
        return self.of(guest).gateway

    def neighbour(self, guest: bytes) -> Neighbour:
        """Where frames for a guest address go."""
        return self.of(guest).neighbour(guest)

    def datagram(self, to: Neighbour, src: bytes, sport: int, dport: int, payload: bytes) -> bool:
        """Send a UDP datagram to a guest, from an address of the same family."""
        return self.of(src).datagram(to, src, sport, dport, payload)
