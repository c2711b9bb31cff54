"""The IPv6 side of a stack: its parts, and who hears what. UDP, TCP and the services are the stack's own.

    frame --> Ipv6 --local--> ICMPv6 (echo, neighbours, router) | services (DHCPv6, DNS, TFTP) | UDP, TCP: the host's ::1
                   `-remote-> UDP, TCP

Ref: RFC 8504 (what an IPv6 node does).
"""

from __future__ import annotations

from random import Random
from typing import Protocol

from .config import Config
from .config6 import Config6
from .contracts.stack import Below, Service
from .icmp.echo import Echoes
from .icmp.icmpv6 import Icmp6
from .ip.ipv6 import Ipv6
from .ip.ndp import Ndp
from .ip.router6 import Router
from .services.dhcpv6 import PORT as DHCP6_PORT
from .services.dhcpv6 import Dhcp6
from .tcp.nat import Tcp
from .udp.nat import Udp
from .wire.ipv4 import PORTS, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, UDP_LEN, VNET_DATA_VALID, VNET_NEEDS_CSUM
from .wire.ipv6 import (
    ALL_DHCP,
    ALL_DHCP_SERVERS,
    ETH_IPV6_LEN,
    LINK_LOCAL,
    NEXT_HEADER,
    UNSPECIFIED,
    own_mac6,
)

LOOPBACK = "::1"


class Sided(Below, Protocol):
    """What a side asks of the stack that it belongs to."""

    config: Config
    services: dict[tuple[bytes, int], Service]
    udp: Udp
    tcp: Tcp
    echoes: Echoes

    def serves(self, service: Service, dst: bytes) -> bool:
        """Whether a service of ours may be asked at ``dst``."""

    def to_tcp(self, frame: bytes, vnet: bytes, off: int, end: int, src: bytes, dst: bytes, now: int) -> None:
        """Take a TCP segment ``frame[off:end]``."""

    def guest_error(self, guest: bytes, port: int, remote: bytes, rport: int, kind: int, code: int) -> None:
        """Take a guest's ICMP error about a datagram of ours."""


class Side6:
    """IPv6 of one stack. ``mtu`` is at least ``wire.ipv6.MTU_MIN``."""

    def __init__(self, stack: Sided, v6: Config6, mtu: int, udp: Udp, rng: Random, now: int) -> None:
        config = stack.config
        self.config = v6
        self.macs = frozenset(own_mac6(address) for address in v6.own)
        self._stack = stack
        self._own = frozenset(v6.own)
        self.ndp = Ndp(v6.own, self._inside, stack.emit, stack.count, now)
        self.ip = Ipv6(v6, mtu, stack, self.ndp, rng, self._local, self._remote)
        self.router = Router(config, v6, self.ip, rng, now)
        self.icmp = Icmp6(
            stack, self.ip, self.ndp, self.router, v6.own, stack.echoes, stack.guest_error, stack.tcp.too_big
        )
        self.dhcp = Dhcp6(config, v6, stack, self.ip, self.ndp)
        self.input = self.ip.input
        for group in (ALL_DHCP, ALL_DHCP_SERVERS, v6.host_ip, LINK_LOCAL):
            stack.services[group, DHCP6_PORT] = self.dhcp
        self.parts = (self.ndp, self.ip, self.router)

    def reconfigure(self, config: Config, now: int) -> None:
        """What guests are told from now on, beginning with an advertisement."""
        self.router.reconfigure(config)
        self.dhcp.reconfigure(config)
        self.router.announce(now)

    def adopt(self, address: bytes) -> bytes:
        """One more address is ours; its MAC."""
        self._own |= {address}
        for part in (self.ndp, self.ip, self.icmp):
            part.adopt(address)
        return own_mac6(address)

    def abandon(self, address: bytes) -> bytes:
        """One less; the MAC that it had."""
        self._own -= {address}
        for part in (self.ndp, self.ip, self.icmp):
            part.abandon(address)
        return own_mac6(address)

    def _inside(self, address: bytes) -> bool:
        return self.ip.inside(address)

    # ---- frames in -----------------------------------------------------------------------------------------

    def _local(
        self,
        frame: bytes,
        vnet: bytes,
        off: int,
        end: int,
        protocol: int,
        hops: int,
        src: bytes,
        dst: bytes,
        now: int,
    ) -> None:
        """For one of our addresses, or for a group."""
        stack = self._stack
        if protocol == PROTO_ICMPV6:
            checked = bool(vnet and vnet[0] & (VNET_NEEDS_CSUM | VNET_DATA_VALID))
            self.icmp.input(frame, off, end, hops, src, dst, checked, now)
            return
        ours = dst in self._own and src != UNSPECIFIED
        if protocol == PROTO_UDP:
            end = stack.udp.check(self.ip, frame, vnet, off, end)
            if not end:
                return
            sport, dport = PORTS.unpack_from(frame, off)
            service = stack.services.get((dst, dport))
            if service is not None and stack.serves(service, dst):
                service.input(frame, off + UDP_LEN, end, src, sport, dst, now)
            elif not ours:
                stack.count("broadcast_ignored")
            else:
                stack.udp.input(
                    self.ip, frame, vnet, off, end, self.ip.how(frame, max(hops - 1, 1)), src, dst, now
                )
        elif not ours:
            stack.count("broadcast_ignored")
        elif protocol == PROTO_TCP:
            stack.to_tcp(frame, vnet, off, end, src, dst, now)
        else:
            stack.count("protocol_unknown")
            self.ip.refuse(frame, self._link(frame, protocol, off), True)

    @staticmethod
    def _link(frame: bytes, protocol: int, off: int) -> int:
        """Where a frame names its layer 4: what the error points at."""
        if off == ETH_IPV6_LEN:
            return NEXT_HEADER
        at, link = ETH_IPV6_LEN, NEXT_HEADER
        while at < off:  # the chain was walked before: all of it is sound
            kind = frame[link]
            link, at = at, at + ((frame[at + 1] + 2) << 2 if kind == 51 else (frame[at + 1] + 1) << 3)
        return link

    def _remote(
        self,
        frame: bytes,
        vnet: bytes,
        off: int,
        end: int,
        protocol: int,
        hops: int,
        src: bytes,
        dst: bytes,
        now: int,
    ) -> None:
        """Hand a packet for the world outside to its protocol."""
        stack = self._stack
        if protocol == PROTO_TCP:
            stack.to_tcp(frame, vnet, off, end, src, dst, now)
        elif protocol == PROTO_UDP:
            end = stack.udp.check(self.ip, frame, vnet, off, end)
            if end:
                stack.udp.input(self.ip, frame, vnet, off, end, self.ip.how(frame, hops - 1), src, dst, now)
        elif protocol == PROTO_ICMPV6:
            checked = bool(vnet and vnet[0] & (VNET_NEEDS_CSUM | VNET_DATA_VALID))
            self.icmp.input(frame, off, end, hops, src, dst, checked, now)
        else:
            stack.count("protocol_not_carried")
            self.ip.refuse(frame, 0, False)

    # ---- life ----------------------------------------------------------------------------------------------

    def announce(self, now: int) -> None:
        """Start, link up, swap: our addresses, and the way out."""
        self.ndp.announce()
        self.router.announce(now)
