"""The TFTP server for guests: files below one directory, on port 69 of the gateway.

Data flow: a request to port 69 makes a ``Session`` with a transfer identifier of its own, that is a UDP port of the
gateway that is the stack's for as long as it lasts (``tftp_session``). Files are read and written by the host
(``slirp.contracts.host.Directory``), which keeps to the directory; nothing here waits for a disk.

A request that comes again (the client did not hear us) is answered again by its session; a new request from the
same port ends the old session: boot firmware asks for one file after the other from one port, and gives up
transfers when it only wanted to know the size.

A finished session stays for ``tftp_session.LINGER``, so that stragglers find it, or until its place is needed.

Limits: ``SESSIONS``, ``PER_GUEST`` of one guest's address. A request beyond is not answered (counted): the client asks
again, and an error would end its boot. What is not for a session is answered by error 5, what makes no sense to
port 69 by error 4; an error is never answered.

``tftp-write=on`` lets guests write, and replace, files; without it a write request gets error 2.
``tftp-nocase=on`` finds a file whose name differs in capital and small letters, where there is none of the very name.

Ref: RFC 1350; RFC 2347; RFC 1123 4.2 (TFTP for hosts).
"""

from __future__ import annotations

import errno
import os
from random import Random
from typing import Protocol

from ..config import Config
from ..contracts.host import Directory
from ..contracts.stack import Service
from ..ip.family import Families
from ..ip.neighbours import Neighbour
from ..wire.tftp import (
    ACCESS,
    DISK_FULL,
    ERROR,
    EXISTS,
    NOT_FOUND,
    TEXTS,
    UNDEFINED,
    Refusal,
    error_message,
    name_parts,
    parse_request,
)
from .tftp_session import Reading, Session, Writing

PORT = 69
SESSIONS = 64
PER_GUEST = 16
TID_FIRST, TID_LAST = 49152, 65535
TID_TRIES = 64

_CODES = {
    errno.ENOENT: NOT_FOUND,
    errno.ENOTDIR: NOT_FOUND,
    errno.EISDIR: NOT_FOUND,
    errno.ENAMETOOLONG: NOT_FOUND,
    errno.EINVAL: NOT_FOUND,
    errno.EACCES: ACCESS,
    errno.EPERM: ACCESS,
    errno.EXDEV: ACCESS,
    errno.ELOOP: ACCESS,
    errno.EROFS: ACCESS,
    errno.ETXTBSY: ACCESS,
    errno.ENXIO: ACCESS,
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: DISK_FULL,
    errno.EFBIG: DISK_FULL,
    errno.EEXIST: EXISTS,
}


def error_of(number: int) -> tuple[int, str]:
    """TFTP's code and text for a host ``errno``."""
    code = _CODES.get(number, UNDEFINED)
    return code, TEXTS[code] if code else os.strerror(number)


class Network(Protocol):
    """What the server asks of the stack."""

    now: int
    services: dict[tuple[bytes, int], Service]

    def count(self, reason: str) -> None:
        """Count an event of the TFTP server."""


class Tftp:
    """The server; a ``slirp.contracts.stack.Service`` on port 69."""

    def __init__(
        self, config: Config, network: Network, ip: Families, directory: Directory, rng: Random
    ) -> None:
        self.network = network
        self.ip = ip
        self.sessions: dict[bytes, Session] = {}  # by guest address and port; oldest first
        self._directory = directory
        self._rng = rng
        self._next: int | None = None
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Take the settings for requests that are still to come."""
        self.write = config.tftp_write
        self._directory.nocase = config.tftp_nocase

    def __len__(self) -> int:
        return len(self.sessions)

    # ---- requests ------------------------------------------------------------------------------------------

    def input(self, frame: bytes, off: int, end: int, src: bytes, sport: int, dst: bytes, now: int) -> None:
        """A datagram to port 69."""
        data = frame[off:end]
        neighbour = self.ip.neighbour(src)
        key = src + sport.to_bytes(2, "big")
        if data[:2] == ERROR.to_bytes(2, "big") or not sport:
            self.network.count("tftp_ignored")
            return
        old = self.sessions.get(key)
        if old is not None and old.said == data and old.asked_again(now):
            return
        try:
            request = parse_request(data)
            if request.write and not self.write:
                raise Refusal(ACCESS)
            parts = name_parts(request.name, self._directory.names)
        except Refusal as error:
            self.network.count("tftp_refused")
            self.answer(neighbour, PORT, sport, error_message(error.code, str(error)))
            return
        if old is not None:
            self.network.count("tftp_replaced")
            old.end(now)
            self.forget(old)
        if not self._room(src):
            self.network.count("tftp_full")
            return
        tid = self._tid(self.ip.gateway(src))
        if tid is None:
            self.network.count("tftp_full")
            return
        self.network.count("tftp_writes" if request.write else "tftp_reads")
        kind = Writing if request.write else Reading
        session = kind(self, key, neighbour, tid, sport, data, request, now)
        self.sessions[key] = session
        self.network.services[self.ip.gateway(src), tid] = session
        if request.write:
            session.file = self._directory.create(parts, request.tsize or 0, session)
        else:
            session.file = self._directory.open(parts, session)

    def _room(self, src: bytes) -> bool:
        """Whether there is a place for one more, made by a session that is over if need be."""
        mine = [session for key, session in self.sessions.items() if key[:-2] == src]
        for crowd, limit in ((mine, PER_GUEST), (list(self.sessions.values()), SESSIONS)):
            if len(crowd) >= limit:
                over = next((session for session in crowd if session.over), None)
                if over is None:
                    return False
                self.forget(over)
        return True

    def _tid(self, address: bytes) -> int | None:
        for _ in range(TID_TRIES):
            port = self._rng.randrange(TID_FIRST, TID_LAST + 1)
            if (address, port) not in self.network.services:
                return port
        return None

    # ---- for sessions --------------------------------------------------------------------------------------

    def answer(self, to: Neighbour, sport: int, dport: int, message: bytes) -> bool:
        """Send a message to a guest; False: dropped."""
        return self.ip.datagram(to, self.ip.gateway(to.address), sport, dport, message)

    def failed(self, error: int) -> bytes:
        """The message for a host ``errno``."""
        return error_message(*error_of(error))

    def hasten(self, deadline: int) -> None:
        """A session has something to do then."""
        if self._next is None or deadline < self._next:
            self._next = deadline

    def forget(self, session: Session) -> None:
        """A session is over and gone."""
        self.sessions.pop(session.key, None)
        self.network.services.pop((self.ip.gateway(session.neighbour.address), session.tid), None)
        session.close()

    # ---- time ----------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When ``run`` has something to do."""
        return self._next

    def run(self, now: int) -> None:
        """Send again, give up, forget."""
        if self._next is None or now < self._next:
            return
        for session in list(self.sessions.values()):
            if session.deadline <= now:
                session.expired(now)
        self._next = min((session.deadline for session in self.sessions.values()), default=None)

    def close(self) -> None:
        """End every transfer, give the directory back."""
        for session in list(self.sessions.values()):
            self.forget(session)
        self._next = None
        self._directory.close()
