"""Transmit ring: ownership, chains, padding, FCS, interrupts, errors, loopback."""

import pytest

from nic_models.pcnet import registers as r
from nic_models.pcnet.receiver import MAX_IMAGE
from nic_models.pcnet.transmitter import JABBER_BYTES, MAX_WIRE
from tests.nic_models.pcnet_kit import (
    BROADCAST,
    ENP,
    ERR,
    MAC,
    OWN,
    PEER,
    STP,
    TX_BUFFERS,
    Bench,
    every_style,
    frame,
    started,
    with_fcs,
)


def out_frame(size, **options):
    return frame(size, to=PEER, source=MAC, **options)


@every_style
def test_one_buffer(style):
    bench = started(style)
    (index,) = bench.send(out_frame(1514))
    assert bench.sent == [out_frame(1514)]
    assert bench.descriptor(bench.tx_address(index))[1:] == (STP | ENP, 0xF000 | -1514 & 0xFFF, 0)
    assert bench.csr(0) & (r.TINT | r.TDMD | r.ERR) == r.TINT
    assert bench.irq


@every_style
def test_chain(style):
    bench = started(style, tlen=3)
    data = out_frame(900)
    indices = bench.send(data[:1], data[1:400], b"", data[400:])
    assert bench.sent == [data]
    assert [bench.tx_status(i) for i in indices] == [STP, 0, 0, ENP]


@every_style
def test_many_frames_for_one_demand_round_and_round(style):
    bench = started(style, tlen=3)
    sizes = []
    for round_ in range(9):
        for _ in range(5):
            sizes.append(60 + len(sizes))
            bench.queue(out_frame(sizes[-1]))
        bench.demand()
        assert len(bench.sent) == 5 * (round_ + 1)
    assert [len(item) for item in bench.sent] == sizes


def test_descriptor_without_stp_is_given_back_unsent():
    bench = started(2)
    bench.write_descriptor(bench.tx_address(0), 0x80000, OWN | ENP, 60, 0)
    bench.tx_at = 1
    bench.send(out_frame(60))
    assert bench.tx_status(0) == ENP
    assert len(bench.sent) == 1
    assert bench.csr(r.CXDA) == bench.tx_address(2)


@every_style
@pytest.mark.parametrize("dxsuflo", [0, r.DXSUFLO])
def test_chain_without_end(style, dxsuflo):
    bench = started(style, tlen=3)
    bench.csr(3, dxsuflo)
    data = out_frame(300)
    bench.queue(data[:100], data[100:200], data[200:])
    bench.write_descriptor(bench.tx_address(2), 0, 0, 0, 0)  # not ours
    bench.demand()
    assert bench.sent == []
    assert bench.tx_status(0) == STP
    assert bench.tx_status(1) == ERR
    other = bench.descriptor(bench.tx_address(1))[3]
    assert (other if style == 0 else other >> 16) == r.T_BUFF | r.T_UFLO
    assert bench.csr(0) & r.TINT
    assert bool(bench.csr(0) & r.TXON) is bool(dxsuflo)
    bench.tx_at = 2
    bench.send(data)
    assert bench.sent == ([data] if dxsuflo else [])


def test_stale_error_bits_go():
    bench = started(2)
    bench.queue(out_frame(60), status=ERR | r.T_ONE | r.T_DEF)
    bench.memory.cells[bench.tx_address(0) + 8 : bench.tx_address(0) + 12] = b"\x0f\0\0\xff"
    bench.demand()
    assert bench.descriptor(bench.tx_address(0))[1:] == (STP | ENP, 0xF000 | -60 & 0xFFF, 0)


