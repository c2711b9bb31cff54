"""This module puts services at addresses of the guests' net (``guestfwd=``, and ``smb=``, which is built on
it).

A rule gives one port of an own address, TCP or UDP, to a ``host.Service``: a program, a connection to
somewhere on the host's side, a UNIX socket. Every TCP connection and every UDP flow (a guest's address and
port) gets a program or a connection of its own. An address that is not ours yet becomes ours while a rule
needs it: it answers ARP and ping.

TCP: the service is a ``link.Opener``, so its connection is a flow like any other: half-closes and resets
cross both ways. UDP: each datagram is one packet of the service (a stream has no packets, so what one read
gives becomes a datagram). Up to ``EARLY`` datagrams wait until the service is ready. The service's end, or
its refusal, ends the flow (refusal: ICMP port unreachable); the guest's next datagram begins another. A
guest's ICMP port unreachable ends the flow as well, and so does ``IDLE`` time without a datagram.

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
    """A rule gives one port of an own address to a service. ``text`` is the name of the rule in messages."""

    protocol: str  # "tcp" or "udp"
    address: bytes  # 4 or 16 bytes, an address inside the net
    port: int
    service: Service
    text: str = ""


class Network(Protocol):
    """The services that the rules need from the stack."""

    now: int
    config: Config
    services: dict[tuple[bytes, int], Any]

    def adopt(self, address: bytes) -> None:
        """Make an address one of our own."""

    def abandon(self, address: bytes) -> None:
        """Stop treating ``address`` as one of our own."""

    def count(self, reason: str) -> None:
        """Count one event under its reason."""


class _Opener:
    """An opener that answers TCP connections with a service (``slirp.contracts.link.Opener``)."""

    __slots__ = ("_host", "_service")

    def __init__(self, host: Host, service: Service) -> None:
        self._host = host
        self._service = service

    def open(self, events: TcpEvents) -> TcpSocket:
        """Begin a connection to the service. Raises OSError."""
        return self._host.service(self._service, events)


class UdpFlow:
    """A UDP flow joins one guest port to its service (``slirp.contracts.host.TcpEvents``)."""

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
        """Send a datagram to the service, or queue it until the service is ready."""
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
        """The service is ready: send it the waiting datagrams."""
        assert self.socket is not None
        self.ready = True
        self.socket.watch(True, False)
        early, self.early = self.early, []
        for payload in early:
            if self.socket is None:
                return
            self.send(payload, now)

    def host_failed(self, error: int, now: int) -> None:
        """The service refused or broke: tell the guest by ICMP and end the flow."""
        self.owner.refused(self, now)

    def host_readable(self, now: int) -> None:
        """The service has packets: deliver them to the guest."""
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
        """Do nothing, because no datagram waits for room."""

    def close(self) -> None:
        """Close the socket to the service."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class UdpGuestPort:
    """A UDP port of our own that a service answers (``slirp.contracts.stack.Service``)."""

    def __init__(self, owner: GuestForwards, rule: GuestRule) -> None:
        self.rule = rule
        self.flows: OrderedDict[bytes, UdpFlow] = OrderedDict()  # longest idle first
        self._owner = owner

    def count(self, reason: str) -> None:
        """Count one event under its reason."""
        self._owner.network.count(reason)

    def input(self, frame: bytes, off: int, end: int, src: bytes, sport: int, dst: bytes, now: int) -> None:
        """Take a guest's datagram, and begin a flow if the guest's port has none."""
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
        """Send the guest a datagram from the service."""
        if not self._owner.families.datagram(flow.neighbour, flow.dst, self.rule.port, flow.port, data):
            self.count("udp_to_guest_dropped")

    def refused(self, flow: UdpFlow, now: int) -> None:
        """End a flow whose service cannot be reached or broke, and tell the guest by ICMP."""
        self.count("guestfwd_refused")
        family = self._owner.families.of(flow.dst)
        kind, code = (UNREACHABLE, PORT) if len(flow.dst) == 4 else (1, 4)
        family.relayed_error(
            flow.neighbour, flow.dst, kind, code, 0, flow.dst, flow.port, self.rule.port, flow.last_sent
        )
        self.end(flow)

    def end(self, flow: UdpFlow) -> None:
        """End a flow and close its socket."""
        self.flows.pop(flow.key, None)
        flow.close()

    def expire(self, now: int) -> int | None:
        """End idle flows; return the time when the next one is due, or None if none is left."""
        for flow in list(self.flows.values()):
            if flow.last + IDLE > now:
                return flow.last + IDLE
            self.count("guestfwd_expired")
            self.end(flow)
        return None

    def close(self) -> None:
        """End all flows of this port."""
        for flow in list(self.flows.values()):
            self.end(flow)


class GuestForward:
    """A rule in force, with its number."""

    def __init__(self, number: int, rule: GuestRule) -> None:
        self.number = number
        self.rule = rule
        self.udp: UdpGuestPort | None = None


class GuestForwards:
    """The service rules of one stack."""

    def __init__(self, network: Network, host: Host, families: Families) -> None:
        self.network = network
        self.host = host
        self.families = families
        self.rules: dict[int, GuestForward] = {}
        self._tcp: dict[tuple[bytes, int], list[_Opener]] = {}
        self._last = 0
        self._expiry: int | None = None

    def add(self, rule: GuestRule) -> GuestForward:
        """Put a rule into force, so that its service answers from now on. Raises ForwardError."""
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
        """Withdraw a rule: existing TCP connections go on, UDP flows end. False means that there is no such
        rule.
        """
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
        """Return what answers a connection to this address and port, best first; [] means that no rule
        applies.
        """
        return self._tcp.get((dst, port), [])

    def guest_error(self, guest: bytes, port: int, remote: bytes, rport: int) -> bool:
        """Take a guest's ICMP port unreachable. False means that it is not about a datagram of one of the
        rules.
        """
        service = self.network.services.get((remote, rport))
        flow = service.flows.get(guest + U16.pack(port)) if isinstance(service, UdpGuestPort) else None
        if flow is None:
            return False
        self.network.count("udp_guest_refused")
        flow.owner.end(flow)
        return True

    # ---- time ----------------------------------------------------------------------------------------------

    def hasten(self, deadline: int) -> None:
        """Note that a UDP flow may expire at ``deadline``."""
        if self._expiry is None:
            self._expiry = deadline

    def next_deadline(self) -> int | None:
        """Return the time at which ``run`` has something to do; None if there is none."""
        return self._expiry

    def run(self, now: int) -> None:
        """End UDP flows that have been idle too long."""
        if self._expiry is None or now < self._expiry:
            return
        due = [found.udp.expire(now) for found in self.rules.values() if found.udp is not None]
        self._expiry = min((at for at in due if at is not None), default=None)

    def close(self) -> None:
        """Withdraw all rules and end their UDP flows."""
        for number in list(self.rules):
            self.remove(number)

    # ---- reports -------------------------------------------------------------------------------------------

    def flows(self, now: int) -> list[dict[str, Any]]:
        """Return rows of ``info usernet`` for the UDP flows; ``tcp`` reports those of TCP."""
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
