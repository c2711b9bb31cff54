"""The DP8390 against its data sheet: one rule per test. Section numbers are of DP8390D/NS32490D, July 1995."""

from __future__ import annotations

import json
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nic_models.ne2000 import registers as r
from nic_models.ne2000.dp8390 import HOLD_LIMIT, OVERFLOW_GRACE, REMIND_NS
from nic_models.ne2000.state import TALLY_STOP
from nic_models.parts.multicast import hash_be
from tests.nic_models.rig import BROADCAST, GROUP, MAC, OTHER, PSTART, PSTOP, Rig, frame_to, isa

GRACE = 50_000_000


@pytest.fixture(params=[Rig, isa], ids=["pci", "isa"])
def rig(request):
    return request.param()


# -- registers (section 10) ----------------------------------------------------------------------------------


def test_after_reset(rig):
    assert rig.inb(r.CR) == 0x21
    assert rig.inb(r.ISR) == r.ISR_RST
    assert rig.get(2, r.IMR) == 0x80
    assert not rig.irq


@pytest.mark.parametrize(
    ("written", "page", "read_at", "value", "expected"),
    [
        (r.PSTART, 2, r.PSTART, 0x46, 0x46),
        (r.PSTOP, 2, r.PSTOP, 0x60, 0x60),
        (r.BNRY, 0, r.BNRY, 0x47, 0x47),
        (r.TPSR, 2, r.TPSR, 0x40, 0x40),
        (r.RCR, 2, r.RCR, 0x1F, 0xDF),
        (r.RCR, 2, r.RCR, 0xC0, 0xC0),
        (r.TCR, 2, r.TCR, 0x06, 0xE6),
        (r.TCR, 2, r.TCR, 0xFF, 0xFF),
        (r.DCR, 2, r.DCR, 0x49, 0xC9),
        (r.IMR, 2, r.IMR, 0x3F, 0xBF),
        (r.IMR, 2, r.IMR, 0x80, 0x80),
    ],
)
def test_written_on_page_0_read_elsewhere(rig, written, page, read_at, value, expected):
    rig.put(0, written, value)
    assert rig.get(page, read_at) == expected


@pytest.mark.parametrize("offset", range(1, 16))
@pytest.mark.parametrize("value", [0x00, 0xA5, 0xFF])
def test_page_1_keeps_what_is_written(rig, offset, value):
    before = [rig.get(1, n) for n in range(1, 16)]
    rig.put(1, offset, value)
    after = [rig.get(1, n) for n in range(1, 16)]
    before[offset - 1] = value
    assert after == before


def test_page_2_pointers_are_kept(rig):
    for offset in (r.RNPP, r.LNPP, r.ACU, r.ACL):
        rig.put(2, offset, 0x10 + offset)
    assert [rig.get(2, n) for n in (r.RNPP, r.LNPP, r.ACU, r.ACL)] == [0x13, 0x15, 0x16, 0x17]


def test_page_2_writes_the_local_dma_address(rig):
    rig.put(2, r.PSTART, 0x34)
    rig.put(2, r.PSTOP, 0x12)
    assert (rig.inb(r.CLDA0), rig.inb(r.CLDA1)) == (0x34, 0x12)


def test_command_register_start_and_stop(rig):
    rig.outb(r.CR, 0x22)
    assert rig.inb(r.CR) == 0x22
    assert not rig.inb(r.ISR) & r.ISR_RST
    rig.outb(r.CR, 0x20)  # neither: no change
    assert rig.inb(r.CR) == 0x22
    rig.outb(r.CR, 0x23)  # both: stop wins
    assert rig.inb(r.CR) == 0x21
    assert rig.inb(r.ISR) & r.ISR_RST


def test_the_reserved_dma_command_changes_nothing(rig):
    rig.outb(r.CR, 0x22)
    rig.outb(r.CR, 0x02)
    assert rig.inb(r.CR) == 0x22


def test_interrupt_status_is_cleared_by_ones(rig):
    rig.start()
    rig.send(frame_to(OTHER))
    rig.card.receive(frame_to())
    assert rig.inb(r.ISR) == r.ISR_PRX | r.ISR_PTX
    assert rig.irq
    rig.outb(r.ISR, r.ISR_PTX)
    assert rig.inb(r.ISR) == r.ISR_PRX
    assert rig.irq
    rig.outb(r.ISR, r.ISR_PRX)
    assert not rig.irq


def test_reset_bit_is_neither_written_nor_masked_in(rig):
    rig.outb(r.IMR, 0xFF)
    rig.outb(r.ISR, 0xFF)
    assert rig.inb(r.ISR) == r.ISR_RST
    assert not rig.irq


@pytest.mark.parametrize("imr", [0, r.ISR_PTX, 0x7F ^ r.ISR_PRX])
def test_mask(rig, imr):
    rig.start(imr=imr)
    rig.card.receive(frame_to())
    assert not rig.irq
    rig.outb(r.IMR, r.ISR_PRX)
    assert rig.irq
    rig.outb(r.IMR, 0)
    assert not rig.irq


def test_interrupt_line_moves_only_when_it_must(rig):
    rig.start()
    for _ in range(3):
        rig.card.receive(frame_to())
    assert rig.irq_changes == 1


# -- address filter (section 4, 10: RCR) -----------------------------------------------------------------------


