"""Opening a TAP: what blocks, in one place, so that it can be done beside the event loop.

    TapNet ──open_tap──► OpenTap: descriptor, name, and what its interface had before (``Before``)
                             ├─ fd=      a descriptor that we inherited (a copy is used, the original stays)
                             ├─ helper=  a program that makes a TAP, joins it to a bridge and hands it over
                             ├─ ifname=  of a macvtap: /dev/tapN
                             └─ ifname=  of a TAP, or none: /dev/net/tun, by python-pytun

Then the interface gets what options ask for (MAC, MTU, bridge, up; by pyroute2) and ``script=`` runs. What we made
ends with its descriptor; what we found gets back what it had by ``give_back``. Any failure gives all back at once and
is one line that names key and value.

Whoever holds a descriptor already (systemd's file descriptor store, a successor process) makes an ``OpenTap`` of it by
``adopt`` and the ``saved`` of its predecessor.

pyroute2's calls run in a thread of their own, because they cannot run on a thread with a running loop; a call takes
some 3 ms. The module is imported only if something has to be changed.

Limits: ``SCRIPT_SECONDS`` for a script, ``HELPER_SECONDS`` for a helper, both longer on a busy machine. Ref: Linux
Documentation/networking/tuntap.rst; QEMU's -netdev tap and bridge; qemu-bridge-helper(8).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pwd
import socket
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...config import TapNet
from ...devices.device import TUN_PATH, TapDevice
from ...devices.ifctl import control_socket, get_mac, get_mtu, is_up
from ...system import privilege
from ...system.patience import limit
from .written import Written, open_written

ANY_NAME = "tap%d"
SCRIPT_SECONDS = 60.0
HELPER_SECONDS = 30.0
MULTI_QUEUE = 0x100  # of an interface's tun_flags
log = logging.getLogger("tapnet.tap")
_SAID_MAX = 200  # characters of what a script or helper said


class TapError(Exception):
    """The interface cannot be had; one line that names key and value."""


@dataclass
class Before:
    """What an interface that we found had, where we changed it. None: it was not changed."""

    mac: str | None = None
    mtu: int | None = None
    bridge: str | None = None  # the one that we joined; it was in none
    up: bool = False  # we brought it up

    def changed(self) -> bool:
        """Whether there is anything to give back."""
        return self != Before()


@dataclass
class OpenTap:
    """An open TAP.

    made    the interface ends with the descriptor
    before  what a found interface gets back
    written the same in a file, for the case that we are killed
    """

    device: TapDevice
    made: bool
    before: Before = field(default_factory=Before)
    written: Written | None = None

    @property
    def ifname(self) -> str:
        """The interface."""
        return self.device.name

    def mac(self) -> bytes | None:
        """The interface's address; None where it cannot be asked."""
        try:
            with control_socket() as control:
                return get_mac(control, self.ifname)
        except OSError:
            return None

    def saved(self) -> dict[str, Any]:
        """JSON-able: for ``adopt`` by a successor, with a copy of the descriptor."""
        return {"ifname": self.ifname, "made": self.made, "before": asdict(self.before)}

    @classmethod
    def adopt(cls, fd: int, saved: dict[str, Any] | None = None) -> OpenTap:
        """A TAP by its descriptor, which is ours from now on; ``saved`` is a predecessor's. Raises TapError."""
        saved = saved or {}
        try:
            device = TapDevice(fd)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise TapError(f"fd={fd}: not a TAP that can be used ({why})") from None
        os.set_inheritable(fd, False)
        return cls(device, saved.get("made", False), Before(**saved.get("before", {})))

    def close(self) -> None:
        """Give the interface back and close the descriptor. Idempotent; may take some milliseconds."""
        if not self.made and self.before.changed():
            before, self.before = self.before, Before()
            with contextlib.suppress(Exception):
                netlink(lambda ipr: give_back(ipr, self.ifname, before))
        if self.written is not None:
            self.written.close(done=True)
            self.written = None
        self.device.close()

    def mend(self, net: TapNet) -> None:
        """A found interface: give back what a process that was killed could not, and write down what will be changed now."""
        written = open_written(self.ifname)
        if written is None:
            return
        left = written.left()
        if left is not None:
            log.warning("tapnet: %s: %s: a tapnet that was killed had changed it", net.origin, self.ifname)
            with contextlib.suppress(Exception):
                netlink(lambda ipr: give_back(ipr, self.ifname, Before(**left)))
        before = intended(net, self.ifname)
        if before.changed():
            with contextlib.suppress(OSError):
                written.write(asdict(before))
                self.written = written
                return
        written.close(done=True)


