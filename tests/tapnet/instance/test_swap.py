"""Swapping modes: what is planned, whose link blinks, who is told; real hubs and NATs, a TAP that is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tapnet.backends.tap import backend as tap
from tapnet.backends.tap import opening as tap_open
from tapnet.config import TapNet
from tapnet.errors import ControlError
from tapnet.guest import cards
from tapnet.guest.cards import BLINK, BLINK_DRIVER, blink
from tapnet.guest.prepare import prepare
from tapnet.instance.instance import Instance
from tapnet.options import parse as options
from tapnet.vlan.port import Port


class FakeOpen:
    """Stands for an OpenTap."""

    def close(self) -> None:
        pass


class FakeTap:
    """Stands for a TapBackend: a port, and what was called."""

    seen: list[str] = []

    def __init__(self, net: TapNet, loop: object, opened: object = None) -> None:
        self.net = net
        self.port = Port(net.name, lambda frame, vnet: True)

    def start(self) -> None:
        self.seen.append(f"start {self.net.name}")

    def detach(self) -> None:
        self.seen.append(f"detach {self.net.name}")

    def finish(self) -> None:
        self.seen.append(f"finish {self.net.name}")

    def info_line(self) -> str:
        return f"tap: ifname={self.net.ifname}"


@pytest.fixture
def taps(monkeypatch: pytest.MonkeyPatch) -> type[FakeTap]:
    """TAPs are fakes; ifname=bad cannot be opened."""

    def open_(net: TapNet) -> FakeOpen:
        if net.ifname == "bad":
            raise tap_open.TapError("ifname=bad: is not to be had")
        return FakeOpen()

    FakeTap.seen = []
    monkeypatch.setattr(tap, "open_tap", open_)
    monkeypatch.setattr(tap, "OpenTap", FakeOpen)
    monkeypatch.setattr(tap, "TapBackend", FakeTap)
    monkeypatch.setattr(cards, "BLINK_DRIVER", 0.01)
    return FakeTap


def play(words: str, scene: Callable[[Instance], Awaitable[Any]]) -> None:
    async def main() -> None:
        config = options.parse(words.split(), "run", {})
        prepared = prepare(config)
        loop = asyncio.get_running_loop()
        instance = Instance(config, prepared, loop, time.monotonic_ns, lambda: None)
        try:
            instance.start()
            await asyncio.wait_for(scene(instance), 60)
        finally:
            instance.close()

    asyncio.run(main())


def plugged(instance: Instance) -> dict[int, list[str]]:
    return {n: sorted(m.name for m in ms if m.kind == "backend") for n, ms in instance.vlans.items()}


NIC = "-net nic,model=rtl8139 "


def test_there_and_back(taps: type[FakeTap]) -> None:
    async def scene(instance: Instance) -> None:
        nat = instance.usernets[0]
        assert {n: [m.name for m in ms] for n, ms in (await instance.set_mode("tap")).items()} == {
            0: ["tap.0"]
        }
        assert (plugged(instance), instance.mode, instance.usernets) == ({0: ["tap.0"]}, "tap", [])
        assert nat.stack.tcp is not None and nat._closed
        await instance.set_mode("user")
        assert (plugged(instance), instance.mode) == ({0: ["user.0"]}, "user")
        assert taps.seen == ["start tap.0", "detach tap.0", "finish tap.0"]
        assert [net.name for net in instance.parked] == ["tap.0"]

    play(NIC + "-net user -net tap,ifname=t0 --mode user", scene)


def test_one_vlan_of_two_and_defaults(taps: type[FakeTap]) -> None:
    async def scene(instance: Instance) -> None:
        await instance.set_mode("tap", 1)
        assert (plugged(instance), instance.mode) == ({0: ["user.0"], 1: ["tap.0"], 2: ["dgram.0"]}, None)
        await instance.set_mode("tap")
        assert (plugged(instance), instance.mode) == ({0: ["tap.1"], 1: ["tap.0"], 2: ["dgram.0"]}, "tap")
        tap0 = next(m for m in instance.vlans[0] if m.name == "tap.1")
        assert isinstance(tap0.net, TapNet) and tap0.net.br == "br0"

    play(
        NIC + "-net user " + "-net nic,vlan=1 -net user,vlan=1 "
        "-net nic,vlan=2 -net dgram,vlan=2,local.type=inet,local.host=127.0.0.1,local.port=0,"
        "remote.type=inet,remote.host=127.0.0.1,remote.port=9",
        scene,
    )


def test_with_both_plugged_the_other_goes(taps: type[FakeTap]) -> None:
    async def scene(instance: Instance) -> None:
        assert plugged(instance) == {0: ["tap.0", "user.0"]} and instance.mode is None
        await instance.set_mode("user")
        assert plugged(instance) == {0: ["user.0"]} and instance.mode == "user"

    play(NIC + "-net user -net tap,ifname=t0", scene)


@pytest.mark.parametrize(
    ("words", "vlan", "why"),
    [
        ("-net user -net tap,ifname=bad --mode user", None, "-net tap: ifname=bad: is not to be had"),
        ("-net user", 7, "VLAN 7: there is no such VLAN"),
        ("-net socket,mcast=230.0.0.9:9009", 0, "VLAN 0 has neither NAT nor TAP that could be swapped"),
        ("-net socket,mcast=230.0.0.9:9009", None, "no VLAN has a NAT or a TAP that could be swapped"),
    ],
)
def test_what_cannot_be_changes_nothing(taps: type[FakeTap], words: str, vlan: int | None, why: str) -> None:
    async def scene(instance: Instance) -> None:
        before = plugged(instance), instance.mode, list(instance.parked)
        card = instance.vlans[0][0].port
        with pytest.raises(ControlError) as caught:
            await instance.set_mode("tap", vlan)
        assert str(caught.value) == why
        assert (plugged(instance), instance.mode, instance.parked) == before
        assert card is not None and card.link

    play(NIC + words, scene)


def test_links_blink_but_for_those_that_were_pulled(taps: type[FakeTap]) -> None:
    async def scene(instance: Instance) -> None:
        ports = {m.name: m.port for m in instance.vlans[0] if m.kind == "nic"}
        seen: list[tuple[str, bool]] = []
        for name, port in ports.items():
            assert port is not None
            port.on_link = lambda up, name=name: seen.append((name, up))
        ports["out"].set_link(False)
        seen.clear()
        await instance.set_mode("tap")
        await instance.set_mode("user")  # while the link is down: it stays so a little longer
        assert seen == [("in", False)]
        while not ports["in"].link:
            await asyncio.sleep(0.005)
        assert seen == [("in", False), ("in", True)]
        assert not ports["out"].link and ports["ne"].link, "pulled by somebody; without a link bit"

    play(
        "-net nic,model=rtl8139,name=in -net nic,model=pcnet,name=out -net nic,model=ne2k_pci,name=ne "
        "-net user -net tap,ifname=t0 --mode user",
        scene,
    )


def test_the_nat_speaks_again_once_the_links_are_up(
    taps: type[FakeTap], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says at its start meets links that are down: without another word guests wait for the next advertisement."""
    told: list[bool] = []

    async def scene(instance: Instance) -> None:
        (port,) = (m.port for m in instance.vlans[0] if m.kind == "nic")
        assert port is not None
        monkeypatch.setattr("slirp.stack.Stack.announce", lambda stack: told.append(port.link))
        await instance.set_mode("user")
        while len(told) < 2:
            await asyncio.sleep(0.005)
        assert told[-1], "behind the blink"

    play(NIC + "-net user -net tap,ifname=t0 --mode tap", scene)


