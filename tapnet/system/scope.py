"""The interface behind a scoped address (``fe80::1%eth0``), as the socket calls and the event loops want it.

``scope_index`` stands in ``slirp.host.socket_set`` too, because the NAT and this program do not know each other.

Ref: RFC 4007 11 (zone identifiers in text).
"""

from __future__ import annotations

import errno
import socket
from typing import Any


def scope_index(scope: str) -> int:
    """Return the number of the interface that an address names behind its ``%``. Raises OSError."""
    if scope.isascii() and scope.isdigit():
        return int(scope[:10])
    try:
        return socket.if_nametoindex(scope)
    except (OSError, ValueError):
        raise OSError(errno.ENODEV, f"there is no interface {scope!r}") from None


def for_loop(target: Any) -> Any:
    """Return a target as ``loop.sock_connect`` keeps it whole: uvloop drops the scope of a tuple, but not
    that of the text.
    """
    if isinstance(target, tuple) and len(target) > 3 and target[3]:
        return f"{target[0]}%{target[3]}", target[1]
    return target
