"""The DHCP and BOOTP server for the guests of one net.

It is the only server of its net and says so (authoritative): an INIT-REBOOT or RENEWING client that it does
not know keeps the address it asks for if that is free, and gets a NAK if it is not. (RFC 2131 4.3.2 would
have silence for unknown clients, for the sake of other servers; there are none, and after a restart of ours
guests go on at once.)

    DISCOVER                              OFFER, or silence when nothing is left
    REQUEST, server identifier (SELECTING)   ACK or NAK; another server's: our offer is withdrawn
    REQUEST, requested address (INIT-REBOOT) ACK or NAK
    REQUEST, ciaddr (RENEWING, REBINDING)    ACK or NAK
    DECLINE                               the address rests (``leases.DECLINE_TIME``)
    RELEASE                               the address is free, and stays the client's favourite
    INFORM                                ACK without a lease
    no message type                       BOOTP: a lease without end

A message in the name of a station that is on the VLAN itself is dropped: no guest gives another's lease back, nor renames it.
An address that another station was heard using (ARP) is not offered. Replies go where RFC 2131 4.1 says: to
the relay, to ciaddr, to everybody if the broadcast bit is set (or for a NAK), else to the new address at
the client's MAC. Options come in the order of the client's parameter request list, mask before router;
without a list: a usual set. Router and name server are left out where rules let guests reach none. The size limit of option 57
(576 without it) is kept, by overloading ``file`` and ``sname`` where need be.

Network boot: ``siaddr`` is ``next_server``, the ``file`` field and option 67 the file for the client: by its
architecture (option 93; iPXE by its user class, so that it does not load itself for ever), else the file for all. A client of
UEFI HTTP boot (vendor class HTTPClient) is told so in option 60 and gets URLs only, a PXE client's firmware everything but URLs.
Classless routes (121, and 249 for old Windows) carry the default route with them, since who takes them ignores option 3.
What ``dhcp_options`` names goes to everybody, asked for or not, in place of ours.

Limits: ``leases.LEASES``. Timers: none, leases run out by comparison. An option that makes no sense is left out and counted
(``dhcp_option_ignored``), its message answered; malformed messages are counted and dropped.

Ref: RFC 2131; RFC 2132; RFC 951; RFC 1542; RFC 3396; RFC 3397; RFC 3442; RFC 4578 (PXE);
RFC 5071; RFC 6842 (client identifier in replies); UEFI 2.10, 24.7 (HTTP boot).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from ..config import BOOTFILE_MAX, Config
from ..contracts.stack import Below
from ..ip.arp import Arp
from ..ip.ipv4 import Ipv4
from ..wire import checksum
from ..wire import dhcp as formats
from ..wire.dhcp import BOOTP, BOOTP_MIN, BOOTREPLY, BROADCAST_FLAG, COOKIE, DhcpMessage
from ..wire.dns import encode_names
from ..wire.ipv4 import BROADCAST_MAC, NO_MAC, PROTO_UDP, UDP, UDP_LEN, ip_bytes, ip_int
from ..wire.ipv4 import MAC_PREFIX as OUR_PREFIX
from .boot import HTTP_CLIENT, boot_file
from .leases import FOR_EVER, OFFERED, Fixed, Lease, Leases

SERVER_PORT, CLIENT_PORT = 67, 68
ZERO = b"\0\0\0\0"
EVERYBODY = b"\xff\xff\xff\xff"
SIZE_MIN = 576  # RFC 2132 9.10
HEADERS = 28  # IPv4 and UDP, which option 57 counts
LEASE_MIN = 60
USUAL = bytes(
    (
        formats.MASK,
        formats.ROUTER,
        formats.NAME_SERVER,
        formats.HOSTNAME,
        formats.DOMAIN,
        formats.INTERFACE_MTU,
        formats.BROADCAST,
        formats.T1,
        formats.T2,
        formats.TFTP_NAME,
        formats.BOOTFILE,
        formats.SEARCH,
        formats.NTP,
        formats.ROUTES,
    )
)
UDHCP_CLIENT = b"udhcp"  # busybox: not T1 but half of the lease counts, and it rests for 3 s after a NAK
UDHCP_LEASE = 8, 5  # of T1: so it has asked anew within T1


class Dhcp:
    """The server; a ``slirp.contracts.stack.Service`` on port 67."""

    def __init__(self, config: Config, below: Below, ip: Ipv4, arp: Arp) -> None:
        self._config = config
        self._below = below
        self._ip = ip
        self._arp = arp
        self._server = config.host_ip
        last = ip_int(config.network.broadcast_address.packed) - 1
        own = frozenset(map(ip_int, config.own))
        fixed = {mac: Fixed(ip_bytes(address), name) for mac, address, name in config.fixed}
        self.leases = Leases(ip_int(config.dhcp_first), last, own, self._in_use, fixed=fixed)
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """From now on clients hear this; leases stay."""
        self._config = config
        self._boot_server = ip_bytes(config.next_server) if config.next_server else self._server
        self._forced = [code for code, value in config.dhcp_options if value]
        self._values = self._fixed()

    def _fixed(self) -> dict[int, bytes]:
        """Options that are the same for every client."""
        config = self._config
        values = {
            formats.MASK: config.network.netmask.packed,
            formats.BROADCAST: config.network.broadcast_address.packed,
            formats.INTERFACE_MTU: config.mtu.to_bytes(2, "big"),
        }
        if config.routed:
            values[formats.ROUTER] = config.host_ip
        if config.named:
            values[formats.NAME_SERVER] = config.dns_ip
        for code, text in (
            (formats.HOSTNAME, config.hostname),
            (formats.DOMAIN, config.domainname),
            (formats.TFTP_NAME, config.tftp_server_name),
        ):
            if text:
                values[code] = text.encode()
        if config.dnssearch:
            values[formats.SEARCH] = encode_names(config.dnssearch)
        if config.ntp:
            values[formats.NTP] = b"".join(map(ip_bytes, config.ntp))
        if config.routes:
            routes = [(IPv4Network(net), IPv4Address(router)) for net, router in config.routes]
            if config.routed and not any(net.prefixlen == 0 for net, _ in routes):
                routes.append((IPv4Network("0.0.0.0/0"), IPv4Address(config.host_ip)))
            values[formats.ROUTES] = values[formats.ROUTES_MICROSOFT] = formats.encode_routes(routes)
        return self._overridden(values)

    def _overridden(self, values: dict[int, bytes]) -> dict[int, bytes]:
        """Options by number win; empty ones are left out."""
        for code, value in self._config.dhcp_options:
            values[code] = value
        return {code: value for code, value in values.items() if value}

    def _in_use(self, address: bytes, mac: bytes) -> bool:
        if address in self._arp.own:
            return True
        entry = self._arp.table.get(address)
        return entry is not None and entry.mac not in (mac, NO_MAC)

    # ---- messages in ---------------------------------------------------------------------------------------

    def input(self, frame: bytes, off: int, end: int, src: bytes, sport: int, dst: bytes, now: int) -> None:
        """A datagram to port 67."""
        try:
            message = formats.parse_dhcp(frame[off:end])
        except ValueError:
            self._below.count("dhcp_malformed")
            return
        if message.giaddr != ZERO and (not self._ip.inside(message.giaddr) or message.giaddr == self._server):
            self._below.count("dhcp_foreign_relay")
            return
        if message.giaddr == ZERO and self._pretends(frame[6:12], message.chaddr):
            self._below.count("dhcp_spoofed")
            return
        if message.ignored:
            self._below.count("dhcp_option_ignored")
        kind = message.kind
        if kind is None:
            self._bootp(message, now)
        elif kind == formats.DISCOVER:
            self._discover(message, now)
        elif kind == formats.REQUEST:
            self._request(message, now)
        elif kind == formats.DECLINE:
            self._decline(message, now)
        elif kind == formats.RELEASE:
            self._release(message, now)
        elif kind == formats.INFORM:
            if message.ciaddr == ZERO:
                message.ciaddr = src
            if message.ciaddr == ZERO:
                self._below.count("dhcp_malformed")
                return
            self._below.count("dhcp_inform")
            self._reply(message, formats.ACK, None)
        else:
            self._below.count("dhcp_malformed")

    def _pretends(self, sender: bytes, mac: bytes) -> bool:
        """Whether ``sender`` speaks for a station that is on the VLAN itself. (One that is not may be behind it.)"""
        return sender != mac and any(entry.mac == mac for entry in self._arp.table.values())

    def _client(self, message: DhcpMessage, now: int) -> bytes:
        return self.leases.identity(message.client, message.chaddr, now)

    def _discover(self, message: DhcpMessage, now: int) -> None:
        wanted = message.options.get(formats.REQUESTED)
        lease = self.leases.offer(self._client(message, now), message.chaddr, wanted, now)
        if lease is None:
            self._below.count("dhcp_exhausted")
            return
        self._below.count("dhcp_discover")
        self._reply(message, formats.OFFER, lease)

    def _request(self, message: DhcpMessage, now: int) -> None:
        options = message.options
        server = options.get(formats.SERVER_ID)
        client = self._client(message, now)
        if server is not None and server != self._server:
            lease = self.leases.of(client)
            if lease is not None and lease.state == OFFERED:
                self.leases.release(lease, now)
            self._below.count("dhcp_other_server")
            return
        address = options.get(formats.REQUESTED) or message.ciaddr
        if address == ZERO:
            address = self._known(client, now)
            if address == ZERO and not message.ignored:
                self._below.count("dhcp_malformed")
                return
        lease = self.leases.claim(client, message.chaddr, address, now)
        if lease is None:
            self._below.count("dhcp_nak")
            self._reply(message, formats.NAK, None)
            return
        self._note(message, lease)
        self.leases.bind(lease, self._seconds(message), now)
        self._below.count("dhcp_request")
        self._reply(message, formats.ACK, lease)

    def _known(self, client: bytes, now: int) -> bytes:
        """The address that a client has, or was offered, when it does not say which; else ``ZERO``."""
        lease = self.leases.of(client)
        return ZERO if lease is None or lease.free(now) else lease.address

    def _name_of(self, message: DhcpMessage) -> str:
        """The name that the administrator gave the client, or ""."""
        fixed = self.leases.fixed.get(message.chaddr)
        return fixed.name if fixed else ""

    def _note(self, message: DhcpMessage, lease: Lease) -> None:
        name = message.options.get(formats.HOSTNAME, b"").rstrip(b"\0")
        if name and not self._name_of(message):
            lease.hostname = name.decode("ascii", "replace")

    def _seconds(self, message: DhcpMessage) -> int:
        """The lease time: the administrator's if one was given. Else ours, or a shorter one that the client asks for;
        where a T1 was set, busybox gets one that makes it come back as early.
        """
        if self._config.lease_given:
            return self._config.lease_time
        asked = message.options.get(formats.LEASE_TIME)
        ours, renew = self._config.lease_time, self._config.renew_time
        if renew is not None and message.options.get(formats.VENDOR_CLASS, b"").startswith(UDHCP_CLIENT):
            ours = min(ours, renew * UDHCP_LEASE[0] // UDHCP_LEASE[1])
        return ours if asked is None else min(ours, max(LEASE_MIN, ip_int(asked)))

    def _decline(self, message: DhcpMessage, now: int) -> None:
        address = message.options.get(formats.REQUESTED, ZERO)
        lease = self.leases.of(self._client(message, now))
        if lease is None or lease.address != address or lease.mac != message.chaddr:
            self._below.count("dhcp_ignored")
            return
        self._below.count("dhcp_decline")
        if lease.mac in self.leases.fixed:  # it shall have no other
            self.leases.release(lease, now)
        else:
            self.leases.decline(lease, now)

    def _release(self, message: DhcpMessage, now: int) -> None:
        lease = self.leases.of(self._client(message, now))
        if lease is None or lease.address != message.ciaddr or lease.mac != message.chaddr:
            self._below.count("dhcp_ignored")
            return
        self._below.count("dhcp_release")
        self.leases.release(lease, now)

    def _bootp(self, message: DhcpMessage, now: int) -> None:
        wanted = message.ciaddr if message.ciaddr != ZERO else None
        lease = self.leases.offer(self._client(message, now), message.chaddr, wanted, now)
        if lease is None:
            self._below.count("dhcp_exhausted")
            return
        self.leases.bind(lease, FOR_EVER, now)
        self._below.count("bootp_request")
        self._reply(message, None, lease)

    # ---- messages out --------------------------------------------------------------------------------------

    def _reply(self, message: DhcpMessage, kind: int | None, lease: Lease | None) -> None:
        boot = b"" if kind == formats.NAK else self._boot(message)
        if boot and len(self._values.get(formats.BOOTFILE, b"")) <= BOOTFILE_MAX:
            boot = self._values.get(formats.BOOTFILE, boot)  # by its number: field and option say the same
        room = self._room(message)
        if message.cookie:
            items = self._items(message, kind, lease, boot)
            area, file, sname, lost = formats.pack_options(items, room, not boot, True)
            for _ in range(lost):
                self._below.count("dhcp_option_dropped")
            area = COOKIE + area
        else:
            area = file = sname = b""
        nak = kind == formats.NAK
        flags = message.flags & BROADCAST_FLAG
        if nak and message.giaddr != ZERO:
            flags |= BROADCAST_FLAG
        packet = BOOTP.pack(
            BOOTREPLY,
            message.htype,
            len(message.chaddr),
            0,
            message.xid,
            0,
            flags,
            ZERO if nak or kind in (None, formats.OFFER) else message.ciaddr,
            lease.address if lease is not None else ZERO,
            ZERO if nak else self._boot_server,
            message.giaddr,
            message.chaddr_field,
            sname,
            boot or file,
        )
        self._send(message, nak, lease, (packet + area).ljust(BOOTP_MIN, b"\0"))

    def _room(self, message: DhcpMessage) -> int:
        """Bytes for the option area behind the cookie."""
        asked = message.options.get(formats.MAX_SIZE)
        size = SIZE_MIN if asked is None else max(SIZE_MIN, int.from_bytes(asked, "big"))
        return min(size, self._config.mtu) - HEADERS - formats.BOOTP_LEN - len(COOKIE)

    def _boot(self, message: DhcpMessage) -> bytes:
        """The boot file for a client, b"": none."""
        vendor = message.options.get(formats.VENDOR_CLASS, b"")
        user = message.options.get(formats.USER_CLASS, b"")
        found = message.options.get(formats.ARCHITECTURE, b"")
        kinds = [int.from_bytes(found[at : at + 2], "big") for at in range(0, len(found) - 1, 2)]
        return boot_file(self._config, vendor, user, kinds).encode()

    def _items(
        self, message: DhcpMessage, kind: int | None, lease: Lease | None, boot: bytes
    ) -> list[tuple[int, bytes]]:
        values = dict(self._values)
        if boot:
            values.setdefault(formats.BOOTFILE, boot)
        name = self._name_of(message)
        if name:
            values[formats.HOSTNAME] = name.encode()
        items: list[tuple[int, bytes]] = []
        if kind is not None:
            items += [(formats.MESSAGE, bytes([kind])), (formats.SERVER_ID, self._server)]
        if kind == formats.NAK:
            items.append((formats.TEXT, b"requested address not available"))
        elif lease is not None and kind is not None:
            seconds = self._seconds(message)
            items.append((formats.LEASE_TIME, seconds.to_bytes(4, "big")))
            if seconds != FOR_EVER:
                renew = self._config.renew_time
                values[formats.T1] = min(seconds // 2, renew or seconds).to_bytes(4, "big")
                if renew is not None:  # for clients that do not ask for it, too
                    items.append((formats.T1, values.pop(formats.T1)))
                values[formats.T2] = (seconds * 7 // 8).to_bytes(4, "big")
        client_id = message.options.get(formats.CLIENT_ID)
        if client_id and kind is not None:
            items.append((formats.CLIENT_ID, client_id))
        if kind == formats.NAK:
            return items
        order = list(dict.fromkeys(message.options.get(formats.PARAMETERS) or USUAL))
        if formats.MASK in order and formats.ROUTER in order:
            mask, router = order.index(formats.MASK), order.index(formats.ROUTER)
            if router < mask:  # RFC 2132 3.3
                order.insert(router, order.pop(mask))
        if boot and message.options.get(formats.VENDOR_CLASS, b"").startswith(HTTP_CLIENT):
            values.setdefault(formats.VENDOR_CLASS, HTTP_CLIENT)
            order[:0] = [formats.VENDOR_CLASS, formats.BOOTFILE]
        order = list(dict.fromkeys(order + self._forced))
        items += [(code, values[code]) for code in order if code in values]
        return items

    def _send(self, message: DhcpMessage, nak: bool, lease: Lease | None, packet: bytes) -> None:
        port = CLIENT_PORT
        if message.giaddr != ZERO:
            dst, port = message.giaddr, SERVER_PORT
            mac = self._arp.lookup(dst, self._below.now).mac
        elif nak or message.htype != 1:
            dst, mac = EVERYBODY, BROADCAST_MAC
        elif message.ciaddr != ZERO and message.kind is not None:
            dst, mac = message.ciaddr, message.chaddr
        elif message.flags & BROADCAST_FLAG or lease is None:
            dst, mac = EVERYBODY, BROADCAST_MAC
        else:
            dst, mac = lease.address, message.chaddr
        if mac != BROADCAST_MAC and (mac[0] & 1 or mac.startswith(OUR_PREFIX + self._server)):
            self._below.count("dhcp_malformed")
            return
        self._datagram(mac, dst, port, packet)

    def _datagram(self, mac: bytes, dst: bytes, port: int, packet: bytes) -> None:
        size = len(packet) + UDP_LEN
        start = ip_int(self._server + dst) + PROTO_UDP + 2 * size + SERVER_PORT + port
        header = UDP.pack(SERVER_PORT, port, size, checksum.checksum(packet, start))
        self._ip.packet(mac, self._server, dst, PROTO_UDP, header + packet)

    # ---- service -------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """Leases need no timer."""
        return None

    def run(self, now: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to give back."""
