"""Each published fault of libslirp, played against this NAT. What hurt libslirp has to be a counted drop or an ordinary answer here.

Most of libslirp's faults sit in its mbufs (lengths believed, buffers too small), its in-place reassembly, and ``tcp_emu``,
which rewrites the streams of certain ports. Here frames are immutable bytes, reassembly keeps pieces, and no stream from a guest is rewritten."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest

from slirp.wire import ipv4 as wire
from slirp.wire.ipv6 import ETH_IPV6_LEN
from tests.slirp.fakes import GUEST_MAC, HOST_MAC, FakeTcp, Net, arp, icmp, ip4, ping, read, udp, udp_body
from tests.slirp.fakes6 import DNS, LINK, LOCAL, ROUTER, Net6, ip6, ping6, udp6
from tests.slirp.fakes6 import GUEST as GUEST6
from tests.slirp.netsim import ACK, PSH, SYN, Segment, make_frame
from tests.slirp.services.test_dhcp import query
from tests.slirp.services.test_dns import question
from tests.slirp.services.test_tftp import Bench, ask

GUEST, REMOTE = wire.ip_bytes("10.0.2.15"), wire.ip_bytes("192.0.2.1")


@pytest.fixture
def net() -> Net:
    return Net()


def nothing_held(net: Net) -> None:
    """A day later nothing is left of it."""
    net.run(86_400)
    stack = net.stack
    assert not len(stack.udp) and not len(stack.tcp) and not len(stack.echoes) and not len(stack.dns)
    assert not len(stack.ipv4.fragments) and stack.ipv4.fragments.bytes == 0
    assert stack.tcp.buffers.used == 0
    assert all(sock.closed for sock in [*net.host.udps, *net.host.tcps, *net.host.echoes])


# ---- CVE-2014-3640: sosendto without a socket: a datagram with source port 0 and address 0 -----------------


@pytest.mark.parametrize("src", ["0.0.0.0", "10.0.2.15"])
@pytest.mark.parametrize("sport", [0, 68])
@pytest.mark.parametrize("dst", ["10.0.2.2", "10.0.2.3", "192.0.2.1", "255.255.255.255"])
@pytest.mark.parametrize("dport", [0, 7, 67, 69])
def test_cve_2014_3640(net: Net, src: str, sport: int, dst: str, dport: int) -> None:
    net.put(udp(dst, dport, b"", src=src, sport=sport))
    net.put(udp(dst, dport, b"x" * 100, src=src, sport=sport))
    if src == "0.0.0.0":
        assert net.host.udps == []
    (pong,) = net.ask(ping("10.0.2.2"))[-1:]  # it lives
    assert pong.kind == (0, 0)
    nothing_held(net)


# ---- tcp_emu: CVE-2019-6778, CVE-2019-9824, CVE-2020-7039, CVE-2020-8608 ------------------------------------


class Connection:
    """A guest's connection to ``port`` of the world."""

    def __init__(self, net: Net, port: int) -> None:
        self.net, self.port, self.seq = net, port, 1000
        self.give(SYN)
        (self.sock,) = net.host.tcps[-1:]
        self.sock.events.host_connected(net.now)
        (answer,) = [Segment(frame) for frame in net.take() if frame[23] == 6]
        self.ack = answer.seq + 1
        self.seq += 1
        self.give(ACK)

    def give(self, flags: int, data: bytes = b"") -> None:
        frame = make_frame(
            GUEST, REMOTE, 4000, self.port, self.seq, getattr(self, "ack", 0), flags, 65535, b"", data
        )
        self.net.put(HOST_MAC + GUEST_MAC + frame[12:])

    def say(self, data: bytes) -> FakeTcp:
        """In segments of 1400 bytes."""
        for at in range(0, len(data), 1400):
            piece = data[at : at + 1400]
            self.give(ACK | PSH, piece)
            self.seq += len(piece)
        return self.sock


