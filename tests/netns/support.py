"""What the namespace tests share: a loop with a hub, guests on it, and commands run in them."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from nic_models.bus.machine import Machine
from nic_models.models import plug
from tapnet.guest.board import Board
from tapnet.guest.drivers import DRIVERS
from tapnet.guest.namespace.attach import DirectAttachment, RegisterAttachment
from tapnet.guest.namespace.guest import NamespaceGuest, NicSpec
from tapnet.vlan.hub import Hub
from tapnet.vlan.port import Port
from tests.waiting import BOUND_S
from tests.waiting import until as until_sync
from tests.waiting import until_async as until

__all__ = ["until", "until_sync"]  # among what is defined here


def mac(number: int) -> bytes:
    return bytes((0x52, 0x54, 0, 0x12, 0x34, number))


@dataclass
class Member:
    """One guest on the wire."""

    guest: NamespaceGuest
    attachment: Any = None
    port: Port | None = None
    status: asyncio.Future[int] | None = None
    leases: list[Any] = field(default_factory=list)


class Wire:
    """A hub with guests, inside one running loop. Guests are made before: ``spawn``."""

    def __init__(self, guests: Sequence[NamespaceGuest]) -> None:
        self.loop = asyncio.get_running_loop()
        self.hub = Hub(0, self.loop.call_soon)
        self.members: list[Member] = []
        self.boards: list[Board] = []
        for guest in guests:
            member = Member(guest, status=self.loop.create_future())
            guest.watch(
                self.loop,
                on_exit=lambda status, m=member: m.status.done() or m.status.set_result(status),
                on_lease=lambda ifname, lease, m=member: m.leases.append(lease),
            )
            self.members.append(member)

    def direct(self, number: int, device: int = 0) -> DirectAttachment:
        member = self.members[number]
        attachment = DirectAttachment(self.loop, member.guest.devices[device], f"g{number}.{device}")
        self.hub.add(attachment.port)
        attachment.start()
        member.attachment, member.port = attachment, attachment.port
        return attachment

    def card(self, number: int, model: str = "ne2k_pci", device: int = 0) -> RegisterAttachment:
        member = self.members[number]
        machine = Machine("isapc" if model.endswith("isa") else "pc", now=time.monotonic_ns)
        board = Board(self.loop, machine)
        port = Port(f"g{number}.{device}", lambda frame, vnet: slot.receive(frame, vnet))
        slot = plug(machine, model, member.guest.nics[device].mac, port.send, port.flush)
        port.ready = slot.tx_ready
        port.on_link = lambda up: (slot.card.set_link(up), attachment.set_link(up))
        self.hub.add(port)
        machine.boot()
        attachment = RegisterAttachment(
            self.loop, member.guest.devices[device], board, DRIVERS[model], slot.location
        )
        attachment.start()
        self.boards.append(board)
        member.attachment, member.port = attachment, port
        return attachment

    async def run(self, number: int, command: str, *, seconds: float = BOUND_S) -> int:
        """Run a shell command as the guest's COMMAND; its status."""
        member = self.members[number]
        assert member.status is not None
        member.guest.start(["sh", "-c", command])
        return await asyncio.wait_for(member.status, seconds)

    def start(self, number: int, command: str) -> None:
        """Run a shell command that serves until the end."""
        self.members[number].guest.start(["sh", "-c", command])

    def close(self) -> None:
        for member in self.members:
            if member.attachment is not None:
                member.attachment.close()
        for board in self.boards:
            board.close()


def play(
    specs: Sequence[Sequence[NicSpec]],
    scene: Callable[[Wire], Awaitable[Any]],
    *,
    kind: str = "auto",
    **options: Any,
) -> Any:
    """Make guests, run ``scene`` on a fresh loop with them, end them. ``kind`` may name a loop: veth/uvloop."""
    kind, _, loop = kind.partition("/")
    guests: list[NamespaceGuest] = []
    try:
        for nics in specs:
            guests.append(NamespaceGuest.spawn(nics, kind=kind, **options))

        async def main() -> Any:
            wire = Wire(guests)
            try:
                return await scene(wire)
            finally:
                wire.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
            return runner.run(main())
    finally:
        for guest in guests:
            guest.close()


def dnsmasq(subnet: str, lease: str = "10m", extra: str = "") -> str:
    """Shell words that serve DHCP on eth0, which gets SUBNET.1."""
    return (
        f"ip addr add {subnet}.1/24 dev eth0; exec dnsmasq --no-daemon --user=root --port=0 --no-ping "
        f"--dhcp-range={subnet}.50,{subnet}.60,{lease} --dhcp-authoritative --interface=eth0 "
        f"--bind-interfaces --leasefile-ro --conf-file=/dev/null {extra} >/dev/null 2>&1"
    )


def nic(number: int, *, ifname: str = "eth0", mtu: int = 1500, dhcp: bool = False) -> NicSpec:
    return NicSpec(ifname, mac(number), mtu, dhcp)


def sh(command: str, *, check: bool = True, timeout: float = BOUND_S) -> str:
    """Run a command on the host; its output."""
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


# What a new network namespace takes over from the machine's (net.core.devconf_inherit_init_net), as the kernel has it.
FRESH = {
    "ipv4": {
        "forwarding": 0, "rp_filter": 0, "accept_local": 0, "accept_redirects": 1, "secure_redirects": 1,
        "send_redirects": 1, "shared_media": 1, "accept_source_route": 0, "arp_accept": 0, "arp_announce": 0,
        "arp_filter": 0, "arp_ignore": 0, "arp_notify": 0, "ignore_routes_with_linkdown": 0, "log_martians": 0,
        "promote_secondaries": 0, "proxy_arp": 0, "route_localnet": 0, "src_valid_mark": 0,
    },
    "ipv6": {
        "disable_ipv6": 0, "forwarding": 0, "accept_ra": 1, "accept_redirects": 1, "addr_gen_mode": 0, "autoconf": 1,
        "use_tempaddr": 0, "proxy_ndp": 0, "ignore_routes_with_linkdown": 0,
    },
}  # fmt: skip


def fresh(name: str) -> None:
    """Give a new network namespace the kernel's own settings: a host that routes, say, hands on that it does."""
    words = [
        f"net.{family}.conf.{place}.{key}={value}"
        for family, keys in FRESH.items()
        for key, value in keys.items()
        for place in ("all", "default")
    ]
    sh(f"ip netns exec {name} sysctl -e -qw {' '.join(words)}")


def processes(marker: str) -> list[int]:
    """Pids whose command line contains ``marker``."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal() and int(path.name) != os.getpid():
            try:
                line = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in line:
                found.append(int(path.name))
    return found
