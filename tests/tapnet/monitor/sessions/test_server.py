"""Control sockets and monitors over real sockets; the client against a real server."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from tapnet import __version__
from tapnet.backends.user.report import FlowRow
from tapnet.config import Chardev, Endpoint, UnixPath
from tapnet.monitor.client import main as client
from tapnet.monitor.commands.control import Control
from tapnet.monitor.hmp import PROMPT, Hmp
from tapnet.monitor.sessions import server, session
from tapnet.system import guard
from tapnet.system import runtime as paths
from tests.tapnet.monitor.kit import FakeInstance, seed_instance
from tests.waiting import BOUND_S


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run = tmp_path / "run"
    monkeypatch.setattr(paths, "candidates", lambda: [run])
    return run


def hmp_of(name: str = "lab", pid: int = 4711) -> tuple[FakeInstance, Hmp]:
    _, instance = seed_instance()
    instance.name, instance.pid = name, pid
    return instance, Hmp(Control(instance))


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def loop_factory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scene is played on both event loops."""
    make = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop
    monkeypatch.setattr(sys.modules[__name__], "make_loop", make)


def make_loop() -> asyncio.AbstractEventLoop:
    raise NotImplementedError


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await scene()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(bounded())


async def in_thread(function: Callable[..., object], *arguments: object) -> object:
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: str) -> tuple[str, str]:
    writer.write(line.encode() + b"\n")
    status, size = (await reader.readline()).split()
    return status.decode(), (await reader.readexactly(int(size))).decode()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


# Control socket


def test_control_socket_answers_in_frames_and_is_private(place: Path) -> None:
    instance, hmp = hmp_of()

    async def scene() -> None:
        served = server.open_control("lab", hmp.control)
        path = place / "lab.ctl"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        reader, writer = await asyncio.open_unix_connection(path)
        assert await ask(reader, writer, "info status") == ("ok", "VM status: running\n")
        assert await ask(reader, writer, "bogus") == ("error", "unknown command: 'bogus'\n")
        assert await ask(reader, writer, "set_link tap.0 off\r") == ("ok", "")
        assert await ask(reader, writer, "quit") == ("ok", "")
        assert await reader.read() == b""
        assert instance.ended == 1
        writer.close()
        served.close()
        served.close()
        assert not path.exists()

    run(scene)


def test_lines_in_pieces_and_several_at_once(place: Path) -> None:
    _, hmp = hmp_of()

    async def scene() -> None:
        served = server.open_control("lab", hmp.control)
        reader, writer = await asyncio.open_unix_connection(place / "lab.ctl")
        for byte in b"info name\n":
            writer.write(bytes([byte]))
            await writer.drain()
        assert await reader.readexactly(9) == b"ok 4\nlab\n"
        writer.write(b"info name\n" * 3)
        writer.write_eof()
        assert await reader.read() == b"ok 4\nlab\n" * 3
        writer.close()
        served.close()

    run(scene)


def test_a_line_without_end_is_cut_off(place: Path) -> None:
    _, hmp = hmp_of()

    async def scene() -> None:
        served = server.open_control("lab", hmp.control)
        reader, writer = await asyncio.open_unix_connection(place / "lab.ctl")
        writer.write(b"x" * (session.LINE_MAX + 1))
        body = session.TOO_LONG.encode()
        assert await reader.read() == b"error %d\n" % len(body) + body
        writer.close()
        served.close()

    run(scene)


def test_a_stale_socket_is_replaced_and_a_live_one_refused(place: Path) -> None:
    _, hmp = hmp_of()

    async def scene() -> None:
        place.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(place / "lab.ctl"))
        served = server.open_control("lab", hmp.control)
        with pytest.raises(server.ServerError, match="--name lab: an instance of that name is running"):
            server.open_control("lab", hmp.control)
        reader, writer = await asyncio.open_unix_connection(place / "lab.ctl")
        assert (await ask(reader, writer, "info name"))[0] == "ok"
        writer.close()
        served.close()
        (place / "lab.ctl").write_text("precious")
        with pytest.raises(server.ServerError, match="not a socket"):
            server.open_control("lab", hmp.control)
        assert (place / "lab.ctl").read_text() == "precious"

    run(scene)


def test_sockets_of_killed_instances_are_swept_away(place: Path) -> None:
    """A process that was killed cannot take its socket along: the next start does."""

    async def scene() -> None:
        place.mkdir(mode=0o700)
        for name in ("killed.ctl", "killed.sock"):
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(place / name))
        (place / "file.ctl").write_text("precious")
        one = server.open_control("one", hmp_of()[1].control)
        two = server.open_control("two", hmp_of()[1].control)
        assert sorted(path.name for path in place.iterdir()) == [
            ".lock", "file.ctl", "killed.sock", "one.ctl", "two.ctl",
        ]  # fmt: skip
        one.close()
        two.close()

    run(scene)


