"""The DHCP server: every message type, where replies go, what is in them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.config import Config
from slirp.services.leases import DECLINE_TIME, SETTLE
from slirp.wire import dhcp as formats
from slirp.wire import ipv4 as wire
from slirp.wire.dhcp import ACK, DECLINE, DISCOVER, INFORM, NAK, OFFER, RELEASE, REQUEST
from tests.slirp.fakes import BROADCAST, GUEST_MAC, HOST_MAC, SECOND, Ip, Net, arp, udp

OTHER_MAC = bytes.fromhex("525400cccccc")
EVERYBODY = "255.255.255.255"


def query(
    kind: int | None,
    options: dict[int, bytes] | None = None,
    *,
    mac: bytes = GUEST_MAC,
    src: str = "0.0.0.0",
    dst: str = EVERYBODY,
    to: bytes = BROADCAST,
    flags: int = 0,
    ciaddr: str = "0.0.0.0",
    giaddr: str = "0.0.0.0",
    xid: int = 0xABCD0123,
    cookie: bool = True,
) -> bytes:
    """A client's frame."""
    head = formats.BOOTP.pack(
        1,
        1,
        6,
        0,
        xid,
        0,
        flags,
        wire.ip_bytes(ciaddr),
        bytes(4),
        bytes(4),
        wire.ip_bytes(giaddr),
        mac,
        b"",
        b"",
    )
    body = b""
    if cookie:
        body = formats.COOKIE
        if kind is not None:
            body += bytes((53, 1, kind))
        for code, value in (options or {}).items():
            body += bytes((code, len(value))) + value
        body += b"\xff"
    return udp(dst, 67, (head + body).ljust(300, b"\0"), src=src, sport=68, to=to, mac=mac)


class Reply:
    """A server's message."""

    def __init__(self, packet: Ip) -> None:
        self.packet = packet
        assert packet.src == "10.0.2.2"
        assert packet.ports[0] == 67
        self.port = packet.ports[1]
        data = packet.payload
        assert len(data) >= 300
        fields = formats.BOOTP.unpack_from(data)
        assert fields[0] == 2
        (_, self.htype, self.hlen, _, self.xid, _, self.flags) = fields[:7]
        self.ciaddr, self.yiaddr, self.siaddr, self.giaddr = map(wire.ip_text, fields[7:11])
        self.chaddr, self.sname, self.file = fields[11:]
        self.order: list[int] = []
        self.options: dict[int, bytes] = {}
        self.cookie = data[236:240] == formats.COOKIE
        if self.cookie:
            self._read(data[240:])
            overload = self.options.get(52, b"\0")[0]
            if overload & 1:
                self._read(self.file)
            if overload & 2:
                self._read(self.sname)

    def _read(self, area: bytes) -> None:
        while area and area[0] != 255:
            if area[0] == 0:
                area = area[1:]
                continue
            code, size = area[:2]
            self.order.append(code)
            self.options[code] = self.options.get(code, b"") + area[2 : 2 + size]
            area = area[2 + size :]

    @property
    def kind(self) -> int | None:
        return self.options[53][0] if 53 in self.options else None


@pytest.fixture
def net() -> Net:
    return Net(known=False)


def ask(net: Net, *args: Any, **kw: Any) -> Reply | None:
    answers = net.ask(query(*args, **kw))
    assert len(answers) <= 1
    return Reply(answers[0]) if answers else None


def lease(net: Net, mac: bytes = GUEST_MAC, options: dict[int, bytes] | None = None) -> str:
    """DISCOVER, OFFER, REQUEST, ACK."""
    offer = ask(net, DISCOVER, options, mac=mac)
    assert offer is not None
    assert offer.kind == OFFER
    wanted = {50: wire.ip_bytes(offer.yiaddr), 54: wire.ip_bytes("10.0.2.2")} | (options or {})
    ack = ask(net, REQUEST, wanted, mac=mac)
    assert ack is not None
    assert ack.kind == ACK
    assert ack.yiaddr == offer.yiaddr
    return ack.yiaddr


# ---- DISCOVER and SELECTING --------------------------------------------------------------------------------


