"""What answers guests at addresses of the net (``guestfwd=``, and what is built on it: ``smb=``).

A rule gives one port of an own address, TCP or UDP, to a ``host.Service``: a program, a connection to somewhere on the
host's side, a UNIX socket. Every TCP connection and every UDP flow (a guest's address and port) gets a program or a
connection of its own. An address that is not ours yet becomes ours while a rule needs it: it answers ARP and ping.

TCP: the service is an ``link.Opener``, so it is a flow as any other: half-closes and resets cross both ways. UDP: a datagram
each way is a packet of the service's (a stream has no packets: what one read gives is a datagram). Datagrams that come before the
service is there wait, ``EARLY`` of them. The service's end, or its refusal, ends the flow (refusal: ICMP port unreachable);
the guest's next datagram begins another. A guest's ICMP port unreachable ends it as well, so does ``IDLE``.

Rules stand outside ``allow=``, ``deny=`` and ``restrict``: they are the administrator's own.

Limits: ``RULES`` rules, ``FLOWS`` UDP flows of each (the longest idle makes room).

Ref: QEMU's guestfwd (TCP, IPv4, one shared device or a program for each connection).
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..config import Config
from ..contracts.host import Host, Service, TcpEvents, TcpSocket, descriptor
from ..ip.family import Families
from ..ip.neighbours import Neighbour
from ..udp.flow import IDLE
from ..wire.ipv4 import NO_MAC, PORT, U16, UNREACHABLE, ip_text
from .tcp import ForwardError, refuse_nobodys

SECOND = 1_000_000_000
RULES = 256
FLOWS = 256
EARLY = 16
BATCH = 64
DATAGRAM = 65507
QUOTE = 512  # bytes of a datagram kept for an ICMP error


@dataclass(frozen=True, slots=True)
class GuestRule:
    """One rule. ``text`` is what it is called in messages."""

    protocol: str  # tcp, udp
    address: bytes  # 4 or 16 bytes, of the net
    port: int
    service: Service
    text: str = ""


class Network(Protocol):
    """What the rules ask of the stack."""

    now: int
    config: Config
    services: dict[tuple[bytes, int], Any]

    def adopt(self, address: bytes) -> None:
        """An address becomes ours."""

    def abandon(self, address: bytes) -> None:
        """It is ours no more."""

    def count(self, reason: str) -> None:
        """Count an event."""


class _Opener:
    """Answers TCP connections (``slirp.contracts.link.Opener``)."""

    __slots__ = ("_host", "_service")

    def __init__(self, host: Host, service: Service) -> None:
        self._host = host
        self._service = service

    def open(self, events: TcpEvents) -> TcpSocket:
        """Begin."""
        return self._host.service(self._service, events)


class UdpFlow:
    """One guest port and its service (``slirp.contracts.host.TcpEvents``)."""

    __slots__ = ("dst", "early", "key", "last", "last_sent", "neighbour", "owner", "port", "ready", "socket")

    def __init__(
        self, owner: UdpGuestPort, key: bytes, neighbour: Neighbour, port: int, dst: bytes, now: int
    ) -> None:
        self.owner = owner
        self.key = key
        self.neighbour = neighbour
        self.port = port
        self.dst = dst
        self.last = now
        self.early: list[bytes] = []
        self.last_sent = b""
        self.ready = False
        self.socket: TcpSocket | None = None

    def send(self, payload: bytes, now: int) -> None:
        """To the service, or to wait for it."""
        self.last = now
        self.last_sent = payload[:QUOTE]
        if not self.ready:
            if len(self.early) < EARLY:
                self.early.append(payload)
            else:
                self.owner.count("guestfwd_early_dropped")
            return
        assert self.socket is not None
        try:
            if payload and not self.socket.send(payload):
                self.owner.count("guestfwd_full")
        except OSError as error:
            self.host_failed(error.errno or errno.EIO, now)

    def host_connected(self, now: int) -> None:
        """The service is there."""
        assert self.socket is not None
        self.ready = True
        self.socket.watch(True, False)
        early, self.early = self.early, []
        for payload in early:
            if self.socket is None:
                return
            self.send(payload, now)

    def host_failed(self, error: int, now: int) -> None:
        """It is not, or no more: the guest is told."""
        self.owner.refused(self, now)

    def host_readable(self, now: int) -> None:
        """Packets for the guest."""
        owner = self.owner
        for _ in range(BATCH):
            if self.socket is None:
                return
            try:
                data = self.socket.recv(DATAGRAM)
            except OSError as error:
                self.host_failed(error.errno or errno.EIO, now)
                return
            if data is None:
                return
            if not data:
                owner.end(self)
                return
            self.last = now
            owner.deliver(self, data)

    def host_writable(self, now: int) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Give the socket back."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class UdpGuestPort:
    """A UDP port of ours that a service answers (``slirp.contracts.stack.Service``)."""

    def __init__(self, owner: GuestForwards, rule: GuestRule) -> None:
        self.rule = rule
        self.flows: OrderedDict[bytes, UdpFlow] = OrderedDict()  # longest idle first
        self._owner = owner

    def count(self, reason: str) -> None:
        """Count an event."""
        self._owner.network.count(reason)

    def input(self, frame: bytes, off: int, end: int, src: bytes, sport: int, dst: bytes, now: int) -> None:
        """A guest's datagram."""
        owner = self._owner
        if not any(src):
            self.count("broadcast_ignored")
            return
        key = src + U16.pack(sport)
        flow = self.flows.get(key)
        if flow is None:
            if len(self.flows) >= FLOWS:
                self.count("guestfwd_evicted")
                self.end(next(iter(self.flows.values())))
            flow = UdpFlow(self, key, owner.families.neighbour(src), sport, dst, now)
            try:
                flow.socket = owner.host.service(self.rule.service, flow, packets=True)
            except OSError:
                self.count("guestfwd_failed")
                owner.families.of(src).error(frame, UNREACHABLE, PORT)
                return
            self.count("guestfwd_opened")
            self.flows[key] = flow
        self.flows.move_to_end(key)
        flow.send(frame[off:end], now)
        owner.hasten(now + IDLE)

    def deliver(self, flow: UdpFlow, data: bytes) -> None:
        """A datagram for the guest."""
        if not self._owner.families.datagram(flow.neighbour, flow.dst, self.rule.port, flow.port, data):
            self.count("udp_to_guest_dropped")

    def refused(self, flow: UdpFlow, now: int) -> None:
        """The service cannot be reached, or broke."""
        self.count("guestfwd_refused")
        family = self._owner.families.of(flow.dst)
        kind, code = (UNREACHABLE, PORT) if len(flow.dst) == 4 else (1, 4)
        family.relayed_error(
            flow.neighbour, flow.dst, kind, code, 0, flow.dst, flow.port, self.rule.port, flow.last_sent
        )
        self.end(flow)

    def end(self, flow: UdpFlow) -> None:
        """The flow is over."""
        self.flows.pop(flow.key, None)
        flow.close()

    def expire(self, now: int) -> int | None:
        """End idle flows; when the next one is due."""
        for flow in list(self.flows.values()):
            if flow.last + IDLE > now:
                return flow.last + IDLE
            self.count("guestfwd_expired")
            self.end(flow)
        return None

    def close(self) -> None:
        """End all flows."""
        for flow in list(self.flows.values()):
            self.end(flow)


