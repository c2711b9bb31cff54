"""What a guest's kernel makes of its interface: address and promiscuous mode, so that the card can follow.

A real driver is told by its kernel (ndo_set_mac_address, ndo_set_rx_mode). Ours sits outside: a route netlink socket
that was opened in the guest's namespace, subscribed to links, tells it. Both sides of a bridge, ``tcpdump`` and
``ip link set promisc on`` count (IFLA_PROMISCUITY).

Limits: ``BUDGET`` messages a wake-up. What was lost (ENOBUFS) is made up for by the next message; a message that is not
whole is left out. Timers: none. Ref: rtnetlink(7), netlink(7), include/uapi/linux/if_link.h.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable

BUDGET = 64
SIZE = 16 << 10
_GROUP_LINK = 1  # RTMGRP_LINK
_NEWLINK = 16  # RTM_NEWLINK
_IFLA_ADDRESS, _IFLA_PROMISCUITY = 1, 30
_MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, pid
_LINK = struct.Struct("=BxHiII")  # family, kind, index, flags, change
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_MAC_LEN = 6


def open_notices() -> socket.socket:
    """A socket that is told of links of the current network namespace. Raises OSError."""
    out = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        out.bind((0, _GROUP_LINK))
    except OSError:
        out.close()
        raise
    return out


def links(data: bytes) -> list[tuple[int, bytes, bool]]:
    """(index, MAC, promiscuous) of each RTM_NEWLINK that has both. Never raises."""
    found = []
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, *_ = _MESSAGE.unpack_from(data, at)
        end = at + length
        if length < _MESSAGE.size or end > len(data):
            break
        if kind == _NEWLINK and length >= _MESSAGE.size + _LINK.size:
            index = _LINK.unpack_from(data, at + _MESSAGE.size)[2]
            mac, count = _attributes(data[at + _MESSAGE.size + _LINK.size : end])
            if mac is not None and count is not None:
                found.append((index, mac, count > 0))
        at += (length + 3) & ~3
    return found


def _attributes(data: bytes) -> tuple[bytes | None, int | None]:
    mac = count = None
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            break
        value = data[at + _ATTRIBUTE.size : at + length]
        if kind == _IFLA_ADDRESS and len(value) == _MAC_LEN:
            mac = value
        elif kind == _IFLA_PROMISCUITY and len(value) == 4:
            count = int.from_bytes(value, "little")
        at += (length + 3) & ~3
    return mac, count


class Watch:
    """Calls ``changed(mac, promiscuous)`` whenever the kernel speaks of interface ``index``. Owns ``notices``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        notices: socket.socket,
        index: int,
        changed: Callable[[bytes, bool], None],
    ) -> None:
        self._loop, self._notices, self._index, self._changed = loop, notices, index, changed
        loop.add_reader(notices.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(BUDGET):
            try:
                data = self._notices.recv(SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    continue
                self.close()
                return
            for index, mac, promiscuous in links(data):
                if index == self._index:
                    self._changed(mac, promiscuous)

    def close(self) -> None:
        """Idempotent."""
        if self._notices.fileno() >= 0:
            self._loop.remove_reader(self._notices.fileno())
            self._notices.close()
