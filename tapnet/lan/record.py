"""What the commands of ``tapnet.lan`` share: errors with their exit status, signals as notes, and a bridge's record."""

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
    """One line, and the exit status that goes with it."""

    def __init__(self, text: str, status: int = USAGE) -> None:
        super().__init__(text)
        self.status = status


class Interrupted(Exception):
    """A signal asked us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class Outcome:
    """What a command did: lines to print, and warnings."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    changed: bool = True


class Signals:
    """SIGINT, SIGTERM and SIGHUP as a note that ``check`` looks at: no netlink call is cut in the middle.

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
        """Raises Interrupted."""
        if self.came:
            raise Interrupted(self.came)


@dataclass(frozen=True)
class Record:
    """What is written about one bridge."""

    bridge: str
    uplink: Link
    made: bool  # the bridge is ours
    state: str  # up, pending, raising, lowering
    had: Belongings  # of the uplink before; when lowering: of the bridge before
    beside: Belongings  # what a bridge that was there had of its own
    master: Link | None = None  # when lowering: the bridge
    first: dict[str, Any] | None = (
        None  # the record of the state before this change, if the bridge was ours then
    )
    at: float = 0.0
    deadline: float | None = None
    watchdog: tuple[int, int] | None = None  # pid, start time

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            **{key: value for key, value in asdict(self).items() if key not in ("had", "beside")},
            "had": self.had.to_json(),
            "beside": self.beside.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """From the file."""
        values = {key: data[key] for key in cls.__dataclass_fields__}
        values["uplink"] = link_of(data["uplink"])
        values["master"] = link_of(data["master"]) if data["master"] else None
        values["had"] = Belongings.from_json(data["had"])
        values["beside"] = Belongings.from_json(data["beside"])
        values["watchdog"] = tuple(data["watchdog"]) if data["watchdog"] else None
        return cls(**values)

    def but(self, **changes: Any) -> Record:
        """The same with other values."""
        return Record(**{**{key: getattr(self, key) for key in self.__dataclass_fields__}, **changes})

    def left(self) -> float:
        """Seconds until it is undone."""
        return max((self.deadline or 0) - journal.clock(), 0)


def link_of(data: dict[str, Any]) -> Link:
    return Link(**{**data, "data": tuple(tuple(pair) for pair in data["data"])})


def read(found: Journal) -> Record | None:
    """What is written."""
    data = found.read()
    return Record.from_json(data) if data is not None else None


def started(pid: int) -> int:
    """When a process began, in ticks: with its number, a name that is never used twice. Raises OSError."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
