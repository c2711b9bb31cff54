"""A bad cable between one port and its VLAN: delay, jitter, loss, duplicates, reordering, bit errors, a rate, an MTU.

    endpoint ─ port ═ wire of its own ═ inner ─► Lane in ─► outer ═ VLAN
                                        inner ◄─ Lane out ◄ outer

A ``Box`` takes the port out of its hub, with the frames that wait for it, and puts ``outer`` in its place; the port goes on
a hub of two with ``inner``. So queues, back-pressure, counters and link states are those of every hub, and a port without
a box pays nothing. A direction without effects passes frames on at once, held back as on a plain wire.

``Lane`` is sans-IO: a frame goes in at a time, comes out when it is due. Effects, in this order: mtu, loss, dup, corrupt
(each copy by itself), reorder, rate, delay with jitter; ``limit`` frames wait. Jitter never changes the order: a cable does
not; ``reorder`` lets a frame overtake those that wait for their delay.

Chance: each effect draws from a generator of its own, made of seed, port, direction and effect, one draw a frame. So the same
seed and the same frames meet the same fate, whatever the times and whichever other effects are switched on; only what
``limit`` drops depends on time. Without seed= one is chosen, and shown.

Super-frames: a box takes none, so every frame is one that a wire would carry; the members segment.

Limits: ``limit=`` frames and ``WAIT_BYTES`` bytes wait in a direction; what does not fit is dropped, counted. A frame that
the VLAN does not take waits as well. Timers: one for each box, to the millisecond of the loop's clock.
Ref: tc-netem(8); ``tapnet.options.impairments`` for the words.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import NamedTuple

from ..config import Effects, Impairment
from .hub import Hub
from .port import Port

WAIT_BYTES = 64 << 20
ETHER, TAG = 14, 4
COUNTED = ("frames", "loss", "dup", "reorder", "corrupt", "mtu", "limit")


class Report(NamedTuple):
    """One direction of an impaired port. ``effects``: the words that make it again."""

    port: str
    direction: str
    effects: str
    counters: dict[str, int]
    waiting: int


class Lane:
    """One direction. ``effects`` None: nothing happens to a frame."""

    def __init__(self, effects: Effects | None, seed: int, name: str = "") -> None:
        self.effects = effects
        self.seed = seed
        self.counters = dict.fromkeys(COUNTED, 0)
        self._heap: list[tuple[int, int, bytes]] = []  # due, number, frame
        self._bytes = 0
        self._number = 0
        self._free = 0  # when the line has sent what it has
        self._last = 0  # when the latest frame in order is due
        self._bad = False  # Gilbert-Elliott's state
        self._random = {
            effect: random.Random(f"{seed}/{name}/{effect}")
            for effect in ("loss", "state", "dup", "reorder", "corrupt", "jitter")
        }

    def inherit(self, other: Lane) -> None:
        """Go on with the frames that wait in ``other``."""
        self._heap, self._bytes, self._number, self._last = (
            other._heap,
            other._bytes,
            other._number,
            other._last,
        )

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, frame: bytes, now: int) -> str | None:
        """Take a frame; why it is lost, or None. ``now``: ns."""
        effects, counters = self.effects, self.counters
        assert effects is not None
        counters["frames"] += 1
        why = None
        if effects.mtu is not None and len(frame) > effects.mtu + ETHER + TAG * (frame[12:14] == b"\x81\0"):
            why = "mtu"
        elif effects.loss is not None and self._lost():
            why = "loss"
        if why is not None:
            counters[why] += 1
            return why
        copies = 1
        if effects.dup and self._random["dup"].random() < effects.dup:
            counters["dup"] += 1
            copies = 2
        for _ in range(copies):
            if not self._one(frame, now, effects):
                counters["limit"] += 1
                why = "limit"
        return why

    def _lost(self) -> bool:
        assert self.effects is not None and self.effects.loss is not None
        loss = self.effects.loss
        if loss.r is None:
            return self._random["loss"].random() < loss.p
        move = self._random["state"].random()
        self._bad = move >= loss.r if self._bad else move < loss.p
        return self._random["loss"].random() < (loss.h if self._bad else loss.k)

    def _one(self, frame: bytes, now: int, effects: Effects) -> bool:
        if effects.corrupt:
            chance = self._random["corrupt"]
            if chance.random() < effects.corrupt and frame:
                self.counters["corrupt"] += 1
                bit = chance.randrange(len(frame) * 8)
                damaged = bytearray(frame)
                damaged[bit >> 3] ^= 1 << (bit & 7)
                frame = bytes(damaged)
        due = now
        ahead = bool(effects.reorder) and self._random["reorder"].random() < effects.reorder
        shift = self._random["jitter"].uniform(-1, 1) if effects.jitter else 0.0
        size = len(frame)
        if len(self._heap) >= effects.limit or self._bytes + size > WAIT_BYTES:
            return False
        if ahead:
            self.counters["reorder"] += 1
        else:
            if effects.rate is not None:
                self._free = due = max(now, self._free) + size * 8_000_000_000 // effects.rate
            due = max(due + effects.delay + int(shift * effects.jitter), self._last, now)
            self._last = due
        heappush(self._heap, (due, self._number, frame))
        self._number += 1
        self._bytes += size
        return True

    def next_deadline(self) -> int | None:
        """When ``pop`` has something, ns."""
        return self._heap[0][0] if self._heap else None

    def peek(self, now: int) -> bytes | None:
        """The next frame that is due."""
        heap = self._heap
        return heap[0][2] if heap and heap[0][0] <= now else None

    def pop(self) -> None:
        """It has been taken."""
        self._bytes -= len(heappop(self._heap)[2])

    def rest(self) -> list[bytes]:
        """All that waits, in order; it is forgotten here."""
        frames = []
        while self._heap:
            frames.append(self._heap[0][2])
            self.pop()
        return frames


class Box:
    """A bad cable at ``port``, which must be on a hub. See ``off``."""

    def __init__(
        self, port: Port, impairment: Impairment, loop: asyncio.AbstractEventLoop, now: Callable[[], int]
    ) -> None:
        assert port.hub is not None and port.inline is None
        self.port = port
        self.hub = hub = port.hub
        self._loop, self._now = loop, now
        self._timer: asyncio.TimerHandle | None = None
        self._at: int | None = None  # when it fires
        self._in, self._out = Lane(None, 0), Lane(None, 0)
        self._change(impairment)
        self._inner = Port("inner", self._from_port, ready=self._to_port)
        self._outer = Port(port.name, self._from_hub, ready=self._to_hub, member=port.member)
        self._outer.inline = self
        self._wire = Hub(-1, loop.call_soon, private=True)
        self._wire.traces = hub.traces
        self._wire.put_in(self._inner)
        frames, held, place = hub.take_out(port)
        port.inline = self
        hub.put_in(self._outer, frames, place=place)
        self._wire.put_in(port, held=held)

    def change(self, impairment: Impairment) -> None:
        """Other effects for the directions that are named; what waits there goes on as it is due."""
        self._change(impairment)
        self._inner.flush()  # what was refused is taken by a lane with effects
        self._outer.flush()
        self._arm()

    def _change(self, impairment: Impairment) -> None:
        seed = random.SystemRandom().getrandbits(32) if impairment.seed is None else impairment.seed
        for name, effects in (("in", impairment.inbound), ("out", impairment.outbound)):
            if effects is not None:
                old = self._in if name == "in" else self._out
                lane = Lane(effects, seed, f"{self.port.name}/{name}")
                lane.inherit(old)
                if name == "in":
                    self._in = lane
                else:
                    self._out = lane

    # ---- frames --------------------------------------------------------------------------------------------

    def _from_port(self, frame: bytes, _vnet: bytes) -> bool:
        return self._take(self._in, frame, self._outer, True)

    def _from_hub(self, frame: bytes, _vnet: bytes) -> bool:
        return self._take(self._out, frame, self._inner, False)

    def _take(self, lane: Lane, frame: bytes, other: Port, inbound: bool) -> bool:
        if lane.effects is None:
            return other.send(frame)  # False: its ready() makes us ask for more
        why = lane.push(frame, self._now())
        if why is not None:
            self.port.counters.drop(f"impair-{why}")
            for trace in self.hub.traces:
                trace.dropped(self.port, frame, b"", f"impair-{why}", inbound)
        self._arm()
        return True

    def _to_hub(self) -> None:
        """The VLAN takes frames again."""
        self._send(self._in, self._outer)
        self._inner.flush()
        self._arm()

    def _to_port(self) -> None:
        """The port takes frames again."""
        self._send(self._out, self._inner)
        self._outer.flush()
        self._arm()

    def _send(self, lane: Lane, to: Port) -> None:
        now = self._now()
        held = to.hub is not None and to.hub.holds(to)
        while not held and (frame := lane.peek(now)) is not None:
            if not to.send(frame):
                return
            lane.pop()

    def _arm(self) -> None:
        wanted: int | None = None
        for lane, to in ((self._in, self._outer), (self._out, self._inner)):
            due = lane.next_deadline()
            if due is not None and not (to.hub is not None and to.hub.holds(to)):
                wanted = due if wanted is None else min(wanted, due)
        if wanted == self._at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._at = wanted
        if wanted is not None:
            self._timer = self._loop.call_later(max(0.0, (wanted - self._now()) / 1e9), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._send(self._in, self._outer)
        self._send(self._out, self._inner)
        self._arm()

    # ---- what monitors see, and the end --------------------------------------------------------------------

    def report(self) -> list[Report]:
        """The directions that have effects."""
        return [
            Report(
                self.port.name,
                name,
                f"{lane.effects.text()} seed={lane.seed}",
                dict(lane.counters),
                len(lane),
            )
            for name, lane in (("in", self._in), ("out", self._out))
            if lane.effects is not None
        ]

    def off(self) -> None:
        """A good cable again. What was on the way is delivered now, in order. Idempotent."""
        if self.port.inline is not self:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        port, hub = self.port, self.hub
        mine, held, _ = self._wire.take_out(port)
        inbound, _, _ = self._wire.take_out(self._inner)
        theirs, _, place = hub.take_out(self._outer)
        port.inline = None
        late = [(frame, b"") for frame in self._out.rest()]
        hub.put_in(port, [*mine, *late, *theirs], held, place)
        for frame in [*self._in.rest(), *(frame for frame, _ in inbound)]:
            if not port.link or not hub.forward(port, frame, b""):
                port.counters.drop("impair-off")


def impair(
    port: Port, impairment: Impairment, loop: asyncio.AbstractEventLoop, now: Callable[[], int]
) -> None:
    """Make, or change, the cable of a port that is on a hub."""
    box = port.inline
    if isinstance(box, Box):
        box.change(impairment)
    else:
        Box(port, impairment, loop, now)


def straighten(port: Port) -> bool:
    """Take the bad cable away. False: there is none."""
    box = port.inline
    if not isinstance(box, Box):
        return False
    box.off()
    return True
