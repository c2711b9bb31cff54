"""Names of our own, asked by dig and the C library in a guest; the world's names go on by the same server."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.netns.exec_kit import daemon, root_runner
from tests.netns.support import until_sync
from tests.netns.test_exec import free_port, listening


def test_records_guests_and_the_world(tmp_path: Path) -> None:
    port = free_port()
    argv = ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", f"--port={port}"]
    argv += [
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--address=/world.test/192.0.2.7",
        "--user=root",
    ]
    keys = (
        f"resolver=127.0.0.1:{port},domainname=lab.test,record=db=10.0.2.99,record=v6.lab.test=2001:db8::6,"
        "lease=52:54:00:12:34:56=10.0.2.40=box"
    )
    script = (
        "for how in +notcp +tcp; do for ask in 'world.test' 'db.lab.test' 'AAAA v6.lab.test' 'box' '-x 10.0.2.40'"
        " '-x 10.0.2.99'; do dig $how +short $ask; done; done; dig +tcp +keepopen +short db world.test box;"
        "getent hosts db.lab.test; getent hosts 10.0.2.40"
    )
    with daemon(argv):
        until_sync(lambda: listening(port), "dnsmasq")
        done = root_runner(tmp_path).run(script, "-net", "nic,model=direct", "-net", f"user,{keys}")
    once = ["192.0.2.7", "10.0.2.99", "2001:db8::6", "10.0.2.40", "box.lab.test.", "db.lab.test."]
    rest = ["10.0.2.99", "192.0.2.7", "10.0.2.40"]
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines == [*once, *once, *rest, "10.0.2.99 db.lab.test", "10.0.2.40 box.lab.test"], done.stderr


SLOW = r"""
import asyncio, socket, struct, sys
# PORT DELAY PROTOCOLS: answers A with 192.0.2.7, AAAA with 2001:db8::7, after DELAY seconds, on UDP, TCP or both of 127.0.0.1
port, delay, protocols = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]

def answer(query):
    at = 12
    while query[at]:
        at += 1 + query[at]
    end = at + 5
    kind = query[end - 4 : end - 2]
    data = bytes([192, 0, 2, 7]) if kind == b"\0\1" else socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    record = b"\xc0\x0c" + kind + b"\0\1" + struct.pack("!IH", 60, len(data)) + data
    return query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:end] + record

class Server(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, peer):
        asyncio.get_running_loop().call_later(delay, lambda: self.transport.sendto(answer(data), peer))

async def client(reader, writer):
    while True:
        try:
            size = int.from_bytes(await reader.readexactly(2), "big")
        except asyncio.IncompleteReadError:
            break
        said = answer(await reader.readexactly(size))
        writer.write(len(said).to_bytes(2, "big") + said)
    writer.close()

async def main():
    if "udp" in protocols:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind(("127.0.0.1", port))
        await asyncio.get_running_loop().create_datagram_endpoint(Server, sock=sock)
    if "tcp" in protocols:
        await asyncio.start_server(client, "127.0.0.1", port)
    print("ready", flush=True)
    await asyncio.sleep(300)

asyncio.run(main())
"""

MANY = r"""
import select, socket, sys, time
# COUNT SAME: asks COUNT questions at once; SAME=1: two, A and AAAA, from one port with one identifier
count, same = int(sys.argv[1]), sys.argv[2] == "1"
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
sock.connect(("10.0.2.3", 53))
for n in range(count):
    name = b"\1a\4test\0" if same else b"\5" + b"%05d" % n + b"\4test\0"
    kind = b"\0\x1c" if same and n else b"\0\1"
    sock.send((0 if same else n).to_bytes(2, "big") + b"\1\0\0\1" + bytes(6) + name + kind + b"\0\1")
got, end = set(), time.monotonic() + 20
while len(got) < count and time.monotonic() < end:
    if select.select([sock], [], [], 0.5)[0]:
        data = sock.recv(4096)
        got.add((data[:2], data[12:-16][-4:-2] if same else b"", data[3] & 15))
