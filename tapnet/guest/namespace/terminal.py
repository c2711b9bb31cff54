"""tapnet's side of COMMAND's terminal and signals (``init`` says who gets what).

``Terminal`` lends the terminal to COMMAND and takes it back; ``SignalRelay`` passes on what was sent to
tapnet alone. Both are for the main thread. State: whose process group was the foreground at start.

Ref: termios(3), credentials(7), signalfd(2); POSIX.1-2017 11.1 (the general terminal interface).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from ...system import signals, syscalls


class Terminal:
    """Whose the terminal was when we started: lent to COMMAND, taken back when it stops or ends."""

    def __init__(self) -> None:
        self.fd = -1
        ours = 0
        for fd in (0, 1, 2):
            with contextlib.suppress(OSError):
                if os.tcgetpgrp(fd) == os.getpgrp():
                    self.fd = fd
                    ours += 1
        self.whole = ours == 3  # no pipeline: nobody else of our process group wants the terminal

    def is_ours(self) -> bool:
        """Whether our process group is the foreground."""
        try:
            return os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:
            return False

    def restore(self) -> None:
        """Make our process group the foreground again."""
        if self.fd < 0 or self.is_ours():
            return
        old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self.fd, os.getpgrp())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)

    @staticmethod
    def tell_group(number: int) -> None:
        """Send a signal of the terminal, which only COMMAND has seen, to the rest of our own process
        group.
        """
        with contextlib.suppress(OSError, ValueError):
            old = signal.signal(number, signal.SIG_IGN)
            try:
                os.killpg(0, number)
            finally:
                signal.signal(number, old)


class SignalRelay:
    """Tells of the signals that tapnet gets, and whether COMMAND, once it runs, has them too.

    What the terminal sends (SI_KERNEL: ^C, ^\\, hang-up) reaches COMMAND from the kernel already, because it
    shares tapnet's process group or is the foreground itself; but for the hang-up of a session whose leader is
    tapnet, which the kernel tells to the leader alone. Blocks the signals in this
    thread: make it before other threads; give ``mask`` to ``NamespaceGuest.spawn`` and to every other child
    process.

    ignored   signals that our caller has us ignore. They are told all the same, because a COMMAND, which ignores them
              too, may handle them nevertheless; to tapnet itself they mean nothing
    """

    SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self.ignored = frozenset(number for number in self.SIGNALS if signals.ignored(number))
        self._signals = syscalls.SignalFd(self.SIGNALS)
        self.mask = self._signals.old_mask

    def attach(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[int, bool], None]) -> None:
        """From now on call ``deliver(number, alone)`` for each signal; alone: a running COMMAND has not got it."""
        leader = os.getsid(0) == os.getpid()

        def readable() -> None:
            for number, code, _ in self._signals.read():
                deliver(number, code != syscalls.SI_KERNEL or (leader and number == signal.SIGHUP))

        loop.add_reader(self._signals.fileno(), readable)
        self._loop = loop

    def close(self) -> None:
        """Back to the former mask."""
        if loop := getattr(self, "_loop", None):
            loop.remove_reader(self._signals.fileno())
        self._signals.close()
