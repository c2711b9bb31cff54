"""The true path to the world, seen from a guest: ping, traceroute and mtr through several hops, loss, a smaller MTU.

The Internet is made of namespaces (``internet``); tapnet runs in the first of them. Each test is played once by way of ping
sockets and once by way of a raw socket where that can make a difference."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.netns.exec_kit import Runner, root_runner, user_runner
from tests.netns.internet import Internet, internet
from tests.waiting import BOUND_S

GATEWAY = "10.0.2.2"
GATEWAYS = {4: GATEWAY, 6: "fec0::2"}
HOWS = {
    "tr": ("", "-I", "-T"),
    "mt": ("", "-u", "-T"),
}  # UDP, ICMP and TCP of traceroute; ICMP, UDP and TCP of mtr
SERVER = """
import hashlib, socket, threading, sys
tcp = socket.create_server(("", 7), backlog=50)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 7))
def one(sock):
    digest = hashlib.sha256()
    while data := sock.recv(65536):
        digest.update(data)
    block = bytes(range(256)) * 256
    for _ in range(32):
        sock.sendall(block)
    sock.sendall(digest.digest())
    sock.close()
def datagrams():
    while True:
        data, peer = udp.recvfrom(65536)
        udp.sendto(data[::-1], peer)
threading.Thread(target=datagrams, daemon=True).start()
print("ready", flush=True)
while True:
    threading.Thread(target=one, args=tcp.accept()[:1], daemon=True).start()
"""
# Two MiB each way and their digests; then a large datagram.
CLIENT = """
import hashlib, socket, sys
block = bytes(range(256)) * 256
sock = socket.create_connection((sys.argv[1], 7), 60)
for _ in range(32):
    sock.sendall(block)
sock.shutdown(socket.SHUT_WR)
got = b""
while data := sock.recv(65536):
    got += data
assert got[:-32] == block * 32 and got[-32:] == hashlib.sha256(block * 32).digest()
print("tcp both ways", flush=True)
"""
DATAGRAM = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, 10, int(sys.argv[2]))  # IP_MTU_DISCOVER
sock.connect((sys.argv[1], 7))
data = bytes(range(256)) * 5 + bytes(100)
sock.settimeout(1)
for _ in range(30 if sys.argv[2] == "0" else 3):
    try:
        sock.send(data)
        assert sock.recv(65536) == data[::-1]
        print("datagram echoed", flush=True)
        break
    except OSError as error:
        print(error.strerror, flush=True)
"""


@pytest.fixture(scope="module", params=["ping", "raw"])
def net(request: pytest.FixtureRequest) -> Iterator[Internet]:
    """Three routers; the host permits ping sockets, or nothing but raw ones."""
    with internet(3, (0, 2147483647) if request.param == "ping" else (1, 0)) as found:
        yield found


@contextlib.contextmanager
def serving(net: Internet) -> Iterator[None]:
    words = ["ip", "netns", "exec", net.server, sys.executable, "-c", SERVER]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


def play(net: Internet, runner: Runner, command: str, *options: str) -> tuple[str, str]:
    """Output of ``command`` in a guest behind the NAT of this Internet's host, and what tapnet said."""
    nets = options or ("-net", "nic,model=direct", "-net", "user")
    process = net.inside(runner).popen(command, *nets)
    try:
        return process.communicate(timeout=BOUND_S)
    finally:
        process.kill()


def hops(text: str) -> list[str]:
    """Who answered, hop by hop."""
    return re.findall(r"^ *\d+(?:\.\|--)? +([0-9a-f]+[.:][0-9a-f.:]+) ", text, re.MULTILINE)


@pytest.fixture
def tapnet(tmp_path: object) -> Runner:
    return root_runner(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [4, 6])
def test_traces_show_the_true_path(net: Internet, tapnet: Runner, family: int) -> None:
    server = net.address(family)
    tools = [
        f"{tool} {how}"
        for tool in ("traceroute -n -q1 -w5", "mtr -n -r -c2 -i0.2 -G2")
        for how in HOWS[tool[:2]]
    ]
    words = "".join(f"{tool} {server} > {n} & " for n, tool in enumerate(tools))
    out, said = play(
        net, tapnet, f"{words} wait; for n in $(seq 0 {len(tools) - 1}); do cat $n; echo =; done"
    )
    found = dict(zip(tools, map(hops, out.split("=\n"))))
    assert found == {key: [GATEWAYS[family], *net.hops(family)] for key in tools}, out + said


def test_ping_keeps_what_it_was_sent_with(net: Internet, tapnet: Runner) -> None:
    """TTL of the reply: 64 less three routers and ours; large pings are cut and put together."""
    server = net.address()
    words = (
        f"ping -n -c3 -i0.2 -W10 {server}; ping -n -c1 -W10 -s 20000 {server}; ping -n -c1 -W10 -p 5a -s 100 {server};"
        f"ping -n -c1 -W10 -t 3 {server}"
    )
    out, said = play(net, tapnet, words)
    assert re.findall(r"(\d+) bytes from (\S+): icmp_seq=(\d+) ttl=(\d+)", out) == [
        *[("64", server, str(seq), "60") for seq in (1, 2, 3)],
        ("20008", server, "1", "60"),
        ("108", server, "1", "60"),
    ], out + said
    assert f"From {net.hops()[1]} icmp_seq=1 Time to live exceeded" in out


