"""One test bench for four cards, as anybody would write it against QEMU's qtest: it knows data sheets, nothing else.

``SCRIPTS[model](client)`` takes a machine as it is after power-on (no firmware has run), with the card in PCI slot 3
or at the ISA ports, and the user-mode network behind it. It yields what it sees as (label, value). The card's first
conversation is with the gateway: an ARP request, a ping, both answered through the card.

Ref: National DP8390D data sheet; Realtek RTL8139C(L)+ data sheet 1.6; AMD Am79C970A data sheet; Intel 82371SB.
"""

from __future__ import annotations

import struct

SLOT, LINE = 3, 11
IO, MEM = 0xC000, 0xFEB00000
ISA_BASE, ISA_LINE = 0x300, 10
MAC = bytes.fromhex("525400123456")
GUEST, GATEWAY = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 2))
GATEWAY_MAC = bytes.fromhex("52550a000202")
BROADCAST = b"\xff" * 6
RAM = 0x100000  # where the bench keeps rings and buffers


# ---- frames ------------------------------------------------------------------------------------------------


def arp_request():
    """Who has 10.0.2.2?"""
    body = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, MAC, GUEST, bytes(6), GATEWAY)
    return (BROADCAST + MAC + b"\x08\x06" + body).ljust(60, b"\0")


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ping(size=200):
    """An ICMP echo request with ``size`` bytes."""
    data = bytes(n & 0xFF for n in range(size))
    echo = struct.pack(">BBHHH", 8, 0, 0, 0x1234, 1) + data
    echo = echo[:2] + struct.pack(">H", checksum(echo)) + echo[4:]
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(echo), 7, 0, 64, 1, 0, GUEST, GATEWAY)
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    return GATEWAY_MAC + MAC + b"\x08\x00" + header + echo


def conversation(client, nic, line):
    """ARP and ping through the card."""
    yield "line at rest", client.levels.get(line, False)
    nic.send(arp_request())
    reply = nic.receive()
    yield "ARP reply", reply[:42].hex()
    yield "ARP reply, padded", len(reply) >= 60  # libslirp makes it 64 bytes long, ours 60
    nic.send(ping())
    reply = nic.receive()
    yield "ping reply, Ethernet", reply[:14].hex()
    yield "ping reply, ICMP", reply[34:].hex()
    for number in range(40):  # the rings go round
        nic.send(arp_request() if number % 2 else ping(1400 - number))
        nic.receive()
    yield "after 40 more", nic.state()


# ---- PCI ---------------------------------------------------------------------------------------------------


def pci(client, bars):
    """Identity, sizes; then addresses and an interrupt route, as firmware gives them."""
    yield "no function", client.config(31, 0)
    yield "id", client.config(SLOT, 0x00)
    yield "command", client.config(SLOT, 0x04, 2)
    yield "status", client.config(SLOT, 0x06, 2)
    yield "class, revision", client.config(SLOT, 0x08)
    yield "header type", client.config(SLOT, 0x0E, 1)
    yield "subsystem", client.config(SLOT, 0x2C)
    yield "pin, gnt, lat", client.config(SLOT, 0x3C) >> 8
    for index in range(6):
        yield f"BAR {index}", client.config(SLOT, 0x10 + 4 * index)
        client.set_config(SLOT, 0x10 + 4 * index, 0xFFFFFFFF)
        yield f"BAR {index}, size", client.config(SLOT, 0x10 + 4 * index)
    for index, kind in enumerate(bars):
        client.set_config(SLOT, 0x10 + 4 * index, IO if kind == "io" else MEM)
    yield "PIRQ at reset", client.config(1, 0x60)
    for pirq, route in enumerate((10, 10, 11, 11)):
        client.set_config(1, 0x60 + pirq, route, 1)
    client.set_config(SLOT, 0x3C, LINE, 1)
    client.set_config(SLOT, 0x04, 0x0007, 2)
    yield "command, enabled", client.config(SLOT, 0x04, 2)
    client.command("irq_intercept_in ioapic")


# ---- NE2000 ------------------------------------------------------------------------------------------------


