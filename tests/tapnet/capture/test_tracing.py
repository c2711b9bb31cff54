"""-d and -D: which lines, where to, while it runs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tapnet.capture.tracing import Line, Tracer
from tapnet.monitor.commands.control import Control
from tapnet.monitor.hmp import Hmp
from tapnet.options import parse as options
from tapnet.vlan.hub import Hub
from tapnet.vlan.port import Port
from tests.netns.exec_kit import root_runner
from tests.tapnet.hub_kit import Loop
from tests.tapnet.monitor.kit import seed_instance
from tests.waiting import BOUND_S


class Nat:
    name = "user.0"

    def __init__(self) -> None:
        self.line: Line | None = None

    def trace(self, line: Line | None, wants: Callable[[str], bool]) -> None:
        self.line = line
        self.wants = wants


def test_only_who_is_asked_for_is_traced(tmp_path: Path) -> None:
    tracer, nat = Tracer(str(tmp_path / "log"), wall=lambda: 0.25), Nat()
    tracer.add(nat)
    assert nat.line is None
    tracer.set(["tcp"])
    assert nat.line is not None
    assert [which for which in ("tcp", "udp", "slirp", "hub") if nat.wants(which)] == ["tcp"]
    nat.line("tcp", "in  a > b")
    tracer.set(["slirp"])
    assert [which for which in ("tcp", "udp", "slirp", "hub") if nat.wants(which)] == ["tcp", "udp", "slirp"]
    tracer.set(["hub"])
    assert nat.line is None
    tracer.remove(nat)
    tracer.set(["tcp"])
    assert nat.line is None
    tracer.close()
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.250 tcp     user\.0 in  a > b", line)


def test_vlans(tmp_path: Path) -> None:
    hub = Hub(3, Loop())
    ports = [Port(name, lambda _frame, _vnet: True) for name in ("a", "b")]
    for port in ports:
        hub.add(port)
    tracer = Tracer(str(tmp_path / "log"), lambda: [hub])
    tracer.set(["hub"])
    ports[0].send(bytes(60))
    ports[1].set_link(False)
    ports[0].send(bytes(61))
    tracer.set([])
    assert not hub.traces
    ports[0].send(bytes(62))
    tracer.close()
    lines = [line.split(" ", 1)[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines[0] == "hub     VLAN 3: a sent 60 bytes"
    assert any(line.startswith("hub     VLAN 3: a sent 61 bytes") for line in lines)
    assert not [line for line in lines if "62 bytes" in line]


def test_lines_that_cannot_be_written_are_counted() -> None:
    """A full disk does not keep the file from being closed, by another file or by the end."""
    tracer = Tracer("/dev/full")
    for _ in range(3):
        tracer.line("tcp", "x")
    assert tracer.lost
    before = len(os.listdir("/proc/self/fd"))
    tracer.open("/dev/full")
    assert len(os.listdir("/proc/self/fd")) == before
    tracer.line("tcp", "x")
    tracer.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert Tracer().path is None


def test_the_monitors_commands(tmp_path: Path) -> None:
    _, instance = seed_instance()
    hmp = Hmp(Control(instance))
    assert hmp.execute("info log").text == "items: none\nfile: -\n"
    assert hmp.execute("log tcp,dhcp").text == ""
    assert hmp.execute(f"logfile {tmp_path}/log").text == ""
    assert hmp.execute("info log").text == f"items: tcp,dhcp\nfile: {tmp_path}/log\n"
    assert hmp.execute("log tpc").text == 'Error: log: unknown item "tpc" (did you mean "tcp"?)\n'
    assert hmp.execute("log regs").text == "Error: log: regs is not built yet\n"
    assert (
        hmp.execute("logfile /no/such/log").text
        == "Error: logfile: /no/such/log: No such file or directory\n"
    )
    assert hmp.execute("log none").text == ""
    assert hmp.execute("logfile -").text == ""
    assert hmp.execute("info log").text == "items: none\nfile: -\n"


def test_options() -> None:
    config = options.parse(["-net", "nic", "-net", "user", "-d", "tcp,dhcp", "-d", "arp", "-D", "/tmp/x"])
    assert (config.log_items, config.log_file, config.unbuilt) == (("tcp", "dhcp", "arp"), "/tmp/x", ())
    assert options.parse(["-net", "nic", "-d", "regs"]).unbuilt == ("-d regs: not built yet",)


@pytest.mark.packages
def test_a_guests_life_in_lines(tmp_path: Path) -> None:
    root = root_runner(tmp_path)
    script = "ping -c 1 -w 30 10.0.2.2 >/dev/null; nc -z 10.0.2.2 1; exit 0"
    done = root.run(
        script, "-d", "dhcp,icmp", "-D", f"{tmp_path}/log", "-net", "nic,model=direct", "-net", "user"
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "log").read_text()
    lines = [line.split(None, 2) for line in text.splitlines()]
    assert {words[1] for words in lines} == {"dhcp", "icmp"}
    for part in (
        "user.0 in  0.0.0.0.68 > 255.255.255.255.67 discover (52:54:00:12:34:56)",
        "user.0 --- dhcp_request",
        "ack 10.0.2.15 (52:54:00:12:34:56)",
        "user.0 out 10.0.2.2 > 10.0.2.15 echo reply",
    ):
        assert part in text
    bad = root.run("true", "-d", "dhcp", "-D", "/no/such/log", "-net", "nic,model=direct", "-net", "user")
    assert (bad.returncode, bad.stderr) == (2, "tapnet: -D /no/such/log: No such file or directory\n")


@pytest.mark.packages
def test_switched_while_it_runs(tmp_path: Path) -> None:
    root = root_runner(tmp_path)
    name = f"log-{tmp_path.name}"[:40]
    process = root.popen(
        f"echo ready; until [ -e {tmp_path}/go ]; do sleep 0.05; done; ping -c 1 -w 30 10.0.2.2 >/dev/null",
        *("--name", name, "-net", "nic,model=direct", "-net", "user"),
    )

    def monitor(*words: str) -> str:
        done = subprocess.run(
            root.argv("monitor", "-i", name, *words),
            env=root.env,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
        )
        return done.stdout + done.stderr

    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert monitor("logfile", f"{tmp_path}/log") == ""
        assert monitor("log", "icmp") == ""
        (tmp_path / "go").touch()
        assert process.wait(BOUND_S) == 0
    finally:
        process.kill()
        process.communicate(timeout=BOUND_S)
    assert "echo request" in (tmp_path / "log").read_text()
    assert "dhcp" not in (tmp_path / "log").read_text()
