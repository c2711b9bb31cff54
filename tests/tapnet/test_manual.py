"""The manual page names every option and key, and marks what is not built yet."""

import re
import subprocess
from pathlib import Path

import pytest

import tapnet
from tapnet import cli
from tapnet.options import tables as keys
from tests.waiting import BOUND_S

PAGE = Path(__file__).parents[2] / "docs" / "tapnet.1"
SOURCE = PAGE.read_text()
PLAIN = re.sub(r"\\f[A-Z]", "", SOURCE).replace("\\-", "-")
UNMARKED_KINDS = {name for name, kind in keys.NETS.items() if not kind.later}


def lines_with(word):
    end = "" if word.endswith("=") else "(?![a-z-])"
    return [line for line in PLAIN.splitlines() if re.search(rf"(^|[\s:,=]){re.escape(word)}{end}", line)]


@pytest.mark.parametrize("option", keys.OPTIONS.values(), ids=lambda option: option.name)
def test_options(option):
    heads = [
        line
        for line in lines_with(f"-{option.name}") + lines_with(f"--{option.name}")
        if line.startswith(".B")
    ]
    assert heads
    assert any(line.rstrip('"').endswith("*") for line in heads) == option.later


ALL = [(kind, key) for kind in (*keys.NETS.values(), keys.NIC_KIND) for key in kind.keys.values()]
SHARED = ("local.", "remote.")  # "with the same keys"


@pytest.mark.parametrize(("kind", "key"), ALL, ids=[f"{kind.name},{key.name}" for kind, key in ALL])
def test_keys(kind, key):
    if key.name.startswith(SHARED) and not key.name.endswith("type"):
        assert keys.STREAM["addr." + key.name.partition(".")[2]]
        return
    found = lines_with(f"{key.name}=")
    assert found
    if key.later and not kind.later and key.idle == (False,):
        assert any(line.rstrip('"').endswith("*") for line in found)


def test_nothing_that_works_is_marked():
    later = {key.name for kind, key in ALL if key.later} | {o.name for o in keys.OPTIONS.values() if o.later}
    marked = [line for line in PLAIN.splitlines() if line.rstrip('"').endswith("*") or line.startswith("*")]
    assert len(marked) == len(later)
    assert [
        line for line in marked if not any(re.search(rf"[ -]{re.escape(name)}\b", line) for name in later)
    ] == []


def test_commands():
    for name in cli.cli.commands:
        assert f"tapnet {name}" in PLAIN


def test_the_version_is_this_one():
    assert f'"tapnet {tapnet.__version__}"' in SOURCE


@pytest.mark.packages
def test_it_is_sound_roff():
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-rLL=80n", str(PAGE)],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
