"""Receive ring: filter, chains, stripping, LAPP, and a driver that gives no buffers."""

import pytest

from nic_models.parts.multicast import hash_le
from nic_models.pcnet import registers as r
from nic_models.pcnet.chip import POLL_HELD_NS
from nic_models.pcnet.receiver import HOLD_NS, MISS_NS
from nic_models.virtio import partial
from tests.nic_models.pcnet_kit import (
    BROADCAST,
    ENP,
    ERR,
    MAC,
    OWN,
    PEER,
    RX_BUFFERS,
    STP,
    Bench,
    every_style,
    frame,
    started,
    with_fcs,
)

GROUP = bytes.fromhex("01005e000001")


@every_style
def test_one_buffer(style):
    bench = started(style)
    assert bench.receive(frame(1514))
    _, status, size, other = bench.descriptor(bench.rx_address(0))
    assert status == STP | ENP | (r.R_PAM if style else 0)
    assert size == 0xF000 | -1536 & 0xFFF
    assert other == 1518
    assert bench.received(0, 1518) == with_fcs(frame(1514))
    assert bench.csr(0) & r.RINT and bench.irq


def test_short_frames_are_padded_as_on_a_wire():
    bench = started(2)
    assert bench.receive(frame(42))
    assert bench.mcnt(0) == 64
    assert bench.received(0, 64) == with_fcs(frame(42) + bytes(18))


@every_style
def test_round_and_round(style):
    bench = started(style)
    for number in range(21):
        index = number % 4
        assert bench.receive(frame(100 + number, seed=number))
        assert bench.mcnt(index) == 104 + number
        assert bench.received(index, 100 + number) == frame(100 + number, seed=number)
        bench.give(index)
    assert bench.ready == 0


@every_style
def test_chained_buffers(style):
    bench = started(style, rlen=3, buffer=256)
    data = frame(1000)
    assert bench.receive(data)
    assert [bench.rx_status(n) & ~0x70 for n in range(5)] == [STP, 0, 0, ENP, OWN]
    assert bench.mcnt(3) == 1004
    assert b"".join(bench.received(n, 256) for n in range(4))[:1004] == with_fcs(data)
    assert bench.receive(frame(60))
    assert bench.rx_status(4) & ~0x70 == STP | ENP


@every_style
def test_chain_without_buffer(style):
    bench = started(style, buffer=256)
    bench.give(2, status=0)
    bench.give(3, status=0)
    assert bench.receive(frame(600))
    assert bench.rx_status(0) == STP
    assert bench.rx_status(1) == ERR | r.R_BUFF  # 92 bytes more: the FIFO could hold them
    assert bench.csr(0) & r.RINT
    bench.give(2, 1536)
    assert bench.receive(frame(60))
    assert bench.rx_status(2) & ~0x70 == STP | ENP


def test_chain_without_buffer_and_overflow():
    bench = started(2, rlen=0, buffer=256)
    assert bench.receive(frame(1000))
    assert bench.rx_status(0) == STP | ERR | r.R_BUFF | r.R_OFLO


def test_count_of_zero_is_4096_bytes():
    bench = started(2)
    bench.give(0, 4096)
    assert bench.descriptor(bench.rx_address(0))[2] == 0xF000
    assert bench.receive(frame(4000))
    assert bench.mcnt(0) == 4004
    assert bench.rx_status(0) == STP | ENP | r.R_PAM


@pytest.mark.parametrize(
    ("size", "reason"), [(0, "rx_short"), (13, "rx_short"), (4092, "rx_long"), (65000, "rx_long")]
)
def test_impossible_frames(size, reason):
    bench = started(2)
    assert bench.receive(frame(size))
    assert bench.card.counters == {reason: 1}
    assert bench.rx_status(0) & OWN


def test_frame_that_owes_a_checksum_is_completed_or_dropped():
    bench = started(2)
    data = bytearray(frame(60))
    assert bench.card.receive(bytes(data), partial(14, 2))
    bench.drive()
    assert bench.mcnt(0) == 64 and bench.received(0, 60) != bytes(data)
    assert bench.card.receive(bytes(data), b"\x01" * 10)
    assert bench.card.counters == {"rx_bad": 1}


