"""Services for guests with real programs: a guest behind ``tapnet exec``, and the monitor while it runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.exec_kit import Runner, blob, root_runner, user_runner
from tests.netns.test_forward import guest, line
from tests.waiting import BOUND_S

CARD = ("-net", "nic,model=direct")


@pytest.fixture(scope="module", params=["root", "user"])
def tapnet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    home = tmp_path_factory.mktemp(request.param)
    return root_runner(home) if request.param == "root" else user_runner(home)


@pytest.fixture
def datagrams(tapnet: Runner) -> Iterator[str]:
    """A UNIX datagram server that shouts back."""
    path = str(tapnet.home / "dgram")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(path)
    Path(path).chmod(0o777)

    def serve() -> None:
        while True:
            data, name = server.recvfrom(65536)
            if not data:
                return
            server.sendto(data.upper(), name)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
        last.sendto(b"", path)
    thread.join(BOUND_S)
    server.close()
    Path(path).unlink()


ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(30)
s.connect((sys.argv[1], int(sys.argv[2])))
for word in sys.argv[3:]:
    s.send(word.encode())
    print(s.recv(65536).decode(), flush=True)
"""


def test_each_kind_of_target(tapnet: Runner, datagrams: str) -> None:
    (tapnet.home / "ask.py").write_text(ASK)
    rules = (
        "guestfwd=tcp:10.0.2.100:80-cmd:tr a-z A-Z",
        "guestfwd=udp:10.0.2.100:80-cmd:cat",
        f"guestfwd=udp::9-unix:{datagrams}",
        f"guestfwd=tcp::11-file:{tapnet.home}/written",
        "guestfwd=tcp::13-cmd:sh -c 'echo first; echo \"last words\"'",
    )
    ask = f"python3 {tapnet.home}/ask.py"
    done = tapnet.run(
        "ping -c 1 -w 30 10.0.2.100 | grep -c ttl=255; printf shout | nc -N 10.0.2.100 80; echo;"
        f"{ask} 10.0.2.100 80 one two; {ask} 10.0.2.4 9 quiet; echo kept | nc -N 10.0.2.4 11;"
        "nc -d 10.0.2.4 13; nc -z 10.0.2.4 14 || echo closed",
        *CARD,
        "-net",
        ",".join(["user", *rules]),
    )
    want = ["1", "SHOUT", "one", "two", "QUIET", "first", "last words", "closed"]
    assert done.stdout.splitlines() == want, done.stderr
    assert (tapnet.home / "written").read_text() == "kept\n"
    (tapnet.home / "written").unlink()


def test_ipv6(tapnet: Runner) -> None:
    (tapnet.home / "ask.py").write_text(ASK.replace("AF_INET,", "AF_INET6,"))
    done = tapnet.run(
        f"ping -c 1 -w 30 fec0::5 | grep -c ' 0% packet loss'; printf six | nc -N fec0::5 80; echo;"
        f"python3 {tapnet.home}/ask.py fec0::5 80 datagram",
        *CARD,
        "-net",
        "user,guestfwd=tcp:[fec0::5]:80-cmd:tr a-z A-Z,guestfwd=udp:[fec0::5]:80-cmd:cat",
    )
    assert done.stdout.split() == ["1", "SIX", "datagram"], done.stderr


@pytest.mark.slow
def test_a_stream_of_megabytes_and_a_program_for_each(tapnet: Runner) -> None:
    (tapnet.home / "big").write_bytes(blob(3_000_000))
    script = f"for n in 1 2 3 4; do (nc -N 10.0.2.4 7 < {tapnet.home}/big | sha256sum) & done; wait; nc -d 10.0.2.4 8"
    done = tapnet.run(
        script,
        *CARD,
        "-net",
        "user,restrict=on,guestfwd=tcp::7-cmd:cat,guestfwd=tcp::8-cmd:sh -c 'echo $PPID'",
    )
    *sums, _ = done.stdout.splitlines()
    assert len(sums) == 4, done.stderr
    assert len(set(sums)) == 1


