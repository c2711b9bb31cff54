"""Register operations by qtest: QEMU's server and ours, the same client, side by side. ``python -m tests.bench.qtest``

Peers, each a process of its own with the same card in slot 3 and 16 MiB of RAM, measured in turn, ``--rounds`` times:

    qemu     qemu-system-x86_64 -qtest, stopped (-S), so that its processor takes no time
    tapnet   tapnet run -qtest
    asyncio  the same without uvloop
    floor    our event loop with a callback that answers OK to anything: what sockets and loop cost by themselves

Loads: ``round trip``: a line, its answer, the next line; ``pipelined``: 500 lines in one write; ``frame``: the 750 words
of a 1500-byte frame through the NE2000's data port, as 750 ``inw`` in one write and, with our block extension, as one
``insw``. What is printed and saved (.benchmarks/qtest.json) are medians over the rounds, in microseconds per line (per
frame for ``frame``), and the ratio to QEMU's: above 1, ours is faster.
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


@contextlib.contextmanager
def running(peer: str, model: str, directory: str) -> Iterator[socket.socket]:
    """The peer with its card enabled; a connection to it."""
    path = f"{directory}/{peer}-{model}"
    process = subprocess.Popen(command(peer, model, path), stderr=subprocess.DEVNULL)
    try:
        client = QtestClient.unix(path)
        if peer != "floor":
            client.set_config(SLOT, 0x10, IO)
            client.set_config(SLOT, 0x04, 5, 2)
        yield client.socket
        client.close()
    finally:
        process.terminate()
        process.wait(20)


def exchange(connection: socket.socket, lines: bytes, repeat: int) -> float:
    """Send ``lines`` and wait for their answers, ``repeat`` times; seconds for one time."""
    count = lines.count(b"\n")
    send, recv = connection.sendall, connection.recv
    start = time.perf_counter()
    for _ in range(repeat):
        send(lines)
        seen = 0
        while seen < count:
            seen += recv(1 << 18).count(b"\n")
    return (time.perf_counter() - start) / repeat


def loads(model: str) -> dict[str, Callable[[socket.socket, str], float]]:
    """Name -> measurement, in microseconds."""

    def trip(line: str) -> Callable[[socket.socket, str], float]:
        return lambda connection, _: exchange(connection, line.encode() + b"\n", 4000) * 1e6

    def pipe(line: str) -> Callable[[socket.socket, str], float]:
        lines = (line.encode() + b"\n") * PIPELINE
        return lambda connection, _: exchange(connection, lines, 20) / PIPELINE * 1e6

    if model == "ne2k_pci":
        read, write = f"inb {IO + 7:#x}", f"outb {IO + 15:#x} 0x0"
    elif model == "rtl8139":
        read, write = f"inw {IO + 0x3E:#x}", f"outw {IO + 0x3C:#x} 0x0"
    else:
        read, write = f"inw {IO + 0x10:#x}", f"outw {IO + 0x12:#x} 0x0"
    found = {
        f"round trip: {read}": trip(read),
        f"round trip: {write}": trip(write),
        f"pipelined: {read}": pipe(read),
        f"pipelined: {write}": pipe(write),
    }
    if model == "ne2k_pci":
        found["round trip: readl 0x1000"] = trip("readl 0x1000")
        found["pipelined: readl 0x1000"] = pipe("readl 0x1000")
        found["frame: 750 words"] = frame
        found["frame: 750 words, insw"] = block
    return found


def _remote(words: str) -> bytes:
    setup = ((0x00, 0x22), (0x0E, 0x49), (0x08, 0x00), (0x09, 0x40), (0x0A, 0xDC), (0x0B, 0x05), (0x00, 0x0A))
    return ("".join(f"outb {IO + offset:#x} {value:#x}\n" for offset, value in setup) + words).encode()


def frame(connection: socket.socket, _: str) -> float:
    """1500 bytes out of the NE2000 by word reads."""
    return exchange(connection, _remote(f"inw {IO + 0x10:#x}\n" * 750), 20) * 1e6


def block(connection: socket.socket, peer: str) -> float:
    """1500 bytes out of the NE2000, as the server likes it best."""
    if peer == "qemu":  # knows no block transfer
        return frame(connection, peer)
    return exchange(connection, _remote(f"insw {IO + 0x10:#x} 750\n"), 200) * 1e6


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path, default=Path(".benchmarks/qtest.json"))
    options = parser.parse_args()
    results: dict[str, dict[str, list[float]]] = {}
    for model in MODELS:
        with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
            connections = {peer: stack.enter_context(running(peer, model, directory)) for peer in PEERS}
            for round_ in range(options.rounds + 1):
                for name, measure in loads(model).items():
                    for peer, connection in connections.items():
                        value = measure(connection, peer)
                        if round_:  # the first one warms up
                            results.setdefault(f"{model}  {name}", {}).setdefault(peer, []).append(value)
    width = max(map(len, results))
    print(f"{'microseconds':{width}}" + "".join(f"{peer:>9}" for peer in PEERS) + f"{'ratio':>8}")
    for name, values in results.items():
        medians = {peer: statistics.median(seen) for peer, seen in values.items()}
        cells = "".join(f"{medians[peer]:9.2f}" for peer in PEERS)
        print(f"{name:{width}}{cells}{medians['qemu'] / medians['tapnet']:8.2f}")
    options.save.parent.mkdir(exist_ok=True)
    options.save.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
