"""State of the Am79C970A model as JSON-able data, a frame on its way included, and back with checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..bus.dma import WriteOp
from ..snapshot import counts, flag, number, optional, pack, section, unpack
from . import receiver as pcnet_rx
from . import registers as r
from . import transmitter as pcnet_tx
from .descriptors import ADDRESS, POSTED_LIMIT

if TYPE_CHECKING:
    from .chip import Pcnet
    from .rings import Rings

CSRS = 128
_FLAGS = ("dma_pending", "refused", "blocked", "demanded")
_LAST = 1 << 63


def save(chip: Pcnet) -> dict[str, Any]:
    """The whole state of ``chip``."""
    return {
        "model": chip.model,
        "csr": chip.csr[:CSRS],
        "bcr": list(chip.bcr),
        "rap": chip.rap,
        "aprom": pack(chip.aprom),
        "phy": chip.phy.snapshot(),
        "rings": _save_rings(chip.rings),
        **{name: int(getattr(chip, name)) for name in _FLAGS},
        "poll_at": chip.poll_at,
        "counters": dict(chip.counters),
    }


def load(chip: Pcnet, state: Mapping[str, Any]) -> None:
    """Put ``save``'s data into ``chip``. Raises ValueError before anything is changed."""
    if not isinstance(state, Mapping) or state.get("model") != chip.model:
        raise ValueError(f"snapshot: not of a {chip.model}")
    csr, bcr = _registers(state, "csr", CSRS), _registers(state, "bcr", len(chip.bcr))
    if bcr[r.SWS] & 0xFF not in r.SWSTYLES:
        raise ValueError("snapshot: no such software style")
    rap, poll_at = number(state, "rap", 0xFF), number(state, "poll_at", _LAST)
    aprom = unpack(state, "aprom", r.APROM_BYTES)
    flags = {name: flag(state, name) for name in _FLAGS}
    counters = counts(state, "counters")
    phy = _phy(section(state, "phy"))
    rings = section(state, "rings")
    init, suspend = flag(rings, "init"), flag(rings, "suspend")
    posted, event = _posted(rings.get("posted")), number(rings, "event", 0xFFFF) & r.CSR0_INTERRUPTS
    rx, tx = _part(section(rings, "rx"), pcnet_rx), _part(section(rings, "tx"), pcnet_tx)
    tx["until"] = optional({"until": section(rings, "tx").get("until")}, "until", _LAST)
    if tx["wire"] is None and (tx["until"] is not None or tx["due"]):
        raise ValueError("snapshot: a time on the wire without a frame")
    hold = optional(section(rings, "rx"), "hold_until", _LAST)
    chip.phy.restore(phy)
    chip.csr[:CSRS] = csr
    chip.bcr[:] = bcr
    chip.rap, chip.poll_at, chip.counters = rap, poll_at, counters
    chip.aprom[:] = aprom
    chip.rings.halt()
    chip.rings.init, chip.rings.suspend = init, suspend
    chip.rings.bus.posted[:], chip.rings.bus.event = posted, event
    for part, values in ((chip.rings.rx, rx), (chip.rings.tx, tx), (chip, flags)):
        for name, value in values.items():
            setattr(part, name, value)
    chip.rings.rx.hold_until = hold


def _phy(state: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {name: number(state, name, 0xFFFF) for name in ("bmcr", "anar", "partner")}
    values |= {name: flag(state, name) for name in ("cable", "link", "dropped")}
    values["deadline"] = optional(state, "deadline", _LAST)
    if len(state) != len(values):
        raise ValueError("snapshot: not of a PHY")
    return values


def _save_rings(rings: Rings) -> dict[str, Any]:
    return {
        "init": int(rings.init),
        "suspend": int(rings.suspend),
        "posted": [[address, data.hex()] for _, address, data in rings.bus.posted],
        "event": rings.bus.event,
        "rx": _save_part(rings.rx, pcnet_rx) | {"hold_until": rings.rx.hold_until},
        "tx": _save_part(rings.tx, pcnet_tx) | {"until": rings.tx.until},
    }


def _registers(state: Mapping[str, Any], name: str, size: int) -> list[int]:
    values = state.get(name)
    if not isinstance(values, list) or len(values) != size:
        raise ValueError(f"snapshot: {name} is not {size} registers")
    return [number({name: value}, name, 0xFFFF) for value in values]


def _save_part(part: Any, layout: Any) -> dict[str, Any]:
    state: dict[str, Any] = {name: getattr(part, name) for name in layout.NUMBERS}
    state |= {name: int(getattr(part, name)) for name in layout.FLAGS}
    state |= {name: list(getattr(part, name)) for name in layout.TUPLES}
    for name in layout.FRAMES:
        frame = getattr(part, name)
        state[name] = None if frame is None else pack(frame)
    return state


def _part(state: Mapping[str, Any], layout: Any) -> dict[str, Any]:
    values: dict[str, Any] = {name: number(state, name, limit) for name, limit in layout.NUMBERS.items()}
    values |= {name: flag({"due": 0, **state}, name) for name in layout.FLAGS}
    for name in layout.FRAMES:
        values[name] = (
            None if state.get(name, "") is None else unpack(state, name, limit=pcnet_tx.JABBER_BYTES + 1)
        )
    for name, size in layout.TUPLES.items():
        items = state.get(name)
        if not isinstance(items, list) or len(items) != size:
            raise ValueError(f"snapshot: {name} is not {size} numbers")
        values[name] = tuple(number({name: item}, name, ADDRESS) for item in items)
    return values


def _posted(items: Any) -> list[WriteOp]:
    if not isinstance(items, list) or len(items) > POSTED_LIMIT:
        raise ValueError("snapshot: posted writes")
    posted: list[WriteOp] = []
    for item in items:
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[1], str) or len(item[1]) > 16:
            raise ValueError("snapshot: posted writes")
        posted.append(("write", number({"posted": item[0]}, "posted", ADDRESS), bytes.fromhex(item[1])))
    return posted
