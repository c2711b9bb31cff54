"""Differences from QEMU are listed with their reasons; this is the rule by which the lists are judged.

A difference that is not listed fails with any QEMU. One that is listed and gone fails too, so that no list grows old,
but only with a QEMU that the lists were checked with: a newer one may have mended what they name.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Collection, Mapping

QEMU = "qemu-system-x86_64"
CHECKED = (10, 0)  # the newest QEMU with which every list was checked; the oldest was 7.2

Version = tuple[int, int]


def version_of(said: str) -> Version:
    """Major and minor number in what ``qemu --version`` prints."""
    found = re.search(r"version (\d+)\.(\d+)", said)
    assert found, f"QEMU's version is not in {said!r}"
    return int(found[1]), int(found[2])


@functools.cache
def version() -> Version:
    """The version of this machine's QEMU."""
    return version_of(subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout)


def judge(different: Mapping[str, object], listed: Collection[str], qemu: Version | None = None) -> None:
    """Compare what differs (label: theirs and ours) with the labels that may. Raises AssertionError."""
    qemu = version() if qemu is None else qemu
    unlisted = {label: different[label] for label in sorted(different.keys() - set(listed))}
    assert not unlisted, f"QEMU {qemu[0]}.{qemu[1]} and we differ: {unlisted}"
    gone = sorted(set(listed) - different.keys())
    assert not gone or qemu > CHECKED, f"these do not differ any more, take off the list: {gone}"
