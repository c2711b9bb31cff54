"""The machine's clock shows real time until a client steps it; then it is virtual until it is released.

    real() ─► Clock.now() ─► cards and drivers' deadlines
    clock_step, clock_set of the register bus ─► freeze, advance ─► Clock.now()

It begins at 0 when it is made and never goes back: ``freeze`` stops it where it is, ``release`` lets it run on
from where it stands. The NAT and everything else that faces the host stays on real time.

Units: nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """This clock counts nanoseconds from 0 and can be frozen and stepped. ``real()`` is in nanoseconds and
    never goes back.
    """

    def __init__(self, real: Callable[[], int]) -> None:
        self.real = real
        self._origin = real()
        self._frozen: int | None = None

    @property
    def virtual(self) -> bool:
        """Tell whether time passes only by ``advance``."""
        return self._frozen is not None

    def now(self) -> int:
        """Return the machine's time in nanoseconds since the clock was made."""
        return self.real() - self._origin if self._frozen is None else self._frozen

    def freeze(self) -> int:
        """Stop the clock and return the time at which it stands. Idempotent."""
        if self._frozen is None:
            self._frozen = self.now()
        return self._frozen

    def advance(self, to: int) -> None:
        """Set the clock to ``to`` and keep it frozen. A time that is already past changes nothing."""
        self._frozen = max(self.freeze(), to)

    def release(self) -> None:
        """Let the clock run on from the time it shows. Idempotent."""
        if self._frozen is not None:
            self._origin = self.real() - self._frozen
            self._frozen = None
