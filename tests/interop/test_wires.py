"""Wires between tapnets and real programs: the scenes of S7 to S10, QEMU's user network and sockets, passt, vde_switch.

Machines are network namespaces behind tapnet's cards, commands in them are ordinary ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.interop.lab import HOST_ADDRESS, Guest, Lab, lab, until
from tests.waiting import BOUND_S


@pytest.fixture
def host() -> Iterator[Lab]:
    with lab() as made:
        yield made


def few(kinds: Iterable[str], *slow: str) -> list[object]:
    """Parameters; those named are for the long run only."""
    return [pytest.param(kind, marks=[pytest.mark.slow] if kind in slow else []) for kind in kinds]


def lines(guest: Guest) -> list[str]:
    return [line.strip() for line in guest.monitor("info network").splitlines()]


PACKETS = (
    'import socket; s = socket.socket(17, 3, 0xB588); s.bind(("eth0", 0x88B5)); to = b"\\xff" * 6 + bytes(6)'
)
ECHO = f'{PACKETS}; s.recv(2000); s.send(to + b"\\x88\\xb5answer")'
ASK = (
    f'{PACKETS}; s.settimeout(30); s.send(to + b"\\x88\\xb5question")\n'
    "while True:\n data, source = s.recvfrom(2000)\n if source[2] != 4: break\n"
    "print(data[14:].decode())"
)


def clients(guest: Guest) -> list[str]:
    return [line for line in lines(guest) if line.startswith("socket: connection from")]


def iperf(server: Guest, client: Guest, address: str, *, megabytes: int = 32) -> None:
    """One TCP stream; its window (1 MB) is less than what the guests' own queues hold."""
    server.start("iperf3 -s -1")
    until(lambda: ":5201" in server.run("ss -ltn"), "iperf3")
    report = json.loads(client.run(f"iperf3 -c {address} -n {megabytes}M -w 1M -J"))["end"]
    assert report["sum_sent"]["bytes"] >= megabytes << 20


def ports(guest: Guest) -> dict[str, tuple[int, int, dict[str, int]]]:
    """Frames sent, frames received and drops of each port, the guest's own device (drops only) among them."""
    found = {}
    for name, sent, received, drops in re.findall(
        r"^ +(\S+): link up, sent (\d+) frames .* received (\d+) frames .* dropped (.*)$",
        guest.monitor("info network -v"),
        re.MULTILINE,
    ):
        pairs = (word.split("=") for word in drops.split() if "=" in word)
        found[name] = int(sent), int(received), {reason: int(count) for reason, count in pairs}
    statistics = guest.run("cat /sys/class/net/eth0/statistics/*x_dropped")
    found["eth0"] = 0, 0, {"kernel": sum(map(int, statistics.split()))}
    return found


Path4 = list[tuple[Guest, str]]
Counted = list[tuple[int, int, dict[str, int]]]


def counted(path: Path4) -> Counted:
    """The counters of the ports of a path, then the drops of each guest's own device."""
    seen = {guest.name: ports(guest) for guest, _ in path}
    return [seen[guest.name][name] for guest, name in path] + [found["eth0"] for found in seen.values()]


def at_rest(path: Path4) -> Counted:
    """The same, once nothing is on its way between them."""

    def same() -> Counted | None:
        one, two = counted(path), counted(path)
        return one if one == two else None

    return until(same, "the wire to be quiet")


def lossless(path: Path4, before: Counted) -> Counted | None:
    """The counters, when the ports of a path have passed on since ``before`` all that came in at its ends."""
    now = counted(path)
    (s0, r0), (s1, r1), (s2, r2), (s3, r3) = ((n[0] - b[0], n[1] - b[1]) for n, b in zip(now[:4], before))
    return now if s0 == r1 == s2 == r3 > 0 and s3 == r2 == s1 == r0 > 0 else None


# ---- tapnet with tapnet ------------------------------------------------------------------------------------


