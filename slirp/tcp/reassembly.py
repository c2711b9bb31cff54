"""Data of a guest that came ahead of a hole: kept, reported by SACK, handed over when the hole closes.

A sorted list of chunks [start, end) that never overlap; a segment that continues a chunk is appended to
it, so that one lost segment in a long train makes one chunk. Sequence numbers are unwrapped ints. The
number of chunks is bounded by ``limit``, their bytes by the window (the caller trims) and by the shared
``Buffers``; what does not fit is dropped as if the wire had lost it. The first copy of a byte wins.

Ref: RFC 9293 3.10.7.4 (seventh), RFC 2018 4 (which blocks to report).
"""

from __future__ import annotations

from bisect import bisect_right

from slirp.tcp.buffers import Buffers


class Reassembly:
    """Out-of-order data of one flow."""

    __slots__ = ("buffers", "data", "limit", "recent", "starts")

    def __init__(self, buffers: Buffers, limit: int) -> None:
        self.buffers = buffers
        self.limit = limit
        self.starts: list[int] = []  # sorted
        self.data: list[bytearray] = []  # data[i] begins at starts[i]
        self.recent: list[int] = []  # a sequence number within each recently touched block, newest first

    def add(self, seq: int, piece: bytes) -> int:
        """Keep ``piece`` at ``seq``; returns the bytes that were new and kept."""
        kept = 0
        end = seq + len(piece)
        pos = seq
        while pos < end:
            i = bisect_right(self.starts, pos) - 1
            if i >= 0:
                tail = self.starts[i] + len(self.data[i])
                if tail > pos:  # known already
                    pos = tail
                    continue
            stop = end
            if i + 1 < len(self.starts):
                stop = min(stop, self.starts[i + 1])
            size = stop - pos
            if self.buffers.used + size > self.buffers.cap:
                break
            if i >= 0 and self.starts[i] + len(self.data[i]) == pos:
                self.data[i] += piece[pos - seq : stop - seq]
            elif len(self.starts) >= self.limit:
                break
            else:
                self.starts.insert(i + 1, pos)
                self.data.insert(i + 1, bytearray(piece[pos - seq : stop - seq]))
            self.buffers.used += size
            kept += size
            pos = stop
        if pos > seq:
            self.recent.insert(0, seq)
            del self.recent[8:]
        return kept

    def take(self, nxt: int) -> bytearray | None:
        """The data from ``nxt`` on, without what lies before it; None when there is a hole."""
        while self.starts and self.starts[0] <= nxt:
            start = self.starts.pop(0)
            data = self.data.pop(0)
            self.buffers.used -= len(data)
            if start + len(data) > nxt:
                del data[: nxt - start]
                return data
        return None

    def blocks(self, count: int) -> list[tuple[int, int]]:
        """Up to ``count`` blocks as (left, right), the most recently touched first (RFC 2018 4)."""
        out: list[tuple[int, int]] = []
        starts = self.starts
        for seq in [*self.recent, *reversed(starts)]:
            i = bisect_right(starts, seq) - 1
            if i < 0 or starts[i] + len(self.data[i]) <= seq:
                continue
            first = last = i
            while first > 0 and starts[first - 1] + len(self.data[first - 1]) == starts[first]:
                first -= 1
            while last + 1 < len(starts) and starts[last] + len(self.data[last]) == starts[last + 1]:
                last += 1
            block = (starts[first], starts[last] + len(self.data[last]))
            if block not in out:
                out.append(block)
                if len(out) == count:
                    break
        return out

    def clear(self) -> None:
        """Give everything back."""
        for data in self.data:
            self.buffers.used -= len(data)
        self.starts.clear()
        self.data.clear()
        self.recent.clear()

    def __len__(self) -> int:
        return sum(map(len, self.data))

    def __bool__(self) -> bool:
        return bool(self.starts)
