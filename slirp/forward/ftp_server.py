"""FTP servers behind a redirection: the data connections of passive mode find their way (``ftp=auto``). Guests' own clients in
active mode: ``ftp_client``.

A server in a guest answers PASV and EPSV with its own address and port, where no client of the host can go. For a
client of a redirection to guest port 21 the reply is rewritten: a port of the host's, on the address that the
client chose, leads to the port that the server named, for one connection from that client's address within
``EXPECT``. The control connection is a byte stream on both sides, so that its length may change.

    227 Entering Passive Mode (10,0,2,15,p,q)     the address that the client chose, the new port
    229 Entering Extended Passive Mode (|||p|)    the new port

A reply that names another address than the guest's is left alone: an administrator has set that up. After "234"
(AUTH TLS) nothing can be read any more, nor rewritten. Active mode needs no help: the server connects out.

Limits: ``EXPECTED`` ports at once over all, ``PER_CONTROL`` of one control connection (the oldest goes); a line that
begins as such a reply is held until it ends, up to ``LINE`` bytes.

Ref: RFC 959 4.1.2; RFC 2428 3; RFC 4217 (TLS); RFC 2577 3 (whom a data connection is taken from).
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from ..contracts.host import AcceptedTcp, Address, TcpEvents
from ..wire.ipv4 import canonical

PORT = 21
SECOND = 1_000_000_000
EXPECT = 60 * SECOND
EXPECTED = 256
PER_CONTROL = 4
LINE = 512
_PASSIVE = re.compile(rb"227[ -].*?(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3})")
_EXTENDED = re.compile(rb"229[ -].*?\(([!-~])\1\1(\d{1,5})\1\)")
_STARTS = (b"227", b"229")


class Expecting(Protocol):
    """A port of the host that waits for one data connection."""

    @property
    def address(self) -> Address:
        """As bound."""

    def close(self) -> None:
        """Wait no more. Idempotent."""


class Owner(Protocol):
    """What a control connection asks of ``forward.Forwards``."""

    def expect(self, control: Control, port: int) -> Expecting | None:
        """Let one connection of the control connection's client through to a port of its guest; None: no room."""


