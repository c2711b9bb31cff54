"""Per-interface settings below /proc/sys/net: what one interface has, given to another; values saved and put back.

Ref: Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

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
