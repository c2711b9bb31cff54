"""A port: one member of a hub, with its own bounded queue.

    endpoint --send(frame, vnet)--> Port --> hub --> queues of the other ports --drain--> receive(frame, vnet)

What it promises
* ``send`` never calls an endpoint: it appends to the queues of the other ports, the hub drains them later.
* ``send`` answers False when a frame must wait: the queue of a port that takes frames is full until the next drain, or
  every other member with link is full. Then the frame was not taken, and ``ready()`` is called once when there is room.
* ``receive`` may answer False (not now); the frame stays at the head of the queue until the endpoint calls
  ``flush()``. It must call it.
* What does not fit is dropped and counted by reason, for that port only.

Nothing here calls an endpoint from inside its own ``send``; ``ready`` and ``receive`` come from the hub's
drain.

Limits: ``QUEUE_FRAMES`` frames or ``QUEUE_BYTES`` bytes wait in a port, whichever is reached first.
A frame is an immutable ``bytes`` without FCS. ``vnet`` is ``b""`` or a 10-byte little-endian virtio_net_hdr
of a frame whose checksum or segmentation is still owed (``tapnet.vlan.offload``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .train import cut

if TYPE_CHECKING:
    from .hub import Hub

QUEUE_FRAMES = 512
QUEUE_BYTES = 4 << 20

Frame = tuple[bytes, bytes]
Item = tuple[bytes, Any]  # a frame, or a train: (bytes, number of frames)
Receive = Callable[[bytes, bytes], bool]


def _nothing() -> None:
    pass


def _ignore(_features: int) -> None:
    pass


class Counters:
    """Frames and bytes as the endpoint sees them: ``tx`` went into the hub, ``rx`` came out of it."""

    __slots__ = ("drops", "queue_high", "rx_bytes", "rx_frames", "tx_bytes", "tx_frames")

    def __init__(self) -> None:
        self.tx_frames = self.tx_bytes = self.rx_frames = self.rx_bytes = self.queue_high = 0
        self.drops: dict[str, int] = {}

    def drop(self, reason: str, count: int = 1) -> None:
        """Count ``count`` frames lost for ``reason``: queue, link, oversize ..."""
        self.drops[reason] = self.drops.get(reason, 0) + count

    def as_dict(self) -> dict[str, Any]:
        """JSON-able copy."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "drops"} | {
            "drops": dict(self.drops)
        }


@dataclass(slots=True)
class PortState:
    """What a port hands over to its successor (restart, swap): see ``Port.export``."""

    name: str
    link: bool
    counters: dict[str, Any]
    queue: list[Frame]
    extra: dict[str, Any] = field(default_factory=dict)
    fds: dict[str, int] = field(default_factory=dict)


class Trace(Protocol):
    """Who looks on at a hub (``Hub.traces``): captures. Called for each frame, so not for nothing."""

    def sent(self, port: Port, frame: bytes, vnet: bytes, lost: Sequence[tuple[Port, str]]) -> None:
        """``port`` has sent a frame into its hub; ``lost``: to whom it was not handed, and why."""

    def delivered(self, port: Port, frame: bytes, vnet: bytes) -> None:
        """The endpoint of ``port`` has taken a frame."""

    def dropped(self, port: Port, frame: bytes, vnet: bytes, reason: str, inbound: bool) -> None:
        """A frame was lost at ``port``: on its way into the hub (``inbound``) or out of it."""


class Inline(Protocol):
    """Something that was put between a port and its VLAN (``tapnet.vlan.faults``): the port itself sits on a wire of its own."""

    hub: Hub  # of the VLAN
    port: Port  # that it belongs to

    def off(self) -> None:
        """Take it out: the port is on its VLAN again, with what was on the way."""


