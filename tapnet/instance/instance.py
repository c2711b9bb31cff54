"""From a configuration to wired objects: the only file that knows every class.

What must happen before there is a loop is in ``tapnet.guest.prepare``. Then, on the loop, ``Instance(config, prepared, ...)``
makes hubs, machine, cards, drivers and backends, and ``start`` lets frames flow.

An ``Instance`` is what monitors see (``tapnet.monitor.commands.control.Instance``). ``close`` gives everything back, in the
reverse order, and is idempotent; a failure on the way up closes what had been opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import replace

from nic_models.bus.machine import Machine

from ..backends.sockets import wires
from ..backends.sockets.address import peer_address
from ..backends.user.backend import UserBackend
from ..capture.captures import CaptureError, Captures
from ..capture.tracing import Tracer
from ..config import Config, Filter, Impairment, Net, Nic, TapNet, UserNet, VxlanNet
from ..errors import BuildError
from ..guest.cards import Cards
from ..guest.clock import Clock
from ..guest.namespace.guest import NamespaceGuest
from ..guest.prepare import Prepared
from ..guest.qtest.bus import RegisterBus
from ..vlan import faults
from ..vlan.events import CONNECTED, DISCONNECTED, Events
from ..vlan.handover import Handed, Handover, fingerprint
from ..vlan.hub import Hub
from ..vlan.patchbay import ACCEPTED, BACKEND, NIC, Member, Patchbay, Place, cables, holds, waits
from ..vlan.port import Port
from .filterwatch import FilterWatch
from .live import Live
from .swap import Swap

# TCP states in which a guest's side has not been closed by its end: its kernel still sends
UNFINISHED = frozenset(("SYN_RECEIVED", "ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2"))


class Instance:
    """A running tapnet."""

    def __init__(
        self,
        config: Config,
        prepared: Prepared,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], int],
        shutdown: Callable[[], None],
        clock: Clock | None = None,
        wall: Callable[[], float] = lambda: 0.0,
        handed: Handed | None = None,
    ) -> None:
        """Wire everything; nothing runs before ``start``. Raises BuildError.

        now     real time, ns
        wall    seconds since 1970, for events
        clock   the machine's time; None: one on ``now``
        handed  what the process before a restart left
        """
        self.config = config
        self.name = config.name or str(os.getpid())
        self.pid = os.getpid()
        self.mode = config.mode
        self.status = "running"
        self.shutdown = shutdown
        self.usernets: list[UserBackend] = []
        self.parked: list[Net] = []  # kept out by the mode
        self.prepared = prepared
        self.events = Events(wall)
        try:
            self.tracer = Tracer(
                config.log_file, lambda: [place.hub for place in self.patchbay.vlans.values()]
            )
        except OSError as error:
            raise BuildError(f"-D {config.log_file}: {error.strerror}") from None
        self.cards = Cards(loop, config, prepared, now, clock or Clock(now))
        self.patchbay = Patchbay(loop.call_soon, self.events, now, config.switches)
        self.live = Live(self)
        self.swap = Swap(self, loop, now)
        self._loop = loop
        self._now = now
        self._handed = handed or Handed({})
        self._starters: list[Callable[[], None]] = []
        self.captures = Captures(loop)
        self.filter_watch = FilterWatch(loop, self.events, self.patchbay.members)
        self._closers: list[Callable[[], None]] = [
            prepared.close,
            self.captures.close,
            self.swap.close,
            self.filter_watch.close,
            self.tracer.close,
        ]
        try:
            self._wire()
            self.tracer.set(config.log_items)
        except BaseException:
            self.close()
            raise

    # ---- wiring --------------------------------------------------------------------------------------------

    def _wire(self) -> None:
        config = self.config
        for number in config.vlans:
            self.patchbay.vlan(number)
        for wire in config.wires:
            place = self.patchbay.wire()
            for side in (wire.nic, wire.net):
                if side is not None:
                    self._join(side, place)
        for member in config.members:
            if member.vlan is not None:
                self._join(member, self.patchbay.vlan(member.vlan))
        for wanted in config.filters:
            self._filter(wanted)
        if config.qtest is not None:
            self.cards.serve_bus(self.patchbay.hubs)

    def all_hubs(self) -> list[Hub]:
        """Of the VLANs and of the private wires."""
        return self.patchbay.hubs()

    @property
    def vlans(self) -> dict[int, list[Member]]:
        """VLAN number -> its members in option order."""
        return {number: place.members for number, place in self.patchbay.vlans.items()}

    @property
    def hubs(self) -> dict[int, Hub]:
        """VLAN number -> its hub."""
        return {number: place.hub for number, place in self.patchbay.vlans.items()}

    @property
    def wires(self) -> list[list[Member]]:
        """Private pairs."""
        return [place.members for place in self.patchbay.wires]

    @property
    def machine(self) -> Machine | None:
        """The bus that cards sit on; None: there is none yet."""
        return self.cards.machine

    @property
    def register_bus(self) -> RegisterBus | None:
        """For -qtest."""
        return self.cards.register_bus

    def place(self, number: int) -> Place:
        """A VLAN that there is."""
        return self.patchbay.vlans[number]

    def _join(self, what: Nic | Net, place: Place) -> None:
        """Make a member and plug it, unless --mode keeps it out."""
        if isinstance(what, Net) and not what.plugged:
            self.parked.append(replace(what, plugged=True))
            return
        member, starters = self.make(what, place)
        self._starters += starters
        self.plug(member, what, place)

    def make(
        self, what: Nic | Net, place: Place, opened: object = None
    ) -> tuple[Member, list[Callable[[], None]]]:
        """A member that is not plugged yet, and what starts it then. Raises BuildError; nothing is left.

        opened  what was opened for it already (an ``OpenTap``)
        """
        made, started = len(self._closers), len(self._starters)
        try:
            if isinstance(what, Nic):
                member = self.cards.make(what, self._closers, self._starters)
            else:
                member = self._net(what, place, opened)
        except BaseException:
            while len(self._closers) > made:
                self._closers.pop()()
            raise
        member.what = what
        member.undo, self._closers[made:] = self._closers[made:], []  # these end with the member from now on
        starters, self._starters[started:] = self._starters[started:], []
        return member, starters

    def plug(self, member: Member, what: Nic | Net, place: Place) -> None:
        """Put a member in its place, for the time of the instance. Raises BuildError; it is closed then."""
        self._closers.append(member.close)
        try:
            self.patchbay.plug(member, place)
        except ValueError as error:
            self.drop(member)
            raise BuildError(f"{what.origin}: {error}") from None
        member.undo.append(lambda: member.place.unplug(member) if member.place is not None else None)
        if what.impair is not None and member.port is not None:
            faults.impair(member.port, what.impair, self._loop, self._now)

    def forget(self, member: Member) -> None:
        """A member is no longer the instance's: the caller closes it."""
        self._closers.remove(member.close)
        if member.kind == BACKEND:
            self.usernets = [user for user in self.usernets if user.name != member.name]

    def drop(self, member: Member) -> None:
        """End a member."""
        self.forget(member)
        member.close()

    # ---- while it runs -------------------------------------------------------------------------------------

    def add_net(self, net: Net, opened: object = None) -> Member:
        """Plug a backend in; frames flow at once. Raises BuildError; nothing of it is left then. ``opened``: see ``make``.

        It goes to its VLAN, which is made if it is new; without one to the card that waits for a backend of that id,
        whose cable is plugged in again; else to a private wire of its own.
        """
        if self.patchbay.find(net.name) is not None:
            raise BuildError(f"{net.origin}: name={net.name}: exists already")
        if net.vlan is not None:
            return self._add(net, self.patchbay.vlan(net.vlan), opened)
        waiting = next((place for place in self.patchbay.wires if waits(place.members, net.id)), None)
        member = self._add(net, waiting or self.patchbay.wire(), opened)
        if waiting is not None:
            cables(waiting, True)
        return member

    def remove_net(self, name: str) -> bool:
        """Unplug a backend and give everything back that it had. False: there is none of that name."""
        member = self.take_net(name)
        if member is None:
            return False
        member.close()
        return True

    def take_net(self, name: str) -> Member | None:
        """The same, but for what may block: ``finish`` of the member that is answered.

        On a private wire its card sees the cable go.
        """
        member = self.patchbay.find(name, BACKEND)
        if member is None:
            return None
        place = member.place
        self.forget(member)
        member.detach()
        if place is not None and place.vlan is None:
            cables(place, False)
        self.patchbay.tidy()
        return member

    def add_nic(self, nic: Nic, guest: NamespaceGuest | None = None) -> Member:
        """Plug a card in, and its driver if ``guest`` is the namespace for it. Raises BuildError; nothing of it is left
        then, the guest has ended.

        It goes to its VLAN, to the private wire of its ``netdev``, or to one of its own.
        """
        if guest is not None:
            self.prepared.attached[nic.name] = guest
        try:
            if self.patchbay.find(nic.name) is not None:
                raise BuildError(f"{nic.origin}: name={nic.name}: exists already")
            if nic.vlan is not None:
                return self._add(nic, self.patchbay.vlan(nic.vlan))
            mine = [p for p in self.patchbay.wires if nic.netdev is not None and holds(p.members, nic.netdev)]
            if nic.netdev is not None and not mine:
                raise BuildError(f"{nic.origin}: netdev={nic.netdev}: there is no such netdev")
            if mine and any(member.kind == NIC for member in mine[0].members):
                raise BuildError(f"{nic.origin}: netdev={nic.netdev}: it has a card already")
            return self._add(nic, mine[0] if mine else self.patchbay.wire())
        except BaseException:
            self.patchbay.tidy()
            if guest is not None and self.prepared.attached.get(nic.name) is guest:
                self.cards.release(nic.name)
            raise

    def remove_nic(self, name: str) -> bool:
        """Pull a card out, its guest's device with it. False: there is none of that name."""
        member = self.patchbay.find(name, NIC)
        if member is None:
            return False
        self.drop(member)
        self.patchbay.tidy()
        return True

    def move(self, member: Member, vlan: int | None) -> None:
        """Plug a member in elsewhere: into a VLAN, or a private wire of its own. Raises BuildError."""
        try:
            self.patchbay.move(member, vlan)
        except ValueError as error:
            raise BuildError(str(error)) from None
        for user in self.usernets:
            if user.name == member.name:
                user.vlan = vlan

    def _add(self, what: Nic | Net, place: Place, opened: object = None) -> Member:
        """Make a member while the instance runs. Raises BuildError; nothing of it is left then."""
        member: Member | None = None
        try:
            member, starters = self.make(what, place, opened)
            self.plug(member, what, place)
            for start in starters:
                start()
            return member
        except BaseException:
            if member is not None and member.close in self._closers:
                self.drop(member)
            self.patchbay.tidy()
            raise

    def _filter(self, wanted: Filter) -> None:
        """Begin a -object filter-dump."""
        if not wanted.status:
            return
        for what in self.config.members:
            if wanted.netdev in (what.id, what.name):
                break
        member = self.patchbay.find(what.name)
        if member is None or member.place is None:  # --mode keeps it out
            return
        try:
            self.captures.filter(member.place.hub, what.name, wanted)
        except CaptureError as error:
            raise BuildError(f"{wanted.origin}: {error}") from None

    async def set_mode(self, mode: str, vlan: int | None = None) -> dict[int, list[Member]]:
        """Swap NAT and TAP of all VLANs, or of one; the backends of that mode. Raises ControlError."""
        return await self.swap.run(mode, vlan)

    def impair(self, port: Port, impairment: Impairment) -> None:
        """Make, or change, the bad cable of a port."""
        faults.impair(port, impairment, self._loop, self._now)

    def busy(self) -> bool:
        """Whether frames are on their way through a hub."""
        return any(hub.busy for hub in self.all_hubs())

    def export(self) -> tuple[list[tuple[str, Handover]], list[int]]:
        """What the next process of a restart gets: nets with their connections, and listening sockets. Only ``close``
        may follow, in the same callback of the loop.
        """
        items, listeners = [], []
        for member in self.patchbay.members():
            export = getattr(member.backend, "export", None)
            if export is not None and member.net is not None:
                handed = export()
                if handed is not None:
                    items.append((fingerprint(member.net), handed))
            listening = getattr(member.backend, "listening", None)
            number = listening() if listening is not None else None
            if number is not None:
                listeners.append(number)
        return items, listeners

    def vlan_of(self, name: str) -> int | None:
        """The VLAN of a port or backend; None: it is on none."""
        place = next((m.place for m in self.patchbay.members() if m.name == name), None)
        return place.vlan if place is not None else None

    def backend(self, name: str) -> Member | None:
        """The backend of that name."""
        return self.patchbay.find(name, BACKEND)

    def _wire_net(self, net: Net, place: Place) -> Member:
        """A backend on sockets: its clients come and go as members of their own."""

        def joined(port: Port, info: str) -> None:
            client = Member(port.name, ACCEPTED, lambda: info, port)
            (made.place or place).plug(client)
            made.clients[port] = client
            if net.impair is not None:
                faults.impair(port, net.impair, self._loop, self._now)
            self.events.emit(
                CONNECTED, netdev_id=port.name, addr=peer_address(info.partition("connection from ")[2])
            )

        def left(port: Port) -> None:
            client = made.clients.pop(port)
            if client.place is not None:
                client.place.unplug(client)
            self.events.emit(DISCONNECTED, netdev_id=port.name)

        def told(up: bool, peer: str) -> None:
            name = net.id or net.name
            if up:
                self.events.emit(CONNECTED, netdev_id=name, addr=peer_address(peer))
            else:
                self.events.emit(DISCONNECTED, netdev_id=name)

        try:
            wire = wires.open_wire(net, self._loop, joined, left, told)
        except wires.WireError as error:
            raise BuildError(str(error)) from None
        self._starters.append(wire.start)
        self._closers.append(wire.close)
        made = Member(net.name, BACKEND, wire.info_line, wire.port, backend=wire)
        handed = self._handed.take(net)
        if handed is not None:
            wire.adopt(handed)  # type: ignore[attr-defined]  # it is there where export is
        return made

    def _net(self, net: Net, place: Place, opened: object = None) -> Member:
        if isinstance(net, UserNet):
            try:
                whole = replace(net, mtu=self._mtu(net, place))
                user = UserBackend(whole, self._loop, clock=self._now, runas=self.config.runas)
            except ValueError as error:
                raise BuildError(f"{net.origin}: {error}") from None
            self.usernets.append(user)
            self.tracer.add(user)
            self._closers.append(lambda: self.tracer.remove(user))
            self._starters.append(user.start)
            self._closers.append(user.close)
            return Member(net.name, BACKEND, user.info_line, user.port, backend=user)
        if isinstance(net, TapNet):
            from ..backends.tap.backend import OpenTap, TapBackend, TapError

            handed = self._handed.take(net)
            try:
                tap = (
                    TapBackend.adopt(net, self._loop, handed)
                    if handed
                    else TapBackend(net, self._loop, opened if isinstance(opened, OpenTap) else None)
                )
            except TapError as error:
                raise BuildError(f"{net.origin}: {error}") from None
            self._starters.append(tap.start)
            self._closers.append(tap.detach)
            return Member(net.name, BACKEND, tap.info_line, tap.port, finish=tap.finish, backend=tap)
        if isinstance(net, VxlanNet):
            from ..backends.tap.vxlan import TapError, VxlanBackend, VxlanError

            try:
                vxlan = VxlanBackend(net, self._loop)
            except (VxlanError, TapError) as error:
                raise BuildError(f"{net.origin}: {error}") from None
            self._starters.append(vxlan.start)
            self._closers.append(vxlan.detach)
            return Member(net.name, BACKEND, vxlan.info_line, vxlan.port, finish=vxlan.finish, backend=vxlan)
        if isinstance(net, wires.KINDS):
            return self._wire_net(net, place)
        raise BuildError(f"{net.origin}: not built yet")

    def _mtu(self, net: UserNet, place: Place) -> int:
        """The NAT's MTU: its own mtu=, or what every card on its wire can take."""
        wires = {id(wire.net): [wire.nic] for wire in self.config.wires if wire.nic is not None}
        nics = list(self.config.nics) if net.vlan is not None else wires.get(id(net), [])
        nics = [nic for nic in nics if nic.vlan == net.vlan]
        nics += [member.what for member in place.members if isinstance(member.what, Nic)]
        return net.mtu or min((nic.mtu or 1500 for nic in nics), default=1500)

    # ---- running -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let frames flow. Raises BuildError if a card's driver does not find its card."""
        self.cards.boot()
        for start in self._starters:
            start()
        self.cards.running = True

    def unfinished(self) -> bool:
        """Whether a guest that has ended may still have TCP data on the way to the host."""
        return any(
            row.protocol == "TCP" and (row.state in UNFINISHED or row.recv_queue)
            for user in self.usernets
            for row in user.rows()
        )

    def close(self) -> None:
        """Give everything back, last made first. Idempotent."""
        self.cards.close()
        while self._closers:
            with contextlib.suppress(OSError):
                self._closers.pop()()
