"""Published faults of QEMU's NE2000, played on ours: bounded work, no exception, no byte outside the model.

Each call runs under a trace that counts lines, so that an endless loop is a failure and not a hang.
"""

import sys

import pytest

from nic_models.ne2000 import registers as r
from nic_models.ne2000.isa import Ne2000Isa
from nic_models.ne2000.pci import Ne2000Pci
from tests.nic_models.rig import BROADCAST, MAC, Rig, frame_to

LINES_MAX = 20_000


@pytest.fixture(params=[Ne2000Pci, Ne2000Isa])
def rig(request):
    return Rig(request.param)


def bounded(call, *words):
    """``call(*words)`` in at most LINES_MAX lines of Python."""
    left = LINES_MAX

    def trace(_frame, event, _arg):
        nonlocal left
        if event == "line":
            left -= 1
            assert left > 0, "the card loops"
        return trace

    old = sys.gettrace()
    sys.settrace(trace)
    try:
        return call(*words)
    finally:
        sys.settrace(old)


def start(rig, *, pstart, pstop, bnry, curr, rcr=r.RCR_PRO | r.RCR_AB, tcr=0):
    rig.outb(r.CR, r.STP | r.RD_ABORT)
    for offset, value in ((r.PSTART, pstart), (r.PSTOP, pstop), (r.BNRY, bnry), (r.RCR, rcr), (r.TCR, tcr)):
        rig.outb(offset, value)
    rig.put(1, r.CURR, curr)
    rig.outb(r.IMR, 0x7F)
    rig.outb(r.CR, r.STA | r.RD_ABORT)


def memory_is_sound(rig):
    """The board's memory has its size and everything of it can still be read."""
    memory = rig.card.snapshot()
    assert rig.card.restore(memory) is None
    assert len(rig.peek(0x4000, 0x100)) == 0x100


def test_cve_2015_5278_a_ring_whose_pointers_never_meet(rig):
    """Receive with PSTOP below PSTART: the free-space sum went wrong and the copy never ended."""
    for pstart, pstop, bnry, curr in ((0x80, 0x40, 0x60, 0x70), (0x60, 0x60, 0x60, 0x60), (0, 0, 0, 0)):
        start(rig, pstart=pstart, pstop=pstop, bnry=bnry, curr=curr)
        for size in (60, 1514):
            bounded(rig.card.receive, frame_to(MAC, size))
        memory_is_sound(rig)


def test_cve_2015_5279_a_ring_beyond_the_memory(rig):
    """PSTOP at 0xff: the frame was copied past the end of the card's buffer."""
    for pstart, curr in ((0x40, 0xFE), (0xC0, 0xC0), (0xFE, 0xFE), (0x7F, 0x7F)):
        start(rig, pstart=pstart, pstop=0xFF, bnry=pstart, curr=curr)
        for _ in range(20):
            bounded(rig.card.receive, frame_to(BROADCAST, 1514))
        memory_is_sound(rig)


@pytest.mark.parametrize("pages", [(0x40, 0x40), (0x40, 0x41), (0xFF, 0x00), (0x00, 0x01)])
@pytest.mark.parametrize("curr", [0x00, 0x3F, 0x40, 0x41, 0xFF])
def test_cve_2016_2841_a_ring_of_no_pages(rig, pages, curr):
    """PSTART equal to PSTOP, or CURR outside: the copy made no progress for ever."""
    start(rig, pstart=pages[0], pstop=pages[1], bnry=pages[0], curr=curr)
    for size in (14, 60, 256, 1514):
        bounded(rig.card.receive, frame_to(MAC, size))
    bounded(rig.remote, r.RD_READ, 0x4000, 0xFFFF)
    bounded(rig.card.read_block, 0, r.DATA_PORT, 2, 0x8000)
    bounded(rig.remote, r.RD_SEND, 0, 0)
    memory_is_sound(rig)


@pytest.mark.parametrize("size", [60, 1514, 1518])
def test_cve_2007_1321_register_values_that_pass_for_checked(rig, size):
    """A sign error: with the ring's end in front of its start, or CURR beyond, the copy ran over the heap."""
    for pstart in (0x00, 0x40, 0x7F, 0xFF):
        for pstop in (0x00, 0x41, 0x80, 0xFF):
            for curr in (0x00, 0x3F, 0x7F, 0x80, 0xFF):
                for bnry in (0x00, 0x40, 0xFF):
                    start(rig, pstart=pstart, pstop=pstop, bnry=bnry, curr=curr)
                    bounded(rig.card.receive, frame_to(MAC, size))
    assert len(rig.card.memory.cells) == 0x8000
    memory_is_sound(rig)
    prom = bytes(rig.card.memory.cells[:32])
    assert prom[:12:2] == MAC


