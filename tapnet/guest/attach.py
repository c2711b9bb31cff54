"""Glue between a kernel device and what is to have its frames, on the event loop.

    DirectAttachment     device <──────────────────────────────► Port (offload and super-frames pass)
    RegisterAttachment   device <──► register-level driver <──► Machine ► card ► Port

Both read and write many frames per wake-up (at most ``BUDGET``) from plain ``add_reader`` callbacks and hold
back in both directions: what the other side does not take is kept (one frame) and the descriptor is not read
until it does; what the kernel does not take is refused, and asked for again when the descriptor is writable.

A device that the kernel removed (its namespace ended) is forgotten quietly and told by ``on_gone``.

A driver works frame by frame, so its device must owe nothing: ``set_offload(0)``. Super-frames that the
kernel had queued before, or that a veth pair hands over unasked, are completed here by ``tapnet.offload``.

Interrupts and timers of the machine are ``board``'s.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from nic_models.machine import Location

from .. import offload
from ..device import Device, DeviceGone
from ..port import Port
from .board import Board
from .drivers.driver import Driver, DriverFactory

BUDGET = 64


def _nothing() -> None:
    pass


class _DeviceEnd:
    """What both attachments share: watching the descriptor."""

    def __init__(self, loop: asyncio.AbstractEventLoop, device: Device, on_gone: Callable[[], None]) -> None:
        self.loop = loop
        self.device = device
        self.on_gone = on_gone
        self._fd = device.fileno()
        self._reading = False
        self._blocked = False  # the kernel had no room; _writable ends it
        self._closed = False

    def _read_on(self, on: bool) -> None:
        if on != self._reading and not self._closed:
            self._reading = on
            if on:
                self.loop.add_reader(self._fd, self._readable)
            else:
                self.loop.remove_reader(self._fd)

    def _readable(self) -> None:
        raise NotImplementedError

    def _room(self) -> None:
        raise NotImplementedError

    def _write(self, frame: bytes, vnet: bytes) -> bool:
        if self._closed:
            return True
        if self._blocked:
            return False
        if self.device.write(frame, vnet):
            return True
        self._blocked = True
        self.loop.add_writer(self._fd, self._writable)
        return False

    def _writable(self) -> None:
        self.loop.remove_writer(self._fd)
        self._blocked = False
        self._room()

    def set_link(self, up: bool) -> None:
        """Give or take the carrier that the guest sees."""
        if not self._closed:
            self.device.set_link(up)

    def _gone(self) -> None:
        if not self._closed:
            self.detach()
            self.on_gone()

    def detach(self) -> None:
        """Stop using the device; it stays open."""
        if self._closed:
            return
        self._read_on(False)
        if self._blocked:
            self.loop.remove_writer(self._fd)
        self._closed = True
        if self._blocked:  # the promise to ask again for what was refused
            self._blocked = False
            self._room()

    def close(self) -> None:
        """Stop using the device and close it. Idempotent."""
        self.detach()
        self.device.close()


class DirectAttachment(_DeviceEnd):
    """A device as a member of a hub: a namespace's NIC with model=direct, or the TAP backend.

    ``port`` is to be added to a hub, then ``start``. ``link``: whether the port's link is the guest's
    carrier.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        device: Device,
        name: str,
        *,
        link: bool = True,
        on_gone: Callable[[], None] = _nothing,
        export: Callable[[], tuple[dict[str, Any], dict[str, int]]] | None = None,
    ) -> None:
        super().__init__(loop, device, on_gone)
        self._held: tuple[bytes, bytes] | None = None
        self.port = Port(
            name,
            self._write,
            features=device.features,
            ready=self._ready,
            offer=device.set_offload,
            export=export,
        )
        if link:
            self.port.on_link = self.set_link

    def start(self) -> None:
        """Begin to read from the device."""
        self._read_on(True)

    def _readable(self) -> None:
        read = self.device.read
        send = self.port.send
        try:
            for _ in range(BUDGET):
                item = read()
                if item is None:
                    return
                if not send(*item):
                    self._held = item
                    self._read_on(False)
                    return
        except DeviceGone:
            self._gone()

    def _ready(self) -> None:
        item = self._held
        if item is not None:
            self._held = None
            if not self.port.send(*item):
                self._held = item
                return
        self._read_on(True)

    def _room(self) -> None:
        self.port.flush()


class RegisterAttachment(_DeviceEnd):
    """A device whose frames go through an emulated card, by a driver that knows only its registers.

    factory   probes the card at ``location`` on the board's machine; raises DriverError
    ``counters``: frames that could not be completed. The device's MAC should be the card's.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        device: Device,
        board: Board,
        factory: DriverFactory,
        location: Location | None = None,
        *,
        on_gone: Callable[[], None] = _nothing,
    ) -> None:
        super().__init__(loop, device, on_gone)
        self.board = board
        self.counters: dict[str, int] = {}
        self._backlog: deque[bytes] = deque()
        machine = board.machine
        self.driver: Driver = factory(
            machine, location, deliver=self._deliver, writable=self._driver_writable, now=machine.now
        )
        self.driver.set_filter(False, None)
        device.set_offload(0)

    def start(self) -> None:
        """Start the card and begin to read from the device."""
        self.driver.open()
        self.board.add(self.driver)
        self._read_on(True)

    def _deliver(self, frame: bytes) -> bool:
        return self._write(frame, b"")

    def _room(self) -> None:
        if not self._closed:
            self.driver.resume()
            self.board.kick()

    def _readable(self) -> None:
        read = self.device.read
        board = self.board
        transmit = self.driver.transmit
        try:
            for _ in range(BUDGET):
                item = read()
                if item is None:
                    break
                frame, vnet = item
                if board.pending:
                    board.serve()
                if vnet:
                    self._complete(frame, vnet)
                    self._drain()
                    if self._backlog:
                        break
                elif not transmit(frame):
                    self._backlog.append(frame)
                    break
        except DeviceGone:
            self._gone()
            return
        self._read_on(not self._backlog)
        board.kick()

    def _complete(self, frame: bytes, vnet: bytes) -> None:
        """Do what the kernel left owed."""
        pieces = offload.complete(frame, vnet, 0)
        if not pieces:
            self.counters["malformed"] = self.counters.get("malformed", 0) + 1
        self._backlog.extend(piece for piece, _ in pieces)

    def _drain(self) -> None:
        backlog = self._backlog
        while backlog:
            if self.board.pending:
                self.board.serve()
            if not self.driver.transmit(backlog[0]):
                return
            backlog.popleft()

    def _driver_writable(self) -> None:
        if self._closed:
            return
        self._drain()
        self._read_on(not self._backlog)

    def detach(self) -> None:
        if not self._closed:
            super().detach()
            if self.driver in self.board.drivers:
                self.board.remove(self.driver)
            self.driver.close()
