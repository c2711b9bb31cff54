"""Drivers for the RTL8139, by registers and descriptor rings in guest RAM: C+ mode where the chip has it,
else C mode.

    C+   0x0000  64 transmit descriptors     C   0x0000  4 transmit buffers
         0x0400  64 receive descriptors          0x2000  receive ring, 64 KiB
         0x1000  64 transmit buffers
         0x1d000 64 receive buffers          (offsets in the driver's RAM; a buffer has BUFFER bytes)

Receive: everything that is there is taken at once; a frame that ``deliver`` refuses stays, receive interrupts
masked, until ``resume()``. A packet header in the C mode ring that cannot be true restarts the card.
Transmit: frames are copied into the next free buffer and the card is told; C mode frames are padded, the chip
does not.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from nic_models.bus.machine import Location, Machine
from nic_models.parts.padding import pad
from nic_models.rtl8139 import registers as r

from .driver import Deliver, Driver
from .pciscan import find
from .rtl8139_base import Rtl8139Base, slot_of

PCI_IDS = ((r.VENDOR_ID, r.DEVICE_ID),)
REVISION = 0x08  # in configuration space
BUFFER = 1792
COUNT = r.RING_DESCRIPTORS
TX_RING, RX_RING, TX_BUFFERS = 0x0000, 0x0400, 0x1000
RX_BUFFERS = TX_BUFFERS + COUNT * BUFFER
C_RING, C_RING_BYTES = 0x2000, 65536
SHORTEST, LONGEST = 60 + 4, 1518 + 4  # what a received length may be, with FCS and a VLAN tag

_WORDS = Struct("<II")
_DESCRIPTOR = Struct("<IIQ")
_STATUS = Struct("<I12x")
_HEADER = Struct("<HH")
_SENT = r.D_OWN | r.D_FS | r.D_LS
_BAD_RX = r.RD_RES
_WHOLE = r.D_FS | r.D_LS
_EMPTY = r.D_OWN | BUFFER


def rtl8139(
    machine: Machine,
    location: Location | None,
    *,
    deliver: Deliver,
    writable: Callable[[], None],
    now: Callable[[], int],
) -> Driver:
    """Probe the card (``DriverFactory``). Raises DriverError."""
    device = find(machine, PCI_IDS, slot_of(location))
    driver = Rtl8139CplusDriver if device.read(REVISION, 1) >= r.REV_CPLUS else Rtl8139CDriver
    return driver(machine, device, deliver=deliver, writable=writable, now=now)


class Rtl8139CplusDriver(Rtl8139Base):
    """C+ mode."""

    def _start_rings(self) -> None:
        self._tx_next = self._tx_done = 0  # descriptors used and taken back, counted on
        self._rx_next = 0
        write, ram = self.machine.mem_write, self.ram
        last = COUNT - 1
        rx = [
            _DESCRIPTOR.pack(_EMPTY | (r.D_EOR if n == last else 0), 0, ram + RX_BUFFERS + n * BUFFER)
            for n in range(COUNT)
        ]
        tx = [
            _DESCRIPTOR.pack(r.D_EOR if n == last else 0, 0, ram + TX_BUFFERS + n * BUFFER)
            for n in range(COUNT)
        ]
        write(ram + TX_RING, b"".join(tx))
        write(ram + RX_RING, b"".join(rx))
        out = self._out
        out(r.CPCR, 2, r.CPCR_MULRW | r.CPCR_RXEN | r.CPCR_TXEN)
        for offset, address in ((r.TNPDS, ram + TX_RING), (r.THPDS, 0), (r.RDSAR, ram + RX_RING)):
            out(offset, 4, address)
            out(offset + 4, 4, 0)

    def transmit(self, frame: bytes) -> bool:
        """Copy the frame into the next buffer and poll."""
        size = len(frame)
        if not self._takes(size):
            return True
        if self._tx_next - self._tx_done >= COUNT and not self._reap() and not self._block():
            return False
        if size < 60:
            frame = pad(frame)
            size = 60
        index = self._tx_next % COUNT
        self._tx_next += 1
        machine, ram = self.machine, self.ram
        machine.mem_write(ram + TX_BUFFERS + index * BUFFER, frame)
        word = _SENT | size if index < COUNT - 1 else _SENT | r.D_EOR | size
        machine.mem_write(ram + TX_RING + index * r.DESCRIPTOR_BYTES, _WORDS.pack(word, 0))
        machine.io_write(self.base + r.TPPOLL, 1, r.POLL_NPQ)
        return True

    def _reap(self) -> bool:
        ring = self.machine.mem_read(self.ram + TX_RING, COUNT * r.DESCRIPTOR_BYTES)
        done, end = self._tx_done, self._tx_next
        sent = failed = 0
        while done < end:
            word = _STATUS.unpack_from(ring, done % COUNT * r.DESCRIPTOR_BYTES)[0]
            if word & r.D_OWN:
                break
            if word & r.TD_TES:
                failed += 1
            else:
                sent += 1
            done += 1
        self._tx_done = done
        if sent:
            self._count("tx_frames", sent)
        if failed:
            self._count("tx_errors", failed)
        return end - done < COUNT

    def _unsent(self) -> int:
        self._reap()
        return self._tx_next - self._tx_done

    def _drain(self) -> None:
        machine, ram = self.machine, self.ram
        deliver = self.deliver
        for _ in range(COUNT):
            ring = machine.mem_read(ram + RX_RING, COUNT * r.DESCRIPTOR_BYTES)
            first = index = self._rx_next
            frames = 0
            while index < COUNT and self._open:
                word = _STATUS.unpack_from(ring, index * r.DESCRIPTOR_BYTES)[0]
                if word & r.D_OWN:
                    break
                size = word & r.RD_LENGTH
                if word & _WHOLE != _WHOLE or word & _BAD_RX or not SHORTEST <= size <= LONGEST:
                    self._count("rx_errors")
                elif deliver(machine.mem_read(ram + RX_BUFFERS + index * BUFFER, size - 4)) is False:
                    self._pause()
                    break
                else:
                    frames += 1
                index += 1
            if frames:
                self._count("rx_frames", frames)
            if index > first:
                self._give_back(first, index)
            self._rx_next = index % COUNT
            if index < COUNT or self._paused:
                return

    def _give_back(self, first: int, end: int) -> None:
        """Descriptors ``first`` .. ``end - 1`` to the card."""
        ram = self.ram
        data = b"".join(
            _DESCRIPTOR.pack(_EMPTY | (r.D_EOR if n == COUNT - 1 else 0), 0, ram + RX_BUFFERS + n * BUFFER)
            for n in range(first, end)
        )
        self.machine.mem_write(ram + RX_RING + first * r.DESCRIPTOR_BYTES, data)


class Rtl8139CDriver(Rtl8139Base):
    """C mode."""

    rcr_extra = r.RCR_RBLEN  # 64 KiB

    def _start_rings(self) -> None:
        self._tx_next = self._tx_done = 0
        self._read_at = 0
        self._out(r.RBSTART, 4, self.ram + C_RING)
        for index in range(r.TX_DESCRIPTORS):
            self._out(r.TSAD0 + 4 * index, 4, self.ram + index * BUFFER)

    def transmit(self, frame: bytes) -> bool:
        """Copy the frame into the next buffer and hand it over."""
        if not self._takes(len(frame)):
            return True
        if self._tx_next - self._tx_done >= r.TX_DESCRIPTORS and not self._reap() and not self._block():
            return False
        frame = pad(frame)
        index = self._tx_next % r.TX_DESCRIPTORS
        self._tx_next += 1
        self.machine.mem_write(self.ram + index * BUFFER, frame)
        self.machine.io_write(self.base + r.TSD0 + 4 * index, 4, len(frame))
        return True

    def _reap(self) -> bool:
        status = self._in(r.TSAD, 2)
        while self._tx_done < self._tx_next:
            index = self._tx_done % r.TX_DESCRIPTORS
            if not status >> index & 0x1110:  # TOK, TUN, TABT
                break
            self._count("tx_frames" if status >> index & 0x1000 else "tx_errors")
            self._tx_done += 1
        return self._tx_next - self._tx_done < r.TX_DESCRIPTORS

    def _unsent(self) -> int:
        self._reap()
        return self._tx_next - self._tx_done

    def _drain(self) -> None:
        machine, base = self.machine, self.ram + C_RING
        deliver = self.deliver
        for _ in range(COUNT):
            if self._in(r.CR, 1) & r.CR_BUFE:
                return
            start = self._read_at
            span = (self._in(r.CBR, 2) - start) % C_RING_BYTES
            data = machine.mem_read(base + start, min(span, C_RING_BYTES - start))
            if len(data) < span:
                data += machine.mem_read(base, span - len(data))
            at = frames = 0
            while at < span:
                status, size = _HEADER.unpack_from(data, at)
                after = at + (size + 4 + 3 & ~3)
                if not status & r.RX_ROK or not SHORTEST <= size <= LONGEST or after > span:
                    self._count("rx_bogus")
                    self._restart()
                    return
                if deliver(data[at + 4 : at + size]) is False:
                    self._pause()
                    break
                frames += 1
                at = after
                if not self._open:
                    return
            if frames:
                self._count("rx_frames", frames)
            self._read_at = (start + at) % C_RING_BYTES
            self._out(r.CAPR, 2, self._read_at - r.CAPR_OFFSET & 0xFFFF)
            if self._paused:
                return

    def _restart(self) -> None:
        """The ring is not as it should be: begin again."""
        left = self._unsent()
        if left:
            self._count("tx_dropped", left)
        self._count("restarts")
        self._start()
