"""The hub of one VLAN: every frame goes to every other port, as QEMU's ``-net ...,vlan=n``.

Data flow: ``Port.send`` -> ``forward`` appends to the other ports' queues and asks for a drain -> ``drain`` hands the
queues to the endpoints. The two never meet on one stack, so no endpoint can be re-entered by its own answer.

Back-pressure: a sender is held back only when all other ports with link are full, so a hub of two loses nothing,
and one slow port never slows the others: its overflow is dropped and counted.

Offload: each member is offered what all other members accept. A super-frame that reaches a port that cannot take it
all the same is completed and segmented here, by ``tapnet.offload``, at the exit of that port.

Time: none. ``schedule(callback)`` is the event loop's ``call_soon``; one drain serves at most ``BUDGET`` frames and
asks for another, so that descriptors and timers get their turn.
"""

from __future__ import annotations

from collections.abc import Callable

from . import offload
from .port import Port

BUDGET = 256


class Hub:
    """Ports of one VLAN, or the private wire between a -netdev and its card."""

    def __init__(self, number: int, schedule: Callable[[Callable[[], None]], object], *, private: bool = False):
        self.number = number
        self.private = private
        self.ports: list[Port] = []
        self._schedule = schedule
        self._scheduled = False
        self._woken: dict[Port, None] = {}  # ports with frames to hand over, in order
        self._held: dict[Port, None] = {}  # senders to tell when there is room

    def add(self, port: Port) -> None:
        """Plug a port in. Raises ValueError if its name is taken or it is plugged elsewhere."""
        if port.hub is not None or any(p.name == port.name for p in self.ports):
            raise ValueError(f"port {port.name} is plugged already")
        port.hub = self
        self.ports.append(port)
        if port.queue:
            self.wake(port)
        self.negotiate()

    def remove(self, port: Port) -> None:
        """Unplug a port; frames that wait for it are dropped and counted."""
        self.ports.remove(port)
        port.hub = None
        port.clear("unplugged")
        port.refused = False
        self._woken.pop(port, None)
        self._held.pop(port, None)
        if port.held:
            port.held = False
            port.ready()
        self.negotiate()
        self.release()

    def negotiate(self) -> None:
        """Offer each port what all other members accept (nothing where it is alone)."""
        members = [p for p in self.ports if p.member]
        for port in self.ports:
            others = [p.features for p in members if p is not port]
            common = others[0] if others else 0
            for features in others:
                common &= features
            port.offer(common)

    def forward(self, source: Port, frame: bytes, vnet: bytes) -> bool:
        """Queue a frame for all ports but ``source``. False: all of them are full, not taken."""
        counters = source.counters
        takers = []
        room = False
        live = False
        for port in self.ports:
            if port is source:
                continue
            if not port.link:
                port.counters.drop("link")
                continue
            full = port.full()
            if port.member:
                live = True
                if not full:
                    room = True
            takers.append((port, full))
        if live and not room:
            source.held = True
            self._held[source] = None
            for port in self.ports:  # not taken: nobody lost it
                if port is not source and not port.link:
                    port.counters.drop("link", -1)
            return False
        size = len(frame)
        counters.tx_frames += 1
        counters.tx_bytes += size
        for port, full in takers:
            if full:
                port.counters.drop("queue")
                continue
            queue = port.queue
            queue.append((frame, vnet))
            port.queued_bytes += size
            depth = len(queue)
            if depth > port.counters.queue_high:
                port.counters.queue_high = depth
            if depth == 1 and not port.refused:
                self.wake(port)
        return True

    def wake(self, port: Port) -> None:
        """Have ``port``'s queue handed over soon."""
        self._woken[port] = None
        if not self._scheduled:
            self._scheduled = True
            self._schedule(self.drain)

    def drain(self) -> None:
        """Hand queued frames to their endpoints."""
        self._scheduled = False
        budget = BUDGET
        woken = self._woken
        while woken and budget > 0:
            port = next(iter(woken))
            del woken[port]
            budget = self._drain_port(port, budget)
            if port.queue and not port.refused and port.hub is self:
                woken[port] = None
        if self._held:
            self.release()
        if woken and not self._scheduled:
            self._scheduled = True
            self._schedule(self.drain)

    def _drain_port(self, port: Port, budget: int) -> int:
        queue = port.queue
        counters = port.counters
        receive = port.receive
        while queue and budget > 0:
            frame, vnet = queue.popleft()
            size = len(frame)
            port.queued_bytes -= size
            if vnet and not offload.accepted(vnet, port.features):
                if port.wants is not None and not port.wants(frame):
                    counters.drop("filtered")
                    continue
                pieces = offload.complete(frame, vnet, port.features)
                if not pieces:
                    counters.drop("malformed")
                    continue
                queue.extendleft(reversed(pieces))
                port.queued_bytes += sum(len(piece) for piece, _ in pieces)
                continue
            budget -= 1
            if not receive(frame, vnet):
                queue.appendleft((frame, vnet))
                port.queued_bytes += size
                port.refused = True
                break
            counters.rx_frames += 1
            counters.rx_bytes += size
            if not port.link:  # the endpoint pulled its own cable
                break
        return budget

    def release(self) -> None:
        """Tell senders that were held back, if there is room for them again."""
        for port in list(self._held):
            others = [p for p in self.ports if p is not port and p.link and p.member]
            if not others or not all(p.full() for p in others):
                del self._held[port]
                if port.held:
                    port.held = False
                    port.ready()
