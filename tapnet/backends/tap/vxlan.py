"""The VXLAN backend: a TAP on a bridge with the kernel's VXLAN, as one thing.

    hub ◄──► Port ◄──► TapBackend ◄──► TAP ─ bridge ─ VXLAN ═ UDP ═ other hosts
                                             └── tapnet.lan.vxlan: Segment ──┘

The TAP is ``-net tap,br=`` on the segment's bridge, with all that belongs to it (made again when it was deleted, and so
on). The segment is watched in the same way: what somebody deletes of it is made again.

Timers: those of ``Retry`` and of ``LinkWatch``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from ...config import TapNet, VxlanNet
from ...lan.vxlan import OVERHEAD, Segment, VxlanError, threaded
from ..sockets.retry import Retry
from .backend import TapBackend
from .backend import TapError as TapError
from .watch import LinkWatch

__all__ = ["TapError", "VxlanBackend", "VxlanError"]

CARD_MTU = 1500
log = logging.getLogger("tapnet.tap")


class VxlanBackend:
    """One segment and its TAP as a member of a hub: add ``port`` to the hub, then ``start``."""

    def __init__(self, net: VxlanNet, loop: asyncio.AbstractEventLoop) -> None:
        """Make it all; some ten milliseconds. Raises VxlanError, TapError; nothing is left then."""
        self.net = net
        self.segment = Segment(net)
        self._loop = loop
        self._watch: LinkWatch | None = None
        self._making = Retry(loop, net.origin, self._make_again)
        threaded(self.segment.open)
        try:
            plain = TapNet(
                origin=net.origin, name=net.name, id=net.id, vlan=net.vlan, ifname=net.ifname,
                br=self.segment.bridge, mtu=self.segment.mtu,
            )  # fmt: skip
            self.tap = TapBackend(plain, loop)
        except BaseException:
            threaded(self.segment.close)
            raise
        self.port = self.tap.port
        if self.segment.mtu < CARD_MTU:
            version = net.remotes[0] if net.remotes else net.group or net.local
            log.info(
                "tapnet: %s: carries packets of %d bytes (%d go to VXLAN): tell the guests by -net nic,mtu= or DHCP option 26",
                net.origin, self.segment.mtu, OVERHEAD[version.version if version else 4],
            )  # fmt: skip

    def start(self) -> None:
        """Begin to read from the TAP, and to watch the segment."""
        self.tap.start()
        self._making.adopted()
        with contextlib.suppress(OSError):
            self._watch = LinkWatch(self._loop, self._look)

    def detach(self) -> None:
        """The part of ``close`` that belongs to the loop and does not block."""
        self._making.close()
        if self._watch is not None:
            self._watch.close()
        self.tap.detach()

    def finish(self) -> None:
        """The part of ``close`` that may block: TAP, VXLAN and bridge are removed. Any thread."""
        self.tap.finish()
        threaded(self.segment.close)

    def close(self) -> None:
        """Remove all of it. Idempotent."""
        self.detach()
        self.finish()

    def _look(self) -> None:
        """Something has changed among the host's interfaces."""
        why = self.segment.missing()
        if why:
            self._making.lost(why)

    async def _make_again(self) -> None:
        """Raises OSError."""
        try:
            await self._loop.run_in_executor(None, lambda: threaded(self.segment.open))
        except VxlanError as error:
            raise OSError(str(error)) from None

    def info_line(self) -> str:
        """As ``info network`` says it."""
        net = self.net
        to = ",".join(f"remote={remote}" for remote in net.remotes) or f"group={net.group}"
        dev = f",dev={net.dev}" if net.dev else ""
        return (
            f"vxlan: id={net.vni},{to}{dev},port={net.port} ifname={self.tap.ifname} br={self.segment.bridge}"
        )