def test_the_first_guest_gets_15(net: Net) -> None:
    offer = ask(net, DISCOVER)
    assert offer is not None
    assert (offer.kind, offer.yiaddr, offer.siaddr, offer.xid) == (OFFER, "10.0.2.15", "10.0.2.2", 0xABCD0123)
    assert (offer.htype, offer.hlen, offer.chaddr[:6]) == (1, 6, GUEST_MAC)
    assert offer.options[1] == wire.ip_bytes("255.255.255.0")
    assert offer.options[3] == wire.ip_bytes("10.0.2.2")
    assert offer.options[6] == wire.ip_bytes("10.0.2.3")
    assert offer.options[54] == wire.ip_bytes("10.0.2.2")
    assert offer.options[51] == (86400).to_bytes(4, "big")
    assert offer.options[58] == (43200).to_bytes(4, "big")
    assert offer.options[59] == (75600).to_bytes(4, "big")
    assert offer.options[26] == (1500).to_bytes(2, "big")


def test_a_lease(net: Net) -> None:
    assert lease(net) == "10.0.2.15"
    assert lease(net, OTHER_MAC) == "10.0.2.16"
    assert lease(net) == "10.0.2.15"
    rows = net.stack.leases()
    assert [(row["address"], row["state"], row["expires"]) for row in rows] == [
        ("10.0.2.15", "bound", 86400.0),
        ("10.0.2.16", "bound", 86400.0),
    ]


def test_a_client_id_is_the_client(net: Net) -> None:
    assert lease(net, options={61: b"\x01one"}) == "10.0.2.15"
    assert lease(net, options={61: b"\x01two"}) == "10.0.2.16"
    net.run(SETTLE / SECOND + 1)
    assert lease(net, OTHER_MAC, {61: b"\x01one"}) == "10.0.2.15"


@pytest.mark.parametrize("pause", [0, SETTLE / SECOND + 1])
def test_clones_with_one_client_id_are_two_clients(net: Net, pause: float) -> None:
    """Cloned machines have the same machine-id, and so the same identifier."""
    clone = {61: b"\xff1234duid"}
    assert lease(net, options=clone) == "10.0.2.15"
    net.put(arp(1, "10.0.2.15", "10.0.2.2"))
    net.run(pause)
    for _ in range(2):
        assert lease(net, OTHER_MAC, clone) == "10.0.2.16"
        renewed = ask(net, REQUEST, clone, src="10.0.2.15", ciaddr="10.0.2.15", dst="10.0.2.2", to=HOST_MAC)
        assert renewed is not None
        assert (renewed.kind, renewed.yiaddr) == (ACK, "10.0.2.15")


def test_clones_that_boot_at_once_are_two_clients(net: Net) -> None:
    clone = {61: b"\xff1234duid"}
    offers = [ask(net, DISCOVER, clone, mac=mac) for mac in (GUEST_MAC, OTHER_MAC)]
    assert [offer.yiaddr for offer in offers if offer] == ["10.0.2.15", "10.0.2.16"]


@pytest.mark.parametrize("kind", [DISCOVER, REQUEST, RELEASE, DECLINE])
@pytest.mark.parametrize("pretence", ["client id", "hardware address", "both"])
def test_nobody_reaches_the_lease_of_another(net: Net, kind: int, pretence: str) -> None:
    one = {61: b"\x01one"}
    lease(net, options=one)
    net.put(arp(1, "10.0.2.15", "10.0.2.2"))
    net.run(SETTLE / SECOND + 1)
    before = net.stack.leases()[0] | {"expires": 0}
    wanted = {50: wire.ip_bytes("10.0.2.15"), 12: b"thief", 51: (60).to_bytes(4, "big")}
    if pretence != "hardware address":
        wanted |= one
    mac = OTHER_MAC if pretence == "client id" else GUEST_MAC
    frame = query(kind, wanted, ciaddr="10.0.2.15" if kind == RELEASE else "0.0.0.0", mac=mac)
    net.ask(frame[:6] + OTHER_MAC + frame[12:])
    assert net.stack.leases()[0] | {"expires": 0} == before
    assert net.stack.leases()[0]["expires"] > 80000


@pytest.mark.parametrize(
    "stages", [(None, b"\xff1234duid"), (b"\xff1234duid", None), (None, b"\x01" + GUEST_MAC)]
)
def test_boot_stages_of_one_guest_keep_its_address(net: Net, stages: tuple) -> None:
    for stage in (*stages, *stages):
        assert lease(net, options={61: stage} if stage else None) == "10.0.2.15"
    assert lease(net, OTHER_MAC) == "10.0.2.16"