def test_close_leaves_a_successors_socket_alone(place: Path) -> None:
    _, hmp = hmp_of()

    async def scene() -> None:
        old = server.open_control("lab", hmp.control)
        (place / "lab.ctl").unlink()
        new = server.open_control("lab", hmp.control)
        old.close()
        assert (place / "lab.ctl").exists()
        new.close()

    run(scene)


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "x" * 65, "a b", "a\n"])
def test_bad_names(place: Path, name: str) -> None:
    _, hmp = hmp_of()

    async def scene() -> None:
        with pytest.raises(server.ServerError, match="--name"):
            server.open_control(name, hmp.control)

    run(scene)


def test_clients_are_bounded_and_the_next_one_waits(place: Path) -> None:
    _, hmp = hmp_of()

    async def scene() -> None:
        served = server.open_control("lab", hmp.control)
        clients = [await asyncio.open_unix_connection(place / "lab.ctl") for _ in range(server.CLIENTS_MAX)]
        for reader, writer in clients:
            assert (await ask(reader, writer, "info name"))[0] == "ok"
        reader, writer = await asyncio.open_unix_connection(place / "lab.ctl")
        writer.write(b"info name\n")
        waiting = asyncio.ensure_future(reader.readline())
        assert await ask(*clients[0], "info name") == ("ok", "lab\n")
        assert not waiting.done()
        clients[0][1].close()
        assert await waiting == b"ok 4\n"
        for _, other in [*clients, (reader, writer)]:
            other.close()
        served.close()

    run(scene)


def test_a_slow_reader_is_bounded_and_then_served_or_cut_off(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, hmp = hmp_of()
    instance.usernets[0].flows = [
        FlowRow("TCP", "ESTABLISHED", 1, "1.1.1.1", 1, "1.1.1.1", 1, 0, 0, 0)
    ] * 5000
    answer = len(hmp.execute("info usernet").text)
    executed = 0
    real = Hmp.start

    def counting(self: Hmp, line: str):
        nonlocal executed
        executed += 1
        return real(self, line)

    monkeypatch.setattr(Hmp, "start", counting)

    async def scene() -> None:
        served = server.open_control("lab", hmp.control)
        reader, writer = await asyncio.open_unix_connection(place / "lab.ctl", limit=1 << 16)
        writer.write(b"info usernet\n" * 50)
        await until(lambda: executed > 0)
        for _ in range(200):
            await asyncio.sleep(0)
        assert executed < 5, "the answers that nobody reads are not made"
        for _ in range(50):
            status, size = (await reader.readline()).split()
            assert status == b"ok" and int(size) == answer
            await reader.readexactly(answer)
        assert executed == 50
        monkeypatch.setattr(session, "STALL_S", 0.05)
        writer.write(b"info usernet\n" * 50)
        assert served.listener is not None
        await until(lambda: not served.listener._sessions)
        assert executed < 100
        writer.close()
        served.close()

    run(scene)


# Monitors


async def monitor(address: Endpoint | UnixPath | None, hmp: Hmp, **options: bool) -> server.Served:
    kind = "unix:" + address.path if isinstance(address, UnixPath) else f"tcp:{address}"
    return await server.open_monitor(
        Chardev(origin=f"-monitor {kind}", address=address, **options), hmp.control
    )


async def until_prompt(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(PROMPT.encode())).decode()


def test_tcp_server_greets_prompts_and_marks_its_port() -> None:
    instance, hmp = hmp_of()

    async def scene() -> None:
        served = await monitor(Endpoint("127.0.0.1", 0), hmp, server=True, wait=True)
        port = served.port
        assert guard.claimed(port)
        waiting = asyncio.ensure_future(served.first_client())
        await asyncio.sleep(0)
        assert not waiting.done()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        greeting = await until_prompt(reader)
        assert greeting.startswith("tapnet ") and greeting.endswith(
            "'help' for more information\r\n(tapnet) "
        )
        await waiting
        writer.write(b"info status\r\n")
        assert await until_prompt(reader) == "VM status: running\r\n(tapnet) "

        # one client at a time; the next is served when the first has gone
        late, late_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"info name\n")
        assert await until_prompt(reader) == "lab\r\n(tapnet) "
        assert not late._buffer
        writer.close()
        await until_prompt(late)
        late_writer.write(b"q\n")
        assert await late.read() == b""
        assert instance.ended == 1
        late_writer.close()
        served.close()
        assert not guard.claimed(port)

    run(scene)


