"""A host network and a guest for tests of the stack, on a virtual clock: no sockets, no loop.

``Net`` joins them: ``net.guest`` builds frames, ``net.frames`` collects what the stack sends, ``net.host`` shows what
reached the host and feeds datagrams back.
"""

from __future__ import annotations

import errno
import os
import random
from dataclasses import dataclass, field
from typing import Any

from slirp.config import Config
from slirp.contracts.host import Address, Echo, PlainStream
from slirp.stack import Stack
from slirp.wire import checksum
from slirp.wire import ipv4 as wire

SECOND = 1_000_000_000
GUEST_MAC = bytes.fromhex("525400123456")
HOST_MAC = bytes.fromhex("52550a000202")
DNS_MAC = bytes.fromhex("52550a000203")
BROADCAST = b"\xff" * 6


@dataclass
class FakeError:
    """A queued ICMP error."""

    errno: int
    type: int
    code: int
    info: int
    offender: str | None
    remote: Address
    payload: bytes
    ttl: int = 0


class FakeEcho:
    """``slirp.contracts.host.EchoSocket``."""

    def __init__(self, host: FakeHost, family: int, ident: int, events: Any) -> None:
        self.host, self.family, self.ident, self.events = host, family, ident, events
        self.sent: list[tuple[int, bytes, str, int]] = []
        self.inbox: list[Echo] = []
        self.errors: list[FakeError] = []
        self.closed = False
        self.fail = 0
        self.limit = 0

    def send(self, seq: int, data: bytes, remote: str, how: int = 64) -> int:
        assert not self.closed
        if self.fail:
            return self.fail
        self.sent.append((seq, data, remote, how))
        return 0

    def mtu(self) -> int:
        return self.limit

    def recv(self) -> Echo | None:
        return self.inbox.pop(0) if self.inbox and not self.closed else None

    def error(self) -> FakeError | None:
        return self.errors.pop(0) if self.errors and not self.closed else None

    def close(self) -> None:
        self.closed = True


class FakeUdp:
    def __init__(self, host: FakeHost, family: int, events: Any) -> None:
        self.host, self.family, self.events = host, family, events
        self.sent: list[tuple[bytes, Address, int]] = []
        self.inbox: list[tuple[bytes, Address]] = []
        self.errors: list[FakeError] = []
        self.closed = False
        self.fail = 0
        self.limit = 0  # the MTU behind EMSGSIZE
        self.calls = 0  # of sendmany
        self.refused: list[Address] = []

    def sendto(self, data: bytes | memoryview, remote: Address, ttl: int = 64) -> int:
        assert not self.closed
        if self.fail:
            return self.fail
        self.sent.append((bytes(data), remote, ttl))
        return 0

    def sendmany(self, data: bytes, size: int, remote: Address, ttl: int = 64) -> int:
        self.calls += 1
        return max(
            (self.sendto(data[at : at + size], remote, ttl) for at in range(0, len(data), size)), default=0
        )

    def refuse(self, remote: Address) -> bool:
        self.refused.append(remote)
        return self.host.raw

    def mtu(self) -> int:
        return self.limit

    def recv(self) -> tuple[bytes, Address] | None:
        return self.inbox.pop(0) if self.inbox and not self.closed else None

    def error(self) -> FakeError | None:
        return self.errors.pop(0) if self.errors and not self.closed else None

    def close(self) -> None:
        self.closed = True


class FakeTcp(PlainStream):
    def __init__(self, remote: Address, events: Any) -> None:
        self.remote, self.events = remote, events
        self.failure: FakeError | None = None
        self.how = 64
        self.sent = bytearray()
        self.inbox: list[bytes] = []
        self.watched = (False, False)
        self.closed = self.was_reset = self.shut = False

    def send(self, data: bytes | memoryview) -> int:
        self.sent += data
        return len(data)

    def recv(self, size: int) -> bytes | None:
        return self.inbox.pop(0)[:size] if self.inbox else None

    def shutdown(self) -> None:
        self.shut = True

    def watch(self, read: bool, write: bool) -> None:
        self.watched = (read, write)

    def close(self, *, reset: bool = False) -> None:
        self.closed, self.was_reset = True, reset


class FakeService(FakeTcp):
    """A service; each ``send`` is kept apart."""

    def __init__(self, service: Any, events: Any, packets: bool) -> None:
        super().__init__(("", 0), events)
        self.service, self.packets = service, packets
        self.got: list[bytes] = []
        self.broken = 0

    def send(self, data: bytes | memoryview) -> int:
        if self.broken:
            raise OSError(self.broken, "broken")
        self.got.append(bytes(data))
        return len(data)

    def recv(self, size: int) -> bytes | None:
        if self.broken:
            raise OSError(self.broken, "broken")
        return super().recv(size)


