"""A PCnet on a bench: guest RAM, a wire, a clock, and descriptor rings in every software style."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any
from zlib import crc32

from nic_models.bus.dma import run_to_end
from nic_models.bus.pci import PciFunction
from nic_models.pcnet import registers as r
from nic_models.pcnet.pci import BARS, IDENTITY, PcnetPci

MAC = bytes.fromhex("525400123456")
PEER = bytes.fromhex("525400abcdef")
BROADCAST = b"\xff" * 6
RAM = 1 << 20
INIT_BLOCK, RX_RING, TX_RING, RX_BUFFERS, TX_BUFFERS = 0x1000, 0x2000, 0x6000, 0x20000, 0x80000
BUFFER = 1536
OWN, ERR, STP, ENP = r.D_OWN, r.D_ERR, r.D_STP, r.D_ENP


class Memory:
    """RAM that answers ones outside, and counts what it was asked."""

    def __init__(self, size: int = RAM) -> None:
        self.cells = bytearray(size)
        self.ops = 0

    def read(self, address: int, length: int) -> bytes:
        self.ops += 1
        data = bytes(self.cells[address : address + length])
        return data + b"\xff" * (length - len(data))

    def write(self, address: int, data: bytes) -> None:
        self.ops += 1
        end = min(address + len(data), len(self.cells))
        if address < end:
            self.cells[address:end] = data[: end - address]


class Bench:
    """One card. ``out`` is the accessor for CSRs, BCRs; ``sent`` what went to the wire; ``irq`` the pin."""

    def __init__(self, *, memory: Memory | None = None, master: bool = True) -> None:
        self.memory = memory or Memory()
        self.clock = 1_000_000_000
        self.sent: list[bytes] = []
        self.accept = True  # what the wire answers
        self.ready = 0  # rx_ready calls
        self.function = PciFunction(IDENTITY, BARS)
        self.card = PcnetPci(MAC, self.tx, self.rx_ready, self.function.set_irq, lambda: self.clock)
        self.function.card = self.card
        self.card.attach(self.function)
        if master:
            self.function.config_write(4, 2, 7)
        self.style = 2
        self.rx_count = self.tx_count = 0
        self.tx_at = self.rx_at = 0

    # the wire

    def tx(self, frame: bytes, vnet: bytes = b"") -> bool:
        assert isinstance(frame, bytes) and vnet == b""
        if self.accept:
            self.sent.append(frame)
        return self.accept

    def rx_ready(self) -> None:
        self.ready += 1

    def receive(self, frame: bytes) -> bool:
        taken = self.card.receive(frame)
        self.drive()
        return taken

    def open_wire(self) -> None:
        self.accept = True
        self.card.tx_ready()
        self.drive()

    # the bus

    def drive(self, rounds: int = 8) -> None:
        for _ in range(rounds):
            if not self.card.dma_pending:
                return
            assert run_to_end(self.card.dma(), self.memory), "the engine did not end by itself"
        raise AssertionError("the card asks for DMA without end")

    def out(self, offset: int, value: int, size: int = 2) -> None:
        self.card.write(0, offset, size, value)
        self.drive()

    def inp(self, offset: int, size: int = 2) -> int:
        value = self.card.read(0, offset, size)
        self.drive()
        return value

    def csr(self, index: int, value: int | None = None) -> int:
        return self._register(r.RDP, index, value)

    def bcr(self, index: int, value: int | None = None) -> int:
        return self._register(r.WIO_BDP, index, value)

    def _register(self, port: int, index: int, value: int | None) -> int:
        if self.card.bcr[r.BSBC] & r.DWIO:
            port = r.DWIO_BDP if port == r.WIO_BDP else port
            self.out(r.DWIO_RAP, index, 4)
            if value is None:
                return self.inp(port, 4) & 0xFFFF
            self.out(port, value, 4)
            return value
        self.out(r.WIO_RAP, index)
        if value is None:
            return self.inp(port)
        self.out(port, value)
        return value

    @property
    def irq(self) -> bool:
        return self.function.level

    def tick(self, ns: int) -> None:
        """Let time pass, deadline by deadline."""
        end = self.clock + ns
        for _ in range(10_000):
            due = self.card.next_deadline()
            if due is None or due > end:
                break
            self.clock = max(self.clock, due)
            self.card.run(self.clock)
            self.drive()
        else:
            raise AssertionError("deadlines without end")
        self.clock = end

    # rings

    @property
    def entry(self) -> int:
        return 16 if self.style else 8

    def setup(
        self,
        style: int = 2,
        *,
        rlen: int = 2,
        tlen: int = 2,
        mode: int = 0,
        csr4: int = 0x0915,
        ladrf: int = 0,
        padr: bytes = MAC,
        start: int = r.INIT | r.STRT | r.IENA,
        buffer: int = BUFFER,
    ) -> None:
        """Rings of ``1 << len`` descriptors, an initialization block, and the write to CSR0."""
        self.style = style
        self.rx_count, self.tx_count = 1 << rlen, 1 << tlen
        self.rx_at = self.tx_at = 0
        for index in range(self.rx_count):
            self.give(index, buffer)
        for index in range(self.tx_count):
            self.write_descriptor(self.tx_address(index), 0, 0, 0, 0)
        if style:
            block = struct.pack("<HBB6sHQII", mode, rlen << 4, tlen << 4, padr, 0, ladrf, RX_RING, TX_RING)
        else:
            block = struct.pack("<H6sQII", mode, padr, ladrf, RX_RING | rlen << 29, TX_RING | tlen << 29)
        self.memory.cells[INIT_BLOCK : INIT_BLOCK + len(block)] = block
        self.bcr(r.SWS, style)
        self.csr(4, csr4)
        self.csr(1, INIT_BLOCK & 0xFFFF)
        self.csr(2, INIT_BLOCK >> 16)
        self.csr(0, start)

    def rx_address(self, index: int) -> int:
        return RX_RING + index * self.entry

    def tx_address(self, index: int) -> int:
        return TX_RING + index * self.entry

    def write_descriptor(self, at: int, where: int, status: int, size: int, other: int) -> None:
        count = 0xF000 | (-size & 0xFFF)
        if not self.style:
            data = struct.pack("<HHHH", where & 0xFFFF, where >> 16 & 0xFF | status & 0xFF00, count, other)
        elif self.style == 3:
            data = struct.pack("<IIII", other, status << 16 | count, where, 0x55AA55AA)
        else:
            data = struct.pack("<IIII", where, status << 16 | count, other, 0x55AA55AA)
        self.memory.cells[at : at + len(data)] = data

    def descriptor(self, at: int) -> tuple[int, int, int, int]:
        """Buffer, status, size field, other word."""
        if not self.style:
            low, high, count, other = struct.unpack_from("<HHHH", self.memory.cells, at)
            return low | (high & 0xFF) << 16, high & 0xFF00, count, other
        first, second, third, user = struct.unpack_from("<IIII", self.memory.cells, at)
        assert user == 0x55AA55AA
        if self.style == 3:
            first, third = third, first
        return first, second >> 16, second & 0xFFFF, third

    def give(self, index: int, size: int = BUFFER, status: int = OWN, where: int | None = None) -> None:
        """A receive buffer to the chip."""
        where = RX_BUFFERS + index * 0x1000 if where is None else where
        self.write_descriptor(self.rx_address(index), where, status, size, 0)

    def queue(self, *pieces: bytes, status: int = 0, first: int = 0, last: int = 0) -> list[int]:
        """A frame in as many descriptors as pieces; their indices. OWN is set last to first."""
        indices = []
        for number, piece in enumerate(pieces):
            index = (self.tx_at + number) % self.tx_count
            where = TX_BUFFERS + index * 0x1000
            self.memory.cells[where : where + len(piece)] = piece
            word = OWN | status
            if number == 0:
                word |= STP | first
            if number == len(pieces) - 1:
                word |= ENP | last
            self.write_descriptor(self.tx_address(index), where, word, len(piece), 0)
            indices.append(index)
        self.tx_at = (self.tx_at + len(pieces)) % self.tx_count
        return indices

    def demand(self) -> None:
        self.csr(0, r.TDMD | r.IENA)

    def send(self, *pieces: bytes, **options: int) -> list[int]:
        indices = self.queue(*pieces, **options)
        self.demand()
        return indices

    def tx_status(self, index: int) -> int:
        return self.descriptor(self.tx_address(index))[1]

    def rx_status(self, index: int) -> int:
        return self.descriptor(self.rx_address(index))[1]

    def received(self, index: int, size: int) -> bytes:
        where = self.descriptor(self.rx_address(index))[0]
        return bytes(self.memory.cells[where : where + size])

    def mcnt(self, index: int) -> int:
        return self.descriptor(self.rx_address(index))[3] & 0xFFF


def frame(
    size: int = 100, *, to: bytes = MAC, source: bytes = PEER, kind: int = 0x0800, seed: int = 0
) -> bytes:
    """An Ethernet frame of ``size`` bytes, without FCS."""
    body = bytes((seed + index) & 0xFF for index in range(max(0, size - 14)))
    return (to + source + kind.to_bytes(2, "big") + body)[:size]


def with_fcs(data: bytes) -> bytes:
    return data + crc32(data).to_bytes(4, "little")


def started(style: int = 2, **options: Any) -> Bench:
    """A bench whose card runs."""
    bench = Bench()
    bench.setup(style, **options)
    assert bench.csr(0) & (r.IDON | r.STOP) == r.IDON
    bench.csr(0, r.IDON | r.IENA)
    return bench


def every_style(test: Callable[..., None]) -> Callable[..., None]:
    import pytest

    return pytest.mark.parametrize("style", (0, 1, 2, 3))(test)
