"""The classic pcap file format: its header and one record.

Ref: pcap-savefile(5): magic a1b2c3d4 in the host's byte order, version 2.4, link type 1 (Ethernet).
"""

from __future__ import annotations

from struct import Struct

MAGIC, MAJOR, MINOR, ETHERNET = 0xA1B2C3D4, 2, 4, 1
HEADER = Struct("=IHHiIII")
RECORD = Struct("=IIII")


def header(length: int) -> bytes:
    """How a file begins whose frames are cut at ``length`` bytes."""
    return HEADER.pack(MAGIC, MAJOR, MINOR, 0, 0, length, ETHERNET)


def record(frame: bytes, length: int, now: int) -> tuple[bytes, bytes]:
    """One frame at a time of day in ns."""
    kept = frame if len(frame) <= length else frame[:length]
    micro = now // 1000
    return RECORD.pack(micro // 1_000_000 & 0xFFFFFFFF, micro % 1_000_000, len(kept), len(frame)), kept
