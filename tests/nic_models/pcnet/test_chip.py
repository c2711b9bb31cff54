"""Registers of the Am79C970A: reset values, write rules, interrupts, link."""

import pytest

from nic_models.parts.mii import BMCR, BMSR, BMSR_LINK
from nic_models.pcnet import registers as r
from nic_models.pcnet.chip import POLL_MIN_NS, POLL_STRETCH, address_prom
from tests.nic_models.pcnet_kit import BROADCAST, MAC, RX_RING, TX_RING, Bench, frame, started

# Am79C970A data sheet, "Control and Status Registers" and "Bus Configuration Registers": after H_RESET
H_RESET_CSR = {
    0: 0x0004, 3: 0x0000, 4: 0x0115, 5: 0x0000, 47: 0x0000, 58: 0x0200, 80: 0x1410, 88: 0x1003, 89: 0x0262,
    100: 0x0200, 112: 0x0000, 114: 0x0000, 122: 0x0000, 124: 0x0000,
}  # fmt: skip
H_RESET_BCR = {
    0: 0x0005, 1: 0x0005, 2: 0x0002, 4: 0x80C0, 5: 0x0084, 6: 0x0088, 7: 0x0090, 9: 0x0000, 16: 0, 17: 0,
    18: 0x9001, 19: 0x0002, 20: 0x0200, 21: 0x0000, 22: 0xFF06,
}  # fmt: skip
PADR = [0x5452, 0x1200, 0x5634]


@pytest.mark.parametrize(("index", "value"), H_RESET_CSR.items())
def test_csr_after_h_reset(index, value):
    assert Bench().csr(index) == value


@pytest.mark.parametrize(("index", "value"), H_RESET_BCR.items())
def test_bcr_after_h_reset(index, value):
    assert Bench().bcr(index) == value


def test_h_reset_undoes_everything():
    fresh = Bench()
    bench = started(2)
    bench.bcr(r.LED1, 0x0001)
    bench.bcr(r.MC, 0x0100)
    bench.out(0x10, 0, 4)
    bench.card.reset()
    state, clean = bench.card.snapshot(), fresh.card.snapshot()
    for item in (state, clean):
        item.pop("counters")
        item.pop("poll_at")
    assert state == clean
    assert [bench.csr(12 + n) for n in range(3)] == PADR


def test_s_reset_keeps_what_the_data_sheet_says():
    bench = started(2)
    bench.csr(5, r.SPND)
    bench.csr(15, 0xFFFF)
    bench.csr(8, 0x1234)
    bench.csr(r.POLLINT, 0x8000)
    bench.csr(r.RCVRL, 0xFFF0)
    bench.bcr(r.LED1, 0x0001)
    bench.out(r.WIO_RAP, 15)
    assert bench.inp(r.WIO_RESET) == 0
    assert bench.inp(r.WIO_RAP) == 0
    assert bench.csr(0) == 0x0004
    assert bench.csr(4) == 0x0115
    assert bench.csr(5) == 0
    assert bench.csr(15) == r.MODE_KEPT
    assert bench.csr(8) == 0x1234
    assert bench.csr(r.POLLINT) == 0
    assert bench.csr(r.RCVRL) == 0xFFF0
    assert bench.bcr(r.LED1) == 0x0001
    assert bench.bcr(r.SWS) == 0x0302


def test_stop_ends_everything_and_strt_begins_at_the_bases():
    bench = started(2)
    bench.send(frame(60))
    bench.csr(4, bench.csr(4) | r.UINTCMD)
    assert bench.irq
    bench.csr(0, r.STOP | r.STRT | r.INIT | r.IENA)
    assert bench.csr(0) == 0x0004
    assert not bench.irq
    assert bench.csr(4) & r.CSR4_STOP_CLEARS == 0
    assert bench.csr(r.CXDA) | bench.csr(r.CXDA + 1) << 16 == TX_RING + 16
    bench.csr(0, r.STRT)  # without INIT
    assert bench.csr(0) & (r.TXON | r.RXON | r.STOP) == r.TXON | r.RXON
    assert bench.csr(r.CXDA) | bench.csr(r.CXDA + 1) << 16 == TX_RING
    assert bench.csr(r.CRDA) | bench.csr(r.CRDA + 1) << 16 == RX_RING
    bench.tx_at = 0
    bench.send(frame(61))
    assert len(bench.sent) == 2


