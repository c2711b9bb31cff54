"""Loss recovery of the sender, kept apart because most flows never need it: the RTO estimator, the
scoreboard of what the guest reported by SACK, and the state of one recovery.

All sequence numbers are unwrapped ints.

Ref: RFC 6298 (RTO), RFC 6675 (SACK recovery: IsLost, SetPipe, NextSeg), RFC 6582 (NewReno), RFC 2018 8
(reneging: the scoreboard is forgotten on a timeout).
"""

from __future__ import annotations

from bisect import bisect_right

from slirp.tcp.states import CLOCK_GRANULARITY, DUP_THRESH, RTO_INITIAL, RTO_MAX, RTO_MIN


class Rto:
    """The retransmission timeout by RFC 6298, one sample at a time (Karn: never of a retransmitted
    segment)."""

    __slots__ = ("at", "retries", "rttvar", "seq", "silent", "srtt", "value")

    def __init__(self) -> None:
        self.srtt = 0  # ns
        self.rttvar = 0
        self.value = RTO_INITIAL
        self.at = 0  # when the timed segment was sent; 0: none is timed
        self.seq = 0  # its end
        self.retries = 0  # back-off exponent
        self.silent = 0  # timeouts since the guest last made progress or answered a zero-window probe

    def sample(self, rtt: int) -> None:
        """Take one round-trip time (2.2, 2.3)."""
        if self.srtt:
            self.rttvar += (abs(self.srtt - rtt) - self.rttvar) >> 2
            self.srtt += (rtt - self.srtt) >> 3
        else:
            self.srtt = rtt or 1
            self.rttvar = rtt >> 1
        self.value = min(RTO_MAX, max(RTO_MIN, self.srtt + max(CLOCK_GRANULARITY, self.rttvar << 2)))

    def timeout(self) -> int:
        """ns until the next expiry, with back-off (5.5)."""
        return min(self.value << self.retries, RTO_MAX)

    def back_off(self) -> None:
        """Note that the retransmission timer has expired once more."""
        self.at = 0
        self.silent += 1
        if self.retries < 16:
            self.retries += 1


class Scoreboard:
    """What the guest holds above SND.UNA: a bounded sorted list of disjoint ranges."""

    __slots__ = ("ends", "limit", "starts")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.starts: list[int] = []
        self.ends: list[int] = []

    def add(self, start: int, end: int) -> bool:
        """Note [start, end); True if it told something new. Beyond the limit it is ignored."""
        starts, ends = self.starts, self.ends
        first = bisect_right(starts, start) - 1
        if first >= 0 and ends[first] >= start:
            if ends[first] >= end:
                return False
        else:
            first += 1
        last = first
        while last < len(starts) and starts[last] <= end:
            start = min(start, starts[last])
            end = max(end, ends[last])
            last += 1
        if first == last and len(starts) >= self.limit:
            return False
        starts[first:last] = [start]
        ends[first:last] = [end]
        return True

    def cut(self, una: int) -> None:
        """Forget what lies below ``una``."""
        starts, ends = self.starts, self.ends
        while starts and ends[0] <= una:
            del starts[0], ends[0]
        if starts and starts[0] < una:
            starts[0] = una

    def sacked(self, low: int, high: int) -> int:
        """Bytes noted within [low, high)."""
        total = 0
        for start, end in zip(self.starts, self.ends):
            if start >= high:
                break
            if end > low:
                total += min(end, high) - max(start, low)
        return total

    def lost_edge(self, mss: int) -> int:
        """What is below and not noted is lost (RFC 6675 IsLost); 0: nothing is."""
        total = 0
        starts, ends = self.starts, self.ends
        for i in range(len(starts) - 1, -1, -1):
            total += ends[i] - starts[i]
            if total > (DUP_THRESH - 1) * mss or len(starts) - i >= DUP_THRESH:
                return starts[i]
        return 0

    def hole(self, low: int, high: int) -> tuple[int, int] | None:
        """The first range within [low, high) that is not noted."""
        for start, end in zip(self.starts, self.ends):
            if start > low:
                high = min(high, start)
                break
            low = max(low, end)
        return (low, high) if low < high else None


class Recovery:
    """One recovery: after three duplicate ACKs, or after a timeout."""

    __slots__ = ("high_rxt", "lost_min", "recover", "started", "timeout")

    def __init__(self, una: int, nxt: int, lost_min: int, timeout: bool) -> None:
        self.recover = nxt  # done when SND.UNA gets here (RFC 6582 2: recover)
        self.high_rxt = una  # retransmitted so far (RFC 6675 HighRxt)
        self.lost_min = lost_min  # below this everything not noted is lost whatever the scoreboard says
        self.timeout = timeout
        self.started = False  # the first retransmission does not ask the pipe