def test_two_at_once_go_one_after_the_other(taps: type[FakeTap]) -> None:
    async def scene(instance: Instance) -> None:
        await asyncio.gather(*(instance.set_mode(mode) for mode in ("tap", "user", "tap", "user", "tap")))
        assert plugged(instance) == {0: ["tap.0"]}
        assert len(instance.hubs[0].ports) == 2 and instance.swap.watches == []

    play(NIC + "-net user -net tap,ifname=t0 --mode user", scene)


def test_who_keeps_a_lease_is_watched_for_until_the_end(taps: type[FakeTap]) -> None:
    """The farewell ends with the next swap, and with the instance."""

    async def scene(instance: Instance) -> None:
        leases = instance.usernets[0].stack.dhcp.leases
        mac = b"RT\0\x12\x34\x56"
        lease = leases.claim(b"\1" + mac, mac, bytes((10, 0, 2, 15)), time.monotonic_ns())
        assert lease is not None
        leases.bind(lease, 120, time.monotonic_ns())
        await instance.set_mode("tap")
        hub = instance.hubs[0]
        assert len(instance.swap.watches) == 1 and hub.traces == instance.swap.watches
        card = next(m for m in instance.vlans[0] if m.kind == "nic").port
        assert card is not None
        got: list[bytes] = []
        card.receive = lambda frame, vnet: not got.append(frame)  # type: ignore[func-returns-value]
        card.set_link(True)
        ask = b"\xff" * 6 + mac + b"\x08\x06" + b"\0\1\x08\0\6\4\0\1" + mac + bytes((10, 0, 2, 15)) + bytes(6)
        card.send(ask + bytes((10, 0, 2, 2)))
        while not got:
            await asyncio.sleep(0.001)
        assert got[0][:12] == mac + b"RU\n\0\2\2" and len(got) == 1, "for this card alone"
        await instance.set_mode("user")
        assert instance.swap.watches == [] == hub.traces

    play(NIC + "-net user -net tap,ifname=t0 --mode user", scene)


def test_how_long() -> None:
    assert blink("ne2k_pci", True) == blink("rtl8139", True) == BLINK > 1
    assert blink("ne2k_isa", False) == 0 and blink("pcnet", False) == BLINK_DRIVER > 2
