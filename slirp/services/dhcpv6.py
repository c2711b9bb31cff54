"""The DHCPv6 server for the guests of one net: addresses for those who ask, and what there is to know.

    SOLICIT               ADVERTISE; with rapid commit a REPLY that binds at once
    REQUEST, RENEW, REBIND  REPLY: each identity association (IA_NA) has one address. RENEW and REBIND of one that we do not
                          know give it if it is free, as the IPv4 server does: after a restart of ours guests go on
    CONFIRM               REPLY: on this link or not; silence where no address is named
    RELEASE, DECLINE      REPLY; the address is free, or rests
    INFORMATION-REQUEST   REPLY

Temporary addresses (IA_TA) and prefixes (IA_PD) are declined by status. All replies carry name server, search list,
NTP servers and boot file URL where the client asks (an option request option) or always (name server, search list).
A client that names another server is not ours. Messages to our unicast address get UseMulticast.

The boot file is chosen as in DHCP (``boot``), and named by a URL.

An address belongs to DUID and IAID. Its valid lifetime is ``lease-time``, preferred for 3/4 of that; T1 and T2 are 1/2
and 4/5 of the preferred one.

Limits: ``leases.LEASES``. Timers: none. An option that makes no sense is left out and counted, its message answered;
malformed messages are counted and dropped.

Ref: RFC 8415 18.3; RFC 3646; RFC 5908; RFC 5970; RFC 4075.
"""

from __future__ import annotations

from ..config import Config
from ..config6 import Config6
from ..contracts.stack import Below
from ..ip.ipv6 import Ipv6
from ..ip.ndp import Ndp
from ..ip.router6 import named
from ..wire import dhcpv6 as wire
from ..wire.dhcpv6 import (
    ADVERTISE,
    CONFIRM,
    DECLINE,
    IA_NA,
    IA_PD,
    INFORMATION,
    NO_ADDRESS,
    NO_BINDING,
    NO_PREFIX,
    NOT_ON_LINK,
    REBIND,
    RELEASE,
    RENEW,
    REPLY,
    REQUEST,
    SOLICIT,
    SUCCESS,
    USE_MULTICAST,
    Identity,
    Message,
    option,
    status,
)
from ..wire.dns import encode_names
from ..wire.ipv4 import NO_MAC, ip_int, ip_text
from ..wire.ipv6 import LINK_LOCAL, is_link_local, own_mac6
from .boot import HTTP_CLIENT, boot_file
from .leases import BOUND, FOR_EVER, Leases

PORT = 547
CLIENT_PORT = 546
DUID_LL = b"\0\3\0\1"
REFRESH = 86400  # RFC 8415 21.23


