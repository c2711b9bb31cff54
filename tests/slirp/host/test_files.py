"""A real directory: what may be reached, and what may not, with openat2 and without."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slirp.host import files as hostfiles
from slirp.host.files import HostDirectory
from tests.waiting import BOUND_S


class Events:
    """Records what a file told."""

    def __init__(self) -> None:
        self.log: list[tuple[str, object]] = []

    def file_opened(self, size: int, now: int) -> None:
        self.log.append(("opened", size))

    def file_read(self, data: bytes, now: int) -> None:
        self.log.append(("read", data))

    def file_written(self, now: int) -> None:
        self.log.append(("written", None))

    def file_failed(self, error: int, now: int) -> None:
        self.log.append(("failed", error))


class Bench:
    """A directory whose events wait for ``next``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.waiting: queue.Queue[Callable[[], None]] = queue.Queue()
        self.directory = HostDirectory(str(root), lambda: 7, self.waiting.put)
        self.events = Events()

    def next(self) -> tuple[str, object]:
        """The next event."""
        self.waiting.get(timeout=BOUND_S)()
        return self.events.log.pop(0)

    def get(self, *parts: bytes) -> tuple[str, object]:
        """What reading a whole file says."""
        file = self.directory.open(parts, self.events)
        found = self.next()
        if found[0] == "opened":
            file.read(0, 1 << 20)
            found = self.next()
        file.close()
        return found