def test_s7_s8_three_machines_and_a_listener_that_dies(host: Lab) -> None:
    listen, connect = "socket,listen=localhost:1234", "socket,connect=localhost:1234"
    a = host.guest("a", "10.9.0.1", listen, model="ne2k_pci")
    b = host.guest("b", "10.9.0.2", connect, model="rtl8139")
    c = host.guest("c", "10.9.0.3", connect, model="pcnet")
    until(lambda: len(clients(a)) == 2, "two clients")
    assert re.fullmatch(r"socket: connection from 127\.0\.0\.1:\d+", clients(a)[0])
    assert "socket: connect to 127.0.0.1:1234" in lines(b)
    for one, address in ((a, "10.9.0.2"), (b, "10.9.0.3"), (c, "10.9.0.1")):
        one.ping(address)
    b.ping("10.9.0.3", count=300)
    a.kill(signal.SIGKILL)
    until(
        lambda: any(
            "socket: connect to localhost:1234 (" in x or "(closed" in x or "(Conn" in x for x in lines(b)
        ),
        "b to notice",
    )
    again = host.guest("a2", "10.9.0.1", listen)
    until(lambda: len(clients(again)) == 2, "both to come back by themselves")
    for one, address in ((again, "10.9.0.2"), (b, "10.9.0.3"), (c, "10.9.0.1")):
        one.ping(address)
    # a machine that is killed leaves no member behind, and the others go on
    c.kill(signal.SIGKILL)
    until(lambda: len(clients(again)) == 1, "c's port to go")
    b.ping("10.9.0.1", count=20)


def test_s9_a_serverless_bus(host: Lab) -> None:
    """No machine sees its own frames back."""
    bus = [host.guest(f"m{n}", f"10.9.0.{n + 1}", "socket,mcast=230.0.0.1:1234") for n in range(3)]
    for n in range(3):
        bus[n].ping(f"10.9.0.{(n + 1) % 3 + 1}", count=50)
        assert "socket: mcast=230.0.0.1:1234" in lines(bus[n])
    bus[1].start(f"python3 -c '{ECHO}'")
    until(lambda: "88b5" in bus[1].run("cat /proc/net/packet"), "the echo")
    assert bus[0].run(f"python3 -c '{ASK}'").strip().rstrip("\0") == "answer"  # a short frame comes padded


def test_s9_a_bus_on_ipv6(host: Lab) -> None:
    host.sh("ip -6 addr add 2001:db8::1/64 dev lan0 nodad")
    words = "socket,mcast=[ff02::1234]:1234,localaddr=2001:db8::1"
    one, two = host.guest("one", "10.9.0.1", words), host.guest("two", "10.9.0.2", words)
    one.ping("10.9.0.2", count=20)
    assert "socket: mcast=[ff02::1234]:1234" in lines(two)


def test_s10_a_machine_that_routes(host: Lab) -> None:
    """VLAN 1 is the NAT, VLAN 2 a socket; a second machine reaches the NAT's host through the first."""
    host.program("web", "python3", "-m", "http.server", "8000", "--bind", "127.0.0.1")
    host.listening(8000)
    router = host.guest("router", "dhcp", "user", "socket,vlan=1,listen=localhost:1235", cards=2)
    inner = host.guest("inner", "172.20.0.2", "socket,connect=localhost:1235", model="ne2k_pci")
    until(lambda: "10.0.2.15" in router.run("ip addr show eth0"), "a lease")
    router.run("ip addr add 172.20.0.1/24 dev eth1; sysctl -qw net.ipv4.ip_forward=1")
    router.run(
        "nft 'add table ip n; add chain ip n p { type nat hook postrouting priority 100; }; add rule ip n p oifname eth0 masquerade'"
    )
    inner.run("ip route add default via 172.20.0.1")
    inner.ping("172.20.0.1")
    inner.ping("10.0.2.2", count=10)
    assert "Directory listing" in inner.run("curl -s http://10.0.2.2:8000/")
    assert sum(x.startswith("socket: connection from") for x in lines(router)) == 1


