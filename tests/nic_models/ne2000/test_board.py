"""The boards: decoding, reset port, RTL8029 registers."""

from __future__ import annotations

import json

import pytest

from nic_models.ne2000 import registers as r
from nic_models.ne2000.board import station_prom
from nic_models.ne2000.isa import Ne2000Isa
from tests.nic_models.rig import MAC, Rig, frame_to, isa


@pytest.fixture(params=[Rig, isa], ids=["pci", "isa"])
def rig(request):
    return request.param()


@pytest.mark.parametrize("mac", [b"", bytes(5), bytes(7), b"\x01" + bytes(5)])
def test_bad_station_addresses(mac):
    with pytest.raises(ValueError, match="station address"):
        Ne2000Isa(mac, lambda f: True, lambda: None, lambda level: None, lambda: 0)


def test_station_prom():
    assert station_prom(MAC).hex() == "525254540000121234345656" + "00" * 16 + "57575757"


@pytest.mark.parametrize("offset", [0x18, 0x1F])
def test_reset_port(rig, offset):
    rig.start()
    rig.card.receive(frame_to())
    assert rig.irq
    rig.outb(offset, 0xFF)  # writes do nothing
    assert rig.inb(r.CR) == 0x22
    rig.inb(offset)
    assert rig.inb(r.CR) == 0x21
    assert rig.inb(r.ISR) == r.ISR_RST
    assert not rig.irq


def test_wide_register_accesses_are_split(rig):
    rig.card.write(0, r.PSTART, 2, 0x8046)
    assert rig.get(2, r.PSTART) == 0x46
    assert rig.get(2, r.PSTOP) == 0x80
    rig.page(2)
    assert rig.card.read(0, r.PSTART, 2) == 0x8046
    assert rig.card.read(0, 0x0E, 4) >> 16 == 0xFFFF  # runs out of the register window


@pytest.mark.parametrize("size", [1, 2, 4])
def test_beyond_the_board(rig, size):
    assert rig.card.read(0, 0x20, size) == (1 << 8 * size) - 1
    rig.card.write(0, 0x20, size, 0)
    assert rig.card.read_block(0, 0x40, size, 3) == b"\xff" * 3 * size


def test_string_io_at_a_register(rig):
    rig.card.write_block(0, r.BNRY, 1, bytes((1, 2, 3)))
    assert rig.card.read_block(0, r.BNRY, 1, 2) == bytes((3, 3))


def test_rtl8029_identification():
    rig = Rig()
    assert (rig.inb(r.ID0), rig.inb(r.ID1)) == (0x50, 0x43)
    assert (rig.get(3, r.ASID0), rig.get(3, r.ASID1)) == (0x29, 0x80)
    assert isa().inb(r.ID0) == 0


def test_rtl8029_full_duplex_as_linux_sets_it():
    rig = Rig()
    rig.put(3, r.CONFIG3, 0x40)  # not enabled
    assert rig.get(3, r.CONFIG3) == 0
    rig.page(3)
    rig.outb(r.CR9346, 0xC0)
    rig.outb(r.CONFIG3, 0x40)
    rig.outb(r.CR9346, 0x00)
    assert rig.inb(r.CONFIG3) == 0x40
    rig.inb(0x1F)  # the reset port resets the chip, not the board
    assert rig.get(3, r.CONFIG3) == 0x40
    rig.page(3)
    rig.outb(r.CR9346, 0x40)  # auto-load
    assert rig.inb(r.CONFIG3) == 0
    assert rig.inb(r.CR9346) == 0
    rig.outb(r.CR9346, 0xC0)
    rig.outb(r.CONFIG3, 0x40)
    rig.card.reset()  # RST#
    assert rig.get(3, r.CONFIG3) == 0


def test_rtl8029_eeprom_by_its_pins():
    rig = Rig()
    rig.page(3)

    def pins(value):
        rig.outb(r.CR9346, 0x80 | value)
        return rig.inb(r.CR9346) & 1

    def word(address):
        pins(0)
        pins(8)
        for index in reversed(range(9)):
            bit = ((6 << 6 | address) >> index & 1) << 1
            pins(8 | bit)
            pins(8 | 4 | bit)
        value = 0
        for _ in range(16):
            pins(8)
            value = value << 1 | pins(8 | 4)
        return value

    words = [word(n) for n in range(5)]
    assert words[:2] == [0x8029, 0x10EC]
    assert b"".join(n.to_bytes(2, "little") for n in words[2:]) == MAC


def test_rtl8029_snapshot():
    rig = Rig()
    rig.page(3)
    rig.outb(r.CR9346, 0xC0)
    rig.outb(r.CONFIG2, 0xF0)
    twin = Rig()
    twin.card.restore(json.loads(json.dumps(rig.card.snapshot())))
    assert twin.card.snapshot() == rig.card.snapshot()
    assert twin.get(3, r.CONFIG2) == 0xF0


def test_snapshots_of_another_model():
    with pytest.raises(ValueError, match="ne2k_isa"):
        isa().card.restore(Rig().card.snapshot())
