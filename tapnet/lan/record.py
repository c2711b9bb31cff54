"""The commands of ``tapnet.lan`` share these: errors with their exit status, noted signals, and a bridge's
record.
"""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from ..system.signals import heeded
from . import journal
from .belongings import Belongings, Link
from .journal import Journal

USAGE, UNAVAILABLE, OSERR, NOPERM = 2, 69, 71, 77  # exit statuses: ours, and sysexits(3)


class BridgeError(Exception):
    """A command has failed; the error is one line with an exit status."""

    def __init__(self, text: str, status: int = USAGE) -> None:
        super().__init__(text)
        self.status = status


class Interrupted(Exception):
    """A signal has asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class Outcome:
    """This is what a command did: lines to print, and warnings."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    changed: bool = True


class Signals:
    """This context manager notes SIGINT, SIGTERM and SIGHUP for ``check``, so that no netlink call is
    interrupted.

    Those that our caller ignores stay ignored: under nohup, the end of the session undoes nothing.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.came = 0
        self._before: dict[int, Any] = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.came = self.came or number

    def __enter__(self) -> Signals:
        for number in heeded(self.NUMBERS):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, _what: str = "") -> None:
        """Raise Interrupted if a signal has come."""
        if self.came:
            raise Interrupted(self.came)


@dataclass(frozen=True)
class Record:
    """This is the undo record of one bridge."""

    bridge: str
    uplink: Link
    made: bool  # we made the bridge
    state: str  # up, pending, raising, lowering
    had: Belongings  # the uplink's configuration before; when lowering: the bridge's
    beside: Belongings  # the configuration of a bridge that existed before
    master: Link | None = None  # when lowering: the bridge
    first: dict[str, Any] | None = None  # the record before this change, if the bridge was ours then
    at: float = 0.0
    deadline: float | None = None
    watchdog: tuple[int, int] | None = None  # pid, start time

    def to_json(self) -> dict[str, Any]:
        """Return the record as a dictionary for the file."""
        return {
            **{key: value for key, value in asdict(self).items() if key not in ("had", "beside")},
            "had": self.had.to_json(),
            "beside": self.beside.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """Make a record from the dictionary that the file holds."""
        values = {key: data[key] for key in cls.__dataclass_fields__}
        values["uplink"] = link_of(data["uplink"])
        values["master"] = link_of(data["master"]) if data["master"] else None
        values["had"] = Belongings.from_json(data["had"])
        values["beside"] = Belongings.from_json(data["beside"])
        values["watchdog"] = tuple(data["watchdog"]) if data["watchdog"] else None
        return cls(**values)

    def but(self, **changes: Any) -> Record:
        """Return a copy of the record with some values changed."""
        return Record(**{**{key: getattr(self, key) for key in self.__dataclass_fields__}, **changes})

    def left(self) -> float:
        """Return the seconds until the bridge is undone."""
        return max((self.deadline or 0) - journal.clock(), 0)


def link_of(data: dict[str, Any]) -> Link:
    return Link(**{**data, "data": tuple(tuple(pair) for pair in data["data"])})


def read(found: Journal) -> Record | None:
    """Return the record of the bridge whose file is ``found``, or None."""
    data = found.read()
    return Record.from_json(data) if data is not None else None


def started(pid: int) -> int:
    """Return when a process began, in ticks; with its pid this names a process for good. Raises OSError."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
