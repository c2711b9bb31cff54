"""Kernel devices and attachments: two network namespaces, a hub, real TCP between them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tapnet.guest.namespace.links import QUEUE_CARD, QUEUE_DIRECT
from tapnet.vlan.port import Port
from tests.netns.support import Wire, dnsmasq, nic, play, sh, until

SETUP = "ip addr add 10.9.0.{}/24 dev eth0; sysctl -qw net.ipv6.conf.all.disable_ipv6=1; "


def wget(tmp_path: Path, size: int) -> tuple[str, str, Path, str]:
    """Commands of a server and a client that fetches ``size`` bytes, where they go, their hash."""
    source, got = tmp_path / "source", tmp_path / "got"
    source.write_bytes(bytes(range(256)) * (size // 256))
    serve = SETUP.format(1) + f"exec nc -l -N -p 5000 < {source}"
    fetch = (
        SETUP.format(2)
        + f"for i in $(seq 100); do nc -d -w 20 10.9.0.1 5000 > {got} && exit 0; sleep 0.05; done; exit 1"
    )
    return serve, fetch, got, hashlib.sha256(source.read_bytes()).hexdigest()


@pytest.mark.parametrize("mtu", [1500, 65520])
def test_direct_carries_super_frames(kind: str, tmp_path: Path, mtu: int) -> None:
    serve, fetch, got, digest = wget(tmp_path, 8 << 20)

    async def scene(wire: Wire) -> None:
        wire.direct(0)
        wire.direct(1)
        wire.start(0, serve)
        assert await wire.run(1, fetch) == 0
        counters = wire.members[0].port.counters
        assert counters.tx_bytes > 8 << 20
        assert counters.tx_bytes / counters.tx_frames > 8000, "no super-frames"

    play([[nic(1, mtu=mtu)], [nic(2, mtu=mtu)]], scene, kind=kind)
    assert hashlib.sha256(got.read_bytes()).hexdigest() == digest


def test_super_frames_are_cut_for_a_member_without_offload(kind: str, tmp_path: Path) -> None:
    """A third member that takes nothing withdraws the offer; what is in flight is completed in the hub."""
    serve, fetch, got, digest = wget(tmp_path, 64 << 20)
    seen: list[int] = []

    async def scene(wire: Wire) -> None:
        wire.direct(0)
        wire.direct(1)
        plain = Port("plain", lambda frame, vnet: (seen.append(len(frame)), vnet == b"")[1])
        wire.start(0, serve)
        wire.start(1, fetch)
        await until(lambda: wire.members[0].port.counters.tx_bytes > 100_000, "first bytes")
        wire.hub.add(plain)
        assert await wire.members[1].status == 0

    play([[nic(1)], [nic(2)]], scene, kind=kind)
    assert hashlib.sha256(got.read_bytes()).hexdigest() == digest
    assert seen and max(seen) <= 1514


@pytest.mark.parametrize("model", ["ne2k_pci", "ne2k_isa"])
def test_every_frame_goes_through_the_registers(kind: str, tmp_path: Path, model: str) -> None:
    serve, fetch, got, digest = wget(tmp_path, 1 << 20)

    async def scene(wire: Wire) -> None:
        wire.direct(0)
        attachment = wire.card(1, model)
        wire.start(0, serve)
        assert await wire.run(1, fetch) == 0
        counters = wire.members[1].port.counters
        driver = attachment.driver.counters
        await until(
            lambda: (driver["tx_frames"], driver["rx_frames"]) == (counters.tx_frames, counters.rx_frames),
            "the driver has seen every frame",
            5,
        )
        assert driver["rx_frames"] > (1 << 20) // 1500

    play([[nic(1)], [nic(2)]], scene, kind=kind)
    assert hashlib.sha256(got.read_bytes()).hexdigest() == digest


def test_register_card_sends_what_the_kernel_left_owed(kind: str, tmp_path: Path) -> None:
    """The other direction, with a device that (veth) hands over partial checksums unasked."""
    serve, fetch, got, digest = wget(tmp_path, 1 << 20)

    async def scene(wire: Wire) -> None:
        wire.card(0)
        wire.direct(1)
        wire.start(0, serve)
        assert await wire.run(1, fetch) == 0

    play([[nic(1)], [nic(2)]], scene, kind=kind)
    assert hashlib.sha256(got.read_bytes()).hexdigest() == digest


def sender(tmp_path: Path, frame: bytes, count: int) -> str:
    """A command that sends ``frame`` from eth0 ``count`` times."""
    script = tmp_path / "send.py"
    script.write_text(
        "import socket\n"
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n"
        's.bind(("eth0", 0))\n'
        f'for _ in range({count}): s.send(bytes.fromhex("{frame.hex()}"))\n'
    )
    return f"python3 {script}"


def test_vlan_tags_survive(kind: str, tmp_path: Path) -> None:
    """The kernel takes the tag out of what AF_PACKET delivers; it must be on the wire."""
    frame = b"\xff" * 6 + nic(1).mac + b"\x81\x00\x00\x05\x88\xb5" + bytes(range(100))

    async def scene(wire: Wire) -> None:
        wire.direct(0)
        frames: list[bytes] = []
        wire.hub.add(Port("tagged", lambda got, vnet: (frames.append(got), True)[1]))
        assert await wire.run(0, sender(tmp_path, frame, 3)) == 0
        await until(lambda: frames.count(frame) == 3, f"three tagged frames, not {frames}")

    play([[nic(1)]], scene, kind=kind)


def test_lease_and_again_after_the_cable_was_out(kind: str) -> None:
    async def scene(wire: Wire) -> None:
        wire.direct(0)
        wire.direct(1)
        wire.start(0, dnsmasq("10.9.1", extra="--dhcp-option=6,10.9.1.1 --domain=x.example"))
        member = wire.members[1]
        await member.guest.leased(10)
        lease = member.leases[0]
        assert lease["address"].startswith("10.9.1.") and lease["prefix"] == 24
        assert lease["routers"] == ["10.9.1.1"] and lease["domain"] == "x.example"
        member.port.set_link(False)
        pid = member.guest.pid
        await until(lambda: "NO-CARRIER" in sh(f"nsenter -t {pid} -n ip link show eth0"), "no carrier")
        member.port.set_link(True)
        await until(lambda: len(member.leases) >= 2, "a lease after the blink")
        check = (
            "ip route get 192.0.2.1 | grep -q 'via 10.9.1.1' "
            "&& grep -q 'nameserver 10.9.1.1' /etc/resolv.conf "
            "&& grep -q 'search x.example' /etc/resolv.conf && ping -c 1 -w 30 10.9.1.1"
        )
        assert await wire.run(1, check) == 0

    play([[nic(1)], [nic(2, dhcp=True)]], scene, kind=kind)


def test_carrier_follows_the_port(kind: str) -> None:
    async def scene(wire: Wire) -> None:
        wire.direct(0)
        member = wire.members[0]
        show = f"nsenter -t {member.guest.pid} -n ip link show eth0"
        member.port.set_link(False)
        await until(lambda: "NO-CARRIER" in sh(show), "carrier lost")
        member.port.set_link(True)
        await until(lambda: "NO-CARRIER" not in sh(show), "carrier back")

    play([[nic(1)]], scene, kind=kind)


def test_renewals_keep_the_address(tmp_path: Path) -> None:
    """A server whose leases last four seconds."""
    config = tmp_path / "udhcpd.conf"
    config.write_text(
        "start 10.9.2.50\nend 10.9.2.60\ninterface eth0\n"
        f"lease_file {tmp_path}/leases\npidfile {tmp_path}/pid\n"
        "min_lease 2\noption lease 4\noption subnet 255.255.255.0\noption router 10.9.2.1\n"
    )
    (tmp_path / "leases").touch()

    async def scene(wire: Wire) -> None:
        wire.direct(0)
        wire.direct(1)
        wire.start(0, f"ip addr add 10.9.2.1/24 dev eth0; exec busybox udhcpd -f {config} 2>/dev/null")
        member = wire.members[1]
        await member.guest.leased(10)
        await until(lambda: len(member.leases) >= 3, "two renewals")
        assert {lease and lease["address"] for lease in member.leases} == {member.leases[0]["address"]}

    play([[nic(1)], [nic(2, dhcp=True)]], scene)


def test_full_hub_holds_the_sender_and_loses_nothing(kind: str, tmp_path: Path) -> None:
    """A receiver that takes nothing for a while: frames wait in the kernel's queue of the device."""
    count = 150
    frame = b"\xff" * 6 + nic(1).mac + b"\x88\xb5" + bytes(1000)
    taken: list[bytes] = []
    gate = {"open": False}

    async def scene(wire: Wire) -> None:
        attachment = wire.direct(0)

        def receive(got: bytes, vnet: bytes) -> bool:
            if gate["open"]:
                taken.append(got)
            return gate["open"]

        slow = Port("slow", receive, queue_frames=16)
        wire.hub.add(slow)
        assert await wire.run(0, sender(tmp_path, frame, count)) == 0
        await until(lambda: attachment.held is not None, "sender held back")
        gate["open"] = True
        slow.flush()
        await until(lambda: taken.count(frame) == count, f"all {count} frames")
        assert slow.counters.drops == {}

    play([[nic(1)]], scene, kind=kind)


def test_what_a_device_without_a_reader_loses_is_told(tmp_path: Path) -> None:
    """Where the kernel counts for us (AF_PACKET), once and for good."""
    frame = b"\xff" * 6 + nic(1).mac + b"\x88\xb5" + bytes(1400)

    async def scene(wire: Wire) -> None:
        device = wire.members[0].guest.devices[0]
        assert device.overflow() == 0
        assert await wire.run(0, sender(tmp_path, frame, 20_000)) == 0
        first = device.overflow()
        assert first > 0 and device.overflow() == first

    play([[nic(1)]], scene, kind="veth")


@pytest.mark.parametrize(("direct", "frames"), [(False, QUEUE_CARD), (True, QUEUE_DIRECT)])
def test_the_queue_of_a_device_without_a_card_holds_a_whole_window(direct: bool, frames: int) -> None:
    async def scene(wire: Wire) -> None:
        assert await wire.run(0, f"ip link show eth0 | grep -q 'qlen {frames}$'") == 0

    play([[replace(nic(1), direct=direct)]], scene, kind="tap")
