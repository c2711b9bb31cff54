"""The epoll set of the host's sockets, as those sockets see it (``slirp.hostio.AsyncHost`` is one), and what all of them share.

Ref: epoll(7).
"""

from __future__ import annotations

import socket
from typing import Protocol


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
