"""The monitor's ``capture`` and ``info captures``.

    capture start VLAN|PORT FILE      pcapng; VLAN is a number, PORT a member's name
    capture stop VLAN|PORT [FILE]

FILE "-" is standard output of ``tapnet monitor capture start VLAN|PORT -``, or shorter ``tapnet capture VLAN|PORT``: the
client asks for a pipe of its own (``live``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...capture.captures import CaptureError, member
from ...errors import ControlError
from ...vlan.hub import Hub
from ...vlan.port import Port
from .control import Control
from .table import Arg, Arguments, Command


def _target(control: Control, name: str) -> tuple[Hub, Callable[[Port], bool] | None]:
    """Where to look, and at which ports (None: all). Raises ControlError."""
    instance = control.instance
    if name.isascii() and name.isdigit():
        hub = instance.hubs.get(int(name))
        if hub is None:
            raise ControlError(f"there is no VLAN {name}")
        return hub, None
    for number, devices in instance.vlans.items():
        if any(device.name == name for device in devices):
            return instance.hubs[number], member(name)
    for wire in instance.wires:
        device = next((d for d in wire if d.name == name), None)
        hub = next((d.port.vlan for d in wire if d.port is not None and d.port.vlan is not None), None)
        if device is not None and hub is not None:
            return hub, member(name)
    raise ControlError(f"Device '{name}' not found")


def _capture(control: Control, arguments: Arguments) -> None:
    name, file = arguments["target"], arguments.get("file")
    captures = control.instance.captures
    if arguments["action"] == "stop":
        if not captures.stop(name, file):
            raise ControlError(f"no capture of {name}{f' into {file}' if file else ''}")
        return
    if file is None:
        raise ControlError(f"capture start {name}: needs a file")
    if file == "-":
        raise ControlError(f"capture start {name}: standard output is for: tapnet capture {name}")
    hub, match = _target(control, name)
    try:
        captures.start(hub, name, match, file)
    except CaptureError as error:
        raise ControlError(f"capture start {name}: {error}") from None


def _rows(control: Control, _arguments: Arguments) -> list[dict[str, Any]]:
    return [row._asdict() for row in control.instance.captures.rows()]


def _info(control: Control, _arguments: Arguments) -> str:
    return "\n".join(
        f"{row.target}: {row.file}, {row.frames} frames, {row.lost} missed{f' ({row.why})' if row.why else ''}"
        for row in control.instance.captures.rows()
    )


CAPTURES = (
    Command(
        hmp="capture",
        qmp="x-tapnet-capture",
        args=(
            Arg("action", choices=("start", "stop")),
            Arg("target", meta="vlan|port", offers="port"),
            Arg("file", optional=True),
        ),
        summary="write a VLAN's or a member's frames to a file, as pcapng",
        run=_capture,
        trust=True,
    ),
    Command(
        hmp="info captures",
        qmp="x-tapnet-query-captures",
        summary="show the captures that run",
        run=_rows,
        text=_info,
    ),
)
