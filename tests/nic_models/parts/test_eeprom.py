"""The 93C46 bit by bit, as drivers clock it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_models.parts.eeprom import Eeprom93C46

READ, WRITE, ERASE = 0b110, 0b101, 0b111
EWEN, EWDS, WRAL, ERAL = 0b100_110000, 0b100_000000, 0b100_010000, 0b100_100000


def select(eeprom):
    eeprom.drive(0, 0, 0)
    eeprom.drive(1, 0, 0)


def clock_in(eeprom, value, bits):
    for index in reversed(range(bits)):
        bit = value >> index & 1
        eeprom.drive(1, 0, bit)
        eeprom.drive(1, 1, bit)


def clock_out(eeprom, bits):
    value = 0
    for _ in range(bits):
        eeprom.drive(1, 0, 0)
        value = value << 1 | eeprom.drive(1, 1, 0)
    return value


def read(eeprom, address, words=1):
    select(eeprom)
    clock_in(eeprom, READ << 6 | address, 9)
    assert eeprom.do == 0  # dummy bit
    values = [clock_out(eeprom, 16) for _ in range(words)]
    eeprom.drive(0, 0, 0)
    return values


def command(eeprom, value, data=None):
    select(eeprom)
    clock_in(eeprom, value, 9)
    if data is not None:
        clock_in(eeprom, data, 16)
    eeprom.drive(0, 0, 0)


@given(st.lists(st.integers(0, 0xFFFF), max_size=64), st.integers(0, 63))
def test_read(words, address):
    eeprom = Eeprom93C46(words)
    expected = (words + [0xFFFF] * 64)[address]
    assert read(eeprom, address) == [expected]


def test_sequential_read_wraps():
    eeprom = Eeprom93C46(range(64))
    assert read(eeprom, 62, 4) == [62, 63, 0, 1]


def test_write_needs_enable():
    eeprom = Eeprom93C46([1, 2, 3])
    command(eeprom, WRITE << 6 | 1, 0x1234)
    assert read(eeprom, 1) == [2]
    command(eeprom, EWEN)
    command(eeprom, WRITE << 6 | 1, 0x1234)
    assert read(eeprom, 1) == [0x1234]
    command(eeprom, ERASE << 6 | 1)
    assert read(eeprom, 1) == [0xFFFF]
    command(eeprom, WRAL, 0x5555)
    assert read(eeprom, 0, 3) == [0x5555] * 3
    command(eeprom, ERAL)
    assert read(eeprom, 7) == [0xFFFF]
    command(eeprom, EWDS)
    command(eeprom, WRITE << 6 | 1, 0x1234)
    assert read(eeprom, 1) == [0xFFFF]


def test_a_write_cut_short_does_nothing():
    eeprom = Eeprom93C46([7])
    command(eeprom, EWEN)
    select(eeprom)
    clock_in(eeprom, WRITE << 6, 9)
    clock_in(eeprom, 0x12, 8)
    eeprom.drive(0, 0, 0)
    assert read(eeprom, 0) == [7]


def test_leading_zeros_before_the_start_bit():
    eeprom = Eeprom93C46([0xABCD])
    select(eeprom)
    clock_in(eeprom, READ << 6, 16)  # seven zeros first
    assert clock_out(eeprom, 16) == 0xABCD


def test_snapshot_in_the_middle_of_a_read():
    eeprom = Eeprom93C46([0xABCD])
    select(eeprom)
    clock_in(eeprom, READ << 6, 9)
    clock_out(eeprom, 5)
    state = json.loads(json.dumps(eeprom.snapshot()))
    other = Eeprom93C46()
    other.restore(state)
    assert clock_out(eeprom, 11) == clock_out(other, 11)
    assert other.snapshot() == eeprom.snapshot()


@pytest.mark.parametrize("change", [{"words": []}, {"state": 9}, {"cs": 2}, {"words": [65536] * 64}])
def test_bad_snapshots(change):
    eeprom = Eeprom93C46()
    with pytest.raises(ValueError, match="snapshot"):
        eeprom.restore(eeprom.snapshot() | change)


@given(st.lists(st.tuples(*[st.integers(0, 1)] * 3), max_size=200))
def test_any_wiggling_is_survived(pins):
    eeprom = Eeprom93C46(range(64))
    for cs, sk, di in pins:
        assert eeprom.drive(cs, sk, di) in (0, 1)
