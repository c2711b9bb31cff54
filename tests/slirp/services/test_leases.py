"""Who gets which address."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from slirp.services import leases as leases_module
from slirp.services.leases import DECLINE_TIME, FOR_EVER, OFFER_TIME, Lease, Leases

SECOND = 1_000_000_000
FIRST, LAST = 100, 109
USED: dict[bytes, bytes] = {}


def pool(**used: bytes) -> Leases:
    """Addresses 0.0.0.100 to .109 without .105."""
    table = {address(int(k[1:])): mac for k, mac in used.items()}
    return Leases(FIRST, LAST, frozenset({105}), lambda a, m: table.get(a, m) != m)


def address(number: int) -> bytes:
    return number.to_bytes(4, "big")


def give(leases: Leases, client: bytes, now: int = 0, seconds: int = 1000) -> Lease:
    lease = leases.offer(client, client, None, now)
    assert lease is not None
    leases.bind(lease, seconds, now)
    return lease


def test_lowest_first_and_excluded_never() -> None:
    leases = pool()
    given = [give(leases, bytes([n])).address[-1] for n in range(9)]
    assert given == [100, 101, 102, 103, 104, 106, 107, 108, 109]
    assert leases.offer(b"x", b"x", None, 0) is None


def test_the_same_client_the_same_address() -> None:
    leases = pool()
    first = give(leases, b"a")
    give(leases, b"b")
    assert leases.offer(b"a", b"a", None, 5) is first
    leases.release(first, 6)
    assert leases.offer(b"a", b"a", None, 7).address == first.address
    assert leases.offer(b"a", b"a", None, 99 * SECOND).address == first.address


def test_the_wanted_address_if_free() -> None:
    leases = pool()
    assert leases.offer(b"a", b"a", address(107), 0).address == address(107)
    assert leases.offer(b"b", b"b", address(107), 0).address == address(100)
    assert leases.offer(b"c", b"c", address(99), 0).address == address(101)
    assert leases.offer(b"d", b"d", address(105), 0).address == address(102)


def test_offers_are_reserved_shortly() -> None:
    leases = pool()
    offer = leases.offer(b"a", b"a", None, 0)
    assert leases.claim(b"b", b"b", offer.address, OFFER_TIME - 1) is None
    assert leases.claim(b"b", b"b", offer.address, OFFER_TIME) is not None


def test_the_longest_free_is_used_again() -> None:
    leases = pool()
    for n in range(9):
        give(leases, bytes([n]), seconds=100 - n)
    assert leases.offer(b"new", b"new", None, 91 * SECOND) is None
    assert leases.offer(b"new", b"new", None, 93 * SECOND).address == address(109)
    leases.release(leases.of(b"\x03"), 94 * SECOND)
    assert leases.offer(b"newer", b"newer", None, 200 * SECOND).address == address(108)


def test_for_ever() -> None:
    leases = pool()
    lease = give(leases, b"a", seconds=FOR_EVER)
    assert lease.expires is None
    assert not lease.free(1 << 62)


def test_declined_addresses_rest() -> None:
    leases = pool()
    lease = give(leases, b"a")
    leases.decline(lease, 0)
    assert leases.offer(b"a", b"a", lease.address, 1).address == address(101)
    assert leases.claim(b"b", b"b", lease.address, DECLINE_TIME - 1) is None
    assert leases.claim(b"b", b"b", lease.address, DECLINE_TIME) is not None


def test_an_address_in_use_by_another_station_is_skipped() -> None:
    leases = pool(n100=b"other", n101=b"mine")
    assert leases.offer(b"c", b"mine", None, 0).address == address(101)
    assert leases.claim(b"c", b"mine", address(100), 0) is None


def test_a_bound_address_that_somebody_took_is_replaced() -> None:
    used: dict[bytes, bytes] = {}
    leases = Leases(FIRST, LAST, frozenset(), lambda a, m: used.get(a, m) != m)
    lease = give(leases, b"a")
    used[lease.address] = b"intruder"
    assert leases.offer(b"a", b"a", None, 1).address == address(101)


def test_records_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module, "LEASES", 3)
    leases = pool()
    for n in range(3):
        give(leases, bytes([n]), seconds=10)
    assert leases.offer(b"x", b"x", None, 0) is None
    assert leases.claim(b"x", b"x", address(109), 0) is None
    assert leases.offer(b"x", b"x", None, 11 * SECOND) is not None
    assert len(leases) == 3


def test_rows() -> None:
    leases = pool()
    lease = give(leases, b"\x01\x02\x03\x04\x05\x06")
    lease.hostname = "guest"
    (row,) = leases.rows(400 * SECOND)
    assert row == {
        "address": "0.0.0.100",
        "mac": "01:02:03:04:05:06",
        "client_id": "010203040506",
        "state": "bound",
        "hostname": "guest",
        "expires": 600.0,
    }
    assert leases.rows(1001 * SECOND)[0]["state"] == "expired"


CLIENTS = st.integers(0, 12).map(lambda n: bytes([n]))
NUMBERS = st.integers(98, 111).map(address)


class Machine(RuleBasedStateMachine):
    """Whatever clients do: one holder for an address, one address for a client, nothing outside the pool."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = pool()
        self.now = 0
        self.held: dict[bytes, tuple[bytes, int]] = {}

    @rule(client=CLIENTS, wanted=st.none() | NUMBERS)
    def discover(self, client: bytes, wanted: bytes | None) -> None:
        lease = self.leases.offer(client, client, wanted, self.now)
        if lease is not None:
            self.nobody_else(lease)

    @rule(client=CLIENTS, wanted=NUMBERS, seconds=st.integers(1, 50))
    def request(self, client: bytes, wanted: bytes, seconds: int) -> None:
        lease = self.leases.claim(client, client, wanted, self.now)
        if lease is not None:
            assert lease.address == wanted
            self.nobody_else(lease)
            self.leases.bind(lease, seconds, self.now)
            for other, (who, _) in list(self.held.items()):
                if who == client:
                    del self.held[other]
            self.held[wanted] = (client, self.now + seconds * SECOND)

    @rule(client=CLIENTS)
    def release(self, client: bytes) -> None:
        lease = self.leases.of(client)
        if lease is not None:
            self.leases.release(lease, self.now)
            self.held.pop(lease.address, None)

    @rule(client=CLIENTS)
    def decline(self, client: bytes) -> None:
        lease = self.leases.of(client)
        if lease is not None:
            self.leases.decline(lease, self.now)
            self.held.pop(lease.address, None)

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND

    def nobody_else(self, lease: Lease) -> None:
        holder = self.held.get(lease.address)
        assert holder is None or holder[0] == lease.client or holder[1] <= self.now

    @invariant()
    def consistent(self) -> None:
        for where, lease in self.leases._by_address.items():
            assert lease.address == where
            assert self.leases.contains(where)
        for client, lease in self.leases._by_client.items():
            assert lease.client == client
            assert self.leases._by_address[lease.address] is lease


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLeases = Machine.TestCase