@pytest.mark.parametrize("offset", range(4))
@pytest.mark.parametrize("size", [60, 61, 62, 63, 1, 2, 3, 5])
def test_big_endian_buffers(offset, size):
    bench = started(2)
    bench.csr(3, r.BSWP)
    data = out_frame(60 + size)
    pieces = (data[:size], data[size:])
    bench.queue(*pieces)
    for index, piece in enumerate(pieces):
        where = TX_BUFFERS + index * 0x1000 + offset
        bench.write_descriptor(bench.tx_address(index), where, (OWN | STP, OWN | ENP)[index], len(piece), 0)
        for place, byte in enumerate(piece, where):
            bench.memory.cells[place ^ 3] = byte
    bench.demand()
    assert bench.sent == [data]


# -- padding and FCS ---------------------------------------------------------------------------------------


def test_padding():
    bench = started(2, csr4=0x0915)
    bench.send(out_frame(20))
    assert bench.sent == [out_frame(20) + bytes(40)]
    bench = started(2, csr4=0x0115)
    bench.send(out_frame(20))
    assert bench.sent == [out_frame(20)]


# style, mode DXMTFCS, CSR4, bit 29 in the first, bit 29 in the last descriptor -> FCS appended by the chip
FCS_CASES = [
    (2, 0, 0x0115, 0, 0, True),
    (2, r.DXMTFCS, 0x0115, 0, 0, False),
    (2, r.DXMTFCS, 0x0115, r.T_ADD_FCS, 0, True),
    (2, r.DXMTFCS, 0x0115, 0, r.T_ADD_FCS, False),  # valid with STP only
    (2, r.DXMTFCS, 0x0915, 0, 0, True),  # APAD_XMT overrides
    (0, r.DXMTFCS, 0x0115, r.T_ADD_FCS, 0, True),
    (0, r.DXMTFCS, 0x0115, 0, 0, False),
    (3, 0, 0x0115, 0, 0, True),
    (1, 0, 0x0115, 0, 0, True),
    (1, 0, 0x0115, 0, r.T_ADD_FCS, False),  # NO_FCS, valid with ENP only
    (1, 0, 0x0115, r.T_ADD_FCS, 0, True),
    (1, r.DXMTFCS, 0x0115, 0, 0, False),
    (1, 0, 0x0915, 0, r.T_ADD_FCS, True),
]


@pytest.mark.parametrize(("style", "mode", "csr4", "first", "last", "appended"), FCS_CASES)
def test_fcs(style, mode, csr4, first, last, appended):
    bench = started(style, mode=mode, csr4=csr4, tlen=3)
    data = out_frame(100)
    sent = data if appended else with_fcs(data)
    bench.send(sent[:50], sent[50:], first=first, last=last)
    assert bench.sent == [data]
    if not appended:
        bench.send(data[:50], data[50:], first=first, last=last)  # its last four bytes are no FCS
        assert bench.sent == [data]
        assert bench.card.counters == {"tx_bad_fcs": 1}
        assert bench.csr(0) & r.TINT


# -- interrupts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("csr5", "ltint", "tint"),
    [
        (0, 0, True),
        (r.TOKINTD, 0, False),
        (r.LTINTEN, 0, False),
        (r.LTINTEN, 1, True),
        (r.LTINTEN | r.TOKINTD, 1, True),
    ],
)
def test_transmit_interrupts(csr5, ltint, tint):
    bench = started(2)
    bench.csr(5, csr5)
    bench.send(out_frame(60), last=r.T_LTINT * ltint)
    assert bool(bench.csr(0) & r.TINT) is tint
    bench.card.set_link(False)  # an error always interrupts
    bench.send(out_frame(60))
    assert bench.csr(0) & r.TINT


def test_txstrt():
    bench = started(2, csr4=0x0800)
    bench.send(out_frame(60))
    assert bench.csr(4) & r.TXSTRT
    bench.csr(0, r.TINT | r.IENA)
    assert bench.irq
    bench.csr(4, 0x0800 | r.TXSTRT)
    assert not bench.irq


