"""What talks to libslirp and to ours share: servers behind both, a guest's view of one side, its TCP.

Both sides sit in one network namespace of their own (fixtures in ``conftest``), with the same servers behind them. A talk is played to each side;
what it answers with is the transcript, a dictionary. ``accepted`` lists each key that may differ, with the reason; a difference that is not
listed fails, and so does a listed one that does not occur."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dpkt

from slirp.wire import ipv4 as wire
from tests.oracle.libslirp import Oracle, Ours
from tests.oracle.listed import judge
from tests.slirp.fakes import GUEST_MAC, HOST_MAC, ping
from tests.slirp.netsim import ACK, FIN, PSH, RST, SYN, Segment, make_frame
from tests.waiting import BOUND_S

FENCE = b"fence"
URG = 32
WORLD = "192.0.2.7"  # an address of the namespace's lo: the world, to both
RESOLVER = "127.0.0.153"
GUEST, GATEWAY = wire.ip_bytes("10.0.2.15"), wire.ip_bytes("10.0.2.2")
CLONE_NEWNET = 0x40000000


def is_fence(frame: bytes) -> bool:
    return frame[12:14] == wire.TYPE_IPV4 and frame[23] == 1 and FENCE in frame


# ---- the world behind both ---------------------------------------------------------------------------------


class World:
    """Servers on the namespace's loopback; ``accept`` hands over the host's end of a guest's connection."""

    def __init__(self, tftp: Path) -> None:
        self.tftp = tftp
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.listener.settimeout(BOUND_S)
        self.port = self.listener.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("0.0.0.0", 0))
        self.udp.settimeout(BOUND_S)
        self.udp_port = self.udp.getsockname()[1]
        self.dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.dns.bind((RESOLVER, 53))
        threading.Thread(target=self._resolve, daemon=True).start()

    def _resolve(self) -> None:
        """a.example is 192.0.2.99; nothing else exists."""
        while True:
            try:
                data, peer = self.dns.recvfrom(2048)
            except OSError:
                return
            query = dpkt.dns.DNS(data)
            query.qr, query.ra = 1, 1
            if query.qd[0].name == "a.example":
                answer = dpkt.dns.DNS.RR(
                    name="a.example", type=1, cls=1, ttl=60, ip=socket.inet_aton("192.0.2.99")
                )
                query.an = [answer]
            else:
                query.rcode = 3
            self.dns.sendto(bytes(query), peer)

    def accept(self) -> socket.socket:
        sock, _ = self.listener.accept()
        sock.settimeout(BOUND_S)
        return sock

    def close(self) -> None:
        for sock in (self.listener, self.udp, self.dns):
            sock.close()


class Side:
    """libslirp or ours, as a guest sees it. A talk has a source port of its own."""

    ports = iter(range(20000, 30000))

    def __init__(self, name: str, side: Oracle | Ours, forward: int, udp_forward: int) -> None:
        self.name, self.side = name, side
        self.forward, self.udp_forward = forward, udp_forward

    def hear(
        self, *frames: bytes, count: int = 0, until: Callable[[list[bytes]], bool] | None = None
    ) -> list[bytes]:
        """Put frames; what comes back: at least ``count`` frames, or until they satisfy; and all that a fence behind them
        brings. Repetitions and housekeeping (ARP) aside."""
        got: list[bytes] = []
        todo = list(frames)
        end = time.monotonic() + BOUND_S
        while True:
            want = 1 if not todo or not count else count
            if todo or len(got) < count or (until is not None and not until(got)):
                if count > len(got) or until is not None:
                    got += self.side.exchange(todo, want)
                else:
                    got += self.side.exchange(todo, 0)
                todo = []
            if len(got) >= count and (until is None or until(got)):
                break
            assert time.monotonic() < end, f"{self.name}: {len(got)} frames, {count} wanted"
        got += self.side.exchange([ping("10.0.2.2", FENCE)], 1)
        while not any(map(is_fence, got)):
            got += self.side.exchange([], 1)
        return [frame for frame in got if not is_fence(frame) and frame[12:14] != wire.TYPE_ARP]


