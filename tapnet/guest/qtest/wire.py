"""QEMU's qtest line protocol, without I/O: bytes in, bytes out, register accesses on a bus in between.

    bytes ─ feed ─► lines ─ run ─► Bus.io_read, mem_write ...     (an access may call ``pin``: IRQ messages)
                                └► answers, IRQ messages ─ take ─► bytes
    clock_step, clock_set, settle ─► ``request`` ─► the owner lets time pass ─► ``resume(answer)``

A line is a command and its arguments with one space between them; every line gets exactly one answer, in order:
``OK [VALUE]``, ``FAIL REASON`` or ``ERR REASON``. Numbers are strtoul's with base 0, 64 bits. Where QEMU's
server ends in an assertion (a missing or malformed argument) ours answers FAIL and goes on. ``IRQ raise N`` and
``IRQ lower N`` come before the answer of the line whose access caused them, or between two answers.

Commands are looked up by the whole line first: what a line does is worked out once and kept (``CACHE_LINES``), since
a driver polls the same few registers. The rest of a port write is looked up without its value. A client that
waits for each answer has a short way of its own, ``only``.

Limits: ``LINE_MAX`` bytes a line, ``TRANSFER_MAX`` bytes a transfer, ``MEMSET_MAX`` bytes a memset; ``run`` works
through ``RUN_LINES`` lines or until ``RUN_BYTES`` of answers wait; beyond ``IRQ_MAX`` messages that wait to be taken
changes of a line are not told one by one, only where it stands in the end.

Ref: QEMU, docs/devel/testing/qtest ("QTest Protocol"); the answers were taken from runs of QEMU 7.2 and the
protocol's text of QEMU 10. docs/qtest.md has the table of commands.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

TRANSFER_MAX = 1 << 20
LINE_MAX = 2 * TRANSFER_MAX + 128  # a write of that many bytes in hexadecimal
MEMSET_MAX = 64 << 20
RUN_LINES = 256
RUN_BYTES = 256 << 10
IRQ_MAX = 1024
CACHE_LINES = 4096
CACHED_LINE = 40  # bytes; longer ones carry data
ECHO_MAX = 64  # bytes of an unknown command that its answer repeats

OK = b"OK\n"
_MASK64 = (1 << 64) - 1
_NUMBER = re.compile(rb"[+-]?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_SIZES = {"b": 1, "w": 2, "l": 4, "q": 8}

_SMALL = [b"OK 0x%04x\n" % value for value in range(256)]
READ_PORT, WRITE_PORT, READ_MEMORY, OTHER = range(4)

# What a line does: kind, function, its arguments. READ_PORT: (port, size, 0), WRITE_PORT: (port, size, value),
# READ_MEMORY: (address, size, 0), OTHER: (tuple, 0, 0) for a function that gives the answer.
Line = tuple[int, Callable[..., Any], Any, int, int]


class Bus(Protocol):
    """What the lines act on: ``nic_models.bus.machine.Machine``."""

    def io_read(self, port: int, size: int) -> int: ...
    def io_write(self, port: int, size: int, value: int) -> None: ...
    def io_read_block(self, port: int, size: int, count: int) -> bytes: ...
    def io_write_block(self, port: int, size: int, data: bytes) -> None: ...
    def mem_read(self, address: int, length: int) -> bytes: ...
    def mem_write(self, address: int, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Device:
    """A device whose interrupt pins can be watched or driven."""

    name: str
    inputs: int = 0  # lines that come in
    outputs: bool = False  # has a pin 0 that goes out
    drive: Callable[[int, bool], None] | None = None  # set_irq_in


@dataclass(frozen=True, slots=True)
class Request:
    """Time that a line asks for. ``step``: forward by ``ns`` (None: to the next deadline), ``set``: to ``ns``,
    ``settle``: no time, only until no frame is on its way."""

    kind: str
    ns: int | None = None


class Refused(Exception):
    """A line that is answered by FAIL; the text is the reason."""


def number(word: bytes) -> int:
    """strtoul with base 0. Raises Refused for what it would not take whole."""
    if word[:2] == b"0x" and len(word) <= 18 and word.isalnum():  # as nearly all are
        try:
            return int(word, 16)
        except ValueError:
            pass
    if not _NUMBER.fullmatch(word):
        raise Refused(f"not a number: {_show(word)}")
    digits = word.lstrip(b"+-")
    value = int(digits, 8 if digits[:1] == b"0" and digits[1:2] not in (b"x", b"X") else 0)
    if value > _MASK64:
        raise Refused(f"more than 64 bits: {_show(word)}")
    return -value & _MASK64 if word[:1] == b"-" else value


def _show(word: bytes) -> str:
    return word[:ECHO_MAX].decode("ascii", "backslashreplace")


def _ns(word: bytes) -> int:
    """A signed 64-bit count of nanoseconds."""
    value = number(word)
    if value > _MASK64 >> 1:
        if word[:1] != b"-":
            raise Refused(f"more than 63 bits: {_show(word)}")
        value -= 1 << 64
    return value


def _call(function: Callable[..., bytes], *arguments: Any) -> Line:
    return OTHER, function, arguments, 0, 0


class Interpreter:
    """One client. ``find(path)`` gives the device that a path names; ``levels(device, output)`` its pins now."""

    def __init__(
        self,
        bus: Bus,
        find: Callable[[str], Device | None],
        levels: Callable[[Device, bool], list[bool]],
    ) -> None:
        self.request: Request | None = None  # set: ``run`` stops until ``resume``
        self.overlong = False  # a line was longer than LINE_MAX: nothing more is read
        self.watched: Device | None = None
        self._refused = False  # and the client has been told
        self._bus = bus
        self._find = find
        self._levels = levels
        self._output_pins = False
        self._told: list[bool] = []  # levels as the client knows them
        self._irqs = 0  # messages in _out
        self._stale = False  # some message was left out
        self._parts: list[bytes] = []  # of the line that is not complete
        self._part_bytes = 0
        self._lines: deque[bytes] = deque()
        self._out: list[bytes] = []
        self._cache: dict[bytes, Line] = {}  # by the whole line
        self._singles: dict[bytes, Line] = {}  # with the line feed; only plain accesses
        self._heads: dict[bytes, tuple[int, int, int]] = {}  # "outw 0xc010" -> port, size, mask
        self._commands = self._table()

    # ---- bytes in and out ----------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes from the client."""
        if self.overlong:
            return
        lines = data.split(b"\n")
        last = lines.pop()
        if lines:
            if self._parts:
                self._parts.append(lines[0])
                lines[0] = b"".join(self._parts)
                self._parts.clear()
                self._part_bytes = 0
                if len(lines[0]) > LINE_MAX:
                    self.overlong = True
                    return
            self._lines.extend(lines)
        if last:
            self._parts.append(last)
            self._part_bytes += len(last)
            self.overlong = self._part_bytes > LINE_MAX

    def only(self, data: bytes) -> bytes | None:
        """What is to be sent for ``data``, if that is one whole line as it has come before, and a plain access;
        None: ``feed`` it. The round trip of a polling driver.
        """
        made = self._singles.get(data)
        if made is None:
            self._learn(data)
            return None
        if self._parts or self._lines or self._out:
            return None
        kind, function, a, b, c = made
        if kind == READ_PORT:
            value = function(a, b)
            answer = _SMALL[value] if value < 256 else b"OK 0x%04x\n" % value
        elif kind == WRITE_PORT:
            function(a, b, c)
            answer = OK
        else:
            answer = b"OK 0x%016x\n" % int.from_bytes(function(a, b), "little")
        if self._out:  # interrupt messages
            self._out.append(answer)
            return self.take()
        return answer

    def _learn(self, data: bytes) -> None:
        made = self._cache.get(data[:-1])
        if made is not None and made[0] != OTHER and data[-1:] == b"\n":
            if len(self._singles) >= CACHE_LINES:
                self._singles.clear()
            self._singles[data] = made

    @property
    def more(self) -> bool:
        """Whether complete lines wait."""
        return bool(self._lines)

    def run(self) -> None:
        """Work through lines; stops at a ``request``."""
        lines = self._lines
        out = self._out
        prepared = self._cache.get
        small, number_of = _SMALL, int.from_bytes
        size = 0
        if self.request is not None:
            return
        for _ in range(min(len(lines), RUN_LINES)):
            line = lines.popleft()
            kind, function, a, b, c = prepared(line) or self._prepare(line)
            if kind == READ_PORT:
                value = function(a, b)
                out.append(small[value] if value < 256 else b"OK 0x%04x\n" % value)
            elif kind == WRITE_PORT:
                function(a, b, c)
                out.append(OK)
            elif kind == READ_MEMORY:
                out.append(b"OK 0x%016x\n" % number_of(function(a, b), "little"))
            else:
                answer = function(*a)
                out.append(answer)
                size += len(answer)
                if size > RUN_BYTES or self.request is not None:
                    return
        if self.overlong and not self._refused and not lines and self.request is None:
            self._refused = True
            out.append(b"FAIL line longer than %d bytes\n" % LINE_MAX)

    def resume(self, answer: bytes) -> None:
        """``request`` has been done."""
        self.request = None
        self._out.append(answer)

    def take(self) -> bytes:
        """What is to be sent now."""
        if self._stale:
            self._stale = False
            self._irqs = 0
            if self.watched is not None:
                for pin, level in enumerate(self._levels(self.watched, self._output_pins)):
                    self.pin(self.watched, self._output_pins, pin, level)
        self._irqs = 0
        data = b"".join(self._out)
        self._out.clear()
        return data

    # ---- interrupt lines -----------------------------------------------------------------------------------

    def pin(self, device: Device, output: bool, pin: int, level: bool) -> bool:
        """A pin's level, whether it has changed or not. Gives whether there is a message to take."""
        if device is not self.watched or output != self._output_pins or self._told[pin] == level:
            return False
        if self._irqs >= IRQ_MAX:
            self._stale = True
            return False
        self._irqs += 1
        self._told[pin] = level
        self._out.append(b"IRQ %s %d\n" % (b"raise" if level else b"lower", pin))
        return True

    def _intercept(self, path: str, output: bool, named: bool) -> bytes:
        device = self._find(path)
        if device is None:
            return b"FAIL Unknown device\n"
        if named and not output:
            return b"FAIL Interception of named in-GPIOs not yet supported\n"
        if self.watched is not None:
            return OK if self.watched is device else b"FAIL IRQ intercept already enabled\n"
        if named or not (device.outputs if output else device.inputs):
            return b"FAIL No intercepts installed\n"
        self.watched = device
        self._output_pins = output
        self._told = [False] * (1 if output else device.inputs)  # only changes are told, as QEMU does
        return OK

    def _set_irq_in(self, path: str, pins: bytes, pin: int, level: int) -> bytes:
        device = self._find(path)
        if device is None:
            return b"FAIL Unknown device\n"
        if device.drive is None or pins != b"unnamed-gpio-in" or pin >= device.inputs:
            return b"FAIL No such pin\n"
        device.drive(pin, bool(level))
        return OK

    # ---- lines ---------------------------------------------------------------------------------------------

    def _prepare(self, line: bytes) -> Line:
        """What a line does; kept where the line is short."""
        head, _, tail = line.rpartition(b" ")
        known = self._heads.get(head)
        made: Line
        if known is not None:
            try:
                made = WRITE_PORT, self._bus.io_write, known[0], known[1], number(tail) & known[2]
            except Refused:
                made = self._parse(line)
        else:
            made = self._parse(line)
            if made[0] == WRITE_PORT and line.count(b" ") == 2:
                if len(self._heads) >= CACHE_LINES:
                    self._heads.clear()
                self._heads[head] = made[2], made[3], (1 << 8 * made[3]) - 1
        if len(line) <= CACHED_LINE:
            if len(self._cache) >= CACHE_LINES:
                self._cache.clear()
            self._cache[line] = made
        return made

    def _parse(self, line: bytes) -> Line:
        name, *words = line.rstrip(b"\r").split(b" ")
        command = self._commands.get(name)
        if command is None:
            return _call(bytes, b"FAIL Unknown command '%s'\n" % name[:ECHO_MAX])
        parse, arguments = command
        try:
            if len(words) < len(arguments):
                raise Refused(f"{' '.join(arguments)} expected")
            return parse(words)
        except Refused as error:
            return _call(bytes, b"FAIL %s: %s\n" % (name, str(error).encode()))

    def _table(self) -> dict[bytes, tuple[Callable[[list[bytes]], Line], tuple[str, ...]]]:
        """Command -> its parser and the arguments that it must have."""
        table: dict[str, tuple[Callable[[list[bytes]], Line], tuple[str, ...]]] = {
            "read": (lambda w: _call(self._hex_read, *self._range(w)), ("ADDR", "SIZE")),
            "b64read": (lambda w: _call(self._b64_read, *self._range(w, 0)), ("ADDR", "SIZE")),
            "write": (self._write, ("ADDR", "SIZE", "DATA")),
            "b64write": (self._b64_write, ("ADDR", "SIZE", "DATA")),
            "memset": (self._memset, ("ADDR", "SIZE", "VALUE")),
            "irq_intercept_in": (
                lambda w: _call(self._intercept, _show(w[0]), False, len(w) > 1),
                ("PATH",),
            ),
            "irq_intercept_out": (
                lambda w: _call(self._intercept, _show(w[0]), True, len(w) > 1),
                ("PATH",),
            ),
            "set_irq_in": (
                lambda w: _call(self._set_irq_in, _show(w[0]), w[1], number(w[2]), number(w[3])),
                ("PATH", "NAME", "NUM", "LEVEL"),
            ),
            "clock_step": (lambda w: _call(self._ask, Request("step", _ns(w[0]) if w else None)), ()),
            "clock_set": (lambda w: _call(self._ask, Request("set", _ns(w[0]))), ("NS",)),
            "settle": (lambda _: _call(self._ask, Request("settle")), ()),
            "endianness": (lambda _: _call(bytes, b"OK little\n"), ()),
            "module_load": (lambda _: _call(bytes, b"FAIL\n"), ("PREFIX", "NAME")),
        }
        for letter, size in _SIZES.items():
            if size < 8:
                table[f"in{letter}"] = (self._sized(self._parse_in, size), ("ADDR",))
                table[f"out{letter}"] = (self._sized(self._parse_out, size), ("ADDR", "VALUE"))
                table[f"ins{letter}"] = (self._sized(self._parse_ins, size), ("ADDR", "COUNT"))
                table[f"outs{letter}"] = (self._sized(self._parse_outs, size), ("ADDR", "COUNT", "DATA"))
            table[f"read{letter}"] = (self._sized(self._parse_read, size), ("ADDR",))
            table[f"write{letter}"] = (self._sized(self._parse_write, size), ("ADDR", "VALUE"))
        return {name.encode(): command for name, command in table.items()}

    @staticmethod
    def _sized(parse: Callable[[list[bytes], int], Line], size: int) -> Callable[[list[bytes]], Line]:
        return lambda words: parse(words, size)

    def _ask(self, request: Request) -> bytes:
        self.request = request
        return b""

    # ---- ports ---------------------------------------------------------------------------------------------

    @staticmethod
    def _port(word: bytes) -> int:
        port = number(word)
        if port > 0xFFFF:
            raise Refused(f"port beyond 0xffff: {_show(word)}")
        return port

    def _parse_in(self, words: list[bytes], size: int) -> Line:
        return READ_PORT, self._bus.io_read, self._port(words[0]), size, 0

    def _parse_out(self, words: list[bytes], size: int) -> Line:
        return (
            WRITE_PORT,
            self._bus.io_write,
            self._port(words[0]),
            size,
            number(words[1]) & (1 << 8 * size) - 1,
        )

    def _parse_ins(self, words: list[bytes], size: int) -> Line:
        return _call(self._ins, self._port(words[0]), size, self._count(words[1], size))

    def _ins(self, port: int, size: int, count: int) -> bytes:
        return b"OK 0x%s\n" % self._bus.io_read_block(port, size, count).hex().encode()

    def _parse_outs(self, words: list[bytes], size: int) -> Line:
        length = self._count(words[1], size) * size
        data = _hex(words[2])
        if len(data) != length:
            raise Refused(f"{len(data)} bytes of DATA for {length}")
        return _call(self._outs, self._port(words[0]), size, data)

    def _outs(self, port: int, size: int, data: bytes) -> bytes:
        self._bus.io_write_block(port, size, data)
        return OK

    @staticmethod
    def _count(word: bytes, size: int) -> int:
        count = number(word)
        if not 0 < count * size <= TRANSFER_MAX:
            raise Refused(f"transfers are 1 to {TRANSFER_MAX} bytes")
        return count

    # ---- memory --------------------------------------------------------------------------------------------

    @staticmethod
    def _range(words: list[bytes], least: int = 1) -> tuple[int, int]:
        address, length = number(words[0]), number(words[1])
        if not least <= length <= TRANSFER_MAX:
            raise Refused(f"transfers are {least} to {TRANSFER_MAX} bytes")
        return address, length

    def _parse_read(self, words: list[bytes], size: int) -> Line:
        return READ_MEMORY, self._bus.mem_read, number(words[0]), size, 0

    def _parse_write(self, words: list[bytes], size: int) -> Line:
        value = number(words[1]) & (1 << 8 * size) - 1
        return _call(self._store, number(words[0]), value.to_bytes(size, "little"))

    def _store(self, address: int, data: bytes) -> bytes:
        self._bus.mem_write(address, data)
        return OK

    def _hex_read(self, address: int, length: int) -> bytes:
        return b"OK 0x%s\n" % self._bus.mem_read(address, length).hex().encode()

    def _b64_read(self, address: int, length: int) -> bytes:
        return b"OK %s\n" % base64.b64encode(self._bus.mem_read(address, length))

    def _write(self, words: list[bytes]) -> Line:
        address, length = self._range(words, 0)
        if len(words[2]) < 3:
            return _call(bytes, b"ERR invalid argument size\n")
        return _call(self._store, address, _hex(words[2])[:length].ljust(length, b"\0"))

    def _b64_write(self, words: list[bytes]) -> Line:
        address, length = self._range(words, 0)
        if len(words[2]) < 3:
            return _call(bytes, b"ERR invalid argument size\n")
        try:
            data = base64.b64decode(words[2], validate=True)
        except (binascii.Error, ValueError):
            raise Refused("DATA is not base64") from None
        return _call(self._store, address, data[:length])

    def _memset(self, words: list[bytes]) -> Line:
        address, length, value = (number(word) for word in words[:3])
        if length > MEMSET_MAX:
            raise Refused(f"SIZE is at most {MEMSET_MAX}")
        return _call(self._fill, address, length, value & 0xFF)

    def _fill(self, address: int, length: int, value: int) -> bytes:
        piece = bytes((value,)) * min(length, TRANSFER_MAX)
        for done in range(0, length, TRANSFER_MAX):
            self._bus.mem_write(address + done, piece[: length - done])
        return OK


def _hex(word: bytes) -> bytes:
    """DATA: 0x and pairs of digits."""
    if word[:2] not in (b"0x", b"0X"):
        raise Refused("DATA begins with 0x")
    try:
        return binascii.unhexlify(word[2:])
    except binascii.Error:
        raise Refused("DATA is pairs of hexadecimal digits") from None
