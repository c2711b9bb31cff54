"""DHCP options and domain names; parsers that raise ValueError and nothing else."""

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.wire import dhcp as formats
from slirp.wire.dns import encode_names, end_of_question
from tests.slirp import fakes


def message(
    options: bytes = b"", *, op: int = 1, htype: int = 1, hlen: int = 6, hops: int = 0, **areas: bytes
) -> bytes:
    head = formats.BOOTP.pack(
        op,
        htype,
        hlen,
        hops,
        0x1234,
        0,
        0,
        bytes(4),
        bytes(4),
        bytes(4),
        bytes(4),
        fakes.GUEST_MAC,
        areas.get("sname", b""),
        areas.get("file", b""),
    )
    return head + formats.COOKIE + options


def test_options_are_read() -> None:
    parsed = formats.parse_dhcp(message(bytes.fromhex("350101 3d0701525400123456 0000 370401030677 ff")))
    assert parsed.kind == formats.DISCOVER
    assert parsed.client == bytes.fromhex("01525400123456")
    assert parsed.options[formats.PARAMETERS] == b"\x01\x03\x06\x77"
    assert parsed.chaddr == fakes.GUEST_MAC


def test_split_options_are_joined() -> None:
    parsed = formats.parse_dhcp(message(b"\x77\x02ab\x35\x01\x03\x77\x01c\xff"))
    assert parsed.options[formats.SEARCH] == b"abc"


@pytest.mark.parametrize(("overload", "found"), [(1, {12}), (2, {15}), (3, {12, 15})])
def test_overload(overload: int, found: set) -> None:
    parsed = formats.parse_dhcp(
        message(bytes((52, 1, overload, 255)), file=b"\x0c\x02hi\xff", sname=b"\x0f\x01x\xff")
    )
    assert set(parsed.options) - {52} == found


def test_missing_end_is_forgiven() -> None:
    assert formats.parse_dhcp(message(b"\x35\x01\x01")).kind == 1


def test_bootp_has_no_kind_and_no_cookie() -> None:
    parsed = formats.parse_dhcp(message()[:236] + bytes(64))
    assert parsed.kind is None
    assert not parsed.cookie


@pytest.mark.parametrize(
    "data",
    [
        b"",
        message()[:235],
        message(op=2),
        message(hlen=17),
        message(hlen=5),
        message(hlen=0, htype=32),
        message(hops=17),
        message(b"\x35"),
        message(b"\x35\x02\x01"),
        message(b"\x35\x02\x01\x01\xff"),
        message(b"\x35\x00\xff"),
    ],
)
def test_malformed_raises_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        formats.parse_dhcp(data)


@pytest.mark.parametrize(
    "bad",
    [
        *(b"\x32" + bytes((size,)) + bytes(size) for size in (0, 2, 3, 5, 8)),
        *(b"\x33" + bytes((size,)) + bytes(size) for size in (0, 2, 5)),
        *(b"\x36" + bytes((size,)) + bytes(size) for size in (0, 3, 8)),
        *(b"\x39" + bytes((size,)) + bytes(size) for size in (0, 1, 3)),
        *(b"\x34" + bytes((size,)) + bytes(size) for size in (0, 2)),
        b"\x35\x01\x03",
        b"\x35\x00",
        b"\x35\x02\x03\x03",
        b"\x0c\xffshort",
        b"\x0c",
    ],
)
def test_a_wrong_hint_is_ignored_and_counted(bad: bytes) -> None:
    for area in (b"\x35\x01\x01" + bad, b"\x35\x01\x01\x34\x01\x01\xff"):
        found = formats.parse_dhcp(message(area, file=bad.ljust(128, b"\xff") if area[3] == 0x34 else b""))
        assert (found.kind, found.ignored) == (1, 1)
        assert not {50, 51, 54, 57, 61} & set(found.options)


def test_the_first_of_the_right_length_counts() -> None:
    found = formats.parse_dhcp(message(b"\x35\x01\x03\x32\x02ab\x32\x04abcd\x32\x04efgh\x35\x01\x01\xff"))
    assert (found.kind, found.options[50], found.ignored) == (3, b"abcd", 3)


