"""9346CR, EEPROM, Config registers, media status and PHY registers of the RTL8139."""

from __future__ import annotations

import pytest

from nic_models.parts.mii import AUTONEG_NS
from nic_models.rtl8139 import registers as r
from tests.nic_models.rtl8139_kit import MAC, Kit, frame_to


class Eeprom:
    """The 93C46 behind 9346CR, bit by bit."""

    def __init__(self, kit):
        self.kit = kit

    def _bits(self, value, count):
        result = 0
        for bit in range(count - 1, -1, -1):
            data = r.EEM_PROGRAM | r.EECS | (r.EEDI if value >> bit & 1 else 0)
            self.kit.write(r.CR9346, 1, data)
            self.kit.write(r.CR9346, 1, data | r.EESK)
            result = result << 1 | self.kit.read(r.CR9346, 1) & r.EEDO
        return result

    def command(self, opcode, address, data=None):
        self.kit.write(r.CR9346, 1, r.EEM_PROGRAM)
        self._bits(1 << 8 | opcode << 6 | address, 9)
        result = self._bits(data or 0, 16) if data is not None or opcode == 2 else 0
        self.kit.write(r.CR9346, 1, r.EEM_PROGRAM)
        self.kit.write(r.CR9346, 1, 0)
        return result

    def read(self, address):
        return self.command(2, address)

    def write(self, address, value):
        self.command(0, 0x30)  # EWEN
        self.command(1, address, value)
        self.command(0, 0x00)  # EWDS


def test_eeprom_contents():
    eeprom = Eeprom(Kit())
    words = [eeprom.read(n) for n in range(11)]
    assert words == [
        0x8129,
        0x10EC,
        0x8139,
        0x1AF4,
        0x1100,
        0x4020,
        0x01D0,
        0x5452,
        0x1200,
        0x5634,
        0x0C00,
    ]


def test_eeprom_is_deaf_outside_programming_mode():
    kit = Kit()
    eeprom = Eeprom(kit)
    for mode in (0x00, 0xC0):
        for bit in (0, 1, 1, 0, 0, 0, 0, 0, 0, 0):
            kit.write(r.CR9346, 1, mode | r.EECS | bit * r.EEDI)
            kit.write(r.CR9346, 1, mode | r.EECS | r.EESK | bit * r.EEDI)
            assert not kit.read(r.CR9346, 1) & r.EEDO
    kit.write(r.CR9346, 1, 0)
    assert eeprom.read(0) == 0x8129


def test_a_new_station_address():
    kit = Kit()
    eeprom = Eeprom(kit)
    for n, word in enumerate((0x1102, 0x3322, 0x5544)):
        eeprom.write(7 + n, word)
    assert kit.read(r.IDR0, 4) == 0x12005452
    kit.write(r.CR9346, 1, r.EEM_AUTOLOAD)
    assert kit.read(r.CR9346, 1) == 0
    assert [kit.read(r.IDR0 + n, 1) for n in range(6)] == [0x02, 0x11, 0x22, 0x33, 0x44, 0x55]


def test_writes_need_enabling():
    eeprom = Eeprom(Kit())
    eeprom.command(1, 7, 0x1234)
    assert eeprom.read(7) == 0x5452


def test_an_empty_eeprom():
    kit = Kit()
    eeprom = Eeprom(kit)
    eeprom.write(0, 0xFFFF)
    kit.write(r.CR9346, 1, r.EEM_AUTOLOAD)
    assert [kit.read(r.IDR0 + n, 1) for n in range(6)] == [0xFF] * 6
    assert kit.read(r.CONFIG1, 1) == 0x0C
    kit.machine.reset()
    assert kit.function.config_read(0x2C, 4) == 0x813910EC


def test_subsystem_ids_come_from_the_eeprom():
    kit = Kit()
    assert kit.config_read(0x2C, 4) == 0x11001AF4
    eeprom = Eeprom(kit)
    eeprom.write(3, 0x1234)
    eeprom.write(4, 0x5678)
    kit.write(r.CR9346, 1, r.EEM_AUTOLOAD)
    assert kit.config_read(0x2C, 4) == 0x56781234
    eeprom.write(4, 0x9ABC)
    kit.machine.reset()
    assert kit.function.config_read(0x2C, 4) == 0x9ABC1234


def test_latencies_and_fast_back_to_back_come_from_the_eeprom():
    kit = Kit()
    assert (kit.config_read(6, 2), kit.config_read(0x3E, 2)) == (0x0280, 0x4020)
    eeprom = Eeprom(kit)
    eeprom.write(5, 0x1208)
    eeprom.write(6, 0x00D0)
    kit.machine.reset()
    assert (kit.config_read(6, 2), kit.config_read(0x3E, 2)) == (0x0200, 0x1208)
    kit.card.config.eeprom.words[0] = 0xFFFF
    kit.machine.reset()
    assert (kit.config_read(6, 2), kit.config_read(0x3E, 2)) == (0x0280, 0x4020)


