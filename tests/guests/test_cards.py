"""Several cards in one VM: four models, four drivers, four networks, two of the cards on one interrupt line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import pytest

from tests.guests import vm
from tests.guests.scene import DRIVERS, Driver, unharmed
from tests.pings import lossless

KIB = 1 << 10
SLOTS = {"ne2k-pci": 5, "8139too": 4, "8139cp": 6, "pcnet32": 8}  # 4 and 8: INTA of both is PIIX3's PIRQD
SIZE = {"ne2k-pci": 64 * KIB}  # 1 MiB for the others


def number(driver: Driver) -> int:
    """Of its VLAN; its network is 10.0.NUMBER.0/24."""
    return 10 + DRIVERS.index(driver)


def mac(driver: Driver) -> str:
    return f"52:54:00:12:34:{number(driver):02x}"


class Full:
    """A tapnet with all cards, one VM that has them all."""

    def __init__(self, lab: vm.Lab, host: vm.Host) -> None:
        self.host = host
        words = []
        for driver in DRIVERS:
            n = number(driver)
            words += [
                "-net",
                f"nic,vlan={n},macaddr={mac(driver)},{driver.options},vfio-user={driver.name}.sock",
            ]
            words += ["-net", f"user,vlan={n},net=10.0.{n}.0/24"]
        self.tapnet = lab.tapnet(*words)
        devices = [vm.vfio(f"{lab.inside}/{d.name}.sock", addr=hex(SLOTS[d.name])) for d in DRIVERS]
        self.vm = lab.vm(*devices)
        for process in (self.tapnet.process, self.vm.process):
            vm.pin(process.pid, vm.cpus()[-1:])
        for driver in DRIVERS:
            # 8139cp binds to revision 0x20 and above alone, 8139too to what is below
            self.vm.run(
                " && ".join(
                    f"{{ [ -d /sys/module/{m.replace('-', '_')} ] || insmod /lib/m/{m}.ko; }}"
                    for m in driver.modules
                )
            )
        self.names = {d.name: self.interface(d) for d in DRIVERS}
        for name in self.names.values():
            self.vm.run(f"ip link set {name} up; udhcpc -q -n -t 8 -T 2 -i {name}")

    def interface(self, driver: Driver) -> str:
        """Which ethN has its MAC."""
        found = self.vm.run(f"grep -l {mac(driver)} /sys/class/net/*/address")
        return found.strip().split("/")[4]


@pytest.fixture(scope="module")
def full(host: vm.Host) -> Iterator[Full]:
    with vm.lab() as lab:
        yield Full(lab, host)


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_each_driver_has_its_card_and_its_network(full: Full, driver: Driver) -> None:
    name, n = full.names[driver.name], number(driver)
    bound = full.vm.run(f"readlink /sys/class/net/{name}/device/driver").strip().rsplit("/", 1)[1]
    assert bound == driver.name
    assert f"10.0.{n}.15/24" in full.vm.run(f"ip addr show dev {name}")
    said = full.vm.run(f"ping -A -c 50 -W 5 10.0.{n}.2")
    lossless(said, 50)
    assert said.count("ttl=255") >= 50


def test_two_share_an_interrupt_line(full: Full) -> None:
    lines = full.vm.run("cat /proc/interrupts").splitlines()
    shared = {full.names["8139too"], full.names["pcnet32"]}
    assert any(shared <= set(re.split(r"[\s,]+", line)) for line in lines), "\n".join(lines)


def test_all_transfer_at_once(full: Full) -> None:
    """Every card downloads its own bytes at the same time; each has all of them, the kernel complains of nothing."""
    parts = []
    for driver in DRIVERS:
        size = SIZE.get(driver.name, 1024 * KIB)
        url = f"http://10.0.{number(driver)}.2:{full.host.port}/{size}"
        parts.append(f"{{ wget -q -O - {url} | md5sum > /tmp/{driver.name}; }} &")
    full.vm.run(" ".join(parts) + " wait", 240)
    for driver in DRIVERS:
        size = SIZE.get(driver.name, 1024 * KIB)
        expected = hashlib.md5(full.host.content[:size]).hexdigest()
        assert full.vm.run(f"cat /tmp/{driver.name}").split()[0] == expected
    unharmed(re.sub(r".*NETDEV WATCHDOG.*ne2k-pci.*", "", full.vm.run("dmesg")), 0)


def test_one_card_out_of_order_leaves_the_others_alone(full: Full) -> None:
    """One driver goes and one link is off while the others ping."""
    others = [d for d in DRIVERS if d.name not in ("8139cp", "8139too")]
    full.vm.run("rmmod 8139cp")
    full.tapnet.monitor("set_link", "rtl8139.0", "off")  # the first of its model: 8139too's
    assert full.vm.status(f"timeout 4 ping -A -c 2 -W 1 10.0.{number(DRIVERS[1])}.2") != 0
    for driver in others:
        said = full.vm.run(f"ping -A -c 50 -W 5 10.0.{number(driver)}.2")
        lossless(said, 50)
    full.tapnet.monitor("set_link", "rtl8139.0", "on")
