"""The PCnet driver on the emulated card, by registers and rings only."""

from __future__ import annotations

import random

import pytest

from nic_models.bus.machine import Machine, PciLocation
from nic_models.models import plug
from nic_models.pcnet import registers as r
from nic_models.pcnet.receiver import HOLD_NS
from tapnet.guest.drivers import DRIVERS, DriverError
from tapnet.guest.drivers.base import RAM_BASE, RAM_SIZE
from tapnet.guest.drivers.pcnet import COUNT, RX_RING, TX_TIMEOUT, WATCHDOG
from tests.tapnet.guest.drivers.rig import BROADCAST, MAC, PEER, DriverRig, frame_to

RAM = 4 << 20
GROUP = bytes.fromhex("01005e000001")


def machine(kind, _size, **options):
    return Machine(kind, RAM, **options)


@pytest.fixture
def rig():
    return DriverRig("pcnet", machine=machine)


def probe(bus, location=None):
    return DRIVERS["pcnet"](bus, location, deliver=lambda f: None, writable=lambda: None, now=lambda: 0)


def cards(*macs, ram=RAM, boot=True):
    bus = Machine("pc", ram, now=lambda: 0)
    for mac in macs:
        plug(bus, "pcnet", bytes.fromhex(mac), lambda f, v=b"": True, lambda: None)
    if boot:
        bus.boot()
    return bus


# -- probe -------------------------------------------------------------------------------------------------


def test_probe(rig):
    assert rig.driver.mac == MAC
    assert rig.driver.irq == 11
    assert rig.driver.link


@pytest.mark.parametrize("slot", [3, 4, None])
def test_probe_of_a_slot(slot):
    bus = cards("525400000003", "525400000004")
    driver = probe(bus, None if slot is None else PciLocation(slot))
    assert driver.mac[-1] == (slot or 3)
    assert driver.ram == RAM_BASE + (slot or 3) * RAM_SIZE


def test_station_address_without_prom_mark():
    bus = cards("525400000003")
    bus.slots[0].card.aprom[:16] = bytes(16)
    assert probe(bus).mac == bytes.fromhex("525400000003")
    bus.slots[0].card.csr[12:15] = [1, 0, 0]
    with pytest.raises(DriverError, match="station address"):
        probe(bus)


def test_no_card():
    with pytest.raises(DriverError, match="1022:2000"):
        probe(cards())


def test_firmware_did_not_run():
    with pytest.raises(DriverError, match="I/O address"):
        probe(cards("525400000003", boot=False))


def test_too_little_ram():
    with pytest.raises(DriverError, match="2M of guest RAM"):
        probe(cards("525400000003", ram=1 << 20))


def test_card_that_was_left_in_dword_mode():
    bus = cards("525400000003")
    address = bus.slots[0].function.address(0)
    bus.io_write(address + 0x10, 4, 0)
    driver = probe(bus)
    assert driver.mac[-1] == 3
    driver.open()
    assert driver.transmit(frame_to(PEER))
    driver._reap()
    assert driver.counters == {"tx_frames": 1}


# -- frames ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [14, 42, 59, 60, 61, 252, 1513, 1514, 1518])
def test_transmit(rig, size):
    frame = frame_to(PEER, size)
    assert rig.driver.transmit(frame)
    rig.settle()
    assert rig.sent == [frame.ljust(60, b"\0")]


@pytest.mark.parametrize("size", [13, 1519])
def test_transmit_refuses_sizes(rig, size):
    assert rig.driver.transmit(bytes(size))
    assert rig.sent == [] and rig.driver.counters == {"tx_size": 1}


@pytest.mark.parametrize("size", [42, 60, 61, 252, 1513, 1514, 1518])
@pytest.mark.parametrize("destination", [MAC, BROADCAST])
def test_receive(rig, size, destination):
    frame = frame_to(destination, size)
    rig.wire(frame)
    rig.settle()
    assert rig.got == [frame.ljust(60, b"\0")]
    assert rig.driver.counters == {"rx_frames": 1}


def test_thousands_of_frames_both_ways(rig):
    rng = random.Random(1)
    sent, received = [], []
    for number in range(4000):
        if rng.random() < 0.5:
            sent.append(frame_to(PEER, rng.randrange(60, 1515), number))
            assert rig.driver.transmit(sent[-1])
        else:
            received.append(frame_to(MAC, rng.randrange(60, 1515), number))
            rig.wire(received[-1])
        if rng.random() < 0.1:
            rig.settle()
    rig.settle()
    assert rig.sent == sent
    assert rig.got == received
    rig.driver._reap()
    assert rig.driver.counters == {"tx_frames": len(sent), "rx_frames": len(received)}


