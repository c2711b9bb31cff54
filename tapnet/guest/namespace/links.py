"""Make a guest's interfaces inside its network namespace. Runs in a helper process that is in that namespace.

    TAP    where /dev/net/tun may be opened: one descriptor, which is the interface's life
    veth   elsewhere: the far end is the guest's interface; the near end lies in a second namespace (the
           *peer* namespace), held by nothing but the packet socket and the control sockets, so that it ends
           with tapnet

A TAP has no back-pressure: what its queue does not take, the guest's kernel drops (``ip -s link``: TX dropped). A card is
slow, and a short queue keeps its delay short; without a card the queue holds the whole window of a TCP connection
(6 MB by default), so that a wire that loses nothing is seen to lose nothing.

``create`` returns, for each interface, what ``adopt`` in tapnet's own process makes a ``Device`` of.
Limits: ``NICS_MAX`` interfaces (their descriptors travel in one message).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...devices.device import Device, PacketDevice, TapDevice
from ...devices.ifctl import IFF_UP, control_socket, set_flags, set_mac, set_mtu, set_queue
from ...system import syscalls
from .watch import open_notices

NICS_MAX = 64
QUEUE_CARD, QUEUE_DIRECT = 1000, 5000  # frames
MTU_MIN, MTU_MAX = 68, 65520
_PEER = "peer0"
# Where both ends of a pair have the same index, the kernel takes them for no pair and lets carrier changes
# wait up to
# a second (net/core/link_watch.c, linkwatch_urgent_event).
_PEER_INDEX = 1_000_000


class LinkError(Exception):
    """An interface could not be made; the text says why in one line."""


@dataclass(frozen=True, slots=True)
class NicSpec:
    """One interface of a guest.

    mac     six bytes; the interface's own address, the same as the emulated card's
    dhcp    whether it is configured: by tapnet's DHCP client, and by the kernel from router advertisements
    dhcp4   whether that client runs: not where the network has no IPv4
    quick6  a wire of our own with IPv6 on it: the kernel need not look for others with its address
    direct  no card behind it: a long queue
    """

    ifname: str
    mac: bytes
    mtu: int = 1500
    dhcp: bool = True
    direct: bool = False
    dhcp4: bool = True
    quick6: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON-able copy."""
        return asdict(self) | {"mac": self.mac.hex()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NicSpec:
        """The inverse of ``as_dict``."""
        return cls(**data | {"mac": bytes.fromhex(data["mac"])})


def tun_usable() -> bool:
    """Whether /dev/net/tun can be opened by this process."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def create(nics: Sequence[NicSpec], kind: str, *, fresh: bool) -> list[tuple[dict[str, Any], list[int]]]:
    """Make the interfaces in the current network namespace (or, ``fresh``, in a new one that becomes
    current).

    kind   ``tap``, ``veth`` or ``auto``
    Returns (description, descriptors) per interface, for ``adopt``. Raises LinkError and OSError.
    """
    if len(nics) > NICS_MAX:
        raise LinkError(f"more than {NICS_MAX} interfaces for one guest")
    if kind == "tap" or (kind == "auto" and tun_usable()):
        if fresh:
            syscalls.unshare(syscalls.CLONE_NEWNET)
        return _create_taps(nics)
    return _create_veths(nics, fresh)


def _exists(nic: NicSpec) -> LinkError:
    return LinkError(f"ifname={nic.ifname}: the namespace has such an interface already")


def _create_taps(nics: Sequence[NicSpec]) -> list[tuple[dict[str, Any], list[int]]]:
    made = []
    with control_socket() as control:
        for nic in nics:
            try:
                socket.if_nametoindex(nic.ifname)
            except OSError:
                pass
            else:
                raise _exists(nic)
            try:
                tap = TapDevice.create(nic.ifname, exclusive=True)
            except OSError as error:
                if error.errno in (errno.EBUSY, errno.EEXIST):
                    raise _exists(nic) from None
                raise
            _dress(control, nic)
            set_queue(nic.ifname, QUEUE_DIRECT if nic.direct else QUEUE_CARD)
            if nic.quick6:
                configure(nic.ifname)
            set_flags(control, nic.ifname, IFF_UP, IFF_UP)
            fds = [os.dup(tap.fileno())]
            tap.close()
            made.append(({"kind": "tap", "name": nic.ifname} | _notices(nic, fds), fds))
    return made


def _dress(control: socket.socket, nic: NicSpec) -> None:
    try:
        set_mac(control, nic.ifname, nic.mac)
    except OSError as error:
        raise LinkError(f"macaddr={nic.mac.hex(':')}: {error.strerror}") from None
    try:
        set_mtu(control, nic.ifname, nic.mtu)
    except OSError as error:
        raise LinkError(f"mtu={nic.mtu}: {error.strerror}") from None


def _create_veths(nics: Sequence[NicSpec], fresh: bool) -> list[tuple[dict[str, Any], list[int]]]:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    made = []
    guest = -1 if fresh else _this_namespace()
    peers = []
    for _ in nics:  # each near end has a namespace of its own: nothing forwards or answers there
        syscalls.unshare(syscalls.CLONE_NEWNET)
        silence_ipv6()
        peers.append((IPRoute(), PacketDevice.open(), control_socket()))
    if fresh:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        guest = _this_namespace()
    else:
        syscalls.setns(guest, syscalls.CLONE_NEWNET)
    with control_socket() as control:
        for nic, (ipr, packet, peer_control) in zip(nics, peers):
            far = {"ifname": nic.ifname, "net_ns_fd": guest}
            try:
                ipr.link("add", ifname=_PEER, index=_PEER_INDEX, kind="veth", peer=far)
            except NetlinkError as error:
                if error.code == errno.EEXIST:
                    raise _exists(nic) from None
                raise LinkError(
                    f"ifname={nic.ifname}: cannot make a veth pair: {os.strerror(error.code)}"
                ) from None
            ipr.close()
            _dress(control, nic)
            set_mtu(peer_control, _PEER, nic.mtu)
            set_flags(peer_control, _PEER, IFF_UP, IFF_UP)
            PacketDevice.bind(packet, _PEER)
            if nic.quick6:
                configure(nic.ifname)
            set_flags(control, nic.ifname, IFF_UP, IFF_UP)
            fds = [packet.detach(), peer_control.detach(), control_socket().detach()]
            made.append(({"kind": "veth", "name": nic.ifname, "peer": _PEER} | _notices(nic, fds), fds))
    os.close(guest)
    return made


def _notices(nic: NicSpec, fds: list[int]) -> dict[str, int]:
    """Open what a card follows its interface by, in the current namespace; nothing for ``direct``."""
    if nic.direct:
        return {}
    fds.append(open_notices().detach())
    return {"index": socket.if_nametoindex(nic.ifname)}


def _this_namespace() -> int:
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def configure(ifname: str) -> None:
    """Autoconfiguration on a wire of our own, where nobody else can have the address: no waiting for others."""
    for knob, value in (
        ("disable_ipv6", "0"),
        ("accept_ra", "1"),
        ("autoconf", "1"),
        ("dad_transmits", "0"),
        ("router_solicitation_delay", "0"),
    ):
        with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{ifname}/{knob}", "w") as file:
            file.write(value)


def silence_ipv6() -> None:
    """No IPv6 of the kernel's own in this namespace: the near end of a pair must not speak."""
    for which in ("all", "default"):
        with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6", "w") as file:
            file.write("1")


def adopt(description: dict[str, Any], fds: Sequence[int]) -> Device:
    """What ``create`` made, as a device of this process."""
    notices = (socket.socket(fileno=fds[-1]), description["index"]) if "index" in description else None
    device: Device
    if description["kind"] == "tap":
        device = TapDevice(fds[0], name=description["name"])
    else:
        packet, peer_control, far_control = (socket.socket(fileno=fd) for fd in fds[:3])
        device = PacketDevice(packet, description["peer"], peer_control, description["name"], far_control)
    device.notices = notices
    return device
