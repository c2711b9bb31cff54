"""Captures: what is in the files, for dpkt and for tshark, and that nobody else notices."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dpkt
import pytest

from tapnet.capture import captures as capture
from tapnet.capture import sink
from tapnet.capture.captures import CaptureError, Captures, member
from tapnet.config import Filter
from tapnet.options import impairments
from tapnet.virtio import GSO_TCPV4, TUN_F_ALL
from tapnet.vlan import faults
from tests.tapnet.hub_kit import Endpoint, Loop, hub_of
from tests.tapnet.wire_kit import frame
from tests.waiting import BOUND_S

TIME = 1_700_000_000_123_456_789


class Deferred:
    """A loop that only knows ``call_soon``, by hand."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.writers: set[int] = set()

    def call_soon(self, callback: Any, *args: Any) -> None:
        self.loop(lambda: callback(*args))

    def add_writer(self, fd: int, _callback: Any) -> None:
        self.writers.add(fd)

    def remove_writer(self, fd: int) -> None:
        self.writers.discard(fd)


def lab(count: int = 3, **options: Any) -> tuple[Loop, Any, list[Endpoint], Captures]:
    loop, hub, ends = hub_of(count, **options)
    return loop, hub, ends, Captures(Deferred(loop), lambda: TIME)  # type: ignore[arg-type]


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        assert size % 4 == 0 and struct.unpack_from("<I", data, at + size - 4)[0] == size
        yield kind, data[at + 8 : at + size - 4]
        at += size
    assert at == len(data)


def options(data: bytes) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(data):
        code, size = struct.unpack_from("<HH", data, at)
        if code == 0:
            break
        found.setdefault(code, []).append(data[at + 4 : at + 4 + size])
        at += 4 + (size + 3) // 4 * 4
    return found


