"""From a configuration to wired objects: the only file that knows every class.

What must happen before there is a loop is in ``tapnet.prepare``. Then, on the loop, ``Instance(config, prepared, ...)``
makes hubs, machine, cards, drivers and backends, and ``start`` lets frames flow.

An ``Instance`` is what monitors see (``tapnet.monitor.control.Instance``). ``close`` gives everything back, in the
reverse order, and is idempotent; a failure on the way up closes what had been opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from nic_models import models
from nic_models.machine import Machine, Slot

from . import faults, swap
from .backends import wires
from .backends.user import UserBackend
from .capture import CaptureError, Captures
from .clock import Clock
from .config import Config, Filter, Impairment, Net, Nic, TapNet, UserNet
from .device import Device
from .events import Events
from .guest.attach import DirectAttachment, RegisterAttachment
from .guest.board import Board
from .guest.drivers import DRIVERS, DriverError
from .guest.qtest import RegisterBus
from .guest.vfio_user import ServeError, VfioUserServer, isa_function
from .handover import Handed, Handover, fingerprint
from .hub import Hub
from .monitor.control import ACCEPTED, BACKEND, NIC, Control
from .monitor.hmp import Hmp
from .port import Port
from .prepare import BuildError, Prepared
from .swap import Swap

# TCP states in which a guest's side has not been closed by its end: its kernel still sends
UNFINISHED = frozenset(("SYN_RECEIVED", "ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2"))


@dataclass(eq=False)
class Member:
    """A device as ``info network`` shows it."""

    name: str
    kind: str
    describe: Callable[[], str]
    port: Port | None
    undo: list[Callable[[], None]] = field(default_factory=list)  # last made last
    finish: Callable[[], None] | None = None  # behind all of ``undo``; may block, may run in a thread
    blink: float = 0  # of a card: seconds without link until its guest notices; 0: it never does
    events: Callable[[], Mapping[str, int]] | None = None  # what the card counted by itself, by reason
    net: Net | None = None  # what it was made from
    backend: object = None  # what is behind it: ``export`` and ``listening`` are for a restart

    @property
    def info(self) -> str:
        """QEMU 0.8's words."""
        return self.describe()

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

    def plug(self, member: Member) -> None:
        """Raises ValueError if the hub has a port of that name."""
        if member.port is not None:
            self.hub.add(member.port)
        self.members.append(member)

    def unplug(self, member: Member) -> None:
        """Idempotent."""
        if member in self.members:
            self.members.remove(member)
        if member.port is not None and member.port.vlan is self.hub:
            self.hub.remove(member.port)


def _events(card: object) -> Callable[[], Mapping[str, int]] | None:
    """A card's own counters, looked up each time: ``restore`` may replace them."""
    return (lambda: getattr(card, "counters", {})) if hasattr(card, "counters") else None


