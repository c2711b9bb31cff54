"""QEMU's network options, and TOML, to one ``Config``.

    argv, files --sources--> Raw, in order --entry()--> Entry with converted values --resolve--> Config

``parse`` is the way in. It opens nothing but the files of ``-config``. Whatever is wrong ends as one
``OptionError`` that names option, key and value and the nearest known word; ``-net help`` and the like end as
``HelpAsked``.

Precedence: files in the order given, then the command line; of a scalar given twice the last stands; nets
and cards add up. ``mode`` is the flag over TAPNET_MODE over TOML. ``parse_option`` reads one option by
itself, for the monitor's netdev_add and its like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import MACHINES, MODES, Config, Endpoint
from ..errors import HelpAsked, OptionError
from ..text import nearest, shown
from . import converters as words
from . import grammars as rules
from . import nets, resolve, sources
from . import tables as keys
from .given import Given
from .resolve import Entry, Setup
from .sources import Raw
from .tables import Key, Kind

__all__ = ["HelpAsked", "OptionError", "parse", "parse_option"]

MAX_MEMBERS = 512
MIN_MEMORY, MAX_MEMORY = 1 << 20, 3 << 30

_NIC_KEYS = {k: v for k, v in keys.NIC.items() if k != "bus"}


def parse(argv: Sequence[str], command: str = "run", environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of ``tapnet run`` or ``exec`` (``command``) with the words ``argv``.

    ``environ`` may hold TAPNET_MODE. Raises OptionError; HelpAsked (its ``status`` is 0) with a text to
    print; sources.UsageAsked for --help.
    """
    scanned = sources.scan(argv, command)
    raws: list[Raw] = []
    for path in scanned.files:
        raws += sources.toml(path, sources.read_file(path))
    setup = Setup(command=command, words=tuple(scanned.command), files=tuple(scanned.files))
    setup.mode = _file_mode(raws)
    if environ and environ.get("TAPNET_MODE"):
        setup.mode = _one_of("TAPNET_MODE", environ["TAPNET_MODE"], MODES)
    raws = [raw for raw in raws if raw.option != "mode"] + scanned.options
    for raw in raws:
        apply(setup, raw)
    if len(setup.entries) > MAX_MEMBERS:
        raise OptionError(f"more than {MAX_MEMBERS} nets and cards")
    return resolve.config(setup)


def parse_option(option: str, value: str) -> Entry:
    """One -net, -netdev, -device or -nic, converted and checked by itself. Raises OptionError."""
    return entry(Raw(option, f"-{option}", value))


def _asks_help(value: str) -> bool:
    return value in ("help", "?") or value.endswith((",help", "=help", ",?"))


def _file_mode(raws: list[Raw]) -> str | None:
    found = None
    for raw in raws:
        if raw.option == "mode":
            found = _one_of(raw.origin, raw.value, MODES)
    return found


