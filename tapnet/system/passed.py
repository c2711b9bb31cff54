"""Listening sockets that somebody opened for us: systemd's socket activation, and its descriptor store after a restart.

``$LISTEN_FDS`` descriptors from 3 on, ``$LISTEN_PID`` says for whom, ``$LISTEN_FDNAMES`` their names. Listening sockets
wait in one pool of the process until whoever would bind such an address (a monitor, a wire) takes them instead; the rest
(connections, TAP devices, the state of ``handover``) is handed to whoever asks by name.

A socket is taken by its name (``FileDescriptorName=`` equal to the backend's name) or by its address, where a dual-stack
``[::]:port`` also stands for ``0.0.0.0:port``. What nobody has taken when all is up is closed, with a line.

The file of a socket that systemd made is systemd's. That of a socket that we made before a restart is ours again.

Ref: sd_listen_fds(3), systemd.socket(5).
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from .unixsocket import UnixFile

FIRST = 3
FDS_MAX = 4096
STORED = "tapnet-"  # names of what we gave to the store ourselves
LISTENER = STORED + "listener"
VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@dataclass(eq=False)
class Passed:
    """One listening socket."""

    name: str
    socket: socket.socket

    @property
    def ours(self) -> bool:
        """Whether we made it before a restart."""
        return self.name == LISTENER

    @property
    def address(self) -> object:
        """As bind took it: (host, port), or a path ("\\0..." is abstract)."""
        return plain(self.socket.getsockname())

    def file(self) -> UnixFile | None:
        """Its file, where taking that away at the end is our task."""
        where = self.address
        if self.ours and isinstance(where, str) and where[:1] not in ("", "\0"):
            with contextlib.suppress(OSError):
                return UnixFile(where)
        return None


_pool: list[Passed] = []
_managers: weakref.WeakSet[socket.socket] = weakref.WeakSet()  # taken, and passed again at each start


def keeps(path: Path) -> bool:
    """Whether the manager takes the file at ``path`` away at a stop, and not at a restart."""
    folders = os.environ.get("RUNTIME_DIRECTORY", "").split(":")
    return any(folder.startswith("/") and path.is_relative_to(folder) for folder in folders)


def plain(name: object) -> object:
    """A socket's address, comparable: (host, port) or text."""
    if isinstance(name, tuple):
        return name[:2]
    return os.fsdecode(name) if isinstance(name, bytes) else name


def inherit(environ: MutableMapping[str, str] = os.environ, first: int = FIRST) -> dict[str, list[int]]:
    """Take what was passed to this process, once. Listening sockets go into the pool; the rest is returned by name."""
    found: dict[str, list[int]] = {}
    try:
        count = int(environ.get("LISTEN_FDS", "0"))
        for_us = int(environ.get("LISTEN_PID", "0")) == os.getpid()
    except ValueError:
        count, for_us = 0, False
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    for variable in VARIABLES:
        environ.pop(variable, None)
    if not for_us or not 0 < count <= FDS_MAX:
        return found
    for number in range(count):
        fd = first + number
        name = names[number] if number < len(names) else ""
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, False)
            os.set_blocking(fd, False)
        if not _listens(fd, name):
            found.setdefault(name, []).append(fd)
    return found


def _listens(fd: int, name: str) -> bool:
    """Pool it, if it is a listening socket."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listens = 0
    if not listens:
        sock.detach()
        return False
    _pool.append(Passed(name, sock))
    return True


def take(address: object, name: str | None = None) -> Passed | None:
    """The listening socket of that name, or else at ``address`` (as for bind); None: there is none, bind."""
    where = plain(address)
    found = next((one for one in _pool if name and one.name == name), None)
    if found is None:
        found = next((one for one in _pool if _same(one, where)), None)
    if found is not None:
        _pool.remove(found)
        if not found.ours:
            _managers.add(found.socket)
    return found


def managers(sock: socket.socket) -> bool:
    """Whether a socket that was taken comes from the manager, which has it too and passes it again."""
    return sock in _managers


def _same(one: Passed, where: object) -> bool:
    at = one.address
    if at == where:
        return True
    if not isinstance(at, tuple) or not isinstance(where, tuple) or at[1] != where[1]:
        return False
    if at[0] == "::" and where[0] == "0.0.0.0":
        return not one.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return False


def close_rest() -> list[str]:
    """Close what nobody has taken; the addresses of those that systemd opened."""
    left = []
    for one in _pool:
        if one.ours:
            file = one.file()
            if file is not None:
                file.remove()
        else:
            where = one.address
            left.append(f"{where[0]}:{where[1]}" if isinstance(where, tuple) else str(where))
        one.socket.close()
    _pool.clear()
    return left
