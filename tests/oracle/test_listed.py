"""The rule by which differences from QEMU are judged, and what both wires do to short frames."""

from __future__ import annotations

import subprocess

import pytest

from tests.oracle.listed import CHECKED, judge, version, version_of
from tests.oracle.qtest import MAC, OurBus, QemuBus

NEWER = (CHECKED[0], CHECKED[1] + 1)
OLDER = (CHECKED[0] - 1, 99)


@pytest.mark.parametrize("qemu", [OLDER, CHECKED, NEWER])
def test_differences_that_are_listed_pass(qemu):
    judge({"a": (1, 2), "b": (3, 4)}, {"a", "b"}, qemu)
    judge({}, set(), qemu)


@pytest.mark.parametrize("qemu", [OLDER, CHECKED, NEWER])
def test_a_difference_that_is_not_listed_fails_and_is_shown(qemu):
    with pytest.raises(AssertionError, match=r"'b': \(3, 4\)"):
        judge({"a": (1, 2), "b": (3, 4)}, {"a"}, qemu)


@pytest.mark.parametrize("qemu", [OLDER, CHECKED])
def test_a_difference_that_is_gone_fails_where_the_lists_were_checked(qemu):
    with pytest.raises(AssertionError, match=r"take off the list: \['b'\]"):
        judge({"a": (1, 2)}, {"a", "b"}, qemu)


def test_a_newer_qemu_may_do_as_we_do():
    judge({"a": (1, 2)}, {"a", "b"}, NEWER)
    judge({}, {"a", "b"}, (CHECKED[0] + 1, 0))


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", (7, 2)),
        ("QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", (10, 0)),
        ("QEMU emulator version 11.1.3", (11, 1)),
        ("QEMU emulator version 11.2.50 (v11.1.0-1234-gabcdef)", (11, 2)),
    ],
)
def test_the_version_is_read(said, numbers):
    assert version_of(said) == numbers


def test_this_machines_version_is_known():
    said = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True)
    assert f"version {'.'.join(map(str, version()))}." in said.stdout


@pytest.mark.parametrize("size", [14, 42, 59, 60, 61])
def test_no_frame_reaches_qemus_card_below_the_least_length(tmp_path, size):
    """QEMU 7.2 pads what a netdev brings, 10 does not; a wire has no shorter frame, so the bench pads."""
    frame = MAC + bytes(range(size - 6))
    seen = []
    for cls in (QemuBus, OurBus):
        bus = cls("ne2k_isa", tmp_path)
        try:
            seen.append(first_packet(bus, frame))
        finally:
            bus.close()
    assert seen == [(max(size, 60) + 4, frame.ljust(60, b"\0"))] * 2


def first_packet(bus, frame):
    """Start the NE2000, take one frame; the length that its header says, and the frame."""
    base = 0x300
    bus.inb(base + 0x1F)
    for offset, value in ((0, 0x21), (0x0E, 0x49), (0x0C, 0x14), (0x0D, 2), (1, 0x46), (2, 0x80), (3, 0x46)):
        bus.outb(base + offset, value)
    bus.outb(base, 0x61)
    bus.outb(base + 7, 0x47)
    for offset, value in ((0, 0x22), (0x0D, 0), (7, 0xFF)):
        bus.outb(base + offset, value)
    bus.send(frame)
    bus.wait(lambda: bus.inb(base + 7) & 1)
    words = (max(len(frame), 60) + 5) // 2
    for offset, value in ((8, 0), (9, 0x47), (10, 2 * words & 0xFF), (11, 2 * words >> 8), (0, 0x0A)):
        bus.outb(base + offset, value)
    data = b"".join(bus.inw(base + 0x10).to_bytes(2, "little") for _ in range(words))
    return int.from_bytes(data[2:4], "little"), data[4 : 4 + max(len(frame), 60)]
