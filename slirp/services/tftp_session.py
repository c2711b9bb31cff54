"""One TFTP transfer: lock-step, or in windows, with the file on one side and a guest on the other.

Reading: blocks base .. base+window-1 are on the way; ``next`` is sent next. Block numbers are whole numbers here
and 16 bits on the wire, where they roll over to 0 as often as need be.

    ACK of the last block sent, or of an earlier one of the window      the window moves; behind a gap it is sent again
    ACK of the block before the window                                  a duplicate: nothing is sent (RFC 1123 4.2.3.1:
                                                                        the Sorcerer's Apprentice); in a window of several
                                                                        blocks it tells that the first was lost, once
    anything else                                                       stale, ignored

Writing: blocks are taken in order; the end of a window is acknowledged when the host has it on disk, the end of
the file when it has its name. A block that was taken already has its acknowledgment repeated.

Options are acknowledged by OACK, and the transfer goes on with the client's ACK 0 or its first block. ``blksize`` is
taken as asked, and IP fragments what the MTU cannot carry; ``windowsize`` is cut so that a window fits the queue
to the VLAN (``WINDOW_FRAMES``) and ``WINDOW_BYTES``; ``tsize`` of a netascii read is not known and left out.

Time-out: ``RTO``, doubled to ``RTO_MAX`` as long as there is no progress; the option ``timeout`` replaces the first.
After ``TRIES`` of them the transfer is given up: an error to the guest, and a file that was being written is gone.
A session that is over lingers for ``LINGER``: it repeats the last ACK, and keeps stragglers from anything else.

Limits: ``UPLOAD_MAX`` bytes of one file written. Bytes held: ``READ`` ahead and one window.

Ref: RFC 1350; RFC 1123 4.2.3.1; RFC 2347-2349; RFC 7440 4 (windows).
"""

from __future__ import annotations

from typing import Protocol

from ..contracts.host import File
from ..ip.neighbours import Neighbour
from ..wire.tftp import (
    ACK,
    BLKSIZE,
    DATA,
    DISK_FULL,
    ERROR,
    HEAD,
    HEAD_LEN,
    ILLEGAL,
    UNDEFINED,
    UNKNOWN_TID,
    FromNetascii,
    Request,
    ack_message,
    data_message,
    error_message,
    oack_message,
    to_netascii,
)

SECOND = 1_000_000_000
RTO, RTO_MAX = SECOND, 8 * SECOND
TRIES = 6
LINGER = 10 * SECOND
READ = 256 << 10  # bytes asked of the file at once
WINDOW_FRAMES = 128
WINDOW_BYTES = 256 << 10
UPLOAD_MAX = 16 << 30
HEADERS = 28 + HEAD_LEN


class Server(Protocol):
    """What a session asks of ``tftp.Tftp``."""

    @property
    def ip(self) -> Ip:
        """The IP families of the stack."""

    @property
    def network(self) -> Counter:
        """Return the stack, which counts and knows the time."""

    def answer(self, to: Neighbour, sport: int, dport: int, message: bytes) -> bool:
        """Send a message to a guest; False: dropped."""

    def failed(self, error: int) -> bytes:
        """The message for a host ``errno``."""

    def hasten(self, deadline: int) -> None:
        """A session has something to do then."""

    def forget(self, session: Session) -> None:
        """A session is over and gone."""


class Ip(Protocol):
    """Its MTU, and where guests are."""

    @property
    def mtu(self) -> int:
        """Return the size of the largest IP packet, in bytes."""

    def neighbour(self, guest: bytes) -> Neighbour:
        """Where frames for a guest go."""


class Counter(Protocol):
    """Its counters and its time."""

    now: int

    def count(self, reason: str) -> None:
        """Count an event of this session."""


class Session:
    """What reading and writing have in common. A ``slirp.contracts.stack.Service`` on its own port, and the file's events."""

    def __init__(
        self,
        server: Server,
        key: bytes,
        neighbour: Neighbour,
        tid: int,
        port: int,
        said: bytes,
        request: Request,
        now: int,
    ) -> None:
        self.server = server
        self.key = key
        self.neighbour = neighbour
        self.tid = tid
        self.port = port
        self.said = said  # the request, to know it again
        self.request = request
        self.file: File | None = None
        self.blksize = request.blksize or BLKSIZE
        self.window = self._window(request.windowsize or 1)
        self.oack = b""  # what acknowledged the options
        self.over = False
        self.tries = 0
        self.first_rto = request.timeout * SECOND if request.timeout else RTO
        self.rto = self.first_rto
        self.deadline = 0
        self.progress(now)

    def _window(self, wanted: int) -> int:
        """Blocks of a window: as many as fit the queue to the guest."""
        frames = -(-(self.blksize + HEADERS) // self.server.ip.mtu)
        return max(1, min(wanted, WINDOW_FRAMES // frames, WINDOW_BYTES // self.blksize))

    def agree(self, size: int | None) -> None:
        """Put the OACK together, if there is anything to acknowledge. ``size``: of the file, None: not known."""
        request = self.request
        options: list[tuple[str, int]] = []
        if request.blksize is not None:
            options.append(("blksize", self.blksize))
        if request.timeout is not None:
            options.append(("timeout", request.timeout))
        if request.tsize is not None and size is not None:
            options.append(("tsize", size))
        if request.windowsize is not None:
            options.append(("windowsize", self.window))
        if options:
            self.oack = oack_message(options)

    # ---- messages ------------------------------------------------------------------------------------------

    def input(self, frame: bytes, off: int, end: int, src: bytes, sport: int, dst: bytes, now: int) -> None:
        """A datagram to this session's port."""
        server = self.server
        if sport != self.port or src != self.neighbour.address:
            server.network.count("tftp_stranger")
            if frame[off : off + 2] != ERROR.to_bytes(2, "big"):
                server.answer(server.ip.neighbour(src), self.tid, sport, error_message(UNKNOWN_TID))
            return
        if end - off < HEAD_LEN:
            server.network.count("tftp_malformed")
            return
        opcode, number = HEAD.unpack_from(frame, off)
        if opcode == ERROR:
            if not self.over:
                server.network.count("tftp_aborted")
                self.end(now)
        elif self.over:
            self.straggler(opcode, number)
        else:
            self.message(opcode, number, frame[off + HEAD_LEN : end], now)

    def message(self, opcode: int, number: int, payload: bytes, now: int) -> None:
        """ACK or DATA, while the transfer is on."""
        raise NotImplementedError

    def straggler(self, opcode: int, number: int) -> None:
        """A message after the end."""

    def send(self, message: bytes) -> bool:
        """To the guest; False: dropped, a time-out will send it again."""
        return self.server.answer(self.neighbour, self.tid, self.port, message)

    def refuse(self, message: bytes, now: int) -> None:
        """End the session with an ERROR message."""
        self.server.network.count("tftp_failed")
        self.send(message)
        self.end(now)

    def asked_again(self, now: int) -> bool:
        """The very request came again. True: it is this session's, and was answered; False: it begins anew."""
        raise NotImplementedError

    # ---- time ----------------------------------------------------------------------------------------------

    def progress(self, now: int) -> None:
        """Something new came: the time-out starts afresh."""
        self.tries = 0
        self.rto = self.first_rto
        self.deadline = now + self.rto
        self.server.hasten(self.deadline)

    def expired(self, now: int) -> None:
        """Send again, or give up, because ``deadline`` has come."""
        if self.over:
            self.server.forget(self)
            return
        self.tries += 1
        if self.tries >= TRIES:
            self.server.network.count("tftp_timed_out")
            self.refuse(error_message(UNDEFINED, "Transfer timed out"), now)
            return
        self.rto = max(self.rto, min(self.rto * 2, RTO_MAX))
        self.deadline = now + self.rto
        self.server.hasten(self.deadline)
        self.server.network.count("tftp_retransmits")
        self.again(now)

    def again(self, now: int) -> None:
        """Send again what may have been lost."""
        raise NotImplementedError

    # ---- life ----------------------------------------------------------------------------------------------

    def end(self, now: int) -> None:
        """The transfer is over; the session lingers. Idempotent."""
        self.over = True
        self.deadline = now + LINGER
        self.server.hasten(self.deadline)
        self.close()

    def close(self) -> None:
        """Close the file of this session."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def next_deadline(self) -> int | None:
        """The server keeps the time of all sessions."""
        return None

    def run(self, now: int) -> None:
        """Do nothing: ``Tftp.run`` calls ``expired`` of each session that is due."""

    # ---- events of the file --------------------------------------------------------------------------------

    def file_opened(self, size: int, now: int) -> None:
        """Go on, because the file of ``size`` bytes is open."""
        raise NotImplementedError

    def file_read(self, data: bytes, now: int) -> None:
        """Take bytes of the file; none is its end."""

    def file_written(self, now: int) -> None:
        """Go on, because what was written is on disk."""

    def file_failed(self, error: int, now: int) -> None:
        """End the session, because the file failed with this ``errno``."""
        self.server.network.now = now
        self.refuse(self.server.failed(error), now)


class Reading(Session):
    """A guest reads a file."""

    def __init__(
        self,
        server: Server,
        key: bytes,
        neighbour: Neighbour,
        tid: int,
        port: int,
        said: bytes,
        request: Request,
        now: int,
    ) -> None:
        super().__init__(server, key, neighbour, tid, port, said, request, now)
        self.base = 0  # the oldest block that is not acknowledged; 0: OACK, or nothing yet
        self.next = 0  # to be sent next
        self._held = bytearray()  # of the transfer, from ``_start``
        self._start = 0
        self._offset = 0  # in the file, of what is read next
        self._asking = True  # the file is being opened or read
        self._whole = False  # all of it has been read
        self._gap = -1  # the ACK that told of a loss at the head of this window

    def file_opened(self, size: int, now: int) -> None:
        """Answer the read request, now that the file is open."""
        self._asking = False
        self.server.network.now = now
        self.agree(None if self.request.netascii else size)
        self.progress(now)
        if self.oack:
            self.send(self.oack)
        else:
            self.base = self.next = 1
        self._pump(now)

    def file_read(self, data: bytes, now: int) -> None:
        """Send more of the file to the guest."""
        self._asking = False
        self.server.network.now = now
        self._offset += len(data)
        if not data:
            self._whole = True
        self._held += to_netascii(data) if self.request.netascii else data
        self._pump(now)

    def _pump(self, now: int) -> None:
        """Send what the window allows, read ahead."""
        size = self.blksize
        if self.base:
            while self.next < self.base + self.window:
                at = (self.next - 1) * size - self._start
                if at > len(self._held):
                    break  # behind the last block
                if at + size > len(self._held) and not self._whole:
                    break
                self.send(data_message(self.next, self._held[at : at + size]))
                self.next += 1
        ahead = self._start + len(self._held) - max(self.next - 1, 0) * size
        wanted = max(READ >> 1, self.window * size)
        if not self._asking and not self._whole and ahead < wanted and self.file is not None:
            self._asking = True
            self.file.read(self._offset, READ)

    def _last(self) -> int | None:
        """The last block's number; None: not known yet."""
        return (self._start + len(self._held)) // self.blksize + 1 if self._whole else None

    def message(self, opcode: int, number: int, payload: bytes, now: int) -> None:
        """Take a message of the guest, which must be an ACK."""
        if opcode != ACK:
            self.refuse(error_message(ILLEGAL), now)
            return
        if not self.base:
            if self.oack and number == 0:
                self.base = self.next = 1
                self.progress(now)
                self._pump(now)
            return
        moved = (number - (self.base - 1)) & 0xFFFF
        block = self.base - 1 + moved
        if block >= self.next:
            self.server.network.count("tftp_stale")
        elif moved:
            if block == self._last():
                self.server.network.count("tftp_sent")
                self.end(now)
                return
            self.base = self.next = block + 1  # behind a gap, or the whole window
            self._gap = -1
            self._trim()
            self.progress(now)
            self._pump(now)
        elif self.window > 1 and self._gap != block and self.next > self.base:
            self._gap = block
            self.next = self.base
            self._pump(now)
        else:
            self.server.network.count("tftp_duplicate")

    def _trim(self) -> None:
        """Let go of what was acknowledged, in large pieces."""
        done = (self.base - 1) * self.blksize - self._start
        if done >= READ >> 1:
            del self._held[:done]
            self._start += done

    def asked_again(self, now: int) -> bool:
        """Until the first ACK has come the request is answered again; then it is a new transfer."""
        if self.over or self.base > 1:
            return False
        self.again(now)
        return True

    def again(self, now: int) -> None:
        """The OACK, or the window."""
        if not self.base:
            if self.oack:
                self.send(self.oack)
            return
        self.next = self.base
        self._gap = -1
        self._pump(now)


class Writing(Session):
    """A guest writes a file."""

    def __init__(
        self,
        server: Server,
        key: bytes,
        neighbour: Neighbour,
        tid: int,
        port: int,
        said: bytes,
        request: Request,
        now: int,
    ) -> None:
        super().__init__(server, key, neighbour, tid, port, said, request, now)
        self.taken = 0  # blocks in order that have come
        self.acked = -1  # the last that was acknowledged; -1: the request was not answered yet
        self._held: list[bytes] = []
        self._size = 0
        self._busy = True  # the host opens or writes
        self._last = False  # the last block has come
        self._committing = False
        self._told = -1  # the gap that was told
        self._text = FromNetascii() if request.netascii else None

    def file_opened(self, size: int, now: int) -> None:
        """Tell the guest to begin sending, now that the file is open."""
        self._busy = False
        self.server.network.now = now
        self.agree(self.request.tsize)
        self.progress(now)
        self.acked = 0
        self.again(now)

    def file_written(self, now: int) -> None:
        """What came is on disk, or has its name."""
        self._busy = False
        self.server.network.now = now
        file = self.file
        if file is None:
            return
        if self._last and not self._committing:
            self._committing = self._busy = True
            file.commit()
            return
        self.acked = self.taken
        self.progress(now)
        self.send(ack_message(self.acked))
        if self._committing:
            self.server.network.count("tftp_received")
            self.end(now)

    def message(self, opcode: int, number: int, payload: bytes, now: int) -> None:
        """Take a message of the guest, which must be a block of data."""
        if opcode != DATA or len(payload) > self.blksize:
            self.refuse(error_message(ILLEGAL), now)
            return
        if self._busy or self.acked < 0:
            self.server.network.count("tftp_stale")
            return
        ahead = (number - self.taken - 1) & 0xFFFF
        if ahead:
            self._out_of_order(ahead)
            return
        self.taken += 1
        self._told = -1
        self._size += len(payload)
        if self._size > UPLOAD_MAX:
            self.refuse(error_message(DISK_FULL), now)
            return
        self.progress(now)
        self._last = len(payload) < self.blksize
        self._held.append(payload if self._text is None else self._text.feed(payload, self._last))
        if self._last or self.taken - self.acked >= self.window:
            self._flush()

    def _flush(self) -> None:
        """Write what came; the acknowledgment follows."""
        if self.file is not None:
            self._busy = True
            data = b"".join(self._held)
            self._held.clear()
            self.file.write(data)

    def _out_of_order(self, ahead: int) -> None:
        """A block that we have already, or one behind a gap."""
        if ahead >= 0x8000:
            self.server.network.count("tftp_duplicate")
            if self.taken == self.acked:
                self.send(ack_message(self.acked))
        elif self._told != self.taken:
            self._told = self.taken
            self.server.network.count("tftp_gap")
            if self.window > 1:
                self._flush()

    def asked_again(self, now: int) -> bool:
        """Until the first block has come the request is answered again."""
        if self.over or self.taken:
            return False
        self.again(now)
        return True

    def again(self, now: int) -> None:
        """What the guest waits for."""
        if self.acked < 0 or self._busy:
            return
        if not self.taken and self.oack:
            self.send(self.oack)
        elif self.taken > self.acked:
            self._flush()
        else:
            self.send(ack_message(self.acked))

    def straggler(self, opcode: int, number: int) -> None:
        """The last ACK was lost."""
        if opcode == DATA and self._committing and number == self.acked & 0xFFFF:
            self.send(ack_message(self.acked))
