"""``tapnet.system.patience``: limits grow with the machine's load, not without end, and not when it is at rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tapnet.system.patience import CROWD_MAX, Patience, crowd

CPUS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.10 0.20 0.30 1/300 4711", 1.0),
        (f"{8.0 * CPUS} 0.20 0.30 1/300 4711", 8.0),  # busy for a minute
        (f"0.10 0.20 0.30 {5 * CPUS}/300 4711", 5.0),  # busy since a moment
        ("100000.0 1 1 1/300 4711", CROWD_MAX),
        ("", 1.0),
        ("a b c d", 1.0),
    ],
)
def test_crowd(tmp_path: Path, text: str, wanted: float) -> None:
    (tmp_path / "loadavg").write_text(text)
    assert crowd(str(tmp_path / "loadavg")) == pytest.approx(wanted)


def test_without_proc_nothing_is_stretched(tmp_path: Path) -> None:
    assert crowd(str(tmp_path / "none")) == 1.0


def test_the_longest_limit_that_was_seen_holds() -> None:
    now, load = 100.0, 1.0
    patience = Patience(10, lambda: now, lambda: load)
    assert patience.left() == 10
    now = 109.0
    assert patience.left() == 1
    load = 4.0  # the machine gets busy
    now = 111.0
    assert (patience.left(), patience.limit) == (29, 40)
    load = 1.0  # and is at rest again: the work has lost that time all the same
    now = 141.0
    assert patience.left() == -1
    patience.renew()
    assert patience.left() == 40
