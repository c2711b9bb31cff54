"""What ``tapnet route`` reads and says, byte by byte."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from tapnet.lan import frames

MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("0200000000aa")
A, B = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.9")
SIX, LINK = IPv6Address("2001:db8::9"), IPv6Address("fe80::1")


def test_arp_both_ways() -> None:
    frame = frames.arp_frame(frames.ARP_REQUEST, MAC, A, bytes(6), B)
    assert frame[:14] == b"\xff" * 6 + MAC + b"\x08\x06" and len(frame) == 42
    assert frames.arp(frame) == frames.Arp(1, MAC, A, B)
    for bad in (frame[:41], frame[:12] + b"\x08\x00" + frame[14:], frame[:21] + b"\x03" + frame[22:]):
        assert frames.arp(bad) is None
    assert frames.arp(frames.arp_frame(1, b"\x01" + MAC[1:], A, bytes(6), B)) is None  # a group is nobody


def ip6(source: IPv6Address, body: bytes, hops: int = 255, mac: bytes = MAC) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(body), 58, hops) + source.packed + LINK.packed
    return OTHER + mac + b"\x86\xdd" + head + body


def test_neighbour_discovery() -> None:
    ask = frames.solicitation(SIX, MAC)
    assert frames.solicited(ip6(LINK, ask)) == (frames.NS, LINK, SIX, MAC)
    assert frames.solicited(ip6(LINK, frames.router_solicitation())) == (frames.RS, LINK, None, MAC)
    assert frames.solicited(ip6(LINK, ask, hops=254)) is None  # came through a router
    assert frames.solicited(ip6(LINK, ask)[:70]) is None
    assert frames.solicited(ip6(LINK, b"\x80" + ask[1:])) is None
    assert frames.advertised(b"\x88" + ask[1:]) == SIX
    assert frames.advertised(ask) is None and frames.advertised(b"\x88" + ask[1:20]) is None


def test_an_advertisement_is_passed_on_with_us_as_the_router() -> None:
    prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 3600, 1800, 0, IPv6Address("2001:db8::").packed)
    servers = struct.pack("!BBHI16s", 25, 3, 0, 600, SIX.packed)
    mtu = struct.pack("!BBHI", 5, 1, 0, 1480)
    theirs = b"\x01\x01" + OTHER
    message = struct.pack("!BBHBBHII", 134, 0, 0xBEEF, 64, 0xC0, 1800, 0, 0) + theirs + prefix + mtu + servers
    made = frames.passed_on(message, MAC)
    assert made is not None
    assert made[:16] == struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)  # no DHCPv6
    assert (
        made[16:] == prefix[:3] + b"\x40" + prefix[4:] + mtu + servers + b"\x01\x01" + MAC
    )  # not on the link
    assert frames.passed_on(message[:-1], MAC) is None
    assert frames.passed_on(message + b"\x01\x00" + bytes(6), MAC) is None
    assert frames.passed_on(b"\x85" + message[1:], MAC) is None


def bootp(
    op: int, mac: bytes, kind: int, giaddr: bytes = bytes(4), yiaddr: bytes = bytes(4), hops: int = 0
) -> bytes:
    head = struct.pack(
        "!BBBBIHH4s4s4s4s16s", op, 1, 6, hops, 7, 0, 0, bytes(4), yiaddr, bytes(4), giaddr, mac
    )
    return head + bytes(192) + b"\x63\x82\x53\x63" + bytes((0, 53, 1, kind, 255))


def test_dhcp_is_relayed() -> None:
    made = frames.relayed(bootp(1, MAC, 1), A)
    assert made == (bootp(1, MAC, 1, A.packed, hops=1), MAC)
    assert frames.relayed(bootp(1, MAC, 1, B.packed), A) is None  # another relay's
    assert frames.relayed(bootp(1, MAC, 1, hops=16), A) is None
    assert frames.relayed(bootp(2, MAC, 1), A) is None
    assert frames.relayed(bootp(1, MAC, 1)[:200], A) is None
    answer = bootp(2, MAC, 5, A.packed, B.packed)
    assert frames.reply(answer, A) == frames.Reply(MAC, B, frames.ACK)
    assert frames.reply(answer, B) is None
    assert frames.reply(answer[:-3], A) is None  # cut within an option
    assert frames.reply(bootp(1, MAC, 5, A.packed, B.packed), A) is None


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x08\x06", b"\x86\xdd"]))
def test_garbage_is_nothing(data: bytes, kind: bytes) -> None:
    frame = data[:12].ljust(12, b"\0") + kind + data[12:]
    frames.arp(frame)
    frames.solicited(frame)
    frames.advertised(data)
    frames.passed_on(b"\x86" + data, MAC)
    frames.relayed(bootp(1, MAC, 1)[:240] + data, A)
    frames.reply(bootp(2, MAC, 1, A.packed)[:240] + data, A)
    frames.relayed(data, A)
    frames.reply(data, A)
