"""The process that undoes a bridge which nobody confirms.

It is started before the first change, in a session of its own, with nothing of the terminal open: so it is there when
the link over which somebody works is gone, when that session ends, and when ``tapnet bridge up`` itself is killed. It
waits for the deadline, for SIGTERM (then it undoes at once: whoever ends it does not confirm) or SIGUSR1 (then it looks:
confirmed, or put back already, is the end of it). What it does goes to syslog.
"""

from __future__ import annotations

import os
import signal
import sys
import syslog
import time

from ..system.patience import Patience
from . import bridge, journal
from .journal import Busy, Journal
from .record import read, started
from .rtnl import Kernel, KernelError

_BUSY_S = 60.0  # how long it waits for a command that is at work on the same bridge
_PAUSE_S = 0.2
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def start(name: str, seconds: float) -> tuple[int, int]:
    """Begin to watch over ``name``. Answers the process's number and when it began."""
    with Kernel():
        pass  # what it needs is imported before the fork
    deadline = journal.clock() + seconds
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    middle = os.fork()
    if middle == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
                for number in (signal.SIGINT, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                os.write(write, str(os.getpid()).encode())
                _alone()
                _watch(name, deadline)
        except BaseException as error:
            syslog.syslog(syslog.LOG_ERR, f"tapnet bridge {name}: watchdog: {error}")
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(middle, 0)
    pid = int(os.read(read, 20))
    os.close(read)
    return pid, started(pid)


def _alone() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") > 0 else 1024)
    os.chdir("/")
    syslog.openlog("tapnet", syslog.LOG_PID, syslog.LOG_DAEMON)


def _watch(name: str, deadline: float) -> None:
    while (left := deadline - journal.clock()) > 0:
        came = signal.sigtimedwait(_SIGNALS, left)
        if came is None:
            continue  # the time may have stood still: look at the clock again
        if came.si_signo == signal.SIGTERM or _settled(name):
            break
    _undo(name)


def _settled(name: str) -> bool:
    """Whether nothing waits for confirmation any more."""
    data = journal.look(bridge.KIND, name)
    return data is None or data["state"] in ("up", "lowering")


def _undo(name: str) -> None:
    """Put back what is not confirmed."""
    patience = Patience(_BUSY_S)
    while True:
        try:
            with Journal(bridge.KIND, name) as found:
                record = read(found)
                if record is None or record.state not in ("pending", "raising"):
                    return
                with Kernel() as kernel:
                    bridge.undo(found, record, kernel)
                syslog.syslog(syslog.LOG_WARNING, f"bridge {name}: not confirmed, put back what was before")
                return
        except Busy:
            if patience.left() <= 0:
                raise
            time.sleep(_PAUSE_S)
        except KernelError as error:
            syslog.syslog(syslog.LOG_ERR, f"bridge {name}: cannot put back what was before: {error}")
            return
