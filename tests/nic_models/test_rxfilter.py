"""What monitors see of the receive filters, against what the cards really take."""

from __future__ import annotations

import pytest

from nic_models.bus.machine import Machine
from nic_models.models import plug
from nic_models.parts.multicast import hash_be, hash_le
from nic_models.rxfilter import EVERY_GROUP, RxFilter
from tests.nic_models.rig import MAC

GROUP = bytes.fromhex("01005e000001")


def machine_with(model):
    machine = Machine("pc", 1 << 20, now=lambda: 0)
    slot = plug(machine, model, MAC, lambda *_: True, lambda: None)
    machine.boot()
    return machine, slot.card, slot.function.address(0)


def test_words():
    assert RxFilter(MAC, True, "all", True, EVERY_GROUP).promiscuous
    assert not RxFilter(MAC, True, "normal", True, EVERY_GROUP).promiscuous
    assert [RxFilter(MAC, True, "all", True, n).multicast for n in (0, 1, EVERY_GROUP)] == [
        "none",
        "normal",
        "all",
    ]


def test_ne2000():
    machine, card, base = machine_with("ne2k_pci")
    assert not card.rx_filter().receiving

    def page(number):
        machine.io_write(base, 1, 0x22 | number << 6)

    page(1)
    for at, byte in enumerate(MAC):
        machine.io_write(base + 1 + at, 1, byte)
    bit = hash_be(GROUP)
    machine.io_write(base + 8 + bit // 8, 1, 1 << bit % 8)
    page(0)
    machine.io_write(base + 0x0D, 1, 0x00)  # TCR: no loopback
    for rcr, unicast, broadcast, groups in (
        (0x04, "normal", True, 0),
        (0x1C, "all", True, 1 << bit),
        (0, "normal", False, 0),
    ):
        machine.io_write(base + 0x0C, 1, rcr)
        assert card.rx_filter() == RxFilter(MAC, True, unicast, broadcast, groups)
    machine.io_write(base + 0x0C, 1, 0x20)  # monitor mode
    assert not card.rx_filter().receiving


def test_rtl8139():
    machine, card, base = machine_with("rtl8139")
    assert card.rx_filter().mac == MAC and not card.rx_filter().receiving
    machine.io_write(base + 0x37, 1, 0x0C)
    for at in range(2):
        machine.io_write(base + 8 + 4 * at, 4, 0xFFFFFFFF)
    for rcr, unicast, broadcast, groups in (
        (0x0A, "normal", True, 0),
        (0x0F, "all", True, EVERY_GROUP),
        (0x04, "none", False, EVERY_GROUP),
    ):
        machine.io_write(base + 0x44, 4, rcr)
        assert card.rx_filter() == RxFilter(MAC, True, unicast, broadcast, groups)
    assert not card.rx_filter().promiscuous


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0, ("normal", True, 1 << hash_le(GROUP))),
        (0x8000, ("all", True, EVERY_GROUP)),
        (0x4000, ("normal", False, 1 << hash_le(GROUP))),
        (0x2000, ("none", True, 1 << hash_le(GROUP))),
    ],
)
def test_pcnet(mode, expected):
    machine, card, base = machine_with("pcnet")

    def csr(number, value):
        machine.io_write(base + 0x12, 2, number)
        machine.io_write(base + 0x10, 2, value)

    csr(0, 4)
    for at in range(4):
        csr(8 + at, (1 << hash_le(GROUP)) >> 16 * at & 0xFFFF)
    for at in range(3):
        csr(12 + at, int.from_bytes(MAC[2 * at : 2 * at + 2], "little"))
    csr(15, mode)
    csr(0, 2)
    assert card.rx_filter() == RxFilter(MAC, True, *expected)
