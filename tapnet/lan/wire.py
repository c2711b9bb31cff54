"""Translate rtnetlink's addresses, routes, rules and neighbours between bytes and ``Message`` without losing
anything.

    header   fields by name
    attrs    [NAME, value] for those that this package reads or changes; all others [NUMBER, hexadecimal digits]

So an attribute that a newer kernel reports of a route is given back with it, even if this file does not know
it.

Ref: rtnetlink(7), netlink(7), include/uapi/linux/{rtnetlink,if_addr,fib_rules,neighbour}.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .belongings import Message

_REQUEST, _DUMP_FLAGS = 0x1, 0x300
_ERROR, _DONE = 2, 3
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: the objects changed during the dump
_HEAD = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_HOP = struct.Struct("=HBBi")
_FAMILY = struct.Struct("=H")
_NESTED, _TYPE = 0x8000, 0x3FFF
_RECEIVE = 1 << 18
_DUMP_TRIES = 20


@dataclass(frozen=True, slots=True)
class Kind:
    """This describes a kind of message. ``new``, ``delete`` and ``get`` are its types; ``attrs`` maps a
    number to a name and how the value is read.
    """

    new: int
    delete: int
    get: int
    header: struct.Struct
    fields: tuple[str, ...]
    attrs: dict[int, tuple[str, str]]

    @property
    def numbers(self) -> dict[str, tuple[int, str]]:
        """Return the numbers of the attributes that have names, with how their values are read."""
        return {name: (number, how) for number, (name, how) in self.attrs.items()}


_ROUTE_ATTRS = {
    1: ("RTA_DST", "address"), 2: ("RTA_SRC", "address"), 3: ("RTA_IIF", "=I"), 4: ("RTA_OIF", "=I"),
    5: ("RTA_GATEWAY", "address"), 6: ("RTA_PRIORITY", "=I"), 7: ("RTA_PREFSRC", "address"), 9: ("RTA_MULTIPATH", "hops"),
    12: ("RTA_CACHEINFO", "=IIiIIIII"), 15: ("RTA_TABLE", "=I"), 18: ("RTA_VIA", "via"), 22: ("RTA_ENCAP", "nested"),
    23: ("RTA_EXPIRES", "=I"), 30: ("RTA_NH_ID", "=I"),
}  # fmt: skip
ADDRESS = Kind(
    20, 21, 22, struct.Struct("=BBBBI"), ("family", "prefixlen", "flags", "scope", "index"),
    {
        1: ("IFA_ADDRESS", "address"), 2: ("IFA_LOCAL", "address"), 3: ("IFA_LABEL", "text"),
        6: ("IFA_CACHEINFO", "=IIII"), 8: ("IFA_FLAGS", "=I"),
    },
)  # fmt: skip
ROUTE = Kind(
    24, 25, 26, struct.Struct("=BBBBBBBBI"),
    ("family", "dst_len", "src_len", "tos", "table", "proto", "scope", "type", "flags"), _ROUTE_ATTRS,
)  # fmt: skip
NEIGHBOUR = Kind(
    28, 29, 30, struct.Struct("=BxxxiHBB"), ("family", "ifindex", "state", "flags", "ndm_type"),
    {1: ("NDA_DST", "address"), 3: ("NDA_CACHEINFO", "raw"), 4: ("NDA_PROBES", "raw"), 15: ("NDA_FLAGS_EXT", "=I")},
)  # fmt: skip
RULE = Kind(
    32, 33, 34, struct.Struct("=BBBBBBBBI"),
    ("family", "dst_len", "src_len", "tos", "table", "res1", "res2", "action", "flags"),
    {3: ("FRA_IIFNAME", "text"), 17: ("FRA_OIFNAME", "text")},
)  # fmt: skip
# a next-hop object, which routes may refer to; only read here
NEXTHOP = Kind(
    104, 105, 106, struct.Struct("=BBBBI"), ("family", "scope", "proto", "res", "flags"),
    {1: ("NHA_ID", "=I"), 5: ("NHA_OIF", "=I")},
)  # fmt: skip
# structures whose fields this package reads
_FIELDS = {
    "IFA_CACHEINFO": ("ifa_preferred", "ifa_valid", "cstamp", "tstamp"),
    "RTA_CACHEINFO": (
        "rta_clntref", "rta_lastuse", "rta_expires", "rta_error", "rta_used", "rta_id", "rta_ts", "rta_tsage",
    ),
}  # fmt: skip


# ---- bytes to messages -------------------------------------------------------------------------------------


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, number = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return
        yield number & _TYPE, data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3


def header(kind: Kind, body: bytes) -> dict[str, Any]:
    """Return the fields of a message's header."""
    return dict(zip(kind.fields, kind.header.unpack_from(body), strict=True))


