"""The header that travels with a frame whose checksum or segmentation is still owed, and the bits that say who takes one.

Ref: virtio 1.2, 5.1.6 (virtio_net_hdr); Linux include/uapi/linux/if_tun.h (TUN_F_*).
"""

from __future__ import annotations

from struct import Struct

# What a member accepts: bits of TUNSETOFFLOAD.
TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_TSO_ECN = 0x08
TUN_F_UFO = 0x10  # obsolete, never offered
TUN_F_USO4 = 0x20
TUN_F_USO6 = 0x40
TUN_F_TSO = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
TUN_F_ALL = TUN_F_TSO | TUN_F_USO4 | TUN_F_USO6

# virtio_net_hdr: flags u8, gso_type u8, hdr_len, gso_size, csum_start, csum_offset, each u16 little-endian.
VNET = Struct("<BBHHHH")
VNET_LEN = VNET.size
VNET_FLAGS, VNET_GSO_TYPE, VNET_HDR_LEN, VNET_GSO_SIZE, VNET_CSUM_START, VNET_CSUM_OFFSET = 0, 1, 2, 4, 6, 8
F_NEEDS_CSUM = 1
F_DATA_VALID = 2
GSO_NONE = 0
GSO_TCPV4 = 1
GSO_UDP = 3
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_ECN = 0x80
