"""Driver for NE2000 boards, ISA and PCI (RTL8029), by registers only.

Layout of the 16 KiB of packet RAM: two transmit buffers of six pages (0x40, 0x46), the receive ring
0x4c..0x7f. BNRY is kept one page behind the next packet.

Receive: all that lies between the next packet and CURR comes over in one remote read (the chip wraps at PSTOP
by itself) and is then cut into packets. A header that cannot be true (status, length or next page) throws
away the ring's content up to CURR. A frame that ``deliver`` refuses stays in the ring, receive interrupts
masked, until ``resume()``.

Transmit: one buffer is on the wire while the other is filled. The chip finishes by interrupt. A transmit that
takes longer than ``TX_TIMEOUT`` resets the card.

Overflow: the data sheet's recovery: stop, wait 1.6 ms (a deadline, interrupts masked), loopback, start,
drain, normal, and the transmit again that the stop cut off.

Ref: DP8390D/NS32490D data sheet, sections 7, 9, 11; National Semiconductor AN-874 (writing drivers for the
DP8390); RTL8029AS specification LS009.0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nic_models.bus.machine import IsaLocation, Location, Machine, PciLocation
from nic_models.ne2000 import registers as r
from nic_models.parts.multicast import filter_with
from nic_models.parts.padding import pad

from .base import CardDriver
from .driver import Deliver, DriverError
from .pciscan import find

PCI_IDS = ((0x10EC, 0x8029),)
ISA_BASES = (0x300, 0x280, 0x320, 0x340, 0x360, 0x380)  # probed in this order when no place is given
TX_PAGES = (0x40, 0x46)
RING_START, RING_STOP = 0x4C, 0x80
RING_PAGES = RING_STOP - RING_START
MIN_COUNT, MAX_COUNT = 60 + 4, 1518 + 4  # what a header's byte count may be, FCS included
MAX_SERVICE = 20  # rounds of one interrupt() call
RESET_POLLS = 100
OVERFLOW_WAIT = 1_600_000  # ns: a packet that is on the wire has ended by then
TX_TIMEOUT = 5_000_000_000  # ns
DCR_INIT = 0x40 | r.DCR_LS | r.DCR_WTS  # FIFO threshold 8 bytes, normal operation, words
INTERRUPTS = r.ISR_PRX | r.ISR_PTX | r.ISR_RXE | r.ISR_TXE | r.ISR_OVW | r.ISR_CNT
RX_INTERRUPTS = r.ISR_PRX | r.ISR_RXE | r.ISR_OVW
_STOP = r.PAGE0 | r.RD_ABORT | r.STP
_START = r.PAGE0 | r.RD_ABORT | r.STA
_PAGE1 = r.PAGE1 | r.RD_ABORT | r.STA
_READ = r.PAGE0 | r.RD_READ | r.STA
_WRITE = r.PAGE0 | r.RD_WRITE | r.STA
_SEND = _START | r.TXP
_ALL_GROUPS = b"\xff" * 8


class Ne2000Driver(CardDriver):
    """See ``drivers.Driver``."""

    def __init__(
        self,
        machine: Machine,
        location: Location | None,
        *,
        deliver: Deliver,
        writable: Callable[[], None],
        now: Callable[[], int],
    ) -> None:
        super().__init__(machine, deliver, writable, now)
        self._carrier = True
        self._rcr = r.RCR_AB
        self._mar = bytes(8)
        self._reset_state()
        if isinstance(location, IsaLocation):
            self.base, self.irq = self._probe_isa((location.iobase,)), location.irq
            self._width = 2
        elif location is None and machine.kind == "isapc":
            self.base = self._probe_isa(ISA_BASES)
            self.irq = dict(_ISA_IRQS).get(self.base, 9)
            self._width = 2
        else:
            self.base, self.irq = self._probe_pci(location)
            self._width = 4
        self.mac = self._read_prom()

    def _reset_state(self) -> None:
        self._next = RING_START  # page of the next packet
        self._lengths = [0, 0]  # of the frames in the two transmit buffers; 0: free
        self._active: int | None = None  # the buffer on the wire
        self._sent_at = 0
        self._blocked = False  # transmit() answered False
        self._paused = False  # deliver() answered False
        self._recover_at: int | None = None  # second half of the overflow recovery is due
        self._recover_txp = False

    # -- registers -------------------------------------------------------------------------------------------

    def _in(self, offset: int) -> int:
        return self.machine.io_read(self.base + offset, 1)

    def _out(self, offset: int, value: int) -> None:
        self.machine.io_write(self.base + offset, 1, value)

    # -- probe -----------------------------------------------------------------------------------------------

    def _probe_pci(self, location: PciLocation | None) -> tuple[int, int]:
        device = find(self.machine, PCI_IDS, None if location is None else location.slot)
        device.enable(0x01)
        base = device.bar(0)
        if not base:
            raise DriverError(f"RTL8029 in slot {device.slot:#x} has no I/O address")
        self.base = base
        if not self._is_8390():
            raise DriverError(f"no DP8390 at {base:#x}")
        return base, device.irq

    def _probe_isa(self, bases: Sequence[int]) -> int:
        for base in bases:
            self.base = base
            if self._is_8390():
                return base
        raise DriverError(f"no NE2000 at {', '.join(map(hex, bases))}")

    def _is_8390(self) -> bool:
        """A floating bus reads ones; a DP8390's counter 0 is cleared by reading, plain memory is not."""
        command = self._in(r.CR)
        if command == 0xFF:
            return False
        self._out(r.CR, r.PAGE1 | r.RD_ABORT | r.STP)
        kept = self._in(r.CNTR0)
        self._out(r.CNTR0, 0xFF)
        self._out(r.CR, r.PAGE0 | r.RD_ABORT)
        self._in(r.CNTR0)
        if self._in(r.CNTR0) != 0:
            self._out(r.CR, command)
            self._out(r.CNTR0, kept)
            return False
        return True

    def _reset_card(self) -> None:
        self._out(0x1F, self._in(0x1F))
        for _ in range(RESET_POLLS):
            if self._in(r.ISR) & r.ISR_RST:
                self._out(r.ISR, 0xFF)
                return
        raise DriverError(f"NE2000 at {self.base:#x} does not reset")

    def _read_prom(self) -> bytes:
        """The station address; byte-wide, so that a 16-bit board shows each byte twice."""
        self._reset_card()
        for offset, value in (
            (r.CR, _STOP),
            (r.DCR, DCR_INIT & ~r.DCR_WTS),
            (r.RBCR0, 0),
            (r.RBCR1, 0),
            (r.IMR, 0),
            (r.ISR, 0xFF),
            (r.RCR, r.RCR_MON),
            (r.TCR, r.TCR_LB0),
            (r.RBCR0, 32),
            (r.RBCR1, 0),
            (r.RSAR0, 0),
            (r.RSAR1, 0),
            (r.CR, _READ),
        ):
            self._out(offset, value)
        data = self.machine.io_read_block(self.base + r.DATA_PORT, 1, 32)
        self._out(r.CR, _STOP)
        self._out(r.ISR, 0xFF)
        if data[::2] != data[1::2] or data[28:] != b"\x57" * 4:
            raise DriverError(f"no 16-bit NE2000 station PROM at {self.base:#x}")
        return data[:12:2]

    # -- start and stop --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the card."""
        if self._open:
            return
        self._reset_state()
        self._reset_card()
        self._start_card()
        self._open = True

    def _start_card(self) -> None:
        """The data sheet's initialisation procedure."""
        out = self._out
        for offset, value in (
            (r.CR, _STOP),
            (r.DCR, DCR_INIT),
            (r.RBCR0, 0),
            (r.RBCR1, 0),
            (r.RCR, r.RCR_MON),
            (r.TCR, r.TCR_LB0),
            (r.TPSR, TX_PAGES[0]),
            (r.PSTART, RING_START),
            (r.PSTOP, RING_STOP),
            (r.BNRY, RING_STOP - 1),
            (r.ISR, 0xFF),
            (r.IMR, INTERRUPTS),
            (r.CR, r.PAGE1 | r.RD_ABORT | r.STP),
        ):
            out(offset, value)
        for index in range(6):
            out(r.PAR0 + index, self.mac[index])
        for index in range(8):
            out(r.MAR0 + index, self._mar[index])
        out(r.CURR, RING_START)
        self._next = RING_START
        out(r.CR, _START)
        out(r.TCR, 0)
        out(r.RCR, self._rcr)

    def close(self) -> None:
        """Stop the card."""
        if not self._open:
            return
        self._open = False
        self._out(r.CR, _STOP)
        self._out(r.IMR, 0)
        self._out(r.ISR, 0xFF)
        self._reset_card()  # lets go of what the wire may hold for us
        dropped = sum(1 for length in self._lengths if length)
        if dropped:
            self._count("tx_dropped", dropped)
        self._reset_state()

    def set_filter(self, promiscuous: bool, multicast: Sequence[bytes] | None) -> None:
        """Promiscuous mode, and the groups to receive (None: all)."""
        self._rcr = r.RCR_AB | r.RCR_AM
        self._mar = _ALL_GROUPS if promiscuous or multicast is None else filter_with(list(multicast))
        if promiscuous:
            self._rcr |= r.RCR_PRO
        if not self._open:
            return
        state = r.STP if self._recover_at is not None else r.STA
        self._out(r.CR, r.PAGE1 | r.RD_ABORT | state)
        for index in range(8):
            self._out(r.MAR0 + index, self._mar[index])
        self._out(r.CR, r.PAGE0 | r.RD_ABORT | state)
        self._out(r.RCR, self._rcr)

    def set_address(self, mac: bytes) -> None:
        """Another station address."""
        self.mac = mac
        if not self._open:
            return
        state = r.STP if self._recover_at is not None else r.STA
        self._out(r.CR, r.PAGE1 | r.RD_ABORT | state)
        for index in range(6):
            self._out(r.PAR0 + index, mac[index])
        self._out(r.CR, r.PAGE0 | r.RD_ABORT | state)

    @property
    def link(self) -> bool:
        """False after a transmit that lost the carrier, until one succeeds or a frame comes in."""
        return self._carrier

    # -- transmit --------------------------------------------------------------------------------------------

    def transmit(self, frame: bytes) -> bool:
        """Copy the frame into a free buffer and start it if the wire is free."""
        size = len(frame)
        if not self._takes(size):
            return True
        lengths = self._lengths
        buffer = 1 if lengths[0] else 0
        if lengths[buffer] or self._recover_at is not None:
            self._blocked = True
            return False
        if size < 60:
            frame = pad(frame)
            size = 60
        write = self.machine.io_write
        base = self.base
        tail = -size % self._width
        write(base + r.RSAR0, 1, 0)
        write(base + r.RSAR1, 1, TX_PAGES[buffer])
        write(base + r.RBCR0, 1, size + tail & 0xFF)
        write(base + r.RBCR1, 1, size + tail >> 8)
        write(base, 1, _WRITE)
        self.machine.io_write_block(base + r.DATA_PORT, self._width, frame + bytes(tail) if tail else frame)
        if not self.machine.io_read(base + r.ISR, 1) & r.ISR_RDC:
            self._count("dma_timeout")
            self._restart()
            return True
        write(base + r.ISR, 1, r.ISR_RDC)
        lengths[buffer] = size
        if self._active is None:
            self._send(buffer)
        return True

    def _send(self, buffer: int) -> None:
        size = self._lengths[buffer]
        write = self.machine.io_write
        base = self.base
        self._active = buffer
        self._sent_at = self.now()
        write(base + r.TPSR, 1, TX_PAGES[buffer])
        write(base + r.TBCR0, 1, size & 0xFF)
        write(base + r.TBCR1, 1, size >> 8)
        write(base, 1, _SEND)

    def _sent(self) -> None:
        """PTX or TXE: the active buffer is free; start the other."""
        active = self._active
        if active is None:
            return
        status = self._in(r.TSR)
        self._carrier = not status & r.TSR_CRS
        self._count("tx_frames" if status & r.TSR_PTX else "tx_errors")
        self._lengths[active] = 0
        self._active = None
        other = 1 - active
        if self._lengths[other]:
            self._send(other)

    def _wake(self) -> None:
        """Tell the stack that a buffer is free again."""
        if self._blocked and self._recover_at is None and not all(self._lengths):
            self._blocked = False
            self.writable()

    # -- interrupts ------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Serve what the card has to say, at most MAX_SERVICE rounds."""
        if not self._open or self._recover_at is not None:
            return
        mask = INTERRUPTS & ~RX_INTERRUPTS if self._paused else INTERRUPTS
        read = self.machine.io_read
        write = self.machine.io_write
        isr_port = self.base + r.ISR
        for _ in range(MAX_SERVICE):
            isr = read(isr_port, 1) & mask
            if not isr:
                break
            write(isr_port, 1, isr & ~r.ISR_OVW)
            if isr & (r.ISR_PTX | r.ISR_TXE):
                self._sent()
            if isr & r.ISR_OVW:
                self._recover_begin()
                break
            if isr & (r.ISR_PRX | r.ISR_RXE):
                self._drain()
                if self._paused:
                    mask = INTERRUPTS & ~RX_INTERRUPTS
            if isr & (r.ISR_CNT | r.ISR_RXE):
                self._tally()
        self._wake()

    def _tally(self) -> None:
        for offset, reason in (
            (r.CNTR0, "rx_alignment"),
            (r.CNTR1, "rx_crc"),
            (r.CNTR2, "rx_missed"),
        ):
            value = self._in(offset)
            if value:
                self._count(reason, value)

    def _drain(self) -> None:
        """Hand up the packets that are in the ring now; one that comes later sets PRX again."""
        write = self.machine.io_write
        base = self.base
        write(base, 1, _PAGE1)
        curr = self.machine.io_read(base + r.CURR, 1)
        write(base, 1, _START)
        if not RING_START <= curr < RING_STOP:
            self._count("rx_bogus")
            self._restart()
            return
        first = self._next
        pages = (curr - first) % RING_PAGES
        if not pages:
            return
        write(base + r.RSAR0, 1, 0)
        write(base + r.RSAR1, 1, first)
        write(base + r.RBCR0, 1, 0)
        write(base + r.RBCR1, 1, pages)
        write(base, 1, _READ)
        data = self.machine.io_read_block(base + r.DATA_PORT, self._width, (pages << 8) // self._width)
        write(base + r.ISR, 1, r.ISR_RDC)
        self._cut(data, pages)
        if self._paused:
            write(base + r.IMR, 1, INTERRUPTS & ~RX_INTERRUPTS)
        write(base + r.BNRY, 1, self._next - 1 if self._next > RING_START else RING_STOP - 1)

    def _cut(self, data: bytes, pages: int) -> None:
        """Packets out of ``pages`` pages of the ring that begin at the next one; advances it."""
        first = self._next
        at = frames = 0
        deliver = self.deliver
        while at < pages:
            start = at << 8
            count = data[start + 2] | data[start + 3] << 8
            after = at + (count + 4 + 255 >> 8)
            if (
                not MIN_COUNT <= count <= MAX_COUNT
                or after > pages
                or data[start + 1] != (first + after - RING_START) % RING_PAGES + RING_START
            ):
                self._count("rx_bogus")
                at = pages
                break
            if data[start] & 0x0F != r.RSR_PRX:
                self._count("rx_errors")
            elif deliver(data[start + 4 : start + count]) is False:
                self._paused = True
                break
            else:
                frames += 1
            at = after
        self._next = (first + at - RING_START) % RING_PAGES + RING_START
        if frames:
            self._carrier = True
            self._count("rx_frames", frames)

    def resume(self) -> None:
        """The stack takes frames again."""
        if not self._paused:
            return
        self._paused = False
        if not self._open or self._recover_at is not None:
            return
        self._drain()
        if not self._paused:
            self._out(r.IMR, INTERRUPTS)

    # -- recovery --------------------------------------------------------------------------------------------

    def _recover_begin(self) -> None:
        """Ring overflow: stop the chip and wait until what was on the wire has ended."""
        self._count("rx_overflow")
        self._recover_txp = bool(self._in(r.CR) & r.TXP)
        self._out(r.CR, _STOP)
        self._out(r.IMR, 0)
        self._recover_at = self.now() + OVERFLOW_WAIT

    def _recover_end(self) -> None:
        """The rest of the documented recovery."""
        self._recover_at = None
        out = self._out
        out(r.RBCR0, 0)
        out(r.RBCR1, 0)
        ended = self._in(r.ISR) & (r.ISR_PTX | r.ISR_TXE)
        resend = self._recover_txp and not ended and self._active is not None
        out(r.TCR, r.TCR_LB0)
        out(r.CR, _START)
        if not self._paused:
            self._drain()
        if not self._open:
            return
        out(r.ISR, r.ISR_OVW)
        out(r.TCR, 0)
        if resend and self._active is not None:
            self._send(self._active)
        out(r.IMR, INTERRUPTS & ~RX_INTERRUPTS if self._paused else INTERRUPTS)
        self._wake()

    def _restart(self) -> None:
        """Reset the card and begin again; what waits for the wire is lost."""
        self._count("restarts")
        self._count("tx_dropped", sum(1 for length in self._lengths if length))
        blocked, paused = self._blocked, self._paused
        self._reset_state()
        self._blocked = blocked
        try:
            self._reset_card()
        except DriverError:
            self._count("dead")
            self._open = False
            return
        self._start_card()
        if paused:
            self._paused = True
            self._out(r.IMR, INTERRUPTS & ~RX_INTERRUPTS)

    def next_deadline(self) -> int | None:
        """The end of the overflow wait, or the transmit timeout."""
        if self._recover_at is not None:
            return self._recover_at
        if self._active is not None:
            return self._sent_at + TX_TIMEOUT
        return None

    def run(self, now: int) -> None:
        """Timers."""
        if self._recover_at is not None:
            if now >= self._recover_at:
                self._recover_end()
        elif self._active is not None and now >= self._sent_at + TX_TIMEOUT:
            self.interrupt()  # an interrupt may have been lost
            if self._active is not None and now >= self._sent_at + TX_TIMEOUT:
                self._count("tx_timeout")
                self._restart()
                self._wake()


_ISA_IRQS = ((0x300, 9), (0x320, 10), (0x340, 11), (0x360, 3), (0x280, 4), (0x380, 5))
