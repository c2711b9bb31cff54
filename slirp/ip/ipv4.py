"""IPv4 on the guest's side: validation, what goes where, and every header that goes out.

This is the family object: UDP, TCP, ICMP and DNS never see an IP field. An IPv6 twin with the same methods
(``path``, ``pseudo``, ``datagram``, ``error``, ``relayed_error``) is all that they need to serve both.

Frame in: header and checksum are checked, the sender is learnt (``arp.py``), fragments are put together
(``fragments.py``), options are skipped. Then by destination:
    own address            -> ``local``: services, ICMP echo, the host's loopback
    broadcast, multicast   -> ``local`` too, but only services hear it: nothing is forwarded, no error sent
    another guest          -> passed on within the VLAN, ARP first; nobody there: ICMP host unreachable
    martian                -> ICMP net unreachable (127/8, 0/8, 240/4, 169.254/16 never leave the VLAN)
    the rest               -> ``remote``: UDP and TCP NAT
A TTL of 1 is enough for an own address; all else gets ICMP time exceeded.

Sources: 0.0.0.0 may speak to DHCP only; our own addresses, broadcast, multicast, loopback and link-local
ones are dropped as spoofed. Sources outside the net are served and answered by the MAC they came from:
networks behind a guest.

Frames out carry the MAC that belongs to their source: 52:55 + address for our own addresses, the gateway's
for all others (libslirp uses the gateway's always). DF is not set, the
identification counts up.

Ref: RFC 791; RFC 1122 3.2; RFC 1812 4.3, 5.2, 5.3; RFC 6864.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ..config import Config
from ..contracts.stack import Below
from ..wire import checksum
from ..wire.ipv4 import (
    DONT_FRAGMENT,
    ECHO_REPLY,
    ETH_IPV4,
    ETH_IPV4_LEN,
    ETH_IPV4_UDP,
    ETH_LEN,
    ETH_SRC,
    GSO_UDP_L4,
    HOST,
    ICMP,
    ICMP_ERRORS,
    IP,
    IPV4,
    IPV4_LEN,
    MORE_FRAGMENTS,
    NET,
    NO_MAC,
    OFFSET_MASK,
    PROTO_ICMP,
    PROTO_UDP,
    TIME_EXCEEDED,
    TOO_BIG,
    TUN_F_CSUM,
    TUN_F_USO4,
    U16,
    UDP,
    UDP_CHECKSUM,
    UDP_LEN,
    UNREACHABLE,
    VNET,
    VNET_NEEDS_CSUM,
    VNET_UDP_CSUM,
    ip_int,
    is_martian,
    own_mac,
)
from .arp import Arp
from .errors import IpErrors
from .fragments import Fragments4
from .limiter import Limiter
from .neighbours import Neighbour

TTL = 64
ICMP_TTL = 255
ICMP_TOS = 0xC0  # internetwork control: RFC 1812 4.3.2.5
QUOTE = 576 - IPV4_LEN - 8  # bytes of the offending packet in an ICMP error: RFC 1812 4.3.2.3
ROUTES = 4096  # remembered destinations that may be forwarded to
_USO = TUN_F_CSUM | TUN_F_USO4
REASSEMBLY = 1  # code of TIME_EXCEEDED
UNSPECIFIED = b"\0\0\0\0"
LIMITED_BROADCAST = b"\xff\xff\xff\xff"


Input = Callable[[bytes, bytes, int, int, int, int, bytes, bytes, int], None]
"""``(frame, vnet, off, end, protocol, ttl, src, dst, now)`` of a whole datagram; layer 4 is
``frame[off:end]``."""


class Ipv4Path:
    """``slirp.contracts.link.Path`` for one guest address and one address of the other side."""

    __slots__ = ("_base", "_dst", "_ids", "_mac", "_neighbour", "_protocol", "_pseudo", "_src", "mtu")
    family = 4
    ip_header = IPV4_LEN

    def __init__(
        self,
        neighbour: Neighbour,
        ids: Identification,
        mac: bytes,
        src: bytes,
        dst: bytes,
        protocol: int,
        mtu: int,
    ):
        addresses = ip_int(src + dst) % 65535
        self._neighbour = neighbour
        self._ids = ids
        self._mac = mac
        self._src = src
        self._dst = dst
        self._protocol = protocol
        self._base = 0x4500 + (TTL << 8 | protocol) + addresses
        self._pseudo = protocol + addresses
        self.mtu = mtu

    def header(self, length: int) -> bytes:
        """Ethernet and IP header of ``length`` bytes of layer 4."""
        ids = self._ids
        ids.value = ident = (ids.value + 1) & 0xFFFF
        length += IPV4_LEN
        return ETH_IPV4.pack(
            self._neighbour.mac,
            self._mac,
            0x0800,
            0x4500,
            length,
            ident,
            0,
            TTL << 8 | self._protocol,
            65535 - (self._base + length + ident) % 65535,
            self._src,
            self._dst,
        )

    def pseudo(self, length: int) -> int:
        """Sum of the pseudo header for ``length`` bytes of layer 4."""
        return (self._pseudo + length) % 65535


class Identification:
    """The identification counter of all that one stack sends."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


