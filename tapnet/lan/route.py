"""Put a guest on the LAN of an uplink that cannot be bridged: ``tapnet route TAP --uplink IF``.

    guest ─ TAP ─ this host, a router that stands for the others on each side ─ uplink (Wi-Fi, say) ─ LAN

The guest has an address of the LAN and behaves as if it were on it. A Wi-Fi station may not send with the
guest's MAC, so the host sends with its own: each side takes the host for the other.

* To the guest the host answers ARP for all of the uplink's networks, and is the IPv6 router: it passes the LAN's router
  advertisements on with itself as the router and no address on the link.
* To the LAN the kernel answers ARP and neighbour solicitations for the guest's addresses: a proxy entry for each, no more.
* Each address has a host route to the TAP. They are learned (``tapnet.lan.guests``): leases from the DHCP server's answers,
  which we relay (RFC 1542), others from what the guest says by ARP and neighbour discovery, after a probe on the LAN.
* Forwarding is switched on for these two interfaces (IPv6 knows only all; then ``accept_ra`` of those that listen to
  routers becomes 2). The former values are written down and restored: at the end, or, after SIGKILL, at the next start.

It runs until SIGINT or SIGTERM. It waits for a TAP that does not exist, and waits again when the TAP is removed.

Not passed: broadcasts and multicasts (mDNS, SSDP), DHCPv6, protocols that are not IP. A guest's claim to
an address of the host, of a router, or outside the uplink's networks is not believed.

Timers: a look at interfaces and addresses every ``LOOK_S``; those of ``Guests``. Ref: RFC 1027 (proxy ARP), RFC 4389
(proxying router advertisements), ip-sysctl.rst.
"""

from __future__ import annotations

import ipaddress
import selectors
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from . import frames, sockets, sysctl
from .belongings import Belongings, Link, Message, attribute
from .bridge import may
from .guests import Address, Guests
from .journal import Busy, Journal, names
from .record import NOPERM, OSERR, UNAVAILABLE, BridgeError, Signals
from .rtnl import AF_INET, AF_INET6, Kernel, KernelError

KIND = "route"
PROTO = 147  # marks our routes in `ip route`
LOOK_S = 0.5
REFRESH_S = 5.0
_READS = 64
_MAX_CLIENTS = 256
_IFF_NOARP, _IFF_LOOPBACK = 0x80, 0x8
_NTF_PROXY = 0x08
_NUD_PERMANENT = 0x80  # a proxy entry of another state vanishes with the carrier
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_ALL_NODES, _ALL_ROUTERS = "ff02::1", "ff02::2"


def run(tap: str, uplink: str, say: Callable[[str], None]) -> int:
    """Serve until a signal comes, and return the exit status. Raises BridgeError if the TAP or the uplink
    cannot be used.
    """
    if not may():
        raise BridgeError(f"{tap}: needs CAP_NET_ADMIN: run as root", NOPERM)
    try:
        with Journal(KIND, tap) as found, Kernel() as kernel, Signals() as signals:
            router = Router(tap, uplink, kernel, found, say)
            router.recover()
            router.check()
            return router.serve(signals)
    except Busy as error:
        raise BridgeError(str(error), UNAVAILABLE) from None


