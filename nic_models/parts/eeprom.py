"""93C46 serial EEPROM, 64 words of 16 bits, driven bit by bit over CS, SK, DI and DO.

A start bit (DI=1 at a rising SK) and eight bits follow a rising CS: two of opcode, six of address.
READ shifts out a dummy 0 and the word, most significant bit first, and goes on with the next word as long as
it is clocked. WRITE, ERASE, WRAL and ERAL need EWEN first and take effect when CS falls; DO then reads ready
(1).

Ref: National Semiconductor / Microchip 93C46 data sheet (instruction set, 16-bit organisation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..snapshot import number

WORDS = 64
_IDLE, _COMMAND, _READ, _WRITE, _DONE = range(5)
_EXTENDED, _OP_WRITE, _OP_READ, _OP_ERASE = range(4)


class Eeprom93C46:
    """``words``: the content, up to 64 numbers; the rest is 0xffff (erased)."""

    __slots__ = (
        "_address",
        "_bits",
        "_command",
        "_count",
        "_shift",
        "_state",
        "cs",
        "do",
        "sk",
        "words",
        "writable",
    )

    def __init__(self, words: Sequence[int] = ()) -> None:
        self.words = (list(words) + [0xFFFF] * WORDS)[:WORDS]
        self.writable = False
        self.cs = self.sk = 0
        self.do = 1
        self._state = _IDLE
        self._bits = self._count = self._address = self._shift = self._command = 0

    def drive(self, cs: int, sk: int, di: int) -> int:
        """Set the three inputs (0 or 1); the level of DO."""
        if cs and not self.cs:
            self._state = _IDLE
            self.do = 1
        elif not cs and self.cs:
            self._finish()
            self.do = 1
        if cs and sk and not self.sk:
            self._clock(di)
        self.cs = cs
        self.sk = sk
        return self.do

    def _clock(self, di: int) -> None:
        if self._state == _IDLE:
            if di:
                self._state, self._bits, self._count = _COMMAND, 0, 0
        elif self._state == _COMMAND:
            self._bits = self._bits << 1 | di
            self._count += 1
            if self._count == 8:
                self._decode()
        elif self._state == _READ:
            self.do = self._shift >> 15 & 1
            self._shift = self._shift << 1 & 0xFFFF
            self._count += 1
            if self._count == 16:
                self._address = (self._address + 1) % WORDS
                self._shift, self._count = self.words[self._address], 0
        elif self._state == _WRITE:
            self._shift = (self._shift << 1 | di) & 0xFFFF
            self._count += 1
            if self._count == 16:
                self._state = _DONE

    def _decode(self) -> None:
        self._command, self._address = self._bits >> 6, self._bits & 0x3F
        self._count = self._shift = 0
        self._state = _DONE
        if self._command == _OP_READ:
            self._state, self._shift, self.do = _READ, self.words[self._address], 0
        elif self._command == _OP_WRITE:
            self._state = _WRITE
        elif self._command == _EXTENDED:
            kind = self._address >> 4
            if kind == 1:  # WRAL
                self._state = _WRITE
            elif kind in (0, 3):  # EWDS, EWEN
                self.writable = kind == 3

    def _finish(self) -> None:
        """CS fell: a complete write or erase happens now."""
        if self._state == _DONE and self.writable:
            kind = self._address >> 4
            if self._command == _OP_WRITE:
                self.words[self._address] = self._shift
            elif self._command == _OP_ERASE:
                self.words[self._address] = 0xFFFF
            elif self._command == _EXTENDED and kind == 1:
                self.words = [self._shift] * WORDS
            elif self._command == _EXTENDED and kind == 2:  # ERAL
                self.words = [0xFFFF] * WORDS
        self._state = _IDLE

    def snapshot(self) -> dict[str, Any]:
        """State as JSON-able data."""
        return {name.lstrip("_"): getattr(self, name) for name in self.__slots__ if name != "words"} | {
            "writable": int(self.writable),
            "words": list(self.words),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``snapshot()``'s data."""
        words = state.get("words") if isinstance(state, Mapping) else None
        if not isinstance(words, list) or len(words) != WORDS:
            raise ValueError("snapshot: EEPROM is not 64 words")
        limits = {"cs": 1, "sk": 1, "do": 1, "_state": 4, "_bits": 255, "_count": 16, "_address": 63}
        limits |= {"_shift": 0xFFFF, "_command": 3, "writable": 1}
        values = {name: number(state, name.lstrip("_"), limit) for name, limit in limits.items()}
        words = [number({"word": word}, "word", 0xFFFF) for word in words]
        for name, value in values.items():
            setattr(self, name, value)
        self.writable = bool(values["writable"])
        self.words = words
