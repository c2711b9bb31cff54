"""``tapnet exec``: exit status, signals, terminal, and that nothing is left however it ends."""

from __future__ import annotations

import fcntl
import os
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import apart
from tests.netns.exec_kit import UID, Runner, root_runner, user_runner
from tests.netns.support import processes, until_sync
from tests.waiting import BOUND_S

QUICK = ("-net", "nic,model=direct", "-net", "user")


@pytest.fixture(scope="module", params=["root", "user"])
def tapnet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    home = tmp_path_factory.mktemp(request.param)
    return root_runner(home) if request.param == "root" else user_runner(home)


def read_until(stream: Callable[[], str], word: str, seconds: float = BOUND_S) -> str:
    """Collect output until ``word`` is in it."""
    text, end = "", time.monotonic() + seconds
    while word not in text:
        assert time.monotonic() < end, f"no {word!r} in {text!r}"
        text += stream()
    return text


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_streams_that_the_caller_closed(tapnet: Runner, closed: str) -> None:
    words = shlex.join(tapnet.argv("exec", "--", "sh", "-c", "echo out; echo err >&2; exit 7"))
    done = subprocess.run(
        ["sh", "-c", f"{words} {closed}"], env=tapnet.env, capture_output=True, text=True, timeout=BOUND_S
    )
    assert done.returncode == 7
    assert done.stdout == ("" if "1>" in closed else "out\n")
    assert done.stderr == ("" if "2>" in closed else "err\n")


def test_few_descriptors_are_enough(tapnet: Runner) -> None:
    words = shlex.join(
        tapnet.argv("exec", "--", "sh", "-c", "nc -N -w 5 10.0.2.2 1; test $? = 1 && echo refused")
    )
    done = subprocess.run(
        ["sh", "-c", f"ulimit -n 64; {words}"],
        env=tapnet.env,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
    )
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


# ---- exit status -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["no-such-command"], 127),
        (["/etc/passwd"], 126),
        (["/etc/passwd/x"], 127),
        (["sh", "-c", "sleep 300 & exit 3"], 3),
    ],
)
def test_status_is_the_commands(tapnet: Runner, command: list[str], status: int) -> None:
    done = tapnet.run(command, *QUICK, seconds=BOUND_S)
    assert done.returncode == status, done.stderr
    if status in (126, 127):
        assert done.stderr.startswith(f"tapnet: {command[0]}: ") and done.stderr.count("\n") == 1


def test_no_lease_is_125(tmp_path: Path) -> None:
    tapnet = root_runner(tmp_path)
    done = tapnet.run(["true"], "-net", "nic", "-net", "user,vlan=3", seconds=BOUND_S)
    assert (done.returncode, done.stdout) == (125, "")
    assert re.search(r"no DHCP lease on eth0 within \d+ s", done.stderr), done.stderr


def test_standard_streams_and_descriptors_pass(tapnet: Runner) -> None:
    read, write = os.pipe()
    script = f"cat; echo err >&2; echo fd >&{write}; pwd; echo $X"
    argv = tapnet.argv("exec", *QUICK, "--", "bash", "-c", script)
    done = subprocess.run(
        argv,
        env=tapnet.env | {"X": "kept"},
        input="in\n",
        capture_output=True,
        text=True,
        pass_fds=[write],
        timeout=BOUND_S,
        cwd=tapnet.home,
    )
    os.close(write)
    assert (done.stdout, done.stderr) == (f"in\n{tapnet.home}\nkept\n", "err\n")
    assert os.read(read, 10) == b"fd\n"
    assert os.read(read, 10) == b"", "nobody keeps the descriptor"
    os.close(read)


def test_environment_is_the_callers(tapnet: Runner) -> None:
    env = {name: value for name, value in tapnet.env.items() if name not in ("LANG", "LC_ALL", "LC_CTYPE")}
    done = subprocess.run(
        tapnet.argv("exec", *QUICK, "--", "/usr/bin/env"),
        env=env,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
    )
    assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == env, done.stderr


