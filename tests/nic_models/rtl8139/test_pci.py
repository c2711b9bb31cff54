"""The RTL8139 as a PCI function."""

from __future__ import annotations

import json

import pytest

from nic_models.models import pci_function
from nic_models.rtl8139 import registers as r
from tests.nic_models.rtl8139_kit import BROADCAST, MAC, Kit, frame_to


@pytest.mark.parametrize(("rev", "revision"), [(None, 0x20), (0x20, 0x20), (0x10, 0x10)])
def test_identity(rev, revision):
    kit = Kit(rev)
    assert kit.config_read(0, 4) == 0x813910EC
    assert kit.config_read(8, 4) == 0x02000000 | revision
    assert kit.config_read(0x2C, 4) == 0x11001AF4
    assert kit.config_read(0x3D, 1) == 1
    assert kit.card.revision == revision
    assert kit.card.model == "rtl8139"


@pytest.mark.parametrize(("bar", "sizing"), [(0x10, 0xFFFFFF01), (0x14, 0xFFFFFF00), (0x18, 0)])
def test_bars(bar, sizing):
    kit = Kit()
    kit.config_write(bar, 4, 0xFFFFFFFF)
    assert kit.config_read(bar, 4) == sizing


def test_windows_are_enabled_one_by_one():
    kit = Kit()
    kit.config_write(4, 2, 2)
    assert kit.read(r.IDR0, 4) == 0xFFFFFFFF
    assert kit.peek(kit.memory, 6) == MAC
    kit.config_write(4, 2, 1)
    assert kit.peek(kit.memory, 6) == b"\xff" * 6
    assert kit.read(r.IDR0, 4) == 0x12005452


def test_interrupt_disable_lowers_the_line_but_not_the_status():
    kit = Kit().start()
    kit.receive(frame_to())
    assert kit.irq and kit.config_read(6, 1) & 8
    kit.config_write(4, 2, 0x407)
    assert not kit.irq and kit.config_read(6, 1) & 8
    kit.config_write(4, 2, 7)
    assert kit.irq
    kit.isr()
    assert not kit.irq and not kit.config_read(6, 1) & 8


def test_a_function_of_its_own():
    """As vfio-user uses it: no machine; the owner drives the engine when it may."""
    wire = []
    function = pci_function("rtl8139", MAC, lambda f, v=b"": wire.append(f) or True, lambda: None, lambda: 0)
    card = function.card
    card.write(0, r.CR, 1, r.CR_TE)
    card.write(1, r.TSAD0, 4, 0x1000)
    card.write(1, r.TSD0, 4, 60)
    assert not card.dma_pending
    function.config_write(4, 2, 4)
    assert card.dma_pending
    engine = card.dma()
    assert next(engine) == ("read", 0x1000, 60)
    with pytest.raises(StopIteration):
        engine.send(frame_to(BROADCAST))
    assert wire == [frame_to(BROADCAST)]
    assert not card.dma_pending


def test_bus_mastering_switched_off_in_the_middle():
    kit = Kit().start()
    kit.card.write(0, r.TSAD0, 4, 0x1000)
    kit.card.write(0, r.TSD0, 4, 60)
    engine = kit.card.dma()
    next(engine)
    kit.config_write(4, 2, 3)
    with pytest.raises(StopIteration):
        engine.send(frame_to())
    assert not kit.card.dma_pending


def test_reset_in_the_middle_of_dma():
    for stop in range(6):
        kit = Kit().start_cplus()
        kit.put(frame_to(), poll=False)
        kit.card.rx.receive(frame_to())
        kit.card.write(0, r.TPPOLL, 1, r.POLL_NPQ)
        engine = kit.card.dma()
        op = next(engine)
        for _ in range(stop):
            op = engine.send(kit.machine.ram.read(*op[1:]) if op[0] == "read" else None)
        kit.card.write(0, r.CR, 1, r.CR_RST)
        with pytest.raises(StopIteration):
            engine.send(bytes(op[2]) if op[0] == "read" else None)
        assert kit.read(r.ISR, 2) == 0
        assert not kit.card.dma_pending
        assert not kit.card.posted


def test_machine_reset():
    kit = Kit().start()
    kit.receive(frame_to())
    kit.machine.reset()
    assert not kit.irq
    assert not kit.card.bus_master
    assert kit.function.config_read(4, 2) == 0


def test_machine_snapshot_round_trip():
    kit = Kit().start()
    kit.receive(frame_to())
    state = json.loads(json.dumps(kit.machine.snapshot()))
    other = Kit()
    other.machine.restore(state)
    assert other.irq
    assert [frame for _, frame in other.packets()] == [frame_to()]


def test_snapshot_of_a_transfer_goes_on_in_a_function_as_after_power_on():
    """Where nobody has set the bus master bit: it comes with the snapshot."""
    wire = []
    first, second = (
        pci_function("rtl8139", MAC, lambda f, v=b"": wire.append(f) or True, lambda: None, lambda: 0)
        for _ in range(2)
    )
    idle = json.loads(json.dumps(second.snapshot()))
    first.config_write(4, 2, 4)
    for offset, size, value in ((r.CR, 1, r.CR_TE), (r.TSAD0, 4, 0x1000), (r.TSD0, 4, 60)):
        first.card.write(0, offset, size, value)
    assert next(first.card.dma()) == ("read", 0x1000, 60)
    second.restore(json.loads(json.dumps(first.snapshot())))
    assert second.card.dma_pending
    engine = second.card.dma()
    assert next(engine) == ("read", 0x1000, 60)
    with pytest.raises(StopIteration):
        engine.send(frame_to(BROADCAST))
    assert wire == [frame_to(BROADCAST)]
    second.card.write(0, r.TSAD0 + 4, 4, 0x1000)
    second.card.write(0, r.TSD0 + 4, 4, 60)
    assert second.card.dma_pending
    second.restore(idle)
    assert not second.bus_master and list(second.card.dma()) == []


def test_snapshot_of_another_revision():
    with pytest.raises(ValueError, match="revision"):
        Kit(0x10).card.restore(json.loads(json.dumps(Kit().card.snapshot())))
