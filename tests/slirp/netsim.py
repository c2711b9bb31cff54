"""A simulated network on a virtual clock: the NAT's TCP, a fake host, and a guest whose TCP is written
anew here.

``Sim`` holds the clock and the events. ``Wire`` is one direction of the guest's Ethernet: loss, delay,
jitter (and with it reordering), duplication, corruption, a bounded queue. ``GuestTcp`` is a small but
real TCP end, independent of ``slirp``: 32-bit sequence arithmetic, one retransmission timer, fast
retransmit, SACK and window scale each on or off, a receive buffer that an application empties at its own
pace. ``FakeHost`` stands for the host's sockets.

Nothing here imports ``slirp.tcp*`` but to build the object under test.
"""

from __future__ import annotations

import errno
import heapq
import random
import struct
from collections.abc import Callable
from typing import Any

from slirp.contracts.link import Unreachable
from slirp.tcp.buffers import Buffers
from slirp.tcp.nat import Tcp
from slirp.tcp.states import Limits

MS = 1_000_000
SECOND = 1_000_000_000
M32 = 0xFFFFFFFF
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
GUEST_MAC, OUR_MAC = b"\x52\x54\x00\x12\x34\x56", b"\x52\x55\x0a\x00\x02\x02"
GUEST_IP, PEER_IP = bytes((10, 0, 2, 15)), bytes((192, 0, 2, 7))


