"""The monitor's ``impair`` and ``capture``: words and errors; the effects are tested in test_faults.py and test_capture.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tapnet.capture.captures import Captures
from tapnet.config import Impairment
from tapnet.monitor.commands.control import Control
from tapnet.monitor.hmp import Hmp
from tapnet.vlan import faults
from tapnet.vlan.hub import Hub
from tapnet.vlan.port import Port
from tests.tapnet.capture.test_captures import Deferred
from tests.tapnet.hub_kit import Loop
from tests.tapnet.monitor.kit import FakeInstance, seed_instance
from tests.tapnet.vlan.test_faults import Timers


@dataclass
class Lab:
    loop: Loop
    instance: Any
    hmp: Hmp
    stranger: Hmp = field(init=False)

    def __post_init__(self) -> None:
        self.stranger = Hmp(self.hmp.control, trusted=False)

    def said(self, line: str) -> str:
        return self.hmp.execute(line).text


@pytest.fixture
def lab() -> Iterator[Lab]:
    loop, instance = seed_instance()
    timers = Timers(loop)
    made: Any = instance

    def impair(port: Port, impairment: Impairment) -> None:
        faults.impair(port, impairment, timers, lambda: timers.now)  # type: ignore[arg-type]

    made.impair = impair
    made.captures = Captures(Deferred(loop))  # type: ignore[arg-type]
    made.hubs = {number: hub_of(instance, number) for number in instance.vlans}
    yield Lab(loop, made, Hmp(Control(made)))
    made.captures.close()


def hub_of(instance: FakeInstance, number: int) -> Hub:
    hub = next(d.port.vlan for d in instance.vlans[number] if d.port is not None)
    assert hub is not None
    return hub


def test_impair_shows_what_it_does_and_off_ends_it(lab: Lab) -> None:
    assert lab.said("info impair") == ""
    assert lab.said("impair user.0 in delay=10ms loss=1:25 seed=7") == ""
    assert lab.said("info impair").splitlines() == [
        "user.0 in: delay=10ms loss=1%:25%:100%:0% limit=1000 seed=7",
        "  frames=0 loss=0 dup=0 reorder=0 corrupt=0 mtu=0 limit=0 waiting=0",
    ]
    assert lab.said("impair user.0 out rate=1m seed=8") == ""
    assert lab.said("info impair").count("user.0 ") == 2
    assert lab.said("impair user.0 off") == "" == lab.said("info impair")
    assert lab.said("impair user.0 off") == "Error: Device 'user.0' is not impaired\n"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("impair nobody delay=1", "Error: Device 'nobody' not found\n"),
        ("impair user.0 delya=1", 'Error: impair user.0: unknown word "delya=1" (did you mean "delay"?)\n'),
        ("impair user.0 in", "Error: impair user.0: names no effect\n"),
        ("impair socket.0 delay=1", "Error: 'socket.0' has no client\n"),
        ("capture start 7 /tmp/x", "Error: there is no VLAN 7\n"),
        ("capture start nobody /tmp/x", "Error: Device 'nobody' not found\n"),
        ("capture start 0", "Error: capture start 0: needs a file\n"),
        ("capture start 0 -", "Error: capture start 0: standard output is for: tapnet capture 0\n"),
        ("capture start 0 /no/where", "Error: capture start 0: file=/no/where: No such file or directory\n"),
        ("capture stop 0", "Error: no capture of 0\n"),
        ("capture stop 0 x", "Error: no capture of 0 into x\n"),
    ],
)
def test_errors(lab: Lab, line: str, answer: str) -> None:
    assert lab.said(line) == answer


def test_a_listeners_name_means_its_clients(lab: Lab) -> None:
    client = next(d for d in lab.instance.vlans[1] if d.name == "c0")
    client.name = client.port.name = "socket.0.1"
    assert lab.said("impair socket.0 delay=1 seed=1") == ""
    assert lab.said("info impair").startswith("socket.0.1 in: delay=1ms")
    assert lab.said("impair socket.0 off") == ""


def test_capture_of_a_vlan_a_member_and_a_private_wire(lab: Lab, tmp_path: Path) -> None:
    for target in ("0", "user.0", "socket.0", "rtl8139.0", "t1"):
        assert lab.said(f"capture start {target} {tmp_path}/{target}") == ""
    assert len(lab.said("info captures").splitlines()) == 5
    assert lab.said("info captures").splitlines()[0] == f"0: {tmp_path}/0, 0 frames, 0 missed"
    user = next(d for d in lab.instance.vlans[0] if d.name == "user.0")
    user.port.send(bytes(60))
    lab.loop.run()
    assert [row.frames for row in lab.instance.captures.rows()] == [1, 1, 0, 0, 0]
    assert "another capture writes there" in lab.said(f"capture start 1 {tmp_path}/0")
    for target in ("0", "user.0", "socket.0", "rtl8139.0", "t1"):
        assert lab.said(f"capture stop {target}") == ""
    assert lab.said("info captures") == ""


def test_only_a_trusted_client_names_files(lab: Lab, tmp_path: Path) -> None:
    assert "not over this connection" in lab.stranger.execute(f"capture start 0 {tmp_path}/x").text
    assert not (tmp_path / "x").exists()
    assert lab.stranger.execute("impair user.0 delay=1").ok
