"""What ``tapnet bridge`` moves is on the bridge as it was, and comes back as it was: each attribute that the kernel has.

Judged by the kernel's own messages (``raw_netlink``): this machine's ``ip`` may not know half of the words.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tests.netns import raw_netlink as raw
from tests.netns.bridge_kit import forked, make_host, settled
from tests.netns.lan_kit import namespace, within
from tests.netns.support import sh, until_sync

SETTINGS = """
link set eth0 alias the-uplink group 7 txqueuelen 333 allmulticast on
link set eth0 mtu 1400
link property add dev eth0 altname uplink-by-another-name
token set ::5 dev eth0
addr add 192.168.11.2/25 broadcast 192.168.11.99 scope site dev eth0 preferred_lft 0 valid_lft forever
addr add 192.168.12.2 peer 192.168.12.3/32 scope 201 dev eth0 noprefixroute label eth0:label
addr add 239.9.9.9/32 dev eth0 autojoin
addr add 2001:db8:11::2 peer 2001:db8:11::3/128 dev eth0 nodad home
addr add 2001:db8:12::2/64 dev eth0 nodad mngtmpaddr preferred_lft 0 valid_lft 52000
addr add 2001:db8:13::2/64 dev eth0 metric 444
route add 10.20.0.0/16 via 192.168.5.1 congctl lock reno features ecn quickack 1 fastopen_no_cookie 1 initcwnd 3 \
 initrwnd 4 rto_min 50ms hoplimit 9 window 1000 rtt 20ms rttvar 10ms ssthresh 9 cwnd lock 8 reordering 4
route add 10.21.0.0/16 via 192.168.5.1 realm 5 protocol 99
route add 10.21.0.0/16 via 192.168.5.1 tos 0x10
route add 10.22.0.0/16 encap ip id 42 dst 192.168.5.9 ttl 7 tos 4 dev eth0
route add local 10.66.0.1 dev eth0
route add broadcast 10.67.255.255 dev eth0
route add multicast 239.2.0.0/16 dev eth0
route add 10.68.0.0/16 nexthop via 7.7.7.8 dev eth0 onlink weight 7 nexthop via 192.168.5.9 realm 4242
route add 10.69.0.0/16 scope 222 dev eth0 table 4000000000
-6 route add 2001:db8:21::/48 via fe80::2 dev eth0 pref high mtu 1333 hoplimit 8 advmss lock 1200 protocol 98
-6 route add 2001:db8:22::/48 encap seg6 mode encap segs 2001:db8::9 dev eth0
-6 route add 2001:db8:23::/48 from 2001:db8::/64 via fe80::2 dev eth0 expires 60000
-6 route add anycast 2001:db8:24::1 dev eth0
-6 route add multicast ff05::/16 dev eth0
-6 route add 2001:db8:25::/48 pref low nexthop via fe80::2 dev eth0 weight 9 nexthop via fe80::3 dev eth0
rule add iif eth0 realms 3/4 priority 300
rule add iif eth0 suppress_prefixlength 0 suppress_ifgroup 7 priority 301
rule add iif eth0 tun_id 7 priority 302
rule add not oif eth0 uidrange 5-9 ipproto tcp sport 5-6 dport 77 fwmark 1/3 tos 0x10 table 99 priority 303 protocol 45
rule add iif eth0 goto 32766 priority 304
rule add iif eth0 unreachable priority 305
neigh add 192.168.5.70 dev eth0 managed
neigh add 192.168.5.71 lladdr 02:00:00:00:00:71 dev eth0 extern_learn nud stale
neigh add 192.168.5.72 lladdr 02:00:00:00:00:72 dev eth0 nud noarp protocol 9
neigh add 2001:db8::73 lladdr 02:00:00:00:00:73 router dev eth0 protocol 10
neigh add proxy 2001:db8::74 dev eth0 router protocol 11
"""
PROTO = 77


def by_hand() -> None:
    """What this machine's ``ip`` has no word for."""
    index = socket.if_nametoindex("eth0")
    for text, length, more in (
        ("192.168.13.2", 24, ()),
        ("2001:db8:14::2", 64, ((9, struct.pack("=I", 333)),)),
        ("2001:db8:15::2", 64, ((8, struct.pack("=I", 0x202)),)),
    ):
        address = ip_address(text)
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        flags = (
            () if address.version == 4 or (len(more) and more[0][0] == 8) else ((8, struct.pack("=I", 2)),)
        )
        raw.set_(
            raw.NEWADDR, struct.pack("=BBBBI", family, length, 0, 0, index),
            (1, address.packed), (2, address.packed), (11, bytes([PROTO])), *flags, *more,
        )  # fmt: skip
    for number, value in (
        (26, b"\x05"),
        (27, struct.pack("!I", 0x12345)),
    ):  # FRA_DSCP, FRA_FLOWLABEL: Linux 6.13
        family = socket.AF_INET if number == 26 else socket.AF_INET6
        mask = ((28, struct.pack("!I", 0xFFFFF)),) if number == 27 else ()
        try:
            raw.set_(
                raw.NEWRULE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 254, 0, 0, 1, 0),
                (3, b"eth0\0"), (6, struct.pack("=I", 400)), (number, value), *mask,
            )  # fmt: skip
        except OSError:
            pass  # an older kernel
    raw.set_(
        raw.NEWNEIGH, struct.pack("=BxxxiHBB", socket.AF_INET, index, 0x80, 0x10, 0),
        (1, ip_address("192.168.5.75").packed), (2, bytes.fromhex("020000000075")), (12, bytes([PROTO])),
    )  # fmt: skip


