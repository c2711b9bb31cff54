"""Read and make the ARP, neighbour discovery and DHCP packets of ``tapnet route``: bytes in, bytes out.

Malformed input gives None. The kernel computes the checksums of ICMPv6 (raw sockets) and of UDP.

Ref: RFC 826, RFC 5227 (probes and announcements); RFC 4861 4 (messages), 4.6 (options); RFC 8106 (RDNSS, DNSSL); RFC 4191
(route information); RFC 2131, RFC 1542 4 (relay agents).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

BROADCAST = b"\xff" * 6
ETH_ARP, ETH_IP6 = 0x0806, 0x86DD
ARP_REQUEST, ARP_REPLY = 1, 2
RS, RA, NS, NA = 133, 134, 135, 136
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ETHER = struct.Struct("!6s6sH")
_ICMP6 = 58
_PREFIX, _MTU, _ROUTE, _RDNSS, _DNSSL = 3, 5, 24, 25, 31
_SLLA, _TLLA = 1, 2
_ON_LINK = 0x80
_PREFIX_LEN = 32
NO_ADDRESS = IPv4Address(0)

# BPF: ARP, and ICMPv6 of types 133 to 136 right behind the IPv6 header
FILTER = (
    (0x28, 0, 0, 12), (0x15, 6, 0, ETH_ARP), (0x15, 0, 6, ETH_IP6), (0x30, 0, 0, 20), (0x15, 0, 4, _ICMP6),
    (0x30, 0, 0, 54), (0x35, 0, 2, RS), (0x25, 1, 0, NA), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Arp:
    """This is an ARP packet for IPv4 over Ethernet."""

    op: int
    sender_mac: bytes
    sender: IPv4Address
    target: IPv4Address


def arp(frame: bytes) -> Arp | None:
    """Parse an Ethernet frame as an ARP packet; None if it is none."""
    if len(frame) < _ETHER.size + _ARP.size or _ETHER.unpack_from(frame)[2] != ETH_ARP:
        return None
    hardware, protocol, size, length, op, mac, sender, _, target = _ARP.unpack_from(frame, _ETHER.size)
    if (hardware, protocol, size, length) != (1, 0x0800, 6, 4) or mac[0] & 1 or op not in (1, 2):
        return None
    return Arp(op, mac, IPv4Address(sender), IPv4Address(target))


def arp_frame(
    op: int, source: bytes, sender: IPv4Address, target_mac: bytes, target: IPv4Address, to: bytes = BROADCAST
) -> bytes:
    """Return an ARP packet in its Ethernet frame."""
    body = _ARP.pack(1, 0x0800, 6, 4, op, source, sender.packed, target_mac, target.packed)
    return _ETHER.pack(to, source, ETH_ARP) + body


def solicited(frame: bytes) -> tuple[int, IPv6Address, IPv6Address | None, bytes] | None:
    """Parse an Ethernet frame as RS, NS or NA and return (type, source, target, the sender's MAC); None if it
    is none.
    """
    if len(frame) < 14 + 40 + 8 or frame[12:14] != b"\x86\xdd" or frame[20] != _ICMP6 or frame[21] != 255:
        return None
    kind, source = frame[54], IPv6Address(frame[22:38])
    if kind == RS:
        return kind, source, None, frame[6:12]
    if kind not in (NS, NA) or len(frame) < 54 + 24 or frame[6] & 1:
        return None
    return kind, source, IPv6Address(frame[62:78]), frame[6:12]


def solicitation(target: IPv6Address, mac: bytes) -> bytes:
    """Return a neighbour solicitation, for a raw ICMPv6 socket."""
    return struct.pack("!BBHI", NS, 0, 0, 0) + target.packed + struct.pack("!BB", _SLLA, 1) + mac


def router_solicitation() -> bytes:
    """Return a router solicitation, for a raw ICMPv6 socket."""
    return struct.pack("!BBHI", RS, 0, 0, 0)


def advertised(message: bytes) -> IPv6Address | None:
    """Return the target of a neighbour advertisement (ICMPv6 without its IP header); None if it is none."""
    return IPv6Address(message[8:24]) if len(message) >= 24 and message[0] == NA else None


def passed_on(message: bytes, mac: bytes) -> bytes | None:
    """Rewrite a router advertisement of the LAN for the guest: we are the router, and no address is on the
    link, so that all traffic goes through us; no DHCPv6, which we do not relay. Prefixes, routes, MTU and
    name servers stay.
    """
    if len(message) < 16 or message[0] != RA:
        return None
    made = bytearray(message[:16])
    made[2:4] = b"\0\0"  # checksum
    made[5] = 0  # flags: managed, other
    at = 16
    while at < len(message):
        if at + 8 > len(message):
            return None
        length = 8 * message[at + 1]
        if not length or at + length > len(message):
            return None
        option = bytearray(message[at : at + length])
        if option[0] == _PREFIX and length == _PREFIX_LEN:
            option[3] &= ~_ON_LINK & 0xFF
        if option[0] in (_PREFIX, _MTU, _ROUTE, _RDNSS, _DNSSL):
            made += option
        at += length
    return bytes(made) + struct.pack("!BB", _SLLA, 1) + mac


# ---- DHCP --------------------------------------------------------------------------------------------------

_BOOTP = struct.Struct("!BBBBIHH4s4s4s4s16s")
_OPTIONS = 240
_COOKIE = b"\x63\x82\x53\x63"
_MAX_HOPS = 16
_MESSAGE_TYPE, _PAD, _END = 53, 0, 255
ACK = 5


def relayed(packet: bytes, giaddr: IPv4Address) -> tuple[bytes, bytes] | None:
    """Return a client's DHCP packet as the relay agent sends it on, and the client's MAC; None if it is
    malformed.
    """
    if len(packet) < _OPTIONS or packet[236:240] != _COOKIE:
        return None
    op, htype, hlen, hops, *_ = _BOOTP.unpack_from(packet)
    if (op, htype, hlen) != (1, 1, 6) or hops >= _MAX_HOPS or packet[24:28] != bytes(4):
        return None
    return packet[:3] + bytes((hops + 1,)) + packet[4:24] + giaddr.packed + packet[28:], packet[28:34]


@dataclass(frozen=True, slots=True)
class Reply:
    """This is a DHCP server's packet to a client behind us."""

    mac: bytes
    address: IPv4Address
    kind: int  # DHCP message type; 0: none


def reply(packet: bytes, giaddr: IPv4Address) -> Reply | None:
    """Parse a DHCP server's packet; None unless it came to us as a relay agent."""
    if len(packet) < _OPTIONS or packet[236:240] != _COOKIE or packet[0] != 2 or packet[1:3] != b"\x01\x06":
        return None
    if packet[24:28] != giaddr.packed:
        return None
    kind, at = 0, _OPTIONS
    while at < len(packet) and packet[at] != _END:
        if packet[at] == _PAD:
            at += 1
            continue
        if at + 2 > len(packet) or at + 2 + packet[at + 1] > len(packet):
            return None
        if packet[at] == _MESSAGE_TYPE and packet[at + 1] == 1:
            kind = packet[at + 2]
        at += 2 + packet[at + 1]
    return Reply(packet[28:34], IPv4Address(packet[16:20]), kind)
