"""The blocks of a pcapng file, by dpkt; what dpkt does not have (interface statistics) is written here.

Ref: draft-ietf-opsawg-pcapng (SHB 4.1, IDB 4.2, EPB 4.3, ISB 4.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

from dpkt import pcapng

from .. import __version__

ETHERNET = 1
_EPB_FLAGS, _IF_DESCRIPTION, _IF_TSRESOL = 2, 3, 9
_ISB, _ISB_RECEIVED, _ISB_DROPPED, _ISB_LOST = 5, 4, 5, 7
_STATISTICS = Struct("<IIIII")  # type, length, interface, time
_NANO = b"\x09"


def _options(*pairs: tuple[int, bytes]) -> list[Any]:
    return [
        *(pcapng.PcapngOptionLE(code=code, data=data) for code, data in pairs),
        pcapng.PcapngOptionLE(code=pcapng.PCAPNG_OPT_ENDOFOPT),
    ]


class Pcapng:
    """Blocks of one section. Every method answers bytes."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def begin(self) -> bytes:
        """Section header."""
        application = f"tapnet {__version__}".encode()
        return bytes(
            pcapng.SectionHeaderBlockLE(opts=_options((pcapng.PCAPNG_OPT_SHB_USERAPPL, application)))
        )

    def interface(self, name: str, what: str) -> bytes:
        """Describes an interface, the next in number."""
        self.names[name] = len(self.names)
        return bytes(
            pcapng.InterfaceDescriptionBlockLE(
                linktype=ETHERNET,
                snaplen=0,
                opts=_options(
                    (pcapng.PCAPNG_OPT_IF_NAME, name.encode()),
                    (_IF_DESCRIPTION, what.encode()),
                    (_IF_TSRESOL, _NANO),
                ),
            )
        )

    def packet(self, name: str, frame: bytes, now: int, direction: bytes, comments: Sequence[str]) -> bytes:
        """One frame."""
        pairs = [(pcapng.PCAPNG_OPT_COMMENT, comment.encode()) for comment in comments]
        return bytes(
            pcapng.EnhancedPacketBlockLE(
                iface_id=self.names[name],
                ts_high=now >> 32,
                ts_low=now & 0xFFFFFFFF,
                pkt_data=frame,
                opts=_options((_EPB_FLAGS, direction), *pairs),
            )
        )

    def statistics(self, name: str, now: int, received: int, dropped: int, lost: int) -> bytes:
        """What an interface has counted: frames seen, frames lost at the member, frames that this file misses."""
        counted = ((_ISB_RECEIVED, received), (_ISB_DROPPED, dropped), (_ISB_LOST, lost))
        options = b"".join(
            bytes(option) for option in _options(*((code, n.to_bytes(8, "little")) for code, n in counted))
        )
        size = _STATISTICS.size + len(options) + 4
        head = _STATISTICS.pack(_ISB, size, self.names[name], now >> 32, now & 0xFFFFFFFF)
        return head + options + size.to_bytes(4, "little")
