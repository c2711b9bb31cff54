"""Redirections with real programs: clients on the host, servers in a guest behind ``tapnet exec``."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.exec_kit import Runner, blob, root_runner, user_runner
from tests.waiting import BOUND_S

ECHO = """
import socket, sys, threading
tcp = socket.create_server(("", 7), backlog=100)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 7))
def one(sock, peer):
    total = 0
    while data := sock.recv(65536):
        sock.sendall(data)
        total += len(data)
    sock.sendall(b"%d from %s" % (total, peer[0].encode()))
    sock.close()
def datagrams():
    while True:
        data, peer = udp.recvfrom(65536)
        udp.sendto(data.upper() + b" " + peer[0].encode(), peer)
threading.Thread(target=datagrams, daemon=True).start()
print("ready", flush=True)
while True:
    threading.Thread(target=one, args=tcp.accept(), daemon=True).start()
"""


@pytest.fixture(scope="module", params=["root", "user"])
def tapnet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    home = tmp_path_factory.mktemp(request.param)
    return root_runner(home) if request.param == "root" else user_runner(home)


@pytest.fixture
def root(tmp_path: Path) -> Runner:
    return root_runner(tmp_path)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def line(process: subprocess.Popen[str]) -> str:
    """A line of its output, in time."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], BOUND_S)
    assert ready, "the guest says nothing"
    return process.stdout.readline().strip()


@contextlib.contextmanager
def guest(tapnet: Runner, command: str, *options: str, ready: bool = True) -> Iterator[subprocess.Popen[str]]:
    """``command`` in a guest, once it said "ready"; ended afterwards."""
    nic = () if "nic," in "".join(options) else ("-net", "nic,model=direct")
    process = tapnet.popen(command, *nic, *options)
    try:
        if ready and line(process) != "ready":
            process.kill()
            raise AssertionError(process.communicate(timeout=BOUND_S))
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=BOUND_S)


def echo(home: Path) -> str:
    (home / "echo.py").write_text(ECHO)
    return f"exec {sys.executable if os.access(sys.executable, os.X_OK) else 'python3'} {home}/echo.py"


@pytest.fixture(scope="module")
def echoing(tapnet: Runner) -> Iterator[tuple[int, int, Path]]:
    """A guest that echoes: (TCP port, UDP port, UNIX path) of the host."""
    ports = free_port(), free_port(socket.SOCK_DGRAM)
    path = tapnet.home / "sock"
    (tapnet.home / "echo.py").write_text(ECHO)
    rules = f"hostfwd=tcp::{ports[0]}-:7,hostfwd=udp::{ports[1]}-:7,hostfwd=unix:{path}-:7"
    with guest(tapnet, f"exec python3 {tapnet.home}/echo.py", "-net", f"user,{rules}"):
        yield *ports, path
    assert not path.exists()


def talk(sock: socket.socket, data: bytes) -> bytes:
    """Send, half-close, read to the end."""
    sock.settimeout(BOUND_S)
    with sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        got = bytearray()
        while piece := sock.recv(1 << 20):
            got += piece
    return bytes(got)


def test_nc_and_its_half_close(echoing: tuple[int, int, Path]) -> None:
    for where in (["127.0.0.1", str(echoing[0])], ["127.0.0.9", str(echoing[0])], ["-U", str(echoing[2])]):
        done = subprocess.run(["nc", "-N", *where], input=b"hello ", capture_output=True, timeout=BOUND_S)
        assert done.stdout == b"hello 6 from 10.0.2.2"


def test_much_data_both_ways(echoing: tuple[int, int, Path]) -> None:
    data = blob(20_000)  # more would need a client that reads while it writes
    got = talk(socket.create_connection(("127.0.0.1", echoing[0])), data)
    assert got == data + b"20000 from 10.0.2.2"


def test_many_clients_at_once(echoing: tuple[int, int, Path]) -> None:
    clients = [socket.create_connection(("127.0.0.1", echoing[0]), BOUND_S) for _ in range(100)]
    answers = {talk(client, b"%d." % number) for number, client in enumerate(clients)}
    assert {answer.split(b".")[0] for answer in answers} == {b"%d" % number for number in range(100)}


