"""Wires on datagram sockets: one frame is one datagram, without a length. UDP, UNIX and inherited sockets.

    hub ──receive──► Datagrams.send ──► socket          hub ◄──Port.send── up to ``BURST`` datagrams a wake-up

A UDP socket is connected to its peer: then the kernel keeps strangers out and tells us about a peer that is away. A UNIX
socket is not, because a connected one would refuse the peer's successor after a restart; its file is open to its owner
only. A peer that is away costs the frames, counted as "disconnected".

Back-pressure: a socket that is full refuses; the port's queue fills and drops, counted. An unconnected UNIX socket cannot
be asked when the peer has room again: a second, connected one is, or else a timer of ``AGAIN_SECONDS``. When the hub refuses what was
received, one frame is held and the socket is not read: the kernel's own buffer fills, and it drops.

Limits: a frame of up to ``framing.FRAME_MAX``; what the socket cannot carry in one datagram (UDP: 65,507 bytes) is dropped
as "oversize". Own multicast frames: ``mcast``. Ref: QEMU net/dgram.c, net/socket.c.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

from ...config import Endpoint, UnixPath
from ...vlan.port import Port
from .address import FLAGS, Target, WireError, bind_unix, look_up, numeric, reason, shown, unix_name
from .framing import FRAME_MAX
from .retry import Retry

BURST = 64
AGAIN_SECONDS = 0.001
BUFFER = 1 << 20  # asked of the kernel, each way: a burst of super-frames
_AWAY = frozenset(
    (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTCONN, errno.ECONNRESET, errno.EPERM, errno.EPIPE)
)
log = logging.getLogger("tapnet.wires")


class Datagrams:
    """A non-blocking datagram socket under ``port``, which this creates.

    dest      a UNIX name: where an unconnected socket sends; None: the socket that sends is connected
    own       () -> source address of our own frames, which come back and are dropped
    failed    (error) a frame could not be sent for this reason
    gone      the socket can receive nothing more (sequenced packets: end of file)
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        *,
        dest: str | None = None,
        own: Callable[[], Any] | None = None,
        failed: Callable[[OSError], None] | None = None,
        gone: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._dest, self._own, self._on_failed, self._gone = dest, own, failed, gone
        self._sock: socket.socket | None = None
        self._sender: socket.socket | None = None
        self._watch: socket.socket | None = None  # its poll says when the peer has room
        self._timer: asyncio.TimerHandle | None = None
        self._held: bytes | None = None
        self._reading = self._on = False
        self.echoes = 0
        self.port = Port(name, self._receive, ready=self._ready)

    def use(self, sock: socket.socket, sender: socket.socket | None = None) -> None:
        """Go on with these sockets; those before are closed."""
        self.drop()
        self._sock, self._sender = sock, sender or sock
        for one in (sock, self._sender):
            one.setblocking(False)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                if one.getsockopt(socket.SOL_SOCKET, option) < BUFFER:
                    one.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        if self._held is None:
            self._read(self._on)

    def export(self) -> tuple[int | None, bytes | None]:
        """The socket's descriptor and the frame that is held, for another process. Only ``close`` may follow."""
        self._read(False)
        return (self._sock.fileno() if self._sock is not None else None), self._held

    def adopt(self, sock: socket.socket, held: bytes | None) -> None:
        """Go on where ``export`` ended, from ``start`` on."""
        self._held = held
        self.use(sock)

    def replace_sender(self, sender: socket.socket) -> None:
        """Send by another socket from now on."""
        self._unblock()
        old, self._sender = self._sender, sender
        if old is not None and old is not self._sock:
            old.close()

    def start(self) -> None:
        """Begin to read."""
        self._on = True
        self._ready()

    # ---- to the socket -------------------------------------------------------------------------------------

    def _receive(self, frame: bytes, _vnet: bytes) -> bool:
        sender = self._sender
        if sender is None:
            self.port.counters.drop("disconnected")
            return True
        if not 0 < len(frame) <= FRAME_MAX:
            self.port.counters.drop("oversize" if frame else "empty")
            return True
        try:
            if self._dest is None:
                sender.send(frame)
            else:
                sender.sendto(frame, self._dest)
        except (BlockingIOError, InterruptedError):
            self._block(sender)
            return False
        except OSError as error:
            self._failed(error)
        return True

    def _failed(self, error: OSError) -> None:
        number = error.errno or 0
        if number == errno.EMSGSIZE:
            self.port.counters.drop("oversize")
            return
        self.port.counters.drop(
            "disconnected" if number in _AWAY else errno.errorcode.get(number, "error").lower()
        )
        if self._on_failed is not None:
            self._on_failed(error)

    def _block(self, sender: socket.socket) -> None:
        """Have ``_writable`` called when there may be room."""
        if self._watch is not None or self._timer is not None:
            return
        watch: socket.socket | None = sender
        if self._dest is not None:
            watch = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | FLAGS)
            try:
                watch.connect(self._dest)
            except OSError:
                watch.close()
                watch = None
        if watch is None:
            self._timer = self._loop.call_later(AGAIN_SECONDS, self._writable)
        else:
            self._watch = watch
            self._loop.add_writer(watch.fileno(), self._writable)

    def _writable(self) -> None:
        self._unblock()

    def _unblock(self) -> None:
        watch, timer = self._watch, self._timer
        self._watch = self._timer = None
        if watch is not None:
            self._loop.remove_writer(watch.fileno())
            if watch is not self._sender:
                watch.close()
        if timer is not None:
            timer.cancel()
        if watch is not None or timer is not None:
            self.port.flush()

    # ---- from the socket -----------------------------------------------------------------------------------

    def _read(self, on: bool) -> None:
        if self._sock is not None and on != self._reading:
            self._reading = on
            if on:
                self._loop.add_reader(self._sock.fileno(), self._readable)
            else:
                self._loop.remove_reader(self._sock.fileno())

    def _readable(self) -> None:
        sock = self._sock
        assert sock is not None
        send = self.port.send
        own = self._own
        for count in range(BURST):
            try:
                if own is None:
                    frame = sock.recv(FRAME_MAX + 1)
                else:
                    frame, source = sock.recvfrom(FRAME_MAX + 1)
                    if source[:2] == own():
                        self.echoes += 1
                        continue
            except (BlockingIOError, InterruptedError):
                if not count:  # woken for an error that a send has taken
                    self._watch_again()
                return
            except OSError as error:  # an ICMP error of what we had sent: the peer is away
                self._failed(error)
                self._watch_again()
                return
            if not frame:
                if self._gone is not None:
                    self._read(False)
                    self._gone()
                    return
                self.port.counters.drop("empty")
            elif len(frame) > FRAME_MAX:
                self.port.counters.drop("oversize")
            elif not send(frame):
                self._held = frame
                self._read(False)
                return

    def _watch_again(self) -> None:
        """libuv ends a watch at the first error."""
        self._read(False)
        self._read(self._on)

    def _ready(self) -> None:
        frame, self._held = self._held, None
        if frame is not None and not self.port.send(frame):
            self._held = frame
            return
        self._read(self._on)

    # ---- the end -------------------------------------------------------------------------------------------

    def drop(self) -> None:
        """Close the sockets; the port stays, and ``use`` may follow. Idempotent."""
        self._read(False)
        self._unblock()
        for sock in (self._sock, self._sender):
            if sock is not None:
                sock.close()
        self._sock = self._sender = None

    def close(self) -> None:
        """For good. Idempotent."""
        self._on = False
        self.drop()
        self._held = None


