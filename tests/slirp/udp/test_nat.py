"""UDP NAT: mapping, filtering, errors both ways, life of a flow, bounds."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.config import Config
from slirp.contracts.host import NO_FRAGMENT
from slirp.udp import nat as udp_module
from slirp.udp.flow import BATCH, IDLE, IDLE_DNS, REMOTES
from slirp.udp.nat import FLOWS
from slirp.wire import ipv4 as wire
from tests.slirp.fakes import GUEST_MAC, SECOND, FakeError, Net, ip4, read, udp, udp_body

REMOTE = ("192.0.2.1", 9)


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def flow() -> Net:
    """One flow that has sent a datagram."""
    net = Net()
    net.put(udp("192.0.2.1", 9, b"hello"))
    return net


@given(st.binary(max_size=1472), st.integers(1, 65535), st.integers(1, 65535), st.booleans())
def test_there_and_back(payload: bytes, sport: int, dport: int, check: bool) -> None:
    net = Net()
    net.put(udp("192.0.2.1", dport, payload, sport=sport, check=check, ttl=33))
    (sock,) = net.host.udps
    assert sock.sent == [(payload, ("192.0.2.1", dport), 32)]
    net.deliver(sock, payload, ("192.0.2.1", dport))
    (answer,) = net.ips()
    assert (answer.src, answer.dst, answer.ttl) == ("192.0.2.1", "10.0.2.15", 64)
    assert answer.ports == (dport, sport)
    assert answer.payload == payload
    assert answer.to == GUEST_MAC


def test_one_socket_for_one_guest_port_whatever_the_destination(net: Net) -> None:
    net.put(udp("192.0.2.1", 9, b"1"), udp("192.0.2.2", 10, b"2"), udp("10.0.2.2", 11, b"3"))
    (sock,) = net.host.udps
    assert [remote for _, remote, _ in sock.sent] == [("192.0.2.1", 9), ("192.0.2.2", 10), ("127.0.0.1", 11)]
    net.put(udp("192.0.2.1", 9, b"4", sport=4001), udp("192.0.2.1", 9, b"5", src="10.0.2.16"))
    assert len(net.host.udps) == 3


def test_full_cone(flow: Net) -> None:
    flow.deliver(flow.host.udps[0], b"stranger", ("198.51.100.7", 777))
    (answer,) = flow.ips()
    assert (answer.src, answer.ports) == ("198.51.100.7", (777, 4000))


def test_the_hosts_loopback_is_the_gateway(net: Net) -> None:
    net.put(udp("10.0.2.2", 9, b"x"))
    net.deliver(net.host.udps[0], b"y", ("127.0.0.1", 9))
    assert net.ips()[0].src == "10.0.2.2"


def test_hostloopback_off() -> None:
    net = Net(Config(hostloopback=False))
    (answer,) = net.ask(udp("10.0.2.2", 9, b"x"))
    assert answer.kind == (3, 3)
    assert not net.host.udps
    net.put(udp("192.0.2.1", 9, b"x"))
    net.deliver(net.host.udps[0], b"y", ("127.0.0.1", 9))
    assert net.take() == []
    assert net.count("udp_stranger") == 1


@pytest.mark.parametrize("address", ["10.0.2.15", "10.0.2.2", "0.0.0.0", "2001:db8::1", "nonsense"])
def test_senders_that_no_guest_may_see(flow: Net, address: str) -> None:
    flow.deliver(flow.host.udps[0], b"y", (address, 9))
    assert flow.take() == []
    assert flow.count("udp_stranger") == 1


def test_control_plane_is_refused(net: Net) -> None:
    net.host.control.add(("192.0.2.1", 4444))
    net.host.control.add(("127.0.0.1", 4444))
    for dst in ("192.0.2.1", "10.0.2.2"):
        (answer,) = net.ask(udp(dst, 4444, b"x"))
        assert (answer.src, answer.kind) == ("10.0.2.2", (3, 3))
    assert not net.host.udps
    assert net.count("control_plane_refused") == 2


def test_restrict() -> None:
    net = Net(Config(restrict=True))
    for frame in (udp("192.0.2.1", 9, b"x"), udp("10.0.2.2", 9, b"x"), udp("10.0.2.3", 53, b"x")):
        (answer,) = net.ask(frame)
        assert answer.kind == (3, 13)
    assert not net.host.udps


@pytest.mark.parametrize("port", [1, 52, 54, 67, 80])
def test_the_name_server_has_no_other_ports(net: Net, port: int) -> None:
    (answer,) = net.ask(udp("10.0.2.3", port, b"x"))
    assert (answer.src, answer.kind) == ("10.0.2.3", (3, 3))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "udp_malformed"),
        (b"\x0f\xa0\x00\x09\x00\x08\x00", "udp_malformed"),
        (b"\x0f\xa0\x00\x09\x00\x07\x00\x00", "udp_malformed"),
        (b"\x0f\xa0\x00\x09\x00\x09\x00\x00", "udp_malformed"),
        (b"\x0f\xa0\x00\x09\x00\x09\x12\x34x", "udp_checksum"),
    ],
)
def test_malformed(net: Net, body: bytes, reason: str) -> None:
    net.put(ip4("10.0.2.15", "192.0.2.1", 17, body))
    assert net.take() == []
    assert not net.host.udps
    assert net.count(reason) == 1


def test_bytes_behind_the_udp_length_are_not_data(net: Net) -> None:
    body = udp_body("10.0.2.15", "192.0.2.1", 4000, 9, b"data") + b"trailer"
    net.put(ip4("10.0.2.15", "192.0.2.1", 17, body))
    assert net.host.udps[0].sent[0][0] == b"data"


def test_partial_checksum_is_taken(net: Net) -> None:
    body = wire.UDP.pack(4000, 9, 12, 0x1234) + b"data"
    net.put(ip4("10.0.2.15", "192.0.2.1", 17, body), vnet=wire.VNET.pack(1, 0, 0, 0, 34, 6))
    assert net.host.udps[0].sent[0][0] == b"data"


def test_partial_checksum_to_a_guest_that_takes_it(flow: Net) -> None:
    flow.stack.set_features(wire.TUN_F_CSUM)
    flow.deliver(flow.host.udps[0], b"odd", REMOTE)
    ((_, vnet),) = flow.sent
    assert wire.VNET.unpack(vnet) == (1, 0, 42, 0, 34, 6)
    assert flow.ips()[0].payload == b"odd"


@pytest.mark.parametrize("features", [0, wire.TUN_F_CSUM])
def test_beyond_the_mtu_it_comes_in_fragments(features: int) -> None:
    net = Net(Config(mtu=600))
    net.stack.set_features(features)
    net.put(udp("192.0.2.1", 9, b"x"))
    payload = bytes(n & 255 for n in range(2000))
    net.deliver(net.host.udps[0], payload, REMOTE)
    pieces = net.ips()
    assert [p.flags & 0x1FFF for p in pieces] == [0, 72, 144, 216]
    assert [p.flags >> 13 for p in pieces] == [1, 1, 1, 0]
    assert len({p.ident for p in pieces}) == 1
    joined = b"".join(p.body for p in pieces)
    assert joined[8:] == payload
    start = wire.ip_int(wire.ip_bytes("192.0.2.1") + wire.ip_bytes("10.0.2.15")) + 17 + len(joined)
    assert (int.from_bytes(joined, "big") + start) % 65535 == 0


def test_exactly_the_mtu_is_whole(flow: Net) -> None:
    flow.deliver(flow.host.udps[0], b"z" * 1472, REMOTE)
    assert [p.flags for p in flow.ips()] == [0]
    flow.deliver(flow.host.udps[0], b"z" * 1473, REMOTE)
    assert len(flow.ips()) == 2


# ---- errors ------------------------------------------------------------------------------------------------


def inner(answer) -> tuple:
    """What an ICMP error quotes: source, destination, ports, payload."""
    quote = answer.payload
    first, _, length, _, _, _, protocol, _, src, dst = wire.IPV4.unpack_from(quote)
    assert (first, protocol) == (0x45, 17)
    return wire.ip_text(src), wire.ip_text(dst), *wire.PORTS.unpack_from(quote, 20), quote[28:length]


def test_port_unreachable_comes_back_from_the_remote(flow: Net) -> None:
    error = FakeError(errno.ECONNREFUSED, 3, 3, 0, "192.0.2.1", REMOTE, b"hello")
    flow.complain(flow.host.udps[0], error)
    (answer,) = flow.ips()
    assert (answer.src, answer.kind) == ("192.0.2.1", (3, 3))
    assert inner(answer) == ("10.0.2.15", "192.0.2.1", 4000, 9, b"hello")


def test_the_hosts_own_port_unreachable_comes_from_the_gateway() -> None:
    net = Net()
    net.put(udp("10.0.2.2", 9, b"hello"))
    error = FakeError(errno.ECONNREFUSED, 3, 3, 0, "127.0.0.1", ("127.0.0.1", 9), b"hello")
    net.complain(net.host.udps[0], error)
    (answer,) = net.ips()
    assert (answer.src, answer.kind) == ("10.0.2.2", (3, 3))
    assert inner(answer)[:2] == ("10.0.2.15", "10.0.2.2")


def test_a_router_on_the_way_shows_itself(flow: Net) -> None:
    flow.complain(
        flow.host.udps[0], FakeError(errno.EHOSTUNREACH, 11, 0, 0, "198.51.100.1", REMOTE, b"hello")
    )
    (answer,) = flow.ips()
    assert (answer.src, answer.kind) == ("198.51.100.1", (11, 0))


def test_too_big_carries_the_mtu(flow: Net) -> None:
    flow.complain(flow.host.udps[0], FakeError(errno.EMSGSIZE, 3, 4, 1400, None, REMOTE, b"hello"))
    (answer,) = flow.ips()
    assert (answer.src, answer.kind, answer.body[4:8]) == ("10.0.2.2", (3, 4), (1400).to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENETUNREACH, 0),
        (errno.EHOSTUNREACH, 1),
        (errno.ECONNREFUSED, 3),
        (errno.EMSGSIZE, 4),
        (errno.EACCES, 13),
        (errno.EPERM, 13),
    ],
)
def test_sendto_errors_are_told(flow: Net, number: int, code: int) -> None:
    flow.host.udps[0].fail = number
    frame = udp("192.0.2.1", 9, b"again")
    (answer,) = flow.ask(frame)
    assert (answer.src, answer.kind, answer.payload) == ("10.0.2.2", (3, code), frame[14:])


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS, errno.EINVAL, errno.EBADF])
def test_other_sendto_errors_are_counted(flow: Net, number: int) -> None:
    flow.host.udps[0].fail = number
    assert flow.ask(udp("192.0.2.1", 9, b"again")) == []
    assert flow.count("udp_busy") + flow.count("udp_send_failed") == 1


# ---- life --------------------------------------------------------------------------------------------------


def test_idle_flows_end(flow: Net) -> None:
    flow.run(IDLE / SECOND - 1)
    assert not flow.host.udps[0].closed
    flow.run(2)
    assert flow.host.udps[0].closed
    assert not len(flow.stack.udp)
    assert flow.count("udp_expired") == 1


@pytest.mark.parametrize("way", ["out", "in"])
def test_traffic_keeps_a_flow(flow: Net, way: str) -> None:
    for _ in range(3):
        flow.run(IDLE / SECOND - 10)
        if way == "out":
            flow.put(udp("192.0.2.1", 9, b"x"))
        else:
            flow.deliver(flow.host.udps[0], b"y", REMOTE)
    assert not flow.host.udps[0].closed


def test_a_dns_answer_shortens_it(net: Net) -> None:
    net.put(udp("192.0.2.1", 53, b"question"))
    net.deliver(net.host.udps[0], b"answer", ("192.0.2.1", 53))
    net.run(IDLE_DNS / SECOND + 1)
    assert net.host.udps[0].closed


def test_the_longest_idle_makes_room(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_module, "FLOWS", 20)
    for number in range(20):
        net.put(udp("192.0.2.1", 9, b"x", sport=1000 + number))
    net.put(udp("192.0.2.1", 9, b"x", sport=1000))
    net.deliver(net.host.udps[1], b"y", REMOTE)
    net.put(udp("192.0.2.1", 9, b"x", sport=2000), udp("192.0.2.1", 9, b"x", sport=2001))
    assert [n for n, sock in enumerate(net.host.udps) if sock.closed] == [2, 3]
    assert len(net.stack.udp) == 20
    assert net.count("udp_evicted") == 2
    assert FLOWS >= 1024


def test_without_descriptors_the_longest_idle_goes(net: Net) -> None:
    net.host.limit = 2
    for number in range(4):
        net.put(udp("192.0.2.1", 9, b"x", sport=1000 + number))
    assert [sock.closed for sock in net.host.udps] == [True, True, False, False]
    net.host.limit = 0
    net.put(udp("192.0.2.1", 9, b"x", sport=3000))
    assert net.count("udp_no_socket") == 1


def test_remembered_remotes_are_bounded(flow: Net) -> None:
    (sock,) = flow.host.udps
    for number in range(REMOTES + 10):
        flow.put(udp(f"198.51.100.{number & 255}", 1000 + number, b"x"))
        flow.deliver(sock, b"y", (f"198.51.100.{number & 255}", 1000 + number))
    (one,) = flow.stack.udp._flows.values()
    assert len(one.remotes) <= REMOTES
    assert len(one.sources) <= REMOTES
    assert len(sock.sent) == REMOTES + 11


def test_drains_many_but_not_for_ever(flow: Net) -> None:
    (sock,) = flow.host.udps
    sock.inbox = [(b"y", REMOTE)] * (BATCH + 5)
    sock.events.host_readable(flow.now)
    assert len(flow.take()) == BATCH
    sock.events.host_readable(flow.now)
    assert len(flow.take()) == 5


USO = wire.TUN_F_CSUM | wire.TUN_F_USO4


def segments(frame: bytes, vnet: bytes) -> list[bytes]:
    """The datagrams that a frame stands for, cut by the hub's own software."""
    from tapnet.vlan import offload

    pieces = offload.complete(frame, vnet, 0) if vnet else [(frame, vnet)]
    return [read(piece, owed).payload for piece, owed in pieces]


