"""The words of ``impair=`` and of the monitor's ``impair``: what a member's cable does to frames.

    [in|out] delay=TIME jitter=TIME loss=P | loss=P:R[:H[:K]] dup=P reorder=P corrupt=P rate=RATE mtu=N limit=N seed=N

``in`` is from the member into its VLAN, ``out`` from the VLAN to the member; neither: both. Between the words "+" (in an
option) or blanks. TIME is a number with us, ms or s (bare: ms); P a number of percent, "%" may follow; RATE bits per second
with k, m or g (bit, bps may follow).

loss=P:R:H:K is Gilbert and Elliott's model: P from good to bad, R from bad to good, H lost while bad (100 %), K lost while
good (0 %). Ref: E. N. Gilbert, Capacity of a Burst-Noise Channel, BSTJ 39 (1960); E. O. Elliott, BSTJ 42 (1963);
tc-netem(8) for the words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..config import Effects, Impairment, Loss
from ..text import nearest, printable, shown
from . import converters as words

DELAY_MAX = 60.0  # seconds
RATE_MIN, RATE_MAX = 1000, 100 * 10**9
LIMIT_MAX = 100_000
_UNITS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "": 1_000_000}
_RATES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,9})?)"


def time(value: str) -> int:
    """Nanoseconds."""
    match = re.fullmatch(_NUMBER + r"(us|ms|s|)", value)
    if not match:
        raise ValueError("not a time (a number with us, ms or s)")
    found = round(float(match[1]) * _UNITS[match[2]])
    if found > DELAY_MAX * 1e9:
        raise ValueError(f"more than {DELAY_MAX:.0f} s")
    return found


def share(value: str) -> float:
    """0 to 1, of percent."""
    match = re.fullmatch(_NUMBER + r"%?", value)
    if not match or float(match[1]) > 100:
        raise ValueError("not 0..100 percent")
    return float(match[1]) / 100


def loss(value: str) -> Loss:
    """One number: each frame for itself; two to four: Gilbert-Elliott."""
    parts = value.split(":")
    if len(parts) > 4:
        raise ValueError("not P or P:R[:H[:K]]")
    given = [share(part) for part in parts]
    if len(given) == 1:
        return Loss(given[0])
    return Loss(*given)


def rate(value: str) -> int:
    """Bits per second."""
    match = re.fullmatch(_NUMBER + r"([kmg]?)(?:bit|bps)?(?:/s)?", value.lower())
    found = round(float(match[1]) * _RATES[match[2]]) if match else 0
    if not RATE_MIN <= found <= RATE_MAX:
        raise ValueError("not a rate of 1k to 100g bits per second (as 10mbit)")
    return found


CONVERT = {
    "delay": time,
    "jitter": time,
    "loss": loss,
    "dup": share,
    "reorder": share,
    "corrupt": share,
    "rate": rate,
    "mtu": words.number(68, 65520),
    "limit": words.number(1, LIMIT_MAX),
    "seed": words.number(0, 2**63 - 1),
}


def parse(parts: Sequence[str]) -> Impairment:
    """The words. Raises ValueError."""
    found: dict[str, object] = {}
    direction = None
    for part in parts:
        if part in ("in", "out"):
            if direction is not None:
                raise ValueError("names a direction twice (without one it is both)")
            direction = part
            continue
        key, equals, content = part.partition("=")
        if key not in CONVERT:
            near = nearest(key, CONVERT) or f" (known: in out {' '.join(CONVERT)})"
            raise ValueError(f"unknown word {shown(part)}{near}")
        if key in found:
            raise ValueError(f"names {key} twice")
        if not equals or not content:
            raise ValueError(f"{key} needs a value")
        try:
            found[key] = CONVERT[key](content)
        except ValueError as error:
            raise ValueError(f"{key}={printable(content)[:40]}: {error}") from None
    seed = found.pop("seed", None)
    if not found:
        raise ValueError("names no effect")
    if "reorder" in found and not found.get("delay"):
        raise ValueError("reorder needs delay: a frame overtakes those that are delayed")
    effects = Effects(**found)  # type: ignore[arg-type]
    return Impairment(
        inbound=effects if direction != "out" else None,
        outbound=effects if direction != "in" else None,
        seed=seed,  # type: ignore[arg-type]
    )
