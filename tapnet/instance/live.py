"""Nets and cards while the instance runs: what QEMU's monitor calls host_net_add, netdev_add, device_add and their ends.

    "user,id=u1" ─ options.parse_option ─► Entry ─► Net or Nic with every default filled in ─► Instance.add_net, add_nic

An option is spelt as on the command line, and means the same. Defaults (name, MAC, slot, I/O base, IRQ, interface) are
the first that are free among what is plugged in now.

* ``-net`` (host_net_add): a backend, or a card, on its VLAN; a VLAN is made with its first member and goes with its
  last. ``-netdev``: a backend on a private wire, for the card that ``device_add`` brings, or for one whose backend has
  been deleted. ``hubport``: moves a netdev, or the card that names it, to a VLAN.
* Which guest gets a card that is added: a VM by ``vfio-user=``; a namespace by ``netns=``; a client of the register bus
  (-qtest), who finds it as hot-plugged hardware. A card without any of them is refused.
* What is deleted is gone at once: its port, sockets, flows and devices. A card on the private wire of a deleted netdev
  sees its cable pulled; nobody else notices anything.

Inherited descriptors (``fd=``) are for the start only: a number that a monitor sends names whatever we have open.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..config import DumpNet, Net, Nic, TapNet
from ..errors import BuildError, ControlError, NotFound, OptionError
from ..guest.namespace.guest import GuestError, NamespaceGuest
from ..guest.prepare import nic_spec
from ..options import nics as cards
from ..options import parse as options
from ..options.given import Given
from ..options.nics import Card
from ..options.resolve import Entry
from ..vlan.events import DEVICE_DELETED
from ..vlan.patchbay import BACKEND, NIC, Member

if TYPE_CHECKING:
    from .instance import Instance

MEMBERS_MAX = options.MAX_MEMBERS
DESCRIPTORS = ("fd", "fds", "vhostfd", "vhostfds", "addr.str", "local.str", "remote.str")
log = logging.getLogger("tapnet.live")

Option = str | dict[str, Any]


@dataclass
class Hubport:
    """A -netdev hubport that was added."""

    vlan: int
    member: Member | None = None  # the netdev or card on it


def parse(option: str, value: Option) -> Entry:
    """One option of a monitor. Raises ControlError."""
    try:
        entry = options.parse_option(option, json.dumps(value) if isinstance(value, dict) else value)
    except OptionError as error:
        raise ControlError(str(error)) from None
    for key in DESCRIPTORS:
        if key in entry.given.values:
            raise ControlError(f"{entry.given.origin}: {key}=: descriptors are inherited at start only")
    if entry.given.unbuilt:
        raise ControlError("; ".join(entry.given.unbuilt))
    return entry


class Live:
    """Adds to and takes from one instance."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._patchbay = instance.patchbay
        self._hubports: dict[str, Hubport] = {}

    # ---- VLANs ---------------------------------------------------------------------------------------------

    def host_net_add(self, value: Option) -> Awaitable[None] | None:
        """``-net``; ``hub`` changes how a VLAN forwards. Raises ControlError."""
        entry = parse("net", value)
        vlan = entry.given.get("vlan", 0)
        if entry.kind == "nic":
            return self._add_nic(entry.given, vlan, None)
        if entry.kind == "hub":
            self._patchbay.switch(vlan, entry.given.get("switch", False))
            return None
        if entry.net is None:
            raise ControlError(f"{entry.given.origin}: not while it runs")
        return self._add_net(entry, vlan)

    def host_net_remove(self, vlan: int, name: str) -> Awaitable[None] | None:
        """A backend of a VLAN. Raises ControlError."""
        place = self._patchbay.vlans.get(vlan)
        member = self._patchbay.find(name, BACKEND)
        if place is None or member is None or member.place is not place:
            raise ControlError(f"VLAN {vlan} has no backend named '{name}'")
        return self._remove_net(member)

    # ---- netdevs -------------------------------------------------------------------------------------------

    def netdev_add(self, value: Option) -> Awaitable[None] | None:
        """``-netdev``. Raises ControlError."""
        entry = parse("netdev", value)
        label = entry.given.get("id")
        if label in self._hubports or any(_id(member) == label for member in self._patchbay.members()):
            raise ControlError(f"{entry.given.origin}: id={label}: exists already")
        if entry.kind != "hubport":
            return self._add_net(entry, None)
        self._hubport(label, entry)
        return None

    def _hubport(self, label: str, entry: Entry) -> None:
        port = Hubport(entry.given.get("hubid"))
        target = entry.given.get("netdev")
        if target is not None:
            member = self._netdev(target)
            if member is None:
                raise ControlError(f"{entry.given.origin}: netdev={target}: there is no such netdev")
            place = member.place
            if place is None or place.vlan is not None or any(m.kind == NIC for m in place.members):
                raise ControlError(f"{entry.given.origin}: netdev={target}: used already")
            self._move(member, port.vlan)
            port.member = member
        self._hubports[label] = port

    def netdev_del(self, label: str) -> Awaitable[None] | None:
        """A backend by its id or name, or a hub port. Raises NotFound, ControlError."""
        port = self._hubports.pop(label, None)
        if port is not None:
            member = port.member
            if member is not None and member.place is not None:
                self._move(member, None)
                if member.kind == NIC and member.port is not None:
                    member.port.set_link(False)
            return None
        member = self._netdev(label) or self._patchbay.find(label, BACKEND)
        if member is None:
            raise NotFound(label)
        return self._remove_net(member)

    def _netdev(self, label: str) -> Member | None:
        return next((m for m in self._patchbay.members() if m.kind == BACKEND and _id(m) == label), None)

    def _move(self, member: Member, vlan: int | None) -> None:
        try:
            self._instance.move(member, vlan)
        except BuildError as error:
            raise ControlError(str(error)) from None

    def _add_net(self, entry: Entry, vlan: int | None) -> Awaitable[None] | None:
        given, net = entry.given, entry.net
        assert net is not None
        self._room(given)
        taken = self._names()
        name = given.get("name") or given.get("id") or _free(net.kind, taken)
        if name in taken:
            raise ControlError(f"{given.origin}: name={name}: exists already")
        net = replace(net, id=given.get("id"), name=name, vlan=vlan, impair=given.get("impair"))
        if isinstance(net, DumpNet) and not net.file:
            net = replace(net, file=f"qemu-vlan{vlan or 0}.pcap")
        for line in given.warnings:
            log.warning("tapnet: warning: %s", line)
        if isinstance(net, TapNet):
            return self._add_tap(net)
        self._add_made(net)
        return None

    def _add_made(self, net: Net, opened: object = None) -> None:
        try:
            self._instance.add_net(net, opened)
        except BuildError as error:
            raise ControlError(str(error)) from None

    async def _add_tap(self, net: TapNet) -> None:
        """Its script and helper may take their time: in a thread."""
        from ..backends.tap.backend import OpenTap, in_thread, open_tap

        try:
            opened = await in_thread(asyncio.get_running_loop(), lambda: open_tap(net), OpenTap.close)
        except OSError as error:
            raise ControlError(f"{net.origin}: {error}") from None
        if net.name in self._names():  # somebody was quicker
            opened.close()
            raise ControlError(f"{net.origin}: name={net.name}: exists already")
        self._add_made(net, opened)

    def _remove_net(self, member: Member) -> Awaitable[None] | None:
        for port in self._hubports.values():
            if port.member is member:
                port.member = None
        self._instance.take_net(member.name)
        return self._finish(member.finish) if member.finish is not None else None

    @staticmethod
    async def _finish(work: Callable[[], None]) -> None:
        """What may block of an end: a script, a network of the kernel."""
        await asyncio.get_running_loop().run_in_executor(None, work)

    def _names(self) -> set[str]:
        """Of all that is there, and of what a mode has put aside."""
        parked = {net.name for net in self._instance.parked}
        return parked | {member.name for member in self._patchbay.members()}

    def _room(self, given: Given) -> None:
        if len(self._patchbay.members()) >= MEMBERS_MAX:
            raise ControlError(f"{given.origin}: more than {MEMBERS_MAX} nets and cards")

    # ---- cards ---------------------------------------------------------------------------------------------

    def device_add(self, value: Option) -> Awaitable[None] | None:
        """``-device``. Raises ControlError."""
        given = parse("device", value).given
        label = given.get("id")
        if label is not None and self._patchbay.find(label) is not None:
            raise ControlError(f"{given.origin}: id={label}: exists already")
        netdev, vlan = given.get("netdev"), given.get("vlan")
        port = self._hubports.get(netdev) if netdev is not None else None
        if port is None:
            return self._add_nic(given, vlan, netdev)
        if port.member is not None:
            raise ControlError(f"{given.origin}: netdev={netdev}: used already")
        return self._add_nic(given, port.vlan, None, port)

    def device_del(self, label: str) -> None:
        """A card by its id or name. Raises NotFound."""
        found = [m for m in self._patchbay.members() if m.kind == NIC and label in (_id(m), m.name)]
        if not found:
            raise NotFound(label)
        for port in self._hubports.values():
            if port.member is found[0]:
                port.member = None
        self._instance.remove_nic(found[0].name)
        self._instance.events.emit(DEVICE_DELETED, device=label, path=f"/machine/peripheral/{label}")

    def _nic(self, given: Given, vlan: int | None, netdev: str | None) -> Nic:
        """The card with its defaults, among those that are there. Raises ControlError."""
        instance = self._instance
        card = Card(given, vlan, netdev)
        present = [
            _as_card(member.what) for member in self._patchbay.members() if isinstance(member.what, Nic)
        ]
        try:
            cards.check(card, instance.config.machine, "run")
            nic = cards.place([*present, card], "run")[-1]
        except OptionError as error:
            raise ControlError(str(error)) from None
        if nic.netns is None and nic.vfio_user is None and instance.register_bus is None:
            raise ControlError(
                f"{given.origin}: no guest would see it: use netns=PATH|PID or vfio-user=PATH (or run with -qtest)"
            )
        taken = self._names()
        if nic.name in taken:
            if given.get("name") or given.get("id"):
                raise ControlError(f"{given.origin}: name={nic.name}: exists already")
            nic = replace(nic, name=_free(nic.model, taken))
        return nic

    def _add_nic(
        self, given: Given, vlan: int | None, netdev: str | None, port: Hubport | None = None
    ) -> Awaitable[None] | None:
        self._room(given)
        nic = self._nic(given, vlan, netdev)
        if nic.netns is not None:
            return self._add_attached(nic, port)
        self._plug(nic, None, port)
        return None

    async def _add_attached(self, nic: Nic, port: Hubport | None) -> None:
        try:
            guest = await NamespaceGuest.attach_later(str(nic.netns), nic_spec(nic))
        except GuestError as error:
            raise ControlError(f"{nic.origin}: {error}") from None
        self._plug(nic, guest, port)

    def _plug(self, nic: Nic, guest: NamespaceGuest | None, port: Hubport | None) -> None:
        try:
            member = self._instance.add_nic(nic, guest)
        except BuildError as error:
            raise ControlError(str(error)) from None
        if port is not None:
            port.member = member


def _id(member: Member) -> str | None:
    return member.what.id if member.what is not None else None


def _free(kind: str, taken: set[str]) -> str:
    """The first KIND.N that is not taken."""
    return next(name for n in range(len(taken) + 1) if (name := f"{kind}.{n}") not in taken)


def _as_card(nic: Nic) -> Card:
    """A card that is there, with what it has as if it had been asked for."""
    values = {
        "name": nic.name,
        "id": nic.id,
        "macaddr": nic.mac,
        "addr": nic.slot,
        "iobase": nic.iobase,
        "irq": nic.irq,
        "ifname": nic.ifname,
        "netns": nic.netns,
        "vfio-user": nic.vfio_user,
    }
    given = Given(nic.origin, {key: value for key, value in values.items() if value is not None})
    return Card(given, nic.vlan, nic.netdev, nic.model)
