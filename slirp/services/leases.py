"""Who has which address: the DHCP server's memory.

A lease is found by its client (client identifier, else hardware type and address) and by its address, and
outlives its end: the client that comes back gets the same address until somebody else needed it. A new
client gets the address that its station had under another identity (see ``_earlier_self``), else the one that
it asks for if that is free, else the lowest never used, else the one that has been free longest.

Two stations with one identity (cloned machines, or one that wants the other's lease) are two clients while both are there:
see ``identity``.

A station with a fixed lease (``lease=``) gets that address and no other, under whatever identity, and nobody else gets
it; it may lie outside the pool.

States: OFFERED (for ``OFFER_TIME``), BOUND (to ``expires``, None: for ever), RELEASED, DECLINED (somebody
else uses the address: quarantine for ``DECLINE_TIME``). What has run out is free. Nothing needs a timer:
``now`` decides on use.

``changed`` is called when what a restart should know has changed; ``rows`` and ``restore`` are the way out and in.

Limits: ``LEASES`` records; from there on only old ones are used again.

Ref: RFC 2131 4.3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..wire.ipv4 import ip_bytes, ip_text, mac_text

SECOND = 1_000_000_000
LEASES = 4096
SCAN = 8192  # addresses looked at for one allocation
OFFER_TIME = 10 * SECOND
DECLINE_TIME = 600 * SECOND
SETTLE = 60 * SECOND  # that long nobody else is taken for who has just got a lease
FOR_EVER = 0xFFFFFFFF
NAME = 255  # of a client's name

OFFERED, BOUND, RELEASED, DECLINED = "offered", "bound", "released", "declined"


@dataclass(slots=True)
class Lease:
    """One address and the client it belongs, or last belonged, to."""

    address: bytes
    client: bytes
    mac: bytes
    state: str
    expires: int | None  # ns; None: never
    hostname: str = ""
    since: int = 0  # when it was bound last, in ns

    def free(self, now: int) -> bool:
        """Whether another client may have it."""
        return self.state == RELEASED or (self.expires is not None and self.expires <= now)


@dataclass(frozen=True, slots=True)
class Fixed:
    """The address, and perhaps the name, of one station."""

    address: bytes
    name: str = ""


def _nobody() -> None:
    """Ignore a change of the leases: nobody stores them."""


def _is_called(hostname: str, name: str) -> bool:
    """Whether a client that calls itself ``hostname`` (perhaps with its domain) is meant by ``name`` (in small letters)."""
    own = hostname.lower().rstrip(".")
    return name in (own, own.partition(".")[0])


class Leases:
    """Leases of ``first`` to ``last`` without ``excluded`` (all as numbers).

    ``in_use(address, mac)``: whether a station other than ``mac`` was heard using the address. ``size``: bytes of
    an address. ``fixed``: by MAC.
    """

    def __init__(
        self,
        first: int,
        last: int,
        excluded: frozenset[int],
        in_use: Callable[[bytes, bytes], bool],
        size: int = 4,
        fixed: Mapping[bytes, Fixed] | None = None,
    ) -> None:
        self.first = first
        self.last = last
        self.fixed = dict(fixed or {})
        self.changed: Callable[[], None] = _nobody
        self._excluded = excluded | {int.from_bytes(f.address, "big") for f in self.fixed.values()}
        self._in_use = in_use
        self._size = size
        self._by_client: dict[bytes, Lease] = {}
        self._by_address: dict[bytes, Lease] = {}

    def __len__(self) -> int:
        return len(self._by_address)

    def of(self, client: bytes) -> Lease | None:
        """The client's lease, in whatever state."""
        return self._by_client.get(client)

    def identity(self, client: bytes, mac: bytes, now: int) -> bytes:
        """What a lease of ``client`` at ``mac`` is bound to: the client alone, as RFC 2131 has it, so that one that took
        another card keeps its address; with its MAC where another station that is there has a lease in force as that client.
        """
        other = client + mac
        if other in self._by_client:
            return other
        lease = self._by_client.get(client)
        if lease is None or lease.mac == mac or lease.free(now):
            return client
        fresh = lease.state == OFFERED or now - lease.since < SETTLE
        heard = self._in_use(lease.address, mac) and not self._in_use(lease.address, lease.mac)
        return other if fresh or heard else client

    def at(self, address: bytes) -> Lease | None:
        """The lease of an address, in whatever state."""
        return self._by_address.get(address)

    def bound(self, now: int) -> list[Lease]:
        """Leases in force, lowest address first."""
        found = [x for x in self._by_address.values() if x.state == BOUND and not x.free(now)]
        return sorted(found, key=lambda lease: lease.address)

    def called(self, name: str, now: int) -> list[bytes]:
        """Addresses of who is called ``name``: by the administrator, or by itself and with a lease in force."""
        name = name.lower().rstrip(".")
        found = [fixed.address for fixed in self.fixed.values() if fixed.name.lower().rstrip(".") == name]
        for lease in self.bound(now):
            if _is_called(lease.hostname, name) and lease.address not in found:
                found.append(lease.address)
        return found

    def station(self, name: str, now: int) -> bytes | None:
        """The MAC of who is called ``name``; None: nobody is."""
        name = name.lower().rstrip(".")
        fixed = [mac for mac, entry in self.fixed.items() if entry.name.lower().rstrip(".") == name]
        found = fixed + [lease.mac for lease in self.bound(now) if _is_called(lease.hostname, name)]
        return found[0] if found else None

    def contains(self, address: bytes) -> bool:
        """Whether the address is ours to give."""
        number = int.from_bytes(address, "big")
        return self.first <= number <= self.last and number not in self._excluded

    def claim(self, client: bytes, mac: bytes, address: bytes, now: int) -> Lease | None:
        """This very address for this client; None: it may not have it."""
        fixed = self.fixed.get(mac)
        if fixed is not None:
            return self._assign(client, mac, address, now) if address == fixed.address else None
        if not self.contains(address) or self._in_use(address, mac):
            return None
        lease = self._by_address.get(address)
        if lease is not None:
            if lease.client != client and not lease.free(now):
                return None
            if lease.state == DECLINED and not lease.free(now):
                return None
        elif len(self._by_address) >= LEASES:
            return None
        return self._assign(client, mac, address, now)

    def offer(self, client: bytes, mac: bytes, wanted: bytes | None, now: int) -> Lease | None:
        """An address for a client, reserved shortly unless it is bound already; None: there is none left."""
        fixed = self.fixed.get(mac)
        if fixed is not None:
            return self._assign(client, mac, fixed.address, now)
        known = self._by_client.get(client)
        if known is not None and not known.free(now) and known.state != DECLINED:
            if not self._in_use(known.address, mac):
                if known.state == OFFERED:
                    known.expires = now + OFFER_TIME
                known.mac = mac
                return known
            self.decline(known, now)
            known = None
        if known is None:
            before = self._earlier_self(client, mac, now)
            if before is not None:
                return self._assign(client, mac, before, now)
        for address in (known.address if known is not None else None, wanted):
            if address is not None:
                lease = self.claim(client, mac, address, now)
                if lease is not None:
                    return lease
        fresh = self._fresh(mac) or self._oldest_free(mac, now)
        return self._assign(client, mac, fresh, now) if fresh is not None else None

    def _earlier_self(self, client: bytes, mac: bytes, now: int) -> bytes | None:
        """The address that the same station had under another identity.

        A guest boots in stages (firmware, initramfs, system) that may call themselves differently, and
        should keep its address. Two client identifiers at once on one MAC (ipvlan) stay two clients: a
        lease in force is taken over only if one of the two is known by nothing but its hardware address.
        """
        for lease in self._by_address.values():
            if lease.mac == mac and lease.state != DECLINED and not self._in_use(lease.address, mac):
                plain = mac in (lease.client[1:], client[1:])
                if plain or lease.free(now):
                    return lease.address
        return None

    def _fresh(self, mac: bytes) -> bytes | None:
        if len(self._by_address) >= LEASES:
            return None
        for number in range(self.first, min(self.last, self.first + SCAN) + 1):
            address = number.to_bytes(self._size, "big")
            if (
                address not in self._by_address
                and number not in self._excluded
                and not self._in_use(address, mac)
            ):
                return address
        return None

    def _oldest_free(self, mac: bytes, now: int) -> bytes | None:
        found = [
            lease
            for lease in self._by_address.values()
            if lease.free(now) and not self._in_use(lease.address, mac)
        ]
        if not found:
            return None
        return min(found, key=lambda lease: lease.expires or 0).address

    def _assign(self, client: bytes, mac: bytes, address: bytes, now: int) -> Lease:
        before = self._by_client.get(client)
        if before is not None and before.address != address:
            if before.state == DECLINED:
                del self._by_client[client]
            else:
                self._forget(before)
        holder = self._by_address.get(address)
        if holder is not None:
            if holder.client == client and holder.state == BOUND and not holder.free(now):
                holder.mac = mac
                return holder
            self._forget(holder)
        fixed = self.fixed.get(mac)
        name = fixed.name if fixed and fixed.name else holder.hostname if holder else ""
        lease = Lease(address, client, mac, OFFERED, now + OFFER_TIME, name)
        self._by_client[client] = self._by_address[address] = lease
        return lease

    def _forget(self, lease: Lease) -> None:
        self._by_address.pop(lease.address, None)
        if self._by_client.get(lease.client) is lease:
            del self._by_client[lease.client]

    def bind(self, lease: Lease, seconds: int, now: int) -> None:
        """The client has it, for ``seconds`` (``FOR_EVER``: without end)."""
        lease.state = BOUND
        lease.expires = None if seconds == FOR_EVER else now + seconds * SECOND
        lease.since = now
        self.changed()

    def release(self, lease: Lease, now: int) -> None:
        """The client gave it back; it stays the client's favourite."""
        lease.state = RELEASED
        lease.expires = now
        self.changed()

    def decline(self, lease: Lease, now: int) -> None:
        """Somebody else uses the address."""
        lease.state = DECLINED
        lease.expires = now + DECLINE_TIME
        if self._by_client.get(lease.client) is lease:
            del self._by_client[lease.client]

    def restore(self, rows: Iterable[Mapping[str, Any]], now: int) -> int:
        """Take up leases of an earlier run, as ``rows`` gave them; how many of them could be.

        One whose address is not ours to give any more, or has run out, is forgotten, or free. Raises ValueError, KeyError
        or TypeError for rows that are no such thing.
        """
        taken = 0
        for row in rows:
            address, mac = ip_bytes(row["address"]), bytes.fromhex(row["mac"].replace(":", ""))
            client, left, name = bytes.fromhex(row["client_id"]), row["expires"], str(row["hostname"])
            fixed = self.fixed.get(mac)
            mine = fixed.address == address if fixed else self.contains(address)
            if (
                row["state"] not in (BOUND, RELEASED)
                or not mine
                or len(mac) != 6
                or not client
                or len(address) != self._size
            ):
                continue
            if len(self._by_address) >= LEASES or address in self._by_address or client in self._by_client:
                continue
            expires = None if left is None else now + int(min(float(left), FOR_EVER) * SECOND)
            state = BOUND if row["state"] == BOUND and (expires is None or expires > now) else RELEASED
            name = fixed.name if fixed and fixed.name else name[:NAME]
            lease = Lease(address, client, mac, state, now if state == RELEASED else expires, name)
            self._by_client[client] = self._by_address[address] = lease
            taken += 1
        return taken

    def rows(self, now: int) -> list[dict[str, Any]]:
        """Return the leases as JSON-able rows, sorted by address."""
        return [
            {
                "address": ip_text(lease.address),
                "mac": mac_text(lease.mac),
                "client_id": lease.client.hex(),
                "state": "expired" if lease.free(now) and lease.state != RELEASED else lease.state,
                "hostname": lease.hostname,
                "expires": None if lease.expires is None else max(0, lease.expires - now) / SECOND,
            }
            for lease in sorted(self._by_address.values(), key=lambda lease: lease.address)
        ]
