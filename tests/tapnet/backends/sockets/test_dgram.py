"""Datagram wires on loopback: UDP, UNIX, inherited sockets, and a multicast bus that never hears itself."""

import socket
import stat

import pytest

from tapnet.backends.sockets.dgram import GivenDatagrams
from tapnet.backends.sockets.framing import FRAME_MAX
from tapnet.backends.sockets.mcast import McastWire
from tapnet.backends.sockets.wires import WireError
from tapnet.config import DgramNet, Endpoint, Fd, SocketNet, UnixPath
from tests.tapnet.wire_kit import LOOPS, Room, frame, play, until

GROUP = "239.1.2.3"
BASE = {"name": "w", "id": None, "vlan": 0}


@pytest.fixture(params=LOOPS)
def loop(request):
    return request.param


def udp(room: Room) -> socket.socket:
    sock = room.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    return sock


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def nets(kind: str, local: Endpoint, remote: Endpoint):
    if kind == "socket":
        return SocketNet(origin="-net socket", udp=remote, localaddr=local, **BASE)
    return DgramNet(origin="-net dgram", local=local, remote=remote, **BASE)


@pytest.mark.parametrize("kind", ["socket", "dgram"])
def test_udp_both_ways_and_no_strangers(kind, loop):
    async def scene(room: Room) -> None:
        peer, stranger = udp(room), udp(room)
        there = Endpoint(*peer.getsockname())
        here = Endpoint("127.0.0.1", free_port())
        wire = room.open(nets(kind, here, there))
        assert wire.info_line() == (
            f"socket: udp={there}" if kind == "socket" else f"dgram: udp={here}/{there}"
        )
        stranger.sendto(frame(66), (here.host, here.port))
        for one in (frame(1), b"", frame(2, 9000), b"x" * 13, b"y" * 42):
            peer.sendto(one, (here.host, here.port))
        assert await room.got(3) == [frame(1), frame(2, 9000), b"y" * 42 + bytes(18)]
        assert wire.port.counters.drops == {"empty": 1, "runt": 1}
        room.card.port.send(frame(3))
        assert await room.loop.sock_recv(peer, 2000) == frame(3)

    play(scene, loop)


def test_what_udp_cannot_carry_is_counted(loop):
    async def scene(room: Room) -> None:
        peer = udp(room)
        wire = room.open(
            nets("dgram", Endpoint("127.0.0.1", free_port()), Endpoint("127.0.0.1", peer.getsockname()[1]))
        )
        for one in (bytes(65508), bytes(FRAME_MAX + 1), b"", frame(1)):
            room.card.port.send(one)
        assert await room.loop.sock_recv(peer, 2000) == frame(1)
        assert wire.port.counters.drops == {"oversize": 2}
        assert room.card.port.counters.drops == {"empty": 1}

    play(scene, loop)


def test_a_udp_peer_that_is_away_and_comes(loop):
    async def scene(room: Room) -> None:
        port, here = free_port(), free_port()
        wire = room.open(nets("dgram", Endpoint("127.0.0.1", here), Endpoint("127.0.0.1", port)))
        for number in range(4):
            room.card.port.send(frame(number))
            await until(lambda: wire.port.counters.drops.get("disconnected", 0) > number)  # noqa: B023
        peer = room.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        peer.bind(("127.0.0.1", port))
        room.card.port.send(frame(1))
        assert await room.loop.sock_recv(peer, 2000) == frame(1)
        peer.sendto(frame(2), ("127.0.0.1", here))
        assert await room.got(1) == [frame(2)]

    play(scene, loop)


