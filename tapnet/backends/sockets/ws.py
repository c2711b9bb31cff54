"""Frames over WebSocket (``-net ws,listen=``), as emulators in browsers speak it: one binary message is one frame.

    socket ─► handshake (Origin, 403 or 101) ─► WsPipe ◄──► port of its own on the hub

The protocol is that of the ``websockets`` library, sans-IO (an optional extra); sockets, back-pressure and bounds are those
of ``pipe``. Text messages are ignored and counted ("text"), empty ones skipped ("empty"); a message in fragments is one
frame; ping is answered. A message of more than ``FRAME_MAX`` bytes, or what is no WebSocket, ends the connection with the
close code that RFC 6455 has for it. No compression: frames are small and latency counts.

Any page that a browser of this host shows could connect here, so the Origin is checked: none (no browser), or one of those
in ``origin=``. Nobody else is authenticated: whoever connects is on the VLAN.

Limits: a handshake has ``HANDSHAKE_SECONDS``; clients and handshakes together ``CLIENTS_MAX``; what we owe to one that pings
and does not read is at most twice ``OUT_BYTES``. A connection does not survive a restart.
Ref: RFC 6455; RFC 6454 (Origin).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...text import printable
from ...vlan.port import Port
from .address import WireError, reason
from .framing import FRAME_MAX, Splitter
from .pipe import OUT_BYTES, Pipe, tune
from .stream import Listener, Options

if TYPE_CHECKING:
    from websockets.server import ServerProtocol

HANDSHAKE_SECONDS = 10.0
REQUEST = 64 << 10
GOING_AWAY = 1001
_TEXT, _BINARY, _CONTINUED, _FINAL_BINARY = 1, 2, 0, 0x82
_SILENT = logging.getLogger("tapnet.websockets")  # anybody can connect and send rubbish
_SILENT.propagate = False
_SILENT.addHandler(logging.NullHandler())
SUBPROTOCOLS = ("binary",)  # what websockify's clients ask for


def _lead(size: int) -> bytes:
    """What stands before a binary message of a server. RFC 6455, 5.2."""
    if size < 126:
        return bytes((_FINAL_BINARY, size))
    if size < 65536:
        return b"\x82\x7e" + size.to_bytes(2, "big")
    return b"\x82\x7f" + size.to_bytes(8, "big")


class Messages(Splitter):
    """The peer's bytes as frames. ``owed``: what must be answered; ``fault``: the counter of a peer that broke the rules."""

    __slots__ = ("_parts", "_port", "_text", "fault", "owed", "protocol")

    def __init__(self, protocol: ServerProtocol, port: Port) -> None:
        super().__init__()
        self.protocol = protocol
        self.owed = b""
        self.fault = ""
        self._port = port
        self._parts: list[bytes] = []  # of a message that has begun
        self._text = False

    @property
    def partial(self) -> int:
        """Bytes of a message that has begun."""
        return sum(map(len, self._parts))

    def took(self, size: int) -> tuple[bytes, int]:
        """See ``Splitter``."""
        if self.broken is not None:
            return b"", 0
        protocol = self.protocol
        protocol.receive_data(bytes(self._view[:size]) if size else b"")
        frames: list[bytes] = []
        event: Any
        for event in protocol.events_received():
            opcode = event.opcode
            if opcode in (_TEXT, _BINARY):
                self._text = opcode == _TEXT
                self._parts = [event.data]
            elif opcode == _CONTINUED:
                self._parts.append(event.data)
            else:
                continue
            if not event.fin:
                continue
            message, self._parts = b"".join(self._parts), []
            if self._text:
                self._port.counters.drop("text")
            else:
                frames.append(message)
        self.owed = b"".join(protocol.data_to_send())
        if protocol.parser_exc is not None:
            self.fault = "oversize" if type(protocol.parser_exc).__name__ == "PayloadTooBig" else "malformed"
            self.broken = f"{protocol.parser_exc}"
        elif protocol.close_rcvd is not None:
            self.broken = "closed by the peer"
        return self.whole(frames)


class WsPipe(Pipe):
    """One client after its handshake."""

    __slots__ = ("_messages",)
    _head = staticmethod(_lead)

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        port: Port,
        lost: Callable[[str], None],
        protocol: ServerProtocol,
    ) -> None:
        super().__init__(loop, sock, port, lost)
        self._splitter = self._messages = Messages(protocol, port)

    def start(self) -> None:
        """Begin to read; the first messages may have come with the handshake."""
        super().start()
        self._deliver(*self._messages.took(0))

    def _deliver(self, train: bytes, count: int) -> None:
        owed, self._messages.owed = self._messages.owed, b""
        if owed and not self.closed:
            self._out.append(owed)
            self._pending += len(owed)
            if not self._blocked:
                self._send()
            if self._pending >= 2 * OUT_BYTES:
                self._end("asks and does not read")
        if not self.closed:
            super()._deliver(train, count)

    def _broken(self, why: str) -> None:
        if self._messages.fault:
            self._port.counters.drop(self._messages.fault)
        self._end(why)

    @staticmethod
    def _ends(data: bytes) -> list[int]:
        ends, at = [], 0
        while at + 2 <= len(data):
            binary, size = data[at] == _FINAL_BINARY, data[at + 1] & 127
            wide = {126: 2, 127: 8}.get(size, 0)
            if wide:
                size = int.from_bytes(data[at + 2 : at + 2 + wide], "big")
            at += 2 + wide + size
            if binary:
                ends.append(at)
        return ends

    def close(self) -> None:
        """Say that we go, and close. Idempotent."""
        if not self.closed:
            protocol = self._messages.protocol
            if protocol.state.name == "OPEN":
                protocol.send_close(GOING_AWAY)
                self._out.append(b"".join(protocol.data_to_send()))
        super().close()


