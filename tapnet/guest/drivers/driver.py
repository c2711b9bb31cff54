"""The contract of a register-level driver: see the package's text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from nic_models.bus.machine import Location, Machine

Deliver = Callable[[bytes], Any]


class DriverError(Exception):
    """No such card at that place, or it does not behave as one."""


class Driver(Protocol):
    """What a driver offers to the network stack above it.

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
        """Whether the card last saw a carrier."""

    def open(self) -> None:
        """Start the card; frames flow. Idempotent."""

    def close(self) -> None:
        """Stop the card; waiting transmits are dropped. Idempotent."""

    def transmit(self, frame: bytes) -> bool:
        """Send a frame of 14..1518 bytes without FCS. False: not taken, ``writable()`` follows."""

    def interrupt(self) -> None:
        """Serve the card; bounded. To be called again while the line stays high."""

    def resume(self) -> None:
        """Frames can be delivered again after ``deliver`` answered False."""

    def set_filter(self, promiscuous: bool, multicast: Sequence[bytes] | None) -> None:
        """Which frames to receive beside own and broadcast; ``multicast`` None: all groups."""

    def set_address(self, mac: bytes) -> None:
        """Another station address, until the card is probed anew."""

    def next_deadline(self) -> int | None:
        """When ``run`` is due, ns; None: never."""

    def run(self, now: int) -> None:
        """Let timers expire."""


class DriverFactory(Protocol):
    """Probes the card at ``location`` (None: the first that matches). Raises DriverError.

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
