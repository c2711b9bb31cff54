"""The qtest line protocol, without I/O: one table of lines drives the interpreter whole, byte by byte and in pieces."""

from __future__ import annotations

import ctypes
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapnet.guest.qtest import wire as w
from tapnet.guest.qtest.wire import Device, Interpreter, Refused, Request, number

PINS = 16


class Bus:
    """64 KiB of RAM; ports that note what happens; port 0x300 raises line 5, port 0x301 lowers it."""

    def __init__(self):
        self.ram = bytearray(0x10000)
        self.log = []
        self.levels = [False] * PINS
        self.interpreter = None
        self.lines = Device("lines", inputs=PINS, drive=self.set)
        self.card = Device("card", outputs=True)

    def set(self, pin, level):
        self.levels[pin] = level
        self.interpreter.pin(self.lines, False, pin, level)
        self.interpreter.pin(self.card, True, 0, level)

    def io_read(self, port, size):
        self.log.append(("in", port, size))
        return 0x11223344 >> 8 * (4 - size)

    def io_write(self, port, size, value):
        self.log.append(("out", port, size, value))
        if port in (0x300, 0x301):
            self.set(5, port == 0x300)

    def io_read_block(self, port, size, count):
        self.log.append(("ins", port, size, count))
        return bytes(n & 0xFF for n in range(size * count))

    def io_write_block(self, port, size, data):
        self.log.append(("outs", port, size, data))

    def mem_read(self, address, length):
        return bytes(self.ram[address : address + length]).ljust(length, b"\xff")

    def mem_write(self, address, data):
        if address < len(self.ram):
            self.ram[address : address + len(data)] = data

    def find(self, path):
        return {"lines": self.lines, "card": self.card}.get(path)

    def pins(self, device, output):
        return [self.levels[5]] if output else list(self.levels)


def fresh():
    bus = Bus()
    bus.interpreter = Interpreter(bus, bus.find, bus.pins)
    return bus, bus.interpreter


def answers(interpreter):
    out = b""
    for _ in range(10_000):
        interpreter.run()
        out += interpreter.take()
        if not interpreter.more or interpreter.request is not None:
            return out
    raise AssertionError("lines that do not end")


def ask(line):
    _, interpreter = fresh()
    interpreter.feed(line.encode() + b"\n")
    return answers(interpreter).decode().removesuffix("\n")


