"""TFTP with real clients in a guest behind ``tapnet exec``: tftp-hpa, atftp, curl."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.netns.exec_kit import Runner, blob, root_runner, user_runner
from tests.waiting import BOUND_S

CARD = ("-net", "nic,model=direct")
BIG = 40 << 20


@pytest.fixture(scope="module", params=["root", "user"])
def tapnet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    home = tmp_path_factory.mktemp(request.param)
    runner = root_runner(home) if request.param == "root" else user_runner(home)
    home = runner.home
    served = home / "srv"
    (served / "sub").mkdir(parents=True)
    (served / "small").write_bytes(blob(1000))
    (served / "even").write_bytes(blob(1024))
    (served / "empty").write_bytes(b"")
    (served / "text").write_bytes(b"one\ntwo\n")
    (served / "sub" / "deep").write_bytes(b"deep")
    (home / "secret").write_bytes(b"secret")
    (served / "abs").symlink_to("/etc/passwd")
    (served / "rel").symlink_to("../secret")
    (served / "up").symlink_to("..")
    (served / "big").write_bytes(blob(BIG))
    for path in (served, served / "sub"):
        path.chmod(0o777)
    return runner


def served(tapnet: Runner) -> Path:
    return tapnet.home / "srv"


def in_guest(tapnet: Runner, script: str, *more: str, seconds: float = BOUND_S) -> list[str]:
    """Run a script in an own directory of the guest's; its lines."""
    done = tapnet.run(
        f"cd $(mktemp -d) && {{ {script}; }}; rm -rf $PWD",
        *CARD,
        "-net",
        ",".join([f"user,tftp={served(tapnet)}", *more]),
        seconds=seconds,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


CLIENTS = {
    "tftp-hpa": "tftp -m binary 10.0.2.2 -c get {name} got",
    "atftp": "atftp -g -r {name} -l got 10.0.2.2 2>&1 >/dev/null",
    "atftp blksize 1428, window 16": "atftp --option 'blksize 1428' --option 'windowsize 16' -g -r {name} -l got 10.0.2.2 >/dev/null",
    "atftp blksize 65464": "atftp --option 'blksize 65464' -g -r {name} -l got 10.0.2.2 >/dev/null",
    "curl": "curl -sS -o got tftp://10.0.2.2/{name}",
    "curl blksize 1468": "curl -sS --tftp-blksize 1468 -o got tftp://10.0.2.2/{name}",
}


def test_files_in_binary_mode(tapnet: Runner) -> None:
    names = ("small", "even", "empty", "sub/deep")
    script = "; ".join(
        f": > got; {command.format(name=name)}; sha256sum < got"
        for command in CLIENTS.values()
        for name in names
    )
    want = [hashlib.sha256((served(tapnet) / name).read_bytes()).hexdigest() for name in names]
    assert [line.split()[0] for line in in_guest(tapnet, script)] == want * len(CLIENTS)


def test_a_file_of_40_mib(tapnet: Runner) -> None:
    """By tftp-hpa it is 81,920 blocks of 512 bytes: the numbers roll over."""
    clients = ("tftp-hpa", "atftp blksize 1428, window 16", "curl blksize 1468")
    script = "; ".join(f"{CLIENTS[client].format(name='big')}; sha256sum < got" for client in clients)
    found = [line.split()[0] for line in in_guest(tapnet, script)]
    assert found == [hashlib.sha256(blob(BIG)).hexdigest()] * len(clients)


def test_names_and_what_is_outside(tapnet: Runner) -> None:
    root = served(tapnet)
    inside = (f"{root}/small", "/small", f"{root}/sub/deep")
    outside = ("../secret", f"{root}/../secret", "sub/../../secret", "rel", "abs", "up/secret", "/etc/passwd")
    script = "; ".join(f"{CLIENTS['tftp-hpa'].format(name=name)}; wc -c < got" for name in inside)
    assert in_guest(tapnet, script) == ["1000", "1000", "4"]
    script = "; ".join(f"{CLIENTS['tftp-hpa'].format(name=name)}; wc -c < got" for name in outside)
    lines = in_guest(tapnet, script)
    assert [line for line in lines if line.isdigit()] == ["0"] * len(outside)
    errors = [line for line in lines if line.startswith("Error code")]
    assert errors == ["Error code 2: Access violation"] * 6 + ["Error code 1: File not found"]


def test_names_as_windows_writes_them(tapnet: Runner) -> None:
    """``\\Sub\\Deep`` of Windows' boot programs."""
    names = (("tftp-hpa", r"\\sub\\deep"), ("curl", "C:%5Csub/deep"), ("tftp-hpa", r"\\SUB\\Deep"))
    script = "; ".join(
        f"{CLIENTS[client].format(name=name)}; cat got; echo; rm -f got" for client, name in names
    )
    assert [line for line in in_guest(tapnet, script) if line] == [
        "deep",
        "deep",
        "Error code 1: File not found",
    ]
    assert [line for line in in_guest(tapnet, script, "tftp-nocase=on") if line] == ["deep"] * 3


def test_ascii_mode(tapnet: Runner) -> None:
    assert in_guest(tapnet, "tftp -m ascii 10.0.2.2 -c get text; cat text") == ["one", "two"]


def test_it_is_read_only_by_default(tapnet: Runner) -> None:
    lines = in_guest(tapnet, "echo x > f; tftp -m binary 10.0.2.2 -c put f new")
    assert lines == ["Error code 2: Access violation"]
    assert not (served(tapnet) / "new").exists()


def test_writing_where_it_is_allowed(tapnet: Runner) -> None:
    script = (
        "head -c 3000000 /dev/urandom > f; sha256sum < f; tftp -m binary 10.0.2.2 -c put f new1;"
        " atftp --option 'blksize 1400' --option 'windowsize 8' -p -l f -r sub/new2 10.0.2.2 >/dev/null;"
        " curl -sS -T f tftp://10.0.2.2/new3; tftp -m binary 10.0.2.2 -c put f ../escaped"
    )
    first, error = in_guest(tapnet, script, "tftp-write=on")
    for name in ("new1", "sub/new2", "new3"):
        path = served(tapnet) / name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == first.split()[0], name
        path.unlink()
    assert error == "Error code 2: Access violation"
    assert not (tapnet.home / "escaped").exists()
    assert not [name for name in os.listdir(served(tapnet)) if name.startswith(".tapnet")]


def test_a_lossy_wire_delays_and_breaks_nothing(tmp_path: Path) -> None:
    """Any DATA and ACK but that of block 0: atftp aborts at the OACK that follows that loss."""
    root = root_runner(tmp_path)
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv" / "f").write_bytes(blob(200_000))
    rules = (
        "nft 'add table ip t; add chain ip t i { type filter hook input priority 0; };"
        " add rule ip t i udp sport 49152-65535 @th,64,16 3 numgen random mod 50 0 drop;"
        " add chain ip t o { type filter hook output priority 0; };"
        " add rule ip t o udp dport 49152-65535 @th,80,16 != 0 numgen random mod 50 0 drop'"
    )
    script = f"{rules} && {CLIENTS['atftp blksize 1428, window 16'].format(name='f')}; sha256sum < got"
    lines = in_guest(root, script)
    assert lines[-1].split()[0] == hashlib.sha256(blob(200_000)).hexdigest()


def test_a_directory_that_is_not_there_is_one_line(tapnet: Runner) -> None:
    done = tapnet.run("true", "-net", "user,tftp=/no/such/place")
    assert done.returncode != 0
    assert done.stderr == "tapnet: -net user: tftp=/no/such/place: No such file or directory\n"
