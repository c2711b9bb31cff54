"""The hub between wires, side by side in one run: tapnet, QEMU's hub, vde_switch. ``python -m tests.bench.wires``

Two peers are joined by each of them on loopback: one sends frames as fast as they are taken, the other counts.
Stream peers write batches of length-prefixed frames; vde_switch's speak datagrams, one system call a frame, because that
is its wire. Per forwarder: frames/s and Gbit/s that arrived (60 and 1514 bytes), the share that was lost, and the round
trip of one small frame (p50, p99, microseconds; "no hub": the peers' own sockets joined, so the rest is what is added). For tapnet also 50 ports on one hub: one speaks, 49 hear.
Medians of ``--rounds`` rounds, in turn, go to .benchmarks/wires.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tapnet.backends.sockets.vde import REPLY, reply, request

ROOT = Path(__file__).resolve().parents[2]
QEMU = ("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none")
BATCH = 128 << 10
MACS = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
Peer = Callable[[int], socket.socket]


def frame(size: int, to: int = 1) -> bytes:
    """From one peer to the other, no protocol that anybody answers."""
    return (MACS[to] + MACS[1 - to] + b"\x88\xb5").ljust(size, b"\0")


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait for a value with a bound."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError("not up")
        time.sleep(0.02)
    return value


def dial(port: int) -> socket.socket:
    """Connect as soon as somebody listens."""

    def attempt() -> socket.socket | None:
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port))
        return None

    sock = until(attempt)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def ports(count: int) -> list[int]:
    """TCP ports that were free a moment ago."""
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return found


@contextlib.contextmanager
def running(words: list[str], folder: str) -> Iterator[subprocess.Popen]:
    """A forwarder."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=env,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def tapnet(folder: str) -> Iterator[Peer]:
    (port,) = ports(1)
    with running([sys.executable, "-m", "tapnet", "run", "-net", f"socket,listen=127.0.0.1:{port}"], folder):
        yield lambda _number: dial(port)


@contextlib.contextmanager
def qemu(folder: str) -> Iterator[Peer]:
    found = ports(2)
    words = list(QEMU)
    for n, port in enumerate(found):
        words += [
            "-netdev",
            f"socket,id=s{n},listen=127.0.0.1:{port}",
            "-netdev",
            f"hubport,hubid=0,id=h{n},netdev=s{n}",
        ]
    with running(words, folder):
        yield lambda number: dial(found[number])


@contextlib.contextmanager
def vde(folder: str) -> Iterator[Peer]:
    where = os.path.join(folder, "sw")

    def plug(number: int) -> socket.socket:
        data = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = os.path.join(where, f"peer{number}-{time.monotonic_ns()}")
        data.bind(path)
        control = socket.socket(socket.AF_UNIX)
        control.connect(os.path.join(where, "ctl"))
        control.sendall(request(0, path, "bench"))
        data.connect(reply(control.recv(REPLY.size, socket.MSG_WAITALL)))
        KEEP.append(control)
        return data

    with running(["vde_switch", "-s", where], folder):
        until(lambda: os.path.exists(os.path.join(where, "ctl")))
        yield plug


