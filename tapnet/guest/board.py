"""Runs one machine on the event loop: its interrupt lines and its timers.

    card ─ set_irq ─► Machine.on_irq ─► pending ─ call_soon ─► serve ─► Driver.interrupt of that line
    Machine and Driver.next_deadline ─► one timer ─► run(now)

A line that rises inside a register access only marks itself pending; drivers are called from the loop, or by
``serve`` between two accesses, never inside one. A line that stays up is served again on the next turn of the
loop; after ``STORM`` such turns in a row only every ``STORM_PAUSE`` seconds, so that a stuck line does not
eat the loop.

Timer: one, armed for the earliest deadline that is known; it may fire early, never late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nic_models.bus.machine import IRQS, Machine

from .drivers.driver import Driver

STORM = 1000
STORM_PAUSE = 0.01  # seconds


class Board:
    """One machine with its drivers.

    ``listen`` adds whoever else wants the lines (a register bus on a socket).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, machine: Machine) -> None:
        self.loop = loop
        self.machine = machine
        self.pending = False  # some line is up that has not been served since
        self.storms = 0
        self._drivers: list[list[Driver]] = [[] for _ in range(IRQS)]
        self.drivers: list[Driver] = []
        self._listeners: list[Callable[[int, bool], None]] = []
        self._scheduled = False
        self._serving = False
        self._streak = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0
        self._closed = False
        self._held = False
        machine.on_irq = self._irq

    def listen(self, callback: Callable[[int, bool], None]) -> None:
        """Call ``callback(irq, level)`` at each change of a line, inside the access that caused it."""
        self._listeners.append(callback)

    def add(self, driver: Driver) -> None:
        """Serve this driver's line and timers."""
        self._drivers[driver.irq].append(driver)
        self.drivers.append(driver)
        self.kick()

    def remove(self, driver: Driver) -> None:
        """Forget it."""
        self._drivers[driver.irq].remove(driver)
        self.drivers.remove(driver)

    def _irq(self, irq: int, level: bool) -> None:
        for listener in self._listeners:
            listener(irq, level)
        if level and self._drivers[irq]:
            self.pending = True
            if not self._scheduled:
                self._scheduled = True
                self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        if self.pending:
            self.serve()
        else:
            self._streak = 0
        self.kick()

    def serve(self) -> None:
        """Call the drivers whose line is up. For use between register accesses, not inside one."""
        if self._serving:
            return
        self._serving = True
        self.pending = False
        levels = self.machine.irq_levels
        try:
            for irq, drivers in enumerate(self._drivers):
                if levels[irq]:
                    for driver in drivers:
                        driver.interrupt()
        finally:
            self._serving = False
        if any(levels[irq] and drivers for irq, drivers in enumerate(self._drivers)):
            self.pending = True
            self._streak += 1
            if not self._scheduled:
                self._scheduled = True
                if self._streak < STORM:
                    self.loop.call_soon(self._turn)
                else:
                    self.storms += 1
                    self.loop.call_later(STORM_PAUSE, self._turn)
        else:
            self._streak = 0

    def kick(self) -> None:
        """Look at the deadlines again; call it after a batch of register accesses."""
        if self._closed or self._held:
            return
        at = self.next_deadline()
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_later(max(0, at - self.machine.now()) / 1e9, self._on_timer)

    def next_deadline(self) -> int | None:
        """The earliest deadline of machine and drivers, ns of the machine's clock."""
        at = self.machine.next_deadline()
        for driver in self.drivers:
            deadline = driver.next_deadline()
            if deadline is not None and (at is None or deadline < at):
                at = deadline
        return at

    def expire(self) -> None:
        """Run what is due now."""
        now = self.machine.now()
        self.machine.run(now)
        for driver in self.drivers:
            deadline = driver.next_deadline()
            if deadline is not None and deadline <= now:
                driver.run(now)
        if self.pending:
            self.serve()

    def hold(self) -> None:
        """No timer of the loop until ``release``: the machine's clock is virtual, whoever steps it calls
        ``expire``.
        """
        self._held = True
        self._disarm()

    def release(self) -> None:
        """The machine's clock runs by itself again."""
        self._held = False
        self.kick()

    def _on_timer(self) -> None:
        self._timer = None
        self.expire()
        self.kick()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Stop timers and interrupts."""
        self._closed = True
        self._disarm()
