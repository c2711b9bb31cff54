"""Fuzz a monitor's session: spoilt commands in pieces of any size, to a transport that stalls at times.

    python -m tests.fuzz.fuzz_monitor --seconds N [--seed S]

A finding is any exception, an answer that breaks the control socket's framing, an instance ended by anything but
``quit``, or a session that keeps more than it may. It is printed with its seed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence

from tapnet.monitor.commands.control import Control
from tapnet.monitor.commands.general import GENERAL, LIVE, NETWORK
from tapnet.monitor.hmp import Hmp
from tapnet.monitor.qmp import Qmp
from tapnet.monitor.sessions import session as sessions
from tapnet.monitor.sessions.qmp import QmpSession
from tests.tapnet.monitor.kit import seed_instance

OURS = (*GENERAL, *NETWORK, *LIVE)  # what the kit's instance knows
WORDS = (
    *(name for row in OURS for name in row.names if name not in ("quit", "q")),
    "info",
    "help",
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


NAMES = (
    *(row.qmp for row in OURS if row.qmp not in ("", "quit")),
    "qmp_capabilities",
    "human-monitor-command",
    "query-commands",
    "x",
)
VALUES = (
    None,
    1,
    -1,
    2**70,
    1.5,
    True,
    "",
    "tap.0",
    "user",
    "info network",
    "x" * 3000,
    [],
    ["a"],
    {},
    {"a": [{}]},
)
MEMBERS = (
    "name",
    "up",
    "rule",
    "netdev",
    "id",
    "type",
    "driver",
    "vlan",
    "command-line",
    "enable",
    "hubid",
    "net",
)


def messages(rng: random.Random) -> bytes:
    """QMP, spoilt at times."""
    texts = [b'{"execute": "qmp_capabilities"}'] if rng.random() < 0.8 else []
    for _ in range(rng.randrange(8)):
        message = {
            rng.choice(("execute", "execute", "exec-oob", "x")): rng.choice((*NAMES, 1)),
            "arguments": {rng.choice(MEMBERS): rng.choice(VALUES) for _ in range(rng.randrange(4))},
            rng.choice(("id", "x")) if rng.random() < 0.3 else "id": rng.choice(VALUES),
        }
        text = json.dumps(message, indent=rng.choice((None, 1))).encode()
        if rng.random() < 0.3:
            at = rng.randrange(len(text))
            text = (
                text[:at]
                + rng.choice((b"", b'"', b"}", b"\xff", b"\\", b"\n", bytes([rng.randrange(256)])))
                + text[at + 1 :]
            )
        texts.append(text)
    return rng.choice((b"", b"\r\n")).join(texts)


async def attempt(rng: random.Random) -> None:
    """One session. Raises what should not be raised."""
    _, instance = seed_instance()
    machine = rng.random() < 0.5
    framed = not machine and rng.random() < 0.5
    transport = FakeTransport(rng)
    session: sessions.Session
    if machine:
        session = QmpSession(Qmp(Control(instance), rng.random() < 0.5), instance.events)
    else:
        session = sessions.LineSession(Hmp(Control(instance)), framed)
    session.connection_made(transport)
    transport.session = session
    data = messages(rng) if machine else stream(rng)
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
    if machine:
        check_json(bytes(transport.written))
        assert not instance.events.heard


def check_frames(data: bytes) -> None:
    """Raises if ``data`` is not a row of whole answers."""
    while data:
        head, _, rest = data.partition(b"\n")
        status, size = head.split()
        assert status in (b"ok", b"error")
        rest[: int(size)].decode()
        assert len(rest) >= int(size)
        data = rest[int(size) :]


def check_json(data: bytes) -> None:
    """Raises if ``data`` is not a row of QMP's messages."""
    for line in data.splitlines():
        assert len({"QMP", "return", "error", "event"} & json.loads(line).keys()) == 1, line


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