def test_tcp_port_in_use_is_one_clear_line() -> None:
    _, hmp = hmp_of()

    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(server.ServerError) as caught:
                await monitor(Endpoint("127.0.0.1", port), hmp, server=True)
            assert (
                str(caught.value) == f"-monitor tcp:127.0.0.1:{port}: cannot listen: Address already in use"
            )
            assert not guard.claimed(port)

    run(scene)


def test_without_server_it_connects() -> None:
    _, hmp = hmp_of()

    async def scene() -> None:
        met: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.get_running_loop().create_future()
        )
        console = await asyncio.start_server(lambda r, w: met.set_result((r, w)), "127.0.0.1", 0)
        port = console.sockets[0].getsockname()[1]
        served = await monitor(Endpoint("127.0.0.1", port), hmp)
        reader, writer = await met
        await until_prompt(reader)
        writer.write(b"info name\n")
        assert await until_prompt(reader) == "lab\r\n(tapnet) "
        served.close()
        assert await reader.read() == b""
        writer.close()
        console.close()
        with pytest.raises(server.ServerError, match=f"-monitor tcp:127.0.0.1:{port}: cannot connect: "):
            await monitor(Endpoint("127.0.0.1", port), hmp)

    run(scene)


def test_unix_monitor(tmp_path: Path) -> None:
    _, hmp = hmp_of()
    path = tmp_path / "mon"

    async def scene() -> None:
        served = await monitor(UnixPath(str(path)), hmp, server=True, wait=False)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(server.ServerError, match="somebody listens"):
            await monitor(UnixPath(str(path)), hmp, server=True)
        reader, writer = await asyncio.open_unix_connection(path)
        await until_prompt(reader)
        writer.close()
        served.close()
        assert not path.exists()
        abstract = await monitor(UnixPath(f"tapnet-test-{os.getpid()}", abstract=True), hmp, server=True)
        other = await monitor(UnixPath(f"tapnet-test-{os.getpid()}", abstract=True), hmp)
        await abstract.first_client()
        other.close()
        abstract.close()
        path.write_text("precious")
        with pytest.raises(server.ServerError, match="not a socket"):
            await monitor(UnixPath(str(path)), hmp, server=True)

    run(scene)


