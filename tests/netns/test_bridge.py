"""``tapnet bridge``: a host whose uplink has everything, on a LAN with a DHCP server; broken off at every step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.bridge_kit import differences, forked, make_host, renamed, settled, state
from tests.netns.exec_kit import ROOT, Runner, daemon, root_runner, user_runner
from tests.netns.lan_kit import inside, namespace
from tests.netns.support import sh, until_sync
from tests.waiting import BOUND_S


@pytest.fixture
def host() -> Iterator[str]:
    with namespace("host") as name:
        make_host(name)
        yield name


@pytest.fixture
def lan_host() -> Iterator[tuple[str, str]]:
    """A host on a LAN: (host, LAN). The LAN's router is 192.168.77.1, with DHCP and router advertisements."""
    with namespace("host") as host, namespace("lan") as lan:
        sh(f"ip -n {host} link add eth0 type veth peer name port0 netns {lan}")
        # a router says in its neighbour advertisements that it is one
        sh(f"ip netns exec {lan} sysctl -qw net.ipv6.conf.all.forwarding=1")
        for line in ("link add br9 type bridge", "link set port0 master br9 up", "link set br9 up"):
            sh(f"ip -n {lan} {line}")
        sh(f"ip -n {lan} addr add 192.168.77.1/24 dev br9")
        sh(f"ip -n {lan} addr add 2001:db8:77::1/64 dev br9 nodad")
        sh(f"ip -n {host} link set eth0 up")
        sh(f"ip -n {host} addr add 192.168.77.2/24 dev eth0")
        sh(f"ip -n {host} route add default via 192.168.77.1 metric 100")
        settled(lan)
        words = (
            f"ip netns exec {lan} dnsmasq --no-daemon --user=root --port=0 --no-ping --conf-file=/dev/null "
            "--dhcp-range=192.168.77.50,192.168.77.60,10m --dhcp-authoritative --interface=br9 --leasefile-ro "
            "--bind-interfaces --enable-ra --dhcp-range=2001:db8:77::,ra-only,64,10m --dhcp-option=3,192.168.77.1"
        )
        with daemon(words.split()):
            yield host, lan


@pytest.fixture
def tapnet(tmp_path: Path) -> Runner:
    return root_runner(tmp_path)


def program(name: str, tapnet: Runner, *words: str) -> subprocess.CompletedProcess[str]:
    """``tapnet bridge WORDS`` in a namespace."""
    return subprocess.run(
        inside(name, tapnet).argv("bridge", *words),
        env=tapnet.env,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
    )


