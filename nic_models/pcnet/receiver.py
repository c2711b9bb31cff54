"""Receive ring of the Am79C970A: the FIFO, chained buffers, LAPP, and what happens without a buffer.

A frame is written with its FCS, MCNT counts it (ASTRP_RCV: pad and FCS of a frame with an 802.3 length
below 46 are stripped; CSR122.RCVALGN: two bytes before it, not counted). A buffer is given back only after
the next descriptor was seen; if that is not owned, or the frame has gone round the ring, BUFF goes into the
last one owned, and OFLO with it if more is left than the chip's FIFO holds. A byte count of zero means 4096
bytes, as on the LANCE.

No descriptor for a frame. It stays in the FIFO: the chip refuses the next one and so holds the wire, and
polls. It is delivered when the driver gives a buffer, so nothing is lost where the driver behaves, and
MISS, which drivers count as a lost frame, is not set for it. After ``MISS_NS`` RINT is set once more, for a
driver that gives buffers in its interrupt. After ``HOLD_NS`` the frame is lost: MISS, and CSR112 counts it;
what follows is lost at once, as on a real wire, until a buffer turns up. A looped frame is not held.

LAPPEN: frames start at descriptors with STP set (the search gives back others that the chip owns), and RINT
comes after the first buffer as well.

Ref: Am79C970A data sheet (19436E), "Receive Descriptor Table Entry", "Receive Operation", RMD0-3, CSR3
     (LAPPEN), CSR112.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..parts.padding import MIN_FRAME
from . import registers as r
from .descriptors import NONE, Bus, Descriptor, Step

if TYPE_CHECKING:
    from .chip import Pcnet

MAX_IMAGE = 4095  # MCNT has twelve bits
FIFO_BYTES = 256
HOLD_NS = 1_000_000_000
MISS_NS = 50_000_000
LAPP_SEARCH = 1024
_ALIGN = b"\0\0"
_HEADER = 14
_KEPT = 0xFFFF & ~r.R_STATUS
_SHORTEST = 46  # an 802.3 length from here on means no pad


class Receiver:
    """Position in the ring, and the frame in the FIFO."""

    def __init__(self, chip: Pcnet, bus: Bus) -> None:
        self.chip = chip
        self.bus = bus
        self.reset()

    def reset(self) -> None:
        """As after power-on."""
        self.index = 0
        self.last: Descriptor = NONE  # read last, for CSR18, 40, 41
        self.absent = False  # the driver left a frame waiting for HOLD_NS
        self.halt()

    def halt(self) -> None:
        """STOP: the FIFO is empty, the position stays."""
        self.fifo: bytes | None = None  # a frame as it will be in memory
        self.status = 0  # its RMD1 bits
        self.count = 0  # its MCNT
        self.done = 0  # bytes of it in memory
        self.used = 0  # descriptors that it has used
        self.skipped = 0  # descriptors that the LAPP search has passed
        self.looped = False  # it came from our own transmitter
        self.hold_until: int | None = None  # while a frame waits for a descriptor: RINT, then its loss
        self.warned = False  # RINT was set for it

    def length(self) -> int:
        """Descriptors of the ring, 1..65536 (CSR76 is two's complement)."""
        return -self.chip.csr[r.RCVRL] & 0xFFFF or 0x10000

    def address(self, ahead: int = 0) -> int:
        """Address of the current descriptor, or of one ``ahead`` of it."""
        return self.bus.address(r.BADR, (self.index + ahead) % self.length())

    def store(self, image: bytes, status: int, looped: bool) -> None:
        """A frame that passed the filter, FCS at its end, into the FIFO."""
        csr = self.chip.csr
        if csr[4] & r.ASTRP_RCV and len(image) >= MIN_FRAME:
            length = image[12] << 8 | image[13]
            if length < _SHORTEST:
                image = image[: _HEADER + length]
        self.count = len(image)
        self.fifo = _ALIGN + image if csr[122] & r.RCVALGN else image
        self.status = status
        self.done = 0
        self.looped = looped

    def step(self) -> Step:
        """The frame in the FIFO into one buffer. False: it stays there (no descriptor)."""
        chip, bus = self.chip, self.bus
        image = self.fifo
        if image is None or not chip.csr[0] & r.RXON:
            return False
        length = self.length()
        size = bus.size()
        done = self.done
        if not done:
            self.used = 0
        lapp = not done and bool(chip.csr[3] & r.LAPPEN)
        address = bus.address(r.BADR, self.index % length)
        descriptor = bus.decode((yield ("read", address, size)))
        self.last = descriptor
        where, status, count, _ = descriptor
        if lapp and not status & r.D_STP:
            return self._skip(address, status, length)
        if not status & r.D_OWN:
            return self._dry()
        self.hold_until = None
        self.absent = False
        self.skipped = 0
        self.used += 1
        total = len(image)
        end = done + 4096 - (count & 0xFFF)
        piece = image[done:end] if done or end < total else image
        if chip.csr[3] & r.BSWP:
            yield from bus.write_swapped(where, piece)
        else:
            yield ("write", where, piece)
        status &= _KEPT
        if not done:
            status |= r.D_STP
        if end < total:
            after = NONE
            if self.used < length:
                after = bus.decode((yield ("read", self.address(1), size)))
            if after[1] & r.D_OWN:
                self.done = end
                self.index = (self.index + 1) % length
                bus.give_back(address, status)
                if lapp:
                    bus.event = r.RINT
                return True
            status |= r.D_ERR | r.R_BUFF | (r.R_OFLO if total - end > FIFO_BYTES else 0)
            chip.count("rx_no_next_buffer")
            bus.give_back(address, status)
        else:
            status |= r.D_ENP | self.status
            bus.finish(address, status if size == 16 else status & 0xFF00, count, self.count, self.count)
        self.fifo = None
        self.done = 0
        self.index = (self.index + 1) % length
        bus.event = r.RINT
        return True

    def _skip(self, address: int, status: int, length: int) -> bool:
        """LAPP: past a descriptor that no frame starts at. After a round of the ring there is none."""
        if self.skipped >= min(length, LAPP_SEARCH):
            self.skipped = 0
            return self._dry()
        self.skipped += 1
        self.index = (self.index + 1) % length
        if status & r.D_OWN:
            self.bus.give_back(address, status & ~r.D_OWN)
        return True

    def _dry(self) -> bool:
        """No descriptor: hold the frame, or lose it. True: lost."""
        chip = self.chip
        if self.looped or self.absent or self.done:
            self.lose()
            return True
        if self.hold_until is None:
            self.hold_until = chip.now() + MISS_NS
            self.warned = False
            chip.arm()
        return False

    def lose(self) -> None:
        """The frame in the FIFO is missed."""
        self.fifo = None
        self.done = 0
        self.hold_until = None
        self.chip.missed()
        self.chip.wake()

    def expire(self, now: int) -> None:
        """Say that a frame waits, or give it up."""
        if self.hold_until is None or now < self.hold_until:
            return
        if not self.warned and now < self.hold_until + HOLD_NS - MISS_NS:
            self.warned = True
            self.hold_until += HOLD_NS - MISS_NS
            self.chip.csr[0] |= r.RINT
            self.chip.update_irq()
        else:
            self.absent = True
            self.lose()


NUMBERS = {
    "index": 0xFFFF,
    "status": 0xFFFF,
    "count": MAX_IMAGE,
    "done": MAX_IMAGE + 2,
    "used": MAX_IMAGE + 2,
    "skipped": LAPP_SEARCH,
}
FLAGS = ("absent", "looped", "warned")
FRAMES = ("fifo",)
TUPLES = {"last": 4}
