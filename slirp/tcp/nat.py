"""The TCP NAT: every guest connection ends here, and goes on as an ordinary socket of the host.

Data flow: ``input`` reads the header with one unpack, verifies the checksum unless the frame's vnet
header vouches for it, finds the flow by the twelve (IPv6: thirty-six) bytes that name it, and hands over;
see ``flow``. Super-frames are taken and sent as they are. A segment of no flow is a SYN that opens
one, or is answered by RST.

Limits (``states.Limits``): flows (beyond: the oldest TIME-WAIT makes room, else RST), TIME-WAIT flows,
windows; all bytes held by ``Buffers``. A flow that never finishes its handshake, a guest that vanished
and a closed connection each have their time-out, so that nothing is held for ever.

Timers: each flow keeps its own deadlines and at most one live entry in a heap here; entries that were
overtaken stay until they surface, and are swept when they outnumber the flows.

Ref: RFC 9293; see the tcp_* modules for the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from ipaddress import ip_address
from random import Random

from slirp.contracts.host import Host, TcpSocket
from slirp.contracts.link import VNET_DATA_VALID, VNET_NEEDS_CSUM, Link, Path, Unreachable
from slirp.tcp.buffers import Buffers
from slirp.tcp.flow import Flow
from slirp.tcp.opening import begin, connect, send_syn
from slirp.tcp.states import (
    CLOSE_WAIT,
    CONNECTING,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    NAMES,
    OPEN_WAIT,
    SQUEEZED,
    STARVED_RETRY,
    SYN_SENT,
    TIME_WAIT,
    WINDOW_SCALE,
    Limits,
)
from slirp.wire.tcp import ACK, FIN, HEADER, HEADER_LEN, PROTOCOL, RST, SYN, build, parse_options

CSUM_OK = VNET_NEEDS_CSUM | VNET_DATA_VALID


class Tcp:
    """All TCP flows of one stack. Nothing that a guest sends makes any method raise."""

    def __init__(
        self,
        link: Link,
        host: Host,
        rng: Random,
        *,
        limits: Limits | None = None,
        buffers: Buffers | None = None,
    ) -> None:
        self.link = link
        self.host = host
        self.rng = rng
        self.limits = limits or Limits()
        self.buffers = buffers or Buffers()
        self.full = False  # the wire refused a frame; tx_ready will come
        self.counters: dict[str, int] = dict.fromkeys(
            (
                "malformed",
                "bad_checksum",
                "opened",
                "refused",
                "flows_full",
                "connects_failed",
                "opens_timed_out",
                "gave_up",
                "resets_sent",
                "resets_received",
                "challenge_acks",
                "retransmits",
                "out_of_order",
                "reassembly_dropped",
                "buffers_full",
                "starved",
                "holes_given_up",
                "narrowed",
            ),
            0,
        )
        self._flows: dict[bytes, Flow] = {}
        self._waiting: dict[bytes, Flow] = {}  # to be resumed by tx_ready
        self._time_wait: dict[bytes, Flow] = {}  # oldest first
        self._heap: list[tuple[int, int, Flow]] = []
        self._pushed = 0
        self.squeezed: dict[Flow, None] = {}  # flows whose windows the shared buffers limit
        self._looked = 0  # when ``squeezed`` was looked through last
        self.batch = 0  # number of the present batch of frames; 0: the owner does not promise ``settle``
        self.gathered: dict[Flow, None] = {}  # flows that have something to do at the end of the batch

    # -- frames

    def settle(self, now: int) -> None:
        """The end of a batch of frames: what was gathered goes to the sockets, what was received is acknowledged."""
        self.batch += 1
        if self.gathered:
            flows = list(self.gathered)
            self.gathered.clear()
            for flow in flows:
                flow.settle(now)

    def input(self, frame: bytes, vnet: bytes, off: int, end: int, key: bytes, now: int) -> None:
        """One TCP packet of a guest: ``frame[off:end]``, in an IP packet that was found good.

        ``key``: source, destination and both ports as they stand in the frame. ``vnet``: its
        virtio_net_hdr or b"".
        """
        if end - off < HEADER_LEN:
            self.counters["malformed"] += 1
            return
        _, _, seq, ack, word, window, _, _ = HEADER.unpack_from(frame, off)
        data = off + ((word >> 10) & 0x3C)
        if data > end or word < 0x5000:
            self.counters["malformed"] += 1
            return
        flow = self._flows.get(key)
        if not vnet or not vnet[0] & CSUM_OK:
            length = end - off
            total = int.from_bytes(frame[off:end], "big")
            if length & 1:
                total <<= 8
            if flow is not None:
                total += flow.path.pseudo(length)
            else:
                total += self.link.pseudo(frame, off, end, PROTOCOL)
            if total % 65535:
                self.counters["bad_checksum"] += 1
                return
        if flow is not None:
            flow.input(frame, data, end, seq, ack, word, window, now)
        else:
            self._stray(frame, data, end, seq, ack, word, key, now)

    def _stray(
        self, frame: bytes, data: int, end: int, seq: int, ack: int, word: int, key: bytes, now: int
    ) -> None:
        """A segment of no flow (RFC 9293 3.10.7.1 and 3.10.7.2)."""
        if word & RST:
            return
        if word & (SYN | ACK | FIN) == SYN:
            self._open(frame, data, seq, word, key, self.rng.getrandbits(32), now)
        elif word & ACK:
            self._refuse(frame, key, ack, 0, RST)
        elif word & SYN:  # SYN and FIN: no honest stack sends that
            self.counters["malformed"] += 1
        else:
            self._refuse(frame, key, 0, seq + end - data + (word & FIN), RST | ACK)

    def _open(self, frame: bytes, data: int, seq: int, word: int, key: bytes, iss: int, now: int) -> None:
        """A SYN: find out where it goes and start the host's connect."""
        if len(self._flows) >= self.limits.flows and not self._evict():
            self.counters["flows_full"] += 1
            self._refuse(frame, key, 0, seq + 1, RST | ACK)
            return
        size = (len(key) - 4) >> 1
        try:
            targets = self.link.targets(key[size : 2 * size], key[-2] << 8 | key[-1])
        except Unreachable as why:
            self.counters["refused"] += 1
            self.link.unreachable(frame, why.code)
            return
        if not targets:
            self.counters["refused"] += 1
            self._refuse(frame, key, 0, seq + 1, RST | ACK)
            return
        flow = Flow(self, self.link.path(frame, PROTOCOL), key, CONNECTING, iss, seq, now)
        flow.targets = list(targets)
        off = data - ((word >> 10) & 0x3C)
        begin(flow, frame, parse_options(frame, off + HEADER_LEN, data), seq)
        self._flows[key] = flow
        self.counters["opened"] += 1
        connect(flow, now)

    def reopen(self, frame: bytes, data: int, seq: int, word: int, key: bytes, iss: int, now: int) -> None:
        """A SYN for a flow that was in TIME-WAIT and is forgotten already."""
        self._open(frame, data, seq, word, key, iss, now)

    def _refuse(self, frame: bytes, key: bytes, seq: int, ack: int, flags: int) -> None:
        ports = (key[-2] << 8 | key[-1]) << 16 | key[-4] << 8 | key[-3]
        self.reset(self.link.path(frame, PROTOCOL), ports, seq, ack, flags)

    def reset(self, path: Path, ports: int, seq: int, ack: int, flags: int) -> None:
        """Send a RST that belongs to no flow. If the wire is full it is lost: the guest will ask again."""
        self.counters["resets_sent"] += 1
        self.link.send(*build(path, self.link.features, ports, seq, ack, flags, 0))

    # -- connections to the guest

    def open(self, sock: TcpSocket, path: Path, key: bytes, now: int, wait: int = OPEN_WAIT) -> Flow | None:
        """Connect an accepted host socket to the guest (host forwarding).

        ``key`` is that of the guest's frames: guest address, our address, guest port, our port. Returns
        the receiver of the socket's events; None when the flow exists or there is no room (the socket
        stays the caller's). A guest that does not answer within ``wait`` ns: both sides are reset.
        """
        if key in self._flows or (len(self._flows) >= self.limits.flows and not self._evict()):
            self.counters["flows_full"] += 1
            return None
        flow = Flow(self, path, key, SYN_SENT, self.rng.getrandbits(32), 0, now)
        flow.sock = sock
        flow.sack_ok = True
        flow.rcv.nxt = flow.rcv.adv = 0
        flow.rcv.scale = WINDOW_SCALE
        self._flows[key] = flow
        self.counters["opened"] += 1
        flow.live(now + wait)
        send_syn(flow, now)
        return flow

    def too_big(self, key: bytes, mtu: int, now: int) -> None:
        """The way to a guest carries packets of ``mtu`` bytes only: shorter segments from now on, what is out goes again."""
        flow = self._flows.get(key)
        if flow is not None and flow.narrow(mtu, now):
            self.counters["narrowed"] += 1

    def __contains__(self, key: bytes) -> bool:
        """Whether a flow has that key: for the choice of a port."""
        return key in self._flows

    def __len__(self) -> int:
        return len(self._flows)

    # -- bookkeeping of flows

    def forget(self, flow: Flow) -> None:
        """Remove a flow that is over from all tables."""
        key = flow.key
        if self._flows.get(key) is flow:
            del self._flows[key]
            self._waiting.pop(key, None)
            self._time_wait.pop(key, None)
            self.squeezed.pop(flow, None)

    def hold(self, flow: Flow) -> None:
        """The wire is full: ``tx_ready`` will resume the flow."""
        self.full = True
        self._waiting[flow.key] = flow

    def time_wait(self, flow: Flow) -> None:
        """The flow is in TIME-WAIT; beyond the limit the oldest goes."""
        self._time_wait[flow.key] = flow
        if len(self._time_wait) > self.limits.time_wait_flows:
            self._evict()

    def _evict(self) -> bool:
        """Make room: the oldest TIME-WAIT goes."""
        for flow in self._time_wait.values():
            flow.drop()
            return True
        return False

    # -- time

    def push(self, at: int, flow: Flow) -> None:
        """Note that ``flow.timers`` is to be called at ``at``."""
        heap = self._heap
        if len(heap) > 2 * len(self._flows) + 64:
            heap = self._heap = [
                (each.due, i, each) for i, each in enumerate(self._flows.values()) if each.due
            ]
            heapify(heap)
            self._pushed = len(heap)
        self._pushed += 1
        heappush(heap, (at, self._pushed, flow))

    def next_deadline(self) -> int | None:
        """When ``run`` is to be called, in ns; None: no need."""
        heap = self._heap
        while heap and heap[0][2].due != heap[0][0]:
            heappop(heap)
        at = heap[0][0] if heap else None
        if self.squeezed:
            look = self._looked + STARVED_RETRY
            return look if at is None or look < at else at
        return at

    def run(self, now: int) -> None:
        """Run the timers of all flows that are due."""
        while self._heap and self._heap[0][0] <= now:
            at, _, flow = heappop(self._heap)
            if flow.due == at:
                flow.due = 0
                flow.timers(now)
        if self.squeezed and self._looked + STARVED_RETRY <= now:
            self._looked = now
            self._relax(now)

    def _relax(self, now: int) -> None:
        """Tell guests whose windows the shared buffers had limited that there is room again."""
        for _ in range(min(SQUEEZED, len(self.squeezed))):
            flow = next(iter(self.squeezed))
            del self.squeezed[flow]
            flow.rcv.squeezed = False
            if flow.state in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2):
                if flow.rcv.update_due():
                    flow.ack_now(now)
                if flow.rcv.squeezed and flow.rcv.wants():  # still: the others first
                    self.squeezed[flow] = None

    def tx_ready(self, now: int) -> None:
        """The link takes frames again."""
        self.full = False
        waiting, self._waiting = self._waiting, {}
        for key, flow in waiting.items():
            if self.full:
                self._waiting.setdefault(key, flow)
            else:
                flow.resume(now)

    # -- reports

    def flows(self) -> Iterator[dict[str, object]]:
        """What ``info usernet`` shows, newest first: texts and ints."""
        for key, flow in reversed(self._flows.items()):
            size = (len(key) - 4) >> 1
            snd, rcv = flow.snd, flow.rcv
            yield {
                "protocol": "tcp",
                "state": NAMES[flow.state],
                "src": (str(ip_address(key[:size])), key[-4] << 8 | key[-3]),
                "dst": (str(ip_address(key[size : 2 * size])), key[-2] << 8 | key[-1]),
                "host": flow.targets[0] if flow.targets else None,
                "socket": flow.sock,
                "seen": flow.seen,
                "recvq": len(rcv.pending or b"") + (len(rcv.ooo) if rcv.ooo else 0),
                "sendq": max(0, snd.end - max(snd.una, snd.base)),
            }

    def close(self, now: int) -> None:
        """End everything: RST to every guest and host; a host to which the guest has ended in order gets FIN."""
        for flow in list(self._flows.values()):
            if flow.state == CLOSE_WAIT and flow.rcv.pending is None and flow.sock is not None:
                flow.sock.close()
                flow.sock = None
            flow.abort(flow.state != TIME_WAIT)
        self._heap.clear()
        self._waiting.clear()
