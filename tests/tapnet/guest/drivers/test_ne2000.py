"""The NE2000 driver on the emulated boards, by registers only."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nic_models.bus.machine import IsaLocation, Machine, PciLocation
from nic_models.models import plug
from nic_models.ne2000 import registers as r
from nic_models.ne2000.dp8390 import OVERFLOW_GRACE
from nic_models.parts.multicast import filter_with
from tapnet.guest.drivers import DRIVERS, DriverError
from tapnet.guest.drivers.ne2000 import OVERFLOW_WAIT, TX_TIMEOUT
from tests.tapnet.guest.drivers.rig import BROADCAST, MAC, PEER, DriverRig, frame_to

MODELS = ["ne2k_pci", "ne2k_isa"]
GRACE = 50_000_000


@pytest.fixture(params=MODELS)
def rig(request):
    return DriverRig(request.param)


# -- probe -------------------------------------------------------------------------------------------------------


def test_probe(rig):
    assert rig.driver.mac == MAC
    assert rig.driver.irq == (11 if rig.machine.kind == "pc" else 9)
    assert rig.driver.link


def drive(machine, model, location):
    return DRIVERS[model](machine, location, deliver=lambda f: None, writable=lambda: None, now=lambda: 0)


def cards(kind, *macs, **more):
    machine = Machine(kind, 0, now=lambda: 0)
    model = "ne2k_isa" if kind == "isapc" else "ne2k_pci"
    for mac in macs:
        plug(machine, model, bytes.fromhex(mac), lambda f, v=b"": True, lambda: None, **more)
    machine.boot()
    return machine


@pytest.mark.parametrize("slot", [3, 4, None])
def test_probe_of_a_slot(slot):
    machine = cards("pc", "525400000003", "525400000004")
    driver = drive(machine, "ne2k_pci", None if slot is None else PciLocation(slot))
    assert driver.mac[-1] == (slot or 3)


@pytest.mark.parametrize(("iobase", "irq"), [(0x300, 9), (0x320, 10), (None, 9)])
def test_probe_of_isa_ports(iobase, irq):
    machine = cards("isapc", "525400000003", "525400000004")
    driver = drive(machine, "ne2k_isa", None if iobase is None else IsaLocation(iobase, irq))
    assert (driver.mac[-1], driver.irq) == ((4, 10) if iobase == 0x320 else (3, 9))


def test_a_board_elsewhere_is_found_by_probing():
    driver = drive(cards("isapc", "525400000003", iobase=0x360), "ne2k_isa", None)
    assert (driver.base, driver.irq) == (0x360, 3)


@pytest.mark.parametrize(
    ("kind", "model", "location"),
    [
        ("pc", "ne2k_pci", None),
        ("pc", "ne2k_pci", PciLocation(3)),
        ("pc", "ne2k_pci", PciLocation(1)),
        ("isapc", "ne2k_isa", None),
        ("isapc", "ne2k_isa", IsaLocation(0x300, 9)),
    ],
)
def test_no_card(kind, model, location):
    with pytest.raises(DriverError, match=r"^no "):
        drive(cards(kind), model, location)


def test_firmware_did_not_run():
    machine = Machine("pc", 0, now=lambda: 0)
    plug(machine, "ne2k_pci", MAC, lambda f, v=b"": True, lambda: None)
    with pytest.raises(DriverError, match="no I/O address"):
        drive(machine, "ne2k_pci", None)


class Latch:
    """Something at 0x300 that is no NE2000: its registers keep what is written."""

    model = "latch"
    mac = MAC

    def __init__(self):
        self.cells = bytearray(32)

    def read(self, region, offset, size):
        return self.cells[offset]

    def write(self, region, offset, size, value):
        self.cells[offset] = value

    def read_block(self, region, offset, size, count):
        return bytes(size * count)

    def receive(self, frame, vnet=b""):
        return True

    def tx_ready(self): ...
    def run(self, now): ...
    def write_block(self, region, offset, size, data): ...


def test_something_else_at_the_ports():
    machine = Machine("isapc", 0, now=lambda: 0)
    latch = Latch()
    latch.cells[:] = bytes(range(32))
    machine.plug_isa(latch, 0x300, 9)
    with pytest.raises(DriverError, match="no NE2000 at 0x300"):
        drive(machine, "ne2k_isa", IsaLocation(0x300, 9))
    assert latch.cells[0] == 0  # put back what the probe had written
    assert latch.cells[13] == 0xFF or latch.cells[13] == 13


# -- frames ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [14, 42, 59, 60, 61, 62, 63, 64, 252, 253, 1513, 1514, 1518])
def test_transmit(rig, size):
    frame = frame_to(PEER, size)
    assert rig.driver.transmit(frame)
    rig.settle()
    assert rig.sent == [frame.ljust(60, b"\0")]
    assert rig.driver.counters == {"tx_frames": 1}


@pytest.mark.parametrize("size", [60, 61, 62, 63, 64, 252, 253, 1513, 1514, 1518])
@pytest.mark.parametrize("destination", [MAC, BROADCAST])
def test_receive(rig, size, destination):
    frame = frame_to(destination, size)
    rig.wire(frame)
    rig.settle()
    assert rig.got == [frame]
    assert rig.driver.counters == {"rx_frames": 1}


def test_thousands_of_frames_both_ways(rig):
    rng = random.Random(1)
    sent, received = [], []
    for number in range(5000):
        if rng.random() < 0.5:
            frame = frame_to(PEER, rng.randint(60, 1514), number)
            if rig.driver.transmit(frame):
                sent.append(frame)
        else:
            frame = frame_to(MAC, rng.randint(60, 1514), number)
            received.append(frame)
            rig.wire(frame)
        if rng.random() < 0.3:
            rig.settle()
    rig.settle()
    assert rig.sent == sent
    assert rig.got == received
    assert rig.driver.counters == {"tx_frames": len(sent), "rx_frames": len(received)}
    assert set(rig.card.counters) <= {"held"}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODELS), st.randoms(use_true_random=False), st.integers(1, 60))
def test_no_frame_is_lost_or_doubled(model, rng, steps):
    """Wire and stack refuse at random, time passes at random (so that overflows happen)."""
    rig = DriverRig(model)
    sent, received = [], []
    for number in range(steps):
        choice = rng.randrange(6)
        if choice == 0:
            frame = frame_to(PEER, rng.randint(60, 1514), number)
            if rig.driver.transmit(frame):
                sent.append(frame)
        elif choice in (1, 2):
            frames = [
                frame_to(MAC, rng.randint(60, 1514), number * 100 + n) for n in range(rng.randint(1, 30))
            ]
            received.extend(frames)
            rig.wire(*frames)
        elif choice == 3:
            rig.wire_takes = not rig.wire_takes
            if rig.wire_takes:
                rig.slot.tx_ready()
        elif choice == 4:
            rig.stack_takes = not rig.stack_takes
            if rig.stack_takes:
                rig.driver.resume()
        else:
            rig.pass_time(rig.time + rng.choice([1000, OVERFLOW_WAIT, GRACE, 2 * GRACE]))
        if rng.random() < 0.5:
            rig.settle()
    rig.wire_takes = rig.stack_takes = True
    rig.slot.tx_ready()
    rig.driver.resume()
    rig.settle()
    rig.pass_time(rig.time + 10 * GRACE)
    rig.settle()
    assert len(received) - len(rig.got) == rig.card.counters.get(
        "overflow", 0
    )  # what was told as lost, no more
    left = iter(received)
    assert all(frame in left for frame in rig.got)
    assert rig.sent == sent
    assert rig.waiting == []


# -- back-pressure -------------------------------------------------------------------------------------------------


def test_two_buffers_then_busy(rig):
    rig.wire_takes = False
    frames = [frame_to(PEER, 100, n) for n in range(3)]
    assert rig.driver.transmit(frames[0])
    assert rig.driver.transmit(frames[1])
    assert not rig.driver.transmit(frames[2])
    rig.settle()
    assert (rig.sent, rig.writable) == ([], 0)
    rig.wire_takes = True
    rig.slot.tx_ready()
    rig.settle()
    assert rig.sent == frames[:2]
    assert rig.writable == 1
    assert rig.driver.transmit(frames[2])
    rig.settle()
    assert rig.sent == frames
    assert rig.writable == 1


def test_a_full_stack_leaves_frames_in_the_ring(rig):
    rig.stack_takes = False
    frames = [frame_to(size=1000, fill=n) for n in range(40)]
    rig.wire(*frames)
    rig.settle()
    assert rig.got == []
    assert rig.held
    rig.pass_time(10 * GRACE)  # no interrupt storm, no recovery for a ring that the driver itself keeps full
    assert "rx_overflow" not in rig.driver.counters
    rig.driver.transmit(frame_to(PEER))  # the transmitter goes on
    rig.settle()
    assert len(rig.sent) == 1
    rig.stack_takes = True
    rig.driver.resume()
    rig.settle()
    rig.pass_time(rig.time + 10 * GRACE)
    assert rig.got == frames


def test_the_stack_fills_up_in_the_middle(rig):
    frames = [frame_to(size=100, fill=n) for n in range(10)]
    original = rig.driver.deliver

    def deliver(frame):
        if len(rig.got) == 4:
            rig.stack_takes = False
        return original(frame)

    rig.driver.deliver = deliver
    rig.wire(*frames)
    rig.settle()
    assert rig.got == frames[:4]
    rig.driver.deliver = original
    rig.stack_takes = True
    rig.driver.resume()
    rig.settle()
    assert rig.got == frames


# -- overflow -------------------------------------------------------------------------------------------------------


def overflowed(model):
    """The chip has lost a frame and reported the overflow; the driver has not yet seen it."""
    rig = DriverRig(model)
    rig.frames = [frame_to(size=1000, fill=n) for n in range(30)]
    rig.wire(*rig.frames)
    rig.time = OVERFLOW_GRACE
    rig.machine.run(OVERFLOW_GRACE)
    assert not rig.held
    lost = rig.waiting[0]
    rig.wire()
    assert rig.held
    rig.frames.remove(lost)
    return rig


@pytest.mark.parametrize("model", MODELS)
def test_overflow_recovery(model):
    rig = overflowed(model)
    rig.driver.interrupt()
    assert rig.driver.counters == {"rx_overflow": 1}
    assert rig.card.read(0, r.CR, 1) & r.STP
    assert rig.driver.next_deadline() == OVERFLOW_GRACE + OVERFLOW_WAIT
    assert not rig.lines[rig.driver.irq]
    rig.driver.interrupt()  # a shared line: nothing to do now
    assert not rig.driver.transmit(frame_to(PEER))
    rig.pass_time(OVERFLOW_GRACE + OVERFLOW_WAIT)
    rig.settle()
    assert rig.got == rig.frames
    assert rig.writable == 1
    assert rig.driver.transmit(frame_to(PEER))
    rig.settle()
    assert len(rig.sent) == 1
    assert rig.card.counters == {"held": rig.card.counters["held"], "overflow": 1}


@pytest.mark.parametrize("model", MODELS)
def test_overflow_while_a_transmit_is_out(model):
    rig = overflowed(model)
    rig.wire_takes = False
    frame = frame_to(PEER, 200)
    assert rig.driver.transmit(frame)
    rig.driver.interrupt()
    rig.pass_time(OVERFLOW_GRACE + OVERFLOW_WAIT)
    rig.settle()
    rig.wire_takes = True
    rig.slot.tx_ready()
    rig.settle()
    assert rig.sent == [frame]
    assert rig.got == rig.frames


@pytest.mark.parametrize("model", MODELS)
def test_closing_within_the_recovery(model):
    rig = overflowed(model)
    rig.driver.interrupt()
    rig.driver.close()
    assert not rig.held  # the wire is let go
    rig.settle()
    assert rig.driver.next_deadline() is None
    assert rig.got == []
    rig.driver.open()
    rig.wire(frame_to())
    rig.settle()
    assert rig.got == [frame_to()]


# -- trouble ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 0x02), (0, 0x00), (1, 0x10), (1, 0x80), (1, 0x50), (2, 0xFF), (3, 0xFF), (3, 0x00)],
    ids=["crc", "nothing", "low next", "high next", "far next", "count", "large", "small"],
)
def test_bogus_headers(rig, offset, value):
    rig.wire(frame_to(size=600, fill=1))
    rig.card.memory.cells[(0x4C << 8) + offset] = value
    rig.settle()
    assert rig.got == []
    reason = "rx_errors" if offset == 0 else "rx_bogus"
    assert rig.driver.counters == {reason: 1}
    rig.wire(frame_to(size=600, fill=2))
    rig.settle()
    assert rig.got == [frame_to(size=600, fill=2)]


def test_curr_outside_the_ring_restarts_the_card(rig):
    rig.card.chip.curr = 0x20
    rig.card.chip.isr |= r.ISR_PRX
    rig.driver.interrupt()
    assert rig.driver.counters["restarts"] == 1
    rig.wire(frame_to())
    rig.settle()
    assert rig.got == [frame_to()]


def test_transmit_timeout(rig):
    rig.wire_takes = False
    assert rig.driver.transmit(frame_to(PEER, fill=1))
    assert rig.driver.transmit(frame_to(PEER, fill=2))
    assert not rig.driver.transmit(frame_to(PEER, fill=3))
    assert rig.driver.next_deadline() == TX_TIMEOUT
    rig.pass_time(TX_TIMEOUT)
    assert rig.driver.counters == {"tx_timeout": 1, "restarts": 1, "tx_dropped": 2}
    assert rig.writable == 1
    rig.wire_takes = True
    assert rig.driver.transmit(frame_to(PEER, fill=3))
    rig.settle()
    assert rig.sent == [frame_to(PEER, fill=3)]


def test_a_lost_interrupt_is_found_by_the_timer(rig):
    rig.driver.transmit(frame_to(PEER))
    rig.driver.transmit(frame_to(PEER, fill=1))
    rig.time = TX_TIMEOUT
    rig.driver.run(TX_TIMEOUT)
    assert "restarts" not in rig.driver.counters
    assert len(rig.sent) == 2


def test_tally_counters_are_collected(rig):
    for _ in range(3):
        rig.card.receive_raw(frame_to(), crc_error=True)
    rig.card.receive_raw(frame_to(), alignment_error=True)
    rig.settle()
    assert rig.driver.counters == {"rx_crc": 3, "rx_alignment": 1}


def test_link(rig):
    rig.card.set_link(False)
    rig.driver.transmit(frame_to(PEER))
    rig.settle()
    assert not rig.driver.link
    rig.card.set_link(True)
    rig.driver.transmit(frame_to(PEER))
    rig.settle()
    assert rig.driver.link


@pytest.mark.parametrize("size", [0, 13, 1519, 9000])
def test_frames_that_do_not_fit(rig, size):
    assert rig.driver.transmit(bytes(size))
    assert rig.driver.counters == {"tx_size": 1}


def test_closed(rig):
    rig.driver.close()
    rig.driver.close()
    assert rig.driver.transmit(frame_to(PEER))
    rig.wire(frame_to())
    rig.settle()
    rig.driver.interrupt()
    rig.driver.resume()
    assert (rig.sent, rig.got) == ([], [])
    assert rig.driver.counters == {"tx_closed": 1}
    assert rig.card.counters == {"stopped": 1}
    rig.driver.open()
    rig.driver.open()
    rig.wire(frame_to())
    rig.settle()
    assert rig.got == [frame_to()]


# -- filter --------------------------------------------------------------------------------------------------------


def test_filter(rig):
    group, other = bytes.fromhex("01005e000001"), bytes.fromhex("01005e000016")
    rig.driver.set_filter(False, [group])
    rig.wire(frame_to(group), frame_to(other), frame_to(PEER), frame_to(BROADCAST), frame_to())
    rig.settle()
    assert [f[:6] for f in rig.got] == [group, BROADCAST, MAC]
    rig.got.clear()
    rig.driver.set_filter(False, None)
    rig.wire(frame_to(other), frame_to(PEER))
    rig.driver.set_filter(True, [])
    rig.wire(frame_to(other), frame_to(PEER))
    rig.settle()
    assert [f[:6] for f in rig.got] == [other, other, PEER]


def test_filter_is_kept_over_close_and_recovery():
    rig = DriverRig(opened=False)
    rig.driver.set_filter(True, [])
    rig.driver.open()
    rig.wire(frame_to(PEER))
    rig.settle()
    assert len(rig.got) == 1
    other = overflowed("ne2k_pci")
    other.driver.interrupt()
    other.driver.set_filter(True, [])
    other.pass_time(OVERFLOW_GRACE + OVERFLOW_WAIT)
    other.settle()
    assert other.got == other.frames
    other.wire(frame_to(PEER))
    other.settle()
    assert other.got[-1] == frame_to(PEER)
    assert filter_with([]) == bytes(8)


# -- everything goes through registers -----------------------------------------------------------------------------------


class WatchedMachine(Machine):
    """Counts the bytes that pass through its ports, and can be cut off from its cards."""

    def __init__(self, *args, **more):
        self.cut = False
        self.reads = self.writes = 0
        super().__init__(*args, **more)

    def io_read(self, port, size):
        self.reads += size
        return (1 << 8 * size) - 1 if self.cut else super().io_read(port, size)

    def io_write(self, port, size, value):
        self.writes += size
        if not self.cut:
            super().io_write(port, size, value)

    def io_read_block(self, port, size, count):
        self.reads += size * count
        return b"\xff" * size * count if self.cut else super().io_read_block(port, size, count)

    def io_write_block(self, port, size, data):
        self.writes += len(data)
        if not self.cut:
            super().io_write_block(port, size, data)


@pytest.mark.parametrize("model", MODELS)
def test_every_frame_goes_through_the_registers(model):
    rig = DriverRig(model, machine=WatchedMachine)
    machine = rig.machine
    for size in (60, 500, 1514):
        machine.reads = machine.writes = 0
        rig.driver.transmit(frame_to(PEER, size))
        assert machine.writes >= size
        machine.reads = 0
        rig.settle()
        rig.wire(frame_to(size=size))
        rig.settle()
        assert machine.reads >= size
    assert (len(rig.sent), len(rig.got)) == (3, 3)
    machine.cut = True  # the ports lead nowhere: no frame passes, either way
    assert rig.driver.transmit(frame_to(PEER)) in (True, False)
    rig.wire(frame_to())
    for _ in range(10):
        rig.driver.interrupt()
    rig.driver.resume()
    assert (len(rig.sent), len(rig.got)) == (3, 3)


@pytest.mark.parametrize("model", MODELS)
def test_a_card_that_vanishes(model):
    """All ones everywhere: the driver stays calm."""
    rig = DriverRig(model, machine=WatchedMachine)
    rig.machine.cut = True
    for number in range(5):
        rig.driver.transmit(frame_to(PEER, fill=number))
        rig.driver.interrupt()
        rig.pass_time(rig.time + TX_TIMEOUT)
    rig.driver.close()
