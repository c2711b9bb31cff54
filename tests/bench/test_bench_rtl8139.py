"""RTL8139: register dispatch, both receive and transmit modes, and the whole way through the drivers.

Numbers are per round; a round moves ``BATCH`` frames where a batch is named, otherwise one.
"""

from __future__ import annotations

import pytest

from nic_models.rtl8139 import registers as r
from tests.nic_models.rtl8139_kit import Kit
from tests.tapnet.guest.drivers.rig import MAC, PEER, frame_to
from tests.tapnet.guest.drivers.test_rtl8139 import Rig

BATCH = 16
SIZES = [60, 1514]
REVISIONS = [0x20, 0x10]


def test_register_read(benchmark):
    card = Kit().card
    assert benchmark(card.read, 0, r.TSAD, 2) == 0x000F


def test_register_write_through_the_machine(benchmark):
    kit = Kit()
    benchmark(kit.machine.io_write, kit.base + r.RBSTART, 4, 0x1000)
    assert kit.read(r.RBSTART, 4) == 0x1000


@pytest.mark.parametrize("size", SIZES)
def test_c_mode_receive(benchmark, size):
    """The card alone: a frame into the 64 KiB ring, CAPR written back."""
    kit = Kit().start(r.RCR_APM | r.RCR_RBLEN)
    frame = frame_to(MAC, size)

    def step():
        kit.slot.receive(frame)
        kit.write(r.CAPR, 2, kit.read(r.CBR, 2) - 16 & 0xFFFF)

    benchmark(step)
    assert kit.card.counters == {}


@pytest.mark.parametrize("size", SIZES)
def test_cplus_receive(benchmark, size):
    """The card alone: a frame into a descriptor, the descriptor given back."""
    kit = Kit().start_cplus(rx=64)
    frame = frame_to(MAC, size)
    state = {"n": 0}

    def step():
        kit.slot.receive(frame)
        kit.give(state["n"] % 64)
        state["n"] += 1

    benchmark(step)
    assert kit.card.counters == {}


@pytest.mark.parametrize("rev", REVISIONS)
@pytest.mark.parametrize("size", SIZES)
def test_driver_transmit(benchmark, rev, size):
    rig = Rig(rev)
    frame = frame_to(PEER, size)
    benchmark(rig.driver.transmit, frame)
    assert rig.sent[-1] == frame


@pytest.mark.parametrize("rev", REVISIONS)
@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("size", SIZES)
def test_driver_receive(benchmark, rev, size, batch):
    """``batch`` frames arrive before the interrupt is served."""
    rig = Rig(rev)
    frames = [frame_to(MAC, size)] * batch

    def step():
        rig.got.clear()
        for frame in frames:
            rig.slot.receive(frame)
        rig.settle()

    benchmark(step)
    assert rig.got == frames
