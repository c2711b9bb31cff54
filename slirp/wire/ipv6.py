"""Offsets and structs of IPv6, ICMPv6, neighbour discovery and DHCPv6's UDP header, each named once. No judgement.

Ref: RFC 8200; RFC 4443; RFC 4861; RFC 4291 (addresses); RFC 2464 7 (group MACs).
"""

from __future__ import annotations

from struct import Struct

from .ipv4 import ETH_LEN, GSO_NONE, UDP_CHECKSUM, UDP_LEN, VNET, VNET_NEEDS_CSUM

# --- IPv6, after the Ethernet header
IPV6 = Struct(
    "!IHBB16s16s"
)  # version class label, payload length, next header, hop limit, source, destination
IPV6_LEN = 40
ETH_IPV6 = Struct("!6s6sHIHBB16s16s")
ETH_IPV6_LEN = ETH_LEN + IPV6_LEN
ETH_IPV6_UDP = Struct("!6s6sHIHBB16s16sHHHH")
ETHERTYPE = 0x86DD
VERSION = 0x60000000
PAYLOAD_LENGTH, NEXT_HEADER, HOP_LIMIT = ETH_LEN + 4, ETH_LEN + 6, ETH_LEN + 7
IP6_SRC, IP6_DST = ETH_LEN + 8, ETH_LEN + 24
PAYLOAD_MAX = 65535
MTU_MIN = 1280  # of every link: RFC 8200 5

# --- next headers
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NONE, DESTINATION = 0, 43, 44, 51, 59, 60
FRAGMENT_HEADER = Struct("!BBHI")  # next header, reserved, offset and M, identification
FRAGMENT_LEN = 8
FRAGMENT_MORE, FRAGMENT_OFFSET = 1, 0xFFF8

# --- ICMPv6
ICMP6 = Struct("!BBHI")
ICMP6_LEN = 8
ECHO6_REQUEST, ECHO6_REPLY = 128, 129
MLD_QUERY, MLD_REPORT, MLD_DONE, MLD2_REPORT = 130, 131, 132, 143
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT, REDIRECT6 = (
    133,
    134,
    135,
    136,
    137,
)
ND_HOPS = 255

# --- neighbour discovery
ND_TARGET = 8  # offset of the target in NS and NA
ND_OPTIONS = 24  # where their options begin
NA_ROUTER, NA_SOLICITED, NA_OVERRIDE = 0x80000000, 0x40000000, 0x20000000
OPT_SOURCE, OPT_TARGET, OPT_PREFIX, OPT_MTU, OPT_RDNSS, OPT_DNSSL = 1, 2, 3, 5, 25, 31

# --- addresses
UNSPECIFIED = bytes(16)
LOOPBACK6 = bytes(15) + b"\1"
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
ALL_ROUTERS = bytes.fromhex("ff020000000000000000000000000002")
ALL_DHCP = bytes.fromhex("ff020000000000000000000000010002")
ALL_DHCP_SERVERS = bytes.fromhex("ff050000000000000000000000010003")
SOLICITED = bytes.fromhex("ff0200000000000000000001ff")
LINK_LOCAL = bytes.fromhex("fe800000000000000000000000000002")  # the router's
MAC_PREFIX6 = b"\x52\x56"  # our stations: 52:56 + the last four bytes of their address
_LOW = bytes(12)
_MAPPED = bytes(10) + b"\xff\xff"

VNET_UDP6_CSUM = VNET.pack(VNET_NEEDS_CSUM, GSO_NONE, ETH_IPV6_LEN + UDP_LEN, 0, ETH_IPV6_LEN, UDP_CHECKSUM)


def own_mac6(address: bytes) -> bytes:
    """The MAC that goes with an own IPv6 address."""
    return MAC_PREFIX6 + address[12:]


def group_mac(group: bytes) -> bytes:
    """The MAC of a multicast address."""
    return b"\x33\x33" + group[12:]


def solicited_node(address: bytes) -> bytes:
    """The group in which the owner of an address hears solicitations."""
    return SOLICITED + address[13:]


def is_link_local(address: bytes) -> bool:
    """Return whether an address is link-local (fe80::/10)."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def is_martian6(address: bytes) -> bool:
    """Whether a unicast address may not be the destination of what leaves the guest's own link: ::/96 (unspecified,
    loopback, IPv4-compatible), ::ffff:0:0/96 (IPv4-mapped: the host's sockets would take it for IPv4), link-local."""
    head = address[:12]
    return head in (_LOW, _MAPPED) or is_link_local(address)
