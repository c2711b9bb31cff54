"""A loop and endpoints for tests of hubs and ports."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from tapnet.vlan.hub import Hub
from tapnet.vlan.port import Port

STEPS_MAX = 100_000


class Loop:
    """``call_soon`` by hand."""

    def __init__(self) -> None:
        self.soon: deque[Callable[[], None]] = deque()

    def __call__(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def step(self) -> None:
        """One turn: what was asked for before it."""
        for _ in range(len(self.soon)):
            self.soon.popleft()()

    def run(self) -> None:
        """Until nothing is asked for any more."""
        for _ in range(STEPS_MAX):
            if not self.soon:
                return
            self.soon.popleft()()
        raise AssertionError("the loop never comes to rest")


class Endpoint:
    """Records what it gets; refuses while ``closed``."""

    def __init__(self, name: str, hub: Hub | None = None, **options: Any) -> None:
        self.got: list[tuple[bytes, bytes]] = []
        self.closed = False
        self.readied = 0
        self.offers: list[int] = []
        self.on_receive: Callable[[bytes], None] | None = None
        self.on_ready: Callable[[], None] | None = None
        self.depth = 0
        options.setdefault("offer", self.offers.append)
        self.port = Port(name, self.receive, ready=self.ready, **options)
        if hub is not None:
            hub.add(self.port)

    def receive(self, frame: bytes, vnet: bytes) -> bool:
        assert not self.depth, "re-entered"
        if self.closed:
            return False
        self.depth += 1
        self.got.append((frame, vnet))
        if self.on_receive is not None:
            self.on_receive(frame)
        self.depth -= 1
        return True

    def ready(self) -> None:
        self.readied += 1
        if self.on_ready is not None:
            self.on_ready()

    def open(self) -> None:
        self.closed = False
        self.port.flush()

    @property
    def frames(self) -> list[bytes]:
        return [frame for frame, _ in self.got]


def hub_of(count: int, **options: Any) -> tuple[Loop, Hub, list[Endpoint]]:
    loop = Loop()
    hub = Hub(0, loop)
    return loop, hub, [Endpoint(f"p{n}", hub, **options) for n in range(count)]
