"""This module is the contract between ``slirp`` and ``slirp.host.sockets``: what the NAT asks of the host's
network stack.

``slirp.host.sockets.AsyncHost`` implements it with non-blocking sockets on the event loop; tests use a fake
on a virtual clock. Addresses are ``(text, port)`` with a numeric IPv4 or IPv6 text, where a link-local
address names its interface (``fe80::1%eth0``, ``fe80::1%2``). Times are integer nanoseconds of the machine's
clock. No call blocks. Errors are ``errno`` numbers.

Calls into the NAT (``*Events``) happen from the event loop only, never from inside a call that the NAT made.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Address = tuple[str, int]

# ``how`` is one integer that says how a datagram leaves the host: its TTL, NO_FRAGMENT, and its type of
# service << 16 (without the two ECN bits).
BUSY = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR))  # the host can take nothing now
NO_FRAGMENT = 0x100


@dataclass(frozen=True, slots=True)
class Service:
    r"""A service is something on the host's side that answers guests at one of the NAT's own addresses.

    kind   tcp, udp: ``to`` is an address. unix: a path ("\0name": abstract).
           program: argument vector, started without a shell; its standard input, output and error are one socket
    """

    kind: str
    to: Address | str | tuple[str, ...]
    output: str | None = None  # program: its output is appended to this file, and no answer comes back
    inet: bool = False  # program: its socket is a TCP connection over the host's loopback, because some programs ask for a peer
    also: tuple[Address, ...] = ()  # tcp: addresses tried in turn where ``to`` does not answer


class TcpEvents(Protocol):
    """Events of one host connection, implemented by a TCP flow."""

    def host_connected(self, now: int) -> None:
        """The connect succeeded, and the socket may be written."""

    def host_failed(self, error: int, now: int) -> None:
        """The connect failed, or the connection broke, with ``errno``. The socket is closed already."""

    def host_readable(self, now: int) -> None:
        """``recv`` has data, an end of stream or an error to return. This event is level-triggered while
        watched.
        """

    def host_writable(self, now: int) -> None:
        """``send`` takes bytes again. This event is level-triggered while watched."""


class TcpSocket(Protocol):
    """A host TCP socket carries one connection. ``watch`` starts out as (False, False)."""

    urgent: bool  # urgent data has come in, and its mark has not been read yet

    def send(self, data: bytes | memoryview) -> int:
        """Return how many bytes the socket took, 0 when its buffer is full. Raises OSError when the
        connection is broken.
        """

    def recv(self, size: int) -> bytes | None:
        """Return up to ``size`` bytes, b"" at the end of the stream, or None if nothing is there now. Raises
        OSError when the connection is broken.
        """

    def send_urgent(self, byte: bytes) -> int:
        """Send one byte with the mark of urgent data; return 1, or 0 when the buffer is full. Raises OSError
        when the connection is broken.
        """

    def at_mark(self) -> bool:
        """Say whether the next byte is the urgent one, and if so clear ``urgent``. ``recv`` does not read
        beyond that mark.
        """

    def keepalive(self, idle: int) -> None:
        """Probe the other end whenever the connection has been idle for ``idle`` seconds."""

    def shutdown(self) -> None:
        """Half-close the connection: no more bytes will be sent."""

    def watch(self, read: bool, write: bool) -> None:
        """Choose which events are reported."""

    def close(self, *, reset: bool = False) -> None:
        """Close the socket; ``reset`` closes it with RST rather than FIN. The call is idempotent, and no
        event follows it.
        """


class AcceptedTcp(TcpSocket, Protocol):
    """A client connection that a ``Listener`` accepted reports no event before ``attach``."""

    peer: Address  # the client's address; ("", 0) if it came by a UNIX socket

    @property
    def local(self) -> Address:
        """Return the host address that the client connected to."""

    def attach(self, events: TcpEvents) -> None:
        """Report this socket's events to ``events``."""

    def gone(self) -> bool:
        """Say whether the client has left without sending anything: it closed or broke with nothing to be
        read.
        """


class ListenEvents(Protocol):
    """Events of one listening socket."""

    def host_acceptable(self, now: int) -> None:
        """``accept`` has a client or an error to return. This event is level-triggered."""


class Listener(Protocol):
    """A listening stream socket accepts clients by TCP or UNIX."""

    address: Address  # the address as bound; (path, 0) for a UNIX socket

    def accept(self) -> AcceptedTcp | None:
        """Return the next client, or None if none waits. Raises OSError when the host has no room for it."""

    def watch(self, on: bool) -> None:
        """Choose whether events are reported; they are at first."""

    def close(self) -> None:
        """Stop listening and remove the path of a UNIX socket. The call is idempotent."""