def packets(file: Path) -> list[tuple[str, str, bytes, list[str]]]:
    """(interface, direction, frame, comments)"""
    names: list[str] = []
    out = []
    for kind, body in blocks(file.read_bytes()):
        if kind == 1:
            assert struct.unpack_from("<HHI", body) == (1, 0, 0)
            found = options(body[8:])
            assert found[9] == [b"\x09"]
            names.append(found[2][0].decode())
        elif kind == 6:
            number, high, low, size, original = struct.unpack_from("<IIIII", body)
            assert high << 32 | low == TIME and size == original
            found = options(body[20 + (size + 3) // 4 * 4 :])
            direction = {1: "in", 2: "out"}[int.from_bytes(found[2][0], "little")]
            out.append(
                (names[number], direction, body[20 : 20 + size], [c.decode() for c in found.get(1, [])])
            )
    return out


def test_a_vlan_has_each_frame_once_with_its_sender_and_its_losses(tmp_path: Path) -> None:
    loop, hub, (a, b, c), captures = lab(queue_frames=1)
    file = tmp_path / "x.pcapng"
    captures.start(hub, "0", None, str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    a.port.send(frame(1))
    loop.run()
    b.closed = True
    a.port.send(frame(2))
    loop.run()
    a.port.send(frame(3))  # b's queue is full
    loop.run()
    c.port.set_link(False)
    b.open()
    loop.run()
    b.port.send(frame(4))  # c is dark
    loop.run()
    assert captures.rows()[0].frames == 4 and captures.stop("0") == 1 == len(hub.ports) - 2
    assert captures.rows() == [] and hub.traces == []
    a.port.send(frame(5))
    loop.run()
    assert packets(file) == [
        ("p0", "in", frame(1), []),
        ("p0", "in", frame(2), []),
        ("p0", "in", frame(3), ["lost at p1: queue"]),
        ("p1", "in", frame(4), ["lost at p2: link"]),
    ]


def test_a_member_has_both_directions(tmp_path: Path) -> None:
    loop, hub, (a, b, c), captures = lab(queue_frames=1)
    file = tmp_path / "x.pcapng"
    captures.start(hub, "p1", member("p1"), str(file))
    b.port.send(frame(2))
    loop.run()
    a.port.send(frame(1))
    loop.run()
    b.closed = True
    a.port.send(frame(3))
    loop.run()
    a.port.send(frame(4))
    loop.run()
    b.port.set_link(False)
    c.port.send(frame(5))
    b.port.send(frame(6))
    loop.run()
    captures.close()
    captures.close()
    assert packets(file) == [
        ("p1", "in", frame(2), []),
        ("p1", "out", frame(1), []),
        ("p1", "out", frame(4), ["lost at p1: queue"]),
        ("p1", "out", frame(3), ["lost at p1: link"]),
        ("p1", "out", frame(5), ["lost at p1: link"]),
        ("p1", "in", frame(6), ["lost at p1: link"]),
    ]
    (statistics,) = (body for kind, body in blocks(file.read_bytes()) if kind == 5)
    counted = {code: int.from_bytes(values[0], "little") for code, values in options(statistics[12:]).items()}
    assert counted == {4: 6, 5: 4, 7: 0}


@pytest.mark.parametrize("target", ["0", "p1"])
def test_what_a_bad_cable_loses_is_there_with_its_reason(tmp_path: Path, target: str) -> None:
    loop, hub, (a, b, _c), captures = lab()
    file = tmp_path / "x.pcapng"
    captures.start(hub, target, None if target == "0" else member(target), str(file))
    deferred = Deferred(loop)
    faults.impair(b.port, impairments.parse(["loss=100%"]), deferred, lambda: 0)  # type: ignore[arg-type]
    a.port.send(frame(1))
    b.port.send(frame(2))
    loop.run()
    captures.stop(target)
    lost = ["lost at p1: impair-loss"]
    got = packets(file)
    if target == "0":
        assert got == [("p0", "in", frame(1), []), ("p1", "in", frame(2), lost), ("p1", "out", frame(1), lost)] or got == [
            ("p0", "in", frame(1), []), ("p1", "out", frame(1), lost), ("p1", "in", frame(2), lost)
        ]  # fmt: skip
    else:
        assert sorted(got) == sorted(
            [("p1", "in", frame(2), []), ("p1", "in", frame(2), lost), ("p1", "out", frame(1), lost)]
        )


def test_super_frames_are_cut_for_the_file_alone(tmp_path: Path) -> None:
    loop, hub, (a, b), captures = lab(2, features=TUN_F_ALL)
    file = tmp_path / "x.pcapng"
    captures.start(hub, "0", None, str(file))
    assert a.offers[-1] == TUN_F_ALL, "it limits nobody"
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 3040, 1, 0, 64, 6, 0, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
    )
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 0, 0, 0x50, 0x10, 100, 0, 0)
    packet = bytes(12) + b"\x08\x00" + ip + tcp + bytes(3000)
    vnet = struct.pack("<BBHHHH", 1, GSO_TCPV4, 54, 1460, 34, 16)
    a.port.send(packet, vnet)
    loop.run()
    assert b.got == [(packet, vnet)]
    captures.close()
    assert [len(data) for _, _, data, _ in packets(file)] == [1514, 1514, 134]


def test_a_slow_reader_loses_frames_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "OUT_BYTES", 3000)
    loop, hub, (a, b), captures = lab(2)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(CaptureError, match=r"^file=.*: nobody reads this pipe$"):
        captures.start(hub, "0", None, str(fifo))
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        captures.start(hub, "0", None, str(fifo))
        while not captures.rows()[0].lost:
            a.port.send(frame(1, 1500))
            loop.run()
        lost = captures.rows()[0].lost
        data = b""
        while True:
            try:
                data += os.read(reader, 1 << 20)
            except BlockingIOError:
                break
        captures._all[0].sink._writable()
        loop.run()
        a.port.send(frame(2))
        loop.run()
        assert len(b.frames) == captures.rows()[0].frames + lost, "nobody else waited"
        captures.close()
        while more := os.read(reader, 1 << 20):
            data += more
        (tmp_path / "got").write_bytes(data)
        assert packets(tmp_path / "got")[-1][2:] == (
            frame(2),
            [f"{lost} frames before this one were not captured"],
        )
    finally:
        os.close(reader)


def test_a_reader_that_goes_ends_the_capture(tmp_path: Path) -> None:
    loop, hub, (a, b), captures = lab(2)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    captures.start(hub, "0", None, str(fifo))
    loop.run()
    os.close(reader)
    a.port.send(frame(1))
    loop.run()
    assert captures.rows() == [] and hub.traces == [] and b.frames == [frame(1)]


