"""A bridge that takes over its uplink: ``tapnet bridge up BR --uplink IF``, ``down``, ``show``, ``confirm``.

    before   host's addresses, routes, rules ─ IF ─ LAN
    after    host's addresses, routes, rules ─ BR ─┬─ IF ─ LAN
                                                   └─ TAPs of guests

``up`` makes the bridge (or takes one that exists), joins the uplink to it and moves what the uplink has: addresses,
routes of all tables, policy rules, permanent neighbours (``tapnet.lan.rtnl``). Each thing is added to the bridge before
it is taken from the uplink, so connections live on. The bridge has the uplink's MAC address, so that nobody on the LAN
has to learn anything; its MTU, so that a guest's TAP does not lower the host's; no spanning tree; 300 s of ageing; and
the uplink's settings below /proc/sys/net/ipv{4,6}/conf.

Undo is written first (``tapnet.lan.journal``): the state before, not a list of steps, so that it serves whatever was
done of them. It is used when the kernel refuses something, on SIGINT, SIGTERM and SIGHUP, and by the next ``tapnet
bridge`` command when this one was killed. ``down`` is the same the other way round, with what the bridge has by then.

``--confirm-timeout=N``: a process of its own, started before the first change, puts everything back after N seconds
unless ``tapnet bridge confirm BR`` comes before; also if it is told to end (SIGTERM) before that.

Not moved: addresses that a DHCP client puts on the uplink again (``up`` warns of leased ones), firewall rules that name
the uplink, multicast memberships of programs. Wi-Fi stations cannot be bridged: ``tapnet route``.

Ref: Documentation/networking/bridge.rst; ip-link(8) bridge; IEEE 802.1D-2004 7.9.2 (ageing).
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..text import nearest
from . import journal, sysctl
from .belongings import FOREVER, Belongings, Link, attribute
from .journal import Journal
from .record import NOPERM, OSERR, UNAVAILABLE, BridgeError, Outcome, Record, Signals, read, started
from .rtnl import Kernel, KernelError, Step

KIND = "bridge"
AGEING_CS = 30000  # 300 s, the default of IEEE 802.1D


# ---- up ----------------------------------------------------------------------------------------------------


def up(
    name: str,
    uplink: str,
    confirm: float | None = None,
    step: Step = lambda what: None,
    watch: Callable[[str, float], tuple[int, int]] | None = None,
) -> Outcome:
    """Make ``name`` the host's way to the LAN of ``uplink``. Raises BridgeError, Interrupted; then all is as it was.

    confirm  seconds after which ``watch``'s process undoes it
    step     called before each change with what it is; may raise
    """
    with _opened(name) as found, Signals() as signals:
        outcome = Outcome()

        def checked(what: str) -> None:
            signals.check()
            step(what)

        with Kernel(checked) as kernel:
            recover(found, kernel, outcome)
            source, bridge = _judge(kernel, name, uplink, read(found))
            had = kernel.belongings(source)
            if bridge is not None and source.master == bridge.index and not _to_move(had):
                record = read(found)
                outcome.changed = False
                waits = f"; {_waits(record)}" if record and record.state == "pending" else ""
                outcome.lines.append(f"{name}: is up on {uplink} already; nothing changed{waits}")
                return outcome
            outcome.warnings += _warnings(source, had, name)
            first = read(found)
            record = Record(
                bridge=name, uplink=source, made=bridge is None, state="raising", had=had,
                beside=kernel.belongings(bridge) if bridge else Belongings(), at=journal.clock(),
                deadline=journal.clock() + confirm if confirm else None, first=first.to_json() if first else None,
            )  # fmt: skip
            found.write(record.to_json())
            try:
                if confirm and watch and first is None:
                    record = record.but(watchdog=watch(name, confirm))
                    found.write(record.to_json())
                _raise(kernel, record)
                checked("done")
                if first is not None:
                    record = first.but(had=first.had.plus(had.moved(source, first.uplink)))
                else:
                    record = record.but(state="pending" if confirm else "up")
                found.write(record.to_json())
            except BaseException as error:
                _back(found, record, error)
                raise _told(error, name, uplink) from None
    what = "joined" if bridge else "made"
    outcome.lines.append(f"{name}: {what}, with {uplink} in it; moved {had.count()}")
    if record.state == "pending":
        outcome.lines.append(f"{name}: {_waits(record)}")
    return outcome


def _waits(record: Record) -> str:
    return f"undone in {record.left():.0f} s unless you say: tapnet bridge confirm {record.bridge}"


def _to_move(had: Belongings) -> bool:
    """Whether an uplink has more than the link-local address that the kernel gives it."""
    scopes = [a["scope"] for a in had.addresses if not (a["family"] == 10 and a["scope"] == 253)]
    return bool(scopes or had.routes or had.rules)


def _judge(kernel: Kernel, name: str, uplink: str, record: Record | None) -> tuple[Link, Link | None]:
    """The uplink, and the bridge if there is one. Raises BridgeError."""
    links = {link.name: link for link in kernel.links()}
    source, bridge = links.get(uplink), links.get(name)
    if source is None:
        raise BridgeError(f"--uplink {uplink}: no such interface{nearest(uplink, list(links))}")
    if uplink == name:
        raise BridgeError(f"--uplink {uplink}: is the bridge itself")
    if bridge is not None and bridge.kind != "bridge":
        raise BridgeError(f"{name}: is no bridge, but a {bridge.kind or 'device'}")
    if wireless(uplink):
        raise BridgeError(
            f"--uplink {uplink}: a Wi-Fi station cannot be bridged (its access point takes frames from one address "
            f"only): tapnet route TAP --uplink {uplink}"
        )
    if source.kind == "bridge" or not source.ether or uplink == "lo":
        what = "a bridge itself" if source.kind == "bridge" else "no Ethernet interface"
        raise BridgeError(f"--uplink {uplink}: is {what}, and cannot be a member of one")
    if source.master and (bridge is None or source.master != bridge.index):
        master = next(
            (link.name for link in links.values() if link.index == source.master), "another interface"
        )
        raise BridgeError(f"--uplink {uplink}: is a member of {master} already")
    if record is not None and record.uplink.name != uplink:
        raise BridgeError(f"{name}: its uplink is {record.uplink.name}; tapnet bridge down {name} first")
    return source, bridge


def wireless(name: str, sys: Path = Path("/sys/class/net")) -> bool:
    """Whether an interface is a Wi-Fi one."""
    return (sys / name / "phy80211").exists() or (sys / name / "wireless").exists()


def _warnings(source: Link, had: Belongings, name: str, run: Path = Path("/run")) -> list[str]:
    """What will not last."""
    found = []
    leased = []
    for address in had.addresses:
        info = attribute(address, "IFA_CACHEINFO")
        if address["family"] == 2 and info and info["ifa_valid"] != FOREVER:
            leased.append(f"{attribute(address, 'IFA_LOCAL')} for {info['ifa_valid']} s")
    if leased:
        found.append(
            f"{source.name} has leased {', '.join(leased)}: end its DHCP client and start one on {name}"
        )
    managers = (
        ("NetworkManager", run / f"NetworkManager/devices/{source.index}"),
        ("systemd-networkd", run / f"systemd/netif/links/{source.index}"),
    )
    for manager, state in managers:
        try:
            text = state.read_text(errors="replace")
        except OSError:
            continue
        if "ADMIN_STATE=unmanaged" not in text and "managed=false" not in text:
            found.append(
                f"{source.name} is managed by {manager}, which may put its addresses back: configure {name} there too"
            )
    return found


def _raise(kernel: Kernel, record: Record) -> None:
    """Do what ``record`` says."""
    name, source = record.bridge, record.uplink
    if record.made:
        kernel.change_link(
            "add", f"make bridge {name}", ifname=name, kind="bridge", address=source.mac, mtu=source.mtu,
            br_stp_state=0, br_ageing_time=AGEING_CS,
        )  # fmt: skip
        sysctl.copy(source.name, name)
        sysctl.link_local(name, sysctl.NO_LINK_LOCAL)  # it comes with the others, without duplicate detection
    bridge = _must(kernel, name)
    kernel.change_link("set", f"{name} up", index=bridge.index, state="up")
    if not source.up:
        kernel.change_link("set", f"{source.name} up", index=source.index, state="up")
    if source.master != bridge.index:
        kernel.change_link("set", f"{source.name} joins {name}", index=source.index, master=bridge.index)
    kernel.move(record.had, record.had.moved(source, bridge))
    if record.made:
        sysctl.link_local(name, sysctl.read(sysctl.path(6, source.name, sysctl.LINK_LOCAL)) or "0")


def _must(kernel: Kernel, name: str) -> Link:
    found = kernel.link(name)
    if found is None:
        raise KernelError(errno.ENODEV, name)
    return found


def _told(error: BaseException, name: str, uplink: str) -> BaseException:
    """The error that the user is told."""
    if isinstance(error, KernelError):
        if error.errno in (errno.EPERM, errno.EACCES):
            return BridgeError(f"{name}: {error} (needs CAP_NET_ADMIN: run as root)", NOPERM)
        hint = ""
        if error.errno in (errno.EBUSY, errno.EINVAL) and "joins" in error.what:
            hint = f" (is there a macvlan, a VLAN filter or the like on {uplink}?)"
        return BridgeError(f"{name}: {error}{hint}; all is as it was", OSERR)
    if isinstance(error, OSError):
        return BridgeError(f"{name}: {error}; all is as it was", OSERR)
    return error


# ---- back --------------------------------------------------------------------------------------------------


def _back(found: Journal, record: Record, error: BaseException) -> None:
    """Undo after ``error``. Raises BridgeError if that fails too: then the file stays."""
    try:
        with Kernel() as kernel:
            undo(found, record, kernel)
    except (OSError, KernelError) as again:
        raise BridgeError(
            f"{record.bridge}: {error}; and putting it back failed: {again}; what was before is in {found.path}, "
            f"try again: tapnet bridge down {record.bridge}", OSERR,
        ) from None  # fmt: skip
    _dismiss(record)


def undo(found: Journal, record: Record, kernel: Kernel) -> None:
    """Have the state that ``record`` wrote down. Raises KernelError."""
    if record.state == "lowering":
        _undo_down(found, record, kernel)
        return
    _undo_up(kernel, record)
    if record.first is not None:
        found.write(record.first)
    else:
        found.erase()


def _undo_up(kernel: Kernel, record: Record) -> None:
    bridge, uplink = kernel.link(record.bridge), kernel.link(record.uplink.name)
    if uplink is not None:
        had = record.had.aged(journal.clock() - record.at).moved(record.uplink, uplink)
        if bridge is not None:
            if uplink.master == bridge.index and record.uplink.master != bridge.index:
                kernel.change_link("set", f"{uplink.name} leaves", index=uplink.index, master=0)
            away = had.moved(uplink, bridge).without(record.beside.moved(bridge, bridge))
            kernel.move(away, had)
        else:
            _without_bridge(kernel, record, had, uplink)
    if record.made and bridge is not None:
        kernel.change_link("del", f"remove {record.bridge}", index=bridge.index)
        if uplink is not None:
            kernel.ensure_routes([*had.routes, *had.watched])
    if uplink is not None and not record.uplink.up:
        kernel.change_link("set", f"{uplink.name} down", index=uplink.index, state="down")


def _without_bridge(kernel: Kernel, record: Record, had: Belongings, uplink: Link) -> None:
    """Have ``had`` when there is no bridge any more. Rules go by name: they are still there."""
    ghost = replace(uplink, name=record.bridge, index=0)
    kernel.move(Belongings(rules=had.moved(uplink, ghost).rules), had)


def recover(found: Journal, kernel: Kernel, outcome: Outcome) -> None:
    """Finish what a process left that was killed, or whose time for confirmation is over."""
    record = read(found)
    if record is None:
        return
    expired = record.state == "pending" and record.deadline is not None and not record.left()
    if record.state in ("raising", "lowering") or expired:
        with Kernel() as quiet:
            undo(found, record, quiet)
        _dismiss(record)
        why = "was not confirmed in time" if expired else "an interrupted command"
        outcome.lines.append(f"{record.bridge}: {why}: put back what was before")
    elif kernel.link(record.bridge) is None or kernel.link(record.uplink.name) is None:
        with Kernel() as quiet:
            _undo_up(quiet, record)
        found.erase()  # somebody deleted the bridge, or pulled the uplink
        outcome.lines.append(f"{record.bridge}: the bridge or its uplink is gone: cleaned up after it")


def _dismiss(record: Record) -> None:
    """Let the watchdog look: it ends when nothing waits."""
    if record.watchdog is None:
        return
    pid, start = record.watchdog
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            if started(pid) == start:
                signal.pidfd_send_signal(descriptor, signal.SIGUSR1)
        finally:
            os.close(descriptor)


# ---- down, confirm, show -----------------------------------------------------------------------------------


def down(name: str, force: bool = False, step: Step = lambda what: None) -> Outcome:
    """Give the uplink back what the bridge has by now, and remove the bridge if ``up`` made it.

    force   even if the bridge has other members: guests that will be cut off

    Raises BridgeError, Interrupted; then all is as it was.
    """
    with _opened(name) as found, Signals() as signals:
        outcome = Outcome()

        def checked(what: str) -> None:
            signals.check()
            step(what)

        with Kernel(checked) as kernel:
            recover(found, kernel, outcome)
            record = read(found)
            if record is None:
                if outcome.lines:
                    return outcome
                if kernel.link(name) is None:
                    outcome.changed = False
                    outcome.lines.append(f"{name}: there is no such bridge; nothing changed")
                    return outcome
                raise BridgeError(
                    f"{name}: was not set up by tapnet bridge up, so there is nothing to put back"
                )
            bridge, uplink = _must(kernel, name), _must(kernel, record.uplink.name)
            others = [
                link.name
                for link in kernel.links()
                if link.master == bridge.index and link.index != uplink.index
            ]
            if others and record.made and not force:
                raise BridgeError(
                    f"{name}: {', '.join(others)} would be cut off: end the guests first, or --force"
                )
            had = kernel.belongings(bridge)
            if not record.made:
                had = had.without(had.without(record.had.moved(record.uplink, bridge)))
            lowering = record.but(
                state="lowering", had=had, master=bridge, at=journal.clock(), first=record.to_json()
            )
            found.write(lowering.to_json())
            try:
                _lower(kernel, lowering, bridge, uplink)
                found.erase()
            except BaseException as error:
                _back(found, lowering, error)
                raise _told(error, name, uplink.name) from None
            _dismiss(record)
    outcome.lines.append(
        f"{name}: {'removed' if record.made else 'left'}; {uplink.name} has {had.count()} again"
    )
    return outcome


def _lower(kernel: Kernel, record: Record, bridge: Link, uplink: Link) -> None:
    there = record.had.moved(bridge, uplink)
    kernel.change_link("set", f"{uplink.name} leaves {bridge.name}", index=uplink.index, master=0)
    if record.made:
        kernel.ensure(there)
        kernel.clear(Belongings(rules=record.had.rules))
        kernel.change_link("del", f"remove {bridge.name}", index=bridge.index)
    else:
        kernel.move(record.had, there)
        kernel.step("done")
    with Kernel() as quiet:  # nothing stops us any more
        quiet.ensure_routes([*there.routes, *there.watched])
        if not record.uplink.up:
            quiet.change_link("set", f"{uplink.name} down", index=uplink.index, state="down")


def _undo_down(found: Journal, record: Record, kernel: Kernel) -> None:
    """Up again; or, when the bridge is gone already, down for good."""
    bridge, uplink = kernel.link(record.bridge), kernel.link(record.uplink.name)
    assert record.master is not None
    if bridge is None or uplink is None:
        if uplink is not None:
            had = record.had.aged(journal.clock() - record.at).moved(record.master, uplink)
            _without_bridge(kernel, record, had, uplink)
        found.erase()
        return
    had = record.had.aged(journal.clock() - record.at).moved(record.master, bridge)
    kernel.change_link("set", f"{bridge.name} up", index=bridge.index, state="up")
    kernel.change_link("set", f"{uplink.name} up", index=uplink.index, state="up")
    if uplink.master != bridge.index:
        kernel.change_link(
            "set", f"{uplink.name} joins {bridge.name}", index=uplink.index, master=bridge.index
        )
    kernel.move(had.moved(bridge, uplink), had)
    assert record.first is not None
    found.write(record.first)


def confirm(name: str) -> Outcome:
    """Keep what ``up --confirm-timeout`` did. Raises BridgeError."""
    with _opened(name) as found:
        outcome = Outcome()
        with Kernel() as kernel:
            recover(found, kernel, outcome)
        record = read(found)
        if record is None:
            why = outcome.lines[-1] if outcome.lines else f"{name}: nothing waits for confirmation"
            raise BridgeError(why)
        if record.state != "pending":
            outcome.changed = False
            outcome.lines.append(f"{name}: is confirmed already")
            return outcome
        found.write(record.but(state="up", deadline=None, watchdog=None).to_json())
        _dismiss(record)
    outcome.lines.append(f"{name}: confirmed")
    return outcome


def show() -> list[dict[str, Any]]:
    """All bridges of this namespace, and those that are written down but gone."""
    records = {}
    for name in journal.names(KIND):
        data = journal.look(KIND, name)
        if data is not None:
            records[name] = Record.from_json(data)
    with Kernel() as kernel:
        links = kernel.links()
        found = []
        for link in links:
            if link.kind != "bridge":
                continue
            data = dict(link.data)
            record = records.pop(link.name, None)
            found.append(
                {
                    "bridge": link.name,
                    "uplink": record.uplink.name if record else None,
                    "state": record.state if record else "not ours",
                    "undone_in": math.ceil(record.left()) if record and record.deadline is not None else None,
                    "members": [one.name for one in links if one.master == link.index],
                    "addresses": [
                        f"{attribute(a, 'IFA_LOCAL') or attribute(a, 'IFA_ADDRESS')}/{a['prefixlen']}"
                        for a in kernel.addresses(link.index)
                    ],
                    "mac": link.mac,
                    "mtu": link.mtu,
                    "stp": bool(data.get("IFLA_BR_STP_STATE")),
                    "ageing_s": data.get("IFLA_BR_AGEING_TIME", 0) / 100,
                }
            )
    for record in records.values():
        found.append(
            {
                "bridge": record.bridge,
                "uplink": record.uplink.name,
                "state": "gone",
                "undone_in": None,
                "members": [],
            }
        )
    return found


@contextlib.contextmanager
def _opened(name: str) -> Any:
    """The file of one bridge, locked. Raises BridgeError."""
    if not may():
        raise BridgeError(f"{name}: needs CAP_NET_ADMIN: run as root", NOPERM)
    try:
        with Journal(KIND, name) as found:
            yield found
    except journal.Busy as error:
        raise BridgeError(str(error), UNAVAILABLE) from None


def may() -> bool:
    from ..system.capabilities import check_capabilities

    return check_capabilities().ok