def decode(kind: Kind, body: bytes) -> Message:
    """Decode a message that is without netlink's own header."""
    return {**header(kind, body), "attrs": _decoded(kind, body[kind.header.size :])}


def _decoded(kind: Kind, data: bytes) -> list[list[Any]]:
    found = []
    for number, value in _attributes(data):
        name, how = kind.attrs.get(number, (str(number), "raw"))
        found.append([name, _value(name, how, value)])
    return found


def _value(name: str, how: str, value: bytes) -> Any:
    if how == "address":
        return _address(value)
    if how == "text":
        return os.fsdecode(value.rstrip(b"\0"))
    if how == "via":
        return {"family": _FAMILY.unpack_from(value)[0], "addr": _address(value[2:])}
    if how == "hops":
        return _hops(value)
    if how in ("raw", "nested"):
        return value.hex()
    numbers = struct.unpack_from(how, value)
    return dict(zip(_FIELDS[name], numbers, strict=True)) if name in _FIELDS else numbers[0]


def _address(value: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)


def _hops(data: bytes) -> list[dict[str, Any]]:
    found = []
    while len(data) >= _HOP.size:
        size, flags, weight, index = _HOP.unpack_from(data)
        if size < _HOP.size:
            break
        attrs = _decoded(ROUTE, data[_HOP.size : size])
        found.append({"flags": flags, "hops": weight, "oif": index, "attrs": attrs})
        data = data[(size + 3) & ~3 :]
    return found


# ---- and back ----------------------------------------------------------------------------------------------


def encode(kind: Kind, message: Message) -> bytes:
    """Encode a message as ``decode`` reads it. Attributes with names that this kind does not have are left
    out.
    """
    return kind.header.pack(*(message.get(field, 0) for field in kind.fields)) + _encoded(
        kind, message["attrs"]
    )


def _encoded(kind: Kind, attrs: list[list[Any]]) -> bytes:
    numbers, made = kind.numbers, b""
    for name, value in attrs:
        number, how = (int(name), "raw") if name.isdecimal() else numbers.get(name, (0, ""))
        if how:
            data = _bytes(how, value)
            flag = _NESTED if how == "nested" else 0
            made += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), number | flag) + data + bytes(-len(data) % 4)
    return made


def _bytes(how: str, value: Any) -> bytes:
    if how == "address":
        return _packed(value)
    if how == "text":
        return os.fsencode(value) + b"\0"
    if how == "via":
        return _FAMILY.pack(value["family"]) + _packed(value["addr"])
    if how == "hops":
        made = b""
        for hop in value:
            attrs = _encoded(ROUTE, hop["attrs"])
            made += _HOP.pack(_HOP.size + len(attrs), hop["flags"], hop["hops"], hop["oif"]) + attrs
        return made
    if how in ("raw", "nested"):
        return bytes.fromhex(value)
    return struct.pack(how, *(value.values() if isinstance(value, dict) else (value,)))


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


# ---- the socket --------------------------------------------------------------------------------------------


class Netlink:
    """This is one rtnetlink socket, in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._number = 0

    def close(self) -> None:
        """Close the rtnetlink socket. Idempotent."""
        self._socket.close()

    def send(self, type_: int, flags: int, body: bytes) -> None:
        """Send a request with NLM_F_ACK and wait for its answer. Raises OSError if the kernel refuses it."""
        self._ask(type_, flags | _REQUEST, body)

    def dump(self, kind: Kind, body: bytes) -> list[bytes]:
        """Return all objects of a kind as they are at one moment; the kernel is asked again if they changed
        meanwhile. Raises OSError.
        """
        for _ in range(_DUMP_TRIES):
            found, whole = self._ask(kind.get, _REQUEST | _DUMP_FLAGS, body)
            if whole:
                break
        return found

    def _ask(self, type_: int, flags: int, body: bytes) -> tuple[list[bytes], bool]:
        self._number += 1
        self._socket.send(_HEAD.pack(_HEAD.size + len(body), type_, flags, self._number, 0) + body)
        found: list[bytes] = []
        whole = True
        while True:
            data = self._socket.recv(_RECEIVE)
            at = 0
            while at + _HEAD.size <= len(data):
                size, what, told, number, _ = _HEAD.unpack_from(data, at)
                if number == self._number:
                    whole = whole and not told & _INTERRUPTED
                    if what in (_ERROR, _DONE):
                        status = -struct.unpack_from("=i", data, at + _HEAD.size)[0]
                        if status:
                            raise OSError(status, os.strerror(status))
                        return found, whole
                    found.append(data[at + _HEAD.size : at + size])
                at += (size + 3) & ~3
