"""Datagrams in a row of one guest's flow, equal in length and destination, leave in one system call.

Theory of operation: the first datagram of a flow in a batch of frames takes the whole way through the stack; ``start``
then remembers all of its headers but identification and checksum. A frame that repeats them (``extend``: four comparisons
and the header checksum) needs no further judgement, its payload joins the train. Any other frame ends the train before it is looked
at, so nothing is ever reordered; so do ``limit`` datagrams, and the end of the batch. Only frames whose UDP checksum the guest's kernel left owed are
taken: there is nothing to verify.

Limits: ``SEGMENTS`` datagrams or ``BYTES`` bytes. Timers: none: whoever turns it on (``Stack.gather``) promises
``Stack.settle`` after each batch of frames.

Ref: udp(7) UDP_SEGMENT; RFC 768.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..contracts.host import Address
from ..wire.ipv4 import ETH_IPV4_LEN, IP, TYPE_IPV6, UDP_LEN, VNET_NEEDS_CSUM
from ..wire.ipv6 import ETH_IPV6_LEN
from .flow import Flow

SEGMENTS = 64
BYTES = 65000
_TOTAL = IP + 4  # end of the total length; the identification follows
_FRAGMENT = IP + 6  # fragment offset, TTL, protocol; the checksum follows
_CHECKSUM = IP + 10
_ADDRESSES = IP + 12  # both addresses, both ports, the UDP length
_SUM = ETH_IPV4_LEN + 6
_DATA = ETH_IPV4_LEN + UDP_LEN
_SUM6 = ETH_IPV6_LEN + 6
_DATA6 = ETH_IPV6_LEN + UDP_LEN


class Sender(Protocol):
    """What a train asks of the NAT: to send what has gathered."""

    def send(self, flow: Flow, first: bytes, parts: list[bytes], target: Address, how: int) -> None:
        """Send datagrams of one length and flow; ``first`` is the frame of one of them."""


class Train:
    """The datagrams that wait for the end of the batch; all of one flow."""

    __slots__ = (
        "_before",
        "_between",
        "_end",
        "_first",
        "_flow",
        "_how",
        "_limit",
        "_parts",
        "_size",
        "_target",
        "_udp",
        "_vnet",
        "_where",
        "extend",
        "open",
    )

    def __init__(self, udp: Sender) -> None:
        self._udp = udp
        self.open = False  # ``extend`` may be asked
        # takes a frame like the first; False: not taken
        self.extend: Callable[[bytes, bytes], bool] = self._extend4
        self._parts: list[bytes] = []
        self._first = self._before = self._between = self._where = self._vnet = b""
        self._size = self._end = self._limit = self._how = 0
        self._flow: Flow | None = None
        self._target: Address = ("", 0)

    def start(
        self, flow: Flow, frame: bytes, vnet: bytes, off: int, end: int, target: Address, how: int
    ) -> bool:
        """Begin with the datagram of ``frame``; False: it is none that others could follow."""
        data = off + UDP_LEN
        size = end - data
        if size <= 0 or not vnet or vnet[0] != VNET_NEEDS_CSUM or vnet[1]:
            return False
        if off == ETH_IPV4_LEN:
            self._before = frame[:_TOTAL]
            self._between = frame[_FRAGMENT:_CHECKSUM]
            self._where = frame[_ADDRESSES:_SUM]
            self.extend = self._extend4
        elif off == ETH_IPV6_LEN and frame[12:14] == TYPE_IPV6:
            self._before = frame[:_SUM6]
            self.extend = self._extend6
        else:
            return False
        self._first = frame
        self._vnet = vnet
        self._size = len(frame)
        self._end = end
        self._limit = min(SEGMENTS, BYTES // size)
        self._flow = flow
        self._target = target
        self._how = how
        self._parts.append(frame[data:end])
        self.open = True
        if self._limit <= 1:
            self.end()
        return True

    def _extend6(self, frame: bytes, vnet: bytes) -> bool:
        """IPv6: all but the payload is the same."""
        if frame[:_SUM6] != self._before or vnet != self._vnet or len(frame) != self._size:
            return False
        parts = self._parts
        parts.append(frame[_DATA6 : self._end])
        if len(parts) >= self._limit:
            self._send()
        return True

    def _extend4(self, frame: bytes, vnet: bytes) -> bool:
        """IPv4: identification, header checksum and payload may differ."""
        if (
            frame[_ADDRESSES:_SUM] != self._where
            or frame[:_TOTAL] != self._before
            or frame[_FRAGMENT:_CHECKSUM] != self._between
            or vnet != self._vnet
            or len(frame) != self._size
            or int.from_bytes(frame[IP:ETH_IPV4_LEN], "big") % 65535
        ):
            return False
        parts = self._parts
        parts.append(frame[_DATA : self._end])
        if len(parts) >= self._limit:
            self._send()
        return True

    def end(self) -> None:
        """Send the datagrams collected so far, and end the train."""
        self.open = False
        if self._parts:
            self._send()
        self._flow = None

    def _send(self) -> None:
        parts, self._parts = self._parts, []
        flow = self._flow
        if flow is not None:
            self._udp.send(flow, self._first, parts, self._target, self._how)
