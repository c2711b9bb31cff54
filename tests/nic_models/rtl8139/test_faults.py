"""What guests did to other RTL8139 models: each published fault is played, with bounded work and nothing outside.

CVE-2015-5165 (C+ offload lengths), CVE-2016-8910 (descriptor rings that never end), CVE-2018-17958 (sizes of
received frames), CVE-2021-3416 (loopback re-entry); descriptors and buffers outside RAM, DMA into the card's own
registers.
"""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_models.rtl8139 import registers as r
from tests.nic_models.rtl8139_kit import BROADCAST, MAC, RX_RING, TX_RING, Kit, frame_to
from tests.nic_models.rtl8139_packets import tcp

ALL = r.D_OWN | r.D_FS | r.D_LS
OUTSIDE = 0x80000000


class Counted:
    """Memory that counts what the engine does."""

    def __init__(self, slot):
        self.inner = slot.memory
        self.ops = self.octets = 0
        slot.memory = self

    def read(self, address, length):
        self.ops += 1
        self.octets += length
        return self.inner.read(address, length)

    def write(self, address, data):
        self.ops += 1
        self.octets += len(data)
        self.inner.write(address, data)


@given(
    st.integers(0, 255),
    st.integers(0, 0xFFFF),
    st.integers(0, 15),
    st.integers(0, 0x7FF),
    st.integers(0, 7),
    st.binary(max_size=64),
)
def test_cve_2015_5165_lengths_in_offloaded_frames(version, total, offset, mss, bits, payload):
    """IP header length, IP total length, TCP header length and MSS as they please."""
    kit = Kit().start_cplus()
    frame = bytearray(tcp(payload, offset=offset))
    frame[14] = version
    frame[16:18] = pack(">H", total)
    kit.poke(0x10000 + len(frame), b"secret" * 100)
    kit.put(bytes(frame), flags=bits << 16 | r.TD_LGSEN | mss << r.TD_MSS_SHIFT)
    for sent in kit.wire:
        assert len(sent) <= len(frame)
        assert b"secret" not in sent


@pytest.mark.parametrize("mss", [0, 1])
def test_large_send_with_a_senseless_mss(mss):
    kit = Kit().start_cplus()
    kit.put(tcp(b"x" * 500), flags=r.TD_LGSEN | mss << r.TD_MSS_SHIFT)
    assert len(kit.wire) == 1


def test_cve_2016_8910_a_ring_that_never_ends():
    """The write-back is lost, so the descriptor stays the card's for ever."""
    kit = Kit().start_cplus()
    memory = Counted(kit.slot)
    memory.write = lambda address, data: None
    kit.poke(TX_RING, pack("<IIQ", ALL | r.D_EOR | 60, 0, 0x10000))
    kit.write(r.TPPOLL, 1, r.POLL_NPQ)
    assert len(kit.wire) == r.RING_DESCRIPTORS
    assert not kit.card.dma_pending
    assert memory.ops <= 2 * r.RING_DESCRIPTORS


@pytest.mark.parametrize(
    "word", [r.D_OWN | r.D_FS, r.D_OWN, r.D_OWN | r.D_EOR | r.D_FS, r.D_OWN | r.D_FS | 0xFFFF]
)
def test_frames_that_never_end(word):
    kit = Kit().start_cplus(tx=64)
    memory = Counted(kit.slot)
    for n in range(64):
        kit.poke(TX_RING + 16 * n, pack("<IIQ", word, 0, 0x10000))
    for _ in range(5):
        kit.write(r.TPPOLL, 1, r.POLL_NPQ)
    assert kit.wire == []
    assert memory.ops < 5 * 3 * 64
    assert len(kit.card.cplus.normal.frame or b"") <= 65553


