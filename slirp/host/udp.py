"""The host's UDP sockets of the guests' flows: part of ``slirp.host.sockets``.

Bound to a port of its own, unconnected, IP_RECVERR on: ICMP errors arrive by the error queue (``errors``) with the
datagram's destination and payload. A soft error that the kernel reports for an earlier datagram is skipped, not taken for
ours. TTL is set when it changes only. Datagrams in a row are one call (UDP_SEGMENT) where the kernel and the way there take
that: a length that was refused is not tried again on that socket.

Ref: udp(7), ip(7), ipv6(7); Linux uapi/linux/udp.h.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from typing import Any

from ..contracts.host import Address, IcmpError, UdpEvents
from .errors import SOFT, ErrorQueue, ErrorSocket, QueuedError, apply, local_towards, refuse
from .socket_set import SocketSet, sockaddr, spelled

DATAGRAM = 65536
SEGMENTS = 64  # of one call: the kernel's UDP_MAX_SEGMENTS was that for long
SPELLED = 64  # scoped addresses that are remembered as they were given
SEGMENTED = 65000  # bytes of one call
_SOL_UDP, _UDP_SEGMENT = 17, 103
_U16 = struct.Struct("=H")
# UDP_SEGMENT is unknown, or not possible on the way there (a segment longer than its MTU, IPsec).
_UNSEGMENTED = frozenset(
    (errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENOTSUP)
)


class HostUdp(ErrorSocket):
    """A host UDP socket (``slirp.contracts.host.UdpSocket``)."""

    __slots__ = ("_family", "_how", "_segment", "_spelled", "born")

    def __init__(self, host: SocketSet, sock: socket.socket, family: int, events: UdpEvents) -> None:
        self._host = host
        self._sock = sock
        self._fd = sock.fileno()
        self._family = family
        self._events = events
        self._how = -1
        self._segment = DATAGRAM  # the longest datagram to be tried with UDP_SEGMENT
        self._errors = ErrorQueue(sock)
        self._spelled: dict[
            Address, Address
        ] = {}  # scoped addresses: as the kernel tells them, as they were given
        self.born = host.enter(self._fd, self)
        host.register(self._fd, select.EPOLLIN)

    def sendto(self, data: bytes | memoryview, remote: Address, how: int = 64) -> int:
        """0, or errno."""
        if self._fd < 0:
            return errno.EBADF
        sock = self._sock
        error = 0
        for _ in range(2):
            try:
                if how != self._how:
                    apply(sock, self._family, self._how, how)
                    self._how = how
                sock.sendto(data, remote if "%" not in remote[0] else self._scope(remote))
                return 0
            except OSError as failure:
                error = failure.errno or errno.EIO
                if error not in SOFT:  # else perhaps the report of an earlier datagram: once more
                    return error
        return error

    def sendmany(self, data: bytes, size: int, remote: Address, how: int = 64) -> int:
        """0, or errno."""
        step = min(SEGMENTS, SEGMENTED // size) * size
        error = 0
        for start in range(0, len(data), step or size):
            part = data[start : start + (step or size)]
            if size < len(part) and size <= self._segment:
                failure = self._send_segments(part, size, remote, how)
                if failure not in _UNSEGMENTED:
                    error = failure or error
                    continue
                self._segment = size - 1
            for at in range(0, len(part), size):
                error = self.sendto(part[at : at + size], remote, how) or error
        return error

    def _send_segments(self, data: bytes, size: int, remote: Address, how: int) -> int:
        if self._fd < 0:
            return errno.EBADF
        control = ((_SOL_UDP, _UDP_SEGMENT, _U16.pack(size)),)
        error = 0
        for _ in range(2):
            try:
                if how != self._how:
                    apply(self._sock, self._family, self._how, how)
                    self._how = how
                self._sock.sendmsg(
                    (data,), control, 0, remote if "%" not in remote[0] else self._scope(remote)
                )
                return 0
            except OSError as failure:
                error = failure.errno or errno.EIO
                if error not in SOFT or error in _UNSEGMENTED:
                    return error
        return error

    def _scope(self, remote: Address) -> tuple[Any, ...]:
        """A scoped address for the kernel; what comes from there is told as from ``remote``. Raises OSError."""
        found = sockaddr(remote)
        self._spelled[spelled(found)] = remote
        if len(self._spelled) > SPELLED:
            del self._spelled[next(iter(self._spelled))]
        return found

    def error(self) -> IcmpError | None:
        """One error of the queue; None: none."""
        found = super().error()
        if self._spelled and isinstance(found, QueuedError):
            found.remote = self._spelled.get(found.remote, found.remote)
        return found

    def refuse(self, remote: Address) -> bool:
        """Tell ``remote`` that its datagram found a closed port."""
        try:
            return refuse(
                self._family, remote, local_towards(self._family, remote), self._sock.getsockname()[1]
            )
        except OSError:
            return False

    def recv(self) -> tuple[bytes, Address] | None:
        """One datagram; None: nothing now."""
        if self._fd < 0:
            return None
        for _ in range(4):
            try:
                data, address = self._sock.recvfrom(DATAGRAM)
                if self._spelled and len(address) > 3 and address[3]:
                    found = spelled(address)
                    return data, self._spelled.get(found, found)
                return data, (address[0], address[1])
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as failure:
                if failure.errno not in SOFT:
                    return None
        return None
