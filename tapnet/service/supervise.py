"""What a running instance owes to its service manager, from READY to the end.

    every ``STATUS_SECONDS``, and as often as the watchdog wants it   STATUS= with mode and counters, WATCHDOG=1
    SIGHUP       RELOADING=1, the configuration read again and its difference applied (``reload``), READY=1; nothing where
                 our caller has it ignored (nohup)
    the end      STOPPING=1, a drain of at most ``DRAIN_SECONDS``, then what a restart needs goes to the store (``handover``)

Signs of life come from the event loop itself: a loop that hangs gives none. What a callback of the loop
raises is a line with its traceback, and the loop goes on; out of memory is the end, with status 71.

Ref: systemd.service(5), sd_notify(3).
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import signal
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..errors import ControlError, OptionError
from ..instance import reload
from ..system import journal, notify, passed, signals
from ..system.patience import Patience
from ..vlan.handover import Handed
from . import handover
from .exits import OSERR

if TYPE_CHECKING:
    from ..instance.instance import Instance

STATUS_SECONDS = 10.0
SETTLE_SECONDS = 10.0
DRAIN_SECONDS = 2.0
DRAIN_STEP = 0.005
log = logging.getLogger("tapnet.service")


class Supervisor:
    """Supervises one instance: ``run`` until ``stop`` is set, then ``drain`` and ``hand_over``."""

    def __init__(
        self, instance: Instance, again: Callable[[str | None], Config] | None, stop: asyncio.Event
    ) -> None:
        """Make a supervisor; ``again(mode)`` reads the configuration anew, in a mode or (None) in the one
        that it says.
        """
        self.exit_status = 0
        self._configured = instance.config.mode  # as the file said last; a monitor may have swapped since
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._instance = instance
        self._again = again
        self._stop = stop
        self._loop = asyncio.get_running_loop()

    def status(self) -> str:
        """Return a line for ``systemctl status``."""
        instance = self._instance
        ports = [port for hub in instance.all_hubs() for port in hub.ports]
        frames = sum(port.counters.tx_frames for port in ports)
        drops = sum(sum(port.counters.drops.values()) for port in ports)
        flows = sum(len(list(user.rows())) for user in instance.usernets)
        return (
            f"mode {instance.mode or 'as configured'}: {len(instance.vlans)} VLANs, {len(ports)} ports, "
            f"{frames} frames, {drops} dropped, {flows} flows"
        )

    def forget_rest(self, handed: Handed) -> None:
        """Close what came over a restart, or from the manager, and is of no use here."""
        count = handed.close()
        if count:
            log.warning("tapnet: restart: %d of the nets changed: their connections are closed", count)
        for address in passed.close_rest():
            log.warning("tapnet: systemd listens on %s, and nothing here does", address)

    async def settled(self) -> None:
        """Wait for what opens in the background: listening sockets whose host is a name. Peers that are away
        are no reason to wait, nor are names that nobody knows, after ``SETTLE_SECONDS``.
        """
        end = self._loop.time() + SETTLE_SECONDS
        while not self._stop.is_set() and self._loop.time() < end:
            backends = [member.backend for member in self._instance.patchbay.members()]
            if all(getattr(one, "address", True) != "" for one in backends):
                return
            await asyncio.sleep(DRAIN_STEP)

    async def run(self) -> None:
        """Give signs of life and serve reloads until the end is asked for."""
        loop, wakes = self._loop, self._pause()
        loop.set_exception_handler(self._raised)
        reloads = self._again is not None and not signals.ignored(signal.SIGHUP)
        if reloads:
            loop.add_signal_handler(signal.SIGHUP, self.reload)
            signals.unblock((signal.SIGHUP,))
        if notify.watchdog_interval() is not None:
            with contextlib.suppress(ValueError, OSError):  # no standard error
                faulthandler.enable()  # where it hung: the watchdog's SIGABRT prints that
        try:
            while not self._stop.is_set():
                try:
                    await asyncio.wait_for(self._stop.wait(), wakes)
                except TimeoutError:
                    notify.notify("WATCHDOG=1", f"STATUS={self.status()}")
        finally:
            if reloads:
                loop.remove_signal_handler(signal.SIGHUP)

    @staticmethod
    def _pause() -> float | None:
        interval = notify.watchdog_interval()
        if not notify.wanted():
            return None
        return min(interval or STATUS_SECONDS, STATUS_SECONDS)

    def _raised(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None:
            loop.default_exception_handler(context)
            return
        if isinstance(error, MemoryError):  # before anything that needs some
            self.exit_status = OSERR
            self._stop.set()
        text = "".join(traceback.format_exception(error))
        journal.say(
            f"a mistake in tapnet: {context.get('message', '')}: {error!r}\n{text}".rstrip(), logging.ERROR
        )

    def reload(self) -> None:
        """Read the configuration again, soon. A bad one changes nothing."""
        task = self._loop.create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        async with self._reloading:
            notify.reloading()
            try:
                await self._apply()
            finally:
                notify.ready(self.status())

    async def _new(self) -> Config:
        """Return the configuration, and the instance in its mode: in the one that a monitor chose, unless the
        configuration has changed its own since. Raises OptionError, ControlError.
        """
        assert self._again is not None
        instance = self._instance
        new = self._again(None)
        if new.mode != self._configured:
            if new.mode is None:
                instance.mode = None
            elif new.mode != instance.mode:
                await instance.set_mode(new.mode)
            self._configured = new.mode
        elif instance.mode is not None and instance.mode != new.mode:
            new = self._again(instance.mode)
        return new

    async def _apply(self) -> None:
        try:
            new = await self._new()
            made = reload.plan(self._instance.config, new)
            log.log(journal.NOTICE, "tapnet: reload: %s", reload.apply(self._instance, made))
            for line in made.new.warnings:
                journal.say(f"warning: {line}", logging.WARNING)
        except (OptionError, ControlError, reload.ReloadError) as error:
            journal.say(f"reload: {error}; the configuration before stays", logging.ERROR)

    async def drain(self) -> None:
        """End the NATs, whose flows go with this process (RST), and let frames that are on their way arrive,
        for a while.
        """
        for user in self._instance.usernets:
            user.close()
        patience = Patience(DRAIN_SECONDS)
        while self._instance.busy() and patience.left() > 0:
            await asyncio.sleep(DRAIN_STEP)

    def hand_over(self) -> None:
        """Give the manager what a restart needs. Nothing but the end may follow."""
        if notify.wanted():
            items, listeners = self._instance.export()
            handover.save(items, listeners)
