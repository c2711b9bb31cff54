"""RTL8139: reset values, access widths, command register, interrupts, reset, timer, tally dump, snapshots."""

from __future__ import annotations

import json
from struct import unpack

import pytest

from nic_models.models import MODELS, pci_function
from nic_models.rtl8139 import registers as r
from nic_models.rtl8139.chip import Rtl8139
from nic_models.rtl8139.cplus import HOLD_NS
from tests.nic_models.rtl8139_kit import BROADCAST, GROUP, MAC, TX_RING, Kit, frame_to

RESET = [
    (r.IDR0, 4, 0x12005452),
    (r.IDR0 + 4, 2, 0x5634),
    (r.MAR0, 4, 0),
    (r.MAR0 + 4, 4, 0),
    (r.TSD0, 4, 0x2000),
    (r.TSD0 + 12, 4, 0x2000),
    (r.TSAD0, 4, 0),
    (r.RBSTART, 4, 0),
    (r.ERBCR, 2, 0),
    (r.ERSR, 1, 0),
    (r.CR, 1, 0x01),
    (r.CAPR, 2, 0xFFF0),
    (r.CBR, 2, 0),
    (r.IMR, 2, 0),
    (r.ISR, 2, 0),
    (r.TCR, 4, 0x74800000),
    (r.RCR, 4, 0),
    (r.MPC, 4, 0),
    (r.CR9346, 1, 0),
    (r.CONFIG0, 1, 0),
    (r.CONFIG1, 1, 0x0C),
    (r.TIMERINT, 4, 0),
    (r.MSR, 1, 0xD0),
    (r.CONFIG3, 1, 0x01),
    (r.CONFIG4, 1, 0),
    (r.MULINT, 2, 0),
    (r.RERID, 1, 0x20),
    (r.TSAD, 2, 0x000F),
    (r.BMCR, 2, 0x1000),
    (r.BMSR, 2, 0x782D),
    (r.ANAR, 2, 0x05E1),
    (r.ANLPAR, 2, 0x45E1),
    (r.ANER, 2, 0x0001),
    (r.DIS, 2, 0),
    (r.CSCR, 2, 0x03C8),
    (r.CONFIG5, 1, 0),
    (r.TPPOLL, 1, 0),
    (r.CPCR, 2, 0),
    (r.RDSAR, 4, 0),
    (r.ETTHR, 1, 0),
]


@pytest.mark.parametrize("reset", ["power-on", "RST#", "CR.RST", "auto-load"])
@pytest.mark.parametrize(("offset", "size", "value"), RESET, ids=lambda v: f"{v:x}")
def test_reset_values(reset, offset, size, value):
    kit = Kit()
    if reset == "RST#":
        kit.card.reset()
    elif reset == "CR.RST":
        kit.start(rcr=0xF8F).write(r.CR, 1, r.CR_RST)
    elif reset == "auto-load":
        kit.start(rcr=0xF8F).write(r.CR9346, 1, 0x40)
    assert kit.read(offset, size) == value


def test_the_plain_c_has_no_cplus_registers():
    kit = Kit(0x10)
    assert kit.read(r.TCR, 4) == 0x74000000
    assert kit.read(r.RERID, 1) == 0x10
    kit.write(r.CPCR, 2, 0x7B)
    kit.write(r.RDSAR, 4, 0x1000)
    kit.write(r.ETTHR, 1, 6)
    kit.write(r.TPPOLL, 1, 0xFF)
    assert [kit.read(offset, 4) for offset in (r.CPCR, r.RDSAR, r.ETTHR, 0xD8)] == [0, 0, 0, 0]
    kit.write(r.IMR, 2, 0xFFFF)
    assert kit.read(r.IMR, 2) == 0xE07F


