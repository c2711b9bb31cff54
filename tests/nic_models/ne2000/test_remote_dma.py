"""Remote DMA and the data port: widths, counts, wrapping, and the board's memory map."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nic_models.ne2000 import registers as r
from nic_models.ne2000.remote_dma import LocalMemory, RemoteDma
from tests.nic_models.rig import PSTART, PSTOP, Rig, isa


@pytest.fixture(params=[Rig, isa], ids=["pci", "isa"])
def rig(request):
    return request.param().start()


@pytest.mark.parametrize("dcr", [0x48, 0x49], ids=["byte", "word"])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("block", [False, True])
def test_write_then_read(rig, dcr, size, block):
    rig.outb(r.DCR, dcr)
    data = bytes(range(1, 33))
    rig.remote(r.RD_WRITE, 0x4100, 32)
    if block:
        rig.card.write_block(0, r.DATA_PORT, size, data)
    else:
        for start in range(0, 32, size):
            rig.card.write(0, r.DATA_PORT, size, int.from_bytes(data[start : start + size], "little"))
    assert rig.inb(r.ISR) == r.ISR_RDC
    rig.outb(r.ISR, r.ISR_RDC)
    rig.remote(r.RD_READ, 0x4100, 32)
    if block:
        read = rig.card.read_block(0, r.DATA_PORT, size, 32 // size)
    else:
        read = b"".join(
            rig.card.read(0, r.DATA_PORT, size).to_bytes(size, "little") for _ in range(32 // size)
        )
    assert read == data
    assert rig.inb(r.ISR) == r.ISR_RDC
    assert (rig.inb(r.CRDA0), rig.inb(r.CRDA1)) == (0x20, 0x41)


def test_byte_accesses_in_byte_mode(rig):
    rig.outb(r.DCR, 0x48)
    rig.remote(r.RD_WRITE, 0x4000, 3)
    for byte in b"abc":
        assert not rig.inb(r.ISR) & r.ISR_RDC
        rig.outb(r.DATA_PORT, byte)
    assert rig.inb(r.ISR) & r.ISR_RDC
    rig.remote(r.RD_READ, 0x4000, 3)
    assert bytes(rig.inb(r.DATA_PORT) for _ in range(4)) == b"abc\xff"


def test_byte_accesses_in_word_mode_take_words(rig):
    rig.poke(0x4000, b"a1b2c3")
    rig.remote(r.RD_READ, 0x4000, 6)
    assert bytes(rig.inb(r.DATA_PORT) for _ in range(4)) == b"abc\xff"
    rig.remote(r.RD_WRITE, 0x4000, 4)
    rig.card.write_block(0, r.DATA_PORT, 1, b"xy")
    assert rig.peek(0x4000, 6) == b"x\0y\0c3"


def test_data_port_answers_at_all_its_addresses(rig):
    rig.poke(0x4000, bytes(range(16)))
    rig.remote(r.RD_READ, 0x4000, 16)
    assert [rig.card.read(0, r.DATA_PORT + n, 2) for n in range(8)] == [
        n | n + 1 << 8 for n in range(0, 16, 2)
    ]


@pytest.mark.parametrize("command", [r.RD_READ, r.RD_WRITE])
def test_count_zero_completes_at_once(rig, command):
    rig.remote(command, 0x4000, 0)
    assert rig.inb(r.ISR) == r.ISR_RDC
    assert rig.irq  # by this the ISA driver finds its interrupt line


def test_odd_counts_in_word_mode(rig):
    rig.remote(r.RD_WRITE, 0x4000, 3)
    rig.card.write_block(0, r.DATA_PORT, 2, b"wxyz")
    assert rig.inb(r.ISR) & r.ISR_RDC
    assert rig.peek(0x4000, 4) == b"wxyz"


def test_beyond_the_count(rig):
    rig.poke(0x4000, b"abcdefgh")
    rig.remote(r.RD_READ, 0x4000, 4)
    assert rig.card.read_block(0, r.DATA_PORT, 2, 4) == b"abcd\xff\xff\xff\xff"
    rig.remote(r.RD_WRITE, 0x4000, 4)
    rig.card.write_block(0, r.DATA_PORT, 2, b"01234567")
    assert rig.peek(0x4000, 8) == b"0123efgh"


def test_without_a_command(rig):
    rig.outb(r.CR, 0x22)
    assert rig.card.read(0, r.DATA_PORT, 4) == 0xFFFFFFFF
    rig.poke(0x4000, b"ab")
    rig.card.write(0, r.DATA_PORT, 2, 0)
    assert rig.peek(0x4000, 2) == b"ab"


def test_wrong_direction(rig):
    rig.poke(0x4000, b"ab")
    rig.remote(r.RD_READ, 0x4000, 2)
    rig.card.write(0, r.DATA_PORT, 2, 0)
    assert rig.card.read(0, r.DATA_PORT, 2) == int.from_bytes(b"ab", "little")


def test_abort_and_again_from_the_start(rig):
    rig.poke(0x4000, b"abcdef")
    rig.remote(r.RD_READ, 0x4000, 6)
    rig.card.read(0, r.DATA_PORT, 2)
    rig.outb(r.CR, r.RD_ABORT | r.STA)
    rig.outb(r.ISR, 0xFF)
    assert rig.card.read(0, r.DATA_PORT, 2) == 0xFFFF
    rig.outb(r.CR, r.RD_READ | r.STA)  # RSAR and RBCR still hold what was programmed
    assert rig.card.read_block(0, r.DATA_PORT, 2, 3) == b"abcdef"


def test_page_changes_do_not_disturb_a_transfer(rig):
    rig.poke(0x4000, b"abcd")
    rig.remote(r.RD_READ, 0x4000, 4)
    rig.card.read(0, r.DATA_PORT, 2)
    rig.outb(r.CR, r.PAGE1 | r.RD_READ | r.STA)
    assert rig.card.read_block(0, r.DATA_PORT, 2, 1) == b"cd"


def test_reads_and_writes_wrap_at_pstop(rig):
    end = PSTOP << 8
    rig.poke(end - 4, b"abcdefgh")
    assert rig.peek(PSTART << 8, 4) == b"efgh"
    assert rig.peek(end - 4, 8) == b"abcdefgh"
    rig.remote(r.RD_READ, end - 2, 2)
    rig.card.read(0, r.DATA_PORT, 2)
    assert (rig.inb(r.CRDA0), rig.inb(r.CRDA1)) == (0, PSTART)


@pytest.mark.parametrize(("dcr", "unit"), [(0x48, 1), (0x49, 2)])
def test_crda_is_ahead_by_what_was_fetched(rig, dcr, unit):
    """A remote read fetches before the driver asks; a remote write cannot."""

    def crda():
        return rig.inb(r.CRDA0) | rig.inb(r.CRDA1) << 8

    rig.outb(r.DCR, dcr)
    rig.remote(r.RD_READ, 0x4100, 4 * unit)
    seen = [crda()]
    for _ in range(4):
        rig.card.read(0, r.DATA_PORT, unit)
        seen.append(crda())
    assert seen == [0x4100 + n * unit for n in (1, 2, 3, 4, 4)]
    rig.remote(r.RD_WRITE, 0x4100, 4 * unit)
    assert crda() == 0x4100
    rig.card.write(0, r.DATA_PORT, unit, 0)
    assert crda() == 0x4100 + unit
    rig.remote(r.RD_READ, (PSTOP << 8) - unit, 2 * unit)
    assert crda() == PSTART << 8
    rig.outb(r.CR, r.RD_ABORT | r.STA)
    assert crda() == PSTART << 8  # an abort does not take it back


@pytest.mark.parametrize("command", [r.RD_READ, r.RD_WRITE])
def test_an_odd_address_in_word_mode_is_its_words(rig, command):
    rig.poke(0x4100, b"abcdefgh")
    rig.remote(command, 0x4103, 4)
    if command == r.RD_READ:
        assert rig.card.read_block(0, r.DATA_PORT, 2, 2) == b"cdef"
        rig.outb(r.DCR, 0x48)
        rig.remote(command, 0x4103, 4)
        assert rig.card.read_block(0, r.DATA_PORT, 1, 4) == b"defg"
    else:
        rig.card.write_block(0, r.DATA_PORT, 2, b"0123")
        assert rig.peek(0x4100, 8) == b"ab0123gh"


def test_station_prom_is_read_only_and_doubled(rig):
    expected = bytes(b for b in rig.card.mac + bytes(8) + b"WW" for _ in range(2))
    rig.poke(0x0000, b"\0" * 32)
    assert rig.peek(0x0000, 32) == expected
    assert rig.peek(0x0020, 4) == b"\xff" * 4  # nothing there
    assert rig.peek(0x8000, 32) == expected  # A15 is not decoded


def test_ram_shows_again_at_c000(rig):
    rig.poke(0x4000, b"abcd")
    assert rig.peek(0xC000, 4) == b"abcd"
    rig.poke(0xFFFC, b"wxyz")
    assert rig.peek(0x7FFC, 4) == b"wxyz"


class SlowDma:
    """One byte at a time."""

    def __init__(self, memory, start, count, pstart, pstop, wide):
        if wide:
            start &= ~1
        self.memory, self.address, self.left = memory, start, count
        self.pstart, self.pstop = pstart << 8, pstop << 8

    def step(self):
        where = self.address & 0x7FFF
        self.left -= 1
        self.address = self.address + 1 & 0xFFFF
        if self.address == self.pstop:
            self.address = self.pstart
        return where

    def read(self, length):
        return bytes(self.memory[self.step()] if self.left > 0 else 0xFF for _ in range(length))

    def write(self, data):
        for byte in data:
            if self.left > 0:
                where = self.step()
                if where >= 0x4000:
                    self.memory[where] = byte


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 0xFFFF),
    st.integers(0, 3000),
    st.integers(0, 0xFF),
    st.integers(0, 0xFF),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(1, 1500), max_size=6),
)
def test_blocks_against_single_bytes(start, count, pstart, pstop, writing, wide, lengths):
    done = []
    count += count & wide
    memory = LocalMemory()
    for index in range(0x4000, 0x8000):
        memory.cells[index] = index * 7 & 0xFF
    slow = SlowDma(bytearray(memory.cells), start, count, pstart, pstop, wide)
    dma = RemoteDma(memory, lambda: done.append(1))
    dma.wrap_to, dma.wrap_from = pstart << 8, pstop << 8
    dma.wide = wide
    dma.set_start(start)
    dma.set_count(count)
    dma.issue(r.RD_WRITE if writing else r.RD_READ)
    for index, length in enumerate(lengths):
        length += length & wide
        if writing:
            data = bytes((index + n) & 0xFF for n in range(length))
            dma.put(data)
            slow.write(data)
        else:
            assert dma.take(length) == slow.read(length)
        assert dma.left == max(0, slow.left)
        assert dma.address == slow.address
    assert memory.cells == slow.memory
    assert len(done) == (dma.left == 0)
