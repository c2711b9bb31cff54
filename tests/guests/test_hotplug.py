"""A card that comes while everything runs: device_add in tapnet's monitor, then in QEMU's; the guest's driver finds it."""

from __future__ import annotations

import json

import pytest

from tests.guests import vm
from tests.guests.scene import DRIVERS, LEASE

RTL8139 = next(driver for driver in DRIVERS if driver.name == "8139cp")


@pytest.mark.slow
def test_a_running_vm_gets_a_card() -> None:
    with vm.lab() as lab:
        tapnet = lab.tapnet("-net", "user")
        guest = lab.vm()
        assert guest.status("ls /sys/class/net | grep -q eth0") != 0
        tapnet.monitor(f"device_add rtl8139,vlan=0,id=hot,vfio-user={lab.folder}/card.sock")
        card = json.loads(vm.vfio(f"{lab.inside}/card.sock", id="hot"))
        guest.qmp("device_add", **card)
        seen = "grep -qi 0x8139 /sys/bus/pci/devices/*/device"
        guest.run(f"for i in $(seq 200); do {seen} && break; sleep 0.1; done; {seen}")
        guest.run(RTL8139.load)
        said = guest.run(f"ip link set eth0 up; {LEASE}; ping -c 3 10.0.2.2")
        assert "lease 10.0.2.15/24" in said and said.count("ttl=255") == 3
        assert "10.0.2.15" in tapnet.monitor("info leases")
        tapnet.monitor("set_link hot off")
        tapnet.monitor("device_del hot")
        assert tapnet.monitor("info network") == "VLAN 0 devices:\n  user redirector\n"
        assert guest.run("echo alive").strip() == "alive"
