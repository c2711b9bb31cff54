"""NAT and TAP swapped under a VM that does not restart: a card with a link bit, and NE2000s, which have none."""

from __future__ import annotations

import re
from pathlib import Path

from tests import needs
from tests.guests import vm
from tests.guests.scene import unharmed
from tests.netns.lan_kit import lan, links
from tests.netns.support import sh
from tests.pings import lossless, patient

__all__ = ["lan"]  # a fixture

DHCLIENT = Path("/usr/sbin/dhclient")
SCRIPT = r"""#!/bin/sh
case "$reason" in
PREINIT) ip link set $interface up;;
BOUND|RENEW|REBIND|REBOOT)
  ip -4 addr flush dev $interface; ip addr add $new_ip_address/$new_subnet_mask dev $interface;;
EXPIRE|FAIL|STOP) ip -4 addr flush dev $interface;;
esac
"""
# what a network manager does: ask anew when the carrier is there again
WATCHER = r"""#!/bin/sh
old=1
while :; do
  now=$(cat /sys/class/net/$1/carrier)
  [ "$old$now" = 01 ] && udhcpc -q -n -t 20 -T 1 -i $1
  old=$now
  sleep 0.1
done
"""
PATIENCE = 120.0


def test_swapped_under_a_vm(lab: vm.Lab, lan: str) -> None:
    """Three cards at once, on a VLAN and a TAP each. The NE2000s' clients renew after 30 s (dhclient by T1) or 24 s
    (busybox's udhcpc by half of its lease), at the NAT that is gone, and are told so once; the other card's sees its link
    go and come.
    """
    needs.program("dhclient", "isc-dhcp-client")
    tapnet = lab.tapnet(
        *("-net", "nic,model=ne2k_pci,vfio-user=ne.sock", "-net", "user", "-net", "tap,ifname=tap0,br=br0"),
        *(
            "-net",
            "nic,vlan=1,model=rtl8139,rev=0x10,vfio-user=rtl.sock",
            "-net",
            "user,vlan=1,net=10.0.3.0/24",
        ),
        *("-net", "tap,vlan=1,ifname=tap1,br=br0", "--mode", "user"),
        *("-net", "nic,vlan=2,model=ne2k_pci,vfio-user=busy.sock", "-net", "user,vlan=2,net=10.0.4.0/24"),
        *("-net", "tap,vlan=2,ifname=tap2,br=br0"),
        netns=lan,
    )
    script, watch = lab.folder / "dhclient-script", lab.folder / "watch"
    script.write_text(SCRIPT)
    watch.write_text(WATCHER)
    # eth0 and eth1 are the NE2000s: their module is loaded first
    guest = lab.vm("ne.sock", "rtl.sock", "busy.sock", files=[DHCLIENT, script, watch])
    where = vm.cpus()[-1:]
    vm.pin(tapnet.process.pid, where)
    vm.pin(guest.process.pid, where)
    for modules in (("8390", "ne2k-pci"), ("mii", "8139too")):
        guest.run(" && ".join(f"insmod /lib/m/{module}.ko" for module in modules))
    guest.run("mkdir -p /var/lib/dhcp; ip link set eth2 up; udhcpc -q -n -t 20 -T 2 -i eth2", PATIENCE)
    guest.run("ip link set eth1 up; (udhcpc -f -S -t 20 -T 2 -i eth1 > /tmp/udhcpc 2>&1 &)")
    guest.run(f"({watch} eth2 > /tmp/watched 2>&1 &)")
    guest.run(f"({DHCLIENT} -d -v -sf {script} -lf /tmp/leases -pf /tmp/pid eth0 > /tmp/dhclient 2>&1 &)")
    holds(guest, "eth0", "10.0.2.15")
    holds(guest, "eth2", "10.0.3.15")
    holds(guest, "eth1", "10.0.4.15")
    guest.run("grep -q 'dhcp-lease-time 120' /tmp/leases && grep -q 'dhcp-renewal-time 30' /tmp/leases")
    guest.run("grep -q 'lease time 48' /tmp/udhcpc")

    assert tapnet.monitor("mode", "tap").splitlines() == [
        "VLAN 0: tap: ifname=tap0 setup_script=",
        "VLAN 1: tap: ifname=tap1 setup_script=",
        "VLAN 2: tap: ifname=tap2 setup_script=",
    ]
    assert {links(lan)[name]["master"] for name in ("tap0", "tap1", "tap2")} == {"br0"}  # type: ignore[comparison-overlap]
    holds(guest, "eth2", "192.168.77.")
    holds(guest, "eth1", "192.168.77.")
    holds(guest, "eth0", "192.168.77.")
    said = guest.run("cat /tmp/dhclient")
    assert len(re.findall("DHCPNAK.* from 10.0.2.2", said)) == 1, said
    said = guest.run("cat /tmp/udhcpc")
    assert len(re.findall("NAK", said)) == 1, said
    assert guest.run("dmesg | grep -c 'eth2: link down'").split()[-1] == "1"
    for name in ("eth0", "eth2", "eth1"):
        address = guest.run(f"ip -4 addr show {name}").split("inet ")[1].split("/")[0]
        lossless(sh(f"ip netns exec {lan} ping {patient(3)} {address}"), 3)
    unharmed(guest.run("dmesg"), 3)


def holds(guest: vm.Vm, name: str, start: str) -> None:
    """Wait until an interface has an address that begins so."""
    guest.run(
        f"i=0; until ip -4 addr show {name} | grep -q 'inet {start}'; do i=$((i+1)); [ $i -lt 1000 ] || exit 1; sleep 0.1; done",
        PATIENCE,
    )
