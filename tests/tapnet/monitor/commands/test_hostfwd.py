"""hostfwd_add, hostfwd_remove and info hostfwd in QEMU's words."""

from __future__ import annotations

import pytest

from tapnet.monitor.commands.control import Control
from tapnet.monitor.hmp import Hmp
from tests.tapnet.monitor.kit import FakeInstance, seed_instance


@pytest.fixture
def lab() -> tuple[FakeInstance, Hmp]:
    _, instance = seed_instance()
    return instance, Hmp(Control(instance))


RULES = (
    "tcp:127.0.0.1:5555-10.0.2.15:22",
    "tcp::5556-:22",
    ":0.0.0.0:5557-:22",
    "udp::5555-:53",
    "tcp::6000-6003-:7000",
    "unix:/tmp/s-:22",
    "tcp::0-:22",
)


@pytest.mark.parametrize("rule", RULES)
def test_the_text_that_add_took_removes_it(lab, rule: str) -> None:
    instance, hmp = lab
    for other in RULES:
        assert hmp.execute(f"hostfwd_add {other}").text == ""
    assert hmp.execute(f"hostfwd_remove {rule}").text == f"host forwarding rule for {rule} removed\n"
    assert hmp.execute(f"hostfwd_remove {rule}").text == f"host forwarding rule for {rule} not found\n"
    assert [forward.text for forward in instance.usernets[0].rules.values()] == [
        r for r in RULES if r != rule
    ]


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("tcp:127.0.0.1:5555", 0),
        ("tcp::5556", 1),
        ("tcp:0.0.0.0:5556", 1),
        (":0.0.0.0:5556", 1),
        ("tcp::5557", 2),
        ("udp::5555", 3),
        ("tcp::6000-6003", 4),
        ("unix:/tmp/s", 5),
        ("tcp::40000", 6),
        ("tcp::0", 6),
        ("1", 0),
        ("7", 6),
    ],
)
def test_qemus_keys_and_numbers_remove_too(lab, key: str, rule: int) -> None:
    instance, hmp = lab
    for other in RULES:
        hmp.execute(f"hostfwd_add {other}")
    assert hmp.execute(f"hostfwd_remove {key}").text == f"host forwarding rule for {key} removed\n"
    assert RULES[rule] not in [forward.text for forward in instance.usernets[0].rules.values()]
    assert len(instance.usernets[0].rules) == len(RULES) - 1


@pytest.mark.parametrize(
    "key", ["tcp::5555", "udp:127.0.0.1:5555", "tcp::6001", "tcp::6000", "8", "unix:/tmp/t"]
)
def test_what_is_not_there(lab, key: str) -> None:
    _, hmp = lab
    for other in RULES:
        hmp.execute(f"hostfwd_add {other}")
    assert hmp.execute(f"hostfwd_remove {key}").text == f"host forwarding rule for {key} not found\n"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("hostfwd_add tcp", "Invalid host forwarding rule 'tcp' (No : separators)"),
        ("hostfwd_add sctp::1-:2", "Invalid host forwarding rule 'sctp::1-:2' (Bad protocol name)"),
        ("hostfwd_add tcp:1", "Invalid host forwarding rule 'tcp:1' (Missing : separator)"),
        ("hostfwd_add tcp:1.2.3:1-:2", "Invalid host forwarding rule 'tcp:1.2.3:1-:2' (Bad host address)"),
        ("hostfwd_add tcp::1", "Invalid host forwarding rule 'tcp::1' (Bad host port separator)"),
        ("hostfwd_add tcp::x-:2", "Invalid host forwarding rule 'tcp::x-:2' (Bad host port)"),
        ("hostfwd_add tcp::1-2", "Invalid host forwarding rule 'tcp::1-2' (Missing guest address)"),
        ("hostfwd_add tcp::1-1.2:2", "Invalid host forwarding rule 'tcp::1-1.2:2' (Bad guest address)"),
        ("hostfwd_add tcp::1-:0", "Invalid host forwarding rule 'tcp::1-:0' (Bad guest port)"),
        (
            "hostfwd_add tcp::99-:22",
            "Could not set up host forwarding rule 'tcp::99-:22': cannot listen on 0.0.0.0:99: Address already in use",
        ),
        ("hostfwd_remove tcp", "invalid format"),
        ("hostfwd_remove tcp:x:1", "invalid format"),
        ("hostfwd_add nope tcp::1-:2", "unrecognized netdev id 'nope'"),
        ("hostfwd_remove nope tcp::1", "unrecognized netdev id 'nope'"),
        ("hostfwd_add tap.0 tcp::1-:2", "invalid device specified"),
    ],
)
def test_errors(lab, line: str, text: str) -> None:
    reply = lab[1].execute(line)
    assert (reply.text, reply.ok) == (text + "\n", False)


def test_ports_count_from_base_0_as_in_qemu(lab) -> None:
    instance, hmp = lab
    hmp.execute("hostfwd_add tcp::0x50-:22")
    assert instance.usernets[0].rules[1].listen.port == 80


def test_a_nat_by_its_name(lab) -> None:
    instance, hmp = lab
    hmp.execute("hostfwd_add u1 tcp::1-:2")
    assert (len(instance.usernets[0].rules), len(instance.usernets[1].rules)) == (0, 1)
    assert hmp.execute("info hostfwd").text == "VLAN 0 (user.0):\nVLAN -1 (u1):\n    1  tcp::1-:2\n"
    hmp.execute("hostfwd_add tcp::0-:2")
    assert "    1  tcp::0-:2 (port 40000)\n" in hmp.execute("info hostfwd").text


def test_without_a_nat(lab) -> None:
    instance, hmp = lab
    instance.usernets = []
    for line in ("hostfwd_add tcp::1-:2", "hostfwd_remove tcp::1"):
        assert hmp.execute(line).text == "user mode network stack not in use\n"
