"""Noticing that interfaces of the host come, go or change: one netlink socket, and a look at sysfs.

    kernel ──RTM_NEWLINK, RTM_DELLINK──► LinkWatch ──(SETTLE_SECONDS later, once)──► changed()

What the messages say is not read: whoever is called looks at what it needs. So nothing is missed where the kernel
had to drop messages (ENOBUFS is a message too), and a storm of them is one look.

Timers: one, ``SETTLE_SECONDS`` after the first message. Ref: rtnetlink(7); Documentation/ABI/testing/sysfs-class-net.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

from .opening import tun_flags

SETTLE_SECONDS = 0.05
_RTMGRP_LINK = 1
_READS = 64
_BUFFER = 65536


class LinkWatch:
    """Calls ``changed`` on the loop after any interface of this network namespace has changed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        """Raises OSError."""
        self._loop = loop
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
        try:
            self._socket.bind((0, _RTMGRP_LINK))
        except OSError:
            self._socket.close()
            raise
        loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(_READS):
            try:
                self._socket.recv(_BUFFER)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: messages were lost, which is news enough
                continue
        if self._timer is None:
            self._timer = self._loop.call_later(SETTLE_SECONDS, self._settled)

    def _settled(self) -> None:
        self._timer = None
        self._changed()

    def close(self) -> None:
        """Idempotent."""
        if self._socket.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()


def uplinks(bridge: str) -> dict[str, bool]:
    """Members of a bridge that are no TAPs, and whether each has a carrier."""
    found = {}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(f"/sys/class/net/{bridge}/brif")):
            if not tun_flags(name):
                found[name] = has_carrier(name)
    return found


def has_carrier(ifname: str) -> bool:
    """Whether an interface is up and has a carrier."""
    try:
        return Path(f"/sys/class/net/{ifname}/carrier").read_text().strip() == "1"
    except OSError:  # EINVAL: it is down
        return False
