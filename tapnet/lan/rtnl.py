"""The kernel's side of ``tapnet.lan.belongings``: one rtnetlink socket that dumps them and puts them on an interface.

    Kernel.belongings(link) ─► Belongings ─► a file
                                   │ .moved(source, target): the same, naming another interface
    Kernel.move(away, there)  ◄────┘

Every call is idempotent: what is there already, or gone already, is no error. Limits: next-hop objects (``ip nexthop``)
cannot be moved, ``Unmovable`` says so; a temporary IPv6 address (RFC 8981) comes out as an ordinary one with the same
lifetimes. Raises ``KernelError``, an OSError, for all that the kernel refuses.

Ref: rtnetlink(7), include/uapi/linux/{rtnetlink,if_addr,fib_rules,neighbour}.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Interface
from typing import Any

from .belongings import (
    FOREVER,
    TICKS,
    UNKNOWN,
    Belongings,
    Link,
    Message,
    address_key,
    attribute,
    destination,
    hops,
    message_of,
    plain,
    route_keys,
)

AF_INET, AF_INET6 = 2, 10
FAMILIES = (AF_INET, AF_INET6)
ARPHRD_ETHER = 1
_PROTO_KERNEL = 2
_IFA_NODAD, _IFA_NOPREFIXROUTE = 0x02, 0x200
_RTN_UNICAST = 1
_RTM_F_CLONED = 0x200
_IFA_SETTABLE = {2: 0x02 | 0x200 | 0x400, 10: 0x02 | 0x04 | 0x10 | 0x100 | 0x200 | 0x400}
_NUD_PERMANENT, _NTF_PROXY = 0x80, 0x08
_NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 20, 21, 24, 25
_NEWNEIGH, _DELNEIGH, _GETNEIGH, _NEWRULE, _DELRULE = 28, 29, 30, 32, 33
_REQUEST, _ACK, _REPLACE, _EXCL, _CREATE, _APPEND = 1, 4, 0x100, 0x200, 0x400, 0x800
_DUMP = 0x300
_ROUTE_PASSES = 8  # a route may need another one to be there first
_THERE = (errno.EEXIST,)
_GONE = (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO)

_NH_ID = "UNKNOWN30"  # RTA_NH_ID

Step = Callable[[str], None]


class KernelError(OSError):
    """The kernel refused; ``what`` was asked."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, os.strerror(number))
        self.what = what

    def __str__(self) -> str:
        return f"{self.what}: {self.strerror}"


class Unmovable(Exception):
    """Something that belongs to an interface and cannot be moved to another; one line."""


