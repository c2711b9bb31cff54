"""What a found TAP gets back, in a file, so that the next process can do it when this one is killed.

Written before the first change (``lan.journal``), erased when the interface is as it was. Whoever opens an interface of that
name next, in this boot and network namespace, finds it there and gives back first. Where there is no directory for it
(an odd user, a read-only /run), or another process has the same interface, there is no file and no error.

After ``--runas`` the file can no longer be removed, so it is emptied by a descriptor that was opened before.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

from ...lan.journal import Busy, Journal
from ...system.runtime import PathError

KIND = "tap"


class Written:
    """The file of one interface, ours as long as this is open. Raises OSError: there can be none."""

    def __init__(self, ifname: str) -> None:
        self._file = -1
        self._index = socket.if_nametoindex(ifname)
        try:
            self._journal = Journal(KIND, ifname)
        except (Busy, PathError) as error:
            raise OSError(str(error)) from None

    def left(self) -> dict[str, Any] | None:
        """What a process that was killed has left to do."""
        found = self._journal.read()
        if found is None or found.get("index") != self._index:  # another interface of that name
            return None
        before = found.get("before")
        return before if isinstance(before, dict) else None

    def write(self, before: dict[str, Any]) -> None:
        """Before the first change. Raises OSError."""
        self._journal.write({"before": before, "index": self._index})
        self._file = os.open(self._journal.path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, done: bool) -> None:
        """``done``: the interface is as it was. Idempotent."""
        if done:
            if self._file >= 0:
                os.ftruncate(self._file, 0)
            with contextlib.suppress(OSError):
                self._journal.erase()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        with contextlib.suppress(OSError):
            self._journal.close()


def open_written(ifname: str) -> Written | None:
    """None: there can be none."""
    try:
        return Written(ifname)
    except OSError:
        return None
