"""This module holds ``Config``, the frozen and validated description of a user-mode network, whose defaults
are those of QEMU's ``-net user``.

``Config(net="10.0.2.0/24")`` derives host .2, name server .3 and first lease .15 from the net, as QEMU does
for its own default. A net without a prefix length is taken as /24, with a warning in ``Config.warnings``:
QEMU takes it by class (10.x as /8, 192.168.x.y as /16), which is hardly ever what was meant. A net too small
for .2, .3 and .15 takes its 1st, 2nd and 3rd address.

Every error is a ValueError of one line that names the key and the value. The IPv6 keys are in ``config6``;
with ``ipv4`` off the network has IPv6 only.

Ref: QEMU 7.2 qapi/net.json, NetdevUserOptions; RFC 1123 2.1 (host names); RFC 2132 (what fits in an option).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv4Network, ip_address

from .config6 import Config6
from .contracts.host import Address
from .rules import Rule, Rules
from .wire.ipv4 import PROTO_UDP, canonical, is_martian
from .wire.ipv6 import MTU_MIN as MTU_MIN6

LEASE_TIME = 86400  # seconds
LEASE_TIME_MIN, LEASE_TIME_MAX = 60, 0xFFFFFFFF  # the greatest means "for ever" (RFC 2131 3.3)
MTU = 1500
MTU_MIN, MTU_MAX = (
    576,
    65520,
)  # RFC 2132 5.1 wants at least 68; below 576 no host has to reassemble a DHCP message
BUFFERS = 64 << 20  # bytes buffered for guests, all flows together
BUFFERS_MIN = 1 << 20
RESOLVERS_MAX = 8
FIXED_MAX = 1024
NTP_MAX = 32
RECORDS_MAX = 4096
IPXE = -1  # stands in place of an architecture for clients that already run iPXE
SERVERS_OWN = frozenset(
    (0, 50, 51, 52, 53, 54, 55, 57, 58, 59, 61, 82, 255)
)  # options that only the server can know
SEARCH_MAX = 32
BOOTFILE_MAX = 127  # the "file" field of RFC 2131 is 128 bytes with its final 0
NAME_MAX = 255
DNS_PORT = 53

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")


def _address(key: str, value: str) -> IPv4Address:
    try:
        return IPv4Address(value)
    except ValueError:
        raise ValueError(f"{key}={value}: not an IPv4 address") from None


def _name(key: str, value: str) -> str:
    """Return a host or domain name without its final dot. Raises ValueError if it is not valid."""
    name = value.rstrip(".")
    if not name or len(name) > NAME_MAX - 2 or not all(_LABEL.match(label) for label in name.split(".")):
        raise ValueError(f"{key}={value}: not a valid name")
    return name


def parse_net(value: str) -> tuple[IPv4Network, str]:
    """Turn ``addr[/bits|/mask]`` into a network and a warning ("" if there is none). Raises ValueError."""
    text, slash, bits = value.partition("/")
    warning = ""
    try:
        if not slash:
            bits = "24"
            warning = f"net={value}: no prefix length given, /24 assumed"
        network = IPv4Network(f"{text}/{bits}", strict=False)
    except ValueError:
        raise ValueError(f"net={value}: not an IPv4 network (want ADDRESS/BITS)") from None
    first = int(network.network_address) >> 24
    if not 4 <= network.prefixlen <= 29:
        raise ValueError(f"net={value}: prefix length must be 4 to 29")
    if first in (0, 127) or first >= 224:
        raise ValueError(f"net={value}: not a unicast network")
    return network, warning


def parse_resolver(value: str) -> list[Address]:
    """Parse ``ADDR[:PORT][+ADDR...]``; an IPv6 address with a port stands in brackets. Raises ValueError."""
    found: list[Address] = []
    for part in value.split("+"):
        host, port = part, "53"
        if part.startswith("["):
            host, bracket, rest = part[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ValueError(f"resolver={value}: {part} is not an address")
            port = rest[1:] or "53"
        elif part.count(":") == 1:
            host, _, port = part.partition(":")
        try:
            ip_address(host)
        except ValueError:
            raise ValueError(f"resolver={value}: {host} is not a numeric address") from None
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"resolver={value}: {port} is not a port")
        found.append((host, int(port)))
    return found


# Keys that can change while a stack runs. The others shape the network itself, and flows would not survive
# that.
LIVE = frozenset(
    (
        "hostname",
        "domainname",
        "dnssearch",
        "lease_time",
        "lease_given",
        "renew_time",
        "restrict",
        "rules",
        "hostloopback",
        "resolver",
        "buffers",
        "tftp_write",
        "tftp_nocase",
        "tftp_server_name",
        "bootfile",
        "bootfiles",
        "next_server",
        "ntp",
        "routes",
        "dhcp_options",
        "ftp",
        "records",
    )
)


def changes_live(old: Config, new: Config) -> bool:
    """Say whether a stack of ``old`` can take on ``new`` and keep its flows and leases
    (``Stack.reconfigure``).
    """
    return all(
        one.name in LIVE or getattr(old, one.name) == getattr(new, one.name)
        for one in fields(Config)
        if one.name != "warnings"
    )


@dataclass(frozen=True)
class Config:
    """The fields are the keys of ``-netdev user`` that concern this engine; their names are QEMU's, with
    ``_`` for ``-``.

    net, host, dns, dhcpstart are text; after construction ``network``, ``host_ip``, ``dns_ip``,
    ``dhcp_first`` hold them as addresses. ``resolver`` lists the name servers behind ``dns`` (none: the
    host's own). ``lease_time`` is in seconds, ``mtu`` in bytes of IP, ``buffers`` in bytes.
    """

    net: str = "10.0.2.0/24"
    host: str | None = None
    dns: str | None = None
    dhcpstart: str | None = None
    hostname: str | None = None
    domainname: str | None = None
    dnssearch: tuple[str, ...] = ()
    lease_time: int = LEASE_TIME
    lease_given: bool = False  # by the administrator: every client gets ``lease_time``, whatever it asks for
    renew_time: int | None = None  # T1 in seconds; None: half of the lease
    restrict: bool = False
    rules: tuple[Rule, ...] = ()  # allow and deny rules, in order
    hostloopback: bool = True
    resolver: tuple[Address, ...] = ()
    mtu: int = MTU
    buffers: int = BUFFERS
    tftp: str | None = None  # directory that the TFTP server offers
    tftp_write: bool = False
    tftp_nocase: bool = False
    tftp_server_name: str | None = None
    bootfile: str | None = None
    bootfiles: tuple[tuple[int, str], ...] = ()  # (client architecture of option 93, or IPXE; file or URL)
    next_server: str | None = None  # address that boot files come from; None: ``host``
    fixed: tuple[tuple[bytes, str, str], ...] = ()  # fixed leases: MAC, address, name ("": none)
    ntp: tuple[str, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()  # classless static routes: net, router
    records: tuple[tuple[str, str], ...] = ()  # records that our name server answers itself: name, address
    dhcp_options: tuple[tuple[int, bytes], ...] = ()  # options by number; b"": leave this option out
    ftp: str = "auto"  # "off": no help for FTP servers behind a redirection
    dhcp: bool = True
    ipv4: bool = True
    v6: Config6 | None = None  # None: IPv4 only
    network: IPv4Network = field(init=False, repr=False)
    host_ip: bytes = field(init=False, repr=False)
    dns_ip: bytes = field(init=False, repr=False)
    dhcp_first: bytes = field(init=False, repr=False)
    warnings: tuple[str, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        network, warning = parse_net(self.net)
        small = network.prefixlen > 27
        host = self._own("host", self.host, network, 1 if small else 2)
        dns = self._own("dns", self.dns, network, 2 if small else 3, self.restrict)
        first = self._own("dhcpstart", self.dhcpstart, network, 3 if small else 15)
        if dns == host:
            raise ValueError(f"dns={dns}: must differ from host")
        if first in (host, dns):
            raise ValueError(f"dhcpstart={first}: must differ from host and dns")
        put = object.__setattr__
        put(self, "network", network)
        put(self, "host_ip", host.packed)
        put(self, "dns_ip", dns.packed)
        put(self, "dhcp_first", first.packed)
        put(self, "warnings", (warning,) if warning else ())
        self._check_names()
        self._check_numbers()
        self._check_dhcp()

    @staticmethod
    def _own(
        key: str, value: str | None, network: IPv4Network, default: int, inside: bool = True
    ) -> IPv4Address:
        address = _address(key, value) if value is not None else network.network_address + default
        if address not in network and (inside or is_martian(address.packed)):
            raise ValueError(f"{key}={address}: not in {network}")
        if address in (network.network_address, network.broadcast_address):
            raise ValueError(f"{key}={address}: is the network or broadcast address of {network}")
        return address

    def _check_names(self) -> None:
        put = object.__setattr__
        for key in ("hostname", "domainname"):
            value = getattr(self, key)
            if value is not None:
                put(self, key, _name(key, value))
        if len(self.dnssearch) > SEARCH_MAX:
            raise ValueError(f"dnssearch={self.dnssearch[SEARCH_MAX]}: more than {SEARCH_MAX} domains")
        put(self, "dnssearch", tuple(_name("dnssearch", domain) for domain in self.dnssearch))
        for key, limit in (("bootfile", BOOTFILE_MAX), ("tftp_server_name", NAME_MAX)):
            value = getattr(self, key)
            if value is None:
                continue
            if not value or len(value.encode()) > limit:
                raise ValueError(f"{key.replace('_', '-')}={value}: must be 1 to {limit} bytes")

    def _check_numbers(self) -> None:
        for key, value, low, high in (
            ("lease-time", self.lease_time, LEASE_TIME_MIN, LEASE_TIME_MAX),
            ("mtu", self.mtu, MTU_MIN, MTU_MAX),
            ("buffers", self.buffers, BUFFERS_MIN, 1 << 40),
        ):
            if not low <= value <= high:
                raise ValueError(f"{key}={value}: must be {low} to {high}")
        if self.v6 is not None and self.mtu < MTU_MIN6:
            raise ValueError(f"mtu={self.mtu}: IPv6 needs {MTU_MIN6}")
        if self.v6 is None and not self.ipv4:
            raise ValueError("ipv4=off: nothing is left without IPv6")
        if len(self.resolver) > RESOLVERS_MAX:
            raise ValueError(
                f"resolver={self.resolver[RESOLVERS_MAX][0]}: more than {RESOLVERS_MAX} addresses"
            )
        for address, port in self.resolver:
            try:
                canonical(address)
            except ValueError:
                raise ValueError(f"resolver={address}: not a numeric address") from None
            if not 0 < port < 65536:
                raise ValueError(f"resolver={address}:{port}: not a port")

    def _check_dhcp(self) -> None:
        for key, found, limit in (
            ("lease", self.fixed, FIXED_MAX),
            ("ntp", self.ntp, NTP_MAX),
            ("record", self.records, RECORDS_MAX),
        ):
            if len(found) > limit:
                raise ValueError(f"{key}={found[limit]}: more than {limit} of them")
        for _, text, name in self.fixed:
            address = self._own("lease", text, self.network, 0)
            if address.packed in self.own:
                raise ValueError(f"lease={address}: is an address of the NAT's own")
            if name:
                _name("lease", name)
        if self.next_server is not None:
            _address("next-server", self.next_server)
        for text in self.ntp:
            _address("ntp", text)
        for net, router in self.routes:
            try:
                IPv4Network(net)
            except ValueError:
                raise ValueError(f"route={net}: not an IPv4 network") from None
            _address("route", router)
        for _, file in self.bootfiles:
            if not file or len(file.encode()) > BOOTFILE_MAX:
                raise ValueError(f"bootfile={file}: must be 1 to {BOOTFILE_MAX} bytes")
        seen: set[int] = set()
        for code, value in self.dhcp_options:
            if code in SERVERS_OWN or code in seen:
                why = "given twice" if code in seen else "the server's own"
                raise ValueError(f"dhcp-option={code}: option {code} is {why}")
            if not 0 < code < 255 or len(value) > 255:
                raise ValueError(f"dhcp-option={code}: must be 1 to 254, with 255 bytes at most")
            seen.add(code)

    @property
    def routed(self) -> bool:
        """Say whether guests can reach anything outside their net and so need a router."""
        return not self.restrict or any(rule.allow for rule in self.rules)

    @property
    def named(self) -> bool:
        """Say whether guests can use our name server."""
        return bool(self.records) or Rules(self.rules, self.restrict).permits(
            PROTO_UDP, self.dns_ip, DNS_PORT
        )

    @property
    def own(self) -> tuple[bytes, ...]:
        """Return the addresses that this engine answers for."""
        return (self.host_ip, self.dns_ip)