EMULATED = (21, 113, 194, 513, 514, 543, 544, 6660, 6667, 6668, 6669, 7070, 7648)  # libslirp's tcptos table
WORDS = {
    "ident without an end (CVE-2019-6778)": b"1,2" + b"x" * 20_000,
    "ident with numbers only in part (CVE-2019-9824)": b"4000\r\n, 113\r\n\x00\x00,,\r\n",
    "IRC DCC (CVE-2020-7039)": b"PRIVMSG a :\1DCC CHAT chat 167772687 5000\1\r\n"
    + b"\1DCC SEND "
    + b"f" * 3000,
    "FTP PORT (CVE-2020-7039)": b"PORT 10,0,2,15,19,136\r\n" + b"PORT " + b"1," * 5000 + b"\r\n",
    "at the end of a full buffer (CVE-2020-8608)": b"x" * 1399 + b"ORT 1,2,3,4,5,6\r\n",
    "RealAudio (CVE-2020-7039)": bytes((0x50, 0x4E, 0x41, 0, 0, 1, 0, 2, 0x12, 0x34)) * 300,
    "rsh (CVE-2020-7039)": b"1022\0root\0root\0" + b"9" * 5000 + b"\0",
}


@pytest.mark.parametrize("port", EMULATED)
@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS.keys())
def test_cve_2019_6778_2019_9824_2020_7039_2020_8608(net: Net, port: int, words: bytes) -> None:
    """What a guest says on such a port crosses unchanged; nothing is opened for it; nothing answers in the far end's name."""
    connection = Connection(net, port)
    net.take()
    sock = connection.say(words)
    assert sock.sent == words
    assert len(net.host.tcps) == 1 and net.host.listeners == {} and net.host.udps == []
    assert all(Segment(frame).data == b"" for frame in net.take())
    sock.inbox.append(words[:1000])
    sock.events.host_readable(net.now)
    assert b"".join(Segment(frame).data for frame in net.take()) == words[:1000]
    net.stack.close(net.now)
    assert sock.closed


# ---- ip_reass: CVE-2019-14378, CVE-2019-15890, CVE-2020-1983 -------------------------------------------------


def pieces(payload: bytes, cuts: list[tuple[int, int, bool]], ident: int = 5) -> list[bytes]:
    """Fragments of a datagram to 192.0.2.1:9: (first, last + 1, more) of the IP payload."""
    body = udp_body("10.0.2.15", "192.0.2.1", 4000, 9, payload)
    return [
        ip4("10.0.2.15", "192.0.2.1", 17, body[a:b], ident=ident, flags=a >> 3 | (0x2000 if more else 0))
        for a, b, more in cuts
    ]


def delivered(net: Net) -> list[bytes]:
    return [data for sock in net.host.udps for data, _, _ in sock.sent]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_cve_2019_14378_a_large_first_fragment(net: Net, order: tuple[int, ...]) -> None:
    """Pieces larger than one buffer, in every order: together they are what was sent."""
    payload = bytes(n * 7 & 255 for n in range(60_000 - 8))
    frames = pieces(payload, [(0, 40_000, True), (40_000, 50_000, True), (50_000, 60_000, False)])
    net.put(*(frames[n] for n in order))
    assert delivered(net) == [payload]
    nothing_held(net)


@pytest.mark.parametrize(
    "cuts",
    [
        [(0, 8, True), (8, 24, True), (16, 32, True), (24, 40, False)],
        [(8, 16, True), (8, 16, True), (0, 40, False)],
        [(0, 40, True), (8, 16, True), (40, 48, False)],
        [(16, 24, True), (24, 32, True), (0, 48, True), (48, 56, False)],  # swallows those in the queue
        [(8, 16, True), (0, 64, False), (0, 8, True)],
        [(0, 8, True), (0, 16, True), (0, 24, True), (0, 32, False)],
    ],
)
def test_cve_2019_15890_cve_2020_1983_overlaps(net: Net, cuts: list[tuple[int, int, bool]]) -> None:
    """Fragments that overlap, repeat and swallow each other: the datagram is given up whole, in every order."""
    frames = pieces(bytes(range(64)), cuts)
    for number, order in enumerate(permutations(frames)):
        mark = number.to_bytes(2, "big")
        for frame in order:
            net.put(
                ip4(
                    "10.0.2.15",
                    "192.0.2.1",
                    17,
                    frame[34:],
                    ident=number,
                    flags=int.from_bytes(frame[20:22], "big"),
                )
            )
        assert delivered(net) == [], mark
    nothing_held(net)


def test_cve_2019_15890_empty_and_endless_fragments(net: Net) -> None:
    for flags in (0x2000, 0x2001, 1, 0x1FFF, 0x3FFF):
        for body in (b"", b"1234567", bytes(8), bytes(1480)):
            net.put(ip4("10.0.2.15", "192.0.2.1", 17, body, flags=flags, ident=flags))
    assert delivered(net) == []
    nothing_held(net)


