"""What a process inherits from whoever started it, made the same for every test: ``settle``, which conftest.py calls.

The tests may be started under nohup, in the background of a script, by setsid, by a service manager, with closed standard
streams or with umask 077. What they start inherits all that. A test that is about an inheritance sets it by itself.

* Signals: nothing is blocked. A signal that was ignored has a handler that does nothing instead: this process goes on
  as before (under nohup it outlives its terminal), while what it starts by exec has the default action.
* Descriptors 0, 1 and 2 are open, so that no pipe or socket takes their place.
* Environment: no mode or option of tapnet's, no proxy, no width of a terminal, no language; temporary files lie where a
  socket's name below them is short enough and has no space.
* umask is 022: files of root's are read by other users. At least 1024 descriptors are allowed, where the hard limit does.

Ref: POSIX.1-2017, exec: a signal that is caught is set to its default, an ignored one stays ignored.
"""

from __future__ import annotations

import os
import resource
import signal
import tempfile

DESCRIPTORS = 1024
UMASK = 0o022
_TAPNETS, _KIT = "TAPNET_", "TAPNET_GUESTS"  # the kit's folder is the tests' own
_OTHERS = frozenset(
    ("COLUMNS", "LINES", "PYTHONWARNINGS", "PYTHONUNBUFFERED", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE")
)
_LONGEST = 40  # of a folder for temporary files, so that a socket's name below it fits into 107 bytes
_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # subprocess gives them their default back


def settle() -> None:
    """Undo what this process has inherited. Idempotent."""
    for number in signal.valid_signals():
        if number not in _BY_PYTHON and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDWR)
    while null < 3:  # the lowest that is free
        os.set_inheritable(null, True)
        null = os.dup(null)
    os.close(null)
    _plain_environment()
    os.umask(UMASK)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
        allowed = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _plain_environment() -> None:
    """Take out what programs under test would go by."""
    for name in list(os.environ):
        other = name in _OTHERS or name.lower().endswith("_proxy") or name.startswith("LC_")
        if other or (name.startswith(_TAPNETS) and name != _KIT):
            del os.environ[name]
    os.environ["LANG"] = "C.UTF-8"
    place = tempfile.gettempdir()
    if " " in place or len(place) > _LONGEST:  # a monitor's command is cut at spaces
        os.environ.pop("TMPDIR", None)
        tempfile.tempdir = None
