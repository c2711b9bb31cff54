"""The units of systemd/ run on a system that has nothing but systemd, Python and tapnet."""

from __future__ import annotations

import re
from pathlib import Path

UNITS = Path(__file__).resolve().parents[2] / "systemd"


def test_units_run_only_what_every_debian_has() -> None:
    """/bin/kill is of procps, which a minimal system lacks: reload failed there."""
    texts = [path.read_text() for path in UNITS.rglob("*") if path.is_file()]
    programs = {word for text in texts for word in re.findall(r"^Exec\w+=[-+!@:]*(\S+)", text, re.M)}
    assert programs == {"/usr/local/bin/tapnet", "/bin/sh"}
