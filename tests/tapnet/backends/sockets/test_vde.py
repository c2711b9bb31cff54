"""The VDE plug against a switch of our own making, byte by byte; tests/interop has the real one."""

import socket
import stat
import struct

import pytest

from tapnet.backends.sockets import retry, vde
from tapnet.backends.sockets.vde import VdeWire, reply, request
from tapnet.backends.sockets.wires import WireError
from tapnet.config import VdeNet
from tests.tapnet.wire_kit import LOOPS, Room, frame, play, until


@pytest.fixture(params=LOOPS)
def loop(request):
    return request.param


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retry.Retry.__init__, "__kwdefaults__", {"first": 0.02, "last": 0.05, "again": True})


def net(sock, **more) -> VdeNet:
    return VdeNet(origin="-net vde", name="v", id=None, vlan=0, sock=str(sock), **more)


class Switch:
    """One port of a vde_switch."""

    def __init__(self, room: Room, directory) -> None:
        self.room = room
        self.data_path = str(directory / "data")
        (directory / "ctl").unlink(missing_ok=True)
        (directory / "data").unlink(missing_ok=True)
        self.listening = room.keep(socket.socket(socket.AF_UNIX))
        self.listening.bind(str(directory / "ctl"))
        self.listening.listen()
        self.data = room.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.data.bind(self.data_path)

    async def plug(self, answer: bytes | None = None) -> bytes:
        control, _ = await self.room.loop.sock_accept(self.listening)
        self.control = self.room.keep(control)
        asked = await self.room.read(control, 250)
        self.data.connect(asked[14:122].rstrip(b"\0"))
        if answer is None:
            answer = struct.pack("=H108s", socket.AF_UNIX, self.data_path.encode())
        for byte in answer:
            await self.room.loop.sock_sendall(control, bytes((byte,)))
        return asked

    def end(self) -> None:
        for sock in (self.control, self.data, self.listening):
            sock.close()


def test_request_and_reply():
    data = request(7, "/x/y", "me")
    assert data == (
        struct.pack("=III", 0xFEEDFACE, 3, 7 << 8)
        + struct.pack("=H", socket.AF_UNIX)
        + b"/x/y".ljust(108, b"\0")
        + b"me".ljust(128, b"\0")
    )
    assert len(request(0, "/x", "m" * 500)) == len(data) == 250
    assert reply(struct.pack("=H108s", 1, b"/run/data")) == "/run/data"
    for bad in (bytes(110), b"", struct.pack("=H108s", 2, b"/x")):
        with pytest.raises(OSError, match="no address"):
            reply(bad)


def test_a_plug_both_ways_and_a_switch_that_restarts(tmp_path, loop, caplog):
    async def scene(room: Room) -> None:
        wire = room.add(VdeWire(room.loop, net(tmp_path, port=3, file_mode=0o770)))
        await until(lambda: "No such file" in wire.info_line())
        room.card.port.send(frame(0))
        await until(lambda: wire.port.counters.drops == {"disconnected": 1})
        for life in range(1, 4):
            switch = Switch(room, tmp_path)
            asked = await switch.plug()
            assert asked[:12] == struct.pack("=III", 0xFEEDFACE, 3, 3 << 8)
            assert b"tapnet user=" in asked[122:]
            (ours,) = [p for p in tmp_path.iterdir() if p.name.startswith(".tapnet")]
            assert stat.S_IMODE(ours.stat().st_mode) == 0o770
            switch.data.send(frame(life))
            await until(lambda: frame(life) in room.card.frames)  # noqa: B023
            assert wire.info_line() == f"vde: sock={tmp_path}"
            room.card.port.send(frame(life + 10))
            assert await room.loop.sock_recv(switch.data, 2000) == frame(life + 10)
            switch.end()
            await until(lambda: "the switch has ended" in wire.info_line() or "refused" in wire.info_line())
        wire.close()
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".tapnet")] == []

    play(scene, loop)


@pytest.mark.parametrize(("answer", "words"), [(b"", "refused the plug"), (bytes(110), "no address")])
def test_a_switch_that_refuses_leaves_nothing(tmp_path, answer, words, caplog):
    async def scene(room: Room) -> None:
        switch = Switch(room, tmp_path)
        wire = room.add(VdeWire(room.loop, net(tmp_path)))
        for _ in range(2):
            await switch.plug(answer)
            switch.control.close()
            await until(lambda: words in wire.info_line())
        switch.end()
        await until(lambda: wire._retry.why == "Connection refused")
        assert not any(p.name.startswith(".tapnet") for p in tmp_path.iterdir())

    play(scene)


def test_the_usual_places_and_a_group_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(vde, "DEFAULTS", (str(tmp_path / "a"), str(tmp_path / "b")))
    assert vde.directory(None) == str(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "ctl").touch()
    assert vde.directory(None) == str(tmp_path / "b")
    assert vde.directory("/x/") == "/x"

    async def scene(room: Room) -> None:
        with pytest.raises(WireError, match=r"^-net vde: group=nobody-here: no such group$"):
            VdeWire(room.loop, net(tmp_path, group="nobody-here"))

    play(scene)
