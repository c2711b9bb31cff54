"""Register operations by qtest: QEMU's server and ours, the same client, side by side. ``python -m tests.bench.qtest``

Peers, each a process of its own with the same card in slot 3 and 16 MiB of RAM, measured in turn, ``--rounds`` times:

    qemu     qemu-system-x86_64 -qtest, stopped (-S), so that its processor takes no time
    tapnet   tapnet run -qtest
    asyncio  the same without uvloop
    floor    our event loop with a callback that answers OK to anything: what sockets and loop cost by themselves

Loads: ``round trip``: a line, its answer, the next line; ``pipelined``: 500 lines in one write; ``frame``: the 750 words
of a 1500-byte frame through the NE2000's data port, as 750 ``inw`` in one write and, with our block extension, as one
``insw``. What is printed and saved (.benchmarks/qtest.json) are medians over the rounds, in microseconds per line (per
frame for ``frame``), on the clock and of the server's processor time, and the ratio to QEMU's: above 1, ours is faster.
On a machine that has other work the first is mostly the scheduler's; the second is the server's own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.oracle.qtest_client import QtestClient

MAC = "52:54:00:12:34:56"
IO, SLOT = 0xC000, 3
QUICK = "import sys; sys.modules['uvloop'] = None; from tapnet.__main__ import main; main()"
FLOOR = """
import socket, sys, uvloop
loop = uvloop.new_event_loop()
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
def accept():
    client, _ = server.accept()
    client.setblocking(False)
    def ready(recv=client.recv, send=client.send):
        data = recv(65536)
        if data:
            send(b"OK\\n" * data.count(b"\\n"))
        else:
            loop.remove_reader(client)
            client.close()
    loop.add_reader(client, ready)
loop.add_reader(server, accept)
loop.run_forever()
"""
PEERS = ("qemu", "tapnet", "asyncio", "floor")
MODELS = ("ne2k_pci", "rtl8139", "pcnet")
PIPELINE = 500


def command(peer: str, model: str, path: str) -> list[str]:
    """How the peer is started."""
    if peer == "floor":
        return [sys.executable, "-c", FLOOR, path]
    if peer == "qemu":
        qemu = shutil.which("qemu-system-x86_64")
        assert qemu, "apt-get install qemu-system-x86"
        words = f"-M pc -m 16 -accel tcg -S -nodefaults -display none -qtest-log none -device {model},addr={SLOT},mac={MAC}"
        return [qemu, *words.split(), "-qtest", f"unix:{path},server=on,wait=off"]
    python = ["-c", QUICK] if peer == "asyncio" else ["-m", "tapnet"]
    words = f"run -m 16M -net nic,model={model},addr={SLOT},macaddr={MAC} -net user"
    return [sys.executable, *python, *words.split(), "-qtest", f"unix:{path},server=on,wait=off"]


@dataclass
class Peer:
    """A server and a connection to it."""

    socket: socket.socket
    process: subprocess.Popen[bytes]

    def processor_time(self) -> float:
        """Seconds of all its threads."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextlib.contextmanager
def running(peer: str, model: str, directory: str) -> Iterator[Peer]:
    """The peer with its card enabled."""
    path = f"{directory}/{peer}-{model}"
    process = subprocess.Popen(command(peer, model, path), stderr=subprocess.DEVNULL)
    try:
        client = QtestClient.unix(path)
        if peer != "floor":
            client.set_config(SLOT, 0x10, IO)
            client.set_config(SLOT, 0x04, 5, 2)
        yield Peer(client.socket, process)
        client.close()
    finally:
        process.terminate()
        process.wait(20)


@dataclass(frozen=True)
class Load:
    """``lines`` are sent and answered ``repeat`` times; results are per ``unit`` of ``lines``."""

    lines: bytes
    repeat: int
    units: int

    def run(self, peer: Peer) -> tuple[float, float]:
        """Microseconds per unit: on the clock, and of the server's processor time."""
        count = self.lines.count(b"\n")
        lines, send, recv = self.lines, peer.socket.sendall, peer.socket.recv
        before = peer.processor_time()
        start = time.perf_counter()
        for _ in range(self.repeat):
            send(lines)
            seen = 0
            while seen < count:
                seen += recv(1 << 18).count(b"\n")
        wall = time.perf_counter() - start
        spent = peer.processor_time() - before
        units = self.repeat * self.units
        return wall / units * 1e6, spent / units * 1e6


