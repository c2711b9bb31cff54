"""The hub: flooding, back-pressure, offers, super-frames at the exit of a plain port."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapnet.virtio import TUN_F_ALL, TUN_F_CSUM, TUN_F_TSO
from tapnet.vlan import hub as hub_module
from tapnet.vlan import offload
from tapnet.vlan.addresses import AddressTable
from tapnet.vlan.hub import Hub
from tests.tapnet.hub_kit import Endpoint, Loop, hub_of
from tests.tapnet.offload_slow import Packet, segments
from tests.tapnet.vlan.test_offload import vnet_of


def number(n: int) -> bytes:
    return n.to_bytes(4, "big") + bytes(56)


def test_every_other_port_gets_the_same_object() -> None:
    loop, _, (a, b, c) = hub_of(3)
    frame = number(1)
    assert a.port.send(frame)
    assert not b.got, "queued, not called"
    loop.run()
    assert a.got == []
    assert b.got[0][0] is frame and c.got[0][0] is frame
    assert a.port.counters.as_dict() | {"drops": {}} == a.port.counters.as_dict()
    assert (a.port.counters.tx_frames, a.port.counters.tx_bytes) == (1, 60)
    assert (b.port.counters.rx_frames, b.port.counters.rx_bytes) == (1, 60)


def test_a_port_is_told_when_its_batch_is_over() -> None:
    loop, _, (a, b, _) = hub_of(3)
    told: list[int] = []
    b.port.settled = lambda: told.append(len(b.got))
    for n in range(hub_module.BUDGET + 5):
        a.port.send(number(n))
    assert told == []
    loop.run()
    assert told[0] > 1 and told[-1] == hub_module.BUDGET + 5
    assert len(told) <= 4


@given(
    st.lists(st.one_of(st.integers(1, 9), st.sampled_from(["close", "open", "step"])), max_size=80),
    st.integers(1, 6),
)
@settings(max_examples=300, deadline=None)
def test_a_hub_of_two_loses_nothing_under_any_schedule(schedule: list[int | str], limit: int) -> None:
    loop = Loop()
    hub = Hub(0, loop)
    a = Endpoint("a", hub)
    b = Endpoint("b", hub, queue_frames=limit)
    waiting: list[bytes] = []
    held = False
    sent = refusals = 0

    def pump() -> None:
        nonlocal held, refusals
        while waiting and not held:
            if a.port.send(waiting[0]):
                waiting.pop(0)
            else:
                held = True
                refusals += 1

    def ready() -> None:
        nonlocal held
        assert held, "ready() without a refused send"
        held = False
        pump()

    a.on_ready = ready
    for what in schedule:
        if what == "close":
            b.closed = True
        elif what == "open":
            b.open()
        elif what == "step":
            loop.step()
        else:
            for _ in range(int(what)):
                waiting.append(number(sent))
                sent += 1
            pump()
        assert len(b.port.queue) <= limit
    b.open()
    loop.run()
    assert b.frames == [number(n) for n in range(sent)]
    assert a.readied == refusals
    assert b.port.counters.drops == {} and a.port.counters.drops == {}
    assert b.port.queued_bytes == 0


@given(st.data(), st.integers(3, 5))
@settings(max_examples=200, deadline=None)
def test_a_sender_waits_for_the_drain_and_for_endpoints_only_when_all_others_are_slow(
    data: st.DataObject, count: int
) -> None:
    loop, _, ends = hub_of(count, queue_frames=3)
    sent = dict.fromkeys(range(count), 0)
    expected_drops = dict.fromkeys(range(count), 0)
    for n in range(data.draw(st.integers(1, 60))):
        who = data.draw(st.integers(0, count - 1))
        action = data.draw(st.sampled_from(["send", "send", "send", "close", "open", "step"]))
        end = ends[who]
        if action == "close":
            end.closed = True
        elif action == "open":
            end.open()
        elif action == "step":
            loop.step()
        else:
            others = [i for i in range(count) if i != who]
            full = [i for i in others if ends[i].port.full()]
            slow = [i for i in full if ends[i].port.refused]
            taken = end.port.send(number(n))
            assert taken is (slow == full and len(full) < len(others))
            if taken:
                for i in others:
                    if i in full:
                        expected_drops[i] += 1
                    else:
                        sent[i] += 1
    for end in ends:
        end.open()
    loop.run()
    for i, end in enumerate(ends):
        assert len(end.got) == sent[i]
        assert end.port.counters.drops.get("queue", 0) == expected_drops[i]


@pytest.mark.parametrize("kind", ["hub", "switch", "observer", "train"])
def test_a_burst_that_is_longer_than_a_queue_loses_nothing_where_all_endpoints_take(kind: str) -> None:
    """Issue: 1,000 frames that were read in one wake-up, on a VLAN of three: only those that fitted a queue arrived."""
    loop, hub, (sender, a, b) = hub_of(3)
    if kind == "switch":
        hub.switch(AddressTable(lambda: 0))
    if kind == "observer":
        b.port.member = False
        hub.rewire()
    frames = [bytes(6) + b"\2\0\0\0\0\1" + n.to_bytes(2, "big") + bytes(46) for n in range(3000)]
    waiting = list(reversed(frames))
    if kind == "train":
        for end in (sender, a, b):
            end.port.set_train(lambda train, _count, end=end: bool(end.got.append((train, b""))) or True)

    def go_on() -> None:
        while waiting:
            frame = waiting.pop()
            train = len(frame).to_bytes(4, "big") + frame
            taken = sender.port.send(frame) if kind != "train" else hub.forward_train(sender.port, train, 1)
            if not taken:
                waiting.append(frame)
                return

    sender.on_ready = go_on
    go_on()
    loop.run()
    skip = 4 if kind == "train" else 0
    for end in (a, b):
        assert [frame[skip:] for frame in end.frames] == frames
        assert end.port.counters.drops == {}
        assert end.port.counters.queue_high <= end.port.queue_frames
    assert sender.port.counters.tx_frames == len(frames)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("vnet", [b"", bytes((1, 0, 0, 0, 0, 0, 34, 0, 16, 0))])
@pytest.mark.parametrize("size", [14, 42, 54, 59, 60, 61])
def test_a_short_frame_is_padded_once_for_everybody(count: int, vnet: bytes, size: int) -> None:
    loop, hub, ends = hub_of(count, features=TUN_F_CSUM)
    sent = bytes(range(1, size + 1))
    ends[0].port.send(sent, vnet)
    hub.answer(ends[0].port, sent)
    loop.run()
    whole = sent + bytes(max(0, 60 - size))
    assert ends[0].frames == [whole]
    for end in ends[1:]:
        assert end.got == [(whole, vnet)]
    assert ends[0].port.counters.tx_bytes == len(whole)


@pytest.mark.parametrize("size", range(14))
def test_what_has_no_ethernet_header_is_no_frame(size: int) -> None:
    loop, _, (a, b) = hub_of(2)
    assert a.port.send(bytes(size))
    loop.run()
    assert b.got == [] and a.port.counters.drops == {"runt" if size else "empty": 1}
    assert a.port.counters.tx_frames == 0


@pytest.mark.parametrize("learned", [False, True])
def test_a_slow_port_costs_itself_alone_also_while_another_waits_for_the_drain(learned: bool) -> None:
    loop, hub, (sender, slow, quick) = hub_of(3, queue_frames=4)
    if learned:
        hub.switch(AddressTable(lambda: 0))
    slow.closed = True
    frames = [b"\xff" * 6 + b"\2\0\0\0\0\1" + n.to_bytes(2, "big") + bytes(46) for n in range(100)]
    waiting = list(reversed(frames))

    def go_on() -> None:
        while waiting and sender.port.send(waiting[-1]):
            waiting.pop()

    sender.on_ready = go_on
    go_on()
    loop.run()
    assert quick.frames == frames and quick.port.counters.drops == {}
    assert slow.port.counters.drops == {"queue": len(frames) - 4}
    slow.open()
    loop.run()
    assert slow.frames == frames[:4]
    if learned:
        assert hub.table is not None and hub.table.flooded == len(frames)


def test_ready_comes_once_and_from_the_drain() -> None:
    loop, _, (a, b) = hub_of(2, queue_frames=2)
    b.closed = True
    assert a.port.send(number(0)) and a.port.send(number(1))
    for _ in range(3):
        assert not a.port.send(number(2))
    loop.run()
    assert a.readied == 0
    b.open()
    assert a.readied == 0, "flush must not call another endpoint"
    loop.run()
    assert a.readied == 1
    assert b.frames == [number(0), number(1)]


def test_limit_in_bytes() -> None:
    _, _, (a, b) = hub_of(2, queue_bytes=100)
    assert a.port.send(bytes(60)) and a.port.send(bytes(60))
    assert not a.port.send(bytes(60))
    assert b.port.queued_bytes == 120


def test_an_answer_from_receive_is_queued() -> None:
    loop, _, (a, b) = hub_of(2)
    a.on_receive = lambda frame: a.port.send(frame) and None
    rounds = 0

    def back(frame: bytes) -> None:
        nonlocal rounds
        rounds += 1
        if rounds < 50:
            b.port.send(frame)

    b.on_receive = back
    a.port.send(number(1))
    loop.run()  # Endpoint.receive asserts that it is not re-entered
    assert rounds == 50


def test_one_drain_serves_a_bounded_number_of_frames() -> None:
    loop, _, (a, b) = hub_of(2)
    for n in range(hub_module.BUDGET + 10):
        a.port.send(number(n))
    loop.step()
    assert len(b.got) == hub_module.BUDGET
    loop.run()
    assert len(b.got) == hub_module.BUDGET + 10


def test_one_drain_serves_a_bounded_number_of_bytes() -> None:
    loop, _, (a, b) = hub_of(2, queue_bytes=64 << 20)
    for _ in range(200):
        a.port.send(bytes(65000))
    loop.step()
    assert 0 < sum(map(len, b.frames)) <= hub_module.BUDGET_BYTES + 65000
    loop.run()
    assert len(b.got) == 200


def test_a_busy_port_does_not_starve_the_others() -> None:
    loop, _, (a, b, c) = hub_of(3)
    b.on_receive = lambda frame: c.port.send(frame) and None  # b is fed for ever
    for n in range(300):
        a.port.send(number(n))
    for _ in range(3):
        loop.step()
    assert len(c.got) > 0


def test_removal_of_the_one_that_held_a_sender_back() -> None:
    loop, hub, (a, b) = hub_of(2, queue_frames=1)
    b.closed = True
    a.port.send(number(0))
    assert not a.port.send(number(1))
    hub.remove(b.port)
    assert b.port.counters.drops == {"unplugged": 1}
    loop.run()
    assert a.readied == 1


def test_removal_of_a_held_sender() -> None:
    loop, hub, (a, b) = hub_of(2, queue_frames=1)
    b.closed = True
    a.port.send(number(0))
    assert not a.port.send(number(1))
    hub.remove(a.port)
    assert a.readied == 1
    assert a.port.send(number(1)) and a.port.counters.drops == {"link": 1}
    b.open()
    loop.run()
    assert a.readied == 1 and b.frames == [number(0)]


def test_ports_that_unplug_themselves_and_others_while_frames_are_handed_over() -> None:
    loop, hub, (a, b, c) = hub_of(3)
    b.on_receive = lambda _: hub.remove(b.port)
    c.on_receive = lambda _: a.port.hub is hub and hub.remove(a.port)
    for n in range(3):
        a.port.send(number(n))
    loop.run()
    assert b.frames == [number(0)] and b.port.counters.drops == {"unplugged": 2}
    assert c.frames == [number(n) for n in range(3)]
    assert hub.ports == [c.port]


def test_removal_inside_a_refusal_leaves_no_frame_behind() -> None:
    loop, hub, (a, b) = hub_of(2)

    def refuse(_frame: bytes, _vnet: bytes) -> bool:
        hub.remove(b.port)
        return False

    b.port.receive = refuse
    a.port.send(number(0))
    loop.run()
    assert not b.port.queue and b.port.queued_bytes == 0 and b.port.counters.drops == {"unplugged": 1}


def test_an_endpoint_that_raises_does_not_stop_the_hub() -> None:
    loop, _, (a, b, c) = hub_of(3)
    b.on_receive = lambda frame: 1 // frame[3] and None
    for n in (0, 1, 2):
        a.port.send(number(n))
    with pytest.raises(ZeroDivisionError):
        loop.step()
    b.depth = 0
    loop.run()
    assert c.frames == [number(n) for n in (0, 1, 2)]
    assert b.frames[1:] == [number(n) for n in (1, 2)]


def test_names_and_double_plugging() -> None:
    _, hub, (a, _) = hub_of(2)
    with pytest.raises(ValueError, match="p0"):
        Endpoint("p0", hub)
    with pytest.raises(ValueError, match="p0"):
        Hub(1, Loop()).add(a.port)


# Links


def test_a_pulled_cable_counts_both_ways_and_never_holds_back() -> None:
    loop, _, (a, b) = hub_of(2, queue_frames=1)
    b.closed = True
    a.port.send(number(0))
    assert not a.port.send(number(1))
    seen: list[bool] = []
    b.port.on_link = seen.append
    b.port.set_link(False)
    b.port.set_link(False)
    assert seen == [False]
    loop.run()
    assert a.readied == 1
    assert a.port.send(number(1)) and a.port.send(number(2))
    assert b.port.counters.drops == {"link": 3}  # one waited, two came
    assert b.port.send(number(3)) and b.port.counters.drops == {"link": 4}
    b.port.set_link(True)
    b.open()
    a.port.send(number(4))
    loop.run()
    assert b.frames == [number(4)]


def test_a_refused_send_counts_nothing() -> None:
    _, _, (a, b, c) = hub_of(3, queue_frames=1)
    c.port.set_link(False)
    a.port.send(number(0))
    before = (b.port.counters.as_dict(), c.port.counters.as_dict(), a.port.counters.as_dict())
    assert not a.port.send(number(1))
    assert (b.port.counters.as_dict(), c.port.counters.as_dict(), a.port.counters.as_dict()) == before


def test_a_cable_pulled_by_its_own_endpoint_in_receive() -> None:
    loop, _, (a, b) = hub_of(2)
    b.on_receive = lambda _: b.port.set_link(False)
    for n in range(3):
        a.port.send(number(n))
    loop.run()
    assert b.frames == [number(0)] and b.port.counters.drops == {"link": 2}


# Offers and super-frames


def test_offers_follow_joining_leaving_and_features() -> None:
    _, hub, (a, b) = hub_of(2, features=TUN_F_TSO)
    assert a.offers == [0, TUN_F_TSO] and b.offers == [TUN_F_TSO]
    plain = Endpoint("plain", hub, features=TUN_F_CSUM)
    assert a.offers[-1] == b.offers[-1] == TUN_F_CSUM
    assert plain.offers == [TUN_F_TSO]
    watcher = Endpoint("watcher", hub, member=False)
    assert a.offers[-1] == TUN_F_CSUM and watcher.offers == [TUN_F_CSUM]
    plain.port.set_features(0)
    assert a.offers[-1] == 0
    count = len(a.offers)
    plain.port.set_features(0)
    assert len(a.offers) == count, "no change, no offer"
    hub.remove(plain.port)
    assert a.offers[-1] == TUN_F_TSO


SUPER = Packet(payload=bytes(range(256)) * 40)
SUPER_VNET = vnet_of(SUPER, 1460)
CUT = [p.frame() for p in segments(SUPER, 1460)]


def test_a_super_frame_is_cut_at_the_exit_of_a_plain_port_only() -> None:
    loop, hub, (a, fast) = hub_of(2, features=TUN_F_TSO)
    plain = Endpoint("plain", hub)
    a.port.send(SUPER.frame(partial=True), SUPER_VNET)
    a.port.send(number(1))
    loop.run()
    assert fast.got == [(SUPER.frame(partial=True), SUPER_VNET), (number(1), b"")]
    assert plain.got == [(frame, b"") for frame in [*CUT, number(1)]]
    assert plain.port.counters.rx_frames == len(CUT) + 1
    assert plain.port.queued_bytes == 0


@given(st.sets(st.integers(0, 20)))
def test_segments_keep_their_order_over_refusals(refusals: set[int]) -> None:
    loop, _, (a, b) = hub_of(2)
    calls = 0

    def receive(frame: bytes, vnet: bytes) -> bool:
        nonlocal calls
        calls += 1
        if calls in refusals:
            loop(b.port.flush)
            return False
        b.got.append((frame, vnet))
        return True

    b.port.receive = receive
    a.port.send(SUPER.frame(partial=True), SUPER_VNET)
    a.port.send(number(1))
    loop.run()
    assert b.frames == [*CUT, number(1)]


def test_segments_may_leave_with_a_partial_checksum() -> None:
    loop, _, (a, b) = hub_of(2, features=TUN_F_CSUM)
    a.port.send(SUPER.frame(partial=True), SUPER_VNET)
    loop.run()
    assert len(b.got) == len(CUT) and all(offload.accepted(v, 1) and v for _, v in b.got)


def test_what_the_endpoint_does_not_want_is_not_worked_on() -> None:
    loop, hub, (a,) = hub_of(1)
    picky = Endpoint("picky", hub, wants=lambda frame: frame[0] & 1 == 1)
    a.port.send(SUPER.frame(partial=True), SUPER_VNET)
    a.port.send(number(1))  # owes nothing: the endpoint's own filter sees to it
    loop.run()
    assert picky.frames == [number(1)] and picky.port.counters.drops == {"filtered": 1}


def test_malformed_offload_is_counted() -> None:
    loop, _, (a, b) = hub_of(2)
    a.port.send(number(1), SUPER_VNET)
    a.port.send(number(2))
    loop.run()
    assert b.frames == [number(2)] and b.port.counters.drops == {"malformed": 1}


def test_observers_neither_limit_nor_hold_back() -> None:
    loop, hub, (a, b) = hub_of(2, features=TUN_F_TSO, queue_frames=2)
    dump = Endpoint("dump", hub, member=False, queue_frames=1, features=TUN_F_ALL)
    dump.closed = True
    assert a.port.send(number(0))
    loop.run()
    assert dump.port.refused
    assert a.port.send(number(1)) and a.port.send(number(2))
    assert dump.port.counters.drops == {"queue": 2}
    assert not a.port.send(number(3)), "the observer's state must not matter"
    loop.run()
    assert b.frames == [number(0), number(1), number(2)] and a.readied == 1
    hub.remove(b.port)
    for n in range(5):
        assert a.port.send(number(n)), "an observer alone never holds back"
    dump.open()
    loop.run()
    assert dump.frames == [number(0)]


def test_alone_on_a_hub() -> None:
    loop, _, (a,) = hub_of(1)
    assert a.port.send(number(0))
    loop.run()
    assert a.port.counters.tx_frames == 1 and a.offers == [0]


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 7)), max_size=8),
    st.lists(st.integers(0, 7), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_who_gets_whose_frames_and_what_is_offered(
    kinds: list[tuple[bool, bool, bool, int]], gone: list[int]
) -> None:
    """By the definition, port by port."""
    hub = Hub(0, Loop())
    for number, (link, train, member, features) in enumerate(kinds):
        one = Endpoint(str(number), hub, member=member, features=features)
        one.port.set_link(link)
        one.port.set_train((lambda _train, _count: True) if train else None)
    for number in gone:
        if number < len(hub.ports):
            hub.remove(hub.ports[number])
    for port in hub.ports:
        others = [other for other in hub.ports if other is not port]
        peers = [other for other in others if other.link]
        assert list(port.peers) == peers
        assert list(port.dark) == [other for other in others if not other.link]
        assert port.rail == (bool(peers) and all(other.train is not None for other in peers))
        assert port.only is (peers[0] if len(others) == 1 and peers and peers[0].member else None)
        accepted = [other.features for other in others if other.member]
        common = 7 if accepted else 0
        for features in accepted:
            common &= features
        assert port.offered == common


def test_one_client_more_is_little_work_on_a_hub_of_hundreds() -> None:
    """Strangers may connect and drop as they like, so the loop must not be held by each of them."""
    _, hub, _ = hub_of(256)
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        late = Endpoint("late", hub)
        hub.remove(late.port)
    finally:
        sys.setprofile(None)
    assert calls < 20 * 256
