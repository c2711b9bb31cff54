"""The TAP backend, and existing namespaces as guests: tapnet in a namespace that plays the host of a LAN."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.netns.exec_kit import Runner, daemon, user_runner
from tests.netns.lan_kit import Running, inside, lan, links, namespace, tapnet
from tests.netns.support import sh, until_sync
from tests.waiting import BOUND_S

__all__ = ["lan", "tapnet"]  # fixtures


@pytest.mark.parametrize("model", ["ne2k_pci", "direct"])
def test_guest_is_on_the_lan(lan: str, tapnet: Runner, model: str) -> None:
    """T1: address from the LAN's own server, the host reaches the guest and the guest the host."""
    command = (
        "ip -4 addr show eth0; ip route; ping -c 1 -w 30 192.168.77.1;"
        "echo ready; exec timeout 120 nc -l -N -p 5000 < /etc/hostname"
    )
    process = inside(lan, tapnet).popen(
        command, "-net", f"nic,model={model}", "-net", "tap,ifname=tap0,br=br0"
    )
    try:
        assert process.stdout is not None
        text = ""
        while "ready\n" not in text:
            line = process.stdout.readline()
            assert line, process.stderr and process.stderr.read()
            text += line
        assert "default via 192.168.77.1" in text and " 0% packet loss" in text
        address = text.split("inet ")[1].split("/")[0]
        assert address.startswith("192.168.77.")
        assert links(lan)["tap0"]["master"] == "br0"
        sh(f"ip netns exec {lan} ping -c 1 -w 30 {address}")
        got = ""

        def fetched() -> bool:
            nonlocal got
            got = sh(f"ip netns exec {lan} nc -d -w 30 {address} 5000", check=False)
            return bool(got)

        until_sync(fetched, "the guest's server")
        assert got == Path("/etc/hostname").read_text()
        assert process.wait(BOUND_S) == 0
    finally:
        process.kill()
    assert "tap0" not in links(lan), "what we made is gone"


def test_persistent_tap_is_as_it_was(lan: str, tapnet: Runner) -> None:
    sh(f"ip -n {lan} tuntap add dev tap5 mode tap")
    sh(f"ip -n {lan} link set tap5 mtu 1400")
    before = links(lan)["tap5"]
    done = inside(lan, tapnet).run(
        "ip -4 addr show eth0", "-net", "nic", "-net", "tap,ifname=tap5,br=br0,mtu=1450"
    )
    assert done.returncode == 0 and "192.168.77." in done.stdout, done.stderr
    after = links(lan)["tap5"]
    assert (after["mtu"], after.get("master"), "UP" in after["flags"]) == (1400, None, False)  # type: ignore[operator]
    assert after["ifindex"] == before["ifindex"]


def test_members_of_a_bridge_stay_members(lan: str, tapnet: Runner) -> None:
    """An administrator's TAP that is up and in the bridge: nothing to change, nothing to undo."""
    sh(f"ip -n {lan} tuntap add dev tap6 mode tap")
    sh(f"ip -n {lan} link set tap6 master br0 up")
    done = inside(lan, tapnet).run("true", "-net", "nic", "-net", "tap,ifname=tap6,br=br0")
    assert done.returncode == 0, done.stderr
    assert links(lan)["tap6"]["master"] == "br0"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("ifname=tap0,br=nobridge", "br=nobridge: no such interface"),
        ("ifname=tap0,br=lo", "br=lo: is no bridge"),
        ("ifname=lo", "ifname=lo"),
        ("ifname=tap0,mtu=70000", "mtu=70000"),
    ],
)
def test_mistakes_are_one_line(lan: str, tapnet: Runner, option: str, said: str) -> None:
    done = inside(lan, tapnet).run("true", "-net", "nic", "-net", f"tap,{option}")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert "tap0" not in links(lan)


def test_without_privilege_says_what_would_help(tmp_path: Path) -> None:
    done = user_runner(tmp_path).run("true", "-net", "nic", "-net", "tap,ifname=tapnet-t0")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    for word in ("CAP_NET_ADMIN", "ip tuntap add", "helper", "user"):
        assert word in done.stderr


