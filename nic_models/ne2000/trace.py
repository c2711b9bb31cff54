"""Register maps as data, for traces and tests: never looked at on the data path.

    describe(DP8390, 0, ISR, False, 0x42)  ->  "ISR = 0x42 (RDC=1, PTX=1)"

A map is keyed by (page, offset, written) and gives a ``Register``: its name, its one-bit fields from bit 0 up
("-" for none) and its wider fields. ``Trace`` follows a card's page register and turns accesses into lines.

Ref: DP8390D/NS32490D data sheet, section 10; Realtek RTL8029AS specification LS009.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from . import registers as r


@dataclass(frozen=True, slots=True)
class Register:
    """One register. ``bits``: names of bits 0..7; ``fields``: name to (lowest bit, width)."""

    name: str
    bits: tuple[str, ...] = ()
    fields: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def describe(self, value: int) -> str:
        """``NAME = 0xVV (FIELD=n, BIT=1, ...)``, highest bit first, bits that are 0 left out."""
        parts = []
        for name, (low, width) in self.fields.items():
            content = value >> low & (1 << width) - 1
            if content:
                parts.append((low, f"{name}={content}"))
        for index, name in enumerate(self.bits):
            if name != "-" and value >> index & 1:
                parts.append((index, f"{name}=1"))
        words = ", ".join(text for _, text in sorted(parts, reverse=True))
        return f"{self.name} = {value:#04x}" + (f" ({words})" if words else "")


def _bits(name: str, bits: str, **fields: tuple[int, int]) -> Register:
    return Register(name, tuple(bits.split()), fields)


RegisterMap = Mapping[tuple[int, int, bool], Register]

_CR = _bits("CR", "STP STA TXP", RD=(3, 3), PS=(6, 2))
_ISR = "PRX PTX RXE TXE OVW CNT RDC RST"
_TSR = _bits("TSR", "PTX - COL ABT CRS FU CDH OWC")
_RSR = _bits("RSR", "PRX CRC FAE FO MPA PHY DIS DFR")
_RCR = _bits("RCR", "SEP AR AB AM PRO MON")
_TCR = _bits("TCR", "CRC - - ATD OFST", LB=(1, 2))
_DCR = _bits("DCR", "WTS BOS LAS LS AR", FT=(5, 2))
_IMR = _bits("IMR", "PRXE PTXE RXEE TXEE OVWE CNTE RDCE")


def _dp8390() -> dict[tuple[int, int, bool], Register]:
    table: dict[tuple[int, int, bool], Register] = {}
    for page in range(4):
        table[page, r.CR, False] = table[page, r.CR, True] = _CR
    names = "CLDA0 CLDA1 BNRY TSR NCR FIFO ISR CRDA0 CRDA1 8029ID0 8029ID1 RSR CNTR0 CNTR1 CNTR2"
    known = {"TSR": _TSR, "ISR": _bits("ISR", _ISR), "RSR": _RSR, "RCR": _RCR, "TCR": _TCR, "DCR": _DCR}
    known["IMR"] = _IMR
    for offset, name in enumerate(names.split(), 1):
        table[0, offset, False] = known.get(name, Register(name))
    names = "PSTART PSTOP BNRY TPSR TBCR0 TBCR1 ISR RSAR0 RSAR1 RBCR0 RBCR1 RCR TCR DCR IMR"
    for offset, name in enumerate(names.split(), 1):
        table[0, offset, True] = known.get(name, Register(name))
    names = "PAR0 PAR1 PAR2 PAR3 PAR4 PAR5 CURR MAR0 MAR1 MAR2 MAR3 MAR4 MAR5 MAR6 MAR7"
    for offset, name in enumerate(names.split(), 1):
        table[1, offset, False] = table[1, offset, True] = Register(name)
    names = "PSTART PSTOP RNPP TPSR LNPP ACU ACL - - - - RCR TCR DCR IMR"
    for offset, name in enumerate(names.split(), 1):
        if name != "-":
            table[2, offset, False] = known.get(name, Register(name))
    names = "CLDA0 CLDA1 RNPP - LNPP ACU ACL"
    for offset, name in enumerate(names.split(), 1):
        if name != "-":
            table[2, offset, True] = Register(name)
    for offset, register in (
        (r.CR9346, _bits("9346CR", "EEDO EEDI EESK EECS", EEM=(6, 2))),
        (r.CONFIG0, Register("CONFIG0")),
        (r.CONFIG2, _bits("CONFIG2", "- - - - PF FCE", PL=(6, 2))),
        (r.CONFIG3, _bits("CONFIG3", "- PWRDN SLEEP - LEDS0 LEDS1 FUDUP")),
        (r.HLTCLK, Register("HLTCLK")),
        (r.ASID0, Register("8029ASID0")),
        (r.ASID1, Register("8029ASID1")),
    ):
        table[3, offset, False] = table[3, offset, True] = register
    return table


DP8390: RegisterMap = _dp8390()


def describe(table: RegisterMap, page: int, offset: int, written: bool, value: int) -> str:
    """One access in words."""
    register = table.get((page, offset, written))
    return register.describe(value) if register else f"page {page} offset {offset:#04x} = {value:#04x}"


class Trace:
    """Lines for the accesses to one NE2000: ``out("ISR <- 0x40 (RDC=1)")`` for writes, ``=`` for reads."""

    def __init__(self, out: Callable[[str], None]) -> None:
        self.out = out
        self.page = 0

    def access(self, offset: int, size: int, written: bool, value: int) -> None:
        """One access at ``offset`` of the I/O window."""
        if offset >= r.BOARD_PORTS:
            text = f"offset {offset:#04x} = {value:#0{2 * size + 2}x}"
        elif offset >= r.RESET_PORT:
            text = f"RESET = {value:#04x}"
        elif offset >= r.DATA_PORT:
            text = f"DATA = {value:#0{2 * size + 2}x}"
        else:
            text = describe(DP8390, self.page, offset, written, value)
        if written and offset == r.CR:
            self.page = value >> 6 & 3
        if offset >= r.RESET_PORT and not written:
            self.page = 0
        self.out(text.replace(" = ", " <- ", 1) if written else text)
