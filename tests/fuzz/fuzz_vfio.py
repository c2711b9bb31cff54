"""Fuzz the vfio-user server: spoilt messages in pieces of any size, with descriptors, to every card.

    python -m tests.fuzz.fuzz_vfio --seconds N [--seed S]

Each session talks to a card of its own kind: greeting, maps of sealed, plain and unsuitable files, register and
configuration accesses, interrupts, resets, answers that nobody asked for, garbage; files shrink meanwhile, frames come
from the wire. A finding is any exception, a session that ends by a fault of ours, a descriptor that stays, a server that
does not take the next client, one call that holds the loop for longer than ``HELD_S``. It is printed with its seed, and
the exit status is 1.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from nic_models import models
from tapnet.guest.vfio_user import wire
from tapnet.guest.vfio_user.server import isa_function
from tests.tapnet.vfio_kit import Client, Rig, descriptors, irq_set, memfd, version

MAC = b"\x52\x54\0\x12\x34\x56"
CARDS = (("ne2k_pci", None), ("ne2k_isa", None), ("rtl8139", None), ("rtl8139", 0x10), ("pcnet", None))
STEPS = 60
HELD_S = 5.0
PAGE = 4096
SHIFTS = (0, 1, 4, 12, 20, 31, 32, 63, 64)


def number(rng: random.Random) -> int:
    """Often small, often near a power of two."""
    return max(0, (1 << rng.choice(SHIFTS)) + rng.randrange(-4, 5)) & ((1 << 64) - 1)


class Fuzzer:
    """One card on a socket; ``session`` plays one client."""

    def __init__(self, folder: Path, model: str, rev: int | None) -> None:
        self.sent: list[bytes] = []
        if model == "ne2k_isa":
            function = isa_function(model, MAC, self._tx, lambda: None, time.monotonic_ns)
        else:
            function = models.pci_function(model, MAC, self._tx, lambda: None, time.monotonic_ns, rev=rev)
        self.rng = random.Random()
        self.rig = Rig(folder, function)

    def _tx(self, frame: bytes, vnet: bytes = b"") -> bool:
        return self.rng.random() < 0.9

    def session(self, seed: int) -> None:
        """Raises what it finds."""
        rng = self.rng = random.Random(seed)
        rig = self.rig
        before = descriptors()
        client = rig.client(greet=False)
        client.sock.setblocking(False)
        files = [
            memfd(16 * PAGE, sealed=True),
            memfd(16 * PAGE, sealed=False),
            os.eventfd(0, os.EFD_NONBLOCK),
        ]
        files.append(os.open("/dev/null", os.O_RDWR))
        if rng.random() < 0.95:
            self._send(client, client.message(wire.VERSION, version()), [])
        for _ in range(STEPS):
            if rig.server.session is None:
                break
            self._step(client, files)
            began = time.monotonic()
            rig.turn()
            assert time.monotonic() - began < HELD_S, "held the loop"
        client.close()
        rig.until(lambda: rig.server.session is None)
        rig.clients.clear()
        for fd in files:
            os.close(fd)
        assert not rig.faults, rig.faults
        assert descriptors() == before, "a descriptor stays"

    def _send(self, client: Client, data: bytes, fds: list[int]) -> None:
        try:
            while client.sock.recv(1 << 16):
                pass
        except OSError:
            pass
        try:
            if fds:
                client.send(data, fds)
            else:
                client.sock.send(data)
        except (OSError, AssertionError):
            pass  # closed, or full

    def _step(self, client: Client, files: list[int]) -> None:
        rng, rig = self.rng, self.rig
        kind = rng.random()
        if kind < 0.1:
            rig.server.receive(rng.randbytes(rng.choice((0, 1, 14, 60, 1514, 1515, 9000))))
        elif kind < 0.12:
            rig.server.set_link(rng.random() < 0.5)
        elif kind < 0.14:
            rig.server.tx_ready()
        elif kind < 0.16:
            os.ftruncate(files[1], rng.randrange(32 * PAGE))
        else:
            command, body, fds = self._message(files)
            flags = rng.choice((0, 0, 0, wire.NO_REPLY, wire.REPLY, wire.ERROR | wire.REPLY))
            data = client.message(command, body, flags if rng.random() < 0.5 else 0)
            if rng.random() < 0.01:
                spoilt = bytearray(data)
                spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
                data = bytes(spoilt)
            if rng.random() < 0.005:
                data = data[: rng.randrange(1, len(data) + 1)]
            cut = rng.randrange(1, len(data) + 1) if rng.random() < 0.2 else len(data)
            self._send(client, data[:cut], fds)
            if cut < len(data):
                rig.turn()
                self._send(client, data[cut:], [])

    def _message(self, files: list[int]) -> tuple[int, bytes, list[int]]:
        rng = self.rng
        fds = rng.choices(files, k=rng.choice((1, 1, 2, 17))) if rng.random() < 0.01 else []
        roll = rng.random()
        if roll < 0.45:
            size = rng.choice((1, 2, 4, 4, 4, 8, 3))
            region = rng.choice((0, 0, 0, 1, 1, 7, 2, 9))
            offset = rng.randrange(256) if rng.random() < 0.98 else number(rng)
            value = rng.randbytes(size)
            return wire.REGION_WRITE, wire.ACCESS.pack(offset, region, size) + value, fds
        if roll < 0.6:
            return (
                wire.REGION_READ,
                wire.ACCESS.pack(rng.randrange(260), rng.choice((0, 1, 7)), rng.choice((1, 2, 4, 256))),
                fds,
            )
        if roll < 0.65:  # allow DMA and the regions
            return wire.REGION_WRITE, wire.ACCESS.pack(4, 7, 2) + b"\7\0", fds
        if roll < 0.75:
            address, size = rng.randrange(8) * 16 * PAGE, rng.choice((1, 4, 16, 17)) * PAGE
            if rng.random() < 0.2:
                address, size = number(rng), number(rng)
            body = wire.MAP.pack(32, rng.randrange(4), rng.choice((0, PAGE, 100)), address, size)
            return wire.DMA_MAP, body, fds or ([rng.choice(files)] if rng.random() < 0.7 else [])
        if roll < 0.78:
            body = wire.UNMAP.pack(24, rng.choice((0, 0, 1, 2)), rng.randrange(8) * 16 * PAGE, 16 * PAGE)
            return wire.DMA_UNMAP, body, fds
        if roll < 0.86:
            flags = rng.choice((0x24, 0x21, 0x11, 0x09, 0x22, rng.randrange(128)))
            return (
                wire.SET_IRQS,
                irq_set(flags, rng.choice((0, 0, 3, 1)), 0, rng.randrange(3), b"\1"),
                fds or [files[2]],
            )
        if roll < 0.9:
            count = rng.randrange(20)
            body = wire.MULTI_COUNT.pack(count) + b"".join(
                wire.MULTI.pack(
                    rng.randrange(256), rng.randrange(2), rng.choice((1, 2, 4, 8)), rng.randbytes(8)
                )
                for _ in range(count)
            )
            return wire.WRITE_MULTI, body, fds
        if roll < 0.94:
            return (
                rng.choice((wire.DMA_READ, wire.DMA_WRITE)),
                rng.randbytes(rng.choice((0, 16, 20, 80))),
                fds,
            )
        if roll < 0.96:
            return wire.RESET, b"", fds
        return rng.randrange(20), rng.randbytes(rng.randrange(64)), fds


def play(seconds: float, first: int) -> int:
    """Sessions until the time is over."""
    end, count = time.monotonic() + seconds, 0
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("tapnet.vfio-user")
    logger.addHandler(handler)
    logger.propagate = False
    with tempfile.TemporaryDirectory() as folder:
        fuzzers = []
        for place, (model, rev) in enumerate(CARDS):
            below = Path(folder) / str(place)
            below.mkdir()
            fuzzers.append(Fuzzer(below, model, rev))
        while time.monotonic() < end:
            seed = first + count
            fuzzer = fuzzers[seed % len(fuzzers)]
            count += 1
            try:
                fuzzer.session(seed)
                faults = [r for r in records if r.levelno >= logging.ERROR]
                assert not faults, faults[0].exc_info or faults[0].getMessage()
                ends = sum("session ended" in r.getMessage() for r in records)
                assert ends == 1, f"{ends} lines for one session"
            except Exception as error:
                print(f"fuzz_vfio: seed {seed} ({CARDS[seed % len(CARDS)]}): {type(error).__name__}: {error}")
                return 1
            records.clear()
        for fuzzer in fuzzers:
            fuzzer.rig.close()
    print(f"fuzz_vfio: {count} sessions, nothing found (first seed {first})")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the time is over; 1 if something was found."""
    parser = argparse.ArgumentParser(prog="fuzz_vfio")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    given = parser.parse_args(arguments)
    return play(given.seconds, given.seed)


if __name__ == "__main__":
    sys.exit(main())
