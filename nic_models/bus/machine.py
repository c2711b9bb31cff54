"""The machine that cards are plugged into: port space, memory space, IRQ lines, guest RAM. No CPU, no clock,
no I/O.

    guest access ─► io_read / io_write / *_block, mem_read / mem_write ─► card.read(region, offset, size) ...
    card.set_irq ─► PIRQ or ISA line ─► on_irq(irq, level), at each change of a line's level

Kinds: ``pc`` (PCI bus with host bridge 00:00.0 and PIIX3 00:01.0, and ISA slots) and ``isapc`` (ISA slots
only). An access that nobody claims reads all ones and writes nothing. An access that straddles two devices is
split into bytes. The level of a shared line is the or of its sources. ``on_irq`` is called from inside
accesses and from ``receive``: it may only record the level (and schedule); the owner acts after the call has
returned.

Bus masters: after every call into a card that has a DMA engine, the machine drives it to its end against
guest RAM, if the function's bus-master bit is set (``dma``). DMA reaches RAM only. Use ``Slot.receive``,
``Slot.tx_ready`` (not the card's) as what the wire calls, so that this happens there too.

Limits: ports 0..0xffff, RAM up to ``MAX_RAM``, ``DMA_ROUNDS`` engine runs per access.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from ..card import Card
from ..snapshot import number, section, unpack
from ..snapshot import pack as pack_bytes
from .chipset import CONFIG_ADDRESS, CONFIG_END, PciBus
from .dma import Memory, run_to_end
from .pci import PciFunction

DEFAULT_RAM = 64 << 20
MAX_RAM = 0xE0000000  # below the PCI hole
DMA_ROUNDS = 64
IRQS = 16
_CHUNK = 1 << 16  # RAM is saved in pieces of this size, zero pieces are not
_WORD = 4


@dataclass(frozen=True, slots=True)
class PciLocation:
    """A card in a PCI slot of bus 0, function 0."""

    slot: int

    def __str__(self) -> str:
        return f"PCI slot {self.slot:#x}"


@dataclass(frozen=True, slots=True)
class IsaLocation:
    """A card at ISA ports ``iobase`` .. ``iobase + ports - 1`` on line ``irq``."""

    iobase: int
    irq: int
    ports: int = 32

    def __str__(self) -> str:
        return f"ISA ports {self.iobase:#x}-{self.iobase + self.ports - 1:#x}, IRQ {self.irq}"


Location = PciLocation | IsaLocation


class Device(Protocol):
    """What sits on the port space."""

    def read(self, region: int, offset: int, size: int) -> int:
        """See ``card.Card``."""

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """See ``card.Card``."""

    def read_block(self, region: int, offset: int, size: int, count: int) -> bytes:
        """See ``card.Card``."""

    def write_block(self, region: int, offset: int, size: int, data: bytes) -> None:
        """See ``card.Card``."""


class Window(NamedTuple):
    """A claimed range of ports or memory: the four calls, then where it lies."""

    read: Callable[[int, int, int], int]
    write: Callable[[int, int, int, int], None]
    read_block: Callable[[int, int, int, int], bytes]
    write_block: Callable[[int, int, int, bytes], None]
    region: int
    base: int
    end: int


class Ram:
    """Guest RAM as bus masters see it: all ones and nothing outside."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.cells = mmap.mmap(-1, max(size, mmap.PAGESIZE))  # zero pages cost nothing until written

    def read(self, address: int, length: int) -> bytes:
        """``length`` bytes of physical memory."""
        if address >= 0 and address + length <= self.size:
            return self.cells[address : address + length]
        if not 0 <= address < self.size:
            return b"\xff" * length
        return self.cells[address : self.size] + b"\xff" * (address + length - self.size)

    def write(self, address: int, data: bytes) -> None:
        """Store into physical memory."""
        if not 0 <= address < self.size:
            return
        data = data[: self.size - address]
        self.cells[address : address + len(data)] = data

    def snapshot(self) -> dict[str, str]:
        """Pieces that are not all zero, by their address in hexadecimal."""
        state = {}
        for address in range(0, self.size, _CHUNK):
            piece = self.cells[address : min(address + _CHUNK, self.size)]
            if piece.count(0) != len(piece):
                state[f"{address:x}"] = pack_bytes(piece)
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        pieces = {}
        for name in state:
            try:
                address = int(name, 16)
            except ValueError:
                address = -1
            if not 0 <= address < self.size or address % _CHUNK:
                raise ValueError(f"snapshot: no RAM at {name!r}")
            pieces[address] = unpack(state, name, min(_CHUNK, self.size - address))
        for address in range(0, self.size, _CHUNK):
            if address in pieces:
                self.write(address, pieces[address])
            elif self.cells[address : min(address + _CHUNK, self.size)].strip(b"\0"):
                self.write(address, bytes(min(_CHUNK, self.size - address)))


