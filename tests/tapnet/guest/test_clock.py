"""The machine's clock: real, frozen, real again; never back."""

from hypothesis import given
from hypothesis import strategies as st

from tapnet.guest.clock import Clock


class Real:
    def __init__(self, at):
        self.at = at

    def __call__(self):
        return self.at


def test_begins_at_zero_and_follows_real_time():
    real = Real(5_000)
    clock = Clock(real)
    assert (clock.now(), clock.virtual) == (0, False)
    real.at += 70
    assert clock.now() == 70


def test_frozen_moves_by_advance_only_and_runs_on_from_there():
    real = Real(5_000)
    clock = Clock(real)
    real.at += 70
    assert clock.freeze() == 70
    real.at += 1_000
    assert (clock.now(), clock.virtual) == (70, True)
    clock.advance(300)
    clock.advance(200)
    assert clock.now() == 300
    clock.release()
    assert (clock.now(), clock.virtual) == (300, False)
    real.at += 5
    assert clock.now() == 305


@given(st.lists(st.tuples(st.sampled_from(["freeze", "advance", "release", "pass"]), st.integers(0, 1000))))
def test_never_goes_back(steps):
    real = Real(123)
    clock = Clock(real)
    last = clock.now()
    for step, amount in steps:
        if step == "pass":
            real.at += amount
        elif step == "advance":
            clock.advance(amount)
        else:
            getattr(clock, step)()
        assert clock.now() >= last
        last = clock.now()