def test_bursts_longer_than_the_ring_wait_on_the_wire(rig):
    frames = [frame_to(MAC, 100, n) for n in range(3 * COUNT)]
    rig.wire(*frames)
    assert rig.held
    rig.settle()
    rig.pass_time(rig.time + 10_000_000)
    assert rig.got == frames
    assert rig.driver.counters["rx_frames"] == 3 * COUNT
    assert rig.card.csr[r.MFC] == 0


def test_busy_wire(rig):
    rig.wire_takes = False
    frames = [frame_to(PEER, 100, n) for n in range(COUNT + 1)]
    taken = [rig.driver.transmit(frame) for frame in frames]
    assert taken == [True] * COUNT + [False]
    assert not rig.driver.transmit(frames[-1])
    rig.settle()
    assert rig.writable == 0
    rig.wire_takes = True
    rig.slot.tx_ready()
    rig.settle()
    assert rig.sent == frames[:-1]
    assert rig.writable == 1
    assert rig.driver.transmit(frames[-1])
    rig.settle()
    assert rig.sent == frames
    assert not rig.lines[rig.driver.irq]


def test_no_interrupts_for_sent_frames(rig):
    seen = []
    rig.machine.on_irq = lambda irq, level: seen.append(level)
    for number in range(100):
        rig.driver.transmit(frame_to(PEER, 60, number))
    assert seen == []


def test_transmit_timeout_restarts(rig):
    rig.wire_takes = False
    for number in range(COUNT + 1):
        rig.driver.transmit(frame_to(PEER, 60, number))
    rig.pass_time(rig.time + TX_TIMEOUT)
    assert rig.driver.counters["tx_timeout"] == rig.driver.counters["restarts"] == 1
    assert rig.driver.counters["tx_dropped"] == COUNT
    assert rig.writable == 1
    rig.wire_takes = True
    rig.slot.tx_ready()
    assert rig.driver.transmit(frame_to(PEER, 61))
    rig.settle()
    assert len(rig.sent) == 1


def test_slow_stack(rig):
    rig.wire(frame_to(MAC, 60, 1))
    rig.settle()
    rig.stack_takes = False
    frames = [frame_to(MAC, 60, n) for n in range(5)]
    rig.wire(*frames)
    rig.settle()
    assert len(rig.got) == 1
    assert not rig.lines[rig.driver.irq]
    rig.driver.transmit(frame_to(PEER))
    assert len(rig.sent) == 1
    rig.stack_takes = True
    rig.driver.resume()
    rig.settle()
    assert rig.got[1:] == frames
    rig.wire(frame_to(MAC, 60, 9))
    rig.settle()
    assert rig.got[-1] == frame_to(MAC, 60, 9)


def test_slow_stack_with_a_full_ring(rig):
    rig.stack_takes = False
    frames = [frame_to(MAC, 60, n) for n in range(2 * COUNT)]
    rig.wire(*frames)
    rig.settle()
    assert rig.held
    rig.stack_takes = True
    rig.driver.resume()
    rig.settle()
    rig.pass_time(rig.time + 5_000_000)
    assert rig.got == frames


def test_stack_that_never_comes_back_loses_frames_counted(rig):
    rig.stack_takes = False
    rig.wire(*(frame_to(MAC, 60, n) for n in range(2 * COUNT)))
    rig.pass_time(rig.time + HOLD_NS + 5_000_000)
    rig.settle()
    assert not rig.waiting
    assert rig.card.csr[r.MFC] == COUNT
    rig.driver.close()
    assert rig.driver.counters["rx_missed"] == COUNT


# -- filter, link ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("promiscuous", "multicast", "takes"),
    [
        (False, [], (True, True, False, False)),
        (False, [GROUP], (True, True, True, False)),
        (False, None, (True, True, True, False)),
        (True, [], (True, True, True, True)),
        (True, None, (True, True, True, True)),
    ],
)
@pytest.mark.parametrize("opened", [True, False])
def test_filter(promiscuous, multicast, takes, opened):
    rig = DriverRig("pcnet", machine=machine, opened=opened)
    rig.driver.set_filter(promiscuous, multicast)
    rig.driver.open()
    for to, taken in zip((MAC, BROADCAST, GROUP, PEER), takes, strict=True):
        rig.got.clear()
        rig.wire(frame_to(to))
        rig.settle()
        assert bool(rig.got) is taken
    rig.driver.set_filter(False, [])
    rig.got.clear()
    rig.wire(frame_to(GROUP), frame_to(MAC))
    rig.settle()
    assert rig.got == [frame_to(MAC)]