def test_config_comes_from_the_eeprom():
    kit = Kit()
    eeprom = Eeprom(kit)
    eeprom.write(6, 0x6121)
    eeprom.write(10, 0xF3FF)
    eeprom.write(12, 0xFFFF)
    eeprom.write(15, 0xFFFF)
    kit.write(r.CR9346, 1, r.EEM_AUTOLOAD)
    values = [kit.read(o, 1) for o in (r.CONFIG0, r.CONFIG1, r.CONFIG3, r.CONFIG4, r.CONFIG5, r.MSR)]
    assert values == [0x07, 0xFF, 0x61, 0xF5, 0x7F, 0x10]
    assert kit.read(r.BMCR, 2) == 0x2100


CONFIG = [
    (r.CONFIG0, 0x00, 0x07),
    (r.CONFIG1, 0x0C, 0xFF),
    (r.CONFIG3, 0x01, 0x71),
    (r.CONFIG4, 0x00, 0xF5),
]


@pytest.mark.parametrize(("offset", "before", "after"), CONFIG)
@pytest.mark.parametrize("mode", [0x00, 0x80, 0xC0])
def test_config_lock(mode, offset, before, after):
    kit = Kit()
    kit.write(r.CR9346, 1, mode)
    kit.write(offset, 1, 0xFF)
    assert kit.read(offset, 1) == (after if mode == 0xC0 else before)
    kit.write(offset, 1, 0)
    kit.write(r.CR9346, 1, 0)
    kit.write(offset, 1, 0xFF)
    assert kit.read(offset, 1) == before


def test_9346cr_reads_its_mode_and_pins():
    kit = Kit()
    kit.write(r.CR9346, 1, 0xFF)
    assert kit.read(r.CR9346, 1) == 0xCE
    kit.write(r.CR9346, 1, 0x8E)
    assert kit.read(r.CR9346, 1) & 0xFE == 0x8E


# media


def test_msr_flow_control_bit():
    kit = Kit()
    kit.write(r.MSR, 1, 0)
    assert kit.read(r.MSR, 1) == 0x50
    kit.write(r.MSR, 1, 0xFF)
    assert kit.read(r.MSR, 1) == 0xD0


def test_bmcr_bits_behind_the_lock():
    kit = Kit()
    kit.write(r.BMCR, 2, 0x2100)
    assert kit.read(r.BMCR, 2) == 0x1000
    kit.write(r.CR9346, 1, 0xC0)
    kit.write(r.BMCR, 2, 0xFFFF & ~0x9200 | 0x2100)
    assert kit.read(r.BMCR, 2) == 0x2100
    assert not kit.read(r.BMSR, 2) & 0x20
    kit.write(r.BMCR, 2, 0x0000)
    assert kit.read(r.MSR, 1) & r.MSR_SPEED10


@pytest.mark.parametrize("command", [0x8000, 0x0200])
def test_phy_reset_and_restart(command):
    kit = Kit().start(imr=r.INT_LINKCHG)
    kit.write(r.BMCR, 2, command)
    assert kit.read(r.BMCR, 2) == 0x1000
    assert kit.read(r.BMSR, 2) == 0x7809
    assert kit.read(r.MSR, 1) & r.MSR_LINKB
    assert kit.read(r.ANLPAR, 2) == 0
    assert kit.isr() == r.INT_LINKCHG
    assert kit.receive(frame_to())
    assert kit.card.counters == {"rx link": 1}
    kit.wait(AUTONEG_NS)
    assert kit.irq
    assert kit.read(r.BMSR, 2) == 0x782D
    assert not kit.read(r.MSR, 1) & r.MSR_LINKB
    assert kit.isr() == r.INT_LINKCHG


def test_link_down_and_up():
    kit = Kit().start(imr=r.INT_LINKCHG)
    kit.card.set_link(False)
    assert kit.irq and kit.isr() == r.INT_LINKCHG
    assert kit.read(r.MSR, 1) == 0xD4
    assert kit.read(r.BMSR, 2) == 0x7809
    assert [kit.read(r.CSCR, 2), kit.read(r.CSCR, 2)] == [0x03C0 | r.CSCR_CHANGED, 0x03C0]
    kit.card.set_link(False)
    assert not kit.irq
    kit.card.set_link(True)
    assert kit.isr() == r.INT_LINKCHG
    assert kit.read(r.MSR, 1) == 0xD0
    assert kit.read(r.BMSR, 2) == 0x782D
    assert [kit.read(r.DIS, 2), kit.read(r.DIS, 2)] == [1, 0]


def test_link_down_survives_reset():
    kit = Kit().start()
    kit.card.set_link(False)
    kit.write(r.CR, 1, r.CR_RST)
    assert kit.read(r.MSR, 1) == 0xD4
    kit.card.reset()
    assert kit.read(r.BMSR, 2) == 0x7809


def test_advertisement_decides_the_speed():
    kit = Kit()
    kit.write(r.ANAR, 2, 0x0061)
    kit.write(r.BMCR, 2, 0x0200)
    kit.wait(AUTONEG_NS)
    assert kit.read(r.MSR, 1) & r.MSR_SPEED10
    kit.write(r.ANAR, 1, 0xE1)
    assert kit.read(r.ANAR, 2) == 0x00E1


def test_mac_attribute_is_what_the_user_asked_for():
    assert Kit().card.mac == MAC