def test_connections_to_the_host(tmp_path: Path) -> None:
    """tcp: and udp: reach what the guest itself may not."""
    tapnet = root_runner(tmp_path)
    (tmp_path / "ask.py").write_text(ASK)
    path = str(tmp_path / "stream")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        udp.bind(("127.0.0.1", 0))
        unix.bind(path)
        unix.listen()

        def serve(listener: socket.socket) -> None:
            client, _ = listener.accept()
            got = b""
            while piece := client.recv(100):
                got += piece
            client.sendall(got.upper())
            client.close()

        def answer() -> None:
            data, peer = udp.recvfrom(100)
            udp.sendto(data.upper(), peer)

        jobs = [threading.Thread(target=serve, args=(tcp,)), threading.Thread(target=serve, args=(unix,))]
        jobs.append(threading.Thread(target=answer))
        for job in jobs:
            job.start()
        rules = (
            f"guestfwd=tcp::1-tcp:localhost:{tcp.getsockname()[1]}",
            f"guestfwd=udp::1-udp:127.0.0.1:{udp.getsockname()[1]}",
            f"guestfwd=tcp::2-unix:{path}",
        )
        script = f"for p in 1 2; do printf $p-said | nc -N 10.0.2.4 $p; echo; done; python3 {tmp_path}/ask.py 10.0.2.4 1 asked"
        done = tapnet.run(script, *CARD, "-net", ",".join(["user,restrict=on", *rules]))
        for job in jobs:
            job.join(BOUND_S)
    assert done.stdout.split() == ["1-SAID", "2-SAID", "ASKED"], done.stderr


def test_while_it_runs(tmp_path: Path) -> None:
    root = root_runner(tmp_path)
    name = f"guestfwd-{os.getpid()}"
    rule = "tcp:10.0.2.77:5-cmd:echo served"

    def monitor(*words: str) -> str:
        done = subprocess.run(
            root.argv("monitor", "-i", name, *words),
            env=root.env,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
        )
        return done.stdout + done.stderr

    def told(step: int) -> None:
        (tmp_path / str(step)).touch()

    script = (
        f"wait() {{ until [ -e {tmp_path}/$1 ]; do sleep 0.05; done; }}; echo ready;"
        "wait 1; nc -d 10.0.2.77 5; wait 2; nc -z -w 1 10.0.2.77 5 || echo gone; wait 3"
    )
    with guest(root, script, "--name", name, "-net", "user") as process:
        assert monitor("guestfwd_add", rule) == ""
        assert "taken" in monitor("guestfwd_add", rule)
        assert rule in monitor("info", "guestfwd")
        (nat,) = json.loads(monitor("info", "usernets"))
        assert nat["guestfwd"] == [
            {
                "number": 1,
                "rule": rule,
                "protocol": "tcp",
                "address": "10.0.2.77",
                "port": 5,
                "target": "cmd",
                "to": "echo served",
            }
        ]
        assert [lease["address"] for lease in nat["leases"]] == ["10.0.2.15"]
        told(1)
        assert line(process) == "served"
        assert monitor("guestfwd_remove", rule) == f"guest forwarding rule for {rule} removed\n"
        assert monitor("guestfwd_remove", "1") == "guest forwarding rule for 1 not found\n"
        told(2)
        assert line(process) == "gone"
        told(3)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("tcp:10.0.3.1:80-cmd:cat", "10.0.3.1 is not in net=10.0.2.0/24"),
        ("tcp:10.0.2.9:80-cmd:no-such-program", "cmd: no-such-program: no such program"),
        ("tcp:10.0.2.9:80-cmd:sh -c 'x", "no closing quotation"),
        ("tcp::80-udp:127.0.0.1:1", "udp: answers UDP only"),
        ("udp::67-chardev:c", 'target "chardev:c" is none of cmd:, tcp:, udp:, unix:, file:'),
    ],
)
def test_bad_rules_are_one_line(tmp_path: Path, rule: str, reason: str) -> None:
    done = root_runner(tmp_path).run("true", *CARD, "-net", f"user,guestfwd={rule}")
    assert (done.returncode, done.stderr) == (2, f"tapnet: -net user: guestfwd={rule}: {reason}\n")
