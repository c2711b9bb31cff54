"""Nets and cards added and removed while the instance runs and frames flow."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
import uvloop

from tapnet.backends.sockets.retry import Retry
from tapnet.guest.vfio_user import wire
from tests.tapnet import vfio_kit
from tests.tapnet.live_kit import Lab, Peer, descriptors, lab, play
from tests.tapnet.wire_kit import until

BUS = "-net nic -net user -qtest unix:{path},server=on,wait=off"


def frame(number: int, size: int = 100) -> bytes:
    return (
        b"\xff" * 6 + bytes((2, 0, 0, 0, 0, 1)) + b"\x88\xb5" + number.to_bytes(4, "big") + bytes(size - 18)
    )


async def ours(peer: Peer) -> bytes:
    """The next frame that is not a NAT's announcement."""
    while (got := await peer.receive()) and got[12:14] != b"\x88\xb5":
        pass
    return got


def stream(path: Path, label: str) -> str:
    return f"netdev_add stream,id={label},server=on,addr.type=unix,addr.path={path}"


# ---- VLANs -------------------------------------------------------------------------------------------------


def test_a_backend_comes_and_goes_and_leaves_nothing(tmp_path: Path) -> None:
    async def scene() -> None:
        async with lab("-net none") as one:
            before = descriptors()
            await one.say("host_net_add user vlan=3,name=nat,net=10.0.7.0/24,hostfwd=tcp:127.0.0.1:0-:22")
            await one.say(f"host_net_add socket vlan=3,listen=127.0.0.1:{free_port()}")
            await one.say(f"host_net_add dump,vlan=3,file={tmp_path}/x.pcap")
            text = await one.say("info network")
            assert text.startswith("VLAN 3 devices:\n  user redirector\n")
            assert "  dump" in text
            assert "host forwarding" in await one.say("hostfwd_remove nat 1")
            for name in ("nat", "socket.0", "dump.0"):
                await one.say(f"host_net_remove 3 {name}")
                assert name not in await one.say("info ports")
            assert await one.say("info network") == ""
            assert await one.say("info vlans") == ""
            await until(lambda: descriptors() == before, "descriptors given back")
            assert [event["name"] for event in one.heard("X_TAPNET_PORT_REMOVED")] == [
                "nat",
                "socket.0",
                "dump.0",
            ]

    play(scene)


EVERY = (
    "user,net=10.0.7.0/24",
    "socket,listen=127.0.0.1:{port}",
    "socket,connect=127.0.0.1:{port}",
    "socket,mcast=230.0.0.1:{port},localaddr=127.0.0.1",
    "socket,udp=127.0.0.1:{port},localaddr=127.0.0.1:{port}",
    "stream,server=on,addr.type=unix,addr.path={path}/s",
    "stream,addr.type=unix,addr.path={path}/nobody,reconnect-ms=10",
    "stream,addr.type=inet,addr.host=no-such-host.invalid,addr.port=1",
    "dgram,local.type=unix,local.path={path}/a,remote.type=unix,remote.path={path}/b",
    "vde,sock={path}/nothing",
    "ws,listen=127.0.0.1:{port}",
)