class FakeClient(FakeTcp):
    """A client of a listener."""

    def __init__(self, peer: Address = ("127.0.0.1", 40000), local: Address = ("127.0.0.1", 5555)) -> None:
        super().__init__(peer, None)
        self.peer, self.local = peer, local
        self.left = False

    def attach(self, events: Any) -> None:
        self.events = events

    def gone(self) -> bool:
        return self.left or self.closed


class FakeListener:
    """``call`` lets a client come."""

    def __init__(self, address: Address | str, events: Any) -> None:
        self.address: Address = (address, 0) if isinstance(address, str) else address
        self.events = events
        self.clients: list[FakeClient] = []
        self.watched = True
        self.closed = False
        self.fail = 0

    def accept(self) -> FakeClient | None:
        if self.fail:
            raise OSError(self.fail, "no room")
        return self.clients.pop(0) if self.clients else None

    def watch(self, on: bool) -> None:
        self.watched = on

    def close(self) -> None:
        self.closed = True

    def call(self, now: int, *clients: FakeClient) -> None:
        self.clients += clients
        self.events.host_acceptable(now)


class FakeUdpListener:
    def __init__(self, address: Address, events: Any) -> None:
        self.address, self.events = address, events
        self.inbox: list[tuple[bytes, Address, str]] = []
        self.sent: list[tuple[bytes, Address, str]] = []
        self.errors: list[FakeError] = []
        self.refused: list[tuple[Address, str]] = []
        self.closed = False

    def refuse(self, remote: Address, local: str) -> bool:
        self.refused.append((remote, local))
        return True

    def mtu(self) -> int:
        return 0

    def recv(self) -> tuple[bytes, Address, str] | None:
        return self.inbox.pop(0) if self.inbox else None

    def sendto(self, data: bytes | memoryview, remote: Address, local: str, ttl: int = 64) -> int:
        assert not self.closed
        self.sent.append((bytes(data), remote, local))
        return 0

    def error(self) -> FakeError | None:
        return self.errors.pop(0) if self.errors else None

    def close(self) -> None:
        self.closed = True

    def call(self, now: int, data: bytes, remote: Address, local: str = "127.0.0.1") -> None:
        self.inbox.append((data, remote, local))
        self.events.host_readable(now)


class FakeFile:
    """A request waits in the directory until ``work``."""

    def __init__(self, directory: FakeDirectory, name: str, events: Any) -> None:
        self.directory, self.name, self.events = directory, name, events
        self.data = b""
        self.closed = False

    def read(self, offset: int, size: int) -> None:
        content = self.directory.files[self.name]
        self.directory.jobs.append(
            (self, lambda now: self.events.file_read(content[offset : offset + size], now))
        )

    def write(self, data: bytes) -> None:
        self.data += data
        self._answer()

    def commit(self) -> None:
        self.directory.files[self.name] = self.data
        self._answer()

    def _answer(self) -> None:
        if self.directory.fail:
            self.directory.jobs.append((self, lambda now: self.events.file_failed(self.directory.fail, now)))
        else:
            self.directory.jobs.append((self, self.events.file_written))

    def close(self) -> None:
        self.closed = True


class FakeDirectory:
    """``slirp.contracts.host.Directory`` in memory; ``work`` lets the workers finish what they were asked."""

    def __init__(self, path: str) -> None:
        self.names: tuple[bytes, ...] = (path.encode(),)
        self.files: dict[str, bytes] = {}
        self.jobs: list[tuple[FakeFile, Any]] = []
        self.opened: list[FakeFile] = []
        self.fail = 0
        self.nocase = False
        self.closed = False

    def open(self, parts: Any, events: Any) -> FakeFile:
        return self._made(parts, events, lambda name: len(self.files[name]) if name in self.files else None)

    def create(self, parts: Any, size: int, events: Any) -> FakeFile:
        return self._made(parts, events, lambda name: 0)

    def _made(self, parts: Any, events: Any, size: Any) -> FakeFile:
        file = FakeFile(self, b"/".join(parts).decode("latin-1"), events)
        found = size(file.name)
        if found is None:
            self.jobs.append((file, lambda now: events.file_failed(errno.ENOENT, now)))
        else:
            self.jobs.append((file, lambda now: events.file_opened(found, now)))
        self.opened.append(file)
        return file

    def work(self, now: int) -> None:
        for _ in range(1000):
            if not self.jobs:
                return
            file, job = self.jobs.pop(0)
            if not file.closed:
                job(now)
        raise AssertionError("the workers do not come to rest")

    def close(self) -> None:
        self.closed = True


class FakeHost:
    """``slirp.contracts.host.Host``: keeps every socket; ``limit`` is its number of descriptors."""

    def __init__(self) -> None:
        self.tcps: list[FakeTcp] = []
        self.echoes: list[FakeEcho] = []
        self.no_echo = 0  # errno
        self.raw = True  # raw sockets are permitted
        self.udps: list[FakeUdp] = []
        self.servers: list[Address] = [("192.0.2.53", 53)]
        self.name = "thehost"
        self.domains: list[str] = []
        self.control: set[Address] = set()
        self.limit = 1 << 30
        self.listeners: dict[Address | str, FakeListener] = {}
        self.udp_listeners: dict[Address, FakeUdpListener] = {}
        self.files = FakeDirectory("")
        self.services: list[FakeService] = []
        self.no_service = False

    def service(self, service: Any, events: Any, *, packets: bool = False) -> FakeService:
        if self.no_service:
            raise OSError(errno.ECONNREFUSED, "refused")
        self.services.append(FakeService(service, events, packets))
        return self.services[-1]

    def tcp(self, remote: Address, events: Any, how: int = 64) -> FakeTcp:
        self.tcps.append(FakeTcp(remote, events))
        self.tcps[-1].how = how
        return self.tcps[-1]

    def echo(self, family: int, ident: int, events: Any) -> FakeEcho:
        if self.no_echo:
            raise OSError(self.no_echo, os.strerror(self.no_echo))
        self.echoes.append(FakeEcho(self, family, ident, events))
        return self.echoes[-1]

    def udp(self, family: int, events: Any) -> FakeUdp:
        if sum(not sock.closed for sock in self.udps) >= self.limit:
            raise OSError(errno.EMFILE, "too many open files")
        self.udps.append(FakeUdp(self, family, events))
        return self.udps[-1]

    def listen(self, local: Address | str, events: Any) -> FakeListener:
        if local in self.listeners and not self.listeners[local].closed:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self.listeners[local] = FakeListener(local, events)
        return self.listeners[local]

    def listen_udp(self, local: Address, events: Any) -> FakeUdpListener:
        if local in self.udp_listeners and not self.udp_listeners[local].closed:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self.udp_listeners[local] = FakeUdpListener(local, events)
        return self.udp_listeners[local]

    def directory(self, path: str) -> FakeDirectory:
        self.files = FakeDirectory(path)
        return self.files

    def resolvers(self) -> list[Address]:
        return self.servers

    def own_names(self) -> tuple[str, list[str]]:
        return self.name, self.domains

    def forbidden(self, remote: Address) -> bool:
        return remote in self.control


def ip4(
    src: str,
    dst: str,
    protocol: int,
    body: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    ident: int = 1,
    flags: int = 0,
    options: bytes = b"",
    mac: bytes = GUEST_MAC,
    to: bytes = HOST_MAC,
) -> bytes:
    """A guest's IPv4 frame; ``flags`` is the whole fragment word."""
    header = wire.IPV4.pack(
        0x45 + len(options) // 4,
        tos,
        20 + len(options) + len(body),
        ident,
        flags,
        ttl,
        protocol,
        0,
        wire.ip_bytes(src),
        wire.ip_bytes(dst),
    )
    header += options
    value = checksum.checksum(header)
    header = header[:10] + value.to_bytes(2, "big") + header[12:]
    return to + mac + wire.TYPE_IPV4 + header + body


def udp_body(src: str, dst: str, sport: int, dport: int, payload: bytes, check: bool = True) -> bytes:
    size = len(payload) + 8
    head = wire.UDP.pack(sport, dport, size, 0)
    value = 0
    if check:
        start = wire.ip_int(wire.ip_bytes(src) + wire.ip_bytes(dst)) + 17 + size
        value = checksum.checksum(head + payload, start)
    return wire.UDP.pack(sport, dport, size, value) + payload


def udp(
    dst: str,
    dport: int,
    payload: bytes,
    *,
    src: str = "10.0.2.15",
    sport: int = 4000,
    check: bool = True,
    **ip: Any,
) -> bytes:
    """A guest's UDP frame."""
    return ip4(src, dst, 17, udp_body(src, dst, sport, dport, payload, check), **ip)


def icmp(kind: int, code: int, rest: int, data: bytes) -> bytes:
    body = wire.ICMP.pack(kind, code, 0, rest) + data
    return wire.ICMP.pack(kind, code, checksum.checksum(body), rest) + data


def ping(dst: str, data: bytes = b"abcdefgh", *, src: str = "10.0.2.15", **ip: Any) -> bytes:
    """A guest's echo request, id 7 sequence 1."""
    return ip4(src, dst, 1, icmp(8, 0, 7 << 16 | 1, data), **ip)