def test_interfaces_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that come and go, a name each, while a capture runs."""
    monkeypatch.setattr(capture, "INTERFACES_MAX", 2)
    loop, hub, ends, captures = lab(5)
    file = tmp_path / "x.pcapng"
    captures.start(hub, "0", None, str(file))
    for _ in range(2):
        for number, end in enumerate(ends):
            end.port.send(frame(number))
            loop.run()
    captures.close()
    names = ["p0", "p1", *3 * ["later members"]] * 2
    assert [row[0] for row in packets(file)] == names
    assert [row[2] for row in packets(file)] == [frame(number) for number in range(5)] * 2
    assert [kind for kind, _ in blocks(file.read_bytes())].count(1) == 3


def test_limits_and_refusals(tmp_path: Path) -> None:
    loop, hub, _ends, captures = lab(2)
    for n in range(capture.CAPTURES_MAX):
        captures.start(hub, "0", None, str(tmp_path / str(n)))
    with pytest.raises(CaptureError, match="16 captures are running"):
        captures.start(hub, "0", None, str(tmp_path / "more"))
    assert captures.stop("0", str(tmp_path / "3")) == 1 and captures.stop("1") == 0
    with pytest.raises(CaptureError, match="another capture writes there"):
        captures.start(hub, "0", None, str(tmp_path / "4"))
    with pytest.raises(CaptureError, match=r"^file=/no/where: No such file or directory$"):
        captures.start(hub, "0", None, "/no/where")
    captures.close()
    loop.run()
    assert captures.rows() == []


@pytest.mark.parametrize(("queue", "want"), [("all", [1, 2]), ("rx", [2]), ("tx", [1])])
def test_filter_dump(tmp_path: Path, queue: str, want: list[int]) -> None:
    """QEMU's words: rx is what is sent to the netdev, tx what comes from it."""
    loop, hub, (a, b), captures = lab(2)
    file = tmp_path / "x.pcap"
    wanted = Filter(origin="-object filter-dump", id="f", netdev="p0", file=str(file), maxlen=50, queue=queue)
    captures.filter(hub, "p0", wanted)
    a.port.send(frame(1))
    loop.run()
    b.port.send(frame(2))
    loop.run()
    captures.close()
    with file.open("rb") as opened:
        reader = dpkt.pcap.Reader(opened)
        assert reader.snaplen == 50 and reader.datalink() == dpkt.pcap.DLT_EN10MB
        assert [data for _, data in reader] == [frame(n)[:50] for n in want]


@pytest.mark.packages
def test_tshark_reads_names_comments_directions_and_statistics(tmp_path: Path) -> None:
    loop, hub, (a, b, _c), captures = lab(queue_frames=1)
    file = tmp_path / "x.pcapng"
    captures.start(hub, "p1", member("p1"), str(file))
    arp = bytes.fromhex("ffffffffffff52540012345608060001080006040001525400123456000000000000000000000000")
    b.port.send(arp)
    loop.run()
    b.closed = True
    for _ in range(2):
        a.port.send(arp)
        loop.run()
    captures.close()
    fields = (
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.comment",
        "frame.time_epoch",
        "arp.opcode",
    )
    words = ["tshark", "-n", "-r", str(file), "-T", "json", *(w for field in fields for w in ("-e", field))]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=BOUND_S, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    layers = [row["_source"]["layers"] for row in json.loads(done.stdout)]
    assert [row["frame.interface_name"] for row in layers] == [["p1"]] * 2
    assert [row.get("frame.comment") for row in layers] == [None, ["lost at p1: queue"]]
    assert {row["arp.opcode"][0] for row in layers} == {"1"}
    assert all(row["frame.time_epoch"][0].startswith("1700000000.123456789") for row in layers) or all(
        "2023" in row["frame.time_epoch"][0] for row in layers
    )
    done = subprocess.run(["capinfos", str(file)], capture_output=True, text=True, timeout=BOUND_S)
    assert "Number of stat entries = 1" in done.stdout and "Name = p1" in done.stdout


def test_it_runs_on_a_real_loop(tmp_path: Path) -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        captures = Captures(loop)
        _, hub, (a, _b) = hub_of(2)
        captures.start(hub, "0", None, str(tmp_path / "x"))
        a.port.send(frame(1))
        await asyncio.sleep(0)
        assert (tmp_path / "x").stat().st_size > 100
        captures.close()

    asyncio.run(scene())
