"""TCP on the wire: header layout, options, checksum, the virtio_net_hdr of what is sent. No state.

Checksums use that 2**16 is 1 modulo 65535: the one's complement sum of a buffer is its value as one big
number, modulo 65535, and a 32-bit field may be added whole.

Ref: RFC 9293 3.1 and 3.2 (header, options), RFC 7323 2.2 (window scale), RFC 2018 2 and 3 (SACK), RFC 1071.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from slirp.contracts.link import F_CSUM, F_TSO4, F_TSO6, GSO_TCPV4, GSO_TCPV6, VNET_NEEDS_CSUM, Link, Path

HEADER = Struct("!HHIIHHHH")  # source, destination, SEQ, ACK, data offset and flags, window, checksum, urgent
HEADER_LEN = 20
VNET = Struct("<BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
CSUM_OFFSET = 16
ETHERNET = 14
PROTOCOL = 6

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
MASK = 0xFFFFFFFF
HALF = 0x80000000

OPT_END, OPT_NOP, OPT_MSS, OPT_SCALE, OPT_SACK_OK, OPT_SACK = 0, 1, 2, 3, 4, 5
MAX_SCALE = 14  # RFC 7323 2.3
DEFAULT_MSS = {4: 536, 6: 1220}  # RFC 9293 3.7.1
MIN_MSS = 48  # a smaller offer would turn every byte into a frame
MAX_SACK_BLOCKS = 4


class Options:
    """The options of one segment that we know: ``mss`` 0 and ``scale`` -1 when absent."""

    __slots__ = ("mss", "sack_ok", "sacks", "scale")

    def __init__(self) -> None:
        self.mss = 0
        self.scale = -1
        self.sack_ok = False
        self.sacks: list[tuple[int, int]] = []


def parse_options(frame: bytes, pos: int, end: int) -> Options:
    """Read ``frame[pos:end]``. What is unknown is skipped; what is malformed ends the list (never raises)."""
    found = Options()
    while pos < end:
        kind = frame[pos]
        if kind == OPT_END:
            break
        if kind == OPT_NOP:
            pos += 1
            continue
        if pos + 2 > end:
            break
        size = frame[pos + 1]
        if size < 2 or pos + size > end:
            break
        if kind == OPT_MSS and size == 4:
            found.mss = frame[pos + 2] << 8 | frame[pos + 3]
        elif kind == OPT_SCALE and size == 3:
            found.scale = min(frame[pos + 2], MAX_SCALE)
        elif kind == OPT_SACK_OK and size == 2:
            found.sack_ok = True
        elif kind == OPT_SACK and size >= 10 and (size - 2) % 8 == 0:
            for at in range(pos + 2, pos + size, 8):
                left = int.from_bytes(frame[at : at + 4], "big")
                found.sacks.append((left, int.from_bytes(frame[at + 4 : at + 8], "big")))
        pos += size
    return found


def syn_options(mss: int, scale: int, sack_ok: bool) -> bytes:
    """Options of a SYN: MSS, SACK permitted if ``sack_ok``, window scale if ``scale`` >= 0."""
    out = bytes((OPT_MSS, 4, mss >> 8, mss & 0xFF))
    if sack_ok:
        out += bytes((OPT_NOP, OPT_NOP, OPT_SACK_OK, 2))
    if scale >= 0:
        out += bytes((OPT_NOP, OPT_SCALE, 3, scale))
    return out


def sack_option(blocks: Sequence[tuple[int, int]]) -> bytes:
    """A SACK option of at most four blocks, in the order given."""
    blocks = blocks[:MAX_SACK_BLOCKS]
    out = bytes((OPT_NOP, OPT_NOP, OPT_SACK, 2 + 8 * len(blocks)))
    for left, right in blocks:
        out += (left & MASK).to_bytes(4, "big") + (right & MASK).to_bytes(4, "big")
    return out


def sum16(data: bytes | memoryview) -> int:
    """A number congruent to the one's complement sum of ``data`` (padded to even length) modulo 65535."""
    value = int.from_bytes(data, "big")
    return value % 65535 << 8 if len(data) & 1 else value % 65535


