"""Software checksum completion and segmentation, for members that cannot take super-frames.

Data flow: a frame may cross a hub together with a virtio_net_hdr that says what work is still owed on it: a
checksum whose field holds only the pseudo-header's sum, or a cut into segments of ``gso_size`` bytes.
``accepted`` tells whether a member with these TUN_F_* bits takes the frame as it is; if not, ``complete``
does the work at the exit of that member's port. State: none. Time: none.

What a cut does (as the Linux kernel's own): headers are repeated with the options they had; IPv4
identification counts up by one; TCP sequence numbers go on; FIN and PSH stay on the last segment only, CWR
on the first only; a UDP super-datagram becomes one datagram per ``gso_size`` bytes. IPv4 options, IPv6
extension headers and up to two VLAN tags are kept. If the member takes partial checksums, the segments
leave with theirs partial.

Limits: at most ``SEGMENTS_MAX`` segments come out of one frame. A header that contradicts its frame yields
no frame at all: the caller counts it as malformed. The obsolete UDP fragmentation (VIRTIO_NET_HDR_GSO_UDP)
is not offered to anybody and counts as malformed.

Ref: virtio 1.2, 5.1.6 (virtio_net_hdr); Linux include/uapi/linux/if_tun.h (TUN_F_*), RFC 1071, RFC 9293 3.1,
RFC 768, RFC 791, RFC 8200 4.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

from ..virtio import (
    F_NEEDS_CSUM,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    TUN_F_CSUM,
    TUN_F_TSO4,
    TUN_F_TSO6,
    TUN_F_TSO_ECN,
    TUN_F_USO4,
    TUN_F_USO6,
    VNET,
    VNET_LEN,
)

SEGMENTS_MAX = 2048
_QUARTERS_FROM = 512  # bytes

Frame = tuple[bytes, bytes]

_IMPOSSIBLE = 1 << 30
_NEEDS = [_IMPOSSIBLE] * 256  # gso_type -> TUN_F_* bits; NEEDS_CSUM happens to be TUN_F_CSUM's bit
_NEEDS[GSO_NONE] = 0
_NEEDS[GSO_TCPV4] = TUN_F_CSUM | TUN_F_TSO4
_NEEDS[GSO_TCPV6] = TUN_F_CSUM | TUN_F_TSO6
_NEEDS[GSO_TCPV4 | GSO_ECN] = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO_ECN
_NEEDS[GSO_TCPV6 | GSO_ECN] = TUN_F_CSUM | TUN_F_TSO6 | TUN_F_TSO_ECN
_NEEDS[GSO_UDP_L4] = TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6

_U16 = Struct("!H")
_U16_PAIR = Struct("!HH")
_U32 = Struct("!I")

_ETH_TYPE = 12
_ETH_LEN = 14
_TAG_LEN = 4
_TAGS = (0x8100, 0x88A8)
_TYPE_IPV4, _TYPE_IPV6 = 0x0800, 0x86DD
_IP4_LEN, _IP4_TOTAL, _IP4_ID, _IP4_FRAG, _IP4_PROTO, _IP4_SUM, _IP4_SRC = 20, 2, 4, 6, 9, 10, 12
_IP6_LEN, _IP6_PAYLOAD, _IP6_NEXT, _IP6_SRC = 40, 4, 6, 8
_IP6_ROUTING = 43
_IP6_SKIPPED = (0, _IP6_ROUTING, 60)  # hop-by-hop, routing, destination options: all in units of 8 bytes
_IP6_EXTENSIONS_MAX = 8
_TCP, _UDP = 6, 17
_TCP_LEN, _TCP_SEQ, _TCP_DATA, _TCP_FLAGS, _TCP_SUM = 20, 4, 12, 13, 16
_TCP_FIN_PSH, _TCP_CWR = 0x09, 0x80
_UDP_LEN, _UDP_LENGTH, _UDP_SUM = 8, 4, 6


def accepted(vnet: bytes, features: int) -> bool:
    """Whether a member that takes ``features`` (TUN_F_*) takes a frame with this header as it is."""
    if not vnet:
        return True
    if len(vnet) != VNET_LEN:
        return False
    need = _NEEDS[vnet[1]] | vnet[0] & F_NEEDS_CSUM
    return need & features == need


def complete(frame: bytes, vnet: bytes, features: int = 0) -> list[Frame]:
    """Do the owed work that a member with ``features`` cannot do: frames with their headers, in order.

    A returned header is ``b""`` or one that the member accepts. ``[]``: header and frame contradict each
    other.
    """
    if not vnet:
        return [(frame, vnet)]
    if len(vnet) != VNET_LEN:
        return []
    flags, gso_type, _, size, start, offset = VNET.unpack(vnet)
    kind = gso_type & ~GSO_ECN
    if gso_type == GSO_NONE:
        if not flags & F_NEEDS_CSUM:
            return [(frame, b"")]
        return [(frame, vnet)] if features & TUN_F_CSUM else _finish_checksum(frame, start, offset)
    if not size or (gso_type & GSO_ECN and kind == GSO_UDP_L4):
        return []
    if kind == GSO_TCPV4:
        version, proto = 4, _TCP
    elif kind == GSO_TCPV6:
        version, proto = 6, _TCP
    elif kind == GSO_UDP_L4:
        version, proto = 0, _UDP
    else:
        return []
    try:
        return _segment(frame, version, proto, size, start if flags & F_NEEDS_CSUM else 0, features)
    except (IndexError, ValueError, StructError):  # headers run past the frame
        return []


def partial(start: int, offset: int) -> bytes:
    """Header of a frame whose checksum at ``start + offset`` holds the sum of the pseudo-header only."""
    return VNET.pack(F_NEEDS_CSUM, GSO_NONE, 0, 0, start, offset)


def ones_sum(data: bytes) -> int:
    """Internet checksum's sum of ``data`` (not inverted), 0..65534; 65535 counts as 0.

    The division is the dear part, so longer data is added up as four numbers first (1,448 bytes: 2.6 us,
    not 4.1).
    """
    size = len(data)
    if size & 1:
        data += b"\0"
        size += 1
    if size < _QUARTERS_FROM:
        return int.from_bytes(data, "big") % 65535
    number = int.from_bytes
    one = size >> 3 << 1
    two = one + one
    three = two + one
    return (
        number(data[:one], "big")
        + number(data[one:two], "big")
        + number(data[two:three], "big")
        + number(data[three:], "big")
    ) % 65535


def _finish_checksum(frame: bytes, start: int, offset: int) -> list[Frame]:
    at = start + offset
    if start < _ETH_LEN or at + 2 > len(frame):
        return []
    value = 65535 - ones_sum(
        frame[start:]
    )  # never 0: to UDP that means no checksum, to TCP 0xffff is the same
    return [(b"".join((frame[:at], _U16.pack(value), frame[at + 2 :])), b"")]


def _headers(frame: bytes, version: int, proto: int) -> tuple[int, int, int, int, int]:
    """Where the headers are: (version, network, transport, end of packet, sum of the addresses).

    Raises ValueError where they are not what the virtio header says, IndexError where they run past the
    frame.
    """
    network = _ETH_LEN
    ethertype = frame[12] << 8 | frame[13]
    while ethertype in _TAGS and network <= _ETH_LEN + _TAG_LEN:
        network += _TAG_LEN
        ethertype = frame[network - 2] << 8 | frame[network - 1]
    available = len(frame) - network
    if ethertype == _TYPE_IPV4 and version != 6:
        transport = network + (frame[network] & 15) * 4
        total = _U16.unpack_from(frame, network + _IP4_TOTAL)[0] or available
        fragment = _U16.unpack_from(frame, network + _IP4_FRAG)[0] & 0x3FFF
        if (
            frame[network] >> 4 != 4
            or transport - network < _IP4_LEN
            or total > available
            or fragment
            or frame[network + _IP4_PROTO] != proto
        ):
            raise ValueError
        addresses = ones_sum(frame[network + _IP4_SRC : network + _IP4_LEN])
        return 4, network, transport, network + total, addresses
    if ethertype != _TYPE_IPV6 or version == 4 or frame[network] >> 4 != 6:
        raise ValueError
    total = _U16.unpack_from(frame, network + _IP6_PAYLOAD)[0]
    total = total + _IP6_LEN if total else available
    if total > available or total - _IP6_LEN > 65535:  # no jumbograms
        raise ValueError
    addresses = ones_sum(frame[network + _IP6_SRC : network + _IP6_LEN])
    following = frame[network + _IP6_NEXT]
    transport = network + _IP6_LEN
    for _ in range(_IP6_EXTENSIONS_MAX):
        if following not in _IP6_SKIPPED:
            break
        if following == _IP6_ROUTING and frame[transport + 3]:
            addresses = -1  # the pseudo-header has the final destination: trust the sum in the frame
        following = frame[transport]
        transport += 8 + frame[transport + 1] * 8
    if following != proto:
        raise ValueError
    return 6, network, transport, network + total, addresses


def _segment(frame: bytes, version: int, proto: int, size: int, start: int, features: int) -> list[Frame]:
    version, network, transport, end, addresses = _headers(frame, version, proto)
    if start and start != transport:
        raise ValueError
    if proto == _TCP:
        length, field = (frame[transport + _TCP_DATA] >> 4) * 4, transport + _TCP_SUM
        if length < _TCP_LEN:
            raise ValueError
    else:
        length, field = _UDP_LEN, transport + _UDP_SUM
    data = transport + length
    payload = end - data
    if payload < 0 or (payload + size - 1) // size > SEGMENTS_MAX:
        raise ValueError
    if addresses < 0:
        addresses = (_U16.unpack_from(frame, field)[0] - proto - (end - transport)) % 65535

    # One template, patched for each segment: only the fields below change. Sums of what does not are taken
    # once.
    head = bytearray(frame[:data])
    full = min(size, payload)
    tcp = proto == _TCP
    identity = sequence = ip_sum = 0
    if version == 4:
        identity = _U16.unpack_from(head, network + _IP4_ID)[0]
        head[network + _IP4_TOTAL : network + _IP4_FRAG] = bytes(4)
        head[network + _IP4_SUM : network + _IP4_SRC] = bytes(2)
        ip_sum = ones_sum(bytes(head[network:transport]))
    if tcp:
        sequence = _U32.unpack_from(head, transport + _TCP_SEQ)[0]
        last_flags = head[transport + _TCP_FLAGS]
        head[transport + _TCP_SEQ : transport + _TCP_SEQ + 4] = bytes(4)
        head[transport + _TCP_FLAGS] = 0
    else:
        last_flags = 0
        head[transport + _UDP_LENGTH : transport + _UDP_LENGTH + 2] = bytes(2)
    head[field : field + 2] = bytes(2)
    pseudo = addresses + proto
    fixed_sum = pseudo + ones_sum(bytes(head[transport:]))
    flags = last_flags & ~_TCP_FIN_PSH
    leave_partial = features & TUN_F_CSUM
    out_vnet = partial(transport, field - transport) if leave_partial else b""

    frames: list[Frame] = []
    append = frames.append
    put16, put32, put_pair = _U16.pack_into, _U32.pack_into, _U16_PAIR.pack_into
    at = data
    while True:
        stop = at + full
        if stop >= end:
            stop = end
            flags = flags | last_flags & _TCP_FIN_PSH
        chunk = frame[at:stop]
        count = stop - at
        l4_length = length + count
        if version == 4:
            total = data - network + count
            put_pair(head, network + _IP4_TOTAL, total, identity)
            put16(head, network + _IP4_SUM, -(ip_sum + total + identity) % 65535)
            identity = identity + 1 & 0xFFFF
        else:
            put16(head, network + _IP6_PAYLOAD, data - network - _IP6_LEN + count)
        if tcp:
            put32(head, transport + _TCP_SEQ, sequence)
            head[transport + _TCP_FLAGS] = flags
            variable = sequence + flags  # a 32-bit number counts as its two halves: 65536 is 1 modulo 65535
            sequence = sequence + count & 0xFFFFFFFF
        else:
            put16(head, transport + _UDP_LENGTH, l4_length)
            variable = l4_length
        if leave_partial:
            put16(head, field, (pseudo + l4_length) % 65535)
        else:
            total_sum = (fixed_sum + l4_length + variable + ones_sum(chunk)) % 65535
            put16(head, field, -total_sum % 65535 if tcp else 65535 - total_sum)
        append((bytes(head) + chunk, out_vnet))
        if stop == end:
            return frames
        at = stop
        flags &= ~_TCP_CWR
