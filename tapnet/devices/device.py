"""Kernel network devices that carry Ethernet frames as virtio frames: TAP, and one end of a veth pair.

    kernel --> read() -> (frame, vnet) --> attachment --> hub or driver
    kernel <-- write(frame, vnet)      <--

What they are
* ``TapDevice``: /dev/net/tun with IFF_TAP, IFF_NO_PI and (normally) IFF_VNET_HDR. python-pytun creates it;
  what pytun has no call for (TUNSETVNETHDRSZ, TUNSETOFFLOAD, TUNSETCARRIER) are ioctls on its descriptor.
* ``PacketDevice``: an AF_PACKET socket with PACKET_VNET_HDR on the near end (the *peer*) of a veth pair, for
  places where /dev/net/tun may not be opened. The far end is the guest's interface.

One interface (``Device``): non-blocking, level-triggered on ``fileno()``; a descriptor that came from another
process by SCM_RIGHTS is adopted as it is. ``vnet`` is ``b""`` where nothing is owed, or the 10-byte
little-endian virtio_net_hdr; DATA_VALID alone owes nothing.

Limits: one frame is at most ``FRAME_MAX`` bytes; longer ones are cut by the kernel, counted (``drops``) and
lost. What the kernel refuses of a frame that we write (device down, larger than the MTU, malformed header) is
counted and lost: only "no room" is back-pressure. A device that has been removed raises ``DeviceGone`` from
``read``.

AF_PACKET's habits, all dealt with here: our own transmissions come back (PACKET_IGNORE_OUTGOING); the kernel
takes a VLAN tag out of the frame (PACKET_AUXDATA gives it back); the receive buffer counts 64 KiB for a small
super-frame; ENETDOWN is reported once when the link falls.

Timers: none. Ref: Linux Documentation/networking/tuntap.rst, packet(7), include/uapi/linux/{if_tun,if_packet,
ethtool}.h; virtio 1.2, 5.1.6.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from typing import Any, Protocol

from ..virtio import (
    TUN_F_ALL,
    TUN_F_CSUM,
    TUN_F_TSO,
    TUN_F_TSO4,
    TUN_F_TSO6,
    TUN_F_TSO_ECN,
    TUN_F_USO4,
    TUN_F_USO6,
    VNET_LEN,
)
from .ifctl import IFF_UP, feature_names, is_up, set_features, set_flags

FRAME_MAX = 69632  # QEMU's NET_BUFSIZE: 64 KiB of IP and headers
NAME_MAX = 15
TUN_PATH = "/dev/net/tun"

_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE, _TUNSETIFF_FLAGS_VNET = 0x0002, 0x1000, 0x0100, 0x4000
_TUNSETIFF = 0x400454CA
_TUNSETSNDBUF, _TUNGETDEVNETNS = 0x400454D4, 0x54E3
_INT_MAX = 2**31 - 1
_TUNGETIFF = 0x800454D2
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETVNETLE = 0x400454DC
_TUNSETCARRIER = 0x400454E2


_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_AUXDATA, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 8, 15, 23
_SO_RCVBUFFORCE = 33
_AUXDATA = struct.Struct("=IIIHHHH")  # tp_status, len, snaplen, mac, net, vlan_tci, vlan_tpid
_STATISTICS = struct.Struct("=II")  # frames, of these lost
_TP_STATUS_VLAN_VALID, _TP_STATUS_VLAN_TPID_VALID = 1 << 4, 1 << 6
_AUX_SPACE = socket.CMSG_SPACE(_AUXDATA.size)
_ETH_P_ALL = 3
_ETH_P_8021Q = 0x8100
_VLAN_LEN = 4
RECEIVE_BUFFER = 8 << 20

_VNET = struct.Struct("<BBHHHH")
_NO_VNET = bytes(VNET_LEN)
_NEEDS_CSUM = 1
_BAD_READS = 64  # frames in a row that the kernel could not describe, before read() lets others go on

# Features of a veth end that say what may leave it unfinished, and the offer bit that permits each.
_FEATURES = {
    "tx-checksum-ip-generic": TUN_F_CSUM,
    "tx-tcp-segmentation": TUN_F_TSO4,
    "tx-tcp6-segmentation": TUN_F_TSO6,
    "tx-tcp-ecn-segmentation": TUN_F_TSO_ECN,
    "tx-udp-segmentation": TUN_F_USO4 | TUN_F_USO6,
}
# A virtio_net_hdr cannot say these, so they are always finished by the kernel.
_FEATURES_OFF = (
    "tx-checksum-sctp",
    "tx-sctp-segmentation",
    "tx-gre-segmentation",
    "tx-gre-csum-segmentation",
    "tx-ipxip4-segmentation",
    "tx-ipxip6-segmentation",
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
    "tx-gso-partial",
    "tx-gso-list",
    "tx-fraglist",
)


class DeviceGone(OSError):
    """The kernel removed the device under us (its namespace ended, or somebody deleted it)."""


class Device(Protocol):
    """A kernel device, seen from the attachment."""

    name: str
    features: int  # TUN_F_* bits that ``write`` takes
    drops: dict[str, int]  # reason -> frames
    notices: tuple[socket.socket, int] | None  # for guest.watch: a socket there, its index

    def fileno(self) -> int:
        """Descriptor for the event loop."""

    def read(self) -> tuple[bytes, bytes] | None:
        """The next frame and its vnet header; None: nothing now. Raises DeviceGone."""

    def write(self, frame: bytes, vnet: bytes = b"") -> bool:
        """Hand a frame to the kernel. False: no room now, try again when writable."""

    def set_offload(self, features: int) -> None:
        """Which TUN_F_* bits ``read`` may leave owed. The kernel's queue may still hold others."""

    def set_link(self, up: bool) -> None:
        """Give or take the carrier that the guest sees."""

    def overflow(self) -> int:
        """Frames so far that the kernel lost because ``read`` came too late; 0 where it tells only the guest."""

    def close(self) -> None:
        """Give the descriptors back. Idempotent."""


