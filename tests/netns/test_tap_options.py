"""The keys of -net tap and bridge, interfaces made by others, and what happens to an interface while it runs."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tapnet.backends.tap import opening as tap_open
from tapnet.config import TapNet
from tapnet.options import parse as options
from tests.netns.exec_kit import UID, Runner, user_runner
from tests.netns.lan_kit import Running, inside, lan, links, tapnet, within
from tests.netns.support import sh, until_sync
from tests.waiting import BOUND_S

__all__ = ["lan", "tapnet"]  # fixtures

HELPER = "/usr/lib/qemu/qemu-bridge-helper"
LEASE = "ip -4 addr show eth0 | grep 192.168.77."


def program(path: Path, text: str) -> Path:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def among_private_mounts(
    lan: str, argv: Sequence[str], who: Runner, conf: Path | None = None, nodes: str = "true"
) -> str:
    """Run ``argv`` in the namespace with a /dev of its own, in which /dev/net/tun is as Debian has it (0666), and
    ``conf`` as /etc/qemu. ``nodes``: shell words that make further devices in $d.
    """
    steps = [
        "d=$(mktemp -d) && mount -t tmpfs dev $d && mkdir $d/net",
        "cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty $d",
        f"mknod $d/net/tun c 10 200 && chmod 666 $d/net/tun && {nodes} && mount --move $d /dev && rmdir $d",
        f"mkdir -p /etc/qemu && mount --bind {conf} /etc/qemu" if conf is not None else "true",
        "exec " + " ".join(shlex.quote(word) for word in argv),
    ]
    done = subprocess.run(
        ["ip", "netns", "exec", lan, "unshare", "-m", "sh", "-c", " && ".join(steps)],
        env=who.env, capture_output=True, text=True, timeout=BOUND_S, cwd=who.home,
    )  # fmt: skip
    return f"{done.returncode} {done.stdout}{done.stderr}"


def bridge_conf(folder: Path, text: str) -> Path:
    """A directory for /etc/qemu."""
    conf = folder / "qemu"
    conf.mkdir()
    (conf / "bridge.conf").write_text(text)
    return conf


def net(text: str) -> TapNet:
    """What -net tap,TEXT means."""
    made = options.parse_option("net", f"tap,{text}").net
    assert isinstance(made, TapNet)
    return made


def fails(lan: str, text: str) -> str:
    """Why -net tap,TEXT cannot be opened in the namespace."""
    with pytest.raises(tap_open.TapError) as caught:
        within(lan, lambda: tap_open.open_tap(net(text)))
    return str(caught.value)


def link(name: str, ifname: str) -> dict[str, object]:
    return links(name).get(ifname, {})


@pytest.fixture(scope="module")
def user() -> Runner:
    """An ordinary user."""
    return user_runner(Path())


# ---- scripts ----------------------------------------------------------------------------------------------


def test_scripts_run_with_the_name(lan: str, tapnet: Runner, tmp_path: Path) -> None:
    up = program(tmp_path / "up", f'echo "up $# $1" >> {tmp_path}/log; ip link set "$1" master br0\n')
    down = program(
        tmp_path / "down", f'echo "down $# $1 $(cat /sys/class/net/$1/ifindex)" >> {tmp_path}/log\n'
    )
    done = inside(lan, tapnet).run(
        f"{LEASE}; cat {tmp_path}/log; cp /proc/net/dev /dev/null",
        *("-net", "nic", "-net", f"tap,ifname=tap0,script={up},downscript={down}"),
    )
    assert done.returncode == 0 and "192.168.77." in done.stdout, done.stderr
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first == "up 1 tap0"
    assert second.startswith("down 1 tap0 ") and second.split()[-1].isdigit(), "before the interface ends"
    assert not link(lan, "tap0")


def test_no_script_means_none(lan: str, tapnet: Runner, tmp_path: Path) -> None:
    """Neither ``no`` nor nothing runs what QEMU would: /etc/qemu-ifup."""
    done = inside(lan, tapnet).run("true", "-net", "nic,dhcp=off", "-net", "tap,script=no,downscript=no")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo it is not to be >&2; exit 3\n", "failed with status 3 (it is not to be)"),
        (None, "No such file or directory"),
    ],
)
def test_a_script_that_fails(lan: str, tmp_path: Path, body: str | None, said: str) -> None:
    path = tmp_path / "up"
    if body is not None:
        program(path, body)
    assert fails(lan, f"ifname=tap0,script={path}") == f"script={path}: {said}"
    assert not link(lan, "tap0"), "nothing is left"


# ---- descriptors and helpers ------------------------------------------------------------------------------


def open_tap(lan: str, ifname: str, flags: int = 0x1002) -> int:
    """A TAP made by somebody else in the namespace ``lan``; its descriptor is inheritable."""

    def work() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", ifname.encode(), flags))
        return fd

    fd = within(lan, work)
    os.set_inheritable(fd, True)
    return fd


@pytest.mark.parametrize("flags", [0x1002, 0x5002], ids=["plain", "vnet_hdr"])
def test_a_descriptor_that_we_inherit(lan: str, tapnet: Runner, flags: int) -> None:
    """tapnet itself stays outside: the descriptor is all that it has of the LAN."""
    fd = open_tap(lan, "given0", flags)
    try:
        sh(f"ip -n {lan} link set given0 master br0 up")
        done = subprocess.run(
            tapnet.argv("exec", "-net", "nic,model=direct", "-net", f"tap,fd={fd}", "--", "sh", "-c", LEASE),
            env=tapnet.env, capture_output=True, text=True, timeout=BOUND_S, pass_fds=[fd],
        )  # fmt: skip
        assert done.returncode == 0 and "192.168.77." in done.stdout, done.stderr
        assert link(lan, "given0")["master"] == "br0", "it is somebody else's"
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("fd", "said"),
    [
        ("0", "fd=0: not a TAP that can be used"),
        ("977", "fd=977: Bad file descriptor"),
    ],
)
def test_a_descriptor_that_is_no_tap(lan: str, fd: str, said: str) -> None:
    assert fails(lan, f"fd={fd}").startswith(said)


def test_a_tun_is_no_tap(lan: str) -> None:
    fd = open_tap(lan, "tun9", 0x1001)
    try:
        assert fails(lan, f"fd={fd}").startswith(
            f"fd={fd}: not a TAP that can be used (not a TAP device without"
        )
        assert fails(lan, "ifname=tun9") == "ifname=tun9: exists, but is no TAP interface that can be used"
    finally:
        os.close(fd)


def test_qemus_helper_serves_an_ordinary_user(lan: str, user: Runner) -> None:
    """-net bridge: qemu-bridge-helper, setuid root as its package's README has it, makes the TAP."""
    helper = user.home / "helper"
    shutil.copy(HELPER, helper)
    helper.chmod(0o4755)
    words = (
        "exec",
        "-net",
        "nic,model=direct",
        "-net",
        f"bridge,br=br0,helper={helper}",
        "--",
        "sh",
        "-c",
        LEASE,
    )
    said = among_private_mounts(lan, user.argv(*words), user, bridge_conf(user.home, "allow br0\n"))
    assert said.startswith("0 ") and "192.168.77." in said
    assert [name for name in links(lan) if name.startswith("tap")] == [], "it ended with us"


