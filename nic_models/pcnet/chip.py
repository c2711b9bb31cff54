"""Am79C970A (PCnet-PCI II): control, status and bus configuration registers, filter, interrupts, timers.

Data flow. The driver writes the address of an initialization block into CSR1 and CSR2 (or the registers
CSR8-15, 24, 30, 76, 78 themselves), then INIT and STRT. From there both ways go through descriptor rings in
guest memory, worked off by the engine of ``rings``, which the owner drives after every call
(``dma_pending``, ``dma``). A register access changes registers and leaves requests, nothing else.

Receive. ``receive`` filters (PADR, LADRF, broadcast, PROM) and puts the frame into a FIFO of one frame,
with its FCS. It answers False while that is occupied or the chip is suspended; ``rx_ready()`` follows.
While the receiver is off, frames are gone, as on a real wire. What happens without a receive descriptor is
told in ``rings``.

Resets. H_RESET (``reset``): everything. S_RESET (the driver reads RESET): CSRs; BCRs stay, the I/O mode
too. STOP: ends all activity, CSR0 reads 0004, ring positions stay until STRT: without INIT it loads both with their
bases ("Re-Initialization"; 9front starts so). SPND keeps them. CSR8-15 are also open between INIT and STRT, where
MINIX sets its filter. Undefined after power-on is 0 here.

Interrupts. INTR is the or of the sources that CSR3, CSR4 and CSR5 let through; the pin follows INTR and
IENA, SINT and SLPINT whatever IENA says.

Timers (machine's clock). The poll timer, 65536 - CSR47 clocks at 33 MHz: the transmit ring unless DPOLL,
and the receive ring while a frame waits. Not shorter than ``POLL_MIN_NS``, not longer than ``POLL_HELD_NS``
while a frame waits, ``POLL_STRETCH`` times longer for a driver that has used TDMD since STRT and so does
not depend on it. The wait of a held frame. A negotiation of the PHY. With ``tx_delay``, a frame's time at 10 Mbit/s.

Link. BCR4's LEDOUT shows link pass, the PHY at address 1 behind BCR33 and BCR34 as well (the Am79C971's
registers; an Am79C970A has none, and its drivers do not look). Without link a frame ends in LCAR and CERR.

Bus errors. MERR: the function may not be bus master; work waits for the next request or poll. SINT: nobody
answered; the registers are as after STOP.

Not done: 100 Mbit/s, collisions (CSR114 counts none), sleep, the serial EEPROM (BCR19 says there is none).
Magic packets are recognised while MPMODE and MPEN are set.

Ref: AMD Am79C970A data sheet, publication 19436 rev. E, June 2000; IEEE 802.3 clause 22 for the PHY.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

from ..bus.dma import Engine
from ..parts.mii import AN_10, AN_10FULL, AN_SELECTOR, Phy
from ..parts.padding import pad
from ..rxfilter import RxFilter
from ..virtio import complete
from . import registers as r
from .filter import REJECTED, Filter
from .receiver import MAX_IMAGE
from .rings import Rings
from .state import load, save

MIN_FRAME = 14
FCS = 4
POLL_MIN_NS = 100_000
POLL_STRETCH = 8
POLL_HELD_NS = 250_000  # until RINT is set again
CLOCK_HZ = 33_000_000
PHY_IDENT = (0x0022, 0x561B)  # Am79C874


def address_prom(mac: bytes) -> bytearray:
    """The 16 bytes of the address PROM: MAC, hardware id 0x11, checksum in bytes 12 and 13, "WW"."""
    prom = bytearray(mac + bytes((0, 0, 0, 0x11, 0, 0, 0, 0)) + b"WW")
    prom[12:14] = (sum(prom) & 0xFFFF).to_bytes(2, "little")
    return prom


class Pcnet:
    """The chip. ``rap``, ``csr`` and ``bcr`` are its address port and register files.

    mac: six bytes. tx, rx_ready, set_irq, now: see ``card``.
    """

    model = "pcnet"

    def __init__(
        self,
        mac: bytes,
        tx: Callable[..., bool],
        rx_ready: Callable[[], None],
        set_irq: Callable[[bool], None],
        now: Callable[[], int],
    ) -> None:
        if len(mac) != 6 or mac[0] & 1:
            raise ValueError(f"not a station address: {mac.hex(':')}")
        self.mac = mac
        self.tx_delay = False  # see ``card``
        self.tx = tx
        self.rx_ready = rx_ready
        self.set_irq = set_irq
        self.now = now
        self.counters: dict[str, int] = {}
        self.aprom = address_prom(mac)
        self.phy = Phy(now, ident=PHY_IDENT, partner=AN_10 | AN_10FULL | AN_SELECTOR)
        self.csr = [0] * 256
        self.bcr = [0] * 64
        self.rap = 0
        self.irq = False
        self.dma_pending = False
        self.refused = False  # receive answered False: rx_ready is owed
        self.blocked = False  # tx answered False: tx_ready will come
        self.demanded = False  # TDMD was used since STRT
        self.poll_at = 0
        self.rings = Rings(self)
        self.filter = Filter()
        self.reset()

    # -- resets ----------------------------------------------------------------------------------------

    def reset(self) -> None:
        """H_RESET."""
        self._halt()
        self.csr[:] = [0] * len(self.csr)
        self.bcr[:] = [0] * len(self.bcr)
        for index, value in r.BCR_RESET.items():
            self.bcr[index] = value
        for index in range(3):
            self.csr[12 + index] = self.aprom[2 * index] | self.aprom[2 * index + 1] << 8
        self.csr[r.RCVRL] = self.csr[r.XMTRL] = 0xFFFF
        self.phy.reset()
        self.rings.reset()
        self.soft_reset()

    def soft_reset(self) -> None:
        """S_RESET: the driver read the RESET register."""
        csr = self.csr
        self.rap = 0
        self._halt()
        csr[0] = r.STOP
        csr[3] = csr[5] = 0
        csr[4] = r.CSR4_MASKS
        csr[15] &= r.MODE_KEPT
        csr[r.POLLINT] = 0
        csr[80], csr[88], csr[89] = r.CSR80_RESET, r.CSR88_CHIP_ID, r.CSR89_CHIP_ID
        csr[100], csr[103] = r.CSR100_RESET, r.CSR103_RESET
        csr[94] = csr[122] = csr[124] = csr[r.MFC] = csr[r.RCC] = 0
        self.filter.load(self.csr)
        self.update_irq()
        self.wake()

    def stop(self) -> None:
        """STOP: all activity ends, abruptly."""
        csr = self.csr
        self._halt()
        csr[0] = r.STOP
        csr[4] &= ~r.CSR4_STOP_CLEARS
        csr[5] &= ~r.CSR5_STOP_CLEARS
        csr[r.MFC] = csr[r.RCC] = 0
        self.update_irq()
        self.wake()

    def _halt(self) -> None:
        rings = self.rings
        if rings.rx.fifo is not None:
            self.count("rx_missed")
        if rings.tx.wire is not None:
            self.count("tx_stopped")
        self.csr[0] &= ~(r.RXON | r.TXON)
        rings.halt()
        self.dma_pending = self.demanded = False

    def bus_fault(self) -> None:
        """Nobody answered the bus master: SINT, and the rest as after STOP."""
        self.count("bus_fault")
        self.stop()
        self.csr[5] |= r.SINT
        self.update_irq()

    def not_granted(self) -> None:
        """The chip wanted the bus and did not get it."""
        self.count("bus_not_granted")
        self.csr[0] |= r.MERR
        self.update_irq()

    def granted(self) -> bool:
        """Whether the chip can be bus master."""
        return True

    # -- registers -------------------------------------------------------------------------------------

    def open_(self) -> bool:
        """Whether the registers are accessible that only a stopped or suspended chip lets be written."""
        return bool(self.csr[0] & r.STOP or self.csr[5] & r.SPND)

    def csr_read(self, index: int) -> int:
        """The CSR that RAP chooses."""
        csr = self.csr
        if index == 0:
            value = csr[0]
            return value | r.ERR if value & r.CSR0_ERRORS else value
        if 18 <= index <= 74:
            if index == r.SWS_MIRROR:
                return self.bcr[r.SWS]
            if index == r.POLL:
                elapsed = max(0, self._poll_ns() - (self.poll_at - self.now()))
                return csr[r.POLLINT] + elapsed * 33 // 1000 & 0xFFFF if self._polling() else csr[r.POLL]
            self.rings.publish()
        elif index == 16 or index == 17:
            return csr[index - 15]
        return csr[index]

    def csr_write(self, index: int, value: int) -> None:
        """Write the CSR that RAP chooses, by the rules of that register."""
        csr = self.csr
        if index == 0:
            self._write_csr0(value)
        elif index == 4:
            self._write_csr4(value)
        elif index == 5:
            self._write_csr5(value)
        elif index in r.CSR_ALWAYS:
            csr[index] = value & r.CSR_ALWAYS[index]
            if index == 3:
                self.update_irq()
        elif index == r.MFC or index == r.RCC:
            if csr[4] & r.ENTST:
                self._increment(index)
                self.update_irq()
        elif self.open_() or (8 <= index <= 15 and not csr[0] & r.STRT):
            if index in r.CSR_STOPPED:
                csr[index] = value & r.CSR_STOPPED[index]
                if 8 <= index <= 15:
                    self.filter.load(self.csr)
            elif index == 16 or index == 17:
                csr[index - 15] = value
            elif index == r.SWS_MIRROR:
                self.bcr_write(r.SWS, value)
            elif index == r.RCVRC or index == r.XMTRC:
                self.rings.set_counter(index, value)

    def _write_csr0(self, value: int) -> None:
        csr = self.csr
        csr[0] = csr[0] & ~(value & r.CSR0_CLEARABLE) & ~r.IENA | value & r.IENA
        if value & r.STOP:
            self.stop()
            return
        if value & r.INIT and not csr[0] & r.INIT:
            csr[0] = csr[0] & ~r.STOP | r.INIT
            self.rings.init = self.dma_pending = True
        if value & r.STRT and not csr[0] & r.STRT:
            if csr[0] & r.STOP:
                self.rings.rewind()
            csr[0] = csr[0] & ~r.STOP | r.STRT
            if not self.rings.init:
                self._start()
        if value & r.TDMD and csr[0] & r.TXON:
            csr[0] |= r.TDMD
            self.rings.tx.poll = self.demanded = True
        self.update_irq()
        self._kick()

    def _write_csr4(self, value: int) -> None:
        kept = self.csr[4] & r.CSR4_CLEARABLE & ~value
        if value & r.UINTCMD:
            kept |= r.UINT
        self.csr[4] = kept | value & ~(r.CSR4_CLEARABLE | r.UINTCMD)
        self.update_irq()

    def _write_csr5(self, value: int) -> None:
        csr = self.csr
        old = csr[5]
        csr[5] = old & (r.CSR5_CLEARABLE & ~value | r.SPND) | value & r.CSR5_WRITABLE
        if not value & r.SPND:
            csr[5] &= ~r.SPND
            if old & r.SPND or self.rings.suspend:
                self.rings.suspend = False
                self.arm()
                self._kick()
                self.wake()
        elif csr[0] & r.STOP:
            csr[5] |= r.SPND
        elif not old & r.SPND:
            self.rings.suspend = self.dma_pending = True
        self.update_irq()

    def bcr_read(self, index: int) -> int:
        """The BCR that RAP chooses."""
        bcr = self.bcr
        if r.LNKST <= index <= r.LED3:
            value = bcr[index]
            shown = r.LED_LNKS | (r.LED_FDLS if bcr[r.FDC] & r.FDEN else 0)
            return value | r.LEDOUT if value & shown and self.link_pass() else value
        if index == r.MIIMDR:
            address = bcr[r.MIIADDR]
            return self.phy.read(address & 31) if address >> 5 == r.PHY_ADDRESS else 0xFFFF
        return bcr[index] if index < len(bcr) else 0

    def bcr_write(self, index: int, value: int) -> None:
        """Write the BCR that RAP chooses."""
        bcr = self.bcr
        if index in r.BCR_ALWAYS:
            mask = r.BCR_ALWAYS[index]
            bcr[index] = bcr[index] & ~mask | value & mask
        elif index == r.MIIMDR:
            address = bcr[r.MIIADDR]
            if address >> 5 == r.PHY_ADDRESS:
                self.phy.write(address & 31, value)
        elif self.open_():
            if index == r.SWS:
                bcr[index] = r.SWSTYLES.get(value & 0xFF, r.CSRPCNET) | value & r.APERREN
            elif index == r.PCILAT:
                self.set_latency(value)

    def set_latency(self, value: int) -> None:
        """BCR22: MAX_LAT and MIN_GNT."""
        self.bcr[r.PCILAT] = value

    # -- start, interrupts -----------------------------------------------------------------------------

    def initialized(self, mode: int) -> None:
        """The initialization block has been read: its MODE; the other fields are in their CSRs."""
        self.csr[15] = mode
        self.filter.load(self.csr)
        self.csr[0] |= r.IDON
        if self.csr[0] & r.STRT:
            self._start()
        self.update_irq()

    def _start(self) -> None:
        csr = self.csr
        if not csr[15] & r.DTX:
            csr[0] |= r.TXON
            self.rings.tx.poll = not csr[4] & r.DPOLL
        if not csr[15] & r.DRX:
            csr[0] |= r.RXON
        self.arm()

    def underflow(self) -> None:
        """A transmit chain had no end: the transmitter goes off unless DXSUFLO."""
        self.count("tx_no_next_buffer")
        if not self.csr[3] & r.DXSUFLO:
            self.csr[0] &= ~r.TXON

    def _increment(self, index: int) -> None:
        self.csr[index] = self.csr[index] + 1 & 0xFFFF
        if not self.csr[index]:
            self.csr[4] |= r.MFCO if index == r.MFC else r.RCVCCO

    def missed(self) -> None:
        """A frame was lost for want of a receive descriptor."""
        self.count("rx_missed")
        self._increment(r.MFC)
        self.csr[0] |= r.MISS
        self.update_irq()

    def update_irq(self) -> None:
        """INTR and the interrupt pin from status, masks and enables."""
        csr = self.csr
        csr0, csr4, csr5 = csr[0], csr[4], csr[5]
        forced = csr5 >> 1 & csr5 & r.CSR5_ENABLES_ALWAYS
        if (
            csr0 & ~csr[3] & r.CSR0_INTERRUPTS
            or csr4 >> 1 & ~csr4 & r.CSR4_MASKS
            or csr4 & r.UINT
            or csr5 >> 1 & csr5 & r.CSR5_ENABLES
            or forced
        ):
            csr[0] = csr0 | r.INTR
            level = bool(csr0 & r.IENA or forced)
        else:
            csr[0] = csr0 & ~r.INTR
            level = False
        if level != self.irq:
            self.irq = level
            self.set_irq(level)

    def count(self, reason: str) -> None:
        """Count a frame that was lost, or an event, by class."""
        self.counters[reason] = self.counters.get(reason, 0) + 1

    # -- wire ------------------------------------------------------------------------------------------

    def link_pass(self) -> bool:
        """What the transceiver says of the link; DLNKTST makes it say yes."""
        return self.phy.cable or bool(self.csr[15] & r.DLNKTST)

    def loops_inside(self) -> bool:
        """Loopback that does not reach the wire."""
        mode = self.csr[15]
        return bool(mode & r.LOOP) and bool(mode & r.INTL or self.bcr[r.MC] & r.TMAULOOP)

    def rx_filter(self) -> RxFilter:
        """What the receiver lets pass."""
        return self.filter.rx_filter(bool(self.csr[0] & r.RXON))

    def set_link(self, up: bool) -> None:
        """The cable was plugged or pulled."""
        self.phy.set_cable(up)

    def receive(self, frame: bytes, vnet: bytes = b"") -> bool:
        """A frame from the wire, without FCS. False: not now; ``rx_ready`` follows."""
        csr = self.csr
        if not csr[0] & r.RXON:
            self.count("rx_off")
            return True
        if self.rings.rx.fifo is not None or csr[5] & r.SPND or self.rings.suspend:
            if csr[5] & (r.MPMODE | r.MPEN) == r.MPMODE | r.MPEN:
                if self.filter.magic(frame, bool(csr[5] & r.MPPLBA)):
                    csr[5] |= r.MPINT
                    self.update_irq()
                return True
            self.refused = True
            return False
        if csr[15] & r.LOOP and self.loops_inside():
            self.count("rx_off")
            return True
        if vnet:
            whole = complete(frame, vnet)
            if whole is None:
                self.count("rx_bad")
                return True
            frame = whole
        size = len(frame)
        if not MIN_FRAME <= size <= MAX_IMAGE - FCS:
            self.count("rx_short" if size < MIN_FRAME else "rx_long")
            return True
        frame = pad(frame)
        self.accept(frame + crc32(frame).to_bytes(FCS, "little"), 0, looped=False)
        return True

    def looped(self, image: bytes, good: bool) -> None:
        """A frame from our own transmitter; ``good``: its FCS, in its last four bytes, is right."""
        if not self.csr[0] & r.RXON:
            self.count("rx_off")
        elif self.rings.rx.fifo is not None:
            self.missed()
        elif MIN_FRAME <= len(image) <= MAX_IMAGE:
            self.accept(image, 0 if good else r.R_CRC | r.D_ERR, looped=True)
        else:
            self.count("rx_bad")

    def accept(self, image: bytes, status: int, looped: bool) -> None:
        """Filter a frame that came with its FCS, and put it into the FIFO. ``status``: RMD1 bits."""
        bits = self.filter.match(image[:6])
        if bits == REJECTED:
            return
        self.rings.rx.store(image, status | bits, looped)
        self.dma_pending = True

    def tx_ready(self) -> None:
        """The wire takes frames again."""
        self.blocked = False
        if self.rings.tx.wire is not None:
            self.rings.tx.poll = True
        self._kick()

    def wake(self) -> None:
        """Tell the wire that a frame can come, if it was refused one and it can."""
        if (
            self.refused
            and self.rings.rx.fifo is None
            and not self.csr[5] & r.SPND
            and not self.rings.suspend
        ):
            self.refused = False
            self.rx_ready()

    # -- engine and timers -----------------------------------------------------------------------------

    def dma(self) -> Engine:
        """The engine for what is pending now."""
        return self.rings.engine()

    def postpone(self) -> None:
        """The engine stopped at its limit: go on soon."""
        self.poll_at = min(self.poll_at, self.now() + POLL_MIN_NS)

    def kick(self) -> None:
        """There may be work for the engine."""
        self._kick()

    def _kick(self) -> None:
        if self.rings.wanted():
            self.dma_pending = True

    def _poll_ns(self) -> int:
        interval = max((0x10000 - self.csr[r.POLLINT]) * 1000 // 33, POLL_MIN_NS)
        if self.rings.rx.fifo is not None:
            return interval if self.rings.rx.warned else min(interval, POLL_HELD_NS)
        return interval * POLL_STRETCH if self.demanded else interval

    def _polling(self) -> bool:
        csr0, csr4 = self.csr[0], self.csr[4]
        if self.csr[5] & r.SPND or csr0 & r.STOP:
            return False
        if self.rings.rx.fifo is not None and csr0 & r.RXON:
            return True
        return bool(csr0 & r.TXON and (self.rings.tx.poll or not csr4 & r.DPOLL)) and not self.blocked

    def arm(self) -> None:
        """Start a poll interval."""
        self.poll_at = self.now() + self._poll_ns()

    def next_deadline(self) -> int | None:
        """When ``run`` is due: the poll, the end of a wait for a descriptor, a negotiation."""
        soonest = self.poll_at if self._polling() else None
        for due in (self.rings.rx.hold_until, self.phy.deadline, self.rings.tx.until):
            if due is not None and (soonest is None or due < soonest):
                soonest = due
        return soonest

    def run(self, now: int) -> None:
        """Let the timers expire."""
        self.phy.run(now)
        self.rings.rx.expire(now)
        self.rings.tx.run(now)
        if now >= self.poll_at and self._polling():
            self.arm()
            if self.csr[0] & r.TXON and not self.csr[4] & r.DPOLL:
                self.rings.tx.poll = True
            self._kick()

    # -- state -------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """State as JSON-able data."""
        return save(self)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data. Raises ValueError if it is not such data."""
        load(self, state)
        self.filter.load(self.csr)
        self.irq = False
        self.update_irq()
        if not self.irq:
            self.set_irq(False)
        self._kick()
