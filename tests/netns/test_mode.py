"""NAT and TAP swapped under a guest that does not restart (T2)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapnet.monitor.client import main as client
from tests.netns.exec_kit import Runner, daemon
from tests.netns.lan_kit import Running, inside, lan, links, tapnet, within
from tests.netns.support import sh, until_sync
from tests.waiting import BOUND_S

__all__ = ["lan", "tapnet"]  # fixtures

PORT, FORWARDED = 5001, 5002
ROUTER_SOLICITATION = 133


@pytest.fixture
def guest(lan: str) -> Iterator[str]:
    """A guest's namespace."""
    sh(f"ip netns add {lan}-g")
    yield f"{lan}-g"
    sh(f"ip netns del {lan}-g", check=False)


def address(guest: str) -> str:
    """The guest's present IPv4 address."""
    text = sh(f"ip -n {guest} -4 addr show eth0", check=False)
    return text.split("inet ")[1].split("/")[0] if "inet " in text else ""


def leased(guest: str, start: str) -> None:
    until_sync(lambda: address(guest).startswith(start), f"a lease of {start}")


def ping(guest: str, to: str) -> None:
    until_sync(
        lambda: " 0% packet loss" in sh(f"ip netns exec {guest} ping -c 1 -W 2 {to}", check=False),
        f"a ping to {to}",
    )


def listening(name: str, where: tuple[str, int]) -> socket.socket:
    return within(name, lambda: socket.create_server(where))


def connected(name: str, where: tuple[str, int]) -> socket.socket:
    made = within(name, lambda: socket.create_connection(where, BOUND_S))
    made.settimeout(BOUND_S)
    return made


def ended(connection: socket.socket) -> bool:
    """Whether the other side has reset it, rather than closed it or said nothing."""
    try:
        connection.recv(1)
    except ConnectionResetError:
        return True
    return False


def refused(name: str, where: tuple[str, int]) -> bool:
    try:
        connected(name, where).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("model", ["ne2k_pci", "direct"])
def test_swapped_under_a_guest(lan: str, guest: str, tapnet: Runner, model: str) -> None:
    options = (
        *("-net", f"nic,model={model},netns=/run/netns/{guest},dhcp=on"),
        *("-net", f"user,hostfwd=tcp::{FORWARDED}-:{FORWARDED}", "-net", "tap,ifname=tap0,br=br0"),
    )
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(Running(inside(lan, tapnet), "--mode", "user", *options))
        leased(guest, "10.0.2.15")
        assert "tap0" not in links(lan) and "mode: user" in running.monitor("info", "instance")
        host = stack.enter_context(listening(lan, ("127.0.0.1", PORT)))
        served = stack.enter_context(listening(guest, ("0.0.0.0", FORWARDED)))
        out = stack.enter_context(connected(guest, ("10.0.2.2", PORT)))
        out_host = stack.enter_context(host.accept()[0])
        back = stack.enter_context(connected(lan, ("127.0.0.1", FORWARDED)))
        back_guest = stack.enter_context(served.accept()[0])
        for one, other in ((out, out_host), (back, back_guest)):
            one.sendall(b"x")
            other.settimeout(BOUND_S)
            assert other.recv(1) == b"x"
        index = links(guest)["eth0"]["ifindex"]
        until_sync(lambda: "default" in sh(f"ip -n {guest} -6 route"), "a router of IPv6")

        said = running.ask("mode", "tap", "-i", running.name)
        assert said == "VLAN 0: tap: ifname=tap0 setup_script=\n"
        assert [ended(one) for one in (out, out_host, back, back_guest)] == [True] * 4, "RST to all"
        assert refused(lan, ("127.0.0.1", FORWARDED)), "redirections are the NAT's"
        assert links(lan)["tap0"]["master"] == "br0"
        leased(guest, "192.168.77.")
        ping(guest, "192.168.77.1")
        until_sync(lambda: "default" not in sh(f"ip -n {guest} -6 route"), "the router has said goodbye")
        assert links(guest)["eth0"]["ifindex"] == index, "the same interface"
        assert running.ask("mode", "tap", "-i", running.name) == said, "again is nothing"

        assert running.ask("mode", "user", "--vlan", "0", "-i", running.name) == "VLAN 0: user redirector\n"
        leased(guest, "10.0.2.15")
        assert "tap0" not in links(lan)
        with connected(lan, ("127.0.0.1", FORWARDED)) as again:
            with served.accept()[0] as taken:
                again.sendall(b"y")
                assert taken.recv(1) == b"y"
            assert running.stop() == 0


def settled(addresses: str) -> bool:
    """Whether duplicate address detection is over, at whose end the kernel asks for routers."""
    return "fe80:" in addresses and "tentative" not in addresses


