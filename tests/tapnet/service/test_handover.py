"""Wires over a restart: what one gives away, another goes on with; and a service manager's store in between."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapnet.backends.sockets.pipe import OUT_BYTES
from tapnet.backends.sockets.stream import Connector, Given, Listener, Server
from tapnet.backends.sockets.vde import VdeWire
from tapnet.backends.tap.backend import TapBackend
from tapnet.config import Endpoint, Fd, SocketNet, TapNet, UnixPath, VdeNet
from tapnet.service import handover
from tapnet.system import notify, passed
from tapnet.vlan.handover import Handover, fingerprint
from tests.tapnet.backends.sockets.test_vde import Switch
from tests.tapnet.wire_kit import LOCAL, LOOPS, Room, frame, options, play, until, wrap
from tests.waiting import BOUND_S


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def over(handed: Handover) -> Handover:
    """As the next process gets it."""
    data = json.loads(json.dumps(handed.data, default=handover._plain), object_hook=handover._bytes)
    return Handover(data, {role: os.dup(fd) for role, fd in handed.fds.items()})


def again(room: Room, old: Any, new: Any) -> Any:
    """Let ``new`` go on for ``old``."""
    handed = over(old.export())
    old.close()
    new.adopt(handed)
    return room.add(new)


def where(wire: Any) -> tuple[str, int]:
    host, _, port = wire.address.rpartition(":")
    return host, int(port)


def net(**more: Any) -> SocketNet:
    return SocketNet(origin="-net socket", name="w", id=None, vlan=0, **more)


# ---- wires -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 5, 63])
def test_a_listeners_clients_in_the_middle_of_a_frame(loop: str, cut: int) -> None:
    async def scene(room: Room) -> None:
        old = room.add(Listener(room.loop, options(), room.joined, room.left))
        clients = [await room.dial(where(old)) for _ in range(2)]
        await until(lambda: len(room.infos) == 2)
        names = sorted(port.name for port in room.infos)
        data = wrap(frame(1), frame(2))
        await room.loop.sock_sendall(clients[0], data[: 64 + cut])
        assert await room.read(clients[1], 64) == data[:64]
        await until(lambda: all(pipe._splitter.partial == cut for pipe in list(old.clients.values())[:1]))
        listening = old.listening()
        assert listening is not None
        kept = socket.socket(fileno=os.dup(listening))
        new = again(room, old, Listener(room.loop, options(), room.joined, room.left, kept))
        await until(lambda: len(room.infos) == 2)
        assert sorted(port.name for port in room.infos) == names
        await room.loop.sock_sendall(clients[0], data[64 + cut :])
        assert await room.read(clients[1], 64) == data[64:]
        assert await room.got(2) == [frame(1), frame(2)]
        late = await room.dial(where(new))
        await until(lambda: len(room.infos) == 3)
        assert sorted(port.name for port in room.infos)[2] == "w.3", "names go on"
        room.card.port.send(frame(3))
        for client in (*clients, late):
            assert await room.read(client, 64) == wrap(frame(3))

    play(scene, loop)


def test_what_a_slow_reader_has_not_got_yet(loop: str) -> None:
    """Half a frame is in the socket, many are in the pipe and in the queue of the port: all arrive, in order."""

    async def scene(room: Room) -> None:
        ours, peer = socket.socketpair()
        room.keep(peer).setblocking(False)
        for one in (ours, peer):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                one.setsockopt(socket.SOL_SOCKET, option, 4096)
        old = room.add(Given(room.loop, options(Fd(0)), ours, "given"))
        count = 0
        while old._pipe is None or old._pipe._pending < OUT_BYTES or len(old.port.queue) < 50:
            room.card.port.send(frame(count, 3000))
            count += 1
            await until(lambda: not room.hub.busy)
        waiting = len(old.port.queue)
        assert old._pipe._at or old._pipe._data
        before = old.port.counters.as_dict()
        handed = over(old.export())
        assert len(handed.data["port"]["queue"]) == waiting
        old.close()
        fresh = socket.socket(fileno=handed.fds.pop("connection"))
        handed.fds["connection"] = fresh.detach()
        for end in (pair := socket.socketpair()):
            room.keep(end)
        new = Given(room.loop, options(Fd(0)), pair[0], "given")
        new.adopt(handed)
        room.hub.remove(old.port)
        room.add(new)
        assert new.port.counters.rx_frames == before["rx_frames"]
        assert await room.read(peer, count * 3004) == wrap(*(frame(n, 3000) for n in range(count)))

    play(scene, loop)


def test_a_server_keeps_its_client_and_takes_no_other(loop: str, tmp_path: Path) -> None:
    async def scene(room: Room) -> None:
        old = room.add(Server(room.loop, options()))
        client = await room.dial(where(old))
        await until(lambda: old.connected)
        await room.loop.sock_sendall(client, wrap(frame(1))[:10])
        await until(lambda: old._pipe is not None and old._pipe._splitter.partial == 10)
        kept = socket.socket(fileno=os.dup(old.listening() or -1))
        handed = over(old.export())
        old.close()
        room.hub.remove(old.port)
        new = Server(room.loop, options(), kept)
        new.adopt(handed)
        room.add(new)
        waiting = await room.dial(where(new))
        await room.loop.sock_sendall(client, wrap(frame(1))[10:])
        assert await room.got(1) == [frame(1)]
        assert new.info_line() == f"stream: tcp:127.0.0.1:{client.getsockname()[1]}"
        client.close()
        await until(lambda: new.peer.endswith(str(waiting.getsockname()[1])))

    play(scene, loop)


def test_a_connector_does_not_connect_again_before_the_end(loop: str) -> None:
    async def scene(room: Room) -> None:
        server = room.keep(socket.create_server(("127.0.0.1", 0)))
        server.setblocking(False)
        address = Endpoint(*server.getsockname())
        old = room.add(Connector(room.loop, options(address)))
        peer, _ = await room.loop.sock_accept(server)
        await until(lambda: old.connected)
        handed = over(old.export())
        old.close()
        room.hub.remove(old.port)
        new = Connector(room.loop, options(address))
        new.adopt(handed)
        room.add(new)
        await room.loop.sock_sendall(room.keep(peer), wrap(frame(1)))
        assert await room.got(1) == [frame(1)]
        with pytest.raises(BlockingIOError):
            server.accept()
        peer.close()
        room.keep((await room.loop.sock_accept(server))[0])

    play(scene, loop)


def test_a_vde_plug(loop: str, tmp_path: Path) -> None:
    async def scene(room: Room) -> None:
        switch = Switch(room, tmp_path)
        it = VdeNet(origin="-net vde", name="v", id=None, vlan=0, sock=str(tmp_path))
        old = room.add(VdeWire(room.loop, it))
        await switch.plug()
        await until(lambda: old._retry.up)
        handed = over(old.export())
        old.close()
        room.hub.remove(old.port)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["ctl", "data"], "its file has gone"
        switch.data.send(frame(1))
        new = VdeWire(room.loop, it)
        new.adopt(handed)
        room.add(new)
        assert await room.got(1) == [frame(1)]
        room.card.port.send(frame(2))
        await until(lambda: new.port.counters.rx_frames == 1)
        switch.data.settimeout(BOUND_S)
        assert switch.data.recv(4096) == frame(2)
        assert new._retry.up and new.info_line() == f"vde: sock={tmp_path}"
        switch.control.close()
        await until(lambda: not new._retry.up)

    play(scene, loop)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a TAP")
def test_a_tap_with_a_frame_that_the_hub_has_not_taken(loop: str) -> None:
    async def scene(room: Room) -> None:
        it = TapNet(origin="-net tap", name="t", id=None, vlan=0, ifname=f"tap-h-{os.getpid() % 10000}")
        old = TapBackend(it, room.loop)
        index = socket.if_nametoindex(it.ifname or "")
        old.attachment.held = (frame(9, 60), b"")
        handed = over(old.export())
        old.close()
        assert socket.if_nametoindex(it.ifname or "") == index, "the descriptor keeps it"
        new = TapBackend.adopt(it, room.loop, handed)
        room.add(new)
        await until(lambda: frame(9, 60) in room.card.frames)
        assert new.ifname == it.ifname
        new.close()
        with pytest.raises(OSError):
            socket.if_nametoindex(it.ifname or "")

    play(scene, loop)


def test_a_unix_listener_stays_only_where_its_file_goes_at_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(room: Room) -> None:
        for folder, kept in (("run", True), ("other", False)):
            (tmp_path / folder).mkdir()
            path = tmp_path / folder / "s"
            wire = Server(room.loop, options(UnixPath(str(path))))
            assert (wire.listening() is not None) == kept
            wire.close()
            assert path.exists() == kept

    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    play(scene, "asyncio")


# ---- the store ---------------------------------------------------------------------------------------------


class Manager(threading.Thread):
    """As much of a service manager as a store needs."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.kept: list[tuple[str, int]] = []
        self.start()

    def run(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self.socket, 4096, 8)
            words = dict(line.split("=", 1) for line in data.decode().split("\n"))
            if "END" in words:
                return
            if "FDSTORE" in words:
                assert words["FDPOLL"] == "0"
                self.kept += [(words["FDNAME"], fd) for fd in fds]
            elif "FDSTOREREMOVE" in words:
                for item in [item for item in self.kept if item[0] == words["FDNAME"]]:
                    self.kept.remove(item)
                    os.close(item[1])
            else:
                for fd in fds:  # BARRIER
                    os.close(fd)

    def next_start(self) -> dict[str, list[int]]:
        """Pass what is kept, as to a new process."""
        first = 300
        for number, (_, fd) in enumerate(self.kept):
            os.dup2(fd, first + number)
        environ = {
            "LISTEN_FDS": str(len(self.kept)),
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDNAMES": ":".join(name for name, _ in self.kept),
        }
        return passed.inherit(environ, first)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    one = Manager(tmp_path / "notify")
    yield one
    notify.notify("END=1")
    one.join(BOUND_S)
    one.socket.close()
    passed.close_rest()
    for _, fd in one.kept:
        os.close(fd)


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def test_the_store_gives_back_what_it_got_and_forgets_it(manager: Manager) -> None:
    pair = socket.socketpair()
    server = socket.create_server(("127.0.0.1", 0))
    first, second = net(listen=LOCAL), net(connect=Endpoint("h", 1))
    items = [
        (
            fingerprint(first),
            Handover({"tail": b"\0\xff", "n": [1, "x"]}, {"connection": pair[0].fileno()}),
        ),
        (fingerprint(second), Handover({"port": {}}, {})),
    ]
    assert handover.save(items, [server.fileno()])
    assert [name for name, _ in manager.kept] == ["tapnet-0", "tapnet-listener", "tapnet-state"]
    handed = handover.load(manager.next_start())
    assert notify.barrier() and manager.kept == []
    mine = handed.take(first)
    assert mine is not None and mine.data == {"tail": b"\0\xff", "n": [1, "x"]}
    assert inode(mine.fds["connection"]) == inode(pair[0].fileno())
    assert handed.take(first) is None and handed.close() == 1
    listening = passed.take(server.getsockname())
    assert listening is not None and listening.ours
    os.close(mine.fds["connection"])
    for one in (*pair, server, listening.socket):
        one.close()


