"""The vfio-user protocol's messages: bytes to fields and back. Sans-IO.

A message is a 16-byte little-endian header {id, command, size, flags, error} and a body; ``size`` counts both. A
``Decoder`` is fed what ``recvmsg`` returned, with the descriptors that came along. The socket is a byte stream: messages
arrive in pieces and several at once. The kernel ends a read behind the message that carried descriptors, so those belong
to the last message that the piece holds a part of.

What a peer may not do raises ``ProtocolError``: its connection is to be closed.

Ref: vfio-user protocol 0.9 (docs/interop/vfio-user.rst in QEMU, docs/vfio-user.rst in libvfio-user); struct layouts of
<linux/vfio.h>.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any, NamedTuple

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO, GET_REGION_IO_FDS, GET_IRQ_INFO = range(1, 8)
SET_IRQS, REGION_READ, REGION_WRITE, DMA_READ, DMA_WRITE, RESET = range(8, 14)
WRITE_MULTI = 15

REPLY, TYPE_MASK, NO_REPLY, ERROR = 0x1, 0xF, 0x10, 0x20

HEADER = Struct("<HHIII")
VERSION_HEAD = Struct("<HH")
MAP = Struct("<IIQQQ")  # argsz, flags, offset, address, size
UNMAP = Struct("<IIQQ")  # argsz, flags, address, size
INFO = Struct("<IIII")  # argsz, flags, regions, irqs
REGION_INFO = Struct("<IIIIQQ")  # argsz, flags, index, cap_offset, size, offset
IRQ_INFO = Struct("<IIII")  # argsz, flags, index, count
IRQ_SET = Struct("<IIIII")  # argsz, flags, index, start, count
ACCESS = Struct("<QII")  # offset, region, count
MULTI_COUNT = Struct("<Q")
MULTI = Struct("<QII8s")  # offset, region, count, data
DMA = Struct("<QQ")  # address, count

MAP_READ, MAP_WRITE = 1, 2
UNMAP_ALL = 2
INFO_RESET_PCI = 3
REGION_RW = 3
REGION_MMAP, REGION_CAPS = 4, 8
SPARSE_NONE = Struct("<HHIII").pack(1, 1, 0, 0, 0)  # capability: sparse mmap, version 1, last; of no areas
IRQ_EVENTFD, IRQ_MASKABLE, IRQ_AUTOMASKED, IRQ_NORESIZE = 1, 2, 4, 8
SET_NONE, SET_BOOL, SET_EVENTFD, SET_MASK, SET_UNMASK, SET_TRIGGER = 1, 2, 4, 8, 16, 32

BAR_REGIONS, ROM_REGION, CONFIG_REGION, REGIONS = 6, 6, 7, 9
INTX, MSI, MSIX, ERR, REQ, IRQS = range(6)

TRANSFER_MAX = 1 << 20  # bytes of data in one message
MESSAGE_MAX = TRANSFER_MAX + 4096
FDS_MAX = 16  # descriptors in one message
MULTI_MAX = 1024  # writes in one WRITE_MULTI


class ProtocolError(Exception):
    """The peer broke the protocol; one line."""


class Message(NamedTuple):
    """One message. ``body`` is what follows the header; ``fds`` belong to whoever takes the message."""

    id: int
    command: int
    flags: int
    error: int
    body: bytes
    fds: list[int]

    @property
    def is_reply(self) -> bool:
        """Whether it answers a request of ours."""
        return self.flags & TYPE_MASK == REPLY

    @property
    def wants_reply(self) -> bool:
        """Whether the sender waits."""
        return not self.flags & NO_REPLY


class Decoder:
    """Cuts the stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: list[int] = []  # of the message that is not complete yet

    @property
    def pending(self) -> bool:
        """Whether a piece of a message is kept."""
        return bool(self._buffer or self._fds)

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Message]:
        """Messages that ``data`` completes. Raises ProtocolError; ``close`` then."""
        buffer = self._buffer
        buffer += data
        if len(self._fds) + len(fds) > FDS_MAX:
            close_all(fds)
            raise ProtocolError(f"more than {FDS_MAX} descriptors in one message")
        found: list[Message] = []
        at = 0
        end = len(buffer)
        while end - at >= HEADER.size:
            number, command, size, flags, error = HEADER.unpack_from(buffer, at)
            if not HEADER.size <= size <= MESSAGE_MAX or flags & TYPE_MASK > REPLY:
                close_all(fds)
                close_all(fd for message in found for fd in message.fds)
                raise ProtocolError(f"bad header: command {command}, size {size}, flags {flags:#x}")
            if end - at < size:
                break
            at += size
            mine, self._fds = self._fds, []
            if at == end:  # the piece ends with this message: the descriptors are its
                mine += fds
                fds = ()
            found.append(
                Message(number, command, flags, error, bytes(buffer[at - size + HEADER.size : at]), mine)
            )
        del buffer[:at]
        self._fds += fds
        return found

    def close(self) -> None:
        """Give back descriptors of a message that never came whole."""
        close_all(self._fds)
        self._fds = []


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def request(number: int, command: int, body: bytes) -> bytes:
    """A request of ours."""
    return HEADER.pack(number, command, HEADER.size + len(body), 0, 0) + body


def reply(message: Message, body: bytes = b"") -> bytes:
    """The answer to ``message``."""
    return HEADER.pack(message.id, message.command, HEADER.size + len(body), REPLY, 0) + body


def failure(message: Message, errno: int) -> bytes:
    """The answer that refuses ``message``."""
    return HEADER.pack(message.id, message.command, HEADER.size, REPLY | ERROR, errno)


def parse_version(body: bytes) -> tuple[int, int, dict[str, Any]]:
    """(major, minor, capabilities) of a VERSION body. Raises ProtocolError."""
    if len(body) < VERSION_HEAD.size:
        raise ProtocolError("short VERSION")
    major, minor = VERSION_HEAD.unpack_from(body)
    text = body[VERSION_HEAD.size :].rstrip(b"\0")
    try:
        data = json.loads(text) if text else {}
        capabilities = data.get("capabilities", {})
        if not isinstance(capabilities, dict):
            raise ValueError
    except (ValueError, AttributeError, RecursionError):
        raise ProtocolError("VERSION data is not a JSON object with capabilities") from None
    return major, minor, capabilities


def version(capabilities: dict[str, Any]) -> bytes:
    """The body of our VERSION answer: 0.0. It may not be longer than the peer's own (QEMU 11.1)."""
    text = json.dumps({"capabilities": capabilities}, separators=(",", ":")).encode()
    return VERSION_HEAD.pack(0, 0) + text + b"\0"
