"""IPv6 with real programs: the kernel's autoconfiguration, DHCPv6 clients, curl, dig, iperf3, ssh, large datagrams, traces.

Guests are namespaces behind ``tapnet exec``; servers sit on this host's ::1 or at the end of an Internet of namespaces.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from tapnet.options import ula
from tests import needs
from tests.netns.exec_kit import Runner, blob, daemon, root_runner, user_runner
from tests.netns.internet import Internet, internet
from tests.netns.support import until_sync
from tests.waiting import BOUND_S

DIRECT = ("-net", "nic,model=direct")
BY_HAND = ("-net", "nic,model=direct,dhcp=off")
MAC_END = "5054:ff:fe12:3456"
WAIT = "for i in $(seq 300); do ip -6 addr show dev eth0 | grep -q 'inet6 fe80.* scope link $' && break; sleep 0.1; done;"
BIG = 65527  # the largest UDP payload of IPv6; 65507 of IPv4
LARGE = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
size = int(sys.argv[3])
sock = socket.socket(family, socket.SOCK_DGRAM)
for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
    sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
sock.settimeout(1)
data = bytes(range(251)) * (size // 251 + 1)
for _ in range(30):
    sock.sendto(data[:size], (sys.argv[1], int(sys.argv[2])))
    try:
        answer = sock.recv(65536)
    except OSError:
        continue
    assert answer == data[:size][::-1]
    print("echoed", len(answer), flush=True)
    break
"""


@pytest.fixture(scope="module", params=["root", "user"])
def tapnet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    home = tmp_path_factory.mktemp(request.param)
    return root_runner(home) if request.param == "root" else user_runner(home)


