"""``make matrix``: both commands, the checks, the installation and the booted service on fresh Debians, in one table.

For each suite a minimal tree is made by debootstrap (once, kept in ``.cache/matrix/SUITE/base``). Each commit gets a
copy of it with a clone of HEAD in /root/tapnet, which root alone can enter. The steps run in the copy by
systemd-nspawn: files, /etc, processes, mounts and host name are the tree's own. The network is the machine's, because
``make run`` and ``make test`` fetch what they need (the tests make namespaces of their own); the booted tree has a
network of its own.

* Resumable: a step that passed for this commit is not run again, unless ``--again`` asks for it.
* Bounded: each step has a limit; what is over it is killed and counts as failed.
* Nothing stays but ``.cache/matrix``: each step runs in a process and a mount namespace that end with it.
* Packages, wheels and the guest kit (where ``kit.py`` is the same) are kept from one commit to the next.

Standard library only: it runs before there is a venv. Needs root, debootstrap, git and systemd-nspawn.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "matrix"
SUITES = ("bookworm", "trixie", "sid")
INCLUDE = "adduser,ca-certificates,git,make,python3,systemd,systemd-sysv"
CLONE = "root/tapnet"
USER = "somebody"
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "PIP_DEFAULT_TIMEOUT", "PIP_INDEX_URL")

# What a step runs in the clone, and the seconds that it may take at most.
STEPS: dict[str, tuple[str, int]] = {
    "run": ("make run", 900),
    "user": (
        f"id {USER} >/dev/null 2>&1 || useradd -m {USER}; rm -rf ~{USER}/tapnet; "
        f"git clone -q --no-hardlinks /{CLONE} ~{USER}/tapnet && chown -R {USER}: ~{USER}/tapnet && "
        f"su - {USER} -c 'cd tapnet && make run && make unit'",
        1500,
    ),
    "test": ("make test", 7200),
    "lint": ("make lint types arch", 1200),
    "install": (
        "make install PYTHON=/usr/bin/python3 && systemd-sysusers && "
        "systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/tapnet.conf",
        900,
    ),
    "boot": ("", 300),
}

# Runs nspawn in namespaces that end with it: $1 is yes for a cgroup hierarchy of its own.
ENTER = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
if [ "$1" = yes ] && [ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount -l /sys/fs/cgroup || true
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
shift
exec systemd-nspawn "$@"
"""

CONFIG = """\
[[net]]
type = "user"
[[net]]
type = "tap"
ifname = "tap-matrix"
"""

PROBE_UNIT = """\
[Unit]
After=multi-user.target tapnet@matrix.service
[Service]
Type=oneshot
TimeoutStartSec=200
ExecStart=/bin/bash /matrix/probe.sh
ExecStopPost=/bin/systemctl --no-block poweroff
"""

PROBE = r"""
exec >/matrix/probe.log 2>&1
same() { [ "$1" = "$2" ] || { echo "$3: \"$1\" instead of \"$2\""; exit 1; }; }
trap '[ $? = 0 ] || { systemctl status tapnet@matrix; journalctl -q --no-pager -n 60; }' EXIT
set -ex
same "$(systemctl is-active tapnet@matrix)" active 'started at boot'
tapnet monitor -i matrix info network | grep ifname=tap-matrix
[ -e /sys/class/net/tap-matrix ]
echo TAPNET_MODE=user >/etc/tapnet/matrix.env
systemctl restart tapnet@matrix
same "$(systemctl is-active tapnet@matrix)" active restarted
systemctl reload tapnet@matrix
same "$(systemctl show -P NRestarts tapnet@matrix)" 0 restarts
systemctl stop tapnet@matrix
same "$(systemctl show -P Result tapnet@matrix)" success result
[ ! -e /sys/class/net/tap-matrix ]
same "$(systemctl --failed --plain --no-legend | grep tapnet || true)" '' 'failed units'
echo matrix: booted
"""