# ---- interfaces -------------------------------------------------------------------------------------------


def netlink(work: Callable[[Any], None]) -> None:
    """Run ``work(IPRoute)`` in a thread of its own and wait for it. Raises what it raises."""

    def run() -> None:
        from pyroute2 import IPRoute

        with IPRoute() as ipr:
            work(ipr)

    with ThreadPoolExecutor(1, "netlink") as pool:
        pool.submit(run).result()


def give_back(ipr: Any, ifname: str, before: Before) -> None:
    """Make a found interface what it was; what cannot be is left."""
    found = ipr.link_lookup(ifname=ifname)
    if not found:
        return
    index = found[0]
    steps: list[dict[str, Any]] = []
    if before.up:
        steps.append({"state": "down"})
    if before.bridge is not None and master(ifname) == before.bridge:
        steps.append({"master": 0})
    if before.mtu is not None:
        steps.append({"mtu": before.mtu})
    if before.mac is not None:
        steps.append({"address": before.mac})
    for step in steps:
        with contextlib.suppress(Exception):
            ipr.link("set", index=index, **step)


def index_of(name: str) -> int:
    """Index of an interface; 0: there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def master(ifname: str) -> str | None:
    """The bridge that an interface is a member of."""
    link = Path(f"/sys/class/net/{ifname}/master")
    try:
        return os.path.basename(os.readlink(link))
    except OSError:
        return None


def tun_flags(ifname: str) -> int:
    """IFF_* of a TUN or TAP interface; 0: it is none."""
    try:
        return int(Path(f"/sys/class/net/{ifname}/tun_flags").read_text(), 16)
    except (OSError, ValueError):
        return 0


def check_sysfs(bridge: str, ifname: str) -> None:
    """Whether /sys shows this network namespace: bridges are looked at there. Raises TapError naming br=."""
    shown = Path(f"/sys/class/net/{ifname}/ifindex")
    index = index_of(ifname)
    try:
        seen = int(shown.read_text())
    except (OSError, ValueError):
        seen = 0
    if index and seen != index:
        raise TapError(
            f"br={bridge}: /sys does not show this network namespace (nsenter leaves the former one there): "
            "use ip netns exec, or mount -t sysfs sysfs /sys in a mount namespace of its own"
        )


def join(ifname: str, bridge: str) -> None:
    """Put an interface into a bridge. Raises TapError naming br=."""
    target = index_of(bridge)
    if not target:
        raise TapError(f"br={bridge}: no such interface (ip link add {bridge} type bridge)")
    if not Path(f"/sys/class/net/{bridge}/bridge").exists():
        raise TapError(f"br={bridge}: is no bridge")
    _change(f"br={bridge}", ifname, master=target)


def _change(what: str, ifname: str, **change: Any) -> None:
    """One change of an interface. Raises TapError that begins with ``what``."""

    def work(ipr: Any) -> None:
        ipr.link("set", index=index_of(ifname), **change)

    try:
        netlink(work)
    except Exception as error:  # pyroute2's errors share no base but this
        number = getattr(error, "code", None) or getattr(error, "errno", None)
        if number == errno.EPERM:
            raise TapError(
                f"{what}: changing {ifname} needs CAP_NET_ADMIN, which this process lacks"
            ) from PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        raise TapError(f"{what}: {os.strerror(number) if isinstance(number, int) else error}") from None


def high_mac() -> bytes:
    """An address for a TAP of ours: above every real one, because a bridge takes the lowest of its members' for
    its own and would change it, with all that the LAN has learned.
    """
    return b"\xfe" + os.urandom(5)


def configure(net: TapNet, ifname: str, before: Before) -> None:
    """Give the interface what options ask for; ``before`` notes what it had. Raises TapError."""
    with control_socket() as control:
        if net.mac is not None and (had := get_mac(control, ifname)) != net.mac:
            _change(f"mac={net.mac.hex(':')}", ifname, address=net.mac.hex(":"))
            before.mac = had.hex(":")
        if net.mtu is not None and (size := get_mtu(control, ifname)) != net.mtu:
            _change(f"mtu={net.mtu}", ifname, mtu=net.mtu)
            before.mtu = size
        if net.br is not None and net.helper is None:
            check_sysfs(net.br, ifname)
            now = master(ifname)
            if now is not None and now != net.br:
                raise TapError(f"br={net.br}: {ifname} is a member of {now} already")
            if now is None:
                join(ifname, net.br)
                before.bridge = net.br


def intended(net: TapNet, ifname: str) -> Before:
    """What ``configure`` and ``bring_up`` will have changed."""
    before = Before()
    with contextlib.suppress(OSError), control_socket() as control:
        had, size = get_mac(control, ifname), get_mtu(control, ifname)
        before.mac = had.hex(":") if net.mac is not None and had != net.mac else None
        before.mtu = size if net.mtu is not None and size != net.mtu else None
        before.bridge = net.br if master(ifname) is None else None
        before.up = not is_up(control, ifname)
    return before


def bring_up(ifname: str, before: Before) -> None:
    """Raises TapError."""
    with control_socket() as control:
        if is_up(control, ifname):
            return
    try:
        _change(f"ifname={ifname}", ifname, state="up")
    except TapError as error:
        raise TapError(f"{error}; it is down: ip link set {ifname} up") from None
    before.up = True


# ---- the ways to a descriptor -----------------------------------------------------------------------------


def open_tap(net: TapNet) -> OpenTap:
    """Open ``net``'s TAP and configure it; may block for as long as its script or helper runs. Raises TapError."""
    if net.fds:
        opened = _inherited(net.fds[0])
    elif net.helper is not None:
        opened = OpenTap.adopt(by_helper(net.helper, net.br or "br0", net.vnet_hdr is not False))
    else:
        opened = _by_name(net)
    try:
        _check_header(net, opened)
        if not opened.made and not net.fds and net.helper is None:
            opened.mend(net)
        if net.sndbuf is not None:
            opened.device.set_sndbuf(net.sndbuf)
        if opened.made and net.mac is None:
            _change(f"ifname={opened.ifname}", opened.ifname, address=high_mac().hex(":"))
        if not net.fds:
            configure(net, opened.ifname, opened.before)
            bring_up(opened.ifname, opened.before)
        elif net.mac is not None or net.mtu is not None:
            if not opened.device.is_here():
                raise TapError(
                    f"fd={net.fds[0]}: its interface is in another namespace: set mac= and mtu= there"
                )
            configure(net, opened.ifname, opened.before)
        if net.script is not None:
            run_script("script", net.script, opened.ifname)
    except BaseException:
        opened.close()
        raise
    return opened


