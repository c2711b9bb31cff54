"""A card that comes while everything runs: device_add in tapnet's monitor, then in QEMU's; the guest's driver finds it.
And one that does not come, because tapnet ends first.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from typing import Any

import pytest

from nic_models import models
from tapnet.guest.vfio_user.server import VfioUserServer
from tests.guests import vm
from tests.guests.scene import DRIVERS, LEASE

# its firmware changes nothing: a change that a dead card cannot be told of is QEMU's end
STOPPED: dict[str, Any] = {"kernel": None, "ready": None, "extra": ("-S",)}
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


@pytest.mark.slow
@pytest.mark.parametrize("first", ["tapnet", "card"])
def test_a_running_vm_gets_its_card_again_from_a_tapnet_that_was_started_again(first: str) -> None:
    """What docs/vm.md says to do; ``first``: what goes first, tapnet or the card out of the VM."""
    with vm.lab() as lab:
        tapnet = lab.tapnet("-net", "nic,model=rtl8139,vfio-user=card.sock", "-net", "user")
        card = json.loads(vm.vfio(f"{lab.inside}/card.sock", id="card"))
        guest = lab.vm(vm.vfio(f"{lab.inside}/card.sock", id="card"))
        guest.run(f"{RTL8139.load}; ip link set eth0 up; {LEASE}")
        if first == "tapnet":
            tapnet.close()
        guest.qmp("device_del", id="card")
        tapnet.close()

        def gone() -> bool:
            buses = guest.qmp("query-pci")
            return all(device.get("qdev_id") != "card" for bus in buses for device in bus["devices"])

        vm.until(gone, "the guest gives the card back")
        tapnet.start_again()
        guest.qmp("device_add", **card)
        guest.run("for i in $(seq 200); do [ -d /sys/class/net/eth0 ] && break; sleep 0.1; done")
        said = guest.run(f"ip link set eth0 up; {LEASE}; ping -A -c 3 10.0.2.2")
        assert "lease 10.0.2.15/24" in said and said.count("ttl=255") == 3


def test_vms_outlive_a_tapnet_that_ends_while_one_waits_for_a_card() -> None:
    """The card is in use: the second VM's QEMU has asked, nobody has read it. Reset then, QEMU 11.1 aborts."""
    with vm.lab() as lab:
        tapnet = lab.tapnet("-net", f"nic,model=rtl8139,vfio-user={lab.folder}/card.sock", "-net", "user")
        has = lab.vm("card.sock", **STOPPED)
        wants = lab.vm(**STOPPED)
        vm.until(lambda: "no client" not in tapnet.monitor("info network -v"), "the first VM's session")
        vm.until(wants.qmp_path.exists, "QEMU's monitor")
        said: list[str] = []

        def plug() -> None:
            try:
                wants.qmp("device_add", **json.loads(vm.vfio(f"{lab.inside}/card.sock")))
            except (vm.VmError, OSError) as error:
                said.append(str(error))

        plugging = threading.Thread(target=plug)
        plugging.start()
        vm.until(lambda: waiting(f"{lab.folder}/card.sock"), "the second VM's request")
        tapnet.close()
        plugging.join(vm.END_S)
        assert said and "shutdown" in said[0], said
        for guest in (has, wants):
            assert guest.qmp("query-status")["status"] == "prelaunch"


@pytest.mark.parametrize("message", [8, 16, 22])  # GET_INFO, the last GET_REGION_INFO, configuration space
def test_a_vm_outlives_a_tapnet_that_ends_while_it_plugs_the_card(message: int) -> None:
    """QEMU 11.1 has a segmentation fault when the device goes between GET_INFO and its first SET_IRQS."""
    loop = asyncio.new_event_loop()
    with vm.lab() as lab:
        guest = lab.vm(**STOPPED)
        vm.until(guest.qmp_path.exists, "QEMU's monitor")
        function = models.pci_function(
            "rtl8139", bytes(6), lambda f, v=b"": True, lambda: None, time.monotonic_ns
        )
        server = VfioUserServer(loop, f"{lab.folder}/card.sock", function, time.monotonic_ns)
        plugging = threading.Thread(
            target=lambda: guest.qmp("device_add", **json.loads(vm.vfio(f"{lab.inside}/card.sock")))
        )
        plugging.start()
        end = time.monotonic() + vm.END_S
        while server.session is None or server.session.messages < message:
            assert time.monotonic() < end
            loop.call_soon(loop.stop)
            loop.run_forever()
        server.close()
        plugging.join(vm.END_S)
        assert guest.qmp("query-status")["status"] == "prelaunch"
    loop.close()


def waiting(path: str) -> bool:
    """Whether somebody has connected to a listening socket and has not been accepted."""
    said = subprocess.run(["ss", "-xlnH", "src", path], capture_output=True, text=True, check=True).stdout
    return any(int(line.split()[2]) > 0 for line in said.splitlines())