def arp(
    operation: int,
    spa: str,
    tpa: str,
    *,
    sha: bytes = GUEST_MAC,
    tha: bytes = bytes(6),
    to: bytes = BROADCAST,
) -> bytes:
    body = wire.ARP.pack(1, 0x800, 6, 4, operation, sha, wire.ip_bytes(spa), tha, wire.ip_bytes(tpa))
    return (to + sha + wire.TYPE_ARP + body).ljust(60, b"\0")


@dataclass
class Ip:
    """An IPv4 frame from the stack, checked."""

    to: bytes
    mac: bytes
    src: str
    dst: str
    protocol: int
    ttl: int
    tos: int
    ident: int
    flags: int
    body: bytes

    @property
    def kind(self) -> tuple[int, int]:
        """ICMP type and code."""
        return self.body[0], self.body[1]

    @property
    def ports(self) -> tuple[int, int]:
        return wire.PORTS.unpack_from(self.body)

    @property
    def payload(self) -> bytes:
        """Behind a UDP or ICMP header."""
        return self.body[8:]


def read(frame: bytes, vnet: bytes = b"") -> Ip:
    """Parse a frame of the stack, and check its checksums."""
    assert frame[12:14] == wire.TYPE_IPV4
    first, tos, length, ident, flags, ttl, protocol, _, src, dst = wire.IPV4.unpack_from(frame, 14)
    assert first == 0x45
    end = 14 + length
    assert len(frame) == end or (len(frame) == 60 and not any(frame[end:])), "neither exact nor padded"
    frame = frame[:end]
    assert checksum.good(frame[14:34])
    body = frame[34:]
    if not flags & 0x3FFF:
        if protocol == 1:
            assert checksum.good(body)
        elif protocol == 17:
            assert wire.U16.unpack_from(body, 4)[0] == len(body)
            start = wire.ip_int(src + dst) + 17 + len(body)
            if vnet:
                assert wire.VNET.unpack(vnet)[0] == 1
                assert wire.U16.unpack_from(body, 6)[0] % 65535 == start % 65535
            else:
                assert checksum.good(body, start)
    return Ip(
        frame[:6], frame[6:12], wire.ip_text(src), wire.ip_text(dst), protocol, ttl, tos, ident, flags, body
    )


@dataclass
class Net:
    """A stack with a fake host and a guest at 10.0.2.15."""

    config: Config = field(default_factory=Config)
    known: bool = True  # the guest has been heard of

    def __post_init__(self) -> None:
        self.host = FakeHost()
        self.sent: list[tuple[bytes, bytes]] = []
        self.full = False
        self.now = SECOND
        self.stack = Stack(self.config, self.host, self._tx, random.Random(1), self.now)
        if self.known:
            self.put(arp(1, "10.0.2.15", "10.0.2.2"))
            self.take()

    def _tx(self, frame: bytes, vnet: bytes = b"") -> bool:
        if self.full:
            return False
        self.sent.append((frame, vnet))
        return True

    def put(self, *frames: bytes, vnet: bytes = b"") -> None:
        """From the guest."""
        for frame in frames:
            self.stack.input(frame, vnet, self.now)

    def take(self) -> list[bytes]:
        """What the stack sent since the last time."""
        frames = [frame for frame, _ in self.sent]
        self.sent.clear()
        return frames

    def ask(self, *frames: bytes, vnet: bytes = b"") -> list[Ip]:
        """Put frames, take the IPv4 answers."""
        self.put(*frames, vnet=vnet)
        answers = [read(frame, v) for frame, v in self.sent if frame[12:14] == wire.TYPE_IPV4]
        self.sent.clear()
        return answers

    def ips(self) -> list[Ip]:
        """IPv4 frames since the last time."""
        return self.ask()

    def run(self, seconds: float) -> None:
        """Let time pass, timers firing when they are due."""
        end = self.now + int(seconds * SECOND)
        for _ in range(10_000):
            deadline = self.stack.next_deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.stack.tick(self.now)
        else:
            raise AssertionError("a timer does not come to rest")
        self.now = end

    def count(self, reason: str) -> int:
        return self.stack.counters.get(reason, 0)

    def deliver(self, sock: FakeUdp, payload: bytes, remote: Address) -> None:
        """A datagram from the host's side."""
        sock.inbox.append((payload, remote))
        sock.events.host_readable(self.now)

    def complain(self, sock: FakeUdp, error: FakeError) -> None:
        """An ICMP error from the host's side."""
        sock.errors.append(error)
        sock.events.host_readable(self.now)
