"""What a network namespace has, as the kernel says it by rtnetlink: every attribute, also those that no ``ip`` knows.

``dump()`` answers lines of text, one for each link, address, route, rule and neighbour: header and attributes as numbers
and hexadecimal digits. Left out is what nobody can set: counters, ages, what the kernel learns and forgets by itself.

Ref: rtnetlink(7), include/uapi/linux/{rtnetlink,if_addr,if_link,fib_rules,neighbour}.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping

REQUEST, ACK, CREATE, APPEND, DUMP = 1, 4, 0x400, 0x800, 0x300
NEWADDR, NEWROUTE, NEWNEIGH, NEWRULE = 20, 24, 28, 32
_ERROR, _DONE = 2, 3
_PROXY = 0x08
_PERMANENT, _EXT_LEARNED = 0x80, 0x10
_CLONED = 0x200


def attribute(number: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, number) + value + bytes(-size % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        size, number = struct.unpack_from("=HH", data)
        yield number & 0x3FFF, data[4:size]
        data = data[(size + 3) & ~3 :]


def ask(kind: int, flags: int, body: bytes) -> list[bytes]:
    """One request in the namespace of this thread; the bodies of its answers. Raises OSError."""
    found = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.settimeout(20)
        netlink.bind((0, 0))
        netlink.send(struct.pack("=IHHII", 16 + len(body), kind, REQUEST | flags, 1, 0) + body)
        while True:
            data = netlink.recv(1 << 20)
            while data:
                size, what = struct.unpack_from("=IH", data)
                if what in (_ERROR, _DONE):
                    number = -struct.unpack_from("=i", data, 16)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return found
                found.append(data[16:size])
                data = data[(size + 3) & ~3 :]


def set_(kind: int, header: bytes, *attrs: tuple[int, bytes]) -> None:
    """Make something. Raises OSError."""
    ask(kind, ACK | CREATE | APPEND * (kind == NEWROUTE), header + b"".join(attribute(*one) for one in attrs))


# ---- dumps -------------------------------------------------------------------------------------------------


def _rough(seconds: int) -> int:
    """A time that is left: two that are some seconds apart are one. Tests take them in the middle of a step."""
    return seconds if seconds in (0, 0xFFFFFFFF) else (seconds + 5000) // 10000


def _address_times(value: bytes) -> bytes:
    preferred, valid = struct.unpack_from("=II", value)
    return b"%d %d" % (_rough(preferred), _rough(valid))


def _route_times(value: bytes) -> bytes:
    return b"%d" % _rough(struct.unpack_from("=IIi", value)[2] // 100)


def _families(value: bytes) -> bytes:
    """IFLA_AF_SPEC without counters and times."""
    found = []
    for family, data in attributes(value):
        for number, inner in attributes(data):
            if not (family == socket.AF_INET6 and number in (3, 5, 6)):
                found.append(b"%d.%d=%s" % (family, number, inner.hex().encode()))
    return b" ".join(found)


_Change = Mapping[int, Callable[[bytes], bytes] | None]
# per message: the length of its header, and attributes that are left out (None) or made comparable
_LINK: _Change = dict.fromkeys((7, 23, 35, 47, 48)) | {26: _families}
_ADDRESS: _Change = {6: _address_times}
_ROUTE: _Change = {12: _route_times}
_NEIGHBOUR: _Change = dict.fromkeys((3, 4))


def _line(body: bytes, head: int, change: _Change) -> str:
    words = [body[:head].hex()]
    for number, value in sorted(attributes(body[head:])):
        call = change.get(number, bytes)
        if call is not None:
            made = call(value)
            words.append(f"{number}={made.hex() if call is bytes else made.decode()}")
    return " ".join(words)


def _calm(body: bytes) -> bytes:
    """A neighbour that the kernel keeps alive is looked for, found and lost all the time: without its state."""
    managed = dict(attributes(body[12:])).get(15, b"\0")[0] & 1
    return body[:8] + bytes(2) + body[10:] if managed else body


def _kept(body: bytes) -> bool:
    """Whether a neighbour is one that somebody set."""
    state, flags = struct.unpack_from("=HB", body, 8)
    ext = dict(attributes(body[12:])).get(15, bytes(4))
    destination = dict(attributes(body[12:])).get(1, b"")
    many = destination[:1] == b"\xff" or (len(destination) == 4 and destination[0] >= 224)
    return bool(
        state & _PERMANENT
        or flags & (_PROXY | _EXT_LEARNED)
        or ext != bytes(4)
        or (state & 0x40 and not many)
    )


def dump() -> dict[str, list[str]]:
    """Of the namespace of this thread."""
    return {what: [line for _, line in rows] for what, rows in _dump().items()}


def of(device: str) -> dict[str, list[str]]:
    """What names one interface, with a word for its name: of two interfaces it can be compared."""
    index, name = struct.pack("=I", socket.if_nametoindex(device)), device.encode()
    found: dict[str, list[str]] = {}
    for what, rows in _dump().items():
        if what == "link":
            continue
        found[what] = lines = []
        for body, line in rows:
            words = line.split()
            head = words[0]
            if what in ("address", "neighbour"):
                if body[4:8] != index:
                    continue
                words[0] = head[:8] + "DEVICE" + head[16:]
            if what == "address":
                words = [w.replace("3=" + name.hex(), "3=DEVICE") if w[:2] == "3=" else w for w in words]
            elif what == "route":
                words = [
                    f"{w[:2]}DEVICE" if w in (f"3={index.hex()}", f"4={index.hex()}") else w for w in words
                ]
                words = ["9=" + w[2:].replace(index.hex(), "DEVICE") if w[:2] == "9=" else w for w in words]
            elif what == "rule":
                words = [w.replace("=" + name.hex() + "00", "=DEVICE") for w in words]
            made = " ".join(words)
            if "DEVICE" in made:
                lines.append(made)
    return {what: sorted(rows) if what in ("route", "neighbour") else rows for what, rows in found.items()}


def _dump() -> dict[str, list[tuple[bytes, str]]]:
    four, six, any_ = (bytes([family]) for family in (socket.AF_INET, socket.AF_INET6, 0))

    def lines(bodies: list[bytes], head: int, change: _Change) -> list[tuple[bytes, str]]:
        return [(body, _line(body, head, change)) for body in bodies]

    found = {
        "link": lines(ask(18, DUMP, any_ + bytes(15)), 16, _LINK),
        "address": lines([b for f in (four, six) for b in ask(22, DUMP, f + bytes(7))], 8, _ADDRESS),
        "rule": lines([b for f in (four, six) for b in ask(34, DUMP, f + bytes(11))], 12, {}),
    }
    routes, near = [], []
    for family in (four, six):
        routes += [
            b for b in ask(26, DUMP, family + bytes(11)) if not struct.unpack_from("=I", b, 8)[0] & _CLONED
        ]
        for flags in (0, _PROXY):
            near += [_calm(b) for b in ask(30, DUMP, family + bytes(9) + bytes([flags, 0])) if _kept(b)]
    found["route"] = sorted(lines(routes, 12, _ROUTE), key=lambda pair: pair[1])
    found["neighbour"] = sorted(lines(near, 12, _NEIGHBOUR), key=lambda pair: pair[1])
    return found


def differences(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """What is not as it was, line by line."""
    return [
        f"{what} {mark} {line}"
        for what in before
        for mark, rows, other in (("-", before[what], after[what]), ("+", after[what], before[what]))
        for line in rows
        if line not in other
    ] + [
        f"{what}: order"
        for what in before
        if sorted(before[what]) == sorted(after[what]) != before[what] != after[what]
    ]
