"""What all our drivers begin with: their surroundings, their counters, the place of a bus master's rings.

A bus master's descriptors and buffers lie in guest RAM at ``RAM_BASE`` plus ``RAM_SIZE`` for each slot, so that
several cards need no allocator; no firmware and no operating system uses that RAM.
"""

from __future__ import annotations

from collections.abc import Callable

from nic_models.bus.machine import Machine

from .driver import Deliver, DriverError
from .pciscan import PciDevice

RAM_BASE = 0x100000
RAM_SIZE = 0x40000
MIN_FRAME, MAX_FRAME = 14, 1518  # without FCS; the longest has a VLAN tag
_IO, _MASTER = 0x01, 0x04  # PCI command register


class CardDriver:
    """See ``drivers.Driver``; ``deliver``, ``writable`` and ``now`` are ``DriverFactory``'s."""

    def __init__(
        self, machine: Machine, deliver: Deliver, writable: Callable[[], None], now: Callable[[], int]
    ) -> None:
        self.machine = machine
        self.deliver = deliver
        self.writable = writable
        self.now = now
        self.counters: dict[str, int] = {}
        self._open = False

    def _count(self, reason: str, count: int = 1) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + count

    def _takes(self, size: int) -> bool:
        """Whether a frame of ``size`` is one to send; counts it if not."""
        if not MIN_FRAME <= size <= MAX_FRAME:
            self._count("tx_size")
        elif not self._open:
            self._count("tx_closed")
        else:
            return True
        return False


class MasterDriver(CardDriver):
    """A bus master on PCI.

    base  of its ports. irq  its line. ram  where its rings lie
    """

    def __init__(
        self,
        machine: Machine,
        device: PciDevice,
        chip: str,
        deliver: Deliver,
        writable: Callable[[], None],
        now: Callable[[], int],
    ) -> None:
        """Enable the card. Raises DriverError, naming ``chip``."""
        super().__init__(machine, deliver, writable, now)
        device.enable(_IO | _MASTER)
        self.base = device.bar(0)
        self.irq = device.irq
        self.ram = RAM_BASE + device.slot * RAM_SIZE
        if not self.base:
            raise DriverError(f"{chip} in slot {device.slot:#x} has no I/O address")
        if machine.ram.size < self.ram + RAM_SIZE:
            need = (self.ram + RAM_SIZE + 0xFFFFF) >> 20
            raise DriverError(f"{chip} in slot {device.slot:#x}: its driver needs {need}M of guest RAM")
