"""smb=: a real smbd for a real smbclient in a guest; whose rights it has, and that nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.exec_kit import ROOT, UID, Runner, root_runner, user_runner
from tests.netns.support import until_sync
from tests.waiting import BOUND_S

CARD = ("-net", "nic,model=direct")


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """An ordinary user; he gets a name if he has none, for smbd knows users by name."""
    made = UID not in [entry.pw_uid for entry in pwd.getpwall()]
    if made:
        words = [
            "useradd",
            "--uid",
            str(UID),
            "--no-create-home",
            "--shell",
            "/usr/sbin/nologin",
            "tapnet-test",
        ]
        subprocess.run(words, check=True, timeout=BOUND_S)
    yield user_runner(tmp_path_factory.mktemp("user"))
    if made:
        subprocess.run(["userdel", "tapnet-test"], check=True, timeout=BOUND_S)


def share(runner: Runner) -> Path:
    """A directory of the user's, with a file and ways out of it."""
    path = runner.home / "share"
    path.mkdir(exist_ok=True)
    (path / "hello").write_text("hello\n")
    for name, to in (("out", "/etc/hostname"), ("up", "..")):
        if not (path / name).is_symlink():
            (path / name).symlink_to(to)
    os.chown(path, UID, UID)
    return path


def client(commands: str, *options: str, server: str = "10.0.2.4", share: str = "qemu") -> str:
    return f"timeout -k 5 60 smbclient -N {' '.join(options)} //{server}/{share} -c '{commands}' 2>&1"


def states() -> set[str]:
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("tapnet-smb-")}


