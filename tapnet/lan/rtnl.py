"""Read the network configuration of an interface (``tapnet.lan.belongings``) from the kernel, and put it on
another one, by one rtnetlink socket.

    Kernel.belongings(link) ─► Belongings ─► a file
                                   │ .moved(source, target): the same, naming another interface
    Kernel.move(away, there)  ◄────┘

Every call is idempotent: to add what exists, or to remove what does not, is no error. Limits: next-hop
objects (``ip nexthop``) cannot be moved, ``Unmovable`` says so; a temporary IPv6 address (RFC 8981) comes out
as an ordinary one with the same lifetimes. Every other attribute that the kernel reports of an object is
given back, known here or not (``tapnet.lan.wire``). Raises ``KernelError``, an OSError, for every request
that the kernel refuses.

Ref: rtnetlink(7), include/uapi/linux/{rtnetlink,if_addr,fib_rules,neighbour}.h.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from ipaddress import IPv6Interface, ip_address
from typing import Any

from . import wire
from .belongings import (
    FOREVER,
    TICKS,
    Belongings,
    Link,
    Message,
    address_key,
    attribute,
    destination,
    hops,
    plain,
    route_keys,
)

AF_INET, AF_INET6 = 2, 10
FAMILIES = (AF_INET, AF_INET6)
ARPHRD_ETHER = 1
_PROTO_KERNEL = 2
_IFA_NODAD, _IFA_DEPRECATED, _IFA_NOPREFIXROUTE = 0x02, 0x20, 0x200
_RTN_UNICAST = 1
_RTM_F_CLONED = 0x200
_IFA_SETTABLE = {2: 0x02 | 0x200 | 0x400, 10: 0x02 | 0x04 | 0x10 | 0x100 | 0x200 | 0x400}
_LLADDR, _EVERYBODY = "2", "ff" * 6  # NDA_LLADDR
_IFF_NOARP = 0x80
_NUD_NONE, _NUD_NOARP, _NUD_PERMANENT = 0, 0x40, 0x80
_NTF_PROXY, _NTF_EXT_LEARNED, _NTF_EXT_MANAGED = 0x08, 0x10, 0x01
_NEIGHBOUR_VOLATILE = ("NDA_CACHEINFO", "NDA_PROBES")
_FIB_RULE_SETTABLE = 0x1 | 0x2  # permanent, invert; the kernel reports state by the others
_RTNH_SETTABLE = 0x2 | 0x4  # pervasive, onlink
_ACK, _REPLACE, _EXCL, _CREATE, _APPEND = 4, 0x100, 0x200, 0x400, 0x800
_ROUTE_PASSES = 8  # a route may need another one to be there first
_THERE = (errno.EEXIST,)
_GONE = (errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO)

Step = Callable[[str], None]


class KernelError(OSError):
    """The kernel has refused a request; ``what`` says which."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, os.strerror(number))
        self.what = what

    def __str__(self) -> str:
        return f"{self.what}: {self.strerror}"


class Unmovable(Exception):
    """An interface has something that cannot be moved to another; the text is one line."""