def _check_header(net: TapNet, opened: OpenTap) -> None:
    if net.vnet_hdr is True and not opened.device.vnet_hdr:
        raise TapError("vnet_hdr=on: this TAP has none")


def _inherited(number: int) -> OpenTap:
    try:
        copy = os.dup(number)
    except OSError as error:
        raise TapError(f"fd={number}: {error.strerror}") from None
    try:
        return OpenTap.adopt(copy)
    except TapError as error:
        os.close(copy)
        raise TapError(str(error).replace(f"fd={copy}:", f"fd={number}:", 1)) from None


def _by_name(net: TapNet) -> OpenTap:
    name = net.ifname or ANY_NAME
    existed = index_of(name) != 0
    if existed and (index := macvtap_index(name)):
        return OpenTap(_macvtap(name, index, net.vnet_hdr is not False), made=False)
    wish = net.vnet_hdr
    queues = bool(tun_flags(name) & MULTI_QUEUE)
    try:
        try:
            device = TapDevice.create(name, vnet_hdr=wish is not False, multi_queue=queues)
        except OSError as error:
            if wish is not None or error.errno != errno.EINVAL:
                raise
            device = TapDevice.create(name, vnet_hdr=False, multi_queue=queues)
    except OSError as error:
        raise TapError(explain(net.ifname, error, existed)) from None
    return OpenTap(device, made=not existed)


def macvtap_index(ifname: str) -> int:
    """N of /dev/tapN if the interface is a macvtap or ipvtap; 0: it is none."""
    index = index_of(ifname)
    return index if index and Path(f"/sys/class/net/{ifname}/tap{index}").exists() else 0


def _macvtap(ifname: str, index: int, vnet_hdr: bool) -> TapDevice:
    path = f"/dev/tap{index}"
    try:
        number = Path(f"/sys/class/net/{ifname}/tap{index}/dev").read_text().strip()
    except OSError as error:
        raise TapError(f"ifname={ifname}: its device in /sys: {error.strerror}") from None
    try:
        seen = os.stat(path).st_rdev
        if number != f"{os.major(seen)}:{os.minor(seen)}":  # of another namespace, which counts anew
            raise TapError(f"ifname={ifname}: {path} is another interface's device, not {number}")
        return TapDevice.open_macvtap(path, ifname, vnet_hdr=vnet_hdr)
    except FileNotFoundError:
        make = f"mknod {path} c {number.replace(':', ' ')}"
        raise TapError(f"ifname={ifname}: there is no {path} ({make})") from None
    except OSError as error:
        raise TapError(f"ifname={ifname}: {path}: {error.strerror}") from None