class Port:
    """One member of a hub.

    name      unique in its hub
    receive   ``(frame, vnet) -> taken``, called by the hub's drain only
    features  TUN_F_* bits (``tapnet.vlan.offload``) that ``receive`` accepts in ``vnet``
    ready     called once for each time that ``send`` answered False, when it may be tried again
    offer     called with the TUN_F_* bits that all other members accept: when plugged, and at each change
    wants     ``(frame) -> bool``: whether a frame that owes work is worth completing for this endpoint
    member    False for observers (dump, capture): they never limit the offer nor hold a sender back
    settled   called by the drain when it has handed over what it had, or what its budget allowed
    export    ``() -> (extra, fds)``: the endpoint's own part of ``Port.export``
    """

    __slots__ = (
        "__weakref__",
        "counters",
        "dark",
        "endpoint_export",
        "features",
        "hub",
        "inline",
        "link",
        "member",
        "name",
        "offer",
        "offered",
        "on_link",
        "only",
        "peers",
        "queue",
        "queue_bytes",
        "queue_frames",
        "queued_bytes",
        "rail",
        "ready",
        "receive",
        "refused",
        "settled",
        "train",
        "wants",
    )

    def __init__(
        self,
        name: str,
        receive: Receive,
        *,
        features: int = 0,
        ready: Callable[[], None] = _nothing,
        offer: Callable[[int], None] = _ignore,
        wants: Callable[[bytes], bool] | None = None,
        member: bool = True,
        settled: Callable[[], None] | None = None,
        export: Callable[[], tuple[dict[str, Any], dict[str, int]]] | None = None,
        queue_frames: int = QUEUE_FRAMES,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.name = name
        self.receive = receive
        self.features = features
        self.ready = ready
        self.offer = offer
        self.wants = wants
        self.member = member
        self.settled = settled
        self.endpoint_export = export
        self.queue_frames = queue_frames
        self.queue_bytes = queue_bytes
        self.hub: Hub | None = None
        self.inline: Inline | None = None  # what stands between this port and its VLAN
        self.link = True
        self.on_link: Callable[[bool], None] | None = None
        self.counters = Counters()
        self.queue: deque[Item] = deque()
        self.train: Callable[[bytes, int], bool] | None = None  # as ``receive``, for a train of frames
        self.queued_bytes = 0
        self.refused = False  # the endpoint said "not now"; only flush() ends it
        # What the hub worked out for this port as a sender (Hub.rewire).
        self.peers: tuple[Port, ...] = ()  # the other ports with link
        self.dark: tuple[Port, ...] = ()  # the other ports without
        self.only: Port | None = None  # the one member that gets everything, if there is nobody else
        self.rail = False  # all of ``peers`` take trains
        self.offered = -1  # the last offer made

    @property
    def vlan(self) -> Hub | None:
        """The hub that it is a member of, whatever stands between."""
        return self.hub if self.inline is None else self.inline.hub

    def send(self, frame: bytes, vnet: bytes = b"") -> bool:
        """From the endpoint into the hub. False: not taken, ``ready()`` follows."""
        hub = self.hub
        if hub is None or not self.link:
            self.counters.drop("link")
            if hub is not None:
                for trace in hub.traces:
                    trace.dropped(self, frame, vnet, "link", True)
            return True
        return hub.forward(self, frame, vnet)

    @property
    def rails(self) -> bool:
        """Whether a train may be sent: ``hub.forward_train``. See ``tapnet.vlan.train``."""
        hub = self.hub
        return self.rail and self.link and hub is not None and not hub.traces

    def set_train(self, train: Callable[[bytes, int], bool] | None) -> None:
        """Whether, and how, the endpoint takes trains. ``receive`` must be there all the same."""
        if train != self.train:
            self.train = train
            if self.hub is not None:
                self.hub.rewire()

    def cut(self) -> None:
        """Only frames wait from now on."""
        if any(type(vnet) is int for _, vnet in self.queue):
            whole: list[Item] = []
            for item in self.queue:
                whole += [(frame, b"") for frame in cut(item[0])] if type(item[1]) is int else [item]
            self.queue.clear()  # the endpoint knows this very queue
            self.queue.extend(whole)
            self.queued_bytes = sum(len(frame) for frame, _ in whole)

    def flush(self) -> None:
        """The endpoint can receive again."""
        self.refused = False
        if self.hub is not None and self.queue:
            self.hub.wake(self)

    def full(self) -> bool:
        """Whether the queue takes no further frame."""
        return len(self.queue) >= self.queue_frames or self.queued_bytes >= self.queue_bytes

    def behind(self) -> bool:
        """Whether the queue is full although the endpoint takes frames: the drain has not come to it yet."""
        return not self.refused and self.full()

    def set_features(self, features: int) -> None:
        """Change what the endpoint accepts; the hub offers anew."""
        if features != self.features:
            self.features = features
            if self.hub is not None:
                self.hub.negotiate()

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable. While it is out, frames both ways are dropped and counted."""
        if up == self.link:
            return
        self.link = up
        if not up:
            self.clear("link")
        if self.hub is not None:
            self.hub.rewire()
        if self.on_link is not None:
            self.on_link(up)

    def clear(self, reason: str) -> None:
        """Drop what waits for the endpoint, counted under ``reason``."""
        if self.queue:
            self.cut()
            for trace in self.hub.traces if self.hub is not None else ():
                for frame, vnet in self.queue:
                    trace.dropped(self, frame, vnet, reason, False)
            self.counters.drop(reason, len(self.queue))
            self.queue.clear()
            self.queued_bytes = 0

    def export(self) -> PortState:
        """State for a successor: waiting frames, counters, and the endpoint's own data and descriptors."""
        self.cut()
        extra, fds = self.endpoint_export() if self.endpoint_export is not None else ({}, {})
        return PortState(self.name, self.link, self.counters.as_dict(), list(self.queue), extra, fds)

    def adopt(self, state: PortState) -> None:
        """Go on where an exported port ended: link, counters, and its waiting frames ahead of this port's."""
        counters = self.counters
        for name, value in state.counters.items():
            if name == "drops":
                for reason, count in value.items():
                    counters.drop(reason, count)
            elif name == "queue_high":
                counters.queue_high = max(counters.queue_high, value)
            else:
                setattr(counters, name, getattr(counters, name) + value)
        self.queue.extendleft(reversed(state.queue))
        self.queued_bytes += sum(len(frame) for frame, _ in state.queue)
        self.set_link(state.link)
        self.flush()
