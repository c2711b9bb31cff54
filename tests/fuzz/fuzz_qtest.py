"""Fuzz the register bus: spoilt lines in pieces of any size, on a machine with all four cards, by a channel that stalls.

    python -m tests.fuzz.fuzz_qtest --seconds N [--seed S]

Each round is a client: it sends lines (known commands with arguments that are right, borderline or garbage; raw bytes),
reads at its own pace, and leaves in one of three ways. A finding is any exception, a line without exactly one answer, an
answer of another shape, a buffer above its bound, or a client that does not end. It is printed with its seed, and the
exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
import time
from collections.abc import Sequence

from nic_models.bus.machine import Machine
from nic_models.models import plug
from tapnet.guest.board import Board
from tapnet.guest.clock import Clock
from tapnet.guest.qtest import time as qtest_time
from tapnet.guest.qtest.bus import RegisterBus, Session
from tapnet.guest.qtest.wire import LINE_MAX, RUN_BYTES, TRANSFER_MAX
from tapnet.vlan.hub import Hub
from tapnet.vlan.port import Port

ANSWER = re.compile(rb"(OK( 0x[0-9a-f]*| [0-9]+| little| [A-Za-z0-9+/]*=*)?|FAIL( [^\n]*)?|ERR [^\n]*)")
MESSAGE = re.compile(rb"IRQ (raise|lower) [0-9]+")
COMMANDS = (
    *(f"{way}{size}" for way in ("in", "out", "ins", "outs", "read", "write") for size in "bwlq"),
    "read", "write", "b64read", "b64write", "memset", "clock_step", "clock_set", "settle", "endianness",
    "irq_intercept_in", "irq_intercept_out", "set_irq_in", "module_load", "rtas", "", " ", "inb ", "IN",
)  # fmt: skip
WORDS = (
    "0x300", "0x310", "0xc000", "0xc010", "0xc100", "0xc137", "0xc212", "0xcf8", "0xcfc", "0xffff", "0x10000", "-1",
    "0x1000", "0xffc", "0xfeb00000", "0xfeb00100", "0xffffffff", "0xffffffffffffffff", "0x10000000000000000", "0",
    "00", "1", "3", "64", "0x400", "0x80001804", "0x80001810", "0x80002004", "0x80000860", "0x0b0b0a0a", "0xaabb", "0x",
    "0xabc", "zz", "AAEC", "=", "ioapic", "isa", "card0", "card3", "nobody", "unnamed-gpio-in", "\r", "\0", "é", "7",
)  # fmt: skip
MODELS = ("ne2k_pci", "rtl8139", "pcnet", "ne2k_isa")
STEPS_MAX = 20_000  # turns of the loop until a client must have ended
BUFFER_MAX = RUN_BYTES + 2 * TRANSFER_MAX + (1 << 16)


def lines(rng: random.Random) -> bytes:
    """What a client says."""
    out = []
    for _ in range(rng.choice((1, 5, 40))):
        kind = rng.random()
        if kind < 0.05:
            out.append(rng.randbytes(rng.randrange(60)))
        elif kind < 0.06:
            out.append(b"write 0x1000 0x8000 0x" + b"5a" * 0x8000)
        else:
            words = [rng.choice(WORDS) for _ in range(rng.choice((0, 1, 1, 2, 2, 2, 3, 4)))]
            if rng.random() < 0.1:
                words.append(hex(rng.getrandbits(rng.choice((8, 16, 32, 64)))))
            out.append(" ".join((rng.choice(COMMANDS), *words)).encode())
    return b"\n".join(out) + rng.choice((b"\n", b"", b"\ninb 0x8"))


class Channel:
    """A client by hand: input in pieces, output that is taken now and then. No descriptors: the loop is told."""

    source, sink = -2, -3

    def __init__(self, rng: random.Random, data: bytes) -> None:
        self.rng = rng
        self.data = data
        self.taken = bytearray()
        self.closed = False
        self.dead = False  # its next use is an error

    def recv(self) -> bytes:
        if self.dead:
            raise ConnectionResetError
        size = self.rng.choice((1, 7, 500, 1 << 16))
        piece, self.data = self.data[:size], self.data[size:]
        return piece

    def send(self, data: bytes) -> int:
        if self.dead:
            raise BrokenPipeError
        if self.rng.random() < 0.1:
            raise BlockingIOError
        size = len(data) if self.rng.random() < 0.8 else self.rng.randrange(len(data) + 1)
        self.taken += data[:size]
        return size

    def close(self) -> None:
        self.closed = True


class Loop:
    """What a session wants of a loop; turned by hand."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.call_soon = loop.call_soon
        self.call_later = loop.call_later
        self.reader = self.writer = None

    def add_reader(self, _fd, callback):
        self.reader = callback

    def remove_reader(self, _fd):
        self.reader = None

    def add_writer(self, _fd, callback):
        self.writer = callback

    def remove_writer(self, _fd):
        self.writer = None


