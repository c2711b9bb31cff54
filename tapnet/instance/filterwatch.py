"""Tells when a card's receive filter has changed: QEMU's NIC_RX_FILTER_CHANGED.

As in QEMU one event for each card, and no further one until somebody has asked for the filter (query-rx-filter), so that
a guest that changes it all day costs nothing. Cards have no hook for it, and need none: while anybody listens, the
filters are compared every ``POLL_SECONDS``; while nobody does, nothing runs.

Ref: QEMU qapi/net.json, NIC_RX_FILTER_CHANGED.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from ..vlan.events import FILTER_CHANGED, Events
from ..vlan.patchbay import Member

POLL_SECONDS = 0.25


class FilterWatch:
    """``members()``: those plugged in now."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, events: Events, members: Callable[[], Iterable[Member]]
    ) -> None:
        self._loop = loop
        self._events = events
        self._members = members
        self._seen: dict[Member, Any] = {}  # the filter that was known at the last event or question
        self._silent: set[Member] = set()  # told already
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        events.on_first = self.begin

    def begin(self) -> None:
        """Somebody listens: what is there now is known."""
        self._silent.clear()
        self._seen = dict(self._filters())
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(POLL_SECONDS, self._look)

    def asked(self, name: str | None) -> None:
        """The filter of ``name`` (None: of all) has been asked for."""
        for member, found in self._filters():
            if name in (None, member.name, member.what.id if member.what is not None else None):
                self._silent.discard(member)
                self._seen[member] = found

    def _filters(self) -> Iterable[tuple[Member, Any]]:
        for member in self._members():
            card: Any = member.card
            if card is not None:
                yield member, card.rx_filter()

    def _look(self) -> None:
        self._timer = None
        if self._closed or not self._events.heard:
            return
        current = dict(self._filters())
        for member, found in current.items():
            if member in self._silent:
                continue
            if member in self._seen and self._seen[member] != found:
                self._silent.add(member)
                self._events.emit(FILTER_CHANGED, name=member.name, path=f"/machine/peripheral/{member.name}")
            self._seen[member] = found
        self._silent &= current.keys()
        self._seen = {member: self._seen[member] for member in current}
        self._timer = self._loop.call_later(POLL_SECONDS, self._look)

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
