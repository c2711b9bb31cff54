"""Messages between tapnet and its helper processes: JSON with descriptors over a stream socket pair.

Format: a 4-byte native length, then JSON; descriptors ride on the first byte (SCM_RIGHTS). One message is at
most ``MESSAGE_MAX`` bytes and ``FDS_MAX`` descriptors. Both sides trust each other: they are one program.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

MESSAGE_MAX = 16 << 20
FDS_MAX = 250  # the kernel's SCM_MAX_FD is 253
_LENGTH = struct.Struct("=I")
_CHUNK = 65536


class Channel:
    """One end of the pair. ``receive`` blocks or not as the socket does."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._data = bytearray()
        self._fds: list[int] = []
        self.eof = False

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected ends."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(left), cls(right)

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Write one message, blocking if need be. Raises OSError when the other side is gone."""
        body = json.dumps({**message, "fds": len(fds)} if fds else message).encode()
        data = memoryview(_LENGTH.pack(len(body)) + body)
        blocking = self.socket.getblocking()
        self.socket.setblocking(True)
        try:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sent = self.socket.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
            self.socket.sendall(data[sent:], socket.MSG_NOSIGNAL)
        finally:
            self.socket.setblocking(blocking)

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message with its descriptors; None: none yet (non-blocking), or the end (``eof``)."""
        while True:
            if len(self._data) >= _LENGTH.size:
                size = _LENGTH.unpack_from(self._data)[0]
                if size > MESSAGE_MAX:
                    raise ValueError(f"message of {size} bytes")
                if len(self._data) >= _LENGTH.size + size:
                    message = json.loads(self._data[_LENGTH.size : _LENGTH.size + size])
                    del self._data[: _LENGTH.size + size]
                    count = int(message.pop("fds", 0))
                    fds, self._fds = self._fds[:count], self._fds[count:]
                    return message, fds
            if self.eof:
                return None
            try:
                data, ancillary, _, _ = self.socket.recvmsg(
                    _CHUNK, socket.CMSG_SPACE(FDS_MAX * 4), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return None
            except ConnectionResetError:
                data, ancillary = b"", []
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    found = array.array("i")
                    found.frombytes(content[: len(content) - len(content) % found.itemsize])
                    self._fds.extend(found)
            if not data:
                self.eof = True
            self._data += data

    def close(self) -> None:
        """Close the end and every descriptor that nobody took. Idempotent."""
        self.socket.close()
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds = []
