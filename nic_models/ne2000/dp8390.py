"""DP8390/NS8390D network interface controller: the chip on every NE2000.

Data flow. Transmit: the driver puts a packet into local memory (remote DMA), sets TPSR and TBCR, sets CR.TXP;
the frame goes to ``tx`` inside that write; where the wire does not take it, TXP stays set until
``tx_ready()``. Receive: ``receive`` filters, then writes header, frame and FCS into the ring of 256-byte
pages PSTART..PSTOP at CURR; the driver reads from its own next-packet pointer and gives pages back by BNRY.
The boundary is a comparison with BNRY and nothing more: the page after the one that is being written must not
be BNRY, so CURR never reaches it, and CURR == BNRY always means an empty ring. A value that the pointer never
meets (0 at the start in ReactOS, PSTOP) is no boundary. One exception: PSTART - 1, which Linux writes
whenever the next packet is at PSTART, is taken as the ring's last page, for an emulated wire would overwrite
the ring in the meantime.

Overflow. The wire is lossless: a frame that does not fit is refused (``receive`` answers False) and waits in
the wire's queue. It is not told as lost: ISR.PRX is set again after ``REMIND_NS``, for a driver that
acknowledged it with packets left in the ring. If there is still no room after ``overflow_grace`` ns, the
frame is lost: CNTR2 counts it, ISR.OVW and RST are set and the driver goes through the documented recovery
(stop, wait, loopback, start, drain, normal). The next frame is held through it; ``rx_ready()`` follows as
soon as the chip can take it. A driver that leaves the chip stopped or looped for ``HOLD_LIMIT`` ns with a
frame held is taken to have closed: the wire is released and what comes is dropped and counted, as it is
whenever the chip is stopped or looped and no frame is held. Reception goes on when room appears, whether the
driver went through the recovery or not.

Timers (machine's clock): the overflow grace, the hold limit, and with ``tx_delay`` a packet's time at 10 Mbit/s, after
which it leaves and PTX is set; STP ends that time at once, for a packet on its way is still sent. Nothing else takes
time: otherwise a packet is on the wire inside the access, and the remote DMA moves as the data port is accessed.

Errors. The wire has none of its own; ``receive_raw`` brings damaged or short frames in (fault injection), for
which SEP, AR, the tally counters and RXE work as the data sheet says. What a driver does wrong (pointers
outside the ring, transmits of 0 or 64 KiB) is counted in ``counters`` and never raises.

Ref: National Semiconductor DP8390D/NS32490D NIC data sheet, July 1995 (TL/F/8582); AN-874 (overflow
recovery).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any
from zlib import crc32

from ..parts.multicast import hash_be
from ..parts.padding import MAX_FRAME, MIN_FRAME, pad, wire_ns
from . import dispatch
from . import registers as r
from . import state as state_of
from .loopback import RESULTS, Fifo, looped
from .remote_dma import RAM_BASE, SPACE, LocalMemory, RemoteDma
from .state import ANY_FRAME, TALLY_STOP

SPEED = 10  # Mbit/s
MIN_TX = 14  # an Ethernet header; less does not make a frame
OVERFLOW_GRACE = 1_000_000_000  # ns that a frame may wait for ring pages before it is lost and OVW is set
REMIND_NS = 50_000_000  # ns after which PRX is set again while a frame waits
NO_BOUNDARY = 256  # pages of room where the pointer never meets BNRY
HOLD_LIMIT = 1_000_000_000  # ns that a stopped or looped chip may hold the wire
BROADCAST = b"\xff" * 6
_HEADER = Struct("<BBH")
_PAGE = 256

Reader = Callable[[], int]
Writer = Callable[[int], None]


class Dp8390:
    """The DP8390 chip. ``page`` (16 times the register page) and ``readers``/``writers`` serve the board's
    dispatch.

    tx, rx_ready, set_irq, now: see ``card``. ``memory``: the board's local memory.
    """

    def __init__(
        self,
        memory: LocalMemory,
        tx: Callable[..., bool],
        rx_ready: Callable[[], None],
        set_irq: Callable[[bool], None],
        now: Callable[[], int],
        *,
        overflow_grace: int = OVERFLOW_GRACE,
    ) -> None:
        self.memory = memory
        self.tx = tx
        self.rx_ready = rx_ready
        self.set_irq = set_irq
        self.now = now
        self.overflow_grace = overflow_grace
        self.remote = RemoteDma(memory, self._remote_done)
        self.fifo = Fifo()
        self.counters: dict[str, int] = {}
        self.link = True
        self.tally = [0, 0, 0]  # CNTR0 alignment, CNTR1 CRC, CNTR2 missed
        self.par = bytes(6)
        self.mar = 0
        self.scratch = bytearray(4)  # RNPP LNPP and the address counter of page 2
        self.pstart = self.pstop = self.bnry = self.curr = 0
        self.tpsr = self.tbcr = self.clda = 0
        self.rcr = self.dcr = 0
        self.cr = r.RD_ABORT | r.STP
        self.isr = r.ISR_RST
        self.imr = self.tcr = self.tsr = self.rsr = 0
        self.page = 0
        self.irq = False
        self._receiving = False  # started, not looped, not monitoring
        self._promiscuous = False
        self.tx_frame: bytes | None = None  # transmitted, but the wire did not take it yet
        self.tx_delay = False  # see ``card``
        self.tx_until: int | None = None  # when ``tx_frame``, as it was in memory, leaves
        self.held = 0  # ring pages of the frame that was refused
        self.lost = False  # the frame that was refused is lost: it is dropped when it comes again
        self.reminded = False  # PRX was set again for the held frame
        self.recovering = False  # overflow reported; the driver has not brought the chip back yet
        self.deadline: int | None = None  # of the held frame: then OVW is set, or the wire is released
        self.readers: list[Reader] = [dispatch.nothing] * 64
        self.writers: list[Writer] = [dispatch.ignore] * 64
        dispatch.build(self)

    # -- dispatch --------------------------------------------------------------------------------------------

    def install(self, page: int, offset: int, reader: Reader | None, writer: Writer | None) -> None:
        """Have a board's own register answer at ``offset`` of register page 0..3."""
        if reader is not None:
            self.readers[page << 4 | offset] = reader
        if writer is not None:
            self.writers[page << 4 | offset] = writer

    # -- simple registers ------------------------------------------------------------------------------------

    def write_pstart(self, value: int) -> None:
        self.pstart = value
        self.remote.wrap_to = value << 8

    def write_pstop(self, value: int) -> None:
        self.pstop = value
        self.remote.wrap_from = value << 8

    def write_bnry(self, value: int) -> None:
        self.bnry = value
        if self.held or self.isr & r.ISR_RST:
            self._room_made()

    def write_curr(self, value: int) -> None:
        self.curr = value
        if self.held:
            self._room_made()

    def write_tpsr(self, value: int) -> None:
        self.tpsr = value

    def set_tbcr(self, value: int) -> None:
        self.tbcr = value

    def set_clda(self, value: int) -> None:
        self.clda = value

    def write_isr(self, value: int) -> None:
        self.isr &= ~value | r.ISR_RST
        if self.recovering:
            self._recovery_ends()
        self.interrupt()

    def write_imr(self, value: int) -> None:
        self.imr = value & ~r.IMR_ONES
        self.interrupt()

    def write_dcr(self, value: int) -> None:
        self.dcr = value & ~r.DCR_ONES
        self.remote.wide = bool(value & r.DCR_WTS)

    def write_rcr(self, value: int) -> None:
        monitored = self.rcr & r.RCR_MON
        self.rcr = value & ~r.RCR_ONES
        if monitored and not value & r.RCR_MON:
            self.rsr &= ~r.RSR_DIS
        self.mode_changed()

    def write_tcr(self, value: int) -> None:
        self.tcr = value & ~r.TCR_ONES
        self.mode_changed()

    def read_rsr(self) -> int:
        return self.rsr | r.RSR_DIS if self.rcr & r.RCR_MON else self.rsr

    def read_tally(self, index: int) -> int:
        value = self.tally[index]
        self.tally[index] = 0
        return value

    # -- command register ------------------------------------------------------------------------------------

    def write_cr(self, value: int) -> None:
        old = self.cr
        if value & r.STP:
            state = r.STP
        elif value & r.STA:
            state = r.STA
        else:
            state = old & (r.STP | r.STA)
        issued = value & r.RD_MASK  # 000 is not allowed: it issues nothing
        command = issued or old & r.RD_MASK
        self.cr = value & 0xC0 | command | (old | value) & r.TXP | state
        self.page = value >> 2 & 0x30
        if state == r.STP:
            self.cr &= ~r.TXP
            self.remote.abort()
            if not old & r.STP:
                self._stop()
            return
        if old & r.STP:
            self.isr &= ~r.ISR_RST
            self.mode_changed()
        if issued & r.RD_ABORT:
            if self.remote.left:
                self.remote.abort()
            else:
                self.remote.command = r.RD_ABORT
        elif issued == r.RD_SEND:
            self._send_packet()
        elif issued:
            self.remote.issue(issued)
        if value & r.TXP and not old & r.TXP:
            if self.tx_delay:
                self._begin()
            else:
                self._leave(self.memory.fetch(self.tpsr << 8, self.tbcr))

    def _stop(self) -> None:
        self.isr |= r.ISR_RST
        if self.tx_until is not None:
            self._launch()
        if self.tx_frame is not None:
            self.tx_frame = None
            self._count("tx_aborted")
        self.mode_changed()

    def mode_changed(self) -> None:
        """Work out whether the receiver is on, because CR, TCR or RCR may have switched it."""
        started = bool(self.cr & r.STA) and not self.tcr & r.TCR_LB
        self._receiving = started and not self.rcr & r.RCR_MON
        self._promiscuous = bool(self.rcr & r.RCR_PRO)
        if self.recovering:
            self._recovery_ends()
        if self.held:
            if started:
                self.deadline = None if self.isr & r.ISR_OVW else self.now() + self._patience()
                self._room_made()
            else:
                self.deadline = self.now() + HOLD_LIMIT

    def _recovery_ends(self) -> None:
        """End the recovery if the driver is through with it: the chip runs, not looped, and OVW is
        acknowledged.
        """
        if self.cr & r.STA and not self.isr & r.ISR_OVW and not self.tcr & r.TCR_LB:
            self.recovering = False
            if self.held and self.deadline is None:
                self.deadline = self.now() + self._patience()

    def _send_packet(self) -> None:
        """Set the remote DMA up for the packet at BNRY (CR.RD = 011). This needs DCR.AR; an empty ring has no
        effect.
        """
        if (
            not self.dcr & r.DCR_AR
            or self.bnry == self.curr
            or (self.remote.command == r.RD_READ and self.remote.left)
        ):
            return
        _, following, count = _HEADER.unpack(self.memory.fetch(self.bnry << 8, 4))
        self.remote.send_packet(self.bnry << 8, count)
        self.bnry = following
        if self.held:
            self._room_made()

    def _remote_done(self) -> None:
        self.isr |= r.ISR_RDC
        if self.imr & r.ISR_RDC:
            self.interrupt()

    def interrupt(self) -> None:
        level = bool(self.isr & self.imr)
        if level != self.irq:
            self.irq = level
            self.set_irq(level)

    def _count(self, reason: str) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + 1

    # -- transmit --------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """A frame goes onto a wire on which it takes its time."""
        self.tx_frame = self.memory.fetch(self.tpsr << 8, self.tbcr)
        self.tx_until = self.now() + wire_ns(self.tbcr, SPEED)

    def _launch(self) -> None:
        """The frame has been on the wire for its time."""
        frame = self.tx_frame
        self.tx_frame = self.tx_until = None
        if frame is not None:
            self._leave(frame)

    def _leave(self, frame: bytes) -> None:
        """A frame as it was in memory: to the wire, or back in loopback."""
        size = len(frame)
        if self.tcr & r.TCR_LB:
            self._loop(frame)
            return
        if self.tcr & r.TCR_CRC and size > 4:  # software brings the FCS; the wire has none
            frame = frame[:-4]
            size -= 4
        status = r.TSR_PTX | r.TSR_ONE
        if not self.link:
            self._count("tx_link")
            status |= r.TSR_CRS
        elif not MIN_TX <= size <= MAX_FRAME:
            self._count("tx_size")
        elif not self.tx(frame):
            self.tx_frame = frame
            return
        self._transmitted(status)

    def _transmitted(self, status: int) -> None:
        self.tsr = status
        self.cr &= ~r.TXP
        self.isr |= r.ISR_PTX
        self.interrupt()

    def tx_ready(self) -> None:
        """Offer the waiting frame again, because the wire takes frames again."""
        frame = self.tx_frame
        if frame is not None and self.tx_until is None and self.tx(frame):
            self.tx_frame = None
            self._transmitted(r.TSR_PTX | r.TSR_ONE)

    def _loop(self, buffer: bytes) -> None:
        packet, good = looped(buffer, self.dcr, self.tcr)
        self.fifo.load(packet)
        self.rsr = r.RSR_PRX
        if self._accepts(packet):
            self.rsr = (r.RSR_PRX if good else r.RSR_CRC) | (r.RSR_PHY if packet[:1] and packet[0] & 1 else 0)
        self._transmitted(RESULTS[self.tcr & r.TCR_LB])

    # -- receive ---------------------------------------------------------------------------------------------

    def receive(self, frame: bytes, vnet: bytes = b"") -> bool:
        """Take a good frame from the wire, without FCS; a short one is padded as a sender would have done."""
        size = len(frame)
        if size < MIN_FRAME:
            frame = pad(frame)
            size = MIN_FRAME
        if not self._receiving:
            return self._not_receiving(frame)
        if frame[0] & 1:
            if not self._accepts(frame):
                self._count("filtered")
                return True
            return self._store(frame, size, r.RSR_PRX | r.RSR_PHY)
        if not self._promiscuous and frame[:6] != self.par:
            self._count("filtered")
            return True
        return self._store(frame, size, r.RSR_PRX)

    def receive_raw(self, frame: bytes, *, crc_error: bool = False, alignment_error: bool = False) -> bool:
        """Take a frame as a faulty wire brings it: not padded, with errors. AR and SEP decide about runts and
        errors.
        """
        if not self._receiving:
            return self._not_receiving(frame)
        if len(frame) < 6 or (len(frame) < MIN_FRAME and not self.rcr & r.RCR_AR):
            self._count("runt")
            return True
        if not self._accepts(frame):
            self._count("filtered")
            return True
        status = r.RSR_PHY if frame[0] & 1 else 0
        if not crc_error and not alignment_error:
            return self._store(frame, len(frame), status | r.RSR_PRX)
        status |= r.RSR_CRC if crc_error else 0
        status |= r.RSR_FAE | r.RSR_CRC if alignment_error else 0
        if self.rcr & r.RCR_SEP and not self._store(frame, len(frame), status):
            return False
        self._tally(0 if alignment_error else 1)
        self.rsr = status
        self.isr |= r.ISR_RXE
        self.interrupt()
        return True

    def _accepts(self, frame: bytes) -> bool:
        """Apply the address filter: AB, AM with MAR, PRO, PAR."""
        if not frame[:1]:
            return False
        if not frame[0] & 1:
            return bool(self.rcr & r.RCR_PRO) or frame[:6] == self.par
        if self.rcr & r.RCR_AB and frame[:6] == BROADCAST:
            return True
        return bool(self.rcr & r.RCR_AM) and bool(self.mar >> hash_be(frame[:6]) & 1)

    def _not_receiving(self, frame: bytes) -> bool:
        if self.cr & r.STA and not self.tcr & r.TCR_LB:  # monitor mode
            if self._accepts(frame):
                self._count("monitor")
                self._tally(2)
                self.rsr = r.RSR_MPA | (r.RSR_PHY if frame[0] & 1 else 0)
                self.isr |= r.ISR_RXE
                self.interrupt()
            else:
                self._count("filtered")
            return True
        if self.lost:
            return self._drop_lost()
        if self.held or self.recovering:
            if not self.held:
                self._count("held")
                self.held = ANY_FRAME
                self.deadline = self.now() + HOLD_LIMIT
            return False
        self._count("stopped" if self.cr & r.STP else "loopback")
        return True

    def _store(self, frame: bytes, size: int, status: int) -> bool:
        """Write header, frame and FCS into the ring. False means: there is no room yet."""
        pages = (size + 8 + 255) >> 8
        curr = self.curr
        pstop = self.pstop
        pstart = self.pstart
        room = self.bnry - curr
        if room <= 0:
            room += pstop - pstart
        if not (pstart <= curr < pstop and pstart - 1 <= self.bnry < pstop):
            room = self._free_pages()
            if not pstart <= curr < pstop:
                return self._store_outside(frame, size, status, room)
        if size > MAX_FRAME or pages >= pstop - pstart + (room == NO_BOUNDARY):
            self._count("oversize")
            return True
        if pages >= room:
            return self._hold(pages)
        if self.lost:
            return self._drop_lost()
        following = curr + pages
        if following >= pstop:
            following -= pstop - pstart
        data = _HEADER.pack(status, following, size + 4) + frame + crc32(frame).to_bytes(4, "little")
        start = curr << 8
        end = start + len(data)
        if end <= pstop << 8:
            if start >= RAM_BASE and end <= SPACE:
                self.memory.cells[start:end] = data
            else:
                self.memory.store(start, data)
        else:
            first = (pstop << 8) - start
            self.memory.store(start, data[:first])
            self.memory.store(pstart << 8, data[first:])
            end = (pstart << 8) + len(data) - first
        # as at the end of ``_store_outside``: a method for both costs each frame of the usual case a call
        self.clda = end & 0xFFFF
        self.curr = following
        self.held = 0
        self.deadline = None
        if status & r.RSR_PRX:
            self.rsr = status
            self.isr |= r.ISR_PRX
            if not self.irq and self.imr & r.ISR_PRX:
                self.interrupt()
        return True

    def _store_outside(self, frame: bytes, size: int, status: int, room: int) -> bool:
        """Store a frame where CURR is outside PSTART..PSTOP: page by page, until the pointer happens to be
        PSTOP.
        """
        pages = (size + 8 + 255) >> 8
        if size > MAX_FRAME:
            self._count("oversize")
            return True
        if pages >= room:
            return self._hold(pages)
        if self.lost:
            return self._drop_lost()
        used = [self.curr]
        for _ in range(pages):
            used.append(self._after(used[-1]))
        following = used.pop()
        data = _HEADER.pack(status, following, size + 4) + frame + crc32(frame).to_bytes(4, "little")
        for index, page in enumerate(used):
            self.memory.store(page << 8, data[_PAGE * index : _PAGE * (index + 1)])
        self.clda = (used[-1] << 8) + len(data) - _PAGE * (pages - 1) & 0xFFFF
        self.curr = following
        self.held = 0
        self.deadline = None
        if status & r.RSR_PRX:
            self.rsr = status
            self.isr |= r.ISR_PRX
            self.interrupt()
        return True

    def _after(self, page: int) -> int:
        """Return the page that the chip writes next: PSTOP, if it is ever met, leads back to PSTART."""
        page = page + 1 & 0xFF
        return self.pstart if page == self.pstop else page

    def _hold(self, pages: int) -> bool:
        """Refuse a frame of ``pages`` pages that has no room: it waits, or it is lost."""
        if self.lost:
            return self._drop_lost()
        if not self.held:
            self._count("held")
            self.deadline = None if self.isr & r.ISR_OVW else self.now() + self._patience()
        self.held = pages
        if self.overflow_grace <= 0 and self.deadline is not None:
            self._overflow()
            self.lost = False
            return True
        return False

    def _patience(self) -> int:
        """Return how long a frame waits before the driver is told."""
        self.reminded = self.overflow_grace <= REMIND_NS
        return self.overflow_grace if self.reminded else REMIND_NS

    def _overflow(self) -> None:
        """Give up the frame that was refused and tell the driver."""
        self.deadline = None
        self._count("overflow")
        self.held = 0
        self.recovering = self.lost = True
        self._tally(2)
        self.isr |= r.ISR_OVW | r.ISR_RST
        self.interrupt()

    def _drop_lost(self) -> bool:
        """Drop the frame that was given up, which the wire has offered again."""
        self.lost = False
        return True

    def _free_pages(self) -> int:
        """Count the pages from CURR on until the next one is BNRY; NO_BOUNDARY if none ever is."""
        pstart, pstop, bnry, page = self.pstart, self.pstop, self.bnry, self.curr
        if pstart <= page < pstop and pstart - 1 <= bnry < pstop:
            room = bnry - page
            return room if room > 0 else room + pstop - pstart
        for room in range(1, NO_BOUNDARY):
            page = self._after(page)
            if page == bnry:
                return room
        return NO_BOUNDARY

    def _room_made(self) -> None:
        """End the overflow, and the hold if the held frame fits: BNRY moved or the receiver came back."""
        if not self.cr & r.STA:
            return
        if self._free_pages() <= self.held:
            return
        self.isr &= ~r.ISR_RST
        if self.held and not self.tcr & r.TCR_LB:
            self._release()

    def _release(self) -> None:
        self.held = 0
        self.deadline = None
        self.rx_ready()

    def _tally(self, index: int) -> None:
        if self.tally[index] < TALLY_STOP:
            self.tally[index] += 1
        if self.tally[index] & 0x80:
            self.isr |= r.ISR_CNT
            self.interrupt()

    # -- owner -----------------------------------------------------------------------------------------------

    def set_link(self, up: bool) -> None:
        """Learn that the cable was plugged or pulled; without it transmits lose the carrier."""
        self.link = up
        if not up and self.tx_frame is not None and self.tx_until is None:
            self.tx_frame = None
            self._count("tx_link")
            self._transmitted(r.TSR_PTX | r.TSR_ONE | r.TSR_CRS)

    def reset(self) -> None:
        """Carry out the RESET pin: stopped, interrupts masked, loopback bits cleared; pointers and memory
        stay.
        """
        self.cr = r.RD_ABORT | r.STP
        self.page = 0
        self.isr = r.ISR_RST
        self.imr = self.tsr = self.rsr = 0
        self.tcr &= ~r.TCR_LB
        self.tally[:] = 0, 0, 0
        self.remote.command = r.RD_ABORT
        self.remote.left = 0
        if self.tx_frame is not None:
            self.tx_frame = self.tx_until = None
            self._count("tx_aborted")
        self.interrupt()
        held = self.held
        self.held = 0
        self.recovering = self.lost = False
        self.deadline = None
        self.mode_changed()
        if held:
            self.rx_ready()

    def next_deadline(self) -> int | None:
        """When ``run`` is due."""
        until, deadline = self.tx_until, self.deadline
        return until if deadline is None or (until is not None and until < deadline) else deadline

    def run(self, now: int) -> None:
        """The held frame's time is up: PRX again, then overflow if the chip runs, else let the wire go."""
        if self.tx_until is not None and now >= self.tx_until:
            self._launch()
        if self.deadline is None or now < self.deadline:
            return
        if self.cr & r.STA and not self.tcr & r.TCR_LB:
            if not self.reminded:
                self.reminded = True
                self.deadline += self.overflow_grace - REMIND_NS
                self.isr |= r.ISR_PRX
                self.interrupt()
            if now >= self.deadline:
                self._overflow()
                self.rx_ready()
        else:
            self.recovering = False
            self._release()

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON-able data (deadlines are absolute)."""
        return state_of.save(self)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the data of ``snapshot()``. Raises ValueError; then nothing has changed."""
        state_of.load(self, state)
