"""Register-level drivers: the guest side of a card, as an operating system's driver is, but in this process.

A driver talks to its card by ``machine.io_*`` and ``machine.mem_*`` only. It never sleeps: what a real driver
waits for is a deadline (``next_deadline``, ``run``). Its owner calls ``interrupt()`` whenever the card's IRQ
line is high and no call into driver or machine is on the stack.

    driver = DRIVERS["ne2k_pci"](machine, location, deliver=..., writable=..., now=...)   # probes
    driver.open(); driver.transmit(frame); driver.interrupt(); driver.close()

A model is added by one line in ``DRIVERS``.
"""

from __future__ import annotations

from .driver import Deliver, Driver, DriverError, DriverFactory
from .ne2000 import Ne2000Driver
from .pcnet import PcnetDriver
from .rtl8139 import rtl8139

__all__ = ["DRIVERS", "Deliver", "Driver", "DriverError", "DriverFactory"]

DRIVERS: dict[str, DriverFactory] = {
    "ne2k_pci": Ne2000Driver,
    "ne2k_isa": Ne2000Driver,
    "rtl8139": rtl8139,
    "pcnet": PcnetDriver,
}
