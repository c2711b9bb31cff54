"""One TCP connection: the guest's peer on one side, a host socket on the other.

The state machine of RFC 9293 in a module of its own; the sending and the receiving half are
``tcp_sender`` and ``tcp_receiver``. The host socket is a byte stream, so half-closes and resets are all
that crosses beside data:

    guest FIN, all its data taken by the socket -> shutdown()
    guest RST, or gone                          -> close(reset=True)
    end of stream from the host                 -> FIN, after all data
    the host's error                            -> RST
    both directions ended                       -> close(); the guest's side ends alone (LAST-ACK ...)

Opening: the host connects first; the guest gets SYN|ACK only when that succeeded, so that it sees the
truth about the port. The last target's error decides what it sees instead: refused is RST; no route is
ICMP net or host unreachable; administratively prohibited ICMP 13. Timed out is silence, for that is what
the network itself would show: the guest's own SYN retries then end in its own time-out. Want of
descriptors or ports on this host is silence as well: the guest tries again.

Not done: timestamps (RFC 7323 3; PAWS guards against segments older than a wrap of the sequence space,
which a local wire cannot deliver), ECN, Fast Open, the urgent pointer (urgent data are passed in line).

Timers, all in one deadline (``due``): retransmission and persist (``snd.rto_at``), delayed ACK
(``rcv.ack_at``), another try for buffer space (``pull_at``), and ``life_at``: connect time-out, idle
probe, TIME-WAIT.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from slirp.host import Address, TcpSocket
from slirp.link import CODE_HOST, CODE_NET, CODE_PROHIBITED, Path
from slirp.tcp_reassembly import Reassembly
from slirp.tcp_receiver import Receiver
from slirp.tcp_sender import Sender
from slirp.tcp_state import (
    ABORT,
    ACK_DELAY,
    CHALLENGE_GAP,
    CLOSE_WAIT,
    CLOSED,
    CONNECTING,
    ESTABLISHED,
    FIN_ACKED,
    FIN_IN,
    FIN_OUT,
    FIN_WAIT_1,
    FIN_WAIT_2,
    HOST_CONNECTED,
    KEEPALIVE_GAP,
    KEEPALIVE_PROBES,
    PULL_BATCH,
    STARVED_RETRY,
    SYN_ACK_IN,
    SYN_ACK_RETRIES,
    SYN_ACKED,
    SYN_IN,
    SYN_RECEIVED,
    SYN_RETRIES,
    SYN_SENT,
    TIME_WAIT,
    TRANSITIONS,
    WINDOW_SCALE,
)
from slirp.tcp_wire import (
    ACK,
    DEFAULT_MSS,
    FIN,
    HALF,
    HEADER_LEN,
    MASK,
    MIN_MSS,
    RST,
    SYN,
    Options,
    Wire,
    build,
    parse_options,
    sack_option,
    syn_options,
    unwrap,
)

if TYPE_CHECKING:
    from slirp.tcp import Tcp

FAST_MASK = 0xF000 | FIN | SYN | RST | ACK | 0x20  # header length and all flags but PSH and ECN's
FAST_WORD = 0x5000 | ACK
NO_OPTIONS = Options()

UNREACHABLE_CODES = {
    errno.ENETUNREACH: CODE_NET,
    errno.ENETDOWN: CODE_NET,
    errno.EHOSTUNREACH: CODE_HOST,
    errno.EHOSTDOWN: CODE_HOST,
    errno.EACCES: CODE_PROHIBITED,
    errno.EPERM: CODE_PROHIBITED,
}
SILENT_ERRORS = frozenset(
    (errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
)


class Flow:
    """One connection; implements ``slirp.host.TcpEvents``."""

    __slots__ = (
        "challenged",
        "due",
        "eof",
        "key",
        "life_at",
        "path",
        "probes",
        "pull_at",
        "rcv",
        "sack_ok",
        "seen",
        "snd",
        "sock",
        "stalled",
        "state",
        "syn",
        "targets",
        "tcp",
        "watching",
        "wire",
    )

    def __init__(self, tcp: Tcp, path: Path, key: bytes, state: int, iss: int, irs: int, now: int) -> None:
        mss = path.mtu - path.ip_header - HEADER_LEN
        self.tcp = tcp
        self.key = key
        self.path = path
        self.state = state
        self.wire = Wire(tcp.link, path, int.from_bytes(key[-2:], "big"), int.from_bytes(key[-4:-2], "big"))
        self.snd = Sender(self, iss, mss)
        self.rcv = Receiver(tcp.buffers, irs + 1, tcp.limits.window_max, mss)
        self.sock: TcpSocket | None = None
        self.syn = b""  # the guest's SYN, kept for ICMP while the host connects
        self.targets: list[Address] = []  # in use first, then those not tried yet
        self.sack_ok = False
        self.eof = False  # the host sent end of stream
        self.stalled = False  # reading from the host waits for the guest's window
        self.watching = 0  # what the socket reports: 1 readable, 2 writable
        self.seen = now  # last segment of the guest
        self.challenged = -CHALLENGE_GAP
        self.probes = 0
        self.due = 0  # the entry in tcp's heap that counts, 0: none
        self.life_at = 0
        self.pull_at = 0

    # -- small tools

    def move(self, event: str) -> None:
        """Take the transition of TRANSITIONS."""
        self.state = TRANSITIONS[self.state, event]

    def schedule(self, at: int) -> None:
        """Be called by ``timers`` at ``at`` or earlier."""
        if not self.due or at < self.due:
            self.due = at
            self.tcp.push(at, self)

    def live(self, at: int) -> None:
        """Set the life timer."""
        self.life_at = at
        self.schedule(at)

    def watch(self, bits: int) -> None:
        """Tell the socket what to report: 1 readable, 2 writable."""
        if bits != self.watching and self.sock is not None:
            self.watching = bits
            self.sock.watch(bool(bits & 1), bool(bits & 2))

    def drop(self) -> None:
        """Forget the flow: nothing is held after this. The socket is the caller's business."""
        self.state = CLOSED
        self.snd.clear()
        self.rcv.clear()
        self.syn = b""
        self.due = 0
        self.tcp.forget(self)

    def abort(self, tell_guest: bool) -> None:
        """End at once: RST to the host and, if ``tell_guest``, to the guest."""
        if self.state == CLOSED:
            return
        if tell_guest and self.state not in (CONNECTING, TIME_WAIT):
            flags = RST if self.state == SYN_SENT else RST | ACK
            self.tcp.counters["resets_sent"] += 1
            self._special(self.snd.nxt, flags)
        sock, self.sock = self.sock, None
        self.move(ABORT)
        self.drop()
        if sock is not None:
            sock.close(reset=True)

    # -- sending

    def emit(self, seq: int, flags: int, data: bytes | memoryview) -> bool:
        """Send one segment with our current ACK and window. False: the wire is full, we will be resumed."""
        rcv = self.rcv
        if self.wire.segment(seq, rcv.nxt, flags, rcv.window(), data):
            rcv.ack_at = 0
            rcv.owed = 0
            return True
        self.tcp.hold(self)
        return False

    def ack_now(self, now: int) -> None:
        """Send an ACK, with SACK blocks when there is a hole."""
        rcv = self.rcv
        if rcv.ooo and self.sack_ok:
            if not self._special(self.snd.nxt, ACK, sack_option(rcv.ooo.blocks(4))):
                rcv.ack_at = now
        elif not self.emit(self.snd.nxt, ACK, b""):
            rcv.ack_at = now

    def _special(self, seq: int, flags: int, options: bytes = b"") -> bool:
        """Send a segment without data and with any flags and options."""
        rcv = self.rcv
        window = rcv.window() if flags & RST == 0 else 0
        ack = rcv.nxt if flags & ACK else 0
        link = self.tcp.link
        if link.send(*build(self.path, link.features, self.wire.ports, seq, ack, flags, window, options)):
            rcv.ack_at = 0
            rcv.owed = 0
            return True
        if self.state != CLOSED:
            self.tcp.hold(self)
        return False

    def send_syn(self, now: int) -> None:
        """Send our SYN or SYN|ACK, and arm its timer."""
        snd, rcv = self.snd, self.rcv
        snd.nxt = snd.una + 1
        mss = self.path.mtu - self.path.ip_header - HEADER_LEN
        answer = self.state == SYN_RECEIVED
        scale, rcv.scale = rcv.scale, 0  # the window of a SYN is not scaled
        options = syn_options(mss, scale, self.sack_ok)
        self._special(snd.una, SYN | ACK if answer else SYN, options)
        rcv.scale = scale
        snd.arm(now)

    def challenge(self, now: int) -> None:
        """An ACK that an attacker could provoke: at most one per CHALLENGE_GAP (RFC 5961 7)."""
        if now - self.challenged >= CHALLENGE_GAP:
            self.challenged = now
            self.tcp.counters["challenge_acks"] += 1
            self.ack_now(now)

    def fin_sent(self, now: int) -> None:
        """The sender has sent our FIN."""
        self.move(FIN_OUT)

    # -- opening

    def begin(self, frame: bytes, options: Options, irs: int) -> None:
        """Note the guest's SYN: options agreed, first sequence number."""
        rcv, snd = self.rcv, self.snd
        self.syn = frame
        rcv.nxt = rcv.adv = irs + 1
        self._agree(options)
        snd.wl1 = irs

    def _agree(self, options: Options) -> None:
        """Options of the guest's SYN or SYN|ACK."""
        snd, rcv, path = self.snd, self.rcv, self.path
        mss = min(options.mss or DEFAULT_MSS[path.family], path.mtu - path.ip_header - HEADER_LEN)
        mss = max(mss, MIN_MSS)
        snd.set_mss(mss)
        self.wire.set_mss(mss)
        self.sack_ok = options.sack_ok
        if options.scale >= 0:
            snd.scale = options.scale
            rcv.scale = WINDOW_SCALE
        else:
            snd.scale = rcv.scale = 0
            if self.state == CONNECTING:
                rcv.scale = -1  # do not offer it in our SYN|ACK
            rcv.limit = min(rcv.limit, 65535)

    def connect(self, now: int) -> None:
        """Try the next target of the host."""
        error = errno.ECONNREFUSED
        while self.targets:
            try:
                self.sock = self.tcp.host.tcp(self.targets[0], self)
            except OSError as failure:
                error = failure.errno or errno.ECONNREFUSED
                self.targets.pop(0)
                continue
            self.live(now + self.tcp.limits.connect_timeout)
            return
        self._connect_failed(error)

    def _connect_failed(self, error: int) -> None:
        """No target is left: tell the guest what ``error`` says."""
        tcp = self.tcp
        frame = self.syn
        tcp.counters["connects_failed"] += 1
        self.move(ABORT)
        self.drop()
        if error in SILENT_ERRORS:
            return
        if error in UNREACHABLE_CODES:
            tcp.link.unreachable(frame, UNREACHABLE_CODES[error])
            return
        tcp.counters["resets_sent"] += 1
        tcp.link.send(*build(self.path, tcp.link.features, self.wire.ports, 0, self.rcv.nxt, RST | ACK, 0))

    def _established(self, event: str, now: int) -> None:
        """The three-way handshake is done."""
        snd = self.snd
        self.move(event)
        snd.rto_at = 0
        snd.rto.retries = snd.rto.silent = 0
        snd.una = snd.nxt
        self.syn = b""
        self.live(now + self.tcp.limits.idle)
        self.watch(1)

    # -- events of the host socket

    def host_connected(self, now: int) -> None:
        """The host's connect succeeded: SYN|ACK."""
        if self.state != CONNECTING:
            return
        self.syn = b""
        self.life_at = 0
        del self.targets[1:]
        self.move(HOST_CONNECTED)
        self.send_syn(now)

    def host_failed(self, error: int, now: int) -> None:
        """The host's connect failed, or the connection broke. The socket is closed already."""
        self.sock = None
        if self.state == CONNECTING:
            self.targets.pop(0)
            if self.targets:
                self.connect(now)
            else:
                self._connect_failed(error)
            return
        self.abort(True)

    def host_readable(self, now: int) -> None:
        """Data, end of stream or an error waits in the socket."""
        self.pull(now)

    def host_writable(self, now: int) -> None:
        """The socket takes bytes again."""
        rcv = self.rcv
        sock = self.sock
        if sock is None:
            return
        pending = rcv.pending
        if pending:
            try:
                with memoryview(pending) as view:
                    count = sock.send(view)
            except OSError:
                self.abort(True)
                return
            del pending[:count]
            rcv.buffers.used -= count
            if pending:
                if self.state in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2) and rcv.update_due():
                    self.ack_now(now)
                return
            rcv.pending = None
        self.watch(self.watching & 1)
        if self.state in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, SYN_RECEIVED):
            if rcv.update_due():
                self.ack_now(now)
        else:
            self._guest_ended()

    def _guest_ended(self) -> None:
        """The guest's FIN is in and all its data has gone to the socket."""
        sock = self.sock
        if sock is None:
            return
        if self.eof:
            self.sock = None
            sock.close()
        else:
            try:
                sock.shutdown()
            except OSError:
                self.abort(True)

    def pull(self, now: int) -> None:
        """Read from the host what the guest's window, congestion control and the buffers allow; send it."""
        sock = self.sock
        if sock is None or self.eof or (self.state != ESTABLISHED and self.state != CLOSE_WAIT):
            return
        snd = self.snd
        tcp = self.tcp
        budget = PULL_BATCH
        mss = snd.mss
        while True:
            if snd.nxt < snd.end:
                snd.output(now)
            if snd.nxt < snd.end or tcp.full:
                break
            usable = snd.usable()
            size = snd.super
            if usable < size:
                flight = snd.nxt > snd.una
                if flight:
                    if usable < mss or usable < snd.wnd >> 2:
                        break  # an ACK is on its way and will open the window further
                    size = usable
                elif usable < mss and usable < snd.max_wnd >> 1:
                    size = mss  # zero or silly window: read little, for the persist timer
                else:
                    size = usable
                if size > mss:
                    size -= size % mss
            room = tcp.buffers.room()
            if room < size:
                if room < mss:
                    tcp.counters["starved"] += 1
                    self.pull_at = now + STARVED_RETRY
                    self.schedule(self.pull_at)
                    break
                size = room
            try:
                data = sock.recv(size)
            except OSError:
                self.abort(True)
                return
            if data is None:
                self.stalled = False
                self.watch(self.watching | 1)
                return
            if not data:
                self._host_ended(now)
                return
            snd.queue(data)
            snd.output(now)
            count = len(data)
            budget -= count
            if count < size or budget <= 0:  # drained, or the others' turn: the event comes again
                if snd.nxt == snd.end:
                    self.stalled = False
                    self.watch(self.watching | 1)
                    return
        self.stalled = True
        self.watch(self.watching & 2)
        if tcp.full:
            tcp.hold(self)

    def _host_ended(self, now: int) -> None:
        """End of stream from the host: FIN to the guest behind all data."""
        self.eof = True
        self.stalled = False
        self.watch(self.watching & 2)
        if self.state == CLOSE_WAIT and self.rcv.pending is None and self.sock is not None:
            sock, self.sock = self.sock, None
            sock.close()
        self.snd.output(now)

    # -- segments of the guest

    def input(
        self, frame: bytes, data: int, end: int, seq: int, ack: int, word: int, window: int, now: int
    ) -> None:
        """One segment with a good checksum: header fields as on the wire, payload ``frame[data:end]``."""
        rcv = self.rcv
        snd = self.snd
        self.seen = now
        size = end - data
        state = self.state
        if (
            word & FAST_MASK == FAST_WORD
            and seq == rcv.nxt & MASK
            and (state == ESTABLISHED or state == FIN_WAIT_2 or (state == CLOSE_WAIT and not size))
            and snd.recovery is None
            and not snd.dupacks
            and rcv.ooo is None
            and size <= rcv.adv - rcv.nxt
        ):
            fresh = (ack - snd.una) & MASK
            window <<= snd.scale
            if fresh:
                if fresh > snd.nxt - snd.una:
                    self._slow(frame, data, end, seq, ack, word, window >> snd.scale, now)
                    return
                snd.acked(snd.una + fresh, now)
            elif not size and window == snd.wnd and snd.una != snd.nxt:
                self._slow(frame, data, end, seq, ack, word, window >> snd.scale, now)
                return
            if window != snd.wnd:
                if not snd.wnd and snd.una != snd.nxt:
                    self._slow(frame, data, end, seq, ack, word, window >> snd.scale, now)
                    return
                snd.wnd = window
                if window > snd.max_wnd:
                    snd.max_wnd = window
            snd.wl1 = rcv.nxt
            snd.wl2 = snd.una
            if size:
                if not self._deliver(frame, data, end):
                    return
                rcv.owed += size
                if rcv.owed >= snd.mss << 1:
                    if not self.emit(snd.nxt, ACK, b""):
                        rcv.ack_at = now
                elif not rcv.ack_at:
                    rcv.ack_at = now + ACK_DELAY
                    self.schedule(rcv.ack_at)
            if self.stalled:
                self.pull(now)
            elif snd.nxt < snd.end:
                snd.output(now)
            return
        self._slow(frame, data, end, seq, ack, word, window, now)

    def _deliver(self, frame: bytes, data: int, end: int) -> bool:
        """In-order payload to the host socket, or behind what waits there; moves RCV.NXT. False: not taken."""
        rcv = self.rcv
        sock = self.sock
        size = end - data
        pending = rcv.pending
        if pending is None and sock is not None:
            piece = memoryview(frame)[data:end] if size > 4096 else frame[data:end]
            try:
                count = sock.send(piece)
            except OSError:
                self.abort(True)
                return False
            if count < size:
                rcv.hold(piece[count:])
                self.watch(self.watching | 2)
            elif rcv.limit < self.tcp.limits.window_max and rcv.scale > 0:
                rcv.grow(size, self.tcp.limits.window_max)
        elif rcv.buffers.used + size > rcv.buffers.cap:
            self.tcp.counters["buffers_full"] += 1
            return False
        else:
            rcv.hold(memoryview(frame)[data:end])
        rcv.nxt += size
        return True

    def _slow(
        self, frame: bytes, data: int, end: int, seq32: int, ack32: int, word: int, window: int, now: int
    ) -> None:
        """RFC 9293 3.10.7.3 and 3.10.7.4, in their order."""
        state = self.state
        if state == CONNECTING:
            self._in_connecting(frame, data, seq32, ack32, word)
            return
        if state == SYN_SENT:
            self._in_syn_sent(frame, data, seq32, ack32, word, window, now)
            return
        rcv, snd = self.rcv, self.snd
        size = end - data
        nxt = rcv.nxt
        seq = unwrap(seq32, nxt)
        # first: sequence number
        edge = max(rcv.adv, nxt)
        span = size + (word & FIN) + (word >> 1 & 1)
        if not (nxt <= seq <= edge if not span else seq < edge and seq + span > nxt):
            self._out_of_window(frame, data, end, seq, seq32, ack32, word, window, now)
            return
        # second: RST (RFC 5961 3.2)
        if word & RST:
            if seq == nxt:
                self.tcp.counters["resets_received"] += 1
                self.abort(False)
            else:
                self.challenge(now)
            return
        # fourth: SYN (RFC 5961 4.2)
        if word & SYN:
            self.challenge(now)
            return
        # fifth: ACK
        if not word & ACK or not self._in_ack(frame, data, size, seq, ack32, word, window, now):
            return
        # seventh and eighth: data, FIN
        state = self.state
        if state == ESTABLISHED or state == FIN_WAIT_1 or state == FIN_WAIT_2:
            if size or word & FIN:
                self._in_data(frame, data, end, seq, word & FIN, now)
                if self.state == CLOSED:
                    return
        snd.output(now)
        if self.stalled:
            self.pull(now)

    def _out_of_window(
        self,
        frame: bytes,
        data: int,
        end: int,
        seq: int,
        seq32: int,
        ack32: int,
        word: int,
        window: int,
        now: int,
    ) -> None:
        state = self.state
        rcv = self.rcv
        if word & RST:
            return
        if state == TIME_WAIT:
            if word & (SYN | ACK) == SYN and (seq32 - rcv.nxt) & MASK < HALF:
                # a new incarnation (RFC 9293 3.10.7.4, RFC 6191): our ISS must lie beyond the old one
                self.drop()
                self.tcp.reopen(
                    frame, data, end, seq32, word, window, self.key, self.snd.nxt + (1 << 17), now
                )
                return
            if word & FIN:
                self.live(now + self.tcp.limits.time_wait)
        if state == SYN_RECEIVED and word & SYN and seq == rcv.nxt - 1:
            if now - self.challenged >= CHALLENGE_GAP:  # our SYN|ACK was lost
                self.challenged = now
                self.send_syn(now)
            return
        if word & SYN or not (end > data or word & FIN):
            self.challenge(now)
            return
        if seq == rcv.nxt and word & ACK and state != SYN_RECEIVED:
            # our window is closed: the ACK still counts (RFC 9293 3.10.7.4)
            if not self._in_ack(frame, data, end - data, seq, ack32, word, window, now):
                return
            self.ack_now(now)
            self.snd.output(now)
            return
        self.ack_now(now)

    def _in_connecting(self, frame: bytes, data: int, seq32: int, ack32: int, word: int) -> None:
        """The host connects; the guest repeats its SYN, starts anew, or gives up."""
        rcv = self.rcv
        if word & RST:
            if (seq32 - rcv.nxt) & MASK in (0, MASK):
                self.abort(False)
        elif word & ACK:
            self.tcp.reset(self.path, self.wire.ports, ack32, 0, RST)
        elif word & SYN and (seq32 + 1) & MASK != rcv.nxt & MASK:
            off = data - ((word >> 10) & 0x3C)
            self.begin(frame, parse_options(frame, off + HEADER_LEN, data), seq32)

    def _in_syn_sent(
        self, frame: bytes, data: int, seq32: int, ack32: int, word: int, window: int, now: int
    ) -> None:
        """We opened towards the guest (RFC 9293 3.10.7.3)."""
        snd, rcv = self.snd, self.rcv
        good = word & ACK and ack32 == snd.nxt & MASK
        if word & ACK and not good:
            if not word & RST:
                self.tcp.reset(self.path, self.wire.ports, ack32, 0, RST)
            return
        if word & RST:
            if good:
                self.tcp.counters["resets_received"] += 1
                self.abort(False)
            return
        if not word & SYN:
            return
        off = data - ((word >> 10) & 0x3C)
        rcv.nxt = rcv.adv = seq32 + 1
        self._agree(parse_options(frame, off + HEADER_LEN, data))
        snd.wnd = snd.max_wnd = window
        snd.wl1, snd.wl2 = seq32, snd.una
        if good:
            self._established(SYN_ACK_IN, now)
            snd.wl2 = snd.una
            self.ack_now(now)
            self.pull(now)
        else:
            self.move(SYN_IN)
            if rcv.scale == 0:
                rcv.scale = -1
            self.send_syn(now)

    def _in_ack(
        self, frame: bytes, data: int, size: int, seq: int, ack32: int, word: int, window: int, now: int
    ) -> bool:
        """The fifth check: False if the segment is to be dropped, or the flow is gone."""
        snd, rcv = self.snd, self.rcv
        ack = unwrap(ack32, snd.una)
        if self.state == SYN_RECEIVED:
            if ack != snd.nxt:
                self.tcp.reset(self.path, self.wire.ports, ack32, 0, RST)
                return False
            rcv.scale = max(rcv.scale, 0)
            self._established(SYN_ACKED, now)
            snd.wnd = snd.max_wnd = window << snd.scale
            snd.wl1, snd.wl2 = seq, ack
            return True
        if ack > snd.nxt or ack < snd.una - max(snd.max_wnd, 65535):  # RFC 5961 5.2
            self.challenge(now)
            return False
        sacks: list[tuple[int, int]] = []
        if word >> 12 > 5 and self.sack_ok:
            off = data - ((word >> 10) & 0x3C)
            for left, right in parse_options(frame, off + HEADER_LEN, data).sacks:
                sacks.append((unwrap(left, snd.una), unwrap(right, snd.una)))
        if ack < snd.una:
            return True  # an old duplicate; its data may still be new
        window <<= snd.scale
        duplicate = (
            ack == snd.una and not size and not word & FIN and window == snd.wnd and snd.una != snd.nxt
        )
        snd.on_ack(ack, sacks, duplicate, now)
        if snd.wl1 < seq or (snd.wl1 == seq and snd.wl2 <= ack):
            opened = window and not snd.wnd
            snd.wnd = window
            snd.wl1, snd.wl2 = seq, ack
            if window > snd.max_wnd:
                snd.max_wnd = window
            if opened:
                snd.window_opened(now)
        if not snd.wnd:
            snd.rto.silent = 0  # the guest answers probes: its window may stay closed for ever
        if snd.fin_out and ack == snd.end + 1 and self.state not in (FIN_WAIT_2, TIME_WAIT):
            self.move(FIN_ACKED)
            if self.state == CLOSED:
                self.drop()
                return False
            if self.state == TIME_WAIT:
                self._time_wait(now)
        return True

    def _in_data(self, frame: bytes, data: int, end: int, seq: int, fin: int, now: int) -> None:
        """Payload and FIN, trimmed to the window, in order or not."""
        rcv = self.rcv
        edge = rcv.adv
        stop = seq + end - data
        if stop + fin > edge:
            # beyond the window: cut. A FIN behind all data may sit on the edge itself: it needs no buffer.
            if stop > edge:
                fin = 0
                end -= stop - edge
                stop = edge
        if fin and (rcv.fin < 0 or rcv.fin == stop):
            rcv.fin = stop
        if seq > rcv.nxt:
            if end > data:
                ooo = rcv.ooo
                if ooo is None:
                    ooo = rcv.ooo = Reassembly(rcv.buffers, self.tcp.limits.reassembly_chunks)
                self.tcp.counters["out_of_order"] += 1
                ooo.add(seq, frame[data:end])
                if not ooo:
                    rcv.ooo = None
            self.ack_now(now)
            return
        data += rcv.nxt - seq
        rushed = rcv.ooo is not None
        if data < end:
            rcv.owed += end - data
            if not self._deliver(frame, data, end):
                return
            while rcv.ooo is not None:
                more = rcv.ooo.take(rcv.nxt)
                if not rcv.ooo:
                    rcv.ooo = None
                if more is None:
                    break
                piece = bytes(more)
                if not self._deliver(piece, 0, len(piece)):
                    break
            if self.state == CLOSED:
                return
        if rcv.fin >= 0 and rcv.nxt >= rcv.fin:
            if rcv.nxt == rcv.fin:
                self._in_fin(now)
                if self.state == CLOSED:
                    return
            rushed = True
        if rushed or rcv.owed >= self.snd.mss << 1:
            self.ack_now(now)
        elif rcv.owed and not rcv.ack_at:
            rcv.ack_at = now + ACK_DELAY
            self.schedule(rcv.ack_at)

    def _in_fin(self, now: int) -> None:
        """The guest's FIN is next in order."""
        rcv = self.rcv
        rcv.nxt += 1
        rcv.adv = max(rcv.adv, rcv.nxt)
        if rcv.ooo is not None:
            rcv.ooo.clear()
            rcv.ooo = None
        self.move(FIN_IN)
        if rcv.pending is None:
            self._guest_ended()
        if self.state == TIME_WAIT:
            self._time_wait(now)

    def _time_wait(self, now: int) -> None:
        """Both directions are done on the guest's side; remember it for 2 MSL."""
        self.snd.rto_at = 0
        self.live(now + self.tcp.limits.time_wait)
        self.tcp.time_wait(self)

    # -- timers

    def timers(self, now: int) -> None:
        """Some deadline may have passed."""
        snd, rcv = self.snd, self.rcv
        if snd.rto_at and snd.rto_at <= now:
            snd.rto_at = 0
            self._rto(now)
        if rcv.ack_at and rcv.ack_at <= now:
            rcv.ack_at = 0
            self.ack_now(now)
            if rcv.ack_at:  # the wire is full
                rcv.ack_at = now + ACK_DELAY
        if self.pull_at and self.pull_at <= now:
            self.pull_at = 0
            self.pull(now)
        if self.life_at and self.life_at <= now:
            self.life_at = 0
            self._life(now)
        if self.state != CLOSED:
            for at in (snd.rto_at, rcv.ack_at, self.pull_at, self.life_at):
                if at:
                    self.schedule(at)

    def _rto(self, now: int) -> None:
        state = self.state
        rto = self.snd.rto
        if state == SYN_SENT or state == SYN_RECEIVED:
            if rto.retries >= (SYN_RETRIES if state == SYN_SENT else SYN_ACK_RETRIES):
                self.tcp.counters["opens_timed_out"] += 1
                self.abort(True)
                return
            rto.back_off()
            self.send_syn(now)
        elif not self.snd.timed_out(now):
            self.tcp.counters["gave_up"] += 1
            self.abort(True)

    def _life(self, now: int) -> None:
        state = self.state
        limits = self.tcp.limits
        if state == TIME_WAIT:
            self.drop()
        elif state == CONNECTING:
            self.tcp.counters["opens_timed_out"] += 1
            self.abort(False)
        elif now - self.seen < limits.idle:
            self.probes = 0
            self.live(self.seen + limits.idle)
        elif self.probes >= KEEPALIVE_PROBES:
            self.tcp.counters["gave_up"] += 1
            self.abort(True)
        else:
            self.probes += 1
            self.emit(self.snd.una - 1, ACK, b"")
            self.live(now + KEEPALIVE_GAP)

    def resume(self, now: int) -> None:
        """The wire takes frames again."""
        if self.state in (CLOSED, CONNECTING):
            return
        if self.state == SYN_SENT or self.state == SYN_RECEIVED:
            self.send_syn(now)
            return
        if self.rcv.ack_at and self.rcv.ack_at <= now:
            self.ack_now(now)
        self.snd.output(now)
        if self.stalled:
            self.pull(now)
