"""WebSocket wires: a real client library, raw bytes where a client would not do it, browsers by their Origin."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from tapnet.backends.sockets import stream, ws
from tapnet.backends.sockets.framing import FRAME_MAX
from tapnet.backends.sockets.pipe import OUT_BYTES
from tapnet.backends.sockets.wires import WireError
from tapnet.config import Endpoint, WsNet
from tapnet.vlan.port import Port
from tapnet.vlan.train import cut
from tests.tapnet.wire_kit import LOCAL, LOOPS, Room, frame, play, until, wrap
from tests.waiting import BOUND_S

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return request.param


def net(*origins: str, listen: Endpoint = LOCAL) -> WsNet:
    return WsNet(origin="-net ws", name="w", id=None, vlan=0, listen=listen, origins=origins)


def where(wire: Any) -> tuple[str, int]:
    host, _, port = wire.address.rpartition(":")
    return host, int(port)


@contextlib.asynccontextmanager
async def client(wire: Any, **more: Any) -> AsyncIterator[ClientConnection]:
    host, port = where(wire)
    async with asyncio.timeout(BOUND_S):
        async with connect(f"ws://{host}:{port}/", proxy=None, compression=None, **more) as found:
            yield found


def masked(opcode: int, payload: bytes, final: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(payload)
    if size < 126:
        long = bytes((128 | size,))
    else:
        long = b"\xfe" + size.to_bytes(2, "big") if size < 65536 else b"\xff" + size.to_bytes(8, "big")
    return bytes((final << 7 | opcode,)) + long + bytes(4) + payload


async def raw(room: Room, wire: Any) -> socket.socket:
    """A client by hand, after its handshake."""
    sock = await room.dial(where(wire))
    await room.loop.sock_sendall(sock, REQUEST)
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += await room.read(sock, 1)
    assert data.startswith(b"HTTP/1.1 101 ")
    return sock


def test_every_client_is_a_port_and_a_message_is_a_frame(loop: str) -> None:
    async def scene(room: Room) -> None:
        wire = room.open(net())
        assert wire.info_line() == f"ws: listen={wire.address}" and wire.port is None
        async with client(wire) as one, client(wire) as two:
            await until(lambda: len(room.infos) == 2)
            assert all(info.startswith("ws: connection from 127.0.0.1:") for info in room.infos.values())
            for size in (60, 125, 126, 1514, 65535, 65536, FRAME_MAX):
                sent = frame(size, max(size, 8))[:size]
                await one.send(sent)
                assert await two.recv() == sent
                room.card.port.send(sent)
                assert await one.recv() == sent == await two.recv()
            await one.send("text is not for us")
            await one.send(b"")
            await one.send([b"one frame ", b"in ", b"three pieces"])
            await one.send(b"no frame")
            assert await two.recv() == b"one frame in three pieces" + bytes(35)
            drops: dict[str, int] = {}
            for port in room.infos:
                drops |= port.counters.drops
            assert drops == {"text": 1, "empty": 1, "runt": 1}
            assert await asyncio.wait_for(await one.ping(), BOUND_S) is not None
        await until(lambda: not room.infos)
        assert wire.last_end.endswith("closed by the peer")

    play(scene, loop)


@pytest.mark.parametrize(
    ("listed", "origin", "welcome"),
    [
        ((), None, True),
        ((), "https://evil.example", False),
        (("https://a.example", "http://b.example:8080"), "http://b.example:8080", True),
        (("https://a.example",), None, True),
        (("https://a.example",), "https://a.example.evil", False),
        (("https://a.example",), "HTTPS://a.example", False),
        (("https://a.example",), "null", False),
    ],
)
def test_origins(listed: tuple[str, ...], origin: str | None, welcome: bool) -> None:
    async def scene(room: Room) -> None:
        wire = room.open(net(*listed))
        if welcome:
            async with client(wire, origin=origin):
                await until(lambda: len(room.infos) == 1)
            return
        with pytest.raises(InvalidStatus) as caught:
            async with client(wire, origin=origin):
                pass
        assert caught.value.response.status_code == 403
        await until(lambda: wire.rejections == 1)
        assert not room.infos and "origin" in wire.last_end.lower()
        assert wire.status().endswith("; 1 handshakes failed") and "0 accepted" in wire.status()

    play(scene)


def test_the_subprotocol_of_websockify() -> None:
    async def scene(room: Room) -> None:
        wire = room.open(net())
        async with client(wire, subprotocols=["base64", "binary"]) as one:
            assert one.subprotocol == "binary"
        async with client(wire, subprotocols=["other"]) as one:
            assert one.subprotocol is None

    play(scene)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 426 "),
        (REQUEST.replace(b"GET", b"POST"), b""),
        (REQUEST.replace(b": 13", b": 7"), b"HTTP/1.1 4"),
        (REQUEST.replace(b"dGhl", b""), b"HTTP/1.1 400 "),
        (REQUEST[:-2] + b"Origin: a\r\nOrigin: b\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\0\0\0\x3c" + bytes(60) + b"\n\n", b""),
        (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 4"),
        (b"\r\n", b""),
    ],
)
def test_who_does_not_speak_it_is_told_and_gone(
    said: bytes, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(room: Room) -> None:
        wire = room.open(net())
        sock = await room.dial(where(wire))
        await room.loop.sock_sendall(sock, said)
        got = b""
        with contextlib.suppress(ConnectionError):
            while piece := await asyncio.wait_for(room.loop.sock_recv(sock, 4096), BOUND_S):
                got += piece
        assert got.startswith(answer) and b" 101 " not in got
        await until(lambda: wire.rejections == 1)
        assert not room.infos and not wire._handshakes

    play(scene)
    assert len(caplog.records) == 1, "one line, and nothing of the library's"


def test_a_handshake_byte_by_byte_and_frames_that_come_with_it() -> None:
    async def scene(room: Room) -> None:
        wire = room.open(net())
        sock = await room.dial(where(wire))
        for byte in REQUEST:
            await room.loop.sock_sendall(sock, bytes((byte,)))
        await until(lambda: len(room.infos) == 1)
        await room.loop.sock_sendall(
            sock, masked(2, frame(1)) + masked(2, frame(2)[:20], False) + masked(9, b"hello")
        )
        await room.loop.sock_sendall(sock, masked(0, frame(2)[20:]))
        assert await room.got(2) == [frame(1), frame(2)]
        early = await room.dial(where(wire))
        await room.loop.sock_sendall(early, REQUEST + masked(2, frame(3)) + masked(9, b""))
        await until(lambda: len(room.infos) == 2 or wire.rejections == 1)

    play(scene)


@pytest.mark.parametrize(
    ("said", "code", "counted"),
    [
        (masked(2, bytes(FRAME_MAX + 1)), 1009, "oversize"),
        (masked(2, bytes(60000), False) + masked(0, bytes(60000)), 1009, "oversize"),
        (b"\x82\xff" + b"\x7f" + b"\xff" * 7, 1009, "oversize"),
        (b"\x82\x05hello", 1002, "malformed"),
        (masked(3, b""), 1002, "malformed"),
        (masked(0, b"x"), 1002, "malformed"),
        (b"\xc2" + masked(2, b"x")[1:], 1002, "malformed"),
    ],
)
def test_broken_rules_end_that_client_alone(said: bytes, code: int, counted: str) -> None:
    async def scene(room: Room) -> None:
        wire = room.open(net())
        sock = await raw(room, wire)
        async with client(wire) as other:
            await until(lambda: len(room.infos) == 2)
            (port,) = (p for p in room.infos if p.name == "w.1")
            await room.loop.sock_sendall(sock, masked(2, frame(1)) + said)
            assert await other.recv() == frame(1)
            head = await room.read(sock, 4)
            assert head[0] == 0x88 and int.from_bytes(head[2:], "big") == code
            await room.ended(sock)
            await until(lambda: len(room.infos) == 1)
            assert port.counters.drops == {counted: 1}
            room.card.port.send(frame(2))
            assert await other.recv() == frame(2)

    play(scene)


def test_a_slow_reader_is_held_back_and_loses_alone(loop: str) -> None:
    async def scene(room: Room) -> None:
        wire = room.open(net())
        sock = await raw(room, wire)
        async with client(wire) as other:
            await until(lambda: len(room.infos) == 2)
            (port,) = (p for p in room.infos if p.name == "w.1")
            count = 0
            while not port.counters.drops:
                room.card.port.send(frame(count, 1514))
                count += 1
                if count % 50 == 0:
                    await until(lambda: not room.hub.busy)
                    for _ in range(50):
                        await other.recv()
            pipe = wire.clients[port]
            assert pipe._pending <= OUT_BYTES + 2000 and set(port.counters.drops) == {"queue"}
            kept = count - port.counters.drops["queue"]
            want = kept * (4 + 1514)
            data = await room.read(sock, want)
            assert data[:4] == b"\x82\x7e\x05\xea" and data[4 : 4 + 1514] == frame(0, 1514)
            assert data.count(b"\x82\x7e\x05\xea") >= kept

    play(scene, loop)


def test_one_that_pings_and_never_reads_is_cut_off() -> None:
    async def scene(room: Room) -> None:
        wire = room.open(net())
        sock = await raw(room, wire)
        await until(lambda: len(room.infos) == 1)
        (port,) = room.infos
        pings = masked(9, bytes(125)) * 500
        with contextlib.suppress(ConnectionError, TimeoutError):
            while room.infos:
                assert wire.clients[port]._pending <= 4 * OUT_BYTES
                await asyncio.wait_for(room.loop.sock_sendall(sock, pings), BOUND_S)
        await until(lambda: not room.infos)
        assert "asks and does not read" in wire.last_end

    play(scene)


def test_a_stream_client_and_a_browser_meet_on_one_hub() -> None:
    async def scene(room: Room) -> None:
        wire = room.open(net())
        other = room.add(
            stream.Listener(room.loop, stream.Options("s", "-net s", LOCAL), room.joined, room.left)
        )
        tcp = await room.dial(where(other))
        room.hub.remove(room.card.port)  # stream and WebSocket alone: trains one way
        async with client(wire) as browser:
            await until(lambda: len(room.infos) == 2)
            await browser.send(frame(1))
            assert await room.read(tcp, 64) == wrap(frame(1))
            await room.loop.sock_sendall(tcp, wrap(frame(2), frame(3, 1000)))
            assert (await browser.recv(), await browser.recv()) == (frame(2), frame(3, 1000))

    play(scene)


def messages() -> tuple[ws.Messages, Port]:
    """A server's side after the handshake, without a socket."""
    protocol = ServerProtocol(state=OPEN, max_size=FRAME_MAX, logger=ws._SILENT)
    port = Port("w", lambda _frame, _vnet: True)
    return ws.Messages(protocol, port), port


