"""Ping and raw sockets on real interfaces, and how datagrams leave: in a namespace of its own for each test."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slirp.contracts.host import NO_FRAGMENT, Echo, EchoSocket, IcmpError, UdpSocket
from slirp.host.echo import HostEcho, RawEcho
from slirp.host.sockets import AsyncHost
from tests.waiting import BOUND_S, until_async

CLONE_NEWNET = 0x40000000


class Rig:
    """A host in the present namespace, and what its sockets heard."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.host = AsyncHost(self.loop, time.monotonic_ns)
        self.socks: list[EchoSocket | UdpSocket] = []
        self.got: list[Echo] = []
        self.errors: list[IcmpError] = []

    def host_readable(self, now: int) -> None:
        for sock in self.socks:
            while (found := sock.recv()) is not None:
                self.got.append(found)  # type: ignore[arg-type]
            while (error := sock.error()) is not None:
                self.errors.append(error)

    def echo(self, ident: int, family: int = 4) -> EchoSocket:
        sock = self.host.echo(family, ident, self)
        self.socks.append(sock)
        return sock

    def udp(self, family: int = 4) -> UdpSocket:
        sock = self.host.udp(family, self)
        self.socks.append(sock)
        return sock

    def until(self, condition: Callable[[], object]) -> None:
        self.loop.run_until_complete(until_async(condition, "condition", pause=0.001))

    def close(self) -> None:
        for sock in self.socks:
            sock.close()
        assert len(self.host) == 0
        self.host.close()
        self.loop.close()


def in_a_namespace(scene: str, *words: str) -> None:
    """Run a function of this file in a fresh network namespace; its assertions count."""
    here = Path(__file__)
    code = (
        f"import sys; sys.path.insert(0, {str(here.parents[3])!r}); "
        f"from tests.slirp.host import test_echo as t; t.{scene}(*sys.argv[1:])"
    )
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=BOUND_S
    )
    assert done.returncode == 0, done.stderr


