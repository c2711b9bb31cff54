"""``tests.surroundings``: however the tests are started, what they start begins the same."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import BOUND_S

ROOT = Path(__file__).resolve().parents[2]
TELL = """
import os, re, resource, signal, subprocess, sys
from tests import surroundings
surroundings.settle()
surroundings.settle()
os.kill(os.getpid(), signal.SIGHUP) if {hup} else None  # this process still outlives it
tell = "import os,re,resource; text=open('/proc/self/status').read();"
tell += "print(*re.findall('Sig(?:Ign|Blk):.*?([0-9a-f]+)', text), oct(os.umask(0)), resource.getrlimit(7)[0],"
tell += "*(os.path.exists('/proc/self/fd/%d' % n) for n in range(3)))"
os.write({out}, subprocess.run([sys.executable, "-c", tell], stdout=subprocess.PIPE, close_fds=True).stdout)
"""
# Python itself ignores two signals in each process that it runs in.
CLEAN = f"{0:016x} {1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1:016x} 0o22 1024 True True True\n"


def test_whatever_is_inherited() -> None:
    read, out = os.pipe()
    os.set_inheritable(out, True)

    def before() -> None:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGCHLD))
        os.umask(0o077)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for number in range(3):
            os.close(number)

    code = TELL.format(out=out, hup=True)
    process = subprocess.Popen([sys.executable, "-c", code], preexec_fn=before, cwd=ROOT, close_fds=False)
    os.close(out)
    with open(read) as file:
        said = file.read()
    assert process.wait(BOUND_S) == 0
    blocked, ignored, *others = said.split()
    ignored = f"{int(ignored, 16) & 0x7FFFFFFF:016x}"  # beyond are glibc's own, which make -j ignores
    assert [blocked, ignored, *others] == CLEAN.split()


def test_this_process_has_been_settled() -> None:
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD):
        assert signal.getsignal(number) is not signal.SIG_IGN


@pytest.mark.parametrize("umask", ["022"])
def test_umask(umask: str) -> None:
    assert subprocess.run(["sh", "-c", "umask"], capture_output=True, text=True).stdout.strip() == f"0{umask}"
