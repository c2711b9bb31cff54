"""The address table of a switch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tapnet.vlan.addresses import AGE_NS, REFRESH_NS, SECOND, AddressTable
from tapnet.vlan.port import Port


class Clock:
    now = 0

    def __call__(self) -> int:
        return self.now


def port(name: str) -> Port:
    return Port(name, lambda _frame, _vnet: True)


def mac(number: int) -> bytes:
    return b"\x02" + number.to_bytes(5, "big")


A, B = port("a"), port("b")


def test_learned_moved_and_aged() -> None:
    clock = Clock()
    table = AddressTable(clock)
    table.learn(mac(1), A)
    assert table.find(mac(1)) is A and table.find(mac(2)) is None
    table.learn(mac(1), B)
    assert table.find(mac(1)) is B and table.moved == 1
    clock.now = AGE_NS
    assert table.find(mac(1)) is B
    table.learn(mac(1), B)
    clock.now += AGE_NS
    assert table.find(mac(1)) is B, "seen again in time"
    clock.now += 1
    assert table.find(mac(1)) is None and len(table) == 0


def test_groups_are_nobodys_source() -> None:
    table = AddressTable(Clock())
    table.learn(b"\x01" + bytes(5), A)
    table.learn(b"\xff" * 6, A)
    assert len(table) == 0


def test_a_full_table_takes_nobody_new_until_somebody_is_too_old() -> None:
    clock = Clock()
    table = AddressTable(clock, limit=3)
    for number in range(4):
        table.learn(mac(number), A)
    assert len(table) == 3 and table.refused == 1 and table.find(mac(3)) is None
    clock.now = AGE_NS - SECOND
    table.learn(mac(0), A)
    clock.now = AGE_NS + 1
    table.learn(mac(3), B)
    assert table.find(mac(3)) is B and table.find(mac(0)) is A and len(table) == 2


def test_a_port_takes_its_addresses_along() -> None:
    table = AddressTable(Clock())
    table.learn(mac(1), A)
    table.learn(mac(2), B)
    table.keep({B})
    assert [(row.mac, row.port) for row in table.rows()] == [(mac(2), B)]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(0, AGE_NS)), max_size=60))
def test_against_a_plain_model(steps: list[tuple[int, int, int]]) -> None:
    ports = [A, B, port("c")]
    clock = Clock()
    table = AddressTable(clock, limit=100)
    seen: dict[bytes, tuple[Port, int]] = {}
    for number, where, later in steps:
        clock.now += later
        table.learn(mac(number), ports[where])
        seen[mac(number)] = ports[where], clock.now
        for address, (behind, at) in seen.items():
            found = table.find(address)
            if clock.now - at > AGE_NS:
                assert found is None
            elif clock.now - at <= AGE_NS - REFRESH_NS - 1:
                assert found is behind