def test_txstrt_without_tint():
    bench = started(2, csr4=0x0800)
    bench.csr(5, r.TOKINTD)
    bench.send(out_frame(60))
    assert bench.irq and not bench.csr(0) & r.TINT


def test_babble():
    bench = started(2)
    bench.send(out_frame(1514))
    assert not bench.csr(0) & r.BABL
    bench.send(out_frame(1515))
    assert bench.csr(0) & (r.BABL | r.ERR) == r.BABL | r.ERR
    assert len(bench.sent[1]) == 1515


def test_limits_of_a_frame():
    bench = started(2, tlen=4, csr4=0x0115)
    bench.send(out_frame(4000), bytes(MAX_WIRE - 4000))
    bench.send(out_frame(4000), bytes(MAX_WIRE - 3999))
    bench.send(bytes(13))
    assert [len(item) for item in bench.sent] == [MAX_WIRE]
    assert bench.card.counters == {"tx_long": 1, "tx_short": 1}
    bench.send(*[bytes(4095)] * 7)
    assert JABBER_BYTES < 7 * 4095
    assert bench.csr(4) & r.JAB
    assert bench.card.counters["tx_jabber"] == 1
    bench.send(out_frame(60))
    assert len(bench.sent) == 2


@every_style
def test_no_link_is_lost_carrier(style):
    bench = started(style)
    bench.card.set_link(False)
    (index,) = bench.send(out_frame(60))
    assert bench.sent == []
    _, status, _, other = bench.descriptor(bench.tx_address(index))
    assert status == STP | ENP | ERR
    assert (other if style == 0 else other >> 16) == r.T_LCAR
    assert bench.csr(0) & (r.CERR | r.TINT | r.TXON) == r.CERR | r.TINT | r.TXON
    bench.card.set_link(True)
    bench.send(out_frame(60))
    assert len(bench.sent) == 1


# -- the wire does not take it -----------------------------------------------------------------------------


def test_busy_wire():
    bench = started(2, tlen=3)
    bench.accept = False
    bench.send(out_frame(60))
    bench.send(out_frame(61))
    assert bench.tx_status(0) & OWN and bench.tx_status(1) & OWN
    bench.tick(1_000_000_000)  # polls do not try again
    assert bench.tx_status(0) & OWN and bench.sent == []
    assert bench.receive(frame(60))  # the other direction goes on
    assert not bench.rx_status(0) & OWN
    bench.open_wire()
    assert [len(item) for item in bench.sent] == [60, 61]
    assert not bench.tx_status(0) & OWN and not bench.tx_status(1) & OWN
    assert bench.csr(0) & r.TINT


def test_stop_drops_what_the_wire_did_not_take():
    bench = started(2)
    bench.accept = False
    bench.send(out_frame(60))
    bench.csr(0, r.STOP)
    assert bench.card.counters == {"tx_stopped": 1}
    bench.open_wire()
    assert bench.sent == []


# -- polling and demand ------------------------------------------------------------------------------------


def test_poll_finds_a_frame_without_demand():
    bench = started(2)
    bench.queue(out_frame(60))
    bench.tick(1_900_000)
    assert bench.sent == []
    bench.tick(100_000)
    assert len(bench.sent) == 1


def test_dpoll_needs_demand():
    bench = started(2, csr4=0x0915 | r.DPOLL)
    bench.queue(out_frame(60))
    bench.tick(100_000_000)
    assert bench.sent == []
    bench.demand()
    assert len(bench.sent) == 1


def test_demand_without_transmitter_is_gone():
    bench = started(2, mode=r.DTX)
    bench.queue(out_frame(60))
    bench.demand()
    assert not bench.csr(0) & r.TDMD
    bench.tick(100_000_000)
    assert bench.sent == []
    bench = Bench()
    bench.csr(0, r.TDMD)
    assert bench.csr(0) == 4


# -- loopback ----------------------------------------------------------------------------------------------

