"""Limits that bound a wait, and that a busy machine stretches.

A limit such as "a helper starts within 30 s" is meant for a machine that is at rest. Where N tasks want each processor, the
same work takes about N times as long. So a limit is multiplied by ``crowd``, the tasks per processor, at most by
``CROWD_MAX``. ``limit`` looks at the machine once; a ``Patience`` looks again whenever it is asked, and keeps the longest
limit that it has seen.

Not for the timers of a protocol, for rates, or for what a user has set in seconds. State: none in the module. There are no
timers: whoever waits asks ``Patience.left`` at least when the time that it was told has passed.

Ref: proc_loadavg(5), sched_setaffinity(2).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

CROWD_MAX = 12.0  # a limit of ten seconds stays one that somebody waits for
_LOADAVG = "/proc/loadavg"


def crowd(path: str = _LOADAVG) -> float:
    """Tasks that want a processor, for each processor that we may use: 1.0 to ``CROWD_MAX``.

    The load average is slow to rise, and the number of tasks that run at this moment misses those that wait for a disk:
    the greater of both counts.
    """
    try:
        with open(path) as file:
            words = file.read().split()
        wanting = max(float(words[0]), float(words[3].partition("/")[0]))
    except (OSError, ValueError, IndexError):
        return 1.0
    return min(max(wanting / len(os.sched_getaffinity(0)), 1.0), CROWD_MAX)


def limit(seconds: float) -> float:
    """``seconds``, stretched for the machine as it is now."""
    return seconds * crowd()


class Patience:
    """A wait that began when this was made; ``seconds`` is its limit on a machine at rest."""

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        crowded: Callable[[], float] = crowd,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._crowded = crowded
        self._crowd = 1.0
        self._began = clock()

    def left(self) -> float:
        """Seconds that remain, zero or less when there are none."""
        self._crowd = max(self._crowd, self._crowded())
        return self._began + self.limit - self._clock()

    @property
    def limit(self) -> float:
        """Seconds that the whole wait may take, as far as is known."""
        return self._seconds * self._crowd

    def renew(self) -> None:
        """Begin anew: what is waited for has moved."""
        self._began = self._clock()
