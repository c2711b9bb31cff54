"""One TCP connection: the guest's peer on one side, a host socket on the other.

The state machine of RFC 9293 in a module of its own; the sending and the receiving half are
``sender`` and ``receiver``. The host socket is a byte stream, so half-closes and resets are all
that crosses beside data:

    guest FIN, all its data taken by the socket -> shutdown()
    guest RST, or gone                          -> close(reset=True)
    end of stream from the host                 -> FIN, after all data
    the host's error                            -> RST
    both directions ended                       -> close(); the guest's side ends alone (LAST-ACK ...)

    urgent data                                 -> urgent data (``urgent``)
    the guest's keep-alive                      -> the host socket's: a dead end is found as if there were no NAT

Not done: timestamps (RFC 7323 3; PAWS guards against segments older than a wrap of the sequence space,
which a local wire cannot deliver), ECN, Fast Open.

Timers, all in one deadline (``due``): retransmission and persist (``snd.rto_at``), delayed ACK
(``rcv.ack_at``), another try for buffer space (``pull_at``), the end of patience with a hole (``rcv.hole_at``), and ``life_at``: connect time-out, idle
probe, TIME-WAIT.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from slirp.contracts.host import TcpSocket
from slirp.contracts.link import Path, Target
from slirp.tcp import urgent as tcp_urgent
from slirp.tcp.input import Segment, arrive
from slirp.tcp.opening import connect, connect_failed, send_syn
from slirp.tcp.receiver import Receiver
from slirp.tcp.sender import Sender
from slirp.tcp.states import (
    ABORT,
    ACK_DELAY,
    CHALLENGE_GAP,
    CLOSE_WAIT,
    CLOSED,
    CONNECTING,
    ESTABLISHED,
    FIN_OUT,
    FIN_WAIT_1,
    FIN_WAIT_2,
    HOST_CONNECTED,
    KEEPALIVE_GAP,
    KEEPALIVE_MAX,
    KEEPALIVE_MIN,
    KEEPALIVE_PROBES,
    LAST_ACK,
    PULL_BATCH,
    SECOND,
    STARVED_RETRY,
    SYN_ACK_RETRIES,
    SYN_BACK_OFF,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
    TRANSITIONS,
)
from slirp.wire.tcp import ACK, FIN, HEADER_LEN, MASK, MIN_MSS, RST, SYN, Wire, build, sack_option

if TYPE_CHECKING:
    from slirp.tcp.nat import Tcp

FAST_MASK = 0xF000 | FIN | SYN | RST | ACK | 0x20  # header length and all flags but PSH and ECN's
FAST_WORD = 0x5000 | ACK
SHORT = 4096  # bytes: no super-frame, worth gathering


class Flow:
    """One TCP connection of a guest; implements ``slirp.contracts.host.TcpEvents``."""

    __slots__ = (
        "alive",
        "challenged",
        "due",
        "eof",
        "interval",
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
        self.targets: list[Target] = []  # in use first, then those not tried yet
        self.sack_ok = False
        self.eof = False  # the host sent end of stream
        self.stalled = False  # reading from the host waits for the guest's window
        self.watching = 0  # what the socket reports: 1 readable, 2 writable
        self.seen = now  # last segment of the guest
        self.challenged = -CHALLENGE_GAP
        self.probes = 0
        self.alive = 0  # when the guest sent its last keep-alive
        self.interval = 0  # of the host socket's probes, 0: off
        self.due = 0  # the entry in tcp's heap that counts, 0: none
        self.life_at = 0
        self.pull_at = 0

    # -- small tools

    @property
    def guest(self) -> bytes:
        """Return the address of the guest."""
        return self.key[: (len(self.key) - 4) >> 1]

    def move(self, event: str) -> None:
        """Take the transition of TRANSITIONS."""
        self.state = TRANSITIONS[self.state, event]

    def schedule(self, at: int) -> None:
        """Be called by ``timers`` at ``at`` or earlier."""
        if not self.due or at < self.due:
            self.due = at
            self.tcp.push(at, self)

    def live(self, at: int) -> None:
        """Set the life timer to ``at``, in nanoseconds of the clock."""
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
            self.special(self.snd.nxt, flags)
        sock, self.sock = self.sock, None
        self.move(ABORT)
        self.drop()
        if sock is not None:
            sock.close(reset=True)

    # -- sending

    def emit(self, seq: int, flags: int, data: bytes | memoryview) -> bool:
        """Send one segment with our current ACK and window. False: the wire is full, we will be resumed."""
        if self.snd.urg:
            return tcp_urgent.emit(self, seq, flags, data)
        rcv = self.rcv
        if self.wire.segment(seq, rcv.nxt, flags, rcv.window(), data):
            rcv.ack_at = 0
            rcv.owed = 0
            if rcv.squeezed and rcv.wants():
                self.tcp.squeezed[self] = None
            return True
        self.tcp.hold(self)
        return False

    def ack_now(self, now: int) -> None:
        """Send an ACK, with SACK blocks when there is a hole."""
        rcv = self.rcv
        if rcv.ooo and self.sack_ok:
            if not self.special(self.snd.nxt, ACK, sack_option(rcv.ooo.blocks(4))):
                rcv.ack_at = now
        elif not self.emit(self.snd.nxt, ACK, b""):
            rcv.ack_at = now

    def special(self, seq: int, flags: int, options: bytes = b"") -> bool:
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

    def challenge(self, now: int) -> None:
        """An ACK that an attacker could provoke: at most one per CHALLENGE_GAP (RFC 5961 7)."""
        if now - self.challenged >= CHALLENGE_GAP:
            self.challenged = now
            self.tcp.counters["challenge_acks"] += 1
            self.ack_now(now)

    def probed(self, now: int) -> None:
        """The guest's keep-alive: answer it, and let the host probe its side as often."""
        self.challenge(now)
        interval = min(max(now - self.alive, KEEPALIVE_MIN), KEEPALIVE_MAX) if self.alive else KEEPALIVE_GAP
        self.alive = now
        sock = self.sock
        if sock is not None and not self.interval >> 1 < interval < self.interval << 1:
            self.interval = interval
            try:
                sock.keepalive(interval // SECOND)
            except OSError:
                pass  # it is about to report why

    def fin_sent(self, now: int) -> None:
        """The sender has sent our FIN."""
        self.move(FIN_OUT)

    # -- events of the host socket

    def host_connected(self, now: int) -> None:
        """The host's connect succeeded: SYN|ACK."""
        if self.state != CONNECTING:
            return
        self.syn = b""
        self.life_at = 0
        del self.targets[1:]
        self.move(HOST_CONNECTED)
        send_syn(self, now)

    def host_failed(self, error: int, now: int) -> None:
        """The host's connect failed, or the connection broke. The socket is closed already."""
        sock, self.sock = self.sock, None
        if self.state == CONNECTING:
            self.targets.pop(0)
            if self.targets:
                connect(self, now)
            else:
                connect_failed(self, error, getattr(sock, "failure", None))
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
                if rcv.mark:
                    count = tcp_urgent.flush(rcv, sock, pending)
                else:
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
            self.guest_ended()

    def guest_ended(self) -> None:
        """The guest's FIN is in and all its data has gone to the socket."""
        sock = self.sock
        if sock is None:
            return
        if self.eof:
            self.sock = None
            sock.close()
            if self.state == LAST_ACK and self.snd.una > self.snd.end:
                self.drop()
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
                    if usable < mss or (usable < min(snd.wnd, snd.cwnd) >> 2 and not snd.dupacks):
                        break  # an ACK is on its way and will open the window further
                    size = usable
                elif usable <= 0 or (usable < mss and usable < snd.max_wnd >> 1):
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
                data = sock.recv(size) if not sock.urgent else tcp_urgent.read(self, sock, size)
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
            if (count < size or budget <= 0) and snd.nxt == snd.end:
                self.stalled = False  # drained, or the others' turn: the event comes again
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
        """One segment with a good checksum: header fields as on the wire, payload ``frame[data:end]``.

        Here is the fast path: what comes next in order, without options, while nothing is lost in either
        direction. ``input`` has the rest.
        """
        rcv = self.rcv
        snd = self.snd
        self.seen = now
        size = end - data
        state = self.state
        fresh = (ack - snd.una) & MASK
        wnd = window << snd.scale
        if (
            word & FAST_MASK != FAST_WORD
            or seq != rcv.nxt & MASK
            or not (state == ESTABLISHED or state == FIN_WAIT_2 or (state == CLOSE_WAIT and not size))  # noqa: SIM109
            or snd.recovery is not None
            or snd.dupacks
            or rcv.ooo is not None
            or size > rcv.adv - rcv.nxt
            or fresh > snd.nxt - snd.una
            or (snd.una != snd.nxt and (not snd.wnd or (not fresh and not size and wnd == snd.wnd)))
        ):
            arrive(self, Segment(frame, data, end, seq, ack, word, window), now)
            return
        if fresh:
            snd.acked(snd.una + fresh, now)
        if wnd != snd.wnd:
            snd.wnd = wnd
            if wnd > snd.max_wnd:
                snd.max_wnd = wnd
        snd.wl1 = rcv.nxt
        snd.wl2 = snd.una
        if size:
            if not self.deliver(frame, data, end):
                return
            rcv.owed += size
            if rcv.owed >= snd.mss << 1:
                if self.tcp.batch and size <= SHORT and rcv.owed < rcv.limit >> 2:
                    self.tcp.gathered[self] = None
                elif not self.emit(snd.nxt, ACK, b""):
                    rcv.ack_at = now
            elif not rcv.ack_at:
                rcv.ack_at = now + ACK_DELAY
                self.schedule(rcv.ack_at)
        if self.stalled:
            self.pull(now)
        elif snd.nxt < snd.end:
            snd.output(now)

    def deliver(self, frame: bytes, data: int, end: int) -> bool:
        """In-order payload to the host socket, or behind what waits there; moves RCV.NXT. False: refused."""
        rcv = self.rcv
        sock = self.sock
        size = end - data
        if 0 < rcv.urg - rcv.nxt <= size:
            return tcp_urgent.deliver(self, frame, data, end)
        pending = rcv.pending
        if pending is None and sock is not None:
            tcp = self.tcp
            if tcp.batch and size <= SHORT:
                if rcv.batch == tcp.batch and rcv.buffers.used + size <= rcv.buffers.cap:
                    rcv.hold(memoryview(frame)[data:end])
                    tcp.gathered[self] = None
                    rcv.nxt += size
                    return True
                rcv.batch = tcp.batch
            piece = memoryview(frame)[data:end] if size > SHORT else frame[data:end]
            try:
                count = sock.send(piece)
            except OSError:
                self.abort(True)
                return False
            if count < size:
                rcv.hold(piece[count:])
                self.watch(self.watching | 2)
            elif rcv.limit < tcp.limits.window_max and rcv.scale > 0:
                rcv.grow(size, tcp.limits.window_max)
        elif rcv.buffers.used + size > rcv.buffers.cap:
            self.tcp.counters["buffers_full"] += 1
            return False
        else:
            rcv.hold(memoryview(frame)[data:end])
        rcv.nxt += size
        return True

    def settle(self, now: int) -> None:
        """The end of a batch of frames: gathered data to the socket, one ACK for all."""
        rcv = self.rcv
        if rcv.pending and self.sock is not None and not self.watching & 2:
            size = len(rcv.pending)
            self.host_writable(now)
            left = len(rcv.pending or b"")
            if left:
                self.watch(self.watching | 2)
            elif rcv.limit < self.tcp.limits.window_max and rcv.scale > 0:
                rcv.grow(size, self.tcp.limits.window_max)
        if self.state in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2) and rcv.owed >= self.snd.mss << 1:
            self.ack_now(now)

    def narrow(self, mtu: int, now: int) -> bool:
        """The path carries ``mtu`` bytes only (RFC 1191, RFC 8201). False: that is nothing new."""
        mss = max(mtu - self.path.ip_header - HEADER_LEN, MIN_MSS)
        snd = self.snd
        if mss >= snd.mss or self.state in (CONNECTING, TIME_WAIT, CLOSED):
            return False
        snd.set_mss(mss)
        self.wire.set_mss(mss)
        if snd.una < snd.nxt and self.state not in (SYN_SENT, SYN_RECEIVED):
            snd.window_opened()
            snd.output(now)
        return True

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
        if rcv.hole_at and rcv.hole_at <= now:
            self.tcp.counters["holes_given_up"] += 1
            rcv.give_up()
        if self.life_at and self.life_at <= now:
            self.life_at = 0
            self._life(now)
        if self.state != CLOSED:
            for at in (snd.rto_at, rcv.ack_at, self.pull_at, rcv.hole_at, self.life_at):
                if at:
                    self.schedule(at)

    def _rto(self, now: int) -> None:
        state = self.state
        rto = self.snd.rto
        if self.tcp.full:  # a stopped guest's card takes nothing: that says nothing about the connection
            self.snd.arm(now)
            self.tcp.hold(self)
        elif state in (SYN_SENT, SYN_RECEIVED):
            if state == SYN_RECEIVED and rto.retries >= SYN_ACK_RETRIES:
                self.tcp.counters["opens_timed_out"] += 1
                self.abort(True)
                return
            if state == SYN_RECEIVED or rto.retries < SYN_BACK_OFF:
                rto.back_off()
            send_syn(self, now)
        elif not self.snd.timed_out(now):
            self.tcp.counters["gave_up"] += 1
            self.abort(True)

    def _life(self, now: int) -> None:
        state = self.state
        limits = self.tcp.limits
        if state == TIME_WAIT:
            self.drop()
        elif state == CONNECTING and len(self.targets) > 1:
            if self.sock is not None:
                self.sock.close()
            self.host_failed(errno.ETIMEDOUT, now)
        elif state in (CONNECTING, SYN_SENT):
            self.tcp.counters["opens_timed_out"] += 1
            self.abort(state == SYN_SENT)
        elif now - self.seen < limits.idle or self.tcp.full:
            self.probes = 0
            self.live(max(self.seen + limits.idle, now + KEEPALIVE_GAP))
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
        if self.state in (SYN_SENT, SYN_RECEIVED):
            send_syn(self, now)
            return
        if self.rcv.ack_at and self.rcv.ack_at <= now:
            self.ack_now(now)
        self.snd.output(now)
        if self.stalled:
            self.pull(now)
