"""Word to systemd, and what it wants from us: sd_notify in a few lines.

    notify ─► ready, reloading, stopping, status, watchdog
    store, forget, barrier ─► the manager's descriptor store: what the next process of a restart gets back

Datagrams to the UNIX socket in ``$NOTIFY_SOCKET``; a leading ``@`` is the abstract name space. Where the
variable is unset (no systemd, or not Type=notify) every call does nothing and answers False. A send never
blocks and never raises: a service manager that does not listen is no reason to stop.

Ref: sd_notify(3), sd_watchdog_enabled(3), sd_pid_notify_with_fds(3), sd_notify_barrier(3).
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import time
from collections.abc import Sequence

from .patience import limit

BARRIER_SECONDS = 5.0


def wanted() -> bool:
    """Whether somebody listens."""
    return os.environ.get("NOTIFY_SOCKET", "")[:1] in ("/", "@")


def notify(*words: str, fds: Sequence[int] = ()) -> bool:
    """Send assignments such as ``READY=1`` in one datagram, with descriptors; whether it was sent."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False
    if path.startswith("@"):
        path = "\0" + path[1:]
    try:
        with socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        ) as out:
            data = "\n".join(words).encode()
            if fds:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
                out.sendmsg([data], [rights], 0, path)
            else:
                out.sendto(data, path)
    except (OSError, ValueError):
        return False
    return True


def ready(status: str = "") -> bool:
    """Everything is up (start, or the end of a reload)."""
    return notify("READY=1", f"MAINPID={os.getpid()}", *_status(status))


def stopping(status: str = "") -> bool:
    """The end has begun."""
    return notify("STOPPING=1", *_status(status))


def reloading() -> bool:
    """A reload has begun; ``ready`` ends it."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def status(text: str) -> bool:
    """One line for ``systemctl status``."""
    return notify(*_status(text))


def watchdog() -> bool:
    """Sign of life."""
    return notify("WATCHDOG=1")


def store(name: str, fd: int) -> bool:
    """Have the manager keep ``fd`` for the next process of a restart. Closed by it at a stop."""
    return notify("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=[fd])


def forget(name: str) -> bool:
    """Have the manager close what it keeps under ``name``."""
    return notify("FDSTOREREMOVE=1", f"FDNAME={name}")


def barrier(seconds: float = BARRIER_SECONDS) -> bool:
    """Wait until the manager has seen all that was sent; whether it has."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        sent = notify("BARRIER=1", fds=[write])
        os.close(write)
        write = -1
        if not sent:
            return False
        poll = select.poll()
        poll.register(read, 0)
        return bool(poll.poll(limit(seconds) * 1000))
    finally:
        for fd in (read, write):
            with contextlib.suppress(OSError):
                if fd >= 0:
                    os.close(fd)


def watchdog_interval() -> float | None:
    """Seconds between two signs of life (half of what systemd allows); None: it wants none from this
    process."""
    try:
        allowed = int(os.environ.get("WATCHDOG_USEC", ""))
        addressee = int(os.environ.get("WATCHDOG_PID") or os.getpid())
    except ValueError:
        return None
    return allowed / 2_000_000 if allowed > 0 and addressee == os.getpid() else None


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []
