"""TCP state by state: one constructor per state, then one step per test."""

from __future__ import annotations

import errno
import itertools
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slirp.host.errors import QueuedError
from slirp.tcp import states as tcp_state
from slirp.tcp.buffers import Buffers
from slirp.tcp.nat import Tcp
from slirp.tcp.states import NAMES, TRANSITIONS, Limits
from tests.slirp.netsim import (
    ACK,
    FIN,
    GUEST_IP,
    M32,
    MS,
    PEER_IP,
    PSH,
    RST,
    SECOND,
    SYN,
    FakeHost,
    FakeLink,
    FakePath,
    FakeSocket,
    Segment,
    Sim,
    feed,
    make_frame,
)  # fmt: skip

URG = 32
ISN = 1000
MSS_OPTION = b"\x02\x04\x05\xb4"
SACK_OK = b"\x01\x01\x04\x02"
SCALE_0 = b"\x01\x03\x03\x00"
SCALE_7 = b"\x01\x03\x03\x07"
KEY = GUEST_IP + PEER_IP + struct.pack("!HH", 40000, 80)
IP6 = bytes.fromhex("fec0000000000000000000000000000f"), bytes.fromhex("20010db8000000000000000000000007")


class Rig:
    """The NAT with a fake link and host; ``seq`` and ``ack`` are what an orderly guest would send next."""

    def __init__(
        self, limits: Limits | None = None, cap: int = 64 << 20, six: bool = False, mtu: int = 1500
    ) -> None:
        self.sim = Sim()
        self.link = FakeLink(mtu)
        self.host = FakeHost(self.sim)
        self.buffers = Buffers(cap)
        self.tcp = Tcp(
            self.link, self.host, random.Random(3), limits=limits or Limits(), buffers=self.buffers
        )
        self.guest, self.peer = IP6 if six else (GUEST_IP, PEER_IP)
        self.port = 40000
        self.seq, self.ack = ISN, 0

    def give(self, flags: int, *, seq: int | None = None, ack: int | None = None, data: bytes = b"", options: bytes = b"",
             window: int = 65535, vnet: bytes = b"", urgent: int = 0) -> list[Segment]:  # fmt: skip
        """One segment of the guest; returns what comes back at once."""
        if seq is None:
            seq = self.seq
            self.seq = (self.seq + len(data) + (flags & FIN) + (flags >> 1 & 1)) & M32
        if ack is None:
            ack = self.ack if flags & ACK else 0
        frame = make_frame(
            self.guest, self.peer, self.port, 80, seq & M32, ack, flags, window, options, data, urgent
        )
        feed(self.tcp, frame, self.sim.now, vnet)
        return self.take()

    def take(self) -> list[Segment]:
        """What was sent since, in order; notes our sequence numbers as an orderly guest would."""
        out = [Segment(*each) for each in self.link.out]
        self.link.out.clear()
        for seg in out:
            end = (seg.seq + len(seg.data) + (seg.flags & FIN) + (seg.flags >> 1 & 1)) & M32
            if (end - self.ack) & M32 < 1 << 31 or seg.flags & SYN:
                self.ack = end
        return out

    def settle(self, ns: int = 2 * MS) -> list[Segment]:
        """Let the host's events happen, not our timers."""
        end = self.sim.now + ns
        self.sim.run(lambda: False, None, ns)
        self.sim.now = end
        return self.take()

    def advance(self, ns: int) -> list[Segment]:
        """Let time pass, timers included."""
        end = self.sim.now + ns
        self.sim.run(lambda: False, self.tcp, ns)
        self.sim.now = end
        return self.take()

    @property
    def sock(self) -> FakeSocket:
        return self.host.sockets[-1]

    @property
    def state(self) -> str:
        for row in self.tcp.flows():
            return str(row["state"])
        return "CLOSED"

    @property
    def flow(self) -> Any:
        return self.tcp._flows[self.guest + self.peer + struct.pack("!HH", self.port, 80)]


def tcp_connecting(options: bytes = MSS_OPTION + SACK_OK, **kw: Any) -> Rig:
    rig = Rig(**kw)
    rig.host.connect_delay = MS
    assert rig.give(SYN, options=options) == []
    assert rig.state == "CONNECTING"
    return rig


def tcp_syn_received(options: bytes = MSS_OPTION + SACK_OK, **kw: Any) -> Rig:
    rig = tcp_connecting(options, **kw)
    (answer,) = rig.settle()
    assert answer.flags == SYN | ACK and answer.ack == ISN + 1
    assert rig.state == "SYN_RECEIVED"
    return rig


def tcp_established(options: bytes = MSS_OPTION + SACK_OK, window: int = 65535, **kw: Any) -> Rig:
    rig = tcp_syn_received(options, **kw)
    assert rig.give(ACK, window=window) == []
    assert rig.state == "ESTABLISHED"
    return rig


def tcp_close_wait(**kw: Any) -> Rig:
    rig = tcp_established(**kw)
    (ack,) = rig.give(ACK | FIN)
    assert ack.flags == ACK and ack.ack == rig.seq
    assert rig.state == "CLOSE_WAIT" and rig.sock.was_shut
    return rig


def tcp_last_ack(**kw: Any) -> Rig:
    rig = tcp_close_wait(**kw)
    rig.sock.end()
    (fin,) = rig.settle()
    assert fin.flags == ACK | FIN and rig.state == "LAST_ACK" and rig.sock.closed
    return rig


def tcp_fin_wait_1(**kw: Any) -> Rig:
    rig = tcp_established(**kw)
    rig.sock.end()
    (fin,) = rig.settle()
    assert fin.flags == ACK | FIN and rig.state == "FIN_WAIT_1" and not rig.sock.closed
    return rig


def tcp_fin_wait_2(**kw: Any) -> Rig:
    rig = tcp_fin_wait_1(**kw)
    assert rig.give(ACK) == []
    assert rig.state == "FIN_WAIT_2"
    return rig


def tcp_closing(**kw: Any) -> Rig:
    rig = tcp_fin_wait_1(**kw)
    (ack,) = rig.give(ACK | FIN, ack=rig.ack - 1)
    assert ack.ack == rig.seq and rig.state == "CLOSING" and rig.sock.closed
    return rig


