"""The chain of IPv6 extension headers between the fixed header and layer 4, walked with bounds.

    hop-by-hop options   first only; unknown options by their two highest bits (RFC 8200 4.2)
    routing              skipped where no segments are left, else parameter problem (type 0: RFC 5095, others: 4.4)
    destination options  as hop-by-hop
    fragment             the walk stops there: the caller puts datagrams together
    authentication       skipped: who receives would judge it, and the NAT is not who was meant
    no next header       nothing follows

Limits: ``HEADERS`` headers, ``OPTIONS`` options in all, each within the packet. Nothing is copied.

Ref: RFC 8200 4; RFC 5095; RFC 7045; RFC 7112; RFC 8504 5.3 (limits).
"""

from __future__ import annotations

from typing import NamedTuple

from .ipv6 import AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, NEXT_HEADER, NONE, ROUTING

HEADERS = 8
OPTIONS = 32
EXTENSIONS = frozenset((HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, NONE))
PAD1 = 0
ERRONEOUS, UNKNOWN_HEADER, UNKNOWN_OPTION, INCOMPLETE = 0, 1, 2, 3  # codes of parameter problem
GOOD, DISCARD, TRUNCATED = -1, -2, -3


class Walked(NamedTuple):
    """Where the walk ended: ``protocol`` begins at ``off``, and the byte at ``link`` names it.

    ``problem``: GOOD, DISCARD (in silence), TRUNCATED (the packet ends within a header), or a code of parameter problem
    about the byte at ``off``; ``multicast``: that is reported even where the packet went to a group.
    """

    protocol: int
    off: int
    link: int
    problem: int = GOOD
    multicast: bool = False


def walk(frame: bytes, protocol: int, off: int, end: int, link: int = NEXT_HEADER) -> Walked:
    """Follow the chain from ``protocol`` at ``frame[off:end]``, as far as a fragment header or layer 4."""
    left = OPTIONS
    for number in range(HEADERS + 1):
        if protocol not in EXTENSIONS or protocol == FRAGMENT:
            return Walked(protocol, off, link)
        if protocol == NONE or number == HEADERS:
            return Walked(protocol, off, link, DISCARD)
        if off + 8 > end:
            return Walked(protocol, off, link, TRUNCATED)
        if protocol == AUTHENTICATION:
            size = (frame[off + 1] + 2) << 2
        else:
            size = (frame[off + 1] + 1) << 3
        if off + size > end:
            return Walked(protocol, off, link, TRUNCATED)
        if protocol == HOP_BY_HOP and number:
            return Walked(protocol, link, link, UNKNOWN_HEADER)
        if protocol == ROUTING and frame[off + 3]:
            return Walked(protocol, off + 2, link, ERRONEOUS)
        if protocol in (HOP_BY_HOP, DESTINATION):
            left, bad = _options(frame, off + 2, off + size, left)
            if bad is not None:
                return bad
        protocol, link, off = frame[off], off, off + size
    return Walked(protocol, off, link, DISCARD)


def _options(frame: bytes, at: int, end: int, left: int) -> tuple[int, Walked | None]:
    """Look at options; how many more are allowed, and what is wrong with one."""
    while at < end:
        kind = frame[at]
        if kind == PAD1:
            at += 1
            continue
        left -= 1
        if left < 0 or at + 2 > end or at + 2 + frame[at + 1] > end:
            return left, Walked(kind, at, at, DISCARD)
        action = kind >> 6
        if action == 1:
            return left, Walked(kind, at, at, DISCARD)
        if action:
            return left, Walked(kind, at, at, UNKNOWN_OPTION, action == 2)
        at += 2 + frame[at + 1]
    return left, None
