"""One line for each frame, of each class; and any bytes at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.wire.describe import event_class, frame_line
from slirp.wire.dhcp import ACK, REQUEST
from slirp.wire.ipv4 import ip_bytes
from tests.slirp.fakes import Net, arp, ip4, ping, udp
from tests.slirp.services.test_dhcp import query as dhcp
from tests.slirp.services.test_names import query as dns
from tests.slirp.test_stack import tcp

LINES = [
    (arp(1, "10.0.2.15", "10.0.2.2"), "arp", "who has 10.0.2.2, asks 10.0.2.15 (52:54:00:12:34:56)"),
    (arp(2, "10.0.2.15", "10.0.2.2"), "arp", "10.0.2.15 is at 52:54:00:12:34:56, to 10.0.2.2"),
    (ping("192.0.2.1"), "icmp", "10.0.2.15 > 192.0.2.1 echo request id 7 seq 1, 8 bytes"),
    (ping("192.0.2.1", ttl=3), "icmp", "10.0.2.15 > 192.0.2.1 echo request id 7 seq 1, 8 bytes ttl 3"),
    (tcp("192.0.2.1", 80), "tcp", "10.0.2.15.4000 > 192.0.2.1.80 [S] seq 1000 win 65535 len 0"),
    (
        tcp("192.0.2.1", 80, 0x18, ack=5),
        "tcp",
        "10.0.2.15.4000 > 192.0.2.1.80 [P.] seq 1000 ack 5 win 65535 len 0",
    ),
    (udp("192.0.2.1", 9, b"abc"), "udp", "10.0.2.15.4000 > 192.0.2.1.9 3 bytes"),
    (udp("10.0.2.3", 53, dns("a.Test", 28)), "dns", "10.0.2.15.4000 > 10.0.2.3.53 query AAAA a.Test"),
    (udp("10.0.2.3", 53, b"junk"), "udp", "10.0.2.15.4000 > 10.0.2.3.53 4 bytes"),
    (udp("10.0.2.2", 69, b"\0\1f\0octet\0"), "tftp", "10.0.2.15.4000 > 10.0.2.2.69 RRQ f"),
    (udp("10.0.2.2", 69, b"\0\2a\nb\0octet\0"), "tftp", "10.0.2.15.4000 > 10.0.2.2.69 WRQ a\\nb"),
    (
        dhcp(REQUEST, {50: ip_bytes("10.0.2.15"), 12: b"b\xf6x"}),
        "dhcp",
        '0.0.0.0.68 > 255.255.255.255.67 request 10.0.2.15 (52:54:00:12:34:56) "b\\xf6x"',
    ),
    (ip4("10.0.2.15", "192.0.2.1", 47, b"abcd"), "slirp", "10.0.2.15 > 192.0.2.1 protocol 47, 4 bytes"),
    (
        ip4("10.0.2.15", "192.0.2.1", 17, bytes(16), flags=0x2005),
        "udp",
        "10.0.2.15 > 192.0.2.1 fragment at 40, 16 bytes",
    ),
    (bytes(12) + b"\x88\xcc" + bytes(20), "slirp", "frame of 34 bytes, type 0x88cc"),
]


@pytest.mark.parametrize(("frame", "which", "text"), LINES)
def test_lines(frame: bytes, which: str, text: str) -> None:
    assert frame_line(frame) == (which, text)


def test_what_the_stack_says() -> None:
    net = Net(known=False)
    events: list[str] = []
    frames: list[bytes] = []
    net.stack.trace(events.append, frames.append)
    net.put(dhcp(REQUEST, {50: ip_bytes("10.0.2.15")}))
    (line,) = [text for which, text in map(frame_line, frames) if which == "dhcp"]
    assert line == "10.0.2.2.67 > 10.0.2.15.68 ack 10.0.2.15 (52:54:00:12:34:56)"
    assert events == ["dhcp_request"]
    assert ACK == 5
    net.stack.trace(None, None)
    net.put(dhcp(REQUEST, {50: ip_bytes("10.0.2.15")}))
    assert (len(frames), len(events)) == (1, 1)
    assert len(net.take()) == 2


def test_a_frame_that_the_vlan_refused_was_not_sent() -> None:
    net = Net()
    frames: list[bytes] = []
    net.stack.trace(None, frames.append)
    net.full = True
    net.put(ping("10.0.2.2"))
    assert not frames
    net.full = False
    net.stack.tx_ready(net.now)
    assert len(frames) == 1


@pytest.mark.parametrize(
    ("reason", "which"),
    [("dhcp_nak", "dhcp"), ("bootp_request", "dhcp"), ("ftp_full", "forward"), ("eth_malformed", "slirp")],
)
def test_events(reason: str, which: str) -> None:
    assert event_class(reason) == which


@given(st.sampled_from([line[0] for line in LINES]), st.integers(0, 400), st.binary(max_size=60))
def test_cut_and_changed_frames(frame: bytes, at: int, junk: bytes) -> None:
    for broken in (frame[:at], frame[:at] + junk, frame[:at] + junk + frame[at + len(junk) :]):
        which, text = frame_line(broken)
        assert which
        assert text.isascii()
        assert "\n" not in text
