"""The machine's monitor: QEMU's QMP, no I/O.

    bytes ─► Splitter ─► one JSON value ─► Qmp.start ─► one JSON object

A session begins with our greeting and the client's ``qmp_capabilities``; before it nothing else is done, after it events
are sent too. Every command gets one answer, ``{"return": ...}`` or ``{"error": {"class": ..., "desc": ...}}``, with the
``id`` that it came with. The commands are ``commands.TABLES``, and the few here that are about the session itself.

Out-of-band execution is not offered. A client that asks for it all the same is not refused: ``exec-oob`` is done in its
turn, which is at once, for no command of ours waits.

Limits: ``MESSAGE_MAX`` bytes a message (more is answered by an error and ends the session), ``DEPTH_MAX`` levels.

Ref: QEMU docs/interop/qmp-spec.rst; qobject/json-parser.c and qapi/qmp-dispatch.c (words of the errors).
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable
from typing import Any, NamedTuple

from .. import __version__
from ..errors import ControlError
from .commands.control import Control
from .commands.general import BY_QMP
from .commands.table import Arguments, BadParameter, Command, from_json, settled
from .hmp import UNTRUSTED, Hmp
from .mistakes import called, waited

MESSAGE_MAX = 1 << 20
DEPTH_MAX = 256
GENERIC, NOT_FOUND = "GenericError", "CommandNotFound"
CAPABILITIES = ("oob",)  # that a client may name; none is offered
_MARK = re.compile(rb'["{}\[\]\xff]')
_STRING_END = re.compile(rb'["\\]')
_BLANK = b" \t\r\n"


class TooLong(Exception):
    """A message beyond ``MESSAGE_MAX``; the session cannot go on."""


class Splitter:
    """A stream of bytes into JSON texts. It only counts brackets: whether a text is JSON is for the parser.

    A byte 0xff outside a string throws away what came before it (QEMU's way to begin anew).
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = self._depth = 0
        self._string = False

    def feed(self, data: bytes) -> None:
        """More bytes."""
        self._data += data

    def next(self) -> bytes | None:
        """The next text, or None if it is not whole yet. Raises TooLong."""
        data = self._data
        while True:
            if not self._depth and not self._string:
                blank = len(data) - len(data.lstrip(_BLANK))
                del data[:blank]
                self._at = 0
                if not data:
                    return None
                if data[0] == 0xFF:
                    del data[:1]
                    continue
                if data[0] not in b"{[":
                    return self._line()
            found = (_STRING_END if self._string else _MARK).search(data, self._at)
            if found is None:
                self._at = len(data)
                self._check(self._at)
                return None
            self._at = found.end()
            mark = data[found.start()]
            if self._string:
                if mark == 0x22:
                    self._string = False
                elif self._at < len(data):
                    self._at += 1  # what the backslash hides
                else:
                    self._at -= 1
                    self._check(self._at)
                    return None
            elif mark == 0x22:
                self._string = True
            elif mark == 0xFF:
                del data[: self._at]
                self._depth = 0
            elif mark in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if not self._depth:
                    return self._cut(self._at)

    def _line(self) -> bytes | None:
        """What begins with no bracket ends with its line."""
        end = self._data.find(b"\n")
        if end < 0:
            self._check(len(self._data))
            return None
        return self._cut(end)

    def _cut(self, end: int) -> bytes:
        self._check(end)
        text = bytes(self._data[:end])
        del self._data[:end]
        self._at = 0
        return text

    @staticmethod
    def _check(size: int) -> None:
        if size > MESSAGE_MAX:
            raise TooLong


class Answer(NamedTuple):
    """One answer. ``quit``: end the instance once it is sent. ``text``: the value as JSON, where that is known already."""

    value: dict[str, Any]
    quit: bool = False
    text: str = ""


class _Failed(ControlError):
    """An error answer."""

    def __init__(self, desc: str, kind: str = GENERIC) -> None:
        super().__init__(desc)
        self.kind = kind


def error(desc: str, kind: str = GENERIC) -> dict[str, Any]:
    """An error answer without id."""
    return {"error": {"class": kind, "desc": desc}}


def version() -> dict[str, Any]:
    """What ``query-version`` returns: our version where QEMU's is expected."""
    major, minor, micro = (int(part) for part in (*__version__.split("."), "0", "0")[:3])
    return {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": f"tapnet-{__version__}"}


class Qmp:
    """One session. ``trusted``: see ``table``."""

    def __init__(self, control: Control, trusted: bool = True) -> None:
        self.control = control
        self.negotiated = False
        self.trusted = trusted
        self._own = {
            "qmp_capabilities": self._capabilities,
            "query-version": self._version,
            "query-commands": self._commands,
            "human-monitor-command": self._human,
        }

    @staticmethod
    def greeting() -> dict[str, Any]:
        """What a client sees first."""
        return {"QMP": {"version": version(), "capabilities": []}}

    def start(self, text: bytes) -> Answer | Awaitable[Answer]:
        """Answer one JSON text; an answer that takes its time is to be awaited. Never raises for what it says."""
        tag: dict[str, Any] = {}
        try:
            message = called("QMP", parse, text)
            if "id" in message:
                tag["id"] = message["id"]
            name, arguments = self._checked(message)
            result, ends = called(name, self._run, name, arguments)
            if isinstance(result, Awaitable):
                return self._wait(name, result, tag, ends)
            return _returned(name, result, tag, ends)
        except BadParameter as bad:
            return Answer(error(str(bad)) | tag)
        except ControlError as bad:
            return Answer(error(str(bad), bad.kind) | tag)

    async def _wait(self, name: str, result: Awaitable[Any], tag: dict[str, Any], ends: bool) -> Answer:
        try:
            value = await waited(name, result)
            if isinstance(value, _Human):
                return _returned(name, str(value), tag, value.quit)
            return _returned(name, value, tag, ends)
        except ControlError as bad:
            return Answer(error(str(bad), bad.kind) | tag)

    def _checked(self, message: dict[str, Any]) -> tuple[str, Arguments]:
        for key in message:
            if key not in ("execute", "exec-oob", "arguments", "id"):
                raise _Failed(f"QMP input member '{key}' is unexpected")
        ways = [key for key in ("execute", "exec-oob") if key in message]
        if not ways:
            raise _Failed("QMP input lacks member 'execute'")
        if len(ways) > 1:
            raise _Failed("QMP input has members 'execute' and 'exec-oob'")
        name, arguments = message[ways[0]], message.get("arguments", {})
        if not isinstance(name, str):
            raise _Failed(f"QMP input member '{ways[0]}' must be a string")
        if not isinstance(arguments, dict):
            raise _Failed("QMP input member 'arguments' must be an object")
        if not self.negotiated and name != "qmp_capabilities":
            raise _Failed("Expecting capabilities negotiation with 'qmp_capabilities'", NOT_FOUND)
        return name, arguments

    def _run(self, name: str, arguments: Arguments) -> tuple[Any, bool]:
        if name in self._own:
            result = self._own[name](arguments)
            if isinstance(result, _Human):
                return str(result), result.quit
            return result, False
        command = BY_QMP.get(name)
        if command is None:
            raise _Failed(f"The command {name} has not been found", NOT_FOUND)
        given = from_json(command, arguments)
        if not self.trusted and command.needs_trust(given):
            raise _Failed(f"{name}: {UNTRUSTED}")
        return command.run(self.control, given), command.ends

    def _capabilities(self, arguments: Arguments) -> None:
        if self.negotiated:
            raise _Failed("Capabilities negotiation is already complete, command ignored", NOT_FOUND)
        wanted = arguments.pop("enable", [])
        if arguments:
            raise _Failed(f"Parameter '{next(iter(arguments))}' is unexpected")
        if not isinstance(wanted, list):
            raise _Failed("Invalid parameter type for 'enable', expected: array")
        for word in wanted:
            if word not in CAPABILITIES:
                raise _Failed(f"Parameter 'enable' does not accept value '{word}'")
        self.negotiated = True

    def _version(self, arguments: Arguments) -> dict[str, Any]:
        _none(arguments)
        return version()

    def _commands(self, arguments: Arguments) -> list[dict[str, str]]:
        _none(arguments)
        return [{"name": name} for name in sorted((*self._own, *BY_QMP))]

    def _human(self, arguments: Arguments) -> Any:
        line = arguments.pop("command-line", None)
        arguments.pop("cpu-index", None)
        if line is None:
            raise _Failed("Parameter 'command-line' is missing")
        if not isinstance(line, str):
            raise _Failed("Invalid parameter type for 'command-line', expected: string")
        _none(arguments)
        reply = Hmp(self.control, self.trusted).start(line)

        async def wait() -> _Human:
            done = await settled(reply)
            return _Human(done.text, done.quit)

        return wait() if isinstance(reply, Awaitable) else _Human(reply.text, reply.quit)


def _returned(name: str, value: Any, tag: dict[str, Any], ends: bool) -> Answer:
    """Raises ControlError for a value that is none of JSON's."""
    whole = {"return": {} if value is None else value} | tag
    return Answer(whole, ends, called(name, json.dumps, whole))


class _Human(str):
    """What ``human-monitor-command`` returns."""

    quit: bool

    def __new__(cls, text: str, quit_: bool) -> _Human:
        made = super().__new__(cls, text)
        made.quit = quit_
        return made


def _none(arguments: Arguments) -> None:
    from_json(_NOTHING, arguments)


_NOTHING = Command(qmp="-", summary="no arguments", run=lambda c, a: None)


def _constant(word: str) -> None:
    raise ValueError(f"invalid keyword '{word}'")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("duplicate key")
    return found


def _deep(value: Any) -> int:
    """Levels of ``value``, without recursion."""
    level, row = 0, [value]
    while row:
        level += 1
        row = [
            one
            for item in row
            if isinstance(item, dict | list)
            for one in (item.values() if isinstance(item, dict) else item)
        ]
    return level


def parse(text: bytes) -> dict[str, Any]:
    """One message. Raises _Failed."""
    try:
        value = json.loads(text, parse_constant=_constant, object_pairs_hook=_object)
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # no half of a surrogate pair
    except (ValueError, RecursionError) as bad:  # JSON and Unicode errors are ValueErrors
        why = "too deeply nested" if isinstance(bad, RecursionError) else str(bad).partition("\n")[0][:200]
        raise _Failed(f"JSON parse error, {why}") from None
    if _deep(value) > DEPTH_MAX:
        raise _Failed("JSON parse error, too deeply nested")
    if not isinstance(value, dict):
        raise _Failed("QMP input must be a JSON object")
    return value
