"""Marks for TCP ports of the control plane, so that no NAT on this host connects a guest to one of them.

Each listener of a monitor, QMP, the register bus or metrics holds an abstract UNIX datagram name,
``\\0tapnet/control/tcp/PORT``, for as long as it listens. A NAT that is about to connect to one of the
host's own addresses tries to connect a datagram socket to that name first: it succeeds if, and only if, the
port is marked. The name dies with its process. It belongs to the network namespace, as the port does.

Two listeners on one port (other addresses, or another instance) hold ``.../PORT/1`` and so on, up to
``CLAIMS_MAX`` names.

Ref: unix(7), "abstract".
"""

from __future__ import annotations

import errno
import socket

CLAIMS_MAX = 4
PREFIX = "\0tapnet/control/tcp/"


def names(port: int) -> list[str]:
    """Abstract names that mark ``port``; any of them is enough."""
    return [f"{PREFIX}{port}", *(f"{PREFIX}{port}/{n}" for n in range(1, CLAIMS_MAX))]


def claim(port: int) -> socket.socket:
    """Mark ``port``; closing the returned socket takes the mark away. Raises OSError if all names are
    taken."""
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    for name in names(port):
        try:
            mark.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                mark.close()
                raise
        else:
            return mark
    mark.close()
    raise OSError(errno.EADDRINUSE, f"{CLAIMS_MAX} control listeners have port {port} already")


def claimed(port: int) -> bool:
    """Whether some tapnet instance marks ``port`` (``slirp.host.sockets`` has its own copy of this test)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        for name in names(port):
            try:
                probe.connect(name)
            except OSError:
                continue
            return True
    return False