def ones(data: bytes) -> int:
    """One's complement sum by the loop of RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class FakePath:
    """The way to the guest: real headers, v4 or v6."""

    def __init__(self, src: bytes, dst: bytes, mtu: int = 1500) -> None:
        self.mtu = mtu
        self.family = 4 if len(src) == 4 else 6
        self.ip_header = 20 if self.family == 4 else 40
        self.src, self.dst = src, dst
        self.ident = 0
        self._sum = ones(src + dst) + 6

    def header(self, length: int) -> bytes:
        if self.family == 6:
            head = struct.pack("!IHBB", 0x60000000, length, 6, 64) + self.src + self.dst
            return GUEST_MAC + OUR_MAC + b"\x86\xdd" + head
        self.ident = (self.ident + 1) & 0xFFFF
        words = (0x45, 0, 20 + length, self.ident, 0x4000, 64, 6, 0)
        head = struct.pack("!BBHHHBBH", *words) + self.src + self.dst
        head = head[:10] + struct.pack("!H", ~ones(head) & 0xFFFF) + head[12:]
        return GUEST_MAC + OUR_MAC + b"\x08\x00" + head

    def pseudo(self, length: int) -> int:
        return (self._sum + length) % 65535


class Segment:
    """A TCP segment taken apart, every check made."""

    def __init__(self, frame: bytes, vnet: bytes = b"") -> None:
        if frame[12:14] == b"\x08\x00":
            self.ip = 14 + (frame[14] & 15) * 4
            end = 14 + struct.unpack_from("!H", frame, 16)[0]
            addresses = frame[26:34]
            assert ones(frame[14 : self.ip]) == 0xFFFF
        else:
            self.ip = 54
            end = 54 + struct.unpack_from("!H", frame, 18)[0]
            addresses = frame[22:54]
        assert end == len(frame)
        at = self.ip
        self.sport, self.dport, self.seq, self.ack, word, self.window, csum, self.urgent = struct.unpack_from(
            "!HHIIHHHH", frame, at
        )
        self.flags = word & 0xFF
        data = at + (word >> 12) * 4
        self.options = frame[at + 20 : data]
        self.data = frame[data:]
        self.src, self.dst = addresses[: len(addresses) // 2], addresses[len(addresses) // 2 :]
        pseudo = addresses + struct.pack("!HH", 6, len(frame) - at)
        self.gso = 0
        if vnet:
            flags, gso, _hdr_len, size, start, offset = struct.unpack("<BBHHHH", vnet)
            assert flags == 1 and start == at and offset == 16
            assert csum % 65535 == ones(pseudo) % 65535
            if gso:
                assert gso == (1 if at == 34 else 4)
                self.gso = size
                assert len(self.data) > size
        else:
            assert ones(pseudo + frame[at:]) == 0xFFFF, "checksum"

    @property
    def sacks(self) -> list[tuple[int, int]]:
        out = []
        pos = 0
        while pos < len(self.options):
            kind = self.options[pos]
            if kind == 0:
                break
            if kind == 1:
                pos += 1
                continue
            size = self.options[pos + 1]
            if kind == 5:
                values = struct.unpack(f"!{(size - 2) // 4}I", self.options[pos + 2 : pos + size])
                out = list(zip(values[::2], values[1::2]))
            pos += size
        return out

    def option(self, kind: int) -> bytes | None:
        pos = 0
        while pos < len(self.options) and self.options[pos]:
            if self.options[pos] == 1:
                pos += 1
                continue
            size = self.options[pos + 1]
            if self.options[pos] == kind:
                return self.options[pos + 2 : pos + size]
            pos += size
        return None

    def __repr__(self) -> str:
        names = "".join("FSRP."[i] for i in range(5) if self.flags >> i & 1)
        return f"<{names} seq={self.seq} ack={self.ack} win={self.window} len={len(self.data)}>"


def make_frame(
    src: bytes,
    dst: bytes,
    sport: int,
    dport: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    options: bytes = b"",
    data: bytes = b"",
    urgent: int = 0,
) -> bytes:
    """A guest's frame, with good checksums."""
    word = (5 + len(options) // 4) << 12 | flags
    tcp = (
        struct.pack("!HHIIHHHH", sport, dport, seq & M32, ack & M32, word, window, 0, urgent) + options + data
    )
    pseudo = src + dst + struct.pack("!HH", 6, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", ~ones(pseudo + tcp) & 0xFFFF) + tcp[18:]
    return FakePath(src, dst, 65535).header(len(tcp)) + tcp


def feed(tcp: Tcp, frame: bytes, now: int, vnet: bytes = b"") -> None:
    """Hand a guest's frame to the NAT as the stack would."""
    if frame[12:14] == b"\x08\x00":
        off, end, addresses = 34, 14 + struct.unpack_from("!H", frame, 16)[0], frame[26:34]
    else:
        off, end, addresses = 54, 54 + struct.unpack_from("!H", frame, 18)[0], frame[22:54]
    tcp.input(frame, vnet, off, end, addresses + frame[off : off + 4], now)


class Sim:
    """Clock and event queue."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 0
        self.rng = random.Random(seed)
        self._queue: list[tuple[int, int, Callable[[], Any]]] = []
        self._count = 0
        self.steps = 0

    def at(self, delay: int, call: Callable[[], Any]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, call))

    def run(self, until: Callable[[], bool], tcp: Tcp | None = None, limit: int = 3600 * SECOND) -> bool:
        """Advance until ``until()``, or ``limit`` ns of virtual time, or nothing more can happen."""
        end = self.now + limit
        while not until():
            self.steps += 1
            assert self.steps < 3_000_000, "livelock"
            deadline = tcp.next_deadline() if tcp is not None else None
            at = self._queue[0][0] if self._queue else None
            if deadline is not None and (at is None or deadline <= at):
                if deadline > end:
                    return False
                self.now = max(self.now, deadline)
                tcp.run(self.now)  # type: ignore[union-attr]
                assert (tcp.next_deadline() or self.now + 1) > self.now  # type: ignore[union-attr]
            elif at is None or at > end:
                return False
            else:
                self.now = max(self.now, at)
                heapq.heappop(self._queue)[2]()
        return True


class Wire:
    """One direction of the guest's link."""

    def __init__(
        self, sim: Sim, deliver: Callable[[bytes, bytes], None], *, loss: float = 0.0, delay: int = 0,
        jitter: int = 0, duplicate: float = 0.0, corrupt: float = 0.0, room: int = 1 << 30,
    ) -> None:  # fmt: skip
        self.sim, self.deliver = sim, deliver
        self.loss, self.delay, self.jitter = loss, delay, jitter
        self.duplicate, self.corrupt = duplicate, corrupt
        self.room = room
        self.inside = 0
        self.lost = self.sent = 0
        self.refused = False
        self.drained: Callable[[], None] = lambda: None

    def send(self, frame: bytes, vnet: bytes = b"") -> bool:
        if self.inside >= self.room:
            self.refused = True
            return False
        self.sent += 1
        rng = self.sim.rng
        if rng.random() < self.loss:
            self.lost += 1
            return True
        for _ in range(2 if rng.random() < self.duplicate else 1):
            if not vnet and rng.random() < self.corrupt:
                at = rng.randrange(34, len(frame))
                frame = frame[:at] + bytes((frame[at] ^ 1 << rng.randrange(8),)) + frame[at + 1 :]
            self.inside += 1
            delay = self.delay + (rng.randrange(self.jitter) if self.jitter else 0)
            self.sim.at(delay, lambda frame=frame: self._arrive(frame, vnet))
        return True

    def _arrive(self, frame: bytes, vnet: bytes) -> None:
        self.inside -= 1
        self.deliver(frame, vnet)
        if self.refused and self.inside <= self.room // 2:
            self.refused = False
            self.drained()


class FakeSocket:
    """A host socket: ``to_send`` is what the host's peer says, ``received`` what the guest said."""

    def __init__(self, host: FakeHost, remote: tuple[str, int], events: Any) -> None:
        self.host, self.remote, self.events = host, remote, events
        self.received = bytearray()
        self.buffered = 0  # bytes taken, not drained by the host's peer
        self.to_send = bytearray()
        self.eof = False  # the host's peer ended
        self.was_shut = self.closed = self.was_reset = False
        self.error: OSError | None = None
        self.failure: Any = None
        self.urgent = False
        self.mark = -1  # of ``to_send``: the urgent byte
        self.marked = bytearray()  # urgent bytes of the guest, which are in ``received`` as well
        self.idle = 0  # of keepalive
        self.read = self.write = False
        self.polling = False

    def _live(self) -> None:
        assert not self.closed, "use of a closed socket"

    def send(self, data: bytes | memoryview) -> int:
        self._live()
        assert not self.was_shut, "send after shutdown"
        if self.error:
            raise self.error
        count = min(len(data), self.host.send_buffer - self.buffered)
        self.received += data[:count]
        self.buffered += count
        if self.host.drain_rate:
            self.host.drain(self)
        else:
            self.buffered = 0
        return count

    def send_urgent(self, byte: bytes) -> int:
        assert len(byte) == 1
        count = self.send(byte)
        self.marked += byte[:count]
        return count

    def say_urgent(self, data: bytes) -> None:
        """The host's peer sends ``data``, whose last byte is urgent."""
        self.urgent = True
        self.mark = len(self.to_send) + len(data) - 1
        self.say(data)

    def at_mark(self) -> bool:
        if self.mark:
            return False
        self.urgent = False
        return True

    def keepalive(self, idle: int) -> None:
        self._live()
        self.idle = idle

    def recv(self, size: int) -> bytes | None:
        self._live()
        assert size > 0
        if self.error:
            raise self.error
        if self.to_send:
            if self.mark > 0:
                size = min(size, self.mark)
            data = bytes(self.to_send[: min(size, self.host.recv_max)])
            self.mark -= len(data)
            del self.to_send[: len(data)]
            return data
        return b"" if self.eof else None

    def shutdown(self) -> None:
        self._live()
        if self.error:
            raise self.error
        self.was_shut = True

    def watch(self, read: bool, write: bool) -> None:
        self._live()
        self.read, self.write = read, write
        self.poll()

    def close(self, *, reset: bool = False) -> None:
        if not self.closed:
            self.was_reset = reset
        self.closed = True

    def say(self, data: bytes) -> None:
        self.to_send += data
        self.poll()

    def end(self) -> None:
        self.eof = True
        self.poll()

    def fail(self, error: int) -> None:
        self.error = OSError(error, "fake")
        self.poll()

    def _due(self) -> tuple[bool, bool]:
        if self.closed:
            return False, False
        readable = self.read and bool(self.to_send or self.eof or self.error)
        return readable, self.write and (self.buffered < self.host.send_buffer or bool(self.error))

    def poll(self) -> None:
        if not self.polling and any(self._due()):
            self.polling = True
            self.host.sim.at(1000, self._poll)

    def _poll(self) -> None:
        self.polling = False
        readable, writable = self._due()
        if readable:
            self.events.host_readable(self.host.sim.now)
        if writable and not self.closed and self.write:
            self.events.host_writable(self.host.sim.now)
        self.poll()


class FakeHost:
    """The host's network. ``answers``: per remote address 0 (connect succeeds), an errno, or None (never)."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.sockets: list[FakeSocket] = []
        self.answers: dict[tuple[str, int], int | None] = {}
        self.at_once: dict[tuple[str, int], int] = {}
        self.connect_delay = MS
        self.send_buffer = 1 << 62
        self.recv_max = 1 << 30
        self.drain_rate = 0  # bytes per ms; 0: at once
        self.draining: set[FakeSocket] = set()
        self.ready: Callable[[FakeSocket], None] = lambda sock: None

    def tcp(self, remote: tuple[str, int], events: Any, how: int = 64) -> FakeSocket:
        if remote in self.at_once:
            raise OSError(self.at_once[remote], "fake")
        sock = FakeSocket(self, remote, events)
        self.sockets.append(sock)
        answer = self.answers.get(remote, 0)
        if answer is not None:
            self.sim.at(self.connect_delay, lambda: self._answer(sock, answer))
        return sock

    def _answer(self, sock: FakeSocket, answer: int) -> None:
        if sock.closed:
            return
        if answer:
            sock.closed = True
            sock.events.host_failed(answer, self.sim.now)
        else:
            self.ready(sock)
            sock.events.host_connected(self.sim.now)

    def drain(self, sock: FakeSocket) -> None:
        if sock not in self.draining:
            self.draining.add(sock)
            self.sim.at(MS, lambda: self._drain(sock))

    def _drain(self, sock: FakeSocket) -> None:
        self.draining.discard(sock)
        sock.buffered = max(0, sock.buffered - self.drain_rate) if self.drain_rate else 0
        sock.poll()
        if sock.buffered:
            self.drain(sock)

    def udp(self, family: int, events: Any) -> Any:
        raise OSError(errno.EAFNOSUPPORT, "fake")

    def resolvers(self) -> list[tuple[str, int]]:
        return []

    def own_names(self) -> tuple[str, list[str]]:
        return "", []

    def forbidden(self, remote: tuple[str, int]) -> bool:
        return False


class FakeLink:
    """The stack as TCP sees it; ``out`` collects frames unless a wire is plugged in."""

    def __init__(self, mtu: int = 1500) -> None:
        self.features = 0
        self.mtu = mtu
        self.out: list[tuple[bytes, bytes]] = []
        self.wire: Wire | None = None
        self.room = 1 << 30
        self.icmp: list[int] = []
        self.route: list[tuple[str, int]] | int = [("192.0.2.7", 80)]

    def send(self, frame: bytes, vnet: bytes = b"") -> bool:
        if self.wire is not None:
            return self.wire.send(frame, vnet)
        if len(self.out) >= self.room:
            return False
        self.out.append((frame, vnet))
        return True

    def targets(self, dst: bytes, port: int) -> list[tuple[str, int]]:
        if isinstance(self.route, int):
            raise Unreachable(self.route)
        return self.route

    def path(self, frame: bytes, protocol: int) -> FakePath:
        if frame[12:14] == b"\x08\x00":
            return FakePath(frame[30:34], frame[26:30], self.mtu)
        return FakePath(frame[38:54], frame[22:38], self.mtu)

    def pseudo(self, frame: bytes, off: int, end: int, protocol: int) -> int:
        addresses = frame[26:34] if frame[12:14] == b"\x08\x00" else frame[22:54]
        return (ones(addresses) + protocol + end - off) % 65535

    def how(self, frame: bytes) -> int:
        return 63

    def complain(self, frame: bytes, error: Any) -> None:
        self.icmp.append(error.code)

    def unreachable(self, frame: bytes, code: int) -> None:
        self.icmp.append(code)


def before(a: int, b: int) -> bool:
    """a < b in 32-bit sequence space."""
    return 0 < ((b - a) & M32) < 0x80000000


class GuestTcp:
    """An independent TCP end: what a guest does. Drive it by ``send``, ``finish``; look at ``received``,
    ``ended``."""

    RTO = 250 * MS

    def __init__(
        self, sim: Sim, transmit: Callable[[bytes], None], *, src: bytes = GUEST_IP, dst: bytes = PEER_IP,
        sport: int = 40000, dport: int = 80, sack: bool = True, scale: int = 7, buffer: int = 65536, mss:
        int = 1460, isn: int | None = None, drain: int = 0, big: bool = False, window_cap: int = 60,
    ) -> None:  # fmt: skip
        self.sim, self.transmit = sim, transmit
        self.src, self.dst, self.sport, self.dport = src, dst, sport, dport
        self.sack, self.scale, self.buffer, self.mss, self.drain = sack, scale, buffer, mss, drain
        self.big = big  # send super-frames
        self.iss = sim.rng.getrandbits(32) if isn is None else isn
        self.una = self.nxt = self.iss
        self.data = b""  # all there is to send, from iss + 1
        self.closing = False
        self.snd_wnd, self.peer_scale, self.peer_mss, self.peer_sack = 0, 0, 536, False
        self.cwnd = window_cap * mss
        self.dupacks, self.recover = 0, self.iss
        self.timer = 0
        self.backoff = 0
        self.held: list[tuple[int, int]] = []  # what the peer has by SACK
        self.state = "CLOSED"
        self.rcv_nxt = 0
        self.early: dict[int, bytes] = {}
        self.fin_at: int | None = None
        self.received = bytearray()
        self.unread = 0
        self.ended = self.reset = False
        self.fin_acked = False
        self.right = 0

    # sending

    def _emit(self, seq: int, flags: int, data: bytes = b"", options: bytes = b"") -> None:
        room = max(0, self.buffer - self.unread)
        shift = 0 if flags & SYN or self.scale < 0 or not self.scaled else self.scale
        window = min(65535, room >> shift)
        if not flags & SYN and self.sack and self.peer_sack and self.early and not data:
            blocks = self._blocks()[:3]
            options = bytes((1, 1, 5, 2 + 8 * len(blocks))) + b"".join(struct.pack("!II", *b) for b in blocks)
        self.transmit(
            make_frame(
                self.src, self.dst, self.sport, self.dport, seq, self.rcv_nxt, flags, window, options, data
            )
        )

    scaled = False

    def _blocks(self) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for seq in sorted(self.early, key=lambda s: (s - self.rcv_nxt) & M32):
            stop = (seq + len(self.early[seq])) & M32
            if spans and not before(spans[-1][1], seq):
                if before(spans[-1][1], stop):
                    spans[-1] = (spans[-1][0], stop)
            else:
                spans.append((seq, stop))
        return spans

    def connect(self) -> None:
        self.state = "SYN_SENT"
        self.nxt = (self.iss + 1) & M32
        options = struct.pack("!BBH", 2, 4, self.mss)
        if self.sack:
            options += b"\x01\x01\x04\x02"
        if self.scale >= 0:
            options += bytes((1, 3, 3, self.scale))
        self._emit(self.iss, SYN, options=options)
        self._arm(SECOND)

    def send(self, data: bytes) -> None:
        self.data += data
        self._push()

    def finish(self) -> None:
        self.closing = True
        self._push()

    @property
    def _limit(self) -> int:
        """Bytes of sequence space after iss+1 that exist: data, and the FIN."""
        return len(self.data) + (1 if self.closing else 0)

    def _piece(self, offset: int, size: int) -> None:
        """Send data[offset:offset+size]; a FIN with the last of it."""
        data = self.data[offset : offset + size]
        flags = ACK
        if self.closing and offset + len(data) == len(self.data):
            flags |= FIN
        self._emit(self.iss + 1 + offset, flags, data)
        end = (self.iss + 1 + offset + len(data) + (flags & FIN)) & M32
        if before(self.nxt, end):
            self.nxt = end

    def _push(self, probe: bool = False) -> None:
        if self.state not in ("ESTABLISHED",):
            return
        sent = (self.nxt - self.iss - 1) & M32
        una = (self.una - self.iss - 1) & M32
        allowed = una + min(self.snd_wnd, self.cwnd)
        top = 20 * self.peer_mss if self.big else self.peer_mss
        while sent < self._limit:
            size = min(len(self.data) - sent, top, allowed - sent)
            if size <= 0 and not (sent == len(self.data) and self.closing):
                if probe and sent == una and sent < len(self.data):
                    self._piece(sent, 1)
                break
            self._piece(sent, max(size, 0))
            sent = (self.nxt - self.iss - 1) & M32
            if sent >= self._limit:
                break
        if una < self._limit and not self.timer:
            self._arm()

    def _arm(self, span: int = 0) -> None:
        self.timer += 1
        mark = self.timer
        self.sim.at((span or self.RTO) << min(self.backoff, 5), lambda: self._timeout(mark))

    def _timeout(self, mark: int) -> None:
        if mark != self.timer or self.reset or self.state == "CLOSED":
            return
        self.backoff += 1
        if self.state == "SYN_SENT":
            self.connect()
            return
        una = (self.una - self.iss - 1) & M32
        if una >= self._limit:
            self.timer = 0
            return
        if self.una != self.nxt and self.snd_wnd:
            self.held = []
            self.recover = self.nxt
            self.dupacks = 0
            self._resend(una)
        elif self.una != self.nxt:
            self._piece(una, 1)
        else:
            self._push(probe=True)
        self._arm()

    def _resend(self, offset: int) -> None:
        """Resend the first hole at or after ``offset``."""
        seq = (self.iss + 1 + offset) & M32
        size = self.peer_mss
        for left, right in sorted(self.held, key=lambda b: (b[0] - self.una) & M32):
            if not before(seq, left):
                if before(seq, right):
                    seq = right
            else:
                size = min(size, (left - seq) & M32)
                break
        if before(seq, self.nxt):
            self._piece((seq - self.iss - 1) & M32, size)

    # receiving

    def receive(self, segment: Segment) -> None:
        if self.reset or self.state == "CLOSED":
            return
        if segment.flags & RST:
            if self.state == "SYN_SENT" or segment.seq == self.rcv_nxt:
                self.reset = True
            return
        if self.state == "SYN_SENT":
            if segment.flags & (SYN | ACK) != SYN | ACK or segment.ack != self.nxt:
                return
            self.rcv_nxt = (segment.seq + 1) & M32
            self.una = segment.ack
            mss, scale = segment.option(2), segment.option(3)
            assert mss is not None
            self.peer_mss = min(self.mss, struct.unpack("!H", mss)[0])
            assert scale is None or self.scale >= 0, "scale answered, not offered"
            if scale is not None:
                self.peer_scale, self.scaled = scale[0], True
            self.peer_sack = segment.option(4) is not None
            assert not self.peer_sack or self.sack
            self.snd_wnd = segment.window
            self.state = "ESTABLISHED"
            self.timer = self.backoff = 0
            self._emit(self.nxt, ACK)
            self._push()
            return
        if segment.flags & SYN:
            self._emit(self.nxt, ACK)
            return
        self._acked(segment)
        if segment.data or segment.flags & FIN:
            self._take(segment)

    def _acked(self, segment: Segment) -> None:
        ack = segment.ack
        window = segment.window << self.peer_scale
        assert not before(self.nxt, ack), "ACK of what was never sent"
        right = ack + window
        self.held = [b for b in self.held if before(ack, b[1])]
        for block in segment.sacks:
            assert self.sack
            assert before(ack, block[1]) and not before(self.nxt, block[1])
            if block not in self.held:
                self.held.append(block)
        if before(self.una, ack):
            self.una = ack
            self.backoff = 0
            self.dupacks = 0
            self.timer += 1
            if (ack - self.iss - 1) & M32 == self._limit and self.closing:
                self.fin_acked = True
            if before(ack, self.recover):
                self._resend((ack - self.iss - 1) & M32)
            if ack != self.nxt or (ack - self.iss - 1) & M32 < self._limit:
                self._arm()
            else:
                self.timer = 0
        elif ack == self.una and not segment.data and self.una != self.nxt and window == self.snd_wnd:
            self.dupacks += 1
            if self.dupacks == 3:
                self.recover = self.nxt
                self._resend((ack - self.iss - 1) & M32)
        if not before(ack, self.una):
            opened = window and not self.snd_wnd
            self.snd_wnd = window
            if opened and self.una != self.nxt:
                self._resend((self.una - self.iss - 1) & M32)
        self.right = max(self.right, right)
        self._push()

    def _take(self, segment: Segment) -> None:
        seq, data = segment.seq, segment.data
        if segment.flags & FIN:
            at = (seq + len(data)) & M32
            assert self.fin_at in (None, at), "FIN moved"
            self.fin_at = at
        offset = (seq - self.rcv_nxt) & M32
        if offset >= 0x80000000:  # begins before rcv_nxt
            data = data[0x100000000 - offset :]
            seq = self.rcv_nxt
            offset = 0
        room = max(0, self.buffer - self.unread)
        data = data[: max(0, room - offset)]
        if data and len(self.early.get(seq, b"")) < len(data):
            self.early[seq] = data
        while True:
            for seq in list(self.early):
                piece = self.early[seq]
                gap = (self.rcv_nxt - seq) & M32
                if gap < 0x80000000:
                    del self.early[seq]
                    if gap < len(piece):
                        self.received += piece[gap:]
                        self.rcv_nxt = (seq + len(piece)) & M32
                        if self.drain:
                            self.unread += len(piece) - gap
                            self._app()
                        break
            else:
                break
        if self.fin_at == self.rcv_nxt and not self.ended:
            self.ended = True
            self.rcv_nxt = (self.rcv_nxt + 1) & M32
        self._emit(self.nxt, ACK)

    reading = False

    def _app(self) -> None:
        """The application reads ``drain`` bytes per ms."""
        if not self.reading:
            self.reading = True
            self.sim.at(MS, self._read)

    def _read(self) -> None:
        self.reading = False
        before_room = self.buffer - self.unread
        self.unread = max(0, self.unread - self.drain)
        room = self.buffer - self.unread
        if before_room < self.mss <= room or (before_room < self.buffer // 2 <= room):
            self._emit(self.nxt, ACK)
        if self.unread:
            self._app()


class Net:
    """One guest, one NAT, one host, two wires."""

    def __init__(
        self, seed: int = 1, *, features: int = 0, mtu: int = 1500, limits: Limits | None = None, cap: int
        = 64 << 20, room: int = 1 << 30, loss: float = 0.0, delay: int = 0, jitter: int = 0, duplicate:
        float = 0.0, corrupt: float = 0.0, batch: int = 0, **guest: Any,
    ) -> None:  # fmt: skip
        self.sim = Sim(seed)
        self.batch = batch  # ns: frames that come so close together are one batch, then ``Tcp.settle``
        self.unsettled = False
        self.link = FakeLink(mtu)
        self.link.features = features
        self.host = FakeHost(self.sim)
        self.buffers = Buffers(cap)
        self.tcp = Tcp(
            self.link, self.host, random.Random(seed), limits=limits or Limits(), buffers=self.buffers
        )
        self.tcp.batch = int(batch > 0)
        faults: dict[str, Any] = {"loss": loss, "delay": delay, "jitter": jitter, "duplicate": duplicate}
        self.up = Wire(self.sim, self._to_nat, corrupt=corrupt, **faults)
        self.down = Wire(self.sim, self._to_guest, corrupt=corrupt, room=room, **faults)
        self.down.drained = lambda: self.tcp.tx_ready(self.sim.now)
        self.link.wire = self.down
        self.guest = GuestTcp(self.sim, lambda frame: self.up.send(frame) and None, **guest)

    def _to_nat(self, frame: bytes, vnet: bytes) -> None:
        feed(self.tcp, frame, self.sim.now, vnet)
        if self.batch and not self.unsettled:
            self.unsettled = True
            self.sim.at(self.batch, self._settle)

    def _settle(self) -> None:
        self.unsettled = False
        self.tcp.settle(self.sim.now)

    def _to_guest(self, frame: bytes, vnet: bytes) -> None:
        try:
            segment = Segment(frame, vnet)
        except AssertionError as why:
            if "checksum" in str(why) and self.up.corrupt:
                return
            raise
        self.guest.receive(segment)

    def run(self, until: Callable[[], bool], limit: int = 3600 * SECOND) -> bool:
        return self.sim.run(until, self.tcp, limit)
