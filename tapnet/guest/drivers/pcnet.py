"""Driver for the PCnet-PCI II (Am79C970A), by registers and descriptor rings in guest RAM, software style 2.

    0x0000  initialization block     0x1000   64 transmit buffers of 1536 bytes
    0x0400  64 transmit descriptors  0x19000  64 receive buffers of 1536 bytes
    0x0800  64 receive descriptors            (offsets in the RAM that ``base`` gives it)

RAP rests on CSR0, so that an interrupt or a transmit is one access. Every transmit sets TDMD, so the chip
need not poll (DPOLL). Interrupts for sent frames are off (TOKINTD) but while somebody waits for room;
descriptors are looked at when they run out. A frame that ``deliver`` refuses stays in the ring, RINT and
MISS masked, until ``resume()``.

Filter: written while the chip is suspended (SPND), so that no frame is lost. Link: BCR4, every
``WATCHDOG`` ns. A transmit that takes longer than ``TX_TIMEOUT``, or one that ends in BUFF or UFLO,
resets the card.

Ref: Am79C970A data sheet (19436E), "Initialization", "Suspend", "Descriptor Rings"; CSR0-15, BCR4, BCR20.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct

from nic_models.bus.machine import Location, Machine, PciLocation
from nic_models.parts.multicast import hash_le
from nic_models.pcnet import registers as r

from .base import MasterDriver
from .driver import Deliver, DriverError
from .pciscan import find

PCI_IDS = ((r.VENDOR_ID, r.DEVICE_ID),)
COUNT_CODE = 6
COUNT = 1 << COUNT_CODE
BUFFER = 1536
TX_RING, RX_RING, TX_BUFFERS = 0x400, 0x800, 0x1000
RX_BUFFERS = TX_BUFFERS + COUNT * BUFFER
SHORTEST, LONGEST = 60 + 4, 1518 + 4  # what MCNT may be, with FCS and a VLAN tag
MAX_SERVICE = 20  # rounds of one interrupt() call
POLLS = 100
TX_TIMEOUT = 5_000_000_000  # ns
WATCHDOG = 2_000_000_000  # ns
CHIP_ID = 0x0003  # low twelve bits of CSR88
NO_LINK = 0x00C0  # BCR4 as it reads then
CSR4_INIT = r.DPOLL | r.APAD_XMT | r.CSR4_MASKS
ENTRY = 16

_BLOCK = Struct("<HBB6sHQII")
_DESCRIPTOR = Struct("<IIII")
_WORDS = Struct("<II")
_STATUS = Struct("<4xII4x")
_OWN = r.D_OWN << 16
_ERR = r.D_ERR << 16
_WHOLE = (r.D_STP | r.D_ENP) << 16
_SEND = _OWN | _WHOLE
_EMPTY = _OWN | (-BUFFER & 0xFFFF)
_FATAL = (r.T_BUFF | r.T_UFLO) << 16
_LCAR = r.T_LCAR << 16
_DEMAND = r.TDMD | r.IENA
_RX_BITS = r.RINT | r.MISS


class PcnetDriver(MasterDriver):
    """See ``drivers.Driver``."""

    def __init__(
        self,
        machine: Machine,
        location: Location | None,
        *,
        deliver: Deliver,
        writable: Callable[[], None],
        now: Callable[[], int],
    ) -> None:
        device = find(machine, PCI_IDS, location.slot if isinstance(location, PciLocation) else None)
        super().__init__(machine, device, "PCnet", deliver, writable, now)
        self._mode = 0
        self._ladrf = 0
        self._link = True
        self._reset_state()
        self._rdp = self.base + r.RDP
        self._width = 2
        self._rap, self._bdp = self.base + r.WIO_RAP, self.base + r.WIO_BDP
        self._reset_card()
        self.mac = self._identify()
        buffers = self.ram + RX_BUFFERS
        self._empty = b"".join(_DESCRIPTOR.pack(buffers + n * BUFFER, _EMPTY, 0, 0) for n in range(COUNT))

    def _reset_state(self) -> None:
        self._tx_next = self._tx_done = 0  # descriptors used and taken back, counted on
        self._rx_next = 0
        self._blocked_at: int | None = None  # transmit() answered False then
        self._paused = False  # deliver() answered False
        self._look_at: int | None = None  # when to look at the link again

    # -- registers -------------------------------------------------------------------------------------------

    def _csr(self, index: int, value: int | None = None) -> int:
        """Read or write a CSR; RAP is 0 afterwards."""
        return self._register(self._rdp, index, value)

    def _bcr(self, index: int, value: int | None = None) -> int:
        return self._register(self._bdp, index, value)

    def _register(self, port: int, index: int, value: int | None) -> int:
        machine, width = self.machine, self._width
        machine.io_write(self._rap, width, index)
        if value is None:
            value = machine.io_read(port, width) & 0xFFFF
        else:
            machine.io_write(port, width, value)
        machine.io_write(self._rap, width, 0)
        return value

    # -- probe -----------------------------------------------------------------------------------------------

    def _reset_card(self) -> None:
        """S_RESET, in word I/O, or in DWord I/O if somebody switched the card (only H_RESET switches back)."""
        self.machine.io_read(self.base + r.WIO_RESET, 2)
        if self._csr(0) == r.STOP:
            return
        self._width = 4
        self._rap, self._bdp = self.base + r.DWIO_RAP, self.base + r.DWIO_BDP
        self.machine.io_read(self.base + r.DWIO_RESET, 4)
        if self._csr(0) != r.STOP:
            raise DriverError(f"PCnet at {self.base:#x} does not reset")

    def _identify(self) -> bytes:
        if self._csr(88) & 0xFFF != CHIP_ID:
            raise DriverError(f"no PCnet at {self.base:#x}")
        prom = bytes(self.machine.io_read(self.base + n, 1) for n in range(r.APROM_BYTES))
        mac = prom[:6]
        if prom[14:] != b"WW" or mac[0] & 1 or not any(mac):
            mac = b"".join(self._csr(12 + n).to_bytes(2, "little") for n in range(3))
        if mac[0] & 1 or not any(mac):
            raise DriverError(f"PCnet at {self.base:#x} has no station address: {mac.hex(':')}")
        return mac

    # -- start and stop --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the card."""
        if self._open:
            return
        self._reset_state()
        self._start()
        self._open = True

    def _start(self) -> None:
        self._reset_card()
        write, ram = self.machine.mem_write, self.ram
        self._tx_next = self._tx_done = self._rx_next = 0
        tx = (_DESCRIPTOR.pack(ram + TX_BUFFERS + n * BUFFER, 0, 0, 0) for n in range(COUNT))
        write(ram + TX_RING, b"".join(tx))
        write(ram + RX_RING, self._empty)
        code = COUNT_CODE << 4
        block = (self._mode, code, code, self.mac, 0, self._ladrf, ram + RX_RING, ram + TX_RING)
        write(ram, _BLOCK.pack(*block))
        self._bcr(r.SWS, 2)
        self._csr(4, CSR4_INIT)
        self._csr(5, r.TOKINTD)
        self._csr(1, ram & 0xFFFF)
        self._csr(2, ram >> 16)
        self._csr(0, r.INIT)
        for _ in range(POLLS):
            if self._csr(0) & r.IDON:
                break
        else:
            raise DriverError(f"PCnet at {self.base:#x} does not initialize")
        self._write_masks()
        self._csr(0, r.STRT | r.IDON | r.IENA)
        self._check_link()

    def close(self) -> None:
        """Stop the card."""
        if not self._open:
            return
        self._open = False
        self._reap()
        left = self._tx_next - self._tx_done
        if left:
            self._count("tx_dropped", left)
        missed = self._csr(r.MFC)
        if missed:
            self._count("rx_missed", missed)
        self._csr(0, r.STOP)
        self._reset_state()

    def set_filter(self, promiscuous: bool, multicast: Sequence[bytes] | None) -> None:
        """Promiscuous mode, and the groups to receive (None: all)."""
        self._mode = r.PROM if promiscuous else 0
        self._ladrf = (1 << 64) - 1
        if multicast is not None:
            self._ladrf = 0
            for group in multicast:
                self._ladrf |= 1 << hash_le(group)
        self._reprogram()

    def set_address(self, mac: bytes) -> None:
        """Another station address."""
        self.mac = mac
        self._reprogram()

    def _reprogram(self) -> None:
        """Address, groups and mode into the running chip, in suspend; nothing is lost by it."""
        if not self._open:
            return
        csr5 = self._csr(5) & ~r.CSR5_CLEARABLE
        self._csr(5, csr5 | r.SPND)
        for _ in range(POLLS):
            if self._csr(5) & r.SPND:
                break
        else:
            self._count("suspend_timeout")
            self._restart()
            return
        for index in range(4):
            self._csr(8 + index, self._ladrf >> 16 * index & 0xFFFF)
        for index in range(3):
            self._csr(12 + index, int.from_bytes(self.mac[2 * index : 2 * index + 2], "little"))
        self._csr(15, self._mode)
        self._csr(5, csr5)

    @property
    def link(self) -> bool:
        """Carrier, as BCR4 showed it last."""
        return self._link

    def _check_link(self) -> None:
        self._link = self._bcr(r.LNKST) != NO_LINK
        self._look_at = self.now() + WATCHDOG

    # -- transmit --------------------------------------------------------------------------------------------

    def transmit(self, frame: bytes) -> bool:
        """Copy the frame into the next buffer and demand."""
        size = len(frame)
        if not self._takes(size):
            return True
        if self._tx_next - self._tx_done >= COUNT and not self._reap() and not self._block():
            return False
        index = self._tx_next % COUNT
        self._tx_next += 1
        machine, ram = self.machine, self.ram
        machine.mem_write(ram + TX_BUFFERS + index * BUFFER, frame)
        machine.mem_write(ram + TX_RING + index * ENTRY + 4, _WORDS.pack(_SEND | -size & 0xFFFF, 0))
        machine.io_write(self._rdp, self._width, _DEMAND)
        return True

    def _reap(self) -> bool:
        """Take back descriptors that are done; whether one is free."""
        ring = self.machine.mem_read(self.ram + TX_RING, COUNT * ENTRY)
        done, end = self._tx_done, self._tx_next
        sent = 0
        fatal = False
        while done < end:
            word, flags = _STATUS.unpack_from(ring, done % COUNT * ENTRY)
            if word & _OWN:
                break
            done += 1
            if not word & _ERR:
                sent += 1
                continue
            self._count("tx_errors")
            if flags & _LCAR:
                self._link = False
            fatal = fatal or bool(flags & _FATAL)
        self._tx_done = done
        if sent:
            self._count("tx_frames", sent)
        if fatal:
            self._restart()
        return self._tx_next - self._tx_done < COUNT

    def _block(self) -> bool:
        """No room: ask for an interrupt when there is. False, for ``transmit`` to answer."""
        if self._blocked_at is None:
            self._blocked_at = self.now()
            self._csr(5, 0)
            if self._reap():  # it became free in between
                self._blocked_at = None
                self._csr(5, r.TOKINTD)
                return True
        return False

    def _wake(self) -> None:
        """Tell the stack that there is room again."""
        if self._reap() and self._blocked_at is not None:
            self._blocked_at = None
            self._csr(5, r.TOKINTD)
            self.writable()

    # -- interrupts ------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Serve what the card has to say, at most MAX_SERVICE rounds."""
        if not self._open:
            return
        read, write, rdp, width = self.machine.io_read, self.machine.io_write, self._rdp, self._width
        for _ in range(MAX_SERVICE):
            csr0 = read(rdp, width)
            if not csr0 & r.INTR:
                return
            write(rdp, width, csr0 & r.CSR0_CLEARABLE | r.IENA)
            if csr0 & _RX_BITS:
                self._drain()
                if csr0 & r.MISS:
                    self._count("rx_waited")
                    write(rdp, width, r.IENA)  # and the chip looks at its ring again
            if csr0 & r.TINT:
                self._wake()
            if csr0 & (r.MERR | r.BABL):
                self._count("bus_errors" if csr0 & r.MERR else "tx_babble")

    def _write_masks(self) -> None:
        self._csr(3, _RX_BITS if self._paused else 0)

    def _drain(self) -> None:
        """Hand received frames up."""
        if self._paused:
            return
        machine, deliver = self.machine, self.deliver
        ring_at, buffers = self.ram + RX_RING, self.ram + RX_BUFFERS
        ring = machine.mem_read(ring_at, COUNT * ENTRY)
        first = index = self._rx_next
        taken = frames = 0
        while taken < COUNT:
            word, count = _STATUS.unpack_from(ring, index * ENTRY)
            if word & _OWN:
                break
            size = count & 0xFFF
            if word & (_ERR | _WHOLE) != _WHOLE or not SHORTEST <= size <= LONGEST:
                self._count("rx_errors")
            elif deliver(machine.mem_read(buffers + index * BUFFER, size - 4)) is False:
                self._paused = True
                break
            else:
                frames += 1
            taken += 1
            index = (index + 1) % COUNT
        if taken:
            self._rx_next = index
            end = first + taken
            tail = end - COUNT
            machine.mem_write(ring_at + first * ENTRY, self._empty[first * ENTRY : end * ENTRY])
            if tail > 0:
                machine.mem_write(ring_at, self._empty[: tail * ENTRY])
        if frames:
            self._link = True
            self._count("rx_frames", frames)
        if self._paused:
            self._write_masks()

    def resume(self) -> None:
        """The stack takes frames again."""
        if not self._paused:
            return
        self._paused = False
        if not self._open:
            return
        self._drain()
        if not self._paused:
            self._write_masks()
            self.machine.io_write(self._rdp, self._width, r.IENA)

    # -- recovery --------------------------------------------------------------------------------------------

    def _restart(self) -> None:
        """Reset the card and begin again; what waits for the wire is lost."""
        self._count("restarts")
        left = self._tx_next - self._tx_done
        if left:
            self._count("tx_dropped", left)
        self._start()
        if self._blocked_at is not None:
            self._blocked_at = None
            self.writable()

    def next_deadline(self) -> int | None:
        """The watchdog, or the transmit timeout."""
        if self._blocked_at is None or self._look_at is None:
            return self._look_at
        return min(self._look_at, self._blocked_at + TX_TIMEOUT)

    def run(self, now: int) -> None:
        """Timers."""
        if not self._open:
            return
        if self._look_at is not None and now >= self._look_at:
            self._check_link()
        if self._blocked_at is None or now < self._blocked_at + TX_TIMEOUT:
            return
        self._wake()  # an interrupt may have been lost
        if self._blocked_at is not None:
            self._count("tx_timeout")
            self._restart()