class _Drops:
    """What both devices share: counted losses and how write errors are judged."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.drops: dict[str, int] = {}
        self.notices: tuple[socket.socket, int] | None = None

    def drop(self, reason: str) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1

    def ignore(self) -> None:
        """Give ``notices`` back."""
        if self.notices is not None:
            self.notices[0].close()
            self.notices = None

    def overflow(self) -> int:
        """See ``Device``: a TAP's are on its interface, TX dropped."""
        return 0

    def refused(self, error: OSError) -> bool:
        """Judge a failed write: False to try again, True when the frame is lost (counted)."""
        number = error.errno
        if number in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM):
            if number != errno.EAGAIN:
                self.drop("kernel")
                return True
            return False
        if number in (errno.EIO, errno.ENETDOWN, errno.ENXIO, errno.ENODEV, errno.EBADFD):
            self.drop("link")
        elif number == errno.EMSGSIZE:
            self.drop("oversize")
        else:
            self.drop("malformed")
        return True


_reserve: list[int] = []


def reserve(count: int) -> None:
    """Open ``count`` descriptors of /dev/net/tun for TAPs that come when it may not be opened any more. Raises OSError."""
    for _ in range(count):
        _reserve.append(os.open(TUN_PATH, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))


class TapDevice(_Drops):
    """A TAP device by its descriptor.

    ``TapDevice.create`` makes or opens one by name in this process's network namespace; ``TapDevice(fd)``
    adopts a descriptor on which TUNSETIFF was done already.
    """

    def __init__(self, fd: int, *, name: str | None = None, owner: Any = None) -> None:
        """Adopt ``fd``.

        Raises OSError where it is no TAP, ValueError where it is a TUN or carries packet info.
        """
        request = bytearray(40)
        fcntl.ioctl(fd, _TUNGETIFF, request)
        flags = struct.unpack_from("=H", request, 16)[0]
        if flags & 0x0F != _IFF_TAP or not flags & _IFF_NO_PI:
            raise ValueError("not a TAP device without packet information")
        super().__init__(name or request[:16].split(b"\0", 1)[0].decode(errors="replace"))
        self._fd = fd
        self._owner = owner  # pytun's object closes the descriptor
        self.vnet_hdr = bool(flags & _TUNSETIFF_FLAGS_VNET)
        self.features = 0
        self._uso = False
        os.set_blocking(fd, False)
        if self.vnet_hdr:
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("=i", VNET_LEN))
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, _TUNSETVNETLE, struct.pack("=i", 1))
            self.features = TUN_F_TSO
            if self._try_offload(TUN_F_ALL):  # USO since Linux 6.2
                self._uso = True
                self.features = TUN_F_ALL
        self.set_offload(0)
        self._header = bytearray(VNET_LEN)
        self._body = bytearray(FRAME_MAX + 1)
        self._view = memoryview(self._body)
        self._into = (self._header, self._body) if self.vnet_hdr else (self._body,)

    @classmethod
    def create(
        cls, name: str = "", *, vnet_hdr: bool = True, exclusive: bool = False, multi_queue: bool = False
    ) -> TapDevice:
        """Make the TAP ``name`` (a name with %d, or nothing: the kernel chooses), or open it if it is there.

        ``exclusive``: EBUSY where it is there. ``multi_queue``: one queue of a TAP that was made for several.

        Raises OSError: EPERM without CAP_NET_ADMIN (or as not the owner of a persistent one), EBUSY when
        somebody holds it, EINVAL for a bad name or other flags than the persistent device has, ENOENT without
        a tun driver.
        """
        import pytun

        if len(name.encode()) > NAME_MAX:
            raise OSError(errno.EINVAL, f"interface name {name!r} is longer than {NAME_MAX} bytes")
        flags = pytun.IFF_TAP | pytun.IFF_NO_PI
        flags |= (pytun.IFF_VNET_HDR if vnet_hdr else 0) | (pytun.IFF_TUN_EXCL if exclusive else 0)
        flags |= _IFF_MULTI_QUEUE if multi_queue else 0
        if _reserve:
            return cls._from_reserve(name, flags)
        try:
            device = pytun.TunTapDevice(name=name, flags=flags, dev=TUN_PATH)
        except pytun.Error as error:
            number = error.args[0] if error.args and isinstance(error.args[0], int) else errno.EIO
            absent = number in (errno.ENOENT, errno.ENODEV, errno.ENXIO)
            raise OSError(number, os.strerror(number), TUN_PATH if absent else name) from None
        os.set_inheritable(device.fileno(), False)
        return cls(device.fileno(), name=device.name, owner=device)

    @classmethod
    def _from_reserve(cls, name: str, flags: int) -> TapDevice:
        """By a descriptor that was opened when that was still permitted. Raises OSError; it is kept then."""
        answer = fcntl.ioctl(_reserve[-1], _TUNSETIFF, struct.pack("=16sH22x", name.encode(), flags & 0xFFFF))
        return cls(_reserve.pop(), name=answer[:16].split(b"\0", 1)[0].decode())

    @classmethod
    def open_macvtap(cls, path: str, ifname: str, *, vnet_hdr: bool = True) -> TapDevice:
        """Open the character device ``path`` (/dev/tapN) of a macvtap interface. Raises OSError."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            flags = _IFF_TAP | _IFF_NO_PI | (_TUNSETIFF_FLAGS_VNET if vnet_hdr else 0)
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("=16sH22x", ifname.encode(), flags))
            return cls(fd, name=ifname)
        except BaseException:
            os.close(fd)
            raise

    def is_here(self) -> bool:
        """Whether the interface is in this process's network namespace (False, too, where it may not be asked)."""
        try:
            other = fcntl.ioctl(self._fd, _TUNGETDEVNETNS)
        except OSError:
            return False
        try:
            return os.fstat(other).st_ino == os.stat("/proc/self/ns/net").st_ino
        finally:
            os.close(other)

    def set_sndbuf(self, size: int) -> None:
        """Bytes that the kernel takes from us before it says that there is no room. Raises OSError."""
        fcntl.ioctl(self._fd, _TUNSETSNDBUF, struct.pack("=i", min(size, _INT_MAX)))

    def fileno(self) -> int:
        return self._fd

    def read(self) -> tuple[bytes, bytes] | None:
        for _ in range(_BAD_READS):
            try:
                size = os.readv(self._fd, self._into)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno == errno.EINVAL:  # a kind of super-frame without a virtio name; it is consumed
                    self.drop("malformed")
                    continue
                raise DeviceGone(error.errno, "device removed", self.name) from None
            if not self.vnet_hdr:
                return bytes(self._view[:size]), b""
            size -= VNET_LEN
            if size > FRAME_MAX:
                self.drop("oversize")
                continue
            header = self._header
            return bytes(self._view[:size]), bytes(header) if header[0] & _NEEDS_CSUM or header[1] else b""
        return None

    def write(self, frame: bytes, vnet: bytes = b"") -> bool:
        try:
            if self.vnet_hdr:
                os.writev(self._fd, (vnet or _NO_VNET, frame))
            else:
                os.write(self._fd, frame)
        except OSError as error:
            return self.refused(error)
        return True

    def set_offload(self, features: int) -> None:
        if not self.vnet_hdr:
            return
        features &= self.features
        if not self._uso or features & (TUN_F_USO4 | TUN_F_USO6) != TUN_F_USO4 | TUN_F_USO6:
            features &= ~(TUN_F_USO4 | TUN_F_USO6)  # the kernel takes both or none
        if not features & TUN_F_CSUM:
            features = 0
        if not features & (TUN_F_TSO4 | TUN_F_TSO6):
            features &= ~TUN_F_TSO_ECN
        self._try_offload(features)

    def _try_offload(self, features: int) -> bool:
        try:
            fcntl.ioctl(self._fd, _TUNSETOFFLOAD, features)
        except OSError:
            return False
        return True

    def set_link(self, up: bool) -> None:
        with contextlib.suppress(OSError):  # EBADFD: gone; ENOTTY: before Linux 4.20
            fcntl.ioctl(self._fd, _TUNSETCARRIER, struct.pack("=i", up))

    def close(self) -> None:
        self.ignore()
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        if self._owner is not None:
            self._owner.close()
            self._owner = None
        else:
            os.close(fd)


