"""FTP clients in guests: active mode's data connections find their way back (``ftp=on``).

A guest's client names its own address and port in PORT or EPRT, which no server of the world can reach. On connections to port 21
the command is rewritten: a port of the host's, on the address that the control connection has there, leads to the guest's, for one
connection from the server within ``ftp.EXPECT``.

    PORT 10,0,2,15,p,q        the host's address, the new port
    EPRT |1|10.0.2.15|p|      the same, of either family

A command that names somebody else than the guest is left alone: no guest opens ports for others. After the server's "234" (AUTH
TLS) nothing is read any more. Passive mode needs none of this. Limits: those of ``ftp``.

Ref: RFC 959 4.1.2; RFC 2428 2; RFC 2577 3 (PORT for third parties).
"""

from __future__ import annotations

import re

from ..contracts.host import Address, Host, IcmpError, TcpEvents, TcpSocket
from ..wire.ipv4 import canonical, ip_bytes, ip_text
from .ftp_server import LINE, Control, Owner

_PORT = re.compile(rb"PORT +(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3})", re.IGNORECASE)
_EPRT = re.compile(rb"EPRT +([!-~])([12])\1([0-9a-fA-F:.]{2,45})\1(\d{1,5})\1", re.IGNORECASE)
_VERBS = (b"PORT ", b"EPRT ")


class GuestControl(Control):
    """One control connection of a guest's (``slirp.contracts.link.Opener``)."""

    def __init__(self, owner: Owner, host: Host, remote: Address) -> None:
        self._host = host
        self._remote = remote
        self._line = b""  # of the server, as far as it matters
        self._connected: TcpSocket | None = None
        super().begin(owner)

    def open(self, events: TcpEvents) -> TcpSocket:
        """Connect. Raises OSError."""
        self._events = events
        self.guest = getattr(events, "guest", b"")
        self._sock = self._connected = self._host.tcp(self._remote, self)
        return self

    @property
    def failure(self) -> IcmpError | None:
        """Why the connect failed."""
        return getattr(self._connected, "failure", None)

    def host_connected(self, now: int) -> None:
        """The control connection is there."""
        self.local = getattr(self._connected, "local", ("", 0))
        self.peer = self._remote
        if self._events is not None:
            self._events.host_connected(now)

    def recv(self, size: int) -> bytes | None:
        """What the server says; "234" is the end of reading along."""
        data = super().recv(size)
        if data and not self._blind:
            text = self._line + data
            if text.startswith(b"234") or b"\n234" in text:
                self._blind = True
            self._line = text[-4:] if b"\n" in text else text[:LINE]
        return data

    def _may_begin(self, line: bytes) -> bool:
        head = line[:5].upper()
        return any(verb.startswith(head) or head.startswith(verb) for verb in _VERBS)

    def _begins(self, line: bytes) -> bool:
        return line[:5].upper() in _VERBS

    def _ends_all(self, line: bytes) -> bool:
        return False

    def _reply(self, line: bytes) -> bytes:
        """One command, with our address and port in place of the guest's."""
        found = _PORT.match(line)
        if found is not None:
            numbers = [int(word) for word in found.groups()]
            if max(numbers) > 255 or bytes(numbers[:4]) != self.guest or ":" in canonical(self.local[0]):
                return line
            ours = self._expect(numbers[4] << 8 | numbers[5])
            if ours is None:
                return line
            text = f"{canonical(ours[0]).replace('.', ',')},{ours[1] >> 8},{ours[1] & 255}"
            return line[: found.start(1)] + text.encode() + line[found.end(6) :]
        found = _EPRT.match(line)
        if found is None or not self._is_guest(found[3].decode()):
            return line
        ours = self._expect(int(found[4]))
        if ours is None:
            return line
        address = ip_text(ip_bytes(canonical(ours[0])))
        bar = found[1].decode()
        text = f"{bar}{2 if ':' in address else 1}{bar}{address}{bar}{ours[1]}{bar}"
        return line[: found.start(1)] + text.encode() + line[found.end(0) :]

    def _is_guest(self, text: str) -> bool:
        try:
            return ip_bytes(text) == self.guest
        except ValueError:
            return False
