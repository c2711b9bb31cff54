"""Out-of-order data against a slow twin: a dictionary of single bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slirp.tcp.buffers import Buffers
from slirp.tcp.reassembly import Reassembly

pieces = st.lists(st.tuples(st.integers(1, 60), st.binary(min_size=1, max_size=12)), max_size=30)


@given(pieces)
def test_first_copy_wins_and_buffers_add_up(script: list[tuple[int, bytes]]) -> None:
    buffers = Buffers()
    ours = Reassembly(buffers, 1000)
    twin: dict[int, int] = {}
    for seq, piece in script:
        new = 0
        for i, byte in enumerate(piece):
            if seq + i not in twin:
                twin[seq + i] = byte
                new += 1
        assert ours.add(seq, piece) == new
        assert buffers.used == len(ours) == len(twin)
        assert ours.starts == sorted(ours.starts)
        spans = ours.blocks(100)
        assert {seq for left, right in spans for seq in range(left, right)} == set(twin)
        assert all(right not in twin and left - 1 not in twin for left, right in spans)
        left, right = spans[0]
        assert left <= seq < right, "the block that was touched last comes first"
    nxt = 0
    out: dict[int, int] = {}
    for nxt in range(100):
        while (data := ours.take(nxt)) is not None:
            out.update({nxt + i: byte for i, byte in enumerate(data)})
            nxt += len(data)
    assert out == twin
    assert buffers.used == 0 and not ours


@given(pieces, st.integers(1, 4))
def test_limit_of_chunks(script: list[tuple[int, bytes]], limit: int) -> None:
    buffers = Buffers()
    ours = Reassembly(buffers, limit)
    for seq, piece in script:
        ours.add(seq, piece)
        assert len(ours.starts) <= limit
    ours.clear()
    assert buffers.used == 0


def test_cap_of_the_buffers() -> None:
    buffers = Buffers(10)
    ours = Reassembly(buffers, 100)
    assert ours.add(5, bytes(8)) == 8
    assert ours.add(50, bytes(3)) == 0
    assert ours.add(50, bytes(2)) == 2
    assert buffers.room() == 0


def test_take_cuts_what_is_known_and_skips_what_is_old() -> None:
    buffers = Buffers()
    ours = Reassembly(buffers, 100)
    ours.add(10, b"abcdef")
    ours.add(20, b"xyz")
    assert ours.take(9) is None
    assert ours.take(13) == b"def"
    assert ours.take(30) is None and buffers.used == 0
