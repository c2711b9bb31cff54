"""Services on the host's side for guests (``slirp.contracts.host.Service``): part of ``slirp.host.sockets``.

A service is one non-blocking socket, whatever is behind it:

    tcp      a connection
    udp      a connected UDP socket
    unix     a stream connection; for packets a datagram socket with a name of its own, so that answers come back
    program  our end of a socket pair; the other is the program's standard input, output and error, as inetd has it.
             Packets: SOCK_SEQPACKET, one datagram each. ``inet``: a TCP connection to ourselves in place of the pair

A program is started by a thread (``posix_spawn``: no shell, an own session, signals as at a shell) and awaited by a
pidfd. What its guest says after it has ended is thrown away; when it leaves what its guest said unread, that is an end
as any other, no reset. When its connection is over it has ``GRACE`` to end by itself (it reads end of file), after a reset
none; then its process group gets SIGTERM, and SIGKILL ``KILL`` later. The same without delay at the end of tapnet.

Limits: ``PROGRAMS`` at once; further ones are refused.

Ref: unix(7); pidfd_open(2); inetd(8).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..contracts.host import Service, TcpEvents
from .socket_set import SocketSet, sockaddr
from .tcp import HostTcp

if TYPE_CHECKING:
    from .sockets import AsyncHost

PROGRAMS = 1024
GRACE = 10.0  # seconds
KILL = 5.0
CONNECT = 1.0  # of a loopback connection to ourselves
STRANGERS = 16  # that may come in between
LAST = 1.0  # for programs to end when we do
SIGNALS = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGCHLD,
)


def connect(service: Service, packets: bool) -> tuple[socket.socket, bool]:
    """A socket that connects to ``service`` (no program), and whether it has. Raises OSError."""
    to = service.to
    kind = (
        socket.SOCK_DGRAM
        if service.kind == "udp" or (packets and service.kind == "unix")
        else socket.SOCK_STREAM
    )
    if service.kind == "unix":
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_UNIX and kind == socket.SOCK_DGRAM:
            sock.bind("")  # the kernel makes a name
        error = sock.connect_ex(to if family == socket.AF_UNIX else sockaddr((str(to[0]), int(to[1]))))
        if error == errno.EAGAIN:  # of a UNIX socket: its backlog is full
            error = errno.ECONNREFUSED
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock, not error


class Program:
    """A process of ours."""

    __slots__ = ("fd", "owner", "pid", "timer")

    def __init__(self, owner: Programs, pid: int) -> None:
        self.owner = owner
        self.pid = pid
        self.fd = os.pidfd_open(pid)
        self.timer: asyncio.TimerHandle | None = None

    def end(self, after: float) -> None:
        """It is to end within ``after`` seconds."""
        if self.pid:
            self._later(after, self._terminate)

    def _later(self, after: float, what: Callable[[], None]) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.owner.loop.call_later(after, what)

    def _terminate(self) -> None:
        self.signal(signal.SIGTERM)
        self._later(KILL, lambda: self.signal(signal.SIGKILL))

    def signal(self, number: int) -> None:
        """To its process group, which is its own."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def reap(self) -> None:
        """It has ended."""
        if not self.pid:
            return
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self.pid, os.WNOHANG)[0] == 0:
                return
        if self.timer is not None:
            self.timer.cancel()
        self.pid = 0
        os.close(self.fd)


