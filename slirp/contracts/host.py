"""What the NAT asks of the host's network stack: the contract between ``slirp`` and ``slirp.host.sockets``.

``slirp.host.sockets.AsyncHost`` implements it with non-blocking sockets on the event loop; tests use a fake on a virtual
clock. Addresses are ``(text, port)`` with a numeric IPv4 or IPv6 text, of which a link-local one names its interface
(``fe80::1%eth0``, ``fe80::1%2``). Times are integer nanoseconds of the
machine's clock. No call blocks. Errors are ``errno`` numbers.

Calls into the NAT (``*Events``) happen from the event loop only, never from inside a call that the NAT made.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Address = tuple[str, int]

# How a datagram leaves: its TTL, NO_FRAGMENT, and its type of service << 16 (without the two bits of ECN).
BUSY = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR))  # the host can take nothing now
NO_FRAGMENT = 0x100


@dataclass(frozen=True, slots=True)
class Service:
    """Something on the host's side that answers guests at an own address.

    kind   tcp, udp: ``to`` is an address. unix: a path ("\\0name": abstract).
           program: argument vector, started without a shell, its standard input, output and error one socket
    """

    kind: str
    to: Address | str | tuple[str, ...]
    output: str | None = None  # program: this file is its output (appended to), and nothing comes back
    inet: bool = (
        False  # program: its socket is a TCP connection over the host's loopback, as some want to see a peer
    )
    also: tuple[Address, ...] = ()  # tcp: tried in turn where ``to`` does not answer


class TcpEvents(Protocol):
    """One host connection's events, implemented by a TCP flow."""

    def host_connected(self, now: int) -> None:
        """The connect succeeded; the socket may be written."""

    def host_failed(self, error: int, now: int) -> None:
        """The connect failed, or the connection broke, with ``errno``. The socket is closed already."""

    def host_readable(self, now: int) -> None:
        """``recv`` has something to say (data, end of stream or an error). Level-triggered while watched."""

    def host_writable(self, now: int) -> None:
        """``send`` takes bytes again. Level-triggered while watched."""


class TcpSocket(Protocol):
    """A host TCP socket. ``watch`` starts out as (False, False)."""

    urgent: bool  # urgent data have come in, and their mark has not been read yet

    def send(self, data: bytes | memoryview) -> int:
        """Bytes taken, 0 when the buffer is full. Raises OSError when the connection is broken."""

    def recv(self, size: int) -> bytes | None:
        """Up to ``size`` bytes; b"" at end of stream; None: nothing now. Raises OSError when it is broken."""

    def send_urgent(self, byte: bytes) -> int:
        """One byte with the mark of urgent data: 1, or 0 when the buffer is full. Raises OSError as ``send``."""

    def at_mark(self) -> bool:
        """Whether the next byte is the urgent one; ``recv`` does not read beyond it. Then ``urgent`` is over."""

    def keepalive(self, idle: int) -> None:
        """Probe the other end after ``idle`` seconds without a word."""

    def shutdown(self) -> None:
        """Half-close: no more bytes will be sent."""

    def watch(self, read: bool, write: bool) -> None:
        """Which events to report."""

    def close(self, *, reset: bool = False) -> None:
        """Give the socket back; ``reset``: with RST rather than FIN. Idempotent; no event follows."""


class AcceptedTcp(TcpSocket, Protocol):
    """A client that a ``Listener`` took in; no event comes before ``attach``."""

    peer: Address  # the client; ("", 0): it came by a UNIX socket

    @property
    def local(self) -> Address:
        """The address that it chose."""

    def attach(self, events: TcpEvents) -> None:
        """Who hears the events from now on."""

    def gone(self) -> bool:
        """Whether the client has left without a word: closed, or broken, with nothing to be read."""


class ListenEvents(Protocol):
    """One listening socket's events."""

    def host_acceptable(self, now: int) -> None:
        """``accept`` has something to say. Level-triggered."""


