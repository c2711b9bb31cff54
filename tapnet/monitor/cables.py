"""The monitor's ``impair`` and ``info impair``: bad cables of a running instance (``tapnet.faults``).

impair PORT [in|out] delay=10ms loss=1% ...      makes it, or changes the directions that are named
impair PORT off                                  a good cable again
"""

from __future__ import annotations

from typing import Any

from .. import faults, impairments
from ..port import Port
from .control import Control, ControlError
from .table import Arg, Arguments, Command, Kind


def port_named(control: Control, name: str) -> Port:
    """A port by the name of its member. Raises ControlError."""
    device = next((d for d in control.devices() if d.name == name and d.port is not None), None)
    if device is None or device.port is None:
        raise ControlError(f"Device '{name}' not found")
    return device.port


def _impair(control: Control, arguments: Arguments) -> None:
    port = port_named(control, arguments["name"])
    words = [str(word) for word in arguments["effects"]]
    if words == ["off"]:
        if not faults.straighten(port):
            raise ControlError(f"Device '{port.name}' is not impaired")
        return
    try:
        impairment = impairments.parse(words)
    except ValueError as error:
        raise ControlError(f"impair {port.name}: {error}") from None
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
