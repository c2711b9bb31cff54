"""S11: two guests on one user network over a hub, with mixed traffic at once, from the same source ports, and no error."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns import mixed
from tests.netns.exec_kit import root_runner
from tests.netns.support import sh, until_sync
from tests.netns.test_tap import namespace

WORLD = "192.0.2.7"
ACTS = {"short", "same_port", "long", "neighbour", "datagram", "name", "pings"}
SERVER = f"""
import socket, sys, threading
sys.path.insert(0, {str(Path(mixed.__file__).parent)!r})
import mixed
tcp = socket.create_server(("", 7000), backlog=200)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 7000))
dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
dns.bind(("127.0.0.1", 5353))
def resolve():
    while True:
        data, peer = dns.recvfrom(2000)
        answer = data[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + data[12:29]
        dns.sendto(answer + b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\xc0\\0\\2\\x63", peer)
threading.Thread(target=resolve, daemon=True).start()
threading.Thread(target=mixed.datagrams, args=(udp,), daemon=True).start()
print("ready", flush=True)
mixed.echo_server(tcp)
"""


@pytest.fixture
def places() -> Iterator[tuple[str, str, str]]:
    """A host with an address of the world on its lo, and two guests."""
    with namespace("nh") as host, namespace("ng1") as one, namespace("ng2") as two:
        sh(f"ip -n {host} addr add {WORLD}/32 dev lo")
        sh(f"ip netns exec {host} sysctl -qw 'net.ipv4.ping_group_range=0 2147483647'")
        yield host, one, two


def start(name: str, *words: str, path: Path | None = None, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["ip", "netns", "exec", name, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=path,
        **more,
    )


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def from_outside(ports: tuple[int, int], end: float, done: list[int], errors: list[str]) -> None:
    """A client of the host's that comes to both guests by redirections."""
    import random

    rng = random.Random(5)
    while time.monotonic() < end and not errors:
        for n, port in enumerate(ports):
            try:
                mixed.exchange(("127.0.0.1", port), rng.randrange(1, 50_000), rng)
                done[n] += 1
            except Exception as error:
                errors.append(f"redirection {n}: {type(error).__name__}: {error}")


OUTSIDE = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from tests.netns.test_two_guests import from_outside
done, errors = [0, 0], []
from_outside((8001, 8002), time.monotonic() + float(sys.argv[2]), done, errors)
print(json.dumps({"done": done, "errors": errors}))
"""


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_two_guests_at_once(places: tuple[str, str, str], tmp_path: Path, seconds: int) -> None:
    host, *guests = places
    runner = root_runner(tmp_path)
    options = [
        *("-net", f"nic,model=direct,netns=/run/netns/{guests[0]},dhcp=on"),
        *("-net", f"nic,model=direct,netns=/run/netns/{guests[1]},dhcp=on"),
        *("-net", "user,resolver=127.0.0.1:5353,hostfwd=tcp::8001-10.0.2.15:7,hostfwd=tcp::8002-10.0.2.16:7"),
    ]
    tapnet = start(
        host,
        *runner.prefix,
        *("-m", "tapnet", "run", *options),
        env=runner.env,
        stderr=subprocess.PIPE,
    )
    running = [tapnet]
    try:
        server = start(host, sys.executable, "-c", SERVER)
        running.append(server)
        assert heard(server) == "ready"

        def address(name: str) -> str:
            for link in json.loads(sh(f"ip -n {name} -j -4 addr show")):
                for found in link["addr_info"]:
                    if found["local"].startswith("10.0.2."):
                        return str(found["local"])
            return ""

        until_sync(lambda: all(map(address, guests)), "both have leases", 60)
        addresses = [address(name) for name in guests]
        assert sorted(addresses) == ["10.0.2.15", "10.0.2.16"]
        players = [
            start(name, sys.executable, mixed.__file__, str(seconds), WORLD, "7000", "7000", "10.0.2.3", peer)
            for name, peer in zip(guests, reversed(addresses))
        ]
        running += players
        assert [heard(player) for player in players] == ["ready", "ready"]
        root = str(Path(__file__).parents[2])
        outside = start(host, sys.executable, "-c", OUTSIDE, root, str(seconds))
        running.append(outside)
        for player in players:
            say(player)
        results = [json.loads(heard(player)) for player in players]
        redirected = json.loads(heard(outside))
        for player in players:
            say(player)
            player.wait(30)
        assert [result["errors"] for result in results] == [[], []]
        assert all(result["done"].keys() == ACTS for result in results), results
        assert redirected["errors"] == [] and min(redirected["done"]) > 0
    finally:
        for process in reversed(running):
            process.terminate()
        outs = [process.communicate(timeout=30) for process in running]
    said = outs[0][1] or ""
    assert "Traceback" not in said, said


def test_the_player_reports_errors() -> None:
    """Not a word of it is believed unless it can fail: nobody echoes here."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        guest = mixed.Guest(0.2, "127.0.0.1", port, port, "127.0.0.1", "127.0.0.1")
        thread = threading.Thread(target=guest.repeat, args=("short", guest.short))
        thread.start()
        thread.join(60)
        guest.sock.close()
        assert guest.errors and not guest.done["short"]