class _GatedMemory:
    """RAM behind a function's bus-master bit."""

    def __init__(self, memory: Memory, function: PciFunction) -> None:
        self.memory = memory
        self.function = function

    def read(self, address: int, length: int) -> bytes:
        return self.memory.read(address, length) if self.function.bus_master else b"\xff" * length

    def write(self, address: int, data: bytes) -> None:
        if self.function.bus_master:
            self.memory.write(address, data)


class Slot:
    """A plugged card: the device that the port space calls, and what the wire calls.

    ``receive``, ``tx_ready`` and ``run`` are the card's own where it has no DMA engine.
    """

    def __init__(
        self, name: str, card: Card, location: Location, function: PciFunction | None, ram: Ram
    ) -> None:
        self.name = name
        self.card = card
        self.location = location
        self.function = function
        self.dma_stopped = 0  # engines that did not end within dma.MAX_OPS
        self.dma = hasattr(card, "dma")
        self.memory: Memory = ram if function is None else _GatedMemory(ram, function)
        self.receive: Callable[..., bool] = self._receive if self.dma else card.receive
        self.tx_ready: Callable[[], None] = self._tx_ready if self.dma else card.tx_ready
        self.run: Callable[[int], None] = self._run if self.dma else card.run

    def window(self, region: int, base: int, size: int) -> Window:
        """The card's region at ``base``."""
        device: Device = self if self.dma else self.card
        return Window(
            device.read, device.write, device.read_block, device.write_block, region, base, base + size
        )

    def read(self, region: int, offset: int, size: int) -> int:
        """Access, then DMA."""
        value = self.card.read(region, offset, size)
        self.drive()
        return value

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """Access, then DMA."""
        self.card.write(region, offset, size, value)
        self.drive()

    def read_block(self, region: int, offset: int, size: int, count: int) -> bytes:
        """Access, then DMA."""
        data = self.card.read_block(region, offset, size, count)
        self.drive()
        return data

    def write_block(self, region: int, offset: int, size: int, data: bytes) -> None:
        """Access, then DMA."""
        self.card.write_block(region, offset, size, data)
        self.drive()

    def _receive(self, frame: bytes, vnet: bytes = b"") -> bool:
        taken = self.card.receive(frame, vnet)
        self.drive()
        return taken

    def _tx_ready(self) -> None:
        self.card.tx_ready()
        self.drive()

    def _run(self, now: int) -> None:
        self.card.run(now)
        self.drive()

    def drive(self) -> None:
        """Run the card's DMA engine while it has work."""
        card: Any = self.card
        for _ in range(DMA_ROUNDS):
            if not card.dma_pending:
                return
            if not run_to_end(card.dma(), self.memory):
                self.dma_stopped += 1
                return


def _ignore(_irq: int, _level: bool) -> None:
    pass


