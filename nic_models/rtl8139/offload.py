"""What the RTL8139C+ does to a frame on its way: VLAN tags, checksums, large send. Pure functions, IPv4 only.

Transmit: the IPv4 header checksum is put in here; TCP and UDP checksums and segmentation leave as a
virtio_net_hdr (``vnet``) and are somebody else's work. Every length that the driver gives (header lengths, IP
total length, MSS) is checked against the frame before use; a frame that does not hold what its descriptor
promises goes out as it is. Receive: protocol and checksum flags of the receive descriptor.

Ref: RTL8139C(L)+ data sheet chapter 9 (Tx and Rx descriptors), "Task offload"; RFC 791, 793, 768, 1071;
CVE-2015-5165.
"""

from __future__ import annotations

from struct import Struct

from ..virtio import ones_sum, partial, tcp4
from . import registers as r

OFFLOADS = r.TD_LGSEN | r.TD_IPCS | r.TD_UDPCS | r.TD_TCPCS
_IP4 = b"\x08\x00"
_VLAN = b"\x81\x00"
_TCP, _UDP = 6, 17
_IP_HEADER = 20
_TCP_HEADER = 20
_UDP_HEADER = 8
_FRAGMENT = 0x3FFF  # more fragments, or an offset
_WORD = Struct(">H")


def add_tag(frame: bytes, word: int) -> bytes:
    """``frame`` with the VLAN tag of a transmit descriptor's second word behind its addresses."""
    return b"".join((frame[:12], _VLAN, (word & 0xFFFF).to_bytes(2, "little"), frame[12:]))


def take_tag(frame: bytes) -> tuple[bytes, int]:
    """``frame`` without its VLAN tag, and the receive descriptor's second word; 0 where there is no tag."""
    if frame[12:14] != _VLAN or len(frame) < 18:
        return frame, 0
    return frame[:12] + frame[16:], r.RD_TAVA | int.from_bytes(frame[14:16], "little")


def transmit(frame: bytes, flags: int) -> tuple[bytes, bytes]:
    """Frame and vnet for the offload bits of a transmit descriptor's first word."""
    layer3 = 18 if frame[12:14] == _VLAN else 14
    if frame[layer3 - 2 : layer3] != _IP4 or len(frame) < layer3 + _IP_HEADER or frame[layer3] >> 4 != 4:
        return frame, b""
    header = (frame[layer3] & 15) * 4
    total = _WORD.unpack_from(frame, layer3 + 2)[0]
    if header < _IP_HEADER or total < header or layer3 + total > len(frame):
        return frame, b""
    data = bytearray(frame)
    vnet = b""
    if (
        flags & (r.TD_LGSEN | r.TD_TCPCS | r.TD_UDPCS)
        and not _WORD.unpack_from(data, layer3 + 6)[0] & _FRAGMENT
    ):
        vnet = _layer4(data, layer3, header, total, flags)
    if flags & (r.TD_IPCS | r.TD_LGSEN):
        _WORD.pack_into(data, layer3 + 10, 0)
        value = 0xFFFF - ones_sum(memoryview(data)[layer3 : layer3 + header])
        _WORD.pack_into(data, layer3 + 10, value)
    return bytes(data), vnet


def _layer4(data: bytearray, layer3: int, header: int, total: int, flags: int) -> bytes:
    """Put the pseudo header's sum in place, cut padding off, and say what is owed."""
    protocol = data[layer3 + 9]
    start, length = layer3 + header, total - header
    if protocol == _TCP and flags & (r.TD_TCPCS | r.TD_LGSEN) and length >= _TCP_HEADER:
        field = 16
    elif protocol == _UDP and flags & r.TD_UDPCS and length >= _UDP_HEADER:
        field = 6
    else:
        return b""
    vnet = partial(start, field)
    if flags & r.TD_LGSEN and protocol == _TCP:
        tcp_header = (data[start + 12] >> 4) * 4
        mss = flags >> r.TD_MSS_SHIFT & r.TD_MSS
        if not _TCP_HEADER <= tcp_header <= length:
            return b""
        if 0 < mss < length - tcp_header:
            vnet = tcp4(start + tcp_header, mss, start)
    del data[layer3 + total :]
    addresses = memoryview(data)[layer3 + 12 : layer3 + 20]
    value = ones_sum(addresses) + protocol + length
    addresses.release()
    _WORD.pack_into(data, start + field, value % 0xFFFF or 0xFFFF)
    return vnet


def receive_flags(frame: bytes) -> int:
    """PID and failure bits of a receive descriptor's first word; 0 for what is not IPv4."""
    layer3 = 18 if frame[12:14] == _VLAN else 14
    if frame[layer3 - 2 : layer3] != _IP4 or len(frame) < layer3 + _IP_HEADER or frame[layer3] >> 4 != 4:
        return 0
    header = (frame[layer3] & 15) * 4
    total = _WORD.unpack_from(frame, layer3 + 2)[0]
    view = memoryview(frame)
    if header < _IP_HEADER or total < header or layer3 + total > len(frame):
        return r.RD_PID_IP | r.RD_IPF
    result = 0 if ones_sum(view[layer3 : layer3 + header]) == 0xFFFF else r.RD_IPF
    protocol = frame[layer3 + 9]
    start, length = layer3 + header, total - header
    if protocol not in (_TCP, _UDP) or _WORD.unpack_from(frame, layer3 + 6)[0] & _FRAGMENT:
        return result | r.RD_PID_IP
    shortest, pid, fail = (
        (_TCP_HEADER, r.RD_PID_TCP, r.RD_TCPF) if protocol == _TCP else (_UDP_HEADER, r.RD_PID_UDP, r.RD_UDPF)
    )
    if length < shortest:
        return result | pid | fail
    if protocol == _UDP and not _WORD.unpack_from(frame, start + 6)[0]:
        return result | pid  # sent without a checksum
    pseudo = ones_sum(view[layer3 + 12 : layer3 + 20]) + protocol + length
    if (pseudo + ones_sum(view[start : start + length])) % 0xFFFF:
        result |= fail
    return result | pid
