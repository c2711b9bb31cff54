"""Trains: frames of one sender that go through a hub in one piece, because nobody on the way looks at them.

A train is the bytes of a stream wire (``backends.framing``): four bytes of length, big-endian, and a frame, again and again;
each frame whole, none of length 0. A stream wire sends one where all that hear it are stream wires too (``Port.rails``):
the frames are counted, not cut, and leave as the bytes that they came in. Everywhere else there are only frames.

In a port's queue a train stands as ``(bytes, number of frames)``, where a frame is ``(bytes, vnet)``.
"""

from __future__ import annotations

from struct import Struct

_LENGTH = Struct(">I")
HEAD = _LENGTH.size

head = _LENGTH.pack
length = _LENGTH.unpack_from


def cut(train: bytes) -> list[bytes]:
    """Its frames."""
    frames: list[bytes] = []
    keep = frames.append
    at, end = 0, len(train)
    while at < end:
        size = length(train, at)[0]
        at += HEAD
        keep(train[at : at + size])
        at += size
    return frames
