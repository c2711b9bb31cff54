"""The command line that fuzzers share.

    python -m tests.fuzz.fuzz_NAME [--seconds N] [--operations N] [--seed S]

A case is one seed. Cases run until the time is over or so many operations are done, whichever is later; ``--seed``
runs that one case. A finding is an exception, or growth: the process may not need ``GROWTH`` bytes more than it
needed after ``WARM`` of its cases. It is printed with its seed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

WARM = 50  # cases
GROWTH = 64 << 20  # bytes of resident memory

Done = Counter[str]


def resident() -> int:
    """Bytes of memory in use now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def main(
    name: str,
    case: Callable[[int, Done], int | None],
    argv: Sequence[str] | None = None,
    seconds: float = 10,
) -> int:
    """Run ``case(seed, done)``; it may count what it did in ``done``, and gives its number of operations (None: 1).
    The exit status."""
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--operations", type=int, default=0, help="at least so many")
    parser.add_argument("--seed", type=int, default=None, help="run one case only")
    given = parser.parse_args(argv)
    end = time.monotonic() + given.seconds
    first = time.time_ns() >> 10 if given.seed is None else given.seed
    done: Done = Counter()
    cases = operations = warm = 0
    while True:
        seed = first + cases
        try:
            count = case(seed, done)
            cases += 1
            operations += 1 if count is None else count
            if cases == WARM:
                warm = resident()
            elif cases % WARM == 0:
                grown = resident() - warm
                assert grown < GROWTH, f"grown by {grown >> 20} MiB in {cases - WARM} cases"
        except Exception:
            traceback.print_exc()
            print(f"{name}: finding: --seed {seed}", file=sys.stderr)
            return 1
        if given.seed is not None or (time.monotonic() > end and operations >= given.operations):
            break
    kinds = "".join(f", {number} {what}" for what, number in sorted(done.items()))
    print(f"{name}: nothing found in {cases} cases, {operations} operations{kinds} (first seed {first})")
    return 0
