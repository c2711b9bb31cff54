"""A serverless bus: every member of an IP multicast group hears every other one (``socket,mcast=``, ``dgram``).

    receive   a socket bound to the group itself, so that nothing else comes in, and joined on one interface
    send      a socket of its own, with a port of its own: its address marks our frames, and what comes back from it is
              dropped. QEMU sends from the group's port, as all others on the host do, so it hears itself; we do not.

Interface: the one that has ``local``; without it the kernel's choice (its route to the group). The sending socket is
connected, so that its source address is known; when the host's addresses change and sending fails, it is made anew.

Limits: TTL 1, as the kernel has it: one LAN. Nobody is authenticated: whoever can send to the group is on the VLAN.
Ref: QEMU net/socket.c; ip(7); RFC 1112; RFC 3493 5.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ...config import Endpoint
from ...system.scope import scope_index
from .address import FLAGS, WireError, reason
from .dgram import Datagrams

SENDER_SECONDS = 1.0
_MOVED = frozenset(
    (errno.EINVAL, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENETDOWN, errno.EHOSTUNREACH)
)
_HINT = " (localaddr=127.0.0.1 keeps to this host)"


def _index(address: str) -> int:
    """Number of the interface that has an IPv6 address. Raises OSError."""
    bare, percent, scope = address.partition("%")
    if percent:
        return scope_index(scope)
    wanted = ip_address(bare)
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            words = line.split()
            if int(words[0], 16) == int(wanted):
                return int(words[1], 16)
    raise OSError(errno.ENODEV, "no interface has that address")


class McastWire:
    """One member of a group. ``given``: an inherited socket that is bound to the group and has joined it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        origin: str,
        group: Endpoint,
        local: str | None,
        words: str,
        given: socket.socket | None = None,
    ) -> None:
        self._loop = loop
        self._words = words
        self._next_sender = 0.0  # not before this is the sending socket made anew
        self._own: Any = None
        self._six = ":" in group.host
        self._group, self._local = group, local
        self._end = Datagrams(loop, name, own=self._source, failed=self._failed)
        self.port = self._end.port
        opened: list[socket.socket] = []
        try:
            self._host, percent, scope = group.host.partition("%")
            self._interface = 0
            if self._six:
                self._interface = scope_index(scope) if percent else _index(local) if local else 0
            receiver = given or self._receiver()
            opened.append(receiver)
            sender = self._sender()
            opened.append(sender)
            self._end.use(receiver, sender)
        except OSError as error:
            for sock in opened:
                sock.close()
            hint = (
                _HINT
                if error.errno in (errno.ENODEV, errno.ENETUNREACH) and not local and not self._six
                else ""
            )
            raise WireError(
                f"{origin}: mcast={group}{f',localaddr={local}' if local else ''}: {reason(error)}{hint}"
            ) from None

    def _target(self) -> tuple[Any, ...]:
        group = self._group
        return (self._host, group.port, 0, self._interface) if self._six else (self._host, group.port)

    def _receiver(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if self._six else socket.AF_INET, socket.SOCK_DGRAM | FLAGS)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(self._target())
            host = self._host
            if self._six:
                word = socket.inet_pton(socket.AF_INET6, host) + struct.pack("@I", self._interface)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, word)
            else:
                word = socket.inet_aton(host) + socket.inet_aton(self._local or "0.0.0.0")
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, word)
                with contextlib.suppress(OSError):  # only what this socket has joined
                    sock.setsockopt(socket.IPPROTO_IP, 49, 0)  # IP_MULTICAST_ALL
        except OSError:
            sock.close()
            raise
        return sock

    def _sender(self) -> socket.socket:
        """A connected socket to send by; its address is noted."""
        sock = socket.socket(socket.AF_INET6 if self._six else socket.AF_INET, socket.SOCK_DGRAM | FLAGS)
        try:
            if self._six:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
                if self._interface:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._interface)
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
                if self._local:
                    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(self._local))
            sock.connect(self._target())
            self._own = sock.getsockname()[:2]
        except OSError:
            sock.close()
            raise
        return sock

    def _source(self) -> Any:
        return self._own

    def _failed(self, error: OSError) -> None:
        """The host's addresses may be others now."""
        now = self._loop.time()
        if error.errno in _MOVED and now >= self._next_sender:
            self._next_sender = now + SENDER_SECONDS
            with contextlib.suppress(OSError):
                self._end.replace_sender(self._sender())

    @property
    def echoes(self) -> int:
        """Own frames that came back and were dropped."""
        return self._end.echoes

    def start(self) -> None:
        """Begin to read."""
        self._end.start()

    def info_line(self) -> str:
        """As QEMU says it."""
        return self._words

    def close(self) -> None:
        """Idempotent."""
        self._end.close()
