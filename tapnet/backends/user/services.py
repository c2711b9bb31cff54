"""From ``guestfwd=`` to the engine's rules: names looked up, programs found, QEMU's default address filled in."""

from __future__ import annotations

import shlex
import socket
from ipaddress import IPv4Address

import slirp.forward.guestfwd
from slirp.contracts.host import Service
from slirp.host.socket_set import spelled

from ...config import Endpoint, GuestForward, UserV4

DEFAULT = 0x0204  # QEMU's 10.0.2.4, cut by the mask
COPY = "cat"  # what writes a guest's bytes to a file


def default_address(v4: UserV4) -> IPv4Address:
    """Where services are that name no address."""
    return IPv4Address(int(v4.net.network_address) | DEFAULT & int(v4.net.hostmask))


def _program(words: list[str], output: str | None = None) -> Service:
    if not words:
        raise ValueError("cmd: names no program")
    import shutil  # here: it imports compressors, which no start should wait for

    if shutil.which(words[0]) is None:
        raise ValueError(f"cmd: {words[0]}: no such program")
    return Service("program", tuple(words), output)


def _service(forward: GuestForward) -> Service:
    to = forward.to
    if isinstance(to, Endpoint):
        kind = socket.SOCK_DGRAM if forward.target == "udp" else socket.SOCK_STREAM
        try:
            found = socket.getaddrinfo(to.host, to.port, type=kind)
        except OSError as error:
            raise ValueError(f"{to.host}: {error.strerror}") from None
        address, *others = dict.fromkeys(spelled(entry[4]) for entry in found)
        return Service(forward.target, address, also=tuple(others) if forward.target == "tcp" else ())
    if forward.target == "unix":
        return Service("unix", "\0" + to[1:] if to.startswith("@") else to)
    if forward.target == "file":
        return _program([COPY], to)
    try:
        return _program(shlex.split(to))
    except ValueError as error:
        raise ValueError(str(error).lower() if "quot" in str(error) else str(error)) from None


def guest_rule(forward: GuestForward, v4: UserV4 | None) -> slirp.forward.guestfwd.GuestRule:
    """The engine's rule. Raises ValueError with the reason. Looks names up: it may take as long as that does."""
    address = forward.address
    if address is None:
        if v4 is None:
            raise ValueError("needs an address where IPv4 is off")
        address = default_address(v4)
    service = _service(forward)
    return slirp.forward.guestfwd.GuestRule(
        forward.protocol, address.packed, forward.port, service, forward.text
    )
