"""The bus master of the Am79C970A: one engine for initialization block, receive ring and transmit ring.

The engine is a generator, driven by the card's owner (``bus/dma.py``). It does everything that touches guest
memory; register accesses only leave requests: ``init``, ``suspend``, ``tx.poll``, a frame in ``rx.fifo``.
It works through them step by step, so a looped frame is delivered by the same loop that sent it and nothing
is ever re-entered.

Limit: ``KICK_DESCRIPTORS`` descriptors in one run; more wait for the poll timer (a ring that never ends,
descriptors that point at themselves, rings over each other).

State: all of it is in fields that ``snapshot`` writes. A run that is cut off in the middle, by STOP or by a
snapshot, is started anew from them.

Ref: Am79C970A data sheet (19436E), "Initialization", "Suspend", "Buffer Management Unit", "Master Abort".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..bus.dma import Engine
from . import registers as r
from .descriptors import FAULTS, Action, Bus, Fault
from .receiver import Receiver
from .transmitter import Transmitter

if TYPE_CHECKING:
    from .chip import Pcnet

KICK_DESCRIPTORS = 1024


class Rings:
    """Both rings and the engine."""

    def __init__(self, chip: Pcnet) -> None:
        self.chip = chip
        self.bus = Bus(chip.csr, chip.bcr)
        self.rx = Receiver(chip, self.bus)
        self.tx = Transmitter(chip, self.bus)
        self.running: Any = None  # the engine that the owner drives
        self.init = self.suspend = False

    def reset(self) -> None:
        """As after power-on."""
        self.halt()
        self.rx.reset()
        self.tx.reset()

    def halt(self) -> None:
        """STOP: requests and FIFOs are gone, positions stay."""
        if self.running is not None and not self.running.gi_running:
            self.running.close()
        self.running = None
        self.init = self.suspend = False
        self.bus.clear()
        self.rx.halt()
        self.tx.halt()

    def rewind(self) -> None:
        """STRT after STOP: both rings begin at their bases."""
        self.rx.index = self.tx.index = 0
        self.rx.absent = False

    def engine(self) -> Engine:
        """Work off everything that is pending."""
        self.running = engine = self._run()
        return engine

    def wanted(self) -> bool:
        """Whether an engine has something to do."""
        if self.init or self.suspend or self.bus.posted:
            return True
        csr0 = self.chip.csr[0]
        return bool(self.tx.poll and csr0 & r.TXON) or (self.rx.fifo is not None and bool(csr0 & r.RXON))

    def _run(self) -> Engine:
        chip, bus, rx, tx = self.chip, self.bus, self.rx, self.tx
        csr = chip.csr
        if not chip.granted():
            self.running = None
            chip.dma_pending = False
            chip.not_granted()
            return
        bus.budget = KICK_DESCRIPTORS
        posted = bus.posted
        try:
            if self.init and not posted:
                yield from self._initialize()
            while True:
                while posted:
                    yield posted[0]
                    del posted[0]
                if bus.event:
                    csr[0] |= bus.event
                    bus.event = 0
                    chip.update_irq()
                    if chip.refused:
                        chip.wake()
                if bus.budget <= 0 or csr[5] & r.SPND:
                    break
                if rx.fifo is not None and (yield from rx.step()):
                    continue
                if (self.suspend and tx.chain is None and not tx.due) or not tx.poll or not csr[0] & r.TXON:
                    break
                if not (yield from tx.step()):
                    tx.poll = False
            if self.suspend and tx.chain is None and tx.until is None and not tx.due:
                self.suspend = False
                csr[5] |= r.SPND
        except Fault:
            self.running = None
            chip.bus_fault()
        self.running = None
        chip.dma_pending = self.init
        if bus.budget <= 0:
            chip.postpone()

    def _initialize(self) -> Action:
        chip, bus = self.chip, self.bus
        csr = chip.csr
        wide = chip.bcr[r.SWS] & r.SSIZE32
        size = 28 if wide else 24
        data = yield ("read", (csr[1] | csr[2] << 16) & (0xFFFFFFFC if wide else 0xFFFFFFFE), size)
        if data == FAULTS[size]:
            raise Fault
        words = [int.from_bytes(data[n : n + 2], "little") for n in range(0, size, 2)]
        if wide:
            rlen, tlen = words[1] >> 4 & 15, words[1] >> 12
            del words[1], words[4]  # the lengths, and the reserved half behind PADR
        else:
            rlen, tlen = words[9] >> 13, words[11] >> 13
            upper = bus.upper() >> 16
            words[9] = words[9] & 0xFF | upper
            words[11] = words[11] & 0xFF | upper
        csr[6] = tlen << 12 | rlen << 8
        csr[12:15] = words[1:4]
        csr[8:12] = words[4:8]
        csr[r.BADR : r.BADR + 2] = words[8:10]
        csr[r.BADX : r.BADX + 2] = words[10:12]
        csr[r.RCVRL] = -(1 << min(rlen, r.MAX_RING_CODE)) & 0xFFFF
        csr[r.XMTRL] = -(1 << min(tlen, r.MAX_RING_CODE)) & 0xFFFF
        self.rewind()
        self.init = False
        chip.initialized(words[0])

    # -- registers that show the rings -----------------------------------------------------------------

    def publish(self) -> None:
        """Bring CSR18-45 and CSR60-74 up to date."""
        csr = self.chip.csr
        rx, tx = self.rx, self.tx
        for register, value in (
            (r.CRDA, rx.address()),
            (r.NRDA, rx.address(1)),
            (r.NNRD, rx.address(2)),
            (r.CXDA, tx.address()),
            (r.NXDA, tx.address(1)),
            (r.NNXD, tx.address(2)),
            (r.CRBA, rx.last[0]),
            (r.CXBA, tx.last[0]),
            (r.PXDA, tx.previous[0]),
        ):
            csr[register], csr[register + 1] = value & 0xFFFF, value >> 16
        csr[40], csr[41] = rx.last[2], rx.last[1]
        csr[42], csr[43] = tx.last[2], tx.last[1]
        csr[62], csr[63] = tx.previous[1], tx.previous[2]
        csr[r.RCVRC] = _counter(rx.index, rx.length())
        csr[r.XMTRC] = _counter(tx.index, tx.length())

    def set_counter(self, register: int, value: int) -> None:
        """Write CSR72 or CSR74."""
        ring = self.rx if register == r.RCVRC else self.tx
        length = ring.length()
        ring.index = length - 1 if not value else min(value + length & 0xFFFF, length - 1)


def _counter(index: int, length: int) -> int:
    """CSR72, CSR74: minus the length at the first descriptor, counting up, zero at the last."""
    return 0 if index and index >= length - 1 else index - length & 0xFFFF
