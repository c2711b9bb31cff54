"""Redirections: ports of the host that lead to guests (``hostfwd=``, ``-redir``).

Data flow, TCP and UNIX: a ``Listener`` of the host has a client -> the guest is found -> ``Tcp.open`` connects
to it -> from there on it is a flow like any other: half-closes and resets cross in both directions. UDP is in
``udp``.

Which guest: see ``guests``. Listener and guest need not be of the same family.

Who the guest sees: the client's own address and port, so that its logs and access rules mean something, where
the guest can answer it: that is an address of its family that the NAT itself would carry to. Otherwise ``host``
(10.0.2.2, fec0::2): clients on this host's loopback, on a UNIX socket, of the other family, with an address of the
guest's own net, and all of them where guests
have no route to anything else (``restrict``). A port that is taken is replaced.

A guest that is not there yet: the client waits. Every ``POLL`` the guest is looked for (ARP asks for it), and
a SYN goes out every two seconds once it was found; after ``tcp.states.OPEN_WAIT`` in all, client and guest are
reset. A client that leaves while it waits is forgotten at the next ``POLL``, so that no dead connections greet a
guest that comes up. A guest that refuses resets the client.

FTP servers on guest port 21 get help with passive mode, see ``ftp``.

Limits: ``PORTS`` listening sockets, ``WAITING`` clients that wait, three quarters of TCP's flows in all (the
rest is for guests' own connections). Beyond, clients are reset, counted. When the host has no descriptor to spare
a listener rests for ``REST``.

Ref: RFC 9293 3.5; RFC 5382 REQ-1; libslirp's hostfwd (the guest sees the client's address).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from ..config import Config
from ..contracts.host import AcceptedTcp, Address, Host, Listener, descriptor
from ..ip.family import Families
from ..tcp.flow import Flow
from ..tcp.nat import Tcp
from ..tcp.states import OPEN_WAIT, SYN_SENT
from ..udp.nat import Udp
from ..wire.ipv4 import PROTO_TCP, U16, ip_text
from . import ftp_server as ftp
from .ftp_server import Control
from .guests import Guest, Guests
from .udp import UdpPort

SECOND = 1_000_000_000
PORTS = 1024
WAITING = 512
POLL = SECOND // 4
REST = SECOND // 10
BATCH = 64  # clients accepted for one event
PORT_TRIES = 64
PORT_FIRST, PORT_LAST = 1024, 65535


@dataclass(frozen=True, slots=True)
class Rule:
    """One redirection. ``count`` ports in a row; ``text`` is what it is called in messages."""

    protocol: str  # tcp, udp, unix
    listen: Address | str  # address and port, or a path ("\\0name": abstract)
    guest: Guest
    guest_port: int
    count: int = 1
    text: str = ""

    @property
    def prefer(self) -> int:
        """The family that a guest is looked for in first."""
        return 6 if not isinstance(self.listen, str) and ":" in self.listen[0] else 4


class ForwardError(ValueError):
    """A redirection that cannot be: one line with the reason."""


def refuse_nobodys(config: Config, address: bytes) -> None:
    """Raise ForwardError for an address of a net that no host of it can have."""
    if address == config.network.broadcast_address.packed:
        raise ForwardError(f"{ip_text(address)} is the broadcast address")
    v6 = config.v6
    if address == (v6 if v6 is not None and len(address) == 16 else config).network.network_address.packed:
        raise ForwardError(f"{ip_text(address)} is the net's own address")


class Network(Protocol):
    """What redirections ask of the stack."""

    now: int

    def seen_as(self, address: str) -> bytes | None:
        """How guests see a host address; None: not at all."""

    def count(self, reason: str) -> None:
        """Count an event."""


class TcpPort:
    """One listening stream socket (``slirp.contracts.host.ListenEvents``)."""

    __slots__ = ("forwards", "guest_port", "listener", "rests", "rule")

    def __init__(self, forwards: Forwards, rule: Rule, listen: Address | str, guest_port: int) -> None:
        self.forwards = forwards
        self.rule = rule
        self.guest_port = guest_port
        self.rests = 0  # until then, in ns; 0: it listens
        self.listener: Listener = forwards.host.listen(listen, self)

    @property
    def address(self) -> Address:
        """As bound."""
        return self.listener.address

    @property
    def socket(self) -> object:
        """For ``info usernet``."""
        return self.listener

    def host_acceptable(self, now: int) -> None:
        """Clients wait to be accepted."""
        forwards = self.forwards
        forwards.network.now = now
        for _ in range(BATCH):
            try:
                client = self.listener.accept()
            except OSError:  # no descriptor: the event would come again at once
                forwards.rest(self, now)
                return
            if client is None:
                return
            forwards.connect(self, client, now)

    def close(self) -> None:
        """Listen no more."""
        self.listener.close()


class DataPort(TcpPort):
    """A port for one data connection of FTP, from one client (``ftp.Expecting``)."""

    __slots__ = ("closed", "deadline", "peer")

    def __init__(self, forwards: Forwards, control: Control, guest_port: int, deadline: int) -> None:
        local = (control.local[0], 0)
        super().__init__(forwards, Rule("tcp", local, control.guest, guest_port), local, guest_port)
        self.peer = control.peer[0]
        self.deadline = deadline
        self.closed = False

    def host_acceptable(self, now: int) -> None:
        """Somebody comes: the client is let through, another is refused."""
        forwards = self.forwards
        forwards.network.now = now
        for _ in range(BATCH):
            try:
                client = self.listener.accept()
            except OSError:
                forwards.rest(self, now)
                return
            if client is None:
                return
            if client.peer[0] == self.peer:
                self.close()
                forwards.connect(self, client, now)
                return
            forwards.network.count("ftp_stranger")
            client.close(reset=True)

    def close(self) -> None:
        """Wait no more."""
        self.closed = True
        self.forwards.unexpect(self)
        super().close()


class Client:
    """A client that waits for its guest."""

    __slots__ = ("deadline", "flow", "port", "sock")

    def __init__(self, port: TcpPort, sock: AcceptedTcp | Control, deadline: int) -> None:
        self.port = port
        self.sock = sock
        self.deadline = deadline
        self.flow: Flow | None = None  # the SYN is out


class Forward:
    """A rule in force."""

    def __init__(self, number: int, rule: Rule) -> None:
        self.number = number
        self.rule = rule
        self.ports: list[TcpPort | UdpPort] = []


class Forwards:
    """The redirections of one stack."""

    def __init__(
        self,
        config: Config,
        network: Network,
        host: Host,
        families: Families,
        guests: Guests,
        tcp: Tcp,
        udp: Udp,
        rng: Random,
    ) -> None:
        self.host = host
        self.network = network
        self.rules: dict[int, Forward] = {}
        self._config = config
        self.families = families
        self.guests = guests
        self._tcp = tcp
        self.udp = udp
        self._rng = rng
        self._waiting: list[Client] = []
        self._resting: list[TcpPort] = []
        self._data: list[DataPort] = []  # that wait for an FTP client
        self._poll: int | None = None
        self._expiry: int | None = None  # of UDP clients
        self._last = 0

    # ---- rules ---------------------------------------------------------------------------------------------

    def reconfigure(self, config: Config) -> None:
        """For clients that come from now on."""
        self._config = config

    def add(self, rule: Rule) -> Forward:
        """Listen. Raises ForwardError; then nothing of the rule is left."""
        if sum(len(forward.ports) for forward in self.rules.values()) + rule.count > PORTS:
            raise ForwardError(f"more than {PORTS} redirected ports")
        guest = rule.guest
        if isinstance(guest, bytes) and len(guest) != 6:
            if guest in self.families.of(guest).neighbours.own:
                raise ForwardError(f"{ip_text(guest)} is an address of the NAT's own, and no guest's")
            refuse_nobodys(self._config, guest)
        forward = Forward(self._last + 1, rule)
        try:
            for offset in range(rule.count):
                self._listen(forward, offset)
        except ForwardError:
            self._end(forward)
            raise
        self._last += 1
        self.rules[forward.number] = forward
        return forward

    def _listen(self, forward: Forward, offset: int) -> None:
        rule = forward.rule
        guest_port = rule.guest_port + offset
        listen = rule.listen
        if isinstance(listen, str):
            where = listen
        else:
            where = f"[{listen[0]}]" if ":" in listen[0] else listen[0]
            where += f":{listen[1] + offset}"
        try:
            if isinstance(listen, str):
                forward.ports.append(TcpPort(self, rule, listen, guest_port))
            elif rule.protocol == "tcp":
                forward.ports.append(TcpPort(self, rule, (listen[0], listen[1] + offset), guest_port))
            else:
                forward.ports.append(
                    UdpPort(self, rule.guest, (listen[0], listen[1] + offset), guest_port, rule.prefer)
                )
        except OSError as error:
            reason = error.strerror or str(error)
            raise ForwardError(f"cannot listen on {where.replace(chr(0), '@')}: {reason}") from None

    def remove(self, number: int) -> bool:
        """Listen no more; connections that exist go on. False: there is no such rule."""
        forward = self.rules.pop(number, None)
        if forward is None:
            return False
        self._end(forward)
        return True

    def _end(self, forward: Forward) -> None:
        for port in forward.ports:
            port.close()
        self._resting = [port for port in self._resting if port not in forward.ports]
        for client in [c for c in self._waiting if c.port in forward.ports]:
            self._refuse(client, "forward_removed")

    # ---- guests --------------------------------------------------------------------------------------------

    def seen(self, client: Address, guest: bytes) -> bytes:
        """The address by which ``guest`` sees a client."""
        host = self.families.gateway(guest)
        if not client[0] or not self._config.routed:
            return host
        seen = self.network.seen_as(client[0])
        return seen if seen is not None and len(seen) == len(guest) else host

    def free_port(self, wanted: int, taken: Any) -> int | None:
        """``wanted``, or another port that ``taken(port)`` denies; None: there is none."""
        if wanted and not taken(wanted):
            return wanted
        for _ in range(PORT_TRIES):
            port = self._rng.randrange(PORT_FIRST, PORT_LAST + 1)
            if not taken(port):
                return port
        return None

    # ---- TCP clients ---------------------------------------------------------------------------------------

    def connect(self, port: TcpPort, sock: AcceptedTcp, now: int) -> None:
        """A client was accepted."""
        helped = self._config.ftp != "off" and port.guest_port == ftp.PORT and sock.peer[0]
        client = Client(port, Control(self, sock) if helped else sock, now + OPEN_WAIT)
        tcp = self._tcp
        if len(tcp) + len(self._waiting) >= tcp.limits.flows * 3 // 4:
            self._refuse(client, "forward_flows_full")
            return
        if len(self._waiting) >= WAITING:
            self._forget_settled()
            if len(self._waiting) >= WAITING:
                self._refuse(client, "forward_waiting_full")
                return
        self.network.count("forward_accepted")
        guest = self.guests.find(port.rule.guest, now, port.rule.prefer)
        if guest is None or self._open(client, guest, now):
            self._waiting.append(client)
            if self._poll is None:
                self._poll = now + POLL

    def _open(self, client: Client, guest: bytes, now: int) -> bool:
        """Connect to the guest. False: there was no room, the client is reset."""
        tcp = self._tcp
        src = self.seen(client.sock.peer, guest)
        head, middle = guest + src, U16.pack(client.port.guest_port)
        sport = self.free_port(client.sock.peer[1], lambda p: head + middle + U16.pack(p) in tcp)
        flow = None
        if sport is not None:
            path = self.families.of(guest).path_to(guest, src, PROTO_TCP)
            flow = tcp.open(
                client.sock, path, head + middle + U16.pack(sport), now, max(client.deadline - now, 0)
            )
        if flow is None:
            self._refuse(client, "forward_flows_full")
            return False
        if isinstance(client.sock, Control):
            client.sock.guest = guest
        client.sock.attach(flow)
        client.flow = flow
        return True

    def _refuse(self, client: Client, reason: str) -> None:
        self.network.count(reason)
        if client in self._waiting:
            self._waiting.remove(client)
        if client.flow is not None and client.flow.state == SYN_SENT:
            client.flow.abort(True)
        elif client.flow is None:
            client.sock.close(reset=True)

    def _forget_settled(self) -> None:
        self._waiting = [c for c in self._waiting if c.flow is None or c.flow.state == SYN_SENT]

    # ---- FTP -----------------------------------------------------------------------------------------------

    def expect(self, control: Control, port: int) -> DataPort | None:
        """A port for a data connection to the control connection's guest; None: there is no room."""
        now = self.network.now
        if len(self._data) >= ftp.EXPECTED:
            self.network.count("ftp_full")
            return None
        try:
            found = DataPort(self, control, port, now + ftp.EXPECT)
        except OSError:
            self.network.count("ftp_no_port")
            return None
        self._data.append(found)
        self.hasten(found.deadline)
        return found

    def unexpect(self, port: DataPort) -> None:
        """The port is closed."""
        if port in self._data:
            self._data.remove(port)
        if port in self._resting:
            self._resting.remove(port)

    def rest(self, port: TcpPort, now: int) -> None:
        """The host has no descriptor to spare: accept nothing for a moment."""
        self.network.count("forward_no_descriptor")
        port.listener.watch(False)
        port.rests = now + REST
        self._resting.append(port)

    # ---- time ----------------------------------------------------------------------------------------------

    def hasten(self, deadline: int) -> None:
        """A UDP client may expire at ``deadline``."""
        if self._expiry is None or deadline < self._expiry:
            self._expiry = deadline

    def next_deadline(self) -> int | None:
        """When ``run`` has something to do."""
        found = self._poll
        for port in self._resting:
            if found is None or port.rests < found:
                found = port.rests
        if self._expiry is not None and (found is None or self._expiry < found):
            found = self._expiry
        return found

    def run(self, now: int) -> None:
        """Look for guests and for clients that left."""
        if self._poll is not None and self._poll <= now:
            self._forget_settled()
            for client in list(self._waiting):
                self._look(client, now)
            self._poll = now + POLL if self._waiting else None
        for port in [port for port in self._resting if port.rests <= now]:
            self._resting.remove(port)
            port.listener.watch(True)
        if self._expiry is not None and self._expiry <= now:
            ports = [port for forward in self.rules.values() for port in forward.ports]
            due = [port.expire(now) for port in ports if isinstance(port, UdpPort)]
            for expected in [port for port in self._data if port.deadline <= now]:
                self.network.count("ftp_expired")
                expected.close()
            due += [port.deadline for port in self._data]
            self._expiry = min((at for at in due if at is not None), default=None)

    def _look(self, client: Client, now: int) -> None:
        if client.sock.gone():
            self._refuse(client, "forward_client_left")
        elif client.flow is None:
            if now >= client.deadline:
                self._refuse(client, "forward_timed_out")
                return
            guest = self.guests.find(client.port.rule.guest, now, client.port.rule.prefer)
            if guest is not None:
                self._open(client, guest, now)

    def close(self) -> None:
        """Listen no more, reset who waits."""
        for number in list(self.rules):
            self.remove(number)
        for port in list(self._data):
            port.close()

    # ---- reports -------------------------------------------------------------------------------------------

    def flows(self, now: int) -> list[dict[str, Any]]:
        """Rows of ``info usernet``, newest rule first; ``rule`` is its number."""
        rows = []
        for forward in reversed(self.rules.values()):
            for port in forward.ports:
                rows.append(
                    {
                        "protocol": "UDP" if forward.rule.protocol == "udp" else "TCP",
                        "state": "HOST_FORWARD",
                        "fd": descriptor(port.socket),
                        "src": port.address[0].replace("\0", "@"),
                        "src_port": port.address[1],
                        "dst": self.guests.named(forward.rule.guest, now),
                        "dst_port": port.guest_port,
                        "recvq": 0,
                        "sendq": 0,
                        "idle": 0.0,
                        "rule": forward.number,
                    }
                )
        return rows
