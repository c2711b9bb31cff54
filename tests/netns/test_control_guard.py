"""The NAT never connects a guest to a control listener, but does to its neighbour; a command in the guest asks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest

from tests.waiting import BOUND_S

ASK = """
import socket, sys
for port in sys.argv[1:]:
    where = ("10.0.2.2", int(port)) if port.isdigit() else ("10.0.2.100", 80)
    try:
        with socket.create_connection(where, 5) as s:
            s.settimeout(30)
            print("connected", s.recv(5).decode())
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize("option", ["-monitor", "-qmp", "-qtest", "--metrics"])
def test_a_guest_cannot_reach_a_control_plane(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as other:

        def serve() -> None:
            peer, _ = other.accept()
            with peer:
                peer.sendall(b"hello")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        seen = subprocess.run(
            [sys.executable, "-m", "tapnet", "exec", "--name", f"guard{os.getpid()}",
             option, f"127.0.0.1:{port}" if option == "--metrics" else f"tcp:127.0.0.1:{port},server=on,wait=off",
             "-net", "nic", "-net", f"user,guestfwd=tcp:10.0.2.100:80-tcp:127.0.0.1:{port}", "--",
             sys.executable, "-c", ASK, str(port), "service", str(other.getsockname()[1])],
            capture_output=True, text=True, timeout=BOUND_S,
        )  # fmt: skip
        thread.join(BOUND_S)
    assert seen.returncode == 0, seen.stderr
    refused, service, reached = seen.stdout.splitlines()
    assert refused == service == "ConnectionRefusedError"
    assert reached == "connected hello"