class _Handshake:
    """A client that has not said yet what it wants."""

    def __init__(self, owner: WsListener, sock: socket.socket, peer: str, protocol: ServerProtocol) -> None:
        tune(sock)
        self.sock, self.peer, self.protocol = sock, peer, protocol
        self._owner = owner
        self._timer = owner.loop.call_later(HANDSHAKE_SECONDS, self._fail, "no handshake in time")
        owner.loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self.sock.recv(REQUEST)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(reason(error))
            return
        if not data:
            self._fail("closed by the peer in the handshake")
            return
        protocol = self.protocol
        protocol.receive_data(data)
        for request in protocol.events_received():
            response = protocol.accept(request)  # type: ignore[arg-type]  # the first event is a Request
            protocol.send_response(response)
            break
        out = b"".join(protocol.data_to_send())
        if out:
            with contextlib.suppress(OSError):  # the first bytes of a connection fit
                self.sock.send(out)
        if protocol.handshake_exc is not None:
            self._fail(f"{protocol.handshake_exc}")
        elif protocol.state.name == "OPEN":
            self.release()
            self._owner.welcome(self)
        elif protocol.state.name != "CONNECTING":
            self._fail("no WebSocket")
        else:  # libuv ends a watch at a reset, even with data before it
            self._owner.loop.remove_reader(self.sock.fileno())
            self._owner.loop.add_reader(self.sock.fileno(), self._readable)

    def _fail(self, why: str) -> None:
        self.release()
        self.sock.close()
        self._owner.rejected(self, why)

    def release(self) -> None:
        """Let go of the socket."""
        self._timer.cancel()
        self._owner.loop.remove_reader(self.sock.fileno())


class WsListener(Listener):
    """The server. ``origins``: those that browsers may come from."""

    KIND = "ws"
    export = None  # type: ignore[assignment]  # its connections end with the process

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: Options,
        origins: Sequence[str],
        joined: Callable[[Port, str], None],
        left: Callable[[Port], None],
    ) -> None:
        """Raises WireError."""
        try:
            from websockets.server import ServerProtocol
        except ImportError:
            raise WireError(
                f"{options.origin}: needs the Python package websockets: pip install 'tapnet[ws]'"
            ) from None
        self.loop = loop
        self.rejections = 0
        self._make: Callable[[], Any] = lambda: ServerProtocol(
            origins=[None, *origins],  # type: ignore[list-item]  # a NewType of str
            subprotocols=SUBPROTOCOLS,  # type: ignore[arg-type]
            select_subprotocol=_choose,
            max_size=FRAME_MAX,
            logger=_SILENT,
        )
        self._handshakes: set[_Handshake] = set()
        super().__init__(loop, options, joined, left)

    def _client(self, sock: socket.socket, peer: str) -> None:
        if self._is_full(len(self.clients) + len(self._handshakes)):
            sock.close()
            return
        self._handshakes.add(_Handshake(self, sock, peer, self._make()))

    def rejected(self, handshake: _Handshake, why: str) -> None:
        """A client that is none."""
        why = printable(why)[:200]  # it may have words of the client's
        self._handshakes.discard(handshake)
        self.rejections += 1
        self.last_end = f"{handshake.peer}: {why}"
        self._log(handshake.peer, why)

    def welcome(self, handshake: _Handshake) -> None:
        """It is a client now."""
        self._handshakes.discard(handshake)
        self.accepted += 1
        name = f"{self._options.name}.{self.accepted}"
        pipe = self._plug(handshake.sock, handshake.peer, name, handshake.protocol)
        if pipe is not None:
            pipe.start()

    def _pipe(self, sock: socket.socket, port: Port, lost: Callable[[str], None], extra: Any) -> Pipe:
        return WsPipe(self.loop, sock, port, lost, extra)

    def status(self) -> str:
        """See ``Listener``."""
        return f"{super().status()}; {self.rejections} handshakes failed"

    def info_line(self) -> str:
        """Where it listens."""
        return f"ws: listen={self.address}" if self.address else "ws: not listening"

    def close(self) -> None:
        """End all connections. Idempotent."""
        for handshake in self._handshakes:
            handshake.release()
            handshake.sock.close()
        self._handshakes.clear()
        super().close()


def _choose(_protocol: object, offered: Sequence[Any]) -> Any:
    """The first that we know, or none: a client that asks for another may take us without."""
    return next((one for one in offered if one in SUBPROTOCOLS), None)
