"""``tapnet monitor`` and ``tapnet ps``: the client side of the control socket. Synchronous, a process of
its own.

Exit status: 0; 1 if a command failed or the instance went away; 2 if it is not clear which instance is meant.
Limits: ``ANSWER_MAX`` bytes an answer, ``TIMEOUT_S`` seconds for one, more on a busy machine (``patience``).
"""

from __future__ import annotations

import shlex
import socket
import sys
from pathlib import Path

from ...system import runtime as paths
from ...system.patience import limit
from ..commands.control import columns
from ..hmp import PROMPT

ANSWER_MAX = 64 << 20
TIMEOUT_S = 30.0
PROBE_S = 2.0


class ClientError(Exception):
    """The instance cannot be reached, or broke off; the text is for the user."""


class Connection:
    """One control connection."""

    def __init__(self, path: Path, seconds: float = TIMEOUT_S) -> None:
        """``seconds``: for an answer, on a machine at rest. Raises ClientError."""
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._seconds = limit(seconds)
        self._socket.settimeout(self._seconds)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise ClientError(f"{path}: {error.strerror or error}") from None
        self._file = self._socket.makefile("rb")

    def ask(self, line: str) -> tuple[bool, str]:
        """Send one line; (whether it succeeded, the answer). Raises ClientError."""
        try:
            self._socket.sendall(line.replace("\n", " ").encode() + b"\n")
            head = self._file.readline(64).split()
            if len(head) != 2 or head[0] not in (b"ok", b"error") or not head[1].isdigit():
                raise ClientError(
                    f"{self.path}: " + ("not a control socket" if head else "the instance has ended")
                )
            size = int(head[1])
            body = self._file.read(size) if size <= ANSWER_MAX else b""
        except TimeoutError:
            raise ClientError(f"{self.path}: no answer within {self._seconds:.0f} s") from None
        except OSError as error:
            raise ClientError(f"{self.path}: {error.strerror or error}") from None
        if len(body) != size:
            raise ClientError(f"{self.path}: the answer was cut off")
        return head[0] == b"ok", body.decode(errors="replace")

    def close(self) -> None:
        """Idempotent."""
        self._file.close()
        self._socket.close()


def main(instance: str | None, words: list[str] | tuple[str, ...], seconds: float = TIMEOUT_S) -> int:
    """Run one command in ``instance`` (name, pid or path; None: the only one), or talk if there are no
    words. ``seconds``: for an answer, on a machine at rest."""
    if list(words[:2]) == ["capture", "start"] and len(words) == 4 and words[3] == "-":
        from . import capture as live

        return live.main(instance, words[2], "-")
    try:
        path = find(instance)
    except ClientError as error:
        print(f"tapnet: monitor: {error}", file=sys.stderr)
        return 2
    try:
        connection = Connection(path, seconds)
    except ClientError as error:
        print(f"tapnet: monitor: {error}", file=sys.stderr)
        return 2
    try:
        if words:
            line = words[0] if len(words) == 1 else shlex.join(words)
            ok, text = connection.ask(line)
            (sys.stdout if ok else sys.stderr).write(text)
            return 0 if ok else 1
        return _talk(connection)
    except ClientError as error:
        print(f"tapnet: monitor: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()


def ps() -> int:
    """Print a table of this user's instances."""
    rows = [("NAME", "PID", "VLANS", "MODE")]
    for path in paths.existing():
        seen = _about(path)
        if seen is not None:
            fallback = "not answering" if not seen else ""
            rows.append(
                (
                    seen.get("name", path.stem),
                    seen.get("pid", "-"),
                    seen.get("vlans", "-"),
                    seen.get("mode", "") or fallback,
                )
            )
    print(columns(rows))
    return 0


def find(instance: str | None) -> Path:
    """Control socket of an instance. Raises ClientError if there is none, or several and no word which."""
    if instance is not None and "/" in instance:
        return Path(instance)
    sockets = paths.existing()
    if instance is not None:
        for path in sockets:
            if path.stem == instance and _about(path) is not None:
                return path
    running = [(path, seen) for path in sockets if (seen := _about(path)) is not None]
    if instance is not None:
        for path, seen in running:
            if seen.get("pid") == instance:
                return path
        waiting = paths.activation(instance)
        if waiting is not None:
            return waiting
        names = ", ".join(path.stem for path, _ in running) or "none"
        raise ClientError(f"-i {instance}: no such instance (running: {names})")
    if not running:
        raise ClientError("no instance is running")
    if len(running) > 1:
        names = ", ".join(path.stem for path, _ in running)
        raise ClientError(f"several instances are running, choose one with -i: {names}")
    return running[0][0]


def _about(path: Path) -> dict[str, str] | None:
    """What ``info instance`` says; empty if it does not answer; None if nobody listens there."""
    try:
        connection = Connection(path, PROBE_S)
    except ClientError:
        return None
    try:
        ok, text = connection.ask("info instance")
    except ClientError:
        return {}
    finally:
        connection.close()
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line) if ok else {}


def _talk(connection: Connection) -> int:
    """Line by line until the end of input or ``quit``. Status 1 if the last command failed."""
    from .complete import Terminal  # here: one command needs no terminal

    terminal = Terminal(lambda line: connection.ask(line)[1]) if _on_terminal() else None
    ok = True
    try:
        for line in terminal.lines(PROMPT) if terminal is not None else sys.stdin:
            if not line.strip():
                continue
            ok, text = connection.ask(line.rstrip("\n"))
            (sys.stdout if ok else sys.stderr).write(text)
            sys.stdout.flush()
            if line.split()[0] in ("quit", "q"):
                return 0 if ok else 1
    finally:
        if terminal is not None:
            terminal.close()
    return 0 if ok or terminal is not None else 1


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
