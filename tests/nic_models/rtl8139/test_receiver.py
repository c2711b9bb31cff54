"""Receiver of the RTL8139: filter, ring buffer, CAPR and CBR, overflow. The ring has a slow readable twin."""

from __future__ import annotations

import json
from struct import pack
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nic_models.parts.multicast import filter_with
from nic_models.rtl8139 import registers as r
from nic_models.rtl8139.receiver import AGAIN_NS, FIFO_FRAMES, HOLD_NS, MAX_FRAME
from nic_models.virtio import partial, tcp4
from tests.nic_models.rtl8139_kit import BROADCAST, GROUP, MAC, OTHER, RING, Kit, frame_to, padded

ALL = r.RCR_AAP | r.RCR_APM | r.RCR_AM | r.RCR_AB


@pytest.mark.parametrize(
    ("rcr", "mac", "other", "group", "broadcast"),
    [
        (0, 0, 0, 0, 0),
        (r.RCR_APM, 1, 0, 0, 0),
        (r.RCR_AAP, 1, 1, 0, 0),
        (r.RCR_AB, 0, 0, 0, 1),
        (r.RCR_AM, 0, 0, 1, 0),
        (r.RCR_APM | r.RCR_AB | r.RCR_AM, 1, 0, 1, 1),
        (ALL, 1, 1, 1, 1),
    ],
)
def test_filter(rcr, mac, other, group, broadcast):
    kit = Kit().start(rcr)
    mar = filter_with([GROUP])
    kit.write(r.MAR0, 4, int.from_bytes(mar[:4], "little"))
    kit.write(r.MAR0 + 4, 4, int.from_bytes(mar[4:], "little"))
    strange = bytes.fromhex("01005e7f0001")
    for destination, wanted, bits in (
        (MAC, mac, r.RX_PAM),
        (OTHER, other, 0),
        (GROUP, group, r.RX_MAR),
        (strange, 0, 0),
        (BROADCAST, broadcast, r.RX_BAR),
    ):
        assert kit.receive(frame_to(destination))
        got = [status for status, _ in kit.packets()]
        assert got == ([bits | r.RX_ROK] if wanted else [])


def test_filter_follows_idr():
    kit = Kit().start(r.RCR_APM)
    kit.write(r.IDR0, 4, int.from_bytes(OTHER[:4], "little"))
    kit.write(r.IDR0 + 4, 4, int.from_bytes(OTHER[4:], "little"))
    kit.receive(frame_to(MAC))
    kit.receive(frame_to(OTHER))
    assert [frame[:6] for _, frame in kit.packets()] == [OTHER]


def test_packet_in_the_ring():
    kit = Kit().start()
    frame = frame_to(size=61)
    kit.receive(frame)
    assert kit.peek(RING, 69) == pack("<HH", r.RX_PAM | r.RX_ROK, 65) + frame + pack("<I", crc32(frame))
    assert kit.read(r.CBR, 2) == 72
    assert kit.read(r.CAPR, 2) == 0xFFF0
    assert not kit.read(r.CR, 1) & r.CR_BUFE
    assert kit.isr() == r.INT_ROK
    kit.write(r.CAPR, 2, 72 - 16)
    assert kit.read(r.CR, 1) & r.CR_BUFE
    assert kit.read(r.CAPR, 2) == 56


@pytest.mark.parametrize("size", [14, 42, 59, 60, 61, 1514])
def test_short_frames_are_padded(size):
    kit = Kit().start()
    kit.receive(frame_to(size=size))
    assert [frame for _, frame in kit.packets()] == [padded(frame_to(size=size))]


@pytest.mark.parametrize(("size", "reason"), [(13, "short"), (0, "short"), (MAX_FRAME + 1, "oversize")])
def test_frames_that_are_none(size, reason):
    kit = Kit().start(ALL)
    assert kit.receive(frame_to(size=size))
    assert kit.card.counters == {f"rx {reason}": 1}
    assert kit.read(r.CBR, 2) == 0


def test_long_frames_are_marked():
    kit = Kit().start(r.RCR_APM | r.RCR_RBLEN)
    for size in (4092, 4093):
        kit.receive(frame_to(size=size))
    assert [status & r.RX_LONG for status, _ in kit.packets()] == [0, r.RX_LONG]


def test_receiver_off_drops():
    kit = Kit()
    assert kit.receive(frame_to())
    assert kit.card.counters == {"rx disabled": 1}


