"""A file or pipe that captures are written to, without holding the loop.

What is put there is written in batches, at the latest before the loop sleeps. A pipe that is full is waited for by the
loop; meanwhile up to ``OUT_BYTES`` wait, then there is no ``room``. A file that cannot be written any more (no space, a
pipe without a reader) ends: ``why`` says it, once in the log, and ``ended`` is called.

A regular file is written to from the loop: the page cache takes it. The file is made with mode 0600, or cut to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Callable

OUT_BYTES = 1 << 20
log = logging.getLogger("tapnet.wires")


class SinkError(Exception):
    """The file cannot be had; the reason."""


def _nothing() -> None:
    pass


class Sink:
    """See above. ``what`` begins the line in the log; ``drained`` is called when there is room again."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        what: str,
        *,
        drained: Callable[[], None] = _nothing,
        ended: Callable[[], None] = _nothing,
    ) -> None:
        """Raises SinkError."""
        self.path = path
        self.why = ""
        self._loop, self._what, self._drained, self._ended = loop, what, drained, ended
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            why = "nobody reads this pipe" if _is_pipe(path) else error.strerror or str(error)
            raise SinkError(why) from None
        self._out: list[bytes] = []
        self._pending = 0
        self._blocked = self._scheduled = self._closed = self._full = False

    @property
    def room(self) -> bool:
        """Whether more may be put. Once it may not, ``drained`` tells."""
        if self._pending >= OUT_BYTES:
            self._full = True
            return False
        return True

    def put(self, *pieces: bytes) -> None:
        """Have bytes written soon."""
        if self._closed or self.why:
            return
        self._out += pieces
        self._pending += sum(map(len, pieces))
        if not self._blocked:
            if self._pending >= OUT_BYTES:
                self._write()
            elif not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._later)

    def _later(self) -> None:
        self._scheduled = False
        if not self._blocked:
            self._write()

    def _write(self) -> None:
        if self._closed or self.why:
            return
        data = b"".join(self._out)
        self._out.clear()
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, memoryview(data)[done:])
        except BlockingIOError:
            self._out.append(data[done:])
        except OSError as error:
            self.why = error.strerror or str(error)
            log.warning("tapnet: %s: file=%s: %s", self._what, self.path, self.why)
        self._pending = sum(map(len, self._out))
        waiting = bool(self._out) and not self.why
        if waiting != self._blocked:
            self._blocked = waiting
            if waiting:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)
        if self.why:
            self._loop.call_soon(self._ended)
        if self._full and self._pending < OUT_BYTES:
            self._full = False
            self._loop.call_soon(self._drained)

    def _writable(self) -> None:
        self._write()

    def close(self) -> None:
        """Write what is there, as far as it goes at once, and close the file. Idempotent."""
        if self._closed:
            return
        self._write()
        if self._blocked:
            self._loop.remove_writer(self._fd)
        self._closed = True
        with contextlib.suppress(OSError):
            os.close(self._fd)


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False
