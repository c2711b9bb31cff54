"""Which address the guest of a rule has: redirections name guests by address, MAC, DHCP host name, or not at all.

    address      itself
    MAC          by the leases in force or fixed, and by what neighbours said
    name         by the leases in force or fixed
    none         who has the first address of DHCP (10.0.2.15, leased or set by hand), else the lowest lease

A listener on an IPv6 address prefers the IPv6 address of that guest, and takes the IPv4 one where none is known. A
network without IPv4 knows guests by IPv6 alone: the lowest lease, else who was heard first. A guest's IPv6 address
is the one that it leased, else the one made from its MAC (RFC 4291 appendix A), else any that it was heard to use or
to want (duplicate address detection; link-local ones do not count), or, if it speaks IPv6 at all, the one that its MAC
would make, which it is asked about.

Nothing is found that has not been heard: it is asked for, so that a later call finds it. The IPv6 address of a guest
whose IPv4 address would do is waited for no longer than ``PATIENCE``, once in ``FORGET``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from ..config import Config
from ..ip.family import Families, Family
from ..services.leases import Leases
from ..wire.ipv4 import NO_MAC, ip_text, mac_text

SECOND = 1_000_000_000
PATIENCE = SECOND * 3 // 2
FORGET = 600 * SECOND
REMEMBERED = 1024
STATIONS = 16  # that speak IPv6 and are asked for the address that their MAC would make

Guest = bytes | str | None
"""4 or 16 bytes of address, 6 of MAC, a DHCP host name; None: the first guest."""


def eui64(mac: bytes) -> bytes:
    """The interface identifier that goes with a MAC."""
    return bytes((mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]))


class Guests:
    """The guests of one stack. ``wanted()``: IPv6 addresses that guests were heard to want, with their MACs."""

    def __init__(
        self,
        config: Config,
        families: Families,
        leases: Leases,
        leases6: Leases | None = None,
        wanted: Callable[[], dict[bytes, bytes]] = dict,
    ) -> None:
        self._config = config
        self._families = families
        self._leases = leases
        self._leases6 = leases6
        self._wanted = wanted
        self._since: dict[Guest, int] = {}  # when a guest's IPv6 address was asked for in vain

    def reconfigure(self, config: Config) -> None:
        """Nothing of it moves a guest."""
        self._config = config

    def find(self, guest: Guest, now: int, prefer: int = 4) -> bytes | None:
        """The address of the guest that a rule names, if it is there; else None, and it is being asked for."""
        if isinstance(guest, bytes) and len(guest) != 6:
            return guest if self._families.of(guest).neighbours.known(guest, now) else None
        candidates = self._four(guest, now) if self._config.ipv4 else iter(())
        v4 = self._families.v4.neighbours
        four = next((address for address in candidates if v4.known(address, now)), None)
        v6 = self._families.v6
        if v6 is None or (prefer == 4 and self._config.ipv4):
            return four
        known = v6.neighbours.known
        asked = False
        for address in self._six(v6, guest, four, now):
            if known(address, now):
                self._since.pop(guest, None)
                return address
            asked = True
        return None if asked and four is not None and self._patient(guest, now) else four

    def _patient(self, guest: Guest, now: int) -> bool:
        """Whether to wait for the IPv6 address of a guest that has an IPv4 one: not for long, and not every time."""
        since = self._since.get(guest)
        if since is None or now - since > FORGET:
            if len(self._since) >= REMEMBERED:
                self._since.clear()
            self._since[guest] = since = now
        return now - since < PATIENCE

    def likely(self, guest: Guest, now: int, prefer: int = 4) -> bytes | None:
        """The address where a rule's guest will be, present or not; None: nobody knows."""
        found = self.find(guest, now, prefer)
        if found is not None:
            return found
        if isinstance(guest, bytes) and len(guest) != 6:
            return guest
        return self._config.dhcp_first if guest is None and self._config.ipv4 else None

    def named(self, guest: Guest, now: int) -> str:
        """What a rule's guest is called; asks nobody."""
        if isinstance(guest, str):
            return guest
        if guest is None:
            if not self._config.ipv4:
                leases6 = self._leases6.bound(now) if self._leases6 is not None else []
                return ip_text(leases6[0].address) if leases6 else "*"
            first = self._config.dhcp_first
            entry = self._families.v4.neighbours.table.get(first)
            leases = self._leases.bound(now)
            known = entry is not None and entry.mac != NO_MAC
            return ip_text(first if known or not leases else leases[0].address)
        return mac_text(guest) if len(guest) == 6 else ip_text(guest)

    def _four(self, guest: Guest, now: int) -> Iterator[bytes]:
        """IPv4 addresses that the guest may have, best first."""
        if isinstance(guest, str):
            yield from self._leases.called(guest, now)
            return
        if guest is None:
            yield self._config.dhcp_first
        elif guest in self._leases.fixed:
            yield self._leases.fixed[guest].address
        for lease in self._leases.bound(now):
            if guest in (None, lease.mac):
                yield lease.address
        if isinstance(guest, bytes):
            yield from _heard(self._families.v4, guest)

    def _six(self, v6: Family, guest: Guest, four: bytes | None, now: int) -> Iterator[bytes]:
        """IPv6 addresses that the guest may have; ``four`` is its IPv4 address, if that is known."""
        leases = self._leases6.bound(now) if self._leases6 is not None else []
        mac = guest if isinstance(guest, bytes) else None
        if isinstance(guest, str):
            if self._leases6 is not None:
                yield from self._leases6.called(guest, now)
            mac = self._leases.station(guest, now)
            if mac is None:
                return
        elif guest is None and four is not None:
            entry = self._families.v4.neighbours.table.get(four)
            mac = entry.mac if entry is not None else None
        elif guest is None and self._config.ipv4:
            return  # the first guest is not known yet
        yield from (lease.address for lease in leases if mac is None or lease.mac == mac)
        found = _heard(v6, mac)
        found += [a for a, station in self._wanted().items() if mac in (None, station) and v6.inside(a)]
        if mac is not None:
            identifier = eui64(mac)
            found.sort(key=lambda address: address[8:] != identifier)
        yield from found
        v6_config = self._config.v6
        if v6_config is not None and v6_config.network.prefixlen == 64:
            prefix = v6_config.network.network_address.packed[:8]
            stations = dict.fromkeys(e.mac for e in v6.neighbours.table.values() if mac in (None, e.mac))
            stations.pop(NO_MAC, None)
            yield from (prefix + eui64(station) for station in islice(stations, STATIONS))


def _heard(family: Family, mac: bytes | None) -> list[bytes]:
    """Addresses of the net that a station (None: any) was heard to use."""
    table = family.neighbours.table
    return [
        address
        for address, entry in table.items()
        if entry.mac != NO_MAC and mac in (None, entry.mac) and family.inside(address)
    ]
