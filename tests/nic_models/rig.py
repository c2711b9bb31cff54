"""A NE2000 on the bench: named in/out helpers, a wire that remembers, a clock that only tests turn."""

from __future__ import annotations

from nic_models.ne2000 import registers as r
from nic_models.ne2000.isa import Ne2000Isa
from nic_models.ne2000.pci import Ne2000Pci

MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("5254006789ab")
BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")
PSTART, PSTOP = 0x4C, 0x80


def frame_to(destination: bytes = MAC, size: int = 60, fill: int = 0x5A) -> bytes:
    """A frame of ``size`` bytes to ``destination``."""
    return (destination + OTHER + b"\x08\x00" + bytes((fill + n) & 0xFF for n in range(size)))[:size]


class Rig:
    """A board (``Ne2000Pci`` by default) with everything that it calls."""

    def __init__(self, cls=Ne2000Pci, *, grace=50_000_000, mac=MAC):
        self.time = 0
        self.wire: list[bytes] = []
        self.wire_takes = True
        self.ready = 0
        self.irq = False
        self.irq_changes = 0
        self.card = cls(mac, self._tx, self._rx_ready, self._set_irq, lambda: self.time, overflow_grace=grace)

    def _tx(self, frame, vnet=b""):
        if self.wire_takes:
            self.wire.append(frame)
        return self.wire_takes

    def _rx_ready(self):
        self.ready += 1

    def _set_irq(self, level):
        self.irq = level
        self.irq_changes += 1

    # -- registers

    def inb(self, offset):
        return self.card.read(0, offset, 1)

    def outb(self, offset, value):
        self.card.write(0, offset, 1, value)

    def page(self, page):
        self.outb(r.CR, page << 6 | r.RD_ABORT | self.card.chip.cr & 3)

    def get(self, page, offset):
        self.page(page)
        value = self.inb(offset)
        self.page(0)
        return value

    def put(self, page, offset, value):
        self.page(page)
        self.outb(offset, value)
        self.page(0)

    def remote(self, command, address, count):
        for offset, value in (
            (r.RSAR0, address & 0xFF),
            (r.RSAR1, address >> 8),
            (r.RBCR0, count & 0xFF),
            (r.RBCR1, count >> 8),
            (r.CR, command | r.STA),
        ):
            self.outb(offset, value)

    def peek(self, address, count):
        """Remote read by words."""
        self.remote(r.RD_READ, address, count + (count & 1))
        data = self.card.read_block(0, r.DATA_PORT, 2, (count + 1) // 2)
        self.outb(r.ISR, r.ISR_RDC)
        return data[:count]

    def poke(self, address, data):
        """Remote write by words."""
        data = data + b"\0" * (len(data) & 1)
        self.remote(r.RD_WRITE, address, len(data))
        self.card.write_block(0, r.DATA_PORT, 2, data)
        self.outb(r.ISR, r.ISR_RDC)

    # -- states

    def start(
        self, *, rcr=r.RCR_AB, tcr=0, imr=0x7F, pstart=PSTART, pstop=PSTOP, curr=None, bnry=None, dcr=0x49
    ):
        """A chip that runs, its ring empty."""
        curr = pstart if curr is None else curr
        bnry = (pstart if bnry is None else bnry) if curr == pstart or bnry is not None else curr
        for offset, value in (
            (r.CR, r.RD_ABORT | r.STP),
            (r.DCR, dcr),
            (r.RBCR0, 0),
            (r.RBCR1, 0),
            (r.RCR, r.RCR_MON),
            (r.TCR, r.TCR_LB0),
            (r.PSTART, pstart),
            (r.PSTOP, pstop),
            (r.BNRY, bnry),
            (r.ISR, 0xFF),
            (r.IMR, imr),
        ):
            self.outb(offset, value)
        for index, byte in enumerate(self.card.mac):
            self.put(1, r.PAR0 + index, byte)
        for index in range(8):
            self.put(1, r.MAR0 + index, 0)
        self.put(1, r.CURR, curr)
        self.outb(r.CR, r.RD_ABORT | r.STA)
        self.outb(r.TCR, tcr)
        self.outb(r.RCR, rcr)
        return self

    def full(self):
        """Fill the ring with frames of one page until one is refused."""
        self.start()
        for count in range(1000):
            if not self.card.receive(frame_to(size=200, fill=count)):
                return count
        raise AssertionError("the ring never fills")

    def send(self, frame, page=0x40):
        """Load a frame and transmit it."""
        self.poke(page << 8, frame)
        self.outb(r.TPSR, page)
        self.outb(r.TBCR0, len(frame) & 0xFF)
        self.outb(r.TBCR1, len(frame) >> 8)
        self.outb(r.CR, r.RD_ABORT | r.STA | r.TXP)

    def packets(self):
        """Read all packets of the ring as a driver does: (status, frame), giving pages back."""
        chip = self.card.chip
        result = []
        curr = self.get(1, r.CURR)
        page = self.inb(r.BNRY)
        while page != curr:
            status, following, low, high = self.peek(page << 8, 4)
            count = low | high << 8
            result.append((status, self.peek((page << 8) + 4, count - 4)))
            page = following
            assert chip.pstart <= page < chip.pstop
        self.outb(r.BNRY, page)
        return result


def isa(**more):
    return Rig(Ne2000Isa, **more)
