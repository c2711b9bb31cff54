"""Which boot file a client gets: one choice for DHCP and DHCPv6.

By what it says of itself: iPXE (user class) has a file of its own, so that it does not load itself for ever; then by its
architectures, in its order; else the file for all. Of that one, firmware that boots by HTTP (vendor class HTTPClient) is told
URLs only, and firmware that boots by PXE everything but URLs of HTTP. What was given for an architecture goes out as it is.

Ref: RFC 4578 2.1; RFC 5970 3.3; UEFI 2.10, 24.3, 24.7.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..config import IPXE, Config

HTTP_CLIENT, PXE_CLIENT = b"HTTPClient", b"PXEClient"
URLS = ("http://", "https://")


def boot_file(config: Config, vendor: bytes, user: bytes, architectures: Iterable[int]) -> str:
    """The file or URL; "": none. ``vendor``, ``user``: the classes of the client."""
    ipxe = b"iPXE" in user
    special = dict(config.bootfiles)
    for kind in (*((IPXE,) if ipxe else ()), *architectures):
        if kind in special:
            return special[kind]
    file = config.bootfile or ""
    if vendor.startswith(HTTP_CLIENT) and not file.startswith(URLS):
        return ""
    if vendor.startswith(PXE_CLIENT) and not ipxe and file.startswith(URLS):
        return ""
    return file