def test_a_deleted_tap_does_not_stop_the_rest(lan: str, tapnet: Runner) -> None:
    process = inside(lan, tapnet).popen(
        "echo ready; sleep 2; ping -c 1 -w 30 10.0.2.2",
        *("-net", "nic", "-net", "user", "-net", "nic,vlan=1,dhcp=off", "-net", "tap,vlan=1,ifname=tap0"),
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        sh(f"ip -n {lan} link del tap0")
        assert process.wait(BOUND_S) == 0
    finally:
        process.kill()


# ---- netns= ------------------------------------------------------------------------------------------------


def has_lease(name: str) -> bool:
    return "10.0.2.15" in sh(f"ip -n {name} -4 addr show", check=False)


def test_signals_during_the_end_are_quiet(tapnet: Runner) -> None:
    """As timeout(1) does it: to the process and to its group. The first one counts, the status stays 0."""
    with Running(tapnet, "-net", "nic", "-net", "user") as running:
        running.process.send_signal(signal.SIGTERM)
        while running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            running.process.send_signal(signal.SIGINT)
        assert running.process.returncode == 0
        said = running.said().splitlines()
        assert [line for line in said if "no guest is attached" not in line] == []


def test_ready_fd_must_be_open_for_writing(tapnet: Runner) -> None:
    for descriptor, why in (("99", "Bad file descriptor"), ("0", "not open for writing")):
        with open("/dev/null") as read_only:
            done = subprocess.run(
                tapnet.argv("run", "-net", "user", "-net", "nic", f"--ready-fd={descriptor}"),
                env=tapnet.env, stdin=read_only, capture_output=True, text=True, timeout=BOUND_S,
            )  # fmt: skip
        assert (done.returncode, done.stderr) == (2, f"tapnet: --ready-fd={descriptor}: {why}\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("model", ["ne2k_pci", "direct"])
def test_an_existing_namespace_is_the_guest(tapnet: Runner, model: str, number: int) -> None:
    mtu = 65520 if model == "direct" else 1500
    with namespace("guest") as name:
        nic = f"nic,model={model},netns=/run/netns/{name},ifname=wan0,dhcp=on,mtu={mtu}"
        with Running(tapnet, "-net", nic, "-net", "user") as running:
            until_sync(lambda: has_lease(name), "a lease")
            assert sorted(links(name)) == ["lo", "wan0"]
            assert links(name)["wan0"]["mtu"] <= mtu  # type: ignore[operator]
            assert "ttl=255" in sh(f"ip netns exec {name} ping -c 1 -w 30 10.0.2.2")
            running.stop(number)
        until_sync(lambda: sorted(links(name)) == ["lo"], "wan0 is gone")


def test_a_process_names_the_namespace_and_dhcp_is_off(tapnet: Runner) -> None:
    with namespace("guest") as name, daemon(["ip", "netns", "exec", name, "sleep", "100"]) as holder:
        until_sync(
            lambda: os.stat(f"/proc/{holder.pid}/ns/net").st_ino == os.stat(f"/run/netns/{name}").st_ino,
            "netns",
        )
        with Running(tapnet, "-net", f"nic,netns={holder.pid}", "-net", "user"):
            sh(f"ip -n {name} addr add 10.0.2.20/24 dev eth0")
            sh(f"ip netns exec {name} ping -c 1 -w 30 10.0.2.2")
            assert not has_lease(name)


def test_an_ordinary_users_namespace(tmp_path: Path) -> None:
    """A namespace within the user's own user namespace (a rootless container): no privilege needed."""
    user = user_runner(tmp_path)
    hold = [*user.prefix[:-1], "unshare", "-Urn", "sleep", "100"]
    with daemon(hold) as holder:
        until_sync(
            lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "namespace"
        )
        enter = f"nsenter -t {holder.pid} -U -n"
        with Running(user, "-net", f"nic,model=direct,netns={holder.pid},dhcp=on", "-net", "user") as running:
            until_sync(lambda: "10.0.2.15" in sh(f"{enter} ip -4 addr", check=False), "a lease")
            assert "ttl=255" in sh(f"{enter} ping -c 1 -w 30 10.0.2.2")
            running.stop(signal.SIGKILL)
        until_sync(lambda: "eth0" not in sh(f"{enter} ip link"), "eth0 is gone")


@pytest.mark.parametrize(
    ("netns", "said"),
    [
        ("/no/such/file", "netns=/no/such/file: no such file"),
        ("4000000", "netns=4000000: no such process"),
        ("/etc/passwd", "netns=/etc/passwd: not a network namespace"),
        ("/proc/self/ns/mnt", "netns=/proc/self/ns/mnt: not a network namespace"),
    ],
)
def test_namespaces_that_are_none(tapnet: Runner, netns: str, said: str) -> None:
    done = subprocess.run(
        tapnet.argv("run", "-net", f"nic,netns={netns}", "-net", "user"),
        env=tapnet.env, capture_output=True, text=True, timeout=BOUND_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"tapnet: -net nic: {said}\n"


def test_an_interface_that_is_there_is_not_taken(tapnet: Runner) -> None:
    with namespace("guest") as name:
        sh(f"ip -n {name} link add eth0 type bridge")
        done = subprocess.run(
            tapnet.argv("run", "-net", f"nic,netns=/run/netns/{name}", "-net", "user"),
            env=tapnet.env, capture_output=True, text=True, timeout=BOUND_S,
        )  # fmt: skip
        assert done.returncode == 2
        assert "ifname=eth0" in done.stderr and "already" in done.stderr
        assert "bridge" in sh(f"ip -n {name} -d link show eth0")


def test_no_permission_for_a_roots_namespace(tmp_path: Path) -> None:
    user = user_runner(tmp_path)
    with namespace("guest") as name:
        done = subprocess.run(
            user.argv("run", "-net", f"nic,netns=/run/netns/{name}", "-net", "user"),
            env=user.env, capture_output=True, text=True, timeout=BOUND_S,
        )  # fmt: skip
        assert done.returncode == 2
        assert f"netns=/run/netns/{name}" in done.stderr and "not permitted" in done.stderr