# ---- CVE-2020-7211: TFTP names with backslashes; and the other ways out --------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        b"..\\..\\etc\\passwd",
        b"..\\secret",
        b"\\..\\secret",
        b"a\\..\\..\\secret",
        b"../secret",
        b"/../secret",
        b"a/../../secret",
        b"..",
        b"/srv/tftp/../secret",
        b"/srv/tftp-secret",
        b"a/..",
        b"C:\\..\\secret",
        b"..\\secret",
        b"a\\..\\../secret",
    ],
)
def test_cve_2020_7211(name: bytes) -> None:
    bench = Bench(secret=b"not yours", a=b"yours")
    bench.files["../secret"] = b"not yours"
    (answer,) = bench.begin(ask(name))
    assert answer[:2] == b"\0\5" and b"yours" not in answer


# ---- CVE-2020-10756: an echo request that is shorter than its header says -----------------------------------


@pytest.mark.parametrize("claimed", [29, 100, 1500, 65535])
def test_cve_2020_10756_echo_longer_than_its_frame(net: Net, claimed: int) -> None:
    frame = bytearray(ping("10.0.2.2", b""))
    wire.U16.pack_into(frame, 16, claimed)
    wire.U16.pack_into(frame, 24, 0)
    from slirp.wire.checksum import checksum

    wire.U16.pack_into(frame, 24, checksum(bytes(frame[14:34])))
    net.put(bytes(frame))
    assert net.take() == []
    assert net.count("ip_malformed") == 1


@pytest.mark.parametrize("claimed", [1, 9, 100, 1500, 65535])
@pytest.mark.parametrize("data", [b"", b"x" * 8])
def test_cve_2020_10756_icmpv6_echo_longer_than_its_frame(claimed: int, data: bytes) -> None:
    """The echo request says more than the frame has: nothing of ours may come back in the reply."""
    net = Net6()
    for dst in (ROUTER, DNS, LINK, "ff02::1", "2001:db8::9"):
        frame = ping6(dst, data)
        whole = len(frame) - ETH_IPV6_LEN
        net.put(
            frame[:18]
            + (whole + claimed if whole + claimed < 65536 else 65535).to_bytes(2, "big")
            + frame[20:]
        )
    assert net.take() == [] and net.host.echoes == []
    assert net.count("ip6_malformed") == 5


@pytest.mark.parametrize("size", range(8))
def test_cve_2020_10756_icmpv6_cut(size: int) -> None:
    net = Net6()
    net.put(ip6(GUEST6, ROUTER, 58, ping6(ROUTER)[54 : 54 + size]))
    assert net.take() == [] and net.count("icmp_malformed") == 1


# ---- CVE-2020-29129, CVE-2020-29130: NC-SI and ARP frames shorter than their structures ------------------------


def test_cve_2020_29130_every_cut_of_an_arp_frame(net: Net) -> None:
    whole = arp(1, "10.0.2.15", "10.0.2.2")
    for size in range(len(whole)):
        answers = [frame for frame in (net.put(whole[:size]), *net.take()) if frame]
        if size < 42:
            assert answers == []
        else:
            (answer,) = answers
            assert len(answer) == 60 and answer[42:] == bytes(18)  # nobody's memory in the padding


@pytest.mark.parametrize("size", [0, 1, 2, 13, 15, 16, 100, 1500])
def test_cve_2020_29129_ncsi(net: Net, size: int) -> None:
    net.put(HOST_MAC + GUEST_MAC + b"\x88\xf8" + bytes(size))
    net.put(b"\xff" * 6 + GUEST_MAC + b"\x88\xf8" + bytes(size))
    assert net.take() == [] and net.count("eth_ignored") == 2


# ---- CVE-2021-3592 to 3595: datagrams shorter than bootp_t, udphdr, tftp_t: the rest was read from memory -----


def cut(make: Callable[[bytes], bytes], message: bytes) -> list[bytes]:
    """The datagram with every length of its message, each with a sound header."""
    return [make(message[:size]) for size in range(len(message))]


def test_cve_2021_3592_bootp(net: Net) -> None:
    whole = query(1)
    message = whole[42:]
    for frame in cut(
        lambda data: udp("255.255.255.255", 67, data, src="0.0.0.0", sport=68, to=b"\xff" * 6), message[:236]
    ):
        net.put(frame)
        assert net.take() == []  # a BOOTP message is 236 bytes
    for answer in net.ask(whole):
        assert len(answer.payload) == 300


