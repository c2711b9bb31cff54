"""Listening sockets of the host for redirections: part of ``slirp.host.sockets``.

TCP: SO_REUSEADDR, so that a restart need not wait for TIME-WAIT; clients come one by one by ``accept``. UNIX:
a socket file that nobody listens on any more is replaced, any other file is not touched, and the file goes
when the listener is closed if it is still the one that was made. UDP: IP_PKTINFO (IPV6_PKTINFO) tells which of the host's
addresses a client wrote to, and the answer leaves from that one.

IPv6 sockets hear IPv6 only (IPV6_V6ONLY).

Limits: ``BACKLOG`` clients wait in the kernel until they are accepted.

Ref: ip(7) IP_PKTINFO; unix(7); accept(2) on errors that belong to the new connection.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import struct
from typing import Protocol

from ..contracts.host import AcceptedTcp, Address, ListenEvents, UdpEvents
from .errors import ErrorQueue, ErrorSocket, apply, refuse
from .socket_set import HostSocket, SocketSet, sockaddr, spelled

BACKLOG = 256
DATAGRAM = 65536
CONTROL = 128
IP_PKTINFO = 8
SKIPPED = 16  # soft errors in a row
_IN = select.EPOLLIN
_PKTINFO = struct.Struct("=I4s4s")  # struct in_pktinfo
_PKTINFO6 = struct.Struct("=16sI")  # struct in6_pktinfo
# of accept: the connection is at fault, not the listener
_THEIRS = frozenset(
    (
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENONET,
        errno.EOPNOTSUPP,
        errno.ETIMEDOUT,
        errno.EPERM,
        errno.EINTR,
    )
)
_SOFT = frozenset((errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EACCES))


class _Set(SocketSet, Protocol):
    def adopt(self, sock: socket.socket, peer: Address, local: Address) -> AcceptedTcp:
        """A socket that was accepted. Raises OSError."""


def listen(host: _Set, local: Address | str, events: ListenEvents) -> HostListener:
    """Bind and listen. Raises OSError."""
    if isinstance(local, str):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if isinstance(local, str):
            _bind_path(sock, local)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(sockaddr(local))
        sock.listen(BACKLOG)
        return HostListener(host, sock, local, events)
    except BaseException:
        sock.close()
        raise


def _bind_path(sock: socket.socket, path: str) -> None:
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or path.startswith("\0") or not _abandoned(path):
            raise
        os.unlink(path)
        sock.bind(path)


def _abandoned(path: str) -> bool:
    """Whether a path is a socket that nobody listens on."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            return probe.connect_ex(path) == errno.ECONNREFUSED
    except OSError:
        return False


def _scoped(info: bytes) -> str:
    """The address of an in6_pktinfo, with the interface of a link-local one."""
    packed, index = _PKTINFO6.unpack(info[: _PKTINFO6.size])
    text = socket.inet_ntop(socket.AF_INET6, packed)
    return f"{text}%{index}" if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80 else text


class HostListener(HostSocket):
    """A listening stream socket (``slirp.contracts.host.Listener``)."""

    __slots__ = ("_events", "_file", "_watched", "address", "born")

    _host: _Set

    def __init__(self, host: _Set, sock: socket.socket, local: Address | str, events: ListenEvents) -> None:
        self._host = host
        self._sock = sock
        self._fd = sock.fileno()
        self._events = events
        self._watched = _IN
        self._file: tuple[str, int, int] | None = None  # path, device and inode of what we made
        if isinstance(local, str):
            self.address: Address = (local, 0)
            if not local.startswith("\0"):
                made = os.lstat(local)
                self._file = (local, made.st_dev, made.st_ino)
        else:
            self.address = (local[0], sock.getsockname()[1])
        self.born = host.enter(self._fd, self)
        host.register(self._fd, _IN)

    def accept(self) -> AcceptedTcp | None:
        """The next client."""
        for _ in range(SKIPPED):
            try:
                sock, peer = self._sock.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in _THEIRS:
                    continue
                raise
            sock.setblocking(False)
            try:
                if sock.family == socket.AF_UNIX:
                    return self._host.adopt(sock, ("", 0), ("", 0))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
                return self._host.adopt(sock, spelled(peer), spelled(sock.getsockname()))
            except OSError:
                sock.close()  # no room: this client is turned away, the listener goes on
        return None

    def watch(self, on: bool) -> None:
        """Report events or not."""
        wanted = _IN if on else 0
        if self._fd >= 0 and wanted != self._watched:
            self._host.rewatch(self._fd, self._watched, wanted)
            self._watched = wanted

    def close(self) -> None:
        """Listen no more."""
        if self._fd < 0:
            return
        super().close()
        if self._file is not None:
            path, device, inode = self._file
            with contextlib.suppress(OSError):
                found = os.lstat(path)
                if (found.st_dev, found.st_ino) == (device, inode):
                    os.unlink(path)

    def event(self, events: int, now: int) -> None:
        """From the epoll set."""
        self._events.host_acceptable(now)


class HostUdpListener(ErrorSocket):
    """A UDP socket that clients know (``slirp.contracts.host.UdpListener``)."""

    __slots__ = ("_family", "_how", "address", "born")

    def __init__(self, host: _Set, sock: socket.socket, local: Address, events: UdpEvents) -> None:
        self._host = host
        self._sock = sock
        self._fd = sock.fileno()
        self._events = events
        self._errors = ErrorQueue(sock)
        self._how = -1
        self._family = 6 if sock.family == socket.AF_INET6 else 4
        self.address: Address = (local[0], sock.getsockname()[1])
        self.born = host.enter(self._fd, self)
        host.register(self._fd, _IN)

    def recv(self) -> tuple[bytes, Address, str] | None:
        """One datagram, its sender, and our address that it was sent to."""
        for _ in range(SKIPPED):
            if self._fd < 0:
                return None
            try:
                data, control, _, peer = self._sock.recvmsg(DATAGRAM, CONTROL)
            except OSError as error:
                if error.errno in _SOFT:
                    continue
                return None
            for level, kind, value in control:
                if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
                    return data, peer[:2], socket.inet_ntoa(_PKTINFO.unpack(value[: _PKTINFO.size])[1])
                if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                    return data, spelled(peer), _scoped(value)
            return data, peer[:2], "::" if self._family == 6 else "0.0.0.0"
        return None

    def sendto(self, data: bytes | memoryview, remote: Address, local: str, how: int = 64) -> int:
        """0, or errno."""
        if self._fd < 0:
            return errno.EBADF
        if self._family == 6:
            address, _, scope = local.partition("%")
            level, kind = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO
            info = _PKTINFO6.pack(socket.inet_pton(socket.AF_INET6, address), int(scope or 0))
        else:
            level, kind = socket.IPPROTO_IP, IP_PKTINFO
            info = _PKTINFO.pack(0, socket.inet_aton(local), b"\0\0\0\0")
        failed = 0
        for _ in range(2):
            try:
                if how != self._how:
                    apply(self._sock, self._family, self._how, how)
                    self._how = how
                self._sock.sendmsg((data,), ((level, kind, info),), 0, sockaddr(remote))
                return 0
            except OSError as error:
                failed = error.errno or errno.EIO
                if failed not in _SOFT:  # else perhaps the report of an earlier datagram: once more
                    return failed
        return failed

    def refuse(self, remote: Address, local: str) -> bool:
        """Tell ``remote`` that its datagram to ``local`` found a closed port."""
        return refuse(self._family, remote, local, self.address[1])
