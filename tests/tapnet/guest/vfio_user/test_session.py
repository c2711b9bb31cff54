"""One vfio-user client, message by message: answers, refusals, descriptors, memory, DMA, interrupts, its end."""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nic_models import models
from tapnet.guest.vfio_user import irq as vfio_irq
from tapnet.guest.vfio_user import session as vfio_session
from tapnet.guest.vfio_user import wire
from tests.tapnet.vfio_kit import Client, FakeCard, Rig, descriptors, irq_set, memfd, version
from tests.waiting import BOUND_S

PAGE = 4096
BASE = 0x10_0000


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(rig: Rig) -> Client:
    return rig.client()


def refused(client: Client, error: int, command: int, body: bytes, fds: list[int] | None = None) -> None:
    with pytest.raises(OSError) as caught:
        client.call(command, body, fds or [])
    assert caught.value.errno == error


def reason(caplog: pytest.LogCaptureFixture) -> str:
    """The one line about the session's end."""
    lines = [r.getMessage() for r in caplog.records if "session ended" in r.getMessage()]
    assert len(lines) == 1
    return lines[0]


# ---- greeting and questions -----------------------------------------------------------------------------------


def test_version(rig: Rig) -> None:
    theirs = version(migration={"pgsize": 4096}, twin_socket=True, max_dma_maps=65535)
    answer = rig.client(greet=False).call(wire.VERSION, theirs)
    assert wire.parse_version(answer) == (
        *(0, 0),
        {"max_msg_fds": 16, "max_data_xfer_size": 1 << 20, "max_dma_maps": 4096, "write_multiple": True},
    )


def test_version_offers_only_what_was_asked(rig: Rig) -> None:
    answer = rig.client(greet=False).call(wire.VERSION, b"\0\0\0\0{}\0")
    assert wire.parse_version(answer) == (0, 0, {})


