"""Fuzz the RTL8139's engine: descriptors and rings of all kinds, DMA that is answered late, resets in the middle.

    python -m tests.fuzz.fuzz_rtl8139 --seconds N [--seed S]

``fuzz_cards`` pokes registers at random; here the card is mostly set up as a driver does it, descriptors look like
descriptors, and its owner answers DMA operations one by one, with register accesses, frames, resets and snapshots
in between. A finding is an exception, an operation or a frame that is out of bounds, an engine that goes on for longer
than ``RUN`` operations by itself, a FIFO that grows, or a snapshot that does not come back. It is printed with its seed.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from struct import pack

from nic_models.bus.machine import Ram
from nic_models.models import pci_function
from nic_models.rtl8139 import registers as r
from nic_models.rtl8139.receiver import FIFO_FRAMES
from nic_models.rtl8139.transmitter import LONGEST
from tests.fuzz import runner
from tests.nic_models.rtl8139_packets import tcp, udp

STEPS = 500
RUN = 1500  # operations of one run: 128 descriptors with their buffers, 16 frames over 64 descriptors each
RAM = 1 << 17
MAC = bytes.fromhex("525400123456")
BASES = (0x0, 0x400, 0x800, 0x1000, 0x8000, RAM - 256, RAM, 0x80000000, 0xFFFFFF00)
DESTINATIONS = (MAC, b"\xff" * 6, bytes.fromhex("01005e000001"), bytes.fromhex("525400abcdef"))


class Case:
    """One card, one random generator."""

    def __init__(self, rng: random.Random, done: Counter[str]) -> None:
        self.rng = rng
        self.done = done
        self.time = 0
        self.takes = True
        self.ram = Ram(RAM)
        self.rev = rng.choice((None, None, 0x10))
        self.function = self.build()
        self.card = self.function.card
        self.function.config_write(4, 2, 7)
        self.engine = None
        self.op = None
        self.run_ops = 0
        self.do_start()

    def build(self):
        return pci_function("rtl8139", MAC, self.tx, self.rx_ready, lambda: self.time, self.rev)

    def tx(self, frame, vnet=b""):
        assert type(frame) is bytes and 14 <= len(frame) <= LONGEST + 4, len(frame)
        assert type(vnet) is bytes and len(vnet) in (0, 10)
        assert len(frame) <= 8191 or vnet[1] == 1
        self.done["transmitted"] += self.takes
        return self.takes

    def rx_ready(self):
        self.done["rx_ready"] += 1

    # -- the owner of the engine

    def step(self, answer):
        try:
            self.op = next(self.engine) if answer is NOTHING else self.engine.send(answer)
        except StopIteration:
            self.engine = self.op = None
            return
        self.run_ops += 1
        self.done["operations"] += 1
        assert self.run_ops <= RUN, "the engine goes on"
        kind, address, third = self.op
        assert 0 <= address < 1 << 64
        if kind == "read":
            assert 0 < third <= 0xFFFF
        else:
            assert kind == "write" and type(third) is bytes and 0 < len(third) <= 8195, len(third)

    def do_dma(self):
        """Answer some operations."""
        for _ in range(self.rng.choice((1, 2, 10, 400, 2 * RUN))):
            if self.engine is None:
                if not self.card.dma_pending:
                    return
                self.engine = self.card.dma()
                self.step(NOTHING)
            else:
                kind, address, third = self.op
                if kind == "read":
                    self.step(self.ram.read(address, third))
                else:
                    if self.rng.random() < 0.95:
                        self.ram.write(address, third)
                    self.step(None)
            assert len(self.card.rx.fifo) <= FIFO_FRAMES
            assert len(self.card.posted) <= 2 * r.RING_DESCRIPTORS + 2

    # -- guest

    def out(self, offset, size, value):
        self.card.write(self.rng.randrange(2), offset, size, value & (1 << 8 * size) - 1)

    def base(self):
        rng = self.rng
        return rng.choice(BASES) if rng.random() < 0.7 else rng.getrandbits(32)

    def do_start(self):
        rng, out = self.rng, self.out
        out(r.CR, 1, r.CR_RST if rng.random() < 0.5 else 0)
        if rng.random() < 0.6:
            out(r.CPCR, 2, rng.choice((3, 3, 0x63, 0x7B, 1, 2)))
            for offset in (r.TNPDS, r.THPDS, r.RDSAR):
                out(offset, 4, self.base())
                out(offset + 4, 4, rng.choice((0, 0, 0, 0xFFFFFFFF)))
        else:
            out(r.CPCR, 2, 0)
        out(r.RBSTART, 4, self.base())
        out(r.CR, 1, r.CR_RE | r.CR_TE)
        out(r.TCR, 4, rng.choice((0, 0x700, r.TCR_LBK, r.TCR_LBK, r.TCR_CRC)))
        out(r.RCR, 4, rng.choice((0x0F, 0x8F)) | rng.randrange(4) << 11)
        out(r.MAR0, 4, 0xFFFFFFFF)
        out(r.IMR, 2, 0xFFFF)

    def do_descriptors(self):
        """Descriptors, mostly with OWN, with buffers that may hold packets."""
        rng = self.rng
        words = []
        for _ in range(rng.randrange(1, 64)):
            word = rng.choice((r.D_OWN, r.D_OWN, r.D_OWN, 0)) | rng.choice(
                (r.D_FS | r.D_LS, r.D_FS, r.D_LS, 0)
            )
            word |= r.D_EOR if rng.random() < 0.1 else 0
            word |= rng.choice((60, 100, 1514, 64, 0, 8191, 0xFFFF, rng.randrange(3000)))
            if rng.random() < 0.4:
                word |= rng.choice((7 << 16, r.TD_LGSEN | rng.randrange(2048) << 16))
            vlan = rng.choice((0, 0, r.TD_TAGC | rng.getrandbits(16)))
            words.append(pack("<IIQ", word, vlan, rng.choice((self.base(), rng.randrange(RAM)))))
        self.ram.write(rng.choice(BASES[:6]), b"".join(words))

    def do_packet(self):
        """A packet somewhere in RAM, perhaps damaged."""
        rng = self.rng
        payload = rng.randbytes(rng.choice((0, 10, 1400, 5000)))
        packet = bytearray(rng.choice((tcp, udp))(payload) if payload else tcp(b""))
        packet[:6] = rng.choice(DESTINATIONS)
        if rng.random() < 0.4:
            packet[rng.randrange(12, min(60, len(packet)))] = rng.randrange(256)
        self.ram.write(rng.choice((*BASES[:5], rng.randrange(RAM))), bytes(packet))

    def do_poll(self):
        self.out(r.TPPOLL, 1, self.rng.choice((r.POLL_NPQ, r.POLL_HPQ, 0xC0, 0xC1)))

    def do_tsd(self):
        rng = self.rng
        n = rng.randrange(4)
        self.out(r.TSAD0 + 4 * n, 4, self.base())
        self.out(
            r.TSD0 + 4 * n, 4, rng.choice((60, 1514, 0x1FFF, 0, 13, rng.getrandbits(13), rng.getrandbits(32)))
        )

    def do_capr(self):
        rng = self.rng
        cbr = self.card.read(0, r.CBR, 2)
        self.out(r.CAPR, 2, cbr - 16 if rng.random() < 0.8 else rng.getrandbits(16))

    def do_ack(self):
        self.out(r.ISR, 2, self.card.read(0, r.ISR, 2))

    def do_any(self):
        rng = self.rng
        size = rng.choice((1, 2, 4))
        self.out(rng.randrange(0x100), size, rng.getrandbits(32))
        assert 0 <= self.card.read(0, rng.randrange(0x100), size) < 1 << 8 * size

    def do_tally(self):
        self.out(r.DTCCR, 4, self.base() | 8)

    # -- world

    def do_frame(self):
        rng = self.rng
        for _ in range(rng.choice((1, 5, 30))):
            size = rng.choice((0, 13, 14, 60, 1514, 4000, 8187, 8188, rng.randrange(2000)))
            frame = (rng.choice(DESTINATIONS) + rng.randbytes(10) + b"\x08\x00E").ljust(size, b"\5")[:size]
            self.done["received"] += self.card.receive(
                frame, rng.choice((b"", b"", b"", bytes([1]) + rng.randbytes(9)))
            )

    def do_wire(self):
        self.takes = not self.takes
        if self.takes:
            self.card.tx_ready()

    def do_time(self):
        self.time += self.rng.choice((1000, 2_000_000, 200_000_000))
        self.card.run(self.time)

    def do_world(self):
        rng = self.rng
        choice = rng.randrange(5)
        if choice == 0:
            self.card.set_link(rng.random() < 0.8)
        elif choice == 1:
            self.function.config_write(4, 2, rng.choice((7, 7, 3)))
        elif choice == 2:
            self.card.reset()
        else:
            self.do_snapshot()

    def do_snapshot(self):
        state = json.loads(json.dumps(self.card.snapshot()))
        twin = self.build()
        twin.config_write(4, 2, 7)
        twin.card.restore(state)
        assert json.loads(json.dumps(twin.card.snapshot())) == state, "snapshot does not come back"
        if self.rng.random() < 0.5:  # go on in the twin
            self.function, self.card, self.engine = twin, twin.card, None
            twin.card.set_bus_master(True)

    def run(self):
        """One case."""
        actions = [self.do_dma] * 12 + [self.do_descriptors] * 3 + [self.do_packet] * 2 + [self.do_poll] * 4
        actions += [self.do_tsd] * 3 + [self.do_capr] * 3 + [self.do_ack] * 2 + [self.do_frame] * 4
        actions += [self.do_any, self.do_tally, self.do_wire, self.do_time]
        for _ in range(STEPS):
            action = self.rng.choice(actions)
            if self.rng.random() < 0.01:
                action = self.rng.choice((self.do_start, self.do_world))
            if action != self.do_dma:
                self.run_ops = 0
            action()
            self.done[action.__name__[3:]] += 1


NOTHING = object()


def case(seed: int, done: runner.Done) -> int:
    """One case; the number of its operations."""
    Case(random.Random(seed), done).run()
    return STEPS


if __name__ == "__main__":
    sys.exit(runner.main("fuzz_rtl8139", case))
