"""Log lines with fields, for systemd's journal: its native protocol in a few lines.

Where standard error is the journal (``$JOURNAL_STREAM`` names its device and inode), lines of the loggers ``tapnet`` and
below it go to the journal's socket as datagrams of fields: ``journalctl -u tapnet@lab TAPNET_VLAN=2``, ``-p warning``.

    MESSAGE, PRIORITY, SYSLOG_IDENTIFIER=tapnet, TAPNET_INSTANCE, TAPNET_LOGGER
    TAPNET_PORT   name of the port or backend, where the caller gave ``extra={"port": name}``
    TAPNET_VLAN   its VLAN, where it is on one

Elsewhere lines go to standard error as they are. Nothing here blocks or raises: a line that the journal does not take at
once goes to standard error.

Ref: systemd.exec(5) $JOURNAL_STREAM; systemd's docs/JOURNAL_NATIVE_PROTOCOL.md.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "tapnet"
LINE_MAX = 8192  # of a message
NOTICE = 25  # between logging's INFO and WARNING, as syslog has it
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (NOTICE, 5),
    (logging.INFO, 6),
)

logging.addLevelName(NOTICE, "NOTICE")
log = logging.getLogger("tapnet")


def is_stderr(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether standard error goes to the journal."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        seen = os.fstat(2)
        return (seen.st_dev, seen.st_ino) == (int(device), int(inode))
    except (OSError, ValueError):
        return False


def encode(fields: Mapping[str, str]) -> bytes:
    """Fields as one datagram; a value with a line feed by its length."""
    out = bytearray()
    for name, value in fields.items():
        data = value.encode(errors="replace")
        if b"\n" in data:
            out += name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
        else:
            out += name.encode() + b"=" + data + b"\n"
    return bytes(out)


def priority(level: int) -> int:
    """syslog's number for logging's."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


class JournalHandler(logging.Handler):
    """Sends records to the journal.

    instance   --name
    vlan_of    (name of a port or backend) -> its VLAN, None: it is on none
    """

    def __init__(
        self, instance: str, vlan_of: Callable[[str], int | None] = lambda _: None, path: str = SOCKET
    ) -> None:
        super().__init__(logging.INFO)
        self.instance = instance
        self.vlan_of = vlan_of
        self._path = path
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record).removeprefix("tapnet: ")[:LINE_MAX]
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(priority(record.levelno)),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "TAPNET_INSTANCE": self.instance,
            "TAPNET_LOGGER": record.name,
        }
        port = getattr(record, "port", None)
        if port is not None:
            fields["TAPNET_PORT"] = port
            vlan = self.vlan_of(port)
            if vlan is not None:
                fields["TAPNET_VLAN"] = str(vlan)
        try:
            self._socket.sendto(encode(fields), self._path)
        except OSError:
            with contextlib.suppress(OSError):
                print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        self._socket.close()
        super().close()


@contextlib.contextmanager
def opened(instance: str, vlan_of: Callable[[str], int | None]) -> Iterator[None]:
    """Until the end of the block, lines go to the journal with their fields, where standard error is the journal."""
    if not is_stderr():
        yield
        return
    handler = JournalHandler(instance, vlan_of)
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
        handler.close()


def say(text: str, level: int = NOTICE) -> None:
    """One line for whoever runs the program."""
    if any(isinstance(handler, JournalHandler) for handler in log.handlers):
        log.log(level, "%s", text)
    else:
        with contextlib.suppress(OSError):
            print(f"{prefix(level)}tapnet: {text}", file=sys.stderr, flush=True)


def prefix(level: int) -> str:
    """What makes the journal see the priority of a plain line: "<3>"; nothing on a terminal or in a file."""
    return f"<{priority(level)}>" if is_stderr() else ""
