"""DNS over TCP at the ``dns`` address: a connection to a resolver, on which the names of our own are answered before.

Both directions are read message by message (a length of two bytes before each). A query for a name of ours never reaches the
resolver; its answer goes to the guest between two answers of the resolver's, never into one.

The resolvers are tried in the order that ``dns.Dns.order`` has, each for ``PATIENCE``, but the last one for as long as any
connection: guests' own time for an answer is 5 s. One that takes the connection is tried first for a while.

Limits: ``HELD`` bytes of our answers wait for the guest; more queries are not taken until it reads.

Ref: RFC 7766 (several queries on one connection, answers in any order).
"""

from __future__ import annotations

from collections.abc import Callable

from ..contracts.host import Address, Host
from ..tcp.relay import Relay

HELD = 1 << 16
PATIENCE = 2_000_000_000  # ns for a connect, where another resolver is left
LENGTH = 2


class DnsStream(Relay):
    """One guest's connection. ``own(message)``: the answer to a query of ours; None: it is for the resolver.
    ``reached(remote, now)``: the resolver has taken the connection.
    """

    patience = PATIENCE

    def __init__(
        self,
        host: Host,
        remote: Address,
        own: Callable[[bytes], bytes | None],
        reached: Callable[[Address, int], None],
    ) -> None:
        super().__init__(host, remote)
        self._own = own
        self._reached = reached
        self._query = b""  # of the guest, not whole yet
        self._out = b""  # for the resolver, not taken yet
        self._answers = b""  # ours
        self._left = 0  # bytes of the resolver's answer that are still to come
        self._length = b""  # the first byte of its length
        self._ended = False
        self._wanted = (False, False)

    def host_connected(self, now: int) -> None:
        """Note that the resolver has taken the connection."""
        self._reached(self.remote, now)
        super().host_connected(now)

    def send(self, data: bytes | memoryview) -> int:
        """Take queries of the guest: answer those for our own names, pass the others on."""
        if (self._out and not self._flush()) or len(self._answers) > HELD:
            return 0
        message = self._query + bytes(data)
        while len(message) >= LENGTH:
            end = LENGTH + int.from_bytes(message[:LENGTH], "big")
            if len(message) < end:
                break
            answer = self._own(message[LENGTH:end])
            if answer is None:
                self._out += message[:end]
            else:
                self._answers += len(answer).to_bytes(LENGTH, "big") + answer
            message = message[end:]
        self._query = message
        self._flush()
        return len(data)

    def recv(self, size: int) -> bytes | None:
        """Return bytes of answers for the guest, own answers between those of the resolver."""
        if self._answers and not self._left and not self._length:
            data, self._answers = self._answers[:size], self._answers[size:]
            return data
        data_or_none = super().recv(min(size, self._left) if self._left else LENGTH - len(self._length))
        if not data_or_none:
            return data_or_none
        if self._left:
            self._left -= len(data_or_none)
            return data_or_none
        self._length += data_or_none
        if len(self._length) == LENGTH:
            self._left = int.from_bytes(self._length, "big")
            self._length = b""
        return data_or_none

    def _flush(self) -> bool:
        if self._out:
            self._out = self._out[super().send(self._out) :]
        if not self._out and self._ended:
            super().shutdown()
        self._rewatch()
        return not self._out

    def _rewatch(self) -> None:
        read, write = self._wanted
        super().watch(read, write or bool(self._out) or (read and bool(self._answers)))

    def shutdown(self) -> None:
        """Note that the guest sends no more queries, and end our side once all are sent."""
        self._ended = True
        self._flush()

    def watch(self, read: bool, write: bool) -> None:
        """Answers of ours are there to be read at once: the socket that can be written says so."""
        self._wanted = (read, write)
        self._rewatch()

    def host_writable(self, now: int) -> None:
        """Send what waits for the resolver before the flow may send more."""
        if self._out:
            try:
                self._flush()
            except OSError:
                self._out = b""  # the flow finds out by its own call
        if self._answers and self._wanted[0]:
            super().host_readable(now)
        if self._wanted[1] and not self._out:
            super().host_writable(now)
        elif not self._out and not self._answers:
            self._rewatch()
