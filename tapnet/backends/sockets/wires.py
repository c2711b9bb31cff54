"""From a configured net to its wire: which class, which words.

A ``Wire`` has a port (None: its clients bring their own), ``start``, ``close`` and ``info_line``. ``open_wire`` makes it;
what is wrong with the user's words or the host at that moment is a ``WireError``, one line.

    socket   listen ► Listener   connect ► Connector   mcast ► McastWire   udp ► UdpWire   fd ► by the socket's type
    stream   server ► Server     client ► Connector    fd ► Given or Server
    dgram    multicast ► McastWire   inet ► UdpWire   unix ► UnixWire   fd ► GivenDatagrams
    vde ► VdeWire   ws ► WsListener   dump ► Dump
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Protocol

from ...config import DgramNet, DumpNet, Endpoint, Fd, Net, SocketNet, StreamNet, UnixPath, VdeNet, WsNet
from ...vlan.port import Port
from ..dump import Dump
from .address import WireError, shown
from .dgram import GivenDatagrams, UdpWire, UnixWire
from .mcast import McastWire
from .stream import Connector, Given, Listener, OnePort, Options, Server, inherited
from .vde import VdeWire
from .ws import WsListener

__all__ = ["KINDS", "Wire", "WireError", "open_wire"]

KINDS = (SocketNet, StreamNet, DgramNet, VdeNet, WsNet, DumpNet)

Joined = Callable[[Port, str], None]
Left = Callable[[Port], None]


class Wire(Protocol):
    """A backend on sockets, or a capture."""

    @property
    def port(self) -> Port | None:
        """Its port; None: clients bring their own."""

    def start(self) -> None:
        """Let frames flow."""

    def close(self) -> None:
        """Give everything back. Idempotent."""

    def info_line(self) -> str:
        """For ``info network``."""


def open_wire(
    net: Net,
    loop: asyncio.AbstractEventLoop,
    joined: Joined,
    left: Left,
    told: Callable[[bool, str], None] = lambda _up, _peer: None,
) -> Wire:
    """The wire of ``net``. Raises WireError.

    joined(port, info)   a client has come: plug its port. Raises ValueError if that cannot be
    left(port)           it is gone: unplug it
    told(up, peer)       a wire with a port of its own has its connection, or has lost it
    """
    wire = _open(net, loop, joined, left)
    if isinstance(wire, OnePort):
        wire.told = told
    return wire


def _open(net: Net, loop: asyncio.AbstractEventLoop, joined: Joined, left: Left) -> Wire:
    if isinstance(net, SocketNet):
        return _socket(net, loop, joined, left)
    if isinstance(net, StreamNet):
        return _stream(net, loop)
    if isinstance(net, DgramNet):
        return _dgram(net, loop)
    if isinstance(net, VdeNet):
        return VdeWire(loop, net)
    if isinstance(net, WsNet):
        return WsListener(loop, Options(net.name, net.origin, net.listen), net.origins, joined, left)
    if isinstance(net, DumpNet):
        return Dump(loop, net)
    raise WireError(f"{net.origin}: not built yet")


def _socket(net: SocketNet, loop: asyncio.AbstractEventLoop, joined: Joined, left: Left) -> Wire:
    if net.listen is not None:
        return Listener(loop, Options(net.name, net.origin, net.listen), joined, left)
    if net.connect is not None:
        return Connector(
            loop, Options(net.name, net.origin, net.connect), lambda peer: f"socket: connect to {peer}"
        )
    if net.mcast is not None:
        local = net.localaddr.host if net.localaddr is not None else None
        return McastWire(loop, net.name, net.origin, net.mcast, local, f"socket: mcast={net.mcast}")
    if net.udp is not None:
        assert net.localaddr is not None
        return UdpWire(loop, net.name, net.origin, net.localaddr, net.udp, f"socket: udp={net.udp}")
    assert net.fd is not None
    sock = inherited(net.fd, net.origin)
    if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return Listener(loop, Options(net.name, net.origin, Fd(net.fd)), joined, left, sock)
    return _given(net, loop, net.fd, sock, f"socket: fd={net.fd}")


def _given(net: Net, loop: asyncio.AbstractEventLoop, number: int, sock: socket.socket, words: str) -> Wire:
    """A socket that we inherited, by what it is."""
    try:
        sock.getpeername()
        connected = True
    except OSError:
        connected = False
    if sock.type == socket.SOCK_STREAM and connected:
        return Given(loop, Options(net.name, net.origin, Fd(number)), sock, words)
    if sock.type in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET) and connected:
        return GivenDatagrams(loop, net.name, sock, words)
    name = sock.getsockname()
    if sock.type == socket.SOCK_DGRAM and isinstance(name, tuple) and ip_address(name[0]).is_multicast:
        group = Endpoint(name[0], name[1])
        return McastWire(loop, net.name, net.origin, group, None, f"{words} (mcast={shown(name)})", sock)
    sock.close()
    raise WireError(f"{net.origin}: fd={number}: not connected, and not bound to a multicast group")


def _stream(net: StreamNet, loop: asyncio.AbstractEventLoop) -> Wire:
    options = Options(
        net.name,
        net.origin,
        net.address,
        ipv4=net.ipv4,
        ipv6=net.ipv6,
        last_port=net.to,
        mptcp=net.mptcp,
        retry=net.reconnect_ms > 0,
        pause=net.reconnect_ms / 1000 or None,
    )
    if isinstance(net.address, Fd):
        sock = inherited(net.address.number, net.origin)
        listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        )
        if listening:
            return Server(loop, options, sock)
        if sock.type != socket.SOCK_STREAM:
            sock.close()
            raise WireError(f"{net.origin}: fd={net.address.number}: not a stream socket")
        return _given(net, loop, net.address.number, sock, f"stream: fd={net.address.number}")
    return Server(loop, options) if net.server else Connector(loop, options)


def _dgram(net: DgramNet, loop: asyncio.AbstractEventLoop) -> Wire:
    local, remote = net.local, net.remote
    given = inherited(local.number, net.origin) if isinstance(local, Fd) else None
    if net.multicast:
        assert isinstance(remote, Endpoint)
        interface = local.host if isinstance(local, Endpoint) else None
        words = f"dgram: mcast={remote}"
        return McastWire(loop, net.name, net.origin, remote, interface, words, given)
    if given is not None:
        assert isinstance(local, Fd)
        if given.type == socket.SOCK_STREAM:
            given.close()
            raise WireError(f"{net.origin}: fd={local.number}: not a datagram socket")
        return _given(net, loop, local.number, given, f"dgram: fd={local.number}")
    if isinstance(local, UnixPath) and isinstance(remote, UnixPath):
        return UnixWire(loop, net.name, net.origin, local, remote)
    assert isinstance(local, Endpoint) and isinstance(remote, Endpoint)
    return UdpWire(loop, net.name, net.origin, local, remote, f"dgram: udp={local}/{remote}")
