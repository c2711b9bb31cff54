"""Monitors on standard input and output, by threads: a person's has the loop answer line by line; a program's session
is fed by one thread and written out by another.

So neither a terminal's mode nor a slow reader of our output touches the loop. The end of input is not the instance's
end (as in QEMU). On a terminal lines are edited by readline, with history and completion (``complete``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sys
import termios
import threading
from collections.abc import Callable, Iterator

from ..client.complete import Terminal
from ..hmp import PROMPT, Hmp, Reply
from .session import BUFFER_MAX, GREETING, LINE_MAX, TOO_LONG, Session

READ_SIZE = 64 << 10
FLUSH_S = 1.0


class _Output(asyncio.Transport):
    """Standard output, by a thread of its own, as a session's transport; standard input feeds the session."""

    def __init__(self, session: Session, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._session, self._loop = session, loop
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting = 0  # bytes
        self._high = BUFFER_MAX
        self._full = self._closing = False
        self._thread = threading.Thread(target=self._writer, name="qmp-out", daemon=True)
        self._readable = threading.Event()
        self._readable.set()

    def begin(self) -> None:
        """Start both threads."""
        threading.Thread(target=self._reader, name="qmp-in", daemon=True).start()
        self._thread.start()

    def finish(self) -> None:
        """Close, and give what was written a while to be read."""
        self.close()
        self._thread.join(FLUSH_S)

    def _tell(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def _reader(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(0, READ_SIZE):
                self._readable.wait()
                self._tell(self._received, data)

    def _received(self, data: bytes) -> None:
        if not self._closing:
            self._session.data_received(data)

    def _writer(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                while data:
                    count = os.write(1, data)
                    data = data[count:]
                    self._tell(self._written, count)
            except OSError:  # nobody reads any more
                self._tell(self.close)
                return

    def _written(self, count: int) -> None:
        self._waiting -= count
        if self._full and self._waiting <= self._high // 4:
            self._full = False
            self._session.resume_writing()

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self._waiting += len(data)
        self._queue.put(bytes(data))
        if self._waiting > self._high and not self._full:
            self._full = True
            self._session.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or BUFFER_MAX

    def pause_reading(self) -> None:
        self._readable.clear()

    def resume_reading(self) -> None:
        self._readable.set()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Idempotent."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
            self._loop.call_soon(self._session.connection_lost, None)

    abort = close


def start_session(session: Session) -> Callable[[], None]:
    """Serve a program on standard input and output. The answer ends it."""
    output = _Output(session, asyncio.get_running_loop())
    session.connection_made(output)
    output.begin()
    return output.finish


def put(text: str) -> None:
    """Write all of it. Raises OSError."""
    data = text.encode(errors="replace")
    while data:
        data = data[os.write(1, data) :]


def start_person(hmp: Hmp) -> Callable[[], None]:
    """Serve a person. The answer ends it: it gives a terminal its mode back."""
    loop = asyncio.get_running_loop()
    terminal = os.isatty(0) and os.isatty(1)
    mode = termios.tcgetattr(0) if terminal else None
    threading.Thread(target=_person, args=(hmp, loop, terminal), name="monitor-stdio", daemon=True).start()

    def close() -> None:
        if mode is not None:
            termios.tcsetattr(0, termios.TCSANOW, mode)

    return close


def _person(hmp: Hmp, loop: asyncio.AbstractEventLoop, terminal: bool) -> None:
    async def answer(line: str) -> Reply:
        reply = hmp.start(line)
        return reply if isinstance(reply, Reply) else await reply

    def ask(line: str) -> Reply:
        return asyncio.run_coroutine_threadsafe(answer(line), loop).result()

    try:
        put(GREETING)
        lines: Iterator[str | None] = _typed(ask) if terminal else _piped()
        for line in lines:
            if line is None:
                put(TOO_LONG)
                continue
            reply = ask(line)
            put(reply.text)
            if reply.quit:
                loop.call_soon_threadsafe(hmp.control.quit)
                return
        put("\n")
    except (OSError, RuntimeError):  # nobody reads any more, or the loop has ended
        return


def _piped() -> Iterator[str | None]:
    """Lines of standard input; None: too long a one."""
    put(PROMPT)
    while line := sys.stdin.buffer.readline(LINE_MAX + 1):
        if len(line) > LINE_MAX:
            while line and not line.endswith(b"\n"):
                line = sys.stdin.buffer.readline(LINE_MAX)
            yield None
        else:
            yield line.decode(errors="replace")
        put(PROMPT)


def _typed(ask: Callable[[str], Reply]) -> Iterator[str]:
    """Lines of a terminal."""
    terminal = Terminal(lambda line: ask(line).text)
    try:
        yield from terminal.lines(PROMPT)
    finally:
        terminal.close()
