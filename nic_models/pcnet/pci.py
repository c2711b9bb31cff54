"""PCnet-PCI board: 32 bytes of I/O and the same 32 bytes of memory, decoded by the chip's I/O mode.

              0x00-0x0f   0x10  0x12   0x14   0x16  0x18   0x1c
    word I/O  APROM       RDP   RAP    RESET  BDP   -      -      16-bit accesses; after H_RESET
    DWord I/O APROM       RDP   -      RAP    -     RESET  BDP    32-bit accesses

A 32-bit write to 0x10 switches to DWord I/O (and goes to RDP); only H_RESET switches back. Reading RESET is
an S_RESET. An access of another width than the mode's reads all ones and writes nothing. The address PROM
can be read at any width and written while BCR2.APROMWE is set. Both windows are the same; there is no
expansion ROM.

Ref: Am79C970A data sheet (19436E), "I/O Resources", "Word I/O Mode", "Double Word I/O Mode", "PCI
     Configuration Space".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..bus.pci import MAX_LAT, MIN_GNT, STATUS, Bar, Identity, PciFunction
from . import registers as r
from .chip import Pcnet

IDENTITY = Identity(
    vendor=r.VENDOR_ID,
    device=r.DEVICE_ID,
    revision=r.REVISION,
    class_code=0x020000,
    subsystem_vendor=0,
    subsystem=0,
    status=0x0280,  # fast back-to-back, medium DEVSEL timing
    min_gnt=6,
    max_lat=255,
)
BARS = (Bar("io", r.WINDOW), Bar("mem", r.WINDOW))


STATUS_MASTER_ABORT = 0x20  # upper byte of the status register


class PcnetPci(Pcnet):
    """The card contract over both windows."""

    def __init__(
        self,
        mac: bytes,
        tx: Callable[..., bool],
        rx_ready: Callable[[], None],
        set_irq: Callable[[bool], None],
        now: Callable[[], int],
    ) -> None:
        self.function: PciFunction | None = None
        super().__init__(mac, tx, rx_ready, set_irq, now)

    def attach(self, function: PciFunction) -> None:
        """The function whose card this is."""
        self.function = function

    def granted(self) -> bool:
        """Whether the bus master bit is set."""
        return self.function is None or self.function.bus_master

    def bus_fault(self) -> None:
        """As the chip; a master abort shows in the PCI status register."""
        if self.function is not None:
            self.function.config[STATUS + 1] |= STATUS_MASTER_ABORT
        super().bus_fault()

    def set_latency(self, value: int) -> None:
        """BCR22 is the same as MIN_GNT and MAX_LAT in configuration space."""
        super().set_latency(value)
        if self.function is not None:
            self.function.config[MIN_GNT], self.function.config[MAX_LAT] = value & 0xFF, value >> 8

    def reset(self) -> None:
        """H_RESET."""
        super().reset()
        self.set_latency(r.BCR_RESET[r.PCILAT])

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        super().restore(state)
        self.set_latency(self.bcr[r.PCILAT])

    def read(self, region: int, offset: int, size: int) -> int:
        """Bus read."""
        if offset < r.APROM_BYTES:
            return int.from_bytes(self.aprom[offset : offset + size], "little")
        if self.bcr[r.BSBC] & r.DWIO:
            if size == 4:
                if offset == r.RDP:
                    value = self.csr_read(self.rap)
                    return value | self.csr[89] << 16 if self.rap == 88 else value
                if offset == r.DWIO_RAP:
                    return self.rap
                if offset == r.DWIO_BDP:
                    return self.bcr_read(self.rap)
                if offset == r.DWIO_RESET:
                    self.soft_reset()
                    return 0
        elif size == 2:
            if offset == r.RDP:
                return self.csr_read(self.rap)
            if offset == r.WIO_RAP:
                return self.rap
            if offset == r.WIO_BDP:
                return self.bcr_read(self.rap)
            if offset == r.WIO_RESET:
                self.soft_reset()
                return 0
        return (1 << 8 * size) - 1

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """Bus write."""
        if offset < r.APROM_BYTES:
            if self.bcr[r.MC] & r.APROMWE:
                end = min(offset + size, r.APROM_BYTES)
                self.aprom[offset:end] = value.to_bytes(size, "little")[: end - offset]
            return
        if size == 4:
            if not self.bcr[r.BSBC] & r.DWIO:
                if offset != r.RDP:
                    return
                self.bcr[r.BSBC] |= r.DWIO
            if offset == r.RDP:
                self.csr_write(self.rap, value & 0xFFFF)
            elif offset == r.DWIO_RAP:
                self.rap = value & 0xFF
            elif offset == r.DWIO_BDP:
                self.bcr_write(self.rap, value & 0xFFFF)
        elif size == 2 and not self.bcr[r.BSBC] & r.DWIO:
            if offset == r.RDP:
                self.csr_write(self.rap, value)
            elif offset == r.WIO_RAP:
                self.rap = value & 0xFF
            elif offset == r.WIO_BDP:
                self.bcr_write(self.rap, value)

    def read_block(self, region: int, offset: int, size: int, count: int) -> bytes:
        """String input: nothing here is a data port."""
        return b"".join(self.read(region, offset, size).to_bytes(size, "little") for _ in range(count))

    def write_block(self, region: int, offset: int, size: int, data: bytes) -> None:
        """String output."""
        for index in range(0, len(data) - size + 1, size):
            self.write(region, offset, size, int.from_bytes(data[index : index + size], "little"))
