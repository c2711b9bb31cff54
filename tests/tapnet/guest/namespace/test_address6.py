"""What the kernel tells about router advertisements, parsed."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapnet.guest.namespace import address6
from tapnet.guest.namespace.links import NicSpec

GLOBAL = socket.inet_pton(socket.AF_INET6, "fec0::15")


def message(kind: int, body: bytes) -> bytes:
    size = 16 + len(body)
    return struct.pack("=IHHII", size, kind, 0, 0, 0) + body + bytes(-size % 4)


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def address(
    data: bytes = GLOBAL, *, flags: int = 0, scope: int = 0, index: int = 2, family: int = 10
) -> bytes:
    head = struct.pack("=BBBBI", family, 64, flags & 0xFF, scope, index)
    return head + attribute(1, data) + attribute(8, struct.pack("=I", flags))


def option(body: bytes, index: int = 2) -> bytes:
    return struct.pack("=BxHiBBHI", 10, len(body), index, 134, 0, 0, 0) + body


def rdnss(*servers: str, lifetime: int = 1800) -> bytes:
    data = b"".join(socket.inet_pton(socket.AF_INET6, server) for server in servers)
    return struct.pack("!BBHI", 25, 1 + len(data) // 8, 0, lifetime) + data


def dnssl(names: bytes, lifetime: int = 1800) -> bytes:
    names += bytes(-len(names) % 8)
    return struct.pack("!BBHI", 31, 1 + len(names) // 8, 0, lifetime) + names


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (address(), (2, "fec0::15")),
        (address(scope=200), (2, "fec0::15")),
        (address(scope=253), None),
        (address(flags=0x40), None),
        (address(flags=0x44), (2, "fec0::15")),
        (address(flags=0x08), None),
        (address(b"\x0a\0\2\x0f", family=2), None),
        (b"\0" * 7, None),
    ],
)
def test_addresses(body: bytes, found: object) -> None:
    assert address6.address_of(body) == found


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (option(rdnss("fec0::3")), (2, 25, 1800, ["fec0::3"])),
        (option(rdnss("fec0::3", "fec0::4", lifetime=0)), (2, 25, 0, ["fec0::3", "fec0::4"])),
        (option(dnssl(b"\1a\7example\0\1b\0")), (2, 31, 1800, ["a.example", "b"])),
        (option(dnssl(b"\2a b\0\0\0")), (2, 31, 1800, [])),
        (option(b"\x18\1" + bytes(6)), None),
        (option(b"\x19\7" + bytes(6)), None),
        (option(b"\x19"), None),
        (b"", None),
    ],
)
def test_options(body: bytes, found: object) -> None:
    assert address6.option_of(body) == found


@given(st.binary(max_size=200))
def test_rubbish_raises_nothing(data: bytes) -> None:
    for _, body in address6.messages(data):
        address6.address_of(body)
        address6.option_of(body)


def test_what_changes_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(socket, "if_nametoindex", lambda name: int(name[-1]))
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    nics = [NicSpec("eth2", bytes(6)), NicSpec("eth3", bytes(6), dhcp=False)]
    watch = address6.Watch(ours, nics, told.append)

    def tell(*messages: bytes) -> list[dict[str, Any]]:
        told.clear()
        kernel.send(b"".join(messages))
        watch.readable()
        return [item["lease6"] for item in told]

    first = tell(message(20, address()), message(68, option(rdnss("fec0::3"))))
    assert first == [{"ifname": "eth2", "addresses": ["fec0::15"], "nameservers": ["fec0::3"], "search": []}]
    assert tell(message(20, address()), message(20, address(index=3))) == []
    (search,) = tell(message(68, option(dnssl(b"\1a\0"))))
    assert search["search"] == ["a"]
    (gone,) = tell(message(21, address()), message(68, option(rdnss("fec0::3", lifetime=0))))
    assert (gone["addresses"], gone["nameservers"]) == ([], [])
    (many,) = tell(message(68, option(rdnss(*(f"fec0::{n}" for n in range(1, 6))))))
    assert len(many["nameservers"]) == address6.SERVERS
    watch.close()
    kernel.close()
