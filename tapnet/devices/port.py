"""A kernel device as a member of a hub: the TAP backend, or a namespace's NIC with model=direct.

    device ──read──► port.send ──► hub ──► port.receive ──write──► device

Many frames per wake-up (at most ``BUDGET``) from plain ``add_reader`` callbacks, held back in both
directions: a frame that the hub does not take is kept (one), and the descriptor is not read until it does;
what the kernel does not take is refused, and asked for again when the descriptor is writable. The hub's offer
goes to the device.

A device that the kernel removed (its namespace ended) is forgotten quietly and told by ``on_gone``. Timers:
none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..vlan.port import Port
from .device import Device, DeviceGone

BUDGET = 64


def nothing() -> None:
    """The default callback."""


class DeviceEnd:
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


class DirectAttachment(DeviceEnd):
    """A device as a member of a hub: a namespace's NIC with model=direct, or the TAP backend.

    ``port`` is to be added to a hub, then ``start``. ``link``: whether the port's link is the guest's
    carrier. A given ``port`` is taken over from the attachment before, as it is plugged.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        device: Device,
        name: str,
        *,
        link: bool = True,
        on_gone: Callable[[], None] = nothing,
        export: Callable[[], tuple[dict[str, Any], dict[str, int]]] | None = None,
        port: Port | None = None,
    ) -> None:
        super().__init__(loop, device, on_gone)
        self.held: tuple[bytes, bytes] | None = None  # read, and not taken by the hub
        if port is not None:
            self.port = port
            port.receive, port.ready, port.offer = self._write, self._ready, device.set_offload
            port.set_features(device.features)
            device.set_offload(max(port.offered, 0))
            return
        self.port = Port(
            name,
            self._write,
            features=device.features,
            ready=self._ready,
            offer=device.set_offload,
            export=export,
        )
        device.drops = self.port.counters.drops  # what the kernel did not take is lost at this port
        if link:
            self.port.on_link = self.set_link

    def start(self) -> None:
        """Begin to read from the device; what is held goes first."""
        self._ready()

    def _readable(self) -> None:
        read = self.device.read
        send = self.port.send
        try:
            for _ in range(BUDGET):
                item = read()
                if item is None:
                    return
                if not send(*item):
                    self.held = item
                    self._read_on(False)
                    return
        except DeviceGone:
            self._gone()

    def _ready(self) -> None:
        item = self.held
        if item is not None:
            self.held = None
            if not self.port.send(*item):
                self.held = item
                return
        self._read_on(True)

    def _room(self) -> None:
        self.port.flush()
