"""PCnet: registers, rings, and the whole way through the driver.

Numbers are per round; a round moves ``BATCH`` frames where a batch is named, otherwise one.
"""

from __future__ import annotations

import pytest

from nic_models.bus.machine import Machine
from nic_models.pcnet import registers as r
from tests.nic_models.pcnet_kit import started
from tests.tapnet.guest.drivers.rig import MAC, PEER, DriverRig, frame_to

BATCH = 16
SIZES = [60, 1514]
RAM = 4 << 20


def rig():
    return DriverRig("pcnet", machine=lambda kind, _size, **options: Machine(kind, RAM, **options))


def test_register_read(benchmark):
    card = started(2).card
    card.write(0, r.WIO_RAP, 2, 0)
    assert benchmark(card.read, 0, r.RDP, 2) & r.TXON


def test_register_read_through_the_machine(benchmark):
    bench = rig()
    assert benchmark(bench.machine.io_read, bench.driver.base + r.RDP, 2) & r.TXON


@pytest.mark.parametrize("size", SIZES)
def test_ring_receive(benchmark, size):
    """The card alone: a frame into its buffer, the descriptor given back."""
    bench = started(2)
    frame = frame_to(MAC, size)
    again = bytes(bench.memory.cells[bench.rx_address(0) : bench.rx_address(4)])
    at = bench.rx_address(0)

    def step():
        bench.receive(frame)
        bench.memory.cells[at : at + 64] = again

    benchmark(step)
    assert bench.card.counters == {}


@pytest.mark.parametrize("size", SIZES)
def test_ring_transmit(benchmark, size):
    """The card alone: one descriptor, one demand."""
    bench = started(2)
    frame = frame_to(PEER, size)
    (index,) = bench.queue(frame)
    descriptor = bytes(bench.memory.cells[bench.tx_address(index) : bench.tx_address(index) + 16])
    bench.queue(frame, frame, frame)
    ring = bytes(bench.memory.cells[bench.tx_address(0) : bench.tx_address(4)])
    assert ring[:16] == descriptor
    single = descriptor[:4] + descriptor[4:16]
    card = bench.card
    bench.memory.cells[bench.tx_address(0) : bench.tx_address(4)] = bytes(64)

    def step():
        at = card.rings.tx.address()
        bench.memory.cells[at : at + 16] = single
        card.write(0, r.RDP, 2, r.TDMD | r.IENA)
        bench.drive()

    card.write(0, r.WIO_RAP, 2, 0)
    benchmark(step)
    assert bench.sent[-1] == frame


@pytest.mark.parametrize("size", SIZES)
def test_driver_transmit(benchmark, size):
    bench = rig()
    frame = frame_to(PEER, size)

    def step():
        bench.driver.transmit(frame)
        bench.settle()

    benchmark(step)
    assert bench.sent[-1] == frame


@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("size", SIZES)
def test_driver_receive(benchmark, size, batch):
    """``batch`` frames arrive before the interrupt is served."""
    bench = rig()
    frames = [frame_to(MAC, size)] * batch

    def step():
        bench.wire(*frames)
        bench.settle()

    benchmark(step)
    assert bench.got[-1] == frames[-1]
    assert bench.driver.counters["rx_frames"] == len(bench.got)