@pytest.mark.parametrize(
    ("offset", "size", "written", "read"),
    [
        (r.IMR, 2, 0xFFFF, 0xE1FF),
        (r.RCR, 4, 0xFFFFFFFF, 0x0F03FFBF),
        (r.MULINT, 2, 0xFFFF, 0x0FFF),
        (r.RBSTART, 4, 0x12345678, 0x12345678),
        (r.TSAD0 + 8, 4, 0x12345678, 0x12345678),
        (r.MAR0, 4, 0xFFFFFFFF, 0xFFFFFFFF),
        (r.CBR, 2, 0x1234, 0),
        (r.TCR, 4, 0xFFFFFFFF, 0x74800000),  # only with TE
        (r.CONFIG1, 1, 0xFF, 0x0C),  # locked
        (r.CONFIG5, 1, 0xFF, 0x7F),  # never locked
        (r.CPCR, 2, 0xFFFC, 0x0078),
        (r.RDSAR + 4, 4, 0x11, 0x11),
        (r.RDSAR, 4, 0xFFFFFFFF, 0xFFFFFF00),
        (r.CSCR, 2, 0x0000, 0x0008),
        (r.PHY1_PARM, 4, 0x12345678, 0x12345678),
        (r.WAKEUP, 4, 0x12345678, 0x12345678),
        (r.MPC, 4, 5, 0),
        (r.BMSR, 2, 0, 0x782D),
        (0xF0, 4, 0xFFFFFFFF, 0),
    ],
)
def test_writable_bits(offset, size, written, read):
    kit = Kit()
    kit.write(offset, size, written)
    assert kit.read(offset, size) == read


def test_tcr_needs_the_transmitter():
    kit = Kit()
    kit.write(r.CR, 1, r.CR_TE)
    kit.write(r.TCR, 4, 0xFFFFFFFF)
    assert kit.read(r.TCR, 4) == 0x74800000 | 0x030707F0
    kit.write(r.TCR, 1, 0)
    assert kit.read(r.TCR, 4) == 0x74800000 | 0x03070700


def test_both_windows_are_the_same_registers():
    kit = Kit()
    kit.write(r.RBSTART, 4, 0x11223344)
    assert kit.peek(kit.memory + r.RBSTART, 4) == bytes.fromhex("44332211")
    kit.poke(kit.memory + r.IMR, bytes.fromhex("0500"))
    assert kit.read(r.IMR, 2) == 5


def test_bytes_of_wider_registers():
    kit = Kit()
    kit.write(r.IDR0 + 2, 1, 0x99)
    assert [kit.read(r.IDR0 + n, 1) for n in range(8)] == [0x52, 0x54, 0x99, 0x12, 0x34, 0x56, 0, 0]
    kit.write(r.RCR, 1, 0x0F)
    kit.write(r.RCR + 1, 1, 0x08)
    assert kit.read(r.RCR, 4) == 0x080F
    kit.write(r.IMR + 1, 1, 0x80)
    assert kit.read(r.IMR, 4) == 0x8000
    assert kit.read(r.TCR + 3, 1) == 0x74
    assert kit.read(0x34, 4) == 0x01000000


def test_a_write_to_imr_and_isr_at_once():
    kit = Kit().start(imr=0)
    kit.card.interrupt(0x0007)
    kit.write(r.IMR, 4, 0x0003_00FF)
    assert kit.read(r.IMR, 4) == 0x0004_00FF


def test_block_access():
    kit = Kit()
    assert kit.machine.io_read_block(kit.base + r.IDR0, 4, 2) == MAC[:4] * 2
    kit.machine.io_write_block(kit.base + r.RBSTART, 4, bytes.fromhex("1111111122222222"))
    assert kit.read(r.RBSTART, 4) == 0x22222222


def test_interrupt_line_follows_mask_and_status():
    kit = Kit().start(imr=0)
    kit.card.interrupt(r.INT_TOK)
    assert not kit.irq
    kit.write(r.IMR, 2, r.INT_TOK)
    assert kit.irq
    kit.write(r.ISR, 2, r.INT_ROK)
    assert kit.irq
    kit.write(r.ISR, 1, r.INT_TOK)
    assert not kit.irq and kit.read(r.ISR, 2) == 0
    assert kit.irqs == [True, False]