def test_files_stay_visible_and_private_places_are_private(tapnet: Runner) -> None:
    mark = tapnet.home / "mark"
    done = tapnet.run(
        f"echo hello > {mark}; echo x > /run/tapnet-test; echo y > /var/lib/dhcp/tapnet-test; ls /run /etc/passwd;"
        "echo 'nameserver 192.0.2.1' > /etc/resolv.conf; cat /etc/resolv.conf; ps -e -o pid= | wc -l",
        *QUICK,
    )
    assert done.returncode == 0, done.stderr
    assert mark.read_text() == "hello\n"
    assert "nameserver 192.0.2.1" in done.stdout and "tapnet-test" in done.stdout
    assert int(done.stdout.split()[-1]) < 10
    assert "192.0.2.1" not in Path("/etc/resolv.conf").read_text()
    assert not Path("/run/tapnet-test").exists() and not Path("/var/lib/dhcp/tapnet-test").exists()


def test_keep_uid(tapnet: Runner) -> None:
    done = tapnet.run("id -u; id -g; grep CapEff /proc/self/status; ping -c 1 -w 30 10.0.2.2 >/dev/null; echo $?",
                      "--keep-uid", *QUICK)  # fmt: skip
    uid, gid, _, caps, ping = done.stdout.split()
    assert ping == "0"
    if tapnet.name == "user":
        assert (uid, gid, int(caps, 16)) == ("1000", "1000", 0)
    else:
        assert uid == "0"


LIMITS = {
    "user": "user namespaces are not permitted here",
    "net": "the limit on namespaces is reached",
    "pid": "the limit on namespaces is reached",
    "mnt": "the limit on namespaces is reached",
}


# Run words in a user namespace with room for many users, as one of them, after a limit was set there (not on the host).
LIMITED = """
import os, sys
from tapnet.system import syscalls
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    with open(f"/proc/sys/user/max_{sys.argv[1]}_namespaces", "w") as file:
        file.write("0")
    os.setgroups([])
    uid = int(sys.argv[2])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.execvp(sys.argv[3], sys.argv[3:])
os.read(ready[0], 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as file:
        file.write("0 0 2000")
os.write(go[1], b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("which", LIMITS)
def test_without_namespaces_one_line_says_so(tmp_path: Path, which: str) -> None:
    user = user_runner(tmp_path)
    argv = user.argv("exec", *QUICK, "--", "true")[len(user.prefix) - 1 :]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, which, str(UID), *argv],
        env=user.env, capture_output=True, text=True, timeout=BOUND_S, cwd="/",
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert LIMITS[which] in done.stderr and done.stderr.count("\n") == 1
    argv = user.argv("doctor")[len(user.prefix) - 1 :]
    told = subprocess.run(
        [sys.executable, "-c", LIMITED, which, str(UID), *argv],
        env=user.env, capture_output=True, text=True, timeout=BOUND_S, cwd="/",
    )  # fmt: skip
    assert told.returncode == 1, told.stdout + told.stderr
    assert f"sysctl -w user.max_{which}_namespaces=15000\n" in told.stdout


# ---- signals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2"])
def test_signal_to_tapnet_alone_is_passed_on(tapnet: Runner, name: str) -> None:
    script = f"trap 'echo got {name}; exit 3' {name}; echo ready; while :; do sleep 0.05; done"
    process = tapnet.popen(script, *QUICK)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.wait(BOUND_S) == 3
        assert process.stdout.read() == f"got {name}\n"
    finally:
        process.kill()


def test_signal_without_a_handler_is_128_and_it(tapnet: Runner) -> None:
    process = tapnet.popen("echo ready; exec sleep 300", *QUICK)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(BOUND_S) == 143
    finally:
        process.kill()


# ---- the terminal ------------------------------------------------------------------------------------------


class Terminal:
    """A program whose controlling terminal is ours."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self.process, self.fd = apart.terminal(argv, env)
        self.resize(24, 80)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def read(self) -> str:
        if not select.select([self.fd], [], [], 0.2)[0]:
            return ""
        try:
            return os.read(self.fd, 65536).decode(errors="replace")
        except OSError:  # EIO: the other side is gone
            return ""

    def status(self, seconds: float = BOUND_S) -> int:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read()
            code = self.process.poll()
            if code is not None:
                return code if code >= 0 else 128 - code
        raise AssertionError("still running")

    def close(self) -> None:
        os.close(self.fd)
        self.process.kill()
        self.process.wait(BOUND_S)


@pytest.fixture
def terminal(tapnet: Runner) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*command: str) -> Terminal:
        env = tapnet.env | {"TERM": "dumb", "PS1": "PROMPT>"}
        made.append(Terminal(list(command), env))
        return made[-1]

    yield start
    for item in made:
        item.close()


def exec_words(tapnet: Runner, command: str) -> list[str]:
    return tapnet.argv("exec", *QUICK, "--", "bash", "-c", command)


