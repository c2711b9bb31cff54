"""Open the sockets of ``tapnet route``, each tied to one interface: packets, raw ICMPv6, BOOTP.

Ref: packet(7), ipv6(7), RFC 3542 (ICMP6_FILTER, hop limits), socket(7) SO_BINDTODEVICE and SO_ATTACH_FILTER.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from ipaddress import IPv6Address

from .frames import ETH_ARP

_SO_ATTACH_FILTER, _SO_BINDTODEVICE = 26, 25
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_ICMP6_FILTER = 1
_IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT = 51, 52
_ETH_ALL = 0x0003
BOOTPS, BOOTPC = 67, 68


def group(address: IPv6Address) -> str:
    """Return the solicited-node multicast address of ``address``."""
    return str(IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + address.packed[-3:]))


def packets(link: str, program: tuple[tuple[int, int, int, int], ...] | None) -> socket.socket:
    """Open a packet socket that receives what the BPF ``program`` lets through; None: all ARP. Raises
    OSError.
    """
    protocol = _ETH_ALL if program else ETH_ARP
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        if program is not None:
            code = b"".join(struct.pack("=HBBI", *line) for line in program)
            buffer = ctypes.create_string_buffer(code, len(code))
            argument = struct.pack("@HP", len(program), ctypes.addressof(buffer))
            made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, argument)
        made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        made.bind((link, protocol))
    except BaseException:
        made.close()
        raise
    return made


def icmp6(link: str, kinds: tuple[int, ...]) -> socket.socket:
    """Open a raw ICMPv6 socket of one interface that receives ``kinds``. Raises OSError."""
    made = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6)
    try:
        blocked = [0xFFFFFFFF] * 8
        for kind in kinds:
            blocked[kind >> 5] &= ~(1 << (kind & 31))
        made.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))
        made.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, link.encode() + b"\0")
        for option in (socket.IPV6_MULTICAST_HOPS, socket.IPV6_UNICAST_HOPS):
            made.setsockopt(socket.IPPROTO_IPV6, option, 255)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(link))
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT, 1)
    except BaseException:
        made.close()
        raise
    return made


def bootp(link: str, address: str) -> socket.socket:
    """Open a UDP socket on port 67 of one interface. Raises OSError."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, link.encode() + b"\0")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, BOOTPS))
    except BaseException:
        made.close()
        raise
    return made
