"""Fuzz the option parser: words, TOML and JSON cut from valid ones and spoilt.

    python -m tests.fuzz.fuzz_options --seconds N [--seed S]

A finding is any exception but OptionError, a message that is not one printable line, or a parse that takes more
than half a second of processor time. It is printed with its seed, and the exit status is 1.
"""

from __future__ import annotations

import random
import sys
import time

from tapnet.errors import OptionError
from tapnet.options import converters as words
from tapnet.options import tables as keys
from tapnet.options.parse import apply, parse
from tapnet.options.resolve import Setup, config
from tapnet.options.sources import toml
from tests.fuzz import runner

VALUES = (
    *(
        "on",
        "off",
        "0",
        "1",
        "-1",
        "0x300",
        "65535",
        "65536",
        "99999999999999999999",
        "64M",
        "1.5G",
        "help",
        "?",
    ),
    *(
        "10.0.2.2",
        "10.0.2.0/24",
        "0.0.0.0/0",
        "255.255.255.0",
        "::1",
        "[::1]:80",
        "fec0::/64",
        "fd00::/8",
        "localhost:1",
    ),
    *(
        "52:54:00:12:34:56",
        "01:00:5e:00:00:01",
        "br0",
        "tap%d",
        "u",
        "h",
        "/tmp/x",
        "/a,,b",
        "eth0",
        "ne2k_isa",
        "pcnet",
    ),
    *(
        "tcp::5555-:22",
        "udp:[::1]:5-[fec0::5]:7",
        "unix:/s-:1",
        "tcp:10.0.2.9:1-cmd:x",
        "230.0.0.1:1234",
        "inet",
        "unix",
    ),
    *(
        "fd",
        "stdio",
        "unix:/x,server=on",
        "tcp::1,wait=off",
        "none",
        "slirp,tcp",
        "isapc",
        "user",
        "\0",
        "é",
        "\udc80",
        "",
    ),
)
KINDS = (*keys.NETS, *keys.MODEL_HELP, "nic", "none", "hub", "filter-dump", "l2tpv3", "")
KEYS = sorted(
    {key for kind in keys.NETS.values() for key in kind.keys} | set(keys.NIC) | {"vlan", "id", "name", "type"}
)
LIMIT = 0.5  # seconds of processor time that one parse may take


def spoil(rng: random.Random, text: str) -> str:
    """Cut, double or change a piece of ``text``."""
    if not text or rng.random() < 0.7:
        return text
    at, size = rng.randrange(len(text)), rng.randrange(1, 4)
    piece = rng.choice(
        ("", text[at : at + size] * 2, rng.choice(",=:-[]/.+0x \0"), chr(rng.randrange(0x250)))
    )
    return text[:at] + piece + text[at + size :]


def net(rng: random.Random) -> str:
    """One option's value."""
    pairs = [f"{rng.choice(KEYS)}={rng.choice(VALUES)}" for _ in range(rng.randrange(6))]
    return spoil(rng, words.join([rng.choice(KINDS), *pairs]))


def argv(rng: random.Random) -> list[str]:
    """A command line."""
    found = []
    for _ in range(rng.randrange(1, 6)):
        name = rng.choice([*keys.OPTIONS, *keys.ALIASES, *keys.OLD_OPTIONS])
        if name == "config":
            continue
        value = net(rng) if name in keys.TABLES else rng.choice(VALUES)
        found += [spoil(rng, rng.choice("- --".split()) + name), spoil(rng, value)]
    return [word for word in found if not word.lstrip("-").startswith("config")]


def document(rng: random.Random) -> bytes:
    """A TOML file."""
    lines = []
    for _ in range(rng.randrange(4)):
        quoted = rng.choice(VALUES).replace("\\", "").replace('"', "").replace("\0", "\\u0000")
        lines.append(
            f"{rng.choice(list(keys.OPTIONS))} = {rng.choice((f'{quoted!r}', '3', 'true', '[1]', '{a=1}'))}"
        )
    for _ in range(rng.randrange(4)):
        lines.append(f"[[{rng.choice(keys.TABLES)}]]\ntype = {rng.choice(KINDS)!r}")
        for key in rng.sample(KEYS, rng.randrange(4)):
            lines.append(
                f"{key} = {rng.choice((repr(rng.choice(VALUES)), '7', 'false', '[1, 2]', '{b = {c = 1}}'))}"
            )
    return spoil(rng, "\n".join(lines)).encode("utf-8", "surrogateescape")


def attempt(rng: random.Random) -> None:
    """One parse of either kind. Raises what should not be raised."""
    started = time.process_time()
    try:
        if rng.random() < 0.3:
            setup = Setup()
            for raw in toml("fuzz.toml", document(rng)):
                if raw.option != "mode":
                    apply(setup, raw)
            config(setup)
        else:
            parse(argv(rng), rng.choice(("run", "exec")))
    except OptionError as error:
        if error.status and not (str(error) and str(error).isprintable()):
            raise AssertionError(f"message {str(error)!r}") from None
    took = time.process_time() - started
    if took > LIMIT:
        raise AssertionError(f"took {took:.1f} s")


def case(seed: int, _done: runner.Done) -> None:
    """One attempt."""
    attempt(random.Random(seed))


if __name__ == "__main__":
    sys.exit(runner.main("fuzz_options", case))
