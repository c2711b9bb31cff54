"""Ports: counters, links without a hub, and handing over to a successor."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tapnet.vlan.port import PortState
from tests.tapnet.hub_kit import Endpoint, hub_of

FRAMES = st.lists(st.binary(min_size=60, max_size=90), max_size=20)


def test_without_a_hub_frames_are_counted_as_lost() -> None:
    lone = Endpoint("lone")
    assert lone.port.send(bytes(60)) and lone.port.send(bytes(60))
    lone.port.flush()
    assert lone.port.counters.drops == {"link": 2}


def test_frames_that_wait_from_before_are_handed_over_when_plugged() -> None:
    loop, hub, (a,) = hub_of(1)
    late = Endpoint("late")
    late.port.adopt(PortState("late", True, {}, [(bytes(60), b"")]))
    hub.add(late.port)
    loop.run()
    assert late.frames == [bytes(60)]
    assert a.got == []


@given(FRAMES, FRAMES, st.booleans())
def test_a_successor_goes_on_where_the_port_ended(
    before: list[bytes], after: list[bytes], link: bool
) -> None:
    loop, hub, (a, old) = hub_of(2)
    old.port.endpoint_export = lambda: ({"address": "10.0.2.15"}, {"tap": 7})
    old.closed = True
    for frame in before:
        a.port.send(frame)
    loop.run()
    old.port.set_link(link)
    old.port.counters.drop("oversize", 2)
    state = old.port.export()
    json.dumps([state.counters, state.extra, state.fds])
    assert (state.extra, state.fds) == ({"address": "10.0.2.15"}, {"tap": 7})
    hub.remove(old.port)

    new = Endpoint("new", hub)
    new.closed = True
    new.port.counters.drop("oversize")
    for frame in after:
        a.port.send(frame)
    loop.run()
    links: list[bool] = []
    new.port.on_link = links.append
    new.port.adopt(state)
    new.open()
    loop.run()
    assert new.port.link is link
    assert links == ([] if link else [False])
    assert new.frames == (before + after if link else [])
    assert new.port.counters.rx_frames == len(new.frames)
    assert new.port.counters.drops["oversize"] == 3
    assert new.port.counters.queue_high == max(len(before), len(after))
    assert new.port.queued_bytes == 0


def test_an_export_is_a_copy() -> None:
    loop, _, (a, b) = hub_of(2)
    b.closed = True
    a.port.send(bytes(60))
    state = b.port.export()
    b.open()
    loop.run()
    b.port.counters.drop("queue")
    assert len(state.queue) == 1 and state.counters["rx_frames"] == 0 and state.counters["drops"] == {}


def test_flush_without_anything_to_hand_over_asks_for_no_drain() -> None:
    loop, _, (_, b) = hub_of(2)
    b.port.flush()
    assert not loop.soon


def test_clear_counts_by_reason() -> None:
    _, _, (a, b) = hub_of(2)
    for _ in range(3):
        a.port.send(bytes(60))
    b.port.clear("reset")
    assert b.port.counters.drops == {"reset": 3} and b.port.queued_bytes == 0
