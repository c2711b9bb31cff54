"""The receiving half of one flow: data from the guest to the host.

In-order data goes straight to the host socket; in a batch of frames (``Tcp.settle``) only the first piece does, further
short ones leave with its end, in one call. What the socket does not take waits in ``pending`` (one
bytearray, so that a guest's small segments cost no objects); what came ahead of a hole waits in ``ooo``.
The window offered is what is left of ``limit`` behind ``pending``; its right edge never moves back but
for the rounding of the window scale (RFC 7323 2.4: what was once offered is accepted). ``limit`` starts
at 256 KiB and doubles when two windows' worth has come in and the host keeps up.

Ref: RFC 9293 3.8.6 (window, silly window avoidance, delayed ACK).
"""

from __future__ import annotations

from slirp.tcp.buffers import Buffers
from slirp.tcp.reassembly import Reassembly
from slirp.tcp.states import SCANTY, WINDOW_INITIAL


class Receiver:
    """The receive side of a connection: RCV.* of RFC 9293."""

    __slots__ = (
        "ack_at",
        "adv",
        "batch",
        "buffers",
        "fin",
        "grown",
        "hole_at",
        "limit",
        "mark",
        "nxt",
        "ooo",
        "owed",
        "pending",
        "scale",
        "squeezed",
        "step",
        "urg",
    )

    def __init__(self, buffers: Buffers, nxt: int, window_max: int, mss: int) -> None:
        self.buffers = buffers
        self.nxt = nxt
        self.adv = nxt  # right edge offered so far
        self.limit = min(WINDOW_INITIAL, window_max)
        self.step = min(mss, self.limit >> 1)  # least move of the right edge
        self.scale = 0
        self.grown = 0  # in-order bytes since limit last changed
        self.pending: bytearray | None = None
        self.ooo: Reassembly | None = None
        self.fin = -1  # sequence number of a FIN that came ahead of a hole
        self.ack_at = 0  # delayed ACK deadline, 0: none owed
        self.batch = 0  # the batch of frames in which the socket got something last
        self.owed = 0  # bytes not acknowledged yet
        self.urg = -1  # sequence number behind an urgent byte that is to come
        self.mark = 0  # the urgent byte of ``pending`` is that one, counted from 1; 0: none
        self.hole_at = 0  # when what waits in ``ooo`` is given up
        self.squeezed = False  # the shared buffers, not the flow, limit the window that was offered last

    def edge(self) -> int:
        """The right edge that could be offered now."""
        pending = self.pending
        limit = self.limit
        room = self.buffers.room()
        if pending:
            limit -= len(pending)
        if limit <= room:
            return self.nxt + limit
        self.squeezed = True
        return self.nxt + room

    def window(self) -> int:
        """The window field to send; notes the edge."""
        self.squeezed = False
        edge = self.edge()
        if edge < self.adv + self.step:
            edge = self.adv
            if edge < self.nxt:
                edge = self.nxt
        field = (edge - self.nxt) >> self.scale
        if field > 65535:
            field = 65535
        edge = self.nxt + (field << self.scale)
        if edge > self.adv:
            self.adv = edge
        return field

    def update_due(self) -> bool:
        """Whether the edge can move far enough to tell the guest unasked."""
        gain = self.edge() - self.adv
        return gain >= self.limit >> 1 or (gain >= 2 * self.step and self.adv - self.nxt < self.limit >> 2)

    def wants(self) -> bool:
        """Whether so little of the window is left that the guest has to be told when there is room again."""
        return self.adv - self.nxt < min(self.limit >> 2, SCANTY)

    def grow(self, count: int, window_max: int) -> None:
        """``count`` more bytes went straight through; a busy flow gets a larger window."""
        self.grown += count
        if self.grown > self.limit << 1:
            self.grown = 0
            self.limit = min(self.limit << 1, window_max)

    def hold(self, data: bytes | memoryview) -> None:
        """Keep bytes for the host socket."""
        if self.pending is None:
            self.pending = bytearray()
        self.pending += data
        self.buffers.used += len(data)

    def clear(self) -> None:
        """Free all buffered data and stop the delayed ACK."""
        if self.pending is not None:
            self.buffers.used -= len(self.pending)
            self.pending = None
        self.give_up()
        self.ack_at = 0
        self.mark = 0

    def give_up(self) -> None:
        """Forget what waits behind a hole (RFC 2018 8 permits it)."""
        self.hole_at = 0
        if self.ooo is not None:
            self.ooo.clear()
            self.ooo = None
