"""Character devices of the control plane on sockets, as QEMU's: listen (``server=on``) or connect.

``listen`` gives a ``Listening``: the socket, and what its end must undo (the file of a UNIX socket, the mark that
keeps NATs away from a TCP port). A UNIX socket is open to its owner only. A dead socket in its place is removed, a
live one, or another kind of file, is an error that names the option.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket

from ..config import Chardev, Endpoint, UnixPath
from . import guard, passed
from .patience import limit
from .scope import for_loop
from .unixsocket import UnixFile, alive, bind_private

BACKLOG = 1024  # a storm of connects must not make an honest one wait for TCP to try again
CONNECT_S = 10.0
_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class ServerError(Exception):
    """A control socket, monitor or bus cannot be opened; the text names the option."""


def shown(chardev: Chardev) -> str:
    """For messages: "unix:/run/x"."""
    if chardev.address is None:
        return "stdio"
    if isinstance(chardev.address, UnixPath):
        return f"unix:{chardev.address.path}"
    return f"tcp:{chardev.address}"


class Listening:
    """A listening socket. ``close()`` undoes all of it, once."""

    def __init__(self, listening: socket.socket) -> None:
        self.socket = listening
        self.file: UnixFile | None = None  # taken away at the end
        self._mark: socket.socket | None = None

    @property
    def port(self) -> int:
        """TCP port that was bound (the one chosen for port 0); 0 where there is none."""
        return 0 if self.socket.family == socket.AF_UNIX else int(self.socket.getsockname()[1])

    def mark(self) -> None:
        """Keep NATs away from the TCP port."""
        self._mark = guard.claim(self.port)

    def close(self) -> None:
        """Idempotent."""
        self.socket.close()
        if self._mark is not None:
            self._mark.close()
            self._mark = None
        if self.file is not None:
            self.file.remove()
            self.file = None


async def listen(chardev: Chardev) -> Listening:
    """Listen at ``chardev.address``. Raises ServerError."""
    address = chardev.address
    assert address is not None
    try:
        if isinstance(address, UnixPath):
            return listen_unix(address)
        return await _listen_tcp(address)
    except OSError as error:
        raise ServerError(f"{chardev.origin}: cannot listen: {error.strerror or error}") from None


async def connect(chardev: Chardev) -> socket.socket:
    """Connect to ``chardev.address``. Raises ServerError."""
    address = chardev.address
    assert address is not None
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limit(CONNECT_S)):
            if isinstance(address, UnixPath):
                path = "\0" + address.path if address.abstract else address.path
                return await _connected(socket.AF_UNIX, path)
            found = await loop.getaddrinfo(address.host or "localhost", address.port, type=socket.SOCK_STREAM)
            failure = OSError("no address")
            for family, _, _, _, target in found:
                try:
                    return await _connected(family, target)
                except OSError as error:
                    failure = error
            raise failure
    except (OSError, TimeoutError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
            why = os.strerror(error.errno)  # its own text has the address once more
        else:
            why = getattr(error, "strerror", None) or str(error) or "timed out"
        raise ServerError(f"{chardev.origin}: cannot connect: {why}") from None


async def _connected(family: int, target: str | tuple[object, ...]) -> socket.socket:
    out = socket.socket(family, socket.SOCK_STREAM | _FLAGS)
    try:
        await asyncio.get_running_loop().sock_connect(out, for_loop(target))
    except BaseException:
        out.close()
        raise
    return out


def listen_unix(address: UnixPath) -> Listening:
    """Listen on a UNIX socket. Raises OSError."""
    given = passed.take(f"\0{address.path}" if address.abstract else address.path)
    if given is not None:
        return Listening(given.socket)
    if not address.abstract and alive(address.path):
        raise OSError(errno.EADDRINUSE, "somebody listens there already")
    served = Listening(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | _FLAGS))
    try:
        if address.abstract:
            served.socket.bind("\0" + address.path)
        else:
            served.file = bind_private(served.socket, address.path)
        served.socket.listen(BACKLOG)
    except BaseException:
        served.close()
        raise
    return served


async def _listen_tcp(address: Endpoint) -> Listening:
    found = await asyncio.get_running_loop().getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    failure = OSError("no address")
    for family, kind, proto, _, target in found:
        given = passed.take(target)
        if given is not None:
            served = Listening(given.socket)
            served.mark()
            return served
        served = Listening(socket.socket(family, kind | _FLAGS, proto))
        try:
            served.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            served.socket.bind(target)
        except OSError as error:
            served.close()
            failure = error
            continue
        try:
            served.mark()  # before anybody can connect
            served.socket.listen(BACKLOG)
        except BaseException:
            served.close()
            raise
        return served
    raise failure
