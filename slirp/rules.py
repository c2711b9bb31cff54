"""What guests may reach: ``allow=`` and ``deny=``, one ordered list for both families.

The first rule that matches decides; where none does, everything is allowed, or nothing under ``restrict``. A rule
looks at the destination as the guest names it (10.0.2.2 is the host's loopback, 10.0.2.3 port 53 the name server) and
is asked once for a flow: a TCP connection, a UDP port's destination, an echo request; never for each packet of one. The net's
own services (DHCP, TFTP), and what an administrator leads in or out by a redirection, are not asked about.

A rule with ports concerns TCP and UDP only. ``icmp`` means echo of both families.

Ref: RFC 1812 5.3.9 (filtering).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from .wire.ipv4 import PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP

PROTOCOLS = {"tcp": (PROTO_TCP,), "udp": (PROTO_UDP,), "icmp": (PROTO_ICMP, PROTO_ICMPV6)}
RULES = 256


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the list. ``ports`` is inclusive; None: any, as with ``protocol`` (tcp, udp, icmp)."""

    allow: bool
    protocol: str | None
    net: IPv4Network | IPv6Network
    ports: tuple[int, int] | None = None
    text: str = ""


class _Line:
    """A rule, ready to be asked."""

    __slots__ = ("allow", "first", "hits", "last", "protocols", "rule", "shift", "size", "value")

    def __init__(self, rule: Rule) -> None:
        net = rule.net
        self.rule = rule
        self.allow = rule.allow
        self.size = len(net.network_address.packed)
        self.shift = net.max_prefixlen - net.prefixlen
        self.value = int(net.network_address) >> self.shift
        protocols = PROTOCOLS[rule.protocol] if rule.protocol else sum(PROTOCOLS.values(), ())
        if rule.ports is not None:
            protocols = tuple(p for p in protocols if p in (PROTO_TCP, PROTO_UDP))
        self.protocols = frozenset(protocols)
        self.first, self.last = rule.ports or (0, 65535)
        self.hits = 0


class Rules:
    """The list of one stack. Raises ValueError if it is too long."""

    def __init__(self, rules: Sequence[Rule], restrict: bool) -> None:
        if len(rules) > RULES:
            raise ValueError(
                f"{'allow' if rules[RULES].allow else 'deny'}={rules[RULES].text}: more than {RULES} rules"
            )
        self._lines = [_Line(rule) for rule in rules]
        self._otherwise = not restrict
        self.otherwise_hits = 0

    def permits(self, protocol: int, dst: bytes, port: int = 0) -> bool:
        """Whether a guest may open a flow to ``dst`` (4 or 16 bytes); counts it."""
        number, size = int.from_bytes(dst, "big"), len(dst)
        for line in self._lines:
            if (
                size == line.size
                and protocol in line.protocols
                and number >> line.shift == line.value
                and line.first <= port <= line.last
            ):
                line.hits += 1
                return line.allow
        self.otherwise_hits += 1
        return self._otherwise

    def rows(self) -> list[dict[str, Any]]:
        """The list with its counters, JSON-able; the last row (``text`` is "") is what else there was. [] without rules."""
        if not self._lines:
            return []
        rows: list[dict[str, Any]] = [
            {"action": "allow" if line.allow else "deny", "text": line.rule.text, "hits": line.hits}
            for line in self._lines
        ]
        otherwise = "allow" if self._otherwise else "deny"
        return [*rows, {"action": otherwise, "text": "", "hits": self.otherwise_hits}]