def test_software_reset_keeps_addresses_and_configuration():
    kit = Kit().start(imr=0xFFFF)
    kit.write(r.IDR0, 4, 0x01020304)
    kit.write(r.MAR0, 4, 0x55AA55AA)
    kit.write(r.CR9346, 1, 0xC0)
    kit.write(r.CONFIG1, 1, 0x2C)
    kit.write(r.BMCR, 2, 0x2100)
    kit.write(r.CR9346, 1, 0)
    kit.receive(frame_to(BROADCAST))
    assert kit.irq
    kit.write(r.CR, 1, r.CR_RST)
    assert not kit.irq
    assert kit.read(r.IDR0, 4) == 0x01020304
    assert kit.read(r.MAR0, 4) == 0x55AA55AA
    assert kit.read(r.CONFIG1, 1) == 0x2C
    assert kit.read(r.BMCR, 2) == 0x2100
    assert [kit.read(o, 2) for o in (r.IMR, r.ISR, r.CBR, r.RCR)] == [0, 0, 0, 0]
    assert kit.read(r.CR, 1) == r.CR_BUFE


def test_reset_bit_reads_back_clear_with_the_rest_of_the_write():
    kit = Kit()
    kit.write(r.CR, 1, 0xFF)
    assert kit.read(r.CR, 1) == r.CR_RE | r.CR_TE | r.CR_BUFE


# timer


