"""A card on a UNIX socket: the device side of vfio-user, so that a stock QEMU plugs it into a VM.

    QEMU (vfio-user-pci) ── UNIX socket ── Session: messages ── PciFunction: configuration space, regions ── card ── Port

One client at a time; the next waits in the backlog. A client that comes finds a freshly reset card. Whatever ends a
session (the VM's end, kill -9, a broken message) is one log line; the card is reset, its descriptors and mappings are
given back, and the socket listens on.

Messages are served in order, many per wake-up, and their answers leave together. A register access never waits for DMA by
message: the answer goes first (QEMU's CPU holds its lock while it waits for it).

DMA   where the client passed a descriptor that cannot shrink (F_SEAL_SHRINK) it is mapped; another descriptor is read and
      written by pread and pwrite, so that a client that truncates its memory cannot end us by SIGBUS; without a descriptor
      by DMA_READ and DMA_WRITE messages, one at a time, the card's engine being resumed by each answer.
INTx  level behind an eventfd that masks itself: fired once when the level rises, then the client unmasks at every access.
      While the level stays up it is fired again only after ``REFIRE_S`` without access, or a driver in the middle of its
      interrupt routine would be called again for each register it reads.

Timers: the card's own deadlines; the refire delay. Limits: ``REGIONS_MAX`` DMA regions, ``OUT_MAX`` bytes of answers that
the client has not read (then we stop reading from it), and those of ``vfio_wire``.

Ref: as ``vfio_wire``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import mmap
import os
import socket
import stat
from array import array
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nic_models import models
from nic_models.dma import MAX_OPS
from nic_models.pci import Bar, Identity, PciFunction

from . import vfio_wire as wire
from .vfio_wire import Message, ProtocolError

log = logging.getLogger("tapnet.vfio-user")

REFIRE_S = 0.001
REGIONS_MAX = 4096
OUT_MAX = 4 << 20
READ_SIZE = 1 << 18
BARE = Identity(vendor=0x1234, device=0x8390, revision=0, class_code=0xFF0000)  # nobody's driver matches
ONE = (1).to_bytes(8, "little")
DMA_CHUNK = 1 << 16  # of one DMA message


class ServeError(Exception):
    """The socket cannot be served; one line."""


class Region:
    """A piece of the guest's memory. ``map`` or ``fd``, or neither: by messages."""

    __slots__ = ("fd", "map", "offset", "prot", "size", "start")

    def __init__(self, start: int, size: int, offset: int, prot: int, fd: int) -> None:
        """Takes ``fd`` (-1: none). Raises OSError; the descriptor is closed then."""
        self.start, self.size, self.offset, self.prot = start, size, offset, prot
        self.map: mmap.mmap | None = None
        self.fd = fd
        if fd < 0:
            return
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and offset + size > status.st_size:
                raise OSError(errno.EINVAL, "beyond the end of the descriptor")
            if _sealed(fd) and offset % mmap.ALLOCATIONGRANULARITY == 0:
                access = mmap.PROT_READ | (mmap.PROT_WRITE if prot & wire.MAP_WRITE else 0)
                self.map = mmap.mmap(fd, size, mmap.MAP_SHARED, access, offset=offset)
                os.close(fd)
                self.fd = -1
        except (OSError, ValueError) as error:
            os.close(fd)
            self.fd = -1
            raise OSError(getattr(error, "errno", None) or errno.EINVAL, str(error)) from None

    @property
    def local(self) -> bool:
        """Whether no message is needed."""
        return self.map is not None or self.fd >= 0

    def read(self, at: int, length: int) -> bytes:
        """Bytes at ``at`` within the region; zeros where a truncated descriptor has none."""
        if self.map is not None:
            return self.map[at : at + length]
        return os.pread(self.fd, length, self.offset + at).ljust(length, b"\0")

    def write(self, at: int, data: bytes) -> None:
        """Store at ``at``."""
        if self.map is not None:
            self.map[at : at + len(data)] = data
        else:
            os.pwrite(self.fd, data, self.offset + at)

    def close(self) -> None:
        """Give the mapping or descriptor back."""
        if self.map is not None:
            self.map.close()
            self.map = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _sealed(fd: int) -> bool:
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False