class Ipv4(IpErrors):
    """IPv4 of one stack. ``local`` and ``remote`` take whole datagrams (see ``Input``)."""

    family = 4
    fragments: Fragments4

    def __init__(
        self, config: Config, below: Below, arp: Arp, rng: Random, local: Input, remote: Input
    ) -> None:
        self.gateway = config.host_ip
        self.mtu = config.mtu
        self.fragments = Fragments4(below.count, self._unfinished)
        self._below = below
        self._arp = arp
        self._local = local
        self._remote = remote
        self._mask = int(config.network.netmask)
        self._network = int(config.network.network_address)
        self._net_address = config.network.network_address.packed
        self._net_broadcast = config.network.broadcast_address.packed
        self._macs = {address: own_mac(address) for address in config.own}
        self._gateway_mac = own_mac(config.host_ip)
        self._ids = Identification(rng.getrandbits(16))
        self._routes: set[bytes] = set()
        self._limiter = Limiter(below.now)

    @property
    def neighbours(self) -> Arp:
        """Who has which address."""
        return self._arp

    def adopt(self, address: bytes) -> None:
        """One more address is ours."""
        self._macs[address] = own_mac(address)

    def abandon(self, address: bytes) -> None:
        """One less."""
        self._macs.pop(address, None)

    def inside(self, address: bytes) -> bool:
        """Whether an address belongs to the net."""
        return ip_int(address) & self._mask == self._network

    # ---- frames in -----------------------------------------------------------------------------------------

    def input(self, frame: bytes, vnet: bytes, now: int) -> None:
        """One Ethernet frame of type 0x0800."""
        count = self._below.count
        if len(frame) < ETH_IPV4_LEN:
            count("ip_malformed")
            return
        first, _, length, _, fragment, ttl, protocol, _, src, dst = IPV4.unpack_from(frame, IP)
        header = (first & 15) << 2
        off = IP + header
        end = IP + length
        if first >> 4 != 4 or header < IPV4_LEN or length < header or end > len(frame):
            count("ip_malformed")
            return
        if int.from_bytes(frame[IP:off], "big") % 65535:
            count("ip_checksum")
            return
        entry = self._arp.table.get(src)
        if entry is not None and entry.mac == frame[6:12]:
            entry.heard = now
        elif not self._source(frame, src, now):
            return
        if fragment & (MORE_FRAGMENTS | OFFSET_MASK):
            whole = self.fragments.add(frame, header, end, now)
            if whole is None:
                return
            frame, vnet, end = whole, b"", len(whole)
        if dst in self._macs or dst == LIMITED_BROADCAST or dst[0] >> 4 == 14 or dst == self._net_broadcast:
            self._local(frame, vnet, off, end, protocol, ttl, src, dst, now)
        elif src == UNSPECIFIED:
            count("ip_source")
        elif ttl <= 1:
            count("ttl_exceeded")
            self.error(frame, TIME_EXCEEDED, 0)
        elif dst in self._routes or self._routable(dst):
            self._remote(frame, vnet, off, end, protocol, ttl, src, dst, now)
        elif self.inside(dst) and dst != self._net_address:
            self._hairpin(frame, vnet, off, end, ttl, now)
        else:
            count("ip_martian")
            self.error(frame, UNREACHABLE, NET)

    def _unfinished(self, frame: bytes) -> None:
        """The rest of this datagram never came."""
        self.error(frame, TIME_EXCEEDED, REASSEMBLY)

    def _source(self, frame: bytes, src: bytes, now: int) -> bool:
        """Learn who sent a frame; False: it may not be."""
        if src == UNSPECIFIED:
            return True
        if is_martian(src) and not self.inside(src):
            self._below.count("ip_source")
            return False
        if self._arp.learn(src, frame[ETH_SRC : ETH_SRC + 6], now) is None:
            self._below.count("ip_source")
            return False
        return True

    def _routable(self, dst: bytes) -> bool:
        if self.inside(dst) or is_martian(dst):
            return False
        if len(self._routes) >= ROUTES:
            self._routes.clear()
        self._routes.add(dst)
        return True

    def _hairpin(self, frame: bytes, vnet: bytes, off: int, end: int, ttl: int, now: int) -> None:
        """From one guest to another through us, as with a mask of /32 or a router that does not redirect."""
        src, dst = frame[IP + 12 : IP + 16], frame[IP + 16 : IP + 20]
        neighbour = self._arp.lookup(dst, now)
        if end - IP > self.mtu and not vnet:
            if U16.unpack_from(frame, IP + 6)[0] & DONT_FRAGMENT:
                self.error(frame, UNREACHABLE, TOO_BIG, self.mtu)
            else:
                self.packet(neighbour.mac, src, dst, frame[IP + 9], frame[off:end], ttl - 1)
            return
        head = bytearray(frame[: ETH_LEN + IPV4_LEN])
        head[:12] = neighbour.mac + self._gateway_mac
        head[IP + 8] = ttl - 1
        # RFC 1624: the header's sum went down by 0x0100, so its complement goes up by as much
        value = U16.unpack_from(head, IP + 10)[0] + 0x100
        U16.pack_into(head, IP + 10, (value & 0xFFFF) + (value >> 16))
        passed = bytes(head) + frame[ETH_LEN + IPV4_LEN : end]
        if neighbour.mac == NO_MAC:
            self._arp.hold(dst, passed, vnet, now, self._nobody)
        else:
            self._below.emit(passed, vnet)

    def _nobody(self, frames: list[bytes], now: int) -> None:
        """ARP had no answer for these."""
        self._below.now = now
        for frame in frames:
            source = self._arp.table.get(frame[IP + 12 : IP + 16])
            if source is not None:
                self.error(source.mac + source.mac + frame[12:], UNREACHABLE, HOST)

    # ---- layer 4's view ------------------------------------------------------------------------------------

    @staticmethod
    def headers(frame: bytes, off: int) -> bytes:
        """IP and UDP header of a guest's frame whose UDP header is at ``off``."""
        return frame[IP : off + UDP_LEN]

    @staticmethod
    def how(frame: bytes, ttl: int) -> int:
        """How what a guest's frame carries is to leave the host (``slirp.contracts.host``), with that TTL."""
        return (frame[IP + 1] & 0xFC) << 16 | (frame[IP + 6] & 0x40) << 2 | ttl

    def path(self, frame: bytes, protocol: int) -> Ipv4Path:
        """The way back to the sender of ``frame``."""
        src, dst = frame[IP + 12 : IP + 16], frame[IP + 16 : IP + 20]
        return self.path_to(src, dst, protocol)

    def path_to(self, guest: bytes, remote: bytes, protocol: int) -> Ipv4Path:
        """The way to ``guest`` for what seems to come from ``remote``."""
        neighbour = self._arp.lookup(guest, self._below.now)
        mac = self._macs.get(remote, self._gateway_mac)
        return Ipv4Path(neighbour, self._ids, mac, remote, guest, protocol, self.mtu)

    @staticmethod
    def pseudo(frame: bytes, off: int, end: int, protocol: int) -> int:
        """Pseudo header sum of a guest's frame whose layer 4 is ``frame[off:end]``."""
        return (ip_int(frame[IP + 12 : IP + 20]) + protocol + end - off) % 65535

    def neighbour(self, guest: bytes) -> Neighbour:
        """Where frames for ``guest`` go."""
        return self._arp.lookup(guest, self._below.now)

    # ---- frames out ----------------------------------------------------------------------------------------

    def datagram(self, to: Neighbour, src: bytes, sport: int, dport: int, payload: bytes) -> bool:
        """A UDP datagram to a guest, from ``src`` (4 bytes): whole, or in fragments where the MTU is less."""
        size = len(payload) + UDP_LEN
        length = size + IPV4_LEN
        if length > self.mtu:
            return self._fragmented_udp(to, src, sport, dport, payload)
        dst = to.address
        addresses = ip_int(src + dst)
        ids = self._ids
        ids.value = ident = (ids.value + 1) & 0xFFFF
        if self._below.features & TUN_F_CSUM:
            field = (addresses + PROTO_UDP + size) % 65535
            vnet = VNET_UDP_CSUM
        else:
            field = checksum.checksum(payload, addresses + PROTO_UDP + size + sport + dport + size)
            vnet = b""
        header = ETH_IPV4_UDP.pack(
            to.mac,
            self._macs.get(src, self._gateway_mac),
            0x0800,
            0x4500,
            length,
            ident,
            0,
            TTL << 8 | PROTO_UDP,
            65535 - (0x4500 + length + ident + (TTL << 8 | PROTO_UDP) + addresses) % 65535,
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
        return self.mtu - IPV4_LEN - UDP_LEN if self._below.features & _USO == _USO else 0

    def datagrams(self, to: Neighbour, src: bytes, sport: int, dport: int, payload: bytes, size: int) -> bool:
        """UDP datagrams of ``size`` bytes each (the last may be shorter) to a guest, as one super-datagram."""
        whole = len(payload) + UDP_LEN
        length = whole + IPV4_LEN
        addresses = ip_int(src + to.address)
        ids = self._ids
        ident = (ids.value + 1) & 0xFFFF
        ids.value = (ids.value + -(-len(payload) // size)) & 0xFFFF
        header = ETH_IPV4_UDP.pack(
            to.mac,
            self._macs.get(src, self._gateway_mac),
            0x0800,
            0x4500,
            length,
            ident,
            0,
            TTL << 8 | PROTO_UDP,
            65535 - (0x4500 + length + ident + (TTL << 8 | PROTO_UDP) + addresses) % 65535,
            src,
            to.address,
            sport,
            dport,
            whole,
            (addresses + PROTO_UDP + whole) % 65535,
        )
        vnet = VNET.pack(
            VNET_NEEDS_CSUM, GSO_UDP_L4, ETH_IPV4_LEN + UDP_LEN, size, ETH_IPV4_LEN, UDP_CHECKSUM
        )
        return self._below.emit(header + payload, vnet)

    def _fragmented_udp(self, to: Neighbour, src: bytes, sport: int, dport: int, payload: bytes) -> bool:
        size = len(payload) + UDP_LEN
        start = ip_int(src + to.address) + PROTO_UDP + size + sport + dport + size
        packet = UDP.pack(sport, dport, size, checksum.checksum(payload, start)) + payload
        return self.packet(to.mac, src, to.address, PROTO_UDP, packet)

    def packet(
        self, mac: bytes, src: bytes, dst: bytes, protocol: int, body: bytes, ttl: int = TTL, tos: int = 0
    ) -> bool:
        """Any IPv4 packet to ``dst`` at ``mac``, cut to fragments where it is longer than the MTU."""
        ids = self._ids
        ids.value = ident = (ids.value + 1) & 0xFFFF
        ours = self._macs.get(src, self._gateway_mac)
        base = (0x4500 | tos) + ident + (ttl << 8 | protocol) + ip_int(src + dst)
        step = (self.mtu - IPV4_LEN) & ~7
        if len(body) <= self.mtu - IPV4_LEN:
            step = len(body) or 1
        taken = True
        for offset in range(0, len(body) or 1, step):
            piece = body[offset : offset + step]
            flags = offset >> 3 | (MORE_FRAGMENTS if offset + step < len(body) else 0)
            length = len(piece) + IPV4_LEN
            header = ETH_IPV4.pack(
                mac,
                ours,
                0x0800,
                0x4500 | tos,
                length,
                ident,
                flags,
                ttl << 8 | protocol,
                65535 - (base + length + flags) % 65535,
                src,
                dst,
            )
            taken = self._below.emit(header + piece, b"") and taken
        return taken

    def echo_reply(
        self, to: Neighbour, src: bytes, ident: int, seq: int, data: bytes, ttl: int, tos: int
    ) -> bool:
        """An echo reply from ``src`` to a guest."""
        rest = ident << 16 | seq
        value = checksum.checksum(data, (ECHO_REPLY << 8) + (rest >> 16) + (rest & 0xFFFF))
        body = ICMP.pack(ECHO_REPLY, 0, value, rest) + data
        return self.packet(to.mac, src, to.address, PROTO_ICMP, body, ttl, tos)

    # ---- ICMP errors ---------------------------------------------------------------------------------------

    def error(self, frame: bytes, kind: int, code: int, info: int = 0) -> None:
        """An ICMP error about a guest's frame, where one may be sent (RFC 1812 4.3.2.7): from the own address
        that it was for, otherwise from the gateway."""
        self.error_from(frame, None, kind, code, info, ICMP_TTL)

    def error_from(
        self, frame: bytes, source: bytes | None, kind: int, code: int, info: int, ttl: int
    ) -> None:
        """The same from ``source`` (None: as ``error`` does)."""
        off = IP + ((frame[IP] & 15) << 2)
        dst = frame[IP + 16 : IP + 20]
        if (
            frame[0] & 1
            or dst[0] >> 4 == 14
            or dst == LIMITED_BROADCAST
            or dst == self._net_broadcast
            or frame[IP + 12 : IP + 16] == UNSPECIFIED
            or U16.unpack_from(frame, IP + 6)[0] & OFFSET_MASK
            or (frame[IP + 9] == PROTO_ICMP and (len(frame) <= off or frame[off] in ICMP_ERRORS))
        ):
            return
        if not self._may_complain():
            return
        length = U16.unpack_from(frame, IP + 2)[0]
        quote = frame[IP : IP + min(length, QUOTE)]
        source = source or (dst if dst in self._macs else self.gateway)
        self._complain(frame[6:12], source, frame[IP + 12 : IP + 16], kind, code, info, quote, ttl)

    @staticmethod
    def _quote(src: bytes, dst: bytes, sport: int, dport: int, payload: bytes) -> bytes:
        size = len(payload) + UDP_LEN
        length = size + IPV4_LEN
        addresses = ip_int(src + dst)
        base = 0x4500 + length + (TTL << 8 | PROTO_UDP) + addresses
        start = addresses + PROTO_UDP + size * 2 + sport + dport
        head = IPV4.pack(0x45, 0, length, 0, 0, TTL, PROTO_UDP, 65535 - base % 65535, src, dst)
        return (head + UDP.pack(sport, dport, size, checksum.checksum(payload, start)) + payload)[:QUOTE]

    @staticmethod
    def _aged(quote: bytes, kind: int, rest: bytes) -> bytes:
        """A guest's packet as it looked where it ended: with a TTL of 1 where that ran out."""
        aged = bytearray(quote)
        if kind == TIME_EXCEEDED:
            aged[8] = 1
            aged[10:12] = b"\0\0"
            U16.pack_into(aged, 10, checksum.checksum(bytes(aged[: (aged[0] & 15) << 2])))
        return (bytes(aged) + rest)[:QUOTE]

    def _complain(
        self,
        mac: bytes,
        src: bytes,
        dst: bytes,
        kind: int,
        code: int,
        info: int,
        quote: bytes,
        ttl: int = ICMP_TTL,
    ) -> None:
        body = ICMP.pack(kind, code, 0, info) + quote
        body = ICMP.pack(kind, code, checksum.checksum(body), info) + quote
        self._below.count("icmp_errors")
        self.packet(mac, src, dst, PROTO_ICMP, body, ttl, ICMP_TOS)
