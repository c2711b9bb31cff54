"""The RTL8139 as a PCI function: identity, regions, bus mastering, and what the EEPROM says of it: subsystem ids,
MNGNT and MXLAT, fast back-to-back.

BAR 0 is the I/O window, BAR 1 the memory window, 256 bytes each, the same registers. ``attach`` ties the chip
to the function that holds it: writes to the command register switch its engine on and off, and reset loads
what comes from the EEPROM.

Ref: RTL8139C(L) data sheet chapter 7 (PCI configuration space).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..bus.pci import MAX_LAT, MIN_GNT, STATUS, SUBSYSTEM, SUBSYSTEM_VENDOR, Bar, Identity, PciFunction
from . import registers as r
from .chip import Rtl8139

STATUS_MEDIUM = 0x0200  # DEVSEL timing
STATUS_FAST = 0x80  # fast back-to-back, lower byte
IDENTITY = Identity(
    vendor=r.VENDOR_ID,
    device=r.DEVICE_ID,
    revision=r.REV_CPLUS,
    class_code=0x020000,
    status=STATUS_MEDIUM,
)
IDENTITY_C = replace(IDENTITY, revision=r.REV_C)
BARS = (Bar("io", r.WINDOW), Bar("mem", r.WINDOW))


class Rtl8139Pci(Rtl8139):
    """RTL8139C+, revision 0x20 (Linux: 8139cp)."""

    function: PciFunction | None = None

    def attach(self, function: PciFunction) -> None:
        """The function that this card is behind; its command register rules the engine from now on."""
        self.function = function
        function.on_write = self._config_written
        self._load()
        self.set_bus_master(function.bus_master)

    def _config_written(self, _offset: int) -> None:
        function = self.function
        if function is not None and function.bus_master != self.bus_master:
            self.set_bus_master(function.bus_master)

    def _load(self) -> None:
        """What RST# and auto-load have from the EEPROM."""
        if self.function is not None:
            vendor, device = self.config.subsystem()
            config = self.function.config
            config[SUBSYSTEM_VENDOR : SUBSYSTEM_VENDOR + 2] = vendor.to_bytes(2, "little")
            config[SUBSYSTEM : SUBSYSTEM + 2] = device.to_bytes(2, "little")
            config[MIN_GNT], config[MAX_LAT] = self.config.latencies()
            fast = STATUS_FAST if self.config.config3 & r.CONFIG3_FBTBEN else 0
            config[STATUS] = config[STATUS] & ~STATUS_FAST | fast

    def power_on(self) -> None:
        """RST# and auto-load."""
        super().power_on()
        self._load()

    def reset(self) -> None:
        """RST#."""
        super().reset()
        if self.function is not None:
            self.set_bus_master(self.function.bus_master)


class Rtl8139CPci(Rtl8139Pci):
    """RTL8139C, revision 0x10 (Linux: 8139too)."""

    def __init__(
        self,
        mac: bytes,
        tx: Callable[..., bool],
        rx_ready: Callable[[], None],
        set_irq: Callable[[bool], None],
        now: Callable[[], int],
    ) -> None:
        super().__init__(mac, tx, rx_ready, set_irq, now, revision=r.REV_C)
