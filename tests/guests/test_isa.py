"""The ISA card by the real ``ne`` driver of Debian's i386 kernel: its ports are I/O BAR 0 of a bare PCI function.

S20: ``modprobe ne irq=N io=0x300``, ifconfig, route. The BAR is moved to 0x300 by a write to configuration space,
and ``acpi=off noapic`` keeps the function's INTA on a line of the two 8259s.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import pytest

from tests.guests import vm
from tests.guests.scene import LEASE, MAC
from tests.pings import lossless

FUNCTION = "/sys/bus/pci/devices/0000:00:02.0"
SIZE = 64 << 10


@pytest.fixture(scope="module")
def one(host: vm.Host) -> Iterator[vm.Vm]:
    with vm.lab() as lab:
        tapnet = lab.tapnet("-net", "nic,model=ne2k_isa,vfio-user=isa.sock", "-net", "user")
        made = lab.vm("isa.sock", kernel="686", append="acpi=off noapic")
        for process in (tapnet.process, made.process):
            vm.pin(process.pid, vm.cpus()[-1:])
        made.run("insmod /lib/m/8390p.ko")
        yield made


def load(one: vm.Vm, io: str) -> None:
    irq = one.run(f"cat {FUNCTION}/irq").strip()
    one.run(f"rmmod ne 2>/dev/null; insmod /lib/m/ne.ko io={io} irq={irq}")
    said = one.run("dmesg | tail -n 5")
    assert "NE2000" in said and re.search(rf"eth0: NE2000 found at {io}, using IRQ {irq}", said), said
    assert one.run("cat /sys/class/net/eth0/address").strip() == MAC
    assert re.search(rf"{int(io, 16):04x}-{int(io, 16) + 0x1F:04x} : ne", one.run("cat /proc/ioports"))


def ping(one: vm.Vm) -> None:
    said = one.run("ping -A -c 20 -W 5 10.0.2.2")
    lossless(said, 20)
    assert "ttl=255" in said


def test_at_its_bar(one: vm.Vm, host: vm.Host) -> None:
    base = one.run(f"head -n 1 {FUNCTION}/resource").split()[0]
    load(one, hex(int(base, 16)))
    assert "lease 10.0.2.15/24" in one.run(f"ip link set eth0 up; {LEASE}")
    ping(one)
    said = one.run(f"wget -q -O - http://10.0.2.2:{host.port}/{SIZE} | md5sum", 60)
    assert said.split()[0] == hashlib.md5(host.content[:SIZE]).hexdigest()


def test_at_0x300_by_hand(one: vm.Vm) -> None:
    one.run("ip link set eth0 down 2>/dev/null; true")
    one.run("rmmod ne 2>/dev/null; true")
    one.run(rf"printf '\001\003\000\000' | dd of={FUNCTION}/config bs=1 seek=16 conv=notrunc 2>/dev/null")
    load(one, "0x300")
    assert "0300-031f" in one.run("cat /proc/ioports")
    one.run("ifconfig eth0 10.0.2.16 netmask 255.255.255.0 up; route add default gw 10.0.2.2")
    ping(one)
