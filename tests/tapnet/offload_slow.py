"""Slow, readable twin of ``tapnet.vlan.offload``: whole packets built field by field, sums taken word by word."""

from __future__ import annotations

import struct
from dataclasses import dataclass


def internet_checksum(data: bytes) -> int:
    """RFC 1071, as it is written there."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for i in range(0, len(data), 2):
        total += data[i] << 8 | data[i + 1]
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass
class Packet:
    """What a frame is made of. ``version`` 4 or 6, ``protocol`` 6 (TCP) or 17 (UDP)."""

    version: int = 4
    protocol: int = 6
    tags: bytes = b""
    ip_options: bytes = b""  # IPv4 options, or whole IPv6 extension headers
    first_extension: int = 0
    identity: int = 0
    source: bytes = bytes([10, 0, 2, 15])
    dest: bytes = bytes([10, 0, 2, 2])
    ports: tuple[int, int] = (1024, 80)
    sequence: int = 0
    ack: int = 0
    flags: int = 0x10
    tcp_options: bytes = b""
    payload: bytes = b""
    ttl: int = 64

    def l2(self) -> bytes:
        kind = 0x0800 if self.version == 4 else 0x86DD
        return b"\x52\x55\x0a\x00\x02\x02\x52\x54\x00\x12\x34\x56" + self.tags + struct.pack("!H", kind)

    def transport(self, pseudo_only: bool = False) -> bytes:
        if self.protocol == 6:
            words = (5 + len(self.tcp_options) // 4) << 4
            head = struct.pack(
                "!HHIIBBHHH", *self.ports, self.sequence, self.ack, words, self.flags, 500, 0, 0
            )
            head += self.tcp_options
            at = 16
        else:
            head = struct.pack("!HHHH", *self.ports, 8 + len(self.payload), 0)
            at = 6
        length = len(head) + len(self.payload)
        if self.version == 4:
            pseudo = self.source + self.dest + struct.pack("!BBH", 0, self.protocol, length)
        else:
            pseudo = self.source + self.dest + struct.pack("!IBBBB", length, 0, 0, 0, self.protocol)
        if pseudo_only:
            value = ~internet_checksum(pseudo) & 0xFFFF
        else:
            value = internet_checksum(pseudo + head + self.payload)
            if self.protocol == 17 and value == 0:
                value = 0xFFFF
        return head[:at] + struct.pack("!H", value) + head[at + 2 :] + self.payload

    def network(self, transport_length: int) -> bytes:
        if self.version == 4:
            ihl = 5 + len(self.ip_options) // 4
            total = ihl * 4 + transport_length
            if total > 65535:
                total = 0
            head = struct.pack(
                "!BBHHHBBH", 0x40 | ihl, 0, total, self.identity, 0x4000, self.ttl, self.protocol, 0
            )
            head += self.source + self.dest + self.ip_options
            return head[:10] + struct.pack("!H", internet_checksum(head)) + head[12:]
        following = self.first_extension if self.ip_options else self.protocol
        length = len(self.ip_options) + transport_length
        head = struct.pack("!IHBB", 6 << 28 | 0x12345, length, following, self.ttl)
        return head + self.source + self.dest + self.ip_options

    def frame(self, partial: bool = False) -> bytes:
        transport = self.transport(pseudo_only=partial)
        return self.l2() + self.network(len(transport)) + transport

    def transport_offset(self) -> int:
        return len(self.l2()) + (20 if self.version == 4 else 40) + len(self.ip_options)

    def header_length(self) -> int:
        return self.transport_offset() + (20 + len(self.tcp_options) if self.protocol == 6 else 8)


def segments(packet: Packet, size: int) -> list[Packet]:
    """Cut ``packet`` into packets of at most ``size`` bytes of payload."""
    out = []
    pieces = [packet.payload[i : i + size] for i in range(0, len(packet.payload), size)] or [b""]
    for index, piece in enumerate(pieces):
        copy = Packet(**{name: getattr(packet, name) for name in packet.__dataclass_fields__})
        copy.payload = piece
        copy.identity = (packet.identity + index) % 65536
        copy.sequence = (packet.sequence + index * size) % 2**32
        if index < len(pieces) - 1:
            copy.flags &= ~0x09
        if index > 0:
            copy.flags &= ~0x80
        out.append(copy)
    return out
