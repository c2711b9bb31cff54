"""Configuration of the RTL8139: 9346CR and the EEPROM, Config0-5, media status, PHY registers, storage
without effect.

9346CR.EEM: 00 normal; 01 auto-load: everything is loaded from the EEPROM as at power-on, then normal again;
10 the pins drive the 93C46; 11 Config0-4 and the speed, negotiation and duplex bits of BMCR can be written
(Config5 always).

EEPROM words: 0 must be 0x8129 (otherwise the defaults of an empty EEPROM are used and the station address is
0xff..); 3, 4 subsystem; 5 MNGNT, MXLAT; 6 MSRBMCR (bits 7, 6 to MSR; 5, 4, 0 to BMCR 13, 12, 8) and Config3;
7-9 station address; 10 Config0, Config1; 12 high byte Config4; 15 high byte Config5.

Ref: RTL8139C(L) data sheet 5.11-5.25 and chapter 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..parts.eeprom import Eeprom93C46
from ..parts.mii import ANAR, Phy
from ..parts.register_file import RegisterFile
from ..snapshot import number, pack, section, unpack
from . import registers as r

if TYPE_CHECKING:
    from .chip import Rtl8139

_BYTES = ("cr9346", "config0", "config1", "config3", "config4", "config5", "txfce")
_WORDS = ("cscr", "mulint", "disconnects")
_STORE = r.WAKEUP_END - r.WAKEUP


class Config:
    """EEPROM, PHY and configuration registers of one chip."""

    __slots__ = (*_BYTES, *_WORDS, "chip", "eeprom", "parms", "phy", "store")

    def __init__(self, chip: Rtl8139, eeprom: Eeprom93C46, phy: Phy) -> None:
        self.chip = chip
        self.eeprom = eeprom
        self.phy = phy
        self.store = bytearray(_STORE)  # CRC0-7, Wakeup0-7, LSBCRC0-7
        self.parms = [0, 0, 0]  # PHY1_PARM, TW_PARM, PHY2_PARM
        self.cr9346 = 0
        self.load()

    def load(self) -> None:
        """Power-on and auto-load: everything from the EEPROM."""
        words = self.eeprom.words
        valid = words[0] == r.EEPROM_ID
        self.cr9346 = 0
        self.config0 = words[10] & r.CONFIG0_WRITABLE if valid else 0
        self.config1 = words[10] >> 8 & r.CONFIG1_WRITABLE | r.CONFIG1_MAPPED if valid else r.CONFIG1_MAPPED
        self.config3 = words[6] >> 8 if valid else 0x01
        self.config4 = words[12] >> 8 & r.CONFIG4_WRITABLE if valid else 0
        self.config5 = words[15] >> 8 & r.CONFIG5_WRITABLE if valid else 0
        media = words[6] & 0xFF if valid else r.MSR_TXFCE | r.MSR_RXFCE | 0x10
        self.txfce = media & (r.MSR_TXFCE | r.MSR_RXFCE)
        self.phy.power_on = (media & 0x30) << 8 | (media & 1) << 8
        self.phy.reset()
        self.cscr = r.CSCR_DEFAULT
        self.mulint = self.disconnects = 0
        self.parms = [0, 0, 0]
        self.store[:] = bytes(_STORE)
        address = b"".join(word.to_bytes(2, "little") for word in words[r.EEPROM_MAC : r.EEPROM_MAC + 3])
        self.chip.idr = address if valid else b"\xff" * 6

    def subsystem(self) -> tuple[int, int]:
        """Subsystem vendor and device of the PCI header."""
        words = self.eeprom.words
        return (words[3], words[4]) if words[0] == r.EEPROM_ID else (r.VENDOR_ID, r.DEVICE_ID)

    def latencies(self) -> tuple[int, int]:
        """MNGNT and MXLAT of the PCI header."""
        words = self.eeprom.words
        if words[0] != r.EEPROM_ID:
            return r.MNGNT_DEFAULT, r.MXLAT_DEFAULT
        return words[5] & 0xFF, words[5] >> 8

    def register(self, file: RegisterFile) -> None:
        """Put the registers into ``file``."""
        file.add(r.CR9346, 1, self.read_9346, self.write_9346)
        file.add(r.CONFIG0, 1, lambda: self.config0, self.write_config0)
        file.add(r.CONFIG1, 1, lambda: self.config1, self.write_config1)
        file.add(r.CONFIG3, 1, lambda: self.config3, self.write_config3)
        file.add(r.CONFIG4, 1, lambda: self.config4, self.write_config4)
        file.add(r.CONFIG5, 1, lambda: self.config5, self.write_config5)
        file.add(r.MSR, 1, self.read_msr, self.write_msr)
        file.add(r.MULINT, 2, lambda: self.mulint, self.write_mulint)
        file.add(r.BMCR, 2, lambda: self.phy.bmcr, self.write_bmcr)
        file.add(r.BMSR, 2, self.phy.read_bmsr, None)
        file.add(r.ANAR, 2, lambda: self.phy.anar, self.write_anar)
        file.add(r.ANLPAR, 2, self.phy.anlpar, None)
        file.add(r.ANER, 2, lambda: int(self.phy.complete()), None)
        file.add(r.DIS, 2, self.read_disconnects, None)
        file.add(r.CSCR, 2, self.read_cscr, self.write_cscr)
        for index, (offset, width) in enumerate(((r.PHY1_PARM, 4), (r.TW_PARM, 4), (r.PHY2_PARM, 1))):
            file.add(offset, width, self._parm_reader(index), self._parm_writer(index))
        for index in range(_STORE):
            file.add(r.WAKEUP + index, 1, self._store_reader(index), self._store_writer(index))

    # 9346CR and Config

    def unlocked(self) -> bool:
        """9346CR allows writing the configuration."""
        return self.cr9346 & r.EEM == r.EEM_CONFIG

    def read_9346(self) -> int:
        """9346CR; EEDO is the EEPROM's output in programming mode."""
        if self.cr9346 & r.EEM == r.EEM_PROGRAM:
            return self.cr9346 | (self.eeprom.do if self.cr9346 & r.EECS else 0)
        return self.cr9346

    def write_9346(self, value: int, mask: int) -> None:
        """9346CR."""
        mode = value & r.EEM
        if mode == r.EEM_AUTOLOAD:
            self.eeprom.drive(0, 0, 0)
            self.chip.power_on()
            return
        if mode == r.EEM_PROGRAM:
            self.eeprom.drive(value >> 3 & 1, value >> 2 & 1, value >> 1 & 1)
        elif self.cr9346 & r.EEM == r.EEM_PROGRAM:
            self.eeprom.drive(0, 0, 0)
        self.cr9346 = value & r.CR9346_WRITABLE

    def write_config0(self, value: int, mask: int) -> None:
        """Config0: boot ROM size."""
        if self.unlocked():
            self.config0 = self.config0 & ~r.CONFIG0_WRITABLE | value & r.CONFIG0_WRITABLE

    def write_config1(self, value: int, mask: int) -> None:
        """Config1: LEDs, driver loaded, LWAKE, VPD, power management."""
        if self.unlocked():
            self.config1 = self.config1 & ~r.CONFIG1_WRITABLE | value & r.CONFIG1_WRITABLE

    def write_config3(self, value: int, mask: int) -> None:
        """Config3: PHY parameters, magic packet, link wake-up."""
        if self.unlocked():
            self.config3 = self.config3 & ~r.CONFIG3_WRITABLE | value & r.CONFIG3_WRITABLE

    def write_config4(self, value: int, mask: int) -> None:
        """Config4: receive FIFO, wake-up."""
        if self.unlocked():
            self.config4 = self.config4 & ~r.CONFIG4_WRITABLE | value & r.CONFIG4_WRITABLE

    def write_config5(self, value: int, mask: int) -> None:
        """Config5: not locked."""
        self.config5 = value & r.CONFIG5_WRITABLE

    # media

    def read_msr(self) -> int:
        """MSR."""
        phy = self.phy
        value = self.txfce | r.MSR_AUX
        if not phy.link:
            value |= r.MSR_LINKB
        if not phy.speed100():
            value |= r.MSR_SPEED10
        return value

    def write_msr(self, value: int, mask: int) -> None:
        """MSR: only TXFCE."""
        self.txfce = self.txfce & ~r.MSR_TXFCE | value & r.MSR_TXFCE

    def write_mulint(self, value: int, mask: int) -> None:
        """MULINT: see ``receiver``."""
        self.mulint = (self.mulint & ~mask | value & mask) & 0x0FFF

    def write_bmcr(self, value: int, mask: int) -> None:
        """BMCR; what 9346CR locks keeps its value."""
        phy = self.phy
        value = phy.bmcr & ~mask | value & mask
        if not self.unlocked():
            value = value & ~r.BMCR_LOCKED | phy.bmcr & r.BMCR_LOCKED
        phy.write_bmcr(value)

    def write_anar(self, value: int, mask: int) -> None:
        """ANAR: for the next negotiation."""
        self.phy.write(ANAR, self.phy.anar & ~mask | value & mask)

    def read_disconnects(self) -> int:
        """DIS: cleared by reading."""
        value, self.disconnects = self.disconnects, 0
        return value

    def read_cscr(self) -> int:
        """CSCR: with the connection status; that the link has changed is shown once."""
        value = self.cscr | (r.CSCR_CONNECTED if self.phy.link else 0)
        self.cscr &= ~r.CSCR_CHANGED
        return value

    def write_cscr(self, value: int, mask: int) -> None:
        """CSCR: stored."""
        mask &= r.CSCR_WRITABLE
        self.cscr = self.cscr & ~mask | value & mask

    # storage

    def _parm_reader(self, index: int) -> Any:
        return lambda: self.parms[index]

    def _parm_writer(self, index: int) -> Any:
        def write(value: int, mask: int) -> None:
            self.parms[index] = self.parms[index] & ~mask | value & mask

        return write

    def _store_reader(self, index: int) -> Any:
        return lambda: self.store[index]

    def _store_writer(self, index: int) -> Any:
        def write(value: int, mask: int) -> None:
            self.store[index] = value & mask

        return write

    # state

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state."""
        state: dict[str, Any] = {name: getattr(self, name) for name in (*_BYTES, *_WORDS)}
        return state | {
            "parms": list(self.parms),
            "store": pack(self.store),
            "eeprom": self.eeprom.snapshot(),
            "phy": self.phy.snapshot(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        parms = state.get("parms")
        if not isinstance(parms, list) or len(parms) != len(self.parms):
            raise ValueError("snapshot: parms is not three numbers")
        parms = [number({"parm": value}, "parm", 0xFFFFFFFF) for value in parms]
        store = unpack(state, "store", _STORE)
        self.eeprom.restore(section(state, "eeprom"))
        self.phy.restore(dict(section(state, "phy")))
        for name in _BYTES:
            setattr(self, name, number(state, name, 0xFF))
        for name in _WORDS:
            setattr(self, name, number(state, name, 0xFFFF))
        self.parms = parms
        self.store[:] = store