def _one_of(origin: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise OptionError(f"{origin} {shown(value)}: not one of {', '.join(known)}{nearest(value, known)}")
    return value


# ---- scalars ----------------------------------------------------------------------------------------------


def apply(setup: Setup, raw: Raw) -> None:
    """Put one option into ``setup``."""
    option, value = raw.option, raw.value
    if keys.OPTIONS[option].table:
        setup.entries.append(entry(raw))
        return
    if keys.OPTIONS[option].later and not _asks_help(value):
        setup.later.append(f"{raw.origin}: not built yet")
    if option in SCALARS:
        setup.scalars[option] = _convert(raw, SCALARS[option])
    elif option == "mode":
        setup.mode = _one_of(raw.origin, value, MODES)
    elif option == "machine":
        setup.machine = _machine(raw)
    elif option in ("monitor", "qmp"):
        _chardev(setup, raw)
    elif option == "qtest":
        setup.scalars["qtest"] = rules.chardev(raw.origin, value)
    elif option == "redir":
        setup.redirs.append((raw.origin, _convert(raw, rules.redir)))
    elif option == "d":
        _log(setup, raw)
    else:  # tftp, bootp, smb: defaults of every -net user
        setup.old[option] = (raw.origin, _convert(raw, words.text))


def _memory(value: str) -> int:
    first, *rest = words.split(value)
    if rest:
        raise ValueError(f"takes only a size, not {rest[0]}")
    first = first.removeprefix("size=")
    return words.between(words.size("m"), MIN_MEMORY, MAX_MEMORY, "not between 1M and 3G")(first)


def _name(value: str) -> str:
    first, *rest = words.split(value)
    if rest:
        raise ValueError("takes only a name")
    return words.instance(first.removeprefix("guest="))


def _metrics(value: str) -> Any:
    found = words.endpoint()(value)
    return found if found.host else Endpoint("localhost", found.port)


SCALARS = {
    "m": _memory,
    "name": _name,
    "metrics": _metrics,
    "D": words.text,
    "ready-fd": words.fd,
    "runas": words.name,
    "keep-uid": words.boolean,
}


def _convert(raw: Raw, convert: Any) -> Any:
    try:
        return convert(raw.value)
    except ValueError as error:
        raise OptionError(f"{raw.origin} {shown(raw.value)}: {error}") from None


def _machine(raw: Raw) -> str:
    first, *rest = words.split(raw.value)
    first = first.removeprefix("type=")
    if first in ("help", "?"):
        raise HelpAsked(keys.machines_help())
    if first not in MACHINES:
        near = nearest(first, MACHINES, 0.5) or f" (known: {' '.join(MACHINES)})"
        raise OptionError(f"{raw.origin}: unknown machine {shown(first)}{near}")
    if rest:
        raise OptionError(f"{raw.origin} {first}: unknown key {shown(rest[0])}")
    return first


def _chardev(setup: Setup, raw: Raw) -> None:
    found = rules.chardev(raw.origin, raw.value)
    target = setup.monitors if raw.option == "monitor" else setup.qmp
    if found is None:
        target.clear()
    else:
        target.append(found)


def _log(setup: Setup, raw: Raw) -> None:
    for item in raw.value.split(","):
        if item in ("help", "?"):
            raise HelpAsked(keys.log_help())
        if item not in keys.LOG_ITEMS:
            near = nearest(item, keys.LOG_ITEMS) or f" (known: {' '.join(keys.LOG_ITEMS)})"
            raise OptionError(f"{raw.origin}: unknown item {shown(item)}{near}")
        if item in keys.LOG_LATER:
            setup.later.append(f"-d {item}: not built yet")
        if item not in setup.log_items:
            setup.log_items.append(item)


# ---- nets and cards ---------------------------------------------------------------------------------------


def entry(raw: Raw) -> Entry:
    """One -net, -netdev, -device, -nic or -object. Raises OptionError, HelpAsked."""
    kind_word, pairs = _first(raw)
    if kind_word in ("help", "?"):
        raise HelpAsked(
            keys.models_help() if raw.option == "device" else keys.kinds_help(_listed(raw.option))
        )
    handler = {"net": _net, "netdev": _netdev, "device": _device, "nic": _nic, "object": _object}[raw.option]
    return handler(raw, kind_word, pairs)


def _listed(option: str) -> str:
    return "net" if option == "net" else "netdev"


FIRST = {"net": ("type",), "netdev": ("type",), "nic": ("type",), "device": ("driver", "model", "type")}


def _first(raw: Raw) -> tuple[str, sources.Pairs]:
    """(first word, the pairs behind it); the first word may be spelt type= or driver=."""
    names = FIRST.get(raw.option, ("qom-type", "type"))
    if raw.pairs is None and raw.value.startswith("{"):
        raw = Raw(raw.option, raw.origin, pairs=sources.json_pairs(raw.origin, raw.value))
    if raw.pairs is not None:
        pairs = list(raw.pairs)
    else:
        parts = words.split(raw.value)
        if len(parts) > words.MAX_KEYS:
            raise OptionError(f"{raw.origin}: more than {words.MAX_KEYS} keys")
        pairs = []
        for number, part in enumerate(parts):
            key, equals, value = part.partition("=")
            if not equals and number == 0:
                pairs.append((names[0], part))
            else:
                pairs.append((key, value if equals else "\0"))  # "\0": no value given
    for name in names:
        for number, (key, value) in enumerate(pairs):
            if key == name and not (raw.option == "nic" and name == "model"):
                if value in ("", "\0"):
                    raise OptionError(f"{raw.origin}: needs a type (-{raw.option} help lists them)")
                return value, pairs[:number] + pairs[number + 1 :]
    if raw.option == "nic":
        return "", pairs
    raise OptionError(f"{raw.origin}: needs {names[0]}= (-{raw.option} help lists them)")


def _origin(raw: Raw, kind: str) -> str:
    return f"{raw.origin} {kind}" if raw.pairs is None else raw.origin


def _kind(raw: Raw, word: str, extra: Mapping[str, Kind]) -> Kind:
    known = {**keys.NETS, **extra}
    if word in known:
        return known[word]
    if word in keys.FOREIGN:
        raise OptionError(f"{raw.origin} {word}: {keys.FOREIGN[word]}")
    if word in keys.MODEL_HELP:
        raise OptionError(f"{raw.origin}: {word} is a card: write -net nic,model={word}")
    near = nearest(word, known) or f" (-{raw.option} help lists them)"
    raise OptionError(f"{raw.origin}: unknown type {shown(word)}{near}")


def _net(raw: Raw, word: str, pairs: sources.Pairs) -> Entry:
    kind = _kind(raw, word, {"nic": keys.NIC_KIND, "none": keys.NONE_KIND, "hub": keys.HUB_KIND})
    told = "vni"
    if kind.name == "vxlan" and any(key == "id" for key, _ in pairs):  # the number of the VXLAN network here
        pairs, told = [("vni" if key == "id" else key, value) for key, value in pairs], "id"
    common = {key.name: key for key in (keys.VLAN, keys.NAME, keys.ID, keys.IMPAIR)}
    if kind.name == "none":
        common = {}
    elif kind.name == "hub":
        common = {"vlan": keys.VLAN}
    elif kind.name == "hubport":
        common = {"name": keys.NAME, "id": keys.ID}
    try:
        given = convert(_origin(raw, kind.name), pairs, kind, {**common, **kind.keys})
    except OptionError as error:
        if told == "vni" or isinstance(error, HelpAsked):
            raise
        raise OptionError(str(error).replace(": vni=", f": {told}=", 1)) from None
    return _made(kind, given, "net")


def _netdev(raw: Raw, word: str, pairs: sources.Pairs) -> Entry:
    if word == "nic":
        raise OptionError(f"{raw.origin} nic: a card is -device MODEL,netdev=ID or -net nic")
    kind = _kind(raw, word, {})
    origin = _origin(raw, kind.name)
    if kind.name == "dump":
        raise OptionError(f"{origin}: captures a VLAN: write -net dump, or -object filter-dump for a netdev")
    if any(key == "vlan" for key, _ in pairs):
        raise OptionError(f"{origin}: vlan= does not go with -netdev: write -net {kind.name},vlan=N")
    common = {"id": keys.ID, "impair": keys.IMPAIR} if kind.name != "hubport" else {"id": keys.ID}
    given = convert(origin, pairs, kind, {**common, **kind.keys})
    if "id" not in given.values:
        raise given.error("needs id=")
    return _made(kind, given, "netdev")


def _made(kind: Kind, given: Given, option: str) -> Entry:
    found = Entry(option, kind.name, given)
    if kind.later:
        given.unbuilt.insert(0, f"{given.origin}: not built yet")
    if kind.name in nets.MAKERS:
        found.net = nets.make(kind.name, given)
    elif kind.name == "hubport" and "hubid" not in given.values:
        raise given.error("needs hubid=")
    elif kind.name == "nic":
        resolve.check_model(given)
    return found


def _device(raw: Raw, word: str, pairs: sources.Pairs) -> Entry:
    table = {key: value for key, value in keys.NIC.items() if key != "model"}
    table |= {"vlan": keys.VLAN, "id": keys.ID}
    origin = _origin(raw, word)
    resolve.known_model(origin if raw.pairs is not None else raw.origin, word)
    given = convert(origin, pairs, Kind(word, keys.MODEL_HELP[word], table), table)
    given.values["model"] = word
    if "netdev" in given.values and "vlan" in given.values:
        raise given.error("netdev= and vlan= exclude each other")
    resolve.check_model(given)
    return Entry("device", "nic", given)


def _nic(raw: Raw, word: str, pairs: sources.Pairs) -> Entry:
    """A card and its backend: each key goes to the side that knows it, mtu= and impair= as noted below."""
    if word == "none":
        convert(_origin(raw, "none"), pairs, keys.NONE_KIND, {})
        return Entry("nic", "none", Given(raw.origin))
    kind = _kind(raw, word or "user", {})
    origin = _origin(raw, word) if word else raw.origin
    if kind.name == "dump":
        raise OptionError(f"{origin}: captures a VLAN: write -net dump")
    card = {**_NIC_KEYS, "id": keys.ID, "name": keys.NAME}
    for key in ("netdev", "impair"):
        card.pop(key)
    common = {"impair": keys.IMPAIR}
    table = {**card, **common, **kind.keys, "mac": keys.NIC["mac"], "model": keys.NIC["model"]}
    given = convert(origin, pairs, kind, table)
    mine = {
        k: v for k, v in given.values.items() if k in card and (k not in kind.keys or k in ("mac", "mtu"))
    }
    theirs = {k: v for k, v in given.values.items() if k in kind.keys and k != "mac"}
    if "impair" in given.values:
        theirs["impair"] = given.values["impair"]
    if kind.name == "user" and "mtu" in mine and mine.get("model") != "direct":
        del mine["mtu"]
    other = Given(origin, theirs, given.filters, unbuilt=given.unbuilt)
    found = _made(kind, other, "nic")
    found.card = Given(origin, mine)
    found.implicit = not word
    resolve.check_model(found.card)
    return found


OBJECT = {
    key.name: key
    for key in (
        keys.ID,
        Key("netdev", words.identifier, "ID"),
        Key("file", words.text, "FILE"),
        Key("maxlen", words.between(words.size(), 14, 262144, "not 14..262144"), "SIZE"),
        Key("queue", words.choice("all", "rx", "tx"), "all|rx|tx"),
        Key("status", words.choice("on", "off"), "on|off"),
        Key("position", words.text, "head|tail|id=ID"),
        Key("insert", words.choice("before", "behind"), "before|behind"),
    )
}
FOREIGN_OBJECTS = ("filter-mirror", "filter-redirector", "filter-buffer", "filter-rewriter", "colo-compare")


def _object(raw: Raw, word: str, pairs: sources.Pairs) -> Entry:
    if word in FOREIGN_OBJECTS:
        raise OptionError(f"{raw.origin} {word}: tapnet has filter-dump only")
    if word != "filter-dump":
        near = nearest(word, ("filter-dump",)) or " (known: filter-dump)"
        raise OptionError(f"{raw.origin}: unknown type {shown(word)}{near}")
    kind = Kind(word, "capture of one member", OBJECT)
    given = convert(_origin(raw, word), pairs, kind, OBJECT)
    for key in ("id", "netdev", "file"):
        if key not in given.values:
            raise given.error(f"needs {key}=")
    return Entry("object", word, given)


def convert(origin: str, pairs: sources.Pairs, kind: Kind, table: Mapping[str, Key]) -> Given:
    """Convert ``pairs`` by ``table``. Raises OptionError, HelpAsked."""
    given = Given(origin)
    for name, value in pairs:
        if name in ("help", "?") and value in ("\0", "on"):
            raise HelpAsked(_help_for(origin, kind, table))
        key = table.get(name)
        if key is None:
            known = f" (known: {' '.join(table)})" if 0 < len(table) < 12 else ""
            near = nearest(name, table) or known
            raise OptionError(f"{origin}: unknown key {shown(name)}{near}")
        if value == "\0":
            if key.convert is not words.boolean:
                raise OptionError(f"{origin}: {name} needs a value: {name}={key.meta}")
            value = "on"
        if name == "model" and value in ("help", "?"):
            raise HelpAsked(keys.models_help())
        try:
            result = key.convert(value)
        except ValueError as error:
            raise OptionError(f"{origin}: {name}={shown(value)[1:-1]}: {error}") from None
        if key.repeat:
            given.values.setdefault(name, []).append(result)
            if name in ("allow", "deny"):
                given.filters.append(result)
        elif name in given.values:
            raise OptionError(f"{origin}: {name}= is given twice")
        else:
            given.values[name] = result
        if key.waits(result) and not kind.later:
            given.unbuilt.append(f"{origin}: {name}= is not built yet")
    if "mac" in given.values and "macaddr" in given.values:
        raise OptionError(f"{origin}: mac= and macaddr= are the same key")
    return given


def _help_for(origin: str, kind: Kind, table: Mapping[str, Key]) -> str:
    return keys.keys_help(origin, Kind(kind.name, kind.help, table, kind.later), {})
