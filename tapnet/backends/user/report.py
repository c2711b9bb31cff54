"""These rows and this protocol describe what a user-mode network reports, and what may be asked of it while
it runs.

The monitor prints these rows and a reload compares them; neither needs to know the backend that makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from ...config import GuestForward, HostForward
from ...config import UserNet as UserConfig


class FlowRow(NamedTuple):
    """This row is one flow of a NAT, for ``info usernet``."""

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
    """This row is one redirection of a NAT."""

    number: int  # for hostfwd_remove
    forward: HostForward
    port: int  # the host's first port, as bound; 0: a UNIX socket


class GuestForwardRow(NamedTuple):
    """This row is one service of a NAT for guests."""

    number: int  # for guestfwd_remove
    forward: GuestForward
    address: str  # the address at which it answers


class UserNet(Protocol):
    """A user-mode network is one NAT that can report and be changed while it runs."""

    @property
    def name(self) -> str:
        """Return the name of the backend."""

    @property
    def vlan(self) -> int | None:
        """Return the number of the VLAN; None if the NAT is on a private wire."""

    def rows(self) -> Iterable[FlowRow]:
        """Return the flows of the NAT, newest first."""

    def filters(self) -> Iterable[Mapping[str, Any]]:
        """Return the allow= and deny= rules in order: action, text, hits; the last row, text "", is all other
        traffic. Empty if there are no rules.
        """

    def reconfigure(self, net: UserConfig) -> bool:
        """Take over the keys of ``net``, except redirections; flows and leases stay. False means that this is
        not possible.
        """

    def add_forward(self, forward: HostForward) -> int:
        """Add a redirection, and return the number of the rule. Raises ValueError with the reason."""

    def remove_forward(self, number: int) -> bool:
        """End a redirection; connections that exist go on. False means that there is no rule of that number."""

    def forwards(self) -> Iterable[ForwardRow]:
        """Return the redirections of the NAT, oldest first."""

    def leases(self) -> list[dict[str, Any]]:
        """Return the DHCP leases, JSON-able, sorted by address."""

    def counters(self) -> dict[str, Any]:
        """Return the counters of the NAT, JSON-able."""

    def add_guest_forward(self, forward: GuestForward) -> int:
        """Answer guests by a service, and return the number of the rule. Raises ValueError with the reason."""

    def remove_guest_forward(self, number: int) -> bool:
        """Stop answering guests by a service. False means that there is no rule of that number."""

    def guest_forwards(self) -> Iterable[GuestForwardRow]:
        """Return the services that answer guests, oldest first."""