def feed(splitter: ws.Messages, data: bytes, cuts: list[int]) -> list[bytes]:
    """In pieces of these sizes, over and over."""
    got: list[bytes] = []
    at = turn = 0
    while at < len(data):
        piece = data[at : at + cuts[turn % len(cuts)]]
        splitter.room()[: len(piece)] = piece
        train, count = splitter.took(len(piece))
        assert len(cut(train)) == count
        got += cut(train)
        at, turn = at + len(piece), turn + 1
    return got


PIECES = st.lists(st.integers(1, 700), min_size=1, max_size=20)
SENT = st.lists(
    st.tuples(
        st.sampled_from(["binary", "text", "ping", "parts"]),
        st.binary(max_size=300).filter(lambda data: data.isascii()),
    ),
    max_size=12,
)


@given(SENT, PIECES)
def test_any_cut_gives_the_same_frames(sent: list[tuple[str, bytes]], cuts: list[int]) -> None:
    data, want = b"", []
    for kind, payload in sent:
        if kind == "parts":
            data += masked(2, payload[:3], False) + masked(9, b"between") + masked(0, payload[3:])
        else:
            data += masked({"binary": 2, "text": 1, "ping": 9}[kind], payload[:125])
        if kind == "binary":
            want.append(payload[:125])
        elif kind == "parts":
            want.append(payload)
    splitter, port = messages()
    assert feed(splitter, data, cuts) == [
        frame + bytes(60 - len(frame)) for frame in want if len(frame) >= 14
    ]
    assert splitter.runts == sum(0 < len(frame) < 14 for frame in want)
    assert splitter.broken is None and splitter.empty == sum(not frame for frame in want)
    assert port.counters.drops.get("text", 0) == sum(kind == "text" for kind, _ in sent)


