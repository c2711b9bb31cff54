"""Settings below /proc/sys/net: what one interface has, given to another; values lent and given back.

A ``Loan`` is a value that somebody wants for a while. Several may want the same one (two routed TAPs on one uplink): the
first one's change is written down with what was before, the last one's end puts that back, unless somebody else has
changed the value in between. What a killed process has borrowed stands in the file, under its name.

Ref: Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..system.patience import Patience
from .journal import Busy, Journal

ROOT = Path("/proc/sys/net")
# Not to be copied: an MTU of its own; a secret that belongs to a name; what only the kernel counts.
_OWN = frozenset(("mtu", "stable_secret", "mc_forwarding", "force_igmp_version"))


LINK_LOCAL = "addr_gen_mode"
NO_LINK_LOCAL = "1"


def path(family: int, link: str, name: str) -> Path:
    """Of one setting; ``family`` 4 or 6, ``link`` may be all or default."""
    return ROOT / f"ipv{family}/conf" / link / name


def read(place: Path) -> str | None:
    """A value; None: there is none, or it may not be read."""
    try:
        return place.read_text().strip()
    except OSError:
        return None


def write(place: Path, value: str) -> None:
    """Raises OSError that names the file."""
    try:
        place.write_text(value)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(place)) from None


def copy(source: str, target: str) -> None:
    """Give interface ``target`` the settings in which ``source`` differs from it; what cannot be set is left."""
    for family in (4, 6):
        with contextlib.suppress(OSError):
            for place in sorted(path(family, source, "x").parent.iterdir()):
                other = path(family, target, place.name)
                value = read(place)
                if place.name not in _OWN and value is not None and read(other) not in (None, value):
                    with contextlib.suppress(OSError):
                        write(other, value)


def link_local(link: str, mode: str) -> None:
    """How the kernel makes an interface's link-local address (addr_gen_mode); nothing where there is no IPv6."""
    with contextlib.suppress(OSError):
        write(path(6, link, LINK_LOCAL), mode)


# ---- loans -------------------------------------------------------------------------------------------------

_KIND, _NAME = "sysctl", "loans"
_BUSY_S, _PAUSE_S = 10.0, 0.02


@contextlib.contextmanager
def _loans() -> Iterator[dict[str, Any]]:
    """What is lent in this namespace: file -> {before, now, who}; what the block makes of it is written. Raises Busy."""
    patience = Patience(_BUSY_S)
    while True:
        try:
            found = Journal(_KIND, _NAME)
            break
        except Busy:
            if patience.left() <= 0:
                raise
            time.sleep(_PAUSE_S)
    with found:
        loans: dict[str, Any] = (found.read() or {}).get("loans", {})
        try:
            yield loans
        finally:
            if loans:
                found.write({"loans": loans})
            else:
                found.erase()


def borrow(who: str, wanted: list[tuple[Path, str]]) -> None:
    """Have these values until ``give_back(who)``. Raises OSError that names the file; what was lent stays lent."""
    with _loans() as loans:
        for place, value in wanted:
            now = read(place)
            if now is None:
                continue  # no IPv6 here, say
            loan = loans.get(str(place))
            if loan is None and now == value:
                continue
            if loan is None:
                loan = loans[str(place)] = {"before": now, "now": value, "who": []}
            if who not in loan["who"]:
                loan["who"].append(who)
            if now != value:
                write(place, value)


def give_back(who: str) -> None:
    """End what ``who`` has borrowed, in the reverse order. Idempotent."""
    with _loans() as loans:
        for name in reversed(list(loans)):
            loan = loans[name]
            if who in loan["who"]:
                loan["who"].remove(who)
            if not loan["who"]:
                del loans[name]
                if read(Path(name)) == loan["now"]:
                    with contextlib.suppress(OSError):
                        write(Path(name), loan["before"])
