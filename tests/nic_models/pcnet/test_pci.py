"""PCnet as a PCI function, and in a machine."""

from nic_models.bus.machine import Machine
from nic_models.models import MODELS, plug
from tests.nic_models.pcnet_kit import MAC, Bench


def test_identity():
    config = Bench().function.config_read
    assert (config(0, 4), config(6, 2), config(8, 4)) == (0x20001022, 0x0280, 0x02000010)
    assert (config(0x2C, 4), config(0x3D, 1), config(0x3E, 1), config(0x3F, 1)) == (0, 1, 6, 255)


def test_bars():
    function = Bench().function
    for offset, value in ((0x10, 0xFFFFFFE1), (0x14, 0xFFFFFFE0), (0x18, 0)):
        function.config_write(offset, 4, 0xFFFFFFFF)
        assert function.config_read(offset, 4) == value


def test_both_windows_are_the_same_registers():
    clock = [0]
    machine = Machine("pc", 1 << 20, now=lambda: clock[0])
    slot = plug(machine, "pcnet", MAC, lambda *_: True, lambda: None)
    machine.boot()
    assert slot.function is not None
    io, memory = slot.function.address(0), slot.function.address(1)
    assert io is not None and memory is not None
    assert bytes(machine.io_read(io + n, 1) for n in range(6)) == MAC
    machine.io_write(io + 0x12, 2, 88)
    assert machine.mem_read(memory + 0x10, 2) == b"\x03\x10"
    machine.mem_write(memory + 0x12, b"\x59\0")
    assert machine.io_read(io + 0x10, 2) == 0x0262


def test_listed():
    assert MODELS["pcnet"].bus == "pci"


def test_blocks():
    card = Bench().card
    assert card.read_block(0, 0, 1, 3) == MAC[:1] * 3
    card.write_block(0, 0x12, 2, b"\x01\0\x59\0\0")
    assert card.read_block(0, 0x10, 2, 2) == b"\x62\x02" * 2


def test_no_bus_master_is_merr_and_goes_on_when_it_comes():
    bench = Bench(master=False)
    bench.setup(2)
    assert bench.csr(0) & 0x8904 == 0x8800  # ERR, MERR, not IDON
    assert bench.irq
    bench.function.config_write(4, 2, 7)
    bench.csr(0, 0x0840)
    assert bench.csr(0) & 0x0930 == 0x0130


def test_master_abort():
    bench = Bench()
    bench.csr(1, 0)
    bench.csr(2, 0x8000)
    bench.csr(5, 0x0400)  # SINTE
    bench.csr(0, 0x41)
    assert bench.csr(0) == 0x0084  # STOP, INTR
    assert bench.csr(5) == 0x0C00
    assert bench.irq
    assert bench.function.config_read(6, 2) & 0x2000
    bench.csr(5, 0x0800)
    assert not bench.irq
