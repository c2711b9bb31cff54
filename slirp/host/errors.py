"""What comes back for datagrams (the error queue of IP_RECVERR), and how they leave (TTL, DF, type of service).

``ErrorQueue`` reads MSG_ERRQUEUE of one socket. An entry of ICMP origin is what a router or host on the way sent; one of
local origin that says "too long" belongs to the send that has just failed, which asks ``mtu()``.

``apply`` sets a socket's options for the ``how`` of ``slirp.contracts.host``, those that differ from the last ones only. Where the
guest forbids fragments, PMTUDISC_PROBE sets DF and leaves the discovery of the path MTU to the guest: the kernel
refuses only what its own interface cannot carry, as a router would. Where it permits them, PMTUDISC_DONT leaves DF away
and cuts.

Ref: ip(7), ipv6(7); Linux uapi/linux/errqueue.h; RFC 1191; RFC 8201.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections import deque

from ..contracts.host import NO_FRAGMENT, Address, IcmpError, UdpEvents
from ..wire.checksum import checksum
from ..wire.icmp_map import PORT6, UNREACHABLE6, to_6
from ..wire.ipv4 import ICMP, IPV4, IPV4_LEN, PORT, PROTO_UDP, UDP, UDP_LEN, UNREACHABLE
from ..wire.ipv6 import IPV6, VERSION
from .socket_set import HostSocket, sockaddr, spelled

ERROR_PAYLOAD = 2048
KEPT = 64  # errors read while an MTU was looked for

_IP_RECVERR = 11
_IP_RECVTTL = 12
_IPV6_RECVERR = 25
_IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT = 51, 52
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_PMTUDISC_DONT, _PMTUDISC_PROBE = 0, 3
_MSG_ERRQUEUE = 0x2000
_EXTENDED_ERROR = struct.Struct("=IBBBBII")  # struct sock_extended_err
_INT = struct.Struct("=i")
_ORIGIN_LOCAL, _ORIGIN_ICMP, _ORIGIN_ICMP6 = 1, 2, 3
_HOPS = ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, _IPV6_HOPLIMIT))
# What a local error (no ICMP involved) would have been as ICMP type and code.
_LOCAL_CODES = {
    errno.ENETUNREACH: (3, 0),
    errno.EHOSTUNREACH: (3, 1),
    errno.ECONNREFUSED: (3, 3),
    errno.EMSGSIZE: (3, 4),
    errno.EACCES: (3, 13),
}
# On a socket: the report of an earlier datagram, perhaps.
SOFT = frozenset(
    (
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EMSGSIZE,
        errno.EACCES,
        errno.EOPNOTSUPP,
    )
)


def listen_for_errors(sock: socket.socket, family: int, on: bool = True) -> None:
    """Have the kernel queue ICMP errors, with their TTL."""
    if family == 4:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, on)
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, on)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, on)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT, on)


def hops(control: list[tuple[int, int, bytes]]) -> int:
    """The TTL or hop limit among a message's control data; 0: it is not there."""
    for level, kind, data in control:
        if (level, kind) in _HOPS and len(data) >= _INT.size:
            return int(_INT.unpack_from(data)[0])
    return 0


def apply(sock: socket.socket, family: int, old: int, how: int) -> None:
    """Set what ``how`` has otherwise than ``old`` (-1: nothing is known). Raises OSError."""
    changed = old ^ how if old >= 0 else -1
    ip = family == 4
    if changed & 0xFF:
        if ip:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, how & 0xFF)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, how & 0xFF)
    if changed & NO_FRAGMENT:
        mode = _PMTUDISC_PROBE if how & NO_FRAGMENT else _PMTUDISC_DONT
        if ip:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, mode)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, mode)
    if changed >> 16:
        if ip:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, how >> 16)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, how >> 16)


def local_towards(family: int, remote: Address) -> str:
    """This host's address on the way to ``remote``. Raises OSError."""
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind) as probe:
        probe.connect(sockaddr(remote))
        return str(probe.getsockname()[0])


def refuse(family: int, remote: Address, local: str, port: int) -> bool:
    """Send ``remote`` the ICMP error about its UDP datagram to ``local``: nobody is at ``port``. False: not permitted.

    The kernel sends one for its own closed ports; this one is for a guest's, and takes CAP_NET_RAW."""
    ports = UDP.pack(remote[1], port, UDP_LEN, 0)
    try:
        if family == 4:
            source, dst = (socket.inet_pton(socket.AF_INET, text) for text in (remote[0], local))
            header = IPV4.pack(0x45, 0, IPV4_LEN + UDP_LEN, 0, 0, 64, PROTO_UDP, 0, source, dst)
            header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
            message = ICMP.pack(UNREACHABLE, PORT, 0, 0) + header + ports
            message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
            kind, protocol = socket.AF_INET, socket.IPPROTO_ICMP
        else:
            source, dst = (
                socket.inet_pton(socket.AF_INET6, text.partition("%")[0]) for text in (remote[0], local)
            )
            header = IPV6.pack(VERSION, UDP_LEN, PROTO_UDP, 64, source, dst)
            message = ICMP.pack(UNREACHABLE6, PORT6, 0, 0) + header + ports  # the kernel sums it
            kind, protocol = socket.AF_INET6, socket.IPPROTO_ICMPV6
        with socket.socket(
            kind, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol
        ) as sock:
            sock.sendto(message, sockaddr((remote[0], 0)))
    except OSError:
        return False
    return True


