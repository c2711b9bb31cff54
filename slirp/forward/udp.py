"""UDP redirections: datagrams from clients of the host to a guest's port, and its answers back.

Each client (its address, and the address of ours that it chose) is a flow. The guest sees it as ``seen`` by
``forward`` says, at its own port or, where that is taken, at another; an answer to there goes back by the listening
socket, from the address that the client had written to.

The guest's port has one ``udp.Flow`` as any port of a guest has. Its socket becomes a ``Fan``: what goes to a
client leaves by the listener, all else by an ordinary socket, which is opened when it is needed first. So a server
in the guest that is redirected to still speaks to the rest of the world as before.

Limits: ``CLIENTS`` of one port, the longest idle goes first. A client idle for ``IDLE`` is forgotten; all clients
of a guest's port go when the guest answers with ICMP port unreachable. The guest of a rule that names none by
address is looked up again after ``LOOK``.

Ref: RFC 768; RFC 4787 REQ-5 (mapping timer).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from ..contracts.host import Address, Host, IcmpError, UdpListener, UdpSocket
from ..ip.family import Families
from ..udp.flow import IDLE, Flow
from ..udp.nat import Udp
from ..wire.icmp_map import translated
from ..wire.ipv4 import U16
from .guests import Guest, Guests

SECOND = 1_000_000_000
CLIENTS = 1024
LOOK = SECOND
BATCH = 64
SWEEP = SECOND


class Forwards(Protocol):
    """What a port asks of ``forward.Forwards``."""

    @property
    def host(self) -> Host:
        """The host."""

    @property
    def network(self) -> Any:
        """The stack."""

    @property
    def udp(self) -> Udp:
        """UDP of the stack."""

    @property
    def families(self) -> Families:
        """The IP families of the stack."""

    @property
    def guests(self) -> Guests:
        """Where guests are."""

    def seen(self, client: Address, guest: bytes) -> bytes:
        """The address by which a guest sees a client."""

    def hasten(self, deadline: int) -> None:
        """A client may expire then."""

    def free_port(self, wanted: int, taken: Callable[[int], bool]) -> int | None:
        """``wanted``, or another port that is not taken."""


class Client(tuple[str, int]):
    """One client, and the destination of what the guest sends to it."""

    fan: Fan
    last: int
    local: str
    port: UdpPort
    remote: Address
    sport: int
    src: bytes


class Fan:
    """The socket of a guest's port that is redirected to (``slirp.contracts.host.UdpSocket``)."""

    __slots__ = ("_asked", "_host", "_plain", "clients", "flow")

    def __init__(self, host: Host, flow: Flow) -> None:
        self._host = host
        self._plain: UdpSocket | None = flow.socket
        self._asked: UdpListener | UdpSocket | None = None  # what the last datagram left by
        self.flow = flow
        self.clients: dict[bytes, Client] = {}  # by the address and port that the guest sees
        flow.remotes = Remotes(self.clients, flow.remotes)
        flow.socket = self

    def fileno(self) -> int:
        """Of the ordinary socket; -1: there is none."""
        fileno = getattr(self._plain, "fileno", None)
        return int(fileno()) if fileno is not None else -1

    def _ordinary(self) -> UdpSocket | OSError:
        if self._plain is None:
            try:
                self._plain = self._host.udp(self.flow.family.family, self.flow)
            except OSError as error:
                return error
        return self._plain

    def sendto(self, data: bytes | memoryview, remote: Address, how: int = 64) -> int:
        """To a client, or to anybody else."""
        if isinstance(remote, Client):
            self._asked = remote.port.socket
            return remote.port.answer(remote, data, how)
        sock = self._ordinary()
        if isinstance(sock, OSError):
            return sock.errno or 1
        self._asked = sock
        return sock.sendto(data, remote, how)

    def sendmany(self, data: bytes, size: int, remote: Address, how: int = 64) -> int:
        """The same, several datagrams."""
        if isinstance(remote, Client):
            self._asked = remote.port.socket
            error = 0
            for at in range(0, len(data), size):
                error = remote.port.answer(remote, data[at : at + size], how) or error
            return error
        sock = self._ordinary()
        if isinstance(sock, OSError):
            return sock.errno or 1
        self._asked = sock
        return sock.sendmany(data, size, remote, how)

    def recv(self) -> tuple[bytes, Address] | None:
        """From the ordinary socket."""
        return self._plain.recv() if self._plain is not None else None

    def refuse(self, remote: Address) -> bool:
        """Tell a client, or anybody else, that the guest's port is closed."""
        if isinstance(remote, Client):
            return remote.port.socket.refuse(remote.remote, remote.local)
        return self._plain is not None and self._plain.refuse(remote)

    def mtu(self) -> int:
        """Of whichever refused."""
        return self._asked.mtu() if self._asked is not None else 0

    def error(self) -> IcmpError | None:
        """Of the ordinary socket."""
        return self._plain.error() if self._plain is not None else None

    def close(self) -> None:
        """The flow is over, and with it all clients."""
        if self._plain is not None:
            self._plain.close()
            self._plain = None
        for client in list(self.clients.values()):
            client.port.forget(client)


class Remotes(dict[bytes, Address | None]):
    """A flow's destinations, with clients before all else: they are never forgotten for want of room."""

    def __init__(self, clients: dict[bytes, Client], known: dict[bytes, Address | None]) -> None:
        super().__init__(known)
        self._clients = clients

    def __missing__(self, remote: bytes) -> Address | None:
        return self._clients[remote]


