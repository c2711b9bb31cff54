"""The host's echo requests: ``slirp.contracts.host.EchoSocket`` by ping sockets, or by a raw socket where those are not permitted.

Ping sockets (SOCK_DGRAM with IPPROTO_ICMP) are one for each guest and identifier. The kernel hands each only its own
replies and writes identifier and checksum itself; ``net.ipv4.ping_group_range`` says who may have them. Where it does not,
and the process has CAP_NET_RAW, all flows of a family share one raw socket (``RawEchoes``), which hears the replies of the
whole host: a flow gets those of its identifier from remotes that it wrote to. The guest's identifier is kept on the wire
where nobody else has it.

Limits: ``INBOX`` replies and ``REMOTES`` remotes of one flow on a raw socket; ``BATCH`` messages a wake-up.

Ref: icmp(7); raw(7); RFC 792; RFC 4443; RFC 5508 (NAT of ICMP).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections import deque
from typing import Protocol

from ..contracts.host import Echo, IcmpError, UdpEvents
from ..wire.checksum import checksum
from ..wire.ipv4 import ECHO_REPLY, ECHO_REPLY_6, ECHO_REQUEST, ECHO_REQUEST_6, ICMP, ICMP_LEN, U16
from .errors import SOFT, ErrorQueue, ErrorSocket, apply, hops, listen_for_errors
from .socket_set import SocketSet

BATCH = 64
INBOX = 256
REMOTES = 256
MESSAGE = 65536
CONTROL = 256
BUFFER = 1 << 20
_IN = select.EPOLLIN
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1
_IP_RECVTOS, _IPV6_RECVTCLASS, _IPV6_TCLASS = 13, 66, 67
_FILTER = struct.Struct("=I")
_TOS = ((socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, _IPV6_TCLASS))


class EchoEndpoint(Protocol):
    """What both kinds offer (``slirp.contracts.host.EchoSocket``)."""

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""

    def send(self, seq: int, data: bytes, remote: str, how: int = 64) -> int:
        """0, or errno."""

    def mtu(self) -> int:
        """What the last refusal as too long did not keep."""

    def recv(self) -> Echo | None:
        """One reply."""

    def error(self) -> IcmpError | None:
        """One error."""

    def close(self) -> None:
        """Give it back."""


def _socket(host: SocketSet, family: int, kind: int) -> socket.socket:
    """An ICMP socket of the family 4 or 6. Raises OSError."""
    where, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if family == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    sock = socket.socket(where, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        host.affords(sock.fileno())
        listen_for_errors(sock, family)
        if family == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVTCLASS, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    except BaseException:
        sock.close()
        raise
    return sock


def _request(family: int, ident: int, seq: int, data: bytes) -> bytes:
    """An echo request; the kernel sums those of IPv6."""
    rest = ident << 16 | seq
    if family == 6:
        return ICMP.pack(ECHO_REQUEST_6, 0, 0, rest) + data
    message = ICMP.pack(ECHO_REQUEST, 0, 0, rest) + data
    return ICMP.pack(ECHO_REQUEST, 0, checksum(message), rest) + data


def _send(sock: socket.socket, message: bytes, remote: str) -> int:
    error = 0
    for _ in range(2):
        try:
            sock.sendto(message, (remote, 0))
            return 0
        except OSError as failure:
            error = failure.errno or errno.EIO
            if error not in SOFT:  # else perhaps the report of an earlier request: once more
                return error
    return error


def _receive(sock: socket.socket) -> tuple[bytes, str, int, int] | None:
    """A message, its sender, TTL and type of service; None: nothing now."""
    for _ in range(4):
        try:
            message, control, _, address = sock.recvmsg(MESSAGE, CONTROL)
        except OSError as failure:
            if failure.errno in SOFT:
                continue
            return None
        tos = next((data[0] for level, kind, data in control if (level, kind) in _TOS and data), 0)
        return message, str(address[0]), hops(control), tos
    return None


def _echo(family: int, message: bytes, remote: str, ttl: int, tos: int) -> tuple[int, Echo] | None:
    """Identifier and contents of an echo reply; None: it is none."""
    if len(message) < ICMP_LEN or message[0] != (ECHO_REPLY if family == 4 else ECHO_REPLY_6) or message[1]:
        return None
    _, _, _, rest = ICMP.unpack_from(message)
    return rest >> 16, Echo(rest & 0xFFFF, message[ICMP_LEN:], remote, ttl, tos)


class HostEcho(ErrorSocket):
    """A ping socket of its own. Raises PermissionError where the host permits none."""

    __slots__ = ("_family", "_how", "born")

    def __init__(self, host: SocketSet, family: int, ident: int, events: UdpEvents) -> None:
        self._sock = sock = _socket(host, family, socket.SOCK_DGRAM)
        self._host = host
        self._events = events
        self._family = family
        self._how = -1
        self._errors = ErrorQueue(sock)
        try:
            try:
                sock.bind(("", ident))
            except OSError:  # somebody on this host has that identifier
                sock.bind(("", 0))
        except BaseException:
            sock.close()
            raise
        self._fd = sock.fileno()
        self.born = host.enter(self._fd, self)
        host.register(self._fd, _IN)

    def send(self, seq: int, data: bytes, remote: str, how: int = 64) -> int:
        """0, or errno."""
        if self._fd < 0:
            return errno.EBADF
        try:
            if how != self._how:
                apply(self._sock, self._family, self._how, how)
                self._how = how
        except OSError as failure:
            return failure.errno or errno.EIO
        return _send(self._sock, _request(self._family, 0, seq, data), remote)

    def recv(self) -> Echo | None:
        """One reply; None: nothing now."""
        while self._fd >= 0:
            found = _receive(self._sock)
            if found is None:
                return None
            echo = _echo(self._family, *found)
            if echo is not None:
                return echo[1]
        return None


class RawEcho:
    """One flow's share of a raw socket."""

    __slots__ = ("_hub", "errors", "events", "ident", "inbox", "remotes")

    def __init__(self, hub: RawEchoes, ident: int, events: UdpEvents) -> None:
        self._hub: RawEchoes | None = hub
        self.ident = ident
        self.events = events
        self.remotes: dict[str, None] = {}
        self.inbox: deque[Echo] = deque(maxlen=INBOX)
        self.errors: deque[IcmpError] = deque(maxlen=INBOX)

    def fileno(self) -> int:
        """Of the raw socket; -1 when closed."""
        return self._hub.fileno() if self._hub is not None else -1

    def send(self, seq: int, data: bytes, remote: str, how: int = 64) -> int:
        """0, or errno."""
        if self._hub is None:
            return errno.EBADF
        if remote not in self.remotes:
            if len(self.remotes) >= REMOTES:
                del self.remotes[next(iter(self.remotes))]
            self.remotes[remote] = None
        return self._hub.send(self.ident, seq, data, remote, how)

    def mtu(self) -> int:
        """What the last refusal as too long did not keep; 0: unknown."""
        return self._hub.mtu() if self._hub is not None else 0

    def recv(self) -> Echo | None:
        """One reply; None: nothing now."""
        return self.inbox.popleft() if self.inbox else None

    def error(self) -> IcmpError | None:
        """One error; None: none."""
        return self.errors.popleft() if self.errors else None

    def close(self) -> None:
        """Give it back; the last one closes the socket."""
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.leave(self.ident)


