"""ICMP from guests: echo for our own addresses, and errors about datagrams that we delivered.

* An echo request to an own address is answered with its own payload and TOS, TTL 255, in fragments if need
  be.
* An echo request to any other address goes out by the host's own sockets (``echo.py``).
* A guest's "port unreachable" about a UDP datagram goes on to its sender and closes the flow that it came by, so the host's kernel
  answers for the port from then on as the guest did. Other errors, and all other types, are counted and
  dropped: redirects and quenches are not obeyed (RFC 5927, RFC 6633).
* Broadcast and multicast requests are not answered (RFC 1122 3.2.2.6 permits that).

Ref: RFC 792; RFC 1122 3.2.2; RFC 1812 4.3.
"""

from __future__ import annotations

from collections.abc import Callable

from ..contracts.stack import Below
from ..ip.ipv4 import ICMP_TTL, Ipv4
from ..wire import checksum
from ..wire.ipv4 import (
    ECHO_REPLY,
    ECHO_REQUEST,
    ICMP,
    ICMP_ERRORS,
    ICMP_LEN,
    IP,
    IPV4_LEN,
    PORT,
    PORTS,
    PROTO_UDP,
    UNREACHABLE,
)
from .echo import Echoes

GuestError = Callable[[bytes, int, bytes, int, int, int], None]
"""``(guest, guest port, remote, remote port, type, code)``: a guest complains about what we delivered to
it."""


class Icmp:
    """ICMP of one IPv4 stack. ``udp_error`` hears of a guest's complaints about UDP."""

    def __init__(
        self, below: Below, ip: Ipv4, own: tuple[bytes, ...], echoes: Echoes, udp_error: GuestError
    ) -> None:
        self._below = below
        self._ip = ip
        self._own = own
        self._echoes = echoes
        self._udp_error = udp_error

    def adopt(self, address: bytes) -> None:
        """One more address is ours."""
        self._own += (address,)

    def abandon(self, address: bytes) -> None:
        """One less."""
        self._own = tuple(own for own in self._own if own != address)

    def input(
        self, frame: bytes, off: int, end: int, ttl: int, src: bytes, dst: bytes, checked: bool, now: int
    ) -> None:
        """One ICMP message ``frame[off:end]``; ``checked``: its checksum need not be looked at."""
        count = self._below.count
        if end - off < ICMP_LEN:
            count("icmp_malformed")
            return
        body = frame[off:end]
        if not checked and not checksum.good(body):
            count("icmp_checksum")
            return
        kind = body[0]
        if kind == ECHO_REQUEST:
            if dst in self._own:
                self._reply(frame, src, dst, body)
            else:
                self._echoes.request(self._ip, frame, off, end, self._ip.how(frame, ttl - 1), src, dst, now)
        elif kind in ICMP_ERRORS:
            self._error(body, src)
        else:
            count("icmp_ignored")

    def _reply(self, frame: bytes, src: bytes, dst: bytes, body: bytes) -> None:
        _, _, _, rest = ICMP.unpack_from(body)
        data = body[ICMP_LEN:]
        answer = ICMP.pack(ECHO_REPLY, 0, 0, rest) + data
        answer = ICMP.pack(ECHO_REPLY, 0, checksum.checksum(answer), rest) + data
        self._below.count("icmp_echo")
        self._ip.packet(frame[6:12], dst, src, frame[IP + 9], answer, ICMP_TTL, frame[IP + 1])

    def _error(self, body: bytes, src: bytes) -> None:
        """A guest's error about a datagram that went from a remote end to it."""
        inner = body[ICMP_LEN:]
        header = (inner[0] & 15) << 2 if inner else 0
        if len(inner) < header + 4 or header < IPV4_LEN or inner[0] >> 4 != 4:
            self._below.count("icmp_malformed")
            return
        if inner[16:20] != src or inner[9] != PROTO_UDP or body[0] != UNREACHABLE or body[1] != PORT:
            self._below.count("icmp_error_ignored")
            return
        sport, dport = PORTS.unpack_from(inner, header)
        self._udp_error(src, dport, inner[12:16], sport, body[0], body[1])