class Machine:
    """See the module's text. ``on_irq(irq, level)`` is called when an ISA IRQ line changes."""

    def __init__(
        self,
        kind: Literal["pc", "isapc"] | str = "pc",
        ram_size: int = DEFAULT_RAM,
        *,
        now: Callable[[], int],
        on_irq: Callable[[int, bool], None] = _ignore,
    ) -> None:
        if kind not in ("pc", "isapc"):
            raise ValueError(f"-M {kind}: machines are pc, isapc")
        if not 0 <= ram_size <= MAX_RAM:
            raise ValueError(f"-m {ram_size}: RAM is 0..{MAX_RAM} bytes")
        self.kind = kind
        self.now = now
        self.on_irq = on_irq
        self.ram = Ram(ram_size)
        self.slots: list[Slot] = []
        self.irq_levels = [False] * IRQS
        self._sources: list[set[str]] = [set() for _ in range(IRQS)]
        self._ports: dict[int, Window] = {}
        self._memory_windows: list[Window] = []
        self.pci: PciBus | None = None
        if kind == "pc":
            self.pci = PciBus(self.set_line, self._remap, self.reset)
        self._remap()

    # -- plugging --------------------------------------------------------------------------------------------

    def plug_pci(self, function: PciFunction, addr: int | None = None, name: str = "") -> Slot:
        """Put a PCI card into slot ``addr`` or the first free one. Raises ValueError naming both in a
        conflict.
        """
        if self.pci is None:
            raise ValueError(f"{name or function.card.model}: the {self.kind} machine has no PCI bus")
        name = name or self._name(function.card)
        if addr is not None and addr in self.pci.functions:
            other = [slot.name for slot in self.slots if slot.location == PciLocation(addr)]
            raise ValueError(f"{name}: addr={addr:#x}: PCI slot is taken by {(other or ['the chipset'])[0]}")
        number_ = self.pci.plug(function, addr)
        slot = Slot(name, function.card, PciLocation(number_), function, self.ram)
        self.slots.append(slot)
        self._remap()
        return slot

    def plug_isa(self, card: Card, iobase: int, irq: int, ports: int = 32, name: str = "") -> Slot:
        """Put an ISA card at ``iobase`` on ``irq``; the card's ``set_irq`` must be ``isa_irq(irq, name)``.

        Raises ValueError naming both cards when ports or line are taken.
        """
        name = name or self._name(card)
        if not 0x100 <= iobase <= 0x10000 - ports or iobase % ports:
            raise ValueError(f"{name}: iobase={iobase:#x}: bases are multiples of {ports:#x} from 0x100 on")
        if irq not in (3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15):
            raise ValueError(f"{name}: irq={irq}: ISA cards use 3-7, 9-12, 14 or 15")
        for slot in self.slots:
            other = slot.location
            if isinstance(other, IsaLocation):
                if iobase < other.iobase + other.ports and other.iobase < iobase + ports:
                    raise ValueError(f"{name}: iobase={iobase:#x}: ports are taken by {slot.name} ({other})")
                if irq == other.irq:
                    raise ValueError(f"{name}: irq={irq}: line is taken by {slot.name} ({other})")
        if self.pci is not None and iobase < CONFIG_END and iobase + ports > CONFIG_ADDRESS:
            raise ValueError(f"{name}: iobase={iobase:#x}: ports are taken by the PCI configuration")
        slot = Slot(name, card, IsaLocation(iobase, irq, ports), None, self.ram)
        self.slots.append(slot)
        self._remap()
        return slot

    def unplug(self, slot: Slot) -> None:
        """Pull a card out, while the machine runs too: its line falls, its ports and addresses read all ones."""
        self.slots.remove(slot)
        location = slot.location
        if isinstance(location, IsaLocation):
            self.set_line(location.irq, slot.name, False)
        elif self.pci is not None:
            self.pci.unplug(location.slot)
        self._remap()

    def isa_irq(self, irq: int, name: str) -> Callable[[bool], None]:
        """The ``set_irq`` callable for an ISA card."""
        return lambda level: self.set_line(irq, name, level)

    def _name(self, card: Card) -> str:
        return f"{card.model}.{sum(slot.card.model == card.model for slot in self.slots)}"

    def boot(self, slot: Slot | None = None) -> None:
        """Assign addresses and interrupt lines as firmware does: of ``slot`` alone, if it is plugged in later. Does
        nothing on an ISA machine.
        """
        if self.pci is not None and slot is None:
            self.pci.boot()
        elif self.pci is not None and slot is not None and isinstance(slot.location, PciLocation):
            self.pci.boot_slot(slot.location.slot)

    def _remap(self) -> None:
        """Build the port and memory maps. Fixed ports win, then ISA cards, then PCI slots in order."""
        ports: dict[int, Window] = {}
        memory: list[Window] = []
        if self.pci is not None:
            pci = self.pci
            window = Window(
                pci.read, pci.write, pci.read_block, pci.write_block, 0, CONFIG_ADDRESS, CONFIG_END
            )
            ports.update(dict.fromkeys(range(window.base, window.end), window))
        windows = []
        for slot in self.slots:
            location = slot.location
            if isinstance(location, IsaLocation):
                windows.append((0, slot.window(0, location.iobase, location.ports)))
            elif slot.function is not None:
                for index, bar in enumerate(slot.function.bars):
                    base = slot.function.address(index)
                    if base is None:
                        continue
                    window = slot.window(index, base, bar.size)
                    if bar.kind == "io":
                        windows.append((1 + location.slot, window))
                    else:
                        memory.append(window)
        for _, window in sorted(windows, key=lambda item: item[0]):
            for port in range(window.base, window.end):
                ports.setdefault(port, window)
        self._ports = ports
        self._memory_windows = memory

    # -- IRQ lines -------------------------------------------------------------------------------------------

    def set_line(self, irq: int, source: str, level: bool) -> None:
        """``source`` asserts or releases ISA line ``irq``."""
        sources = self._sources[irq]
        (sources.add if level else sources.discard)(source)
        if bool(sources) != self.irq_levels[irq]:
            self.irq_levels[irq] = bool(sources)
            self.on_irq(irq, bool(sources))

    # -- port space ------------------------------------------------------------------------------------------

    def io_read(self, port: int, size: int) -> int:
        """Port read of 1, 2 or 4 bytes."""
        window = self._ports.get(port)
        if window is not None and port + size <= window[6]:
            return window[0](window[4], port - window[5], size)
        if size == 1:
            return 0xFF
        return self._split_read(port, size)

    def io_write(self, port: int, size: int, value: int) -> None:
        """Port write of 1, 2 or 4 bytes."""
        window = self._ports.get(port)
        if window is not None and port + size <= window[6]:
            window[1](window[4], port - window[5], size, value)
        elif size > 1:
            for index in range(size):
                self.io_write(port + index & 0xFFFF, 1, value >> 8 * index & 0xFF)

    def io_read_block(self, port: int, size: int, count: int) -> bytes:
        """String input: ``count`` reads of ``size`` bytes at ``port``, little-endian."""
        window = self._ports.get(port)
        if window is not None and port + size <= window[6]:
            return window[2](window[4], port - window[5], size, count)
        return b"".join(self.io_read(port, size).to_bytes(size, "little") for _ in range(count))

    def io_write_block(self, port: int, size: int, data: bytes) -> None:
        """String output: ``len(data) // size`` writes of ``size`` bytes at ``port``."""
        window = self._ports.get(port)
        if window is not None and port + size <= window[6]:
            window[3](window[4], port - window[5], size, data)
            return
        for index in range(0, len(data) - size + 1, size):
            self.io_write(port, size, int.from_bytes(data[index : index + size], "little"))

    def _split_read(self, port: int, size: int) -> int:
        value = 0
        for index in range(size):
            value |= self.io_read(port + index & 0xFFFF, 1) << 8 * index
        return value

    # -- memory space ----------------------------------------------------------------------------------------

    def mem_read(self, address: int, length: int) -> bytes:
        """Read RAM, or registers of memory BARs: 1, 2 or 4 bytes aligned are one access, else it is cut into
        such.
        """
        if address >= 0 and address + length <= self.ram.size:
            return self.ram.cells[address : address + length]
        parts = []
        while length > 0:
            window, size = self._memory_piece(address, length)
            if window is None:
                parts.append(self.ram.read(address, size))
            else:
                value = window.read(window.region, address - window.base, size)
                parts.append(value.to_bytes(size, "little"))
            address += size
            length -= size
        return b"".join(parts)

    def mem_write(self, address: int, data: bytes) -> None:
        """Write RAM or registers, as ``mem_read``."""
        length = len(data)
        if address >= 0 and address + length <= self.ram.size:
            self.ram.cells[address : address + length] = data
            return
        done = 0
        while done < length:
            window, size = self._memory_piece(address + done, length - done)
            piece = data[done : done + size]
            if window is None:
                self.ram.write(address + done, piece)
            else:
                offset = address + done - window.base
                window.write(window.region, offset, size, int.from_bytes(piece, "little"))
            done += size

    def _memory_piece(self, address: int, length: int) -> tuple[Window | None, int]:
        """Who answers at ``address``, and for how many bytes in one access."""
        nearest = address + length
        for window in self._memory_windows:
            if window.base <= address < window.end:
                size = _WORD
                while size > length or address % size or address + size > window.end:
                    size //= 2
                return window, size
            if address < window.base < nearest:
                nearest = window.base
        if address < self.ram.size < nearest:
            nearest = self.ram.size
        return None, nearest - address

    # -- owner -----------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """The earliest deadline of all cards, ns."""
        deadlines = [d for slot in self.slots if (d := slot.card.next_deadline()) is not None]
        return min(deadlines) if deadlines else None

    def run(self, now: int) -> None:
        """Let timers of all cards expire."""
        for slot in self.slots:
            slot.run(now)

    def reset(self) -> None:
        """System reset: bus, chipset, cards. RAM keeps its content."""
        if self.pci is not None:
            self.pci.reset()
        for slot in self.slots:
            if slot.function is None:
                slot.card.reset()

    def snapshot(self) -> dict[str, Any]:
        """State of the machine and its cards as JSON-able data."""
        state: dict[str, Any] = {"kind": self.kind, "ram_size": self.ram.size, "ram": self.ram.snapshot()}
        state["isa"] = {slot.name: slot.card.snapshot() for slot in self.slots if slot.function is None}
        if self.pci is not None:
            state["pci"] = self.pci.snapshot()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the data of an equal machine. Raises ValueError."""
        if section({"state": state}, "state").get("kind") != self.kind:
            raise ValueError(f"snapshot: not of a {self.kind} machine")
        if number(state, "ram_size", MAX_RAM) != self.ram.size:
            raise ValueError("snapshot: RAM has another size")
        isa = section(state, "isa")
        cards = {slot.name: slot.card for slot in self.slots if slot.function is None}
        if sorted(isa) != sorted(cards):
            raise ValueError("snapshot: other ISA cards are plugged in")
        for name, card in cards.items():
            card.restore(dict(section(isa, name)))
        if self.pci is not None:
            self.pci.restore(section(state, "pci"))
        self.ram.restore(section(state, "ram"))
        self._remap()
