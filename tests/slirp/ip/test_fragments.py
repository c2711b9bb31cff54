"""Reassembly: any order, overlaps, bounds, time."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.ip import fragments
from slirp.ip.fragments import BYTES, DATAGRAMS, LIFETIME, PIECES
from slirp.wire import ipv4 as wire
from tests.slirp.fakes import SECOND, Net, ip4, read, udp_body

PAYLOAD = random.Random(5).randbytes(4000)


def cut(body: bytes, step: int, *, ident: int = 77, dst: str = "192.0.2.1", **ip: object) -> list[bytes]:
    """A datagram in pieces of ``step`` bytes."""
    frames = []
    for offset in range(0, len(body), step):
        more = 0x2000 if offset + step < len(body) else 0
        piece = body[offset : offset + step]
        frames.append(ip4("10.0.2.15", dst, 17, piece, ident=ident, flags=offset // 8 | more, **ip))
    return frames


def body(size: int = 4000) -> bytes:
    return udp_body("10.0.2.15", "192.0.2.1", 4000, 9, PAYLOAD[:size])


@pytest.fixture
def net() -> Net:
    return Net()


def arrived(net: Net) -> list[bytes]:
    return [data for sock in net.host.udps for data, _, _ in sock.sent]


@pytest.mark.parametrize("order", ["forward", "backward", "last first", "shuffled", "twice"])
def test_any_order(net: Net, order: str) -> None:
    frames = cut(body(), 1000)
    if order == "backward":
        frames.reverse()
    elif order == "last first":
        frames = frames[-1:] + frames[:-1]
    elif order == "shuffled":
        random.Random(3).shuffle(frames)
    elif order == "twice":
        frames = [frame for frame in frames[:-1] for _ in range(2)] + frames[-1:]
    net.put(*frames)
    assert arrived(net) == [PAYLOAD]
    assert not len(net.stack.ipv4.fragments)
    assert net.stack.ipv4.fragments.bytes == 0


@given(st.permutations(range(8)), st.integers(1, 60))
def test_every_permutation(order: list[int], units: int) -> None:
    whole = body(units * 64)
    step = -(-len(whole) // 8 // 8) * 8
    frames = cut(whole, step)
    net = Net()
    for index in order:
        if index < len(frames):
            net.put(frames[index])
    assert arrived(net) == [PAYLOAD[: units * 64]]


def test_options_of_the_first_piece_stay(net: Net) -> None:
    net.put(*cut(body(), 1000, options=b"\x01" * 8))
    assert arrived(net) == [PAYLOAD]


def test_64_kib(net: Net) -> None:
    big = random.Random(1).randbytes(65507)
    net.put(*cut(udp_body("10.0.2.15", "192.0.2.1", 4000, 9, big), 1480))
    assert arrived(net) == [big]


def test_beyond_64_kib_is_malformed(net: Net) -> None:
    net.put(ip4("10.0.2.15", "192.0.2.1", 17, b"x" * 1480, flags=8190))
    assert net.count("fragment_malformed") == 1


@pytest.mark.parametrize(
    "second",
    [
        ip4("10.0.2.15", "192.0.2.1", 17, b"y" * 1000, ident=77, flags=0x2000),
        ip4("10.0.2.15", "192.0.2.1", 17, b"y" * 1000, ident=77, flags=0x2000 | 124),
        ip4("10.0.2.15", "192.0.2.1", 17, b"y" * 8, ident=77, flags=0x2000 | 10),
    ],
)
def test_an_overlap_condemns_the_datagram(net: Net, second: bytes) -> None:
    frames = cut(body(), 1000)
    net.put(frames[0], second, *frames[1:])
    assert arrived(net) == []
    assert net.count("fragment_overlap") == 1
    assert net.stack.ipv4.fragments.bytes == 0


def test_two_ends_condemn(net: Net) -> None:
    frames = cut(body(), 1000)
    end = ip4("10.0.2.15", "192.0.2.1", 17, b"z" * 100, ident=77, flags=250)
    net.put(frames[-1], end, *frames[:-1])
    assert arrived(net) == []


@pytest.mark.parametrize("size", [0, 7, 9])
def test_pieces_that_cannot_be(net: Net, size: int) -> None:
    net.put(ip4("10.0.2.15", "192.0.2.1", 17, b"x" * size, flags=0x2000))
    assert net.count("fragment_malformed") == 1


def test_time_runs_out(net: Net) -> None:
    frames = cut(body(), 1000)
    net.put(*frames[:-1])
    net.run(LIFETIME / SECOND + 0.1)
    assert net.count("fragment_timeout") == 1
    net.put(frames[-1])
    assert arrived(net) == []


def test_datagrams_are_bounded_the_oldest_goes(net: Net) -> None:
    for ident in range(DATAGRAMS + 3):
        net.put(cut(body(), 1000, ident=ident)[0])
    assert len(net.stack.ipv4.fragments) == DATAGRAMS
    assert net.count("fragment_evicted") == 3
    net.put(*cut(body(), 1000, ident=DATAGRAMS + 2)[1:])
    assert arrived(net) == [PAYLOAD]


def test_pieces_are_bounded(net: Net) -> None:
    net.put(*[ip4("10.0.2.15", "192.0.2.1", 17, b"x" * 8, flags=0x2000 | 2 * n) for n in range(PIECES + 1)])
    assert net.count("fragment_pieces") == 1
    assert net.stack.ipv4.fragments.bytes == 0


def test_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "BYTES", 20_000)
    net = Net()
    for ident in range(10):
        net.put(*cut(body(), 1000, ident=ident)[:-1])
    assert net.stack.ipv4.fragments.bytes <= 20_000 < BYTES
    assert net.count("fragment_evicted") > 0


def test_other_keys_do_not_mix(net: Net) -> None:
    one, two = cut(body(), 2000, ident=1), cut(body(), 2000, ident=2)
    net.put(one[0], two[1], two[2])
    assert arrived(net) == []
    net.put(two[0])
    assert arrived(net) == [PAYLOAD]


def test_a_big_ping_comes_back_in_pieces(net: Net) -> None:
    from tests.slirp.fakes import icmp

    data = random.Random(9).randbytes(30_000)
    request = icmp(8, 0, 7, data)
    frames = []
    for offset in range(0, len(request), 1480):
        more = 0x2000 if offset + 1480 < len(request) else 0
        piece = request[offset : offset + 1480]
        frames.append(ip4("10.0.2.15", "10.0.2.2", 1, piece, flags=offset // 8 | more))
    net.put(*frames)
    answers = [read(frame) for frame in net.take()]
    assert len({a.ident for a in answers}) == 1
    assert [a.flags >> 13 & 1 for a in answers] == [1] * (len(answers) - 1) + [0]
    joined = b"".join(a.body for a in sorted(answers, key=lambda a: a.flags & 0x1FFF))
    assert joined == icmp(0, 0, 7, data)
    assert all(len(a.body) <= 1480 and a.ttl == 255 for a in answers)


def test_limits_are_what_the_file_says() -> None:
    assert wire.IPV4_MAX == 65535
    assert LIFETIME == 15 * SECOND
