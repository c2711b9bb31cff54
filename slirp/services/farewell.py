"""What a NAT still says after its net was taken away from under its guests: one word to each that comes to renew.

A guest whose card has no link bit does not notice that it is on another network now. It goes on with its lease until
half of it is over (T1), and then asks the server that it had: us. It hears DHCPNAK, once, forgets its address and asks
for a new one, which the new network's server gives.

    ARP request for the server's address, by a client   answered: the request to renew is sent to us alone
    REQUEST that names our server                        DHCPNAK; the client is forgotten
    DISCOVER, REQUEST that names another server          the client is forgotten: it has noticed by itself
    all else                                             not heard

"Names": the server identifier, or without one the destination of the datagram (a renewal has none, RFC 2131 4.3.2).
Only clients with a lease in force are heard, until it runs out. Answers are for the guests' side alone.

Limits: the leases of the NAT (``leases.LEASES``). Timers: ``over`` says when nobody is left. Ref: RFC 2131 4.3.2, 4.4.5;
RFC 826.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..wire import checksum
from ..wire import dhcp as formats
from ..wire.dhcp import BOOTP, BOOTP_MIN, BOOTREPLY, BROADCAST_FLAG, COOKIE, DhcpMessage
from ..wire.ipv4 import (
    ARP,
    ARP_LEN,
    ARP_REPLY,
    ARP_REQUEST,
    BROADCAST_MAC,
    DONT_FRAGMENT,
    ETH_IPV4_UDP,
    ETH_LEN,
    IP,
    IP_DST,
    MORE_FRAGMENTS,
    OFFSET_MASK,
    PORTS,
    PROTO_UDP,
    TYPE_ARP,
    TYPE_IPV4,
    U16,
    UDP_LEN,
    ip_int,
    own_mac,
)
from .dhcp import CLIENT_PORT, EVERYBODY, SERVER_PORT, ZERO
from .leases import Lease

FRAME_MIN = 60
TTL = 64
_IHL_4 = 0x45
_BARE = ETH_LEN + 20 + UDP_LEN
_FLAGS, _PROTOCOL = IP + 6, IP + 9
WHY = b"this network has gone: ask again"


class Farewell:
    """For the clients of ``leases`` (those in force) of the server ``server``."""

    def __init__(self, server: bytes, leases: Iterable[Lease]) -> None:
        self.server = server
        self.mac = own_mac(server)
        self.naks = 0
        self._clients = {lease.mac: lease.expires for lease in leases}

    def over(self, now: int) -> bool:
        """Whether there is nobody left to tell."""
        for mac in [mac for mac, expires in self._clients.items() if expires is not None and expires <= now]:
            del self._clients[mac]
        return not self._clients

    def expires(self) -> int | None:
        """When the last lease runs out, ns; None: never."""
        known = [expires for expires in self._clients.values() if expires is not None]
        return None if len(known) < len(self._clients) else max(known, default=0)

    def input(self, frame: bytes, now: int) -> bytes | None:
        """A frame of the VLAN; what to answer, if anything."""
        if frame[6:12] not in self._clients or self.over(now) or frame[6:12] not in self._clients:
            return None
        kind = frame[12:14]
        if kind == TYPE_ARP:
            return self._arp(frame)
        if kind == TYPE_IPV4 and len(frame) >= _BARE and frame[_PROTOCOL] == PROTO_UDP:
            return self._udp(frame)
        return None

    def _arp(self, frame: bytes) -> bytes | None:
        if len(frame) < ETH_LEN + ARP_LEN:
            return None
        _, _, _, _, operation, sha, spa, _, tpa = ARP.unpack_from(frame, ETH_LEN)
        if operation != ARP_REQUEST or tpa != self.server:
            return None
        reply = ARP.pack(1, 0x0800, 6, 4, ARP_REPLY, self.mac, self.server, sha, spa)
        return (frame[6:12] + self.mac + TYPE_ARP + reply).ljust(FRAME_MIN, b"\0")

    def _udp(self, frame: bytes) -> bytes | None:
        header = (frame[IP] & 15) * 4
        start = IP + header
        end = min(IP + U16.unpack_from(frame, IP + 2)[0], len(frame))
        if header < 20 or start + UDP_LEN > end or PORTS.unpack_from(frame, start)[1] != SERVER_PORT:
            return None
        if U16.unpack_from(frame, _FLAGS)[0] & (MORE_FRAGMENTS | OFFSET_MASK):
            return None
        try:
            message = formats.parse_dhcp(frame[start + UDP_LEN : end])
        except ValueError:
            return None
        client = message.chaddr
        if message.kind == formats.DISCOVER:
            self._clients.pop(client, None)
        elif message.kind == formats.REQUEST and client in self._clients:
            named = message.options.get(formats.SERVER_ID, frame[IP_DST : IP_DST + 4])
            if named == self.server:
                del self._clients[client]
                self.naks += 1
                return self._nak(message)
            if formats.SERVER_ID in message.options:
                del self._clients[client]
        return None

    def _nak(self, message: DhcpMessage) -> bytes:
        items = [
            (formats.MESSAGE, bytes([formats.NAK])),
            (formats.SERVER_ID, self.server),
            (formats.TEXT, WHY),
        ]
        client_id = message.options.get(formats.CLIENT_ID)
        if client_id is not None:
            items.append((formats.CLIENT_ID, client_id))
        area, _, _, _ = formats.pack_options(items, BOOTP_MIN, False, False)
        packet = BOOTP.pack(
            *(
                BOOTREPLY,
                message.htype,
                len(message.chaddr),
                0,
                message.xid,
                0,
                message.flags & BROADCAST_FLAG,
            ),
            *(ZERO, ZERO, ZERO, ZERO, message.chaddr_field, b"", b""),
        )
        packet = (packet + COOKIE + area).ljust(BOOTP_MIN, b"\0")
        size = len(packet) + UDP_LEN
        start = ip_int(self.server + EVERYBODY) + PROTO_UDP + 2 * size + SERVER_PORT + CLIENT_PORT
        words = (_IHL_4 << 8, size + 20, 0, DONT_FRAGMENT, TTL << 8 | PROTO_UDP)
        summed = checksum.checksum(
            U16.pack(words[0]) + b"".join(map(U16.pack, words[1:])) + self.server + EVERYBODY
        )
        return (
            ETH_IPV4_UDP.pack(
                *(BROADCAST_MAC, self.mac, 0x0800, *words, summed, self.server, EVERYBODY),
                *(SERVER_PORT, CLIENT_PORT, size, checksum.checksum(packet, start)),
            )
            + packet
        )