@pytest.mark.parametrize("offset", range(4))
@pytest.mark.parametrize("size", [60, 61, 62, 63])
@pytest.mark.parametrize("buffer", [5, 62, 1536])
def test_big_endian_buffers(offset, size, buffer):
    bench = started(2, rlen=5)
    bench.csr(3, r.BSWP)
    for index in range(32):
        bench.give(index, buffer, OWN, RX_BUFFERS + index * buffer + offset)
    bench.memory.cells[RX_BUFFERS : RX_BUFFERS + 2000] = b"\xee" * 2000
    assert bench.receive(frame(size))
    expected = bytearray(b"\xee" * 2000)
    for place, byte in enumerate(with_fcs(frame(size)), offset):
        expected[place ^ 3] = byte
    assert bench.memory.cells[RX_BUFFERS : RX_BUFFERS + 2000] == expected


# -- filter ------------------------------------------------------------------------------------------------

BIT = 1 << hash_le(GROUP)
ALL = (1 << 64) - 1
FILTER_CASES = [
    # destination, mode, LADRF -> RMD1 bits, None: not received
    (MAC, 0, 0, r.R_PAM),
    (MAC, r.DRCVPA, ALL, None),
    (PEER, 0, ALL, None),
    (PEER, r.PROM, 0, 0),
    (MAC, r.PROM, 0, 0),
    (BROADCAST, 0, 0, r.R_BAM),
    (BROADCAST, 0, ALL, r.R_BAM),
    (BROADCAST, r.DRCVBC, 0, None),
    (BROADCAST, r.DRCVBC, ALL, r.R_LAFM),
    (BROADCAST, r.DRCVBC | r.PROM, 0, 0),
    (GROUP, 0, 0, None),
    (GROUP, 0, BIT, r.R_LAFM),
    (GROUP, 0, ALL & ~BIT, None),
    (GROUP, r.DRCVBC | r.DRCVPA, BIT, r.R_LAFM),
]


@pytest.mark.parametrize(("to", "mode", "ladrf", "bits"), FILTER_CASES)
@every_style
def test_filter(style, to, mode, ladrf, bits):
    bench = started(style, mode=mode, ladrf=ladrf)
    assert bench.receive(frame(60, to=to))
    expected = OWN if bits is None else STP | ENP | (bits if style else 0)
    assert bench.rx_status(0) == expected


def test_filter_written_while_suspended():
    bench = started(2)
    bench.csr(5, r.SPND)
    for index in range(3):
        bench.csr(12 + index, int.from_bytes(PEER[2 * index : 2 * index + 2], "little"))
    for index in range(4):
        bench.csr(8 + index, BIT >> 16 * index & 0xFFFF)
    bench.csr(5, 0)
    for to, taken in ((MAC, False), (PEER, True), (GROUP, True)):
        index = bench.card.rings.rx.index
        bench.receive(frame(60, to=to))
        assert (bench.card.rings.rx.index != index) is taken


# -- stripping, alignment, LAPP ----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "mcnt"), [(0, 14), (10, 24), (45, 59), (46, 64), (0x0800, 64)])
def test_pad_stripping(kind, mcnt):
    bench = started(2, csr4=0x0D15)
    data = frame(60, kind=kind)
    assert bench.receive(data)
    assert bench.mcnt(0) == mcnt
    assert bench.received(0, mcnt) == with_fcs(data)[:mcnt]


def test_receive_alignment():
    bench = started(2)
    bench.csr(122, r.RCVALGN)
    assert bench.receive(frame(100))
    assert bench.mcnt(0) == 104
    assert bench.received(0, 106)[2:] == with_fcs(frame(100))


def test_lapp():
    bench = started(2, rlen=3, buffer=128)
    bench.csr(3, r.LAPPEN)
    for index, word in enumerate((OWN, 0, OWN | STP, OWN, OWN, OWN | STP, OWN, OWN)):
        bench.give(index, 128, word)
    raised = []
    update = bench.card.update_irq
    bench.card.update_irq = lambda: (raised.append(bench.card.csr[0] & r.RINT), update())  # type: ignore
    assert bench.receive(frame(200))
    assert [bench.rx_status(n) & ~0x70 for n in range(8)] == [
        0, 0, STP, ENP, OWN, OWN | STP, OWN, OWN,
    ]  # fmt: skip
    assert raised.count(r.RINT) == 2
    assert bench.receive(frame(60))
    assert [bench.rx_status(n) & ~0x70 for n in (4, 5, 6)] == [0, STP | ENP, OWN]


def test_lapp_without_any_stp():
    bench = started(2, rlen=3)
    bench.csr(3, r.LAPPEN)
    assert bench.receive(frame(60))
    assert [bench.rx_status(n) for n in range(8)] == [0] * 8  # given back
    assert bench.card.rings.rx.hold_until is not None


# -- no buffers --------------------------------------------------------------------------------------------


