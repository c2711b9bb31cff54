"""``tapnet doctor``: what this host lets us do, and the command that mends what it does not.

One line a check: ``ok  WHAT`` or ``--  WHAT: COMMAND``. Each check only looks (it opens, asks and closes;
the user namespace one in a child process) and changes nothing. ``needs`` says which modes cannot do without
it; what no chosen mode needs is told, but does not make the exit status 1.

Ref: tun.rst, user_namespaces(7), icmp(7) (ping_group_range), capabilities(7), resolv.conf(5).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ..system.capabilities import check_capabilities, read
from ..system.finding import Finding as Finding
from ..system.patience import limit

MODES = ("exec", "user", "tap")
CHILD_S = 10.0
VFIO_USER_QEMU = (10, 1)  # the first that has vfio-user-pci
SYSTEMD = 252  # what the units are written for


def check_tun(device: str = "/dev/net/tun") -> Finding:
    """The TAP device node."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        mend = f"mkdir -p /dev/net && mknod {device} c 10 200 && chmod 666 {device}"
        return Finding("tun", False, f"{device} is missing", mend, ("tap",))
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            return Finding("tun", False, "the kernel has no tun driver loaded", "modprobe tun", ("tap",))
        if error.errno in (errno.EPERM, errno.EACCES) and os.geteuid() == 0:
            mend = "allow device c 10:200 in this container (docker: --device /dev/net/tun)"
        else:
            mend = f"chmod 666 {device}"
        return Finding("tun", False, f"{device}: {error.strerror}", mend, ("tap",))
    return Finding("tun", True, f"{device} opens")


def check_namespaces() -> Finding:
    """What ``tapnet exec`` makes: network, process and mount namespaces, without root a user namespace besides; tried in
    a child."""
    from ..system import syscalls  # with ctypes: not for those who only want a constant from here

    root = os.geteuid() == 0
    flags = syscalls.CLONE_NEWNET | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS
    if not root:
        flags |= syscalls.CLONE_NEWUSER
    what = ("" if root else "user, ") + "network, process and mount namespaces"
    script = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"sys.exit(ctypes.get_errno() if libc.unshare({flags}) else 0)\n"
    )
    try:
        child = subprocess.run([sys.executable, "-I", "-c", script], timeout=limit(CHILD_S), check=False)
        number = child.returncode
    except (OSError, subprocess.TimeoutExpired):
        number = errno.EAGAIN
    if number == 0:
        return Finding("namespaces", True, f"{what} can be made")
    return Finding(
        "namespaces", False, f"{what}: {os.strerror(abs(number))}", namespace_mend(number), ("exec",)
    )


def namespace_mend(number: int, proc: Path = Path("/proc/sys")) -> str:
    """The command that most likely allows namespaces, from the sysctls that forbid them."""
    for path, bad, value in (
        ("user/max_user_namespaces", "0", "15000"),
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_net_namespaces", "0", "15000"),
        ("user/max_pid_namespaces", "0", "15000"),
        ("user/max_mnt_namespaces", "0", "15000"),
    ):
        if read(proc / path) == bad:
            return f"sysctl -w {path.replace('/', '.')}={value}"
    if number == errno.EPERM:
        return (
            "the container's seccomp profile or security module forbids unshare: start it with that allowed"
        )
    return "see user_namespaces(7)"


