"""Transmitter of the RTL8139: the four descriptors, status, back-pressure, loopback, FCS, link."""

from __future__ import annotations

from struct import pack
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nic_models.rtl8139 import registers as r
from tests.nic_models.rtl8139_kit import BROADCAST, BUFFERS, MAC, Kit, frame_to

DONE = r.TSD_OWN | r.TSD_TOK


def test_a_frame_leaves_as_it_is():
    kit = Kit().start()
    kit.send(frame_to(size=42), extra=0x3F << 16)
    assert kit.wire == [frame_to(size=42)]  # no padding: the chip has none
    assert kit.owed == [b""]
    assert kit.read(r.TSD0, 4) == 0x3F << 16 | DONE | 42
    assert kit.read(r.TSAD, 2) == 0x100F
    assert kit.isr() == r.INT_TOK
    assert kit.irq is False


def test_descriptors_are_used_round_robin():
    kit = Kit().start()
    for n in range(10):
        kit.send(frame_to(fill=n), n % 4)
        assert kit.read(r.TSD0 + 4 * (n % 4), 4) & DONE == DONE
    assert kit.wire == [frame_to(fill=n) for n in range(10)]


def test_a_descriptor_out_of_turn_waits():
    kit = Kit().start()
    kit.send(frame_to(fill=1), 1)
    assert kit.wire == []
    assert kit.read(r.TSAD, 2) == 0x000D
    kit.send(frame_to(fill=0), 0)
    assert kit.wire == [frame_to(fill=0), frame_to(fill=1)]
    assert kit.read(r.TSAD, 2) == 0x300F


def test_transmitter_off():
    kit = Kit().start()
    kit.write(r.CR, 1, r.CR_RE)
    kit.send(frame_to())
    assert kit.wire == []
    kit.write(r.CR, 1, r.CR_RE | r.CR_TE)
    assert kit.wire == [frame_to()]


@pytest.mark.parametrize("rev", [0x10, 0x20])
@pytest.mark.parametrize("sent", range(8))
def test_a_transmitter_that_starts_begins_at_descriptor_0(rev, sent):
    """OpenBSD's rl, NetBSD's rtk and 9front stop and start so, without RST."""
    kit = Kit(rev).start()
    for n in range(sent):
        kit.send(frame_to(fill=n), n % 4)
    kit.write(r.CR, 1, 0)
    kit.write(r.CR, 1, r.CR_RE | r.CR_TE)
    for n in range(6):
        kit.send(frame_to(fill=100 + n), n % 4)
        assert kit.read(r.TSD0 + 4 * (n % 4), 4) & DONE == DONE
    assert kit.wire[sent:] == [frame_to(fill=100 + n) for n in range(6)]


@pytest.mark.parametrize("rev", [0x10, 0x20])
@pytest.mark.parametrize("given", [(0,), (0, 1, 2, 3), (1,), (2, 3)])
def test_a_transmitter_that_stops_forgets_what_it_was_given(rev, given):
    """The driver frees its buffers then: nothing of them leaves after the start, and no descriptor is blocked."""
    kit = Kit(rev).start()
    kit.wire_takes = False
    for n in given:
        kit.send(frame_to(fill=n), n)
    kit.write(r.CR, 1, r.CR_RE)
    assert kit.read(r.TSAD, 2) == 0x000F  # the driver's again, none sent
    assert kit.card.counters == ({"tx stopped": 1} if 0 in given else {})
    kit.wire_takes = True
    kit.slot.tx_ready()
    kit.write(r.CR, 1, r.CR_RE | r.CR_TE)
    assert kit.wire == []
    for n in range(4):
        kit.send(frame_to(fill=100 + n), n)
    assert kit.wire == [frame_to(fill=100 + n) for n in range(4)]


