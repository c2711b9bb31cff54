"""A session serves the messages of one vfio-user client, and holds its descriptors and mappings.

Messages are served in order, many per wake-up, and their answers leave together. Register accesses, which are nearly all
of them, are recognised in the stream as it comes and served without becoming a ``Message``.

Posted writes. QEMU sends writes to memory BARs without waiting, so a driver's acknowledgement of an interrupt can be some
way behind the driver: frames stored meanwhile would be acknowledged without having been seen, and the driver would sleep
over them (8139cp for 64 ms, iPXE for ever: seen). QEMU posts nothing for a device that has a region to be mapped, so memory
BARs are said to be mappable, in no place (a sparse mmap capability of no areas). Clients that post all the same are served;
then DMA runs behind all accesses that came together, before their answers leave, which makes that rarer.

Any error of a client ends its session with one log line; the card is reset then, and its descriptors and
mappings are closed.

The end. A UNIX socket that is closed while requests in it are unread gives its peer ECONNRESET, on which QEMU
11.1 aborts (its recv_hdr sets an error twice: seen). So nothing is left in the socket: ``close`` drops it.
``finish``, when tapnet goes of its own will, first waits until the VM has taken its last interrupt (``irq``),
then answers what was asked. A client that is in the middle of setting the device up may end that first: when
it cannot, QEMU 11.1 has a segmentation fault (between GET_INFO and the first SET_IRQS: seen at each message).
``refuse`` turns a client away that never had a session.

Timers: the card's own deadlines; ``GREETING_S`` for VERSION; the pause of ``irq``. Limits: ``OUT_MAX`` bytes of
answers that the client has not read (then we stop reading from it), those of ``wire``, ``memory``, ``dma``.

Ref: as ``wire``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import select
import socket
from array import array
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any

from nic_models.bus.pci import PciFunction

from ...system.patience import Patience, limit
from . import wire
from .dma import CHUNK, Dma
from .irq import Interrupts
from .memory import REGIONS_MAX, GuestMemory
from .wire import Message, ProtocolError

log = logging.getLogger("tapnet.vfio-user")

GREETING_S = 10.0
FINISH_S = 0.5
OUT_MAX = 4 << 20
READ_SIZE = 1 << 16
# most reads that drop input before a socket is closed; a message with descriptors ends a read
LAST_READS = 1024
_ANCILLARY = socket.CMSG_SPACE(4 * (wire.FDS_MAX + 1))
_ACCESS = Struct("<HHIIIQII")  # header and ACCESS of a register access
_SIZES = (1, 2, 4)
_CLOEXEC, _TRUNCATED = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)  # enum arithmetic is slow


class Session:
    """A session serves one client. ``on_end(reason)`` is called once, when the session is over."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        function: PciFunction,
        now: Callable[[], int],
        on_end: Callable[[str], None],
    ) -> None:
        self.loop, self.sock, self.function, self.now, self.on_end = loop, sock, function, now, on_end
        self.messages = 0
        self._card: Any = function.card
        self.memory = GuestMemory()
        self._out = bytearray()
        self.dma = Dma(function, self.memory, self._out.extend)
        self.irqs = Interrupts(loop, function)
        self._decoder = wire.Decoder()
        self._paused = False
        self._greeted = False
        self._closed = False
        self._setup = False  # the client sets the device up: from its first GET_INFO to its first SET_IRQS
        self._farewell = "the client has gone"
        self._sizes = [bar.size for bar in function.bars]
        self._due: int | None = None  # the card's deadline, for which ``_timer`` is armed
        self._timer: asyncio.TimerHandle | None = loop.call_later(limit(GREETING_S), self._silent)
        self._handlers: dict[int, Callable[[Message], None]] = {
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
        loop.add_reader(sock.fileno(), self._readable)

    # ---- the socket ----------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(READ_SIZE, _ANCILLARY, _CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error.strerror or "broken")
            return
        try:
            fds = _descriptors(ancillary) if ancillary else ()
            if not data:
                wire.close_all(fds)
                self.close(self._farewell)
                return
            if flags & _TRUNCATED:
                wire.close_all(fds)
                raise ProtocolError(f"more than {wire.FDS_MAX} descriptors in one message")
            if not fds and self._greeted and not self._decoder.pending:
                at = self._accesses(data)
                if at:
                    data = data[at:]
            if data:
                self._messages(data, fds)
            if not self._closed:
                self._settle()
        except ProtocolError as error:
            self.close(str(error))
        except Exception:  # an error in our code must not leave this VM waiting, nor disturb another
            log.exception("vfio-user: fault while serving a message")
            self.close("a fault of ours")

    def _accesses(self, data: bytes) -> int:
        """Serve the plain register accesses at the head of ``data``, and return how many bytes they were."""
        at, end = 0, len(data)
        unpack = _ACCESS.unpack_from
        sizes = self._sizes
        function = self.function
        card = self._card
        touched = False
        while end - at >= _ACCESS.size:
            number, command, size, flags, _, offset, region, count = unpack(data, at)
            if (
                region >= len(sizes)
                or count not in _SIZES
                or offset & 3 > 4 - count
                or offset + count > sizes[region]
            ):
                break
            if command == wire.REGION_READ and size == _ACCESS.size and not flags:
                value = card.read(region, offset, count)
                self._out += _ACCESS.pack(
                    number, wire.REGION_READ, _ACCESS.size + count, wire.REPLY, 0, offset, region, count
                )
                self._out += value.to_bytes(count, "little")
            elif (
                command == wire.REGION_WRITE
                and size == _ACCESS.size + count <= end - at
                and flags in (0, wire.NO_REPLY)
            ):
                start = at + _ACCESS.size
                card.write(region, offset, count, int.from_bytes(data[start : start + count], "little"))
                if not flags:
                    self._out += _ACCESS.pack(
                        number, wire.REGION_WRITE, _ACCESS.size, wire.REPLY, 0, offset, region, count
                    )
            else:
                break
            at += size
            self.messages += 1
            touched = touched or function.level
        if touched:
            self.irqs.touched = self.loop.time()
        return at

    def _messages(self, data: bytes, fds: list[int] | tuple[int, ...]) -> None:
        messages = self._decoder.feed(data, fds)
        done = 0
        try:
            for message in messages:
                done += 1
                self._serve(message)
                if self._closed:
                    return
        finally:
            for message in messages[done:]:
                wire.close_all(message.fds)

    def _settle(self) -> None:
        """Run DMA that is due, send answers and arm the timer, after each entry into the session."""
        if self.dma.master and self._card.dma_pending:
            self.dma.drive()
        if self._out:
            self._flush()
        if not self._closed and self._greeted:
            self._arm()

    def _flush(self) -> None:
        out = self._out
        if not out or self._closed:
            return
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

    def _silent(self) -> None:
        self._timer = None
        self.close("no VERSION in time")

    def finish(self, reason: str) -> None:
        """Close the session once the client is at rest: it is set up, it has taken its last interrupt, and no
        processor of its VM waits for an answer.

        Takes up to ``FINISH_S``, which a stopped VM can cost.
        """
        self._farewell = reason
        self.irqs.retire()
        patience = Patience(FINISH_S)
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        while not self._closed and (self.irqs.pending or self._setup) and (left := patience.left()) > 0:
            if poll.poll(left * 1000):
                self._readable()
        if self._closed:
            return
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)
        for _ in range(LAST_READS):
            if self._closed:
                return
            self._readable()
        self.close(reason)

    def close(self, reason: str) -> None:
        """End the session: close the client's descriptors and mappings and reset the card. Idempotent."""
        if self._closed:
            return
        self._closed = True
        fd = self.sock.fileno()
        self.loop.remove_reader(fd)
        if self._paused:
            self.loop.remove_writer(fd)
        if self._timer is not None:
            self._timer.cancel()
        self.dma.stop()
        self.irqs.close()
        _drop_rest(self.sock)
        self.sock.close()
        self._decoder.close()
        self.function.reset()
        self.memory.close()
        if self.memory.failed:
            reason += f" ({self.memory.failed} DMA accesses failed)"
        self.on_end(reason)

    # ---- messages ------------------------------------------------------------------------------------------

    def _serve(self, message: Message) -> None:
        self.messages += 1
        try:
            if message.is_reply:
                self.dma.answered(message)
            elif not self._greeted:
                self._version(message)
            else:
                handler = self._handlers.get(message.command)
                if handler is not None:
                    handler(message)
                else:
                    self._refuse(message, errno.EINVAL if message.command == wire.VERSION else errno.ENOSYS)
        finally:
            wire.close_all(message.fds)  # the descriptors that no handler took

    def _answer(self, message: Message, body: bytes = b"") -> None:
        if message.wants_reply:
            self._out += wire.reply(message, body)

    def _refuse(self, message: Message, error: int) -> None:
        if message.wants_reply:
            self._out += wire.failure(message, error)

    def _done(self, message: Message, wrong: int, body: bytes = b"") -> None:
        if wrong:
            self._refuse(message, wrong)
        else:
            self._answer(message, body)

    def _version(self, message: Message) -> None:
        if message.command != wire.VERSION:
            raise ProtocolError(f"command {message.command} before VERSION")
        major, _, theirs = wire.parse_version(message.body)
        if major != 0:
            self._refuse(message, errno.EINVAL)
            self._flush()
            raise ProtocolError(f"protocol version {major} is not known")
        ours: dict[str, Any] = {
            "max_msg_fds": wire.FDS_MAX,
            "max_data_xfer_size": wire.TRANSFER_MAX,
            "max_dma_maps": REGIONS_MAX,  # the client assumes 65535 without this
        }
        if theirs.get("write_multiple") is True:
            ours["write_multiple"] = True
        most = theirs.get("max_data_xfer_size")
        if isinstance(most, int) and most > 0:
            self.dma.chunk = min(CHUNK, most)
        self._greeted = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._answer(message, wire.version({key: value for key, value in ours.items() if key in theirs}))

    def _map(self, message: Message) -> None:
        if len(message.body) != wire.MAP.size or len(message.fds) > 1:
            self._refuse(message, errno.EINVAL)
            return
        _, flags, offset, address, size = wire.MAP.unpack(message.body)
        if flags & ~(wire.MAP_READ | wire.MAP_WRITE):
            self._refuse(message, errno.EINVAL)
            return
        fd = message.fds.pop() if message.fds else -1
        self._done(message, self.memory.add(address, size, offset, flags, fd))

    def _unmap(self, message: Message) -> None:
        if len(message.body) != wire.UNMAP.size:
            self._refuse(message, errno.EINVAL)
            return
        _, flags, address, size = wire.UNMAP.unpack(message.body)
        wrong = 0
        if flags == wire.UNMAP_ALL:
            self.memory.close()
        else:
            wrong = errno.ENOTSUP if flags else self.memory.remove(address, size)
        self._done(message, wrong, message.body)

    def _info(self, message: Message) -> None:
        if len(message.body) < wire.INFO.size:
            self._refuse(message, errno.EINVAL)
            return
        self._setup = True
        self._answer(message, wire.INFO.pack(wire.INFO.size, wire.INFO_RESET_PCI, wire.REGIONS, wire.IRQS))

    def _size(self, region: int) -> int:
        if region < len(self._sizes):
            return self._sizes[region]
        return len(self.function.config) if region == wire.CONFIG_REGION else 0

    def _region_info(self, message: Message) -> None:
        if len(message.body) < wire.REGION_INFO.size:
            self._refuse(message, errno.EINVAL)
            return
        room, _, index, *_ = wire.REGION_INFO.unpack_from(message.body)
        if index >= wire.REGIONS:
            self._refuse(message, errno.EINVAL)
            return
        size = self._size(index)
        flags = wire.REGION_RW if size else 0
        whole, at, extra = wire.REGION_INFO.size, 0, b""
        if index < len(self._sizes) and self.function.bars[index].kind == "mem":
            flags |= wire.REGION_MMAP | wire.REGION_CAPS  # a mapping of no areas: QEMU then posts no writes
            at = whole  # also where the capability does not fit, or QEMU refuses it
            whole += len(wire.SPARSE_NONE)
            extra = wire.SPARSE_NONE if room >= whole else b""
        self._answer(message, wire.REGION_INFO.pack(whole, flags, index, at, size, 0) + extra)

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

    def _set_irqs(self, message: Message) -> None:
        self._setup = False
        self._done(message, 0 if self.irqs.set(message.body, message.fds) else errno.EINVAL)

    def _reset(self, message: Message) -> None:
        self.dma.stop()
        self.function.reset()
        self._answer(message)

    # ---- regions -------------------------------------------------------------------------------------------

    def _read(self, message: Message) -> None:
        if len(message.body) != wire.ACCESS.size:
            self._refuse(message, errno.EINVAL)
            return
        offset, region, count = wire.ACCESS.unpack(message.body)
        if not 0 < count <= wire.TRANSFER_MAX or offset + count > self._size(region):
            self._refuse(message, errno.EINVAL)
            return
        parts = []
        config = region == wire.CONFIG_REGION
        for at, size in _pieces(offset, count):
            value = (
                self.function.config_read(at, size) if config else self.function.card.read(region, at, size)
            )
            parts.append(value.to_bytes(size, "little"))
        self.irqs.touched = self.loop.time()
        self._answer(message, message.body + b"".join(parts))

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
        number = wire.MULTI_COUNT.unpack_from(body)[0] if len(body) >= wire.MULTI_COUNT.size else -1
        if not 0 <= number <= wire.MULTI_MAX or len(body) != wire.MULTI_COUNT.size + number * wire.MULTI.size:
            self._refuse(message, errno.EINVAL)
            return
        for offset, region, count, data in wire.MULTI.iter_unpack(body[wire.MULTI_COUNT.size :]):
            if not 0 < count <= len(data) or offset + count > self._size(region):
                self._refuse(message, errno.EINVAL)
                return
            self._store(region, offset, data[:count])
        self._answer(message, body[: wire.MULTI_COUNT.size])

    def _store(self, region: int, offset: int, data: bytes) -> None:
        config = region == wire.CONFIG_REGION
        for at, size in _pieces(offset, len(data)):
            value = int.from_bytes(data[at - offset : at - offset + size], "little")
            if config:
                self.function.config_write(at, size, value)
            else:
                self.function.card.write(region, at, size, value)
        self.irqs.touched = self.loop.time()

    # ---- the wire's side and the clock ---------------------------------------------------------------------

    def kick(self) -> None:
        """Run DMA, send answers and arm the timer after the card was called from outside."""
        if not self._closed:
            self._settle()

    def _arm(self) -> None:
        due = self._card.next_deadline()
        if due == self._due:
            return
        self._due = due
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self.loop.call_later(max(0, due - self.now()) / 1e9, self._expire)

    def _expire(self) -> None:
        self._timer = self._due = None
        self.function.card.run(self.now())
        self._settle()