def test_no_link_drops():
    kit = Kit().start()
    kit.card.set_link(False)
    assert kit.receive(frame_to())
    assert kit.card.counters == {"rx link": 1}


def test_owed_checksum_is_completed_and_owed_segmentation_dropped():
    kit = Kit().start()
    frame = frame_to(size=64)
    kit.receive(frame, partial(14, 0))
    kit.receive(frame, tcp4(54, 1460, 34))
    ((_, got),) = kit.packets()
    assert sum(int.from_bytes(got[n : n + 2], "big") for n in range(14, 64, 2)) != 0
    assert got[:14] + got[16:] == frame[:14] + frame[16:]
    assert kit.card.counters == {"rx offload": 1}


# the ring


@pytest.mark.parametrize("rblen", [0, 1, 2, 3])
@pytest.mark.parametrize("wrap", [0, r.RCR_WRAP])
def test_ring_goes_round(rblen, wrap):
    kit = Kit().start(r.RCR_APM | rblen << 11 | wrap)
    size = 8192 << rblen
    assert kit.ring_size() == size
    sent = []
    for n in range(3 * size // 1000):
        frame = frame_to(size=700 + n % 800, fill=n)
        assert kit.receive(frame)
        sent.append(frame)
        if n % 3 == 2:
            assert [frame for _, frame in kit.packets()] == sent[-3:]
    assert kit.card.counters == {}


def test_wrap_keeps_a_packet_in_one_piece():
    """RCR.WRAP: it goes past the end of the ring, and the next one starts as far behind the start."""
    kit = Kit().start(r.RCR_APM | r.RCR_WRAP)
    at = 0
    for n in range(5):
        kit.receive(frame_to(size=1504, fill=n))
        at += 1512
        kit.write(r.CAPR, 2, at - 16)
    frame = frame_to(size=1000)
    kit.receive(frame)
    assert kit.peek(RING + at + 4, 1000) == frame
    assert kit.read(r.CBR, 2) == (at + 1008) % 8192
    kit.receive(frame)
    assert kit.peek(RING + (at + 1008) % 8192 + 4, 1000) == frame


def test_wrap_never_goes_further_past_the_end_than_drivers_reserve():
    kit = Kit().start(r.RCR_APM | r.RCR_WRAP)
    kit.receive(frame_to(size=1504))
    kit.write(r.CAPR, 2, 1512 - 16)
    for _ in range(4):
        kit.receive(frame_to(size=1512))
        kit.write(r.CAPR, 2, kit.read(r.CBR, 2) - 16)
    kit.poke(RING + 8192 + 1536, b"\xa5" * 4096)
    kit.receive(frame_to(size=4000))
    assert kit.peek(RING + 8192 + 1536, 4096) == b"\xa5" * 4096
    assert kit.card.counters == {"rx oversize": 1}


def test_a_frame_that_no_ring_can_hold():
    kit = Kit().start(r.RCR_APM)
    assert kit.receive(frame_to(size=MAX_FRAME))
    assert kit.card.counters == {"rx oversize": 1}
    assert kit.receive(frame_to())
    assert len(kit.packets()) == 1


def test_another_ring_size_begins_anew():
    kit = Kit().start(r.RCR_APM)
    kit.receive(frame_to())
    kit.write(r.RCR, 4, r.RCR_APM | r.RCR_AB)
    assert kit.read(r.CBR, 2) == 68
    kit.write(r.RCR, 4, r.RCR_APM | 1 << 11)
    assert kit.read(r.CBR, 2) == 0
    assert kit.read(r.CR, 1) & r.CR_BUFE


def test_switching_the_receiver_begins_anew():
    kit = Kit().start()
    kit.receive(frame_to())
    kit.write(r.CR, 1, r.CR_TE)
    kit.write(r.CR, 1, r.CR_TE | r.CR_RE)
    assert [kit.read(r.CBR, 2), kit.read(r.CAPR, 2)] == [0, 0xFFF0]
    kit.receive(frame_to(fill=7))
    assert [frame for _, frame in kit.packets()] == [frame_to(fill=7)]


# overflow


def test_overflow_holds_the_wire_and_loses_nothing():
    kit = Kit()
    stored = kit.full()
    assert kit.read(r.ISR, 2) == r.INT_ROK
    assert not kit.receive(frame_to(size=500, fill=stored + 1))
    assert not kit.receive(frame_to(size=500, fill=stored + 1))
    kit.wait(HOLD_NS - 1)
    assert kit.ready == 0
    frames = [frame for _, frame in kit.packets(3)]
    assert kit.ready == 0  # only when half of the ring is free
    assert not kit.receive(frame_to(size=500, fill=stored + 1))
    frames += [frame for _, frame in kit.packets(stored // 2)]
    assert kit.ready == 1
    assert kit.receive(frame_to(size=500, fill=stored + 1))
    frames += [frame for _, frame in kit.packets()]
    assert frames == [frame_to(size=500, fill=n) for n in range(stored + 2)]
    assert kit.read(r.ISR, 2) == r.INT_ROK  # nothing is lost, so no loss is told
    assert kit.read(r.MPC, 4) == 0
    assert kit.card.counters == {}


def test_a_ring_that_stays_full_loses_frames_and_tells_them():
    kit = Kit()
    stored = kit.full()
    assert not kit.receive(frame_to(size=500, fill=stored + 1))
    for lost in (1, 2, 3):  # frames that the FIFO has
        kit.isr()
        if lost > 1:
            assert kit.receive(frame_to(size=500, fill=200 + lost)) or kit.card.rx.wire_held
        kit.wait(HOLD_NS - 1)
        assert not kit.read(r.ISR, 2) & r.INT_RXOVW and kit.read(r.MPC, 4) == lost - 1
        kit.wait(1)
        assert kit.isr() & r.INT_RXOVW and kit.read(r.MPC, 4) == lost
        if not kit.card.rx.fifo:
            assert kit.ready == 0  # half of the ring is not free
            break
    assert kit.card.counters == {"rx full": 1}
    assert [frame for _, frame in kit.packets()] == [frame_to(size=500, fill=n) for n in range(stored)]
    assert kit.ready == 1
    kit.write(r.MPC, 4, 0)
    assert kit.read(r.MPC, 4) == 0


@pytest.mark.parametrize("end", ["CR.RST", "RE off", "RST#", "link", "auto-load"])
def test_a_held_wire_is_let_go(end):
    kit = Kit()
    kit.full()
    assert not kit.receive(frame_to())
    if end == "CR.RST":
        kit.write(r.CR, 1, r.CR_RST)
    elif end == "RE off":
        kit.write(r.CR, 1, r.CR_TE)
    elif end == "RST#":
        kit.card.reset()
    elif end == "link":
        kit.card.set_link(False)
    else:
        kit.write(r.CR9346, 1, 0x40)
    assert kit.ready == 1
    assert kit.receive(frame_to())


def test_a_capr_that_frees_too_little_lets_the_frame_wait_anew():
    kit = Kit()
    kit.full()
    kit.receive(frame_to())
    kit.isr()
    kit.wait(HOLD_NS - 1)
    kit.isr()
    kit.write(r.CAPR, 2, 4 - 16 & 0xFFFF)
    assert kit.read(r.ISR, 2) == 0
    kit.wait(HOLD_NS - 1)  # the driver lives: the wait begins anew
    assert kit.read(r.MPC, 4) == 0
    kit.wait(1)
    assert kit.read(r.ISR, 2) & r.INT_RXOVW and kit.read(r.MPC, 4) == 1
    assert kit.ready == 0


def test_a_full_ring_interrupts_again():
    """As the frames of a real wire do, for drivers that acknowledge ROK with packets left to read."""
    kit = Kit()
    kit.full()
    assert not kit.receive(frame_to())
    kit.isr()
    waits = []
    for _ in range(12):
        before = kit.time
        assert not kit.irq
        kit.wait(kit.machine.next_deadline() - kit.time)
        assert kit.irq and kit.isr() == r.INT_ROK
        waits.append((kit.time - before) / AGAIN_NS)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256, 256]
    assert kit.read(r.MPC, 4) == 0
    kit.packets()
    assert kit.machine.next_deadline() is None
    assert kit.ready == 1


def test_the_ring_is_never_filled_to_the_last_byte():
    kit = Kit().start(r.RCR_APM)
    total = 0
    while total + 1024 < 8192:
        kit.receive(frame_to(size=1016))
        total += 1024
    kit.receive(frame_to(size=1016))  # exactly what is left
    assert len(kit.card.rx.fifo) == 1
    assert kit.read(r.CBR, 2) == 7168
    kit.write(r.CAPR, 2, 4 - 16 & 0xFFFF)
    assert kit.read(r.CBR, 2) == 0


def test_without_bus_mastering_the_fifo_overflows():
    kit = Kit().start()
    kit.config_write(4, 2, 3)
    for n in range(FIFO_FRAMES + 2):
        assert kit.receive(frame_to(fill=n))
    assert kit.read(r.ISR, 2) == r.INT_FOVW
    assert kit.read(r.MPC, 4) == 2
    assert kit.card.counters == {"rx dma": 2}
    kit.config_write(4, 2, 7)
    kit.read(r.ISR, 2)
    assert [frame for _, frame in kit.packets()] == [frame_to(fill=n) for n in range(FIFO_FRAMES)]


def test_bus_mastering_switched_off_lets_a_held_wire_go():
    kit = Kit()
    kit.full()
    assert not kit.receive(frame_to())
    kit.config_write(4, 2, 3)
    assert kit.ready == 1


# against the twin


class SlowRing:
    """The ring by the data sheet, byte by byte."""

    def __init__(self, size, wrap):
        self.size = size
        self.wrap = wrap and size < 65536
        self.memory = bytearray(size + 2048)
        self.cbr = self.read_at = 0
        self.fifo = None
        self.wire = []
        self.held = False

    def free(self):
        used = 0
        at = self.read_at
        while at != self.cbr:
            at = (at + 1) % self.size
            used += 1
        return self.size - used

    def offer(self):
        """The wire brings what it has, unless it is held; half a ring of room lets it go."""
        if self.held and self.fifo is None and 2 * self.free() >= self.size:
            self.held = False
        while self.wire and not self.held:
            if self.fifo is not None:
                self.held = True
            else:
                self.fifo = self.wire.pop(0)
                self.store()

    def store(self):
        frame = self.fifo
        if frame is None:
            return
        packet = pack("<HH", r.RX_PAM | r.RX_ROK, len(frame) + 4) + frame + pack("<I", crc32(frame))
        total = len(packet) + -len(packet) % 4
        if total >= self.free():
            return
        self.fifo = None
        for index, byte in enumerate(packet):
            at = self.cbr + index
            self.memory[at if self.wrap else at % self.size] = byte
        self.cbr = (self.cbr + total) % self.size

    def advance(self, packets):
        for _ in range(packets):
            if self.read_at == self.cbr:
                break
            length = int.from_bytes(self.memory[self.read_at + 2 : self.read_at + 4], "little")
            self.read_at = (self.read_at + length + 4 + 3 & ~3) % self.size
        self.store()


STEP = st.one_of(
    st.tuples(st.just("frame"), st.integers(60, 1514)),
    st.tuples(st.just("read"), st.integers(1, 8)),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([0, 1, 3]), st.booleans(), st.lists(STEP, min_size=20, max_size=120))
def test_ring_against_the_twin(rblen, wrap, steps):
    kit = Kit().start(r.RCR_APM | rblen << 11 | (r.RCR_WRAP if wrap else 0))
    twin = SlowRing(8192 << rblen, wrap)
    held = []
    for n, (kind, amount) in enumerate(steps):
        if kind == "frame":
            frame = frame_to(size=amount, fill=n)
            twin.wire.append(frame)
            held.append(frame)
        else:
            twin.advance(amount)
            kit.write(r.CAPR, 2, twin.read_at - 16 & 0xFFFF)
        twin.offer()
        while held and kit.receive(held[0]):
            held.pop(0)
        assert len(held) == len(twin.wire)
        assert kit.read(r.CBR, 2) == twin.cbr
        assert bool(kit.read(r.CR, 1) & r.CR_BUFE) == (twin.cbr == twin.read_at)
    extent = twin.size + (1536 if twin.wrap else 0)
    assert kit.peek(RING, extent) == bytes(twin.memory[:extent])


def test_another_ring_while_a_packet_is_on_its_way():
    """Its owner answers DMA late: the packet of the old ring must not move CBR in the new one."""
    kit = Kit().start(r.RCR_APM | r.RCR_RBLEN)
    kit.write(r.CAPR, 2, 0xFFF0)
    card = kit.card
    for n in range(20):
        kit.receive(frame_to(size=1000, fill=n))
        kit.write(r.CAPR, 2, kit.read(r.CBR, 2) - 16)
    card.rx.receive(frame_to(size=1000))
    engine = card.dma()
    next(engine)
    card.write(0, r.RCR, 4, r.RCR_APM)
    with pytest.raises(StopIteration):
        engine.send(None)
    assert kit.read(r.CBR, 2) == 0
    assert kit.read(r.CR, 1) & r.CR_BUFE


# early receive

IP = b"\x08\x00"
IPX = b"\x81\x37"


def typed(kind, size):
    frame = frame_to(size=size)
    return frame[:12] + kind + frame[14:]


def stages(kit, frame):
    """Receive ``frame``; what a driver sees at each move of CBR: (CBR, ERBCR, ERSR, ISR, the header's length)."""
    card = kit.card
    card.rx.receive(frame)
    seen = []
    at = 0
    for op in card.dma():  # what is yielded next: the one before it is done
        if card.rx.cbr != at:
            at = card.rx.cbr
            seen.append(state(kit))
        assert op[0] == "write"
        kit.poke(op[1], op[2])
    return [*seen, state(kit)]


def state(kit):
    values = [
        kit.card.read(0, offset, size) for offset, size in ((r.CBR, 2), (r.ERBCR, 2), (r.ERSR, 1), (r.ISR, 2))
    ]
    kit.card.write(0, r.ISR, 2, values[-1])
    return (*values, int.from_bytes(kit.peek(RING + 2, 2), "little"))


@pytest.mark.parametrize(
    ("kind", "rcr", "mulint", "early"),
    [
        (IP, 8, 0, 500),  # half of 1004 bytes with FCS, on a dword
        (IP, 1, 0, 60),
        (IPX, 15, 0, 940),
        (b"\x01\x00", 8, 0, 500),  # an 802.3 length
        (b"\x88\xb5", 8, 0, 0),  # not familiar: MULINT, which is 0
        (b"\x88\xb5", 0, 200, 200),
        (b"\x88\xb5", 8, 203, 200),
        (IP, 8, 200, 500),
        (IP, 0x80, 200, 200),  # MulERINT: MULINT for all
        (IP, 0, 2000, 0),
        (IP, 0, 0, 0),
    ],
)
def test_early_receive(kind, rcr, mulint, early):
    erth = (rcr & 15) << r.RCR_ERTH_SHIFT | (r.RCR_MULERINT if rcr & 0x80 else 0)
    kit = Kit().start(r.RCR_APM | erth)
    kit.write(r.MULINT, 2, mulint)
    frame = typed(kind, 1000)
    seen = stages(kit, frame)
    if early:
        first, last = seen
        assert first == (4 + early, early, r.ERSR_EROK, r.INT_ROK, r.RX_UNFINISHED)
        assert last == (1008, 1004, r.ERSR_GOOD, r.INT_ROK, 1004)
    else:
        assert seen == [(1008, 0, 0, r.INT_ROK, 1004)]
    assert kit.packets() == [(r.RX_PAM | r.RX_ROK, frame)]
    kit.write(r.ERSR, 1, 0xFF)
    assert kit.read(r.ERSR, 1) == 0


@pytest.mark.parametrize("wrap", [0, r.RCR_WRAP])
@pytest.mark.parametrize("erth", [1, 7, 15])
def test_early_packets_over_the_end_of_the_ring(wrap, erth):
    kit = Kit().start(r.RCR_APM | wrap | erth << r.RCR_ERTH_SHIFT)
    for n in range(60):
        frame = typed(IP, 60 + 97 * n % 1455)
        assert kit.receive(frame)
        assert [got for _, got in kit.packets()] == [frame]


@pytest.mark.parametrize("stop", range(4))
def test_early_packet_that_is_cut_off(stop):
    """By a reset, by the receiver's end, and by a snapshot: then it goes on."""
    for cut in ("reset", "off", "snapshot"):
        kit = Kit().start(r.RCR_APM | 8 << r.RCR_ERTH_SHIFT)
        kit.card.rx.receive(typed(IP, 1000))
        engine = kit.card.dma()
        for _ in range(min(stop, 2) + 1):
            op = next(engine)
            kit.poke(op[1], op[2])
        if cut == "snapshot":
            state = json.loads(json.dumps(kit.machine.snapshot()))
            other = Kit()
            other.machine.restore(state)
            assert [got for _, got in other.packets()] == [typed(IP, 1000)]
            continue
        kit.card.write(0, r.CR, 1, r.CR_RST if cut == "reset" else r.CR_TE)
        with pytest.raises(StopIteration):
            engine.send(None)
        assert kit.read(r.ERBCR, 2) == kit.read(r.ERSR, 1) == kit.read(r.CBR, 2) == 0
        kit.start(r.RCR_APM)
        assert kit.receive(frame_to())
        assert [got for _, got in kit.packets()] == [frame_to()]
