"""The hub of one VLAN: every frame goes to every other port, as QEMU's ``-net ...,vlan=n``; or, as a switch,
to the one port that its station is behind.

Data flow: ``Port.send`` -> ``forward`` appends to the other ports' queues and asks for a drain -> ``drain``
hands the queues to the endpoints. The two never meet on one stack, so no endpoint can be re-entered by its
own answer. Who gets a sender's frames is worked out when a port comes, goes or changes its link
(``rewire``), not per frame.

Back-pressure: a queue can be full for two reasons. Its endpoint has refused a frame and has not called
``flush`` yet: such a port is slow, its overflow is dropped and counted, and it holds a sender back only when
all other members with link are slow too, so one slow port never slows the others. Or the endpoint is willing
and the drain has not had its turn: then the sender waits for that turn, however many others there are, and
nothing is lost. A hub of two loses nothing in either case. Held senders are told from the drain, never from
inside another port's call.

Switch (``switch``): sources are learned (``tapnet.vlan.addresses``); a frame to a station that is known goes
to its port and to observers alone, what stays behind the port that it came from goes nowhere. Everything else
is flooded. A slow port holds its sender back only where there is no other: one slow station must not slow
what others are sent.

Offload: each member is offered what all other members accept. A super-frame that reaches a port that cannot
take it all the same is completed and segmented here, by ``tapnet.vlan.offload``, at the exit of that port.

A frame of less than 60 bytes is padded when it enters (``tapnet.vlan.padding``).

Trains: where all that hear a stream wire are stream wires, what it has read goes on in one piece
(``tapnet.vlan.train``).

Time: none. ``schedule(callback)`` is the event loop's ``call_soon``; one drain serves at most ``BUDGET``
frames or ``BUDGET_BYTES`` and asks for another, so that descriptors and timers get their turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from . import offload
from .addresses import AddressTable
from .padding import MIN_FRAME, MIN_HEADER, pad
from .port import Frame, Item, Port, Trace
from .train import HEAD, cut

BUDGET = 256
BUDGET_BYTES = 4 << 20  # 64 super-frames
_COST = BUDGET_BYTES // BUDGET  # one unit of the budget pays for so many bytes of a frame


class Hub:
    """The ports of one VLAN, or the private wire between a -netdev and its card."""

    def __init__(
        self, number: int, schedule: Callable[[Callable[[], None]], object], *, private: bool = False
    ):
        self.number = number
        self.private = private
        self.trains = True  # frames may go on unseen; not where the hub looks at addresses
        self.ports: list[Port] = []
        self.table: AddressTable | None = None  # learned addresses of a switch; None: flood all
        self._observers: tuple[Port, ...] = ()  # observers with link
        self._schedule = schedule
        self._scheduled = False
        self._woken: dict[Port, None] = {}  # ports with frames to hand over, in order
        self._held: dict[Port, None] = {}  # senders to tell when there is room
        self.traces: list[Trace] = []
        self._lost: list[tuple[Port, str]] = []  # where the present frame was lost, for traces

    @property
    def busy(self) -> bool:
        """Return whether frames are on their way: queued for an endpoint that has not refused them."""
        return self._scheduled

    def add(self, port: Port) -> None:
        """Plug a port in. Raises ValueError if its name is taken or it is plugged elsewhere."""
        if port.hub is not None or any(p.name == port.name for p in self.ports):
            raise ValueError(f"port {port.name} is plugged already")
        self.put_in(port)

    def remove(self, port: Port) -> None:
        """Unplug a port; frames that wait for it are dropped and counted.

        If it was held back, its ``ready`` is called before this returns: it may send, into the void.
        """
        if port.inline is not None:
            vlan = port.inline.hub
            port.inline.off()
            if vlan is not self:
                vlan.remove(port)
                return
        port.clear("unplugged")
        _, held, _ = self.take_out(port)
        self.negotiate()
        if held:
            port.ready()

    def take_out(self, port: Port) -> tuple[list[Frame], bool, int]:
        """Unplug a port that goes elsewhere with all that it has: return the frames that wait for it, whether
        it waits to send (then somebody else must call its ``ready``), and its place. ``put_in`` or
        ``negotiate`` must follow.
        """
        place = self.ports.index(port)
        del self.ports[place]
        port.cut()
        port.hub = None
        frames = list(port.queue)
        port.queue.clear()
        port.queued_bytes = 0
        port.refused = False
        port.peers = port.dark = ()
        port.only = None
        port.rail = False
        self._woken.pop(port, None)
        held = port in self._held
        self._held.pop(port, None)
        self.rewire()
        return frames, held, place

    def put_in(
        self, port: Port, frames: Iterable[Frame] = (), held: bool = False, place: int | None = None
    ) -> None:
        """Plug in a port, with what ``take_out`` returned."""
        port.hub = self
        port.offered = -1
        self.ports.insert(len(self.ports) if place is None else place, port)
        port.queue.extend(frames)
        port.queued_bytes = sum(len(frame) for frame, _ in port.queue)
        if held:
            self._held[port] = None
        self.rewire()
        if port.queue and not port.refused:
            self.wake(port)
        self.negotiate()

    def answer(self, port: Port, frame: bytes) -> None:
        """Queue a frame for one port alone; a trace that looks at the port's frames answers it so."""
        if port.full() or not port.link:
            port.counters.drop("queue" if port.link else "link")
            return
        frame = pad(frame)
        port.queue.append((frame, b""))
        port.queued_bytes += len(frame)
        if not port.refused:
            self.wake(port)

    def switch(self, table: AddressTable | None) -> None:
        """Become a switch that learns into ``table``; with None, go back to flooding every frame."""
        self.table = table
        self.trains = table is None
        self.rewire()

    def holds(self, port: Port) -> bool:
        """Return whether a sender was told to wait for its ``ready``."""
        return port in self._held

    def rewire(self) -> None:
        """Work out anew which ports get each sender's frames."""
        lives = tuple(port for port in self.ports if port.link)
        darks = tuple(port for port in self.ports if not port.link)
        slow = sum(port.train is None for port in lives)
        pair = len(self.ports) == 2
        up = down = 0
        for port in self.ports:  # by slices: a storm of clients on a hub of hundreds must not hold the loop
            port.peers, port.dark, others = lives, darks, slow
            if port.link:
                port.peers = lives[:up] + lives[up + 1 :]
                others -= port.train is None
                up += 1
            else:
                port.dark = darks[:down] + darks[down + 1 :]
                down += 1
            port.rail = self.trains and bool(port.peers) and not others
            port.only = port.peers[0] if pair and port.peers and port.peers[0].member else None
        if self.table is not None:
            live = {port for port in self.ports if port.link}
            self.table.keep(live)
            self._observers = tuple(port for port in live if not port.member)
            for port in self.ports:
                port.only = None
        if self._held:
            self._ask()

    def negotiate(self) -> None:
        """Offer each port what all other members accept (nothing where it is alone), if that has changed."""
        counts = self._features()
        for port in list(self.ports):
            common, others = -1, False
            for features, count in counts.items():
                if count > (port.member and features == port.features):
                    common &= features
                    others = True
            common = common if others else 0
            if common != port.offered and port.hub is self:
                port.offered = common
                port.offer(common)
                counts = self._features()  # it may have changed anything

    def _features(self) -> dict[int, int]:
        """Count the members for each set of features that they accept."""
        counts: dict[int, int] = {}
        for port in self.ports:
            if port.member:
                counts[port.features] = counts.get(port.features, 0) + 1
        return counts

    def forward(self, source: Port, frame: bytes, vnet: bytes) -> bool:
        """Queue a frame for all ports but ``source``. False means that it was not taken; ``source`` is told
        when to try again.
        """
        size = len(frame)
        if size < MIN_FRAME:
            if size < MIN_HEADER:
                return self._runt(source, frame)
            frame, size = pad(frame), MIN_FRAME
        port = source.only
        if port is not None:  # a hub of two
            queue = port.queue
            depth = len(queue)
            if depth >= port.queue_frames or port.queued_bytes >= port.queue_bytes:
                self._held[source] = None
                return False
            queue.append((frame, vnet))
            port.queued_bytes += size
            if depth >= port.counters.queue_high:
                port.counters.queue_high = depth + 1
            if not depth and not port.refused:
                self.wake(port)
        elif not (self._flood if self.table is None else self._switch)(source, (frame, vnet), size):
            self._held[source] = None
            return False
        counters = source.counters
        counters.tx_frames += 1
        counters.tx_bytes += size
        if self.traces:
            self._tell(source, frame, vnet)
        return True

    def _runt(self, source: Port, frame: bytes) -> bool:
        """Drop what ``source`` has sent, because it has no Ethernet header."""
        reason = "runt" if frame else "empty"
        source.counters.drop(reason)
        for trace in self.traces:
            trace.dropped(source, frame, b"", reason, True)
        return True

    def _tell(self, source: Port, frame: bytes, vnet: bytes) -> None:
        for trace in tuple(self.traces):
            trace.sent(source, frame, vnet, self._lost)
        self._lost.clear()

    def _switch(self, source: Port, item: tuple[bytes, bytes], size: int) -> bool:
        table, frame = self.table, item[0]
        assert table is not None
        table.learn(frame[6:12], source)
        target = None if frame[0] & 1 else table.find(frame[:6])
        if target is None:
            taken = self._flood(source, item, size)
            table.flooded += taken
            return taken
        takers = self._observers
        for port in takers:
            if port.behind():
                return False
        if target is source:
            table.local += 1
        elif not target.full():
            takers = (target, *takers)
        elif not target.refused or len(source.peers) == 1:
            return False
        else:
            target.counters.drop("queue")
            if self.traces:
                self._lost.append((target, "queue"))
        for port in takers:
            if port is source:
                continue
            if port.full():
                port.counters.drop("queue")
                continue
            queue = port.queue
            depth = len(queue)
            queue.append(item)
            port.queued_bytes += size
            if depth >= port.counters.queue_high:
                port.counters.queue_high = depth + 1
            if not depth and not port.refused:
                self.wake(port)
        return True

    def _flood(self, source: Port, item: tuple[bytes, bytes], size: int) -> bool:
        takers = []
        full = []
        wait = taken = False
        for port in source.peers:
            if len(port.queue) >= port.queue_frames or port.queued_bytes >= port.queue_bytes:
                if not port.refused:  # it is the drain's turn, not a slow endpoint
                    return False
                full.append(port)
                wait = wait or port.member
            else:
                takers.append(port)
                taken = taken or port.member
        if wait and not taken:
            return False
        for port in takers:
            queue = port.queue
            depth = len(queue)
            queue.append(item)
            port.queued_bytes += size
            if depth >= port.counters.queue_high:
                port.counters.queue_high = depth + 1
            if not depth and not port.refused:
                self.wake(port)
        for reason, losers in (("queue", full), ("link", source.dark)):
            for port in losers:
                port.counters.drop(reason)
                if self.traces:
                    self._lost.append((port, reason))
        return True

    def forward_train(self, source: Port, train: bytes, count: int) -> bool:
        """Queue a train of ``count`` frames for all ports but ``source``, where ``source.rails``. False means
        that it was not taken.
        """
        size = len(train)
        takers, full = [], []
        taken = False
        for port in source.peers:
            if len(port.queue) >= port.queue_frames or port.queued_bytes >= port.queue_bytes:
                if not port.refused:
                    self._held[source] = None
                    return False
                full.append(port)
            else:
                takers.append(port)
                taken = taken or port.member
        if not taken and any(port.member for port in full):
            self._held[source] = None
            return False
        item = train, count
        for port in takers:
            depth = len(port.queue)
            port.queue.append(item)
            port.queued_bytes += size
            if depth >= port.counters.queue_high:
                port.counters.queue_high = depth + 1
            if not depth and not port.refused:
                self.wake(port)
        for port in full:
            port.counters.drop("queue", count)
        for port in source.dark:
            port.counters.drop("link", count)
        source.counters.tx_frames += count
        source.counters.tx_bytes += size - count * HEAD
        return True

    def wake(self, port: Port) -> None:
        """Have ``port``'s queue handed over soon."""
        self._woken[port] = None
        if not self._scheduled:
            self._ask()

    def _ask(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._schedule(self.drain)

    def drain(self) -> None:
        """Hand queued frames to their endpoints, then tell held senders where there is room again."""
        self._scheduled = False
        budget = BUDGET
        woken = self._woken
        try:
            while woken and budget > 0:
                port = next(iter(woken))
                try:
                    budget = self._drain_port(port, budget)
                finally:  # an endpoint that raises loses its turn, not its place
                    woken.pop(port, None)
                    if port.queue and not port.refused and port.hub is self:
                        woken[port] = None
                    if port.settled is not None:
                        port.settled()
            if self._held:
                self._release()
        finally:
            if woken:
                self._ask()

    def _drain_port(self, port: Port, budget: int) -> int:
        queue = port.queue
        counters = port.counters
        receive = self._traced(port) if self.traces else port.receive
        while queue and budget > 0:
            frame, vnet = item = queue.popleft()
            size = len(frame)
            port.queued_bytes -= size
            if type(vnet) is int:
                if port.train is None or self.traces:
                    pieces = [(piece, b"") for piece in cut(frame)]
                    queue.extendleft(reversed(pieces))
                    port.queued_bytes += sum(len(piece) for piece, _ in pieces)
                    continue
                budget -= 1 + size // _COST
                if port.train(frame, vnet):
                    counters.rx_frames += vnet
                    counters.rx_bytes += size - vnet * HEAD
                    continue
                self._refused(port, item)
                break
            if vnet and not offload.accepted(vnet, port.features):
                if port.wants is not None and not port.wants(frame):
                    self._drop(port, item, "filtered")
                    continue
                pieces = offload.complete(frame, vnet, port.features)
                budget -= size // _COST
                if not pieces:
                    self._drop(port, item, "malformed")
                    continue
                queue.extendleft(reversed(pieces))
                port.queued_bytes += sum(len(piece) for piece, _ in pieces)
                continue
            budget -= 1 + size // _COST
            if not receive(frame, vnet):
                self._refused(port, item)
                break
            counters.rx_frames += 1
            counters.rx_bytes += size
        return budget

    def _refused(self, port: Port, item: Item) -> None:
        """Note that the endpoint has not taken the head of its queue."""
        if port.hub is not self or not port.link:  # it unplugged itself, or pulled its cable
            self._drop(port, item, "link" if port.hub is self else "unplugged")
        else:
            port.queue.appendleft(item)
            port.queued_bytes += len(item[0])
            port.refused = True

    def _drop(self, port: Port, item: Item, reason: str) -> None:
        if type(item[1]) is int:
            port.counters.drop(reason, item[1])
            return
        port.counters.drop(reason)
        for trace in self.traces:
            trace.dropped(port, *item, reason, False)

    def _traced(self, port: Port) -> Callable[[bytes, bytes], bool]:
        """Return ``port.receive`` with a call of the traces for each frame that is taken."""

        def receive(frame: bytes, vnet: bytes) -> bool:
            taken = port.receive(frame, vnet)
            if taken:
                for trace in tuple(self.traces):
                    trace.delivered(port, frame, vnet)
            return taken

        return receive

    @staticmethod
    def _must_wait(sender: Port) -> bool:
        """Return whether a frame of ``sender`` would be refused: by a queue that waits for the drain, or by all members."""
        slow = False
        free = False
        for other in sender.peers:
            if not other.full():
                free = free or other.member
            elif not other.refused:
                return True
            else:
                slow = slow or other.member
        return slow and not free

    def _release(self) -> None:
        for port in list(self._held):
            if self._must_wait(port):
                continue
            if port in self._held:  # no callback before it has unplugged it
                del self._held[port]
                port.ready()
