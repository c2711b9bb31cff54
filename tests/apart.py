"""Processes for tests without a fork of pytest's own, which may have threads (Python 3.12 and later warn of that)."""

from __future__ import annotations

import multiprocessing
import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.waiting import BOUND_S

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.apart", "tapnet.cli", "tapnet.doctor", "tapnet.lan.commands"])


def _answer(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send((function(*arguments), None))
    except BaseException as error:
        pipe.send((None, repr(error)))


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` returns in a process of its own, forked by a server that has no threads.

    The server finds the function by its module and name; arguments and answer can be pickled.
    """
    ours, theirs = _context.Pipe(duplex=False)
    process = _context.Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        assert ours.poll(BOUND_S), f"{function.__name__} did not answer within {BOUND_S:.0f} s"
        answer, error = ours.recv()
    except BaseException:
        process.kill()
        raise
    finally:
        ours.close()
        process.join()
        process.close()
    assert error is None, f"{function.__name__}: {error}"
    return answer


def _enter(name: str) -> None:
    from tapnet.system import syscalls

    syscalls.setns(os.open(f"/run/netns/{name}", os.O_RDONLY), syscalls.CLONE_NEWNET)


def check(name: str, which: str) -> tuple[bool, str, str]:
    """A check of tapnet.doctor.lan in the network namespace ``name``: ok, text, what mends it."""
    from tapnet.doctor import lan as checks

    _enter(name)
    found = getattr(checks, which)()
    return found.ok, found.text, found.mend


def tapnet(name: str, words: Sequence[str]) -> tuple[int, str, str]:
    """``tapnet WORDS`` in the network namespace ``name``: status, standard output, standard error."""
    from tapnet import cli

    _enter(name)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, file in ((1, out), (2, err)):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        try:
            status = cli.main(words)
        except SystemExit as error:
            status = int(error.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return status, texts[0], texts[1]


def terminal(words: Sequence[str], env: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """A program whose controlling terminal is ours, and our end of it."""
    ours, theirs = pty.openpty()
    try:
        # not the leader of a group: setsid execs the program without a fork, so that the pid is the program's
        process = subprocess.Popen(
            ["setsid", "--ctty", *words], env=env, stdin=theirs, stdout=theirs, stderr=theirs
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return process, ours
