"""Fuzz the TCP NAT: ``python -m tests.fuzz.fuzz_tcp --seconds N [--seed S]``.

Each round makes one NAT with a fake host, throws a random script at it (segments near the truth or far from it, frames
with bytes flipped or cut, host events, a wire that is full, time), then lets a day pass: nothing may raise, buffers
must add up, and nothing may be held at the end. A failure prints the seed of its round, which repeats it alone.
"""

from __future__ import annotations

import argparse
import errno
import random
import struct
import sys
import time

from slirp.tcp.buffers import Buffers
from slirp.tcp.nat import Tcp
from slirp.tcp.states import Limits
from tests.slirp.netsim import (
    GUEST_IP,
    M32,
    MS,
    PEER_IP,
    SECOND,
    FakeHost,
    FakeLink,
    FakePath,
    FakeSocket,
    Sim,
    make_frame,
)

OPTIONS = (b"", b"\x02\x04\x05\xb4", b"\x02\x04\x05\xb4\x01\x01\x04\x02\x01\x03\x03\x07", b"\x02\x04\x00\x01")
ERRORS = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EMFILE, errno.ECONNRESET)
PORTS = (1, 2, 3)


def frame_of(rng: random.Random, tcp: Tcp, port: int) -> bytes:
    """A segment: mostly one that the flow of that port could take."""
    key = GUEST_IP + PEER_IP + struct.pack("!HH", port, 80)
    flow = tcp._flows.get(key)
    seq, ack = rng.getrandbits(32), rng.getrandbits(32)
    if flow is not None and rng.random() < 0.9:
        near = rng.choice((0, 0, 0, -1, 1, 1460, 2920, 65535, rng.randrange(-70_000, 70_000)))
        seq = flow.rcv.nxt + near
        ack = rng.choice(
            (
                flow.snd.nxt,
                flow.snd.nxt,
                flow.snd.una,
                flow.snd.nxt - 1,
                rng.randrange(flow.snd.una, flow.snd.nxt + 2),
            )
        )
    flags = rng.choice((16, 16, 16, 24, 17, 2, 18, 4, 20, 48, rng.randrange(64)))
    options = rng.choice(OPTIONS)
    if rng.random() < 0.3:
        left = ack + rng.randrange(5000)
        options = b"\x01\x01\x05\x0a" + struct.pack("!II", left & M32, (left + rng.randrange(3000)) & M32)
    elif rng.random() < 0.05:
        options = rng.randbytes(4 * rng.randrange(11))
    data = bytes(rng.choice((0, 0, 1, 100, 1460, 1460, 9000, rng.randrange(3000))))
    window = rng.choice((0, 1, 100, 8000, 65535, rng.randrange(65536)))
    urgent = rng.choice((0, 0, 1, len(data), 2000, rng.randrange(65536)))
    if rng.random() < 0.1:
        flags |= 32
    return make_frame(GUEST_IP, PEER_IP, port, 80, seq & M32, ack & M32, flags, window, options, data, urgent)


def one_round(seed: int) -> int:
    """One script; returns its number of steps."""
    rng = random.Random(seed)
    sim = Sim(seed)
    link, host = FakeLink(), FakeHost(sim)
    link.features = rng.choice((0, 0, 1, 3, 7))
    host.send_buffer = rng.choice((1, 1000, 1 << 40))
    host.drain_rate = rng.choice((0, 1, 5000))
    if host.send_buffer == 1:
        host.drain_rate = 1
    buffers = Buffers(rng.choice((20_000, 1 << 26)))
    limits = Limits(flows=2, time_wait_flows=1, reassembly_chunks=8, sack_ranges=4)
    tcp = Tcp(link, host, rng, limits=limits, buffers=buffers)
    steps = rng.randrange(5, 200)
    for _ in range(steps):
        link.out.clear()
        act = rng.random()
        if act < 0.6:
            frame = frame_of(rng, tcp, rng.choice(PORTS))
            vnet = b"\x02" + bytes(9)
            size = len(frame)
            if rng.random() < 0.1:
                at = rng.randrange(34, size)
                frame = frame[:at] + rng.randbytes(1) + frame[at + 1 :]
                vnet = rng.choice((b"", vnet))
            if rng.random() < 0.05:
                size = rng.randrange(38, size)
            tcp.input(frame[:size], vnet, 34, size, frame[26:34] + frame[34:38], sim.now)
        elif act < 0.75 and host.sockets:
            sock = rng.choice(host.sockets)
            what = rng.random()
            if what < 0.1:
                sock.say_urgent(bytes(rng.choice((1, 5, 3000))))
            elif what < 0.6:
                sock.say(bytes(rng.choice((1, 1460, 100_000))))
            elif what < 0.85:
                sock.end()
            else:
                sock.fail(errno.ECONNRESET)
        elif act < 0.8:
            host.answers["192.0.2.7", 80] = rng.choice((0, 0, 0, None, *ERRORS))
        elif act < 0.83:
            link.room = rng.choice((0, 1, 1 << 30))
            tcp.tx_ready(sim.now)
        elif act < 0.85:
            sock = FakeSocket(host, ("192.0.2.7", 80), None)
            port = rng.choice(PORTS)
            key = GUEST_IP + PEER_IP + struct.pack("!HH", port, 80)
            sock.events = tcp.open(sock, FakePath(PEER_IP, GUEST_IP), key, sim.now)
            if sock.events is not None:
                host.sockets.append(sock)
        else:
            span = rng.choice((MS, 50 * MS, SECOND, 30 * SECOND))
            end = sim.now + span
            sim.run(lambda: False, tcp, span)
            sim.now = end
        assert 0 <= buffers.used <= buffers.cap + 2 * 65536
        list(tcp.flows())
    host.drain_rate = 0
    link.room = 1 << 30
    tcp.tx_ready(sim.now)
    if rng.random() < 0.1:
        tcp.close(sim.now)
    link.out.clear()
    sim.run(lambda: False, tcp, 86_400 * SECOND)
    assert len(tcp) == 0, [row["state"] for row in tcp.flows()]
    assert buffers.used == 0
    assert tcp.next_deadline() is None
    assert all(sock.closed for sock in host.sockets)
    return steps


def main() -> int:
    """Rounds until the time is up; exit status 1 at the first failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="repeat one round")
    args = parser.parse_args()
    if args.seed is not None:
        one_round(args.seed)
        return 0
    start = time.monotonic()
    seed = random.SystemRandom().getrandbits(32)
    rounds = steps = 0
    while time.monotonic() - start < args.seconds:
        try:
            steps += one_round(seed)
        except BaseException:
            print(f"fuzz_tcp: failed with --seed {seed}", file=sys.stderr)
            raise
        seed += 1
        rounds += 1
    print(f"fuzz_tcp: {rounds} rounds, {steps} steps, no failure")
    return 0


if __name__ == "__main__":
    sys.exit(main())
