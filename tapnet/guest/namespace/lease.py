"""Keep DHCP leases on a guest's interfaces, by pyroute2's client. Runs in a helper process in the guest's
namespace.

    carrier ──up──► DISCOVER ─► REQUEST ─► ACK ─► address, route, MTU; tapnet is told ─► renew, rebind ...
                                                      carrier lost and found again ─► DISCOVER anew

The client brings the protocol (RFC 2131 states, T1 and T2, retransmission); this file brings what a lease
does to the interface. A new lease replaces what the former one set, whatever else was configured stays.
Addresses are kept while the carrier is away and taken off only when another lease replaces them or the lease
expires: connections survive a short blink. No RELEASE at the end: the interface ends with the process.

IPv6 is the kernel's own, but it asks for routers only when an interface comes up for the first time: a carrier that
was lost and found again may lead to another network, so this file asks (``solicit``) there.

The first DISCOVER is repeated after ``RETRY_FIRST`` seconds, doubling up to ``RETRY_MAX`` (RFC 2131 4.1
begins at 4 s, which is for a crowded Ethernet and would cost that on the first lost frame).

Told to tapnet: ``{"lease": {"ifname", "address", "prefix", "routers", "nameservers", "domain", "search",
"server", "seconds"}}`` and ``{"unleased": {"ifname"}}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyroute2.dhcp.client import AsyncDHCPClient, ClientConfig
from pyroute2.dhcp.enums.dhcp import Option
from pyroute2.dhcp.fsm import State
from pyroute2.dhcp.hooks import Trigger, hook
from pyroute2.dhcp.leases import Lease
from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.rtnl import RTMGRP_LINK

from ...system.patience import limit
from .links import NicSpec

RETRY_FIRST, RETRY_MAX = 0.5, 16.0
MTU_LEAST = 576
HOOK_SECONDS = 10.0  # for what is done with a lease
SOLICITATIONS, SOLICIT_EVERY = 2, 4.0  # RFC 4861 10: RTR_SOLICITATION_INTERVAL
SEARCH_MAX = 16
_LABELS_MAX = 127
_DOMAIN = re.compile(r"[A-Za-z0-9_.-]+")
_POINTER = 0xC0
_METRIC_STEP = 100
_PARAMETERS = (
    Option.SUBNET_MASK,
    Option.ROUTER,
    Option.NAME_SERVER,
    Option.DOMAIN_NAME,
    Option.INTERFACE_MTU,
    Option.BROADCAST_ADDRESS,
    Option.LEASE_TIME,
    Option.RENEWAL_TIME,
    Option.REBINDING_TIME,
    Option.DOMAIN_SEARCH,
)

Notify = Callable[[dict[str, Any]], None]


def _intervals() -> Iterator[float]:
    delay = RETRY_FIRST
    while True:
        yield delay * random.uniform(0.9, 1.1)
        delay = min(delay * 2, RETRY_MAX)


class _Unsaved(Lease):  # type: ignore[misc]
    """A lease that lives in memory only."""

    def dump(self) -> None:
        pass

    @classmethod
    def load(cls, interface: str) -> None:
        return None


def _option(lease: Lease, name: str, default: Any) -> Any:
    value = lease.ack["options"].get(name)
    return default if value is None else value


def search_list(data: bytes) -> list[str]:
    """The names of a domain search option (RFC 3397: DNS names, compressed within the option);

    [] if malformed.
    """
    names: list[str] = []
    at = 0
    while at < len(data) and len(names) < SEARCH_MAX:
        labels: list[str] = []
        here, after, jumps = at, -1, 0
        while True:
            if here >= len(data):
                return []
            size = data[here]
            if size == 0:
                break
            if size >= _POINTER:
                if here + 1 >= len(data) or jumps >= SEARCH_MAX:
                    return []
                after = here + 2 if after < 0 else after
                here = (size & ~_POINTER) << 8 | data[here + 1]
                jumps += 1
                continue
            label = data[here + 1 : here + 1 + size]
            if not label.replace(b"-", b"").replace(b"_", b"").isalnum() or len(labels) >= _LABELS_MAX:
                return []
            labels.append(label.decode())
            here += 1 + size
        at = after if after >= 0 else here + 1
        if labels:
            names.append(".".join(labels))
    return names


_SOLICITATION = bytes((133, 0, 0, 0, 0, 0, 0, 0))  # its checksum is the kernel's


def solicit(index: int) -> None:
    """Ask for routers on an interface (RFC 4861 4.1). Raises OSError: there is no IPv6 or no address yet."""
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.sendto(_SOLICITATION, ("ff02::2", 0, 0, index))


def _text(value: str | bytes) -> str:
    return (value.decode(errors="replace") if isinstance(value, bytes) else value).rstrip("\0")


@dataclass(slots=True)
class _Applied:
    """What the present lease has set on the interface."""

    address: str
    prefix: int
    router: str | None


@dataclass
class Keeper:
    """One interface's lease."""

    nic: NicSpec
    order: int  # the first interface's default route wins
    notify: Notify
    applied: _Applied | None = None
    carrier: bool = False
    client: AsyncDHCPClient | None = None
    index: int = 0
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    asking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Get and keep a lease for ever."""

        @hook(Trigger.BOUND, Trigger.RENEWED, Trigger.REBOUND)  # type: ignore[untyped-decorator]
        async def got(lease: Lease) -> None:
            try:  # the client would only log it
                async with self.busy:
                    await self.apply(lease)
            except Exception as error:
                self.notify({"error": f"{self.nic.ifname}: cannot use the lease of {lease.ip}: {error!r}"})

        @hook(Trigger.EXPIRED, Trigger.UNBOUND)  # type: ignore[untyped-decorator]
        async def lost(lease: Lease) -> None:
            async with self.busy:
                await self.withdraw()
            self.notify({"unleased": {"ifname": self.nic.ifname}})

        config = ClientConfig(
            interface=self.nic.ifname,
            lease_type=_Unsaved,
            hooks=(got, lost),
            requested_parameters=_PARAMETERS,
            retransmission=_intervals,
            release=False,
            handle_signals=False,
            host_name=None,
            vendor_id=None,
            hook_timeout=limit(HOOK_SECONDS),
        )
        async with AsyncIPRoute() as monitor:
            await monitor.bind(RTMGRP_LINK)
            found = await monitor.link_lookup(ifname=self.nic.ifname)
            if not found:
                return
            self.index = found[0]
            async with AsyncIPRoute() as ipr:
                link = await ipr.link("get", index=self.index)
            self.carrier = bool(link and link[0].get("IFLA_CARRIER"))
            async with AsyncDHCPClient(config) as self.client:
                if self.carrier:
                    await self.client.bootstrap()
                while True:
                    async for message in monitor.get():
                        await self._link(message)

    async def _link(self, message: Any) -> None:
        if message.get("index") != self.index:
            return
        carrier = message.get("IFLA_CARRIER")
        if carrier is None or bool(carrier) == self.carrier:
            return
        self.carrier = bool(carrier)
        if self.asking is not None:
            self.asking.cancel()
            self.asking = None
        client = self.client
        if not self.carrier or client is None:
            return
        self.asking = asyncio.ensure_future(self._ask_for_routers())
        if client.state is State.INIT:
            await client.bootstrap()
        else:
            await client.reset()

    async def _ask_for_routers(self) -> None:
        for _ in range(SOLICITATIONS):
            with contextlib.suppress(OSError):
                solicit(self.index)
            await asyncio.sleep(SOLICIT_EVERY)

    async def apply(self, lease: Lease) -> None:
        """Make the interface what the lease says, and tell."""
        routers: list[str] = list(_option(lease, "router", ()))
        new = _Applied(lease.ip, lease.prefixlen, routers[0] if routers else None)
        old = self.applied
        mtu = _option(lease, "interface_mtu", None)
        async with AsyncIPRoute() as ipr:
            if old is not None and old.address != new.address:
                await self.withdraw()
            if mtu is not None and MTU_LEAST <= mtu < self.nic.mtu:
                with contextlib.suppress(Exception):
                    await ipr.link("set", index=self.index, mtu=mtu)
            address = {"index": self.index, "address": new.address, "prefixlen": new.prefix}
            if broadcast := _option(lease, "broadcast_address", None):
                address["broadcast"] = broadcast
            await ipr.addr("replace", **address)
            if old is not None and old.router is not None and old.router != new.router:
                with contextlib.suppress(Exception):
                    await ipr.route("del", **self._route(old.router))
            if new.router is not None:
                await ipr.route("replace", **self._route(new.router))
        self.applied = new
        domain = _text(_option(lease, "domain_name", ""))
        self.notify(
            {
                "lease": {
                    "ifname": self.nic.ifname,
                    "address": new.address,
                    "prefix": new.prefix,
                    "routers": routers,
                    "nameservers": list(_option(lease, "name_server", ())),
                    "domain": domain if _DOMAIN.fullmatch(domain) else "",
                    "search": search_list(bytes(_option(lease, "domain_search", b""))),
                    "server": _option(lease, "server_id", ""),
                    "seconds": _option(lease, "lease_time", 0),
                }
            }
        )

    def _route(self, router: str) -> dict[str, Any]:
        route = {"dst": "0.0.0.0/0", "gateway": router, "oif": self.index, "flags": ["onlink"]}
        if self.order:
            route["priority"] = self.order * _METRIC_STEP
        return route

    async def withdraw(self) -> None:
        """Take off what the lease had set (its route goes with the address)."""
        old, self.applied = self.applied, None
        if old is None:
            return
        async with AsyncIPRoute() as ipr:
            if old.router is not None:
                with contextlib.suppress(Exception):
                    await ipr.route("del", **self._route(old.router))
            with contextlib.suppress(Exception):
                await ipr.addr("del", index=self.index, address=old.address, prefixlen=old.prefix)


async def keep(nics: Sequence[NicSpec], notify: Notify) -> None:
    """Keep leases on all of ``nics`` that ask for one. Never returns; raises what stops a client."""
    keepers = [Keeper(nic, order, notify) for order, nic in enumerate(nics) if nic.dhcp]
    await asyncio.gather(*(keeper.run() for keeper in keepers))