def tcp_time_wait(**kw: Any) -> Rig:
    rig = tcp_fin_wait_2(**kw)
    (ack,) = rig.give(ACK | FIN)
    assert ack.ack == rig.seq and rig.state == "TIME_WAIT" and rig.sock.closed and not rig.sock.was_reset
    return rig


def tcp_syn_sent(**kw: Any) -> Rig:
    """The host opened (forwarding)."""
    rig = Rig(**kw)
    sock = FakeSocket(rig.host, ("192.0.2.7", 80), None)
    rig.host.sockets.append(sock)
    sock.events = rig.tcp.open(sock, FakePath(rig.peer, rig.guest), KEY, 0)
    assert sock.events is not None
    (syn,) = rig.take()
    assert (
        syn.flags == SYN
        and syn.option(2) == b"\x05\xb4"
        and syn.option(3) == b"\x07"
        and syn.option(4) == b""
    )
    assert rig.state == "SYN_SENT"
    return rig


STATES: dict[str, Callable[..., Rig]] = {
    "CONNECTING": tcp_connecting,
    "SYN_SENT": tcp_syn_sent,
    "SYN_RECEIVED": tcp_syn_received,
    "ESTABLISHED": tcp_established,
    "FIN_WAIT_1": tcp_fin_wait_1,
    "FIN_WAIT_2": tcp_fin_wait_2,
    "CLOSE_WAIT": tcp_close_wait,
    "CLOSING": tcp_closing,
    "LAST_ACK": tcp_last_ack,
    "TIME_WAIT": tcp_time_wait,
}
SYNCHRONIZED = [name for name in STATES if name not in ("CONNECTING", "SYN_SENT", "SYN_RECEIVED")]


def nothing_left(rig: Rig) -> None:
    assert len(rig.tcp) == 0
    assert rig.buffers.used == 0
    assert rig.tcp.next_deadline() is None
    assert all(sock.closed for sock in rig.host.sockets)


# -- the table


def test_every_state_has_a_constructor_and_a_way_out() -> None:
    assert set(STATES) | {"CLOSED"} == set(NAMES)
    for state in range(1, len(NAMES)):
        assert TRANSITIONS[state, tcp_state.ABORT] == tcp_state.CLOSED
    reached = {after for (_, event), after in TRANSITIONS.items() if event != tcp_state.ABORT}
    assert reached | {tcp_state.CONNECTING, tcp_state.SYN_SENT} == set(range(len(NAMES)))


# (state, what the guest or host does, state after, flags of the answers)
STEPS: list[tuple[str, Callable[[Rig], list[Segment]], str, list[int]]] = [
    ("CONNECTING", lambda r: r.settle(), "SYN_RECEIVED", [SYN | ACK]),
    ("CONNECTING", lambda r: r.give(RST, seq=ISN + 1), "CLOSED", []),
    ("CONNECTING", lambda r: r.give(RST, seq=ISN + 99), "CONNECTING", []),
    ("CONNECTING", lambda r: r.give(ACK, seq=ISN + 1, ack=5), "CONNECTING", [RST]),
    ("CONNECTING", lambda r: r.give(SYN, seq=ISN), "CONNECTING", []),
    ("SYN_SENT", lambda r: r.give(SYN | ACK, options=MSS_OPTION), "ESTABLISHED", [ACK]),
    ("SYN_SENT", lambda r: r.give(SYN, options=MSS_OPTION), "SYN_RECEIVED", [SYN | ACK]),
    ("SYN_SENT", lambda r: r.give(RST | ACK), "CLOSED", []),
    ("SYN_SENT", lambda r: r.give(RST), "SYN_SENT", []),
    ("SYN_SENT", lambda r: r.give(RST | ACK, ack=77), "SYN_SENT", []),
    ("SYN_SENT", lambda r: r.give(SYN | ACK, ack=77), "SYN_SENT", [RST]),
    ("SYN_SENT", lambda r: r.give(ACK), "SYN_SENT", []),
    ("SYN_RECEIVED", lambda r: r.give(ACK), "ESTABLISHED", []),
    ("SYN_RECEIVED", lambda r: r.give(ACK | FIN), "CLOSE_WAIT", [ACK]),
    ("SYN_RECEIVED", lambda r: r.give(ACK, ack=r.ack + 1), "SYN_RECEIVED", [RST]),
    ("SYN_RECEIVED", lambda r: r.give(RST), "CLOSED", []),
    ("SYN_RECEIVED", lambda r: r.give(SYN, seq=ISN), "SYN_RECEIVED", [SYN | ACK]),
    ("ESTABLISHED", lambda r: r.give(ACK | FIN), "CLOSE_WAIT", [ACK]),
    ("ESTABLISHED", lambda r: (r.sock.end(), r.settle())[1], "FIN_WAIT_1", [ACK | FIN]),
    ("ESTABLISHED", lambda r: (r.sock.fail(errno.ECONNRESET), r.settle())[1], "CLOSED", [RST | ACK]),
    ("FIN_WAIT_1", lambda r: r.give(ACK), "FIN_WAIT_2", []),
    ("FIN_WAIT_1", lambda r: r.give(ACK | FIN), "TIME_WAIT", [ACK]),
    ("FIN_WAIT_1", lambda r: r.give(ACK | FIN, ack=r.ack - 1), "CLOSING", [ACK]),
    ("FIN_WAIT_2", lambda r: r.give(ACK | FIN), "TIME_WAIT", [ACK]),
    ("CLOSE_WAIT", lambda r: (r.sock.end(), r.settle())[1], "LAST_ACK", [ACK | FIN]),
    ("CLOSING", lambda r: r.give(ACK), "TIME_WAIT", []),
    ("LAST_ACK", lambda r: r.give(ACK), "CLOSED", []),
    ("TIME_WAIT", lambda r: r.give(ACK | FIN, seq=r.seq - 1), "TIME_WAIT", [ACK]),
    ("TIME_WAIT", lambda r: r.advance(30 * SECOND), "CLOSED", []),
]


