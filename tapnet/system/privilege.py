"""``--runas USER``: what a tapnet that root started gives away once all is up.

    load, reserve ─► drop ─► fence
    modules,           user, groups,         no program can be started (Landlock)
    /dev/net/tun       capabilities

* ``drop``: USER's uid, gid and groups, for good; no new privileges; every capability goes but CAP_NET_ADMIN, and that too
  where the configuration has no TAP (then a TAP that is asked for later is refused with a line that says so).
* ``load``: all modules, ours, the libraries' and Python's, because USER may not be allowed to read them (a folder of root's).
* ``reserve``: descriptors of /dev/net/tun for TAPs that come later, because USER may not be allowed to open it.
* ``fence``: a Landlock domain in which execve is denied; it also keeps us from tracing processes outside it. Not where the
  configuration runs programs (scripts, helpers, smbd). A kernel without Landlock: a line, and on we go.

Capabilities, the domain and "no new privileges" belong to a thread: threads started before would keep what they had, so the
caller gives the event loop a new executor.

Ref: capabilities(7), prctl(2), capset(2), landlock(7), Linux include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pkgutil
import pwd
import struct
import traceback
from dataclasses import dataclass

from ..config import Config, TapNet, UserNet, VxlanNet

CAP_NET_ADMIN = 12
CAP_LAST = 63
LATE = (  # what our modules import in functions, and what the libraries do
    "pyroute2",
    "pyroute2.nftables.main",
    "pytun",
    "readline",
    "tomllib",
    "uvloop",
    "websockets.server",
    "encodings.idna",  # by the first name that is looked up; the next by one that begins with xn--
    "encodings.punycode",
    "encodings.unicode_escape",
    *(
        f"encodings.utf_{form}" for form in ("8_sig", "16", "16_le", "16_be", "32", "32_le", "32_be")
    ),  # JSON in bytes
)
TUN_RESERVE = 8  # TAPs that may be added while it runs
_PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 8, 24, 38
_CAPABILITY_VERSION_3 = 0x20080522
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91, "riscv64": 91}
_SYS_LANDLOCK_CREATE, _SYS_LANDLOCK_RESTRICT = 444, 446  # the same on all architectures
_LANDLOCK_EXECUTE = 1

_libc = ctypes.CDLL(None, use_errno=True)
gave_away = ""  # why there is no CAP_NET_ADMIN, for those who miss it


class PrivilegeError(Exception):
    """Privilege cannot be given away as asked; one line that names the option."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the host."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def account(name: str) -> Account:
    """The user of that name; by root only. Raises PrivilegeError."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise PrivilegeError(f"--runas {name}: no such user") from None
    if os.geteuid() != 0:
        raise PrivilegeError(f"--runas {name}: only root can become another user")
    if found.pw_uid == 0:
        raise PrivilegeError(f"--runas {name}: that is root, which gives nothing away")
    return Account(name, found.pw_uid, found.pw_gid, tuple(os.getgrouplist(name, found.pw_gid)))


def wants_tap(config: Config) -> bool:
    """Whether some back end, plugged or not, is a TAP."""
    return any(isinstance(net, (TapNet, VxlanNet)) for net in config.nets)


def runs_programs(config: Config) -> str:
    """What of the configuration starts programs; "": nothing does."""
    for net in config.nets:
        if isinstance(net, TapNet):
            for key, value in (
                ("script", net.script),
                ("downscript", net.downscript),
                ("helper", net.helper),
            ):
                if value is not None:
                    return f"{net.origin}: {key}="
        if isinstance(net, UserNet):
            if net.smb is not None:
                return f"{net.origin}: smb="
            if any(forward.target in ("cmd", "file") for forward in net.guest_forwards):
                return f"{net.origin}: guestfwd=...-cmd:"
    return ""


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(ctypes.c_int(option), *(ctypes.c_ulong(word) for word in (value, 0, 0, 0))), "prctl")


def _set_capabilities(bits: int) -> None:
    number = _SYS_CAPSET[os.uname().machine]
    head = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    data = struct.pack("=6I", low, low, 0, high, high, 0)  # effective, permitted, inheritable
    _check(_libc.syscall(ctypes.c_long(number), head, data), "capset")


def load() -> None:
    """Import what is otherwise imported when it is first needed."""
    for package in ("tapnet", "slirp", "nic_models"):
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                with contextlib.suppress(ImportError):
                    importlib.import_module(module.name)
    for name in LATE:
        with contextlib.suppress(ImportError):  # what is not there now is not there later
            importlib.import_module(name)
    _use_once()


def _use_once() -> None:
    """What Python's library loads by itself, and differently from version to version: the report of an error."""
    try:
        tracebak  # type: ignore[name-defined]  # noqa: B018  (a word that is nearly one has a hint)
    except NameError as error:
        traceback.format_exception(error)


def drop(to: Account, *, keep_net_admin: bool) -> None:
    """Become ``to``. Raises PrivilegeError: then nothing may run on."""
    global gave_away
    try:
        if keep_net_admin:
            _prctl(_PR_SET_KEEPCAPS, 1)
        for number in range(CAP_LAST + 1):
            try:
                _prctl(_PR_CAPBSET_DROP, number)
            except OSError:  # the kernel knows no more
                break
        os.setgroups(to.groups)
        os.setresgid(to.gid, to.gid, to.gid)
        os.setresuid(to.uid, to.uid, to.uid)
        _set_capabilities(1 << CAP_NET_ADMIN if keep_net_admin else 0)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    except (OSError, KeyError) as error:
        raise PrivilegeError(f"--runas {to.name}: {error}") from error
    if os.getresuid() != (to.uid,) * 3 or os.getresgid() != (to.gid,) * 3:
        raise PrivilegeError(f"--runas {to.name}: the kernel did not do it")
    if not keep_net_admin:
        gave_away = f"--runas {to.name} gave it away, because no TAP was configured at the start"


def fence() -> bool:
    """Let this thread, and those that it starts, start no program any more. False: the kernel has no Landlock."""
    attributes = struct.pack("=Q", _LANDLOCK_EXECUTE)  # handled and, without a rule, denied
    fd = _libc.syscall(
        ctypes.c_long(_SYS_LANDLOCK_CREATE), attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0)
    )
    if fd < 0:
        return False
    try:
        return bool(
            _libc.syscall(ctypes.c_long(_SYS_LANDLOCK_RESTRICT), ctypes.c_int(fd), ctypes.c_uint(0)) == 0
        )
    finally:
        os.close(fd)