@pytest.mark.parametrize("way", ["host_net_add", "netdev_add"])
@pytest.mark.parametrize("words", EVERY)
def test_every_kind_comes_and_goes_many_times(words: str, way: str, tmp_path: Path) -> None:
    async def scene() -> None:
        async with lab("-net nic -net user") as one:
            line = f"{way} {words.format(port=free_port(), path=tmp_path)},id=it"
            shown = await one.say("info network")

            async def once() -> None:
                await one.say(line)
                assert "it " in await one.say("info ports")
                await asyncio.sleep(0)
                await one.say("netdev_del it" if way == "netdev_add" else "host_net_remove 0 it")
                assert await one.say("info network") == shown

            await once()
            await asyncio.sleep(0)
            before = descriptors()
            for _ in range(10):
                await once()
            await until(lambda: descriptors() <= before, "descriptors given back")
            assert list(tmp_path.iterdir()) == []

    play(scene)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("host_net_add user vlan=0,name=user.0", "-net user: name=user.0: exists already"),
        ("host_net_add bogus", '-net: unknown type "bogus" (-net help lists them)'),
        ("host_net_add hubport,hubid=1", "-net hubport: not while it runs"),
        ("host_net_add none", "-net none: not while it runs"),
        ("host_net_add socket,fd=3", "-net socket: fd=: descriptors are inherited at start only"),
        ("host_net_add nic", "-net nic: no guest would see it: use netns=PATH|PID or vfio-user=PATH (or run with -qtest)"),
        ("host_net_remove 1 user.0", "VLAN 1 has no backend named 'user.0'"),
        ("host_net_remove 0 ne2k_pci.0", "VLAN 0 has no backend named 'ne2k_pci.0'"),
        ("netdev_add user", "-netdev user: needs id="),
        ("netdev_add hubport,id=h,hubid=1,netdev=no", "-netdev hubport: netdev=no: there is no such netdev"),
        ("netdev_del no", "Device 'no' not found"),
        ("device_del user.0", "Device 'user.0' not found"),
        ("device_add pcnet,netdev=no,vfio-user=/tmp/x", "-device pcnet: netdev=no: there is no such netdev"),
        ("device_add direct,netns=/no/such", "-device direct: netns=/no/such: no such file"),
        ("device_add pcnet,vlan=0,vfio-user=/no/such/dir", "-device pcnet: vfio-user=/no/such/dir: No such file or directory"),
        ("device_add pcnet,id=user.0,vlan=0,vfio-user=/tmp/x", "-device pcnet: id=user.0: exists already"),
        ("host_net_add user vlan=9,tftp=/no/such", "-net user: tftp=/no/such: No such file or directory"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_changes_nothing(line: str, why: str) -> None:
    async def scene() -> None:
        async with lab("-net nic -net user") as one:
            before, shown = descriptors(), await one.say("info network -v")
            assert await one.fails(line) == why
            assert await one.say("info network -v") == shown
            assert descriptors() == before

    play(scene)


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop])
def test_live_traffic_notices_nothing(tmp_path: Path, factory) -> None:
    """Two peers exchange frames on VLAN 0 while ten rounds of nets and cards come and go there and elsewhere."""

    async def scene() -> None:
        paths = [tmp_path / "a", tmp_path / "b"]
        words = " ".join(f"-netdev stream,id=s{n},server=on,addr.type=unix,addr.path={p} "
                         f"-netdev hubport,id=h{n},hubid=0,netdev=s{n}" for n, p in enumerate(paths))  # fmt: skip
        async with lab(words) as one:
            left, right = [await one.dial(str(path)) for path in paths]
            await until(lambda: len(one.heard("NETDEV_STREAM_CONNECTED")) == 2)
            running, sent = True, 0

            async def talk() -> None:
                nonlocal sent
                while running:
                    await left.send(frame(sent))
                    assert await ours(right) == frame(sent)
                    await right.send(frame(sent, 1400))
                    assert await ours(left) == frame(sent, 1400)
                    sent += 1

            talking = asyncio.ensure_future(talk())
            for number in range(10):
                await one.say("host_net_add user vlan=0,name=nat")
                await one.say(f"device_add rtl8139,id=card,vlan=0,vfio-user={tmp_path}/card")
                await one.say("netdev_add user,id=u,net=10.0.8.0/24")
                await one.say("netdev_add hubport,id=hu,hubid=0,netdev=u")
                await one.say(f"host_net_add dump,vlan=0,name=cap,file={tmp_path}/cap")
                seen = sent
                await until(lambda seen=seen: sent > seen + 3 or talking.done(), "frames still flow")
                for line in (
                    "device_del card",
                    "host_net_remove 0 cap",
                    "netdev_del u",
                    "netdev_del hu",
                    "host_net_remove 0 nat",
                ):
                    await one.say(line)
                assert number >= 9 or not talking.done()
            running = False
            await talking
            names = [line.split()[0] for line in (await one.say("info ports")).splitlines()[1:]]
            assert names == ["s0", "s1"]
            for member in one.instance.vlans[0]:
                assert member.port.counters.drops == {}

    play(scene, factory)


# ---- netdevs -----------------------------------------------------------------------------------------------