def test_terminal_is_the_commands_own(tapnet: Runner, terminal: Callable[..., Terminal]) -> None:
    """No pty in between; window size and its changes come through; ^C arrives once."""
    script = (
        "trap 'echo size $(stty size)' WINCH; n=0; trap 'n=$((n+1)); echo int $n' INT; tty; stty size;"
        "turns=$(seq 1000); echo ready; "  # before ready: ^C may kill a seq
        "for i in $turns; do sleep 0.05; [ -e stop ] && exit 6; done"
    )
    (tapnet.home / "stop").unlink(missing_ok=True)
    session = terminal("sh", "-c", f'cd {tapnet.home}; exec "$@"', "-", *exec_words(tapnet, script))
    text = read_until(session.read, "ready")
    assert "24 80" in text and "/dev/pts/" in text
    session.resize(50, 132)
    read_until(session.read, "size 50 132")
    session.type("\x03")
    read_until(session.read, "int 1")
    session.resize(24, 80)
    text = read_until(session.read, "size 24 80")
    assert "int 2" not in text
    session.type("\x03")
    read_until(session.read, "int 2")
    (tapnet.home / "stop").touch()
    assert session.status() == 6


def test_interactive_shell_has_job_control(tapnet: Runner, terminal: Callable[..., Terminal]) -> None:
    session = terminal(*tapnet.argv("exec", *QUICK, "--", "bash", "--norc", "--noediting", "-i"))
    text = read_until(session.read, "PROMPT>")
    assert "job control" not in text and "cannot set terminal" not in text
    session.type("sh -c 'echo be''gun; exec sleep 100'\n")
    read_until(session.read, "begun")
    session.type("\x1a")
    read_until(session.read, "Stopped")
    shell = os.tcgetpgrp(session.fd)
    session.type("jobs; fg\n")
    until_sync(lambda: os.tcgetpgrp(session.fd) != shell, "the job in the foreground")
    session.type("\x03")
    session.type("echo stat-$?\n")
    read_until(session.read, "stat-130")
    session.type("exit 9\n")
    assert session.status() == 9


def test_plain_shell_ends_well(tapnet: Runner, terminal: Callable[..., Terminal]) -> None:
    """dash names its process group when it ends; one that is invisible in the PID namespace would fail."""
    session = terminal(*tapnet.argv("exec", *QUICK, "--", "sh", "-i"))
    read_until(session.read, "PROMPT>")
    session.type("exit 7\n")
    assert session.status() == 7


def test_interrupt_ends_the_script_around_tapnet(tapnet: Runner, terminal: Callable[..., Terminal]) -> None:
    user = len(tapnet.prefix) - 1  # the script itself is the user's, so that its signals reach it
    inner = " ".join(tapnet.argv("exec", *QUICK, "--")[user:])
    session = terminal(
        *tapnet.prefix[:-1], "sh", "-c", f"{inner} sh -c 'echo be''gun; exec sleep 100'; echo not reached"
    )
    read_until(session.read, "begun")
    session.type("\x03")
    assert session.status() == 128 + signal.SIGINT


def test_pipeline_keeps_the_terminal(tapnet: Runner, terminal: Callable[..., Terminal]) -> None:
    """COMMAND writes to a pager that reads the terminal, as `tapnet exec -- CMD | less` does."""
    inner = " ".join(tapnet.argv("exec", *QUICK, "--"))
    session = terminal(
        "bash",
        "-c",
        f"{inner} sh -c 'echo data; sleep 1' | (read a; echo se''en; read b </dev/tty; echo $a-$b)",
    )
    read_until(session.read, "seen")
    session.type("typed\n")
    read_until(session.read, "data-typed")
    assert session.status() == 0


def test_terminal_comes_back_when_a_shell_is_killed(
    tapnet: Runner, terminal: Callable[..., Terminal]
) -> None:
    """The shell made itself the foreground group; when it is killed, the caller must be able to read again."""
    inner = " ".join(tapnet.argv("exec", *QUICK, "--"))
    session = terminal(
        "sh", "-c", f"{inner} bash --norc -ic 'kill -9 $$'; echo after $?; read x; echo got $x"
    )
    read_until(session.read, "after 137")
    session.type("line\n")
    read_until(session.read, "got line")
    assert session.status() == 0


