"""``tapnet.guest.namespace.progress``: a process that works, one that sleeps, one that is gone."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tapnet.guest.namespace.progress import worked
from tests.waiting import until


def test_work_is_seen_also_in_a_child() -> None:
    with subprocess.Popen(["sh", "-c", "(while :; do :; done) & wait"]) as busy:
        try:
            until(lambda: worked(busy.pid)[1] == 2, "the child")
            before = worked(busy.pid)
            until(lambda: worked(busy.pid)[0] > before[0], "work")
            child = int(Path(f"/proc/{busy.pid}/task/{busy.pid}/children").read_text())
        finally:
            busy.kill()
        subprocess.run(["kill", "-9", str(child)], check=True)
    assert worked(busy.pid) == (0, 0)


def test_sleep_is_no_work() -> None:
    with subprocess.Popen(["sleep", "600"]) as idle:
        try:
            until(lambda: Path(f"/proc/{idle.pid}/stat").read_text().split()[2] == "S", "it sleeps")
            before = worked(idle.pid)
            for _ in range(100):
                assert worked(idle.pid) == before
        finally:
            idle.kill()
