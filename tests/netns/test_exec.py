"""``tapnet exec`` with real programs: as root and as an ordinary user, through an NE2000 and directly."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.netns.exec_kit import Runner, Servers, blob, daemon, ftp, http, root_runner, user_runner
from tests.netns.support import until_sync
from tests.waiting import BOUND_S

BIG = 100 << 20
DIRECT = ("-net", "nic,model=direct", "-net", "user")
NO_DHCP = ("-net", "nic,dhcp=off", "-net", "user")


@pytest.fixture(scope="module", params=["root", "user"])
def tapnet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    home = tmp_path_factory.mktemp(request.param)
    return root_runner(home) if request.param == "root" else user_runner(home)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    made = Servers()
    yield made
    made.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# ---- configuration of the guest ----------------------------------------------------------------------------


def test_guest_sees_what_the_founding_document_says(tapnet: Runner) -> None:
    """S1, H2: address, router, name server, ttl=255; nothing but lo and eth0."""
    done = tapnet.run(
        "ip -j addr; ip -j route; cat /etc/resolv.conf; ping -c 1 -w 30 10.0.2.2; ping -c 1 -w 30 10.0.2.3; id -u"
    )
    assert done.returncode == 0, done.stderr
    addr, route, rest = done.stdout.split("\n", 2)
    links = {link["ifname"]: link for link in json.loads(addr)}
    assert sorted(links) == ["eth0", "lo"]
    assert links["eth0"]["address"] == "52:54:00:12:34:56"
    assert [(a["local"], a["prefixlen"]) for a in links["eth0"]["addr_info"] if a["family"] == "inet"] == [
        ("10.0.2.15", 24)
    ]
    assert [r["gateway"] for r in json.loads(route) if r["dst"] == "default"] == ["10.0.2.2"]
    assert rest.startswith("nameserver 10.0.2.3\n")
    assert rest.count("ttl=255") == 2
    assert rest.endswith("\n0\n")


CLIENTS = {
    "dhclient": "dhclient -1 eth0",
    "udhcpc": "udhcpc -i eth0 -n -q -f",
    "dhcpcd": "dhcpcd -1 -4 -A -t 10 eth0",
}


@pytest.mark.parametrize("client", CLIENTS)
def test_other_dhcp_clients(tapnet: Runner, client: str) -> None:
    if client == "dhclient":
        needs.program("dhclient", "isc-dhcp-client")
    before = Path("/etc/resolv.conf").read_bytes()
    directory = sorted(p.name for p in Path("/etc").iterdir())
    done = tapnet.run(
        f"cat /etc/resolv.conf >/dev/null; {CLIENTS[client]} >/dev/null 2>&1 || exit 9; ip -4 addr show eth0;"
        "ip route; cat /etc/resolv.conf; ping -c 1 -w 30 10.0.2.2",
        *NO_DHCP,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "inet 10.0.2.15/24" in done.stdout
    assert "default via 10.0.2.2" in done.stdout
    assert "nameserver 10.0.2.3" in done.stdout
    assert Path("/etc/resolv.conf").read_bytes() == before
    assert sorted(p.name for p in Path("/etc").iterdir()) == directory


@pytest.mark.parametrize("bits", [24, 8])
def test_address_by_hand(tapnet: Runner, bits: int) -> None:
    """S5."""
    done = tapnet.run(
        f"ip addr add 10.0.2.16/{bits} dev eth0; ip route add default via 10.0.2.2; ping -c 1 -w 30 10.0.2.2",
        *NO_DHCP,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_several_cards(tapnet: Runner) -> None:
    """S21: eth0, eth1, eth2 in order, with their MACs, each with a lease."""
    done = tapnet.run(
        "ip -j addr",
        *("-net", "nic", "-net", "nic,macaddr=52:54:00:aa:bb:cc,model=direct", "-net", "nic", "-net", "user"),
    )
    assert done.returncode == 0, done.stderr
    links = {link["ifname"]: link for link in json.loads(done.stdout)}
    assert sorted(links) == ["eth0", "eth1", "eth2", "lo"]
    assert [links[f"eth{n}"]["address"] for n in range(3)] == [
        "52:54:00:12:34:56",
        "52:54:00:aa:bb:cc",
        "52:54:00:12:34:57",
    ]
    addresses = [a["local"] for n in range(3) for a in links[f"eth{n}"]["addr_info"] if a["family"] == "inet"]
    assert len(set(addresses)) == 3


# ---- traffic -----------------------------------------------------------------------------------------------


def test_names_by_udp_and_tcp(tapnet: Runner, tmp_path: Path) -> None:
    port = free_port()
    texts = [f"--txt-record=long.test,{'x' * 200}{n}" for n in range(8)]
    argv = ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", f"--port={port}"]
    argv += [
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--address=/www.test/192.0.2.7",
        "--user=root",
    ]
    with daemon([*argv, *texts]):
        until_sync(lambda: listening(port), "dnsmasq")
        done = tapnet.run(
            "dig +short www.test; dig +tcp +short www.test; dig +noedns +short txt long.test | wc -l;"
            "dig +short @10.0.2.3 www.test; getent ahostsv4 www.test | head -1",
            "-net",
            "nic",
            "-net",
            f"user,resolver=127.0.0.1:{port}",
        )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "Truncated" not in line]
    assert lines[:2] == ["192.0.2.7"] * 2
    assert lines[2] == "8", "the long answer came by TCP"
    assert lines[3] == "192.0.2.7" and lines[4].startswith("192.0.2.7 ")


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("direct", BIG),
        ("ne2k_pci", BIG),
        ("ne2k_isa", 10 << 20),
        ("rtl8139", 10 << 20),
        ("rtl8139,rev=0x10", 10 << 20),
        ("pcnet", 10 << 20),
    ],
)
def test_http_both_ways(tapnet: Runner, servers: Servers, model: str, size: int) -> None:
    if tapnet.name == "user":
        size //= 5  # the registers are the same for both
    data = blob(size)
    digest = hashlib.sha256(data).hexdigest()
    port = servers.tcp(http(data))
    source = tapnet.home / "upload"
    source.write_bytes(data)
    machine = ["-M", "isapc"] if model == "ne2k_isa" else []
    done = tapnet.run(
        f"curl -sSf http://10.0.2.2:{port}/ | sha256sum; curl -sSf -T {source} http://10.0.2.2:{port}/",
        *machine,
        *("-net", f"nic,model={model}", "-net", "user"),
        seconds=BOUND_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [digest, "-", digest]


def test_iperf(tapnet: Runner) -> None:
    with contextlib.ExitStack() as stack:
        clients = []
        for words in ("-n 20M", "-n 20M -R", "-u -b 20M -t 1 -l 1400"):
            port = free_port()  # a server each: one that has not seen its last client go says "busy"
            stack.enter_context(daemon(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(port)]))
            until_sync(lambda port=port: listening(port), "iperf3")
            clients.append(f"iperf3 -J -c 10.0.2.2 -p {port} {words}")
        done = tapnet.run("; ".join(clients), *DIRECT)
    assert done.returncode == 0, done.stdout + done.stderr
    decoder, text, results = json.JSONDecoder(), done.stdout, []
    while text.strip():
        result, end = decoder.raw_decode(text.lstrip())
        results.append(result)
        text = text.lstrip()[end:]
    assert [r.get("error") for r in results] == [None] * 3
    # what is on the way when the sender has sent its 20 MB is not counted as received
    assert results[0]["end"]["sum_received"]["bytes"] >= 10 << 20
    assert results[1]["end"]["sum_received"]["bytes"] >= 10 << 20
    datagrams = results[2]["end"]["sum"]  # how many a busy machine's iperf3 misses is not ours to say
    assert datagrams["packets"] > 1000 and datagrams["lost_packets"] < datagrams["packets"] / 2


def test_half_closes(tapnet: Runner, servers: Servers) -> None:
    async def answer_after_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await reader.read(-1)
        writer.write(b"got %d\n" % len(got))

    late: list[bytes] = []

    async def end_then_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"first\n")
        writer.write_eof()
        late.append(await reader.read(-1))

    one, two = servers.tcp(answer_after_end), servers.tcp(end_then_listen)
    done = tapnet.run(
        f"head -c 300000 /dev/zero | nc -N -w 40 10.0.2.2 {one}; "
        f"(sleep 0.5; echo late) | nc -N -w 40 10.0.2.2 {two}"
    )
    assert done.stdout == "got 300000\nfirst\n", done.stderr
    until_sync(lambda: late == [b"late\n"], f"what came after our end: {late}")


def test_refused_is_refused(tapnet: Runner) -> None:
    port = free_port()
    done = tapnet.run(f"curl -sS --max-time 40 http://10.0.2.2:{port}/")
    assert done.returncode == 7, done.stderr
    assert "refused" in done.stderr or "Failed to connect" in done.stderr


def test_ssh(tapnet: Runner) -> None:
    port, home = free_port(), tapnet.home
    keys = home / "ssh"
    keys.mkdir(exist_ok=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "client"):
        if not (keys / name).exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
    if tapnet.name == "user":
        os.chown(keys / "client", 1000, 1000)
        os.chown(keys, 1000, 1000)
    options = [f"HostKey={keys}/host", f"AuthorizedKeysFile={keys}/client.pub", "StrictModes=no", "UsePAM=no"]
    options += ["ListenAddress=127.0.0.1", f"Port={port}", "PidFile=none", "PermitRootLogin=yes"]
    argv = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *(w for o in options for w in ("-o", o))]
    with daemon(argv):
        until_sync(lambda: listening(port), "sshd")
        ssh = (
            f"ssh -F /dev/null -i {keys}/client -p {port} -o StrictHostKeyChecking=no -o BatchMode=yes "
            "-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR root@10.0.2.2"
        )
        done = tapnet.run(f"head -c 2000000 /dev/zero | {ssh} 'wc -c; exit 5'; echo $?")
    assert done.stdout.split() == ["2000000", "5"], done.stderr


@pytest.mark.parametrize("way", ["--disable-epsv", "--ftp-pasv"])
def test_passive_ftp(tapnet: Runner, servers: Servers, way: str) -> None:
    files = {"readme": blob(1 << 20)}
    port = servers.tcp(ftp(files, servers))
    got = tapnet.home / "readme"
    done = tapnet.run(
        f"curl -sSf {way} -o {got} ftp://10.0.2.2:{port}/readme && "
        f"curl -sSf {way} -T {got} ftp://10.0.2.2:{port}/copy"
    )
    assert done.returncode == 0, done.stderr
    until_sync(lambda: files.get("copy") == files["readme"], "the upload")
    got.unlink()


def test_500_connections_at_once(tapnet: Runner, servers: Servers) -> None:
    present = {"now": 0, "most": 0}
    full = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        present["now"] += 1
        present["most"] = max(present["most"], present["now"])
        if present["now"] == 500:
            full.set()
        line = await reader.readline()
        await asyncio.wait_for(full.wait(), 30)
        writer.write(line.upper())
        await writer.drain()
        present["now"] -= 1

    port = servers.tcp(echo)
    script = tapnet.home / "many.py"
    script.write_text(
        "import asyncio\n"
        "async def one(n):\n"
        f"    r, w = await asyncio.open_connection('10.0.2.2', {port})\n"
        "    w.write(b'line %d\\n' % n)\n"
        "    got = await r.readline()\n"
        "    w.close()\n"
        "    return got == b'LINE %d\\n' % n\n"
        "async def main():\n"
        "    done = await asyncio.gather(*(one(n) for n in range(500)))\n"
        "    print(sum(done))\n"
        "asyncio.run(main())\n"
    )
    done = tapnet.run(f"python3 {script}")
    assert done.stdout == "500\n", done.stderr
    assert present["most"] == 500
