"""Programs that not every Debian has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest


def program(name: str, package: str) -> None:
    """Skip the test where this Debian has no ``package``; fail where it only is not installed."""
    if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
        return
    told = subprocess.run(
        ["apt-cache", "policy", "python3-venv", package],
        env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    known = re.findall(r"^(\S+):\n(?: .*\n)*?  Candidate: [^(]", told.stdout, re.M)
    if "python3-venv" in known and package not in known:
        pytest.skip(f"no {name}: this Debian has no package {package}")
    pytest.fail(f"no {name}: `make test` installs {package}")
