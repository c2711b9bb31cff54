"""Reading what a lease says: the domain search option."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapnet.guest.namespace.lease import SEARCH_MAX, search_list

LABEL = st.text("abcdefghij-0123456789", min_size=1, max_size=10).filter(lambda s: s.strip("-") != "")


def encode(names: list[str]) -> bytes:
    return b"".join(
        b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0" for name in names
    )


@given(st.lists(st.lists(LABEL, min_size=1, max_size=4).map(".".join), max_size=SEARCH_MAX))
def test_plain_names(names: list[str]) -> None:
    assert search_list(encode(names)) == names


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (
            b"\x03eng\x05apple\x03com\0\x09marketing\xc0\x04",
            ["eng.apple.com", "marketing.apple.com"],
        ),  # RFC 3397
        (b"\x01a\x01b\0\xc0\x02", ["a.b", "b"]),
        (b"", []),
        (b"\0", []),
        (b"\x05abc", []),
        (b"\x01a", []),
        (b"\xc0", []),
        (b"\xc0\x00", []),  # points at itself
        (b"\x01a\xc0\x00", []),  # for ever
        (b"\x01a\xc0\x40", []),
        (b"\x03a b\0", []),
        (b"\x03a\nb\0", []),
    ],
)
def test_compression_and_nonsense(data: bytes, names: list[str]) -> None:
    assert search_list(data) == names


@given(st.binary(max_size=255))
def test_anything_ends(data: bytes) -> None:
    for name in search_list(data):
        assert "\n" not in name and " " not in name
