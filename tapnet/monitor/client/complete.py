"""Lines typed at a terminal: history over sessions, and completion by the tab key from the table of commands.

Names of ports are asked of the instance (``info ports``) when they are needed. Python's readline edits the lines; where
Python was built without it there is neither history nor completion. The history is ``$XDG_STATE_HOME/tapnet/history``
(``~/.local/state``), for its owner only, ``HISTORY_MAX`` lines; a place that cannot be written is no error.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..commands.general import INFO
from ..commands.table import Arg, Kind
from ..hmp import WORDS

HISTORY_MAX = 1000
DELIMITERS = " \t\n"


def history_path(environ: dict[str, str] | None = None) -> Path:
    """Where the history is kept."""
    environ = dict(os.environ) if environ is None else environ
    state = environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path(environ.get("HOME") or "/") / ".local" / "state"
    return base / "tapnet" / "history"


def candidates(before: str, word: str, names: Callable[[str], Iterable[str]]) -> list[str]:
    """What may stand where ``word`` is being typed, behind the text ``before``.

    names(what)   names that the instance knows: of a "port", a "backend" or a "nic"
    """
    words = before.split()
    if not words:
        return _starting(WORDS, word)
    if words[0] == "info":
        if len(words) == 1:
            return _starting(INFO, word)
        command, position = INFO.get(words[1]), len(words) - 2
    else:
        command, position = WORDS.get(words[0]), len(words) - 1
    if command is None:
        return []
    found: list[str] = []
    args = [arg for arg in command.args if arg.kind is not Kind.FLAG]
    if word.startswith("-"):
        found += [f"-{arg.meta}" for arg in command.args if arg.kind is Kind.FLAG]
    reached = args[position : position + 1] or (args[-1:] if args and args[-1].kind is Kind.REST else [])
    if position < len(args) and args[position].optional:  # it may have been left out
        reached += args[position + 1 : position + 2]
    for arg in reached:
        found += _offered(arg, words, names)
    return _starting(found, word)


def _offered(arg: Arg, words: list[str], names: Callable[[str], Iterable[str]]) -> Iterable[str]:
    if arg.kind is Kind.SWITCH:
        return ("on", "off")
    if arg.offers == "command":
        return INFO if words[-1:] == ["info"] else WORDS
    if arg.offers == "info":
        return INFO
    if arg.offers:
        return names(arg.offers)
    return arg.choices


def _starting(words: Iterable[str], start: str) -> list[str]:
    return sorted({word for word in words if word.startswith(start)})


class Terminal:
    """A person's terminal. ``ask(line)`` has the instance answer a command."""

    def __init__(self, ask: Callable[[str], str]) -> None:
        self._ask = ask
        self._found: list[str] = []
        self._readline: Any = None
        self._history = history_path()
        with contextlib.suppress(ImportError):
            import readline

            self._readline = readline
            readline.set_completer_delims(DELIMITERS)
            readline.set_completer(self._complete)
            readline.parse_and_bind("tab: complete")
            readline.set_history_length(HISTORY_MAX)
            with contextlib.suppress(OSError):
                readline.read_history_file(self._history)

    def lines(self, prompt: str) -> Iterator[str]:
        """Lines until the end of input. An interrupt gives the line up."""
        while True:
            try:
                yield input(prompt)
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()

    def close(self) -> None:
        """Keep the history."""
        if self._readline is None:
            return
        with contextlib.suppress(OSError):
            self._history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._history, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            self._readline.write_history_file(self._history)

    def _names(self, what: str) -> list[str]:
        try:
            rows = [line.split() for line in self._ask("info ports").splitlines()[1:]]
        except Exception:  # the instance has gone: nothing to offer
            return []
        return [row[0] for row in rows if len(row) > 1 and what in ("port", row[1])]

    def _complete(self, text: str, state: int) -> str | None:
        if state == 0:
            before = self._readline.get_line_buffer()[: self._readline.get_begidx()]
            self._found = candidates(before, text, self._names)
        return self._found[state] + " " if state < len(self._found) else None