def test_a_netdev_under_a_card_is_replaced(tmp_path: Path) -> None:
    """The card's cable follows: out when its backend goes, in when one of that id is back."""

    async def scene() -> None:
        async with lab(BUS, path=tmp_path / "bus") as one:
            await one.say("netdev_add user,id=n1,net=10.0.4.0/24")
            assert "   user redirector" not in await one.say("info network")
            assert (await one.fails("netdev_add user,id=n1")).endswith("id=n1: exists already")
            await one.say("device_add pcnet,netdev=n1,id=c1")
            assert (await one.fails("device_add pcnet,netdev=n1,id=c2")).endswith("it has a card already")
            assert "Devices not on any VLAN:\n  pcnet macaddr=52:54:00:12:34:57\n   \\ user redirector" in (
                await one.say("info network")
            )
            card = one.instance.patchbay.find("c1").port
            await one.say("netdev_del n1")
            assert (
                not card.link
                and "redirector" not in (await one.say("info network")).partition("Devices not")[2]
            )
            await one.say(stream(tmp_path / "s", "n1"))
            assert card.link
            peer = await one.dial(str(tmp_path / "s"))
            await until(lambda: one.heard("NETDEV_STREAM_CONNECTED"))
            await peer.send(frame(1))
            await until(lambda: card.counters.rx_frames == 1, "a frame from the new backend")
            await one.say("device_del c1")
            await one.say("netdev_del n1")
            assert await peer.receive() == b""
            assert "not on any VLAN" not in await one.say("info network")

    play(scene)


def test_hub_ports(tmp_path: Path) -> None:
    async def scene() -> None:
        async with lab(BUS, path=tmp_path / "bus") as one:
            await one.say(stream(tmp_path / "s", "s"))
            await one.say("netdev_add hubport,id=h1,hubid=5,netdev=s")
            await one.say("netdev_add hubport,id=h2,hubid=5")
            assert (await one.fails("netdev_add hubport,id=h3,hubid=5,netdev=s")).endswith("used already")
            await one.say("device_add ne2k_pci,netdev=h2,id=c")
            assert (await one.fails("device_add ne2k_pci,netdev=h2,id=d")).endswith("used already")
            peer = await one.dial(str(tmp_path / "s"))
            await until(lambda: one.heard("NETDEV_STREAM_CONNECTED"))
            assert "VLAN 5 devices:\n  stream: unix:" in await one.say("info network")
            await peer.send(frame(1))
            card = one.instance.patchbay.find("c").port
            await until(lambda: card.counters.rx_frames == 1)
            await one.say("netdev_del h2")
            assert not card.link
            await one.say("netdev_del h1")
            assert "VLAN 5" not in await one.say("info network")
            await one.say("netdev_add hubport,id=h1,hubid=6,netdev=s")
            assert "VLAN 6 devices:\n  stream: unix:" in await one.say("info network"), (
                "the connection stayed"
            )
            assert not one.heard("NETDEV_STREAM_DISCONNECTED")
            await one.say("netdev_del s")
            await one.say("netdev_del h1")
            assert await peer.receive() == b""

    play(scene)


def test_a_listener_takes_its_clients_along(tmp_path: Path) -> None:
    async def scene() -> None:
        port = free_port()
        async with lab("-net none") as one:
            await one.say(f"netdev_add socket,id=l,listen=127.0.0.1:{port}")
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
            await until(lambda: len(one.heard("NETDEV_STREAM_CONNECTED")) == 2)
            event = one.heard("NETDEV_STREAM_CONNECTED")[0]
            assert event["netdev-id"] == "l.1"
            assert event["addr"] == {
                "type": "inet", "host": "127.0.0.1", "port": str(clients[0].getsockname()[1]),
            }  # fmt: skip
            await one.say("netdev_add hubport,id=h,hubid=1,netdev=l")
            text = await one.say("info network")
            assert text.count("VLAN 1") == 1 and text.count("socket: connection from") == 2
            assert "not on any" not in text
            peers = []
            for client in clients:
                client.setblocking(False)
                peers.append(Peer(client))
            await peers[0].send(frame(5))
            assert await peers[1].receive() == frame(5)
            clients[0].close()
            await until(lambda: one.heard("NETDEV_STREAM_DISCONNECTED") == [{"netdev-id": "l.1"}])
            await one.say("netdev_del l")
            assert await peers[1].receive() == b""
            assert await one.say("info network") == ""
            clients[1].close()

    play(scene)


