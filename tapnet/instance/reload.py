"""A changed configuration on a running instance: the difference between two ``Config`` objects, applied live.

    plan(old, new) ─► Plan ─► apply(instance, plan)

Backends on a VLAN come and go; those that both files have stay as they are, with their connections, flows and leases,
wherever in the file they stand now. Of a NAT that stays the same net, only what has changed changes (redirections, rules, name
servers, what DHCP says, ...; ``backends.user.changes_live``): its flows and leases stay. Everything else (cards, private wires, monitors, the machine) takes a restart: then nothing is changed, and one line says why.

Old backends go before new ones come, because both may want one address or interface. If a new one cannot be made, those
before it go again and the old ones come back.

What was added or removed by a monitor is no part of either file and stays so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

from ..backends.user.backend import changes_live
from ..backends.user.report import UserNet as Nat
from ..config import Config, HostForward, Net, Nic, UserNet
from ..errors import BuildError

# fields of Config that do not matter here, or are compared member by member
_ASIDE = ("members", "files", "warnings", "unbuilt", "command", "ready_fd", "mode")
_OPTIONS = {
    "qtest": "-qtest",
    "monitors": "-monitor",
    "qmp": "-qmp",
    "metrics": "--metrics",
    "runas": "--runas",
}


class ReloadError(Exception):
    """The new configuration cannot be applied; nothing has changed. One line."""


class Backend(Protocol):
    """A member that was made from a net."""

    what: Net | Nic | None


class Instance(Protocol):
    """What a reload needs of ``tapnet.instance.instance.Instance``."""

    config: Config
    parked: list[Net]  # that the mode keeps out

    @property
    def usernets(self) -> Sequence[Nat]:
        """The NATs."""

    def add_net(self, net: Net) -> object:
        """Raises BuildError."""

    def remove_net(self, name: str) -> bool:
        """False: there is none."""

    def backend(self, name: str) -> Backend | None:
        """The backend of that name."""


@dataclass
class Plan:
    """What to do."""

    new: Config
    removed: list[Net] = field(default_factory=list)
    added: list[Net] = field(default_factory=list)
    kept: list[tuple[Net, Net]] = field(default_factory=list)  # (as it was, as the new file has it)
    changed: list[tuple[UserNet, UserNet]] = field(
        default_factory=list
    )  # the same, but for what can change live


def _same(net: Net, name: str = "") -> Net:
    return replace(net, origin="", name=name)


def plan(old: Config, new: Config) -> Plan:
    """What leads from ``old`` to ``new``. Raises ReloadError for what takes a restart."""
    if new.unbuilt:
        raise ReloadError(new.unbuilt[0])
    for one in fields(Config):
        if one.name not in _ASIDE and getattr(old, one.name) != getattr(new, one.name):
            raise ReloadError(f"{_OPTIONS.get(one.name, '-' + one.name)} has changed: that takes a restart")
    _cards(old, new)
    made = Plan(new)
    before, after = list(old.nets), list(new.nets)
    for by_name in (True, False):
        for net in list(after):
            twin = _find(before, net, by_name)
            if twin is not None:
                made.kept.append((twin, net))
                before.remove(twin)
                after.remove(net)
    for net in list(after):
        for other in before:
            if not isinstance(net, UserNet) or not isinstance(other, UserNet):
                continue
            if _changes_live(other, net):
                made.changed.append((other, net))
                before.remove(other)
                after.remove(net)
                break
    for net in (*before, *after):
        if net.vlan is None:
            raise ReloadError(f"{net.origin}: a private wire has changed: that takes a restart")
    made.removed = [net for net in before if net.plugged]
    made.added = [net for net in after if net.plugged]
    return made


def _changes_live(old: UserNet, new: UserNet) -> bool:
    try:
        return (
            old.plugged
            and new.plugged
            and old.vlan == new.vlan
            and old.impair == new.impair
            and changes_live(old, new)
        )
    except ValueError:
        return False  # the new one says why when it is made


def _find(nets: list[Net], net: Net, by_name: bool) -> Net | None:
    name = net.name if by_name else ""
    return next((one for one in nets if _same(one, one.name if by_name else "") == _same(net, name)), None)


def _cards(old: Config, new: Config) -> None:
    was = [replace(nic, origin="") for nic in old.nics]
    for nic in new.nics:
        if replace(nic, origin="") not in was:
            raise ReloadError(f"{nic.origin}: card {nic.name} is new or has changed: that takes a restart")
    kept = [replace(nic, origin="") for nic in new.nics]
    for nic in old.nics:
        if replace(nic, origin="") not in kept:
            raise ReloadError(f"{nic.origin}: card {nic.name} is gone: that takes a restart")


def apply(instance: Instance, made: Plan) -> str:
    """Carry it out; a line that says what was done. Raises ReloadError: all is as it was, or the line says what not."""
    undo: list[tuple[str, Net]] = []  # last done last
    forwards: list[tuple[Nat, HostForward, bool]] = []
    before: list[tuple[Nat, UserNet]] = []  # NATs, with what they were made from
    pairs: list[tuple[Net, Net]] = [*made.kept, *made.changed]
    names = {id(new): old.name for old, new in pairs}  # net of the new file -> its name here
    try:
        for was, now in made.changed:
            nat = next((one for one in instance.usernets if one.name == was.name), None)
            if nat is not None:
                _change_forwards(nat, was, now, forwards)
                nat.reconfigure(now)
                before.append((nat, was))
        for net in made.removed:
            if instance.remove_net(net.name):
                undo.append(("add", net))
        for net in made.added:
            fresh = _renamed(instance, net)
            names[id(net)] = fresh.name
            instance.add_net(fresh)
            undo.append(("remove", fresh))
    except BuildError as error:
        for nat, was in before:
            nat.reconfigure(was)
        raise ReloadError(_back(instance, undo, forwards, str(error))) from error
    for old, new in pairs:
        member = instance.backend(old.name)
        if member is not None:
            member.what = new
    members = tuple(
        replace(m, name=names[id(m)]) if isinstance(m, Net) and id(m) in names else m
        for m in made.new.members
    )
    _park(instance, members)
    instance.config = replace(made.new, members=members)
    changed = f", {len(made.changed)} changed" if made.changed else ""
    return f"{len(made.added)} added, {len(made.removed)} removed{changed}, {len(made.kept)} as before"


def _park(instance: Instance, members: Sequence[object]) -> None:
    """What the mode keeps out of the new file, and what a monitor had added."""
    known = {net.name for net in instance.config.nets}
    out = [replace(net, plugged=True) for net in members if isinstance(net, Net) and not net.plugged]
    instance.parked = [net for net in instance.parked if net.name not in known] + out


def _renamed(instance: Instance, net: Net) -> Net:
    """A net that was kept may have the name that counting gave to a new one."""
    number = 0
    while instance.backend(net.name) is not None:
        net = replace(net, name=f"{net.kind}.{number}")
        number += 1
    return net


def _change_forwards(nat: Nat, was: UserNet, now: UserNet, done: list[tuple[Nat, HostForward, bool]]) -> None:
    for forward in was.forwards:
        if forward not in now.forwards:
            number = next((row.number for row in nat.forwards() if row.forward == forward), None)
            if number is not None and nat.remove_forward(number):
                done.append((nat, forward, False))
    for forward in now.forwards:
        if forward not in was.forwards:
            try:
                nat.add_forward(forward)
            except ValueError as error:
                raise BuildError(f"{now.origin}: {forward.option}{forward.text}: {error}") from error
            done.append((nat, forward, True))


def _back(
    instance: Instance,
    undo: list[tuple[str, Net]],
    forwards: list[tuple[Nat, HostForward, bool]],
    why: str,
) -> str:
    """Undo, last done first; the line."""
    lost = []
    for what, net in reversed(undo):
        if what == "remove":
            instance.remove_net(net.name)
            continue
        try:
            instance.add_net(net)
        except BuildError as error:
            lost.append(str(error))
    for nat, forward, added in reversed(forwards):
        if added:
            for row in list(nat.forwards()):
                if row.forward == forward:
                    nat.remove_forward(row.number)
        else:
            try:
                nat.add_forward(forward)
            except ValueError as error:
                lost.append(f"{forward.option}{forward.text}: {error}")
    return why + (f"; and what was there cannot be had again: {'; '.join(lost)}" if lost else "")
