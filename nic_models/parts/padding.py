"""Short frames: an emulated wire carries frames of any length, a real one none below 60 bytes (without FCS).

Ref: IEEE 802.3, 4.2.3.3 (minimum frame size: 64 octets with FCS).
"""

from __future__ import annotations

MIN_FRAME = 60
MAX_FRAME = 1518  # without FCS: 1514 and an 802.1Q tag
_ZEROS = tuple(bytes(MIN_FRAME - n) for n in range(MIN_FRAME + 1))


def pad(frame: bytes) -> bytes:
    """Return ``frame`` filled with zeros up to 60 bytes."""
    size = len(frame)
    return frame + _ZEROS[size] if size < MIN_FRAME else frame
