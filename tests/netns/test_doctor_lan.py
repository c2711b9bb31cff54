"""``tapnet doctor`` on the LAN side: each check in a namespace where it is right and in one where it is wrong.

What it says mends a thing is run, and then the check is content.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapnet.doctor import firewall
from tapnet.lan import sysctl
from tests import apart
from tests.netns.exec_kit import Runner, root_runner, user_runner
from tests.netns.lan_kit import inside, namespace
from tests.netns.support import sh
from tests.waiting import BOUND_S as SECONDS


@pytest.fixture
def host() -> Iterator[str]:
    with namespace("doc") as name:
        for line in (
            "link add eth0 type veth peer name peer0",
            "link set peer0 up",
            "link set eth0 up",
            "addr add 10.1.0.2/24 dev eth0",
            "route add default via 10.1.0.1",
        ):
            sh(f"ip -n {name} {line}")
        yield name


def ruleset(name: str, text: str) -> None:
    words = ["ip", "netns", "exec", name, "nft", "-f", "-"]
    subprocess.run(
        words, input="flush ruleset\n" + text.replace("; ", "\n"), text=True, check=True, timeout=SECONDS
    )


def examine(name: str, runner: Runner, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = subprocess.run(
        inside(name, runner).argv("doctor", "--json", *words),
        env=runner.env, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def mend(name: str, runner: Runner, check: dict[str, Any]) -> None:
    """Run the command that the doctor prescribes."""
    command = check["mend"].replace("tapnet ", " ".join([*runner.prefix, "-m", "tapnet "]))
    subprocess.run(
        ["ip", "netns", "exec", name, "sh", "-c", command],
        env=runner.env, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL,
    )  # fmt: skip


FILTER = """
table ip filter {
  chain FORWARD {
    type filter hook forward priority 0; policy drop
    ct state established accept
  }
}
table bridge guard {
  chain forward {
    type filter hook forward priority 0; policy accept
    ether type arp accept
    counter drop
  }
}
"""


def test_what_is_wrong_is_mended_by_what_it_says(host: str, tmp_path: Path) -> None:
    tapnet = root_runner(tmp_path)
    ruleset(host, FILTER)
    sh(
        f"ip netns exec {host} sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.ipv6.conf.eth0.forwarding=1"
    )
    sh(f"ip -n {host} addr add 2001:db8::2/64 dev eth0 nodad")
    status, found = examine(host, tapnet, "--mode", "tap")
    assert status == 1
    assert found["bridge"]["text"] == "there is no bridge br0, which --mode tap takes"
    assert found["bridge"]["mend"] == "tapnet bridge up br0 --uplink eth0"
    assert "ip filter FORWARD (policy drop)" in found["bridge-nf"]["text"]
    assert found["bridge-nf"]["mend"].startswith("sysctl -w net.bridge.bridge-nf-call-iptables=0")
    assert "bridge guard forward (ends with drop)" in found["bridge-firewall"]["text"]
    assert "nft insert rule ip filter FORWARD iifname tap0 accept" in found["firewall"]["mend"]
    assert found["forwarding"]["mend"] == "sysctl -w net.ipv6.conf.eth0.accept_ra=2"
    wrong = ("forwarding", "bridge-nf", "bridge-firewall", "bridge")
    for name in wrong:
        assert not found[name]["ok"]
        mend(host, tapnet, found[name])
    ruleset(host, "")
    status, found = examine(host, tapnet, "--mode", "tap")
    assert [name for name in (*wrong, "firewall", "mtu") if not found[name]["ok"]] == []
    assert found["bridge"]["text"] == "br0 is up, with eth0"
    assert status == 0 or not (found["tun"]["ok"] and found["capabilities"]["ok"])


class Inside:
    """Checks called in a namespace, in a process of their own: without another start of the program."""

    def __init__(self, name: str) -> None:
        self.name = name

    def check(self, which: str) -> tuple[bool, str, str]:
        found: tuple[bool, str, str] = apart.call(apart.check, self.name, which)
        return found


def test_bridge(host: str) -> None:
    here = Inside(host)
    sh(f"ip -n {host} link add br7 type bridge")
    ok, text, _ = here.check("check_bridge")
    assert not ok and "(there is br7: -net tap,br=br7)" in text
    sh(f"ip -n {host} link add br0 type veth peer name x")
    assert here.check("check_bridge")[1] == "br0 is no bridge"
    sh(f"ip -n {host} link del br0")
    sh(f"ip -n {host} link add br0 type bridge")
    assert here.check("check_bridge")[1:] == ("br0 is down", "ip link set br0 up")
    sh(f"ip -n {host} link set br0 up")
    assert here.check("check_bridge")[1] == "br0 has no member: guests on it reach only this host"
    sh(f"ip -n {host} link set eth0 master br0 down")
    assert here.check("check_bridge")[1:] == ("eth0, a member of br0, is down", "ip link set eth0 up")
    sh(f"ip -n {host} link set eth0 up")
    assert here.check("check_bridge") == (True, "br0 is up, with eth0", "")


def test_mtu(host: str) -> None:
    here = Inside(host)
    assert here.check("check_mtu")[0]
    sh(f"ip -n {host} link add br0 type bridge")
    sh(f"ip -n {host} link set eth0 mtu 9000 master br0")
    sh(f"ip -n {host} tuntap add dev tap0 mode tap")
    sh(f"ip -n {host} link set tap0 master br0")
    ok, text, command = here.check("check_mtu")
    assert not ok and "tap0 has MTU 1500 and eth0 9000" in text and command == "ip link set tap0 mtu 9000"
    sh(f"ip -n {host} link set tap0 mtu 9000")
    assert here.check("check_mtu")[0]
    sh(f"ip -n {host} link set br0 mtu 9000")
    assert here.check("check_mtu")[0]


CHAINS: list[tuple[str, list[str]]] = [
    ("", []),
    ("table ip t {; chain c {; type filter hook forward priority 0; policy accept; }; }", []),
    (
        "table ip t {; chain c {; type filter hook forward priority 0; policy drop; }; }",
        ["ip t c (policy drop)"],
    ),
    ("table ip t {; chain c {; type filter hook forward priority 0; policy drop; accept; }; }", []),
    ("table ip t {; chain c {; type filter hook input priority 0; policy drop; }; }", []),
    ("table ip t {; chain c {; drop; }; }", []),
    (
        "table inet t {; chain c {; type filter hook forward priority 0; iifname x accept; counter log reject; }; }",
        ["inet t c (ends with reject)"],
    ),
    (
        "table ip6 t {; chain c {; type filter hook forward priority 0; drop; }; }",
        ["ip6 t c (ends with drop)"],
    ),
    (
        "table bridge t {; chain c {; type filter hook forward priority 0; iifname x drop; policy drop; }; }",
        ["bridge t c (policy drop)"],
    ),
    ("table ip t {; chain c {; type filter hook forward priority 0; iifname x drop; }; }", []),
]


def test_firewall(host: str) -> None:
    here = Inside(host)
    for tables, drops in CHAINS:
        ruleset(host, tables)
        routed = [what for what in drops if not what.startswith("bridge")]
        bridged = [what for what in drops if what.startswith("bridge")]
        for which, expected in (("check_firewall", routed), ("check_bridge_firewall", bridged)):
            ok, text, command = here.check(which)
            assert ok is (not expected), text
            for words in expected:
                assert words in text and command.startswith("nft insert rule ")
                sh(f"ip netns exec {host} sh -c '{command}'")  # nft takes it
        for switch in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
            sh(f"ip netns exec {host} sysctl -qw net.bridge.{switch}=1")
        ruleset(host, tables)
        assert here.check("check_bridge_netfilter")[0] is (not routed)
        for switch in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
            sh(f"ip netns exec {host} sysctl -qw net.bridge.{switch}=0")
        assert here.check("check_bridge_netfilter")[0]


def test_the_older_iptables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own program, where the kernel has its tables."""
    (tmp_path / "ip_tables_names").write_text("filter\n")
    fake = tmp_path / "iptables-legacy-save"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for policy, dropped in (("DROP", True), ("ACCEPT", False)):
        fake.write_text(
            f"#!/bin/sh\necho '*filter'\necho ':INPUT DROP [0:0]'\necho ':FORWARD {policy} [1:2]'\n"
        )
        fake.chmod(0o755)
        found = firewall._legacy(tmp_path)
        assert bool(found) is dropped
    found = firewall.barriers(tmp_path / "none")
    assert not any(barrier.legacy for barrier in found)
    barrier = firewall.Barrier("ip", "filter", "FORWARD", "policy drop", legacy=True)
    assert barrier.opened("iifname tap0") == "iptables-legacy -I FORWARD -i tap0 -j ACCEPT"


