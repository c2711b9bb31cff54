"""Frames on a byte stream: four bytes of length, big-endian, then an Ethernet frame without FCS. Sans-IO.

    socket ──► room ──took──► whole frames as one train (``tapnet.vlan.train``)        frame ──► head(len) + frame

QEMU's ``socket`` and ``stream``, passt and every second emulator speak it: no handshake, no version.

Limits: a frame has 1 to ``FRAME_MAX`` bytes (what QEMU takes). Length 0 is never sent, because QEMU 7.2 stops reading for
good at it; received it is skipped and counted (``empty``), as is what has no whole Ethernet header (``runts``). A longer length cannot be anything but garbage: there is no
way back into step, so ``broken`` says why and whatever follows is ignored. One buffer of the longest frame and ``RECV``
bytes is kept; bytes are copied once out of it, and what is left of a frame to its front. A frame of less
than 60 bytes comes out padded (``tapnet.vlan.padding``).

Ref: QEMU net/net.c (net_fill_rstate), net/stream_data.c.
"""

from __future__ import annotations

from ...vlan.padding import MIN_FRAME, MIN_HEADER, pad
from ...vlan.train import HEAD as HEAD
from ...vlan.train import cut, length
from ...vlan.train import head as head

FRAME_MAX = 4096 + 65536
RECV = 64 << 10  # more does not fit the cache


class Splitter:
    """Finds whole frames in a stream. ``empty``: lengths of 0 so far; ``runts``: lengths below an Ethernet header's; ``broken``: why nothing more comes, or None."""

    __slots__ = ("_buffer", "_fill", "_view", "broken", "empty", "runts")

    def __init__(self) -> None:
        self.empty = self.runts = 0
        self.broken: str | None = None
        self._buffer = bytearray(HEAD + FRAME_MAX + RECV)
        self._view = memoryview(self._buffer)
        self._fill = 0  # bytes of a frame that has begun

    @property
    def partial(self) -> int:
        """Bytes of a frame that has begun and is not complete."""
        return self._fill

    def tail(self) -> bytes:
        """The frame that has begun, with its length: a new splitter that is fed with it goes on here."""
        return bytes(self._view[: self._fill])

    def room(self) -> memoryview:
        """Where the next ``RECV`` bytes of the stream belong."""
        return self._view[self._fill : self._fill + RECV]

    def took(self, size: int) -> tuple[bytes, int]:
        """``room`` has been filled with ``size`` bytes: the frames that are whole now, as a train, and how many."""
        if self.broken is not None:
            return b"", 0
        buffer, view = self._buffer, self._view
        end = self._fill + size
        at = count = 0
        odd = False  # a frame to be padded or skipped
        while at + HEAD <= end:
            long = length(buffer, at)[0]
            stop = at + HEAD + long
            if long > FRAME_MAX:
                self.broken = f"a length of {long} bytes: more than {FRAME_MAX}, or not this protocol"
                break
            if stop > end:
                break
            if long < MIN_FRAME:
                odd = True
            count += 1
            at = stop
        train = bytes(view[:at])
        if odd:
            train, count = self.whole(cut(train))
        self._fill = left = 0 if self.broken is not None else end - at
        if left and at:
            view[:left] = view[at:end]
        return train, count

    def whole(self, frames: list[bytes]) -> tuple[bytes, int]:
        """A train of ``frames``, padded, without those that are none (counted), and how many it has."""
        kept = [pad(frame) for frame in frames if len(frame) >= MIN_HEADER]
        empty = frames.count(b"")
        self.empty += empty
        self.runts += len(frames) - empty - len(kept)
        return b"".join(head(len(frame)) + frame for frame in kept), len(kept)

    def release(self) -> None:
        """Give the buffer back: nothing more comes."""
        self._view.release()
        self._buffer = bytearray()
        self.broken = self.broken or "closed"

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that ``data`` completes, in order. Never raises."""
        frames: list[bytes] = []
        at = 0
        while at < len(data) and self.broken is None:
            piece = data[at : at + RECV]
            self.room()[: len(piece)] = piece
            frames += cut(self.took(len(piece))[0])
            at += RECV
        return frames
