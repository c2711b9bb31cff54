"""This file is the contract of a register-level driver; the package's docstring explains how one is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from nic_models.bus.machine import Location, Machine

Deliver = Callable[[bytes], Any]


class DriverError(Exception):
    """There is no such card at that place, or it does not behave as one."""


class Driver(Protocol):
    """A driver offers these attributes and methods to the network stack above it.

    mac       station address as read from the card
    irq       ISA line that the card interrupts on
    counters  frames by reason, JSON-able
    link      whether the card last saw a carrier
    """

    mac: bytes
    irq: int
    counters: dict[str, int]

    @property
    def link(self) -> bool:
        """Tell whether the card last saw a carrier."""

    def open(self) -> None:
        """Start the card, so that frames flow. Idempotent."""

    def close(self) -> None:
        """Stop the card and drop frames that wait to be sent. Idempotent."""

    def transmit(self, frame: bytes) -> bool:
        """Send a frame of 14..1518 bytes without FCS. False means that it was not taken, and that
        ``writable()`` will be called.
        """

    def interrupt(self) -> None:
        """Serve the card, for a bounded number of rounds. The owner calls it again while the line stays high."""

    def resume(self) -> None:
        """Deliver frames again, after ``deliver`` has answered False."""

    def set_filter(self, promiscuous: bool, multicast: Sequence[bytes] | None) -> None:
        """Choose which frames to receive besides unicast ones to ``mac`` and broadcasts; ``multicast`` None
        accepts all groups.
        """

    def set_address(self, mac: bytes) -> None:
        """Change the station address until the card is probed again."""

    def next_deadline(self) -> int | None:
        """Return the time at which ``run`` is due, in ns; None if no timer runs."""

    def run(self, now: int) -> None:
        """Handle the timers that are due at ``now`` (ns)."""


class DriverFactory(Protocol):
    """A driver factory probes the card at ``location`` (None: the first that matches). Raises DriverError.

    deliver   takes a received frame; answering False (not None) leaves it in the card until ``resume()``
    writable  called when ``transmit``, having answered False, takes frames again
    now       the machine's clock, ns
    """

    def __call__(
        self,
        machine: Machine,
        location: Location | None,
        *,
        deliver: Deliver,
        writable: Callable[[], None],
        now: Callable[[], int],
    ) -> Driver: ...