def test_udp_by_ipv6_and_by_families_that_do_not_match():
    async def scene(room: Room) -> None:
        peer = room.keep(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        peer.bind(("::1", 0))
        room.open(nets("socket", Endpoint("::1", 0), Endpoint("::1", peer.getsockname()[1])))
        room.card.port.send(frame(1))
        assert await room.loop.sock_recv(peer, 2000) == frame(1)
        with pytest.raises(WireError, match="different families"):
            room.open(nets("socket", Endpoint("127.0.0.1", 0), Endpoint("::1", 9)))

    play(scene)


def test_a_taken_udp_port_is_one_line():
    async def scene(room: Room) -> None:
        taken = udp(room)
        here = Endpoint(*taken.getsockname())
        with pytest.raises(
            WireError, match=f"^-net socket: udp 127.0.0.1:9 from {here}: Address already in use$"
        ):
            room.open(nets("socket", here, Endpoint("127.0.0.1", 9)))

    play(scene)


# ---- UNIX --------------------------------------------------------------------------------------------------


def unix(local, remote) -> DgramNet:
    return DgramNet(origin="-net dgram", local=UnixPath(str(local)), remote=UnixPath(str(remote)), **BASE)


def test_unix_datagrams_and_a_peer_that_restarts(tmp_path, loop):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"

    async def scene(room: Room) -> None:
        wire = room.open(unix(ours, theirs))
        assert stat.S_IMODE(ours.stat().st_mode) == 0o600
        assert wire.info_line() == f"dgram: unix={ours}:{theirs}"
        room.card.port.send(frame(0))
        await until(lambda: wire.port.counters.drops == {"disconnected": 1})
        for life in range(1, 4):
            theirs.unlink(missing_ok=True)
            peer = room.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            peer.bind(str(theirs))
            peer.connect(str(ours))  # some peers do
            if life == 2:
                room.card.port.send(frame(50))
                assert await room.loop.sock_recv(peer, 2000) == frame(50)
            peer.send(frame(life))  # the restarted peer speaks first
            await until(lambda: frame(life) in room.card.frames)  # noqa: B023
            room.card.port.send(frame(life + 10))
            assert await room.loop.sock_recv(peer, 2000) == frame(life + 10)
            peer.close()
        wire.close()
        assert not ours.exists()

    play(scene, loop)


@pytest.mark.parametrize("connected", [False, True])
def test_a_unix_peer_that_does_not_read_holds_us_back_and_loses_nothing(tmp_path, loop, connected):
    async def scene(room: Room) -> None:
        room.open(unix(tmp_path / "ours", tmp_path / "theirs"))
        peer = room.keep(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        peer.bind(str(tmp_path / "theirs"))
        if connected:  # then nobody else can ask for room
            peer.connect(str(tmp_path / "ours"))
        count = 0
        while room.card.port.send(frame(count)):
            count += 1
            assert count < 5000
            if count % 64 == 0:
                await until(lambda: not room.hub.busy)
        assert count > 512
        for number in range(count):
            assert await room.loop.sock_recv(peer, 2000) == frame(number)
        await until(lambda: room.card.readied == 1)

    play(scene, loop)


def test_a_live_unix_socket_is_refused_and_a_dead_one_replaced(tmp_path):
    async def scene(room: Room) -> None:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            live = room.keep(socket.socket(socket.AF_UNIX, kind))
            live.bind(str(tmp_path / f"s{kind}"))
            if kind == socket.SOCK_STREAM:
                live.listen()
            with pytest.raises(WireError, match="another program has it open"):
                room.open(unix(tmp_path / f"s{kind}", tmp_path / "x"))
            live.close()
        room.open(unix(tmp_path / "s2", tmp_path / "x"))

    play(scene)


# ---- inherited ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_pair_that_we_inherit(kind, loop, caplog):
    async def scene(room: Room) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        room.keep(theirs)
        wire = room.add(GivenDatagrams(room.loop, "w", ours, "dgram: fd=5"))
        theirs.send(frame(1))
        await room.got(1)
        room.card.port.send(frame(2))
        assert await room.loop.sock_recv(theirs, 2000) == frame(2)
        theirs.close()
        room.card.port.send(frame(3))
        await until(lambda: wire.port.counters.drops.get("disconnected"))
        if kind == socket.SOCK_SEQPACKET:
            assert wire.info_line() == "dgram: fd=5 (closed by the peer)"

    play(scene, loop)


def test_descriptors_that_are_of_no_use(tmp_path):
    async def scene(room: Room) -> None:
        loose = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        fd = loose.detach()
        with pytest.raises(WireError, match=f"fd={fd}: not connected, and not bound to a multicast group"):
            room.open(DgramNet(origin="-net dgram", local=Fd(fd), **BASE))
        one, two = socket.socketpair()
        room.keep(two)
        with pytest.raises(WireError, match="not a datagram socket"):
            room.open(DgramNet(origin="-net dgram", local=Fd(one.detach()), **BASE))
        with pytest.raises(WireError, match="fd=987: Bad file descriptor"):
            room.open(SocketNet(origin="-net socket", fd=987, **BASE))
        with (
            open(tmp_path / "f", "w") as file,
            pytest.raises(WireError, match="Socket operation on non-socket"),
        ):
            room.open(SocketNet(origin="-net socket", fd=file.fileno(), **BASE))

    play(scene)


# ---- multicast ---------------------------------------------------------------------------------------------


def member(room: Room, port: int, group: str = GROUP, local: str | None = "127.0.0.1"):
    where = Endpoint(group, port)
    localaddr = Endpoint(local, 0) if local else None
    return room.open(SocketNet(origin="-net socket", mcast=where, localaddr=localaddr, **BASE))


def test_three_on_a_bus_and_nobody_hears_himself(loop):
    """S9."""

    async def scene(room: Room) -> None:
        port = free_port()
        rooms = [room, Room(), Room()]
        wires = [member(r, port) for r in rooms]
        assert wires[0].info_line() == f"socket: mcast={GROUP}:{port}"
        for number, r in enumerate(rooms):
            r.card.port.send(frame(number))
        for number, r in enumerate(rooms):
            got = await r.got(2)
            assert sorted(got) == [frame(n) for n in range(3) if n != number]
        await until(lambda: all(w.echoes == 1 for w in wires))
        assert all(len(r.card.got) == 2 for r in rooms)
        for other in rooms[1:]:
            other.close()

    play(scene, loop)


def test_a_stranger_on_the_bus_is_heard_and_garbage_is_counted(loop):
    async def scene(room: Room) -> None:
        port = free_port()
        wire = member(room, port)
        stranger = udp(room)
        stranger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for one in (b"", b"y", b"z" * 14, frame(1)):
            stranger.sendto(one, (GROUP, port))
        assert await room.got(2) == [b"z" * 14 + bytes(46), frame(1)]
        assert wire.port.counters.drops == {"empty": 1, "runt": 1}
        stranger.sendto(frame(9), ("127.0.0.1", port))  # unicast to the group's port: not for us
        stranger.sendto(frame(2), (GROUP, port))
        assert (await room.got(3))[2] == frame(2)

    play(scene, loop)


def test_an_interface_that_is_not_there_is_one_line():
    async def scene(room: Room) -> None:
        with pytest.raises(
            WireError, match=r"^-net socket: mcast=239.1.2.3:9009,localaddr=192.0.2.77: No such device$"
        ):
            member(room, 9009, local="192.0.2.77")
        with pytest.raises(WireError, match="no interface has that address"):
            member(room, 9009, "ff02::1:9", "2001:db8::77")

    play(scene)


def test_a_socket_of_the_group_that_we_inherit(loop):
    async def scene(room: Room) -> None:
        port = free_port()
        given = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        given.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        given.bind((GROUP, port))
        given.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1"),
        )
        other = Room()
        member(other, port)
        net = DgramNet(origin="-net dgram", local=Fd(given.detach()), remote=Endpoint(GROUP, port), **BASE)
        wire = room.open(net)
        assert isinstance(wire, McastWire) and wire.info_line() == f"dgram: mcast={GROUP}:{port}"
        other.card.port.send(frame(1))
        assert await room.got(1) == [frame(1)]
        other.close()

    play(scene, loop)
