"""What a user-mode network tells about itself, row by row, and what may be asked of one while it runs.

The monitor prints these rows and a reload compares them; neither needs to know the backend that makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from ...config import GuestForward, HostForward
from ...config import UserNet as UserConfig


class FlowRow(NamedTuple):
    """One flow of a NAT, for ``info usernet``."""

    protocol: str  # TCP, UDP, ICMP
    state: str  # ESTABLISHED, HOST_FORWARD ..., or "12 sec"
    fd: int  # -1: none
    source: str  # numeric address
    source_port: int
    dest: str
    dest_port: int
    recv_queue: int  # bytes held for the host
    send_queue: int  # bytes held for the guest
    idle: float  # seconds


class ForwardRow(NamedTuple):
    """One redirection of a NAT."""

    number: int  # for hostfwd_remove
    forward: HostForward
    port: int  # first of the host, as bound; 0: a UNIX socket


class GuestForwardRow(NamedTuple):
    """One service of a NAT's for guests."""

    number: int  # for guestfwd_remove
    forward: GuestForward
    address: str  # where it answers


class UserNet(Protocol):
    """One NAT."""

    @property
    def name(self) -> str:
        """The backend's name."""

    @property
    def vlan(self) -> int | None:
        """Its VLAN; None on a private wire."""

    def rows(self) -> Iterable[FlowRow]:
        """Its flows, newest first."""

    def filters(self) -> Iterable[Mapping[str, Any]]:
        """Its allow= and deny= list in order: action, text, hits; the last row, text "", is all else. Empty: no list."""

    def reconfigure(self, net: UserConfig) -> bool:
        """Take the keys of ``net`` but for redirections; flows and leases stay. False: that cannot be."""

    def add_forward(self, forward: HostForward) -> int:
        """Redirect; the number of the rule. Raises ValueError with the reason."""

    def remove_forward(self, number: int) -> bool:
        """End a redirection; connections that exist go on. False: there is none of that number."""

    def forwards(self) -> Iterable[ForwardRow]:
        """Its redirections, oldest first."""

    def leases(self) -> list[dict[str, Any]]:
        """DHCP leases, JSON-able, by address."""

    def counters(self) -> dict[str, Any]:
        """What it counted, JSON-able."""

    def add_guest_forward(self, forward: GuestForward) -> int:
        """Answer guests; the number of the rule. Raises ValueError with the reason."""

    def remove_guest_forward(self, number: int) -> bool:
        """Answer no more. False: there is none of that number."""

    def guest_forwards(self) -> Iterable[GuestForwardRow]:
        """What answers guests, oldest first."""