def test_stop_and_continue(tapnet: Runner, terminal: Callable[..., Terminal]) -> None:
    """^Z stops tapnet and COMMAND together for the shell that runs tapnet; fg continues both."""
    session = terminal("bash", "--norc", "--noediting", "-i")
    read_until(session.read, "PROMPT>")
    words = " ".join(tapnet.argv("exec", *QUICK, "--"))
    session.type(
        f"{words} sh -c 'echo be''gun; read x; echo got $x; ping -c 1 -w 30 10.0.2.2 >/dev/null && echo al''ive'\n"
    )
    read_until(session.read, "begun")
    session.type("\x1a")
    read_until(session.read, "Stopped")
    session.type("fg\n")
    session.type("word\n")
    assert "got word" in read_until(session.read, "alive")
    session.type("exit\n")
    session.status()


def test_interrupt_before_command_runs(tapnet: Runner, terminal: Callable[..., Terminal]) -> None:
    """^C while a lease is waited for that nobody gives."""
    words = ["exec", "-net", "nic,model=direct,vlan=1", "-net", "user", "--", "echo", "reached"]
    session = terminal(*tapnet.argv(*words))
    said = read_until(session.read, "has a card and nothing else")
    session.type("\x03")
    assert session.status() == 128 + signal.SIGINT
    assert "reached" not in said


@pytest.mark.parametrize("command", ["exec sleep 300", "sleep 300 | sleep 300"])
def test_hang_up_of_a_terminal_that_is_tapnets_own(
    tapnet: Runner, terminal: Callable[..., Terminal], command: str
) -> None:
    """As with ``ssh -t host tapnet exec ...``: the kernel tells the leader of the session alone."""
    session = terminal(*tapnet.argv("exec", *QUICK, "--", "sh", "-c", f"echo begun; {command}"))
    read_until(session.read, "begun")
    started = children(session.process.pid)
    for child in started:
        started += children(child)
    assert len(started) >= 3, "helper, PID 1, COMMAND"
    os.close(session.fd)
    session.fd = os.open(os.devnull, os.O_RDWR)
    until_sync(lambda: session.process.poll() is not None, "tapnet to end")
    until_sync(lambda: not any(map(alive, started)), "what it had started to end")


# ---- nothing stays -----------------------------------------------------------------------------------------


def namespaces() -> set[str]:
    """Inodes of the network namespaces that some process is in."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(os.readlink(path))
        except OSError:
            continue
    return found


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie that nobody has reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("victim", ["tapnet", "helper", "init", "command"])
def test_nothing_stays_when_one_is_killed(tapnet: Runner, victim: str) -> None:
    links = os.listdir("/sys/class/net")
    marker = f"9{os.getpid()}{time.monotonic_ns() % 10**6}"
    process = tapnet.popen(f"sleep {marker} & echo ready; exec sleep {marker}", *QUICK)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        (helper,) = children(process.pid)
        (init,) = children(helper)
        namespace = os.readlink(f"/proc/{init}/ns/net")
        assert namespace in namespaces() and namespace != os.readlink("/proc/self/ns/net")
        command = next(pid for pid in processes(marker) if pid not in (process.pid, helper, init))
        os.kill(
            {"tapnet": process.pid, "helper": helper, "init": init, "command": command}[victim],
            signal.SIGKILL,
        )
        status = process.wait(BOUND_S)
        assert status == (-9 if victim == "tapnet" else 137)
        until_sync(lambda: not processes(marker), f"processes of the guest: {processes(marker)}")
        until_sync(lambda: namespace not in namespaces(), "its namespace")
        until_sync(lambda: not alive(helper), "the helper")
        assert os.listdir("/sys/class/net") == links
        assert process.stdout.read() == "", "nobody holds the pipe"
    finally:
        process.kill()


def test_daemons_of_the_guest_end_with_command(tapnet: Runner) -> None:
    marker = f"8{os.getpid()}{time.monotonic_ns() % 10**6}"
    done = tapnet.run(f"setsid sleep {marker} >/dev/null 2>&1 & exit 0", *QUICK)
    assert done.returncode == 0
    assert processes(marker) == []


@pytest.mark.slow
def test_start_to_first_lease(tapnet: Runner) -> None:
    """Aim: 0.5 s. The bound here is for a busy machine."""
    done = tapnet.run("date +%s.%N", seconds=BOUND_S)
    start = time.time()
    done = tapnet.run("date +%s.%N")
    assert re.fullmatch(r"[0-9.]+\n", done.stdout), done.stderr
    assert float(done.stdout) - start < 5