VERSIONS = r"""
. /etc/os-release; printf 'debian=%s\n' "$(cat /etc/debian_version)"
printf 'python=%s\n' "$(python3 -c 'import platform; print(platform.python_version())')"
printf 'systemd=%s\n' "$(systemctl --version | sed -n 's/systemd \([^ ]*\).*/\1/p')"
printf 'qemu=%s\n' "$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/.*version \([^ ]*\).*/\1/p')"
printf 'kernel=%s\n' "$(uname -r)"
"""

SUMMARY = re.compile(r"^=+ (.*\b(?:passed|failed|errors?|skipped|no tests ran)\b.*) in [\d.]+s.*=+$", re.M)


class MatrixError(Exception):
    """A tree could not be made, or the machine lacks what that needs."""


def counts(log: str) -> dict[str, int]:
    """Tests passed, failed (errors among them) and skipped, added over every summary of pytest in a log."""
    found = dict.fromkeys(("passed", "failed", "skipped"), 0)
    for summary in SUMMARY.findall(re.sub(r"\x1b\[[\d;]*m", "", log)):
        for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", summary):
            found["failed" if word.startswith("error") else word] += int(number)
    return found


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows as a Markdown table, the first of them the head, in columns of one width."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def output(*words: str | Path, **more: Any) -> str:
    done = subprocess.run(
        [str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    )
    if done.returncode:
        raise MatrixError(f"{' '.join(str(w) for w in words)}: {done.stdout[-2000:].strip()}")
    return done.stdout.strip()


def bounded(words: list[str], log: Path, seconds: float) -> int:
    """Status of a command that writes to ``log``; over its time it is killed, with all that it started: 124."""
    with open(log, "ab") as sink:
        child = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", *words],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            sink.write(f"\nmatrix: killed after {seconds:.0f} s\n".encode())
            return 124
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


class Suite:
    """The trees of one Debian suite and what is known of the steps in them."""

    def __init__(self, name: str, commit: str) -> None:
        self.name, self.commit = name, commit
        self.folder = CACHE / name
        self.base, self.tree = self.folder / "base", self.folder / "tree"
        self.file = self.folder / "state.json"
        try:
            self.state = json.loads(self.file.read_text())
        except (OSError, ValueError):
            self.state = {}
        self.state.setdefault("steps", {})

    def save(self) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.state, indent=1))
        new.rename(self.file)

    def make_base(self) -> None:
        """Debootstrap the tree that every commit begins with."""
        stamp = self.folder / "base.ok"
        if stamp.exists():
            return
        from tests.guests import kit

        try:
            archive = kit.mirror()
        except kit.KitError as error:
            raise MatrixError(str(error)) from None
        output("rm", "-rf", "--one-file-system", self.base)
        self.folder.mkdir(parents=True, exist_ok=True)
        words = ["debootstrap", "--variant=minbase", f"--include={INCLUDE}", self.name, self.base, archive]
        status = bounded([str(w) for w in words], self.folder / "base.log", 1800)
        if status:
            raise MatrixError(
                f"debootstrap of {self.name} ended with {status}: see {self.folder / 'base.log'}"
            )
        shutil.rmtree(self.base / "var/cache/apt/archives", ignore_errors=True)
        for extra in Path("/etc/apt/apt.conf.d").glob("*"):
            if re.search(r"^\s*Acquire::", extra.read_text(errors="replace"), re.M):
                shutil.copy(extra, self.base / "etc/apt/apt.conf.d")
        for authority in Path("/usr/local/share/ca-certificates").glob("*.crt"):
            shutil.copy(authority, self.base / "usr/local/share/ca-certificates")
        output("chroot", self.base, "update-ca-certificates")
        (self.base / "root").chmod(0o700)
        stamp.touch()

    def make_tree(self) -> None:
        """A fresh copy of the base with the clone; the guest kit of the last one stays if it is still right."""
        if self.state.get("commit") == self.commit and self.tree.exists():
            return
        self.make_base()
        kit, kept = self.tree / CLONE / ".cache/guests", self.folder / "guests"
        if kit.exists() and not kept.exists() and kit_hash(self.tree / CLONE) == kit_hash(ROOT):
            kit.rename(kept)
        output("rm", "-rf", "--one-file-system", self.tree)
        self.state = {"commit": self.commit, "steps": {}}
        self.save()
        new = self.folder / "tree.new"
        output("rm", "-rf", "--one-file-system", new)
        output("cp", "-a", "--reflink=auto", self.base, new)
        output("git", "clone", "-q", "--no-hardlinks", "--no-checkout", ROOT, new / CLONE)
        output("git", "-C", new / CLONE, "checkout", "-q", self.commit)
        if kept.exists():
            (new / CLONE / ".cache").mkdir()
            kept.rename(new / CLONE / ".cache/guests")
        new.rename(self.tree)

    def words(self, script: str, boot: bool = False) -> list[str]:
        """The command that runs ``script`` in the tree, or boots the tree."""
        for name in ("apt", "pip"):
            (CACHE / name / self.name).mkdir(parents=True, exist_ok=True)
        (CACHE / "apt" / self.name / "partial").mkdir(exist_ok=True)
        resolver = self.tree / "etc/resolv.conf"
        resolver.unlink(missing_ok=True)
        resolver.write_text(Path("/etc/resolv.conf").read_text())
        more = [f"--setenv={key}={os.environ[key]}" for key in PASSED_ON if key in os.environ] + [
            f"--bind={CACHE / 'apt' / self.name}:/var/cache/apt/archives"
        ]
        more += [f"--bind={CACHE / 'pip' / self.name}:/root/.cache/pip"]
        if boot:
            more += ["--private-network", "--boot"]
        else:
            more += ["--capability=all", "--private-users=no"]
            more += ["--chdir=/root/tapnet", "--as-pid2", "bash", "-c", script]
        return [
            *("env", "-i", f"PATH={os.environ['PATH']}", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=1"),
            *("SYSTEMD_NSPAWN_TMPFS_TMP=0", "sh", "-c", ENTER, "enter", "yes" if boot else "no"),
            *("-q", f"--directory={self.tree}", f"--machine=matrix-{self.name}", "--register=no"),
            *("--keep-unit", "--link-journal=no", "--console=pipe", "--resolv-conf=off"),
            *("--bind=/dev/net/tun", *more),
        ]

    def boot(self, log: Path, seconds: float) -> int:
        """Boot the tree with tapnet@matrix enabled, and let a probe look at it."""
        place = self.tree / "matrix"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "probe.sh").write_text(PROBE)
        (self.tree / "etc/tapnet").mkdir(exist_ok=True)
        (self.tree / "etc/tapnet/matrix.toml").write_text(CONFIG)
        (self.tree / "etc/tapnet/matrix.env").write_text("TAPNET_MODE=tap\n")
        units = self.tree / "etc/systemd/system"
        wanted = units / "multi-user.target.wants"
        wanted.mkdir(parents=True, exist_ok=True)
        (units / "matrix-probe.service").write_text(PROBE_UNIT)
        links = {
            wanted / "matrix-probe.service": "/etc/systemd/system/matrix-probe.service",
            wanted / "tapnet@matrix.service": "/usr/local/lib/systemd/system/tapnet@.service",
        }
        for link, target in links.items():
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        try:
            bounded(self.words("", boot=True), log, seconds)
        finally:
            for link in links:
                link.unlink()
            (units / "matrix-probe.service").unlink()
        said = place / "probe.log"
        text = said.read_text() if said.exists() else "matrix: the probe did not run\n"
        with open(log, "a") as sink:
            sink.write(text)
        return 0 if "\nmatrix: booted\n" in text else 1

    def step(self, name: str, pytest: str) -> None:
        """Run one step and record what came of it."""
        script, seconds = STEPS[name]
        if pytest:
            script = f"export PYTEST_ADDOPTS={quoted(pytest)}; {script}"
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        say(f"{self.name}: {name} ...")
        begun = time.monotonic()
        status = self.boot(log, seconds) if name == "boot" else bounded(self.words(script), log, seconds)
        took = time.monotonic() - begun
        found = counts(log.read_text(errors="replace"))
        result = "passed" if status == 0 else "over time" if status == 124 else "FAILED"
        if pytest and name == "test" and status == 0:
            result = "in part"
        self.state["steps"][name] = {"result": result, "seconds": round(took), **found}
        versions = output(*self.words(VERSIONS))
        self.state["versions"] = dict(re.findall(r"^(\w+)=(\S*)\r?$", versions, re.M))
        self.save()
        say(f"{self.name}: {name} {result} in {took:.0f} s" + (f": see {log}" if status else ""))

    def rows(self) -> Iterator[tuple[str, ...]]:
        of = self.state.get("versions", {})
        known = [
            f"{key} {of.get(key.lower()) or '-'}" for key in ("Debian", "Python", "systemd", "QEMU", "kernel")
        ]
        for name in STEPS:
            done = self.state["steps"].get(name)
            first, known = (", ".join(known) if known else ""), []
            if done is None:
                yield (self.name, name, "", "", "", "", "not run", first)
                continue
            tests = [str(done[key]) for key in ("passed", "failed", "skipped")]
            if tests == ["0", "0", "0"]:
                tests = ["", "", ""]
            minutes, seconds = divmod(done["seconds"], 60)
            yield (self.name, name, f"{minutes}:{seconds:02}", *tests, done["result"], first)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def say(line: str) -> None:
    print(line, flush=True)


