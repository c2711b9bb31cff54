"""DHCP leases that outlive a restart: one JSON file of a NAT's in the directory that ``state=`` names.

Read at start; written ``DELAY`` after a lease changed, and at the end. A thread writes, to a new file that then takes
the name, so that a crash leaves the old one or the new one whole. Times in the file are those of the wall clock (``until``, in
seconds since 1970; null: for ever).

Limits: ``SIZE`` bytes are read. A write that fails is counted and tried again at the next change.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

DELAY = 1.0
SIZE = 4 << 20
VERSION = 1


class Leases(Protocol):
    """The DHCP server's memory (``slirp.services.leases``). ``changed`` is called after each change."""

    changed: Callable[[], None]

    def rows(self, now: int) -> list[dict[str, Any]]:
        """JSON-able; ``expires`` in seconds from now, or None."""

    def restore(self, rows: Iterable[Mapping[str, Any]], now: int) -> int:
        """Take them up again. Raises ValueError, KeyError or TypeError."""


class LeaseFile:
    """``DIRECTORY/NAME.leases`` for ``leases``. Raises ValueError with the reason: not a directory of ours, not our file."""

    def __init__(
        self,
        directory: str,
        name: str,
        leases: Leases,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], int],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.path = os.path.join(directory, f"{name}.leases")
        self.failed = 0  # writes
        self._directory = directory
        self._leases = leases
        self._loop = loop
        self._clock = clock
        self._wall = wall
        self._timer: asyncio.TimerHandle | None = None
        self._changed = False
        if not os.path.isdir(directory):
            reason = "Not a directory" if os.path.exists(directory) else "No such file or directory"
            raise ValueError(f"state={directory}: {reason}")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ValueError(f"state={directory}: Permission denied")
        self._read()
        self._writer = ThreadPoolExecutor(1, "leases")
        leases.changed = self._note

    def _read(self) -> None:
        try:
            with open(self.path, encoding="utf-8") as file:
                data: Any = json.loads(file.read(SIZE))
            if data["version"] != VERSION:
                raise ValueError("of another version")
            wall = self._wall()
            rows = [
                {**row, "expires": None if row["until"] is None else float(row["until"]) - wall}
                for row in data["leases"]
            ]
            self._leases.restore(rows, self._clock())
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ValueError(f"state={self._directory}: {self.path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"state={self._directory}: {self.path}: not a file of leases") from None

    def _note(self) -> None:
        """A lease changed."""
        self._changed = True
        if self._timer is None:
            self._timer = self._loop.call_later(DELAY, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._changed:
            self._changed = False
            self._writer.submit(self._write, self._content())

    def _content(self) -> str:
        wall = self._wall()
        rows = []
        for row in self._leases.rows(self._clock()):
            left = row.pop("expires")
            rows.append({**row, "until": None if left is None else round(wall + left, 3)})
        return json.dumps({"version": VERSION, "leases": rows}, indent=1) + "\n"

    def _write(self, content: str) -> None:
        import tempfile  # here: for those who have a state directory

        temporary = None
        try:
            with tempfile.NamedTemporaryFile(
                "w", dir=self._directory, prefix=".leases", encoding="utf-8", delete=False
            ) as file:
                temporary = file.name
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError:
            self.failed += 1
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def close(self) -> None:
        """Write what has changed; nothing is heard of later changes. Idempotent."""
        self._leases.changed = lambda: None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._changed:
            self._changed = False
            self._writer.submit(self._write, self._content())
        self._writer.shutdown()
