"""``tapnet capture``: a capture of a running instance on standard output (or into a file) until interrupted.

    instance ─► named pipe, mode 0600, beside the control socket ─► this process ─► standard output

The reader's end ends the capture: the instance finds its pipe closed. Exit status: 0; 1 if the instance ended or refused;
2 if it is not clear which instance is meant.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import sys
from pathlib import Path

from ...system.signals import heeded
from . import main as client

CHUNK = 1 << 16


def main(instance: str | None, target: str, file: str) -> int:
    """Capture ``target`` (a VLAN or a member) into ``file``; "-": standard output."""
    try:
        connection = client.Connection(path := client.find(instance))
    except client.ClientError as error:
        print(f"tapnet: capture: {error}", file=sys.stderr)
        return 2
    fifo = path.parent / f"capture-{os.getpid()}"
    try:
        out = 1 if file == "-" else os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        connection.close()
        print(f"tapnet: capture: {file}: {error.strerror}", file=sys.stderr)
        return 2
    try:
        return _run(connection, fifo, target, out)
    except client.ClientError as error:
        print(f"tapnet: capture: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
        with contextlib.suppress(OSError):
            fifo.unlink()


def _run(connection: client.Connection, fifo: Path, target: str, out: int) -> int:
    with contextlib.suppress(FileNotFoundError):
        fifo.unlink()  # of a process of our number that was killed
    os.mkfifo(fifo, 0o600)
    with contextlib.suppress(OSError):  # root at somebody's instance: that one has to open it
        owner = connection.path.stat()
        os.chown(fifo, owner.st_uid, owner.st_gid)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    stop, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in heeded((signal.SIGINT, signal.SIGTERM)):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as any filter: whoever reads us has enough
    line = shlex.join(["capture", "start", target, str(fifo)])
    ok, text = connection.ask(line)
    if not ok:
        print(f"tapnet: capture: {text.strip().removeprefix('Error: ')}", file=sys.stderr)
        return 1
    fifo.unlink()  # both have it open
    asked = False
    while True:
        ready, _, _ = select.select([reader] if asked else [reader, stop], [], [])
        if stop in ready:
            asked = True
            with contextlib.suppress(client.ClientError):  # its last words still come
                connection.ask(shlex.join(["capture", "stop", target, str(fifo)]))
            continue
        data = os.read(reader, CHUNK)
        if not data:
            return 0 if asked else 1
        while data:
            data = data[os.write(out, data) :]
