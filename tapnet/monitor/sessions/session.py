"""One client of a monitor: bytes to messages to answers, whatever the messages are.

    transport ─► Session: whole messages ─► _take ─► an answer, or a task that will have it ─► transport

``LineSession`` is a person's monitor, or the control socket (``framed``); ``qmp.QmpSession`` the machine's.

Limits: ``LINE_MAX`` bytes a line (a longer one is answered by an error and ends the session), ``BUFFER_MAX`` bytes that
wait for a slow reader before we stop reading from it, ``STALL_S`` seconds of that before it is cut off. One command at a
time: while one takes its time nothing more is read.

A browser can be made to connect to a TCP port of this host and to write lines into the body of a request. Whoever
begins a TCP session as HTTP does is cut off (``http``).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import cast

from ... import __version__
from ..hmp import PROMPT, Hmp, Reply

LINE_MAX = 4096
BUFFER_MAX = 64 << 10
STALL_S = 30.0
GREETING = f"tapnet {__version__} monitor - type 'help' for more information\n"
TOO_LONG = f"line longer than {LINE_MAX} bytes\n"
_HTTP = re.compile(rb"[A-Z]{3,10} \S{1,4000} HTTP/")

Hook = Callable[["Session"], None]


def nothing(_session: Session) -> None:
    """No hook."""


class Session(asyncio.Protocol):
    """One client. ``opened`` and ``closed`` are called once each."""

    http = False  # cut off who speaks HTTP

    def __init__(self, opened: Hook = nothing, closed: Hook = nothing) -> None:
        self.transport: asyncio.Transport | None = None
        self._opened = opened
        self._closed = closed
        self._input = bytearray()
        self._stalled = self._busy = self._paused = False
        self._begun = False  # the first bytes have been looked at
        self._stall: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    # ---- what a kind of session has of its own -------------------------------------------------------------

    def _greet(self) -> None:
        """Write what a client sees first."""

    def _take(self) -> bool:
        """Serve one message of ``_input``. False: none is whole."""
        raise NotImplementedError

    # ---- asyncio.Protocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.transport.set_write_buffer_limits(BUFFER_MAX)
        self._opened(self)
        self._greet()

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport = None
        self._unstall()
        self._closed(self)

    def data_received(self, data: bytes) -> None:
        self._input += data
        if self.http and not self._begun and len(self._input) >= 16:
            self._begun = True
            if _HTTP.match(self._input) and self.transport is not None:
                self._input.clear()
                self.transport.abort()
                return
        self._serve()

    def pause_writing(self) -> None:
        self._stalled = True
        if self.transport is not None:
            self._look()
            self._stall = asyncio.get_running_loop().call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._unstall()
        self._serve()

    # ---- inside --------------------------------------------------------------------------------------------

    def _unstall(self) -> None:
        self._stalled = False
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _look(self) -> None:
        """Read, or read no more for a while."""
        pause = self._stalled or self._busy
        if self.transport is not None and not self.transport.is_closing() and pause != self._paused:
            self._paused = pause
            (self.transport.pause_reading if pause else self.transport.resume_reading)()

    def _serve(self) -> None:
        while self.transport is not None and not (self._stalled or self._busy or self.transport.is_closing()):
            try:
                whole = self._take()
            except BaseException:
                self.end()
                raise
            if not whole:
                break
        self._look()

    def _later(self, work: Awaitable[None]) -> None:
        """Wait for a command that takes its time; then serve on."""

        async def run() -> None:
            try:
                await work
            except BaseException:  # there is no answer: a client must not wait for one
                self.end()
                raise
            finally:
                self._busy, self._task = False, None
                if self.transport is not None:
                    self._serve()

        self._busy = True
        self._task = asyncio.get_running_loop().create_task(run())

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def end(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            self.transport.close()


class LineSession(Session):
    """Lines of HMP. ``framed``: the control socket's frames; otherwise a person's monitor."""

    def __init__(self, hmp: Hmp, framed: bool, opened: Hook = nothing, closed: Hook = nothing) -> None:
        super().__init__(opened, closed)
        self.hmp = hmp
        self.framed = framed

    def _greet(self) -> None:
        if not self.framed:
            self._text(GREETING + PROMPT)

    def _take(self) -> bool:
        end = self._input.find(b"\n")
        if end > LINE_MAX or (end < 0 and len(self._input) > LINE_MAX):
            self._input.clear()
            self._answer(Reply(TOO_LONG, False))
            self.end()
            return False
        if end < 0:
            return False
        line = self._input[:end].decode(errors="replace").rstrip("\r")
        del self._input[: end + 1]
        reply = self.hmp.start(line)
        if isinstance(reply, Reply):
            self._answer(reply)
        else:
            self._later(self._wait(reply))
        return True

    async def _wait(self, reply: Awaitable[Reply]) -> None:
        self._answer(await reply)

    def _answer(self, reply: Reply) -> None:
        if self.framed:
            body = reply.text.encode(errors="replace")
            self._write(f"{'ok' if reply.ok else 'error'} {len(body)}\n".encode() + body)
        else:
            self._text(reply.text + ("" if reply.quit else PROMPT))
        if reply.quit:
            self.hmp.control.quit()
            self.end()

    def _text(self, text: str) -> None:
        self._write(text.replace("\n", "\r\n").encode(errors="replace"))
