"""Start, run and stop: the process round an ``Instance``.

``run``: until SIGINT, SIGTERM or the monitor's ``quit``. ``exec_``: until COMMAND ends. Both return an exit status:
0, 2 for what the user configured wrong (one line on standard error), 125 for a failure of ``exec`` afterwards.

The only owner of a clock: ``time.monotonic_ns``. The event loop is uvloop where it is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from . import notify
from .clock import Clock
from .config import Config
from .guest.namespace import GuestError, SignalRelay
from .monitor.server import Served, ServerError, open_control, open_monitor, open_qmp
from .prepare import BuildError, Prepared, prepare

if TYPE_CHECKING:
    from .build import Instance
    from .guest.qtest import QtestServer

USAGE, EXEC_FAILED = 2, 125
STOPS = (signal.SIGINT, signal.SIGTERM)
LINGER_SECONDS = 2.0  # how long the kernel of an ended guest may take to send what COMMAND had written
LINGER_STEP = 0.01

Started = Callable[["Instance"], None]


def _say(text: str) -> None:
    print(f"tapnet: {text}", file=sys.stderr, flush=True)


def _runner() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def run(config: Config) -> int:
    """``tapnet run``: the emulator in the foreground. Returns the exit status."""
    try:
        prepared = prepare(config)
    except BuildError as error:
        _say(str(error))
        return USAGE
    try:
        with _runner() as runner:
            return runner.run(_run(config, prepared))
    finally:
        prepared.close()


@contextlib.contextmanager
def _stopped_by(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at SIGINT and SIGTERM. Afterwards this process, which is about to end, ignores them: a second one
    must neither cut the clean-up short nor meet a loop that is half closed.
    """
    for number in STOPS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        for number in STOPS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _run(config: Config, prepared: Prepared) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    with _stopped_by(loop, stop.set):
        return await _run_until(config, prepared, loop, stop)


async def _run_until(
    config: Config, prepared: Prepared, loop: asyncio.AbstractEventLoop, stop: asyncio.Event
) -> int:
    try:
        with _running(config, prepared, stop.set) as (instance, served):
            await _monitors(config, instance, served, stop)
            if stop.is_set():
                return 0
            for guest in prepared.guests():
                guest.watch(loop, on_exit=lambda status: _say(f"a guest's DHCP client ended ({status})"))
            _ready(config, instance)
            await _until(stop)
            notify.stopping()
    except (BuildError, ServerError) as error:
        _say(str(error))
        return USAGE
    return 0


async def _until(stop: asyncio.Event) -> None:
    """Wait for the end; tell systemd's watchdog from the loop itself."""
    interval = notify.watchdog_interval()
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), interval)
        except TimeoutError:
            notify.watchdog()


@contextlib.contextmanager
def _running(
    config: Config, prepared: Prepared, shutdown: Callable[[], None]
) -> Iterator[tuple[Instance, list[Served | QtestServer]]]:
    """An instance that runs, with its control socket."""
    from .build import Instance  # here, so that guests are forked before all of that is imported

    clock = Clock(time.monotonic_ns)
    instance = Instance(config, prepared, asyncio.get_running_loop(), clock.real, shutdown, clock, time.time)
    served: list[Served | QtestServer] = []
    try:
        served.append(open_control(instance.name, instance.control))
        for line in config.warnings:  # not before: an error is the only line
            _say(f"warning: {line}")
        instance.start()
        yield instance, served
    finally:
        for one in served:
            one.close()
        instance.close()


async def _monitors(
    config: Config, instance: Instance, served: list[Served | QtestServer], stop: asyncio.Event
) -> None:
    """Open the -monitor, -qmp and -qtest options; wait for the first client of those that say so."""
    wanted = [(open_monitor, chardev) for chardev in config.monitors]
    wanted += [(open_qmp, chardev) for chardev in config.qmp]
    for opener, chardev in wanted:
        one = await opener(chardev, instance.control)
        served.append(one)
        if chardev.server and chardev.wait:
            await _first_client(one, stop)
    if config.qtest is not None and instance.register_bus is not None and not stop.is_set():
        from .guest.qtest import open_qtest  # as above

        bus = await open_qtest(config.qtest, instance.register_bus)
        served.append(bus)
        if config.qtest.server and config.qtest.wait:
            await _first_client(bus, stop)


async def _first_client(one: Served | QtestServer, stop: asyncio.Event) -> None:
    _say(f"waiting for a client on {one.what}")
    waiting = [asyncio.ensure_future(one.first_client()), asyncio.ensure_future(stop.wait())]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for future in waiting:
        future.cancel()


def _ready(config: Config, instance: Instance) -> None:
    """Tell whoever waits that all is up."""
    notify.ready(f"{len(instance.vlans)} VLANs, mode {instance.mode or 'as configured'}")
    if config.ready_fd is not None:
        try:
            os.write(config.ready_fd, b"\n")
            if config.ready_fd > 2:
                os.close(config.ready_fd)
        except OSError as error:
            _say(f"warning: --ready-fd={config.ready_fd}: {error.strerror}")


async def _linger(instance: Instance) -> None:
    """COMMAND has ended; let its kernel send what it had written, as a real machine's would."""
    loop = asyncio.get_running_loop()
    end = loop.time() + LINGER_SECONDS
    while instance.unfinished() and loop.time() < end:
        await asyncio.sleep(LINGER_STEP)


def exec_(
    config: Config, command: Sequence[str], keep_uid: bool = False, *, started: Started | None = None
) -> int:
    """``tapnet exec``: COMMAND behind the configured cards. Returns its exit status, or ours.

    started(instance)   called once, on the loop, just before COMMAND starts
    """
    relay = SignalRelay()
    try:
        try:
            prepared = prepare(config, exec_=True, mask=relay.mask)
        except BuildError as error:
            _say(str(error))
            return USAGE
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

    def deliver(number: int) -> None:
        if running:
            guest.signal(number)
        elif not ended.done():
            ended.set_result(128 + number)
            interrupted.set()

    running = False
    relay.attach(loop, deliver)
    try:
        with _running(config, prepared, lambda: guest.signal(signal.SIGTERM)) as (instance, served):
            guest.watch(loop, on_exit=on_exit)
            for other in prepared.attached.values():
                other.watch(loop)
            await _monitors(config, instance, served, interrupted)
            leases = asyncio.ensure_future(guest.leased())
            await asyncio.wait((leases, ended), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                leases.cancel()
                return ended.result()
            leases.result()
            _ready(config, instance)
            if started is not None:
                started(instance)
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
