"""UDP NAT: one host socket for each guest address and port, endpoint-independent (full cone: RFC 4787).

Guest to host: the stack validates the IP header, this file the UDP header and checksum (0: none; partial:
fine). Where a destination leads is asked once per flow and destination (``Network.udp_target``) and
remembered. TTL (already counted down), "don't fragment" and type of service go along. A super-datagram (USO), and datagrams in a row (``train.py``), go to
the host in one call.

Host to guest: any datagram that reaches the socket is delivered with its sender's address, mapped to what
the guest calls it (``Network.seen_as``); up to ``BATCH`` per wake-up. Longer than the MTU: the family
fragments it. Where the VLAN takes UDP segmentation (USO), datagrams in a row from one sender and of one
length leave as one super-datagram, up to ``SEGMENTS``.

Errors: what IP_RECVERR or ``sendto`` reports is told to the guest by ICMP, from the address that
complained as the guest sees it, about the datagram as the guest sent it. A guest's port unreachable goes to whom it is for
where the host permits raw sockets, and closes the flow's socket, so that the host's kernel refuses from then on, as the guest did.

A flow ends after ``IDLE`` without traffic, ``IDLE_DNS`` after an answer from port 53, or when ``FLOWS`` is
reached and it has been idle longest, also when the host has no descriptor left. Nothing of this file knows
IPv4: a ``Family`` does.

Ref: RFC 768; RFC 4787 (REQ-1, 5, 8, 9, 13); RFC 1122 4.1.3.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from typing import Any, Protocol

from ..contracts.host import Address, Host, IcmpError, UdpSocket
from ..ip.family import Family
from ..ip.neighbours import Neighbour
from ..wire import checksum
from ..wire.ipv4 import (
    GSO_UDP_L4,
    HOST,
    NET,
    PORT,
    PROHIBITED,
    PROTO_UDP,
    TOO_BIG,
    U16,
    UDP_CHECKSUM,
    UDP_LEN,
    UNREACHABLE,
    VNET,
    VNET_DATA_VALID,
    VNET_NEEDS_CSUM,
    ip_text,
)
from .train import Train

SECOND = 1_000_000_000
TTL = 64  # of an error that came with an unknown one
FLOWS = 2048
REMOTES = 256  # remembered destinations and senders of one flow
IDLE = 240 * SECOND
IDLE_DNS = 10 * SECOND
SWEEP = SECOND
BATCH = 64
SEGMENTS = 64  # of a super-datagram: the kernel's UDP_MAX_SEGMENTS was that for long
SUPER_BYTES = 65535 - 48  # of its payload: what an IP packet with a UDP header holds, of either family
DNS_PORT = 53
BLOCKED: Address = ("", 0)  # a destination that may not be reached
BUSY = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR))
_CODES = {
    errno.ECONNREFUSED: PORT,
    errno.ENETUNREACH: NET,
    errno.ENETDOWN: NET,
    errno.EHOSTUNREACH: HOST,
    errno.EHOSTDOWN: HOST,
    errno.ETIMEDOUT: HOST,
    errno.EACCES: PROHIBITED,
    errno.EPERM: PROHIBITED,
    errno.EMSGSIZE: TOO_BIG,
    errno.EAFNOSUPPORT: NET,
    errno.EADDRNOTAVAIL: NET,
}


def unreachable_code(error: int) -> int | None:
    """The code of ICMP "destination unreachable" for a host ``errno``; None: nothing to tell the guest."""
    return _CODES.get(error)


def descriptor(socket: object) -> int:
    """The descriptor behind a host socket, for ``info usernet``; -1: it has none to show."""
    fileno = getattr(socket, "fileno", None)
    return int(fileno()) if fileno is not None else -1


class Network(Protocol):
    """What the flows ask of the stack."""

    now: int

    def udp_target(self, dst: bytes, port: int) -> Address | None:
        """Where a guest's datagram goes on the host; None: refuse it; ``BLOCKED``: prohibited."""

    def seen_as(self, address: str) -> bytes | None:
        """How guests see a host address; None: it is not to be seen."""

    def count(self, reason: str) -> None:
        """Count an event."""