@given(st.binary(max_size=2000), PIECES)
def test_no_bytes_do_harm(data: bytes, cuts: list[int]) -> None:
    splitter, _port = messages()
    feed(splitter, data, cuts)
    assert splitter.partial <= FRAME_MAX


def test_the_end_is_said(loop: str) -> None:
    async def scene(room: Room) -> None:
        wire = room.open(net())
        async with client(wire) as one:
            await until(lambda: len(room.infos) == 1)
            waiting = await room.dial(where(wire))
            await until(lambda: len(wire._handshakes) == 1)
            wire.close()
            wire.close()
            with pytest.raises(ConnectionClosed) as caught:
                await one.recv()
            assert caught.value.rcvd is not None and caught.value.rcvd.code == ws.GOING_AWAY
            await room.ended(waiting)
        assert not room.infos

    play(scene, loop)


def test_a_handshake_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws, "HANDSHAKE_SECONDS", 0.05)

    async def scene(room: Room) -> None:
        wire = room.open(net())
        sock = await room.dial(where(wire))
        await room.loop.sock_sendall(sock, b"GET / HTTP/1.1\r\n")
        await room.ended(sock)
        assert "no handshake in time" in wire.last_end and not wire._handshakes

    play(scene)


def test_a_reset_behind_half_a_handshake_ends_it(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has gone holds no place until the time is over."""
    monkeypatch.setattr(ws, "HANDSHAKE_SECONDS", 9e3)

    async def scene(room: Room) -> None:
        wire = room.open(net())
        for _ in range(20):
            sock = await room.dial(where(wire))
            await until(lambda: wire._handshakes)
            sock.send(b"GET / HTTP/1.1\r\n")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            await until(lambda: not wire._handshakes, "the handshake to end")
        assert wire.rejections == 20

    play(scene, loop)


def test_handshakes_count_as_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CLIENTS_MAX", 3)

    async def scene(room: Room) -> None:
        wire = room.open(net())
        await raw(room, wire)
        for _ in range(2):
            await room.dial(where(wire))
        await until(lambda: len(wire._handshakes) == 2)
        await room.ended(await room.dial(where(wire)))
        assert wire.refused == 1

    play(scene)


def test_errors_of_the_user() -> None:
    async def scene(room: Room) -> None:
        wire = room.open(net())
        host, port = where(wire)
        with pytest.raises(WireError, match=rf"^-net ws: listen=127.0.0.1:{port}: Address already in use$"):
            room.open(net(listen=Endpoint(host, port)))

    play(scene)


def test_without_the_library_it_is_one_line() -> None:
    code = "import sys; sys.modules['websockets'] = None; from tapnet.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "run", "-net", "ws,listen=127.0.0.1:1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=BOUND_S)
    assert done.returncode == 2
    assert done.stderr == "tapnet: -net ws: needs the Python package websockets: pip install 'tapnet[ws]'\n"