def trip(line: str) -> Load:
    """One line at a time."""
    return Load(line.encode() + b"\n", 400, 1)


def pipe(make: Callable[[int], str]) -> Load:
    """Many lines in one write; ``make`` is given well mixed numbers of 32 bits."""
    lines = "".join(make(n * 2654435761 % (1 << 32)) + "\n" for n in range(PIPELINE))
    return Load(lines.encode(), 4, PIPELINE)


def frame(words: str, repeat: int) -> Load:
    """1500 bytes out of the NE2000's memory, ``words`` being the lines that read the data port."""
    setup = ((0x00, 0x22), (0x0E, 0x49), (0x08, 0x00), (0x09, 0x40), (0x0A, 0xDC), (0x0B, 0x05), (0x00, 0x0A))
    lines = "".join(f"outb {IO + offset:#x} {value:#x}\n" for offset, value in setup) + words
    return Load(lines.encode(), repeat, 1)


def loads(model: str) -> dict[str, dict[str, Load]]:
    """Name -> what each peer is asked."""
    data = IO + 0x10
    if model == "ne2k_pci":
        read, write = f"inb {IO + 7:#x}", f"outb {IO + 15:#x} 0x0"
    elif model == "rtl8139":
        read, write = f"inw {IO + 0x3E:#x}", f"outw {IO + 0x3C:#x} 0x0"
    else:
        read, write = f"inw {data:#x}", f"outw {IO + 0x12:#x} 0x0"
    found = {
        f"round trip: {read}": trip(read),
        f"round trip: {write}": trip(write),
        f"pipelined: {read}": pipe(lambda n: read),
        f"pipelined: {write}": pipe(lambda n: write),
    }
    words = frame(f"inw {data:#x}\n" * 750, 4)
    if model == "ne2k_pci":
        found |= {
            "round trip: readl 0x1000": trip("readl 0x1000"),
            "pipelined: readl 0x1000": pipe(lambda n: "readl 0x1000"),
            "pipelined: outw, other values": pipe(lambda n: f"outw {data:#x} {n & 0xFFFF:#x}"),
            "pipelined: writel, other places": pipe(lambda n: f"writel {n & 0xFFFFC:#x} {n:#x}"),
            "frame: 750 inw": words,
        }
    everybody = {name: dict.fromkeys(PEERS, load) for name, load in found.items()}
    if model == "ne2k_pci":  # QEMU knows no block transfer
        block = frame(f"insw {data:#x} 750\n", 40)
        everybody["frame: one insw"] = dict.fromkeys(PEERS, block) | {"qemu": words}
    return everybody


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--save", type=Path, default=Path(".benchmarks/qtest.json"))
    options = parser.parse_args()
    results: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for model in MODELS:
        with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
            peers = {peer: stack.enter_context(running(peer, model, directory)) for peer in PEERS}
            for round_ in range(options.rounds + 1):
                for name, asked in loads(model).items():
                    for peer, load in asked.items():
                        measured = load.run(peers[peer])
                        if round_:  # the first one warms up
                            results.setdefault(f"{model}  {name}", {}).setdefault(peer, []).append(measured)
    width = max(map(len, results))
    for column, title in enumerate(("microseconds", "microseconds of the server's processor")):
        print(f"{title:{width}}" + "".join(f"{peer:>9}" for peer in PEERS) + f"{'ratio':>8}")
        for name, values in results.items():
            medians = {
                peer: statistics.median(pair[column] for pair in seen) for peer, seen in values.items()
            }
            cells = "".join(f"{medians[peer]:9.2f}" for peer in PEERS)
            print(f"{name:{width}}{cells}{medians['qemu'] / medians['tapnet']:8.2f}")
        print()
    options.save.parent.mkdir(exist_ok=True)
    options.save.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
