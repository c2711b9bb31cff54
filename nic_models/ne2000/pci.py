"""RealTek RTL8029(AS): an NE2000 as a PCI function, with its identification registers and page 3.

Beyond the NE2000: page 0 offsets 0x0a/0x0b read 'P' 'C'; page 3 holds the serial EEPROM's pins (9346CR), the
configuration registers and the chip id; the data port takes 32-bit accesses. 9346CR.EEM1 EEM0 choose the
mode: 00 normal, 01 auto-load (configuration registers back to the EEPROM's, then normal), 10 the pins drive
the 93C46, 11 the configuration registers may be written. The I/O window is 256 bytes of which 32 are decoded.

Ref: Realtek RTL8029AS preliminary specification LS009.0, 1997-01-16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..bus.pci import Bar, Identity
from ..parts.eeprom import Eeprom93C46
from ..snapshot import number, section
from . import registers as r
from .board import Ne2000
from .dp8390 import OVERFLOW_GRACE

IDENTITY = Identity(vendor=0x10EC, device=0x8029, revision=0, class_code=0x020000)
BARS = (Bar("io", 256),)
ID = (0x50, 0x43)
ASID = (0x29, 0x80)
EEM_MASK, EEM_NORMAL, EEM_LOAD, EEM_PROGRAM, EEM_CONFIG = 0xC0, 0x00, 0x40, 0x80, 0xC0
EECS, EESK, EEDI, EEDO = 0x08, 0x04, 0x02, 0x01
CONFIG3_FUDUP = 0x40  # full duplex
_CONFIG2_WRITABLE, _CONFIG3_WRITABLE = 0xF0, 0x76


class Ne2000Pci(Ne2000):
    """The PCI board: card contract over BAR 0."""

    model = "ne2k_pci"

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
        super().__init__(mac, tx, rx_ready, set_irq, now, overflow_grace=overflow_grace)
        words = [IDENTITY.device, IDENTITY.vendor] + [
            int.from_bytes(mac[n : n + 2], "little") for n in (0, 2, 4)
        ]
        self.eeprom = Eeprom93C46(words)
        self.eem = 0  # the mode and pin bits of 9346CR as written
        self.config2 = self.config3 = 0
        install = self.chip.install
        install(0, r.ID0, lambda: ID[0], None)
        install(0, r.ID1, lambda: ID[1], None)
        install(3, r.CR9346, self._read_9346, self._write_9346)
        install(3, r.CONFIG0, lambda: 0, None)
        install(3, r.CONFIG2, lambda: self.config2, self._write_config2)
        install(3, r.CONFIG3, lambda: self.config3, self._write_config3)
        install(3, r.ASID0, lambda: ASID[0], None)
        install(3, r.ASID1, lambda: ASID[1], None)

    def _read_9346(self) -> int:
        if self.eem & EEM_MASK == EEM_PROGRAM:
            return self.eem & ~EEDO | self.eeprom.do
        return self.eem & EEM_MASK

    def _write_9346(self, value: int) -> None:
        mode = value & EEM_MASK
        if mode == EEM_LOAD:
            self.config2 = self.config3 = 0
            self.eem = EEM_NORMAL
            return
        if mode == EEM_PROGRAM:
            self.eeprom.drive(value >> 3 & 1, value >> 2 & 1, value >> 1 & 1)
        elif self.eem & EEM_MASK == EEM_PROGRAM:
            self.eeprom.drive(0, 0, 0)
        self.eem = value & ~EEDO

    def _write_config2(self, value: int) -> None:
        if self.eem & EEM_MASK == EEM_CONFIG:
            self.config2 = value & _CONFIG2_WRITABLE

    def _write_config3(self, value: int) -> None:
        if self.eem & EEM_MASK == EEM_CONFIG:
            self.config3 = value & _CONFIG3_WRITABLE

    def reset(self) -> None:
        """RST#: the chip, and the configuration registers as the EEPROM has them."""
        super().reset()
        self.eem = self.config2 = self.config3 = 0
        self.eeprom.drive(0, 0, 0)

    def snapshot(self) -> dict[str, Any]:
        """State as JSON-able data."""
        own = {"eem": self.eem, "config2": self.config2, "config3": self.config3}
        return super().snapshot() | {"eeprom": self.eeprom.snapshot(), "own": own}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        own = section(state, "own")
        values = [number(own, name, 0xFF) for name in ("eem", "config2", "config3")]
        super().restore(state)
        self.eeprom.restore(section(state, "eeprom"))
        self.eem, self.config2, self.config3 = values