def test_a_stop_while_the_frame_is_fetched():
    """The step that the engine is in must not move the new start."""
    kit = Kit().start()
    kit.poke(BUFFERS, frame_to())
    card = kit.card
    card.write(0, r.TSAD0, 4, BUFFERS)
    card.write(0, r.TSD0, 4, 60)
    engine = card.dma()
    assert next(engine)[0] == "read"
    card.write(0, r.CR, 1, 0)
    card.write(0, r.CR, 1, r.CR_RE | r.CR_TE)
    card.write(0, r.TSD0, 4, 60)
    assert engine.send(frame_to(fill=1)) == ("read", BUFFERS, 60)
    with pytest.raises(StopIteration):
        engine.send(frame_to(fill=2))
    assert kit.wire == [frame_to(fill=2)]
    assert card.out.current == 1


@pytest.mark.parametrize("value", [0x0C, 0x04, 0x05])
def test_a_write_that_leaves_te_as_it_is_starts_nothing(value):
    kit = Kit().start()
    kit.send(frame_to(fill=0), 0)
    kit.write(r.CR, 1, value)
    kit.send(frame_to(fill=1), 1)
    assert len(kit.wire) == 2


@pytest.mark.parametrize(("offset", "size"), [(r.TSD0, 1), (r.TSD0 + 1, 1), (r.TSD0, 2), (r.TSD0 + 2, 2)])
def test_tsd_takes_dwords_only(offset, size):
    kit = Kit().start()
    kit.write(offset, size, 0)
    assert kit.read(r.TSD0, 4) == r.TSD_OWN
    assert kit.wire == []


def test_status_bits_are_read_only_and_cleared_by_the_size():
    kit = Kit().start()
    kit.send(frame_to())
    kit.write(r.TSD0, 4, 0xFFFFFFFF)
    assert kit.read(r.TSD0, 4) == r.TSD_WRITABLE
    assert kit.read(r.TSAD, 2) == 0x000F


@pytest.mark.parametrize(
    ("size", "sent"), [(0, []), (1, []), (13, []), (14, [14]), (1792, [1792]), (4000, [4000])]
)
def test_sizes(size, sent):
    kit = Kit().start()
    kit.send(frame_to(size=size))
    assert [len(frame) for frame in kit.wire] == sent
    assert kit.read(r.TSD0, 4) & DONE == DONE
    assert kit.card.counters == ({"tx short": 1} if 0 < size < 14 else {})


def test_the_largest_size():
    kit = Kit().start()
    kit.write(r.TSAD0, 4, BUFFERS)
    kit.write(r.TSD0, 4, 0x1FFF)
    assert [len(frame) for frame in kit.wire] == [8191]


def test_a_wire_that_does_not_take():
    kit = Kit().start()
    kit.wire_takes = False
    kit.send(frame_to(fill=0), 0)
    kit.send(frame_to(fill=1), 1)
    assert kit.read(r.TSAD, 2) == 0x000C
    assert kit.read(r.ISR, 2) == 0
    kit.slot.tx_ready()
    assert kit.wire == []
    kit.wire_takes = True
    kit.slot.tx_ready()
    assert kit.wire == [frame_to(fill=0), frame_to(fill=1)]
    assert kit.read(r.TSAD, 2) == 0x300F


def test_a_waiting_frame_is_copied():
    kit = Kit().start()
    kit.wire_takes = False
    kit.send(frame_to(fill=0))
    kit.poke(BUFFERS, bytes(60))
    kit.wire_takes = True
    kit.slot.tx_ready()
    assert kit.wire == [frame_to(fill=0)]


def test_reset_forgets_a_waiting_frame():
    kit = Kit().start()
    kit.wire_takes = False
    kit.send(frame_to())
    kit.write(r.CR, 1, r.CR_RST)
    kit.wire_takes = True
    kit.slot.tx_ready()
    assert kit.wire == []
    assert kit.read(r.TSAD, 2) == 0x000F


