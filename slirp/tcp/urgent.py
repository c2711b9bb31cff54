"""Urgent data of TCP across the NAT, both ways: one mark in the stream, as RFC 6093 leaves it.

The byte before the urgent pointer is the urgent one (what BSD and Linux do, and what RFC 6093 2.2 found everywhere). It stays in
its place in the stream, and its mark goes along: from the guest it leaves by MSG_OOB, alone, when all before it has been taken; from
the host it is read in line (SO_OOBINLINE), alone, when the socket stands at the mark, and our segments point behind it until it is
acknowledged. A later mark takes the place of an earlier one that has not been reached.

All of this is off the hot path: ``Receiver.urg`` and ``Sender.urg`` say whether there is a mark.

Ref: RFC 9293 3.8.5; RFC 6093; RFC 1122 4.2.2.4; tcp(7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slirp.contracts.host import TcpSocket
from slirp.wire.tcp import URG, build

if TYPE_CHECKING:
    from slirp.tcp.flow import Flow
    from slirp.tcp.receiver import Receiver

POINTER_MAX = 0xFFFF


def note(flow: Flow, seq: int, pointer: int) -> None:
    """A segment at ``seq`` has an urgent pointer: remember the mark if it lies ahead."""
    rcv = flow.rcv
    mark = seq + pointer
    if pointer and mark > rcv.nxt and mark > rcv.urg:
        rcv.urg = mark


def deliver(flow: Flow, frame: bytes, data: int, end: int) -> bool:
    """As ``Flow.deliver``, of data that reach the mark."""
    rcv = flow.rcv
    mark = rcv.urg
    at = data + mark - 1 - rcv.nxt  # of the urgent byte
    rcv.urg = -1
    if at > data and not flow.deliver(frame, data, at):
        rcv.urg = mark
        return False
    sock = flow.sock
    byte = frame[at : at + 1]
    try:
        taken = sock.send_urgent(byte) if sock is not None and rcv.pending is None else 0
    except OSError:
        flow.abort(True)
        return False
    if not taken:
        if rcv.buffers.used >= rcv.buffers.cap:
            rcv.urg = mark
            flow.tcp.counters["buffers_full"] += 1
            return False
        rcv.hold(byte)
        rcv.mark = len(rcv.pending or b"")
        if sock is not None:
            flow.watch(flow.watching | 2)
    rcv.nxt += 1
    return at + 1 >= end or flow.deliver(frame, at + 1, end)


def flush(rcv: Receiver, sock: TcpSocket, pending: bytearray) -> int:
    """Send what waits up to and with the marked byte, ``pending[rcv.mark - 1]``; the bytes taken. Raises OSError."""
    count = sock.send(bytes(pending[: rcv.mark - 1])) if rcv.mark > 1 else 0
    rcv.mark -= count
    if rcv.mark == 1 and sock.send_urgent(bytes(pending[count : count + 1])):
        rcv.mark = 0
        count += 1
    return count


def read(flow: Flow, sock: TcpSocket, size: int) -> bytes | None:
    """As ``sock.recv``, of a socket that has urgent data: up to the mark, or the marked byte alone."""
    if not sock.at_mark():
        return sock.recv(size)
    data = sock.recv(1)
    if data:
        flow.snd.urg = flow.snd.end + 1
    return data


def emit(flow: Flow, seq: int, flags: int, data: bytes | memoryview) -> bool:
    """As ``Flow.emit``, with the urgent pointer while the marked byte is not acknowledged."""
    snd, rcv, tcp = flow.snd, flow.rcv, flow.tcp
    if snd.una >= snd.urg:
        snd.urg = 0
        return flow.emit(seq, flags, data)
    pointer = snd.urg - seq
    if 0 < pointer <= POINTER_MAX:
        flags |= URG
    else:
        pointer = 0
    frame = build(
        flow.path,
        tcp.link.features,
        flow.wire.ports,
        seq,
        rcv.nxt,
        flags,
        rcv.window(),
        b"",
        data,
        pointer,
    )
    if tcp.link.send(*frame):
        rcv.ack_at = 0
        rcv.owed = 0
        return True
    tcp.hold(flow)
    return False
