"""Trains: what a hub does with them is what it does with their frames, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapnet.backends.sockets.framing import Splitter
from tapnet.capture.captures import Captures
from tapnet.vlan.hub import Hub
from tapnet.vlan.port import Port
from tapnet.vlan.train import HEAD, cut, head
from tests.tapnet.capture.test_captures import Deferred, packets
from tests.tapnet.hub_kit import Endpoint, Loop, hub_of
from tests.tapnet.wire_kit import frame


def couple(*frames: bytes) -> tuple[bytes, int]:
    return b"".join(head(len(one)) + one for one in frames), len(frames)


class Rail(Endpoint):
    """An endpoint that takes trains."""

    def __init__(self, name: str, hub: Hub | None = None, **options: object) -> None:
        super().__init__(name, None, **options)
        self.trains: list[int] = []
        self.port.set_train(self.take)
        if hub is not None:
            hub.add(self.port)

    def take(self, train: bytes, count: int) -> bool:
        if self.closed:
            return False
        self.trains.append(count)
        self.got += [(one, b"") for one in cut(train)]
        return True


def rails(count: int, **options: object) -> tuple[Loop, Hub, list[Rail]]:
    loop = Loop()
    hub = Hub(0, loop)
    return loop, hub, [Rail(f"p{n}", hub, **options) for n in range(count)]


def send(port: Port, *frames: bytes) -> bool:
    assert port.rails and port.hub is not None
    return port.hub.forward_train(port, *couple(*frames))


@given(st.lists(st.binary(min_size=1, max_size=70), max_size=9))
def test_cut_is_the_way_back(frames: list[bytes]) -> None:
    assert cut(couple(*frames)[0]) == frames


@given(st.lists(st.binary(max_size=70), max_size=9), st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_a_splitter_makes_trains_without_empty_frames(bodies: list[bytes], cuts: list[int]) -> None:
    data = b"".join(head(len(body)) + body for body in bodies)
    splitter, got, at, turn = Splitter(), [], 0, 0
    while at < len(data):
        piece = data[at : at + cuts[turn % len(cuts)]]
        splitter.room()[: len(piece)] = piece
        train, count = splitter.took(len(piece))
        assert len(cut(train)) == count
        got += cut(train)
        at, turn = at + len(piece), turn + 1
    assert got == [body + bytes(60 - len(body)) for body in bodies if len(body) >= 14]
    assert splitter.empty == sum(not body for body in bodies)
    assert splitter.runts == sum(0 < len(body) < 14 for body in bodies)


@pytest.mark.parametrize("count", [2, 3])
def test_a_train_reaches_all_and_counts_its_frames(count: int) -> None:
    loop, _hub, ends = rails(count)
    a, *others = ends
    assert send(a.port, frame(1), frame(2, 1500), frame(3))
    loop.run()
    for end in others:
        assert end.frames == [frame(1), frame(2, 1500), frame(3)] and end.trains == [3]
        assert (end.port.counters.rx_frames, end.port.counters.rx_bytes) == (3, 1620)
        assert end.port.counters.queue_high == 1 and end.port.queued_bytes == 0
    assert (a.port.counters.tx_frames, a.port.counters.tx_bytes) == (3, 1620)


def test_who_may_send_them(tmp_path: Path) -> None:
    loop, hub, (a, b) = rails(2)
    assert a.port.rails and b.port.rails
    plain = Endpoint("plain", hub)
    assert not a.port.rails and plain.port.rails, "only those who hear must take them"
    hub.remove(plain.port)
    assert a.port.rails and not plain.port.rails
    observer = Endpoint("dump", hub, member=False)
    assert not a.port.rails
    hub.remove(observer.port)
    captures = Captures(Deferred(loop))  # type: ignore[arg-type]
    captures.start(hub, "0", None, str(tmp_path / "x"))
    assert not a.port.rails
    captures.close()
    assert a.port.rails
    b.port.set_train(None)
    assert not a.port.rails and b.port.rails
    b.port.set_train(b.take)
    a.port.set_link(False)
    assert not a.port.rails and not b.port.rails, "nobody hears"
    a.port.set_link(True)
    hub.trains = False
    hub.rewire()
    assert not a.port.rails


def test_a_full_peer_holds_the_sender_and_nothing_is_lost() -> None:
    loop, _hub, (a, b) = rails(2, queue_frames=2)
    b.closed = True
    sent = 0
    while send(a.port, frame(2 * sent), frame(2 * sent + 1)):
        sent += 1
        loop.run()
    assert sent == 2 and not a.readied
    b.open()
    loop.run()
    assert a.readied == 1 and b.frames == [frame(n) for n in range(4)]
    assert b.port.counters.drops == {} == a.port.counters.drops


def test_one_slow_member_loses_alone() -> None:
    loop, _hub, (a, b, c) = rails(3, queue_frames=1)
    b.closed = True
    for n in range(3):
        assert send(a.port, frame(2 * n), frame(2 * n + 1))
        loop.run()
    assert len(c.frames) == 6 and b.port.counters.drops == {"queue": 4}
    c.port.set_link(False)
    b.open()
    loop.run()
    assert send(a.port, frame(8), frame(9))
    assert c.port.counters.drops == {"link": 2}


def waiting(*frames: bytes) -> tuple[Loop, Hub, Rail, Rail]:
    """A train waits at the second port, which refuses."""
    loop, hub, (a, b) = rails(2)
    b.closed = True
    assert send(a.port, *frames)
    loop.run()
    assert len(b.port.queue) == 1 and b.port.refused
    return loop, hub, a, b


def test_an_endpoint_that_takes_no_trains_any_more_gets_frames() -> None:
    loop, _hub, a, b = waiting(frame(1), frame(2), frame(3))
    b.port.set_train(None)
    assert a.port.send(frame(4))
    b.open()
    loop.run()
    assert b.frames == [frame(n) for n in range(1, 5)] and b.trains == []
    assert b.port.counters.rx_frames == 4 and b.port.queued_bytes == 0


def test_a_capture_sees_the_frames_of_a_train_that_waits(tmp_path: Path) -> None:
    loop, hub, _a, b = waiting(frame(1), frame(2))
    captures = Captures(Deferred(loop), lambda: 1_700_000_000_123_456_789)  # type: ignore[arg-type]
    captures.start(hub, "p1", lambda port: port.name == "p1", str(tmp_path / "x"))
    b.open()
    loop.run()
    captures.close()
    assert [data for _, _, data, _ in packets(tmp_path / "x")] == [frame(1), frame(2)]


def test_clearing_export_and_moving_know_frames_only() -> None:
    _, hub, _a, b = waiting(frame(1), frame(2))
    assert b.port.export().queue == [(frame(1), b""), (frame(2), b"")]
    assert b.port.queued_bytes == 120
    _, hub, _a, b = waiting(frame(1), frame(2))
    b.port.set_link(False)
    assert b.port.counters.drops == {"link": 2} and b.port.queued_bytes == 0
    _, hub, _a, b = waiting(frame(1), frame(2))
    hub.remove(b.port)
    assert b.port.counters.drops == {"unplugged": 2}
    _, hub, _a, b = waiting(frame(1), frame(2))
    assert hub.take_out(b.port)[0] == [(frame(1), b""), (frame(2), b"")]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 2), st.integers(1, 5)),
        st.tuples(
            st.sampled_from(["close", "open", "dark", "light", "plain", "rail"]),
            st.integers(0, 2),
            st.just(0),
        ),
        st.tuples(st.just("run"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 3))
def test_what_is_delivered_is_what_frames_would_be(steps: list[tuple[str, int, int]], members: int) -> None:
    """With room for all: the same frames in the same order, and the same counters, as on a hub without trains."""
    runs = []
    for trains in (True, False):
        loop, hub, ends = rails(members + 1)
        hub.trains = trains
        hub.rewire()
        number = 0
        for what, who, count in steps:
            end = ends[who % len(ends)]
            if what == "send":
                frames = [frame(number + n) for n in range(count)]
                number += count
                if end.port.rails:
                    assert send(end.port, *frames)
                else:
                    assert all(end.port.send(one) for one in frames)
            elif what == "run":
                loop.run()
            elif what == "close":
                end.closed = True
            elif what == "open":
                end.open()
            elif what in ("dark", "light"):
                end.port.set_link(what == "light")
            else:
                end.port.set_train(end.take if what == "rail" else None)
        for end in ends:
            end.open()
        loop.run()
        drops = [end.port.counters.as_dict() | {"queue_high": 0} for end in ends]
        runs.append(([end.frames for end in ends], drops, [end.port.queued_bytes for end in ends]))
    assert runs[0] == runs[1]


def test_an_observers_hub_is_the_old_one() -> None:
    """Nothing changes for endpoints that know nothing of trains."""
    loop, _hub, (a, b) = hub_of(2)
    assert not a.port.rails
    a.port.send(frame(1))
    loop.run()
    assert b.frames == [frame(1)] and HEAD == 4
