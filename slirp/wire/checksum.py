"""The Internet checksum of RFC 1071, by one big-integer remainder.

Sixteen-bit one's complement addition is addition modulo 65535, and the big-endian value of a buffer is
congruent to the sum of its 16-bit words because 65536 = 1 (mod 65535). One C call replaces the loop. A
non-empty sum is never 0 in one's complement arithmetic unless every word was 0; here 0 stands for both,
which each caller allows for.

Ref: RFC 1071; RFC 768 (a UDP checksum of 0 goes out as 0xffff); RFC 1624.
"""

from __future__ import annotations

_from_bytes = int.from_bytes


def total(data: bytes | memoryview) -> int:
    """Sum of the 16-bit big-endian words of ``data`` (an odd tail is padded by 0), folded to 0..65534."""
    value = _from_bytes(data, "big")
    if len(data) & 1:
        value <<= 8
    return value % 65535


def checksum(data: bytes | memoryview, start: int = 0) -> int:
    """The checksum field (0..65535) for ``data`` plus an earlier sum ``start``; its own field must hold 0."""
    value = _from_bytes(data, "big")
    if len(data) & 1:
        value <<= 8
    return 65535 - (value + start) % 65535


def udp_checksum(data: bytes | memoryview, start: int) -> int:
    """As ``checksum``, never 0 (which means "none" in UDP)."""
    return checksum(data, start) or 65535


def good(data: bytes | memoryview, start: int = 0) -> bool:
    """Whether ``data``, checksum field included, adds up."""
    value = _from_bytes(data, "big")
    if len(data) & 1:
        value <<= 8
    return (value + start) % 65535 == 0


def slow_total(data: bytes) -> int:
    """The readable twin of ``total``: the loop of RFC 1071. 65535 where ``total`` says 0 for a non-zero
    sum."""
    if len(data) & 1:
        data += b"\0"
    value = 0
    for offset in range(0, len(data), 2):
        value += data[offset] << 8 | data[offset + 1]
        value = (value & 0xFFFF) + (value >> 16)
    return value
