"""Leases on disk: over a restart, by the wall clock, whole or not at all."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from slirp.services.leases import Leases
from tapnet.backends.user.leasefile import LeaseFile

SECOND = 1_000_000_000
MAC = bytes.fromhex("525400123456")
CLIENT = b"\x01" + MAC


def pool() -> Leases:
    return Leases(0x0A00020F, 0x0A0002FE, frozenset(), lambda address, mac: False)


def kept(directory: Path, leases: Leases, *, now: int = 0, wall: float = 1000.0) -> LeaseFile:
    """A file on a loop that never runs: only ``close`` writes."""
    loop = asyncio.new_event_loop()
    try:
        return LeaseFile(str(directory), "user.0", leases, loop, lambda: now, lambda: wall)
    finally:
        loop.close()


def bind(leases: Leases, seconds: int = 600) -> None:
    lease = leases.offer(CLIENT, MAC, None, 0)
    assert lease is not None
    lease.hostname = "web"
    leases.bind(lease, seconds, 0)


def test_over_a_restart_by_the_wall_clock(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    leases = pool()
    file = LeaseFile(str(tmp_path), "user.0", leases, loop, lambda: 0, lambda: 1000.0)
    bind(leases)
    file.close()
    loop.close()
    content = json.loads((tmp_path / "user.0.leases").read_text())
    assert content["leases"][0]["until"] == 1600.0
    later = pool()
    kept(tmp_path, later, now=5 * SECOND, wall=1100.0).close()
    (row,) = later.rows(5 * SECOND)
    assert (row["address"], row["hostname"], row["state"], row["expires"]) == (
        "10.0.2.15",
        "web",
        "bound",
        500.0,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["user.0.leases"]


def test_written_a_moment_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapnet.backends.user.leasefile.DELAY", 0.001)
    path = tmp_path / "user.0.leases"

    async def main() -> None:
        leases = pool()
        file = LeaseFile(str(tmp_path), "user.0", leases, asyncio.get_running_loop(), lambda: 0)
        bind(leases)
        for _ in range(3000):
            if path.exists():
                break
            await asyncio.sleep(0.01)
        assert path.exists()
        file.close()
        file.close()

    asyncio.run(main())


def test_nothing_changed_nothing_written(tmp_path: Path) -> None:
    kept(tmp_path, pool()).close()
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_is_counted(tmp_path: Path) -> None:
    home = tmp_path / "gone"
    home.mkdir()
    loop = asyncio.new_event_loop()
    leases = pool()
    file = LeaseFile(str(home), "user.0", leases, loop, lambda: 0)
    home.rmdir()
    bind(leases)
    file.close()
    loop.close()
    assert file.failed == 1


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 2, "leases": []}', '{"version": 1, "leases": [{}]}']
)
def test_a_file_that_is_not_ours_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "user.0.leases").write_text(content)
    with pytest.raises(
        ValueError, match=f"^state={tmp_path}: {tmp_path}/user.0.leases: not a file of leases$"
    ):
        kept(tmp_path, pool())
