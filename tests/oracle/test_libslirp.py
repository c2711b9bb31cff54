"""Our user-mode network beside libslirp: the same frames to both, the answers compared field by field.

The oracle is QEMU with no machine at all: its ``user`` backend and a socket on one hub. Both
sides have real sockets on the host's loopback behind them. ``ACCEPTED`` lists every difference with its
reason; a difference that is not listed fails, and so does a listed one that does not occur."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from slirp.wire import ipv4 as wire
from tests.oracle.libslirp import Oracle, Ours, fields
from tests.oracle.listed import judge
from tests.slirp.fakes import DNS_MAC, GUEST_MAC, HOST_MAC, arp, ip4, ping, udp
from tests.slirp.services.test_dhcp import query
from tests.slirp.test_stack import tcp

FENCE = b"fence"


# ---- the cases ---------------------------------------------------------------------------------------------


@dataclass
class World:
    """The host's end: ports that answer and ports that do not."""

    udp_echo: int
    udp_closed: int
    tcp_open: int
    tcp_closed: int


@dataclass
class Case:
    name: str
    make: Any  # World -> frames
    answers: int = 1
    accepted: dict[str, str] = field(default_factory=dict)  # field -> why we differ
    after: Any = None  # World -> frames that end what the case began


GATEWAY_MAC = "packets carry the MAC of their source address; libslirp always the gateway's"
ARP_SIZE = "60 bytes, the least Ethernet frame without FCS; libslirp sends 64"
LEAK = "the guest sent to 10.0.2.2 and sees 10.0.2.2; libslirp shows it 127.0.0.1"
ERROR_TTL = "the TTL of the error that came back, less our hop; libslirp writes errors of its own"
PORT_CODE = "a port that is not served is port unreachable; libslirp says net unreachable"
OWN_ERROR = (
    "port unreachable comes from the host that was asked (RFC 1122 3.2.2); libslirp's from the gateway"
)
DHCP_SIZE = "300 bytes, the least BOOTP message; libslirp always sends its largest"
UNICAST = "the client did not set the broadcast bit (RFC 2131 4.1); libslirp always broadcasts"
DHCP_ORDER = "the order of the parameter request list, then what RFC 2131 has us add"
T1_T2 = "the client asked for it; libslirp does not know the option"
MTU_OPTION = "the client asked for the MTU; libslirp ignores it"
RST_WINDOW = "the window of a RST means nothing; 0, as Linux has it"
RST_TTL = "64 as all TCP of ours; libslirp sends this one with 255"
DHCP_TOS = "no type of service asked for; libslirp sends DHCP as low delay"

CASES = [
    Case("arp host", lambda w: [arp(1, "10.0.2.15", "10.0.2.2")], accepted={"size": ARP_SIZE}),
    Case("arp dns", lambda w: [arp(1, "10.0.2.15", "10.0.2.3")], accepted={"size": ARP_SIZE}),
    Case("arp other", lambda w: [arp(1, "10.0.2.15", "10.0.2.77")], 0),
    Case("arp itself", lambda w: [arp(1, "10.0.2.15", "10.0.2.15")], 0),
    Case("ping host", lambda w: [ping("10.0.2.2", bytes(range(56)))]),
    Case("ping dns", lambda w: [ping("10.0.2.3", b"x", to=DNS_MAC)], accepted={"mac": GATEWAY_MAC}),
    Case("ping with tos", lambda w: [ping("10.0.2.2", b"x", tos=0x10)]),
    Case("udp echo", lambda w: [udp("10.0.2.2", w.udp_echo, b"hello")]),
    Case("udp echo without checksum", lambda w: [udp("10.0.2.2", w.udp_echo, b"hello", check=False)]),
    Case("udp empty", lambda w: [udp("10.0.2.2", w.udp_echo, b"")]),
    Case(
        "udp closed",
        lambda w: [udp("10.0.2.2", w.udp_closed, b"hello", sport=4009)],
        accepted={"src": LEAK, "ttl": ERROR_TTL},
    ),
    Case(
        "udp dns other port",
        lambda w: [udp("10.0.2.3", 54, b"hello")],
        accepted={"icmp": PORT_CODE, "src": OWN_ERROR, "mac": GATEWAY_MAC},
    ),
    Case("udp ttl 1", lambda w: [udp("192.0.2.1", 9, b"hello", ttl=1)]),
    Case("udp bad checksum", lambda w: [udp("10.0.2.2", w.udp_echo, b"hello")[:-1] + b"!"], 0),
    Case("ip bad checksum", lambda w: [ping("10.0.2.2")[:24] + b"\x12\x34" + ping("10.0.2.2")[26:]], 0),
    Case(
        "tcp closed",
        lambda w: [tcp("10.0.2.2", w.tcp_closed, sport=4100)],
        accepted={"window": RST_WINDOW},
    ),
    Case(
        "tcp open",
        lambda w: [tcp("10.0.2.2", w.tcp_open, sport=4101)],
        after=lambda w: [tcp("10.0.2.2", w.tcp_open, 4, seq=1001, sport=4101)],
    ),
    Case(
        "tcp without a connection",
        lambda w: [tcp("10.0.2.2", w.tcp_open, 0x10, ack=77, sport=4102)],
        accepted={"ttl": RST_TTL},
    ),
    Case(
        "dhcp discover",
        lambda w: [query(1, {55: b"\x01\x03\x06\x1a\x3a"})],
        accepted={
            "size": DHCP_SIZE,
            "to": UNICAST,
            "dst": UNICAST,
            "order": DHCP_ORDER,
            "option 26": MTU_OPTION,
            "option 58": T1_T2,
            "tos": DHCP_TOS,
        },
    ),
    Case(
        "dhcp request",
        lambda w: [
            query(3, {50: wire.ip_bytes("10.0.2.15"), 54: wire.ip_bytes("10.0.2.2"), 55: b"\x01\x03\x06"})
        ],
        accepted={"size": DHCP_SIZE, "to": UNICAST, "dst": UNICAST, "order": DHCP_ORDER, "tos": DHCP_TOS},
    ),
]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    sockets = [socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM) * 2]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    echo = sockets[0]
    sockets[1].listen(8)
    for sock in sockets[2:]:
        sock.close()
    server = subprocess.Popen(
        [
            "python3",
            "-c",
            "import socket, sys\n"
            "sock = socket.socket(fileno=int(sys.argv[1]))\n"
            "while True:\n"
            "    data, peer = sock.recvfrom(65536)\n"
            "    sock.sendto(data, peer)\n",
            str(echo.fileno()),
        ],
        pass_fds=[echo.fileno()],
    )
    yield World(ports[0], ports[2], ports[1], ports[3])
    server.kill()
    server.wait()
    for sock in sockets[:2]:
        sock.close()


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Oracle, Ours]]:
    assert shutil.which("qemu-system-x86_64"), "qemu-system-x86 is not installed"
    both = (Oracle(), Ours())
    for side in both:
        side.exchange([arp(1, "10.0.2.15", "10.0.2.2")], 1)
    yield both
    for side in both:
        side.close()