TABLE = [  # line, answer
    ("inb 0x300", "OK 0x0011"),
    ("inw 0x300", "OK 0x1122"),
    ("inl 0x300", "OK 0x11223344"),
    ("inb 768", "OK 0x0011"),
    ("inb 01400", "OK 0x0011"),
    ("inb 0x300\r", "OK 0x0011"),
    ("inb 0x300 and more", "OK 0x0011"),
    ("outb 0x80 0x1ff", "OK"),
    ("outl 0x80 -1", "OK"),
    ("readb 0x100", "OK 0x0000000000000000"),
    ("readq 0xfffe", "OK 0xffffffffffff0000"),
    ("writeq 0x100 0xfedcba9876543210", "OK"),
    ("read 0x100 0x4", "OK 0x00000000"),
    ("b64read 0x100 0x4", "OK AAAAAA=="),
    ("b64read 0x100 0x0", "OK "),
    ("write 0x100 0x4 0x01", "OK"),
    ("write 0x100 0x0 0x", "ERR invalid argument size"),
    ("b64write 0x100 0x4 ==", "ERR invalid argument size"),
    ("b64write 0x100 0x3 AAEC", "OK"),
    ("memset 0x100 0x10 0xaa", "OK"),
    ("memset 0x100 0 0", "OK"),
    ("insw 0x10 3", "OK 0x000102030405"),
    ("insl 0x10 1", "OK 0x00010203"),
    ("outsw 0x10 2 0x01020304", "OK"),
    ("endianness", "OK little"),
    ("module_load hw- x", "FAIL"),
    ("rtas 1", "FAIL Unknown command 'rtas'"),
    ("", "FAIL Unknown command ''"),
    (" inb 0x300", "FAIL Unknown command ''"),
    ("inb", "FAIL inb: ADDR expected"),
    ("inb  0x300", "FAIL inb: not a number: "),
    ("inb zz", "FAIL inb: not a number: zz"),
    ("inb 0x", "FAIL inb: not a number: 0x"),
    ("inb 08", "FAIL inb: not a number: 08"),
    ("inb 1_0", "FAIL inb: not a number: 1_0"),
    ("inb 0b1", "FAIL inb: not a number: 0b1"),
    ("inb --1", "FAIL inb: not a number: --1"),
    ("inb 0x10000", "FAIL inb: port beyond 0xffff: 0x10000"),
    ("inb -1", "FAIL inb: port beyond 0xffff: -1"),
    ("outb 0x80", "FAIL outb: ADDR VALUE expected"),
    ("readb 0x10000000000000000", "FAIL readb: more than 64 bits: 0x10000000000000000"),
    ("read 0x100 0", "FAIL read: transfers are 1 to 1048576 bytes"),
    ("read 0x100 0x100001", "FAIL read: transfers are 1 to 1048576 bytes"),
    ("write 0x100 0x100001 0x00", "FAIL write: transfers are 0 to 1048576 bytes"),
    ("write 0x100 4 0102", "FAIL write: DATA begins with 0x"),
    ("write 0x100 4 0x123", "FAIL write: DATA is pairs of hexadecimal digits"),
    ("write 0x100 4 0x12g4", "FAIL write: DATA is pairs of hexadecimal digits"),
    ("b64write 0x100 4 !!!!", "FAIL b64write: DATA is not base64"),
    ("memset 0 0x4000001 0", "FAIL memset: SIZE is at most 67108864"),
    ("insl 0x10 0", "FAIL insl: transfers are 1 to 1048576 bytes"),
    ("insl 0x10 0x40001", "FAIL insl: transfers are 1 to 1048576 bytes"),
    ("outsw 0x10 2 0x010203", "FAIL outsw: 3 bytes of DATA for 4"),
    ("clock_set", "FAIL clock_set: NS expected"),
    ("clock_step 0x8000000000000000", "FAIL clock_step: more than 63 bits: 0x8000000000000000"),
    ("irq_intercept_in x", "FAIL Unknown device"),
    ("irq_intercept_in card", "FAIL No intercepts installed"),
    ("irq_intercept_in lines pins", "FAIL Interception of named in-GPIOs not yet supported"),
    ("irq_intercept_out card pins", "FAIL No intercepts installed"),
    ("irq_intercept_out card", "OK"),
    ("set_irq_in x unnamed-gpio-in 1 1", "FAIL Unknown device"),
    ("set_irq_in lines other 1 1", "FAIL No such pin"),
    ("set_irq_in lines unnamed-gpio-in 16 1", "FAIL No such pin"),
    ("set_irq_in card unnamed-gpio-in 0 1", "FAIL No such pin"),
    ("set_irq_in lines unnamed-gpio-in 1 1", "OK"),
]


@pytest.mark.parametrize(("line", "answer"), TABLE, ids=[line for line, _ in TABLE])
def test_answers(line, answer):
    assert ask(line) == answer


SCRIPT = "".join(line + "\n" for line, _ in TABLE).encode()


def whole():
    _, interpreter = fresh()
    interpreter.feed(SCRIPT)
    return answers(interpreter)


@given(st.lists(st.integers(1, len(SCRIPT) - 1), max_size=40))
def test_pieces_make_no_difference(cuts):
    _, interpreter = fresh()
    out = b""
    for start, end in pairwise([0, *sorted(cuts), len(SCRIPT)]):
        interpreter.feed(SCRIPT[start:end])
        out += answers(interpreter)
    assert out == whole()


def test_byte_by_byte():
    _, interpreter = fresh()
    out = b""
    for n in range(len(SCRIPT)):
        interpreter.feed(SCRIPT[n : n + 1])
        out += answers(interpreter)
    assert out == whole()
    assert len([line for line in out.splitlines() if not line.startswith(b"IRQ ")]) == len(TABLE)


strtoull = ctypes.CDLL(None).strtoull
strtoull.restype = ctypes.c_uint64
strtoull.argtypes = (ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_int)


