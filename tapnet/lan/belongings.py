"""This file holds the network configuration of an interface as plain data: taken from one interface, kept in
a file, put on another.

``Belongings``: an interface's addresses, the routes of all tables that leave by it (also as one of several next hops), the
policy rules that name it, its permanent and proxy neighbours, and routes of other interfaces that use one of its addresses
as their source: the kernel forgets those when the address goes.

A message is a dictionary: the header's fields and ``attrs``, a list of [NAME, value] (``tapnet.lan.wire``).
Routes that the kernel makes by itself (of protocol ``kernel``: connected networks, local and broadcast
addresses) come with the addresses and are left out.

Ref: rtnetlink(7), include/uapi/linux/{rtnetlink,if_addr,fib_rules,neighbour}.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]

IFF_UP = 0x1
FOREVER = 0xFFFFFFFF  # lifetime of an address
TICKS = 100  # USER_HZ: the unit of rta_expires


@dataclass(frozen=True, slots=True)
class Link:
    """This describes a network interface, as RTM_NEWLINK reports it."""

    name: str
    index: int
    mac: str
    mtu: int
    flags: int
    kind: str = ""
    master: int = 0
    alias: str = ""
    ether: bool = True
    data: tuple[tuple[str, Any], ...] = ()  # the attributes of IFLA_INFO_DATA, which depend on the kind

    @property
    def up(self) -> bool:
        """Tell whether the interface is administratively up."""
        return bool(self.flags & IFF_UP)


@dataclass(frozen=True, slots=True)
class Belongings:
    """This is the network configuration of an interface. ``watched`` is the routes of other interfaces that
    may vanish when it moves.
    """

    addresses: list[Message] = field(default_factory=list)
    routes: list[Message] = field(default_factory=list)
    watched: list[Message] = field(default_factory=list)
    rules: list[Message] = field(default_factory=list)
    neighbours: list[Message] = field(default_factory=list)

    def moved(self, source: Link, target: Link) -> Belongings:
        """Return a copy that names ``target`` wherever this one names ``source``."""

        def indexed(message: Message, *names: str) -> Message:
            return _renumbered(message, source.index, target.index, names)

        def ruled(message: Message) -> Message:
            attrs = [
                [n, target.name if n in ("FRA_IIFNAME", "FRA_OIFNAME") and v == source.name else v]
                for n, v in message["attrs"]
            ]
            return {**message, "attrs": attrs}

        return Belongings(
            [_relabelled(indexed(a), source.name, target.name) for a in self.addresses],
            [indexed(r, "RTA_OIF", "RTA_IIF") for r in self.routes],
            self.watched,
            [ruled(r) for r in self.rules],
            [indexed(n) for n in self.neighbours],
        )

    def aged(self, seconds: float) -> Belongings:
        """Return a copy as it is after ``seconds``: with shorter lifetimes."""
        gone = int(seconds)

        def left(value: int) -> int:
            return value if value in (0, FOREVER) else max(value - gone, 1)

        def address(message: Message) -> Message:
            attrs = [
                [n, {**v, "ifa_preferred": left(v["ifa_preferred"]), "ifa_valid": left(v["ifa_valid"])}]
                if n == "IFA_CACHEINFO"
                else [n, v]
                for n, v in message["attrs"]
            ]
            return {**message, "attrs": attrs}

        def route(message: Message) -> Message:
            attrs = [
                [n, {**v, "rta_expires": max(v["rta_expires"] - gone * TICKS, TICKS)}]
                if n == "RTA_CACHEINFO" and v["rta_expires"]
                else [n, v]
                for n, v in message["attrs"]
            ]
            return {**message, "attrs": attrs}

        return replace(
            self, addresses=[address(a) for a in self.addresses], routes=[route(r) for r in self.routes]
        )

    def without(self, other: Belongings) -> Belongings:
        """Return the part that ``other`` does not have."""
        there = {address_key(a) for a in other.addresses}
        routes = {key for r in other.routes for key in route_keys(r)}
        return Belongings(
            [a for a in self.addresses if address_key(a) not in there],
            [r for r in self.routes if not route_keys(r) <= routes],
            [],
            [r for r in self.rules if r not in other.rules],
            [n for n in self.neighbours if n not in other.neighbours],
        )

    def plus(self, other: Belongings) -> Belongings:
        """Return the lists of both, those of ``other`` behind ours."""
        lists = {key: getattr(self, key) + getattr(other, key) for key in self.__dataclass_fields__}
        return Belongings(**lists)

    def to_json(self) -> dict[str, list[Message]]:
        """Return the lists as a dictionary that JSON can carry."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, list[Message]]) -> Belongings:
        """Make a Belongings from the dictionary that ``to_json`` returned."""
        return cls(**data)

    def count(self) -> str:
        """Return the numbers of addresses, routes and rules as text for a message."""
        parts = [(self.addresses, "address", "es"), (self.routes, "route", "s"), (self.rules, "rule", "s")]
        return ", ".join(f"{len(what)} {word}{end * (len(what) != 1)}" for what, word, end in parts)


