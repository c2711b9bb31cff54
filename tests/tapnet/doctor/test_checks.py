"""``tapnet doctor``: each check against a made-up and the real host."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tapnet.doctor import checks as doctor
from tapnet.doctor.checks import Finding
from tapnet.system.capabilities import check_capabilities


def test_on_this_host_every_check_answers_and_json_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    status = doctor.main(("exec",))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(doctor.checks())
    assert all(line.startswith(("ok  ", "--  ")) for line in lines)
    assert doctor.main(("exec",), as_json=True) == status
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is (status == 0)
    assert [check["ok"] for check in told["checks"]] == [line.startswith("ok") for line in lines]
    assert all(check["mend"] for check in told["checks"] if not check["ok"])


def test_namespaces_are_tried_for_real() -> None:
    """The answer is what unshare(1) gets."""
    words = ["unshare", "-nmp", "true"] if os.geteuid() == 0 else ["unshare", "-rnmp", "true"]
    assert doctor.check_namespaces().ok is (subprocess.run(words).returncode == 0)


@pytest.mark.parametrize(
    ("permitted", "ok", "text"),
    [
        ((socket.SOCK_DGRAM,), True, "ping sockets open"),
        ((socket.SOCK_RAW,), True, "raw sockets"),
        ((), False, "no ping to the world"),
    ],
)
def test_ping(permitted: tuple[int, ...], ok: bool, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the NAT does it: by ping sockets, or by a raw one."""
    real = socket.socket

    def opened(family: int, kind: int, protocol: int) -> socket.socket:
        assert (family, protocol) == (socket.AF_INET, socket.IPPROTO_ICMP)
        if kind not in permitted:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real()

    monkeypatch.setattr(doctor.socket, "socket", opened)
    found = doctor.check_ping()
    assert found.ok is ok and text in found.text
    assert ok or "sysctl -w net.ipv4.ping_group_range=" in found.mend


def test_ping_sockets_are_tried_for_real() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ping_group_range").read_text().split())
    groups = {os.getegid(), *os.getgroups()}
    if any(low <= group <= high for group in groups):
        assert doctor.check_ping().ok


def test_tun_missing_forbidden_and_without_driver(tmp_path: Path) -> None:
    missing = doctor.check_tun(str(tmp_path / "tun"))
    assert not missing.ok and "mknod" in missing.mend and missing.needs == ("tap",)
    if os.geteuid() != 0:
        locked = tmp_path / "locked"
        locked.touch(mode=0)
        assert doctor.check_tun(str(locked)).mend == f"chmod 666 {locked}"
    with socket.socket(socket.AF_UNIX) as made:  # opening a socket gives ENXIO, as a node without driver does
        made.bind(str(tmp_path / "node"))
    assert doctor.check_tun(str(tmp_path / "node")).mend == "modprobe tun"


@pytest.mark.parametrize(
    ("knob", "value", "mend"),
    [
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("kernel/unprivileged_userns_clone", "1", "seccomp"),
    ],
)
def test_which_sysctl_forbids_namespaces(tmp_path: Path, knob: str, value: str, mend: str) -> None:
    path = tmp_path / knob
    path.parent.mkdir()
    path.write_text(value + "\n")
    assert mend in doctor.namespace_mend(errno.EPERM, tmp_path)


@pytest.mark.parametrize(
    ("mask", "ok"), [("0000003fffffffff", True), ("0000000000001000", True), ("0", False)]
)
def test_capabilities(tmp_path: Path, mask: str, ok: bool) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{mask}\n")
    assert check_capabilities(status).ok is ok


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("nameserver 192.0.2.1\n", True),
        ("search x\n  nameserver\t::1 # c\n", True),
        ("#nameserver 192.0.2.1\n", False),
        ("nameserver\n", False),
        (None, False),
    ],
)
def test_resolver(tmp_path: Path, text: str | None, ok: bool) -> None:
    path = tmp_path / "resolv.conf"
    if text is not None:
        path.write_text(text)
    found = doctor.check_resolver(path)
    assert found.ok is ok and (ok or "resolver=" in found.mend)


@pytest.mark.parametrize(
    ("shown", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright", (7, 2)),
        ("QEMU emulator version 10.1.0-rc1\n", (10, 1)),
        ("QEMU emulator version", None),
        ("", None),
    ],
)
def test_qemu_version(shown: str, version: tuple[int, int] | None) -> None:
    assert doctor.qemu_version(shown) == version


def test_without_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.check_qemu().line() == "--  QEMU is not installed (real VMs): apt install qemu-system-x86"
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text("#!/bin/sh\necho QEMU emulator version 10.1.2\n")
    fake.chmod(0o755)
    assert doctor.check_qemu().line() == "ok  QEMU 10.1 has vfio-user"
    fake.write_text("#!/bin/sh\necho QEMU emulator version 7.2.22\n")
    assert doctor.check_qemu().text == "QEMU 7.2 has no vfio-user (our cards in a VM)"
    fake.write_text("#!/bin/sh\nexit 1\n")
    assert "tells no version" in doctor.check_qemu().text


def test_smbd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name, path: None)
    assert doctor.check_smbd().line() == "--  smbd is not installed (smb= of -net user): apt install samba"
    monkeypatch.setattr(doctor.shutil, "which", lambda name, path: f"/usr/sbin/{name}")
    assert doctor.check_smbd().ok


@pytest.mark.parametrize(
    ("shown", "runs", "said"),
    [
        ("systemd 252 (252.39-1~deb12u1)", True, "ok  systemd 252 runs"),
        ("systemd 257~rc1 (257)", True, "ok  systemd 257 runs"),
        (
            "systemd 252 (252.39)",
            False,
            "--  systemd 252 is installed, but does not run here: start tapnet by",
        ),
        ("systemd 247 (247.3)", True, "--  systemd 247 is older than the units: use systemd 252 or newer"),
        ("garbage", True, "tells no version"),
        (None, True, "--  systemd is not installed: tapnet run works without it"),
    ],
)
def test_systemd(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: str | None, runs: bool, said: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if shown is not None:
        fake = tmp_path / "systemctl"
        fake.write_text(f"#!/bin/sh\necho '{shown}'\n")
        fake.chmod(0o755)
    assert said in doctor.check_systemd(tmp_path if runs else tmp_path / "none").line()


def test_verdict_counts_only_what_the_mode_needs() -> None:
    findings = [
        Finding("a", True, "a"),
        Finding("b", False, "b", "mend b", ("tap",)),
        Finding("c", False, "c"),
    ]
    assert doctor.verdict(findings, ("exec", "user")) == 0
    assert doctor.verdict(findings, ("user", "tap")) == 1
    assert findings[1].line() == "--  b: mend b"
