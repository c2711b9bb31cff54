"""Wires on stream sockets: QEMU's ``socket,listen=``, ``socket,connect=`` and ``stream``.

    Listener    every client becomes a port of its own on the hub, so one listening socket is a hub for many machines
                (what QEMU 0.8 did); up to ``CLIENTS_MAX`` at a time
    Server      one port, one client at a time; the next waits in the backlog (QEMU's stream,server=on)
    Connector   one port, one connection that is made again when it ends
    Given       one port on a connected socket that we inherited

A port without a connection drops what it should send, counted as "disconnected"; its link stays as the user set it. A
wire whose host is a name is opened in the background, because the name is looked up in a worker thread.

Limits: at most ``ACCEPTS`` clients are taken in a wake-up. Without descriptors the listener pauses ``PAUSE_SECONDS`` and
says so once. Frames, buffers and back-pressure: ``pipe``. Ref: QEMU net/socket.c, net/stream.c; QEMU 0.8 vl.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...config import Endpoint, Fd, SocketAddress, UnixPath
from ...system import passed
from ...system.scope import for_loop
from ...system.unixsocket import UnixFile
from ...vlan.handover import Handover, port_data, port_state
from ...vlan.port import Port
from .address import (
    FLAGS,
    Target,
    WireError,
    bind_unix,
    look_up,
    numeric,
    reason,
    shown,
    unix_name,
)
from .pipe import Pipe
from .retry import Retry

ACCEPTS = 16
BACKLOG = 1024  # a storm of connects must not make an honest one wait for TCP to try again
CLIENTS_MAX = 256
PAUSE_SECONDS = 1.0
LOG_LINES, LOG_SECONDS = 5, 10.0  # of clients' ends: so many lines in so many seconds
IPPROTO_MPTCP = 262
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
log = logging.getLogger("tapnet.wires")


@dataclass(frozen=True)
class Options:
    """How a stream socket is opened."""

    name: str  # of the wire's port
    origin: str  # begins messages: "-net socket"
    address: SocketAddress
    ipv4: bool | None = None
    ipv6: bool | None = None
    last_port: int | None = None  # of a range to listen on
    mptcp: bool = False
    retry: bool = True
    pause: float | None = None  # seconds between attempts; None: growing


def nobody(port: Port) -> Callable[[bytes, bytes], bool]:
    """A ``receive`` for a port without a connection."""

    def receive(_frame: bytes, _vnet: bytes) -> bool:
        port.counters.drop("disconnected")
        return True

    return receive


def _nothing() -> None:
    pass


def peer_name(sock: socket.socket) -> str:
    """The other end of a connected socket."""
    try:
        return shown(sock.getpeername())
    except OSError:
        return ""


# ---- sockets -----------------------------------------------------------------------------------------------


def _open(family: int, mptcp: bool) -> socket.socket:
    return socket.socket(family, socket.SOCK_STREAM | FLAGS, IPPROTO_MPTCP if mptcp else 0)


def _bind(targets: list[Target], options: Options) -> socket.socket:
    """A listening TCP socket on the first target that can be had. Raises OSError."""
    for _, target in targets:
        given = passed.take(target[:2], options.name)
        if given is not None:
            return given.socket
    failure = OSError(errno.EADDRNOTAVAIL, "no address")
    for family, target in targets:
        for port in range(target[1], max(options.last_port or 0, target[1]) + 1):
            sock = _open(family, options.mptcp)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((target[0], port, *target[2:]))
                sock.listen(BACKLOG)
                return sock
            except OSError as error:
                sock.close()
                failure = error
                if error.errno != errno.EADDRINUSE:
                    break
        if failure.errno == errno.EADDRINUSE:  # another family would be another address
            break
    raise failure


async def _connect(options: Options) -> socket.socket:
    """A connected socket. Raises OSError."""
    address = options.address
    loop = asyncio.get_running_loop()
    if isinstance(address, UnixPath):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | FLAGS)
        try:
            sock.connect(unix_name(address))  # at once, or EAGAIN: a full backlog
        except OSError:
            sock.close()
            raise
        return sock
    assert isinstance(address, Endpoint)
    failure = OSError(errno.EADDRNOTAVAIL, "no address")
    for family, target in await look_up(address, ipv4=options.ipv4, ipv6=options.ipv6):
        sock = _open(family, options.mptcp)
        try:
            await loop.sock_connect(sock, for_loop(target))
            if sock.getsockname() == sock.getpeername():  # a free ephemeral port can meet itself
                raise OSError(errno.ECONNREFUSED, "Connection refused")
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure


class Accepting:
    """A listening socket whose clients go to ``client(sock, peer)``. Raises OSError if it cannot be had at once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: Options,
        client: Callable[[socket.socket, str], None],
        listening: socket.socket | None = None,
    ) -> None:
        self._loop = loop
        self._options = options
        self._client = client
        self._sock = listening
        self._file: UnixFile | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._on = self._reading = self._closed = self._complained = False
        self._retry: Retry | None = None
        address = options.address
        if listening is not None:
            listening.setblocking(False)
        elif isinstance(address, UnixPath):
            given = passed.take(unix_name(address), options.name)
            if given is not None:
                self._sock, self._file = given.socket, given.file()
            else:
                self._sock, self._file = bind_unix(socket.SOCK_STREAM, address)
                self._sock.listen(BACKLOG)
        elif isinstance(address, Endpoint):
            targets = numeric(address, ipv4=options.ipv4, ipv6=options.ipv6)
            if targets is not None:
                self._sock = _bind(targets, options)
            else:
                self._retry = Retry(
                    loop, f"{options.origin}: listen={address}", self._bind_name, port=options.name
                )

    async def _bind_name(self) -> None:
        options = self._options
        assert isinstance(options.address, Endpoint)
        self._sock = _bind(await look_up(options.address, ipv4=options.ipv4, ipv6=options.ipv6), options)
        self._look()

    @property
    def address(self) -> str:
        """Where it listens; "" while it does not."""
        return shown(self._sock.getsockname()) if self._sock is not None and not self._closed else ""

    def start(self) -> None:
        """Begin to accept."""
        self._on = True
        if self._retry is not None:
            self._retry.now()
        self._look()

    def accept(self, on: bool) -> None:
        """Take clients, or leave them in the backlog."""
        self._on = on
        self._look()

    def _look(self) -> None:
        want = self._on and self._sock is not None and self._timer is None and not self._closed
        if want != self._reading:
            assert self._sock is not None
            self._reading = want
            if want:
                self._loop.add_reader(self._sock.fileno(), self._readable)
            else:
                self._loop.remove_reader(self._sock.fileno())

    def _readable(self) -> None:
        assert self._sock is not None
        for _ in range(ACCEPTS):
            if not self._reading:
                return
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _FULL and not self._complained:
                    self._complained = True
                    fields = {"port": self._options.name}
                    words = "tapnet: %s: cannot accept: %s"
                    log.warning(words, self._options.origin, reason(error), extra=fields)
                self._timer = self._loop.call_later(PAUSE_SECONDS, self._go_on)
                self._look()
                return
            self._complained = False
            sock.setblocking(False)
            self._client(sock, shown(peer) or self.address)

    def _go_on(self) -> None:
        self._timer = None
        self._look()

    def export(self) -> int | None:
        """The listening socket's descriptor, for the next process. None: the service manager has it anyway, or that
        process binds anew, because a UNIX socket's file must go at a plain stop (only the manager's own folder does).
        """
        if self._sock is None or self._closed or passed.managers(self._sock):
            return None
        if self._file is not None:
            if not passed.keeps(self._file.path):
                return None
            self._file = None
        return self._sock.fileno()

    def close(self) -> None:
        """Idempotent."""
        if self._closed:
            return
        self._on = False
        self._look()
        self._closed = True
        if self._retry is not None:
            self._retry.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is not None:
            self._sock.close()
        if self._file is not None:
            self._file.remove()