def test_another_identity_gets_the_address_once_it_is_released(net: Net) -> None:
    one, two = {61: b"\x01one"}, {61: b"\x01two"}
    lease(net, options=one)
    released = {"src": "10.0.2.15", "dst": "10.0.2.2", "to": HOST_MAC, "ciaddr": "10.0.2.15"}
    ask(net, RELEASE, one, **released)
    assert lease(net, options=two) == "10.0.2.15"


def test_the_client_id_comes_back(net: Net) -> None:
    assert ask(net, DISCOVER, {61: b"\x01one"}).options[61] == b"\x01one"


def test_another_servers_offer_withdraws_ours(net: Net) -> None:
    ask(net, DISCOVER)
    other = {50: wire.ip_bytes("10.0.2.15"), 54: wire.ip_bytes("10.0.2.9")}
    assert ask(net, REQUEST, other) is None
    assert ask(net, DISCOVER, {50: wire.ip_bytes("10.0.2.15")}, mac=OTHER_MAC).yiaddr == "10.0.2.15"


def test_the_pool_is_the_rest_of_the_net_then_silence(net: Net) -> None:
    given = [lease(net, bytes((2, 0, 0, 0, 0, n))) for n in range(240)]
    assert given == [f"10.0.2.{n}" for n in range(15, 255)]
    assert ask(net, DISCOVER) is None
    assert net.count("dhcp_exhausted") == 1


def test_addresses_that_ran_out_are_used_again() -> None:
    net = Net(Config(lease_time=60, dhcpstart="10.0.2.253"), known=False)
    lease(net, bytes((2, 0, 0, 0, 0, 1)))
    lease(net, bytes((2, 0, 0, 0, 0, 2)))
    assert ask(net, DISCOVER) is None
    net.run(61)
    assert lease(net) == "10.0.2.253"


def test_a_static_guests_address_is_not_offered(net: Net) -> None:
    net.put(arp(1, "10.0.2.15", "10.0.2.2", sha=OTHER_MAC))
    net.take()
    assert lease(net) == "10.0.2.16"
    assert lease(net, OTHER_MAC) == "10.0.2.15"


def test_own_addresses_in_the_pool_are_left_out() -> None:
    net = Net(Config(dhcpstart="10.0.2.1"), known=False)
    assert [lease(net, bytes((2, 0, 0, 0, 0, n))) for n in range(3)] == ["10.0.2.1", "10.0.2.4", "10.0.2.5"]


def test_a_big_net() -> None:
    net = Net(Config(net="10.0.0.0/8", dhcpstart="10.200.0.255"), known=False)
    answers = net.ask(query(DISCOVER))
    assert wire.ip_text(answers[0].payload[16:20]) == "10.200.0.255"


# ---- the other states of REQUEST ---------------------------------------------------------------------------


def test_init_reboot_with_its_lease(net: Net) -> None:
    lease(net)
    assert ask(net, REQUEST, {50: wire.ip_bytes("10.0.2.15")}).kind == ACK


@pytest.mark.parametrize("address", ["192.168.1.5", "10.0.2.2", "10.0.2.255", "10.0.2.9"])
def test_init_reboot_with_an_impossible_address(net: Net, address: str) -> None:
    nak = ask(net, REQUEST, {50: wire.ip_bytes(address)})
    assert nak is not None
    assert (nak.kind, nak.yiaddr, nak.ciaddr, nak.siaddr) == (NAK, "0.0.0.0", "0.0.0.0", "0.0.0.0")
    assert nak.options[54] == wire.ip_bytes("10.0.2.2")
    assert set(nak.options) == {53, 54, 56}
    assert (nak.packet.dst, nak.packet.to) == (EVERYBODY, BROADCAST)


def test_init_reboot_with_somebody_elses_address(net: Net) -> None:
    lease(net, OTHER_MAC)
    assert ask(net, REQUEST, {50: wire.ip_bytes("10.0.2.15")}).kind == NAK


def test_a_lease_from_before_our_restart_goes_on(net: Net) -> None:
    ack = ask(net, REQUEST, {50: wire.ip_bytes("10.0.2.77")})
    assert (ack.kind, ack.yiaddr) == (ACK, "10.0.2.77")


