"""End to end, side by side in one run: tapnet's guests against slirp4netns and pasta. ``python -m tests.bench.end_to_end``

Needs root. Makes a mount and network namespace of its own that plays the host (lo, and an uplink veth that leads
nowhere), so that nothing leaves the machine. In it each peer serves a guest namespace; the same client runs in each, in
turn, ``--rounds`` times, against the same server on the host's loopback. What is printed and saved
(.benchmarks/end_to_end.json) are medians and, for throughput, ratios to slirp4netns.

Per peer: TCP Gbit/s guest to host and host to guest (iperf3, one stream), 1-byte request/response rate with p50 and
p99, connections per second, UDP datagrams per second that arrived (64 and 1400 bytes), memory (PSS) idle and with
1,000 open connections, and the time from start to a guest that has its address.

``tapnet-veth`` is an ordinary user without /dev/net/tun: the guest's NIC is a veth pair, read by AF_PACKET.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
MS_REC, MS_PRIVATE, MS_BIND = 0x4000, 0x40000, 0x1000
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"]
IPERF_TRIES = 20  # "the server is busy": the end of the last test has not reached it yet
PORT = 5201
ECHO_PORT = 5202
HERE = Path(__file__).resolve()
libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), what)


def become_host() -> None:
    """Put this process into namespaces of its own, with an uplink that leads nowhere."""
    _check(libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare")
    _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount private")
    node = tempfile.mktemp(prefix="tun-")
    os.mknod(node, 0o020666, os.makedev(10, 200))
    os.chmod(node, 0o666)  # as on most distributions, so that the peers run as an ordinary user
    _check(libc.mount(node.encode(), b"/dev/net/tun", None, MS_BIND, None), "mount tun")
    os.unlink(node)
    for words in (
        "link set lo up",
        "link add up0 type veth peer name up1",
        "addr add 192.0.2.2/24 dev up0",
        "link set up0 up",
        "link set up1 up",
        "route add default via 192.0.2.1",
    ):
        subprocess.run(["ip", *words.split()], check=True)


@dataclass
class Peer:
    """Somebody who serves a guest namespace. ``enter``: words that run a command in the guest."""

    name: str
    start: list[str]  # %P is the pid of the guest's holder
    host: str  # the host's loopback as the guest sees it
    unprivileged: bool
    address: str  # what the guest gets
    hide_tun: bool = False
    processes: list[subprocess.Popen] = field(default_factory=list)
    enter: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @contextlib.contextmanager
    def guest(self) -> Iterator[None]:
        """A guest that is up."""
        user = NOBODY if self.unprivileged else []
        holder = subprocess.Popen(
            [*user, "unshare", "-rn" if self.unprivileged else "-n", "sleep", "600"], cwd="/"
        )
        self.processes = [holder]
        _until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        if self.unprivileged:
            _until(lambda: Path(f"/proc/{holder.pid}/uid_map").read_text().strip() != "")
            self.enter = [*user, "nsenter", "-U", "-n", "--preserve-credentials", "-t", str(holder.pid)]
        else:
            self.enter = ["nsenter", "-n", "-t", str(holder.pid)]
        began = time.monotonic()
        words = [*user, *(word.replace("%P", str(holder.pid)) for word in self.start)]
        if self.hide_tun:
            hide = (
                'f=$(mktemp); chmod 0 $f; umount /dev/net/tun; mount --bind $f /dev/net/tun; rm $f; exec "$@"'
            )
            words = ["unshare", "-m", "sh", "-c", hide, "sh", *words]
        routes = Path(f"/proc/{holder.pid}/net/fib_trie")
        log = tempfile.TemporaryFile()
        server = subprocess.Popen(words, cwd="/", stdout=log, stderr=log)
        self.processes.append(server)
        try:
            _until(lambda: f"-- {self.address}\n" in routes.read_text(), 15)
            self.seconds = time.monotonic() - began
            yield
        except Exception:
            log.seek(0)
            sys.stderr.write(f"{self.name}: {log.read()[-2000:].decode()}\n")
            raise
        finally:
            for process in reversed(self.processes):
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def run(self, words: list[str], timeout: float = 60) -> subprocess.CompletedProcess:
        """Run a command in the guest."""
        return subprocess.run(
            [*self.enter, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            timeout=timeout,
        )

    def python(self, what: str, *words: str) -> dict:
        """Run one of this module's clients in the guest."""
        script = tempfile.gettempdir() + "/tapnet-bench-client.py"
        if not os.path.exists(script) or Path(script).read_bytes() != HERE.read_bytes():
            Path(script).write_bytes(HERE.read_bytes())
            os.chmod(script, 0o644)
        done = self.run(["/usr/bin/python3", script, "client", what, self.host, *words])
        try:
            return json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            raise RuntimeError(f"{self.name}: {what}: {done.stdout}") from None

    def memory(self) -> float:
        """PSS of the peer's processes, MiB."""
        total = 0
        todo = [process.pid for process in self.processes[1:]]
        while todo:
            pid = todo.pop()
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
                todo += [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return total / 1024


def _until(condition, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        if time.monotonic() > end:
            raise TimeoutError("a peer did not come up")
        time.sleep(0.005)


def peers() -> list[Peer]:
    """Who is measured."""
    tapnet = [sys.executable, "-m", "tapnet", "run", "-net", "user"]

    def ours(name: str, nic: str, ordinary: bool = False) -> Peer:
        words = [*tapnet, "-net", f"nic,{nic},netns=%P,dhcp=on"]
        return Peer(name, words, "10.0.2.2", ordinary, "10.0.2.15", hide_tun=ordinary)

    return [
        Peer(
            "slirp4netns",
            ["slirp4netns", "--configure", "--mtu=1500", "%P", "tap0"],
            "10.0.2.2",
            True,
            "10.0.2.100",
        ),
        Peer(
            "pasta",
            ["pasta", "--config-net", "-f", "-m", "1500", "%P"],
            "192.0.2.1",
            True,
            "192.0.2.2",
        ),
        Peer(
            "slirp4netns-65520",
            ["slirp4netns", "--configure", "--mtu=65520", "%P", "tap0"],
            "10.0.2.2",
            True,
            "10.0.2.100",
        ),
        Peer(
            "pasta-65520",
            ["pasta", "--config-net", "-f", "-m", "65520", "%P"],
            "192.0.2.1",
            True,
            "192.0.2.2",
        ),
        ours("tapnet-direct", "model=direct,mtu=1500"),
        ours("tapnet-direct-65520", "model=direct,mtu=65520"),
        ours("tapnet-ne2k_pci", "model=ne2k_pci"),
        ours("tapnet-veth", "model=direct,mtu=1500", ordinary=True),
    ]


# ---- what runs in the guest ------------------------------------------------------------------------------------------


def client(what: str, host: str, words: list[str]) -> None:
    """One client; its result goes to standard output as JSON. Standard library only."""
    import resource
    import socket

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if what == "rr":
        sock = socket.create_connection((host, ECHO_PORT), 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = []
        end = time.monotonic() + float(words[0])
        while time.monotonic() < end:
            began = time.perf_counter()
            sock.send(b"x")
            sock.recv(1)
            times.append(time.perf_counter() - began)
        times.sort()
        print(
            json.dumps(
                {
                    "rate": len(times) / float(words[0]),
                    "p50_us": times[len(times) // 2] * 1e6,
                    "p99_us": times[len(times) * 99 // 100] * 1e6,
                }
            )
        )
    elif what == "connect":
        end = time.monotonic() + float(words[0])
        count = 0
        while time.monotonic() < end:
            with socket.create_connection((host, ECHO_PORT), 10) as sock:
                sock.send(b"x")
                sock.recv(1)
            count += 1
        print(json.dumps({"rate": count / float(words[0])}))
    elif what == "open":
        socks = [socket.create_connection((host, ECHO_PORT), 10) for _ in range(int(words[0]))]
        for sock in socks:
            sock.send(b"x")
        for sock in socks:
            sock.recv(1)
        print(json.dumps({"open": len(socks)}), flush=True)
        time.sleep(float(words[1]))


def echo_server() -> None:
    """Echo on ECHO_PORT, for ever."""
    import resource
    import selectors
    import socket

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    chooser = selectors.DefaultSelector()
    listener = socket.create_server(("127.0.0.1", ECHO_PORT), backlog=4096)
    listener.setblocking(False)
    chooser.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in chooser.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        one, _ = listener.accept()
                        one.setblocking(False)
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        chooser.register(one, selectors.EVENT_READ)
                continue
            try:
                data = sock.recv(65536)
                if data:
                    sock.send(data)
            except OSError:
                data = b""
            if not data:
                chooser.unregister(sock)
                sock.close()


# ---- the run ---------------------------------------------------------------------------------------------------------


def _iperf(peer: Peer, *words: str) -> dict:
    for _ in range(IPERF_TRIES):
        done = peer.run(["iperf3", "-J", "-c", peer.host, "-p", str(PORT), *words], 60)
        try:
            report = json.loads(done.stdout)
        except ValueError as error:
            raise RuntimeError(f"{peer.name}: iperf3: {error}") from None
        if "error" not in report:
            return report["end"]
        if "busy" not in report["error"]:
            break
        time.sleep(0.25)
    raise RuntimeError(f"{peer.name}: iperf3: {report['error']}")


def measure(peer: Peer, seconds: int) -> dict[str, float]:
    """All figures of one peer, once."""
    found: dict[str, float] = {}
    time_ = str(seconds)
    with peer.guest():
        found["start_s"] = peer.seconds
        found["pss_idle_mib"] = peer.memory()
        found["tcp_up_gbps"] = _iperf(peer, "-t", time_)["sum_received"]["bits_per_second"] / 1e9
        found["tcp_down_gbps"] = _iperf(peer, "-t", time_, "-R")["sum_received"]["bits_per_second"] / 1e9
        for size in (64, 1400):
            end = _iperf(peer, "-u", "-b", "0", "-l", str(size), "-t", time_)["sum"]
            found[f"udp{size}_per_s"] = (end["packets"] - end["lost_packets"]) / end["seconds"]
        rr = peer.python("rr", time_)
        found |= {"rr_per_s": rr["rate"], "rr_p50_us": rr["p50_us"], "rr_p99_us": rr["p99_us"]}
        found["connects_per_s"] = peer.python("connect", time_)["rate"]
        opener = subprocess.Popen(
            [*peer.enter, "/usr/bin/python3", tempfile.gettempdir() + "/tapnet-bench-client.py"]
            + ["client", "open", peer.host, "1000", "20"],
            stdout=subprocess.PIPE,
            cwd="/",
        )
        assert opener.stdout is not None
        if opener.stdout.readline():
            found["pss_1000_mib"] = peer.memory()
        opener.kill()
        opener.wait()
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)  # iperf3 takes whole ones
    parser.add_argument("--only", help="names of peers, comma separated")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("tapnet: bench: end_to_end needs root")
    for tool in ("iperf3", "slirp4netns", "pasta", "unshare", "nsenter", "ip", "setpriv"):
        if shutil.which(tool) is None:
            sys.exit(f"tapnet: bench: {tool} is not installed")
    root = HERE.parents[2]
    os.environ["PYTHONPATH"] = str(root)
    os.environ.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # as installed: every start but the first finds it compiled
    compiled = tempfile.TemporaryDirectory(prefix="tapnet-bench-")
    os.chmod(compiled.name, 0o777)
    os.environ["PYTHONPYCACHEPREFIX"] = compiled.name
    become_host()
    servers = [
        subprocess.Popen(["iperf3", "-s", "-p", str(PORT), "-B", "127.0.0.1"], stdout=subprocess.DEVNULL),
        subprocess.Popen([sys.executable, str(HERE), "echo"]),
    ]
    chosen = [p for p in peers() if not options.only or p.name in options.only.split(",")]
    results: dict[str, list[dict[str, float]]] = {p.name: [] for p in chosen}
    try:
        for number in range(options.rounds):
            for peer in chosen:
                try:
                    results[peer.name].append(measure(peer, options.seconds))
                except (RuntimeError, TimeoutError, subprocess.TimeoutExpired) as error:
                    print(f"round {number + 1}: {peer.name}: {error}", file=sys.stderr)
    finally:
        for server in servers:
            server.kill()
            server.wait()
    report(results)
    folder = root / ".benchmarks"
    folder.mkdir(exist_ok=True)
    (folder / "end_to_end.json").write_text(json.dumps(results, indent=1))
    return 0


def report(results: dict[str, list[dict[str, float]]]) -> None:
    """A table of medians; throughput also as a ratio to slirp4netns."""
    columns = list(dict.fromkeys(key for rounds in results.values() for one in rounds for key in one))
    median = {
        name: {
            key: statistics.median([r[key] for r in rounds if key in r])
            for key in columns
            if any(key in r for r in rounds)
        }
        for name, rounds in results.items()
        if rounds
    }
    print(f"{'':16}" + "".join(f"{name:>20}" for name in median))
    for key in columns:
        row = f"{key:16}"
        for found in median.values():
            value = found.get(key)
            text = "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"
            base = median.get("slirp4netns", {}).get(key)
            if value is not None and base and not key.startswith(("pss", "start")):
                text += f" ({value / base:.2f}x)"
            row += f"{text:>20}"
        print(row)


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        client(sys.argv[2], sys.argv[3], sys.argv[4:])
    elif sys.argv[1:2] == ["echo"]:
        echo_server()
    else:
        sys.exit(main())
