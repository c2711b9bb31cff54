"""The scoreboard against a slow twin (a set of sequence numbers), and the RTO estimator."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slirp.tcp.recovery import Rto, Scoreboard
from slirp.tcp.states import MS, RTO_INITIAL, RTO_MAX, RTO_MIN, SECOND

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 15)), max_size=20)


def slow_lost(noted: set[int], seq: int, mss: int) -> bool:
    """RFC 6675 4 IsLost: more than (DupThresh - 1) * SMSS bytes, or DupThresh separate pieces, noted above."""
    above = {n for n in noted if n > seq}
    pieces = sum(1 for n in above if n - 1 not in above)
    return len(above) > 2 * mss or pieces >= 3


@given(ranges, st.integers(0, 70), st.integers(1, 10))
def test_scoreboard(script: list[tuple[int, int]], una: int, mss: int) -> None:
    board = Scoreboard(1000)
    noted: set[int] = set()
    for start, size in script:
        fresh = set(range(start, start + size))
        assert board.add(start, start + size) == (not fresh <= noted)
        noted |= fresh
    board.cut(una)
    noted = {n for n in noted if n >= una}
    spans = list(zip(board.starts, board.ends))
    assert {n for a, b in spans for n in range(a, b)} == noted
    assert spans == sorted(spans) and all(a < b for a, b in spans)
    assert board.sacked(20, 50) == len([n for n in noted if 20 <= n < 50])
    edge = board.lost_edge(mss)
    for seq in range(una, 80):
        if seq not in noted:
            assert (seq < edge) == slow_lost(noted, seq, mss)
    missing = [n for n in range(una, 70) if n not in noted]
    hole = board.hole(una, 70)
    if not missing:
        assert hole is None
    else:
        assert hole is not None and hole[0] == missing[0]
        assert all(n in missing for n in range(*hole)) and (hole[1] == 70 or hole[1] in noted)


@given(ranges)
def test_scoreboard_is_bounded(script: list[tuple[int, int]]) -> None:
    board = Scoreboard(3)
    for start, size in script:
        board.add(start, start + size)
        assert len(board.starts) <= 3


@given(st.lists(st.integers(0, 100 * SECOND), min_size=1, max_size=50))
def test_rto_stays_within_its_bounds(samples: list[int]) -> None:
    rto = Rto()
    assert rto.timeout() == RTO_INITIAL
    for sample in samples:
        rto.sample(sample)
        assert RTO_MIN <= rto.value <= RTO_MAX
        assert rto.value >= min(rto.srtt, RTO_MAX)


def test_rto_first_sample_and_back_off() -> None:
    rto = Rto()
    rto.sample(400 * MS)
    assert rto.value == 400 * MS + 4 * 200 * MS
    rto.back_off()
    assert rto.timeout() == 2400 * MS
    for _ in range(100):
        rto.back_off()
    assert rto.timeout() == RTO_MAX
