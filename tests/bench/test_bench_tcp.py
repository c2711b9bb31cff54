"""What one TCP frame costs in the NAT alone: no kernel, no event loop; a guest's frames in, a fake host's bytes out.

Each round moves a fixed number of bytes, so that bytes / seconds is the rate of one core. ``extra_info`` has Gbit/s.
"""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from slirp.contracts.host import PlainStream
from slirp.tcp.nat import Tcp
from tests.slirp.netsim import ACK, GUEST_IP, M32, PEER_IP, SYN, FakePath, Segment, Sim, feed, make_frame

KEY = GUEST_IP + PEER_IP + struct.pack("!HH", 40000, 80)
SUPER = 1460 * 44
VNET = bytes(10)


class Sink(PlainStream):
    """Host and socket in one: takes everything, has as much to say as ``budget`` allows."""

    def __init__(self) -> None:
        self.taken = 0
        self.budget = 0
        self.blob = bytes(1 << 16)
        self.events: Any = None

    def tcp(self, remote: Any, events: Any, how: int = 0) -> Any:
        self.events = events
        return self

    def send(self, data: bytes | memoryview) -> int:
        size = len(data)
        self.taken += size
        return size

    def recv(self, size: int) -> bytes | None:
        if size > self.budget:
            size = self.budget
        if not size:
            return None
        self.budget -= size
        return bytes(size)

    def watch(self, read: bool, write: bool) -> None:
        pass

    def shutdown(self) -> None:
        pass

    def close(self, *, reset: bool = False) -> None:
        pass


class Out:
    """The link: keeps the last frame and the highest sequence number."""

    def __init__(self, features: int) -> None:
        self.features = features
        self.last: tuple[bytes, bytes] = (b"", b"")
        self.frames = 0
        self.way = FakePath(PEER_IP, GUEST_IP)

    def how(self, _frame: bytes) -> int:
        return 0

    def send(self, frame: bytes, vnet: bytes = b"") -> bool:
        self.last = (frame, vnet)
        self.frames += 1
        return True

    def targets(self, dst: bytes, port: int) -> list[tuple[str, int]]:
        return [("192.0.2.7", 80)]

    def path(self, frame: bytes, protocol: int) -> Any:
        return self.way

    def pseudo(self, frame: bytes, off: int, end: int, protocol: int) -> int:
        return self.way.pseudo(end - off)

    def unreachable(self, frame: bytes, code: int) -> None:
        raise AssertionError


def established(features: int) -> tuple[Tcp, Out, Sink, int, int]:
    """A connection, and the next sequence numbers: the guest's and ours."""
    link, host = Out(features), Sink()
    tcp = Tcp(link, host, random.Random(1))  # type: ignore[arg-type]
    syn = make_frame(
        GUEST_IP, PEER_IP, 40000, 80, 1000, 0, SYN, 65535, b"\x02\x04\x05\xb4\x01\x01\x04\x02\x01\x03\x03\x07"
    )
    feed(tcp, syn, Sim().now)
    host.events.host_connected(1)
    answer = Segment(*link.last)
    feed(tcp, make_frame(GUEST_IP, PEER_IP, 40000, 80, 1001, answer.seq + 1, ACK, 65535), 2)
    return tcp, link, host, 1001, (answer.seq + 1) & M32


def report(benchmark: Any, size: int) -> None:
    if benchmark.stats:
        benchmark.extra_info["Gbit/s"] = round(size * 8e-9 / benchmark.stats.stats.median, 2)