class GuestMemory:
    """The DMA map: regions by address, none overlapping."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._regions: list[Region] = []

    def find(self, address: int) -> tuple[Region | None, int]:
        """The region at ``address`` and how far it (or the hole) reaches."""
        index = bisect_right(self._starts, address)
        if index:
            region = self._regions[index - 1]
            if address < region.start + region.size:
                return region, region.start + region.size - address
        reach = self._starts[index] - address if index < len(self._starts) else 1 << 64
        return None, reach

    def add(self, start: int, size: int, offset: int, prot: int, fd: int) -> int:
        """Map a region; takes ``fd``. 0 or an errno."""
        index = bisect_right(self._starts, start)
        before = self._regions[index - 1] if index else None
        wrong = 0
        if not size or start + size > 1 << 64 or offset + size > 1 << 63:
            wrong = errno.EINVAL
        elif len(self._regions) >= REGIONS_MAX:
            wrong = errno.ENOSPC
        elif (before is not None and before.start + before.size > start) or (
            index < len(self._starts) and self._starts[index] < start + size
        ):
            wrong = errno.EEXIST
        if wrong:
            if fd >= 0:
                os.close(fd)
            return wrong
        try:
            region = Region(start, size, offset, prot, fd)
        except OSError as error:
            return error.errno or errno.EINVAL
        self._starts.insert(index, start)
        self._regions.insert(index, region)
        return 0

    def remove(self, start: int, size: int) -> int:
        """Unmap exactly that region. 0 or an errno."""
        index = bisect_right(self._starts, start) - 1
        if index < 0 or self._starts[index] != start or self._regions[index].size != size:
            return errno.ENOENT
        self._regions.pop(index).close()
        self._starts.pop(index)
        return 0

    def close(self) -> None:
        """Unmap all."""
        for region in self._regions:
            region.close()
        self._starts.clear()
        self._regions.clear()


class Session:
    """One client. ``on_end(reason)`` is called once, when it is over."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        function: PciFunction,
        now: Callable[[], int],
        on_end: Callable[[str], None],
    ) -> None:
        self.loop, self.sock, self.function, self.now, self.on_end = loop, sock, function, now, on_end
        self.memory = GuestMemory()
        self.counters = {"messages": 0, "irqs": 0, "unmasks": 0, "dma_messages": 0, "dma_stopped": 0}
        self._decoder = wire.Decoder()
        self._out = bytearray()
        self._paused = False
        self._greeted = False
        self._closed = False
        self._eventfds: dict[int, int] = {}
        self._masked = False
        self._refire: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_access = 0.0
        self._engine: Any = None
        self._transfer: _Transfer | None = None
        self._next_id = 0
        self._dma = hasattr(function.card, "dma")
        self._handlers = {
            wire.DMA_MAP: self._map,
            wire.DMA_UNMAP: self._unmap,
            wire.GET_INFO: self._info,
            wire.GET_REGION_INFO: self._region_info,
            wire.GET_IRQ_INFO: self._irq_info,
            wire.SET_IRQS: self._set_irqs,
            wire.REGION_READ: self._read,
            wire.REGION_WRITE: self._write,
            wire.WRITE_MULTI: self._write_multi,
            wire.RESET: self._reset,
        }
        function.on_intx = self._intx
        loop.add_reader(sock.fileno(), self._readable)

    # ---- the socket ----------------------------------------------------------------------------------------

    def _readable(self) -> None:
        fds = array("i")
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(
                READ_SIZE, socket.CMSG_SPACE(4 * (wire.FDS_MAX + 1))
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error.strerror or "broken")
            return
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % 4])
        for fd in fds:
            os.set_inheritable(fd, False)
        try:
            if flags & socket.MSG_CTRUNC:
                wire.close_all(fds)
                raise ProtocolError(f"more than {wire.FDS_MAX} descriptors in one message")
            if not data:
                wire.close_all(fds)
                self.close("the client has gone")
                return
            for message in self._decoder.feed(data, fds):
                self._serve(message)
                if self._closed:
                    return
        except ProtocolError as error:
            self.close(str(error))
            return
        self._settle()

    def _settle(self) -> None:
        """After each entry: DMA that is due, answers out, timers."""
        self._drive()
        self._flush()
        self._arm()

    def _flush(self) -> None:
        out = self._out
        if out and not self._closed:
            try:
                sent = self.sock.send(out)
                del out[:sent]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self.close(error.strerror or "broken")
                return
            if out and not self._paused:
                self._paused = True
                self.loop.add_writer(self.sock.fileno(), self._writable)
            if len(out) > OUT_MAX:
                self.loop.remove_reader(self.sock.fileno())

    def _writable(self) -> None:
        self._flush()
        if not self._out and not self._closed:
            self._paused = False
            self.loop.remove_writer(self.sock.fileno())
            self.loop.add_reader(self.sock.fileno(), self._readable)

    def close(self, reason: str) -> None:
        """End it: everything of the client's is given back, the card is reset. Idempotent."""
        if self._closed:
            return
        self._closed = True
        fd = self.sock.fileno()
        self.loop.remove_reader(fd)
        if self._paused:
            self.loop.remove_writer(fd)
        for timer in (self._refire, self._timer):
            if timer is not None:
                timer.cancel()
        if self._engine is not None:
            self._engine.close()
            self._engine = self._transfer = None
        self.sock.close()
        self._decoder.close()
        self.function.on_intx = lambda _level: None
        self.function.reset()
        self.memory.close()
        wire.close_all(self._eventfds.values())
        self._eventfds.clear()
        self.on_end(reason)

    # ---- messages ------------------------------------------------------------------------------------------

    def _serve(self, message: Message) -> None:
        self.counters["messages"] += 1
        if message.is_reply:
            self._answered(message)
            return
        fds = message.fds
        try:
            if not self._greeted:
                self._version(message)
                return
            handler = self._handlers.get(message.command)
            if handler is None:
                self._refuse(message, errno.ENOSYS if message.command != wire.VERSION else errno.EINVAL)
                return
            handler(message)
        finally:
            wire.close_all(fds)  # those that nobody took

    def _answer(self, message: Message, body: bytes = b"") -> None:
        if message.wants_reply:
            self._out += wire.reply(message, body)

    def _refuse(self, message: Message, error: int) -> None:
        if message.wants_reply:
            self._out += wire.failure(message, error)

    def _version(self, message: Message) -> None:
        if message.command != wire.VERSION:
            raise ProtocolError(f"command {message.command} before VERSION")
        major, _, theirs = wire.parse_version(message.body)
        if major != 0:
            self._refuse(message, errno.EINVAL)
            self._flush()
            raise ProtocolError(f"protocol version {major} is not known")
        ours: dict[str, Any] = {"max_msg_fds": wire.FDS_MAX, "max_data_xfer_size": wire.TRANSFER_MAX}
        if theirs.get("write_multiple") is True:
            ours["write_multiple"] = True
        self._greeted = True
        self._answer(message, wire.version({key: value for key, value in ours.items() if key in theirs}))

    def _map(self, message: Message) -> None:
        if len(message.body) != wire.MAP.size or len(message.fds) > 1:
            self._refuse(message, errno.EINVAL)
            return
        _, flags, offset, address, size = wire.MAP.unpack(message.body)
        wrong = self.memory.add(address, size, offset, flags & 3, message.fds.pop() if message.fds else -1)
        if wrong:
            self._refuse(message, wrong)
        else:
            self._answer(message)

    def _unmap(self, message: Message) -> None:
        if len(message.body) != wire.UNMAP.size:
            self._refuse(message, errno.EINVAL)
            return
        _, flags, address, size = wire.UNMAP.unpack(message.body)
        if flags & wire.UNMAP_ALL:
            self.memory.close()
            wrong = 0
        else:
            wrong = errno.ENOTSUP if flags else self.memory.remove(address, size)
        if wrong:
            self._refuse(message, wrong)
        else:
            self._answer(message, message.body)

    def _info(self, message: Message) -> None:
        if len(message.body) < wire.INFO.size:
            self._refuse(message, errno.EINVAL)
            return
        self._answer(message, wire.INFO.pack(wire.INFO.size, wire.INFO_RESET_PCI, wire.REGIONS, wire.IRQS))

    def _size(self, region: int) -> int:
        if region < len(self.function.bars):
            return self.function.bars[region].size
        return len(self.function.config) if region == wire.CONFIG_REGION else 0

    def _region_info(self, message: Message) -> None:
        if len(message.body) < wire.REGION_INFO.size:
            self._refuse(message, errno.EINVAL)
            return
        index = wire.REGION_INFO.unpack_from(message.body)[2]
        if index >= wire.REGIONS:
            self._refuse(message, errno.EINVAL)
            return
        size = self._size(index)
        flags = wire.REGION_RW if size else 0
        self._answer(message, wire.REGION_INFO.pack(wire.REGION_INFO.size, flags, index, 0, size, 0))

    def _irq_info(self, message: Message) -> None:
        if len(message.body) < wire.IRQ_INFO.size:
            self._refuse(message, errno.EINVAL)
            return
        index = wire.IRQ_INFO.unpack_from(message.body)[2]
        if index >= wire.IRQS:
            self._refuse(message, errno.EINVAL)
            return
        flags, count = {
            wire.INTX: (wire.IRQ_EVENTFD | wire.IRQ_MASKABLE | wire.IRQ_AUTOMASKED, 1),
            wire.ERR: (wire.IRQ_EVENTFD | wire.IRQ_NORESIZE, 1),
        }.get(index, (0, 0))
        self._answer(message, wire.IRQ_INFO.pack(wire.IRQ_INFO.size, flags, index, count))

    # ---- interrupts ----------------------------------------------------------------------------------------

    def _set_irqs(self, message: Message) -> None:
        body = message.body
        if len(body) < wire.IRQ_SET.size:
            self._refuse(message, errno.EINVAL)
            return
        _, flags, index, start, count = wire.IRQ_SET.unpack_from(body)
        data, action = flags & 7, flags & 0x38
        known = index in (wire.INTX, wire.ERR) and start == 0 and count <= 1
        if not known or data not in (1, 2, 4) or action not in (8, 16, 32) or flags & ~0x3F:
            self._refuse(message, errno.EINVAL)
            return
        on = data != wire.SET_BOOL or (count == 1 and body[wire.IRQ_SET.size :][:1] not in (b"", b"\0"))
        if action == wire.SET_TRIGGER:
            if data == wire.SET_EVENTFD or count == 0:
                old = self._eventfds.pop(index, -1)
                if old >= 0:
                    os.close(old)
                if data == wire.SET_EVENTFD and count and message.fds:
                    fd = message.fds.pop(0)
                    os.set_blocking(fd, False)
                    self._eventfds[index] = fd
                if index == wire.INTX:
                    self._masked = False
                    self._raise()
            elif on and index == wire.INTX:
                self._fire()
        elif index != wire.INTX or data == wire.SET_EVENTFD:
            self._refuse(message, errno.EINVAL)
            return
        elif count and on:
            if action == wire.SET_MASK:
                self._masked = True
            else:
                self._masked = False
                self.counters["unmasks"] += 1
                if self.function.intx and self._refire is None:
                    self._refire = self.loop.call_later(REFIRE_S, self._again)
        self._answer(message)

    def _intx(self, level: bool) -> None:
        if level:
            self._raise()

    def _raise(self) -> None:
        if self.function.intx and not self._masked:
            self._fire()

    def _fire(self) -> None:
        fd = self._eventfds.get(wire.INTX)
        if fd is not None:
            self._masked = True
            self.counters["irqs"] += 1
            with contextlib.suppress(BlockingIOError):
                os.write(fd, ONE)

    def _again(self) -> None:
        """The level stayed up after an unmask: fire once the driver has left the card alone for a while."""
        self._refire = None
        if self._closed or not self.function.intx or self._masked:
            return
        silent = self.loop.time() - self._last_access
        if silent < REFIRE_S:
            self._refire = self.loop.call_later(REFIRE_S - silent, self._again)
        else:
            self._fire()

    # ---- regions -------------------------------------------------------------------------------------------

    def _read(self, message: Message) -> None:
        if len(message.body) != wire.ACCESS.size:
            self._refuse(message, errno.EINVAL)
            return
        offset, region, count = wire.ACCESS.unpack(message.body)
        if not 0 < count <= wire.TRANSFER_MAX or offset + count > self._size(region):
            self._refuse(message, errno.EINVAL)
            return
        if region == wire.CONFIG_REGION:
            read = self.function.config_read
            data = b"".join(read(at, size).to_bytes(size, "little") for at, size in _pieces(offset, count))
        else:
            self._last_access = self.loop.time()
            card = self.function.card
            data = b"".join(
                card.read(region, at, size).to_bytes(size, "little") for at, size in _pieces(offset, count)
            )
        self._answer(message, message.body + data)

    def _write(self, message: Message) -> None:
        body = message.body
        if len(body) < wire.ACCESS.size:
            self._refuse(message, errno.EINVAL)
            return
        offset, region, count = wire.ACCESS.unpack_from(body)
        data = body[wire.ACCESS.size :]
        if not 0 < count == len(data) or offset + count > self._size(region):
            self._refuse(message, errno.EINVAL)
            return
        self._store(region, offset, data)
        self._answer(message, body[: wire.ACCESS.size])

    def _write_multi(self, message: Message) -> None:
        body = message.body
        if len(body) < wire.MULTI_COUNT.size:
            self._refuse(message, errno.EINVAL)
            return
        (number,) = wire.MULTI_COUNT.unpack_from(body)
        if number > wire.MULTI_MAX or len(body) != wire.MULTI_COUNT.size + number * wire.MULTI.size:
            self._refuse(message, errno.EINVAL)
            return
        for offset, region, count, data in wire.MULTI.iter_unpack(body[wire.MULTI_COUNT.size :]):
            if not 0 < count <= 8 or offset + count > self._size(region):
                self._refuse(message, errno.EINVAL)
                return
            self._store(region, offset, data[:count])
            self._drive()
        self._answer(message, body[: wire.MULTI_COUNT.size])

    def _store(self, region: int, offset: int, data: bytes) -> None:
        if region == wire.CONFIG_REGION:
            for at, size in _pieces(offset, len(data)):
                self.function.config_write(at, size, int.from_bytes(data[at - offset :][:size], "little"))
            return
        self._last_access = self.loop.time()
        card = self.function.card
        for at, size in _pieces(offset, len(data)):
            card.write(region, at, size, int.from_bytes(data[at - offset :][:size], "little"))
        self._drive()

    def _reset(self, message: Message) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = self._transfer = None
        self.function.reset()
        self._answer(message)

    # ---- DMA -----------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        """Run the card's engine as far as it goes without waiting."""
        if not self._dma or self._closed:
            return
        card: Any = self.function.card
        rounds = 0
        while self._engine is None and card.dma_pending:
            rounds += 1
            if rounds > 64:
                self.counters["dma_stopped"] += 1
                return
            self._engine = card.dma()
            self._ops = 0
            self._step(None)

    def _step(self, answer: bytes | None) -> None:
        engine = self._engine
        memory = self.memory
        master = self.function.bus_master
        try:
            op = engine.send(answer)
            while True:
                self._ops += 1
                if self._ops > MAX_OPS:
                    self.counters["dma_stopped"] += 1
                    break
                writing = op[0] == "write"
                length = len(op[2]) if writing else op[2]
                region, reach = memory.find(op[1])
                if not master:
                    op = engine.send(None if writing else b"\xff" * length)
                elif region is not None and reach >= length and region.local:  # the ordinary case
                    if not writing:
                        op = engine.send(region.read(op[1] - region.start, length))
                    else:
                        if region.prot & wire.MAP_WRITE:
                            region.write(op[1] - region.start, op[2])
                        op = engine.send(None)
                else:
                    self._transfer = _Transfer(op[1], length, op[2] if writing else None)
                    if not self._advance():
                        return
                    data, self._transfer = self._transfer.result(), None
                    op = engine.send(data)
        except StopIteration:
            pass
        except OSError as error:
            log.warning("DMA: %s", error.strerror)
        engine.close()
        self._engine = None

    def _advance(self) -> bool:
        """Carry a transfer on over local regions and holes; True when it is whole, False when a message is out."""
        transfer = self._transfer
        assert transfer is not None
        while transfer.done < transfer.length:
            region, reach = self.memory.find(transfer.address + transfer.done)
            count = min(reach, transfer.length - transfer.done)
            at = transfer.address + transfer.done
            allowed = region is not None and region.prot & (
                wire.MAP_READ if transfer.data is None else wire.MAP_WRITE
            )
            if region is None or not allowed:
                transfer.take(count, b"\xff" * count)
            elif region.local:
                if transfer.data is None:
                    transfer.take(count, region.read(at - region.start, count))
                else:
                    region.write(at - region.start, transfer.data[transfer.done : transfer.done + count])
                    transfer.take(count, b"")
            else:
                count = min(count, DMA_CHUNK)
                transfer.asked = count
                self._next_id = transfer.id = (self._next_id + 1) & 0xFFFF
                body = wire.DMA.pack(at, count)
                command = wire.DMA_READ
                if transfer.data is not None:
                    command = wire.DMA_WRITE
                    body += transfer.data[transfer.done : transfer.done + count]
                self.counters["dma_messages"] += 1
                self._out += wire.request(transfer.id, command, body)
                return False
        return True

    def _answered(self, message: Message) -> None:
        """An answer to a DMA message of ours."""
        wire.close_all(message.fds)
        transfer = self._transfer
        if transfer is None or message.id != transfer.id:
            return  # of an engine that a reset has ended
        reading = transfer.data is None
        if message.command != (wire.DMA_READ if reading else wire.DMA_WRITE):
            raise ProtocolError(f"an answer to command {message.command} that was not asked")
        count = transfer.asked
        if message.flags & wire.ERROR:
            transfer.take(count, b"\xff" * count)
        elif reading and len(message.body) != wire.DMA.size + count:
            raise ProtocolError("DMA_READ answer of the wrong size")
        else:
            transfer.take(count, message.body[wire.DMA.size :])
        if self._advance():
            self._transfer = None
            self._step(transfer.result())
            self._drive()

    # ---- the wire's side -----------------------------------------------------------------------------------

    def arm_soon(self) -> None:
        """The card was called from outside: look after DMA, answers and timers."""
        if not self._closed:
            self._settle()

    def _arm(self) -> None:
        deadline = self.function.card.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None and not self._closed:
            self._timer = self.loop.call_later(max(0, deadline - self.now()) / 1e9, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.function.card.run(self.now())
        self._settle()


class _Transfer:
    """One DMA operation that goes over several regions or by messages."""

    __slots__ = ("_parts", "address", "asked", "data", "done", "id", "length")

    def __init__(self, address: int, length: int, data: bytes | None) -> None:
        self.address, self.length, self.data = address, length, data
        self.done = self.asked = self.id = 0
        self._parts: list[bytes] = []

    def take(self, count: int, data: bytes) -> None:
        """``count`` bytes further."""
        self.done += count
        if self.data is None:
            self._parts.append(data)

    def result(self) -> bytes | None:
        """What the engine is sent."""
        return b"".join(self._parts) if self.data is None else None


def _pieces(offset: int, count: int) -> list[tuple[int, int]]:
    """A transfer as bus accesses of 1, 2 or 4 bytes that do not cross a dword."""
    if count in (1, 2, 4) and offset & 3 <= 4 - count:
        return [(offset, count)]
    found = []
    end = offset + count
    while offset < end:
        size = 4
        while offset % size or offset + size > end:
            size >>= 1
        found.append((offset, size))
        offset += size
    return found


def isa_function(
    model: str, mac: bytes, tx: Callable[..., bool], rx_ready: Callable[[], None], now: Callable[[], int]
) -> PciFunction:
    """An ISA card's ports as I/O BAR 0 of a bare PCI function of no class: ``insmod ne io=BAR`` finds it there."""
    entry = models.MODELS[model]
    function = PciFunction(BARE, (Bar("io", entry.ports),))
    function.card = entry.build(mac, tx, rx_ready, function.set_irq, now)
    return function


class VfioUserServer:
    """Serves one PCI function on ``path``. ``receive``, ``tx_ready`` and ``set_link`` are what the wire calls."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, path: str, function: PciFunction, now: Callable[[], int]
    ) -> None:
        """Raises ServeError."""
        self.loop, self.path, self.function, self.now = loop, Path(path), function, now
        self.session: Session | None = None
        self.sessions = 0
        self._closed = False
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        try:
            self._bind()
        except OSError as error:
            self._socket.close()
            raise ServeError(f"vfio-user={path}: {error.strerror or error}") from None
        loop.add_reader(self._socket.fileno(), self._accept)

    def _bind(self) -> None:
        if self.path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                try:
                    probe.connect(str(self.path))
                except ConnectionRefusedError:
                    self.path.unlink()  # a stale one
                except OSError:
                    raise OSError(errno.EADDRINUSE, "somebody listens there already") from None
                else:
                    raise OSError(errno.EADDRINUSE, "somebody listens there already")
        mask = os.umask(0o177)
        try:
            self._socket.bind(str(self.path))
        finally:
            os.umask(mask)
        seen = self.path.lstat()
        self._inode = (seen.st_dev, seen.st_ino)
        self._socket.listen(8)

    def _accept(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return
        sock.setblocking(False)
        self.loop.remove_reader(self._socket.fileno())
        self.function.reset()
        self.sessions += 1
        self.session = Session(self.loop, sock, self.function, self.now, self._ended)
        log.info("%s: a client has come", self.path)

    def _ended(self, reason: str) -> None:
        self.session = None
        log.warning("%s: session ended: %s", self.path, reason)
        if not self._closed:
            self.loop.add_reader(self._socket.fileno(), self._accept)

    def receive(self, frame: bytes, vnet: bytes = b"") -> bool:
        """A frame from the hub."""
        taken = self.function.card.receive(frame, vnet)
        if self.session is not None:
            self.session.arm_soon()
        return taken

    def tx_ready(self) -> None:
        """The hub takes frames again."""
        self.function.card.tx_ready()
        if self.session is not None:
            self.session.arm_soon()

    def set_link(self, up: bool) -> None:
        """The cable."""
        self.function.card.set_link(up)
        if self.session is not None:
            self.session.arm_soon()

    def close(self) -> None:
        """End the session and remove the socket. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self.session is None:
            self.loop.remove_reader(self._socket.fileno())
        else:
            self.session.close("tapnet stops")
        with contextlib.suppress(OSError):
            seen = self.path.lstat()
            if (seen.st_dev, seen.st_ino) == self._inode:
                self.path.unlink()
        self._socket.close()