@pytest.mark.parametrize(("dst", "to"), [("10.0.2.2", HOST_MAC), (EVERYBODY, BROADCAST)])
def test_renewing_and_rebinding(net: Net, dst: str, to: bytes) -> None:
    address = lease(net)
    net.run(50_000)
    ack = ask(net, REQUEST, src=address, dst=dst, to=to, ciaddr=address)
    assert (ack.kind, ack.yiaddr, ack.ciaddr) == (ACK, address, address)
    assert (ack.packet.dst, ack.packet.to) == (address, GUEST_MAC)
    assert net.stack.leases()[0]["expires"] == 86400.0


def test_renewing_an_address_that_went_to_another(net: Net) -> None:
    lease(net, OTHER_MAC)
    nak = ask(net, REQUEST, src="10.0.2.15", ciaddr="10.0.2.15", dst="10.0.2.2", to=HOST_MAC)
    assert nak.kind == NAK


def test_request_without_any_address(net: Net) -> None:
    assert ask(net, REQUEST) is None
    assert net.count("dhcp_malformed") == 1


# ---- DECLINE, RELEASE, INFORM, BOOTP -----------------------------------------------------------------------


def test_decline(net: Net) -> None:
    lease(net)
    assert ask(net, DECLINE, {50: wire.ip_bytes("10.0.2.15"), 54: wire.ip_bytes("10.0.2.2")}) is None
    assert lease(net) == "10.0.2.16"
    net.run(DECLINE_TIME / SECOND + 1)
    assert ask(net, DISCOVER, {50: wire.ip_bytes("10.0.2.15")}, mac=OTHER_MAC).yiaddr == "10.0.2.15"


def test_decline_of_what_one_does_not_have(net: Net) -> None:
    lease(net)
    ask(net, DECLINE, {50: wire.ip_bytes("10.0.2.15")}, mac=OTHER_MAC)
    assert net.count("dhcp_ignored") == 1
    assert lease(net) == "10.0.2.15"


def test_release(net: Net) -> None:
    address = lease(net)
    assert ask(net, RELEASE, src=address, dst="10.0.2.2", to=HOST_MAC, ciaddr=address) is None
    assert net.stack.leases()[0]["state"] == "released"
    assert lease(net) == address


def test_release_by_another(net: Net) -> None:
    address = lease(net)
    ask(net, RELEASE, src=address, dst="10.0.2.2", to=HOST_MAC, ciaddr=address, mac=OTHER_MAC)
    assert net.stack.leases()[0]["state"] == "bound"


def test_inform(net: Net) -> None:
    ack = ask(
        net, INFORM, {55: b"\x06\x0f\x33"}, src="10.0.2.77", ciaddr="10.0.2.77", dst="10.0.2.2", to=HOST_MAC
    )
    assert (ack.kind, ack.yiaddr, ack.packet.dst) == (ACK, "0.0.0.0", "10.0.2.77")
    assert set(ack.options) == {53, 54, 6}
    assert not net.stack.leases()


def test_inform_without_ciaddr_uses_the_source(net: Net) -> None:
    assert ask(net, INFORM, src="10.0.2.77").packet.dst == "10.0.2.77"
    assert ask(net, INFORM) is None


def test_bootp(net: Net) -> None:
    reply = ask(net, None)
    assert (reply.yiaddr, reply.kind) == ("10.0.2.15", None)
    assert not {51, 53, 54, 58, 59} & set(reply.options)
    assert reply.options[3] == wire.ip_bytes("10.0.2.2")
    assert net.stack.leases()[0]["expires"] is None


def test_bootp_without_cookie(net: Net) -> None:
    reply = ask(net, None, cookie=False)
    assert (reply.yiaddr, reply.cookie) == ("10.0.2.15", False)


@pytest.mark.parametrize("kind", [0, OFFER, ACK, NAK, 9, 255])
def test_servers_messages_are_ignored(net: Net, kind: int) -> None:
    assert ask(net, kind) is None
    assert net.count("dhcp_malformed") == 1


# ---- where replies go --------------------------------------------------------------------------------------


def test_unicast_to_the_new_address(net: Net) -> None:
    offer = ask(net, DISCOVER)
    assert (offer.packet.dst, offer.packet.to, offer.port) == ("10.0.2.15", GUEST_MAC, 68)


