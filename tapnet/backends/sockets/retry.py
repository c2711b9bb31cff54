"""Trying again: one task that runs an attempt until it succeeds, with growing pauses.

    start ──► attempt ──ok──► quiet ... lost(why) ──► pause ──► attempt
                 └─OSError──► pause, twice as long each time, up to ``last`` ──┘     now(): without the pause

For as long as the instance lives, because a wire whose other end is away is no reason to end anything: the pause is
bounded, the log says each new reason once. A success that lasted ``last`` seconds makes the next pause short again.

Timers: one, for the pause, or for ``ATTEMPT_SECONDS`` while an attempt runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from .address import reason

FIRST_SECONDS = 0.1
LAST_SECONDS = 5.0
ATTEMPT_SECONDS = 10.0
log = logging.getLogger("tapnet.wires")


class Retry:
    """Runs ``attempt`` (a coroutine function that raises OSError) until it succeeds.

    what   begins log lines, "-net socket: connect to 127.0.0.1:1234"
    port   name of the port, for log lines
    again  False: one attempt, and ``lost`` does nothing
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        what: str,
        attempt: Callable[[], Awaitable[None]],
        *,
        first: float = FIRST_SECONDS,
        last: float = LAST_SECONDS,
        again: bool = True,
        port: str = "",
    ) -> None:
        self.why = ""  # it is down: the last failure
        self.attempts = 0
        self._loop = loop
        self._what = what
        self._fields = {"port": port}  # of log lines
        self._attempt = attempt
        self._first, self._last, self._again = first, max(first, last), again
        self._pause = first
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._up = False
        self._closed = False

    @property
    def up(self) -> bool:
        """Whether the last attempt succeeded and nothing was lost since."""
        return self._up

    def now(self) -> None:
        """Try at once, unless it is up or being tried."""
        if self._closed or self._up or self._task is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._task = self._loop.create_task(self._run())

    def adopted(self) -> None:
        """It is up: the process before made it."""
        self._up = True
        self._since = self._loop.time()

    def lost(self, why: str) -> None:
        """What had succeeded is gone."""
        if self._closed or not self._up:
            return
        self._up = False
        if self._loop.time() - self._since >= self._last:
            self._pause = self._first
        self._down(why)

    def close(self) -> None:
        """No further attempt. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        self.attempts += 1
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await self._attempt()
        except OSError as error:
            self._task = None
            if not self._closed:
                self._down(reason(error))
            return
        self._task = None
        self._up = True
        self._since = self._loop.time()
        if self.why:
            log.warning("tapnet: %s: up again", self._what, extra=self._fields)
            self.why = ""

    def _down(self, why: str) -> None:
        if why != self.why:
            self.why = why
            more = "; trying again" if self._again else ""
            log.warning("tapnet: %s: %s%s", self._what, why, more, extra=self._fields)
        if self._again and not self._closed:
            self._timer = self._loop.call_later(self._pause, self._due)
            self._pause = min(self._pause * 2, self._last)

    def _due(self) -> None:
        self._timer = None
        self.now()
