"""The mode of a running instance: its VLANs' NATs out and TAPs in, or the other way, under guests that do not restart.

    1  the new backends are made (a TAP's opening, which may block, in a thread)   fails: all is as it was, the caller hears why
    2  the NATs that leave end their flows: guests and hosts get RST, redirections listen no more
    3  between two frames: out of the hub with the old, in with the new; the cards' links go down
    4  what the old had is given back (downscript= in a thread)
    5  ``blink`` seconds after 3 the links come up: guests ask DHCP again

A card without a link bit (NE2000) cannot see 3 in a VM. Its guest learns by its lease: a NAT that a TAP stands beside
leases for a short time (``resolve.short_leases``), and whoever comes to renew afterwards is told by ``slirp.services.farewell``,
which looks on at the hub for as long as a lease runs. In a network namespace the interface loses its carrier,
whatever the card can.

What leaves is *parked* and comes back with the next swap. A VLAN without the wanted kind gets ``-net user`` or
``-net tap,br=br0``. VLANs that have neither (sockets only) and private wires are left alone. One swap at a time.

Timers: one for each link that is down; one for a farewell, when its last lease has run out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from ..backends.user.backend import UserBackend
from ..config import Net, TapNet, UserNet
from ..errors import BuildError, ControlError
from ..options.resolve import implied, mode_of, short_leases
from ..system.patience import Patience
from ..vlan.hub import Hub
from ..vlan.patchbay import BACKEND, NIC
from ..vlan.port import Port

if TYPE_CHECKING:
    from ..vlan.patchbay import Member, Place
    from .instance import Instance

DRAIN_SECONDS = 0.1  # how long a guest may take to take its RSTs
DRAIN_STEP = 0.002
SECOND = 1_000_000_000


class Words(Protocol):
    """``slirp.services.farewell.Farewell``."""

    def input(self, frame: bytes, now: int) -> bytes | None:
        """A frame; what to answer."""

    def over(self, now: int) -> bool:
        """Nobody is left."""

    def expires(self) -> int | None:
        """When the last lease runs out."""


class Watch:
    """A NAT's farewell, looking on at the VLAN that it has left (``port.Trace``). ``ended`` is called once."""

    def __init__(
        self,
        hub: Hub,
        words: Words,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], int],
        ended: Callable[[Watch], None],
    ) -> None:
        self.hub = hub
        self._words = words
        self._loop = loop
        self._now = now
        self._ended = ended
        self._timer: asyncio.TimerHandle | None = None
        hub.traces.append(self)
        self._arm()

    def _arm(self) -> None:
        expires = self._words.expires()
        if expires is not None:
            delay = max(0, expires - self._now()) / SECOND
            self._timer = self._loop.call_later(delay, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._words.over(self._now()):
            self.close()
        else:
            self._arm()

    def sent(self, port: Port, frame: bytes, _vnet: bytes, _lost: Sequence[tuple[Port, str]]) -> None:
        """A frame of the VLAN."""
        answer = self._words.input(frame, self._now())
        if answer is not None:
            self.hub.answer(port, answer)
            self._loop.call_soon(self._check)

    def _check(self) -> None:
        if self._words.over(self._now()):
            self.close()

    def delivered(self, port: Port, frame: bytes, vnet: bytes) -> None:
        """Nothing to see."""

    def dropped(self, port: Port, frame: bytes, vnet: bytes, reason: str, inbound: bool) -> None:
        """Nothing to see."""

    def close(self) -> None:
        """Idempotent."""
        if self in self.hub.traces:
            self.hub.traces.remove(self)
            if self._timer is not None:
                self._timer.cancel()
            self._ended(self)


@dataclass
class Plan:
    """One VLAN's part of a swap."""

    vlan: int
    place: Place
    old: list[Member]
    new: list[Net]
    made: list[tuple[Member, list[Callable[[], None]]]] = field(default_factory=list)


class Swap:
    """The swaps of one instance."""

    def __init__(self, instance: Instance, loop: asyncio.AbstractEventLoop, now: Callable[[], int]) -> None:
        self._instance = instance
        self._loop = loop
        self._now = now
        self._lock = asyncio.Lock()
        self._down: dict[Port, asyncio.TimerHandle] = {}  # links that we pulled
        self.watches: list[Watch] = []
        self._defaults: list[Net] = []  # that nobody wrote
        self._closed = False

    async def run(self, kind: str, vlan: int | None = None) -> dict[int, list[Member]]:
        """Put all VLANs, or one, into mode ``kind``. Returns the backends of that kind by VLAN.

        Raises ControlError; then nothing has changed.
        """
        async with self._lock:
            plans = self._plans(kind, vlan)
            try:
                for plan in plans:
                    for net in plan.new:
                        plan.made.append(await self._make(net, plan.place))
                if self._closed:
                    raise ControlError("the instance ends")
            except BaseException:
                for plan in plans:
                    for member, _ in plan.made:
                        self._drop_user(member)
                        member.close()
                raise
            for plan in plans:
                await self._execute(plan)
            return self._settle(kind, vlan)

    # ---- what to do ----------------------------------------------------------------------------------------

    def _plans(self, kind: str, vlan: int | None) -> list[Plan]:
        instance = self._instance
        if vlan is not None and vlan not in instance.vlans:
            raise ControlError(f"VLAN {vlan}: there is no such VLAN")
        numbers = sorted(instance.vlans) if vlan is None else [vlan]
        plans = []
        swappable = False
        for number in numbers:
            plan, has = self._plan(number, kind)
            swappable = swappable or has
            if plan is not None:
                plans.append(plan)
        if not swappable:
            where = "no VLAN has a NAT or a" if vlan is None else f"VLAN {vlan} has neither NAT nor"
            raise ControlError(f"{where} TAP that could be swapped")
        return plans

    def _plan(self, number: int, kind: str) -> tuple[Plan | None, bool]:
        """What to do on a VLAN, and whether it has anything to do with modes at all."""
        instance = self._instance
        members = instance.vlans[number]
        kinds = [(m, mode_of(m.net)) for m in members if m.kind == BACKEND and m.net is not None]
        old = [m for m, its in kinds if its not in (None, kind)]
        there = any(its == kind for _, its in kinds)
        parked = [net for net in instance.parked if net.vlan == number]
        new = [net for net in parked if mode_of(net) == kind]
        backends = any(m.kind == BACKEND for m in members)
        if not (old or there or parked or not backends):
            return None, False
        if not new and not there:
            new = [self._default(kind, number, bool(old or parked))]
        if not old and not new:
            return None, True
        return Plan(number, instance.place(number), old, new), True

    def _default(self, kind: str, vlan: int, beside: bool) -> Net:
        net = implied(kind, vlan).net
        assert net is not None
        names = {m.name for group in self._instance.vlans.values() for m in group}
        names |= {parked.name for parked in self._instance.parked}
        number = next(n for n in range(len(names) + 1) if f"{kind}.{n}" not in names)
        net = replace(net, vlan=vlan, name=f"{kind}.{number}")
        if isinstance(net, UserNet) and beside:
            net = short_leases(net)
        self._defaults.append(net)
        return net

    # ---- doing it ------------------------------------------------------------------------------------------

    async def _make(self, net: Net, place: Place) -> tuple[Member, list[Callable[[], None]]]:
        opened = None
        try:
            if isinstance(net, TapNet):
                from ..backends.tap.backend import OpenTap, in_thread, open_tap

                opened = await in_thread(self._loop, lambda: open_tap(net), OpenTap.close)
            return self._instance.make(net, place, opened)
        except BuildError as error:
            raise ControlError(str(error)) from None
        except OSError as error:
            raise ControlError(f"{net.origin}: {error}") from None

    async def _execute(self, plan: Plan) -> None:
        instance = self._instance
        hub = plan.place.hub
        old = [member for member in plan.old if member in plan.place.members]
        words = []
        for member in old:
            user = member.backend
            if isinstance(user, UserBackend):
                words.append(user.farewell())
                user.close()  # RST to both sides
        await self._drained(plan.place)
        self._end_watches(hub)
        for member in old:
            instance.forget(member)
            member.detach()
            assert member.net is not None
            instance.parked.append(member.net)
        for member, starters in plan.made:
            assert member.net is not None
            if member.net in instance.parked:
                instance.parked.remove(member.net)
            instance.plug(member, member.net, plan.place)
            for start in starters:
                start()
        for farewell in words:
            if not farewell.over(self._now()):
                self.watches.append(Watch(hub, farewell, self._loop, self._now, self.watches.remove))
        self._blink(plan.place)
        for member in old:
            if member.finish is not None:
                await self._loop.run_in_executor(None, member.finish)

    def _drop_user(self, member: Member) -> None:
        instance = self._instance
        instance.usernets = [user for user in instance.usernets if user.name != member.name]

    async def _drained(self, place: Place) -> None:
        """Until the guests have what was sent to them, bounded."""
        patience = Patience(DRAIN_SECONDS)
        while patience.left() > 0:
            if not any(m.port.queue for m in place.members if m.port is not None and m.kind != BACKEND):
                return
            await asyncio.sleep(DRAIN_STEP)

    def _end_watches(self, hub: Hub) -> None:
        for watch in [watch for watch in self.watches if watch.hub is hub]:
            watch.close()

    # ---- links ---------------------------------------------------------------------------------------------

    def _blink(self, place: Place) -> None:
        """Links down, and up again later; one that somebody else pulled stays down."""
        for member in place.members:
            port = member.port
            if member.kind != NIC or port is None or not member.blink:
                continue
            timer = self._down.pop(port, None)
            if timer is not None:
                timer.cancel()
            elif not port.link:
                continue
            port.set_link(False)
            self._down[port] = self._loop.call_later(member.blink, self._up, port, place)

    def _up(self, port: Port, place: Place) -> None:
        del self._down[port]
        port.set_link(True)
        for member in place.members:
            if isinstance(member.backend, UserBackend):
                member.backend.announce()  # what it said when it came met a link that was down

    # ---- afterwards ----------------------------------------------------------------------------------------

    def _settle(self, kind: str, vlan: int | None) -> dict[int, list[Member]]:
        found: dict[int, list[Member]] = {}
        kinds = set()
        for number, members in sorted(self._instance.vlans.items()):
            for member in members:
                its = mode_of(member.net) if member.net is not None else None
                if its is not None:
                    kinds.add(its)
                if its == kind and vlan in (None, number):
                    found.setdefault(number, []).append(member)
        self._instance.mode = kind if kinds == {kind} else None
        self._note(kind)
        return found

    def _note(self, kind: str) -> None:
        """The instance's configuration is what it would be with this mode: a reload compares with it."""
        instance = self._instance
        config = instance.config
        here = {m.name for members in instance.vlans.values() for m in members if m.kind == BACKEND}
        members = [
            replace(m, plugged=m.name in here)
            if isinstance(m, Net) and m.vlan is not None and mode_of(m)
            else m
            for m in config.members
        ]
        known = {m.name for m in members if isinstance(m, Net)}
        members += [replace(net, plugged=net.name in here) for net in self._defaults if net.name not in known]
        instance.config = replace(config, mode=kind, members=tuple(members))

    def close(self) -> None:
        """Forget links and farewells. Idempotent."""
        self._closed = True
        for timer in self._down.values():
            timer.cancel()
        self._down.clear()
        for watch in list(self.watches):
            with contextlib.suppress(ValueError):
                watch.close()
