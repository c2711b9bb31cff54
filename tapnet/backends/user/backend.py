"""The ``user`` backend: a port of a hub with the user-mode network (``slirp``) behind it.

Data flow: hub -> ``Port.receive`` -> ``Stack.input``; ``Stack`` -> ``Port.send`` -> hub. The host's sockets
are ``slirp.host.sockets.AsyncHost`` on the same loop. One timer is armed for ``Stack.next_deadline``: it is only
ever moved forward by a new earlier deadline, a timer that comes too early looks again.

Limits: those of the stack. ``receive`` never refuses: what cannot be passed on is dropped and counted there.

The port takes partial checksums and TCP and UDP super-frames, and the stack sends what the hub offers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import fields
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import slirp.config
import slirp.config6
import slirp.forward.tcp
import slirp.rules
from slirp.host.sockets import AsyncHost
from slirp.services.farewell import Farewell
from slirp.services.leases import Leases
from slirp.stack import Stack
from slirp.wire.describe import event_class, frame_line
from slirp.wire.ipv4 import ip_text

from ...config import GuestForward, HostForward, UnixPath, UserNet
from ...virtio import TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_USO4, TUN_F_USO6
from ...vlan.port import Port
from .leasefile import LeaseFile
from .report import FlowRow, ForwardRow, GuestForwardRow
from .services import guest_rule
from .smb import SmbShare

FEATURES = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6
SECOND = 1_000_000_000
log = logging.getLogger("tapnet.user")
MTU_MIN6 = 1280  # of IPv6: below, a network of both families has IPv4 alone
TIMER_SLACK = 1_000_000  # ns; a timer this much too late is not armed anew


def stack_config(net: UserNet) -> slirp.config.Config:
    """The engine's configuration. Raises ValueError that names key and value."""
    mtu = net.mtu or slirp.config.MTU
    v6 = None
    if net.v6 is not None and mtu >= MTU_MIN6:
        v6 = slirp.config6.Config6(
            net=str(net.v6.net),
            host=str(net.v6.host),
            dns=str(net.v6.dns),
            ntp=tuple(str(address) for address in net.dhcp.ntp if isinstance(address, IPv6Address)),
        )
    elif net.v4 is None:
        raise ValueError(f"ipv4=off: IPv6 needs an MTU of {MTU_MIN6}, and a card has {mtu}")
    four: dict[str, Any] = {}
    if net.v4 is not None:
        four = {item.name: str(getattr(net.v4, item.name)) for item in fields(net.v4)}
    return slirp.config.Config(
        **four,
        ipv4=net.v4 is not None,
        v6=v6,
        hostname=net.dhcp.hostname,
        domainname=net.dhcp.domainname,
        dnssearch=net.dhcp.search,
        lease_time=net.dhcp.lease_time,
        lease_given=net.dhcp.lease_given,
        renew_time=net.dhcp.renew_time,
        restrict=net.restrict,
        rules=tuple(slirp.rules.Rule(r.allow, r.protocol, r.net, r.ports, r.text) for r in net.rules),
        hostloopback=net.hostloopback,
        resolver=net.resolvers,
        mtu=mtu,
        buffers=net.buffers,
        ftp=net.ftp,
        tftp=net.tftp.directory if net.tftp else None,
        tftp_write=net.tftp is not None and net.tftp.write,
        tftp_nocase=net.tftp is not None and net.tftp.nocase,
        tftp_server_name=net.dhcp.tftp_server_name,
        bootfile=net.dhcp.bootfile,
        bootfiles=net.dhcp.bootfiles,
        next_server=str(net.dhcp.next_server) if net.dhcp.next_server else None,
        fixed=tuple((lease.mac, str(lease.address), lease.name or "") for lease in net.dhcp.leases),
        ntp=tuple(str(address) for address in net.dhcp.ntp if isinstance(address, IPv4Address)),
        routes=tuple((str(to), str(router)) for to, router in net.dhcp.routes),
        dhcp_options=net.dhcp.options,
        records=tuple((name, str(address)) for name, address in net.records),
    )


def changes_live(old: UserNet, new: UserNet) -> bool:
    """Whether a NAT of ``old`` can become one of ``new`` and keep its flows and leases (redirections aside). Raises ValueError."""
    return (
        old.guest_forwards == new.guest_forwards
        and old.smb == new.smb
        and old.dhcp.state == new.dhcp.state
        and slirp.config.changes_live(stack_config(old), stack_config(new))
    )


def forward_rule(forward: HostForward) -> slirp.forward.tcp.Rule:
    """The engine's rule. Raises ValueError."""
    listen, guest = forward.listen, forward.guest
    if isinstance(listen, UnixPath):
        where: tuple[str, int] | str = "\0" * listen.abstract + listen.path
    else:
        anywhere = "::" if isinstance(guest, IPv6Address) else "0.0.0.0"
        where = (listen.host or anywhere, listen.port)
    to = guest.packed if isinstance(guest, IPv4Address | IPv6Address) else guest
    return slirp.forward.tcp.Rule(
        forward.protocol, where, to, forward.guest_port, forward.count, forward.text
    )


