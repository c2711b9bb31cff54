"""Fuzz the virtio_net_hdr parser: super-frames with spoilt headers, by way of a hub to a plain port.

    python -m tests.fuzz.fuzz_offload --seconds N [--seed S]

A finding is any exception, a frame that is neither delivered nor counted, one that arrives owing work, or more
payload bytes out than in. It is printed with its seed, and the exit status is 1.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable

from tapnet.virtio import TUN_F_CSUM, TUN_F_TSO
from tapnet.vlan import offload
from tapnet.vlan.hub import Hub
from tapnet.vlan.port import Port
from tests.fuzz import runner
from tests.tapnet.offload_slow import Packet
from tests.tapnet.vlan.test_offload import vnet_of


def packet(rng: random.Random) -> Packet:
    """A sound super-frame."""
    version, protocol = rng.choice((4, 6)), rng.choice((6, 17))
    width = 4 if version == 4 else 16
    options = rng.choice((0, 4, 40)) if version == 4 else rng.choice((0, 8, 24))
    return Packet(
        version=version,
        protocol=protocol,
        tags=rng.choice((b"", b"\x81\x00\x00\x01")),
        ip_options=(bytes([protocol, max(options // 8 - 1, 0)]) + bytes(40))[:options]
        if version == 6
        else bytes(options),
        first_extension=rng.choice((0, 43, 60)),
        source=rng.randbytes(width),
        dest=rng.randbytes(width),
        flags=rng.randrange(256),
        tcp_options=rng.choice((b"", bytes(12))) if protocol == 6 else b"",
        payload=rng.randbytes(rng.choice((0, 1, 100, 3000, 40000))),
    )


def spoil(rng: random.Random, data: bytes, reach: int) -> bytes:
    """Change up to three bytes among the first ``reach``, perhaps cut."""
    out = bytearray(data)
    for _ in range(rng.randrange(4)):
        out[rng.randrange(min(reach, len(out)))] = rng.choice((0, 1, 5, 0x45, 0x7F, 0xFF, rng.randrange(256)))
    return bytes(out[: rng.randrange(len(out) + 1)] if rng.random() < 0.1 else out)


def attempt(rng: random.Random) -> None:
    """One super-frame over a hub. Raises what should not be raised."""
    soon: deque[Callable[[], None]] = deque()
    hub = Hub(0, soon.append)
    got: list[tuple[bytes, bytes]] = []

    def receive(frame: bytes, vnet: bytes) -> bool:
        got.append((frame, vnet))
        return True

    features = rng.choice((0, TUN_F_CSUM, TUN_F_TSO))
    sender, taker = Port("a", lambda _f, _v: True), Port("b", receive, features=features)
    hub.add(sender)
    hub.add(taker)
    whole = packet(rng)
    frame = spoil(rng, whole.frame(partial=True), 120)
    vnet = spoil(rng, vnet_of(whole, rng.choice((0, 1, 48, 536, 1460, 65535))), 10)
    if not frame:
        return
    sender.send(frame, vnet)
    for _ in range(100):
        if not soon:
            break
        soon.popleft()()
    lost = sum(taker.counters.drops.values())
    assert not taker.queue and not taker.queued_bytes, "something is left in the queue"
    assert (lost, bool(got)) in ((1, False), (0, True)), f"{lost} counted, {len(got)} delivered"
    assert all(offload.accepted(left, features) for _, left in got), "work is still owed"
    assert len(got) <= offload.SEGMENTS_MAX
    headers = 14 + 8 + 60 + 60 + 8 * 256 * 8
    assert sum(len(f) for f, _ in got) <= len(frame) + len(got) * headers, "bytes out of nowhere"


def case(seed: int, _done: runner.Done) -> None:
    """One attempt."""
    attempt(random.Random(seed))


if __name__ == "__main__":
    sys.exit(runner.main("fuzz_offload", case))
