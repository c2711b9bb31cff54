"""INTx of a vfio-user device: a level behind an eventfd that masks itself.

    level rises ─► eventfd, masked ─► the VM's line ... any BAR access of the guest: QEMU lowers the line, UNMASK
    level still up at UNMASK ─► fired again, but only after ``REFIRE_S`` without access

Without that pause a driver in the middle of its interrupt routine would be called again for every register that it
reads.

QEMU lowers the line only at an access that succeeds: a device that goes with its line up leaves a guest in an endless
interrupt. So before the end nothing is fired any more, and ``pending`` says whether the last one was taken.

Ref: as ``wire``; VFIO's INTx rules in <linux/vfio.h> (automasked, eventfd trigger).
"""

from __future__ import annotations

import asyncio
import contextlib
import os

from nic_models.bus.pci import PciFunction

from . import wire

REFIRE_S = 0.001
ONE = (1).to_bytes(8, "little")


class Interrupts:
    """INTx and the error interrupt (accepted, never fired). ``touched``: when a BAR was last accessed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, function: PciFunction) -> None:
        self.loop, self.function = loop, function
        self.touched = 0.0
        self.fired = self.unmasks = 0  # counters
        self._eventfds: dict[int, int] = {}
        self.pending = False  # fired, and the client has not answered by UNMASK
        self._masked = self._retired = False
        self._refire: asyncio.TimerHandle | None = None
        function.on_intx = self._level

    def set(self, body: bytes, fds: list[int]) -> bool:
        """SET_IRQS. Takes a descriptor from ``fds``. False: refused."""
        if len(body) < wire.IRQ_SET.size:
            return False
        _, flags, index, start, count = wire.IRQ_SET.unpack_from(body)
        data, action = flags & 7, flags & 0x38
        if index not in (wire.INTX, wire.ERR) or start or count > 1 or flags & ~0x3F:
            return False
        if data not in (wire.SET_NONE, wire.SET_BOOL, wire.SET_EVENTFD):
            return False
        on = count == 1 and (data != wire.SET_BOOL or body[wire.IRQ_SET.size :][:1] not in (b"", b"\0"))
        if action == wire.SET_TRIGGER:
            if data == wire.SET_EVENTFD or count == 0:
                self._trigger(index, fds.pop(0) if data == wire.SET_EVENTFD and count and fds else -1)
            elif on and index == wire.INTX:
                self._fire()
        elif index != wire.INTX or data == wire.SET_EVENTFD:
            return False
        elif action == wire.SET_MASK:
            self._masked = self._masked or on
        elif action == wire.SET_UNMASK:
            if on:
                self._unmask()
        else:
            return False
        return True

    def _trigger(self, index: int, fd: int) -> None:
        old = self._eventfds.pop(index, -1)
        if old >= 0:
            os.close(old)
        if fd >= 0:
            os.set_blocking(fd, False)
            self._eventfds[index] = fd
        if index == wire.INTX:
            self._masked = self.pending = False
            if self.function.intx:
                self._fire()

    def _unmask(self) -> None:
        self._masked = self.pending = False
        self.unmasks += 1
        if self.function.intx and self._refire is None:
            self._refire = self.loop.call_later(REFIRE_S, self._again)

    def _level(self, level: bool) -> None:
        if level and not self._masked:
            self._fire()

    def _fire(self) -> None:
        fd = self._eventfds.get(wire.INTX)
        if fd is not None and not self._retired:
            self._masked = self.pending = True
            self.fired += 1
            with contextlib.suppress(OSError):  # whatever the client gave us for an eventfd
                os.write(fd, ONE)

    def _again(self) -> None:
        """The level stayed up after an unmask: fire once the driver has left the card alone for a while."""
        self._refire = None
        if self._masked or not self.function.intx:
            return
        silent = self.loop.time() - self.touched
        if silent < REFIRE_S:
            self._refire = self.loop.call_later(REFIRE_S - silent, self._again)
        else:
            self._fire()

    def retire(self) -> None:
        """Fire no more."""
        self._retired = True

    def close(self) -> None:
        """Give the descriptors back; nothing fires any more."""
        self.function.on_intx = _ignore
        if self._refire is not None:
            self._refire.cancel()
            self._refire = None
        wire.close_all(self._eventfds.values())
        self._eventfds.clear()


def _ignore(_level: bool) -> None:
    pass