def kit_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "tests/guests/kit.py").read_bytes()).hexdigest()


def stop(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__.split("\n")[0])
    parser.add_argument("suites", nargs="*", default=SUITES, help=f"Debian suites ({' '.join(SUITES)})")
    parser.add_argument("--steps", default=",".join(STEPS), help="steps, by commas: %(default)s")
    parser.add_argument("--again", action="store_true", help="also run steps that passed for this commit")
    parser.add_argument(
        "--fresh", action="store_true", help="begin with a new tree, also for the same commit"
    )
    parser.add_argument(
        "--pytest", default="", metavar="ARGS", help="words for pytest, to try the step `test`"
    )
    parser.add_argument("--table", action="store_true", help="run nothing; print what is known")
    options = parser.parse_args(argv)
    steps = options.steps.split(",")
    if unknown := set(steps) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    if os.geteuid():
        sys.exit("tapnet: matrix: only root can enter the trees")
    if missing := [p for p in ("debootstrap", "git", "systemd-nspawn", "unshare") if not shutil.which(p)]:
        sys.exit(
            f"tapnet: matrix: {', '.join(missing)} not found; apt-get install debootstrap git systemd-container"
        )
    signal.signal(signal.SIGTERM, stop)
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("tapnet: matrix: another one is running")
        commit = output("git", "-C", ROOT, "rev-parse", "HEAD")
        if output("git", "-C", ROOT, "status", "--porcelain"):
            say("matrix: what is not committed is not in it")
        suites = [Suite(name, commit) for name in options.suites]
        try:
            for suite in suites if not options.table else ():
                if options.fresh:
                    suite.state.pop("commit", None)
                try:
                    suite.make_tree()
                except MatrixError as error:
                    say(f"{suite.name}: {error}")
                    continue
                for name in steps:
                    if options.again or suite.state["steps"].get(name, {}).get("result") != "passed":
                        suite.step(name, options.pytest)
        except KeyboardInterrupt:
            say("matrix: stopped; the next one goes on from here")
        head = ("suite", "step", "time", "passed", "failed", "skipped", "result", "versions")
        text = f"Commit {commit[:12]}\n\n" + table([head, *(row for suite in suites for row in suite.rows())])
    (CACHE / "table.md").write_text(text + "\n")
    say(text)
    return 0 if all(row[6] == "passed" for suite in suites for row in suite.rows()) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
