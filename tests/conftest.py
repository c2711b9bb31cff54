"""For all tests: hypothesis judges what a program does, never how fast this machine is; and whoever runs them has set
nothing that they go by: no mode of tapnet's, no proxy, no width of a terminal, no mask, no language.
"""

from __future__ import annotations

import os
import tempfile

from hypothesis import HealthCheck, settings

settings.register_profile("tapnet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tapnet")

_TAPNETS = "TAPNET_"
_OTHERS = frozenset(
    ("COLUMNS", "LINES", "PYTHONWARNINGS", "PYTHONUNBUFFERED", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE")
)
_LONGEST = 40  # of a folder for temporary files, so that a socket's name below it fits into 107 bytes


def _plain_environment() -> None:
    for name in list(os.environ):
        other = name in _OTHERS or name.lower().endswith("_proxy") or name.startswith("LC_")
        if other or name.startswith(_TAPNETS):
            del os.environ[name]
    os.environ["LANG"] = "C.UTF-8"
    os.umask(0o022)
    place = tempfile.gettempdir()
    if " " in place or len(place) > _LONGEST:  # a monitor's command is cut at spaces
        os.environ.pop("TMPDIR", None)
        tempfile.tempdir = None


_plain_environment()
