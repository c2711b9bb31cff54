"""The extension header walk: a slow twin, bounds, and no exception whatever comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slirp.wire.icmp_map import to_4, to_6
from slirp.wire.ipv6 import (
    AUTHENTICATION,
    DESTINATION,
    ETH_IPV6_LEN,
    FRAGMENT,
    HOP_BY_HOP,
    NEXT_HEADER,
    ROUTING,
)
from slirp.wire.ipv6_extensions import DISCARD, GOOD, HEADERS, TRUNCATED, walk

KINDS = (HOP_BY_HOP, ROUTING, AUTHENTICATION, DESTINATION)


def packet(chain: list[tuple[int, int]], last: int) -> tuple[bytes, int, list[int]]:
    """A frame with headers of (kind, size in units), the end of it, and where each begins."""
    frame = bytearray(ETH_IPV6_LEN)
    after = [kind for kind, _ in chain[1:]] + [last]
    begins = []
    for (kind, units), following in zip(chain, after):
        begins.append(len(frame))
        size = (units + 1) << 3
        body = bytearray(size)
        body[0] = following
        body[1] = (size >> 2) - 2 if kind == AUTHENTICATION else units
        if kind in (HOP_BY_HOP, DESTINATION):
            body[2:] = b"\0" * (size - 2)
        frame += body
    frame[NEXT_HEADER] = chain[0][0] if chain else last
    return bytes(frame) + bytes(8), len(frame) + 8, begins


CHAINS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 4)), max_size=HEADERS)


@given(CHAINS, st.sampled_from((6, 17, 58, FRAGMENT, 132)))
def test_a_sound_chain_is_followed_to_its_end(chain: list[tuple[int, int]], last: int) -> None:
    chain = [
        (kind if number == 0 or kind != HOP_BY_HOP else DESTINATION, n)
        for number, (kind, n) in enumerate(chain)
    ]
    frame, end, begins = packet(chain, last)
    found = walk(frame, frame[NEXT_HEADER], ETH_IPV6_LEN, end)
    assert (found.problem, found.protocol, found.off) == (GOOD, last, end - 8)
    assert found.link == (begins[-1] if begins else NEXT_HEADER)
    assert frame[found.link] == last


@given(CHAINS.filter(bool), st.integers(0, 1000))
def test_a_chain_that_is_cut_is_noticed(chain: list[tuple[int, int]], cut: int) -> None:
    chain = [(ROUTING, units) for _, units in chain]
    frame, end, _ = packet(chain, 17)
    end = ETH_IPV6_LEN + cut % (end - 8 - ETH_IPV6_LEN)
    assert walk(frame, frame[NEXT_HEADER], ETH_IPV6_LEN, end).problem == TRUNCATED


def test_more_headers_than_allowed() -> None:
    frame, end, _ = packet([(DESTINATION, 0)] * (HEADERS + 1), 17)
    assert walk(frame, DESTINATION, ETH_IPV6_LEN, end).problem == DISCARD


@given(st.binary(max_size=400), st.integers(0, 255))
def test_it_never_raises_and_never_leaves_the_packet(data: bytes, protocol: int) -> None:
    frame = bytes(ETH_IPV6_LEN) + data
    found = walk(frame, protocol, ETH_IPV6_LEN, len(frame))
    assert found.off <= len(frame)
    assert 0 <= found.link < len(frame)


@given(st.integers(0, 255), st.integers(0, 255))
def test_errors_of_the_other_family_are_errors(kind: int, code: int) -> None:
    assert to_6(kind, code)[0] in (1, 2, 3, 4)
    assert to_4(kind, code)[0] in (3, 11, 12)


def test_errors_that_matter_survive_both_ways() -> None:
    for kind, code in ((3, 1), (3, 3), (3, 4), (11, 0), (11, 1)):
        assert to_4(*to_6(kind, code)) == (kind, code)
