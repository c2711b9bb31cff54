"""What crosses the NAT beside bytes: urgent data, keep-alive, the refusal of a closed port. Real sockets at both ends."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

from tests.netns.exec_kit import root_runner
from tests.netns.support import sh, until_sync
from tests.waiting import BOUND_S

# One end: say hello with a mark in it, hear the same, and where its mark was.
TALK = """
def talk(sock):
    import select, socket
    sock.settimeout(100)
    sock.sendall(b"hello")
    sock.send(b"!", socket.MSG_OOB)
    sock.sendall(b"world")
    assert select.select([], [], [sock], 100)[2], "no urgent data"
    mark = sock.recv(1, socket.MSG_OOB)
    got = b""
    while len(got) < 10:
        got += sock.recv(100)
    return mark, got
"""


def test_urgent_data_both_ways(tmp_path: Path) -> None:
    names: dict[str, object] = {}
    exec(TALK, names)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard: list[object] = []

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                heard.append(names["talk"](sock))  # type: ignore[operator]
                sock.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        command = (
            f'python3 -c \'{TALK}\nimport socket\nsock = socket.create_connection(("10.0.2.2", {port}), 30)\n'
            "print(talk(sock))'"
        )
        process = root_runner(tmp_path).popen(command, "-net", "nic,model=direct", "-net", "user")
        out, said = process.communicate(timeout=BOUND_S)
        thread.join(BOUND_S)
        assert out.strip() == str((b"!", b"helloworld")), out + said
        assert heard == [(b"!", b"helloworld")]


def test_a_guests_keepalive_makes_the_hosts_socket_probe(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        script = (
            "import socket, sys\n"
            f'sock = socket.create_connection(("10.0.2.2", {port}), 30)\n'
            "sock.settimeout(50)\n"
            "for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):\n"
            "    sock.setsockopt(socket.IPPROTO_TCP, option, 1)\n"
            "sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)\n"
            "print(sock.recv(1))\n"
        )
        (tmp_path / "guest.py").write_text(script)
        words = f"{sys.executable} {tmp_path}/guest.py"
        process = root_runner(tmp_path).popen(words, "-net", "nic,model=direct", "-net", "user")
        try:
            sock, _ = listener.accept()
            with sock:
                until_sync(
                    lambda: "timer:(keepalive" in sh(f"ss -Htno state established dport = :{port}"),
                    "the host probes, too",
                )
                sock.send(b"x")
                assert process.communicate(timeout=BOUND_S)[0].strip() == "b'x'"
        finally:
            process.kill()


def test_a_guests_closed_udp_port_refuses_the_hosts_client(tmp_path: Path) -> None:
    """By a redirection: the guest's "port unreachable" goes on to the client (raw sockets: root)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = root_runner(tmp_path).popen(
        "echo ready; sleep 50", "-net", "nic,model=direct", "-net", f"user,hostfwd=udp:127.0.0.1:{port}-:7"
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", port))
            client.settimeout(BOUND_S)

            def refused() -> bool:
                try:
                    client.send(b"anybody?")
                    client.recv(10)
                except ConnectionRefusedError:
                    return True
                except TimeoutError:
                    return False
                raise AssertionError("an answer")

            until_sync(refused, "the client is refused")
    finally:
        process.kill()
        process.communicate()
