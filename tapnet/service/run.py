"""Start, run and stop: the process round an ``Instance``.

``run``: until SIGINT, SIGTERM or the monitor's ``quit``; SIGHUP reads the configuration again (``supervise``). ``exec_``:
until COMMAND ends. A signal that the caller ignores (nohup, a background job) stays ignored. Both return an exit status: 0, 2 for what the user configured wrong (one line on standard error), those
of ``exits`` for ``run``, 125 for a failure of ``exec`` afterwards.

The only owner of a clock: ``time.monotonic_ns``. The event loop is uvloop where it is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import BuildError
from ..guest.clock import Clock
from ..guest.namespace.guest import GuestError, Interrupted, SignalRelay
from ..guest.prepare import Prepared, prepare
from ..monitor.commands.control import Control
from ..monitor.sessions.server import (
    Served,
    ServerError,
    open_activated,
    open_control,
    open_metrics,
    open_monitor,
    open_qmp,
)
from ..system import journal, notify, passed, privilege, signals
from ..system.patience import Patience
from ..system.privilege import Account, PrivilegeError
from ..vlan.handover import Handed
from . import handover
from .exits import OSERR, SOFTWARE, USAGE, status_of
from .supervise import Supervisor

if TYPE_CHECKING:
    from ..guest.qtest.bus import QtestServer
    from ..instance.instance import Instance

EXEC_FAILED = 125
STOPS = (signal.SIGINT, signal.SIGTERM)
LINGER_SECONDS = 2.0  # how long the kernel of an ended guest may take to send what COMMAND had written
LINGER_STEP = 0.01

Started = Callable[[Control], None]
Again = Callable[[str | None], Config]


_say = journal.say


def _runner() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def run(config: Config, again: Again | None = None) -> int:
    """``tapnet run``: the emulator in the foreground. Returns the exit status.

    again(mode)  reads the configuration anew, for SIGHUP, in a mode or (None) in the one that it says. Raises OptionError
    """
    found = passed.inherit()
    try:
        account = privilege.account(config.runas) if config.runas is not None else None
        prepared = prepare(config)
    except (BuildError, PrivilegeError) as error:
        _say(str(error), logging.ERROR)
        return status_of(error)
    if account is not None:
        privilege.load()  # behind the guests' fork, and with no loop that would wait
    try:
        with _runner() as runner:
            return runner.run(_run(config, prepared, found, again, account))
    except Exception as error:
        _say(f"a mistake in tapnet: {error!r}", logging.CRITICAL)
        traceback.print_exc()
        return OSERR if isinstance(error, MemoryError) else SOFTWARE
    finally:
        prepared.close()


@contextlib.contextmanager
def _stopped_by(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at SIGINT and SIGTERM, unless they are ignored. Afterwards this process, which is about to end, ignores them: a second one
    must neither cut the clean-up short nor meet a loop that is half closed.
    """
    numbers = signals.heeded(STOPS)
    for number in numbers:
        loop.add_signal_handler(number, stop)
    signals.unblock(numbers)
    try:
        yield
    finally:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _run(
    config: Config,
    prepared: Prepared,
    found: dict[str, list[int]],
    again: Again | None,
    account: Account | None,
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    with _stopped_by(loop, stop.set):
        return await _run_until(config, prepared, loop, stop, found, again, account)


async def _run_until(
    config: Config,
    prepared: Prepared,
    loop: asyncio.AbstractEventLoop,
    stop: asyncio.Event,
    found: dict[str, list[int]],
    again: Again | None,
    account: Account | None,
) -> int:
    handed = handover.load(found)
    try:
        with _running(config, prepared, stop.set, handed, account) as (instance, control, served):
            await _monitors(config, instance, control, served, stop, account)
            if stop.is_set():
                return 0
            for guest in prepared.guests():
                guest.watch(loop, on_exit=lambda status: _say(f"a guest's DHCP client ended ({status})"))
            supervisor = Supervisor(instance, again, stop)
            await supervisor.settled()
            supervisor.forget_rest(handed)
            _ready(config, supervisor.status())
            await supervisor.run()
            notify.stopping()
            await supervisor.drain()
            supervisor.hand_over()
            return supervisor.exit_status
    except (BuildError, ServerError, PrivilegeError) as error:
        _say(str(error), logging.ERROR)
        return status_of(error)
    finally:
        handed.close()


@contextlib.contextmanager
def _running(
    config: Config,
    prepared: Prepared,
    shutdown: Callable[[], None],
    handed: Handed | None = None,
    account: Account | None = None,
) -> Iterator[tuple[Instance, Control, list[Served | QtestServer]]]:
    """An instance that runs, what monitors ask of it, and what is served: its control socket."""
    from ..instance.instance import Instance  # here, so that guests are forked before all of that is imported

    clock = Clock(time.monotonic_ns)
    places: list[Instance] = []  # lines of a time when there is none yet have no VLAN
    with journal.opened(
        config.name or str(os.getpid()), lambda name: places[0].vlan_of(name) if places else None
    ):
        instance = Instance(
            config, prepared, asyncio.get_running_loop(), clock.real, shutdown, clock, time.time, handed
        )
        places.append(instance)
        control = Control(instance)
        with _served(config, instance, control, account) as served:
            yield instance, control, served


@contextlib.contextmanager
def _served(
    config: Config, instance: Instance, control: Control, account: Account | None
) -> Iterator[list[Served | QtestServer]]:
    served: list[Served | QtestServer] = []
    try:
        owner = (account.uid, account.gid) if account is not None else None
        served.append(open_control(instance.name, control, owner))
        activated = open_activated(instance.name, control)
        if activated is not None:
            served.append(activated)
        for line in config.warnings:  # not before: an error is the only line
            _say(f"warning: {line}", logging.WARNING)
        instance.start()
        yield served
    finally:
        control.ending("host-signal")
        for one in served:
            one.close()
        instance.close()


async def _monitors(
    config: Config,
    instance: Instance,
    control: Control,
    served: list[Served | QtestServer],
    stop: asyncio.Event,
    account: Account | None = None,
) -> None:
    """Open the -monitor, -qmp, --metrics and -qtest options; then become ``account``, and wait for the first client of those that say
    so.
    """
    waits: list[Served | QtestServer] = []
    wanted = [(open_monitor, chardev) for chardev in config.monitors]
    wanted += [(open_qmp, chardev) for chardev in config.qmp]
    for opener, chardev in wanted:
        one = await opener(chardev, control)
        served.append(one)
        if chardev.server and chardev.wait:
            waits.append(one)
    if config.metrics is not None:
        served.append(await open_metrics(config.metrics, control))
    if config.qtest is not None and instance.register_bus is not None:
        from ..guest.qtest.bus import open_qtest  # as above

        bus = await open_qtest(config.qtest, instance.register_bus)
        served.append(bus)
        if config.qtest.server and config.qtest.wait:
            waits.append(bus)
    if account is not None:
        _become(account, config)
    for waiting in waits:
        if not stop.is_set():
            await _first_client(waiting, stop)


def _become(account: Account, config: Config) -> None:
    """Give away what is not needed any more. Raises PrivilegeError."""
    tap = privilege.wants_tap(config)
    if tap:
        from ..devices.device import reserve

        try:
            reserve(privilege.TUN_RESERVE)
        except OSError as error:
            _say(f"warning: --runas {account.name}: {error.filename}: {error.strerror}", logging.WARNING)
    loop = asyncio.get_running_loop()
    privilege.drop(account, keep_net_admin=tap)
    loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="tapnet"))  # threads keep what they had
    programs = privilege.runs_programs(config)
    if programs:
        _say(f"--runas {account.name}: no fence, because {programs} runs a program")
    elif not privilege.fence():
        _say(f"--runas {account.name}: no fence, because this kernel has no Landlock")