STREAMS = {
    "socket": ("socket,listen=127.0.0.1:1300", "socket,connect=127.0.0.1:1300"),
    "socket6": ("socket,listen=[::1]:1300", "socket,connect=[::1]:1300"),
    "tcp": (
        "stream,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port=1300",
        "stream,addr.type=inet,addr.host=127.0.0.1,addr.port=1300,reconnect-ms=100",
    ),
    "unix": ("stream,server=on,addr.type=unix,addr.path=s", "stream,addr.type=unix,addr.path=s,reconnect=1"),
}
DATAGRAMS = {
    "udp": (
        "socket,udp=127.0.0.1:1302,localaddr=127.0.0.1:1301",
        "dgram,local.type=inet,local.host=127.0.0.1,local.port=1302,remote.type=inet,remote.host=127.0.0.1,remote.port=1301",
    ),
    "unix": (
        "dgram,local.type=unix,local.path=x,remote.type=unix,remote.path=y",
        "dgram,local.type=unix,local.path=y,remote.type=unix,remote.path=x",
    ),
    "mcast": (
        "socket,mcast=239.1.1.1:1300,localaddr=127.0.0.1",
        "dgram,remote.type=inet,remote.host=239.1.1.1,remote.port=1300,local.type=inet,local.host=127.0.0.1,local.port=0",
    ),
}


@pytest.mark.parametrize("kind", few(STREAMS, "socket6", "tcp"))
def test_a_stream_wire_loses_nothing(host: Lab, kind: str) -> None:
    """1,000 pings, then TCP both ways: no counter of a drop moves, and every frame comes out that went in."""
    here, there = STREAMS[kind]
    a, b = host.guest("a", "10.9.0.1", here), host.guest("b", "10.9.0.2", there)
    a.ping("10.9.0.2")
    (client,) = (name for name in ports(a) if name not in ("eth0", "direct.0"))
    path = [
        (a, "direct.0"),
        (a, client),
        (b, next(n for n in ports(b) if n != "eth0" and n != "direct.0")),
        (b, "direct.0"),
    ]
    before = at_rest(path)
    a.ping("10.9.0.2", count=1000, interval=0.001)
    iperf(a, b, "10.9.0.1")
    iperf(b, a, "10.9.0.2")
    after = until(lambda: lossless(path, before), f"all frames to arrive: {before}")
    assert [drops for _, _, drops in after] == [drops for _, _, drops in before]
    assert [drops for _, _, drops in after[4:]] == [{"kernel": 0}] * 2


@pytest.mark.parametrize("kind", few(DATAGRAMS, "mcast"))
def test_a_datagram_wire(host: Lab, kind: str) -> None:
    here, there = DATAGRAMS[kind]
    a, b = host.guest("a", "10.9.0.1", here), host.guest("b", "10.9.0.2", there)
    a.ping("10.9.0.2", count=200, interval=0.002)
    iperf(a, b, "10.9.0.1", megabytes=16)


def test_a_peer_killed_in_the_middle_of_a_frame(host: Lab) -> None:
    """Half a frame from a process that is killed with -9; others never notice."""
    a = host.guest("a", "10.9.0.1", "socket,listen=localhost:1234")
    b = host.guest("b", "10.9.0.2", "socket,connect=localhost:1234")
    b.ping("10.9.0.1")
    code = (
        "import socket,time; s=socket.create_connection(('127.0.0.1',1234)); "
        "s.sendall(b'\\0\\0\\5\\xea' + b'\\xff' * 700); print('sent', flush=True); time.sleep(60)"
    )
    half = host.program("half", "python3", "-c", code)
    until(lambda: "sent" in half.text() and len(clients(a)) == 2, "half a frame")
    half.kill(signal.SIGKILL)
    until(lambda: len(clients(a)) == 1, "its port to go")
    assert "in the middle of a frame" in a.text()
    assert re.search(
        r"2 accepted, 0 refused, last end: .* in the middle of a frame", a.monitor("info network -v")
    )
    b.ping("10.9.0.1", count=20)


ROUNDS = 8


