"""What a guest's kernel learns from router advertisements: its IPv6 addresses, name servers and search domains.

The kernel configures itself (RFC 4862); this file listens to what it tells by netlink. The socket is opened before
the interfaces come up, so that nothing is missed:

    RTM_NEWADDR, RTM_DELADDR   addresses that are usable (not tentative, not link-local)
    RTM_NEWNDUSEROPT           RDNSS and DNSSL options of advertisements, which the kernel hands on unused

Told to tapnet: ``{"lease6": {"ifname", "addresses", "nameservers", "search"}}``, whenever one of them changed.

Limits: ``SERVERS`` and ``DOMAINS`` of one interface.

Ref: rtnetlink(7); Linux uapi/linux/rtnetlink.h (struct nduseroptmsg); RFC 8106.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .links import NicSpec

SERVERS = 3  # what resolv.conf takes
DOMAINS = 16
BUFFER = 65536
BATCH = 64

_GROUPS = 0x100 | 1 << 19  # RTMGRP_IPV6_IFADDR, RTNLGRP_ND_USEROPT
_NEWADDR, _DELADDR, _NDUSEROPT = 20, 21, 68
_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBBI")
_USEROPT = struct.Struct("=BxHiBBHI")
_ATTRIBUTE = struct.Struct("=HH")
_IFA_ADDRESS, _IFA_FLAGS = 1, 8
_TENTATIVE, _OPTIMISTIC, _FAILED = 0x40, 0x04, 0x08
_SCOPE_LINK = 253
_RDNSS, _DNSSL = 25, 31

Notify = Callable[[dict[str, Any]], None]


def open_monitor() -> socket.socket | None:
    """A netlink socket that hears of addresses and advertisements; None: there is no IPv6 here."""
    with contextlib.suppress(OSError):
        sock = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
        try:
            sock.bind((0, _GROUPS))
        except OSError:
            sock.close()
            raise
        return sock
    return None


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of the netlink messages in one read."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + size]
        at += (size + 3) & ~3


def address_of(body: bytes) -> tuple[int, str] | None:
    """(interface index, address) of an address message that a guest can be reached by; None: it is no such."""
    if len(body) < _ADDRESS.size:
        return None
    family, _, flags, scope, index = _ADDRESS.unpack_from(body)
    values = dict(_attributes(body[_ADDRESS.size :]))
    if len(values.get(_IFA_FLAGS, b"")) == 4:
        flags = int.from_bytes(values[_IFA_FLAGS], "little" if struct.pack("=H", 1)[0] else "big")
    address = values.get(_IFA_ADDRESS, b"")
    if family != socket.AF_INET6 or len(address) != 16 or scope >= _SCOPE_LINK or flags & _FAILED:
        return None
    if flags & _TENTATIVE and not flags & _OPTIMISTIC:
        return None
    return index, socket.inet_ntop(socket.AF_INET6, address)


def _names(data: bytes) -> list[str]:
    """The domains of a DNSSL option: uncompressed names, padded with zeros."""
    found: list[str] = []
    labels: list[str] = []
    at = 0
    while at < len(data):
        size = data[at]
        if not size:
            if labels:
                found.append(".".join(labels))
            labels = []
            at += 1
            continue
        label = data[at + 1 : at + 1 + size]
        if size > 63 or len(label) < size or not label.replace(b"-", b"").replace(b"_", b"").isalnum():
            return found
        labels.append(label.decode("ascii", "replace"))
        at += 1 + size
    return found[:DOMAINS]


def option_of(body: bytes) -> tuple[int, int, int, list[str]] | None:
    """(interface index, option type, lifetime in seconds, servers or domains) of an advertisement's option; None: another."""
    if len(body) < _USEROPT.size:
        return None
    family, length, index, _, _, _, _ = _USEROPT.unpack_from(body)
    option = body[_USEROPT.size : _USEROPT.size + length]
    if family != socket.AF_INET6 or len(option) < 8 or len(option) < option[1] * 8:
        return None
    kind, data = option[0], option[8 : option[1] * 8]
    lifetime = int.from_bytes(option[4:8], "big")
    if kind == _RDNSS:
        servers = [data[at : at + 16] for at in range(0, len(data) - 15, 16)]
        return index, kind, lifetime, [socket.inet_ntop(socket.AF_INET6, one) for one in servers]
    if kind == _DNSSL:
        return index, kind, lifetime, _names(data)
    return None


class Watch:
    """The interfaces with autoconfiguration, and what is known of them."""

    def __init__(self, sock: socket.socket, nics: Sequence[NicSpec], notify: Notify) -> None:
        self._sock = sock
        self._notify = notify
        self._names = {socket.if_nametoindex(nic.ifname): nic.ifname for nic in nics if nic.dhcp}
        self._known: dict[int, dict[str, list[str]]] = {
            index: {"addresses": [], "nameservers": [], "search": []} for index in self._names
        }

    def fileno(self) -> int:
        """To be watched for reading."""
        return self._sock.fileno()

    def readable(self) -> None:
        """Read what the kernel tells."""
        changed: set[int] = set()
        for _ in range(BATCH):
            try:
                data = self._sock.recv(BUFFER)
            except OSError:  # nothing more, or some were lost: the next ones tell
                break
            for kind, body in messages(data):
                index = self._take(kind, body)
                if index is not None:
                    changed.add(index)
        for index in changed:
            self._notify({"lease6": {"ifname": self._names[index], **self._known[index]}})

    def _take(self, kind: int, body: bytes) -> int | None:
        """The interface about which something new is known."""
        if kind in (_NEWADDR, _DELADDR):
            found = address_of(body)
            if found is None or found[0] not in self._known:
                return None
            return self._change(found[0], "addresses", [found[1]], kind == _NEWADDR, None)
        if kind != _NDUSEROPT:
            return None
        option = option_of(body)
        if option is None or option[0] not in self._known:
            return None
        index, which, lifetime, values = option
        key, limit = ("nameservers", SERVERS) if which == _RDNSS else ("search", DOMAINS)
        return self._change(index, key, values, lifetime > 0, limit)

    def _change(self, index: int, key: str, values: list[str], there: bool, limit: int | None) -> int | None:
        before = self._known[index][key]
        now = [value for value in before if value not in values] if not there else list(before)
        if there:
            now += [value for value in values if value not in before]
        if now == before:
            return None
        self._known[index][key] = now[:limit]
        return index

    def close(self) -> None:
        """Listen no more."""
        os.close(self._sock.detach())
