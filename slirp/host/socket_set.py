"""The epoll set of the host's sockets, as those sockets see it (``slirp.host.sockets.AsyncHost`` is one), and what all of them share.

Ref: epoll(7).
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Protocol

from ..contracts.host import Address

_LINK_LOCAL = frozenset(("fe8", "fe9", "fea", "feb"))  # how the text of fe80::/10 begins


class Watched(Protocol):
    """What the set dispatches to. ``born``: what ``enter`` answered."""

    born: int

    def event(self, events: int, now: int) -> None:
        """Something happened to the descriptor."""


class SocketSet(Protocol):
    """The set."""

    def now(self) -> int:
        """The NAT's clock, nanoseconds."""

    def enter(self, fd: int, sock: Watched) -> int:
        """A socket is born; answers the batch of events that it was born in."""

    def leave(self, fd: int) -> None:
        """A socket is about to be closed."""

    def register(self, fd: int, events: int) -> None:
        """Watch a new descriptor."""

    def rewatch(self, fd: int, old: int, new: int) -> None:
        """Change what is watched; 0 is nothing, not even errors."""

    def served(self) -> None:
        """Something happened outside a batch."""

    def affords(self, fd: int) -> None:
        """Raises OSError(EMFILE) when a new descriptor belongs to the rest of the process."""


def scope_index(scope: str) -> int:
    """The number of the interface that an address names behind its ``%``. Raises OSError."""
    if scope.isascii() and scope.isdigit():
        return int(scope[:10])
    try:
        return socket.if_nametoindex(scope)
    except (OSError, ValueError):
        raise OSError(errno.ENODEV, f"there is no interface {scope!r}") from None


def sockaddr(address: Address) -> tuple[str, int] | tuple[str, int, int, int]:
    """An address as Python's socket calls want it: with a pair they leave an IPv6 scope (``fe80::1%eth0``) out.

    Raises OSError: there is no such interface, or a link-local address names none.
    """
    bare, percent, scope = address[0].partition("%")
    if percent:
        return bare, address[1], 0, scope_index(scope)
    if bare[:3].lower() in _LINK_LOCAL:
        raise OSError(errno.EINVAL, f"a link-local address needs an interface behind it ({bare}%eth0)")
    return address


def spelled(name: tuple[Any, ...]) -> Address:
    """What ``sockaddr`` takes for a name that the kernel told."""
    text = str(name[0])
    if len(name) > 3 and name[3] and "%" not in text:
        text = f"{text}%{name[3]}"
    return text, int(name[1])


class HostSocket:
    """A socket in the set. Subclasses fill the fields in; ``_fd`` -1: closed."""

    __slots__ = ("_fd", "_host", "_sock")

    _fd: int
    _host: SocketSet
    _sock: socket.socket

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""
        return self._fd

    def close(self) -> None:
        """Give the socket back."""
        if self._fd < 0:
            return
        self._host.leave(self._fd)
        self._fd = -1
        self._sock.close()