class Ne2000:
    """DP8390 with 16 KiB: transmit at page 0x40, receive ring from 0x46."""

    START, STOP, TX = 0x46, 0x80, 0x40

    def __init__(self, client, base, line):
        self.client, self.base, self.line = client, base, line
        self.next = self.START

    def inb(self, offset):
        return self.client.inb(self.base + offset)

    def outb(self, offset, value):
        self.client.outb(self.base + offset, value)

    def remote(self, command, address, count):
        for offset, value in ((8, address & 0xFF), (9, address >> 8), (10, count & 0xFF), (11, count >> 8)):
            self.outb(offset, value)
        self.outb(0, command)

    def peek(self, address, count):
        words = (count + 1) // 2
        self.remote(0x0A, address, 2 * words)
        answers = self.client.batch([f"inw {self.base + 0x10:#x}"] * words)
        self.outb(7, 0x40)
        return b"".join(int(answer, 16).to_bytes(2, "little") for answer in answers)[:count]

    def poke(self, address, data):
        data += b"\0" * (len(data) % 2)
        self.remote(0x12, address, len(data))
        words = struct.unpack(f"<{len(data) // 2}H", data)
        self.client.batch([f"outw {self.base + 0x10:#x} {word:#x}" for word in words])
        self.outb(7, 0x40)

    def start(self):
        for offset, value in (
            (0x00, 0x21),
            (0x0E, 0x49),
            (0x0A, 0x00),
            (0x0B, 0x00),
            (0x0C, 0x20),
            (0x0D, 0x02),
            (0x01, self.START),
            (0x02, self.STOP),
            (0x03, self.START),
            (0x07, 0xFF),
            (0x0F, 0x01),
            (0x00, 0x61),
            *((1 + n, byte) for n, byte in enumerate(MAC)),
            (0x07, self.START),
            *((8 + n, 0) for n in range(8)),
            (0x00, 0x22),
            (0x0D, 0x00),
            (0x0C, 0x04),
        ):
            self.outb(offset, value)

    def send(self, frame):
        self.poke(self.TX << 8, frame)
        self.outb(4, self.TX)
        self.outb(5, len(frame) & 0xFF)
        self.outb(6, len(frame) >> 8)
        self.outb(0, 0x26)
        self.client.wait(lambda: not self.inb(0) & 0x04, "the transmitter")
        self.outb(7, 0x02)

    def curr(self):
        self.outb(0, 0x62)
        value = self.inb(7)
        self.outb(0, 0x22)
        return value

    def receive(self):
        self.client.wait(lambda: self.curr() != self.next, "a packet")
        self.client.inb(0x80)
        assert self.client.levels[self.line], "received, and no interrupt"
        _, after, length = struct.unpack("<BBH", self.peek(self.next << 8, 4))
        room = (self.STOP - self.next << 8) - 4
        frame = self.peek((self.next << 8) + 4, min(length - 4, room))
        if length - 4 > room:
            frame += self.peek(self.START << 8, length - 4 - room)
        self.next = after
        self.outb(3, after)
        self.outb(7, 0x01)
        self.client.inb(0x80)
        assert not self.client.levels[self.line], "acknowledged, and the line stays up"
        return frame

    def state(self):
        return [self.inb(0), self.inb(7), self.next]


def ne2000(client, base, line):
    nic = Ne2000(client, base, line)
    client.outb(base + 0x1F, client.inb(base + 0x1F))
    yield "ISR after reset", nic.inb(7) & 0x80
    nic.start()
    yield "CR", nic.inb(0)
    yield "PROM", nic.peek(0, 12).hex()
    yield "PROM, end", nic.peek(28, 4).hex()
    yield from conversation(client, nic, line)


def ne2k_pci(client):
    yield from pci(client, ("io",))
    yield from ne2000(client, IO, LINE)


def ne2k_isa(client):
    client.command("irq_intercept_in ioapic")
    yield from ne2000(client, ISA_BASE, ISA_LINE)


# ---- RTL8139 -----------------------------------------------------------------------------------------------


