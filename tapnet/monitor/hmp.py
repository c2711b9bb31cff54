"""The human monitor's language: a line of text in, text out, no I/O.

Words as in QEMU's monitor: ``info network``, ``help set_link``, ``quit``; what it does not know it answers
as QEMU does. The commands are ``commands.TABLES``; ``help`` is printed from them.

Limits: none of its own; ``tapnet.monitor.sessions.session`` bounds the length of a line.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, NamedTuple

from ..errors import ControlError, Refused
from .commands.control import Control
from .commands.general import BY_WORD, INFO
from .commands.table import Arg, BadArguments, Command, Kind, from_words
from .mistakes import called, waited

PROMPT = "(tapnet) "
UNTRUSTED = "it runs programs or names files: not over this connection (trusted=on of its option permits it)"


class Reply(NamedTuple):
    """Answer to one line. ``text`` is empty or ends with a line feed; ``quit``: end the instance once it is
    sent."""

    text: str
    ok: bool = True
    quit: bool = False


def _help(_control: Control, arguments: dict[str, Any]) -> str:
    return help_text(arguments.get("words", []))


HELP = Command(
    hmp="help|?",
    args=(Arg("words", Kind.REST, optional=True, meta="cmd", offers="command"),),
    summary="show the help",
    run=_help,
)
INFO_LIST = Command(
    hmp="info",
    args=(Arg("subcommand", optional=True, offers="info"),),
    summary="show various information",
    run=lambda c, a: _listing(INFO.values(), "info "),
)
WORDS = BY_WORD | dict.fromkeys(HELP.names, HELP) | {"info": INFO_LIST}


class Hmp:
    """Interpreter of one client's lines; it keeps no state between them. ``trusted``: see ``table``."""

    def __init__(self, control: Control, trusted: bool = True) -> None:
        self.control = control
        self.trusted = trusted

    def execute(self, line: str) -> Reply:
        """Answer one line. Never raises for what the line says. A command that takes its time is refused: ``start``."""
        reply = self._answer(line)
        if isinstance(reply, Reply):
            return reply
        if isinstance(reply[1], Coroutine):
            reply[1].close()
        return Reply(f"Error: {line.split()[0]}: not in one step\n", False)

    def start(self, line: str) -> Reply | Awaitable[Reply]:
        """The same, but an answer that takes its time is to be awaited."""
        reply = self._answer(line)
        return reply if isinstance(reply, Reply) else self._wait(_word(line), *reply)

    def _answer(self, line: str) -> Reply | tuple[Command, Awaitable[Any]]:
        try:
            return called(_word(line), self._begin, line)
        except ControlError as error:
            return _failed(error)

    def _begin(self, line: str) -> Reply | tuple[Command, Awaitable[Any]]:
        try:
            words = shlex.split(line)
        except ValueError as error:  # an open quote
            return Reply(f"{str(error).lower()}\n", False)
        if not words:
            return Reply("")
        shown, rest = words[0], words[1:]
        if shown == "info" and rest:
            shown, rest = f"info {rest[0]}", rest[1:]
            command = INFO.get(words[1])
        else:
            command = WORDS.get(shown)
        if command is None:
            return Reply(f"unknown command: '{shown}'\n", False)
        try:
            arguments = from_words(command, shown, rest)
        except BadArguments as error:
            return Reply(f'{error}\nTry "help {words[0]}" for more information\n', False)
        if not self.trusted and command.needs_trust(arguments):
            return Reply(f"Error: {shown}: {UNTRUSTED}\n", False)
        result = (command.text or command.run)(self.control, arguments)
        if isinstance(result, Awaitable):
            return command, result
        return _done(command, result)

    async def _wait(self, word: str, command: Command, result: Awaitable[Any]) -> Reply:
        try:
            return _done(command, await waited(word, result))
        except ControlError as error:
            return _failed(error)


def _word(line: str) -> str:
    """What a line asks for, for messages."""
    words = line.split(maxsplit=2)
    return " ".join(words[: 2 if words[:1] == ["info"] else 1])


def _done(command: Command, result: Any) -> Reply:
    text = result if isinstance(result, str) else ""
    if text and not text.endswith("\n"):
        text += "\n"
    return Reply(text, True, command.ends)


def _failed(error: ControlError) -> Reply:
    return Reply(f"{error}\n" if isinstance(error, Refused) else f"Error: {error}\n", False)


def _listing(table: Iterable[Command], prefix: str = "") -> str:
    return "\n".join(sorted({prefix + command.usage() for command in table}))


def help_text(words: list[str]) -> str:
    """What ``help`` prints. Raises Refused for what there is not."""
    if not words:
        return _listing(WORDS.values())
    if words[0] == "info":
        if len(words) == 1:
            return _listing(INFO.values(), "info ")
        if len(words) == 2 and words[1] in INFO:
            return f"info {INFO[words[1]].usage()}"
    elif len(words) == 1 and words[0] in WORDS:
        return WORDS[words[0]].usage()
    raise Refused(f"unknown command: '{' '.join(words)}'")
