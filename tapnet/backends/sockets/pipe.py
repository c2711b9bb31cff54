"""One connected stream socket under a port of a hub: framing both ways, without waiting.

    hub ──receive──► list of pieces ──one send for many frames──► socket
    hub ◄──Port.send── frames ◄── Splitter ◄──one recv for many frames── socket

Where all that hear it are pipes too, what was read goes on in one piece, whole frames only, and is sent as it came
(``tapnet.vlan.train``): frames are counted, not cut.

Back-pressure, towards the peer: what a socket does not take stays here, up to ``OUT_BYTES``; then ``receive`` refuses and
the port's bounded queue fills and drops, counted, while the hub goes on. Towards us: when the hub refuses a frame, the rest
of what was read is held and the socket is not read until ``ready``: TCP's window closes, nothing is lost. So a connection
costs at most ``OUT_BYTES`` + ``RECV`` + one frame beside the port's queue.

A frame leaves with the batch that it came in: ``receive`` sends when the port's queue is empty, and in any case before
the loop sleeps. The end of the connection (end of file, an error, a length out of step) is told once by ``lost(why)``,
from the loop and never from inside a call of the hub.

Limits: no timers; a peer that vanished without a word is found by TCP keep-alive (``KEEP_*``).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

from ...vlan.port import Port
from ...vlan.train import HEAD, cut, head
from .address import reason
from .framing import FRAME_MAX, RECV, Splitter

RECV_TRIES = 4
OUT_BYTES = 256 << 10
ALONE = 16 << 10  # so long a piece is sent by itself, not copied to others
KEEP_IDLE, KEEP_EVERY, KEEP_COUNT = 60, 15, 4  # seconds, seconds, probes


def tune(sock: socket.socket) -> None:
    """As QEMU: no delay; and find dead peers."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_IDLE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_EVERY)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_COUNT)