def test_a_helper_of_ones_own(lan: str, tapnet: Runner, tmp_path: Path) -> None:
    """What QEMU calls it with; with blanks in it, by a shell, and --br= where it says."""
    say = program(tmp_path / "help", f'echo "$@" >> {tmp_path}/log; exec {HELPER} "$@"\n')
    conf = bridge_conf(tmp_path, "allow all\n")
    for helper, net in ((str(say), "tap,br=br0,"), (f"{say} --br=br0", "tap,"), (str(say), "bridge,")):
        words = ("exec", "-net", "nic", "-net", f"{net}helper={helper}", "--", "sh", "-c", LEASE)
        said = among_private_mounts(lan, tapnet.argv(*words), tapnet, conf)
        assert said.startswith("0 ") and "192.168.77." in said
    first, second, third = (tmp_path / "log").read_text().splitlines()
    assert first.split()[0] == "--use-vnet" and first.split()[2] == "--br=br0" == third.split()[2]
    assert second.split()[:2] == ["--br=br0", "--use-vnet"] and "--fd=" in second


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo no such bridge >&2; exit 1\n", "br=br0: failed with status 1 (no such bridge)"),
        ("exit 0\n", "br=br0: handed no TAP over"),
        (None, "No such file or directory"),
    ],
)
def test_a_helper_that_fails(lan: str, tmp_path: Path, body: str | None, said: str) -> None:
    path = tmp_path / "help"
    if body is not None:
        program(path, body)
    assert fails(lan, f"helper={path}") == f"helper={path}: {said}"


