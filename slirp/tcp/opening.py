"""How a connection begins: the guest's SYN and the host's connect, our SYN towards the guest, options.

The host connects first; the guest gets SYN|ACK only when that succeeded, so that it sees the
truth about the port. The SYN's TTL goes along. The last target's error decides what the guest sees instead: an ICMP
error that came back (a hop where the TTL ran out, a filter) is passed on from who sent it; refused is RST; no route is
ICMP net or host unreachable; administratively prohibited ICMP 13. Timed out is silence, for that is what
the network itself would show: the guest's own SYN retries then end in its own time-out. Want of
descriptors or ports on this host is silence as well: the guest tries again.

Ref: RFC 9293 3.5; RFC 7323 2 (window scale), RFC 2018 2 (SACK permitted), RFC 5461 (ICMP and a SYN).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from slirp.contracts.host import IcmpError
from slirp.contracts.link import CODE_HOST, CODE_NET, CODE_PROHIBITED
from slirp.tcp.states import ABORT, SYN_RECEIVED, WINDOW_SCALE
from slirp.wire.tcp import ACK, DEFAULT_MSS, HEADER_LEN, MIN_MSS, RST, SYN, Options, build, syn_options

if TYPE_CHECKING:
    from slirp.tcp.flow import Flow

UNREACHABLE_CODES = {
    errno.ENETUNREACH: CODE_NET,
    errno.ENETDOWN: CODE_NET,
    errno.EAFNOSUPPORT: CODE_NET,  # a host without IPv6
    errno.EHOSTUNREACH: CODE_HOST,
    errno.EHOSTDOWN: CODE_HOST,
    errno.EACCES: CODE_PROHIBITED,
    errno.EPERM: CODE_PROHIBITED,
}
SILENT_ERRORS = frozenset(
    (errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
)


def send_syn(flow: Flow, now: int) -> None:
    """Send our SYN or SYN|ACK, and arm its timer."""
    snd, rcv = flow.snd, flow.rcv
    snd.nxt = snd.una + 1
    mss = flow.path.mtu - flow.path.ip_header - HEADER_LEN
    answer = flow.state == SYN_RECEIVED
    scale, rcv.scale = rcv.scale, 0  # the window of a SYN is not scaled
    options = syn_options(mss, scale or -1, flow.sack_ok)
    flow.special(snd.una, SYN | ACK if answer else SYN, options)
    rcv.scale = scale
    snd.arm(now)


def begin(flow: Flow, frame: bytes, options: Options, irs: int) -> None:
    """Note the guest's SYN: options agreed, first sequence number."""
    rcv, snd = flow.rcv, flow.snd
    flow.syn = frame
    rcv.nxt = rcv.adv = irs + 1
    agree(flow, options)
    snd.wl1 = irs


def agree(flow: Flow, options: Options) -> None:
    """Options of the guest's SYN or SYN|ACK."""
    snd, rcv, path = flow.snd, flow.rcv, flow.path
    mss = min(options.mss or DEFAULT_MSS[path.family], path.mtu - path.ip_header - HEADER_LEN)
    mss = max(mss, MIN_MSS)
    snd.set_mss(mss)
    flow.wire.set_mss(mss)
    flow.sack_ok = options.sack_ok
    if options.scale >= 0:
        snd.scale = options.scale
        rcv.scale = WINDOW_SCALE
    else:
        snd.scale = rcv.scale = 0
        rcv.limit = min(rcv.limit, 65535)


def connect(flow: Flow, now: int) -> None:
    """Try the next target of the host."""
    error = errno.ECONNREFUSED
    while flow.targets:
        target = flow.targets[0]
        try:
            if isinstance(target, tuple):
                flow.sock = flow.tcp.host.tcp(target, flow, flow.tcp.link.how(flow.syn))
            else:
                flow.sock = target.open(flow)
        except OSError as failure:
            error = failure.errno or errno.ECONNREFUSED
            flow.targets.pop(0)
            continue
        patience = getattr(target, "patience", None) if len(flow.targets) > 1 else None
        flow.live(now + (patience or flow.tcp.limits.connect_timeout))
        return
    connect_failed(flow, error)


def connect_failed(flow: Flow, error: int, why: IcmpError | None = None) -> None:
    """No target is left: tell the guest what ``error``, or the ICMP error behind it, says."""
    tcp = flow.tcp
    frame = flow.syn
    tcp.counters["connects_failed"] += 1
    flow.move(ABORT)
    flow.drop()
    if error == errno.EADDRNOTAVAIL and flow.path.family == 6:
        error = errno.ENETUNREACH  # ::1 of a host whose IPv6 is switched off: more likely than no port left
    if error in SILENT_ERRORS:
        return
    if why is not None and why.offender is not None:
        tcp.link.complain(frame, why)
        return
    if error in UNREACHABLE_CODES:
        tcp.link.unreachable(frame, UNREACHABLE_CODES[error])
        return
    tcp.counters["resets_sent"] += 1
    tcp.link.send(*build(flow.path, tcp.link.features, flow.wire.ports, 0, flow.rcv.nxt, RST | ACK, 0))


def established(flow: Flow, event: str, now: int) -> None:
    """The three-way handshake is done."""
    snd = flow.snd
    flow.move(event)
    snd.rto_at = 0
    snd.rto.retries = snd.rto.silent = 0
    snd.una = snd.nxt
    flow.syn = b""
    flow.live(now + flow.tcp.limits.idle)
    flow.watch(1)
