"""The TAP backend: a VLAN on a real interface of the host, in its own network namespace.

    hub ◄──► Port ◄──► DirectAttachment ◄──► TapDevice ◄──► kernel: interface, perhaps a member of a bridge

``ifname=`` that does not exist is made and ends with the descriptor; one that exists (persistent, made by an
administrator, perhaps owned by this user) is opened, and on ``close`` gets back the state that it had: up or
down, MTU, member of the bridge or not. ``br=`` joins a bridge that is there already.

All calls are ioctls of microseconds, so nothing blocks the loop. Super-frames pass both ways (IFF_VNET_HDR),
offered by the hub. The port's link is the interface's carrier.

Later: ``script=``, ``downscript=``, ``fd=``, ``helper=`` (refused by ``build``). Ref: Linux
Documentation/networking/tuntap.rst; QEMU's -net tap.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

from ..config import TapNet
from ..device import TapDevice
from ..device_port import DirectAttachment
from ..ifctl import IFF_UP, control_socket, get_mtu, is_up, set_bridge, set_flags, set_mac, set_mtu

DEFAULT_NAME = "tap%d"
_WAYS = (
    "it needs CAP_NET_ADMIN: run as root or by the service, "
    "or have root make it for you once (ip tuntap add dev {name} mode tap user {user}), "
    "or use -net bridge with a helper, or user mode (-net user), which needs nothing"
)


class TapError(Exception):
    """The interface cannot be had; one line that names key and value."""


class TapBackend:
    """One TAP interface as a member of a hub: add ``port`` to the hub, then ``start``."""

    def __init__(self, net: TapNet, loop: asyncio.AbstractEventLoop) -> None:
        """Make or open the interface and bring it up. Raises TapError; nothing is left then."""
        self.net = net
        self._undo: list[Callable[[], None]] = []
        self._closed = False
        wanted = net.ifname or DEFAULT_NAME
        self.existed = _exists(wanted)
        self.device = self._open(wanted)
        self.ifname = self.device.name
        self._control = control_socket()
        try:
            self._configure()
        except BaseException:
            self.close()
            raise
        self.attachment = DirectAttachment(loop, self.device, net.name, on_gone=self._gone)
        self.port = self.attachment.port

    def _open(self, name: str) -> TapDevice:
        wish = self.net.vnet_hdr
        try:
            try:
                return TapDevice.create(name, vnet_hdr=wish is not False)
            except OSError as error:
                if wish is not None or error.errno != errno.EINVAL:
                    raise
                return TapDevice.create(name, vnet_hdr=False)
        except OSError as error:
            raise TapError(self._explain(name, error)) from None

    def _explain(self, name: str, error: OSError) -> str:
        number = error.errno
        if number in (errno.EPERM, errno.EACCES):
            return f"ifname={name}: {error.strerror}: " + _WAYS.format(
                name=name.replace("%d", "0"), user=_user()
            )
        if number == errno.EBUSY:
            return f"ifname={name}: another program has it open"
        if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return f"ifname={name}: there is no /dev/net/tun (modprobe tun)"
        if number == errno.EINVAL and self.existed:
            return f"ifname={name}: exists, but is no TAP interface that one program can open"
        return f"ifname={name}: {error.strerror}"

    def _configure(self) -> None:
        """What options ask for; what must be undone afterwards is noted first to last."""
        net, name, control = self.net, self.ifname, self._control
        if net.mac is not None:
            self._set(f"macaddr={net.mac.hex(':')}", set_mac, net.mac)
        if net.mtu is not None:
            before = get_mtu(control, name)
            if before != net.mtu:
                self._set(f"mtu={net.mtu}", set_mtu, net.mtu)
                self._undo.append(lambda: set_mtu(control, name, before))
        if net.br is not None:
            self._join(net.br)
        if not is_up(control, name):
            try:
                set_flags(control, name, IFF_UP, IFF_UP)
            except OSError as error:
                raise TapError(
                    f"ifname={name}: is down and cannot be brought up ({error.strerror}): "
                    f"ip link set {name} up"
                ) from None
            self._undo.append(lambda: set_flags(control, name, 0, IFF_UP))

    def _set(self, what: str, call: Callable[..., None], value: object) -> None:
        try:
            call(self._control, self.ifname, value)
        except OSError as error:
            raise TapError(f"{what}: {error.strerror}") from None

    def _join(self, bridge: str) -> None:
        control, name = self._control, self.ifname
        master = Path(f"/sys/class/net/{name}/master")
        now = os.path.basename(os.readlink(master)) if master.is_symlink() else None
        if now == bridge:
            return
        if now is not None:
            raise TapError(f"br={bridge}: {name} is a member of {now} already")
        try:
            set_bridge(control, bridge, name, True)
        except OSError as error:
            reason = {
                errno.ENODEV: "no such interface (ip link add " + bridge + " type bridge)",
                errno.EOPNOTSUPP: "is no bridge",
                errno.EINVAL: "is no bridge, or does not take such an interface",
                errno.EPERM: "joining it needs CAP_NET_ADMIN, or a TAP that is a member already",
            }.get(error.errno or 0, error.strerror or "")
            raise TapError(f"br={bridge}: {reason}") from None
        self._undo.append(lambda: set_bridge(control, bridge, name, False))

    def start(self) -> None:
        """Begin to read from the interface."""
        self.attachment.start()

    def _gone(self) -> None:
        """Somebody deleted the interface: the cable is out."""
        self.port.set_link(False)

    def info_line(self) -> str:
        """As ``info network`` says it."""
        return f"tap: ifname={self.ifname} setup_script="

    def close(self) -> None:
        """Give the interface back: ours ends, another's is as it was. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self.existed:
            for undo in reversed(self._undo):
                with contextlib.suppress(OSError):
                    undo()
        if hasattr(self, "attachment"):
            self.attachment.detach()
        self.device.close()
        self._control.close()


def _exists(name: str) -> bool:
    """Whether there is such an interface."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _user() -> str:
    return os.environ.get("USER") or str(os.getuid())