def check_ping() -> Finding:
    """ICMP datagram sockets, or a raw one: ping from the guest to the world."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
    except OSError as error:
        with contextlib.suppress(OSError):
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
            return Finding("ping", True, "ping goes by raw sockets (ping sockets are not permitted)")
        allowed = " ".join(read(Path("/proc/sys/net/ipv4/ping_group_range")).split()) or "unknown"
        mend = "sysctl -w net.ipv4.ping_group_range='0 2147483647'"
        text = f"ping sockets ({error.strerror}; ping_group_range is {allowed}): no ping to the world"
        return Finding("ping", False, text, mend)
    return Finding("ping", True, "ping sockets open")


def check_resolver(path: Path = Path("/etc/resolv.conf")) -> Finding:
    """A name server for 10.0.2.3 to ask."""
    servers = [
        words[1]
        for line in read(path).splitlines()
        if len(words := line.split()) >= 2 and words[0] == "nameserver"
    ]
    if servers:
        return Finding("resolver", True, f"{path} names {', '.join(servers)}")
    mend = f"add a line to it, or give -net user,resolver=ADDRESS (e.g. echo nameserver 9.9.9.9 >> {path})"
    return Finding("resolver", False, f"{path} names no server", mend)


def check_qemu() -> Finding:
    """QEMU, for real VMs."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        return Finding("qemu", False, "QEMU is not installed (real VMs)", "apt install qemu-system-x86")
    try:
        shown = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=limit(CHILD_S), check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(
            "qemu", False, f"{program} does not run: {error}", "apt install --reinstall qemu-system-x86"
        )
    version = qemu_version(shown)
    if version is None:
        return Finding(
            "qemu", False, f"{program} tells no version", "apt install --reinstall qemu-system-x86"
        )
    text = f"QEMU {version[0]}.{version[1]}"
    if version < VFIO_USER_QEMU:
        mend = "install QEMU 10.1 or newer; until then use -net socket or stream"
        return Finding("qemu", False, f"{text} has no vfio-user (our cards in a VM)", mend)
    return Finding("qemu", True, f"{text} has vfio-user")


def qemu_version(shown: str) -> tuple[int, int] | None:
    """(major, minor) from what ``--version`` printed."""
    words = shown.split()
    for word in words[words.index("version") + 1 :][:1] if "version" in words else []:
        parts = word.split(".")
        if len(parts) >= 2 and parts[0].isdigit() and parts[1].isdigit():
            return int(parts[0]), int(parts[1])
    return None


def check_packet() -> Finding:
    """AF_PACKET: only where /dev/net/tun is missing, and then inside our own user namespace."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as error:
        if error.errno == errno.EPERM:
            return Finding("packet", True, "packet sockets: in our own namespaces only")
        return Finding("packet", False, f"packet sockets: {error.strerror}", "modprobe af_packet")
    return Finding("packet", True, "packet sockets open")


def check_smbd() -> Finding:
    """Samba's server, for smb=."""
    places = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
    program = shutil.which("smbd", path=places)
    if program is None:
        return Finding("smbd", False, "smbd is not installed (smb= of -net user)", "apt install samba")
    return Finding("smbd", True, f"{program} is there, for smb=")


def check_systemd(running: Path = Path("/run/systemd/system")) -> Finding:
    """systemd, for tapnet@.service."""
    program = shutil.which("systemctl")
    if program is None:
        return Finding("systemd", False, "systemd is not installed", "tapnet run works without it")
    try:
        shown = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=limit(CHILD_S), check=False
        ).stdout.split()
        version = int(shown[1].partition(".")[0].partition("~")[0])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return Finding("systemd", False, f"{program} tells no version", "apt install --reinstall systemd")
    if version < SYSTEMD:
        mend = f"use systemd {SYSTEMD} or newer, or tapnet run"
        return Finding("systemd", False, f"systemd {version} is older than the units", mend)
    if not running.is_dir():
        mend = "start tapnet by tapnet run, or boot with systemd"
        return Finding("systemd", False, f"systemd {version} is installed, but does not run here", mend)
    return Finding("systemd", True, f"systemd {version} runs")


def checks() -> tuple[Callable[[], Finding], ...]:
    """All of them, in the order in which they are shown."""
    from . import lan  # with pyroute2: not for those who only want a constant from here

    return (
        check_tun,
        check_namespaces,
        check_ping,
        check_capabilities,
        *lan.CHECKS,
        check_resolver,
        check_packet,
        check_qemu,
        check_smbd,
        check_systemd,
    )


def examine() -> list[Finding]:
    """What all checks find."""
    return [check() for check in checks()]


def verdict(findings: list[Finding], modes: tuple[str, ...]) -> int:
    """Exit status: 1 if something that one of ``modes`` needs is not ok."""
    return 1 if any(not f.ok and set(f.needs) & set(modes) for f in findings) else 0


def main(modes: tuple[str, ...] = ("exec", "user"), as_json: bool = False) -> int:
    """Print the findings; ``modes``: what the user wants to do (exec, user, tap)."""
    findings = examine()
    if as_json:
        print(
            json.dumps(
                {"ok": not verdict(findings, modes), "checks": [asdict(f) for f in findings]}, indent=2
            )
        )
    else:
        for finding in findings:
            print(finding.line())
    return verdict(findings, modes)
