"""PHY registers, negotiation and link."""

from __future__ import annotations

import json

import pytest

from nic_models.parts import mii
from nic_models.parts.mii import AUTONEG_NS, Phy


class Bench:
    """A PHY with a clock and a record of its link."""

    def __init__(self, **more):
        self.time = 0
        self.changes = []
        self.phy = Phy(lambda: self.time, self.changes.append, **more)

    def wait(self, ns):
        self.time += ns
        self.phy.run(self.time)


@pytest.mark.parametrize(
    ("register", "value"),
    [
        (mii.BMCR, 0x1000),
        (mii.BMSR, 0x782D),
        (mii.ANAR, 0x05E1),
        (mii.ANLPAR, 0x45E1),
        (mii.ANER, 1),
        (31, 0),
    ],
)
def test_power_on_values(register, value):
    assert Bench().phy.read(register) == value


def test_ident():
    phy = Bench(ident=(0x1234, 0x5678)).phy
    assert [phy.read(mii.PHYID1), phy.read(mii.PHYID2)] == [0x1234, 0x5678]


@pytest.mark.parametrize("command", [mii.BMCR_RESET, mii.BMCR_ANE | mii.BMCR_RESTART])
def test_negotiation_takes_time(command):
    bench = Bench(latch=False)
    bench.phy.write(mii.BMCR, command)
    assert bench.phy.read(mii.BMCR) == 0x1000  # the commands clear themselves
    assert bench.phy.read(mii.BMSR) == 0x7809
    assert bench.phy.read(mii.ANLPAR) == bench.phy.read(mii.ANER) == 0
    assert bench.phy.deadline == AUTONEG_NS
    bench.wait(AUTONEG_NS - 1)
    assert not bench.phy.link
    bench.wait(1)
    assert bench.phy.read(mii.BMSR) == 0x782D
    assert bench.changes == [False, True]
    assert bench.phy.deadline is None


def test_reset_restores_the_registers():
    bench = Bench()
    bench.phy.write(mii.ANAR, 0x0021)
    bench.phy.write(mii.BMCR, 0x2100)
    bench.phy.write(mii.BMCR, mii.BMCR_RESET)
    assert bench.phy.read(mii.ANAR) == 0x05E1
    assert bench.phy.read(mii.BMCR) == 0x1000


def test_negotiation_without_cable_never_ends():
    bench = Bench()
    bench.phy.set_cable(False)
    bench.phy.write(mii.BMCR, mii.BMCR_ANE | mii.BMCR_RESTART)
    assert bench.phy.deadline is None
    bench.phy.set_cable(True)
    assert bench.phy.link


def test_cable_pulled_during_negotiation():
    bench = Bench()
    bench.phy.write(mii.BMCR, mii.BMCR_RESET)
    bench.phy.set_cable(False)
    bench.wait(AUTONEG_NS)
    assert not bench.phy.link
    assert bench.changes == [False]


def test_link_bit_latches_low_until_read():
    bench = Bench()
    bench.phy.set_cable(False)
    bench.phy.set_cable(True)
    assert not bench.phy.read(mii.BMSR) & mii.BMSR_LINK
    assert bench.phy.read(mii.BMSR) & mii.BMSR_LINK


def test_link_bit_without_latch():
    bench = Bench(latch=False)
    bench.phy.set_cable(False)
    bench.phy.set_cable(True)
    assert bench.phy.read(mii.BMSR) & mii.BMSR_LINK


@pytest.mark.parametrize(
    ("bmcr", "fast", "full"),
    [(0x2100, True, True), (0x2000, True, False), (0x0100, False, True), (0, False, False)],
)
def test_forced_mode(bmcr, fast, full):
    phy = Bench().phy
    phy.write(mii.BMCR, bmcr)
    assert (phy.speed100(), phy.full_duplex()) == (fast, full)
    assert phy.link
    assert not phy.read(mii.BMSR) & mii.BMSR_AN_COMPLETE


@pytest.mark.parametrize(
    ("anar", "fast", "full", "pause"),
    [
        (0x05E1, True, True, True),
        (0x01E1, True, True, False),
        (0x04A1, True, False, False),
        (0x0061, False, True, False),
        (0x0021, False, False, False),
    ],
)
def test_negotiated_mode(anar, fast, full, pause):
    bench = Bench()
    bench.phy.write(mii.ANAR, anar)
    bench.phy.write(mii.BMCR, mii.BMCR_ANE | mii.BMCR_RESTART)
    bench.wait(AUTONEG_NS)
    assert (bench.phy.speed100(), bench.phy.full_duplex(), bench.phy.pause()) == (fast, full, pause)


@pytest.mark.parametrize("bit", [mii.BMCR_POWER_DOWN, mii.BMCR_ISOLATE])
def test_power_down_and_isolate_drop_the_link(bit):
    bench = Bench()
    bench.phy.write(mii.BMCR, mii.BMCR_ANE | bit)
    assert not bench.phy.link
    bench.phy.write(mii.BMCR, mii.BMCR_ANE)
    assert bench.phy.link


def test_only_writable_bits_change():
    phy = Bench(writable=mii.BMCR_RESET | mii.BMCR_RESTART).phy
    phy.write(mii.BMCR, 0x2D00)
    assert phy.read(mii.BMCR) == 0x1000
    phy.write(mii.BMSR, 0)
    phy.write(mii.ANLPAR, 0)
    assert phy.read(mii.BMSR) == 0x782D
    assert phy.read(mii.ANLPAR) == 0x45E1


def test_snapshot_in_a_negotiation():
    bench = Bench()
    bench.phy.write(mii.BMCR, mii.BMCR_RESET)
    other = Bench()
    other.phy.restore(json.loads(json.dumps(bench.phy.snapshot())))
    other.wait(AUTONEG_NS)
    assert other.phy.link
    assert other.changes == [True]


def test_restore_refuses_other_data():
    with pytest.raises(ValueError, match="PHY"):
        Bench().phy.restore({"bmcr": 0})
