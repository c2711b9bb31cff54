"""The contract between a card and the machine that it is plugged into.

A card is created with callables and never knows what is behind them:

    tx(frame, vnet=b"") -> bool   put a frame on the wire; False: not taken, the transmitter stays busy until
                                  ``tx_ready()`` is called
    rx_ready()                    the card, which had refused a frame, can receive again
    set_irq(level)                the interrupt line; only recorded, acted on after the access has returned
    memory                        the DMA port (``dma.Memory``), None where the card is no bus master
    now() -> int                  nanoseconds of the machine's clock (virtual under qtest)

Rules
* ``read`` and ``write`` never raise for what a driver did wrong, never block, and never run DMA: the
  engine of a bus master is a generator (``dma()``) that the owner drives after the access (``bus/dma.py``).
* A transmitted frame is immutable ``bytes`` copied out of NIC memory, without FCS.
* ``region`` is the BAR number of a PCI card (its I/O window is 0 on all of ours), 0 on ISA.
* A 16- or 32-bit access is one access of the bus; what it means is the card's business.
"""

from __future__ import annotations

from typing import Any, Protocol

from .rxfilter import RxFilter


class Card(Protocol):
    """One NIC on its board, whatever the bus."""

    model: str
    mac: bytes
    tx_delay: bool  # a frame takes its time on a wire of the card's speed, then it leaves and the transmit completes

    def read(self, region: int, offset: int, size: int) -> int:
        """Bus read of 1, 2 or 4 bytes at ``offset`` of ``region``."""

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """Bus write of 1, 2 or 4 bytes."""

    def read_block(self, region: int, offset: int, size: int, count: int) -> bytes:
        """String input (``rep ins``): ``count`` reads of ``size`` bytes at one ``offset``, little-endian."""

    def write_block(self, region: int, offset: int, size: int, data: bytes) -> None:
        """String output (``rep outs``): ``len(data) // size`` writes at one ``offset``."""

    def receive(self, frame: bytes, vnet: bytes = b"") -> bool:
        """A frame from the wire, without FCS. False: not now; ``rx_ready`` follows."""

    def tx_ready(self) -> None:
        """The wire, which had answered False to ``tx``, takes frames again."""

    def set_link(self, up: bool) -> None:
        """The cable was plugged or pulled."""

    def reset(self) -> None:
        """Hardware reset (RESET#, RSTDRV)."""

    def rx_filter(self) -> RxFilter:
        """What the receiver lets pass, for monitors."""

    def next_deadline(self) -> int | None:
        """When ``run`` wants to be called, in nanoseconds of the machine's clock; None: never."""

    def run(self, now: int) -> None:
        """Let timers of the card expire."""

    def snapshot(self) -> dict[str, Any]:
        """The whole state as JSON-able data."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``snapshot()``'s data. Raises ValueError if it is not such data.

        A frame that the wire had not taken waits for ``tx_ready``: another wire's owner calls that once.
        """