def test_nothing_to_give(manager: Manager) -> None:
    assert not handover.save([("x", Handover({"port": {}}))], [])
    assert notify.barrier() and manager.kept == []


def test_another_place_in_the_file_is_the_same_net() -> None:
    one = SocketNet(origin="a.toml: [[net]] 1", name="w", id=None, vlan=0, listen=LOCAL)
    other = SocketNet(origin="-net socket", name="w", id=None, vlan=0, listen=LOCAL)
    assert fingerprint(one) == fingerprint(other) != fingerprint(net(connect=LOCAL))


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 99, "nets": []}',
        b'{"version": 1}',
        b'{"version": 1, "nets": [{"net": "x", "data": {}, "fds": {"connection": "tapnet-7"}}]}',
        b'{"version": 1, "nets": [{"net": "x", "data": {"\\u0000bytes": 1}, "fds": {}}]}',
        struct.pack("<Q", 0),
    ],
)
def test_a_state_that_cannot_be_used(
    manager: Manager, state: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = os.memfd_create("state")
    os.write(file, state)
    pair = socket.socketpair()
    notify.store("tapnet-0", pair[0].fileno())
    notify.store(handover.STATE, file)
    assert notify.barrier()
    pair[0].close()
    os.close(file)
    handed = handover.load(manager.next_start())
    assert "cannot be used" in caplog.text
    assert notify.barrier() and manager.kept == [] and handed.close() == 0
    pair[1].settimeout(BOUND_S)
    assert pair[1].recv(1) == b"", "its connection is closed"
    pair[1].close()


def test_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.wanted() and not notify.barrier() and not notify.store("x", 0)


def test_a_descriptor_of_somebody_else(caplog: pytest.LogCaptureFixture) -> None:
    read, write = os.pipe()
    handover.load({"strange": [read]})
    assert "strange" in caplog.text
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)
