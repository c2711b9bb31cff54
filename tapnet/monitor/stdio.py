"""Monitors on standard input and output: a thread that reads, has the loop answer, and writes.

So neither a terminal's mode nor a slow reader of our output touches the loop. The end of input is not the instance's
end (as in QEMU). On a terminal lines are edited by readline, with history and completion (``complete``).
"""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import threading
from collections.abc import Callable, Iterator

from .complete import Terminal
from .hmp import PROMPT, Hmp, Reply
from .session import GREETING, LINE_MAX, TOO_LONG


def put(text: str) -> None:
    """Write all of it. Raises OSError."""
    data = text.encode()
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
