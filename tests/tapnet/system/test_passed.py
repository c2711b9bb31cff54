"""Sockets that somebody else opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapnet.system import passed


@pytest.fixture(autouse=True)
def pool() -> Iterator[None]:
    assert passed.close_rest() == []
    yield
    passed.close_rest()


def listening(family: int, where: object) -> int:
    """A descriptor that we forget."""
    sock = socket.socket(family)
    sock.bind(where)
    sock.listen()
    return sock.detach()


def give(*fds: tuple[int, str], pid: int | None = None) -> dict[str, list[int]]:
    """Pass descriptors in a row, as systemd does."""
    first = 200
    for number, (fd, _) in enumerate(fds):
        os.dup2(fd, first + number)
        os.close(fd)
    environ = {
        "LISTEN_FDS": str(len(fds)),
        "LISTEN_PID": str(os.getpid() if pid is None else pid),
        "LISTEN_FDNAMES": ":".join(name for _, name in fds),
    }
    found = passed.inherit(environ, first)
    assert environ == {}, "children do not see it"
    return found


def test_by_address_and_by_name(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    pair = socket.socketpair()
    found = give(
        (listening(socket.AF_INET, ("127.0.0.1", 0)), "tapnet@lab.socket"),
        (listening(socket.AF_UNIX, path), ""),
        (pair[0].detach(), "other"),
        (listening(socket.AF_UNIX, "\0tapnet-test-passed"), "wire"),
    )
    pair[1].close()
    assert list(found) == ["other"]
    os.close(found["other"][0])
    unix = passed.take(path)
    assert unix is not None and not unix.ours and unix.file() is None
    assert passed.managers(unix.socket) and not unix.socket.get_inheritable()
    assert passed.take(path) is None, "once"
    by_name = passed.take(("127.0.0.1", 1), "wire")
    assert by_name is not None and by_name.address == "\0tapnet-test-passed"
    (left,) = passed.close_rest()
    assert left.startswith("127.0.0.1:")
    for one in (unix, by_name):
        one.socket.close()


def test_dual_stack_stands_for_any_address() -> None:
    fd = listening(socket.AF_INET6, ("::", 0))
    with socket.socket(fileno=os.dup(fd)) as listener:
        port = listener.getsockname()[1]
    give((fd, ""))
    assert passed.take(("127.0.0.1", port)) is None
    assert passed.take(("0.0.0.0", port + 1)) is None
    found = passed.take(("0.0.0.0", port))
    assert found is not None
    found.socket.close()


def test_our_own_file_is_ours_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    give((listening(socket.AF_UNIX, str(path)), passed.LISTENER))
    found = passed.take(str(path))
    assert found is not None and found.ours and not passed.managers(found.socket)
    file = found.file()
    assert file is not None
    file.remove()
    assert not path.exists()
    found.socket.close()
    give((listening(socket.AF_UNIX, str(path)), passed.LISTENER))
    assert passed.close_rest() == [] and not path.exists()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "-1", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "99999999", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_what_is_not_for_us(environ: dict[str, str]) -> None:
    assert passed.inherit(environ) == {} and environ == {}


def test_files_that_the_manager_takes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/tapnet/lab:/run/other")
    assert passed.keeps(Path("/run/tapnet/lab/x")) and passed.keeps(Path("/run/other/y/x"))
    assert not passed.keeps(Path("/run/tapnet/labor")) and not passed.keeps(Path("/tmp/x"))
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    assert not passed.keeps(Path("/tmp/x"))
