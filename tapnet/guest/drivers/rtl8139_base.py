"""What both drivers of the RTL8139 share: probe, EEPROM, start and stop, filter, link, timeout.

Interrupts for sent frames are only asked for while somebody waits for room: descriptors are looked at when
they run out.

Ref: RTL8139C(L)+ data sheet rev. 1.6; RTL8139(A/B) programming guide 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nic_models.bus.machine import Location, Machine, PciLocation
from nic_models.parts.multicast import filter_with
from nic_models.rtl8139 import registers as r

from .base import MasterDriver
from .driver import Deliver, DriverError
from .pciscan import PciDevice

MAX_SERVICE = 20  # rounds of one interrupt() call
RESET_POLLS = 100
TX_TIMEOUT = 5_000_000_000  # ns
RX_BITS = r.INT_ROK | r.INT_RER | r.INT_RXOVW | r.INT_FOVW
TX_BITS = r.INT_TOK | r.INT_TER
ODD_BITS = r.INT_LINKCHG | r.INT_SERR
_ACCEPT = r.RCR_APM | r.RCR_AB
_RCR = 7 << 13 | 7 << 8  # whole packets in the FIFO, unlimited bursts
_TCR = 3 << 24 | 7 << 8  # standard interframe gap, unlimited bursts
_ALL_GROUPS = b"\xff" * 8
_READ_BITS = 0x180  # start bit and opcode 10, before six bits of address


class Rtl8139Base(MasterDriver):
    """See ``drivers.Driver``."""

    rcr_extra = 0
    command = r.CR_RE | r.CR_TE

    def __init__(
        self,
        machine: Machine,
        device: PciDevice,
        *,
        deliver: Deliver,
        writable: Callable[[], None],
        now: Callable[[], int],
    ) -> None:
        super().__init__(machine, device, "RTL8139", deliver, writable, now)
        self._rcr = _ACCEPT
        self._mar = bytes(8)
        self._link = True
        self._blocked_at: int | None = None  # transmit() answered False then
        self._paused = False  # deliver() answered False
        self._reset_card()
        self.mac = self._station_address()

    # -- registers -------------------------------------------------------------------------------------------

    def _in(self, offset: int, size: int) -> int:
        return self.machine.io_read(self.base + offset, size)

    def _out(self, offset: int, size: int, value: int) -> None:
        self.machine.io_write(self.base + offset, size, value)

    def _reset_card(self) -> None:
        self._out(r.CR, 1, r.CR_RST)
        for _ in range(RESET_POLLS):
            if not self._in(r.CR, 1) & r.CR_RST:
                return
        raise DriverError(f"RTL8139 at {self.base:#x} does not reset")

    def _eeprom_word(self, address: int) -> int:
        """One word out of the 93C46, bit by bit."""

        def pins(bits: int) -> None:
            self._out(r.CR9346, 1, r.EEM_PROGRAM | bits)

        pins(0)
        command = _READ_BITS | address
        for bit in range(8, -1, -1):
            data = r.EECS | (r.EEDI if command >> bit & 1 else 0)
            pins(data)
            pins(data | r.EESK)
        word = 0
        for _ in range(16):
            pins(r.EECS)
            pins(r.EECS | r.EESK)
            word = word << 1 | self._in(r.CR9346, 1) & r.EEDO
        pins(0)
        self._out(r.CR9346, 1, 0)
        return word

    def _station_address(self) -> bytes:
        """From the EEPROM if it has its mark, otherwise what is in IDR."""
        if self._eeprom_word(0) == r.EEPROM_ID:
            words = [self._eeprom_word(r.EEPROM_MAC + n) for n in range(3)]
            mac = b"".join(word.to_bytes(2, "little") for word in words)
        else:
            mac = bytes(self._in(r.IDR0 + n, 1) for n in range(6))
        if mac[0] & 1 or not any(mac):
            raise DriverError(f"RTL8139 at {self.base:#x} has no station address: {mac.hex(':')}")
        return mac

    # -- start and stop --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the card."""
        if self._open:
            return
        self._blocked_at = None
        self._paused = False
        self._start()
        self._open = True

    def _start(self) -> None:
        self._reset_card()
        out = self._out
        self._write_address()
        self._start_rings()
        out(r.CR, 1, self.command)
        out(r.TCR, 4, _TCR)
        self._write_filter()
        self._write_mask()
        self._check_link()

    def _start_rings(self) -> None:
        raise NotImplementedError

    def _write_filter(self) -> None:
        self._out(r.RCR, 4, _RCR | self.rcr_extra | self._rcr)
        self._out(r.MAR0, 4, int.from_bytes(self._mar[:4], "little"))
        self._out(r.MAR0 + 4, 4, int.from_bytes(self._mar[4:], "little"))

    def _write_address(self) -> None:
        self._out(r.CR9346, 1, r.EEM_CONFIG)
        self._out(r.IDR0, 4, int.from_bytes(self.mac[:4], "little"))
        self._out(r.IDR0 + 4, 4, int.from_bytes(self.mac[4:], "little"))
        self._out(r.CR9346, 1, 0)

    def _mask(self) -> int:
        mask = ODD_BITS
        if not self._paused:
            mask |= RX_BITS
        if self._blocked_at is not None:
            mask |= TX_BITS
        return mask

    def _write_mask(self) -> None:
        self._out(r.IMR, 2, self._mask())

    def close(self) -> None:
        """Stop the card."""
        if not self._open:
            return
        self._open = False
        self._out(r.IMR, 2, 0)
        left = self._unsent()
        if left:
            self._count("tx_dropped", left)
        self._reset_card()

    def set_filter(self, promiscuous: bool, multicast: Sequence[bytes] | None) -> None:
        """Promiscuous mode, and the groups to receive (None: all)."""
        self._rcr = _ACCEPT
        self._mar = _ALL_GROUPS if promiscuous or multicast is None else filter_with(list(multicast))
        if any(self._mar):
            self._rcr |= r.RCR_AM
        if promiscuous:
            self._rcr |= r.RCR_AAP
        if self._open:
            self._write_filter()

    def set_address(self, mac: bytes) -> None:
        """Another station address."""
        self.mac = mac
        if self._open:
            self._write_address()

    @property
    def link(self) -> bool:
        """Carrier, as MSR showed it last."""
        return self._link

    def _check_link(self) -> None:
        self._link = not self._in(r.MSR, 1) & r.MSR_LINKB

    # -- interrupts ------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Serve what the card has to say, at most MAX_SERVICE rounds."""
        if not self._open:
            return
        read, write = self.machine.io_read, self.machine.io_write
        port = self.base + r.ISR
        for _ in range(MAX_SERVICE):
            isr = read(port, 2) & self._mask()
            if not isr:
                return
            write(port, 2, isr)
            if isr & RX_BITS:
                if isr & (r.INT_RXOVW | r.INT_FOVW):
                    self._count("rx_overflow")
                self._drain()
                if isr & r.INT_RXOVW:
                    write(port, 2, r.INT_RXOVW)  # and the card looks at its ring again
            if isr & TX_BITS:
                self._wake()
            if isr & r.INT_LINKCHG:
                self._check_link()
            if isr & r.INT_SERR:
                self._count("bus_errors")

    def _pause(self) -> None:
        """``deliver`` refused: leave the rest in the ring."""
        self._paused = True
        self._write_mask()

    def resume(self) -> None:
        """The stack takes frames again."""
        if not self._paused:
            return
        self._paused = False
        if not self._open:
            return
        self._drain()
        if not self._paused:
            self._out(r.ISR, 2, r.INT_RXOVW)
            self._write_mask()

    # -- transmit --------------------------------------------------------------------------------------------

    def _block(self) -> bool:
        """No room: ask for an interrupt when there is. False, for ``transmit`` to answer."""
        if self._blocked_at is None:
            self._blocked_at = self.now()
            self._out(r.ISR, 2, TX_BITS)
            self._write_mask()
            if self._reap():  # it became free in between
                self._blocked_at = None
                self._write_mask()
                return True
        return False

    def _wake(self) -> None:
        """Tell the stack that there is room again."""
        if self._blocked_at is not None and self._reap():
            self._blocked_at = None
            self._write_mask()
            self.writable()

    def next_deadline(self) -> int | None:
        """The transmit timeout."""
        return None if self._blocked_at is None else self._blocked_at + TX_TIMEOUT

    def run(self, now: int) -> None:
        """Timers."""
        if self._blocked_at is None or now < self._blocked_at + TX_TIMEOUT:
            return
        self._wake()  # an interrupt may have been lost
        if self._blocked_at is None:
            return
        self._count("tx_timeout")
        left = self._unsent()
        if left:
            self._count("tx_dropped", left)
        self._blocked_at = None
        self._start()
        self.writable()

    def _reap(self) -> bool:
        """Take back descriptors that are done; whether one is free."""
        raise NotImplementedError

    def _unsent(self) -> int:
        """Frames that the card has not sent."""
        raise NotImplementedError

    def _drain(self) -> None:
        """Hand received frames up."""
        raise NotImplementedError


def slot_of(location: Location | None) -> int | None:
    """The PCI slot that ``location`` names."""
    return location.slot if isinstance(location, PciLocation) else None