class Router:
    """This router joins one TAP to its uplink."""

    def __init__(
        self, tap: str, uplink: str, kernel: Kernel, found: Journal, say: Callable[[str], None]
    ) -> None:
        self.tap_name, self.uplink_name = tap, uplink
        self.kernel = kernel
        self.guests = Guests()
        self._found = found
        self._say = say
        self._who = f"{KIND} {tap}"
        self._tap: Link | None = None
        self._uplink: Link | None = None
        self._giaddr: IPv4Address | None = None
        self._local: set[Address] = set()
        self._clients: dict[bytes, None] = {}  # MACs whose DHCP we relay
        self._sockets: dict[str, socket.socket] = {}
        self._groups: dict[Address, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._advertisement = b""  # the LAN's router advertisement, as the guest gets it
        self._kept: list[str] = []  # sysctl files of interfaces that forwarded IPv6 before
        self._had6 = False

    # ---- checks --------------------------------------------------------------------------------------------

    def check(self) -> Link:
        """Check that TAP and uplink can be used, and return the uplink. Raises BridgeError that says why not."""
        link = self.kernel.link(self.uplink_name)
        what = f"--uplink {self.uplink_name}"
        if link is None:
            raise BridgeError(f"{what}: no such interface")
        if self.uplink_name == self.tap_name:
            raise BridgeError(f"{what}: is the TAP itself")
        if link.flags & (_IFF_NOARP | _IFF_LOOPBACK) or not link.ether:
            raise BridgeError(
                f"{what}: has no neighbours (point-to-point), so nobody can be stood for; use the NAT: -net user"
            )
        self._refresh(link)
        if not self.guests.networks:
            raise BridgeError(f"{what}: has no address, so there is no network to bring the guest into")
        tap = self.kernel.link(self.tap_name)
        if tap is not None and tap.master:
            raise BridgeError(f"{self.tap_name}: is a member of a bridge; it is on a LAN already")
        if tap is not None and not tap.ether:
            raise BridgeError(f"{self.tap_name}: is no Ethernet interface")
        return link

    def _refresh(self, uplink: Link) -> None:
        """Read the uplink's networks, and the addresses that no guest may have."""
        names_ = {link.index for link in self.kernel.links()}
        self._local = set()
        networks: list[Any] = []
        self._giaddr = None
        for index in names_:
            for one in self.kernel.addresses(index):
                text = attribute(one, "IFA_LOCAL") or attribute(one, "IFA_ADDRESS")
                address = ipaddress.ip_address(text)
                self._local.add(address)
                if index != uplink.index or one["scope"] != _SCOPE_UNIVERSE:
                    continue
                network = ipaddress.ip_network(
                    f"{attribute(one, 'IFA_ADDRESS')}/{one['prefixlen']}", strict=False
                )
                if network.prefixlen == network.max_prefixlen:
                    continue
                if network not in networks:
                    networks.append(network)
                if isinstance(address, IPv4Address) and self._giaddr is None:
                    self._giaddr = address
        gateways = {
            ipaddress.ip_address(gateway)
            for route in self.kernel.routes()
            if attribute(route, "RTA_OIF") == uplink.index and (gateway := attribute(route, "RTA_GATEWAY"))
        }
        self._uplink = uplink
        self.guests.networks = networks
        self.guests.reserved = self._local | gateways

    # ---- life ----------------------------------------------------------------------------------------------

    def serve(self, signals: Signals) -> int:
        """Serve until a signal comes. Raises BridgeError if the uplink is gone."""
        waiting = False
        refreshed = time.monotonic()
        try:
            while not signals.came:
                now = time.monotonic()
                if now - refreshed > REFRESH_S:
                    refreshed = now
                    uplink = self.kernel.link(self.uplink_name)
                    if uplink is None:
                        raise BridgeError(f"--uplink {self.uplink_name}: is gone", UNAVAILABLE)
                    self._refresh(uplink)
                tap = self.kernel.link(self.tap_name) if self._tap is None else self._tap
                if self._tap is None:
                    if tap is None or not tap.up:
                        if not waiting:
                            self._say(
                                f"{self.tap_name}: waiting for it: tapnet run -net tap,ifname={self.tap_name} ..."
                            )
                        waiting = True
                        time.sleep(LOOK_S / 5)
                        continue
                    waiting = False
                    self._attach(tap)
                elif not _here(self._tap):
                    self._say(f"{self.tap_name}: is gone")
                    self._detach()
                    continue
                self._turn()
        finally:
            self._detach()
        return 0

    def _attach(self, tap: Link) -> None:
        """Begin to serve a TAP that is there. Raises BridgeError."""
        assert self._uplink is not None
        self._tap = tap
        self._write()
        try:
            self._had6 = any(network.version == 6 for network in self.guests.networks)
            self._forward()
            self._open()
        except OSError as error:
            self._detach()
            where = f"{error.filename}: " if error.filename else ""
            raise BridgeError(f"{self.tap_name}: {where}{error.strerror}", OSERR) from None
        networks = ", ".join(str(network) for network in self.guests.networks)
        self._say(f"{self.tap_name}: is routed by {self.uplink_name}: {networks}")

    def _forward(self) -> None:
        tap, uplink, path = self.tap_name, self.uplink_name, sysctl.path
        wanted = [(path(4, tap, "forwarding"), "1"), (path(4, uplink, "forwarding"), "1")]
        wanted.append((path(4, tap, "rp_filter"), "1"))  # the guest sends from its own addresses only
        wanted.append((sysctl.ROOT / "ipv4/neigh" / uplink / "proxy_delay", "0"))
        if self._had6:
            conf = path(6, "all", "x").parent.parent
            if sysctl.read(path(6, "all", "forwarding")) == "0":
                for place in sorted(conf.iterdir()):
                    forwards = sysctl.read(place / "forwarding")
                    if place.name in ("all", "default", tap):
                        continue  # above all not the TAP, because a guest must not become the host's router
                    if forwards == "1":
                        self._kept.append(str(place / "forwarding"))
                    elif sysctl.read(place / "accept_ra") == "1":
                        wanted.append((place / "accept_ra", "2"))
                self._write()
            wanted.append((path(6, "all", "forwarding"), "1"))
            wanted.append((path(6, uplink, "proxy_ndp"), "1"))
            wanted.append((sysctl.ROOT / "ipv6/neigh" / uplink / "proxy_delay", "0"))
        sysctl.borrow(self._who, wanted)

    def _write(self) -> None:
        self._found.write(
            {
                "tap": self.tap_name,
                "uplink": self.uplink_name,
                "addresses": [str(a) for a, e in self.guests.entries.items() if e.ours],
                "kept": self._kept,
            }
        )

    def recover(self) -> None:
        """Undo what killed processes left: for our own TAP, and for any TAP that no process serves."""
        for name in names(KIND):
            if name == self.tap_name:
                self._recover(self._found, name)
                continue
            try:
                with Journal(KIND, name) as other:
                    self._recover(other, name)
            except Busy:
                continue

    def _recover(self, found: Journal, name: str) -> None:
        record = found.read()
        if record is None:
            return
        uplink, tap = self.kernel.link(record["uplink"]), self.kernel.link(name)
        addresses = [ipaddress.ip_address(text) for text in record["addresses"]]
        if uplink is not None:
            self.kernel.clear(Belongings(neighbours=[_proxy(a, uplink) for a in addresses]))
        if tap is not None:
            self.kernel.clear(Belongings(routes=[_route(a, tap, None) for a in addresses]))
        self._return(f"{KIND} {name}", record["kept"])
        found.erase()
        self._say(f"{name}: put back what a killed tapnet route left")

    @staticmethod
    def _return(who: str, kept: list[str]) -> None:
        sysctl.give_back(who)
        if sysctl.read(sysctl.path(6, "all", "forwarding")) == "0":
            for place in kept:
                if sysctl.read(Path(place)) == "0":
                    sysctl.write(Path(place), "1")

    def _detach(self) -> None:
        """Stop serving the TAP and undo every change on the host. Idempotent."""
        if self._tap is None:
            return
        if self._advertisement and _here(self._tap):
            # with lifetime 0: we are no longer a router
            self._advertise(self._advertisement[:6] + b"\0\0" + self._advertisement[8:])
        for address in self.guests.clear():
            self._withdraw(address)
        for one in self._sockets.values():
            self._selector.unregister(one)
            one.close()
        self._sockets.clear()
        self._groups.clear()
        self._tap = None
        self._return(self._who, self._kept)
        self._kept = []
        self._found.erase()

    # ---- sockets -------------------------------------------------------------------------------------------

    def _open(self) -> None:
        assert self._tap is not None
        tap, uplink = self.tap_name, self.uplink_name
        self._add("guest", sockets.packets(tap, frames.FILTER), self._from_guest)
        self._add("lan", sockets.packets(uplink, None), self._from_lan)
        if self._had6:
            self._add("guest6", sockets.icmp6(tap, ()), lambda: self._read("guest6"))
            self._add("lan6", sockets.icmp6(uplink, (frames.RA, frames.NA)), self._from_lan6)
            self._send6("lan6", frames.router_solicitation(), _ALL_ROUTERS)
        if self._giaddr is not None:
            try:
                self._add("dhcp", sockets.bootp(tap, ""), self._from_client)
                self._add("relay", sockets.bootp(uplink, str(self._giaddr)), self._from_server)
            except OSError as error:
                if "dhcp" in self._sockets:
                    self._drop("dhcp")
                self._say(
                    f"{tap}: DHCP is not relayed: port 67: {error.strerror}; give the guest its address by hand"
                )

    def _add(self, name: str, made: socket.socket, call: Callable[[], object]) -> None:
        made.setblocking(False)
        self._sockets[name] = made
        self._selector.register(made, selectors.EVENT_READ, call)

    def _drop(self, name: str) -> None:
        made = self._sockets.pop(name)
        self._selector.unregister(made)
        made.close()

    def _turn(self) -> None:
        """Wait for a packet or a deadline, then handle what is due."""
        deadline = self.guests.next_deadline()
        wait = LOOK_S if deadline is None else min(max(deadline - time.monotonic(), 0.0), LOOK_S)
        for key, _ in self._selector.select(wait):
            key.data()
        now = time.monotonic()
        for address in self.guests.probed(now):
            self._announce(address)
        for address in self.guests.to_ask(now):
            self._ask(address)
        for address in self.guests.expired(now):
            self._withdraw(address)
            self._say(f"{address} is no longer behind {self.tap_name}")

    def _read(self, name: str) -> list[bytes]:
        found: list[bytes] = []
        for _ in range(_READS):
            try:
                found.append(self._sockets[name].recv(2048))
            except OSError:
                break
        return found

    # ---- the guest's side ----------------------------------------------------------------------------------

    def _from_guest(self) -> None:
        assert self._tap is not None
        now = time.monotonic()
        for frame in self._read("guest"):
            packet = frames.arp(frame)
            if packet is not None:
                if packet.sender != frames.NO_ADDRESS:
                    self._seen(packet.sender, packet.sender_mac, now)
                    self._answer(packet)
                continue
            said = frames.solicited(frame)
            if said is None:
                continue
            kind, source, target, mac = said
            if kind == frames.RS:
                if self._advertisement:
                    self._advertise(self._advertisement)
                else:
                    self._send6("lan6", frames.router_solicitation(), _ALL_ROUTERS)
            elif not source.is_unspecified:
                self._seen(source, mac, now)
                if kind == frames.NA and target is not None:
                    self._seen(target, mac, now)
            elif target is not None:  # duplicate address detection: the guest is about to use the address
                self._seen(target, mac, now)

    def _seen(self, address: Address, mac: bytes, now: float) -> None:
        if self.guests.seen(address, mac, now):
            self._probe(address)

    def _answer(self, packet: frames.Arp) -> None:
        """Answer a guest's ARP request for any address of the LAN; the kernel's own proxy would also answer a
        guest's announcement of itself.
        """
        assert self._tap is not None
        target = packet.target
        if packet.op != frames.ARP_REQUEST or target == packet.sender or target in self._local:
            return
        entry = self.guests.entries.get(target)
        if entry is not None or not any(target in n for n in self.guests.networks if n.version == 4):
            return
        mine = _mac(self._tap)
        self._put(
            "guest",
            frames.arp_frame(
                frames.ARP_REPLY, mine, target, packet.sender_mac, packet.sender, packet.sender_mac
            ),
        )

    def _from_client(self) -> None:
        for packet in self._read("dhcp"):
            made = frames.relayed(packet, self._giaddr) if self._giaddr else None
            if made is None:
                continue
            if len(self._clients) >= _MAX_CLIENTS:
                self._clients.clear()
            self._clients[made[1]] = None
            self._sendto("relay", made[0], ("255.255.255.255", sockets.BOOTPS))

    def _ask(self, address: Address) -> None:
        """Ask a guest whether it still has ``address``."""
        assert self._tap is not None
        mine = _mac(self._tap)
        if isinstance(address, IPv4Address):
            source = self._giaddr or frames.NO_ADDRESS
            self._put("guest", frames.arp_frame(frames.ARP_REQUEST, mine, source, bytes(6), address))
        else:
            self._send6("guest6", frames.solicitation(address, mine), str(address))

    def _advertise(self, message: bytes) -> None:
        self._send6("guest6", message, _ALL_NODES)

    # ---- the LAN's side ------------------------------------------------------------------------------------

    def _probe(self, address: Address) -> None:
        """Ask the LAN whether a host there has ``address``."""
        assert self._uplink is not None
        mine = _mac(self._uplink)
        if isinstance(address, IPv4Address):
            self._put("lan", frames.arp_frame(frames.ARP_REQUEST, mine, frames.NO_ADDRESS, bytes(6), address))
        else:
            self._send6("lan6", frames.solicitation(address, mine), sockets.group(address))

    def _from_lan(self) -> None:
        for frame in self._read("lan"):
            packet = frames.arp(frame)
            if packet is not None and packet.sender_mac != _mac(self._uplink):
                self._taken(packet.sender)

    def _taken(self, address: Address) -> None:
        if self.guests.denied(address, time.monotonic()):
            self._say(
                f"{address}: a guest of {self.tap_name} uses it, but somebody on {self.uplink_name} has it"
            )

    def _from_lan6(self) -> None:
        assert self._tap is not None
        for _ in range(_READS):
            try:
                message, extra, _, source = self._sockets["lan6"].recvmsg(2048, 64)
            except OSError:
                return
            hops = [
                struct.unpack("=i", data)[0] for level, kind, data in extra if kind == sockets.IPV6_HOPLIMIT
            ]
            if hops != [255]:
                continue
            target = frames.advertised(message)
            if target is not None:
                self._taken(target)
            elif source[0].lower().startswith("fe80:"):
                made = frames.passed_on(message, _mac(self._tap))
                if made is not None:
                    self._advertisement = made
                    self._advertise(made)

    def _from_server(self) -> None:
        for packet in self._read("relay"):
            found = frames.reply(packet, self._giaddr) if self._giaddr else None
            if found is None or found.mac not in self._clients:
                continue
            if found.kind == frames.ACK and self.guests.leased(found.address, found.mac, time.monotonic()):
                self._announce(found.address)  # before the guest gets the server's answer
            self._sendto("dhcp", packet, ("255.255.255.255", sockets.BOOTPC))

    # ---- addresses -----------------------------------------------------------------------------------------

    def _announce(self, address: Address) -> None:
        """Make ``address`` the guest's: add its route and proxy entry, and tell the LAN."""
        assert self._tap is not None and self._uplink is not None
        self._write()
        source = next(
            (local for n in self.guests.networks if address in n for local in sorted(self._local, key=str) if local in n),
            None,
        )  # fmt: skip
        try:
            self.kernel.ensure(
                Belongings(
                    routes=[_route(address, self._tap, source)], neighbours=[_proxy(address, self._uplink)]
                )
            )
        except KernelError as error:
            self._say(f"{address}: {error}")
            self.guests.entries.pop(address, None)
            return
        entry = self.guests.entries[address]
        if isinstance(address, IPv4Address):
            mine = _mac(self._uplink)
            self._put("lan", frames.arp_frame(frames.ARP_REQUEST, mine, address, bytes(6), address))
        elif "lan6" in self._sockets:
            # join its group, so that solicitations for it reach us through a switch that filters multicast
            member = socket.inet_pton(socket.AF_INET6, sockets.group(address)) + struct.pack(
                "=I", self._uplink.index
            )
            try:
                self._sockets["lan6"].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
                self._groups[address] = member
            except OSError:
                pass  # another address has the same group
        self._say(f"{address} is behind {self.tap_name} ({entry.how}, {entry.mac.hex(':')})")

    def _withdraw(self, address: Address) -> None:
        assert self._tap is not None and self._uplink is not None
        member = self._groups.pop(address, None)
        if member is not None and "lan6" in self._sockets:
            self._sockets["lan6"].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, member)
        try:
            self.kernel.clear(
                Belongings(
                    routes=[_route(address, self._tap, None)], neighbours=[_proxy(address, self._uplink)]
                )
            )
        except KernelError as error:
            self._say(f"{address}: {error}")
        self._write()

    # ---- sending: what cannot be sent is lost, as on any wire ----------------------------------------------

    def _put(self, name: str, frame: bytes) -> None:
        try:
            self._sockets[name].send(frame)
        except OSError:
            pass

    def _sendto(self, name: str, packet: bytes, to: tuple[str, int]) -> None:
        try:
            self._sockets[name].sendto(packet, to)
        except (OSError, KeyError):
            pass

    def _send6(self, name: str, message: bytes, to: str) -> None:
        link = self._tap if name == "guest6" else self._uplink
        if name in self._sockets and link is not None:
            try:
                self._sockets[name].sendto(message, (to, 0, 0, link.index))
            except OSError:
                pass