INTERNAL = [(r.LOOP | r.INTL, 0), (r.LOOP | r.INTL | 0x0400, 0), (r.LOOP, r.TMAULOOP)]


@pytest.mark.parametrize(("mode", "bcr2"), INTERNAL)
@every_style
def test_internal_loopback(style, mode, bcr2):
    bench = Bench()
    bench.bcr(2, bcr2)
    bench.setup(style, mode=mode)
    bench.card.set_link(False)  # it needs none
    data = frame(75, source=MAC)
    (index,) = bench.send(data)
    assert bench.sent == []
    assert bench.tx_status(index) == STP | ENP
    assert bench.rx_status(0) & ~0x70 == STP | ENP
    assert bench.received(0, 79) == with_fcs(data)
    assert bench.csr(0) & (r.RINT | r.TINT) == r.RINT | r.TINT
    assert bench.receive(frame(60))  # the wire is not connected
    assert bench.rx_status(1) & OWN


def test_external_loopback_is_on_the_wire_too():
    bench = started(2, mode=r.LOOP)
    data = frame(75, source=MAC)
    bench.send(data)
    assert bench.sent == [data]
    assert bench.received(0, 79) == with_fcs(data)
    assert bench.receive(frame(61))
    assert bench.mcnt(1) == 65
    bench.card.set_link(False)
    (index,) = bench.send(data)
    assert bench.tx_status(index) & ERR
    assert bench.rx_status(2) & OWN


def test_loopback_fcs_variants():
    data = frame(75, source=MAC)
    bench = started(2, mode=r.LOOP | r.INTL | r.DXMTFCS, csr4=0x0115)
    bench.send(with_fcs(data))
    assert bench.rx_status(0) == STP | ENP | r.R_PAM
    assert bench.mcnt(0) == 79 and bench.received(0, 79) == with_fcs(data)
    bench.send(data)  # the last four bytes are no FCS: the receiver sees it
    assert bench.rx_status(1) == STP | ENP | r.R_PAM | ERR | r.R_CRC
    assert bench.mcnt(1) == 75
    bench.send(data, first=r.T_ADD_FCS)
    assert bench.rx_status(2) == STP | ENP | r.R_PAM
    assert bench.mcnt(2) == 79


def test_loopback_filters_and_accepts_runts():
    bench = started(2, mode=r.LOOP | r.INTL, csr4=0x0115)
    bench.send(frame(75, to=PEER))
    assert bench.rx_status(0) & OWN
    bench.send(frame(20, to=BROADCAST))
    assert bench.mcnt(0) == 24
    assert bench.rx_status(0) == STP | ENP | r.R_BAM


def test_loopback_pads_as_in_normal_operation():
    bench = started(2, mode=r.LOOP | r.INTL)
    bench.send(frame(20))
    assert bench.received(0, 64) == with_fcs(frame(20) + bytes(40))


def test_loopback_without_receive_descriptor_is_missed_not_held():
    bench = started(2, mode=r.LOOP | r.INTL, tlen=3)
    for _ in range(6):
        bench.queue(frame(60))
    bench.demand()
    assert [bench.rx_status(n) & OWN for n in range(4)] == [0] * 4
    assert bench.csr(r.MFC) == 2
    assert bench.csr(0) & r.MISS


def test_loopback_of_more_than_a_receiver_takes():
    bench = started(2, mode=r.LOOP | r.INTL, tlen=3)
    bench.send(frame(4000), bytes(MAX_IMAGE - 4 - 3999))
    assert bench.rx_status(0) & OWN
    assert bench.card.counters == {"rx_bad": 1}


def test_forced_collision():
    bench = started(2, mode=r.LOOP | r.INTL | r.FCOLL)
    (index,) = bench.send(frame(60))
    _, status, _, other = bench.descriptor(bench.tx_address(index))
    assert status == STP | ENP | ERR and other == r.T_RTRY << 16
    assert bench.rx_status(0) & OWN
