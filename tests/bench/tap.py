"""From a guest to a host of the LAN, side by side in one run: the kernel alone, tapnet's TAP, QEMU's. ``python -m tests.bench.tap``

    guest ── path ── bridge br0 of the host ── eth0 ── switch ── LAN host a

The path is a veth pair into the bridge (``kernel``), tapnet with ``model=direct`` or a card and its driver, or QEMU
joining two TAPs by its hub (``qemu-tap``: what its -netdev tap carries, without any guest's work). MTU 1500; the host's
and the stations' veth pairs carry super-frames, as a NIC with segmentation offload does.

Per path: TCP up and down (Gbit/s, iperf3), UDP datagrams of 64 and 1400 bytes that arrived (thousands a second, up), and the
round trip of 64 bytes by UDP (p50, p99, us); ``added`` is p50 beyond the kernel's. Medians of ``--rounds`` rounds, all paths in
turn in each, go to .benchmarks/tap.json. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.netns.exec_kit import ROOT, root_runner
from tests.netns.lan_kit import Lan, Running, inside, links, whole_lan, within
from tests.netns.support import sh, until_sync

GUEST, STATION = "192.168.88.40", "192.168.88.10"
MODELS = ("direct", "rtl8139", "pcnet", "ne2k_pci")
PATHS = ("kernel", *(f"tapnet-{model}" for model in MODELS), "qemu-tap")
ECHO_PORT = 5400
Row = dict[str, float]


@contextlib.contextmanager
def kernel(lan: Lan) -> Iterator[None]:
    """A veth pair from the guest into the bridge."""
    sh(f"ip -n {lan.guest} link add eth0 type veth peer name tap0 netns {lan.host}")
    try:
        sh(f"ip -n {lan.host} link set tap0 master br0 up")
        sh(f"ip -n {lan.guest} link set eth0 up")
        yield
    finally:
        sh(f"ip -n {lan.guest} link del eth0", check=False)


@contextlib.contextmanager
def tapnet(lan: Lan, model: str, folder: Path) -> Iterator[None]:
    """tapnet on the host."""
    nic = f"nic,model={model},netns=/run/netns/{lan.guest}"
    with Running(
        inside(lan.host, root_runner(folder)), "-net", nic, "-net", "tap,ifname=tap0,br=br0"
    ) as running:
        yield
        running.stop()
    until_sync(lambda: "eth0" not in links(lan.guest), "eth0 is gone")


def open_tap(name: str) -> int:
    """A TAP by its descriptor, which QEMU inherits."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x5002))
    os.set_inheritable(fd, True)
    return fd


