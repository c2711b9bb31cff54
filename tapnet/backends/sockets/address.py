"""Where wires lead: host addresses as the socket calls want them, names in a worker thread, files of UNIX sockets.

* ``numeric`` answers at once what needs no resolver: numeric addresses, "" (any) and localhost, which is loopback
  whatever a name server says (RFC 6761 6.3). Everything else goes to ``look_up``: getaddrinfo in a thread of its own, never
  on the loop; the end of the process does not wait for a name server that is silent. ``LOOKUPS_MAX`` at a time.
* ``bind_unix`` makes a UNIX socket that only its owner can open (0600). A dead one in its place is removed, a live one
  or another kind of file is refused. ``UnixFile.remove`` takes it away at the end, if it is still ours.

Errors are OSError whose ``strerror`` completes a message, or ``WireError``, a whole line for the user.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from ipaddress import ip_address
from typing import Any

from ...config import Endpoint, UnixPath
from ...system.scope import scope_index
from ...system.unixsocket import UnixFile, alive

SockAddr = tuple[Any, ...]
Target = tuple[int, SockAddr]  # family, address
FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
LOOKUPS_MAX = 16
_lookups = threading.BoundedSemaphore(LOOKUPS_MAX)
LOCALHOST: list[Target] = [(socket.AF_INET, ("127.0.0.1",)), (socket.AF_INET6, ("::1",))]


class WireError(Exception):
    """A wire that cannot be had as it was asked for; one line that names key and value."""


def reason(error: BaseException) -> str:
    """Few words for ``error``."""
    if isinstance(error, TimeoutError) and not error.args:
        return "timed out"
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if words.startswith("Connect call failed") and isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # asyncio's words say where, not why
    return words


def shown(address: Any) -> str:
    """A socket address for people: A:P, [V6]:P, a path, or @abstract."""
    if isinstance(address, bytes):
        address = os.fsdecode(address)
    if isinstance(address, str):
        return "@" + address[1:].rstrip("\0") if address.startswith("\0") else address
    if not address:
        return ""
    host, port = str(address[0]), address[1]
    if len(address) > 3 and address[3] and "%" not in host:
        try:
            host += f"%{socket.if_indextoname(address[3])}"
        except OSError:
            host += f"%{address[3]}"
    host = host.removeprefix("::ffff:") if "." in host else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_address(text: str) -> dict[str, str]:
    """What ``shown`` made, as QMP's SocketAddress."""
    if text.startswith(("/", "@")):
        return {"type": "unix", "path": text}
    if text.startswith("fd "):
        return {"type": "fd", "str": text[3:]}
    host, _, port = text.rpartition(":")
    return {"type": "inet", "host": host.strip("[]"), "port": port}


def _allowed(found: list[Target], ipv4: bool | None, ipv6: bool | None) -> list[Target]:
    """As QEMU: one family switched on alone switches the other off."""
    four = ipv4 if ipv4 is not None else ipv6 is not True
    six = ipv6 if ipv6 is not None else ipv4 is not True
    return [t for t in found if (four if t[0] == socket.AF_INET else six)]


def _numeric(host: str, port: int) -> Target:
    """A numeric address for the socket calls, its scope as a number. Raises OSError."""
    if ":" not in host:
        return socket.AF_INET, (host, port)
    bare, percent, scope = host.partition("%")
    if not percent and ip_address(bare).is_link_local:
        raise OSError(errno.EINVAL, f"a link-local address needs an interface behind it ({bare}%eth0)")
    return socket.AF_INET6, (bare, port, 0, scope_index(scope) if percent else 0)


def numeric(where: Endpoint, *, ipv4: bool | None = None, ipv6: bool | None = None) -> list[Target] | None:
    """Addresses of ``where`` that need no resolver; None: ask ``look_up``. Raises OSError if no family is left."""
    host, port = where.host, where.port
    if host == "":
        found: list[Target] = [(socket.AF_INET, ("0.0.0.0", port)), (socket.AF_INET6, ("::", port))]
    elif host.lower().rstrip(".") == "localhost":
        found = [(family, (address, port)) for family, (address,) in LOCALHOST]
    else:
        try:
            ip_address(host)
        except ValueError:
            return None
        found = [_numeric(host, port)]
    found = _allowed(found, ipv4, ipv6)
    if not found:
        raise OSError(errno.EAFNOSUPPORT, "no address of the family that is asked for")
    return found


async def _resolve(host: str, port: int) -> list[Any]:
    """getaddrinfo. Raises OSError, UnicodeError."""
    if not _lookups.acquire(blocking=False):
        raise OSError(errno.EAGAIN, "too many names are being looked up")
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[Any]] = loop.create_future()

    def done(found: list[Any] | None, error: Exception | None) -> None:
        if future.done():  # nobody waits any more
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found or [])

    def work() -> None:
        found, failure = None, None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except Exception as error:
            failure = error
        finally:
            _lookups.release()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(done, found, failure)

    threading.Thread(target=work, name="look-up", daemon=True).start()
    return await future


async def look_up(where: Endpoint, *, ipv4: bool | None = None, ipv6: bool | None = None) -> list[Target]:
    """Addresses of ``where``, names included. Raises OSError."""
    found = numeric(where, ipv4=ipv4, ipv6=ipv6)
    if found is None:
        try:
            info = await _resolve(where.host, where.port)
        except UnicodeError:
            raise OSError(errno.EINVAL, "not a name that can be looked up") from None
        found = _allowed([(row[0], row[4]) for row in info], ipv4, ipv6)
        if not found:
            raise OSError(errno.EAFNOSUPPORT, "no address of the family that is asked for")
    return found


# ---- UNIX sockets ------------------------------------------------------------------------------------------


def unix_name(where: UnixPath) -> str:
    """For bind and connect."""
    return "\0" + where.path if where.abstract else where.path


def bind_unix(
    kind: int, where: UnixPath, mode: int = 0o600, group: int = -1
) -> tuple[socket.socket, UnixFile | None]:
    """A bound, non-blocking socket of type ``kind`` and its file (None: abstract). Raises OSError."""
    if not where.abstract:
        clear(where.path, kind)
    sock = socket.socket(socket.AF_UNIX, kind | FLAGS)
    file = None
    try:
        if not where.abstract:
            os.fchmod(sock.fileno(), mode)  # Linux: the mode that bind gives the file
        sock.bind(unix_name(where))
        if not where.abstract:
            file = UnixFile(where.path)
            if mode != 0o600:
                os.chmod(where.path, mode)  # whatever the umask is
            if group >= 0:
                os.chown(where.path, -1, group)
    except BaseException:
        sock.close()
        if file is not None:
            file.remove()
        raise
    return sock, file


def clear(path: str, kind: int) -> None:
    """Remove a dead socket. Raises OSError for anything else that is there."""
    try:
        if not alive(path, kind):
            return
    except FileExistsError:
        raise
    except OSError as error:  # another type of socket, a peer of its own: alive
        if error.errno in (errno.EACCES, errno.ENAMETOOLONG):
            raise
    raise OSError(errno.EADDRINUSE, "another program has it open")
