"""The TCP states on the guest's side, the events that move between them, and every limit and timer by name.

CONNECTING is ours: a SYN has come in and the host's own connect is under way; no SYN|ACK has gone out
yet. LISTEN does not appear: every address listens until the host says otherwise.

Ref: RFC 9293 3.3.2 (state machine), RFC 6298 (RTO), RFC 9293 3.8.3 (R2), RFC 1122 4.2.3 (delayed ACK,
keep-alive).
"""

from __future__ import annotations

from dataclasses import dataclass

CLOSED = 0
CONNECTING = 1
SYN_SENT = 2
SYN_RECEIVED = 3
ESTABLISHED = 4
FIN_WAIT_1 = 5
FIN_WAIT_2 = 6
CLOSE_WAIT = 7
CLOSING = 8
LAST_ACK = 9
TIME_WAIT = 10

NAMES = (
    "CLOSED",
    "CONNECTING",
    "SYN_SENT",
    "SYN_RECEIVED",
    "ESTABLISHED",
    "FIN_WAIT_1",
    "FIN_WAIT_2",
    "CLOSE_WAIT",
    "CLOSING",
    "LAST_ACK",
    "TIME_WAIT",
)

# events
HOST_CONNECTED = "host connected"  # SYN|ACK goes out
SYN_IN = "SYN"  # simultaneous open
SYN_ACK_IN = "SYN|ACK"
SYN_ACKED = "ACK of SYN"
FIN_OUT = "FIN sent"
FIN_IN = "FIN"
FIN_ACKED = "ACK of FIN"
ABORT = "abort"  # RST in either direction, give-up, shutdown

TRANSITIONS: dict[tuple[int, str], int] = {
    (CONNECTING, HOST_CONNECTED): SYN_RECEIVED,
    (SYN_SENT, SYN_IN): SYN_RECEIVED,
    (SYN_SENT, SYN_ACK_IN): ESTABLISHED,
    (SYN_RECEIVED, SYN_ACKED): ESTABLISHED,
    (ESTABLISHED, FIN_OUT): FIN_WAIT_1,
    (ESTABLISHED, FIN_IN): CLOSE_WAIT,
    (FIN_WAIT_1, FIN_ACKED): FIN_WAIT_2,
    (FIN_WAIT_1, FIN_IN): CLOSING,
    (FIN_WAIT_2, FIN_IN): TIME_WAIT,
    (CLOSE_WAIT, FIN_OUT): LAST_ACK,
    (CLOSING, FIN_ACKED): TIME_WAIT,
    (LAST_ACK, FIN_ACKED): CLOSED,
    **{(state, ABORT): CLOSED for state in range(CONNECTING, TIME_WAIT + 1)},
}

MS = 1_000_000
SECOND = 1_000 * MS

# timers, ns
RTO_INITIAL = 1 * SECOND  # RFC 6298 2.1
RTO_MIN = 200 * MS  # RFC 6298 says 1 s; the wire is local, and 200 ms is what guests themselves use
RTO_MAX = 60 * SECOND  # RFC 6298 2.4
CLOCK_GRANULARITY = 1 * MS
ACK_DELAY = 40 * MS  # RFC 9293 3.8.6.3: below 500 ms
CHALLENGE_GAP = 10 * MS  # at most one challenge ACK per flow in this time (RFC 5961 7)
OPEN_WAIT = 60 * SECOND  # a client of a redirection waits for its guest
STARVED_RETRY = 50 * MS  # the shared buffers were full: when to look again
HOLE = 120 * SECOND  # what came ahead of a hole is forgotten when nothing has filled it in that time
HOARD = 60 * SECOND  # a window shut that long is no reason to keep data when the shared buffers are scarce
KEEPALIVE_MIN, KEEPALIVE_MAX = (
    15 * SECOND,
    7200 * SECOND,
)  # interval of the host's probes for a guest that probes

# retransmissions before giving up
SYN_BACK_OFF = 1  # our own SYN goes out every two seconds, for OPEN_WAIT: the guest may still be booting
SYN_ACK_RETRIES = 5  # 63 s
DATA_RETRIES = 15  # about eight minutes (RFC 9293 SHLD-11: at least 100 s)
KEEPALIVE_PROBES = 9
KEEPALIVE_GAP = 75 * SECOND
SQUEEZED = 256  # flows that are looked at in a row when the shared buffers have room again

# sizes, bytes
SUPER_FRAME = 65535  # largest IP packet
WINDOW_INITIAL = 256 << 10
SCANTY = 16 << 10  # a window that is left, less than this: see Tcp.squeezed
WINDOW_SCALE = 7  # ours: 128-byte steps up to 8 MiB
CWND_INITIAL = 256 << 10
PULL_BATCH = 1 << 20  # read from one host socket per event, so that one flow does not hold the loop
DUP_THRESH = 3  # RFC 5681 3.2, RFC 6675 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What one TCP NAT may hold, and for how long. Times in ns."""

    flows: int = 16384
    time_wait_flows: int = 1024  # oldest evicted first
    window_max: int = 2 << 20  # receive window and congestion window of one flow
    connect_timeout: int = 130 * SECOND  # the host's own connect usually gives up before
    idle: int = 7200 * SECOND  # guest silent that long: probe it (RFC 1122 4.2.3.6)
    time_wait: int = 30 * SECOND  # 2 MSL; frames on a local wire live for milliseconds
    reassembly_chunks: int = 1024  # out-of-order pieces of one flow
    sack_ranges: int = 256  # pieces of the sender's scoreboard of one flow
