"""IPv4 reassembly of what guests send, small and bounded.

A datagram is kept as the list of its pieces until they cover it; then one frame comes out, as if it had
never been cut. Pieces that overlap in any way other than as exact repeats condemn the whole datagram (as
RFC 5722 does for IPv6, and RFC 8200): overlaps are attacks, not networks. Pieces may come in any order, the
last one first too.

Limits: ``DATAGRAMS`` at once, ``PIECES`` each, ``BYTES`` altogether, ``LIFETIME`` from the first piece; the
oldest goes first when a limit is reached. A condemned datagram keeps its entry, empty, so that late pieces
do not start it anew. A guest that lost a piece is not told (RFC 1122 3.3.2 would have ICMP 11/1): nobody
acts on it.

Ref: RFC 791 3.2; RFC 815; RFC 1122 3.3.2; RFC 3128; RFC 5722.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from struct import Struct

from . import checksum
from .wire import ETH_LEN, IP, IPV4_LEN, IPV4_MAX, MORE_FRAGMENTS, OFFSET_MASK, U16

SECOND = 1_000_000_000
DATAGRAMS = 64
PIECES = 128
BYTES = 4 << 20
LIFETIME = 15 * SECOND

_TOTAL_ID_FRAGMENT = Struct("!HHH")
Key = bytes  # source, destination, protocol, identification


class Datagram:
    """Pieces of one datagram, sorted by offset."""

    __slots__ = ("deadline", "end", "have", "head", "offsets", "pieces")

    def __init__(self, deadline: int) -> None:
        self.deadline = deadline
        self.offsets: list[int] = []
        self.pieces: list[bytes] = []
        self.have = 0  # bytes
        self.end: int | None = None  # length of the whole, once the last piece is there
        self.head = b""  # Ethernet and IPv4 header of the first piece


class Fragments:
    """The reassembly buffer of one stack. ``count(reason)`` counts what is given up."""

    def __init__(self, count: Callable[[str], None]) -> None:
        self._count = count
        self._table: dict[Key, Datagram | None] = {}  # in order of deadline; None: condemned
        self._deadlines: dict[Key, int] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._table)

    def add(self, frame: bytes, header: int, end: int, now: int) -> bytes | None:
        """A fragment whose IPv4 header is ``header`` bytes long and whose datagram ends at ``end`` of
        ``frame``.

        Returns the whole frame (a valid IPv4 header, no fragment bits) when this piece completed it.
        """
        _, _, flags = _TOTAL_ID_FRAGMENT.unpack_from(frame, IP + 2)
        offset = (flags & OFFSET_MASK) * 8
        data = frame[IP + header : end]
        size = len(data)
        more = flags & MORE_FRAGMENTS
        if not size or (more and size & 7) or offset + size > IPV4_MAX - header:
            self._count("fragment_malformed")
            return None
        key = frame[IP + 12 : IP + 20] + frame[IP + 9 : IP + 10] + frame[IP + 4 : IP + 6]
        datagram = self._entry(key, now)
        if datagram is None:
            return None
        if not self._insert(datagram, offset, data, not more):
            if not self._is_repeat(datagram, offset, data):
                self._condemn(key, datagram)
            return None
        self.bytes += size
        if offset == 0:
            datagram.head = frame[: IP + header]
        if datagram.end is not None and datagram.have == datagram.end:
            self._drop(key, datagram)
            return self._whole(datagram)
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
