"""Defaults, derivation from the net, and one clear line for each mistake."""

import pytest

from slirp.config import Config, parse_net, parse_resolver
from slirp.wire.ipv4 import ip_text


def four(config: Config) -> tuple[str, str, str, str]:
    return (
        str(config.network),
        ip_text(config.host_ip),
        ip_text(config.dns_ip),
        ip_text(config.dhcp_first),
    )


def test_defaults() -> None:
    config = Config()
    assert four(config) == ("10.0.2.0/24", "10.0.2.2", "10.0.2.3", "10.0.2.15")
    assert (config.lease_time, config.mtu, config.buffers) == (86400, 1500, 64 << 20)
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"net": "192.168.5.0/24"}, ("192.168.5.0/24", "192.168.5.2", "192.168.5.3", "192.168.5.15")),
        ({"net": "10.0.0.0/8"}, ("10.0.0.0/8", "10.0.0.2", "10.0.0.3", "10.0.0.15")),
        ({"net": "10.1.2.77/255.255.255.0"}, ("10.1.2.0/24", "10.1.2.2", "10.1.2.3", "10.1.2.15")),
        ({"net": "10.0.0.0/29"}, ("10.0.0.0/29", "10.0.0.1", "10.0.0.2", "10.0.0.3")),
        (
            {"host": "10.0.2.100", "dns": "10.0.2.101", "dhcpstart": "10.0.2.50"},
            ("10.0.2.0/24", "10.0.2.100", "10.0.2.101", "10.0.2.50"),
        ),
        ({"dns": "192.0.2.53"}, ("10.0.2.0/24", "10.0.2.2", "192.0.2.53", "10.0.2.15")),
    ],
)
def test_derived(given: dict, found: tuple) -> None:
    assert four(Config(**given)) == found


def test_a_net_without_length_is_24_with_a_warning() -> None:
    config = Config(net="192.168.5.0")
    assert str(config.network) == "192.168.5.0/24"
    assert len(config.warnings) == 1
    assert "net=192.168.5.0" in config.warnings[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"net": "10.0.2.0/33"}, "net=10.0.2.0/33"),
        ({"net": "10.0.2.0/30"}, "net=10.0.2.0/30"),
        ({"net": "10.0.0.0/3"}, "net=10.0.0.0/3"),
        ({"net": "nonsense"}, "net=nonsense"),
        ({"net": "127.0.0.0/8"}, "net=127.0.0.0/8"),
        ({"net": "224.0.0.0/24"}, "net=224.0.0.0/24"),
        ({"host": "10.0.3.2"}, "host=10.0.3.2"),
        ({"host": "10.0.2.0"}, "host=10.0.2.0"),
        ({"host": "10.0.2.255"}, "host=10.0.2.255"),
        ({"host": "ten"}, "host=ten"),
        ({"dns": "10.0.2.2"}, "dns=10.0.2.2"),
        ({"dns": "127.0.0.53"}, "dns=127.0.0.53"),
        ({"dns": "192.0.2.53", "restrict": True}, "dns=192.0.2.53"),
        ({"dhcpstart": "10.0.2.3"}, "dhcpstart=10.0.2.3"),
        ({"hostname": "-x"}, "hostname=-x"),
        ({"hostname": "a b"}, "hostname=a b"),
        ({"domainname": "a..b"}, "domainname=a..b"),
        ({"dnssearch": ("ok.example", "x" * 64)}, "dnssearch="),
        ({"dnssearch": tuple(f"d{n}.example" for n in range(33))}, "dnssearch=d32.example"),
        ({"lease_time": 5}, "lease-time=5"),
        ({"mtu": 100}, "mtu=100"),
        ({"mtu": 65536}, "mtu=65536"),
        ({"buffers": 10}, "buffers=10"),
        ({"bootfile": "x" * 128}, "bootfile="),
        ({"tftp_server_name": ""}, "tftp-server-name="),
        ({"resolver": (("example.org", 53),)}, "resolver=example.org"),
        ({"resolver": (("1.1.1.1", 0),)}, "resolver=1.1.1.1:0"),
        ({"resolver": (("1.1.1.1", 53),) * 9}, "resolver=1.1.1.1"),
    ],
)
def test_mistakes(given: dict, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        Config(**given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1.1.1.1", [("1.1.1.1", 53)]),
        ("127.0.0.1:5353+9.9.9.9", [("127.0.0.1", 5353), ("9.9.9.9", 53)]),
        ("[2001:db8::1]:5353", [("2001:db8::1", 5353)]),
        ("2001:db8::1", [("2001:db8::1", 53)]),
        ("[::1]", [("::1", 53)]),
    ],
)
def test_resolver(text: str, found: list) -> None:
    assert parse_resolver(text) == found


@pytest.mark.parametrize("text", ["", "name", "1.1.1.1:0", "1.1.1.1:x", "[::1", "[::1]x", "1.1.1.1++2.2.2.2"])
def test_resolver_mistakes(text: str) -> None:
    with pytest.raises(ValueError):
        parse_resolver(text)


def test_parse_net_strips_host_bits() -> None:
    assert str(parse_net("172.16.9.9/16")[0]) == "172.16.0.0/16"