def mar_for(*addresses):
    return sum(1 << hash_be(address) for address in addresses).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("rcr", "mar", "destination", "passes"),
    [
        (0, bytes(8), MAC, True),
        (0, bytes(8), OTHER, False),
        (0, bytes(8), BROADCAST, False),
        (0, b"\xff" * 8, GROUP, False),
        (r.RCR_AB, bytes(8), BROADCAST, True),
        (r.RCR_AB, bytes(8), GROUP, False),
        (r.RCR_AM, mar_for(GROUP), GROUP, True),
        (r.RCR_AM, bytes(b ^ 0xFF for b in mar_for(GROUP)), GROUP, False),
        (r.RCR_AM, mar_for(BROADCAST), BROADCAST, True),
        (r.RCR_AM, b"\xff" * 8, OTHER, False),
        (r.RCR_PRO, bytes(8), OTHER, True),
        (r.RCR_PRO, b"\xff" * 8, GROUP, False),
        (r.RCR_PRO, bytes(8), BROADCAST, False),
        (r.RCR_PRO | r.RCR_AM | r.RCR_AB, b"\xff" * 8, GROUP, True),
    ],
)
def test_filter(rig, rcr, mar, destination, passes):
    rig.start(rcr=rcr)
    for index, byte in enumerate(mar):
        rig.put(1, r.MAR0 + index, byte)
    assert rig.card.receive(frame_to(destination))
    packets = rig.packets()
    assert len(packets) == passes
    if passes:
        assert packets[0][0] == r.RSR_PRX | (r.RSR_PHY if destination[0] & 1 else 0)
    assert rig.card.counters == ({} if passes else {"filtered": 1})


def test_filter_by_par_not_prom(rig):
    rig.start()
    for index, byte in enumerate(OTHER):
        rig.put(1, r.PAR0 + index, byte)
    rig.card.receive(frame_to(MAC))
    rig.card.receive(frame_to(OTHER))
    assert [frame[:6] for _, frame in rig.packets()] == [OTHER]


