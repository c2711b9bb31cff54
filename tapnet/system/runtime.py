"""Where control sockets lie: one directory per user, one socket ``NAME.ctl`` per instance.

A service: $RUNTIME_DIRECTORY, which is /run/tapnet/NAME. Root: /run/tapnet; and root's clients look into the folders of
services too, whose user may be another. Others: $XDG_RUNTIME_DIR/tapnet, or /tmp/tapnet-UID where that is unset. A root of a user
namespace may not write to /run and falls back like any other user. A directory is used only if it is ours and
nobody else may write to it, so that no other user can plant a socket there.

/run/tapnet/NAME.sock is systemd's: connecting to it starts the instance, so it is tried last, and never by ``ps``.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

SUFFIX = ".ctl"
SYSTEM = Path("/run/tapnet")
ACTIVATION = ".sock"
NAME = re.compile(r"[A-Za-z0-9_@:+=][A-Za-z0-9_@:+=.-]{0,63}")
PATH_MAX = 107  # sun_path of unix(7), without its zero byte


class PathError(Exception):
    """No such place can be used; the text says why."""


def candidates() -> list[Path]:
    """Directories where this user's instances may be, best first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    service = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    places = [Path(service)] if service.startswith("/") else []
    places += [SYSTEM] if os.geteuid() == 0 else []
    if runtime.startswith("/"):
        places.append(Path(runtime) / "tapnet")
    places.append(Path(f"/tmp/tapnet-{os.getuid()}"))
    return places


def services() -> list[Path]:
    """Folders of services, which systemd made in root's, and which this user may look into."""
    try:
        if SYSTEM.lstat().st_uid != 0 or trusted(SYSTEM, owner=0) is not None:
            return []
        found = [place for place in SYSTEM.iterdir() if place.is_dir() and not place.is_symlink()]
        return [place for place in found if os.geteuid() in (0, place.lstat().st_uid)]
    except OSError:
        return []


def activation(name: str) -> Path | None:
    """The socket that starts instance ``name``, if there is one."""
    path = SYSTEM / (name + ACTIVATION)
    return path if NAME.fullmatch(name) and path.is_socket() else None


def trusted(directory: Path, owner: int | None = None) -> str | None:
    """Why ``directory`` cannot be used: a word, or None if it can. Raises FileNotFoundError."""
    seen = directory.lstat()
    if not stat.S_ISDIR(seen.st_mode):
        return "is not a directory"
    if seen.st_uid != (os.geteuid() if owner is None else owner):
        return f"belongs to uid {seen.st_uid}"
    if seen.st_mode & 0o022:
        return "can be written by others"
    return None


def runtime_directory() -> Path:
    """The directory for new control sockets, made if need be. Raises PathError."""
    problems = []
    for place in candidates():
        try:
            place.mkdir(mode=0o755 if place == SYSTEM else 0o700, exist_ok=True)
            why = trusted(place)
            if why is None and not os.access(place, os.W_OK | os.X_OK):
                why = "cannot be written"
        except OSError as error:
            why = error.strerror or str(error)
        if why is None:
            return place
        problems.append(f"{place}: {why}")
    raise PathError("no directory for the control socket: " + "; ".join(problems))


def folder_for(name: str, uid: int, gid: int) -> Path:
    """As a service's: a folder below root's that belongs to the user whom instance ``name`` will run as. Raises PathError."""
    place = SYSTEM / name
    try:
        SYSTEM.mkdir(mode=0o755, exist_ok=True)
        if (why := trusted(SYSTEM)) is not None:
            raise PathError(f"{SYSTEM} {why}")
        SYSTEM.chmod(0o755)
        place.mkdir(mode=0o700, exist_ok=True)
        if place.is_symlink() or place.lstat().st_uid not in (0, uid):
            raise PathError(f"{place}: belongs to somebody else")
        os.chown(place, uid, gid, follow_symlinks=False)
    except OSError as error:
        raise PathError(f"{place}: {error.strerror}") from None
    return place


def socket_path(name: str, folder: Path | None = None) -> Path:
    """Path of instance ``name``'s control socket, in ``folder`` or where this user's lie. Raises PathError."""
    if not NAME.fullmatch(name):
        raise PathError(f"--name {name!r}: 1 to 64 of A-Z a-z 0-9 _ @ : + = . - (not . or - first)")
    path = (folder or runtime_directory()) / (name + SUFFIX)
    if len(os.fsencode(path)) > PATH_MAX:
        raise PathError(f"--name {name}: {path} is longer than the {PATH_MAX} bytes of a socket's path")
    return path


def sockets(directory: Path) -> list[Path]:
    """Control sockets in ``directory``, dead ones included. Raises OSError."""
    return [path for path in directory.iterdir() if path.suffix == SUFFIX and path.is_socket()]


def existing() -> list[Path]:
    """Control sockets of this user's instances, dead ones included, in order of their names."""
    found = []
    for place in candidates():
        try:
            if trusted(place) is None:
                found += sockets(place)
        except OSError:
            continue
    for place in services():
        try:
            if trusted(place, owner=place.lstat().st_uid) is None:
                found += sockets(place)
        except OSError:
            continue
    return sorted(dict.fromkeys(found), key=lambda path: path.name)
