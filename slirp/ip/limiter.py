"""The token bucket of ICMP errors: ``BURST`` at once, ``PER_SECOND`` for long.

Ref: RFC 1812 4.3.2.8; RFC 4443 2.4 (f).
"""

from __future__ import annotations

SECOND = 1_000_000_000
BURST = 100
PER_SECOND = 100


class Limiter:
    """Allowance, kept in nanoseconds."""

    __slots__ = ("_burst", "_rate", "_refilled", "_tokens")

    def __init__(self, now: int, burst: int = BURST, rate: int = PER_SECOND) -> None:
        self._burst = burst * SECOND
        self._rate = rate
        self._tokens = self._burst
        self._refilled = now

    def take(self, now: int) -> bool:
        """Whether one more may go out now."""
        tokens = min(self._burst, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
        allowed = tokens >= SECOND
        self._tokens = tokens - SECOND if allowed else tokens
        return allowed
