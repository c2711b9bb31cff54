"""A Linux network namespace as the guest: one that we make for COMMAND, or one that is there already.

Theory of operation
    NamespaceGuest.spawn   before the event loop starts, forks a helper, which makes the namespaces and the
                           interfaces, hands their descriptors over (SCM_RIGHTS), forks PID 1 (``init``) and
                           then keeps the DHCP leases (``lease``). ``start`` has PID 1 run COMMAND.
    NamespaceGuest.attach  a helper joins the user and network namespace of PATH or PID, makes one interface
                           there and hands it over. It stays only if it has a lease to keep. tapnet itself
                           never leaves the host's namespaces.

As root: a network, PID and mount namespace. As an ordinary user: a user namespace besides, in which COMMAND
is uid 0 (with all capabilities inside) or, with ``keep_uid``, the caller's own uid without capabilities:
ping, which needs one, is permitted by net.ipv4.ping_group_range instead. Only the caller's own uid and gid
exist in that namespace.

End of the processes: helper and PID 1 have a parent-death signal and a channel whose end they watch; PID 1's
end kills everything in its namespace; the interfaces end with our descriptors. So nothing is left, whichever
process dies first and for whatever reason.

Exit status of a guest: COMMAND's; 128+n when signal n killed it; 126 not executable, 127 not found, as
env(1); 125 when tapnet itself failed.

Timers: a helper or PID 1 that starts may take as long as it makes progress; without a message and without
work for ``READY_SECONDS`` the start has failed, or after ``READY_MAX_SECONDS`` in any case. ``LEASE_SECONDS``
is the usual bound for the first lease. All three are stretched on a busy machine (``patience``).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import signal
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from ...devices.device import Device
from ...system import syscalls
from ...system.patience import Patience, limit
from ...system.signals import heeded
from . import links, mounts
from .helper import attach_helper, fork, guest_helper
from .links import NicSpec
from .messages import Channel
from .progress import worked
from .terminal import SignalRelay, Terminal

READY_SECONDS = 10.0
READY_MAX_SECONDS = 120.0
_LOOK_SECONDS = 0.5  # how often a child's progress is checked while it starts
LEASE_SECONDS = 10.0
IPV6_SECONDS = 0.5  # how long a guest that has its lease waits for its IPv6 address
NAMESERVER = "10.0.2.3"
_NS_GET_USERNS = 0xB701
_ENDINGS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

Lease = dict[str, Any]

__all__ = ["LEASE_SECONDS", "GuestError", "Interrupted", "Lease", "NamespaceGuest", "NicSpec", "SignalRelay"]


class GuestError(Exception):
    """A guest could not be made; the text is one line that names the option and its value where it is about
    one.
    """


class Interrupted(Exception):
    """A signal that this thread has blocked asked the process to end while a guest was being made."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class NamespaceGuest:
    """This is a guest that lives in a network namespace, made by ``spawn`` or ``attach``.

    devices   one ``Device`` per NIC, in order; their user may close them, and ``close`` does so too
    leases    interface name -> its present lease (see ``lease``)
    leases6   interface name -> what its kernel learnt from router advertisements (see ``address6``)
    status    exit status once the guest has ended, else None
    """

    def __init__(self, pid: int, nics: Sequence[NicSpec], helper: Channel, guest: Channel | None) -> None:
        self.pid = pid
        self.nics = tuple(nics)
        self.devices: list[Device] = []
        self.leases: dict[str, Lease] = {}
        self.leases6: dict[str, Lease] = {}
        self.status: int | None = None
        self.on_exit: Callable[[int], None] | None = None
        self.on_lease: Callable[[str, Lease | None], None] | None = None
        self._pidfd = os.pidfd_open(pid)
        self._helper = helper
        self._guest = guest
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._error = ""
        self._killed = 0  # the signal that COMMAND died of
        self._lent = False  # COMMAND has had the terminal in the foreground
        self._terminal = Terminal() if guest is not None else None

    @classmethod
    def spawn(
        cls,
        nics: Sequence[NicSpec],
        *,
        keep_uid: bool = False,
        nameservers: Sequence[str] = (NAMESERVER,),
        search: Sequence[str] = (),
        kind: str = "auto",
        mask: Collection[int] | None = None,
    ) -> NamespaceGuest:
        """Make a guest with ``nics``, up and ready for ``start``.

        kind   ``auto``; ``tap`` or ``veth`` to insist
        mask   signals that COMMAND has blocked (default: those that this thread has)
        Call it before other threads exist, best before the event loop runs. Blocks for some 50 ms, longer on a busy
        machine. Raises GuestError, and Interrupted when a blocked signal asks to end meanwhile.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ()) if mask is None else mask
        ours, theirs = Channel.pair()
        to_init, from_init = Channel.pair()
        text = mounts.resolv_text(nameservers, search)

        def helper() -> NoReturn:
            ours.close()
            to_init.close()
            guest_helper(theirs, from_init, nics, kind, keep_uid, text, mask)

        pid = fork(helper)
        theirs.close()
        from_init.close()
        guest = cls(pid, nics, ours, to_init)
        try:
            guest._collect("exec")
            ready = guest._await(to_init)
            if ready is None or "error" in ready[0]:
                why = guest._error if ready is None else str(ready[0]["error"])
                raise GuestError("exec: " + (why or "the guest's first process failed"))
        except BaseException:
            guest.close()
            raise
        return guest

    @classmethod
    def attach(
        cls,
        netns: str,
        *,
        ifname: str = "eth0",
        mac: bytes,
        mtu: int = 1500,
        dhcp: bool = False,
        direct: bool = False,
        kind: str = "auto",
    ) -> NamespaceGuest:
        """Make one interface in the existing namespace ``netns`` (a path, or the pid of a process in it).

        mtu   up to 65520 (what the card behind it can is the caller's business)
        Needs CAP_NET_ADMIN over that namespace: root, or the user who made its user namespace. Raises
        GuestError.
        """
        guest = cls._begin(netns, NicSpec(ifname, mac, mtu, dhcp, direct), kind)
        try:
            guest._collect(f"netns={netns}")
        except BaseException:
            guest.close()
            raise
        return guest

    @classmethod
    async def attach_later(cls, netns: str, nic: NicSpec) -> NamespaceGuest:
        """Do what ``attach`` does on a running loop, and ``watch`` the guest as well. Raises GuestError.

        The fork is this thread's, so that the helper lives as long as it; a worker waits for the helper.
        """
        loop = asyncio.get_running_loop()
        guest = cls._begin(netns, nic, "auto")
        try:
            await loop.run_in_executor(None, guest._collect, f"netns={netns}")
            guest.watch(loop)
        except BaseException:
            guest.close()
            raise
        return guest

    @classmethod
    def _begin(cls, netns: str, nic: NicSpec, kind: str) -> NamespaceGuest:
        fds = _open_namespace(netns)
        ours, theirs = Channel.pair()

        def helper() -> NoReturn:
            ours.close()
            attach_helper(theirs, fds, nic, kind)

        pid = fork(helper)
        theirs.close()
        for fd in fds:
            if fd >= 0:
                os.close(fd)
        return cls(pid, [nic], ours, None)

    def _await(self, channel: Channel) -> tuple[dict[str, Any], list[int]] | None:
        """Wait for one message from a child that is starting; None means that its channel has ended.

        Raises GuestError when nothing moves for too long, and Interrupted.
        """
        still, whole = Patience(READY_SECONDS), Patience(READY_MAX_SECONDS)
        before = worked(self.pid)
        channel.socket.setblocking(False)
        while True:
            if (received := channel.receive()) is not None or channel.eof:
                return received
            if (left := min(still.left(), whole.left())) <= 0:
                late = still if still.left() <= 0 else whole
                raise GuestError(f"the guest's namespace was not ready within {late.limit:.0f} s")
            if coming := signal.sigpending().intersection(heeded(_ENDINGS)):
                raise Interrupted(min(coming))
            if not select.select([channel.socket], [], [], min(left, _LOOK_SECONDS))[0]:
                now = worked(self.pid)
                if now != before:
                    before = now
                    still.renew()

    def _collect(self, what: str) -> None:
        """Take over the devices that the helper has made. Raises GuestError."""
        for _ in self.nics:
            received = self._await(self._helper)
            if received is None:
                raise GuestError(f"{what}: the helper process failed")
            message, fds = received
            if "error" in message:
                raise GuestError(f"{what}: {message['error']}")
            self.devices.append(links.adopt(message["device"], fds))

    # --- running

    def watch(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_exit: Callable[[int], None] | None = None,
        on_lease: Callable[[str, Lease | None], None] | None = None,
    ) -> None:
        """Have the loop watch for the guest's end and its messages.

        on_exit(status)         COMMAND ended (an attached guest: the helper that keeps its lease failed)
        on_lease(ifname, lease) a lease came, was renewed, or (None) was lost
        """
        self._loop = loop
        self.on_exit = on_exit
        self.on_lease = on_lease
        loop.add_reader(self._pidfd, self._ended)
        loop.add_reader(self._helper.fileno(), self._helper_message)
        if self._guest is not None:
            loop.add_reader(self._guest.fileno(), self._guest_message)
        if self._terminal is not None and self._terminal.whole:
            loop.add_signal_handler(signal.SIGCONT, self._resume)

    def _helper_message(self) -> None:
        while (received := self._helper.receive()) is not None:
            self._take(received[0])
        if self._helper.eof and self._loop is not None:
            self._loop.remove_reader(self._helper.fileno())

    def _guest_message(self) -> None:
        assert self._guest is not None
        while (received := self._guest.receive()) is not None:
            self._killed = received[0].get("killed", self._killed)
            if "stopped" in received[0]:
                self._stop()
        if self._guest.eof and self._loop is not None:
            self._loop.remove_reader(self._guest.fileno())

    def _stop(self) -> None:
        """Stop tapnet as well after the terminal has stopped COMMAND, for the shell that waits for tapnet."""
        if self._terminal is not None:
            self._terminal.restore()
            os.killpg(0, signal.SIGTSTP)  # this process is stopped inside this call
            self._resume()

    def _resume(self) -> None:
        """Continue COMMAND after tapnet was continued, in the foreground if tapnet is there."""
        if self._terminal is not None and self._terminal.whole:
            self._tell({"resume": self._terminal.is_ours()})

    def _take(self, message: dict[str, Any]) -> None:
        if "lease" in message:
            lease = message["lease"]
            ifname = lease["ifname"]
            self.leases[ifname] = lease
            self._use_nameservers()
        elif "lease6" in message:
            self.leases6[message["lease6"]["ifname"]] = message["lease6"]
            self._use_nameservers()
            self._wake()
            return
        elif "unleased" in message:
            ifname, lease = message["unleased"]["ifname"], None
            self.leases.pop(ifname, None)
        else:
            self._error = str(message.get("error", ""))
            self._wake()
            return
        if self.on_lease is not None:
            self.on_lease(ifname, lease)
        self._wake()

    def _use_nameservers(self) -> None:
        """Write the name servers and domains of DHCP and router advertisements into the guest's resolv.conf:
        the first interface's server first, IPv4 before IPv6.
        """
        servers: list[str] = []
        search: list[str] = []
        found = [leases.get(nic.ifname, {}) for leases in (self.leases, self.leases6) for nic in self.nics]
        for lease in found:
            servers += [s for s in lease.get("nameservers", ()) if s not in servers]
            names = lease.get("search") or ([lease["domain"]] if lease.get("domain") else [])
            search += [s for s in names if s not in search]
        if servers:
            self.set_resolv(servers, search)

    def set_resolv(self, nameservers: Sequence[str], search: Sequence[str] = ()) -> None:
        """Change the guest's resolv.conf, unless COMMAND has written its own."""
        self._tell({"resolv": mounts.resolv_text(nameservers, search)})

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for future in waiters:
            if not future.done():
                future.set_result(None)

    async def leased(self, seconds: float = LEASE_SECONDS) -> None:
        """Wait until every interface with DHCP has a lease, or, without IPv4, an IPv6 address; ``watch`` first.

        Where both are to come, the address is waited for as well, but not longer than ``IPV6_SECONDS``. ``seconds`` are
        those of a machine at rest. Raises GuestError naming those without.
        """
        loop = asyncio.get_running_loop()
        patience = Patience(seconds, loop.time)
        quick: float | None = None  # when to stop waiting for an IPv6 address, which need not come
        while True:
            lacking = [
                n for n in self.nics if n.quick6 and not self.leases6.get(n.ifname, {}).get("addresses")
            ]
            missing = [n.ifname for n in self.nics if n.dhcp and n.dhcp4 and n.ifname not in self.leases]
            missing += [nic.ifname for nic in lacking if not nic.dhcp4]
            if not missing:
                quick = loop.time() + limit(IPV6_SECONDS) if quick is None else quick
                if not lacking or loop.time() >= quick:
                    return
            if self._error:
                raise GuestError(f"DHCP client on {', '.join(missing)}: {self._error}")
            if self.status is not None:
                raise GuestError("the guest ended before it had a lease")
            future = loop.create_future()
            self._waiters.append(future)
            try:
                async with asyncio.timeout_at(loop.time() + patience.left() if missing else quick):
                    await future
            except TimeoutError:
                if not missing:
                    return
                if patience.left() > 0:  # the machine is busier than it was
                    continue
                what = (
                    "no DHCP lease"
                    if any(n.dhcp4 for n in self.nics if n.ifname in missing)
                    else "no IPv6 address"
                )
                raise GuestError(f"{what} on {', '.join(missing)} within {patience.limit:.0f} s") from None

    def start(
        self, argv: Sequence[str], *, env: dict[str, str] | None = None, cwd: str | None = None
    ) -> None:
        """Run COMMAND. ``on_exit`` reports its end; if it cannot be started, the status there is 126 or 127."""
        lend = self._terminal is not None and self._terminal.whole and self._terminal.is_ours()
        self._tell({"start": {"argv": list(argv), "env": env, "cwd": cwd, "terminal": lend}})
        self._lent = lend

    def signal(self, number: int) -> None:
        """Send a signal to COMMAND, or keep it until COMMAND has been started."""
        self._tell({"signal": int(number)})

    def _tell(self, message: dict[str, Any]) -> None:
        if self._guest is not None and self.status is None:
            with contextlib.suppress(OSError):
                self._guest.send(message)

    def _ended(self) -> None:
        status = syscalls.pidfd_wait(self._pidfd)
        if status is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._pidfd)
            self._helper_message()
            if self._guest is not None:
                self._guest_message()
        self.status = status
        if self._terminal is not None:
            self._terminal.restore()
            if self._lent and self._killed in (signal.SIGINT, signal.SIGQUIT):
                self._terminal.tell_group(self._killed)
        self._wake()
        if self.on_exit is not None and (self._guest is not None or status != 0):
            self.on_exit(status)

    def fileno(self) -> int:
        """Return a pidfd, which is readable when the guest has ended."""
        return self._pidfd

    def wait(self, seconds: float | None = None) -> int | None:
        """Block until the guest has ended and return its status, or None after ``seconds``.

        For use without ``watch``.
        """
        if self.status is None and select.select([self._pidfd], [], [], seconds)[0]:
            self._ended()
        return self.status

    def close(self) -> None:
        """Kill the guest and everything in it now. Idempotent."""
        loop = self._loop
        if loop is not None:
            self._loop = None
            loop.remove_reader(self._pidfd)
            loop.remove_reader(self._helper.fileno())
            if self._terminal is not None and self._terminal.whole and not loop.is_closed():
                loop.remove_signal_handler(signal.SIGCONT)
            if self._guest is not None:
                loop.remove_reader(self._guest.fileno())
        if self._pidfd >= 0:
            if self.status is None:
                self.on_exit = None
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                self.wait()
            os.close(self._pidfd)
            self._pidfd = -1
        self._helper.close()
        if self._guest is not None:
            self._guest.close()
        for device in self.devices:
            device.close()


def _open_namespace(netns: str) -> tuple[int, int]:
    """Open the network namespace and its user namespace (-1: that is our own) and return both descriptors.
    Raises GuestError.
    """
    path = f"/proc/{netns}/ns/net" if netns.isdecimal() else netns
    try:
        net = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        what = "no such process" if netns.isdecimal() else "no such file"
        raise GuestError(f"netns={netns}: {what}") from None
    except OSError as error:
        raise GuestError(f"netns={netns}: {error.strerror}") from None
    user = -1
    try:
        user = fcntl.ioctl(net, _NS_GET_USERNS)
        if os.fstat(user).st_ino == os.stat("/proc/self/ns/user").st_ino:
            os.close(user)
            user = -1
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            os.close(net)
            raise GuestError(f"netns={netns}: not a network namespace") from None
        if error.errno != errno.EPERM:  # a user namespace above ours; setns will say no
            os.close(net)
            raise GuestError(f"netns={netns}: {error.strerror}") from None
    return net, user
