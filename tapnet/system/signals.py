"""Signal dispositions and the mask that this process was started with.

What the caller ignores stays ignored: SIGHUP under nohup(1), SIGINT and SIGQUIT in a background job of a shell without job
control. Whoever would handle a signal asks ``heeded`` first. Two things are put right, because no program can work with
them: ``begin`` takes SIGCHLD back from SIG_IGN, with which no child's status can be read, and ``unblock`` opens the mask
for signals that have a handler.

Ref: POSIX.1-2017 2.11 (signals and shells), nohup(1), sigaction(2), waitpid(2).
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable


def ignored(number: int) -> bool:
    """Whether the signal is ignored, as our caller has it unless we have changed it."""
    return signal.getsignal(number) is signal.SIG_IGN


def heeded(numbers: Iterable[signal.Signals]) -> tuple[signal.Signals, ...]:
    """Those of ``numbers`` that are not ignored: they may have a handler of ours."""
    return tuple(number for number in numbers if not ignored(number))


def unblock(numbers: Iterable[int]) -> None:
    """Let these signals come, in this thread, although our caller has blocked them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def begin() -> None:
    """Make the end of children known. For the start of the program."""
    if ignored(signal.SIGCHLD):
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
