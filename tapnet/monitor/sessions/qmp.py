"""One client of ``-qmp``: the I/O round ``qmp``.

Events go out between answers, from the end of the negotiation on. One that finds ``session.BUFFER_MAX`` bytes waiting for
a slow reader is dropped and counted (``events_lost``): the client learns of it by ``X_TAPNET_EVENTS_LOST`` when it reads
again.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from ...vlan.events import EVENTS_LOST, Events
from ..qmp import MESSAGE_MAX, Answer, Qmp, Splitter, TooLong, error
from .session import Hook, Session, nothing


class QmpSession(Session):
    """See the module's text."""

    def __init__(self, qmp: Qmp, events: Events, opened: Hook = nothing, closed: Hook = nothing) -> None:
        super().__init__(opened, closed)
        self.qmp = qmp
        self.events_lost = 0
        self._events = events
        self._splitter = Splitter()
        self._unsubscribe: Callable[[], None] | None = None

    def _greet(self) -> None:
        self._put(self.qmp.greeting())

    def connection_lost(self, reason: Exception | None) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        super().connection_lost(reason)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.events_lost and not self._stalled:
            count, self.events_lost = self.events_lost, 0
            self._put(self._events.make(EVENTS_LOST, count=count))

    def _take(self) -> bool:
        if self._input:
            self._splitter.feed(bytes(self._input))
            self._input.clear()
        try:
            text = self._splitter.next()
        except TooLong:
            self._put(error(f"JSON parse error, message longer than {MESSAGE_MAX} bytes"))
            self.end()
            return False
        if text is None:
            return False
        answer = self.qmp.start(text)
        if isinstance(answer, Answer):
            self._answer(answer)
        else:
            self._later(self._wait(answer))
        return True

    async def _wait(self, answer: Awaitable[Answer]) -> None:
        self._answer(await answer)

    def _answer(self, answer: Answer) -> None:
        self._send(answer.text or json.dumps(answer.value))
        if self.qmp.negotiated and self._unsubscribe is None:
            self._unsubscribe = self._events.subscribe(self._event)
        if answer.quit:
            self.qmp.control.quit()
            self.end()

    def _event(self, event: dict[str, Any]) -> None:
        if self._stalled:
            self.events_lost += 1
        else:
            self._put(event)

    def _put(self, value: dict[str, Any]) -> None:
        self._send(json.dumps(value))

    def _send(self, text: str) -> None:
        self._write(text.encode() + b"\r\n")
