"""``log`` and ``logfile``: what is traced while tapnet runs, and where to."""

from __future__ import annotations

from ...errors import ControlError
from ...options import tables as keys
from ...text import nearest, shown
from .control import Control
from .table import Arg, Command


def log(control: Control, items: str) -> None:
    """Trace these items and nothing else; "none": nothing. Raises ControlError."""
    wanted = [] if items == "none" else items.split(",")
    for item in wanted:
        if item not in keys.LOG_ITEMS:
            near = nearest(item, keys.LOG_ITEMS) or f" (known: {' '.join(keys.LOG_ITEMS)})"
            raise ControlError(f"log: unknown item {shown(item)}{near}")
        if item in keys.LOG_LATER:
            raise ControlError(f"log: {item} is not built yet")
    control.instance.tracer.set(wanted)


def logfile(control: Control, file: str) -> None:
    """Write traces to a file; "-": to standard error. Raises ControlError."""
    try:
        control.instance.tracer.open(None if file == "-" else file)
    except OSError as error:
        raise ControlError(f"logfile: {file}: {error.strerror}") from None


def info_log(control: Control) -> str:
    """Items and file."""
    tracer = control.instance.tracer
    lost = f"\nlost lines: {tracer.lost}" if tracer.lost else ""
    return f"items: {','.join(tracer.items) or 'none'}\nfile: {tracer.path or '-'}{lost}"


TRACES = (
    Command(
        hmp="log",
        qmp="x-tapnet-log",
        args=(Arg("items", meta="item[,item]...|none"),),
        summary="trace these (-d help lists them), or nothing",
        run=lambda c, a: log(c, a["items"]),
    ),
    Command(
        hmp="logfile",
        qmp="x-tapnet-logfile",
        args=(Arg("file", meta="file|-"),),
        summary="write traces to a file",
        run=lambda c, a: logfile(c, a["file"]),
        trust=True,
    ),
    Command(hmp="info log", summary="show what is traced, and where to", run=lambda c, a: info_log(c)),
)
