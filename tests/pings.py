"""What iputils' ping said, judged without its own patience.

``ping -c N`` gives up two round trips after its last request: a busy machine is slower than that, and nothing was lost.
``ping -c N -w SECONDS`` (``patient``) goes on until N answers are there; what was lost is a gap in their numbers.
"""

from __future__ import annotations

import re

_ANSWER = re.compile(r"icmp_seq=(\d+) ttl=")


def patient(count: int, seconds: int = 60) -> str:
    """Options that ``lossless`` can judge."""
    return f"-c {count} -w {seconds}"


def lossless(said: str, count: int) -> None:
    """Every request was answered, once, the first ``count`` of them in time. Raises AssertionError."""
    seen = [int(number) for number in _ANSWER.findall(said)]
    assert sorted(seen) == list(range(1, count + 1)), f"answers to {seen}:\n{said[-2000:]}"