@pytest.mark.parametrize("style", range(4))
@pytest.mark.parametrize("done", range(1, 6))
def test_9front_stops_and_starts_without_init(style, done):
    """STOP, its rings set up anew from their first descriptors, STRT: both ways begin there."""
    bench = started(style)
    for _ in range(done):
        bench.send(frame(60))
        bench.receive(frame(60))
        bench.give(bench.rx_at)
        bench.rx_at = (bench.rx_at + 1) % bench.rx_count
    bench.csr(0, r.STOP)
    for index in range(bench.rx_count):
        bench.give(index)
    for index in range(bench.tx_count):
        bench.write_descriptor(bench.tx_address(index), 0, 0, 0, 0)
    bench.tx_at = 0
    bench.csr(0, r.STRT | r.IENA)
    for index in range(3):
        bench.send(frame(61 + index))
        assert bench.sent[-1] == frame(61 + index)
        bench.receive(frame(71 + index))
        assert bench.mcnt(index) == 75 + index


@pytest.mark.parametrize("how", ["S_RESET", "bus fault"])
def test_every_other_stop_begins_at_the_bases_too(how):
    bench = started(2)
    bench.send(frame(60))
    if how == "S_RESET":
        bench.inp(r.WIO_RESET)
        bench.bcr(20, 2)
    else:
        bench.card.bus_fault()
    bench.csr(0, r.STRT)
    assert bench.card.rings.tx.index == 0


def test_spnd_keeps_the_positions():
    bench = started(2)
    bench.send(frame(60))
    bench.receive(frame(60))
    bench.csr(5, r.SPND)
    assert bench.csr(5) & r.SPND
    bench.csr(0, r.STRT | r.IENA)
    bench.csr(5, 0)
    bench.send(frame(61))
    bench.receive(frame(61))
    assert bench.mcnt(1) == 65
    assert len(bench.sent) == 2


def test_the_filter_may_be_set_between_init_and_strt():
    """MINIX: INIT, IDON, then CSR8-11 and CSR15, then STRT."""
    bench = Bench()
    bench.setup(2, start=r.INIT)
    assert bench.csr(0) & (r.IDON | r.STOP | r.STRT) == r.IDON
    for index in range(8, 12):
        bench.csr(index, 0xFFFF)
    bench.csr(15, r.DRCVBC)
    for index in (1, 24, 76, 100):
        before = bench.csr(index)
        bench.csr(index, before ^ 0xFFFC)
        assert bench.csr(index) == before  # the others stay shut
    bench.csr(0, r.STRT | r.IDON | r.IENA)
    group = bytes.fromhex("01005e000001")
    bench.receive(frame(60, to=group))
    assert bench.mcnt(0) == 64
    bench.csr(8, 0)
    assert bench.csr(8) == 0xFFFF  # STRT shuts them
    assert bench.card.rx_filter().hash == (1 << 64) - 1


@pytest.mark.parametrize(
    ("index", "mask"),
    [(3, 0x5F7C), (82, 0xFFFF), (122, 1), (124, 0x18)],
)
def test_csr_writable_always(index, mask):
    bench = started(2)
    bench.csr(index, 0xFFFF)
    assert bench.csr(index) == mask
    bench.csr(index, 0)
    assert bench.csr(index) == 0


@pytest.mark.parametrize("index", [1, 2, *range(8, 16), 24, 25, 30, 31, 47, 76, 78, 84, 86, 92, 100])
def test_csr_writable_when_stopped_or_suspended(index):
    bench = started(2, mode=0)
    before = bench.csr(index)
    bench.csr(index, 0xA5A4)
    assert bench.csr(index) == before
    bench.csr(5, r.SPND)
    bench.csr(index, 0xA5A4)
    assert bench.csr(index) == 0xA5A4
    bench.csr(index, before)
    bench.csr(0, r.STOP)
    bench.csr(index, 0x5A58)
    assert bench.csr(index) == 0x5A58


@pytest.mark.parametrize("index", [6, 7, 88, 89, 112, 114])
def test_csr_read_only(index):
    bench = Bench()
    before = bench.csr(index)
    bench.csr(index, before ^ 0xFFFF)
    assert bench.csr(index) == before