@pytest.mark.parametrize(("size", "offload"), [(1460, False), (1460, True), (SUPER, False), (SUPER, True)])
def test_guest_to_host(benchmark: Any, size: int, offload: bool) -> None:
    """Frames in, bytes to the host; our ACKs leave."""
    tcp, _link, host, seq, ack = established(7 if offload else 0)
    vnet = b"\x01" + VNET[1:] if offload else b""
    count = 4_000_000 // size
    frames = []
    start = seq

    def setup() -> tuple[tuple[()], dict[str, Any]]:
        nonlocal start
        frames.clear()
        data = bytes(size)
        template = make_frame(GUEST_IP, PEER_IP, 40000, 80, 0, ack, ACK, 4096, b"", data)
        for i in range(count):
            number = (start + i * size) & M32
            if offload:
                frames.append(template[:38] + struct.pack("!I", number) + template[42:])
            else:
                frames.append(make_frame(GUEST_IP, PEER_IP, 40000, 80, number, ack, ACK, 4096, b"", data))
        start = (start + count * size) & M32
        host.taken = 0
        return (), {}

    def run() -> None:
        give = tcp.input
        end = len(frames[0])
        for frame in frames:
            give(frame, vnet, 34, end, KEY, 1000)

    benchmark.pedantic(run, setup=setup, rounds=5, warmup_rounds=1)
    assert host.taken == count * size
    report(benchmark, count * size)


@pytest.mark.parametrize("offload", [False, True])
def test_host_to_guest(benchmark: Any, offload: bool) -> None:
    """Bytes from the host, frames out, an ACK of the guest for every two segments or each super-frame."""
    tcp, _link, host, seq, _ack = established(7 if offload else 0)
    flow: Any = host.events
    total = 4_000_000
    template = make_frame(GUEST_IP, PEER_IP, 40000, 80, seq, 0, ACK, 4096)
    vnet = b"\x01" + VNET[1:]
    head, tail = template[:42], template[46:]
    step = SUPER if offload else 2920

    def run() -> None:
        host.budget = total
        now = 1000
        flow.host_readable(now)
        snd = flow.snd
        end = snd.end + host.budget
        give = tcp.input
        pack = struct.Struct("!I").pack
        while snd.una < end:
            upto = min(snd.una + step, snd.nxt)
            give(head + pack(upto & M32) + tail, vnet, 34, 54, KEY, now)
            if host.budget and not flow.stalled:
                flow.host_readable(now)

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    assert host.budget == 0
    assert tcp.buffers.used == 0
    report(benchmark, total)


def test_request_response(benchmark: Any) -> None:
    """1,000 times one byte from the guest, one byte back."""
    tcp, _link, host, seq, ack = established(7)
    flow: Any = host.events
    vnet = b"\x01" + VNET[1:]

    def run() -> None:
        nonlocal seq, ack
        pack = struct.Struct("!II").pack
        frame = make_frame(GUEST_IP, PEER_IP, 40000, 80, 0, 0, ACK | 8, 4096, b"", b"x")
        for _ in range(1000):
            tcp.input(frame[:38] + pack(seq, ack) + frame[46:], vnet, 34, 55, KEY, 1000)
            seq = (seq + 1) & M32
            host.budget = 1
            flow.host_readable(1000)
            ack = (ack + 1) & M32

    benchmark(run)
    assert flow.snd.nxt & M32 == ack


def test_open_and_close(benchmark: Any) -> None:
    """100 connections from SYN to the last ACK."""
    tcp, link, host, _seq, _ack = established(7)

    def run() -> None:
        for port in range(1000, 1100):
            feed(tcp, make_frame(GUEST_IP, PEER_IP, port, 80, 1, 0, SYN, 65535, b"\x02\x04\x05\xb4"), 1)
            host.events.host_connected(1)
            answer = struct.unpack_from("!I", link.last[0], 38)[0] + 1
            feed(tcp, make_frame(GUEST_IP, PEER_IP, port, 80, 2, answer, ACK, 65535), 1)
            feed(tcp, make_frame(GUEST_IP, PEER_IP, port, 80, 2, answer, ACK | 1, 65535), 1)
            host.budget = 0
            host.events.eof = False
            flow = host.events
            flow._host_ended(1)
            feed(tcp, make_frame(GUEST_IP, PEER_IP, port, 80, 3, answer + 1, ACK, 65535), 1)

    benchmark(run)
    assert len(tcp) == 1