class QueuedError:
    """An entry of a socket's error queue (``slirp.contracts.host.IcmpError``)."""

    __slots__ = ("code", "errno", "info", "local", "offender", "payload", "remote", "ttl", "type")

    def __init__(
        self,
        number: int,
        kind: int,
        code: int,
        info: int,
        offender: str | None,
        remote: Address,
        payload: bytes,
        local: bool = False,
        ttl: int = 0,
    ) -> None:
        self.errno = number
        self.type = kind
        self.code = code
        self.info = info
        self.offender = offender
        self.remote = remote
        self.payload = payload
        self.local = local
        self.ttl = ttl


def parse_error(
    level: int, kind: int, data: bytes, remote: Address, payload: bytes, ttl: int = 0
) -> QueuedError | None:
    """One control message of MSG_ERRQUEUE to an error; None: it is something else."""
    if (level, kind) not in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
        return None
    if len(data) < _EXTENDED_ERROR.size:
        return None
    number, origin, icmp, code, _, info, _ = _EXTENDED_ERROR.unpack_from(data)
    offender: str | None = None
    where = data[_EXTENDED_ERROR.size :]
    if origin in (_ORIGIN_ICMP, _ORIGIN_ICMP6) and len(where) >= 8:
        family = int.from_bytes(where[:2], "little" if struct.pack("=H", 1)[0] else "big")
        if family == socket.AF_INET:
            offender = socket.inet_ntop(socket.AF_INET, where[4:8])
        elif family == socket.AF_INET6 and len(where) >= 24:
            offender = socket.inet_ntop(socket.AF_INET6, where[8:24])
    elif origin == _ORIGIN_LOCAL:
        icmp, code = _LOCAL_CODES.get(number, (3, 1))
        if level == socket.IPPROTO_IPV6:
            icmp, code = to_6(icmp, code)
    else:
        return None
    return QueuedError(number, icmp, code, info, offender, remote, payload, origin == _ORIGIN_LOCAL, ttl)


def next_error(sock: socket.socket) -> QueuedError | None:
    """The next entry of a socket's error queue that tells something; None: there is none left."""
    while True:
        try:
            payload, control, _, address = sock.recvmsg(ERROR_PAYLOAD, 512, _MSG_ERRQUEUE)
        except OSError:
            return None
        remote = spelled(address) if address else ("0.0.0.0", 0)
        ttl = hops(control)
        for level, kind, data in control:
            found = parse_error(level, kind, data, remote, payload, ttl)
            if found is not None:
                return found


class ErrorQueue:
    """The error queue of one socket."""

    __slots__ = ("_kept", "_sock", "ready")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._kept: deque[QueuedError] | None = None
        self.ready = False  # EPOLLERR was seen

    def mtu(self) -> int:
        """The MTU that the datagram which has just been refused as too long did not keep; 0: it is not known."""
        found = 0
        for _ in range(KEPT):
            error = next_error(self._sock)
            if error is None:
                break
            if error.local:
                found = error.info if error.errno == errno.EMSGSIZE else found
                continue
            if self._kept is None:
                self._kept = deque(maxlen=KEPT)
            self._kept.append(error)
            self.ready = True
        return found

    def next(self) -> IcmpError | None:
        """The next error that somebody on the way sent; None: there is none."""
        if not self.ready:
            return None
        if self._kept:
            return self._kept.popleft()
        while True:
            found = next_error(self._sock)
            if found is None:
                self.ready = False
                return None
            if not found.local or found.errno != errno.EMSGSIZE:
                return found


class ErrorSocket(HostSocket):
    """What datagram sockets with an error queue share."""

    __slots__ = ("_errors", "_events")

    _errors: ErrorQueue
    _events: UdpEvents

    def mtu(self) -> int:
        """What the last refusal as too long did not keep; 0: unknown."""
        return self._errors.mtu() if self._fd >= 0 else 0

    def error(self) -> IcmpError | None:
        """One error of the queue; None: none."""
        return self._errors.next() if self._fd >= 0 else None

    def event(self, events: int, now: int) -> None:
        """From the epoll set."""
        if events & select.EPOLLERR:
            self._errors.ready = True
        self._events.host_readable(now)
