"""Receiver of the RTL8139: address filter, receive FIFO, and the ring buffer of C mode.

    receive(frame) -> filter -> fifo -> engine -> ring buffer (here) or descriptors (cplus)

The ring is 8, 16, 32 or 64 KiB at RBSTART. A packet is a 4-byte header (status, length with FCS), the frame,
its FCS, and starts on a dword. CBR is where the chip writes next, CAPR + 16 what the driver has read up to;
both equal means empty, so the ring is never filled to the last byte. A packet that does not fit before the
end goes on at the start, or, with RCR.WRAP and less than 64 KiB, past the end (the driver keeps 1.5 KiB for
it), and the next one starts as many bytes behind the start.

Overflow: a packet that does not fit stays in the FIFO, and ``receive`` answers False (the wire is held) until CAPR
leaves half of the ring free, the receiver is switched off or the chip is reset. So a driver that does empty its ring
loses nothing, and is told of no loss. Drivers that acknowledged ROK with packets left in the ring (Linux does, at the
end of its budget) are woken: ROK is set again after ``AGAIN_NS``, doubled up to ``AGAIN_LONGEST_NS``, while the ring
stays full. A driver that gives no room for ``HOLD_NS`` loses the packet: RXOVW is set and MPC counts it; the next one
waits as long. Without bus mastering the FIFO overflows as on real hardware: FOVW, MPC, the frame is lost. Frames are padded to 60 bytes; nothing on an emulated wire is a runt or has a bad FCS, so AR and AER
are stored and change nothing.

Early receive: RCR.ERTH for familiar protocols (IP, IPX, 802.3), MULINT for others and, with RCR.MulERINT, for all. The
packet comes in two parts: at the threshold CBR moves behind the first, ERBCR counts it, EROK and ISR.ROK are set, and
the header's length is fff0, by which drivers know that the rest is still to come; then that, ERGood and ROK again.

Limits: ``FIFO_FRAMES``; ``MAX_FRAME`` bytes; a packet that can never fit is dropped, counted under
``oversize``.

Ref: RTL8139C(L) data sheet 5.7 (RCR), 5.24 (packet header), 9.8; programming guide 0.1 (ring).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from struct import Struct
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ..parts.multicast import hash_be
from ..parts.padding import pad
from ..rxfilter import RxFilter
from ..snapshot import counts, flag, number, optional, pack, unpack
from ..virtio import complete
from . import registers as r

if TYPE_CHECKING:
    from .chip import Rtl8139

FIFO_FRAMES = 16
MAX_FRAME = 8187  # the 13-bit length of a C+ descriptor, without FCS
WRAP_ROOM = 1536  # what a driver keeps behind a ring for RCR.WRAP
SHORTEST = 14  # an Ethernet header
AGAIN_NS = 250_000  # about two frames at 100 Mbit/s
AGAIN_LONGEST_NS = 64_000_000
HOLD_NS = 1_000_000_000  # how long a frame waits for room before it is lost
FCS = 4

_HEADER = Struct("<HH")
_FCS = Struct("<I")
_BROADCAST = b"\xff" * 6
_LENGTHS = 0x0600  # an 802.3 length is below
_FAMILIAR = (0x0800, 0x8137)  # IP, IPX


class Receiver:
    """Filter, FIFO and ring of one chip."""

    __slots__ = (
        "again",
        "base",
        "cbr",
        "chip",
        "drops",
        "early",
        "ersr",
        "fifo",
        "give_up",
        "mar",
        "missed",
        "read_at",
        "size",
        "stalled",
        "wait",
        "whole",
        "wire_held",
    )

    def __init__(self, chip: Rtl8139) -> None:
        self.chip = chip
        self.mar = 0  # the 64 bits of MAR0-7, little-endian
        self.drops: dict[str, int] = {}
        self.fifo: deque[tuple[bytes, int]] = deque()  # frame, header status
        self.base = self.cbr = self.read_at = self.missed = 0
        self.size = r.RING_SMALLEST
        self.early = self.ersr = 0  # ERBCR, ERSR
        self.whole = 0  # bytes of the packet that comes in parts
        self.stalled = False  # no room for fifo[0]
        self.wire_held = False  # receive() answered False: rx_ready is owed
        self.again: int | None = None  # when ROK is set again
        self.give_up: int | None = None  # when fifo[0], which waits for room, is lost
        self.wait = AGAIN_NS

    def reset(self) -> None:
        """Software reset: ring empty, FIFO empty; MAR keeps its value."""
        self.base = self.missed = 0
        self.size = r.RING_SMALLEST
        self.restart()

    def restart(self) -> None:
        """The receiver was switched on or off, or its ring changed: back to the start of the ring."""
        self.cbr = self.read_at = self.early = self.ersr = self.whole = 0
        self.chip.abandon_packet()
        self.flush()

    def flush(self) -> None:
        """Forget what is in the FIFO and let the wire go on."""
        self.fifo.clear()
        self.stalled = False
        self.again = self.give_up = None
        self.wait = AGAIN_NS
        self.let_go(always=True)

    def let_go(self, always: bool = False) -> None:
        """Tell the wire that held a frame back that there is room again."""
        if self.wire_held and (
            always or (not self.stalled and len(self.fifo) < FIFO_FRAMES and self.roomy())
        ):
            self.wire_held = False
            self.again = None
            self.chip.rx_ready()

    def drop(self, reason: str) -> None:
        """Count a frame that goes nowhere."""
        self.drops[reason] = self.drops.get(reason, 0) + 1

    def miss(self, bits: int) -> None:
        """A frame is lost for want of room: MPC, and ``bits`` in ISR."""
        self.missed = (self.missed + 1) & 0xFFFFFF
        self.chip.tally.missed()
        self.chip.interrupt(bits)

    # from the wire

    def receive(self, frame: bytes, vnet: bytes = b"") -> bool:
        """A frame from the wire. False: held, ``rx_ready`` follows."""
        chip = self.chip
        if not chip.command & r.CR_RE:
            self.drop("disabled")
            return True
        if chip.tcr & r.TCR_LBK == r.TCR_LBK:
            self.drop("loopback")
            return True
        if not chip.phy.link:
            self.drop("link")
            return True
        fifo = self.fifo
        if self.wire_held or self.stalled or len(fifo) >= FIFO_FRAMES:
            if chip.bus_master:
                self.wire_held = True
                return False
            self.miss(r.INT_FOVW)
            self.drop("dma")
            return True
        if vnet:
            done = complete(frame, vnet)
            if done is None:
                self.drop("offload")
                return True
            frame = done
        status = self.accept(frame)
        if status:
            fifo.append((pad(frame), status))
            chip.kick()
        return True

    def loop(self, frame: bytes) -> None:
        """A frame from the own transmitter (TCR.LBK); never called from ``receive``."""
        if not self.chip.command & r.CR_RE:
            self.drop("disabled")
        elif self.stalled or len(self.fifo) >= FIFO_FRAMES:
            self.miss(r.INT_FOVW)
            self.drop("loopback full")
        else:
            status = self.accept(frame)
            if status:
                self.fifo.append((pad(frame), status))
                self.chip.kick()

    def rx_filter(self) -> RxFilter:
        """The filter for monitors."""
        chip, rcr = self.chip, self.chip.rcr
        return RxFilter(
            bytes(chip.idr[:6]),
            bool(chip.command & r.CR_RE),
            "all" if rcr & r.RCR_AAP else "normal" if rcr & r.RCR_APM else "none",
            bool(rcr & r.RCR_AB),
            self.mar if rcr & r.RCR_AM else 0,
        )

    def accept(self, frame: bytes) -> int:
        """Header status of a frame that passes the filter, 0 of one that does not."""
        chip = self.chip
        rcr = chip.rcr
        size = len(frame)
        if not SHORTEST <= size <= MAX_FRAME:
            self.drop("short" if size < SHORTEST else "oversize")
            return 0
        status = r.RX_ROK if size + FCS <= r.RX_LONG_BYTES else r.RX_ROK | r.RX_LONG
        if not frame[0] & 1:
            if frame.startswith(chip.idr):
                if rcr & (r.RCR_APM | r.RCR_AAP):
                    return status | r.RX_PAM
            elif rcr & r.RCR_AAP:
                return status
        elif frame.startswith(_BROADCAST):
            if rcr & r.RCR_AB:
                return status | r.RX_BAR
        elif rcr & r.RCR_AM and self.mar >> hash_be(frame[:6]) & 1:
            return status | r.RX_MAR
        self.drop("filter")
        return 0

    # the ring

    def store(self) -> None:
        """Move the head of the FIFO into the ring (C mode): the writes are posted, CBR moves after them."""
        frame, status = self.fifo[0]
        total = (len(frame) + FCS + 4 + 3) & ~3
        size, cbr = self.size, self.cbr
        wrap = bool(self.chip.rcr & r.RCR_WRAP) and size < 65536
        if total >= size or (wrap and cbr + total > size + WRAP_ROOM):
            self.fifo.popleft()
            self.drop("oversize")
            return
        used = (cbr - self.read_at) % size
        if total >= size - used:
            self.stalled = True
            now = self.chip.now()
            self.again = now + self.wait
            self.give_up = now + HOLD_NS
            return
        self.fifo.popleft()
        self.wait = AGAIN_NS
        self.give_up = None
        packet = b"".join((_HEADER.pack(status, len(frame) + FCS), frame, _FCS.pack(crc32(frame))))
        chip = self.chip
        end = cbr + total
        if (chip.rcr & r.RCR_ERTH or chip.config.mulint) and (early := self._threshold(packet)):
            self._store_early(packet, 4 + early, end % size, wrap)
        elif end > size and not wrap:
            first = size - cbr
            chip.post_part(self.base + cbr & 0xFFFFFFFF, packet[:first])
            chip.post_ring(self.base, packet[first:], end - size)
        else:
            chip.post_ring(self.base + cbr & 0xFFFFFFFF, packet, end % size)
        chip.tally.received(status)

    def _threshold(self, packet: bytes) -> int:
        """How many bytes of a packet's frame come early; 0: it comes whole."""
        chip = self.chip
        length = len(packet) - 4
        kind = packet[16] << 8 | packet[17]
        if chip.rcr & r.RCR_MULERINT or not (kind < _LENGTHS or kind in _FAMILIAR):
            early = chip.config.mulint
        else:
            early = length * (chip.rcr >> r.RCR_ERTH_SHIFT & 15) >> 4
        early &= ~3
        return early if early < length else 0

    def _store_early(self, packet: bytes, first: int, end: int, wrap: bool) -> None:
        """Post a packet in two parts, ``first`` bytes and the rest; its true header comes last."""
        chip, base, cbr = self.chip, self.base, self.cbr
        self.whole = len(packet) - 4
        begun = _HEADER.pack(0, r.RX_UNFINISHED) + packet[4:first]
        *before, (address, data) = self._pieces(cbr, begun, wrap)
        for piece in before:
            chip.post_part(*piece)
        chip.post_early(address, data, (cbr + first) % self.size)
        for piece in self._pieces(cbr + first, packet[first:], wrap):
            chip.post_part(*piece)
        chip.post_ring(base + cbr & 0xFFFFFFFF, packet[:4], end)

    def _pieces(self, at: int, data: bytes, wrap: bool) -> list[tuple[int, bytes]]:
        """Where ``data`` goes that begins at ``at`` of the ring."""
        if not wrap:
            at %= self.size
            room = self.size - at
            if len(data) > room:
                return [(self.base + at & 0xFFFFFFFF, data[:room]), (self.base, data[room:])]
        return [(self.base + at & 0xFFFFFFFF, data)]

    def stored(self, cbr: int) -> None:
        """The packet is in memory: move CBR, interrupt."""
        self.cbr = cbr
        if self.whole:
            self.early, self.whole = self.whole, 0
            self.ersr = self.ersr & ~r.ERSR_EROK | r.ERSR_GOOD
        self.chip.interrupt(r.INT_ROK)

    def arrived(self, cbr: int) -> None:
        """The first part of a packet is in memory."""
        self.early = (cbr - self.cbr) % self.size - 4
        self.cbr = cbr
        self.ersr |= r.ERSR_EROK
        self.chip.interrupt(r.INT_ROK)

    def roomy(self) -> bool:
        """Half of the ring is free, so that a held wire may bring frames again (always in C+ mode)."""
        if self.chip.cplus.cpcr & r.CPCR_RXEN:
            return True
        return 2 * ((self.cbr - self.read_at) % self.size) <= self.size

    def empty(self) -> bool:
        """CR.BUFE: nothing that the driver has not read."""
        return self.cbr == self.read_at

    # registers

    def write_base(self, value: int, mask: int) -> None:
        """RBSTART."""
        self.base = self.base & ~mask | value & mask

    def write_ersr(self, value: int, _mask: int) -> None:
        """ERSR: ones clear, but for EROK."""
        self.ersr &= ~value | r.ERSR_EROK

    def read_capr(self) -> int:
        """CAPR: 16 less than what has been read."""
        return self.read_at - r.CAPR_OFFSET & 0xFFFF

    def write_capr(self, value: int, mask: int) -> None:
        """CAPR: the driver has read up to 16 more than ``value``."""
        capr = self.read_capr() & ~mask | value & mask
        self.read_at = (capr + r.CAPR_OFFSET) % self.size
        self.stalled = False
        self.again = self.give_up = None
        if self.fifo or self.wire_held:
            self.again = self.chip.now() + AGAIN_NS
            self.wait = AGAIN_NS
            self.chip.kick()

    def run(self, now: int) -> None:
        """Tell the driver again of the packets in a full ring; lose the packet that has waited for too long."""
        if self.give_up is not None and now >= self.give_up:
            self.give_up = None
            if self.stalled and self.fifo:
                self.stalled = False
                self.fifo.popleft()
                self.drop("full")
                self.miss(r.INT_RXOVW)
                self.chip.kick()
        if self.again is None or now < self.again:
            return
        if not self.wire_held and not self.stalled:
            self.again = None
        else:
            self.wait = min(2 * self.wait, AGAIN_LONGEST_NS)
            self.again = now + self.wait
            if not self.empty():
                self.chip.interrupt(r.INT_ROK)

    def read_cbr(self) -> int:
        """CBR: where the next packet goes."""
        return self.cbr & 0xFFFF

    def resize(self) -> None:
        """RCR was written: a ring of another size begins anew."""
        size = r.RING_SMALLEST << ((self.chip.rcr & r.RCR_RBLEN) >> r.RCR_RBLEN_SHIFT)
        if size != self.size:
            self.size = size
            self.restart()

    # state

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state."""
        return {
            "mar": self.mar,
            "base": self.base,
            "cbr": self.cbr,
            "read_at": self.read_at,
            "size": self.size,
            "missed": self.missed,
            "early": self.early,
            "ersr": self.ersr,
            "whole": self.whole,
            "stalled": self.stalled,
            "wire_held": self.wire_held,
            "again": self.again,
            "give_up": self.give_up,
            "wait": self.wait,
            "fifo": [{"frame": pack(frame), "status": status} for frame, status in self.fifo],
            "drops": dict(self.drops),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        size = number(state, "size", 65536)
        if size not in (8192, 16384, 32768, 65536):
            raise ValueError(f"snapshot: no such ring size: {size}")
        fifo = state.get("fifo")
        if not isinstance(fifo, list) or len(fifo) > FIFO_FRAMES:
            raise ValueError("snapshot: fifo is not a list of frames")
        frames = [(unpack(item, "frame", limit=MAX_FRAME), number(item, "status", 0xFFFF)) for item in fifo]
        self.mar = number(state, "mar", (1 << 64) - 1)
        self.base = number(state, "base", 0xFFFFFFFF)
        self.cbr = number(state, "cbr", size - 1)
        self.read_at = number(state, "read_at", size - 1)
        self.missed = number(state, "missed", 0xFFFFFF)
        self.early = number(state, "early", 0xFFFF)
        self.ersr = number(state, "ersr", 0xFF)
        self.whole = number(state, "whole", 0xFFFF)
        self.stalled = flag(state, "stalled")
        self.wire_held = flag(state, "wire_held")
        self.again = optional(state, "again", 1 << 80)
        self.give_up = optional({"give_up": state.get("give_up")}, "give_up", 1 << 80) if frames else None
        self.wait = number(state, "wait", AGAIN_LONGEST_NS, 1)
        self.size = size
        self.fifo = deque(frames)
        self.drops = counts(state, "drops")
