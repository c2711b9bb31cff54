"""An RTL8139 in a machine: named in/out helpers, a wire that remembers, a clock that only tests turn.

``Kit`` talks through the machine's port and memory space, as a driver does; its DMA goes to the machine's RAM.
"""

from __future__ import annotations

from struct import pack, unpack
from zlib import crc32

from nic_models.bus.machine import Machine
from nic_models.models import plug
from nic_models.rtl8139 import registers as r

MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("5254006789ab")
BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")
RAM = 1 << 20
RING = 0x40000  # C mode ring
BUFFERS = 0x10000  # transmit buffers, 2 KiB each
TX_RING, HIGH_RING, RX_RING = 0x8000, 0x8800, 0x9000
RX_BUFFERS = 0x70000


def frame_to(destination: bytes = MAC, size: int = 60, fill: int = 0x5A) -> bytes:
    """A frame of ``size`` bytes to ``destination``."""
    return (destination + OTHER + b"\x88\xb5" + bytes((fill + n) & 0xFF for n in range(size)))[:size]


def padded(frame: bytes) -> bytes:
    """What a receiver stores of a short frame."""
    return frame + bytes(max(0, 60 - len(frame)))


class Kit:
    """A card, everything that it calls, and states to begin a test from."""

    def __init__(self, rev: int | None = None, *, ram: int = RAM, machine: Machine | None = None) -> None:
        self.time = 0
        self.wire: list[bytes] = []
        self.owed: list[bytes] = []  # the vnet of each frame on the wire
        self.wire_takes = True
        self.ready = 0
        self.irqs: list[bool] = []
        self.machine = machine or Machine(
            "pc", ram, now=lambda: self.time, on_irq=lambda _irq, level: self.irqs.append(level)
        )
        self.slot = plug(self.machine, "rtl8139", MAC, self._tx, self._rx_ready, rev=rev)
        self.card = self.slot.card
        self.function = self.slot.function
        self.machine.boot()
        self.config_write(4, 2, 7)
        self.base = self.function.address(0)
        self.memory = self.function.address(1)

    def _tx(self, frame, vnet=b""):
        if self.wire_takes:
            self.wire.append(frame)
            self.owed.append(vnet)
        return self.wire_takes

    def _rx_ready(self):
        self.ready += 1

    @property
    def irq(self) -> bool:
        """The level of the card's interrupt line."""
        return any(self.machine.irq_levels)

    # registers

    def read(self, offset, size):
        return self.machine.io_read(self.base + offset, size)

    def write(self, offset, size, value):
        self.machine.io_write(self.base + offset, size, value)

    def config_read(self, offset, size):
        self.machine.io_write(0xCF8, 4, 0x80000000 | 3 << 11 | offset & 0xFC)
        return self.machine.io_read(0xCFC + (offset & 3), size)

    def config_write(self, offset, size, value):
        self.machine.io_write(0xCF8, 4, 0x80000000 | 3 << 11 | offset & 0xFC)
        self.machine.io_write(0xCFC + (offset & 3), size, value)

    def isr(self):
        """ISR, acknowledged."""
        value = self.read(r.ISR, 2)
        self.write(r.ISR, 2, value)
        return value

    def peek(self, address, size):
        return self.machine.mem_read(address, size)

    def poke(self, address, data):
        self.machine.mem_write(address, data)

    def wait(self, ns):
        """Turn the clock, deadline by deadline."""
        end = self.time + ns
        for _ in range(1000):
            due = self.machine.next_deadline()
            if due is None or due > end:
                break
            self.time = max(self.time, due)
            self.machine.run(self.time)
        self.time = end

    # C mode

    def start(self, rcr=r.RCR_APM | r.RCR_AB, *, tcr=0x03000700, imr=0xFFFF, ring=RING):
        """Receiver and transmitter on, ring empty."""
        self.write(r.CR, 1, r.CR_RST)
        self.write(r.RBSTART, 4, ring)
        self.write(r.CR, 1, r.CR_RE | r.CR_TE)
        self.write(r.TCR, 4, tcr)
        self.write(r.RCR, 4, rcr)
        self.write(r.IMR, 2, imr)
        return self

    def send(self, data, index=0, extra=0):
        """Put ``data`` into buffer ``index`` and hand over the descriptor."""
        self.poke(BUFFERS + 2048 * index, data)
        self.write(r.TSAD0 + 4 * index, 4, BUFFERS + 2048 * index)
        self.write(r.TSD0 + 4 * index, 4, len(data) | extra)

    def receive(self, frame, vnet=b""):
        return self.slot.receive(frame, vnet)

    def ring_size(self):
        return 8192 << (self.read(r.RCR, 4) >> 11 & 3)

    def packets(self, limit=1000, *, ring=RING):
        """Read the ring as a driver does: (status, frame) until it is empty, giving room back after each."""
        size = self.ring_size()
        wrap = self.read(r.RCR, 4) & r.RCR_WRAP and size < 65536
        result = []
        at = self.read(r.CAPR, 2) + 16 & 0xFFFF
        while len(result) < limit and not self.read(r.CR, 1) & r.CR_BUFE:
            at %= size
            status, length = unpack("<HH", self.peek(ring + at, 4))
            if wrap:
                body = self.peek(ring + at + 4, length)
            else:
                whole = self.peek(ring, size)
                body = (whole[at + 4 :] + whole)[:length]
            frame, fcs = body[:-4], body[-4:]
            assert fcs == pack("<I", crc32(frame))
            result.append((status, frame))
            at = (at + length + 4 + 3) & ~3
            self.write(r.CAPR, 2, at - 16 & 0xFFFF)
        return result

    def full(self):
        """Fill an 8 KiB ring until a frame is not stored any more; how many were."""
        self.start()
        for count in range(1000):
            before = self.read(r.CBR, 2)
            assert self.receive(frame_to(size=500, fill=count))
            if self.read(r.CBR, 2) == before:
                return count
        raise AssertionError("the ring never fills")

    # C+ mode

    def start_cplus(
        self, cpcr=0, *, rx=8, tx=8, rcr=r.RCR_APM | r.RCR_AB, buffer=1536, imr=0xFFFF, tcr=0x03000700
    ):
        """Rings of ``rx`` and ``tx`` descriptors, receive buffers given to the card."""
        self.tx_at = self.rx_at = 0
        self.tx_count, self.rx_count, self.buffer = tx, rx, buffer
        self.write(r.CR, 1, r.CR_RST)
        self.write(r.CPCR, 2, r.CPCR_RXEN | r.CPCR_TXEN | cpcr)
        for n in range(rx):
            self.give(n)
        self.poke(TX_RING, bytes(16 * 64))
        self.poke(HIGH_RING, bytes(16 * 64))
        for offset, address in ((r.TNPDS, TX_RING), (r.THPDS, HIGH_RING), (r.RDSAR, RX_RING)):
            self.write(offset, 4, address)
            self.write(offset + 4, 4, 0)
        self.write(r.CR, 1, r.CR_RE | r.CR_TE)
        self.write(r.TCR, 4, tcr)
        self.write(r.RCR, 4, rcr)
        self.write(r.IMR, 2, imr)
        return self

    def give(self, n, size=None):
        """Receive descriptor ``n`` to the card."""
        eor = r.D_EOR if n == self.rx_count - 1 else 0
        word = r.D_OWN | eor | (self.buffer if size is None else size)
        self.poke(RX_RING + 16 * n, pack("<IIQ", word, 0, RX_BUFFERS + 2048 * n))

    def put(self, *pieces, flags=0, vlan=0, ring=TX_RING, poll=True, count=None):
        """One frame in as many transmit descriptors as there are pieces."""
        count = count or self.tx_count
        words = []
        for n, piece in enumerate(pieces):
            index = self.tx_at % count
            self.tx_at += 1
            word = r.D_OWN | flags | len(piece)
            word |= r.D_EOR if index == count - 1 else 0
            word |= r.D_FS if n == 0 else 0
            word |= r.D_LS if n == len(pieces) - 1 else 0
            self.poke(BUFFERS + 2048 * index, piece)
            words.append((index, pack("<IIQ", word, vlan, BUFFERS + 2048 * index)))
        for index, packed in words:
            self.poke(ring + 16 * index, packed)
        if poll:
            self.write(r.TPPOLL, 1, r.POLL_HPQ if ring == HIGH_RING else r.POLL_NPQ)
        return words[0][0]

    def descriptor(self, ring, n):
        """(first word, second word, address)."""
        return unpack("<IIQ", self.peek(ring + 16 * n, 16))

    def taken(self, limit=1000):
        """Received frames out of the C+ ring: (words of the last descriptor, frame); gives descriptors back."""
        result = []
        frame = b""
        while len(result) < limit:
            n = self.rx_at % self.rx_count
            word, vlan, address = self.descriptor(RX_RING, n)
            if word & r.D_OWN:
                break
            if word & r.D_FS:
                frame = b""
            if word & r.D_LS:
                whole = word & r.RD_LENGTH
                frame += self.peek(address, whole - len(frame))
                wire = frame[:-4]
                if vlan & r.RD_TAVA:  # the FCS is that of the frame with its tag
                    wire = wire[:12] + b"\x81\x00" + pack("<H", vlan & 0xFFFF) + wire[12:]
                    assert frame[-4:] in (
                        pack("<I", crc32(wire)),
                        pack("<I", crc32(wire[: max(60, len(wire) - 4)])),
                    )
                else:
                    assert frame[-4:] == pack("<I", crc32(wire))
                result.append((word, vlan, frame[:-4]))
            else:
                frame += self.peek(address, word & r.RD_LENGTH)
            self.give(n)
            self.rx_at += 1
        return result
