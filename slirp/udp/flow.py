"""One UDP flow: a guest's address and port, and the host socket that speaks for it."""

from __future__ import annotations

from typing import Protocol

from ..contracts.host import Address, IcmpError, UdpSocket
from ..contracts.stack import Network
from ..ip.family import Family
from ..ip.neighbours import Neighbour
from ..wire.ipv4 import U16

SECOND = 1_000_000_000
TTL = 64  # of an error that came with an unknown one
REMOTES = 256  # remembered destinations and senders of one flow
IDLE = 240 * SECOND
IDLE_DNS = 10 * SECOND
BATCH = 64
SEGMENTS = 64  # of a super-datagram: the kernel's UDP_MAX_SEGMENTS was that for long
SUPER_BYTES = 65535 - 48  # of its payload: what an IP packet with a UDP header holds, of either family
DNS_PORT = 53


class Flows(Protocol):
    """What a flow asks of the table that keeps it."""

    network: Network

    def hasten(self, due: int) -> None:
        """Look at the idle flows at ``due`` at the latest."""

    def touch(self, flow: Flow) -> None:
        """Note that the flow was used just now."""


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
        self, udp: Flows, family: Family, key: bytes, neighbour: Neighbour, port: int, now: int
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
        """Pass on all errors that wait at the host's socket."""
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
        """Send the guest an ICMP error that the host's socket has met."""
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
