"""What a card's receiver lets pass, in one form for all models: for monitors, not for the data path."""

from __future__ import annotations

from dataclasses import dataclass

EVERY_GROUP = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class RxFilter:
    """A copy of a card's address filter.

    mac        the station address that is matched: what the driver has written, not what the EEPROM says
    receiving  whether the receiver is on
    unicast    none, normal (``mac``), or all
    hash       64 bits: bit n lets groups pass whose hash is n (``multicast.hash_be`` or ``hash_le``)
    """

    mac: bytes
    receiving: bool
    unicast: str
    broadcast: bool
    hash: int

    @property
    def multicast(self) -> str:
        """Return how groups are filtered: none, normal (by hash), or all."""
        if self.hash == EVERY_GROUP:
            return "all"
        return "normal" if self.hash else "none"

    @property
    def promiscuous(self) -> bool:
        """Return whether every frame passes."""
        return self.unicast == self.multicast == "all"
