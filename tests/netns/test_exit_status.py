"""What ``tapnet run`` says and ends with when the host is not as it should be."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from tests.netns.exec_kit import Runner, user_runner
from tests.netns.lan_kit import Running, inside, lan, tapnet
from tests.netns.support import sh
from tests.waiting import BOUND_S

__all__ = ["lan", "tapnet"]  # fixtures


def ended(runner: Runner, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        runner.argv("run", "-net", "nic", *words),
        env=runner.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOUND_S, cwd=runner.home,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_an_address_that_is_taken(tapnet: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        for words in (
            ("-net", f"socket,listen=127.0.0.1:{port}"),
            ("-net", "user", "-monitor", f"tcp:127.0.0.1:{port},server=on,wait=off"),
        ):
            status, said = ended(tapnet, *words)
            assert status == 75 and "in use" in said.splitlines()[-1], said


def test_a_name_and_a_tap_that_are_taken(lan: str, tapnet: Runner) -> None:
    runner = inside(lan, tapnet)
    sh(f"ip -n {lan} tuntap add dev tap5 mode tap")
    with Running(runner, "-net", "nic", "-net", "user", "-net", "tap,ifname=tap5") as one:
        status, said = ended(runner, "-net", "tap,ifname=tap5")
        assert status == 75 and "another program has it open" in said
        status, said = ended(runner, "--name", one.name, "-net", "user")
        assert status == 75 and "an instance of that name is running" in said


def test_what_is_not_permitted_and_what_is_not_there(tapnet: Runner, tmp_path: Path) -> None:
    status, said = ended(user_runner(tmp_path), "-net", "tap,ifname=tap9")
    assert status == 77 and "CAP_NET_ADMIN" in said
    hide = ("unshare", "-n", "-m", "sh", "-c", 'mount -t tmpfs none /dev/net; exec "$@"', "sh")
    hidden = Runner(tapnet.name, (*hide, *tapnet.prefix), tapnet.env, tapnet.home)
    status, said = ended(hidden, "-net", "tap,ifname=tap9")
    assert status == 69 and "there is no /dev/net/tun" in said


def test_a_mistake_is_2(tapnet: Runner) -> None:
    assert ended(tapnet, "-net", "tap,br=no-such-bridge,ifname=tap-x-1")[0] == 2
    assert ended(tapnet, "-net", "nonsense")[0] == 2
