"""The monitor's commands, all of them: one row each for the human and the machine's monitor (see ``table``).

To add one: a row in a tuple here, or a tuple of your own module in ``TABLES``, and a method of ``Control`` (or of your
module) that works on ``control.instance``. A handler raises ``ControlError`` for what its caller did wrong.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..config import MODES
from .cables import CABLES
from .captures import CAPTURES
from .control import Control
from .table import Arg, Arguments, Command, Kind

NETDEV = Arg("netdev", optional=True, meta="netdev_id", offers="backend")


def _names_a_file(arguments: Arguments) -> bool:
    """A redirection of a UNIX socket."""
    return str(arguments["rule"]).startswith("unix:")


def _quit(_control: Control, _arguments: Arguments) -> None:
    return None


GENERAL = (
    Command(
        hmp="quit|q",
        qmp="quit",
        summary="end this instance",
        run=_quit,
        ends=True,
    ),
    Command(
        hmp="info instance",
        qmp="x-tapnet-instance",
        summary="show name, pid, VLANs and mode",
        run=lambda c, a: c.instance_data(),
        text=lambda c, a: c.info_instance(),
    ),
    Command(
        hmp="info name",
        qmp="query-name",
        summary="show the name of this instance",
        run=lambda c, a: {"name": c.instance.name},
        text=lambda c, a: c.info_name(),
    ),
    Command(
        hmp="info status",
        qmp="query-status",
        summary="show whether the machine runs",
        run=lambda c, a: {"running": c.instance.status == "running", "status": c.instance.status},
        text=lambda c, a: c.info_status(),
    ),
    Command(hmp="info version", summary="show the version", run=lambda c, a: c.info_version()),
)

NETWORK = (
    Command(
        hmp="info network",
        summary="show the VLANs (-v: with link state and counters)",
        args=(Arg("verbose", Kind.FLAG, meta="v"),),
        run=lambda c, a: c.info_network(**a),
    ),
    Command(
        hmp="info ports",
        summary="show every port by its name, with kind, VLAN and link",
        run=lambda c, a: c.info_ports(),
    ),
    Command(hmp="info vlans", summary="show VLAN numbers and sizes", run=lambda c, a: c.info_vlans()),
    Command(
        hmp="info usernet", summary="show the flows of the user-mode NAT", run=lambda c, a: c.info_usernet()
    ),
    Command(
        hmp="info hostfwd",
        summary="show the redirections and their numbers",
        run=lambda c, a: c.info_hostfwd(),
    ),
    Command(
        hmp="set_link",
        qmp="set_link",
        args=(Arg("name", offers="port"), Arg("up", Kind.SWITCH)),
        summary="plug or pull the cable of a NIC or backend",
        run=lambda c, a: c.set_link(a["name"], a["up"]),
    ),
    Command(
        hmp="hostfwd_add",
        qmp="x-tapnet-hostfwd-add",
        args=(NETDEV, Arg("rule", meta="[tcp|udp|unix]:[hostaddr]:hostport-[guestaddr]:guestport")),
        summary="redirect a port of the host to a guest",
        run=lambda c, a: c.hostfwd_add(a["rule"], a.get("netdev")),
        trust=_names_a_file,
    ),
    Command(
        hmp="hostfwd_remove",
        qmp="x-tapnet-hostfwd-remove",
        args=(NETDEV, Arg("rule", meta="rule|number|[tcp|udp|unix]:[hostaddr]:hostport")),
        summary="end a redirection",
        run=lambda c, a: c.hostfwd_gone(a["rule"], a.get("netdev")),
        text=lambda c, a: c.hostfwd_remove(a["rule"], a.get("netdev")),
    ),
)

MODE = (
    Command(
        hmp="mode",
        qmp="x-tapnet-mode",
        args=(Arg("mode", choices=MODES), Arg("vlan", Kind.NUMBER, optional=True)),
        summary="swap the NAT and the TAP of all VLANs, or of one",
        run=lambda c, a: c.set_mode(**a),
        text=lambda c, a: c.show_mode(**a),
    ),
)

TABLES: tuple[Iterable[Command], ...] = (GENERAL, NETWORK, CABLES, CAPTURES, MODE)

COMMANDS: tuple[Command, ...] = tuple(command for table in TABLES for command in table)
BY_WORD = {name: command for command in COMMANDS if not command.info for name in command.names}
INFO = {name: command for command in COMMANDS if command.info for name in command.names}
BY_QMP = {command.qmp: command for command in COMMANDS if command.qmp}