def test_the_guest_asks_for_routers_of_its_new_network(lan: str, guest: str, tapnet: Runner) -> None:
    """Its kernel does so only when an interface comes up for the first time; a LAN's router may speak every ten minutes."""
    options = (
        "-net",
        f"nic,netns=/run/netns/{guest},dhcp=on",
        "-net",
        "user",
        "-net",
        "tap,ifname=tap0,br=br0",
    )
    with Running(inside(lan, tapnet), "--mode", "user", *options) as running:
        leased(guest, "10.0.2.15")
        until_sync(lambda: "default" in sh(f"ip -n {guest} -6 route"), "a router of IPv6")
        until_sync(lambda: settled(sh(f"ip -n {guest} -6 addr show eth0")), "the kernel's own question")
        heard = within(lan, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD)))
        with heard:
            heard.bind(("br0", 0x86DD))
            heard.settimeout(BOUND_S)
            running.monitor("mode", "tap")
            while (frame := heard.recv(2048))[20] != socket.IPPROTO_ICMPV6 or frame[
                54
            ] != ROUTER_SOLICITATION:
                pass
        assert frame[:6] == bytes.fromhex("333300000002") and frame[21] == 255
        assert frame[6:12].hex(":") == links(guest)["eth0"]["address"]


def test_what_fails_changes_nothing(lan: str, guest: str, tapnet: Runner) -> None:
    nic = f"nic,model=direct,netns=/run/netns/{guest},dhcp=on"
    with Running(inside(lan, tapnet), "-net", nic, "-net", f"user,hostfwd=tcp::{FORWARDED}-:1") as running:
        leased(guest, "10.0.2.15")
        host = listening(lan, ("127.0.0.1", PORT))
        with host, connected(guest, ("10.0.2.2", PORT)) as out, host.accept()[0] as taken:
            sh(f"ip -n {lan} link set br0 name br7")
            said = running.ask("mode", "tap", "-i", running.name, check=False)
            assert said == "Error: -net tap: br=br0: no such interface (ip link add br0 type bridge)\n"
            assert [name for name in links(lan) if name.startswith("tap")] == [], "nothing is left of it"
            out.sendall(b"x")
            taken.settimeout(BOUND_S)
            assert taken.recv(1) == b"x", "flows go on"
            assert links(guest)["eth0"]["operstate"] in ("UP", "UNKNOWN"), "the link has not blinked"
        for vlan, why in (("7", "there is no such VLAN"),):
            said = running.ask("mode", "tap", "--vlan", vlan, "-i", running.name, check=False)
            assert said == f"Error: VLAN {vlan}: {why}\n"
        sh(f"ip -n {lan} link set br7 name br0")
        assert running.ask("mode", "tap", "-i", running.name).startswith("VLAN 0: tap: ifname=tap")
        leased(guest, "192.168.77.")
        with listening(lan, ("0.0.0.0", FORWARDED)):
            said = running.ask("mode", "user", "-i", running.name, check=False)
            assert f"hostfwd=tcp::{FORWARDED}-:1: cannot listen" in said
            ping(guest, "192.168.77.1")


def test_without_roots_privilege(lan: str, tapnet: Runner) -> None:
    """What a TAP needs is kept, and loaded before, where the user may not read root's folders."""
    options = (
        "--mode",
        "user",
        "--runas",
        "nobody",
        "-net",
        "nic",
        "-net",
        "user",
        "-net",
        "tap,ifname=tap0,br=br0",
    )
    with Running(inside(lan, tapnet), *options) as running:
        for _ in range(2):
            assert (
                running.ask("mode", "tap", "-i", running.name) == "VLAN 0: tap: ifname=tap0 setup_script=\n"
            )
            assert links(lan)["tap0"]["master"] == "br0"
            running.monitor("mode", "user")
            assert "tap0" not in links(lan)


def test_mode_of_exec_and_of_the_environment(lan: str, tapnet: Runner) -> None:
    """The flag, and what it goes over; resolv.conf follows the lease."""
    options = ("-net", "nic", "-net", "user", "-net", "tap,br=br0")
    command = "ip -4 addr show eth0"
    where = inside(lan, tapnet)
    done = where.run(command, "--mode", "tap", *options)
    assert done.returncode == 0 and "192.168.77." in done.stdout, done.stderr
    tap = Runner(where.name, where.prefix, where.env | {"TAPNET_MODE": "tap"}, where.home)
    done = tap.run(command, "-net", "nic", "-net", "user")
    assert done.returncode == 0 and "192.168.77." in done.stdout, done.stderr
    done = tap.run(command, "--mode", "user", *options)
    assert done.returncode == 0 and "10.0.2.15" in done.stdout, done.stderr


