"""Names that the name server knows by itself: records of the administrator's (``record=``), and guests by their DHCP names.

    web, web.DOMAIN     A, AAAA: a record, else the guests of that name (``Leases.called``), of both families
    address             PTR: the record or the guest that has it; an address of the net that has no name does not exist

A name is a record's in whole; a guest's by its first label, with or without the domain that leases name (``domainname=``), so
that no guest can take a name of the world's, only one without a dot. ``localhost`` is nobody's. Other types of such a name have no
data. All else goes to the resolvers.

Limits: ``ANSWERS`` addresses of a name; ``config.RECORDS_MAX`` records.

Ref: RFC 1035 4.1; RFC 2308 (no data); RFC 6303 (reverse zones of private nets stay at home); RFC 6891 6.1.1 (OPT in answers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from .config import Config
from .formats import encode_names, end_of_question
from .leases import Lease, Leases
from .wire import ip_bytes

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
IN = 1
HEADER = 12
TTL = 30  # seconds: leases come and go
ANSWERS = 16
NXDOMAIN, REFUSED = 3, 5
_QR, _AA, _RD, _RA = 0x80, 0x04, 0x01, 0x80
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_NOBODY = frozenset(("", "localhost"))
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
    """The names of one net. ``leases`` lists the DHCP servers' memories; ``inside``: whether an address is of the net."""

    def __init__(self, config: Config, leases: Sequence[Leases], inside: Callable[[bytes], bool]) -> None:
        self._domain = (config.domainname or "").lower()
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
        if bare in _NOBODY or not _LABEL.match(bare):
            return None
        found = [address for leases in self._leases for address in leases.called(bare, now)]
        return found or None

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
            own = fixed[0] if fixed else _own_name(lease, now)
            if own:
                return 0, [(PTR, encode_names([self._whole(own)]))]
        return NXDOMAIN, []

    def _whole(self, name: str) -> str:
        return name if "." in name or not self._domain else f"{name}.{self._domain}"


def _own_name(lease: Lease | None, now: int) -> str:
    """What a guest with a lease in force calls itself, if that can be a name."""
    if lease is None or lease.state != "bound" or lease.free(now):
        return ""
    label = lease.hostname.lower().partition(".")[0]
    return label if _LABEL.match(label) and label not in _NOBODY else ""


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
