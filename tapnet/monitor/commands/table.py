"""What a monitor command is: one row for both monitors, the human one (HMP) and the machine's (QMP).

    HMP  "set_link eth0 off"                                     ─ from_words ─┐
                                                                               ├► {"name": "eth0", "up": False} ─► run
    QMP  {"execute": "set_link", "arguments": {"name": ...}}     ─ from_json ──┘

A ``Command`` names its words in either monitor (``hmp``, ``qmp``; "" is none), its arguments, and what it does. The rows
are in ``commands.TABLES``; ``help``, ``query-commands``, completion and the rights of a client are worked out from them.

Rights: a command that runs programs or names files says so (``trust``). A client over TCP may not call it, unless its
monitor was opened with trusted=on.

Ref: QEMU docs/interop/qmp-spec.rst (names and types of arguments), monitor/hmp.c (words of the errors).
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .control import Control

Arguments = dict[str, Any]
Run = Callable[["Control", Arguments], Any]

ON_OFF = {"on": True, "up": True, "off": False, "down": False}


class Kind(enum.Enum):
    """How an argument is written: in HMP, in QMP, and what the handler gets."""

    TEXT = "string"  # a word; a string
    NUMBER = "integer"  # decimal or 0x; an integer
    SWITCH = "boolean"  # on|off (up|down); a boolean
    FLAG = "flag"  # "-v" in front of the words; a boolean, false by default
    REST = "words"  # all words that are left; an array of strings: a list
    OPTION = "option"  # "type,key=value,..." ("type key=value" too); all members of "arguments": text or dict


@dataclass(frozen=True, slots=True)
class Arg:
    """One argument. ``name`` is QMP's and the handler's.

    meta     in HMP's help; ``name`` by default. FLAG: the flag's letter
    choices  the only values of a TEXT
    offers   what a terminal completes: "port", "backend", "nic", "command", "info", or nothing
    """

    name: str
    kind: Kind = Kind.TEXT
    optional: bool = False
    meta: str = ""
    choices: tuple[str, ...] = ()
    offers: str = ""

    def usage(self) -> str:
        """As help shows it."""
        if self.kind is Kind.FLAG:
            return f"[-{self.meta}]"
        text = self.meta or ("|".join(self.choices) if self.choices else self.name)
        if self.kind is Kind.SWITCH and not self.meta:
            text = "on|off"
        return f"[{text}]" if self.optional else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One row.

    hmp     words of the human monitor, aliases behind "|": "quit|q", "info network"; "": QMP only
    qmp     name in QMP; "": HMP only
    run     does it. Its value is QMP's "return" (None: an empty object). May be a coroutine function
    text    what HMP prints instead of the value of ``run`` (which then is text or None); called in place of ``run``
    trust   whether a client must be trusted: always, or by ``trust(arguments)``
    ends    the instance ends once the answer is sent
    """

    hmp: str = ""
    qmp: str = ""
    summary: str
    run: Run
    args: tuple[Arg, ...] = ()
    text: Run | None = None
    trust: bool | Callable[[Arguments], bool] = False
    ends: bool = False
    names: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "names", tuple(self.hmp.removeprefix("info ").split("|")) if self.hmp else ()
        )

    @property
    def info(self) -> bool:
        """Whether it is a subcommand of HMP's ``info``."""
        return self.hmp.startswith("info ")

    def usage(self) -> str:
        """The line that ``help`` shows."""
        args = " ".join(arg.usage() for arg in self.args)
        return f"{'|'.join(self.names)} {args} -- {self.summary}"

    def needs_trust(self, arguments: Arguments) -> bool:
        """Whether these arguments are for trusted clients only."""
        return self.trust if isinstance(self.trust, bool) else self.trust(arguments)


class BadArguments(Exception):
    """HMP: the text is the answer; ``hint``: followed by a hint to ``help``."""


class BadParameter(Exception):
    """QMP: the text is the error's desc."""


def from_words(command: Command, shown: str, words: Sequence[str]) -> Arguments:
    """HMP's words as arguments. ``shown``: the command for messages. Raises BadArguments.

    Optional arguments are filled from the left with the words that the others do not need.
    """
    left = list(words)
    flags = {f"-{arg.meta}": arg.name for arg in command.args if arg.kind is Kind.FLAG}
    found: Arguments = {}
    while flags and left and left[0].startswith("-") and len(left[0]) > 1:
        word = left.pop(0)
        if word not in flags:
            raise BadArguments(f"{shown}: unsupported option {word}")
        found[flags[word]] = True
    args = [arg for arg in command.args if arg.kind is not Kind.FLAG]
    spare = len(left) - sum(not arg.optional for arg in args)
    for number, arg in enumerate(args):
        if arg.kind is Kind.OPTION:
            if not left:
                raise BadArguments(f"{shown}: string expected")
            found[arg.name], left = ",".join(left), []
            continue
        if arg.kind is Kind.REST:
            behind = sum(not later.optional for later in args[number + 1 :])
            end = max(len(left) - behind, 0)
            taken, left = left[:end], left[end:]
            if not taken and not arg.optional:
                raise BadArguments(f"{shown}: string expected")
            found[arg.name] = taken
            continue
        if arg.optional:
            if spare <= 0:
                continue
            spare -= 1
        if not left:
            raise BadArguments(
                "Expected 'on' or 'off'"
                if arg.kind is Kind.SWITCH and found
                else f"{shown}: {_WANT[arg.kind]} expected"
            )
        found[arg.name] = _from_word(arg, shown, left.pop(0))
    if left:
        raise BadArguments(f"{shown}: extraneous characters at the end of line")
    return found


_WANT = dict.fromkeys(Kind, "string") | {Kind.NUMBER: "integer"}


def _from_word(arg: Arg, shown: str, word: str) -> Any:
    if arg.kind is Kind.SWITCH:
        if word not in ON_OFF:
            raise BadArguments("Expected 'on' or 'off'")
        return ON_OFF[word]
    if arg.kind is Kind.NUMBER:
        try:
            return int(word, 0)
        except ValueError:
            raise BadArguments(f"{shown}: integer expected") from None
    if arg.choices and word not in arg.choices:
        raise BadArguments(f"{shown}: not one of {', '.join(arg.choices)}: {word}")
    return word


def from_json(command: Command, given: Arguments) -> Arguments:
    """QMP's arguments, checked. Raises BadParameter in QEMU's words."""
    left = dict(given)
    found: Arguments = {}
    for arg in command.args:
        if arg.kind is Kind.OPTION:
            found[arg.name], left = left, {}
            continue
        if arg.name not in left:
            if not arg.optional and arg.kind is not Kind.FLAG:
                raise BadParameter(f"Parameter '{arg.name}' is missing")
            continue
        value = left.pop(arg.name)
        if not _fits(arg.kind, value):
            raise BadParameter(f"Invalid parameter type for '{arg.name}', expected: {_TYPES[arg.kind]}")
        if arg.choices and value not in arg.choices:
            raise BadParameter(f"Parameter '{arg.name}' does not accept value '{value}'")
        found[arg.name] = value
    if left:
        raise BadParameter(f"Parameter '{next(iter(left))}' is unexpected")
    return found


_TYPES = {kind: kind.value for kind in Kind} | {Kind.FLAG: "boolean", Kind.REST: "array"}


def _fits(kind: Kind, value: object) -> bool:
    if kind is Kind.TEXT:
        return isinstance(value, str)
    if kind is Kind.NUMBER:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is Kind.REST:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, bool)


async def settled(value: Any) -> Any:
    """``value``, waited for if it is to be."""
    return await value if isinstance(value, Awaitable) else value
