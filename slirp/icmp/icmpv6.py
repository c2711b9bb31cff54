"""ICMPv6 from guests: echo for our own addresses, errors about what we delivered, and whom the rest is for.

* An echo request to an own address, or to the groups of all nodes and all routers, is answered with its own payload,
  hop limit 255, in fragments if need be. One to any other address goes out by the host's own sockets (``echo.py``).
* Router and neighbour solicitations and advertisements go to ``ip/ndp.py`` and ``ip/router6.py``.
* A guest's "port unreachable" about a UDP datagram closes the flow that it came by, as for IPv4. "Packet too big"
  makes datagrams and segments to that address shorter; not below 1280 bytes (RFC 8201 4), and only from who has the
  MAC by which we reach it. Other errors, and redirects, are counted and dropped.
* Group membership reports are not needed on a wire where everybody hears everything.

Ref: RFC 4443; RFC 4861; RFC 8201; RFC 3810 (MLD).
"""

from __future__ import annotations

from collections.abc import Callable

from ..contracts.stack import Below
from ..ip.ipv6 import Ipv6
from ..ip.ndp import Ndp
from ..ip.router6 import Router
from ..wire import checksum
from ..wire.icmp_map import PARAMETER6, PORT6, TOO_BIG6, UNREACHABLE6
from ..wire.ipv4 import PORT, PORTS, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, U32, UNREACHABLE
from ..wire.ipv6 import (
    ALL_NODES,
    ALL_ROUTERS,
    ECHO6_REPLY,
    ECHO6_REQUEST,
    ICMP6_LEN,
    IPV6,
    IPV6_LEN,
    LINK_LOCAL,
    MLD2_REPORT,
    MLD_DONE,
    MLD_QUERY,
    MLD_REPORT,
    MTU_MIN,
    NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION,
    ROUTER_ADVERTISEMENT,
    ROUTER_SOLICITATION,
    UNSPECIFIED,
)
from ..wire.ipv6_extensions import GOOD, walk
from .echo import Echoes
from .icmpv4 import GuestError

_INNER = ICMP6_LEN + IPV6_LEN  # where layer 4 of the packet in an error begins, without extension headers
_INNER_NEXT = ICMP6_LEN + 6
_MLD = frozenset((MLD_QUERY, MLD_REPORT, MLD_DONE, MLD2_REPORT))
_NEIGHBOUR = frozenset((NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT))

TooBig = Callable[[bytes, int, int], None]
"""``(key, mtu, now)``: segments of a TCP flow do not get through."""


class Icmp6:
    """ICMPv6 of one stack. ``udp_error`` hears of complaints about UDP, ``too_big`` of TCP segments that are too long."""

    def __init__(
        self,
        below: Below,
        ip: Ipv6,
        ndp: Ndp,
        router: Router,
        own: tuple[bytes, ...],
        echoes: Echoes,
        udp_error: GuestError,
        too_big: TooBig,
    ) -> None:
        self._below = below
        self._ip = ip
        self._ndp = ndp
        self._router = router
        self._own = own
        self._echoes = echoes
        self._udp_error = udp_error
        self._too_big = too_big

    def adopt(self, address: bytes) -> None:
        """One more address is ours."""
        self._own += (address,)

    def abandon(self, address: bytes) -> None:
        """One less."""
        self._own = tuple(own for own in self._own if own != address)

    def input(
        self, frame: bytes, off: int, end: int, hops: int, src: bytes, dst: bytes, checked: bool, now: int
    ) -> None:
        """One ICMPv6 message ``frame[off:end]``; ``checked``: its checksum need not be looked at."""
        count = self._below.count
        if end - off < ICMP6_LEN:
            count("icmp_malformed")
            return
        body = frame[off:end]
        if not checked and not checksum.good(body, self._ip.pseudo(frame, off, end, PROTO_ICMPV6)):
            count("icmp_checksum")
            return
        kind = body[0]
        if kind in _NEIGHBOUR:
            self._ndp.input(frame, body, hops, src, dst, now)
        elif kind == ROUTER_SOLICITATION:
            count(self._router.solicited(frame, body, hops, src, now))
        elif src == UNSPECIFIED:
            count("mld_ignored" if kind in _MLD else "ip6_source")
        elif kind == ECHO6_REQUEST:
            self._echo(frame, off, end, hops, body, src, dst, now)
        elif kind < ECHO6_REQUEST:
            self._error(frame, body, src, now)
        elif kind in _MLD:
            count("mld_ignored")
        elif kind == ROUTER_ADVERTISEMENT:
            count("ra_foreign")
        else:
            count("icmp_ignored")

    def _echo(
        self, frame: bytes, off: int, end: int, hops: int, body: bytes, src: bytes, dst: bytes, now: int
    ) -> None:
        ours = dst
        if dst in (ALL_NODES, ALL_ROUTERS):
            ours = LINK_LOCAL if src[0] == 0xFE and src[1] & 0xC0 == 0x80 else self._ip.gateway
        elif dst[0] == 0xFF:
            self._below.count("broadcast_ignored")
            return
        elif dst not in self._own:
            self._echoes.request(self._ip, frame, off, end, self._ip.how(frame, hops - 1), src, dst, now)
            return
        self._below.count("icmp_echo")
        mtu = self._ip.neighbour(src).mtu
        rest = U32.unpack_from(body, 4)[0]
        self._ip.icmp(frame[6:12], ours, src, ECHO6_REPLY, 0, rest, body[ICMP6_LEN:], mtu)

    def _error(self, frame: bytes, body: bytes, src: bytes, now: int) -> None:
        """A guest's error about a packet that went from a remote end to it, or to somebody behind it."""
        if len(body) < _INNER + 4 or body[ICMP6_LEN] >> 4 != 6:
            self._below.count("icmp_malformed")
            return
        _, _, protocol, _, remote, guest = IPV6.unpack_from(body, ICMP6_LEN)
        found = walk(body, protocol, _INNER, len(body), _INNER_NEXT)
        off = found.off
        if found.problem != GOOD or off + 4 > len(body):
            self._below.count("icmp_malformed" if body[0] <= PARAMETER6 else "icmp_ignored")
            return
        sport, dport = PORTS.unpack_from(body, off)
        if body[0] == TOO_BIG6:
            if self._narrow(frame, body, guest, now) and found.protocol == PROTO_TCP:
                key = guest + remote + body[off + 2 : off + 4] + body[off : off + 2]
                self._too_big(key, max(U32.unpack_from(body, 4)[0], MTU_MIN), now)
        elif body[0] == UNREACHABLE6 and body[1] == PORT6 and found.protocol == PROTO_UDP and guest == src:
            self._udp_error(src, dport, remote, sport, UNREACHABLE, PORT)
        else:
            self._below.count("icmp_error_ignored")

    def _narrow(self, frame: bytes, body: bytes, guest: bytes, now: int) -> bool:
        mtu = max(U32.unpack_from(body, 4)[0], MTU_MIN)
        entry = self._ndp.table.get(guest)
        if entry is None or entry.mac != frame[6:12] or mtu >= self._ip.mtu:
            self._below.count("icmp_error_ignored")
            return False
        self._below.count("icmp_too_big")
        self._ndp.narrow(guest, mtu, now)
        return True
