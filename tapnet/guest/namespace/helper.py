"""The helper processes of namespace guests: what runs between ``fork`` in tapnet and the guest.

    guest_helper    makes user and network namespace and the interfaces, hands the descriptors to tapnet,
                    forks PID 1 (``init``), then keeps the DHCP leases and ends with PID 1's status
    attach_helper   joins an existing namespace, makes one interface, hands it over; stays only for a lease

Each is a fork of tapnet that never returns. It has all signals blocked, nothing of tapnet's descriptors open
but its channel once it settles, and a parent-death signal. What goes wrong is one ``{"error": text}`` on the
channel. Messages out: ``{"device": description}`` with descriptors, one per interface; what ``lease`` tells;
``error``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import importlib.util
import os
import select
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from ...devices.ifctl import IFF_UP, control_socket, set_flags
from ...system import syscalls
from . import address6, init, links
from .links import LinkError, NicSpec
from .messages import Channel

_ERROR_MAX = 2000


def fork(body: Callable[[], NoReturn]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        syscalls.die_with_parent()
        if os.getppid() == parent:
            body()
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"tapnet: guest helper: {error}\n".encode())
    finally:
        os._exit(init.FAILED)


def _explain(error: BaseException) -> str:
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC:
            return "the limit on namespaces is reached (sysctl user.max_net_namespaces and its like)"
        return f"{error.strerror}" + (f": {error.filename}" if isinstance(error.filename, str) else "")
    return str(error)[:_ERROR_MAX] or type(error).__name__


def guest_helper(
    channel: Channel,
    guest: Channel,
    nics: Sequence[NicSpec],
    kind: str,
    keep_uid: bool,
    resolv: str,
    mask: Collection[int],
) -> NoReturn:
    try:
        if os.geteuid() != 0:
            _own_user_namespace(keep_uid)
        made = links.create(nics, kind, fresh=True)
        with control_socket() as control:
            set_flags(control, "lo", IFF_UP, IFF_UP)
        _open_ping()
        syscalls.unshare(syscalls.CLONE_NEWPID)
    except BaseException as error:
        channel.send({"error": _explain(error)})
        os._exit(init.FAILED)
    monitor = address6.open_monitor() if any(nic.dhcp for nic in nics) else None
    for description, fds in made:
        channel.send({"device": description}, fds)
        for fd in fds:
            os.close(fd)
    alive, mine = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(mine)
        channel.close()
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
        except OSError as error:
            guest.send({"error": _explain(error)})
            os._exit(init.FAILED)
        init.run(guest, resolv, mask, alive)
    os.close(alive)
    guest.close()
    init.close_descriptors({channel.fileno(), mine, *([monitor.fileno()] if monitor is not None else [])})
    pidfd = os.pidfd_open(pid)
    _forget_stdio()
    if any(nic.dhcp for nic in nics):
        watch = address6.Watch(monitor, nics, channel.send) if monitor is not None else None
        _keep_leases(channel, nics, pidfd, watch)
    _wait_for(channel, pidfd)


def _forget_stdio() -> None:
    """A helper must not keep somebody's pipe or terminal open; its errors go over the channel."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _own_user_namespace(keep_uid: bool) -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    except OSError as error:
        raise LinkError(
            "user namespaces are not permitted here "
            f"({error.strerror}); run as root, or see 'tapnet doctor' for the sysctl to set"
        ) from None
    try:
        with contextlib.suppress(FileNotFoundError), open("/proc/self/setgroups", "w") as file:
            file.write("deny")
        with open("/proc/self/uid_map", "w") as file:
            file.write(f"{uid if keep_uid else 0} {uid} 1")
        with open("/proc/self/gid_map", "w") as file:
            file.write(f"{gid if keep_uid else 0} {gid} 1")
    except OSError as error:
        raise LinkError(f"cannot map uid {uid} into the user namespace: {error.strerror}") from None


def _open_ping() -> None:
    """Let every group of the guest send ICMP echo without a capability."""
    for text in ("0 2147483647", f"{os.getegid()} {os.getegid()}"):
        try:
            with open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
                file.write(text)
            return
        except OSError:
            continue


def _keep_leases(
    channel: Channel, nics: Sequence[NicSpec], pidfd: int, watch: address6.Watch | None = None
) -> None:
    """Keep leases, and tell of IPv6 addresses, until the guest ends. A client that fails is told; the guest goes on."""
    try:
        clients = [nic for nic in nics if nic.dhcp4]
        lease = _import_lease() if clients else None

        async def main() -> None:
            loop = asyncio.get_running_loop()
            done = loop.create_future()

            def finish() -> None:
                if not done.done():
                    done.set_result(None)

            if pidfd >= 0:
                loop.add_reader(pidfd, finish)
            if watch is not None:
                loop.add_reader(watch.fileno(), watch.readable)
            loop.add_reader(channel.fileno(), finish)  # tapnet never writes: readable is the end
            if lease is None:
                await done
                _finish(pidfd)
            keeper = asyncio.ensure_future(lease.keep(clients, channel.send))
            await asyncio.wait((done, keeper), return_when=asyncio.FIRST_COMPLETED)
            if done.done():  # no orderly end of the clients: there is nobody left to talk to
                _finish(pidfd)
            keeper.result()

        asyncio.run(main())
    except BaseException as error:
        with contextlib.suppress(BaseException):
            channel.send({"error": _explain(error)})


def _import_lease() -> Any:
    """The DHCP client without the rest of pyroute2, whose package imports all that it has:

    40 ms of the start.
    """
    name = "pyroute2"
    fresh = name not in sys.modules
    spec = importlib.util.find_spec(name) if fresh else None
    try:
        if spec is not None:
            package = importlib.util.module_from_spec(spec)  # its search path, not its code
            sys.modules[name] = package
        return importlib.import_module(".lease", __package__)
    except ImportError:
        if not fresh:
            raise
        for module in [m for m in sys.modules if m == name or m.startswith(name + ".")]:
            del sys.modules[module]
        return importlib.import_module(".lease", __package__)


def _finish(pidfd: int) -> NoReturn:
    """End as the guest has ended, or, where tapnet ended first, at once (the guest follows by its signal)."""
    status = syscalls.pidfd_wait(pidfd) if pidfd >= 0 else None
    os._exit(init.FAILED if status is None else status)


def _wait_for(channel: Channel, pidfd: int) -> NoReturn:
    """Until the guest or tapnet ends."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    if pidfd >= 0:
        poll.register(pidfd, select.POLLIN)
    poll.poll()
    _finish(pidfd)


def attach_helper(channel: Channel, fds: tuple[int, int], nic: NicSpec, kind: str) -> NoReturn:
    net, user = fds
    try:
        try:
            if user >= 0:
                syscalls.setns(user, syscalls.CLONE_NEWUSER)
            syscalls.setns(net, syscalls.CLONE_NEWNET)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise LinkError("not a network namespace") from None
            raise LinkError(
                f"{error.strerror}: needs root, or to be the user who made the namespace's user namespace"
            ) from None
        (made,) = links.create([nic], kind, fresh=False)
    except BaseException as error:
        channel.send({"error": _explain(error)})
        os._exit(init.FAILED)
    description, device_fds = made
    channel.send({"device": description}, device_fds)
    for fd in device_fds:
        os.close(fd)
    if not nic.dhcp:
        os._exit(0)
    init.close_descriptors({channel.fileno()})
    _forget_stdio()
    _keep_leases(channel, [nic], -1)
    _wait_for(channel, -1)
