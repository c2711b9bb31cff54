"""One PCI function: configuration space, base address registers, INTx. Usable without a machine (vfio-user).

A function holds its ``card`` and answers configuration accesses; its owner maps the regions: ``bars`` says
kind and size, ``address(n)`` where region n is decoded now (None: not), ``on_change`` is called when that may
have changed, ``on_intx`` when the level of the interrupt pin changes. The card's ``set_irq`` is
``function.set_irq``.

Ref: PCI Local Bus Specification 2.3, section 6 (configuration space), 6.2.2 (command), 6.2.3 (status: bit 3,
interrupt status, does not depend on interrupt disable), 6.2.5.1 (base address registers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..card import Card
from ..snapshot import flag, section, unpack
from ..snapshot import pack as pack_bytes

CONFIG_SIZE = 256
VENDOR, DEVICE, COMMAND, STATUS, REVISION, CLASS, CACHE_LINE, LATENCY, HEADER_TYPE = (
    0,
    2,
    4,
    6,
    8,
    9,
    12,
    13,
    14,
)
BAR0, SUBSYSTEM_VENDOR, SUBSYSTEM, ROM, INTERRUPT_LINE, INTERRUPT_PIN, MIN_GNT, MAX_LAT = (
    0x10,
    0x2C,
    0x2E,
    0x30,
    0x3C,
    0x3D,
    0x3E,
    0x3F,
)
CMD_IO, CMD_MEMORY, CMD_MASTER, CMD_INTX_DISABLE = 0x0001, 0x0002, 0x0004, 0x0400
CMD_WRITABLE = CMD_IO | CMD_MEMORY | CMD_MASTER | 0x0140 | CMD_INTX_DISABLE  # and parity response, SERR#
STATUS_INTX = 0x08
STATUS_W1C = 0xF9  # upper byte: error bits are cleared by writing ones
SUBSYSTEM_DEFAULT = (0x1AF4, 0x1100)
IO_LIMIT, MEMORY_LIMIT = 1 << 16, 1 << 32


@dataclass(frozen=True, slots=True)
class Bar:
    """A base address register: kind of space and size in bytes (a power of two)."""

    kind: Literal["io", "mem"]
    size: int


@dataclass(frozen=True, slots=True)
class Identity:
    """Read-only part of a configuration header."""

    vendor: int
    device: int
    revision: int
    class_code: int  # 24 bits: base class, sub-class, interface
    subsystem_vendor: int = SUBSYSTEM_DEFAULT[0]
    subsystem: int = SUBSYSTEM_DEFAULT[1]
    status: int = 0
    min_gnt: int = 0
    max_lat: int = 0
    pin: int = 1  # 1: INTA#; 0: none
    header_type: int = 0


def _nothing() -> None:
    pass


def _ignore(_level: bool) -> None:
    pass


class PciFunction:
    """Configuration space of one function with its card behind it (None for bridges)."""

    def __init__(self, identity: Identity, bars: tuple[Bar, ...] = (), card: Card | None = None) -> None:
        self.identity = identity
        self.bars = bars
        self._card = card
        self.on_change: Callable[[], None] = _nothing
        self.on_intx: Callable[[bool], None] = _ignore
        self.on_write: Callable[[int], None] | None = None  # told the offset, after a write (bridges)
        self.config = bytearray(CONFIG_SIZE)
        self.mask = bytearray(CONFIG_SIZE)  # writable bits
        self.level = False  # what the card asserts
        self.intx = False  # what the pin shows
        self.reset_values: dict[int, int] = {}
        self._header()

    def _header(self) -> None:
        identity = self.identity
        config = self.config
        for offset, size, value in (
            (VENDOR, 2, identity.vendor),
            (DEVICE, 2, identity.device),
            (STATUS, 2, identity.status),
            (REVISION, 1, identity.revision),
            (CLASS, 3, identity.class_code),
            (HEADER_TYPE, 1, identity.header_type),
            (SUBSYSTEM_VENDOR, 2, identity.subsystem_vendor),
            (SUBSYSTEM, 2, identity.subsystem),
            (INTERRUPT_PIN, 1, identity.pin),
            (MIN_GNT, 1, identity.min_gnt),
            (MAX_LAT, 1, identity.max_lat),
        ):
            config[offset : offset + size] = value.to_bytes(size, "little")
        mask = self.mask
        mask[COMMAND : COMMAND + 2] = CMD_WRITABLE.to_bytes(2, "little")
        mask[CACHE_LINE] = mask[LATENCY] = mask[INTERRUPT_LINE] = 0xFF
        for index, bar in enumerate(self.bars):
            offset = BAR0 + 4 * index
            if bar.size < 4 or bar.size & (bar.size - 1):
                raise ValueError(f"BAR size {bar.size} is not a power of two")
            mask[offset : offset + 4] = (-bar.size & 0xFFFFFFFF).to_bytes(4, "little")
            config[offset] = 1 if bar.kind == "io" else 0

    @property
    def card(self) -> Card:
        """The card behind this function."""
        if self._card is None:
            raise LookupError("a bridge has no card")
        return self._card

    @card.setter
    def card(self, card: Card) -> None:
        self._card = card

    @property
    def has_card(self) -> bool:
        """False for bridges."""
        return self._card is not None

    @property
    def command(self) -> int:
        """The command register."""
        return self.config[COMMAND] | self.config[COMMAND + 1] << 8

    @property
    def bus_master(self) -> bool:
        """Whether the function may start DMA."""
        return bool(self.config[COMMAND] & CMD_MASTER)

    def set_irq(self, level: bool) -> None:
        """For the card: assert or release the interrupt."""
        self.level = level
        self._interrupt()

    def _interrupt(self) -> None:
        if self.level:
            self.config[STATUS] |= STATUS_INTX
        else:
            self.config[STATUS] &= ~STATUS_INTX
        intx = self.level and not self.command & CMD_INTX_DISABLE
        if intx != self.intx:
            self.intx = intx
            self.on_intx(intx)

    def config_read(self, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes; all ones beyond the 256."""
        if not offset >= 0 or offset + size > CONFIG_SIZE:
            return (1 << 8 * size) - 1
        return int.from_bytes(self.config[offset : offset + size], "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes; read-only bits stay, W1C bits clear. Lost beyond the 256."""
        if not offset >= 0 or offset + size > CONFIG_SIZE:
            return
        config, mask = self.config, self.mask
        for index in range(offset, offset + size):
            byte = value & 0xFF
            value >>= 8
            if index == STATUS + 1:
                config[index] &= ~(byte & STATUS_W1C)
            else:
                config[index] = config[index] & ~mask[index] | byte & mask[index]
        if offset <= COMMAND + 1 and offset + size > COMMAND:
            self._interrupt()
            self.on_change()
        elif offset < BAR0 + 4 * len(self.bars) and offset + size > BAR0:
            self.on_change()
        if self.on_write is not None:
            self.on_write(offset)

    def bar(self, index: int) -> int:
        """The address in a base address register, type bits removed, decoded or not."""
        offset = BAR0 + 4 * index
        value = int.from_bytes(self.config[offset : offset + 4], "little")
        return value & (~3 if self.bars[index].kind == "io" else ~15)

    def address(self, index: int) -> int | None:
        """Where region ``index`` is decoded now; None while it is not (disabled, zero, beyond the space)."""
        bar = self.bars[index]
        base = self.bar(index)
        enable, limit = (CMD_IO, IO_LIMIT) if bar.kind == "io" else (CMD_MEMORY, MEMORY_LIMIT)
        if not self.command & enable or not base or base + bar.size >= limit:
            return None
        return base

    def reset(self) -> None:
        """RST#: configuration back to power-on values, then the card."""
        for offset in range(CONFIG_SIZE):
            self.config[offset] &= ~self.mask[offset]
        for offset, value in self.reset_values.items():
            self.config[offset] = value
        if self._card is not None:
            self._card.reset()
        self._interrupt()
        self.on_change()

    def snapshot(self) -> dict[str, Any]:
        """State as JSON-able data, card included."""
        state: dict[str, Any] = {"config": pack_bytes(self.config), "level": int(self.level)}
        if self._card is not None:
            state["card"] = self._card.snapshot()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        config = unpack(state, "config", CONFIG_SIZE)
        if config[VENDOR:COMMAND] != self.config[VENDOR:COMMAND]:  # subsystem ids can come from an EEPROM
            raise ValueError("snapshot: of another PCI device")
        level = flag(state, "level")
        if self._card is not None:
            self._card.restore(dict(section(state, "card")))
        self.config[:] = config
        self.level = level
        self._interrupt()
        self.on_change()