# -- packets in the ring (section 7) ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [60, 61, 247, 248, 249, 256, 504, 505, 1513, 1514, 1518])
def test_packet_in_memory(rig, size):
    rig.start()
    frame = frame_to(size=size)
    assert rig.card.receive(frame)
    pages = -(-(size + 8) // 256)
    stored = rig.peek(PSTART << 8, size + 8)
    count = size + 4
    assert stored[:4] == bytes((r.RSR_PRX, PSTART + pages, count & 0xFF, count >> 8))
    assert stored[4:-4] == frame
    assert stored[-4:] == crc32(frame).to_bytes(4, "little")
    assert rig.get(1, r.CURR) == PSTART + pages
    assert rig.inb(r.RSR) == r.RSR_PRX
    clda = rig.inb(r.CLDA0) | rig.inb(r.CLDA1) << 8
    assert clda == (PSTART << 8) + size + 8


@pytest.mark.parametrize("size", [1, 14, 42, 59])
def test_short_frames_are_padded(rig, size):
    rig.start(rcr=r.RCR_PRO)
    rig.card.receive(frame_to(size=size))
    assert rig.packets() == [(r.RSR_PRX, frame_to(size=size).ljust(60, b"\0"))]


@pytest.mark.parametrize("size", [1519, 4000, 65536])
def test_oversize_frames_are_counted(rig, size):
    rig.start()
    assert rig.card.receive(frame_to(size=size))
    assert rig.packets() == []
    assert rig.card.counters == {"oversize": 1}


def test_a_frame_larger_than_the_ring(rig):
    rig.start(pstart=0x4C, pstop=0x52)
    assert rig.card.receive(frame_to(size=1514))
    assert rig.card.counters == {"oversize": 1}
    assert rig.card.receive(frame_to(size=1200))
    assert len(rig.packets()) == 1


def test_packet_wraps_at_pstop(rig):
    rig.start(curr=PSTOP - 1, bnry=PSTOP - 1)
    frame = frame_to(size=700)
    assert rig.card.receive(frame)
    assert rig.get(1, r.CURR) == PSTART + 2
    assert rig.peek(PSTOP - 1 << 8, 256)[1] == PSTART + 2
    assert rig.packets() == [(r.RSR_PRX, frame)]


@pytest.mark.parametrize(("curr", "bnry"), [(0x20, PSTART), (PSTOP, PSTART), (PSTART, PSTOP), (PSTART, 0)])
def test_pointers_outside_the_ring(rig, curr, bnry):
    """BNRY is compared with the next page and nothing more; CURR counts up until it is PSTOP."""
    rig.start(curr=curr, bnry=bnry)
    assert rig.card.receive(frame_to())
    assert rig.card.counters == {}
    assert rig.get(1, r.CURR) == curr + 1
    assert rig.inb(r.ISR) & r.ISR_PRX
    where = 0x4000 | curr << 8 & 0x3FFF
    assert rig.peek(where, 64) == bytes((r.RSR_PRX, curr + 1, 64, 0)) + frame_to()


@pytest.mark.parametrize("bnry", [0, 1, 0x20, PSTOP, PSTOP + 1, 0xFF])
def test_a_boundary_that_is_never_met_is_none(rig, bnry):
    """ReactOS starts with BNRY = 0."""
    rig.start(curr=PSTART, bnry=bnry)
    for number in range(3 * (PSTOP - PSTART)):
        assert rig.get(1, r.CURR) == PSTART + number % (PSTOP - PSTART)
        assert rig.card.receive(frame_to(size=200, fill=number))
    assert rig.card.counters == {}
    rig.outb(r.BNRY, PSTART + 3)  # now it is one
    assert [rig.card.receive(frame_to(size=200)) for _ in range(4)] == [True, True, False, False]


def test_a_frame_that_is_held_goes_on_when_the_boundary_goes(rig):
    rig.full()
    rig.outb(r.BNRY, 0)
    assert rig.ready == 1
    assert rig.card.receive(frame_to())


def test_reactos_starts_with_bnry_0(rig):
    """Its NE2000 driver: stop, PSTART, PSTOP, BNRY = 0 in the chip's reset, CURR one page on; BNRY follows what it reads."""
    rig.start(curr=PSTART + 1, bnry=0)
    frames = [frame_to(size=300, fill=number) for number in range(100)]
    page = PSTART + 1
    for frame in frames:
        assert rig.card.receive(frame)
        header = rig.peek(page << 8, 4)
        assert rig.peek((page << 8) + 4, len(frame)) == frame
        page = header[1]
        rig.outb(r.BNRY, page - 1 if page > PSTART else PSTOP - 1)
    assert rig.card.counters == {}


def after(page, pstart, pstop):
    page = page + 1 & 0xFF
    return pstart if page == pstop else page


@settings(max_examples=300, deadline=None)
@given(*[st.integers(0, 255)] * 4, st.lists(st.integers(60, 1514), min_size=1, max_size=8))
def test_every_pointer_anywhere_against_the_comparison(pstart, pstop, bnry, curr, sizes):
    rig = Rig().start(pstart=pstart, pstop=pstop, bnry=bnry, curr=curr)
    if bnry == pstart - 1:  # the documented exception
        bnry = pstop - 1
    for fill, size in enumerate(sizes):
        used = [curr]
        while len(used) * 256 < size + 8:
            used.append(after(used[-1], pstart, pstop))
        following = after(used[-1], pstart, pstop)
        met = bnry in [*used[1:], following]
        before = dict(rig.card.counters)
        taken = rig.card.receive(frame_to(size=size, fill=fill))
        if rig.card.counters.get("oversize") != before.get("oversize"):
            assert len(used) >= pstop - pstart
            continue
        if met:
            assert not taken
            assert rig.get(1, r.CURR) == curr
            return
        assert taken
        assert rig.get(1, r.CURR) == following
        if len({page & 0x3F for page in used}) == len(used):
            where = [0x4000 | page << 8 & 0x3FFF for page in used]
            ram = b"".join(bytes(rig.card.memory.cells[at : at + 256]) for at in where)
            assert ram[:4] == bytes((r.RSR_PRX, following, (size + 4) & 0xFF, size + 4 >> 8))
            assert ram[4 : 4 + size] == frame_to(size=size, fill=fill)
        curr = following


def test_bnry_one_below_the_ring_is_its_last_page(rig):
    """Linux writes the page before the next packet: PSTART - 1 when that is the first page."""
    rig.start(curr=PSTART, bnry=PSTART - 1)
    frames = [frame_to(size=200, fill=number) for number in range(3)]
    assert all(rig.card.receive(frame) for frame in frames)
    assert rig.get(1, r.CURR) == PSTART + 3
    assert rig.card.counters == {}


@pytest.mark.parametrize(
    ("pstart", "pstop"), [(0x80, 0x40), (0x40, 0x40), (0, 0), (0xF0, 0xFF), (0x10, 0x90)]
)
def test_rings_in_strange_places(rig, pstart, pstop):
    rig.start(pstart=pstart, pstop=pstop)
    for _ in range(300):
        rig.card.receive(frame_to(size=1000))
    assert rig.card.memory.cells[:32] == bytes(b for b in MAC + bytes(8) + b"WW" for _ in range(2))


class SlowRing:
    """The ring as the data sheet tells it, page by page and byte by byte."""

    def __init__(self, pstart, pstop):
        self.pstart, self.pstop = pstart, pstop
        self.curr = self.bnry = pstart
        self.pages = {page: bytearray(256) for page in range(pstart, pstop)}

    def after(self, page):
        return self.pstart if page + 1 == self.pstop else page + 1

    def receive(self, status, frame):
        content = bytearray(4) + frame + crc32(frame).to_bytes(4, "little")
        page, used = self.curr, []
        for start in range(0, len(content), 256):
            used.append((page, content[start : start + 256]))
            page = self.after(page)
            if page == self.bnry:
                return False
        used[0][1][:4] = bytes((status, page, (len(frame) + 4) & 0xFF, (len(frame) + 4) >> 8))
        for where, piece in used:
            self.pages[where][: len(piece)] = piece
        self.curr = page
        return True

    def drain(self):
        """Take the packet at BNRY off, or nothing."""
        if self.bnry == self.curr:
            return None
        page = self.bnry
        status, following, low, high = self.pages[page][:4]
        data = b""
        while len(data) < (low | high << 8) + 4:
            data += self.pages[page]
            page = self.after(page)
        self.bnry = following
        return status, data[4 : low | high << 8]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0x40, 0x60),
    st.integers(8, 32),
    st.lists(st.one_of(st.integers(60, 1514), st.none()), max_size=80),
)
def test_ring_against_the_slow_one(pstart, pages, steps):
    """Numbers are frames that arrive, None: the driver takes one packet."""
    rig = Rig().start(pstart=pstart, pstop=pstart + pages)
    slow = SlowRing(pstart, pstart + pages)
    waiting = None
    for fill, step in enumerate(steps):
        if step is None:
            expected = slow.drain()
            page = rig.inb(r.BNRY)
            if expected is None:
                assert rig.get(1, r.CURR) == page
                continue
            status, following, low, high = rig.peek(page << 8, 4)
            assert (status, rig.peek((page << 8) + 4, (low | high << 8) - 4)) == expected
            rig.outb(r.BNRY, following)
            if waiting is not None and slow.receive(r.RSR_PRX, waiting):
                assert rig.ready == 1
                rig.ready = 0
                assert rig.card.receive(waiting)
                waiting = None
        elif waiting is None:
            frame = frame_to(size=step, fill=fill)
            taken = slow.receive(r.RSR_PRX, frame)
            assert rig.card.receive(frame) == taken
            if not taken:
                waiting = frame
        assert rig.get(1, r.CURR) == slow.curr
        assert rig.inb(r.BNRY) == slow.bnry
    first = pstart << 8
    stored = bytes(rig.card.memory.cells[first : first + (pages << 8)])
    assert stored == b"".join(slow.pages[n] for n in range(pstart, pstart + pages))


