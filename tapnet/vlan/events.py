"""What happens in an instance, told to whoever listens: QMP's asynchronous messages.

An event is a name and JSON-able data; with nobody listening it costs one comparison. Names and data are QEMU's where
QEMU has the event, ours begin with ``X_TAPNET_``. docs/monitor.md lists them.

Ref: QEMU docs/interop/qmp-spec.rst, "Asynchronous events"; qapi/net.json.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

CONNECTED, DISCONNECTED = "NETDEV_STREAM_CONNECTED", "NETDEV_STREAM_DISCONNECTED"
FILTER_CHANGED = "NIC_RX_FILTER_CHANGED"
DEVICE_DELETED = "DEVICE_DELETED"
SHUTDOWN = "SHUTDOWN"
PORT_ADDED, PORT_REMOVED = "X_TAPNET_PORT_ADDED", "X_TAPNET_PORT_REMOVED"
LINK = "X_TAPNET_LINK"
EVENTS_LOST = "X_TAPNET_EVENTS_LOST"

Listener = Callable[[dict[str, Any]], None]


class Events:
    """``wall()``: seconds since 1970, for the time stamps. ``on_first()``: a first listener has come."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._listeners: list[Listener] = []
        self.on_first: Callable[[], None] | None = None

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with each event from now on. The answer ends that; idempotent."""
        self._listeners.append(listener)
        if len(self._listeners) == 1 and self.on_first is not None:
            self.on_first()

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def make(self, name: str, /, **data: Any) -> dict[str, Any]:
        """The message of an event that happens now. ``_`` in a member's name stands for "-"."""
        now = self._wall()
        return {
            "event": name,
            "data": {key.replace("_", "-"): value for key, value in data.items()},
            "timestamp": {"seconds": int(now), "microseconds": int(now % 1 * 1_000_000)},
        }

    def emit(self, name: str, /, **data: Any) -> None:
        """Tell."""
        if self._listeners:
            event = self.make(name, **data)
            for listener in list(self._listeners):
                listener(event)
