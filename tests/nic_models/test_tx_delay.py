"""``tx_delay``: a frame takes its time on a wire of the card's speed, then it leaves and its transmission completes."""

from __future__ import annotations

import json

import pytest

from nic_models.ne2000 import registers as d
from nic_models.parts.padding import wire_ns
from nic_models.pcnet import registers as p
from nic_models.rtl8139 import registers as r
from tests.nic_models.pcnet_kit import OWN, Bench, started
from tests.nic_models.rig import Rig, isa
from tests.nic_models.rtl8139_kit import TX_RING, Kit, frame_to

FRAME = frame_to(size=100)


class Ne2000:
    """One transmit of an NE2000, and the same questions for every card."""

    speed = 10

    def __init__(self, make=Rig):
        self.make = make
        self.rig = make().start()
        self.card = self.rig.card
        self.card.tx_delay = True

    def begin(self, frame=FRAME):
        self.rig.send(frame)

    def done(self):
        return bool(self.rig.inb(d.ISR) & d.ISR_PTX) and not self.rig.inb(d.CR) & d.TXP

    ended = done

    def sent(self):
        return self.rig.wire

    def wait(self, ns):
        self.rig.time += ns
        self.card.run(self.rig.time)

    def takes(self, on):
        self.rig.wire_takes = on
        if on:
            self.card.tx_ready()

    def clone(self):
        other = type(self)(self.make) if type(self) is Ne2000 else type(self)()
        other.rig.time = self.rig.time
        other.card.restore(json.loads(json.dumps(self.card.snapshot())))
        return other


class Rtl8139(Ne2000):
    speed = 100
    rev: int | None = 0x10

    def __init__(self):
        self.rig = Kit(self.rev).start()
        self.card = self.rig.card
        self.card.tx_delay = True
        self.at = 0

    def begin(self, frame=FRAME):
        self.rig.send(frame, self.at)
        self.at = (self.at + 1) % 4

    def done(self):
        return (
            self.rig.read(r.ISR, 2) & r.INT_TOK
            and self.rig.read(r.TSD0 + 4 * ((self.at - 1) % 4), 4) & r.TSD_TOK
        )

    def ended(self):
        return self.rig.read(r.ISR, 2) & (r.INT_TOK | r.INT_TER)

    def wait(self, ns):
        self.rig.wait(ns)

    def takes(self, on):
        self.rig.wire_takes = on
        if on:
            self.rig.slot.tx_ready()

    def clone(self):
        other = type(self)()
        other.rig.time = self.rig.time
        other.at = self.at
        other.rig.machine.restore(json.loads(json.dumps(self.rig.machine.snapshot())))
        return other


class Rtl8139Plus(Rtl8139):
    rev = None

    def __init__(self):
        super().__init__()
        self.rig.start_cplus()

    def begin(self, frame=FRAME):
        self.rig.put(frame)

    def done(self):
        return (
            self.rig.read(r.ISR, 2) & r.INT_TOK
            and not self.rig.descriptor(TX_RING, self.rig.tx_at - 1)[0] & r.D_OWN
        )

    def clone(self):
        other = super().clone()
        other.rig.tx_at = self.rig.tx_at
        return other


class Pcnet(Ne2000):
    def __init__(self):
        self.rig = started(2)
        self.card = self.rig.card
        self.card.tx_delay = True

    def begin(self, frame=FRAME):
        self.rig.send(frame)

    def done(self):
        last = (self.rig.tx_at - 1) % self.rig.tx_count
        return self.rig.csr(0) & p.TINT and not self.rig.descriptor(self.rig.tx_address(last))[1] & OWN

    ended = done

    def sent(self):
        return self.rig.sent

    def wait(self, ns):
        self.rig.tick(ns)

    def takes(self, on):
        self.rig.accept = on
        if on:
            self.rig.open_wire()

    def clone(self):
        other = type(self)()
        other.rig = Bench(memory=self.rig.memory)
        other.rig.clock = self.rig.clock
        other.rig.tx_count, other.rig.tx_at = self.rig.tx_count, self.rig.tx_at
        other.card = other.rig.card
        other.card.tx_delay = True
        other.card.restore(json.loads(json.dumps(self.card.snapshot())))
        other.rig.drive()
        return other


CARDS = {
    "ne2k_pci": Ne2000,
    "ne2k_isa": lambda: Ne2000(isa),
    "rtl8139": Rtl8139Plus,
    "rtl8139c": Rtl8139,
    "pcnet": Pcnet,
}


