"""The monitor's commands, all of them: one row each for the human and the machine's monitor (see ``table``).

To add one: a row in a tuple here, or a tuple of your own module in ``TABLES``, and a method of ``Control`` (or of your
module) that works on ``control.instance``. A handler raises ``ControlError`` for what its caller did wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from ...config import MODES
from . import reports
from .cables import CABLES
from .captures import CAPTURES
from .control import Control
from .nat import NAT
from .table import Arg, Arguments, Command, Kind
from .traces import TRACES
from .trust import names_more, rule_names_file

NETDEV = Arg("netdev", optional=True, meta="netdev_id", offers="backend")


OPTION = Arg("option", Kind.OPTION, meta="type[,key=value]...")


def _trust(option: str) -> Callable[[Arguments], bool]:
    """Whether a net or card names files or programs."""

    def needed(arguments: Arguments) -> bool:
        value = arguments["option"]
        return names_more(option, json.dumps(value) if isinstance(value, dict) else value)

    return needed


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
        hmp="info addresses|macs",
        qmp="x-tapnet-addresses",
        args=(Arg("vlan", Kind.NUMBER, optional=True),),
        summary="show what the VLANs that are switches have learned",
        run=lambda c, a: reports.addresses(c, **a),
        text=lambda c, a: reports.addresses_text(c, **a),
    ),
    Command(
        hmp="info cards|qtree",
        qmp="x-tapnet-cards",
        summary="show the cards: where they sit, and on which wire",
        run=lambda c, a: reports.cards(c),
        text=lambda c, a: reports.cards_text(c),
    ),
    Command(
        hmp="info leases",
        qmp="x-tapnet-leases",
        args=(NETDEV,),
        summary="show the DHCP leases of the user-mode NAT",
        run=lambda c, a: reports.leases(c, **a),
        text=lambda c, a: reports.leases_text(c, **a),
    ),
    Command(
        hmp="info ports",
        qmp="x-tapnet-ports",
        summary="show every port by its name, with kind, VLAN and link",
        run=lambda c, a: reports.ports(c),
        text=lambda c, a: c.info_ports(),
    ),
    Command(hmp="info vlans", summary="show VLAN numbers and sizes", run=lambda c, a: c.info_vlans()),
    Command(
        hmp="info usernet",
        qmp="x-tapnet-flows",
        args=(NETDEV,),
        summary="show the flows of the user-mode NAT",
        run=lambda c, a: reports.flows(c, **a),
        text=lambda c, a: c.info_usernet(**a),
    ),
    Command(
        hmp="info hostfwd",
        qmp="x-tapnet-forwards",
        args=(NETDEV,),
        summary="show the redirections and their numbers",
        run=lambda c, a: reports.forwards(c, **a),
        text=lambda c, a: c.info_hostfwd(**a),
    ),
    Command(
        qmp="x-tapnet-counters",
        args=(NETDEV,),
        summary="what the NATs counted",
        run=lambda c, a: reports.counters(c, **a),
    ),
    Command(
        qmp="query-rx-filter",
        args=(Arg("name", optional=True),),
        summary="what the cards' receivers let pass",
        run=lambda c, a: reports.rx_filters(c, **a),
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
        trust=rule_names_file,
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
        trust=True,  # a TAP's scripts run
    ),
)

LIVE = (
    Command(
        hmp="host_net_add",
        qmp="x-tapnet-net-add",
        args=(OPTION,),
        summary="add a backend (or a card) to a VLAN, as -net does",
        run=lambda c, a: c.instance.live.host_net_add(a["option"]),
        trust=_trust("net"),
    ),
    Command(
        hmp="host_net_remove",
        qmp="x-tapnet-net-del",
        args=(Arg("vlan", Kind.NUMBER, meta="vlan_id"), Arg("name", offers="backend")),
        summary="remove a backend from a VLAN",
        run=lambda c, a: c.instance.live.host_net_remove(a["vlan"], a["name"]),
    ),
    Command(
        hmp="netdev_add",
        qmp="netdev_add",
        args=(OPTION,),
        summary="add a backend for a card, as -netdev does",
        run=lambda c, a: c.instance.live.netdev_add(a["option"]),
        trust=_trust("netdev"),
    ),
    Command(
        hmp="netdev_del",
        qmp="netdev_del",
        args=(Arg("id", offers="backend"),),
        summary="remove a backend by its id",
        run=lambda c, a: c.instance.live.netdev_del(a["id"]),
    ),
    Command(
        hmp="device_add",
        qmp="device_add",
        args=(Arg("option", Kind.OPTION, meta="model[,key=value]..."),),
        summary="add a card, as -device does",
        run=lambda c, a: c.instance.live.device_add(a["option"]),
        trust=_trust("device"),
    ),
    Command(
        hmp="device_del",
        qmp="device_del",
        args=(Arg("id", offers="nic"),),
        summary="remove a card by its id",
        run=lambda c, a: c.instance.live.device_del(a["id"]),
    ),
)


TABLES: tuple[Iterable[Command], ...] = (GENERAL, NETWORK, LIVE, CABLES, CAPTURES, MODE, NAT, TRACES)

COMMANDS: tuple[Command, ...] = tuple(command for table in TABLES for command in table)
BY_WORD = {name: command for command in COMMANDS if not command.info for name in command.names}
INFO = {name: command for command in COMMANDS if command.info for name in command.names}
BY_QMP = {command.qmp: command for command in COMMANDS if command.qmp}
