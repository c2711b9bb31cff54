"""A VLAN that is a switch; and what one slow port does to the others of a hub, of either kind."""

from __future__ import annotations

import random

import pytest

from tapnet.vlan.addresses import AddressTable
from tapnet.vlan.hub import Hub
from tests.tapnet.hub_kit import Endpoint, Loop


def mac(number: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes([number])


def frame(to: int | bytes, source: int, size: int = 60) -> bytes:
    target = to if isinstance(to, bytes) else mac(to)
    return (target + mac(source) + b"\x88\xb5").ljust(size, b"\0")


class Room:
    def __init__(self, count: int, switch: bool = True) -> None:
        self.loop = Loop()
        self.hub = Hub(0, self.loop)
        self.now = 0
        self.ends = [Endpoint(f"p{n}", self.hub) for n in range(count)]
        if switch:
            self.hub.switch(AddressTable(lambda: self.now))

    def send(self, number: int, data: bytes) -> bool:
        taken = self.ends[number].port.send(data)
        self.loop.run()
        return taken

    def got(self) -> list[int]:
        counts = [len(end.got) for end in self.ends]
        for end in self.ends:
            end.got.clear()
        return counts


def test_unknown_is_flooded_then_only_its_port_gets_it() -> None:
    room = Room(4)
    room.send(0, frame(1, 0))
    assert room.got() == [0, 1, 1, 1]
    room.send(1, frame(0, 1))
    assert room.got() == [1, 0, 0, 0]
    room.send(0, frame(1, 0))
    assert room.got() == [0, 1, 0, 0]
    assert room.hub.table.flooded == 1


@pytest.mark.parametrize("group", [b"\xff" * 6, bytes.fromhex("01005e000001"), bytes.fromhex("333300000001")])
def test_groups_are_flooded(group: bytes) -> None:
    room = Room(3)
    for number in range(3):
        room.send(number, frame(9, number))
    room.got()
    room.send(0, frame(group, 0))
    assert room.got() == [0, 1, 1]


def test_what_is_behind_the_same_port_stays_there() -> None:
    room = Room(3)
    room.send(0, frame(9, 1))
    room.send(0, frame(9, 2))
    room.got()
    assert room.send(0, frame(1, 2))
    assert room.got() == [0, 0, 0] and room.hub.table.local == 1


def test_with_two_ports_too() -> None:
    room = Room(2)
    room.send(0, frame(9, 1))
    room.send(0, frame(9, 2))
    room.got()
    room.send(0, frame(1, 2))
    assert room.got() == [0, 0]
    room.send(1, frame(1, 5))
    assert room.got() == [1, 0]


def test_a_station_that_moves_and_a_port_that_goes() -> None:
    room = Room(3)
    room.send(1, frame(9, 1))
    room.send(2, frame(9, 1))
    room.got()
    room.send(0, frame(1, 0))
    assert room.got() == [0, 0, 1]
    room.ends[2].port.set_link(False)
    room.send(0, frame(1, 0))
    assert room.got() == [0, 1, 0], "unknown again"
    room.ends[2].port.set_link(True)
    room.send(2, frame(9, 1))
    room.hub.remove(room.ends[2].port)
    room.got()
    room.send(0, frame(1, 0))
    assert room.got() == [0, 1, 0]
    assert room.ends[2].port not in [row.port for row in room.hub.table.rows()]


def test_observers_see_everything_once() -> None:
    room = Room(3)
    watcher = Endpoint("dump", room.hub, member=False)
    for number in range(3):
        room.send(number, frame(9, number))
    for to, source in ((1, 0), (0, 1), (2, 0), (0, 0)):
        watcher.got.clear()
        room.send(source, frame(to, source))
        assert len(watcher.got) == 1


def test_what_has_no_header_reaches_nobody_and_teaches_nothing() -> None:
    room = Room(3)
    for size in (0, 1, 6, 11, 12, 13):
        room.send(0, bytes(size))
        assert room.got() == [0, 0, 0]
    assert len(room.hub.table) == 0
    assert room.hub.ports[0].counters.drops == {"empty": 1, "runt": 5}


def test_on_and_off_while_frames_flow() -> None:
    room = Room(3)
    room.send(1, frame(9, 1))
    room.got()
    room.hub.switch(None)
    room.send(0, frame(1, 0))
    assert room.got() == [0, 1, 1] and room.hub.trains
    room.hub.switch(AddressTable(lambda: 0))
    assert not room.hub.trains
    room.send(0, frame(1, 0))
    assert room.got() == [0, 1, 1]


def test_random_traffic_reaches_whom_it_is_for_and_nobody_twice() -> None:
    rng = random.Random(1)
    room = Room(5)
    where = {n: rng.randrange(5) for n in range(12)}
    for _ in range(3000):
        room.now += 10_000_000_000
        source, to = rng.sample(range(12), 2)
        if rng.random() < 0.05:
            where[source] = rng.randrange(5)
            room.send(where[source], frame(b"\xff" * 6, source))  # as a station does that has moved
            room.got()
        room.send(where[source], frame(to, source))
        got = room.got()
        assert max(got) <= 1 and got[where[source]] == 0
        if where[to] != where[source]:
            assert got[where[to]] == 1


# ---- one slow port -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("switch", [False, True])
def test_bandwidth_is_not_shared_through_one_slow_port(switch: bool) -> None:
    """One port takes a frame a while; the other two exchange as many as they like, and lose none."""
    room = Room(3, switch)
    fast, other, slow = room.ends
    for number in range(3):
        room.send(number, frame(9, number))
    room.got()
    slow.closed = True
    sent = 0
    for turn in range(5000):
        assert fast.port.send(frame(1, 0)), "the sender is never held back"
        if turn % 2:
            assert fast.port.send(frame(2, 0)) and fast.port.send(frame(b"\xff" * 6, 0))
        sent += 1
        room.loop.run()
        if turn % 1000 == 999:
            slow.closed = False
            slow.port.flush()
            room.loop.run()
            slow.closed = True
    to_other = [data for data, _ in other.got if data.startswith(mac(1))]
    assert len(to_other) == sent and other.port.counters.drops == {}
    assert slow.port.counters.drops["queue"] > 0 and len(slow.port.queue) <= slow.port.queue_frames
    assert fast.readied == 0


@pytest.mark.parametrize("switch", [False, True])
def test_with_two_ports_nothing_is_lost(switch: bool) -> None:
    room = Room(2, switch)
    room.send(1, frame(9, 1))
    room.got()
    end = room.ends[1]
    end.closed = True
    taken = 0
    while room.ends[0].port.send(frame(1, 0)):
        taken += 1
        room.loop.run()
        assert taken < 10_000
    end.closed = False
    end.port.flush()
    room.loop.run()
    assert len(end.got) == taken and end.port.counters.drops == {} and room.ends[0].readied == 1
