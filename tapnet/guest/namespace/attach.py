"""Glue between a namespace's device and an emulated card, on the event loop.

    DirectAttachment     device <──────────────────────────────► Port (offload and super-frames pass):
    ``device_port``
    RegisterAttachment   device <──► register-level driver <──► Machine ► card ► Port

What the card does not take is kept, and the device is not read until it does; what the kernel does not take
stays in the card's memory (``Driver.resume`` follows).

A driver works frame by frame, so its device must owe nothing: ``set_offload(0)``. Super-frames that the
kernel had queued before, or that a veth pair hands over unasked, are completed here by ``tapnet.vlan.offload``.

Interrupts and timers of the machine are ``board``'s.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from nic_models.bus.machine import Location

from ...devices.device import Device, DeviceGone
from ...devices.port import BUDGET, DeviceEnd, DirectAttachment, nothing
from ...vlan import offload
from ..board import Board
from ..drivers.driver import Driver, DriverFactory
from .watch import Watch

__all__ = ["DirectAttachment", "RegisterAttachment"]


class RegisterAttachment(DeviceEnd):
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
        on_gone: Callable[[], None] = nothing,
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
        self._promiscuous = False
        self._watch: Watch | None = None
        device.set_offload(0)

    def start(self) -> None:
        """Start the card and begin to read from the device."""
        self.driver.open()
        self.board.add(self.driver)
        if self.device.notices is not None and self._watch is None:
            self._watch = Watch(self.loop, *self.device.notices, self._changed)
        self._read_on(True)

    def _changed(self, mac: bytes, promiscuous: bool) -> None:
        """The guest's interface has another address, or is to hear everything: so has, so is the card."""
        if self._closed:
            return
        if mac != self.driver.mac:
            self.driver.set_address(mac)
        if promiscuous != self._promiscuous:
            self._promiscuous = promiscuous
            self.driver.set_filter(promiscuous, None)
        self.board.kick()

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
            if self._watch is not None:
                self._watch.close()
            if self.driver in self.board.drivers:
                self.board.remove(self.driver)
            self.driver.close()
