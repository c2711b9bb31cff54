"""One readable line for each frame and event of the NAT, with the class that ``-d`` knows it by.

    10.0.2.15.40000 > 192.0.2.1.80 [S] seq 7 win 64240 len 0          tcp
    10.0.2.15.68 > 10.0.2.2.67 request 10.0.2.15 (52:54:00:12:34:56)  dhcp
    dhcp_exhausted                                                    dhcp: what the stack counts

Only whoever traces pays for it: the stack knows nothing of this but one test for each event. Frames of a guest may be anything:
what does not parse is said to be so, nothing raises.

Limits: names and texts of guests are cut to ``TEXT`` and shown as ASCII.
"""

from __future__ import annotations

from . import dhcp as formats
from .dns import end_of_question
from .ipv4 import (
    ARP,
    ARP_LEN,
    ETH_LEN,
    IPV4,
    IPV6_LEN,
    PORTS,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTO_UDP,
    TYPE_ARP,
    TYPE_IPV4,
    TYPE_IPV6,
    UDP_LEN,
    ip_text,
    mac_text,
)

CLASSES = ("arp", "dhcp", "dns", "icmp", "tcp", "udp", "tftp", "forward")
OTHER = "slirp"  # what belongs to none of them
TEXT = 80
DNS, DHCP_SERVER, DHCP_CLIENT, TFTP = 53, 67, 68, 69
_EVENTS = {
    "arp": "arp",
    "ndp": "arp",
    "neighbour": "arp",
    "bootp": "dhcp",
    "dhcp": "dhcp",
    "dhcp6": "dhcp",
    "dhcpv6": "dhcp",
    "dns": "dns",
    "echo": "icmp",
    "icmp": "icmp",
    "icmp6": "icmp",
    "tcp": "tcp",
    "udp": "udp",
    "tftp": "tftp",
    "forward": "forward",
    "ftp": "forward",
    "guestfwd": "forward",
}
_MESSAGES = ("?", "discover", "offer", "request", "decline", "ack", "nak", "release", "inform")
_TYPES = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    12: "PTR",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
    255: "ANY",
}
_TFTP = ("?", "RRQ", "WRQ", "DATA", "ACK", "ERROR", "OACK")
_ICMP = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
_ICMP6 = {
    1: "unreachable",
    2: "packet too big",
    3: "time exceeded",
    128: "echo request",
    129: "echo reply",
    133: "router solicitation",
    134: "router advertisement",
    135: "neighbour solicitation",
    136: "neighbour advertisement",
}
_NEIGHBOUR = range(133, 138)


def event_class(reason: str) -> str:
    """The class of what the stack counts."""
    return _EVENTS.get(reason.partition("_")[0], OTHER)


def frame_line(frame: bytes) -> tuple[str, str]:
    """Class and text of a frame; never raises."""
    try:
        kind = frame[12:14]
        if kind == TYPE_ARP and len(frame) >= ETH_LEN + ARP_LEN:
            return "arp", _arp(frame)
        if kind == TYPE_IPV4:
            return _ipv4(frame)
        if kind == TYPE_IPV6:
            return _ipv6(frame)
    except (ValueError, IndexError, LookupError):
        pass
    except Exception as error:  # struct.error and the like: whatever a cut frame makes a parser do
        return OTHER, f"frame of {len(frame)} bytes that does not parse ({type(error).__name__})"
    return OTHER, f"frame of {len(frame)} bytes, type 0x{frame[12:14].hex()}"


def _shown(text: bytes) -> str:
    return text[:TEXT].decode("latin-1").encode("unicode_escape").decode("ascii")


def _arp(frame: bytes) -> str:
    operation, sha, spa, _, tpa = ARP.unpack_from(frame, ETH_LEN)[4:]
    if operation == 1:
        return f"who has {ip_text(tpa)}, asks {ip_text(spa)} ({mac_text(sha)})"
    return f"{ip_text(spa)} is at {mac_text(sha)}, to {ip_text(tpa)}"


def _ipv4(frame: bytes) -> tuple[str, str]:
    first, _, length, _, word, ttl, protocol, _, src, dst = IPV4.unpack_from(frame, ETH_LEN)
    off = ETH_LEN + ((first & 15) << 2)
    end = min(len(frame), ETH_LEN + length) if length else len(frame)
    if word & 0x1FFF:
        return _class(
            protocol
        ), f"{ip_text(src)} > {ip_text(dst)} fragment at {(word & 0x1FFF) << 3}, {end - off} bytes"
    more = f" ttl {ttl}" if ttl < 32 else ""
    which, text = _transport(frame, off, end, protocol, ip_text(src), ip_text(dst))
    return which, text + more + (" (first fragment)" if word & 0x2000 else "")


