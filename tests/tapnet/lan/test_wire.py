"""rtnetlink's messages to words and back: the same bytes, whatever attributes a kernel adds."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from tapnet.lan import wire
from tapnet.lan.belongings import attribute

KINDS = (wire.ADDRESS, wire.ROUTE, wire.NEIGHBOUR, wire.RULE)


def attr(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


@given(kind=st.sampled_from(KINDS), data=st.data())
def test_what_nobody_knows_comes_back(kind: wire.Kind, data: st.DataObject) -> None:
    numbers = st.integers(1, 0x3FFF).filter(lambda number: number not in kind.attrs)
    head = kind.header.pack(*range(1, 1 + len(kind.fields)))
    body = head + b"".join(
        attr(number, value)
        for number, value in data.draw(st.lists(st.tuples(numbers, st.binary(max_size=40))))
    )
    assert wire.encode(kind, wire.decode(kind, body)) == body


def test_what_somebody_reads_comes_back() -> None:
    gateway, via = attr(5, bytes([192, 0, 2, 1])), attr(18, struct.pack("=H", 10) + bytes(15) + b"\1")
    hops = b""
    for index, attrs in ((7, gateway + attr(11, b"\5\0\0\0")), (8, via)):
        hops += struct.pack("=HBBi", 8 + len(attrs), 4, 2, index) + attrs
    body = wire.ROUTE.header.pack(2, 16, 0, 0, 254, 3, 0, 1, 0) + b"".join(
        (
            attr(1, bytes([10, 1, 0, 0])), attr(15, struct.pack("=I", 254)), attr(9, hops), attr(22 | 0x8000, attr(1, b"abcd")),
            attr(12, struct.pack("=IIiIIIII", 0, 1, 500, 0, 2, 3, 4, 5)), attr(31, b"new!"),
        )
    )  # fmt: skip
    message = wire.decode(wire.ROUTE, body)
    assert attribute(message, "RTA_DST") == "10.1.0.0"
    assert [(hop["oif"], attribute(hop, "RTA_GATEWAY"), attribute(hop, "RTA_VIA")) for hop in attribute(message, "RTA_MULTIPATH")] == [
        (7, "192.0.2.1", None), (8, None, {"family": 10, "addr": "::1"}),
    ]  # fmt: skip
    assert attribute(message, "RTA_CACHEINFO")["rta_expires"] == 500
    assert wire.encode(wire.ROUTE, message) == body


@given(kind=st.sampled_from(KINDS), tail=st.binary(max_size=60))
def test_lengths_that_lie_end_the_message(kind: wire.Kind, tail: bytes) -> None:
    """Whatever is said, it is read without an endless loop; attributes that are known may be refused as bytes."""
    body = bytes(kind.header.size) + attr(0x3000, b"whole") + b"\3\0\1\0" + tail
    assert wire.decode(kind, body)["attrs"] == [["12288", b"whole".hex()]]
