"""Prefixes made out of a name."""

from __future__ import annotations

from ipaddress import IPv6Network

import pytest

from tapnet.options import ula


def test_the_same_every_day() -> None:
    assert ula.option("on") == IPv6Network("fd39:d0aa:f4cc::/64")
    assert ula.prefix("tapnet") == ula.option("yes")
    assert ula.option("lab7") == ula.prefix("lab7") != ula.option("lab8")
    assert ula.option("off") is None


@pytest.mark.parametrize("value", ["", "x" * 65, "a\n"])
def test_not_a_name(value: str) -> None:
    with pytest.raises(ValueError, match="not on, off or a name"):
        ula.option(value)


def test_all_are_unique_local() -> None:
    found = {ula.prefix(str(number)) for number in range(200)}
    assert len(found) == 200
    assert all(net.network_address.packed[0] == 0xFD and net.prefixlen == 64 for net in found)
