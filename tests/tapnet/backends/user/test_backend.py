"""The user backend on a real loop and a real hub, with real sockets behind it."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from slirp.wire import ipv4 as wire
from tapnet.backends.user.backend import FEATURES, UserBackend, stack_config
from tapnet.config import UserNet
from tapnet.options import parse as options
from tapnet.virtio import TUN_F_CSUM, TUN_F_TSO4
from tapnet.vlan.hub import Hub
from tapnet.vlan.port import Port
from tests.slirp.fakes import GUEST_MAC, arp, ping, read, udp
from tests.waiting import BOUND_S, until_async


def user_net(*words: str) -> UserNet:
    config = options.parse(["-net", "nic", "-net", ",".join(["user", *words])])
    (net,) = config.nets
    assert isinstance(net, UserNet)
    return net


class Bench:
    """A hub with the backend and a guest's port."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *words: str, features: int = 0) -> None:
        self.loop = loop
        self.hub = Hub(0, loop.call_soon)
        self.user = UserBackend(user_net(*words), loop, rng=random.Random(1))
        self.offered: list[int] = []
        self.got: list[tuple[bytes, bytes]] = []
        self.taking = True
        self.port = Port("guest", self._take, features=features, offer=self.offered.append)
        self.hub.add(self.user.port)
        self.hub.add(self.port)

    def _take(self, frame: bytes, vnet: bytes) -> bool:
        if self.taking:
            self.got.append((frame, vnet))
        return self.taking

    def until(self, condition: Callable[[], object]) -> None:
        self.loop.run_until_complete(until_async(condition, "condition", pause=0.001))

    def frames(self) -> list[bytes]:
        found = [frame for frame, _ in self.got]
        self.got.clear()
        return found


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    found = asyncio.new_event_loop() if request.param == "asyncio" else uvloop.new_event_loop()
    yield found
    found.close()


@pytest.fixture
def bench(loop: asyncio.AbstractEventLoop) -> Iterator[Bench]:
    found = Bench(loop)
    yield found
    found.user.close()


def test_announces_itself_at_start(bench: Bench) -> None:
    bench.user.start()
    bench.until(lambda: len(bench.got) == 6)
    first, second, *six = bench.frames()
    assert [frame[28:32] for frame in (first, second)] == [b"\x0a\0\2\2", b"\x0a\0\2\3"]
    assert [frame[54] for frame in six] == [136, 136, 136, 134]  # three addresses, and the router


def test_ping_through_the_hub(bench: Bench) -> None:
    bench.port.send(arp(1, "10.0.2.15", "10.0.2.2"))
    bench.port.send(ping("10.0.2.2"))
    bench.until(lambda: len(bench.got) == 2)
    assert read(bench.got[1][0]).kind == (0, 0)


def test_udp_to_the_host_and_back(bench: Bench) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
        echo.bind(("127.0.0.1", 0))
        echo.settimeout(BOUND_S)
        port = echo.getsockname()[1]
        bench.port.send(udp("10.0.2.2", port, b"hello"))
        bench.until(lambda: bench.user.rows())
        data, address = echo.recvfrom(100)
        assert data == b"hello"
        echo.sendto(b"world", address)
        bench.until(lambda: bench.got)
        answer = read(*bench.got[0])
        assert (answer.src, answer.ports, answer.payload) == ("10.0.2.2", (port, 4000), b"world")
        assert answer.to == GUEST_MAC
        (row,) = bench.user.rows()
        assert row[:2] in (("UDP", "239 sec"), ("UDP", "240 sec"))
        assert row.fd > 2
        assert row[3:7] == ("10.0.2.15", 4000, "10.0.2.2", port)


def test_a_closed_port_of_the_host(bench: Bench) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    bench.port.send(udp("10.0.2.2", port, b"hello"))
    bench.until(lambda: bench.got)
    answer = read(*bench.got[0])
    assert (answer.src, answer.kind) == ("10.0.2.2", (3, 3))
    assert answer.payload[16:20] == wire.ip_bytes("10.0.2.2")


def test_timers_fire_by_themselves(bench: Bench) -> None:
    bench.port.send(arp(1, "10.0.2.15", "10.0.2.2"))
    bench.port.send(udp("10.0.2.99", 9, b"nobody"))
    bench.until(lambda: any(frame[12:14] == wire.TYPE_IPV4 for frame, _ in bench.got))
    assert read(bench.got[-1][0]).kind == (3, 1)
    assert len(bench.got) == 1 + 3 + 1


