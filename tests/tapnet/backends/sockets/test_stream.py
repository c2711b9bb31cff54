"""Stream wires on loopback: clients come and go, servers come back, slow readers, garbage, and nothing is lost."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
import threading

import pytest

from tapnet.backends.sockets import address, retry, stream
from tapnet.backends.sockets.framing import FRAME_MAX, head
from tapnet.backends.sockets.pipe import OUT_BYTES, RECV
from tapnet.backends.sockets.stream import Connector, Given, Listener, Server, WireError
from tapnet.config import Endpoint, Fd, UnixPath
from tapnet.vlan.addresses import AddressTable
from tests.tapnet.wire_kit import LOCAL, LOOPS, Room, frame, options, play, until, wrap
from tests.waiting import BOUND_S


@pytest.fixture(params=LOOPS)
def loop(request):
    return request.param


def listener(room: Room, address=LOCAL, **more) -> Listener:
    return room.add(Listener(room.loop, options(address, **more), room.joined, room.left))


def where(wire) -> tuple:
    host, _, port = wire.address.rpartition(":")
    return (host.strip("[]"), int(port)) + ((0, 0) if "[" in host else ())


@pytest.mark.parametrize("switch", [False, True])
def test_a_burst_of_small_frames_into_a_vlan_of_three_is_whole_at_an_idle_receiver(loop, switch):
    """1,000 frames of 60 bytes that come in one read: beyond the queue's 512 they were lost."""

    async def scene(room: Room) -> None:
        wire = listener(room)
        room.hub.switch(AddressTable(lambda: 0) if switch else None)
        burst, other = await room.dial(where(wire)), await room.dial(where(wire))
        await until(lambda: len(room.infos) == 2)
        frames = [frame(n) for n in range(3000)]
        await room.loop.sock_sendall(burst, wrap(*frames))
        assert await room.got(len(frames)) == frames
        assert await room.read(other, len(wrap(*frames))) == wrap(*frames)
        assert not any(port.counters.drops for port in room.hub.ports)

    play(scene, loop)


# ---- listen ------------------------------------------------------------------------------------------------


def test_every_client_is_a_port_and_all_hear_each_other(loop):
    async def scene(room: Room) -> None:
        wire = listener(room)
        assert wire.port is None and wire.info_line() == ""
        clients = [await room.dial(where(wire)) for _ in range(3)]
        await until(lambda: len(room.infos) == 3)
        names = [f"socket: connection from 127.0.0.1:{c.getsockname()[1]}" for c in clients]
        assert sorted(room.infos.values()) == sorted(names)
        await room.loop.sock_sendall(clients[0], wrap(frame(1), frame(2, 1514)))
        for other in clients[1:]:
            assert await room.read(other, 4 + 60 + 4 + 1514) == wrap(frame(1), frame(2, 1514))
        assert await room.got(2) == [frame(1), frame(2, 1514)]
        room.card.port.send(frame(3))
        for client in clients:
            assert await room.read(client, 64) == wrap(frame(3))
        clients[1].close()
        await until(lambda: len(room.infos) == 2)
        assert wire.last_end.endswith("closed by the peer")
        room.card.port.send(frame(4))
        assert await room.read(clients[2], 64) == wrap(frame(4))

    play(scene, loop)


def test_the_length_in_pieces_and_empty_ones(loop):
    async def scene(room: Room) -> None:
        wire = listener(room)
        client = await room.dial(where(wire))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head(0) + wrap(frame(1)) + head(0) + wrap(b"x" * 13, b"x" * 14):
            await room.loop.sock_sendall(client, bytes((byte,)))
            await asyncio.sleep(0)
        assert await room.got(2) == [frame(1), b"x" * 14 + bytes(46)]
        (port,) = room.infos
        await until(lambda: port.counters.drops == {"empty": 2, "runt": 1})

    play(scene, loop)


