"""Control socket and monitors: the I/O round ``tapnet.monitor.hmp``.

    client --bytes--> Session: lines --> Hmp.execute --> Reply --> Session: frames or a prompt --> client

* Control socket (``tapnet monitor``, ``tapnet ps``): no greeting and no prompt; each line is answered by one
  frame, ``ok LENGTH`` or ``error LENGTH`` and a line feed, then LENGTH bytes of UTF-8.
* * Monitors (``-monitor``): a greeting, the answer as text, and the prompt ``(tapnet) ``. As in QEMU one
  client at a time; the next one waits in the kernel's backlog. Without ``server=on`` we connect; an end is
  final.
* * stdio: one thread that reads a line, has the loop answer it, and writes; so neither a terminal's mode
  nor a slow reader of our output touches the loop. Its end of input is not the instance's end (as in QEMU).

Limits: ``LINE_MAX`` bytes a line (a longer one is answered by an error and ends the session), ``CLIENTS_MAX``
clients of the control socket (the next wait in its backlog), ``BUFFER_MAX`` bytes that wait for a slow
reader before we stop reading from it, ``STALL_S`` seconds of that before it is cut off.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

from .. import __version__
from ..config import Chardev, Endpoint, UnixPath
from ..unixsocket import UnixFile, alive, bind_private
from . import guard, paths
from .hmp import Hmp, Reply

LINE_MAX = 4096
CLIENTS_MAX = 16
BUFFER_MAX = 64 << 10
STALL_S = 30.0
BACKLOG = 8
CONNECT_S = 10.0
RETRY_S = 1.0
PROMPT = "(tapnet) "
GREETING = f"tapnet {__version__} monitor - type 'help' for more information\n"
TOO_LONG = f"line longer than {LINE_MAX} bytes\n"


class ServerError(Exception):
    """A control socket or monitor cannot be opened; the text names the option."""


class Session(asyncio.Protocol):
    """One client. ``framed``: the control socket's frames; otherwise a person's monitor."""

    def __init__(
        self, hmp: Hmp, framed: bool, opened: Callable[[Session], None], closed: Callable[[Session], None]
    ):
        self.hmp = hmp
        self.framed = framed
        self.transport: asyncio.Transport | None = None
        self._opened = opened
        self._closed = closed
        self._input = bytearray()
        self._stalled = False
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.transport.set_write_buffer_limits(BUFFER_MAX)
        self._opened(self)
        if not self.framed:
            self._write(GREETING + PROMPT)

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport = None
        self._unstall()
        self._closed(self)

    def data_received(self, data: bytes) -> None:
        self._input += data
        self._serve()

    def pause_writing(self) -> None:
        self._stalled = True
        if self.transport is not None:
            self.transport.pause_reading()
            self._stall = asyncio.get_running_loop().call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._unstall()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
            self._serve()

    def _unstall(self) -> None:
        self._stalled = False
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _serve(self) -> None:
        while self.transport is not None and not self._stalled and not self.transport.is_closing():
            end = self._input.find(b"\n")
            if end > LINE_MAX or (end < 0 and len(self._input) > LINE_MAX):
                self._input.clear()
                self._answer(Reply(TOO_LONG, False))
                self.transport.close()
                return
            if end < 0:
                return
            line = self._input[:end].decode(errors="replace").rstrip("\r")
            del self._input[: end + 1]
            reply = self.hmp.execute(line)
            self._answer(reply)
            if reply.quit:
                self.hmp.control.quit()
                self.transport.close()

    def _answer(self, reply: Reply) -> None:
        if self.framed:
            body = reply.text.encode()
            self._write(f"{'ok' if reply.ok else 'error'} {len(body)}\n", body)
        else:
            self._write(reply.text + ("" if reply.quit else PROMPT))

    def _write(self, text: str, body: bytes = b"") -> None:
        if self.transport is not None:
            self.transport.write((text if self.framed else text.replace("\n", "\r\n")).encode() + body)


class Listener:
    """A listening socket that stops accepting while ``limit`` clients are served."""

    def __init__(self, listening: socket.socket, hmp: Hmp, *, framed: bool, limit: int) -> None:
        self.socket = listening
        self.first = asyncio.Event()  # set when the first client has come
        self._hmp = hmp
        self._framed = framed
        self._limit = limit
        self._sessions: set[Session] = set()
        self._pending = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = False
        self._loop = asyncio.get_running_loop()
        self._rearm()

    def close(self) -> None:
        """Stop listening and end all sessions. Idempotent."""
        self._limit = 0
        self._rearm()
        self.socket.close()
        for task in list(self._tasks):
            task.cancel()
        for session in list(self._sessions):
            if session.transport is not None:
                session.transport.close()

    def _rearm(self) -> None:
        room = len(self._sessions) + self._pending < self._limit
        if room != self._listening:
            self._listening = room
            if room:
                self._loop.add_reader(self.socket.fileno(), self._accept)
            else:
                self._loop.remove_reader(self.socket.fileno())

    def _accept(self) -> None:
        try:
            client, _ = self.socket.accept()
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
            await self._loop.connect_accepted_socket(
                lambda: Session(self._hmp, self._framed, self._opened, self._closed), client
            )
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

    def __init__(self, what: str) -> None:
        self.what = what  # for messages: "tcp:127.0.0.1:4444"
        self.listener: Listener | None = None
        self.session: Session | None = None
        self.file: UnixFile | None = None  # of the socket, taken away at the end
        self._marks: list[socket.socket] = []

    def mark(self, port: int) -> None:
        """Keep NATs away from a TCP port."""
        self._marks.append(guard.claim(port))

    @property
    def port(self) -> int:
        """TCP port that was bound (the one chosen for port 0); 0 where there is none."""
        if self.listener is None or self.listener.socket.family == socket.AF_UNIX:
            return 0
        return int(self.listener.socket.getsockname()[1])

    async def first_client(self) -> None:
        """Wait for ``wait=on``'s first client."""
        if self.listener is not None:
            await self.listener.first.wait()

    def close(self) -> None:
        """Idempotent."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        if self.session is not None and self.session.transport is not None:
            self.session.transport.close()
        for mark in self._marks:
            mark.close()
        self._marks.clear()
        if self.file is not None:
            self.file.remove()
            self.file = None


def open_control(name: str, hmp: Hmp) -> Served:
    """Serve instance ``name``'s control socket. Raises ServerError, for one if ``name`` is in use."""
    try:
        path = paths.socket_path(name)
    except paths.PathError as error:
        raise ServerError(str(error)) from None
    lock = os.open(path.parent / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held for the few calls between "is it stale?" and bind
        _sweep(path.parent)
        if alive(path):
            raise ServerError(f"--name {name}: an instance of that name is running ({path})")
        return _serve_unix(path, hmp, what=str(path), framed=True, limit=CLIENTS_MAX)
    except OSError as error:
        raise ServerError(f"control socket {path}: {error.strerror or error}") from None
    finally:
        os.close(lock)


async def open_monitor(chardev: Chardev, hmp: Hmp) -> Served:
    """Open one ``-monitor``. Returns at once when it listens: await ``first_client()`` where
    ``chardev.wait``.

    Raises ServerError naming the option.
    """
    address = chardev.address
    if address is None:
        threading.Thread(
            target=_stdio, args=(hmp, asyncio.get_running_loop()), name="monitor-stdio", daemon=True
        ).start()
        return Served("stdio")
    kind = "unix" if isinstance(address, UnixPath) else "tcp"
    shown = address.path if isinstance(address, UnixPath) else str(address)
    what = f"{kind}:{shown}"
    try:
        if not chardev.server:
            return await _connect(address, hmp, what)
        if isinstance(address, UnixPath):
            if address.abstract:
                return _serve_socket(_bind_abstract(address.path), hmp, what)
            path = Path(address.path)
            if alive(path):
                raise ServerError(f"{chardev.origin} {what}: somebody listens there already")
            return _serve_unix(path, hmp, what=what, framed=False, limit=1)
        return await _serve_tcp(address, hmp, what)
    except (OSError, TimeoutError) as error:
        why = getattr(error, "strerror", None) or str(error) or "timed out"
        verb = "cannot listen" if chardev.server else "cannot connect"
        raise ServerError(f"{chardev.origin} {what}: {verb}: {why}") from None


def _sweep(directory: Path) -> None:
    """Take away the control sockets of instances that were killed. The caller holds the lock."""
    for other in paths.sockets(directory):
        try:
            alive(other)
        except OSError:
            continue


def _serve_unix(path: Path, hmp: Hmp, *, what: str, framed: bool, limit: int) -> Served:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        served = Served(what)
        served.file = bind_private(listening, path)
        listening.listen(BACKLOG)
        served.listener = Listener(listening, hmp, framed=framed, limit=limit)
    except BaseException:
        listening.close()
        raise
    return served


def _bind_abstract(name: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listening.bind("\0" + name)
    except OSError:
        listening.close()
        raise
    return listening


def _serve_socket(listening: socket.socket, hmp: Hmp, what: str) -> Served:
    served = Served(what)
    try:
        if listening.family != socket.AF_UNIX:
            served.mark(listening.getsockname()[1])  # before anybody can connect
        listening.listen(BACKLOG)
        served.listener = Listener(listening, hmp, framed=False, limit=1)
    except BaseException:
        served.close()
        listening.close()
        raise
    return served


async def _serve_tcp(address: Endpoint, hmp: Hmp, what: str) -> Served:
    found = await asyncio.get_running_loop().getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    failure = OSError("no address")
    for family, kind, proto, _, target in found:
        listening = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, proto)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(target)
        except OSError as error:
            listening.close()
            failure = error
        else:
            return _serve_socket(listening, hmp, what)
    raise failure


async def _connect(address: Endpoint | UnixPath, hmp: Hmp, what: str) -> Served:
    served = Served(what)
    loop = asyncio.get_running_loop()
    session = Session(hmp, False, lambda _: None, lambda _: None)
    async with asyncio.timeout(CONNECT_S):
        if isinstance(address, UnixPath):
            path = "\0" + address.path if address.abstract else address.path
            out = socket.socket(
                socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
            try:
                await loop.sock_connect(out, path)  # create_unix_connection of uvloop knows no abstract names
                await loop.create_unix_connection(lambda: session, sock=out)
            except BaseException:
                out.close()
                raise
        else:
            await loop.create_connection(lambda: session, address.host or "localhost", address.port)
    served.session = session
    return served


def _stdio(hmp: Hmp, loop: asyncio.AbstractEventLoop) -> None:
    """Monitor on standard input and output, in a thread of its own. Ends with the input, or with the loop."""

    async def answer(line: str) -> Reply:
        return hmp.execute(line)

    def put(text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(1, data) :]

    try:
        put(GREETING + PROMPT)
        while line := sys.stdin.buffer.readline(LINE_MAX + 1):
            if len(line) > LINE_MAX:
                while line and not line.endswith(b"\n"):
                    line = sys.stdin.buffer.readline(LINE_MAX)
                put(TOO_LONG + PROMPT)
                continue
            reply = asyncio.run_coroutine_threadsafe(answer(line.decode(errors="replace")), loop).result()
            put(reply.text)
            if reply.quit:
                loop.call_soon_threadsafe(hmp.control.quit)
                return
            put(PROMPT)
        put("\n")
    except (OSError, RuntimeError):  # nobody reads any more, or the loop has ended
        return
