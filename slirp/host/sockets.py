"""The host's sockets for the NAT: ``slirp.contracts.host.Host`` on an asyncio (or uvloop) event loop.

All sockets of one NAT sit in one epoll set of their own, and the loop watches only that set's descriptor:
one callback serves up to ``EVENTS`` sockets, a change of interest is one system call, and error events
(EPOLLERR of an ICMP error queue) behave alike under every loop. Events are level-triggered; a flow's turn
is bounded by the flow itself, so that no socket starves the others, and the loop is given back after each
batch.

What each kind of socket does is told in ``tcp``, ``udp``, ``echo`` (ping) and ``listen``.

``resolvers`` reads resolv.conf again when its stat changed, looked at once a second at most; without a
nameserver line it is the host's own 127.0.0.1, as the C library has it. ``forbidden`` says whether a
destination is a control-plane listener of any tapnet instance: such a listener holds an abstract UNIX
datagram name ``\\0tapnet/control/tcp/PORT`` (or ``.../PORT/1`` to ``/3``), see ``tapnet/system/guard.py``;
the destination counts if it is one of the host's own addresses in any spelling.

Limits: as many sockets as RLIMIT_NOFILE allows, which is raised to ``DESCRIPTORS``, less ``RESERVE`` (a quarter
where there are few) for the rest of the process; beyond, OSError(EMFILE) and the NAT makes room.

Ref: epoll(7), unix(7), getrlimit(2), resolv.conf(5).
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from ..contracts.host import Address, ListenEvents, Service, TcpEvents, UdpEvents
from . import service as hostservice
from .echo import EchoEndpoint, HostEcho, RawEchoes
from .errors import apply, listen_for_errors
from .files import HostDirectory
from .listen import IP_PKTINFO, HostListener, HostUdpListener, listen
from .service import HostProgram
from .socket_set import Watched, scope_index, sockaddr
from .tcp import HostAccepted, HostPackets, HostTcp
from .udp import HostUdp

EVENTS = 256
DESCRIPTORS = 65536  # the soft RLIMIT_NOFILE is raised to this, or to the hard limit
RESERVE = 64  # descriptors that the NAT leaves to the rest of the process (monitors, taps, files)
UDP_BUFFER = 1 << 20  # bytes; the kernel takes what net.core.rmem_max allows
CLAIMS = 4  # names that may mark one port, as tapnet/system/guard.py
RESOLV_CONF = "/etc/resolv.conf"
RESOLV_SIZE = 1 << 16
RESOLVERS = 8
SEARCHED = 32  # domains of a search line
SECOND = 1_000_000_000


class AsyncHost:
    """The host's network on ``loop``; ``now()`` is the NAT's clock in nanoseconds.

    ``after()`` is called when a batch of events has been served (the owner re-arms its timer there).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], int],
        after: Callable[[], None] = lambda: None,
        resolv_conf: str = RESOLV_CONF,
    ) -> None:
        self.now = now
        self._loop = loop
        self._after = after
        self._epoll = select.epoll()
        self._sockets: dict[int, Watched] = {}
        self._raw: dict[int, RawEchoes] = {}  # by family
        self._batch = 0
        limit = raise_descriptor_limit()
        self._last = limit - min(RESERVE, limit // 4)  # greatest descriptor that a socket may have
        self._resolv_conf = resolv_conf
        self._resolvers: list[Address] = []
        self._domains: list[str] = []
        self._resolv_stat: tuple[int, ...] | None = None
        self._resolv_checked: int | None = None
        self.programs = hostservice.Programs(loop)
        loop.add_reader(self._epoll.fileno(), self._serve)

    def close(self) -> None:
        """Close the epoll set; the sockets belong to their flows. Idempotent."""
        self.programs.close()
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def __len__(self) -> int:
        return len(self._sockets)

    # ---- sockets -------------------------------------------------------------------------------------------

    def tcp(self, remote: Address, events: TcpEvents, how: int = 64) -> HostTcp:
        """Start a connect. Raises OSError."""
        family = 6 if ":" in remote[0] else 4
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        sock = socket.socket(kind, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self.affords(sock.fileno())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            apply(sock, family, ~how & 0xFF, how & 0xFF)
            listen_for_errors(sock, family)
            error = sock.connect_ex(sockaddr(remote))
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
            found = HostTcp(self, sock, events, not error)
        except BaseException:
            self._sockets.pop(sock.fileno(), None)
            sock.close()
            raise
        if not error:
            listen_for_errors(sock, family, False)
            self._loop.call_soon(found.connected_at_once)
        return found

    def service(self, service: Service, events: TcpEvents, *, packets: bool = False) -> HostTcp:
        """Begin a connection to a service. Raises OSError."""
        if service.kind == "program":
            return hostservice.program(self, service, events, packets)
        if service.kind == "tcp" and self.forbidden((str(service.to[0]), int(service.to[1]))):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "a control port of a tapnet instance")
        sock, connected = hostservice.connect(service, packets)
        try:
            if sock.fileno() > self._last:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if service.kind == "tcp":
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made = HostPackets if sock.type == socket.SOCK_DGRAM else HostTcp
            found = made(self, sock, events, connected)
        except BaseException:
            self._sockets.pop(sock.fileno(), None)
            sock.close()
            raise
        if connected:
            self._loop.call_soon(found.connected_at_once)
        return found

    def program_socket(self, sock: socket.socket, events: TcpEvents) -> HostProgram:
        """Our end of a program's. Raises OSError: there is no descriptor to spare."""
        if sock.fileno() > self._last:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return HostProgram(self, sock, events)

    def udp(self, family: int, events: UdpEvents) -> HostUdp:
        """A bound socket of the family 4 or 6. Raises OSError."""
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
        try:
            self.affords(sock.fileno())
            if family == 4:
                sock.bind(("0.0.0.0", 0))
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(("::", 0))
            listen_for_errors(sock, family)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, UDP_BUFFER)
            return HostUdp(self, sock, family, events)
        except BaseException:
            self._sockets.pop(sock.fileno(), None)
            sock.close()
            raise

    def echo(self, family: int, ident: int, events: UdpEvents) -> EchoEndpoint:
        """Where echo requests leave. Raises OSError: the host permits none, or there is no descriptor."""
        try:
            return HostEcho(self, family, ident, events)
        except PermissionError:
            hub = self._raw.get(family)
            if hub is None:
                hub = self._raw[family] = RawEchoes(self, family, self._raw)
            return hub.endpoint(ident, events)

    def affords(self, fd: int) -> None:
        """Raises OSError(EMFILE) when a new descriptor belongs to the rest of the process."""
        if fd > self._last:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def listen(self, local: Address | str, events: ListenEvents) -> HostListener:
        """A listening TCP or UNIX socket. Raises OSError."""
        return listen(self, local, events)

    def listen_udp(self, local: Address, events: UdpEvents) -> HostUdpListener:
        """A UDP socket on a port that clients know. Raises OSError."""
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        six = ":" in local[0]
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind)
        try:
            listen_for_errors(sock, 6 if six else 4)
            if six:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, UDP_BUFFER)
            sock.bind(sockaddr(local))
            return HostUdpListener(self, sock, local, events)
        except BaseException:
            sock.close()
            raise

    def directory(self, path: str) -> HostDirectory:
        """A directory to serve files from. Raises OSError."""
        return HostDirectory(path, self.now, self._loop.call_soon_threadsafe, self._after)

    def adopt(self, sock: socket.socket, peer: Address, local: Address) -> HostAccepted:
        """A client that a listener accepted. Raises OSError: there is no descriptor to spare."""
        self.affords(sock.fileno())
        return HostAccepted(self, sock, peer, local)

    # ---- the epoll set -------------------------------------------------------------------------------------

    def enter(self, fd: int, sock: Watched) -> int:
        """A socket is born; answers the batch that it was born in."""
        self._sockets[fd] = sock
        return self._batch

    def leave(self, fd: int) -> None:
        """A socket is about to be closed, which takes it out of the set."""
        self._sockets.pop(fd, None)

    def register(self, fd: int, events: int) -> None:
        """Watch a new descriptor."""
        self._epoll.register(fd, events)

    def rewatch(self, fd: int, old: int, new: int) -> None:
        """Change what is watched; 0 is nothing, not even errors."""
        if not new:
            self._epoll.unregister(fd)
        elif old:
            self._epoll.modify(fd, new)
        else:
            self._epoll.register(fd, new)

    def served(self) -> None:
        """Something happened outside a batch."""
        self._after()

    def _serve(self) -> None:
        """The epoll set is readable."""
        events = self._epoll.poll(0, EVENTS)
        self._batch += 1
        batch = self._batch
        now = self.now()
        sockets = self._sockets
        for fd, mask in events:
            sock = sockets.get(fd)
            if sock is not None and sock.born != batch:  # else: a new socket got a closed one's number
                sock.event(mask, now)
        self._after()

    # ---- the host's own settings ---------------------------------------------------------------------------

    def own_names(self) -> tuple[str, Sequence[str]]:
        """By the kernel and resolv.conf."""
        label, _, domain = os.uname().nodename.partition(".")
        self.resolvers()
        return label, [*self._domains, *([domain] if domain else [])]

    def resolvers(self) -> Sequence[Address]:
        """Name servers of resolv.conf."""
        now = self.now()
        if self._resolv_checked is None or now - self._resolv_checked >= SECOND:
            self._resolv_checked = now
            try:
                stat = os.stat(self._resolv_conf)
                mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                if mark != self._resolv_stat:
                    with open(self._resolv_conf, encoding="utf-8", errors="replace") as file:
                        text = file.read(RESOLV_SIZE)
                    self._resolvers = parse_resolv_conf(text)
                    self._domains = parse_search(text)
                    self._resolv_stat = mark
            except OSError:
                if not self._resolvers:  # gone for a moment: keep what we knew
                    self._resolvers = parse_resolv_conf("")
        return self._resolvers

    def forbidden(self, remote: Address) -> bool:
        """Whether a control-plane listener of a tapnet instance is there."""
        return _claimed(remote[1]) and is_local(remote[0])


