"""The NE2000 board round a DP8390: address decoding, station PROM, data port, reset port.

    0x00-0x0f  the chip's registers, bytes (wider accesses are split by the bus)
    0x10-0x17  data port of the remote DMA: 8, 16 or 32 bits wide
    0x18-0x1f  reset port: a read resets the chip, a write does nothing

Local memory as the remote DMA sees it: 0x0000 station PROM, 16 words, each byte doubled (a byte-wide read
sees each twice, by which drivers recognise a 16-bit board): MAC, zeros, 0x57 0x57 in words 14 and 15;
0x4000-0x7fff packet RAM. The chip's own DMA (transmit, receive) sees the RAM at every address, folded into 16 KiB.

Ref: Novell NE2000 / National Semiconductor AN-729; DP8390D data sheet; Realtek RTL8029AS specification
LS009.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..rxfilter import RxFilter
from ..snapshot import section
from . import registers as r
from .dp8390 import OVERFLOW_GRACE, Dp8390
from .remote_dma import LocalMemory

PROM_WORDS = 16
SIGNATURE = 0x57  # PROM words 14 and 15 of a 16-bit board


def station_prom(mac: bytes) -> bytes:
    """The 32 bytes of PROM for ``mac`` (6 bytes)."""
    content = mac + bytes(PROM_WORDS - len(mac) - 2) + bytes((SIGNATURE, SIGNATURE))
    return bytes(byte for byte in content for _ in range(2))


class Ne2000:
    """Board common to ISA and PCI: the card contract over one I/O window.

    ``model``: the name that options use; ``mac``: six bytes. The callables are those of ``card``.
    """

    model = "ne2000"

    def __init__(
        self,
        mac: bytes,
        tx: Callable[..., bool],
        rx_ready: Callable[[], None],
        set_irq: Callable[[bool], None],
        now: Callable[[], int],
        *,
        overflow_grace: int = OVERFLOW_GRACE,
    ) -> None:
        if len(mac) != 6 or mac[0] & 1:
            raise ValueError(f"not a station address: {mac.hex(':')}")
        self.mac = mac
        self.memory = LocalMemory()
        self.memory.cells[: 2 * PROM_WORDS] = station_prom(mac)
        self.chip = Dp8390(self.memory, tx, rx_ready, set_irq, now, overflow_grace=overflow_grace)
        self.remote = self.chip.remote
        self.receive = self.chip.receive  # no board logic between the wire and the chip
        self.receive_raw = self.chip.receive_raw
        self._readers = self.chip.readers
        self._writers = self.chip.writers

    @property
    def tx_delay(self) -> bool:
        """See ``card``."""
        return self.chip.tx_delay

    @tx_delay.setter
    def tx_delay(self, on: bool) -> None:
        self.chip.tx_delay = on

    @property
    def counters(self) -> dict[str, int]:
        """Frames that were lost or refused, by reason."""
        return self.chip.counters

    def read(self, region: int, offset: int, size: int) -> int:
        """Bus read."""
        if offset < r.DATA_PORT:
            if size == 1:
                return self._readers[self.chip.page | offset]()
            return self._split_read(offset, size)
        if offset < r.RESET_PORT:
            return self.remote.read(size)
        if offset < r.BOARD_PORTS:
            self.chip.reset()
            return 0
        return (1 << 8 * size) - 1

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """Bus write."""
        if offset < r.DATA_PORT:
            if size == 1:
                self._writers[self.chip.page | offset](value & 0xFF)
                return
            for index in range(size):
                if offset + index < r.DATA_PORT:
                    self._writers[self.chip.page | offset + index](value >> 8 * index & 0xFF)
        elif offset < r.RESET_PORT:
            self.remote.write(size, value)

    def _split_read(self, offset: int, size: int) -> int:
        value = 0
        for index in range(size):
            byte = self._readers[self.chip.page | offset + index]() if offset + index < r.DATA_PORT else 0xFF
            value |= byte << 8 * index
        return value

    def read_block(self, region: int, offset: int, size: int, count: int) -> bytes:
        """String input; at the data port in one go."""
        if r.DATA_PORT <= offset < r.RESET_PORT:
            return self.remote.read_block(size, count)
        return b"".join(self.read(region, offset, size).to_bytes(size, "little") for _ in range(count))

    def write_block(self, region: int, offset: int, size: int, data: bytes) -> None:
        """String output; at the data port in one go."""
        if r.DATA_PORT <= offset < r.RESET_PORT:
            self.remote.write_block(size, data)
            return
        for index in range(0, len(data) - size + 1, size):
            self.write(region, offset, size, int.from_bytes(data[index : index + size], "little"))

    def tx_ready(self) -> None:
        """The wire takes frames again."""
        self.chip.tx_ready()

    def rx_filter(self) -> RxFilter:
        """What the receiver lets pass."""
        chip = self.chip
        rcr = chip.rcr
        started = bool(chip.cr & r.STA) and not chip.tcr & r.TCR_LB and not rcr & r.RCR_MON
        return RxFilter(
            chip.par,
            started,
            "all" if rcr & r.RCR_PRO else "normal",
            bool(rcr & r.RCR_AB),
            chip.mar if rcr & r.RCR_AM else 0,
        )

    def set_link(self, up: bool) -> None:
        """The cable was plugged or pulled."""
        self.chip.set_link(up)

    def reset(self) -> None:
        """Hardware reset."""
        self.chip.reset()

    def next_deadline(self) -> int | None:
        """When ``run`` is due, ns."""
        return self.chip.next_deadline()

    def run(self, now: int) -> None:
        """Timers."""
        self.chip.run(now)

    def snapshot(self) -> dict[str, Any]:
        """State as JSON-able data; the MAC is configuration, not state."""
        return {"model": self.model, "chip": self.chip.snapshot()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        if not isinstance(state, Mapping) or state.get("model") != self.model:
            raise ValueError(f"snapshot: not of a {self.model}")
        self.chip.restore(section(state, "chip"))
