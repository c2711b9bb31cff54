"""virtio_net_hdr: layout, and completing an owed checksum."""

from __future__ import annotations

from struct import unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_models.virtio import HEADER, complete, ones_sum, partial, tcp4


def slow_sum(data):
    """RFC 1071 by the book."""
    total = 0
    for index in range(0, len(data), 2):
        total += data[index] << 8 | (data[index + 1] if index + 1 < len(data) else 0)
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(max_size=70))
def test_ones_sum_is_rfc_1071(data):
    assert ones_sum(data) == slow_sum(data)


def test_layout():
    assert HEADER.unpack(partial(34, 16)) == (1, 0, 0, 0, 34, 16)
    assert HEADER.unpack(tcp4(54, 1460, 34)) == (1, 1, 54, 1460, 34, 16)


@given(st.binary(min_size=20, max_size=60), st.integers(0, 10), st.integers(0, 8))
def test_a_completed_frame_sums_up(frame, start, offset):
    done = complete(frame, partial(start, offset))
    assert done is not None and len(done) == len(frame)
    field = start + offset
    assert done[:field] + done[field + 2 :] == frame[:field] + frame[field + 2 :]
    owed = 0xFFFF - slow_sum(frame[start:])
    assert unpack(">H", done[field : field + 2])[0] == (owed or 0xFFFF)


@pytest.mark.parametrize(
    "vnet", [tcp4(54, 1460, 34), partial(59, 0), partial(0, 59), partial(65535, 65535), b"\1"]
)
def test_what_cannot_be_completed(vnet):
    assert complete(bytes(60), vnet) is None


@pytest.mark.parametrize("vnet", [b"", bytes(10)])
def test_nothing_owed(vnet):
    assert complete(b"frame", vnet) == b"frame"
