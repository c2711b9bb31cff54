"""``smb=DIR``: one directory of the host for guests of Windows' kind, by a private smbd for each connection.

smbd runs as inetd would start it (``slirp.host.service``), as the user who started tapnet; never as root unless ``smb-user=root``
says so. It listens nowhere, so that nobody else on the host can reach the share. Its state is a directory of its own, which goes when the
NAT does; that of a tapnet that was killed goes when the next one starts (``sweep``). Share ``qemu``, no password: whoever can reach the address is the user, and can do what the user can, but below DIR only
(no link leads out: ``wide links = no``).

Ref: smb.conf(5), smbd(8); QEMU's ``smb=`` (address, ports, name of the share).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal

import slirp.forward.guestfwd
from slirp.contracts.host import Service

from ...config import Smb, UserV4
from .services import default_address

PORTS = (139, 445)
SHARE = "qemu"
HELPER = "samba-dcerpcd"
PREFIX = "tapnet-smb-"
LOCK = "tapnet.lock"
BEYOND = "/usr/sbin:/usr/local/sbin"  # where smbd is, and an ordinary PATH does not lead
LEGACY = "lanman auth = yes\nntlm auth = ntlmv1-permitted\n"
CONFIG = """[global]
private dir = {state}
pid directory = {state}
lock directory = {state}
state directory = {state}
cache directory = {state}
ncalrpc dir = {state}/ncalrpc
log file = {state}/log
smb passwd file = {state}/smbpasswd
server role = standalone server
server min protocol = {oldest}
{legacy}security = user
map to guest = Bad User
guest account = {user}
disable netbios = no
load printers = no
printing = bsd
disable spoolss = yes
usershare max shares = 0
unix extensions = no
[{share}]
path = {directory}
read only = no
guest ok = yes
wide links = no
"""


def _user(smb: Smb, runas: str | None) -> pwd.struct_passwd:
    """Whose rights guests have. Raises ValueError."""
    me = os.geteuid()
    name = smb.user or (runas if me == 0 else None)
    if name is None:
        if me == 0:
            raise ValueError(
                f"smb={smb.directory}: root shares nothing unasked: give --runas USER or smb-user=USER"
            )
        try:
            return pwd.getpwuid(me)
        except KeyError:
            raise ValueError(f"smb={smb.directory}: uid {me} has no name, which smbd needs") from None
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"smb-user={name}: no such user") from None
    if found.pw_uid != me and me != 0:
        raise ValueError(f"smb-user={name}: only root can be another user")
    if smb.user and runas and smb.user != runas:
        raise ValueError(f"smb-user={name}: --runas={runas} cannot be another user")
    return found


def _own_state() -> tuple[str, int]:
    """A directory for the state, and the descriptor that holds its lock as long as this process lives."""
    import fcntl
    import tempfile

    state = tempfile.mkdtemp(prefix=PREFIX)
    new = os.path.join(state, f"{LOCK}.new")
    lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(new, os.path.join(state, LOCK))  # whoever sees it finds it held
    return state, lock


def sweep() -> None:
    """Remove the states of tapnets that were killed: ours by the owner of the lock, which nobody holds any more."""
    import fcntl
    import shutil
    import tempfile

    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for entry in os.scandir(tempfile.gettempdir()):
        if not entry.name.startswith(PREFIX) or not entry.is_dir(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError):
            lock = os.open(os.path.join(entry.path, LOCK), flags)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _end_helper(entry.path)
                    shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(lock)


def _end_helper(state: str) -> None:
    """End the daemon that smbd starts for lists of shares and the like: it would stay for ever."""
    with contextlib.suppress(OSError, ValueError):
        with open(os.path.join(state, HELPER + ".pid")) as file:
            pid = int(file.read(32).strip("\0\n "))
        handle = os.pidfd_open(pid)  # before the look: who it is stays who it is
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as words:
                if os.fsencode(state) in words.read(4096):
                    signal.pidfd_send_signal(handle, signal.SIGTERM)
        finally:
            os.close(handle)


class SmbShare:
    """The configuration and the state of one share. Raises ValueError that names option and value."""

    def __init__(self, smb: Smb, v4: UserV4, runas: str | None = None) -> None:
        directory = os.path.abspath(smb.directory)
        import shutil  # here: no start should wait for what it imports

        smbd = shutil.which("smbd", path=f"{os.environ.get('PATH', '')}:{BEYOND}")
        if not os.path.isdir(directory):
            reason = "Not a directory" if os.path.exists(directory) else "No such file or directory"
            raise ValueError(f"smb={smb.directory}: {reason}")
        if any(c in directory for c in "%\n\r"):
            raise ValueError(f"smb={smb.directory}: smbd shares no path with % or a line feed in it")
        if smbd is None:
            raise ValueError(f"smb={smb.directory}: there is no smbd here: apt-get install samba")
        user = _user(smb, runas)
        self.address = smb.server or default_address(v4)
        sweep()
        self.state, self._lock = _own_state()
        try:
            path = os.path.join(self.state, "smb.conf")
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(
                    CONFIG.format(
                        state=self.state,
                        oldest="NT1" if smb.legacy else "SMB2_02",
                        legacy=LEGACY if smb.legacy else "",
                        user=user.pw_name,
                        share=SHARE,
                        directory=directory,
                    )
                )
            words = [smbd, "-l", self.state, "-s", path]
            if os.geteuid() == 0:
                for name in (self.state, path):
                    os.chown(name, user.pw_uid, user.pw_gid)
                if user.pw_uid != 0 and not runas:
                    ids = (
                        f"--reuid={user.pw_uid}",
                        f"--regid={user.pw_gid}",
                        "--init-groups",
                        "--inh-caps=-all",
                    )
                    words = ["setpriv", *ids, *words]
        except BaseException:
            self.close()
            raise
        self._service = Service("program", tuple(words), inet=True)
        self._text = f"smb={smb.directory}"

    def rules(self) -> list[slirp.forward.guestfwd.GuestRule]:
        """Where smbd answers."""
        return [
            slirp.forward.guestfwd.GuestRule("tcp", self.address.packed, port, self._service, self._text)
            for port in PORTS
        ]

    def close(self) -> None:
        """Remove the state; no smbd runs any more, and the helper that one has left behind ends here. Idempotent."""
        import shutil

        _end_helper(self.state)
        shutil.rmtree(self.state, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
