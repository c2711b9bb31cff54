"""What is said, and how the program ends, when a TAP cannot be had."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from tapnet.backends.tap import opening as tap_open
from tapnet.service import exits


@pytest.mark.parametrize(
    ("number", "existed", "way"),
    [
        (errno.EPERM, False, "(ip tuntap add dev t0 mode tap user {me})"),
        (errno.EPERM, True, "(ip tuntap add dev t0 mode tap user {me})"),
        (errno.EACCES, False, "(ip tuntap add dev t0 mode tap user {me}; chmod 666 /dev/net/tun)"),
        (errno.EACCES, True, "(chmod 666 /dev/net/tun)"),
    ],
)
def test_a_persistent_tap_is_a_way_that_works(number: int, existed: bool, way: str) -> None:
    """Where /dev/net/tun may not be opened, a TAP of one's own is not enough."""
    said = tap_open.explain("t0", OSError(number, os.strerror(number)), existed)
    assert way.format(me=tap_open._user()) in said


def test_what_only_root_may_change_ends_as_not_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(Exception):
        code = errno.EPERM

    def refuse(work: Callable[[Any], None]) -> None:
        raise Refused

    monkeypatch.setattr(tap_open, "netlink", refuse)
    with pytest.raises(tap_open.TapError, match="needs CAP_NET_ADMIN") as told:
        tap_open._change("br=br0", "lo", master=1)
    assert exits.status_of(told.value) == exits.NOPERM
