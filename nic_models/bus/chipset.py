"""The PCI side of a `pc` machine: configuration mechanism 1, host bridge 00:00.0, PIIX3 00:01.0, INTx
routing.

INTA of the card in slot n drives PIRQ (n - 1) & 3; PIIX3's registers 0x60-0x63 route each PIRQ to an ISA IRQ
(bit 7 set: to none). Several cards may share one line: it is high while any of them asserts.

Ref: Intel 82441FX (PMC) and 82371SB (PIIX3) data sheets; PCI Local Bus Specification 2.3, 3.2.2.3.2
(mechanism 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..snapshot import number, section
from .pci import CMD_IO, CMD_MEMORY, COMMAND, INTERRUPT_LINE, Identity, PciFunction

HOST_BRIDGE_SLOT, ISA_BRIDGE_SLOT, FIRST_CARD_SLOT, SLOTS = 0, 1, 3, 32
CONFIG_ADDRESS, CONFIG_DATA, CONFIG_END = 0xCF8, 0xCFC, 0xD00
ENABLE = 0x80000000
PIRQ_ROUTE = 0x60  # four registers
PIRQ_OFF = 0x80
RESET_CONTROL = 0xCF9  # PIIX3: bit 2 resets
RESET_BIT = 0x04
BOOT_ROUTES = (10, 10, 11, 11)  # as PC firmware routes PIRQ A-D
BOOT_IO_BASE = 0xC000
BOOT_MEMORY_BASE, BOOT_MEMORY_END = 0xFEB80000, 0xFEC00000
_PAGE = 4096
_ROUTABLE = frozenset((3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15))

HOST_BRIDGE = Identity(vendor=0x8086, device=0x1237, revision=2, class_code=0x060000, pin=0)
ISA_BRIDGE = Identity(vendor=0x8086, device=0x7000, revision=0, class_code=0x060100, pin=0)


class PciBus:
    """Bus 0. ``set_line(irq, source, level)`` drives ISA IRQs; ``on_map`` is called when a region may have
    moved.
    """

    def __init__(
        self,
        set_line: Callable[[int, str, bool], None],
        on_map: Callable[[], None],
        on_reset: Callable[[], None],
    ) -> None:
        self.set_line = set_line
        self.on_map = on_map
        self.on_reset = on_reset
        self.address = 0  # CONFIG_ADDRESS
        self.functions: dict[int, PciFunction] = {}
        self.asserting: list[set[int]] = [set(), set(), set(), set()]  # slots, per PIRQ
        self._routed = [-1] * 4
        self.functions[HOST_BRIDGE_SLOT] = PciFunction(HOST_BRIDGE)
        self.isa_bridge = PciFunction(ISA_BRIDGE)
        self.functions[ISA_BRIDGE_SLOT] = self.isa_bridge
        for index in range(4):
            self.isa_bridge.mask[PIRQ_ROUTE + index] = 0x8F
            self.isa_bridge.config[PIRQ_ROUTE + index] = PIRQ_OFF
            self.isa_bridge.reset_values[PIRQ_ROUTE + index] = PIRQ_OFF
        self.isa_bridge.on_write = self._bridge_written
        self.isa_bridge.on_change = self._reroute

    def plug(self, function: PciFunction, slot: int | None = None) -> int:
        """Put ``function`` into ``slot``, or the first free one from 3 upward. Raises ValueError; gives the
        slot.
        """
        if slot is None:
            free = [n for n in range(FIRST_CARD_SLOT, SLOTS) if n not in self.functions]
            if not free:
                raise ValueError("addr: no free PCI slot")
            slot = free[0]
        if not 0 <= slot < SLOTS:
            raise ValueError(f"addr={slot:#x}: PCI slots are 0x0..{SLOTS - 1:#x}")
        self.functions[slot] = function
        pirq = (slot - 1 + function.identity.pin - 1) & 3

        def intx(level: bool) -> None:
            before = bool(self.asserting[pirq])
            (self.asserting[pirq].add if level else self.asserting[pirq].discard)(slot)
            if bool(self.asserting[pirq]) != before and self._routed[pirq] >= 0:
                self.set_line(self._routed[pirq], f"PIRQ{pirq}", level)

        function.on_intx = intx
        function.on_change = self.on_map
        return slot

    def unplug(self, slot: int) -> None:
        """Take the function out of ``slot``; its interrupt falls."""
        function = self.functions.pop(slot)
        function.on_intx(False)

    def irq_of(self, slot: int) -> int | None:
        """The ISA IRQ that INTA of ``slot`` is routed to now."""
        irq = self._routed[(slot - 1) & 3]
        return irq if irq >= 0 else None

    def _bridge_written(self, offset: int) -> None:
        if PIRQ_ROUTE - 4 < offset < PIRQ_ROUTE + 4:
            self._reroute()

    def _reroute(self) -> None:
        for pirq in range(4):
            value = self.isa_bridge.config[PIRQ_ROUTE + pirq]
            irq = -1 if value & PIRQ_OFF or value not in _ROUTABLE else value
            old = self._routed[pirq]
            if irq != old:
                self._routed[pirq] = irq
                if self.asserting[pirq]:
                    if old >= 0:
                        self.set_line(old, f"PIRQ{pirq}", False)
                    if irq >= 0:
                        self.set_line(irq, f"PIRQ{pirq}", True)

    # -- the ports 0xcf8-0xcff as a device of the port space -------------------------------------------------

    def _target(self, offset: int) -> tuple[PciFunction | None, int]:
        address = self.address
        if not address & ENABLE or address >> 8 & 0x7 or address >> 16 & 0xFF:
            return None, 0
        return self.functions.get(address >> 11 & 0x1F), (address & 0xFC) + offset

    def read(self, region: int, offset: int, size: int) -> int:
        """Port read, ``offset`` from 0xcf8."""
        ones = (1 << 8 * size) - 1
        if offset < 4:
            return self.address if offset == 0 and size == 4 else ones
        function, register = self._target(offset - 4)
        return ones if function is None else function.config_read(register, size)

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """Port write, ``offset`` from 0xcf8."""
        if offset < 4:
            if offset == 0 and size == 4:
                self.address = value & (ENABLE | 0x00FFFFFC)
            elif offset == RESET_CONTROL - CONFIG_ADDRESS and size == 1 and value & RESET_BIT:
                self.on_reset()
            return
        function, register = self._target(offset - 4)
        if function is not None:
            function.config_write(register, size, value)

    def read_block(self, region: int, offset: int, size: int, count: int) -> bytes:
        """String input."""
        return self.read(region, offset, size).to_bytes(size, "little") * count

    def write_block(self, region: int, offset: int, size: int, data: bytes) -> None:
        """String output."""
        for index in range(0, len(data) - size + 1, size):
            self.write(region, offset, size, int.from_bytes(data[index : index + size], "little"))

    # -- owner -----------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """What firmware does: route the PIRQs, give every card addresses and an interrupt line, enable
        decoding.
        """
        for pirq, irq in enumerate(BOOT_ROUTES):
            self.isa_bridge.config_write(PIRQ_ROUTE + pirq, 1, irq)
        next_io, next_memory = BOOT_IO_BASE, BOOT_MEMORY_BASE
        for slot in sorted(self.functions):
            next_io, next_memory = self._assign(slot, next_io, next_memory)

    def boot_slot(self, slot: int) -> None:
        """The same for a card that came later: behind the addresses of the others."""
        next_io, next_memory = BOOT_IO_BASE, BOOT_MEMORY_BASE
        for other, function in self.functions.items():
            for index, bar in enumerate(function.bars):
                base = function.address(index)
                if base is None or other == slot:
                    continue
                if bar.kind == "io":
                    next_io = max(next_io, base + bar.size)
                elif base >= BOOT_MEMORY_BASE:
                    next_memory = max(next_memory, base + max(bar.size, _PAGE))
        self._assign(slot, next_io, next_memory)

    def _assign(self, slot: int, next_io: int, next_memory: int) -> tuple[int, int]:
        """Addresses, line and decoding of one slot; what is free behind them."""
        function = self.functions[slot]
        if not function.has_card:
            return next_io, next_memory
        for index, bar in enumerate(function.bars):
            if bar.kind == "io":
                base = -(-next_io // bar.size) * bar.size
                next_io = base + bar.size
                fits = next_io < 1 << 16
            else:
                step = max(bar.size, _PAGE)
                base = -(-next_memory // step) * step
                next_memory = base + step
                fits = next_memory <= BOOT_MEMORY_END
            if fits:
                function.config_write(0x10 + 4 * index, 4, base)
        function.config_write(INTERRUPT_LINE, 1, self.irq_of(slot) or 0)
        function.config_write(COMMAND, 2, function.command | CMD_IO | CMD_MEMORY)
        return next_io, next_memory

    def reset(self) -> None:
        """PCI reset of everything on the bus."""
        self.address = 0
        for function in self.functions.values():
            function.reset()

    def snapshot(self) -> dict[str, Any]:
        """State as JSON-able data, cards included."""
        return {
            "address": self.address,
            "functions": {str(slot): function.snapshot() for slot, function in self.functions.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data of a bus with the same cards."""
        address = number(state, "address", 0xFFFFFFFF)
        functions = section(state, "functions")
        if sorted(functions) != sorted(str(slot) for slot in self.functions):
            raise ValueError("snapshot: other PCI slots are in use")
        for slot, function in self.functions.items():
            function.restore(section(functions, str(slot)))
        self.address = address
        self._reroute()