# ---- wires -------------------------------------------------------------------------------------------------


class Listener:
    """Many clients, each its own port.

    joined(port, info)   plug a client's port; info is what monitors show. Raises ValueError if it cannot be
    left(port)           unplug it
    """

    port: Port | None = None
    KIND = "socket"  # how info network calls it

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: Options,
        joined: Callable[[Port, str], None],
        left: Callable[[Port], None],
        listening: socket.socket | None = None,
    ) -> None:
        self.clients: dict[Port, Pipe] = {}
        self._peers: weakref.WeakKeyDictionary[Port, str] = weakref.WeakKeyDictionary()
        self.accepted = self.refused = 0
        self.last_end = ""  # why the last connection ended
        self._log_until, self._log_count = 0.0, 0
        self._loop = loop
        self._options = options
        self._joined, self._left = joined, left
        try:
            self._accepting = Accepting(loop, options, self._client, listening)
        except OSError as error:
            raise WireError(f"{options.origin}: listen={_words(options.address)}: {reason(error)}") from None

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._accepting.address

    def start(self) -> None:
        """Begin to accept."""
        for pipe in list(self.clients.values()):  # adopted ones
            pipe.start()
        self._accepting.start()

    def _client(self, sock: socket.socket, peer: str) -> None:
        if self._is_full(len(self.clients)):
            sock.close()
            return
        self.accepted += 1
        pipe = self._plug(sock, peer, f"{self._options.name}.{self.accepted}")
        if pipe is not None:
            pipe.start()

    def _is_full(self, count: int) -> bool:
        """Whether one more client than ``count`` is too many; said in the log once."""
        if count < CLIENTS_MAX:
            return False
        if not self.refused:
            words = "tapnet: %s: more than %d clients"
            log.warning(words, self._options.origin, CLIENTS_MAX, extra={"port": self._options.name})
        self.refused += 1
        return True

    def _pipe(self, sock: socket.socket, port: Port, lost: Callable[[str], None], _extra: Any) -> Pipe:
        pipe = Pipe(self._loop, sock, port, lost)
        port.set_train(pipe.train)
        return pipe

    def _plug(self, sock: socket.socket, peer: str, name: str, extra: Any = None) -> Pipe | None:
        """A client's port and pipe, not yet started. None: the hub does not want it."""
        port = Port(name, _not_yet)
        pipe = self._pipe(sock, port, lambda why: self._ended(port, peer, why), extra)
        port.receive, port.ready = pipe.receive, pipe.ready
        self._peers[port] = peer
        try:
            self._joined(port, f"{self.KIND}: connection from {peer}")
        except ValueError:
            pipe.close()
            return None
        self.clients[port] = pipe
        return pipe

    def export(self) -> Handover:
        """Every connection, and the listening socket: see ``handover``."""
        handed = Handover({"accepted": self.accepted, "clients": []})
        for number, (port, pipe) in enumerate(self.clients.items()):
            state = {"port": port_data(port.export()), "pipe": pipe.export(), "peer": self._peers[port]}
            handed.data["clients"].append(state)
            handed.fds[f"client.{number}"] = pipe.fileno()
            port.clear("restart")
        return handed

    def adopt(self, handed: Handover) -> None:
        """Go on with them, from ``start`` on."""
        self.accepted = handed.data["accepted"]
        for number, state in enumerate(handed.data["clients"]):
            was = port_state(state["port"])
            sock = socket.socket(fileno=handed.fds[f"client.{number}"])
            pipe = self._plug(sock, state["peer"], was.name)
            if pipe is not None:
                pipe.adopt(state["pipe"])
                next(port for port, one in self.clients.items() if one is pipe).adopt(was)

    def listening(self) -> int | None:
        """See ``Accepting.export``."""
        return self._accepting.export()

    def _ended(self, port: Port, peer: str, why: str) -> None:
        self.last_end = f"{peer}: {why}"
        if why != "closed by the peer":
            self._log(peer, why)
        self._drop(port)

    def _log(self, peer: str, why: str) -> None:
        """A line, unless there were many: anybody can connect."""
        now = self._loop.time()
        if now >= self._log_until:
            self._log_until, self._log_count = now + LOG_SECONDS, 0
        self._log_count += 1
        if self._log_count <= LOG_LINES:
            more = "; no more such lines for a while" if self._log_count == LOG_LINES else ""
            words = "tapnet: %s: connection from %s: %s%s"
            log.warning(words, self._options.origin, peer, why, more, extra={"port": self._options.name})

    def _drop(self, port: Port) -> None:
        pipe = self.clients.pop(port, None)
        if pipe is not None:
            pipe.close()
            self._left(port)
            port.receive, port.ready, port.train = _not_yet, _nothing, None  # they need no garbage collector

    def status(self) -> str:
        """For ``info network -v``: what came, and why the last one has gone."""
        text = (
            f"listening on {self.address or 'nothing yet'}, {self.accepted} accepted, {self.refused} refused"
        )
        return f"{text}, last end: {self.last_end}" if self.last_end else text

    def info_line(self) -> str:
        """QEMU 0.8 shows clients only."""
        return ""

    def close(self) -> None:
        """End all connections. Idempotent."""
        self._accepting.close()
        for port in list(self.clients):
            self._drop(port)