@given(st.from_regex(rb"[+-]?(0[xX]?)?[0-9a-fA-F_bo]{0,18}", fullmatch=True))
def test_numbers_are_those_of_the_c_library(word):
    end = ctypes.c_char_p()
    ctypes.set_errno(0)
    expected = strtoull(word, ctypes.byref(end), 0)
    whole = end.value == b"" and word.strip(b"+-") != b""
    try:
        value = number(word)
    except Refused as error:
        assert not whole or "64 bits" in str(error)
    else:
        assert whole and value == expected


def test_memory_is_little_endian_and_padded():
    bus, interpreter = fresh()
    interpreter.feed(
        b"writel 0x10 0x11223344\nwrite 0x20 0x4 0xaabb\nwrite 0x30 0x1 0xaabbcc\nb64write 0x40 0x2 AQID\n"
    )
    assert answers(interpreter) == b"OK\n" * 4
    assert bus.ram[0x10:0x14] == b"\x44\x33\x22\x11"
    assert bus.ram[0x20:0x25] == b"\xaa\xbb\0\0\0"
    assert bus.ram[0x30:0x32] == b"\xaa\0"
    assert bus.ram[0x40:0x43] == b"\x01\x02\0"


def test_memset_in_pieces():
    bus, interpreter = fresh()
    bus.ram = bytearray(3 * w.TRANSFER_MAX)
    interpreter.feed(b"memset 0x10 0x280000 0x1a5\n")
    assert answers(interpreter) == b"OK\n"
    assert bus.ram.count(0xA5) == 0x280000
    assert bus.ram[0x10] == bus.ram[0x28000F] == 0xA5
    assert bus.ram[0xF] == bus.ram[0x280010] == 0


def test_values_are_cut_to_their_size():
    bus, interpreter = fresh()
    interpreter.feed(b"outb 0x80 0x1ff\noutw 0x80 -1\noutl 0x80 0x123456789\n")
    answers(interpreter)
    assert bus.log == [("out", 0x80, 1, 0xFF), ("out", 0x80, 2, 0xFFFF), ("out", 0x80, 4, 0x23456789)]


def test_block_transfers_are_one_call():
    bus, interpreter = fresh()
    interpreter.feed(b"insw 0x310 750\noutsl 0x310 2 0x0102030405060708\n")
    answers(interpreter)
    assert bus.log == [("ins", 0x310, 2, 750), ("outs", 0x310, 4, bytes(range(1, 9)))]


# ---- interrupts --------------------------------------------------------------------------------------------


def intercepting(path="lines", command="irq_intercept_in"):
    bus, interpreter = fresh()
    interpreter.feed(f"{command} {path}\n".encode())
    assert answers(interpreter) == b"OK\n"
    return bus, interpreter


def test_messages_come_before_the_answer_of_the_line_that_caused_them():
    _, interpreter = intercepting()
    interpreter.feed(b"outb 0x300 1\noutb 0x300 1\noutb 0x301 1\n")
    assert answers(interpreter) == b"IRQ raise 5\nOK\nOK\nIRQ lower 5\nOK\n"


def test_no_messages_without_interception():
    _, interpreter = fresh()
    interpreter.feed(b"outb 0x300 1\n")
    assert answers(interpreter) == b"OK\n"


def test_only_changes_since_interception_are_told():
    bus, interpreter = fresh()
    bus.levels[5] = True
    interpreter.feed(b"irq_intercept_in lines\noutb 0x301 1\n")
    assert answers(interpreter) == b"OK\nOK\n"  # as QEMU: it is taken to be low


def test_a_cards_pin():
    _, interpreter = intercepting("card", "irq_intercept_out")
    interpreter.feed(b"outb 0x300 1\n")
    assert answers(interpreter) == b"IRQ raise 0\nOK\n"


def test_one_interception():
    _, interpreter = intercepting()
    interpreter.feed(b"irq_intercept_in lines\nirq_intercept_out lines\nirq_intercept_out card\n")
    assert answers(interpreter) == b"OK\nOK\nFAIL IRQ intercept already enabled\n"


def test_messages_that_nobody_takes_are_bounded_and_the_last_level_is_told():
    bus, interpreter = intercepting()
    for n in range(3 * w.IRQ_MAX + 1):
        bus.set(7, n % 2 == 0)
    text = interpreter.take()
    assert text.count(b"\n") == w.IRQ_MAX + 1
    assert text.endswith(b"IRQ raise 7\n")
    bus.set(7, False)
    assert interpreter.take() == b"IRQ lower 7\n"