def test_the_broadcast_bit(net: Net) -> None:
    offer = ask(net, DISCOVER, flags=0x8000)
    assert (offer.packet.dst, offer.packet.to, offer.flags) == (EVERYBODY, BROADCAST, 0x8000)


def test_a_relay(net: Net) -> None:
    relay = {"src": "10.0.2.99", "giaddr": "10.0.2.99", "dst": "10.0.2.2", "to": HOST_MAC}
    offer = ask(net, DISCOVER, **relay)
    assert (offer.packet.dst, offer.packet.to, offer.port) == ("10.0.2.99", GUEST_MAC, 67)
    assert offer.giaddr == "10.0.2.99"
    nak = ask(net, REQUEST, {50: wire.ip_bytes("192.0.2.1")}, **relay)
    assert (nak.kind, nak.flags, nak.packet.dst) == (NAK, 0x8000, "10.0.2.99")


@pytest.mark.parametrize("giaddr", ["192.168.7.1", "10.0.2.2"])
def test_a_relay_of_another_net(net: Net, giaddr: str) -> None:
    assert ask(net, DISCOVER, giaddr=giaddr) is None
    assert net.count("dhcp_foreign_relay") == 1


def test_a_client_that_claims_a_group_mac_gets_nothing(net: Net) -> None:
    frame = query(DISCOVER, mac=b"\x01\x00\x5e\x00\x00\x01")
    net.put(frame[:6] + GUEST_MAC + frame[12:])
    assert net.take() == []


# ---- options -----------------------------------------------------------------------------------------------

FULL = Config(
    hostname="guest",
    domainname="lab.example",
    dnssearch=("lab.example", "example", "deep.lab.example"),
    lease_time=3600,
    mtu=9000,
    tftp_server_name="tftp.example",
    bootfile="pxelinux.0",
)


def test_the_parameter_list_gives_the_order() -> None:
    net = Net(FULL, known=False)
    offer = ask(net, DISCOVER, {55: bytes((119, 15, 3, 1, 12, 26, 6, 3, 99))})
    assert offer.order == [53, 54, 51, 119, 15, 1, 3, 12, 26, 6]
    assert offer.options[12] == b"guest"
    assert offer.options[15] == b"lab.example"
    assert offer.options[26] == (9000).to_bytes(2, "big")
    assert offer.options[51] == (3600).to_bytes(4, "big")
    assert offer.options[119] == b"\x03lab\x07example\x00\xc0\x04\x04deep\xc0\x00"
    assert offer.file.rstrip(b"\0") == b"pxelinux.0"


def test_without_a_list_everything_comes() -> None:
    offer = ask(Net(FULL, known=False), DISCOVER)
    assert {1, 3, 6, 12, 15, 26, 51, 53, 54, 58, 59, 66, 67, 119} <= set(offer.options)


def test_restrict_leaves_out_router_and_name_server() -> None:
    offer = ask(Net(Config(restrict=True), known=False), DISCOVER, {55: b"\x01\x03\x06"})
    assert offer.order == [53, 54, 51, 1]


@pytest.mark.parametrize(
    ("asked", "found"), [(60, 60), (1, 60), (3600, 3600), (100_000, 86400), (0xFFFFFFFF, 86400)]
)
def test_a_shorter_lease_may_be_asked_for(net: Net, asked: int, found: int) -> None:
    offer = ask(net, DISCOVER, {51: asked.to_bytes(4, "big")})
    assert int.from_bytes(offer.options[51], "big") == found


@pytest.mark.parametrize(
    ("vendor", "lease_time", "renew_time", "found"),
    [
        (b"udhcp 1.35.0", 120, 30, 48),
        (b"udhcp 1.35.0", 0xFFFFFFFF, 30, 48),
        (b"udhcp 1.35.0", 120, None, 120),
        (b"MSFT 5.0", 120, 30, 120),
    ],
)
def test_busybox_comes_back_as_early_as_who_heeds_t1(
    vendor: bytes, lease_time: int, renew_time: int | None, found: int
) -> None:
    net = Net(Config(lease_time=lease_time, renew_time=renew_time), known=False)
    assert int.from_bytes(ask(net, DISCOVER, {60: vendor}).options[51], "big") == found


