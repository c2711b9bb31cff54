"""Files of UNIX sockets that we bind: what control sockets, monitors, the register bus, vfio-user and the wires share.

A dead socket in our place is removed, a live one is somebody's, another kind of file is refused. What we made is taken
away at the end, if it is still ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path


class UnixFile:
    """The file of a socket that we bound."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        seen = os.lstat(path)
        self._inode = (seen.st_dev, seen.st_ino)

    def remove(self) -> None:
        """Take it away, if it is still ours. Idempotent."""
        with contextlib.suppress(OSError):
            seen = self.path.lstat()
            if (seen.st_dev, seen.st_ino) == self._inode:
                self.path.unlink()


def alive(path: str | Path, kind: int = socket.SOCK_STREAM) -> bool:
    """Whether a process has the socket at ``path``; a dead one there is removed.

    Raises OSError: FileExistsError for another kind of file, and what connect says of a socket of another type, of a
    missing permission.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "it exists and is not a socket")
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return False
        except FileNotFoundError:
            return False
        except BlockingIOError:  # its backlog is full
            return True
    return True


def bind_private(sock: socket.socket, path: str | Path) -> UnixFile:
    """Bind ``sock`` to a file that only its owner can open (0600). Raises OSError."""
    os.fchmod(sock.fileno(), 0o600)  # Linux: the mode that bind gives the file, so it is never open wider
    sock.bind(str(path))
    return UnixFile(path)