class Listener(Protocol):
    """A listening stream socket, TCP or UNIX."""

    address: Address  # as it was bound; (path, 0) of a UNIX socket

    def accept(self) -> AcceptedTcp | None:
        """The next client; None: nobody is waiting. Raises OSError when the host has no room for it."""

    def watch(self, on: bool) -> None:
        """Whether to report events; on at first."""

    def close(self) -> None:
        """Listen no more; a UNIX socket's path is removed. Idempotent."""


class PlainStream:
    """What a ``TcpSocket`` that is no TCP does with urgent data and keep-alive."""

    __slots__ = ()
    urgent = False

    def send_urgent(self, byte: bytes) -> int:
        """In line."""
        return self.send(byte)  # type: ignore[attr-defined, no-any-return]

    def at_mark(self) -> bool:
        """Never."""
        return False

    def keepalive(self, idle: int) -> None:
        """Its end is seen anyway."""


class ConnectingTcp(TcpSocket, Protocol):
    """A socket that was asked to connect."""

    failure: IcmpError | None  # once it failed: the ICMP error that ended it, if it was one


class UdpEvents(Protocol):
    """One UDP or echo socket's events, implemented by a flow."""

    def host_readable(self, now: int) -> None:
        """``recv`` or ``error`` has something to say."""


class IcmpError(Protocol):
    """An ICMP error that came back for what was sent (from IP_RECVERR)."""

    errno: int
    type: int  # ICMP type and code as received (ICMPv6 for IPv6)
    code: int
    info: int  # next-hop MTU for "fragmentation needed"
    offender: str | None  # who sent it: numeric address; None: this host itself
    remote: Address  # where the datagram went
    payload: bytes  # what the error quoted: of UDP the payload, of echo the ICMP message
    ttl: int  # of the error itself as it came in; 0: unknown


class UdpSocket(Protocol):
    """A host UDP socket, unconnected: any peer's datagrams arrive (endpoint-independent mapping)."""

    def sendto(self, data: bytes | memoryview, remote: Address, how: int = 64) -> int:
        """0, or the errno of a failure."""

    def sendmany(self, data: bytes, size: int, remote: Address, how: int = 64) -> int:
        """Datagrams of ``size`` bytes each (the last may be shorter), in order; 0, or the errno of a failure.

        After a failure some of them may have been sent.
        """

    def refuse(self, remote: Address) -> bool:
        """Tell ``remote`` by ICMP that its datagram found a closed port. False: the host does not permit that."""

    def mtu(self) -> int:
        """After EMSGSIZE: the MTU that was exceeded; 0: unknown."""

    def recv(self) -> tuple[bytes, Address] | None:
        """One datagram and its sender; None: nothing now."""

    def error(self) -> IcmpError | None:
        """One queued ICMP error; None: none."""

    def close(self) -> None:
        """Give the socket back. Idempotent."""


class UdpListener(Protocol):
    """A UDP socket on a port that clients know. It answers from the address that a client chose."""

    address: Address  # as it was bound

    def recv(self) -> tuple[bytes, Address, str] | None:
        """One datagram, its sender, and the address that it was sent to; None: nothing now."""

    def sendto(self, data: bytes | memoryview, remote: Address, local: str, how: int = 64) -> int:
        """0, or the errno of a failure."""

    def refuse(self, remote: Address, local: str) -> bool:
        """Tell ``remote`` by ICMP that its datagram to ``local`` found a closed port. False: that is not permitted."""

    def mtu(self) -> int:
        """After EMSGSIZE: the MTU that was exceeded; 0: unknown."""

    def error(self) -> IcmpError | None:
        """One queued ICMP error; None: none."""

    def close(self) -> None:
        """Give the socket back. Idempotent."""


class Echo(NamedTuple):
    """An echo reply."""

    seq: int
    data: bytes
    remote: str
    ttl: int  # as it came in; 0: unknown
    tos: int


class EchoSocket(Protocol):
    """Where the echo requests of one guest and identifier leave. Its events are ``UdpEvents``."""

    def send(self, seq: int, data: bytes, remote: str, how: int = 64) -> int:
        """An echo request: 0, or the errno of a failure."""

    def mtu(self) -> int:
        """After EMSGSIZE: the MTU that was exceeded; 0: unknown."""

    def recv(self) -> Echo | None:
        """One reply; None: nothing now."""

    def error(self) -> IcmpError | None:
        """One ICMP error about a request; None: none."""

    def close(self) -> None:
        """Give the socket back. Idempotent."""