def test_forwarding_that_cannot_be_switched_on(host: str, tmp_path: Path) -> None:
    """/proc/sys read-only, as in a container."""
    script = (
        "mount -o bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec ip netns exec "
        f"{host} $PYTHON -m tapnet doctor --json"
    )
    runner = root_runner(tmp_path)
    env = {**runner.env, "PYTHON": runner.prefix[-1]}
    for words, ok in (
        (["unshare", "-m", "sh", "-c", script], False),
        (["sh", "-c", script.partition("exec ")[2]], True),
    ):
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=SECONDS)
        found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}["forwarding"]
        assert found["ok"] is ok, found
        if not ok:
            assert found["mend"].startswith("sysctl -w net.ipv4.ip_forward=1")


def test_without_root_the_firewall_cannot_be_seen(host: str, tmp_path: Path) -> None:
    status, found = examine(host, user_runner(tmp_path))
    assert found["firewall"]["mend"] == "run tapnet doctor as root" and not found["firewall"]["ok"]
    assert not found["capabilities"]["ok"] and status in (0, 1)
    texts = [check["text"] for check in found.values()]
    assert len(set(texts)) == len(texts), "each line says what it is about"


def test_sysctls_of_one_interface_for_another(host: str) -> None:
    sh(f"ip -n {host} link add d0 type bridge")
    sh(f"ip netns exec {host} sysctl -qw net.ipv4.conf.eth0.rp_filter=2 net.ipv6.conf.eth0.accept_ra=2")
    script = "from tapnet.lan import sysctl; sysctl.copy('eth0', 'd0')"
    import sys

    sh(f'ip netns exec {host} {sys.executable} -c "{script}"')
    shown = sh(f"ip netns exec {host} sysctl net.ipv4.conf.d0.rp_filter net.ipv6.conf.d0.accept_ra")
    assert shown.split() == ["net.ipv4.conf.d0.rp_filter", "=", "2", "net.ipv6.conf.d0.accept_ra", "=", "2"]
    assert sysctl.path(6, "d0", "mtu") == Path("/proc/sys/net/ipv6/conf/d0/mtu")
