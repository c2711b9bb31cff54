"""Run ``tapnet exec`` as root or as an ordinary user, and servers on the host's loopback for its guest."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import BOUND_S

ROOT = Path(__file__).resolve().parents[2]
UID = 1000
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Runner:
    """How to start tapnet as somebody."""

    name: str
    prefix: tuple[str, ...]
    env: dict[str, str]
    home: Path  # a directory that this somebody may write

    def argv(self, *words: str) -> list[str]:
        return [*self.prefix, "-m", "tapnet", *words]

    def run(
        self, command: str | Sequence[str], *options: str, seconds: float = BOUND_S, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """``tapnet exec OPTIONS -- COMMAND`` (a string goes to sh); never raises for its status."""
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        return subprocess.run(
            self.argv("exec", *options, "--", *words),
            env=self.env,
            capture_output=True,
            text=True,
            input=text,
            timeout=seconds,
            cwd=self.home,
        )

    def popen(self, command: str, *options: str) -> subprocess.Popen[str]:
        """The same, left running, in a process group of its own."""
        return subprocess.Popen(
            self.argv("exec", *options, "--", "sh", "-c", command),
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            start_new_session=True,
        )


def _environment(home: Path, **more: str) -> dict[str, str]:
    return {"PATH": PATH, "HOME": str(home), "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **more}


def root_runner(home: Path) -> Runner:
    """This interpreter, as root."""
    return Runner("root", (sys.executable,), _environment(home, PYTHONPATH=str(ROOT)), home)


def user_runner(_home: Path) -> Runner:
    """An ordinary user, who may not be able to read this checkout: then with a copy.

    His home is a directory of its own: pytest keeps its directories to root, and every other pytest that starts on this
    machine sees to it again.
    """
    home = Path(tempfile.mkdtemp(prefix="tapnet-user-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.chown(home, UID, UID)
    drop = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all")
    packages = sysconfig.get_paths()["platlib"]
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    copy = home / "copy"
    for attempt in ("there", "copied"):
        if attempt == "copied":
            for room in ("tapnet", "slirp", "nic_models"):
                shutil.copytree(ROOT / room, copy / room)
            shutil.copytree(packages, copy / "packages", ignore=shutil.ignore_patterns("__editable__*"))
        where = f"{ROOT}:{packages}" if attempt == "there" else f"{copy}:{copy}/packages"
        env = _environment(home, PYTHONPATH=where)
        for interpreter in (sys.executable, system):
            runner = Runner("user", (*drop, interpreter), env, home)
            # by way of sh: setpriv itself still has the capability to find what the user may not
            imports = "import tapnet.service.run, pyroute2, pytun, click"
            probe = [*drop, "sh", "-c", f'exec "$0" -c "{imports}"', interpreter]
            if (
                shutil.which(interpreter)
                and not subprocess.run(probe, env=env, capture_output=True).returncode
            ):
                return runner
    raise AssertionError(f"no interpreter that uid {UID} can run has tapnet's packages: {interpreter}")


class Servers:
    """asyncio servers on 127.0.0.1 in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def tcp(self, handler: Handler) -> int:
        """Serve TCP; the port."""

        async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                await handler(reader, writer)
            writer.close()

        async def start() -> int:
            server = await asyncio.start_server(guarded, "127.0.0.1", 0, backlog=1024, limit=1 << 20)
            return int(server.sockets[0].getsockname()[1])

        return asyncio.run_coroutine_threadsafe(start(), self._loop).result(BOUND_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(BOUND_S)


def blob(size: int) -> bytes:
    """``size`` bytes that do not repeat soon."""
    block = b"".join(hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(2048))
    return (block * (size // len(block) + 1))[:size]


def http(data: bytes) -> Handler:
    """GET gives ``data``; PUT answers the SHA-256 of its body."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("PUT"):
            length = int(head.lower().split("content-length:")[1].split()[0])
            if "100-continue" in head.lower():
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            digest = hashlib.sha256()
            while length:
                piece = await reader.read(min(length, 1 << 20))
                if not piece:
                    return
                digest.update(piece)
                length -= len(piece)
            body = digest.hexdigest().encode()
        else:
            body = data
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 1 << 20):
            writer.write(body[at : at + (1 << 20)])
            await writer.drain()

    return handler


def ftp(files: dict[str, bytes], servers: Servers) -> Handler:
    """Just enough of RFC 959 and 2428 for passive transfers of ``files`` both ways."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.Event]] = (
            asyncio.Queue()
        )

        async def accepted(r: asyncio.StreamReader, w: asyncio.StreamWriter) -> None:
            done = asyncio.Event()
            await data.put((r, w, done))
            await done.wait()

        def say(text: str) -> None:
            writer.write(text.encode() + b"\r\n")

        say("220 ready")
        while line := (await reader.readline()).decode().strip():
            verb, _, word = line.partition(" ")
            name = word.lstrip("/")
            match verb.upper():
                case "USER" | "PASS":
                    say("230 in")
                case "EPSV" | "PASV":
                    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
                    port = server.sockets[0].getsockname()[1]
                    say(
                        f"229 here (|||{port}|)"
                        if verb.upper() == "EPSV"
                        else f"227 here (127,0,0,1,{port >> 8},{port & 255})"
                    )
                case "RETR" | "STOR":
                    say("150 go")
                    r, w, done = await data.get()
                    if verb.upper() == "RETR":
                        w.write(files[name])
                        await w.drain()
                    else:
                        files[name] = await r.read(-1)
                    w.close()
                    done.set()
                    say("226 done")
                case "PWD":
                    say('257 "/"')
                case "SIZE":
                    say(f"213 {len(files[name])}" if name in files else "550 no")
                case "QUIT":
                    say("221 bye")
                    return
                case _:
                    say("200 ok")

    return handler


@contextlib.contextmanager
def daemon(argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server program for the time of the block."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
