"""``tapnet.system.signals``: dispositions that this process was started with."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.waiting import BOUND_S

TELL = """
import signal
from tapnet.system import signals
print(*(one.name for one in signals.heeded((signal.SIGHUP, signal.SIGINT, signal.SIGTERM))))
signals.begin()
print(signals.ignored(signal.SIGCHLD))
"""


@pytest.mark.parametrize(
    ("ignored", "heeded"),
    [
        ((), "SIGHUP SIGINT SIGTERM"),
        ((signal.SIGHUP,), "SIGINT SIGTERM"),
        ((signal.SIGINT, signal.SIGQUIT), "SIGHUP SIGTERM"),
        ((signal.SIGCHLD,), "SIGHUP SIGINT SIGTERM"),
    ],
)
def test_what_the_caller_ignores_is_not_heeded(ignored: tuple[int, ...], heeded: str) -> None:
    def before() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    done = subprocess.run(
        [sys.executable, "-c", TELL], preexec_fn=before, capture_output=True, text=True, timeout=BOUND_S
    )
    assert done.stdout == f"{heeded}\nFalse\n", done.stderr