print(len(got), {code for *_, code in got})
"""


@contextmanager
def slow_server(port: int, delay: float, protocols: str = "udp,tcp") -> Iterator[None]:
    """A name server that takes its time."""
    with daemon([sys.executable, "-c", SLOW, str(port), str(delay), protocols]):
        if "tcp" in protocols:
            until_sync(lambda: listening(port), "the slow name server")
        yield


def test_slow_and_many_and_alike(tmp_path: Path) -> None:
    """An answer after 6 s; two questions of the C library at once; 400 in flight; one port and identifier for two."""
    port = free_port()
    (tmp_path / "many.py").write_text(MANY)
    python = sys.executable
    with slow_server(port, 6):
        script = "dig +time=9 +tries=1 +short slow.test; echo options timeout:9 >>/etc/resolv.conf; getent ahosts slow.test"
        done = root_runner(tmp_path).run(script, "-net", f"user,resolver=127.0.0.1:{port}")
    lines = [line.split()[0] for line in done.stdout.splitlines()]
    assert lines[0] == "192.0.2.7", done.stderr
    assert set(lines[1:]) == {"192.0.2.7", "2001:db8::7"}
    port = free_port()
    with slow_server(port, 0.8):
        script = f"{python} many.py 2 1; {python} many.py 400 0"
        done = root_runner(tmp_path).run(script, "-net", f"user,resolver=127.0.0.1:{port}")
    assert done.stdout.splitlines() == ["2 {0}", "400 {0}"], done.stderr


@contextmanager
def dead_server() -> Iterator[int]:
    """A port of 127.0.0.1 that swallows datagrams and, as its backlog is full, the SYNs of connections."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        silent = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        silent.bind(listener.getsockname())
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_tcp_goes_round_a_dead_server(tmp_path: Path) -> None:
    """TCP alone finds the server that lives within 2 s; later it is the first, as UDP has learnt of it."""
    port = free_port()
    dig = "time -p dig +tcp +time=4 +tries=1 +short"
    with slow_server(port, 0), dead_server() as dead:
        done = root_runner(tmp_path).run(
            f"{dig} first.test; dig +short learn.test; {dig} again.test",
            "-net",
            f"user,resolver=127.0.0.1:{dead}+127.0.0.1:{port}",
        )
    assert done.stdout.split() == ["192.0.2.7"] * 3, done.stderr
    times = [float(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("real")]
    assert 1.9 < times[0] < 4, done.stderr
    assert times[1] < 1, done.stderr


SCOPED = r"""
set -e
ip link set lo up
for pair in v w; do
    ip link add ${pair}0 type veth peer name ${pair}1
    ip link set ${pair}0 up; ip link set ${pair}1 up
    ip -6 addr add fe80::53/64 dev ${pair}0 nodad
done
mount --bind $DIR/resolv.conf /etc/resolv.conf
for n in v w; do
    dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= --port=53 --bind-interfaces \
        --interface=${n}0 --except-interface=lo --address=/here.test/$([ $n = v ] && echo 192.0.2.1 || echo 192.0.2.2) \
        --no-daemon 2>$DIR/$n.log &
    echo $! >>$DIR/pids
done
for n in $(seq 50); do [ $(ss -Hlnt sport = 53 | wc -l) -ge 2 ] && break; sleep 0.1; done
"""


def scoped_host(tmp_path: Path, resolv_conf: str, commands: str) -> subprocess.CompletedProcess[str]:
    """Run ``commands`` in a host with v0 and w0, which both have fe80::53 and a dnsmasq that knows another answer."""
    (tmp_path / "resolv.conf").write_text(resolv_conf)
    script = SCOPED.replace("$DIR", str(tmp_path)) + commands.replace("$DIR", str(tmp_path))
    script += f"\nkill $(cat {tmp_path}/pids)\n"
    runner = root_runner(tmp_path)
    return subprocess.run(
        ["unshare", "-nm", "--propagation", "private", "sh", "-c", script],
        env=runner.env,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )


@pytest.mark.parametrize("given", ["resolver=fe80::53%w0", "resolver=[fe80::53%w0]:53", "resolv.conf"])
def test_a_name_server_behind_one_of_two_interfaces(tmp_path: Path, given: str) -> None:
    """``fe80::53%w0`` is not ``fe80::53%v0``, in UDP and TCP, written as an option or in resolv.conf."""
    net = f"user,{given}" if given.startswith("resolver=") else "user"
    done = scoped_host(
        tmp_path,
        "nameserver fe80::53%w0\n",
        f"{sys.executable} -m tapnet exec -net '{net}' -- "
        "sh -c 'for how in +notcp +tcp; do dig $how +time=3 +tries=1 +short here.test; done'",
    )
    assert done.stdout.split() == ["192.0.2.2", "192.0.2.2"], done.stderr


def test_redirections_and_services_at_scoped_addresses(tmp_path: Path) -> None:
    """hostfwd= of TCP and UDP on fe80::53%v0, where w0 has the same address; guestfwd= to fe80::53%w0."""
    guest = (
        f"{sys.executable} -m http.server 80 --bind :: & web=$!; dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file="
        " --port=81 --address=/here.test/192.0.2.3 --no-daemon & names=$!;"
        "dig +time=3 +tries=1 +tcp +short @10.0.2.100 -p 5300 here.test; dig +time=3 +tries=1 +notcp +short @10.0.2.100 -p 5301 here.test;"
        "for n in $(seq 200); do [ $(ss -Hlnt sport = 80 | wc -l) -ge 1 ] && break; sleep 0.1; done;"
        "touch $DIR/up; for n in $(seq 300); do [ -e $DIR/done ] && break; sleep 0.1; done; kill $web $names"
    )
    net = (
        "user,hostfwd=tcp:[fe80::53%v0]:8080-:80,hostfwd=udp:[fe80::53%v0]:8081-:81,"
        "guestfwd=tcp:10.0.2.100:5300-tcp:[fe80::53%w0]:53,guestfwd=udp:10.0.2.100:5301-udp:[fe80::53%w0]:53"
    )
    done = scoped_host(
        tmp_path,
        "nameserver 127.0.0.1\n",
        f"""
cat >$DIR/guest <<'END'
{guest}
END
{sys.executable} -m tapnet exec -net '{net}' -- sh $DIR/guest >$DIR/out 2>$DIR/err &
guest=$!
for n in $(seq 300); do [ -e $DIR/up ] && break; sleep 0.1; done
curl -sm15 'http://[fe80::53%25v0]:8080/resolv.conf' || echo failed
dig +time=3 +tries=1 +notcp +short @fe80::53%v0 -p 8081 here.test || echo failed
curl -sm5 'http://[fe80::53%25w0]:8080/resolv.conf' && echo wrong
touch $DIR/done
wait $guest || true
cat $DIR/out $DIR/err >&2
grep ^192 $DIR/out
""",
    )
    wanted = ["nameserver", "127.0.0.1", "192.0.2.3", "192.0.2.2", "192.0.2.2"]
    assert done.stdout.split() == wanted, done.stderr


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("tcp:[fe80::53%nope]:8080-:80", "there is no interface 'nope'"),
        ("udp:[fe80::53%nope]:8080-:80", "there is no interface 'nope'"),
        ("tcp:[fe80::53]:8080-:80", "a link-local address needs an interface behind it"),
        ("udp:[fe80::53]:8080-:80", "a link-local address needs an interface behind it"),
    ],
)
def test_a_scope_that_cannot_be_is_said_in_words(tmp_path: Path, rule: str, why: str) -> None:
    done = root_runner(tmp_path).run("true", "-net", f"user,hostfwd={rule}")
    assert why in done.stderr
    assert done.returncode
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("far", "near"),
    [
        ("socket,listen=[fe80::53%w0]:5000", "socket,connect=[fe80::53%w0]:5000"),
        ("socket,mcast=[ff02::1234%w0]:5000", "socket,mcast=[ff02::1234%w0]:5000"),
        (
            "dgram,local.type=inet,local.host=fe80::53%w0,local.port=5001,remote.type=inet,remote.host=fe80::53%w0,remote.port=5002",
            "dgram,local.type=inet,local.host=fe80::53%w0,local.port=5002,remote.type=inet,remote.host=fe80::53%w0,remote.port=5001",
        ),
    ],
)
def test_wires_at_scoped_addresses(tmp_path: Path, far: str, near: str) -> None:
    """A guest gets its lease over a wire between two instances, at an address that two interfaces have."""
    tapnet = f"{sys.executable} -m tapnet"
    done = scoped_host(
        tmp_path,
        "nameserver 127.0.0.1\n",
        f"""
{tapnet} run -net user -net '{far}' >$DIR/out 2>&1 &
echo $! >>$DIR/pids
sleep 3
{tapnet} exec -net nic,model=direct -net '{near}' -- sh -c 'ip -4 -br addr show eth0' || cat $DIR/out
""",
    )
    assert "10.0.2.15/24" in done.stdout, done.stderr + done.stdout
