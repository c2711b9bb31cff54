"""Unique local prefixes made out of a name: always the same for the same name, hardly ever the same for two.

RFC 4193 3.2.2 takes the 40 bits of its global identifier from a clock and a MAC, so that no two sites share one; here
they are of the SHA-256 of a name that the user chooses, so that a lab has the same addresses every day and everywhere.
"""

from __future__ import annotations

from ipaddress import IPv6Network

DEFAULT = "tapnet"  # the name of ipv6-ula=on


def prefix(name: str) -> IPv6Network:
    """The /64 of a name: fd, 40 bits, subnet 0."""
    import hashlib  # here: it opens OpenSSL

    digest = hashlib.sha256(b"tapnet/ula/" + name.encode()).digest()
    return IPv6Network((b"\xfd" + digest[:5] + bytes(10), 64))


def option(value: str) -> IPv6Network | None:
    """``ipv6-ula=``: on, a name, or off (None). Raises ValueError."""
    if value in ("off", "no", "false", "n"):
        return None
    if value in ("on", "yes", "true", "y"):
        return prefix(DEFAULT)
    if not 0 < len(value) <= 64 or not value.isprintable():
        raise ValueError("not on, off or a name of 1 to 64 characters")
    return prefix(value)
