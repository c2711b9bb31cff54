"""The DHCPv6 server: every message, who is answered, what with."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.config import IPXE, Config
from slirp.config6 import Config6
from slirp.services.leases import DECLINE_TIME, SETTLE
from slirp.wire import dhcpv6 as dw
from slirp.wire import ipv4 as wire
from slirp.wire.dhcpv6 import option
from tests.slirp.fakes import GUEST_MAC, SECOND
from tests.slirp.fakes6 import LOCAL, REMOTE, Net6, icmp6, ping6, udp6

DUID = b"\0\1\0\1" + bytes(range(8))
OTHER = b"\0\3\0\1" + b"\x52\x54\0\0\0\1"
SERVER = b"\0\3\0\1" + bytes.fromhex("525600000002")
IAID = b"\0\0\0\7"
XID = b"\1\2\3"
FIRST = wire.ip_bytes("fec0::1000")


def ia(*addresses: str, iaid: bytes = IAID, kind: int = dw.IA_NA) -> bytes:
    body = b"".join(option(dw.IA_ADDRESS, wire.ip_bytes(a) + bytes(8)) for a in addresses)
    return option(kind, iaid + bytes(0 if kind == dw.IA_TA else 8) + body)


def ask(
    net: Net6,
    kind: int,
    *parts: bytes,
    client: bytes | None = DUID,
    server: bytes | None = None,
    src: str = LOCAL,
    dst: str = "ff02::1:2",
    mac: bytes = GUEST_MAC,
) -> dict[int, bytes] | None:
    """The options of the answer, with its type as -1; None: silence."""
    message = bytes((kind,)) + XID
    if client is not None:
        message += option(dw.CLIENT_ID, client)
    if server is not None:
        message += option(dw.SERVER_ID, server)
    found = net.ask6(udp6(dst, 547, message + b"".join(parts), src=src, sport=546, mac=mac))
    if not found:
        return None
    (answer,) = found
    assert (answer.ports, answer.dst, answer.src) == ((547, 546), src, "fe80::2")
    assert answer.payload[1:4] == XID
    options = dict(dw.options(answer.payload, 4, len(answer.payload)))
    assert options[dw.SERVER_ID] == SERVER
    assert options.get(dw.CLIENT_ID) == client
    return options | {-1: bytes(answer.payload[:1])}


def address(options: dict[int, bytes] | None) -> tuple[bytes, int, int]:
    """(address, preferred, valid) of the identity association."""
    assert options is not None
    value = options[dw.IA_NA]
    inner = dict(dw.options(value, 12, len(value)))
    body = inner[dw.IA_ADDRESS]
    return body[:16], *struct.unpack("!II", body[16:24])


def status(options: dict[int, bytes] | None, kind: int | None = None) -> int:
    assert options is not None
    if kind is not None:
        value = options[kind]
        options = dict(dw.options(value, 4 if kind == dw.IA_TA else 12, len(value)))
    return int.from_bytes(options[dw.STATUS][:2], "big")


def bound(net: Net6) -> bytes:
    """A guest with a lease; its address."""
    found = ask(net, dw.REQUEST, ia(), server=SERVER)
    assert found is not None and found[-1] == bytes((dw.REPLY,))
    return address(found)[0]


@pytest.fixture
def net() -> Net6:
    return Net6()


def test_solicit_is_answered_by_an_offer(net: Net6) -> None:
    found = ask(net, dw.SOLICIT, ia())
    assert found is not None and found[-1] == bytes((dw.ADVERTISE,))
    assert address(found) == (FIRST, 64800, 86400)
    assert found[dw.IA_NA][4:12] == struct.pack("!II", 32400, 51840)
    assert found[dw.DNS] == wire.ip_bytes("fec0::3")
    assert net.stack.leases()[0]["state"] == "offered"


def test_rapid_commit(net: Net6) -> None:
    found = ask(net, dw.SOLICIT, ia(), option(dw.RAPID_COMMIT, b""))
    assert found is not None and found[-1] == bytes((dw.REPLY,))
    assert found[dw.RAPID_COMMIT] == b""
    row = net.stack.leases()[0]
    assert (row["address"], row["state"], row["mac"]) == ("fec0::1000", "bound", "52:54:00:12:34:56")


def test_request_renew_rebind_keep_the_address(net: Net6) -> None:
    assert bound(net) == FIRST
    net.now += 40000 * SECOND
    for kind, server in ((dw.RENEW, SERVER), (dw.REBIND, None)):
        found = ask(net, kind, ia("fec0::1000"), server=server)
        assert found is not None and found[-1] == bytes((dw.REPLY,))
        assert address(found) == (FIRST, 64800, 86400)
    assert net.stack.leases()[0]["expires"] == 86400


def test_the_same_client_comes_back_to_its_address_another_gets_another(net: Net6) -> None:
    assert bound(net) == FIRST
    assert (
        address(ask(net, dw.REQUEST, ia(), server=SERVER, client=OTHER, mac=b"\x52\x54\0\0\0\1"))[0] != FIRST
    )
    assert address(ask(net, dw.SOLICIT, ia()))[0] == FIRST


def test_two_identities_of_one_client(net: Net6) -> None:
    found = ask(net, dw.REQUEST, ia(iaid=b"\0\0\0\1"), server=SERVER)
    other = ask(net, dw.REQUEST, ia(iaid=b"\0\0\0\2"), server=SERVER)
    assert address(found)[0] != address(other)[0]


def test_after_a_restart_of_ours_clients_go_on(net: Net6) -> None:
    found = ask(net, dw.RENEW, ia("fec0::1234"), server=SERVER)
    assert address(found)[0] == wire.ip_bytes("fec0::1234")


def test_renew_of_an_address_of_another_gets_a_new_one_and_the_old_is_taken_back(net: Net6) -> None:
    bound(net)
    mac = b"\x52\x54\0\0\0\1"
    found = ask(net, dw.RENEW, ia("fec0::1000"), server=SERVER, client=OTHER, mac=mac)
    assert found is not None
    value = found[dw.IA_NA]
    bodies = [body for code, body in dw.options(value, 12, len(value)) if code == dw.IA_ADDRESS]
    assert bodies[0][:16] == wire.ip_bytes("fec0::1001")
    assert bodies[1] == FIRST + bytes(8)


@pytest.mark.parametrize("wanted", ["fec0::2", "fec0::3", "fec0::15", "2001:db8::1"])
def test_what_is_not_ours_to_give(net: Net6, wanted: str) -> None:
    assert address(ask(net, dw.REQUEST, ia(wanted), server=SERVER))[0] == FIRST


def test_an_address_in_use_is_not_given(net: Net6) -> None:
    net.put(ping6("fec0::2", src="fec0::1000", mac=b"\x52\x54\0\0\0\1"))
    net.take()
    assert address(ask(net, dw.SOLICIT, ia()))[0] == wire.ip_bytes("fec0::1001")


def test_release(net: Net6) -> None:
    bound(net)
    found = ask(net, dw.RELEASE, ia("fec0::1000"), server=SERVER)
    assert status(found) == dw.SUCCESS
    assert net.stack.leases()[0]["state"] == "released"
    assert status(ask(net, dw.RELEASE, ia("fec0::1000"), server=SERVER), dw.IA_NA) == dw.NO_BINDING


@pytest.mark.parametrize("kind", [dw.RELEASE, dw.DECLINE, dw.SOLICIT, dw.REQUEST, dw.RENEW])
def test_nobody_reaches_the_lease_of_another(net: Net6, kind: int) -> None:
    """Nor do clones with one DUID fight for it."""
    bound(net)
    net.put(ping6("fec0::2", src="fec0::1000", mac=GUEST_MAC))
    net.now += SETTLE + SECOND
    net.take()
    server = None if kind == dw.SOLICIT else SERVER
    found = ask(net, kind, ia("fec0::1000"), server=server, mac=b"\x52\x54\0\0\0\1")
    if kind in (dw.RELEASE, dw.DECLINE):
        assert status(found, dw.IA_NA) == dw.NO_BINDING
    else:
        assert found is not None
        given = [
            body
            for code, body in dw.options(found[dw.IA_NA], 12, len(found[dw.IA_NA]))
            if code == dw.IA_ADDRESS
        ]
        assert given[0][:16] == wire.ip_bytes("fec0::1001")
    assert next((row["address"], row["state"]) for row in net.stack.leases()) == ("fec0::1000", "bound")
    assert address(ask(net, dw.RENEW, ia("fec0::1000"), server=SERVER))[0] == FIRST


def test_decline(net: Net6) -> None:
    bound(net)
    assert status(ask(net, dw.DECLINE, ia("fec0::1000"), server=SERVER)) == dw.SUCCESS
    assert address(ask(net, dw.SOLICIT, ia()))[0] == wire.ip_bytes("fec0::1001")
    net.now += DECLINE_TIME + SECOND
    assert net.stack.side6 is not None
    assert net.stack.side6.dhcp.leases.claim(b"new", GUEST_MAC, FIRST, net.now) is not None


@pytest.mark.parametrize(("where", "code"), [("fec0::1000", dw.SUCCESS), ("2001:db8::1", dw.NOT_ON_LINK)])
def test_confirm(net: Net6, where: str, code: int) -> None:
    assert status(ask(net, dw.CONFIRM, ia(where))) == code
    assert ask(net, dw.CONFIRM, ia()) is None


def test_information(net: Net6) -> None:
    found = ask(net, dw.INFORMATION, client=None)
    assert found is not None and found[-1] == bytes((dw.REPLY,))
    assert found[dw.REFRESH] == (86400).to_bytes(4, "big")
    assert found[dw.DNS] == wire.ip_bytes("fec0::3")
    assert dw.IA_NA not in found


def test_all_that_there_is_to_know() -> None:
    config = Config(
        v6=Config6(ntp=("2001:db8::7b", "fec0::9")),
        dnssearch=("a.example",),
        bootfile="grub/x.efi",
        lease_time=600,
    )
    wanted = option(dw.ORO, struct.pack("!HHHH", dw.DNS, dw.SEARCH, dw.NTP, dw.BOOT_URL))
    found = ask(Net6(config), dw.INFORMATION, wanted)
    assert found is not None
    assert found[dw.SEARCH] == b"\1a\7example\0"
    servers = [value for code, value in dw.options(found[dw.NTP], 0, len(found[dw.NTP])) if code == 1]
    assert servers == [wire.ip_bytes("2001:db8::7b"), wire.ip_bytes("fec0::9")]
    assert found[dw.BOOT_URL] == b"tftp://[fec0::2]/grub/x.efi"
    found = ask(Net6(config), dw.INFORMATION)
    assert found is not None and dw.NTP not in found and dw.BOOT_URL not in found
    assert address(ask(Net6(config), dw.SOLICIT, ia()))[1:] == (450, 600)


def test_a_boot_url_is_left_as_it_is() -> None:
    config = Config(v6=Config6(), bootfile="http://[2001:db8::1]/boot.efi")
    found = ask(Net6(config), dw.INFORMATION, option(dw.ORO, struct.pack("!H", dw.BOOT_URL)))
    assert found is not None and found[dw.BOOT_URL] == b"http://[2001:db8::1]/boot.efi"


def boots(words: str) -> tuple[bytes, ...]:
    """The options of ``ARCH,VENDOR,USER`` (any may be missing)."""
    arch, vendor, user = words.split(",")
    return (
        option(dw.ORO, struct.pack("!H", dw.BOOT_URL)),
        *((option(dw.ARCHITECTURE, struct.pack("!H", int(arch))),) if arch else ()),
        *(
            (option(dw.VENDOR_CLASS, b"\0\0\1\x57" + struct.pack("!H", len(vendor)) + vendor.encode()),)
            if vendor
            else ()
        ),
        *((option(dw.USER_CLASS, struct.pack("!H", len(user)) + user.encode()),) if user else ()),
    )


@pytest.mark.parametrize(
    ("client", "url"),
    [
        ("7,PXEClient:Arch:00007:UNDI:003016,", "tftp://[fec0::2]/shim.efi"),
        ("11,PXEClient:Arch:00011:UNDI:003016,", "tftp://[fec0::2]/all.efi"),
        ("16,HTTPClient:Arch:00016:UNDI:003016,", "http://[fec0::2]/a.efi"),
        ("15,HTTPClient:Arch:00015:UNDI:003016,", ""),
        ("7,PXEClient:Arch:00007:UNDI:003010,iPXE", "http://[fec0::2]/menu.ipxe"),
        (",,", "tftp://[fec0::2]/all.efi"),
    ],
)
def test_the_boot_file_for_a_client(client: str, url: str) -> None:
    """As in DHCP: by architecture, user class, vendor class."""
    files = ((7, "shim.efi"), (16, "http://[fec0::2]/a.efi"), (IPXE, "http://[fec0::2]/menu.ipxe"))
    config = Config(v6=Config6(), bootfile="all.efi", bootfiles=files)
    for kind in (dw.SOLICIT, dw.INFORMATION):
        found = ask(Net6(config), kind, *boots(client), *((ia(),) if kind == dw.SOLICIT else ()))
        assert found is not None
        assert found.get(dw.BOOT_URL, b"").decode() == url
        http = b"\0\0\1\x57\0\x0aHTTPClient" if url and "HTTPClient" in client else None
        assert found.get(dw.VENDOR_CLASS) == http


@pytest.mark.parametrize("code", [dw.ARCHITECTURE, dw.USER_CLASS, dw.VENDOR_CLASS])
@pytest.mark.parametrize("value", [b"", b"\0", b"\0\xff", b"\0\0\1\x57", b"\0\0\1\x57\xff\xffx", bytes(600)])
def test_classes_that_make_no_sense(code: int, value: bytes) -> None:
    config = Config(v6=Config6(), bootfile="all.efi")
    wanted = option(dw.ORO, struct.pack("!H", dw.BOOT_URL))
    found = ask(Net6(config), dw.INFORMATION, wanted, option(code, value))
    assert found is not None and found[dw.BOOT_URL] == b"tftp://[fec0::2]/all.efi"


def test_leases_for_ever() -> None:
    found = ask(Net6(Config(v6=Config6(), lease_time=0xFFFFFFFF)), dw.REQUEST, ia(), server=SERVER)
    assert found is not None
    assert address(found)[1:] == (0xFFFFFFFF, 0xFFFFFFFF)
    assert found[dw.IA_NA][4:12] == b"\xff" * 8


def test_restricted_guests_are_told_no_name_server() -> None:
    found = ask(Net6(Config(restrict=True, v6=Config6())), dw.INFORMATION)
    assert found is not None and dw.DNS not in found


def test_temporary_addresses_and_prefixes_are_declined(net: Net6) -> None:
    found = ask(net, dw.REQUEST, ia(kind=dw.IA_TA), ia(kind=dw.IA_PD), server=SERVER)
    assert status(found, dw.IA_TA) == dw.NO_ADDRESS
    assert status(found, dw.IA_PD) == dw.NO_PREFIX


def test_none_left() -> None:
    net = Net6(Config(v6=Config6("fd00::/126")), known=False)
    taken = [
        ask(net, dw.REQUEST, ia(), server=SERVER, client=bytes((0, 3, n)), mac=bytes((2, 0, 0, 0, 0, n)))
        for n in range(3)
    ]
    assert address(taken[0])[0] == wire.ip_bytes("fd00::1")
    assert status(taken[1], dw.IA_NA) == dw.NO_ADDRESS
    assert net.count("dhcp6_exhausted") == 2


def test_the_guests_name(net: Net6) -> None:
    ask(net, dw.REQUEST, ia(), option(dw.FQDN, b"\0\3web\3lab\0"), server=SERVER)
    assert net.stack.leases()[0]["hostname"] == "web.lab"
    assert net.stack.guests.find("web", net.now, 6) is None  # it has to be heard of
    assert net.take()


@pytest.mark.parametrize(
    ("kind", "client", "server"),
    [
        (dw.SOLICIT, None, None),
        (dw.SOLICIT, DUID, SERVER),
        (dw.REQUEST, DUID, None),
        (dw.REQUEST, DUID, OTHER),
        (dw.RENEW, DUID, OTHER),
        (dw.RELEASE, DUID, None),
        (dw.CONFIRM, DUID, SERVER),
        (dw.REBIND, DUID, SERVER),
        (dw.INFORMATION, DUID, OTHER),
        (dw.ADVERTISE, DUID, SERVER),
        (dw.REPLY, DUID, SERVER),
        (dw.RECONFIGURE, DUID, SERVER),
        (99, DUID, None),
        (0, DUID, None),
    ],
)
def test_not_meant_for_us(net: Net6, kind: int, client: bytes | None, server: bytes | None) -> None:
    assert ask(net, kind, ia("fec0::1000"), client=client, server=server) is None
    assert net.count("dhcp6_ignored") == 1


def test_information_with_an_identity_is_refused(net: Net6) -> None:
    assert ask(net, dw.INFORMATION, ia()) is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\1\2\3",
    ],
)
def test_malformed(net: Net6, message: bytes) -> None:
    assert net.ask6(udp6("ff02::1:2", 547, message, src=LOCAL, sport=546)) == []
    assert net.count("dhcp6_malformed") == 1


BROKEN = [
    b"\0\1",
    b"\0\x27\0\5abc",
    option(dw.CLIENT_ID, b"x"),
    option(dw.CLIENT_ID, b"x" * 131),
    option(dw.CLIENT_ID, b"another"),
    option(dw.SERVER_ID, b""),
    option(dw.IA_NA, b"1234"),
    option(dw.IA_TA, b"12"),
    option(dw.IA_NA, b"1" * 12 + option(dw.IA_ADDRESS, b"short")),
    option(dw.IA_NA, b"1" * 12 + b"\0\5\0\x18"),
    option(dw.ORO, b"x"),
    option(99, b"") * 65,
]


@pytest.mark.parametrize("bad", BROKEN)
def test_a_wrong_hint_is_ignored_and_the_message_answered(net: Net6, bad: bytes) -> None:
    message = bytes((dw.SOLICIT,)) + XID + option(dw.CLIENT_ID, DUID) + ia() + bad
    (answer,) = net.ask6(udp6("ff02::1:2", 547, message, src=LOCAL, sport=546))
    options = dw.options(answer.payload, 4, len(answer.payload))
    assert dict(options)[dw.CLIENT_ID] == DUID
    given = [value for code, value in options if code == dw.IA_NA]
    assert given[0][12:14] == dw.IA_ADDRESS.to_bytes(2, "big")
    assert net.count("dhcp6_option_ignored") == 1


@pytest.mark.parametrize("bad", [b"", b"x", b"x" * 131])
def test_without_an_identifier_there_is_no_answer(net: Net6, bad: bytes) -> None:
    message = bytes((dw.SOLICIT,)) + XID + option(dw.CLIENT_ID, bad) + ia()
    assert net.ask6(udp6("ff02::1:2", 547, message, src=LOCAL, sport=546)) == []
    message = bytes((dw.INFORMATION,)) + XID + option(dw.CLIENT_ID, bad)
    assert len(net.ask6(udp6("ff02::1:2", 547, message, src=LOCAL, sport=546))) == 1


def test_a_group_is_asked_from_a_link_local_address_only(net: Net6) -> None:
    assert ask(net, dw.SOLICIT, ia(), src="fec0::15") is None
    assert net.count("dhcp6_malformed") == 1


def test_our_own_address_refers_to_the_group(net: Net6) -> None:
    message = (
        bytes((dw.RENEW,))
        + XID
        + option(dw.CLIENT_ID, DUID)
        + option(dw.SERVER_ID, SERVER)
        + ia("fec0::1000")
    )
    (answer,) = net.ask6(udp6("fec0::2", 547, message, sport=546))
    options = dict(dw.options(answer.payload, 4, len(answer.payload)))
    assert options[dw.STATUS][:2] == dw.USE_MULTICAST.to_bytes(2, "big")


@given(st.binary(max_size=300))
def test_parsing_raises_nothing_but_valueerror(data: bytes) -> None:
    try:
        dw.parse(data)
    except ValueError:
        pass


def test_ports_of_the_service_lead_nowhere_else(net: Net6) -> None:
    net.put(icmp6("fec0::15", REMOTE, 128, 0, 0, b""))
    assert not net.host.udps
