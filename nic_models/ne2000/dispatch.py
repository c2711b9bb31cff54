"""Which method of the DP8390 answers at which page and offset: the data sheet's register table as code.

``readers`` and ``writers`` are lists of 64 callables, indexed by page * 16 + offset; the board looks them up by the
chip's ``page`` without asking which page is selected. What is not in the table reads 0 and ignores writes.

Ref: DP8390D/NS32490D data sheet, section 10 (register address assignments).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import registers as r

if TYPE_CHECKING:
    from .dp8390 import Dp8390, Reader, Writer


def nothing() -> int:
    """A register that does not exist, read."""
    return 0


def ignore(_value: int) -> None:
    """A register that does not exist, written."""


def build(chip: Dp8390) -> None:
    """Fill ``chip.readers`` and ``chip.writers``."""
    for page in range(4):
        chip.install(page, r.CR, lambda: chip.cr, chip.write_cr)
    remote = chip.remote
    zero: list[tuple[int, Reader | None, Writer | None]] = [
        (r.CLDA0, lambda: chip.clda & 0xFF, chip.write_pstart),
        (r.CLDA1, lambda: chip.clda >> 8 & 0xFF, chip.write_pstop),
        (r.BNRY, lambda: chip.bnry, chip.write_bnry),
        (r.TSR, lambda: chip.tsr, chip.write_tpsr),
        (r.NCR, lambda: 0, lambda v: chip.set_tbcr(chip.tbcr & 0xFF00 | v)),
        (r.FIFO, chip.fifo.read, lambda v: chip.set_tbcr(chip.tbcr & 0xFF | v << 8)),
        (r.ISR, lambda: chip.isr, chip.write_isr),
        (r.CRDA0, lambda: remote.current() & 0xFF, lambda v: remote.set_start(remote.start & 0xFF00 | v)),
        (r.CRDA1, lambda: remote.current() >> 8, lambda v: remote.set_start(remote.start & 0xFF | v << 8)),
        (r.RBCR0, None, lambda v: remote.set_count(remote.count & 0xFF00 | v)),
        (r.RBCR1, None, lambda v: remote.set_count(remote.count & 0xFF | v << 8)),
        (r.RSR, chip.read_rsr, chip.write_rcr),
        (r.CNTR0, lambda: chip.read_tally(0), chip.write_tcr),
        (r.CNTR1, lambda: chip.read_tally(1), chip.write_dcr),
        (r.CNTR2, lambda: chip.read_tally(2), chip.write_imr),
    ]
    for offset, reader, writer in zero:
        chip.install(0, offset, reader, writer)
    for index in range(6):
        chip.install(1, r.PAR0 + index, _par_reader(chip, index), _par_writer(chip, index))
    chip.install(1, r.CURR, lambda: chip.curr, chip.write_curr)
    for index in range(8):
        chip.install(1, r.MAR0 + index, _mar_reader(chip, index), _mar_writer(chip, index))
    two: list[tuple[int, Reader, Writer | None]] = [
        (r.PSTART, lambda: chip.pstart, lambda v: chip.set_clda(chip.clda & 0xFF00 | v)),
        (r.PSTOP, lambda: chip.pstop, lambda v: chip.set_clda(chip.clda & 0xFF | v << 8)),
        (r.TPSR, lambda: chip.tpsr, None),
        (r.RCR, lambda: chip.rcr | r.RCR_ONES, None),
        (r.TCR, lambda: chip.tcr | r.TCR_ONES, None),
        (r.DCR, lambda: chip.dcr | r.DCR_ONES, None),
        (r.IMR, lambda: chip.imr | r.IMR_ONES, None),
    ]
    for offset, reader, writer in two:
        chip.install(2, offset, reader, writer)
    for index, offset in enumerate((r.RNPP, r.LNPP, r.ACU, r.ACL)):
        chip.install(2, offset, _scratch_reader(chip, index), _scratch_writer(chip, index))


def _par_reader(chip: Dp8390, index: int) -> Reader:
    return lambda: chip.par[index]


def _par_writer(chip: Dp8390, index: int) -> Writer:
    def write(value: int) -> None:
        chip.par = chip.par[:index] + bytes((value,)) + chip.par[index + 1 :]

    return write


def _mar_reader(chip: Dp8390, index: int) -> Reader:
    return lambda: chip.mar >> 8 * index & 0xFF


def _mar_writer(chip: Dp8390, index: int) -> Writer:
    def write(value: int) -> None:
        chip.mar = chip.mar & ~(0xFF << 8 * index) | value << 8 * index

    return write


def _scratch_reader(chip: Dp8390, index: int) -> Reader:
    return lambda: chip.scratch[index]


def _scratch_writer(chip: Dp8390, index: int) -> Writer:
    return lambda value: chip.scratch.__setitem__(index, value)
