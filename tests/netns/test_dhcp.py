"""DHCP in guests behind ``tapnet exec``: what the server keeps, and what real clients make of its options."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import needs
from tests.netns.exec_kit import root_runner


def test_at_start_one_line(tmp_path: Path) -> None:
    runner = root_runner(tmp_path)
    done = runner.run("true", "-net", "user,state=/no/such/place")
    assert (done.returncode, done.stderr) == (
        2,
        "tapnet: -net user: state=/no/such/place: No such file or directory\n",
    )
    (tmp_path / "f").write_text("")
    done = runner.run("true", "-net", f"user,state={tmp_path}/f")
    assert done.stderr == f"tapnet: -net user: state={tmp_path}/f: Not a directory\n"


def test_a_guest_keeps_its_address_over_a_restart(tmp_path: Path) -> None:
    runner = root_runner(tmp_path)
    address = "ip -4 -o addr show dev eth0 | awk '{print $4}'"
    one, other = "52:54:00:00:00:01", "52:54:00:00:00:02"
    user = ("-net", f"user,state={tmp_path}")
    found = [
        runner.run(address, "-net", f"nic,model=direct,macaddr={mac}", *user).stdout
        for mac in (one, other, one, other)
    ]
    assert found == ["10.0.2.15/24\n", "10.0.2.16/24\n"] * 2


def test_dhclient_and_every_kind_of_option(tmp_path: Path) -> None:
    """What dhclient got is what its lease file says."""
    needs.program("dhclient", "isc-dhcp-client")
    config = tmp_path / "dhclient.conf"
    config.write_text(
        "option rfc3442 code 121 = array of unsigned integer 8; option magic code 208 = string;\n"
        "request subnet-mask, routers, domain-name, domain-search, ntp-servers, interface-mtu, host-name,"
        " bootfile-name, tftp-server-name, rfc3442;\n"
    )
    script = (
        f"dhclient -1 -cf {config} -lf $PWD/lease -pf $PWD/pid -sf /bin/true eth0; cat lease; kill $(cat pid)"
    )
    keys = (
        "lease=52:54:00:12:34:56=10.0.2.40=web,domainname=lab.test,dnssearch=a.test,dnssearch=b.a.test,ntp=10.0.2.2,"
        "ntp=10.0.2.9,mtu=1400,route=192.168.0.0/16-10.0.2.9,bootfile=pxelinux.0,tftp-server-name=boot.test,"
        "dhcp-option=208=magic,lease-time=600"
    )
    runner = root_runner(tmp_path)
    done = runner.run(script, "-net", "nic,model=direct,dhcp=off", "-net", f"user,{keys}")
    for line in (
        "fixed-address 10.0.2.40;",
        'option host-name "web";',
        'option domain-name "lab.test";',
        'option domain-search "a.test.", "b.a.test.";',
        "option ntp-servers 10.0.2.2,10.0.2.9;",
        "option interface-mtu 1400;",
        "option rfc3442 16,192,168,10,0,2,9,0,10,0,2,2;",
        'filename "pxelinux.0";',
        'option tftp-server-name "boot.test";',
        'option magic "magic";',
        "option dhcp-lease-time 600;",
    ):
        assert line in done.stdout, (line, done.stdout, done.stderr)


NETWORKD = """
mount --bind /sys /sys; mount -o remount,bind,ro /sys; mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network /run/systemd/netif
printf '[Match]\\nName=eth0\\n[Network]\\nDHCP=ipv4\\nIPv6AcceptRA=no\\n' > /run/systemd/network/10.network
/lib/systemd/systemd-networkd >/dev/null 2>&1 & daemon=$!
tries=0; until grep -qs ADDRESS /run/systemd/netif/leases/* || [ $tries = 300 ]; do sleep 0.1; tries=$((tries+1)); done
ip -4 -br addr show dev eth0; ip route; cat /run/systemd/netif/leases/*; kill $daemon; wait $daemon
"""


def test_systemd_networkd(tmp_path: Path) -> None:
    """It takes /sys for a container's, where udev has nothing to say, when that is read-only."""
    (tmp_path / "networkd.sh").write_text(NETWORKD)
    keys = "user,ntp=10.0.2.2,domainname=lab.test,route=192.168.0.0/16-10.0.2.9"
    done = root_runner(tmp_path).run(
        f"unshare -m sh {tmp_path}/networkd.sh", "-net", "nic,model=direct,dhcp=off", "-net", keys
    )
    for text in (
        "10.0.2.15/24",
        "default via 10.0.2.2",
        "192.168.0.0/16 via 10.0.2.9",
        "DNS=10.0.2.3",
        "NTP=10.0.2.2",
        "DOMAINNAME=lab.test",
    ):
        assert text in done.stdout, (done.stdout, done.stderr)


@pytest.mark.parametrize(
    "net", ["user,lease-time=600", "user,lease-time=600 -net tap,ifname=nametap0,script=no --mode user"]
)
def test_a_lease_time_that_was_given_is_every_clients(tmp_path: Path, net: str) -> None:
    """Also for busybox beside a TAP, and for a client that asks for less."""
    needs.program("dhclient", "isc-dhcp-client")
    show = tmp_path / "show"
    show.write_text("#!/bin/sh\n[ $1 = bound ] && echo $lease\nexit 0\n")
    show.chmod(0o755)
    config = tmp_path / "dhclient.conf"
    config.write_text("send dhcp-lease-time 100;\n")
    script = (
        f"busybox udhcpc -f -n -q -i eth0 -s {show} 2>/dev/null; busybox udhcpc -f -n -q -i eth0 -x lease:100 -s {show} 2>/dev/null;"
        f"dhclient -1 -cf {config} -lf $PWD/lease -pf $PWD/pid -sf /bin/true eth0; grep lease-time lease; kill $(cat pid)"
    )
    options = ["-net", *net.split()]
    done = root_runner(tmp_path).run(script, "-net", "nic,model=direct,dhcp=off", *options)
    assert done.stdout.split() == ["600", "600", "option", "dhcp-lease-time", "600;"], done.stderr
