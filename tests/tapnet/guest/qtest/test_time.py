"""Stepping the machine's time: the order of deadlines and frames, answers, bounds."""

from __future__ import annotations

import pytest

from tapnet.guest.clock import Clock
from tapnet.guest.qtest import time as qtest_time
from tapnet.guest.qtest.time import NO_ADVANCE, NO_DEADLINE, Stepper
from tapnet.guest.qtest.wire import Request


class Handle:
    def __init__(self, calls, callback):
        self.calls, self.callback = calls, callback

    def cancel(self):
        self.calls.remove(self.callback)


class World:
    """A loop that is turned by hand, a board with a list of deadlines, frames that take some turns."""

    def __init__(self, *deadlines, again=None, frames=0):
        self.real = 0
        self.clock = Clock(lambda: self.real)
        self.calls = []
        self.deadlines = sorted(deadlines)
        self.again = again  # a deadline that comes back so much later
        self.frames = frames  # turns of the loop that each expiry keeps the wires busy
        self.busy = 0
        self.log = []
        self.held = False
        self.answer = None
        self.stepper = Stepper(self, self, self.clock, lambda: self.busy > 0)

    # the loop
    def call_soon(self, callback):
        self.calls.append(callback)
        return Handle(self.calls, callback)

    def turn(self, limit=100_000):
        for _ in range(limit):
            if not self.calls:
                return
            self.busy = max(0, self.busy - 1)
            calls, self.calls = self.calls, []
            for call in calls:
                call()
        raise AssertionError("it does not end")

    # the board
    def next_deadline(self):
        return self.deadlines[0] if self.deadlines else None

    def expire(self):
        now = self.clock.now()
        while self.deadlines and self.deadlines[0] <= now:
            at = self.deadlines.pop(0)
            self.log.append((at, now, self.busy))
            if self.again is not None:
                self.deadlines.insert(0, at + self.again)
                break
        self.busy = self.frames

    def hold(self):
        self.held = True

    def release(self):
        self.held = False

    def ask(self, kind, ns=None):
        self.answer = None
        self.stepper.start(Request(kind, ns), self.done)
        self.turn()
        return self.answer

    def done(self, answer):
        assert self.answer is None
        self.answer = answer


def test_deadlines_expire_in_order_at_their_time():
    world = World(300, 100, 200, 5000)
    assert world.ask("step", 1000) == b"OK 1000\n"
    assert world.log == [(100, 100, 0), (200, 200, 0), (300, 300, 0)]
    assert world.deadlines == [5000]
    assert world.held


def test_frames_are_delivered_before_time_goes_on():
    world = World(100, 101, frames=5)
    assert world.ask("step", 1000) == b"OK 1000\n"
    assert world.log == [(100, 100, 0), (101, 101, 0)]
    assert world.busy == 0


def test_to_the_next_deadline():
    world = World(100, 200)
    assert [world.ask("step") for _ in range(3)] == [b"OK 100\n", b"OK 200\n", NO_DEADLINE]


def test_a_deadline_that_is_overdue_runs_at_once():
    world = World(100)
    world.real = 150
    assert world.ask("step", 10) == b"OK 160\n"
    assert world.log == [(100, 150, 0)]
    world = World(100)
    world.real = 150
    assert world.ask("step") == NO_ADVANCE
    assert world.log == [(100, 150, 0)]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (("step", 0), NO_ADVANCE),
        (("step", -5), NO_ADVANCE),
        (("set", 49), b"FAIL 50\n"),
        (("set", 50), b"OK 50\n"),
    ],
)
def test_time_that_does_not_pass(request_, answer):
    world = World()
    world.real = 50
    assert world.ask(*request_) == answer
    assert world.clock.virtual and world.held


def test_settle_waits_for_the_wires_and_leaves_time_alone():
    world = World()
    world.busy = 10
    assert world.ask("settle") == b"OK\n"
    assert world.busy == 0
    assert not world.clock.virtual and not world.held


def test_wires_that_never_rest():
    world = World(10)
    world.frames = 1_000_000
    assert world.ask("step", 100) == b"OK 100\n"
    assert world.ask("settle") == b"OK\n"


def test_a_deadline_that_does_not_move_is_passed_over():
    world = World(10, again=0)
    assert world.ask("step", 100) == b"OK 100\n"
    assert world.stepper.stuck == 1
    assert len(world.log) <= qtest_time.STUCK_MAX + 2


def test_too_many_deadlines_fail_where_they_are(monkeypatch):
    monkeypatch.setattr(qtest_time, "DEADLINES_MAX", 150)
    world = World(10, again=10)
    assert world.ask("step", 1_000_000) == b"FAIL stopped at 1500 after 150 deadlines\n"
    assert world.ask("step", 20) == b"OK 1520\n"


def test_many_deadlines_leave_the_loop_its_turns():
    world = World(10, again=10)
    turns = 0
    turn = world.call_soon

    def counted(callback):
        nonlocal turns
        turns += 1
        return turn(callback)

    world.call_soon = counted
    assert world.ask("step", 10 * 10 * qtest_time.DEADLINES) == b"OK 6400\n"
    assert turns >= 10


def test_a_client_that_goes_ends_it_and_lets_time_run():
    world = World(10, again=10)
    world.stepper.start(Request("step", 10**15), world.done)
    for _ in range(5):
        calls, world.calls = world.calls, []
        for call in calls:
            call()
    assert world.clock.virtual
    world.stepper.release()
    assert world.calls == []
    assert world.answer is None
    assert not world.clock.virtual and not world.held
    assert world.ask("settle") == b"OK\n"


def test_a_fault_of_ours_is_told_and_reported():
    world = World(10)

    def broken():
        raise ZeroDivisionError

    world.expire = broken
    with pytest.raises(ZeroDivisionError):
        world.ask("step", 100)
    assert world.answer == b"FAIL internal error\n"
