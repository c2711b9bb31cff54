"""Lets the machine's time pass for the register bus: ``clock_step``, ``clock_set``, ``settle``.

    wires quiet ─► next deadline of cards and drivers ─► clock there ─► timers run ─► wires quiet ─► ... ─► target

The first use makes the machine's clock virtual (``Clock.freeze``) and holds the board's timers. Time moves from one
deadline to the next, as in QEMU, and before each move and at the end the event loop turns until no hub has a frame
on its way: so what a card has sent at some time has reached the other members, and their answer the card, at that
same time. Answers of the host's sockets come in real time and are not waited for.

Limits: ``DEADLINES`` per turn of the loop (the rest after the loop's other work) and ``DEADLINES_MAX`` per line, which
then fails where it stands; ``TURNS_MAX`` turns of waiting for quiet wires; ``STUCK_MAX`` runs of a deadline that does
not move, which is then passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..board import Board
from ..clock import Clock
from .wire import Request

DEADLINES = 64
DEADLINES_MAX = 1_000_000
CALM_TURNS = 2  # turns in a row without a frame on its way
TURNS_MAX = 1000
STUCK_MAX = 100
NO_DEADLINE = (
    b"FAIL cannot advance clock to the next deadline because there is no pending deadline\n"  # QEMU's words
)
NO_ADVANCE = b"FAIL could not advance time\n"


class Stepper:
    """Carries out one ``Request`` at a time. ``busy()``: whether a frame is on its way."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, board: Board, clock: Clock, busy: Callable[[], bool]
    ) -> None:
        self.stuck = 0  # deadlines passed over
        self._loop = loop
        self._board = board
        self._clock = clock
        self._busy = busy
        self._done: Callable[[bytes], None] | None = None
        self._request = Request("settle")
        self._begin = 0
        self._target: int | None = None  # None: not worked out yet
        self._last = False  # only the last settling is left
        self._calm = self._turns = self._same = self._left = 0
        self._handle: asyncio.Handle | None = None

    def start(self, request: Request, done: Callable[[bytes], None]) -> None:
        """Begin; ``done(answer)`` is called from the loop, later."""
        self._request = request
        self._done = done
        self._target = None
        self._left = DEADLINES_MAX
        self._last = request.kind == "settle"
        if not self._last:
            self._begin = self._clock.freeze()
            self._board.hold()
        self._unsettled()

    def release(self) -> None:
        """The client has gone: give up what is under way; time is real again."""
        self._done = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._clock.virtual:
            self._clock.release()
            self._board.release()

    def _unsettled(self) -> None:
        self._calm = self._turns = 0
        self._handle = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._handle = None
        try:
            self._settle()
        except BaseException:  # a fault of ours: the client is told, and the loop reports it
            self._answer(b"FAIL internal error\n")
            raise

    def _settle(self) -> None:
        self._calm = 0 if self._busy() else self._calm + 1
        self._turns += 1
        if self._calm < CALM_TURNS and self._turns < TURNS_MAX:
            self._handle = self._loop.call_soon(self._turn)
        elif self._last:
            self._finish()
        else:
            self._advance()

    def _advance(self) -> None:
        """From deadline to deadline, until frames are on their way, the target is reached or it takes too long."""
        clock, board = self._clock, self._board
        if self._target is None and not self._aim():
            return
        target = self._target
        assert target is not None
        for _ in range(DEADLINES):
            at = board.next_deadline()
            now = clock.now()
            self._same = self._same + 1 if at is not None and at <= now else 0
            if at is None or at > target or self._same > STUCK_MAX:
                self.stuck += self._same > STUCK_MAX
                self._same = 0
                clock.advance(target)
                self._last = True
                break
            clock.advance(at)
            board.expire()
            self._left -= 1
            if not self._left:
                self._answer(b"FAIL stopped at %d after %d deadlines\n" % (clock.now(), DEADLINES_MAX))
                return
            if self._busy():
                break
        self._unsettled()

    def _aim(self) -> bool:
        """Work out the target, now that the wires are quiet."""
        request = self._request
        if request.kind == "set":
            assert request.ns is not None
            self._target = request.ns
        elif request.ns is not None:
            self._target = self._begin + request.ns
        else:
            self._target = self._board.next_deadline()
            if self._target is None:
                self._answer(NO_DEADLINE)
                return False
            self._target = max(self._target, self._begin)
        return True

    def _finish(self) -> None:
        now = self._clock.now()
        request = self._request
        if request.kind == "settle":
            self._answer(b"OK\n")
        elif request.kind == "set":
            self._answer(b"%s %d\n" % (b"OK" if now == request.ns else b"FAIL", now))
        elif now > self._begin:
            self._answer(b"OK %d\n" % now)
        else:
            self._answer(NO_ADVANCE)

    def _answer(self, answer: bytes) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(answer)