def memory(guest: Guest) -> int:
    """Resident memory of its tapnet, KiB."""
    status = Path(f"/proc/{guest.process.pid}/status").read_text()  # nsenter has become it
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def descriptors(guest: Guest) -> int:
    """Open ones of its tapnet."""
    return len(os.listdir(f"/proc/{guest.process.pid}/fd"))


def leaks_nothing(guest: Guest, play: Callable[[], None]) -> None:
    """Play it again and again: descriptors are as after the first time, and memory stands still once the peak of buffers
    has been seen, which depends on how many clients were there at once. A leak grows each time."""
    seen: list[tuple[int, int]] = []
    for _ in range(ROUNDS):
        play()
        until(lambda: len(clients(guest)) == 1, "the ports to go")
        if seen:
            until(
                lambda: descriptors(guest) <= seen[0][0],
                f"descriptors to be closed: {descriptors(guest)}, first {seen}",
            )
        seen.append((descriptors(guest), memory(guest)))
        if len(seen) > 2 and seen[-1][1] - seen[-2][1] < 1024:  # KiB
            return
    raise AssertionError(f"memory grows: {seen}")


def test_a_thousand_connects_and_drops(host: Lab) -> None:
    """No descriptor and no memory stays, while others talk."""
    a = host.guest("a", "10.9.0.1", "socket,listen=localhost:1234")
    b = host.guest("b", "10.9.0.2", "socket,connect=localhost:1234")
    b.ping("10.9.0.1")

    code = (
        "import socket\n"
        "for n in range(1000):\n"
        " s = socket.create_connection(('127.0.0.1', 1234))\n"
        " if n % 3: s.sendall((b'GET / HTTP/1.0\\r\\n', b'\\0\\0')[n % 2])\n"
        " s.close()\n"
    )

    def storm() -> None:
        assert host.program("storm", "python3", "-c", code).wait(BOUND_S) == 0

    leaks_nothing(a, storm)
    b.ping("10.9.0.1", count=100)


# ---- QEMU --------------------------------------------------------------------------------------------------

SLIRP = ("-netdev", "user,id=u", "-netdev", "hubport,hubid=0,id=h0,netdev=u")
QEMU_ENDS = {
    "listen": ("socket,id=s,listen=127.0.0.1:1400", "socket,connect=127.0.0.1:1400"),
    "connect": ("socket,id=s,connect=127.0.0.1:1400", "socket,listen=127.0.0.1:1400"),
    "mcast": (
        "socket,id=s,mcast=230.0.0.9:1400,localaddr=127.0.0.1",
        "socket,mcast=230.0.0.9:1400,localaddr=127.0.0.1",
    ),
    "udp": (
        "socket,id=s,udp=127.0.0.1:1401,localaddr=127.0.0.1:1402",
        "socket,udp=127.0.0.1:1402,localaddr=127.0.0.1:1401",
    ),
    "stream-client": (
        "stream,id=s,server=off,addr.type=inet,addr.host=127.0.0.1,addr.port=1400",
        "stream,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port=1400",
    ),
    "stream-server": (
        "stream,id=s,server=on,addr.type=unix,addr.path=qs",
        "stream,addr.type=unix,addr.path=qs,reconnect-ms=100",
    ),
    "stream-abstract": (
        "stream,id=s,server=on,addr.type=unix,addr.path=qs,addr.abstract=on,addr.tight=off",
        "stream,addr.type=unix,addr.path=qs,addr.abstract=on,addr.tight=off,reconnect-ms=100",
    ),
    "stream-server6": (
        "stream,id=s,server=on,addr.type=inet,addr.host=::1,addr.port=1400",
        "socket,connect=[::1]:1400",
    ),
    "dgram-unix": (
        "dgram,id=s,local.type=unix,local.path=q1,remote.type=unix,remote.path=q2",
        "dgram,local.type=unix,local.path=q2,remote.type=unix,remote.path=q1",
    ),
    "dgram-udp": (
        "dgram,id=s,local.type=inet,local.host=127.0.0.1,local.port=1401,remote.type=inet,remote.host=127.0.0.1,remote.port=1402",
        "dgram,local.type=inet,local.host=127.0.0.1,local.port=1402,remote.type=inet,remote.host=127.0.0.1,remote.port=1401",
    ),
}