def _ipv6(frame: bytes) -> tuple[str, str]:
    protocol, hops = frame[ETH_LEN + 6], frame[ETH_LEN + 7]
    src, dst = frame[ETH_LEN + 8 : ETH_LEN + 24], frame[ETH_LEN + 24 : ETH_LEN + 40]
    off, end = ETH_LEN + IPV6_LEN, min(len(frame), ETH_LEN + IPV6_LEN + int.from_bytes(frame[18:20], "big"))
    if end == off:
        end = len(frame)
    which, text = _transport(frame, off, end, protocol, f"[{ip_text(src)}]", f"[{ip_text(dst)}]")
    return which, text + (f" hops {hops}" if hops < 32 else "")


def _class(protocol: int) -> str:
    return {PROTO_TCP: "tcp", PROTO_UDP: "udp", PROTO_ICMP: "icmp", PROTO_ICMPV6: "icmp"}.get(protocol, OTHER)


def _transport(frame: bytes, off: int, end: int, protocol: int, src: str, dst: str) -> tuple[str, str]:
    if protocol == PROTO_TCP:
        sport, dport = PORTS.unpack_from(frame, off)
        flags = frame[off + 13]
        shown = "".join(
            letter
            for bit, letter in ((2, "S"), (1, "F"), (4, "R"), (8, "P"), (32, "U"), (16, "."))
            if flags & bit
        )
        seq, ack = (
            int.from_bytes(frame[off + 4 : off + 8], "big"),
            int.from_bytes(frame[off + 8 : off + 12], "big"),
        )
        window = int.from_bytes(frame[off + 14 : off + 16], "big")
        acked = f" ack {ack}" if flags & 16 else ""
        size = end - off - ((frame[off + 12] >> 4) << 2)
        return "tcp", f"{src}.{sport} > {dst}.{dport} [{shown}] seq {seq}{acked} win {window} len {size}"
    if protocol == PROTO_UDP:
        return _udp(frame, off, end, src, dst)
    if protocol in (PROTO_ICMP, PROTO_ICMPV6):
        kind, code = frame[off], frame[off + 1]
        names = _ICMP if protocol == PROTO_ICMP else _ICMP6
        what = names.get(kind, f"type {kind}")
        detail = ""
        if what.startswith("echo"):
            ident, sequence = PORTS.unpack_from(frame, off + 4)
            detail = f" id {ident} seq {sequence}"
        elif code:
            detail = f" code {code}"
        which = "arp" if protocol == PROTO_ICMPV6 and kind in _NEIGHBOUR else "icmp"
        return which, f"{src} > {dst} {what}{detail}, {end - off - 8} bytes"
    return OTHER, f"{src} > {dst} protocol {protocol}, {end - off} bytes"


def _udp(frame: bytes, off: int, end: int, src: str, dst: str) -> tuple[str, str]:
    sport, dport = PORTS.unpack_from(frame, off)
    ends = f"{src}.{sport} > {dst}.{dport}"
    payload = frame[off + UDP_LEN : end]
    plain = "udp", f"{ends} {len(payload)} bytes"
    try:
        if {sport, dport} & {DHCP_SERVER, DHCP_CLIENT}:
            return "dhcp", f"{ends} {_dhcp(payload)}"
        if DNS in (sport, dport):
            return "dns", f"{ends} {_dns(payload)}"
        if dport == TFTP or (
            len(payload) >= 4 and sport >= 49152 and payload[0] == 0 and 3 <= payload[1] <= 6
        ):
            text = _tftp(payload)
            return ("tftp", f"{ends} {text}") if dport == TFTP else plain
    except (ValueError, IndexError):
        pass
    return plain


def _dhcp(payload: bytes) -> str:
    """Either direction: a reply is read as the request that it looks like."""
    message = formats.parse_dhcp(b"\1" + payload[1:])
    kind = message.kind
    what = "bootp" if kind is None else _MESSAGES[kind] if kind < len(_MESSAGES) else f"type {kind}"
    yours = (
        payload[16:20]
        if payload[0] == formats.BOOTREPLY
        else message.options.get(formats.REQUESTED) or message.ciaddr
    )
    name = message.options.get(formats.HOSTNAME, b"")
    return (
        what
        + (f" {ip_text(yours)}" if any(yours) and len(yours) == 4 else "")
        + f" ({mac_text(message.chaddr)})"
        + (f' "{_shown(name)}"' if name else "")
    )


def _dns(payload: bytes) -> str:
    end = end_of_question(payload)
    labels = []
    at = 12
    while payload[at]:
        labels.append(payload[at + 1 : at + 1 + payload[at]])
        at += 1 + payload[at]
    kind = int.from_bytes(payload[end - 4 : end - 2], "big")
    text = f"{_TYPES.get(kind, f'TYPE{kind}')} {_shown(b'.'.join(labels)) or '.'}"
    if payload[2] & 0x80:
        return f"answer {text}: {int.from_bytes(payload[6:8], 'big')} records, code {payload[3] & 15}"
    return f"query {text}"


def _tftp(payload: bytes) -> str:
    code = payload[1]
    if payload[0] or code >= len(_TFTP):
        raise ValueError("no TFTP")
    words = payload[2:].split(b"\0")
    return f"{_TFTP[code]} {_shown(words[0])}" if code in (1, 2) else _TFTP[code]