# -- errors (section 7, 10: RCR, RSR, tally counters) ------------------------------------------------------------


@pytest.mark.parametrize("sep", [0, r.RCR_SEP])
@pytest.mark.parametrize(
    ("error", "counter", "status"),
    [("crc_error", r.CNTR1, r.RSR_CRC), ("alignment_error", r.CNTR0, r.RSR_FAE | r.RSR_CRC)],
)
def test_errored_frames(rig, sep, error, counter, status):
    rig.start(rcr=sep)
    assert rig.card.receive_raw(frame_to(), **{error: True})
    assert rig.inb(r.ISR) == r.ISR_RXE
    assert rig.inb(r.RSR) == status
    assert rig.packets() == ([(status, frame_to())] if sep else [])
    assert rig.inb(counter) == 1
    assert rig.inb(counter) == 0  # cleared by reading


@pytest.mark.parametrize("accept", [0, r.RCR_AR])
@pytest.mark.parametrize("size", [8, 59])
def test_runts(rig, accept, size):
    rig.start(rcr=accept)
    assert rig.card.receive_raw(frame_to(size=size))
    assert rig.packets() == ([(r.RSR_PRX, frame_to(size=size))] if accept else [])
    assert rig.card.counters == ({} if accept else {"runt": 1})


def test_tally_counters_interrupt_and_stick(rig):
    rig.start()
    for count in range(1, 300):
        rig.card.receive_raw(frame_to(), crc_error=True)
        assert bool(rig.inb(r.ISR) & r.ISR_CNT) == (count >= 0x80)
    assert rig.inb(r.CNTR1) == TALLY_STOP == 192
    assert rig.inb(r.CNTR1) == 0
    rig.outb(r.ISR, r.ISR_CNT)
    rig.card.receive_raw(frame_to(), crc_error=True)
    assert not rig.inb(r.ISR) & r.ISR_CNT


def test_monitor_mode_counts_and_stores_nothing(rig):
    rig.start(rcr=r.RCR_MON)
    assert rig.inb(r.RSR) & r.RSR_DIS
    assert rig.card.receive(frame_to())
    assert rig.card.receive(frame_to(OTHER))
    assert rig.inb(r.RSR) == r.RSR_MPA | r.RSR_DIS
    assert rig.inb(r.ISR) == r.ISR_RXE
    assert rig.inb(r.CNTR2) == 1
    assert rig.get(1, r.CURR) == PSTART
    rig.outb(r.RCR, 0)
    assert not rig.inb(r.RSR) & r.RSR_DIS
    assert rig.card.receive(frame_to())
    assert len(rig.packets()) == 1


# -- stop, overflow, recovery (section 7; AN-874) ------------------------------------------------------------------


def test_stopped_and_looped_chips_drop(rig):
    assert rig.card.receive(frame_to())
    rig.start(tcr=r.TCR_LB0)
    assert rig.card.receive(frame_to())
    assert rig.card.counters == {"stopped": 1, "loopback": 1}
    assert rig.get(1, r.CURR) == PSTART


def test_full_ring_holds_the_wire_without_loss(rig):
    count = rig.full()
    assert count == PSTOP - PSTART - 1
    assert not rig.card.receive(frame_to(size=200, fill=count))  # still no
    assert rig.ready == 0
    assert not rig.inb(r.ISR) & r.ISR_OVW  # within the grace
    packets = rig.packets()
    assert rig.ready == 1
    assert rig.card.receive(frame_to(size=200, fill=count))
    assert [frame for _, frame in packets + rig.packets()] == [
        frame_to(size=200, fill=n) for n in range(count + 1)
    ]


def test_ready_only_when_the_held_frame_fits(rig):
    rig.start()
    while rig.card.receive(frame_to(size=200)):
        pass
    assert not rig.card.receive(frame_to(size=1000))  # four pages now
    for pages in range(1, 4):
        rig.outb(r.BNRY, PSTART + pages)
        assert rig.ready == 0
    rig.outb(r.BNRY, PSTART + 4)
    assert rig.ready == 1
    assert rig.card.receive(frame_to(size=1000))


def test_overflow_is_reported_after_the_grace(rig):
    rig.full()
    assert rig.card.next_deadline() == GRACE
    rig.card.run(GRACE - 1)
    assert not rig.inb(r.ISR) & r.ISR_OVW
    rig.card.run(GRACE)
    assert rig.inb(r.ISR) & (r.ISR_OVW | r.ISR_RST) == r.ISR_OVW | r.ISR_RST
    assert rig.card.next_deadline() is None
    rig.packets()
    assert rig.inb(r.ISR) & (r.ISR_OVW | r.ISR_RST) == r.ISR_OVW  # RST falls when packets are removed
    assert rig.ready == 1