@given(
    st.lists(st.integers(0, 5).map(lambda n: (0, 1, 100, 100, 1472, 1473)[n]), max_size=80), st.integers(0, 3)
)
def test_bursts_leave_as_super_datagrams_where_the_vlan_takes_them(sizes: list[int], strangers: int) -> None:
    net = Net()
    net.put(udp("192.0.2.1", 9, b"hello"))
    net.stack.set_features(USO)
    (sock,) = net.host.udps
    payloads = [bytes([n]) * size for n, size in enumerate(sizes)]
    sock.inbox = [(p, REMOTE if n % 4 >= strangers else ("192.0.2.9", 7)) for n, p in enumerate(payloads)]
    while sock.inbox:
        sock.events.host_readable(net.now)
    got: list[bytes] = []
    rest = b""
    for frame, vnet in net.sent:
        if wire.U16.unpack_from(frame, 20)[0] & 0x3FFF:  # beyond the MTU: in fragments
            rest += frame[34:]
            if not frame[20] & 0x20:
                got.append(rest[8:])
                rest = b""
            continue
        got += segments(frame, vnet)
    assert got == payloads


def test_a_burst_is_one_frame(flow: Net) -> None:
    flow.stack.set_features(USO)
    (sock,) = flow.host.udps
    sock.inbox = [(bytes([n]) * 1000, REMOTE) for n in range(5)] + [(b"end", REMOTE), (b"more", REMOTE)]
    sock.events.host_readable(flow.now)
    (one, vnet), (two, plain) = flow.sent
    assert wire.VNET.unpack(vnet) == (1, 5, 42, 1000, 34, 6)
    assert segments(one, vnet) == [bytes([n]) * 1000 for n in range(5)] + [b"end"]
    assert segments(two, plain) == [b"more"]
    flow.sent.clear()
    flow.stack.set_features(wire.TUN_F_CSUM)
    sock.inbox = [(b"x" * 1000, REMOTE)] * 5
    sock.events.host_readable(flow.now)
    assert len(flow.sent) == 5


