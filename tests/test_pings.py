"""What counts as a loss in the words of a ping."""

from __future__ import annotations

import pytest

from tests.pings import lossless

ANSWER = {
    "iputils": "64 bytes from 10.9.0.1: icmp_seq={} ttl=64 time=0.5 ms",
    "busybox": "64 bytes from 10.9.0.1: seq={} ttl=64 time=0.5 ms",
}
FIRST = {"iputils": 1, "busybox": 0}


def said(who: str, numbers: list[int]) -> str:
    """The lines of a ping with answers to these requests, counted from 0."""
    return "\n".join(
        ["PING 10.9.0.1", *(ANSWER[who].format(FIRST[who] + n) for n in numbers), "--- statistics"]
    )


@pytest.mark.parametrize("who", ANSWER)
@pytest.mark.parametrize(
    "numbers",
    [
        [0, 1, 2],
        [0, 2, 1],  # in another order
        [0, 1, 2, 3, 4],  # answers were late, so ping had asked more
    ],
)
def test_all_are_answered(who: str, numbers: list[int]) -> None:
    lossless(said(who, numbers), 3)


@pytest.mark.parametrize("who", ANSWER)
@pytest.mark.parametrize(
    "numbers",
    [
        [],
        [0, 1],  # too few
        [0, 2, 3],  # one is lost, and ping asked one more
        [1, 2, 3],
        [0, 1, 1],
        [0, 1, 2, 2],  # one is there twice
    ],
)
def test_a_loss_or_a_duplicate_fails(who: str, numbers: list[int]) -> None:
    with pytest.raises(AssertionError, match="answers to"):
        lossless(said(who, numbers), 3)
