"""Short frames: an emulated wire carries frames of any length, a real one none below 60 bytes (without FCS); and how
long a frame is on a real one.

Ref: IEEE 802.3, 4.2.3.3 (minimum frame size: 64 octets with FCS), 4.4.2 (preamble, gap between frames).
"""

from __future__ import annotations

MIN_FRAME = 60
MAX_FRAME = 1518  # without FCS: 1514 and an 802.1Q tag
_AROUND = 8 + 4 + 12  # preamble, FCS, gap
_ZEROS = tuple(bytes(MIN_FRAME - n) for n in range(MIN_FRAME + 1))


def pad(frame: bytes) -> bytes:
    """``frame`` with zeros up to 60 bytes."""
    size = len(frame)
    return frame + _ZEROS[size] if size < MIN_FRAME else frame


def wire_ns(size: int, mbit: int) -> int:
    """Nanoseconds that a frame of ``size`` bytes, with preamble, FCS and gap, takes at ``mbit`` Mbit/s."""
    return (max(size, MIN_FRAME) + _AROUND) * 8000 // mbit