def test_aliases():
    bench = Bench()
    bench.csr(16, 0x1230)
    bench.csr(17, 0x4567)
    assert (bench.csr(1), bench.csr(2), bench.csr(16), bench.csr(17)) == (0x1230, 0x4567, 0x1230, 0x4567)
    bench.csr(58, 3)
    assert bench.bcr(20) == bench.csr(58) == 0x0303


@pytest.mark.parametrize(
    ("written", "read"),
    [(0, 0x0200), (1, 0x0101), (2, 0x0302), (3, 0x0303), (4, 0x0200), (0xFF, 0x0200), (0x0402, 0x0702)],
)
def test_software_style(written, read):
    bench = Bench()
    bench.bcr(20, written)
    assert bench.bcr(20) == read


def test_software_style_is_fixed_while_running():
    bench = started(2)
    bench.bcr(20, 0)
    assert bench.bcr(20) == 0x0302


@pytest.mark.parametrize(
    ("index", "mask", "rest"),
    [
        (2, 0x418F, 0), (5, 0x63FF, 0), (6, 0x63FF, 0), (9, 7, 0), (18, 0xF360, 1), (19, 0x17, 0), (0, 0, 5),
        (1, 0, 5), (16, 0, 0), (21, 0, 0), (25, 0, 0), (40, 0, 0), (200, 0, 0),
    ],
)  # fmt: skip
def test_bcr_masks(index, mask, rest):
    bench = Bench()
    bench.bcr(index, 0xFFFF)
    assert bench.bcr(index) & ~r.LEDOUT == mask & ~r.LEDOUT | rest
    if index == 18:
        assert bench.bcr(index) == 0xF361


def test_latency_register_is_the_configuration_space():
    bench = Bench()
    bench.bcr(22, 0x1807)
    assert bench.function.config_read(0x3E, 2) == 0x1807
    bench.card.reset()
    assert bench.function.config_read(0x3E, 2) == 0xFF06


def test_dword_mode():
    bench = Bench()
    assert bench.inp(0x10, 4) == 0xFFFFFFFF
    bench.out(0x14, 88, 4)  # no DWord register before the switch
    bench.out(0x10, 0, 4)
    assert bench.card.bcr[18] & r.DWIO
    bench.out(0x14, 88, 4)
    assert bench.inp(0x14, 4) == 88
    assert bench.inp(0x10, 4) == 0x02621003
    assert bench.inp(0x12) == 0xFFFF
    bench.out(0x12, 3)
    assert bench.inp(0x14, 4) == 88
    bench.out(0x14, 2, 4)
    bench.out(0x1C, 0x0102, 4)
    assert bench.inp(0x1C, 4) == 0x0102
    assert bench.inp(0x18, 4) == 0  # S_RESET: the mode stays
    assert bench.inp(0x14, 4) == 0
    assert bench.card.bcr[18] & r.DWIO
    bench.card.reset()
    assert not bench.card.bcr[18] & r.DWIO


def test_dword_write_goes_to_rdp():
    bench = Bench()
    bench.out(r.WIO_RAP, 3)
    bench.out(0x10, 0x0040, 4)
    assert bench.csr(3) == 0x0040


@pytest.mark.parametrize(
    ("offset", "size"),
    [(offset, 1) for offset in range(0x10, 0x20)]
    + [(offset, 4) for offset in (0x12, 0x14, 0x16, 0x18, 0x1C)],
)
def test_other_widths_do_nothing_in_word_mode(offset, size):
    bench = started(2)
    before = bench.card.snapshot()
    bench.out(offset, 0x04040404 & (1 << 8 * size) - 1, size)
    assert bench.inp(offset, size) == (1 << 8 * size) - 1
    assert bench.card.snapshot() == before


def test_address_prom():
    prom = address_prom(MAC)
    assert prom[:6] == MAC and prom[9] == 0x11 and prom[14:] == b"WW"
    assert int.from_bytes(prom[12:14], "little") == sum(prom[:12]) + sum(prom[14:])
    bench = Bench()
    assert bytes(bench.inp(n, 1) for n in range(16)) == prom
    assert bench.inp(14) == 0x5757
    assert bench.inp(0, 4).to_bytes(4, "little") == MAC[:4]
    bench.out(0, 0xAA, 1)
    assert bench.inp(0, 1) == MAC[0]
    bench.bcr(2, r.APROMWE)
    bench.out(0, 0xAA, 1)
    bench.out(2, 0xBBCC)
    bench.out(15, 0x1122, 2)
    assert bench.card.aprom[:4] == b"\xaa" + MAC[1:2] + b"\xcc\xbb"
    assert bench.card.aprom[15] == 0x22


