"""What the tab key offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapnet.monitor.client.complete import candidates, history_path


def names(what: str) -> list[str]:
    found = {"port": ["tap.0", "user.0", "nic.0"], "backend": ["tap.0", "user.0"], "nic": ["nic.0"]}
    return found[what]


@pytest.mark.parametrize(
    ("before", "word", "found"),
    [
        ("", "set_l", ["set_link"]),
        ("", "q", ["q", "quit"]),
        ("info ", "na", ["name"]),
        ("info network ", "-", ["-v"]),
        ("help ", "set_l", ["set_link"]),
        ("help info ", "ver", ["version"]),
        ("set_link ", "", ["nic.0", "tap.0", "user.0"]),
        ("set_link ", "n", ["nic.0"]),
        ("set_link tap.0 ", "", ["off", "on"]),
        ("set_link tap.0 on ", "", []),
        ("hostfwd_add ", "u", ["user.0"]),
        ("bogus ", "", []),
        ("info bogus ", "", []),
    ],
)
def test_candidates(before: str, word: str, found: list[str]) -> None:
    assert candidates(before, word, names) == found


def test_history_path() -> None:
    assert history_path({"XDG_STATE_HOME": "/s", "HOME": "/h"}) == Path("/s/tapnet/history")
    assert history_path({"XDG_STATE_HOME": "s", "HOME": "/h"}) == Path("/h/.local/state/tapnet/history")
    assert history_path({}) == Path("/.local/state/tapnet/history")
