"""IPv6 beside libslirp: neighbours, router advertisements, ping, UDP, TCP, DHCPv6, malformed packets. See ``talks``."""

from __future__ import annotations

import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from slirp.config import Config
from slirp.config6 import Config6
from slirp.wire import ipv4 as wire
from slirp.wire import ipv6 as wire6
from tests.oracle.libslirp import Oracle, Ours
from tests.oracle.talks import FENCE, Side, Talk, Transcript, World, compare, is_fence
from tests.slirp.fakes import arp, ping
from tests.slirp.fakes6 import DNS, GUEST, LINK, LOCAL, ROUTER, icmp6, ip6, ns, ping6, rs, udp6
from tests.slirp.netsim import ACK, RST, SYN, Segment, make_frame
from tests.waiting import BOUND_S

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace"),
]


@pytest.fixture(scope="module")
def sides6(world: World) -> Iterator[tuple[Side, Side]]:
    assert shutil.which("qemu-system-x86_64"), "qemu-system-x86 is not installed"
    oracle, ours = Oracle(), Ours(Config(v6=Config6()))
    both = Side("libslirp", oracle, 0, 0), Side("ours", ours, 0, 0)
    for side in both:
        side.side.exchange([arp(1, "10.0.2.15", "10.0.2.2")], 1)
        ask(side, ns(ROUTER), count=1)
        ask(side, ns(LINK, src=LOCAL), count=1)
    yield both
    oracle.close()
    ours.close()


def ask(side: Side, *frames: bytes, count: int = 0) -> list[bytes]:
    """IPv6 frames that come back, but for what either side says unasked (advertisements to all, solicitations of guests)."""

    def wanted(frame: bytes) -> bool:
        return (
            frame[12:14] == wire.TYPE_IPV6
            and not (frame[20] == 58 and frame[54] == 134 and frame[:2] == b"\x33\x33")
            and not (frame[20] == 58 and frame[54] == 135)
        )

    got = side.side.exchange([*frames, ping("10.0.2.2", FENCE)], 1)
    while len([f for f in got if wanted(f)]) < count or not any(map(is_fence, got)):
        got += side.side.exchange([], 1)
    return [frame for frame in got if wanted(frame)]


def fields(frame: bytes) -> Transcript:
    """Of an IPv6 packet from a side; what is random or a checksum aside."""
    first, length, protocol, hops, src, dst = wire6.IPV6.unpack_from(frame, 14)
    found: Transcript = {
        "to": frame[:6].hex(":"),
        "mac": frame[6:12].hex(":"),
        "traffic": first >> 20 & 0xFF,
        "protocol": protocol,
        "hops": hops,
        "src": wire.ip_text(src),
        "dst": wire.ip_text(dst),
    }
    body = frame[54 : 54 + length]
    if protocol == 58:
        found["icmp"] = tuple(body[:2])
        if body[0] < 128:
            found["quoted"] = body[8:48].hex()
            found["quoted bytes"] = len(body) - 8
        else:
            found["rest"] = body[4:].hex()
    elif protocol == 17:
        found["ports"] = wire.PORTS.unpack_from(body)
        found["payload"] = body[8:].hex()
    return found


def one(side: Side, frame: bytes) -> Transcript:
    (answer,) = ask(side, frame, count=1)
    return fields(answer)


def neighbour_host(side: Side, world: World) -> Transcript:
    return one(side, ns(ROUTER))


def neighbour_dns(side: Side, world: World) -> Transcript:
    return one(side, ns(DNS))


def neighbour_link_local(side: Side, world: World) -> Transcript:
    return one(side, ns(LINK, src=LOCAL))


def neighbour_nobody(side: Side, world: World) -> Transcript:
    return {"answers": len(ask(side, ns("fec0::77")))}


