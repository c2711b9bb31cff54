"""Splitting and converting the words of options."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapnet.config import Endpoint
from tapnet.errors import MAX_MESSAGE, OptionError
from tapnet.options import converters as words

SPLITS = [
    ("user", ["user"]),
    ("user,a=1", ["user", "a=1"]),
    ("user,tftp=/a,,b", ["user", "tftp=/a,b"]),
    ("a,,,b", ["a,", "b"]),
    ("a,,,,b", ["a,,b"]),
    ("a,", ["a"]),
    (",a", ["", "a"]),
    ("", [""]),
    (",", [""]),
    (",,", [","]),
]


@pytest.mark.parametrize(("text", "parts"), SPLITS)
def test_split(text, parts):
    assert words.split(text) == parts


@given(st.lists(st.text(min_size=1).filter(lambda part: part[0] != ","), min_size=1))
def test_split_undoes_join(parts):
    # a part that begins with a comma would read as the end of the one before it, as in QEMU
    assert words.split(words.join(parts)) == parts


@given(st.text(alphabet="ab,=", max_size=40))
def test_doubled_commas_survive_in_a_value(value):
    assert words.split(words.join(["user", "tftp=" + value, "x=1"])) == ["user", "tftp=" + value, "x=1"]


NUMBERS = [
    ("0", 0),
    ("12", 12),
    ("0x1f", 31),
    ("0X1F", 31),
    ("017", 15),
    ("0o17", 15),
    ("0b101", 5),
    ("-3", -1),
]


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_integer(text, value):
    assert words.integer(text) == value


@pytest.mark.parametrize(
    "text", ["", "x", "1.5", "0x", "08", "1_000", "٣", "+1", "1" * 40, "0xfffffffffffffffff"]
)
def test_integer_refuses(text):
    with pytest.raises(ValueError):
        words.integer(text)


SIZES = [
    ("64", "m", 64 << 20),
    ("64", "", 64),
    ("1.5G", "m", 3 << 29),
    ("512k", "m", 512 << 10),
    ("0x10", "", 16),
]


@pytest.mark.parametrize(("text", "unit", "value"), SIZES)
def test_size(text, unit, value):
    assert words.size(unit)(text) == value


@pytest.mark.parametrize("text", ["", "k", "1.", ".5", "-1", "1kk", "1 k", "9" * 19, "99999999999999999E"])
def test_size_refuses(text):
    with pytest.raises(ValueError):
        words.size()(text)


def test_boolean_words():
    assert all(words.boolean(word) for word in ("on", "yes", "true", "On"))
    assert not any(words.boolean(word) for word in ("off", "no", "false", "OFF"))
    with pytest.raises(ValueError, match="not on or off"):
        words.boolean("maybe")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("52:54:00:12:34:56", "525400123456"),
        ("52-54-00-12-34-56", "525400123456"),
        ("2:0:0:0:0:A", "02000000000a"),
    ],
)
def test_mac(text, value):
    assert words.mac(text) == bytes.fromhex(value)


@given(st.binary(min_size=6, max_size=6).filter(lambda mac: not mac[0] & 1 and any(mac)))
def test_mac_text_and_back(mac):
    assert words.mac(words.mac_text(mac)) == mac


ENDPOINTS = [
    ("localhost:1234", Endpoint("localhost", 1234)),
    ("127.0.0.1:1", Endpoint("127.0.0.1", 1)),
    ("[::1]:80", Endpoint("::1", 80)),
    (":80", Endpoint("", 80)),
    ("h:0x50", Endpoint("h", 80)),
]


@pytest.mark.parametrize(("text", "value"), ENDPOINTS)
def test_endpoint(text, value):
    assert words.endpoint()(text) == value


@pytest.mark.parametrize(("text", "value"), ENDPOINTS[:4])
def test_an_endpoint_is_shown_as_it_was_read(text, value):
    assert str(value) == text


@pytest.mark.parametrize(
    "text", ["", "h", "h:", "h:0", "h:65536", "::1:5", "[::1]5", "[x]:5", "1.2.3:5", "a b:5"]
)
def test_endpoint_refuses(text):
    with pytest.raises(ValueError):
        words.endpoint()(text)


@pytest.mark.parametrize("mask", ["255.255.255.0", "255.0.0.0", "128.0.0.0", "0.0.0.0", "255.255.255.255"])
def test_mask(mask):
    assert str(words.mask4(mask)) == mask


@pytest.mark.parametrize("mask", ["255.0.255.0", "0.0.0.255", "127.0.0.0"])
def test_mask_refuses(mask):
    with pytest.raises(ValueError):
        words.mask4(mask)


def test_messages_are_one_printable_line():
    text = str(OptionError("bad \n\x1b[31m" + "x" * 5000))
    assert text.isprintable()
    assert len(text) <= MAX_MESSAGE


CONVERTERS = [
    words.boolean,
    words.cidr,
    words.endpoint(),
    words.fds,
    words.host,
    words.hostname,
    words.identifier,
    words.instance,
    words.integer,
    words.interface,
    words.ip,
    words.listen_endpoint,
    words.mac,
    words.mask4,
    words.multicast_endpoint,
    words.name,
    words.net4,
    words.net6,
    words.octal,
    words.seconds,
    words.size(),
    words.tap_interface,
]
TEXT = st.one_of(st.text(max_size=40), st.text(alphabet="0123456789abcdefx.:/[]%-+= ", max_size=40))


@given(st.sampled_from(CONVERTERS), TEXT)
def test_converters_raise_nothing_but_value_errors(convert, text):
    try:
        convert(text)
    except ValueError as error:
        assert type(error) is ValueError  # a message of ours, not one that leaked


def test_a_scope_is_taken_where_an_address_of_the_host_stands_and_nowhere_else():
    assert str(words.endpoint()("[fe80::1%eth0]:80")) == "[fe80::1%eth0]:80"
    assert words.host("fe80::1%eth0") == "fe80::1%eth0"
    assert words.multicast_endpoint("[ff02::1%eth0]:80").host == "ff02::1%eth0"
    for convert in (words.ip, words.ip6):
        assert str(convert("fe80::1%eth0", scoped=True)) == "fe80::1%eth0"
        with pytest.raises(ValueError, match="%eth0"):
            convert("fe80::1%eth0")


def test_scopes_reach_the_socket_calls():
    from tapnet.backends.sockets.address import numeric, shown
    from tapnet.config import Endpoint

    assert numeric(Endpoint("fe80::1%lo", 80)) == [(socket.AF_INET6, ("fe80::1", 80, 0, 1))]
    assert shown(("fe80::1", 80, 0, 1)) == "[fe80::1%lo]:80"
    for host, why in (("fe80::1%nope", "no interface"), ("fe80::1", "needs an interface")):
        with pytest.raises(OSError, match=why):
            numeric(Endpoint(host, 80))
