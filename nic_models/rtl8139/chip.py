"""Realtek RTL8139C and C+: command, interrupt and mode registers, and the DMA engine that ties the parts.

    registers.py      offsets and bits            transmitter.py    C mode transmit, the way to the wire
    receiver.py       filter, FIFO, C mode ring   cplus.py          descriptor rings
    configuration.py  EEPROM, Config, PHY         offload.py        task offload
    timer.py          TCTR                        tally.py          counters
    pci.py            the PCI function            ../parts/         mii.py, eeprom.py: PHY, 93C46

Registers answer byte, word and dword accesses at any offset (``parts/register_file.py``); the I/O and the memory
window are the same.

Engine. Nothing moves inside an access: what is to be done sets ``dma_pending``; ``dma()`` then yields reads
and writes (``bus/dma.py``). One step is: read all that is needed, then change state at once and post writes; a
posted write stays in ``posted`` until it is done, and its consequence (an interrupt bit, CBR, DTCCR.Cmd)
follows it. So a snapshot between any two operations is complete, and a reset in the middle leaves nothing
behind (``epoch``). Work per run is bounded: 16 received frames, 4 + 2 x 64 transmit descriptors per kick.
Without bus mastering the engine waits.

Timers: TimerInt, the PHY's negotiation, and the receiver's: packets that wait in a full ring are told again, another
look at the C+ ring, the end of a frame's wait for room. With ``tx_delay``, a frame's time on the wire at 10 or 100 Mbit/s,
which BMCR chooses.

Departures: reset and auto-load take no time; power management, wake-up and CardBus registers are stored and
do nothing. IDR, MAR, Config and PHY registers keep their values over CR.RST, as the data sheet says.

Ref: as registers.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ..bus.dma import Engine
from ..bus.pci import SUBSYSTEM_DEFAULT
from ..parts.eeprom import Eeprom93C46
from ..parts.mii import Phy
from ..parts.register_file import MASKS, RegisterFile
from ..rxfilter import RxFilter
from ..snapshot import flag, number, section, unpack
from ..snapshot import pack as pack_bytes
from . import registers as r
from .configuration import Config
from .cplus import Cplus
from .receiver import Receiver
from .tally import Tally
from .timer import Timer
from .transmitter import LONGEST, Transmitter

MAX_POSTED = 256
_IRQ, _CBR, _DUMPED, _EARLY, _PART = range(5)  # what follows a posted write


class Rtl8139:
    """The chip with its EEPROM and PHY: the card contract, but for PCI.

    mac, tx, rx_ready, set_irq, now: see ``card``. ``revision`` 0x20 is the C+, 0x10 the plain C without C+
    registers.
    """

    model = "rtl8139"

    def __init__(
        self,
        mac: bytes,
        tx: Callable[..., bool],
        rx_ready: Callable[[], None],
        set_irq: Callable[[bool], None],
        now: Callable[[], int],
        *,
        revision: int = r.REV_CPLUS,
        subsystem: tuple[int, int] = SUBSYSTEM_DEFAULT,
    ) -> None:
        if len(mac) != 6 or mac[0] & 1:
            raise ValueError(f"not a station address: {mac.hex(':')}")
        if revision not in (r.REV_C, r.REV_CPLUS):
            raise ValueError(f"rev={revision:#x}: {self.model} has revisions {r.REV_C:#x}, {r.REV_CPLUS:#x}")
        self.mac = mac
        self.revision = revision
        self.wire = tx
        self.rx_ready = rx_ready
        self.set_irq = set_irq
        self.now = now
        self.tx_delay = False  # see ``card``
        self.bus_master = True  # as the PCI command register says: set_bus_master
        self.dma_pending = False
        self.posted: deque[tuple[int, bytes, int, int]] = deque()
        self.epoch = 0  # counts resets: an engine of an older one stops
        self.irq = False
        self.idr = mac
        self.tally = Tally()
        self.timer = Timer(now, self._timeout)
        self.out = Transmitter(self)
        self.rx = Receiver(self)
        self.cplus = Cplus(self)
        self.phy = Phy(now, self._link, writable=r.BMCR_FREE | r.BMCR_LOCKED, latch=False)
        self._clear()
        self.config = Config(self, Eeprom93C46(r.eeprom_words(mac, subsystem)), self.phy)
        self.file = RegisterFile(r.WINDOW)
        self._register()
        self.file.build()
        self._readers = self.file.readers
        self._writers = self.file.writers
        self.receive = self.rx.receive

    def _clear(self) -> None:
        """Registers that CR.RST clears."""
        self.command = self.tcr = self.rcr = self.imr = self.isr = self.tdokla = 0

    def _register(self) -> None:
        add = self.file.add
        out, rx, timer = self.out, self.rx, self.timer
        add(r.IDR0, 4, lambda: int.from_bytes(self.idr[:4], "little"), self._idr_writer(0))
        add(r.IDR0 + 4, 2, lambda: int.from_bytes(self.idr[4:], "little"), self._idr_writer(4))
        for half in (0, 1):
            add(r.MAR0 + 4 * half, 4, self._mar_reader(half), self._mar_writer(half))
        for index in range(r.TX_DESCRIPTORS):
            add(r.TSD0 + 4 * index, 4, self._tsd_reader(index), self._tsd_writer(index))
            add(r.TSAD0 + 4 * index, 4, self._tsad_reader(index), self._tsad_writer(index))
        add(r.RBSTART, 4, lambda: rx.base, rx.write_base)
        add(r.ERBCR, 2, lambda: rx.early, None)
        add(r.ERSR, 1, lambda: rx.ersr, rx.write_ersr)
        add(r.CR, 1, self._read_command, self._write_command)
        add(r.CAPR, 2, rx.read_capr, rx.write_capr)
        add(r.CBR, 2, rx.read_cbr, None)
        add(r.IMR, 2, lambda: self.imr, self._write_imr)
        add(r.ISR, 2, self._read_isr, self._write_isr)
        add(r.TCR, 4, self._read_tcr, self._write_tcr)
        add(r.RCR, 4, lambda: self.rcr, self._write_rcr)
        add(r.TCTR, 4, timer.read, timer.clear)
        add(r.MPC, 4, lambda: rx.missed, self._write_mpc)
        add(r.TIMERINT, 4, lambda: timer.target, timer.write)
        add(r.RERID, 1, lambda: self.revision, None)
        add(r.TSAD, 2, out.read_tsad, None)
        self.config.register(self.file)
        if self.revision >= r.REV_CPLUS:
            cplus = self.cplus
            add(r.TDOKLA, 2, lambda: self.tdokla, None)
            add(r.TPPOLL, 1, cplus.read_poll, cplus.write_poll)
            add(r.CPCR, 2, lambda: cplus.cpcr, cplus.write_cpcr)
            add(r.RDSAR, 4, lambda: cplus.rdsar & 0xFFFFFFFF, lambda v, m: cplus.write_rdsar(False, v, m))
            add(r.RDSAR + 4, 4, lambda: cplus.rdsar >> 32, lambda v, m: cplus.write_rdsar(True, v, m))
            add(r.ETTHR, 1, lambda: cplus.ettr, cplus.write_ettr)

    # bus

    def read(self, region: int, offset: int, size: int) -> int:
        """Bus read; both regions are the same registers."""
        return self._readers[size][offset]()

    def write(self, region: int, offset: int, size: int, value: int) -> None:
        """Bus write."""
        self._writers[size][offset](value, MASKS[size])

    def read_block(self, region: int, offset: int, size: int, count: int) -> bytes:
        """String input."""
        reader = self._readers[size][offset]
        return b"".join(reader().to_bytes(size, "little") for _ in range(count))

    def write_block(self, region: int, offset: int, size: int, data: bytes) -> None:
        """String output."""
        writer, mask = self._writers[size][offset], MASKS[size]
        for index in range(0, len(data) - size + 1, size):
            writer(int.from_bytes(data[index : index + size], "little"), mask)

    def tx_ready(self) -> None:
        """The wire takes frames again."""
        self.out.retry()

    def rx_filter(self) -> RxFilter:
        """What the receiver lets pass."""
        return self.rx.rx_filter()

    def set_link(self, up: bool) -> None:
        """The cable was plugged or pulled."""
        self.phy.set_cable(up)

    def set_bus_master(self, on: bool) -> None:
        """The PCI command register allows DMA, or no longer does."""
        self.bus_master = on
        if on:
            self.kick()
        else:
            self.dma_pending = False
            self.rx.let_go(always=True)

    # reset

    def reset(self) -> None:
        """RST#: as after power-on."""
        self.power_on()

    def power_on(self) -> None:
        """RST# and 9346CR auto-load: everything to its default, configuration from the EEPROM."""
        self.rx.mar = 0
        self.config.load()
        self.soft_reset()

    def soft_reset(self) -> None:
        """CR.RST."""
        self.epoch += 1
        self.posted.clear()
        self.dma_pending = False
        self._clear()
        self.tally.reset()
        self.timer.reset()
        self.out.reset()
        self.cplus.reset()
        self.rx.reset()
        self._update_irq()

    # interrupts

    def interrupt(self, bits: int) -> None:
        """Set bits of ISR."""
        self.isr |= bits
        self._update_irq()

    def _update_irq(self) -> None:
        level = self.isr & self.imr != 0
        if level != self.irq:
            self.irq = level
            self.set_irq(level)

    def _timeout(self) -> None:
        self.interrupt(r.INT_TIMEOUT)

    def _link(self, up: bool) -> None:
        if not up:
            self.config.disconnects = (self.config.disconnects + 1) & 0xFFFF
            self.rx.flush()
        self.config.cscr |= r.CSCR_CHANGED
        self.interrupt(r.INT_LINKCHG)

    def _write_imr(self, value: int, mask: int) -> None:
        usable = r.INT_CPLUS if self.revision >= r.REV_CPLUS else r.INT_C
        self.imr = (self.imr & ~mask | value & mask) & usable
        self._update_irq()
        self.cplus.nudge()

    def _read_isr(self) -> int:
        self.timer.run(self.now())
        return self.isr

    def _write_isr(self, value: int, mask: int) -> None:
        self.isr &= ~(value & mask)
        self._update_irq()
        self.cplus.nudge()

    # command and modes

    def _read_command(self) -> int:
        return self.command | (r.CR_BUFE if self.rx.empty() else 0)

    def _write_command(self, value: int, mask: int) -> None:
        if value & r.CR_RST:
            self.soft_reset()
        old = self.command
        self.command = value & (r.CR_RE | r.CR_TE)
        changed = old ^ self.command
        if changed & r.CR_RE:
            self.rx.restart()
            self.cplus.restart_rx()
        if changed & r.CR_TE:
            self.epoch += 1  # a step in the middle is none any more
            self.out.restart()
            self.cplus.restart_tx()
        if self.command & r.CR_TE:
            self.kick()
        self.cplus.nudge()

    def _read_tcr(self) -> int:
        return self.tcr | (r.TCR_ID_CPLUS if self.revision >= r.REV_CPLUS else r.TCR_ID_C)

    def _write_tcr(self, value: int, mask: int) -> None:
        if self.command & r.CR_TE:
            mask &= r.TCR_WRITABLE
            self.tcr = self.tcr & ~mask | value & mask

    def _write_rcr(self, value: int, mask: int) -> None:
        mask &= r.RCR_WRITABLE
        self.rcr = self.rcr & ~mask | value & mask
        self.rx.resize()

    def _write_mpc(self, _value: int, _mask: int) -> None:
        self.rx.missed = 0

    # addresses

    def _idr_writer(self, first: int) -> Callable[[int, int], None]:
        def write(value: int, mask: int) -> None:
            size = 4 if first == 0 else 2
            old = int.from_bytes(self.idr[first : first + size], "little")
            new = (old & ~mask | value & mask).to_bytes(size, "little")
            self.idr = self.idr[:first] + new + self.idr[first + size :]

        return write

    def _mar_reader(self, half: int) -> Callable[[], int]:
        return lambda: self.rx.mar >> 32 * half & 0xFFFFFFFF

    def _mar_writer(self, half: int) -> Callable[[int, int], None]:
        def write(value: int, mask: int) -> None:
            self.rx.mar = self.rx.mar & ~(mask << 32 * half) | (value & mask) << 32 * half

        return write

    # 0x10-0x2f: TSD and TSAD in C mode, DTCCR, TNPDS and THPDS in C+ mode

    def _tsd_reader(self, index: int) -> Callable[[], int]:
        def read() -> int:
            if self.cplus.active() and index < 2:
                return self.cplus.dtccr >> 32 * index & 0xFFFFFFFF
            return self.out.tsd[index]

        return read

    def _tsd_writer(self, index: int) -> Callable[[int, int], None]:
        def write(value: int, mask: int) -> None:
            if not self.cplus.active():
                self.out.write_tsd(index, value, mask)
            elif index < 2:
                self.cplus.write_dtccr(bool(index), value, mask)

        return write

    def _tsad_reader(self, index: int) -> Callable[[], int]:
        def read() -> int:
            if self.cplus.active():
                ring = self.cplus.high if index & 2 else self.cplus.normal
                return ring.base >> 32 * (index & 1) & 0xFFFFFFFF
            return self.out.tsad[index]

        return read

    def _tsad_writer(self, index: int) -> Callable[[int, int], None]:
        def write(value: int, mask: int) -> None:
            if self.cplus.active():
                ring = self.cplus.high if index & 2 else self.cplus.normal
                self.cplus.write_ring(ring, bool(index & 1), value, mask)
            else:
                self.out.tsad[index] = self.out.tsad[index] & ~mask | value & mask

        return write

    # engine

    def kick(self) -> None:
        """There may be work for the engine."""
        self.dma_pending = self.bus_master

    def post(self, address: int, data: bytes, bits: int) -> None:
        """Write ``data``, then set ``bits`` of ISR."""
        self.posted.append((address, data, _IRQ, bits))
        self.dma_pending = self.bus_master

    def post_ring(self, address: int, data: bytes, cbr: int) -> None:
        """Write the end of a packet into the receive ring, then move CBR and interrupt."""
        self.posted.append((address, data, _CBR, cbr))

    def post_part(self, address: int, data: bytes) -> None:
        """Write a piece of a packet into the receive ring."""
        self.posted.append((address, data, _PART, 0))

    def post_early(self, address: int, data: bytes, cbr: int) -> None:
        """Write the first part of a packet into the receive ring, then move CBR and interrupt."""
        self.posted.append((address, data, _EARLY, cbr))

    def abandon_packet(self) -> None:
        """The ring that a posted packet was for is no more; the engine begins its present step again."""
        if self.posted:
            self.epoch += 1
            self.posted = deque(write for write in self.posted if write[2] not in (_CBR, _EARLY, _PART))

    def dma(self) -> Engine:
        """See ``dma.BusMaster``."""
        out, rx, cplus = self.out, self.rx, self.cplus
        while self.bus_master:
            posted = self.posted
            if posted:
                epoch = self.epoch
                address, data, then, value = posted[0]
                yield ("write", address, data)
                if epoch != self.epoch:
                    continue
                posted.popleft()
                if then == _CBR:
                    rx.stored(value)
                elif then == _EARLY:
                    rx.arrived(value)
                elif then == _DUMPED:
                    cplus.dtccr &= ~r.DTCCR_CMD
                elif value:
                    self.interrupt(value)
                continue
            if cplus.dtccr & r.DTCCR_CMD:
                posted.append((cplus.dtccr & ~0x3F, self.tally.dump(), _DUMPED, 0))
                continue
            if rx.fifo and not rx.stalled and self.command & r.CR_RE:
                if cplus.cpcr & r.CPCR_RXEN:
                    yield from cplus.store()
                else:
                    rx.store()
                continue
            if out.held is None and self.command & r.CR_TE:
                if cplus.cpcr & r.CPCR_TXEN:
                    ring = cplus.ready()
                    if ring is not None:
                        yield from cplus.step(ring)
                        continue
                elif out.wants():
                    yield from out.step()
                    continue
            break
        self.dma_pending = False
        rx.let_go()

    # timers

    def next_deadline(self) -> int | None:
        """When ``run`` is due, ns of the machine's clock."""
        soonest: int | None = self.timer.due
        for due in (self.phy.deadline, self.cplus.retry, self.rx.again, self.rx.give_up, self.out.until):
            if due is not None and (soonest is None or due < soonest):
                soonest = due
        return soonest

    def run(self, now: int) -> None:
        """Let timers expire."""
        self.timer.run(now)
        self.phy.run(now)
        self.out.run(now)
        self.rx.run(now)
        self.cplus.run(now)

    # state

    @property
    def counters(self) -> dict[str, int]:
        """Frames that went nowhere, by direction and reason."""
        counts = {f"tx {reason}": count for reason, count in self.out.drops.items()}
        return counts | {f"rx {reason}": count for reason, count in self.rx.drops.items()}

    def snapshot(self) -> dict[str, Any]:
        """The whole state as JSON-able data; good between any two DMA operations."""
        return {
            "model": self.model,
            "revision": self.revision,
            "command": self.command,
            "tcr": self.tcr,
            "rcr": self.rcr,
            "imr": self.imr,
            "isr": self.isr,
            "tdokla": self.tdokla,
            "dma_pending": self.dma_pending,
            "bus_master": self.bus_master,
            "idr": self.idr.hex(),
            "posted": [
                {"address": address, "data": pack_bytes(data), "then": then, "value": value}
                for address, data, then, value in self.posted
            ],
            "tally": self.tally.snapshot(),
            "timer": self.timer.snapshot(),
            "out": self.out.snapshot(),
            "rx": self.rx.snapshot(),
            "cplus": self.cplus.snapshot(),
            "config": self.config.snapshot(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data. Raises ValueError."""
        if not isinstance(state, Mapping) or state.get("model") != self.model:
            raise ValueError(f"snapshot: not of a {self.model}")
        if number(state, "revision", 0xFF) != self.revision:
            raise ValueError("snapshot: of another revision")
        items = state.get("posted")
        if not isinstance(items, list) or len(items) > MAX_POSTED:
            raise ValueError("snapshot: posted is not a list of writes")
        posted = [
            (
                number(item, "address", (1 << 64) - 1),
                unpack(item, "data", limit=LONGEST),
                number(item, "then", _PART),
                number(item, "value", 0xFFFF),
            )
            for item in items
        ]
        try:
            idr = bytes.fromhex(str(state.get("idr")))
        except ValueError:
            idr = b""
        if len(idr) != 6:
            raise ValueError("snapshot: idr is not six bytes")
        self.epoch += 1
        for name in ("tally", "timer", "out", "rx", "cplus", "config"):
            getattr(self, name).restore(section(state, name))
        self.command = number(state, "command", 0xFF)
        self.tcr = number(state, "tcr", 0xFFFFFFFF)
        self.rcr = number(state, "rcr", 0xFFFFFFFF)
        self.imr = number(state, "imr", 0xFFFF)
        self.isr = number(state, "isr", 0xFFFF)
        self.tdokla = number(state, "tdokla", 0xFFFF)
        self.dma_pending = flag(state, "dma_pending")
        self.bus_master = flag(state, "bus_master")
        self.idr = idr
        self.posted = deque(posted)
        self._update_irq()
