"""Rows of the command table: words and JSON to the same arguments; what every row must say."""

from __future__ import annotations

import asyncio

import pytest

from tapnet.errors import ControlError
from tapnet.monitor import hmp
from tapnet.monitor.commands import general as commands
from tapnet.monitor.commands.control import Control
from tapnet.monitor.commands.table import (
    Arg,
    BadArguments,
    BadParameter,
    Command,
    Kind,
    from_json,
    from_words,
    settled,
)
from tapnet.monitor.hmp import Hmp
from tests.tapnet.monitor.kit import seed_instance

ROW = Command(
    hmp="do",
    qmp="x-do",
    summary="do it",
    args=(
        Arg("loud", Kind.FLAG, meta="l"),
        Arg("who", optional=True),
        Arg("what", choices=("start", "stop")),
        Arg("count", Kind.NUMBER),
        Arg("up", Kind.SWITCH),
        Arg("rest", Kind.REST, optional=True),
    ),
    run=lambda c, a: a,
)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("start 3 on", {"what": "start", "count": 3, "up": True, "rest": []}),
        ("-l eth0 stop 0x10 down", {"loud": True, "who": "eth0", "what": "stop", "count": 16, "up": False, "rest": []}),
        ("a start 3 up x y", {"who": "a", "what": "start", "count": 3, "up": True, "rest": ["x", "y"]}),
    ],
)  # fmt: skip
def test_words(words: str, found: dict) -> None:
    assert from_words(ROW, "do", words.split()) == found


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("", "do: string expected"),
        ("start", "do: integer expected"),
        ("start 3", "Expected 'on' or 'off'"),
        ("start x on", "do: integer expected"),
        ("begin 3 on", "do: not one of start, stop: begin"),
        ("-x start 3 on", "do: unsupported option -x"),
        ("start 3 maybe", "Expected 'on' or 'off'"),
    ],
)
def test_bad_words(words: str, why: str) -> None:
    with pytest.raises(BadArguments) as caught:
        from_words(ROW, "do", words.split())
    assert str(caught.value) == why


def test_too_many_words() -> None:
    with pytest.raises(BadArguments, match="extraneous characters"):
        from_words(commands.BY_WORD["set_link"], "set_link", ["a", "on", "b"])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "Parameter 'what' is missing"),
        ({"what": "start"}, "Parameter 'count' is missing"),
        ({"what": 1}, "Invalid parameter type for 'what', expected: string"),
        ({"what": "go"}, "Parameter 'what' does not accept value 'go'"),
        ({"what": "start", "count": True}, "Invalid parameter type for 'count', expected: integer"),
        ({"what": "start", "count": 1, "up": "on"}, "Invalid parameter type for 'up', expected: boolean"),
        ({"what": "start", "count": 1, "up": True, "rest": [1]}, "Invalid parameter type for 'rest', expected: array"),
        ({"what": "start", "count": 1, "up": True, "x": 1}, "Parameter 'x' is unexpected"),
        ({"loud": 1, "what": "start", "count": 1, "up": True}, "Invalid parameter type for 'loud', expected: boolean"),
    ],
)  # fmt: skip
def test_bad_json(given: dict, why: str) -> None:
    with pytest.raises(BadParameter) as caught:
        from_json(ROW, given)
    assert str(caught.value) == why


def test_json() -> None:
    given = {"who": "a", "what": "start", "count": 3, "up": True, "rest": ["x"], "loud": True}
    assert from_json(ROW, given) == given


def test_an_option_takes_all_members() -> None:
    row = Command(qmp="add", summary="", args=(Arg("option", Kind.OPTION),), run=lambda c, a: a)
    assert from_json(row, {"type": "user", "id": "u"}) == {"option": {"type": "user", "id": "u"}}


def test_usage() -> None:
    assert ROW.usage() == "do [-l] [who] start|stop count on|off [rest] -- do it"


def test_no_name_is_given_twice_and_each_row_explains_itself() -> None:
    words = [name for row in commands.COMMANDS if not row.info for name in row.names] + [
        *hmp.HELP.names,
        "info",
    ]
    infos = [name for row in commands.COMMANDS if row.info for name in row.names]
    machine = [row.qmp for row in commands.COMMANDS if row.qmp]
    for names in (words, infos, machine):
        assert len(names) == len(set(names))
    for row in commands.COMMANDS:
        assert row.summary and (row.hmp or row.qmp)
        optional_behind = [arg.kind for arg in row.args[:-1]]
        assert Kind.REST not in optional_behind and Kind.OPTION not in optional_behind


def test_who_is_not_trusted_runs_no_program() -> None:
    _, instance = seed_instance()
    stranger = Hmp(Control(instance), trusted=False)
    reply = stranger.execute("hostfwd_add unix:/etc/x-:22")
    assert not reply.ok and "trusted=on" in reply.text
    assert stranger.execute("info name").ok and stranger.execute("quit").quit


def test_a_command_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(_control: Control, arguments: dict) -> str:
        await asyncio.sleep(0)
        if arguments["how"] == "bad":
            raise ControlError("no")
        return "done"

    row = Command(hmp="slow", summary="wait", args=(Arg("how"),), run=slow)
    monkeypatch.setitem(hmp.WORDS, "slow", row)
    _, instance = seed_instance()
    person = Hmp(Control(instance))

    async def play() -> None:
        assert (await settled(person.start("slow well"))).text == "done\n"
        assert (await settled(person.start("slow bad"))) == ("Error: no\n", False, False)
        assert person.execute("slow well") == ("Error: slow: not in one step\n", False, False)
        assert await settled(person.start("info name")) == ("lab\n", True, False)

    asyncio.run(play())