@pytest.mark.parametrize(("before", "step", "after", "answers"), STEPS)
def test_transition(
    before: str, step: Callable[[Rig], list[Segment]], after: str, answers: list[int]
) -> None:
    rig = STATES[before]()
    assert [seg.flags for seg in step(rig)] == answers
    assert rig.state == after
    if after == "CLOSED":
        nothing_left(rig)


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_reset_of_the_guest(state: str) -> None:
    """An exact RST ends the flow, and reaches the host as a RST where it still has a socket."""
    rig = STATES[state]()
    had = not rig.sock.closed
    assert rig.give(RST) == []
    assert rig.sock.was_reset == had
    nothing_left(rig)


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_guessed_reset_and_syn_are_challenged(state: str) -> None:
    """RFC 5961: within the window but not exact: an ACK, at most one in 10 ms; outside: RST is ignored."""
    rig = STATES[state]()
    (challenge,) = rig.give(RST, seq=rig.seq + 1)
    assert challenge.flags == ACK and challenge.ack == rig.seq
    assert rig.give(SYN | ACK, seq=rig.seq + 5) == []  # too soon after the other
    rig.sim.now += 10 * MS
    (challenge,) = rig.give(SYN | ACK, seq=rig.seq + 5)
    assert challenge.flags == ACK
    assert rig.give(RST, seq=rig.seq - 5) == []
    assert rig.give(RST, seq=rig.seq + (1 << 30)) == []
    assert rig.state == state
    assert rig.tcp.counters["challenge_acks"] == 2


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_ack_of_what_was_never_sent(state: str) -> None:
    rig = STATES[state]()
    (challenge,) = rig.give(ACK, ack=rig.ack + 1000)
    assert challenge.flags == ACK
    rig.sim.now += 10 * MS
    (challenge,) = rig.give(ACK, ack=rig.ack - 100_000)
    assert challenge.flags == ACK
    assert rig.state == state


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_segment_without_ack_is_dropped(state: str) -> None:
    rig = STATES[state]()
    assert rig.give(0, seq=rig.seq, data=b"x") == []
    assert rig.state == state


@pytest.mark.parametrize("state", STATES)
def test_close_ends_everything(state: str) -> None:
    rig = STATES[state]()
    rig.tcp.close(rig.sim.now)
    out = rig.take()
    if state in ("CONNECTING", "TIME_WAIT"):
        assert out == []
    else:
        assert len(out) == 1 and out[0].flags & RST
    ended = state in ("CLOSE_WAIT", "CLOSING", "LAST_ACK", "TIME_WAIT")
    assert rig.sock.was_reset != ended
    nothing_left(rig)


# -- opening


