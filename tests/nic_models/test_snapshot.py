"""Snapshot helpers refuse what is not a snapshot."""

import pytest

from nic_models.snapshot import counts, flag, number, optional, pack, section, unpack


def test_round_trip():
    assert unpack({"x": pack(b"abc")}, "x", 3) == b"abc"
    assert unpack({"x": pack(bytes(5000))}, "x") == bytes(5000)
    assert number({"n": 5}, "n", 5) == 5
    assert optional({"n": None}, "n", 5) is None
    assert flag({"f": 1}, "f") is True
    assert counts({"c": {"a": 1}}, "c") == {"a": 1}


@pytest.mark.parametrize(
    "value", [None, "", "!!", "AAAA", 5, pack(b"ab"), pack(b"abcd"), pack(bytes(1 << 20))]
)
def test_unpack_refuses(value):
    with pytest.raises(ValueError, match="snapshot"):
        unpack({"x": value}, "x", 3)


def test_unpack_does_not_inflate_a_bomb():
    with pytest.raises(ValueError, match="snapshot"):
        unpack({"x": pack(bytes(100_000))}, "x", limit=1000)


@pytest.mark.parametrize("state", [{}, {"n": 6}, {"n": -1}, {"n": "5"}, {"n": None}, [], None, {"n": 1.0}])
def test_number_refuses(state):
    with pytest.raises(ValueError, match="snapshot"):
        number(state, "n", 5)


@pytest.mark.parametrize("state", [{}, {"s": 1}, None, {"s": []}])
def test_section_refuses(state):
    with pytest.raises(ValueError, match="snapshot"):
        section(state, "s")
