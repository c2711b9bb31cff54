"""The RTL8139 drivers on the emulated card, by registers and guest RAM only: C+ rings, and C mode for revision 0x10."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nic_models.bus.machine import Machine, PciLocation
from nic_models.models import plug
from nic_models.rtl8139 import registers as r
from tapnet.guest.drivers import DRIVERS, DriverError
from tapnet.guest.drivers.rtl8139 import COUNT, Rtl8139CDriver, Rtl8139CplusDriver
from tapnet.guest.drivers.rtl8139_base import TX_TIMEOUT
from tests.tapnet.guest.drivers.rig import BROADCAST, MAC, PEER, DriverRig, frame_to

RAM = 4 << 20
GROUP = bytes.fromhex("01005e000001")
SLOTS = {0x20: COUNT, 0x10: r.TX_DESCRIPTORS}  # transmit descriptors


class Rig(DriverRig):
    """A rig with a revision."""

    def __init__(self, rev=None, *, opened=True):
        self.time = 0
        self.sent, self.waiting, self.got = [], [], []
        self.wire_takes = self.stack_takes = True
        self.held = False
        self.writable = 0
        self.lines = [False] * 16
        self.machine = Machine("pc", RAM, now=lambda: self.time, on_irq=self._irq)
        self.slot = plug(self.machine, "rtl8139", MAC, self._tx, self._rx_ready, rev=rev)
        self.card = self.slot.card
        self.machine.boot()
        self.driver = probe(self.machine, self.slot.location, self)
        if opened:
            self.driver.open()

    def down(self, *frames):
        """The stack sends."""
        return [self.driver.transmit(frame) for frame in frames]


def probe(machine, location, rig=None):
    return DRIVERS["rtl8139"](
        machine,
        location,
        deliver=rig._deliver if rig else lambda f: None,
        writable=rig._writable if rig else lambda: None,
        now=(lambda: rig.time) if rig else (lambda: 0),
    )


@pytest.fixture(params=[0x20, 0x10])
def rev(request):
    return request.param


@pytest.fixture
def rig(rev):
    return Rig(rev)


# probe


def test_probe(rig, rev):
    assert type(rig.driver) is (Rtl8139CplusDriver if rev == 0x20 else Rtl8139CDriver)
    assert rig.driver.mac == MAC
    assert rig.driver.irq == 11
    assert rig.driver.link


def cards(ram=RAM, count=2):
    machine = Machine("pc", ram, now=lambda: 0)
    sent = []
    for n in range(count):
        mac = bytes((0x52, 0x54, 0, 0, 0, 3 + n))
        plug(machine, "rtl8139", mac, lambda f, v=b"", n=n: sent.append((n, f)) or True, lambda: None)
    machine.boot()
    return machine, sent


@pytest.mark.parametrize("slot", [3, 4, None])
def test_probe_of_a_slot(slot):
    driver = probe(cards()[0], None if slot is None else PciLocation(slot))
    assert driver.mac[-1] == (slot or 3)


def test_two_cards_of_one_machine_do_not_share_memory():
    machine, sent = cards()
    drivers = [probe(machine, PciLocation(slot)) for slot in (3, 4)]
    for driver in drivers:
        driver.open()
    for n in range(200):
        for index, driver in enumerate(drivers):
            assert driver.transmit(frame_to(PEER, 60, n * 2 + index))
    assert [f for n, f in sent if n == 0] == [frame_to(PEER, 60, n * 2) for n in range(200)]
    assert [f for n, f in sent if n == 1] == [frame_to(PEER, 60, n * 2 + 1) for n in range(200)]


def test_no_card():
    machine = Machine("pc", RAM, now=lambda: 0)
    with pytest.raises(DriverError, match=r"no 10ec:8139 on the bus"):
        probe(machine, None)


def test_too_little_ram():
    with pytest.raises(DriverError, match=r"slot 0x3: its driver needs 2M of guest RAM"):
        probe(cards(1 << 20)[0], PciLocation(3))


def test_without_an_address():
    machine, _ = cards()
    machine.slots[0].function.config_write(0x10, 4, 0)
    with pytest.raises(DriverError, match="no I/O address"):
        probe(machine, PciLocation(3))


def test_station_address_of_an_empty_eeprom():
    rig = Rig(opened=False)
    rig.card.config.eeprom.words = [0xFFFF] * 64
    assert probe(rig.machine, None, rig).mac == MAC  # what is in IDR


def test_no_station_address_at_all():
    rig = Rig(opened=False)
    rig.card.config.eeprom.words = [0xFFFF] * 64
    rig.card.reset()
    rig.slot.function.config_write(0x10, 4, 0xC001)
    rig.slot.function.config_write(4, 2, 7)
    with pytest.raises(DriverError, match="no station address"):
        probe(rig.machine, None, rig)


# frames


@pytest.mark.parametrize("size", [14, 59, 60, 61, 1513, 1514, 1518])
def test_transmit(rig, size):
    assert rig.down(frame_to(PEER, size)) == [True]
    assert rig.sent == [frame_to(PEER, size).ljust(60, b"\0")]


@pytest.mark.parametrize(("size", "reason"), [(13, "tx_size"), (1519, "tx_size")])
def test_transmit_of_no_frame(rig, size, reason):
    assert rig.down(bytes(size)) == [True]
    assert rig.driver.counters == {reason: 1}
    assert rig.sent == []


@pytest.mark.parametrize("size", [14, 60, 1514, 1518])
def test_receive(rig, size):
    rig.wire(frame_to(MAC, size))
    rig.settle()
    assert rig.got == [frame_to(MAC, size).ljust(60, b"\0")]
    assert rig.driver.counters == {"rx_frames": 1}


def test_many_frames_both_ways(rig):
    up, down = [], []
    for n in range(1000):
        up.append(frame_to(MAC, 60 + n % 1455, n))
        down.append(frame_to(PEER, 60 + n * 7 % 1455, n))
        rig.wire(up[-1])
        assert rig.down(down[-1]) == [True]
        if n % 11 == 0:
            rig.settle()
    rig.settle()
    assert rig.got == up
    assert rig.sent == down


@pytest.mark.parametrize("count", [63, 64, 65, 128, 300])
def test_a_burst_is_kept_whole(rig, count):
    """More frames than the ring holds arrive before the interrupt is served."""
    frames = [frame_to(MAC, 1514, n) for n in range(count)]
    rig.wire(*frames)
    rig.settle()
    assert rig.got == frames
    told = (
        type(rig.driver) is Rtl8139CplusDriver and count > 64
    )  # RDU; nothing is lost, so a C mode ring tells nothing
    assert ("rx_overflow" in rig.driver.counters) == told
    assert rig.card.counters == {} and rig.card.rx.missed == 0


def test_frames_before_open_and_after_close(rig):
    rig.driver.close()
    rig.driver.close()
    rig.wire(frame_to(MAC))
    assert rig.down(frame_to(PEER)) == [True]
    rig.settle()
    rig.driver.open()
    rig.driver.open()
    rig.wire(frame_to(MAC, fill=1))
    rig.down(frame_to(PEER, fill=1))
    rig.settle()
    assert rig.got == [frame_to(MAC, fill=1)]
    assert rig.sent == [frame_to(PEER, fill=1)]
    assert rig.driver.counters["tx_closed"] == 1


def test_close_lets_the_wire_go(rig):
    rig.wire(*[frame_to(MAC, 1514, n) for n in range(100)])
    assert rig.held
    rig.driver.close()
    assert not rig.held


def test_close_counts_what_was_not_sent(rig):
    rig.wire_takes = False
    rig.down(frame_to(PEER), frame_to(PEER))
    rig.driver.close()
    assert rig.driver.counters["tx_dropped"] == 2


def test_close_from_inside_deliver(rig):
    rig.driver.deliver = lambda frame: rig.driver.close()
    rig.wire(frame_to(MAC), frame_to(MAC))
    rig.settle()
    assert not rig.card.command


# back-pressure


def test_wire_that_does_not_take(rig, rev):
    rig.wire_takes = False
    frames = [frame_to(PEER, 100, n) for n in range(SLOTS[rev] + 1)]
    assert rig.down(*frames) == [True] * SLOTS[rev] + [False]
    assert rig.writable == 0
    rig.wire_takes = True
    rig.slot.tx_ready()
    rig.settle()
    assert rig.writable == 1
    assert rig.down(frames[-1]) == [True]
    rig.settle()
    assert rig.sent == frames
    assert rig.writable == 1


def test_no_interrupts_for_sent_frames_while_nobody_waits(rig):
    for n in range(50):
        rig.down(frame_to(PEER, 60, n))
        assert not rig.lines[rig.driver.irq]


def test_stack_that_does_not_take(rig):
    frames = [frame_to(MAC, 200, n) for n in range(10)]
    rig.wire(*frames[:3])
    rig.settle()
    rig.stack_takes = False
    rig.wire(*frames[3:8])
    rig.settle()
    assert rig.got == frames[:3]
    assert not rig.lines[rig.driver.irq]
    rig.wire(*frames[8:])
    rig.stack_takes = True
    rig.driver.resume()
    rig.settle()
    assert rig.got == frames
    rig.driver.resume()
    rig.wire(frame_to(MAC, 200, 99))
    rig.settle()
    assert rig.got[-1] == frame_to(MAC, 200, 99)


def test_stack_that_takes_a_few(rig):
    frames = [frame_to(MAC, 1514, n) for n in range(200)]
    room = [5]

    def deliver(frame):
        if not room[0]:
            return False
        room[0] -= 1
        rig.got.append(frame)
        return None

    rig.driver.deliver = deliver
    rig.wire(*frames)
    rig.settle()
    for _ in range(100):
        room[0] = 3
        rig.driver.resume()
        rig.settle()
    assert rig.got == frames


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([0x10, 0x20]),
    st.lists(
        st.one_of(
            st.tuples(st.just("up"), st.integers(1, 30)),
            st.tuples(st.just("down"), st.integers(1, 30)),
            st.tuples(st.just("wire"), st.booleans()),
            st.tuples(st.just("stack"), st.booleans()),
            st.tuples(st.just("settle"), st.none()),
        ),
        max_size=40,
    ),
)
def test_nothing_is_lost_or_reordered(rev, steps):
    rig = Rig(rev)
    up, down, backlog = [], [], []
    for kind, value in steps:
        if kind == "up":
            for _ in range(value):
                up.append(frame_to(MAC, 60 + len(up) * 31 % 1400, len(up)))
                rig.wire(up[-1])
        elif kind == "down":
            for _ in range(value):
                down.append(frame_to(PEER, 60 + len(down) * 37 % 1400, len(down)))
                backlog.append(down[-1])
        elif kind == "wire":
            rig.wire_takes = value
            if value:
                rig.slot.tx_ready()
        elif kind == "stack":
            rig.stack_takes = value
            if value:
                rig.driver.resume()
        else:
            rig.settle()
        while backlog and rig.driver.transmit(backlog[0]):
            backlog.pop(0)
    rig.wire_takes = rig.stack_takes = True
    rig.slot.tx_ready()
    for _ in range(100):
        rig.driver.resume()
        rig.settle()
        while backlog and rig.driver.transmit(backlog[0]):
            backlog.pop(0)
    assert rig.got == up
    assert rig.sent == down
    assert "tx_timeout" not in rig.driver.counters


# filter, link, errors


@pytest.mark.parametrize(
    ("promiscuous", "multicast", "wanted"),
    [
        (False, [], {MAC, BROADCAST}),
        (False, [GROUP], {MAC, BROADCAST, GROUP}),
        (False, None, {MAC, BROADCAST, GROUP}),
        (True, [], {MAC, BROADCAST, GROUP, PEER}),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_filter(rev, promiscuous, multicast, wanted, when):
    rig = Rig(rev, opened=False)
    if when == "before":
        rig.driver.set_filter(promiscuous, multicast)
    rig.driver.open()
    rig.driver.set_filter(promiscuous, multicast)
    rig.wire(*[frame_to(destination) for destination in (MAC, BROADCAST, GROUP, PEER)])
    rig.settle()
    assert {frame[:6] for frame in rig.got} == wanted


def test_filter_changes_keep_the_ring(rig):
    for n in range(200):
        rig.wire(frame_to(MAC, 700, n))
        rig.driver.set_filter(bool(n & 1), [GROUP])
        rig.settle()
    assert rig.got == [frame_to(MAC, 700, n) for n in range(200)]


def test_link(rig):
    rig.card.set_link(False)
    rig.settle()
    assert not rig.driver.link
    rig.down(frame_to(PEER))
    rig.card.set_link(True)
    rig.settle()
    assert rig.driver.link
    rig.down(frame_to(PEER, fill=1))
    assert rig.sent == [frame_to(PEER, fill=1)]


def test_link_is_seen_at_open(rev):
    rig = Rig(rev, opened=False)
    rig.card.set_link(False)
    rig.driver.open()
    assert not rig.driver.link


def test_transmit_timeout_restarts_the_card(rig, rev):
    rig.wire_takes = False
    rig.down(*[frame_to(PEER, 60, n) for n in range(SLOTS[rev] + 1)])
    assert rig.driver.next_deadline() == TX_TIMEOUT
    rig.pass_time(TX_TIMEOUT)
    assert rig.driver.counters["tx_timeout"] == 1
    assert rig.driver.counters["tx_dropped"] == SLOTS[rev]
    assert rig.writable == 1
    rig.wire_takes = True
    rig.down(frame_to(PEER, fill=7))
    rig.wire(frame_to(MAC, fill=7))
    rig.settle()
    assert rig.sent == [frame_to(PEER, fill=7)]
    assert rig.got == [frame_to(MAC, fill=7)]


def test_a_ring_that_lies_restarts_the_card():
    rig = Rig(0x10)
    rig.wire(frame_to(MAC, 60, 1))
    rig.machine.mem_write(rig.driver.ram + 0x2000, b"\xff" * 4)
    rig.wire(frame_to(MAC, 60, 2))
    rig.settle()
    assert rig.driver.counters["rx_bogus"] == rig.driver.counters["restarts"] == 1
    rig.wire(frame_to(MAC, 60, 3))
    rig.settle()
    assert rig.got == [frame_to(MAC, 60, 3)]


def test_a_frame_over_several_buffers_is_an_error():
    rig = Rig(0x20)
    rig.card.cplus.chip.rx.receive(frame_to(MAC, 3000))
    rig.slot.drive()
    rig.settle()
    rig.wire(frame_to(MAC, fill=1))
    rig.settle()
    assert rig.got == [frame_to(MAC, fill=1)]
    assert rig.driver.counters == {"rx_errors": 2, "rx_frames": 1}


def test_the_card_sees_only_its_drivers_memory(rig):
    """Nothing of RAM outside the driver's own part is touched."""
    ram = rig.machine.ram
    start, end = rig.driver.ram, rig.driver.ram + 0x40000
    before = ram.read(0, start), ram.read(end, RAM - end)
    for n in range(300):
        rig.wire(frame_to(MAC, 1514, n))
        rig.down(frame_to(PEER, 1514, n))
        rig.settle()
    assert (ram.read(0, start), ram.read(end, RAM - end)) == before