class PlainStream:
    """Urgent data and keep-alive for a ``TcpSocket`` that is not TCP: a UNIX socket or a program, for
    example.
    """

    __slots__ = ()
    urgent = False

    def send_urgent(self, byte: bytes) -> int:
        """Send the byte as ordinary data, because this stream has no urgent mark."""
        return self.send(byte)  # type: ignore[attr-defined, no-any-return]

    def at_mark(self) -> bool:
        """Return False, because this stream has no urgent mark."""
        return False

    def keepalive(self, idle: int) -> None:
        """Do nothing, because the end of this stream is reported without probes."""


class ConnectingTcp(TcpSocket, Protocol):
    """A TCP socket whose connect was asked for reports the reason if it fails."""

    failure: IcmpError | None  # the ICMP error that ended the connect; None if there was none


class UdpEvents(Protocol):
    """Events of one UDP or echo socket, implemented by a flow."""

    def host_readable(self, now: int) -> None:
        """``recv`` or ``error`` has something to return."""


class IcmpError(Protocol):
    """An ICMP error came back for a datagram that the host had sent (from IP_RECVERR)."""

    errno: int
    type: int  # ICMP type and code as received (ICMPv6 for IPv6)
    code: int
    info: int  # next-hop MTU for "fragmentation needed"
    offender: str | None  # numeric address of the sender of the error; None: this host itself
    remote: Address  # where the datagram went
    payload: bytes  # what the error quoted: the payload of UDP, the ICMP message of an echo
    ttl: int  # TTL of the error message as it came in; 0: unknown


class UdpSocket(Protocol):
    """A host UDP socket is not connected: it takes datagrams from any peer (endpoint-independent mapping)."""

    def sendto(self, data: bytes | memoryview, remote: Address, how: int = 64) -> int:
        """Send one datagram; return 0, or the errno of a failure."""

    def sendmany(self, data: bytes, size: int, remote: Address, how: int = 64) -> int:
        """Send datagrams of ``size`` bytes each (the last may be shorter), in order; return 0, or the errno
        of a failure. After a failure some of them may have been sent.
        """

    def refuse(self, remote: Address) -> bool:
        """Tell ``remote`` by ICMP that its datagram found a closed port. False means that the host does not
        permit it.
        """

    def mtu(self) -> int:
        """Return the MTU that was exceeded when a send failed with EMSGSIZE, or 0 if it is unknown."""

    def recv(self) -> tuple[bytes, Address] | None:
        """Return one datagram and its sender, or None if nothing is there now."""

    def error(self) -> IcmpError | None:
        """Return one queued ICMP error, or None if there is none."""

    def close(self) -> None:
        """Close the socket. The call is idempotent."""


class UdpListener(Protocol):
    """A UDP listener is bound to a port that clients know. It answers from the address that a client wrote
    to.
    """

    address: Address  # the address as bound

    def recv(self) -> tuple[bytes, Address, str] | None:
        """Return one datagram, its sender and the address that it was sent to, or None if nothing is there
        now.
        """

    def sendto(self, data: bytes | memoryview, remote: Address, local: str, how: int = 64) -> int:
        """Send one datagram from the address ``local``; return 0, or the errno of a failure."""

    def refuse(self, remote: Address, local: str) -> bool:
        """Tell ``remote`` by ICMP that its datagram to ``local`` found a closed port. False means that it is
        not permitted.
        """

    def mtu(self) -> int:
        """Return the MTU that was exceeded when a send failed with EMSGSIZE, or 0 if it is unknown."""

    def error(self) -> IcmpError | None:
        """Return one queued ICMP error, or None if there is none."""

    def close(self) -> None:
        """Close the socket. The call is idempotent."""


class Echo(NamedTuple):
    """An echo reply as it came from the host's network."""

    seq: int
    data: bytes
    remote: str
    ttl: int  # TTL as it came in; 0: unknown
    tos: int


class EchoSocket(Protocol):
    """An echo socket sends the echo requests of one guest and identifier. Its events are ``UdpEvents``."""

    def send(self, seq: int, data: bytes, remote: str, how: int = 64) -> int:
        """Send an echo request; return 0, or the errno of a failure."""

    def mtu(self) -> int:
        """Return the MTU that was exceeded when a send failed with EMSGSIZE, or 0 if it is unknown."""

    def recv(self) -> Echo | None:
        """Return one echo reply, or None if nothing is there now."""

    def error(self) -> IcmpError | None:
        """Return one ICMP error about a request, or None if there is none."""

    def close(self) -> None:
        """Close the socket. The call is idempotent."""


class FileEvents(Protocol):
    """Events of one file: exactly one answers each of ``open``, ``create``, ``read``, ``write`` and
    ``commit``.
    """

    def file_opened(self, size: int, now: int) -> None:
        """The file is open; ``size`` is in bytes (0 for a new file)."""

    def file_read(self, data: bytes, now: int) -> None:
        """``read`` found ``data``, which is b"" behind the end of the file."""

    def file_written(self, now: int) -> None:
        """A ``write`` or ``commit`` is done."""

    def file_failed(self, error: int, now: int) -> None:
        """The request failed with ``errno``. The file stays open until ``close``."""


class File(Protocol):
    """A regular file below a directory takes one request at a time. Other threads do the work, so no call
    blocks.
    """

    def read(self, offset: int, size: int) -> None:
        """Ask for ``size`` bytes; fewer come only at the end of the file."""

    def write(self, data: bytes) -> None:
        """Append ``data`` to a new file."""

    def commit(self) -> None:
        """Give the complete new file its name; it replaces a file that has this name."""

    def close(self) -> None:
        """Close the file; a new file that was not committed is removed. The call is idempotent, and no event
        follows it.
        """


class Directory(Protocol):
    """A directory of the host bounds what can be reached: nothing outside it, whatever names and links say."""

    names: tuple[bytes, ...]  # its absolute path, as given and with links resolved
    nocase: bool  # whether a name that does not exist may match one that differs in capital and small letters

    def open(self, parts: Sequence[bytes], events: FileEvents) -> File:
        """Open a file for reading. ``parts`` are the names of directories and of the file; none is empty, "."
        or "..".
        """

    def create(self, parts: Sequence[bytes], size: int, events: FileEvents) -> File:
        """Create a file that appears under its name when it is committed. ``size`` is how many bytes have to
        fit (0: unknown).
        """

    def close(self) -> None:
        """Close the directory. The call is idempotent."""


class Host(Protocol):
    """The host's network, as the NAT needs it."""

    def tcp(self, remote: Address, events: TcpEvents, how: int = 64) -> ConnectingTcp:
        """Start a connect to ``remote``; of ``how`` only the TTL is used. Raises OSError if the connect fails
        at once.
        """

    def service(self, service: Service, events: TcpEvents, *, packets: bool = False) -> TcpSocket:
        """Begin a connection to a service. Raises OSError if the connection fails at once.

        packets  each ``send`` and ``recv`` is one packet (on a stream: the bytes available). b"" is the end,
        never an empty packet
        """

    def udp(self, family: int, events: UdpEvents) -> UdpSocket:
        """Open a UDP socket on a port of its own; ``family`` is 4 or 6. Raises OSError."""

    def echo(self, family: int, ident: int, events: UdpEvents) -> EchoSocket:
        """Open a socket for echo requests of ``family`` 4 or 6, with the identifier ``ident`` if it is free
        on the host.

        Raises PermissionError where the host permits neither ping sockets nor raw ones, OSError for want of
        descriptors.
        """

    def listen(self, local: Address | str, events: ListenEvents) -> Listener:
        """Listen on an address and port (IPv6: for IPv6 alone), or on the path of a UNIX socket ("\\0name": abstract).

        Raises OSError.
        """

    def listen_udp(self, local: Address, events: UdpEvents) -> UdpListener:
        """Open a UDP socket on an address and port (IPv6: for IPv6 alone). Raises OSError."""

    def directory(self, path: str) -> Directory:
        """Open a directory to serve files from. Raises OSError."""

    def resolvers(self) -> Sequence[Address]:
        """Return the host's name servers, in order; resolv.conf is read again when it has changed."""

    def own_names(self) -> tuple[str, Sequence[str]]:
        """Return the host's own name (its first label) and the domains that it is in or looks names up in."""

    def forbidden(self, remote: Address) -> bool:
        """Say whether ``remote`` is a control-plane listener of any tapnet instance on this host."""


def descriptor(socket: object) -> int:
    """Return the descriptor behind a host socket for ``info usernet``, or -1 if it has none to show."""
    fileno = getattr(socket, "fileno", None)
    return int(fileno()) if fileno is not None else -1