def test_infinite_leases_have_no_timers() -> None:
    offer = ask(Net(Config(lease_time=0xFFFFFFFF), known=False), DISCOVER)
    assert offer.options[51] == b"\xff" * 4
    assert not {58, 59} & set(offer.options)


LONG = Config(dnssearch=tuple(f"{n:02d}{'x' * 40}.example" for n in range(24)))


def test_a_long_search_list_is_split_when_it_may_be() -> None:
    offer = ask(Net(LONG, known=False), DISCOVER, {57: (1500).to_bytes(2, "big"), 55: b"\x77\x01"})
    assert offer.order.count(119) > 4
    assert len(offer.options[119]) > 1000
    assert len(offer.packet.body) + 20 <= 1500


def test_what_does_not_fit_is_left_out_and_counted() -> None:
    net = Net(LONG, known=False)
    offer = ask(net, DISCOVER, {55: b"\x77\x01\x03"})
    assert 119 not in offer.options
    assert {1, 3} <= set(offer.options)
    assert net.count("dhcp_option_dropped") == 1
    assert len(offer.packet.body) + 20 <= 576


def test_overload_makes_room() -> None:
    config = Config(
        domainname=".".join(["d" * 60] * 3),
        hostname="h" * 60,
        tftp_server_name="t" * 100,
        dnssearch=("a.example",),
    )
    offer = ask(Net(config, known=False), DISCOVER)
    assert offer.options[52][0] & 1
    assert {12, 15, 66, 119} <= set(offer.options)
    assert len(offer.packet.body) + 20 <= 576


def test_the_hostname_is_remembered(net: Net) -> None:
    lease(net, options={12: b"penguin"})
    assert net.stack.leases()[0]["hostname"] == "penguin"


def test_off() -> None:
    net = Net(Config(dhcp=False), known=False)
    assert ask(net, DISCOVER) is None
    assert net.count("broadcast_ignored") == 1


@given(st.binary(max_size=350), st.integers(0, 40))
def test_any_bytes_are_counted_never_raised(data: bytes, cut: int) -> None:
    net = Net(known=False)
    good = query(DISCOVER, {55: b"\x01\x03", 61: b"\x01abc"})[42:]
    for payload in (data, good[: 240 + cut], good[:240] + data, good[:28] + data):
        net.put(udp(EVERYBODY, 67, payload, src="0.0.0.0", sport=68, to=BROADCAST))


@pytest.mark.parametrize("code", [50, 51, 54, 57])
@pytest.mark.parametrize("size", [0, 1, 5, 8])
def test_a_wrong_hint_is_ignored_and_the_request_answered(net: Net, code: int, size: int) -> None:
    offer = ask(net, DISCOVER, {code: bytes(size)})
    assert (offer.kind, offer.yiaddr) == (OFFER, "10.0.2.15")
    assert int.from_bytes(offer.options[51], "big") == 86400
    wanted = {} if code == 50 else {50: wire.ip_bytes("10.0.2.15")}
    ack = ask(net, REQUEST, {**wanted, code: bytes(size)})
    assert (ack.kind, ack.yiaddr) == (ACK, "10.0.2.15")
    assert net.count("dhcp_option_ignored") == 2
    assert net.count("dhcp_malformed") == 0


def test_a_request_whose_address_makes_no_sense_is_told_so(net: Net) -> None:
    assert ask(net, REQUEST, {50: b"ab"}).kind == NAK


@pytest.mark.parametrize("asked", [60, 100, 7200, 0xFFFFFFFF])
@pytest.mark.parametrize("vendor", [b"udhcp 1.35.0", b"MSFT 5.0"])
@pytest.mark.parametrize("seconds", [120, 3600, 0xFFFFFFFF])
def test_a_lease_time_that_was_given_is_what_everybody_gets(asked: int, vendor: bytes, seconds: int) -> None:
    net = Net(Config(lease_time=seconds, lease_given=True, renew_time=30), known=False)
    options = {51: asked.to_bytes(4, "big"), 60: vendor}
    for reply in (
        ask(net, DISCOVER, options),
        ask(net, REQUEST, {**options, 50: wire.ip_bytes("10.0.2.15")}),
        ask(net, REQUEST, options, ciaddr="10.0.2.15", src="10.0.2.15"),
    ):
        assert int.from_bytes(reply.options[51], "big") == seconds