class UdpWire:
    """``socket,udp=,localaddr=`` and ``dgram`` between two UDP addresses."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        origin: str,
        local: Endpoint,
        remote: Endpoint,
        words: str,
    ) -> None:
        self._origin, self._words = origin, words
        self._local, self._remote = local, remote
        self._end = Datagrams(loop, name)
        self.port = self._end.port
        self._retry: Retry | None = None
        try:
            here, there = numeric(local), numeric(remote)
            if here is None or there is None:
                self._retry = Retry(loop, f"{origin}: udp {remote}", self._names)
            else:
                self._end.use(self._open(here, there))
        except OSError as error:
            raise WireError(f"{origin}: udp {remote} from {local}: {reason(error)}") from None

    @staticmethod
    def _open(here: list[Target], there: list[Target]) -> socket.socket:
        for family, target in there:
            for own, bound in here:
                if own == family:
                    sock = socket.socket(family, socket.SOCK_DGRAM | FLAGS)
                    try:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        sock.bind(bound)
                        sock.connect(target)
                    except OSError:
                        sock.close()
                        raise
                    return sock
        raise OSError(errno.EAFNOSUPPORT, "the two addresses are of different families")

    async def _names(self) -> None:
        self._end.use(self._open(await look_up(self._local), await look_up(self._remote)))

    def start(self) -> None:
        """Begin to read."""
        self._end.start()
        if self._retry is not None:
            self._retry.now()

    def info_line(self) -> str:
        """As QEMU says it."""
        return self._words

    def close(self) -> None:
        """Idempotent."""
        if self._retry is not None:
            self._retry.close()
        self._end.close()


class UnixWire:
    """``dgram`` between two paths."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, origin: str, local: UnixPath, remote: UnixPath
    ) -> None:
        dest = unix_name(remote)
        self._words = f"dgram: unix={shown(unix_name(local))}:{shown(dest)}"
        try:
            sock, self._file = bind_unix(socket.SOCK_DGRAM, local)
        except OSError as error:
            raise WireError(f"{origin}: local.path={local.path}: {reason(error)}") from None
        self._end = Datagrams(loop, name, dest=dest)
        self._end.use(sock)
        self.port = self._end.port

    def start(self) -> None:
        """Begin to read."""
        self._end.start()

    def info_line(self) -> str:
        """Both ends."""
        return self._words

    def close(self) -> None:
        """Idempotent."""
        self._end.close()
        if self._file is not None:
            self._file.remove()


class GivenDatagrams:
    """A connected datagram or packet socket that we inherited."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, sock: socket.socket, words: str) -> None:
        self._words = words
        self._why = ""
        packets = sock.type == socket.SOCK_SEQPACKET
        self._end = Datagrams(loop, name, gone=self._gone if packets else None)
        self._end.use(sock)
        self.port = self._end.port

    def _gone(self) -> None:
        self._why = "closed by the peer"
        log.warning("tapnet: %s: %s", self._words, self._why, extra={"port": self.port.name})
        self._end.drop()

    def start(self) -> None:
        """Begin to read."""
        self._end.start()

    def info_line(self) -> str:
        """The descriptor."""
        return f"{self._words} ({self._why})" if self._why else self._words

    def close(self) -> None:
        """Idempotent."""
        self._end.close()
