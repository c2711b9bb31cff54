"""The stack as a whole: destinations, back-pressure, timers, clean-up, and any bytes at all."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slirp.config import Config
from slirp.stack import QUEUE_FRAMES
from slirp.wire.ipv4 import ip_bytes
from tests.slirp import fakes
from tests.slirp.fakes import BROADCAST, HOST_MAC, SECOND, Net, arp, ip4, ping, udp


def tcp(dst: str, dport: int, flags: int = 2, *, seq: int = 1000, ack: int = 0, sport: int = 4000) -> bytes:
    head = (
        sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + seq.to_bytes(4, "big") + ack.to_bytes(4, "big")
    )
    body = head + bytes((0x50, flags)) + b"\xff\xff\0\0\0\0"
    from slirp.wire import checksum

    start = int.from_bytes(ip_bytes("10.0.2.15") + ip_bytes(dst), "big") + 6 + 20
    body = body[:16] + checksum.checksum(body, start).to_bytes(2, "big") + body[18:]
    return ip4("10.0.2.15", dst, 6, body)


@pytest.fixture
def net() -> Net:
    return Net()


# ---- where destinations lead -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "dst", "port", "found"),
    [
        (Config(), "10.0.2.2", 22, [("127.0.0.1", 22)]),
        (Config(), "192.0.2.1", 80, [("192.0.2.1", 80)]),
        (Config(), "10.0.2.3", 53, [("192.0.2.53", 53)]),
        (Config(resolver=(("127.0.0.53", 53),)), "10.0.2.3", 53, [("127.0.0.53", 53)]),
        (Config(), "10.0.2.3", 80, []),
        (Config(hostloopback=False), "10.0.2.2", 22, []),
        (Config(restrict=True), "192.0.2.1", 80, []),
        (Config(restrict=True), "10.0.2.3", 53, []),
    ],
)
def test_targets(config: Config, dst: str, port: int, found: list) -> None:
    targets = Net(config).stack.targets(ip_bytes(dst), port)
    assert [target if isinstance(target, tuple) else target.remote for target in targets] == found


def test_a_syn_reaches_the_host(net: Net) -> None:
    net.put(tcp("10.0.2.2", 80))
    assert [sock.remote for sock in net.host.tcps] == [("127.0.0.1", 80)]
    net.host.tcps[0].events.host_connected(net.now)
    (answer,) = net.ips()
    assert (answer.src, answer.protocol, answer.ports) == ("10.0.2.2", 6, (80, 4000))
    assert answer.body[13] & 0x12 == 0x12


def test_a_syn_to_the_control_plane_is_reset(net: Net) -> None:
    net.host.control.add(("127.0.0.1", 4444))
    (answer,) = net.ask(tcp("10.0.2.2", 4444))
    assert answer.body[13] & 4
    assert not net.host.tcps


def test_a_guest_connection_in_info(net: Net) -> None:
    net.put(tcp("10.0.2.2", 80))
    net.host.tcps[0].events.host_connected(net.now)
    (row,) = net.stack.info()
    assert (row["protocol"], row["src"], row["src_port"], row["dst"], row["dst_port"]) == (
        "TCP",
        "10.0.2.15",
        4000,
        "10.0.2.2",
        80,
    )
    assert row["state"].startswith("SYN")


@pytest.mark.parametrize("size", [0, 3])
def test_tcp_without_ports(net: Net, size: int) -> None:
    net.put(ip4("10.0.2.15", "10.0.2.2", 6, bytes(size)))
    assert net.count("tcp_malformed") == 1


def test_guests_do_not_see_each_others_frames_answered(net: Net) -> None:
    net.put(ping("10.0.2.2", to=bytes.fromhex("525400000001")))
    assert net.take() == []


def test_two_guests_at_once(net: Net) -> None:
    other = bytes.fromhex("525400eeeeee")
    net.put(udp("192.0.2.1", 9, b"a"), udp("192.0.2.1", 9, b"b", src="10.0.2.16", mac=other))
    for sock in net.host.udps:
        net.deliver(sock, sock.sent[0][0], ("192.0.2.1", 9))
    assert [(a.to, a.dst, a.payload) for a in net.ips()] == [
        (fakes.GUEST_MAC, "10.0.2.15", b"a"),
        (other, "10.0.2.16", b"b"),
    ]


def test_a_guest_with_a_wide_mask_and_no_dhcp() -> None:
    net = Net(known=False)
    net.put(arp(1, "10.0.2.16", "10.0.2.2"))
    assert len(net.take()) == 1
    assert net.ask(ping("10.0.2.2", src="10.0.2.16"))[0].dst == "10.0.2.16"


# ---- back-pressure -----------------------------------------------------------------------------------------


def test_a_full_wire(net: Net) -> None:
    net.full = True
    net.put(*[ping("10.0.2.2")] * (QUEUE_FRAMES + 5))
    assert net.count("tx_dropped") == 5
    assert net.stack.send(b"x" * 60) is False
    net.full = False
    net.stack.tx_ready(net.now)
    assert len(net.take()) == QUEUE_FRAMES
    assert net.stack.send(b"x" * 60) is True


def test_order_is_kept_while_the_queue_drains(net: Net) -> None:
    net.full = True
    net.put(ping("10.0.2.2", b"1"))
    net.full = False
    net.put(ping("10.0.2.2", b"2"))
    assert net.take() == []
    net.stack.tx_ready(net.now)
    assert [a.payload for a in net.ips()] == [b"1", b"2"]


def test_tcp_is_resumed_when_the_wire_is_free(net: Net) -> None:
    net.put(tcp("10.0.2.2", 80))
    net.full = True
    net.host.tcps[0].events.host_connected(net.now)
    net.full = False
    net.stack.tx_ready(net.now)
    net.run(5)
    assert any(a.body[13] & 0x12 == 0x12 for a in net.ips())


# ---- time and end ------------------------------------------------------------------------------------------


def test_timers_come_to_rest(net: Net) -> None:
    net.put(udp("192.0.2.1", 9, b"x"), udp("10.0.2.200", 9, b"x"), tcp("10.0.2.2", 80), tcp("192.0.2.1", 81))
    net.run(4000)
    assert not len(net.stack.udp)
    assert not len(net.stack.ipv4.fragments)


def test_close_leaves_nothing(net: Net) -> None:
    net.put(udp("192.0.2.1", 9, b"x"), tcp("10.0.2.2", 80))
    net.host.tcps[0].events.host_connected(net.now)
    net.stack.close(net.now)
    assert all(sock.closed for sock in [*net.host.udps, *net.host.tcps])
    assert net.stack.info() == []


def test_a_service_can_be_plugged_in(net: Net) -> None:
    heard = []

    class Service:
        def input(self, frame, off, end, src, sport, dst, now) -> None:
            heard.append((frame[off:end], src, sport, dst))

    net.stack.services[ip_bytes("10.0.2.2"), 69] = Service()
    net.put(udp("10.0.2.2", 69, b"rrq"))
    assert heard == [(b"rrq", ip_bytes("10.0.2.15"), 4000, ip_bytes("10.0.2.2"))]


# ---- any bytes ---------------------------------------------------------------------------------------------

SEEDS = [
    arp(1, "10.0.2.15", "10.0.2.2"),
    ping("10.0.2.2"),
    ping("192.0.2.1", ttl=1),
    udp("10.0.2.2", 9, b"x" * 20),
    udp("10.0.2.3", 53, b"\0\1\1\0\0\1" + bytes(6) + b"\1a\0\0\1\0\1"),
    udp("255.255.255.255", 67, b"\1\1\6\0" + bytes(236), src="0.0.0.0", sport=68, to=BROADCAST),
    tcp("10.0.2.2", 80),
    ip4("10.0.2.15", "192.0.2.1", 17, b"y" * 64, flags=0x2000),
]


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 90), st.binary(max_size=4))))
    )
)
def test_mutated_frames(items: list) -> None:
    net = Net()
    for frame, changes in items:
        changed = bytearray(frame)
        for place, data in changes:
            changed[place : place + len(data)] = data
        net.put(bytes(changed))
        net.now += SECOND // 10
    net.run(2)
    net.stack.info()
    net.stack.leases()
    net.stack.close(net.now)


@given(st.binary(max_size=80), st.binary(min_size=10, max_size=10) | st.just(b""))
def test_any_payload_of_any_type(data: bytes, vnet: bytes) -> None:
    net = Net()
    for kind in (b"\x08\x00", b"\x08\x06", b"\x86\xdd"):
        net.put(HOST_MAC + fakes.GUEST_MAC + kind + data, vnet=vnet)
    for protocol in (1, 2, 6, 17, 41):
        for dst in ("10.0.2.2", "10.0.2.3", "192.0.2.1", "10.0.2.77", "255.255.255.255"):
            net.put(ip4("10.0.2.15", dst, protocol, data), vnet=vnet)


def test_randomness_is_the_callers() -> None:
    one, two = (Net(Config()).ask(ping("10.0.2.2"))[0].ident for _ in range(2))
    assert one == two
    assert random.Random(1).getrandbits(16) + 1 & 0xFFFF == one
