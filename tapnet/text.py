"""Text for people: on one line, quoted and shortened, and the word that somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable


def printable(text: str) -> str:
    """``text`` on one line, whatever is in it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def shown(value: object, limit: int = 60) -> str:
    """``value`` for a message: quoted, on one line, shortened."""
    text = printable(str(value))
    return f'"{text if len(text) <= limit else text[: limit - 3] + "..."}"'


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """' (did you mean "x"?)', or ''."""
    words = list(known)
    import difflib  # here: only a mistake needs it

    found = difflib.get_close_matches(word[:40].lower(), words, 1, cutoff)
    if not found and len(word) >= 3:
        found = [w for w in words if w.startswith(word)][:1]
    return f' (did you mean "{found[0]}"?)' if found else ""
