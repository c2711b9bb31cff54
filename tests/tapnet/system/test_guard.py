"""Marks for control ports."""

from __future__ import annotations

import socket

import pytest

from tapnet.system import guard

PORT = 65501  # a number only: nothing listens there


def test_a_mark_lives_as_long_as_its_socket() -> None:
    assert not guard.claimed(PORT)
    mark = guard.claim(PORT)
    assert guard.claimed(PORT) and not guard.claimed(PORT + 1)
    mark.close()
    assert not guard.claimed(PORT)


def test_two_listeners_on_one_port_leave_in_any_order() -> None:
    first, second = guard.claim(PORT), guard.claim(PORT)
    first.close()
    assert guard.claimed(PORT)
    second.close()
    assert not guard.claimed(PORT)


def test_marks_are_bounded() -> None:
    marks = [guard.claim(PORT) for _ in range(guard.CLAIMS_MAX)]
    try:
        with pytest.raises(OSError, match=str(PORT)):
            guard.claim(PORT)
    finally:
        for mark in marks:
            mark.close()


def test_the_contract_with_the_nat() -> None:
    """``slirp.host.sockets`` may not import this: what it does must find the first name."""
    with guard.claim(PORT), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.connect(f"\0tapnet/control/tcp/{PORT}")
