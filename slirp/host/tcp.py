"""The host's connections for the NAT: TCP and UNIX sockets, services, clients of listeners. Part of ``slirp.host.sockets``.

Non-blocking connect, buffers left to the kernel's auto-tuning. A connect that succeeds at once is reported in the next
batch, as no event may come from inside a call. A socket that is not watched at all is taken out of the set: an error on it
shows at the next call. It hears ICMP errors (``errors``) while it connects only, as that would make soft errors fatal
later.

Ref: tcp(7), unix(7), epoll(7).
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct

from ..contracts.host import Address, IcmpError, TcpEvents
from .errors import listen_for_errors, next_error
from .socket_set import HostSocket, SocketSet, spelled

_IN, _OUT, _PRI = select.EPOLLIN, select.EPOLLOUT, select.EPOLLPRI
_BROKEN = select.EPOLLERR | select.EPOLLHUP
_READ = select.EPOLLIN | select.EPOLLRDHUP | _BROKEN
_WRITE = select.EPOLLOUT | _BROKEN
_SIOCATMARK = 0x8905
_LINGER_RESET = struct.pack("ii", 1, 0)


class HostTcp(HostSocket):
    """A host TCP connection (``slirp.contracts.host.TcpSocket``)."""

    __slots__ = ("_events", "_watched", "born", "connected", "failure", "urgent")

    def __init__(self, host: SocketSet, sock: socket.socket, events: TcpEvents, connected: bool) -> None:
        self._host = host
        self._sock = sock
        self._fd = sock.fileno()
        self._events = events
        self._watched = 0
        self.failure: IcmpError | None = None
        self.urgent = False
        self.connected = connected
        self.born = host.enter(self._fd, self)
        if not connected:
            self._watched = _OUT
            host.register(self._fd, _OUT)

    @property
    def local(self) -> Address:
        """Return the address of our end, once the socket is connected."""
        name = self._sock.getsockname()
        return spelled(name) if isinstance(name, tuple) else ("", 0)

    def send(self, data: bytes | memoryview) -> int:
        """Return how many bytes the socket took, or 0 when its buffer is full."""
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def send_urgent(self, byte: bytes) -> int:
        """Send one urgent byte; return 1, or 0 when the buffer is full."""
        try:
            return self._sock.send(byte, 0 if self._sock.family == socket.AF_UNIX else socket.MSG_OOB)
        except (BlockingIOError, InterruptedError):
            return 0

    def at_mark(self) -> bool:
        """Say whether the next byte is the urgent one."""
        if fcntl.ioctl(self._fd, _SIOCATMARK, b"\0\0\0\0") == b"\0\0\0\0":
            return False
        self.urgent = False
        return True

    def keepalive(self, idle: int) -> None:
        """Probe the other end after ``idle`` seconds."""
        if self._sock.family == socket.AF_UNIX:
            return
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
            self._sock.setsockopt(socket.IPPROTO_TCP, option, idle)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def recv(self, size: int) -> bytes | None:
        """Return bytes, b"" at the end of the stream, or None if nothing is there now."""
        try:
            return self._sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return None

    def shutdown(self) -> None:
        """Half-close the connection by sending FIN."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # broken already: recv or send says so

    def watch(self, read: bool, write: bool) -> None:
        """Choose which events are reported."""
        if self._fd < 0 or not self.connected:
            return
        wanted = (_IN | _PRI if read else 0) | (_OUT if write else 0)
        if wanted != self._watched:
            self._host.rewatch(self._fd, self._watched, wanted)
            self._watched = wanted

    def close(self, *, reset: bool = False) -> None:
        """Close the socket; ``reset`` closes it with RST."""
        if reset and self._fd >= 0:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            except OSError:
                pass
        super().close()

    def event(self, events: int, now: int) -> None:
        """Pass an epoll event on to the flow."""
        if not self.connected:
            self._connected(now)
            return
        if events & _PRI:
            self.urgent = True
        if self._watched & _IN and events & _READ:
            self._events.host_readable(now)
        if self._watched & _OUT and events & _WRITE and self._fd >= 0:
            self._events.host_writable(now)

    def _connected(self, now: int) -> None:
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.failure = next_error(self._sock)
            self.close()
            self._events.host_failed(error, now)
            return
        self.connected = True
        listen_for_errors(self._sock, 4 if self._sock.family == socket.AF_INET else 6, False)
        self._host.rewatch(self._fd, self._watched, 0)
        self._watched = 0
        self._events.host_connected(now)

    def connected_at_once(self) -> None:
        """Report a connect that needed no waiting, outside the call that made it."""
        if self._fd >= 0:
            self._events.host_connected(self._host.now())


class HostPackets(HostTcp):
    """A datagram socket as a service: an empty datagram is no end."""

    __slots__ = ()

    def recv(self, size: int) -> bytes | None:
        """Return a datagram, or None if nothing is there now."""
        return super().recv(size) or None


class HostAccepted(HostTcp):
    """A client of a listener (``slirp.contracts.host.AcceptedTcp``)."""

    __slots__ = ("_local", "peer")

    @property
    def local(self) -> Address:
        """Return the host address that the client connected to."""
        return self._local

    def __init__(self, host: SocketSet, sock: socket.socket, peer: Address, local: Address) -> None:
        super().__init__(host, sock, _NOBODY, True)
        self.peer = peer
        self._local = local

    def attach(self, events: TcpEvents) -> None:
        """Report this socket's events to ``events``."""
        self._events = events

    def gone(self) -> bool:
        """Say whether the client has left with nothing to be read."""
        if self._fd < 0:
            return True
        try:
            return not self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True


class _Nobody:
    """Stands in for the flow of a client that nobody has taken over yet; such a client watches nothing."""

    def host_connected(self, now: int) -> None:
        """Not called: nothing is watched until somebody takes the client over."""

    def host_failed(self, error: int, now: int) -> None:
        """Not called: nothing is watched until somebody takes the client over."""

    def host_readable(self, now: int) -> None:
        """Not called: nothing is watched until somebody takes the client over."""

    def host_writable(self, now: int) -> None:
        """Not called: nothing is watched until somebody takes the client over."""


_NOBODY = _Nobody()
