"""What broke other models of this chip: each published fault played against this one.

Every case must end by itself within a bounded number of bus operations, raise nothing, and touch nothing that the
descriptors do not name.
"""

import random

import pytest

from nic_models.bus.dma import MAX_OPS
from nic_models.pcnet import registers as r
from nic_models.pcnet.rings import KICK_DESCRIPTORS
from tests.nic_models.pcnet_kit import (
    ENP,
    MAC,
    OWN,
    PEER,
    RX_BUFFERS,
    RX_RING,
    STP,
    TX_BUFFERS,
    TX_RING,
    Bench,
    Memory,
    frame,
    started,
    with_fcs,
)

OPS_PER_KICK = 4 * (KICK_DESCRIPTORS + 4200)


def bounded(bench: Bench, action, *, kicks: int = 1) -> int:
    """Bus operations of ``action``, which must be bounded."""
    before = bench.memory.ops
    action()
    spent = bench.memory.ops - before
    assert spent < OPS_PER_KICK * kicks < MAX_OPS * kicks
    return spent


def test_cve_2015_3209_chain_longer_than_any_buffer():
    """Transmit descriptors without ENP whose lengths add up far past a frame, then an end."""
    bench = started(2, tlen=9, csr4=0x0115)
    for index in range(300):
        word = OWN | (STP if index == 0 else 0) | (ENP if index == 299 else 0)
        bench.write_descriptor(bench.tx_address(index), TX_BUFFERS, word, 4095, 0)
    bounded(bench, bench.demand)
    assert bench.sent == []
    assert bench.card.counters == {"tx_jabber": 1}
    assert all(not bench.tx_status(index) & OWN for index in range(300))
    assert len(str(bench.card.snapshot())) < 200_000


@pytest.mark.parametrize("size", [4092, 4093, 4094, 4095, 4096, 4097, 4100, 8190])
@pytest.mark.parametrize("mode", [r.LOOP | r.INTL, r.LOOP | r.INTL | r.DXMTFCS, r.LOOP])
def test_cve_2015_7504_looped_frame_whose_fcs_goes_past_the_buffer(size, mode):
    bench = started(2, mode=mode, csr4=0x0115, buffer=4096)
    before = bytes(bench.memory.cells)
    data = frame(size)
    bounded(bench, lambda: bench.send(data[:4000], data[4000:]))
    after = bytes(bench.memory.cells)
    assert not bench.tx_status(0) & OWN and not bench.tx_status(1) & OWN
    # nothing outside rings and buffers
    assert after[RX_BUFFERS + 0x4000 : TX_BUFFERS] == before[RX_BUFFERS + 0x4000 : TX_BUFFERS]
    assert after[:RX_RING] == before[:RX_RING]


@pytest.mark.parametrize("size", [4091, 4092, 4096, 5000, 65535, 1 << 20])
def test_cve_2015_7512_frame_from_the_wire_too_long(size):
    bench = started(2, buffer=4096)
    before = bytes(bench.memory.cells)
    bounded(bench, lambda: bench.receive(frame(size)))
    if size == 4091:
        assert bench.received(0, 4095) == with_fcs(frame(4091))
    else:
        assert bytes(bench.memory.cells) == before
        assert bench.card.counters == {"rx_long": 1}


@pytest.mark.parametrize("value", [0, 1, 0xFFFF, 0x8000])
@pytest.mark.parametrize("fill", [0, OWN | STP])
def test_cve_2016_7909_ring_length_zero(value, fill):
    """CSR76 and CSR78 of zero, and other lengths, with every descriptor owned and none."""
    bench = started(2, csr4=0x0115)
    bench.csr(0, r.STOP)
    bench.csr(r.RCVRL, value)
    bench.csr(r.XMTRL, value)
    bench.csr(72, value)
    bench.csr(74, value)
    for index in range(512):
        bench.write_descriptor(bench.rx_address(index), RX_BUFFERS, fill, 4, 0)
        bench.write_descriptor(bench.tx_address(index), TX_BUFFERS, fill, 4, 0)
    bench.csr(0, r.STRT)
    bounded(bench, lambda: bench.receive(frame(1514)))
    bounded(bench, bench.demand)
    bounded(bench, lambda: bench.tick(50_000_000), kicks=600)
    for index in range(128):
        bench.csr(index)