class GuestForward:
    """A rule in force."""

    def __init__(self, number: int, rule: GuestRule) -> None:
        self.number = number
        self.rule = rule
        self.udp: UdpGuestPort | None = None


class GuestForwards:
    """The rules of one stack."""

    def __init__(self, network: Network, host: Host, families: Families) -> None:
        self.network = network
        self.host = host
        self.families = families
        self.rules: dict[int, GuestForward] = {}
        self._tcp: dict[tuple[bytes, int], list[_Opener]] = {}
        self._last = 0
        self._expiry: int | None = None

    def add(self, rule: GuestRule) -> GuestForward:
        """Answer there from now on. Raises ForwardError."""
        place = (rule.address, rule.port)
        if len(self.rules) >= RULES:
            raise ForwardError(f"more than {RULES} of them")
        try:
            family = self.families.of(rule.address)
        except LookupError as error:
            raise ForwardError(str(error)) from None
        if not family.inside(rule.address):
            raise ForwardError(f"{ip_text(rule.address)} is not in the net")
        refuse_nobodys(self.network.config, rule.address)
        guest = family.neighbours.table.get(rule.address)
        if guest is not None and guest.mac != NO_MAC:
            raise ForwardError(f"{ip_text(rule.address)} is a guest's")
        if place in (self._tcp if rule.protocol == "tcp" else self.network.services):
            raise ForwardError(f"{rule.protocol} port {rule.port} of {ip_text(rule.address)} is taken")
        self._last += 1
        found = self.rules[self._last] = GuestForward(self._last, rule)
        if rule.protocol == "tcp":
            service = rule.service
            ways = (service, *(replace(service, to=to, also=()) for to in service.also))
            self._tcp[place] = [_Opener(self.host, way) for way in ways]
        else:
            found.udp = self.network.services[place] = UdpGuestPort(self, rule)
        self.network.adopt(rule.address)
        return found

    def remove(self, number: int) -> bool:
        """Answer no more; TCP connections that exist go on, UDP flows end. False: there is no such rule."""
        found = self.rules.pop(number, None)
        if found is None:
            return False
        place = (found.rule.address, found.rule.port)
        if found.udp is not None:
            found.udp.close()
            del self.network.services[place]
        else:
            del self._tcp[place]
        if not any(other.rule.address == found.rule.address for other in self.rules.values()):
            self.network.abandon(found.rule.address)
        return True

    def tcp(self, dst: bytes, port: int) -> list[_Opener]:
        """What answers a connection there, best first; []: nothing of ours."""
        return self._tcp.get((dst, port), [])

    def guest_error(self, guest: bytes, port: int, remote: bytes, rport: int) -> bool:
        """A guest's ICMP port unreachable. False: it is not about a datagram of a rule's."""
        service = self.network.services.get((remote, rport))
        flow = service.flows.get(guest + U16.pack(port)) if isinstance(service, UdpGuestPort) else None
        if flow is None:
            return False
        self.network.count("udp_guest_refused")
        flow.owner.end(flow)
        return True

    # ---- time ----------------------------------------------------------------------------------------------

    def hasten(self, deadline: int) -> None:
        """A UDP flow may expire at ``deadline``."""
        if self._expiry is None:
            self._expiry = deadline

    def next_deadline(self) -> int | None:
        """When ``run`` has something to do."""
        return self._expiry

    def run(self, now: int) -> None:
        """End idle UDP flows."""
        if self._expiry is None or now < self._expiry:
            return
        due = [found.udp.expire(now) for found in self.rules.values() if found.udp is not None]
        self._expiry = min((at for at in due if at is not None), default=None)

    def close(self) -> None:
        """End all of it."""
        for number in list(self.rules):
            self.remove(number)

    # ---- reports -------------------------------------------------------------------------------------------

    def flows(self, now: int) -> list[dict[str, Any]]:
        """Rows of ``info usernet``: UDP flows (TCP's are TCP's)."""
        return [
            {
                "protocol": "UDP",
                "state": "guestfwd",
                "fd": descriptor(flow.socket),
                "src": ip_text(flow.neighbour.address),
                "src_port": flow.port,
                "dst": ip_text(flow.dst),
                "dst_port": found.rule.port,
                "recvq": sum(map(len, flow.early)),
                "sendq": 0,
                "idle": (now - flow.last) / SECOND,
            }
            for found in reversed(self.rules.values())
            if found.udp is not None
            for flow in reversed(found.udp.flows.values())
        ]
