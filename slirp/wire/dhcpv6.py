"""DHCPv6 messages: options in and out, bounded. ``parse`` raises ValueError only.

An option of a client that makes no sense is left out and counted: the message is answered without it, unless it is one that
the message cannot do without (an identifier).

Ref: RFC 8415 8, 21; RFC 3646 (DNS); RFC 5908 (NTP); RFC 5970 (boot file); RFC 4704 (FQDN).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct

(SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE, RECONFIGURE, INFORMATION) = (
    range(1, 12)
)
(CLIENT_ID, SERVER_ID, IA_NA, IA_TA, IA_ADDRESS, ORO, PREFERENCE, ELAPSED) = range(1, 9)
(UNICAST, STATUS, RAPID_COMMIT, DNS, SEARCH, IA_PD, REFRESH, FQDN) = (12, 13, 14, 23, 24, 25, 32, 39)
(USER_CLASS, VENDOR_CLASS, NTP, BOOT_URL, ARCHITECTURE, SOL_MAX_RT) = (15, 16, 56, 59, 61, 82)
NTP_SERVER = 1  # sub-option of NTP
SUCCESS, UNSPEC_FAIL, NO_ADDRESS, NO_BINDING, NOT_ON_LINK, USE_MULTICAST, NO_PREFIX = range(7)

HEADER = 4
OPTIONS = 64
IAS = 8
ADDRESSES = 8  # of one IA
DUID_MAX = 130  # RFC 8415 11.1: 128 and the type
NAME_MAX = 255
CLASSES = 16  # user classes, words of a vendor class, architectures
OPTION = Struct("!HH")
IA = Struct("!III")  # IAID, T1, T2
LIFETIMES = Struct("!II")  # preferred, valid


@dataclass(slots=True)
class Identity:
    """An identity association of a client: IA_NA, IA_TA or IA_PD, and the addresses it speaks of."""

    kind: int
    iaid: bytes
    addresses: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Message:
    """A message of a DHCPv6 client, parsed."""

    kind: int
    xid: bytes
    client: bytes = b""  # DUID
    server: bytes | None = None
    identities: list[Identity] = field(default_factory=list)
    wanted: frozenset[int] = frozenset()  # option request option
    rapid: bool = False
    name: str = ""  # FQDN or host name
    architectures: tuple[int, ...] = ()  # of what it boots as
    user: bytes = b""  # its user classes
    vendor: bytes = b""  # its vendor class,
    enterprise: bytes = bytes(4)  # and whose that is
    ignored: int = 0  # options that make no sense


def options(data: bytes, at: int, end: int) -> list[tuple[int, bytes]]:
    """The options of ``data[at:end]``. Raises ValueError."""
    found: list[tuple[int, bytes]] = []
    while at < end:
        if at + 4 > end or len(found) >= OPTIONS:
            raise ValueError("truncated option, or too many")
        code, size = OPTION.unpack_from(data, at)
        at += 4
        if at + size > end:
            raise ValueError(f"option {code} is truncated")
        found.append((code, data[at : at + size]))
        at += size
    return found


def _whole(data: bytes, at: int, end: int) -> tuple[list[tuple[int, bytes]], int]:
    """The options of ``data[at:end]`` up to one that is truncated, or up to the limit; and whether there was such a one."""
    found: list[tuple[int, bytes]] = []
    while at < end:
        if at + 4 > end or len(found) >= OPTIONS:
            return found, 1
        code, size = OPTION.unpack_from(data, at)
        at += 4
        if at + size > end:
            return found, 1
        found.append((code, data[at : at + size]))
        at += size
    return found, 0


def _identity(message: Message, code: int, value: bytes) -> None:
    head = 4 if code == IA_TA else 12
    if len(value) < head:
        message.ignored += 1
        return
    found = Identity(code, value[:4])
    inner_options, bad = _whole(value, head, len(value))
    message.ignored += bad
    for inner, data in inner_options:
        if inner == IA_ADDRESS:
            if len(data) < 24:
                message.ignored += 1
            elif len(found.addresses) < ADDRESSES:
                found.addresses.append(data[:16])
    message.identities.append(found)


def _name(value: bytes) -> str:
    """The host name of an FQDN option; "" if it has none that makes sense."""
    labels: list[bytes] = []
    at = 1
    while at < len(value) and value[at]:
        size = value[at]
        if size > 63 or at + 1 + size > len(value) or len(labels) > 16:
            return ""
        labels.append(value[at + 1 : at + 1 + size])
        at += 1 + size
    name = b".".join(labels)[:NAME_MAX]
    return name.decode("ascii", "replace") if name else ""


def _classes(value: bytes) -> list[bytes]:
    """What a user class option, or a vendor class option behind its enterprise, says; as much as makes sense."""
    found: list[bytes] = []
    at = 0
    while at + 2 <= len(value) and len(found) < CLASSES:
        size = value[at] << 8 | value[at + 1]
        found.append(value[at + 2 : at + 2 + size])
        at += 2 + size
    return found


def _boots(found: Message, code: int, value: bytes) -> None:
    """An option of a client that boots."""
    if code == ARCHITECTURE:
        words = range(0, min(len(value) & ~1, 2 * CLASSES), 2)
        found.architectures = tuple(value[at] << 8 | value[at + 1] for at in words)
    elif code == USER_CLASS:
        found.user = b" ".join(_classes(value))
    elif len(value) >= 4:
        found.enterprise, found.vendor = value[:4], b" ".join(_classes(value[4:]))


def parse(data: bytes) -> Message:
    """A client's message. Raises ValueError that says what is wrong."""
    if len(data) < HEADER:
        raise ValueError("shorter than its header")
    found = Message(data[0], data[1:4])
    present, found.ignored = _whole(data, HEADER, len(data))
    for code, value in present:
        if code in (CLIENT_ID, SERVER_ID):
            if not 3 <= len(value) <= DUID_MAX or (found.client if code == CLIENT_ID else found.server):
                found.ignored += 1
            elif code == CLIENT_ID:
                found.client = value
            else:
                found.server = value
        elif code in (IA_NA, IA_TA, IA_PD):
            if len(found.identities) < IAS:
                _identity(found, code, value)
        elif code == ORO:
            found.ignored += len(value) & 1
            found.wanted |= frozenset(
                int.from_bytes(value[at : at + 2], "big") for at in range(0, len(value) - 1, 2)
            )
        elif code == RAPID_COMMIT:
            found.rapid = True
        elif code == FQDN:
            found.name = _name(value)
        elif code in (ARCHITECTURE, USER_CLASS, VENDOR_CLASS):
            _boots(found, code, value)
    return found


def option(code: int, value: bytes) -> bytes:
    """Return one option: its code, length and value."""
    return OPTION.pack(code, len(value)) + value


def status(code: int, text: str = "") -> bytes:
    """Return a status code option (RFC 8415, 21.13)."""
    return option(STATUS, code.to_bytes(2, "big") + text.encode())
