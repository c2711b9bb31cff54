"""Snapshots: helpers to write a chip's state as JSON-able data and to read it back with checks.

``restore`` of a card gets data from files and peers: every look-up here raises ValueError for what does not
fit.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any
from zlib import compress, decompressobj, error


def pack(data: bytes | bytearray) -> str:
    """Bytes as compressed base64 text."""
    return b64encode(compress(bytes(data), 1)).decode("ascii")


def number(state: Mapping[str, Any], name: str, high: int, low: int = 0) -> int:
    """``state[name]`` as an integer in ``low..high``."""
    value = state.get(name) if isinstance(state, Mapping) else None
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"snapshot: {name} = {value!r} is not a number in {low}..{high}")
    return int(value)


def flag(state: Mapping[str, Any], name: str) -> bool:
    """``state[name]`` as a truth value."""
    return bool(number(state, name, 1))


def optional(state: Mapping[str, Any], name: str, high: int) -> int | None:
    """``state[name]`` as an integer in ``0..high``, or None."""
    if isinstance(state, Mapping) and name in state and state[name] is None:
        return None
    return number(state, name, high)


def unpack(state: Mapping[str, Any], name: str, size: int | None = None, limit: int = 1 << 20) -> bytes:
    """``state[name]`` as bytes of exactly ``size``, or of up to ``limit``."""
    text = state.get(name) if isinstance(state, Mapping) else None
    if isinstance(text, str):
        try:
            inflater = decompressobj()
            data = inflater.decompress(b64decode(text, validate=True), (limit if size is None else size) + 1)
        except (ValueError, error):
            data = None
        if data is not None and (len(data) <= limit if size is None else len(data) == size):
            return data
    raise ValueError(f"snapshot: {name} is not {'up to ' + str(limit) if size is None else size} bytes")


def section(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """``state[name]`` as a mapping."""
    value = state.get(name) if isinstance(state, Mapping) else None
    if not isinstance(value, Mapping):
        raise ValueError(f"snapshot: no section {name}")
    return value


def counts(state: Mapping[str, Any], name: str) -> dict[str, int]:
    """``state[name]`` as counters by reason."""
    return {str(key): number(section(state, name), key, 1 << 63) for key in section(state, name)}