def router(side: Side, world: World) -> Transcript:
    """What an advertisement says."""
    got: list[bytes] = []
    frames = side.side.exchange([rs(), ping("10.0.2.2", FENCE)], 1)
    while not (got := [f for f in frames if f[12:14] == wire.TYPE_IPV6 and f[20] == 58 and f[54] == 134]):
        frames += side.side.exchange([], 1)
    while not any(map(is_fence, frames)):
        frames += side.side.exchange([], 1)
    found = fields(got[0])
    del found["rest"]
    body = got[0][54:]
    limit, flags, lifetime, reachable, retransmit = struct.unpack_from("!BBHII", body, 4)
    found |= {
        "limit": limit,
        "flags": flags,
        "lifetime": lifetime,
        "reachable": reachable,
        "again": retransmit,
    }
    at = 16
    while at < len(body):
        kind, size = body[at], body[at + 1] * 8
        found[f"option {kind}"] = body[at + 2 : at + size].hex()
        at += size
    return found


def ping_host(side: Side, world: World) -> Transcript:
    return one(side, ping6(ROUTER, bytes(range(56))))


def ping_dns(side: Side, world: World) -> Transcript:
    return one(side, ping6(DNS, b"x"))


def ping_link_local(side: Side, world: World) -> Transcript:
    return one(side, ping6(LINK, b"x", src=LOCAL))


def hop_limit_1(side: Side, world: World) -> Transcript:
    return one(side, udp6("2001:db8::9", 9, b"x", hops=1))


def udp_echo(side: Side, world: World) -> Transcript:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.settimeout(BOUND_S)
        sock.bind(("::1", 0))
        port = sock.getsockname()[1]
        ask(side, udp6(ROUTER, port, b"hello"))
        data, peer = sock.recvfrom(100)
        sock.sendto(data.upper(), peer[:2])
        (answer,) = ask(side, count=1)
    found = fields(answer)
    found["ports"] = found["ports"] == (port, 4000)
    return found


def udp_closed(side: Side, world: World) -> Transcript:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        port = sock.getsockname()[1]
    found = one(side, udp6(ROUTER, port, b"hello", sport=4011))
    del found["quoted"]
    return found


def tcp(side: Side, world: World) -> Transcript:
    """Open, hear a word, and be gone; and a port that is closed."""
    guest, router_ip = wire.ip_bytes(GUEST), wire.ip_bytes(ROUTER)
    found: Transcript = {}
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        listener.settimeout(BOUND_S)
        port = listener.getsockname()[1]
        sport = next(Side.ports)

        def give(flags: int, seq: int, ack: int, count: int = 0) -> list[Segment]:
            frame = make_frame(
                guest,
                router_ip,
                sport,
                port,
                seq,
                ack,
                flags,
                65535,
                b"\x02\x04\x05\xa0" if flags == SYN else b"",
            )
            macs = bytes.fromhex("525600000002525400123456")
            return [
                Segment(f[: 54 + wire.U16.unpack_from(f, 18)[0]])
                for f in ask(side, macs + frame[12:], count=count)
                if f[20] == 6
            ]

        (answer,) = give(SYN, 100, 0, 1)
        found["syn"] = (answer.flags, answer.ack, answer.option(2))
        sock, _ = listener.accept()
        with sock:
            give(ACK, 101, answer.seq + 1)
            sock.sendall(b"welcome")
            heard: list[Segment] = []
            while not any(seg.data for seg in heard):
                heard += [
                    Segment(f[: 54 + wire.U16.unpack_from(f, 18)[0]])
                    for f in ask(side, count=1)
                    if f[20] == 6
                ]
            found["heard"] = next(seg.data for seg in heard if seg.data)
            give(RST | ACK, 101, answer.seq + 8)
    sport = next(Side.ports)
    (closed,) = give(SYN, 100, 0, 1)
    found["closed"] = (closed.flags, closed.ack)
    return found


