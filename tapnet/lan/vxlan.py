"""Make and remove a VXLAN and its bridge as one; ``-net vxlan`` plugs its TAP into the bridge.

    guest ─ card ─ hub ─ TAP ─ bridge ─ vxlanVNI ═ UDP port 4789 ═ other hosts

The kernel's VXLAN is the whole engine: it learns which host a MAC address is behind (ageing 300 s), and sends
frames for unknown addresses, and broadcasts, to all: to the multicast ``group=``, or one by one to each
``remote=``. More than that (BGP EVPN, static entries by ``bridge fdb append``) is done to ``vxlanVNI`` from
outside, while it runs.

Both devices carry a mark (their alias: process, its start time, its PID namespace). A process that was killed
leaves them; the next one that needs the same names finds a mark whose process is dead, and removes the
devices. A bridge that existed before is joined and stays.

MTU: the carrier's less ``OVERHEAD``, which the kernel works out from ``dev=``. Larger frames vanish at the VXLAN.

Ref: RFC 7348; Documentation/networking/vxlan.rst; ip-link(8).
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ..config import VxlanNet
from . import sysctl
from .belongings import Link
from .record import started
from .rtnl import Kernel, KernelError

OVERHEAD = {4: 50, 6: 70}  # outer Ethernet, IP, UDP and VXLAN headers
AGEING_CS = 30000
_EVERYBODY = "00:00:00:00:00:00"  # the forwarding entry for unknown addresses
_MARK = "tapnet"
log = logging.getLogger("tapnet.tap")
T = TypeVar("T")


class VxlanError(Exception):
    """The VXLAN cannot be made; the text is one line that names key and value."""


def threaded(work: Callable[[Kernel], T]) -> T:
    """Run ``work`` with a Kernel of its own in a thread of its own, because pyroute2 cannot run on a thread
    with a running loop.
    """

    def run() -> T:
        with Kernel() as kernel:
            return work(kernel)

    with ThreadPoolExecutor(1, "netlink") as pool:
        return pool.submit(run).result()


def mark() -> str:
    """Return the text that marks a device as this process's, for its alias."""
    return f"{_MARK} {os.stat('/proc/self/ns/pid').st_ino} {os.getpid()} {started(os.getpid())}"


def orphaned(alias: str) -> bool:
    """Tell whether a device's alias is of a tapnet that is dead. One of another PID namespace may live, and
    gives False.
    """
    words = alias.split()
    if len(words) != 4 or words[0] != _MARK or words[1] != str(os.stat("/proc/self/ns/pid").st_ino):
        return False
    try:
        return started(int(words[2])) != int(words[3])
    except (OSError, ValueError):
        return True


def names(net: VxlanNet) -> tuple[str, str]:
    """Return the names of the VXLAN and of the bridge."""
    return f"vxlan{net.vni}", net.br or f"brvx{net.vni}"