def test_overflow_at_once_without_grace():
    rig = Rig(grace=0)
    rig.full()
    assert rig.inb(r.ISR) & r.ISR_OVW
    assert rig.irq


def test_a_frame_that_waits_is_not_told_as_lost():
    rig = Rig(grace=OVERFLOW_GRACE)
    count = rig.full()
    rig.outb(r.ISR, 0xFF)
    rig.time = REMIND_NS - 1
    rig.card.run(rig.time)
    assert rig.inb(r.ISR) == 0
    rig.time = REMIND_NS
    rig.card.run(rig.time)
    assert rig.inb(r.ISR) == r.ISR_PRX and rig.irq  # for a driver that left packets in the ring
    rig.outb(r.ISR, 0xFF)
    rig.time = OVERFLOW_GRACE - 1
    rig.card.run(rig.time)
    assert rig.inb(r.ISR) == 0
    assert len(rig.packets()) == count and rig.ready == 1
    assert rig.card.receive(frame_to())
    assert rig.inb(r.CNTR2) == 0 and not rig.inb(r.ISR) & r.ISR_OVW


@pytest.mark.parametrize("late", [0, 5_000_000_000])
def test_a_frame_that_has_waited_too_long_is_lost_and_counted(late):
    rig = Rig(grace=OVERFLOW_GRACE)
    count = rig.full()
    rig.time = OVERFLOW_GRACE + late
    while rig.card.next_deadline() is not None and rig.card.next_deadline() <= rig.time:
        rig.card.run(rig.time)
    assert rig.inb(r.ISR) & r.ISR_OVW
    assert rig.ready == 1
    assert rig.card.receive(frame_to(size=200, fill=200))  # the one that waited, off the wire
    assert not rig.card.receive(frame_to(size=200, fill=201))  # the next one waits
    assert rig.inb(r.CNTR2) == 1 and rig.inb(r.CNTR2) == 0
    assert [frame for _, frame in rig.packets()] == [frame_to(size=200, fill=n) for n in range(count)]
    assert rig.card.receive(frame_to(size=200, fill=201))
    assert rig.packets() == [(r.RSR_PRX, frame_to(size=200, fill=201))]


def test_an_acknowledged_overflow_without_room_comes_again(rig):
    rig.full()
    rig.card.run(GRACE)
    assert rig.card.receive(frame_to(size=200))
    assert not rig.card.receive(frame_to(size=200))
    assert rig.card.next_deadline() is None
    rig.time = GRACE
    rig.outb(r.ISR, r.ISR_OVW)
    assert rig.card.next_deadline() == 2 * GRACE
    rig.card.run(2 * GRACE)
    assert rig.inb(r.ISR) & r.ISR_OVW and rig.inb(r.CNTR2) == 2


@pytest.mark.parametrize("wait", [1_600_000, 10_000_000])
def test_documented_recovery_loses_nothing_more(rig, wait):
    count = rig.full()
    rig.time = GRACE
    rig.card.run(GRACE)
    assert rig.inb(r.ISR) & r.ISR_OVW
    assert rig.ready == 1
    assert rig.card.receive(frame_to(size=200))  # lost, as OVW says
    rig.outb(r.CR, 0x21)
    rig.time += wait
    assert not rig.card.receive(frame_to())  # the wire stays held
    rig.outb(r.RBCR0, 0)
    rig.outb(r.RBCR1, 0)
    rig.outb(r.TCR, r.TCR_LB0)
    rig.outb(r.CR, 0x22)
    packets = rig.packets()
    assert len(packets) == count
    assert rig.ready == 1  # still looped
    rig.outb(r.ISR, r.ISR_OVW)
    rig.outb(r.TCR, 0)
    assert rig.ready == 2
    assert rig.card.receive(frame_to())
    assert len(rig.packets()) == 1
    assert rig.card.next_deadline() is None


@pytest.mark.parametrize("frame", [frame_to(), frame_to(OTHER), frame_to(size=4000)])
def test_frames_that_come_during_the_recovery_wait(rig, frame):
    """The driver made room before it began the recovery: the wire is free, and must not lose frames now."""
    rig.full()
    rig.card.run(GRACE)
    assert rig.card.receive(frame_to(size=200))  # lost, as OVW says
    rig.packets()
    assert rig.ready == 1
    rig.outb(r.CR, 0x21)
    assert not rig.card.receive(frame)
    rig.outb(r.TCR, r.TCR_LB0)
    rig.outb(r.CR, 0x22)
    assert not rig.card.receive(frame)
    rig.outb(r.ISR, r.ISR_OVW)
    assert rig.ready == 1
    rig.outb(r.TCR, 0)
    assert rig.ready == 2
    assert rig.card.receive(frame)
    assert len(rig.packets()) == (frame == frame_to())
    rig.outb(r.CR, 0x21)  # a stop later on is just a stop
    assert rig.card.receive(frame)
    assert rig.card.counters["stopped"] == 1


@pytest.mark.parametrize("how", ["stopped", "looped"])
def test_a_closed_driver_lets_the_wire_go(rig, how):
    rig.full()
    if how == "stopped":
        rig.outb(r.CR, 0x21)
    else:
        rig.outb(r.TCR, r.TCR_LB0)
    assert not rig.card.receive(frame_to())
    deadline = rig.card.next_deadline()
    assert deadline == HOLD_LIMIT
    rig.card.run(deadline)
    assert rig.ready == 1
    assert rig.card.receive(frame_to())
    assert rig.card.counters["stopped" if how == "stopped" else "loopback"] == 1
    assert rig.card.next_deadline() is None


