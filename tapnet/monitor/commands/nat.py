"""Requests about user-mode networks: services for guests at run time, and all of a NAT as JSON."""

from __future__ import annotations

import json
from typing import Any

from ...backends.user.report import UserNet
from ...errors import Refused
from ...options import grammars as rules
from . import reports
from .control import Control
from .table import Arg, Arguments, Command

NETDEV = Arg("netdev", optional=True, meta="netdev_id", offers="backend")
NAMES_FILES = ("cmd", "file", "unix")


def _names_a_file(arguments: Arguments) -> bool:
    """A service that runs a program or names a file. What cannot be read does neither."""
    try:
        return rules.guestfwd(str(arguments["rule"])).target in NAMES_FILES
    except ValueError:
        return False


def guestfwd_add(control: Control, rule: str, name: str | None = None) -> dict[str, int]:
    """Add a service; its number. Raises Refused."""
    nat = control.usernet(name)
    try:
        return {"number": nat.add_guest_forward(rules.guestfwd(rule))}
    except ValueError as error:
        raise Refused(f"Could not set up guest forwarding rule '{rule}': {error}") from None


def _remove(control: Control, rule: str, name: str | None) -> bool:
    nat = control.usernet(name)
    number = _number(nat, rule)
    return number is not None and nat.remove_guest_forward(number)


def _number(nat: UserNet, rule: str) -> int | None:
    """By the text that added it, by its part before the target, or by its number. Raises Refused."""
    rows = list(nat.guest_forwards())
    if rule.isascii() and rule.isdigit():
        return next((row.number for row in rows if row.number == int(rule)), None)
    found = next((row.number for row in rows if row.forward.text == rule), None)
    if found is not None:
        return found
    try:
        protocol, address, port = rules.guestfwd_place(rule)
    except ValueError:
        try:
            whole = rules.guestfwd(rule)
        except ValueError:
            raise Refused("invalid format") from None
        return next(
            (
                row.number
                for row in rows
                if (whole.protocol, whole.address, whole.port, whole.target, whole.to)
                == (
                    row.forward.protocol,
                    row.forward.address,
                    row.forward.port,
                    row.forward.target,
                    row.forward.to,
                )
            ),
            None,
        )
    for row in rows:
        place = (row.forward.protocol, row.forward.port)
        if place == (protocol, port) and (row.forward.address == address or row.address == str(address)):
            return row.number
    return None


def guestfwd_remove(control: Control, rule: str, name: str | None = None) -> str:
    """End a service. Raises Refused."""
    gone = _remove(control, rule, name)
    return f"guest forwarding rule for {rule} {'removed' if gone else 'not found'}"


def guestfwd_gone(control: Control, rule: str, name: str | None = None) -> None:
    """The same; Refused if there is none."""
    if not _remove(control, rule, name):
        raise Refused(f"guest forwarding rule for {rule} not found")


def _title(nat: UserNet) -> str:
    return f"VLAN {-1 if nat.vlan is None else nat.vlan} ({nat.name}):"


def info_guestfwd(control: Control) -> str:
    """Services of every NAT, with their numbers and addresses."""
    lines = []
    for nat in control.instance.usernets:
        lines.append(_title(nat))
        for number, forward, address in nat.guest_forwards():
            where = "" if forward.address else f" (at {address})"
            lines.append(f"  {number:>3}  {forward.text}{where}")
    return "\n".join(lines)


def services(nat: UserNet) -> list[dict[str, Any]]:
    """Services of a NAT, oldest first."""
    return [
        {
            "number": row.number,
            "rule": row.forward.text,
            "protocol": row.forward.protocol,
            "address": row.address,
            "port": row.forward.port,
            "target": row.forward.target,
            "to": str(row.forward.to),
        }
        for row in nat.guest_forwards()
    ]


def usernet_data(control: Control) -> list[dict[str, Any]]:
    """Everything about every NAT, JSON-able."""
    found = []
    for nat in control.instance.usernets:
        found.append(
            {
                "name": nat.name,
                "vlan": nat.vlan,
                "flows": reports.flows(control, nat.name),
                "hostfwd": reports.forwards(control, nat.name),
                "guestfwd": services(nat),
                "filters": list(nat.filters()),
                "leases": reports.leases(control, nat.name),
                "counters": nat.counters(),
            }
        )
    return found


NAT = (
    Command(
        hmp="info usernets",
        qmp="x-tapnet-usernets",
        summary="show everything about the user-mode NATs, as JSON",
        run=lambda c, a: usernet_data(c),
        text=lambda c, a: json.dumps(usernet_data(c), indent=1),
    ),
    Command(
        hmp="info guestfwd",
        summary="show the services for guests and their numbers",
        run=lambda c, a: info_guestfwd(c),
    ),
    Command(
        hmp="guestfwd_add",
        qmp="x-tapnet-guestfwd-add",
        args=(NETDEV, Arg("rule", meta="[tcp|udp]:[addr]:port-target")),
        summary="answer guests at an address of the net by a program, a connection or a socket",
        run=lambda c, a: guestfwd_add(c, a["rule"], a.get("netdev")),
        text=lambda c, a: guestfwd_add(c, a["rule"], a.get("netdev")) and None,
        trust=_names_a_file,
    ),
    Command(
        hmp="guestfwd_remove",
        qmp="x-tapnet-guestfwd-remove",
        args=(NETDEV, Arg("rule", meta="rule|number|[tcp|udp]:[addr]:port")),
        summary="end a service for guests",
        run=lambda c, a: guestfwd_gone(c, a["rule"], a.get("netdev")),
        text=lambda c, a: guestfwd_remove(c, a["rule"], a.get("netdev")),
    ),
)
