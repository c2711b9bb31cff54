"""A PCI function on its own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_models.bus.pci import Bar, Identity, PciFunction
from nic_models.models import pci_function
from tests.nic_models.rig import MAC

EXAMPLE = Identity(0x1234, 0x5678, 0x9A, 0x020000, min_gnt=6, max_lat=255, status=0x0280)


BARS = (Bar("io", 256), Bar("mem", 4096))


def function(bars=BARS):
    return PciFunction(EXAMPLE, bars)


def test_header():
    f = function()
    header = b"".join(f.config_read(n, 4).to_bytes(4, "little") for n in range(0, 0x40, 4))
    assert header[:0x18].hex() == "34127856" + "00008002" + "9a000002" + "00000000" + "01000000" + "00000000"
    assert header[0x2C:0x30].hex() == "f41a0011"
    assert header[0x3C:].hex() == "000106ff"


@pytest.mark.parametrize("offset", [0, 2, 8, 9, 0x0E, 0x2C, 0x2E, 0x3D, 0x3E])
def test_read_only(offset):
    f = function()
    before = f.config_read(offset, 2)
    f.config_write(offset, 2, ~before & 0xFFFF)
    assert f.config_read(offset, 1) == before & 0xFF


@pytest.mark.parametrize(("index", "size"), [(0, 0xFFFFFF01), (1, 0xFFFFF000)])
def test_sizing(index, size):
    f = function()
    f.config_write(0x10 + 4 * index, 4, 0xFFFFFFFF)
    assert f.config_read(0x10 + 4 * index, 4) == size
    f.config_write(0x18, 4, 0xFFFFFFFF)
    assert f.config_read(0x18, 4) == 0


def test_addresses_follow_bars_and_command():
    f = function()
    changes = []
    f.on_change = lambda: changes.append((f.address(0), f.address(1)))
    f.config_write(0x10, 4, 0xC123)
    f.config_write(0x14, 4, 0xFEBF0000)
    assert changes[-1] == (None, None)
    f.config_write(4, 2, 1)
    assert changes[-1] == (0xC100, None)
    f.config_write(4, 1, 3)
    assert changes[-1] == (0xC100, 0xFEBF0000)
    f.config_write(0x11, 1, 0xD0)  # byte by byte, as some drivers do
    assert changes[-1] == (0xD000, 0xFEBF0000)
    f.config_write(0x10, 4, 0)
    f.config_write(0x14, 4, 0xFFFFFFFF)
    assert changes[-1] == (None, None)
    f.config_write(0x10, 4, 0x10000)
    assert f.address(0) is None  # beyond the port space


def test_interrupt_pin():
    f = function()
    levels = []
    f.on_intx = levels.append
    f.set_irq(True)
    f.set_irq(True)
    assert levels == [True]
    assert f.config_read(6, 1) & 8
    f.config_write(5, 1, 4)  # INTx disable: the line falls, the status bit stays
    assert levels == [True, False]
    assert f.config_read(6, 1) & 8
    f.config_write(5, 1, 0)
    assert levels == [True, False, True]
    f.set_irq(False)
    assert levels == [True, False, True, False]
    assert not f.config_read(6, 1) & 8


def test_status_bits_clear_by_ones():
    f = function()
    f.config[7] |= 0x30
    f.config_write(6, 2, 0x1000)
    assert f.config_read(6, 2) == 0x0280 & ~0 | 0x2000
    f.config_write(6, 2, 0x2000)
    assert f.config_read(6, 2) == 0x0280


def test_reset():
    f = function()
    f.config_write(0x10, 4, 0xC000)
    f.config_write(4, 2, 7)
    f.config_write(0x3C, 1, 11)
    assert f.bus_master
    f.reset()
    assert f.command == 0
    assert f.bar(0) == 0
    assert f.config_read(0x3C, 1) == 0
    assert not f.bus_master


@given(st.integers(-8, 300), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1))
def test_any_access(offset, size, value):
    f = function()
    f.config_write(offset, size, value)
    assert 0 <= f.config_read(offset, size) < 1 << 8 * size
    assert f.config_read(0, 4) == 0x56781234


def test_a_real_card_stands_alone():
    sent = []
    f = pci_function(
        "ne2k_pci", MAC, lambda frame, vnet=b"": sent.append(frame) or True, lambda: None, lambda: 0
    )
    assert f.config_read(0, 4) == 0x802910EC
    assert f.config_read(8, 4) == 0x02000000
    assert f.config_read(0x2C, 4) == 0x11001AF4
    assert f.bars == (Bar("io", 256),)
    assert f.card.read(0, 0, 1) == 0x21
    f.card.write(0, 0, 1, 0x22)
    twin = pci_function("ne2k_pci", MAC, lambda frame, vnet=b"": True, lambda: None, lambda: 0)
    twin.restore(json.loads(json.dumps(f.snapshot())))
    assert twin.card.read(0, 0, 1) == 0x22


def test_snapshot_of_another_device():
    other = PciFunction(Identity(1, 2, 3, 0x020000))
    with pytest.raises(ValueError, match="another"):
        function().restore(other.snapshot())


def test_bar_sizes():
    with pytest.raises(ValueError, match="power of two"):
        function((Bar("io", 100),))
