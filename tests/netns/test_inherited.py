"""What tapnet does with the signal dispositions and the mask that it was started with.

``nohup``, the background of a script, a parent that collects no children: an ignored signal stays ignored, in tapnet and in
COMMAND; and a limit of a start counts no time in which the guest's processes get on.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tapnet.guest.namespace import guest as namespace
from tapnet.guest.namespace.guest import GuestError, Interrupted, NamespaceGuest
from tests.netns.exec_kit import Runner
from tests.netns.lan_kit import Running, tapnet
from tests.netns.lan_kit import namespace as network
from tests.netns.support import sh
from tests.waiting import BOUND_S, until

__all__ = ["tapnet"]  # a fixture

QUICK = ("-net", "nic,model=direct", "-net", "user")
NO_LEASE = ("-net", "nic,model=direct,vlan=1", "-net", "user")
LATE = """
import os, signal, sys
ignored, blocked = sys.argv[1].split("/")
for word in ignored.split():
    signal.signal(int(word), signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [int(word) for word in blocked.split()])
os.execvp(sys.argv[2], sys.argv[2:])
"""


def having(tapnet: Runner, ignored: Iterable[int] = (), blocked: Iterable[int] = ()) -> Runner:
    """``tapnet`` started with these signals ignored or blocked."""
    words = "/".join(" ".join(str(int(number)) for number in numbers) for numbers in (ignored, blocked))
    return Runner(tapnet.name, (sys.executable, "-c", LATE, words, *tapnet.prefix), tapnet.env, tapnet.home)


def ignores(pid: int, number: int) -> bool:
    text = Path(f"/proc/{pid}/status").read_text()
    return bool(int(text.split("SigIgn:")[1].split()[0], 16) >> number - 1 & 1)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_an_ignored_signal_does_not_end_the_wait_for_a_lease(tapnet: Runner, number: int) -> None:
    process = subprocess.Popen(
        having(tapnet, [number]).argv("exec", *NO_LEASE, "--", "echo", "reached"),
        env=tapnet.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        for _ in range(2):
            assert "has " in process.stderr.readline(), "two warnings about a net without a wire"
        process.send_signal(number)
        process.send_signal(signal.SIGTERM)  # read after the other, whose number is lower
        said = process.communicate(timeout=BOUND_S)
        assert process.returncode == 128 + signal.SIGTERM and "reached" not in said[0], said
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_command_inherits_what_is_ignored_and_may_still_ask_for_it(tapnet: Runner, number: int) -> None:
    """A COMMAND that sets a handler gets the signal that was sent to tapnet, as without tapnet in between."""
    script = (
        "import os, signal, sys, time\n"
        f"print(signal.getsignal({number}) is signal.SIG_IGN, flush=True)\n"
        f"signal.signal({number}, lambda *_: (print('asked', flush=True), os._exit(4)))\n"
        "print('ready', flush=True)\ntime.sleep(600)\n"
    )
    process = subprocess.Popen(
        having(tapnet, [number]).argv("exec", *QUICK, "--", sys.executable, "-c", script),
        env=tapnet.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["True\n", "ready\n"]
        process.send_signal(number)
        assert process.wait(BOUND_S) == 4
        assert process.stdout.read() == "asked\n"
    finally:
        process.kill()
        process.wait()


def test_commands_status_is_known_when_children_are_ignored(tapnet: Runner) -> None:
    assert having(tapnet, [signal.SIGCHLD]).run("exit 7", *QUICK, seconds=BOUND_S).returncode == 7


def configured(tapnet: Runner) -> tuple[Path, str]:
    """A configuration, and words that would make it one that a reload complains about."""
    file = tapnet.home / "lab.toml"
    file.write_text('[[net]]\ntype = "user"\n')
    return file, '[[net]]\ntype = "usr"\n'


def test_run_under_nohup_and_in_the_background_of_a_script(tapnet: Runner) -> None:
    """Neither a hang-up nor ^C does anything; SIGTERM ends it."""
    file, bad = configured(tapnet)
    runner = having(tapnet, [signal.SIGHUP, signal.SIGINT])
    with Running(runner, "--config", str(file)) as running:
        file.write_text(bad)
        for number in (signal.SIGHUP, signal.SIGINT):
            assert ignores(running.process.pid, number)
            running.process.send_signal(number)
        assert running.monitor("info", "name").strip() == running.name
        assert "reload" not in running.said()
        assert running.stop() == 0


def test_run_ends_and_reloads_although_its_caller_had_the_signals_blocked(tapnet: Runner) -> None:
    file, bad = configured(tapnet)
    numbers = [signal.SIGHUP, signal.SIGTERM, signal.SIGINT]
    with Running(having(tapnet, blocked=numbers), "--config", str(file)) as running:
        file.write_text(bad)
        running.process.send_signal(signal.SIGHUP)
        until(lambda: "reload: " in running.said(), "a reload")
        assert running.stop() == 0


def test_a_hang_up_under_nohup_undoes_no_bridge(tapnet: Runner) -> None:
    """The link over which somebody works goes while it is moved: nohup is there for that."""
    code = """