@contextlib.contextmanager
def qemu(lan: Lan) -> Iterator[None]:
    """QEMU's hub between the guest's TAP and one in the bridge."""
    fds = [within(lan.guest, lambda: open_tap("eth0")), within(lan.host, lambda: open_tap("tap0"))]
    words = ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none"]
    for number, fd in enumerate(fds):
        words += [
            "-netdev",
            f"tap,id=t{number},fd={fd}",
            "-netdev",
            f"hubport,id=h{number},hubid=0,netdev=t{number}",
        ]
    process = subprocess.Popen(words, pass_fds=fds, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for fd in fds:
        os.close(fd)
    try:
        sh(f"ip -n {lan.host} link set tap0 master br0 up")
        sh(f"ip -n {lan.guest} link set eth0 up")
        yield
    finally:
        process.kill()
        process.wait()
        until_sync(lambda: "eth0" not in links(lan.guest), "eth0 is gone")


def path(name: str, lan: Lan, folder: Path) -> contextlib.AbstractContextManager[None]:
    """One of ``PATHS``."""
    if name == "kernel":
        return kernel(lan)
    return qemu(lan) if name == "qemu-tap" else tapnet(lan, name.removeprefix("tapnet-"), folder)


def iperf(lan: Lan, seconds: float, *words: str) -> dict[str, dict[str, float]]:
    """iperf3 in the guest; its sums."""
    done = lan.tell(lan.guest, " ".join(("iperf3 -J -t", str(seconds), *words, "-c", STATION)), timeout=60)
    end: dict[str, dict[str, float]] = json.loads(done)["end"]
    return end


def round_trips(lan: Lan, count: int) -> list[float]:
    """Microseconds for 64 bytes by UDP there and back, sorted."""

    def bound(address: str) -> Callable[[], socket.socket]:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((address, ECHO_PORT))
            made.settimeout(10)
            return made

        return make

    with within(lan.a, bound(STATION)) as echo, within(lan.guest, bound(GUEST)) as asks:

        def serve() -> None:
            with contextlib.suppress(OSError):
                for _ in range(count):
                    data, where = echo.recvfrom(100)
                    echo.sendto(data, where)

        thread = threading.Thread(target=serve)
        thread.start()
        found = []
        for number in range(count):
            begun = time.perf_counter()
            asks.sendto(number.to_bytes(64, "big"), (STATION, ECHO_PORT))
            asks.recv(100)
            found.append((time.perf_counter() - begun) * 1e6)
        thread.join()
    return sorted(found)


def measure(lan: Lan, seconds: float, count: int) -> Row:
    """One path, which is up."""
    sh(f"ip -n {lan.guest} addr add {GUEST}/24 dev eth0")
    until_sync(
        lambda: " 0% packet" in lan.tell(lan.guest, f"ping -c 1 -W 1 {STATION}", check=False), "a ping"
    )
    row: Row = {}
    for key, words in (("tcp_up", ()), ("tcp_down", ("-R",))):
        row[key] = iperf(lan, seconds, *words)["sum_received"]["bits_per_second"] / 1e9
    for size in (64, 1400):
        end = iperf(lan, seconds, "-u", "-b", "0", "-l", str(size))["sum"]
        row[f"udp_{size}"] = (end["packets"] - end["lost_packets"]) / end["seconds"] / 1000
    trips = round_trips(lan, count)
    row["rtt_p50"], row["rtt_p99"] = trips[len(trips) // 2], trips[len(trips) * 99 // 100]
    return row


def table(results: dict[str, Row]) -> str:
    """Markdown."""
    rows = [
        ("TCP up, Gbit/s", "tcp_up", "{:.2f}"),
        ("TCP down, Gbit/s", "tcp_down", "{:.2f}"),
        ("UDP 64 B up, k/s", "udp_64", "{:.0f}"),
        ("UDP 1400 B up, k/s", "udp_1400", "{:.0f}"),
        ("round trip p50, us", "rtt_p50", "{:.0f}"),
        ("round trip p99, us", "rtt_p99", "{:.0f}"),
        ("added to p50, us", "added", "{:.0f}"),
    ]
    lines = ["| | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for title, key, form in rows:
        lines.append(f"| {title} | " + " | ".join(form.format(row[key]) for row in results.values()) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--count", type=int, default=1000, help="round trips")
    parser.add_argument("--only", default=",".join(PATHS))
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("tests.bench.tap: needs root", file=sys.stderr)
        return 2
    names = [
        name for name in options.only.split(",") if name != "qemu-tap" or shutil.which("qemu-system-x86_64")
    ]
    seen: dict[str, list[Row]] = {name: [] for name in names}
    load = os.getloadavg()[0]
    with whole_lan() as lan, tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for name in names:
                with path(name, lan, Path(folder)):
                    seen[name].append(measure(lan, options.seconds, options.count))
                print(f"round {number + 1} {name}: {seen[name][-1]}", file=sys.stderr, flush=True)
    results = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in seen.items()
    }
    base = results.get("kernel", {"rtt_p50": 0.0})["rtt_p50"]
    for row in results.values():
        row["added"] = row["rtt_p50"] - base
    print(table(results))
    saved = ROOT / ".benchmarks" / "tap.json"
    saved.parent.mkdir(exist_ok=True)
    saved.write_text(
        json.dumps({"load": load, "rounds": options.rounds, "results": results}, indent=1) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
