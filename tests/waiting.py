"""How long tests wait: bounds against hanging, shared by all of them, and no measure of anything.

``BOUND_S``   for one step: a program's end, an answer on a socket, a thread. Generous: at a load of 20 everything takes ten
              times as long on two processors. It is well below pytest's own ``timeout``, so that the step speaks first
``until``     polls a condition; its bound grows with the machine's load while it waits (``tapnet.system.patience``)

A test that measures something compares with a figure of its own, and says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from tapnet.system.patience import Patience, crowd

BOUND_S = 240.0
CONDITION_S = 60.0  # on a machine at rest
CROWD_MAX = 8.0
T = TypeVar("T")


def _patience(seconds: float) -> Patience:
    return Patience(seconds, crowded=lambda: min(crowd(), CROWD_MAX))


def until(
    condition: Callable[[], T],
    what: str,
    seconds: float = CONDITION_S,
    *,
    pause: float = 0.01,
    failure: type[AssertionError] = AssertionError,
) -> T:
    """Poll ``condition`` until it is true; its value. Raises ``failure``, which names ``what``."""
    patience = _patience(seconds)
    while not (value := condition()):
        if patience.left() <= 0:
            raise failure(f"timed out after {patience.limit:.0f} s: {what}")
        time.sleep(pause)
    return value


async def until_async(
    condition: Callable[[], T], what: str, seconds: float = CONDITION_S, *, pause: float = 0.005
) -> T:
    """``until`` on a running loop, which goes on meanwhile."""
    patience = _patience(seconds)
    while not (value := condition()):
        if patience.left() <= 0:
            raise AssertionError(f"timed out after {patience.limit:.0f} s: {what}")
        await asyncio.sleep(pause)
    return value
