"""``tapnet route``: a guest on the LAN of an uplink that is not bridged, with a real DHCP client, server and routers."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.bridge_kit import differences, state
from tests.netns.exec_kit import ROOT, Runner, daemon
from tests.netns.lan_kit import Running, inside, namespace
from tests.netns.lan_kit import tapnet as tapnet
from tests.netns.support import sh, until_sync

SECONDS = 60
MAC = "52:54:00:00:70:01"


class Scene:
    """A LAN 192.168.77.0/24, 2001:db8:77::/64 with a router .1 (DHCP, RA) and a neighbour .3; the host .2; a guest."""

    def __init__(self, stack: contextlib.ExitStack, tapnet: Runner) -> None:
        self.stack, self.tapnet = stack, tapnet
        self.host, self.lan, self.peer, self.guest = (
            stack.enter_context(namespace(name)) for name in ("rh", "rl", "rp", "rg")
        )
        # a router says in its neighbour advertisements that it is one
        sh(
            f"ip netns exec {self.lan} sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0"
        )
        sh(f"ip -n {self.lan} link add br9 type bridge")
        sh(f"ip -n {self.lan} link set br9 up")
        for number, name in ((2, self.host), (3, self.peer)):
            sh(f"ip netns exec {name} sysctl -qw net.ipv6.conf.default.accept_dad=0")
            sh(f"ip -n {name} link add eth0 type veth peer name port{number} netns {self.lan}")
            sh(f"ip -n {self.lan} link set port{number} master br9 up")
            sh(f"ip -n {name} link set eth0 up")
            sh(f"ip -n {name} addr add 192.168.77.{number}/24 dev eth0")
            sh(f"ip -n {name} addr add 2001:db8:77::{number}/64 dev eth0 nodad")
            sh(f"ip -n {name} route add default via 192.168.77.1")
        sh(f"ip -n {self.lan} addr add 192.168.77.1/24 dev br9")
        sh(f"ip -n {self.lan} addr add 2001:db8:77::1/64 dev br9 nodad")
        until_sync(lambda: "tentative" not in sh(f"ip -n {self.lan} addr"), "the router's address")
        words = (
            f"ip netns exec {self.lan} dnsmasq --no-daemon --user=root --port=0 --no-ping --conf-file=/dev/null "
            "--dhcp-range=192.168.77.50,192.168.77.60,10m --dhcp-authoritative --interface=br9 --leasefile-ro "
            "--bind-interfaces --enable-ra --dhcp-range=2001:db8:77::,ra-only,64,10m"
        )
        stack.enter_context(daemon(words.split()))
        until_sync(lambda: "proto ra" in sh(f"ip -n {self.host} -6 route"), "the host hears its router")

    def plug(self) -> Running:
        """The guest's TAP, tap0, beside the host's uplink."""
        nic = f"nic,netns=/run/netns/{self.guest},macaddr={MAC}"
        return self.stack.enter_context(
            Running(inside(self.host, self.tapnet), "-net", nic, "-net", "tap,ifname=tap0")
        )

    def route(self, *words: str) -> Routing:
        return self.stack.enter_context(Routing(self, *words))

    def inside(self, command: str, check: bool = True) -> str:
        return sh(f"ip netns exec {self.guest} {command}", check=check, timeout=SECONDS)

    def settings(self) -> str:
        """What may change of the host's settings, but for those of the TAP."""
        shown = sh(f"ip netns exec {self.host} sysctl -a --pattern 'forwarding|accept_ra$|proxy_|rp_filter'")
        return "\n".join(line for line in shown.splitlines() if ".tap0." not in line)

    def state(self) -> dict[str, Any]:
        """The host's, but for the TAP, and for what RA refreshes."""
        found = state(f"-n {self.host}")
        return {
            what: [
                {key: value for key, value in row.items() if key not in ("flags", "addr_info")}
                for row in rows
                if "tap0" not in json.dumps(row)
            ]
            for what, rows in found.items()
        }


