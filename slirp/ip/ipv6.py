"""IPv6 on the guest's side: validation, what goes where, and every header that goes out. The twin of ``ipv4.py``.

Frame in: the header is checked, the sender is learnt (``ndp.py``), extension headers are walked (``wire/ipv6_extensions.py``),
fragments are put together (``fragments.py``). Then by destination:
    own address, multicast -> ``local``: services, neighbour discovery, ICMPv6 echo, the host's loopback
    another guest          -> passed on within the VLAN, neighbour discovery first; nobody there: address unreachable
    martian                -> no route (::/96, IPv4-mapped and link-local addresses never leave the VLAN)
    from link-local        -> beyond scope of source address (RFC 4443 3.1)
    the rest               -> ``remote``: UDP and TCP NAT
A hop limit of 1 is enough for an own address; all else gets ICMPv6 time exceeded.

Sources: :: may speak to groups only (neighbour discovery, MLD); our own addresses, multicast, loopback and
IPv4-mapped ones are dropped as spoofed. Sources outside the net are served and answered by the MAC they came from.

Frames out carry the MAC of the router, or 52:56 and the last four bytes of the own address that they come from. What is
longer than the MTU, or than what a guest said that its way carries (packet too big), is cut into fragments.

ICMPv6 errors: ``error`` takes ICMPv4's numbers, as UDP and TCP speak them, ``complain`` ICMPv6's. Not about errors,
not to groups or ::, at most ``limiter.PER_SECOND``.

Ref: RFC 8200; RFC 4443; RFC 4291; RFC 6724; RFC 6437 (a flow label of 0 is allowed).
"""

from __future__ import annotations

from random import Random

from ..config6 import Config6
from ..contracts.host import NO_FRAGMENT
from ..contracts.stack import Below
from ..wire import checksum
from ..wire.icmp_map import (
    ADDRESS6,
    BEYOND_SCOPE6,
    NO_ROUTE6,
    PARAMETER6,
    PROHIBITED6,
    TIME_EXCEEDED6,
    TOO_BIG6,
    UNREACHABLE6,
    to_6,
)
from ..wire.ipv4 import (
    ETH_SRC,
    GSO_UDP_L4,
    IP,
    NO_MAC,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTO_UDP,
    TUN_F_CSUM,
    TUN_F_USO6,
    UDP,
    UDP_CHECKSUM,
    UDP_LEN,
    VNET,
    VNET_NEEDS_CSUM,
    ip_int,
)
from ..wire.ipv6 import (
    ECHO6_REPLY,
    ECHO6_REQUEST,
    ETH_IPV6,
    ETH_IPV6_LEN,
    ETH_IPV6_UDP,
    ETHERTYPE,
    FRAGMENT,
    FRAGMENT_HEADER,
    FRAGMENT_LEN,
    FRAGMENT_MORE,
    HOP_LIMIT,
    ICMP6,
    IP6_DST,
    IP6_SRC,
    IPV6,
    IPV6_LEN,
    LINK_LOCAL,
    MTU_MIN,
    NEXT_HEADER,
    PAYLOAD_LENGTH,
    REDIRECT6,
    UNSPECIFIED,
    VERSION,
    VNET_UDP6_CSUM,
    is_link_local,
    is_martian6,
    own_mac6,
)
from ..wire.ipv6_extensions import (
    DISCARD,
    EXTENSIONS,
    GOOD,
    INCOMPLETE,
    TRUNCATED,
    UNKNOWN_HEADER,
    Walked,
    walk,
)
from .errors import IpErrors
from .fragments import Fragments6, MalformedFragment
from .ipv4 import Input
from .limiter import Limiter
from .ndp import Ndp
from .neighbours import Neighbour

HOPS = 64
LOCAL_HOPS = 255  # of our own ICMPv6
QUOTE = MTU_MIN - IPV6_LEN - 8  # bytes of the offending packet in an error: RFC 4443 2.4 (c)
ROUTES = 4096  # remembered destinations that may be forwarded to
REASSEMBLY = 1  # code of TIME_EXCEEDED6
UPPER_MIN = 8  # bytes of layer 4 that the first fragment must hold
_UPPER = frozenset((PROTO_TCP, PROTO_UDP, PROTO_ICMPV6))
_USO = TUN_F_CSUM | TUN_F_USO6


