"""This module describes the epoll set as the host's sockets see it (``slirp.host.sockets.AsyncHost`` is one),
and holds what these sockets share.

Ref: epoll(7).
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Protocol

from ..contracts.host import Address

_LINK_LOCAL = frozenset(("fe8", "fe9", "fea", "feb"))  # how the text of fe80::/10 begins


class Watched(Protocol):
    """A socket that the set dispatches events to. ``born`` is what ``enter`` returned."""

    born: int

    def event(self, events: int, now: int) -> None:
        """Something happened to the descriptor; ``events`` are EPOLL* bits."""


class SocketSet(Protocol):
    """The epoll set that the host's sockets belong to."""

    def now(self) -> int:
        """Return the time of the NAT's clock in nanoseconds."""

    def enter(self, fd: int, sock: Watched) -> int:
        """Add a new socket; return the number of the batch of events that it was made in."""

    def leave(self, fd: int) -> None:
        """Remove a socket that is about to be closed."""

    def register(self, fd: int, events: int) -> None:
        """Watch a new descriptor for ``events``."""

    def rewatch(self, fd: int, old: int, new: int) -> None:
        """Change what is watched from ``old`` to ``new``; 0 is nothing, not even errors."""

    def served(self) -> None:
        """Note that something happened outside a batch of events."""

    def affords(self, fd: int) -> None:
        """Raise OSError(EMFILE) if a new descriptor belongs to the reserve of the rest of the process."""


def scope_index(scope: str) -> int:
    """Return the number of the interface that an address names behind its ``%``. Raises OSError."""
    if scope.isascii() and scope.isdigit():
        return int(scope[:10])
    try:
        return socket.if_nametoindex(scope)
    except (OSError, ValueError):
        raise OSError(errno.ENODEV, f"there is no interface {scope!r}") from None


def sockaddr(address: Address) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return an address as Python's socket calls want it, because they ignore an IPv6 scope
    (``fe80::1%eth0``) in a pair. Raises OSError if there is no such interface, or if a link-local address
    names none.
    """
    bare, percent, scope = address[0].partition("%")
    if percent:
        return bare, address[1], 0, scope_index(scope)
    if bare[:3].lower() in _LINK_LOCAL:
        raise OSError(errno.EINVAL, f"a link-local address needs an interface behind it ({bare}%eth0)")
    return address


def spelled(name: tuple[Any, ...]) -> Address:
    """Turn a socket name from the kernel into an address that ``sockaddr`` takes."""
    text = str(name[0])
    if len(name) > 3 and name[3] and "%" not in text:
        text = f"{text}%{name[3]}"
    return text, int(name[1])


class HostSocket:
    """A socket in the set. Subclasses fill the fields in; ``_fd`` is -1 when it is closed."""

    __slots__ = ("_fd", "_host", "_sock")

    _fd: int
    _host: SocketSet
    _sock: socket.socket

    def fileno(self) -> int:
        """Return the descriptor, or -1 when the socket is closed."""
        return self._fd

    def close(self) -> None:
        """Leave the set and close the socket."""
        if self._fd < 0:
            return
        self._host.leave(self._fd)
        self._fd = -1
        self._sock.close()