@pytest.fixture(params=CARDS)
def one(request):
    return CARDS[request.param]()


def test_the_time_of_frames():
    assert wire_ns(60, 10) == wire_ns(14, 10) == 67_200  # 14,880 frames a second
    assert wire_ns(1514, 100) == 123_040


def test_it_is_off_unless_asked_for(one):
    one.card.tx_delay = False
    one.begin()
    assert one.done() and one.sent() == [FRAME]


@pytest.mark.parametrize("size", [60, 1514])
def test_a_frame_takes_its_time(one, size):
    frame = frame_to(size=size)
    time = wire_ns(size, one.speed)
    one.begin(frame)
    assert not one.done() and one.sent() == []
    one.wait(time - 1)
    assert not one.done() and one.sent() == []
    one.wait(1)
    assert one.done() and one.sent() == [frame]


def test_frames_follow_one_another(one):
    if type(one) is Ne2000:  # one at a time
        for _ in range(3):
            one.begin()
            one.wait(wire_ns(100, one.speed))
    else:
        for _ in range(3):
            one.begin()
        for count in range(3):
            assert len(one.sent()) == count
            one.wait(wire_ns(100, one.speed))
    assert one.sent() == [FRAME] * 3 and one.done()


def test_a_wire_that_does_not_take_it_then(one):
    one.takes(False)
    one.begin()
    one.takes(True)  # the wire was ready all the time: the frame is not yet
    assert one.sent() == []
    one.takes(False)
    one.wait(1_000_000)
    assert not one.done()
    one.takes(True)
    assert one.done() and one.sent() == [FRAME]


def test_a_snapshot_while_it_is_on_the_wire(one):
    one.begin()
    one.wait(1000)
    other = one.clone()
    assert not other.done() and other.sent() == []
    other.wait(wire_ns(100, one.speed) - 1001)
    assert not other.done() and other.sent() == []
    other.wait(1)
    assert other.done() and other.sent() == [FRAME]


def test_a_reset_ends_it(one):
    one.begin()
    one.card.reset()
    one.wait(1_000_000)
    assert one.sent() == []


def test_no_cable(one):
    """The transmission fails, after its time too."""
    one.card.set_link(False)
    one.begin()
    one.wait(wire_ns(100, one.speed) - 1)
    assert not one.ended()
    one.wait(1)
    assert one.ended() and one.sent() == []


def test_a_stopped_ne2000_or_rtl8139_still_sends_it():
    ne2000 = Ne2000()
    ne2000.begin()
    ne2000.rig.outb(d.CR, 0x21)
    assert ne2000.sent() == [FRAME] and ne2000.rig.inb(d.ISR) & d.ISR_PTX
    rtl = Rtl8139()
    rtl.begin()
    rtl.begin(frame_to(fill=1))
    rtl.rig.write(r.CR, 1, r.CR_RE)
    rtl.wait(1_000_000)
    assert rtl.sent() == [FRAME] and rtl.rig.read(r.TSD0, 4) & r.TSD_TOK


def test_a_stopped_pcnet_does_not():
    pcnet = Pcnet()
    pcnet.begin()
    pcnet.rig.csr(0, p.STOP)
    pcnet.wait(1_000_000)
    assert pcnet.sent() == [] and pcnet.card.next_deadline() is None


def test_a_suspended_pcnet_sends_it_first():
    pcnet = Pcnet()
    pcnet.begin()
    pcnet.begin(frame_to(fill=1))
    pcnet.rig.csr(5, p.SPND)
    assert not pcnet.rig.csr(5) & p.SPND
    pcnet.wait(wire_ns(100, 10))
    assert pcnet.rig.csr(5) & p.SPND and pcnet.sent() == [FRAME]
    pcnet.wait(1_000_000)
    assert len(pcnet.sent()) == 1
    pcnet.rig.csr(5, 0)
    pcnet.wait(10_000_000)
    assert len(pcnet.sent()) == 2


def test_a_slower_rtl8139():
    rtl = Rtl8139()
    rtl.rig.write(r.CR9346, 1, 0xC0)
    rtl.rig.write(r.BMCR, 2, 0)
    rtl.wait(10_000_000_000)
    rtl.begin()
    rtl.wait(wire_ns(100, 10) - 1)
    assert not rtl.sent()
    rtl.wait(1)
    assert rtl.sent() == [FRAME]