def explain(ifname: str | None, error: OSError, existed: bool) -> str:
    """One line about a TAP that /dev/net/tun would not give."""
    number = error.errno
    what = f"ifname={ifname}" if ifname else "no TAP can be made"
    if number in (errno.EPERM, errno.EACCES):
        if existed and number == errno.EPERM:
            why = "belongs to another user, and this process lacks CAP_NET_ADMIN"
        elif number == errno.EPERM:
            why = "this process lacks CAP_NET_ADMIN"
        else:
            why = "/dev/net/tun may not be opened, and this process lacks CAP_NET_ADMIN"
        if privilege.gave_away:
            why += f" ({privilege.gave_away})"
        name = (ifname or "tap0").replace("%d", "0")
        make = f"ip tuntap add dev {name} mode tap user {_user()}"
        if number == errno.EACCES:
            make = f"chmod 666 {TUN_PATH}" if existed else f"{make}; chmod 666 {TUN_PATH}"
        return (
            f"{what}: {why}. Three ways without it: a helper (-net bridge), a persistent TAP that root makes once "
            f"for you ({make}), or user mode (-net user)"
        )
    if number == errno.EBUSY:
        return f"{what}: another program has it open"
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"{what}: there is no /dev/net/tun (modprobe tun)"
    if number == errno.EINVAL and existed:
        return f"{what}: exists, but is no TAP interface that can be used"
    return f"{what}: {error.strerror}"


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


# ---- programs ---------------------------------------------------------------------------------------------


def _said(output: str) -> str:
    """The last line of what a program said, for a message."""
    lines = [line for line in output.splitlines() if line.strip()]
    return f" ({lines[-1].strip()[:_SAID_MAX]})" if lines else ""


def run_script(key: str, program: str, ifname: str) -> None:
    """``script=`` or ``downscript=``: PROGRAM IFNAME, as QEMU runs it. Raises TapError."""
    seconds = limit(SCRIPT_SECONDS)
    try:
        done = subprocess.run(
            [program, ifname],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise TapError(f"{key}={program}: did not end within {seconds:.0f} s") from None
    except OSError as error:
        raise TapError(f"{key}={program}: {error.strerror}") from None
    if done.returncode:
        raise TapError(f"{key}={program}: failed with status {done.returncode}{_said(done.stdout)}")


def helper_words(helper: str, bridge: str, vnet_hdr: bool, fd: int) -> list[str]:
    """The helper's command line. As in QEMU, one with blanks goes to a shell, and may say --br= itself."""
    use = ["--use-vnet"] if vnet_hdr else []
    if " " in helper or "\t" in helper:
        br = [] if "--br=" in helper else [f"--br={bridge}"]
        return ["/bin/sh", "-c", " ".join([helper, *use, f"--fd={fd}", *br])]
    return [helper, *use, f"--fd={fd}", f"--br={bridge}"]


def by_helper(helper: str, bridge: str, vnet_hdr: bool) -> int:
    """Have ``helper`` make a TAP on ``bridge``; its descriptor, which came by SCM_RIGHTS. Raises TapError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    what = f"helper={helper}"
    seconds = limit(HELPER_SECONDS)
    fds: Sequence[int] = ()
    with ours, theirs:
        try:
            process = subprocess.Popen(
                helper_words(helper, bridge, vnet_hdr, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=[theirs.fileno()],
            )
        except OSError as error:
            raise TapError(f"{what}: {error.strerror}") from None
        theirs.close()
        ours.settimeout(seconds)
        output = ""
        try:
            with contextlib.suppress(OSError):
                _, fds, _, _ = socket.recv_fds(ours, 1, 4)
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            _close(fds)
            raise TapError(f"{what}: did not end within {seconds:.0f} s") from None
    if process.returncode or len(fds) != 1:
        _close(fds)
        status = f"failed with status {process.returncode}" if process.returncode else "handed no TAP over"
        raise TapError(f"{what}: br={bridge}: {status}{_said(output)}")
    return fds[0]


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
