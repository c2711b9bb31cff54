"""A namespace gets its card while the instance runs, and loses it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.waiting import BOUND_S

TAPNET = [sys.executable, "-m", "tapnet"]


def wait_for(condition, what: str):
    end = time.monotonic() + BOUND_S
    while not (found := condition()):
        assert time.monotonic() < end, f"timed out: {what}"
        time.sleep(0.05)
    return found


@pytest.mark.root
@pytest.mark.parametrize("model", ["rtl8139", "direct"])
def test_device_add_to_a_namespace(tmp_path: Path, model: str) -> None:
    ready, tell = os.pipe()
    box = subprocess.Popen(["unshare", "-n", "sleep", "600"])
    tapnet = subprocess.Popen(
        [*TAPNET, "run", "--name", "live", "-net", "user", "--ready-fd", str(tell)],
        pass_fds=(tell,), stderr=subprocess.PIPE, text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    os.close(tell)

    def inside(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["nsenter", "-t", str(box.pid), "-n", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S)

    def monitor(line: str, status: int = 0) -> str:
        done = subprocess.run(
            [*TAPNET, "monitor", "-i", str(tapnet.pid), line],
            capture_output=True,
            text=True,
            timeout=BOUND_S,
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    try:
        assert os.read(ready, 1)
        wait_for(lambda: "lo" in inside("ip", "link").stdout, "the namespace")
        for _ in range(2):  # what was deleted can be had again
            monitor(f"device_add {model},netns={box.pid},vlan=0,id=c,dhcp=on")
            wait_for(lambda: "10.0.2.15" in inside("ip", "-4", "addr", "show", "eth0").stdout, "a lease")
            assert inside("ping", "-c", "2", "-i", "0.2", "-w", "30", "10.0.2.2").returncode == 0
            assert "10.0.2.15" in monitor("info leases")
            assert "eth0 of netns=" in monitor("info cards")
            again = monitor(f"device_add {model},netns={box.pid},vlan=0,id=c", status=1)
            assert "exists already" in again
            taken = monitor(f"device_add {model},netns={box.pid},vlan=0,ifname=eth0", status=1)
            assert "already there in that namespace" in taken
            monitor("device_del c")
            wait_for(lambda: "eth0" not in inside("ip", "link").stdout, "the interface goes")
            assert monitor("info network").splitlines() == ["VLAN 0 devices:", "  user redirector"]
        children = Path(f"/proc/{tapnet.pid}/task/{tapnet.pid}/children").read_text().split()
        assert children == [], "no helper stays"
        tapnet.send_signal(signal.SIGTERM)
        assert tapnet.wait(BOUND_S) == 0
        assert tapnet.stderr is not None
        assert "Traceback" not in tapnet.stderr.read()
    finally:
        for process in (tapnet, box):
            if process.poll() is None:
                process.kill()
            process.wait()
        os.close(ready)


@pytest.mark.root
def test_a_tap_comes_and_goes_while_others_are_served(tmp_path: Path) -> None:
    """Its script takes its time, and somebody else's question is answered meanwhile."""
    started, go = tmp_path / "started", tmp_path / "go"
    script = tmp_path / "up"
    script.write_text(f"#!/bin/sh\ntouch {started}\nwhile [ ! -e {go} ]; do sleep 0.05; done\n")
    script.chmod(0o755)
    tapnet = subprocess.Popen(
        ["unshare", "-n", *TAPNET, "run", "-net", "none", "-qmp", "stdio"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def links() -> str:
        command = ["nsenter", "-t", str(tapnet.pid), "-n", "ip", "link"]
        return subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S).stdout

    def monitor(line: str) -> str:
        command = [*TAPNET, "monitor", "-i", str(tapnet.pid), line]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S)
        return done.stdout + done.stderr

    try:
        assert tapnet.stdout is not None and "QMP" in tapnet.stdout.readline()
        adding = subprocess.Popen(
            [*TAPNET, "monitor", "-i", str(tapnet.pid), f"host_net_add tap,ifname=t7,script={script}"]
        )
        wait_for(started.exists, "the script")
        assert monitor("info status") == "VM status: running\n"
        assert "tap" not in monitor("info network")
        go.touch()
        assert adding.wait(BOUND_S) == 0
        assert "t7" in links() and "ifname=t7" in monitor("info network")
        assert "exists already" in monitor("host_net_add tap,ifname=t8,name=tap.0")
        assert monitor("host_net_remove 0 tap.0") == ""
        assert "t7" not in links() and monitor("info network") == ""
        tapnet.send_signal(signal.SIGTERM)
        _, err = tapnet.communicate(timeout=BOUND_S)
        assert tapnet.returncode == 0 and "Traceback" not in err
    finally:
        if tapnet.poll() is None:
            tapnet.kill()
        tapnet.wait()
