"""The main job as ``make run`` does it: the real program, without and with a terminal, and with a step that fails."""

import os
import re
import select
import subprocess
import sys
import time

from tests import apart
from tests.waiting import BOUND_S

TAPNET = [sys.executable, "-m", "tapnet"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TAPNET, "demo", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOUND_S
    )


def test_every_step_is_told_and_info_network_ends_it():
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    for line, wanted in zip(
        lines[1:],
        (
            r"  card   eth0 and lo are all there is; eth0 is 52:54:00:12:34:56  \(.* ms\)",
            r"  lease  10\.0\.2\.15/24, router 10\.0\.2\.2, name server 10\.0\.2\.3  .*",
            r"  ping   64 bytes from 10\.0\.2\.2: ttl=255 time=[\d.]+ ms  .*",
            r"  name   www\.demo\.test is 10\.0\.2\.2  .*",
            r"  http   http://www\.demo\.test:\d+/ 200 40 bytes: Hello from the host, through an NE2000\.  .*",
        ),
        strict=False,
    ):
        assert re.fullmatch(wanted, line), line
    assert lines[6:] == [
        "info network",
        "VLAN 0 devices:",
        "  user redirector",
        "  ne2000 pci macaddr=52:54:00:12:34:56",
    ]


def test_the_isa_card_does_the_same():
    done = run("-M", "isapc")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("  ne2000 macaddr=52:54:00:12:34:56\n")


def test_a_step_that_fails_is_named():
    done = run("-net", "nic,dhcp=off")
    assert done.returncode == 1
    assert "  lease  FAILED: " in done.stdout
    assert done.stderr.startswith("tapnet: demo: step lease failed: ")
    assert "  ping" not in done.stdout


def test_a_bad_option_is_one_line():
    done = run("-net", "nic,model=ne2k_pcl")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "ne2k_pcl" in done.stderr


def test_on_a_terminal_it_leaves_a_shell_in_the_guest():
    process, fd = apart.terminal([*TAPNET, "demo"], os.environ | {"SHELL": "/bin/sh"})
    seen = b""
    typed = False
    end = time.monotonic() + BOUND_S
    while time.monotonic() < end:
        if not select.select([fd], [], [], 0.5)[0]:
            continue
        try:
            data = os.read(fd, 4096)
        except OSError:  # the terminal's other end was closed
            break
        if not data:
            break
        seen += data
        if not typed and b"This shell is in the guest" in seen:
            typed = True
            os.write(fd, b"echo in=$(ls /sys/class/net | tr '\\n' ' '); exit 7\n")
    os.close(fd)
    assert process.wait(BOUND_S) == 7, seen.decode()
    assert b"in=eth0 lo" in seen
