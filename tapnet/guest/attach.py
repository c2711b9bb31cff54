"""Glue between a kernel device and what is to have its frames, on the event loop.

    DirectAttachment     device <──────────────────────────────► Port (offload and super-frames pass)
    RegisterAttachment   device <──► register-level driver <──► Machine ► card ► Port

Both read and write many frames per wake-up (at most ``BUDGET``) from plain ``add_reader`` callbacks and hold
back in both directions: what the other side does not take is kept (one frame) and the descriptor is not read
until it does; what the kernel does not take is refused, and asked for again when the descriptor is writable.

A device that the kernel removed (its namespace ended) is forgotten quietly and told by ``on_gone``.

A driver works frame by frame, so its device must owe nothing: ``set_offload(0)``. Super-frames that the
kernel had queued before, or that a veth pair hands over unasked, are completed here by ``tapnet.offload``.

Interrupts: a line that rises during a register access only marks its drivers; they run from the loop, never
inside the access. A line that stays up is served again on the next turn. Timers: one, armed for the earliest
deadline of the machine and its drivers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from .. import offload
from ..device import Device, DeviceGone
from ..port import Port

BUDGET = 64
BACKLOG = 2048  # frames waiting for a driver that came out of one super-frame


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


__all__ = ["BACKLOG", "BUDGET", "DirectAttachment", "deque", "offload"]
