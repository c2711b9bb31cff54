"""Snapshots of the DP8390: every register, the packet RAM, a transfer or transmit in the middle, a held frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..parts.padding import MAX_FRAME
from ..snapshot import counts, flag, number, optional, section, unpack
from ..snapshot import pack as pack_bytes
from . import registers as r
from .remote_dma import RAM_BASE, SPACE

if TYPE_CHECKING:
    from .dp8390 import Dp8390

TALLY_STOP = 0xC0  # tally counters stick here
ANY_FRAME = -1  # a held frame that was not looked at yet: it is offered again as soon as the chip runs
_REGISTERS = dict.fromkeys(
    ("pstart", "pstop", "bnry", "curr", "tpsr", "cr", "isr", "imr", "tcr", "tsr", "rcr", "rsr", "dcr"), 0xFF
) | {"tbcr": 0xFFFF, "clda": 0xFFFF}


def save(chip: Dp8390) -> dict[str, Any]:
    """State as JSON-able data (``now`` is not part of it; deadlines are absolute)."""
    return {
        "registers": {name: getattr(chip, name) for name in _REGISTERS},
        "tally": list(chip.tally),
        "par": chip.par.hex(),
        "mar": chip.mar,
        "scratch": chip.scratch.hex(),
        "fifo": chip.fifo.cells.hex(),
        "fifo_position": chip.fifo.position,
        "remote": chip.remote.snapshot(),
        "ram": pack_bytes(chip.memory.cells[RAM_BASE:]),
        "link": int(chip.link),
        "tx_frame": None if chip.tx_frame is None else pack_bytes(chip.tx_frame),
        "tx_until": chip.tx_until,
        "held": chip.held,
        "recovering": int(chip.recovering),
        "lost": int(chip.lost),
        "reminded": int(chip.reminded),
        "deadline": chip.deadline,
        "counters": dict(chip.counters),
    }


def load(chip: Dp8390, state: Mapping[str, Any]) -> None:
    """Go on from ``snapshot()``'s data. Raises ValueError, then nothing has changed."""
    registers = section(state, "registers")
    values = {name: number(registers, name, limit) for name, limit in _REGISTERS.items()}
    tally = state.get("tally")
    if not isinstance(tally, list) or len(tally) != 3:
        raise ValueError("snapshot: tally is not three counters")
    tally = [number({"tally": value}, "tally", TALLY_STOP) for value in tally]
    par, scratch, fifo = (_hex(state, name, size) for name, size in (("par", 6), ("scratch", 4), ("fifo", 8)))
    mar = number(state, "mar", (1 << 64) - 1)
    position = number(state, "fifo_position", 7)
    ram = unpack(state, "ram", SPACE - RAM_BASE)
    link = flag(state, "link")
    tx_frame = None if state.get("tx_frame") is None else unpack(state, "tx_frame", limit=0xFFFF)
    tx_until = optional({"tx_until": state.get("tx_until")}, "tx_until", 1 << 63)
    if tx_until is not None and tx_frame is None:
        raise ValueError("snapshot: tx_until without tx_frame")
    if tx_until is None and tx_frame is not None and len(tx_frame) > MAX_FRAME:
        raise ValueError("snapshot: tx_frame is no frame")
    held = number(state, "held", 255, ANY_FRAME)
    recovering = flag(state, "recovering")
    lost, reminded = (flag({name: state.get(name, 0)}, name) for name in ("lost", "reminded"))
    deadline = optional(state, "deadline", 1 << 63)
    counters = counts(state, "counters")
    chip.remote.restore(section(state, "remote"))
    for name, value in values.items():
        setattr(chip, name, value)
    chip.tally, chip.par, chip.mar, chip.scratch = tally, par, mar, bytearray(scratch)
    chip.fifo.cells, chip.fifo.position = bytearray(fifo), position
    chip.memory.cells[RAM_BASE:] = ram
    chip.link, chip.tx_frame, chip.counters = link, tx_frame, counters
    chip.page = chip.cr >> 2 & 0x30
    chip.remote.wide = bool(chip.dcr & r.DCR_WTS)
    chip.remote.wrap_to, chip.remote.wrap_from = chip.pstart << 8, chip.pstop << 8
    chip.held = 0
    chip.mode_changed()
    chip.held, chip.deadline, chip.recovering = held, deadline, recovering
    chip.lost, chip.reminded, chip.tx_until = lost, reminded, tx_until
    chip.irq = False
    chip.set_irq(False)
    chip.interrupt()


def _hex(state: Mapping[str, Any], name: str, size: int) -> bytes:
    try:
        data = bytes.fromhex(state[name])
    except (KeyError, TypeError, ValueError):
        data = b""
    if len(data) != size:
        raise ValueError(f"snapshot: {name} is not {size} bytes")
    return data