class Flow:
    """One guest address and port, and its host socket."""

    __slots__ = (
        "family",
        "heads",
        "idle",
        "key",
        "last",
        "neighbour",
        "port",
        "received",
        "remote",
        "remotes",
        "sent",
        "socket",
        "sources",
        "udp",
    )

    def __init__(
        self, udp: Udp, family: Family, key: bytes, neighbour: Neighbour, port: int, now: int
    ) -> None:
        self.udp = udp
        self.family = family
        self.key = key
        self.neighbour = neighbour
        self.port = port
        self.last = now
        self.idle = IDLE
        self.sent = self.received = 0
        self.remote: tuple[bytes, int] = (b"", 0)  # the last destination, for ``info usernet``
        self.remotes: dict[bytes, Address | None] = {}  # destination and port -> host address
        self.sources: dict[Address, bytes | None] = {}  # host address -> what the guest sees
        self.heads: dict[bytes, bytes] = {}  # destination and port -> headers of the first datagram there
        self.socket: UdpSocket | None = None

    def learn(self, remote: bytes, target: Address | None) -> None:
        """Remember where the destination ``remote`` (address and port) leads."""
        if len(self.remotes) >= REMOTES:
            self.remotes.clear()
            self.heads.clear()
        self.remotes[remote] = target
        self.remote = (remote[:-2], U16.unpack(remote[-2:])[0])

    def host_readable(self, now: int) -> None:
        """Datagrams or errors from the host."""
        socket = self.socket
        if socket is None:
            return
        udp = self.udp
        udp.network.now = now
        sources = self.sources
        burst = self.family.segment_limit()
        run: list[bytes] = []  # datagrams in a row that may leave as one super-datagram
        run_from: Address | None = None
        run_src = b""
        for _ in range(BATCH):
            item = socket.recv()
            if item is None:
                break
            payload, remote = item
            if run:
                if remote == run_from and len(payload) <= len(run[0]) == len(run[-1]) <= burst and payload:
                    run.append(payload)
                    continue
                self._deliver(run_src, run_from[1] if run_from is not None else 0, run)
                run = []
            try:
                src = sources[remote]
            except KeyError:
                src = self._source(remote)
            if src is None:
                udp.network.count("udp_stranger")
                continue
            if remote[1] == DNS_PORT:
                self.idle = IDLE_DNS
                udp.hasten(now + IDLE_DNS)
            self.last = now
            run_from, run_src = remote, src
            run.append(payload)
        if run:
            self._deliver(run_src, run_from[1] if run_from is not None else 0, run)
        if self.last == now:
            udp.touch(self)
        self.complaints()

    def complaints(self) -> None:
        """Errors from the host."""
        error = self.socket.error() if self.socket is not None else None
        while error is not None and self.socket is not None:
            self._error(error)
            error = self.socket.error()

    def _deliver(self, src: bytes, sport: int, run: list[bytes]) -> None:
        """Datagrams from one sender to the guest, all but the last of one length."""
        self.received += len(run)
        if len(run) == 1:
            taken = self.family.datagram(self.neighbour, src, sport, self.port, run[0])
        else:
            size = len(run[0])
            taken = True
            step = max(1, min(SEGMENTS, SUPER_BYTES // size))
            for start in range(0, len(run), step):
                part = run[start : start + step]
                if len(part) == 1:
                    done = self.family.datagram(self.neighbour, src, sport, self.port, part[0])
                else:
                    done = self.family.datagrams(self.neighbour, src, sport, self.port, b"".join(part), size)
                taken = done and taken
        if not taken:
            self.udp.network.count("udp_to_guest_dropped")

    def _source(self, remote: Address) -> bytes | None:
        if len(self.sources) >= REMOTES:
            self.sources.clear()
        seen = self.udp.network.seen_as(remote[0])
        if seen is not None and len(seen) != len(self.family.gateway):
            seen = None
        self.sources[remote] = seen
        return seen

    def _error(self, error: IcmpError) -> None:
        """Tell the guest."""
        network = self.udp.network
        dst = self.sources.get(error.remote) or self._source(error.remote)
        if dst is None or len(dst) != len(self.family.gateway):
            network.count("udp_error_dropped")
            return
        source: bytes | None = None
        if error.offender is not None:
            source = dst if error.offender == error.remote[0] else network.seen_as(error.offender)
        if source is None or len(source) != len(dst):
            source = self.family.gateway
        network.count("udp_errors")
        self.family.relayed_error(
            self.neighbour,
            source,
            error.type,
            error.code,
            error.info,
            dst,
            self.port,
            error.remote[1],
            error.payload,
            max(error.ttl - 1, 1) if error.ttl else TTL,
            self.heads.get(dst + U16.pack(error.remote[1]), b""),
        )

    def close(self) -> None:
        """Give the host socket back."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class Udp:
    """The flows of one stack."""

    def __init__(self, network: Network, host: Host, now: int) -> None:
        self.network = network
        self._host = host
        self._flows: OrderedDict[bytes, Flow] = OrderedDict()  # longest idle first
        self._sweep: int | None = None
        self.train: Train | None = None  # on: see Stack.gather

    def __len__(self) -> int:
        return len(self._flows)

    # ---- guest to host -------------------------------------------------------------------------------------

    def check(self, family: Family, frame: bytes, vnet: bytes, off: int, end: int) -> int:
        """Validate a UDP header; the end of its payload, or 0 (counted)."""
        size = end - off
        length = U16.unpack_from(frame, off + 4)[0] if size >= UDP_LEN else 0
        if length < UDP_LEN or length > size:
            self.network.count("udp_malformed")
            return 0
        end = off + length
        if (
            not (vnet and vnet[0] & (VNET_NEEDS_CSUM | VNET_DATA_VALID))
            and (frame[off + UDP_CHECKSUM : off + UDP_LEN] != b"\0\0" or family.family == 6)
            and not checksum.good(frame[off:end], family.pseudo(frame, off, end, PROTO_UDP))
        ):
            self.network.count("udp_checksum")
            return 0
        return end

    def input(
        self,
        family: Family,
        frame: bytes,
        vnet: bytes,
        off: int,
        end: int,
        how: int,
        src: bytes,
        dst: bytes,
        now: int,
    ) -> None:
        """A checked datagram ``frame[off:end]`` from ``src`` to ``dst``; ``how`` it is to leave: ``slirp.contracts.host``."""
        key = src + frame[off : off + 2]
        remote = dst + frame[off + 2 : off + 4]
        flow = self._flows.get(key)
        try:
            target = flow.remotes[remote]  # type: ignore[union-attr]
        except (KeyError, AttributeError):
            target = self.network.udp_target(dst, U16.unpack_from(frame, off + 2)[0])
            if flow is None and target is not None and target is not BLOCKED:
                flow = self._open(family, key, src, frame, off, now)
                if flow is None:
                    return
            if flow is not None:
                flow.learn(remote, target)
                flow.heads[remote] = family.headers(frame, off)
        if target is None or target is BLOCKED or flow is None:
            self.network.count("udp_refused" if target is None else "udp_prohibited")
            family.error(frame, UNREACHABLE, PORT if target is None else PROHIBITED)
            return
        flow.last = now
        flow.idle = IDLE
        self._flows.move_to_end(key)
        socket = flow.socket
        assert socket is not None
        if vnet and vnet[1] == GSO_UDP_L4:
            payload = frame[off + UDP_LEN : end]
            size = VNET.unpack(vnet)[3] or len(payload) or 1
            flow.sent += -(-len(payload) // size)
            error = socket.sendmany(payload, size, target, how)
        elif self.train is not None and self.train.start(flow, frame, vnet, off, end, target, how):
            return
        else:
            flow.sent += 1
            error = socket.sendto(frame[off + UDP_LEN : end], target, how)
        if error:
            self._failed(flow, frame, error)

    def send(self, flow: Flow, first: bytes, parts: list[bytes], target: Address, how: int) -> None:
        """Datagrams of one length and flow; ``first`` is the frame of one of them."""
        socket = flow.socket
        if socket is None:
            self.network.count("udp_send_failed")
            return
        flow.sent += len(parts)
        if len(parts) == 1:
            error = socket.sendto(parts[0], target, how)
        else:
            error = socket.sendmany(b"".join(parts), len(parts[0]), target, how)
        if error:
            self._failed(flow, first, error)

    def redirected(self, family: Family, guest: bytes, port: int, now: int) -> Flow:
        """The flow of a guest's port, made if there is none: it may have no socket yet (``forward.udp``)."""
        key = guest + U16.pack(port)
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= FLOWS:
                self._evict()
            flow = self._flows[key] = Flow(self, family, key, family.neighbour(guest), port, now)
            self.hasten(now + IDLE)
        return flow

    def _open(self, family: Family, key: bytes, src: bytes, frame: bytes, off: int, now: int) -> Flow | None:
        if len(self._flows) >= FLOWS:
            self._evict()
        flow = Flow(self, family, key, family.neighbour(src), U16.unpack_from(frame, off)[0], now)
        for _ in range(2):
            try:
                flow.socket = self._host.udp(family.family, flow)
                break
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:  # a host without IPv6
                    family.error(frame, UNREACHABLE, NET)
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS) or not self._flows:
                    break
                self._evict()
        if flow.socket is None:
            self.network.count("udp_no_socket")
            return None
        self._flows[key] = flow
        self.hasten(now + IDLE)
        return flow

    def _failed(self, flow: Flow, frame: bytes, error: int) -> None:
        """``sendto`` failed at once."""
        code = _CODES.get(error)
        if error in BUSY or code is None:
            self.network.count("udp_busy" if error in BUSY else "udp_send_failed")
            return
        self.network.count("udp_errors")
        mtu = 0
        if error == errno.EMSGSIZE and flow.socket is not None:
            mtu = flow.socket.mtu()
            flow.complaints()  # others that were met on the way
        flow.family.error(frame, UNREACHABLE, code, mtu)

    # ---- errors from a guest -------------------------------------------------------------------------------

    def guest_error(self, guest: bytes, port: int, remote: bytes, rport: int, kind: int, code: int) -> None:
        """A guest's ICMP port unreachable about a datagram of ours: its port is closed, so close ours, and pass it on."""
        flow = self._flows.get(guest + U16.pack(port))
        if flow is None or not flow.received:
            self.network.count("icmp_error_ignored")
            return
        self.network.count("udp_guest_refused")
        try:
            target = flow.remotes[remote + U16.pack(rport)]
        except KeyError:  # a stranger
            target = (ip_text(remote), rport)
        # only to who sent something: a guest's word alone lets no error out
        sent = target is not None and (target in flow.sources or type(target) is not tuple)
        if sent and target is not None and flow.socket is not None and flow.socket.refuse(target):
            self.network.count("udp_refusals_passed")
        self._end(flow)

    # ---- life of a flow ------------------------------------------------------------------------------------

    def touch(self, flow: Flow) -> None:
        """The flow was used just now."""
        if flow.key in self._flows:
            self._flows.move_to_end(flow.key)

    def _end(self, flow: Flow) -> None:
        self._flows.pop(flow.key, None)
        flow.close()

    def _evict(self) -> None:
        self.network.count("udp_evicted")
        _, flow = self._flows.popitem(last=False)
        flow.close()

    def hasten(self, deadline: int) -> None:
        """A flow may end at ``deadline``."""
        if self._sweep is None or deadline < self._sweep:
            self._sweep = deadline

    def next_deadline(self) -> int | None:
        """When a flow may have expired."""
        return self._sweep

    def run(self, now: int) -> None:
        """End idle flows."""
        if self._sweep is None or now < self._sweep:
            return
        soonest: int | None = None
        for flow in list(self._flows.values()):
            ends = flow.last + flow.idle
            if ends <= now:
                self.network.count("udp_expired")
                self._end(flow)
            elif soonest is None or ends < soonest:
                soonest = ends
        self._sweep = None if soonest is None else max(soonest, now + SWEEP)

    def ask_again(self) -> None:
        """Where destinations lead has changed: forget what is remembered of it."""
        for flow in self._flows.values():
            flow.remotes.clear()
            flow.sources.clear()

    def close(self) -> None:
        """End all flows."""
        for flow in self._flows.values():
            flow.close()
        self._flows.clear()
        self._sweep = None

    def flows(self, now: int) -> list[dict[str, Any]]:
        """Rows for ``info usernet``, newest first."""
        rows = []
        for flow in reversed(self._flows.values()):
            left = max(0, flow.last + flow.idle - now) // SECOND
            dst, port = flow.remote
            rows.append(
                {
                    "protocol": "UDP",
                    "state": f"{left} sec",
                    "fd": descriptor(flow.socket),
                    "src": ip_text(flow.neighbour.address),
                    "src_port": flow.port,
                    "dst": ip_text(dst) if dst else "*",
                    "dst_port": port,
                    "recvq": 0,
                    "sendq": 0,
                    "idle": (now - flow.last) / SECOND,
                }
            )
        return rows
