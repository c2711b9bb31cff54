"""The virtio_net_hdr that goes with a frame whose checksum or segmentation is still owed.

A card that offloads work (RTL8139 C+) does not do it: it says so in ten bytes beside the frame, and whoever
needs the finished frame completes it. Layout, little-endian: flags, gso_type, hdr_len, gso_size, csum_start,
csum_offset. The checksum field of such a frame holds the sum of its pseudo header, not complemented; the IPv4
header is finished.

Ref: Virtual I/O Device (VIRTIO) 1.2, 5.1.6 (struct virtio_net_hdr without num_buffers); RFC 1071.
"""

from __future__ import annotations

from struct import Struct

HEADER = Struct("<BBHHHH")
NEEDS_CSUM = 1
GSO_NONE = 0
GSO_TCPV4 = 1

_CSUM = Struct(">H")


def partial(start: int, offset: int) -> bytes:
    """Owed: the Internet checksum from ``start`` to the end of the frame, stored at ``start + offset``."""
    return HEADER.pack(NEEDS_CSUM, GSO_NONE, 0, 0, start, offset)


def tcp4(headers: int, mss: int, start: int) -> bytes:
    """Owed: cutting into TCP segments of at most ``mss`` bytes; ``headers`` bytes come before the data."""
    return HEADER.pack(NEEDS_CSUM, GSO_TCPV4, headers, mss, start, 16)


def ones_sum(data: bytes | bytearray | memoryview) -> int:
    """Sum of 16-bit words in ones' complement, 0..0xffff; an odd byte is padded with zero.

    A sum that is zero modulo 0xffff but not of zeros alone is 0xffff.
    """
    value = int.from_bytes(data, "big")
    if len(data) & 1:
        value <<= 8
    return value % 0xFFFF or (0xFFFF if value else 0)


def complete(frame: bytes, vnet: bytes) -> bytes | None:
    """The finished frame of one that owes a checksum. None: it owes segmentation, or has wrong offsets."""
    if not vnet:
        return frame
    if len(vnet) < HEADER.size:
        return None
    flags, gso_type, _, _, start, offset = HEADER.unpack_from(vnet)
    if gso_type != GSO_NONE:
        return None
    if not flags & NEEDS_CSUM:
        return frame
    field = start + offset
    if field + 2 > len(frame):
        return None
    value = 0xFFFF - ones_sum(memoryview(frame)[start:])
    return frame[:field] + _CSUM.pack(value or 0xFFFF) + frame[field + 2 :]
