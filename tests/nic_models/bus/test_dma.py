"""Driving an engine against memory."""

from nic_models.bus.dma import run_to_end


class Memory:
    def __init__(self):
        self.cells = bytearray(64)

    def read(self, address, length):
        return bytes(self.cells[address : address + length])

    def write(self, address, data):
        self.cells[address : address + len(data)] = data


def test_reads_are_answered_and_writes_done():
    memory = Memory()
    memory.cells[0:4] = b"abcd"

    def engine():
        data = yield ("read", 0, 4)
        nothing = yield ("write", 8, data[::-1])
        assert nothing is None
        yield ("write", 12, b"!")

    assert run_to_end(engine(), memory)
    assert memory.cells[8:13] == b"dcba!"


def test_an_engine_without_work():
    assert run_to_end((op for op in ()), Memory())


def test_an_endless_engine_is_stopped():
    closed = []

    def engine():
        try:
            while True:
                yield ("read", 0, 1)
        finally:
            closed.append(True)

    assert not run_to_end(engine(), Memory(), max_ops=10)
    assert closed
