"""Frames are brought to 60 bytes."""

import pytest

from nic_models.parts.padding import pad


@pytest.mark.parametrize("size", [0, 1, 14, 42, 59, 60, 61, 1514])
def test_pad(size):
    frame = b"x" * size
    padded = pad(frame)
    assert len(padded) == max(60, size)
    assert padded[:size] == frame
    assert not padded[size:].strip(b"\0")