def test_bad_station_address():
    with pytest.raises(ValueError, match="station"):
        from nic_models.pcnet.pci import PcnetPci

        PcnetPci(BROADCAST, lambda *_: True, lambda: None, lambda _: None, lambda: 0)


# -- interrupts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", [r.BABL, r.MISS, r.MERR, r.RINT, r.TINT, r.IDON])
def test_csr0_sources(bit):
    bench = started(2)
    bench.card.csr[0] |= bit
    bench.card.update_irq()
    assert bench.irq and bench.csr(0) & r.INTR
    bench.csr(3, bit)  # mask
    assert not bench.irq and not bench.csr(0) & r.INTR
    bench.csr(3, 0)
    bench.csr(0, 0)  # IENA off: INTR stays, the pin does not
    assert not bench.irq and bench.csr(0) & r.INTR
    bench.csr(0, bit | r.IENA)  # acknowledge
    assert not bench.irq and not bench.csr(0) & (bit | r.INTR)


def test_cerr_is_an_error_without_interrupt():
    bench = started(2)
    bench.card.csr[0] |= r.CERR
    bench.card.update_irq()
    assert bench.csr(0) & (r.ERR | r.CERR) == r.ERR | r.CERR
    assert not bench.irq
    bench.csr(0, r.CERR | r.IENA)
    assert not bench.csr(0) & (r.ERR | r.CERR)


@pytest.mark.parametrize("bit", [r.MFCO, r.RCVCCO, r.TXSTRT, r.JAB])
def test_csr4_sources(bit):
    bench = started(2)
    bench.csr(4, 0x0800)  # masks off
    bench.card.csr[4] |= bit
    bench.card.update_irq()
    assert bench.irq
    bench.csr(4, bit >> 1)  # set the mask, write nothing to the status
    assert not bench.irq and bench.csr(4) & bit
    bench.csr(4, bit)
    assert not bench.csr(4) & bit


def test_user_interrupt():
    bench = started(2)
    bench.csr(4, 0x0115 | r.UINTCMD)
    assert bench.irq
    assert bench.csr(4) & (r.UINT | r.UINTCMD) == r.UINT
    bench.csr(4, 0x0115 | r.UINT)
    assert not bench.irq and not bench.csr(4) & r.UINT


@pytest.mark.parametrize(
    ("bit", "needs_iena"), [(r.EXDINT, True), (r.MPINT, True), (r.SINT, False), (r.SLPINT, False)]
)
def test_csr5_sources(bit, needs_iena):
    bench = started(2)
    bench.card.csr[5] |= bit
    bench.card.update_irq()
    assert not bench.irq  # not enabled
    bench.csr(5, bit >> 1)
    assert bench.irq
    bench.csr(0, 0)
    assert bench.irq is not needs_iena
    bench.csr(5, bit)
    assert not bench.irq and not bench.csr(5) & bit


def test_missed_frame_counter_wraps_with_an_interrupt():
    bench = started(2)
    bench.csr(r.MFC, 0)
    assert bench.csr(r.MFC) == 0  # not in test mode
    bench.csr(4, r.ENTST)
    for _ in range(3):
        bench.csr(r.MFC, 0xFFFF)
        bench.csr(r.RCC, 0)
    assert bench.csr(r.MFC) == bench.csr(r.RCC) == 3
    bench.card.csr[r.MFC] = bench.card.csr[r.RCC] = 0xFFFF
    bench.csr(r.MFC, 0)
    assert bench.csr(r.MFC) == 0 and bench.csr(4) & r.MFCO and bench.irq
    bench.csr(4, r.ENTST | r.MFCO)
    assert not bench.irq
    bench.csr(r.RCC, 0)
    assert bench.csr(4) & r.RCVCCO and bench.irq
    bench.csr(0, r.STOP)
    assert bench.csr(4) & r.RCVCCO == 0


# -- link --------------------------------------------------------------------------------------------------


