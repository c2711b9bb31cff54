"""Initialization, suspend, STOP in the middle: the engine of the Am79C970A."""

import struct

import pytest

from nic_models.bus.dma import run_to_end
from nic_models.pcnet import registers as r
from tests.nic_models.pcnet_kit import (
    ENP,
    INIT_BLOCK,
    MAC,
    OWN,
    PEER,
    RX_RING,
    STP,
    TX_RING,
    Bench,
    every_style,
    frame,
    started,
)


@every_style
def test_initialization_block(style):
    bench = Bench()
    bench.setup(style, rlen=4, tlen=1, mode=0x0180, ladrf=0x8877665544332211, start=r.INIT)
    assert bench.csr(0) & 0xFFF == r.IDON | r.INTR | r.INIT
    assert [bench.csr(n) for n in range(8, 16)] == [
        0x2211, 0x4433, 0x6655, 0x8877, 0x5452, 0x1200, 0x5634, 0x0180,
    ]  # fmt: skip
    assert bench.csr(r.BADR) | bench.csr(r.BADR + 1) << 16 == RX_RING
    assert bench.csr(r.BADX) | bench.csr(r.BADX + 1) << 16 == TX_RING
    assert (bench.csr(76), bench.csr(78)) == (0xFFF0, 0xFFFE)
    bench.csr(0, r.STRT)
    assert bench.csr(0) & (r.RXON | r.TXON) == r.RXON | r.TXON


@pytest.mark.parametrize(("mode", "on"), [(0, 0x30), (r.DTX, 0x20), (r.DRX, 0x10), (r.DTX | r.DRX, 0)])
def test_dtx_drx(mode, on):
    bench = Bench()
    bench.setup(2, mode=mode)
    assert bench.csr(0) & 0x30 == on


@pytest.mark.parametrize(("code", "length"), [(0, 1), (9, 512), (10, 512), (15, 512)])
def test_ring_lengths(code, length):
    bench = Bench()
    block = struct.pack("<HBB6sHQII", 0, code << 4, code << 4, MAC, 0, 0, RX_RING, TX_RING)
    bench.memory.cells[INIT_BLOCK : INIT_BLOCK + len(block)] = block
    bench.bcr(20, 2)
    bench.csr(1, INIT_BLOCK)
    bench.csr(0, r.INIT)
    assert bench.csr(76) == bench.csr(78) == -length & 0xFFFF


def test_upper_address_byte_of_16_bit_structures():
    bench = Bench()
    asked = []
    bench.csr(1, 0x2345)
    bench.csr(2, 0xAB01)
    bench.card.write(0, r.WIO_RAP, 2, 0)
    bench.card.write(0, r.RDP, 2, r.INIT)
    engine = bench.card.dma()
    asked.append(next(engine))
    assert asked == [("read", 0xAB012344, 24)]
    block = struct.pack("<H6sQII", 0, MAC, 0, 0x20004000, 0x40005000)
    with pytest.raises(StopIteration):
        engine.send(block)
    assert bench.csr(r.BADR) | bench.csr(r.BADR + 1) << 16 == 0xAB004000
    bench.card.write(0, r.WIO_RAP, 2, 0)
    bench.card.write(0, r.RDP, 2, r.STRT)
    bench.card.write(0, r.RDP, 2, r.TDMD)
    engine = bench.card.dma()
    assert next(engine) == ("read", 0xAB005000, 8)
    descriptor = struct.pack("<HHHH", 0x1000, 0x8312, 0xF000 | -60 & 0xFFF, 0)
    assert engine.send(descriptor) == ("read", 0xAB121000, 60)


