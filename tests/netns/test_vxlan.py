"""-net vxlan: two and three hosts in namespaces, the guests leasing from a DHCP server that is a guest itself."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapnet.lan import vxlan
from tests.netns.exec_kit import ROOT, Runner, daemon
from tests.netns.lan_kit import Running, inside, links, namespace
from tests.netns.lan_kit import tapnet as tapnet
from tests.netns.support import sh, until_sync
from tests.waiting import BOUND_S


class Hosts:
    """``count`` hosts, 10.66.0.N and fd66::N, on one wire; each with a guest namespace of its own."""

    def __init__(self, stack: contextlib.ExitStack, count: int, tapnet: Runner) -> None:
        self.tapnet = tapnet
        self.stack = stack
        wire = stack.enter_context(namespace("wire"))
        sh(f"ip -n {wire} link add name wire0 type bridge")
        sh(f"ip -n {wire} link set wire0 up")
        self.hosts, self.guests = [], []
        for number in range(1, count + 1):
            host = stack.enter_context(namespace(f"vx{number}"))
            self.hosts.append(host)
            self.guests.append(stack.enter_context(namespace(f"vg{number}")))
            for line in (
                f"-n {host} link add eth0 type veth peer name p{number} netns {wire}",
                f"-n {wire} link set p{number} master wire0 up",
                f"-n {host} link set eth0 up",
                f"-n {host} addr add 10.66.0.{number}/24 dev eth0",
                f"-n {host} addr add fd66::{number}/64 dev eth0 nodad",
            ):
                sh(f"ip {line}")

    def run(self, number: int, options: str) -> Running:
        """``tapnet run`` on host ``number`` (from 1), with ``box`` standing for its guest."""
        words = options.replace("/run/netns/box", f"/run/netns/{self.guests[number - 1]}").split()
        return self.stack.enter_context(Running(inside(self.hosts[number - 1], self.tapnet), *words))

    def guest(self, number: int, command: str) -> str:
        """In guest ``number``."""
        return sh(f"ip netns exec {self.guests[number - 1]} {command}", timeout=BOUND_S)

    def serve(self) -> None:
        """Guest 1 is 192.168.99.1 and gives leases, with the segment's MTU."""
        sh(f"ip -n {self.guests[0]} addr add 192.168.99.1/24 dev eth0")
        words = (
            f"ip netns exec {self.guests[0]} dnsmasq --no-daemon --user=root --port=0 --no-ping --conf-file=/dev/null "
            "--dhcp-range=192.168.99.50,192.168.99.60,10m --dhcp-authoritative --interface=eth0 --leasefile-ro "
            "--bind-interfaces --dhcp-option=26,1450"
        )
        self.stack.enter_context(daemon(words.split()))

    def lease(self, number: int) -> str:
        """Guest ``number`` gets an address from guest 1's server, by busybox's client."""
        script = "/tmp/none" if not self.tapnet.home else str(self.tapnet.home / f"udhcpc{number}")
        Path(script).write_text('#!/bin/sh\n[ "$1" = bound ] && ip addr add $ip/24 dev $interface\nexit 0\n')
        Path(script).chmod(0o755)
        self.guest(number, f"busybox udhcpc -i eth0 -n -q -t 10 -T 2 -s {script}")
        shown = json.loads(self.guest(number, "ip -4 -j addr show eth0"))[0]["addr_info"]
        assert shown[0]["local"].startswith("192.168.99.")
        return str(shown[0]["local"])


@pytest.fixture
def hosts(tapnet: Runner) -> Iterator[Hosts]:
    with contextlib.ExitStack() as stack:
        yield Hosts(stack, 3, tapnet)


def documented() -> dict[str, list[tuple[int, str]]]:
    """The commands of docs/multi-host.md by the number of their segment: (host, options of run)."""
    found: dict[str, list[tuple[int, str]]] = {}
    for line in (ROOT / "docs/multi-host.md").read_text().splitlines():
        if line.startswith("host") and "# tapnet run " in line:
            host, options = line[4:].split("# tapnet run ")
            found.setdefault(options.split("id=")[1].split(",")[0], []).append((int(host), options))
    return found


@pytest.mark.parametrize("segment", ["42", "43", pytest.param("44", marks=pytest.mark.slow)])
def test_the_commands_of_the_documentation(hosts: Hosts, segment: str) -> None:
    """T5: two hosts by remote=, three by group=, three by several remote=: DHCP, ping, iperf3, and no trace afterwards."""
    commands = documented()[segment]
    assert len(commands) == (2 if segment == "42" else 3)
    before = [links(name).keys() for name in hosts.hosts]
    running = [hosts.run(number, options) for number, options in commands]
    hosts.serve()
    addresses = ["192.168.99.1", *(hosts.lease(number) for number, _ in commands[1:])]
    for number, _ in commands:
        for address in addresses:
            hosts.guest(number, f"ping -c 1 -w 20 {address}")
    shown = links(hosts.hosts[0])
    assert shown[f"vxlan{segment}"]["master"] == f"brvx{segment}" == shown["tap0"]["master"]
    assert {shown[name]["mtu"] for name in (f"vxlan{segment}", f"brvx{segment}", "tap0")} == {1450}
    assert f"vxlan: id={segment}," in running[0].monitor("info", "network")
    with daemon(["ip", "netns", "exec", hosts.guests[0], "iperf3", "-s"]):
        until_sync(lambda: ":5201" in hosts.guest(1, "ss -ltn"), "iperf3")
        report = json.loads(hosts.guest(2, "iperf3 -J -c 192.168.99.1 -n 1M"))
        assert report["end"]["sum_sent"]["bytes"] >= 1 << 20 and report["end"]["sum_received"]["bytes"] > 0
    for one in running:
        assert one.stop() == 0
    assert [links(name).keys() for name in hosts.hosts] == before