def test_a_descriptor_that_points_at_itself():
    """The frame overwrites its own descriptor with another one that is the card's."""
    kit = Kit().start_cplus()
    kit.poke(TX_RING, pack("<IIQ", ALL | r.D_EOR | 16, 0, TX_RING))
    kit.write(r.TPPOLL, 1, r.POLL_NPQ)
    kit.poke(RX_RING, pack("<IIQ", r.D_OWN | r.D_EOR | 1536, 0, RX_RING))
    kit.receive(frame_to())
    kit.receive(frame_to())
    assert not kit.card.dma_pending


@pytest.mark.parametrize("size", [8187, 8188, 8192, 65531, 65536, 70000, 1 << 20])
@pytest.mark.parametrize("cplus", [False, True])
def test_cve_2018_17958_sizes_of_received_frames(size, cplus):
    kit = Kit()
    if cplus:
        kit.start_cplus(rx=64, buffer=8191, rcr=0x0F)
    else:
        kit.start(0x0F | r.RCR_RBLEN)
    memory = Counted(kit.slot)
    assert kit.receive(frame_to(BROADCAST, 100) + bytes(size - 100))
    assert memory.octets <= 8191 + 4 + 3 * 16
    assert kit.receive(frame_to(BROADCAST))
    assert kit.read(r.ISR, 2) == r.INT_ROK


def test_receive_buffers_of_no_size():
    kit = Kit().start_cplus(rx=64, buffer=0)
    memory = Counted(kit.slot)
    assert kit.receive(frame_to())
    assert memory.ops <= 64
    assert kit.card.counters == {"rx oversize": 1}


def test_a_receive_ring_that_closes_before_the_cards_place_in_it():
    """EOR moves to a descriptor that the card has passed: it goes round and never comes to where it began."""
    kit = Kit().start_cplus(rx=64)
    for n in range(40):
        kit.receive(frame_to(fill=n))
    for n in range(64):
        kit.poke(RX_RING + 16 * n, pack("<IIQ", r.D_OWN | (r.D_EOR if n == 9 else 0), 0, 0x70000))
    memory = Counted(kit.slot)
    assert kit.receive(frame_to())
    assert memory.ops <= r.RING_DESCRIPTORS
    assert kit.card.counters == {"rx oversize": 1}


def test_a_receive_ring_of_one_tiny_buffer():
    kit = Kit().start_cplus(rx=1, buffer=8)
    kit.receive(frame_to())
    assert kit.card.counters == {"rx oversize": 1}


@pytest.mark.parametrize("base", [OUTSIDE, 0xFFFFFF00, (1 << 64) - 256])
def test_descriptors_outside_ram(base):
    """They read all ones: owned by the card, 65535 bytes, end of ring; the write-back goes nowhere."""
    kit = Kit().start_cplus()
    memory = Counted(kit.slot)
    for offset in (r.TNPDS, r.THPDS, r.RDSAR):
        kit.write(offset, 4, base & 0xFFFFFFFF)
        kit.write(offset + 4, 4, base >> 32)
    kit.write(r.TPPOLL, 1, r.POLL_NPQ | r.POLL_HPQ)
    kit.receive(frame_to())
    assert kit.wire == []
    assert memory.ops < 8 * r.RING_DESCRIPTORS
    assert not kit.card.dma_pending


def test_buffers_outside_ram():
    kit = Kit().start_cplus(rx=2)
    kit.poke(RX_RING, pack("<IIQ", r.D_OWN | 1536, 0, OUTSIDE))
    kit.receive(frame_to())
    kit.poke(TX_RING, pack("<IIQ", ALL | 60, 0, OUTSIDE))
    kit.write(r.TPPOLL, 1, r.POLL_NPQ)
    assert kit.wire == [b"\xff" * 60]
    assert not kit.descriptor(RX_RING, 0)[0] & r.D_OWN


