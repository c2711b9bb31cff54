"""Real VMs under test: the ``tapnet`` program, QEMU from the guest kit, a shell on the guest's serial console.

    Tapnet   ``tapnet run ...`` as a user would start it, in a folder of its own below the kit's trixie/run
    Vm       ``chroot trixie qemu-system-x86_64`` under TCG, its serial port on a pipe

Both see that folder, QEMU as ``/run/NAME``: sockets and kernels lie there. Every wait has a deadline, every
process is ended by its pid, ``Lab`` removes the folder.

Guests of the kit read lines from the console and run each in a subshell (``kit.INIT``); ``Vm.run`` puts
markers round the output. Nothing may be written before ``GUEST-READY``: the port is not open yet.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests import waiting
from tests.waiting import BOUND_S

from . import kit

BOOT_S = 2 * BOUND_S
RUN_S = END_S = BOUND_S
MEMORY_MB = 128
LOG_MAX = 1 << 20
READY = "GUEST-READY"
# A host that gives QEMU no time for half a minute is not a kernel that hangs: no reports of lockups and RCU stalls.
BOOT = "mitigations=off nokaslr no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1"


class VmError(AssertionError):
    """A guest did not do what was waited for; the text has the end of its console."""


def cpus() -> list[int]:
    """Processors that we may use."""
    return sorted(os.sched_getaffinity(0))


def pin(pid: int, where: Sequence[int]) -> None:
    """Put all threads of a process on these processors."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), where)


def until(condition: Callable[[], Any], what: str, seconds: float = RUN_S) -> Any:
    """Poll a condition with a bound; its value."""
    return waiting.until(condition, what, seconds=seconds, failure=VmError)


