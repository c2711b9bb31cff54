"""What is plugged where: the members of a VLAN or of a private wire, as monitors see them.

A ``Member`` is a backend, a NIC, or a connection that a listening backend took in; it owns everything that was opened
for it (``undo``). A ``Place`` is a hub and the list of its members. A member's clients follow it from place to place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ..config import Net, Nic
from .addresses import AddressTable
from .events import PORT_ADDED, PORT_REMOVED, Events
from .hub import Hub
from .port import Port

BACKEND, NIC, ACCEPTED = "backend", "nic", "accepted"  # kinds of members


@dataclass(eq=False)
class Member:
    """A device as ``info network`` shows it.

    what    the configuration that it was made of; None: an accepted connection
    finish  behind all of ``undo``; may block, may run in a thread
    backend what is behind it: ``export`` and ``listening`` are for a restart
    blink   of a card: seconds without link until its guest notices; 0: it never does
    where   where a card sits, for ``info cards``
    events  what the card counted by itself, by reason
    """

    name: str
    kind: str
    describe: Callable[[], str]
    port: Port | None
    undo: list[Callable[[], None]] = field(default_factory=list)  # last made last
    finish: Callable[[], None] | None = None
    events: Callable[[], Mapping[str, int]] | None = None
    backend: object = None
    what: Net | Nic | None = None
    where: Callable[[], str] | None = None
    card: object | None = None
    blink: float = 0
    place: Place | None = None
    clients: dict[Port, Member] = field(default_factory=dict)

    @property
    def info(self) -> str:
        """QEMU 0.8's words."""
        return self.describe()

    @property
    def net(self) -> Net | None:
        """The backend's configuration."""
        return self.what if isinstance(self.what, Net) else None

    def close(self) -> None:
        """Give back what belongs to it. Idempotent."""
        self.detach()
        if self.finish is not None:
            self.finish()

    def detach(self) -> None:
        """All of ``close`` that does not block; ``finish`` is left. Idempotent."""
        while self.undo:
            with contextlib.suppress(OSError):
                self.undo.pop()()


@dataclass(eq=False)
class Place:
    """Where members are plugged: a hub, and the list that monitors see."""

    hub: Hub
    members: list[Member]
    events: Events

    def plug(self, member: Member) -> None:
        """Raises ValueError if the hub has a port of that name."""
        if member.port is not None:
            self.hub.add(member.port)
        self.members.append(member)
        member.place = self
        self.events.emit(PORT_ADDED, name=member.name, kind=member.kind, vlan=self.vlan)

    def unplug(self, member: Member) -> None:
        """Idempotent."""
        if member in self.members:
            self.members.remove(member)
            member.place = None
            self.events.emit(PORT_REMOVED, name=member.name, kind=member.kind, vlan=self.vlan)
        if member.port is not None and member.port.vlan is self.hub:
            self.hub.remove(member.port)

    @property
    def vlan(self) -> int | None:
        """Its number; None: a private wire."""
        return None if self.hub.private else self.hub.number


class Patchbay:
    """All places of an instance. ``schedule`` is the loop's call_soon, ``now()`` in ns, ``switches`` the VLANs that learn
    addresses."""

    def __init__(
        self,
        schedule: Callable[[Callable[[], None]], object],
        events: Events,
        now: Callable[[], int],
        switches: Iterable[int] = (),
    ) -> None:
        self.vlans: dict[int, Place] = {}
        self.wires: list[Place] = []  # private pairs
        self._schedule = schedule
        self._events = events
        self._now = now
        self.switches = set(switches)

    def switch(self, number: int, on: bool) -> None:
        """Make a VLAN a switch, or a repeater; one that there is not yet will be."""
        (self.switches.add if on else self.switches.discard)(number)
        place = self.vlans.get(number)
        if place is not None and (place.hub.table is not None) != on:
            place.hub.switch(AddressTable(self._now) if on else None)

    def vlan(self, number: int) -> Place:
        """VLAN ``number``, made if it is new."""
        if number not in self.vlans:
            hub = Hub(number, self._schedule)
            if number in self.switches:
                hub.switch(AddressTable(self._now))
            self.vlans[number] = Place(hub, [], self._events)
        return self.vlans[number]

    def wire(self) -> Place:
        """A new private wire."""
        place = Place(Hub(-1, self._schedule, private=True), [], self._events)
        self.wires.append(place)
        return place

    def places(self) -> list[Place]:
        """VLANs, then private wires."""
        return [*self.vlans.values(), *self.wires]

    def hubs(self) -> list[Hub]:
        """The hubs of all places."""
        return [place.hub for place in self.places()]

    def members(self) -> list[Member]:
        """Everything that is plugged in."""
        return [member for place in self.places() for member in place.members]

    def find(self, name: str, kind: str | None = None) -> Member | None:
        """The member of that name; of any kind but an accepted connection, by default."""
        for member in self.members():
            if member.name == name and (member.kind == kind if kind else member.kind != ACCEPTED):
                return member
        return None

    def plug(self, member: Member, place: Place) -> None:
        """Plug in, where nothing may be any more. Raises ValueError."""
        if place.vlan is not None:
            self.vlans.setdefault(place.vlan, place)
        elif place not in self.wires:
            self.wires.append(place)
        place.plug(member)

    def tidy(self) -> None:
        """Forget places without members, but for VLANs that somebody watches."""
        self.wires = [place for place in self.wires if place.members]
        empty = [n for n, place in self.vlans.items() if not place.members and not place.hub.traces]
        for number in empty:
            del self.vlans[number]

    def move(self, member: Member, vlan: int | None) -> None:
        """Unplug a member and its clients, and plug them in elsewhere: a VLAN, or a private wire of its own.
        Connections stay. Raises ValueError for a name that is taken there; nothing has moved then.
        """
        to = self.wire() if vlan is None else self.vlan(vlan)
        moving = [member, *member.clients.values()]
        there = {port.name for port in to.hub.ports}
        try:
            for one in moving:
                if one.port is not None and one.port.name in there:
                    raise ValueError(f"port {one.port.name} is plugged already")
            for one in moving:
                if one.place is not None:
                    one.place.unplug(one)
                to.plug(one)
        finally:
            self.tidy()


def waits(members: list[Member], label: str | None) -> bool:
    """Whether a card of these names netdev ``label`` and has no backend."""
    return (
        label is not None
        and all(member.kind == NIC for member in members)
        and any(isinstance(member.what, Nic) and member.what.netdev == label for member in members)
    )


def holds(members: list[Member], label: str) -> bool:
    """Whether netdev ``label`` is among these."""
    return any(isinstance(member.what, Net) and member.what.id == label for member in members)


def cables(place: Place, up: bool) -> None:
    """Plug or pull the cables of the cards of a private wire."""
    for member in place.members:
        if member.kind == NIC and member.port is not None:
            member.port.set_link(up)