def test_the_longest_frame_passes_and_a_longer_one_ends_only_that_connection(loop, caplog):
    async def scene(room: Room) -> None:
        wire = listener(room)
        good, bad = await room.dial(where(wire)), await room.dial(where(wire))
        longest = frame(9, FRAME_MAX)
        await room.loop.sock_sendall(good, wrap(longest))
        assert await room.read(bad, 4 + FRAME_MAX) == wrap(longest)
        await room.loop.sock_sendall(bad, wrap(frame(1)) + head(FRAME_MAX + 1) + frame(2))
        assert await room.got(2) == [longest, frame(1)]
        await room.ended(bad)
        await until(lambda: len(room.infos) == 1)
        assert "69633" in wire.last_end
        room.card.port.send(frame(3))
        assert await room.read(good, 64 * 2) == wrap(frame(1), frame(3))

    play(scene, loop)
    assert sum("69633" in record.message for record in caplog.records) == 1


def test_what_cannot_be_sent_is_counted_and_never_length_0():
    async def scene(room: Room) -> None:
        wire = listener(room)
        client = await room.dial(where(wire))
        await until(lambda: room.infos)
        (port,) = room.infos
        for one in (b"", bytes(FRAME_MAX + 1), frame(1)):
            room.card.port.send(one)
        assert await room.read(client, 64) == wrap(frame(1))
        assert port.counters.drops == {"oversize": 1}
        assert room.card.port.counters.drops == {"empty": 1}

    play(scene)


def test_a_client_that_does_not_read_costs_bounded_memory_and_nobody_else(loop):
    async def scene(room: Room) -> None:
        wire = listener(room)
        slow, quick = await room.dial(where(wire)), await room.dial(where(wire))
        await until(lambda: len(room.infos) == 2)
        ports = {info.rpartition(":")[2]: port for port, info in room.infos.items()}
        lazy = ports[str(slow.getsockname()[1])]
        size, sent = 60_000, 0
        while not lazy.counters.drops:
            assert room.card.port.send(frame(sent, size))
            sent += 1
            assert sent < 5000
            assert await room.read(quick, 4 + size) == wrap(frame(sent - 1, size))
        assert set(lazy.counters.drops) == {"queue"}
        pipe = wire.clients[lazy]
        assert pipe._pending <= OUT_BYTES + FRAME_MAX + 4 and lazy.queued_bytes <= lazy.queue_bytes + size
        # and when it reads again, it gets everything that was not dropped, whole and in order
        room.card.port.send(b"last" * 20)
        count = sent - lazy.counters.drops["queue"]
        data = await room.read(slow, count * (4 + size))
        numbers = [int.from_bytes(data[at + 4 : at + 12], "big") for at in range(0, len(data), 4 + size)]
        assert numbers == list(range(count))

    play(scene, loop)


def test_a_sender_is_held_back_when_its_only_peer_is_full_and_nothing_is_lost(loop):
    async def scene(room: Room) -> None:
        wire = listener(room)
        client = await room.dial(where(wire))
        room.card.closed = True
        count = 4000
        data = wrap(*(frame(n, 1000) for n in range(count)))
        sending = asyncio.ensure_future(room.loop.sock_sendall(client, data))
        await until(lambda: room.card.port.full(), "a full queue")
        (port,) = room.infos
        await until(lambda: not wire.clients[port]._reading, "the socket is not read")
        assert 0 < len(wire.clients[port]._held) <= RECV + 1004
        room.card.open()
        frames = await room.got(count)
        assert frames == [frame(n, 1000) for n in range(count)]
        await sending
        assert port.counters.drops == {}

    play(scene, loop)


