"""A tapnet that is killed: the next one gives a found interface back what it had, and finds no leftovers in its way."""

from __future__ import annotations

import signal
from pathlib import Path

from tapnet.lan import journal
from tests.netns.exec_kit import Runner
from tests.netns.lan_kit import Running, inside, lan, links, tapnet
from tests.netns.support import sh

__all__ = ["lan", "tapnet"]  # fixtures

OPTIONS = ("-net", "nic", "-net", "user", "-net", "tap,ifname=tap5,br=br0,mtu=1450,mac=52:54:00:77:00:01")


def seen(name: str, ifname: str) -> tuple[object, ...]:
    link = links(name)[ifname]
    return link["mtu"], link.get("master"), "UP" in link["flags"], link["address"]  # type: ignore[operator]


def test_a_found_interface_is_given_back_by_the_next(lan: str, tapnet: Runner) -> None:
    sh(f"ip -n {lan} tuntap add dev tap5 mode tap")
    sh(f"ip -n {lan} link set tap5 mtu 1400")
    before = seen(lan, "tap5")
    runner = inside(lan, tapnet)
    with Running(runner, *OPTIONS) as killed:
        changed = seen(lan, "tap5")
        assert changed == (1450, "br0", True, "52:54:00:77:00:01")
        assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
    assert seen(lan, "tap5") == changed, "nobody could"
    with Running(runner, "-net", "nic", "-net", "user", "-net", "tap,ifname=tap5") as again:
        assert seen(lan, "tap5")[:2] == (1400, None)
        assert again.stop() == 0
        assert "tap5: a tapnet that was killed had changed it" in again.said()
    assert seen(lan, "tap5") == before
    with Running(runner, *OPTIONS) as last:
        assert last.stop() == 0
        assert "killed" not in last.said(), "it was erased"
    assert seen(lan, "tap5") == before


def test_another_interface_of_that_name_is_left_alone(lan: str, tapnet: Runner) -> None:
    sh(f"ip -n {lan} tuntap add dev tap5 mode tap")
    runner = inside(lan, tapnet)
    with Running(runner, *OPTIONS) as killed:
        killed.stop(signal.SIGKILL)
    sh(f"ip -n {lan} link del tap5")
    sh(f"ip -n {lan} tuntap add dev tap5 mode tap")
    sh(f"ip -n {lan} link set tap5 mtu 1450 up")
    before = seen(lan, "tap5")
    with Running(runner, "-net", "nic", "-net", "user", "-net", "tap,ifname=tap5") as again:
        assert again.stop() == 0
    assert seen(lan, "tap5") == before


def test_files_of_a_killed_one_are_no_trouble(lan: str, tapnet: Runner, tmp_path: Path) -> None:
    """Its control socket, a wire's and a monitor's; its own interface ends with it."""
    runner = inside(lan, tapnet)
    words = ("-net", "nic", "-net", "user", "-net", "tap,ifname=tap6")
    words += ("-netdev", f"stream,id=s,server=on,addr.type=unix,addr.path={tmp_path}/s")
    words += ("-monitor", f"unix:{tmp_path}/m,server=on,wait=off")
    with Running(runner, *words) as killed:
        assert "tap6" in links(lan)
        killed.stop(signal.SIGKILL)
    assert "tap6" not in links(lan)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_socket()) == ["m", "s"]
    with Running(runner, *words) as again:
        assert again.stop() == 0
    assert not [path for path in tmp_path.iterdir() if path.is_socket()]
    assert "tap6" not in links(lan)


def test_there_is_no_file_where_there_can_be_none(lan: str) -> None:
    assert journal.look("tap", "no-such-interface") is None
