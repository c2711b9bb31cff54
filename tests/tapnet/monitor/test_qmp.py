"""QMP without I/O: texts out of bytes, answers out of texts."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapnet import __version__
from tapnet.errors import ControlError
from tapnet.monitor import qmp
from tapnet.monitor.commands import general as commands
from tapnet.monitor.commands.control import Control
from tapnet.monitor.commands.table import Arg, Command, settled
from tapnet.monitor.qmp import Qmp, Splitter, TooLong
from tests.tapnet.monitor.kit import FakeInstance, seed_instance

NEGOTIATE = b'{"execute": "qmp_capabilities"}'


@pytest.fixture
def lab() -> tuple[FakeInstance, Qmp]:
    _, instance = seed_instance()
    session = Qmp(Control(instance))
    assert session.start(NEGOTIATE).value == {"return": {}}
    return instance, session


def ask(session: Qmp, **message: object) -> dict:
    return session.start(json.dumps(message).encode()).value


# ---- bytes to texts ----------------------------------------------------------------------------------------

STREAMS = [
    (b"", []),
    (b" \r\n\t", []),
    (b'{"a": 1}', [b'{"a": 1}']),
    (b'{"a":1}{"b":[2,{}]}\n[1]', [b'{"a":1}', b'{"b":[2,{}]}', b"[1]"]),
    (b'{"a": "}{\\"]"} \n{}', [b'{"a": "}{\\"]"}', b"{}"]),
    (b'{\n "a" :\n 1\n}\n', [b'{\n "a" :\n 1\n}']),
    (b"quit\n{}", [b"quit", b"{}"]),
    (b'"x"\n', [b'"x"']),
    (b"}\n{}", [b"}", b"{}"]),
    (b'{"a": ]{}', [b'{"a": ]', b"{}"]),
    (b'{"a": \xff{}', [b"{}"]),
    (b"\xff\xff[]", [b"[]"]),
    (b'{"\xff": 1}', [b'{"\xff": 1}']),
    (b'{"a\\\\": 1}', [b'{"a\\\\": 1}']),
    (b'{"a": 1', []),
    (b'{"a": "\\', []),
]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(("stream", "texts"), STREAMS)
def test_split(stream: bytes, texts: list[bytes], size: int) -> None:
    splitter, found = Splitter(), []
    for at in range(0, len(stream), size):
        splitter.feed(stream[at : at + size])
        while (text := splitter.next()) is not None:
            found.append(text)
    assert found == texts


@pytest.mark.parametrize("start", [b"x", b"{", b'{"', b"[" * 10, b'{"\\'])
def test_too_long(start: bytes) -> None:
    splitter = Splitter()
    splitter.feed(start + b"y" * qmp.MESSAGE_MAX)
    with pytest.raises(TooLong):
        splitter.next()


@given(st.binary(max_size=60), st.integers(1, 9))
def test_pieces_do_not_matter(stream: bytes, size: int) -> None:
    def split(step: int) -> list[bytes]:
        splitter, found = Splitter(), []
        for at in range(0, len(stream), step):
            splitter.feed(stream[at : at + step])
            while (text := splitter.next()) is not None:
                found.append(text)
        return found

    assert split(size) == split(max(len(stream), 1))


# ---- negotiation -------------------------------------------------------------------------------------------


def test_greeting_and_negotiation() -> None:
    _, instance = seed_instance()
    session = Qmp(Control(instance))
    greeting = session.greeting()["QMP"]
    assert greeting["capabilities"] == [] and greeting["version"]["package"] == f"tapnet-{__version__}"
    assert ask(session, execute="query-status", id=1) == {
        "error": {
            "class": "CommandNotFound",
            "desc": "Expecting capabilities negotiation with 'qmp_capabilities'",
        },
        "id": 1,
    }
    wrong = ask(session, execute="qmp_capabilities", arguments={"enable": ["fly"]})
    assert wrong["error"]["desc"] == "Parameter 'enable' does not accept value 'fly'"
    assert ask(session, execute="qmp_capabilities", arguments={"enable": ["oob"]}, id="x") == {
        "return": {},
        "id": "x",
    }
    assert ask(session, execute="qmp_capabilities")["error"]["class"] == "CommandNotFound"


# ---- answers -----------------------------------------------------------------------------------------------


def test_ids_of_any_kind_come_back(lab) -> None:
    for tag in (None, 0, "x", [1, {"a": None}], {"b": 2.5}):
        assert ask(lab[1], execute="query-name", id=tag) == {"return": {"name": "lab"}, "id": tag}
        assert ask(lab[1], execute="nope", id=tag)["id"] == tag
    assert "id" not in ask(lab[1], execute="query-name")


@pytest.mark.parametrize(
    ("text", "kind", "desc"),
    [
        ("[]", "GenericError", "QMP input must be a JSON object"),
        ("1", "GenericError", "QMP input must be a JSON object"),
        ("{}", "GenericError", "QMP input lacks member 'execute'"),
        ('{"execute": 1}', "GenericError", "QMP input member 'execute' must be a string"),
        ('{"execute": "quit", "x": 1}', "GenericError", "QMP input member 'x' is unexpected"),
        ('{"execute": "quit", "arguments": []}', "GenericError", "QMP input member 'arguments' must be an object"),
        ('{"execute": "a", "exec-oob": "a"}', "GenericError", "QMP input has members 'execute' and 'exec-oob'"),
        ('{"execute": "nope"}', "CommandNotFound", "The command nope has not been found"),
        ('{"execute": "set_link"}', "GenericError", "Parameter 'name' is missing"),
        (
            '{"execute": "set_link", "arguments": {"name": "x", "up": "on"}}',
            "GenericError",
            "Invalid parameter type for 'up', expected: boolean",
        ),
        ('{"execute": "set_link", "arguments": {"name": "x", "up": true}}', "DeviceNotFound", "Device 'x' not found"),
        ('{"execute": "query-status", "arguments": {"a": 1}}', "GenericError", "Parameter 'a' is unexpected"),
        ('{"execute": "query-version", "arguments": {"a": 1}}', "GenericError", None),
        ('{"execute": "human-monitor-command"}', "GenericError", "Parameter 'command-line' is missing"),
        ("nonsense", "GenericError", None),
        ('{"a": NaN}', "GenericError", "JSON parse error, invalid keyword 'NaN'"),
        ('{"a": 1, "a": 2}', "GenericError", "JSON parse error, duplicate key"),
        ('{"execute": "\\ud800"}', "GenericError", None),
        ("[" * 5000 + "]" * 5000, "GenericError", "JSON parse error, too deeply nested"),
        ("[" * 300 + "]" * 300, "GenericError", "JSON parse error, too deeply nested"),
        ('{"execute": "query-name", "id": ' + "9" * 5000 + "}", "GenericError", None),
    ],
)  # fmt: skip
def test_errors(lab, text: str, kind: str, desc: str | None) -> None:
    answer = lab[1].start(text.encode()).value
    assert answer["error"]["class"] == kind
    if desc is not None:
        assert answer["error"]["desc"] == desc
    else:
        assert answer["error"]["desc"]


def test_not_utf8(lab) -> None:
    assert lab[1].start(b'{"execute": "\xff\xfe"}').value["error"]["class"] == "GenericError"


def test_out_of_band_is_done_in_its_turn(lab) -> None:
    message = json.dumps({"exec-oob": "query-name", "id": 7}).encode()
    assert lab[1].start(message).value == {"return": {"name": "lab"}, "id": 7}


def test_commands(lab) -> None:
    instance, session = lab
    names = [row["name"] for row in ask(session, execute="query-commands")["return"]]
    assert names == sorted(names)
    assert {"qmp_capabilities", "query-version", "human-monitor-command", "quit", "set_link"} <= set(names)
    assert ask(session, execute="query-status")["return"] == {"running": True, "status": "running"}
    assert ask(session, execute="query-version")["return"] == session.greeting()["QMP"]["version"]
    assert ask(session, execute="set_link", arguments={"name": "tap.0", "up": False}) == {"return": {}}
    assert not instance.vlans[0][2].port.link
    human = ask(session, execute="human-monitor-command", arguments={"command-line": "info name"})
    assert human == {"return": "lab\n"}
    bad = ask(session, execute="human-monitor-command", arguments={"command-line": "bogus", "cpu-index": 0})
    assert bad == {"return": "unknown command: 'bogus'\n"}


def test_quit(lab) -> None:
    heard = []
    lab[0].events.subscribe(heard.append)
    answer = lab[1].start(b'{"execute": "quit", "id": 1}')
    assert answer[:2] == ({"return": {}, "id": 1}, True) and lab[0].ended == 0
    human = {"execute": "human-monitor-command", "arguments": {"command-line": "quit"}}
    assert lab[1].start(json.dumps(human).encode()).quit
    lab[1].control.quit()
    assert lab[0].ended == 1
    assert heard == [
        {
            "event": "SHUTDOWN",
            "data": {"guest": False, "reason": "host-qmp-quit"},
            "timestamp": {"seconds": 1_000_000_000, "microseconds": 250_000},
        }
    ]


def test_who_is_not_trusted() -> None:
    _, instance = seed_instance()
    session = Qmp(Control(instance), trusted=False)
    session.start(NEGOTIATE)
    for message in (
        {"execute": "x-tapnet-hostfwd-add", "arguments": {"rule": "unix:/x-:22"}},
        {"execute": "human-monitor-command", "arguments": {"command-line": "hostfwd_add unix:/x-:22"}},
    ):
        answer = ask(session, **message)
        assert "trusted=on" in (answer.get("return") or answer["error"]["desc"])
    assert not instance.usernets[0].rules


def test_a_command_that_takes_its_time(monkeypatch: pytest.MonkeyPatch, lab) -> None:
    async def slow(_control: Control, arguments: dict) -> dict:
        await asyncio.sleep(0)
        if arguments["how"] == "bad":
            raise ControlError("no")
        return {"done": True}

    row = Command(qmp="x-slow", summary="wait", args=(Arg("how"),), run=slow)
    monkeypatch.setitem(commands.BY_QMP, "x-slow", row)

    async def play(how: str) -> dict:
        message = {"execute": "x-slow", "arguments": {"how": how}, "id": 3}
        return (await settled(lab[1].start(json.dumps(message).encode()))).value

    assert asyncio.run(play("well")) == {"return": {"done": True}, "id": 3}
    assert asyncio.run(play("bad")) == {"error": {"class": "GenericError", "desc": "no"}, "id": 3}


@given(st.integers())
def test_no_text_raises(seed: int) -> None:
    rng = random.Random(seed)
    _, instance = seed_instance()
    session = Qmp(Control(instance))
    session.start(NEGOTIATE)
    name = rng.choice([*commands.BY_QMP, "human-monitor-command", "query-commands", "x"])
    values = [None, 1, "tap.0", True, [], {}, "x" * 100, -1.5, ["a"], {"type": "user"}]
    keys = ["name", "up", "rule", "netdev", "command-line", "id", "type", "driver", "x", "option", "vlan"]
    message = {"execute": name, "arguments": {key: rng.choice(values) for key in rng.sample(keys, 3)}}
    text = json.dumps(message).encode()
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        text = text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
    value = session.start(text)
    assert ("error" in value.value) != ("return" in value.value)
    json.dumps(value.value)
