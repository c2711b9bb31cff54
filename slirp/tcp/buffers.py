"""One cap on all bytes that the NAT holds for its guests (``buffers=``), shared by every flow.

A flow adds to ``used`` what it keeps (data from the host until the guest acknowledged it; data from the
guest that the host socket does not take yet) and subtracts it on release. ``room`` says how much one flow
may plan with: a quarter of what is free, so that windows shrink smoothly as the memory fills and no
single flow takes it all.
"""

from __future__ import annotations

DEFAULT_CAP = 64 << 20


class Buffers:
    """Bytes held, and their cap. Plain ints: read and written on the data path."""

    __slots__ = ("cap", "used")

    def __init__(self, cap: int = DEFAULT_CAP) -> None:
        self.cap = cap
        self.used = 0

    def scarce(self) -> bool:
        """Whether less than an eighth is free."""
        return self.cap - self.used < self.cap >> 3

    def room(self) -> int:
        """Bytes that one flow may plan with now; 0 when full."""
        free = self.cap - self.used
        return free >> 2 if free > 0 else 0