class Ipv6Path:
    """``slirp.contracts.link.Path`` for one guest address and one address of the other side."""

    __slots__ = ("_dst", "_mac", "_neighbour", "_protocol", "_pseudo", "_src", "mtu")
    family = 6
    ip_header = IPV6_LEN

    def __init__(self, neighbour: Neighbour, mac: bytes, src: bytes, dst: bytes, protocol: int, mtu: int):
        self._neighbour = neighbour
        self._mac = mac
        self._src = src
        self._dst = dst
        self._protocol = protocol
        self._pseudo = protocol + ip_int(src + dst) % 65535
        self.mtu = mtu

    def header(self, length: int) -> bytes:
        """Ethernet and IP header of ``length`` bytes of layer 4."""
        neighbour = self._neighbour
        neighbour.used = True
        return ETH_IPV6.pack(
            neighbour.mac, self._mac, ETHERTYPE, VERSION, length, self._protocol, HOPS, self._src, self._dst
        )

    def pseudo(self, length: int) -> int:
        """Sum of the pseudo header for ``length`` bytes of layer 4."""
        return (self._pseudo + length) % 65535


class Ipv6(IpErrors):
    """IPv6 of one stack. ``local`` and ``remote`` take whole datagrams (see ``ipv4.Input``), ``mtu`` in bytes of IP."""

    family = 6
    fragments: Fragments6

    def __init__(
        self,
        config: Config6,
        mtu: int,
        below: Below,
        ndp: Ndp,
        rng: Random,
        local: Input,
        remote: Input,
    ) -> None:
        self.gateway = config.host_ip
        self.mtu = mtu
        self.fragments = Fragments6(below.count, self._unfinished)
        self._below = below
        self._ndp = ndp
        self._local = local
        self._remote = remote
        self._shift = 128 - config.network.prefixlen
        self._network = int(config.network.network_address) >> self._shift
        self._anycast = config.network.network_address.packed
        self._macs = {address: own_mac6(address) for address in config.own}
        self._router_mac = own_mac6(LINK_LOCAL)
        self._ident = rng.getrandbits(32)
        self._routes: set[bytes] = set()
        self._joined = b""  # the last frame that came in fragments
        self._limiter = Limiter(below.now)

    @property
    def neighbours(self) -> Ndp:
        """Who has which address."""
        return self._ndp

    def adopt(self, address: bytes) -> None:
        """One more address is ours."""
        self._macs[address] = own_mac6(address)

    def abandon(self, address: bytes) -> None:
        """One less."""
        self._macs.pop(address, None)

    def inside(self, address: bytes) -> bool:
        """Whether an address belongs to the net."""
        return int.from_bytes(address, "big") >> self._shift == self._network

    # ---- frames in -----------------------------------------------------------------------------------------

    def input(self, frame: bytes, vnet: bytes, now: int) -> None:
        """One Ethernet frame of type 0x86dd."""
        count = self._below.count
        if len(frame) < ETH_IPV6_LEN:
            count("ip6_malformed")
            return
        first, length, protocol, hops, src, dst = IPV6.unpack_from(frame, IP)
        end = ETH_IPV6_LEN + length
        if first >> 28 != 6 or end > len(frame):
            count("ip6_malformed")
            return
        entry = self._ndp.table.get(src)
        if entry is not None and entry.mac == frame[6:12]:
            entry.heard = now
        elif not self._source(frame, src, dst, now):
            return
        off = ETH_IPV6_LEN
        if protocol in EXTENSIONS:
            found = self._unwrap(frame, vnet, protocol, off, end, now)
            if found is None:
                return
            frame, vnet, protocol, off, end = found
        if dst[0] == 0xFF or dst in self._macs:
            self._local(frame, vnet, off, end, protocol, hops, src, dst, now)
        elif src == UNSPECIFIED:
            count("ip6_source")
        elif hops <= 1:
            count("ttl_exceeded")
            self.complain(frame, TIME_EXCEEDED6, 0)
        elif is_link_local(src):
            count("ip6_scope")
            self.complain(frame, UNREACHABLE6, BEYOND_SCOPE6)
        elif dst in self._routes or self._routable(dst):
            self._remote(frame, vnet, off, end, protocol, hops, src, dst, now)
        elif self.inside(dst) and dst != self._anycast:
            self._hairpin(frame, vnet, end, hops, dst, now)
        else:
            count("ip6_martian")
            self.complain(frame, UNREACHABLE6, NO_ROUTE6)

    def _unwrap(
        self, frame: bytes, vnet: bytes, protocol: int, off: int, end: int, now: int
    ) -> tuple[bytes, bytes, int, int, int] | None:
        """Take extension headers off: (frame, vnet, protocol, off, end) of layer 4, None: there is none."""
        found = walk(frame, protocol, off, end)
        if found.problem == GOOD and found.protocol == FRAGMENT:
            whole = self._fragment(frame, found, end, now)
            if whole is None:
                return None
            frame, vnet, end = whole, b"", len(whole)
            self._joined = whole
            found = walk(frame, frame[found.link], found.off, end, found.link)
            if (
                found.problem == GOOD and found.protocol == FRAGMENT
            ):  # a fragment in fragments: no honest sender
                found = found._replace(problem=DISCARD)
        if found.problem == GOOD:
            return frame, vnet, found.protocol, found.off, end
        self._below.count("ip6_extension")
        if found.problem >= 0:
            self.complain(
                frame, PARAMETER6, found.problem, found.off - IP, found.problem == 2 and found.multicast
            )
        return None

    def _fragment(self, frame: bytes, found: Walked, end: int, now: int) -> bytes | None:
        off = found.off
        if end - off < FRAGMENT_LEN:
            self._below.count("fragment_malformed")
            return None
        protocol, _, flags, _ = FRAGMENT_HEADER.unpack_from(frame, off)
        if not flags >> 3:  # the first one holds all headers (RFC 8200 4.5)
            inner = walk(frame, protocol, off + FRAGMENT_LEN, end, off)
            if inner.problem == TRUNCATED or (inner.problem == GOOD and end - inner.off < UPPER_MIN):
                self._below.count("fragment_malformed")
                self.complain(frame, PARAMETER6, INCOMPLETE, off - IP)
                return None
        try:
            return self.fragments.add(frame, off, found.link, end, now)
        except MalformedFragment as wrong:
            self._below.count("fragment_malformed")
            self.complain(frame, PARAMETER6, 0, wrong.pointer - IP)
            return None

    def _unfinished(self, frame: bytes) -> None:
        """The rest of this datagram never came."""
        self.complain(frame, TIME_EXCEEDED6, REASSEMBLY)

    def _source(self, frame: bytes, src: bytes, dst: bytes, now: int) -> bool:
        """Learn who sent a frame; False: it may not be."""
        if src == UNSPECIFIED and dst[0] == 0xFF:
            return True
        if (is_martian6(src) and not is_link_local(src)) or self._ndp.learn(
            src, frame[ETH_SRC : ETH_SRC + 6], now
        ) is None:
            self._below.count("ip6_source")
            return False
        return True

    def _routable(self, dst: bytes) -> bool:
        if self.inside(dst) or is_martian6(dst):
            return False
        if len(self._routes) >= ROUTES:
            self._routes.clear()
        self._routes.add(dst)
        return True

    def _hairpin(self, frame: bytes, vnet: bytes, end: int, hops: int, dst: bytes, now: int) -> None:
        """From one guest to another through us, as with a prefix that is not on-link for it."""
        neighbour = self._ndp.lookup(dst, now)
        if end - IP > self.mtu and not vnet:
            self.complain(frame, TOO_BIG6, 0, self.mtu)
            return
        passed = b"".join(
            (
                neighbour.mac,
                self._router_mac,
                frame[12:HOP_LIMIT],
                bytes((hops - 1,)),
                frame[HOP_LIMIT + 1 : end],
            )
        )
        if neighbour.mac == NO_MAC:
            self._ndp.hold(dst, passed, vnet, now, self._nobody)
        else:
            neighbour.used = True
            self._below.emit(passed, vnet)

    def _nobody(self, frames: list[bytes], now: int) -> None:
        """Neighbour discovery had no answer for these."""
        self._below.now = now
        for frame in frames:
            source = self._ndp.table.get(frame[IP6_SRC:IP6_DST])
            if source is not None:
                self.complain(source.mac + source.mac + frame[12:], UNREACHABLE6, ADDRESS6)

    # ---- layer 4's view ------------------------------------------------------------------------------------

    def how(self, frame: bytes, ttl: int) -> int:
        """How what a guest's frame carries is to leave the host (``slirp.contracts.host``), with that hop limit. Nobody on the
        way cuts it, so neither does the host, but for what the guest had cut itself."""
        flags = 0 if frame is self._joined else NO_FRAGMENT
        return (frame[IP] << 4 & 0xF0 | frame[IP + 1] >> 4 & 0xC) << 16 | flags | ttl

    @staticmethod
    def headers(frame: bytes, off: int) -> bytes:
        """IP and UDP header of a guest's frame whose UDP header is at ``off``."""
        return frame[IP : off + UDP_LEN]

    def path(self, frame: bytes, protocol: int) -> Ipv6Path:
        """The way back to the sender of ``frame``."""
        return self.path_to(frame[IP6_SRC:IP6_DST], frame[IP6_DST:ETH_IPV6_LEN], protocol)

    def path_to(self, guest: bytes, remote: bytes, protocol: int) -> Ipv6Path:
        """The way to ``guest`` for what seems to come from ``remote``."""
        neighbour = self._ndp.lookup(guest, self._below.now)
        mac = self._macs.get(remote, self._router_mac)
        return Ipv6Path(neighbour, mac, remote, guest, protocol, neighbour.mtu or self.mtu)

    @staticmethod
    def pseudo(frame: bytes, off: int, end: int, protocol: int) -> int:
        """Pseudo header sum of a guest's frame whose layer 4 is ``frame[off:end]``."""
        return (ip_int(frame[IP6_SRC:ETH_IPV6_LEN]) + protocol + end - off) % 65535

    def neighbour(self, guest: bytes) -> Neighbour:
        """Where frames for ``guest`` go."""
        return self._ndp.lookup(guest, self._below.now)

    # ---- frames out ----------------------------------------------------------------------------------------

    def datagram(self, to: Neighbour, src: bytes, sport: int, dport: int, payload: bytes) -> bool:
        """A UDP datagram to a guest, from ``src`` (16 bytes): whole, or in fragments where the MTU is less."""
        size = len(payload) + UDP_LEN
        dst = to.address
        start = ip_int(src + dst) + PROTO_UDP + size
        if size + IPV6_LEN > (to.mtu or self.mtu):
            packet = (
                UDP.pack(sport, dport, size, checksum.checksum(payload, start + sport + dport + size))
                + payload
            )
            return self.packet(to.mac, src, dst, PROTO_UDP, packet, mtu=to.mtu)
        if self._below.features & TUN_F_CSUM:
            field = start % 65535
            vnet = VNET_UDP6_CSUM
        else:
            field = checksum.checksum(payload, start + sport + dport + size)
            vnet = b""
        to.used = True
        header = ETH_IPV6_UDP.pack(
            to.mac,
            self._macs.get(src, self._router_mac),
            ETHERTYPE,
            VERSION,
            size,
            PROTO_UDP,
            HOPS,
            src,
            dst,
            sport,
            dport,
            size,
            field,
        )
        return self._below.emit(header + payload, vnet)

    def segment_limit(self) -> int:
        """The longest payload of a segment of a super-datagram; 0: the VLAN takes none."""
        return self.mtu - IPV6_LEN - UDP_LEN if self._below.features & _USO == _USO else 0

    def datagrams(self, to: Neighbour, src: bytes, sport: int, dport: int, payload: bytes, size: int) -> bool:
        """UDP datagrams of ``size`` bytes each (the last may be shorter) to a guest, as one super-datagram."""
        if to.mtu and size + IPV6_LEN + UDP_LEN > to.mtu:
            taken = True
            for at in range(0, len(payload), size):
                taken = self.datagram(to, src, sport, dport, payload[at : at + size]) and taken
            return taken
        whole = len(payload) + UDP_LEN
        to.used = True
        header = ETH_IPV6_UDP.pack(
            to.mac,
            self._macs.get(src, self._router_mac),
            ETHERTYPE,
            VERSION,
            whole,
            PROTO_UDP,
            HOPS,
            src,
            to.address,
            sport,
            dport,
            whole,
            (ip_int(src + to.address) + PROTO_UDP + whole) % 65535,
        )
        vnet = VNET.pack(
            VNET_NEEDS_CSUM, GSO_UDP_L4, ETH_IPV6_LEN + UDP_LEN, size, ETH_IPV6_LEN, UDP_CHECKSUM
        )
        return self._below.emit(header + payload, vnet)

    def icmp(
        self,
        mac: bytes,
        src: bytes,
        dst: bytes,
        kind: int,
        code: int,
        rest: int,
        data: bytes,
        mtu: int = 0,
        hops: int = LOCAL_HOPS,
        traffic: int = 0,
    ) -> bool:
        """An ICMPv6 message of our own; ``rest``: the 32 bits behind the checksum."""
        size = len(data) + ICMP6.size
        start = ip_int(src + dst) + PROTO_ICMPV6 + size + (kind << 8 | code) + (rest >> 16) + (rest & 0xFFFF)
        message = ICMP6.pack(kind, code, checksum.checksum(data, start), rest) + data
        return self.packet(mac, src, dst, PROTO_ICMPV6, message, hops, mtu, traffic)

    def packet(
        self,
        mac: bytes,
        src: bytes,
        dst: bytes,
        protocol: int,
        body: bytes,
        hops: int = HOPS,
        mtu: int = 0,
        traffic: int = 0,
    ) -> bool:
        """Any IPv6 packet to ``dst`` at ``mac``, cut to fragments where it is longer than the MTU (``mtu``: a lower one)."""
        ours = self._macs.get(src, self._router_mac)
        limit = (mtu or self.mtu) - IPV6_LEN
        first = VERSION | traffic << 20
        emit = self._below.emit
        if len(body) <= limit:
            head = ETH_IPV6.pack(mac, ours, ETHERTYPE, first, len(body), protocol, hops, src, dst)
            return emit(head + body, b"")
        step = (limit - FRAGMENT_LEN) & ~7
        self._ident = ident = (self._ident + 1) & 0xFFFFFFFF
        taken = True
        for offset in range(0, len(body), step):
            piece = body[offset : offset + step]
            flags = offset | (FRAGMENT_MORE if offset + step < len(body) else 0)
            size = len(piece) + FRAGMENT_LEN
            head = ETH_IPV6.pack(mac, ours, ETHERTYPE, first, size, FRAGMENT, hops, src, dst)
            taken = emit(head + FRAGMENT_HEADER.pack(protocol, 0, flags, ident) + piece, b"") and taken
        return taken

    # ---- ICMPv6 errors -------------------------------------------------------------------------------------

    def error(self, frame: bytes, kind: int, code: int, info: int = 0) -> None:
        """An ICMPv6 error about a guest's frame; ``kind`` and ``code`` as in ICMPv4."""
        self.complain(frame, *to_6(kind, code), info)

    def error_from(
        self, frame: bytes, source: bytes | None, kind: int, code: int, info: int, ttl: int
    ) -> None:
        """An ICMPv6 error that ``source`` sent to the host about what a guest's frame led to."""
        self.complain(frame, kind, code, info, source=source, hops=ttl)

    def complain(
        self,
        frame: bytes,
        kind: int,
        code: int,
        info: int = 0,
        groups: bool = False,
        source: bytes | None = None,
        hops: int = LOCAL_HOPS,
    ) -> None:
        """An ICMPv6 error about a guest's frame, where one may be sent (RFC 4443 2.4 (e)): from ``source``, or the own
        address that it was for, otherwise from the router. ``groups``: also about what went to a group."""
        src, dst = frame[IP6_SRC:IP6_DST], frame[IP6_DST:ETH_IPV6_LEN]
        if src == UNSPECIFIED or src[0] == 0xFF or ((frame[0] & 1 or dst[0] == 0xFF) and not groups):
            return
        end = ETH_IPV6_LEN + (frame[PAYLOAD_LENGTH] << 8 | frame[PAYLOAD_LENGTH + 1])
        if self._about_error(frame, min(end, len(frame))) or not self._may_complain():
            return
        if source is None or len(source) != len(src):
            source = dst if dst in self._macs else LINK_LOCAL if is_link_local(src) else self.gateway
        quote = frame[IP : min(end, IP + QUOTE)]
        if hops != LOCAL_HOPS:  # from somebody further on
            quote = self._aged(quote, kind, b"")
        self._complain(frame[6:12], source, src, kind, code, info, quote, hops)

    @staticmethod
    def _aged(quote: bytes, kind: int, rest: bytes) -> bytes:
        """A guest's packet as it looked where it ended: with a hop limit of 1 where that ran out."""
        if kind == TIME_EXCEEDED6:
            quote = quote[: HOP_LIMIT - IP] + b"\1" + quote[HOP_LIMIT - IP + 1 :]
        return (quote + rest)[:QUOTE]

    def _complain(
        self, mac: bytes, src: bytes, dst: bytes, kind: int, code: int, info: int, quote: bytes, hops: int
    ) -> None:
        self._below.count("icmp_errors")
        self.icmp(mac, src, dst, kind, code, info, quote, hops=hops)

    def echo_reply(
        self, to: Neighbour, src: bytes, ident: int, seq: int, data: bytes, ttl: int, tos: int
    ) -> bool:
        """An echo reply from ``src`` to a guest."""
        rest = ident << 16 | seq
        return self.icmp(to.mac, src, to.address, ECHO6_REPLY, 0, rest, data, to.mtu, ttl, tos)

    @staticmethod
    def _about_error(frame: bytes, end: int) -> bool:
        """Whether a frame is an ICMPv6 error itself, or a redirect, or nobody can tell."""
        found = walk(frame, frame[NEXT_HEADER], ETH_IPV6_LEN, end)
        protocol, off = found.protocol, found.off
        if found.problem == GOOD and protocol == FRAGMENT and end - off >= FRAGMENT_LEN:
            if (frame[off + 2] << 8 | frame[off + 3]) >> 3:
                return False  # the middle of something
            found = walk(frame, frame[off], off + FRAGMENT_LEN, end, off)
            protocol, off = found.protocol, found.off
        if found.problem != GOOD or protocol != PROTO_ICMPV6:
            return False
        return off >= end or frame[off] < ECHO6_REQUEST or frame[off] == REDIRECT6

    @staticmethod
    def _quote(src: bytes, dst: bytes, sport: int, dport: int, payload: bytes) -> bytes:
        size = len(payload) + UDP_LEN
        start = ip_int(src + dst) + PROTO_UDP + size * 2 + sport + dport
        head = IPV6.pack(VERSION, size, PROTO_UDP, HOPS, src, dst)
        return (head + UDP.pack(sport, dport, size, checksum.checksum(payload, start)) + payload)[:QUOTE]

    def refuse(self, frame: bytes, link: int, ours: bool) -> None:
        """Nobody here speaks the protocol that the byte at ``link`` names, or (not ``ours``) carries it."""
        if ours:
            self.complain(frame, PARAMETER6, UNKNOWN_HEADER, link - IP)
        else:
            self.complain(frame, UNREACHABLE6, PROHIBITED6)