def _not_yet(_frame: bytes, _vnet: bytes) -> bool:
    return True


def _words(address: Any) -> str:
    if isinstance(address, UnixPath):
        return shown(unix_name(address))
    return f"fd {address.number}" if isinstance(address, Fd) else str(address)


class OnePort:
    """What wires with one port and at most one connection share. ``told(up, peer)``: it has come, or gone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: Options) -> None:
        self._loop = loop
        self._options = options
        self._pipe: Pipe | None = None
        self.peer = ""
        self.why = ""  # there is no connection
        self.told: Callable[[bool, str], None] = lambda _up, _peer: None
        self.port = Port(options.name, _not_yet)
        self.port.receive = self._nobody = nobody(self.port)

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._pipe is not None

    def _plug(self, sock: socket.socket, peer: str) -> None:
        """Use a connected socket."""
        pipe = self._use(sock, peer)
        self.told(True, peer)
        pipe.start()

    def _use(self, sock: socket.socket, peer: str) -> Pipe:
        pipe = Pipe(self._loop, sock, self.port, self._ended)
        self._pipe, self.peer, self.why = pipe, peer, ""
        self.port.receive, self.port.ready = pipe.receive, pipe.ready
        self.port.set_train(pipe.train)
        return pipe

    def export(self) -> Handover:
        """The connection with all that is on its way: see ``handover``."""
        handed = Handover({"port": port_data(self.port.export()), "peer": self.peer})
        if self._pipe is not None:
            handed.data["pipe"] = self._pipe.export()
            handed.fds["connection"] = self._pipe.fileno()
        self.port.clear("restart")
        return handed

    def adopt(self, handed: Handover) -> None:
        """Go on with it, from ``start`` on."""
        if "connection" in handed.fds:
            pipe = self._use(socket.socket(fileno=handed.fds["connection"]), handed.data["peer"])
            pipe.adopt(handed.data["pipe"])
        self.port.adopt(port_state(handed.data["port"]))

    def _unplug(self) -> None:
        self.port.receive, self.port.ready = self._nobody, _nothing
        self.port.set_train(None)
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _ended(self, why: str) -> None:
        self._unplug()
        self.why = why
        self.told(False, self.peer)


class Server(OnePort):
    """One client at a time."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: Options, listening: socket.socket | None = None
    ) -> None:
        super().__init__(loop, options)
        try:
            self._accepting = Accepting(loop, options, self._client, listening)
        except OSError as error:
            raise WireError(f"{options.origin}: addr {_words(options.address)}: {reason(error)}") from None

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._accepting.address

    def start(self) -> None:
        """Begin to accept."""
        self._accepting.start()
        if self._pipe is not None:  # adopted
            self._accepting.accept(False)
            self._pipe.start()

    def listening(self) -> int | None:
        """See ``Accepting.export``."""
        return self._accepting.export()

    def _client(self, sock: socket.socket, peer: str) -> None:
        self._accepting.accept(False)
        self._plug(sock, peer)

    def _ended(self, why: str) -> None:
        if why != "closed by the peer":
            words = "tapnet: %s: connection from %s: %s"
            log.warning(words, self._options.origin, self.peer, why, extra={"port": self.port.name})
        super()._ended(why)
        self._accepting.accept(True)

    def info_line(self) -> str:
        """QEMU's words: listening, or who is there."""
        return f"stream: {uri(self._options.address, self.peer)}" if self.connected else "stream: listening"

    def close(self) -> None:
        """Idempotent."""
        self._accepting.close()
        self._unplug()


