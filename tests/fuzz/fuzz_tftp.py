"""Fuzz the TFTP server: ``python -m tests.fuzz.fuzz_tftp --seconds N [--seed S]``.

Each round makes one stack with files in memory and throws a random script at it: requests, whole, mutated and cut,
ACKs and blocks near and far from what is expected, from several ports and guests, disks that fail, a wire that is
full, time. A finding is any exception, an opened name that leads out of the directory, more sessions or more bytes
held than the limits, or anything left after an hour. It is printed with its seed, which repeats it alone, and the
exit status is 1."""

from __future__ import annotations

import argparse
import errno
import random
import sys
import time
import traceback

from slirp.services.tftp import PER_GUEST, SESSIONS
from slirp.services.tftp_session import READ, WINDOW_BYTES
from slirp.wire.tftp import ACK, BLKSIZE_MAX, DATA, ERROR, HEAD
from tests.slirp.fakes import arp, udp
from tests.slirp.services.test_tftp import RRQ, WRQ, Bench, ask

STEPS = 200
HOUR = 3600
GUESTS = ("10.0.2.15", "10.0.2.16", "10.0.2.17")
NAMES = (
    b"f",
    b"big",
    b"a/b",
    b"../f",
    b"/srv/tftp/f",
    b"new",
    b"",
    b"//",
    b"a/../b",
    b"\xff\xfe",
    b"x" * 600,
)
OPTIONS = ("blksize", "tsize", "timeout", "windowsize", "multicast", "BLKSIZE")
VALUES = (0, 1, 7, 8, 512, 1428, 65464, 65465, 1 << 70, -1, "x", "")


def request(rng: random.Random) -> bytes:
    options = {rng.choice(OPTIONS): rng.choice(VALUES) for _ in range(rng.randrange(4))}
    mode = rng.choice((b"octet", b"octet", b"netascii", b"mail", b"OcTeT"))
    return ask(rng.choice(NAMES), mode, rng.choice((RRQ, RRQ, WRQ, rng.randrange(65536))), **options)


def mutated(rng: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        if found:
            found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found[: rng.randrange(len(found) + 1)] if rng.random() < 0.3 else found)


def script(seed: int) -> None:
    """One round. Raises AssertionError, or whatever the server raised."""
    rng = random.Random(seed)
    bench = Bench(
        write=rng.random() < 0.5, mtu=rng.choice((576, 1500, 65520)), f=b"abc\r\n" * 400, big=bytes(300_000)
    )
    net, files = bench.net, bench.net.host.files
    server = net.stack.tftp
    assert server is not None
    for number, guest in enumerate(GUESTS):
        net.put(arp(1, guest, "10.0.2.2", sha=bytes((82, 84, 0, 0, 1, number))))
    for _ in range(STEPS):
        guest, port = rng.choice(GUESTS), rng.choice((2000, 2001, rng.randrange(65536)))
        choice = rng.random()
        to = 69
        if choice < 0.3:
            data = request(rng)
            if rng.random() < 0.3:
                data = mutated(rng, data)
        elif choice < 0.8 and server.sessions:
            session = rng.choice(list(server.sessions.values()))
            to = session.tid
            if rng.random() < 0.9:
                guest, port = ".".join(map(str, session.key[:4])), session.port
            near = getattr(session, "next", getattr(session, "taken", 0)) + rng.randrange(-3, 4)
            block = near & 0xFFFF if rng.random() < 0.9 else rng.randrange(65536)
            opcode = rng.choice((ACK, ACK, DATA, DATA, DATA, ERROR if rng.random() < 0.1 else ACK))
            size = rng.choice((session.blksize, session.blksize, rng.randrange(session.blksize + 2)))
            data = HEAD.pack(opcode, block) + (bytes(min(size, 60_000)) if opcode == DATA else b"")
            if rng.random() < 0.05:
                data = mutated(rng, data)
        else:
            data = b""
        if data or rng.random() < 0.1:
            net.put(udp("10.0.2.2", to, data[:65_000], sport=port, src=guest))
        net.full = rng.random() < 0.05
        files.fail = rng.choice((errno.ENOSPC, errno.EIO)) if rng.random() < 0.05 else 0
        if rng.random() < 0.8:
            files.work(net.now)
        net.take()
        if not net.full:
            net.stack.tx_ready(net.now)
            net.take()
        if rng.random() < 0.1:
            net.run(rng.choice((0.5, 3, 20)))
        check(bench)
    net.full = False
    net.stack.tx_ready(net.now)
    files.work(net.now)
    net.run(HOUR)
    files.work(net.now)
    assert not server.sessions, "a session outlived an hour"
    assert all(file.closed for file in files.opened), "a file stayed open"


def check(bench: Bench) -> None:
    """Nothing is beyond its limit."""
    server = bench.net.stack.tftp
    assert server is not None and len(server.sessions) <= SESSIONS
    for guest in GUESTS:
        start = bytes(map(int, guest.split(".")))
        assert sum(key.startswith(start) for key in server.sessions) <= PER_GUEST
    for session in server.sessions.values():
        held = getattr(session, "_held", b"")
        size = len(held) if isinstance(held, bytearray) else sum(map(len, held))
        assert size <= 4 * READ + WINDOW_BYTES + BLKSIZE_MAX, size  # netascii doubles at most
    for file in bench.net.host.files.opened[-3:]:
        assert file.name and not {"", ".", ".."} & set(file.name.split("/")), file.name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    if given.seed is not None:
        script(given.seed)
        return 0
    end = time.monotonic() + given.seconds
    seed = int.from_bytes(random.SystemRandom().randbytes(4), "big")
    rounds = findings = 0
    while time.monotonic() < end and findings < 5:
        seed += 1
        rounds += 1
        try:
            script(seed)
        except Exception:
            findings += 1
            print(f"--seed {seed}", file=sys.stderr)
            traceback.print_exc()
    print(f"{rounds} rounds, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
