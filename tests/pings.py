"""What a ping said, iputils' or busybox's, judged without its own patience.

``ping -c N`` gives up two round trips after its last request: a busy machine is slower than that, and nothing was lost.
``ping -c N -w SECONDS`` (``patient``) goes on until N answers are there, and asks more than N times when they are late,
as busybox's always does; what was lost is a gap in their numbers.
"""

from __future__ import annotations

import re

_ANSWER = re.compile(r" (icmp_)?seq=(\d+) ttl=")


def patient(count: int, seconds: int = 60) -> str:
    """Options that ``lossless`` can judge."""
    return f"-c {count} -w {seconds}"


def lossless(said: str, count: int) -> None:
    """At least ``count`` requests were answered, each once, and none before the last of these is missing.

    Raises AssertionError.
    """
    answers = _ANSWER.findall(said)
    seen = [int(number) for _, number in answers]
    first = 1 if answers and answers[0][0] else 0  # iputils counts from 1, busybox from 0
    whole = sorted(seen) == list(range(first, first + len(seen)))
    assert whole and len(seen) >= count, f"answers to {seen[-100:]}:\n{said[-2000:]}"