def test_super_datagrams_keep_within_64_kib() -> None:
    net = Net(Config(mtu=9000))
    net.put(udp("192.0.2.1", 9, b"hello"))
    net.stack.set_features(USO)
    (sock,) = net.host.udps
    sock.inbox = [(b"x" * 8000, REMOTE)] * 20
    sock.events.host_readable(net.now)
    assert [len(frame) for frame, _ in net.sent] == [64042, 64042, 32042]


def test_a_full_wire_queues_then_drops(flow: Net) -> None:
    from slirp.stack import QUEUE_FRAMES

    (sock,) = flow.host.udps
    flow.full = True
    for _ in range(QUEUE_FRAMES + 3):
        flow.deliver(sock, b"y", REMOTE)
    assert flow.count("udp_to_guest_dropped") == 3
    flow.full = False
    flow.stack.tx_ready(flow.now)
    assert len(flow.take()) == QUEUE_FRAMES


def test_close_gives_all_sockets_back(flow: Net) -> None:
    flow.stack.close(flow.now)
    assert all(sock.closed for sock in flow.host.udps)
    assert flow.stack.info() == []


def test_info(flow: Net) -> None:
    flow.run(3)
    flow.stack.now = flow.now
    (row,) = flow.stack.info()
    assert row["idle"] == 3.0
    assert row["state"] == "237 sec"
    assert [
        row[key] for key in ("protocol", "src", "src_port", "dst", "dst_port", "recvq", "sendq", "fd")
    ] == [
        "UDP",
        "10.0.2.15",
        4000,
        "192.0.2.1",
        9,
        0,
        0,
        -1,
    ]