import os, signal, sys
from tapnet.lan import bridge
from tapnet.lan.record import Interrupted
try:
    bridge.up("br0", "eth0", step=lambda what: os.kill(os.getpid(), signal.SIGHUP))
except Interrupted as error:
    print(error)
"""
    with network("nohup") as name:
        sh(f"ip -n {name} link add eth0 type veth peer name peer0")
        sh(f"ip -n {name} link set eth0 up")
        sh(f"ip -n {name} addr add 192.168.9.2/24 dev eth0")
        for ignored, said, there in (([], "SIGHUP\n", False), ([signal.SIGHUP], "", True)):
            words = having(tapnet, ignored).prefix
            done = subprocess.run(
                ["ip", "netns", "exec", name, *words, "-c", code],
                env=tapnet.env, capture_output=True, text=True, timeout=BOUND_S,
            )  # fmt: skip
            assert (done.stdout, done.returncode) == (said, 0), done.stderr
            assert ("br0" in sh(f"ip -n {name} -o link")) == there


# ---- how long a start may take -----------------------------------------------------------------------------


def slow(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Have the helper do ``what`` before it makes the interfaces."""
    made = namespace.guest_helper

    def late(*words: object) -> None:
        exec(what, {"time": time, "end": time.monotonic() + 3})
        made(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(namespace, "guest_helper", late)
    monkeypatch.setattr(namespace, "READY_SECONDS", 1.0)


def test_a_start_that_gets_on_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seconds of work, where one second of silence is the limit."""
    slow(monkeypatch, "while time.monotonic() < end: pass")
    NamespaceGuest.spawn([]).close()


def test_a_start_that_is_stuck_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, "time.sleep(600)")
    with pytest.raises(GuestError, match=r"was not ready within \d+ s"):
        NamespaceGuest.spawn([])


def test_a_start_that_works_without_end_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, "while True: pass")
    monkeypatch.setattr(namespace, "READY_MAX_SECONDS", 2.0)
    with pytest.raises(GuestError, match=r"was not ready within \d+ s"):
        NamespaceGuest.spawn([])


def test_a_start_that_is_stuck_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """``tapnet exec`` has the signals blocked when it makes the guest: ^C must not wait for the limit."""
    slow(monkeypatch, "time.sleep(600)")
    monkeypatch.setattr(namespace, "READY_SECONDS", BOUND_S)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        signal.pthread_kill(
            threading.get_ident(), signal.SIGINT
        )  # another thread of pytest would take one for the process
        with pytest.raises(Interrupted) as error:
            NamespaceGuest.spawn([])
        assert error.value.number == signal.SIGINT
        assert signal.sigwait([signal.SIGINT]) == signal.SIGINT  # it is not delivered to pytest
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