@pytest.mark.parametrize(
    "kind",
    few(QEMU_ENDS, "connect", "udp", "dgram-udp", "stream-client", "stream-abstract", "stream-server6"),
)
def test_a_guest_of_qemus_own_network(host: Lab, kind: str) -> None:
    """A lease, pings and TCP from QEMU's libslirp, over each kind of wire."""
    theirs, ours = QEMU_ENDS[kind]
    host.program("web", "python3", "-m", "http.server", "8000", "--bind", "127.0.0.1")
    host.listening(8000)
    words = (*SLIRP, "-netdev", theirs, "-netdev", "hubport,hubid=0,id=h1,netdev=s")
    if kind in ("connect", "stream-client"):  # QEMU's client tries only once
        guest = host.guest("g", "", ours)
        host.qemu("q", *words)
    else:
        host.qemu("q", *words)
        guest = host.guest("g", "", ours)
    until(
        lambda: (
            guest.run("udhcpc -i eth0 -n -q -t 3 -T 1 -s /bin/true 2>&1", check=False).find("10.0.2.15") > 0
        ),
        "a lease from QEMU",
    )
    guest.run("ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2")
    guest.ping("10.0.2.2", count=100, interval=0.002)
    if kind != "mcast":  # there QEMU hears its own segments, and its NAT resets what it takes for a guest's
        assert "Directory listing" in guest.run("curl -s http://10.0.2.2:8000/")


def test_a_client_behind_qemu_on_our_nat(host: Lab) -> None:
    """The other direction: QEMU's hub carries a second machine to our NAT, by two of QEMU's wires."""
    nat = host.guest("nat", "", "user", "socket,listen=127.0.0.1:1500")
    host.listening(1500)
    host.qemu(
        "hub",
        *("-netdev", "socket,id=a,connect=127.0.0.1:1500", "-netdev", "hubport,hubid=0,id=h0,netdev=a"),
        *("-netdev", "stream,id=b,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port=1501"),
        *("-netdev", "hubport,hubid=0,id=h1,netdev=b"),
    )
    host.listening(1501)
    far = host.guest(
        "far", "dhcp", "stream,addr.type=inet,addr.host=127.0.0.1,addr.port=1501,reconnect-ms=100"
    )
    until(lambda: "10.0.2.15" in far.run("ip addr show eth0"), "a lease from our NAT")
    far.ping("10.0.2.2", count=100, interval=0.002)
    assert len(clients(nat)) == 1


# ---- passt -------------------------------------------------------------------------------------------------


def test_passt_by_its_unix_socket(host: Lab) -> None:
    """passt refuses to run as root, so it gets a directory of its own."""
    folder = host.folder / "passt"
    folder.mkdir()
    shutil.chown(folder, 65534, 65534)
    host.folder.chmod(0o755)
    host.program(
        "passt",
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"),
        *("passt", "-f", "-s", str(folder / "s"), "-i", "lan0", "-4", "--no-map-gw"),
    )
    until((folder / "s").exists, "passt's socket")
    guest = host.guest("g", "", f"stream,addr.type=unix,addr.path={folder}/s,reconnect-ms=200")
    until(
        lambda: HOST_ADDRESS in guest.run("udhcpc -i eth0 -n -q -t 3 -T 1 -s /bin/true 2>&1", check=False),
        "a lease from passt: " + guest.text(),
    )
    assert f"stream: unix:{folder}/s" in lines(guest)


# ---- vde_switch --------------------------------------------------------------------------------------------


