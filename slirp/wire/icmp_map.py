"""ICMP errors of one family in the words of the other.

The NAT speaks of destinations that cannot be reached in the numbers of ICMPv4; IPv6 translates what it sends, and what
crosses between the families (a client of one, a guest of the other) is translated here as an IP/ICMP translator does.

Ref: RFC 7915 4.2, 5.2; RFC 792; RFC 4443.
"""

from __future__ import annotations

import errno

from .ipv4 import HOST, NET, PARAMETER, PORT, PROHIBITED, PROTOCOL, TIME_EXCEEDED, TOO_BIG, UNREACHABLE

UNREACHABLE6, TOO_BIG6, TIME_EXCEEDED6, PARAMETER6 = 1, 2, 3, 4
NO_ROUTE6, PROHIBITED6, BEYOND_SCOPE6, ADDRESS6, PORT6 = 0, 1, 2, 3, 4  # codes of UNREACHABLE6

_TO_6 = {
    NET: NO_ROUTE6,
    HOST: ADDRESS6,
    PROTOCOL: PROHIBITED6,
    PORT: PORT6,
    9: PROHIBITED6,  # net and host prohibited, RFC 1812
    10: PROHIBITED6,
    PROHIBITED: PROHIBITED6,
}
_TO_4 = {NO_ROUTE6: HOST, PROHIBITED6: 10, BEYOND_SCOPE6: HOST, ADDRESS6: HOST, PORT6: PORT}
_CODES = {
    errno.ECONNREFUSED: PORT,
    errno.ENETUNREACH: NET,
    errno.ENETDOWN: NET,
    errno.EHOSTUNREACH: HOST,
    errno.EHOSTDOWN: HOST,
    errno.ETIMEDOUT: HOST,
    errno.EACCES: PROHIBITED,
    errno.EPERM: PROHIBITED,
    errno.EMSGSIZE: TOO_BIG,
    errno.EAFNOSUPPORT: NET,
    errno.EADDRNOTAVAIL: NET,
}


def unreachable_code(error: int) -> int | None:
    """The code of ICMP "destination unreachable" for a host ``errno``; None: nothing to tell the guest."""
    return _CODES.get(error)


def to_6(kind: int, code: int) -> tuple[int, int]:
    """Type and code of ICMPv6 for an ICMPv4 error."""
    if kind == UNREACHABLE:
        return (TOO_BIG6, 0) if code == TOO_BIG else (UNREACHABLE6, _TO_6.get(code, NO_ROUTE6))
    if kind == TIME_EXCEEDED:
        return TIME_EXCEEDED6, code
    return PARAMETER6, 0


def to_4(kind: int, code: int) -> tuple[int, int]:
    """Type and code of ICMPv4 for an ICMPv6 error."""
    if kind == UNREACHABLE6:
        return UNREACHABLE, _TO_4.get(code, HOST)
    if kind == TOO_BIG6:
        return UNREACHABLE, TOO_BIG
    if kind == TIME_EXCEEDED6:
        return TIME_EXCEEDED, code
    return PARAMETER, 0


def translated(family: int, kind: int, code: int) -> tuple[int, int]:
    """An error of the other family in the numbers of ``family`` (4 or 6)."""
    return to_6(kind, code) if family == 6 else to_4(kind, code)