@pytest.mark.parametrize("size", [1515, 1519, 2048, 0x4000, 0xFFFF])
@pytest.mark.parametrize("delayed", [False, True])
def test_cve_2007_5729_a_transmit_count_beyond_the_mtu(rig, size, delayed):
    """What EN0_TCNT said was handed to the NAT, whose buffer held one MTU."""
    start(rig, pstart=0x4C, pstop=0x80, bnry=0x4C, curr=0x4D)
    rig.card.tx_delay = delayed
    for offset, value in ((r.TPSR, 0x40), (r.TBCR0, size & 0xFF), (r.TBCR1, size >> 8)):
        rig.outb(offset, value)
    bounded(rig.outb, r.CR, r.STA | r.TXP | r.RD_ABORT)
    rig.time += 1_000_000_000
    bounded(rig.card.run, rig.time)
    assert all(len(frame) <= 1518 for frame in rig.wire)
    assert rig.card.counters == ({} if size <= 1518 else {"tx_size": 1})
    assert rig.inb(r.ISR) & r.ISR_PTX and not rig.inb(r.CR) & r.TXP  # the driver is told that it is done


@pytest.mark.parametrize("size", [0x4000, 0x8000, 0xFFFF])
@pytest.mark.parametrize("tcr", [r.TCR_LB0, r.TCR_LB1, r.TCR_LB])
@pytest.mark.parametrize("page", [0x00, 0x40, 0x7F, 0xFF])
def test_cve_2007_2893_a_looped_count_beyond_the_memory(rig, size, tcr, page):
    """Bochs: a loopback of TBCR bytes was copied into its ring, over the end of the device's memory."""
    start(rig, pstart=0x4C, pstop=0x80, bnry=0x4C, curr=0x4D, tcr=tcr)
    before = bytes(rig.card.memory.cells)
    for offset, value in ((r.TPSR, page), (r.TBCR0, size & 0xFF), (r.TBCR1, size >> 8)):
        rig.outb(offset, value)
    bounded(rig.outb, r.CR, r.STA | r.TXP | r.RD_ABORT)
    assert bytes(rig.card.memory.cells) == before  # a looped packet stays in the FIFO
    assert rig.wire == []
    assert rig.inb(r.ISR) & r.ISR_PTX
    memory_is_sound(rig)


@pytest.mark.parametrize("size", [1519, 4096, 65535, 70_000, 1 << 20])
def test_cve_2018_10839_and_17963_frames_larger_than_any_wire_has(rig, size):
    """A size that did not fit the sum was copied over the heap; sizes beyond 2^31 were passed on."""
    start(rig, pstart=0x46, pstop=0x60, bnry=0x46, curr=0x47)
    before = rig.get(1, r.CURR)
    assert bounded(rig.card.receive, frame_to(MAC, size)) is True  # taken and dropped, not held
    assert rig.get(1, r.CURR) == before
    assert sum(rig.card.counters.values()) == 1
    memory_is_sound(rig)


def test_cve_2021_3416_a_frame_that_comes_back_while_it_is_sent():
    """A wire that answers inside ``tx`` (a hub in loop-back): the card was entered again and again."""
    rig = Rig(Ne2000Pci)
    depth = deepest = 0

    def tx(frame, vnet=b""):
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        rig.card.receive(frame)
        depth -= 1
        return True

    rig.card.chip.tx = tx
    for tcr in (0, r.TCR_LB0, r.TCR_LB1, r.TCR_LB):
        start(rig, pstart=0x4C, pstop=0x60, bnry=0x4C, curr=0x4D, tcr=tcr)
        for offset, value in ((r.TPSR, 0x40), (r.TBCR0, 60), (r.TBCR1, 0)):
            rig.outb(offset, value)
        bounded(rig.outb, r.CR, r.STA | r.TXP | r.RD_ABORT)
    assert deepest == 1  # sent once, answered once, never again
    memory_is_sound(rig)


def test_transmit_and_remote_dma_from_everywhere(rig):
    """Page and length registers that point anywhere: no byte but the board's comes out."""
    start(rig, pstart=0x4C, pstop=0x80, bnry=0x4C, curr=0x4D)
    for page in (0x00, 0x3F, 0x7F, 0x80, 0xFF):
        for low, high in ((0, 0), (0xFF, 0xFF), (0xEA, 0x05)):
            for offset, value in ((r.TPSR, page), (r.TBCR0, low), (r.TBCR1, high)):
                rig.outb(offset, value)
            bounded(rig.outb, r.CR, r.STA | r.TXP | r.RD_ABORT)
    assert all(len(frame) <= 1514 for frame in rig.wire)
    for address in (0, 0x3FFF, 0x7FFF, 0xFFFF):
        for command in (r.RD_READ, r.RD_WRITE):
            bounded(rig.remote, command, address, 0xFFFF)
            bounded(rig.card.write_block, 0, r.DATA_PORT, 2, b"\xa5" * 0x1FFFE)
            bounded(rig.card.read_block, 0, r.DATA_PORT, 2, 0xFFFF)
    memory_is_sound(rig)
