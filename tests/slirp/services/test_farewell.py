"""What a NAT says after its net has gone: whom it hears, and the one DHCPNAK that each gets."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.config import Config
from slirp.services.farewell import Farewell
from slirp.services.leases import BOUND, Lease
from slirp.wire import ipv4 as wire
from slirp.wire.dhcp import DISCOVER, INFORM, NAK, RELEASE, REQUEST
from tests.slirp.fakes import BROADCAST, GUEST_MAC, HOST_MAC, SECOND, Net, arp, read, udp
from tests.slirp.services.test_dhcp import OTHER_MAC, Reply, query

SERVER = wire.ip_bytes("10.0.2.2")
ADDRESS = "10.0.2.15"
OURS = {54: SERVER}
THEIRS = {54: wire.ip_bytes("192.168.77.1")}


def farewell(expires: int | None = 100 * SECOND) -> Farewell:
    """One client with a lease in force."""
    return Farewell(SERVER, [Lease(wire.ip_bytes(ADDRESS), b"\1" + GUEST_MAC, GUEST_MAC, BOUND, expires)])


def renewal(**more: object) -> bytes:
    """As RENEWING has it: to the server alone, without its identifier."""
    return query(REQUEST, src=ADDRESS, ciaddr=ADDRESS, dst="10.0.2.2", to=HOST_MAC, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "asks",
    [
        renewal(),
        query(REQUEST, OURS | {50: wire.ip_bytes(ADDRESS)}),
        query(REQUEST, OURS, ciaddr=ADDRESS, src=ADDRESS),
        renewal(options={61: b"\1" + GUEST_MAC}),
    ],
    ids=["renewing", "selecting", "broadcast", "client-id"],
)
def test_one_nak(asks: bytes) -> None:
    said = farewell()
    frame = said.input(asks, SECOND)
    assert frame is not None and frame[:12] == BROADCAST + HOST_MAC
    reply = Reply(read(frame))
    assert (reply.kind, reply.port, reply.xid, reply.chaddr[:6]) == (NAK, 68, 0xABCD0123, GUEST_MAC)
    assert reply.options[54] == SERVER and (reply.yiaddr, reply.siaddr) == ("0.0.0.0", "0.0.0.0")
    assert said.input(asks, SECOND) is None, "one"
    assert said.over(SECOND) and said.naks == 1


@pytest.mark.parametrize(
    ("asks", "forgotten"),
    [
        (query(DISCOVER), True),
        (query(REQUEST, THEIRS | {50: wire.ip_bytes("192.168.77.50")}), True),
        (query(REQUEST, ciaddr=ADDRESS, src=ADDRESS), False),  # rebinding: whoever it may be
        (query(RELEASE, OURS, ciaddr=ADDRESS, src=ADDRESS), False),
        (query(INFORM, ciaddr=ADDRESS, src=ADDRESS), False),
        (query(None), False),
        (renewal(mac=OTHER_MAC), False),
        (udp("10.0.2.2", 53, b"x" * 300, src=ADDRESS, to=HOST_MAC), False),
        (b"", False),
        (GUEST_MAC * 2 + b"\x08\x00", False),
    ],
)
def test_silence(asks: bytes, forgotten: bool) -> None:
    said = farewell()
    assert said.input(asks, SECOND) is None
    assert said.over(SECOND) is forgotten


@pytest.mark.parametrize("wanted", [{}, {55: b"\1\3"}, {55: b"\1\72\73"}], ids=["all", "not asked", "asked"])
def test_t1_of_a_net_that_may_go(wanted: dict[int, bytes]) -> None:
    net = Net(config=Config(lease_time=120, renew_time=30), known=False)
    for query_ in (query(DISCOVER, wanted), query(REQUEST, OURS | {50: wire.ip_bytes(ADDRESS)} | wanted)):
        (answer,) = net.ask(query_)
        reply = Reply(answer)
        assert (reply.options[51], reply.options[58]) == ((120).to_bytes(4, "big"), (30).to_bytes(4, "big"))
        assert reply.order.count(58) == 1


def test_arp_leads_the_renewal_here() -> None:
    said = farewell()
    frame = said.input(arp(1, ADDRESS, "10.0.2.2"), SECOND)
    assert frame is not None and len(frame) >= 60
    answer = dpkt.ethernet.Ethernet(frame).arp
    assert (answer.op, answer.sha, answer.spa, answer.tha) == (2, HOST_MAC, SERVER, GUEST_MAC)
    assert said.input(arp(1, ADDRESS, "10.0.2.3"), SECOND) is None
    said.input(renewal(), SECOND)
    assert said.input(arp(1, ADDRESS, "10.0.2.2"), SECOND) is None, "the client has been told"


def test_it_ends_with_the_lease() -> None:
    said = farewell(expires=100 * SECOND)
    assert said.expires() == 100 * SECOND and not said.over(99 * SECOND)
    assert said.input(renewal(), 100 * SECOND) is None and said.over(100 * SECOND)
    assert farewell(expires=None).expires() is None


@given(st.binary(max_size=400), st.sampled_from((b"\x08\x00", b"\x08\x06", b"\x86\xdd")))
def test_any_bytes(data: bytes, kind: bytes) -> None:
    answer = farewell().input(BROADCAST + GUEST_MAC + kind + data, SECOND)
    assert answer is None or len(answer) >= 60


@given(st.integers(0, 300), st.integers(0, 255))
def test_any_change_of_a_renewal(at: int, value: int) -> None:
    frame = bytearray(renewal())
    frame[at % len(frame)] = value
    farewell().input(bytes(frame), SECOND)
