"""Written undo: one file for each thing that tapnet changes on the host and must be able to change back.

A file is written, whole and synced, before the first change that it undoes, and removed after the last. So a process
that was killed in between leaves a file, and the next one reads there what was before. Files lie below the directory of
control sockets, in one directory per network namespace (its cookie, which is never used twice while the machine runs),
and name the boot: what was before a reboot undoes nothing.

``Journal`` holds a lock on its file's name as long as it is open: one process at a time works on one thing.

Ref: socket(7) SO_NETNS_COOKIE, flock(2), rename(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

from ..system import runtime as paths

_SO_NETNS_COOKIE = 71
_SUFFIX = ".json"
VERSION = 1


class Busy(Exception):
    """Another process works on the same thing."""


def namespace() -> str:
    """A name for the network namespace of this process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return f"{struct.unpack('=Q', probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0]:x}"
        except OSError:  # before Linux 5.14
            return f"i{os.stat('/proc/self/ns/net').st_ino}"


def boot() -> str:
    """This boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def clock() -> float:
    """Seconds since boot, suspended ones included: what deadlines and lifetimes are kept in."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def directory() -> Path:
    """Where this namespace's files are; made if need be. Raises paths.PathError."""
    place = paths.runtime_directory() / "lan" / namespace()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place


def names(kind: str) -> list[str]:
    """Of all ``kind`` files here."""
    begin = kind + "-"
    return sorted(path.name[len(begin) : -len(_SUFFIX)] for path in directory().glob(f"{begin}*{_SUFFIX}"))


class Journal:
    """One thing's file, locked. A context manager."""

    def __init__(self, kind: str, name: str) -> None:
        """Raises Busy, paths.PathError, OSError."""
        self.path = directory() / f"{kind}-{name}{_SUFFIX}"
        self._lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Busy(f"{name}: another tapnet is at work on it") from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have it. The lock's file stays: taking it away would let two processes hold two locks."""
        os.close(self._lock)

    def read(self) -> dict[str, Any] | None:
        """What was written; None: nothing, or before this boot."""
        return read(self.path)

    def write(self, record: dict[str, Any]) -> None:
        """Replace it by ``record``, on disk when this returns. Raises OSError."""
        new = self.path.with_suffix(".new")
        with open(new, "w", encoding="utf-8") as file:
            json.dump({**record, "version": VERSION, "boot": boot()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.path)

    def erase(self) -> None:
        """There is nothing to undo any more. Idempotent."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def read(path: Path) -> dict[str, Any] | None:
    """A file of this boot, without its lock; None: none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("version") != VERSION or record.get("boot") != boot():
        return None
    return record


def look(kind: str, name: str) -> dict[str, Any] | None:
    """What is written about one thing, without waiting for whoever works on it."""
    return read(directory() / f"{kind}-{name}{_SUFFIX}")
