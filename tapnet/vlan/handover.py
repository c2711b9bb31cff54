"""What one net leaves for the next process of a restart, as plain data: the wires write it and read it.

How it is kept meanwhile is the service's work (``tapnet.service.handover``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..config import Net
from .port import PortState


@dataclass
class Handover:
    """What one net leaves: data that JSON knows, and bytes; descriptors by what they are."""

    data: dict[str, Any] = field(default_factory=dict)
    fds: dict[str, int] = field(default_factory=dict)


def fingerprint(net: Net) -> str:
    """The same for the same configuration, wherever in the file it stands."""
    return repr(replace(net, origin=""))


def port_data(state: PortState) -> dict[str, Any]:
    """``Port.export``'s answer for ``Handover.data``."""
    return asdict(state)


def port_state(data: dict[str, Any]) -> PortState:
    """The way back."""
    return PortState(**{**data, "queue": [(frame, vnet) for frame, vnet in data["queue"]]})


class Handed:
    """What the process before left, until it is taken."""

    def __init__(self, items: dict[str, Handover]) -> None:
        self._items = items

    def take(self, net: Net) -> Handover | None:
        """What belongs to ``net``; its descriptors are the caller's now."""
        return self._items.pop(fingerprint(net), None)

    def close(self) -> int:
        """Close what nobody has taken; how many nets that were."""
        count = len(self._items)
        for item in self._items.values():
            close(item.fds.values())
        self._items = {}
        return count


def close(fds: Iterable[int]) -> None:
    """Close descriptors; one that is closed already does not matter."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