# ---- cards -------------------------------------------------------------------------------------------------


def test_defaults_are_the_first_that_are_free(tmp_path: Path) -> None:
    async def scene() -> None:
        async with lab(BUS, path=tmp_path / "bus") as one:
            for _ in range(3):
                await one.say("device_add ne2k_pci,vlan=0")
            await one.say("device_add ne2k_isa,vlan=0")
            found = {m.name: m.what for m in one.instance.patchbay.members() if m.kind == "nic"}
            assert [(n.mac[5], n.slot) for n in found.values()] == [
                (0x56, 3), (0x57, 4), (0x58, 5), (0x59, 6), (0x5A, None),
            ]  # fmt: skip
            assert (found["ne2k_isa.0"].iobase, found["ne2k_isa.0"].irq) == (0x300, 9)
            await one.say("device_del ne2k_pci.1")
            await one.say("device_add rtl8139,vlan=0")
            again = one.instance.patchbay.find("rtl8139.0").what
            assert (again.mac[5], again.slot) == (0x57, 4)
            assert (await one.fails("device_add pcnet,vlan=0,addr=4")).endswith(
                "the slot is taken by -device rtl8139"
            )
            assert 'at = "PCI slot 0x4"' in await one.say("info cards")

    play(scene)


def test_tx_delay_reaches_the_card_wherever_it_is_plugged(tmp_path: Path) -> None:
    async def scene() -> None:
        async with lab(BUS, path=tmp_path / "bus") as one:
            for model in ("ne2k_pci", "ne2k_isa", "rtl8139", "rtl8139,rev=0x10", "pcnet"):
                for delay in ("wire", "none"):
                    await one.say(f"device_add {model},vlan=0,tx-delay={delay},id=bus")
                    assert one.instance.patchbay.find("bus").card.tx_delay == (delay == "wire")
                    await one.say("device_del bus")
                    await one.say(f"device_add {model},vlan=0,vfio-user={tmp_path}/s,tx-delay={delay},id=vm")
                    assert one.instance.patchbay.find("vm").card.tx_delay == (delay == "wire")
                    await one.say("device_del vm")

    play(scene)


def test_a_client_of_the_register_bus_sees_cards_come_and_go(tmp_path: Path) -> None:
    async def scene() -> None:
        async with lab(BUS, path=tmp_path / "bus") as one:
            machine, bus = one.instance.machine, one.instance.register_bus
            where = 0x80000000 | 4 << 11
            machine.io_write(0xCF8, 4, where)
            assert machine.io_read(0xCFC, 4) == 0xFFFFFFFF
            await one.say("device_add rtl8139,vlan=0,id=hot")
            assert machine.io_read(0xCFC, 4) == 0x813910EC
            assert bus.find("hot") is not None
            machine.io_write(0xCF8, 4, where | 0x10)
            machine.io_write(0xCFC, 4, 0xD000)
            machine.io_write(0xCF8, 4, where | 0x04)
            machine.io_write(0xCFC, 2, 0x5)
            mac = bytes(machine.io_read(0xD000 + at, 1) for at in range(6))
            assert mac == bytes.fromhex("525400123457")
            await one.say("device_del hot")
            assert machine.io_read(0xD000, 1) == 0xFF and bus.find("hot") is None
            machine.io_write(0xCF8, 4, where)
            assert machine.io_read(0xCFC, 4) == 0xFFFFFFFF
            assert one.heard("DEVICE_DELETED") == [{"device": "hot", "path": "/machine/peripheral/hot"}]

    play(scene)


def test_a_vfio_user_card_takes_its_socket_away(tmp_path: Path) -> None:
    async def scene() -> None:
        async with lab("-net none") as one:
            before = descriptors()
            path = tmp_path / "nic"
            await one.say(f"device_add rtl8139,vlan=0,id=v,vfio-user={path}")
            assert path.is_socket() and "(no client)" in await one.say("info cards")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                await until(lambda: "(no client)" not in one.hmp.execute("info cards").text)
                client.setblocking(False)
                assert await asked_of(client, wire.VERSION, vfio_kit.version())
                answer = await asked_of(client, wire.REGION_READ, wire.ACCESS.pack(0, wire.CONFIG_REGION, 4))
                assert answer[wire.ACCESS.size :] == bytes.fromhex("ec103981")
                await one.say("device_del v")
                assert not path.exists()
                assert await asyncio.get_running_loop().sock_recv(client, 100) == b""
            await until(lambda: descriptors() == before)

    play(scene)


