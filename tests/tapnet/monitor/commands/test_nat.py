"""Requests about NATs: services at run time, JSON; who may ask for them."""

from __future__ import annotations

import json

import pytest

from tapnet.monitor.commands.control import Control
from tapnet.monitor.commands.general import BY_WORD
from tapnet.monitor.hmp import Hmp
from tests.tapnet.monitor.kit import seed_instance

RULE = "tcp:10.0.2.100:80-cmd:cat -n"


@pytest.fixture
def hmp() -> Hmp:
    _, instance = seed_instance()
    return Hmp(Control(instance))


def say(hmp: Hmp, line: str) -> str:
    return str(hmp.execute(line).text)


def test_add_list_remove(hmp: Hmp) -> None:
    assert say(hmp, f"guestfwd_add '{RULE}'") == ""
    assert say(hmp, "guestfwd_add u1 udp::53-udp:127.0.0.1:53") == ""
    assert say(hmp, "info guestfwd") == (
        f"VLAN 0 (user.0):\n    1  {RULE}\nVLAN -1 (u1):\n    1  udp::53-udp:127.0.0.1:53 (at 10.0.2.4)\n"
    )
    for text in ("1", RULE, "tcp:10.0.2.100:80"):
        assert say(hmp, f"guestfwd_remove '{text}'") == f"guest forwarding rule for {text} removed\n"
        assert say(hmp, f"guestfwd_remove '{text}'") == f"guest forwarding rule for {text} not found\n"
        say(hmp, f"guestfwd_add '{RULE}'")
        if text == "1":
            say(hmp, "guestfwd_remove 2") and say(hmp, f"guestfwd_add '{RULE}'")


@pytest.mark.parametrize(
    "text", ["udp::53", "udp:10.0.2.4:53", "udp::53-udp:127.0.0.1:53", "udp:10.0.2.4:0x35"]
)
def test_ways_to_name_one(hmp: Hmp, text: str) -> None:
    say(hmp, "guestfwd_add u1 udp::53-udp:127.0.0.1:53")
    assert say(hmp, f"guestfwd_remove u1 {text}").endswith(" removed\n")


def test_errors(hmp: Hmp) -> None:
    assert say(hmp, "guestfwd_add tcp::99-cmd:cat") == (
        "Could not set up guest forwarding rule 'tcp::99-cmd:cat': tcp port 99 of 10.0.2.4 is taken\n"
    )
    assert "target" in say(hmp, "guestfwd_add tcp::5-nothing")
    assert say(hmp, "guestfwd_remove what") == "invalid format\n"
    assert say(hmp, "guestfwd_add nat9 tcp::5-cmd:cat") == "unrecognized netdev id 'nat9'\n"


@pytest.mark.parametrize(
    ("rule", "needs"),
    [
        (RULE, True),
        ("tcp::5-unix:/x", True),
        ("tcp::5-file:/x", True),
        ("tcp::5-tcp:h:5", False),
        ("x", False),
    ],
)
def test_what_runs_programs_needs_trust(rule: str, needs: bool) -> None:
    assert BY_WORD["guestfwd_add"].needs_trust({"rule": rule}) is needs


def test_json(hmp: Hmp) -> None:
    say(hmp, "hostfwd_add tcp:127.0.0.1:5555-:22")
    say(hmp, f"guestfwd_add '{RULE}'")
    first, second = json.loads(say(hmp, "info usernets"))
    assert (first["name"], first["vlan"], second["vlan"]) == ("user.0", 0, None)
    assert (first["hostfwd"][0]["host"], first["hostfwd"][0]["port"]) == ("127.0.0.1", 5555)
    assert first["guestfwd"][0]["to"] == "cat -n"
    assert first["leases"][0]["netdev"] == "user.0"
