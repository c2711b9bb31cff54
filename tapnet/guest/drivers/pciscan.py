"""Finding a PCI card as drivers do: configuration mechanism 1, bus 0.

Ref: PCI Local Bus Specification 2.3, 3.2.2.3.2 and 6.
"""

from __future__ import annotations

from collections.abc import Collection

from nic_models.bus.machine import Machine

from .driver import DriverError

CONFIG_ADDRESS, CONFIG_DATA, ENABLE = 0xCF8, 0xCFC, 0x80000000
COMMAND, BAR0, INTERRUPT_LINE = 0x04, 0x10, 0x3C
SLOTS = 32


class PciDevice:
    """Configuration space of the function in ``slot`` through ports 0xcf8 and 0xcfc."""

    def __init__(self, machine: Machine, slot: int) -> None:
        self.machine = machine
        self.slot = slot

    def read(self, offset: int, size: int) -> int:
        """1, 2 or 4 bytes of configuration space."""
        self.machine.io_write(CONFIG_ADDRESS, 4, ENABLE | self.slot << 11 | offset & 0xFC)
        return self.machine.io_read(CONFIG_DATA + (offset & 3), size)

    def write(self, offset: int, size: int, value: int) -> None:
        """1, 2 or 4 bytes of configuration space."""
        self.machine.io_write(CONFIG_ADDRESS, 4, ENABLE | self.slot << 11 | offset & 0xFC)
        self.machine.io_write(CONFIG_DATA + (offset & 3), size, value)

    def bar(self, index: int) -> int:
        """Address in a base address register, type bits removed."""
        value = self.read(BAR0 + 4 * index, 4)
        return value & ~3 if value & 1 else value & ~15

    def enable(self, bits: int) -> None:
        """Set bits of the command register (1 I/O, 2 memory, 4 bus master)."""
        self.write(COMMAND, 2, self.read(COMMAND, 2) | bits)

    @property
    def irq(self) -> int:
        """What firmware left in the interrupt line register."""
        return self.read(INTERRUPT_LINE, 1)


def find(machine: Machine, identities: Collection[tuple[int, int]], slot: int | None = None) -> PciDevice:
    """The first function of bus 0 (or the one in ``slot``) with one of ``identities`` (vendor, device)."""
    for number in range(SLOTS) if slot is None else (slot,):
        device = PciDevice(machine, number)
        found = device.read(0, 4)
        if (found & 0xFFFF, found >> 16) in identities:
            return device
    wanted = ", ".join(f"{vendor:04x}:{device:04x}" for vendor, device in identities)
    place = "on the bus" if slot is None else f"in slot {slot:#x}"
    raise DriverError(f"no {wanted} {place}")
