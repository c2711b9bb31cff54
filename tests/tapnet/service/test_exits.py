"""Exit statuses."""

from __future__ import annotations

import errno

import pytest

from tapnet.service import exits


class Told(Exception):
    """What a user sees."""


def told(cause: BaseException | None) -> Told:
    try:
        if cause is None:
            raise Told("x")
        try:
            raise cause
        except BaseException:
            raise Told("x") from None
    except Told as error:
        return error


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (None, 2),
        (ValueError("x"), 2),
        (OSError(errno.EINVAL, "x"), 2),
        (OSError(errno.ENOENT, "x", "/etc/tapnet/x.toml"), 2),
        (OSError(errno.ENOENT, "x", "/dev/net/tun"), 69),
        (OSError(errno.EMFILE, "x"), 71),
        (MemoryError(), 71),
        (OSError(errno.EIO, "x"), 74),
        (OSError(errno.EADDRINUSE, "x"), 75),
        (OSError(errno.EBUSY, "x", "tap0"), 75),
        (PermissionError(errno.EACCES, "x"), 77),
    ],
)
def test_status_of_what_is_behind_an_error(cause: BaseException | None, status: int) -> None:
    assert exits.status_of(told(cause)) == status


def test_a_ring_of_errors_ends() -> None:
    one, other = Told("a"), Told("b")
    one.__context__, other.__context__ = other, one
    assert exits.status_of(one) == 2
