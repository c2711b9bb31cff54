"""The fast checksum against the loop of RFC 1071."""

from hypothesis import example, given
from hypothesis import strategies as st

from slirp.wire import checksum


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff\xff")
@example(b"\0" * 20)
@example(b"\xff" * 4000)
@example(b"\x01")
def test_total_is_the_slow_loop(data: bytes) -> None:
    slow = checksum.slow_total(data)
    assert checksum.total(data) == slow % 65535


@given(st.binary(min_size=2, max_size=200).filter(lambda d: any(d)), st.integers(0, 200_000))
def test_what_is_filled_in_adds_up(data: bytes, start: int) -> None:
    data = data[: len(data) & ~1]
    field = checksum.checksum(data, start)
    assert 1 <= field <= 65535
    assert checksum.good(data + field.to_bytes(2, "big"), start)
    folded = start
    while folded > 65535:
        folded = (folded & 65535) + (folded >> 16)
    assert checksum.slow_total(data + field.to_bytes(2, "big") + folded.to_bytes(2, "big")) == 65535


@given(st.binary(min_size=4, max_size=64), st.data())
def test_a_changed_byte_is_noticed(data: bytes, draw: st.DataObject) -> None:
    data = data[: len(data) & ~1]
    whole = bytearray(data + checksum.checksum(data).to_bytes(2, "big"))
    place = draw.draw(st.integers(0, len(whole) - 1))
    change = draw.draw(st.integers(1, 254))
    whole[place] ^= change
    changed = checksum.slow_total(bytes(whole)) % 65535
    assert checksum.good(bytes(whole)) == (changed == 0)


def test_rfc_1071_example() -> None:
    assert checksum.slow_total(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2
    assert checksum.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D


def test_memoryview() -> None:
    data = bytes(range(33))
    assert checksum.checksum(memoryview(data)) == checksum.checksum(data)