class Pipe:
    """Frames between ``sock`` and ``port``. The owner points the port's ``receive`` and ``ready`` at this."""

    __slots__ = (
        "_at",
        "_blocked",
        "_data",
        "_fd",
        "_held",
        "_loop",
        "_lost",
        "_out",
        "_pending",
        "_port",
        "_queue",
        "_reading",
        "_refused",
        "_scheduled",
        "_sock",
        "_splitter",
        "closed",
    )
    _head = staticmethod(head)  # what stands before a frame

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, port: Port, lost: Callable[[str], None]
    ) -> None:
        tune(sock)
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._port = port
        self._queue = port.queue
        self._lost = lost
        self._splitter = Splitter()
        self._held = b""  # read, and not taken by the hub: a train
        self._out: list[bytes] = []  # to be sent: length, frame, length, frame ... or trains
        self._data = b""  # begun to be sent,
        self._at = 0  # up to here
        self._pending = 0  # bytes of both that are not sent
        self._blocked = self._scheduled = self._refused = self._reading = False
        self.closed = False

    def start(self) -> None:
        """Begin to read; go on with what was adopted."""
        if self._data:
            self._send()
        self.ready()

    # ---- over a restart ------------------------------------------------------------------------------------

    def export(self) -> dict[str, Any]:
        """What is on its way, for the ``adopt`` of another process. This one is empty then: only ``close`` may follow."""
        self._read(False)
        at = 0  # begin of the frame that is being sent
        while at < self._at:
            end = at + HEAD + int.from_bytes(self._data[at : at + HEAD], "big")
            if end > self._at:
                break
            at = end
        state = {
            "tail": self._splitter.tail(),
            "held": cut(self._held),
            "out": b"".join((self._data[at:], *self._out)),
            "sent": self._at - at if self._data else 0,
        }
        self._held, self._out, self._data, self._at, self._pending = b"", [], b"", 0, 0
        self._refused = False
        return state

    def adopt(self, state: dict[str, Any]) -> None:
        """Go on where ``export`` ended, before ``start``."""
        self._splitter.feed(state["tail"])
        self._held = b"".join(head(len(frame)) + frame for frame in state["held"])
        self._data, self._at = state["out"], state["sent"]
        self._pending = len(self._data) - self._at

    def fileno(self) -> int:
        """Of the socket."""
        return self._fd

    # ---- to the socket -------------------------------------------------------------------------------------

    def receive(self, frame: bytes, _vnet: bytes) -> bool:
        """The port's ``receive``."""
        size = len(frame)
        if self.closed:
            self._port.counters.drop("disconnected")
            return True
        if not 0 < size <= FRAME_MAX:
            self._port.counters.drop("oversize" if size else "empty")
            return True
        if self._pending >= OUT_BYTES:
            self._refused = True
            return False
        lead = self._head(size)
        out = self._out
        out.append(lead)
        out.append(frame)
        self._pending += len(lead) + size
        if not self._blocked:
            if not self._queue or self._pending >= OUT_BYTES:
                self._send()
            elif not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._later)
        return True

    def train(self, train: bytes, count: int) -> bool:
        """The port's ``train``."""
        if self.closed:
            self._port.counters.drop("disconnected", count)
            return True
        if self._pending >= OUT_BYTES:
            self._refused = True
            return False
        self._out.append(train)
        self._pending += len(train)
        if not self._blocked:
            self._send()
        return True

    def _later(self) -> None:
        self._scheduled = False
        if not self._blocked:
            self._send()

    def _send(self) -> None:
        """Give the socket what it takes."""
        if self.closed:
            return
        while self._data or self._out:
            if not self._data:
                out = self._out
                if len(out[0]) >= ALONE:
                    self._data = out.pop(0)
                else:
                    self._data = b"".join(out)
                    out.clear()
            data, at = self._data, self._at
            try:
                sent = self._sock.send(memoryview(data)[at:] if at else data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._end(reason(error))
                return
            self._pending -= sent
            if at + sent < len(data):
                self._at = at + sent
                if not self._blocked:
                    self._blocked = True
                    self._loop.add_writer(self._fd, self._writable)
                return
            self._data, self._at = b"", 0

    def _writable(self) -> None:
        self._send()
        if self.closed:
            return
        if not self._data:
            self._blocked = False
            self._loop.remove_writer(self._fd)
        if self._refused and self._pending < OUT_BYTES:
            self._refused = False
            self._port.flush()

    # ---- from the socket -----------------------------------------------------------------------------------

    def _read(self, on: bool) -> None:
        if on != self._reading and not self.closed:
            self._reading = on
            if on:
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        """Read to the end of what is there, or one full piece.

        libuv ends a watch at the first error (a reset), even with data before it: so an error that may wait behind the
        data is looked for, and the watch is renewed when it was not.
        """
        for _ in range(RECV_TRIES):
            try:
                size = self._sock.recv_into(self._splitter.room())
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._end(reason(error))
                return
            if not size:
                half = self._splitter.partial
                self._end(f"closed by the peer{' in the middle of a frame' if half else ''}")
                return
            splitter = self._splitter
            train, count = splitter.took(size)
            if splitter.empty:
                self._port.counters.drop("empty", splitter.empty)
                splitter.empty = 0
            if splitter.runts:
                self._port.counters.drop("runt", splitter.runts)
                splitter.runts = 0
            self._deliver(train, count)
            if self.closed or not self._reading:
                return
            if size == RECV:
                break
        self._read(False)
        self._read(True)

    def _deliver(self, train: bytes, count: int) -> None:
        port = self._port
        if count > 1 and port.rails:
            assert port.hub is not None
            if not port.hub.forward_train(port, train, count):
                self._hold(train)
                return
        elif count:
            send = port.send
            at = 0
            for frame in cut(train):
                if not send(frame):
                    self._hold(train[at:])
                    return
                at += HEAD + len(frame)
        if self._splitter.broken is not None:
            self._broken(self._splitter.broken)

    def _broken(self, why: str) -> None:
        """There is no way back into step."""
        self._port.counters.drop("oversize")
        self._end(why)

    def _hold(self, train: bytes) -> None:
        """Wait for the hub, and let the peer wait."""
        self._held = train
        self._read(False)

    def ready(self) -> None:
        """The port's ``ready``: the hub takes frames again."""
        if self.closed:
            return
        train, self._held = self._held, b""
        self._deliver(train, len(cut(train)))
        if not self._held:
            self._read(True)

    # ---- the end -------------------------------------------------------------------------------------------

    def _end(self, why: str) -> None:
        if not self.closed:
            self.close()
            self._loop.call_soon(self._lost, why)

    def close(self) -> None:
        """Close the socket; ``lost`` is not called. Idempotent."""
        if self.closed:
            return
        if self._reading:
            self._loop.remove_reader(self._fd)
        if self._blocked:
            self._loop.remove_writer(self._fd)
        elif self._out:
            self._data = b"".join((self._data[self._at :], *self._out))  # the last words of a batch
            self._out.clear()
            with contextlib.suppress(OSError):
                self._at = self._sock.send(self._data)
        self.closed = True
        self._sock.close()
        self._splitter.release()  # now: what refers to us may wait long for the garbage collector
        lost = len(cut(self._held)) + self._unsent()
        if lost:
            self._port.counters.drop("disconnected", lost)
        self._held, self._out, self._data, self._pending = b"", [], b"", 0
        if self._refused:  # whoever is behind the port now takes, or drops, what waits
            self._refused = False
            self._port.flush()

    @staticmethod
    def _ends(data: bytes) -> list[int]:
        """Where each frame ends in what is to be sent."""
        ends, at = [], 0
        while at < len(data):
            at += HEAD + int.from_bytes(data[at : at + HEAD], "big")
            ends.append(at)
        return ends

    def _unsent(self) -> int:
        """Frames that were taken from the hub and not sent whole."""
        begun = sum(end > self._at for end in self._ends(self._data))
        return begun + len(self._ends(b"".join(self._out)))
