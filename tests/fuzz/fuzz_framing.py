"""Fuzz the framing and the pipe under it: valid streams spoilt and cut anywhere, against a slow twin and a real socket.

    python -m tests.fuzz.fuzz_framing --seconds N [--seed S]

A finding is: another sequence of frames than the twin's, an exception, memory kept beyond one frame, or a connection that
neither ends nor goes on. It is printed with its seed, and the exit status is 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys

from tapnet.backends.sockets.framing import FRAME_MAX, HEAD, Splitter, head
from tapnet.backends.sockets.pipe import Pipe
from tapnet.vlan.hub import Hub
from tapnet.vlan.port import Port
from tests.fuzz import runner

SIZES = (0, 1, 13, 14, 59, 60, 1514, 4096, 65535, FRAME_MAX - 1, FRAME_MAX)


def stream(rng: random.Random) -> bytes:
    """Frames, perhaps with some bytes spoilt."""
    data = bytearray()
    for _ in range(rng.randrange(8)):
        size = rng.choice(SIZES) if rng.random() < 0.5 else rng.randrange(200)
        data += head(size) + bytes((rng.randrange(256),)) * size
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        if data:
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
    if rng.random() < 0.1:
        data += rng.randbytes(rng.randrange(40))
    return bytes(data)


def cuts(rng: random.Random, data: bytes) -> list[bytes]:
    """``data`` in pieces, empty ones left out."""
    pieces, at = [], 0
    while at < len(data):
        size = rng.choice((1, 2, 3, 4, 5, 64, 1000, 1 << 16, 1 << 18))
        pieces.append(data[at : at + size])
        at += size
    return pieces


def twin(data: bytes) -> tuple[list[bytes], bool]:
    """The frames, and whether the stream got out of step."""
    frames, at = [], 0
    while len(data) - at >= HEAD:
        size = int.from_bytes(data[at : at + HEAD], "big")
        if size > FRAME_MAX:
            return frames, True
        if len(data) - at - HEAD < size:
            break
        if size:
            frames.append(data[at + HEAD : at + HEAD + size])
        at += HEAD + size
    return frames, False


def check_splitter(rng: random.Random, data: bytes) -> None:
    """Raises AssertionError."""
    frames, broken = twin(data)
    splitter, got = Splitter(), []
    for piece in cuts(rng, data):
        got += splitter.feed(piece)
        assert splitter.partial < HEAD + FRAME_MAX, "keeps too much"
    assert got == frames, "other frames"
    assert (splitter.broken is not None) == broken, "out of step or not"


async def check_pipe(rng: random.Random, data: bytes) -> None:
    """The same through a real socket, with a receiver that refuses now and then. Raises AssertionError."""
    loop = asyncio.get_running_loop()
    frames, broken = twin(data)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    hub, got, ended = Hub(0, loop.call_soon), [], []

    def receive(frame: bytes, _vnet: bytes) -> bool:
        if rng.random() < 0.1:
            loop.call_soon(taker.flush)
            return False
        got.append(frame)
        return True

    taker = Port("taker", receive, queue_frames=rng.choice((1, 4, 512)))
    port = Port("pipe", lambda frame, vnet: True)
    pipe = Pipe(loop, ours, port, ended.append)
    port.receive, port.ready = pipe.receive, pipe.ready
    hub.add(taker)
    hub.add(port)
    pipe.start()
    with contextlib.suppress(OSError):
        for piece in cuts(rng, data):
            await asyncio.wait_for(loop.sock_sendall(theirs, piece), 5)
    if not broken:
        theirs.close()
    end = loop.time() + 5
    while not ended or len(got) < len(frames):
        assert loop.time() < end, f"neither ends nor goes on: {len(got)} of {len(frames)}, {ended}"
        await asyncio.sleep(0)
    assert got == frames, "other frames"
    assert pipe.closed and ("69632" in ended[0] if broken else "closed by the peer" in ended[0]), ended
    theirs.close()


def case(seed: int, _done: runner.Done) -> None:
    """One stream; every fourth through a pipe too."""
    rng = random.Random(seed)
    data = stream(rng)
    check_splitter(rng, data)
    if seed % 4 == 0:
        asyncio.run(check_pipe(rng, data))


if __name__ == "__main__":
    sys.exit(runner.main("fuzz_framing", case))
