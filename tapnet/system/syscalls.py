"""Linux calls that Python 3.11 does not have: unshare, setns, mount, prctl, signalfd, capability sets.

Thin wrappers over libc by ctypes. Each raises OSError with the call's errno. State: none.
Ref: unshare(2), setns(2), mount(2), open_tree(2), move_mount(2), prctl(2), signalfd(2), capset(2).
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterable
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)

SI_USER, SI_KERNEL, SI_QUEUE, SI_TKILL = 0, 0x80, -1, -6

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW = -100, 0x100
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _MOVE_MOUNT_F_EMPTY_PATH = 1, 0o2000000, 4
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT = 428, 429  # the same on all architectures
_SFD_NONBLOCK, _SFD_CLOEXEC = 0o4000, 0o2000000
_SIGNALFD_SIGINFO = 128
_SIGINFO = struct.Struct("=IiiI")  # signo, errno, code, pid

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what or None)
    return result


def unshare(flags: int) -> None:
    """Leave the namespaces named by ``flags`` (CLONE_NEW*) for new ones. Raises OSError."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int = 0) -> None:
    """Enter the namespace behind ``fd``; ``kind`` is a CLONE_NEW* flag, 0: any. Raises OSError."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)))


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError."""
    _check(
        _libc.mount(
            source.encode(),
            target.encode(),
            fstype.encode() or None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        ),
        target,
    )


def mount_symlink(link: str, target: str) -> None:
    """Mount the symbolic link ``link`` over the file ``target``, so that readers of ``target`` follow it.

    Raises OSError where the kernel does not do that.
    """
    fd = _check(
        _libc.syscall(
            _SYS_OPEN_TREE,
            ctypes.c_int(_AT_FDCWD),
            os.fsencode(link),
            ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_SYMLINK_NOFOLLOW),
        ),
        link,
    )
    try:
        _check(
            _libc.syscall(
                _SYS_MOVE_MOUNT,
                ctypes.c_int(fd),
                b"",
                ctypes.c_int(_AT_FDCWD),
                os.fsencode(target),
                ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
            ),
            target,
        )
    finally:
        os.close(fd)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send ``number`` when the parent ends. The parent may have ended already:

    the caller checks.
    """
    _check(_libc.prctl(ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(number), *(ctypes.c_ulong(0),) * 3))


class SignalFd:
    """A descriptor that reads signals with the reason why they came.

    Blocks ``signals`` in the calling thread: make it before any other thread starts. Children inherit the
    blocked mask; ``old_mask`` is what they should have.
    """

    def __init__(self, signals: Iterable[int]) -> None:
        self.signals = frozenset(signals)
        self.old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, self.signals)
        bits = 0
        for number in self.signals:
            bits |= 1 << (number - 1)
        mask = (ctypes.c_uint64 * 16)(bits)
        self._fd = _check(_libc.signalfd(-1, mask, _SFD_NONBLOCK | _SFD_CLOEXEC))

    def fileno(self) -> int:
        return self._fd

    def read(self) -> list[tuple[int, int, int]]:
        """Pending signals as (number, si_code, sender's pid); [] when there is none."""
        try:
            data = os.read(self._fd, 16 * _SIGNALFD_SIGINFO)
        except BlockingIOError:
            return []
        found = []
        for at in range(0, len(data), _SIGNALFD_SIGINFO):
            number, _, code, pid = _SIGINFO.unpack_from(data, at)
            found.append((number, code, pid))
        return found

    def close(self) -> None:
        """Close the descriptor and restore the mask."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            signal.pthread_sigmask(signal.SIG_SETMASK, self.old_mask)


def pidfd_wait(pidfd: int) -> int | None:
    """Reap the child behind ``pidfd`` if it ended:

    its exit status as a shell counts it (128+n for signal n).
    """
    result: Any = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if result is None:
        return None
    return int(result.si_status) if result.si_code == os.CLD_EXITED else 128 + int(result.si_status)
