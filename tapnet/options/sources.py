"""Where options come from: the command line and TOML files, as one list of raw options in order.

click keeps the order of one option only and reads ``-nett`` as ``-n -e -t -t``, so the words behind a
sub-command come here unread. One dash or two; ``-net VALUE``, ``-net=VALUE``. The first word that is
neither an option nor an option's value begins the COMMAND of ``exec``; so does everything behind ``--``.

In TOML each ``[[net]]``, ``[[netdev]]``, ``[[device]]``, ``[[nic]]``, ``[[object]]`` table is one option with
the same keys, and everything else is a scalar at top level. Numbers and booleans may be written as such,
repeatable keys as lists, dotted keys as tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import HelpAsked, OptionError
from ..text import nearest, shown
from . import converters as words
from .tables import ALIASES, OLD_OPTIONS, OPTIONS, TABLES

MAX_WORDS = 4096
MAX_FILE = 1 << 20
MAX_FILES = 16
MAX_DEPTH = 4  # of tables inside a table

Pairs = list[tuple[str, str]]


class UsageAsked(HelpAsked):
    """--help stood among the words: the caller prints its usage."""


@dataclass(frozen=True, slots=True)
class Raw:
    """One option as it was given. ``pairs`` (from TOML or JSON) or ``value``."""

    option: str
    origin: str  # "-net", "lab.toml: [[net]] 2", "lab.toml: m"
    value: str = ""
    pairs: Pairs | None = None


@dataclass(slots=True)
class Scanned:
    """A command line, cut."""

    options: list[Raw] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def lookup(word: str, command: str) -> tuple[str, str | None]:
    """(option name, text behind "=" or None) of a word that begins with a dash."""
    bare = word[2:] if word.startswith("--") else word[1:]
    name, equals, inline = bare.partition("=")
    name = ALIASES.get(name, name)
    option = OPTIONS.get(name)
    if option is None:
        raise OptionError(f"unknown option {shown(word)}{_hint(word, name)}")
    if command not in option.commands:
        raise OptionError(f"{word.partition('=')[0]} belongs to tapnet {' and '.join(option.commands)}")
    return name, inline if equals else None


def _hint(word: str, name: str) -> str:
    if name in OLD_OPTIONS:
        return f" ({OLD_OPTIONS[name]})"
    dashes = "--" if word.startswith("--") else "-"
    near = nearest(name, [n for n in (*OPTIONS, *ALIASES) if len(n) > 1])
    return near.replace('"', f'"{dashes}', 1)


def scan(argv: Sequence[str], command: str) -> Scanned:
    """Cut ``argv`` of ``run`` or ``exec``. Raises OptionError, or UsageAsked for --help."""
    found = Scanned()
    at = 0
    while at < len(argv):
        word = argv[at]
        at += 1
        if word == "--":
            found.command = list(argv[at:])
            break
        if not word.startswith("-") or word == "-":
            found.command = list(argv[at - 1 :])
            break
        if word in ("-h", "-help", "--help"):
            raise UsageAsked("")
        if len(found.options) >= MAX_WORDS:
            raise OptionError(f"more than {MAX_WORDS} options")
        name, inline = lookup(word, command)
        label = word.partition("=")[0]
        if not OPTIONS[name].meta:
            found.options.append(Raw(name, label, "on" if inline is None else inline))
            continue
        if inline is None:
            if at >= len(argv) or argv[at] == "--":
                raise OptionError(f"{label}: needs a value ({OPTIONS[name].meta})")
            inline = argv[at]
            at += 1
        if len(inline) > words.MAX_WORD:
            raise OptionError(f"{label}: longer than {words.MAX_WORD} characters")
        if name == "config":
            found.files.append(inline)
        else:
            found.options.append(Raw(name, label, inline))
    if command == "run" and found.command:
        raise OptionError(f"unexpected word {shown(found.command[0])} (a COMMAND belongs to tapnet exec)")
    if len(found.files) > MAX_FILES:
        raise OptionError(f"-config: more than {MAX_FILES} files")
    return found


def read_file(path: str) -> bytes:
    """A configuration file. Raises OptionError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OptionError(f"-config {path}: {reason}") from None
    if len(data) > MAX_FILE:
        raise OptionError(f"-config {path}: larger than {MAX_FILE} bytes")
    return data


def toml(path: str, data: bytes) -> list[Raw]:
    """The options of one TOML file. Raises OptionError that names file, table and key."""
    import tomllib  # here: few starts read a file

    try:
        tree = tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise OptionError(f"{path}: not UTF-8 text") from None
    except (RecursionError, ValueError) as error:
        raise OptionError(f"{path}: {error}") from None
    return list(_options(path, tree))


def _options(path: str, tree: Mapping[str, Any]) -> Iterator[Raw]:
    count = 0
    for key, value in tree.items():
        name = ALIASES.get(key, key)
        option = OPTIONS.get(name)
        if option is None or name == "config":
            near = nearest(key, [*OPTIONS, *ALIASES]) if name != "config" else " (files do not include)"
            raise OptionError(f"{path}: unknown key {shown(key)}{near}")
        if name in TABLES:
            if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
                raise OptionError(f"{path}: {key}: write [[{key}]] tables")
            for number, table in enumerate(value, 1):
                origin = f"{path}: [[{key}]] {number}"
                yield Raw(name, origin, pairs=flatten(origin, table))
                count += 1
        else:
            many = value if isinstance(value, list) and name in REPEATED else [value]
            for single in many:
                yield Raw(name, f"{path}: {key}", scalar(f"{path}: {key}", single))
                count += 1
        if count > MAX_WORDS:
            raise OptionError(f"{path}: more than {MAX_WORDS} options")


REPEATED = ("monitor", "qmp", "redir", "d")


def scalar(origin: str, value: object) -> str:
    """A TOML or JSON value as the text that the command line would have."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        if len(value) > words.MAX_WORD:
            raise OptionError(f"{origin}: longer than {words.MAX_WORD} characters")
        return value
    if isinstance(value, int):
        if abs(value) > 2**64:
            raise OptionError(f"{origin}: number too large")
        return str(value)
    if isinstance(value, float):
        return repr(value)
    raise OptionError(f"{origin}: neither text, number nor true or false")


def flatten(origin: str, table: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Pairs:
    """A table as pairs; nested tables become dotted keys, lists repeat their key."""
    pairs: Pairs = []
    if depth > MAX_DEPTH:
        raise OptionError(f"{origin}: tables nested too deep")
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict):
            pairs += flatten(origin, value, name + ".", depth + 1)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, dict) and set(item) == {"str"}:  # QEMU's JSON form of a list of strings
                    item = item["str"]
                pairs.append((name, scalar(f"{origin}: {name}", item)))
        else:
            pairs.append((name, scalar(f"{origin}: {name}", value)))
        if len(pairs) > words.MAX_KEYS:
            raise OptionError(f"{origin}: more than {words.MAX_KEYS} keys")
    return pairs


def json_pairs(origin: str, value: str) -> Pairs:
    """``-netdev '{"type": ...}'`` and ``-device '{"driver": ...}'``."""
    try:
        tree = json.loads(value)
    except json.JSONDecodeError as error:
        raise OptionError(f"{origin}: not JSON, at character {error.pos}") from None
    except (ValueError, RecursionError):
        raise OptionError(f"{origin}: not JSON that tapnet reads") from None
    if not isinstance(tree, dict):
        raise OptionError(f"{origin}: not a JSON object")
    return flatten(origin, tree)