@contextlib.contextmanager
def straight(_folder: str) -> Iterator[Peer]:
    """Nothing in between: what the others' round trips are to be compared with."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = dial(listening.getsockname()[1])
        other, _ = listening.accept()
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield lambda number: (one, other)[number]


KEEP: list[socket.socket] = []
FORWARDERS = {"tapnet": tapnet, "qemu hub": qemu, "vde_switch": vde}


# ---- peers -------------------------------------------------------------------------------------------------


def is_stream(sock: socket.socket) -> bool:
    return sock.type == socket.SOCK_STREAM


def put(sock: socket.socket, one: bytes) -> None:
    sock.sendall(len(one).to_bytes(4, "big") + one if is_stream(sock) else one)


def get(sock: socket.socket, size: int) -> bytes:
    return sock.recv(size + 4, socket.MSG_WAITALL) if is_stream(sock) else sock.recv(size)


def speak(sock: socket.socket, size: int, seconds: float, sent: Any) -> None:
    """Send as fast as it is taken."""
    one = frame(size)
    count, end = 0, time.monotonic() + seconds
    if is_stream(sock):
        each = max(1, BATCH // (size + 4))
        data = (len(one).to_bytes(4, "big") + one) * each
        while time.monotonic() < end:
            sock.sendall(data)
            count += each
    else:
        send = sock.send
        while time.monotonic() < end:
            for _ in range(100):
                send(one)
            count += 100
    sent.value = count


def hear(sock: socket.socket, size: int, seconds: float) -> tuple[int, float]:
    """Frames that arrive, and in what time."""
    sock.settimeout(2)
    space = bytearray(1 << 20)
    total, began, last = 0, 0.0, 0.0
    stop = float("inf")
    with contextlib.suppress(TimeoutError):
        while True:
            got = sock.recv_into(space)
            last = time.monotonic()
            if not total:
                began, stop = last, last + seconds
            total += got
            if last > stop:
                break
    return total // (size + 4 if is_stream(sock) else size), last - began or 1e-9


def throughput(peer: Peer, size: int, seconds: float) -> dict[str, float]:
    """One speaks, the other hears."""
    a, b = peer(0), peer(1)
    settle(a, b)
    sent = multiprocessing.Value("q", 0)
    speaker = multiprocessing.Process(target=speak, args=(a, size, seconds, sent))
    speaker.start()
    count, took = hear(b, size, seconds + 3)
    speaker.join(10)
    if speaker.is_alive():
        speaker.kill()
    for sock in (a, b):
        sock.close()
    return {
        "frames/s": count / took,
        "Gbit/s": count * size * 8 / took / 1e9,
        "lost %": 100 * max(0, sent.value - count) / max(1, sent.value),
    }


def settle(a: socket.socket, b: socket.socket) -> None:
    """Wait until both are plugged and a switch knows where they are."""
    for here, there, to in ((b, a, 0), (a, b, 1)):
        there.settimeout(0.2)
        for _ in range(50):
            put(here, frame(60, to))
            with contextlib.suppress(TimeoutError):
                get(there, 60)
                break
        else:
            raise TimeoutError("no way through")
        with contextlib.suppress(TimeoutError):
            while True:
                there.recv(1 << 16)
        there.settimeout(None)


def latency(peer: Peer, count: int) -> dict[str, float]:
    """Round trips of a small frame through the forwarder, twice."""
    a, b = peer(0), peer(1)
    settle(a, b)

    def echo() -> None:
        for _ in range(count):
            get(b, 60)
            put(b, frame(60, 0))

    other = multiprocessing.Process(target=echo)
    other.start()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        put(a, frame(60))
        get(a, 60)
        times.append((time.perf_counter() - began) * 1e6)
    other.join(10)
    for sock in (a, b):
        sock.close()
    times.sort()
    return {"p50 us": times[count // 2], "p99 us": times[count * 99 // 100]}


def many(peer: Peer, size: int, seconds: float, count: int = 50) -> dict[str, float]:
    """One of ``count`` ports speaks; frames/s that one of the others hears, and all together."""
    socks = [peer(0) for _ in range(count)]
    settle(socks[0], socks[1])
    for sock in socks[1:]:
        sock.setblocking(False)
    sent = multiprocessing.Value("q", 0)
    speaker = multiprocessing.Process(target=speak, args=(socks[0], size, seconds, sent))
    import select

    poll = select.epoll()
    by = {sock.fileno(): sock for sock in socks[1:]}
    for fd in by:
        poll.register(fd, select.EPOLLIN)
    space, total = bytearray(1 << 20), 0
    began = time.monotonic()
    speaker.start()
    while events := poll.poll(1.5):
        for fd, _ in events:
            total += by[fd].recv_into(space)
        last = time.monotonic()
    speaker.join(10)
    for sock in socks:
        sock.close()
    heard = total / (size + 4)
    return {"in/s": sent.value / (last - began), "out/s": heard / (last - began)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="wires")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--save", default=".benchmarks/wires.json")
    given = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}

    def note(name: str, what: str, values: dict[str, float]) -> None:
        for key, value in values.items():
            found.setdefault(name, {}).setdefault(f"{what} {key}", []).append(value)

    for number in range(given.rounds):
        for name, forwarder in FORWARDERS.items():
            for size in (60, 1514):
                with tempfile.TemporaryDirectory() as folder, forwarder(folder) as peer:
                    note(name, f"{size}", throughput(peer, size, given.seconds))
            with tempfile.TemporaryDirectory() as folder, forwarder(folder) as peer:
                note(name, "rtt", latency(peer, 2000))
            if name == "tapnet":
                with tempfile.TemporaryDirectory() as folder, straight(folder) as peer:
                    note("no hub", "rtt", latency(peer, 2000))
                with tempfile.TemporaryDirectory() as folder, forwarder(folder) as peer:
                    note(name, "50 ports", many(peer, 1514, given.seconds))
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
    medians = {n: {k: statistics.median(v) for k, v in rows.items()} for n, rows in found.items()}
    keys = list(medians["tapnet"])
    print(f"{'':20}" + "".join(f"{name:>14}" for name in medians))
    for key in keys:
        print(
            f"{key:20}"
            + "".join(f"{row[key]:14,.2f}" if key in row else f"{'-':>14}" for row in medians.values())
        )
    path = Path(given.save)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"medians": medians, "rounds": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