def test_two_machines_on_a_vde_switch_that_restarts(host: Lab) -> None:
    switch = ("vde_switch", "-s", "sw", "-M", "mgmt", "-x")
    a = host.guest("a", "10.9.0.1", "vde,sock=sw")
    first = host.program("sw1", *switch)
    b = host.guest("b", "10.9.0.2", "vde,sock=sw,port=7,mode=0770")
    a.ping("10.9.0.2", count=500, interval=0.002)
    iperf(a, b, "10.9.0.1", megabytes=16)
    assert f"vde: sock={'sw'}" in lines(a)
    first.kill(signal.SIGKILL)
    until(lambda: any("switch has ended" in x or "refused" in x for x in lines(a)), "a to notice")
    host.sh(f"rm -rf {host.folder}/sw {host.folder}/mgmt")
    host.program("sw2", *switch)
    a.ping("10.9.0.2", count=20)


def test_slirpvde_and_our_nat_on_one_switch(host: Lab) -> None:
    """A guest of ours leases from slirpvde; then, with slirpvde gone, from a NAT of ours on the same switch."""
    host.program("web", "python3", "-m", "http.server", "8000", "--bind", "127.0.0.1")
    host.listening(8000)
    host.program("sw", "vde_switch", "-s", "sw", "-x")
    until((host.folder / "sw" / "ctl").exists, "the switch")
    slirp = host.program("slirpvde", "slirpvde", "-D", "-H", "10.0.3.2/24", "sw")
    guest = host.guest("g", "", "vde,sock=sw")

    def lease(of: str) -> bool:
        said = guest.run("udhcpc -i eth0 -n -q -t 3 -T 1 -s /bin/true 2>&1", check=False)
        return f"lease of {of}" in said

    until(lambda: lease("10.0.3.15"), "a lease from slirpvde")
    guest.run("ip addr add 10.0.3.15/24 dev eth0")
    guest.ping("10.0.3.2", count=50, interval=0.002)
    assert "Directory listing" in guest.run("curl -s http://10.0.3.2:8000/")
    slirp.kill()
    host.guest("nat", "", "vde,sock=sw", "user,net=10.0.4.0/24", cards=0)
    until(lambda: lease("10.0.4.15"), "a lease from our NAT")
    guest.run("ip addr add 10.0.4.15/24 dev eth0")
    guest.ping("10.0.4.2", count=50, interval=0.002)
    assert "Directory listing" in guest.run("curl -s http://10.0.4.2:8000/")


# ---- WebSocket ---------------------------------------------------------------------------------------------

BROWSER = """
import sys
from websockets.sync.client import connect
mac = bytes.fromhex("5254000000ee")
ask = b"\\xff" * 6 + mac + bytes.fromhex("08060001080006040001") + mac + bytes((10, 0, 2, 77)) + bytes(6) + bytes((10, 0, 2, 2))
with connect("ws://localhost:8081/", origin=sys.argv[1], proxy=None, open_timeout=60) as one:
    one.send("hello")
    one.send(ask)
    while (frame := one.recv(60))[12:22] != bytes.fromhex("08060001080006040002"):
        pass
    print("answer from", ".".join(map(str, frame[28:32])))
"""


def test_a_browsers_emulator_on_our_nat(host: Lab) -> None:
    """An address of the NAT is asked for over WebSocket; a page of another origin is shown the door."""
    import sys

    nat = host.guest("nat", "", "ws,listen=:8081,origin=https://emulator.example", "user", cards=0)
    host.listening(8081)
    assert "ws: listen=127.0.0.1:8081" in lines(nat)
    good = host.program("good", sys.executable, "-c", BROWSER, "https://emulator.example")
    assert good.wait() == 0 and good.text() == "answer from 10.0.2.2\n"
    bad = host.program("bad", sys.executable, "-c", BROWSER, "https://evil.example")
    assert bad.wait() == 1 and "HTTP 403" in bad.text()
    assert "invalid Origin header: https://evil.example" in nat.text()


# ---- strangers ---------------------------------------------------------------------------------------------

STRANGER = """
import random, socket, sys
rng = random.Random(1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
for n in range(4000):
    s.sendto(rng.randbytes(rng.choice((0, 1, 13, 14, 60, 1514, 9000, 65507))), ("230.0.0.5", 1234))
"""


