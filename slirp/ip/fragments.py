"""Reassembly of what guests send in fragments, small and bounded, for both families.

A datagram is kept as the list of its pieces until they cover it; then one frame comes out, as if it had
never been cut. Pieces that overlap in any way other than as exact repeats condemn the whole datagram
(RFC 5722, RFC 8200 4.5; RFC 8900 advises the same for IPv4): overlaps are attacks, not networks. Pieces may come in
any order, the last one first too. ``Fragments`` knows no header; ``Fragments4`` and ``Fragments6`` do.

Limits: ``DATAGRAMS`` at once, ``PIECES`` each, ``BYTES`` altogether, ``LIFETIME`` from the first piece; the
oldest goes first when a limit is reached. A condemned datagram keeps its entry, empty, so that late pieces
do not start it anew. Who lost a piece is told when the time is over, if the first piece had come (``expired``).

Ref: RFC 791 3.2; RFC 815; RFC 1122 3.3.2; RFC 3128; RFC 5722; RFC 6946; RFC 8200 4.5.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from struct import Struct

from ..wire import checksum
from ..wire.ipv4 import ETH_LEN, IP, IPV4_LEN, IPV4_MAX, MORE_FRAGMENTS, OFFSET_MASK, U16
from ..wire.ipv6 import (
    ETH_IPV6_LEN,
    FRAGMENT_HEADER,
    FRAGMENT_LEN,
    FRAGMENT_MORE,
    FRAGMENT_OFFSET,
    IP6_SRC,
    PAYLOAD_LENGTH,
    PAYLOAD_MAX,
)

SECOND = 1_000_000_000
DATAGRAMS = 64
PIECES = 128
BYTES = 4 << 20
LIFETIME = 15 * SECOND

_TOTAL_ID_FRAGMENT = Struct("!HHH")
Key = bytes  # source, destination, identification, and IPv4's protocol
Expired = Callable[[bytes], None]
"""``(frame)``: the first fragment, whole, of a datagram that was given up."""


class Datagram:
    """Pieces of one datagram, sorted by offset."""

    __slots__ = ("deadline", "end", "first", "have", "head", "offsets", "pieces")

    def __init__(self, deadline: int) -> None:
        self.deadline = deadline
        self.offsets: list[int] = []
        self.pieces: list[bytes] = []
        self.have = 0  # bytes
        self.end: int | None = None  # length of the whole, once the last piece is there
        self.head = b""  # headers of the first piece
        self.first = b""  # its frame


class Fragments:
    """The reassembly buffer of one family. ``count(reason)`` counts what is given up."""

    def __init__(self, count: Callable[[str], None], expired: Expired = lambda frame: None) -> None:
        self._count = count
        self._expired = expired
        self._table: dict[Key, Datagram | None] = {}  # in order of deadline; None: condemned
        self._deadlines: dict[Key, int] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._table)

    def piece(
        self, key: Key, offset: int, more: bool, data: bytes, head: bytes, frame: bytes, now: int
    ) -> Datagram | None:
        """A piece at ``offset``; ``head``: its headers, ``frame``: all of it. The datagram, if that completed it."""
        datagram = self._entry(key, now)
        if datagram is None:
            return None
        if not self._insert(datagram, offset, data, not more):
            if not self._is_repeat(datagram, offset, data):
                self._condemn(key, datagram)
            return None
        self.bytes += len(data)
        if offset == 0:
            datagram.head = head
            datagram.first = frame
        if datagram.end is not None and datagram.have == datagram.end:
            self._drop(key, datagram)
            return datagram
        if len(datagram.pieces) >= PIECES:
            self._condemn(key, datagram)
            return None
        while self.bytes > BYTES:
            self._evict()
        return None

    def _entry(self, key: Key, now: int) -> Datagram | None:
        if key in self._table:
            return self._table[key]
        while len(self._table) >= DATAGRAMS:
            self._evict()
        datagram = self._table[key] = Datagram(now + LIFETIME)
        self._deadlines[key] = now + LIFETIME
        return datagram

    @staticmethod
    def _insert(datagram: Datagram, offset: int, data: bytes, last: bool) -> bool:
        """Put a piece in its place; False: it overlaps, or contradicts the length."""
        size = len(data)
        stop = offset + size
        offsets = datagram.offsets
        place = bisect_left(offsets, offset)
        if place < len(offsets) and offsets[place] < stop:
            return False
        if place and offsets[place - 1] + len(datagram.pieces[place - 1]) > offset:
            return False
        if last:
            if datagram.end is not None or (offsets and offsets[-1] > offset):
                return False
            datagram.end = stop
        elif datagram.end is not None and stop > datagram.end:
            return False
        offsets.insert(place, offset)
        datagram.pieces.insert(place, data)
        datagram.have += size
        return True

    @staticmethod
    def _is_repeat(datagram: Datagram, offset: int, data: bytes) -> bool:
        place = bisect_left(datagram.offsets, offset)
        return (
            place < len(datagram.offsets)
            and datagram.offsets[place] == offset
            and datagram.pieces[place] == data
        )

    def _condemn(self, key: Key, datagram: Datagram) -> None:
        self._count("fragment_overlap" if len(datagram.pieces) < PIECES else "fragment_pieces")
        self.bytes -= datagram.have
        self._table[key] = None

    def _drop(self, key: Key, datagram: Datagram) -> None:
        del self._table[key]
        del self._deadlines[key]
        self.bytes -= datagram.have

    def _evict(self) -> None:
        key, datagram = next(iter(self._table.items()))
        del self._table[key]
        del self._deadlines[key]
        if datagram is not None:
            self.bytes -= datagram.have
            self._count("fragment_evicted")

    def next_deadline(self) -> int | None:
        """When the oldest datagram is given up."""
        return next(iter(self._deadlines.values()), None)

    def run(self, now: int) -> None:
        """Give up what is too old."""
        while self._deadlines:
            key, deadline = next(iter(self._deadlines.items()))
            if deadline > now:
                return
            datagram = self._table.pop(key)
            del self._deadlines[key]
            if datagram is not None:
                self.bytes -= datagram.have
                self._count("fragment_timeout")
                if datagram.first:
                    self._expired(datagram.first)


class Fragments4(Fragments):
    """IPv4."""

    def add(self, frame: bytes, header: int, end: int, now: int) -> bytes | None:
        """A fragment whose IPv4 header is ``header`` bytes long and whose datagram ends at ``end`` of
        ``frame``.

        Returns the whole frame (a valid IPv4 header, no fragment bits) when this piece completed it.
        """
        _, _, flags = _TOTAL_ID_FRAGMENT.unpack_from(frame, IP + 2)
        offset = (flags & OFFSET_MASK) * 8
        data = frame[IP + header : end]
        size = len(data)
        more = bool(flags & MORE_FRAGMENTS)
        if not size or (more and size & 7) or offset + size > IPV4_MAX - header:
            self._count("fragment_malformed")
            return None
        key = frame[IP + 12 : IP + 20] + frame[IP + 9 : IP + 10] + frame[IP + 4 : IP + 6]
        datagram = self.piece(key, offset, more, data, frame[: IP + header], frame, now)
        return self._whole(datagram) if datagram is not None else None

    def _whole(self, datagram: Datagram) -> bytes | None:
        head = bytearray(datagram.head)
        header = len(head) - ETH_LEN
        length = header + datagram.have
        if header < IPV4_LEN or length > IPV4_MAX:
            self._count("fragment_malformed")
            return None
        _TOTAL_ID_FRAGMENT.pack_into(head, IP + 2, length, U16.unpack_from(head, IP + 4)[0], 0)
        U16.pack_into(head, IP + 10, 0)
        U16.pack_into(head, IP + 10, checksum.checksum(bytes(head[IP:])))
        return bytes(head) + b"".join(datagram.pieces)


class Fragments6(Fragments):
    """IPv6."""

    def add(self, frame: bytes, off: int, link: int, end: int, now: int) -> bytes | None:
        """A fragment whose fragment header is at ``off``, named by the byte at ``link``, and which ends at ``end``.

        Returns the whole frame, without the fragment header, when this piece completed it. Raises
        ``MalformedFragment`` where the sender is to be told.
        """
        _, _, flags, ident = FRAGMENT_HEADER.unpack_from(frame, off)
        offset = flags & FRAGMENT_OFFSET
        more = bool(flags & FRAGMENT_MORE)
        start = off + FRAGMENT_LEN
        data = frame[start:end]
        if more and len(data) & 7:
            raise MalformedFragment(PAYLOAD_LENGTH)
        if offset + len(data) + off - ETH_IPV6_LEN > PAYLOAD_MAX:
            raise MalformedFragment(off + 2)
        if not offset and not more:  # atomic: never waits for others (RFC 6946)
            return self._joined(frame[:off], link, frame[off], (data,))
        if not data:
            self._count("fragment_malformed")
            return None
        key = frame[IP6_SRC:ETH_IPV6_LEN] + ident.to_bytes(4, "big")
        head = frame[:off] + bytes((link >> 8, link & 0xFF, frame[off]))
        datagram = self.piece(key, offset, more, data, head, frame[:end], now)
        if datagram is None:
            return None
        head = datagram.head
        if len(head) - 3 - ETH_IPV6_LEN + datagram.have > PAYLOAD_MAX:
            self._count("fragment_malformed")
            return None
        return self._joined(head[:-3], head[-3] << 8 | head[-2], head[-1], datagram.pieces)

    @staticmethod
    def _joined(head: bytes, link: int, protocol: int, pieces: Iterable[bytes]) -> bytes:
        """The unfragmentable part with the fragmentable one behind it."""
        whole = bytearray(head)
        whole[link] = protocol
        for piece in pieces:
            whole += piece
        U16.pack_into(whole, PAYLOAD_LENGTH, len(whole) - ETH_IPV6_LEN)
        return bytes(whole)


class MalformedFragment(ValueError):
    """A fragment about which its sender is to be told; ``pointer``: the byte of the frame that is wrong."""

    def __init__(self, pointer: int) -> None:
        super().__init__(pointer)
        self.pointer = pointer
