"""Word to systemd, and what it wants from us: sd_notify in a few lines.

Datagrams to the UNIX socket in ``$NOTIFY_SOCKET``; a leading ``@`` is the abstract name space. Where the
variable is unset (no systemd, or not Type=notify) every call does nothing and answers False. A send never
blocks and never raises: a service manager that does not listen is no reason to stop.

Ref: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import time


def notify(*words: str) -> bool:
    """Send assignments such as ``READY=1`` in one datagram; whether it was sent."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False
    if path.startswith("@"):
        path = "\0" + path[1:]
    try:
        with socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        ) as out:
            out.sendto("\n".join(words).encode(), path)
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