class Rtl8139:
    """C mode: four transmit buffers, a receive ring of 8 KiB + 16 that wraps."""

    RX, TX = RAM, RAM + 0x8000
    RING = 8192

    def __init__(self, client):
        self.client = client
        self.tx = self.at = 0

    def reg(self, offset, size):
        return {1: self.client.inb, 2: self.client.inw, 4: self.client.inl}[size](IO + offset)

    def put(self, offset, size, value):
        {1: self.client.outb, 2: self.client.outw, 4: self.client.outl}[size](IO + offset, value)

    def reset(self):
        self.put(0x37, 1, 0x10)
        self.client.wait(lambda: not self.reg(0x37, 1) & 0x10, "the reset")

    def eeprom(self, address):
        def pins(bits):
            self.put(0x50, 1, 0x80 | bits)

        pins(0)
        for bit in range(8, -1, -1):
            data = 0x08 | (0x02 if (0x180 | address) >> bit & 1 else 0)
            pins(data)
            pins(data | 0x04)
        word = 0
        for _ in range(16):
            pins(0x08)
            pins(0x0C)
            word = word << 1 | self.reg(0x50, 1) & 1
        pins(0)
        self.put(0x50, 1, 0)
        return word

    def start(self):
        self.reset()
        self.put(0x30, 4, self.RX)
        self.put(0x37, 1, 0x0C)
        self.put(0x44, 4, 0x0000000A | 7 << 8 | 7 << 13)  # broadcast, physical match; unlimited; wraps
        self.put(0x40, 4, 0x03000700)
        self.put(0x38, 2, 0xFFF0)
        self.put(0x3C, 2, 0x0001)  # ROK

    def send(self, frame):
        buffer = self.TX + self.tx * 0x800
        self.client.write(buffer, frame)
        self.put(0x20 + 4 * self.tx, 4, buffer)
        self.put(0x10 + 4 * self.tx, 4, len(frame))
        self.client.wait(lambda: self.reg(0x10 + 4 * self.tx, 4) & 0x8000, "TOK")
        self.tx = (self.tx + 1) % 4
        self.put(0x3E, 2, 0x04)

    def receive(self):
        self.client.wait(lambda: not self.reg(0x37, 1) & 1, "a packet")
        self.client.inb(0x80)
        assert self.client.levels[LINE], "received, and no interrupt"
        ring = self.client.read(self.RX, self.RING)
        ring = ring[self.at :] + ring[: self.at]
        status, length = struct.unpack_from("<HH", ring)
        assert status & 1, hex(status)
        self.at = (self.at + length + 4 + 3 & ~3) % self.RING
        self.put(0x38, 2, self.at - 16 & 0xFFFF)
        self.put(0x3E, 2, 0x01)
        self.client.inb(0x80)
        assert not self.client.levels[LINE], "acknowledged, and the line stays up"
        return ring[4:length]

    def state(self):
        ahead = (self.reg(0x3A, 2) - self.at) % self.RING
        return [self.reg(0x37, 1), self.reg(0x38, 2) == self.at - 16 & 0xFFFF, ahead, self.reg(0x3E, 2)]


RTL_REGISTERS = (
    ("IDR", 0x00, 4),
    ("IDR 4", 0x04, 4),
    ("MAR", 0x08, 4),
    ("MAR 4", 0x0C, 4),
    ("TSD0", 0x10, 4),
    ("TSD3", 0x1C, 4),
    ("TSAD0", 0x20, 4),
    ("RBSTART", 0x30, 4),
    ("CR", 0x37, 1),
    ("CAPR", 0x38, 2),
    ("CBR", 0x3A, 2),
    ("IMR", 0x3C, 2),
    ("ISR", 0x3E, 2),
    ("TCR", 0x40, 4),
    ("RCR", 0x44, 4),
    ("MPC", 0x4C, 4),
    ("9346CR", 0x50, 1),
    ("CONFIG0", 0x51, 1),
    ("CONFIG1", 0x52, 1),
    ("TimerInt", 0x54, 4),
    ("MSR", 0x58, 1),
    ("CONFIG3", 0x59, 1),
    ("CONFIG4", 0x5A, 1),
    ("MULINT", 0x5C, 2),
    ("TSAD", 0x60, 2),
    ("BMCR", 0x62, 2),
    ("BMSR", 0x64, 2),
    ("ANAR", 0x66, 2),
    ("ANLPAR", 0x68, 2),
    ("CONFIG5", 0xD8, 1),
    ("C+CR", 0xE0, 2),
)