def test_a_peer_that_dies_in_the_middle_of_a_frame(loop, caplog):
    async def scene(room: Room) -> None:
        wire = listener(room)
        client = await room.dial(where(wire))
        await room.loop.sock_sendall(client, wrap(frame(1)) + head(100) + b"half")
        await room.got(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()  # a reset
        await until(lambda: not room.infos)
        client = await room.dial(where(wire))
        await room.loop.sock_sendall(client, head(100) + b"half")
        await until(lambda: room.infos)
        client.close()  # end of file
        await until(lambda: not room.infos)
        assert wire.last_end.endswith("in the middle of a frame")
        assert room.card.frames == [frame(1)]

    play(scene, loop)


def test_1000_connects_and_drops_leave_nothing(loop, caplog, monkeypatch):
    monkeypatch.setattr(stream, "LOG_SECONDS", 1e9)  # however long it takes

    async def scene(room: Room) -> None:
        wire = listener(room)
        for number in range(1000):
            client = await room.dial(where(wire))
            if number % 3 == 1:
                await room.loop.sock_sendall(client, b"GET / HTTP/1.0\r\n\r\n" if number % 2 else b"\0\0")
            client.close()
            room.sockets.clear()
        await until(lambda: wire.accepted == 1000 and not wire.clients)
        assert [p.name for p in room.hub.ports] == ["card"] and not room.infos

    play(scene, loop)
    assert 1 <= sum("connection from" in record.message for record in caplog.records) <= stream.LOG_LINES


def test_clients_are_bounded(monkeypatch, caplog):
    monkeypatch.setattr(stream, "CLIENTS_MAX", 2)

    async def scene(room: Room) -> None:
        wire = listener(room)
        for _ in range(2):
            await room.dial(where(wire))
        await until(lambda: len(room.infos) == 2)
        for _ in range(3):
            await room.ended(await room.dial(where(wire)))
        assert wire.refused == 3 and len(room.infos) == 2

    play(scene)
    assert sum("more than 2 clients" in record.message for record in caplog.records) == 1


def test_without_descriptors_the_listener_waits(monkeypatch, caplog):
    monkeypatch.setattr(stream, "PAUSE_SECONDS", 0.05)

    async def scene(room: Room) -> None:
        wire = listener(room)
        real = wire._accepting._sock

        class Full:
            tries = 0

            def accept(self):
                self.tries += 1
                if self.tries < 4:
                    raise OSError(24, "Too many open files")
                return real.accept()

            def __getattr__(self, name):
                return getattr(real, name)

        wire._accepting._sock = Full()
        await room.dial(real.getsockname())
        await until(lambda: room.infos)
        assert wire._accepting._sock.tries >= 4

    play(scene)
    assert sum("Too many open files" in record.message for record in caplog.records) == 1


def test_ipv6_in_brackets():
    async def scene(room: Room) -> None:
        wire = listener(room, Endpoint("::1", 0))
        client = await room.dial(where(wire))
        await until(lambda: room.infos)
        assert list(room.infos.values()) == [f"socket: connection from [::1]:{client.getsockname()[1]}"]

    play(scene)


def test_a_port_that_is_taken_is_one_line_that_names_it():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        async def scene(room: Room) -> None:
            for host in ("127.0.0.1", "localhost"):
                with pytest.raises(
                    WireError, match=rf"^-net w: listen={host}:{port}: Address already in use$"
                ):
                    listener(room, Endpoint(host, port))
            wire = room.add(Server(room.loop, options(Endpoint("127.0.0.1", port), last_port=port + 20)))
            assert port < where(wire)[1] <= port + 20

        play(scene)


def test_a_name_is_looked_up_in_a_worker_and_tried_again(monkeypatch, caplog):
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.01)

    async def scene(room: Room) -> None:
        asked = []

        def getaddrinfo(host, port, **_):
            assert threading.current_thread() is not threading.main_thread()
            asked.append(host)
            if len(asked) < 3:
                raise socket.gaierror(-3, "Temporary failure in name resolution")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        wire = listener(room, Endpoint("host.example", 0))
        assert wire.address == ""
        await until(lambda: wire.address)
        assert asked == ["host.example"] * 3
        await room.dial(where(wire))
        await until(lambda: room.infos)

    play(scene)
    assert sum("Temporary failure" in record.message for record in caplog.records) == 1


SILENT = """
import asyncio, socket, sys, threading
import uvloop
from tapnet.backends.sockets import address
from tapnet.config import Endpoint

asked = threading.Event()

def getaddrinfo(*_, **__):
    asked.set()
    threading.Event().wait()  # for ever

async def main():
    socket.getaddrinfo = getaddrinfo
    task = asyncio.create_task(address.look_up(Endpoint("host.example", 1)))
    while not asked.is_set():
        await asyncio.sleep(0)
    task.cancel()

with asyncio.Runner(loop_factory=uvloop.new_event_loop if sys.argv[1] == "uvloop" else None) as runner:
    runner.run(main())
print("ended")
"""