def settings(way: str) -> None:
    """lo is up; ``way``: ping sockets, or only raw ones."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647" if way == "ping" else "1 0")


root = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


@root
@pytest.mark.parametrize("way", ["ping", "raw"])
@pytest.mark.parametrize("family", ["4", "6"])
def test_echo(way: str, family: str) -> None:
    in_a_namespace("echo_scene", way, family)


def echo_scene(way: str, family: str) -> None:
    settings(way)
    remote = "127.0.0.1" if family == "4" else "::1"
    rig = Rig()
    one, other, third = (rig.echo(ident, int(family)) for ident in (77, 77, 78))
    assert isinstance(one, HostEcho if way == "ping" else RawEcho)
    assert one.send(1, b"first", remote, 33 | 0x20 << 16) == 0
    rig.until(lambda: rig.got)
    assert rig.got == [
        Echo(1, b"first", remote, 64, 0x20)
    ]  # the reply's own TTL, and the type of service mirrored
    rig.got.clear()
    for sock, data in ((one, b"a"), (other, b""), (third, bytes(20000))):
        assert sock.send(2, data, remote, 64) == 0
    rig.until(lambda: len(rig.got) == 3)
    assert sorted((echo.seq, len(echo.data)) for echo in rig.got) == [(2, 0), (2, 1), (2, 20000)]
    one.close()
    assert one.send(3, b"", remote) == errno.EBADF and one.fileno() == -1
    rig.close()


@root
@pytest.mark.parametrize("way", ["ping", "raw"])
def test_replies_to_others_are_not_ours(way: str) -> None:
    in_a_namespace("stranger_scene", way)


def stranger_scene(way: str) -> None:
    """Another process of the host pings; a raw socket hears it all."""
    settings(way)
    rig = Rig()
    ours = rig.echo(77)
    assert ours.send(1, b"ours", "127.0.0.1") == 0
    rig.until(lambda: rig.got)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as other:
        for ident in (
            77,
            76,
        ):  # to an address that the flow never wrote to; under an identifier that is not there
            from tests.slirp.fakes import icmp

            other.sendto(
                icmp(8, 0, ident << 16 | 1, b"theirs"), ("127.0.0.2" if ident == 77 else "127.0.0.1", 0)
            )
        assert ours.send(2, b"again", "127.0.0.1") == 0
    rig.until(lambda: len(rig.got) >= 2)
    if way == "raw":
        assert [echo.data for echo in rig.got] == [b"ours", b"again"]
    else:
        assert rig.got[0].data == b"ours" and rig.got[-1].data == b"again"
    rig.close()


@root
@pytest.mark.parametrize("way", ["ping", "raw", "udp"])
@pytest.mark.parametrize("family", ["4", "6"])
def test_what_the_interface_cannot_carry(way: str, family: str) -> None:
    in_a_namespace("mtu_scene", way, family)


def mtu_scene(way: str, family: str) -> None:
    """The interface carries 1400: with "don't fragment" the MTU is told, without it all is cut."""
    settings(way)
    words = (
        "ip link add va type veth peer name vb",
        "ip link set vb up",
        "ip addr add 192.0.2.1/24 dev va",
        "ip addr add 2001:db8::1/64 dev va nodad",
        "ip link set va mtu 1400 up",
        "ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev va",
        "ip neigh add 2001:db8::2 lladdr 02:00:00:00:00:02 dev va",
    )
    for line in words:
        subprocess.run(line.split(), check=True)
    remote = "192.0.2.2" if family == "4" else "2001:db8::2"
    rig = Rig()
    for how, errors in ((64 | NO_FRAGMENT, [0, errno.EMSGSIZE]), (64, [0, 0])):
        for size, expected in zip((1300, 1450), errors):
            if way == "udp":
                udp = rig.udp(int(family))
                sock: UdpSocket | EchoSocket = udp
                error = udp.sendto(bytes(size), (remote, 9), how)
            else:
                echo = rig.echo(7, int(family))
                sock = echo
                error = echo.send(1, bytes(size), remote, how)
            assert error == expected, (how, size, error)
            if expected:
                assert sock.mtu() == 1400
    assert rig.errors == []
    rig.close()


@root
def test_an_ordinary_user_without_ping_sockets_is_refused() -> None:
    in_a_namespace("refused_scene")


def refused_scene() -> None:
    settings("raw")
    os.setuid(65534)
    rig = Rig()
    for family in (4, 6):
        with pytest.raises(PermissionError):
            rig.host.echo(family, 7, rig)
    assert len(rig.host) == 0
    rig.close()


@root
@pytest.mark.parametrize("family", ["4", "6"])
@pytest.mark.parametrize("way", ["flow", "listener"])
def test_a_refusal_reaches_the_remote(family: str, way: str) -> None:
    in_a_namespace("refusal_scene", family, way)


def refusal_scene(family: str, way: str) -> None:
    """The remote's own kernel believes it: the next call fails with "connection refused"."""
    settings("raw")
    where, kind = ("127.0.0.1", socket.AF_INET) if family == "4" else ("::1", socket.AF_INET6)
    rig = Rig()
    with socket.socket(kind, socket.SOCK_DGRAM) as remote:
        remote.bind((where, 0))
        remote.settimeout(BOUND_S)
        address = (where, remote.getsockname()[1])
        if way == "flow":
            sock = rig.udp(int(family))
            assert sock.sendto(b"x", address) == 0
            _, peer = remote.recvfrom(10)
            remote.connect(peer[:2])
            assert sock.refuse(address)
        else:
            listener = rig.host.listen_udp((where, 0), rig)
            rig.socks.append(listener)  # type: ignore[arg-type]
            remote.connect((where, listener.address[1]))
            assert listener.refuse(address, where)
        with pytest.raises(ConnectionRefusedError):
            remote.recv(10)
    rig.close()