class World:
    """The machine that all clients find."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self.loop = Loop(loop)
        clock = Clock(time.monotonic_ns)
        self.machine = Machine("pc", 1 << 20, now=clock.now)
        hub = Hub(0, loop.call_soon)
        far = Port("far", lambda frame, vnet: (rng.random() < 0.5 and far.send(frame)) or True)
        hub.add(far)
        for number, model in enumerate(MODELS):
            port = Port(f"card{number}", lambda frame, vnet: True)
            slot = plug(
                self.machine, model, bytes((2, 0, 0, 0, 0, number)), port.send, port.flush, name=port.name
            )
            port.receive, port.ready = slot.receive, slot.tx_ready
            hub.add(port)
        self.machine.boot()
        self.board = Board(loop, self.machine)
        self.bus = RegisterBus(self.loop, self.board, clock, lambda: [hub])  # type: ignore[arg-type]


def check(said: bytes, channel: Channel, whole: bool) -> None:
    """One answer a line, of a known shape."""
    count = 0
    for line in bytes(channel.taken).split(b"\n")[:-1]:
        if not MESSAGE.fullmatch(line):
            count += 1
            if not ANSWER.fullmatch(line):
                raise AssertionError(f"what is this: {line[:200]!r}")
    if whole and count != said.count(b"\n"):
        raise AssertionError(f"{count} answers for {said.count(bytes((10,)))} lines")


async def round_(world: World, seed: int) -> int:
    """One client; how many lines it said."""
    rng = random.Random(seed)
    said = lines(rng)
    channel = Channel(rng, said)
    loop = world.loop
    ended = []
    session = Session(world.bus, channel, lambda: ended.append(True))
    dies = rng.random() < 0.1
    for turn in range(STEPS_MAX):
        if ended:
            break
        if dies and turn > 20:
            channel.dead = True
        if loop.reader is not None:
            loop.reader()
        if loop.writer is not None and rng.random() < 0.7:
            loop.writer()
        if len(session._unsent) > BUFFER_MAX or session._wire._part_bytes > LINE_MAX + (1 << 16):
            raise AssertionError("a buffer above its bound")
        await asyncio.sleep(0)
    else:
        raise AssertionError("a client that does not end")
    if not channel.closed or loop.reader is not None or loop.writer is not None:
        raise AssertionError("it has ended and is still there")
    check(said, channel, not dies)
    return said.count(b"\n")


async def run(seconds: float, seed: int) -> int:
    """Rounds until the time is over; the exit status."""
    loop = asyncio.get_running_loop()
    faults: list[object] = []
    loop.set_exception_handler(
        lambda _loop, context: faults.append(context.get("exception") or context["message"])
    )
    world = World(loop, random.Random(seed))
    start, rounds, count = time.monotonic(), 0, 0
    while time.monotonic() - start < seconds:
        try:
            count += await round_(world, seed)
            if faults:
                raise AssertionError(faults[0])
        except Exception as error:
            print(f"finding with --seed {seed}: {type(error).__name__}: {error}")
            raise
        seed += 1
        rounds += 1
        if rounds % 500 == 0:
            world = World(loop, random.Random(seed))
    print(f"{rounds} clients, {count} lines, nothing found")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args(argv)
    qtest_time.DEADLINES_MAX = 2000  # a step over many polls of an idle card is slow, not wrong
    print(f"seed {options.seed}")
    return asyncio.run(run(options.seconds, options.seed))


if __name__ == "__main__":
    sys.exit(main())