def test_the_end_does_not_wait_for_a_silent_name_server(loop):
    done = subprocess.run(
        [sys.executable, "-c", SILENT, loop], capture_output=True, text=True, timeout=BOUND_S
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_look_ups_are_bounded(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(BOUND_S) and [])

    async def scene(room: Room) -> None:
        tasks = [
            room.loop.create_task(address._resolve("host.example", 1)) for _ in range(address.LOOKUPS_MAX)
        ]
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="too many names"):
            await address._resolve("host.example", 1)
        release.set()
        assert await asyncio.gather(*tasks) == [[]] * address.LOOKUPS_MAX
        assert await address._resolve("host.example", 1) == []

    play(scene)


# ---- UNIX sockets ------------------------------------------------------------------------------------------


def test_unix_sockets_are_private_and_removed_and_live_ones_refused(tmp_path, loop):
    path = tmp_path / "s"

    async def scene(room: Room) -> None:
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(path))
        dead.close()
        wire = room.add(Server(room.loop, options(UnixPath(str(path)))))
        seen = path.stat()
        assert stat.S_IMODE(seen.st_mode) == 0o600
        with pytest.raises(WireError, match="another program has it open"):
            Server(room.loop, options(UnixPath(str(path))))
        assert wire.info_line() == "stream: listening"
        client = await room.dial(str(path))
        await room.loop.sock_sendall(client, wrap(frame(1)))
        await room.got(1)
        assert wire.info_line() == f"stream: unix:{path}"
        wire.close()
        assert not path.exists()
        path.write_text("precious")
        with pytest.raises(WireError, match="not a socket"):
            Server(room.loop, options(UnixPath(str(path))))
        assert path.read_text() == "precious"

    play(scene, loop)


def test_an_abstract_name_and_a_file_that_is_not_ours_any_more(tmp_path):
    path = tmp_path / "s"

    async def scene(room: Room) -> None:
        room.add(Server(room.loop, options(UnixPath(f"tapnet-test-{os.getpid()}", abstract=True))))
        await room.dial(f"\0tapnet-test-{os.getpid()}")
        mine = Server(room.loop, options(UnixPath(str(path))))
        path.unlink()
        path.write_text("another's")
        mine.close()
        assert path.read_text() == "another's"

    play(scene)


# ---- one client at a time ----------------------------------------------------------------------------------


def test_a_second_client_waits_until_the_first_has_gone(loop):
    async def scene(room: Room) -> None:
        wire = room.add(Server(room.loop, options()))
        first, second = await room.dial(where(wire)), await room.dial(where(wire))
        await room.loop.sock_sendall(first, wrap(frame(1)))
        await room.got(1)
        await room.loop.sock_sendall(second, wrap(frame(2)))
        room.card.port.send(frame(3))
        assert await room.read(first, 64) == wrap(frame(3))
        assert wire.info_line() == f"stream: tcp:127.0.0.1:{first.getsockname()[1]}"
        assert room.card.frames == [frame(1)]
        first.close()
        assert await room.got(2) == [frame(1), frame(2)]
        assert wire.info_line() == f"stream: tcp:127.0.0.1:{second.getsockname()[1]}"
        second.close()
        await until(lambda: wire.info_line() == "stream: listening")
        room.card.port.send(frame(4))
        await until(lambda: wire.port.counters.drops == {"disconnected": 1})

    play(scene, loop)


