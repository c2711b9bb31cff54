"""Segments off the fast path of ``Flow.input``: the checks of RFC 9293 3.10.7.3 and 3.10.7.4 in their order.

Everything that is not the next segment in order, without options, of a connection without losses comes here:
handshake, holes, duplicates, SACK, closed windows, RST, SYN, FIN, URG. ``arrive`` is the entry.

Ref: RFC 9293 3.10.7; RFC 5961 3 to 5 (RST, SYN and ACK that an attacker may have guessed); RFC 6191.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slirp.tcp.opening import agree, begin, established, send_syn
from slirp.tcp.reassembly import Reassembly
from slirp.tcp.states import (
    ACK_DELAY,
    CHALLENGE_GAP,
    CLOSED,
    CONNECTING,
    ESTABLISHED,
    FIN_ACKED,
    FIN_IN,
    FIN_WAIT_1,
    FIN_WAIT_2,
    HOLE,
    SYN_ACK_IN,
    SYN_ACKED,
    SYN_IN,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
)
from slirp.tcp.urgent import note
from slirp.wire.tcp import ACK, FIN, HALF, HEADER_LEN, MASK, RST, SYN, URG, Options, parse_options, unwrap

if TYPE_CHECKING:
    from slirp.tcp.flow import Flow

ISS_STEP = 1 << 17  # a new incarnation's ISS lies that far beyond the old one's last sequence number


class Segment:
    """One segment as it came: numbers as on the wire, payload ``frame[data:end]``."""

    __slots__ = ("ack", "data", "end", "frame", "seq", "window", "word")

    def __init__(self, frame: bytes, data: int, end: int, seq: int, ack: int, word: int, window: int) -> None:
        self.frame = frame
        self.data = data
        self.end = end
        self.seq = seq
        self.ack = ack
        self.word = word
        self.window = window

    def urgent(self) -> int:
        """Return the urgent pointer of the segment."""
        off = self.data - ((self.word >> 10) & 0x3C)
        return self.frame[off + 18] << 8 | self.frame[off + 19]

    def options(self) -> Options:
        """Return the options of the segment, parsed."""
        off = self.data - ((self.word >> 10) & 0x3C)
        return parse_options(self.frame, off + HEADER_LEN, self.data)


def arrive(flow: Flow, seg: Segment, now: int) -> None:
    """Judge one segment and act on it."""
    state = flow.state
    word = seg.word
    if state == CONNECTING:
        _in_connecting(flow, seg)
        return
    if state == SYN_SENT:
        _in_syn_sent(flow, seg, now)
        return
    if state == TIME_WAIT and _reopens(flow, seg, now):
        return
    rcv, snd = flow.rcv, flow.snd
    nxt = rcv.nxt
    seq = unwrap(seg.seq, nxt)
    size = seg.end - seg.data
    # first: sequence number
    span = size + (word & FIN) + (word >> 1 & 1)
    if not (seq < rcv.adv and seq + span > nxt if span else nxt <= seq <= rcv.adv):
        _out_of_window(flow, seg, seq, now)
        return
    # second: RST (RFC 5961 3.2)
    if word & RST:
        if seq == nxt:
            flow.tcp.counters["resets_received"] += 1
            flow.abort(False)
        else:
            flow.challenge(now)
        return
    # fourth: SYN (RFC 5961 4.2)
    if word & SYN:
        flow.challenge(now)
        return
    # fifth: ACK
    if not word & ACK or not _in_ack(flow, seg, seq, now):
        return
    # sixth: URG
    if word & URG and flow.state in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2):
        note(flow, seq, seg.urgent())
    # seventh and eighth: data, FIN
    if (size or word & FIN) and flow.state in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2):
        _in_data(flow, seg, seq, now)
        if flow.state == CLOSED:
            return
    snd.output(now)
    if flow.stalled:
        flow.pull(now)


def _in_connecting(flow: Flow, seg: Segment) -> None:
    """The host connects; the guest repeats its SYN, starts anew, or gives up."""
    word, nxt = seg.word, flow.rcv.nxt
    if word & RST:
        if (seg.seq - nxt) & MASK in (0, MASK):
            flow.abort(False)
    elif word & ACK:
        flow.tcp.reset(flow.path, flow.wire.ports, seg.ack, 0, RST)
    elif word & SYN and (seg.seq + 1 - nxt) & MASK:
        begin(flow, seg.frame, seg.options(), seg.seq)


def _in_syn_sent(flow: Flow, seg: Segment, now: int) -> None:
    """We opened towards the guest (RFC 9293 3.10.7.3)."""
    snd, rcv, word = flow.snd, flow.rcv, seg.word
    good = word & ACK and seg.ack == snd.nxt & MASK
    if word & ACK and not good:
        if not word & RST:
            flow.tcp.reset(flow.path, flow.wire.ports, seg.ack, 0, RST)
        return
    if word & RST:
        if good:
            flow.tcp.counters["resets_received"] += 1
            flow.abort(False)
        return
    if not word & SYN:
        return
    rcv.nxt = rcv.adv = seg.seq + 1
    agree(flow, seg.options())
    snd.wnd = snd.max_wnd = seg.window
    snd.wl1 = seg.seq
    if good:
        established(flow, SYN_ACK_IN, now)
        snd.wl2 = snd.una
        flow.ack_now(now)
    else:
        flow.move(SYN_IN)
        send_syn(flow, now)


def _reopens(flow: Flow, seg: Segment, now: int) -> bool:
    """A SYN of a new incarnation ends TIME-WAIT; it must be newer than all of the old one (RFC 6191)."""
    if seg.word & (SYN | ACK | RST | FIN) != SYN or (seg.seq - flow.rcv.nxt) & MASK >= HALF:
        return False
    iss = flow.snd.nxt + ISS_STEP
    flow.drop()
    flow.tcp.reopen(seg.frame, seg.data, seg.seq, seg.word, flow.key, iss & MASK, now)
    return True


def _out_of_window(flow: Flow, seg: Segment, seq: int, now: int) -> None:
    """A duplicate, a probe of our closed window, or a guess: tell where we are, but start no ACK storm."""
    word, state, rcv = seg.word, flow.state, flow.rcv
    if word & RST:
        return
    if state == SYN_RECEIVED and word & SYN and seq == rcv.nxt - 1:
        if now - flow.challenged >= CHALLENGE_GAP:  # our SYN|ACK was lost
            flow.challenged = now
            send_syn(flow, now)
        return
    if not word & (SYN | FIN) and word & ACK and seq == rcv.nxt - 1 and seg.end - seg.data <= 1:
        flow.probed(now)
        return
    if word & SYN or not (seg.end > seg.data or word & FIN):
        flow.challenge(now)
        return
    if state == TIME_WAIT and word & FIN:
        flow.live(now + flow.tcp.limits.time_wait)
    if seq == rcv.nxt and word & ACK and state != SYN_RECEIVED:
        # our window is closed: the ACK still counts
        if not _in_ack(flow, seg, seq, now):
            return
        flow.snd.output(now)
        if flow.stalled:
            flow.pull(now)
    if flow.state != CLOSED:
        flow.ack_now(now)


def _in_ack(flow: Flow, seg: Segment, seq: int, now: int) -> bool:
    """The fifth check: False if the segment is to be dropped, or the flow is gone."""
    snd = flow.snd
    ack = unwrap(seg.ack, snd.una)
    window = seg.window << snd.scale
    if flow.state == SYN_RECEIVED:
        if ack != snd.nxt:
            flow.tcp.reset(flow.path, flow.wire.ports, seg.ack, 0, RST)
            return False
        established(flow, SYN_ACKED, now)
        snd.wnd = snd.max_wnd = window
        snd.wl1, snd.wl2 = seq, ack
        return True
    if ack > snd.nxt or ack < snd.una - max(snd.max_wnd, 65535):  # RFC 5961 5.2
        flow.challenge(now)
        return False
    if ack < snd.una:
        return True  # an old duplicate; its data may still be new
    sacks: list[tuple[int, int]] = []
    if seg.word >> 12 > 5 and flow.sack_ok:
        for left, right in seg.options().sacks:
            sacks.append((unwrap(left, snd.una), unwrap(right, snd.una)))
    duplicate = (
        ack == snd.una
        and seg.end == seg.data
        and not seg.word & FIN
        and 0 < window == snd.wnd
        and snd.una != snd.nxt
    )
    snd.on_ack(ack, sacks, duplicate, now)
    if snd.wl1 < seq or (snd.wl1 == seq and snd.wl2 <= ack):
        opened = window and not snd.wnd
        snd.wnd = window
        snd.wl1, snd.wl2 = seq, ack
        snd.max_wnd = max(snd.max_wnd, window)
        if opened:
            snd.window_opened()
    if not snd.wnd:
        snd.rto.silent = 0  # the guest answers probes: its window may stay closed for ever
    if snd.fin_out and ack == snd.end + 1 and flow.state not in (FIN_WAIT_2, TIME_WAIT):
        before = flow.state
        flow.move(FIN_ACKED)
        if flow.state == CLOSED:
            if flow.rcv.pending is not None and flow.sock is not None:
                flow.state = before  # the guest is done with it, the host has not taken all: see guest_ended
                return True
            flow.drop()
            return False
        if flow.state == TIME_WAIT:
            _time_wait(flow, now)
    return True


def _in_data(flow: Flow, seg: Segment, seq: int, now: int) -> None:
    """Payload and FIN, trimmed to the window, in order or not."""
    rcv = flow.rcv
    frame, data, end = seg.frame, seg.data, seg.end
    fin = seg.word & FIN
    stop = seq + end - data
    if stop > rcv.adv:  # a FIN alone may sit on the edge: it needs no buffer
        fin = 0
        end -= stop - rcv.adv
        stop = rcv.adv
    if fin and (rcv.fin < 0 or rcv.fin == stop):
        rcv.fin = stop
    if seq > rcv.nxt:
        if end > data:
            _hold_back(flow, seq, frame[data:end], now)
        flow.ack_now(now)
        return
    data += rcv.nxt - seq
    rushed = rcv.ooo is not None
    if data < end:
        rcv.owed += end - data
        if not flow.deliver(frame, data, end):
            return
        while rcv.ooo is not None:
            more = rcv.ooo.take(rcv.nxt)
            if more is not None:
                rcv.hole_at = now + HOLE
            if not rcv.ooo:
                rcv.give_up()
            if more is None:
                break
            piece = bytes(more)
            if not flow.deliver(piece, 0, len(piece)):
                break
        if flow.state == CLOSED:
            return
    if rcv.nxt == rcv.fin:
        rushed = True
        _in_fin(flow, now)
        if flow.state == CLOSED:
            return
    if rushed or rcv.owed >= flow.snd.mss << 1:
        flow.ack_now(now)
    elif rcv.owed and not rcv.ack_at:
        rcv.ack_at = now + ACK_DELAY
        flow.schedule(rcv.ack_at)


def _hold_back(flow: Flow, seq: int, piece: bytes, now: int) -> None:
    """Data behind a hole. Data behind the FIN are nonsense and dropped."""
    rcv, tcp = flow.rcv, flow.tcp
    if rcv.fin >= 0:
        piece = piece[: max(0, rcv.fin - seq)]
    if rcv.ooo is None:
        rcv.hole_at = now + HOLE
        flow.schedule(rcv.hole_at)
        rcv.ooo = Reassembly(rcv.buffers, tcp.limits.reassembly_chunks)
    tcp.counters["out_of_order"] += 1
    if rcv.ooo.add(seq, piece) < len(piece):
        tcp.counters["reassembly_dropped"] += 1  # a repetition, or no room
    if not rcv.ooo:
        rcv.give_up()


def _in_fin(flow: Flow, now: int) -> None:
    """The guest's FIN is next in order."""
    rcv = flow.rcv
    rcv.nxt += 1
    rcv.adv = max(rcv.adv, rcv.nxt)
    rcv.give_up()
    flow.move(FIN_IN)
    if rcv.pending is None:
        flow.guest_ended()
    if flow.state == TIME_WAIT:
        _time_wait(flow, now)


def _time_wait(flow: Flow, now: int) -> None:
    """Both directions are done on the guest's side; remember it for 2 MSL."""
    flow.snd.rto_at = 0
    flow.live(now + flow.tcp.limits.time_wait)
    flow.tcp.time_wait(flow)