def test_multicast_from_strangers_and_port_scans_leave_nothing_behind(host: Lab) -> None:
    """Measured: descriptors and memory stand still, round for round."""
    a = host.guest(
        "a", "10.9.0.1", "socket,mcast=230.0.0.5:1234,localaddr=127.0.0.1", "socket,listen=localhost:1235"
    )
    b = host.guest("b", "10.9.0.2", "socket,connect=localhost:1235")
    b.ping("10.9.0.1")
    scan = (
        "import socket\n"
        "for n in range(300):\n"
        " for port in (1234, 1235, 1236):\n"
        "  s = socket.socket()\n"
        "  s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\1\\0\\0\\0\\0\\0\\0\\0')\n"
        "  s.connect_ex(('127.0.0.1', port)); s.close()\n"
    )

    def strangers() -> None:
        for name, code in (("stranger", STRANGER), ("scan", scan)):
            done = host.program(name, "python3", "-c", code)
            assert done.wait(BOUND_S) == 0, done.text()

    leaks_nothing(a, strangers)
    b.ping("10.9.0.1", count=100)
    assert "Traceback" not in a.text()


# ---- dump --------------------------------------------------------------------------------------------------


def test_a_dump_of_a_vlan_is_what_a_wire_would_carry(host: Lab) -> None:
    a = host.guest("a", "10.9.0.1", "socket,listen=localhost:1234", "dump", "dump,file=short.pcap,len=64")
    b = host.guest("b", "10.9.0.2", "socket,connect=localhost:1234")
    b.ping("10.9.0.1", count=10)
    iperf(a, b, "10.9.0.1", megabytes=1)
    a.close()
    text = host.sh(f"tcpdump -nvr {host.folder}/qemu-vlan0.pcap 2>&1")
    assert text.count("ICMP echo request") >= 10 and text.count("ICMP echo reply") >= 10
    assert "5201" in text and "bad cksum" not in text and "incorrect" not in text
    assert max(int(x) for x in re.findall(r", length (\d+)\)", text)) <= 1500
    short = host.sh(f"tcpdump -nr {host.folder}/short.pcap 2>&1")
    assert "snapshot length 64" in short and short.count("ICMP echo") >= 20
    assert oct((host.folder / "qemu-vlan0.pcap").stat().st_mode & 0o777) == "0o600"


def test_a_live_capture_in_tcpdump_and_a_file_for_tshark(host: Lab) -> None:
    """``tapnet capture | tcpdump -r -``; a file by the monitor; the end of the reader ends the capture."""
    import sys

    words = "filter-dump,id=f0,netdev=direct.0,file=one.pcap,maxlen=96,queue=rx"
    a = host.guest("a", "10.9.0.1", "socket,listen=localhost:1234", more=["-object", words])
    b = host.guest("b", "10.9.0.2", "socket,connect=localhost:1234")
    b.ping("10.9.0.1")
    live = host.program(
        "live",
        *(
            "sh",
            "-c",
            'exec "$1" -m tapnet monitor -i a capture start socket.0 - | exec tcpdump -c 4 -lnr - icmp',
            "-",
            sys.executable,
        ),
    )
    until(lambda: "capture-" in a.monitor("info captures"), "the capture to run")
    assert a.monitor("capture start 0 f.pcapng") == ""
    until(lambda: b.run("ping -c 1 10.9.0.1") and live.process.poll() is not None, "tcpdump's end")
    assert live.text().count("ICMP echo request") == 2 == live.text().count("ICMP echo reply"), live.text()
    until(
        lambda: b.run("ping -c 1 10.9.0.1") and "capture-" not in a.monitor("info captures"),
        "its capture to end",
    )
    assert a.monitor("capture stop 0") == "" and "capture-" not in a.monitor("info captures")
    shown = host.sh(
        f"tshark -n -r {host.folder}/f.pcapng -Y icmp -T fields -e frame.interface_name -e icmp.type 2>&1"
    )
    assert "socket.0.1\t8" in shown and "direct.0\t0" in shown, shown
    assert oct((host.folder / "f.pcapng").stat().st_mode & 0o777) == "0o600"
    stopped = host.program(
        "stopped", sys.executable, "-m", "tapnet", "capture", "-i", "a", "direct.0", "g.pcapng"
    )
    until(lambda: "capture-" in a.monitor("info captures"), "the capture to run")
    b.ping("10.9.0.1", count=5)
    stopped.process.send_signal(signal.SIGINT)
    assert stopped.wait() == 0
    assert "Number of stat entries = 1" in host.sh(f"capinfos {host.folder}/g.pcapng")
    refused = host.program("refused", sys.executable, "-m", "tapnet", "capture", "-i", "a", "7")
    assert refused.wait() == 1 and refused.text() == "tapnet: capture: there is no VLAN 7\n"
    assert not list(host.folder.rglob("capture-*"))
    a.close()
    text = host.sh(f"tcpdump -nr {host.folder}/one.pcap 2>&1")
    assert "snapshot length 96" in text and text.count("ICMP echo request") >= 6 and "echo reply" not in text