def unwrap(wire: int, near: int) -> int:
    """The sequence number that reads ``wire`` in 32 bits and is nearest to the unwrapped number ``near``."""
    return near + ((wire - near + HALF) & MASK) - HALF


def build(
    path: Path,
    features: int,
    ports: int,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    options: bytes = b"",
    data: bytes | memoryview = b"",
    urgent: int = 0,
) -> tuple[bytes, bytes]:
    """One frame and its vnet header, off the hot path: any flags and options (a multiple of 4 bytes), no GSO.

    ``ports``: source port << 16 | destination port. ``urgent``: the urgent pointer.
    """
    length = HEADER_LEN + len(options) + len(data)
    word = (HEADER_LEN + len(options)) << 10 | flags
    seq &= MASK
    ack &= MASK
    if features & F_CSUM:
        checksum = path.pseudo(length) % 65535
        start = ETHERNET + path.ip_header
        vnet = VNET.pack(VNET_NEEDS_CSUM, 0, start + HEADER_LEN + len(options), 0, start, CSUM_OFFSET)
    else:
        total = (
            path.pseudo(length) + ports + seq + ack + word + window + urgent + sum16(options) + sum16(data)
        )
        checksum = -total % 65535
        vnet = b""
    head = HEADER.pack(ports >> 16, ports & 0xFFFF, seq, ack, word, window, checksum, urgent)
    return b"".join((path.header(length), head, options, data)), vnet


class Wire:
    """One flow's way to the guest: what stays the same in every frame, and the hot path of building one."""

    __slots__ = ("csum_vnet", "dport", "gso_vnet", "link", "mss", "path", "ports", "sport", "tso")

    def __init__(self, link: Link, path: Path, sport: int, dport: int) -> None:
        self.link = link
        self.path = path
        self.sport = sport
        self.dport = dport
        self.ports = sport << 16 | dport
        self.tso = F_TSO4 if path.family == 4 else F_TSO6
        start = ETHERNET + path.ip_header
        self.csum_vnet = VNET.pack(VNET_NEEDS_CSUM, 0, start + HEADER_LEN, 0, start, CSUM_OFFSET)
        self.set_mss(path.mtu - path.ip_header - HEADER_LEN)

    def set_mss(self, mss: int) -> None:
        """A longer segment goes out as a super-frame to be cut into segments of ``mss`` bytes."""
        self.mss = mss
        start = ETHERNET + self.path.ip_header
        gso = GSO_TCPV4 if self.path.family == 4 else GSO_TCPV6
        self.gso_vnet = VNET.pack(VNET_NEEDS_CSUM, gso, start + HEADER_LEN, mss, start, CSUM_OFFSET)

    def segment(self, seq: int, ack: int, flags: int, window: int, data: bytes | memoryview) -> bool:
        """Send one segment without options; ``seq`` and ``ack`` unwrapped. Over ``mss``: offload only."""
        link = self.link
        path = self.path
        size = len(data)
        length = HEADER_LEN + size
        word = 0x5000 | flags
        seq &= MASK
        ack &= MASK
        if link.features & F_CSUM:
            checksum = path.pseudo(length)
            vnet = self.gso_vnet if size > self.mss else self.csum_vnet
        else:
            checksum = path.pseudo(length) + self.ports + seq + ack + word + window
            if size:
                if size & 1:
                    checksum += int.from_bytes(data, "big") % 65535 << 8
                else:
                    checksum += int.from_bytes(data, "big")
            checksum = -checksum % 65535
            vnet = b""
        head = HEADER.pack(self.sport, self.dport, seq, ack, word, window, checksum, 0)
        return link.send(b"".join((path.header(length), head, data)), vnet)