class Segment:
    """A segment is the bridge and the VXLAN of one ``-net vxlan``, in the network namespace of the thread
    that opens it.

    mtu  what both carry
    """

    def __init__(self, net: VxlanNet) -> None:
        self.net = net
        self.vxlan, self.bridge = names(net)
        self.mtu = 0
        self._made: list[str] = []

    def open(self, kernel: Kernel) -> None:
        """Make what does not exist of the segment. Raises VxlanError; nothing is left then. Idempotent."""
        try:
            self._sweep(kernel)
            self._open(kernel)
        except BaseException as error:
            self.close(kernel)
            if isinstance(error, KernelError):
                raise VxlanError(self._told(error)) from None
            raise

    def _open(self, kernel: Kernel) -> None:
        net = self.net
        bridge = kernel.link(self.bridge)
        if bridge is not None and bridge.kind != "bridge":
            raise VxlanError(f"br={self.bridge}: is no bridge")
        device = 0
        if net.dev is not None:
            carrier = kernel.link(net.dev)
            if carrier is None:
                raise VxlanError(f"dev={net.dev}: no such interface")
            device = carrier.index
        there = kernel.link(self.vxlan)
        if there is not None and self.vxlan not in self._made:
            raise VxlanError(
                f"vni={net.vni}: there is a {self.vxlan} already; join its bridge: -net tap,br=BRIDGE"
            )
        if bridge is None:
            kernel.change_link(
                "add", f"br={self.bridge}", ifname=self.bridge, kind="bridge", br_stp_state=0, br_ageing_time=AGEING_CS
            )  # fmt: skip
            bridge = self._ours(kernel, self.bridge)
        if there is None:
            kernel.change_link(
                "add", f"vni={net.vni}", ifname=self.vxlan, kind="vxlan", **self._values(device)
            )
            there = self._ours(kernel, self.vxlan)
            for remote in net.remotes[1:]:
                self._append(kernel, there, str(remote))
        if net.mtu is not None:
            kernel.change_link("set", f"mtu={net.mtu}", index=there.index, mtu=net.mtu)
        self.mtu = net.mtu or there.mtu
        kernel.change_link("set", f"br={self.bridge}", index=there.index, master=bridge.index)
        for link in (there, bridge):
            kernel.change_link("set", f"{link.name} up", index=link.index, state="up")

    def _values(self, device: int) -> dict[str, Any]:
        """Return the settings of the new VXLAN, as pyroute2 spells them."""
        net = self.net
        target = net.remotes[0] if net.remotes else net.group
        assert target is not None
        six = "6" if target.version == 6 else ""
        values: dict[str, Any] = {
            "vxlan_id": net.vni, "vxlan_port": net.port, "vxlan_learning": 1, f"vxlan_group{six}": str(target),
        }  # fmt: skip
        if device:
            values["vxlan_link"] = device
        if net.local is not None:
            values[f"vxlan_local{six}"] = str(net.local)
        return values

    def _ours(self, kernel: Kernel, name: str) -> Link:
        """Mark a device that was made just now, and return its link. Raises KernelError."""
        self._made.append(name)
        link = kernel.link(name)
        if link is None:
            raise KernelError(errno.ENODEV, name)
        kernel.change_link("set", f"mark {name}", index=link.index, IFLA_IFALIAS=mark())
        sysctl.link_local(name, sysctl.NO_LINK_LOCAL)  # no address for the host on the guests' segment
        return link

    def _append(self, kernel: Kernel, link: Link, remote: str) -> None:
        kernel.call(
            f"remote={remote}", lambda: kernel.ipr.fdb("append", ifindex=link.index, lladdr=_EVERYBODY, dst=remote)
        )  # fmt: skip

    def _told(self, error: KernelError) -> str:
        if error.errno in (errno.EPERM, errno.EACCES):
            return f"{error.what}: needs CAP_NET_ADMIN, which this process lacks"
        if error.what.startswith("mtu=") and error.errno == errno.EINVAL:
            return f"{error.what}: more than fits into a packet of dev={self.net.dev}"
        if error.errno in (errno.EADDRINUSE, errno.EEXIST):
            return (
                f"{error.what}: another VXLAN has this number and port={self.net.port}, or the port is taken"
            )
        if error.errno == errno.EOPNOTSUPP:
            return f"{error.what}: this kernel has no VXLAN (modprobe vxlan)"
        return str(error)

    def missing(self) -> str:
        """Return which device was deleted, or that the VXLAN left the bridge; "" if all is well. Looks at
        sysfs.
        """
        for name in (self.vxlan, self.bridge):
            if not Path(f"/sys/class/net/{name}").exists():
                return f"{name} was deleted"
        if not Path(f"/sys/class/net/{self.bridge}/brif/{self.vxlan}").exists():
            return f"{self.vxlan} is no longer a member of {self.bridge}"
        return ""

    def _sweep(self, kernel: Kernel) -> None:
        """Remove devices that a dead process left under our names."""
        for name in (self.vxlan, self.bridge):
            link = kernel.link(name)
            if link is not None and name not in self._made and orphaned(link.alias):
                log.warning(
                    "tapnet: %s: removed %s, which a process that is dead left", self.net.origin, name
                )
                kernel.change_link("del", f"remove {name}", index=link.index)
        self._made = [name for name in self._made if kernel.link(name) is not None]

    def close(self, kernel: Kernel) -> None:
        """Remove the devices that this process made. Idempotent."""
        while self._made:
            link = kernel.link(self._made.pop())
            if link is not None and link.alias == mark():
                try:
                    kernel.change_link("del", f"remove {link.name}", index=link.index)
                except KernelError as error:
                    log.warning("tapnet: %s: %s", self.net.origin, error)