class UdpPort:
    """One UDP socket of the host that leads to a guest (``slirp.contracts.host.UdpEvents``)."""

    def __init__(
        self, forwards: Forwards, guest: Guest, listen: Address, guest_port: int, prefer: int = 4
    ) -> None:
        self.forwards = forwards
        self.guest_port = guest_port
        self._guest = guest
        self._prefer = prefer
        self._fixed = isinstance(guest, bytes) and len(guest) != 6
        self._where: bytes | None = None
        self._looked = 0
        self._clients: OrderedDict[tuple[Address, str], Client] = OrderedDict()  # longest idle first
        self.socket: UdpListener = forwards.host.listen_udp(listen, self)

    @property
    def address(self) -> Address:
        """As bound."""
        return self.socket.address

    def __len__(self) -> int:
        return len(self._clients)

    # ---- clients to the guest ------------------------------------------------------------------------------

    def host_readable(self, now: int) -> None:
        """Datagrams, or errors about answers."""
        forwards = self.forwards
        network = forwards.network
        network.now = now
        for _ in range(BATCH):
            item = self.socket.recv()
            if item is None:
                break
            payload, remote, local = item
            key = (remote, local)
            client = self._clients.get(key)
            if client is None or (self._guest is not None and not self._fixed) or now - client.last > LOOK:
                client = self._find(key, now)
            if client is None:
                network.count("forward_no_guest")
                continue
            self._clients.move_to_end(key)
            client.last = now
            flow = client.fan.flow
            flow.last = now
            flow.idle = IDLE
            flow.received += 1
            forwards.udp.touch(flow)
            if not flow.family.datagram(flow.neighbour, client.src, client.sport, self.guest_port, payload):
                network.count("udp_to_guest_dropped")
        error = self.socket.error()
        while error is not None:
            self._error(error)
            error = self.socket.error()

    def _find(self, key: tuple[Address, str], now: int) -> Client | None:
        """The client of a datagram, with the guest where it is now."""
        if self._where is None or now - self._looked > LOOK:
            self._looked = now
            self._where = self.forwards.guests.likely(self._guest, now, self._prefer)
        guest = self._where
        client = self._clients.get(key)
        if client is not None:
            if guest is None or client.fan.flow.neighbour.address == guest:
                return client
            self.forget(client)  # the guest has moved
        if guest is None:
            return None
        return self._new(key, guest, now)

    def _new(self, key: tuple[Address, str], guest: bytes, now: int) -> Client | None:
        forwards = self.forwards
        remote, local = key
        flow = forwards.udp.redirected(forwards.families.of(guest), guest, self.guest_port, now)
        fan = flow.socket if isinstance(flow.socket, Fan) else Fan(forwards.host, flow)
        src = forwards.seen(remote, guest)
        sport = forwards.free_port(
            remote[1], lambda p: src + U16.pack(p) in fan.clients or src + U16.pack(p) in flow.remotes
        )
        if sport is None:
            return None
        if len(self._clients) >= CLIENTS:
            forwards.network.count("forward_client_evicted")
            self.forget(next(iter(self._clients.values())))
        client = Client(remote)
        client.fan, client.local, client.port, client.remote = fan, local, self, remote
        client.src, client.sport, client.last = src, sport, now
        fan.clients[src + U16.pack(sport)] = client
        flow.remote = (src, sport)
        self._clients[key] = client
        forwards.hasten(now + IDLE)
        return client

    def _error(self, error: IcmpError) -> None:
        """A client's host complained about an answer: tell the guest."""
        forwards = self.forwards
        client = next((c for c in reversed(self._clients.values()) if c.remote == error.remote), None)
        if client is None:
            forwards.network.count("udp_error_dropped")
            return
        source = client.src
        family = client.fan.flow.family
        if error.offender is not None and error.offender != error.remote[0]:
            seen = forwards.network.seen_as(error.offender)
            source = seen if seen is not None and len(seen) == len(source) else family.gateway
        kind, code = error.type, error.code
        if family.family != (6 if ":" in error.remote[0] else 4):
            kind, code = translated(family.family, kind, code)
        forwards.network.count("udp_errors")
        family.relayed_error(
            client.fan.flow.neighbour,
            source,
            kind,
            code,
            error.info,
            client.src,
            self.guest_port,
            client.sport,
            error.payload,
        )

    # ---- the guest to clients ------------------------------------------------------------------------------

    def answer(self, client: Client, data: bytes | memoryview, how: int) -> int:
        """A datagram from the guest: 0, or errno."""
        client.last = self.forwards.network.now
        key = (client.remote, client.local)
        if key in self._clients:
            self._clients.move_to_end(key)
        return self.socket.sendto(data, client.remote, client.local, how)

    # ---- life ----------------------------------------------------------------------------------------------

    def forget(self, client: Client) -> None:
        """The client is over. Idempotent."""
        self._clients.pop((client.remote, client.local), None)
        client.fan.clients.pop(client.src + U16.pack(client.sport), None)

    def expire(self, now: int) -> int | None:
        """Forget idle clients; when to call again, None: there are none."""
        while self._clients:
            client = next(iter(self._clients.values()))
            if client.last + IDLE > now:
                return max(client.last + IDLE, now + SWEEP)
            self.forwards.network.count("forward_client_expired")
            self.forget(client)
        return None

    def close(self) -> None:
        """Give the socket back; its clients are forgotten."""
        for client in list(self._clients.values()):
            self.forget(client)
        self.socket.close()