def test_boot_strings_end_in_a_pad_byte_that_is_no_part_of_them() -> None:
    items = [(66, b"name"), (67, b"file"), (12, b"host")]
    assert formats.pack_options(items, 300, True, True)[0] == b"\x42\x04name\0\x43\x04file\0\x0c\x04host\xff"
    main, file, _, lost = formats.pack_options(items, 17, True, True)
    assert (main, file, lost) == (b"\x42\x04name\0\x0c\x04host\x34\x01\x01\xff", b"\x43\x04file\0\xff", 0)


def test_infiniband_with_client_id() -> None:
    assert formats.parse_dhcp(message(b"\x3d\x03abc\xff", hlen=0, htype=32)).client == b"abc"


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    for sample in (data, message(data), message(b"\x34\x01\x03" + data, file=data[:128], sname=data[:64])):
        try:
            formats.parse_dhcp(sample)
        except ValueError:
            pass


OPTIONS = st.lists(
    st.tuples(st.integers(60, 254), st.binary(max_size=300)), max_size=12, unique_by=lambda o: o[0]
)


@given(OPTIONS, st.integers(60, 1200), st.booleans(), st.booleans())
def test_what_is_packed_is_read_again(items: list, room: int, file: bool, sname: bool) -> None:
    main, first, second, lost = formats.pack_options(items, room, file, sname)
    assert len(main) <= room
    assert len(first) <= 128
    assert len(second) <= 64
    assert not first or file
    assert not second or sname
    parsed = formats.parse_dhcp(message(main, file=first, sname=second))
    found = {code: value for code, value in parsed.options.items() if code != formats.OVERLOAD}
    assert len(found) == len(items) - lost
    assert all(found[code] == value for code, value in items if code in found)
    pads = len({17, 18, 66, 67, 209, 210} & {code for code, _ in items})
    if sum(len(v) + 2 * max(1, -(-len(v) // 255)) for _, v in items) + pads < room:
        assert not lost


LABEL = st.text("abcdefgh-xyz0123456789", min_size=1, max_size=8)
NAMES = st.lists(st.lists(LABEL, min_size=1, max_size=4).map(".".join), max_size=8)


@given(NAMES)
def test_compressed_names_read_back(names: list[str]) -> None:
    assert decode_names(encode_names(names)) == names


def decode_names(data: bytes) -> list[str]:
    """The slow twin: RFC 1035 4.1.4, following pointers."""
    names, offset = [], 0
    while offset < len(data):
        labels, at, after = [], offset, None
        while data[at]:
            if data[at] >= 0xC0:
                after = after or at + 2
                at = int.from_bytes(data[at : at + 2], "big") & 0x3FFF
                continue
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        offset = after or at + 1
        names.append(".".join(labels))
    return names


def test_rfc_3397_shape() -> None:
    found = encode_names(["eng.apple.com", "marketing.apple.com"])
    assert found == b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04"


@given(st.binary(max_size=300))
def test_any_question(data: bytes) -> None:
    try:
        end = end_of_question(data)
    except ValueError:
        return
    assert 17 <= end <= len(data)


def test_end_of_question() -> None:
    query = bytes(dpkt.dns.DNS(qd=[dpkt.dns.DNS.Q(name="www.example.com")]))
    assert end_of_question(query + b"extra") == len(query)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (fakes.arp(1, "10.0.2.15", "10.0.2.2"), "arp who-has 10.0.2.2 tell 10.0.2.15"),
        (fakes.udp("10.0.2.2", 9, b"abc"), "ip 10.0.2.15 > 10.0.2.2 udp 4000 > 9 len 3"),
        (fakes.ping("10.0.2.2"), "icmp type 8 code 0"),
        (fakes.ip4("10.0.2.15", "10.0.2.2", 47, b"abcd"), "proto 47"),
        (b"\xff" * 12 + b"\x88\xcc" + bytes(10), "ether type 0x88cc"),
        (b"short", "does not parse"),
    ],
)
def test_describe(frame: bytes, words: str) -> None:
    assert words in formats.describe(frame)


@given(st.binary(max_size=100))
def test_describe_never_raises(data: bytes) -> None:
    for frame in (data, b"\xff" * 12 + b"\x08\x00" + data, fakes.ip4("1.1.1.1", "2.2.2.2", 6, data)):
        assert "\n" not in formats.describe(frame)