class Control:
    """The socket of a control connection, between the flow and the host (``AcceptedTcp`` and ``TcpEvents``)."""

    _sock: Any  # AcceptedTcp; of ``ftp_client`` a TcpSocket
    peer: Address
    local: Address

    def __init__(self, owner: Owner, sock: AcceptedTcp) -> None:
        self._sock = sock
        self.begin(owner)
        self.peer = sock.peer
        self.local = sock.local

    def begin(self, owner: Owner) -> None:
        """Nothing has been said yet."""
        self.peer = self.local = ("", 0)
        self.guest = b""  # its address, once it is known
        self._owner = owner
        self._events: TcpEvents | None = None
        self._held = b""  # of a line that may be a reply to be rewritten
        self._inside = False  # of a line that is none
        self._blind = False  # nothing is rewritten any more
        self._out = b""  # rewritten, not taken by the host yet
        self._wanted = (False, False)
        self._ended = False
        self._expecting: list[Expecting] = []

    # ---- the flow's view -----------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor; -1: none to show."""
        fileno = getattr(self._sock, "fileno", None)
        return int(fileno()) if fileno is not None else -1

    def send(self, data: bytes | memoryview) -> int:
        """Take what the server says; 0: the host is full."""
        if self._out and not self._flush():
            return 0
        self._out = self._rewritten(bytes(data))
        self._flush()
        return len(data)

    def recv(self, size: int) -> bytes | None:
        """What the client says."""
        data: bytes | None = self._sock.recv(size)
        return data

    @property
    def urgent(self) -> bool:
        """Whether the client has urgent data, as with ABOR."""
        return bool(self._sock.urgent)

    @urgent.setter
    def urgent(self, value: bool) -> None:
        self._sock.urgent = value

    def at_mark(self) -> bool:
        """Whether the client's next byte is the urgent one."""
        return bool(self._sock.at_mark())

    def send_urgent(self, byte: bytes) -> int:
        """A server has none: in line."""
        return self.send(byte)

    def keepalive(self, idle: int) -> None:
        """Towards the client."""
        self._sock.keepalive(idle)

    def shutdown(self) -> None:
        """No more from the server, when all has gone out."""
        self._out += self._held
        self._held = b""
        self._ended = True
        if self._flush():
            self._sock.shutdown()

    def watch(self, read: bool, write: bool) -> None:
        """Which events the flow wants."""
        self._wanted = (read, write)
        self._sock.watch(read, write or bool(self._out))

    def close(self, *, reset: bool = False) -> None:
        """The control connection is over, and no data connection is expected any more."""
        if not reset and (self._out or self._held):
            self._out += self._held
            self._held = b""
            try:
                self._flush()
            except OSError:
                pass
        for port in self._expecting:
            port.close()
        self._expecting.clear()
        self._sock.close(reset=reset)

    def attach(self, events: TcpEvents) -> None:
        """The flow."""
        self._events = events
        self._sock.attach(self)

    def gone(self) -> bool:
        """Whether the client has left."""
        return bool(self._sock.gone())

    # ---- the host's events ---------------------------------------------------------------------------------

    def host_connected(self, now: int) -> None:
        """Never: it was accepted."""

    def host_failed(self, error: int, now: int) -> None:
        """It broke."""
        if self._events is not None:
            self._events.host_failed(error, now)

    def host_readable(self, now: int) -> None:
        """For the flow."""
        if self._events is not None:
            self._events.host_readable(now)

    def host_writable(self, now: int) -> None:
        """What waits goes first."""
        try:
            if self._out and not self._flush():
                return
        except OSError:
            self._out = b""  # the flow finds out by its own call
        if self._ended:
            self._sock.shutdown()
        if self._wanted[1] and self._events is not None:
            self._events.host_writable(now)

    def _flush(self) -> bool:
        """Whether all has gone out. Raises OSError."""
        if self._out:
            self._out = self._out[self._sock.send(self._out) :]
            self._sock.watch(self._wanted[0], self._wanted[1] or bool(self._out))
        return not self._out

    # ---- rewriting -----------------------------------------------------------------------------------------

    def _rewritten(self, data: bytes) -> bytes:
        if self._blind:
            return data
        data = self._held + data
        self._held = b""
        out = bytearray()
        at = 0
        while at < len(data):
            end = data.find(b"\n", at) + 1
            whole = end > 0
            line = data[at : end if whole else len(data)]
            at += len(line)
            if self._inside:
                self._inside = not whole
            elif not whole and len(line) < LINE and self._may_begin(line):
                self._held = line
                break
            elif whole and self._begins(line):
                line = self._reply(line)
            else:
                self._inside = not whole
                if self._ends_all(line):
                    self._blind = True
                    return bytes(out + line + data[at:])
            out += line
        return bytes(out)

    def _may_begin(self, line: bytes) -> bool:
        """Whether a part of a line may become one that is to be rewritten, or that ends rewriting."""
        return line[:3] in (b"2", b"22", b"23", *_STARTS)

    def _begins(self, line: bytes) -> bool:
        """Whether a line is to be rewritten."""
        return line[:3] in _STARTS

    def _ends_all(self, line: bytes) -> bool:
        """Whether nothing behind a line can be read."""
        return line.startswith(b"234")

    def _reply(self, line: bytes) -> bytes:
        """One reply, with our port in place of the guest's."""
        found = _PASSIVE.match(line)
        if found is not None:
            numbers = [int(word) for word in found.groups()]
            if max(numbers) > 255 or bytes(numbers[:4]) != self.guest:
                return line
            ours = self._expect(numbers[4] << 8 | numbers[5])
            if ours is None:
                return line
            text = f"{canonical(ours[0]).replace('.', ',')},{ours[1] >> 8},{ours[1] & 255}"
            return line[: found.start(1)] + text.encode() + line[found.end(6) :]
        found = _EXTENDED.match(line)
        if found is None:
            return line
        ours = self._expect(int(found[2]))
        if ours is None:
            return line
        return line[: found.start(2)] + b"%d" % ours[1] + line[found.end(2) :]

    def _expect(self, port: int) -> Address | None:
        if not 0 < port < 65536:
            return None
        found = self._owner.expect(self, port)
        if found is None:
            return None
        self._expecting.append(found)
        if len(self._expecting) > PER_CONTROL:
            self._expecting.pop(0).close()
        return found.address
