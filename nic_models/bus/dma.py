"""Bus-master DMA: a card's engine is a generator, its owner moves the bytes.

The engine never runs inside ``read`` or ``write``. After each call into a bus-mastering card (access,
``receive``, ``tx_ready``, ``run``) the owner looks at ``dma_pending``; if it is set, it takes ``dma()`` and
drives that:

    op = ("read", address, length)   the owner sends the ``bytes`` back: ``data = yield op``
    op = ("write", address, data)    the owner sends None back

Where guest RAM is local or mapped, ``run_to_end`` does that at once, before the access is answered. Where it
is reached by messages (vfio-user without a shared file), the owner keeps the generator and sends each answer
as it comes. While one generator of a card is running ``dma()`` is not called again.

Limit: ``MAX_OPS`` operations in one run; an engine that wants more (a descriptor loop that a guest closed) is
stopped and the run reported as unfinished.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal, Protocol, TypeAlias

MAX_OPS = 65536

ReadOp: TypeAlias = tuple[Literal["read"], int, int]
WriteOp: TypeAlias = tuple[Literal["write"], int, bytes]
Op: TypeAlias = ReadOp | WriteOp
Engine: TypeAlias = Generator[Op, bytes | None, None]


class Memory(Protocol):
    """Guest memory as a bus master sees it, physical addresses."""

    def read(self, address: int, length: int) -> bytes:
        """``length`` bytes; all ones where nothing answers."""

    def write(self, address: int, data: bytes) -> None:
        """Store ``data``; lost where nothing answers."""


class BusMaster(Protocol):
    """What a card with a DMA engine offers beside ``card.Card``."""

    dma_pending: bool

    def dma(self) -> Engine:
        """The engine for what is pending now; it clears ``dma_pending`` when nothing is left to do."""


def run_to_end(engine: Engine, memory: Memory, max_ops: int = MAX_OPS) -> bool:
    """Drive ``engine`` against local memory. False: stopped after ``max_ops`` operations."""
    try:
        op = next(engine)
        for _ in range(max_ops):
            if op[0] == "read":
                op = engine.send(memory.read(op[1], op[2]))
            else:
                memory.write(op[1], op[2])
                op = engine.send(None)
    except StopIteration:
        return True
    engine.close()
    return False