def test_timer_counts_pci_clocks():
    kit = Kit()
    kit.wait(1_000_000_000)
    assert kit.read(r.TCTR, 4) == 33_333_333
    kit.write(r.TCTR, 4, 12345)
    assert kit.read(r.TCTR, 4) == 0
    kit.wait(129_000_000_000)
    assert kit.read(r.TCTR, 4) == (129_000_000_000 // 30) & 0xFFFFFFFF


def test_timer_interrupt():
    kit = Kit().start(imr=r.INT_TIMEOUT)
    kit.write(r.TCTR, 4, 0)
    kit.write(r.TIMERINT, 4, 1000)
    assert kit.machine.next_deadline() == kit.time + 30_000
    kit.wait(29_999)
    assert not kit.irq
    kit.wait(1)
    assert kit.irq and kit.read(r.ISR, 2) == r.INT_TIMEOUT
    kit.write(r.ISR, 2, r.INT_TIMEOUT)
    assert not kit.irq
    kit.wait((30 << 32) - 1)
    assert not kit.irq
    kit.wait(1)
    assert kit.irq


def test_timer_expiry_shows_without_the_owner():
    kit = Kit().start(imr=r.INT_TIMEOUT)
    kit.write(r.TIMERINT, 4, 100)
    kit.time += 3000
    assert kit.read(r.ISR, 2) == r.INT_TIMEOUT
    assert kit.irq


def test_timer_int_behind_the_counter_waits_for_the_wrap():
    kit = Kit()
    kit.write(r.TCTR, 4, 0)
    kit.wait(3000)
    kit.write(r.TIMERINT, 4, 100)
    assert kit.card.next_deadline() == (30 << 32) + 3000
    kit.write(r.TIMERINT, 4, 101)
    assert kit.card.next_deadline() == 3030
    kit.write(r.TIMERINT, 4, 0)
    assert kit.card.next_deadline() is None


# tally counters

TALLY = "<QQQIHHIIQQIHH"


def test_tally_dump():
    kit = Kit().start_cplus(rcr=r.RCR_APM | r.RCR_AB | r.RCR_AM)
    kit.write(r.MAR0, 4, 0xFFFFFFFF)
    kit.write(r.MAR0 + 4, 4, 0xFFFFFFFF)
    for destination in (MAC, MAC, MAC, BROADCAST, BROADCAST, GROUP):
        kit.receive(frame_to(destination))
    kit.put(frame_to(BROADCAST))
    kit.put(frame_to(BROADCAST))
    kit.write(r.DTCCR + 4, 4, 0)
    kit.write(r.DTCCR, 4, 0x30000 | 0x08)
    assert kit.read(r.DTCCR, 4) == 0x30000
    counters = unpack(TALLY, kit.peek(0x30000, 64))
    assert counters == (2, 6, 0, 0, 0, 0, 0, 0, 3, 2, 1, 0, 0)


def test_tally_counts_misses_and_is_cleared_by_reset():
    kit = Kit().start_cplus(rx=1)
    kit.receive(frame_to())
    kit.receive(frame_to())
    kit.wait(HOLD_NS)
    kit.write(r.DTCCR, 4, 0x30000 | 0x08)
    assert unpack(TALLY, kit.peek(0x30000, 64))[1:5] == (1, 0, 1, 1)
    kit.start_cplus()
    kit.write(r.DTCCR, 4, 0x30000 | 0x08)
    assert kit.peek(0x30000, 64) == bytes(64)


# models, options


def test_model_table():
    entry = MODELS["rtl8139"]
    assert (entry.bus, entry.identity.vendor, entry.identity.device) == ("pci", 0x10EC, 0x8139)
    assert "0x10" in entry.title


def test_unknown_revision():
    with pytest.raises(ValueError, match=r"rev=0x11: rtl8139 has revision 0x20, 0x10"):
        pci_function("rtl8139", MAC, lambda f, v=b"": True, lambda: None, lambda: 0, 0x11)
    with pytest.raises(ValueError, match="rev=0x30"):
        Rtl8139(MAC, lambda f: True, lambda: None, lambda _: None, lambda: 0, revision=0x30)


def test_group_address_is_no_station_address():
    with pytest.raises(ValueError, match="not a station address"):
        Rtl8139(GROUP, lambda f: True, lambda: None, lambda _: None, lambda: 0)


# snapshots


def clone(kit, rev=None):
    """A new kit in the state of ``kit``, by way of JSON."""
    state = json.loads(json.dumps(kit.machine.snapshot()))
    other = Kit(rev)
    other.time = kit.time
    other.machine.restore(state)
    assert json.loads(json.dumps(other.machine.snapshot())) == state
    return other


def test_snapshot_with_a_full_ring():
    kit = Kit()
    stored = kit.full()
    assert not kit.receive(frame_to(size=500, fill=200))
    other = clone(kit)
    frames = [frame for _, frame in other.packets()]
    assert frames == [frame_to(size=500, fill=n) for n in range(stored + 1)]
    assert other.ready == 1


def test_snapshot_with_a_frame_that_the_wire_did_not_take():
    kit = Kit().start_cplus()
    kit.wire_takes = False
    kit.put(frame_to(BROADCAST, 100))
    other = clone(kit)
    other.slot.tx_ready()
    assert other.wire == [frame_to(BROADCAST, 100)]
    assert not other.descriptor(TX_RING, 0)[0] & r.D_OWN


def test_snapshot_between_any_two_dma_operations():
    """Stop the engine after each operation, restore elsewhere, and come to the same end."""
    for stop in range(40):
        kit = Kit().start_cplus(rx=4, buffer=64)
        kit.put(frame_to(BROADCAST, 40), b"x" * 100, poll=False)
        kit.put(frame_to(GROUP, 90), poll=False)
        kit.card.rx.receive(frame_to(size=150))
        kit.card.write(0, r.TPPOLL, 1, r.POLL_NPQ)
        engine = kit.card.dma()
        ram = kit.machine.ram
        try:
            op = next(engine)
            for _ in range(stop):
                op = engine.send(ram.read(*op[1:]) if op[0] == "read" else ram.write(*op[1:]))
            ended = False
        except StopIteration:
            ended = True
        sent = list(kit.wire)
        other = clone(kit)
        other.tx_at, other.rx_at, other.rx_count, other.buffer = kit.tx_at, 0, 4, 64
        other.slot.drive()
        assert sent + other.wire == [frame_to(BROADCAST, 40) + b"x" * 100, frame_to(GROUP, 90)]
        assert [frame for _, _, frame in other.taken()] == [frame_to(size=150)]
        assert other.read(r.ISR, 2) & (r.INT_ROK | r.INT_TOK) == r.INT_ROK | r.INT_TOK
        if ended:
            return
    raise AssertionError("the engine does not end")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("", "model", "pcnet"),
        ("", "revision", 16),
        ("", "idr", "zz"),
        ("", "posted", [{}]),
        ("", "imr", -1),
        ("rx", "size", 1000),
        ("rx", "fifo", "no"),
        ("rx", "cbr", 8192),
        ("out", "tsd", [1, 2]),
        ("out", "current", 4),
        ("cplus", "rx_index", 64),
        ("config", "parms", None),
        ("config", "store", "!"),
        ("timer", "due", -1),
        ("tally", "tx_ok", "1"),
    ],
)
def test_restore_refuses_other_data(section, name, value):
    card = Kit().card
    state = json.loads(json.dumps(card.snapshot()))
    (state[section] if section else state)[name] = value
    with pytest.raises(ValueError):
        card.restore(state)