class RawEchoes:
    """The raw socket of a family. ``registry`` forgets it when the last flow is over."""

    def __init__(self, host: SocketSet, family: int, registry: dict[int, RawEchoes]) -> None:
        self._sock = sock = _socket(host, family, socket.SOCK_RAW)
        self._family = family
        self._host = host
        self._registry = registry
        self._how = -1
        self._errors = ErrorQueue(sock)
        self._flows: dict[int, RawEcho] = {}
        if family == 4:  # a set bit keeps a type out
            sock.setsockopt(_SOL_RAW, _ICMP_FILTER, _FILTER.pack(0xFFFFFFFF ^ 1 << ECHO_REPLY))
        else:
            words = [0xFFFFFFFF] * 8
            words[ECHO_REPLY_6 >> 5] ^= 1 << (ECHO_REPLY_6 & 31)
            sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *words))
        self._fd = sock.fileno()
        self.born = host.enter(self._fd, self)
        host.register(self._fd, _IN)

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""
        return self._fd

    def endpoint(self, ident: int, events: UdpEvents) -> RawEcho:
        """A flow; another identifier where that one is taken."""
        while ident in self._flows:
            ident = int.from_bytes(os.urandom(2), "big")
        found = self._flows[ident] = RawEcho(self, ident, events)
        return found

    def leave(self, ident: int) -> None:
        """A flow is over."""
        del self._flows[ident]
        if not self._flows:
            self._host.leave(self._fd)
            self._fd = -1
            self._registry.pop(self._family, None)
            self._sock.close()

    def send(self, ident: int, seq: int, data: bytes, remote: str, how: int) -> int:
        """0, or errno."""
        try:
            if how != self._how:
                apply(self._sock, self._family, self._how, how)
                self._how = how
        except OSError as failure:
            return failure.errno or errno.EIO
        return _send(self._sock, _request(self._family, ident, seq, data), remote)

    def mtu(self) -> int:
        """What the last refusal as too long did not keep; 0: unknown."""
        return self._errors.mtu()

    def event(self, events: int, now: int) -> None:
        """From the epoll set: to each flow what is its own."""
        if events & select.EPOLLERR:
            self._errors.ready = True
        heard: dict[int, RawEcho] = {}
        for _ in range(BATCH):
            found = _receive(self._sock)
            if found is None:
                break
            message, remote, ttl, tos = found
            if self._family == 4:  # raw(7): with its IP header
                message = message[(message[0] & 15) << 2 :] if message else b""
            echo = _echo(self._family, message, remote, ttl, tos)
            flow = self._flows.get(echo[0]) if echo is not None else None
            if echo is not None and flow is not None and remote in flow.remotes:
                flow.inbox.append(echo[1])
                heard[flow.ident] = flow
        error = self._errors.next()
        while error is not None:
            if len(error.payload) >= ICMP_LEN:
                flow = self._flows.get(U16.unpack_from(error.payload, 4)[0])
                if flow is not None and error.remote[0] in flow.remotes:
                    flow.errors.append(error)
                    heard[flow.ident] = flow
            error = self._errors.next()
        for flow in heard.values():
            flow.events.host_readable(now)