def documented() -> list[str]:
    """The command of docs/tap.md, with the uplink that there is."""
    lines = (ROOT / "docs/tap.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("tapnet route ")]
    return line.replace("wlan0", "eth0").split()[1:]


class Routing:
    """``tapnet route tap0 --uplink eth0`` and what it has said."""

    def __init__(self, scene: Scene, *words: str) -> None:
        self.log = scene.tapnet.home / "route.log"
        runner = inside(scene.host, scene.tapnet)
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                runner.argv(*documented(), *words),
                env=runner.env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def __enter__(self) -> Routing:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def said(self, text: str) -> None:
        """Wait for it."""
        until_sync(lambda: text in self.log.read_text() or self.process.poll() is not None, text)
        assert text in self.log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@pytest.fixture
def scene(tapnet: Runner) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        yield Scene(stack, tapnet)


def lease(scene: Scene, tmp_path: Path) -> str:
    script = tmp_path / "udhcpc"
    script.write_text(
        '#!/bin/sh\n[ "$1" = bound ] || exit 0\nip addr add $ip/24 dev eth0\nip route add default via $router\n'
    )
    script.chmod(0o755)
    scene.inside(f"busybox udhcpc -i eth0 -n -q -t 15 -T 2 -s {script}")
    return str(json.loads(scene.inside("ip -4 -j addr show eth0"))[0]["addr_info"][0]["local"])


def test_a_guest_leases_and_all_reach_each_other(scene: Scene, tmp_path: Path) -> None:
    """T7: DHCP through the relay, IPv4 and IPv6 both ways with router, neighbour and host; and no trace afterwards."""
    before, settings = scene.state(), scene.settings()
    routing = scene.route()
    routing.said("tap0: waiting for it")
    plugged = scene.plug()
    routing.said("tap0: is routed by eth0: 192.168.77.0/24, 2001:db8:77::/64")
    address = lease(scene, tmp_path)
    assert address.startswith("192.168.77.5") or address == "192.168.77.60"
    routing.said(f"{address} is behind tap0 (DHCP, {MAC})")
    for target in ("192.168.77.1", "192.168.77.2", "192.168.77.3"):
        scene.inside(f"ping -c 1 -w 20 {target}")
    for who in (scene.lan, scene.peer, scene.host):
        sh(f"ip netns exec {who} ping -c 1 -w 20 {address}")
    with daemon(["ip", "netns", "exec", scene.guest, "iperf3", "-s"]):
        until_sync(lambda: ":5201" in scene.inside("ss -ltn"), "iperf3")
        report = json.loads(sh(f"ip netns exec {scene.peer} iperf3 -J -c {address} -n 1M", timeout=SECONDS))
        assert report["end"]["sum_sent"]["bytes"] >= 1 << 20

    routing.said("2001:db8:77:0:5054:ff:fe00:7001 is behind tap0 (seen")
    # its own duplicate detection goes on for a second
    until_sync(lambda: "tentative" not in scene.inside("ip -6 addr show eth0"), "the guest has its address")
    routes = scene.inside("ip -6 route")
    assert "default via fe80" in routes and "2001:db8:77::/64" not in routes  # nothing is on the link
    for target in ("2001:db8:77::1", "2001:db8:77::2", "2001:db8:77::3"):
        scene.inside(f"ping -6 -c 1 -w 20 {target}")
    sh(f"ip netns exec {scene.peer} ping -6 -c 1 -w 20 2001:db8:77:0:5054:ff:fe00:7001")
    assert "proto ra" in sh(f"ip -n {scene.host} -6 route")  # the host still hears its router
    proxies = sh(f"ip -n {scene.host} neigh show proxy").split()
    assert address in proxies and "2001:db8:77:0:5054:ff:fe00:7001" in proxies
    assert f"{address} dev tap0 proto 147" in sh(f"ip -n {scene.host} route")

    # somebody pulls the cable, a Wi-Fi station roams: afterwards they still stand for the guest
    for to, seen in (("down", "NO-CARRIER"), ("up", "LOWER_UP")):
        sh(f"ip -n {scene.lan} link set port2 {to}")
        until_sync(lambda seen=seen: seen in sh(f"ip -n {scene.host} link show eth0"), seen)  # type: ignore[misc]
    assert sorted(sh(f"ip -n {scene.host} neigh show proxy").split()) == sorted(proxies)
    for target in (address, "2001:db8:77:0:5054:ff:fe00:7001"):
        sh(f"ip netns exec {scene.peer} ping -c 1 -w 30 {target}")

    assert routing.stop() == 0
    assert differences(before, scene.state()) == []
    assert scene.settings() == settings
    assert plugged.stop() == 0


def test_the_tap_goes_and_comes_and_a_killed_one_is_cleaned_up(scene: Scene, tmp_path: Path) -> None:
    before, settings = scene.state(), scene.settings()
    routing = scene.route()
    plugged = scene.plug()
    routing.said("is routed by")
    address = lease(scene, tmp_path)
    routing.said("is behind tap0 (DHCP")
    assert plugged.stop() == 0
    routing.said("tap0: is gone")
    until_sync(lambda: scene.settings() == settings, "all given back while there is no TAP")
    assert differences(before, scene.state()) == []
    plugged = scene.plug()
    until_sync(lambda: routing.log.read_text().count("is routed by") == 2, "it goes on")
    lease(scene, tmp_path)
    until_sync(lambda: routing.log.read_text().count("is behind tap0 (DHCP") == 2, "the lease")

    assert routing.stop(signal.SIGKILL) != 0
    assert scene.settings() != settings and address in sh(f"ip -n {scene.host} neigh show proxy")
    again = scene.route()
    again.said("tap0: put back what a killed tapnet route left")
    again.said("is routed by")
    sh(f"ip netns exec {scene.guest} ping -c 1 -w 20 192.168.77.1")  # learned anew, by ARP
    again.said(f"{address} is behind tap0 (seen")
    second = subprocess.run(
        inside(scene.host, scene.tapnet).argv("route", "tap0", "--uplink", "eth0"),
        env=scene.tapnet.env, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert (second.returncode, second.stderr) == (69, "tapnet: tap0: another tapnet is at work on it\n")
    assert again.stop(signal.SIGINT) == 0
    assert scene.settings() == settings
    assert differences(before, scene.state()) == []


def test_a_guest_takes_nothing_that_is_not_its_own(scene: Scene) -> None:
    """Addresses of a neighbour, of the router and of the host; and sources that it has not got."""
    routing = scene.route()
    scene.plug()
    routing.said("is routed by")
    for address in ("192.168.77.3", "192.168.77.1", "192.168.77.2", "203.0.113.9"):
        sh(f"ip -n {scene.guest} addr add {address}/32 dev eth0")
        scene.inside(f"busybox arping -c 1 -w 1 -A -I eth0 -s {address} {address}", check=False)
        scene.inside(f"busybox arping -c 1 -w 1 -I eth0 -s {address} 192.168.77.99", check=False)
        sh(f"ip -n {scene.guest} addr del {address}/32 dev eth0")
    routing.said("192.168.77.3: a guest of tap0 uses it, but somebody on eth0 has it")
    sh(f"ip netns exec {scene.lan} ping -c 1 -w 20 192.168.77.3")
    assert "tap0" not in sh(f"ip -n {scene.host} route")
    assert "192.168.77" not in sh(f"ip -n {scene.host} neigh show proxy")
    sh(f"ip -n {scene.guest} addr add 192.168.77.40/24 dev eth0")  # one that is free, set by hand
    scene.inside("ping -c 1 -w 20 192.168.77.3")
    routing.said(f"192.168.77.40 is behind tap0 (seen, {MAC})")


@pytest.mark.parametrize(
    ("prepare", "words", "status", "said"),
    [
        ("", "tap0 --uplink eth9", 2, "--uplink eth9: no such interface"),
        ("", "tap0 --uplink lo", 2, "--uplink lo: has no neighbours (point-to-point)"),
        ("", "eth0 --uplink eth0", 2, "--uplink eth0: is the TAP itself"),
        ("link add d0 type bridge", "tap0 --uplink d0", 2, "--uplink d0: has no address"),
        ("tuntap add dev tun5 mode tun", "tap0 --uplink tun5", 2, "use the NAT: -net user"),
        ("link set tap7 master br7", "tap7 --uplink eth0", 2, "tap7: is a member of a bridge"),
    ],
)
def test_a_clear_word_why_not(tapnet: Runner, prepare: str, words: str, status: int, said: str) -> None:
    with namespace("rh") as host:
        for line in (
            "link add eth0 type veth peer name x",
            "addr add 192.0.2.2/24 dev eth0",
            "link set eth0 up",
            "link add br7 type bridge",
            "tuntap add dev tap7 mode tap",
            *([prepare] if prepare else []),
        ):
            sh(f"ip -n {host} {line}")
        done = subprocess.run(
            inside(host, tapnet).argv("route", *words.split()),
            env=tapnet.env, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
        assert said in done.stderr


def test_two_borrow_one_setting(tapnet: Runner) -> None:
    """The last one gives it back; a value that somebody changed meanwhile stays."""
    with namespace("rh") as host:
        script = """
from pathlib import Path
from tapnet.lan import sysctl
one, two = sysctl.path(4, "lo", "forwarding"), sysctl.path(4, "lo", "proxy_arp")
sysctl.borrow("a", [(one, "1"), (two, "1"), (Path("/proc/sys/net/none"), "1")])
sysctl.borrow("b", [(one, "1")])
sysctl.give_back("a"); print(sysctl.read(one), sysctl.read(two))
sysctl.give_back("b"); print(sysctl.read(one))
sysctl.borrow("a", [(one, "1")]); sysctl.write(one, "0"); sysctl.write(one, "1"); sysctl.write(two, "1")
sysctl.borrow("b", [(two, "1")])
sysctl.give_back("b"); sysctl.give_back("a"); sysctl.give_back("a"); print(sysctl.read(one), sysctl.read(two))
"""
        done = subprocess.run(
            [*inside(host, tapnet).prefix, "-c", script],
            env=tapnet.env, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        assert done.stderr == "" and done.stdout == "1 0\n0\n0 1\n"
