"""Reload: the difference between two configurations, and an instance that lives through it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tapnet.config import Config
from tapnet.guest.prepare import prepare
from tapnet.instance import reload
from tapnet.instance.instance import Instance
from tapnet.instance.reload import ReloadError
from tapnet.options import parse as options
from tests.slirp.fakes import arp, udp
from tests.slirp.services.test_dhcp import query
from tests.slirp.test_stack import tcp
from tests.tapnet.live_kit import info
from tests.tapnet.wire_kit import until


def config(*words: str) -> Config:
    return options.parse(["-net", "nic", *words], "run", {})


def names(nets: list[Any]) -> list[str]:
    return [net.name for net in nets]


USER, SOCKET = ("-net", "user"), ("-net", "socket,listen=127.0.0.1:7001")


@pytest.mark.parametrize(
    ("old", "new", "removed", "added", "kept"),
    [
        (USER, USER, [], [], ["user.0"]),
        (USER, (*USER, *SOCKET), [], ["socket.0"], ["user.0"]),
        ((*USER, *SOCKET), USER, ["socket.0"], [], ["user.0"]),
        ((*USER, *SOCKET), (*SOCKET, *USER), [], [], ["socket.0", "user.0"]),
        (("-net", "user,net=10.1.0.0/24"), ("-net", "user,net=10.2.0.0/24"), ["user.0"], ["user.0"], []),
        (
            (*USER, "-net", "user,vlan=1"),
            ("-net", "user,vlan=1"),
            ["user.0"],
            [],
            ["user.0"],  # which was user.1
        ),
        (("-net", "user,name=a"), ("-net", "user,name=b"), [], [], ["b"]),
    ],
)
def test_what_stays_and_what_goes(
    old: tuple[str, ...], new: tuple[str, ...], removed: list[str], added: list[str], kept: list[str]
) -> None:
    made = reload.plan(config(*old), config(*new))
    assert (names(made.removed), names(made.added)) == (removed, added)
    assert [now.name for _, now in made.kept] == kept
    assert made.changed == []


def test_a_mode_in_the_file_swaps() -> None:
    both = ("-net", "user", "-net", "tap")
    made = reload.plan(config("--mode", "user", *both), config("--mode", "tap", *both))
    assert (names(made.removed), names(made.added)) == (["user.0"], ["tap.0"])


def test_redirections_alone() -> None:
    made = reload.plan(
        config("-net", "user,hostfwd=tcp::7001-:80"), config("-net", "user,hostfwd=tcp::7002-:80")
    )
    assert made.removed == made.added == made.kept == [] and len(made.changed) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ((), ("-M", "isapc"), "-machine has changed"),
        ((), ("-m", "32"), "-memory has changed"),
        ((), ("-monitor", "unix:/x,server=on,wait=off"), "-monitor has changed"),
        ((), ("-net", "nic,vlan=1"), "-net nic: card ne2k_pci.1 is new or has changed"),
        (("-net", "nic,vlan=1"), (), "-net nic: card ne2k_pci.1 is gone"),
        (
            ("-netdev", "user,id=n", "-device", "rtl8139,netdev=n"),
            ("-netdev", "user,id=n,net=10.9.0.0/24", "-device", "rtl8139,netdev=n"),
            "-netdev user: a private wire has changed",
        ),
    ],
)
def test_what_takes_a_restart(old: tuple[str, ...], new: tuple[str, ...], said: str) -> None:
    with pytest.raises(ReloadError, match=f"^{said}: that takes a restart$"):
        reload.plan(config(*USER, *old), config(*USER, *new))


# ---- on a running one --------------------------------------------------------------------------------------


def play(scene: Callable[[Instance], Awaitable[Any]], *words: str) -> None:
    async def main() -> None:
        made = config(*words)
        instance = Instance(made, prepare(made), asyncio.get_running_loop(), time.monotonic_ns, lambda: None)
        try:
            instance.start()
            await scene(instance)
        finally:
            instance.close()

    asyncio.run(main())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def apply(instance: Instance, *words: str) -> str:
    return reload.apply(instance, reload.plan(instance.config, config(*words)))


def test_a_connection_lives_through_it_and_names_never_collide() -> None:
    first, second = free_port(), free_port()

    async def scene(instance: Instance) -> None:
        with socket.create_connection(("127.0.0.1", second)) as client:
            await until(lambda: "connection from" in info(instance, "info network"))
            one, two, three = (f"socket,listen=127.0.0.1:{port}" for port in (first, second, free_port()))
            assert apply(instance, "-net", two, "-net", three) == "1 added, 1 removed, 1 as before"
            assert [net.name for net in instance.config.nets if net.plugged].count("socket.1") == 1
            assert "connection from" in info(instance, "info network")
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", first))
            assert apply(instance, "-net", one) == "1 added, 2 removed, 0 as before"
            await until(lambda: "connection from" not in info(instance, "info network"))
            socket.create_connection(("127.0.0.1", first)).close()

    play(scene, "-net", f"socket,listen=127.0.0.1:{first}", "-net", f"socket,listen=127.0.0.1:{second}")


@pytest.mark.parametrize(
    ("key", "live"),
    [
        ("restrict=on", True),
        ("deny=192.0.2.0/24", True),
        ("hostloopback=off", True),
        ("resolver=127.0.0.1:5353", True),
        ("hostname=other,domainname=lab.test,dnssearch=a.test", True),
        ("lease-time=10m", True),
        ("bootfile=pxe.0", True),
        ("buffers=8M", True),
        ("ftp=off", True),
        ("net=10.9.0.0/24", False),
        ("dhcpstart=10.0.2.50", False),
        ("mtu=1400", False),
        ("ipv6=off", False),
        ("tftp=/tmp", False),
    ],
)
def test_what_changes_under_a_nat_that_stays(key: str, live: bool) -> None:
    made = reload.plan(config("-net", "user"), config("-net", f"user,{key}"))
    assert len(made.changed) == live and len(made.added) == (not live)


def test_a_private_nat_changes_live() -> None:
    wire = ("-device", "rtl8139,netdev=n")
    made = reload.plan(
        config("-netdev", "user,id=n", *wire), config("-netdev", "user,id=n,lease-time=5m", *wire)
    )
    assert len(made.changed) == 1 and made.added == made.removed == []


def test_flows_and_leases_of_a_nat_live_through_a_change() -> None:
    async def scene(instance: Instance) -> None:
        nat: Any = instance.usernets[0]
        stack = nat.stack
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            put = lambda frame: stack.input(frame, b"", time.monotonic_ns())  # noqa: E731
            put(arp(1, "10.0.2.15", "10.0.2.2"))
            put(query(1))
            put(query(3, {50: bytes((10, 0, 2, 15)), 54: bytes((10, 0, 2, 2))}))
            put(udp("10.0.2.2", 9, b"x"))
            put(tcp("10.0.2.2", port))
            client, _ = await asyncio.get_running_loop().run_in_executor(None, listener.accept)
            with client:
                before = (len(stack.tcp), len(stack.udp), nat.leases())
                assert before[:2] == (1, 1) and len(before[2]) == 1
                said = apply(instance, "-net", "user,deny=0.0.0.0/0,hostname=changed,buffers=8M")
                assert said == "0 added, 0 removed, 1 changed, 0 as before"
                assert instance.usernets[0] is nat and nat.stack is stack
                assert (len(stack.tcp), len(stack.udp)) == before[:2]
                assert [row["address"] for row in nat.leases()] == ["10.0.2.15"]
                assert stack.tcp.buffers.cap == 8 << 20
                refused = stack.counters.get("udp_prohibited", 0)
                put(udp("10.0.2.2", 9, b"again"))  # a flow that exists, judged anew
                assert stack.counters["udp_prohibited"] == refused + 1
                client.setblocking(False)
                with pytest.raises(BlockingIOError):
                    client.recv(1)  # the connection goes on

    play(scene, "-net", "user")


def test_one_that_cannot_be_made_puts_everything_back() -> None:
    first, other = free_port(), free_port()

    async def scene(instance: Instance) -> None:
        before = instance.config
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ReloadError, match="Address already in use"):
                apply(
                    instance,
                    *("-net", f"user,hostfwd=tcp:127.0.0.1:{other}-:81"),
                    *("-net", f"socket,listen=127.0.0.1:{free_port()}"),
                    *("-net", f"socket,listen=127.0.0.1:{port}"),
                )
        assert instance.config is before
        assert info(instance, "info network").splitlines() == [
            "VLAN 0 devices:", "  user redirector", "  ne2000 pci macaddr=52:54:00:12:34:56"
        ]  # fmt: skip
        socket.create_connection(("127.0.0.1", first)).close()
        (row,) = instance.usernets[0].forwards()
        assert row.forward.guest_port == 80

    play(
        scene,
        *("-net", f"user,hostfwd=tcp:127.0.0.1:{other}-:80"),
        *("-net", f"socket,listen=127.0.0.1:{first}"),
    )


def test_redirections_change_under_a_nat_that_stays() -> None:
    first, second = free_port(), free_port()

    async def scene(instance: Instance) -> None:
        nat = instance.usernets[0]
        words = f"user,hostfwd=tcp:127.0.0.1:{second}-:80"
        assert apply(instance, "-net", words) == "0 added, 0 removed, 1 changed, 0 as before"
        assert instance.usernets[0] is nat
        assert [row.port for row in nat.forwards()] == [second]
        assert apply(instance, "-net", words) == "0 added, 0 removed, 1 as before"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ReloadError, match=f"hostfwd=tcp:127.0.0.1:{port}-:80: .*[Ii]n use"):
                apply(instance, "-net", f"user,hostfwd=tcp:127.0.0.1:{port}-:80")
        assert [row.port for row in nat.forwards()] == [second], "back"

    play(scene, "-net", f"user,hostfwd=tcp:127.0.0.1:{first}-:80")