def test_a_foreign_major_version_is_refused(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    client = rig.client(greet=False)
    refused(client, errno.EINVAL, wire.VERSION, b"\1\0\0\0{}\0")
    assert client.ended()
    assert "version 1 is not known" in reason(caplog)


def test_no_command_before_version(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    client = rig.client(greet=False)
    client.send(client.message(wire.GET_INFO, bytes(16)))
    assert client.ended() and "before VERSION" in reason(caplog)


def test_who_says_nothing_is_let_go(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vfio_session, "GREETING_S", 0.01)
    assert rig.client(greet=False).ended()
    assert "no VERSION" in reason(caplog)


def test_second_version(client: Client) -> None:
    refused(client, errno.EINVAL, wire.VERSION, version())


@pytest.mark.parametrize("command", [0, wire.GET_REGION_IO_FDS, 14, 16, 0xFFFF])
def test_unknown_commands(client: Client, command: int) -> None:
    refused(client, errno.ENOSYS, command, b"")


def test_info(client: Client) -> None:
    assert wire.INFO.unpack(client.call(wire.GET_INFO, wire.INFO.pack(16, 0, 0, 0))) == (16, 3, 9, 5)


@pytest.mark.parametrize(
    ("index", "size", "flags"),
    [(0, 256, 3), (2, 0, 0), (5, 0, 0), (6, 0, 0), (7, 256, 3), (8, 0, 0)],
)
def test_region_info(client: Client, index: int, size: int, flags: int) -> None:
    body = client.call(wire.GET_REGION_INFO, wire.REGION_INFO.pack(32, 0, index, 0, 0, 0))
    assert wire.REGION_INFO.unpack(body) == (32, flags, index, 0, size, 0)


def test_a_memory_region_is_mappable_in_no_place(client: Client) -> None:
    """So that QEMU posts no writes. It asks with room for the fixed part, then with as much as it was told."""
    body = client.call(wire.GET_REGION_INFO, wire.REGION_INFO.pack(32, 0, 1, 0, 0, 0))
    assert wire.REGION_INFO.unpack(body) == (48, 15, 1, 32, 256, 0)
    body = client.call(wire.GET_REGION_INFO, wire.REGION_INFO.pack(48, 0, 1, 0, 0, 0))
    assert wire.REGION_INFO.unpack_from(body) == (48, 15, 1, 32, 256, 0)
    assert body[32:] == bytes.fromhex("0100 0100 00000000 00000000 00000000")


@pytest.mark.parametrize(("index", "flags", "count"), [(0, 7, 1), (1, 0, 0), (2, 0, 0), (3, 9, 1), (4, 0, 0)])
def test_irq_info(client: Client, index: int, flags: int, count: int) -> None:
    body = client.call(wire.GET_IRQ_INFO, wire.IRQ_INFO.pack(16, 0, index, 0))
    assert wire.IRQ_INFO.unpack(body) == (16, flags, index, count)


READ, WRITE = wire.REGION_READ, wire.REGION_WRITE
BAD = (
    (wire.GET_INFO, b""),
    (wire.GET_REGION_INFO, bytes(31)),
    (wire.GET_REGION_INFO, wire.REGION_INFO.pack(32, 0, 9, 0, 0, 0)),
    (wire.GET_IRQ_INFO, bytes(15)),
    (wire.GET_IRQ_INFO, wire.IRQ_INFO.pack(16, 0, 5, 0)),
    (READ, wire.ACCESS.pack(0, 0, 4)[:-1]),
    (READ, wire.ACCESS.pack(0, 0, 4) + b"x"),
    (READ, wire.ACCESS.pack(0, 0, 0)),
    (READ, wire.ACCESS.pack(253, 0, 4)),
    (READ, wire.ACCESS.pack(256, 0, 1)),
    (READ, wire.ACCESS.pack((1 << 64) - 2, 0, 4)),
    (READ, wire.ACCESS.pack(0, 0, 0xFFFFFFFF)),
    (READ, wire.ACCESS.pack(0, 2, 4)),
    (READ, wire.ACCESS.pack(0, 6, 4)),
    (READ, wire.ACCESS.pack(0, 8, 4)),
    (READ, wire.ACCESS.pack(0, 0xFFFFFFFF, 4)),
    (READ, wire.ACCESS.pack(255, 7, 2)),
    (WRITE, wire.ACCESS.pack(0, 0, 4)[:-1]),
    (WRITE, wire.ACCESS.pack(0, 0, 4) + b"abc"),
    (WRITE, wire.ACCESS.pack(0, 0, 4) + b"abcde"),
    (WRITE, wire.ACCESS.pack(0, 0, 0)),
    (WRITE, wire.ACCESS.pack(254, 0, 4) + b"abcd"),
    (WRITE, wire.ACCESS.pack((1 << 64) - 4, 0, 4) + b"abcd"),
    (WRITE, wire.ACCESS.pack(0, 3, 4) + b"abcd"),
    (wire.WRITE_MULTI, b""),
    (wire.WRITE_MULTI, wire.MULTI_COUNT.pack(1)),
    (wire.WRITE_MULTI, wire.MULTI_COUNT.pack(1 << 60)),
    (wire.WRITE_MULTI, wire.MULTI_COUNT.pack(1) + wire.MULTI.pack(0, 0, 9, bytes(8))),
    (wire.WRITE_MULTI, wire.MULTI_COUNT.pack(1) + wire.MULTI.pack(0, 0, 0, bytes(8))),
    (wire.WRITE_MULTI, wire.MULTI_COUNT.pack(1) + wire.MULTI.pack(252, 0, 8, bytes(8))),
    (wire.SET_IRQS, bytes(19)),
    (wire.SET_IRQS, irq_set(0x24, index=1)),
    (wire.SET_IRQS, irq_set(0x24, index=5)),
    (wire.SET_IRQS, irq_set(0x24, start=1)),
    (wire.SET_IRQS, irq_set(0x24, count=2)),
    (wire.SET_IRQS, irq_set(0x20)),
    (wire.SET_IRQS, irq_set(0x27)),
    (wire.SET_IRQS, irq_set(0x04)),
    (wire.SET_IRQS, irq_set(0x34)),
    (wire.SET_IRQS, irq_set(0x64)),
    (wire.SET_IRQS, irq_set(0x0C)),
    (wire.SET_IRQS, irq_set(0x11, index=3)),
    (wire.DMA_MAP, bytes(31)),
    (wire.DMA_MAP, wire.MAP.pack(32, 3, 0, 0, 0)),
    (wire.DMA_MAP, wire.MAP.pack(32, 7, 0, 0, PAGE)),
    (wire.DMA_MAP, wire.MAP.pack(32, 3, 0, (1 << 64) - PAGE, 2 * PAGE)),
    (wire.DMA_MAP, wire.MAP.pack(32, 3, (1 << 63), 0, PAGE)),
    (wire.DMA_UNMAP, bytes(23)),
)


@pytest.mark.parametrize(("command", "body"), BAD)
def test_refusals(rig: Rig, client: Client, command: int, body: bytes) -> None:
    refused(client, errno.EINVAL, command, body)
    assert not [a for a in rig.card.accesses if a[0] == "w"]
    client.call(wire.GET_INFO, bytes(16))  # and goes on


@pytest.mark.parametrize(("command", "body"), BAD)
def test_refusals_are_silent_without_reply(client: Client, command: int, body: bytes) -> None:
    client.send(client.message(command, body, wire.NO_REPLY))
    client.call(wire.GET_INFO, bytes(16))  # the only answer


# ---- regions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "count", "expected"),
    [
        (0, 1, [(0, 1)]),
        (1, 2, [(1, 2)]),
        (3, 2, [(3, 1), (4, 1)]),
        (4, 4, [(4, 4)]),
        (8, 8, [(8, 4), (12, 4)]),
        (1, 7, [(1, 1), (2, 2), (4, 4)]),
        (2, 4, [(2, 2), (4, 2)]),
    ],
)
def test_accesses_of_the_bus(
    rig: Rig, client: Client, offset: int, count: int, expected: list[tuple[int, int]]
) -> None:
    data = bytes(range(1, count + 1))
    client.write(1, offset, data)
    assert client.read(1, offset, count) == data
    assert [a[2:4] for a in rig.card.accesses if a[0] == "w"] == expected
    assert [a[2:4] for a in rig.card.accesses if a[0] == "r"] == expected


def test_a_whole_configuration_space_in_one_message(client: Client) -> None:
    config = client.read(wire.CONFIG_REGION, 0, 256)
    assert config[:4] == bytes.fromhex("34127856") and config[0x3D] == 1


def test_posted_writes_and_the_read_behind_them(rig: Rig, client: Client) -> None:
    burst = b"".join(
        client.message(WRITE, wire.ACCESS.pack(4 * n, 1, 4) + bytes((n,)) * 4, wire.NO_REPLY)
        for n in range(32)
    )
    client.send(burst + client.message(READ, wire.ACCESS.pack(4 * 31, 1, 4)))
    assert client.get()[4][16:] == bytes((31,)) * 4
    assert [a[2] for a in rig.card.accesses if a[0] == "w"] == [4 * n for n in range(32)]


@pytest.mark.parametrize("cut", range(1, 36))
def test_an_access_in_two_pieces(rig: Rig, client: Client, cut: int) -> None:
    whole = client.message(WRITE, wire.ACCESS.pack(0, 0, 4) + b"abcd")
    client.send(whole[:cut])
    for _ in range(3):
        rig.turn()
    assert not rig.card.accesses
    client.send(whole[cut:] + client.message(READ, wire.ACCESS.pack(0, 0, 4)))
    assert client.get()[1] == WRITE
    assert client.get()[4][16:] == b"abcd"


def test_write_multi(rig: Rig, client: Client) -> None:
    entries = [(0, 1, 1, b"a"), (2, 1, 2, b"bc"), (4, 0, 4, b"defg"), (8, 0, 8, b"hijklmno")]
    body = wire.MULTI_COUNT.pack(len(entries)) + b"".join(
        wire.MULTI.pack(offset, region, count, data) for offset, region, count, data in entries
    )
    client.send(client.message(wire.WRITE_MULTI, body, wire.NO_REPLY))
    assert client.read(0, 0, 16) == b"a\0bcdefghijklmno"
    assert client.call(wire.WRITE_MULTI, body) == body[:8]
    assert [(a[1], a[2], a[3]) for a in rig.card.accesses if a[0] == "w"][:5] == [
        *((1, 0, 1), (1, 2, 2), (0, 4, 4)),
        *((0, 8, 4), (0, 12, 4)),
    ]


def test_reset(rig: Rig, client: Client) -> None:
    client.write(wire.CONFIG_REGION, 4, b"\7\0")
    client.write(0, 0, b"\1")
    before = rig.card.resets
    assert client.call(wire.RESET) == b""
    assert rig.card.resets == before + 1
    assert client.read(wire.CONFIG_REGION, 4, 2) == b"\0\0" and client.read(0, 0, 1) == b"\0"


# ---- the guest's memory ---------------------------------------------------------------------------------------


def test_dma_through_sealed_and_unsealed_files(rig: Rig, client: Client) -> None:
    sealed, plain = memfd(2 * PAGE), memfd(2 * PAGE, sealed=False)
    client.master()
    client.map(BASE, PAGE, sealed, PAGE)
    client.map(BASE + PAGE, PAGE, plain, PAGE)
    rig.card.program = [
        ("write", BASE + PAGE - 3, b"abcdef"),  # over the border
        ("read", BASE + PAGE - 3, 6),
        ("write", BASE + 5, b"xyz"),
        ("read", BASE + 5, 3),
    ]
    client.doorbell()
    assert rig.card.read_back == [None, b"abcdef", None, b"xyz"]
    assert os.pread(sealed, 3, 2 * PAGE - 3) == b"abc" and os.pread(plain, 3, PAGE) == b"def"
    assert os.pread(sealed, 3, PAGE + 5) == b"xyz"
    os.close(sealed)
    os.close(plain)


def test_a_file_that_shrinks_under_us(rig: Rig, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """No SIGBUS: what is gone reads all ones."""
    plain = memfd(PAGE, sealed=False)
    client.master()
    client.map(BASE, PAGE, plain)
    os.ftruncate(plain, 10)
    rig.card.program = [("read", BASE, 16), ("read", BASE + 100, 4)]
    client.doorbell()
    assert rig.card.read_back == [bytes(10) + b"\xff" * 6, b"\xff" * 4]
    os.close(plain)
    client.close()
    rig.until(lambda: rig.server.session is None)
    assert "2 DMA accesses failed" in reason(caplog)


def test_a_sealed_file_cannot_shrink(rig: Rig, client: Client) -> None:
    sealed = memfd(PAGE)
    client.map(BASE, PAGE, sealed)
    with pytest.raises(PermissionError):
        os.ftruncate(sealed, 10)
    os.close(sealed)


def test_permissions_holes_and_the_bus_master_bit(rig: Rig, client: Client) -> None:
    fd = memfd(4 * PAGE)
    os.pwrite(fd, b"old!" * 4096, 0)
    client.map(BASE, PAGE, fd, 0, prot=wire.MAP_READ)
    client.map(BASE + 2 * PAGE, PAGE, fd, 2 * PAGE, prot=wire.MAP_WRITE)
    program = [
        ("write", BASE, b"new!"),
        ("read", BASE, 4),
        ("read", BASE + PAGE - 4, 12),  # into a hole
        ("write", BASE + 2 * PAGE - 4, b"hole" + b"here"),
        ("read", 0, 4),
        ("write", (1 << 64) - 2, b"wrap"),
        ("read", (1 << 64) - 4, 4),
    ]
    rig.card.program = program
    client.doorbell()  # no bus master yet
    assert rig.card.read_back == [None, b"\xff" * 4, b"\xff" * 12, None, b"\xff" * 4, None, b"\xff" * 4]
    assert os.pread(fd, 4, 2 * PAGE) == b"old!"
    rig.card.read_back.clear()
    client.master()
    client.doorbell()
    assert rig.card.read_back == [None, b"old!", b"old!" + b"\xff" * 8, None, b"\xff" * 4, None, b"\xff" * 4]
    assert os.pread(fd, 4, 2 * PAGE) == b"here"
    os.close(fd)


def test_map_and_unmap(rig: Rig, client: Client) -> None:
    fd = memfd(4 * PAGE)
    client.map(BASE, 2 * PAGE, fd)
    for start, size in ((BASE, PAGE), (BASE + PAGE, PAGE), (BASE - PAGE, 2 * PAGE), (BASE - PAGE, 9 * PAGE)):
        refused(client, errno.EEXIST, wire.DMA_MAP, wire.MAP.pack(32, 3, 0, start, size), [fd])
    for start, size in ((BASE, PAGE), (BASE + PAGE, PAGE), (0, PAGE)):
        refused(client, errno.ENOENT, wire.DMA_UNMAP, wire.UNMAP.pack(24, 0, start, size))
    refused(client, errno.ENOTSUP, wire.DMA_UNMAP, wire.UNMAP.pack(24, 1, BASE, 2 * PAGE))
    client.unmap(BASE, 2 * PAGE)
    client.map(BASE + PAGE, PAGE, fd)
    client.map(BASE, PAGE)
    client.unmap(0, 0, wire.UNMAP_ALL)
    client.map(BASE, 2 * PAGE, fd)
    os.close(fd)


def test_files_that_cannot_be_memory(client: Client) -> None:
    before = descriptors()
    short, (read_end, write_end) = memfd(PAGE), os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (short, read_end, null):
        refused(client, errno.EINVAL, wire.DMA_MAP, wire.MAP.pack(32, 3, 0, 0, 2 * PAGE), [fd])
    refused(client, errno.EINVAL, wire.DMA_MAP, wire.MAP.pack(32, 3, 0, 0, PAGE), [short, null])
    for fd in (short, read_end, write_end, null):
        os.close(fd)
    assert descriptors() == before


def test_a_file_that_may_only_be_read(client: Client) -> None:
    sealed = memfd(PAGE)
    fd = os.open(f"/proc/self/fd/{sealed}", os.O_RDONLY)
    refused(client, errno.EACCES, wire.DMA_MAP, wire.MAP.pack(32, 3, 0, 0, PAGE), [fd])
    client.map(0, PAGE, fd, prot=wire.MAP_READ)
    os.close(fd)
    os.close(sealed)


def test_regions_are_limited(rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapnet.guest.vfio_user.memory.REGIONS_MAX", 3)
    for number in range(3):
        client.map(number * PAGE, PAGE)
    refused(client, errno.ENOSPC, wire.DMA_MAP, wire.MAP.pack(32, 3, 0, BASE, PAGE))


# ---- DMA by messages ------------------------------------------------------------------------------------------


def test_the_answer_goes_before_the_dma_message(rig: Rig, client: Client) -> None:
    client.master()
    client.map(BASE, PAGE)
    rig.card.program = [("read", BASE + 8, 4), ("write", BASE, b"hello")]
    client.send(client.message(WRITE, wire.ACCESS.pack(FakeCard.DOORBELL, 0, 1) + b"\1"))
    assert client.get()[1] == WRITE
    number, command, flags, _, body = client.get()
    assert (command, flags, body) == (wire.DMA_READ, 0, wire.DMA.pack(BASE + 8, 4))
    assert client.read(1, 0, 4) == bytes(4)  # registers answer meanwhile
    client.send(wire.HEADER.pack(number, wire.DMA_READ, 36, wire.REPLY, 0) + body + b"data")
    number, command, _, _, body = client.get()
    assert (command, body) == (wire.DMA_WRITE, wire.DMA.pack(BASE, 5) + b"hello")
    assert rig.card.read_back == [b"data"]
    client.send(wire.HEADER.pack(number, wire.DMA_WRITE, 32, wire.REPLY, 0) + body[:16])
    rig.until(lambda: rig.card.read_back == [b"data", None])


def test_large_dma_goes_in_pieces_the_client_can_take(rig: Rig) -> None:
    client = rig.client(greet=False)
    client.call(wire.VERSION, version(max_data_xfer_size=1000))
    client.master()
    client.map(BASE, PAGE)
    rig.card.program = [("read", BASE, 2500)]
    client.doorbell()
    for at, size in ((0, 1000), (1000, 1000), (2000, 500)):
        number, _, _, _, body = client.get()
        assert wire.DMA.unpack(body) == (BASE + at, size)
        client.send(
            wire.HEADER.pack(number, wire.DMA_READ, 32 + size, wire.REPLY, 0)
            + body
            + bytes([at // 1000]) * size
        )
    rig.until(lambda: rig.card.read_back)
    assert rig.card.read_back == [bytes(1000) + b"\1" * 1000 + b"\2" * 500]


def test_dma_that_the_client_refuses_reads_all_ones(rig: Rig, client: Client) -> None:
    client.master()
    client.map(BASE, PAGE)
    rig.card.program = [("read", BASE, 4), ("write", BASE, b"abcd")]
    client.doorbell()
    for command in (wire.DMA_READ, wire.DMA_WRITE):
        number, asked, _, _, _ = client.get()
        assert asked == command
        client.send(wire.HEADER.pack(number, command, 16, wire.REPLY | wire.ERROR, errno.EFAULT))
    rig.until(lambda: len(rig.card.read_back) == 2)
    assert rig.card.read_back == [b"\xff" * 4, None]


@pytest.mark.parametrize(
    ("command", "extra"), [(wire.DMA_READ, b"abc"), (wire.DMA_READ, b"abcde"), (wire.DMA_WRITE, b"abcd")]
)
def test_wrong_answers_to_dma_end_the_session(rig: Rig, client: Client, command: int, extra: bytes) -> None:
    client.master()
    client.map(BASE, PAGE)
    rig.card.program = [("read", BASE, 4)]
    client.doorbell()
    number, _, _, _, body = client.get()
    client.send(wire.HEADER.pack(number, command, 32 + len(extra), wire.REPLY, 0) + body + extra)
    assert client.ended()
    rig.client().call(wire.GET_INFO, bytes(16))


def test_reset_in_the_middle_of_dma(rig: Rig, client: Client) -> None:
    """The late answer means nothing; the next engine runs."""
    client.master()
    client.map(BASE, PAGE)
    rig.card.program = [("read", BASE, 4)]
    client.doorbell()
    number, _, _, _, body = client.get()
    client.call(wire.RESET)
    client.send(wire.HEADER.pack(number, wire.DMA_READ, 36, wire.REPLY, 0) + body + b"late")
    client.master()
    rig.card.program = [("read", BASE + 4, 4)]
    client.doorbell()
    second, _, _, _, body = client.get()
    assert second != number and wire.DMA.unpack(body) == (BASE + 4, 4)
    client.send(wire.HEADER.pack(second, wire.DMA_READ, 36, wire.REPLY, 0) + body + b"good")
    rig.until(lambda: rig.card.read_back)
    assert rig.card.read_back == [b"good"]


def test_memory_unmapped_while_a_message_is_out(rig: Rig, client: Client) -> None:
    client.master()
    client.map(BASE, PAGE)
    rig.card.program = [("read", BASE, 4), ("read", BASE, 4)]
    client.doorbell()
    number, _, _, _, body = client.get()
    client.unmap(BASE, PAGE)
    client.send(wire.HEADER.pack(number, wire.DMA_READ, 36, wire.REPLY, 0) + body + b"last")
    rig.until(lambda: len(rig.card.read_back) == 2)
    assert rig.card.read_back == [b"last", b"\xff" * 4]


def test_an_engine_that_never_ends_is_stopped(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapnet.guest.vfio_user.dma.MAX_OPS", 10)
    client.master()
    rig.card.program = [("read", 0, 4)] * 100
    client.doorbell()
    assert len(rig.card.read_back) == 10
    assert rig.server.session is not None and rig.server.session.dma.stopped == 1


# ---- interrupts -----------------------------------------------------------------------------------------------


def fired(fd: int) -> int:
    """How often it was written since the last look."""
    return int.from_bytes(os.read(fd, 8), "little") if select.select([fd], [], [], 0)[0] else 0


@pytest.fixture
def eventfd(client: Client) -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    client.trigger(fd)
    yield fd
    os.close(fd)


def irq(client: Client, level: int) -> None:
    client.write(0, FakeCard.IRQ, bytes((level,)))


def test_a_level_fires_once_and_masks_itself(client: Client, eventfd: int) -> None:
    irq(client, 1)
    irq(client, 1)
    assert fired(eventfd) == 1
    irq(client, 0)
    irq(client, 1)
    assert fired(eventfd) == 0  # masked until UNMASK
    irq(client, 0)
    client.call(wire.SET_IRQS, irq_set(0x11))
    irq(client, 1)
    assert fired(eventfd) == 1


def test_a_level_that_stays_fires_again_after_a_pause(rig: Rig, client: Client, eventfd: int) -> None:
    irq(client, 1)
    assert fired(eventfd) == 1
    began = time.monotonic()
    client.call(wire.SET_IRQS, irq_set(0x11))
    rig.until(lambda: fired(eventfd))
    assert time.monotonic() - began >= vfio_irq.REFIRE_S / 2


def test_a_level_that_falls_in_the_pause_does_not_fire(rig: Rig, client: Client, eventfd: int) -> None:
    irq(client, 1)
    assert fired(eventfd) == 1
    client.call(wire.SET_IRQS, irq_set(0x11))
    irq(client, 0)
    end = time.monotonic() + 20 * vfio_irq.REFIRE_S
    rig.until(lambda: time.monotonic() > end)
    assert fired(eventfd) == 0


def test_mask(rig: Rig, client: Client, eventfd: int) -> None:
    client.call(wire.SET_IRQS, irq_set(0x0A, data=b"\0"))  # false: no mask
    irq(client, 1)
    assert fired(eventfd) == 1
    irq(client, 0)
    client.call(wire.SET_IRQS, irq_set(0x11))
    client.call(wire.SET_IRQS, irq_set(0x09))
    irq(client, 1)
    assert fired(eventfd) == 0
    client.call(wire.SET_IRQS, irq_set(0x12, data=b"\1"))
    rig.until(lambda: fired(eventfd))


def test_intx_disable_of_the_command_register(client: Client, eventfd: int) -> None:
    """QEMU leaves it to the device."""
    client.write(wire.CONFIG_REGION, 4, b"\0\4")
    irq(client, 1)
    assert fired(eventfd) == 0
    client.write(wire.CONFIG_REGION, 4, b"\0\0")
    assert fired(eventfd) == 1


def test_a_trigger_for_a_level_that_is_up(client: Client) -> None:
    irq(client, 1)
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    client.trigger(fd)
    assert fired(fd) == 1
    client.call(wire.SET_IRQS, irq_set(0x21, count=0))  # disable
    client.call(wire.SET_IRQS, irq_set(0x24))  # without a descriptor: none
    irq(client, 0)
    irq(client, 1)
    assert fired(fd) == 0
    os.close(fd)


def test_trigger_by_the_client(client: Client, eventfd: int) -> None:
    client.call(wire.SET_IRQS, irq_set(0x21))
    assert fired(eventfd) == 1
    client.call(wire.SET_IRQS, irq_set(0x22, data=b"\0"))
    assert fired(eventfd) == 0


def test_triggers_that_are_no_eventfds(rig: Rig, client: Client) -> None:
    read_end, write_end = os.pipe()
    for fd in (read_end, write_end):
        client.trigger(fd)
        irq(client, 1)
        irq(client, 0)
    os.close(read_end)
    client.call(wire.SET_IRQS, irq_set(0x11))
    irq(client, 1)
    os.close(write_end)


def test_error_interrupt_is_taken(client: Client) -> None:
    before = descriptors()
    fd = os.eventfd(0)
    client.call(wire.SET_IRQS, irq_set(0x24, index=wire.ERR), [fd])
    assert descriptors() == before + 2
    client.call(wire.SET_IRQS, irq_set(0x21, index=wire.ERR, count=0))
    os.close(fd)
    assert descriptors() == before


# ---- the end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "bad header"),
        (b"\xff" * 64, "bad header"),
        (bytes(16), "bad header"),
        (wire.HEADER.pack(1, 4, wire.MESSAGE_MAX + 1, 0, 0), "bad header"),
    ],
)
def test_garbage_ends_the_session_in_one_line(
    rig: Rig, data: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = rig.client()
    before = rig.card.resets
    client.send(data)
    assert client.ended() and why in reason(caplog)
    assert rig.card.resets == before + 1
    rig.client().call(wire.GET_INFO, bytes(16))


def test_the_end_drops_what_nobody_has_read(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    client = rig.client()
    before = descriptors()
    null = os.open("/dev/null", os.O_RDONLY)
    client.send(b"\xff" * (vfio_session.READ_SIZE + 1000))
    for _ in range(3):
        client.send(client.message(wire.GET_INFO, bytes(16)), [null] * 2)
    assert client.ended() and "bad header" in reason(caplog)
    os.close(null)
    client.close()
    assert descriptors() == before - 2


def test_what_was_asked_before_the_server_stops_is_answered(
    rig: Rig, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    before = descriptors()
    null = os.open("/dev/null", os.O_RDONLY)
    for _ in range(20):
        client.send(client.message(wire.GET_INFO, bytes(16)), [null])
        client.send(client.message(wire.REGION_READ, wire.ACCESS.pack(0, 0, 1)))
    client.send(client.message(wire.SET_IRQS, irq_set(wire.SET_TRIGGER | wire.SET_EVENTFD)))  # it is set up
    client.send(client.message(wire.GET_IRQ_INFO, bytes(16))[:20])
    rig.server.close()
    with pytest.raises(BrokenPipeError):
        client.send(client.message(wire.GET_INFO, bytes(16)))
    for _ in range(20):
        assert client.get()[1] == wire.GET_INFO
        assert client.get()[1] == wire.REGION_READ
    assert client.get()[1] == wire.SET_IRQS
    assert client.ended() and reason(caplog).endswith("tapnet stops")
    os.close(null)
    client.close()
    assert descriptors() == before - 3  # the client's end, ours and the listener


def test_a_server_that_stops_waits_for_its_interrupt_to_be_taken(
    rig: Rig, client: Client, eventfd: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """QEMU's line stays up for ever otherwise."""
    irq(client, 1)
    assert fired(eventfd) == 1
    monkeypatch.setattr(vfio_session, "FINISH_S", 60.0)

    def guest() -> None:
        client.send(client.message(wire.REGION_READ, wire.ACCESS.pack(0, 0, 1)))
        time.sleep(0.1)  # the server may see the one without the other, and must not end between them
        client.send(client.message(wire.SET_IRQS, irq_set(0x11)))

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(guest)
        rig.server.close()
        done.result()
    assert client.get()[1] == wire.REGION_READ
    assert client.get()[1] == wire.SET_IRQS
    assert client.ended() and reason(caplog).endswith("tapnet stops")
    assert fired(eventfd) == 0  # the level is up, but nobody would answer


@pytest.mark.parametrize("asked", [0, 1, 5])
def test_a_server_that_stops_lets_a_client_finish_its_set_up(
    rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asked: int
) -> None:
    """From GET_INFO to the first SET_IRQS: QEMU has a segmentation fault when the device goes in between."""
    monkeypatch.setattr(vfio_session, "FINISH_S", 60.0)
    questions = [(wire.GET_INFO, bytes(16)), (wire.GET_REGION_INFO, wire.REGION_INFO.pack(32, 0, 0, 0, 0, 0))]
    questions += [(wire.REGION_READ, wire.ACCESS.pack(at, wire.CONFIG_REGION, 4)) for at in range(0, 16, 4)]
    for question in questions[: asked + 1]:
        client.call(*question)

    def guest() -> list[int]:
        client.sock.settimeout(BOUND_S)
        answers = []
        for command, body in [
            *questions[asked + 1 :],
            (wire.SET_IRQS, irq_set(wire.SET_TRIGGER | wire.SET_EVENTFD)),
        ]:
            client.send(client.message(command, body))
            answers.append(wire.HEADER.unpack_from(client.sock.recv(4096))[1])
        return answers

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(guest)
        rig.server.close()
        assert done.result() == [command for command, _ in questions[asked + 1 :]] + [wire.SET_IRQS]
    assert client.ended() and reason(caplog).endswith("tapnet stops")


@pytest.mark.parametrize("gone", [False, True])
def test_a_client_that_never_takes_its_interrupt_is_not_waited_for(
    rig: Rig, client: Client, eventfd: int, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    irq(client, 1)
    monkeypatch.setattr(vfio_session, "FINISH_S", 60.0 if gone else 0.01)
    if gone:
        client.close()
    rig.server.close()
    assert rig.server.session is None


def test_too_many_descriptors_end_it(rig: Rig, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    before = descriptors()
    null = os.open("/dev/null", os.O_RDONLY)
    client.send(client.message(wire.GET_INFO, bytes(16)), [null] * 30)
    assert client.ended() and "16 descriptors" in reason(caplog)
    os.close(null)
    client.close()
    assert descriptors() == before - 2


def test_descriptors_nobody_asked_for_are_closed(rig: Rig, client: Client) -> None:
    before = descriptors()
    null = os.open("/dev/null", os.O_RDONLY)
    for command, body in ((wire.GET_INFO, bytes(16)), (wire.RESET, b"")):
        client.call(command, body, [null] * 3)
    client.call(wire.SET_IRQS, irq_set(0x11), [null])
    os.close(null)
    assert descriptors() == before


def test_descriptors_behind_a_broken_message_are_closed(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    client = rig.client(greet=False)
    before = descriptors()
    null = os.open("/dev/null", os.O_RDONLY)
    client.send(
        client.message(wire.GET_INFO, bytes(16)) + client.message(wire.DMA_MAP, bytes(32)), [null] * 2
    )
    assert client.ended()
    os.close(null)
    client.close()
    assert descriptors() == before - 2


def test_a_client_that_goes_leaves_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    before = descriptors()
    for _ in range(20):
        client = rig.client()
        client.master()
        for number in range(5):
            fd = memfd(PAGE, sealed=bool(number & 1))
            client.map(BASE + number * PAGE, PAGE, fd)
            os.close(fd)
        fd = os.eventfd(0)
        client.trigger(fd)
        os.close(fd)
        client.send(client.message(wire.DMA_MAP, bytes(32))[:20])  # half a message
        client.close()
        rig.until(lambda: rig.server.session is None)
    assert descriptors() == before
    assert len([r for r in caplog.records if "session ended" in r.getMessage()]) == 20


def test_a_new_client_finds_a_reset_card(rig: Rig, client: Client) -> None:
    client.write(wire.CONFIG_REGION, 4, b"\7\0")
    client.write(0, 0, b"dirt")
    irq(client, 1)
    client.close()
    again = rig.client()
    assert again.read(wire.CONFIG_REGION, 4, 2) == b"\0\0" and again.read(0, 0, 4) == bytes(4)
    assert not rig.function.intx


def test_the_next_client_waits_for_its_turn(rig: Rig, client: Client) -> None:
    second = rig.client(greet=False, session=False)
    second.send(second.message(wire.VERSION, version()))
    client.call(wire.GET_INFO, bytes(16))
    assert rig.server.sessions == 1
    client.close()
    assert second.get()[1] == wire.VERSION


def test_a_fault_of_ours_ends_only_this_session(
    rig: Rig, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.send(client.message(WRITE, wire.ACCESS.pack(0xFC, 0, 1) + b"x"))
    assert client.ended() and "a fault of ours" in reason(caplog)
    rig.client().call(wire.GET_INFO, bytes(16))


def test_a_client_that_does_not_read(rig: Rig, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """We stop reading from it; when it reads again all answers come."""
    monkeypatch.setattr(vfio_session, "OUT_MAX", 1 << 16)
    rig.server.session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # type: ignore[union-attr]
    ask = client.message(READ, wire.ACCESS.pack(0, wire.CONFIG_REGION, 256))
    sent, stuck = 0, 0
    while stuck < 50:
        try:
            client.sock.send(ask)
            sent += 1
            stuck = 0
        except BlockingIOError:
            stuck += 1
        rig.turn()
        assert sent < 100_000
    for _ in range(sent):
        assert len(client.get()[4]) == 16 + 256


# ---- the wire's side, the clock, the socket -------------------------------------------------------------------


def test_frames_start_dma(rig: Rig, client: Client) -> None:
    fd = memfd(PAGE)
    client.master()
    client.map(BASE, PAGE, fd)
    rig.card.program = [("write", BASE, b"frame")]
    rig.card.dma_pending = True
    assert rig.server.receive(b"x" * 60)
    assert os.pread(fd, 5, 0) == b"frame"
    os.close(fd)


def test_deadlines(rig: Rig, client: Client) -> None:
    rig.card.due = time.monotonic_ns() + 2_000_000
    client.read(0, 0, 1)
    rig.until(lambda: rig.card.runs)
    assert rig.card.runs == 1 and time.monotonic_ns() >= 0


@pytest.mark.parametrize(
    ("model", "rev"), [("ne2k_pci", None), ("rtl8139", None), ("rtl8139", 0x10), ("pcnet", None)]
)
def test_real_cards_are_reset_between_clients(tmp_path: Path, model: str, rev: int | None) -> None:
    """Whatever the first client wrote, the second reads what the first read at first."""
    function = models.pci_function(
        model, b"\x52\x54\0\x12\x34\x56", lambda f, v=b"": True, lambda: None, time.monotonic_ns, rev=rev
    )
    rig = Rig(tmp_path, function)
    seen = []
    for _ in range(2):
        client = rig.client()
        seen.append([client.read(wire.CONFIG_REGION, 0, 256), client.read(0, 0, 16)])
        rig.server.set_link(False)
        rig.server.set_link(True)
        client.write(wire.CONFIG_REGION, 4, b"\7\0")
        client.write(wire.CONFIG_REGION, 0x10, b"\1\xc0\0\0")
        for offset in range(16):
            client.write(0, offset, bytes((0x21 + offset,)))
        client.close()
    rig.close()
    assert seen[0] == seen[1]
    assert re.search(rb"^(\xec\x10|\x22\x10)", seen[0][0])
