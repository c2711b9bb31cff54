"""Values with a grammar of their own. Bad ones: see test_options.py, which has their messages."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapnet.config import Chardev, Effects, Endpoint, Impairment, Loss, UnixPath
from tapnet.errors import OptionError
from tapnet.options import grammars as rules

V4, V6 = IPv4Address("10.0.2.15"), IPv6Address("fec0::5")
FORWARDS = [
    ("tcp::5555-10.0.2.15:22", "tcp", Endpoint("", 5555), V4, 22, 1),
    (":127.0.0.1:5555-:22", "tcp", Endpoint("127.0.0.1", 5555), None, 22, 1),
    ("udp::0x50-:0x51", "udp", Endpoint("", 80), None, 81, 1),
    ("tcp::0-:22", "tcp", Endpoint("", 0), None, 22, 1),
    ("tcp:[::1]:80-[fec0::5]:80", "tcp", Endpoint("::1", 80), V6, 80, 1),
    ("tcp::8000-8010-:8000-8010", "tcp", Endpoint("", 8000), None, 8000, 11),
    ("tcp::8000-8010-:9000", "tcp", Endpoint("", 8000), None, 9000, 11),
    ("tcp::80-web:80", "tcp", Endpoint("", 80), "web", 80, 1),
    ("tcp::80-my-web.lan:80", "tcp", Endpoint("", 80), "my-web.lan", 80, 1),
    ("tcp::80-[52:54:00:12:34:56]:80", "tcp", Endpoint("", 80), bytes.fromhex("525400123456"), 80, 1),
    ("tcp::80-52-54-00-12-34-56:80", "tcp", Endpoint("", 80), bytes.fromhex("525400123456"), 80, 1),
    ("tcp::80-81-52-54-00-12-34-56:80", "tcp", Endpoint("", 80), bytes.fromhex("525400123456"), 80, 2),
    ("tcp::80-cafe-1:80", "tcp", Endpoint("", 80), "cafe-1", 80, 1),
    ("tcp::80-[2-box]:80", "tcp", Endpoint("", 80), "2-box", 80, 1),
    ("tcp::0x50-0x51-:80", "tcp", Endpoint("", 80), None, 80, 2),
    ("unix:/run/a-b.sock-10.0.2.15:22", "unix", UnixPath("/run/a-b.sock"), V4, 22, 1),
    ("unix:/s-:22", "unix", UnixPath("/s"), None, 22, 1),
]


@pytest.mark.parametrize(("text", "protocol", "listen", "guest", "port", "count"), FORWARDS)
def test_hostfwd(text, protocol, listen, guest, port, count):
    found = rules.hostfwd(text)
    assert (found.protocol, found.listen, found.guest) == (protocol, listen, guest)
    assert (found.guest_port, found.count, found.text) == (port, count, text)


def test_redir_is_the_seeds_spelling():
    found = rules.redir("tcp:5555:10.0.2.16:23")
    assert (found.protocol, found.listen, found.guest) == (
        "tcp",
        Endpoint("", 5555),
        IPv4Address("10.0.2.16"),
    )
    assert rules.redir("udp:5560::117").guest is None


GUEST_FORWARDS = [
    ("tcp:10.0.2.100:80-cmd:netcat 1 2", "tcp", "10.0.2.100", 80, "cmd", "netcat 1 2"),
    (":10.0.2.100:80-tcp:10.1.1.1:4321", "tcp", "10.0.2.100", 80, "tcp", Endpoint("10.1.1.1", 4321)),
    ("udp:[fec0::9]:5-udp:[::1]:6", "udp", "fec0::9", 5, "udp", Endpoint("::1", 6)),
    ("tcp::7-unix:/s-1", "tcp", None, 7, "unix", "/s-1"),
]


@pytest.mark.parametrize(("text", "protocol", "address", "port", "target", "to"), GUEST_FORWARDS)
def test_guestfwd(text, protocol, address, port, target, to):
    found = rules.guestfwd(text)
    assert (found.protocol, found.port, found.target, found.to) == (protocol, port, target, to)
    assert (str(found.address) if found.address else None) == address


RULES = [
    ("10.0.0.0/8", None, IPv4Network("10.0.0.0/8"), None),
    ("tcp:10.1.2.3:80", "tcp", IPv4Network("10.1.2.3/32"), (80, 80)),
    ("udp:0.0.0.0/0:1-1024", "udp", IPv4Network("0.0.0.0/0"), (1, 1024)),
    ("icmp:8.8.8.8", "icmp", IPv4Network("8.8.8.8/32"), None),
    ("fd00::/8", None, IPv6Network("fd00::/8"), None),
    ("tcp:[fd00::/8]:443", "tcp", IPv6Network("fd00::/8"), (443, 443)),
    ("[::/0]", None, IPv6Network("::/0"), None),
]


@pytest.mark.parametrize(("text", "protocol", "net", "ports"), RULES)
def test_allow_and_deny(text, protocol, net, ports):
    for convert, allowed in ((rules.allow, True), (rules.deny, False)):
        found = convert(text)
        assert (found.allow, found.protocol, found.net, found.ports) == (allowed, protocol, net, ports)


RESOLVERS = [
    ("1.1.1.1", (("1.1.1.1", 53),)),
    ("127.0.0.1:5353+::1+[fe::1]:54+[::2]", (("127.0.0.1", 5353), ("::1", 53), ("fe::1", 54), ("::2", 53))),
]


@pytest.mark.parametrize(("text", "found"), RESOLVERS)
def test_resolvers(text, found):
    assert rules.resolvers(text) == found


def test_leases_records_routes_and_dhcp_options():
    lease = rules.lease("52:54:00:12:34:56=10.0.2.50=web")
    assert (lease.mac.hex(), str(lease.address), lease.name) == ("525400123456", "10.0.2.50", "web")
    assert rules.record("Web.Lan=10.0.2.50") == ("web.lan", IPv4Address("10.0.2.50"))
    assert rules.route("10.9.0.0/16-10.0.2.9") == (IPv4Network("10.9.0.0/16"), IPv4Address("10.0.2.9"))
    assert rules.dhcp_option("42=10.0.2.2+10.0.2.3") == (42, bytes([10, 0, 2, 2, 10, 0, 2, 3]))
    assert rules.dhcp_option("43=0x0102ff") == (43, b"\x01\x02\xff")
    assert rules.dhcp_option("60=PXE") == (60, b"PXE")
    assert rules.bootfile("ipxe.efi") == (None, "ipxe.efi")
    assert rules.bootfile("7=ipxe.efi") == (7, "ipxe.efi")


def test_slots_are_hexadecimal_as_in_qemu():
    assert [rules.slot(text) for text in ("3", "0x3", "10", "1f.0")] == [3, 3, 16, 31]


def test_impairments():
    assert rules.impair("in+delay=10ms+loss=1%") == Impairment(
        Effects(delay=10_000_000, loss=Loss(0.01)), None
    )


CHARDEVS = [
    ("stdio", None, False, True),
    ("unix:/s", UnixPath("/s"), False, True),
    ("unix:/s,server=on,wait=off", UnixPath("/s"), True, False),
    ("unix:/s,server,nowait", UnixPath("/s"), True, False),
    ("unix:@abstract", UnixPath("abstract", True), False, True),
    ("tcp:127.0.0.1:4444,server=on", Endpoint("127.0.0.1", 4444), True, True),
    ("tcp::4444", Endpoint("localhost", 4444), False, True),
    ("tcp:[::1]:4444", Endpoint("::1", 4444), False, True),
    ("unix:/a,,b", UnixPath("/a,b"), False, True),
]


@pytest.mark.parametrize(("text", "address", "server", "wait"), CHARDEVS)
def test_chardev(text, address, server, wait):
    found = rules.chardev("-monitor", text)
    assert isinstance(found, Chardev)
    assert (found.address, found.server, found.wait) == (address, server, wait)


def test_no_chardev():
    assert rules.chardev("-monitor", "none") is None


CONVERTERS = [
    rules.allow,
    rules.bootfile,
    rules.deny,
    rules.dhcp_option,
    rules.guest,
    rules.guestfwd,
    rules.hostfwd,
    rules.impair,
    rules.lease,
    rules.netns,
    rules.record,
    rules.redir,
    rules.resolvers,
    rules.route,
    rules.slot,
    rules.unix_path,
]
TEXT = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="0123456789abcdefx.:/[]-+=,tcpudnixm", max_size=40),
    st.lists(
        st.sampled_from(
            ["tcp", "udp", "unix", ":", "-", "[", "]", "10.0.2.15", "::1", "80", "=", "/8", "cmd:", "+"]
        ),
        max_size=12,
    ).map("".join),
)


@given(st.sampled_from(CONVERTERS), TEXT)
def test_converters_raise_nothing_but_value_errors(convert, text):
    try:
        convert(text)
    except ValueError as error:
        assert type(error) is ValueError


@given(TEXT)
def test_chardevs_raise_nothing_but_option_errors(text):
    try:
        rules.chardev("-monitor", text)
    except OptionError as error:
        assert str(error).isprintable()
