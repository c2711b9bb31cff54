"""The unit file under a real systemd, in a container of its own: start, readiness, stop, a mistake.

The container is an overlay of this host's own root, so nothing has to be downloaded, with a cgroup hierarchy,
network and process tree of its own; it boots straight into one service (``systemd/probe.sh``) that writes what it
sees.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "systemd" / "tapnet@.service"
PROBE = Path(__file__).parent / "systemd" / "probe.sh"
SECONDS = 100

LAB = """\
[[net]]
type = "nic"
[[net]]
type = "user"
[[net]]
type = "tap"
ifname = "tap-lab"
"""

BOOT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/root"
cp -a "$2/." "$1/root/"
if [ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount -l /sys/fs/cgroup || true
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
mount -t tmpfs tmpfs /run
machine=$1 out=$3; shift 3
exec systemd-nspawn -q --directory="$machine/root" --machine=tapnet-test --private-network --register=no \
    --keep-unit --link-journal=no --console=pipe --bind="$out:/out" --bind=/dev/net/tun "$@" \
    --boot -- --unit=probe.service
"""

PROBE_UNIT = """\
[Unit]
DefaultDependencies=no
Wants=systemd-journald.socket
After=systemd-journald.socket
OnSuccess=poweroff.target
OnFailure=poweroff.target
[Service]
Type=oneshot
TimeoutStartSec=90
ExecStart=/bin/sh /out/probe.sh
"""


def test_the_unit_loads_without_a_warning(tmp_path: Path) -> None:
    copy = tmp_path / "tapnet@.service"
    shutil.copy(UNIT, copy)
    seen = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", tmp_path / "tapnet@lab.service"],
        capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert (seen.returncode, seen.stdout, seen.stderr) == (0, "", "")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Boot, play ``probe.sh``, and return its files."""
    files = tmp_path_factory.mktemp("files")
    out = tmp_path_factory.mktemp("out")
    place = tmp_path_factory.mktemp("machine")
    shutil.copy(PROBE, out / "probe.sh")
    units = files / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copy(UNIT, units)
    (units / "probe.service").write_text(PROBE_UNIT)
    etc = files / "etc/tapnet"
    etc.mkdir()
    (etc / "lab.toml").write_text(LAB)
    (etc / "slow.toml").write_text("")
    (etc / "slow.env").write_text("TAPNET_ARGS=-net user -monitor unix:/run/slow.mon,server=on\n")
    (etc / "bad.toml").write_text('[[net]]\ntype = "usr"\n')
    program = files / "usr/local/bin/tapnet"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tapnet "$@"\n')
    program.chmod(0o755)
    binds = {str(ROOT), sys.prefix, sys.base_prefix}
    child = subprocess.run(
        ["unshare", "--mount", "sh", "-c", BOOT, "boot", str(place), str(files), str(out)]
        + [f"--bind-ro={path}" for path in sorted(binds)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    found = {path.name: path.read_text().strip() for path in out.iterdir()}
    assert "failed" in found, f"the probe did not end: {sorted(found)}\n{child.stdout}\n{child.stderr}"
    return found


def test_start_reaches_active_and_the_hub_is_up_by_then(seen: dict[str, str]) -> None:
    assert (seen["lab.start"], seen["lab.start.err"], seen["lab.active"]) == ("0", "", "active"), seen[
        "journal"
    ]
    assert seen["lab.network.status"] == "0", seen["lab.network"]
    head, nat, tap, nic = seen["lab.network"].splitlines()
    assert (head, nat) == ("VLAN 0 devices:", "  user redirector")
    assert tap.startswith("  tap: ifname=tap-lab setup_script=")
    assert nic == "  ne2000 pci macaddr=52:54:00:12:34:56"
    assert "tap-lab" in seen["lab.links"].split() and "tap-lab" not in seen["links.before"].split()
    assert "lab.ctl" in seen["lab.sockets"].split()
    assert seen["lab.text"], "a line for systemctl status"
    assert seen["lab.restarts"] == "0"


def test_ready_is_not_told_before_all_is_up(seen: dict[str, str]) -> None:
    assert seen["slow.before"] == "activating"
    assert "(tapnet)" in seen["slow.greeting"]
    assert seen["slow.after"] == "active", seen["journal"]
    assert [line.split()[0] for line in seen["ps"].splitlines()] == ["NAME", "lab", "slow"]


@pytest.mark.parametrize("name", ["lab", "slow"])
def test_stop_is_clean_and_leaves_nothing(seen: dict[str, str], name: str) -> None:
    assert [seen[f"{name}.{what}"] for what in ("stop", "stopped", "result", "exit")] == [
        "0", "inactive", "success", "0"
    ], seen["journal"]  # fmt: skip
    assert seen["links.after"] == seen["links.before"]
    assert [entry for entry in seen["sockets.after"].split() if entry != ".lock"] == []


def test_a_mistake_fails_once_with_status_2_and_a_line_that_names_it(seen: dict[str, str]) -> None:
    assert seen["bad.start"] != "0"
    assert (seen["bad.exit"], seen["bad.restarts"]) == ("2", "0")
    assert "usr" in seen["journal"] and "Traceback" not in seen["journal"]
    assert seen["failed"] == "tapnet@bad.service"