def bridge(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The same by a fork of this process: twenty times as quick."""
    return forked(name, "bridge", *words)


@pytest.mark.timeout(400)  # some fifty changes, each broken off once
@pytest.mark.parametrize(
    ("command", "how", "stride"),
    [
        ("up", "kill", 1),
        ("up", "error", 13),
        ("up", "signal", 17),
        ("down", "kill", 3),
        ("down", "error", 13),
        ("down", "signal", 13),
        pytest.param("up", "error", 1, marks=pytest.mark.slow),
        pytest.param("down", "error", 1, marks=pytest.mark.slow),
        pytest.param("down", "kill", 1, marks=pytest.mark.slow),
    ],
)
def test_broken_off_at_any_step_all_is_as_it_was(host: str, command: str, how: str, stride: int) -> None:
    """An error of the kernel's, SIGKILL and a new run, a signal: before each of its changes."""
    words = [
        "ip",
        "netns",
        "exec",
        host,
        sys.executable,
        "-m",
        "tests.netns.bridge_kit",
        command,
        how,
        str(stride),
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=390)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 20  # steps that it has


def test_everything_moves_and_comes_back(host: str, tapnet: Runner) -> None:
    before = state(f"-n {host}")
    done = program(host, tapnet, "up", "br0", "--uplink", "eth0")
    assert (done.returncode, done.stdout) == (
        0,
        "br0: made, with eth0 in it; moved 7 addresses, 10 routes, 3 rules\n",
    )
    assert "eth0 has leased 192.168.6.2" in done.stderr and done.stderr.count("\n") == 1
    settled(host)
    up = state(f"-n {host}")
    for what in (
        " route show table all",
        " rule",
        "-6 rule",
        " neigh show nud permanent",
        " neigh show proxy",
    ):
        left = [
            row for row in renamed(up)[what] if row not in before[what] and row.get("type") != "multicast"
        ]
        gone = [row for row in before[what] if row not in renamed(up)[what]]
        assert [row for row in left if row.get("dst") != "fe80::/64"] == [] and gone == [], what
    links = {row["ifname"]: row for row in up[" addr"]}
    was = {row["ifname"]: row for row in before[" addr"]}
    assert renamed({"": links["br0"]["addr_info"]})[""] == was["eth0"]["addr_info"]
    assert links["eth0"]["addr_info"] == []
    detail = json.loads(sh(f"ip -n {host} -j -d link show br0"))[0]
    assert detail["address"] == was["eth0"]["address"] and detail["mtu"] == was["eth0"]["mtu"]
    info = detail["linkinfo"]["info_data"]
    assert (info["stp_state"], info["ageing_time"], info["vlan_filtering"]) == (0, 30000, 0)

    again = program(host, tapnet, "up", "br0", "--uplink", "eth0")
    assert (again.returncode, again.stdout) == (0, "br0: is up on eth0 already; nothing changed\n")
    assert state(f"-n {host}") == up
    shown = program(host, tapnet, "show").stdout
    assert shown.startswith("br0: up, uplink eth0\n  members eth0; addresses 192.168.5.2/24 ")
    assert " stp off ageing 300 s\n" in shown

    done = program(host, tapnet, "down", "br0")
    assert (done.returncode, done.stderr) == (0, "")
    assert differences(before, state(f"-n {host}")) == []
    done = program(host, tapnet, "down", "br0")
    assert (done.returncode, done.stdout) == (0, "br0: there is no such bridge; nothing changed\n")


def test_guest_host_and_lan_reach_each_other(lan_host: tuple[str, str], tapnet: Runner) -> None:
    """T4 and T1: the bridge comes and goes below a live connection; a guest leases from the LAN's server."""
    host, lan = lan_host
    far = f"ip netns exec {lan}"
    until_sync(lambda: "2001:db8:77:" in sh(f"ip -n {host} -6 addr show eth0"), "an address by RA")
    talk = ["ip", "netns", "exec", lan, "nc", "-l", "-p", "7000"]
    with subprocess.Popen(talk, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        until_sync(lambda: ":7000" in sh(f"{far} ss -ltn"), "the server")
        call = ["ip", "netns", "exec", host, "nc", "192.168.77.1", "7000"]
        with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert server.stdin and server.stdout and client.stdin and client.stdout

            def alive(word: str) -> None:
                assert server.stdin and server.stdout and client.stdin and client.stdout
                for one, other in ((client, server), (server, client)):
                    assert one.stdin and other.stdout
                    one.stdin.write(word + "\n")
                    one.stdin.flush()
                    assert other.stdout.readline() == word + "\n"

            alive("before")
            assert bridge(host, "up", "br0", "--uplink", "eth0").returncode == 0
            alive("bridged")
            command = (
                "ip -4 -o addr show eth0; ping -c 1 -w 20 192.168.77.2 >/dev/null && ping -c 1 -w 20 192.168.77.1 >/dev/null;"
                "echo pinged $?; read word"
            )
            process = subprocess.Popen(
                inside(host, tapnet).argv(
                    "exec", "-net", "nic", "-net", "tap,ifname=tap0,br=br0", "--", "sh", "-c", command
                ),
                env=tapnet.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            try:
                assert process.stdout is not None
                said = process.stdout.readline()
                address = said.split("inet ")[1].split("/")[0]
                assert address.startswith("192.168.77.")
                assert process.stdout.readline() == "pinged 0\n"
                for who in (host, lan):
                    sh(f"ip netns exec {who} ping -c 1 -w 20 {address}")
                refused = bridge(host, "down", "br0")
                assert refused.returncode == 2 and "br0: tap0 would be cut off" in refused.stderr
                process.communicate("\n", timeout=BOUND_S)
            finally:
                process.kill()
                process.wait()
            sh(f"ip netns exec {host} ping -6 -c 1 -w 20 2001:db8:77::1")
            assert "default via fe80" in sh(f"ip -n {host} -6 route show dev br0")
            assert bridge(host, "down", "br0").returncode == 0
            alive("after")
            client.stdin.close()
            server.stdin.close()
            client.kill()
            server.kill()
    assert "default via 192.168.77.1 dev eth0 metric 100" in sh(f"ip -n {host} route show default")
    sh(f"ip netns exec {host} ping -6 -c 1 -w 20 2001:db8:77::1")


def test_a_bridge_that_is_there_is_joined_and_left(host: str, tapnet: Runner) -> None:
    sh(f"ip -n {host} link add br0 type bridge")
    sh(f"ip -n {host} link set br0 up")
    sh(f"ip -n {host} addr add 10.99.0.1/24 dev br0")
    before = state(f"-n {host}")
    done = bridge(host, "up", "br0", "--uplink", "eth0")
    assert done.returncode == 0 and done.stdout.startswith("br0: joined, with eth0 in it"), done.stderr
    shown = sh(f"ip -n {host} addr show br0")
    assert "10.99.0.1" in shown and "192.168.5.3" in shown
    done = bridge(host, "down", "br0")
    assert done.returncode == 0 and done.stdout.startswith("br0: left"), done.stderr
    after = state(f"-n {host}")
    for what in (" rule", "-6 rule", " neigh show nud permanent", " neigh show proxy"):
        assert after[what] == before[what]
    for name in ("eth0", "br0"):
        v4 = [
            a["local"]
            for row in after[" addr"]
            if row["ifname"] == name
            for a in row["addr_info"]
            if a["family"] == "inet"
        ]
        assert v4 == (
            ["10.99.0.1"] if name == "br0" else ["192.168.5.2", "10.9.0.1", "192.168.6.2", "192.168.5.3"]
        )
    assert "eth0" in sh(f"ip -n {host} route show default")


def test_what_a_dhcp_client_puts_back_is_moved_by_another_run(host: str, tapnet: Runner) -> None:
    before = state(f"-n {host}")
    bridge(host, "up", "br0", "--uplink", "eth0")
    sh(f"ip -n {host} addr add 192.168.5.88/24 dev eth0")
    done = bridge(host, "up", "br0", "--uplink", "eth0")
    assert done.stdout.startswith("br0: joined") and "192.168.5.88" in sh(f"ip -n {host} addr show br0")
    assert bridge(host, "down", "br0").returncode == 0
    wrong = differences(before, state(f"-n {host}"))
    assert wrong and all(
        "192.168.5.88" in line or line in (" addr: order", "addr: order") or "addr: " in line
        for line in wrong
    )
    assert not [link for link in json.loads(sh(f"ip -n {host} -j link")) if link["ifname"] == "br0"]


def test_a_bridge_that_somebody_deleted_leaves_nothing_behind(host: str, tapnet: Runner) -> None:
    before = state(f"-n {host}")
    bridge(host, "up", "br0", "--uplink", "eth0")
    sh(f"ip -n {host} link del br0")
    done = bridge(host, "down", "br0")
    assert (done.returncode, done.stdout) == (
        0,
        "br0: the bridge or its uplink is gone: cleaned up after it\n",
    )
    assert differences(before, state(f"-n {host}")) == []


def test_the_commands_of_the_documentation(host: str, tapnet: Runner) -> None:
    """Each line of the first block of the bridge's part of docs/tap.md, in its order."""
    block = (ROOT / "docs/tap.md").read_text().split("## The bridge")[1].split("```")[1]
    lines = [line.split() for line in block.splitlines()]
    commands = [words[2:] for words in lines if words[:2] == ["tapnet", "bridge"]]
    assert [words[0] for words in commands] == ["up", "show", "down", "up", "confirm"]
    for words in commands:
        done = bridge(host, *words)
        assert done.returncode == 0, done.stderr
    assert "br0" in sh(f"ip -n {host} link show eth0")


# ---- --confirm-timeout -------------------------------------------------------------------------------------


def watchdog(host: str) -> list[int]:
    """Processes of a namespace that stay there."""
    return [int(pid) for pid in sh(f"ip netns pids {host}").split()]


def test_not_confirmed(host: str, tapnet: Runner) -> None:
    before = state(f"-n {host}")
    done = bridge(host, "up", "br0", "--uplink", "eth0", "--confirm-timeout", "4")
    assert done.returncode == 0 and done.stdout.endswith("s unless you say: tapnet bridge confirm br0\n")
    until_sync(lambda: not watchdog(host), "the watchdog's end")
    settled(host)
    assert differences(before, state(f"-n {host}")) == []
    late = bridge(host, "confirm", "br0")
    assert (late.returncode, late.stderr) == (2, "tapnet: br0: nothing waits for confirmation\n")


def test_confirmed(host: str, tapnet: Runner) -> None:
    bridge(host, "up", "br0", "--uplink", "eth0", "--confirm-timeout", "600")
    assert len(watchdog(host)) == 1
    shown = json.loads(bridge(host, "show", "--json").stdout)[0]
    assert (shown["state"], shown["uplink"]) == ("pending", "eth0") and 500 < shown["undone_in"] <= 600
    again = bridge(host, "up", "br0", "--uplink", "eth0")
    assert "nothing changed; undone in" in again.stdout
    done = bridge(host, "confirm", "br0")
    assert (done.returncode, done.stdout) == (0, "br0: confirmed\n")
    until_sync(lambda: not watchdog(host), "the watchdog's end")
    assert bridge(host, "show").stdout.startswith("br0: up, uplink eth0\n")
    assert bridge(host, "confirm", "br0").stdout == "br0: is confirmed already\n"
    assert bridge(host, "down", "br0").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_watchdog_is_ended(host: str, tapnet: Runner, number: int) -> None:
    """SIGTERM: it undoes at once. SIGKILL: the next command does, when the time is over."""
    before = state(f"-n {host}")
    seconds = "600" if number == signal.SIGTERM else "8"
    bridge(host, "up", "br0", "--uplink", "eth0", "--confirm-timeout", seconds)
    for pid in watchdog(host):
        os.kill(pid, number)
    until_sync(lambda: not watchdog(host), "the watchdog's end")
    if number == signal.SIGKILL:
        said = ""

        def put_back() -> bool:
            nonlocal said
            said = bridge(host, "confirm", "br0").stderr
            return "not confirmed in time" in said or "nothing waits" in said

        # a confirmation in time would keep it: look until the time is over
        until_sync(lambda: json.loads(bridge(host, "show", "--json").stdout)[0]["undone_in"] == 0, "the time")
        until_sync(put_back, "the undo")
    settled(host)
    assert differences(before, state(f"-n {host}")) == []


def test_down_ends_the_watchdog(host: str, tapnet: Runner) -> None:
    before = state(f"-n {host}")
    bridge(host, "up", "br0", "--uplink", "eth0", "--confirm-timeout", "600")
    assert bridge(host, "down", "br0").returncode == 0
    until_sync(lambda: not watchdog(host), "the watchdog's end")
    assert differences(before, state(f"-n {host}")) == []


# ---- mistakes ----------------------------------------------------------------------------------------------


MISTAKES = [
    ("up br0 --uplink ethO", "--uplink ethO: no such interface (did you mean"),
    ("up br0 --uplink lo", "--uplink lo: is no Ethernet interface"),
    ("up br0 --uplink br0", "--uplink br0: no such interface"),
    ("up eth1 --uplink eth0", "eth1: is no bridge, but a veth"),
    ("up br0/x --uplink eth0", "bridge br0/x: not an interface name"),
    ("up br0 --uplink wlan7", "--uplink wlan7"),
    ("down eth1", "eth1: was not set up by tapnet bridge up"),
    ("confirm br0", "br0: nothing waits for confirmation"),
    ("up br0 --uplink eth0 --confirm-timeout 0", "--confirm-timeout"),
]


def test_mistakes_are_one_line_and_change_nothing(host: str) -> None:
    before = state(f"-n {host}")
    for words, said in MISTAKES:
        done = bridge(host, *words.split())
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), words
        assert said in done.stderr, done.stderr
        assert state(f"-n {host}") == before, words


def test_members_of_other_things(host: str, tapnet: Runner) -> None:
    sh(f"ip -n {host} link add br5 type bridge")
    sh(f"ip -n {host} link set eth1 master br5")
    done = bridge(host, "up", "br0", "--uplink", "eth1")
    assert (done.returncode, done.stderr) == (2, "tapnet: --uplink eth1: is a member of br5 already\n")
    done = bridge(host, "up", "br0", "--uplink", "br5")
    assert done.returncode == 2 and "is a bridge itself" in done.stderr
    sh(
        f"ip -n {host} link add link eth0 name mv0 type macvlan"
    )  # the kernel refuses: a receive handler is there
    before = state(f"-n {host}")
    done = bridge(host, "up", "br0", "--uplink", "eth0")
    assert done.returncode == 71 and "macvlan" in done.stderr and "all is as it was" in done.stderr, (
        done.stderr
    )
    assert differences(before, state(f"-n {host}")) == []


def test_wifi_and_next_hop_objects_say_why_not(host: str, tapnet: Runner, tmp_path: Path) -> None:
    from tapnet.lan.bridge import wireless

    (tmp_path / "wlan0" / "phy80211").mkdir(parents=True)
    (tmp_path / "eth0").mkdir()
    assert wireless("wlan0", tmp_path) and not wireless("eth0", tmp_path)
    sh(f"ip -n {host} nexthop add id 7 via 192.168.5.1 dev eth0")
    sh(f"ip -n {host} route add 10.55.0.0/16 nhid 7")
    done = bridge(host, "up", "br0", "--uplink", "eth0")
    assert done.returncode == 2 and "next-hop object" in done.stderr


def test_without_privilege(host: str, tmp_path: Path) -> None:
    done = program(host, user_runner(tmp_path), "up", "br0", "--uplink", "eth0")
    assert (done.returncode, done.stderr) == (77, "tapnet: br0: needs CAP_NET_ADMIN: run as root\n")