def test_no_frame_is_lost_by_a_filter_change(rig):
    frames = [frame_to(MAC, 60, n) for n in range(50)]
    for number, frame in enumerate(frames):
        rig.wire(frame)
        if number % 7 == 0:
            rig.driver.set_filter(bool(number % 2), [GROUP])
    rig.settle()
    assert rig.got == frames


def test_link(rig):
    rig.slot.card.set_link(False)
    assert rig.driver.link
    rig.pass_time(rig.time + WATCHDOG)
    assert not rig.driver.link
    rig.slot.card.set_link(True)
    rig.pass_time(rig.time + WATCHDOG)
    assert rig.driver.link


def test_lost_carrier_shows_at_once(rig):
    rig.slot.card.set_link(False)
    for number in range(COUNT + 1):
        assert rig.driver.transmit(frame_to(PEER, 60, number))
    assert not rig.driver.link
    assert rig.driver.counters["tx_errors"] == COUNT
    assert rig.sent == []


# -- open, close, trouble ----------------------------------------------------------------------------------


def test_close_and_open(rig):
    for round_ in range(3):
        rig.wire(frame_to(MAC, 60, round_))
        rig.settle()
        rig.driver.transmit(frame_to(PEER, 60, round_))
        rig.driver.close()
        rig.driver.close()
        rig.wire(frame_to(MAC, 99))
        rig.settle()
        assert rig.driver.transmit(frame_to(PEER, 99))
        assert rig.driver.next_deadline() is None and rig.machine.next_deadline() is None
        rig.driver.open()
        rig.driver.open()
    assert len(rig.got) == len(rig.sent) == 3
    assert rig.driver.counters["tx_closed"] == 3


def test_underflow_restarts(rig):
    rig.driver.transmit(frame_to(PEER, 60, 1))
    ring = rig.driver.ram + 0x400
    rig.machine.mem_write(ring + 16 + 4, (0x8200F000 | -60 & 0xFFF).to_bytes(4, "little"))  # STP without ENP
    rig.driver._tx_next += 1
    rig.driver._csr(0, r.TDMD | r.IENA)
    assert not rig.card.csr[0] & r.TXON
    for number in range(COUNT):
        assert rig.driver.transmit(frame_to(PEER, 60, number))
    assert rig.driver.counters["restarts"] == 1
    rig.settle()
    assert rig.sent[-1] == frame_to(PEER, 60, COUNT - 1)


def test_received_errors_are_counted(rig):
    rig.wire(frame_to(MAC))
    at = rig.driver.ram + RX_RING
    rig.machine.mem_write(at + 6, b"\x00\x4b")  # ERR, CRC
    rig.wire(frame_to(MAC, 61))
    rig.machine.mem_write(at + 16 + 8, b"\x10\0\0\0")  # too short to be true
    rig.settle()
    assert rig.got == []
    assert rig.driver.counters == {"rx_errors": 2}
    rig.wire(*(frame_to(MAC, 62, n) for n in range(2 * COUNT)))
    rig.settle()
    rig.pass_time(rig.time + 10_000_000)
    assert len(rig.got) == 2 * COUNT


def test_two_cards_in_one_machine():
    sent = {3: [], 4: []}
    bus = Machine("pc", RAM, now=lambda: 0)
    drivers = []
    for slot in (3, 4):
        plug(
            bus,
            "pcnet",
            MAC[:5] + bytes((slot,)),
            lambda f, v=b"", s=slot: not sent[s].append(f),
            lambda: None,
        )
    bus.boot()
    for slot in (3, 4):
        drivers.append(probe(bus, PciLocation(slot)))
        drivers[-1].open()
    for number in range(100):
        for driver in drivers:
            driver.transmit(frame_to(PEER, 60 + number, driver.mac[-1]))
    for slot in (3, 4):
        assert sent[slot] == [frame_to(PEER, 60 + n, slot) for n in range(100)]
