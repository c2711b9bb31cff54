"""The sending half of one flow: data from the host to the guest.

A queue of ``bytes`` exactly as ``recv`` returned them, kept until acknowledged; nothing is joined or
re-sliced on the common path, where one chunk leaves as one super-frame. Sequence numbers are unwrapped
ints (they only grow), and become 32 bits on the wire, so that wrap-around has no special case anywhere.

    base <= una <= nxt <= end (+1 once our FIN is out)
    base: first byte of chunks[0]; una: oldest not acknowledged; nxt: next to send; end: next to queue

Congestion control: the initial window is 256 KiB. RFC 6928's ten segments protect an unknown path; ours
is the queue of one local wire, bounded and mostly lossless, so that probing it slowly only costs time.
Losses (a hub of many members may drop) are answered in full: RFC 5681 slow start and congestion avoidance
with byte counting, limited transmit (RFC 3042), RFC 6675 recovery with SACK, RFC 6582 without, RFC 6298
timeouts. There is no Nagle delay: the host application's own stack has done that.

Zero window: the persist timer is the retransmission timer. With nothing in flight it sends one new byte
beyond the window (RFC 9293 3.8.6.1), which is then repeated with back-off for as long as the guest
answers, or until the shared buffers are scarce and the window has been shut for ``HOARD`` (RFC 6429).

Ref: RFC 9293 3.8, RFC 5681, RFC 6298, RFC 6582, RFC 6675.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from slirp.contracts.link import F_CSUM
from slirp.tcp.recovery import Recovery, Rto, Scoreboard
from slirp.tcp.states import CWND_INITIAL, DATA_RETRIES, DUP_THRESH, HOARD, SUPER_FRAME
from slirp.wire.tcp import ACK, FIN, HEADER_LEN, PSH

if TYPE_CHECKING:
    from slirp.tcp.flow import Flow


class Sender:
    """SND.* of RFC 9293, the queue, and congestion control."""

    __slots__ = (
        "base",
        "board",
        "chunks",
        "cwnd",
        "dupacks",
        "end",
        "fin_out",
        "flow",
        "max_wnd",
        "mss",
        "nxt",
        "recovery",
        "rto",
        "rto_at",
        "scale",
        "shut_at",
        "ssthresh",
        "super",
        "una",
        "urg",
        "wl1",
        "wl2",
        "wnd",
    )

    def __init__(self, flow: Flow, iss: int, mss: int) -> None:
        self.flow = flow
        self.una = iss
        self.nxt = iss
        self.base = self.end = iss + 1  # the SYN takes one
        self.chunks: deque[bytes] = deque()
        self.wnd = 0
        self.wl1 = self.wl2 = 0
        self.max_wnd = 0
        self.scale = 0
        self.cwnd = CWND_INITIAL
        self.ssthresh = 1 << 62
        self.dupacks = 0
        self.fin_out = False
        self.urg = 0  # sequence number behind an urgent byte that is not acknowledged; 0: none
        self.shut_at = 0  # since when the guest's window has been shut; 0: it is open
        self.board: Scoreboard | None = None
        self.recovery: Recovery | None = None
        self.rto = Rto()
        self.rto_at = 0  # deadline, 0: off
        self.set_mss(mss)

    def set_mss(self, mss: int) -> None:
        """Largest payload of one segment, and of one super-frame (a whole number of segments)."""
        self.mss = mss
        self.super = max(1, (SUPER_FRAME - self.flow.path.ip_header - HEADER_LEN) // mss) * mss

    # -- queue

    def queue(self, data: bytes) -> None:
        """Add data from the host; ``output`` sends it."""
        self.chunks.append(data)
        self.end += len(data)
        self.flow.tcp.buffers.used += len(data)

    def peek(self, seq: int, size: int) -> bytes | memoryview:
        """``size`` bytes at ``seq``, without a copy unless they span chunks."""
        chunks = self.chunks
        last = chunks[-1]
        start = self.end - len(last)
        if seq >= start:
            if size == len(last):
                return last
            return memoryview(last)[seq - start : seq - start + size]
        parts: list[memoryview] = []
        pos = self.base
        for chunk in chunks:
            stop = pos + len(chunk)
            if stop > seq:
                part = memoryview(chunk)[seq - pos : seq - pos + size]
                if len(part) == size and not parts:
                    return part
                parts.append(part)
                size -= len(part)
                seq += len(part)
                if not size:
                    break
            pos = stop
        return b"".join(parts)

    def clear(self) -> None:
        """Drop the send queue and give its bytes back to the budget."""
        self.flow.tcp.buffers.used -= sum(map(len, self.chunks))
        self.chunks.clear()
        self.base = self.end
        self.board = self.recovery = None
        self.rto_at = 0

    # -- sending

    def pipe(self) -> int:
        """Bytes thought to be on the wire (RFC 6675 SetPipe; without SACK, RFC 6582 turned round)."""
        rec = self.recovery
        flight = self.nxt - self.una
        if rec is None:
            return flight
        board = self.board
        if board is None:
            if rec.timeout:
                lost = max(min(rec.lost_min, self.nxt), self.una)
                return self.nxt - lost + max(rec.high_rxt, self.una) - self.una
            return max(0, flight - self.dupacks * self.mss)
        lost = max(self._lost_edge(rec, board), self.una)
        high = max(min(rec.high_rxt, lost), self.una)
        total = self.nxt - lost - board.sacked(lost, self.nxt)
        return total + high - self.una - board.sacked(self.una, high)

    def _lost_edge(self, rec: Recovery, board: Scoreboard) -> int:
        return min(max(rec.lost_min, board.lost_edge(self.mss)), self.nxt)

    def usable(self) -> int:
        """Bytes of new data that the guest's window and congestion control allow now; may be negative."""
        room = self.una + self.wnd - self.nxt
        if self.recovery is not None:
            return min(room, self.cwnd - self.pipe())
        allowed = self.cwnd
        if self.dupacks:  # limited transmit (RFC 3042)
            allowed += min(self.dupacks, DUP_THRESH - 1) * self.mss
        return min(room, self.una + allowed - self.nxt)

    def segment_limit(self) -> int:
        """Payload of one frame: a super-frame where the wire takes them, else one MSS."""
        if self.urg:
            return self.mss  # the urgent pointer counts from the segment that it is in
        features = self.flow.tcp.link.features
        return self.super if features & F_CSUM and features & self.flow.wire.tso else self.mss

    def output(self, now: int, force: bool = False) -> None:
        """Send what may be sent: retransmissions first, then new data, then our FIN. Arms the timer.

        ``force``: the persist timer overrides the avoidance of silly windows.
        """
        if self.recovery is not None:
            self._retransmit(now)
        nxt = self.nxt
        end = self.end
        if nxt < end:
            flow = self.flow
            usable = self.usable()
            limit = self.segment_limit()
            mss = self.mss
            while nxt < end and usable > 0:
                left = end - nxt
                size = min(left, limit, usable)
                if size < left:
                    if size > mss:
                        size -= size % mss
                    elif size < mss and size < self.max_wnd >> 1 and not force:
                        break  # RFC 9293 3.8.6.2.1
                if not flow.emit(nxt, ACK | PSH if size == left else ACK, self.peek(nxt, size)):
                    return
                nxt += size
                self.nxt = nxt
                usable -= size
                rto = self.rto
                if not rto.at:
                    rto.at = now
                    rto.seq = nxt
        if nxt == end and self.flow.eof and not self.fin_out:
            if not self.flow.emit(end, ACK | FIN, b""):
                return
            self.nxt = end + 1
            self.fin_out = True
            self.flow.fin_sent(now)
        if not self.rto_at and self.una < max(self.nxt, self.end):
            self.arm(now)

    def arm(self, now: int) -> None:
        """Start the retransmission timer anew from ``now``."""
        self.rto_at = now + self.rto.timeout()
        self.flow.schedule(self.rto_at)

    def _retransmit(self, now: int) -> None:
        """Fill the holes that count as lost, as far as the pipe allows (RFC 6675 5 C)."""
        rec = self.recovery
        limit = self.segment_limit()
        mss = self.mss
        while rec is not None:
            room = self.cwnd - self.pipe()
            if room < mss and rec.started:
                return
            start = max(rec.high_rxt, self.una)
            board = self.board
            if board is None:
                stop = min(rec.lost_min, self.nxt)
                if start >= stop:
                    return
            else:
                hole = board.hole(start, self._lost_edge(rec, board))
                if hole is None:
                    return
                start, stop = hole
            size = min(stop - start, limit, max(room - room % mss, mss), self.una + self.wnd - start)
            if size <= 0 or not self.resend(start, size):
                return
            rec.started = True
            rec.high_rxt = start + size
            self.rto.at = 0

    def resend(self, seq: int, size: int) -> bool:
        """Send ``size`` sequence numbers from ``seq`` again, our FIN among them."""
        flags = ACK
        count = min(seq + size, self.end) - seq
        if seq + size > self.end:
            flags |= FIN
        self.flow.tcp.counters["retransmits"] += 1
        return self.flow.emit(seq, flags, self.peek(seq, count) if count > 0 else b"")

    # -- acknowledgements

    def acked(self, ack: int, now: int) -> None:
        """New data is acknowledged: una < ack <= nxt. Releases, measures, opens cwnd, re-arms the timer."""
        count = ack - self.una
        self.una = ack
        chunks = self.chunks
        base = self.base
        while chunks:
            stop = base + len(chunks[0])
            if stop > ack:
                break
            chunks.popleft()
            base = stop
        self.flow.tcp.buffers.used -= base - self.base
        self.base = base
        rto = self.rto
        rto.retries = rto.silent = 0
        if rto.at and ack >= rto.seq:
            rto.sample(now - rto.at)
            rto.at = 0
        cwnd = self.cwnd
        top = self.flow.tcp.limits.window_max
        if cwnd < top and (self.recovery is None or self.recovery.timeout):
            if self.recovery is not None and count > self.mss:
                count = self.mss  # RFC 3465 2.3
            if cwnd < self.ssthresh:
                self.cwnd = min(top, cwnd + count)
            else:
                self.cwnd = min(top, cwnd + max(1, self.mss * count // cwnd))
        if ack < self.nxt or self.nxt < self.end:
            self.arm(now)
        else:
            self.rto_at = 0

    def on_ack(self, ack: int, sacks: list[tuple[int, int]], duplicate: bool, now: int) -> None:
        """An acceptable ACK off the fast path: una <= ack <= nxt. ``duplicate`` as RFC 5681 2 defines it."""
        news = False
        if sacks:
            board = self.board
            if board is None:
                board = self.board = Scoreboard(self.flow.tcp.limits.sack_ranges)
            for left, right in sacks:
                if ack < right <= self.nxt and max(left, ack) < right and board.add(max(left, ack), right):
                    news = True
        if ack > self.una:
            self.acked(ack, now)
            self._progress(ack)
        elif duplicate or news:
            self.dupacks += 1
        board = self.board
        if board is not None:
            board.cut(self.una)
            if not board.starts and self.recovery is None:
                self.board = board = None
        if self.recovery is None and self.dupacks:
            lost = board is not None and board.lost_edge(self.mss) > self.una
            if self.dupacks >= DUP_THRESH or lost:
                self._fast_retransmit()

    def _progress(self, ack: int) -> None:
        """New data was acknowledged: a recovery ends, or goes on to the next hole."""
        rec = self.recovery
        before = self.dupacks
        self.dupacks = 0
        if rec is None:
            return
        if ack >= rec.recover:
            self.recovery = None
            if not rec.timeout:
                self.cwnd = self.ssthresh
            return
        if rec.timeout:
            return
        # A partial ACK: the next hole is lost, too (RFC 6582 3.2, RFC 6675 NextSeg 3).
        rec.lost_min = max(rec.lost_min, ack + self.mss)
        rec.started = False
        if self.board is None:
            rec.high_rxt = ack
            self.dupacks = max(0, before - 1)

    def _fast_retransmit(self) -> None:
        flight = self.nxt - self.una
        if not flight:
            return
        self.ssthresh = self.cwnd = max(flight >> 1, 2 * self.mss)
        self.recovery = Recovery(self.una, self.nxt, self.una + self.mss, False)

    def window_opened(self) -> None:
        """The guest's window was closed with data in flight: what it dropped meanwhile goes again at once."""
        if self.una < self.nxt:
            self.recovery = Recovery(self.una, self.nxt, self.nxt, True)
            self.rto.at = 0

    def timed_out(self, now: int) -> bool:
        """The retransmission (or persist) timer expired. False: give up."""
        rto = self.rto
        if rto.silent >= DATA_RETRIES:
            return False
        rto.back_off()
        if self.wnd:
            self.shut_at = 0
        elif not self.shut_at:
            self.shut_at = now
        elif now - self.shut_at >= HOARD and self.flow.tcp.buffers.scarce():
            return False
        if self.una == self.nxt:
            if self.nxt < self.end:  # persist
                if self.wnd > 0:
                    self.output(now, force=True)
                elif self.flow.emit(self.nxt, ACK, self.peek(self.nxt, 1)):
                    self.nxt += 1
        elif self.wnd == 0:
            self.resend(self.una, 1)
        else:
            if self.recovery is None or not self.recovery.timeout:
                self.ssthresh = max((self.nxt - self.una) >> 1, 2 * self.mss)
            self.cwnd = self.mss
            self.dupacks = 0
            self.board = None
            self.recovery = Recovery(self.una, self.nxt, self.nxt, True)
            self._retransmit(now)
        if self.una < max(self.nxt, self.end):
            self.arm(now)
        return True
