"""Frames on a byte stream: four bytes of length, big-endian, then an Ethernet frame without FCS. Sans-IO.

    bytes as they came ──► Splitter.feed ──► whole frames        frame ──► head(len) + frame

QEMU's ``socket`` and ``stream``, passt and every second emulator speak it: no handshake, no version.

Limits: a frame has 1 to ``FRAME_MAX`` bytes (what QEMU takes). Length 0 is never sent, because QEMU 7.2 stops reading for
good at it; received it is skipped and counted (``empty``). A longer length cannot be anything but garbage: there is no
way back into step, so ``broken`` says why and whatever follows is ignored. At most one incomplete frame is kept, and it
is copied once, however small the pieces are. Runts are frames.

Ref: QEMU net/net.c (net_fill_rstate), net/stream_data.c.
"""

from __future__ import annotations

from struct import Struct

FRAME_MAX = 4096 + 65536
_LENGTH = Struct(">I")
HEAD = _LENGTH.size

head = _LENGTH.pack
_unpack = _LENGTH.unpack_from


class Splitter:
    """Cuts a stream into frames. ``empty``: lengths of 0 so far; ``broken``: why nothing more comes, or None."""

    __slots__ = ("_need", "_tail", "broken", "empty")

    def __init__(self) -> None:
        self.empty = 0
        self.broken: str | None = None
        self._tail = bytearray()  # a frame that has begun, with its length
        self._need = HEAD  # bytes of _tail before it is worth a look

    @property
    def partial(self) -> int:
        """Bytes of a frame that has begun and is not complete."""
        return len(self._tail)

    def tail(self) -> bytes:
        """The frame that has begun, with its length: a new splitter that is fed with it goes on here."""
        return bytes(self._tail)

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that ``data`` completes, in order. Never raises."""
        if self.broken is not None:
            return []
        tail = self._tail
        if tail:
            if len(tail) + len(data) < self._need:
                tail += data
                return []
            data = bytes(tail) + data
            tail.clear()
        frames: list[bytes] = []
        keep = frames.append
        at = 0
        need = HEAD
        end = len(data)
        while at + HEAD <= end:
            size = _unpack(data, at)[0]
            if size > FRAME_MAX:
                self.broken = f"a length of {size} bytes: more than {FRAME_MAX}, or not this protocol"
                return frames
            stop = at + HEAD + size
            if stop > end:
                need = HEAD + size
                break
            if size:
                keep(data[at + HEAD : stop])
            else:
                self.empty += 1
            at = stop
        if at < end:
            tail += data[at:] if at else data
        self._need = need
        return frames
