"""Cards: each model on the way that its guest has, and the machine that some of them sit on.

    vfio-user=   the card by itself, on a socket           direct   no card: the namespace's device on the hub
    the machine  ports, slots and interrupt lines, for a driver of ours (a namespace) or for the client of -qtest

``Cards`` makes them, at the start and while the instance runs, and pulls them out again. The machine is made with its
first card. Who boots it: we do, for our drivers; a client of the register bus is its own firmware, as on QEMU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from nic_models import models
from nic_models.bus.machine import Machine, Slot

from ..config import Config, Nic
from ..devices.device import Device
from ..errors import BuildError
from ..vlan.hub import Hub
from ..vlan.patchbay import NIC, Member
from ..vlan.port import Port
from .board import Board
from .clock import Clock
from .drivers import DRIVERS, DriverError
from .namespace.attach import DirectAttachment, RegisterAttachment
from .prepare import Prepared
from .qtest.bus import RegisterBus
from .vfio_user.server import ServeError, VfioUserServer, isa_function

# The kernel gathers carrier changes for up to a second: a shorter one may never be seen by a DHCP client.
BLINK = 1.2
BLINK_DRIVER = 3.0  # Linux's drivers for these cards look at the link every two seconds


def blink(model: str, namespace: bool) -> float:
    """For how long the link of a card must be down for its guest to notice; 0: it has no link bit."""
    if namespace:
        return BLINK
    return 0 if model.startswith("ne2k") else BLINK_DRIVER


def _events(card: object) -> Callable[[], Mapping[str, int]] | None:
    """A card's own counters, looked up each time: ``restore`` may replace them."""
    return (lambda: getattr(card, "counters", {})) if hasattr(card, "counters") else None


def _guest_of(nic: Nic) -> str:
    return f"{nic.ifname} of {f'netns={nic.netns}' if nic.netns is not None else 'the command'}"


def _not_yet(_frame: bytes, _vnet: bytes) -> bool:
    """A card's ``receive`` before there is a card: the port must exist first."""
    return True


class Cards:
    """The cards of one instance. ``now()``: real time, ns; ``clock``: the machine's."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        prepared: Prepared,
        now: Callable[[], int],
        clock: Clock,
    ) -> None:
        self.machine: Machine | None = None
        self.register_bus: RegisterBus | None = None  # for -qtest
        self._loop = loop
        self._config = config
        self._prepared = prepared
        self._now = now
        self._clock = clock
        self._board: Board | None = None
        self._driven = False  # some card has a driver of ours
        self._booted = False
        self.running = False  # set when all cards of the start have been started: others come later

    def serve_bus(self, hubs: Callable[[], Iterable[Hub]]) -> None:
        """There will be a client of the machine's bus."""
        self.register_bus = RegisterBus(self._loop, self._on_board(), self._clock, hubs)

    def boot(self) -> None:
        """All cards of the start are there: boot, where that is ours. Their starters come next."""
        if self.machine is not None and (self._driven or self.register_bus is None):
            self._boot()

    def _boot(self) -> None:
        self._booted = True
        self._machine().boot()

    def release(self, name: str) -> None:
        """End the guest of a card."""
        guest = self._prepared.attached.pop(name, None)
        if guest is not None:
            guest.close()

    def close(self) -> None:
        """Stop timers and interrupts. Idempotent."""
        if self._board is not None:
            self._board.close()

    def make(self, nic: Nic, closers: list[Callable[[], None]], starters: list[Callable[[], None]]) -> Member:
        """A card that is not plugged yet. What ends it is added to ``closers``, what starts it to ``starters``. Raises
        BuildError.
        """
        device = self._prepared.device(nic)
        mac = nic.mac.hex(":")
        if nic.name in self._prepared.attached:
            closers.append(lambda: self.release(nic.name))
        if nic.model == "direct":
            if device is None:
                raise BuildError(f"{nic.origin}: model=direct needs a namespace: netns=, or tapnet exec")
            direct = DirectAttachment(self._loop, device, nic.name)
            starters.append(direct.start)

            def lost(device: Device = device) -> dict[str, int]:
                return {"overflow": device.overflow()}

            closers.append(direct.close)
            made = Member(
                nic.name, NIC, lambda: f"direct macaddr={mac}", direct.port, events=lost, blink=BLINK
            )
            made.where = lambda: _guest_of(nic)
            return made
        port = Port(nic.name, _not_yet, features=models.MODELS[nic.model].features)
        if nic.vfio_user is not None:
            return self._serve(nic, port, closers)
        slot = self._plug(nic, port, closers)
        info = models.MODELS[nic.model].info
        made = Member(nic.name, NIC, lambda: f"{info} macaddr={mac}", port, events=_events(slot.card))
        made.card, made.blink = slot.card, blink(nic.model, device is not None)
        made.where = lambda: str(slot.location) + (f", {_guest_of(nic)}" if device is not None else "")
        if device is not None:
            self._driven = True
            starters.append(lambda: self._drive(nic, slot, made, device))
        return made

    def _plug(self, nic: Nic, port: Port, closers: list[Callable[[], None]]) -> Slot:
        """A card on the machine's bus."""
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
        slot.card.tx_delay = nic.tx_delay
        port.receive = slot.receive
        port.ready = slot.tx_ready
        port.on_link = slot.card.set_link
        if self.register_bus is not None:
            self.register_bus.plug(slot)

        def unplug() -> None:
            if self.register_bus is not None:
                self.register_bus.unplug(slot)
            machine.unplug(slot)

        closers.append(unplug)
        return slot

    def _serve(self, nic: Nic, port: Port, closers: list[Callable[[], None]]) -> Member:
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
            function.card.tx_delay = nic.tx_delay
            server = VfioUserServer(self._loop, nic.vfio_user, function, self._now)
        except (ValueError, ServeError) as error:
            raise BuildError(f"{nic.origin}: {error}") from None
        closers.append(server.close)
        port.receive = server.receive
        port.ready = server.tx_ready
        port.on_link = server.set_link
        made = Member(
            nic.name, NIC, lambda: f"{entry.info} macaddr={mac}", port, events=_events(function.card)
        )
        made.card, made.blink = function.card, blink(nic.model, False)
        made.where = lambda: f"vfio-user={nic.vfio_user}" + ("" if server.session else " (no client)")
        return made

    def _drive(self, nic: Nic, slot: Slot, member: Member, device: Device) -> None:
        """Put a register-level driver between the guest's device and its card."""
        if self.running and not self._booted:
            self._boot()
        elif self.running:
            self._machine().boot(slot)
        try:
            attachment = RegisterAttachment(
                self._loop, device, self._on_board(), DRIVERS[nic.model], slot.location
            )
            member.undo.append(attachment.close)
            attachment.start()
        except DriverError as error:
            raise BuildError(f"{nic.origin}: {error}") from None

        def on_link(up: bool) -> None:
            slot.card.set_link(up)
            attachment.set_link(up)

        assert member.port is not None
        member.port.on_link = on_link

    def _machine(self) -> Machine:
        if self.machine is None:
            self.machine = Machine(self._config.machine, self._config.memory, now=self._clock.now)
        return self.machine

    def _on_board(self) -> Board:
        if self._board is None:
            self._board = Board(self._loop, self._machine())
        return self._board
