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
        """The address of our end, once it is connected."""
        name = self._sock.getsockname()
        return spelled(name) if isinstance(name, tuple) else ("", 0)

    def send(self, data: bytes | memoryview) -> int:
        """Bytes taken; 0: the buffer is full."""
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def send_urgent(self, byte: bytes) -> int:
        """1: taken; 0: the buffer is full."""
        try:
            return self._sock.send(byte, 0 if self._sock.family == socket.AF_UNIX else socket.MSG_OOB)
        except (BlockingIOError, InterruptedError):
            return 0

    def at_mark(self) -> bool:
        """Whether the next byte is the urgent one."""
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
        """Bytes; b"" at end of stream; None: nothing now."""
        try:
            return self._sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return None

    def shutdown(self) -> None:
        """Send FIN."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # broken already: recv or send says so

    def watch(self, read: bool, write: bool) -> None:
        """Which events to report."""
        if self._fd < 0 or not self.connected:
            return
        wanted = (_IN | _PRI if read else 0) | (_OUT if write else 0)
        if wanted != self._watched:
            self._host.rewatch(self._fd, self._watched, wanted)
            self._watched = wanted

    def close(self, *, reset: bool = False) -> None:
        """Give the socket back."""
        if reset and self._fd >= 0:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            except OSError:
                pass
        super().close()

    def event(self, events: int, now: int) -> None:
        """From the epoll set."""
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
        """A datagram; None: nothing now."""
        return super().recv(size) or None


class HostAccepted(HostTcp):
    """A client of a listener (``slirp.contracts.host.AcceptedTcp``)."""

    __slots__ = ("_local", "peer")

    @property
    def local(self) -> Address:
        """The address that the client chose."""
        return self._local

    def __init__(self, host: SocketSet, sock: socket.socket, peer: Address, local: Address) -> None:
        super().__init__(host, sock, _NOBODY, True)
        self.peer = peer
        self._local = local

    def attach(self, events: TcpEvents) -> None:
        """Who hears the events."""
        self._events = events

    def gone(self) -> bool:
        """Whether it has left without a word."""
        if self._fd < 0:
            return True
        try:
            return not self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True


class _Nobody:
    """Hears what happens to a client that nobody has taken over yet: it watches nothing, so that is nothing."""

    def host_connected(self, now: int) -> None:
        """Never."""

    def host_failed(self, error: int, now: int) -> None:
        """Never."""

    def host_readable(self, now: int) -> None:
        """Never."""

    def host_writable(self, now: int) -> None:
        """Never."""


_NOBODY = _Nobody()