class PacketDevice(_Drops):
    """The near end of a veth pair by AF_PACKET.

    packet       bound AF_PACKET socket with PACKET_VNET_HDR (``PacketDevice.open``)
    peer         name of the near end, in the namespace of ``peer_control``
    peer_control any socket of the namespace of the near end, for its up and down
    far          name of the guest's interface, in the namespace of ``far_control``
    """

    def __init__(
        self,
        packet: socket.socket,
        peer: str,
        peer_control: socket.socket,
        far: str,
        far_control: socket.socket,
    ) -> None:
        super().__init__(far)
        self.features = TUN_F_ALL
        self._socket = packet
        self._fd = packet.fileno()
        self._peer = peer
        self._peer_control = peer_control
        self._far_control = far_control
        self._feature_bits: dict[str, int] | None = None
        self._overflow = 0
        self._header = bytearray(VNET_LEN)
        self._body = bytearray(FRAME_MAX + 1)
        self._view = memoryview(self._body)
        packet.setblocking(False)

    @staticmethod
    def open() -> socket.socket:
        """A packet socket of this process's network namespace, not yet bound: ``bind((ifname, ETH_P_ALL))``.

        Raises OSError (EPERM) without CAP_NET_RAW in the namespace.
        """
        packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        packet.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        packet.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        packet.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        for level in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):  # the first wants CAP_NET_ADMIN of the host
            try:
                packet.setsockopt(socket.SOL_SOCKET, level, RECEIVE_BUFFER)
                break
            except PermissionError:
                continue
        return packet

    @staticmethod
    def bind(packet: socket.socket, ifname: str) -> None:
        """Start receiving from ``ifname``, which must be up."""
        packet.bind((ifname, _ETH_P_ALL))
        packet.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def fileno(self) -> int:
        return self._fd

    def read(self) -> tuple[bytes, bytes] | None:
        for _ in range(_BAD_READS):
            try:
                size, ancillary, flags, _ = self._socket.recvmsg_into((self._header, self._body), _AUX_SPACE)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno == errno.EINVAL:
                    self.drop("malformed")
                elif error.errno == errno.ENETDOWN:  # said once, when the link falls or the interface goes
                    if not self._alive():
                        raise DeviceGone(error.errno, "device removed", self.name) from None
                else:
                    raise DeviceGone(error.errno, "device removed", self.name) from None
                continue
            if flags & socket.MSG_TRUNC or size > FRAME_MAX + VNET_LEN:
                self.drop("oversize")
                continue
            header = self._header
            frame = bytes(self._view[: size - VNET_LEN])
            vnet = bytes(header) if header[0] & _NEEDS_CSUM or header[1] else b""
            if ancillary:
                status, _, _, _, _, tci, tpid = _AUXDATA.unpack_from(ancillary[0][2])
                if status & _TP_STATUS_VLAN_VALID:
                    return self._tagged(frame, vnet, tci, tpid if status & _TP_STATUS_VLAN_TPID_VALID else 0)
            return frame, vnet
        return None

    @staticmethod
    def _tagged(frame: bytes, vnet: bytes, tci: int, tpid: int) -> tuple[bytes, bytes]:
        """Put the VLAN tag back that the kernel took out."""
        frame = frame[:12] + struct.pack("!HH", tpid or _ETH_P_8021Q, tci) + frame[12:]
        if vnet:
            flags, kind, length, size, start, offset = _VNET.unpack(vnet)
            vnet = _VNET.pack(
                flags, kind, length + _VLAN_LEN if length else 0, size, start + _VLAN_LEN, offset
            )
        return frame, vnet

    def overflow(self) -> int:
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # the kernel forgets what it has told
                words = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
                self._overflow += _STATISTICS.unpack(words)[1]
        return self._overflow

    def _alive(self) -> bool:
        try:
            is_up(self._peer_control, self._peer)
        except OSError:
            return False
        return True

    def write(self, frame: bytes, vnet: bytes = b"") -> bool:
        try:
            os.writev(self._fd, (vnet or _NO_VNET, frame))
        except OSError as error:
            return self.refused(error)
        return True

    def set_offload(self, features: int) -> None:
        """By ethtool features of the guest's end. What the kernel refuses stays as it is:

        the hub finishes it.
        """
        if not features & TUN_F_CSUM:
            features = 0
        wanted = {name: features & bits == bits for name, bits in _FEATURES.items()}
        wanted.update((name, False) for name in _FEATURES_OFF)
        with contextlib.suppress(OSError):
            if self._feature_bits is None:
                self._feature_bits = feature_names(self._far_control, self.name)
            set_features(self._far_control, self.name, self._feature_bits, wanted)

    def set_link(self, up: bool) -> None:
        """The near end down takes the far end's carrier away."""
        with contextlib.suppress(OSError):
            set_flags(self._peer_control, self._peer, IFF_UP if up else 0, IFF_UP)
            # The socket now has ENETDOWN to tell. uvloop would stop watching it for that, so take it away.
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        self.ignore()
        self._fd = -1
        self._socket.close()
        self._peer_control.close()
        self._far_control.close()