# ---- made by others ---------------------------------------------------------------------------------------


def test_a_users_persistent_tap_needs_no_capability(lan: str, user: Runner) -> None:
    sh(f"ip -n {lan} tuntap add dev tap8 mode tap user {UID}")
    sh(f"ip -n {lan} link set tap8 master br0 up")
    for model in ("ne2k_pci", "direct"):
        words = (
            "exec",
            "-net",
            f"nic,model={model}",
            "-net",
            "tap,ifname=tap8,br=br0",
            "--",
            "sh",
            "-c",
            LEASE,
        )
        said = among_private_mounts(lan, user.argv(*words), user)
        assert said.startswith("0 ") and "192.168.77." in said
    assert link(lan, "tap8")["master"] == "br0"


def test_a_users_tap_that_is_down_is_one_line(lan: str, user: Runner) -> None:
    sh(f"ip -n {lan} tuntap add dev tap8 mode tap user {UID}")
    words = user.argv("exec", "-net", "nic", "-net", "tap,ifname=tap8", "--", "true")
    said = among_private_mounts(lan, words, user)
    assert said.startswith("2 ") and said.count("\n") == 1
    for word in ("ifname=tap8", "CAP_NET_ADMIN", "ip link set tap8 up"):
        assert word in said


def test_a_tap_made_for_several_queues(lan: str, tapnet: Runner) -> None:
    sh(f"ip -n {lan} tuntap add dev tap9 mode tap multi_queue")
    done = inside(lan, tapnet).run(LEASE, "-net", "nic", "-net", "tap,ifname=tap9,br=br0")
    assert done.returncode == 0 and "192.168.77." in done.stdout, done.stderr
    assert link(lan, "tap9").get("master") is None


def test_what_was_changed_is_given_back(lan: str, tapnet: Runner) -> None:
    sh(f"ip -n {lan} tuntap add dev tap5 mode tap")
    before = link(lan, "tap5")
    done = inside(lan, tapnet).run(
        "true",
        *("-net", "nic,dhcp=off", "-net", "tap,ifname=tap5,br=br0,mtu=1400,mac=02:00:00:00:00:99"),
    )
    assert done.returncode == 0, done.stderr
    after = link(lan, "tap5")
    for key in ("mtu", "address", "flags", "master"):
        assert after.get(key) == before.get(key), key


@pytest.mark.parametrize("model", ["ne2k_pci", "direct"])
def test_macvtap(lan: str, tapnet: Runner, model: str) -> None:
    """The guest beside the host on one link, with the macvtap's own address."""
    mac = "52:54:00:12:34:56"
    sh(f"ip -n {lan} link add up0 type veth peer name far0")
    sh(f"ip -n {lan} link set far0 master br0 up")
    sh(f"ip -n {lan} link add link up0 name mv0 address {mac} type macvtap mode bridge")
    sh(f"ip -n {lan} link set up0 up")
    words = tapnet.argv(
        *("exec", "-net", f"nic,model={model},macaddr={mac}", "-net", "tap,ifname=mv0", "--", "sh", "-c"),
        f"{LEASE}; ping -c 1 -w 30 192.168.77.1",
    )
    said = among_private_mounts(lan, words, tapnet, nodes=f"mknod {node(lan, '$d')}")
    assert said.startswith("0 ") and "192.168.77." in said
    assert "UP" not in link(lan, "mv0")["flags"], "as it was"  # type: ignore[operator]


