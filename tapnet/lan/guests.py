"""This is the table of addresses behind a routed TAP, with the checks that an address must pass before it is
believed.

    seen (ARP, NS) ──► probing on the LAN for ``PROBE_S``: does anybody have it? ──► ours
    leased (DHCP ACK) ─────────────────────────────────────────────────────────────► ours
    ours: unseen for ``ASK_S`` ──► asked ``ASKS`` times, every ``ASK_EVERY_S`` ──► gone

A guest may not take an address of the host, of a router or of another host: an address is believed only
within the uplink's own networks, and only if it is none of the ``reserved`` ones. Time is an argument. At
most ``MAX_ADDRESSES``; a new address then replaces the one that was unseen for the longest time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_ADDRESSES = 256
PROBE_S = 1.0
REFUSED_S = 30.0  # how long a refusal stands
ASK_S, ASK_EVERY_S, ASKS = 60.0, 10.0, 6


@dataclass
class Entry:
    """This is one address of a guest. ``until`` is the end of the probe; ``asked`` counts questions since it
    was seen.
    """

    mac: bytes
    seen: float
    until: float = 0.0
    ours: bool = False
    asked: int = 0
    how: str = ""


class Guests:
    """This table of guests' addresses returns from its calls what the caller has to do."""

    def __init__(self, networks: Sequence[Network] = (), reserved: Collection[Address] = ()) -> None:
        self.networks = list(networks)
        self.reserved = set(reserved)
        self.entries: dict[Address, Entry] = {}
        self.refused: dict[Address, float] = {}  # address -> until

    def allowed(self, address: Address) -> bool:
        """Tell whether a guest may have this address at all."""
        for network in self.networks:
            if address in network:
                edge = network.version == 4 and network.prefixlen < 31
                if edge and address in (network.network_address, network.broadcast_address):
                    return False
                return address not in self.reserved
        return False

    def seen(self, address: Address, mac: bytes, now: float) -> bool:
        """Note that the guest uses an address. True means: probe the LAN for another host that has it."""
        entry = self.entries.get(address)
        if entry is not None:
            if entry.mac == mac or not entry.ours:
                entry.mac, entry.seen, entry.asked = mac, now, 0
                return False
            entry.mac, entry.seen, entry.asked = mac, now, 0  # now on another card of the guest
            return False
        if not self.allowed(address) or self.refused.get(address, 0) > now:
            return False
        self._room()
        self.entries[address] = Entry(mac, now, now + PROBE_S, how="seen")
        return True

    def leased(self, address: Address, mac: bytes, now: float) -> bool:
        """Note that a DHCP server gave the address to the guest. True means that the address is ours from now
        on.
        """
        if not self.allowed(address):
            return False
        entry = self.entries.get(address)
        if entry is not None and entry.ours:
            entry.mac, entry.seen, entry.asked = mac, now, 0
            return False
        self._room()
        self.entries[address] = Entry(mac, now, ours=True, how="DHCP")
        return True

    def _room(self) -> None:
        """Make room for a new address by dropping a probe, if there is one. Addresses of ours stay until
        ``expired`` returns them.
        """
        if len(self.entries) >= MAX_ADDRESSES:
            probing = [a for a, e in self.entries.items() if not e.ours]
            if probing:
                del self.entries[probing[0]]

    def denied(self, address: Address, now: float) -> bool:
        """Note that a host on the LAN has the address. True means that it was being probed, and is refused."""
        entry = self.entries.get(address)
        if entry is None or entry.ours:
            return False
        del self.entries[address]
        if len(self.refused) >= MAX_ADDRESSES:
            self.refused.clear()
        self.refused[address] = now + REFUSED_S
        return True

    def probed(self, now: float) -> list[Address]:
        """Return the addresses whose probe no host answered; they are ours from now on."""
        found = [a for a, e in self.entries.items() if not e.ours and e.until <= now]
        for address in found:
            self.entries[address].ours = True
        return found

    def to_ask(self, now: float) -> list[Address]:
        """Return the addresses whose guests have to be asked whether they are still there."""
        found = []
        for address, entry in self.entries.items():
            if entry.ours and entry.asked < ASKS and entry.seen + ASK_S + entry.asked * ASK_EVERY_S <= now:
                entry.asked += 1
                found.append(address)
        return found

    def expired(self, now: float) -> list[Address]:
        """Return and forget the addresses that did not answer, and those for which there is no room."""
        last = ASK_S + ASKS * ASK_EVERY_S
        found = [a for a, e in self.entries.items() if e.ours and e.seen + last <= now]
        ours = sorted((e.seen, a.packed, a) for a, e in self.entries.items() if e.ours and a not in found)
        found += [a for _, _, a in ours[: max(len(self.entries) - len(found) - MAX_ADDRESSES, 0)]]
        for address in found:
            del self.entries[address]
        return found

    def next_deadline(self) -> float | None:
        """Return the time at which to call ``probed``, ``to_ask`` and ``expired`` again, or None."""
        times = [
            e.until if not e.ours else e.seen + ASK_S + e.asked * ASK_EVERY_S for e in self.entries.values()
        ]
        return min(times, default=None)

    def clear(self) -> list[Address]:
        """Forget all addresses, and return those that were ours."""
        found = [a for a, e in self.entries.items() if e.ours]
        self.entries.clear()
        self.refused.clear()
        return found
