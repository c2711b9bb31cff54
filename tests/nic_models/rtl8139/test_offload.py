"""Task offload of the RTL8139C+ as pure functions, against slow twins; lengths that lie."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_models.rtl8139 import registers as r
from nic_models.rtl8139.offload import add_tag, receive_flags, take_tag, transmit
from nic_models.virtio import HEADER, complete
from tests.nic_models.rtl8139_kit import frame_to
from tests.nic_models.rtl8139_packets import finished, ipv4, slow_sum, tcp, tcp_good, udp, vlan

TCPCS = r.TD_IPCS | r.TD_TCPCS
UDPCS = r.TD_IPCS | r.TD_UDPCS
ALL = r.TD_IPCS | r.TD_TCPCS | r.TD_UDPCS | r.TD_LGSEN | 1000 << r.TD_MSS_SHIFT


def blank(frame, layer3=14):
    """``frame`` without IP checksum, with rubbish where TCP's or UDP's is."""
    field = layer3 + 4 * (frame[layer3] & 15) + (16 if frame[layer3 + 9] == 6 else 6)
    frame = frame[: layer3 + 10] + b"\0\0" + frame[layer3 + 12 :]
    return frame[:field] + b"\x12\x34" + frame[field + 2 :]


@given(st.binary(max_size=200), st.sampled_from([0, 4, 40]), st.booleans(), st.booleans(), st.integers(0, 9))
def test_transmit_checksums(payload, options, is_tcp, tagged, padding):
    more = {"options": bytes(options)}
    if is_tcp:
        frame = finished(tcp(payload, **more))
    else:
        frame = finished(ipv4(17, pack(">HHHH", 1, 2, 8 + len(payload), 0) + payload, **more))
    layer3 = 18 if tagged else 14
    good = vlan(frame, 5) if tagged else frame
    out, vnet = transmit(blank(good, layer3) + b"\xee" * padding, TCPCS if is_tcp else UDPCS)
    assert complete(out, vnet) == good
    assert HEADER.unpack(vnet)[4:] == (layer3 + 20 + options, 16 if is_tcp else 6)


@given(st.integers(0, 4000), st.integers(0, 2047))
def test_large_send(length, mss):
    frame = tcp(bytes(length))
    out, vnet = transmit(frame, r.TD_LGSEN | mss << r.TD_MSS_SHIFT)
    flags, gso, headers, size, start, offset = HEADER.unpack(vnet)
    assert (flags, start, offset) == (1, 34, 16)
    if 0 < mss < length:
        assert (gso, headers, size) == (1, 54, mss)
    else:
        assert gso == 0
        assert complete(out, vnet) == tcp_good(bytes(length))
    assert slow_sum(out[14:34]) == 0
    pseudo = frame[26:34] + pack(">BBH", 0, 6, 20 + length)
    assert int.from_bytes(out[50:52], "big") == 0xFFFF - slow_sum(pseudo)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (frame_to(size=100), "not IP"),
        (tcp(b"x", version=6), "version"),
        (tcp(b"x")[:33], "no IP header"),
        (tcp(b"x" * 50, total=10), "total length below the header"),
        (tcp(b"x" * 50, total=200), "total length beyond the frame"),
        (tcp(b"x" * 50, total=0), "no total length"),
        (b"", "nothing"),
        (tcp(b"x")[:14] + b"\x41" + tcp(b"x")[15:], "header length 4"),
        (tcp(b"x")[:14] + b"\x4f" + tcp(b"x")[15:], "header length beyond"),
    ],
)
def test_frames_that_lie_go_out_as_they_are(frame, why):
    assert transmit(frame, ALL) == (frame, b"")


@pytest.mark.parametrize(
    "frame",
    [
        tcp(b"x" * 50, fragment=0x2000),
        tcp(b"x" * 50, fragment=1),
        ipv4(6, b"short", good=False),
        ipv4(17, b"short", good=False),
        ipv4(1, b"x" * 50, good=False),
        tcp(b"", offset=4),
        tcp(b"", offset=15),
    ],
)
def test_only_the_ip_checksum_where_there_is_no_segment(frame):
    out, vnet = transmit(frame, ALL)
    assert vnet == b""
    assert slow_sum(out[14:34]) == 0
    assert out[:24] + out[26:] == frame[:24] + frame[26:]


def test_flags_of_the_other_protocol_do_nothing():
    assert transmit(tcp(b"x"), r.TD_UDPCS) == (tcp(b"x"), b"")
    assert transmit(ipv4(17, bytes(8)), r.TD_TCPCS) == (ipv4(17, bytes(8)), b"")


@given(st.binary(max_size=120), st.integers(0, 0xFFFFFFFF))
def test_any_bytes_transmit(data, flags):
    frame = frame_to(size=12) + b"\x08\x00\x45" + data
    out, vnet = transmit(frame, flags)
    assert len(out) <= len(frame)
    assert vnet == b"" or complete(out, vnet) is not None or vnet[1]


@given(st.binary(max_size=120))
def test_any_bytes_receive(data):
    assert receive_flags(frame_to(size=12) + b"\x08\x00\x45" + data) & ~(3 << 16 | 7 << 13) == 0


GOOD = tcp_good(b"some payload here")
UDP = udp(b"some payload here")


@pytest.mark.parametrize(
    ("frame", "flags"),
    [
        (frame_to(size=100), 0),
        (GOOD, r.RD_PID_TCP),
        (GOOD + bytes(9), r.RD_PID_TCP),
        (GOOD[:-1] + b"?", r.RD_PID_TCP | r.RD_TCPF),
        (GOOD[:24] + b"\1\1" + GOOD[26:], r.RD_PID_TCP | r.RD_IPF),
        (GOOD[:26] + b"\x0b" + GOOD[27:], r.RD_PID_TCP | r.RD_IPF | r.RD_TCPF),
        (UDP, r.RD_PID_UDP),
        (UDP[:-1] + b"?", r.RD_PID_UDP | r.RD_UDPF),
        (udp(b"abc", checksum=False), r.RD_PID_UDP),
        (ipv4(1, bytes(20)), r.RD_PID_IP),
        (ipv4(6, bytes(20), fragment=0x2000), r.RD_PID_IP),
        (ipv4(6, bytes(19)), r.RD_PID_TCP | r.RD_TCPF),
        (ipv4(17, bytes(7)), r.RD_PID_UDP | r.RD_UDPF),
        (ipv4(6, bytes(20), total=100), r.RD_PID_IP | r.RD_IPF),
        (vlan(GOOD, 7), r.RD_PID_TCP),
    ],
)
def test_receive_flags(frame, flags):
    assert receive_flags(frame) == flags


@given(st.integers(0, 0xFFFF), st.integers(14, 200))
def test_tags_come_and_go(tci, size):
    frame = frame_to(size=size)
    word = int.from_bytes(tci.to_bytes(2, "big"), "little")
    tagged = add_tag(frame, r.TD_TAGC | word)
    assert tagged == vlan(frame, tci)
    assert take_tag(tagged) == (frame, r.RD_TAVA | word)
    assert take_tag(frame) == (frame, 0)
