"""This file keeps the undo record of a TAP that existed before us, on disk, so that the next process can
restore it if this one is killed.

It is written before the first change (``lan.journal``) and erased when the interface is restored. The next
process that opens an interface of that name, in this boot and network namespace, finds the file and restores
first. Where there is no directory for it (an odd user, a read-only /run), or another process has the same
interface, there is no file and no error.

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
    """This is the undo file of one interface, which is ours as long as this object is open. Raises OSError if
    there can be no file.
    """

    def __init__(self, ifname: str) -> None:
        self._file = -1
        self._index = socket.if_nametoindex(ifname)
        try:
            self._journal = Journal(KIND, ifname)
        except (Busy, PathError) as error:
            raise OSError(str(error)) from None

    def left(self) -> dict[str, Any] | None:
        """Return the settings that a killed process has not restored, or None."""
        found = self._journal.read()
        if found is None or found.get("index") != self._index:  # another interface of that name
            return None
        before = found.get("before")
        return before if isinstance(before, dict) else None

    def write(self, before: dict[str, Any]) -> None:
        """Write the former settings to the file, before the first change. Raises OSError."""
        self._journal.write({"before": before, "index": self._index})
        self._file = os.open(self._journal.path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, done: bool) -> None:
        """Release the file; with ``done`` erase it first, because the interface is restored. Idempotent."""
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
    """Return the undo file of an interface; None if there can be no file."""
    try:
        return Written(ifname)
    except OSError:
        return None