STDIO = """
import asyncio, sys
from tapnet.config import Chardev
from tapnet.monitor.sessions import server
from tapnet.monitor.commands.control import Control
from tapnet.monitor.hmp import PROMPT, Hmp
from tests.tapnet.monitor.kit import seed_instance

async def main():
    done = asyncio.Event()
    _, instance = seed_instance()
    instance.shutdown = done.set
    await server.open_monitor(Chardev(origin="-monitor", address=None), Control(instance))
    async with asyncio.timeout(100):
        await done.wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [b"info name\nbogus\nq\n", b"x" * 9000 + b"\ninfo name\nq\n"])
def test_stdio(lines: bytes) -> None:
    child = subprocess.run(
        [sys.executable, "-c", STDIO], input=lines, capture_output=True, timeout=BOUND_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr.decode()
    out = child.stdout.decode()
    assert out.startswith(session.GREETING + PROMPT)
    middle = "unknown command: 'bogus'\n(tapnet) "
    if lines.startswith(b"x"):
        assert out.endswith(f"{session.TOO_LONG}(tapnet) lab\n(tapnet) ")
    else:
        assert out.endswith(f"(tapnet) lab\n(tapnet) {middle}")


# Client


def test_client_commands_and_their_exit_status(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    instance, hmp = hmp_of()

    async def scene() -> None:
        served = server.open_control("lab", hmp.control)
        assert await in_thread(client.main, None, ["info", "name"]) == 0
        assert await in_thread(client.main, "lab", ["info status"]) == 0
        assert await in_thread(client.main, "4711", ["info", "version"]) == 0
        assert await in_thread(client.main, str(place / "lab.ctl"), ["set_link", "no such", "on"]) == 1
        assert await in_thread(client.main, "nope", ["info", "name"]) == 2
        assert await in_thread(client.main, str(place / "nope.ctl"), ["info", "name"]) == 2
        assert await in_thread(client.main, None, ["quit"]) == 0
        assert instance.ended == 1
        served.close()
        assert await in_thread(client.main, None, ["info", "name"]) == 2

    run(scene)
    seen = capsys.readouterr()
    assert seen.out == f"lab\nVM status: running\n{__version__}\n"
    assert seen.err.splitlines() == [
        "Error: Device 'no such' not found",
        "tapnet: monitor: -i nope: no such instance (running: lab)",
        f"tapnet: monitor: {place}/nope.ctl: No such file or directory",
        "tapnet: monitor: no instance is running",
    ]


def test_several_instances(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scene() -> None:
        one = server.open_control("one", hmp_of("one", 11)[1].control)
        tap, hmp = hmp_of("two.b", 222)
        tap.mode, tap.vlans = "tap", {}
        two = server.open_control("two.b", hmp.control)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(place / "dead.ctl"))
        with socket.socket(socket.AF_UNIX) as hung:
            hung.bind(str(place / "hung.ctl"))
            hung.listen()
            assert await in_thread(client.ps) == 0
            assert await in_thread(client.main, None, ["info", "name"]) == 2
            assert await in_thread(client.main, "222", ["info", "name"]) == 0
            assert await in_thread(client.main, "two.b", ["info", "name"]) == 0
        one.close()
        two.close()

    client_probe, client.PROBE_S = client.PROBE_S, 0.3
    try:
        run(scene)
    finally:
        client.PROBE_S = client_probe
    seen = capsys.readouterr()
    assert seen.out == (
        "NAME   PID  VLANS  MODE\n"
        "hung   -    -      not answering\n"
        "one    11   0,1    -\n"
        "two.b  222  -      tap\n"
        "two.b\ntwo.b\n"
    )
    assert (
        seen.err == "tapnet: monitor: several instances are running, choose one with -i: hung, one, two.b\n"
    )


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"ok 10\nshort", b"ok 99999999999\n", b"ok -1\n"]
)
def test_client_of_something_that_is_no_tapnet(
    place: Path, capsys: pytest.CaptureFixture[str], answer: bytes
) -> None:
    place.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "odd.ctl"))
        listening.listen()

        def serve() -> None:
            peer, _ = listening.accept()
            peer.recv(100)
            peer.sendall(answer)
            peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert client.main(str(place / "odd.ctl"), ["info", "name"]) == 1
        thread.join(BOUND_S)
    assert capsys.readouterr().err.startswith(f"tapnet: monitor: {place}/odd.ctl: ")


def test_client_reads_lines_from_standard_input(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys; from tapnet.monitor.client import main as client; sys.exit(client.main(sys.argv[1], []))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def play(lines: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-c", script, str(place / "lab.ctl")],
            input=lines, capture_output=True, timeout=BOUND_S, env=environment,
        )  # fmt: skip

    async def scene() -> None:
        instance, hmp = hmp_of()
        served = server.open_control("lab", hmp.control)
        good = await asyncio.to_thread(play, b"bogus\n\ninfo name\n")
        assert (good.returncode, good.stdout, good.stderr) == (0, b"lab\n", b"unknown command: 'bogus'\n")
        bad = await asyncio.to_thread(play, b"info name\nbogus")
        assert (bad.returncode, bad.stdout) == (1, b"lab\n")
        ended = await asyncio.to_thread(play, b"quit\ninfo name\n")
        assert (ended.returncode, ended.stdout, ended.stderr, instance.ended) == (0, b"", b"", 1)
        served.close()

    run(scene)


def test_client_on_a_terminal(place: Path) -> None:
    """A prompt, completion by the tab key, and the end of input."""
    script = (
        "import sys; from tapnet.monitor.client import main as client; sys.exit(client.main(sys.argv[1], []))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "dumb"}
    environment["XDG_STATE_HOME"] = str(place.parent / "state")

    def play() -> tuple[int, bytes]:
        ours, theirs = pty.openpty()
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(place / "lab.ctl")],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
        )  # fmt: skip
        os.close(theirs)
        seen = b""

        def until(text: bytes) -> None:
            nonlocal seen
            seen = b""
            while text not in seen:
                assert select.select([ours], [], [], BOUND_S)[0], seen
                seen += os.read(ours, 4096)

        until(b"(tapnet) ")
        os.write(ours, b"info na\t\n")
        until(b"lab\r\n(tapnet) ")
        os.write(ours, b"set_link rtl\toff\n")
        until(b"off\r\n(tapnet) ")
        os.write(ours, b"\x04")
        status = child.wait(BOUND_S)
        os.close(ours)
        return status, seen

    async def scene() -> None:
        instance, hmp = hmp_of()
        served = server.open_control("lab", hmp.control)
        status, _ = await asyncio.to_thread(play)
        assert status == 0
        assert not instance.wires[0][1].port.link, "the tab key knew the port's name"
        history = place.parent / "state" / "tapnet" / "history"
        assert history.read_text().splitlines()[-2:] == ["info name ", "set_link rtl8139.0 off"]
        assert stat.S_IMODE(history.stat().st_mode) == 0o600
        served.close()

    run(scene)