@pytest.mark.parametrize(
    ("error", "flags", "icmp"),
    [
        (errno.ECONNREFUSED, [RST | ACK], []),
        (errno.ECONNRESET, [RST | ACK], []),
        (errno.ENETUNREACH, [], [0]),
        (errno.EHOSTUNREACH, [], [1]),
        (errno.EACCES, [], [13]),
        (errno.ETIMEDOUT, [], []),
        (errno.EMFILE, [], []),
        (errno.EADDRNOTAVAIL, [], []),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_connect_errors(error: int, flags: list[int], icmp: list[int], at_once: bool) -> None:
    rig = Rig()
    (rig.host.at_once if at_once else rig.host.answers)["192.0.2.7", 80] = error  # type: ignore[index]
    out = rig.give(SYN, options=MSS_OPTION) + rig.settle()
    assert [seg.flags for seg in out] == flags
    if flags:
        assert out[0].seq == 0 and out[0].ack == ISN + 1
    assert rig.link.icmp == icmp
    nothing_left(rig)


def test_an_icmp_error_that_ends_the_connect_is_passed_on() -> None:
    """A SYN whose TTL ran out, or that a filter turned away: the guest hears who said so."""
    rig = Rig()
    rig.host.answers["192.0.2.7", 80] = errno.EHOSTUNREACH
    rig.give(SYN)
    rig.sock.failure = QueuedError(errno.EHOSTUNREACH, 11, 7, 0, "198.51.100.7", ("192.0.2.7", 80), b"")
    assert rig.settle() == []
    assert rig.link.icmp == [7]
    nothing_left(rig)


def test_targets_are_tried_in_order_and_the_last_error_counts() -> None:
    rig = Rig()
    rig.link.route = [("a", 1), ("b", 2), ("c", 3)]
    rig.host.at_once["a", 1] = errno.ENETUNREACH
    rig.host.answers["b", 2] = errno.EHOSTUNREACH
    rig.host.answers["c", 3] = errno.ECONNREFUSED
    assert rig.give(SYN) == []
    (reset,) = rig.settle(5 * MS)
    assert reset.flags == RST | ACK and rig.link.icmp == []
    assert [sock.remote for sock in rig.host.sockets] == [("b", 2), ("c", 3)]
    nothing_left(rig)


def test_second_target_answers() -> None:
    rig = Rig()
    rig.link.route = [("a", 1), ("b", 2)]
    rig.host.answers["a", 1] = errno.ECONNREFUSED
    rig.give(SYN)
    (answer,) = rig.settle(5 * MS)
    assert answer.flags == SYN | ACK
    assert next(iter(rig.tcp.flows()))["host"] == ("b", 2)


def test_no_target_refuses_and_unreachable_is_told() -> None:
    rig = Rig()
    rig.link.route = []
    (reset,) = rig.give(SYN)
    assert reset.flags == RST | ACK and reset.ack == ISN + 1
    rig.link.route = 1
    assert rig.give(SYN) == []
    assert rig.link.icmp == [1]
    nothing_left(rig)


def test_repeated_syn_opens_once() -> None:
    rig = tcp_connecting()
    rig.give(SYN, seq=ISN, options=MSS_OPTION)
    rig.settle()
    assert len(rig.host.sockets) == 1


def test_new_syn_while_connecting_counts() -> None:
    """The guest gave up and tries again from the same port: the answer is for the new attempt."""
    rig = tcp_connecting()
    rig.give(SYN, seq=5000, options=MSS_OPTION)
    (answer,) = rig.settle()
    assert answer.ack == 5001 and len(rig.host.sockets) == 1


def test_connect_that_never_ends() -> None:
    rig = Rig()
    rig.host.answers["192.0.2.7", 80] = None
    rig.give(SYN)
    assert rig.advance(Limits().connect_timeout + 1) == []
    nothing_left(rig)


def test_syn_ack_is_repeated_and_given_up() -> None:
    rig = tcp_syn_received()
    out = rig.advance(70 * SECOND)
    assert [seg.flags for seg in out] == [SYN | ACK] * tcp_state.SYN_ACK_RETRIES + [RST | ACK]
    assert rig.sock.was_reset
    nothing_left(rig)


def test_syn_is_repeated_and_given_up() -> None:
    rig = tcp_syn_sent()
    out = rig.advance(300 * SECOND)
    assert [seg.flags for seg in out] == [SYN] * 30 + [RST]  # at 1, 3, 5 ... 59 s; the first SYN is taken
    assert rig.sock.was_reset
    nothing_left(rig)


def test_host_connection_breaks_before_the_guest_answers() -> None:
    rig = tcp_syn_received()
    rig.sock.closed = True
    rig.sock.events.host_failed(errno.ECONNRESET, rig.sim.now)
    assert [seg.flags for seg in rig.take()] == [RST | ACK]
    nothing_left(rig)


def test_active_open_carries_data_both_ways() -> None:
    rig = tcp_syn_sent()
    rig.give(SYN | ACK, options=MSS_OPTION + SACK_OK + SCALE_7)
    rig.sock.say(b"hello")
    (data,) = rig.settle()
    assert data.data == b"hello"
    rig.give(ACK | PSH, data=b"world")
    assert rig.sock.received == b"world"


def test_active_open_refuses_a_second_of_the_same_name() -> None:
    rig = tcp_established()
    assert KEY in rig.tcp
    assert rig.tcp.open(rig.sock, FakePath(PEER_IP, GUEST_IP), KEY, 0) is None


def test_simultaneous_open() -> None:
    rig = tcp_syn_sent()
    (answer,) = rig.give(SYN, options=MSS_OPTION + SCALE_7)
    assert answer.flags == SYN | ACK and answer.seq == rig.ack - 1 and answer.option(3) == b"\x07"
    rig.give(ACK)
    assert rig.state == "ESTABLISHED"


# -- no flow


@pytest.mark.parametrize(
    ("flags", "seq", "ack", "data", "answer"),
    [
        (ACK, 5, 77, b"", (RST, 77, 0)),
        (ACK | FIN, 5, 77, b"abc", (RST, 77, 0)),
        (SYN | ACK, 5, 77, b"", (RST, 77, 0)),
        (FIN, 5, 0, b"abc", (RST | ACK, 0, 9)),
        (0, M32, 0, b"ab", (RST | ACK, 0, 1)),
        (RST, 5, 0, b"", None),
        (RST | ACK, 5, 6, b"", None),
        (SYN | FIN, 5, 0, b"", None),
        (SYN | RST, 5, 0, b"", None),
    ],
)
def test_stray(flags: int, seq: int, ack: int, data: bytes, answer: tuple[int, int, int] | None) -> None:
    rig = Rig()
    out = rig.give(flags, seq=seq, ack=ack, data=data)
    assert [(seg.flags, seg.seq, seg.ack) for seg in out] == ([answer] if answer else [])
    nothing_left(rig)


# -- options


@pytest.mark.parametrize(
    ("options", "mss", "sack", "scale"),
    [
        (b"", 536, False, False),
        (MSS_OPTION, 1460, False, False),
        (MSS_OPTION + SACK_OK + SCALE_7, 1460, True, True),
        (b"\x02\x04\x00\x00", 536, False, False),
        (b"\x02\x04\x00\x01", 48, False, False),
        (b"\x02\x04\xff\xff" + SACK_OK, 1460, True, False),
        (b"\x01\x03\x03\xff" + MSS_OPTION, 1460, False, True),
        (b"\x02\x03\x05\x00", 536, False, False),  # wrong length
        (b"\x02\x04\x05\xb4\x08\x00\x01\x01", 1460, False, False),  # length 0 ends the list
        (b"\x00\x02\x04\x05\xb4\x00\x00\x00", 536, False, False),  # after the end
        (b"\x01\x01\x01\x02", 536, False, False),  # cut off
        (b"\x02\x04\x05\xb4\xfe\x04ab", 1460, False, False),  # unknown
    ],
)
def test_syn_options(options: bytes, mss: int, sack: bool, scale: bool) -> None:
    rig = tcp_connecting(options)
    (answer,) = rig.settle()
    assert answer.option(2) == b"\x05\xb4"
    assert (answer.option(4) is not None) == sack
    assert (answer.option(3) is not None) == scale
    rig.give(ACK)
    rig.sock.say(bytes(3000))
    assert len(rig.settle()[0].data) == mss


def test_window_scale_works_both_ways() -> None:
    rig = tcp_syn_received(MSS_OPTION + SCALE_0)
    (ack,) = rig.give(ACK | FIN, window=1000)
    assert ack.window << 7 >= 200_000
    rig = tcp_established(MSS_OPTION + SCALE_7, window=10)
    rig.sock.say(bytes(5000))
    assert sum(len(seg.data) for seg in rig.settle()) == 1280


def test_window_of_a_syn_is_not_scaled() -> None:
    rig = tcp_syn_received(MSS_OPTION + SCALE_7)
    assert rig.flow.rcv.adv - rig.flow.rcv.nxt == 65535


def test_mss_follows_the_mtu() -> None:
    rig = tcp_syn_received(mtu=9000)
    assert rig.flow.snd.mss == 1460
    rig = tcp_connecting(b"\x02\x04\xff\xd7", mtu=65520)
    (answer,) = rig.settle()
    assert answer.option(2) == struct.pack("!H", 65480)
    rig.give(ACK)
    rig.sock.say(bytes(100_000))
    assert [len(seg.data) for seg in rig.settle()] == [65480]


# -- data from the guest


def test_data_reach_the_host_and_are_acknowledged_late() -> None:
    rig = tcp_established()
    assert rig.give(ACK | PSH, data=b"hello") == []
    assert rig.sock.received == b"hello"
    (ack,) = rig.advance(tcp_state.ACK_DELAY)
    assert ack.ack == rig.seq


def test_every_second_full_segment_is_acknowledged() -> None:
    rig = tcp_established()
    answers = [len(rig.give(ACK, data=bytes(1460))) for _ in range(6)]
    assert answers == [0, 1, 0, 1, 0, 1]


def test_super_frame_is_acknowledged_at_once() -> None:
    rig = tcp_established()
    (ack,) = rig.give(ACK, data=bytes(20000), vnet=b"\x01" + bytes(9))
    assert ack.ack == rig.seq and len(rig.sock.received) == 20000


def test_hole_is_reported_at_once_and_filled() -> None:
    rig = tcp_established()
    start = rig.seq
    (one,) = rig.give(ACK, seq=start + 100, data=b"b" * 100)
    assert one.ack == start and one.sacks == [(start + 100, start + 200)]
    (two,) = rig.give(ACK, seq=start + 300, data=b"d" * 100)
    assert two.sacks == [(start + 300, start + 400), (start + 100, start + 200)]
    (three,) = rig.give(ACK, seq=start + 200, data=b"c" * 100)
    assert three.sacks == [(start + 100, start + 400)]
    (four,) = rig.give(ACK, seq=start, data=b"a" * 100)
    assert four.ack == start + 400 and four.sacks == []
    assert rig.sock.received == b"a" * 100 + b"b" * 100 + b"c" * 100 + b"d" * 100
    assert rig.buffers.used == 0


def test_no_sack_blocks_unless_agreed() -> None:
    rig = tcp_established(MSS_OPTION)
    (ack,) = rig.give(ACK, seq=rig.seq + 100, data=b"b")
    assert ack.sacks == []


def test_overlaps_first_copy_wins() -> None:
    rig = tcp_established()
    start = rig.seq
    rig.give(ACK, seq=start + 2, data=b"CD")
    rig.give(ACK, seq=start + 1, data=b"bxyE")
    rig.give(ACK, seq=start, data=b"a")
    assert rig.sock.received == b"abCDE"


def test_old_data_are_acknowledged_again_and_not_delivered() -> None:
    rig = tcp_established()
    rig.give(ACK, data=b"hello")
    (ack,) = rig.give(ACK, seq=rig.seq - 5, data=b"HELLO")
    assert ack.ack == rig.seq
    rig.give(ACK, seq=rig.seq - 2, data=b"LO!")
    assert rig.sock.received == b"hello!"


def test_early_fin_waits_for_its_data() -> None:
    rig = tcp_established()
    start = rig.seq
    rig.give(ACK | FIN, seq=start + 3, data=b"def")
    assert rig.state == "ESTABLISHED"
    rig.give(ACK, seq=start, data=b"abc")
    assert rig.state == "CLOSE_WAIT" and rig.sock.received == b"abcdef" and rig.sock.was_shut


def test_data_beyond_the_window_are_cut() -> None:
    rig = tcp_established()
    edge = rig.flow.rcv.adv - rig.flow.rcv.nxt
    (ack,) = rig.give(ACK, seq=ISN + 1 + edge - 4, data=b"abcdefgh")
    assert ack.sacks == [(ISN + 1 + edge - 4, ISN + 1 + edge)]
    rig.sim.now += 10 * MS
    (ack,) = rig.give(ACK, seq=ISN + 1 + edge, data=b"x")
    assert ack.ack == ISN + 1 and len(rig.flow.rcv.ooo) == 4


def test_reassembly_is_bounded() -> None:
    rig = tcp_established(limits=Limits(reassembly_chunks=4))
    for i in range(10):
        rig.give(ACK, seq=rig.seq + 10 + 2 * i, data=b"x")
    assert len(rig.flow.rcv.ooo.starts) == 4
    assert rig.tcp.counters["reassembly_dropped"] == 6
    assert rig.buffers.used == 4


def test_back_pressure_closes_and_opens_the_window() -> None:
    rig = tcp_established()
    rig.host.send_buffer = 10_000
    rig.host.drain_rate = 1  # next to nothing
    sent = 0
    while True:
        window = rig.flow.rcv.adv - rig.flow.rcv.nxt
        if not window:
            break
        size = min(1460, window)
        rig.give(ACK, data=bytes(size))
        sent += size
    assert sent < 65535 + 10_000 + 1460
    assert rig.buffers.used == len(rig.flow.rcv.pending)
    (probe,) = rig.give(ACK, seq=rig.seq, data=b"p")  # the guest's zero-window probe
    assert probe.ack == rig.seq and probe.window == 0
    rig.host.drain_rate = 100_000
    out = rig.settle(20 * MS)
    assert out and out[-1].flags == ACK and out[-1].window > 30_000
    assert len(rig.sock.received) == sent and rig.buffers.used == 0


def test_guest_fin_waits_for_pending_data() -> None:
    rig = tcp_established()
    rig.host.send_buffer = 100
    rig.host.drain_rate = 100
    rig.give(ACK | FIN, data=bytes(1000))
    assert rig.state == "CLOSE_WAIT" and not rig.sock.was_shut
    rig.settle(50 * MS)
    assert rig.sock.was_shut and len(rig.sock.received) == 1000


def test_host_error_while_writing_resets_the_guest() -> None:
    rig = tcp_established()
    rig.sock.error = OSError(errno.EPIPE, "fake")
    (reset,) = rig.give(ACK, data=b"x")
    assert reset.flags == RST | ACK
    nothing_left(rig)


def test_shared_buffers_are_a_cap() -> None:
    rig = tcp_established(MSS_OPTION + SCALE_7, cap=100_000)
    rig.host.send_buffer = 1
    rig.host.drain_rate = 1
    for _ in range(200):
        rig.give(ACK, data=bytes(min(1460, max(1, rig.flow.rcv.adv - rig.flow.rcv.nxt))))
        rig.seq = rig.flow.rcv.nxt & M32
    assert rig.buffers.used <= 100_000
    assert rig.flow.rcv.window() << 7 < 1460


def test_busy_flow_gets_a_larger_window() -> None:
    rig = tcp_established(MSS_OPTION + SCALE_7)
    before = rig.flow.rcv.limit
    for _ in range(40):
        rig.give(ACK, data=bytes(20_000), vnet=b"\x01" + bytes(9))
    assert rig.flow.rcv.limit == 2 * before


# -- data from the host


def test_data_are_cut_into_segments() -> None:
    rig = tcp_established()
    rig.sock.say(bytes(4000))
    out = rig.settle()
    assert [len(seg.data) for seg in out] == [1460, 1460, 1080]
    assert [seg.flags for seg in out] == [ACK, ACK, ACK | PSH]


@pytest.mark.parametrize("six", [False, True])
def test_super_frames_where_offered(six: bool) -> None:
    rig = tcp_established(six=six)
    rig.link.features = 1 | (4 if six else 2)
    rig.sock.say(bytes(60_000))
    (frame,) = rig.settle()
    assert len(frame.data) == 60_000 and frame.gso == (1440 if six else 1460)


@pytest.mark.parametrize(("features", "count"), [(1, 3), (2, 3), (1 | 4, 3)])
def test_without_both_offers_no_super_frames(features: int, count: int) -> None:
    rig = tcp_established()
    rig.link.features = features
    rig.sock.say(bytes(4000))
    assert len(rig.settle()) == count


def test_fin_follows_all_data_and_is_repeated() -> None:
    rig = tcp_established()
    rig.sock.say(b"bye")
    rig.sock.end()
    out = rig.settle()
    assert [(seg.data, seg.flags) for seg in out] == [(b"bye", ACK | PSH), (b"", ACK | FIN)]
    (again,) = rig.advance(1100 * MS)
    assert again.data == b"bye" and again.flags == ACK | FIN
    rig.give(ACK)
    assert rig.state == "FIN_WAIT_2"
    assert rig.buffers.used == 0


def test_window_limits_what_is_read_from_the_host() -> None:
    rig = tcp_established(window=3000)
    rig.sock.say(bytes(100_000))
    assert sum(len(seg.data) for seg in rig.settle()) == 2920
    assert len(rig.sock.to_send) == 100_000 - 2920
    assert rig.settle() == []


def test_zero_window_is_probed_for_ever_while_the_guest_answers() -> None:
    rig = tcp_established(window=0)
    rig.sock.say(b"abcdef")
    assert rig.settle() == []
    times = []
    for _ in range(30):
        start = rig.sim.now
        while not (out := rig.advance(SECOND // 10)):
            assert rig.sim.now - start < 120 * SECOND
        (probe,) = out
        assert probe.data == b"a"
        times.append(rig.sim.now - start)
        rig.give(ACK, ack=probe.seq, window=0)
    assert times[-1] > 50 * SECOND >= 10 * times[0]
    out = rig.give(ACK, ack=probe.seq, window=1000)
    assert b"".join(seg.data for seg in out) == b"abcdef" and out[0].seq == probe.seq


def test_zero_window_without_an_answer_is_given_up() -> None:
    rig = tcp_established(window=0)
    rig.sock.say(b"abcdef")
    rig.settle()
    out = rig.advance(1000 * SECOND)
    assert out[-1].flags == RST | ACK
    assert rig.sock.was_reset
    nothing_left(rig)


def test_retransmission_backs_off_and_gives_up() -> None:
    rig = tcp_established()
    rig.sock.say(b"abc")
    rig.settle()
    times = []
    while len(rig.tcp):
        at = rig.tcp.next_deadline()
        assert at is not None
        rig.sim.now = at
        rig.tcp.run(at)
        if rig.take():
            times.append(at)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(times) == tcp_state.DATA_RETRIES + 1
    assert all(b in (2 * a, tcp_state.RTO_MAX) for a, b in itertools.pairwise(gaps))
    assert times[-1] - times[0] >= 100 * SECOND
    nothing_left(rig)


def test_rto_follows_the_round_trip_time() -> None:
    rig = tcp_established()
    rto = rig.flow.snd.rto
    for _ in range(20):
        rig.sock.say(b"x")
        rig.settle()
        rig.sim.now += 400 * MS
        rig.give(ACK)
    assert rto.srtt == pytest.approx(402 * MS, rel=0.01)
    assert tcp_state.RTO_MIN < rto.value < 800 * MS


def burst(rig: Rig, count: int) -> list[Segment]:
    rig.sock.say(random.Random(4).randbytes(1460 * count))
    out = rig.settle()
    assert len(out) == count
    return out


def sack(*blocks: tuple[int, int]) -> bytes:
    return bytes((1, 1, 5, 2 + 8 * len(blocks))) + b"".join(
        struct.pack("!II", a & M32, b & M32) for a, b in blocks
    )


def test_fast_retransmit_without_sack() -> None:
    rig = tcp_established(MSS_OPTION)
    out = burst(rig, 10)
    first = out[0].seq
    assert rig.give(ACK, ack=first) == []
    assert rig.give(ACK, ack=first) == []
    (again,) = rig.give(ACK, ack=first)
    assert again.seq == first and again.data == out[0].data
    # a partial ACK: the next hole goes at once (NewReno)
    (again,) = rig.give(ACK, ack=out[3].seq)
    assert again.seq == out[3].seq and again.data == out[3].data
    rig.give(ACK)
    assert rig.flow.snd.recovery is None
    assert rig.flow.snd.cwnd == rig.flow.snd.ssthresh == 5 * 1460


def test_sack_recovery_sends_only_the_holes() -> None:
    rig = tcp_established()
    out = burst(rig, 20)
    at = [seg.seq for seg in out] + [rig.ack]
    first = at[0]
    again = rig.give(ACK, ack=first, options=sack((at[1], at[2])))
    again += rig.give(ACK, ack=first, options=sack((at[1], at[3])))
    again += rig.give(ACK, ack=first, options=sack((at[5], at[9]), (at[1], at[3])))
    again += rig.give(ACK, ack=first, options=sack((at[5], at[20]), (at[1], at[3])))
    assert sorted({seg.seq for seg in again}) == [at[0], at[3], at[4]]
    assert len(again) == 3
    assert rig.give(ACK, ack=at[20]) == []
    assert rig.flow.snd.recovery is None and rig.flow.snd.board is None
    assert rig.buffers.used == 0


def test_limited_transmit() -> None:
    """Each of the first two duplicate ACKs lets one new segment out (RFC 3042)."""
    rig = tcp_established(MSS_OPTION + SCALE_7)
    rig.flow.snd.cwnd = 10 * 1460
    rig.sock.say(bytes(30 * 1460))
    first = rig.settle()[0].seq
    sent = [len(rig.give(ACK, ack=first)) for _ in range(2)]
    assert sent == [1, 1]


def test_timeout_starts_over_with_one_segment() -> None:
    rig = tcp_established()
    out = burst(rig, 10)
    (again,) = rig.advance(1100 * MS)
    assert again.seq == out[0].seq and rig.flow.snd.cwnd == 1460
    resent = rig.give(ACK, ack=out[1].seq)
    assert [seg.seq for seg in resent] == [out[1].seq, out[2].seq]
    assert rig.give(ACK) == [] and rig.flow.snd.recovery is None


def test_sack_outside_what_was_sent_is_ignored() -> None:
    rig = tcp_established()
    out = burst(rig, 3)
    for block in ((rig.ack, rig.ack + 1000), (out[0].seq - 500, out[0].seq), (out[2].seq, out[1].seq)):
        rig.give(ACK, ack=out[0].seq, options=sack(block))
    board = rig.flow.snd.board
    assert board is None or board.starts == []


def test_full_wire_holds_data_and_resumes() -> None:
    rig = tcp_established()
    rig.link.room = 2
    rig.sock.say(bytes(5 * 1460))
    out = rig.settle()
    assert len(out) == 2
    while len(out) < 5:
        rig.tcp.tx_ready(rig.sim.now)
        out += rig.settle()
    assert [seg.seq for seg in out] == [out[0].seq + 1460 * i for i in range(5)]


def test_stopped_guest_keeps_its_connections() -> None:
    """The card takes nothing for an hour: no time-out counts meanwhile, and then all goes on."""
    rig = tcp_established(limits=Limits(idle=100 * SECOND))
    rig.link.room = 0
    rig.sock.say(b"abc")
    rig.settle()
    assert rig.advance(3600 * SECOND) == [] and rig.state == "ESTABLISHED"
    rig.link.room = 10
    rig.tcp.tx_ready(rig.sim.now)
    assert [seg.data for seg in rig.take()] == [b"abc"]
    rig.give(ACK)
    assert rig.buffers.used == 0


def test_ack_that_the_wire_refused_follows() -> None:
    rig = tcp_established()
    rig.link.room = 0
    assert rig.give(ACK, data=bytes(2920)) == []
    rig.link.room = 10
    rig.tcp.tx_ready(rig.sim.now)
    (ack,) = rig.take()
    assert ack.ack == rig.seq


def test_starved_flow_reads_again_when_buffers_are_free() -> None:
    rig = tcp_established(cap=100_000)
    rig.buffers.used = 99_000
    rig.sock.say(b"x" * 2000)
    assert rig.settle() == [] and rig.tcp.counters["starved"] == 1
    rig.buffers.used = 0
    assert sum(len(seg.data) for seg in rig.advance(tcp_state.STARVED_RETRY)) == 2000


def test_half_close_by_the_guest_then_much_from_the_host() -> None:
    rig = tcp_close_wait()
    rig.sock.say(bytes(3000))
    rig.sock.end()
    out = rig.settle()
    assert sum(len(seg.data) for seg in out) == 3000 and out[-1].flags == ACK | FIN
    rig.give(ACK)
    nothing_left(rig)


def test_half_close_by_the_host_then_much_from_the_guest() -> None:
    rig = tcp_fin_wait_2()
    for _ in range(4):
        rig.give(ACK, data=bytes(1000))
    rig.give(ACK | FIN)
    assert len(rig.sock.received) == 4000 and rig.sock.closed and rig.state == "TIME_WAIT"


# -- the end


def test_new_incarnation_from_time_wait() -> None:
    rig = tcp_time_wait()
    old = rig.ack
    assert rig.give(SYN, seq=rig.seq + 1, options=MSS_OPTION) == []
    assert rig.state == "CONNECTING"
    (answer,) = rig.settle()
    assert 0 < (answer.seq - old) & M32 < 1 << 31


def test_old_syn_does_not_end_time_wait() -> None:
    rig = tcp_time_wait()
    rig.give(SYN, seq=rig.seq - 100)
    assert rig.state == "TIME_WAIT"


def test_time_wait_is_bounded_and_makes_room() -> None:
    rig = Rig(limits=Limits(flows=4, time_wait_flows=2))
    for port in range(10):
        rig.port, rig.seq = 1000 + port, ISN
        rig.give(SYN)
        rig.settle()
        rig.give(ACK)
        rig.sock.end()
        rig.settle()
        rig.give(ACK | FIN)
        assert len(rig.tcp) <= 2
    rig.advance(31 * SECOND)
    nothing_left(rig)


def test_too_many_flows_are_refused() -> None:
    rig = Rig(limits=Limits(flows=3))
    for port in range(3):
        rig.port = port + 1
        assert rig.give(SYN) == []
    rig.port = 9
    (reset,) = rig.give(SYN, seq=5)
    assert reset.flags == RST | ACK and reset.ack == 6
    assert rig.tcp.counters["flows_full"] == 1 and len(rig.tcp) == 3


def test_silent_guest_is_probed_and_dropped() -> None:
    rig = tcp_established(limits=Limits(idle=100 * SECOND))
    assert rig.advance(99 * SECOND) == []
    out = rig.advance(SECOND)
    assert len(out) == 1 and out[0].seq == (rig.ack - 1) & M32 and out[0].data == b""
    rig.give(ACK)
    assert rig.advance(99 * SECOND) == []
    out = rig.advance(2000 * SECOND)
    assert len(out) == tcp_state.KEEPALIVE_PROBES + 1 and out[-1].flags == RST | ACK
    nothing_left(rig)


def test_keepalive_of_the_guest_is_answered() -> None:
    rig = tcp_established()
    (ack,) = rig.give(ACK, seq=rig.seq - 1)
    assert ack.ack == rig.seq


def test_keepalive_of_the_guest_passes() -> None:
    """The host's side is probed as often as the guest probes, within bounds."""
    rig = tcp_established()
    rig.give(ACK, seq=rig.seq - 1)
    assert rig.sock.idle == 75
    rig.advance(300 * SECOND)
    rig.give(ACK, seq=rig.seq - 1, data=b"\0")  # with the byte of garbage that old stacks send
    rig.seq = (rig.flow.rcv.nxt) & M32
    assert rig.sock.idle == 300
    rig.advance(SECOND)
    rig.give(ACK, seq=rig.seq - 1)
    assert rig.sock.idle == 15 and rig.sock.received == b""


def test_a_hole_that_nobody_fills_is_forgotten() -> None:
    rig = tcp_established()
    start = rig.seq
    rig.give(ACK, seq=start + 100, data=bytes(1000))
    assert rig.buffers.used == 1000
    for _ in range(11):  # rubbish does not prolong it
        rig.advance(10 * SECOND)
        rig.give(ACK, seq=start + 100, data=bytes(1000))
    assert rig.buffers.used == 1000
    rig.advance(10 * SECOND)
    assert rig.buffers.used == 0 and rig.tcp.counters["holes_given_up"] == 1
    rig.give(ACK, seq=start, data=bytes(1100))  # an honest guest sends it all again
    (ack,) = rig.advance(tcp_state.ACK_DELAY)
    assert ack.ack == start + 1100 and len(rig.sock.received) == 1100


def test_a_shut_window_is_no_reason_to_keep_what_others_need() -> None:
    """RFC 6429: for ever while there is room, for a minute while there is none."""
    rig = tcp_established(cap=1 << 20)
    rig.sock.say(bytes(200_000))
    rig.settle()
    rig.give(ACK, window=0)

    def answer(seconds: int) -> None:
        for _ in range(seconds):
            if rig.advance(SECOND) and len(rig.tcp):
                rig.give(ACK, window=0)

    answer(300)
    assert rig.state == "ESTABLISHED"
    rig.buffers.used += 1_000_000 - rig.buffers.used  # the others
    answer(200)
    assert rig.state == "CLOSED" and rig.sock.was_reset


def test_freed_buffers_open_the_windows_that_they_shut() -> None:
    rig = tcp_established(cap=200_000, options=MSS_OPTION + SCALE_7)
    rig.buffers.used = 190_000  # other flows hold nearly all
    answers = [rig.give(ACK, data=bytes(1460)) for _ in range(200)]
    assert answers[-1][-1].window << 7 < 8000
    rig.advance(SECOND)
    assert rig.take() == []
    rig.buffers.used = 0
    (update,) = rig.advance(100 * MS)
    assert update.window << 7 >= 40_000 and update.data == b""
    rig.give(ACK, data=bytes(1460))
    rig.advance(SECOND)
    assert not rig.tcp.squeezed


def test_timer_heap_is_bounded() -> None:
    rig = tcp_established()
    for _ in range(5000):
        rig.give(ACK, data=b"x")
        rig.advance(tcp_state.ACK_DELAY)
    assert len(rig.tcp._heap) < 200


def test_flow_rows() -> None:
    rig = tcp_established()
    rig.sock.say(b"abc")
    rig.settle()
    (row,) = rig.tcp.flows()
    assert row["src"] == ("10.0.2.15", 40000) and row["dst"] == ("192.0.2.7", 80)
    assert row["state"] == "ESTABLISHED" and row["sendq"] == 3 and row["recvq"] == 0
    rig.give(ACK)
    (row,) = rig.tcp.flows()
    assert row["sendq"] == 0


def test_idle_flows_are_small() -> None:
    import tracemalloc

    rig = Rig()
    tracemalloc.start()
    for port in range(1000, 1200):
        rig.port, rig.seq = port, ISN
        rig.tcp.link.out.clear()  # type: ignore[attr-defined]
        rig.give(SYN, options=MSS_OPTION + SACK_OK + SCALE_7)
    own = sum(
        stat.size
        for stat in tracemalloc.take_snapshot().statistics("filename")
        if "slirp/" in stat.traceback[0].filename and "tests" not in stat.traceback[0].filename
    )
    tracemalloc.stop()
    assert own / 200 < 5000


# -- rubbish


@pytest.mark.parametrize(
    "cut",
    [
        lambda f: f[:34] + f[34:46] + b"\x40" + f[47:],  # data offset 4
        lambda f: f[:34] + f[34:46] + b"\xf0" + f[47:],  # data offset beyond the end
        lambda f: f[:16] + struct.pack("!H", 39) + f[18:53],  # shorter than a header
    ],
)
def test_malformed_header(cut: Callable[[bytes], bytes]) -> None:
    rig = tcp_established()
    frame = cut(make_frame(GUEST_IP, PEER_IP, 40000, 80, rig.seq, rig.ack, ACK, 100))
    feed(rig.tcp, frame, 0)
    assert rig.tcp.counters["malformed"] == 1 and rig.take() == []


def test_bad_checksum_is_dropped_unless_vouched_for() -> None:
    rig = tcp_established()
    frame = make_frame(GUEST_IP, PEER_IP, 40000, 80, rig.seq, rig.ack, ACK, 100, b"", b"xyz")
    bad = frame[:-1] + b"!"
    feed(rig.tcp, bad, 0)
    assert rig.tcp.counters["bad_checksum"] == 1 and rig.sock.received == b""
    feed(rig.tcp, bad, 0, b"\x02" + bytes(9))
    assert rig.sock.received == b"xy!"


def test_ethernet_padding_is_not_data() -> None:
    rig = tcp_established()
    frame = make_frame(GUEST_IP, PEER_IP, 40000, 80, rig.seq, rig.ack, ACK, 100, b"", b"x")
    rig.tcp.input(frame + b"padding", b"", 34, len(frame), KEY, 0)
    assert rig.sock.received == b"x"


segments = st.tuples(
    st.integers(0, 63),
    st.one_of(st.integers(-70_000, 70_000), st.integers(0, M32)),
    st.one_of(st.integers(-70_000, 70_000), st.integers(0, M32)),
    st.integers(0, 65535),
    st.binary(max_size=40).map(lambda b: b + bytes(-len(b) % 4)),
    st.integers(0, 3000),
    st.sampled_from(["", "say", "end", "fail", "time", "full", "ready"]),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(STATES)), st.lists(segments, max_size=20))
def test_rubbish_never_raises_and_holds_nothing_for_ever(state: str, script: list[Any]) -> None:
    rig = STATES[state]()
    for flags, seq, ack, window, options, size, event in script:
        rig.give(
            flags, seq=(rig.seq + seq) & M32, ack=(rig.ack + ack) & M32, window=window, options=options, data=bytes(size)
        )  # fmt: skip
        sock = rig.sock
        if event == "say":
            sock.say(bytes(5000))
        elif event == "end":
            sock.end()
        elif event == "fail":
            sock.fail(errno.ECONNRESET)
        elif event == "time":
            rig.advance(300 * MS)
        elif event == "full":
            rig.link.room = 0
        elif event == "ready":
            rig.link.room = 1 << 30
            rig.tcp.tx_ready(rig.sim.now)
        rig.settle()
        assert 0 <= rig.buffers.used <= rig.buffers.cap
    rig.link.room = 1 << 30
    rig.tcp.tx_ready(rig.sim.now)
    rig.advance(20_000 * SECOND)
    nothing_left(rig)
