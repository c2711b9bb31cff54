"""Transmit ring of the Am79C970A: chains, padding, FCS, loopback, errors.

A descriptor that is owned but starts no frame (STP clear outside a chain) is given back unsent. Inside a
chain it is given back only after the next one was seen: if that is not owned, or the chain has gone round
the ring, BUFF and UFLO go into the last one owned, and the transmitter goes off unless DXSUFLO. A byte
count of zero is an empty buffer.

FCS: APAD_XMT pads to 60 bytes and always appends one; otherwise ADD_FCS (style 1: NO_FCS) and DXMTFCS
decide. A frame that came with its own loses those four bytes here, for frames on the wire are without; if
they are wrong, no receiver would take the frame and it is dropped and counted.

Loopback: internal (INTL, or BCR2.TMAULOOP) goes to the receiver alone, external to the wire as well.

With the card's ``tx_delay`` a frame is on the wire for its time before it leaves and its status is written; SPND waits for
that, STOP ends it and the frame is gone.

Limits: ``JABBER_BYTES`` of one chain (20 ms of the wire: the transmitter is cut off, JAB), ``MAX_WIRE`` of
one frame.

Ref: Am79C970A data sheet (19436E), "Transmit Descriptor Table Entry", "Transmit Operation", "Loopback
     Operation", TMD0-3.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING
from zlib import crc32

from ..parts.padding import pad, wire_ns
from . import registers as r
from .descriptors import NONE, Bus, Descriptor, Step

if TYPE_CHECKING:
    from .chip import Pcnet

JABBER_BYTES = 25_000
SPEED = 10  # Mbit/s
MAX_WIRE = 4096
MIN_TX = 14
MAX_SIZE = 1518  # with FCS; more is BABL
_U32 = Struct("<I")
_CLEARED = 0xFFFF & ~(r.D_OWN | r.D_ERR | r.T_MORE | r.T_ONE | r.T_DEF | r.T_BPE)


class Transmitter:
    """Position in the ring, and the frame on its way."""

    def __init__(self, chip: Pcnet, bus: Bus) -> None:
        self.chip = chip
        self.bus = bus
        self.reset()

    def reset(self) -> None:
        """As after power-on."""
        self.index = 0
        self.last: Descriptor = NONE  # read last, for CSR20, 42, 43
        self.previous: tuple[int, int, int] = (0, 0, 0)  # address, BCNT, status: CSR60-63
        self.halt()

    def halt(self) -> None:
        """STOP: the frame on its way is gone, the position stays."""
        self.poll = False  # look at the ring
        self.chain: bytes | None = None  # data of descriptors that were given back
        self.chain_status = 0  # status of the first of them
        self.chain_length = 0
        self.wire: bytes | None = None  # sent, but the wire did not take it; empty: nothing leaves
        self.until: int | None = None  # when ``wire`` has been on the wire for its time
        self.due = False  # that time is over, and the engine has not seen it yet
        # its descriptor, status, TMD2 flags, BCNT half
        self.result: tuple[int, int, int, int] = (0, 0, 0, 0)

    def length(self) -> int:
        """Descriptors of the ring, 1..65536 (CSR78 is two's complement)."""
        return -self.chip.csr[r.XMTRL] & 0xFFFF or 0x10000

    def address(self, ahead: int = 0) -> int:
        """Address of the current descriptor, or of one ``ahead`` of it."""
        return self.bus.address(r.BADX, (self.index + ahead) % self.length())

    def step(self) -> Step:
        """One descriptor. False: nothing more to do now."""
        chip, bus = self.chip, self.bus
        if self.wire is not None:
            self.due = False
            if chip.blocked or self.until is not None or (self.wire and not self._send(self.wire)):
                return False
            self._complete()
            return True
        length = self.length()
        address = bus.address(r.BADX, self.index % length)
        size = bus.size()
        descriptor = bus.decode((yield ("read", address, size)))
        chip.csr[0] &= ~r.TDMD
        self.last = descriptor
        where, status, count, _ = descriptor
        if not status & r.D_OWN:
            self.chain = None
            return False
        first = self.chain is None
        if first and not status & r.D_STP:
            self._advance(address, descriptor)
            bus.give_back(address, status & ~r.D_OWN)
            return True
        data = b""
        if count & 0xFFF:
            if chip.csr[3] & r.BSWP:
                data = yield from bus.read_swapped(where, 4096 - (count & 0xFFF))
            else:
                data = yield ("read", where, 4096 - (count & 0xFFF))
        if first:
            self.chain_status = status
            self.chain_length = 1
        else:
            data = ((self.chain or b"") + data)[: JABBER_BYTES + 1]
            self.chain_length += 1
        if not status & r.D_ENP:
            owned = False
            if self.chain_length < length:
                after = bus.decode((yield ("read", self.address(1), size)))
                owned = bool(after[1] & r.D_OWN)
            if owned:
                self.chain = data
                self._advance(address, descriptor)
                bus.give_back(address, status & ~r.D_OWN)
                return True
            chip.underflow()
            flags, frame = r.T_BUFF | r.T_UFLO, None
        else:
            flags, frame = self._finish(data, status)
        self.chain = None
        self.result = (address, status, flags, count)
        if chip.tx_delay and status & r.D_ENP:
            self.wire = frame or b""
            self.until = chip.now() + wire_ns(len(data), SPEED)
            return False
        if frame is not None and not self._send(frame):
            return False
        self._complete()
        return True

    def run(self, now: int) -> None:
        """A frame's time on the wire may be over."""
        if self.until is not None and now >= self.until:
            self.until = None
            self.due = self.poll = True
            self.chip.kick()

    def _finish(self, data: bytes, status: int) -> tuple[int, bytes | None]:
        """Pad, FCS, loopback, state of the wire: TMD2 flags, and the frame for the wire if there is one."""
        chip = self.chip
        mode = chip.csr[15]
        internal = bool(mode & r.LOOP) and chip.loops_inside()
        chip.csr[4] |= r.TXSTRT
        if not internal and not chip.link_pass():
            chip.csr[0] |= r.CERR
            chip.count("tx_no_carrier")
            return r.T_LCAR, None
        if internal and mode & r.FCOLL:
            return r.T_RTRY, None
        if len(data) > JABBER_BYTES:
            chip.csr[4] |= r.JAB
            chip.csr[0] |= r.BABL
            chip.count("tx_jabber")
            return 0, None
        if chip.csr[4] & r.APAD_XMT:
            fcs = True
            data = pad(data)
        elif self.bus.style() == 1:
            fcs = not status & r.T_ADD_FCS and not mode & r.DXMTFCS  # the bit is NO_FCS here
        else:
            fcs = bool(self.chain_status & r.T_ADD_FCS) or not mode & r.DXMTFCS
        if len(data) + (4 if fcs else 0) > MAX_SIZE:
            chip.csr[0] |= r.BABL
        image = data + _U32.pack(crc32(data)) if fcs and mode & r.LOOP else data
        good = fcs or (len(data) > 4 and _U32.pack(crc32(data[:-4])) == data[-4:])
        if mode & r.LOOP:
            chip.looped(image, good)
            if internal:
                return 0, None
        frame = data if fcs else data[:-4]
        if not good:
            chip.count("tx_bad_fcs")
        elif len(frame) < MIN_TX:
            chip.count("tx_short")
        elif len(frame) > MAX_WIRE:
            chip.count("tx_long")
        else:
            return 0, frame
        return 0, None

    def _send(self, frame: bytes) -> bool:
        if self.chip.tx(frame):
            return True
        self.wire = frame
        self.chip.blocked = True
        return False

    def _complete(self) -> None:
        """Post the status of a frame for its last descriptor, and the interrupt."""
        address, status, flags, count = self.result
        self.wire = None
        done = status & _CLEARED
        if flags:
            done |= r.D_ERR
        csr5 = self.chip.csr[5]
        if flags or (status & r.T_LTINT if csr5 & r.LTINTEN else not csr5 & r.TOKINTD):
            self.bus.event = r.TINT
        else:
            self.chip.update_irq()  # for TXSTRT
        self._advance(address, (0, done, count, 0))
        self.bus.finish(address, done, count, flags << 16, flags)

    def _advance(self, address: int, descriptor: Descriptor) -> None:
        self.previous = (address, descriptor[2] & 0xFFF, descriptor[1])
        self.index = (self.index + 1) % self.length()


NUMBERS = {"index": 0xFFFF, "chain_status": 0xFFFF, "chain_length": 0x10000}
FLAGS = ("poll", "due")
FRAMES = ("chain", "wire")
TUPLES = {"last": 4, "previous": 3, "result": 4}