@pytest.mark.parametrize("ring", [OUTSIDE, 0xFFFFFFF0, (1 << 20) - 100])
def test_c_mode_ring_and_buffers_outside_ram(ring):
    kit = Kit().start(ring=ring)
    for _ in range(40):
        kit.receive(frame_to(size=1000))
        kit.write(r.CAPR, 2, kit.read(r.CBR, 2) - 16 & 0xFFFF)
    kit.write(r.TSAD0, 4, ring)
    kit.write(r.TSD0, 4, 0x1FFF)
    assert [len(frame) for frame in kit.wire] == [0x1FFF]


@pytest.mark.parametrize("window", ["io", "memory"])
def test_dma_into_the_own_registers(window):
    kit = Kit().start()
    target = (kit.memory if window == "memory" else kit.base) + r.TSD0 - 4
    kit.write(r.RBSTART, 4, target)
    before = kit.read(r.TSD0, 4)
    for _ in range(5):
        kit.receive(bytes(12) + bytes(500))
        kit.receive(BROADCAST + bytes(500))
    assert kit.read(r.TSD0, 4) == before
    kit.write(r.TSAD0, 4, target)
    kit.write(r.TSD0, 4, 60)
    assert len(kit.wire) == 1
    kit.start_cplus()
    kit.write(r.TNPDS, 4, kit.memory)
    kit.write(r.RDSAR, 4, kit.memory)
    kit.write(r.DTCCR, 4, kit.memory & ~0x3F | 8)
    kit.write(r.TPPOLL, 1, r.POLL_NPQ)
    kit.receive(frame_to())
    assert not kit.card.dma_pending


def test_cve_2021_3416_loopback_does_not_re_enter():
    """Frames in loopback whose receive buffers are the transmit descriptors: each turn makes more work."""
    kit = Kit().start_cplus(rx=2, tx=2, tcr=0x03000700 | r.TCR_LBK)
    depth = []
    receive = kit.card.rx.loop
    inside = False

    def watched(frame):
        nonlocal inside
        assert not inside
        inside = True
        receive(frame)
        inside = False
        depth.append(len(kit.card.rx.fifo))

    kit.card.rx = Patched(kit.card.rx, watched)
    again = MAC + pack("<IIQ", ALL | r.D_EOR | 60, 0, 0x10000)
    kit.poke(0x10000, again + bytes(60 - len(again)))
    kit.poke(TX_RING, pack("<IIQ", ALL | r.D_EOR | 60, 0, 0x10000))
    for n in range(2):
        kit.poke(RX_RING + 16 * n, pack("<IIQ", r.D_OWN | (r.D_EOR if n else 0) | 1536, 0, TX_RING - 6))
    kit.write(r.TPPOLL, 1, r.POLL_NPQ)
    assert 1 <= len(depth) <= r.RING_DESCRIPTORS
    assert max(depth) <= 16
    assert kit.wire == []


class Patched:
    """An object with one method replaced."""

    def __init__(self, inner, loop):
        object.__setattr__(self, "_inner", inner)
        object.__setattr__(self, "loop", loop)

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def __setattr__(self, name, value):
        setattr(self._inner, name, value)


def test_c_mode_loopback_into_its_own_descriptors():
    kit = Kit().start(tcr=0x03000700 | r.TCR_LBK)
    for n in range(100):
        kit.send(frame_to(BROADCAST, 1500), n % 4)
    assert not kit.card.dma_pending
    assert kit.read(r.TSAD, 2) & 0x0F == 0x0F


@pytest.mark.parametrize("size", range(80))
def test_capr_anywhere(size):
    kit = Kit().start()
    kit.write(r.CAPR, 2, size * 823 & 0xFFFF)
    for n in range(20):
        kit.receive(frame_to(size=1000, fill=n))
    assert 0 <= kit.read(r.CBR, 2) < 8192


def test_a_restarted_tally_dump_outside_ram():
    kit = Kit().start_cplus()
    kit.write(r.DTCCR + 4, 4, 0xFFFFFFFF)
    kit.write(r.DTCCR, 4, 0xFFFFFFFF)
    assert not kit.read(r.DTCCR, 4) & r.DTCCR_CMD
