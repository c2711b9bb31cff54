"""Addresses and their spellings."""

import pytest

from slirp.wire import ipv4 as wire


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::ffff:7f00:1", "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("FE80::1%eth0", "fe80::1"),
    ],
)
def test_canonical(text: str, same: str) -> None:
    assert wire.canonical(text) == same


@pytest.mark.parametrize("text", ["10.0.2.15", "::1", "2001:db8::1"])
def test_bytes_and_back(text: str) -> None:
    assert wire.ip_text(wire.ip_bytes(text)) == text


@pytest.mark.parametrize("text", ["", "10.0.2", "010.0.2.15", "nine", "1.2.3.4.5"])
def test_not_an_address(text: str) -> None:
    with pytest.raises(ValueError):
        wire.ip_bytes(text)


@pytest.mark.parametrize(
    ("text", "martian"),
    [
        ("0.0.0.0", True),
        ("0.1.2.3", True),
        ("127.0.0.1", True),
        ("127.255.0.1", True),
        ("169.254.169.254", True),
        ("224.0.0.1", True),
        ("240.0.0.1", True),
        ("255.255.255.255", True),
        ("169.253.0.1", False),
        ("128.0.0.1", False),
        ("1.1.1.1", False),
        ("223.255.255.255", False),
    ],
)
def test_martians(text: str, martian: bool) -> None:
    assert wire.is_martian(wire.ip_bytes(text)) is martian


def test_own_mac() -> None:
    assert wire.mac_text(wire.own_mac(wire.ip_bytes("10.0.2.2"))) == "52:55:0a:00:02:02"
