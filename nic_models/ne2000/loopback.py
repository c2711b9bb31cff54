"""Loopback of the DP8390: the eight-byte FIFO that keeps the end of the packet, and what TSR and RSR then
say.

A looped packet never reaches memory nor the wire. The FIFO is used as a ring of eight: byte n of the packet
lies at n mod 8, followed by the byte count as low, high, high; reads of the FIFO register start at location
0. In word mode only one byte of each word is looped, the odd one (DCR.BOS=0) or the even one (BOS=1), and
TBCR counts both.

Results (PTX, and the one-bit, always): mode 1, inside the controller, carrier and heartbeat are not seen: CRS
and CDH set; mode 2, inside the encoder: CDH set; mode 3, through the transceiver: neither. The receiver
shares the CRC generator with the transmitter, so a CRC that the chip appended always reads as bad; one that
software appended (TCR.CRC=1) is checked. Only a packet that passes the address filter is checked at all.

Ref: DP8390D/NS32490D data sheet, section 12 (loopback diagnostics); National Semiconductor AN-937.
"""

from __future__ import annotations

from zlib import crc32

from . import registers as r

FIFO_BYTES = 8

# TSR by TCR.LB1 LB0
RESULTS = {
    r.TCR_LB0: r.TSR_PTX | r.TSR_ONE | r.TSR_CRS | r.TSR_CDH,
    r.TCR_LB1: r.TSR_PTX | r.TSR_ONE | r.TSR_CDH,
    r.TCR_LB: r.TSR_PTX | r.TSR_ONE,
}


class Fifo:
    """The FIFO as the register at page 0, offset 6 shows it."""

    __slots__ = ("cells", "position")

    def __init__(self) -> None:
        self.cells = bytearray(FIFO_BYTES)
        self.position = 0

    def load(self, packet: bytes) -> None:
        """Keep the end of ``packet`` (with its CRC), then its count."""
        size = len(packet)
        for index in range(max(0, size - FIFO_BYTES), size):
            self.cells[index % FIFO_BYTES] = packet[index]
        for index, value in enumerate((size & 0xFF, size >> 8 & 0xFF, size >> 8 & 0xFF), size):
            self.cells[index % FIFO_BYTES] = value
        self.position = 0

    def read(self) -> int:
        """The next byte."""
        value = self.cells[self.position]
        self.position = (self.position + 1) % FIFO_BYTES
        return value


def looped(buffer: bytes, dcr: int, tcr: int) -> tuple[bytes, bool]:
    """The packet that comes back for a transmit ``buffer``, with CRC, and whether its CRC reads as good."""
    if dcr & r.DCR_WTS:
        buffer = buffer[0 if dcr & r.DCR_BOS else 1 :: 2]
    if tcr & r.TCR_CRC:  # software appended the CRC
        good = len(buffer) > 4 and crc32(buffer[:-4]).to_bytes(4, "little") == buffer[-4:]
        return buffer, good
    return buffer + crc32(buffer).to_bytes(4, "little"), False