class Kernel:
    """One rtnetlink socket, in the network namespace of this thread. A context manager."""

    def __init__(self, step: Step = lambda what: None) -> None:
        """``step`` is called before each change, and may raise to stop there."""
        from pyroute2 import IPRoute

        self.ipr: Any = IPRoute(groups=0)
        self.ipr.status["nlm_generator"] = False  # answers as tuples, nothing left half read
        self.step = step

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.ipr.close()

    # ---- links ---------------------------------------------------------------------------------------------

    def links(self) -> list[Link]:
        """All of them."""
        return [_link(message) for message in self._dump("get_links")]

    def link(self, name: str) -> Link | None:
        """The interface of that name."""
        return next((link for link in self.links() if link.name == name), None)

    def change_link(self, command: str, what: str, **values: Any) -> None:
        """``ip link COMMAND`` in pyroute2's words. Raises KernelError."""
        self.step(what)
        self.call(what, lambda: self.ipr.link(command, **values))

    # ---- looking -------------------------------------------------------------------------------------------

    def call(self, what: str, call: Callable[[], Any]) -> Any:
        """A call of pyroute2's. Raises KernelError."""
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            return call()
        except NetlinkError as error:
            raise KernelError(abs(int(error.code)), what) from None

    def _dump(self, method: str, **options: Any) -> list[Any]:
        return list(self.call(method, lambda: list(getattr(self.ipr, method)(**options))))

    def _messages(self, method: str, keep: Callable[[Any], bool] = lambda message: True) -> list[Message]:
        """Of both families, those that ``keep`` wants; taking the attributes out is what takes the time."""
        return [message_of(m) for family in FAMILIES for m in self._dump(method, family=family) if keep(m)]

    def _neighbours(self, flags: int) -> list[Message]:
        """Of both families; with NTF_PROXY those that are answered for, which no call of pyroute2's asks for."""
        from pyroute2.netlink.rtnl.ndmsg import ndmsg

        found = []
        for family in FAMILIES:
            ask = ndmsg()
            ask["family"], ask["flags"] = family, flags
            request = lambda ask=ask: list(self.ipr.nlm_request(ask, _GETNEIGH, _REQUEST | _DUMP))  # noqa: E731
            found += [message_of(m) for m in self.call("neighbours", request)]
        return found

    def addresses(self, index: int) -> list[Message]:
        """Of one interface, in the kernel's order."""
        return self._messages("get_addr", lambda m: bool(m["index"] == index))

    def routes(self) -> list[Message]:
        """All routes of all tables that somebody made: not the kernel's own, nor its cache."""
        return self._messages(
            "get_routes", lambda m: m["proto"] != _PROTO_KERNEL and not m["flags"] & _RTM_F_CLONED
        )

    def belongings(self, link: Link) -> Belongings:
        """What ``link`` has. Raises Unmovable."""
        addresses = self.addresses(link.index)
        owned = {attribute(a, "IFA_LOCAL") or attribute(a, "IFA_ADDRESS") for a in addresses}
        routes, watched = [], []
        for route in self.routes():
            if any(hop[0] == link.index for hop in hops(route)):
                strange = [name for name, _ in route["attrs"] if name.startswith(UNKNOWN)]
                if strange:
                    what = (
                        "is by a next-hop object (ip nexthop)" if _NH_ID in strange else f"has {strange[0]}"
                    )
                    raise Unmovable(
                        f"{link.name}: its route {destination(route)} {what}, and cannot be moved"
                    )
                routes.append(route)
            elif attribute(route, "RTA_PREFSRC") in owned:
                watched.append(route)
        rules = [
            rule
            for rule in self._messages("get_rules")
            if link.name in (attribute(rule, "FRA_IIFNAME"), attribute(rule, "FRA_OIFNAME"))
        ]
        neighbours = [
            {**n, "attrs": [a for a in n["attrs"] if a[0] in ("NDA_DST", "NDA_LLADDR")]}
            for flags in (0, _NTF_PROXY)
            for n in self._neighbours(flags)
            if n["ifindex"] == link.index and (n["state"] & _NUD_PERMANENT or n["flags"] & _NTF_PROXY)
        ]
        unique = [n for number, n in enumerate(neighbours) if n not in neighbours[:number]]
        return Belongings(addresses, routes, watched, rules, unique)

    # ---- changing ------------------------------------------------------------------------------------------

    def _send(
        self, what: str, message: Message, type_: int, flags: int, attrs: Iterable[Sequence[Any]]
    ) -> None:
        from pyroute2.netlink.rtnl import fibmsg, ifaddrmsg, ndmsg, rtmsg

        classes = {
            _NEWADDR: ifaddrmsg.ifaddrmsg, _NEWROUTE: rtmsg.rtmsg, _NEWRULE: fibmsg.fibmsg, _NEWNEIGH: ndmsg.ndmsg,
        }  # fmt: skip
        made = classes[type_ & ~3]()
        for name, value in message.items():
            if name != "attrs":
                made[name] = value
        made["attrs"] = [list(pair) for pair in attrs if not pair[0].startswith(UNKNOWN)]
        self.step(what)
        self.call(what, lambda: list(self.ipr.nlm_request(made, type_, _REQUEST | _ACK | flags)))

    def _add(
        self, what: str, message: Message, type_: int, flags: int, attrs: Iterable[Sequence[Any]]
    ) -> None:
        try:
            self._send(what, message, type_, _CREATE | flags, attrs)
        except KernelError as error:
            if error.errno not in _THERE:
                raise

    def _remove(self, what: str, message: Message, type_: int, attrs: Iterable[Sequence[Any]]) -> None:
        try:
            self._send(what, message, type_, 0, attrs)
        except KernelError as error:
            if error.errno not in _GONE:
                raise

    def add_address(self, message: Message) -> None:
        """As it was, without duplicate address detection: it was ours a moment ago."""
        family = message["family"]
        attrs = []
        flags = (attribute(message, "IFA_FLAGS") or 0) & _IFA_SETTABLE[family]
        for name, value in message["attrs"]:
            if name == "IFA_CACHEINFO" and (value["ifa_valid"] == FOREVER == value["ifa_preferred"]):
                continue
            if name not in ("IFA_FLAGS", "IFA_PROTO"):
                attrs.append([name, value])
        what = f"address {attribute(message, 'IFA_LOCAL') or attribute(message, 'IFA_ADDRESS')}"
        head = {**message, "flags": 0}
        quick = flags | _IFA_NODAD if family == AF_INET6 else flags
        self._add(what, head, _NEWADDR, _EXCL, [*attrs, ["IFA_FLAGS", quick]])
        if quick != flags:
            self._send(what, head, _NEWADDR, _REPLACE, [*attrs, ["IFA_FLAGS", flags]])

    def remove_address(self, message: Message) -> None:
        """Idempotent."""
        attrs = [a for a in message["attrs"] if a[0] in ("IFA_LOCAL", "IFA_ADDRESS")]
        self._remove(f"address {attrs[0][1]} away", {**message, "flags": 0}, _DELADDR, attrs)

    def _route_attributes(self, message: Message) -> list[list[Any]]:
        attrs = []
        for name, value in message["attrs"]:
            if name == "RTA_CACHEINFO":
                if value["rta_expires"] > 0:
                    attrs.append(["RTA_EXPIRES", struct.pack("=I", max(value["rta_expires"] // TICKS, 1))])
            else:
                attrs.append([name, value])
        return attrs

    def add_route(self, message: Message) -> None:
        """Beside others of the same destination."""
        attrs = self._route_attributes(message)
        what = f"route {destination(message)}"
        head = {**message, "flags": message["flags"] & 0x4}  # RTNH_F_ONLINK
        try:
            self._send(what, head, _NEWROUTE, _CREATE | _APPEND, attrs)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            self.remove_route(message, source=False)  # an IPv6 route that lost its source address
            self._send(what, head, _NEWROUTE, _CREATE | _APPEND, attrs)

    def remove_route(self, message: Message, source: bool = True) -> None:
        """Idempotent."""
        names = [
            "RTA_TABLE",
            "RTA_DST",
            "RTA_SRC",
            "RTA_PRIORITY",
            "RTA_GATEWAY",
            "RTA_VIA",
            "RTA_OIF",
            "RTA_MULTIPATH",
        ]
        names += ["RTA_PREFSRC"] if source else []
        attrs = [a for a in message["attrs"] if a[0] in names]
        self._remove(f"route {destination(message)} away", {**message, "flags": 0}, _DELROUTE, attrs)

    def ensure_routes(self, wanted: Sequence[Message]) -> None:
        """Add those that are missing, in whatever order works. Raises KernelError."""
        for _ in range(_ROUTE_PASSES):
            there = {key for route in self.routes() for key in route_keys(route)}
            missing = [route for route in wanted if not route_keys(route) <= there]
            failed: list[KernelError] = []
            for route in missing:
                try:
                    self.add_route(route)
                except KernelError as error:
                    failed.append(error)
            if not failed:
                return
            if len(failed) == len(missing):
                raise failed[0]
        raise KernelError(errno.ELOOP, "routes")

    def ensure(self, wanted: Belongings) -> None:
        """Add what is missing of ``wanted`` to the interface that it names."""
        self._addresses(wanted.addresses)
        self.ensure_routes(wanted.routes)
        for rule in wanted.rules:
            self._add("rule", rule, _NEWRULE, _EXCL, rule["attrs"])
        for one in wanted.neighbours:
            self._add("neighbour", one, _NEWNEIGH, _REPLACE, one["attrs"])

    def move(self, away: Belongings, there: Belongings) -> None:
        """Have ``there`` and then no more ``away``: the same on another interface; first the one, then the other."""
        self.ensure(there)
        self.clear(away)
        self.ensure_routes([*there.routes, *there.watched])

    def _addresses(self, wanted: Sequence[Message]) -> None:
        """Have them in this order: which address of a network is the first one decides what a host sends from."""
        if not wanted:
            return
        keys = [address_key(a) for a in wanted]
        there = self.addresses(wanted[0]["index"])
        have = [key for a in there if (key := address_key(a)) in keys and key[0] == 2]
        inet = [a for a in wanted if a["family"] == 2]
        if have and have != keys[: len(have)]:
            for address in inet:
                self.remove_address(address)
        # the kernel puts a new IPv6 address in front
        for address in [*inet, *(a for a in reversed(wanted) if a["family"] != 2)]:
            self.add_address(address)

    def clear(self, had: Belongings) -> None:
        """Take it off the interface that it names. Routes go last: some are gone with their address."""
        for one in had.neighbours:
            self._remove("neighbour away", one, _DELNEIGH, one["attrs"])
        for rule in had.rules:
            self._remove("rule away", rule, _DELRULE, rule["attrs"])
        for address in had.addresses:
            self.remove_address(address)
        for address in had.addresses:
            self._remove_prefix(address)
        for route in had.routes:
            self.remove_route(route)

    def _remove_prefix(self, address: Message) -> None:
        """The route to an IPv6 network that was learnt from a router outlives its last address."""
        if address["family"] != AF_INET6 or (attribute(address, "IFA_FLAGS") or 0) & _IFA_NOPREFIXROUTE:
            return

        def network(one: Message) -> str:
            return str(IPv6Interface(f"{attribute(one, 'IFA_ADDRESS')}/{one['prefixlen']}").network)

        mine, index = network(address), address["index"]
        if any(one["family"] == AF_INET6 and network(one) == mine for one in self.addresses(index)):
            return
        for route in self._messages(
            "get_routes", lambda m: m["proto"] == _PROTO_KERNEL and m["type"] == _RTN_UNICAST
        ):
            if hops(route) == [(index, None)] and f"{attribute(route, 'RTA_DST')}/{route['dst_len']}" == mine:
                self.remove_route(route)


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info is not None else None) or ""
    data = plain(info.get_attr("IFLA_INFO_DATA") or {}) if info is not None else {}
    attrs = data.get("attrs", []) if isinstance(data, dict) else []
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU"),
        flags=message["flags"],
        kind=kind,
        master=message.get_attr("IFLA_MASTER") or 0,
        alias=message.get_attr("IFLA_IFALIAS") or "",
        ether=message["ifi_type"] == ARPHRD_ETHER,
        data=tuple((name, value) for name, value in attrs),
    )