def dhcpv6(side: Side, world: World) -> Transcript:
    """An information request for name servers."""
    client = bytes.fromhex("0001000a00030001525400123456")
    message = bytes((11, 1, 2, 3)) + client + bytes.fromhex("000600020017")
    (answer,) = ask(side, udp6("ff02::1:2", 547, message, src=LOCAL, sport=546, hops=1), count=1)
    found = fields(answer)
    body = bytes.fromhex(found.pop("payload"))
    found["type"], found["transaction"] = body[0], body[1:4].hex()
    at = 4
    while at < len(body):
        kind, size = struct.unpack_from("!HH", body, at)
        found[f"option {kind}"] = body[at + 4 : at + 4 + size].hex()
        at += 4 + size
    return found


def spoilt(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


MALFORMED: dict[str, Callable[[], bytes]] = {
    "half a header": lambda: ping6(ROUTER)[:30],
    "version 4": lambda: spoilt(ping6(ROUTER), 14, b"\x40"),
    "payload beyond the frame": lambda: spoilt(ping6(ROUTER), 18, b"\x05\x00"),
    "ICMPv6 checksum": lambda: spoilt(ping6(ROUTER), 56, b"\x00\x01"),
    "ICMPv6 of 3 bytes": lambda: ip6(GUEST, ROUTER, 58, b"\x80\x00\x00"),
    "UDP without a checksum": lambda: ip6(GUEST, ROUTER, 17, wire.UDP.pack(4000, 9, 8, 0)),
    "UDP of 4 bytes": lambda: ip6(GUEST, ROUTER, 17, bytes(4)),
    "solicitation from elsewhere": lambda: ns(ROUTER, hops=64),
    "solicitation cut": lambda: icmp6(GUEST, ROUTER, 135, 0, 0, b"\xfe\xc0", hops=255),
    "option of length 0": lambda: icmp6(GUEST, ROUTER, 135, 0, 0, wire.ip_bytes(ROUTER) + bytes(8), hops=255),
    "TCP of 8 bytes": lambda: ip6(GUEST, ROUTER, 6, bytes(8)),
}


def malformed(side: Side, world: World) -> Transcript:
    return {name: [frame[12:60].hex() for frame in ask(side, make())] for name, make in MALFORMED.items()}


GLOBAL = "an error comes from the address that the guest routes by; libslirp's from the link-local one"
HOPS = "64, as all that is no neighbour discovery or ICMPv6 of our own; libslirp's 255 is for those alone"
TALKS = [
    Talk(neighbour_host),
    Talk(neighbour_dns),
    Talk(neighbour_link_local),
    Talk(neighbour_nobody),
    Talk(
        router,
        {
            "flags": "other configuration (names and NTP) is to be had by DHCPv6",
            "to": "who asked is answered (RFC 4861 6.2.6 permits either)",
            "dst": "the same",
            "option 5": "the MTU of the link",
            "option 25": "our name server, whether the host's own speaks IPv6 or not",
        },
    ),
    Talk(ping_host),
    Talk(ping_dns),
    Talk(ping_link_local),
    Talk(hop_limit_1, {"src": GLOBAL}),
    Talk(udp_echo, {"hops": HOPS}),
    Talk(
        udp_closed,
        {
            "mac": "the router's own; libslirp makes one of the address that it shows",
            "hops": "what came back had 64, less our hop; libslirp writes 255",
            "src": "the guest sent to fec0::2 and sees fec0::2; libslirp shows it ::1",
        },
    ),
    Talk(tcp),
    Talk(
        dhcpv6,
        {
            "ports": "from port 547; libslirp's is 547 in the wrong byte order",
            "hops": HOPS,
            "src": "a server speaks link-local to a client that does (RFC 8415 18.3)",
            "option 2": "a server identifies itself (RFC 8415 18.3.6); libslirp does not",
            "option 32": "when to ask again (RFC 8415 21.23)",
        },
    ),
    Talk(malformed, {"option of length 0": "RFC 4861 4.6: discarded; libslirp answers"}),
]


@pytest.mark.parametrize("talk", TALKS, ids=lambda talk: talk.play.__name__)
def test_talk(talk: Talk, world: World, sides6: tuple[Side, Side]) -> None:
    compare(talk, world, sides6)
