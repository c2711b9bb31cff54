"""Where control sockets lie."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tapnet.system import runtime as paths


def test_order_of_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert paths.candidates() == [Path("/run/user/1000/tapnet"), Path("/tmp/tapnet-1000")]
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert paths.candidates() == [Path("/tmp/tapnet-1000")]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert paths.candidates()[0] == Path("/run/tapnet")


def test_a_place_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, wide, alien, good = (tmp_path / name for name in ("link", "wide", "alien", "good"))
    for place in (wide, alien):
        place.mkdir(mode=0o700)
    wide.chmod(0o777)
    link.symlink_to(wide)
    assert paths.trusted(wide) == "can be written by others"
    assert paths.trusted(link) == "is not a directory"
    monkeypatch.setattr(paths, "candidates", lambda: [tmp_path / "no" / "parent", link, wide, good])
    assert paths.runtime_directory() == good
    assert good.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(paths, "candidates", lambda: [link, wide])
    with pytest.raises(paths.PathError, match=r"link: is not a directory; .*wide: can be written by others"):
        paths.runtime_directory()
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    assert paths.trusted(alien) == f"belongs to uid {real}"


def test_a_path_too_long_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 90)
    monkeypatch.setattr(paths, "candidates", lambda: [deep])
    with pytest.raises(paths.PathError, match="longer than the 107 bytes"):
        paths.socket_path("n" * 60)


def test_existing_lists_sockets_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "candidates", lambda: [tmp_path / "none", tmp_path])
    monkeypatch.setattr(paths, "SYSTEM", tmp_path / "none")  # services may run on this machine
    tmp_path.chmod(0o700)
    (tmp_path / "file.ctl").write_text("")
    for name in ("b.ctl", "a.ctl", "other"):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(tmp_path / name))
    assert [path.name for path in paths.existing()] == ["a.ctl", "b.ctl"]