def _not_yet(_frame: bytes, _vnet: bytes) -> bool:
    """A card's ``receive`` before there is a card: the port must exist first."""
    return True


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
        self.vlans: dict[int, list[Member]] = {}
        self.wires: list[list[Member]] = []
        self.usernets: list[UserBackend] = []
        self.parked: list[Net] = []  # kept out by the mode
        self.hubs: dict[int, Hub] = {}
        self.private: list[Hub] = []
        self.machine: Machine | None = None
        self.register_bus: RegisterBus | None = None  # for -qtest
        self.prepared = prepared
        self.events = Events(wall)
        self.control = Control(self)
        self.swap = Swap(self, loop, now)
        self._loop = loop
        self._now = now
        self._clock = clock or Clock(now)
        self._handed = handed or Handed({})
        self._board: Board | None = None
        self._driven = False  # some card has a driver of ours
        self._starters: list[Callable[[], None]] = []
        self.captures = Captures(loop)
        self._closers: list[Callable[[], None]] = [prepared.close, self.captures.close, self.swap.close]
        try:
            self._wire()
        except BaseException:
            self.close()
            raise

    # ---- wiring --------------------------------------------------------------------------------------------

    def _wire(self) -> None:
        config = self.config
        for number in config.vlans:
            self._vlan(number)
        for wire in config.wires:
            hub = Hub(-1, self._loop.call_soon, private=True)
            self.private.append(hub)
            place = Place(hub, [])
            self.wires.append(place.members)
            for side in (wire.nic, wire.net):
                if side is not None:
                    self._join(side, place)
        for member in config.members:
            if member.vlan is not None:
                self._join(member, self._vlan(member.vlan))
        for wanted in config.filters:
            self._filter(wanted)
        if config.qtest is not None:
            self.register_bus = RegisterBus(self._loop, self._on_board(), self._clock, self.all_hubs)

    def all_hubs(self) -> list[Hub]:
        """Of the VLANs and of the private wires."""
        return [*self.hubs.values(), *self.private]

    def _vlan(self, number: int) -> Place:
        if number not in self.hubs:
            self.hubs[number] = Hub(number, self._loop.call_soon)
            self.vlans[number] = []
        return Place(self.hubs[number], self.vlans[number])

    def place(self, number: int) -> Place:
        """A VLAN that there is."""
        return Place(self.hubs[number], self.vlans[number])

    def _join(self, what: Nic | Net, place: Place) -> Member | None:
        """Make a member and plug it; None: it is kept out by --mode."""
        if isinstance(what, Nic):
            member = self._nic(what)
        elif not what.plugged:
            self.parked.append(replace(what, plugged=True))
            return None
        else:
            member, starters = self.make_net(what, place)
            self._starters += starters
        self.plug(member, what, place)
        return member

    def make_net(
        self, net: Net, place: Place, opened: object = None
    ) -> tuple[Member, list[Callable[[], None]]]:
        """A backend that is not plugged yet, and what starts it then. Raises BuildError; nothing is left.

        opened  what was opened for it already (an ``OpenTap``)
        """
        made, started = len(self._closers), len(self._starters)
        try:
            member = self._net(net, place, opened)
        except BaseException:
            while len(self._closers) > made:
                self._closers.pop()()
            raise
        member.undo, self._closers[made:] = self._closers[made:], []  # these end with the member from now on
        starters, self._starters[started:] = self._starters[started:], []
        return member, starters

    def plug(self, member: Member, what: Nic | Net, place: Place) -> None:
        """Put a member in its place, for the time of the instance."""
        self._closers.append(member.close)
        place.plug(member)
        member.undo.append(lambda: place.unplug(member))
        if what.impair is not None and member.port is not None:
            faults.impair(member.port, what.impair, self._loop, self._now)

    def forget(self, member: Member) -> None:
        """A backend is no longer the instance's: the caller closes it."""
        self._closers.remove(member.close)
        self.usernets = [user for user in self.usernets if user.name != member.name]

    # ---- while it runs -------------------------------------------------------------------------------------

    def add_net(self, net: Net) -> None:
        """Plug a backend into its VLAN, which is made if it is new; frames flow at once. Raises BuildError."""
        if net.vlan is None:
            raise BuildError(f"{net.origin}: needs a VLAN")
        if self.backend(net.name) is not None:
            raise BuildError(f"{net.origin}: name={net.name}: exists already")
        started = len(self._starters)
        try:
            if self._join(net, self._vlan(net.vlan)) is None:
                raise BuildError(f"{net.origin}: --mode={self.mode} keeps it out")
            for start in self._starters[started:]:
                start()
        finally:
            del self._starters[started:]

    def remove_net(self, name: str) -> bool:
        """Unplug a backend and give everything back that it had. False: there is none of that name."""
        member = self.backend(name)
        if member is None:
            return False
        self.forget(member)
        member.close()
        return True

    def _filter(self, wanted: Filter) -> None:
        """Begin a -object filter-dump."""
        if not wanted.status:
            return
        for what in self.config.members:
            if wanted.netdev in (what.id, what.name):
                break
        groups = [*zip(self.hubs.values(), self.vlans.values()), *zip(self.private, self.wires)]
        hub = next((hub for hub, group in groups if any(m.name == what.name for m in group)), None)
        if hub is None:  # --mode keeps it out
            return
        try:
            self.captures.filter(hub, what.name, wanted)
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
        for member in self._nets():
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
        for number, members in self.vlans.items():
            if any(member.name == name for member in members):
                return number
        return None

    def _nets(self) -> list[Member]:
        return [m for group in (*self.vlans.values(), *self.wires) for m in group if m.kind == BACKEND]

    def backend(self, name: str) -> Member | None:
        """The backend of that name."""
        return next((member for member in self._nets() if member.name == name), None)

    def _wire_net(self, net: Net, place: Place) -> Member:
        """A backend on sockets: its clients come and go as members of their own."""
        clients: dict[Port, Member] = {}

        def joined(port: Port, info: str) -> None:
            member = Member(port.name, ACCEPTED, lambda: info, port)
            place.plug(member)
            clients[port] = member
            if net.impair is not None:
                faults.impair(port, net.impair, self._loop, self._now)

        def left(port: Port) -> None:
            place.unplug(clients.pop(port))

        try:
            wire = wires.open_wire(net, self._loop, joined, left)
        except wires.WireError as error:
            raise BuildError(str(error)) from None
        self._starters.append(wire.start)
        self._closers.append(wire.close)
        handed = self._handed.take(net)
        if handed is not None:
            wire.adopt(handed)  # type: ignore[attr-defined]  # it is there where export is
        return Member(net.name, BACKEND, wire.info_line, wire.port, net=net, backend=wire)

    def _net(self, net: Net, place: Place, opened: object = None) -> Member:
        if isinstance(net, UserNet):
            if net.v4 is None:
                raise BuildError(f"{net.origin}: ipv4=off: IPv6 is not built yet")
            try:
                user = UserBackend(replace(net, mtu=self._mtu(net)), self._loop, clock=self._now)
            except ValueError as error:
                raise BuildError(f"{net.origin}: {error}") from None
            self.usernets.append(user)
            self._starters.append(user.start)
            self._closers.append(user.close)
            return Member(net.name, BACKEND, user.info_line, user.port, net=net, backend=user)
        if isinstance(net, TapNet):
            from .backends.tap import OpenTap, TapBackend, TapError

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
            return Member(net.name, BACKEND, tap.info_line, tap.port, finish=tap.finish, net=net, backend=tap)
        if isinstance(net, wires.KINDS):
            return self._wire_net(net, place)
        raise BuildError(f"{net.origin}: not built yet")

    def _mtu(self, net: UserNet) -> int:
        """The NAT's MTU: its own mtu=, or what every card on its wire can take."""
        wires = {id(wire.net): [wire.nic] for wire in self.config.wires if wire.nic is not None}
        nics = self.config.nics if net.vlan is not None else wires.get(id(net), [])
        return net.mtu or min((nic.mtu or 1500 for nic in nics if nic.vlan == net.vlan), default=1500)

    def _nic(self, nic: Nic) -> Member:
        device = self.prepared.device(nic)
        mac = nic.mac.hex(":")
        if nic.model == "direct":
            if device is None:
                raise BuildError(f"{nic.origin}: model=direct needs a namespace: netns=, or tapnet exec")
            direct = DirectAttachment(self._loop, device, nic.name)
            self._starters.append(direct.start)

            def lost(device: Device = device) -> dict[str, int]:
                return {"overflow": device.overflow()}

            self._closers.append(direct.close)
            return Member(
                nic.name, NIC, lambda: f"direct macaddr={mac}", direct.port, events=lost, blink=swap.BLINK
            )
        port = Port(nic.name, _not_yet, features=models.MODELS[nic.model].features)
        if nic.vfio_user is not None:
            return self._serve_nic(nic, port)
        machine = self._machine()
        try:
            slot = models.plug(
                machine,
                nic.model,
                nic.mac,
                port.send,
                port.flush,
                name=nic.name,
                addr=nic.slot,
                iobase=nic.iobase,
                irq=nic.irq,
                rev=nic.rev,
            )
        except ValueError as error:
            raise BuildError(f"{nic.origin}: {error}") from None
        port.receive = slot.receive
        port.ready = slot.tx_ready
        card = slot.card
        info = models.MODELS[nic.model].info
        port.on_link = card.set_link
        if device is not None:
            self._driven = True
            self._starters.append(lambda: self._drive(nic, slot, port, device))
        return Member(
            nic.name,
            NIC,
            lambda: f"{info} macaddr={mac}",
            port,
            events=_events(card),
            blink=swap.blink(nic.model, device is not None),
        )

    def _serve_nic(self, nic: Nic, port: Port) -> Member:
        """Offer a card on a vfio-user socket."""
        entry = models.MODELS[nic.model]
        mac = nic.mac.hex(":")
        assert nic.vfio_user is not None
        try:
            if entry.bus == "isa":
                function = isa_function(nic.model, nic.mac, port.send, port.flush, self._now)
            else:
                function = models.pci_function(
                    nic.model, nic.mac, port.send, port.flush, self._now, rev=nic.rev
                )
            server = VfioUserServer(self._loop, nic.vfio_user, function, self._now)
        except (ValueError, ServeError) as error:
            raise BuildError(f"{nic.origin}: {error}") from None
        self._closers.append(server.close)
        port.receive = server.receive
        port.ready = server.tx_ready
        port.on_link = server.set_link
        return Member(
            nic.name,
            NIC,
            lambda: f"{entry.info} macaddr={mac}",
            port,
            events=_events(function.card),
            blink=swap.blink(nic.model, False),
        )

    def _drive(self, nic: Nic, slot: Slot, port: Port, device: Device) -> None:
        """Put a register-level driver between the guest's device and its card."""
        try:
            attachment = RegisterAttachment(
                self._loop, device, self._on_board(), DRIVERS[nic.model], slot.location
            )
            self._closers.append(attachment.close)
            attachment.start()
        except DriverError as error:
            raise BuildError(f"{nic.origin}: {error}") from None

        def on_link(up: bool) -> None:
            slot.card.set_link(up)
            attachment.set_link(up)

        port.on_link = on_link

    def _machine(self) -> Machine:
        if self.machine is None:
            self.machine = Machine(self.config.machine, self.config.memory, now=self._clock.now)
        return self.machine

    def _on_board(self) -> Board:
        if self._board is None:
            self._board = Board(self._loop, self._machine())
            self._closers.append(self._board.close)
        return self._board

    # ---- running -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let frames flow. Raises BuildError if a card's driver does not find its card."""
        if self.machine is not None and (self._driven or self.register_bus is None):
            self.machine.boot()  # for our drivers; a client of the register bus is its own firmware, as on QEMU
        for start in self._starters:
            start()

    def monitor(self, line: str) -> str:
        """Answer one line of the human monitor."""
        return Hmp(self.control).execute(line).text

    def unfinished(self) -> bool:
        """Whether a guest that has ended may still have TCP data on the way to the host."""
        return any(
            row.protocol == "TCP" and (row.state in UNFINISHED or row.recv_queue)
            for user in self.usernets
            for row in user.rows()
        )

    def close(self) -> None:
        """Give everything back, last made first. Idempotent."""
        while self._closers:
            with contextlib.suppress(OSError):
                self._closers.pop()()