class FileEvents(Protocol):
    """One file's events: exactly one answers each of ``open``, ``create``, ``read``, ``write`` and ``commit``."""

    def file_opened(self, size: int, now: int) -> None:
        """It is there; ``size`` in bytes (0 of a new one)."""

    def file_read(self, data: bytes, now: int) -> None:
        """What ``read`` found; b"" behind the end."""

    def file_written(self, now: int) -> None:
        """``write`` or ``commit`` is done."""

    def file_failed(self, error: int, now: int) -> None:
        """What was asked failed with ``errno``. The file stays to be closed."""


class File(Protocol):
    """A regular file below a directory. One request at a time; other threads do the work, none here waits."""

    def read(self, offset: int, size: int) -> None:
        """Ask for ``size`` bytes; fewer come at the end only."""

    def write(self, data: bytes) -> None:
        """Append to a new file."""

    def commit(self) -> None:
        """The new file is whole: it takes its name, in place of what had it."""

    def close(self) -> None:
        """Give it back; a new file that was not committed is removed. Idempotent; no event follows."""


class Directory(Protocol):
    """A directory of the host, of which nothing outside can be reached, whatever names and links say."""

    names: tuple[bytes, ...]  # its absolute path, as it was given and without links
    nocase: bool  # a name that is not there may be there in other letters, capital or small

    def open(self, parts: Sequence[bytes], events: FileEvents) -> File:
        """Open for reading. ``parts``: names of directories and of the file; none is empty, "." or ".."."""

    def create(self, parts: Sequence[bytes], size: int, events: FileEvents) -> File:
        """A new file, seen under its name when it is committed. ``size``: bytes that have to fit (0: unknown)."""

    def close(self) -> None:
        """Give it back. Idempotent."""


class Host(Protocol):
    """The host's network, as the NAT needs it."""

    def tcp(self, remote: Address, events: TcpEvents, how: int = 64) -> ConnectingTcp:
        """Start a connect to ``remote``; only the TTL counts of ``how``. Raises OSError if that fails at once."""

    def service(self, service: Service, events: TcpEvents, *, packets: bool = False) -> TcpSocket:
        """Begin a connection to a service. Raises OSError if that fails at once.

        packets  each ``send`` and ``recv`` is a packet (of a stream: what there is). b"" is the end, never an empty one
        """

    def udp(self, family: int, events: UdpEvents) -> UdpSocket:
        """A UDP socket on an own port; ``family`` is 4 or 6. Raises OSError."""

    def echo(self, family: int, ident: int, events: UdpEvents) -> EchoSocket:
        """For echo requests of ``family`` 4 or 6, with the identifier ``ident`` where the host has it free.

        Raises PermissionError where the host permits neither ping sockets nor raw ones, OSError for want of descriptors.
        """

    def listen(self, local: Address | str, events: ListenEvents) -> Listener:
        """Listen on an address and port (IPv6: for IPv6 alone), or on the path of a UNIX socket ("\\0name": abstract).

        Raises OSError.
        """

    def listen_udp(self, local: Address, events: UdpEvents) -> UdpListener:
        """A UDP socket on an address and port (IPv6: for IPv6 alone). Raises OSError."""

    def directory(self, path: str) -> Directory:
        """A directory to serve files from. Raises OSError."""

    def resolvers(self) -> Sequence[Address]:
        """The host's name servers, in order, re-read when resolv.conf changed."""

    def own_names(self) -> tuple[str, Sequence[str]]:
        """The host's own name (its first label), and the domains that it is in or looks names up in."""

    def forbidden(self, remote: Address) -> bool:
        """Whether ``remote`` is a control-plane listener of any tapnet instance on this host."""


def descriptor(socket: object) -> int:
    """The descriptor behind a host socket, for ``info usernet``; -1: it has none to show."""
    fileno = getattr(socket, "fileno", None)
    return int(fileno()) if fileno is not None else -1