def test_cve_2018_17962_sizes_beyond_an_int():
    bench = started(2)
    for size in (1 << 22, 70_000, 4092):
        assert bench.receive(bytes(size))
    assert bench.card.counters == {"rx_long": 3}


def test_cve_2021_3416_loopback_never_re_enters():
    """Loopback into rings that lie over each other: the looped frame makes the next transmit descriptor."""
    bench = started(2, mode=r.LOOP | r.INTL | r.PROM, csr4=0x0115)
    depth = 0

    def tx(*_args):
        nonlocal depth
        depth += 1
        return True

    bench.card.tx = tx
    bench.csr(0, r.STOP)
    bench.csr(r.RCVRL, 0xFFFF)
    bench.csr(r.XMTRL, 0xFFFF)
    bench.csr(r.BADR, TX_RING)  # one descriptor for both
    bench.csr(0, r.STRT)
    bench.write_descriptor(TX_RING, TX_RING - 2, OWN | STP | ENP, 60, 0)
    bounded(bench, bench.demand)
    assert depth == 0
    bounded(bench, lambda: bench.tick(20_000_000), kicks=300)


def test_transmit_descriptors_that_the_looped_frames_give_back():
    """Frames looped into the transmit ring itself: it never runs empty."""
    bench = started(2, mode=r.LOOP | r.INTL | r.PROM, csr4=0x0115, tlen=0, rlen=0)
    ring = bytes(bench.memory.cells[TX_RING : TX_RING + 16])
    bench.write_descriptor(TX_RING, 0x9000, OWN | STP | ENP, 16, 0)
    ring = bytes(bench.memory.cells[TX_RING : TX_RING + 16])
    bench.memory.cells[0x9000:0x9010] = ring
    bench.write_descriptor(bench.rx_address(0), TX_RING, OWN, 64, 0)
    spent = bounded(bench, bench.demand)
    assert spent > 4


class Rom(Memory):
    """RAM that keeps what it was given until ``lock`` opens: descriptors that stay owned for ever."""

    locked = False

    def write(self, address: int, data: bytes) -> None:
        if self.locked:
            self.ops += 1
        else:
            super().write(address, data)


@pytest.mark.parametrize("style", [0, 2])
@pytest.mark.parametrize("mode", [0, r.LOOP | r.INTL | r.PROM, r.LOOP | r.PROM])
def test_rings_that_never_end(style, mode):
    memory = Rom()
    bench = Bench(memory=memory)
    bench.setup(style, mode=mode, csr4=0x0115, rlen=2, tlen=2)
    for _ in range(4):
        bench.queue(frame(60))
    memory.locked = True
    bounded(bench, bench.demand)
    assert len(bench.sent) <= KICK_DESCRIPTORS
    before = len(bench.sent)
    bounded(bench, lambda: bench.tick(2_000_000), kicks=30)
    assert len(bench.sent) - before <= 30 * KICK_DESCRIPTORS
    bounded(bench, lambda: bench.receive(frame(1000)))
    bench.csr(0, r.STOP)
    assert bench.card.next_deadline() is None


def test_lapp_search_of_a_ring_without_end():
    memory = Rom()
    bench = Bench(memory=memory)
    bench.setup(2)
    bench.csr(3, r.LAPPEN)
    memory.locked = True
    bounded(bench, lambda: bench.receive(frame(60)))


def test_buffer_of_one_byte_each():
    bench = started(2, rlen=9, buffer=1)
    bench.csr(0, r.STOP)
    bench.csr(r.RCVRL, 0)
    bench.csr(0, r.STRT)
    bounded(bench, lambda: bench.receive(frame(4000)))


def test_descriptor_in_its_own_buffer():
    bench = started(2, rlen=0, csr4=0x0115)
    bench.give(0, 1536, OWN, RX_RING)
    bounded(bench, lambda: bench.receive(frame(600)))
    bench.write_descriptor(TX_RING, TX_RING, OWN | STP | ENP, 60, 0)
    bounded(bench, bench.demand)


