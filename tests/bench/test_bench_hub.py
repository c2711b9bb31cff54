"""Hub forward and drain, and software segmentation. Each round moves ``ROUND`` frames."""

from __future__ import annotations

import os
from collections import deque

import pytest

from tapnet.backends.sockets.framing import RECV, Splitter
from tapnet.virtio import TUN_F_ALL, TUN_F_CSUM
from tapnet.vlan import offload
from tapnet.vlan.hub import Hub
from tapnet.vlan.port import Port
from tests.tapnet.offload_slow import Packet
from tests.tapnet.vlan.test_offload import vnet_of

ROUND = 256
SUPER = Packet(payload=os.urandom(65000), tcp_options=b"\1\1\x08\x0a" + bytes(8))
SUPER_FRAME = SUPER.frame(partial=True)
SUPER_VNET = vnet_of(SUPER, 1448)
FRAMES = {"60": (bytes(60), b""), "1514": (bytes(1514), b""), "super": (SUPER_FRAME, SUPER_VNET)}


def take(_frame: bytes, _vnet: bytes) -> bool:
    return True


@pytest.mark.parametrize("ports", [2, 3, 8])
@pytest.mark.parametrize("kind", FRAMES)
def test_forward(benchmark, kind: str, ports: int) -> None:
    frame, vnet = FRAMES[kind]
    soon: deque = deque()
    hub = Hub(0, soon.append)
    members = [Port(f"p{n}", take, features=TUN_F_ALL, queue_bytes=64 << 20) for n in range(ports)]
    for port in members:
        hub.add(port)
    send = members[0].send

    def run() -> None:
        for _ in range(ROUND):
            send(frame, vnet)
        while soon:
            soon.popleft()()

    benchmark(run)
    assert members[1].counters.rx_frames == members[0].counters.tx_frames > 0
    benchmark.extra_info["ns_per_frame"] = (
        round(benchmark.stats.stats.min / ROUND * 1e9) if benchmark.stats else 0
    )


@pytest.mark.parametrize("size", [60, 1514])
def test_split_and_forward_a_train(benchmark, size: int) -> None:
    """What a stream wire does with 64 KiB that it has read, to where the next one sends them."""
    soon: list = []
    hub = Hub(0, soon.append)
    ends = [Port(f"p{n}", lambda _frame, _vnet: True) for n in range(2)]
    for port in ends:
        port.set_train(lambda _train, _count: True)
        hub.add(port)
    splitter = Splitter()
    data = ((size).to_bytes(4, "big") + bytes(size)) * (RECV // (size + 4))

    def run() -> None:
        splitter.room()[: len(data)] = data
        assert hub.forward_train(ends[0], *splitter.took(len(data)))
        while soon:
            soon.pop()()

    benchmark(run)
    assert ends[1].counters.rx_frames == ends[0].counters.tx_frames > 0
    frames = len(data) // (size + 4)
    benchmark.extra_info["ns_per_frame"] = (
        round(benchmark.stats.stats.min / frames * 1e9) if benchmark.stats else 0
    )


@pytest.mark.parametrize("features", [0, TUN_F_CSUM], ids=["whole", "partial"])
def test_segment_a_super_frame(benchmark, features: int) -> None:
    pieces = benchmark(offload.complete, SUPER_FRAME, SUPER_VNET, features)
    assert len(pieces) == 45


def test_complete_a_checksum(benchmark) -> None:
    packet = Packet(payload=os.urandom(1448), tcp_options=b"\1\1\x08\x0a" + bytes(8))
    vnet = offload.partial(34, 16)
    [(done, _)] = benchmark(offload.complete, packet.frame(partial=True), vnet, 0)
    assert done == packet.frame()
