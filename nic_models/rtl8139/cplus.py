"""C+ mode of the RTL8139C+: descriptor rings for transmit (normal and high priority) and receive.

A descriptor is 16 bytes, little-endian: command or status word, VLAN word, 64-bit buffer address. OWN gives
it to the chip; EOR marks the ring's last one; a ring has at most 64. FS and LS mark a frame's first and last
buffer.

Transmit: TPPoll starts a ring. Each step reads one descriptor and its buffer, gives the descriptor back, and
at LS sends what was collected; at a descriptor that is the driver's the ring stops with TDU. High priority
goes first. Receive: the descriptors that one frame needs are read first, then buffers, then status words (the
first descriptor last) are written. When one of them is the driver's, RDU is set, the frame stays in the FIFO and the
wire is held. The frame is lost, and MPC counts it, when no descriptor came for ``HOLD_NS``. There is no doorbell for receive buffers: the chip looks again at each write
to ISR, IMR, CR, C+CR, RDSAR or TPPoll, and after ``RETRY_NS``, doubled up to ``RETRY_LONGEST_NS``; then RDU
is set again too, as the next frame of a real wire would, for a driver whose acknowledgement came late.

Limits: one TPPoll handles at most 64 descriptors a ring, so a ring that never ends, or whose write-back is
lost, costs a bounded amount of work; a frame is at most ``LONGEST`` bytes, without large send ``MAX_WIRE``; a
received frame that no ring of 64 buffers can hold is dropped.

Ref: RTL8139C(L)+ data sheet chapter 9 (descriptors), 5.x (TPPoll, C+CR, RDSAR, TNPDS, THPDS).
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ..bus.dma import Engine
from ..parts.padding import pad
from ..snapshot import flag, number, optional, pack, section, unpack
from . import registers as r
from .offload import OFFLOADS, add_tag, receive_flags, take_tag, transmit
from .transmitter import LONGEST

if TYPE_CHECKING:
    from .chip import Rtl8139

MAX_WIRE = 8187
RETRY_NS = 1_000_000
RETRY_LONGEST_NS = 64_000_000
HOLD_NS = 1_000_000_000  # how long a frame waits for descriptors before it is lost

_DESCRIPTOR = Struct("<IIQ")
_STATUS = Struct("<II")
_FCS = Struct("<I")
_M64 = 0xFFFFFFFFFFFFFFFF
_KEEP = r.D_EOR | r.D_FS | r.D_LS | r.TD_LENGTH  # what a transmit status word keeps of the command


class TxRing:
    """One transmit ring."""

    __slots__ = ("base", "budget", "first", "frame", "index", "overlong")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """No ring."""
        self.base = 0
        self.rewind()

    def rewind(self) -> None:
        """Back to the first descriptor, nothing collected."""
        self.index = self.budget = 0
        self.frame: bytearray | None = None  # what was collected since FS
        self.first = (0, 0)  # words of the FS descriptor
        self.overlong = False

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state."""
        return {
            "base": self.base,
            "index": self.index,
            "budget": self.budget,
            "open": self.frame is not None,
            "frame": pack(self.frame or b""),
            "first": list(self.first),
            "overlong": self.overlong,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        first = state.get("first")
        if not isinstance(first, list) or len(first) != 2:
            raise ValueError("snapshot: first is not two words")
        words = [number({"first": word}, "first", 0xFFFFFFFF) for word in first]
        self.base = number(state, "base", _M64)
        self.index = number(state, "index", r.RING_DESCRIPTORS - 1)
        self.budget = number(state, "budget", r.RING_DESCRIPTORS)
        frame = bytearray(unpack(state, "frame", limit=LONGEST))
        self.frame = frame if flag(state, "open") else None
        self.first = (words[0], words[1])
        self.overlong = flag(state, "overlong")


class Cplus:
    """C+ registers and both directions."""

    __slots__ = (
        "chip",
        "counted",
        "cpcr",
        "dtccr",
        "ettr",
        "give_up",
        "high",
        "normal",
        "rdsar",
        "remind",
        "retry",
        "rx_index",
        "wait",
    )

    def __init__(self, chip: Rtl8139) -> None:
        self.chip = chip
        self.normal = TxRing()
        self.high = TxRing()
        self.reset()

    def reset(self) -> None:
        """Software reset: C+ mode is off."""
        self.cpcr = self.ettr = self.dtccr = self.rdsar = self.rx_index = 0
        self.normal.reset()
        self.high.reset()
        self.settle()

    def settle(self) -> None:
        """No frame waits for a descriptor."""
        self.counted = False  # RDU was told of the frame that waits
        self.give_up: int | None = None  # when that frame is lost
        self.remind = False  # it is the timer that looks again
        self.retry: int | None = None  # when to look again
        self.wait = RETRY_NS

    # registers

    def active(self) -> bool:
        """Whether 0x10-0x2f are the C+ registers."""
        return bool(self.cpcr & (r.CPCR_RXEN | r.CPCR_TXEN))

    def write_cpcr(self, value: int, mask: int) -> None:
        """C+CR."""
        old = self.cpcr
        mask &= r.CPCR_WRITABLE
        self.cpcr = old & ~mask | value & mask
        if (old ^ self.cpcr) & r.CPCR_TXEN:
            self.chip.epoch += 1
            self.restart_tx()
        if (old ^ self.cpcr) & r.CPCR_RXEN:
            self.restart_rx()
            self.chip.rx.flush()
        self.nudge()

    def write_ring(self, ring: TxRing, high: bool, value: int, mask: int) -> None:
        """A half of TNPDS or THPDS; 256-byte aligned."""
        ring.base = _half(ring.base, high, value, mask) & ~0xFF
        self.chip.epoch += 1
        ring.rewind()

    def write_rdsar(self, high: bool, value: int, mask: int) -> None:
        """A half of RDSAR; 256-byte aligned."""
        self.rdsar = _half(self.rdsar, high, value, mask) & ~0xFF
        self.chip.epoch += 1
        self.rx_index = 0
        self.nudge()

    def write_dtccr(self, high: bool, value: int, mask: int) -> None:
        """A half of DTCCR; Cmd in the low one starts the dump."""
        self.dtccr = _half(self.dtccr, high, value, mask) & ~0x37
        if self.dtccr & r.DTCCR_CMD:
            self.chip.kick()

    def write_poll(self, value: int, mask: int) -> None:
        """TPPoll: start the rings, or ask for a software interrupt."""
        value &= mask
        if value & r.POLL_FSWINT:
            self.chip.interrupt(r.INT_SWINT)
        if self.transmits():
            if value & r.POLL_HPQ:
                self.high.budget = r.RING_DESCRIPTORS
            if value & r.POLL_NPQ:
                self.normal.budget = r.RING_DESCRIPTORS
            self.chip.kick()
        self.nudge()

    def read_poll(self) -> int:
        """TPPoll: which rings are being worked on."""
        return (r.POLL_HPQ if self.high.budget else 0) | (r.POLL_NPQ if self.normal.budget else 0)

    def write_ettr(self, value: int, mask: int) -> None:
        """C+ early transmit threshold: stored, frames leave whole."""
        self.ettr = value & 0x3F

    def restart_rx(self) -> None:
        """CR.RE changed: back to the first receive descriptor."""
        self.rx_index = 0
        self.settle()

    def restart_tx(self) -> None:
        """CR.TE or C+CR.TxEn changed: back to the first transmit descriptors."""
        self.normal.rewind()
        self.high.rewind()

    # transmit

    def transmits(self) -> bool:
        """C+ transmitter on."""
        return bool(self.cpcr & r.CPCR_TXEN and self.chip.command & r.CR_TE)

    def ready(self) -> TxRing | None:
        """The ring that has work, high priority first; not in the middle of the other's frame."""
        high, normal = self.high, self.normal
        if high.budget and normal.frame is None:
            return high
        if normal.budget and high.frame is None:
            return normal
        return high if high.budget else None

    def step(self, ring: TxRing) -> Engine:
        """One transmit descriptor."""
        chip = self.chip
        epoch, index = chip.epoch, ring.index
        at = ring.base + index * r.DESCRIPTOR_BYTES & _M64
        ring.budget -= 1
        raw = yield ("read", at, r.DESCRIPTOR_BYTES)
        if chip.epoch != epoch:
            return
        assert raw is not None
        word, vlan, address = _DESCRIPTOR.unpack(raw)
        if not word & r.D_OWN:
            ring.budget = 0
            chip.interrupt(r.INT_TDU)
            return
        if word & r.D_FS:
            if ring.frame is not None:
                chip.out.drop("unfinished")
            ring.frame, ring.first, ring.overlong = bytearray(), (word, vlan), False
        length = word & r.TD_LENGTH
        if length and ring.frame is not None:
            if len(ring.frame) + length > LONGEST:
                ring.overlong = True
            else:
                data = yield ("read", address, length)
                if chip.epoch != epoch or ring.frame is None:
                    return
                assert data is not None
                ring.frame += data
        ring.index = 0 if word & r.D_EOR or index + 1 >= r.RING_DESCRIPTORS else index + 1
        chip.tdokla = at & 0xFFFF
        status = word & _KEEP
        if not word & r.D_LS:
            chip.post(at, status.to_bytes(4, "little"), 0)
            return
        frame, ring.frame = ring.frame, None
        if frame is None or ring.overlong:
            chip.out.drop("headless" if frame is None else "oversize")
            chip.post(at, status.to_bytes(4, "little"), r.INT_TOK)
            return
        self._send(
            bytes(frame), word | ring.first[0], vlan if vlan & r.TD_TAGC else ring.first[1], at, status
        )

    def _send(self, frame: bytes, word: int, vlan: int, at: int, status: int) -> None:
        """A whole frame: tag, offload, and out."""
        vnet = b""
        if vlan & r.TD_TAGC and len(frame) >= 12:
            frame = add_tag(frame, vlan)
        if word & OFFLOADS:
            frame, vnet = transmit(frame, word)
        if len(frame) > MAX_WIRE and not (vnet and vnet[1]):
            self.chip.out.drop("oversize")
            self.chip.post(at, status.to_bytes(4, "little"), r.INT_TOK)
            return
        self.chip.out.send(frame, vnet, (-1, at, status))

    # receive

    def store(self) -> Engine:
        """Move the head of the FIFO into the receive ring."""
        chip = self.chip
        rx = chip.rx
        if not self.rdsar:
            rx.fifo.popleft()
            rx.drop("no ring")
            return
        epoch = chip.epoch
        whole, header = rx.fifo[0]
        frame, vlan = take_tag(whole) if self.cpcr & r.CPCR_RXVLAN else (whole, 0)
        frame = pad(frame)
        need = len(frame) + 4
        index = start = self.rx_index
        slots: list[tuple[int, int, int, int]] = []  # where, word, buffer, size
        while need > 0:
            at = self.rdsar + index * r.DESCRIPTOR_BYTES & _M64
            raw = yield ("read", at, r.DESCRIPTOR_BYTES)
            if chip.epoch != epoch or self.rx_index != start or not rx.fifo or rx.fifo[0][0] is not whole:
                return
            assert raw is not None
            word, _, buffer = _DESCRIPTOR.unpack(raw)
            if not word & r.D_OWN:
                self._stall()
                return
            size = word & r.RD_LENGTH
            slots.append((at, word, buffer, min(size, need)))
            need -= size
            index = 0 if word & r.D_EOR or index + 1 >= r.RING_DESCRIPTORS else index + 1
            if need > 0 and (index == start or len(slots) >= r.RING_DESCRIPTORS):
                rx.fifo.popleft()
                rx.drop("oversize")
                self.settle()
                return
        rx.fifo.popleft()
        self.rx_index = index
        self.settle()
        self._scatter(frame, _FCS.pack(crc32(whole)), header, vlan, slots)
        chip.tally.received(header)

    def _scatter(
        self, frame: bytes, fcs: bytes, header: int, vlan: int, slots: list[tuple[int, int, int, int]]
    ) -> None:
        """Post the writes of one received frame; ``fcs`` is that of the wire, over the tag too."""
        chip = self.chip
        status = len(frame) + 4 | _header_bits(header)
        if self.cpcr & r.CPCR_RXCHKSUM:
            status |= receive_flags(frame)
        data = frame + fcs
        if len(slots) == 1:
            at, word, buffer, _ = slots[0]
            chip.post(buffer, data, 0)
            chip.post(at, _STATUS.pack(word & r.D_EOR | r.D_FS | r.D_LS | status, vlan), r.INT_ROK)
            return
        done = 0
        words = []
        last = len(slots) - 1
        for number_, (at, word, buffer, size) in enumerate(slots):
            if size:
                chip.post(buffer, data[done : done + size], 0)
            done += size
            bits = word & r.D_EOR | (status & ~r.RD_LENGTH) | (r.D_FS if number_ == 0 else 0)
            bits |= r.D_LS | (status & r.RD_LENGTH) if number_ == last else size
            words.append((at, _STATUS.pack(bits, vlan)))
        for at, packed in reversed(words[1:]):
            chip.post(at, packed, 0)
        chip.post(words[0][0], words[0][1], r.INT_ROK)

    def _stall(self) -> None:
        """The next descriptor is the driver's."""
        rx = self.chip.rx
        now = self.chip.now()
        if self.give_up is None:
            self.give_up = now + HOLD_NS
        rx.stalled = True
        self.retry = min(now + self.wait, self.give_up)
        self.wait = min(2 * self.wait, RETRY_LONGEST_NS)
        if not self.counted:
            self.counted = True
            self.chip.interrupt(r.INT_RXOVW)
        elif self.remind:
            self.chip.interrupt(r.INT_RXOVW)
        self.remind = False

    def nudge(self) -> None:
        """The driver may have given descriptors: look again."""
        if self.retry is not None:
            self.retry = None
            self.chip.rx.stalled = False
            self.chip.kick()

    def run(self, now: int) -> None:
        """The time to look again has come; another frame would have come too, so RDU is set again if in vain. A frame
        that has waited for too long is lost."""
        if self.retry is None or now < self.retry:
            return
        rx = self.chip.rx
        if self.give_up is not None and now >= self.give_up and rx.fifo:
            self.settle()
            rx.stalled = False
            rx.fifo.popleft()
            rx.drop("full")
            rx.miss(r.INT_RXOVW)
            self.chip.kick()
        else:
            self.remind = True
            self.nudge()

    # state

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state."""
        return {
            "cpcr": self.cpcr,
            "ettr": self.ettr,
            "dtccr": self.dtccr,
            "rdsar": self.rdsar,
            "rx_index": self.rx_index,
            "counted": self.counted,
            "remind": self.remind,
            "retry": self.retry,
            "give_up": self.give_up,
            "wait": self.wait,
            "normal": self.normal.snapshot(),
            "high": self.high.snapshot(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        self.cpcr = number(state, "cpcr", 0xFFFF)
        self.ettr = number(state, "ettr", 0xFF)
        self.dtccr = number(state, "dtccr", _M64)
        self.rdsar = number(state, "rdsar", _M64)
        self.rx_index = number(state, "rx_index", r.RING_DESCRIPTORS - 1)
        self.counted = flag(state, "counted")
        self.remind = flag(state, "remind")
        self.retry = optional(state, "retry", 1 << 80)
        self.give_up = optional({"give_up": state.get("give_up")}, "give_up", 1 << 80)
        self.wait = number(state, "wait", RETRY_LONGEST_NS, 1)
        self.normal.restore(section(state, "normal"))
        self.high.restore(section(state, "high"))


def _half(whole: int, high: bool, value: int, mask: int) -> int:
    """``whole``, 64 bits, with one half written under ``mask``."""
    shift = 32 if high else 0
    return whole & ~(mask << shift) | (value & mask) << shift


def _header_bits(header: int) -> int:
    """Descriptor bits for a C mode header's status."""
    bits = 0
    if header & r.RX_MAR:
        bits |= r.RD_MAR
    if header & r.RX_PAM:
        bits |= r.RD_PAM
    if header & r.RX_BAR:
        bits |= r.RD_BAR
    if header & r.RX_LONG:
        bits |= r.RD_RWT | r.RD_RES
    return bits
