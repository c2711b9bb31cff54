"""Namespaces that play the Internet: a host on which tapnet runs, some routers in a row, and a server at their end.

    host 10.77.0.1 -- 10.77.0.2 r1 10.77.1.1 -- 10.77.1.2 r2 10.77.2.1 -- ... -- 10.77.N.2 server

and the same in IPv6 with fd77:1:N+1::. All belongs to namespaces of its own and goes with them. Nothing of it is limited in
how many ICMP errors it sends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.netns.exec_kit import Runner
from tests.netns.support import fresh, sh

_numbers = itertools.count()


@dataclass(frozen=True)
class Internet:
    """``host``, ``routers`` and ``server`` are names of namespaces."""

    host: str
    routers: tuple[str, ...]
    server: str

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in a row."""
        return (self.host, *self.routers, self.server)

    def hops(self, family: int = 4) -> list[str]:
        """What a trace from behind the host shows after the gateway: the near sides of the routers, the server."""
        row = range(len(self.routers))
        near = [address(family, n, 2) for n in row]
        return [*near, self.address(family)]

    def address(self, family: int = 4) -> str:
        """The server's."""
        return address(family, len(self.routers), 2)

    def mtu(self, link: int, value: int) -> None:
        """Of the wire between the namespaces ``link`` and ``link`` + 1, at both ends."""
        sh(f"ip -n {self.names[link]} link set right mtu {value}")
        sh(f"ip -n {self.names[link + 1]} link set left mtu {value}")

    def rule(self, router: int, rules: str) -> None:
        """nftables rules of a router's forward chain, each with a semicolon at its end."""
        name = self.routers[router]
        text = f"table inet t {{ chain c {{ type filter hook forward priority 0; {rules} }}; }}"
        sh(f"ip netns exec {name} nft '{text}'")

    def inside(self, runner: Runner) -> Runner:
        """tapnet on the host of this Internet."""
        prefix = ("ip", "netns", "exec", self.host, *runner.prefix)
        return Runner(runner.name, prefix, runner.env, runner.home)

    def set(self, name: str, key: str, value: str) -> None:
        """A sysctl of one namespace."""
        sh(f"ip netns exec {name} sysctl -qw '{key}={value}'")


def address(family: int, wire: int, side: int) -> str:
    """Of the left (1) or right (2) end of a wire."""
    return f"10.77.{wire}.{side}" if family == 4 else f"fd77:1:{wire + 1}::{side}"


@contextlib.contextmanager
def internet(routers: int = 3, pings: Sequence[int] = (0, 2147483647)) -> Iterator[Internet]:
    """Build it and take it away. ``pings``: the host's ping_group_range."""
    mark = f"{os.getpid()}-{next(_numbers)}"
    net = Internet(f"ih-{mark}", tuple(f"ir{n}-{mark}" for n in range(routers)), f"is-{mark}")
    last = len(net.names) - 1
    with contextlib.ExitStack() as stack:
        for name in net.names:
            sh(f"ip netns add {name}")
            stack.callback(sh, f"ip netns del {name}", check=False)
            fresh(name)
            sh(f"ip -n {name} link set lo up")
            sh(
                f"ip netns exec {name} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 "
                "net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0 net.ipv4.conf.all.rp_filter=0 "
                "net.ipv4.conf.default.rp_filter=0"
            )
        for wire in range(last):
            left, right = net.names[wire], net.names[wire + 1]
            sh(f"ip -n {left} link add right type veth peer name left netns {right}")
            for name, end, side in ((left, "right", 1), (right, "left", 2)):
                sh(f"ip -n {name} addr add {address(4, wire, side)}/24 dev {end}")
                sh(f"ip -n {name} addr add {address(6, wire, side)}/64 dev {end} nodad")
                sh(f"ip -n {name} link set {end} up")
        for n, name in enumerate(net.names):
            for family, width in ((4, 24), (6, 64)):
                ip = f"ip -n {name} -{family} route add"
                if n < last:
                    sh(f"{ip} default via {address(family, n, 2)}")
                else:
                    sh(f"{ip} default via {address(family, n - 1, 1)}")
                for wire in range(n - 1 if n < last else 0):
                    sh(f"{ip} {address(family, wire, 0)}/{width} via {address(family, n - 1, 1)}")
        net.set(net.host, "net.ipv4.ping_group_range", " ".join(map(str, pings)))
        yield net
