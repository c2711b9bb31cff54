"""Register-level drivers are the guest side of a card, like an operating system's driver, but in this
process.

A driver talks to its card by ``machine.io_*`` and ``machine.mem_*`` only. It never sleeps: what a real driver
waits for is a deadline here (``next_deadline``, ``run``). Its owner calls ``interrupt()`` whenever the card's
IRQ line is high and no call into driver or machine is on the stack.

    driver = DRIVERS["ne2k_pci"](machine, location, deliver=..., writable=..., now=...)   # probes
    driver.open(); driver.transmit(frame); driver.interrupt(); driver.close()

A model is added by one line in ``_WHERE``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from .driver import Deliver, Driver, DriverError, DriverFactory

__all__ = ["DRIVERS", "Deliver", "Driver", "DriverError", "DriverFactory"]

_WHERE = {
    "ne2k_pci": ("ne2000", "Ne2000Driver"),
    "ne2k_isa": ("ne2000", "Ne2000Driver"),
    "rtl8139": ("rtl8139", "rtl8139"),
    "pcnet": ("pcnet", "PcnetDriver"),
}


class _Drivers(Mapping[str, DriverFactory]):
    """This mapping from model to driver factory imports a driver only when it is looked up."""

    def __getitem__(self, model: str) -> DriverFactory:
        module, name = _WHERE[model]
        factory: DriverFactory = getattr(import_module(f".{module}", __package__), name)
        return factory

    def __iter__(self) -> Iterator[str]:
        return iter(_WHERE)

    def __len__(self) -> int:
        return len(_WHERE)


DRIVERS: Mapping[str, DriverFactory] = _Drivers()
