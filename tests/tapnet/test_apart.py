"""tests/apart.py: what runs in a process of its own does not fork pytest's."""

from __future__ import annotations

import os
import threading

import pytest

from tests import apart


@pytest.fixture
def threaded(monkeypatch: pytest.MonkeyPatch):
    """This process has a second thread, and may not fork."""

    def fork() -> int:
        raise AssertionError("a fork of a process with threads")

    monkeypatch.setattr(os, "fork", fork)
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    yield
    over.set()
    thread.join()


def test_an_answer_comes_from_another_process(threaded: None) -> None:
    assert apart.call(os.getppid) not in (os.getpid(), os.getppid())
    assert apart.call(len, "abc") == 3


def test_what_it_raises_is_told(threaded: None) -> None:
    with pytest.raises(AssertionError, match=r"int: ValueError.*'x'"):
        apart.call(int, "x")


def test_a_terminal_is_the_programs_own(threaded: None) -> None:
    process, fd = apart.terminal(
        ["sh", "-c", "test -t 0 && exec </dev/tty && read x && exit $x"], {"PATH": os.environ["PATH"]}
    )
    os.write(fd, b"7\n")
    assert process.wait(60) == 7
    os.close(fd)
