"""Names that the name server knows by itself: records of the administrator's (``record=``), and guests by their DHCP names.

    web, web.DOMAIN     A, AAAA: a record, else the guests of that name (``Leases.called``), of both families
    address             PTR: the record or the guest that has it; an address of the net that has no name does not exist

A name is a record's in whole; a guest's by its first label, with or without the domain that leases name (``domainname=``), so
that no guest can take a name of the world's, only one without a dot. ``NOBODY`` lists what is no guest's by DHCP at all: names
that programs look for by themselves and trust, as ``wpad`` (CERT VU#598349). Nor does a guest get a name that a record has (in any
spelling of it), or ``lease=`` gave to another station, or the host itself has; and where ``domainname=`` is a domain of
the host's own, guests are known by their first label alone, as NAME.DOMAIN is for that domain's own servers to answer.
Other types of such a name have no data. All else goes to the resolvers.

Limits: ``ANSWERS`` addresses of a name; ``config.RECORDS_MAX`` records.

Ref: RFC 1035 4.1; RFC 2308 (no data); RFC 6303 (reverse zones of private nets stay at home); RFC 6891 6.1.1 (OPT in answers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from ..config import Config
from ..wire.dns import encode_names, end_of_question
from ..wire.ipv4 import ip_bytes
from .leases import Fixed, Lease, Leases

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
IN = 1
HEADER = 12
TTL = 30  # seconds: leases come and go
ANSWERS = 16
NXDOMAIN, REFUSED = 3, 5
_QR, _AA, _RD, _RA = 0x80, 0x04, 0x01, 0x80
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
NOBODY = frozenset(
    (
        *("", "localhost", "localdomain", "ip6-localhost", "ip6-loopback", "broadcasthost", "local"),
        *("wpad", "isatap", "_gateway", "invalid", "onion"),
    )
)
_OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"  # 1,232 bytes


def _question(message: bytes) -> tuple[str, int, int, int]:
    """The question's name in small letters, type, class, and where it ends. Raises ValueError."""
    end = end_of_question(message)
    labels = []
    at = HEADER
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode("latin-1"))
        at += 1 + message[at]
    return ".".join(labels).lower(), int.from_bytes(message[end - 4 : end - 2], "big"), message[end - 1], end


def reverse(name: str) -> bytes | None:
    """The address that a name of in-addr.arpa or ip6.arpa stands for; None: another name, or only part of one."""
    labels = name.split(".")
    if name.endswith(".in-addr.arpa") and len(labels) == 6:
        text = ".".join(labels[3::-1])
    elif name.endswith(".ip6.arpa") and len(labels) == 34 and all(len(label) == 1 for label in labels[:32]):
        digits = "".join(labels[31::-1])
        text = ":".join(digits[at : at + 4] for at in range(0, 32, 4))
    else:
        return None
    try:
        return ip_address(text).packed
    except ValueError:
        return None


