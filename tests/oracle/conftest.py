"""Talks beside libslirp: the namespace, the world behind both sides, and the sides. See ``talks``."""

from __future__ import annotations

import ctypes
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from slirp.config import Config
from slirp.forward.tcp import Rule
from tests.oracle.libslirp import Oracle, Ours
from tests.oracle.talks import CLONE_NEWNET, GUEST, RESOLVER, WORLD, Side, World, free
from tests.slirp.fakes import arp


@pytest.fixture(scope="module")
def namespace() -> Iterator[None]:
    """This thread, and all that it starts, in a network namespace with lo up."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home:
        assert libc.unshare(CLONE_NEWNET) == 0
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            subprocess.run(["ip", "addr", "add", f"{WORLD}/32", "dev", "lo"], check=True)
            Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


@pytest.fixture(scope="module")
def world(namespace: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("tftp")
    (root / "f").write_bytes(bytes(n * 5 & 255 for n in range(1300)))
    (root / "even").write_bytes(bytes(1024))
    (root / "dir").mkdir()
    (root / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
    found = World(root)
    yield found
    found.close()


@pytest.fixture(scope="module")
def sides(world: World) -> Iterator[tuple[Side, Side]]:
    assert shutil.which("qemu-system-x86_64"), "qemu-system-x86 is not installed"
    ports = [
        free(socket.SOCK_STREAM),
        free(socket.SOCK_DGRAM),
        free(socket.SOCK_STREAM),
        free(socket.SOCK_DGRAM),
    ]
    rules = f",hostfwd=tcp:127.0.0.1:{ports[0]}-:80,hostfwd=udp:127.0.0.1:{ports[1]}-:81"
    mount = f'mount --bind {world.tftp}/resolv.conf /etc/resolv.conf; exec "$@"'
    oracle = Oracle(f",tftp={world.tftp}{rules}", ("unshare", "-m", "sh", "-c", mount, "sh"))
    ours = Ours(Config(tftp=str(world.tftp), resolver=((RESOLVER, 53),)))
    ours.stack.forwards.add(Rule("tcp", ("127.0.0.1", ports[2]), GUEST, 80))
    ours.stack.forwards.add(Rule("udp", ("127.0.0.1", ports[3]), GUEST, 81))
    both = Side("libslirp", oracle, *ports[:2]), Side("ours", ours, *ports[2:])
    for side in both:
        side.side.exchange([arp(1, "10.0.2.15", "10.0.2.2")], 1)
    yield both
    oracle.close()
    ours.close()
