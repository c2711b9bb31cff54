"""IPv6 frames of a guest, and what the stack answers, checked: the twin of ``fakes``.

``Net6`` is a ``Net`` with IPv6 whose guest, fec0::15, has been heard of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from slirp.config import Config
from slirp.config6 import Config6
from slirp.wire import checksum
from slirp.wire import ipv4 as wire
from slirp.wire import ipv6 as wire6
from slirp.wire.ipv4 import ip_bytes, ip_int, ip_text
from tests.slirp.fakes import GUEST_MAC, Net

GUEST = "fec0::15"
LOCAL = "fe80::5054:ff:fe12:3456"
ROUTER, DNS, LINK = "fec0::2", "fec0::3", "fe80::2"
ROUTER_MAC = bytes.fromhex("525600000002")
DNS_MAC6 = bytes.fromhex("525600000003")
REMOTE = "2001:db8::9"


def ip6(
    src: str,
    dst: str,
    protocol: int,
    body: bytes,
    *,
    hops: int = 64,
    traffic: int = 0,
    mac: bytes = GUEST_MAC,
    to: bytes | None = None,
    extensions: Sequence[tuple[int, bytes]] = (),
    length: int | None = None,
) -> bytes:
    """A guest's frame; ``extensions``: (kind, header whose first byte is filled in here)."""
    target = ip_bytes(dst)
    if to is None:
        to = wire6.group_mac(target) if target[0] == 0xFF else ROUTER_MAC
    kinds = [kind for kind, _ in extensions] + [protocol]
    chain = b"".join(bytes((after,)) + head[1:] for (_, head), after in zip(extensions, kinds[1:]))
    size = len(chain) + len(body) if length is None else length
    first = wire6.VERSION | traffic << 20
    return (
        to
        + mac
        + wire.TYPE_IPV6
        + wire6.IPV6.pack(first, size, kinds[0], hops, ip_bytes(src), target)
        + chain
        + body
    )


def summed(src: str, dst: str, protocol: int, body: bytes, at: int) -> bytes:
    """``body`` with its checksum at offset ``at`` filled in."""
    value = checksum.checksum(body, ip_int(ip_bytes(src) + ip_bytes(dst)) + protocol + len(body))
    return body[:at] + value.to_bytes(2, "big") + body[at + 2 :]


def udp6_body(src: str, dst: str, sport: int, dport: int, payload: bytes) -> bytes:
    return summed(src, dst, 17, wire.UDP.pack(sport, dport, len(payload) + 8, 0) + payload, 6)


def udp6(dst: str, dport: int, payload: bytes, *, src: str = GUEST, sport: int = 4000, **ip: Any) -> bytes:
    return ip6(src, dst, 17, udp6_body(src, dst, sport, dport, payload), **ip)


def icmp6(src: str, dst: str, kind: int, code: int, rest: int, data: bytes, **ip: Any) -> bytes:
    body = summed(src, dst, 58, wire6.ICMP6.pack(kind, code, 0, rest) + data, 2)
    return ip6(src, dst, 58, body, **ip)


def ping6(dst: str, data: bytes = b"abcdefgh", *, src: str = GUEST, **ip: Any) -> bytes:
    """Id 7 sequence 1."""
    return icmp6(src, dst, 128, 0, 7 << 16 | 1, data, **ip)


def option(kind: int, mac: bytes) -> bytes:
    return bytes((kind, 1)) + mac


def ns(target: str, *, src: str = GUEST, mac: bytes = GUEST_MAC, dst: str | None = None, **ip: Any) -> bytes:
    """A neighbour solicitation; from :: it is duplicate address detection."""
    packed = ip_bytes(target)
    to = dst or ip_text(wire6.solicited_node(packed))
    data = packed + (b"" if src == "::" else option(1, mac))
    return icmp6(src, to, 135, 0, 0, data, hops=ip.pop("hops", 255), mac=mac, **ip)