def node(lan: str, folder: str = "/dev") -> str:
    """What mknod must be told for mv0's device."""
    index = link(lan, "mv0")["ifindex"]
    number = sh(f"ip netns exec {lan} cat /sys/class/net/mv0/tap{index}/dev").strip()
    return f"{folder}/tap{index} c {number.replace(':', ' ')}"


@pytest.mark.parametrize("other", [False, True], ids=["none", "another's"])
def test_macvtap_without_its_device(lan: str, tapnet: Runner, other: bool) -> None:
    """Numbers of interfaces are a namespace's own: a /dev/tapN may be of another one."""
    sh(f"ip -n {lan} link add up0 type veth peer name far0")
    sh(f"ip -n {lan} link add link up0 name mv0 type macvtap mode bridge")
    path, _, major, minor = node(lan).split()
    words = tapnet.argv("exec", "-net", "nic", "-net", "tap,ifname=mv0", "--", "true")
    nodes = f"mknod $d/{path.split('/')[-1]} c {major} {int(minor) + 1}" if other else "true"
    said = among_private_mounts(lan, words, tapnet, nodes=nodes)
    why = (
        f"{path} is another interface's device, not {major}:{minor}"
        if other
        else f"there is no {path} (mknod {path} c {major} {minor})"
    )
    assert said == f"2 tapnet: -net tap: ifname=mv0: {why}\n"


@pytest.mark.parametrize("net", ["tap,ifname=tap0,br=br0", "vxlan,id=7,remote=192.168.77.9,br=br0"])
def test_a_namespace_that_sys_does_not_show(lan: str, tapnet: Runner, net: str) -> None:
    """What bridges are is looked up there: not "is no bridge", which it is, and no endless tries."""
    words = ("nsenter", f"--net=/run/netns/{lan}", *tapnet.prefix)
    done = Runner(tapnet.name, words, tapnet.env, tapnet.home).run("true", "-net", "nic", "-net", net)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "br=br0: /sys does not show this network namespace" in done.stderr
    assert sorted(set(links(lan)) - {"lo"}) == ["br0"]


def test_privilege_without_a_name(user: Runner) -> None:
    done = user.run("true", "-net", "nic", "-net", "tap")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "%" not in done.stderr
    for word in ("CAP_NET_ADMIN", "ip tuntap add dev tap0 mode tap user", "-net bridge", "-net user"):
        assert word in done.stderr


# ---- while it runs ----------------------------------------------------------------------------------------


def guest(lan: str) -> str:
    """Options of a guest in the namespace ``lan``'s neighbour."""
    return f"nic,model=direct,netns=/run/netns/{lan}-g"


@pytest.fixture
def neighbour(lan: str) -> Iterator[str]:
    """A guest's namespace."""
    sh(f"ip netns add {lan}-g")
    yield f"{lan}-g"
    sh(f"ip netns del {lan}-g", check=False)


def pings(neighbour: str) -> bool:
    return " 0% packet loss" in sh(f"ip netns exec {neighbour} ping -c 1 -W 1 192.168.77.1", check=False)


def says(running: Running, text: str) -> None:
    until_sync(lambda: text in running.said(), f"{text} in {running.said()}")


def test_a_deleted_tap_is_made_again(lan: str, neighbour: str, tapnet: Runner) -> None:
    with Running(inside(lan, tapnet), "-net", guest(lan), "-net", "tap,ifname=tap0,br=br0") as running:
        sh(f"ip -n {neighbour} addr add 192.168.77.9/24 dev eth0")
        until_sync(lambda: pings(neighbour), "a ping")
        mac = link(lan, "tap0")["address"]
        assert str(mac).startswith("fe:"), "not the bridge's own address"
        for _ in range(2):
            seen = {None, link(lan, "tap0")["ifindex"]}
            sh(f"ip -n {lan} link del tap0")
            until_sync(lambda seen=seen: link(lan, "tap0").get("ifindex") not in seen, "tap0")
            until_sync(lambda: pings(neighbour), "a ping")
        assert (link(lan, "tap0")["master"], link(lan, "tap0")["address"]) == ("br0", mac)
        assert running.said().count("-net tap: tap0: the interface was deleted; trying again") == 2
        says(running, "-net tap: tap0: up again")
        assert running.stop() == 0
    assert not link(lan, "tap0")


