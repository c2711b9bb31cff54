"""The DNS forwarder at the ``dns`` address, over UDP. (Over TCP: ``dns_tcp.py``.)

A query goes out as it came, transaction id and EDNS included, from a socket and thus a random port of its
own; the answer goes back as it came, if it comes from a resolver that was asked and repeats id and
question. Queries of one or many guests are in flight side by side; two of them are the same query only if guest, port
and every byte are the same, as old C libraries ask for A and AAAA from one port with one id.

Fail-over: the resolvers are asked in order, beginning with the one that answered last (for ``GOOD_TIME``), each after
its share of ``PATIENCE``, in ``ROUNDS`` rounds. Who was asked before may still answer: the first answer goes to the
guest. An ICMP error, SERVFAIL or REFUSED of one asks the next at once. When every resolver has failed in such a way the
guest gets the last such answer, else a SERVFAIL of our own; while one of them is merely silent so are we, for ``WAIT``
after the guest's last word, since a SERVFAIL would end its own attempts. A repeated query does not start a second one: it is
sent again, to the resolvers in turn. No resolver: SERVFAIL. Names of our own (``names.py``) are
answered here, and nothing else where the rules shut the name server (``shut``).

Limits: ``QUERIES`` in flight, ``PER_GUEST`` of one guest's address, ``HELD`` bytes of questions. What is beyond gets SERVFAIL
at once (counted as ``dns_full``), so that the guest asks somebody else or later. Timers: one deadline per query.

Ref: RFC 1035 4.1, 7.2; RFC 5625 (proxies: pass everything on unchanged); RFC 5452 (source ports, matching
answers)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..contracts.host import Address, Host, UdpSocket, descriptor
from ..contracts.stack import Network
from ..ip.neighbours import Neighbour
from ..wire.dns import end_of_question
from ..wire.ipv4 import canonical, ip_text
from .names import Names

SECOND = 1_000_000_000
QUERIES = 2048
PER_GUEST = 1024
HELD = 4 << 20
# for one round of the resolvers: less than the 5 s after which clients ask again
PATIENCE = 4 * SECOND + SECOND // 2
ROUNDS = 2
WAIT = 30 * SECOND  # resolv.conf(5): no client waits longer for one attempt
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
        "failed",
        "guest",
        "key",
        "message",
        "port",
        "question",
        "sockets",
        "started",
        "step",
        "tries",
        "until",
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
        self.deadline = self.until = now
        self.step = PATIENCE
        self.tries: list[Address] = []  # still to be asked
        self.asked: list[Address] = []  # the one that was asked last is the last
        self.failed: set[Address] = set()
        self.answer: bytes | None = None  # SERVFAIL or REFUSED of some resolver
        self.sockets: dict[int, UdpSocket] = {}  # by family

    @property
    def waiting_for(self) -> list[Address]:
        """Resolvers that were asked, and have neither answered nor failed; first the one whose turn is longest ago."""
        return [address for address in self.asked if address not in self.failed]

    def host_readable(self, now: int) -> None:
        """Take answers and ICMP errors from the sockets of this query."""
        self.dns.network.now = now
        for family in tuple(self.sockets):
            for _ in range(BATCH):
                sock = self.sockets.get(family)
                item = sock.recv() if sock is not None else None
                if item is None:
                    break
                self.dns.answered(self, item[0], item[1], now)
            for _ in range(BATCH):
                sock = self.sockets.get(family)
                error = sock.error() if sock is not None else None
                if error is None:
                    break
                self.dns.refused(self, error.remote, now)

    def close(self) -> None:
        """Close the sockets of this query."""
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()


class Dns:
    """The forwarder; a ``slirp.contracts.stack.Service`` on port 53. ``resolvers()`` lists the name servers at
    present."""

    def __init__(
        self, network: Network, host: Host, answers: Answers, resolvers: Callable[[], Sequence[Address]]
    ) -> None:
        self.network = network
        self._host = host
        self._answers = answers
        self._resolvers = resolvers
        self._queries: dict[bytes, Query] = {}
        self._guests: dict[bytes, int] = {}  # queries in flight by the guest's address
        self._next: int | None = None  # no query is due before
        self._held = 0  # bytes of all questions in flight
        self._good: tuple[Address, int] | None = None  # who answered last, and until when that counts
        self._good_tcp: tuple[Address, int] | None = None  # who took a connection last
        self.names: Names | None = None  # of our own
        self.shut = False  # for the query at hand: nothing goes to the resolvers

    def __len__(self) -> int:
        return len(self._queries)

    # ---- queries -------------------------------------------------------------------------------------------

    def input(self, frame: bytes, off: int, end: int, src: bytes, sport: int, dst: bytes, now: int) -> None:
        """Answer a guest's query from our own names, or pass it on to the resolvers."""
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
        key = src + frame[off - 8 : off - 6] + message
        query = self._queries.get(key)
        if query is not None:
            self.network.count("dns_repeated")
            self._again(query, now)
            return
        if (
            len(self._queries) >= QUERIES
            or self._guests.get(src, 0) >= PER_GUEST
            or self._held + len(message) > HELD
        ):
            self.network.count("dns_full")
            failure = _failure(message, question)
            self._answers.datagram(self._answers.neighbour(src), dst, PORT, sport, failure)
            return
        self.network.count("dns_queries")
        query = Query(self, key, message, question, self._answers.neighbour(src), sport, dst, now)
        order = self.order(now)
        query.tries = order * ROUNDS
        query.step = PATIENCE // max(len(order), 2)
        query.until = now + WAIT
        if not order:
            self.network.count("dns_no_resolver")
        self._queries[key] = query
        self._guests[src] = self._guests.get(src, 0) + 1
        self._held += len(message)
        self.proceed(query, now)

    def order(self, now: int, *, tcp: bool = False) -> list[Address]:
        """The resolvers, those first that answered last: over ``tcp``, or over UDP."""
        found = list(dict.fromkeys(self._resolvers()))[:TRIES_MAX]
        for good in (self._good, self._good_tcp) if tcp else (self._good,):
            if good is not None and good[0] in found and now < good[1]:
                found.remove(good[0])
                found.insert(0, good[0])
        return found

    def reached(self, resolver: Address, now: int) -> None:
        """A resolver took a connection."""
        self._good_tcp = resolver, now + GOOD_TIME

    def _again(self, query: Query, now: int) -> None:
        """The guest still waits for an answer."""
        query.until = now + WAIT
        waiting = query.waiting_for
        if waiting:
            self._ask(query, waiting[0])

    def proceed(self, query: Query, now: int) -> None:
        """Ask the next resolver; wait; or give up, if all have failed."""
        while query.tries:
            target = query.tries.pop(0)
            if target in query.failed:
                continue
            if self._ask(query, target):
                self._wake(query, now + query.step)
                return
            query.failed.add(target)
        if query.waiting_for:
            self._wake(query, query.until)
            return
        answer = query.answer
        if answer is None:
            self.network.count("dns_failed")
            answer = _failure(query.message, query.question)
        self._deliver(query, answer)

    def _wake(self, query: Query, at: int) -> None:
        query.deadline = at
        if self._next is None or at < self._next:
            self._next = at

    def _ask(self, query: Query, target: Address) -> bool:
        if target in query.asked:
            query.asked.remove(target)
        query.asked.append(target)
        family = 6 if ":" in target[0] else 4
        sock = query.sockets.get(family)
        if sock is None:
            try:
                sock = query.sockets[family] = self._host.udp(family, query)
            except OSError:
                self.network.count("dns_no_socket")
                return False
        return sock.sendto(query.message, target) == 0

    # ---- answers -------------------------------------------------------------------------------------------

    def answered(self, query: Query, answer: bytes, remote: Address, now: int) -> None:
        """A datagram came to the socket of ``query``."""
        if not self._genuine(query, answer, remote):
            self.network.count("dns_bogus")
            return
        if answer[3] & 15 in (SERVFAIL, REFUSED):
            query.answer = answer
            self._failed(query, remote, now)
            return
        self._good = _asked(query, remote) or remote, now + GOOD_TIME
        self._deliver(query, answer)

    def refused(self, query: Query, remote: Address, now: int) -> None:
        """An ICMP error came for what was sent to ``remote``."""
        self.network.count("dns_resolver_error")
        self._failed(query, remote, now)

    def _failed(self, query: Query, remote: Address, now: int) -> None:
        """A resolver will not answer this query: ask the next, unless that was done already."""
        target = _asked(query, remote)
        if target is None or target in query.failed:
            return
        query.failed.add(target)
        if target == query.asked[-1] or not query.waiting_for:
            self.proceed(query, now)

    @staticmethod
    def _genuine(query: Query, answer: bytes, remote: Address) -> bool:
        if len(answer) < HEADER or answer[:2] != query.message[:2] or not answer[2] & _QR:
            return False
        if _asked(query, remote) is None:
            return False
        if answer[4:6] == b"\0\0":  # some answer FORMERR and the like without the question
            return answer[3] & 15 != 0
        return answer[HEADER : HEADER + len(query.question)].lower() == query.question.lower()

    def _deliver(self, query: Query, answer: bytes) -> None:
        self._end(query)
        self._answers.datagram(query.guest, query.dst, PORT, query.port, answer)

    def _end(self, query: Query) -> None:
        if self._queries.pop(query.key, None) is not None:
            self._held -= len(query.message)
            guest = query.guest.address
            self._guests[guest] -= 1
            if not self._guests[guest]:
                del self._guests[guest]
        query.close()

    # ---- time, life ----------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When a resolver has had its time."""
        return self._next

    def run(self, now: int) -> None:
        """Move on from resolvers that do not answer."""
        for query in [query for query in self._queries.values() if query.deadline <= now]:
            if query.tries:
                self.network.count("dns_timeout")
                self.proceed(query, now)
            elif query.until > now:  # the guest asked again meanwhile
                self._wake(query, query.until)
            elif query.answer is not None:
                self._deliver(query, query.answer)
            else:
                self.network.count("dns_unanswered")
                self._end(query)
        self._next = min((query.deadline for query in self._queries.values()), default=None)

    def close(self) -> None:
        """Forget all queries and close their sockets."""
        for query in self._queries.values():
            query.close()
        self._queries.clear()
        self._guests.clear()
        self._held = 0
        self._next = None

    def flows(self, now: int) -> list[dict[str, Any]]:
        """Return a row of ``info usernet`` for each query in flight."""
        return [
            {
                "protocol": "UDP",
                "state": "dns",
                "fd": descriptor(next(iter(query.sockets.values()), None)),
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


def _asked(query: Query, remote: Address) -> Address | None:
    """The resolver that ``remote`` is, as it was asked."""
    for asked in query.asked:
        if remote == asked or (remote[1] == asked[1] and _same(remote[0], asked[0])):
            return asked
    return None


def _failure(message: bytes, question: bytes) -> bytes:
    """Return the SERVFAIL answer to a query, with the question that it had."""
    head = bytearray(message[:HEADER])
    head[2] |= _QR
    head[3] = _RA | SERVFAIL
    head[6:] = bytes(6)
    return bytes(head) + question


def _same(one: str, other: str) -> bool:
    """Whether two spellings are one address; scopes must be spelled alike."""
    return one.partition("%")[2] == other.partition("%")[2] and canonical(one) == canonical(other)
