"""Ten thousand TCP flows at once through real sockets, in a process of its own whose memory is measured."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from tests.waiting import BOUND_S

FLOWS = 10_000
BUDGET = 512 << 20  # bytes of resident memory, the interpreter and the guest's frames included
SERVER = """
import resource, selectors, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]) + 100,) * 2)
listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
listener.setblocking(False)
poll = selectors.EpollSelector()
poll.register(listener, 1)
print(listener.getsockname()[1], flush=True)
while True:
    for key, _ in poll.select():
        if key.fileobj is listener:
            try:
                while True:
                    sock, _ = listener.accept()
                    sock.setblocking(False)
                    poll.register(sock, 1)
            except BlockingIOError:
                continue
        data = key.fileobj.recv(65536)
        if data:
            key.fileobj.send(data.upper())
        else:
            poll.unregister(key.fileobj)
            key.fileobj.close()
"""


def room() -> bool:
    """Whether a process may have that many descriptors; root raises the limit itself."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return hard == resource.RLIM_INFINITY or hard >= FLOWS + 200 or os.geteuid() == 0


def test_ten_thousand_flows_in_half_a_gibibyte() -> None:
    assert room(), f"the hard limit of open files is below {FLOWS + 200}: ulimit -Hn"
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(FLOWS)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        root = Path(__file__).parents[3]
        code = "import sys; from tests.slirp.tcp.test_many_flows import scene; scene(int(sys.argv[1]))"
        words = [sys.executable, "-c", code, port]
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        resident = int(done.stdout)
        assert resident < BUDGET, f"{resident >> 20} MiB"
    finally:
        server.kill()
        server.communicate()


def peak() -> int:
    """The greatest resident size of this program (ru_maxrss has its parent's from before exec too)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def scene(port: int) -> None:
    """Open them all, say a word on each and hear it back, close them; print the greatest resident size in bytes."""
    import asyncio
    import random
    import struct
    import time

    from slirp.config import Config
    from slirp.host.sockets import AsyncHost
    from slirp.stack import Stack
    from tests.slirp.fakes import arp
    from tests.slirp.netsim import ACK, FIN, SYN, Segment, make_frame

    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < FLOWS + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FLOWS + 200,) * 2)
    guest, gateway = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 2))
    host_mac = b"\x52\x55" + gateway
    loop = asyncio.new_event_loop()
    host = AsyncHost(loop, time.monotonic_ns)
    answered: dict[int, tuple[int, int]] = {}  # guest port -> our next sequence number, the peer's
    heard: dict[int, bytes] = {}

    def tx(frame: bytes, vnet: bytes = b"") -> bool:
        if frame[23] == 6 and frame[12:14] == b"\x08\x00":
            seg = Segment(frame, vnet)
            if seg.flags & SYN and seg.dport not in answered:
                answered[seg.dport] = (seg.ack, seg.seq + 1)
            if seg.data and seg.dport not in heard:
                heard[seg.dport] = seg.data
                ours, theirs = answered[seg.dport]
                answered[seg.dport] = (ours, theirs + len(seg.data))
        return True

    stack = Stack(Config(), host, tx, random.Random(1), time.monotonic_ns())
    stack.input(arp(1, "10.0.2.15", "10.0.2.2"), b"", time.monotonic_ns())

    def give(sport: int, flags: int, seq: int, ack: int, data: bytes = b"") -> None:
        frame = host_mac + make_frame(guest, gateway, sport, port, seq, ack, flags, 65535, b"", data)[6:]
        stack.input(frame, b"", time.monotonic_ns())

    def until(condition: object, what: str) -> None:
        async def wait() -> None:
            end = time.monotonic() + BOUND_S
            while not condition():  # type: ignore[operator]
                assert time.monotonic() < end, what
                await asyncio.sleep(0.001)
                stack.tick(time.monotonic_ns())

        loop.run_until_complete(wait())

    ports = range(1024, 1024 + FLOWS)
    for start in range(0, FLOWS, 500):
        some = ports[start : start + 500]
        for sport in some:
            give(sport, SYN, 1000, 0)
        until(lambda some=some: all(sport in answered for sport in some), "SYN|ACK")
        for sport in some:
            seq, ack = answered[sport]
            give(sport, ACK, seq, ack, b"word " + struct.pack("!H", sport).hex().encode())
            answered[sport] = (seq + 9, ack)
        until(lambda some=some: all(sport in heard for sport in some), "the word comes back")
    assert len(stack.tcp) == FLOWS == len(host)
    for sport in ports:
        assert heard[sport] == b"WORD " + struct.pack("!H", sport).hex().upper().encode()
    resident = peak()
    for sport in ports:
        seq, ack = answered[sport]
        give(sport, ACK | FIN, seq, ack)
    until(lambda: len(host) == 0, "the host's sockets are closed")
    stack.close(time.monotonic_ns())
    host.close()
    print(resident)