def test_a_driver_takes_a_waiting_frame_back():
    kit = Kit().start()
    kit.wire_takes = False
    kit.send(frame_to(fill=0), 0)
    kit.write(r.TSD0, 4, r.TSD_OWN)
    kit.wire_takes = True
    kit.send(frame_to(fill=1), 1)
    kit.slot.tx_ready()
    assert kit.wire == [frame_to(fill=1)]


def test_no_link_loses_the_carrier():
    kit = Kit().start()
    kit.card.set_link(False)
    kit.isr()
    kit.send(frame_to())
    assert kit.wire == []
    assert kit.read(r.TSD0, 4) & (r.TSD_CRS | DONE) == r.TSD_CRS | DONE
    assert kit.isr() == r.INT_TOK
    assert kit.card.counters == {"tx link": 1}


def test_link_lost_while_a_frame_waits():
    kit = Kit().start()
    kit.wire_takes = False
    kit.send(frame_to())
    kit.card.set_link(False)
    kit.slot.tx_ready()
    assert kit.read(r.TSD0, 4) & r.TSD_CRS
    assert kit.card.counters == {"tx link": 1}


def test_loopback():
    kit = Kit().start(tcr=0x03000700 | r.TCR_LBK)
    kit.send(frame_to(MAC, 100))
    kit.send(frame_to(BROADCAST, 42), 1)
    assert kit.wire == []
    assert [frame for _, frame in kit.packets()] == [frame_to(MAC, 100), frame_to(BROADCAST, 42) + bytes(18)]
    assert kit.isr() == r.INT_TOK | r.INT_ROK
    assert kit.receive(frame_to())  # the wire is cut off
    assert kit.card.counters == {"rx loopback": 1}


@pytest.mark.parametrize("lbk", [1 << 17, 2 << 17])
def test_one_loopback_bit_is_none(lbk):
    kit = Kit().start(tcr=0x03000700 | lbk)
    kit.send(frame_to())
    assert kit.wire == [frame_to()]


def test_loopback_into_a_full_ring_loses_the_frame():
    kit = Kit()
    kit.full()
    kit.write(r.TCR, 4, 0x03000700 | r.TCR_LBK)
    for n in range(8):
        kit.send(frame_to(size=500), n % 4)
    assert kit.card.counters == {"rx loopback full": 8}
    assert kit.read(r.MPC, 4) == 8  # the one that waits for room is not lost


@pytest.mark.parametrize(("good", "sent"), [(True, [frame_to()]), (False, [])])
def test_own_fcs(good, sent):
    kit = Kit().start(tcr=0x03000700 | r.TCR_CRC)
    kit.send(frame_to() + pack("<I", crc32(frame_to()) ^ (0 if good else 1)))
    assert kit.wire == sent
    assert kit.read(r.TSD0, 4) & DONE == DONE
    assert kit.card.counters == ({} if good else {"tx fcs": 1})


def test_without_bus_mastering_nothing_is_sent():
    """QEMU's card sends a frame of zeros here."""
    kit = Kit().start()
    kit.config_write(4, 2, 3)
    kit.send(frame_to())
    assert kit.wire == []
    assert not kit.read(r.TSD0, 4) & r.TSD_OWN
    kit.config_write(4, 2, 7)
    kit.read(r.ISR, 2)
    assert kit.wire == [frame_to()]


@given(st.lists(st.tuples(st.integers(14, 1792), st.booleans()), max_size=40))
def test_all_frames_leave_in_order_whatever_the_wire_does(frames):
    kit = Kit().start()
    sent = []
    for n, (size, takes) in enumerate(frames):
        kit.wire_takes = takes
        if takes:
            kit.slot.tx_ready()
        if kit.read(r.TSD0 + 4 * (len(sent) % 4), 4) & r.TSD_OWN:
            kit.send(frame_to(size=size, fill=n), len(sent) % 4)
            sent.append(frame_to(size=size, fill=n))
    kit.wire_takes = True
    kit.slot.tx_ready()
    assert kit.wire == sent
    assert kit.read(r.TSAD, 2) & 0x0F == 0x0F
