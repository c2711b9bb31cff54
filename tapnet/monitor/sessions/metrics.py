"""One request to ``--metrics``: just enough of HTTP/1.1 for a scraper.

GET or HEAD of /metrics is answered, everything else refused; every answer ends the connection. What a client sends
behind that is thrown away until it hangs up: otherwise it would lose the answer by a reset. Limits: ``HEAD_MAX`` bytes
of request head, ``IDLE_S`` seconds for all of it.

Ref: RFC 9112.
"""

from __future__ import annotations

import asyncio

from ...errors import ControlError
from ..commands.control import Control
from ..metrics import CONTENT_TYPE, exposition
from ..mistakes import called
from .session import Hook, Session, nothing

HEAD_MAX = 8192
IDLE_S = 10.0
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Header Too Large",
    500: "Internal Server Error",
}


class MetricsSession(Session):
    """See the module's text."""

    def __init__(self, control: Control, opened: Hook = nothing, closed: Hook = nothing) -> None:
        super().__init__(opened, closed)
        self._control = control
        self._timer: asyncio.TimerHandle | None = None
        self._answered = False

    def _greet(self) -> None:
        assert self.transport is not None
        self._timer = asyncio.get_running_loop().call_later(IDLE_S, self.transport.abort)

    def connection_lost(self, reason: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(reason)

    def _take(self) -> bool:
        if self._answered:
            self._input.clear()
            return False
        end = self._input.find(b"\r\n\r\n")
        if end < 0:
            end = self._input.find(b"\n\n")
        if end > HEAD_MAX or (end < 0 and len(self._input) > HEAD_MAX):
            self._reply(431)
        elif end >= 0:
            self._request(bytes(self._input[:end]).split(b"\n", 1)[0].rstrip(b"\r"))
        return False

    def _request(self, line: bytes) -> None:
        words = line.split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            self._reply(400)
        elif words[0] not in (b"GET", b"HEAD"):
            self._reply(405)
        elif words[1].partition(b"?")[0] != b"/metrics":
            self._reply(404, b"metrics are at /metrics\n")
        else:
            self._metrics(words[0] == b"HEAD")

    def _metrics(self, head_only: bool) -> None:
        try:
            text = called("metrics", exposition, self._control)
        except ControlError as error:
            self._reply(500, f"{error}\n".encode(errors="replace"), head_only)
        else:
            self._reply(200, text.encode(errors="replace"), head_only)

    def _reply(self, status: int, body: bytes = b"", head_only: bool = False) -> None:
        allow = "Allow: GET, HEAD\r\n" if status == 405 else ""
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {CONTENT_TYPE}\r\n{allow}"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._answered = True
        self._input.clear()
        self._write(head.encode() + (b"" if head_only else body))
        if self.transport is not None:
            self.transport.write_eof()
