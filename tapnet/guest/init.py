"""The first process (PID 1) of a namespace guest: mounts, then COMMAND, then its status.

Theory of operation
    tapnet --fork--> helper (user, network namespace) --fork--> init (PID, mount namespace) --fork--> COMMAND

init does the mounts, says ``ready``, waits for ``start`` on its channel, runs COMMAND and reaps whatever else
ends in the namespace. When COMMAND ends, init exits with its status (128+n for signal n), and the kernel
kills all that is left. When tapnet or the helper dies, the channel ends or the parent-death signal comes:
init goes, and all with it.

COMMAND keeps the terminal, the process group and the session of tapnet, so that signals of the terminal (^C,
^Z, window size) reach it from the kernel, once, and a shell can do job control. Signals sent to tapnet alone
come as ``signal`` messages. COMMAND's own signal dispositions and mask are those that tapnet was started
with.

Messages in: ``{"start": {"argv", "env", "cwd"}}``, ``{"signal": n}``, ``{"resolv": text}``.
Messages out: ``{"ready": true}``, ``{"started": pid}``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import sys
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from . import mounts, syscalls
from .wire import Channel

FAILED = 125  # tapnet's own failure
NOT_EXECUTABLE, NOT_FOUND = 126, 127
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_FORWARDED_TO_ALL = (signal.SIGHUP, signal.SIGCONT)


def close_descriptors(keep: Collection[int]) -> None:
    """Close every descriptor that an exec would close, but for ``keep``:

    we are a fork of a running tapnet.
    """
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd in keep:
            continue
        with contextlib.suppress(OSError):
            if fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                os.close(fd)


def run(channel: Channel, resolv: str, mask: Collection[int], alive: int) -> NoReturn:
    """Be PID 1. ``mask``: COMMAND's blocked signals; ``alive``: a pipe that ends with the helper."""
    try:
        syscalls.die_with_parent()
        if select.select([alive], [], [], 0)[0]:
            os._exit(FAILED)
        close_descriptors({channel.fileno(), alive})
        mounts.prepare(resolv)
        status = _Init(channel, resolv, mask).run()
    except BaseException as error:
        with contextlib.suppress(BaseException):
            print(f"tapnet: guest: {error}", file=sys.stderr, flush=True)
        status = FAILED
    os._exit(status)


class _Init:
    def __init__(self, channel: Channel, resolv: str, mask: Collection[int]) -> None:
        self.channel = channel
        self.resolv = resolv
        self.mask = mask
        self.command = 0
        self.pending: list[int] = []  # signals that came before COMMAND was there

    def run(self) -> int:
        signals = syscalls.SignalFd(
            number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)
        )
        self.channel.send({"ready": True})
        poll = select.poll()
        poll.register(signals.fileno(), select.POLLIN)
        poll.register(self.channel.fileno(), select.POLLIN)
        self.channel.socket.setblocking(False)
        while True:
            poll.poll()
            signals.read()  # only SIGCHLD matters, and it is looked for below
            status = self._reap()
            if status is not None:
                return status
            while (received := self.channel.receive()) is not None:
                self._message(received[0])
            if self.channel.eof:
                return FAILED

    def _reap(self) -> int | None:
        """Collect what has ended; COMMAND's status if it is among them."""
        status = None
        while True:
            try:
                pid, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return status
            if pid == 0:
                return status
            if pid == self.command:
                code = os.waitstatus_to_exitcode(raw)
                status = code if code >= 0 else 128 - code

    def _message(self, message: dict[str, Any]) -> None:
        if "resolv" in message:
            if mounts.replace_resolv(self.resolv, message["resolv"]):
                self.resolv = message["resolv"]
        elif "signal" in message:
            if self.command:
                self._signal(message["signal"])
            else:
                self.pending.append(message["signal"])
        elif "start" in message and not self.command:
            start = message["start"]
            self.command = self._spawn(start["argv"], start.get("env"), start.get("cwd"))
            self.channel.send({"started": self.command})
            for number in self.pending:
                self._signal(number)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.command, number)

    def _spawn(self, argv: Sequence[str], env: dict[str, str] | None, cwd: str | None) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = FAILED
        try:
            for number in _IGNORED_BY_PYTHON:
                signal.signal(number, signal.SIG_DFL)
            if cwd is not None:
                os.chdir(cwd)
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
            try:
                os.execvpe(argv[0], list(argv), os.environ if env is None else env)
            except OSError as error:
                missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
                status = NOT_FOUND if missing else NOT_EXECUTABLE
                os.write(2, f"tapnet: {argv[0]}: {error.strerror}\n".encode())
        except BaseException as error:
            with contextlib.suppress(BaseException):
                os.write(2, f"tapnet: {argv[0]}: {error}\n".encode())
        os._exit(status)