def na(
    target: str,
    *,
    src: str | None = None,
    dst: str = LINK,
    flags: int = 0x60000000,
    mac: bytes = GUEST_MAC,
    **ip: Any,
) -> bytes:
    data = ip_bytes(target) + option(2, mac)
    return icmp6(src or target, dst, 136, 0, flags, data, hops=ip.pop("hops", 255), mac=mac, **ip)


def rs(src: str = LOCAL, **ip: Any) -> bytes:
    data = b"" if src == "::" else option(1, GUEST_MAC)
    return icmp6(src, "ff02::2", 133, 0, 0, data, hops=ip.pop("hops", 255), **ip)


@dataclass
class Ip6:
    """An IPv6 frame from the stack, checked."""

    to: bytes
    mac: bytes
    src: str
    dst: str
    protocol: int
    hops: int
    traffic: int
    body: bytes

    @property
    def kind(self) -> tuple[int, int]:
        """ICMPv6 type and code."""
        return self.body[0], self.body[1]

    @property
    def info(self) -> int:
        return int.from_bytes(self.body[4:8], "big")

    @property
    def ports(self) -> tuple[int, int]:
        return wire.PORTS.unpack_from(self.body)

    @property
    def payload(self) -> bytes:
        """Behind a UDP or ICMPv6 header."""
        return self.body[8:]


def read6(frame: bytes, vnet: bytes = b"") -> Ip6:
    """Parse a frame of the stack, and check what can be checked."""
    assert frame[12:14] == wire.TYPE_IPV6
    first, length, protocol, hops, src, dst = wire6.IPV6.unpack_from(frame, 14)
    assert first >> 28 == 6
    assert length == len(frame) - 54
    body = frame[54:]
    start = ip_int(src + dst) + protocol + len(body)
    if protocol in (58, 17, 6) and not vnet:
        assert checksum.good(body, start)
    if protocol == 17:
        assert wire.U16.unpack_from(body, 4)[0] == len(body)
        assert body[6:8] != b"\0\0"
        if vnet:
            assert wire.VNET.unpack(vnet)[0] == 1
            assert wire.U16.unpack_from(body, 6)[0] % 65535 == start % 65535
    return Ip6(frame[:6], frame[6:12], ip_text(src), ip_text(dst), protocol, hops, first >> 20 & 0xFF, body)


def joined(frames: Sequence[bytes]) -> Ip6:
    """One packet out of the fragments that the stack sent."""
    parts = [read6(frame) for frame in frames]
    assert all(part.protocol == 44 for part in parts)
    pieces = []
    for part in parts:
        protocol, _, flags, ident = wire6.FRAGMENT_HEADER.unpack_from(part.body)
        pieces.append((flags & 0xFFF8, flags & 1, part.body[8:], protocol, ident))
    pieces.sort()
    at = 0
    for offset, more, data, _, _ in pieces:
        assert offset == at
        at += len(data)
        assert more == (offset != pieces[-1][0])
    assert len({ident for *_, ident in pieces}) == 1
    first = parts[0]
    body = b"".join(data for _, _, data, _, _ in pieces)
    whole = Ip6(first.to, first.mac, first.src, first.dst, pieces[0][3], first.hops, first.traffic, body)
    start = ip_int(ip_bytes(whole.src) + ip_bytes(whole.dst)) + whole.protocol + len(body)
    assert checksum.good(body, start)
    return whole


@dataclass
class Net6(Net):
    """With IPv6; ``known``: fec0::15 and its link-local address have been heard."""

    config: Config = field(default_factory=lambda: Config(v6=Config6()))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.known:
            self.put(ns(ROUTER), ns(LINK, src=LOCAL))
            self.take()

    def ask6(self, *frames: bytes, vnet: bytes = b"") -> list[Ip6]:
        """Put frames, take the IPv6 answers."""
        self.put(*frames, vnet=vnet)
        answers = [read6(frame, v) for frame, v in self.sent if frame[12:14] == wire.TYPE_IPV6]
        self.sent.clear()
        return answers
