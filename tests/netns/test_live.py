"""A namespace gets its card while the instance runs, and loses it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE = 60.0
TAPNET = [sys.executable, "-m", "tapnet"]


def wait_for(condition, what: str):
    end = time.monotonic() + PATIENCE
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
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)

    def monitor(line: str, status: int = 0) -> str:
        done = subprocess.run(
            [*TAPNET, "monitor", "-i", str(tapnet.pid), line],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
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
        assert tapnet.wait(PATIENCE) == 0
        assert tapnet.stderr is not None
        assert "Traceback" not in tapnet.stderr.read()
    finally:
        for process in (tapnet, box):
            if process.poll() is None:
                process.kill()
            process.wait()
        os.close(ready)
