"""Echo requests of guests to the world: NAT of ICMP queries by the host's own ping or raw sockets.

A flow is one guest address and identifier, and has one host socket (``slirp.contracts.host.EchoSocket``). Sequence number, payload,
TTL (less our hop), "don't fragment" and type of service go along; replies come back with what they had, TTL less one.
The guest sees its own identifier, whatever the host had free.

Errors that come back (time exceeded, unreachable, too big) go to the guest from the address that sent them, with the
guest's own packet in them: the beginnings of the last ``QUOTES`` requests of a flow are kept for that.

Nothing is invented: where the host permits no echo, the guest hears "administratively prohibited" from us, and the owner is
told once (``Network.tell``).

Limits: ``FLOWS``, the longest idle goes; ``QUOTES`` of ``QUOTE`` bytes each a flow. Timers: a flow ends ``IDLE`` after its
last packet.

Ref: RFC 792; RFC 4443; RFC 5508 (REQ-1: 60 s; REQ-3 to 5: errors; REQ-10: identifiers).
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from typing import Any, Protocol

from ..contracts.host import BUSY, Address, EchoSocket, Host, IcmpError, descriptor
from ..contracts.link import BLOCKED
from ..ip.family import Family
from ..ip.neighbours import Neighbour
from ..wire.icmp_map import unreachable_code
from ..wire.ipv4 import ICMP, ICMP_LEN, IP, NET, PROHIBITED, U16, UNREACHABLE, ip_text

SECOND = 1_000_000_000
FLOWS = 256
IDLE = 60 * SECOND
SWEEP = SECOND
BATCH = 64
QUOTES = 128
QUOTE = 128
REMOTES = 256  # remembered destinations of one flow
TTL = 64  # of what came with an unknown one
NO_ECHO = (
    "guests cannot ping the world: this host permits neither ping sockets (net.ipv4.ping_group_range) "
    "nor raw ones (CAP_NET_RAW)"
)


class Network(Protocol):
    """What the flows ask of the stack."""

    now: int

    def echo_target(self, dst: bytes) -> Address | None:
        """Where a guest's echo request goes; None: refuse it; ``BLOCKED``: prohibited."""

    def seen_as(self, address: str) -> bytes | None:
        """How guests see a host address; None: it is not to be seen."""

    def count(self, reason: str) -> None:
        """Count an event."""

    def tell(self, text: str) -> None:
        """Tell the owner, once."""