def _here(link: Link) -> bool:
    """Tell whether ``link`` is still the same interface."""
    try:
        return socket.if_nametoindex(link.name) == link.index
    except OSError:
        return False


def _mac(link: Link | None) -> bytes:
    return bytes.fromhex(link.mac.replace(":", "")) if link is not None else bytes(6)


def _route(address: Address, tap: Link, source: Address | None) -> Message:
    four = address.version == 4
    attrs: list[list[Any]] = [["RTA_TABLE", 254], ["RTA_DST", str(address)], ["RTA_OIF", tap.index]]
    if source is not None:
        attrs.append(["RTA_PREFSRC", str(source)])
    if not four:
        attrs.append(["RTA_PRIORITY", 1024])
    return {
        "family": AF_INET if four else AF_INET6, "dst_len": address.max_prefixlen, "src_len": 0, "tos": 0,
        "table": 254, "proto": PROTO, "scope": _SCOPE_LINK if four else _SCOPE_UNIVERSE, "type": 1, "flags": 0,
        "attrs": attrs,
    }  # fmt: skip


def _proxy(address: Address, uplink: Link) -> Message:
    return {
        "family": AF_INET if address.version == 4 else AF_INET6, "ifindex": uplink.index,
        "state": _NUD_PERMANENT, "flags": _NTF_PROXY, "ndm_type": 0, "attrs": [["NDA_DST", str(address)]],
    }  # fmt: skip