def test_reset_lets_the_wire_go(rig):
    rig.full()
    rig.inb(0x1F)
    assert rig.ready == 1
    assert rig.card.receive(frame_to())
    assert rig.card.counters["stopped"] == 1


def test_overflow_again_after_an_incomplete_recovery(rig):
    """The driver took nothing out of the ring: after the recovery the overflow is reported again."""
    rig.full()
    rig.card.run(GRACE)
    assert rig.card.receive(frame_to(size=200))  # lost, as OVW says
    rig.outb(r.CR, 0x21)
    assert not rig.card.receive(frame_to(size=200))
    rig.outb(r.TCR, r.TCR_LB0)
    rig.outb(r.CR, 0x22)
    rig.outb(r.ISR, r.ISR_OVW)
    rig.outb(r.TCR, 0)
    assert not rig.card.receive(frame_to(size=200))
    deadline = rig.card.next_deadline()
    assert deadline == GRACE
    rig.card.run(deadline)
    assert rig.inb(r.ISR) & r.ISR_OVW


# -- transmit (section 8) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [14, 60, 61, 255, 256, 1514, 1518])
@pytest.mark.parametrize("page", [0x40, 0x46, 0x7E])
def test_transmit(rig, size, page):
    rig.start()
    frame = frame_to(OTHER, size)
    if (page << 8) + size > 0x8000:
        frame = frame[:500]
    rig.send(frame, page)
    assert rig.wire == [frame]
    assert type(rig.wire[0]) is bytes
    assert rig.inb(r.CR) == 0x22
    assert rig.inb(r.TSR) & (r.TSR_PTX | r.TSR_ABT | r.TSR_CRS) == r.TSR_PTX
    assert rig.inb(r.ISR) == r.ISR_PTX
    assert rig.irq


@pytest.mark.parametrize(
    ("page", "first"),
    [(0x00, 0x4000), (0x3E, 0x7E00), (0x7E, 0x7E00), (0x80, 0x4000), (0xBF, 0x7F00), (0xFF, 0x7F00)],
)
def test_the_local_dma_sees_the_ram_only(rig, page, first):
    """Every address is folded into the 16 KiB, over their end too; the PROM is the remote DMA's."""
    rig.start()
    frame = frame_to(OTHER, 900)
    for n in range(0, 900, 2):
        rig.poke(0x4000 + (first - 0x4000 + n) % 0x4000, frame[n : n + 2])
    rig.outb(r.TPSR, page)
    rig.outb(r.TBCR0, 900 & 0xFF)
    rig.outb(r.TBCR1, 900 >> 8)
    rig.outb(r.CR, r.RD_ABORT | r.STA | r.TXP)
    assert rig.wire == [frame]
    assert rig.peek(0, 4) == bytes((MAC[0], MAC[0], MAC[1], MAC[1]))


@pytest.mark.parametrize(("pstart", "pstop"), [(0x00, 0x20), (0x80, 0xA0), (0x70, 0x90), (0xC0, 0xFF)])
def test_a_ring_at_any_address_is_in_the_ram(rig, pstart, pstop):
    rig.start(pstart=pstart, pstop=pstop, curr=pstart, bnry=pstart)
    assert rig.card.receive(frame_to(size=700))
    at = 0x4000 | pstart << 8 & 0x3FFF
    assert bytes(rig.card.memory.cells[at : at + 4]) == bytes((r.RSR_PRX, pstart + 3, 704 & 0xFF, 704 >> 8))
    assert bytes(rig.card.memory.cells[at + 4 : at + 704]) == frame_to(size=700)


def test_cr_with_rd_000_issues_nothing(rig):
    rig.start()
    rig.poke(0x4000, b"abcdef")
    rig.remote(r.RD_READ, 0x4000, 4)
    rig.card.read(0, r.DATA_PORT, 2)
    rig.outb(r.CR, r.PAGE1 | r.STA)
    rig.outb(r.CR, r.STA)
    assert rig.card.read(0, r.DATA_PORT, 2) == int.from_bytes(b"cd", "little")
    rig.outb(r.CR, r.STA)  # the transfer is over: not begun again
    assert rig.card.read(0, r.DATA_PORT, 2) == 0xFFFF
    rig.outb(r.ISR, 0xFF)
    rig.outb(r.RBCR0, 0)
    rig.outb(r.CR, r.STA)
    assert rig.inb(r.ISR) == 0  # nor completed with a count of zero
    rig.outb(r.CR, r.STA | r.TXP)  # the other bits mean what they say
    assert rig.inb(r.ISR) == r.ISR_PTX


@pytest.mark.parametrize("size", [0, 1, 13, 1519, 65535])
def test_transmits_that_make_no_frame(rig, size):
    rig.start()
    rig.outb(r.TBCR0, size & 0xFF)
    rig.outb(r.TBCR1, size >> 8)
    rig.outb(r.TPSR, 0x40)
    rig.outb(r.CR, 0x26)
    assert rig.wire == []
    assert rig.card.counters == {"tx_size": 1}
    assert rig.inb(r.ISR) == r.ISR_PTX


def test_transmit_waits_for_the_wire(rig):
    rig.start()
    rig.wire_takes = False
    rig.send(frame_to(OTHER))
    assert rig.inb(r.CR) == 0x26
    assert rig.inb(r.ISR) == 0
    rig.card.tx_ready()
    assert rig.inb(r.CR) == 0x26
    rig.poke(0x4000, bytes(60))  # what is on the wire does not change any more
    rig.wire_takes = True
    rig.card.tx_ready()
    assert rig.wire == [frame_to(OTHER)]
    assert rig.inb(r.CR) & r.TXP == 0
    assert rig.inb(r.ISR) == r.ISR_PTX
    rig.card.tx_ready()
    assert len(rig.wire) == 1


