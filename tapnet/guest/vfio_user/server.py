"""A card on a UNIX socket: the device side of vfio-user, so that a stock QEMU plugs it into a VM.

    QEMU (vfio-user-pci) ── UNIX socket ── Session: messages ── PciFunction: configuration space, regions ── card ── Port

    wire     bytes to messages and back        memory  the guest's memory
    session  one client                        dma     the card's engine over it
    server   the socket, the wire's side       irq     INTx by eventfd

One client at a time; the next waits in the backlog. A client that comes finds the card as after power-on, so nothing of
the last one's memory; only the cable is as it was. Whatever ends a
session (the VM's end, kill -9, a broken message) is one log line; the card is reset, its descriptors and mappings are
given back, and the socket listens on. At our own end the session is finished in order, and so are those that wait.

Ref: as ``wire``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from nic_models import models
from nic_models.bus.pci import Bar, Identity, PciFunction

from ...system.unixsocket import alive, bind_private
from .session import Session, refuse

log = logging.getLogger("tapnet.vfio-user")

BACKLOG = 8
RETRY_S = 1.0
BARE = Identity(vendor=0x1234, device=0x8390, revision=0, class_code=0xFF0000)  # nobody's driver matches


class ServeError(Exception):
    """The socket cannot be served; one line."""


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
        self.link = True
        self._new = function.snapshot()
        self.sessions = 0
        self._closed = False
        self._retry: asyncio.TimerHandle | None = None
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        try:
            self._bind()
        except OSError as error:
            self._socket.close()
            raise ServeError(f"vfio-user={path}: {error.strerror or error}") from None
        self._listen()

    def _bind(self) -> None:
        try:
            taken = self.path.is_socket() and alive(self.path)
        except OSError:
            taken = True
        if taken:
            raise OSError(errno.EADDRINUSE, "somebody listens there already")
        self._file = bind_private(self._socket, self.path)
        self._socket.listen(BACKLOG)

    def _accept(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # no descriptors: not in a busy loop
            self.loop.remove_reader(self._socket.fileno())
            self._retry = self.loop.call_later(RETRY_S, self._listen)
            return
        sock.setblocking(False)
        self.loop.remove_reader(self._socket.fileno())
        self._power_on()
        self.sessions += 1
        self.session = Session(self.loop, sock, self.function, self.now, self._ended)
        log.info("%s: a client has come", self.path)

    def _listen(self) -> None:
        self._retry = None
        self.loop.add_reader(self._socket.fileno(), self._accept)

    def _power_on(self) -> None:
        """A reset alone leaves some of a card as it is: pointers, packet memory."""
        self.function.reset()
        self.function.restore(self._new)
        self.function.card.set_link(self.link)

    def _ended(self, reason: str) -> None:
        self.session = None
        log.warning("%s: session ended: %s", self.path, reason)
        if not self._closed:
            self._listen()

    def receive(self, frame: bytes, vnet: bytes = b"") -> bool:
        """A frame from the hub."""
        taken = self.function.card.receive(frame, vnet)
        if self.session is not None:
            self.session.kick()
        return taken

    def tx_ready(self) -> None:
        """The hub takes frames again."""
        self.function.card.tx_ready()
        if self.session is not None:
            self.session.kick()

    def set_link(self, up: bool) -> None:
        """The cable."""
        self.link = up
        self.function.card.set_link(up)
        if self.session is not None:
            self.session.kick()

    def close(self) -> None:
        """End the session, turn away who waits, and remove the socket. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        if self.session is None:
            self.loop.remove_reader(self._socket.fileno())
        else:
            self.session.finish("tapnet stops")
        self._file.remove()
        self._turn_away()
        self._socket.close()

    def _turn_away(self) -> None:
        """Nobody comes any more; those in the backlog are refused, or closing the socket would reset them."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
            for _ in range(BACKLOG + 1):
                refuse(self._socket.accept()[0])