@pytest.fixture
def root(tmp_path: Path) -> Runner:
    return root_runner(tmp_path)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET6, kind) as sock:
        sock.bind(("::1", 0))
        return int(sock.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", port)) == 0


@contextlib.contextmanager
def reversing(host: str) -> Iterator[int]:
    """A UDP server that sends every datagram back, reversed; its port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.bind((host, 0))

        def serve() -> None:
            while True:
                data, peer = sock.recvfrom(65536)
                if data == b"end":
                    return
                sock.sendto(data[::-1], peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield sock.getsockname()[1]
        with socket.socket(sock.family, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", sock.getsockname()[:2])
        thread.join(BOUND_S)


# ---- how a guest is configured -----------------------------------------------------------------------------


def test_the_kernel_configures_itself(tapnet: Runner) -> None:
    done = tapnet.run(
        "ip -6 -j addr show dev eth0; ip -6 -j route; cat /etc/resolv.conf;"
        " for a in fec0::2 fec0::3 fe80::2%eth0; do ping -6 -c 1 -w 30 $a; done",
        *DIRECT,
        "-net",
        "user,dnssearch=lab.example",
    )
    assert done.returncode == 0, done.stderr
    addresses, routes, rest = done.stdout.split("\n", 2)
    (link,) = (item for item in json.loads(addresses) if item)
    assert f"fec0::{MAC_END}" in [info["local"] for info in link["addr_info"]]
    (default,) = (route for route in json.loads(routes) if route["dst"] == "default")
    assert (default["gateway"], default["protocol"]) == ("fe80::2", "ra")
    assert rest.startswith("nameserver 10.0.2.3\nnameserver fec0::3\nsearch lab.example\n")
    assert rest.count("ttl=255") == 3


def test_ipv6_alone(root: Runner) -> None:
    done = root.run(
        "ip -o addr show dev eth0; cat /etc/resolv.conf", *DIRECT, "-net", "user,ipv6=on,ipv6-ula=lab7"
    )
    assert done.returncode == 0, done.stderr
    assert "inet " not in done.stdout
    net = ula.prefix("lab7")
    assert f"inet6 {str(net.network_address)[:-2]}:0:{MAC_END}/64" in done.stdout, done.stdout
    assert f"nameserver {net.network_address + 3}\n" in done.stdout
    assert "10.0.2.3" not in done.stdout


@pytest.mark.parametrize("keys", ["ipv6=off", "mtu=1200"])
def test_ipv4_alone(root: Runner, keys: str) -> None:
    done = root.run(
        "ip -6 addr show dev eth0; ip -6 route; cat /etc/resolv.conf", *DIRECT, "-net", f"user,{keys}"
    )
    assert done.returncode == 0, done.stderr
    assert "fec0" not in done.stdout and "default via" not in done.stdout


def test_behind_the_registers_of_a_card(root: Runner) -> None:
    done = root.run("ping -6 -c 1 -w 30 fec0::2", "-net", "nic,model=ne2k_pci", "-net", "user")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_router_says_to_rdisc6(root: Runner) -> None:
    command = f"{WAIT} rdisc6 -1 -w 30000 eth0 && ndisc6 -1 -w 30000 fec0::3 eth0"
    done = root.run(command, *BY_HAND, "-net", "user,dnssearch=a.example,dnssearch=b.test,mtu=1400")
    assert done.returncode == 0, done.stdout + done.stderr
    words = " ".join(done.stdout.split())
    for text in (
        "Router lifetime : 1800",
        "MTU : 1400 bytes (valid)",
        "Prefix : fec0::/64",
        "Recursive DNS server : fec0::3",
        "DNS search list : a.example b.test",
        "from fe80::2",
        "52:56:00:00:00:03",
    ):
        assert text in words, done.stdout


CLIENTS = {
    "dhclient": "dhclient -6 -S -1 eth0 && grep -q fec0::3 /etc/resolv.conf && dhclient -6 -1 eth0",
    "dhcpcd": "dhcpcd -6 -B -t 30 -1 eth0",
}


@pytest.mark.parametrize("client", list(CLIENTS))
def test_dhcpv6_clients(root: Runner, client: str) -> None:
    if client == "dhclient":
        needs.program("dhclient", "isc-dhcp-client")
    options = (
        "user,ipv6-net=fd00:5::/80" if client == "dhcpcd" else "user"
    )  # no /64: addresses by DHCPv6 alone
    done = root.run(
        f"{WAIT} {CLIENTS[client]} >/tmp/out 2>&1 || {{ cat /tmp/out; exit 9; }};"
        " for i in $(seq 100); do ip -6 addr show dev eth0 | grep -q tentative || break; sleep 0.1; done;"
        " ip -6 addr show dev eth0; cat /etc/resolv.conf; dhclient -6 -r eth0 2>&1 || true",
        *BY_HAND,
        "-net",
        f"{options},dnssearch=lab.example",
        seconds=BOUND_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if client == "dhclient":
        assert "inet6 fec0::1000/128" in done.stdout
    if client == "dhcpcd":
        assert "inet6 fd00:5::1000/128" in done.stdout
    assert "lab.example" in done.stdout
    assert f"nameserver {'fd00:5' if client == 'dhcpcd' else 'fec0'}::3" in done.stdout


# ---- to the host's loopback, and names ---------------------------------------------------------------------


def test_curl_and_iperf3(root: Runner) -> None:
    """A page, a TFTP transfer, and TCP both ways at whatever speed."""
    data = blob(3_000_000)
    (root.home / "www6").mkdir(exist_ok=True)
    (root.home / "www6" / "f").write_bytes(data)
    web, perf = free_port(), free_port()
    server = [sys.executable, "-m", "http.server", "--bind", "::1", str(web), "-d", str(root.home / "www6")]
    with daemon(server), daemon(["iperf3", "-s", "-B", "::1", "-p", str(perf)]):
        until_sync(lambda: listening(web) and listening(perf), "the servers listen", 30)
        done = root.run(
            f"curl -6 -sS -m 60 http://[fec0::2]:{web}/f | sha256sum; curl -sS -m 60 tftp://[fec0::2]/f | sha256sum;"
            f" for way in '' -R; do iperf3 -6 -c fec0::2 -p {perf} -n 20M $way >/dev/null && echo ok; done",
            *DIRECT,
            "-net",
            f"user,tftp={root.home}/www6",
            seconds=BOUND_S,
        )
    digest = hashlib.sha256(data).hexdigest()
    assert done.stdout.split() == [digest, "-", digest, "-", "ok", "ok"], done.stdout + done.stderr


@pytest.mark.parametrize(("keys", "reached"), [(",hostloopback=off", False), (",restrict=on", False)])
def test_the_hosts_loopback(root: Runner, keys: str, reached: bool) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        done = root.run(f"nc -6 -z -w 30 fec0::2 {port}", *DIRECT, "-net", f"user{keys}")
        assert (done.returncode == 0) == reached, done.stderr


@pytest.mark.parametrize("how", ["+notcp", "+tcp"])
def test_dig(root: Runner, how: str) -> None:
    port = free_port(socket.SOCK_DGRAM)
    argv = [
        "dnsmasq",
        "-k",
        "-u",
        "root",
        "-C",
        "/dev/null",
        "-p",
        str(port),
        "-a",
        "127.0.0.1",
        "-z",
        "-R",
        "-h",
    ]
    with daemon([*argv, "--pid-file=", "--address=/a.example/2001:db8::77"]):
        done = root.run(
            f"dig @fec0::3 +short +tries=20 +time=2 {how} aaaa a.example; getent ahostsv6 a.example",
            *DIRECT,
            "-net",
            f"user,ipv6=on,resolver=127.0.0.1:{port}",
        )
    assert done.stdout.startswith("2001:db8::77\n2001:db8::77 "), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("host", "guest", "size"), [("::1", "fec0::2", BIG), ("127.0.0.1", "10.0.2.2", 65507)]
)
def test_the_largest_datagrams(root: Runner, host: str, guest: str, size: int) -> None:
    with reversing(host) as port:
        done = root.run([sys.executable, "-c", LARGE, guest, str(port), str(size)], *DIRECT, "-net", "user")
    assert done.stdout == f"echoed {size}\n", done.stderr


# ---- redirections ------------------------------------------------------------------------------------------


def test_ssh_to_a_guest(root: Runner) -> None:
    if not shutil.which("sshd", path="/usr/sbin"):
        raise AssertionError("openssh-server is missing")
    port = free_port()
    home = root.home
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "key"], check=True)
    shutil.copy(home / "key.pub", home / "keys")
    sshd = (
        f"mkdir -p /run/sshd; exec /usr/sbin/sshd -6 -D -f /dev/null -p 22 -h {home}/key"
        f" -o AuthorizedKeysFile={home}/keys -o StrictModes=no -o PidFile=none -o PermitRootLogin=yes"
    )
    client = ["ssh", "-6", "-F", "none", "-p", str(port), "-i", str(home / "key"), "-o", "BatchMode=yes"]
    client += ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={home}/known", "root@::1"]
    process = root.popen(sshd, *DIRECT, "-net", f"user,hostfwd=tcp:[::1]:{port}-:22")
    try:
        for _ in range(100):
            done = subprocess.run(
                [*client, "echo $SSH_CONNECTION; cat"], input=b"in", capture_output=True, timeout=BOUND_S
            )
            if b"refused" not in done.stderr and b"reset" not in done.stderr:
                break
            time.sleep(0.2)  # tapnet, or the guest's sshd, is still starting
        assert done.stdout.startswith(b"fec0::2 ") and f" fec0::{MAC_END} 22\nin".encode() in done.stdout, (
            done
        )
    finally:
        process.terminate()
        process.communicate(timeout=BOUND_S)


def test_udp_to_a_guest(root: Runner) -> None:
    port = free_port(socket.SOCK_DGRAM)
    echo = "import socket\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\ns.bind(('', 7))\nprint('ready', flush=True)\n"
    echo += "while True:\n d, p = s.recvfrom(65536)\n s.sendto(p[0].encode() + b' ' + d, p)"
    process = root.popen(
        f'{sys.executable} -c "{echo}"', *DIRECT, "-net", f"user,hostfwd=udp:[::1]:{port}-[fec0::{MAC_END}]:7"
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1)
            sock.connect(("::1", port))
            for _ in range(30):
                sock.send(b"x" * 5000)
                with contextlib.suppress(TimeoutError):
                    assert sock.recv(65536) == b"fec0::2 " + b"x" * 5000
                    break
            else:
                raise AssertionError("no answer")
    finally:
        process.terminate()
        process.communicate(timeout=BOUND_S)


# ---- to the world ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> Iterator[Internet]:
    with internet(2) as found:
        yield found


def test_the_true_path(net: Internet, root: Runner) -> None:
    server = net.address(6)
    hops = [str(IPv6Address(address)) for address in net.hops(6)]
    command = (
        f"for how in '' -I -T; do traceroute -6 -n -q 1 -w 20 -m 6 $how {server}; done;"
        f" ping -6 -n -c 1 -w 30 -t 2 {server}; ping -6 -n -c 2 -i 0.2 -w 30 {server}"
    )
    done = net.inside(root).run(command, *DIRECT, "-net", "user", seconds=BOUND_S)
    found = done.stdout
    traces = found.split("traceroute to ")[1:]
    assert len(traces) == 3, found + done.stderr
    for trace in traces:
        seen = re.findall(r"^ *\d+  (\S+)  ", trace, re.MULTILINE)
        assert seen == ["fec0::2", *hops], trace
    assert f"From {hops[0]} icmp_seq=1 Time exceeded: Hop limit" in found
    assert "2 received" in found


def test_a_smaller_mtu_on_the_way(net: Internet, root: Runner) -> None:
    server = net.address(6)
    net.mtu(1, 1400)
    try:
        done = net.inside(root).run(
            f"ping -6 -n -M do -c 1 -w 30 -s 1452 {server}; tracepath -6 -n {server}",
            *DIRECT,
            "-net",
            "user",
            seconds=BOUND_S,
        )
    finally:
        net.mtu(1, 1500)
    assert "Packet too big: mtu=1400" in done.stdout, done.stdout
    assert "pmtu 1400" in done.stdout, done.stdout