def helpers() -> list[str]:
    """Command lines of what smbd starts beside itself."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "tapnet-smb-" in words and ("samba-dcerpcd" in words or "rpcd_" in words):
            found.append(f"{pid} {words}")
    return found


def test_a_list_of_shares_leaves_no_daemon_behind(user: Runner) -> None:
    path, before = share(user), helpers()
    done = user.run("timeout -k 5 60 smbclient -N -L //10.0.2.4", *CARD, "-net", f"user,smb={path}")
    assert "qemu" in done.stdout, done.stdout + done.stderr
    until_sync(lambda: set(helpers()) <= set(before), "smbd's helpers to end")


def test_a_guest_reads_and_writes(user: Runner) -> None:
    before = states()
    path = share(user)
    script = f"cd {user.home}; echo from the guest > f; " + client("get hello got; put f new; mkdir sub; ls")
    done = user.run(f"{script}; cat got", *CARD, "-net", f"user,smb={path}")
    assert done.stdout.endswith("hello\n"), done.stdout + done.stderr
    assert (path / "new").read_text() == "from the guest\n"
    assert {(path / name).stat().st_uid for name in ("new", "sub")} == {UID}
    assert states() <= before, "its state is gone"
    (path / "new").unlink()
    (path / "sub").rmdir()


@pytest.mark.slow
def test_two_at_once_by_both_ports_and_elsewhere(user: Runner) -> None:
    path = share(user)
    ask = client("get hello -", server="10.0.2.9")
    script = f"{ask} & {client('get hello -', '-p', '139', server='10.0.2.9')} & wait"
    done = user.run(script, *CARD, "-net", f"user,restrict=on,smbserver=10.0.2.9,smb={path}")
    assert done.stdout.count("hello\n") == 2, done.stdout + done.stderr


def test_nothing_outside(user: Runner) -> None:
    path = share(user)
    (user.home / "secret").write_text("confidential\n")
    asked = "; ".join(f"get {name} -" for name in (r"out", r"up\\secret", r"..\\secret"))
    done = user.run(client(asked), *CARD, "-net", f"user,smb={path}")
    assert "confidential" not in done.stdout
    assert done.stdout.count("NT_STATUS_") == 3, done.stdout


def test_old_clients_by_request_only(user: Runner) -> None:
    path = share(user)
    ask = client("get hello -", "--option=clientminprotocol=NT1", "-m", "NT1")
    refused = user.run(ask, *CARD, "-net", f"user,smb={path}")
    assert "hello\n" not in refused.stdout
    done = user.run(ask, *CARD, "-net", f"user,smb-legacy=on,smb={path}")
    assert "hello\n" in done.stdout, done.stdout + done.stderr


def test_root_says_whose_rights(tmp_path: Path, user: Runner) -> None:
    root = root_runner(tmp_path)
    path = share(user)
    done = root.run("true", *CARD, "-net", f"user,smb={path}")
    reason = "root shares nothing unasked: give --runas USER or smb-user=USER"
    assert (done.returncode, done.stderr) == (2, f"tapnet: -net user: smb={path}: {reason}\n")
    before = states()
    (tmp_path / "f").write_text("from root's guest\n")
    done = root.run(
        client(f"put {tmp_path}/f new"),
        *CARD,
        "-net",
        f"user,smb-user={pwd.getpwuid(UID).pw_name},smb={path}",
    )
    assert (path / "new").stat().st_uid == UID, done.stdout
    assert states() <= before
    (path / "new").unlink()


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("smb=/no/such/place", "smb=/no/such/place: No such file or directory"),
        ("smb=/etc/passwd", "smb=/etc/passwd: Not a directory"),
        ("smb=/tmp,smb-user=no-such-user", "smb-user=no-such-user: no such user"),
        ("smb=/tmp,smb-user=root", "smb-user=root: only root can be another user"),
        ("smb=/tmp,smbserver=10.0.3.4", "smbserver=10.0.3.4: 10.0.3.4 is not in the net"),
        ("smb=/tmp,smbserver=10.0.2.255", "smbserver=10.0.2.255: 10.0.2.255 is the broadcast address"),
        ("smb=/tmp,guestfwd=tcp::445-cmd:cat", "smb=/tmp: tcp port 445 of 10.0.2.4 is taken"),
    ],
)
def test_what_cannot_be_is_one_line(user: Runner, keys: str, reason: str) -> None:
    before = states()
    done = user.run("true", *CARD, "-net", f"user,{keys}")
    assert (done.returncode, done.stderr) == (2, f"tapnet: -net user: {reason}\n")
    assert states() <= before


def test_the_state_of_a_killed_one_goes_with_the_next_start(tmp_path: Path, user: Runner) -> None:
    """That of one that lives stays."""
    here = f"user,smb-user={pwd.getpwuid(UID).pw_name},smb={share(user)}"
    words = [
        sys.executable,
        "-m",
        "tapnet",
        "run",
        "-monitor",
        "none",
        "-net",
        here,
        "-net",
        "nic,model=pcnet",
    ]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    found: list[str] = []
    with contextlib.ExitStack() as stack:
        for number in range(3):
            seen = set(os.listdir(tmp_path))
            tapnet = subprocess.Popen(words, cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
            stack.callback(tapnet.wait, 60)
            stack.callback(tapnet.terminate)
            until_sync(lambda seen=seen: set(os.listdir(tmp_path)) - seen, "a state directory")
            found += set(os.listdir(tmp_path)) - seen
            until_sync((tmp_path / found[-1] / "smb.conf").exists, "its smb.conf")
            if number == 0:
                tapnet.kill()
                tapnet.wait(BOUND_S)
                assert os.listdir(tmp_path) == found
        assert sorted(os.listdir(tmp_path)) == sorted(found[1:])
    assert not os.listdir(tmp_path)


def test_a_missing_smbd_is_said_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from ipaddress import IPv4Address, IPv4Network

    from tapnet.backends.user import smb
    from tapnet.config import Smb, UserV4

    monkeypatch.setattr(smb, "BEYOND", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    v4 = UserV4(
        IPv4Network("10.0.2.0/24"), IPv4Address("10.0.2.2"), IPv4Address("10.0.2.3"), IPv4Address("10.0.2.15")
    )
    with pytest.raises(ValueError, match=r"^smb=/tmp: there is no smbd here: apt-get install samba$"):
        smb.SmbShare(Smb("/tmp", user="root"), v4)