@pytest.mark.parametrize("where", [0xFFFFFFFF, 0xFFFFFFF0, 1 << 20, 0xFFFFFFFC, 0x100000 - 8, 0xFEBC0000])
@pytest.mark.parametrize("style", [0, 1, 2, 3])
def test_rings_and_buffers_outside_ram(where, style):
    bench = started(style)
    bench.give(0, 1536, OWN, where)
    bounded(bench, lambda: bench.receive(frame(600)))
    bench.write_descriptor(bench.tx_address(0), where, OWN | STP | ENP, 1000, 0)
    bounded(bench, bench.demand)
    bench.csr(0, r.STOP)
    for base in (r.BADR, r.BADX):
        bench.csr(base, where & 0xFFFF)
        bench.csr(base + 1, where >> 16)
    bench.csr(0, r.STRT | r.IENA)
    bounded(bench, bench.demand)
    bounded(bench, lambda: bench.receive(frame(600)))
    bounded(bench, lambda: bench.tick(30_000_000), kicks=300)


def test_dma_into_the_card_itself_is_no_recursion():
    """A bus where the card's own window answers: a descriptor that points at RDP."""

    class Looped(Memory):
        card = None

        def read(self, address: int, length: int) -> bytes:
            if address >= 0xF0000000:
                return self.card.read(0, 0x10, 2).to_bytes(2, "little") * (length // 2 + 1)
            return super().read(address, length)

        def write(self, address: int, data: bytes) -> None:
            if address >= 0xF0000000:
                self.card.write(0, 0x12, 2, 0)
                self.card.write(0, 0x10, 2, r.TDMD)
            super().write(address, data)

    memory = Looped()
    bench = Bench(memory=memory)
    memory.card = bench.card
    bench.setup(2, csr4=0x0115)
    bench.give(0, 1536, OWN, 0xF0000010)
    bounded(bench, lambda: bench.receive(frame(600)))
    bench.write_descriptor(bench.tx_address(0), 0xF0000010, OWN | STP | ENP, 100, 0)
    bounded(bench, bench.demand)
    assert len(bench.sent) <= 1


def test_own_window_stops_the_chip():
    """A receive buffer over RDP that writes STOP in the middle of the run."""

    class Stopping(Memory):
        card = None

        def write(self, address: int, data: bytes) -> None:
            if address >= 0xF0000000:
                self.card.write(0, 0x12, 2, 0)
                self.card.write(0, 0x10, 2, r.STOP)
            super().write(address, data)

    memory = Stopping()
    bench = Bench(memory=memory)
    memory.card = bench.card
    bench.setup(2)
    bench.give(0, 1536, OWN, 0xF0000010)
    bounded(bench, lambda: bench.receive(frame(600)))
    assert bench.csr(0) == 4
    assert bench.rx_status(0) == OWN


@pytest.mark.parametrize("seed", range(12))
def test_random_guest(seed):
    """Random registers, descriptors, frames and time: no exception, no hang, no growth."""
    rng = random.Random(seed)
    bench = Bench()
    bench.setup(rng.randrange(4))
    for _ in range(1500):
        choice = rng.randrange(12)
        if choice < 4:
            offset, size = rng.randrange(0x20), rng.choice((1, 2, 2, 2, 4))
            bench.card.write(rng.randrange(2), offset, size, rng.getrandbits(8 * size))
        elif choice < 6:
            bench.card.read(0, rng.randrange(0x20), rng.choice((1, 2, 4)))
        elif choice == 6:
            at = rng.choice((TX_RING, RX_RING)) + rng.randrange(0, 256, 4)
            bench.memory.cells[at : at + 4] = rng.randbytes(4)
        elif choice == 7:
            bench.card.receive(frame(rng.choice((14, 60, 200, 1514, 4000)), to=rng.choice((MAC, PEER))))
        elif choice == 8:
            bench.accept = rng.random() < 0.8
            if bench.accept:
                bench.card.tx_ready()
        elif choice == 9:
            bench.card.set_link(rng.random() < 0.8)
        elif choice == 10:
            bench.csr(rng.choice((0, 0, 3, 4, 5, 15, 76, 78)), rng.getrandbits(16))
        else:
            bench.clock += rng.randrange(3_000_000)
            bench.card.run(bench.clock)
        bench.drive()
        assert len(bench.card.rings.bus.posted) <= 4
    bench.card.restore(bench.card.snapshot())
