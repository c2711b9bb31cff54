"""DHCP that boots machines: fixed leases, boot files by client, routes, time servers, any option."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest

from slirp.config import IPXE, Config
from slirp.rules import Rule
from slirp.wire.dhcp import ACK, DECLINE, DISCOVER, INFORM, NAK, OFFER, REQUEST
from slirp.wire.ipv4 import ip_bytes
from tests.slirp.fakes import GUEST_MAC, SECOND, Net, arp
from tests.slirp.services.test_dhcp import OTHER_MAC, ask, lease

FIXED = ((GUEST_MAC, "10.0.2.77", "web"), (bytes.fromhex("020000000001"), "10.0.2.5", ""))
BIOS, X64, X64_HTTP = (b"\0\0", b"\0\x07", b"\0\x10")
PXE, HTTP = b"PXEClient:Arch:00007:UNDI:003001", b"HTTPClient:Arch:00016:UNDI:003001"


def made(**keys: Any) -> Net:
    return Net(Config(**keys), known=False)


# ---- fixed leases ------------------------------------------------------------------------------------------


def test_a_fixed_lease() -> None:
    net = made(fixed=FIXED)
    assert lease(net) == "10.0.2.77"
    assert lease(net, FIXED[1][0]) == "10.0.2.5", "below the pool"
    assert lease(net, OTHER_MAC) == "10.0.2.15"
    offer = ask(net, DISCOVER, {12: b"mine"})
    assert offer.options[12] == b"web"
    assert [row["hostname"] for row in net.stack.leases()] == ["", "", "web"]


def test_whatever_the_station_calls_itself() -> None:
    net = made(fixed=FIXED)
    for name in (b"\x01one", b"\xff0123duid", None, b"\x01two"):
        assert lease(net, options={61: name} if name else None) == "10.0.2.77"
    assert len(net.stack.leases()) == 1


def test_nobody_else_gets_it() -> None:
    net = made(fixed=((GUEST_MAC, "10.0.2.15", ""),))
    assert ask(net, DISCOVER, {50: ip_bytes("10.0.2.15")}, mac=OTHER_MAC).yiaddr == "10.0.2.16"
    assert ask(net, REQUEST, {50: ip_bytes("10.0.2.15")}, mac=OTHER_MAC).kind == NAK
    assert ask(net, REQUEST, {50: ip_bytes("10.0.2.16")}).kind == NAK, "and it gets no other"
    assert ask(net, REQUEST, {50: ip_bytes("10.0.2.15")}).kind == ACK


def test_a_fixed_address_that_is_declined_or_in_use_stays_his() -> None:
    net = made(fixed=FIXED)
    net.put(arp(1, "10.0.2.77", "10.0.2.2", sha=OTHER_MAC))
    net.take()
    assert lease(net) == "10.0.2.77"
    ask(net, DECLINE, {50: ip_bytes("10.0.2.77"), 54: ip_bytes("10.0.2.2")})
    assert lease(net) == "10.0.2.77"


def test_a_name_of_the_administrators_counts_before_the_clients_own() -> None:
    net = made(fixed=FIXED)
    lease(net, OTHER_MAC, {12: b"web"})
    lease(net)
    assert net.stack.dhcp.leases.called("WEB.", net.now) == [ip_bytes("10.0.2.77"), ip_bytes("10.0.2.15")]


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ("10.0.3.1", "lease=10.0.3.1: not in 10.0.2.0/24"),
        ("10.0.2.3", "lease=10.0.2.3: is an address of the NAT's own"),
        ("10.0.2.255", "lease=10.0.2.255: is the network or broadcast address of 10.0.2.0/24"),
    ],
)
def test_addresses_that_nobody_can_have(fixed: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Config(fixed=((GUEST_MAC, fixed, ""),))


# ---- network boot ------------------------------------------------------------------------------------------

FILES = {
    "bootfile": "pxelinux.0",
    "bootfiles": ((7, "shim.efi"), (16, "http://10.0.2.2/a.efi"), (IPXE, "http://10.0.2.2/menu.ipxe")),
}
CLIENTS = [
    # configuration, what the client says, what it is told to load
    (FILES, {60: b"PXEClient:Arch:00000:UNDI:002001", 93: BIOS}, "pxelinux.0"),
    (FILES, {60: PXE, 93: X64}, "shim.efi"),
    (FILES, {60: PXE, 93: BIOS + X64}, "shim.efi"),
    (FILES, {60: HTTP, 93: X64_HTTP}, "http://10.0.2.2/a.efi"),
    (FILES, {60: PXE, 93: X64, 77: b"iPXE"}, "http://10.0.2.2/menu.ipxe"),
    (FILES, {60: PXE, 93: X64, 77: b"\4iPXE"}, "http://10.0.2.2/menu.ipxe"),
    (FILES, {60: PXE, 93: b"\0"}, "pxelinux.0"),
    (FILES, {}, "pxelinux.0"),
    ({"bootfile": "a.efi"}, {60: HTTP, 93: X64_HTTP}, ""),
    ({"bootfile": "http://h/a.efi"}, {60: HTTP, 93: X64_HTTP}, "http://h/a.efi"),
    ({"bootfile": "http://h/a.efi"}, {60: PXE, 93: X64}, ""),
    ({"bootfile": "http://h/a.ipxe"}, {60: PXE, 93: X64, 77: b"iPXE"}, "http://h/a.ipxe"),
    ({"bootfiles": ((7, "shim.efi"),)}, {60: PXE, 93: BIOS}, ""),
    ({}, {60: PXE, 93: X64}, ""),
]


@pytest.mark.parametrize(("keys", "says", "file"), CLIENTS)
def test_the_boot_file_for_a_client(keys: dict[str, Any], says: dict[int, bytes], file: str) -> None:
    net = made(**keys)
    offer = ask(net, DISCOVER, {55: b"\1\3\x42\x43", **says})
    assert offer.kind == OFFER
    assert offer.file.rstrip(b"\0").decode() == file
    assert offer.options.get(67, b"").decode() == file
    is_http = says.get(60, b"").startswith(b"HTTP") and bool(file)
    assert offer.options.get(60) == (b"HTTPClient" if is_http else None)


def test_next_server() -> None:
    offer = ask(made(next_server="192.0.2.9", bootfile="f", tftp_server_name="tftp.test"), DISCOVER)
    assert (offer.siaddr, offer.options[54], offer.options[66]) == (
        "192.0.2.9",
        ip_bytes("10.0.2.2"),
        b"tftp.test",
    )


def test_bootp_clients_boot_too() -> None:
    reply = ask(made(bootfile="f", fixed=FIXED), None)
    assert (reply.yiaddr, reply.file.rstrip(b"\0")) == ("10.0.2.77", b"f")


# ---- options -----------------------------------------------------------------------------------------------


def test_time_servers_and_routes() -> None:
    net = made(
        ntp=("10.0.2.2", "192.0.2.123"),
        routes=(("192.168.128.0/17", "10.0.2.9"), ("10.9.8.7/32", "10.0.2.8")),
    )
    offer = ask(net, DISCOVER, {55: bytes((121, 42, 249, 3))})
    assert offer.options[42] == ip_bytes("10.0.2.2") + ip_bytes("192.0.2.123")
    assert offer.options[121] == bytes(
        (17, 192, 168, 128, 10, 0, 2, 9, 32, 10, 9, 8, 7, 10, 0, 2, 8, 0, 10, 0, 2, 2)
    )
    assert offer.options[249] == offer.options[121]
    assert offer.options[3] == ip_bytes("10.0.2.2")


def test_no_default_route_where_there_is_none() -> None:
    routes = (("192.168.0.0/16", "10.0.2.9"),)
    offer = ask(made(routes=routes, restrict=True), DISCOVER, {55: b"\x79"})
    assert offer.options[121] == bytes((16, 192, 168, 10, 0, 2, 9))
    own = made(routes=(("0.0.0.0/0", "10.0.2.9"),))
    assert ask(own, DISCOVER, {55: b"\x79"}).options[121] == bytes((0, 10, 0, 2, 9))
    holes = made(routes=routes, restrict=True, rules=(Rule(True, None, IPv4Network("192.0.2.0/24")),))
    assert ask(holes, DISCOVER, {55: b"\x79"}).options[121][-5:] == bytes((0, 10, 0, 2, 2))


def test_any_option_by_number() -> None:
    net = made(dhcp_options=((6, ip_bytes("192.0.2.1")), (208, b"\xf1\0\x74\x7e"), (3, b""), (12, b"all")))
    offer = ask(net, DISCOVER, {55: b"\1\3\6"})
    assert offer.options[6] == ip_bytes("192.0.2.1"), "in place of ours"
    assert offer.options[208] == b"\xf1\0\x74\x7e", "asked for or not"
    assert 3 not in offer.options
    assert offer.order.index(6) < offer.order.index(208)
    assert ask(net, INFORM, src="10.0.2.40", ciaddr="10.0.2.40").options[208]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (((53, b"x"),), "dhcp-option=53: option 53 is the server's own"),
        (((43, b"x"), (43, b"y")), "dhcp-option=43: option 43 is given twice"),
        (((43, bytes(256)),), "dhcp-option=43: must be 1 to 254, with 255 bytes at most"),
    ],
)
def test_options_that_cannot_be(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Config(dhcp_options=options)


# ---- over a restart ----------------------------------------------------------------------------------------


def test_leases_go_out_and_come_in_again() -> None:
    net = made(lease_time=3600, fixed=FIXED)
    for number in range(3):
        lease(net, bytes((2, 0, 0, 0, 1, number)), {12: b"g%d" % number})
    lease(net)
    net.run(600)
    rows = net.stack.leases()
    later = made(lease_time=3600, fixed=FIXED)
    assert later.stack.dhcp.leases.restore(rows, later.now) == 4
    assert later.stack.leases() == rows
    assert lease(later, bytes((2, 0, 0, 0, 1, 9))) == "10.0.2.18"
    assert lease(later, bytes((2, 0, 0, 0, 1, 2))) == "10.0.2.17"


def test_what_has_run_out_meanwhile_is_a_favourite_only() -> None:
    net = made(lease_time=60)
    lease(net)
    rows = [{**row, "expires": -5.0} for row in net.stack.leases()]
    later = made()
    later.stack.dhcp.leases.restore(rows, later.now)
    assert later.stack.leases()[0]["state"] == "released"
    assert ask(later, DISCOVER, {50: ip_bytes("10.0.2.15")}, mac=OTHER_MAC).yiaddr == "10.0.2.15"


def test_what_does_not_fit_any_more_is_forgotten() -> None:
    net = made()
    lease(net)
    rows = net.stack.leases()
    assert not made(net="10.9.0.0/24").stack.dhcp.leases.restore(rows, SECOND)
    assert not made(fixed=((OTHER_MAC, "10.0.2.15", ""),)).stack.dhcp.leases.restore(rows, SECOND)
    assert not made(fixed=((GUEST_MAC, "10.0.2.99", ""),)).stack.dhcp.leases.restore(rows, SECOND)
    assert made().stack.dhcp.leases.restore(rows * 2, SECOND) == 1
    for bad in (
        [{}],
        [{**rows[0], "mac": "xx"}],
        [{**rows[0], "expires": "soon"}],
        ["x"],
        [{**rows[0], "address": "nowhere"}],
    ):
        with pytest.raises((ValueError, KeyError, TypeError)):
            made().stack.dhcp.leases.restore(bad, SECOND)


def test_every_change_is_told() -> None:
    net = made()
    told: list[int] = []
    net.stack.dhcp.leases.changed = lambda: told.append(1)
    ask(net, DISCOVER)
    assert not told, "an offer is nothing to keep"
    lease(net)
    assert len(told) == 1


def test_the_file_field_and_option_67_say_the_same() -> None:
    net = made(bootfile="pxelinux.0", dhcp_options=((67, b"other.0"),))
    offer = ask(net, DISCOVER, {55: b"\x43"})
    assert offer.options[67] == offer.file.rstrip(b"\0") == b"other.0"