def test_over_ipv6_and_with_a_bridge_that_is_there(hosts: Hosts) -> None:
    sh(f"ip -n {hosts.hosts[0]} link add br7 type bridge")
    direct = "-net nic,model=direct,netns=/run/netns/box,mtu=1430,macaddr=52:54:00:00:77:0"
    one = hosts.run(
        1, f"{direct}1 -net vxlan,id=5,remote=fd66::2,local=fd66::1,dev=eth0,port=8472,br=br7,ifname=vt0"
    )
    two = hosts.run(2, f"{direct}2 -net vxlan,id=5,remote=fd66::1,dev=eth0,port=8472")
    hosts.serve()
    hosts.lease(2)
    hosts.guest(2, "ping -M do -s 1402 -c 1 -w 20 192.168.99.1")  # as large as can be
    assert links(hosts.hosts[0])["vt0"]["master"] == "br7"
    assert one.stop() == 0 and two.stop() == 0
    left = links(hosts.hosts[0])
    assert "br7" in left and not {"vt0", "vxlan5"} & set(left)


def test_what_is_deleted_is_made_again_and_what_was_killed_is_cleaned_up(hosts: Hosts) -> None:
    options = documented()["42"]
    hosts.run(2, options[1][1])
    first = hosts.run(1, options[0][1])
    host = hosts.hosts[0]
    hosts.serve()
    hosts.lease(2)
    for name in ("vxlan42", "brvx42"):
        index = links(host)[name]["ifindex"]
        sh(f"ip -n {host} link del {name}")
        until_sync(
            lambda name=name, index=index: links(host).get(name, {}).get("ifindex") not in (None, index),
            f"{name} again",
        )
        until_sync(lambda: links(host).get("tap0", {}).get("master") == "brvx42", "tap0 in it")
        hosts.guest(2, "ping -c 1 -w 30 192.168.99.1")
    assert "vxlan42 was deleted" in first.said()
    old = {name: links(host)[name]["ifindex"] for name in ("vxlan42", "brvx42")}
    assert first.stop(signal.SIGKILL) != 0
    assert {"vxlan42", "brvx42"} <= set(links(host))
    until_sync(lambda: "eth0" not in sh(f"ip -n {hosts.guests[0]} link"), "the killed one's interface")
    second = hosts.run(1, options[0][1])
    now = links(host)
    assert all(now[name]["ifindex"] != index for name, index in old.items())
    assert "a process that is dead left" in second.said()
    third = subprocess.run(
        inside(host, hosts.tapnet).argv("run", "-net", "nic", "-net", "vxlan,id=42,remote=10.66.0.3"),
        env=hosts.tapnet.env, capture_output=True, text=True, timeout=BOUND_S,
    )  # fmt: skip
    assert third.returncode == 2
    assert "vni=42: there is a vxlan42 already; join its bridge: -net tap,br=" in third.stderr
    assert second.stop() == 0
    assert not {"vxlan42", "brvx42", "tap0"} & set(links(host))


MISTAKES = [
    ("id=9,remote=10.66.0.2,dev=eth9", "dev=eth9: no such interface"),
    ("id=9,remote=10.66.0.2,dev=eth0,mtu=1500", "mtu=1500: more than fits into a packet of dev=eth0"),
    ("id=9,remote=10.66.0.2,br=eth0", "br=eth0: is no bridge"),
    ("id=9,remote=10.66.0.2,ifname=eth0", "ifname=eth0"),
]


def test_mistakes_are_one_line_and_leave_nothing(tapnet: Runner) -> None:
    with contextlib.ExitStack() as stack:
        host = Hosts(stack, 1, tapnet).hosts[0]
        before = links(host).keys()
        for option, said in MISTAKES:
            done = subprocess.run(
                inside(host, tapnet).argv("run", "-net", "nic", "-net", f"vxlan,{option}"),
                env=tapnet.env, capture_output=True, text=True, timeout=BOUND_S,
            )  # fmt: skip
            assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
            assert said in done.stderr
            assert links(host).keys() == before


def test_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of a process that lives, or may live, is left alone."""
    mine = vxlan.mark()
    space = mine.split()[1]
    assert not vxlan.orphaned(mine)
    assert vxlan.orphaned(f"tapnet {space} 4194303 1")
    assert vxlan.orphaned(" ".join([*mine.split()[:3], "1"]))  # its number has another owner now
    for other in ("", "uplink to core", "tapnet 1 4194303 1", f"tapnet {space} x"):
        assert not vxlan.orphaned(other)
