"""Mixed traffic of one guest, all at once, for some seconds: ``python mixed.py SECONDS NUMBER WORLD TCP UDP DNS PEER``.

``WORLD`` is an address with an echo server on the ports TCP and UDP; ``DNS`` the name server that guests see; ``PEER`` the other guest.
Every guest uses the very same source ports. The guest itself echoes TCP on port 7. Prints {"done": {what: count}, "errors": [...]}.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

WAIT = 60.0
SOURCE = 1999  # of all datagrams
TRIES = 5  # of a datagram: the host's own buffers may overflow on a loaded machine


def echo_server(listener: socket.socket) -> None:
    """TCP: answer all, then close."""

    def one(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                sock.sendall(data)

    while True:
        sock, _ = listener.accept()
        threading.Thread(target=one, args=(sock,), daemon=True).start()


def datagrams(sock: socket.socket) -> None:
    """UDP: answer in reverse."""
    while True:
        data, peer = sock.recvfrom(65536)
        sock.sendto(data[::-1], peer)


def exchange(where: tuple[str, int], size: int, rng: random.Random, source: int = 0) -> None:
    """A connection that echoes ``size`` bytes, both ways at once; half-closed by the guest."""
    data = rng.randbytes(size)
    with socket.socket() as sock:
        sock.settimeout(WAIT)
        if source:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", source))
        sock.connect(where)
        sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        digest = hashlib.sha256()
        while part := sock.recv(65536):
            digest.update(part)
        sender.join(WAIT)
        assert digest.digest() == hashlib.sha256(data).digest(), f"{size} bytes differ"


class Guest:
    """What one guest does."""

    def __init__(self, seconds: float, world: str, tcp: int, udp: int, dns: str, peer: str) -> None:
        self.end = time.monotonic() + seconds
        self.world, self.tcp, self.udp, self.dns, self.peer = world, tcp, udp, dns, peer
        self.done: Counter[str] = Counter()
        self.errors: list[str] = []
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("", SOURCE))
        self.sock.settimeout(3)

    def repeat(self, what: str, act: Callable[[random.Random], None]) -> None:
        """Until the time is over; the first error ends it."""
        rng = random.Random(what)
        while time.monotonic() < self.end:
            try:
                act(rng)
            except Exception as error:
                self.errors.append(f"{what}: {type(error).__name__}: {error}")
                return
            self.done[what] += 1

    def short(self, rng: random.Random) -> None:
        exchange((self.world, self.tcp), rng.randrange(1, 3000), rng)

    def same_port(self, rng: random.Random) -> None:
        """From source ports that the other guest uses as well, in the same order, towards the same server."""
        exchange((self.world, self.tcp), rng.randrange(1, 20000), rng, 2000 + self.done["same_port"])
        time.sleep(0.05)

    def long(self, rng: random.Random) -> None:
        exchange((self.world, self.tcp), 2_000_000, rng)

    def neighbour(self, rng: random.Random) -> None:
        exchange((self.peer, 7), rng.randrange(1, 100_000), rng)

    def datagram(self, rng: random.Random) -> None:
        data = rng.randbytes(rng.choice((1, 100, 1400, 4000)))
        for _ in range(TRIES):
            self.sock.sendto(data, (self.world, self.udp))
            try:
                while self.sock.recv(65536) != data[::-1]:
                    pass  # a late answer to an earlier one
                return
            except TimeoutError:
                continue
        raise AssertionError(f"{len(data)} bytes not answered")

    def name(self, rng: random.Random) -> None:
        ident = rng.randbytes(2)
        query = ident + b"\1\0\0\1\0\0\0\0\0\0\1a\7example\0\0\1\0\1"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            for _ in range(TRIES):
                sock.sendto(query, (self.dns, 53))
                with contextlib.suppress(TimeoutError):
                    answer = sock.recv(2000)
                    assert answer[:2] == ident and answer[-4:] == bytes((192, 0, 2, 99)), answer.hex()
                    break
            else:
                raise AssertionError("no answer")
        time.sleep(0.05)

    def pings(self, rng: random.Random) -> None:
        where = rng.choice((self.world, self.peer, "10.0.2.2"))
        words = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "20", "-s", str(rng.randrange(16, 3000)), where]
        out = subprocess.run(words, capture_output=True, text=True, timeout=WAIT).stdout
        found = re.search(r"(\d+) received", out)
        assert found and int(found[1]) == 3, out

    def play(self) -> None:
        acts = (self.short, self.same_port, self.long, self.neighbour, self.datagram, self.name, self.pings)
        threads = [threading.Thread(target=self.repeat, args=(act.__name__, act)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def main() -> None:
    seconds, world, tcp, udp, dns, peer = sys.argv[1:]
    listener = socket.create_server(("", 7), backlog=100)
    threading.Thread(target=echo_server, args=(listener,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.readline()  # both are there
    guest = Guest(float(seconds), world, int(tcp), int(udp), dns, peer)
    guest.play()
    print(json.dumps({"done": guest.done, "errors": guest.errors}), flush=True)
    sys.stdin.readline()  # the other one is done, too
    os._exit(0)


if __name__ == "__main__":
    main()
