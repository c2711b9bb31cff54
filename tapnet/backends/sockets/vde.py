"""A plug in a running vde_switch (``-net vde,sock=DIR``).

    control   a stream socket to DIR/ctl: we send one request (who we are, which port, where our datagrams come), the switch
              answers with the address of its own datagram socket; the stream then stays open, and its end is the plug's
    data      a datagram UNIX socket of ours, bound in DIR (or in /tmp where that cannot be written), connected to the
              switch's: bare frames

When the switch ends, or is not there yet, the plug is tried again with growing pauses (``retry``), as a connector's
connection is. Frames meanwhile are dropped, counted as "disconnected".

Limits: the reply is one 110-byte sockaddr_un; ``port=`` is the switch's port number, 0 the first free one. The data
socket's file gets ``mode=`` and ``group=``, because the switch may be another user.
Ref: vde-2 src/lib/libvdeplug.c, include/vdeplug.h (protocol version 3).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import getpass
import grp
import itertools
import logging
import os
import socket
import struct
from pathlib import Path

from ...config import UnixPath, VdeNet
from ...system.unixsocket import UnixFile, alive
from ...vlan.handover import Handover, port_data, port_state
from .address import FLAGS, WireError, bind_unix, reason
from .dgram import Datagrams
from .retry import Retry

MAGIC, VERSION = 0xFEEDFACE, 3
NEW_CONTROL = 0
DESCRIPTION = 128
PATH_LEN = 108
REQUEST = struct.Struct(f"=IIIH{PATH_LEN}s{DESCRIPTION}s")
REPLY = struct.Struct(f"=H{PATH_LEN}s")
DEFAULTS = ("/run/vde.ctl", "/var/run/vde.ctl", "/tmp/vde.ctl", "~/.vde2/default.switch")
PORT_MAX = 0xFFFFFF
_count = itertools.count()
log = logging.getLogger("tapnet.wires")


def directory(sock: str | None) -> str:
    """The switch's directory: ``sock=``, or the first usual place where there is one."""
    if sock is not None:
        return sock.rstrip("/") or "/"
    for place in DEFAULTS:
        path = os.path.expanduser(place)
        if os.path.exists(os.path.join(path, "ctl")):
            return path
    return DEFAULTS[0]


def request(port: int, path: str, text: str) -> bytes:
    """The plug's request."""
    return REQUEST.pack(
        MAGIC,
        VERSION,
        NEW_CONTROL | port << 8,
        socket.AF_UNIX,
        os.fsencode(path),
        text.encode()[: DESCRIPTION - 1],
    )


def reply(data: bytes) -> str:
    """The switch's datagram socket. Raises OSError for what is no address."""
    if len(data) == REPLY.size:
        family, path = REPLY.unpack(data)
        name = path.split(b"\0", 1)[0]
        if family == socket.AF_UNIX and name:
            return os.fsdecode(name)
    raise OSError(errno.EPROTO, "the switch's answer is no address")


class VdeWire:
    """One plug."""

    def __init__(self, loop: asyncio.AbstractEventLoop, net: VdeNet) -> None:
        """Raises WireError for a group that does not exist."""
        self._loop = loop
        self._net = net
        self.directory = directory(net.sock)
        self._group = -1
        if net.group is not None:
            try:
                self._group = int(net.group) if net.group.isdecimal() else grp.getgrnam(net.group).gr_gid
            except KeyError:
                raise WireError(f"{net.origin}: group={net.group}: no such group") from None
        self._end = Datagrams(loop, net.name)
        self.port = self._end.port
        self._control: socket.socket | None = None
        self._file: UnixFile | None = None
        self._retry = Retry(loop, f"{net.origin}: sock={self.directory}", self._attempt, port=net.name)
        self.port.on_link = self._on_link

    def reconnect(self) -> None:
        """Without the pause, if it is not plugged in."""
        self._retry.now()

    def _on_link(self, up: bool) -> None:
        if up:
            self._retry.now()

    def start(self) -> None:
        """Plug in, now or when the switch is there."""
        self._end.start()
        if self._control is not None:  # adopted
            self._retry.adopted()
            self._loop.add_reader(self._control.fileno(), self._control_readable)
        self._retry.now()

    def export(self) -> Handover:
        """The plug: see ``handover``. The switch is connected to our data socket, so its file may go."""
        handed = Handover({"port": port_data(self.port.export())})
        data, handed.data["held"] = self._end.export()
        if self._control is not None and data is not None:
            handed.fds = {"control": self._control.fileno(), "data": data}
        self.port.clear("restart")
        return handed

    def adopt(self, handed: Handover) -> None:
        """Go on with it, from ``start`` on."""
        if "control" in handed.fds:
            self._control = socket.socket(fileno=handed.fds["control"])
            self._end.adopt(socket.socket(fileno=handed.fds["data"]), handed.data["held"])
        self.port.adopt(port_state(handed.data["port"]))

    async def _attempt(self) -> None:
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | FLAGS)
        data = file = None
        try:
            control.connect(os.path.join(self.directory, "ctl"))
            data, file = self._data_socket()
            text = f"tapnet user={_user()} pid={os.getpid()} {self._net.name}"
            await self._loop.sock_sendall(control, request(self._net.port, str(file.path), text))
            answer = b""
            while len(answer) < REPLY.size:
                piece = await self._loop.sock_recv(control, REPLY.size - len(answer))
                if not piece:
                    raise OSError(
                        errno.ECONNREFUSED, "the switch refused the plug (port taken, or no rights)"
                    )
                answer += piece
            data.connect(reply(answer))
        except BaseException:
            control.close()
            if data is not None:
                data.close()
            if file is not None:
                file.remove()
            raise
        self._control, self._file = control, file
        self._end.use(data)
        self._loop.add_reader(control.fileno(), self._control_readable)

    def _data_socket(self) -> tuple[socket.socket, UnixFile]:
        failure = OSError(errno.EACCES, "no directory for our socket")
        for place in (self.directory, "/tmp"):
            _sweep(place)
            path = os.path.join(place, f".tapnet.{os.getpid():05d}-{next(_count):05d}")
            try:
                sock, file = bind_unix(socket.SOCK_DGRAM, UnixPath(path), self._net.file_mode, self._group)
            except OSError as error:
                failure = error
                continue
            assert file is not None
            return sock, file
        raise failure

    def _control_readable(self) -> None:
        assert self._control is not None
        try:
            if self._control.recv(4096):
                return
            why = "the switch has ended"
        except BlockingIOError:
            return
        except OSError as error:
            why = reason(error)
        self._unplug()
        self._retry.lost(why)

    def _unplug(self) -> None:
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        self._end.drop()
        if self._file is not None:
            self._file.remove()
            self._file = None

    def info_line(self) -> str:
        """As QEMU says it, and why it is not plugged."""
        text = f"vde: sock={self.directory}"
        return text if self._retry.up else f"{text} ({self._retry.why or 'connecting'})"

    def close(self) -> None:
        """Pull the plug. Idempotent."""
        self._retry.close()
        self._unplug()
        self._end.close()


def _sweep(place: str) -> None:
    """Take away the sockets of plugs whose process was killed."""
    for path in Path(place).glob(".tapnet.*"):
        with contextlib.suppress(OSError):
            alive(path, socket.SOCK_DGRAM)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
