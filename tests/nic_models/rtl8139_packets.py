"""IPv4 packets for offload tests, and a slow Internet checksum."""

from __future__ import annotations

from struct import pack, unpack

from tests.nic_models.rtl8139_kit import MAC, OTHER

SOURCE, TARGET = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 2))


def slow_sum(data):
    """RFC 1071 by the book: the complemented sum."""
    total = 0
    for index in range(0, len(data), 2):
        total += data[index] << 8 | (data[index + 1] if index + 1 < len(data) else 0)
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(protocol, payload, *, options=b"", fragment=0, total=None, good=True, version=4):
    """An Ethernet frame with an IPv4 packet."""
    words = 5 + len(options) // 4
    total = 4 * words + len(payload) if total is None else total
    header = (
        pack(">BBHHHBBH", version << 4 | words, 0, total, 1, fragment, 64, protocol, 0)
        + SOURCE
        + TARGET
        + options
    )
    if good:
        header = header[:10] + pack(">H", slow_sum(header)) + header[12:]
    return MAC + OTHER + b"\x08\x00" + header + payload


def tcp(payload, *, offset=5, **more):
    """A TCP segment whose checksum and IP checksum are blank."""
    header = pack(">HHIIBBHHH", 1234, 80, 1, 2, offset << 4, 0x18, 8192, 0, 0)
    return ipv4(6, header + payload, good=False, **more)


def finished(frame, layer3=14):
    """``frame`` with both checksums right."""
    words = frame[layer3] & 15
    start = layer3 + 4 * words
    total = unpack(">H", frame[layer3 + 2 : layer3 + 4])[0]
    body = frame[start : layer3 + total]
    protocol = frame[layer3 + 9]
    field = 16 if protocol == 6 else 6
    body = body[:field] + b"\0\0" + body[field + 2 :]
    pseudo = frame[layer3 + 12 : layer3 + 20] + pack(">BBH", 0, protocol, len(body))
    value = slow_sum(pseudo + body) or 0xFFFF
    body = body[:field] + pack(">H", value) + body[field + 2 :]
    header = frame[layer3:start]
    header = header[:10] + b"\0\0" + header[12:]
    header = header[:10] + pack(">H", slow_sum(header)) + header[12:]
    return frame[:layer3] + header + body


def tcp_good(payload, **more):
    """A TCP segment as it should be on the wire."""
    return finished(tcp(payload, **more))


def udp(payload, *, checksum=True):
    """A UDP datagram as it should be on the wire."""
    frame = ipv4(17, pack(">HHHH", 53, 53, 8 + len(payload), 0) + payload)
    return finished(frame) if checksum else frame


def vlan(frame, tci):
    """``frame`` with an 802.1Q tag."""
    return frame[:12] + b"\x81\x00" + pack(">H", tci) + frame[12:]
