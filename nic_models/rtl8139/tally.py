"""Tally counters of the RTL8139C+, and their dump by DMA (DTCCR).

The driver writes a 64-byte aligned address with bit 3 (Cmd) set; the chip writes 64 bytes there and clears
the bit. Collisions, aborts, underruns and alignment errors do not happen on an emulated wire: those counters
stay 0. Counters wrap at their own width and are cleared by reset.

Ref: RTL8139C(L)+ data sheet, DTCCR (0x10-0x17).
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Any

from ..snapshot import number
from . import registers as r

# TxOk RxOk TxERR RxERR MissPkt FAE Tx1Col TxMCol RxOkPhy RxOkBrd RxOkMul TxAbt TxUndrn
_LAYOUT = Struct("<QQQIHHIIQQIHH")
_NAMES = ("tx_ok", "rx_ok", "tx_error", "rx_error", "miss", "physical", "broadcast", "multicast", "underrun")
_U16, _U32, _U64 = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


class Tally:
    """The counters of one chip."""

    __slots__ = _NAMES

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """All to 0."""
        self.tx_ok = self.rx_ok = self.tx_error = self.rx_error = self.miss = 0
        self.physical = self.broadcast = self.multicast = self.underrun = 0

    def received(self, status: int) -> None:
        """A frame was stored; ``status`` is its C mode header."""
        self.rx_ok += 1
        if status & r.RX_PAM:
            self.physical += 1
        elif status & r.RX_BAR:
            self.broadcast += 1
        elif status & r.RX_MAR:
            self.multicast += 1

    def missed(self) -> None:
        """A frame found no room."""
        self.miss += 1
        self.rx_error += 1

    def dump(self) -> bytes:
        """The 64 bytes that DTCCR writes."""
        return _LAYOUT.pack(
            self.tx_ok & _U64,
            self.rx_ok & _U64,
            self.tx_error & _U64,
            self.rx_error & _U32,
            self.miss & _U16,
            0,
            0,
            0,
            self.physical & _U64,
            self.broadcast & _U64,
            self.multicast & _U32,
            0,
            self.underrun & _U16,
        )

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state."""
        return {name: getattr(self, name) for name in _NAMES}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        for name in _NAMES:
            setattr(self, name, number(state, name, _U64))
