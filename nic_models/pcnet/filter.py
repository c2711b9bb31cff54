"""What the Am79C970A's receiver accepts: PADR, broadcast, LADRF, promiscuous, and magic packets.

The registers are looked at when they change (``load``); per frame there is one comparison, or one hash for a group.

Ref: Am79C970A data sheet (19436E), CSR8-15, CSR5, "Logical Address Filter", "Magic Packet Mode", RMD1 (PAM, LAFM, BAM).
"""

from __future__ import annotations

from ..parts.multicast import hash_le
from ..rxfilter import EVERY_GROUP, RxFilter
from . import registers as r

BROADCAST = b"\xff" * 6
REJECTED = -1


class Filter:
    """Copies of PADR, LADRF and MODE."""

    def __init__(self) -> None:
        self.padr = bytes(6)
        self.ladrf = 0
        self.mode = 0

    def load(self, csr: list[int]) -> None:
        """CSR8 to CSR15 have changed."""
        self.padr = b"".join(value.to_bytes(2, "little") for value in csr[12:15])
        self.ladrf = csr[8] | csr[9] << 16 | csr[10] << 32 | csr[11] << 48
        self.mode = csr[15]

    def match(self, destination: bytes) -> int:
        """RMD1 bits of a frame to ``destination``, or ``REJECTED``. Promiscuous mode sets none."""
        mode = self.mode
        if mode & r.PROM:
            return 0
        if destination == self.padr and not mode & r.DRCVPA:
            return r.R_PAM
        if not destination[0] & 1:
            return REJECTED
        if destination == BROADCAST and not mode & r.DRCVBC:
            return r.R_BAM
        return r.R_LAFM if self.ladrf >> hash_le(destination) & 1 else REJECTED

    def rx_filter(self, receiving: bool) -> RxFilter:
        """The same for monitors."""
        mode = self.mode
        if mode & r.PROM:
            return RxFilter(self.padr, receiving, "all", True, EVERY_GROUP)
        unicast = "none" if mode & r.DRCVPA else "normal"
        return RxFilter(self.padr, receiving, unicast, not mode & r.DRCVBC, self.ladrf)

    def magic(self, frame: bytes, groups: bool) -> bool:
        """Whether ``frame`` is to this station (with ``groups``: or to a group) and has our address sixteen times
        behind six bytes of ones."""
        if frame[:6] != self.padr and not (groups and frame[:1] and frame[0] & 1):
            return False
        return BROADCAST + self.padr * 16 in frame[12:]
