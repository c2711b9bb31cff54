"""Offsets and structs of Ethernet, ARP, IPv4, ICMP and UDP, each named once, and the addresses' two
spellings.

Nothing here judges: a length or checksum is checked where the frame is taken in (``ip/ipv4.py``, ``ip/arp.py``
...). Addresses are 4 or 16 bytes in network order inside the NAT (``bytes``), and numeric text towards the
host.

Ref: IEEE 802.3; RFC 826 (ARP); RFC 791 (IPv4); RFC 792 (ICMP); RFC 768 (UDP); RFC 8200 (IPv6);
virtio 1.2, 5.1.6 (the 10-byte virtio_net_hdr); Linux uapi/linux/if_tun.h (TUN_F_*).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct

# --- Ethernet
ETH_DST, ETH_SRC, ETH_TYPE, ETH_LEN = 0, 6, 12, 14
TYPE_IPV4, TYPE_ARP, TYPE_IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
BROADCAST_MAC = b"\xff" * 6
NO_MAC = bytes(6)  # of a neighbour that has not answered yet
MAC_PREFIX = b"\x52\x55"  # our stations: 52:55 + their IPv4 address

# --- ARP over Ethernet and IPv4, after the Ethernet header
ARP = Struct("!HHBBH6s4s6s4s")
ARP_LEN = 28
ARP_REQUEST, ARP_REPLY = 1, 2

# --- IPv4, after the Ethernet header
IP = ETH_LEN
IPV4 = Struct("!BBHHHBBH4s4s")
IPV4_LEN = 20
IPV4_MAX = 65535
IP_SRC, IP_DST = IP + 12, IP + 16
MORE_FRAGMENTS, DONT_FRAGMENT, OFFSET_MASK = 0x2000, 0x4000, 0x1FFF
ETH_IPV4 = Struct("!6s6sHHHHHHH4s4s")  # Ethernet and IPv4 header without options
ETH_IPV4_LEN = ETH_LEN + IPV4_LEN
PROTO_ICMP, PROTO_IGMP, PROTO_TCP, PROTO_UDP, PROTO_ICMPV6 = 1, 2, 6, 17, 58
IPV6_LEN = 40

# --- UDP
UDP = Struct("!HHHH")
UDP_LEN = 8
UDP_CHECKSUM = 6
ETH_IPV4_UDP = Struct("!6s6sHHHHHHH4s4sHHHH")

# --- ICMP
ICMP = Struct("!BBHI")
ICMP_LEN = 8
ECHO_REPLY, UNREACHABLE, SOURCE_QUENCH, REDIRECT, ECHO_REQUEST, TIME_EXCEEDED, PARAMETER = (
    0,
    3,
    4,
    5,
    8,
    11,
    12,
)
ECHO_REQUEST_6, ECHO_REPLY_6 = 128, 129  # RFC 4443
ICMP_ERRORS = frozenset((UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER))
NET, HOST, PROTOCOL, PORT, TOO_BIG, PROHIBITED = 0, 1, 2, 3, 4, 13  # codes of UNREACHABLE

# --- virtio_net_hdr
VNET = Struct("<BBHHHH")
VNET_LEN = 10
VNET_NEEDS_CSUM, VNET_DATA_VALID = 1, 2
VNET_GSO_TYPE, VNET_GSO_SIZE = 1, 4
GSO_NONE, GSO_UDP_L4 = 0, 5
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
VNET_UDP_CSUM = VNET.pack(VNET_NEEDS_CSUM, GSO_NONE, ETH_IPV4_LEN + UDP_LEN, 0, ETH_IPV4_LEN, UDP_CHECKSUM)

U16 = Struct("!H")
U32 = Struct("!I")
PORTS = Struct("!HH")


def ip_bytes(text: str) -> bytes:
    """Numeric text to 4 or 16 bytes; an IPv6 scope (``%eth0``) is left out. Raises ValueError."""
    return ip_address(text.partition("%")[0]).packed


def ip_text(address: bytes) -> str:
    """4 or 16 bytes to text."""
    if len(address) == 4:
        return str(IPv4Address(address))
    return str(IPv6Address(address))


def ip_int(address: bytes) -> int:
    """An address as a number."""
    return int.from_bytes(address, "big")


def mac_text(mac: bytes) -> str:
    """Return a MAC address as text, like 52:55:0a:00:02:02."""
    return mac.hex(":")


def is_multicast_or_broadcast(address: bytes) -> bool:
    """Of an IPv4 address: class D, class E and limited broadcast (no host has such an address)."""
    return address[0] >= 224


def is_martian(address: bytes) -> bool:
    """Whether an IPv4 address may not be the destination of anything that leaves the guest's own network.

    0/8 and 127/8 (this host: RFC 1122 3.2.1.3), 169.254/16 (RFC 3927 2.7: never forwarded), 224/4 and 240/4.
    """
    first = address[0]
    return first in (0, 127) or first >= 224 or (first == 169 and address[1] == 254)


def own_mac(address: bytes) -> bytes:
    """The MAC address that goes with an own IPv4 address."""
    return MAC_PREFIX + address


def canonical(text: str) -> str:
    """One spelling per host address: v4-mapped and v4-compatible loopback IPv6 become IPv4; no scope."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def as_ipv4(text: str) -> IPv4Address:
    """Numeric IPv4 text; raises ValueError."""
    return IPv4Address(text)
