"""A machine with one NE2000, its driver, a wire and a network stack that remember, and a clock for tests to turn."""

from __future__ import annotations

from nic_models.bus.machine import Machine
from nic_models.models import plug
from tapnet.guest.drivers import DRIVERS

MAC = bytes.fromhex("525400123456")
PEER = bytes.fromhex("525400abcdef")
BROADCAST = b"\xff" * 6
ROUNDS = 1000


def frame_to(destination: bytes = MAC, size: int = 60, fill: int = 0) -> bytes:
    """A frame of ``size`` bytes; ``fill`` makes it recognisable."""
    body = fill.to_bytes(4, "big") + bytes((fill + n) & 0xFF for n in range(size))
    return (destination + PEER + b"\x08\x00" + body)[:size]


class DriverRig:
    """``settle()`` is what an owner's event loop does: interrupts, timers that are due, held frames."""

    def __init__(self, model="ne2k_pci", *, machine=None, opened=True):
        self.time = 0
        self.sent: list[bytes] = []
        self.wire_takes = True
        self.waiting: list[bytes] = []  # frames on the wire towards the card
        self.held = False
        self.got: list[bytes] = []
        self.stack_takes = True
        self.writable = 0
        kind = "isapc" if model.endswith("isa") else "pc"
        self.machine = (machine or Machine)(kind, 1 << 16, now=lambda: self.time, on_irq=self._irq)
        self.lines = [False] * 16
        self.slot = plug(self.machine, model, MAC, self._tx, self._rx_ready)
        self.card = self.slot.card
        self.machine.boot()
        self.driver = DRIVERS[model](
            self.machine,
            self.slot.location,
            deliver=self._deliver,
            writable=self._writable,
            now=lambda: self.time,
        )
        if opened:
            self.driver.open()

    def _irq(self, irq, level):
        self.lines[irq] = level

    def _tx(self, frame, vnet=b""):
        if self.wire_takes:
            self.sent.append(frame)
        return self.wire_takes

    def _rx_ready(self):
        self.held = False

    def _deliver(self, frame):
        if not self.stack_takes:
            return False
        self.got.append(frame)
        return None

    def _writable(self):
        self.writable += 1

    def wire(self, *frames):
        """Frames arrive; what the card does not take waits."""
        self.waiting.extend(frames)
        self._offer()

    def _offer(self):
        while self.waiting and not self.held:
            if self.slot.receive(self.waiting[0]):
                self.waiting.pop(0)
            else:
                self.held = True

    def settle(self):
        """Until nothing moves any more."""
        for _ in range(ROUNDS):
            if self.lines[self.driver.irq]:
                self.driver.interrupt()
            elif self.waiting and not self.held:
                self._offer()
            else:
                return
        raise AssertionError("it never settles")

    def deadline(self):
        """The earliest deadline of machine and driver."""
        due = [d for d in (self.machine.next_deadline(), self.driver.next_deadline()) if d is not None]
        return min(due, default=None)

    def pass_time(self, until):
        """Turn the clock, timers in their order."""
        for _ in range(ROUNDS):
            due = self.deadline()
            if due is None or due > until:
                break
            self.time = max(self.time, due)
            self.machine.run(self.time)
            self.driver.run(self.time)
            self.settle()
        self.time = until
