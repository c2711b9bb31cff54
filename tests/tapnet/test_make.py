"""``make run`` where something is missing: one line that says what to ask for, exit status 2, nothing half done."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import BOUND_S

ROOT = Path(__file__).resolve().parents[2]
USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if os.geteuid() == 0 else ()
ASK = "tapnet: python3-venv is missing; ask for: apt-get install python3-venv\n"


@pytest.fixture
def tree() -> Iterator[Path]:
    """A checkout of nothing but the Makefile, with a place for programs of our own. Everybody may write there; pytest keeps
    its own directories to root.
    """
    found = Path(tempfile.mkdtemp(prefix="tapnet-make-"))
    (found / "bin").mkdir()
    (found / "bin").chmod(0o755)
    found.chmod(0o777)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, found)
    yield found
    shutil.rmtree(found)


def program(tree: Path, name: str, text: str) -> None:
    path = tree / "bin" / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def make(tree: Path, *prefix: str, goal: str = "run") -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{tree}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", "HOME": str(tree)}
    words = [*prefix, "make", goal, "PYTHON=python3"]
    return subprocess.run(words, cwd=tree, env=env, capture_output=True, text=True, timeout=BOUND_S)


def test_an_ordinary_user_without_venv_gets_the_line_to_ask_for(tree: Path) -> None:
    program(tree, "python3", 'case "$2" in *ensurepip*) exit 1;; esac')
    done = make(tree, *USER)
    assert done.returncode == 2 and done.stderr.startswith(ASK), done.stderr
    assert not (tree / ".venv").exists()


def test_an_old_python_is_said(tree: Path) -> None:
    program(tree, "python3", "exit 1")
    done = make(tree, *USER)
    assert done.returncode == 2 and "Python 3.11 or newer is needed" in done.stderr.splitlines()[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask apt")
def test_root_asks_apt(tree: Path) -> None:
    """One line says what is installed, whatever apt has to say of it."""
    program(
        tree,
        "python3",
        f'case "$2" in *ensurepip*) exit 1;; *sys*) exit 0;; esac; echo "$@" >>{tree}/said; exit 3',
    )
    program(tree, "apt-get", f'echo apt "$@" >>{tree}/said; seq 30; echo debconf: delaying >&2')
    done = make(tree)
    assert done.returncode == 2
    assert (tree / "said").read_text() == "apt -q update\napt -q install -y python3-venv\n-m venv .venv\n"
    assert done.stdout == "apt-get install python3-venv\npython3 -m venv .venv\n"
    assert "debconf" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask apt")
@pytest.mark.parametrize("goal", ["run", "apt"])
def test_what_apt_says_when_it_fails_is_shown(tree: Path, goal: str) -> None:
    program(tree, "python3", 'case "$2" in *ensurepip*) exit 1;; esac')
    program(tree, "dpkg-query", "exit 1")
    program(tree, "apt-get", "echo 'E: no archive' >&2; exit 100")
    done = make(tree, goal=goal)
    assert done.returncode == 2 and "E: no archive" in done.stderr
    assert not (tree / ".venv").exists()


def archive(tree: Path, missing: str, absent: str) -> None:
    """dpkg lacks ``missing``; the archive has every package but ``absent``, and apt says what it is asked for."""
    program(tree, "dpkg-query", f'for p; do :; done; [ "$p" != {missing} ] && echo install ok installed')
    program(
        tree, "apt-cache", f'shift; for p; do [ $p = {absent} ] || printf "%s:\\n  Candidate: 1\\n" $p; done'
    )
    program(tree, "apt-get", f'echo apt "$@" >>{tree}/said')


@pytest.mark.parametrize("who", [(), USER] if USER else [()])
def test_a_package_that_this_debian_does_not_have_is_no_obstacle(tree: Path, who: tuple[str, ...]) -> None:
    archive(tree, "isc-dhcp-client", "isc-dhcp-client")
    done = make(tree, *who, goal="apt")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "tapnet: not in this Debian: isc-dhcp-client; the tests of it are skipped\n"
    assert not (tree / "said").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask apt")
def test_a_package_that_is_missing_is_installed(tree: Path) -> None:
    archive(tree, "isc-dhcp-client", "none")
    done = make(tree, goal="apt")
    assert (done.returncode, done.stdout) == (0, "apt-get install isc-dhcp-client\n")
    assert (
        (tree / "said")
        .read_text()
        .splitlines()[-1]
        .endswith(" install -y --no-install-recommends isc-dhcp-client")
    )


def test_an_environment_that_was_not_finished_is_made_again(tree: Path) -> None:
    half = "mkdir -p .venv/bin; : >.venv/bin/python; exit 1"
    program(tree, "python3", f'case "$1 $2" in "-m venv") {half};; esac')
    for _ in range(2):
        done = make(tree, *USER)
        assert done.returncode == 2 and "python3 -m venv" in done.stdout, done.stdout + done.stderr
        assert not (tree / ".venv/bin/python").exists()
