"""A host of its own for interop tests: a network namespace in which tapnets, QEMUs and switches run.

Everything that is started here is ended here, by its pid. Nothing leaves the namespace: it has lo and a veth pair
interface, over which multicast goes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.pings import lossless, patient
from tests.waiting import BOUND_S, until

ROOT = Path(__file__).resolve().parents[2]
HOST_ADDRESS = "192.0.2.1"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
QEMU = ("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none")


class Program:
    """A program in the lab."""

    def __init__(self, lab: Lab, name: str, words: list[str], **more: Any) -> None:
        self.log = open(lab.folder / f"{name}.log", "w+")
        self.name = name
        self.process = subprocess.Popen(
            [*lab.enter, *words],
            stdin=subprocess.PIPE,  # vde_switch ends with it
            stdout=self.log,
            stderr=self.log,
            env=lab.environment,
            cwd=lab.folder,
            **more,
        )

    def text(self) -> str:
        """What it has said."""
        return Path(self.log.name).read_text()

    def wait(self, seconds: float = BOUND_S) -> int:
        """Its status."""
        return self.process.wait(seconds)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(BOUND_S)

    def close(self) -> None:
        """End it gently, or else at once."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(BOUND_S)
            except subprocess.TimeoutExpired:
                self.kill()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.log.close()


class Guest(Program):
    """A ``tapnet run`` with a namespace behind its card(s): a machine that commands can be run in."""

    def __init__(
        self,
        lab: Lab,
        name: str,
        address: str,
        nets: list[str],
        model: str,
        cards: int,
        mac: int,
        more: list[str],
    ) -> None:
        self.lab = lab
        self.holder = subprocess.Popen(["unshare", "-n", "sleep", "300"])
        host = os.stat("/proc/self/ns/net").st_ino
        until(lambda: os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino != host, "a namespace")
        self.enter = ["nsenter", "-n", "-t", str(self.holder.pid)]
        self.mac = f"52:54:00:00:{mac:02x}:00"
        words = [sys.executable, "-m", "tapnet", "run", "--name", name]
        for number in range(cards):
            dhcp = "on" if address == "dhcp" and number == 0 else "off"
            words += [
                "-net",
                f"nic,vlan={number},model={model},netns={self.holder.pid},ifname=eth{number},"
                f"macaddr=52:54:00:00:{mac:02x}:{number:02x},dhcp={dhcp}",
            ]
        for net in nets:
            words += ["-net", net]
        words += more
        super().__init__(lab, name, words)
        until(lambda: self.monitor("info name").strip() == name or self._dead(), f"{name} to be up")
        self.run("ip link set lo up; echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
        if address not in ("dhcp", ""):
            self.run(f"ip addr add {address}/24 dev eth0")

    def _dead(self) -> bool:
        assert self.process.poll() is None, self.text()
        return False

    def run(self, command: str, check: bool = True, seconds: float = BOUND_S) -> str:
        """A shell command in the guest; its output."""
        done = subprocess.run(
            [*self.enter, "sh", "-c", command], capture_output=True, text=True, timeout=seconds, cwd="/"
        )
        assert not check or done.returncode == 0, (
            f"{self.name}: {command}: {done.stdout}{done.stderr}{self.text()}"
        )
        return done.stdout

    def start(self, command: str) -> subprocess.Popen:
        """A server in the guest."""
        process = subprocess.Popen(
            [*self.enter, "sh", "-c", f"exec {command}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        self.lab.children.append(process)
        return process

    def ping(self, address: str, count: int = 1, interval: float = 0.01) -> None:
        """``count`` pings and not one lost; the first may take a while to find its way."""
        until(
            lambda: " 0% packet loss" in self.run(f"ping -c 1 -W 1 {address}", check=False),
            f"{self.name} to reach {address}: {self.monitor('info network -v')}",
        )
        if count > 1:
            text = self.run(f"ping {patient(count)} -i {interval} {address}", check=False, seconds=BOUND_S)
            lossless(text, count)

    def monitor(self, command: str) -> str:
        """The answer of its monitor."""
        done = subprocess.run(
            [*self.lab.enter, sys.executable, "-m", "tapnet", "monitor", "-i", self.name, *command.split()],
            capture_output=True,
            text=True,
            env=self.lab.environment,
            timeout=BOUND_S,
        )
        return done.stdout

    def close(self) -> None:
        super().close()
        if self.holder.poll() is None:
            self.holder.kill()
            self.holder.wait()


class Lab:
    """The host."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tapnet-lab-"))
        self.children: list[subprocess.Popen] = []
        self.programs: list[Program] = []
        self.guests = 0
        self.environment = {
            "PATH": PATH,
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder),
            "RUNTIME_DIRECTORY": str(self.folder),  # names of instances are this lab's own
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
        }
        self.holder = subprocess.Popen(["unshare", "-n", "sleep", "600"])
        host = os.stat("/proc/self/ns/net").st_ino
        until(lambda: os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino != host, "a namespace")
        self.enter = ["nsenter", "-n", "-t", str(self.holder.pid)]
        for words in (
            "link set lo up",
            "link add lan0 type veth peer name lan1",
            "link set lan1 up",
            f"addr add {HOST_ADDRESS}/24 dev lan0",
            "link set lan0 up multicast on",
            "route add default via 192.0.2.254 dev lan0",
        ):
            subprocess.run([*self.enter, "ip", *words.split()], check=True)

    def guest(
        self,
        name: str,
        address: str,
        *nets: str,
        model: str = "direct",
        cards: int = 1,
        more: Iterable[str] = (),
    ) -> Guest:
        """A machine with ``cards`` cards, the first with ``address`` (or "dhcp"); ``nets`` are -net options, ``more`` others."""
        self.guests += 1
        guest = Guest(self, name, address, list(nets), model, cards, self.guests, list(more))
        self.programs.append(guest)
        return guest

    def program(self, name: str, *words: str, **more: Any) -> Program:
        """Something else."""
        program = Program(self, name, list(words), **more)
        self.programs.append(program)
        return program

    def qemu(self, name: str, *words: str) -> Program:
        """A QEMU without a machine: only its network."""
        return self.program(name, *QEMU, *words)

    def listening(self, port: int) -> None:
        """Wait until TCP ``port`` is open."""
        until(lambda: f":{port} " in self.sh("ss -ltn"), f"port {port}")

    def sh(self, command: str) -> str:
        """A shell command on the lab's host; its output."""
        return subprocess.run(
            [*self.enter, "sh", "-c", command], capture_output=True, text=True, timeout=BOUND_S
        ).stdout

    def close(self) -> None:
        for process in reversed(self.children):
            if process.poll() is None:
                process.kill()
                process.wait()
        for program in reversed(self.programs):
            program.close()
        self.holder.kill()
        self.holder.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """A lab that is cleared up."""
    made = Lab()
    try:
        yield made
    finally:
        made.close()