def free(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def parsed(frame: bytes) -> Segment:
    """Without Ethernet's padding."""
    return Segment(frame[: 14 + wire.U16.unpack_from(frame, 16)[0]])


# ---- a guest's TCP -----------------------------------------------------------------------------------------


class Tcp:
    """A guest's connection, segment by segment; numbers are relative to the first of each direction."""

    def __init__(
        self,
        side: Side,
        port: int,
        options: bytes = b"\x02\x04\x05\xb4",
        window: int = 65535,
        dst: bytes = GATEWAY,
    ) -> None:
        self.side, self.port, self.dst, self.window = side, port, dst, window
        self.sport = next(Side.ports)
        self.seq, self.ack, self.first = 5001, 0, 0
        (self.syn_ack,) = self.talk(SYN, count=1, seq=5000, options=options)
        if self.syn_ack.flags & SYN:
            self.first = self.syn_ack.seq
            self.ack = (self.syn_ack.seq + 1) & 0xFFFFFFFF
            self.talk(ACK)

    def frame(
        self, flags: int, data: bytes = b"", seq: int | None = None, options: bytes = b"", urgent: int = 0
    ) -> bytes:
        seq = self.seq if seq is None else seq
        frame = make_frame(
            GUEST, self.dst, self.sport, self.port, seq, self.ack, flags, self.window, options, data, urgent
        )
        return HOST_MAC + GUEST_MAC + frame[12:]

    def mine(self, frames: list[bytes]) -> list[Segment]:
        return [
            seg for seg in (parsed(frame) for frame in frames if frame[23] == 6) if seg.dport == self.sport
        ]

    def talk(
        self, flags: int, data: bytes = b"", *, count: int = 0, until: Any = None, **more: Any
    ) -> list[Segment]:
        """One segment, and what came back; ``until`` looks at the segments so far."""
        check = (lambda got: until(self.mine(got))) if until else None
        got = self.mine(self.side.hear(self.frame(flags, data, **more), count=count, until=check))
        return self._note(got)

    def wait(self, until: Any) -> list[Segment]:
        """The guest only acknowledges; until the segments so far satisfy."""
        got: list[Segment] = []
        while not until(got):
            seen = len(got)
            got += self._note(self.mine(self.side.hear(until=lambda frames: bool(self.mine(frames)))))
            assert len(got) > seen
            if not until(got):
                self.side.side.exchange([self.frame(ACK)], 0)
        return got

    def _note(self, got: list[Segment]) -> list[Segment]:
        for seg in got:
            end = (seg.seq + len(seg.data) + (seg.flags & FIN)) & 0xFFFFFFFF
            if self.ack and seg.seq == self.ack:
                self.ack = end
        return got

    def say(self, data: bytes, **more: Any) -> list[Segment]:
        found = self.talk(ACK | PSH, data, **more)
        self.seq += len(data)
        return found

    def end(self) -> None:
        """Both ends forget it."""
        self.side.hear(self.frame(RST | ACK))


def data_of(segments: list[Segment]) -> bytes:
    """The stream, by sequence number: repetitions aside."""
    found: dict[int, bytes] = {}
    for seg in segments:
        if seg.data:
            found[seg.seq] = max(found.get(seg.seq, b""), seg.data, key=len)
    return b"".join(found[key] for key in sorted(found))


def has(flag: int) -> Callable[[list[Segment]], bool]:
    return lambda got: any(seg.flags & flag for seg in got)


def enough(size: int) -> Callable[[list[Segment]], bool]:
    return lambda got: len(data_of(got)) >= size


def received(sock: socket.socket, size: int = 1 << 20) -> bytes | str:
    """What the host's end reads until ``size`` bytes or the end; "reset"."""
    got = b""
    try:
        while len(got) < size:
            data = sock.recv(size - len(got))
            if not data:
                return got
            got += data
    except ConnectionResetError:
        return "reset"
    return got


Transcript = dict[str, Any]


@dataclass
class Talk:
    play: Callable[[Side, World], Transcript]
    accepted: dict[str, str] = field(default_factory=dict)  # key -> why we differ


def compare(talk: Talk, world: World, sides: tuple[Side, Side]) -> None:
    """Play it to both."""
    theirs, ours = (talk.play(side, world) for side in sides)
    keys = theirs.keys() | ours.keys()
    different = {key: (theirs.get(key), ours.get(key)) for key in keys if theirs.get(key) != ours.get(key)}
    judge(different, talk.accepted)
