"""Fuzz every NIC model: random accesses, frames, time, wire and link changes, snapshots, in a random order.

    python -m tests.fuzz.fuzz_cards --seconds N [--seed S]

A finding is any exception, an access whose value does not fit its size, a transmitted frame that is not immutable
bytes, a snapshot that does not restore to the same state, a corrupted snapshot that raises anything but ValueError, or
a call that takes longer than ``SLOW`` seconds. It is printed with its seed, and the exit status is 1.

Half of the accesses are aimed: at the card's own windows, often at registers that matter, with values that drivers use.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter

from nic_models.bus.chipset import CONFIG_ADDRESS, CONFIG_DATA
from nic_models.bus.machine import IsaLocation, Machine
from nic_models.models import MODELS, plug
from tapnet.guest.drivers import DRIVERS
from tests.fuzz import runner

STEPS = 400  # per case
SLOW = 2.0  # seconds for one call
RAM = 4 << 20
MAC = bytes.fromhex("525400123456")
DESTINATIONS = (MAC, b"\xff" * 6, bytes.fromhex("01005e000001"), bytes.fromhex("525400abcdef"))
VALUES = (0, 1, 2, 3, 4, 8, 0x10, 0x21, 0x22, 0x26, 0x40, 0x4C, 0x7F, 0x80, 0xFF, 0x1000, 0xFFFF, 0xFFFFFFFF)


class Case:
    """One machine with one card, driven by one random generator."""

    def __init__(self, model: str, rng: random.Random, done: Counter[str]) -> None:
        self.rng = rng
        self.done = done
        self.model = model
        self.time = 0
        self.takes = True
        self.depth = 0
        self.delayed = rng.random() < 0.3
        self.machine, self.slot = self.build()
        self.machine.boot()
        self.driver = None
        if model in DRIVERS and rng.random() < 0.6:
            self.driver = self.start()

    def build(self):
        """A machine and its slot; used for the twin of a snapshot as well."""
        kind = "isapc" if MODELS[self.model].bus == "isa" else "pc"
        machine = Machine(kind, RAM, now=lambda: self.time)
        slot = plug(machine, self.model, MAC, self.tx, self.rx_ready)
        slot.card.tx_delay = self.delayed
        return machine, slot

    def start(self):
        """The real driver brings the card up, so that the random accesses meet a running one."""
        driver = DRIVERS[self.model](
            self.machine,
            self.slot.location,
            deliver=lambda frame: self.rng.random() < 0.9,
            writable=lambda: None,
            now=lambda: self.time,
        )
        driver.open()
        return driver

    def tx(self, frame: bytes, vnet: bytes = b"") -> bool:
        assert type(frame) is bytes, f"transmitted {type(frame)}"
        assert type(vnet) is bytes
        assert len(vnet) in (0, 10)
        self.done["transmitted"] += self.takes
        return self.takes

    def rx_ready(self) -> None:
        self.done["rx_ready"] += 1

    def value(self) -> int:
        rng = self.rng
        choice = rng.randrange(4)
        if choice == 0:
            return rng.choice(VALUES)
        if choice == 1:
            return rng.randrange(RAM) & ~3
        return rng.getrandbits(rng.choice((8, 16, 32)))

    def base(self, kind: str) -> tuple[int, int] | None:
        """Base and size of one of the card's windows."""
        location = self.slot.location
        if isinstance(location, IsaLocation):
            return (location.iobase, location.ports) if kind == "io" else None
        function = self.slot.function
        windows = [
            (function.address(n), bar.size)
            for n, bar in enumerate(function.bars)
            if bar.kind == kind and function.address(n) is not None
        ]
        return self.rng.choice(windows) if windows else None

    # -- what a guest and the world do

    def do_io(self) -> None:
        rng, machine = self.rng, self.machine
        size = rng.choice((1, 1, 2, 4))
        window = self.base("io") if rng.random() < 0.95 else None
        port = window[0] + rng.randrange(min(window[1], 0x60)) if window else rng.randrange(0x10000)
        if rng.random() < 0.35:
            assert 0 <= machine.io_read(port, size) < 1 << 8 * size
        else:
            machine.io_write(port, size, self.value() & (1 << 8 * size) - 1)

    def do_block(self) -> None:
        rng, machine = self.rng, self.machine
        window = self.base("io")
        if window is None:
            return
        size, count = rng.choice((1, 2, 4)), rng.randrange(800)
        port = window[0] + (0x10 if rng.random() < 0.7 else rng.randrange(0x20))
        if rng.random() < 0.5:
            assert len(machine.io_read_block(port, size, count)) == size * count
        else:
            machine.io_write_block(port, size, rng.randbytes(size * count))

    def do_memory(self) -> None:
        rng, machine = self.rng, self.machine
        window = self.base("mem") if rng.random() < 0.7 else None
        address = window[0] + rng.randrange(window[1]) if window else rng.randrange(RAM + 16)
        if rng.random() < 0.4:
            size = rng.choice((1, 2, 4, 7, 64))
            assert len(machine.mem_read(address, size)) == size
        elif window:
            machine.mem_write(address, self.value().to_bytes(4, "little")[: rng.choice((1, 2, 4))])
        else:
            words = [self.value() for _ in range(rng.randrange(1, 40))]  # descriptors, perhaps
            machine.mem_write(address & ~15, b"".join(word.to_bytes(4, "little") for word in words))

    def do_config(self) -> None:
        machine, rng = self.machine, self.rng
        slot = getattr(self.slot.location, "slot", 3)
        offset = rng.choice((0x04, 0x04, 0x10, 0x14, 0x30, 0x3C, rng.randrange(256)))
        machine.io_write(CONFIG_ADDRESS, 4, 0x80000000 | slot << 11 | offset & 0xFC)
        if rng.random() < 0.5:
            machine.io_read(CONFIG_DATA + (offset & 3), 1)
        elif offset == 4 and rng.random() < 0.8:
            machine.io_write(CONFIG_DATA, 2, 7)
        else:
            machine.io_write(CONFIG_DATA, 4, self.value())
        if rng.random() < 0.3:
            machine.boot()

    def do_frame(self) -> None:
        rng = self.rng
        size = rng.choice((0, 5, 14, 60, 200, 1514, 1518, 1600, 9000, rng.randrange(70000)))
        for _ in range(rng.choice((1, 1, 20))):
            frame = (rng.choice(DESTINATIONS) + rng.randbytes(min(size, 200))).ljust(size, b"\0")[:size]
            taken = self.slot.receive(frame)
            assert taken in (True, False)
            self.done["received"] += taken

    def do_time(self) -> None:
        self.time += self.rng.choice((0, 1000, 2_000_000, 60_000_000, 2_000_000_000))
        self.machine.run(self.time)
        deadline = self.machine.next_deadline()
        assert deadline is None or isinstance(deadline, int)

    def do_driver(self) -> None:
        """The driver works on a card that somebody else disturbs."""
        driver = self.driver
        if driver is None:
            return
        choice = self.rng.randrange(5)
        if choice == 0:
            driver.transmit(self.rng.randbytes(self.rng.randrange(1600)))
        elif choice == 1:
            driver.resume()
        elif choice == 2:
            driver.run(self.time)
        else:
            driver.interrupt()

    def do_wire(self) -> None:
        self.takes = not self.takes
        if self.takes:
            self.slot.tx_ready()

    def do_link(self) -> None:
        self.slot.card.set_link(self.rng.random() < 0.7)

    def do_reset(self) -> None:
        if self.rng.random() < 0.3:
            self.machine.reset()
            self.machine.boot()
        else:
            self.slot.card.reset()

    def do_snapshot(self) -> None:
        text = json.dumps(self.slot.card.snapshot())
        twin = self.build()[1].card
        twin.restore(json.loads(text))
        before, after = json.loads(text), json.loads(json.dumps(twin.snapshot()))
        for state in (before, after):
            state.pop("dma_pending", None)  # a restored card may ask for a run of its engine
        assert before == after, "snapshot does not come back"
        try:
            twin.restore(self.spoil(json.loads(text)))
        except ValueError:
            self.done["bad snapshots refused"] += 1

    def spoil(self, state):
        """Damage one place of a snapshot."""
        rng = self.rng
        place = state
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                return state
            key = rng.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
                place = place[key]
                continue
            place[key] = rng.choice((None, -1, 1 << 70, "x", [], {}, True, 3.5, 255))
            return state

    def run(self) -> None:
        """One case."""
        actions = [self.do_io] * 30 + [self.do_block] * 6 + [self.do_memory] * 20 + [self.do_config] * 2
        actions += [self.do_frame] * 6 + [self.do_time] * 2 + [self.do_wire, self.do_link]
        actions += [self.do_driver] * 8
        for _ in range(STEPS):
            action = self.rng.choice(actions)
            if self.rng.random() < 0.004:
                action = self.do_reset
            elif self.rng.random() < 0.004:
                action = self.do_snapshot
            started = time.monotonic()
            action()
            took = time.monotonic() - started
            assert took < SLOW, f"{action.__name__} took {took:.1f} s"
            self.done[action.__name__[3:]] += 1


def case(seed: int, done: runner.Done) -> int:
    """One case of every model; the number of operations."""
    for model in MODELS:
        done[f"{model} cases"] += 1
        Case(model, random.Random(f"{model} {seed}"), done).run()
    return STEPS * len(MODELS)


if __name__ == "__main__":
    sys.exit(runner.main("fuzz_cards", case))