def uri(address: SocketAddress, peer: str) -> str:
    """As QEMU's socket_uri."""
    if isinstance(address, UnixPath):
        return f"unix:{_words(address)}"
    return f"fd:{address.number}" if isinstance(address, Fd) else f"tcp:{peer}"


class Connector(OnePort):
    """A connection that we make. ``words``: what monitors show while it is up, for ``socket,connect=``."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: Options, words: Callable[[str], str] | None = None
    ) -> None:
        super().__init__(loop, options)
        self._words = words
        pause = {} if options.pause is None else {"first": options.pause, "last": options.pause}
        self._retry = Retry(
            loop,
            f"{options.origin}: connect to {_words(options.address)}",
            self._attempt,
            again=options.retry,
            port=options.name,
            **pause,
        )
        self.port.on_link = self._on_link

    def start(self) -> None:
        """Begin to connect."""
        if self._pipe is not None:  # adopted
            self._retry.adopted()
            self._pipe.start()
        self._retry.now()

    def reconnect(self) -> None:
        """Without the pause, if there is no connection."""
        self._retry.now()

    def _on_link(self, up: bool) -> None:
        if up:
            self._retry.now()

    async def _attempt(self) -> None:
        sock = await _connect(self._options)
        peer = peer_name(sock)
        self._plug(sock, peer or _words(self._options.address))

    def _ended(self, why: str) -> None:
        super()._ended(why)
        self._retry.lost(why)

    def info_line(self) -> str:
        """QEMU 0.8's words for socket, today's for stream; why there is no connection."""
        why = self._retry.why or self.why
        if self._words is not None:
            text = self._words(self.peer or _words(self._options.address))
            return text if self.connected else f"{text} ({why or 'connecting'})"
        if self.connected:
            return f"stream: {uri(self._options.address, self.peer)}"
        return f"stream: connecting ({why})" if why else "stream: connecting"

    def close(self) -> None:
        """Idempotent."""
        self._retry.close()
        self._unplug()


class Given(OnePort):
    """A connected stream socket that we inherited."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: Options, sock: socket.socket, words: str
    ) -> None:
        super().__init__(loop, options)
        self._socket: socket.socket | None = sock
        self._text = words

    def start(self) -> None:
        """Begin to read."""
        if self._socket is not None:
            self._plug(self._socket, peer_name(self._socket))
            self._socket = None
        elif self._pipe is not None:  # adopted
            self._pipe.start()

    def adopt(self, handed: Handover) -> None:
        """Instead of the socket that we inherited."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        super().adopt(handed)

    def _ended(self, why: str) -> None:
        log.warning("tapnet: %s: %s", self._options.origin, why, extra={"port": self.port.name})
        super()._ended(why)

    def info_line(self) -> str:
        """The descriptor, and why it is of no use any more."""
        return f"{self._text} ({self.why})" if self.why else self._text

    def close(self) -> None:
        """Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._unplug()


def inherited(number: int, origin: str) -> socket.socket:
    """The socket that is descriptor ``number``. Raises WireError."""
    try:
        sock = socket.socket(fileno=number)
    except OSError as error:
        raise WireError(f"{origin}: fd={number}: {reason(error)}") from None
    with contextlib.suppress(OSError):
        sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
