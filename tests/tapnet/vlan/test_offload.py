"""``tapnet.vlan.offload`` against its slow twin, malformed headers, and the kernel's own segmentation."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapnet.virtio import (
    F_DATA_VALID,
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    GSO_UDP_L4,
    TUN_F_ALL,
    TUN_F_CSUM,
    TUN_F_TSO,
    TUN_F_TSO4,
    TUN_F_TSO6,
    TUN_F_UFO,
    VNET,
)
from tapnet.vlan import offload
from tapnet.vlan.offload import accepted, complete, ones_sum
from tests.tapnet.offload_slow import Packet, internet_checksum, segments
from tests.waiting import BOUND_S

TAG = b"\x81\x00\x00\x07"
HOP_BY_HOP = b"\x06\x00\x05\x02\x00\x00\x01\x00"  # next header is patched; router alert


def vnet_of(packet: Packet, size: int, ecn: bool = False) -> bytes:
    if packet.protocol == 17:
        kind = GSO_UDP_L4
    else:
        kind = GSO_TCPV4 if packet.version == 4 else GSO_TCPV6
    return VNET.pack(
        1,
        kind | (GSO_ECN if ecn else 0),
        packet.header_length(),
        size,
        packet.transport_offset(),
        16 if packet.protocol == 6 else 6,
    )


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    version = draw(st.sampled_from([4, 6]))
    protocol = draw(st.sampled_from([6, 17]))
    width = 4 if version == 4 else 16
    if version == 4:
        options, first = draw(st.sampled_from([b"", b"\x94\x04\0\0", b"\1" * 40])), 0
    else:
        options, first = draw(
            st.sampled_from(
                [
                    (b"", 0),
                    (bytes([protocol]) + HOP_BY_HOP[1:], 0),
                    (bytes([protocol, 1]) + b"\1\14" + bytes(12), 60),
                ]
            )
        )
    payload = draw(st.one_of(st.binary(max_size=300), st.integers(0, 9000).map(lambda n: os.urandom(n))))
    return Packet(
        version=version,
        protocol=protocol,
        tags=draw(st.sampled_from([b"", TAG, b"\x88\xa8\0\1" + TAG])),
        ip_options=options,
        first_extension=first,
        identity=draw(st.integers(0, 65535)),
        source=draw(st.binary(min_size=width, max_size=width)),
        dest=draw(st.binary(min_size=width, max_size=width)),
        ports=draw(st.tuples(st.integers(0, 65535), st.integers(0, 65535))),
        sequence=draw(st.integers(0, 2**32 - 1)),
        ack=draw(st.integers(0, 2**32 - 1)),
        flags=draw(st.integers(0, 255)),
        tcp_options=draw(st.sampled_from([b"", b"\1\1\x08\x0a" + b"abcdefgh", b"\1" * 40]))
        if protocol == 6
        else b"",
        payload=payload,
    )


@given(packets(), st.integers(1, 4000), st.booleans())
@settings(max_examples=300, deadline=None)
def test_segments_are_those_of_the_twin(packet: Packet, size: int, ecn: bool) -> None:
    if len(packet.payload) > size * 600:
        size = len(packet.payload) // 600 + 1
    vnet = vnet_of(packet, size, ecn and packet.protocol == 6)
    whole = complete(packet.frame(partial=True), vnet, 0)
    wanted = segments(packet, size)
    assert [f for f, _ in whole] == [p.frame() for p in wanted]
    assert all(v == b"" for _, v in whole)


@given(packets(), st.integers(100, 4000))
@settings(max_examples=100, deadline=None)
def test_partial_segments_are_accepted_and_finish_as_the_whole_ones(packet: Packet, size: int) -> None:
    vnet = vnet_of(packet, size)
    cut = complete(packet.frame(partial=True), vnet, TUN_F_CSUM)
    assert all(accepted(v, TUN_F_CSUM) and not accepted(v, 0) for _, v in cut)
    finished = [complete(f, v, 0) for f, v in cut]
    assert all(len(pieces) == 1 for pieces in finished)
    # finishing never writes 0, which means the same to TCP: compare what a receiver computes
    for [(frame, _)], wanted in zip(finished, segments(packet, size), strict=True):
        at = wanted.transport_offset() + (16 if wanted.protocol == 6 else 6)
        expected = wanted.frame()
        assert frame[:at] == expected[:at]
        assert frame[at + 2 :] == expected[at + 2 :]
        assert (
            struct.unpack_from("!H", frame, at)[0] % 65535
            == struct.unpack_from("!H", expected, at)[0] % 65535
        )


@given(packets())
@settings(max_examples=100, deadline=None)
def test_checksum_completion(packet: Packet) -> None:
    vnet = offload.partial(packet.transport_offset(), 16 if packet.protocol == 6 else 6)
    frame = packet.frame(partial=True)
    assert complete(frame, vnet, TUN_F_CSUM) == [(frame, vnet)]
    [(done, left)] = complete(frame, vnet, 0)
    assert left == b""
    if packet.protocol == 17:
        assert done == packet.frame()
    else:
        at = packet.transport_offset() + 16
        assert (
            int.from_bytes(done[at : at + 2], "big") % 65535
            == int.from_bytes(packet.frame()[at : at + 2], "big") % 65535
        )
        assert done[:at] + done[at + 2 :] == frame[:at] + frame[at + 2 :]


@given(st.binary(max_size=3000))
def test_sum(data: bytes) -> None:
    assert (65535 - ones_sum(data)) % 65535 == internet_checksum(data) % 65535


@given(packets(), st.binary(min_size=10, max_size=10), st.integers(0, 200), st.data())
@settings(max_examples=300, deadline=None)
def test_nothing_malformed_raises(packet: Packet, vnet: bytes, cut: int, data: st.DataObject) -> None:
    frame = bytearray(packet.frame(partial=True)[: cut + 1])
    for _ in range(data.draw(st.integers(0, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        vnet = vnet_of(packet, data.draw(st.integers(0, 65535)))
    pieces = complete(bytes(frame), vnet, data.draw(st.sampled_from([0, 1, TUN_F_ALL])))
    assert len(pieces) <= offload.SEGMENTS_MAX
    for piece, left in pieces:
        assert piece and (left in (b"", vnet) or accepted(left, 1))


TCP4 = Packet(payload=b"x" * 5000)
UDP4 = Packet(protocol=17, payload=b"x" * 5000)


def patched(packet: Packet, at: int, value: bytes) -> bytes:
    frame = packet.frame(partial=True)
    return frame[:at] + value + frame[at + len(value) :]


@pytest.mark.parametrize(
    ("frame", "vnet"),
    [
        (TCP4.frame(True), vnet_of(TCP4, 0)),
        (TCP4.frame(True), vnet_of(TCP4, 1)),  # 5000 segments
        (TCP4.frame(True), vnet_of(TCP4, 1000)[:9]),
        (TCP4.frame(True), vnet_of(UDP4, 1000)),
        (UDP4.frame(True), vnet_of(TCP4, 1000)),
        (TCP4.frame(True), vnet_of(Packet(version=6, source=bytes(16), dest=bytes(16)), 1000)),
        (TCP4.frame(True), VNET.pack(1, GSO_UDP, 34, 1000, 34, 6)),
        (TCP4.frame(True), VNET.pack(1, GSO_TCPV4, 54, 1000, 33, 16)),  # csum_start inside IP
        (UDP4.frame(True), VNET.pack(1, GSO_UDP_L4 | GSO_ECN, 42, 1000, 34, 6)),
        (TCP4.frame(True), VNET.pack(1, 99, 54, 1000, 34, 16)),
        (TCP4.frame(True)[:30], vnet_of(TCP4, 1000)),
        (TCP4.frame(True)[:-1], vnet_of(TCP4, 1000)),  # total length beyond the frame
        (patched(TCP4, 14, b"\x44"), vnet_of(TCP4, 1000)),  # ihl of 16
        (patched(TCP4, 14, b"\x65"), vnet_of(TCP4, 1000)),  # version 6 in an IPv4 frame
        (patched(TCP4, 20, b"\x20\x00"), vnet_of(TCP4, 1000)),  # a fragment
        (patched(TCP4, 46, b"\x40"), vnet_of(TCP4, 1000)),  # TCP header of 16
        (patched(TCP4, 12, b"\x08\x06"), vnet_of(TCP4, 1000)),  # ARP
        (b"", vnet_of(TCP4, 1000)),
        (TCP4.frame(True), offload.partial(6000, 16)),
        (TCP4.frame(True), offload.partial(5000, 60000)),
        (TCP4.frame(True), offload.partial(4, 2)),
    ],
)
def test_contradictions_yield_no_frame(frame: bytes, vnet: bytes) -> None:
    assert complete(frame, vnet, 0) == []


def test_a_frame_that_owes_nothing_passes() -> None:
    frame = TCP4.frame()
    assert complete(frame, b"", 0) == [(frame, b"")]
    assert complete(frame, bytes(10), 0) == [(frame, b"")]
    assert complete(frame, VNET.pack(F_DATA_VALID, 0, 0, 0, 0, 0), 0) == [(frame, b"")]


def test_ipv6_routing_header_keeps_the_final_destination_in_the_sum() -> None:
    final = bytes(range(16))
    routed = Packet(
        version=6,
        source=b"\xfd" + bytes(15),
        dest=b"\xfe" * 16,
        payload=b"y" * 3001,
        first_extension=43,
        ip_options=b"\x06\x02\x00\x01\0\0\0\0" + final,
    )
    straight = Packet(version=6, source=routed.source, dest=final, payload=routed.payload)
    cut = complete(
        routed.frame()[: routed.transport_offset()] + straight.transport(pseudo_only=True),
        vnet_of(routed, 1000),
        0,
    )
    assert [f[routed.transport_offset() :] for f, _ in cut] == [
        p.transport() for p in segments(straight, 1000)
    ]


ALL = TUN_F_ALL


@pytest.mark.parametrize(
    ("vnet", "features", "answer"),
    [
        (b"", 0, True),
        (bytes(10), 0, True),
        (offload.partial(34, 16), 0, False),
        (offload.partial(34, 16), 1, True),
        (vnet_of(TCP4, 1448), TUN_F_TSO4 | 1, True),
        (vnet_of(TCP4, 1448), TUN_F_TSO4, False),
        (vnet_of(TCP4, 1448), TUN_F_TSO6 | 1, False),
        (vnet_of(TCP4, 1448, ecn=True), TUN_F_TSO4 | 1, False),
        (vnet_of(TCP4, 1448, ecn=True), TUN_F_TSO, True),
        (vnet_of(UDP4, 1448), TUN_F_TSO, False),
        (vnet_of(UDP4, 1448), ALL, True),
        (VNET.pack(1, GSO_UDP, 0, 1, 34, 6), ALL | TUN_F_UFO, False),
        (VNET.pack(1, 0x77, 0, 1, 34, 6), ALL, False),
        (b"\x01", ALL, False),
    ],
)
def test_accepted(vnet: bytes, features: int, answer: bool) -> None:
    assert accepted(vnet, features) is answer


# The kernel as a judge: super-frames go into one TAP, over a bridge, out of another without offload.

TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


def kernel_segments() -> None:
    """Run inside a fresh network namespace: standard input holds frames, standard output gets segments."""

    def tap(name: str) -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
        return fd

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    entry, leave = tap("t0"), tap("t1")
    for word in ("all", "default"):
        with open(f"/proc/sys/net/ipv6/conf/{word}/disable_ipv6", "w") as knob:
            knob.write("1")
    ip("link", "add", "br0", "type", "bridge", "forward_delay", "0")
    for name in ("t0", "t1"):
        ip("link", "set", name, "master", "br0", "up")
    ip("link", "set", "br0", "up")
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    deadline = time.monotonic() + BOUND_S
    while (
        "state forwarding"
        not in subprocess.run(
            ["bridge", "link", "show", "dev", "t1"], capture_output=True, text=True, check=True
        ).stdout
    ):
        assert time.monotonic() < deadline
        select.select([], [], [], 0.02)
    while head := stdin.read(2 + 4):
        count, size = struct.unpack("!HI", head)
        os.write(entry, stdin.read(size))
        for _ in range(count):
            got = b"\1" * 11
            while got[10] & 1:  # the bridge's own multicast reports
                assert select.select([leave], [], [], BOUND_S)[0], "the kernel dropped it"
                got = os.read(leave, 70000)
            stdout.write(struct.pack("!I", len(got)) + got)
        stdout.flush()


@pytest.mark.skipif(
    os.geteuid() != 0 and not os.access("/dev/net/tun", os.R_OK | os.W_OK),
    reason="/dev/net/tun is not for everybody",
)
def test_the_kernel_cuts_the_same_segments() -> None:
    v6 = {"version": 6, "source": b"\xfd" + bytes(15), "dest": b"\xfd" + bytes(14) + b"\1"}
    options = b"\1\1\x08\x0a" + b"abcdefgh"
    cases = [
        (Packet(payload=os.urandom(64000), tcp_options=options, identity=65530, sequence=2**32 - 5000), 1448),
        (Packet(payload=os.urandom(5000), tcp_options=options, flags=0x18), 1448),
        (Packet(payload=os.urandom(4001), flags=0x99, sequence=7), 1000),
        (Packet(payload=os.urandom(4001), flags=0x11, ip_options=b"\1" * 8), 999),
        (Packet(**v6, payload=os.urandom(30001), tcp_options=options, flags=0x98), 1428),
        (Packet(**v6, payload=os.urandom(3000), first_extension=60, ip_options=b"\6\0\1\4" + bytes(4)), 1400),
        (Packet(protocol=17, payload=os.urandom(4001), identity=9), 1000),
        (Packet(**v6, protocol=17, payload=os.urandom(5001)), 1200),
    ]  # fmt: skip
    given_ = b""
    for packet, size in cases:
        frame = vnet_of(packet, size) + packet.frame(partial=True)
        given_ += struct.pack("!HI", -(-len(packet.payload) // size), len(frame)) + frame
    child = subprocess.run(
        ["unshare", "-n" if os.geteuid() == 0 else "-rn", sys.executable, "-c",
         "from tests.tapnet.vlan.test_offload import kernel_segments as run; run()"],
        input=given_, capture_output=True, timeout=BOUND_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr.decode()
    out = child.stdout
    for packet, size in cases:
        for ours, left in complete(packet.frame(partial=True), vnet_of(packet, size), 0):
            assert left == b""
            length = struct.unpack_from("!I", out)[0]
            theirs, out = out[4:][10:length], out[4 + length :]
            assert theirs.hex() == ours.hex()
    assert out == b""