@pytest.fixture(params=["openat2", "part by part"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "f").write_bytes(b"content")
    (root / "sub" / "g").write_bytes(b"below")
    (tmp_path / "secret").write_bytes(b"secret")
    found = Bench(root)
    found.directory.beneath = request.param == "openat2"
    yield found
    found.directory.close()


def test_files_of_the_directory(bench: Bench) -> None:
    assert bench.get(b"f") == ("read", b"content")
    assert bench.get(b"sub", b"g") == ("read", b"below")
    assert bench.get(b"nope") == ("failed", errno.ENOENT)
    assert bench.get(b"f", b"g") == ("failed", errno.ENOTDIR)
    assert bench.get(b"sub") == ("failed", errno.EISDIR)


def test_nothing_outside_by_links(bench: Bench) -> None:
    outside = (errno.EXDEV, errno.ELOOP, errno.ENOTDIR)
    (bench.root / "abs").symlink_to("/etc/passwd")
    (bench.root / "rel").symlink_to("../secret")
    (bench.root / "up").symlink_to("..")
    (bench.root / "sub" / "deep").symlink_to("../../secret")
    (bench.root / "magic").symlink_to("/proc/self/root")
    names = ((b"abs",), (b"rel",), (b"up", b"secret"), (b"sub", b"deep"), (b"magic", b"etc", b"passwd"))
    for name in names:
        kind, error = bench.get(*name)
        assert kind == "failed" and error in outside, name


def test_nothing_outside_by_names_that_should_not_have_come(bench: Bench) -> None:
    if bench.directory.beneath:
        assert bench.get(b"..", b"secret") == ("failed", errno.EXDEV)
        assert bench.get(b"sub", b"..", b"..", b"secret") == ("failed", errno.EXDEV)


def test_a_link_that_stays_inside(bench: Bench) -> None:
    (bench.root / "sub" / "in").symlink_to("../f")
    found = bench.get(b"sub", b"in")
    assert found == (("read", b"content") if bench.directory.beneath else ("failed", errno.ELOOP))


def test_a_race_between_directory_and_link_gives_nothing_away(bench: Bench) -> None:
    """Somebody swaps a directory for a link to the outside, as fast as he can."""
    (bench.root / "swap").mkdir()
    (bench.root / "swap" / "secret").write_bytes(b"public")
    (bench.root / "link").symlink_to("..")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(bench.root / "swap", bench.root / "aside")
            os.rename(bench.root / "link", bench.root / "swap")
            os.rename(bench.root / "swap", bench.root / "link")
            os.rename(bench.root / "aside", bench.root / "swap")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        found = {bench.get(b"swap", b"secret") for _ in range(500)}
    finally:
        stop.set()
        thread.join(BOUND_S)
    assert ("read", b"secret") not in found
    assert {what for what, _ in found} <= {"read", "failed"}


def test_what_is_no_file_holds_nobody_up(bench: Bench) -> None:
    os.mkfifo(bench.root / "fifo")
    assert bench.get(b"fifo") == ("failed", errno.EACCES)


def test_a_new_file_is_seen_when_it_is_whole(bench: Bench) -> None:
    file = bench.directory.create([b"sub", b"new"], 100, bench.events)
    assert bench.next() == ("opened", 0)
    for piece in (b"abc", b"def"):
        file.write(piece)
        assert bench.next() == ("written", None)
    assert not (bench.root / "sub" / "new").exists()
    file.commit()
    assert bench.next() == ("written", None)
    file.close()
    assert (bench.root / "sub" / "new").read_bytes() == b"abcdef"
    bench.directory.close()
    assert sorted(os.listdir(bench.root / "sub")) == ["g", "new"]


def test_a_new_file_replaces_a_link_and_does_not_follow_it(bench: Bench) -> None:
    (bench.root / "out").symlink_to("../secret")
    file = bench.directory.create([b"out"], 0, bench.events)
    bench.next()
    file.write(b"x")
    bench.next()
    file.commit()
    bench.next()
    file.close()
    assert (bench.root.parent / "secret").read_bytes() == b"secret"
    assert (bench.root / "out").read_bytes() == b"x" and not (bench.root / "out").is_symlink()


def test_a_new_file_that_is_given_up_leaves_nothing(bench: Bench) -> None:
    file = bench.directory.create([b"new"], 0, bench.events)
    bench.next()
    file.write(b"x")
    file.close()  # while the worker writes
    other = bench.directory.create([b"other"], 0, bench.events)
    bench.directory.close()
    assert sorted(os.listdir(bench.root)) == ["f", "sub"]
    other.close()


@pytest.mark.parametrize(
    ("parts", "size", "error"),
    [((b"sub",), 0, errno.EEXIST), ((b"no", b"new"), 0, errno.ENOENT), ((b"new",), 1 << 62, errno.ENOSPC)],
)
def test_new_files_that_cannot_be(bench: Bench, parts: tuple[bytes, ...], size: int, error: int) -> None:
    bench.directory.create(parts, size, bench.events)
    assert bench.next() == ("failed", error)


def test_no_event_after_close_and_no_descriptor_left(bench: Bench) -> None:
    before = len(os.listdir("/proc/self/fd"))
    file = bench.directory.open([b"f"], bench.events)
    file.close()
    file.close()
    bench.waiting.get(timeout=BOUND_S)()
    assert bench.events.log == []
    bench.directory.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    for path, error in ((tmp_path / "no", errno.ENOENT), (tmp_path / "f", errno.ENOTDIR)):
        with pytest.raises(OSError) as found:
            HostDirectory(str(path), lambda: 0, lambda call: None)
        assert found.value.errno == error


def test_names_are_the_path_as_given_and_without_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    directory = HostDirectory(str(tmp_path / "link"), lambda: 0, lambda call: None)
    assert directory.names == (os.fsencode(tmp_path / "link"), os.fsencode(tmp_path.resolve() / "real"))
    directory.close()


def test_names_in_other_letters(bench: Bench) -> None:
    """The very name first; then the first that is alike; never out of the directory."""
    root = bench.root
    (root / "Boot").mkdir()
    (root / "Boot" / "BCD").write_bytes(b"store")
    (root / "F").write_bytes(b"capital")
    assert bench.get(b"boot", b"bcd") == ("failed", errno.ENOENT)
    bench.directory.nocase = True
    assert bench.get(b"boot", b"bcd") == bench.get(b"BOOT", b"Bcd") == ("read", b"store")
    assert bench.get(b"f") == ("read", b"content")
    assert bench.get(b"F") == ("read", b"capital")
    assert bench.get(b"boot", b"none") == ("failed", errno.ENOENT)
    assert bench.get(b"Boot", b"bcd", b"x")[0] == "failed"
    file = bench.directory.create((b"BOOT", b"New"), 0, bench.events)
    assert bench.next() == ("opened", 0)
    file.commit()
    bench.next()
    file.close()
    assert (root / "Boot" / "New").exists()


def test_names_that_are_compared_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostfiles, "NAMES", 0)
    bench.directory.nocase = True
    assert bench.get(b"SUB", b"G") == ("failed", errno.ENOENT)
