"""The table of a routed TAP's addresses, on a clock that the test turns."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapnet.lan.guests import ASK_EVERY_S, ASK_S, ASKS, MAX_ADDRESSES, PROBE_S, REFUSED_S, Guests

MAC, NEW = b"\x52\x54\0\0\0\1", b"\x52\x54\0\0\0\2"
NINE = ip_address("192.0.2.9")


def table() -> Guests:
    nets = [ip_network("192.0.2.0/24"), ip_network("2001:db8::/64"), ip_network("10.0.0.0/8")]
    return Guests(nets, [ip_address("192.0.2.1"), ip_address("2001:db8::1")])


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("192.0.2.9", True),
        ("192.0.2.1", False),  # the router's
        ("192.0.2.0", False),
        ("192.0.2.255", False),
        ("198.51.100.9", False),
        ("2001:db8::9", True),
        ("2001:db8::1", False),
        ("2001:db8:1::9", False),
        ("fe80::9", False),
    ],
)
def test_what_a_guest_may_have(address: str, allowed: bool) -> None:
    made = table()
    assert made.allowed(ip_address(address)) is allowed
    assert made.seen(ip_address(address), MAC, 0) is allowed
    assert made.leased(ip_address(address), MAC, 0) is allowed


def test_seen_probed_and_ours() -> None:
    made = table()
    assert made.seen(NINE, MAC, 0)
    assert not made.seen(NINE, MAC, 0.1)  # one probe
    assert made.next_deadline() == PROBE_S and made.probed(PROBE_S - 0.01) == []
    assert made.probed(PROBE_S) == [NINE] and made.probed(PROBE_S) == []
    assert not made.denied(NINE, 2)  # too late: it is the guest's
    assert not made.seen(NINE, NEW, 3) and made.entries[NINE].mac == NEW
    assert made.clear() == [NINE] and made.next_deadline() is None


def test_somebody_has_it() -> None:
    made = table()
    assert not made.denied(NINE, 0)
    made.seen(NINE, MAC, 0)
    assert made.denied(NINE, 0.5) and made.probed(9) == []
    assert not made.seen(NINE, MAC, REFUSED_S) and made.seen(NINE, MAC, REFUSED_S + 0.6)


def test_a_lease_needs_no_probe() -> None:
    made = table()
    made.seen(NINE, MAC, 0)
    assert made.leased(NINE, MAC, 0.1)
    assert not made.leased(NINE, MAC, 5)
    assert made.entries[NINE].how == "DHCP" and made.probed(9) == []


def test_who_is_silent_is_asked_and_goes() -> None:
    made = table()
    made.leased(NINE, MAC, 0)
    asked = []
    for now in range(int(ASK_S + ASKS * ASK_EVERY_S)):
        asked += [now for _ in made.to_ask(now)]
        assert made.expired(now) == []
    assert asked == [ASK_S + n * ASK_EVERY_S for n in range(ASKS)]
    assert made.expired(ASK_S + ASKS * ASK_EVERY_S) == [NINE] and not made.entries
    made.leased(NINE, MAC, 0)
    assert made.to_ask(ASK_S) == [NINE]
    made.seen(NINE, MAC, ASK_S + 1)  # it answers
    assert made.expired(ASK_S + ASKS * ASK_EVERY_S) == [] and made.to_ask(2 * ASK_S) == []


def test_it_is_bounded() -> None:
    made = table()
    for number in range(MAX_ADDRESSES + 50):
        made.leased(ip_address("10.0.0.1") + number, MAC, number / 1000)
        for gone in made.expired(number / 1000):
            assert gone == ip_address("10.0.0.1") + number - MAX_ADDRESSES  # the oldest
    assert len(made.entries) == MAX_ADDRESSES
    for number in range(3 * MAX_ADDRESSES):
        made.seen(ip_address("10.1.0.1") + number, MAC, 1)
        made.denied(ip_address("10.1.0.1") + number, 1)
        assert len(made.entries) <= MAX_ADDRESSES + 1 and len(made.refused) <= MAX_ADDRESSES
        made.expired(1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["seen", "leased", "denied", "turn"]), st.integers(1, 20), st.floats(0, 40)
        ),
        max_size=60,
    )
)
def test_what_is_ours_was_allowed_and_is_told_once(steps: list[tuple[str, int, float]]) -> None:
    made, now, ours = table(), 0.0, set()
    for what, number, pause in steps:
        now += pause
        address = ip_address("192.0.2.0") + number
        if what == "seen":
            made.seen(address, MAC, now)
        elif what == "leased":
            if made.leased(address, MAC, now):
                ours.add(address)
        elif what == "denied":
            made.denied(address, now)
        fresh = made.probed(now)
        assert not ours & set(fresh)
        ours |= set(fresh)
        made.to_ask(now)
        gone = made.expired(now)
        assert set(gone) <= ours
        ours -= set(gone)
        assert ours == {a for a, e in made.entries.items() if e.ours}
        assert all(made.allowed(a) for a in ours)