def plain(value: Any) -> Any:
    """Convert pyroute2's decoded values to values that JSON has."""
    if isinstance(value, dict):
        return {
            key: [[str(a[0]), plain(a[1])] for a in what] if key == "attrs" else plain(what)
            for key, what in value.items()
            if key not in ("header", "event")
        }
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def attribute(message: Message, name: str) -> Any:
    """Return the value of an attribute of a message, or None."""
    return next((v for n, v in message["attrs"] if n == name), None)


def _renumbered(message: Message, old: int, new: int, names: Sequence[str]) -> Message:
    """Return ``message`` with interface ``new`` instead of ``old``, in its header and in attributes
    ``names``.
    """
    made = dict(message)
    for key in ("index", "ifindex"):
        if made.get(key) == old:
            made[key] = new
    attrs = []
    for name, value in message["attrs"]:
        if name in names and value == old:
            value = new
        elif name == "RTA_MULTIPATH":
            value = [{**hop, "oif": new if hop["oif"] == old else hop["oif"]} for hop in value]
        attrs.append([name, value])
    made["attrs"] = attrs
    return made


def _relabelled(message: Message, old: str, new: str) -> Message:
    """Return ``message`` with the label of its IPv4 address renamed, because labels begin with the
    interface's name (ifconfig eth0:1).
    """
    attrs = []
    for name, value in message["attrs"]:
        if name == "IFA_LABEL" and (value == old or value.startswith(old + ":")):
            value = (new + value[len(old) :])[:15]
        attrs.append([name, value])
    return {**message, "attrs": attrs}


def address_key(message: Message) -> tuple[Any, ...]:
    """Return a key that tells one address of an interface from another."""
    local = attribute(message, "IFA_LOCAL") or attribute(message, "IFA_ADDRESS")
    return message["family"], local, attribute(message, "IFA_ADDRESS"), message["prefixlen"]


def hops(message: Message) -> list[tuple[Any, ...]]:
    """Return a route's next hops as (interface, gateway)."""
    several = attribute(message, "RTA_MULTIPATH")
    if several is None:
        via = attribute(message, "RTA_VIA")
        gateway = attribute(message, "RTA_GATEWAY") or (via and via["addr"])
        return [(attribute(message, "RTA_OIF"), gateway)]
    found = []
    for hop in several:
        via = attribute(hop, "RTA_VIA")
        found.append((hop["oif"], attribute(hop, "RTA_GATEWAY") or (via and via["addr"])))
    return found


def route_keys(message: Message) -> set[tuple[Any, ...]]:
    """Return one key for each next hop of a route."""
    head = (
        message["family"], attribute(message, "RTA_TABLE") or message["table"], message["tos"], message["type"],
        attribute(message, "RTA_DST"), message["dst_len"], attribute(message, "RTA_SRC"), message["src_len"],
        attribute(message, "RTA_PRIORITY"), attribute(message, "RTA_PREFSRC"),
    )  # fmt: skip
    return {(*head, *hop) for hop in hops(message)}


def destination(message: Message) -> str:
    """Return a route's destination as text for a message."""
    target = attribute(message, "RTA_DST")
    return f"{target}/{message['dst_len']}" if target else "default"
