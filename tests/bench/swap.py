"""How long a swap between NAT and TAP leaves a VLAN without a gateway. ``python -m tests.bench.swap``

A station on a dgram wire of the VLAN asks by ARP, every millisecond, for the gateway of the NAT and for one of the LAN
beyond the TAP. Each swap's figure is the time from the last answer of the old one to the first of the new one (ms); the
blink of a card's link, which is deliberate, comes on top for guests that have one. Per direction: median and maximum, to
.benchmarks/swap.json. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from tapnet.monitor.client import main as client
from tests.netns.exec_kit import ROOT, root_runner
from tests.netns.lan_kit import Running, inside, whole_lan

MAC = bytes.fromhex("5254000000aa")
GATEWAYS = {"user": ("10.0.2.99", "10.0.2.2"), "tap": ("192.168.88.99", "192.168.88.1")}
EVERY = 0.001
SECONDS = 60.0


def request(sender: str, target: str) -> bytes:
    """Who has ``target``?"""
    body = b"\0\1\10\0\6\4\0\1" + MAC + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)
    return (b"\xff" * 6 + MAC + b"\x08\x06" + body).ljust(60, b"\0")


def heard(wire: socket.socket) -> set[str]:
    """Whose answers are there to be read."""
    found = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            frame = wire.recv(65536)
            if frame[:6] == MAC and frame[12:14] == b"\x08\x06" and frame[21] == 2:
                found.add(socket.inet_ntoa(frame[28:32]))
    return found


def gap(wire: socket.socket, peer: str, control: client.Connection, mode: str) -> float:
    """Swap to ``mode``; seconds from the last answer of the old gateway to the first of the new one."""
    old = GATEWAYS["tap" if mode == "user" else "user"][1]
    new = GATEWAYS[mode][1]
    asks = [request(*names) for names in GATEWAYS.values()]
    swapped: list[bool] = []
    thread = threading.Thread(target=lambda: swapped.append(control.ask(f"mode {mode}")[0]))
    begun = time.perf_counter()
    last = 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(wire, selectors.EVENT_READ)
        while time.perf_counter() - begun < SECONDS:
            for frame in asks:
                with contextlib.suppress(BlockingIOError):
                    wire.sendto(frame, peer)
            selector.select(EVERY)
            found, now = heard(wire), time.perf_counter()
            if old in found:
                if not last:
                    thread.start()
                last = now
            if new in found:
                thread.join()
                if not last or swapped != [True]:
                    break
                return now - last
    raise SystemExit(f"tests.bench.swap: no swap to {mode}: {swapped}")


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("tests.bench.swap: needs root", file=sys.stderr)
        return 2
    found: dict[str, list[float]] = {"tap": [], "user": []}
    with whole_lan() as lan, tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        ours, theirs = f"{name}/ours", f"{name}/theirs"
        wire = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        wire.bind(ours)
        wire.setblocking(False)
        words = (
            "-net", f"dgram,local.type=unix,local.path={theirs},remote.type=unix,remote.path={ours}",
            *("-net", "user", "-net", "tap,ifname=tap0,br=br0", "--mode", "user"),
        )  # fmt: skip
        running = stack.enter_context(Running(inside(lan.host, root_runner(Path(name))), *words))
        control = client.Connection(client.find(running.name), SECONDS)
        for _ in range(options.rounds):
            for mode in found:
                found[mode].append(gap(wire, theirs, control, mode) * 1000)
        running.stop()
    results = {
        mode: {"median": statistics.median(gaps), "max": max(gaps), "swaps": len(gaps)}
        for mode, gaps in found.items()
    }
    print("| swap to | median, ms | longest, ms | swaps |\n|---|---|---|---|")
    for mode, row in results.items():
        print(f"| {mode} | {row['median']:.0f} | {row['max']:.0f} | {row['swaps']} |")
    saved = ROOT / ".benchmarks" / "swap.json"
    saved.parent.mkdir(exist_ok=True)
    saved.write_text(json.dumps({"load": os.getloadavg()[0], "results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
