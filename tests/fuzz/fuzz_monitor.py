"""Fuzz a monitor's session: spoilt commands in pieces of any size, to a transport that stalls at times.

    python -m tests.fuzz.fuzz_monitor --seconds N [--seed S]

A finding is any exception, an answer that breaks the control socket's framing, an instance ended by anything but
``quit``, or a session that keeps more than it may. It is printed with its seed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence

from tapnet.monitor import session as sessions
from tapnet.monitor.commands import INFO
from tapnet.monitor.control import Control
from tapnet.monitor.hmp import WORDS as COMMANDS
from tapnet.monitor.hmp import Hmp
from tests.tapnet.monitor.kit import seed_instance

WORDS = (
    *(name for name in (*COMMANDS, *INFO) if name not in ("quit", "q")),
    *(
        "-v",
        "on",
        "off",
        "up",
        "tap.0",
        "user.0",
        "rtl8139.0",
        "'",
        '"',
        "\\",
        "\t",
        "\0",
        "é",
        "\udc80",
        "x" * 3000,
    ),
)


class FakeTransport(asyncio.Transport):
    """Keeps what is written; says "stop" now and then."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.written = bytearray()
        self.closing = False
        self.session: sessions.Session | None = None
        self.stopped = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.written += data
        if self.rng.random() < 0.2 and self.session is not None and not self.stopped:
            self.stopped = True
            self.session.pause_writing()

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


def stream(rng: random.Random) -> bytes:
    """Lines of words, perhaps without an end."""
    lines = [" ".join(rng.choice(WORDS) for _ in range(rng.randrange(4))) for _ in range(rng.randrange(8))]
    return rng.choice(("\n", "\r\n")).join([*lines, rng.choice(("", "x"))]).encode("utf-8", "surrogateescape")


async def attempt(rng: random.Random) -> None:
    """One session. Raises what should not be raised."""
    _, instance = seed_instance()
    framed = rng.random() < 0.5
    transport = FakeTransport(rng)
    session = sessions.LineSession(Hmp(Control(instance)), framed)
    session.connection_made(transport)
    transport.session = session
    data = stream(rng)
    while data and not transport.closing:
        if transport.stopped:
            before = len(transport.written)
            transport.stopped = False
            session.resume_writing()
            assert transport.closing or len(transport.written) >= before
            continue
        size = rng.choice((1, 7, 100, 5000))
        session.data_received(data[:size])
        data = data[size:]
    for _ in range(20):
        if transport.stopped:
            transport.stopped = False
            session.resume_writing()
    session.connection_lost(None)
    assert instance.ended == 0, "ended without quit"
    if framed:
        check_frames(bytes(transport.written))


def check_frames(data: bytes) -> None:
    """Raises if ``data`` is not a row of whole answers."""
    while data:
        head, _, rest = data.partition(b"\n")
        status, size = head.split()
        assert status in (b"ok", b"error")
        rest[: int(size)].decode()
        assert len(rest) >= int(size)
        data = rest[int(size) :]


async def play(seconds: float, first: int) -> int:
    """Sessions until the time is over."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        seed = first + count
        count += 1
        try:
            await attempt(random.Random(seed))
        except Exception as error:
            print(f"fuzz_monitor: seed {seed}: {type(error).__name__}: {error}")
            return 1
    print(f"fuzz_monitor: {count} sessions, nothing found (first seed {first})")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the time is over; 1 if something was found."""
    parser = argparse.ArgumentParser(prog="fuzz_monitor")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    given = parser.parse_args(arguments)
    return asyncio.run(play(given.seconds, given.seed))


if __name__ == "__main__":
    sys.exit(main())
