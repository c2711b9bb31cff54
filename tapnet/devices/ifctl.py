"""Interface settings by ioctl, in the network namespace of a control socket (the queue by netlink).

Microseconds each, so they may be called from the event loop, where pyroute2's synchronous calls may not. A
control socket that was opened in another namespace (and handed over) acts there.

Ref: netdevice(7), rtnetlink(7), include/uapi/linux/{if,sockios,ethtool}.h, net/bridge/br_ioctl.c.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct

IFF_UP = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCETHTOOL = 0x8913, 0x8914, 0x8946
_SIOCGIFMTU, _SIOCSIFMTU, _SIOCSIFHWADDR, _SIOCGIFHWADDR = 0x8921, 0x8922, 0x8924, 0x8927
_RTM_NEWLINK, _NLM_F_REQUEST, _NLM_F_ACK, _IFLA_TXQLEN = 16, 1, 4, 13
_ARPHRD_ETHER = 1
_ETHTOOL_GSTRINGS, _ETHTOOL_GSSET_INFO, _ETHTOOL_SFEATURES = 0x1B, 0x37, 0x3B
_ETH_SS_FEATURES, _ETH_GSTRING_LEN = 4, 32


def control_socket() -> socket.socket:
    """A socket of the current namespace, for interface ioctls."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def set_mtu(control: socket.socket, ifname: str, mtu: int) -> None:
    """Set an interface's MTU. Raises OSError (EINVAL: out of the device's range)."""
    fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("=16si20x", ifname.encode(), mtu))


def set_queue(ifname: str, frames: int) -> None:
    """Set how many frames wait in an interface of the current namespace for its reader (txqueuelen).

    By netlink: the ioctl wants a capability over the whole machine, not over the namespace. Raises OSError.
    """
    link = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(ifname), 0, 0)
    body = link + struct.pack("=HHI", 8, _IFLA_TXQLEN, frames)
    head = struct.pack("=IHHII", 16 + len(body), _RTM_NEWLINK, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as netlink:
        netlink.bind((0, 0))
        netlink.send(head + body)
        error = -struct.unpack_from("=i", netlink.recv(4096), 16)[0]
    if error:
        raise OSError(error, os.strerror(error), ifname)


def set_mac(control: socket.socket, ifname: str, mac: bytes) -> None:
    """Set an interface's Ethernet address. Raises OSError (EADDRNOTAVAIL: a multicast address)."""
    fcntl.ioctl(control, _SIOCSIFHWADDR, struct.pack("=16sH6s16x", ifname.encode(), _ARPHRD_ETHER, mac))


def set_flags(control: socket.socket, ifname: str, flags: int, mask: int) -> None:
    """Change interface flags (IFF_*) in the namespace of the socket ``control``. Raises OSError."""
    request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("=16s24x", ifname.encode()))
    now = struct.unpack_from("=H", request, 16)[0]
    new = (now & ~mask) | (flags & mask)
    if new != now:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("=16sH22x", ifname.encode(), new))


def is_up(control: socket.socket, ifname: str) -> bool:
    """Whether an interface is administratively up. Raises OSError."""
    request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("=16s24x", ifname.encode()))
    return bool(struct.unpack_from("=H", request, 16)[0] & IFF_UP)


def get_mtu(control: socket.socket, ifname: str) -> int:
    """An interface's MTU. Raises OSError."""
    request = fcntl.ioctl(control, _SIOCGIFMTU, struct.pack("=16s24x", ifname.encode()))
    return int(struct.unpack_from("=i", request, 16)[0])


def get_mac(control: socket.socket, ifname: str) -> bytes:
    """An interface's Ethernet address. Raises OSError."""
    request = fcntl.ioctl(control, _SIOCGIFHWADDR, struct.pack("=16s24x", ifname.encode()))
    return bytes(request[18:24])


def _ethtool(control: socket.socket, ifname: str, command: array.array[int]) -> None:
    request = struct.pack("16sP16x", ifname.encode(), command.buffer_info()[0])
    fcntl.ioctl(control, _SIOCETHTOOL, request)


def feature_names(control: socket.socket, ifname: str) -> dict[str, int]:
    """Name -> bit number of the features that this kernel knows."""
    info = array.array("B", struct.pack("=IIQI", _ETHTOOL_GSSET_INFO, 0, 1 << _ETH_SS_FEATURES, 0))
    _ethtool(control, ifname, info)
    count = struct.unpack_from("=I", info, 16)[0]
    strings = array.array("B", struct.pack("=III", _ETHTOOL_GSTRINGS, _ETH_SS_FEATURES, count))
    strings.extend(bytes(count * _ETH_GSTRING_LEN))
    _ethtool(control, ifname, strings)
    raw = strings.tobytes()[12:]
    return {
        raw[i * _ETH_GSTRING_LEN : (i + 1) * _ETH_GSTRING_LEN].split(b"\0", 1)[0].decode(): i
        for i in range(count)
    }


def set_features(control: socket.socket, ifname: str, bits: dict[str, int], wanted: dict[str, bool]) -> None:
    """Switch features on or off; ``bits`` is ``feature_names``' answer, unknown ones are left out.

    Raises OSError.
    """
    blocks = (max(bits.values()) // 32) + 1
    words = [0] * (2 * blocks)
    for name, on in wanted.items():
        bit = bits.get(name)
        if bit is not None:
            words[bit // 32 * 2] |= 1 << bit % 32
            if on:
                words[bit // 32 * 2 + 1] |= 1 << bit % 32
    command = array.array("B", struct.pack(f"=II{2 * blocks}I", _ETHTOOL_SFEATURES, blocks, *words))
    _ethtool(control, ifname, command)