@pytest.mark.parametrize("length", [0, 1, 7, 9, 100, 65535])
def test_cve_2021_3594_udp(net: Net, length: int) -> None:
    """The UDP header's own length lies."""
    for dst, dport in (("192.0.2.1", 9), ("10.0.2.2", 69), ("10.0.2.2", 67), ("10.0.2.3", 53)):
        net.put(ip4("10.0.2.15", dst, 17, wire.UDP.pack(4000, dport, length, 0)))
    assert net.take() == [] and net.host.udps == [] and net.count("udp_malformed") == 4


@pytest.mark.parametrize("size", range(8))
def test_cve_2021_3594_udp_header_cut(net: Net, size: int) -> None:
    net.put(ip4("10.0.2.15", "192.0.2.1", 17, bytes(size)))
    assert net.take() == [] and net.host.udps == [] and net.count("udp_malformed") == 1


def test_cve_2021_3595_tftp() -> None:
    bench = Bench(f=b"content")
    request = ask(b"f", blksize=512)
    for size in range(len(request)):
        for answer in bench.begin(request[:size], sport=2000 + size):
            assert answer[:2] == b"\0\5" or b"content" in answer, (
                size
            )  # an error, or all that was asked for so far
    bench.net.run(86_400)
    assert all(file.closed for file in bench.net.host.files.opened)


@pytest.mark.parametrize("length", [0, 1, 7, 9, 100, 65535])
@pytest.mark.parametrize("size", [8, 4, 0])
def test_cve_2021_3593_udp6(length: int, size: int) -> None:
    """The length in a UDP header of IPv6 lies, or the header is cut."""
    net = Net6()
    for dst, dport in (("2001:db8::9", 9), (ROUTER, 69), ("ff02::1:2", 547), (DNS, 53)):
        net.put(ip6(GUEST6, dst, 17, wire.UDP.pack(4000, dport, length, 0x1234)[:size]))
    assert net.take() == [] and net.host.udps == []
    assert net.count("udp_malformed") == 4


def test_cve_2021_3593_dhcpv6_cut() -> None:
    """Every length of a DHCPv6 message: an answer holds only what was asked, or there is none."""
    message = bytes((1, 1, 2, 3)) + bytes.fromhex(
        "0001000a0003000152540012345600060004001700180008000200000003000c0000000100000000000000"
    )
    net = Net6()
    for size in range(len(message)):
        net.put(udp6("ff02::1:2", 547, message[:size], src=LOCAL, sport=546))
        for frame in net.take():
            assert len(frame) < 400
    net.run(86_400)


def test_cve_2021_3593_dns_and_the_rest_cut(net: Net) -> None:
    message = question("a.example")
    for frame in cut(lambda data: udp("10.0.2.3", 53, data), message):
        net.put(frame)
        for answer in net.take():
            if answer[12:14] == wire.TYPE_IPV4:
                assert len(read(answer).payload) <= len(message)
    nothing_held(net)


# ---- and every frame of every kind, cut anywhere --------------------------------------------------------------


def test_every_cut_of_every_frame(net: Net) -> None:
    """No length that a header claims is believed beyond the end of the frame."""
    whole = [
        ping("192.0.2.1", bytes(40)),
        ping("10.0.2.2", bytes(40)),
        udp("192.0.2.1", 9, bytes(40)),
        udp("10.0.2.3", 53, question("a.example")),
        query(1),
        make_frame(
            GUEST, REMOTE, 4000, 80, 1, 0, SYN, 100, b"\x02\x04\x05\xb4\x01\x03\x03\x07\x04\x02\x01\x00"
        ),
        ip4("10.0.2.15", "192.0.2.1", 1, icmp(3, 3, 0, ip4("192.0.2.1", "10.0.2.15", 17, bytes(8))[14:])),
        *pieces(bytes(40), [(0, 24, True), (24, 48, False)]),
    ]
    for frame in whole:
        for size in range(len(frame)):
            net.put(HOST_MAC + GUEST_MAC + frame[12:size] if size > 12 else frame[:size])
            for answer in net.take():
                if answer[12:14] == wire.TYPE_IPV4:
                    read(answer)
    nothing_held(net)