def test_anothers_tap_is_opened_again_when_it_is_there(lan: str, neighbour: str, tapnet: Runner) -> None:
    sh(f"ip -n {lan} tuntap add dev tap5 mode tap")
    with Running(inside(lan, tapnet), "-net", guest(lan), "-net", "tap,ifname=tap5,br=br0") as running:
        sh(f"ip -n {neighbour} addr add 192.168.77.9/24 dev eth0")
        sh(f"ip -n {lan} link del tap5")
        says(running, "tap5: the interface was deleted")
        says(running, "tap5: there is no such interface; trying again")
        assert not link(lan, "tap5"), "not ours to make"
        sh(f"ip -n {lan} tuntap add dev tap5 mode tap")
        until_sync(lambda: pings(neighbour), "a ping")
        assert running.stop() == 0
    assert link(lan, "tap5").get("master") is None


def test_bridge_gone_and_back(lan: str, neighbour: str, tapnet: Runner) -> None:
    _bridge(lan)
    with Running(inside(lan, tapnet), "-net", guest(lan), "-net", "tap,ifname=tap0,br=br1") as running:
        sh(f"ip -n {neighbour} addr add 192.168.78.9/24 dev eth0")
        sh(f"ip -n {lan} link del br1")
        says(running, "tap0: is no longer a member of br1, which is gone; trying again")
        _bridge(lan)
        until_sync(lambda: link(lan, "tap0").get("master") == "br1", "a member again")
        until_sync(
            lambda: (
                " 0% packet loss" in sh(f"ip netns exec {neighbour} ping -c 1 -W 1 192.168.78.1", check=False)
            ),
            "a ping",
        )
        sh(f"ip -n {lan} link set tap0 nomaster")
        until_sync(lambda: link(lan, "tap0").get("master") == "br1", "taken back")


def _bridge(lan: str) -> None:
    sh(f"ip -n {lan} link add br1 type bridge")
    sh(f"ip -n {lan} addr add 192.168.78.1/24 dev br1")
    sh(f"ip -n {lan} link set br1 up")


def test_taken_down_and_up(lan: str, neighbour: str, tapnet: Runner) -> None:
    with Running(inside(lan, tapnet), "-net", guest(lan), "-net", "tap,ifname=tap0,br=br0") as running:
        sh(f"ip -n {lan} link set tap0 down")
        says(running, "-net tap: tap0: was taken down: nothing passes")
        sh(f"ip -n {lan} link set tap0 up")
        says(running, "-net tap: tap0: is up again")


def test_uplink_down_and_up(lan: str, neighbour: str, tapnet: Runner) -> None:
    sh(f"ip -n {lan} link add up0 type veth peer name far0")
    for name in ("up0", "far0"):
        sh(f"ip -n {lan} link set {name} up")
    sh(f"ip -n {lan} link set up0 master br0")
    with Running(inside(lan, tapnet), "-net", guest(lan), "-net", "tap,ifname=tap0,br=br0") as running:
        sh(f"ip -n {lan} link set far0 down")
        says(running, "-net tap: br0: no carrier on up0")
        sh(f"ip -n {lan} link set far0 up")
        says(running, "-net tap: br0: the uplink is up again")
        assert link(lan, "tap0")["master"] == "br0"


def test_nothing_is_left_after_sigkill(lan: str, neighbour: str, tapnet: Runner) -> None:
    options = ("-net", guest(lan), "-net", "tap,ifname=tap0,br=br0")
    with Running(inside(lan, tapnet), *options) as running:
        running.stop(9)
    until_sync(lambda: not link(lan, "tap0") and "eth0" not in links(neighbour), "interfaces")
    with Running(inside(lan, tapnet), *options) as running:
        assert link(lan, "tap0")["master"] == "br0"
        assert running.stop() == 0