def test_back_pressure_reaches_the_stack_and_ends(bench: Bench) -> None:
    bench.port.queue_frames = 2
    bench.taking = False
    bench.port.send(arp(1, "10.0.2.15", "10.0.2.2"))
    for _ in range(9):
        bench.port.send(ping("10.0.2.2"))
    bench.until(lambda: bench.user.stack.counters.get("icmp_echo") == 9)
    bench.taking = True
    bench.port.flush()
    bench.until(lambda: len(bench.got) == 10)


def test_what_the_hub_offers_is_used(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, features=TUN_F_CSUM | TUN_F_TSO4)
    try:
        assert bench.user.stack.features == TUN_F_CSUM | TUN_F_TSO4
        assert bench.offered[-1] == FEATURES
        bench.port.set_features(0)
        assert bench.user.stack.features == 0
    finally:
        bench.user.close()


def test_close_is_idempotent_and_leaves_no_descriptor(bench: Bench) -> None:
    bench.port.send(udp("10.0.2.2", 9, b"hello"))
    bench.until(lambda: len(bench.user.host))
    bench.user.close()
    bench.user.close()
    assert len(bench.user.host) == 0
    bench.port.send(ping("10.0.2.2"))
    bench.until(lambda: not bench.user.port.queue)


def test_info_line(bench: Bench) -> None:
    assert bench.user.info_line() == "user redirector"
    assert (bench.user.name, bench.user.vlan) == ("user.0", 0)
    assert "ip" in bench.user.counters()


def test_options_arrive_in_the_engine() -> None:
    config = stack_config(
        user_net(
            "net=192.168.7.0/24",
            "host=192.168.7.1",
            "hostname=guest",
            "dnssearch=a.example",
            "dnssearch=b.example",
            "restrict=on",
            "hostloopback=off",
            "resolver=127.0.0.1:5353",
            "lease-time=3600",
        )
    )
    assert wire.ip_text(config.host_ip) == "192.168.7.1"
    assert wire.ip_text(config.dhcp_first) == "192.168.7.15"
    assert (config.hostname, config.dnssearch) == ("guest", ("a.example", "b.example"))
    assert (config.restrict, config.hostloopback) == (True, False)
    assert config.resolver == (("127.0.0.1", 5353),)
    assert config.lease_time == 3600


@pytest.mark.parametrize(
    ("words", "v4", "net"),
    [
        ((), True, "fec0::/64"),
        (("ipv6=on",), False, "fec0::/64"),
        (("ipv6=off",), True, None),
        (("ipv4=on",), True, None),
        (("mtu=1279",), True, None),
        (("ipv6-net=fd00:7::/48",), True, "fd00:7::/48"),
        (("ipv6-prefix=fd00:7::", "ipv6-prefixlen=80"), True, "fd00:7::/80"),
        (("ipv6-ula=on",), True, "fd39:d0aa:f4cc::/64"),
    ],
)
def test_families_arrive_in_the_engine(words: tuple[str, ...], v4: bool, net: str | None) -> None:
    config = stack_config(user_net(*words))
    assert config.ipv4 == v4
    assert (str(config.v6.network) if config.v6 else None) == net


def test_ipv6_addresses_arrive_in_the_engine() -> None:
    words = ("ipv6-host=fec0::a", "ipv6-dns=fec0::b", "ntp=10.0.2.9", "ntp=2001:db8::7b")
    config = stack_config(user_net(*words))
    assert config.v6 is not None
    assert [wire.ip_text(address) for address in config.v6.own] == ["fec0::a", "fec0::b", "fe80::2"]
    assert (config.ntp, config.v6.ntp) == (("10.0.2.9",), ("2001:db8::7b",))


def test_ipv6_alone_needs_its_mtu(loop: asyncio.AbstractEventLoop) -> None:
    with pytest.raises(ValueError, match="ipv4=off: IPv6 needs an MTU of 1280, and a card has 1000"):
        UserBackend(replace(user_net("ipv6=on"), mtu=1000), loop)


def test_leases_of_ipv6_are_kept(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    address = wire.ip_bytes("fec0::1000")
    for run in range(2):
        bench = Bench(loop, f"state={tmp_path}")
        side = bench.user.stack.side6
        assert side is not None
        if run == 0:
            lease = side.dhcp.leases.claim(b"client", GUEST_MAC, address, 0)
            assert lease is not None
            side.dhcp.leases.bind(lease, 600, bench.user.stack.now)
        else:
            assert side.dhcp.leases.of(b"client") is not None
        bench.user.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["user.0.ipv6.leases"]