def end(process: subprocess.Popen[Any], seconds: float = END_S) -> int:
    """SIGTERM, then SIGKILL; the exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(seconds)


class Lab:
    """A folder that tapnet and QEMU share, and everything that was started in it."""

    def __init__(self) -> None:
        self.root = kit.qemu_root()
        self.folder = Path(tempfile.mkdtemp(prefix="t", dir=self.root / "run"))
        self.inside = f"/run/{self.folder.name}"
        self._open: list[Tapnet | Vm] = []
        self._count = 0

    def tapnet(self, *options: str, netns: str | None = None) -> Tapnet:
        """Start ``tapnet run OPTIONS`` in the folder, and in a named network namespace, and wait until it is up."""
        self._count += 1
        started = Tapnet(self, f"lab{os.getpid()}.{self.folder.name}.{self._count}", options, netns)
        self._open.append(started)
        return started

    def vm(self, *devices: str, **more: Any) -> Vm:
        """Start a VM: ``Vm``."""
        self._count += 1
        started = Vm(self, f"vm{self._count}", devices, **more)
        self._open.append(started)
        return started

    def put(self, source: Path, here: bool = False) -> str:
        """A file where QEMU sees it (``here``: this machine's own QEMU); the name there."""
        target = self.folder / source.name
        if not target.exists():
            try:
                os.link(source, target)
            except OSError:
                shutil.copy(source, target)
        return f"{self.folder if here else self.inside}/{source.name}"

    def close(self) -> None:
        """End everything, last first."""
        while self._open:
            self._open.pop().close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Tapnet:
    """A running ``tapnet run``."""

    def __init__(self, lab: Lab, name: str, options: Sequence[str], netns: str | None = None) -> None:
        self.lab, self.name, self.options = lab, name, tuple(options)
        self._prefix = () if netns is None else ("ip", "netns", "exec", netns)
        self.log = lab.folder / f"{name}.log"
        self._start()

    def _start(self) -> None:
        ready, theirs = os.pipe()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "tapnet", "run", "--name", self.name, *self.options]
                + [f"--ready-fd={theirs}"],
                cwd=self.lab.folder,
                env=os.environ | {"PYTHONPATH": str(kit.ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs],
            )
        os.close(theirs)
        try:
            if not select.select([ready], [], [], BOUND_S)[0] or not os.read(ready, 1):
                end(self.process)
                raise VmError(f"tapnet did not start: {self.output()}")
        finally:
            os.close(ready)

    def output(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")

    def monitor(self, *command: str) -> str:
        """``tapnet monitor -i NAME COMMAND``: the answer."""
        done = subprocess.run(
            [sys.executable, "-m", "tapnet", "monitor", "-i", self.name, *command],
            cwd=kit.ROOT,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(END_S)

    def start_again(self) -> None:
        """The same command once more."""
        self._start()

    def close(self) -> None:
        """SIGTERM and wait."""
        end(self.process)


def vfio(path: str, **more: Any) -> str:
    """QEMU's -device value for a card on ``path``."""
    words = {"driver": "vfio-user-pci", "socket": {"path": path, "type": "unix"}, "x-msg-timeout": 60000}
    return json.dumps(words | more, separators=(",", ":"))


class Vm:
    """A VM with our cards in it, or QEMU's own.

    devices   socket names in the lab's folder, or whole -device values of QEMU (with ``builtin,`` netdevs in
              ``extra``)
    kernel    amd64, 686, or None: boot what ``extra`` says
    again     without -no-reboot: a guest's reboot is one
    files     programs of this machine that the guest has too, with their libraries, at the same paths
    here      this machine's own QEMU, not the kit's
    ready     what the console says when it is up; None: do not wait
    """

    def __init__(
        self,
        lab: Lab,
        name: str,
        devices: Sequence[str] = (),
        *,
        kernel: str | None = "amd64",
        append: str = "",
        extra: Sequence[str] = (),
        shared: bool = True,
        again: bool = False,
        memory: int = MEMORY_MB,
        files: Sequence[Path] = (),
        ready: str | None = READY,
        on: Sequence[int] | None = None,
        wait: bool = True,
        here: bool = False,
    ) -> None:
        self.lab, self.name, self.here = lab, name, here
        inside = lab.folder if here else lab.inside
        self._text = ""  # all that the console has said, carriage returns removed
        self._mark = 0  # up to here it has been consumed
        self._tokens = 0
        words = ["qemu-system-i386" if kernel == "686" else "qemu-system-x86_64", "-accel", "tcg"]
        words += ["-m", str(memory), "-nodefaults", "-display", "none", "-serial", "stdio", "-nic", "none"]
        self.qmp_path = lab.folder / f"{name}.qmp"
        words += ["-qmp", f"unix:{inside}/{name}.qmp,server=on,wait=off"]
        if shared:
            words += ["-object", f"memory-backend-memfd,id=mem,size={memory}M,share=on"]
            words += ["-machine", "pc,memory-backend=mem"]
        if not again:
            words.append("-no-reboot")
        if kernel is not None:
            folder = kit.kernel_686() if kernel == "686" else kit.kernel()
            words += [
                "-kernel",
                lab.put(kit.boot_image(folder), here),
                "-initrd",
                self._initrd(folder, files),
            ]
            words += [
                "-append",
                f"console=ttyS0 panic=1 quiet {BOOT} {append}".strip(),
            ]
        for device in devices:
            words += ["-device", device if "," in device else vfio(f"{inside}/{device}")]
        words += extra
        self.words = words
        self._complaints = lab.folder / f"{name}.err"  # not on the console: they would split its lines
        with self._complaints.open("wb") as complaints:
            self.process = subprocess.Popen(
                words if here else ["chroot", str(lab.root), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                preexec_fn=None if on is None else lambda: os.sched_setaffinity(0, on),
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._in, self._out = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._out, False)
        self.ready = ready
        if wait and ready is not None:
            try:
                self.booted()
            except BaseException:
                self.close()
                raise

    def _initrd(self, folder: Path, files: Sequence[Path]) -> str:
        image = kit.initramfs(folder)
        if not files:
            return self.lab.put(image, self.here)
        made = self.lab.folder / f"{self.name}.cpio"
        made.write_bytes(image.read_bytes() + kit.programs(files))
        return self.lab.put(made, self.here)

    def booted(self, seconds: float = BOOT_S) -> Vm:
        """Wait until the guest's shell is there."""
        assert self.ready is not None
        self.expect(re.escape(self.ready), seconds)
        return self

    # ---- console -------------------------------------------------------------------------------------------

    def _more(self, deadline: float) -> bool:
        """Read what has come; False at the end of the console. Raises VmError at the deadline."""
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._out], [], [], left)[0]:
            raise VmError(f"{self.name}: timed out; {self._last_words()}")
        data = os.read(self._out, 65536)
        self._text += data.decode(errors="replace").replace("\r", "")
        if len(self._text) > LOG_MAX:
            cut = len(self._text) - LOG_MAX // 2
            self._text = self._text[cut:]
            self._mark = max(0, self._mark - cut)
        return bool(data)

    def expect(self, pattern: str, seconds: float = RUN_S) -> re.Match[str]:
        """Wait for a pattern on the console; what it matched is consumed."""
        deadline = time.monotonic() + seconds
        expression = re.compile(pattern, re.MULTILINE | re.DOTALL)
        while True:
            found = expression.search(self._text, self._mark)
            if found:
                self._mark = found.end()
                return found
            if not self._more(deadline):
                raise VmError(f"{self.name}: QEMU has ended; {self._last_words()}")

    def _last_words(self) -> str:
        complaints = self._complaints.read_text(errors="replace")
        return f"console:\n{self._text[-3000:]}\nQEMU:\n{complaints[-1500:]}"

    def console(self) -> str:
        """All that was said (the last ``LOG_MAX`` bytes)."""
        return self._text

    def write(self, text: str) -> None:
        """To the console. Raises VmError, with what was said last, when QEMU has ended."""
        try:
            os.write(self._in, text.encode())
        except BrokenPipeError:
            deadline = time.monotonic() + END_S
            while self._more(deadline):
                pass
            raise VmError(
                f"{self.name}: QEMU has ended, status {self.process.wait(END_S)}; {self._last_words()}"
            ) from None

    def start(self, command: str) -> str:
        """Begin a command; the token for ``finish``."""
        self._tokens += 1
        token = f"{self.name}-{self._tokens}"
        line = f"printf '<%s>\\n' {token}; {{ {command}; }}; printf '\\n</%s %d>\\n' {token} $?\n"
        assert len(line) < 4000 and "\n" not in command, "one line of a terminal"
        self.write(line)
        return token

    def finish(self, token: str, seconds: float = RUN_S) -> tuple[int, str]:
        """Exit status and output of a command that was begun."""
        found = self.expect(rf"<{token}>\n(.*?)\n</{token} (\d+)>\n", seconds)
        return int(found.group(2)), found.group(1)

    def run(self, command: str, seconds: float = RUN_S, *, check: bool = True) -> str:
        """Run a shell command in the guest; its output, both streams. Raises VmError if it fails."""
        status, output = self.finish(self.start(command), seconds)
        if check and status:
            raise VmError(f"{self.name}: {command}: status {status}\n{output}")
        return output

    def status(self, command: str, seconds: float = RUN_S) -> int:
        """Run a command; its exit status."""
        return self.finish(self.start(command), seconds)[0]

    # ---- the rest ------------------------------------------------------------------------------------------

    def qmp(self, command: str, **arguments: Any) -> Any:
        """One QMP command; its return value."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(BOUND_S)
            sock.connect(str(self.qmp_path))
            stream = sock.makefile("rwb")
            stream.readline()
            for name, values in (("qmp_capabilities", {}), (command, arguments)):
                stream.write(json.dumps({"execute": name, "arguments": values}).encode() + b"\n")
                stream.flush()
                while True:
                    answer = json.loads(stream.readline())
                    if "error" in answer:
                        raise VmError(f"QMP {command}: {answer['error']['desc']}")
                    if "return" in answer:
                        break
            return answer["return"]

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(END_S)

    def close(self) -> None:
        """End it; no guest is asked."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(END_S)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


# ---- the host's side: what guests talk to --------------------------------------------------------------------


class Host:
    """A web server (for each family) and a resolver on the host's loopback.

    ``GET /N`` has N bytes of ``content``, or one of ``pages``; a POST is kept in ``uploads``; ``served`` lists
    what was sent whole. The resolver knows every name as
    ``ADDRESS``.
    """

    ADDRESS = "192.0.2.7"
    SIZE = 4 << 20

    def __init__(self) -> None:
        self.content = os.urandom(self.SIZE)
        self.uploads: list[bytes] = []
        self.pages: dict[str, bytes] = {}
        self.served: list[str] = []
        self.names: list[str] = []
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                data = host.pages[name] if name in host.pages else host.content[: int(name)]
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                host.served.append(name)

            def do_POST(self) -> None:
                host.uploads.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_words: object) -> None:
                pass

        class Six(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6

        self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.web.server_address[1]
        self.web6 = Six(("::1", 0), Handler)
        self.port6 = self.web6.server_address[1]
        self.dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.dns.bind(("127.0.0.1", 0))
        self.dns_port = self.dns.getsockname()[1]
        for serve in (self.web.serve_forever, self.web6.serve_forever, self._resolve):
            threading.Thread(target=serve, daemon=True).start()

    def _resolve(self) -> None:
        """Answer A questions (RFC 1035 4.1), others with an empty answer."""
        while True:
            try:
                query, address = self.dns.recvfrom(2048)
            except OSError:
                return
            at, labels = 12, []
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            self.names.append(".".join(labels))
            question = query[12 : at + 5]
            known = question[-4:] == b"\0\1\0\1"
            answer = query[:2] + struct.pack(">HHHHH", 0x8180, 1, int(known), 0, 0) + question
            if known:
                answer += b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 60, 4) + socket.inet_aton(self.ADDRESS)
            self.dns.sendto(answer, address)

    def close(self) -> None:
        """Stop serving."""
        for web in (self.web, self.web6):
            web.shutdown()
            web.server_close()
        self.dns.close()


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """A lab that is cleaned up."""
    made = Lab()
    try:
        yield made
    finally:
        made.close()