def raise_descriptor_limit(wanted: int = DESCRIPTORS) -> int:
    """Raise the soft limit of descriptors as far as that is allowed and sensible; the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (OSError, ValueError):
            pass
    return wanted if soft == resource.RLIM_INFINITY else soft


def parse_resolv_conf(text: str) -> list[Address]:
    """The ``nameserver`` lines, or the host itself. Lines that make no sense are skipped."""
    found: list[Address] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            ip_address(words[1])
        except ValueError:
            continue
        if (words[1], 53) not in found:
            found.append((words[1], 53))
    return found[:RESOLVERS] or [("127.0.0.1", 53)]


def parse_search(text: str) -> list[str]:
    """The domains of the last ``search`` or ``domain`` line."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] in ("search", "domain"):
            found = words[1 : 1 + SEARCHED]
    return found


def _claimed(port: int) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        for suffix in ("", *(f"/{number}" for number in range(1, CLAIMS))):
            if probe.connect_ex(f"\0tapnet/control/tcp/{port}{suffix}") == 0:
                return True
    return False


def is_local(text: str) -> bool:
    """Whether an address, in any spelling, is one of this host's own; unspecified addresses lead to it as
    well."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return True
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    scope = 0
    if "%" in text:
        try:
            scope = scope_index(text.partition("%")[2])
        except OSError:
            return False
    target = (str(address), 9) if family == socket.AF_INET else (str(address), 9, 0, scope)
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect(target)
            return ip_address(str(probe.getsockname()[0]).partition("%")[0]) == address
    except OSError:
        return False
