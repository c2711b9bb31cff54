"""Lines with fields, against a journal socket of our own."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapnet.system import journal
from tests.waiting import BOUND_S


def fields(data: bytes) -> dict[str, str]:
    """A reader of the protocol."""
    found = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            data = rest
        else:
            size = struct.unpack_from("<Q", rest)[0]
            value, data = rest[8 : 8 + size], rest[8 + size + 1 :]
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "socket"))
        one.settimeout(BOUND_S)
        yield one


def handler(tmp_path: Path) -> journal.JournalHandler:
    return journal.JournalHandler("lab", {"socket.0": 3}.get, str(tmp_path / "socket"))


def test_a_line_and_its_fields(listening: socket.socket, tmp_path: Path) -> None:
    one = handler(tmp_path)
    log = logging.Logger("tapnet.wires")
    log.addHandler(one)
    log.warning("tapnet: %s is\nin two lines", "this", extra={"port": "socket.0"})
    assert fields(listening.recv(9999)) == {
        "MESSAGE": "this is\nin two lines",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "tapnet",
        "TAPNET_INSTANCE": "lab",
        "TAPNET_LOGGER": "tapnet.wires",
        "TAPNET_PORT": "socket.0",
        "TAPNET_VLAN": "3",
    }
    log.error("no port")
    seen = fields(listening.recv(9999))
    assert seen["PRIORITY"] == "3" and "TAPNET_VLAN" not in seen
    log.info("elsewhere", extra={"port": "wire"})
    seen = fields(listening.recv(9999))
    assert (seen["PRIORITY"], seen["TAPNET_PORT"]) == ("6", "wire") and "TAPNET_VLAN" not in seen
    one.close()


def test_a_journal_that_is_away_costs_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one = handler(tmp_path)
    one.emit(logging.makeLogRecord({"msg": "hello", "levelno": logging.WARNING, "name": "tapnet"}))
    assert capfd.readouterr().err == "hello\n"
    one.close()


@pytest.mark.parametrize("value", [None, "", "1", "1:2", "a:b"])
def test_standard_error_that_is_no_journal(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if value is not None:
        monkeypatch.setenv("JOURNAL_STREAM", value)
    assert not journal.is_stderr()
    assert journal.prefix(logging.ERROR) == ""


def test_plain_lines_tell_their_priority(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{seen.st_dev}:{seen.st_ino}")
    assert journal.is_stderr()
    journal.say("hello", logging.ERROR)
    assert capfd.readouterr().err == "<3>tapnet: hello\n"


def test_the_block_puts_things_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{seen.st_dev}:{seen.st_ino}")
    before = (list(journal.log.handlers), journal.log.level, journal.log.propagate)
    with journal.opened("lab", lambda _: None):
        assert isinstance(journal.log.handlers[-1], journal.JournalHandler)
    assert (journal.log.handlers, journal.log.level, journal.log.propagate) == before
