"""Formats off the data path: DHCP options, domain names, and one-line descriptions of frames for traces.

dpkt describes frames. It does not parse DHCP here: ``dpkt.dhcp`` stops at option overload (52), does not
join split options (RFC 3396), reads past the end of a truncated one, and cannot say what was wrong; nor
does ``dpkt.dns`` write the compressed search list of option 119. Both are a page each below, bounded, and
raise ValueError only.

Ref: RFC 2131 2, 4.1; RFC 2132 (options); RFC 3396 (long options); RFC 3397 (search list);
RFC 3442 (classless routes); RFC 1035 4.1.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from struct import Struct

# ---- DHCP --------------------------------------------------------------------------------------------------

BOOTP = Struct("!BBBBIHH4s4s4s4s16s64s128s")
BOOTP_LEN = 236
BOOTP_MIN = 300  # RFC 951: 64 bytes of vendor area
COOKIE = b"\x63\x82\x53\x63"
BOOTREQUEST, BOOTREPLY = 1, 2
BROADCAST_FLAG = 0x8000
HOPS_MAX = 16
(PAD, MASK, ROUTER, NAME_SERVER, HOSTNAME, DOMAIN, INTERFACE_MTU, BROADCAST) = (0, 1, 3, 6, 12, 15, 26, 28)
(REQUESTED, LEASE_TIME, OVERLOAD, MESSAGE, SERVER_ID, PARAMETERS, TEXT) = (50, 51, 52, 53, 54, 55, 56)
(MAX_SIZE, T1, T2, CLIENT_ID, TFTP_NAME, BOOTFILE, SEARCH, END) = (57, 58, 59, 61, 66, 67, 119, 255)
(NTP, VENDOR_CLASS, USER_CLASS, ARCHITECTURE, ROUTES, ROUTES_MICROSOFT) = (42, 60, 77, 93, 121, 249)
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
_OPTION_LEN = {REQUESTED: 4, LEASE_TIME: 4, OVERLOAD: 1, MESSAGE: 1, SERVER_ID: 4, MAX_SIZE: 2}
# Text of these a PXE ROM may read up to a zero byte: a pad follows, which is no part of the option.
_C_STRINGS = frozenset((17, 18, TFTP_NAME, BOOTFILE, 209, 210))


@dataclass(slots=True)
class DhcpMessage:
    """A client's BOOTP or DHCP message. ``options`` holds joined values; ``cookie``: it had options at
    all."""

    hops: int
    xid: int
    secs: int
    flags: int
    htype: int
    ciaddr: bytes
    giaddr: bytes
    chaddr: bytes  # of its hardware length
    chaddr_field: bytes  # as it stood, 16 bytes
    cookie: bool
    options: dict[int, bytes] = field(default_factory=dict)
    ignored: int = 0  # options of a wrong length, and second ones of a kind that fits once

    @property
    def kind(self) -> int | None:
        """DISCOVER ...; None: plain BOOTP."""
        value = self.options.get(MESSAGE)
        return value[0] if value else None

    @property
    def client(self) -> bytes:
        """What a lease is bound to: the client identifier, else hardware type and address."""
        return self.options.get(CLIENT_ID) or bytes([self.htype]) + self.chaddr


def _options(area: bytes, into: dict[int, bytes]) -> list[int]:
    """Read one option area; a missing END is forgiven. Returns the options that were left out, as their length is wrong, or
    as they are a second one where only one makes sense. A truncated option ends the area, and stands there as ``PAD``.
    """
    offset = 0
    ignored: list[int] = []
    while offset < len(area):
        code = area[offset]
        if code == PAD:
            offset += 1
            continue
        if code == END:
            return ignored
        if offset + 2 > len(area) or offset + 2 + area[offset + 1] > len(area):
            return [*ignored, PAD]
        size = area[offset + 1]
        fixed = _OPTION_LEN.get(code)
        if fixed is not None and (size != fixed or code in into):
            ignored.append(code)
        else:
            into[code] = into.get(code, b"") + area[offset + 2 : offset + 2 + size]
        offset += 2 + size
    return ignored


def parse_dhcp(data: bytes) -> DhcpMessage:
    """A client's message. Options that make no sense are left out and counted, as each is but a hint; the message type is none.
    Raises ValueError that says what is wrong.
    """
    if len(data) < BOOTP_LEN:
        raise ValueError("shorter than a BOOTP message")
    op, htype, hlen, hops, xid, secs, flags, ciaddr, _, _, giaddr, chaddr, sname, file = BOOTP.unpack_from(
        data
    )
    if op != BOOTREQUEST:
        raise ValueError("not a request")
    if hlen > 16 or (htype == 1 and hlen != 6):
        raise ValueError("wrong hardware address length")
    if hops > HOPS_MAX:
        raise ValueError("too many hops")
    cookie = data[BOOTP_LEN : BOOTP_LEN + 4] == COOKIE
    options: dict[int, bytes] = {}
    ignored: list[int] = []
    if cookie:
        ignored = _options(data[BOOTP_LEN + 4 :], options)
        overload = options.get(OVERLOAD, b"\0")
        if overload in (b"\1", b"\3"):
            ignored += _options(file, options)
        if overload in (b"\2", b"\3"):
            ignored += _options(sname, options)
    if MESSAGE not in options and (MESSAGE in ignored or PAD in ignored):
        raise ValueError("no message type among options that are broken")
    if not hlen and CLIENT_ID not in options:
        raise ValueError("no hardware address and no client identifier")
    return DhcpMessage(
        hops, xid, secs, flags, htype, ciaddr, giaddr, chaddr[:hlen], chaddr, cookie, options, len(ignored)
    )


def encode_option(code: int, value: bytes) -> list[bytes]:
    """Type, length, value; values beyond 255 bytes in several pieces (RFC 3396)."""
    pieces = [value[start : start + 255] for start in range(0, len(value), 255)] or [b""]
    return [bytes((code, len(piece))) + piece for piece in pieces]


def pack_options(
    items: Iterable[tuple[int, bytes]], room: int, file: bool, sname: bool
) -> tuple[bytes, bytes, bytes, int]:
    """Lay options out in the option area of ``room`` bytes (END included), then in ``file`` and ``sname``
    if free. A pad byte follows what old boot firmware reads as a C string.

    Returns the three areas (b"" where one is not used) and how many options found no room.
    """
    encoded = [encode_option(code, value) + [b"\0"] * (code in _C_STRINGS) for code, value in items]
    if sum(len(piece) for pieces in encoded for piece in pieces) < room:
        return b"".join(piece for pieces in encoded for piece in pieces) + bytes([END]), b"", b"", 0
    space = [room - 4, 127 if file else 0, 63 if sname else 0]
    areas: list[list[bytes]] = [[], [], []]
    lost = 0
    for pieces in encoded:
        size = sum(map(len, pieces))
        for index in range(3):
            if size <= space[index]:
                areas[index].extend(pieces)
                space[index] -= size
                break
        else:
            lost += 1
    overload = (1 if areas[1] else 0) | (2 if areas[2] else 0)
    if overload:
        areas[0].append(bytes((OVERLOAD, 1, overload)))
    main, first, second = (b"".join(area) + bytes([END]) if area else b"" for area in areas)
    return main or bytes([END]), first, second, lost


def encode_routes(routes: Iterable[tuple[IPv4Network, IPv4Address]]) -> bytes:
    """Classless static routes: net and router each (RFC 3442)."""
    out = bytearray()
    for net, router in routes:
        out.append(net.prefixlen)
        out += net.network_address.packed[: (net.prefixlen + 7) // 8] + router.packed
    return bytes(out)


# ---- traces ------------------------------------------------------------------------------------------------


def describe(frame: bytes) -> str:
    """One line about a frame, for traces; never raises."""
    try:
        import dpkt  # here: it imports 60 protocols, a quarter of the time that tapnet takes to start

        eth = dpkt.ethernet.Ethernet(frame)
        payload = eth.data
        if isinstance(payload, dpkt.arp.ARP):
            verb = {1: "who-has", 2: "is-at"}.get(payload.op, f"op {payload.op}")
            return f"arp {verb} {_dotted(payload.tpa)} tell {_dotted(payload.spa)} ({payload.sha.hex(':')})"
        if isinstance(payload, dpkt.ip.IP):
            inner = payload.data
            ends = f"{_dotted(payload.src)} > {_dotted(payload.dst)}"
            if isinstance(inner, dpkt.tcp.TCP):
                bits = "".join(name for bit, name in zip((2, 1, 4, 8, 16), "SFRPA") if inner.flags & bit)
                ports = f"{inner.sport} > {inner.dport}"
                return f"ip {ends} tcp {ports} [{bits}] seq {inner.seq} len {len(inner.data)}"
            if isinstance(inner, dpkt.udp.UDP):
                return f"ip {ends} udp {inner.sport} > {inner.dport} len {len(inner.data)}"
            if isinstance(inner, dpkt.icmp.ICMP):
                return f"ip {ends} icmp type {inner.type} code {inner.code}"
            return f"ip {ends} proto {payload.p} len {payload.len}"
        return f"ether type 0x{eth.type:04x} len {len(frame)}"
    except Exception:  # dpkt raises whatever its parsers run into
        return f"frame of {len(frame)} bytes that does not parse"


def _dotted(address: bytes) -> str:
    return ".".join(map(str, address))
