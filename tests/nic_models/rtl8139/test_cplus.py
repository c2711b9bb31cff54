"""C+ mode of the RTL8139C+: descriptor rings both ways, priorities, VLAN, offload, refusals."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nic_models.rtl8139 import registers as r
from nic_models.rtl8139.cplus import HOLD_NS
from nic_models.virtio import HEADER, complete
from tests.nic_models.rtl8139_kit import (
    BROADCAST,
    GROUP,
    HIGH_RING,
    MAC,
    OTHER,
    RX_BUFFERS,
    RX_RING,
    TX_RING,
    Kit,
    frame_to,
    padded,
)
from tests.nic_models.rtl8139_packets import ipv4, tcp, tcp_good, udp, vlan


def small_rings(kit, **more):
    return kit.start_cplus(rx=4, tx=4, **more)


# transmit


def test_one_buffer():
    kit = Kit().start_cplus()
    kit.put(frame_to(size=42))
    assert kit.wire == [frame_to(size=42)]
    assert kit.descriptor(TX_RING, 0)[0] == r.D_FS | r.D_LS | 42
    assert kit.isr() == r.INT_TOK | r.INT_TDU
    assert kit.read(r.TPPOLL, 1) == 0
    assert kit.read(r.TDOKLA, 2) == TX_RING & 0xFFFF


def test_chained_buffers():
    kit = Kit().start_cplus()
    kit.put(frame_to(size=20), b"a" * 700, b"", b"b" * 1)
    assert kit.wire == [frame_to(size=20) + b"a" * 700 + b"b"]
    assert [kit.descriptor(TX_RING, n)[0] & r.D_OWN for n in range(4)] == [0] * 4


def test_status_word_keeps_no_command_bits():
    kit = Kit().start_cplus()
    kit.put(tcp(b"x" * 10), flags=r.TD_IPCS | r.TD_TCPCS)
    assert kit.descriptor(TX_RING, 0)[0] & 0x0FFF0000 == 0


def test_ring_goes_round():
    kit = Kit().start_cplus(tx=3)
    for n in range(10):
        kit.put(frame_to(size=20, fill=n), bytes([n]) * 50)
    assert kit.wire == [frame_to(size=20, fill=n) + bytes([n]) * 50 for n in range(10)]


def test_a_ring_without_end_has_64_descriptors():
    kit = Kit().start_cplus(tx=64)
    for n in range(130):
        index = n % 64
        kit.poke(0x10000, frame_to(fill=n))
        kit.poke(TX_RING + 16 * index, pack("<IIQ", r.D_OWN | r.D_FS | r.D_LS | 60, 0, 0x10000))
        kit.write(r.TPPOLL, 1, r.POLL_NPQ)
    assert kit.wire == [frame_to(fill=n) for n in range(130)]


def test_one_poll_sends_all():
    kit = Kit().start_cplus(tx=64)
    for n in range(60):
        kit.put(frame_to(fill=n), poll=False)
    assert kit.wire == []
    kit.write(r.TPPOLL, 1, r.POLL_NPQ)
    assert kit.wire == [frame_to(fill=n) for n in range(60)]


def test_high_priority_first():
    kit = Kit().start_cplus()
    kit.put(frame_to(fill=1), poll=False)
    kit.tx_at = 0
    kit.put(frame_to(fill=1), poll=False, ring=HIGH_RING)
    kit.poke(0x10000 + 2048, frame_to(fill=2))
    kit.poke(HIGH_RING, pack("<IIQ", r.D_OWN | r.D_FS | r.D_LS | 60, 0, 0x10000 + 2048))
    kit.write(r.TPPOLL, 1, r.POLL_HPQ | r.POLL_NPQ)
    assert kit.wire == [frame_to(fill=2), frame_to(fill=1)]


def test_high_priority_does_not_cut_into_a_frame():
    kit = Kit().start_cplus()
    kit.poke(0x10000, frame_to(size=100, fill=1))
    kit.poke(TX_RING, pack("<IIQ", r.D_OWN | r.D_FS | 50, 0, 0x10000))
    kit.write(r.TPPOLL, 1, r.POLL_NPQ)  # stops in the middle of a frame
    kit.poke(0x10800, frame_to(fill=2))
    kit.poke(HIGH_RING, pack("<IIQ", r.D_OWN | r.D_FS | r.D_LS | 60, 0, 0x10800))
    kit.poke(TX_RING + 16, pack("<IIQ", r.D_OWN | r.D_LS | 50, 0, 0x10000 + 50))
    kit.write(r.TPPOLL, 1, r.POLL_HPQ | r.POLL_NPQ)
    assert kit.wire == [frame_to(size=100, fill=1), frame_to(fill=2)]


def test_rings_start_again_with_a_new_address_or_transmitter():
    kit = Kit().start_cplus()
    kit.put(frame_to())
    kit.write(r.TNPDS, 4, TX_RING)
    kit.tx_at = 0
    kit.put(frame_to(fill=1))
    kit.write(r.CR, 1, r.CR_RE)
    kit.write(r.CR, 1, r.CR_RE | r.CR_TE)
    kit.tx_at = 0
    kit.put(frame_to(fill=2))
    kit.write(r.CPCR, 2, r.CPCR_RXEN)
    assert kit.card.cplus.normal.index == 0
    kit.write(r.CPCR, 2, r.CPCR_RXEN | r.CPCR_TXEN)
    kit.tx_at = 0
    kit.put(frame_to(fill=3))
    assert len(kit.wire) == 4


@pytest.mark.parametrize("how", ["TE", "TxEn", "TNPDS"])
def test_a_ring_that_starts_anew_in_the_middle_of_a_step(how):
    """The step that the engine is in must not move the new start."""
    kit = Kit().start_cplus()
    kit.put(frame_to(), poll=False)
    card = kit.card
    card.write(0, r.TPPOLL, 1, r.POLL_NPQ)
    engine = card.dma()
    _, at, size = next(engine)
    assert engine.send(kit.peek(at, size))[0] == "read"  # its buffer
    if how == "TE":
        card.write(0, r.CR, 1, r.CR_RE)
        card.write(0, r.CR, 1, r.CR_RE | r.CR_TE)
    elif how == "TxEn":
        card.write(0, r.CPCR, 2, r.CPCR_RXEN)
        card.write(0, r.CPCR, 2, r.CPCR_RXEN | r.CPCR_TXEN)
    else:
        card.write(0, r.TNPDS, 4, TX_RING)
    with pytest.raises(StopIteration):
        engine.send(frame_to())
    assert kit.wire == [] and card.cplus.normal.index == 0


@pytest.mark.parametrize(("command", "cpcr"), [(r.CR_RE, 3), (r.CR_RE | r.CR_TE, r.CPCR_RXEN)])
def test_transmitter_needs_both_bits(command, cpcr):
    kit = Kit().start_cplus()
    kit.write(r.CPCR, 2, cpcr)
    kit.write(r.CR, 1, command)
    kit.put(frame_to())
    assert kit.wire == []


def test_refused_frame_waits_with_its_descriptor():
    kit = Kit().start_cplus()
    kit.wire_takes = False
    kit.put(frame_to(size=20), b"x" * 50)
    kit.put(frame_to(fill=1))
    words = [kit.descriptor(TX_RING, n)[0] & r.D_OWN for n in range(3)]
    assert words == [0, r.D_OWN, r.D_OWN]
    assert not kit.read(r.ISR, 2) & r.INT_TOK
    kit.wire_takes = True
    kit.slot.tx_ready()
    assert kit.wire == [frame_to(size=20) + b"x" * 50, frame_to(fill=1)]
    assert kit.read(r.ISR, 2) & r.INT_TOK


def test_no_link_is_a_link_failure():
    kit = Kit().start_cplus()
    kit.card.set_link(False)
    kit.isr()
    kit.put(frame_to())
    assert kit.wire == []
    assert kit.descriptor(TX_RING, 0)[0] & (r.D_OWN | r.TD_TES | r.TD_LNKF) == r.TD_TES | r.TD_LNKF
    assert kit.isr() & r.INT_TER


def test_software_interrupt():
    kit = Kit().start_cplus()
    kit.write(r.TPPOLL, 1, r.POLL_FSWINT)
    assert kit.isr() == r.INT_SWINT


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([r.D_OWN | r.D_LS | 60], "headless"),
        ([r.D_OWN | 60, r.D_OWN | r.D_LS | 60], "headless"),
        ([r.D_OWN | r.D_FS | 20, r.D_OWN | r.D_FS | r.D_LS | 60], "unfinished"),
        ([r.D_OWN | r.D_FS | 0xFFFF, r.D_OWN | 0xFFFF, r.D_OWN | r.D_LS | 0xFFFF], "oversize"),
        ([r.D_OWN | r.D_FS | r.D_LS | 9000], "oversize"),
        ([r.D_OWN | r.D_FS | r.D_LS | 13], "short"),
    ],
)
def test_frames_that_are_none(words, reason):
    kit = Kit().start_cplus()
    for n, word in enumerate(words):
        kit.poke(TX_RING + 16 * n, pack("<IIQ", word, 0, 0x10000))
    kit.write(r.TPPOLL, 1, r.POLL_NPQ)
    assert kit.card.counters == {f"tx {reason}": 1}
    assert len(kit.wire) == (reason == "unfinished")
    assert [kit.descriptor(TX_RING, n)[0] & r.D_OWN for n in range(len(words))] == [0] * len(words)


def test_vlan_tag_is_put_in():
    kit = Kit().start_cplus()
    kit.put(frame_to(size=60), vlan=r.TD_TAGC | 0x2301)
    assert kit.wire == [vlan(frame_to(size=60), 0x0123)]


# offload


def test_checksum_offload_leaves_owed():
    kit = Kit().start_cplus()
    good = tcp_good(b"payload")
    blank = tcp(b"payload")
    kit.put(blank, flags=r.TD_IPCS | r.TD_TCPCS)
    assert HEADER.unpack(kit.owed[0]) == (1, 0, 0, 0, 34, 16)
    assert complete(kit.wire[0], kit.owed[0]) == good


def test_large_send_leaves_whole():
    kit = Kit().start_cplus()
    frame = tcp(b"z" * 10000)
    kit.put(
        *(frame[n : n + 1500] for n in range(0, len(frame), 1500)), flags=r.TD_LGSEN | 1000 << r.TD_MSS_SHIFT
    )
    assert HEADER.unpack(kit.owed[0]) == (1, 1, 54, 1000, 34, 16)
    assert kit.wire[0][54:] == b"z" * 10000


def test_loopback_completes_a_checksum():
    kit = Kit().start_cplus(r.CPCR_RXCHKSUM, tcr=0x03000700 | r.TCR_LBK)
    kit.put(tcp(b"payload"), flags=r.TD_IPCS | r.TD_TCPCS)
    ((word, _, frame),) = kit.taken()
    assert frame == padded(tcp_good(b"payload"))
    assert word & (3 << 16 | r.RD_TCPF | r.RD_IPF) == r.RD_PID_TCP


def test_loopback_of_a_large_send_is_dropped():
    kit = Kit().start_cplus(tcr=0x03000700 | r.TCR_LBK)
    frame = tcp(b"z" * 3000)
    kit.put(frame[:1500], frame[1500:], flags=r.TD_LGSEN | 1000 << r.TD_MSS_SHIFT)
    assert kit.card.counters == {"tx loopback offload": 1}
    assert kit.taken() == []


# receive


def test_a_frame_in_its_descriptor():
    kit = Kit().start_cplus()
    kit.receive(frame_to(size=100))
    word, second, address = kit.descriptor(RX_RING, 0)
    assert word == r.D_FS | r.D_LS | r.RD_PAM | 104
    assert (second, address) == (0, RX_BUFFERS)
    assert kit.isr() == r.INT_ROK
    assert [frame for _, _, frame in kit.taken()] == [frame_to(size=100)]


@pytest.mark.parametrize(
    ("destination", "bits"), [(MAC, r.RD_PAM), (OTHER, 0), (GROUP, r.RD_MAR), (BROADCAST, r.RD_BAR)]
)
def test_address_bits(destination, bits):
    kit = Kit().start_cplus(rcr=0x0F)
    kit.write(r.MAR0, 4, 0xFFFFFFFF)
    kit.write(r.MAR0 + 4, 4, 0xFFFFFFFF)
    kit.receive(frame_to(destination))
    ((word, _, _),) = kit.taken()
    assert word & (r.RD_PAM | r.RD_MAR | r.RD_BAR) == bits


def test_scattered_over_buffers():
    kit = Kit().start_cplus(rx=4, buffer=64)
    kit.receive(frame_to(size=150))
    words = [kit.descriptor(RX_RING, n)[0] for n in range(4)]
    assert [word & (r.D_OWN | r.D_FS | r.D_LS) for word in words] == [r.D_FS, 0, r.D_LS, r.D_OWN]
    assert [word & r.RD_LENGTH for word in words[:3]] == [64, 64, 154]
    kit.receive(frame_to(size=60, fill=1))
    assert [frame for _, _, frame in kit.taken()] == [frame_to(size=150), frame_to(size=60, fill=1)]


def test_fcs_alone_in_the_last_buffer():
    kit = Kit().start_cplus(rx=4, buffer=64)
    kit.receive(frame_to(size=62))
    assert [frame for _, _, frame in kit.taken()] == [frame_to(size=62)]


def test_long_frame_has_an_error():
    kit = Kit().start_cplus(buffer=8191)
    kit.receive(frame_to(size=4093))
    assert kit.descriptor(RX_RING, 0)[0] & (r.RD_RWT | r.RD_RES) == r.RD_RWT | r.RD_RES


def test_no_descriptor_holds_the_wire():
    kit = small_rings(Kit())
    for n in range(4):
        assert kit.receive(frame_to(fill=n))
    assert kit.isr() == r.INT_ROK
    assert kit.receive(frame_to(fill=4))
    assert kit.isr() == r.INT_RXOVW  # RDU: no descriptor
    assert kit.read(r.MPC, 4) == 0  # but no frame is lost
    assert not kit.receive(frame_to(fill=5))
    kit.write(r.ISR, 2, 0xFFFF)  # looks again, finds nothing, says nothing
    assert kit.read(r.ISR, 2) == 0
    assert kit.ready == 0
    frames = [frame for _, _, frame in kit.taken()]
    kit.write(r.IMR, 2, 0xFFFF)
    assert kit.ready == 1
    assert kit.receive(frame_to(fill=5))
    frames += [frame for _, _, frame in kit.taken()]
    assert frames == [frame_to(fill=n) for n in range(6)]
    assert kit.read(r.MPC, 4) == 0


def test_a_ring_that_stays_dry_loses_frames_and_counts_them():
    kit = small_rings(Kit())
    for n in range(6):
        kit.receive(frame_to(fill=n))
    for lost in (1, 2):
        kit.wait(HOLD_NS - 1)
        kit.isr()  # looks again
        assert kit.read(r.MPC, 4) == lost - 1
        kit.wait(1)
        assert kit.isr() == r.INT_RXOVW
        assert kit.read(r.MPC, 4) == lost
        kit.receive(frame_to(fill=6))
    frames = [frame for _, _, frame in kit.taken()]
    kit.write(r.ISR, 2, 0)
    frames += [frame for _, _, frame in kit.taken()]
    assert frames == [frame_to(fill=n) for n in (0, 1, 2, 3, 6)]
    assert kit.card.counters == {"rx full": 2}


def test_it_looks_at_the_ring_by_itself_ever_more_rarely():
    kit = small_rings(Kit())
    for n in range(5):
        kit.receive(frame_to(fill=n))
    waits = []
    for _ in range(9):
        before = kit.time
        kit.card.isr = 0  # not by a write, that makes it look
        kit.wait(kit.machine.next_deadline() - kit.time)
        assert kit.read(r.ISR, 2) == r.INT_RXOVW
        assert kit.read(r.MPC, 4) == 0
        waits.append((kit.time - before) // 1_000_000)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    kit.taken()
    kit.wait(64_000_000)
    assert [frame for _, _, frame in kit.taken()] == [frame_to(fill=4)]
    assert kit.machine.next_deadline() is None


def test_too_few_descriptors_for_a_frame_leave_them_alone():
    kit = Kit().start_cplus(rx=4, buffer=64)
    kit.receive(frame_to(size=100))
    kit.receive(frame_to(size=150, fill=1))
    assert kit.read(r.ISR, 2) & r.INT_RXOVW
    assert [kit.descriptor(RX_RING, n)[0] & r.D_OWN for n in (2, 3)] == [r.D_OWN] * 2
    frames = [frame for _, _, frame in kit.taken()]
    kit.write(r.ISR, 2, 0)
    assert frames + [frame for _, _, frame in kit.taken()] == [frame_to(size=100), frame_to(size=150, fill=1)]


def test_a_frame_larger_than_the_whole_ring_is_dropped():
    kit = Kit().start_cplus(rx=4, buffer=64)
    assert kit.receive(frame_to(size=1000))
    assert kit.card.counters == {"rx oversize": 1}
    assert kit.receive(frame_to(size=60))
    assert [frame for _, _, frame in kit.taken()] == [frame_to(size=60)]


def test_no_ring_drops():
    kit = Kit().start_cplus()
    kit.write(r.RDSAR, 4, 0)
    assert kit.receive(frame_to())
    assert kit.card.counters == {"rx no ring": 1}


@pytest.mark.parametrize("end", ["CR.RST", "RE off", "RXEN off"])
def test_a_held_wire_is_let_go(end):
    kit = small_rings(Kit())
    for n in range(5):
        kit.receive(frame_to(fill=n))
    assert not kit.receive(frame_to())
    if end == "CR.RST":
        kit.write(r.CR, 1, r.CR_RST)
    elif end == "RE off":
        kit.write(r.CR, 1, r.CR_TE)
    else:
        kit.write(r.CPCR, 2, r.CPCR_TXEN)
    assert kit.ready == 1
    assert kit.machine.next_deadline() is None


def test_vlan_tag_is_taken_out():
    kit = Kit().start_cplus(r.CPCR_RXVLAN)
    kit.receive(vlan(frame_to(size=100), 0x0123))
    kit.receive(vlan(frame_to(size=60), 0xE005))
    kit.receive(frame_to(size=100))
    tags = [(vlan_word, frame) for _, vlan_word, frame in kit.taken()]
    assert tags == [
        (r.RD_TAVA | 0x2301, frame_to(size=100)),
        (r.RD_TAVA | 0x05E0, frame_to(size=60)),
        (0, frame_to(size=100)),
    ]


def test_vlan_tag_stays_without_detagging():
    kit = Kit().start_cplus()
    kit.receive(vlan(frame_to(size=100), 0x0123))
    ((_, word, frame),) = kit.taken()
    assert (word, frame) == (0, vlan(frame_to(size=100), 0x0123))


@pytest.mark.parametrize("enabled", [True, False])
def test_receive_checksum_flags(enabled):
    kit = Kit().start_cplus(r.CPCR_RXCHKSUM if enabled else 0)
    good = tcp_good(b"payload" * 20)
    for frame, bits in (
        (good, r.RD_PID_TCP),
        (good[:-1] + b"!", r.RD_PID_TCP | r.RD_TCPF),
        (udp(b"data" * 20), r.RD_PID_UDP),
        (ipv4(1, b"icmp" * 20), r.RD_PID_IP),
        (frame_to(size=80), 0),
    ):
        kit.receive(frame)
        ((word, _, got),) = kit.taken()
        assert got == frame
        assert word & (3 << 16 | 7 << 13) == (bits if enabled else 0)


# against a model


PIECES = st.lists(st.integers(0, 300), min_size=1, max_size=4)
STEP = st.one_of(
    st.tuples(st.just("send"), PIECES),
    st.tuples(st.just("receive"), st.integers(14, 400)),
    st.tuples(st.just("take"), st.integers(1, 9)),
    st.tuples(st.just("wire"), st.booleans()),
)


@settings(max_examples=80, deadline=None)
@given(st.integers(4, 9), st.integers(4, 9), st.sampled_from([64, 128, 512]), st.lists(STEP, max_size=60))
def test_rings_lose_and_reorder_nothing(tx, rx, buffer, steps):
    kit = Kit().start_cplus(rx=rx, tx=tx, buffer=buffer)
    sent, received, taken, held = [], [], [], []
    for n, (kind, value) in enumerate(steps):
        if kind == "send":
            pieces = [bytes([n]) * size for size in value]
            free = sum(not kit.descriptor(TX_RING, i)[0] & r.D_OWN for i in range(tx))
            if sum(value) >= 14 and free >= len(pieces):
                sent.append(b"".join(pieces))
                kit.put(*pieces)
        elif kind == "receive":
            frame = frame_to(size=value, fill=n)
            if len(padded(frame)) + 4 <= rx * buffer:
                held.append(frame)
                received.append(padded(frame))
        elif kind == "take":
            taken += [frame for _, _, frame in kit.taken(value)]
            kit.write(r.ISR, 2, 0xFFFF)
        else:
            kit.wire_takes = value
            if value:
                kit.slot.tx_ready()
        while held and kit.receive(held[0]):
            held.pop(0)
    kit.wire_takes = True
    kit.slot.tx_ready()
    for _ in range(len(received) + 1):
        taken += [frame for _, _, frame in kit.taken()]
        kit.write(r.ISR, 2, 0xFFFF)
        while held and kit.receive(held[0]):
            held.pop(0)
    assert kit.wire == sent
    assert taken == received
