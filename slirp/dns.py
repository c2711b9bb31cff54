"""The DNS forwarder at the ``dns`` address, over UDP. (Over TCP: ``dns_tcp.py``.)

A query goes out as it came, transaction id and EDNS included, from a socket and thus a random port of its
own; the answer goes back as it came, if it comes from a resolver that was asked and repeats id and
question. Queries of one or many guests are in flight side by side.

Fail-over: the resolvers are tried in order, beginning with the one that answered last (for ``GOOD_TIME``),
each for ``PATIENCE`` divided among the tries (one resolver is tried twice). An ICMP error, SERVFAIL or
REFUSED moves on at once. When all have failed the guest gets the last such answer, else a SERVFAIL of our
own, before its own 5 s are over. A repeated query does not start a second one: it is sent again to where
the first is waiting. No resolver: SERVFAIL. Names of our own (``names.py``) are
answered here, and nothing else where the rules shut the name server (``shut``).

Limits: ``QUERIES`` in flight; the oldest is given up. Timers: one deadline per query.

Ref: RFC 1035 4.1, 7.2; RFC 5625 (proxies: pass everything on unchanged); RFC 5452 (source ports, matching
answers)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .formats import end_of_question
from .host import Address, Host, UdpSocket
from .names import Names
from .neighbours import Neighbour
from .udp import Network, descriptor
from .wire import canonical, ip_text

SECOND = 1_000_000_000
QUERIES = 256
PATIENCE = 4 * SECOND + SECOND // 2
GOOD_TIME = 30 * SECOND
TRIES_MAX = 6
BATCH = 8
PORT = 53
HEADER = 12
SERVFAIL, REFUSED = 2, 5
_QR, _RA = 0x80, 0x80


class Answers(Protocol):
    """How an answer reaches a guest."""

    def neighbour(self, guest: bytes) -> Neighbour:
        """Where frames for a guest go."""

    def datagram(self, to: Neighbour, src: bytes, sport: int, dport: int, payload: bytes) -> bool:
        """Send a UDP datagram to a guest."""


class Query:
    """One question in flight; receives its socket's events."""

    __slots__ = (
        "answer",
        "asked",
        "deadline",
        "dns",
        "dst",
        "family",
        "guest",
        "key",
        "message",
        "port",
        "question",
        "socket",
        "started",
        "tries",
    )

    def __init__(
        self,
        dns: Dns,
        key: bytes,
        message: bytes,
        question: bytes,
        guest: Neighbour,
        port: int,
        dst: bytes,
        now: int,
    ) -> None:
        self.dns = dns
        self.key = key
        self.message = message
        self.question = question
        self.guest = guest
        self.port = port
        self.dst = dst
        self.started = now
        self.deadline = now
        self.tries: list[Address] = []  # still to be asked
        self.asked: list[Address] = []
        self.answer: bytes | None = None  # SERVFAIL or REFUSED of some resolver
        self.socket: UdpSocket | None = None
        self.family = 0

    def host_readable(self, now: int) -> None:
        """Answers or errors."""
        self.dns.network.now = now
        for _ in range(BATCH):
            if self.socket is None:
                return
            item = self.socket.recv()
            if item is None:
                break
            self.dns.answered(self, item[0], item[1], now)
        if self.socket is not None and self.socket.error() is not None:
            self.dns.network.count("dns_resolver_error")
            self.dns.proceed(self, now)

    def close(self) -> None:
        """Give the socket back."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class Dns:
    """The forwarder; a ``slirp.stack.Service`` on port 53. ``resolvers()`` lists the name servers at
    present."""

    def __init__(
        self, network: Network, host: Host, answers: Answers, resolvers: Callable[[], Sequence[Address]]
    ) -> None:
        self.network = network
        self._host = host
        self._answers = answers
        self._resolvers = resolvers
        self._queries: dict[bytes, Query] = {}
        self._good: Address | None = None
        self._good_until = 0
        self.names: Names | None = None  # of our own
        self.shut = False  # for the query at hand: nothing goes to the resolvers

    def __len__(self) -> int:
        return len(self._queries)

    # ---- queries -------------------------------------------------------------------------------------------

    def input(self, frame: bytes, off: int, end: int, src: bytes, sport: int, dst: bytes, now: int) -> None:
        """A guest's query."""
        message = frame[off:end]
        try:
            if len(message) < HEADER or message[2] & _QR or message[4:6] != b"\0\1":
                raise ValueError("not a query")
            question = message[HEADER : end_of_question(message)]
        except ValueError:
            self.network.count("dns_malformed")
            return
        own = self.names.answer(message, now, refuse=self.shut) if self.names is not None else None
        if own is not None:
            self.network.count("dns_own")
            self._answers.datagram(self._answers.neighbour(src), dst, PORT, sport, own)
            return
        key = src + frame[off - 8 : off - 6] + message[:2]
        query = self._queries.get(key)
        if query is not None and query.message == message:
            self.network.count("dns_repeated")
            if query.socket is not None:
                query.socket.sendto(message, query.asked[-1])
            return
        if query is not None:
            self._end(query)
        if len(self._queries) >= QUERIES:
            self.network.count("dns_evicted")
            self._end(next(iter(self._queries.values())))
        self.network.count("dns_queries")
        query = Query(self, key, message, question, self._answers.neighbour(src), sport, dst, now)
        query.tries = self._order(now)
        if not query.tries:
            self.network.count("dns_no_resolver")
        self._queries[key] = query
        self.proceed(query, now)

    def _order(self, now: int) -> list[Address]:
        order = list(self._resolvers())[:TRIES_MAX]
        if self._good in order and now < self._good_until:
            order.remove(self._good)
            order.insert(0, self._good)
        return order * 2 if len(order) == 1 else order

    def proceed(self, query: Query, now: int) -> None:
        """Ask the next resolver, or give up."""
        tries = len(query.tries) + len(query.asked)
        while query.tries:
            target = query.tries.pop(0)
            query.asked.append(target)
            if self._ask(query, target):
                query.deadline = now + PATIENCE // tries
                return
        answer = query.answer
        if answer is None:
            self.network.count("dns_failed")
            head = bytearray(query.message[:HEADER])
            head[2] |= _QR
            head[3] = _RA | SERVFAIL
            head[6:] = bytes(6)
            answer = bytes(head) + query.question
        self._deliver(query, answer)

    def _ask(self, query: Query, target: Address) -> bool:
        family = 6 if ":" in target[0] else 4
        if query.socket is None or query.family != family:
            query.close()
            try:
                query.socket = self._host.udp(family, query)
            except OSError:
                self.network.count("dns_no_socket")
                return False
            query.family = family
        return query.socket.sendto(query.message, target) == 0

    # ---- answers -------------------------------------------------------------------------------------------

    def answered(self, query: Query, answer: bytes, remote: Address, now: int) -> None:
        """A datagram came to the socket of ``query``."""
        if not self._genuine(query, answer, remote):
            self.network.count("dns_bogus")
            return
        if answer[3] & 15 in (SERVFAIL, REFUSED):
            query.answer = answer
            if query.tries and query.tries[0] != remote:
                self.proceed(query, now)
                return
        else:
            self._good = remote
            self._good_until = now + GOOD_TIME
        self._deliver(query, answer)

    @staticmethod
    def _genuine(query: Query, answer: bytes, remote: Address) -> bool:
        if len(answer) < HEADER or answer[:2] != query.message[:2] or not answer[2] & _QR:
            return False
        if not any(remote[1] == port and _same(remote[0], address) for address, port in query.asked):
            return False
        if answer[4:6] == b"\0\0":  # some answer FORMERR and the like without the question
            return answer[3] & 15 != 0
        return answer[HEADER : HEADER + len(query.question)].lower() == query.question.lower()

    def _deliver(self, query: Query, answer: bytes) -> None:
        self._end(query)
        self._answers.datagram(query.guest, query.dst, PORT, query.port, answer)

    def _end(self, query: Query) -> None:
        self._queries.pop(query.key, None)
        query.close()

    # ---- time, life ----------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When a resolver has had its time."""
        return min((query.deadline for query in self._queries.values()), default=None)

    def run(self, now: int) -> None:
        """Move on from resolvers that do not answer."""
        for query in list(self._queries.values()):
            if query.deadline <= now:
                self.network.count("dns_timeout")
                self.proceed(query, now)

    def close(self) -> None:
        """Forget all queries."""
        for query in self._queries.values():
            query.close()
        self._queries.clear()

    def flows(self, now: int) -> list[dict[str, Any]]:
        """Rows for ``info usernet``."""
        return [
            {
                "protocol": "UDP",
                "state": "dns",
                "fd": descriptor(query.socket),
                "src": ip_text(query.guest.address),
                "src_port": query.port,
                "dst": ip_text(query.dst),
                "dst_port": PORT,
                "recvq": 0,
                "sendq": 0,
                "idle": (now - query.started) / SECOND,
            }
            for query in self._queries.values()
        ]


def _same(one: str, other: str) -> bool:
    return one == other or canonical(one) == canonical(other)
