"""Whether a process that is waited for gets on: what it and its children have used of the processors.

The number says nothing by itself; it grows while there is work, also on a machine on which that takes long. A process that
is stuck (in the kernel, on a lock, on a message that nobody sends) leaves it as it is.

Ref: proc_pid_schedstat(5) as in Documentation/scheduler/sched-stats.rst; proc_pid_stat(5); proc_tid_children(5).
"""

from __future__ import annotations

from pathlib import Path

_DEPTH = 4  # helper, PID 1, COMMAND, and one to spare


def worked(pid: int, depth: int = _DEPTH) -> tuple[int, int]:
    """Processor time of ``pid`` and its descendants, and how many processes they are; (0, 0) when it has ended."""
    place = Path(f"/proc/{pid}")
    used = _used(place)
    if used is None:
        return 0, 0
    count = 1
    if depth > 1:
        for child in _children(place, pid):
            more, processes = worked(child, depth - 1)
            used += more
            count += processes
    return used, count


def _used(place: Path) -> int | None:
    try:
        return int((place / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        pass
    try:  # without CONFIG_SCHED_INFO: in ticks, which is coarse
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return None


def _children(place: Path, pid: int) -> list[int]:
    try:
        return [int(word) for word in (place / f"task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []
