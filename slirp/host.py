"""What the NAT asks of the host's network stack: the contract between ``slirp`` and ``slirp.hostio``.

``slirp.hostio.AsyncHost`` implements it with non-blocking sockets on the event loop; tests use a fake on a virtual
clock. Addresses are ``(text, port)`` with a numeric IPv4 or IPv6 text. Times are integer nanoseconds of the
machine's clock. No call blocks. Errors are ``errno`` numbers.

Calls into the NAT (``*Events``) happen from the event loop only, never from inside a call that the NAT made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Address = tuple[str, int]


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

    def send(self, data: bytes | memoryview) -> int:
        """Bytes taken, 0 when the buffer is full. Raises OSError when the connection is broken."""

    def recv(self, size: int) -> bytes | None:
        """Up to ``size`` bytes; b"" at end of stream; None: nothing now. Raises OSError when it is broken."""

    def shutdown(self) -> None:
        """Half-close: no more bytes will be sent."""

    def watch(self, read: bool, write: bool) -> None:
        """Which events to report."""

    def close(self, *, reset: bool = False) -> None:
        """Give the socket back; ``reset``: with RST rather than FIN. Idempotent; no event follows."""


class AcceptedTcp(TcpSocket, Protocol):
    """A client that a ``Listener`` took in; no event comes before ``attach``."""

    peer: Address  # the client; ("", 0): it came by a UNIX socket
    local: Address  # the address that it chose

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


class UdpEvents(Protocol):
    """One UDP socket's events, implemented by a UDP flow."""

    def host_readable(self, now: int) -> None:
        """``recv`` or ``error`` has something to say."""


class UdpError(Protocol):
    """An ICMP error that came back for a datagram (from IP_RECVERR)."""

    errno: int
    type: int  # ICMP type and code as received (ICMPv6 for IPv6)
    code: int
    info: int  # next-hop MTU for "fragmentation needed"
    offender: str | None  # who sent it: numeric address
    remote: Address  # where the datagram went
    payload: bytes  # the UDP payload of that datagram, as far as known


class UdpSocket(Protocol):
    """A host UDP socket, unconnected: any peer's datagrams arrive (endpoint-independent mapping)."""

    def sendto(self, data: bytes | memoryview, remote: Address, ttl: int = 64) -> int:
        """0, or the errno of a failure."""

    def sendmany(self, data: bytes, size: int, remote: Address, ttl: int = 64) -> int:
        """Datagrams of ``size`` bytes each (the last may be shorter), in order; 0, or the errno of a failure.

        After a failure some of them may have been sent.
        """

    def recv(self) -> tuple[bytes, Address] | None:
        """One datagram and its sender; None: nothing now."""

    def error(self) -> UdpError | None:
        """One queued ICMP error; None: none."""

    def close(self) -> None:
        """Give the socket back. Idempotent."""


class UdpListener(Protocol):
    """A UDP socket on a port that clients know. It answers from the address that a client chose."""

    address: Address  # as it was bound

    def recv(self) -> tuple[bytes, Address, str] | None:
        """One datagram, its sender, and the address that it was sent to; None: nothing now."""

    def sendto(self, data: bytes | memoryview, remote: Address, local: str, ttl: int = 64) -> int:
        """0, or the errno of a failure."""

    def error(self) -> UdpError | None:
        """One queued ICMP error; None: none."""

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

    def open(self, parts: Sequence[bytes], events: FileEvents) -> File:
        """Open for reading. ``parts``: names of directories and of the file; none is empty, "." or ".."."""

    def create(self, parts: Sequence[bytes], size: int, events: FileEvents) -> File:
        """A new file, seen under its name when it is committed. ``size``: bytes that have to fit (0: unknown)."""

    def close(self) -> None:
        """Give it back. Idempotent."""


class Host(Protocol):
    """The host's network, as the NAT needs it."""

    def tcp(self, remote: Address, events: TcpEvents) -> TcpSocket:
        """Start a connect to ``remote``. Raises OSError if that fails at once."""

    def udp(self, family: int, events: UdpEvents) -> UdpSocket:
        """A UDP socket on an own port; ``family`` is 4 or 6. Raises OSError."""

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

    def forbidden(self, remote: Address) -> bool:
        """Whether ``remote`` is a control-plane listener of any tapnet instance on this host."""
