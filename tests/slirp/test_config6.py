"""The IPv6 half of the configuration: defaults, and one clear line for what cannot be."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from slirp.config import Config
from slirp.config6 import Config6


def test_qemus_addresses() -> None:
    found = Config6()
    assert [str(IPv6Address(address)) for address in found.own] == ["fec0::2", "fec0::3", "fe80::2"]


@pytest.mark.parametrize(
    ("net", "first", "last"),
    [
        ("fec0::/64", "fec0::1000", "fec0::ffff"),
        ("fd00::/112", "fd00::1000", "fd00::ffff"),
        ("fd00::/120", "fd00::4", "fd00::ff"),
        ("fd00::/126", "fd00::1", "fd00::3"),
    ],
)
def test_pool(net: str, first: str, last: str) -> None:
    assert Config6(net).pool == (int(IPv6Address(first)), int(IPv6Address(last)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"net": "x"}, "ipv6-net=x: not an IPv6 network (want PREFIX/BITS)"),
        ({"net": "fd00::/127"}, "ipv6-net=fd00::/127: the prefix must not be longer than /126"),
        ({"net": "ff02::/64"}, "ipv6-net=ff02::/64: not a net that guests can live in"),
        ({"net": "fe80::/64"}, "ipv6-net=fe80::/64: not a net that guests can live in"),
        ({"net": "::/64"}, "ipv6-net=::/64: not a net that guests can live in"),
        ({"host": "x"}, "ipv6-host=x: not an IPv6 address"),
        ({"host": "fd00::2"}, "ipv6-host=fd00::2: not in fec0::/64"),
        ({"dns": "::1"}, "ipv6-dns=::1: not in fec0::/64"),
        ({"dns": "fec0::"}, "ipv6-dns=fec0::: is the subnet-router anycast address of fec0::/64"),
        ({"dns": "fec0::2"}, "ipv6-dns=fec0::2: must differ from ipv6-host"),
        ({"ntp": ("1.2.3.4",)}, "ntp=1.2.3.4: not an IPv6 address"),
        ({"ntp": ("::5",) * 5}, "ntp=::5: more than 4 of IPv6"),
    ],
)
def test_errors(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Config6(**keys)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_mtu_and_families() -> None:
    with pytest.raises(ValueError, match="mtu=1279: IPv6 needs 1280"):
        Config(mtu=1279, v6=Config6())
    assert Config(mtu=1280, v6=Config6()).v6
    with pytest.raises(ValueError, match="ipv4=off: nothing is left"):
        Config(ipv4=False)