class Flow:
    """One guest address and identifier."""

    __slots__ = (
        "echoes",
        "family",
        "ident",
        "key",
        "last",
        "neighbour",
        "quotes",
        "remote",
        "socket",
        "targets",
    )

    def __init__(
        self, echoes: Echoes, family: Family, key: bytes, neighbour: Neighbour, ident: int, now: int
    ) -> None:
        self.echoes = echoes
        self.family = family
        self.key = key
        self.neighbour = neighbour
        self.ident = ident
        self.last = now
        self.remote = b""  # the last destination, for ``info usernet``
        self.targets: dict[bytes, Address] = {}  # destinations that were permitted
        self.quotes: dict[bytes, bytes] = {}  # destination and sequence number -> how the request began
        self.socket: EchoSocket | None = None

    def host_readable(self, now: int) -> None:
        """Replies or errors from the host."""
        network = self.echoes.network
        network.now = now
        for _ in range(BATCH):
            echo = self.socket.recv() if self.socket is not None else None
            if echo is None:
                break
            src = network.seen_as(echo.remote)
            if src is None or len(src) != len(self.family.gateway):
                network.count("icmp_stranger")
                continue
            self.echoes.touch(self, now)
            ttl = max(echo.ttl - 1, 1) if echo.ttl else TTL
            network.count("icmp_echo_replies")
            self.family.echo_reply(self.neighbour, src, self.ident, echo.seq, echo.data, ttl, echo.tos & 0xFC)
        self.complaints()

    def complaints(self) -> None:
        """Errors from the host."""
        error = self.socket.error() if self.socket is not None else None
        while error is not None and self.socket is not None:
            self._error(error)
            error = self.socket.error()

    def _error(self, error: IcmpError) -> None:
        network = self.echoes.network
        size = len(self.family.gateway)
        dst = network.seen_as(error.remote[0])
        quote = None
        if dst is not None and len(error.payload) >= ICMP_LEN:
            quote = self.quotes.get(dst + error.payload[6:8])
        if dst is None or quote is None:
            network.count("icmp_error_dropped")
            return
        source: bytes | None = None
        if error.offender is not None:
            source = dst if error.offender == error.remote[0] else network.seen_as(error.offender)
        if source is None or len(source) != size:
            source = self.family.gateway
        network.count("icmp_errors_relayed")
        ttl = max(error.ttl - 1, 1) if error.ttl else TTL
        self.family.echo_error(self.neighbour, source, error.type, error.code, error.info, quote, ttl)

    def close(self) -> None:
        """Give the host socket back."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class Echoes:
    """The echo flows of one stack, of both families."""

    def __init__(self, network: Network, host: Host) -> None:
        self.network = network
        self._host = host
        self._flows: OrderedDict[bytes, Flow] = OrderedDict()  # longest idle first
        self._sweep: int | None = None

    def __len__(self) -> int:
        return len(self._flows)

    # ---- guest to host -------------------------------------------------------------------------------------

    def request(
        self, family: Family, frame: bytes, off: int, end: int, how: int, src: bytes, dst: bytes, now: int
    ) -> None:
        """A checked echo request ``frame[off:end]``; ``how`` it is to leave: ``slirp.contracts.host``."""
        network = self.network
        _, _, _, rest = ICMP.unpack_from(frame, off)
        key = src + U16.pack(rest >> 16)
        flow = self._flows.get(key)
        target = flow.targets.get(dst) if flow is not None else None
        if target is None:
            target = network.echo_target(dst)
            if target is None or target is BLOCKED:
                network.count("icmp_prohibited")
                family.error(frame, UNREACHABLE, PROHIBITED)
                return
            if flow is None:
                flow = self._open(family, key, src, frame, rest >> 16, now)
            if flow is None:
                return
            if len(flow.targets) >= REMOTES:
                flow.targets.clear()
            flow.targets[dst] = target
        assert flow is not None
        self.touch(flow, now)
        seq = rest & 0xFFFF
        name = dst + U16.pack(seq)
        quotes = flow.quotes
        quotes.pop(name, None)
        if len(quotes) >= QUOTES:
            del quotes[next(iter(quotes))]
        quotes[name] = frame[IP : min(end, IP + QUOTE)]
        flow.remote = dst
        assert flow.socket is not None
        error = flow.socket.send(seq, frame[off + ICMP_LEN : end], target[0], how)
        if error:
            self._failed(flow, frame, error)

    def _open(
        self, family: Family, key: bytes, src: bytes, frame: bytes, ident: int, now: int
    ) -> Flow | None:
        network = self.network
        if len(self._flows) >= FLOWS:
            self._evict()
        flow = Flow(self, family, key, family.neighbour(src), ident, now)
        for _ in range(2):
            try:
                flow.socket = self._host.echo(family.family, ident, flow)
                break
            except PermissionError:
                network.count("icmp_echo_not_carried")
                network.tell(NO_ECHO)
                family.error(frame, UNREACHABLE, PROHIBITED)
                return None
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:  # a host without IPv6
                    family.error(frame, UNREACHABLE, NET)
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS) or not self._flows:
                    break
                self._evict()
        if flow.socket is None:
            network.count("icmp_no_socket")
            return None
        self._flows[key] = flow
        if self._sweep is None:
            self._sweep = now + IDLE
        return flow

    def _failed(self, flow: Flow, frame: bytes, error: int) -> None:
        """The request could not be sent."""
        code = unreachable_code(error)
        if error in BUSY or code is None:
            self.network.count("icmp_send_failed")
            return
        mtu = 0
        if error == errno.EMSGSIZE and flow.socket is not None:
            mtu = flow.socket.mtu()
            flow.complaints()  # others that were met on the way
        self.network.count("icmp_errors_relayed")
        flow.family.error(frame, UNREACHABLE, code, mtu)

    # ---- life of a flow ------------------------------------------------------------------------------------

    def touch(self, flow: Flow, now: int) -> None:
        """The flow is in use."""
        flow.last = now
        if flow.key in self._flows:
            self._flows.move_to_end(flow.key)

    def _evict(self) -> None:
        self.network.count("icmp_evicted")
        _, flow = self._flows.popitem(last=False)
        flow.close()

    def next_deadline(self) -> int | None:
        """When a flow may have expired."""
        return self._sweep

    def run(self, now: int) -> None:
        """End idle flows."""
        if self._sweep is None or now < self._sweep:
            return
        while self._flows:
            flow = next(iter(self._flows.values()))
            if flow.last + IDLE > now:
                self._sweep = max(flow.last + IDLE, now + SWEEP)
                return
            del self._flows[flow.key]
            flow.close()
        self._sweep = None

    def ask_again(self) -> None:
        """What is permitted has changed: forget what is remembered of it."""
        for flow in self._flows.values():
            flow.targets.clear()

    def close(self) -> None:
        """End all flows."""
        for flow in self._flows.values():
            flow.close()
        self._flows.clear()
        self._sweep = None

    def flows(self, now: int) -> list[dict[str, Any]]:
        """Rows for ``info usernet``, newest first."""
        return [
            {
                "protocol": "ICMP",
                "state": f"{max(0, flow.last + IDLE - now) // SECOND} sec",
                "fd": descriptor(flow.socket),
                "src": ip_text(flow.neighbour.address),
                "src_port": flow.ident,
                "dst": ip_text(flow.remote),
                "dst_port": flow.ident,
                "recvq": 0,
                "sendq": 0,
                "idle": (now - flow.last) / SECOND,
            }
            for flow in reversed(self._flows.values())
        ]