async def asked_of(client: socket.socket, command: int, body: bytes) -> bytes:
    """A vfio-user request's answer."""
    loop = asyncio.get_running_loop()
    head = wire.HEADER.pack(1, command, wire.HEADER.size + len(body), 0, 0)
    await loop.sock_sendall(client, head + body)
    data = b""
    while len(data) < wire.HEADER.size or len(data) < wire.HEADER.unpack_from(data)[2]:
        data += await loop.sock_recv(client, 4096)
    assert wire.HEADER.unpack_from(data)[3:] == (wire.REPLY, 0)
    return data[wire.HEADER.size :]


def test_a_receive_filter_that_changes_is_told_once_until_somebody_asks(tmp_path: Path) -> None:
    async def scene() -> None:
        async with lab(BUS + " -M isapc", path=tmp_path / "bus") as one:
            machine = one.instance.machine

            def promiscuous(on: bool) -> None:
                machine.io_write(0x300, 1, 0x22)  # page 0, started
                machine.io_write(0x30C, 1, 0x14 if on else 0x04)  # RCR

            def told() -> list:
                return one.heard("NIC_RX_FILTER_CHANGED")

            promiscuous(True)
            await until(told)
            assert told() == [{"name": "ne2k_isa.0", "path": "/machine/peripheral/ne2k_isa.0"}]
            promiscuous(False)
            row = asked(one)
            assert row["unicast"] == "normal" and row["broadcast-allowed"] and row["x-tapnet-receiving"]
            promiscuous(True)
            await until(lambda: len(told()) == 2)
            assert asked(one)["unicast"] == "all"

    play(scene)


def asked(one: Lab) -> dict:
    from tapnet.monitor.commands import reports

    (row,) = reports.rx_filters(one.control)
    return row


def test_members_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from tapnet.instance import live

    monkeypatch.setattr(live, "MEMBERS_MAX", 3)

    async def scene() -> None:
        async with lab("-net nic -net user") as one:
            await one.say("netdev_add user,id=a,net=10.0.3.0/24")
            assert (await one.fails("netdev_add user,id=b")).endswith("more than 3 nets and cards")

    play(scene)


def test_a_card_without_a_name_gets_one_that_is_free(tmp_path: Path) -> None:
    async def scene() -> None:
        async with lab("-net user,name=rtl8139.0") as one:
            await one.say(f"device_add rtl8139,vlan=0,vfio-user={tmp_path}/x")
            assert one.instance.patchbay.find("rtl8139.1") is not None
            assert os.path.exists(tmp_path / "x")

    play(scene)


@pytest.mark.parametrize("words", ["socket,connect=127.0.0.1:{port}", "vde,sock={place}"])
def test_set_link_on_tries_at_once_though_the_cable_was_in(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause would be longer than the test."""
    init = Retry.__init__
    monkeypatch.setattr(
        Retry, "__init__", lambda self, *a, **k: init(self, *a, **k | {"first": 9e3, "last": 9e3})
    )

    async def scene() -> None:
        with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
            tcp.bind(("127.0.0.1", 0))
            async with lab("-net " + words, port=tcp.getsockname()[1], place=tmp_path) as one:
                (name,) = (device.name for device in one.instance.vlans[0])
                shown: list[str] = []

                async def again() -> bool:
                    shown.append(await one.say("info network"))
                    return "refused" in shown[-1] or "No such file" in shown[-1]

                while not await again():
                    await asyncio.sleep(0.002)
                tcp.listen()
                unix.bind(str(tmp_path / "ctl"))
                unix.listen()
                listening = tcp if "port" in words else unix
                listening.setblocking(False)
                await one.say(f"set_link {name} on")
                client, _ = await asyncio.get_running_loop().sock_accept(listening)
                client.close()

    play(scene)