@pytest.fixture(scope="module")
def refused() -> list[str]:
    """Lines of SETTINGS that this kernel or this ``ip`` cannot do."""
    return []


@pytest.fixture
def host(refused: list[str]) -> Iterator[str]:
    with namespace("whole") as name:
        make_host(name)
        for line in SETTINGS.replace("\\\n", "").strip().splitlines():
            try:
                sh(f"ip -n {name} {line}")
            except AssertionError:
                refused.append(line)
        within(name, by_hand)
        settled(name)
        yield name


def state(name: str) -> dict[str, list[str]]:
    return within(name, raw.dump)


def same(before: dict[str, list[str]], after: dict[str, list[str]]) -> None:
    wrong = raw.differences(before, after)
    assert not wrong, "\n".join(wrong)


def test_all_comes_back_as_it_was(host: str, refused: list[str]) -> None:
    assert len(refused) <= 3, refused  # the host has what it is for
    before = state(host)
    assert sum(f"11={PROTO:02x}" in line for line in before["address"]) == 3
    assert forked(host, "bridge", "up", "br0", "--uplink", "eth0").returncode == 0
    assert forked(host, "bridge", "down", "br0").returncode == 0
    settled(host)
    same(before, state(host))


def test_the_bridge_has_all_of_it(host: str) -> None:
    before = within(host, lambda: raw.of("eth0"))
    assert forked(host, "bridge", "up", "br0", "--uplink", "eth0").returncode == 0
    settled(host)
    same(before, within(host, lambda: raw.of("br0")))


def test_proxies_outlive_a_carrier_that_goes(host: str) -> None:
    """A proxy that is not permanent is gone when somebody pulls the cable, and nobody sees which one it is."""
    proxies = sh(f"ip -n {host} neigh show proxy")
    assert forked(host, "bridge", "up", "br0", "--uplink", "eth0").returncode == 0
    assert forked(host, "bridge", "down", "br0").returncode == 0
    sh(f"ip -n {host} link set peer0 down")
    until_sync(lambda: "NO-CARRIER" in sh(f"ip -n {host} link show eth0"), "the carrier's end")
    sh(f"ip -n {host} link set peer0 up")
    until_sync(lambda: "LOWER_UP" in sh(f"ip -n {host} link show eth0"), "the carrier")
    assert sh(f"ip -n {host} neigh show proxy") == proxies


def test_what_goes_by_a_next_hop_object_is_refused(host: str) -> None:
    """Also when no route shows its interface (net.ipv4.nexthop_compat_mode=0), or none uses it."""
    sh(f"ip -n {host} nexthop add id 7 via 192.168.5.1 dev eth0")
    before = state(host)
    done = forked(host, "bridge", "up", "br0", "--uplink", "eth0")
    assert (
        done.returncode != 0
        and "eth0: has next-hop object 7 (ip nexthop), which cannot be moved" in done.stderr
    )
    sh(f"ip netns exec {host} sysctl -qw net.ipv4.nexthop_compat_mode=0")
    sh(f"ip -n {host} route add 10.90.0.0/16 nhid 7")
    done = forked(host, "bridge", "up", "br0", "--uplink", "eth0")
    assert done.returncode != 0 and "next-hop object" in done.stderr
    sh(f"ip -n {host} route del 10.90.0.0/16")
    same(before, state(host))
