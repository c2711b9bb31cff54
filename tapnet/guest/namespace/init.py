"""The first process (PID 1) of a namespace guest: mounts, then COMMAND, then its status.

Theory of operation
    tapnet --fork--> helper (user, network namespace) --fork--> init (PID, mount namespace) --fork--> COMMAND

init does the mounts, says ``ready``, waits for ``start`` on its channel, runs COMMAND and reaps whatever else
ends in the namespace. When COMMAND ends, init exits with its status (128+n for signal n), and the kernel
kills all that is left. When tapnet or the helper dies, the channel ends or the parent-death signal comes:
init goes, and all with it.

The terminal. COMMAND has tapnet's own, no pty in between, so the window size is simply there.
* Where all of tapnet's standard streams are its terminal, COMMAND gets a process group of its own, which its
  shell can name (tapnet's group has no number in here), and init makes it the foreground group: ^C, ^Z and
  window changes reach it alone. When it stops, tapnet is told, takes the terminal back and stops as well, for
  the shell that started it; when tapnet is continued, so is COMMAND.
* Elsewhere (a pipeline, a background job, no terminal) COMMAND stays in tapnet's process group: then the
  terminal's signals reach both, from the kernel.

Signals sent to tapnet alone come as ``signal`` messages. COMMAND's own signal dispositions and mask are those
that tapnet was started with, but for SIGPIPE and SIGXFSZ, which Python ignores, and SIGCHLD, without which no child has a
status: these have their default.

Messages in: ``{"start": {"argv", "env", "cwd", "terminal"}}``, ``{"signal": n}``, ``{"resume": foreground}``,
``{"resolv": text}``. Messages out: ``{"ready": true}``, ``{"started": pid}``, ``{"stopped": n}``,
``{"killed": n}``.
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

from ...system import syscalls
from . import mounts
from .messages import Channel

FAILED = 125  # tapnet's own failure
NOT_EXECUTABLE, NOT_FOUND = 126, 127
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


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
        self.terminal = False  # COMMAND has a process group of its own, the terminal's foreground
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
                pid, raw = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return status
            if pid == 0:
                return status
            if pid != self.command:
                continue
            if os.WIFSTOPPED(raw):
                if self.terminal:
                    self.channel.send({"stopped": os.WSTOPSIG(raw)})
                continue
            code = os.waitstatus_to_exitcode(raw)
            status = code if code >= 0 else 128 - code
            if code < 0:
                with contextlib.suppress(OSError):
                    self.channel.send({"killed": -code})

    def _message(self, message: dict[str, Any]) -> None:
        if "resolv" in message:
            if mounts.replace_resolv(self.resolv, message["resolv"]):
                self.resolv = message["resolv"]
        elif "signal" in message:
            if self.command:
                self._signal(message["signal"])
            else:
                self.pending.append(message["signal"])
        elif "resume" in message:
            if self.command and self.terminal:
                if message["resume"]:
                    self._foreground(self.command)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.command, signal.SIGCONT)
        elif "start" in message and not self.command:
            start = message["start"]
            self.terminal = bool(start.get("terminal"))
            self.command = self._spawn(start["argv"], start.get("env"), start.get("cwd"))
            self.channel.send({"started": self.command})
            for number in self.pending:
                self._signal(number)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.command, number)

    @staticmethod
    def _foreground(group: int) -> None:
        with contextlib.suppress(OSError):  # SIGTTOU is blocked here
            os.tcsetpgrp(0, group)

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
            if self.terminal:
                os.setpgid(0, 0)
                self._foreground(os.getpid())
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
