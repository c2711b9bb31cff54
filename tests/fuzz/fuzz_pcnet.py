"""Fuzz the PCnet's bus master: random rings in a small memory, cut and continued, against bounds and against itself.

    python -m tests.fuzz.fuzz_pcnet --seconds N [--seed S]

``fuzz_cards`` plays the whole card in a machine; this one aims at the engine: descriptors that lie over each other and
over their buffers, ring registers of any value, modes, chains, loopback, and memory that ends. After each action the
engine must have ended by itself within ``OPS`` bus operations. At random operations the run is cut, its snapshot goes
through JSON into a second card with a copy of the memory, and both go on: they must end alike.

A finding is an exception; it is printed with its seed, and the exit status is 1.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter

from nic_models.pcnet import registers as r
from nic_models.pcnet.rings import KICK_DESCRIPTORS
from tests.fuzz import runner
from tests.nic_models.pcnet_kit import MAC, PEER, Bench, Memory, frame

STEPS = 250  # per case
RAM = 1 << 16
OPS = 4 * (KICK_DESCRIPTORS + 4200)  # bus operations of one action
MAX_CUT = 40
CSRS = (0, 0, 0, 0, 3, 4, 5, 15, 24, 30, 72, 74, 76, 78, 112, 122, 124)
CSR0 = (r.TDMD | r.IENA, r.STOP, r.STRT, r.INIT, r.INIT | r.STRT | r.IENA, r.TDMD, r.IENA, 0x7F40)
MODES = (
    0,
    r.PROM,
    r.LOOP,
    r.LOOP | r.INTL,
    r.LOOP | r.INTL | r.PROM,
    r.LOOP | r.INTL | r.DXMTFCS,
    r.DTX,
    r.DRX,
)
LENGTHS = (0, 0xFFFF, 0xFFFE, 0xFFFC, 0xFFF0, 0xFE00, 1, 0x8000)


class Case:
    """One bench and one random generator."""

    def __init__(self, rng: random.Random, done: Counter[str]) -> None:
        self.rng = rng
        self.done = done
        self.delayed = rng.random() < 0.3
        self.bench = self.build()
        self.revive()

    def build(self) -> Bench:
        bench = Bench(memory=Memory(1 << 20))
        bench.card.tx_delay = self.delayed
        return bench

    def revive(self) -> None:
        """Start anew with rings that make sense."""
        rng = self.rng
        self.bench.csr(0, r.STOP)
        self.bench.setup(
            rng.randrange(4),
            rlen=rng.randrange(4),
            tlen=rng.randrange(4),
            mode=rng.choice(MODES),
            csr4=rng.choice((0x0115, 0x0915, 0x0D15, 0x1915)),
            buffer=rng.choice((4, 64, 600, 1536)),
        )
        self.bench.csr(3, rng.choice((0, 0, r.LAPPEN, r.DXSUFLO)))

    def traffic(self) -> None:
        """Chains that a driver would send."""
        bench, rng = self.bench, self.rng
        if bench.style != bench.card.bcr[r.SWS] & 0xFF:
            return
        for _ in range(rng.randrange(1, 4)):
            data = frame(rng.choice((60, 300, 1514)), to=rng.choice((MAC, PEER)))
            cut = rng.randrange(len(data))
            pieces = (data,) if rng.random() < 0.5 or bench.tx_count < 2 else (data[:cut], data[cut:])
            bench.tx_at = bench.card.rings.tx.index % bench.tx_count if rng.random() < 0.3 else bench.tx_at
            bench.queue(*pieces, first=rng.choice((0, 0, r.T_ADD_FCS)))
        bench.card.write(0, r.WIO_RAP, 2, 0)
        bench.card.write(0, r.RDP, 2, r.TDMD | r.IENA)

    def registers(self) -> None:
        bench, rng = self.bench, self.rng
        index = rng.choice(CSRS)
        if index == 0:
            value = rng.choice(CSR0)
        elif index in (76, 78):
            value = rng.choice(LENGTHS)
        elif index == 15:
            value = rng.choice(MODES)
        else:
            value = rng.getrandbits(16)
        bench.csr(index, value)
        if rng.random() < 0.05:
            bench.bcr(r.SWS, rng.randrange(5))
            bench.style = bench.card.bcr[r.SWS] & 0xFF

    def descriptors(self) -> None:
        """Words that look like descriptors, anywhere in the first 64 KiB."""
        bench, rng = self.bench, self.rng
        rings = (bench.card.rings.rx.address(), bench.card.rings.tx.address(), rng.randrange(RAM))
        for _ in range(rng.randrange(1, 6)):
            at = (rng.choice(rings) + 16 * rng.randrange(-2, 4)) % RAM & ~3
            where = rng.choice((*rings, rng.randrange(RAM), 0xFFFFFFF0, (1 << 20) - 8)) & 0xFFFFFFFF
            status = rng.choice((0x8300, 0x8000, 0x8200, 0x8100, 0, rng.getrandbits(16)))
            size = rng.choice((0, 1, 4, 60, 64, 256, 1514, 1536, 4095, 4096))
            bench.write_descriptor(at, where, status, size, rng.getrandbits(32) & 0xFFFF)

    def wire(self) -> None:
        bench, rng = self.bench, self.rng
        bench.accept = rng.random() < 0.7
        if bench.accept:
            bench.card.tx_ready()
        bench.card.set_link(rng.random() < 0.9)

    def arrive(self) -> None:
        rng = self.rng
        size = rng.choice((0, 13, 14, 42, 60, 64, 300, 1514, 4091, 4092, 70_000))
        self.bench.card.receive(
            frame(size, to=rng.choice((MAC, MAC, PEER, b"\xff" * 6)), kind=rng.choice((3, 2048)))
        )

    def pass_time(self) -> None:
        bench = self.bench
        bench.clock += self.rng.choice((0, 1000, 2_000_000, 20_000_000, 1_500_000_000))
        bench.card.run(bench.clock)

    def cut(self) -> None:
        """Part of a run, then two cards that go on from there."""
        bench = self.bench
        if not bench.card.dma_pending:
            return
        engine = bench.card.dma()
        memory = bench.memory
        try:
            op = next(engine)
            for _ in range(self.rng.randrange(MAX_CUT)):
                op = engine.send(memory.read(op[1], op[2]) if op[0] == "read" else memory.write(op[1], op[2]))
        except StopIteration:
            return
        twin = self.build()
        twin.memory.cells[:] = memory.cells
        twin.clock, twin.accept = bench.clock, bench.accept
        twin.function.restore(json.loads(json.dumps(bench.function.snapshot())))
        sent = len(bench.sent)
        bench.card.restore(bench.card.snapshot())  # the cut run is over on both
        for one in (bench, twin):
            one.drive()
        assert twin.memory.cells == memory.cells, "memory differs after a cut"
        assert twin.sent == bench.sent[sent:], "frames differ after a cut"
        assert twin.card.snapshot() == bench.card.snapshot(), "state differs after a cut"
        assert twin.irq == bench.irq
        self.done["cuts"] += 1

    def run(self) -> None:
        """One case."""
        rng, bench = self.rng, self.bench
        actions = [self.registers] * 3 + [self.descriptors] * 3 + [self.arrive] * 4 + [self.traffic] * 5
        actions += [self.wire, self.pass_time, self.revive, self.revive]
        for _ in range(STEPS):
            action = rng.choice(actions)
            before = bench.memory.ops
            bench.sent.clear()
            action()
            if rng.random() < 0.3:
                self.cut()
            bench.drive()
            spent = bench.memory.ops - before
            assert spent < 3 * OPS, f"{action.__name__}: {spent} bus operations"
            self.done[action.__name__] += 1
            self.done["frames sent"] += len(bench.sent)
            self.done["bus operations"] += spent


def case(seed: int, done: runner.Done) -> int:
    """One case; the number of its operations."""
    Case(random.Random(seed), done).run()
    return STEPS


if __name__ == "__main__":
    sys.exit(runner.main("fuzz_pcnet", case))
