"""The user-mode network: Ethernet frames of guests on one side, the host's sockets on the other. Sans-IO.

    VLAN --input(frame, vnet, now)--> ethernet --> arp
                                         |-> ipv4 --> services (dhcp, dns, tftp) | icmp | udp | tcp --> Host
                                         `-> side6: the same over IPv6, neighbour discovery, router, dhcpv6
    VLAN <--tx(frame, vnet)-- emit <-- ipv4, ipv6, neighbours <-- udp, tcp <-- events of the Host

It serves any number of guests on one VLAN. It hears frames for its own MACs (52:55 + address, 52:56 + the end of an IPv6 address) and group
addresses, and ignores what guests say to each other. It is the gateway (``host``) and the name server
(``dns``) of its net, and for TCP the ``slirp.contracts.link.Link``: where a destination leads, the way back to a
guest, ICMP.

Where a guest's destination leads (``targets``, ``udp_target``)
    host address    -> the host's 127.0.0.1, or ::1 (``hostloopback=off``: refused)
    dns address     -> port 53: the resolvers; all else is refused
    other           -> itself, by an ordinary socket; refused where a tapnet instance's control plane listens
    ping            -> as the rest, by the host's ping sockets (``icmp/echo.py``)
    ``permitted``   decides before: ``allow=``, ``deny=``, ``restrict`` (``rules.py``). What it refuses: TCP is reset, UDP and
                    echo get ICMP "prohibited"; DHCP, TFTP, ARP and ping of our own go on

Back-pressure: ``tx`` may answer False; frames that nobody would send again wait in a queue of
``QUEUE_FRAMES`` (more are dropped, counted) and TCP is told by ``tx_ready``.
Time: ``now`` (nanoseconds) comes in, ``next_deadline()`` says when ``tick`` is due.
What guests do wrong is counted in ``counters`` by reason and never raised.

Ref: RFC 1122; RFC 1812; RFC 5382, RFC 4787 (NAT behaviour).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from .config import Config, changes_live
from .contracts.host import Address, Host, IcmpError, descriptor
from .contracts.link import BLOCKED, Path, Target
from .contracts.stack import Service, Timed
from .forward.ftp_client import GuestControl
from .forward.ftp_server import PORT as FTP_PORT
from .forward.guestfwd import GuestForwards
from .forward.guests import Guests
from .forward.tcp import Forwards
from .icmp.echo import Echoes
from .icmp.icmpv4 import Icmp
from .ip.arp import Arp
from .ip.family import Families, Family
from .ip.ipv4 import TTL, Ipv4
from .rules import Rules
from .services.dhcp import Dhcp
from .services.dns import Dns
from .services.dns_tcp import DnsStream
from .services.names import Names
from .services.tftp import PORT as TFTP_PORT
from .services.tftp import Tftp
from .side6 import LOOPBACK as LOOPBACK6
from .side6 import Side6
from .tcp.buffers import Buffers
from .tcp.nat import Tcp
from .udp.nat import Udp
from .udp.train import Train
from .wire import ipv6 as wire6
from .wire.ipv4 import (
    ETH_LEN,
    IP,
    NO_MAC,
    PORTS,
    PROHIBITED,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_IGMP,
    PROTO_TCP,
    PROTO_UDP,
    PROTOCOL,
    TYPE_ARP,
    TYPE_IPV4,
    TYPE_IPV6,
    UDP_LEN,
    UNREACHABLE,
    VNET_DATA_VALID,
    VNET_NEEDS_CSUM,
    canonical,
    ip_bytes,
    ip_text,
    own_mac,
)
from .wire.ipv6 import ETH_IPV6_LEN, IP6_DST, is_martian6

QUEUE_FRAMES = 256
LOOPBACK = "127.0.0.1"
DNS_PORT = 53
DHCP_PORT = 67
TCP_PORTS = 4
_OFF = {TYPE_IPV4: "ipv4_ignored", TYPE_ARP: "ipv4_ignored", TYPE_IPV6: "ipv6_ignored"}


class Stack:
    """One user-mode network. ``tx(frame, vnet)`` puts a frame on the VLAN, False: full, ``tx_ready``
    follows."""

    def __init__(
        self, config: Config, host: Host, tx: Callable[[bytes, bytes], bool], rng: Random, now: int
    ) -> None:
        self.config = config
        self.host = host
        self.now = now
        self.features = 0
        self.counters: dict[str, int] = {}
        self.notice: Callable[[str], None] = lambda text: None  # what the owner should know, each text once
        self._tx = self._plain_tx = tx
        self._heard: Callable[[str], None] | None = None  # of what is counted, while somebody traces
        self._train: Train | None = None
        self._queue: deque[tuple[bytes, bytes]] = deque()
        own = config.own
        reserved = frozenset((config.network.network_address.packed, config.network.broadcast_address.packed))
        self._own = frozenset(own)
        self._v4 = config.ipv4
        self._names = frozenset((config.dns_ip,) if config.v6 is None else (config.dns_ip, config.v6.dns_ip))
        self._macs = frozenset(own_mac(address) for address in own if config.ipv4)
        self.rules = Rules(config.rules, config.restrict)
        self.arp = Arp(own, self._inside, reserved, self.emit, self.count, now)
        self.ipv4 = Ipv4(config, self, self.arp, rng, self._local, self._remote)
        self.udp = Udp(self, host, now)
        self.echoes = Echoes(self, host)
        self.icmp = Icmp(self, self.ipv4, own, self.echoes, self.guest_error)
        self.tcp = Tcp(self, host, rng, buffers=Buffers(config.buffers))
        self.dhcp = Dhcp(config, self, self.ipv4, self.arp)
        self.families = Families(self.ipv4)
        self.dns = Dns(self, host, self.families, self.resolvers)
        self.services: dict[tuple[bytes, int], Service] = {}
        self.side6: Side6 | None = None
        self.guests = Guests(config, self.families, self.dhcp.leases)
        if config.v6 is not None:
            side6 = self.side6 = Side6(self, config.v6, config.mtu, self.udp, rng, now)
            self._macs |= side6.macs
            self.families.v6 = side6.ip
            self.guests = Guests(
                config, self.families, self.dhcp.leases, side6.dhcp.leases, lambda: side6.ndp.wanted
            )
        self._memories = [self.dhcp.leases] + ([self.side6.dhcp.leases] if self.side6 is not None else [])
        self.names = self.dns.names = Names(config, self._memories, self._in_net, host.own_names)
        self.forwards = Forwards(config, self, host, self.families, self.guests, self.tcp, self.udp, rng)
        self.services[config.dns_ip, DNS_PORT] = self.dns
        self.guest_forwards = GuestForwards(self, host, self.families)
        self.tftp: Tftp | None = None
        self._timed: list[Timed] = [
            self.ipv4,
            self.udp,
            self.tcp,
            self.dhcp,
            self.dns,
            self.forwards,
            self.echoes,
            self.guest_forwards,
        ]
        self._told: set[str] = set()
        if config.tftp is not None:
            self.tftp = Tftp(config, self, self.families, host.directory(config.tftp), rng)
            self.services[config.host_ip, TFTP_PORT] = self.tftp
            self._timed.append(self.tftp)
        if self.side6 is not None and config.v6 is not None:
            self._timed += self.side6.parts
            self.services[config.v6.dns_ip, DNS_PORT] = self.dns
            if self.tftp is not None:
                self.services[config.v6.host_ip, TFTP_PORT] = self.tftp
        if config.dhcp:
            broadcast = config.network.broadcast_address.packed
            for address in (config.host_ip, b"\xff\xff\xff\xff", broadcast):
                self.services[address, DHCP_PORT] = self.dhcp

    def adopt(self, address: bytes) -> None:
        """An address of the net is ours from now on: it answers ARP (neighbour discovery) and ping."""
        side6 = self.side6
        if address in self._own or (side6 is not None and address in side6.config.own):
            return
        self._own |= {address}
        if len(address) == 4:
            self._macs |= {own_mac(address)}
            for part in (self.arp, self.ipv4, self.icmp):
                part.adopt(address)
        elif side6 is not None:
            self._macs |= {side6.adopt(address)}

    def abandon(self, address: bytes) -> None:
        """It is ours no more, unless it was from the beginning."""
        side6 = self.side6
        if address not in self._own or address in self.config.own:
            return
        self._own -= {address}
        if len(address) == 4:
            self._macs -= {own_mac(address)}
            for part in (self.arp, self.ipv4, self.icmp):
                part.abandon(address)
        elif side6 is not None:
            mac = side6.abandon(address)
            if mac not in side6.macs:
                self._macs -= {mac}

    def guest_error(self, guest: bytes, port: int, remote: bytes, rport: int, kind: int, code: int) -> None:
        """A guest's complaint about a datagram."""
        if not self.guest_forwards.guest_error(guest, port, remote, rport):
            self.udp.guest_error(guest, port, remote, rport, kind, code)

    def _in_net(self, address: bytes) -> bool:
        try:
            return self.families.of(address).inside(address)
        except LookupError:
            return False

    def _inside(self, address: bytes) -> bool:
        return self.ipv4.inside(address)

    # ---- frames in -----------------------------------------------------------------------------------------

    def input(self, frame: bytes, vnet: bytes, now: int) -> None:
        """A frame from the VLAN; ``vnet`` as in ``tapnet.vlan.port``."""
        self.now = now
        train = self._train
        if train is not None and train.open:
            if train.extend(frame, vnet):
                return
            train.end()
        if len(frame) < ETH_LEN:
            self.count("eth_malformed")
            return
        if frame[:6] not in self._macs and not frame[0] & 1:
            self.count("eth_not_ours")
            return
        kind = frame[12:14]
        if kind == TYPE_IPV4 and self._v4:
            self.ipv4.input(frame, vnet, now)
        elif kind == TYPE_IPV6 and self.side6 is not None:
            self.side6.input(frame, vnet, now)
        elif kind == TYPE_ARP and self._v4:
            self.arp.input(frame, now)
        else:
            self.count(_OFF.get(kind, "eth_ignored"))

    def gather(self) -> None:
        """Let datagrams and bytes in a row leave together, and acknowledge them at once. The caller promises ``settle``
        after each batch of frames."""
        self.tcp.batch = 1
        self.udp.train = self._train = Train(self.udp)

    def settle(self) -> None:
        """The end of a batch of frames."""
        if self._train is not None:
            if self._train.open:
                self._train.end()
            self.tcp.settle(self.now)

    def _local(
        self,
        frame: bytes,
        vnet: bytes,
        off: int,
        end: int,
        protocol: int,
        ttl: int,
        src: bytes,
        dst: bytes,
        now: int,
    ) -> None:
        """For one of our addresses, or for everybody."""
        ours = dst in self._own
        if protocol == PROTO_UDP:
            end = self.udp.check(self.ipv4, frame, vnet, off, end)
            if not end:
                return
            sport, dport = PORTS.unpack_from(frame, off)
            service = self.services.get((dst, dport))
            if service is not None and self.serves(service, dst):
                service.input(frame, off + UDP_LEN, end, src, sport, dst, now)
            elif not ours or src == b"\0\0\0\0":
                self.count("broadcast_ignored")
            else:
                how = self.ipv4.how(frame, max(ttl - 1, 1))
                self.udp.input(self.ipv4, frame, vnet, off, end, how, src, dst, now)
        elif not ours or src == b"\0\0\0\0":
            self.count("igmp_ignored" if protocol == PROTO_IGMP else "broadcast_ignored")
        elif protocol == PROTO_TCP:
            self.to_tcp(frame, vnet, off, end, src, dst, now)
        elif protocol == PROTO_ICMP:
            checked = bool(vnet and vnet[0] & (VNET_NEEDS_CSUM | VNET_DATA_VALID))
            self.icmp.input(frame, off, end, ttl, src, dst, checked, now)
        else:
            self.count("protocol_unknown")
            self.ipv4.error(frame, UNREACHABLE, PROTOCOL)

    def _remote(
        self,
        frame: bytes,
        vnet: bytes,
        off: int,
        end: int,
        protocol: int,
        ttl: int,
        src: bytes,
        dst: bytes,
        now: int,
    ) -> None:
        """Hand a packet for the world outside to its protocol."""
        if protocol == PROTO_TCP:
            self.to_tcp(frame, vnet, off, end, src, dst, now)
        elif protocol == PROTO_UDP:
            end = self.udp.check(self.ipv4, frame, vnet, off, end)
            if end:
                self.udp.input(self.ipv4, frame, vnet, off, end, self.ipv4.how(frame, ttl - 1), src, dst, now)
        elif protocol == PROTO_ICMP:
            checked = bool(vnet and vnet[0] & (VNET_NEEDS_CSUM | VNET_DATA_VALID))
            self.icmp.input(frame, off, end, ttl, src, dst, checked, now)
        else:
            self.count("protocol_not_carried")
            self.ipv4.error(frame, UNREACHABLE, PROHIBITED)

    def to_tcp(self, frame: bytes, vnet: bytes, off: int, end: int, src: bytes, dst: bytes, now: int) -> None:
        if end - off < TCP_PORTS:
            self.count("tcp_malformed")
            return
        self.tcp.input(frame, vnet, off, end, src + dst + frame[off : off + TCP_PORTS], now)

    # ---- frames out ----------------------------------------------------------------------------------------

    def emit(self, frame: bytes, vnet: bytes) -> bool:
        """Send what nobody would send again: it waits, bounded, while the VLAN is full. False: dropped."""
        if frame.startswith(NO_MAC):
            self._resolve(frame, vnet)
            return True
        queue = self._queue
        if not queue and self._tx(frame, vnet):
            return True
        if len(queue) >= QUEUE_FRAMES:
            self.count("tx_dropped")
            return False
        queue.append((frame, vnet))
        return True

    def send(self, frame: bytes, vnet: bytes = b"") -> bool:
        """TCP's way out (``slirp.contracts.link.Link``). False: not taken, ``tcp.tx_ready`` follows."""
        if self._queue:
            return False
        if frame.startswith(NO_MAC):
            self._resolve(frame, vnet)
            return True
        return self._tx(frame, vnet)

    def _resolve(self, frame: bytes, vnet: bytes) -> None:
        if frame[12:14] == TYPE_IPV4:
            self.arp.hold(frame[30:34], frame, vnet, self.now)
        elif self.side6 is not None:
            self.side6.ndp.hold(frame[IP6_DST:ETH_IPV6_LEN], frame, vnet, self.now)
        else:
            self.count("tx_dropped")

    def tx_ready(self, now: int) -> None:
        """The VLAN, which had refused a frame, takes frames again."""
        self.now = now
        queue = self._queue
        while queue:
            frame, vnet = queue[0]
            if not self._tx(frame, vnet):
                return
            queue.popleft()
        self.tcp.tx_ready(now)

    # ---- the Link and Network that TCP and UDP see ---------------------------------------------------------

    def serves(self, service: Service, dst: bytes) -> bool:
        """Whether a service may be asked: where rules shut the name server, it still knows the administrator's records."""
        if service is not self.dns:
            return True
        self.dns.shut = not self.permitted(PROTO_UDP, dst, DNS_PORT)
        return not self.dns.shut or bool(self.config.records)

    def permitted(self, protocol: int, dst: bytes, port: int = 0) -> bool:
        """Whether the rules let a guest open a flow to ``dst``; counts those that they do not."""
        if self.rules.permits(protocol, dst, port):
            return True
        self.count("restricted")
        return False

    def targets(self, dst: bytes, port: int) -> list[Target]:
        """Where a guest's connection leads; [] refuses it."""
        services = self.guest_forwards.tcp(dst, port)
        if services:
            return [*services]
        if not self.permitted(PROTO_TCP, dst, port):
            return []
        found = self._targets(dst, port)
        if dst in self._names:
            return [DnsStream(self.host, address, self._own_name, self.dns.reached) for address in found]
        if port == FTP_PORT and self.config.ftp == "on":
            return [GuestControl(self.forwards, self.host, address) for address in found]
        return [*found]

    def _own_name(self, message: bytes) -> bytes | None:
        return self.names.answer(message, self.now)

    def _targets(self, dst: bytes, port: int) -> list[Address]:
        config = self.config
        if dst == config.host_ip:
            found = [(LOOPBACK, port)] if config.hostloopback else []
        elif config.v6 is not None and dst == config.v6.host_ip:
            found = [(LOOPBACK6, port)] if config.hostloopback else []
        elif dst == wire6.LINK_LOCAL:
            return []  # the router's other address: nothing but pings
        elif dst in self._names:
            return self.dns.order(self.now, tcp=True) if port == DNS_PORT else []
        elif dst in self._own:
            return []
        else:
            found = [(ip_text(dst), port)]
        allowed = [address for address in found if not self.host.forbidden(address)]
        if len(allowed) < len(found):
            self.count("control_plane_refused")
        return allowed

    def udp_target(self, dst: bytes, port: int) -> Address | None:
        """Host address for a guest's datagram; None refuses it."""
        if not self.permitted(PROTO_UDP, dst, port):
            return BLOCKED
        if not port or dst in self._names or (dst in self._own and dst != self.config.host_ip):
            return None
        found = self._targets(dst, port)
        return found[0] if found else None

    def echo_target(self, dst: bytes) -> Address | None:
        """Host address for a guest's echo request; None refuses it."""
        protocol = PROTO_ICMP if len(dst) == 4 else PROTO_ICMPV6
        return (ip_text(dst), 0) if self.permitted(protocol, dst) else BLOCKED

    def seen_as(self, address: str) -> bytes | None:
        """How guests see a host address: loopback is ``host``; None: not at all."""
        try:
            found = ip_bytes(canonical(address))
        except ValueError:
            return None
        if len(found) != 4:
            return self._seen_as_6(found)
        if found[0] == 127:
            return self.config.host_ip if self.config.hostloopback else None
        return None if self.ipv4.inside(found) or found[0] == 0 else found

    def _seen_as_6(self, address: bytes) -> bytes | None:
        v6 = self.config.v6
        if v6 is None or self.side6 is None:
            return None
        if address == wire6.LOOPBACK6:
            return v6.host_ip if self.config.hostloopback else None
        return None if self.side6.ip.inside(address) or is_martian6(address) else address

    def resolvers(self) -> list[Address]:
        """Return the name servers behind the ``dns`` address."""
        return list(self.config.resolver or self.host.resolvers())

    def path(self, frame: bytes, protocol: int) -> Path:
        """The way back to the sender of a guest's frame."""
        return self._family(frame).path(frame, protocol)

    def how(self, frame: bytes) -> int:
        """How what a guest's frame asks for is to leave the host; our own hop is taken off."""
        return self._family(frame).how(frame, max(frame[IP + (8 if frame[12:14] == TYPE_IPV4 else 7)] - 1, 1))

    def pseudo(self, frame: bytes, off: int, end: int, protocol: int) -> int:
        """Pseudo header sum of a guest's frame."""
        return self._family(frame).pseudo(frame, off, end, protocol)

    def _family(self, frame: bytes) -> Family:
        v6 = self.families.v6
        return self.families.v4 if v6 is None or frame[12:14] == TYPE_IPV4 else v6

    def unreachable(self, frame: bytes, code: int) -> None:
        """ICMP destination unreachable about a guest's frame."""
        self._family(frame).error(frame, UNREACHABLE, code)

    def complain(self, frame: bytes, error: IcmpError) -> None:
        """Tell a guest of an ICMP error that its frame led to, from who sent that."""
        source = self.seen_as(error.offender) if error.offender is not None else None
        ttl = max(error.ttl - 1, 1) if error.ttl else TTL
        self.count("icmp_errors_relayed")
        self._family(frame).error_from(frame, source, error.type, error.code, error.info, ttl)

    def tell(self, text: str) -> None:
        """Tell the owner a line, but each line only once."""
        if text not in self._told:
            self._told.add(text)
            self.notice(text)

    def count(self, reason: str) -> None:
        """Count an event by its class."""
        counters = self.counters
        counters[reason] = counters.get(reason, 0) + 1
        if self._heard is not None:
            self._heard(reason)

    def trace(self, heard: Callable[[str], None] | None, sent: Callable[[bytes], None] | None) -> None:
        """Tell of what is counted, and of frames that the VLAN has taken; None: no more."""
        self._heard = heard
        plain = self._plain_tx
        if sent is None:
            self._tx = plain
            return

        def tx(frame: bytes, vnet: bytes) -> bool:
            taken = plain(frame, vnet)
            if taken:
                sent(frame)
            return taken

        self._tx = tx

    def reconfigure(self, config: Config) -> bool:
        """Become a stack of ``config`` with all flows and leases. False: that cannot be (``changes_live``), nothing is done.

        Connections that exist go on; datagrams and pings of flows that exist are judged anew.
        """
        if not changes_live(self.config, config):
            return False
        self.config = config
        self.rules = Rules(config.rules, config.restrict)
        self.tcp.buffers.cap = config.buffers
        self.dhcp.reconfigure(config)
        self.names = self.dns.names = Names(config, self._memories, self._in_net, self.host.own_names)
        self.forwards.reconfigure(config)
        self.guests.reconfigure(config)
        self.udp.ask_again()
        self.echoes.ask_again()
        if self.tftp is not None:
            self.tftp.reconfigure(config)
        if self.side6 is not None:
            self.side6.reconfigure(config, self.now)
        return True

    # ---- time, life ----------------------------------------------------------------------------------------

    def set_features(self, features: int) -> None:
        """The TUN_F_* bits that the VLAN takes at present."""
        self.features = features

    def next_deadline(self) -> int | None:
        """When ``tick`` is due; None: never."""
        found = self.arp.next_deadline()
        for part in self._timed:
            deadline = part.next_deadline()
            if deadline is not None and deadline < found:
                found = deadline
        return found

    def tick(self, now: int) -> None:
        """Run the timers of all parts that are due."""
        self.now = now
        for part in (self.arp, *self._timed):
            deadline = part.next_deadline()
            if deadline is not None and deadline <= now:
                part.run(now)

    def announce(self) -> None:
        """Gratuitous ARP for our addresses, router advertisements (start, link up, swap)."""
        if self._v4:
            self.arp.announce()
        if self.side6 is not None:
            self.side6.announce(self.now)

    def close(self, now: int) -> None:
        """End all flows; guests' TCP connections are reset."""
        self.now = now
        self.forwards.close()
        self.guest_forwards.close()
        if self.tftp is not None:
            self.tftp.close()
        if self.side6 is not None:
            self.side6.router.retire()
        self.tcp.close(now)
        self.udp.close()
        self.echoes.close()
        self.dns.close()
        self.dhcp.close()
        self._queue.clear()

    def info(self) -> list[dict[str, Any]]:
        """Rows of ``info usernet``, JSON-able: protocol, state, fd, src, src_port, dst, dst_port, recvq,
        sendq, idle."""
        tcp = [self._tcp_row(row) for row in self.tcp.flows()]
        forwards = [*self.guest_forwards.flows(self.now), *self.forwards.flows(self.now)]
        echoes = self.echoes.flows(self.now)
        return [*tcp, *self.udp.flows(self.now), *echoes, *self.dns.flows(self.now), *forwards]

    def _tcp_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "protocol": "TCP",
            "state": row["state"],
            "fd": descriptor(row["socket"]),
            "src": row["src"][0],
            "src_port": row["src"][1],
            "dst": row["dst"][0],
            "dst_port": row["dst"][1],
            "recvq": row["recvq"],
            "sendq": row["sendq"],
            "idle": max(0, self.now - row["seen"]) / 1e9,
        }

    def leases(self) -> list[dict[str, Any]]:
        """DHCP leases, JSON-able: address, mac, client_id, state, hostname, expires (seconds from now,
        null: never)."""
        rows = self.dhcp.leases.rows(self.now)
        return rows if self.side6 is None else rows + self.side6.dhcp.leases.rows(self.now)
