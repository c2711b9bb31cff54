"""The machine's clock: real time until somebody steps it, then virtual until it is let go.

    real() ─► Clock.now() ─► cards and drivers' deadlines
    clock_step, clock_set of the register bus ─► freeze, advance ─► Clock.now()

It begins at 0 when it is made and never goes back: ``freeze`` stops it where it is, ``release`` lets it run on
from where it stands. The NAT and everything else that faces the host stays on real time.

Units: nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """See the module's text. ``real()`` is in nanoseconds and never goes back."""

    def __init__(self, real: Callable[[], int]) -> None:
        self.real = real
        self._origin = real()
        self._frozen: int | None = None

    @property
    def virtual(self) -> bool:
        """Whether time passes only by ``advance``."""
        return self._frozen is not None

    def now(self) -> int:
        """The machine's time."""
        return self.real() - self._origin if self._frozen is None else self._frozen

    def freeze(self) -> int:
        """Stop; gives the time. Idempotent."""
        if self._frozen is None:
            self._frozen = self.now()
        return self._frozen

    def advance(self, to: int) -> None:
        """Frozen: go on to ``to``. A time that is past changes nothing."""
        self._frozen = max(self.freeze(), to)

    def release(self) -> None:
        """Run on from here. Idempotent."""
        if self._frozen is not None:
            self._origin = self.real() - self._frozen
            self._frozen = None