class Names:
    """The names of one net. ``leases`` lists the DHCP servers' memories; ``inside``: whether an address is of the net;
    ``host``: the host's own name and domains at present.
    """

    def __init__(
        self,
        config: Config,
        leases: Sequence[Leases],
        inside: Callable[[bytes], bool],
        host: Callable[[], tuple[str, Sequence[str]]] = lambda: ("", ()),
    ) -> None:
        self._domain = (config.domainname or "").lower()
        self._host = host
        self._leases = leases
        self._inside = inside
        self._records: dict[str, list[bytes]] = {}
        self._reverse: dict[bytes, str] = {}
        for name, text in config.records:
            address = ip_bytes(text)
            self._records.setdefault(name.lower().rstrip("."), []).append(address)
            self._reverse.setdefault(address, name.lower().rstrip("."))

    def answer(self, message: bytes, now: int, *, refuse: bool = False) -> bytes | None:
        """The answer to a query, a whole one with one question; None: it is not ours (``refuse``: then a refusal)."""
        try:
            name, kind, group, end = _question(message)
        except (ValueError, IndexError):
            return None
        found = None
        if not message[2] & 0x78 and group == IN:  # an ordinary query
            found = self._pointer(name, now) if kind == PTR else self._addresses(name, kind, now)
        if found is None:
            return _packed(message, end, [], REFUSED) if refuse else None
        code, items = found
        return _packed(message, end, items, code)

    def _addresses(self, name: str, kind: int, now: int) -> tuple[int, list[tuple[int, bytes]]] | None:
        addresses = self._find(name, now)
        if addresses is None:
            return None
        items = [(A if len(address) == 4 else AAAA, address) for address in addresses]
        return 0, [(which, data) for which, data in items if kind in (which, ANY)][:ANSWERS]

    def _find(self, name: str, now: int) -> list[bytes] | None:
        bare = name
        if self._domain and name.endswith("." + self._domain):
            bare = name[: -len(self._domain) - 1]
        for known in (name, bare):
            if known in self._records:
                return self._records[known]
        if not _LABEL.match(bare):
            return None
        stations = {
            mac for leases in self._leases for mac, entry in leases.fixed.items() if _fixed(entry) == bare
        }
        taken = not stations and (self._taken(bare) or (bare != name and self._elsewhere()))
        found = []
        for leases in self._leases:
            for address in leases.called(bare, now):
                lease = leases.at(address)
                theirs = not stations or any(
                    mac in stations and entry.address == address for mac, entry in leases.fixed.items()
                )
                if not taken and (theirs or (lease is not None and lease.mac in stations)):
                    found.append(address)
        return found or None

    def _taken(self, label: str) -> bool:
        """Whether a guest must not have a name by DHCP."""
        whole = f"{label}.{self._domain}"
        host = self._host()[0].lower()
        return (
            label in NOBODY or label in (host, self._domain) or not {label, whole}.isdisjoint(self._records)
        )

    def _elsewhere(self) -> bool:
        """Whether somebody else answers for our domain: it is, or lies in, one of the host's own."""
        domains = [domain.lower().rstrip(".") for domain in self._host()[1]]
        return any(domain and f".{self._domain}".endswith(f".{domain}") for domain in domains)

    def _pointer(self, name: str, now: int) -> tuple[int, list[tuple[int, bytes]]] | None:
        """PTR of a record's address, or of a guest's."""
        address = reverse(name)
        if address is None:
            return None
        known = self._reverse.get(address)
        if known is not None:
            return 0, [(PTR, encode_names([self._whole(known)]))]
        if not self._inside(address):
            return None
        for leases in self._leases:
            lease = leases.at(address)
            fixed = [entry.name for entry in leases.fixed.values() if entry.address == address and entry.name]
            if fixed:
                return 0, [(PTR, encode_names([self._whole(fixed[0])]))]
            own = _own_name(lease, now)
            if own and address in (self._find(own, now) or ()):
                whole = own if self._elsewhere() else self._whole(own)
                return 0, [(PTR, encode_names([whole]))]
        return NXDOMAIN, []

    def _whole(self, name: str) -> str:
        return name if "." in name or not self._domain else f"{name}.{self._domain}"


def _fixed(entry: Fixed) -> str:
    """The name that the administrator gave a station."""
    return entry.name.lower().rstrip(".")


def _own_name(lease: Lease | None, now: int) -> str:
    """What a guest with a lease in force calls itself, if that can be a name."""
    if lease is None or lease.state != "bound" or lease.free(now):
        return ""
    label = lease.hostname.lower().partition(".")[0]
    return label if _LABEL.match(label) else ""


def _packed(message: bytes, end: int, items: list[tuple[int, bytes]], code: int) -> bytes:
    opt = _OPT if message[10:12] == b"\0\1" and message[end : end + 3] == b"\0\0\x29" else b""
    flags = _QR | (0 if code == REFUSED else _AA) | message[2] & _RD
    head = message[:2] + bytes((flags, _RA | code))
    counts = b"\0\1" + len(items).to_bytes(2, "big") + b"\0\0" + (b"\0\1" if opt else b"\0\0")
    body = b"".join(
        b"\xc0\x0c"
        + kind.to_bytes(2, "big")
        + b"\0\1"
        + TTL.to_bytes(4, "big")
        + len(data).to_bytes(2, "big")
        + data
        for kind, data in items
    )
    return head + counts + message[HEADER:end] + body + opt
