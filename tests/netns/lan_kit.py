"""A host with a bridge in a namespace of its own, LANs behind it, and tapnet running in it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tapnet.system import syscalls
from tests.netns.exec_kit import Runner, daemon, root_runner
from tests.netns.support import fresh, sh
from tests.waiting import BOUND_S

T = TypeVar("T")
_COUNT = itertools.count()


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    """A named network namespace with lo up, and the kernel's own settings."""
    name = f"{name}-{os.getpid()}"
    sh(f"ip netns add {name}")
    try:
        fresh(name)
        sh(f"ip -n {name} link set lo up")
        yield name
    finally:
        sh(f"ip netns del {name}", check=False)


@pytest.fixture
def lan() -> Iterator[str]:
    """A host with a bridge br0, 192.168.77.1, whose LAN has a DHCP server."""
    with namespace("lan") as name:
        sh(f"ip -n {name} link add br0 type bridge")
        sh(f"ip -n {name} addr add 192.168.77.1/24 dev br0")
        sh(f"ip -n {name} link set br0 up")
        words = (
            f"ip netns exec {name} dnsmasq --no-daemon --user=root --port=0 --no-ping --conf-file=/dev/null "
            "--dhcp-range=192.168.77.50,192.168.77.60,10m --dhcp-authoritative --interface=br0 --leasefile-ro "
            "--bind-interfaces"
        )
        with daemon(words.split()):
            yield name


@pytest.fixture
def tapnet(tmp_path: Path) -> Runner:
    return root_runner(tmp_path)


def within(name: str, work: Callable[[], T]) -> T:
    """``work()`` in a network namespace: by a thread that ends with it. Sockets stay where they were made."""
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with open(f"/run/netns/{name}") as netns:
                syscalls.setns(netns.fileno(), syscalls.CLONE_NEWNET)
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def inside(name: str, tapnet: Runner) -> Runner:
    """The same, run in a namespace."""
    return Runner(tapnet.name, ("ip", "netns", "exec", name, *tapnet.prefix), tapnet.env, tapnet.home)


def links(name: str) -> dict[str, dict[str, object]]:
    return {link["ifname"]: link for link in json.loads(sh(f"ip -n {name} -j -d link show"))}


class Running:
    """``tapnet run`` that has said that it is ready.

    fds  descriptors that it inherits
    """

    def __init__(self, tapnet: Runner, *options: str, fds: Sequence[int] = ()) -> None:
        self.tapnet = tapnet
        self.name = f"t{os.getpid()}-{next(_COUNT)}"
        self.log = tapnet.home / f"{self.name}.log"
        read, write = os.pipe()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                tapnet.argv("run", "--name", self.name, *options, f"--ready-fd={write}"),
                env=tapnet.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[write, *fds],
                cwd=tapnet.home,
            )
        os.close(write)
        ready = select.select([read], [], [], BOUND_S)[0] and os.read(read, 1)
        os.close(read)
        if not ready:
            self.process.kill()
            self.process.wait()
            raise AssertionError(self.said())

    def said(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")

    def monitor(self, *words: str, check: bool = True) -> str:
        """``tapnet monitor -i NAME WORDS``: what was answered."""
        return self.ask("monitor", "-i", self.name, *words, check=check)

    def ask(self, *words: str, check: bool = True) -> str:
        """Any command of tapnet's, run as the same user."""
        done = subprocess.run(
            self.tapnet.argv(*words), env=self.tapnet.env, capture_output=True, text=True, timeout=BOUND_S
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def __enter__(self) -> Running:
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(BOUND_S)

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


# ---- a whole LAN ------------------------------------------------------------------------------------------


@dataclass
class Lan:
    """Namespaces of a LAN, each with its interface: a switch, three stations, and a host with its bridge.

    router   192.168.88.1, 2001:db8:88::1: DHCP (.50 to .90) and router advertisements
    a, b     192.168.88.10 and .11, 2001:db8:88::10 and ::11
    host     br0 192.168.88.2, 2001:db8:88::2, with eth0 in it; here tapnet runs
    guest    empty
    """

    router: str
    a: str
    b: str
    host: str
    guest: str

    def tell(self, name: str, command: str, *, check: bool = True, timeout: float = BOUND_S) -> str:
        """Run a command in one of them; what it said."""
        return sh(f"ip netns exec {name} {command}", check=check, timeout=timeout)


@contextlib.contextmanager
def whole_lan(mtu: int = 1500, bridged: bool = True) -> Iterator[Lan]:
    """A LAN that is up, with its servers. ``bridged``: the host has br0; otherwise its eth0 has the addresses."""
    which = next(_COUNT)
    with contextlib.ExitStack() as stack:
        names = [
            stack.enter_context(namespace(f"{name}{which}"))
            for name in ("sw", "router", "a", "b", "host", "guest")
        ]
        switch, *stations = names
        lan = Lan(*stations)
        for name in names:
            sh(
                f"ip netns exec {name} sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0"
            )
        sh(f"ip -n {switch} link add sw0 mtu {mtu} type bridge mcast_snooping 0")
        sh(f"ip -n {switch} link set sw0 up")
        for number, (name, last) in enumerate(((lan.router, 1), (lan.a, 10), (lan.b, 11), (lan.host, 2))):
            sh(f"ip -n {name} link add eth0 mtu {mtu} type veth peer name p{number} netns {switch}")
            sh(f"ip -n {switch} link set p{number} mtu {mtu} master sw0 up")
            sh(f"ip -n {name} link set eth0 up")
            device = "eth0"
            if name == lan.host and bridged:
                device = "br0"
                sh(f"ip -n {name} link add br0 mtu {mtu} type bridge")
                sh(f"ip -n {name} link set eth0 master br0")
                sh(f"ip -n {name} link set br0 up")
            sh(f"ip -n {name} addr add 192.168.88.{last}/24 dev {device}")
            sh(f"ip -n {name} addr add 2001:db8:88::{last}/64 dev {device} nodad")
        words = (
            f"ip netns exec {lan.router} dnsmasq --no-daemon --user=root --port=0 --no-ping --conf-file=/dev/null "
            "--dhcp-range=192.168.88.50,192.168.88.90,10m --dhcp-authoritative --interface=eth0 --leasefile-ro "
            "--bind-interfaces --enable-ra --dhcp-range=2001:db8:88::,ra-only,64,10m"
        )
        stack.enter_context(daemon(words.split()))
        for name in (lan.a, lan.host):
            stack.enter_context(daemon(f"ip netns exec {name} iperf3 -s".split()))
        yield lan
