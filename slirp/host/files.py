"""Files of one directory of the host, for the TFTP server: part of ``slirp.host.sockets``.

Nothing outside the directory: the directory is held by a descriptor, and the kernel itself resolves each name
beneath it (openat2, RESOLVE_BENEATH and no magic links): "..", absolute links and links that lead out fail with
EXDEV, and there is no moment between a check and its use. Links that stay inside work. Where the kernel has no
openat2, or a sandbox forbids it, each part is opened in the one before with O_NOFOLLOW: then no link works.
Only regular files are read; O_NONBLOCK keeps a FIFO from holding anybody up.

``nocase``: where a name is not there, the first (in the order of bytes) of its directory that differs in capital and small
letters only is taken, among the ``NAMES`` that are looked at. The name of a new file is taken as it is.

Nothing waits: every call on a file is done by ``THREADS`` worker threads, and its answer comes to the loop as
an event. A slow disk delays transfers, and nothing else.

A new file is written under a name of its own beside its place, and renamed onto its name when it is whole: nobody
sees a part of it, and a link of that name is replaced, not followed.

Ref: openat2(2); open(2) O_NOFOLLOW, O_PATH; rename(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import stat
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..contracts.host import FileEvents

THREADS = 2
NAMES = 1 << 16  # of a directory that are compared without regard to case
RACES = 8  # EAGAIN of openat2: a directory was renamed meanwhile
_SYS_OPENAT2 = 437  # the same number on every architecture
_HOW = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve
_RESOLVE = 0x08 | 0x02  # RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
_UNKNOWN = frozenset((errno.ENOSYS, errno.EPERM))
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PREFIX = b".tapnet-"

_syscall: Any = ctypes.CDLL(None, use_errno=True).syscall


def _openat2(directory: int, path: bytes, flags: int) -> int:
    """Open ``path`` beneath ``directory``. Raises OSError."""
    how = ctypes.create_string_buffer(_HOW.pack(flags, 0, _RESOLVE), _HOW.size)
    error = errno.EAGAIN
    for _ in range(RACES):
        found = _syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(directory),
            ctypes.c_char_p(path),
            ctypes.byref(how),
            ctypes.c_size_t(_HOW.size),
        )
        if found >= 0:
            return int(found)
        error = ctypes.get_errno()
        if error not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(error, os.strerror(error))


def _walk(directory: int, parts: Sequence[bytes], flags: int) -> int:
    """The same, one part after the other, without any link. Raises OSError."""
    at = os.dup(directory)
    try:
        for part in parts[:-1]:
            below = os.open(part, _PLACE | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        return os.open(parts[-1], flags | os.O_NOFOLLOW, dir_fd=at)
    finally:
        os.close(at)


class HostDirectory:
    """One directory (``slirp.contracts.host.Directory``).

    defer   runs a function on the loop, from any thread
    after   is called when an event has been told
    beneath whether the kernel resolves names; False: part by part
    """

    def __init__(
        self,
        path: str,
        now: Callable[[], int],
        defer: Callable[[Callable[[], None]], object],
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self._fd = os.open(path, _PLACE)  # raises OSError
        given = os.fsencode(os.path.abspath(path))
        real = os.path.realpath(os.fsencode(path))
        self.names: tuple[bytes, ...] = (given,) if given == real else (given, real)
        self.beneath = True
        self.nocase = False
        self.now = now
        self.after = after
        self._defer = defer
        self.files: set[HostFile] = set()  # open ones
        self._workers: ThreadPoolExecutor | None = None

    def open(self, parts: Sequence[bytes], events: FileEvents) -> HostFile:
        """Open for reading."""
        file = HostFile(self, events)
        file.ask(lambda: file.open_old(list(parts)))
        return file

    def create(self, parts: Sequence[bytes], size: int, events: FileEvents) -> HostFile:
        """A new file."""
        file = HostFile(self, events)
        file.ask(lambda: file.open_new(list(parts), size))
        return file

    def close(self) -> None:
        """Give it back, and what files are still open."""
        if self._workers is not None:
            self._workers.shutdown(wait=True)
            self._workers = None
        for file in list(self.files):
            file.release()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # ---- for files -----------------------------------------------------------------------------------------

    def work(self, task: Callable[[], None]) -> None:
        """Do ``task`` in a worker thread."""
        if self._fd < 0:
            return
        if self._workers is None:
            self._workers = ThreadPoolExecutor(THREADS, "tapnet-files")
        self._workers.submit(task)

    def tell(self, event: Callable[[], None]) -> None:
        """Run ``event`` on the loop, if that still runs."""
        with contextlib.suppress(RuntimeError):
            self._defer(event)

    def find_open(self, parts: Sequence[bytes], flags: int) -> int:
        """Open what has this name, or with ``nocase`` one like it. Raises OSError."""
        try:
            return self.beneath_open(parts, flags)
        except FileNotFoundError:
            if not self.nocase:
                raise
        real: list[bytes] = []
        for part in parts:
            real.append(self._alike(real, part))
        return self.beneath_open(real, flags)

    def _alike(self, above: Sequence[bytes], part: bytes) -> bytes:
        """The name in a directory that is ``part``, else the first that is but for its case; else ``part``."""
        fd = self.beneath_open(above, _LIST)
        try:
            with os.scandir(fd) as entries:
                names = [os.fsencode(entry.name) for entry in itertools.islice(entries, NAMES)]
        finally:
            os.close(fd)
        wanted = os.fsdecode(part).casefold()
        found = [name for name in names if os.fsdecode(name).casefold() == wanted]
        return part if part in found or not found else min(found)

    def beneath_open(self, parts: Sequence[bytes], flags: int) -> int:
        """Open what has this name. Raises OSError."""
        if self.beneath:
            try:
                return _openat2(self._fd, b"/".join(parts) or b".", flags)
            except OSError as error:
                if error.errno not in _UNKNOWN or not self._kernel_cannot():
                    raise
                self.beneath = False
        return _walk(self._fd, parts or [b"."], flags)

    def _kernel_cannot(self) -> bool:
        """Whether openat2 fails for our own directory: then it is not there, or forbidden."""
        try:
            os.close(_openat2(self._fd, b".", _PLACE))
        except OSError as error:
            return error.errno in _UNKNOWN
        return False


class HostFile:
    """One file (``slirp.contracts.host.File``). ``open_*`` and what they call run in a worker."""

    def __init__(self, directory: HostDirectory, events: FileEvents) -> None:
        self._directory = directory
        self._events = events
        directory.files.add(self)
        self._fd = -1
        self._busy = False
        self._closed = False
        self._place = -1  # the directory of a new file
        self._temporary = b""  # its name there until it is committed
        self._name = b""

    # ---- requests, on the loop -----------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> None:
        """Ask for bytes."""
        self.ask(lambda: self._do_read(offset, size))

    def write(self, data: bytes) -> None:
        """Append."""
        self.ask(lambda: self._do_write(data))

    def commit(self) -> None:
        """Take the name."""
        self.ask(self._do_commit)

    def close(self) -> None:
        """Give it back, when the request under way has ended."""
        if not self._closed:
            self._closed = True
            if not self._busy:
                self._directory.work(self.release)

    def ask(self, task: Callable[[], Callable[[int], None]]) -> None:
        """Do ``task`` in a worker; what it returns is told on the loop with the time."""
        if self._closed:
            return
        self._busy = True

        def run() -> None:
            try:
                event = task()
            except OSError as failure:
                error = failure.errno or errno.EIO

                def event(now: int) -> None:
                    self._events.file_failed(error, now)

            self._directory.tell(lambda: self._done(event))

        self._directory.work(run)

    def _done(self, event: Callable[[int], None]) -> None:
        self._busy = False
        if self._closed:
            self._directory.work(self.release)
            return
        event(self._directory.now())
        self._directory.after()

    # ---- work, in a worker ---------------------------------------------------------------------------------

    def open_old(self, parts: list[bytes]) -> Callable[[int], None]:
        """Open a regular file. Raises OSError."""
        fd = self._directory.find_open(parts, _READ)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            error = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EACCES
            raise OSError(error, os.strerror(error))
        self._fd = fd
        return lambda now: self._events.file_opened(found.st_size, now)

    def open_new(self, parts: list[bytes], size: int) -> Callable[[int], None]:
        """Make a file without a name. Raises OSError."""
        self._place = self._directory.find_open(parts[:-1], _PLACE)
        self._name = parts[-1]
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(self._name, dir_fd=self._place).st_mode):
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if size:
            space = os.fstatvfs(self._place)
            if size > space.f_bavail * space.f_frsize:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary = _PREFIX + os.urandom(8).hex().encode()
        self._fd = os.open(temporary, _NEW, 0o666, dir_fd=self._place)
        self._temporary = temporary
        return lambda now: self._events.file_opened(0, now)

    def _do_read(self, offset: int, size: int) -> Callable[[int], None]:
        parts: list[bytes] = []
        while size:
            data = os.pread(self._fd, size, offset)
            if not data:
                break
            parts.append(data)
            offset += len(data)
            size -= len(data)
        found = b"".join(parts)
        return lambda now: self._events.file_read(found, now)

    def _do_write(self, data: bytes) -> Callable[[int], None]:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        return self._events.file_written

    def _do_commit(self) -> Callable[[int], None]:
        os.rename(self._temporary, self._name, src_dir_fd=self._place, dst_dir_fd=self._place)
        self._temporary = b""
        return self._events.file_written

    def release(self) -> None:
        """Close the descriptors, remove what has no name yet. Idempotent."""
        self._directory.files.discard(self)
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._place)
            self._temporary = b""
        for fd in (self._fd, self._place):
            if fd >= 0:
                os.close(fd)
        self._fd = self._place = -1