async def _first_client(one: Served | QtestServer, stop: asyncio.Event) -> None:
    _say(f"waiting for a client on {one.what}")
    waiting = [asyncio.ensure_future(one.first_client()), asyncio.ensure_future(stop.wait())]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for future in waiting:
        future.cancel()


def _ready(config: Config, status: str) -> None:
    """Tell whoever waits that all is up."""
    notify.ready(status)
    if config.ready_fd is not None:
        try:
            os.write(config.ready_fd, b"\n")
            if config.ready_fd > 2:
                os.close(config.ready_fd)
        except OSError as error:
            _say(f"warning: --ready-fd={config.ready_fd}: {error.strerror}")


async def _linger(instance: Instance) -> None:
    """COMMAND has ended; let its kernel send what it had written, as a real machine's would."""
    patience = Patience(LINGER_SECONDS)
    while instance.unfinished() and patience.left() > 0:
        await asyncio.sleep(LINGER_STEP)


def exec_(
    config: Config, command: Sequence[str], keep_uid: bool = False, *, started: Started | None = None
) -> int:
    """``tapnet exec``: COMMAND behind the configured cards. Returns its exit status, or ours.

    started(control)   called once, on the loop, just before COMMAND starts
    """
    relay = SignalRelay()
    try:
        try:
            prepared = prepare(config, exec_=True, mask=relay.mask)
        except BuildError as error:
            _say(str(error))
            return USAGE
        except Interrupted as interrupted:
            return 128 + interrupted.number
        try:
            with _runner() as runner:
                return runner.run(_exec(config, prepared, relay, list(command), started))
        except Exception:
            traceback.print_exc()
            return EXEC_FAILED
        finally:
            prepared.close()
    finally:
        relay.close()


async def _exec(
    config: Config, prepared: Prepared, relay: SignalRelay, command: list[str], started: Started | None
) -> int:
    loop = asyncio.get_running_loop()
    guest = prepared.guest
    assert guest is not None
    ended: asyncio.Future[int] = loop.create_future()
    interrupted = asyncio.Event()

    def on_exit(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    def deliver(number: int, alone: bool) -> None:
        if running:
            if alone:
                guest.signal(number)
        elif number not in relay.ignored and not ended.done():
            ended.set_result(128 + number)
            interrupted.set()

    running = False
    relay.attach(loop, deliver)
    try:
        with _running(config, prepared, lambda: guest.signal(signal.SIGTERM)) as (instance, control, served):
            guest.watch(loop, on_exit=on_exit)
            for other in prepared.attached.values():
                other.watch(loop)
            await _monitors(config, instance, control, served, interrupted)
            leases = asyncio.ensure_future(guest.leased())
            await asyncio.wait((leases, ended), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                leases.cancel()
                return ended.result()
            leases.result()
            _ready(config, "")
            if started is not None:
                started(control)
            guest.start(command)
            running = True
            status = await ended
            await _linger(instance)
            return status
    except (BuildError, ServerError) as error:
        _say(str(error))
        return USAGE
    except GuestError as error:
        _say(f"exec: {error}")
        return EXEC_FAILED
