"""What the TCP NAT (and any other protocol of layer 4) asks of the stack below it: the contract.

``slirp.stack`` implements it; tests use a small fake. A protocol module never sees an Ethernet or IP
field: it gets validated frames with offsets, and asks a ``Path`` for the headers of what it sends. So one
TCP serves IPv4 and IPv6.

Ref: virtio 1.2, 5.1.6 (the 10-byte virtio_net_hdr that goes with a frame); linux/if_tun.h (TUN_F_*).
"""

from __future__ import annotations

from typing import Protocol

from .host import Address, IcmpError, TcpEvents, TcpSocket

F_CSUM = 1  # TUN_F_*: what the members of the hub take
F_TSO4 = 2
F_TSO6 = 4
F_USO4 = 0x20
F_USO6 = 0x40

VNET_NEEDS_CSUM = 1  # virtio_net_hdr.flags
VNET_DATA_VALID = 2
GSO_NONE = 0
GSO_TCPV4 = 1
GSO_TCPV6 = 4

CODE_NET = 0  # destination unreachable, in the numbers of ICMPv4 (RFC 792, RFC 1122 3.2.2.1)
CODE_HOST = 1
CODE_PORT = 3
CODE_PROHIBITED = 13


class Unreachable(Exception):
    """Raised by ``Link.targets``: the guest is to be told by ICMP that the destination cannot be reached."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code  # CODE_*


class Opener(Protocol):
    """What answers a guest's connection in place of a host address: a program, a UNIX socket, a helper on the stream.

    One with a ``patience`` (ns) is given up after that time where another target is left.
    """

    def open(self, events: TcpEvents) -> TcpSocket:
        """Begin; ``host_connected`` or ``host_failed`` follows. Raises OSError."""


BLOCKED: Address = ("", 0)  # a destination that may not be reached
Target = Address | Opener


class Path(Protocol):
    """How a packet reaches one guest address: templates of the Ethernet and IP headers, IPv4 and IPv6
    alike."""

    mtu: int  # largest IP packet towards that guest, bytes; the MSS is mtu - ip_header - 20
    ip_header: int  # 20 or 40
    family: int  # 4 or 6

    def header(self, length: int) -> bytes:
        """Ethernet and IP header of a layer 4 packet of ``length`` bytes (IPv4: checksum done, id counts
        up)."""

    def pseudo(self, length: int) -> int:
        """Folded one's complement sum (0..65535) of the pseudo header for ``length`` bytes of layer 4."""


class Link(Protocol):
    """The stack, as a protocol module sees it."""

    features: int  # F_* bits that the hub takes at present; may change at any time

    def send(self, frame: bytes, vnet: bytes = b"") -> bool:
        """Queue one frame for the guest. False: not taken; the stack calls ``tx_ready(now)`` later."""

    def targets(self, dst: bytes, port: int) -> list[Target]:
        """Numeric host addresses, or what stands for them, to try in order for a guest's SYN to ``dst`` (4 or 16 bytes) and ``port``.

        An empty list refuses (RST). Raises Unreachable for ICMP.
        """

    def path(self, frame: bytes, protocol: int) -> Path:
        """The way back to the sender of a guest's frame (addresses swapped)."""

    def how(self, frame: bytes) -> int:
        """How what a guest's frame asks for is to leave the host: ``slirp.contracts.host``."""

    def pseudo(self, frame: bytes, off: int, end: int, protocol: int) -> int:
        """As ``Path.pseudo`` for a guest's frame whose layer 4 lies in ``frame[off:end]``."""

    def complain(self, frame: bytes, error: IcmpError) -> None:
        """Pass on an ICMP error that came back for what that guest frame led to."""

    def unreachable(self, frame: bytes, code: int) -> None:
        """ICMP or ICMPv6 destination unreachable about that guest frame; ``code`` is one of CODE_*."""
