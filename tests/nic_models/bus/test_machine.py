"""Port space, memory space, PCI bus, IRQ lines."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nic_models.bus.machine import IsaLocation, Machine, PciLocation
from nic_models.bus.pci import Bar, Identity, PciFunction
from nic_models.models import MODELS, default_model, plug
from tests.nic_models.rig import MAC, frame_to

ENABLE = 0x80000000


class Toy:
    """A card with registers that remember, and a DMA engine that copies."""

    model = "toy"
    mac = MAC

    def __init__(self):
        self.log = []
        self.dma_pending = False
        self.jobs = []

    def read(self, region, offset, size):
        self.log.append(("r", region, offset, size))
        return (0x44332211 >> 8 * (offset & 3)) & (1 << 8 * size) - 1

    def write(self, region, offset, size, value):
        self.log.append(("w", region, offset, size, value))
        if offset == 8:
            self.jobs.append(value)
            self.dma_pending = True

    def read_block(self, region, offset, size, count):
        return bytes(size * count)

    def write_block(self, region, offset, size, data):
        self.log.append(("b", region, offset, size, data))

    def dma(self):
        while self.jobs:
            job = self.jobs.pop()
            data = yield ("read", job, 4)
            yield ("write", job + 4, data)
        self.dma_pending = False

    def receive(self, frame, vnet=b""):
        self.jobs.append(0x100)
        self.dma_pending = True
        return True

    def tx_ready(self): ...
    def set_link(self, up): ...
    def reset(self):
        self.log.append("reset")

    def next_deadline(self):
        return None

    def run(self, now): ...
    def snapshot(self):
        return {}

    def restore(self, state): ...


def machine(kind="pc", ram=1 << 20, **more):
    return Machine(kind, ram, now=lambda: 0, **more)


def ne2k(m, model=None, mac=MAC, **more):
    return plug(m, model or default_model(m.kind), mac, lambda f, v=b"": True, lambda: None, **more)


BARS = (Bar("io", 32), Bar("mem", 256))


def toy(m, bars=BARS, addr=None):
    function = PciFunction(Identity(0x1234, 0x5678, 0, 0x020000), bars, Toy())
    return m.plug_pci(function, addr)


def config(m, slot, offset, size=4, function=0, bus=0):
    m.io_write(0xCF8, 4, ENABLE | bus << 16 | slot << 11 | function << 8 | offset & 0xFC)
    return m.io_read(0xCFC + (offset & 3), size)


def set_config(m, slot, offset, size, value):
    m.io_write(0xCF8, 4, ENABLE | slot << 11 | offset & 0xFC)
    m.io_write(0xCFC + (offset & 3), size, value)


# -- ports -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pc", "isapc"])
@pytest.mark.parametrize("port", [0, 0x300, 0xC000, 0xFFFE, 0xFFFF])
def test_nobody_home(kind, port):
    m = machine(kind)
    for size in (1, 2, 4):
        assert m.io_read(port, size) == (1 << 8 * size) - 1
        m.io_write(port, size, 0)
    assert m.io_read_block(port, 2, 3) == b"\xff" * 6
    m.io_write_block(port, 4, bytes(8))


def test_an_access_across_two_devices_is_split():
    m = machine("isapc")
    first, second = Toy(), Toy()
    m.plug_isa(first, 0x300, 9, name="first")
    m.plug_isa(second, 0x320, 10, name="second")
    assert m.io_read(0x31E, 4) == 0x22114433
    assert first.log == [("r", 0, 0x1E, 1), ("r", 0, 0x1F, 1)]
    assert second.log == [("r", 0, 0, 1), ("r", 0, 1, 1)]
    m.io_write(0x33F, 2, 0xABCD)
    assert second.log[-1] == ("w", 0, 0x1F, 1, 0xCD)
    assert m.io_read(0x33F, 2) == 0xFF44


def test_blocks_reach_the_card_whole():
    m = machine("isapc")
    card = Toy()
    m.plug_isa(card, 0x300, 9)
    m.io_write_block(0x310, 2, b"abcdef")
    assert card.log == [("b", 0, 0x10, 2, b"abcdef")]


# -- PCI configuration -------------------------------------------------------------------------------------------


def test_chipset():
    m = machine()
    assert config(m, 0, 0) == 0x12378086
    assert config(m, 0, 8) == 0x06000002
    assert config(m, 1, 0) == 0x70008086
    assert config(m, 1, 0x0A, 2) == 0x0601
    assert [config(m, 1, 0x60 + n, 1) for n in range(4)] == [0x80] * 4
    assert config(m, 2, 0) == 0xFFFFFFFF
    assert config(m, 0, 0, function=1) == 0xFFFFFFFF
    assert config(m, 0, 0, bus=1) == 0xFFFFFFFF


def test_no_pci_on_isapc():
    m = machine("isapc")
    assert config(m, 0, 0) == 0xFFFFFFFF
    with pytest.raises(ValueError, match="no PCI bus"):
        ne2k(m, "ne2k_pci")


def test_configuration_address_takes_dwords_only():
    m = machine()
    m.io_write(0xCF8, 4, 0x800008FF)
    assert m.io_read(0xCF8, 4) == 0x800008FC
    m.io_write(0xCF8, 1, 0)
    m.io_write(0xCFA, 2, 0)
    assert m.io_read(0xCF8, 4) == 0x800008FC
    assert m.io_read(0xCF8, 2) == 0xFFFF
    m.io_write(0xCF8, 4, 0x00000800)  # not enabled
    assert m.io_read(0xCFC, 4) == 0xFFFFFFFF


def test_configuration_data_by_bytes_and_words():
    m = machine()
    ne2k(m)
    assert [config(m, 3, n, 1) for n in range(4)] == [0xEC, 0x10, 0x29, 0x80]
    assert [config(m, 3, n, 2) for n in (0, 2)] == [0x10EC, 0x8029]


def test_slots():
    m = machine()
    assert [ne2k(m).location for _ in range(2)] == [PciLocation(3), PciLocation(4)]
    assert ne2k(m, addr=9, name="nine").location == PciLocation(9)
    with pytest.raises(ValueError, match=r"addr=0x9.*nine"):
        ne2k(m, addr=9)
    with pytest.raises(ValueError, match="chipset"):
        ne2k(m, addr=1)
    with pytest.raises(ValueError, match="0x1f"):
        ne2k(m, addr=32)
    for _ in range(26):
        ne2k(m)
    assert ne2k(m, addr=2).location == PciLocation(2)
    with pytest.raises(ValueError, match="no free"):
        ne2k(m)


def test_bar_moves_at_run_time():
    m = machine()
    ne2k(m)
    set_config(m, 3, 0x10, 4, 0xC000)
    assert m.io_read(0xC000, 1) == 0xFF
    set_config(m, 3, 4, 2, 1)
    assert m.io_read(0xC000, 1) == 0x21
    set_config(m, 3, 0x10, 4, 0xD000)
    assert m.io_read(0xC000, 1) == 0xFF
    assert m.io_read(0xD000, 1) == 0x21
    set_config(m, 3, 4, 2, 0)
    assert m.io_read(0xD000, 1) == 0xFF


def test_bars_on_one_address_and_on_the_configuration_ports():
    m = machine()
    first, second = toy(m), toy(m)
    for slot in (3, 4):
        set_config(m, slot, 0x10, 4, 0xC000)
        set_config(m, slot, 4, 2, 1)
    m.io_read(0xC000, 1)
    assert first.card.log
    assert not second.card.log
    set_config(m, 3, 0x10, 4, 0xCE0)
    assert config(m, 3, 0) == 0x56781234


def test_boot():
    m = machine()
    for _ in range(3):
        ne2k(m)
    toy(m)
    toy(m)
    m.boot()
    assert [config(m, slot, 0x10) & ~3 for slot in (3, 4, 5, 6, 7)] == [
        0xC000,
        0xC100,
        0xC200,
        0xC300,
        0xC320,
    ]
    assert [config(m, slot, 0x14) for slot in (6, 7)] == [0xFEB80000, 0xFEB81000]
    assert [config(m, slot, 0x3C, 1) for slot in range(3, 8)] == [11, 11, 10, 10, 11]
    assert all(config(m, slot, 4, 2) == 3 for slot in range(3, 8))
    machine("isapc").boot()


# -- interrupts ----------------------------------------------------------------------------------------------------


def test_lines_are_shared_by_level():
    events = []
    m = machine(on_irq=lambda irq, level: events.append((irq, level)))
    a, b = toy(m), toy(m, addr=7)  # both on PIRQ C
    m.boot()
    a.function.set_irq(True)
    b.function.set_irq(True)
    a.function.set_irq(False)
    assert events == [(11, True)]
    b.function.set_irq(False)
    assert events == [(11, True), (11, False)]


def test_two_pirqs_on_one_irq():
    events = []
    m = machine(on_irq=lambda irq, level: events.append((irq, level)))
    a, b = toy(m), toy(m)  # PIRQ C and D, both on 11
    m.boot()
    a.function.set_irq(True)
    b.function.set_irq(True)
    a.function.set_irq(False)
    assert m.irq_levels[11]
    b.function.set_irq(False)
    assert events == [(11, True), (11, False)]


def test_rerouting_moves_an_asserted_line():
    events = []
    m = machine(on_irq=lambda irq, level: events.append((irq, level)))
    a = toy(m)
    a.function.set_irq(True)
    assert events == []  # not routed
    set_config(m, 1, 0x60, 4, 0x050A0B0C)  # D C B A: PIRQ C to 10
    assert events == [(10, True)]
    set_config(m, 1, 0x62, 1, 0x09)
    assert events[1:] == [(10, False), (9, True)]
    set_config(m, 1, 0x62, 1, 0x8D)
    assert events[3:] == [(9, False)]
    set_config(m, 1, 0x62, 1, 0x00)  # IRQ 0 cannot be routed to
    assert events[4:] == []


def test_isa_lines():
    events = []
    m = machine("isapc", on_irq=lambda irq, level: events.append((irq, level)))
    slot = ne2k(m, irq=5)
    card = slot.card
    m.io_write(0x300, 1, 0x22)
    m.io_write(0x30F, 1, 0x40)
    m.io_write(0x300, 1, 0x0A)  # remote read of nothing
    assert events == [(5, True)]
    card.reset()
    assert events == [(5, True), (5, False)]


# -- ISA slots ---------------------------------------------------------------------------------------------------------


def test_isa_places():
    m = machine("isapc")
    assert ne2k(m).location == IsaLocation(0x300, 9)
    assert ne2k(m).location == IsaLocation(0x320, 10)
    assert ne2k(m, iobase=0x280, irq=7).location == IsaLocation(0x280, 7)
    assert ne2k(m, irq=11).location == IsaLocation(0x340, 11)
    assert str(m.slots[0].location) == "ISA ports 0x300-0x31f, IRQ 9"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"iobase": 0x300}, r"new: iobase=0x300: ports are taken by old"),
        ({"iobase": 0x310}, "multiples"),
        ({"iobase": 0x40}, "multiples"),
        ({"iobase": 0x320, "irq": 9}, r"new: irq=9: line is taken by old"),
        ({"iobase": 0x320, "irq": 2}, "irq=2"),
        ({"iobase": 0x320, "irq": 16}, "irq=16"),
        ({"addr": 3}, "addr is for PCI"),
    ],
)
def test_isa_conflicts(keys, message):
    m = machine("isapc")
    ne2k(m, name="old")
    with pytest.raises(ValueError, match=message):
        ne2k(m, name="new", **keys)


def test_isa_card_on_the_configuration_ports():
    with pytest.raises(ValueError, match="PCI configuration"):
        ne2k(machine(), "ne2k_isa", iobase=0xCE0)


def test_isa_card_in_a_pci_machine():
    m = machine()
    ne2k(m, "ne2k_isa")
    assert m.io_read(0x300, 1) == 0x21
    with pytest.raises(ValueError, match="iobase"):
        ne2k(m, "ne2k_pci", iobase=0x300)


def test_unknown_models_name_the_known_ones():
    with pytest.raises(ValueError, match=r"model=ne3000: models are .*ne2k_pci.*ne2k_isa"):
        ne2k(machine(), "ne3000")
    assert [MODELS[n].info for n in ("ne2k_pci", "ne2k_isa")] == ["ne2000 pci", "ne2000"]
    assert default_model("pc") == "ne2k_pci"
    assert default_model("isapc") == "ne2k_isa"


@pytest.mark.parametrize(("kind", "ram"), [("q35", 0), ("pc", -1), ("pc", 1 << 32)])
def test_impossible_machines(kind, ram):
    with pytest.raises(ValueError, match=r"^-[Mm] "):
        machine(kind, ram)


# -- memory ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, (1 << 20) + 64), st.binary(max_size=100))
def test_ram(address, data):
    m = machine()
    m.mem_write(address, data)
    inside = data[: max(0, (1 << 20) - address)]
    assert m.mem_read(address, len(data)) == inside + b"\xff" * (len(data) - len(inside))
    assert m.ram.read(address, len(data)) == inside + b"\xff" * (len(data) - len(inside))


def test_memory_bar_accesses_have_a_size():
    m = machine()
    slot = toy(m)
    m.boot()
    base = config(m, 3, 0x14)
    for size in (1, 2, 4):
        m.mem_read(base, size)
        m.mem_write(base + 4, bytes(size))
    assert slot.card.log == [e for s in (1, 2, 4) for e in (("r", 1, 0, s), ("w", 1, 4, s, 0))]
    slot.card.log.clear()
    assert m.mem_read(base + 1, 7) == bytes((0x22, 0x33, 0x44, 0x11, 0x22, 0x33, 0x44))
    assert slot.card.log == [("r", 1, 1, 1), ("r", 1, 2, 2), ("r", 1, 4, 4)]
    slot.card.log.clear()
    assert m.mem_read(base - 2, 4)[:2] == b"\xff\xff"  # before the window
    assert slot.card.log == [("r", 1, 0, 2)]
    m.mem_write(base + 254, b"abcd")
    assert slot.card.log[1:] == [("w", 1, 254, 2, 0x6261)]


# -- DMA ---------------------------------------------------------------------------------------------------------------


def test_dma_runs_after_the_access_and_needs_bus_mastering():
    m = machine()
    slot = toy(m)
    m.boot()
    m.mem_write(0x40, b"abcd")
    m.io_write(0xC008, 4, 0x40)
    assert m.mem_read(0x44, 4) == bytes(4)
    set_config(m, 3, 4, 2, 7)
    m.io_write(0xC008, 4, 0x40)
    assert m.mem_read(0x44, 4) == b"abcd"
    m.mem_write(0x100, b"wxyz")
    assert slot.receive(b"frame")
    assert m.mem_read(0x104, 4) == b"wxyz"


def test_dma_beyond_ram_is_harmless():
    m = machine()
    toy(m)
    m.boot()
    set_config(m, 3, 4, 2, 7)
    for address in ((1 << 20) - 6, 1 << 20, 0xFFFFFFFC):
        m.io_write(0xC008, 4, address)


def test_an_endless_dma_engine_is_given_up(monkeypatch):
    m = machine()
    slot = toy(m)
    m.boot()

    def endless():
        while True:
            yield ("read", 0, 4)

    slot.card.dma = endless
    m.io_write(0xC008, 4, 0)
    assert slot.dma_stopped == 1


# -- the whole -----------------------------------------------------------------------------------------------------------


def test_reset_port():
    m = machine()
    slot = ne2k(m)
    m.boot()
    m.io_write(0xC000, 1, 0x22)
    m.mem_write(0, b"kept")
    m.io_write(0xCF9, 1, 0x02)
    assert m.io_read(0xC000, 1) == 0x22
    m.io_write(0xCF9, 1, 0x06)
    assert m.io_read(0xC000, 1) == 0xFF
    assert slot.card.read(0, 0, 1) == 0x21
    assert config(m, 1, 0x62, 1) == 0x80
    assert m.mem_read(0, 4) == b"kept"


@pytest.mark.parametrize("kind", ["pc", "isapc"])
def test_snapshot(kind):
    m = machine(kind)
    slot = ne2k(m)
    m.boot()
    base = 0xC000 if kind == "pc" else 0x300
    for offset, value in ((0, 0x21), (1, 0x4C), (2, 0x80), (3, 0x4C), (0xE, 0x49), (0xC, 0x10), (0xF, 0x7F)):
        m.io_write(base + offset, 1, value)
    m.io_write(base, 1, 0x61)
    m.io_write(base + 7, 1, 0x4C)
    m.io_write(base, 1, 0x22)
    m.mem_write(0x12345, b"data")
    assert slot.receive(frame_to())
    assert any(m.irq_levels)
    state = json.loads(json.dumps(m.snapshot()))
    events = []
    twin = machine(kind, on_irq=lambda irq, level: events.append((irq, level)))
    ne2k(twin)
    twin.mem_write(0x80000, b"gone")
    twin.restore(state)
    assert twin.snapshot() == m.snapshot()
    assert twin.irq_levels == m.irq_levels
    assert events == [(11 if kind == "pc" else 9, True)]
    assert twin.mem_read(0x80000, 4) == bytes(4)
    assert twin.mem_read(0x12345, 4) == b"data"
    assert twin.io_read(base + 7, 1) == 1
    with pytest.raises(ValueError, match="snapshot"):
        machine(kind).restore(state)
    with pytest.raises(ValueError, match="snapshot"):
        machine("pc" if kind == "isapc" else "isapc").restore(state)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["in", "out", "config", "read", "write"]),
            st.one_of(st.integers(0, 0xFFFF), st.integers(0xCF8, 0xCFF), st.integers(0xC000, 0xC120)),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 2**32 - 1),
        ),
        max_size=60,
    )
)
def test_nothing_that_a_guest_does_raises(steps):
    m = machine()
    ne2k(m)
    toy(m)
    ne2k(m, "ne2k_isa")
    m.boot()
    for kind, where, size, value in steps:
        if kind == "in":
            assert 0 <= m.io_read(where, size) < 1 << 8 * size
        elif kind == "out":
            m.io_write(where, size, value)
        elif kind == "config":
            set_config(m, where % 6, value & 0xFF, size, value)
        elif kind == "read":
            assert len(m.mem_read(value, size)) == size
        else:
            m.mem_write(value, bytes(size))
    m.run(10**12)
    m.next_deadline()


def test_a_card_is_pulled_out_while_its_interrupt_is_up():
    levels = []
    machine = Machine("pc", 1 << 20, now=lambda: 0, on_irq=lambda irq, level: levels.append((irq, level)))
    pci = plug(machine, "ne2k_pci", MAC, lambda *_: True, lambda: None)
    isa = plug(machine, "ne2k_isa", MAC, lambda *_: True, lambda: None, iobase=0x300, irq=9)
    machine.boot()
    base = pci.function.address(0)
    pci.function.set_irq(True)
    machine.isa_irq(9, isa.name)(True)
    assert sorted(irq for irq, level in levels if level) == [9, machine.pci.irq_of(3)]
    machine.unplug(pci)
    machine.unplug(isa)
    assert not any(machine.irq_levels) and machine.slots == []
    assert machine.io_read(base, 1) == machine.io_read(0x300, 1) == 0xFF
    assert machine.next_deadline() is None
    again = plug(machine, "rtl8139", MAC, lambda *_: True, lambda: None)
    assert again.location == PciLocation(3)
    json.dumps(machine.snapshot())


def test_a_card_that_comes_later_gets_addresses_behind_the_others():
    machine = Machine("pc", 1 << 20, now=lambda: 0)
    for model in ("ne2k_pci", "rtl8139", "pcnet"):
        plug(machine, model, MAC, lambda *_: True, lambda: None)
    machine.boot()
    before = [[s.function.address(n) for n in range(len(s.function.bars))] for s in machine.slots]
    for _ in range(40):
        slot = plug(machine, "rtl8139", MAC, lambda *_: True, lambda: None)
        machine.boot(slot)
        ranges = sorted(
            (s.function.bars[n].kind, s.function.address(n), s.function.bars[n].size)
            for s in machine.slots
            for n in range(len(s.function.bars))
        )
        assert all(a[0] != b[0] or a[1] + a[2] <= b[1] for a, b in itertools.pairwise(ranges))
        assert slot.function.config_read(0x3C, 1) == machine.pci.irq_of(slot.location.slot)
        machine.unplug(slot)
    assert before == [[s.function.address(n) for n in range(len(s.function.bars))] for s in machine.slots]
