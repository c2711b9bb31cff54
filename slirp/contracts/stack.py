"""This module holds the contracts between the stack and the parts of the NAT, in both directions.

``slirp.stack`` implements ``Below`` and ``Network``; every part with timers is ``Timed``; a UDP service of
ours is a ``Service``.
"""

from __future__ import annotations

from typing import Protocol

from .host import Address


class Below(Protocol):
    """The services that IP needs from the stack."""

    features: int
    now: int

    def emit(self, frame: bytes, vnet: bytes) -> bool:
        """Put a frame on the VLAN, or queue it. False means that it was dropped and counted."""

    def count(self, reason: str) -> None:
        """Count one event under its reason."""


class Network(Protocol):
    """The services that flows need from the stack."""

    now: int

    def udp_target(self, dst: bytes, port: int) -> Address | None:
        """Return where a guest's datagram goes on the host; None refuses it, and ``BLOCKED`` means
        prohibited.
        """

    def seen_as(self, address: str) -> bytes | None:
        """Return the address by which guests see a host address, or None if they must not see it."""

    def count(self, reason: str) -> None:
        """Count one event under its reason."""


class Timed(Protocol):
    """A part of the stack that has timers."""

    def next_deadline(self) -> int | None:
        """Return the time at which ``run`` has something to do; None if there is none."""

    def run(self, now: int) -> None:
        """Act on every timer that is due at ``now``."""


class Service(Protocol):
    """A UDP service of the stack itself (DHCP, DNS, TFTP and its sessions)."""

    def input(self, frame: bytes, off: int, end: int, src: bytes, sport: int, dst: bytes, now: int) -> None:
        """Take a checked datagram whose payload is ``frame[off:end]``."""
