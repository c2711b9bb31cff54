"""General purpose timer of the RTL8139: TCTR counts PCI clocks, TimerInt raises ISR.TimeOut.

TCTR is 32 bits wide, one tick per 30 ns, and starts at 0 with reset and with any write. Each time it reaches
TimerInt (not 0), TimeOut is set; it comes round again after 2^32 ticks, 129 s.

Ref: RTL8139C(L) data sheet, TCTR (0x48), TimerInt (0x54).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..snapshot import number, optional

TICK_NS = 30  # a 33 MHz PCI clock
WRAP_NS = TICK_NS << 32


class Timer:
    """TCTR and TimerInt. ``expired`` is called when TCTR has reached TimerInt."""

    __slots__ = ("due", "expired", "now", "start", "target")

    def __init__(self, now: Callable[[], int], expired: Callable[[], None]) -> None:
        self.now = now
        self.expired = expired
        self.reset()

    def reset(self) -> None:
        """TCTR from 0, no TimerInt."""
        self.start = self.now()
        self.target = 0
        self.due: int | None = None

    def read(self) -> int:
        """TCTR."""
        return (self.now() - self.start) // TICK_NS & 0xFFFFFFFF

    def clear(self, _value: int, _mask: int) -> None:
        """Any write to TCTR."""
        self.start = self.now()
        self._arm()

    def write(self, value: int, mask: int) -> None:
        """TimerInt."""
        self.target = self.target & ~mask | value & mask
        self._arm()

    def _arm(self) -> None:
        if not self.target:
            self.due = None
            return
        ticks = (self.now() - self.start) // TICK_NS
        due = (ticks & ~0xFFFFFFFF) + self.target
        if due <= ticks:
            due += 1 << 32
        self.due = self.start + due * TICK_NS

    def run(self, now: int) -> None:
        """Expire if it is time."""
        due = self.due
        if due is not None and now >= due:
            self.due = due + ((now - due) // WRAP_NS + 1) * WRAP_NS
            self.expired()

    def snapshot(self) -> dict[str, Any]:
        """JSON-able state."""
        return {"start": self.start, "target": self.target, "due": self.due}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        self.start = number(state, "start", 1 << 80, -(1 << 80))
        self.target = number(state, "target", 0xFFFFFFFF)
        self.due = optional(state, "due", 1 << 80)