class UserBackend:
    """One NAT on one port. ``clock()`` is in nanoseconds and never goes back."""

    def __init__(
        self,
        net: UserNet,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        rng: random.Random | None = None,
        runas: str | None = None,
    ) -> None:
        config = stack_config(net)
        self.name = net.name
        self.vlan = net.vlan
        self.port = Port(
            net.name,
            self._receive,
            features=FEATURES,
            ready=self._ready,
            offer=self._offer,
            settled=self._settled,
        )
        self._loop = loop
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0
        self._looking = False  # a look at the deadlines is on its way
        self._closed = False
        self.host = AsyncHost(loop, clock, self._look)
        try:
            self.stack = Stack(config, self.host, self.port.send, rng or random.SystemRandom(), clock())
        except OSError as error:  # of the TFTP directory: nothing else is opened there
            self.host.close()
            raise ValueError(f"tftp={net.tftp.directory if net.tftp else ''}: {error.strerror}") from None
        self._smb: SmbShare | None = None
        self._lease_files: list[LeaseFile] = []
        if net.dhcp.state is not None:
            try:
                for name, memory in self._memories():
                    self._lease_files.append(LeaseFile(net.dhcp.state, name, memory, loop, clock))
            except ValueError:
                self.close()
                raise
        self.stack.notice = lambda text: log.warning("tapnet: %s: %s", net.origin, text)
        self.stack.gather()
        self._input = self.stack.input
        self._forwards: dict[int, HostForward] = {}  # by the number of the rule
        self._guest_forwards: dict[int, GuestForward] = {}
        self._v4 = net.v4
        what = ""
        try:
            for forward in net.forwards:
                what = f"{forward.option}{forward.text}"
                self._add_forward(forward)
            for to in net.guest_forwards:
                what = f"guestfwd={to.text}"
                self.add_guest_forward(to)
            what = ""
            self._share_directory(net, runas)
        except ValueError as error:
            self.close()
            raise ValueError(f"{what}: {error}" if what else str(error)) from None

    def _memories(self) -> list[tuple[str, Leases]]:
        """The DHCP servers' memories, by the names of their files."""
        found: list[tuple[str, Leases]] = []
        if self.stack.config.ipv4:
            found.append((self.name, self.stack.dhcp.leases))
        if self.stack.side6 is not None:
            found.append((f"{self.name}.ipv6", self.stack.side6.dhcp.leases))
        return found

    # ---- life ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Announce our addresses; flows may begin."""
        self.stack.announce()
        self._rearm()

    def announce(self) -> None:
        """Say again who and where we are, to guests that could not hear it before."""
        if not self._closed:
            self.stack.tick(self._clock())
            self.stack.announce()
            self._rearm()

    def close(self) -> None:
        """End every flow and give all sockets back. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.stack.close(self._clock())
        for file in self._lease_files:
            file.close()
        self.host.close()
        if self._smb is not None:
            self._smb.close()

    def farewell(self) -> Farewell:
        """Before ``close``: what this NAT says to clients with a lease once its net has gone."""
        stack = self.stack
        return Farewell(stack.config.host_ip, stack.dhcp.leases.bound(self._clock()))

    # ---- the port ------------------------------------------------------------------------------------------

    def _receive(self, frame: bytes, vnet: bytes) -> bool:
        if not self._closed:
            self._input(frame, vnet, self._clock())
        return True

    def _settled(self) -> None:
        if not self._closed:
            self.stack.settle()
            self._look()

    def _ready(self) -> None:
        if not self._closed:
            self.stack.tx_ready(self._clock())
            self._rearm()

    def _offer(self, features: int) -> None:
        stack: Stack | None = getattr(self, "stack", None)
        if stack is not None:
            stack.set_features(features)

    # ---- the timer -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Look at the deadlines soon: once for all batches of a while, not after each."""
        if not self._looking:
            self._looking = True
            self._loop.call_later(TIMER_SLACK / SECOND, self._rearm)

    def _rearm(self) -> None:
        """Arm the timer for the stack's next deadline, if that is earlier than what it is armed for."""
        self._looking = False
        if self._closed:
            return
        deadline = self.stack.next_deadline()
        if deadline is None:
            return
        if self._timer is not None:
            if self._armed <= deadline + TIMER_SLACK:
                return
            self._timer.cancel()
        self._armed = deadline
        delay = max(0, deadline - self._clock()) / SECOND
        self._timer = self._loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._closed:
            return
        now = self._clock()
        deadline = self.stack.next_deadline()
        if deadline is not None and deadline <= now:
            self.stack.tick(now)
        self._rearm()

    def reconfigure(self, net: UserNet) -> bool:
        """Take the keys of ``net`` but for redirections; flows and leases stay. False: that cannot be. Raises ValueError."""
        self.stack.now = self._clock()
        done = self.stack.reconfigure(stack_config(net))
        self._rearm()
        return done

    # ---- redirections --------------------------------------------------------------------------------------

    def _add_forward(self, forward: HostForward) -> int:
        guest = forward.guest
        config = self.stack.config
        if isinstance(guest, IPv4Address) and (not config.ipv4 or guest not in config.network):
            where = f"not in net={config.network}" if config.ipv4 else "IPv4, which is off"
            raise ValueError(f"guest {guest} is {where}")
        if isinstance(guest, IPv6Address) and (config.v6 is None or guest not in config.v6.network):
            where = f"not in ipv6-net={config.v6.network}" if config.v6 else "IPv6, which is off"
            raise ValueError(f"guest {guest} is {where}")
        number = self.stack.forwards.add(forward_rule(forward)).number
        self._forwards[number] = forward
        return number

    def add_forward(self, forward: HostForward) -> int:
        """Listen while it runs; the rule's number. Raises ValueError with the reason."""
        number = self._add_forward(forward)
        self._rearm()
        return number

    def remove_forward(self, number: int) -> bool:
        """Listen no more. False: there is no such rule."""
        self.stack.now = self._clock()
        self._forwards.pop(number, None)
        return self.stack.forwards.remove(number)

    def forwards(self) -> list[ForwardRow]:
        """Rules in force, oldest first."""
        found: list[ForwardRow] = []
        for row in reversed(self.stack.forwards.flows(self._clock())):
            forward = self._forwards[row["rule"]]
            if found and found[-1].number == row["rule"]:
                found[-1] = found[-1]._replace(port=row["src_port"])
            else:
                found.append(ForwardRow(row["rule"], forward, row["src_port"]))
        return found

    def add_guest_forward(self, forward: GuestForward) -> int:
        """Answer guests there; the rule's number. Raises ValueError with the reason."""
        rule = guest_rule(forward, self._v4)
        self.stack.now = self._clock()
        number = self.stack.guest_forwards.add(rule).number
        self._guest_forwards[number] = forward
        self._rearm()
        return number

    def _share_directory(self, net: UserNet, runas: str | None) -> None:
        if net.smb is None:
            return
        if net.v4 is None:
            raise ValueError(f"smb={net.smb.directory}: needs ipv4=on")
        self._smb = SmbShare(net.smb, net.v4, runas)
        for rule in self._smb.rules():
            try:
                self.stack.guest_forwards.add(rule)
            except ValueError as error:
                what = f"smbserver={net.smb.server}" if net.smb.server else f"smb={net.smb.directory}"
                raise ValueError(f"{what}: {error}") from None

    def remove_guest_forward(self, number: int) -> bool:
        """Answer there no more. False: there is no such rule."""
        self.stack.now = self._clock()
        return self._guest_forwards.pop(number, None) is not None and self.stack.guest_forwards.remove(number)

    def guest_forwards(self) -> list[GuestForwardRow]:
        """Rules in force, oldest first."""
        rules = self.stack.guest_forwards.rules
        return [
            GuestForwardRow(number, forward, ip_text(rules[number].rule.address))
            for number, forward in self._guest_forwards.items()
        ]

    # ---- traces --------------------------------------------------------------------------------------------

    def trace(self, line: Callable[[str, str], None] | None, wants: Callable[[str], bool]) -> None:
        """Tell ``line(class, text)`` of frames and events of the classes that it ``wants``; None: no more."""
        stack = self.stack
        if line is None:
            self._input = stack.input
            stack.trace(None, None)
            return

        def say(way: str, frame: bytes) -> None:
            which, text = frame_line(frame)
            if wants(which):
                line(which, f"{way} {text}")

        def heard(reason: str) -> None:
            which = event_class(reason)
            if wants(which):
                line(which, f"--- {reason}")

        def received(frame: bytes, vnet: bytes, now: int) -> None:
            say("in ", frame)
            stack.input(frame, vnet, now)

        self._input = received
        stack.trace(heard, lambda frame: say("out", frame))

    # ---- reports -------------------------------------------------------------------------------------------

    @staticmethod
    def info_line() -> str:
        """QEMU 0.8's words."""
        return "user redirector"

    def rows(self) -> list[FlowRow]:
        """Flows, newest first, for ``info usernet``."""
        self.stack.now = self._clock()
        return [
            FlowRow(
                row["protocol"],
                row["state"],
                row["fd"],
                row["src"],
                row["src_port"],
                row["dst"],
                row["dst_port"],
                row["recvq"],
                row["sendq"],
                row["idle"],
            )
            for row in self.stack.info()
        ]

    def filters(self) -> list[dict[str, Any]]:
        """What guests may reach, with counters: action, text, hits; [] without rules."""
        return self.stack.rules.rows()

    def leases(self) -> list[dict[str, Any]]:
        """DHCP leases, by address."""
        self.stack.now = self._clock()
        return self.stack.leases()

    def counters(self) -> dict[str, Any]:
        """Counters of the stack and of its TCP, for monitors."""
        return {"ip": dict(self.stack.counters), "tcp": dict(self.stack.tcp.counters)}
