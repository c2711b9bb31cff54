"""What the parts of the NAT ask of the stack, and what the stack asks of them.

``slirp.stack`` implements ``Below`` and ``Network``; every part with timers is ``Timed``; a UDP service of ours is a ``Service``.
"""

from __future__ import annotations

from typing import Protocol

from .host import Address


class Below(Protocol):
    """What IP needs of the stack."""

    features: int
    now: int

    def emit(self, frame: bytes, vnet: bytes) -> bool:
        """Put a frame on the VLAN (or queue it); False: dropped, counted."""

    def count(self, reason: str) -> None:
        """Count an event."""


class Network(Protocol):
    """What the flows ask of the stack."""

    now: int

    def udp_target(self, dst: bytes, port: int) -> Address | None:
        """Where a guest's datagram goes on the host; None: refuse it; ``BLOCKED``: prohibited."""

    def seen_as(self, address: str) -> bytes | None:
        """How guests see a host address; None: it is not to be seen."""

    def count(self, reason: str) -> None:
        """Count an event."""


class Timed(Protocol):
    """A part of the stack that has timers."""

    def next_deadline(self) -> int | None:
        """When ``run`` has something to do."""

    def run(self, now: int) -> None:
        """Let timers expire."""


class Service(Protocol):
    """A UDP service of the stack itself (DHCP, DNS, TFTP and its sessions)."""

    def input(self, frame: bytes, off: int, end: int, src: bytes, sport: int, dst: bytes, now: int) -> None:
        """A checked datagram whose payload is ``frame[off:end]``."""
