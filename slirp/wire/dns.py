"""Domain names on the wire: encoded names, and where the question of a message ends.

Ref: RFC 1035 4.1; RFC 3397.
"""

from __future__ import annotations

from collections.abc import Iterable


def encode_names(names: Iterable[str]) -> bytes:
    """Domain names one after the other, compressed against each other (RFC 1035 4.1.4, RFC 3397 2)."""
    out = bytearray()
    seen: dict[tuple[str, ...], int] = {}
    for name in names:
        labels = tuple(name.rstrip(".").split("."))
        for index in range(len(labels)):
            tail = tuple(label.lower() for label in labels[index:])
            if tail in seen:
                out += (0xC000 | seen[tail]).to_bytes(2, "big")
                break
            if len(out) < 0x4000:
                seen[tail] = len(out)
            label = labels[index].encode("ascii")
            out += bytes([len(label)]) + label
        else:
            out.append(0)
    return bytes(out)


def end_of_question(message: bytes) -> int:
    """Offset behind the one question of a DNS message. Raises ValueError."""
    offset = 12
    while offset < len(message) and message[offset]:
        if message[offset] > 63:
            raise ValueError("compressed name in a question")
        offset += 1 + message[offset]
    offset += 5
    if offset > len(message) or offset - 16 > 255 + 1:
        raise ValueError("truncated question")
    return offset
