"""Classic pcap files: their bytes, cuts, pipes, full disks; an observer changes nothing."""

import os
import struct
import subprocess

import pytest

from tapnet.backends.dump import Dump
from tapnet.backends.sockets.wires import WireError
from tapnet.capture import sink
from tapnet.config import DumpNet
from tapnet.virtio import GSO_TCPV4, TUN_F_ALL
from tests.tapnet.hub_kit import Endpoint as Card
from tests.tapnet.wire_kit import Room, frame, play, until
from tests.waiting import BOUND_S

TIME = 1_700_000_000_123_456_789


def net(file, size: int = 65536) -> DumpNet:
    return DumpNet(origin="-net dump", name="d", id=None, vlan=0, file=str(file), len=size)


def capture(room: Room, file, size: int = 65536) -> Dump:
    return room.add(Dump(room.loop, net(file, size), lambda: TIME))


def test_bytes_of_the_file(tmp_path):
    file = tmp_path / "x.pcap"

    async def scene(room: Room) -> None:
        other = Card("other", room.hub)
        wire = capture(room, file, 64)
        room.card.port.send(frame(1))
        other.port.send(frame(2, 1514))
        await until(lambda: wire.port.counters.rx_frames == 2)
        assert wire.info_line() == f"dump to {file} (len=64)"

    play(scene)
    data = file.read_bytes()
    assert data[:24] == struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 64, 1)
    assert data[24:100] == struct.pack("=IIII", 1_700_000_000, 123_456, 60, 60) + frame(1)
    assert data[100:] == struct.pack("=IIII", 1_700_000_000, 123_456, 64, 1514) + frame(2, 1514)[:64]
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.packages
def test_tcpdump_reads_it(tmp_path):
    file = tmp_path / "x.pcap"
    arp = bytes.fromhex(
        "ffffffffffff5254001234560806000108000604000152540012345600000000000000000000"
    ) + bytes(22)

    async def scene(room: Room) -> None:
        wire = capture(room, file)
        room.card.port.send(arp)
        await until(lambda: wire.port.counters.rx_frames == 1)

    play(scene)
    done = subprocess.run(["tcpdump", "-tnr", str(file)], capture_output=True, text=True, timeout=BOUND_S)
    assert done.returncode == 0 and "ARP, Request who-has 0.0.0.0" in done.stdout, done.stderr


def test_an_observer_neither_limits_nor_holds_back_and_sees_frames_of_wire_size(tmp_path):
    file = tmp_path / "x.pcap"
    payload = bytes(3000)
    ip = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        40 + len(payload),
        1,
        0,
        64,
        6,
        0,
        bytes((10, 0, 0, 1)),
        bytes((10, 0, 0, 2)),
    )
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 0, 0, 0x50, 0x10, 100, 0, 0)
    packet = bytes(12) + b"\x08\x00" + ip + tcp + payload
    vnet = struct.pack("<BBHHHH", 1, GSO_TCPV4, 54, 1460, 34, 16)

    async def scene(room: Room) -> None:
        for card in (room.card, Card("other", room.hub)):
            card.port.set_features(TUN_F_ALL)
        wire = capture(room, file)
        assert room.card.offers[-1] == TUN_F_ALL
        room.card.port.send(packet, vnet)
        await until(lambda: wire.port.counters.rx_frames == 3)
        wire.port.refused = True  # it takes nothing any more
        for number in range(2000):
            assert room.card.port.send(frame(number))
            if number % 100 == 0:
                await until(lambda: len(room.hub.ports[1].queue) == 0)
        assert wire.port.counters.drops["queue"] == 2000 - 512

    play(scene)
    data, at, sizes = file.read_bytes(), 24, []
    while at < len(data):
        sizes.append(struct.unpack_from("=I", data, at + 12)[0])
        at += 16 + sizes[-1]
    assert sizes == [1514, 1514, 134]


def test_a_pipe_that_is_full_is_waited_for(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def scene(room: Room) -> None:
        with pytest.raises(WireError, match=r"^-net dump: file=.*: nobody reads this pipe$"):
            capture(room, fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            wire = capture(room, fifo)
            for number in range(1200):
                room.card.port.send(frame(number, 1514))
                if number % 100 == 0:
                    await until(lambda: not room.hub.busy or wire.port.refused)
            await until(lambda: not wire._sink.room or wire.port.counters.rx_frames == 1200)
            assert wire._sink._pending <= sink.OUT_BYTES + 2000
            want, data = 24 + 1200 * 1530, b""

            def more() -> bool:
                nonlocal data
                try:
                    data += os.read(reader, 1 << 20)
                except BlockingIOError:
                    pass
                return len(data) == want

            await until(more)
            assert data[24 + 16 :][:1514] == frame(0, 1514) and data.endswith(frame(1199, 1514))
            assert wire.port.counters.drops == {}
        finally:
            os.close(reader)

    play(scene)


def test_a_full_disk_ends_the_capture_and_nothing_else(caplog):
    async def scene(room: Room) -> None:
        wire = capture(room, "/dev/full")
        await until(lambda: wire._sink.why == "No space left on device")
        for number in range(3):
            room.card.port.send(frame(number))
        await until(lambda: wire.port.counters.drops == {"file": 3})
        assert wire.info_line().endswith("(No space left on device)")

    play(scene)
    assert sum("No space left" in record.message for record in caplog.records) == 1


def test_a_file_that_cannot_be_made(tmp_path):
    async def scene(room: Room) -> None:
        with pytest.raises(WireError, match=r"^-net dump: file=/nowhere/x: No such file or directory$"):
            capture(room, "/nowhere/x")
        with pytest.raises(WireError, match="Is a directory"):
            capture(room, tmp_path)

    play(scene)
