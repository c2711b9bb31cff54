"""tests/needs.py: a test is skipped for a package that does not exist, and for no other reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import needs


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt-cache that knows the package ``here``, and all of ``known``."""
    file = tmp_path / "apt-cache"
    (tmp_path / "known").write_text("python3-venv\nhere\n")
    file.write_text(
        f"#!/bin/sh\nshift; for p; do grep -qx $p {tmp_path}/known && v=1.0 || v='(none)'\n"
        'printf "%s:\\n  Installed: (none)\\n  Candidate: %s\\n" $p "$v"; done\n'
    )
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_what_is_installed_is_used(apt: Path) -> None:
    needs.program("sh", "gone")


def test_what_does_not_exist_is_skipped_by_name(apt: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match="no package gone"):
        needs.program("tapnet-no-such-program", "gone")


def test_what_could_be_installed_fails(apt: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="`make test` installs here"):
        needs.program("tapnet-no-such-program", "here")


def test_an_apt_that_knows_no_archive_says_nothing_of_it(apt: Path) -> None:
    (apt / "known").write_text("")
    with pytest.raises(pytest.fail.Exception, match="`make test` installs gone"):
        needs.program("tapnet-no-such-program", "gone")