def test_no_second_transmit_while_one_is_out(rig):
    rig.start()
    rig.wire_takes = False
    rig.send(frame_to(OTHER))
    rig.send(frame_to(OTHER, fill=1), 0x46)
    rig.wire_takes = True
    rig.card.tx_ready()
    assert rig.wire == [frame_to(OTHER)]


def test_stop_aborts_a_waiting_transmit(rig):
    rig.start()
    rig.wire_takes = False
    rig.send(frame_to(OTHER))
    rig.outb(r.CR, 0x21)
    assert rig.inb(r.CR) == 0x21
    rig.wire_takes = True
    rig.card.tx_ready()
    assert rig.wire == []
    assert not rig.inb(r.ISR) & (r.ISR_PTX | r.ISR_TXE)  # by which the driver knows that it must resend
    rig.outb(r.CR, 0x26)
    assert len(rig.wire) == 1


def test_stopped_chips_do_not_transmit(rig):
    rig.start()
    rig.outb(r.CR, 0x25)
    assert rig.wire == []
    assert rig.inb(r.CR) == 0x21


def test_software_crc_is_cut_off(rig):
    rig.start(tcr=r.TCR_CRC)
    frame = frame_to(OTHER)
    rig.send(frame + crc32(frame).to_bytes(4, "little"))
    assert rig.wire == [frame]


def test_no_cable(rig):
    rig.start()
    rig.card.set_link(False)
    rig.send(frame_to(OTHER))
    assert rig.wire == []
    assert rig.inb(r.TSR) & (r.TSR_PTX | r.TSR_CRS) == r.TSR_PTX | r.TSR_CRS
    rig.card.set_link(True)
    rig.send(frame_to(OTHER))
    assert not rig.inb(r.TSR) & r.TSR_CRS
    assert len(rig.wire) == 1


def test_pulling_the_cable_ends_a_waiting_transmit(rig):
    rig.start()
    rig.wire_takes = False
    rig.send(frame_to(OTHER))
    rig.card.set_link(False)
    assert rig.inb(r.ISR) == r.ISR_PTX
    assert rig.inb(r.TSR) & r.TSR_CRS


# -- loopback (section 12; AN-937) -----------------------------------------------------------------------------------

LOOPS = [(r.TCR_LB0, 0x53), (r.TCR_LB1, 0x43), (r.TCR_LB, 0x03)]


@pytest.mark.parametrize(("mode", "tsr"), LOOPS)
@pytest.mark.parametrize(("destination", "rsr"), [(MAC, 0x02), (OTHER, 0x01), (BROADCAST, 0x22)])
def test_loopback_with_the_chips_crc(rig, mode, tsr, destination, rsr):
    rig.start(tcr=mode, dcr=0x40)
    rig.send_bytes = frame_to(destination, 60)
    loop(rig, rig.send_bytes)
    assert rig.wire == []
    assert rig.inb(r.TSR) == tsr
    assert rig.inb(r.RSR) == rsr
    assert rig.inb(r.ISR) == r.ISR_PTX
    assert rig.get(1, r.CURR) == PSTART
    packet = rig.send_bytes + crc32(rig.send_bytes).to_bytes(4, "little")
    fifo = bytes(rig.inb(r.FIFO) for _ in range(8))
    assert fifo == bytes((64, 0, 0)) + packet[-5:]  # 8n bytes: counts first


@pytest.mark.parametrize(("mode", "tsr"), LOOPS)
@pytest.mark.parametrize(
    ("destination", "good", "rsr"),
    [
        (MAC, True, 0x01),
        (MAC, False, 0x02),
        (OTHER, False, 0x01),
        (OTHER, True, 0x01),
        (BROADCAST, True, 0x21),
    ],
)
def test_loopback_with_the_drivers_crc(rig, mode, tsr, destination, good, rsr):
    """The data sheet's tests A to D of CRC and address recognition."""
    rig.start(tcr=mode | r.TCR_CRC, dcr=0x40)
    frame = frame_to(destination, 57)
    crc = crc32(frame) ^ (0 if good else 1)
    packet = frame + crc.to_bytes(4, "little")
    loop(rig, packet)
    assert (rig.inb(r.TSR), rig.inb(r.RSR)) == (tsr, rsr)
    fifo = bytes(rig.inb(r.FIFO) for _ in range(8))
    assert fifo == packet[-5:] + bytes((61, 0, 0))  # 8n + 5 bytes: packet first


@pytest.mark.parametrize("bos", [0, r.DCR_BOS])
def test_word_wide_loopback_takes_every_other_byte(rig, bos):
    rig.start(tcr=r.TCR_LB0, dcr=0x41 | bos)
    frame = frame_to(MAC, 60)
    doubled = bytearray(120)
    doubled[0 if bos else 1 :: 2] = frame
    rig.send(bytes(doubled))
    assert rig.inb(r.RSR) == 0x02
    assert bytes(rig.inb(r.FIFO) for _ in range(8))[:4] == bytes((64, 0, 0, frame[-1]))


