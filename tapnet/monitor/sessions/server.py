"""Control socket and monitors: the I/O round ``hmp`` and ``qmp``.

    client ──bytes──► Session ──► Hmp, Qmp ──► Session ──► client

* Control socket (``tapnet monitor``, ``tapnet ps``): no greeting and no prompt; each line is answered by one
  frame, ``ok LENGTH`` or ``error LENGTH`` and a line feed, then LENGTH bytes of UTF-8.
* Monitors (``-monitor``): a greeting, the answer as text, and the prompt ``(tapnet) ``; ``-qmp``: JSON. As in QEMU one
  client at a time; the next one waits in the kernel's backlog. Without ``server=on`` we connect; an end is
  final.
* stdio: ``stdio``.

Who may do what: whoever can open our UNIX sockets (0600) or our terminal is us. A client over TCP is nobody: commands that
run programs or name files are refused unless the option says trusted=on.

Limits: ``CLIENTS_MAX`` clients of the control socket (the next wait in its backlog); those of ``session``.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path

from ...config import Chardev, Endpoint, UnixPath
from ...system import passed
from ...system import runtime as paths
from ...system.chardev import Listening, ServerError, connect, listen, listen_unix, shown
from ...system.unixsocket import alive
from ..commands.control import Control
from ..hmp import Hmp
from ..qmp import Qmp
from .qmp import QmpSession
from .session import Hook, LineSession, Session, nothing

__all__ = ["Listener", "Served", "ServerError", "open_control", "open_metrics", "open_monitor", "open_qmp"]

CLIENTS_MAX = 16
SCRAPERS_MAX = 16
RETRY_S = 1.0

Make = Callable[[Hook, Hook], Session]  # (opened, closed) -> a session


class Listener:
    """A listening socket that stops accepting while ``limit`` clients are served."""

    def __init__(self, listening: Listening, make: Make, limit: int = 1) -> None:
        self.first = asyncio.Event()  # set when the first client has come
        self.listening = listening
        self._make = make
        self._limit = limit
        self._sessions: set[Session] = set()
        self._pending = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = False
        self._loop = asyncio.get_running_loop()
        self._rearm()

    def close(self) -> None:
        """Stop listening and end all sessions. Idempotent."""
        self._limit = 0
        self._rearm()
        self.listening.close()
        for task in list(self._tasks):
            task.cancel()
        for session in list(self._sessions):
            session.end()

    def _rearm(self) -> None:
        room = len(self._sessions) + self._pending < self._limit
        if room != self._reading:
            self._reading = room
            if room:
                self._loop.add_reader(self.listening.socket.fileno(), self._accept)
            else:
                self._loop.remove_reader(self.listening.socket.fileno())

    def _accept(self) -> None:
        try:
            client, _ = self.listening.socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # no descriptors: not in a busy loop
            self._pending += self._limit
            self._rearm()
            self._loop.call_later(RETRY_S, self._retry)
            return
        client.setblocking(False)
        self._pending += 1
        task = self._loop.create_task(self._attach(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._rearm()

    async def _attach(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self._make(self._opened, self._closed), client)
        except BaseException:
            client.close()
            raise
        finally:
            self._pending -= 1
            if self._limit:
                self._rearm()

    def _retry(self) -> None:
        if self._limit:
            self._pending -= self._limit
            self._rearm()

    def _opened(self, session: Session) -> None:
        self._sessions.add(session)
        self.first.set()

    def _closed(self, session: Session) -> None:
        self._sessions.discard(session)
        if self._limit:
            self._rearm()


class Served:
    """Something open: ``close()`` undoes all of it, once."""

    def __init__(
        self, what: str, listener: Listener | None = None, close: Callable[[], None] | None = None
    ) -> None:
        self.what = what  # for messages: "tcp:127.0.0.1:4444"
        self.listener = listener
        self._close = close

    @property
    def port(self) -> int:
        """TCP port that was bound (the one chosen for port 0); 0 where there is none."""
        return self.listener.listening.port if self.listener is not None else 0

    async def first_client(self) -> None:
        """Wait for ``wait=on``'s first client."""
        if self.listener is not None:
            await self.listener.first.wait()

    def close(self) -> None:
        """Idempotent."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        if self._close is not None:
            self._close()
            self._close = None


def open_control(name: str, control: Control, owner: tuple[int, int] | None = None) -> Served:
    """Serve instance ``name``'s control socket. Raises ServerError, for one if ``name`` is in use.

    owner   uid and gid of the user whom this process will become
    """
    try:
        path = paths.socket_path(name, paths.folder_for(name, *owner) if owner is not None else None)
    except paths.PathError as error:
        raise ServerError(str(error)) from None
    lock = os.open(path.parent / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held for the few calls between "is it stale?" and bind
        _sweep(path.parent)
        if alive(path):
            taken = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            raise ServerError(f"--name {name}: an instance of that name is running ({path})") from taken
        listening = listen_unix(UnixPath(str(path)))
        if owner is not None:
            os.chown(path, *owner)
        return _control(listening, str(path), control)
    except OSError as error:
        raise ServerError(f"control socket {path}: {error.strerror or error}") from None
    finally:
        os.close(lock)


def open_activated(name: str, control: Control) -> Served | None:
    """Serve the control socket that systemd has opened for instance ``name`` too, if it has."""
    path = str(paths.SYSTEM / (name + paths.ACTIVATION))
    given = passed.take(path, "control")
    return _control(Listening(given.socket), path, control) if given is not None else None


def _control(listening: Listening, path: str, control: Control) -> Served:
    hmp = Hmp(control)
    return Served(
        path, Listener(listening, lambda opened, closed: LineSession(hmp, True, opened, closed), CLIENTS_MAX)
    )


def _sweep(directory: Path) -> None:
    """Take away the control sockets of instances that were killed. The caller holds the lock."""
    for other in paths.sockets(directory):
        try:
            alive(other)
        except OSError:
            continue


def trusted(chardev: Chardev) -> bool:
    """Whether its clients may run programs and name files."""
    return chardev.trusted or chardev.address is None or isinstance(chardev.address, UnixPath)


async def open_monitor(chardev: Chardev, control: Control) -> Served:
    """Open one ``-monitor``. Returns at once when it listens: await ``first_client()`` where
    ``chardev.wait``.

    Raises ServerError naming the option.
    """
    hmp = Hmp(control, trusted(chardev))
    if chardev.address is None:
        from .stdio import start_person

        return Served("stdio", close=start_person(hmp))
    return await _open(chardev, lambda opened, closed: LineSession(hmp, False, opened, closed))


async def open_qmp(chardev: Chardev, control: Control) -> Served:
    """Open one ``-qmp``, as ``open_monitor`` does. Raises ServerError."""
    events, rights = control.instance.events, trusted(chardev)

    def make(opened: Hook, closed: Hook) -> Session:
        return QmpSession(Qmp(control, rights), events, opened, closed)

    if chardev.address is None:
        from .stdio import start_session

        return Served("stdio", close=start_session(make(nothing, nothing)))
    return await _open(chardev, make)


async def open_metrics(address: Endpoint, control: Control) -> Served:
    """Open ``--metrics``. Raises ServerError naming the option."""
    from .metrics import MetricsSession  # here: few want it

    chardev = Chardev(origin=f"--metrics {address}", address=address, server=True)
    listening = await listen(chardev)
    listener = Listener(
        listening, lambda opened, closed: MetricsSession(control, opened, closed), SCRAPERS_MAX
    )
    return Served(shown(chardev), listener)


async def _open(chardev: Chardev, make: Make) -> Served:
    """Serve sessions on a socket. Raises ServerError."""
    tcp = not isinstance(chardev.address, UnixPath)

    def made(opened: Hook, closed: Hook) -> Session:
        session = make(opened, closed)
        session.http = tcp
        return session

    if chardev.server:
        return Served(shown(chardev), Listener(await listen(chardev), made))
    connected = await connect(chardev)
    session = made(nothing, nothing)
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: session, connected)
    except BaseException:
        connected.close()
        raise
    return Served(shown(chardev), close=session.end)
