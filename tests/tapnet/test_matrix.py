"""make matrix: what it makes of logs, of time limits and of what it knows already; the trees themselves need an archive."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.matrix import run

root = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("== 1 failed, 22 passed, 3 skipped, 560 deselected in 487.63s (0:08:07) ==\n", (22, 1, 3)),
        ("===== 11 failed, 9 passed, 60 errors in 1.00s =====\n", (9, 71, 0)),
        ("\x1b[32m=== \x1b[1m7 passed\x1b[0m, 2 warnings\x1b[32m in 0.10s\x1b[0m ===\n", (7, 0, 0)),
        ("=== 1 error in 0.10s ===\n", (0, 1, 0)),
        ("=== 5 passed in 1.00s ===\nmore\n=== 2 passed, 1 skipped in 1.00s ===\n", (7, 0, 1)),
        ("nothing of pytest\n=== FAILURES ===\n", (0, 0, 0)),
    ],
)
def test_counts(log: str, expected: tuple[int, int, int]) -> None:
    found = run.counts(log)
    assert (found["passed"], found["failed"], found["skipped"]) == expected


def test_the_table() -> None:
    assert run.table([("a", "step"), ("trixie", "run")]) == (
        "| a      | step |\n|--------|------|\n| trixie | run  |"
    )


def test_it_runs_before_there_is_an_environment() -> None:
    """Nothing but the standard library is imported."""
    words = [sys.executable, "-I", "-S", str(run.ROOT / "tests/matrix/run.py"), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--again" in done.stdout, done.stderr


def running(word: bytes) -> list[Path]:
    """Processes with ``word`` in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(process)
    return found


@root
def test_over_time_all_of_it_is_killed(tmp_path: Path) -> None:
    """What left its session too; mounts go with it."""
    script = f"mount -t tmpfs tmpfs {tmp_path}; setsid sleep 987654 & wait"
    log = tmp_path.parent / "log"
    assert run.bounded(["sh", "-c", script], log, 0.5) == 124
    assert log.read_text().endswith("matrix: killed after 0 s\n")
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    end = time.monotonic() + 60
    while running(b"987654"):
        assert time.monotonic() < end
        time.sleep(0.05)


@root
def test_a_status_is_passed_on(tmp_path: Path) -> None:
    assert run.bounded(["sh", "-c", "echo out; echo err >&2; exit 7"], tmp_path / "log", 60) == 7
    assert (tmp_path / "log").read_text() == "out\nerr\n"


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A matrix whose steps only say their names."""
    said: list[str] = []

    def bounded(words: list[str], log: Path, seconds: float) -> int:
        log.write_text("=== 3 passed in 1.00s ===\n")
        said.append(words[-1])
        return 1 if words[-1] == "make lint types arch" else 0

    monkeypatch.setattr(run, "CACHE", tmp_path)
    monkeypatch.setattr(run, "bounded", bounded)
    monkeypatch.setattr(run, "output", lambda *words: "c0ffee")
    monkeypatch.setattr(run.Suite, "make_tree", lambda self: self.folder.mkdir(exist_ok=True))
    monkeypatch.setattr(run.Suite, "words", lambda self, script: ["true", script])
    monkeypatch.setattr(run.os, "geteuid", lambda: 0)
    monkeypatch.setattr(run.shutil, "which", lambda name: name)
    return said


def test_what_passed_is_not_run_again(suite: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        words = ["trixie", "--steps", "test,lint"]
        assert run.main(words) == 1
        assert suite == ["make test", "make lint types arch"]
        assert run.main(words) == 1
        assert suite[2:] == ["make lint types arch"], "what failed is tried again"
        run.main([*words, "--again"])
        assert suite[3:] == ["make test", "make lint types arch"]
        table = capsys.readouterr().out.split("Commit ")[-1]
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
        assert ["trixie", "test", "0:00", "3", "0", "0", "passed", ""] in cells
        assert [row[6] for row in cells[2:]] == [
            "not run",
            "not run",
            "passed",
            "FAILED",
            "not run",
            "not run",
        ]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_part_of_the_tests_is_no_pass(suite: list[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        for _ in range(2):
            assert run.main(["trixie", "--steps", "test", "--pytest", "tests/it's"]) == 1
        assert suite == ["export PYTEST_ADDOPTS='tests/it'\\''s'; make test"] * 2
    finally:
        signal.signal(signal.SIGTERM, before)