def rtl8139(client):
    yield from pci(client, ("io", "mem"))
    nic = Rtl8139(client)
    nic.reset()
    for name, offset, size in RTL_REGISTERS:
        yield name, nic.reg(offset, size)
    yield "memory window", client.readl(MEM) == nic.reg(0, 4)
    for address in range(10):
        yield f"EEPROM word {address}", nic.eeprom(address)
    nic.start()
    yield "CR, started", nic.reg(0x37, 1)
    yield from conversation(client, nic, LINE)


# ---- PCnet -------------------------------------------------------------------------------------------------


class Pcnet:
    """Word I/O, software style 2, rings of eight."""

    BLOCK, RX, TX, BUFFERS = RAM, RAM + 0x100, RAM + 0x200, RAM + 0x1000
    COUNT, SIZE = 8, 0x600

    def __init__(self, client):
        self.client = client
        self.rx = self.tx = 0

    def csr(self, index, value=None):
        return self.register(0x10, index, value)

    def bcr(self, index, value=None):
        return self.register(0x16, index, value)

    def register(self, port, index, value):
        self.client.outw(IO + 0x12, index)
        if value is None:
            return self.client.inw(IO + port)
        self.client.outw(IO + port, value)
        return value

    def descriptor(self, buffer, length, flags):
        return struct.pack("<IIII", buffer, flags << 16 | (-length & 0xFFFF), 0, 0)

    def start(self):
        self.bcr(20, 2)
        block = struct.pack("<HBB6sHQII", 0, 0x30, 0x30, MAC, 0, 0, self.RX, self.TX)
        self.client.write(self.BLOCK, block)
        rx = (self.descriptor(self.BUFFERS + n * self.SIZE, self.SIZE, 0x8000) for n in range(self.COUNT))
        self.client.write(self.RX, b"".join(rx))
        self.client.write(self.TX, bytes(16 * self.COUNT))
        self.csr(1, self.BLOCK & 0xFFFF)
        self.csr(2, self.BLOCK >> 16)
        self.csr(3, 0x5B00)  # receive only: the other sources are masked
        self.csr(0, 0x0001)
        self.client.wait(lambda: self.csr(0) & 0x0100, "IDON")
        self.csr(0, 0x0142)  # acknowledge IDON, IENA, STRT

    def send(self, frame):
        at = self.TX + 16 * self.tx
        buffer = self.BUFFERS + (self.COUNT + self.tx) * self.SIZE
        self.client.write(buffer, frame)
        self.client.write(at, self.descriptor(buffer, len(frame), 0x8300))
        self.csr(0, 0x0048)
        self.client.wait(lambda: not self.client.readl(at + 4) >> 31, "the transmit descriptor")
        self.tx = (self.tx + 1) % self.COUNT
        self.csr(0, 0x0240)

    def receive(self):
        at = self.RX + 16 * self.rx
        self.client.wait(lambda: not self.client.readl(at + 4) >> 31, "a packet")
        self.client.inb(0x80)
        assert self.client.levels[LINE], "received, and no interrupt"
        buffer, status, count, _ = struct.unpack("<IIII", self.client.read(at, 16))
        assert status >> 24 == 0x03, hex(status)
        frame = self.client.read(buffer, (count & 0xFFF) - 4)
        self.client.write(at, self.descriptor(buffer, self.SIZE, 0x8000))
        self.rx = (self.rx + 1) % self.COUNT
        self.csr(0, 0x0440)
        self.client.inb(0x80)
        assert not self.client.levels[LINE], "acknowledged, and the line stays up"
        return frame

    def state(self):
        return [self.csr(0), self.rx, self.tx]


def pcnet(client):
    yield from pci(client, ("io", "mem"))
    nic = Pcnet(client)
    client.inw(IO + 0x14)  # reset
    yield "APROM", [client.inw(IO + offset) for offset in range(0, 16, 2)]
    for index in (0, 3, 4, 5, 15, 58, 76, 78, 80, 82, 88, 89, 112, 114):
        yield f"CSR{index}", nic.csr(index)
    for index in (2, 4, 5, 6, 7, 9, 18, 19, 20):
        yield f"BCR{index}", nic.bcr(index)
    nic.start()
    yield "CSR0, started", nic.csr(0)
    yield from conversation(client, nic, LINE)


SCRIPTS = {"ne2k_pci": ne2k_pci, "ne2k_isa": ne2k_isa, "rtl8139": rtl8139, "pcnet": pcnet}