def loop(rig, packet):
    """Load by bytes (DCR.WTS is off) and transmit."""
    rig.remote(r.RD_WRITE, 0x4000, len(packet))
    rig.card.write_block(0, r.DATA_PORT, 1, packet)
    rig.outb(r.ISR, r.ISR_RDC)
    rig.outb(r.TPSR, 0x40)
    rig.outb(r.TBCR0, len(packet))
    rig.outb(r.TBCR1, 0)
    rig.outb(r.CR, 0x26)


# -- send-packet command (section 9) ------------------------------------------------------------------------------------


def test_send_packet_reads_the_packet_at_bnry(rig):
    rig.start(curr=PSTOP - 1, bnry=PSTOP - 1, dcr=0x49 | r.DCR_AR)
    frames = [frame_to(size=400), frame_to(size=90, fill=9)]
    for frame in frames:
        rig.card.receive(frame)
    for frame, following in zip(frames, (PSTART + 1, PSTART + 2), strict=True):
        rig.outb(r.CR, r.RD_SEND | r.STA)
        count = len(frame) + 4
        data = rig.card.read_block(0, r.DATA_PORT, 2, count // 2)
        assert data[:4] == bytes((r.RSR_PRX, following, count & 0xFF, count >> 8))
        assert data[4:] == frame
        assert rig.inb(r.BNRY) == following
        assert rig.inb(r.ISR) & r.ISR_RDC
        rig.outb(r.ISR, r.ISR_RDC)
    rig.outb(r.CR, r.RD_SEND | r.STA)  # the ring is empty
    assert rig.card.read(0, r.DATA_PORT, 2) == 0xFFFF


def test_send_packet_needs_its_enable_bit(rig):
    rig.start()
    rig.card.receive(frame_to())
    rig.outb(r.CR, r.RD_SEND | r.STA)
    assert rig.inb(r.BNRY) == PSTART


# -- snapshots and abuse -------------------------------------------------------------------------------------------------


def test_snapshot_in_the_middle_of_everything(rig):
    rig.start()
    rig.wire_takes = False
    rig.send(frame_to(OTHER))
    while rig.card.receive(frame_to(size=1000)):
        pass
    rig.remote(r.RD_READ, PSTART << 8, 1008)
    first = rig.card.read_block(0, r.DATA_PORT, 2, 100)
    state = json.loads(json.dumps(rig.card.snapshot()))
    twin = Rig(type(rig.card))
    twin.card.restore(state)
    assert twin.card.snapshot() == rig.card.snapshot()
    assert twin.irq == rig.irq
    assert first[4:16] == frame_to()[:12]
    for one in (rig, twin):
        one.rest = one.card.read_block(0, r.DATA_PORT, 2, 404)
        one.card.tx_ready()
        one.wire_takes = True
        one.card.tx_ready()
        one.card.run(GRACE)
        one.left = one.packets()
    assert twin.rest == rig.rest
    assert twin.wire == rig.wire == [frame_to(OTHER)]
    assert twin.left == rig.left
    assert twin.card.snapshot() == rig.card.snapshot()
    assert twin.ready == rig.ready


def test_a_snapshot_of_an_older_version_is_taken(rig):
    rig.start()
    state = rig.card.snapshot()
    for name in ("lost", "reminded"):
        del state["chip"][name]
    rig.card.restore(state)
    assert rig.card.receive(frame_to())


@pytest.mark.parametrize(
    "change",
    [
        {"registers": {}},
        {"tally": [1, 2]},
        {"tally": [1, 2, 193]},
        {"par": "00"},
        {"par": None},
        {"ram": "x"},
        {"remote": {"start": 65536}},
        {"counters": {"x": "y"}},
        {"held": -2},
        {"tx_frame": 5},
        {"fifo_position": 8},
    ],
)
def test_bad_snapshots_change_nothing(rig, change):
    rig.start()
    before = rig.card.snapshot()
    bad = json.loads(json.dumps(before))
    bad["chip"] |= change
    with pytest.raises(ValueError, match="snapshot"):
        rig.card.restore(bad)
    assert rig.card.snapshot() == before


accesses = st.one_of(
    st.tuples(st.just("out"), st.integers(0, 0x2F), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)),
    st.tuples(st.just("in"), st.integers(0, 0x2F), st.sampled_from([1, 2, 4]), st.just(0)),
    st.tuples(st.just("block"), st.integers(0, 0x2F), st.sampled_from([1, 2, 4]), st.integers(0, 300)),
    st.tuples(st.just("frame"), st.integers(0, 1600), st.just(0), st.integers(0, 3)),
    st.tuples(st.just("time"), st.integers(0, 2 * HOLD_LIMIT), st.just(0), st.just(0)),
    st.tuples(st.just("wire"), st.integers(0, 1), st.just(0), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.lists(accesses, max_size=60))
def test_nothing_that_a_driver_does_raises(started, steps):
    rig = Rig()
    if started:
        rig.start(rcr=0x1F)
    for kind, a, size, b in steps:
        if kind == "out":
            rig.card.write(0, a, size, b)
        elif kind == "in":
            assert 0 <= rig.card.read(0, a, size) < 1 << 8 * size
        elif kind == "block":
            assert len(rig.card.read_block(0, a, size, b)) == size * b
            rig.card.write_block(0, a, size, bytes(size * b))
        elif kind == "frame":
            rig.card.receive(frame_to((MAC, OTHER, BROADCAST, GROUP)[b], a))
        elif kind == "time":
            rig.time += a
            rig.card.run(rig.time)
        else:
            rig.wire_takes = bool(a)
            rig.card.tx_ready()
    twin = Rig()
    twin.card.restore(json.loads(json.dumps(rig.card.snapshot())))
    assert twin.card.snapshot() == rig.card.snapshot()