@pytest.mark.parametrize(
    ("ip", "how"),
    [
        ({"ttl": 64, "flags": 0x4000}, 63 | NO_FRAGMENT),
        ({"ttl": 64, "tos": 0x2F}, 0x2C << 16 | 63),
        ({"ttl": 2}, 1),
    ],
)
def test_dont_fragment_and_type_of_service_go_along(net: Net, ip: dict[str, int], how: int) -> None:
    net.put(udp("192.0.2.1", 9, b"x", **ip))
    assert net.host.udps[0].sent == [(b"x", REMOTE, how)]


def test_what_the_host_cannot_carry_whole_is_told_with_the_mtu(flow: Net) -> None:
    (sock,) = flow.host.udps
    sock.fail, sock.limit = errno.EMSGSIZE, 1300
    (answer,) = flow.ask(udp("192.0.2.1", 9, bytes(1400), flags=0x4000))
    assert (answer.src, answer.kind, answer.body[4:8]) == ("10.0.2.2", (3, 4), (1300).to_bytes(4, "big"))


def test_a_hop_shows_itself_with_the_guests_own_headers(net: Net) -> None:
    """As traceroute sends them: each probe to a port of its own."""
    sent = udp("192.0.2.1", 33434, b"probe", ttl=3, ident=0x4711, flags=0x4000)
    net.put(sent)
    error = FakeError(errno.EHOSTUNREACH, 11, 0, 0, "198.51.100.7", ("192.0.2.1", 33434), b"", ttl=62)
    net.complain(net.host.udps[0], error)
    (answer,) = net.ips()
    assert (answer.src, answer.kind, answer.ttl) == ("198.51.100.7", (11, 0), 61)
    assert answer.body[8:] == udp("192.0.2.1", 33434, b"probe", ttl=1, ident=0x4711, flags=0x4000)[14:42]
