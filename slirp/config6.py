"""The IPv6 half of a user-mode network's description. QEMU's addresses: fec0::/64, router ::2, name server ::3.

Every error is a ValueError of one line that names the key and the value.

Ref: QEMU 7.2 qapi/net.json, NetdevUserOptions; RFC 4291.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from .wire.ipv6 import LINK_LOCAL, is_martian6

NET = "fec0::/64"
PREFIX_MAX = 126
NTP_MAX = 4
FIRST = 0x1000  # of the addresses to lease, where the prefix has room


def _address(key: str, value: str) -> IPv6Address:
    try:
        return IPv6Address(value)
    except ValueError:
        raise ValueError(f"{key}={value}: not an IPv6 address") from None


@dataclass(frozen=True)
class Config6:
    """net, host, dns are text; after construction ``network``, ``host_ip``, ``dns_ip`` hold them. ``ntp``: servers that
    DHCPv6 names."""

    net: str = NET
    host: str | None = None
    dns: str | None = None
    ntp: tuple[str, ...] = ()
    network: IPv6Network = field(init=False, repr=False)
    host_ip: bytes = field(init=False, repr=False)
    dns_ip: bytes = field(init=False, repr=False)
    ntp_ips: tuple[bytes, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            network = IPv6Network(self.net, strict=False)
        except ValueError:
            raise ValueError(f"ipv6-net={self.net}: not an IPv6 network (want PREFIX/BITS)") from None
        if network.prefixlen > PREFIX_MAX:
            raise ValueError(f"ipv6-net={self.net}: the prefix must not be longer than /{PREFIX_MAX}")
        if network.is_multicast or network.is_link_local or network.network_address.packed[:8] == bytes(8):
            raise ValueError(f"ipv6-net={self.net}: not a net that guests can live in")
        base = int(network.network_address)
        host = _address("ipv6-host", self.host) if self.host is not None else IPv6Address(base | 2)
        dns = _address("ipv6-dns", self.dns) if self.dns is not None else IPv6Address(base | 3)
        for key, address in (("ipv6-host", host), ("ipv6-dns", dns)):
            if address not in network and (
                key == "ipv6-host" or address.is_multicast or is_martian6(address.packed)
            ):
                raise ValueError(f"{key}={address}: not in {network}")
            if int(address) == base:
                raise ValueError(f"{key}={address}: is the subnet-router anycast address of {network}")
        if dns == host:
            raise ValueError(f"ipv6-dns={dns}: must differ from ipv6-host")
        if len(self.ntp) > NTP_MAX:
            raise ValueError(f"ntp={self.ntp[NTP_MAX]}: more than {NTP_MAX} of IPv6")
        put = object.__setattr__
        put(self, "network", network)
        put(self, "host_ip", host.packed)
        put(self, "dns_ip", dns.packed)
        put(self, "ntp_ips", tuple(_address("ntp", text).packed for text in self.ntp))

    @property
    def own(self) -> tuple[bytes, ...]:
        """Addresses that this engine answers for, the router's link-local one among them."""
        return (self.host_ip, self.dns_ip, LINK_LOCAL)

    @property
    def pool(self) -> tuple[int, int]:
        """First and last address to lease, as numbers: a 64 Ki block, or what a small net has."""
        base = int(self.network.network_address)
        size = 1 << (128 - self.network.prefixlen)
        if size >= 0x10000:
            return base + FIRST, base + 0xFFFF
        return base + (4 if size > 8 else 1), base + size - 1