def test_link_as_pcnet32_reads_it():
    bench = Bench()
    assert bench.bcr(4) != 0xC0
    bench.card.set_link(False)
    assert bench.bcr(4) == 0xC0
    bench.bcr(5, 0x0040)
    assert bench.bcr(5) == 0x0040
    bench.card.set_link(True)
    assert bench.bcr(4) == 0x80C0 and bench.bcr(5) == 0x8040
    assert bench.bcr(6) == 0x0088  # activity, not link


def test_full_duplex_link_led():
    bench = Bench()
    bench.bcr(7, r.LED_FDLS)
    assert bench.bcr(7) == r.LED_FDLS
    bench.bcr(9, r.FDEN)
    assert bench.bcr(7) == r.LED_FDLS | r.LEDOUT


def test_dlnktst_forces_link_pass():
    bench = Bench()
    bench.card.set_link(False)
    bench.csr(15, r.DLNKTST)
    assert bench.bcr(4) == 0x80C0


def test_phy_behind_bcr34():
    bench = Bench()
    address = bench.bcr(33) >> 5
    bench.bcr(33, address << 5 | BMSR)
    assert bench.bcr(34) & BMSR_LINK
    bench.card.set_link(False)
    assert not bench.bcr(34) & BMSR_LINK
    bench.card.set_link(True)
    bench.bcr(34)
    assert bench.bcr(34) & BMSR_LINK
    bench.bcr(33, address << 5 | BMCR)
    bench.bcr(34, 0x9000)
    assert bench.card.next_deadline() is not None  # negotiating
    bench.tick(1_000_000_000)
    bench.bcr(33, address << 5 | BMSR)
    bench.bcr(34)
    assert bench.bcr(34) & BMSR_LINK
    bench.bcr(33, 7 << 5 | BMSR)
    assert bench.bcr(34) == 0xFFFF


# -- timers ------------------------------------------------------------------------------------------------


def test_poll_interval():
    bench = started(2, csr4=0x0115)
    start = bench.clock
    assert bench.card.next_deadline() == start + 65536 * 1000 // 33
    bench.csr(0, r.STOP)
    assert bench.card.next_deadline() is None
    bench.csr(r.POLLINT, 0x8000)
    bench.csr(0, r.STRT)
    assert bench.card.next_deadline() == start + 32768 * 1000 // 33
    bench.csr(0, r.STOP)
    bench.csr(r.POLLINT, 0xFFFF)
    bench.csr(0, r.STRT)
    assert bench.card.next_deadline() == start + POLL_MIN_NS


def test_poll_timer_relaxes_for_a_driver_that_demands():
    bench = started(2)
    bench.send(frame(60))
    bench.tick(3_000_000)
    due = bench.card.next_deadline()
    assert due is not None and due - bench.clock > 2_000_000 * (POLL_STRETCH - 2)


def test_no_poll_with_dpoll_or_when_suspended():
    bench = started(2, csr4=0x0915 | r.DPOLL)
    assert bench.card.next_deadline() is None
    bench = started(2)
    bench.csr(5, r.SPND)
    assert bench.card.next_deadline() is None


def test_poll_counter_counts():
    bench = started(2)
    bench.csr(r.POLL)
    first = bench.csr(r.POLL)
    bench.clock += 100_000
    assert bench.csr(r.POLL) - first == 3300


def test_current_pointers():
    bench = started(2, rlen=3, tlen=1)
    assert [bench.csr(n) for n in (r.RCVRL, r.XMTRL, 72, 74)] == [0xFFF8, 0xFFFE, 0xFFF8, 0xFFFE]
    assert bench.csr(6) == 1 << 12 | 3 << 8
    assert bench.csr(r.BADR) == RX_RING and bench.csr(r.BADX) == TX_RING
    bench.receive(frame(60))
    bench.send(frame(60))
    names = (r.CRDA, r.NRDA, r.NNRD, r.CXDA, r.NXDA, r.NNXD)
    steps = [(bench.csr(n) | bench.csr(n + 1) << 16) for n in names]
    assert steps == [RX_RING + 16, RX_RING + 32, RX_RING + 48, TX_RING + 16, TX_RING, TX_RING + 16]
    assert bench.csr(72) == 0xFFF9
    assert bench.csr(74) == 0  # the last
    bench.csr(5, r.SPND)
    bench.csr(72, 0)
    assert bench.csr(r.CRDA) == RX_RING + 7 * 16
    bench.csr(74, 0xFFFE)
    assert bench.csr(r.CXDA) == TX_RING
