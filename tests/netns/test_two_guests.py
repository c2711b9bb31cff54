"""S11: two guests behind one NAT, the second by a wire from another instance: addresses, redirections, same source ports."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from tests.netns.exec_kit import root_runner
from tests.netns.test_forward import ECHO, free_port, guest, line, talk
from tests.waiting import BOUND_S

ONE, TWO = "52:54:00:00:00:01", "52:54:00:00:00:02"
ASK = """
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", 40000))
s.settimeout(60)
s.connect(("10.0.2.2", int(sys.argv[1])))
s.sendall(sys.argv[2].encode())
print(s.recv(100).decode(), flush=True)
"""


def test_two_guests_by_hub_and_by_wire(tmp_path: Path) -> None:
    root = root_runner(tmp_path)
    wire, http = free_port(), socket.create_server(("127.0.0.1", 0))
    ports = [free_port() for _ in range(4)]
    (tmp_path / "ask.py").write_text(ASK)
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(ECHO.replace("%d from %s", f"%d at {name}, from %s"))
    both: list[tuple[socket.socket, bytes]] = []

    def serve() -> None:
        """Answer only when both have come."""
        http.settimeout(BOUND_S)
        for _ in range(2):
            client, _ = http.accept()
            both.append((client, client.recv(100)))
        for client, said in both:
            client.sendall(b"hello " + said)
            client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    forwards = ",".join(
        f"hostfwd=tcp:127.0.0.1:{port}-{who}:7"
        for port, who in zip(ports, (f"[{ONE}]", f"[{TWO}]", "first", "second"), strict=True)
    )
    user = f"user,{forwards},lease={ONE}=10.0.2.31=first,lease={TWO}=10.0.2.32=second"
    client = f"python3 {tmp_path}/ask.py {http.getsockname()[1]}"
    with (
        http,
        guest(
            root,
            f"{client} one; exec python3 {tmp_path}/one.py",
            *(
                "-net",
                f"nic,model=direct,macaddr={ONE}",
                "-net",
                user,
                "-net",
                f"socket,listen=127.0.0.1:{wire}",
            ),
            ready=False,
        ) as first,
        guest(
            root,
            f"{client} two; exec python3 {tmp_path}/two.py",
            *("-net", f"nic,model=direct,macaddr={TWO}", "-net", f"socket,connect=127.0.0.1:{wire}"),
            ready=False,
        ) as second,
    ):
        assert [line(first), line(second)] == ["hello one", "hello two"], "the same source port on both"
        assert [line(first), line(second)] == ["ready", "ready"]
        thread.join(BOUND_S)
        for port, name in zip(ports, (b"one", b"two", b"one", b"two"), strict=True):
            sock = socket.create_connection(("127.0.0.1", port), BOUND_S)
            assert talk(sock, b"x") == b"x1 at %s, from 10.0.2.2" % name
