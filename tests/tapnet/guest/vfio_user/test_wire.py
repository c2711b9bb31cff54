"""The protocol's messages, byte by byte, without a socket."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapnet.guest.vfio_user import wire
from tests.tapnet.vfio_kit import descriptors, version

MESSAGES = (
    (1, wire.VERSION, 0, version()),
    (2, wire.DMA_MAP, 0, wire.MAP.pack(32, 3, 0, 0x1000, 0x2000)),
    (3, wire.DMA_UNMAP, 0, wire.UNMAP.pack(24, 0, 0x1000, 0x2000)),
    (4, wire.GET_INFO, 0, wire.INFO.pack(16, 0, 0, 0)),
    (5, wire.SET_IRQS, 0, wire.IRQ_SET.pack(20, 0x24, 0, 0, 1)),
    (6, wire.REGION_READ, 0, wire.ACCESS.pack(4, 7, 4)),
    (7, wire.REGION_WRITE, wire.NO_REPLY, wire.ACCESS.pack(0, 1, 4) + b"abcd"),
    (0xFFFF, wire.DMA_READ, wire.REPLY, wire.DMA.pack(0, 3) + b"xyz"),
    (9, wire.RESET, 0, b""),
    (10, wire.WRITE_MULTI, wire.NO_REPLY, wire.MULTI_COUNT.pack(1) + wire.MULTI.pack(1, 0, 2, b"12345678")),
)


def raw(number: int, command: int, flags: int, body: bytes) -> bytes:
    return wire.HEADER.pack(number, command, 16 + len(body), flags, 0) + body


STREAM = b"".join(raw(*message) for message in MESSAGES)


def fields(messages: list[wire.Message]) -> list[tuple[int, int, int, bytes]]:
    return [(m.id, m.command, m.flags, m.body) for m in messages]


def test_all_at_once() -> None:
    decoder = wire.Decoder()
    assert fields(decoder.feed(STREAM)) == list(MESSAGES)
    assert not decoder.pending


def test_cut_at_every_boundary() -> None:
    for cut in range(1, len(STREAM)):
        decoder = wire.Decoder()
        found = decoder.feed(STREAM[:cut])
        assert fields(found + decoder.feed(STREAM[cut:])) == list(MESSAGES)


def test_byte_by_byte() -> None:
    decoder = wire.Decoder()
    found = [m for at in range(len(STREAM)) for m in decoder.feed(STREAM[at : at + 1])]
    assert fields(found) == list(MESSAGES)


@given(st.lists(st.integers(1, 60), max_size=30))
def test_any_pieces(sizes: list[int]) -> None:
    decoder = wire.Decoder()
    found, at = [], 0
    for size in sizes:
        found += decoder.feed(STREAM[at : at + size])
        at += size
    found += decoder.feed(STREAM[at:])
    assert fields(found) == list(MESSAGES)


def pipe_fds(count: int) -> list[int]:
    return [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]


@pytest.mark.parametrize("before", [0, 1, 2])
def test_descriptors_belong_to_the_last_message_of_the_piece(before: int) -> None:
    """QEMU pipelines DMA_MAPs; the kernel ends a read behind the one that has descriptors."""
    decoder = wire.Decoder()
    (fd,) = pipe_fds(1)
    messages = decoder.feed(b"".join(raw(*m) for m in MESSAGES[: before + 1]), [fd])
    assert [m.fds for m in messages] == [[]] * before + [[fd]]
    wire.close_all([fd])


@pytest.mark.parametrize("cut", [1, 15, 16, 17, 47])
def test_descriptors_come_with_the_first_piece_of_their_message(cut: int) -> None:
    decoder = wire.Decoder()
    (fd,) = pipe_fds(1)
    first, second = raw(*MESSAGES[0]), raw(*MESSAGES[1])
    (plain,) = decoder.feed(first + second[:cut], [fd])
    assert plain.fds == []
    (message,) = decoder.feed(second[cut:])
    assert message.fds == [fd]
    wire.close_all([fd])


def test_descriptors_of_a_message_that_never_ends_are_closed() -> None:
    before = descriptors()
    decoder = wire.Decoder()
    decoder.feed(raw(*MESSAGES[1])[:20], pipe_fds(3))
    decoder.close()
    assert descriptors() == before


@pytest.mark.parametrize("sizes", [(17,), (9, 8), (16, 1)])
def test_too_many_descriptors(sizes: tuple[int, ...]) -> None:
    before = descriptors()
    decoder = wire.Decoder()
    with pytest.raises(wire.ProtocolError, match="16 descriptors"):
        for size in sizes:
            decoder.feed(raw(*MESSAGES[1])[:20], pipe_fds(size))
    decoder.close()
    assert descriptors() == before


@pytest.mark.parametrize(
    ("size", "flags"), [(0, 0), (15, 0), (wire.MESSAGE_MAX + 1, 0), (0xFFFFFFFF, 0), (16, 2), (16, 0xF)]
)
def test_bad_headers(size: int, flags: int) -> None:
    before = descriptors()
    decoder = wire.Decoder()
    with pytest.raises(wire.ProtocolError, match="bad header"):
        decoder.feed(raw(*MESSAGES[1]) + wire.HEADER.pack(1, 2, size, flags, 0), pipe_fds(2))
    decoder.close()
    assert descriptors() == before


def test_the_largest_message() -> None:
    decoder = wire.Decoder()
    body = bytes(wire.MESSAGE_MAX - 16)
    (message,) = decoder.feed(raw(1, wire.REGION_WRITE, 0, body))
    assert len(message.body) == len(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (version(), (0, 0, True)),
        (b"\0\0\1\0{}\0", (0, 1, None)),
        (b"\0\0\0\0", (0, 0, None)),
        (b'\1\0\2\0{"capabilities":{}}', (1, 2, None)),
    ],
)
def test_versions(body: bytes, expected: tuple[int, int, object]) -> None:
    major, minor, capabilities = wire.parse_version(body)
    assert (major, minor, capabilities.get("write_multiple")) == expected


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\0\0", b"\0\0\0\0[1]\0", b"\0\0\0\0{", b"\0\0\0\0\xff\xfe", b'\0\0\0\0{"capabilities":3}']
    + [b"\0\0\0\0" + b"[" * 100_000],
)
def test_versions_that_are_none(body: bytes) -> None:
    with pytest.raises(wire.ProtocolError, match="VERSION"):
        wire.parse_version(body)


def test_our_version_is_not_longer_than_qemus() -> None:
    """QEMU 11.1 refuses an answer that is longer than its request of 214 bytes."""
    ours = wire.version({"max_msg_fds": 16, "max_data_xfer_size": 1 << 20, "write_multiple": True})
    assert 16 + len(ours) <= 214
    assert wire.parse_version(ours)[:2] == (0, 0)


def test_answers() -> None:
    message = wire.Message(0xABCD, wire.GET_INFO, 0, 0, b"", [])
    assert wire.reply(message, b"xy") == bytes.fromhex("cdab 0400 12000000 01000000 00000000") + b"xy"
    assert wire.failure(message, 22) == bytes.fromhex("cdab 0400 10000000 21000000 16000000")
    assert (
        wire.request(1, wire.DMA_READ, b"z") == bytes.fromhex("0100 0b00 11000000 00000000 00000000") + b"z"
    )
    assert message.wants_reply and not message.is_reply
