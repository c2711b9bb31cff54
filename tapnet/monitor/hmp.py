"""The human monitor's language: a line of text in, text out, no I/O.

Words as in QEMU's monitor: ``info network``, ``help set_link``, ``quit``; what it does not know it answers
as QEMU does. The commands are a table; ``help`` is printed from it.

Limits: none of its own; ``tapnet.monitor.server`` bounds the length of a line.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .control import Control, ControlError, Refused


class Reply(NamedTuple):
    """Answer to one line. ``text`` is empty or ends with a line feed; ``quit``: end the instance once it is
    sent."""

    text: str
    ok: bool = True
    quit: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the table. ``names``: the first is shown with its aliases, as in ``quit|q``."""

    names: tuple[str, ...]
    arguments: str
    summary: str
    run: Callable[[Hmp, list[str]], str]
    arity: tuple[int, int] = (0, 0)

    def usage(self) -> str:
        """The line that ``help`` shows."""
        return f"{'|'.join(self.names)} {self.arguments} -- {self.summary}"


class _BadArguments(Exception):
    """Answered by its text and a hint to ``help``."""


class _Unknown(Exception):
    """Answered by its text."""


class Hmp:
    """Interpreter of one instance's monitors; it keeps no state between lines."""

    def __init__(self, control: Control) -> None:
        self.control = control

    def execute(self, line: str) -> Reply:
        """Answer one line. Never raises for what the line says."""
        try:
            words = shlex.split(line)
        except ValueError as error:  # an open quote
            return Reply(f"{str(error).lower()}\n", False)
        if not words:
            return Reply("")
        table, shown = COMMANDS, words[0]
        command = _find(table, words[0])
        arguments = words[1:]
        if words[0] == "info" and arguments:
            shown = f"info {arguments[0]}"
            command = _find(INFO, arguments[0])
            arguments = arguments[1:]
        if command is None:
            return Reply(f"unknown command: '{shown}'\n", False)
        hint = f'Try "help {words[0]}" for more information\n'
        if len(arguments) < command.arity[0]:
            return Reply(f"{shown}: string expected\n{hint}", False)
        if len(arguments) > command.arity[1]:
            return Reply(f"{shown}: extraneous characters at the end of line\n{hint}", False)
        try:
            text = command.run(self, arguments)
        except Refused as error:
            return Reply(f"{error}\n", False)
        except ControlError as error:
            return Reply(f"Error: {error}\n", False)
        except _Unknown as error:
            return Reply(f"{error}\n", False)
        except _BadArguments as error:
            return Reply(f"{error}\n{hint}", False)
        if text and not text.endswith("\n"):
            text += "\n"
        return Reply(text, True, command.run is _quit)


def _find(table: Sequence[Command], word: str) -> Command | None:
    return next((command for command in table if word in command.names), None)


def _listing(table: Sequence[Command], prefix: str = "") -> str:
    return "\n".join(sorted(prefix + command.usage() for command in table))


def _help(_hmp: Hmp, words: list[str]) -> str:
    if not words:
        return _listing(COMMANDS)
    if words[0] == "info":
        found = _find(INFO, words[1]) if len(words) > 1 else None
        if len(words) == 1:
            return _listing(INFO, "info ")
        if found is not None:
            return f"info {found.usage()}"
    elif len(words) == 1 and (command := _find(COMMANDS, words[0])) is not None:
        return command.usage()
    raise _Unknown(f"unknown command: '{' '.join(words)}'")


def _info(_hmp: Hmp, _words: list[str]) -> str:
    return _listing(INFO, "info ")


def _info_network(hmp: Hmp, words: list[str]) -> str:
    if words and words[0] != "-v":
        raise _BadArguments(f"info network: unsupported option {words[0]}")
    return hmp.control.info_network(bool(words))


def _quit(_hmp: Hmp, _words: list[str]) -> str:
    return ""


def _set_link(hmp: Hmp, words: list[str]) -> str:
    states = {"on": True, "up": True, "off": False, "down": False}
    if len(words) < 2 or words[1] not in states:
        raise _BadArguments("Expected 'on' or 'off'")
    hmp.control.set_link(words[0], states[words[1]])
    return ""


def _hostfwd_add(hmp: Hmp, words: list[str]) -> str:
    hmp.control.hostfwd_add(words[-1], words[0] if len(words) > 1 else None)
    return ""


def _hostfwd_remove(hmp: Hmp, words: list[str]) -> str:
    return hmp.control.hostfwd_remove(words[-1], words[0] if len(words) > 1 else None)


INFO: tuple[Command, ...] = (
    Command(
        ("hostfwd",), "", "show the redirections and their numbers", lambda h, _: h.control.info_hostfwd()
    ),
    Command(("instance",), "", "show name, pid, VLANs and mode", lambda h, _: h.control.info_instance()),
    Command(("name",), "", "show the name of this instance", lambda h, _: h.control.info_name()),
    Command(("network",), "[-v]", "show the VLANs (-v: with link state and counters)", _info_network, (0, 1)),
    Command(("status",), "", "show whether the machine runs", lambda h, _: h.control.info_status()),
    Command(("usernet",), "", "show the flows of the user-mode NAT", lambda h, _: h.control.info_usernet()),
    Command(("version",), "", "show the version", lambda h, _: h.control.info_version()),
    Command(("vlans",), "", "show VLAN numbers and sizes", lambda h, _: h.control.info_vlans()),
)

COMMANDS: tuple[Command, ...] = (
    Command(("help", "?"), "[cmd]", "show the help", _help, (0, 2)),
    Command(
        ("hostfwd_add",),
        "[netdev_id] [tcp|udp|unix]:[hostaddr]:hostport-[guestaddr]:guestport",
        "redirect a port of the host to a guest",
        _hostfwd_add,
        (1, 2),
    ),
    Command(
        ("hostfwd_remove",),
        "[netdev_id] rule|number|[tcp|udp|unix]:[hostaddr]:hostport",
        "end a redirection",
        _hostfwd_remove,
        (1, 2),
    ),
    Command(("info",), "[subcommand]", "show various information", _info),
    Command(("quit", "q"), "", "end this instance", _quit),
    Command(("set_link",), "name on|off", "plug or pull the cable of a NIC or backend", _set_link, (1, 2)),
)
