"""Multicast hash filters: six bits of the Ethernet CRC-32 choose one of 64 bits.

``hash_be`` takes the six most significant bits of the CRC register as shifted most significant bit first
(DP8390 MAR0-7, RTL8139 MAR0-7); ``hash_le`` those of the reflected register (Am79C970A LADRF).

Ref: IEEE 802.3, 3.2.9 (the CRC); DP8390D data sheet section 10, "Multicast address registers";
     Am79C970A data sheet, "Logical address filter".
"""

from __future__ import annotations

from zlib import crc32

_REVERSED = tuple(int(f"{n:06b}"[::-1], 2) for n in range(64))


def hash_be(address: bytes) -> int:
    """Bit number 0..63 for a 6-byte multicast address, DP8390 and RTL8139 style."""
    return _REVERSED[~crc32(address) & 0x3F]


def hash_le(address: bytes) -> int:
    """Bit number 0..63 for a 6-byte multicast address, Am79C970A style."""
    return (~crc32(address) & 0xFFFFFFFF) >> 26


def filter_with(addresses: list[bytes], hash_bit: int | None = None) -> bytes:
    """The eight MAR bytes that let ``addresses`` pass (``hash_be``); ``hash_bit`` sets one bit more."""
    bits = 0
    for address in addresses:
        bits |= 1 << hash_be(address)
    if hash_bit is not None:
        bits |= 1 << hash_bit
    return bits.to_bytes(8, "little")
