"""What a namespace guest's COMMAND sees of the file system: everything, but for these places.

    /proc /sys        those of the new PID and network namespace, where the kernel permits it
    /run              a private tmpfs; /run/user stays visible
    /var/lib/dhcp...  private tmpfs over the directories in which DHCP clients keep their leases
    resolv.conf       a private file /run/tapnet/resolv.conf. The *target* of /etc/resolv.conf (its links
                      followed) is covered by a symbolic link to it, so that a DHCP client's script finds a
                      directory in which it may write and rename; where the target lies below /run the file
                      simply lies there; where the kernel cannot mount a link, the file itself is bound over
                      the target

All of it lives in a private mount namespace and ends with it. What cannot be mounted is left as it is; only a
failure to make mounts private is an error. Runs in the guest's first process, before COMMAND.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from ...system.syscalls import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    mount,
    mount_symlink,
)

RESOLV_CONF = "/etc/resolv.conf"
PRIVATE_RESOLV = "/run/tapnet/resolv.conf"
LEASE_DIRECTORIES = (
    "/var/lib/dhcp",
    "/var/lib/dhcpcd",
    "/var/lib/dhcpcd5",
    "/var/lib/dhclient",
    "/var/db/dhcpcd",
)
_RUN_DIRECTORIES = ("lock", "shm", "tapnet", "dhcpcd", "sshd", "network")
_SAFE = MS_NOSUID | MS_NODEV


def resolv_text(nameservers: Sequence[str], search: Sequence[str] = ()) -> str:
    """The text of a resolv.conf."""
    lines = [f"nameserver {server}" for server in nameservers]
    if search:
        lines.append("search " + " ".join(search))
    return "".join(line + "\n" for line in lines)


def prepare(resolv: str) -> None:
    """Do all of it, with ``resolv`` as the text of resolv.conf.

    Raises OSError if mounts cannot be private.
    """
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    _proc_and_sys()
    target = _resolv_target()
    _private_run()
    for directory in LEASE_DIRECTORIES:
        if os.path.isdir(directory) and not os.path.islink(directory):
            with contextlib.suppress(OSError):
                mount("tmpfs", directory, "tmpfs", _SAFE, "mode=0755")
    _cover_resolv(target, resolv)


def _proc_and_sys() -> None:
    with contextlib.suppress(OSError):
        mount("proc", "/proc", "proc", _SAFE | MS_NOEXEC)
    cgroup = _open_path("/sys/fs/cgroup")
    with contextlib.suppress(OSError):
        mount("sysfs", "/sys", "sysfs", _SAFE | MS_NOEXEC)
        _bind_back(cgroup, "/sys/fs/cgroup")
    if cgroup >= 0:
        os.close(cgroup)


def _private_run() -> None:
    if not os.path.isdir("/run"):
        return
    users = _open_path("/run/user")
    with contextlib.suppress(OSError):
        mount("tmpfs", "/run", "tmpfs", _SAFE, "mode=0755")
        for name in _RUN_DIRECTORIES:
            os.mkdir(f"/run/{name}", 0o755)
        os.chmod("/run/lock", 0o1777)
        os.chmod("/run/shm", 0o1777)
        if users >= 0:
            os.mkdir("/run/user", 0o755)
            _bind_back(users, "/run/user")
    if users >= 0:
        os.close(users)


def _open_path(path: str) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1


def _bind_back(fd: int, target: str) -> None:
    """Make a directory visible again that a mount has covered."""
    if fd >= 0:
        with contextlib.suppress(OSError):
            mount(f"/proc/self/fd/{fd}", target, flags=MS_BIND | MS_REC)


def _resolv_target() -> str:
    """Where /etc/resolv.conf leads, whether or not something is there."""
    path = os.path.realpath(RESOLV_CONF)
    return "/run" + path[8:] if path.startswith("/var/run/") else path


def _cover_resolv(target: str, text: str) -> None:
    private = PRIVATE_RESOLV
    if target.startswith("/run/"):
        private = target
        os.makedirs(os.path.dirname(target), exist_ok=True)
    elif not os.path.isdir(os.path.dirname(PRIVATE_RESOLV)):  # no private /run: nothing may be touched
        return
    write(text, private)
    if private is target:
        if target != PRIVATE_RESOLV:
            with contextlib.suppress(OSError):
                os.symlink(target, PRIVATE_RESOLV)
        return
    if not os.path.exists(target) and not _private_etc(target):
        return
    link = PRIVATE_RESOLV + ".link"
    try:
        os.symlink(PRIVATE_RESOLV, link)
        mount_symlink(link, target)
    except OSError:
        with contextlib.suppress(OSError):
            mount(PRIVATE_RESOLV, target, flags=MS_BIND)
    with contextlib.suppress(OSError):
        os.unlink(link)


def _private_etc(target: str) -> bool:
    """Nothing is at ``target`` and the host's directory is not ours to write:

    lay a writable layer over it.
    """
    directory = os.path.dirname(target)
    upper, work = "/run/tapnet/upper", "/run/tapnet/work"
    try:
        os.mkdir(upper, 0o755)
        os.mkdir(work, 0o755)
        mount("overlay", directory, "overlay", _SAFE, f"lowerdir={directory},upperdir={upper},workdir={work}")
        with open(target, "x"):
            pass
    except OSError:
        return False
    return True


def write(text: str, path: str = PRIVATE_RESOLV) -> None:
    """Replace the private resolv.conf."""
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o644)


def replace_resolv(old: str, new: str) -> bool:
    """Put ``new`` into the private resolv.conf if it still says ``old``: what COMMAND wrote there stays."""
    try:
        with open(PRIVATE_RESOLV) as file:
            if file.read() != old:
                return False
        write(new)
    except OSError:
        return False
    return True
