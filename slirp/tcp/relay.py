"""A helper on the stream between a guest's flow and the host's socket: what all such helpers share.

    flow --send--> helper --> host socket          host socket --events--> helper --> flow
    flow <-recv--- helper <--

A helper is an ``Opener`` for the connections that it helps, and stands in for the socket: all that it does not change goes
through.
"""

from __future__ import annotations

from ..contracts.host import Address, Host, IcmpError, TcpEvents, TcpSocket


class Relay:
    """A connection to ``remote`` that passes through unchanged (``slirp.contracts.host.TcpSocket``, ``TcpEvents``)."""

    patience: int | None = None  # ns until the next target is tried (``slirp.contracts.link.Opener``)

    def __init__(self, host: Host, remote: Address) -> None:
        self.host = host
        self.remote = remote
        self.sock: TcpSocket | None = None
        self.events: TcpEvents | None = None

    def open(self, events: TcpEvents) -> TcpSocket:
        """Connect. Raises OSError."""
        self.events = events
        self.sock = self.host.tcp(self.remote, self)
        return self

    def fileno(self) -> int:
        """The descriptor; -1: none to show."""
        fileno = getattr(self.sock, "fileno", None)
        return int(fileno()) if fileno is not None else -1

    @property
    def failure(self) -> IcmpError | None:
        """Why the connect failed."""
        return getattr(self.sock, "failure", None)

    @property
    def urgent(self) -> bool:
        """Whether urgent data have come."""
        return self.sock is not None and self.sock.urgent

    @urgent.setter
    def urgent(self, value: bool) -> None:
        if self.sock is not None:
            self.sock.urgent = value

    def send(self, data: bytes | memoryview) -> int:
        """From the guest."""
        assert self.sock is not None
        return self.sock.send(data)

    def send_urgent(self, byte: bytes) -> int:
        """From the guest."""
        return self.send(byte)

    def recv(self, size: int) -> bytes | None:
        """For the guest."""
        assert self.sock is not None
        return self.sock.recv(size)

    def at_mark(self) -> bool:
        """Whether the next byte is the urgent one."""
        return self.sock is not None and self.sock.at_mark()

    def keepalive(self, idle: int) -> None:
        """Towards the host."""
        if self.sock is not None:
            self.sock.keepalive(idle)

    def shutdown(self) -> None:
        """No more from the guest."""
        assert self.sock is not None
        self.sock.shutdown()

    def watch(self, read: bool, write: bool) -> None:
        """Which events the flow wants."""
        if self.sock is not None:
            self.sock.watch(read, write)

    def close(self, *, reset: bool = False) -> None:
        """The connection is over."""
        if self.sock is not None:
            self.sock.close(reset=reset)

    def host_connected(self, now: int) -> None:
        """For the flow."""
        assert self.events is not None
        self.events.host_connected(now)

    def host_failed(self, error: int, now: int) -> None:
        """For the flow."""
        assert self.events is not None
        self.events.host_failed(error, now)

    def host_readable(self, now: int) -> None:
        """For the flow."""
        assert self.events is not None
        self.events.host_readable(now)

    def host_writable(self, now: int) -> None:
        """For the flow."""
        assert self.events is not None
        self.events.host_writable(now)