class Programs:
    """The programs of one host, and the thread that starts them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.starting = 0
        self._running: set[Program] = set()
        self._born: list[int] = []  # started, and not heard of by the loop yet
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._running) + self.starting

    def start(
        self, service: Service, child: socket.socket, done: Callable[[Program | OSError], None]
    ) -> None:
        """Start it with ``child``, which is closed; ``done`` is called on the loop. Raises OSError: too many."""
        if len(self) >= PROGRAMS or self._closed:
            child.close()
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "programs")
        self.starting += 1
        self._thread.submit(self._start, service, child, done)

    def _start(
        self, service: Service, child: socket.socket, done: Callable[[Program | OSError], None]
    ) -> None:
        """In the thread."""
        result: int | OSError
        try:
            with child:
                result = spawn(service, child.fileno())
                self._born.append(result)
        except OSError as error:
            result = error
        except ValueError as error:  # a NUL in a word
            result = OSError(errno.EINVAL, str(error))
        with contextlib.suppress(RuntimeError):  # the loop is closed: ``close`` has waited for us before
            self.loop.call_soon_threadsafe(self._started, result, done)

    def _started(self, result: int | OSError, done: Callable[[Program | OSError], None]) -> None:
        self.starting -= 1
        if isinstance(result, OSError):
            done(result)
            return
        if result not in self._born:
            return  # ``close`` was first
        self._born.remove(result)
        program = Program(self, result)
        self._running.add(program)
        self.loop.add_reader(program.fd, self._ended, program)
        done(program)

    def _ended(self, program: Program) -> None:
        fd = program.fd
        program.reap()
        if not program.pid:
            self.loop.remove_reader(fd)
            self._running.discard(program)

    def close(self) -> None:
        """End all of them, within ``LAST`` seconds. Idempotent."""
        self._closed = True
        if self._thread is not None:
            self._thread.shutdown()
        self._running.update(Program(self, pid) for pid in self._born)
        self._born.clear()
        for program in self._running:
            self.loop.remove_reader(program.fd)
            program.signal(signal.SIGTERM)
        for program in _left(self._running, LAST):
            program.signal(signal.SIGKILL)
        for program in _left(self._running, LAST):
            program.reap()
        self._running.clear()
        self.starting = 0


def _left(programs: Iterable[Program], seconds: float) -> list[Program]:
    """Wait for programs to end; those that did not."""
    end = time.monotonic() + seconds
    while True:
        left = [program for program in programs if program.pid]
        for program in left:
            program.reap()
        left = [program for program in left if program.pid]
        if not left or time.monotonic() >= end:
            return left
        time.sleep(0.005)


def _inherited() -> list[int]:
    """Descriptors that tapnet was started with and that are nobody else's business: fd=, --ready-fd, a shell's leftovers."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own, or closed meanwhile
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def spawn(service: Service, fd: int) -> int:
    """Start the program with its standard descriptors on ``fd``; its pid. Raises OSError, ValueError."""
    assert isinstance(service.to, tuple)
    argv = [str(word) for word in service.to]
    import shutil  # here: it imports compressors, which no start should wait for

    path = shutil.which(argv[0])
    if path is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_DUP2, fd, number) for number in (0, 1, 2)
    ]
    if service.output is not None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        actions[1] = (os.POSIX_SPAWN_OPEN, 1, service.output, flags, 0o666)
    actions += [(os.POSIX_SPAWN_CLOSE, number) for number in _inherited()]
    return os.posix_spawn(
        path, argv, os.environ, file_actions=actions, setsid=True, setsigmask=(), setsigdef=SIGNALS
    )


def inet_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection, which nobody else can have slipped into. Raises OSError."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=CONNECT)
        try:
            listener.settimeout(CONNECT)
            for _ in range(STRANGERS):
                theirs, peer = listener.accept()
                if peer == ours.getsockname():
                    theirs.settimeout(None)
                    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return ours, theirs
                theirs.close()
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        except BaseException:
            ours.close()
            raise


class HostProgram(HostTcp):
    """A program as a service."""

    __slots__ = ("_ended", "_program")

    def __init__(self, host: SocketSet, sock: socket.socket, events: TcpEvents) -> None:
        super().__init__(host, sock, events, True)
        self.connected = False  # it is watched when it is
        self._program: Program | None = None
        self._ended = False

    def started(self, result: Program | OSError) -> None:
        """The thread is done, outside any batch of events."""
        host = self._host
        if isinstance(result, OSError):
            if self._fd >= 0:
                self.close()
                self._events.host_failed(result.errno or errno.ECONNREFUSED, host.now())
        elif self._fd < 0:
            result.end(0)
        else:
            self._program = result
            self.connected = True
            self._events.host_connected(host.now())
        host.served()

    def recv(self, size: int) -> bytes | None:
        """What it says."""
        try:
            data = super().recv(size)
        except ConnectionResetError:  # it ended, and something for it was left
            data = b""
        self._ended = data == b""
        return data

    def send(self, data: bytes | memoryview) -> int:
        """What it is told; nobody listens after its end."""
        try:
            return super().send(data)
        except (BrokenPipeError, ConnectionResetError):
            if self._ended:
                raise
            return len(data)

    def close(self, *, reset: bool = False) -> None:
        """The connection is over, and so is the program, soon."""
        super().close()
        if self._program is not None:
            self._program.end(0 if reset else GRACE)
            self._program = None


def program(host: AsyncHost, service: Service, events: TcpEvents, packets: bool) -> HostTcp:
    """Begin to start a program. Raises OSError."""
    kind = socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM
    ours, theirs = inet_pair() if service.inet else socket.socketpair(socket.AF_UNIX, kind)
    try:
        ours.setblocking(False)
        found = host.program_socket(ours, events)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    try:
        host.programs.start(service, theirs, found.started)
    except OSError:
        found.close()
        raise
    return found
