"""A host with a bridge in a namespace of its own, LANs behind it, and tapnet running in it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.netns.exec_kit import Runner, daemon, root_runner
from tests.netns.support import sh

SECONDS = 60
_COUNT = itertools.count()


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    """A named network namespace with lo up."""
    name = f"{name}-{os.getpid()}"
    sh(f"ip netns add {name}")
    try:
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
        ready = select.select([read], [], [], SECONDS)[0] and os.read(read, 1)
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
            self.tapnet.argv(*words), env=self.tapnet.env, capture_output=True, text=True, timeout=SECONDS
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def __enter__(self) -> Running:
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
