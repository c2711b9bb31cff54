"""Bad cables: each effect's statistics and the fate of each frame, on a clock by hand."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapnet.config import Effects
from tapnet.options import impairments
from tapnet.vlan import faults
from tests.tapnet.hub_kit import Endpoint, Loop, hub_of

MS = 1_000_000


def frame(number: int, size: int = 100) -> bytes:
    return b"\xff" * 6 + b"\x52\x54\0\0\0\1" + b"\x88\xb5" + number.to_bytes(4, "big") + bytes(size - 18)


def number(data: bytes) -> int:
    return int.from_bytes(data[14:18], "big")


def lane(words: str, seed: int = 1) -> faults.Lane:
    effects = impairments.parse(words.split()).inbound
    return faults.Lane(effects, seed, "p/in")


def run(cable: faults.Lane, count: int, *, every: int = MS, size: int = 100) -> list[tuple[int, int, bytes]]:
    """``count`` frames, one each ``every`` ns: (when it came out, its number, the frame)."""
    out: list[tuple[int, int, bytes]] = []

    def until(now: int) -> None:
        while (due := cable.next_deadline()) is not None and due <= now:
            data = cable.peek(due)
            assert data is not None
            cable.pop()
            out.append((due, number(data), data))

    for n in range(count):
        until(n * every)
        cable.push(frame(n, size), n * every)
    until(10**18)
    assert len(cable) == 0 and cable.next_deadline() is None
    return out


# ---- each model --------------------------------------------------------------------------------------------

N = 20_000


def near(share: float, wanted: float, count: int = N) -> bool:
    """Within six standard deviations of a binomial."""
    return abs(share - wanted) <= 6 * (wanted * (1 - wanted) / count) ** 0.5


@pytest.mark.parametrize("percent", [0, 0.5, 10, 50, 100])
def test_loss(percent: float) -> None:
    cable = lane(f"loss={percent}%")
    out = run(cable, N)
    assert near(1 - len(out) / N, percent / 100)
    assert cable.counters["loss"] == N - len(out) and cable.counters["frames"] == N
    assert all(when == n * MS for when, n, _ in out), "nothing waits"


@pytest.mark.parametrize(("p", "r", "h", "k"), [(1, 25, 100, 0), (5, 50, 80, 0), (2, 10, 60, 1)])
def test_gilbert_elliott(p: int, r: int, h: int, k: int) -> None:
    """The share of losses is the chain's, and they come in bursts of the chain's length."""
    count = 200_000
    cable = lane(f"loss={p}:{r}:{h}:{k}")
    kept = {n for _, n, _ in run(cable, count)}
    bad = p / (p + r)
    wanted = bad * h / 100 + (1 - bad) * k / 100
    # neighbours resemble each other: the effective number of trials is smaller by (2 - p - r) / (p + r)
    correlated = count * (p + r) / 100 / (2 - (p + r) / 100)
    assert near(1 - len(kept) / count, wanted, int(correlated))
    if h == 100 and k == 0:
        bursts = [
            len(list(run_)) for lost, run_ in itertools.groupby(range(count), lambda n: n not in kept) if lost
        ]
        mean = sum(bursts) / len(bursts)
        assert abs(mean - 100 / r) < 6 * (100 / r) / len(bursts) ** 0.5
        longer = sum(length > 1 for length in bursts) / len(bursts)
        assert near(longer, 1 - r / 100, len(bursts)), "geometric"


def test_duplicates_follow_their_frame() -> None:
    cable = lane("dup=10%")
    seen = [n for _, n, _ in run(cable, N)]
    times = Counter(seen)
    twice = sum(count == 2 for count in times.values())
    assert near(twice / N, 0.1) and cable.counters["dup"] == twice and set(times.values()) == {1, 2}
    assert seen == sorted(seen)


def test_corruption_is_one_bit_anywhere() -> None:
    cable = lane("corrupt=20%")
    out = run(cable, N)
    bits: Counter[int] = Counter()
    for index, (_, _, data) in enumerate(out):
        wrong = int.from_bytes(data, "big") ^ int.from_bytes(frame(index), "big")
        assert wrong.bit_count() <= 1
        if wrong:
            bits[wrong.bit_length() - 1] += 1
    assert near(sum(bits.values()) / N, 0.2) and cable.counters["corrupt"] == sum(bits.values())
    assert len(bits) > 700 and max(bits.values()) < 30  # of 800


def test_delay_and_jitter_keep_the_order() -> None:
    out = run(lane("delay=20ms jitter=5ms"), N, every=20 * MS)
    waits = [when - n * 20 * MS for when, n, _ in out]
    assert [n for _, n, _ in out] == list(range(N))
    assert 15 * MS <= min(waits) < 15.1 * MS and 24.9 * MS < max(waits) <= 25 * MS
    mean = sum(waits) / N
    assert abs(mean - 20 * MS) < 6 * 5 * MS / 3**0.5 / N**0.5
    thirds = Counter(int((wait - 15 * MS) / (10 * MS / 3.0001)) for wait in waits)
    assert all(near(thirds[n] / N, 1 / 3) for n in range(3)), "uniform"
    # close together, a later one never overtakes
    out = run(lane("delay=20ms jitter=5ms"), 1000, every=MS // 10)
    assert [n for _, n, _ in out] == list(range(1000))
    assert {when - n * 5 * MS for when, n, _ in run(lane("delay=7.5ms"), 50, every=5 * MS)} == {7_500_000}


def test_reordered_frames_overtake_those_that_are_delayed() -> None:
    cable = lane("delay=10ms reorder=5%")
    out = run(cable, N)
    at_once = [n for when, n, _ in out if when == n * MS]
    assert near(len(at_once) / N, 0.05) and cable.counters["reorder"] == len(at_once)
    assert all(when == (n + 10) * MS for when, n, _ in out if n not in set(at_once))
    assert len(out) == N and [n for _, n, _ in out] != list(range(N))


def test_rate_is_what_a_line_of_that_rate_does() -> None:
    """1 Mbit/s, 1,000-byte frames: 8 ms each; those that come faster wait, and the limit drops."""
    out = run(lane("rate=1mbit limit=5"), 100, every=4 * MS, size=1000)
    assert out[0][0] == 8 * MS
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(out)]
    assert set(gaps) == {8 * MS}
    assert 50 <= len(out) <= 56
    idle = run(lane("rate=1mbit"), 50, every=9 * MS, size=1000)
    assert [when - n * 9 * MS for when, n, _ in idle] == [8 * MS] * 50


def test_limit_and_bytes_bound_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    cable = lane("delay=1s limit=7")
    assert [cable.push(frame(n), 0) for n in range(9)] == [None] * 7 + ["limit"] * 2
    assert len(cable) == 7 and cable.counters["limit"] == 2
    monkeypatch.setattr(faults, "WAIT_BYTES", 250)
    cable = lane("delay=1s")
    assert [cable.push(frame(n), 0) for n in range(3)] == [None, None, "limit"]


def test_mtu_counts_what_is_behind_the_ethernet_header() -> None:
    cable = lane("mtu=86")
    assert cable.push(frame(0, 100), 0) is None
    assert cable.push(frame(0, 101), 0) == "mtu"
    tagged = b"\xff" * 12 + b"\x81\0\0\1" + bytes(88)
    assert cable.push(tagged, 0) is None and cable.push(tagged + b"\0", 0) == "mtu"
    assert cable.counters["mtu"] == 2


# ---- the same seed -----------------------------------------------------------------------------------------

WORDS = {
    "loss": st.sampled_from(["10%", "5:30", "5:30:50:1"]),
    "dup": st.just("10%"),
    "corrupt": st.just("10%"),
    "jitter": st.just("2ms"),
}


def fate(cable: faults.Lane, times: list[int]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for n, now in enumerate(times):
        cable.push(frame(n), now)
        found[n] = cable.rest()
    return found


@given(
    words=st.fixed_dictionaries({}, optional=WORDS).filter(bool),
    seed=st.integers(0, 2**63 - 1),
    gaps=st.lists(st.integers(0, 50 * MS), min_size=60, max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_the_same_seed_and_frames_meet_the_same_fate_at_any_time(
    words: dict[str, str], seed: int, gaps: list[int]
) -> None:
    text = " ".join(f"{key}={value}" for key, value in words.items())
    one = fate(lane(text, seed), list(range(0, 60 * MS, MS)))
    assert one == fate(lane(text, seed), list(itertools.accumulate(gaps)))


def test_effects_do_not_disturb_each_other_and_seeds_differ() -> None:
    lost = set(range(N)) - {n for _, n, _ in run(lane("loss=10%"), N)}
    with_more = set(range(N)) - {n for _, n, _ in run(lane("loss=10% jitter=3ms delay=9ms"), N)}
    assert lost == with_more
    assert lost != set(range(N)) - {n for _, n, _ in run(lane("loss=10%", 2), N)}


# ---- the box -----------------------------------------------------------------------------------------------


class Timers:
    """A loop whose time moves by hand."""

    def __init__(self, soon: Loop) -> None:
        self.call_soon = soon
        self.soon = soon
        self.now = 0
        self.timers: dict[int, tuple[int, Callable[[], None]]] = {}
        self._next = 0

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Any:
        key = self._next = self._next + 1
        self.timers[key] = (self.now + round(seconds * 1e9), callback)
        outer = self

        class Handle:
            def cancel(self) -> None:
                outer.timers.pop(key, None)

        return Handle()

    def advance(self, ms: float) -> None:
        end = self.now + round(ms * MS)
        self.soon.run()
        while self.timers and (first := min(self.timers.items(), key=lambda item: item[1][0]))[1][0] <= end:
            del self.timers[first[0]]
            self.now = max(self.now, first[1][0])
            first[1][1]()
            self.soon.run()
        self.now = end


def impaired(words: str, count: int = 2, **options: Any) -> tuple[Timers, Any, list[Endpoint]]:
    loop, hub, ends = hub_of(count, **options)
    timers = Timers(loop)
    faults.impair(ends[0].port, impairments.parse(words.split()), timers, lambda: timers.now)  # type: ignore[arg-type]
    loop.run()
    return timers, hub, ends


def test_a_port_behind_a_slow_cable() -> None:
    timers, hub, (a, b) = impaired("delay=10ms")
    assert a.port.vlan is hub and a.port.hub is not hub and [p.name for p in hub.ports] == ["p0", "p1"]
    assert a.port.send(frame(1))
    timers.advance(9.9)
    assert b.frames == []
    timers.advance(0.2)
    assert b.frames == [frame(1)]
    b.port.send(frame(2))
    timers.advance(10)
    assert a.frames == [frame(2)]
    assert not timers.timers


def test_directions_are_changed_one_by_one_and_what_waits_goes_on() -> None:
    timers, _hub, (a, b) = impaired("in delay=10ms")
    box = a.port.inline
    assert isinstance(box, faults.Box)
    b.port.send(frame(1))
    timers.advance(0)
    assert a.frames == [frame(1)], "out is as it was"
    a.port.send(frame(2))
    timers.advance(5)
    faults.impair(a.port, impairments.parse(["loss=100%"]), timers, lambda: timers.now)  # type: ignore[arg-type]
    a.port.send(frame(3))
    b.port.send(frame(4))
    timers.advance(20)
    assert b.frames == [frame(2)] and a.frames == [frame(1)]
    assert a.port.counters.drops == {"impair-loss": 2}
    assert [(r.direction, r.counters["loss"], r.waiting) for r in box.report()] == [
        ("in", 1, 0),
        ("out", 1, 0),
    ]
    words = box.report()[0].effects.split()
    assert impairments.parse(words).inbound == Effects(loss=impairments.loss("100%"))


def test_off_delivers_what_is_on_its_way_in_order() -> None:
    timers, hub, (a, b) = impaired("delay=10ms")
    for n in range(3):
        a.port.send(frame(n))
        b.port.send(frame(10 + n))
    timers.advance(1)
    assert faults.straighten(a.port) and not faults.straighten(a.port)
    a.port.send(frame(3))
    b.port.send(frame(13))
    timers.advance(0)
    assert b.frames == [frame(n) for n in range(4)]
    assert a.frames == [frame(10 + n) for n in range(4)]
    assert a.port.hub is hub and a.port.inline is None and hub.ports == [a.port, b.port]
    assert not timers.timers and a.port.counters.drops == {} == b.port.counters.drops


def test_frames_that_wait_for_a_port_survive_the_change() -> None:
    loop, _hub, (a, b) = hub_of(2)
    timers = Timers(loop)
    a.closed = True
    for n in range(3):
        b.port.send(frame(n))
    loop.run()
    faults.impair(a.port, impairments.parse(["delay=1ms"]), timers, lambda: timers.now)  # type: ignore[arg-type]
    timers.advance(5)
    a.open()
    timers.advance(5)
    assert a.frames == [frame(n) for n in range(3)]
    assert a.port.counters.drops == {}


@pytest.mark.parametrize("words", ["in delay=1ms", "out delay=1ms", "delay=1ms"])
def test_a_slow_member_holds_a_sender_or_the_limit_drops(words: str) -> None:
    """A direction without effects loses nothing; one with effects drops by its limit. Nobody is stuck afterwards."""
    timers, _hub, (a, b) = impaired(words + " limit=20", queue_frames=4)
    b.closed = True
    sent = 0
    for n in range(2000):
        timers.advance(2)
        if a.port.send(frame(n)):
            sent += 1
        elif a.readied == 0 and "in" not in words and "out" in words:
            break
    timers.advance(5)
    if words.startswith("out"):
        assert sent < 1200 and a.port.counters.drops == {}
    else:
        assert a.port.counters.drops["impair-limit"] > 0
    b.open()
    timers.advance(100)
    lost = sum(a.port.counters.drops.values()) + sum(b.port.counters.drops.values())
    assert len(b.frames) == sent - lost
    a.port.send(frame(9999))
    timers.advance(100)
    assert b.frames[-1] == frame(9999)


def test_a_port_is_unplugged_with_its_cable() -> None:
    timers, hub, (a, b, c) = impaired("delay=10ms", 3)
    a.port.send(frame(1))
    timers.advance(1)
    hub.remove(a.port)
    timers.advance(20)
    assert hub.ports == [b.port, c.port] and a.port.hub is None and a.port.inline is None
    assert b.frames == [frame(1)]
    c.port.send(frame(2))
    timers.advance(0)
    assert b.frames[-1] == frame(2) and not timers.timers


def test_a_pulled_cable_drops_and_counts() -> None:
    timers, _hub, (a, b) = impaired("delay=10ms")
    b.port.send(frame(1))
    a.port.set_link(False)
    timers.advance(20)
    a.port.send(frame(2))
    assert a.frames == [] and b.frames == [] and sum(a.port.counters.drops.values()) == 2
    a.port.set_link(True)
    b.port.send(frame(3))
    timers.advance(20)
    assert a.frames == [frame(3)]


def test_super_frames_are_not_offered_through_it() -> None:
    _timers, _hub, (a, b) = impaired("delay=1ms", features=31)
    assert a.offers[-1] == 0 == b.offers[-1]
    faults.straighten(a.port)
    assert a.offers[-1] == 31 == b.offers[-1]


# ---- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("", "unknown word"),
        ("in", "names no effect"),
        ("seed=1", "names no effect"),
        ("in out delay=1ms", "names a direction twice"),
        ("delay=1ms delay=2ms", "names delay twice"),
        ("delay=", "delay needs a value"),
        ("delay=1h", "delay=1h: not a time"),
        ("delay=61s", "delay=61s: more than 60 s"),
        ("loss=101%", "loss=101%: not 0..100 percent"),
        ("loss=1:2:3:4:5", "not P or P:R"),
        ("reorder=5%", "reorder needs delay"),
        ("rate=999", "not a rate"),
        ("rate=10mb", "not a rate"),
        ("mtu=67", "mtu=67: not in 68..65520"),
        ("limit=0", "not in 1..100000"),
        ("lss=1%", 'did you mean "loss"'),
    ],
)
def test_words_that_are_refused(words: str, why: str) -> None:
    with pytest.raises(ValueError, match="^.*" + why.replace("(", r"\(")):
        impairments.parse(words.split(" "))


def test_words() -> None:
    got = impairments.parse("out delay=1.5s jitter=200us rate=10Mbit seed=7".split())
    assert got.inbound is None and got.seed == 7 and got.outbound is not None
    assert (got.outbound.delay, got.outbound.jitter, got.outbound.rate) == (
        1_500_000_000,
        200_000,
        10_000_000,
    )
    for text in (
        "delay=20",
        "loss=1:2",
        "loss=0.1%:50%:80%:0.5%",
        "dup=1 reorder=2 delay=3 corrupt=4 mtu=1500 limit=9",
    ):
        one = impairments.parse(text.split()).inbound
        assert one is not None
        assert impairments.parse(one.text().split()).inbound == one
