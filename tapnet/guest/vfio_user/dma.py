"""A card's DMA engine, driven over the memory that a vfio-user client offers.

    card.dma() ─ ("read", address, length) ─► mapped or by descriptor: at once
                                            ─► by message: DMA_READ goes out, its answer resumes the engine

One engine at a time, one message at a time. Nothing here waits: QEMU's CPU holds its lock while it waits for the answer to
a register access, and serves our messages only after that, so the answer goes first.

An access that crosses regions goes in pieces. Holes, regions without the permission and errors read all ones and lose
what is written, as does everything while the function is no bus master.

Limits: ``ROUNDS`` engine runs for one call of ``drive``, ``dma.MAX_OPS`` operations for one run; a run that wants more is
stopped and counted. A client that never answers leaves its own card's engine waiting, until it resets the card or goes.

Ref: as ``wire``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nic_models.bus.dma import MAX_OPS
from nic_models.bus.pci import PciFunction

from . import wire
from .memory import GuestMemory
from .wire import Message, ProtocolError

ROUNDS = 64
CHUNK = 1 << 16  # bytes of one message, if the client takes that much


class Dma:
    """Drives one function's card. ``ask`` sends a message; ``chunk`` bytes of data in one at most."""

    def __init__(self, function: PciFunction, memory: GuestMemory, ask: Callable[[bytes], None]) -> None:
        self.function, self.memory, self.ask = function, memory, ask
        self.chunk = CHUNK
        self.messages = self.stopped = 0  # counters
        self.master = hasattr(function.card, "dma")
        self._engine: Any = None
        self._transfer: _Transfer | None = None
        self._ops = 0
        self._next_id = 0

    @property
    def busy(self) -> bool:
        """Whether an engine waits for an answer."""
        return self._engine is not None

    def drive(self) -> None:
        """Run the card's engine as far as it goes without waiting."""
        if not self.master or self._engine is not None:
            return
        card: Any = self.function.card
        for _ in range(ROUNDS):
            if not card.dma_pending:
                return
            self._engine = card.dma()
            self._ops = 0
            self._step(None)
            if self._engine is not None:
                return
        self.stopped += 1

    def stop(self) -> None:
        """The card is reset: forget the engine; an answer that is still to come means nothing."""
        if self._engine is not None:
            self._engine.close()
            self._engine = self._transfer = None

    def answered(self, message: Message) -> None:
        """An answer to a message of ours. Raises ProtocolError."""
        transfer = self._transfer
        if transfer is None or message.id != transfer.id:
            return  # of an engine that a reset has ended
        reading = transfer.data is None
        if message.command != (wire.DMA_READ if reading else wire.DMA_WRITE):
            raise ProtocolError(f"an answer to command {message.command} that was not asked")
        count = transfer.asked
        if message.flags & wire.ERROR:
            transfer.take(b"\xff" * count, count)
        elif reading and len(message.body) != wire.DMA.size + count:
            raise ProtocolError("DMA_READ answer of the wrong size")
        else:
            transfer.take(message.body[wire.DMA.size :], count)
        if self._advance(transfer):
            self._transfer = None
            self._step(transfer.result())
            self.drive()

    def _step(self, answer: bytes | None) -> None:
        engine = self._engine
        find = self.memory.find
        master = self.function.bus_master
        try:
            op = engine.send(answer)
            while True:
                self._ops += 1
                if self._ops > MAX_OPS:
                    self.stopped += 1
                    break
                address = op[1]
                if op[0] == "read":
                    data, length = None, op[2]
                else:
                    data = op[2]
                    length = len(data)
                region, reach = find(address)
                if not master:
                    op = engine.send(b"\xff" * length if data is None else None)
                elif region is not None and reach >= length and region.local:  # the ordinary case
                    if data is None:
                        op = engine.send(region.read(address - region.start, length))
                    else:
                        if region.prot & wire.MAP_WRITE:
                            region.write(address - region.start, data)
                        op = engine.send(None)
                else:
                    transfer = _Transfer(address, length, data)
                    if not self._advance(transfer):
                        self._transfer = transfer
                        return
                    op = engine.send(transfer.result())
        except StopIteration:
            pass
        engine.close()
        self._engine = None

    def _advance(self, transfer: _Transfer) -> bool:
        """Carry a transfer on over local regions and holes; True when it is whole, False: a message is out."""
        data = transfer.data
        needed = wire.MAP_READ if data is None else wire.MAP_WRITE
        while transfer.done < transfer.length:
            at = transfer.address + transfer.done
            region, reach = self.memory.find(at)
            count = min(reach, transfer.length - transfer.done)
            if region is None or not region.prot & needed:
                transfer.take(b"\xff" * count, count)
            elif not region.local:
                transfer.asked = min(count, self.chunk)
                self._ask(transfer, at)
                return False
            elif data is None:
                transfer.take(region.read(at - region.start, count), count)
            else:
                region.write(at - region.start, data[transfer.done : transfer.done + count])
                transfer.take(b"", count)
        return True

    def _ask(self, transfer: _Transfer, at: int) -> None:
        self._next_id = transfer.id = (self._next_id + 1) & 0xFFFF
        body = wire.DMA.pack(at, transfer.asked)
        command = wire.DMA_READ
        if transfer.data is not None:
            command = wire.DMA_WRITE
            body += transfer.data[transfer.done : transfer.done + transfer.asked]
        self.messages += 1
        self.ask(wire.request(transfer.id, command, body))


class _Transfer:
    """One DMA operation that goes over several regions or by messages. ``data`` None: a read."""

    __slots__ = ("_parts", "address", "asked", "data", "done", "id", "length")

    def __init__(self, address: int, length: int, data: bytes | None) -> None:
        self.address, self.length, self.data = address, length, data
        self.done = self.asked = self.id = 0
        self._parts: list[bytes] = []

    def take(self, data: bytes, count: int) -> None:
        """``count`` bytes further."""
        self.done += count
        if self.data is None:
            self._parts.append(data)

    def result(self) -> bytes | None:
        """What the engine is sent."""
        return b"".join(self._parts) if self.data is None else None
