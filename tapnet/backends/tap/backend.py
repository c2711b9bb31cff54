"""The TAP backend: a VLAN on a real interface of the host, in its own network namespace.

    hub ◄──► Port ◄──► DirectAttachment ◄──► TapDevice ◄──► kernel: interface, perhaps a member of a bridge
                            ▲ replaced when the interface was deleted and is there again; the port stays

How a TAP is opened, configured and given back is ``opening``. Super-frames pass both ways (IFF_VNET_HDR), offered by
the hub. The port's link is the interface's carrier.

While it runs, the kernel is watched (``watch``), and each of these is said once and mended when it can be:

    interface deleted     ours is made again, another's is opened when it is there again; the port has no link meanwhile
    left the bridge       ``br=``: joined again, when there is such a bridge
    the bridge's uplinks  none has a carrier, or one has again: only said
    taken down, up again  by an administrator, whose business that is: only said

A descriptor (``fd=``) cannot be had again: then the link stays down.

Timers: those of ``Retry`` (0.1 s to 5 s, growing) and of ``LinkWatch``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...config import TapNet
from ...devices.ifctl import control_socket, is_up
from ...devices.port import DirectAttachment
from ...vlan.handover import Handover, port_data, port_state
from ...vlan.port import Port
from ..sockets.retry import Retry
from .opening import OpenTap, TapError, index_of, join, master, open_tap, run_script
from .watch import LinkWatch, uplinks

__all__ = ["OpenTap", "TapBackend", "TapError", "open_tap"]

log = logging.getLogger("tapnet.tap")


class TapBackend:
    """One TAP interface as a member of a hub: add ``port`` to the hub, then ``start``."""

    def __init__(self, net: TapNet, loop: asyncio.AbstractEventLoop, opened: OpenTap | None = None) -> None:
        """Take over ``opened``, or open the interface now (that may block). Raises TapError; nothing is left then.

        A caller on the loop has ``open_tap(net)`` called in a thread and passes what it answers.
        """
        self.net = net
        self.opened: OpenTap | None = opened or open_tap(net)
        self.ifname = self.opened.ifname
        self._loop = loop
        self._found = not self.opened.made
        self._mac = None if self._found else self.opened.mac()  # the next one of ours has it again
        self._had_link = True  # what the port's link shall be again
        self._said = ""  # what is wrong with the bridge
        self._up = True  # as an administrator has it
        self._closed = False
        self._finished = False
        self._watch: LinkWatch | None = None
        self.attachment = DirectAttachment(loop, self.opened.device, net.name, on_gone=self._gone)
        self.port: Port = self.attachment.port
        self.port.on_link = self._set_link
        self.port.endpoint_export = self._export
        what = f"{net.origin}: {self.ifname}"
        self._opening = Retry(loop, what, self._open_again, again=not net.fds)
        self._joining = Retry(loop, what, self._join_again)

    # ---- life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to read from the interface, and to watch it."""
        self.attachment.start()
        self._opening.now()
        self._joining.now()
        with contextlib.suppress(OSError):
            self._watch = LinkWatch(self._loop, self._look)

    def detach(self) -> None:
        """The part of ``close`` that belongs to the loop and does not block."""
        if self._closed:
            return
        self._closed = True
        self._opening.close()
        self._joining.close()
        if self._watch is not None:
            self._watch.close()
        self.attachment.detach()

    def finish(self) -> None:
        """The part of ``close`` that may block: ``downscript=``, and the interface is given back. Any thread."""
        if self._finished:
            return
        self._finished = True
        opened, self.opened = self.opened, None
        if self.net.downscript is not None:
            try:
                run_script("downscript", self.net.downscript, self.ifname)
            except TapError as error:
                log.warning("tapnet: %s: %s", self.net.origin, error)
        if opened is not None:
            opened.close()

    def close(self) -> None:
        """Give the interface back: ours ends, another's is as it was. Idempotent."""
        self.detach()
        self.finish()

    def export(self) -> Handover | None:
        """The interface, for the next process of a restart: see ``handover``. None: it is given back, because it was there
        before us, or a downscript is due.
        """
        opened = self.opened
        if opened is None or not opened.made or self.net.downscript is not None:
            return None
        state = self.port.export()
        data = {"port": port_data(replace(state, fds={})), "held": self.attachment.held}
        handed = Handover(data, {"tap": opened.device.fileno()})
        for fd in state.fds.values():
            os.close(fd)
        self.port.clear("restart")
        return handed

    @classmethod
    def adopt(cls, net: TapNet, loop: asyncio.AbstractEventLoop, handed: Handover) -> TapBackend:
        """Go on with it, from ``start`` on. Raises TapError."""
        state = port_state(handed.data["port"])
        backend = cls(net, loop, OpenTap.adopt(handed.fds["tap"], state.extra))
        backend.port.adopt(state)
        held = handed.data["held"]
        backend.attachment.held = (held[0], held[1]) if held is not None else None
        return backend

    def _export(self) -> tuple[dict[str, Any], dict[str, int]]:
        """For a successor: ``OpenTap.adopt(fd, extra)``. The descriptor is a copy."""
        if self.opened is None:
            return {}, {}
        return self.opened.saved(), {"tap": os.dup(self.opened.device.fileno())}

    def _set_link(self, up: bool) -> None:
        self.attachment.set_link(up)

    # ---- what happens to the interface ---------------------------------------------------------------------

    def _gone(self) -> None:
        """Somebody deleted the interface: the cable is out."""
        opened, self.opened = self.opened, None
        self._had_link = self.port.link
        self.port.set_link(False)
        if opened is not None:
            opened.device.close()
        self._opening.lost("the interface was deleted")

    async def _open_again(self) -> None:
        """Raises OSError."""
        if self.opened is not None:
            return
        net = replace(
            self.net,
            ifname=None if self.net.helper is not None else self.ifname,
            mac=self.net.mac or self._mac,
        )
        if self._found and net.helper is None and not index_of(self.ifname):
            raise OSError(errno.ENODEV, "there is no such interface")
        opened = await in_thread(self._loop, lambda: open_tap(net), OpenTap.close)
        if self._closed:
            opened.close()
            return
        self.opened = opened
        self.ifname = opened.ifname
        port, link = self.port, self._had_link
        self.attachment = DirectAttachment(
            self._loop, opened.device, self.net.name, on_gone=self._gone, port=port
        )
        port.on_link = self._set_link
        port.set_link(link)
        self.attachment.start()

    async def _join_again(self) -> None:
        """Raises OSError."""
        bridge = self.net.br
        if bridge is None or self.net.helper is not None or master(self.ifname) == bridge:
            return
        if self.opened is None:
            raise OSError(errno.ENODEV, "there is no such interface")
        await in_thread(self._loop, lambda: join(self.ifname, bridge))

    def _look(self) -> None:
        """Something has changed among the host's interfaces."""
        if self.opened is None:
            if not self.net.fds:
                self._opening.now()
            return
        if not self.net.fds:  # a descriptor's interface may be elsewhere
            self._look_at_it()
        bridge = self.net.br
        if bridge is None:
            return
        if not self._joining.up:
            self._joining.now()
        elif index_of(self.ifname) and master(self.ifname) != bridge and self.net.helper is None:
            gone = "" if index_of(bridge) else ", which is gone"
            self._joining.lost(f"is no longer a member of {bridge}{gone}")
        self._look_up(bridge)

    def _look_at_it(self) -> None:
        """Say it when somebody takes the interface down, and when it is up again."""
        try:
            with control_socket() as control:
                up = is_up(control, self.ifname)
        except OSError:  # deleted, renamed
            return
        if up != self._up:
            self._up = up
            text = "is up again" if up else "was taken down: nothing passes"
            log.warning("tapnet: %s: %s: %s", self.net.origin, self.ifname, text)

    def _look_up(self, bridge: str) -> None:
        """Say it when the bridge loses its last uplink, and when it has one again."""
        found = uplinks(bridge)
        now = "" if any(found.values()) or not found else f"{bridge}: no carrier on {', '.join(found)}"
        if now != self._said:
            log.warning("tapnet: %s: %s", self.net.origin, now or f"{bridge}: the uplink is up again")
            self._said = now

    # ---- reports -------------------------------------------------------------------------------------------

    def info_line(self) -> str:
        """As ``info network`` says it; QEMU 0.8's words."""
        net = self.net
        if net.fds:
            return f"tap: fd={net.fds[0]}"
        if net.helper is not None:
            return f"tap: ifname={self.ifname} helper={net.helper}"
        return f"tap: ifname={self.ifname} setup_script={net.script or ''}"


async def in_thread(
    loop: asyncio.AbstractEventLoop, work: Callable[[], Any], undo: Callable[[Any], None] | None = None
) -> Any:
    """``work()`` in a thread. Its TapError becomes an OSError; ``undo(result)`` if nobody waits for it any more."""
    future = loop.run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if undo is not None:
            future.add_done_callback(lambda f: None if f.cancelled() or f.exception() else undo(f.result()))
        raise
    except TapError as error:
        raise OSError(str(error)) from None
