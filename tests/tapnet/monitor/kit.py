"""A fake instance for monitors: real ports on real hubs, no emulator behind."""

from __future__ import annotations

from dataclasses import dataclass, field

from tapnet.backends.user.report import FlowRow, ForwardRow, GuestForwardRow
from tapnet.capture.tracing import Tracer
from tapnet.config import GuestForward, HostForward
from tapnet.errors import NotFound
from tapnet.instance.live import parse
from tapnet.vlan.events import Events
from tapnet.vlan.hub import Hub
from tapnet.vlan.patchbay import ACCEPTED, BACKEND, NIC, Patchbay
from tapnet.vlan.port import Port
from tests.tapnet.hub_kit import Loop


@dataclass(eq=False)
class FakeDevice:
    name: str
    kind: str
    info: str
    port: Port | None = None


@dataclass
class FakeNat:
    """Keeps rules; port 0 becomes 40000, port 99 is in use."""

    name: str
    vlan: int | None
    flows: list[FlowRow] = field(default_factory=list)
    access: list[dict[str, object]] = field(default_factory=list)
    rules: dict[int, HostForward] = field(default_factory=dict)
    last: int = 0
    services: dict[int, GuestForward] = field(default_factory=dict)

    def rows(self) -> list[FlowRow]:
        return self.flows

    def add_forward(self, forward: HostForward) -> int:
        if getattr(forward.listen, "port", 0) == 99:
            raise ValueError("cannot listen on 0.0.0.0:99: Address already in use")
        self.last += 1
        self.rules[self.last] = forward
        return self.last

    def remove_forward(self, number: int) -> bool:
        return self.rules.pop(number, None) is not None

    def forwards(self) -> list[ForwardRow]:
        return [ForwardRow(n, f, getattr(f.listen, "port", 0) or 40000) for n, f in self.rules.items()]

    def leases(self) -> list[dict[str, object]]:
        lease = {"address": "10.0.2.15", "mac": "52:54:00:12:34:56", "state": "bound", "hostname": "web"}
        return [{**lease, "client_id": "01", "expires": 60.0}]

    def counters(self) -> dict[str, object]:
        return {"ip": {}, "tcp": {}}

    def add_guest_forward(self, forward: GuestForward) -> int:
        if forward.port == 99:
            raise ValueError("tcp port 99 of 10.0.2.4 is taken")
        self.last += 1
        self.services[self.last] = forward
        return self.last

    def remove_guest_forward(self, number: int) -> bool:
        return self.services.pop(number, None) is not None

    def guest_forwards(self) -> list[GuestForwardRow]:
        return [GuestForwardRow(n, f, str(f.address or "10.0.2.4")) for n, f in self.services.items()]

    def filters(self) -> list[dict[str, object]]:
        return self.access


class FakeLive:
    """Reads what it is given as the real one does, and keeps it."""

    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []

    def host_net_add(self, value: object) -> None:
        self.done.append(("net", parse("net", value).kind))

    def netdev_add(self, value: object) -> None:
        self.done.append(("netdev", parse("netdev", value).kind))

    def device_add(self, value: object) -> None:
        self.done.append(("device", parse("device", value).given.get("model")))

    def host_net_remove(self, vlan: int, name: str) -> None:
        self.done.append(("del", vlan, name))

    def netdev_del(self, label: str) -> None:
        raise NotFound(label)

    device_del = netdev_del


class FakeWatch:
    def asked(self, name: str | None) -> None:
        pass


@dataclass
class FakeInstance:
    name: str = "lab"
    pid: int = 4711
    mode: str | None = None
    status: str = "running"
    vlans: dict[int, list[FakeDevice]] = field(default_factory=dict)
    wires: list[list[FakeDevice]] = field(default_factory=list)
    usernets: list[FakeNat] = field(default_factory=list)
    events: Events = field(default_factory=lambda: Events(lambda: 1_000_000_000.25))
    ended: int = 0
    tracer: Tracer = field(default_factory=Tracer)
    patchbay: Patchbay = field(
        default_factory=lambda: Patchbay(lambda _: None, Events(lambda: 0.0), lambda: 0)
    )
    live: FakeLive = field(default_factory=FakeLive)
    filter_watch: FakeWatch = field(default_factory=FakeWatch)

    def shutdown(self) -> None:
        self.ended += 1


def plugged(hub: Hub, name: str, kind: str, info: str) -> FakeDevice:
    port = Port(name, lambda _frame, _vnet: True)
    hub.add(port)
    return FakeDevice(name, kind, info, port)


def seed_instance() -> tuple[Loop, FakeInstance]:
    """VLAN 0: card given before the NAT. VLAN 1: a listener with one client. A private wire."""
    loop = Loop()
    zero, one, wire = Hub(0, loop), Hub(1, loop), Hub(-1, loop, private=True)
    instance = FakeInstance()
    instance.vlans[1] = [
        plugged(one, "c0", ACCEPTED, "socket: connection from 127.0.0.1:1472"),
        FakeDevice("socket.0", BACKEND, ""),
        plugged(one, "ne2k_isa.0", NIC, "ne2000 macaddr=52:54:00:12:34:57"),
    ]
    instance.vlans[0] = [
        plugged(zero, "ne2k_pci.0", NIC, "ne2000 pci macaddr=52:54:00:12:34:56"),
        plugged(zero, "user.0", BACKEND, "user redirector"),
        plugged(zero, "tap.0", BACKEND, "tap: ifname=tap0 setup_script=/etc/qemu-ifup"),
    ]
    instance.wires.append(
        [
            plugged(wire, "t1", BACKEND, "tap: fd=5"),
            plugged(wire, "rtl8139.0", NIC, "rtl8139 pci macaddr=52:54:00:12:34:58"),
        ]
    )
    instance.usernets = [FakeNat("user.0", 0), FakeNat("u1", None)]
    return loop, instance
