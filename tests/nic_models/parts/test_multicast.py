"""The hash filters against a bit-by-bit CRC, and against values that drivers are known to compute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_models.parts.multicast import filter_with, hash_be, hash_le


def crc_be(data):
    """The CRC register as shifted most significant bit first."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            carry = (crc >> 31) ^ (byte >> bit & 1)
            crc = crc << 1 & 0xFFFFFFFF
            if carry:
                crc ^= 0x04C11DB7
    return crc


def crc_le(data):
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            carry = (crc & 1) ^ (byte >> bit & 1)
            crc >>= 1
            if carry:
                crc ^= 0xEDB88320
    return crc


@given(st.binary(min_size=6, max_size=6))
def test_against_the_shift_register(address):
    assert hash_be(address) == crc_be(address) >> 26
    assert hash_le(address) == crc_le(address) >> 26


@pytest.mark.parametrize("address", ["01005e000001", "333300000001", "0180c2000000"])
def test_filter_sets_one_bit(address):
    address = bytes.fromhex(address)
    mar = filter_with([address])
    bit = crc_be(address) >> 26
    assert mar[bit >> 3] == 1 << (bit & 7)
    assert sum(mar) == mar[bit >> 3]


def test_filter_of_many():
    assert filter_with([]) == bytes(8)
    assert filter_with([], 63) == bytes(7) + b"\x80"