def test_start_by_registers_alone():
    """The data sheet's alternative to the initialization block."""
    bench = Bench()
    bench.bcr(20, 2)
    bench.style = 2
    bench.rx_count, bench.tx_count = 3, 5  # not powers of two: the registers allow it
    for index in range(3):
        bench.give(index)
    for index in range(5):
        bench.write_descriptor(bench.tx_address(index), 0, 0, 0, 0)
    bench.csr(r.BADR, RX_RING)
    bench.csr(r.BADX, TX_RING)
    bench.csr(r.RCVRL, 0xFFFD)
    bench.csr(r.XMTRL, 0xFFFB)
    bench.csr(72, 0xFFFD)
    bench.csr(74, 0xFFFB)
    bench.csr(15, 0)
    bench.csr(0, r.STRT | r.IENA)
    for number in range(12):
        bench.send(frame(60 + number, to=PEER))
        index = number % 3
        assert bench.receive(frame(100 + number))
        assert bench.mcnt(index) == 104 + number
        bench.give(index)
    assert [len(item) for item in bench.sent] == list(range(60, 72))


def test_init_needs_stop_first():
    bench = started(2)
    bench.csr(1, 0)
    bench.send(frame(60))
    bench.csr(0, r.INIT)
    assert bench.csr(r.CXDA) == TX_RING + 16  # no second initialization
    bench.csr(0, r.STOP)
    bench.csr(0, r.INIT)
    assert bench.csr(r.CXDA) == TX_RING


# -- suspend -----------------------------------------------------------------------------------------------


def test_suspend_holds_both_ways():
    bench = started(2)
    bench.csr(5, r.SPND)
    assert bench.csr(5) & r.SPND
    bench.send(frame(60))
    assert bench.sent == []
    assert not bench.receive(frame(60))
    bench.csr(15, r.PROM)
    bench.csr(5, 0)
    assert not bench.csr(5) & r.SPND
    assert len(bench.sent) == 1
    assert bench.ready == 1
    assert bench.receive(frame(60, to=PEER))
    assert bench.rx_status(0) & (OWN | STP | ENP) == STP | ENP


def test_suspend_ends_at_a_frame_boundary():
    bench = started(2, tlen=3)
    bench.queue(frame(30, to=PEER), b"x" * 40, b"y" * 50)
    bench.queue(frame(77, to=PEER))
    card = bench.card
    card.write(0, r.WIO_RAP, 2, 0)
    card.write(0, r.RDP, 2, r.TDMD)
    engine = card.dma()
    op = next(engine)
    for _ in range(3):
        op = engine.send(
            bench.memory.read(op[1], op[2]) if op[0] == "read" else bench.memory.write(op[1], op[2])
        )
    card.write(0, r.WIO_RAP, 2, 5)
    card.write(0, r.RDP, 2, r.SPND)
    assert not card.read(0, r.RDP, 2) & r.SPND  # not yet
    with pytest.raises(StopIteration):
        while True:
            data = bench.memory.read(op[1], op[2]) if op[0] == "read" else bench.memory.write(op[1], op[2])
            op = engine.send(data)
    assert card.read(0, r.RDP, 2) & r.SPND
    assert [len(item) for item in bench.sent] == [120]
    bench.drive()
    bench.csr(5, 0)
    assert [len(item) for item in bench.sent] == [120, 77]


def test_stop_clears_suspend():
    bench = started(2)
    bench.csr(5, r.SPND)
    assert not bench.receive(frame(60))
    bench.csr(0, r.STOP)
    assert not bench.csr(5) & r.SPND
    assert bench.ready == 1  # the wire is let go


# -- the engine cut off ------------------------------------------------------------------------------------


def test_stop_in_the_middle_of_a_run():
    bench = started(2)
    bench.queue(frame(60, to=PEER))
    card = bench.card
    card.write(0, r.WIO_RAP, 2, 0)
    card.write(0, r.RDP, 2, r.TDMD)
    engine = card.dma()
    op = next(engine)
    engine.send(bench.memory.read(op[1], op[2]))
    card.write(0, r.RDP, 2, r.STOP)
    assert not card.dma_pending
    with pytest.raises(StopIteration):
        engine.send(b"late")
    assert bench.sent == []
    assert bench.csr(0) == 4
    assert bench.tx_status(0) & OWN


def test_nothing_pending_is_nothing_asked():
    bench = started(2)
    before = bench.memory.ops
    for index in range(128):
        bench.csr(index)
        bench.bcr(index)
    assert bench.memory.ops == before
    assert run_to_end(bench.card.dma(), bench.memory)
    assert not bench.card.dma_pending