def test_reload_keeps_what_a_monitor_chose(lan: str, guest: str, tapnet: Runner) -> None:
    """Until the file says another mode than it did."""
    file = tapnet.home / "lab.toml"
    nets = f'[[net]]\ntype = "nic"\nmodel = "direct"\nnetns = "/run/netns/{guest}"\n'
    nets += '[[net]]\ntype = "user"\n[[net]]\ntype = "tap"\nifname = "tap0"\nbr = "br0"\n'

    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tapnet.home / "notify"))
    told.settimeout(BOUND_S)
    runner = inside(lan, tapnet)
    runner.env["NOTIFY_SOCKET"] = str(tapnet.home / "notify")

    def reloaded(text: str) -> None:
        file.write_text(text)
        running.process.send_signal(signal.SIGHUP)
        while b"RELOADING=1" not in told.recv(4096):
            pass
        while b"READY=1" not in told.recv(4096):
            pass
        assert "reload" not in running.said(), "it works"

    def plugged() -> list[str]:
        shown = running.monitor("info", "network").splitlines()[1:]
        return [line.split()[0] for line in shown if not line.startswith("  direct")]

    file.write_text('mode = "user"\n' + nets)
    with told, Running(runner, "--config", str(file)) as running:
        running.monitor("mode", "tap")
        index = links(lan)["tap0"]["ifindex"]
        reloaded('mode = "user"\n' + nets)
        assert plugged() == ["tap:"] and links(lan)["tap0"]["ifindex"] == index
        reloaded('mode = "user"\n' + nets + '[[net]]\ntype = "user"\nvlan = 1\n')
        reloaded('mode = "tap"\n' + nets)
        assert plugged() == ["tap:"] and links(lan)["tap0"]["ifindex"] == index
        reloaded('mode = "user"\n' + nets)
        assert plugged() == ["user"] and "tap0" not in links(lan)
        running.monitor("mode", "tap")
        reloaded(nets)
        assert sorted(plugged()) == ["tap:", "user"], "no mode: both"
        running.monitor("mode", "user")
        assert plugged() == ["user"] and "mode: user" in running.monitor("info", "instance")


def arp_request(mac: bytes, sender: str, target: str) -> bytes:
    body = b"\0\1\10\0\6\4\0\1" + mac + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)
    return (b"\xff" * 6 + mac + b"\x08\x06" + body).ljust(60, b"\0")


def test_a_hundred_swaps_under_traffic(lan: str, guest: str, tapnet: Runner, tmp_path: Path) -> None:
    """A guest on a wire asks for both gateways all the time: after each swap exactly one of them answers. Beside it a
    guest in a namespace keeps pinging; nothing is left over.
    """
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    wire = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    wire.bind(str(ours))
    wire.settimeout(0.02)
    mac = bytes.fromhex("5254000000aa")
    senders = {"user": ("10.0.2.99", "10.0.2.2"), "tap": ("192.168.77.99", "192.168.77.1")}

    def answers() -> str:
        """Ask both once; who answered last."""
        for sender, target in senders.values():
            wire.sendto(arp_request(mac, sender, target), str(theirs))
        last = ""
        with contextlib.suppress(TimeoutError):
            while True:
                frame = wire.recv(65536)
                if frame[12:14] == b"\x08\x06" and frame[21] == 2 and frame[:6] == mac:
                    spa = socket.inet_ntoa(frame[28:32])
                    last = next(mode for mode, (_, target) in senders.items() if target == spa)
        return last

    options = (
        *("-net", f"nic,model=direct,netns=/run/netns/{guest}"),
        "-net", f"dgram,local.type=unix,local.path={theirs},remote.type=unix,remote.path={ours}",
        *("-net", "user", "-net", "tap,ifname=tap0,br=br0"),
    )  # fmt: skip
    with Running(inside(lan, tapnet), "--mode", "user", *options) as running:
        for text in ("10.0.2.15/24", "192.168.77.15/24"):
            sh(f"ip -n {guest} addr add {text} dev eth0")
        control = client.Connection(client.find(running.name), BOUND_S)
        for mode in ("tap", "user"):  # what is made once, is
            assert control.ask(f"mode {mode}")[0]
        descriptors = Path(f"/proc/{running.process.pid}/fd")
        before = len(list(descriptors.iterdir()))
        with flood(guest):
            for number in range(100):
                mode = ("tap", "user")[number % 2]
                assert control.ask(f"mode {mode}")[0]
                end = time.monotonic() + BOUND_S
                while (got := answers()) != mode:
                    assert time.monotonic() < end, (number, mode, got)
                assert answers() in (mode, ""), "nobody of the other side"
        ping(guest, "10.0.2.2")
        after = sorted(os.readlink(fd) for fd in descriptors.iterdir())
        assert len(after) <= before + 1, after
        assert "tap0" not in links(lan)
        assert running.said() == ""
        assert running.stop() == 0


@contextlib.contextmanager
def flood(guest: str) -> Iterator[None]:
    """Pings to both gateways, a hundred a second, until the end."""
    with contextlib.ExitStack() as stack:
        for to in ("10.0.2.2", "192.168.77.1"):
            stack.enter_context(daemon(["ip", "netns", "exec", guest, "ping", "-q", "-i", "0.02", to]))
        yield
