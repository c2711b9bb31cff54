"""Registers under accesses of other widths and offsets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_models.parts.register_file import MASKS, RegisterFile

SIZES = {0: 4, 4: 2, 6: 1, 7: 1, 8: 4, 12: 2}  # 14 and 15 are nobody's


class Twin:
    """Registers that store, and the same as plain bytes."""

    def __init__(self):
        self.values = dict.fromkeys(SIZES, 0)
        self.bytes = bytearray(16)
        self.file = RegisterFile(16)
        for offset, size in SIZES.items():
            self.file.add(offset, size, lambda offset=offset: self.values[offset], self._writer(offset))
        self.file.build()

    def _writer(self, offset):
        def write(value, mask):
            self.values[offset] = self.values[offset] & ~mask | value & mask

        return write

    def write(self, offset, width, value):
        self.file.writers[width][offset](value, MASKS[width])
        for index in range(width):
            if offset + index < 14:
                self.bytes[offset + index] = value >> 8 * index & 0xFF

    def read(self, offset, width):
        return self.file.readers[width][offset]()


ACCESS = st.tuples(st.integers(0, 15), st.sampled_from([1, 2, 4]), st.integers(0, 0xFFFFFFFF))


@given(st.lists(ACCESS, max_size=20))
def test_it_is_as_plain_bytes(accesses):
    twin = Twin()
    for offset, width, value in accesses:
        twin.write(offset, width, value & MASKS[width])
        for at in range(16):
            for size in (1, 2, 4):
                expected = int.from_bytes(bytes(twin.bytes) + bytes(4), "little") >> 8 * at & MASKS[size]
                assert twin.read(at, size) == expected


def test_a_register_sees_its_byte_lanes():
    seen = []
    file = RegisterFile(8)
    file.add(2, 4, None, lambda value, mask: seen.append((value, mask)))
    file.build()
    for offset, width, value in ((2, 4, 0x11223344), (3, 1, 0x55), (0, 4, 0xAABBCCDD), (4, 2, 0xEEFF)):
        file.writers[width][offset](value, MASKS[width])
    assert seen == [
        (0x11223344, 0xFFFFFFFF),
        (0x5500, 0xFF00),
        (0xAABB, 0xFFFF),
        (0xEEFF0000, 0xFFFF0000),
    ]


def test_a_place_is_taken_once():
    file = RegisterFile(8)
    file.add(0, 4, None, None)
    with pytest.raises(ValueError, match="0x3"):
        file.add(3, 1, None, None)
    with pytest.raises(ValueError, match="0x8"):
        file.add(6, 4, None, None)