@pytest.fixture
def alone() -> Iterator[Ours]:
    """Ours without what earlier cases left (a connection that retransmits)."""
    ours = Ours()
    ours.exchange([arp(1, "10.0.2.15", "10.0.2.2")], 1)
    yield ours
    ours.close()


def is_fence(frame: bytes) -> bool:
    return frame[12:14] == wire.TYPE_IPV4 and frame[23] == 1 and FENCE in frame


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_libslirp(case: Case, world: World, sides: tuple[Oracle, Ours]) -> None:
    frames = case.make(world)
    answers = []
    for side in sides:
        got = side.exchange(frames, case.answers) if case.answers else []
        after = case.after(world) if case.after else []
        got += side.exchange([*after, ping("10.0.2.2", FENCE)], 1)
        answers.append([fields(frame) for frame in got if not is_fence(frame)])
    theirs, ours = answers
    assert len(theirs) == len(ours) == case.answers
    different: dict[str, list[Any]] = {}
    for their, our in zip(theirs, ours):
        for key in their.keys() | our.keys():
            if their.get(key) != our.get(key):
                different.setdefault(key, []).append((their.get(key), our.get(key)))
    judge(different, case.accepted)


# ---- where we do otherwise altogether ----------------------------------------------------------------------


def test_an_unused_address_of_the_net_is_asked_for_first(alone: Ours) -> None:
    """libslirp hands the datagram to the host, which would send it out of this machine (so it is not asked
    here). We ask by ARP, as a router does, then: host unreachable."""
    ours = alone.exchange([udp("10.0.2.99", 9, b"hello")], 4)
    assert [f[12:14] for f in ours] == [wire.TYPE_ARP] * 3 + [wire.TYPE_IPV4]
    assert fields(ours[-1])["icmp"] == (3, 1)


@pytest.mark.parametrize("dst", ["127.0.0.1", "127.3.2.1"])
def test_the_hosts_loopback_is_not_there_by_its_own_name(
    dst: str, world: World, sides: tuple[Oracle, Ours]
) -> None:
    """libslirp 4.7 lets a guest reach the host's loopback by 127.0.0.1; we never do."""
    (ours,) = sides[1].exchange([udp(dst, world.udp_echo, b"hello")], 1)
    assert fields(ours)["icmp"] == (3, 0)
    if dst == "127.0.0.1":
        (theirs,) = sides[0].exchange([udp(dst, world.udp_echo, b"hello")], 1)
        assert fields(theirs)["protocol"] == 17


def test_ttl_1_counts_for_tcp_and_icmp_too(sides: tuple[Oracle, Ours]) -> None:
    """libslirp lets them pass."""
    frames = [
        ping("192.0.2.1", ttl=1),
        ip4("10.0.2.15", "192.0.2.1", 6, bytes(12) + b"\x50\x02" + bytes(6), ttl=1),
    ]
    ours = sides[1].exchange(frames, 2)
    assert [fields(frame)["icmp"] for frame in ours] == [(11, 0)] * 2


def test_frames_for_another_station_are_not_taken(sides: tuple[Oracle, Ours]) -> None:
    """libslirp answers whatever the destination MAC: wrong on a hub with several guests."""
    frame = ping("10.0.2.2", b"x", to=b"\x52\x54\x00\x00\x00\x77")
    (theirs,) = sides[0].exchange([frame], 1)
    assert fields(theirs)["icmp"] == (0, 0)
    (ours,) = sides[1].exchange([frame, ping("10.0.2.2", FENCE)], 1)
    assert is_fence(ours)


def test_our_macs() -> None:
    assert (HOST_MAC.hex(":"), DNS_MAC.hex(":")) == ("52:55:0a:00:02:02", "52:55:0a:00:02:03")
    assert GUEST_MAC.hex(":") == "52:54:00:12:34:56"