def dry_bench() -> Bench:
    bench = started(2, rlen=0)
    bench.receive(frame(60))
    assert not bench.rx_status(0) & OWN
    bench.csr(0, r.RINT | r.IENA)
    return bench


def test_frame_waits_for_a_buffer():
    bench = dry_bench()
    assert bench.receive(frame(61))
    assert not bench.receive(frame(62))
    bench.tick(MISS_NS - 5_000_000)
    assert not bench.csr(0) & (r.MISS | r.ERR) and not bench.irq
    bench.give(0)
    bench.tick(2_000_000)  # the chip polls
    assert bench.mcnt(0) == 65
    assert bench.csr(0) & (r.RINT | r.MISS) == r.RINT
    assert bench.ready == 1
    assert bench.csr(r.MFC) == 0


def test_a_driver_that_gives_buffers_in_its_interrupt_gets_one():
    bench = dry_bench()
    bench.receive(frame(61))
    bench.tick(MISS_NS)
    assert bench.csr(0) & (r.RINT | r.MISS | r.ERR) == r.RINT and bench.irq
    assert bench.csr(r.MFC) == 0  # nothing lost
    bench.csr(0, r.RINT | r.IENA)
    bench.tick(HOLD_NS - MISS_NS - 1_000_000)
    assert not bench.irq  # said once
    bench.give(0)
    bench.csr(0, r.IENA)
    assert bench.mcnt(0) == 65
    assert not bench.csr(0) & r.MISS


def test_a_waiting_frame_is_polled_for_often():
    """Also for a driver that uses TDMD, whose transmit ring is looked at less often."""
    bench = dry_bench()
    bench.send(frame(60))
    bench.tick(5_000_000)
    bench.receive(frame(61))
    bench.give(0)
    bench.tick(POLL_HELD_NS)
    assert bench.mcnt(0) == 65


def test_any_write_to_csr0_looks_again():
    bench = dry_bench()
    bench.receive(frame(61))
    bench.give(0)
    bench.csr(0, r.IENA)
    assert bench.mcnt(0) == 65


def test_wait_is_bounded_and_then_frames_are_missed():
    bench = dry_bench()
    bench.receive(frame(61))
    assert not bench.receive(frame(62))
    bench.tick(HOLD_NS - 1)
    assert bench.csr(r.MFC) == 0 and not bench.csr(0) & r.MISS
    bench.tick(1)
    assert bench.csr(r.MFC) == 1 and bench.csr(0) & r.MISS
    assert bench.ready == 1
    for lost in range(2, 6):  # no more waiting for this driver
        assert bench.receive(frame(60))
        assert bench.csr(r.MFC) == lost
    bench.give(0)
    assert bench.receive(frame(63))  # it is back
    assert bench.mcnt(0) == 67
    assert bench.receive(frame(64))
    assert not bench.receive(frame(65))
    assert bench.csr(r.MFC) == 5


@pytest.mark.parametrize("how", ["stop", "soft", "hard"])
def test_waiting_frame_is_lost_at_a_reset(how):
    bench = dry_bench()
    bench.receive(frame(61))
    assert not bench.receive(frame(62))
    if how == "stop":
        bench.csr(0, r.STOP)
    elif how == "soft":
        bench.inp(r.WIO_RESET)
    else:
        bench.card.reset()
    assert bench.card.counters == {"rx_missed": 1}
    assert bench.ready == 1
    assert bench.csr(0) == 4
    bench.drive()
    assert bench.card.next_deadline() is None


def test_receiver_off():
    bench = Bench()
    assert bench.receive(frame(60))
    assert bench.card.counters == {"rx_off": 1}
    bench = started(2, mode=r.DRX)
    assert bench.receive(frame(60))
    assert bench.rx_status(0) & OWN


# -- magic packets -----------------------------------------------------------------------------------------


def test_magic_packet():
    bench = started(2)
    bench.csr(5, r.SPND)
    bench.csr(5, r.SPND | r.MPMODE | r.MPEN | 0x0008)
    pattern = BROADCAST + MAC * 16
    assert bench.receive(frame(60))
    assert bench.receive(frame(14) + pattern[:-1])
    assert bench.receive(frame(14, to=BROADCAST) + pattern)  # broadcast needs MPPLBA
    assert not bench.irq
    assert bench.receive(frame(20) + pattern)
    assert bench.irq and bench.csr(5) & r.MPINT
    bench.csr(5, r.SPND | r.MPMODE | r.MPEN | r.MPPLBA | r.MPINT | 0x0008)
    assert not bench.irq
    assert bench.receive(frame(14, to=BROADCAST) + pattern)
    assert bench.irq
