"""The main job, shown: ``tapnet demo``, which ``make run`` calls.

Three processes: this one runs the emulator as ``tapnet exec`` does; a child of it serves a page and a small resolver
on the host's loopback, so that all works offline; the guest (a network namespace behind an emulated NE2000) walks
the steps and tells each by a line. A socket pair between the guest and this process asks for ``info network``.
On a terminal the guest then becomes the user's shell.
"""

from __future__ import annotations

import fcntl
import http.server
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from .system.patience import Patience, limit

if TYPE_CHECKING:
    from .monitor.commands.control import Control

NAME = "www.demo.test"
PAGE = b"Hello from the host, through an NE2000.\n"
FD_VARIABLE = "TAPNET_DEMO_FD"
STEP_SECONDS = 10.0  # for whatever a step waits for, on a machine at rest
SIOCGIFADDR = 0x8915  # <linux/sockios.h>
SIOCGIFNETMASK = 0x891B
SIOCGIFHWADDR = 0x8927


def main(words: list[str]) -> int:
    """Run the demo with further options ``words`` (as for ``tapnet exec``: a card, --name ...). Returns the exit
    status: that of the guest's steps or shell.
    """
    from .options import parse as options
    from .service.run import exec_

    servers = subprocess.Popen(
        [sys.executable, "-m", "tapnet.demo", "servers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert servers.stdout is not None
        ports = json.loads(servers.stdout.readline() or "{}")
        if not ports:
            print("tapnet: demo: the host's servers did not start", file=sys.stderr)
            return 125
        ours, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        environment = {FD_VARIABLE: str(theirs.fileno()), "TAPNET_DEMO_HTTP": str(ports["http"])}
        os.environ.update(environment)
        config = options.parse(
            [*words, "-net", f"user,resolver=127.0.0.1:{ports['dns']}"],
            command="exec",
        )
        print("tapnet demo: a Linux guest behind an emulated NE2000 PCI, on the user-mode NAT", flush=True)
        return exec_(
            config,
            [sys.executable, "-m", "tapnet.demo", "guest"],
            started=lambda control: _serve_guest(control, ours, theirs),
        )
    finally:
        assert servers.stdin is not None
        servers.stdin.close()
        try:
            servers.wait(limit(STEP_SECONDS))
        except subprocess.TimeoutExpired:
            servers.kill()
            servers.wait()


def _serve_guest(control: Control, ours: socket.socket, theirs: socket.socket) -> None:
    """In the emulator: answer each line that the guest sends by the monitor's words for it."""
    import asyncio

    from .monitor.hmp import Hmp

    hmp = Hmp(control)
    theirs.close()
    ours.setblocking(False)
    loop = asyncio.get_running_loop()

    def readable() -> None:
        try:
            command = ours.recv(256).decode()
        except BlockingIOError:
            return
        except OSError:
            command = ""
        if not command:
            loop.remove_reader(ours)
            ours.close()
            return
        ours.send(hmp.execute(command.strip()).text.encode() + b"\0")

    loop.add_reader(ours, readable)


# The host's side: a page, and a resolver that knows one name


def servers() -> None:
    """Serve until standard input ends; the ports go to standard output as one line of JSON."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *args: object) -> None:
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    dns.bind(("127.0.0.1", 0))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    threading.Thread(target=_resolve, args=(dns,), daemon=True).start()
    print(json.dumps({"http": web.server_address[1], "dns": dns.getsockname()[1]}), flush=True)
    sys.stdin.read()


def _resolve(sock: socket.socket) -> None:
    """A records for NAME, NXDOMAIN for the rest (RFC 1035 4.1)."""
    wanted = b"".join(bytes([len(label)]) + label.encode() for label in NAME.split(".")) + b"\0"
    while True:
        query, peer = sock.recvfrom(1500)
        if len(query) < 17:
            continue
        end = query.find(b"\0", 12) + 5
        question = query[12:end]
        known = question[:-4].lower() == wanted
        is_a = question[-4:-2] == b"\0\1"
        flags = 0x8580 if known else 0x8583
        answer = b""
        if known and is_a:
            answer = b"\xc0\x0c\0\1\0\1" + struct.pack(">IH", 60, 4) + socket.inet_aton("10.0.2.2")
        head = query[:2] + struct.pack(">HHHHH", flags, 1, 1 if answer else 0, 0, 0)
        sock.sendto(head + question + answer, peer)


# The guest's side


class StepError(Exception):
    """A step of the demo failed."""


def guest() -> int:
    """Walk the steps inside the guest; a non-zero status after naming the step that failed."""
    link = socket.socket(fileno=int(os.environ.pop(FD_VARIABLE)))
    port = int(os.environ.pop("TAPNET_DEMO_HTTP"))
    steps = [
        ("card", _card),
        ("lease", _lease),
        ("ping", _ping),
        ("name", _name),
        ("http", lambda: _http(port)),
    ]
    for title, step in steps:
        began = time.monotonic()
        try:
            seen = step()
        except (OSError, StepError) as error:
            print(f"  {title:<6} FAILED: {error}", flush=True)
            print(f"tapnet: demo: step {title} failed: {error}", file=sys.stderr)
            return 1
        print(f"  {title:<6} {seen}  ({(time.monotonic() - began) * 1000:.1f} ms)", flush=True)
    link.settimeout(limit(STEP_SECONDS))
    link.send(b"info network\n")
    answer = b""
    while not answer.endswith(b"\0"):
        piece = link.recv(65536)
        if not piece:
            break
        answer += piece
    print("info network\n" + answer.rstrip(b"\0").decode().rstrip(), flush=True)
    link.close()
    if sys.stdin.isatty() and sys.stdout.isatty():
        shell = os.environ.get("SHELL") or "/bin/sh"
        if shutil.which(shell) is None:
            shell = "/bin/sh"
        print("This shell is in the guest: try `ip addr`, `ping 10.0.2.2`; `exit` ends it.", flush=True)
        os.execvp(shell, [shell])
    return 0


def _ioctl(request: int, name: str = "eth0") -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, request, struct.pack("16s16x8x", name.encode()))


def _card() -> str:
    names = sorted(name for _, name in socket.if_nameindex())
    if names != ["eth0", "lo"]:
        raise StepError(f"the guest's interfaces are {' '.join(names)}, not eth0 and lo")
    return f"eth0 and lo are all there is; eth0 is {_ioctl(SIOCGIFHWADDR)[18:24].hex(':')}"


def _lease() -> str:
    address = socket.inet_ntoa(_ioctl(SIOCGIFADDR)[20:24])
    mask = int.from_bytes(_ioctl(SIOCGIFNETMASK)[20:24], "big").bit_count()
    routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    gateways = [socket.inet_ntoa(struct.pack("<I", int(r[2], 16))) for r in routes if r[1] == "00000000"]
    servers = [
        line.split()[1]
        for line in Path("/etc/resolv.conf").read_text().splitlines()
        if line.startswith("nameserver")
    ]
    if not gateways or not servers:
        raise StepError(f"address {address}, router {gateways}, name server {servers}")
    return f"{address}/{mask}, router {gateways[0]}, name server {servers[0]}"


def _ping(target: str = "10.0.2.2") -> str:
    def checksum(data: bytes) -> int:  # RFC 1071; never all zeros here
        return 0xFFFF - int.from_bytes(data, "big") % 0xFFFF

    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        patience = Patience(STEP_SECONDS)
        sock.settimeout(patience.left())
        payload = bytes(range(56))
        ident = os.getpid() & 0xFFFF
        head = struct.pack(">BBHHH", 8, 0, 0, ident, 1)
        head = struct.pack(">BBHHH", 8, 0, checksum(head + payload), ident, 1)
        began = time.monotonic()
        sock.sendto(head + payload, (target, 0))
        while patience.left() > 0:
            packet, (sender, _) = sock.recvfrom(2048)
            offset = (packet[0] & 15) * 4
            if packet[offset] == 0 and packet[offset + 4 : offset + 6] == ident.to_bytes(2, "big"):
                if packet[offset + 8 :] != payload:
                    raise StepError("the reply has another payload")
                millis = (time.monotonic() - began) * 1000
                return f"{len(packet) - offset} bytes from {sender}: ttl={packet[8]} time={millis:.2f} ms"
    raise StepError(f"no answer from {target}")


def _name() -> str:
    found = {str(info[4][0]) for info in socket.getaddrinfo(NAME, 80, socket.AF_INET, socket.SOCK_STREAM)}
    if found != {"10.0.2.2"}:
        raise StepError(f"{NAME} is {found}")
    return f"{NAME} is 10.0.2.2"


def _http(port: int) -> str:
    url = f"http://{NAME}:{port}/"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=limit(STEP_SECONDS)) as answer:
        page = answer.read()
    if page != PAGE:
        raise StepError(f"{url} said {page!r}")
    return f"{url} {answer.status} {len(page)} bytes: {page.decode().strip()}"


if __name__ == "__main__":
    if sys.argv[1:] == ["servers"]:
        servers()
    elif sys.argv[1:] == ["guest"]:
        sys.exit(guest())
