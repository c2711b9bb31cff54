"""Unmodified Linux drivers in real VMs on our cards, by vfio-user, behind our hub and NAT.

One VM per driver for all of its tests, in order: the last ones reboot it, kill it and start tapnet anew. A test
by itself works too: what it needs is brought up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.guests import vm
from tests.guests.scene import DRIVERS, LEASE, MAC, Driver, Scene

PINGS, MANY_PINGS = 500, 10_000
IRQS_PER_PING = 6  # request out, answer in, and what a level that drops late costs
IDLE_IRQS = 10  # in two seconds without traffic; 8139too and pcnet32 look at their link


@pytest.fixture(scope="module", params=DRIVERS, ids=lambda driver: driver.name)
def scene(request: pytest.FixtureRequest, host: vm.Host) -> Iterator[Scene]:
    driver: Driver = request.param
    with vm.lab() as lab:
        yield Scene(lab, host, driver)


@pytest.fixture
def up(scene: Scene) -> Scene:
    """With a lease."""
    scene.up()
    return scene


def test_probe_says_what_it_says_on_real_hardware(scene: Scene) -> None:
    scene.vm.run(scene.driver.load)
    said = scene.vm.run("dmesg")
    assert re.search(scene.driver.probe, said), said[-2000:]
    assert scene.vm.run("cat /sys/class/net/eth0/address").strip() == MAC


def test_lease(scene: Scene) -> None:
    scene.vm.run(f"[ -d /sys/class/net/eth0 ] || {{ {scene.driver.load}; }}")
    said = scene.vm.run(f"ip link set eth0 up; {LEASE}")
    assert "lease 10.0.2.15/24 router 10.0.2.2 dns 10.0.2.3" in said
    assert "10.0.2.15/24" in scene.vm.run("ip addr show eth0")


@pytest.mark.parametrize("size", [0, 56, 1472])
def test_ping(up: Scene, size: int) -> None:
    said = up.ping(size=size)
    assert said.count("ttl=255") >= 3


def test_names(up: Scene) -> None:
    said = up.vm.run("nslookup guest.tapnet.test 10.0.2.3")
    assert vm.Host.ADDRESS in said
    assert "guest.tapnet.test" in up.host.names


def test_transfer(up: Scene) -> None:
    up.download(up.driver.size)
    up.upload(up.driver.size)


def test_ipv6(up: Scene) -> None:
    """The kernel configures itself by what the router advertises; ping, a name and a page by IPv6."""
    up.vm.run(
        "i=0; until ip -6 addr show dev eth0 | grep fec0::5054:ff:fe12:3456/64 | grep -qv tentative; do "
        "i=$((i+1)); [ $i -lt 300 ] || exit 1; sleep 0.1; done"
    )
    up.vm.run(LEASE)
    assert "fec0::5054:ff:fe12:3456/64" in up.vm.run("ip -6 addr show dev eth0"), "a lease leaves IPv6 alone"
    assert "default via fe80::2" in up.vm.run("ip -6 route")
    assert "3 packets received" in up.vm.run("ping6 -c 3 -W 10 fec0::2")
    assert vm.Host.ADDRESS in up.vm.run("nslookup guest6.tapnet.test fec0::3")
    up.download(up.driver.size // 4, family=6)


def flood(scene: Scene, count: int) -> None:
    before = scene.interrupts()
    scene.ping(count=count)
    taken = scene.interrupts() - before
    assert count / 4 <= taken <= IRQS_PER_PING * count, f"{taken} interrupts for {count} pings"
    before = scene.interrupts()
    scene.vm.run("sleep 2")
    idle = scene.interrupts() - before
    assert idle <= IDLE_IRQS, f"{idle} interrupts while nothing happened"
    scene.quiet()


def test_flood_loses_nothing_and_interrupts_are_sane(up: Scene) -> None:
    flood(up, PINGS)


@pytest.mark.slow
def test_long_flood(up: Scene) -> None:
    flood(up, MANY_PINGS)


def test_interface_down_and_up(up: Scene) -> None:
    for _ in range(3):
        up.vm.run("ip link set eth0 down; ip link set eth0 up")
    up.vm.run("ip addr flush dev eth0; ip link set eth0 down")
    assert up.vm.status("timeout 4 ping -A -c 2 -W 1 10.0.2.2") != 0
    up.up()
    up.ping()


def carrier(scene: Scene, wanted: int) -> None:
    """Wait until the driver has seen it (pcnet32 looks every two seconds)."""
    scene.vm.run(
        f"i=0; until [ $(cat /sys/class/net/eth0/carrier) = {wanted} ]; do "
        "i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.1; done"
    )


def test_link(up: Scene) -> None:
    """A pulled cable: the driver sees it; an NE2000 has nothing to see it by, its frames are counted."""
    card = up.driver.card
    up.tapnet.monitor("set_link", card, "off")
    try:
        if up.driver.carrier:
            carrier(up, 0)
        assert up.vm.status("timeout 4 ping -A -c 2 -W 1 10.0.2.2") != 0
        if not up.driver.carrier:
            assert up.vm.run("cat /sys/class/net/eth0/carrier").strip() == "1"
            said = up.tapnet.monitor("info", "network", "-v")
            assert re.search(r"the card counted .*tx_link=[1-9]", said), said
    finally:
        up.tapnet.monitor("set_link", card, "on")
    if up.driver.carrier:
        carrier(up, 1)
    up.reachable()
    up.ping()


def test_module_removed_and_inserted(up: Scene) -> None:
    for _ in range(2):
        up.vm.run(f"rmmod {up.driver.modules[-1].replace('-', '_')}")
        assert up.vm.status("[ -d /sys/class/net/eth0 ]") != 0
        up.vm.run(f"insmod /lib/m/{up.driver.modules[-1]}.ko")
    up.up()
    up.ping()
    up.quiet()


def test_guest_reboots(up: Scene) -> None:
    up.vm.write("reboot -f\n")
    up.vm.booted()
    up.up()
    up.ping()


def test_tapnet_is_killed_and_started_while_the_vm_is_booted_anew(up: Scene) -> None:
    up.tapnet.kill()
    try:
        assert (
            up.vm.status("timeout 4 ping -A -c 2 -W 1 10.0.2.2") != 0
        )  # the guest lives on, its card is dead
    except vm.VmError as died:  # its question lay unread, or its interrupt was not taken: docs/vm.md
        assert re.search(r"error_setv|vfio_region_read\(", str(died))
    up.vm.close()
    up.tapnet.start_again()
    up.boot()
    up.up()
    up.ping()
    up.download(64 << 10)