class Kernel:
    """This is one rtnetlink socket, in the network namespace of this thread. It is a context manager."""

    def __init__(self, step: Step = lambda what: None) -> None:
        """Open the sockets. ``step`` is called before each change, and may raise to stop there."""
        from pyroute2 import IPRoute

        self.netlink = wire.Netlink()
        self.ipr: Any = IPRoute(groups=0)  # used for links only
        # answers are tuples instead of generators, so that none is left half read
        self.ipr.status["nlm_generator"] = False
        self.step = step

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.ipr.close()
        self.netlink.close()

    # ---- links ---------------------------------------------------------------------------------------------

    def links(self) -> list[Link]:
        """Return all interfaces of the network namespace. Raises KernelError."""
        return [_link(message) for message in self._dump("get_links")]

    def link(self, name: str) -> Link | None:
        """Return the interface of that name, or None."""
        return next((link for link in self.links() if link.name == name), None)

    def change_link(self, command: str, what: str, **values: Any) -> None:
        """Run ``ip link COMMAND`` in pyroute2's words. Raises KernelError."""
        self.step(what)
        self.call(what, lambda: self.ipr.link(command, **values))

    # ---- looking -------------------------------------------------------------------------------------------

    def call(self, what: str, call: Callable[[], Any]) -> Any:
        """Make a call of pyroute2 and translate its errors. Raises KernelError."""
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            return call()
        except NetlinkError as error:
            raise KernelError(abs(int(error.code)), what) from None

    def _dump(self, method: str) -> list[Any]:
        return list(self.call(method, lambda: list(getattr(self.ipr, method)())))

    def _messages(
        self,
        kind: wire.Kind,
        what: str,
        keep: Callable[[Message], bool] = lambda header: True,
        families: Sequence[int] = FAMILIES,
        **ask: int,
    ) -> list[Message]:
        """Return the messages of both families whose header ``keep`` wants; only those are decoded, because
        decoding attributes takes most of the time.
        """
        found = []
        for family in families:
            body = wire.encode(kind, {"family": family, "attrs": [], **ask})
            try:
                bodies = self.netlink.dump(kind, body)
            except OSError as error:
                raise KernelError(error.errno or errno.EIO, what) from None
            for one in bodies:
                head = wire.header(kind, one)
                # a kernel without IPv6 answers with all families that it has
                if family in (0, head["family"]) and keep(head):
                    found.append(wire.decode(kind, one))
        return found

    def _nexthops(self, link: Link) -> None:
        """Check that no next-hop object leaves by ``link``. Raises Unmovable."""
        try:
            objects = self._messages(wire.NEXTHOP, "next hops", families=(0,))
        except KernelError as error:
            if error.errno != errno.EOPNOTSUPP:  # before Linux 5.3
                raise
            return
        for one in objects:
            if attribute(one, "NHA_OIF") == link.index:
                raise Unmovable(
                    f"{link.name}: has next-hop object {attribute(one, 'NHA_ID')} (ip nexthop), which cannot be moved"
                )

    def _neighbours(self, link: Link) -> list[Message]:
        """Return the neighbours of one interface that were set from outside the kernel: permanent, without
        ARP, learnt outside, kept alive, or proxies.
        """
        found = []
        for flags in (0, _NTF_PROXY):  # the kernel lists proxies only when asked for them
            for one in self._messages(
                wire.NEIGHBOUR, "neighbours", lambda head: bool(head["ifindex"] == link.index), flags=flags
            ):
                if _is_set(one, link):
                    found.append(_neighbour(one))
        return [one for number, one in enumerate(found) if one not in found[:number]]

    def addresses(self, index: int) -> list[Message]:
        """Return the addresses of one interface, in the kernel's order."""
        return self._messages(wire.ADDRESS, "addresses", lambda m: bool(m["index"] == index))

    def routes(self) -> list[Message]:
        """Return the routes of all tables, except the kernel's own and its cache."""
        return self._messages(
            wire.ROUTE, "routes", lambda m: m["proto"] != _PROTO_KERNEL and not m["flags"] & _RTM_F_CLONED
        )

    def belongings(self, link: Link) -> Belongings:
        """Return the network configuration of ``link``. Raises Unmovable."""
        addresses = self.addresses(link.index)
        owned = {attribute(a, "IFA_LOCAL") or attribute(a, "IFA_ADDRESS") for a in addresses}
        routes, watched = [], []
        for route in self.routes():
            if any(hop[0] == link.index for hop in hops(route)):
                if attribute(route, "RTA_NH_ID"):
                    what = "is by a next-hop object (ip nexthop)"
                    raise Unmovable(
                        f"{link.name}: its route {destination(route)} {what}, and cannot be moved"
                    )
                routes.append(route)
            elif attribute(route, "RTA_PREFSRC") in owned:
                watched.append(route)
        self._nexthops(link)
        rules = [
            rule
            for rule in self._messages(wire.RULE, "rules")
            if link.name in (attribute(rule, "FRA_IIFNAME"), attribute(rule, "FRA_OIFNAME"))
        ]
        return Belongings(addresses, routes, watched, rules, self._neighbours(link))

    # ---- changing ------------------------------------------------------------------------------------------

    def _send(self, what: str, kind: wire.Kind, message: Message, flags: int, delete: bool = False) -> None:
        self.step(what)
        try:
            self.netlink.send(kind.delete if delete else kind.new, _ACK | flags, wire.encode(kind, message))
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, what) from None

    def _add(self, what: str, kind: wire.Kind, message: Message, flags: int) -> None:
        try:
            self._send(what, kind, message, _CREATE | flags)
        except KernelError as error:
            if error.errno not in _THERE:
                raise

    def _remove(self, what: str, kind: wire.Kind, message: Message) -> None:
        try:
            self._send(what, kind, message, 0, delete=True)
        except KernelError as error:
            if error.errno not in _GONE:
                raise

    def add_address(self, message: Message) -> None:
        """Add an address with its former flags, but without duplicate address detection, because it was ours
        a moment ago.
        """
        family = message["family"]
        attrs = []
        had = attribute(message, "IFA_FLAGS") or 0
        flags = had & _IFA_SETTABLE[family]
        for name, value in message["attrs"]:
            if name == "IFA_CACHEINFO" and had & _IFA_DEPRECATED and value["ifa_preferred"] == FOREVER:
                value = {
                    **value,
                    "ifa_preferred": 0,
                }  # the kernel does not report it for an IPv4 address that is valid for ever
            if name == "IFA_CACHEINFO" and (value["ifa_valid"] == FOREVER == value["ifa_preferred"]):
                continue
            if name != "IFA_FLAGS":
                attrs.append([name, value])
        what = f"address {attribute(message, 'IFA_LOCAL') or attribute(message, 'IFA_ADDRESS')}"

        def flagged(value: int) -> Message:
            return {**message, "flags": 0, "attrs": [*attrs, ["IFA_FLAGS", value]]}

        quick = flags | _IFA_NODAD if family == AF_INET6 else flags
        self._add(what, wire.ADDRESS, flagged(quick), _EXCL)
        if quick != flags:
            self._send(what, wire.ADDRESS, flagged(flags), _REPLACE)

    def remove_address(self, message: Message) -> None:
        """Remove an address from the interface that the message names. Idempotent."""
        attrs = [a for a in message["attrs"] if a[0] in ("IFA_LOCAL", "IFA_ADDRESS")]
        self._remove(f"address {attrs[0][1]} away", wire.ADDRESS, {**message, "flags": 0, "attrs": attrs})

    def _route_attributes(self, message: Message) -> list[list[Any]]:
        attrs = []
        for name, value in message["attrs"]:
            if name == "RTA_CACHEINFO":
                if value["rta_expires"] > 0:
                    attrs.append(["RTA_EXPIRES", max(value["rta_expires"] // TICKS, 1)])
            elif name == "RTA_MULTIPATH":
                attrs.append([name, [{**hop, "flags": hop["flags"] & _RTNH_SETTABLE} for hop in value]])
            else:
                attrs.append([name, value])
        return attrs

    def add_route(self, message: Message) -> None:
        """Add a route beside others of the same destination. Raises KernelError."""
        what = f"route {destination(message)}"
        made = {
            **message, "flags": message["flags"] & _RTNH_SETTABLE, "attrs": self._route_attributes(message),
        }  # fmt: skip
        try:
            self._send(what, wire.ROUTE, made, _CREATE | _APPEND)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
            self.remove_route(message, source=False)  # an IPv6 route that lost its source address
            self._send(what, wire.ROUTE, made, _CREATE | _APPEND)

    def remove_route(self, message: Message, source: bool = True) -> None:
        """Remove a route; without ``source``, whatever its source address is. Idempotent."""
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
        self._remove(
            f"route {destination(message)} away", wire.ROUTE, {**message, "flags": 0, "attrs": attrs}
        )

    def ensure_routes(self, wanted: Sequence[Message]) -> None:
        """Add the routes that are missing, in whatever order works. Raises KernelError."""
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
            self._add("rule", wire.RULE, {**rule, "flags": rule["flags"] & _FIB_RULE_SETTABLE}, _EXCL)
        for one in wanted.neighbours:
            self._add("neighbour", wire.NEIGHBOUR, one, _REPLACE)

    def move(self, away: Belongings, there: Belongings) -> None:
        """Add ``there``, then remove ``away``: the same configuration on another interface."""
        self.ensure(there)
        self.clear(away)
        self.ensure_routes([*there.routes, *there.watched])

    def _addresses(self, wanted: Sequence[Message]) -> None:
        """Add the addresses in this order, because the first address of a network is the source that the host
        uses.
        """
        if not wanted:
            return
        keys = [address_key(a) for a in wanted]
        there = self.addresses(wanted[0]["index"])
        have = [key for a in there if (key := address_key(a)) in keys and key[0] == 2]
        inet = [a for a in wanted if a["family"] == 2]
        if have and have != keys[: len(have)]:
            for address in inet:
                self.remove_address(address)
        # the kernel puts a new IPv6 address before the others
        for address in [*inet, *(a for a in reversed(wanted) if a["family"] != 2)]:
            self.add_address(address)

    def clear(self, had: Belongings) -> None:
        """Remove ``had`` from the interface that it names. Routes go last, because some vanish with their
        address.
        """
        for one in had.neighbours:
            self._remove("neighbour away", wire.NEIGHBOUR, one)
        for rule in had.rules:
            self._remove("rule away", wire.RULE, rule)
        for address in had.addresses:
            self.remove_address(address)
        for address in had.addresses:
            self._remove_prefix(address)
        for route in had.routes:
            self.remove_route(route)

    def _remove_prefix(self, address: Message) -> None:
        """Remove the route to an IPv6 network that was learnt from a router, because it outlives the
        network's last address.
        """
        if address["family"] != AF_INET6 or (attribute(address, "IFA_FLAGS") or 0) & _IFA_NOPREFIXROUTE:
            return

        def network(one: Message) -> str:
            return str(IPv6Interface(f"{attribute(one, 'IFA_ADDRESS')}/{one['prefixlen']}").network)

        mine, index = network(address), address["index"]
        if any(one["family"] == AF_INET6 and network(one) == mine for one in self.addresses(index)):
            return
        for route in self._messages(
            wire.ROUTE, "routes", lambda m: m["proto"] == _PROTO_KERNEL and m["type"] == _RTN_UNICAST
        ):
            if hops(route) == [(index, None)] and f"{attribute(route, 'RTA_DST')}/{route['dst_len']}" == mine:
                self.remove_route(route)


def _is_set(neighbour: Message, link: Link) -> bool:
    """Tell whether a neighbour was set from outside the kernel, which itself makes entries without ARP for
    multicasts, broadcasts and links without ARP.
    """
    state, flags = neighbour["state"], neighbour["flags"]
    if state & _NUD_PERMANENT or flags & (_NTF_PROXY | _NTF_EXT_LEARNED):
        return True
    if (attribute(neighbour, "NDA_FLAGS_EXT") or 0) & _NTF_EXT_MANAGED:
        return True
    if not state & _NUD_NOARP or link.flags & _IFF_NOARP:
        return False
    target = ip_address(attribute(neighbour, "NDA_DST"))
    return not (target.is_multicast or target.is_unspecified or attribute(neighbour, _LLADDR) == _EVERYBODY)


def _neighbour(one: Message) -> Message:
    """Return a neighbour as it is to be set: a proxy becomes permanent, to stay when the carrier goes; one
    that the kernel keeps alive is resolved again.
    """
    attrs = [a for a in one["attrs"] if a[0] not in _NEIGHBOUR_VOLATILE]
    state = one["state"]
    if one["flags"] & _NTF_PROXY:
        state = _NUD_PERMANENT
    elif (attribute(one, "NDA_FLAGS_EXT") or 0) & _NTF_EXT_MANAGED:
        state = _NUD_NONE
        attrs = [a for a in attrs if a[0] != _LLADDR]
    return {**one, "state": state, "attrs": attrs}


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
