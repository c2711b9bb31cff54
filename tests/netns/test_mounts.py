"""What the guest sees at /etc/resolv.conf, for every way in which a host keeps it.

Each case plays in a mount namespace whose /etc is a copy, so that the host's own is never in question.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import BOUND_S

ROOT = Path(__file__).resolve().parents[2]

PLAY = """
import json, os, subprocess, sys
from tapnet.guest.namespace import mounts; from tapnet.system import syscalls
syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
syscalls.mount("tmpfs", "/mnt", "tmpfs")
subprocess.run(["sh", "-c", "cp -a /etc/passwd /mnt; mount --bind /mnt /etc"], check=True)
subprocess.run(["sh", "-c", sys.argv[1]], check=True)
before = sorted(os.listdir("/mnt"))
mounts.prepare("nameserver 10.0.2.3\\n")
seen = {"first": open("/etc/resolv.conf").read() if os.path.exists("/etc/resolv.conf") else None}
if sys.argv[2]:
    subprocess.run(["sh", "-c", sys.argv[2]], check=True)
    seen["second"] = open("/etc/resolv.conf").read()
seen["replaced"] = mounts.replace_resolv("nameserver 10.0.2.3\\n", "nameserver 192.0.2.1\\n")
seen["third"] = open("/etc/resolv.conf").read() if os.path.exists("/etc/resolv.conf") else None
seen["host"] = sorted(os.listdir("/mnt")) == before
print(json.dumps(seen))
"""


def play(arrange: str, act: str = "") -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", PLAY, arrange, act],
        capture_output=True, text=True, timeout=BOUND_S, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen: dict[str, object] = json.loads(done.stdout)
    return seen


CASES = {
    "a file": "echo nameserver 192.0.2.9 > /etc/resolv.conf",
    "systemd-resolved": "mkdir -p /run/systemd/resolve; echo x > /run/systemd/resolve/stub-resolv.conf;"
    "ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
    "resolvconf": "mkdir -p /run/resolvconf; echo x > /run/resolvconf/resolv.conf;"
    "ln -s /run/resolvconf/resolv.conf /etc/resolv.conf",
    "through /var/run": "ln -s /var/run/somewhere/resolv.conf /etc/resolv.conf",
    "dangling below /run": "ln -s /run/nobody/resolv.conf /etc/resolv.conf",
    "two links": "mkdir /etc/dns; echo x > /etc/dns/real; ln -s dns/real /etc/one; ln -s one /etc/resolv.conf",
    "missing": "true",
    "dangling in /etc": "ln -s /etc/nothing /etc/resolv.conf",
}


@pytest.mark.parametrize("case", CASES)
def test_the_guests_own_is_seen_and_follows_dhcp(case: str) -> None:
    seen = play(CASES[case])
    assert seen == {
        "first": "nameserver 10.0.2.3\n",
        "replaced": True,
        "third": "nameserver 192.0.2.1\n",
        "host": True,
    }


WRITERS = {
    "in place": "echo nameserver 198.51.100.1 > /etc/resolv.conf",
    "renamed over its target": 'r=$(readlink -f /etc/resolv.conf); echo nameserver 198.51.100.1 > "$r.new";'
    'mv -f "$r.new" "$r"',
    "appended beside it": 'r=$(readlink -f /etc/resolv.conf); : >> "$r.dhclient-new.1";'
    "echo nameserver 198.51.100.1 > /etc/resolv.conf",
}


@pytest.mark.parametrize("case", ["a file", "systemd-resolved", "two links"])
@pytest.mark.parametrize("writer", WRITERS)
def test_dhcp_scripts_may_write_it(case: str, writer: str) -> None:
    """What they write is seen, stays when tapnet hears of other servers, and nothing lands in the host's /etc."""
    text = "nameserver 198.51.100.1\n"
    seen = play(CASES[case], WRITERS[writer])
    assert (seen["second"], seen["replaced"], seen["third"], seen["host"]) == (text, False, text, True)
