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
from typing import Any

from ..contracts.host import BUSY, Address, Host, descriptor
from ..contracts.link import BLOCKED
from ..contracts.stack import Network
from ..ip.family import Family
from ..wire import checksum
from ..wire.icmp_map import unreachable_code
from ..wire.ipv4 import (
    GSO_UDP_L4,
    NET,
    PORT,
    PROHIBITED,
    PROTO_UDP,
    U16,
    UDP_CHECKSUM,
    UDP_LEN,
    UNREACHABLE,
    VNET,
    VNET_DATA_VALID,
    VNET_NEEDS_CSUM,
    ip_text,
)
from .flow import IDLE, SECOND, Flow
from .train import Train

FLOWS = 2048
SWEEP = SECOND


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
        """Tell the guest that ``sendto`` failed at once, where it is an error that ICMP knows."""
        code = unreachable_code(error)
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
        """End the flows that have been idle for too long."""
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
        """End all flows and close their sockets."""
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