def test_unreachable_comes_from_who_said_it(net: Internet, tapnet: Runner) -> None:
    """The second router turns packets away, each destination with its own answer."""
    net.rule(
        1,
        "ip daddr 10.88.1.1 reject with icmp host-unreachable; "
        "ip daddr 10.88.2.1 reject with icmp admin-prohibited; ip daddr 10.88.3.1 drop;",
    )
    connect = (
        "python3 -c 'import socket,sys,os\nfor a in sys.argv[1:]:\n s=socket.socket();s.settimeout(20)\n"
        " print(a, os.strerror(s.connect_ex((a, 9))))' 10.88.1.1 10.88.2.1"
    )
    words = f"for a in 1 2; do ping -n -c1 -W10 10.88.$a.1; done; ping -n -c1 -W1 10.88.3.1; {connect}"
    out, said = play(net, tapnet, words)
    near = net.hops()[1]
    assert f"From {near} icmp_seq=1 Destination Host Unreachable" in out, out + said
    assert f"From {near} icmp_seq=1 Packet filtered" in out
    assert "1 packets transmitted, 0 received, 100% packet loss" in out  # the black hole: silence
    assert "10.88.1.1 No route to host" in out and "10.88.2.1 No route to host" in out


def test_path_mtu_discovery(tapnet: Runner) -> None:
    """A wire of 1400 in the middle: who says "don't fragment" is told, all else goes through, both ways."""
    with internet(3) as net, serving(net):
        net.mtu(2, 1400)
        server, near = net.address(), net.hops()[1]
        words = (
            f"ping -n -c1 -W10 -M do -s 1372 {server}; ping -n -c1 -W10 -M do -s 1373 {server};"
            f"ping -n -c1 -W10 -M dont -s 1472 {server}; ip route flush cache; tracepath -n {server};"
            f"echo '= '; python3 -c '{DATAGRAM}' {server} 0; ip route flush cache; echo '= ';"
            f"python3 -c '{DATAGRAM}' {server} 2; echo '= '; python3 -c '{CLIENT}' {server}"
        )
        out, said = play(net, tapnet, words)
        assert re.findall(r"(\d+) bytes from", out) == ["1380", "1480"], out + said
        assert f"From {near} icmp_seq=1 Frag needed and DF set (mtu = 1400)" in out
        assert "pmtu 1400" in out and "reached" in out
        free, forbidden, tcp = out.split("= \n")[1:]
        assert free.endswith("datagram echoed\n"), out
        assert forbidden.endswith("Message too long\n"), out
        assert tcp == "tcp both ways\n"


def test_path_mtu_discovery_in_ipv6(net: Internet, tapnet: Runner) -> None:
    """Routers of IPv6 cut nothing: the guest is told, and cuts itself."""
    net.mtu(2, 1400)
    try:
        server, near = net.address(6), net.hops(6)[1]
        words = (
            f"ping -6 -n -c1 -W10 -M do -s 1352 {server}; ping -6 -n -c1 -W10 -M do -s 1353 {server};"
            f"ip -6 route flush cache; ping -6 -n -i 0.3 -c3 -w30 -s 3000 {server};"
            f"ip -6 route flush cache; tracepath -6 -n {server}"
        )
        out, said = play(net, tapnet, words)
        assert "1360 bytes from" in out, out + said
        assert f"From {near} icmp_seq=1 Packet too big: mtu=1400" in out
        assert out.count("3008 bytes from") == 3
        assert "pmtu 1400" in out and "reached" in out
    finally:
        net.mtu(2, 1500)


def test_an_uplink_that_is_smaller_than_the_guests_wire(tapnet: Runner) -> None:
    """The host's own interface carries 1300: the gateway says so."""
    with internet(1) as net, serving(net):
        net.mtu(0, 1300)
        server = net.address()
        words = (
            f"ping -n -c1 -W10 -M do -s 1400 {server}; ping -n -c1 -W10 -M dont -s 1400 {server}; "
            f"python3 -c '{CLIENT}' {server}"
        )
        out, said = play(net, tapnet, words)
        assert f"From {GATEWAY} icmp_seq=1 Frag needed and DF set (mtu = 1300)" in out, out + said
        assert "1408 bytes from" in out and "tcp both ways" in out


def test_loss_on_the_way(tapnet: Runner) -> None:
    """One packet in ten is lost at the second router: pings show it, TCP gets all through."""
    with internet(2) as net, serving(net):
        net.rule(1, "numgen random mod 10 == 0 drop;")
        server = net.address()
        words = f"ping -n -q -c300 -i0.005 -W2 {server}; mtr -n -r -c20 -i0.1 -G2 {server}; python3 -c '{CLIENT}' {server}"
        out, said = play(net, tapnet, words)
        match = re.search(r"300 packets transmitted, (\d+) received", out)
        assert match and 100 < int(match[1]) < 300, out + said  # 243 are to be expected
        assert [GATEWAY, *net.hops()] == hops(out)
        assert "tcp both ways" in out


def test_a_user_without_ping_sockets_is_told_the_truth() -> None:
    """No reply is invented; the log says why, once, and names the sysctl."""
    with internet(1, (1, 0)) as net:
        server = net.address()
        out, said = play(net, user_runner(None), f"ping -n -c3 -i0.3 -W5 {server}; ping -n -c1 {GATEWAY}")  # type: ignore[arg-type]
        assert f"From {GATEWAY} icmp_seq=1 Packet filtered" in out, out + said
        assert "3 packets transmitted, 0 received" in out and "1 packets transmitted, 1 received" in out
        assert said.count("net.ipv4.ping_group_range") == 1, said