# ---- connect -----------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_connector_finds_its_listener_again_and_again(loop, caplog):
    """S8."""

    async def scene(room: Room) -> None:
        port = free_port()
        target = Endpoint("127.0.0.1", port)
        wire = room.add(
            Connector(room.loop, options(target, pause=0.02), lambda peer: f"socket: connect to {peer}")
        )
        await until(lambda: "refused" in wire.info_line())
        assert wire.info_line().startswith(f"socket: connect to 127.0.0.1:{port} (")
        room.card.port.send(frame(0))
        await until(lambda: wire.port.counters.drops == {"disconnected": 1})
        for life in range(3):
            other = Room()
            here = listener(other, target)
            await until(lambda: other.infos, "a connection")  # noqa: B023
            await until(lambda: wire.connected)
            assert wire.info_line() == f"socket: connect to 127.0.0.1:{port}"
            room.card.port.send(frame(life))
            assert await other.got(1) == [frame(life)]
            other.card.port.send(frame(life + 10))
            await until(lambda: frame(life + 10) in room.card.frames)  # noqa: B023
            assert here.accepted == 1
            other.close()
            await until(lambda: not wire.connected)

    play(scene, loop)


def test_without_a_retry_it_stays_down_and_says_why(caplog):
    async def scene(room: Room) -> None:
        wire = room.add(Connector(room.loop, options(Endpoint("127.0.0.1", free_port()), retry=False)))
        await until(lambda: wire.info_line() == "stream: connecting (Connection refused)")
        attempts = wire._retry.attempts
        await asyncio.sleep(0)
        assert (attempts, wire._retry._timer) == (1, None)
        wire.port.set_link(False)
        wire.port.set_link(True)  # "try now"
        await until(lambda: wire._retry.attempts == 2)

    play(scene)


def test_pauses_grow_to_a_bound_and_the_log_says_each_reason_once(monkeypatch, caplog):
    async def scene(room: Room) -> None:
        pauses = []

        class Clock:
            def time(self):
                return 0.0

            def create_task(self, coro):
                return room.loop.create_task(coro)

            def call_later(self, delay, callback):
                pauses.append(round(delay, 3))
                return room.loop.call_soon(callback)

        outcome = iter([OSError(111, "refused")] * 8 + [None, OSError(113, "no route")])

        async def attempt():
            error = next(outcome)
            if error:
                raise error

        tries = retry.Retry(Clock(), "w", attempt)
        tries.now()
        await until(lambda: tries.up)
        assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
        tries.lost("gone")
        await until(lambda: tries.why == "no route")
        assert pauses[8] == 5.0  # it had not lived long
        tries.close()

    play(scene)
    said = [record.message for record in caplog.records]
    assert said == [
        "tapnet: w: refused; trying again",
        "tapnet: w: up again",
        "tapnet: w: gone; trying again",
        "tapnet: w: no route; trying again",
    ]


def test_an_attempt_that_hangs_ends_with_the_wire(monkeypatch):
    monkeypatch.setattr(retry, "ATTEMPT_SECONDS", 0.05)

    async def scene(room: Room) -> None:
        gate = asyncio.Event()
        tries = retry.Retry(room.loop, "w", gate.wait)
        tries.now()
        await until(lambda: tries.why == "timed out")
        tries.close()
        tries.now()
        assert tries._task is None

    play(scene)


# ---- inherited ---------------------------------------------------------------------------------------------


def test_a_socket_that_we_inherit(loop, caplog):
    async def scene(room: Room) -> None:
        ours, theirs = socket.socketpair()
        room.keep(theirs)
        wire = room.add(Given(room.loop, options(Fd(ours.fileno())), ours, "socket: fd=5"))
        await room.loop.sock_sendall(theirs, wrap(frame(1)))
        await room.got(1)
        room.card.port.send(frame(2))
        assert await room.read(theirs, 64) == wrap(frame(2))
        assert wire.info_line() == "socket: fd=5"
        theirs.close()
        await until(lambda: wire.info_line() == "socket: fd=5 (closed by the peer)")

    play(scene, loop)


def test_a_reset_behind_data_ends_the_connection_too(loop):
    """libuv stops watching at the reset, while recv still answers the data before it."""

    async def scene(room: Room) -> None:
        listener_ = listener(room)
        for number in range(20):
            client = await room.dial(where(listener_))
            await until(lambda: len(room.infos) == 1)
            room.card.port.send(frame(number))
            await until(lambda: not room.hub.busy)
            client.send(b"\0\0")
            client.close()  # with data that it has not read: a reset
            await until(lambda: not room.infos, "the port to go")

    play(scene, loop)
