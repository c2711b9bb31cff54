"""What both families do alike with ICMP errors that were sent to the host about a guest's packets, and with fragments' age.

Ref: RFC 1812 4.3.2.8 (rate), RFC 4443 2.4.
"""

from __future__ import annotations

from ..contracts.stack import Below
from .fragments import Fragments
from .limiter import Limiter
from .neighbours import Neighbour


class IpErrors:
    """Of one family; a subclass fills the fields in and says what its packets look like."""

    _below: Below
    _limiter: Limiter
    fragments: Fragments

    def relayed_error(
        self,
        to: Neighbour,
        source: bytes,
        kind: int,
        code: int,
        info: int,
        dst: bytes,
        sport: int,
        dport: int,
        payload: bytes,
        ttl: int = 64,
        head: bytes = b"",
    ) -> None:
        """An ICMP error that ``source`` sent to the host, about the guest's UDP datagram ``sport`` ->
        ``dst:dport``. ``head``: the IP and UDP header of that datagram or one like it, if they are known."""
        if not self._may_complain():
            return
        if head:
            quote = self._aged(head, kind, payload)
        else:
            quote = self._quote(to.address, dst, sport, dport, payload)
        self._complain(to.mac, source, to.address, kind, code, info, quote, ttl)

    def echo_error(
        self, to: Neighbour, source: bytes, kind: int, code: int, info: int, quote: bytes, ttl: int
    ) -> None:
        """An ICMP error that ``source`` sent to the host, about the guest's echo request that began with ``quote``."""
        if self._may_complain():
            self._complain(to.mac, source, to.address, kind, code, info, self._aged(quote, kind, b""), ttl)

    def _may_complain(self) -> bool:
        """Not too many errors."""
        if self._limiter.take(self._below.now):
            return True
        self._below.count("icmp_limited")
        return False

    @staticmethod
    def _quote(src: bytes, dst: bytes, sport: int, dport: int, payload: bytes) -> bytes:
        """A UDP datagram as it would be quoted."""
        raise NotImplementedError

    @staticmethod
    def _aged(quote: bytes, kind: int, rest: bytes) -> bytes:
        """A guest's packet as it looked where it ended."""
        raise NotImplementedError

    def _complain(
        self, mac: bytes, src: bytes, dst: bytes, kind: int, code: int, info: int, quote: bytes, ttl: int
    ) -> None:
        """Send the error."""
        raise NotImplementedError

    # ---- time ----------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When ``run`` has something to do."""
        return self.fragments.next_deadline()

    def run(self, now: int) -> None:
        """Let fragments age."""
        self.fragments.run(now)