# ---- bad cables --------------------------------------------------------------------------------------------


def test_a_bad_cable_at_start_and_while_it_runs(host: Lab) -> None:
    a = host.guest("a", "10.9.0.1", "socket,listen=localhost:1234,impair=in+delay=30ms+seed=5")
    b = host.guest("b", "10.9.0.2", "socket,connect=localhost:1234")

    def fastest() -> float:
        text = b.run("ping -c 5 -i 0.05 10.9.0.1")
        return float(re.search(r"= ([\d.]+)/", text)[1])  # type: ignore[index]

    b.ping("10.9.0.1")
    assert fastest() >= 30
    assert "socket.0.1 in: delay=30ms limit=1000 seed=5" in a.monitor("info impair")
    assert a.monitor("impair direct.0 out delay=0.04s") == ""
    assert fastest() >= 70
    assert a.monitor("impair direct.0 loss=100%") == ""
    assert "100% packet loss" in b.run("ping -c 3 -i 0.05 -W 1 10.9.0.1", check=False)
    assert re.search(r"direct.0: .* dropped impair-loss=\d+", a.monitor("info network -v"))
    for name in ("direct.0", "socket.0.1"):
        assert a.monitor(f"impair {name} off") == ""
    b.ping("10.9.0.1", count=20)
    assert a.monitor("info impair") == ""


# ---- configuration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "words", "status"),
    [
        (
            "socket,listen=127.0.0.1:1600",
            "tapnet: -net socket: listen=127.0.0.1:1600: Address already in use",
            75,
        ),
        ("socket,fd=99", "tapnet: -net socket: fd=99: Bad file descriptor", 2),
        ("dump,file=/no/where", "tapnet: -net dump: file=/no/where: No such file or directory", 2),
        ("vde,group=nobody-here", "tapnet: -net vde: group=nobody-here: no such group", 2),
    ],
)
def test_what_cannot_be_had_is_one_line_and_a_status(host: Lab, net: str, words: str, status: int) -> None:
    import sys

    host.program("taken", "python3", "-m", "http.server", "1600", "--bind", "127.0.0.1")
    host.listening(1600)
    failed = host.program("t", sys.executable, "-m", "tapnet", "run", "-net", net)
    assert failed.wait() == status
    assert failed.text().strip() == words


def test_an_inherited_socket(host: Lab) -> None:
    """fd= with one end of a socket pair, as a parent program hands it over."""
    import sys

    ours, theirs = socket.socketpair()
    program = host.program(
        "fd",
        sys.executable,
        "-m",
        "tapnet",
        "run",
        "-net",
        f"socket,fd={theirs.fileno()}",
        "-net",
        "user",
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    ours.settimeout(BOUND_S)
    who_has = bytes.fromhex(
        "ffffffffffff525400123456080600010800060400015254001234560a00020f0000000000000a000202"
    )
    ours.sendall(len(who_has).to_bytes(4, "big") + who_has)
    data, end = b"", time.monotonic() + BOUND_S
    while b"\x52\x55\x0a\x00\x02\x02" not in data:
        assert time.monotonic() < end and program.process.poll() is None, program.text()
        data += ours.recv(4096)
    ours.close()