def test_udp_by_nc_from_the_address_that_was_asked(echoing: tuple[int, int, Path]) -> None:
    for address in ("127.0.0.1", "127.0.0.9"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(BOUND_S)
            sock.connect((address, echoing[1]))  # hears nobody else
            sock.send(b"abc")
            assert sock.recv(100) == b"ABC 10.0.2.2"
    done = subprocess.run(
        ["nc", "-u", "-w", "2", "-W", "1", "127.0.0.1", str(echoing[1])],
        input=b"nc",
        capture_output=True,
        timeout=BOUND_S,
    )
    assert done.stdout == b"NC 10.0.2.2"


def test_a_client_with_an_address_of_its_own_is_seen_as_that(echoing: tuple[int, int, Path]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no address but loopback's")
        own = probe.getsockname()[0]
    got = talk(socket.create_connection((own, echoing[0])), b"x")
    assert got == b"x1 from " + own.encode()


def test_a_closed_port_of_the_guest_resets_the_client(tapnet: Runner) -> None:
    port = free_port()
    with guest(tapnet, "echo ready; exec sleep 60", "-net", f"user,hostfwd=tcp::{port}-:9"):
        client = socket.create_connection(("127.0.0.1", port), BOUND_S)
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_client_waits_for_a_guest_that_is_not_up_yet(root: Runner) -> None:
    port = free_port()
    signal_file = root.home / "go"
    command = (
        f"echo ready; while test ! -e {signal_file}; do sleep 0.1; done;"
        " ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2;"
        f" {echo(root.home)}"
    )
    with guest(root, command, "-net", "nic,model=ne2k_pci,dhcp=off", "-net", f"user,hostfwd=tcp::{port}-:7"):
        left = socket.create_connection(("127.0.0.1", port), BOUND_S)
        left.close()
        waits = socket.create_connection(("127.0.0.1", port), BOUND_S)
        waits.sendall(b"early ")
        ready, _, _ = select.select([waits], [], [], 1.5)
        assert not ready, "it waits"
        signal_file.touch()
        assert talk(waits, b"late ").startswith(b"early late 11 from")
        assert talk(socket.create_connection(("127.0.0.1", port)), b"later ") == b"later 6 from 10.0.2.2"


@pytest.mark.slow
def test_a_client_of_a_guest_that_never_comes_is_refused(root: Runner) -> None:
    port = free_port()
    with guest(
        root,
        "echo ready; exec sleep 100",
        *("-net", "nic,model=ne2k_pci,dhcp=off", "-net", f"user,hostfwd=tcp::{port}-:7"),
    ):
        client = socket.create_connection(("127.0.0.1", port), BOUND_S)
        client.settimeout(BOUND_S)
        start = time.monotonic()
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
        assert time.monotonic() - start > 55


def test_ssh(root: Runner) -> None:
    port = free_port()
    home = root.home
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "key"], check=True)
    shutil.copy(home / "key.pub", home / "keys")
    sshd = (
        f"mkdir -p /run/sshd; echo ready; exec /usr/sbin/sshd -D -f /dev/null -p 22 -h {home}/key"
        f" -o AuthorizedKeysFile={home}/keys -o StrictModes=no -o PidFile=none -o PermitRootLogin=yes"
    )
    client = ["ssh", "-F", "none", "-p", str(port), "-i", str(home / "key"), "-o", "StrictHostKeyChecking=no"]
    client += ["-o", f"UserKnownHostsFile={home}/known", "-o", "BatchMode=yes", "root@127.0.0.1"]
    with guest(root, sshd, "-net", "nic,model=ne2k_pci", "-redir", f"tcp:{port}::22"):
        for _ in range(50):
            done = subprocess.run(
                [*client, "ip -4 addr show dev eth0; cat"], input=b"in", capture_output=True, timeout=BOUND_S
            )
            if b"refused" not in done.stderr and b"reset" not in done.stderr:
                break
            time.sleep(0.2)  # the guest's sshd is still starting
        assert b"10.0.2.15" in done.stdout and done.stdout.endswith(b"in"), done


def test_curl_and_dig(root: Runner) -> None:
    http, dns, dns_tcp = free_port(), free_port(socket.SOCK_DGRAM), free_port()
    (root.home / "www").mkdir()
    (root.home / "www" / "f").write_bytes(blob(3_000_000))
    command = (
        f"python3 -m http.server -d {root.home}/www 80 >/dev/null 2>&1 &"
        " dnsmasq -k -u root -C /dev/null -p 53 --no-resolv --no-hosts --pid-file= --address=/example.test/192.0.2.77 &"
        " sleep 1; echo ready; wait"
    )
    rules = f"user,hostfwd=tcp::{http}-:80,hostfwd=udp:127.0.0.1:{dns}-:53,hostfwd=tcp:127.0.0.1:{dns_tcp}-10.0.2.15:53"
    with guest(root, command, "-net", rules):
        url = f"http://127.0.0.1:{http}/f"
        done = subprocess.run(
            ["curl", "-sS", "--retry", "20", "--retry-all-errors", "--retry-delay", "1", url],
            capture_output=True,
            timeout=BOUND_S,
        )
        assert done.stdout == blob(3_000_000), done.stderr
        for port, more in ((dns, ["+notcp"]), (dns_tcp, ["+tcp"])):
            words = ["dig", "@127.0.0.1", "-p", str(port), "+short", "+tries=5", *more, "a.example.test"]
            assert subprocess.run(words, capture_output=True, timeout=BOUND_S).stdout == b"192.0.2.77\n"


