"""Transmitter of the RTL8139: the four descriptors of C mode, and the way out to the wire for both modes.

C mode: TSAD0-3 hold addresses, TSD0-3 sizes and status. Writing a TSD with OWN = 0 hands the descriptor to
the chip, which takes them round robin, copies the frame, sends it and sets OWN and TOK and ISR.TOK. The
status bits are cleared by the next write. TSD takes dword writes only. The early transmit threshold (ERTXTH)
is stored: a frame always leaves whole, so there is no underrun but the one of a frame that the chip cannot
send.

CR.TE: when it rises, the transmitter begins at descriptor 0. When it falls, descriptors that the chip has not worked off
are the driver's again, without TOK, and a frame that the wire has not taken is gone.

With the card's ``tx_delay`` a frame is on the wire for its time before it leaves and its descriptor is given back; the
next one is fetched after that. CR.TE ends that time at once: the frame is still sent.

The wire may answer "not now": the frame is kept, its descriptor stays owned by the chip, nothing further is
sent until ``tx_ready``. With TCR.LBK = 11 frames go to the own receiver's FIFO instead of the wire, never by
a call back. With TCR.CRC the driver has put the FCS itself: it is checked and cut off, a wrong one is what a
receiver would throw away. The chip does not pad. A frame of 0 bytes, or one shorter than an Ethernet header,
is completed and not sent. With no link the frame is gone and the descriptor says carrier lost (C mode) or
link failure (C+).

Ref: RTL8139C(L) data sheet 5.2 (TSD), 5.6 (TCR), 5.17 (TSAD), 9.7 (loopback).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ..bus.dma import Engine
from ..parts.padding import wire_ns
from ..snapshot import counts, flag, number, optional, pack, section, unpack
from ..virtio import complete
from . import registers as r

if TYPE_CHECKING:
    from .chip import Rtl8139

SHORTEST = 14  # an Ethernet header
LONGEST = 65535 + 14 + 4  # a large send: the longest IP packet, its header, a tag
_FCS = 4
_C_STATUS = r.TSD_CRS | r.TSD_TABT | r.TSD_OWC | r.TSD_TOK | r.TSD_TUN

# Whose frame it is: (C mode descriptor 0..3, 0, 0), or (-1, address of the descriptor, its first word)
Owner = tuple[int, int, int]


class Transmitter:
    """TSD, TSAD, and the frame that waits for the wire."""

    __slots__ = ("chip", "current", "drops", "held", "tsad", "tsd", "until")

    def __init__(self, chip: Rtl8139) -> None:
        self.chip = chip
        self.tsd = [r.TSD_OWN] * r.TX_DESCRIPTORS
        self.tsad = [0] * r.TX_DESCRIPTORS
        self.current = 0
        self.held: tuple[bytes, bytes, Owner] | None = None
        self.until: int | None = None  # when ``held``, as it was fetched, leaves
        self.drops: dict[str, int] = {}

    def reset(self) -> None:
        """Software reset: all descriptors are the driver's, what waited is gone."""
        self.tsd = [r.TSD_OWN] * r.TX_DESCRIPTORS
        self.tsad = [0] * r.TX_DESCRIPTORS
        self.current = 0
        self.held = self.until = None

    def restart(self) -> None:
        """CR.TE rose or fell: begin at descriptor 0; a transmitter that stops forgets what it was given."""
        self.current = 0
        if self.chip.command & r.CR_TE:
            return
        if self.until is not None:
            self._launch()
        if self.held is not None:
            self.held = None
            self.drop("stopped")
        self.tsd = [tsd | r.TSD_OWN for tsd in self.tsd]

    def drop(self, reason: str) -> None:
        """Count a frame that goes nowhere."""
        self.drops[reason] = self.drops.get(reason, 0) + 1

    # C mode

    def wants(self) -> bool:
        """Whether the current descriptor is the chip's."""
        return not self.tsd[self.current] & r.TSD_OWN

    def step(self) -> Engine:
        """Fetch and send the current descriptor's frame."""
        chip = self.chip
        epoch, index = chip.epoch, self.current
        size = self.tsd[index] & r.TSD_SIZE
        data: bytes | None = b""
        if size:
            data = yield ("read", self.tsad[index], size)
            if chip.epoch != epoch or self.tsd[index] & r.TSD_OWN:
                return
        assert data is not None
        self.current = (index + 1) % r.TX_DESCRIPTORS
        self.send(bytes(data), b"", (index, 0, 0))

    def read_tsad(self) -> int:
        """TSAD: OWN, TABT, TUN and TOK of all four descriptors in one register."""
        value = 0
        for index, tsd in enumerate(self.tsd):
            if tsd & r.TSD_OWN:
                value |= 0x0001 << index
            if tsd & r.TSD_TABT:
                value |= 0x0010 << index
            if tsd & r.TSD_TUN:
                value |= 0x0100 << index
            if tsd & r.TSD_TOK:
                value |= 0x1000 << index
        return value

    def write_tsd(self, index: int, value: int, mask: int) -> None:
        """TSD of C mode; anything but a dword is ignored."""
        if mask != 0xFFFFFFFF:
            return
        if not self.tsd[index] & r.TSD_OWN and value & r.TSD_OWN and self.held and self.held[2][0] == index:
            self.held = self.until = None  # the driver takes a waiting frame back
            self.current = (index + 1) % r.TX_DESCRIPTORS
        self.tsd[index] = value & r.TSD_WRITABLE
        if not value & r.TSD_OWN:
            self.chip.kick()

    # the way out, both modes

    def send(self, frame: bytes, vnet: bytes, owner: Owner) -> None:
        """Put a frame on the wire, or keep it while it takes its time or the wire does not take it."""
        chip = self.chip
        if chip.tx_delay:
            self.held = (frame, vnet, owner)
            self.until = chip.now() + wire_ns(len(frame), 100 if chip.phy.speed100() else 10)
            return
        self._leave(frame, vnet, owner)

    def _launch(self) -> None:
        """The frame has been on the wire for its time."""
        held, self.held, self.until = self.held, None, None
        if held is not None:
            self._leave(*held)

    def run(self, now: int) -> None:
        """A frame's time on the wire may be over."""
        if self.until is not None and now >= self.until:
            self._launch()
            self.chip.kick()

    def _leave(self, frame: bytes, vnet: bytes, owner: Owner) -> None:
        """A frame as it was fetched: to the wire, or back in loopback."""
        chip = self.chip
        tcr = chip.tcr
        if tcr & r.TCR_CRC and not vnet and frame:
            frame, fcs = frame[:-_FCS], frame[-_FCS:]
            if int.from_bytes(fcs, "little") != crc32(frame):
                self.drop("fcs")
                self.finish(owner, True)
                return
        if len(frame) < SHORTEST:
            if frame:
                self.drop("short")
            self.finish(owner, True)
        elif tcr & r.TCR_LBK == r.TCR_LBK:
            whole = complete(frame, vnet)
            if whole is None:
                self.drop("loopback offload")
            else:
                chip.rx.loop(whole)
            self.finish(owner, True)
        elif not chip.phy.link:
            self.drop("link")
            self.finish(owner, False)
        elif chip.wire(frame, vnet):
            self.finish(owner, True)
        else:
            self.held = (frame, vnet, owner)

    def retry(self) -> None:
        """The wire takes frames again."""
        if self.held is not None and self.until is None:
            frame, vnet, owner = self.held
            self.held = None
            if self.chip.phy.link:
                if not self.chip.wire(frame, vnet):
                    self.held = (frame, vnet, owner)
                    return
                self.finish(owner, True)
            else:
                self.drop("link")
                self.finish(owner, False)
        self.chip.kick()

    def finish(self, owner: Owner, sent: bool) -> None:
        """Give the descriptor back; ``sent`` is False where the link was down."""
        chip = self.chip
        index, address, word = owner
        if sent:
            chip.tally.tx_ok += 1
        else:
            chip.tally.tx_error += 1
        if index >= 0:
            self.tsd[index] = (
                self.tsd[index] & ~_C_STATUS | r.TSD_OWN | r.TSD_TOK | (0 if sent else r.TSD_CRS)
            )
            chip.interrupt(r.INT_TOK)
        elif sent:
            chip.post(address, word.to_bytes(4, "little"), r.INT_TOK)
        else:
            chip.post(address, (word | r.TD_TES | r.TD_LNKF).to_bytes(4, "little"), r.INT_TER)

    # state

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state."""
        state: dict[str, Any] = {
            "tsd": list(self.tsd),
            "tsad": list(self.tsad),
            "current": self.current,
            "drops": dict(self.drops),
            "holds": self.held is not None,
            "until": self.until,
        }
        if self.held is not None:
            frame, vnet, (index, address, word) = self.held
            state["held"] = {
                "frame": pack(frame),
                "vnet": pack(vnet),
                "index": index,
                "address": address,
                "word": word,
            }
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        self.tsd = words(state, "tsd", r.TX_DESCRIPTORS, 0xFFFFFFFF)
        self.tsad = words(state, "tsad", r.TX_DESCRIPTORS, 0xFFFFFFFF)
        self.current = number(state, "current", r.TX_DESCRIPTORS - 1)
        self.drops = counts(state, "drops")
        self.held = self.until = None
        if flag(state, "holds"):
            held = section(state, "held")
            owner = (
                number(held, "index", r.TX_DESCRIPTORS - 1, -1),
                number(held, "address", (1 << 64) - 1),
                number(held, "word", 0xFFFFFFFF),
            )
            self.until = optional({"until": state.get("until")}, "until", 1 << 80)
            self.held = (unpack(held, "frame", limit=LONGEST), unpack(held, "vnet", limit=10), owner)


def words(state: Mapping[str, Any], name: str, count: int, high: int) -> list[int]:
    """``state[name]`` as ``count`` numbers of 0..``high``."""
    values = state.get(name)
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"snapshot: {name} is not {count} numbers")
    return [number({name: value}, name, high) for value in values]
