"""The monitor's ``impair`` and ``info impair``: bad cables of a running instance (``tapnet.vlan.faults``).

impair PORT [in|out] delay=10ms loss=1% ...      makes it, or changes the directions that are named
impair PORT off                                  a good cable again
"""

from __future__ import annotations

from typing import Any

from ...errors import ControlError
from ...options import impairments
from ...vlan import faults
from ...vlan.port import Port
from .control import Control
from .table import Arg, Arguments, Command, Kind


def ports_named(control: Control, name: str) -> list[Port]:
    """The port of a member by its name; of a listener, those of its clients. Raises ControlError."""
    devices = list(control.devices())
    found = [d.port for d in devices if d.name == name and d.port is not None]
    if not found:
        found = [d.port for d in devices if d.name.startswith(name + ".") and d.port is not None]
    if not found:
        known = any(d.name == name for d in devices)
        raise ControlError(f"'{name}' has no client" if known else f"Device '{name}' not found")
    return found


def _impair(control: Control, arguments: Arguments) -> None:
    ports = ports_named(control, arguments["name"])
    words = [str(word) for word in arguments["effects"]]
    if words == ["off"]:
        if not [port for port in ports if faults.straighten(port)]:
            raise ControlError(f"Device '{arguments['name']}' is not impaired")
        return
    try:
        impairment = impairments.parse(words)
    except ValueError as error:
        raise ControlError(f"impair {arguments['name']}: {error}") from None
    for port in ports:
        control.instance.impair(port, impairment)


def _reports(control: Control) -> list[faults.Report]:
    boxes = [d.port.inline for d in control.devices() if d.port is not None]
    return [report for box in boxes if isinstance(box, faults.Box) for report in box.report()]


def _rows(control: Control, _arguments: Arguments) -> list[dict[str, Any]]:
    return [report._asdict() for report in _reports(control)]


def _info(control: Control, _arguments: Arguments) -> str:
    lines = []
    for report in _reports(control):
        figures = " ".join(f"{key}={count}" for key, count in report.counters.items())
        lines.append(f"{report.port} {report.direction}: {report.effects}")
        lines.append(f"  {figures} waiting={report.waiting}")
    return "\n".join(lines)


CABLES = (
    Command(
        hmp="impair",
        qmp="x-tapnet-impair",
        args=(
            Arg("name", offers="port"),
            Arg(
                "effects",
                Kind.REST,
                meta="off | [in|out] delay= jitter= loss= dup= reorder= corrupt= rate= mtu= limit= seed=",
            ),
        ),
        summary="make a port's cable bad, or good again",
        run=_impair,
    ),
    Command(
        hmp="info impair",
        qmp="x-tapnet-query-impair",
        summary="show the bad cables and what they have done",
        run=_rows,
        text=_info,
    ),
)
