"""One frame through the user-mode network, on a fake host: ARP, ICMP echo, UDP both ways, DHCP, the same over IPv6; and the checksum.

Each round moves ``ROUND`` frames, so that the clock's own cost does not count.
"""

from __future__ import annotations

import os

import pytest

from slirp.wire import checksum
from slirp.wire.ipv4 import TUN_F_CSUM, TUN_F_USO4
from tests.slirp.fakes import Net, arp, ping, udp
from tests.slirp.fakes6 import REMOTE, ROUTER, Net6, ns, ping6, udp6
from tests.slirp.services.test_dhcp import query

ROUND = 256


class Sink:
    """A socket that takes all and has one datagram again and again."""

    def __init__(self, payload: bytes) -> None:
        self.item = (payload, ("192.0.2.1", 9))
        self.left = 0

    def sendto(self, data: bytes, remote: tuple[str, int], ttl: int = 64) -> int:
        return 0

    def recv(self) -> tuple[bytes, tuple[str, int]] | None:
        if not self.left:
            return None
        self.left -= 1
        return self.item

    def error(self) -> None:
        return None

    def close(self) -> None:
        pass


def bench_net(payload: bytes = b"") -> tuple[Net, Sink]:
    """A stack whose frames go nowhere, with one UDP flow on a sink."""
    net = Net6()
    sink = Sink(payload)
    net.host.udp = lambda family, events: sink  # type: ignore[method-assign,assignment,return-value]
    net.put(udp("192.0.2.1", 9, b"x"))
    net.stack._tx = lambda frame, vnet: True
    return net, sink


FRAMES = {
    "arp": arp(1, "10.0.2.15", "10.0.2.2"),
    "ping 56": ping("10.0.2.2", bytes(56)),
    "ping 1472": ping("10.0.2.2", bytes(1472)),
    "udp 64": udp("192.0.2.1", 9, os.urandom(64)),
    "udp 1400": udp("192.0.2.1", 9, os.urandom(1400)),
    "not ours": ping("10.0.2.2", to=b"\x52\x54\x00\x00\x00\x09"),
    "ns": ns(ROUTER),
    "ping6 56": ping6(ROUTER, bytes(56)),
    "udp6 64": udp6(REMOTE, 9, os.urandom(64)),
    "udp6 1400": udp6(REMOTE, 9, os.urandom(1400)),
    "dhcp discover": query(1, {55: b"\x01\x03\x06\x0f\x1a\x77"}),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_input(benchmark, kind: str) -> None:
    net, _ = bench_net()
    frame = FRAMES[kind]
    put = net.stack.input

    def run() -> None:
        for _ in range(ROUND):
            put(frame, b"", 2_000_000_000)

    benchmark(run)
    benchmark.extra_info["frames_per_round"] = ROUND
    assert net.count("tx_dropped") == 0


@pytest.mark.parametrize(
    "features", [0, TUN_F_CSUM, TUN_F_CSUM | TUN_F_USO4], ids=["checksum", "partial", "uso"]
)
@pytest.mark.parametrize("size", [64, 1400, 60000])
def test_udp_to_guest(benchmark, size: int, features: int) -> None:
    net, sink = bench_net(os.urandom(size))
    net.stack.set_features(features)
    (flow,) = net.stack.udp._flows.values()
    sent = []
    net.stack._tx = lambda frame, vnet: not sent.append(len(frame))

    def run() -> None:
        sink.left = ROUND
        sent.clear()
        while sink.left:
            flow.host_readable(2_000_000_000)

    benchmark(run)
    benchmark.extra_info["datagrams_per_round"] = ROUND
    assert sum(sent) >= ROUND * size


@pytest.mark.parametrize("size", [20, 1460, 65000])
def test_checksum(benchmark, size: int) -> None:
    data = os.urandom(size)
    field = benchmark(checksum.checksum, data)
    assert field % 65535 == (65535 - checksum.slow_total(data)) % 65535