class Dhcp6:
    """The server; a ``slirp.contracts.stack.Service`` on port 547 of the groups and of our addresses."""

    def __init__(self, config: Config, v6: Config6, below: Below, ip: Ipv6, ndp: Ndp) -> None:
        self._config = config
        self._v6 = v6
        self._below = below
        self._ip = ip
        self._ndp = ndp
        self.duid = DUID_LL + own_mac6(LINK_LOCAL)
        first, last = v6.pool
        self.leases = Leases(first, last, frozenset(map(ip_int, v6.own)), self._in_use, 16)

    def reconfigure(self, config: Config) -> None:
        """For clients to come; leases stay."""
        self._config = config

    def _in_use(self, address: bytes, mac: bytes) -> bool:
        entry = self._ndp.table.get(address)
        return entry is not None and entry.mac not in (mac, NO_MAC)

    # ---- messages in ---------------------------------------------------------------------------------------

    def input(self, frame: bytes, off: int, end: int, src: bytes, sport: int, dst: bytes, now: int) -> None:
        """A datagram to port 547."""
        count = self._below.count
        try:
            message = wire.parse(frame[off:end])
        except ValueError:
            count("dhcp6_malformed")
            return
        if message.ignored:
            count("dhcp6_option_ignored")
        kind = message.kind
        if not is_link_local(src) and dst[0] == 0xFF:
            count("dhcp6_malformed")  # RFC 8415 13.1
            return
        if not self._meant(message):
            count("dhcp6_ignored")
            return
        if dst[0] != 0xFF:
            if kind in (REQUEST, RENEW, RELEASE, DECLINE):
                self._answer(src, sport, message, REPLY, status(USE_MULTICAST))
            else:
                count("dhcp6_ignored")
            return
        mac = frame[6:12]
        body = self._body(message, mac, now)
        if body is None:
            count("dhcp6_ignored")
            return
        count("dhcp6_replies")
        self._answer(src, sport, message, *body)

    def _meant(self, message: Message) -> bool:
        """Whether a message has what its type needs, and is for us (RFC 8415 16)."""
        kind, server = message.kind, message.server
        if kind == INFORMATION:
            return server in (None, self.duid) and not message.identities
        if not message.client:
            return False
        if kind in (SOLICIT, CONFIRM, REBIND):
            return server is None
        return kind in (REQUEST, RENEW, RELEASE, DECLINE) and server == self.duid

    def _body(self, message: Message, mac: bytes, now: int) -> tuple[int, bytes] | None:
        """Type and options of the answer, without identifiers; None: silence."""
        kind = message.kind
        if kind == INFORMATION:
            return REPLY, self._known(message) + option(wire.REFRESH, REFRESH.to_bytes(4, "big"))
        if kind == CONFIRM:
            addresses = [address for ia in message.identities for address in ia.addresses]
            if not addresses:
                return None
            right = all(map(self._ip.inside, addresses))
            return REPLY, status(SUCCESS if right else NOT_ON_LINK) + self._known(message)
        if kind in (RELEASE, DECLINE):
            gone = b"".join(self._gone(message, ia, mac, now) for ia in message.identities)
            return REPLY, gone + status(SUCCESS)
        rapid = kind == SOLICIT and message.rapid
        bind = rapid or kind != SOLICIT
        parts = [self._identity(message, ia, mac, bind, now) for ia in message.identities]
        parts.append(self._known(message))
        if rapid:
            parts.append(option(wire.RAPID_COMMIT, b""))
        return (REPLY if bind else ADVERTISE), b"".join(parts)

    # ---- addresses -----------------------------------------------------------------------------------------

    def _identity(self, message: Message, ia: Identity, mac: bytes, bind: bool, now: int) -> bytes:
        """One identity association in an answer."""
        if ia.kind == IA_PD:
            return option(IA_PD, ia.iaid + bytes(8) + status(NO_PREFIX, "no prefixes here"))
        if ia.kind != IA_NA:
            return option(wire.IA_TA, ia.iaid + status(NO_ADDRESS, "no temporary addresses here"))
        client = self.leases.identity(message.client + ia.iaid, mac, now)
        extend = message.kind in (RENEW, REBIND)
        lease = None
        gone = b""
        if extend:
            for address in ia.addresses:
                lease = self.leases.claim(client, mac, address, now)
                if lease is not None:
                    break
            gone = b"".join(
                option(wire.IA_ADDRESS, address + bytes(8))
                for address in ia.addresses
                if lease is None or address != lease.address
            )
        if lease is None:
            wanted = next((a for a in ia.addresses if self.leases.contains(a)), None)
            lease = self.leases.offer(client, mac, wanted, now)
        if lease is None:
            self._below.count("dhcp6_exhausted")
            return option(IA_NA, ia.iaid + bytes(8) + gone + status(NO_ADDRESS, "no addresses left"))
        valid = self._config.lease_time
        preferred = valid if valid == FOR_EVER else valid * 3 // 4
        if bind:
            if message.name:
                lease.hostname = message.name
            self.leases.bind(lease, valid, now)
            self._below.count("dhcp6_bound")
        t1, t2 = (FOR_EVER, FOR_EVER) if valid == FOR_EVER else (preferred // 2, preferred * 4 // 5)
        address = option(wire.IA_ADDRESS, lease.address + wire.LIFETIMES.pack(preferred, valid))
        return option(IA_NA, ia.iaid + wire.LIFETIMES.pack(t1, t2) + address + gone)

    def _gone(self, message: Message, ia: Identity, mac: bytes, now: int) -> bytes:
        """An address given back, or in use by somebody else. What to say about it: nothing, if we knew it."""
        client = self.leases.identity(message.client + ia.iaid, mac, now)
        lease = self.leases.of(client) if ia.kind == IA_NA else None
        if lease is None or lease.address not in ia.addresses or lease.state != BOUND or lease.mac != mac:
            return option(ia.kind, ia.iaid + bytes(0 if ia.kind == wire.IA_TA else 8) + status(NO_BINDING))
        if message.kind == RELEASE:
            self._below.count("dhcp6_release")
            self.leases.release(lease, now)
        else:
            self._below.count("dhcp6_decline")
            self.leases.decline(lease, now)
        return b""

    # ---- what there is to know -----------------------------------------------------------------------------

    def _known(self, message: Message) -> bytes:
        """Name server, search list, NTP, boot file."""
        config, v6, wanted = self._config, self._v6, message.wanted
        parts = []
        if named(config, v6):
            parts.append(option(wire.DNS, v6.dns_ip))
        if config.dnssearch:
            names = b"".join(encode_names((name,)) for name in config.dnssearch)
            parts.append(option(wire.SEARCH, names))
        if wire.NTP in wanted and v6.ntp_ips:
            servers = b"".join(option(wire.NTP_SERVER, address) for address in v6.ntp_ips)
            parts.append(option(wire.NTP, servers))
        if wire.BOOT_URL in wanted:
            file = boot_file(config, message.vendor, message.user, message.architectures)
            if file:
                parts.append(option(wire.BOOT_URL, self._url(file).encode()))
            if file and message.vendor.startswith(
                HTTP_CLIENT
            ):  # what it takes for an answer (UEFI 2.10, 24.7)
                said = message.enterprise + len(HTTP_CLIENT).to_bytes(2, "big") + HTTP_CLIENT
                parts.append(option(wire.VENDOR_CLASS, said))
        return b"".join(parts)

    def _url(self, bootfile: str) -> str:
        """The boot file, by our TFTP server unless it is a URL already."""
        if "://" in bootfile:
            return bootfile
        server = self._config.tftp_server_name or f"[{ip_text(self._v6.host_ip)}]"
        return f"tftp://{server}/{bootfile.lstrip('/')}"

    def _answer(self, dst: bytes, port: int, message: Message, kind: int, body: bytes) -> None:
        head = bytes((kind,)) + message.xid + option(wire.SERVER_ID, self.duid)
        if message.client:
            head += option(wire.CLIENT_ID, message.client)
        to = self._ip.neighbour(dst)
        self._ip.datagram(to, LINK_LOCAL, PORT, port, head + body)

    # ---- service -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Nothing to give back."""
