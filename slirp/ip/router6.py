"""Router advertisements: how guests configure themselves, and where their default route leads.

Sent from fe80::2: to who solicits, at start, and every ``INTERVAL_MIN`` to ``INTERVAL_MAX`` seconds (the first
``INITIAL`` within ``INITIAL_INTERVAL``). At the end one says that the router goes and its prefix is deprecated, so that
guests on a wire that gets another router do not keep this one.

What they say: hop limit 64, router lifetime (0 where guests can reach nothing outside), prefix (on-link; autonomous
where it is a /64, else "managed": addresses by DHCPv6), "other configuration" (DHCPv6 has the names and NTP), MTU,
RDNSS and DNSSL (RFC 8106) with the router's lifetime, our MAC.

Limits: ``limiter`` of ``ANSWERS`` solicited ones a second. Timers: one.

Ref: RFC 4861 4.2, 6.2; RFC 4862 5.5; RFC 8106; QEMU's lifetimes and intervals.
"""

from __future__ import annotations

from random import Random
from struct import Struct

from ..config import Config
from ..config6 import Config6
from ..rules import Rules
from ..wire.dns import encode_names
from ..wire.ipv4 import PROTO_UDP
from ..wire.ipv6 import (
    ALL_NODES,
    LINK_LOCAL,
    ND_HOPS,
    OPT_DNSSL,
    OPT_MTU,
    OPT_PREFIX,
    OPT_RDNSS,
    OPT_SOURCE,
    ROUTER_ADVERTISEMENT,
    UNSPECIFIED,
    group_mac,
    own_mac6,
)
from .ipv6 import Ipv6
from .limiter import Limiter
from .ndp import nd_options

SECOND = 1_000_000_000
INTERVAL_MIN, INTERVAL_MAX = 200, 600
INITIAL, INITIAL_INTERVAL = 3, 16
LIFETIME = 1800
VALID, PREFERRED = 86400, 14400
HOP_LIMIT = 64
MANAGED, OTHER = 0x80, 0x40
ON_LINK, AUTONOMOUS = 0x80, 0x40
ANSWERS = 20
DNS_PORT = 53
DNSSL_MAX = 960  # bytes of names
RS_OPTIONS = 8
_REST = Struct("!BBH")  # hop limit, flags, router lifetime
_TIMES = Struct("!II")  # reachable time, retransmission timer: unspecified
_PREFIX = Struct("!BBBBIII16s")
_LIST = Struct("!BBHI")  # RDNSS, DNSSL, MTU


def named(config: Config, v6: Config6) -> bool:
    """Whether guests can use our name server's IPv6 address."""
    return Rules(config.rules, config.restrict).permits(PROTO_UDP, v6.dns_ip, DNS_PORT)


class Router:
    """The advertising half of a router."""

    def __init__(self, config: Config, v6: Config6, ip: Ipv6, rng: Random, now: int) -> None:
        self._config = config
        self._v6 = v6
        self._ip = ip
        self._rng = rng
        self._limiter = Limiter(now, ANSWERS, ANSWERS)
        self._sent = 0
        self._next = now + INITIAL_INTERVAL * SECOND

    def reconfigure(self, config: Config) -> None:
        """For advertisements to come."""
        self._config = config

    def solicited(self, frame: bytes, body: bytes, hops: int, src: bytes, now: int) -> str:
        """A router solicitation with a good checksum; what to count."""
        try:
            if hops != ND_HOPS or body[1] or len(body) < RS_OPTIONS:
                raise ValueError("not from this link")
            options = [option for option, _ in nd_options(body, RS_OPTIONS)]
            if src == UNSPECIFIED and OPT_SOURCE in options:
                raise ValueError("a MAC of nobody")
        except ValueError:
            return "ndp_malformed"
        if not self._limiter.take(now):
            return "ra_limited"
        if src == UNSPECIFIED:
            self._send(ALL_NODES, group_mac(ALL_NODES), LIFETIME)
        else:
            self._send(src, frame[6:12], LIFETIME)
        return "ra_solicited"

    def announce(self, now: int) -> None:
        """Tell everybody, and soon again."""
        self._sent = 0
        self._send(ALL_NODES, group_mac(ALL_NODES), LIFETIME)
        self._next = now + INITIAL_INTERVAL * SECOND

    def retire(self) -> None:
        """We go: no default route by us, and better no address of our prefix."""
        self._send(ALL_NODES, group_mac(ALL_NODES), 0)

    def _send(self, dst: bytes, mac: bytes, lifetime: int) -> None:
        """One advertisement."""
        v6, config = self._v6, self._config
        network = v6.network
        autonomous = network.prefixlen == 64
        flags = OTHER if autonomous else OTHER | MANAGED
        options = [
            bytes((OPT_SOURCE, 1)) + own_mac6(LINK_LOCAL),
            _LIST.pack(OPT_MTU, 1, 0, self._ip.mtu),
            _PREFIX.pack(
                OPT_PREFIX,
                4,
                network.prefixlen,
                ON_LINK | (AUTONOMOUS if autonomous else 0),
                VALID,
                PREFERRED if lifetime else 0,
                0,
                network.network_address.packed,
            ),
        ]
        if named(config, v6):
            options.append(_LIST.pack(OPT_RDNSS, 3, 0, lifetime) + v6.dns_ip)
        if config.dnssearch:
            names = b""
            for name in config.dnssearch:
                encoded = encode_names((name,))
                if len(names) + len(encoded) <= DNSSL_MAX:  # an advertisement is never fragmented (RFC 6980)
                    names += encoded
            names += bytes(-len(names) % 8)
            options.append(_LIST.pack(OPT_DNSSL, 1 + len(names) // 8, 0, lifetime) + names)
        rest = int.from_bytes(_REST.pack(HOP_LIMIT, flags, lifetime if config.routed else 0), "big")
        data = _TIMES.pack(0, 0) + b"".join(options)
        self._ip.icmp(mac, LINK_LOCAL, dst, ROUTER_ADVERTISEMENT, 0, rest, data)

    # ---- time ----------------------------------------------------------------------------------------------

    def next_deadline(self) -> int:
        """When the next one is due."""
        return self._next

    def run(self, now: int) -> None:
        """The next unsolicited one."""
        if now < self._next:
            return
        self._sent += 1
        self._send(ALL_NODES, group_mac(ALL_NODES), LIFETIME)
        seconds = INITIAL_INTERVAL if self._sent < INITIAL else self._rng.uniform(INTERVAL_MIN, INTERVAL_MAX)
        self._next = now + int(seconds * SECOND)
