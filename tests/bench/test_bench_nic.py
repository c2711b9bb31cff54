"""NE2000: register dispatch, ring receive and transmit, and the whole way through the driver.

Numbers are per round; a round moves ``BATCH`` frames where a batch is named, otherwise one.
"""

from __future__ import annotations

import pytest

from nic_models.ne2000 import registers as r
from nic_models.ne2000.pci import Ne2000Pci
from tests.nic_models.rig import PSTART, Rig
from tests.tapnet.guest.drivers.rig import MAC, PEER, DriverRig, frame_to

BATCH = 5
SIZES = [60, 1514]


def test_register_read(benchmark):
    rig = Rig(Ne2000Pci)
    read = rig.card.read
    assert benchmark(read, 0, r.ISR, 1) == r.ISR_RST


def test_register_write_through_the_machine(benchmark):
    rig = DriverRig()
    benchmark(rig.machine.io_write, rig.driver.base + r.TPSR, 1, 0x40)
    assert rig.card.chip.tpsr == 0x40


@pytest.mark.parametrize("size", SIZES)
def test_ring_receive(benchmark, size):
    """The card alone: a frame into the ring, the pages given back by registers."""
    rig = Rig(Ne2000Pci).start()
    frame = frame_to(MAC, size)
    pages = -(-(size + 8) // 256)
    state = {"page": PSTART}

    def step():
        assert rig.card.receive(frame)
        page = state["page"] + pages
        state["page"] = page = page if page < 0x80 else page - 0x80 + PSTART
        rig.outb(r.BNRY, page)

    benchmark(step)
    assert rig.card.counters == {}


@pytest.mark.parametrize("size", SIZES)
def test_ring_transmit(benchmark, size):
    """The card alone: remote write of a frame by one string access, transmit."""
    rig = Rig(Ne2000Pci).start(imr=0)
    frame = frame_to(PEER, size)
    benchmark(rig.send, frame)
    assert rig.wire[-1] == frame


@pytest.mark.parametrize("model", ["ne2k_pci", "ne2k_isa"])
@pytest.mark.parametrize("size", SIZES)
def test_driver_transmit(benchmark, model, size):
    rig = DriverRig(model)
    frame = frame_to(PEER, size)

    def step():
        rig.driver.transmit(frame)
        rig.settle()

    benchmark(step)
    assert rig.sent[-1] == frame


@pytest.mark.parametrize("model", ["ne2k_pci", "ne2k_isa"])
@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("size", SIZES)
def test_driver_receive(benchmark, model, size, batch):
    """``batch`` frames arrive before the interrupt is served."""
    rig = DriverRig(model)
    frames = [frame_to(MAC, size)] * batch

    def step():
        rig.wire(*frames)
        rig.settle()

    benchmark(step)
    assert rig.got[-1] == frames[-1]
    assert rig.driver.counters["rx_frames"] == len(rig.got)
