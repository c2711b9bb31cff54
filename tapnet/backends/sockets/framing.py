"""Carry frames on a byte stream: four bytes of length, big-endian, then an Ethernet frame without FCS.
Without I/O.

    socket ──► room ──took──► whole frames as one train (``tapnet.vlan.train``)        frame ──► head(len) + frame

QEMU's ``socket`` and ``stream``, passt and many emulators speak it: no handshake, no version.

Limits: a frame has 1 to ``FRAME_MAX`` bytes (what QEMU takes). Length 0 is never sent, because QEMU 7.2 stops
reading for good at it; received it is skipped and counted (``empty``), as is what has no whole Ethernet
header (``runts``). A longer length cannot be anything but garbage: there is no way back into step, so
``broken`` says why and whatever follows is ignored. One buffer of the longest frame and ``RECV`` bytes is
kept; bytes are copied once out of it, and what is left of a frame to its front. A frame of less than 60 bytes
comes out padded (``tapnet.vlan.padding``).

Ref: QEMU net/net.c (net_fill_rstate), net/stream_data.c.
"""

from __future__ import annotations

from ...vlan.padding import MIN_FRAME, MIN_HEADER, pad
from ...vlan.train import HEAD as HEAD
from ...vlan.train import cut, length
from ...vlan.train import head as head

FRAME_MAX = 4096 + 65536
RECV = 64 << 10  # a larger buffer would not fit the processor's cache


class Splitter:
    """A splitter finds whole frames in a stream. ``empty`` counts lengths of 0, ``runts`` lengths below an
    Ethernet header's; ``broken`` is why nothing more comes, or None.
    """

    __slots__ = ("_buffer", "_fill", "_view", "broken", "empty", "runts")

    def __init__(self) -> None:
        self.empty = self.runts = 0
        self.broken: str | None = None
        self._buffer = bytearray(HEAD + FRAME_MAX + RECV)
        self._view = memoryview(self._buffer)
        self._fill = 0  # bytes kept of an incomplete frame

    @property
    def partial(self) -> int:
        """Return how many bytes of an incomplete frame are kept."""
        return self._fill

    def tail(self) -> bytes:
        """Return the incomplete frame with its length; a new splitter that is fed with it goes on from here."""
        return bytes(self._view[: self._fill])

    def room(self) -> memoryview:
        """Return the part of the buffer into which the next ``RECV`` bytes of the stream are to be read."""
        return self._view[self._fill : self._fill + RECV]

    def took(self, size: int) -> tuple[bytes, int]:
        """Take the ``size`` bytes that were read into ``room``; return the frames that are whole now, as a
        train, and how many they are.
        """
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
        """Return a train of ``frames``, padded, and how many it has; empty frames and runts are left out and
        counted.
        """
        kept = [pad(frame) for frame in frames if len(frame) >= MIN_HEADER]
        empty = frames.count(b"")
        self.empty += empty
        self.runts += len(frames) - empty - len(kept)
        return b"".join(head(len(frame)) + frame for frame in kept), len(kept)

    def release(self) -> None:
        """Free the buffer, because nothing more will be read."""
        self._view.release()
        self._buffer = bytearray()
        self.broken = self.broken or "closed"

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that ``data`` completes, in order. Bad input raises nothing, but sets ``broken``."""
        frames: list[bytes] = []
        at = 0
        while at < len(data) and self.broken is None:
            piece = data[at : at + RECV]
            self.room()[: len(piece)] = piece
            frames += cut(self.took(len(piece))[0])
            at += RECV
        return frames
