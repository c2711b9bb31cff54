"""sd_notify against a socket of our own."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapnet.system import notify
from tests.waiting import BOUND_S


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(BOUND_S)
        name = str(tmp_path / "notify") if request.param == "path" else f"@tapnet-test-notify-{os.getpid()}"
        listening.bind(name.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listening


def lines(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_what_is_said(manager: socket.socket) -> None:
    assert notify.ready("2 VLANs\nup")
    assert lines(manager) == ["READY=1", f"MAINPID={os.getpid()}", "STATUS=2 VLANs up"]
    assert notify.status("busy")
    assert lines(manager) == ["STATUS=busy"]
    assert notify.watchdog()
    assert lines(manager) == ["WATCHDOG=1"]
    before = time.monotonic_ns() // 1000
    assert notify.reloading()
    word, stamp = lines(manager)
    assert word == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert notify.stopping()
    assert lines(manager) == ["STOPPING=1"]


@pytest.mark.parametrize(
    "value", [None, "", "relative", "/nowhere/at/all", "@tapnet-test-nobody", "/x" * 200]
)
def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", value)
    assert notify.ready() is False


def test_a_manager_that_does_not_read_does_not_block_us(manager: socket.socket) -> None:
    answers = [notify.watchdog() for _ in range(5000)]
    assert answers[0] is True and answers[-1] is False


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", "own", 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("-5", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_watchdog_interval(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, interval: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert notify.watchdog_interval() == interval