def test_adding_and_removing_while_it_runs(root: Runner) -> None:
    name = f"forward-{os.getpid()}"
    port = free_port()

    def monitor(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            root.argv("monitor", "-i", name, *words),
            env=root.env,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
        )

    with guest(root, echo(root.home), "--name", name, "-net", "user"):
        rule = f"tcp:127.0.0.1:{port}-:7"
        assert monitor("hostfwd_add", rule).stdout == ""
        assert rule in monitor("info", "hostfwd").stdout
        assert "TCP[HOST_FORWARD]" in monitor("info", "usernet").stdout
        assert talk(socket.create_connection(("127.0.0.1", port)), b"x") == b"x1 from 10.0.2.2"
        taken = monitor("hostfwd_add", f"tcp::{port}-:8")
        assert (taken.returncode, "Address already in use" in taken.stdout + taken.stderr) == (1, True)
        stays = socket.create_connection(("127.0.0.1", port), BOUND_S)
        stays.sendall(b"a")
        assert stays.recv(1) == b"a"
        assert monitor("hostfwd_remove", rule).stdout == f"host forwarding rule for {rule} removed\n"
        assert monitor("hostfwd_remove", rule).stdout == f"host forwarding rule for {rule} not found\n"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), BOUND_S)
        assert talk(stays, b"b") == b"b2 from 10.0.2.2", "a connection that exists goes on"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (
            ("-net", "user,hostfwd=tcp:127.0.0.1:{port}-:22"),
            "hostfwd=tcp:127.0.0.1:{port}-:22: cannot listen",
        ),
        (
            ("-redir", "tcp:{port}::22"),
            "-redir tcp:{port}::22: cannot listen on 0.0.0.0:{port}: Address already",
        ),
        (("-net", "user,hostfwd=unix:/no/such/place-:22"), "hostfwd=unix:/no/such/place-:22: cannot listen"),
        (("-redir", "tcp:5555:10.9.9.9:22"), "guest 10.9.9.9 is not in net=10.0.2.0/24"),
    ],
)
def test_a_rule_that_cannot_be_is_one_line(tapnet: Runner, options: tuple[str, ...], word: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = tapnet.run("true", *(text.format(port=port) for text in options))
    assert done.returncode == 2 or done.returncode == 1
    assert done.stderr.count("\n") == 1 and word.format(port=port) in done.stderr


@pytest.mark.parametrize(("ftp", "works"), [("auto", True), ("off", False)])
def test_ftp_in_passive_mode(root: Runner, ftp: str, works: bool) -> None:
    port = free_port()
    share = root.home / "ftp"
    share.mkdir()
    share.chmod(0o755)
    (share / "f").write_bytes(blob(3_000_000))
    settings = {
        "listen": "YES",
        "anonymous_enable": "YES",
        "anon_root": str(share),
        "no_anon_password": "YES",
        "local_enable": "NO",
        "background": "NO",
        "seccomp_sandbox": "NO",
        "secure_chroot_dir": str(share),
        "pasv_enable": "YES",
    }
    (root.home / "vsftpd.conf").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    command = f"echo ready; exec vsftpd {root.home}/vsftpd.conf"
    for parent in share.parents:
        if parent != Path("/") and not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o11)
    url = f"ftp://127.0.0.1:{port}/f"
    with guest(
        root, command, "-net", "nic,model=ne2k_pci", "-net", f"user,ftp={ftp},hostfwd=tcp::{port}-:21"
    ):
        common = [
            "curl",
            "-sS",
            "--max-time",
            "40",
            "--retry",
            "20",
            "--retry-all-errors",
            "--retry-delay",
            "1",
        ]
        listing = subprocess.run([*common, "-Q", "PWD", "-I", url], capture_output=True, timeout=BOUND_S)
        assert b"Content-Length: 3000000" in listing.stdout, listing
        if works:
            for how in ("--ftp-skip-pasv-ip", "--no-ftp-skip-pasv-ip"):
                for extended in ("--ftp-pasv", "--disable-epsv"):
                    words = ["curl", "-sS", "--max-time", "40", how, extended, url]
                    done = subprocess.run(words, capture_output=True, timeout=BOUND_S)
                    assert done.stdout == blob(3_000_000), (words, done.stderr)
            lftp = f"set net:max-retries 2; open ftp://127.0.0.1:{port}; cat f; cls -1"
            done = subprocess.run(["lftp", "-c", lftp], capture_output=True, timeout=BOUND_S)
            assert done.stdout == blob(3_000_000) + b"f\n", done.stderr
        else:
            done = subprocess.run(
                ["curl", "-sS", "--max-time", "4", url], capture_output=True, timeout=BOUND_S
            )
            assert done.returncode != 0