# ---- time --------------------------------------------------------------------------------------------------

TIMES = [
    ("clock_step", Request("step")),
    ("clock_step 100", Request("step", 100)),
    ("clock_step -1", Request("step", -1)),
    ("clock_set 0x10", Request("set", 16)),
    ("settle", Request("settle")),
]


@pytest.mark.parametrize(("line", "request_"), TIMES, ids=[line for line, _ in TIMES])
def test_time_is_asked_for_and_lines_behind_it_wait(line, request_):
    bus, interpreter = fresh()
    interpreter.feed(f"inb 1\n{line}\ninb 2\n".encode())
    assert answers(interpreter) == b"OK 0x0011\n"
    assert interpreter.request == request_
    assert answers(interpreter) == b""
    assert [entry[1] for entry in bus.log] == [1]
    interpreter.resume(b"OK 123\n")
    assert answers(interpreter) == b"OK 123\nOK 0x0011\n"


# ---- bounds ------------------------------------------------------------------------------------------------


def test_a_run_is_bounded_by_lines():
    _, interpreter = fresh()
    interpreter.feed(b"inb 1\n" * (w.RUN_LINES + 1))
    interpreter.run()
    assert interpreter.take().count(b"\n") == w.RUN_LINES
    assert interpreter.more


def test_a_run_is_bounded_by_bytes():
    _, interpreter = fresh()
    interpreter.feed(b"read 0 0x100000\n" * 10)
    interpreter.run()
    assert len(interpreter.take()) <= w.RUN_BYTES + 2 * w.TRANSFER_MAX + 16
    assert interpreter.more


def test_the_longest_write_passes():
    bus, interpreter = fresh()
    bus.ram = bytearray(w.TRANSFER_MAX)
    line = b"write 0x0 %d 0x%s\n" % (w.TRANSFER_MAX, b"5a" * w.TRANSFER_MAX)
    for start in range(0, len(line), 65536):
        interpreter.feed(line[start : start + 65536])
    assert answers(interpreter) == b"OK\n"
    assert bus.ram.count(0x5A) == w.TRANSFER_MAX


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_longer_line_is_refused_once_and_nothing_after_it_is_read(end):
    bus, interpreter = fresh()
    interpreter.feed(b"inb 1\n")
    for _ in range(w.LINE_MAX // 65536 + 1):
        interpreter.feed(b"x" * 65536)
    interpreter.feed(end)
    assert interpreter.overlong
    assert answers(interpreter) == b"OK 0x0011\nFAIL line longer than 2097280 bytes\n"
    interpreter.feed(b"\ninb 1\n")
    assert answers(interpreter) == b""
    assert len(bus.log) == 1


def test_what_is_kept_of_lines_is_bounded():
    _, interpreter = fresh()
    for n in range(3 * w.CACHE_LINES):
        interpreter.feed(b"inb %d\n" % (n & 0xFFFF))
        interpreter.run()
        interpreter.take()
    assert len(interpreter._cache) <= w.CACHE_LINES
    interpreter.feed(b"write 0 0x20 0x%s\n" % (b"00" * 0x20))
    interpreter.run()
    assert not any(line.startswith(b"write") for line in interpreter._cache)


@given(st.lists(st.binary(max_size=60)))
def test_garbage_is_answered_line_by_line(chunks):
    _, interpreter = fresh()
    data = b"".join(chunks)
    out = b""
    for chunk in chunks:
        interpreter.feed(chunk)
        out += answers(interpreter)
    if not any(word in data for word in (b"clock", b"settle", b"irq_intercept")):
        assert out.count(b"\n") == data.count(b"\n")


def test_the_docs_name_every_command_and_no_other():
    page = (Path(__file__).parents[4] / "docs" / "qtest.md").read_text()
    cells = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    named = {span.split()[0] for cell in cells for span in re.findall(r"`([a-z0-9_]+(?: [A-Z].*?)?)`", cell)}
    _, interpreter = fresh()
    commands = {name.decode() for name in interpreter._commands}
    assert commands <= named
    assert {
        name for name in named - commands if name not in ("ioapic", "isa", "inb", "outw", "insw")
    } == set()