def refuse(sock: socket.socket) -> None:
    """Turn a client away in order: answer its requests by ESHUTDOWN and close its socket."""
    sock.setblocking(False)
    decoder = wire.Decoder()
    with contextlib.suppress(OSError, ProtocolError):
        for data, fds in _rest(sock):
            messages = decoder.feed(data, fds)
            wire.close_all(fd for message in messages for fd in message.fds)
            for message in messages:
                if message.wants_reply and not message.is_reply:
                    sock.send(wire.failure(message, errno.ESHUTDOWN))
    decoder.close()
    _drop_rest(sock)
    sock.close()


def _drop_rest(sock: socket.socket) -> None:
    for _, fds in _rest(sock):
        wire.close_all(fds)


def _rest(sock: socket.socket) -> Iterator[tuple[bytes, list[int]]]:
    """Yield the input that has arrived and was not read, with its descriptors; the socket is shut for any
    more.
    """
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)
        for _ in range(LAST_READS):
            data, ancillary, _, _ = sock.recvmsg(READ_SIZE, _ANCILLARY, _CLOEXEC)
            yield data, _descriptors(ancillary)
            if not data:
                return


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(payload[: len(payload) - len(payload) % found.itemsize])
    return list(found)


def _pieces(offset: int, count: int) -> list[tuple[int, int]]:
    """Split a transfer into (offset, size) of bus accesses of 1, 2 or 4 bytes that do not cross a dword."""
    if count in _SIZES and offset & 3 <= 4 - count:
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
